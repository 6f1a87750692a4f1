"""The extensions that we ship (extensions/), as real processes in real environments."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pytest

from sandbox import Host, InvokeResult
from sandbox.core.states import Phase
from sandbox.host.host import Function
from sandbox.telemetry.journal import Record
from tests.conftest import ROOT, SHORT, MakeFolder, Reachable, Tier, no_task_is_left, seen_from_here, tmp_of, touch

EXTENSIONS = ROOT / "extensions"
HANDLER = """
import time
def handler(event, context):
    print("hello from the function")
    time.sleep(event.get("sleep", 0))
    if event.get("do") == "raise":
        raise ValueError("the event wants it so")
    if event.get("do") == "exit":
        import os
        os._exit(3)
    return {"ok": True}
"""
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


@pytest.fixture
async def host(tier: Tier) -> AsyncIterator[Host]:
    """With room for one more Python to start, on a machine that is busy with other tests."""
    async with Host(limits=replace(SHORT, init=4.0, shutdown_external=1.2)) as host:
        yield host
    no_task_is_left()


async def deploy(host: Host, folder: MakeFolder, name: str, timeout: float = 10, **environment: str) -> Function:
    code, layer = folder(app_py=HANDLER), str(EXTENSIONS / name)
    settings = {"layers": (layer,), "timeout": timeout, "environment": environment}
    return await host.deploy(code, runtime="python", handler="app.handler", **settings)


@pytest.fixture
def wind_downs(host: Host) -> list[Record]:
    """What is told of each end: who was given SHUTDOWN, and how they ended."""
    found: list[Record] = []
    host.journal.subscribe(found.append, ["sandbox.windDown"])
    return found


def ending(wind_downs: list[Record]) -> dict[str, Any]:
    """How the only extension ended, the last time."""
    (extension,) = wind_downs[-1].record["extensions"]
    return extension


def test_each_is_a_layer_with_a_program_and_a_page() -> None:
    names = sorted(folder.name for folder in EXTENSIONS.iterdir() if folder.is_dir())
    assert names == ["fault-injector", "telemetry-ndjson", "telemetry-otlp"]
    readme = (EXTENSIONS / "README.md").read_text()
    for name in names:
        program = EXTENSIONS / name / "extensions" / name
        assert program.stat().st_mode & 0o111 == 0o111
        text = program.read_text()
        assert text.startswith('#!/usr/bin/env python3\n"""')
        compile(text, str(program), "exec")
        page = (EXTENSIONS / name / "README.md").read_text()
        variables = set(re.findall(r'"((?:OTEL|TELEMETRY|FAULT)[A-Z_]*)"', text))
        assert {variable for variable in variables if variable not in page} == set()
        assert name in readme


# ── telemetry-ndjson ──


def opened(function: Function, path: str) -> TextIO:
    """A file of the environment's, which may not be there yet, to be read when that has gone."""
    (environment,) = function.environments
    touch(environment, path)
    return seen_from_here(environment, path).open()


def lines_of(file: TextIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read().splitlines()]


async def test_ndjson_has_every_event_and_holds_nobody(
    host: Host, folder: MakeFolder, tier: Tier, tmp_path: Path, wind_downs: list[Record]
) -> None:
    place = "/tmp/told" if tier.name == "namespace" else str(tmp_path / "told")
    function = await deploy(host, folder, "telemetry-ndjson", TELEMETRY_FILE=place)
    results = [await function.invoke() for _ in range(2)]
    assert [result.held_open_by for result in results] == [None, None]
    with opened(function, place) as file:
        await function.shutdown()
        events = lines_of(file)
    assert ending(wind_downs)["exit"] == "exit code 0"
    assert [event["type"] for event in events if event["type"] != "platform.telemetrySubscription"] == [
        "platform.initStart",
        "platform.initRuntimeDone",
        "platform.extension",
        "platform.initReport",
        *["platform.start", "function", "platform.runtimeDone", "platform.report"] * 2,
    ]
    assert [event["record"]["requestId"] for event in events if event["type"] == "platform.report"] == [
        result.request_id for result in results
    ]


def own_file(function: Function) -> str:
    return f"{tmp_of(function.environments[0])}/telemetry.ndjson"


async def test_ndjson_by_default_writes_into_the_environments_own_tmp(host: Host, folder: MakeFolder) -> None:
    function = await deploy(host, folder, "telemetry-ndjson", TELEMETRY_TYPES="function")
    await function.invoke()
    with opened(function, own_file(function)) as file:
        await function.shutdown()
        assert [event["type"] for event in lines_of(file)] == ["function"]


async def test_ndjson_on_standard_output_does_not_feed_on_itself(host: Host, folder: MakeFolder) -> None:
    printed: list[Record] = []
    host.journal.subscribe(printed.append, ["extension"])
    function = await deploy(host, folder, "telemetry-ndjson", TELEMETRY_FILE="-", TELEMETRY_TIMEOUT_MS="25")
    await function.invoke({"sleep": 0.2})
    await function.shutdown()
    lines = [str(record.record) for record in printed]
    assert lines[0].startswith("telemetry-ndjson: the output of extensions is left out")
    types = [json.loads(line)["type"] for line in lines[1:]]
    assert types.count("platform.report") == 1
    assert "extension" not in types


async def test_ndjson_without_a_file_says_so_once_and_the_function_runs(
    host: Host, folder: MakeFolder, wind_downs: list[Record]
) -> None:
    function = await deploy(host, folder, "telemetry-ndjson", TELEMETRY_FILE="/no/such/folder/x", TELEMETRY_TIMEOUT_MS="no")
    printed: list[Record] = []
    host.journal.subscribe(printed.append, ["extension"])
    for _ in range(3):
        (await function.invoke({"sleep": 0.15})).check()
    await function.shutdown()
    assert ending(wind_downs)["exit"] == "exit code 0"
    said = [str(record.record) for record in printed]
    complaints = [line for line in said if "cannot write" in line]
    assert len(complaints) == 1
    assert complaints[0].startswith("telemetry-ndjson: cannot write to /no/such/folder/x: FileNotFoundError: ")
    assert any("TELEMETRY_TIMEOUT_MS is no number: 'no'" in line for line in said)


async def test_a_subscription_that_is_refused_is_told_and_no_reason_to_fail(host: Host, folder: MakeFolder) -> None:
    function = await deploy(host, folder, "telemetry-ndjson", TELEMETRY_SCHEMA="1999-01-01")
    result = (await function.invoke()).check()
    assert any(line.startswith("telemetry-ndjson: there will be no telemetry: 400") for line in result.log)


async def test_ndjson_after_a_reset_goes_on_in_the_same_file(host: Host, folder: MakeFolder) -> None:
    function = await deploy(host, folder, "telemetry-ndjson")
    failed = await function.invoke({"do": "exit"})
    with opened(function, own_file(function)) as file:
        well = (await function.invoke()).check()
        await function.shutdown()
        events = lines_of(file)
    reports = {
        event["record"]["requestId"]: event["record"]["status"] for event in events if event["type"] == "platform.report"
    }
    assert reports == {failed.request_id: "error", well.request_id: "success"}


# ── telemetry-otlp ──


class Collector:
    """Takes OTLP over HTTP, and answers as it is told to. documents: (path, header fields, document)."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status = 200
        self.silent = False
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, sock: socket.socket) -> None:
        self._servers.append(await asyncio.start_server(self._serve, sock=sock))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(fields["content-length"]))
                method, path, _ = first.split(" ")
                assert method == "POST"
                if self.silent:
                    continue
                if self.status == 200:
                    self.documents.append((path, fields, json.loads(body)))
                writer.write(
                    f"HTTP/1.1 {self.status} X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._writers):
            writer.close()
        async with asyncio.timeout(10):
            while self._writers:
                await asyncio.sleep(0.005)

    def check(self) -> None:
        """Every document keeps the rules of OTLP's JSON encoding."""
        for path, fields, document in self.documents:
            assert fields["content-type"] == "application/json"
            check_names(document)
            if path.endswith("/v1/traces"):
                for span in spans_of(document):
                    check_span(span)
            else:
                assert path.endswith("/v1/metrics")
                for metric in metrics_of(document):
                    check_metric(metric)

    def spans(self) -> list[dict[str, Any]]:
        return [span for path, _, document in self.documents if path.endswith("/v1/traces") for span in spans_of(document)]

    def totals(self) -> dict[str, float]:
        """Of each metric: the sum of its counts, or of its histograms' sums, over all documents."""
        totals: dict[str, float] = {}
        for path, _, document in self.documents:
            if path.endswith("/v1/metrics"):
                for metric in metrics_of(document):
                    (point,) = (metric.get("sum") or metric["histogram"])["dataPoints"]
                    totals[metric["name"]] = totals.get(metric["name"], 0) + float(point.get("asInt") or point["sum"])
        return totals


def spans_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for one in document["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]]


def metrics_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [metric for one in document["resourceMetrics"] for scope in one["scopeMetrics"] for metric in scope["metrics"]]


def check_names(value: object) -> None:
    """Keys in lowerCamelCase, nothing null."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert re.fullmatch("[a-z][A-Za-z]*", key), key
            assert item is not None, key
            check_names(item)
    elif isinstance(value, list):
        for item in value:
            check_names(item)


def check_attributes(attributes: list[dict[str, Any]]) -> None:
    for attribute in attributes:
        assert set(attribute) == {"key", "value"}
        ((kind, value),) = attribute["value"].items()
        assert {"stringValue": str, "intValue": str, "boolValue": bool}[kind] is type(value)
        assert kind != "intValue" or int(value) >= 0


def check_nanoseconds(text: object) -> int:
    assert isinstance(text, str)
    assert re.fullmatch("[0-9]{19}", text)
    return int(text)


def check_span(span: dict[str, Any]) -> None:
    assert re.fullmatch("[0-9a-f]{32}", span["traceId"])
    assert re.fullmatch("[0-9a-f]{16}", span["spanId"])
    assert re.fullmatch("([0-9a-f]{16})?", span["parentSpanId"])
    assert span["kind"] in (1, 2)
    assert span["flags"] in (0, 1)
    assert check_nanoseconds(span["startTimeUnixNano"]) <= check_nanoseconds(span["endTimeUnixNano"])
    assert span["status"] == {} or (span["status"]["code"], type(span["status"]["message"])) == (2, str)
    check_attributes(span["attributes"])


def check_metric(metric: dict[str, Any]) -> None:
    assert metric["unit"]
    kind = metric.get("sum") or metric["histogram"]
    assert kind["aggregationTemporality"] == 1
    for point in kind["dataPoints"]:
        assert check_nanoseconds(point["startTimeUnixNano"]) < check_nanoseconds(point["timeUnixNano"])
        if "sum" in metric:
            assert kind["isMonotonic"] is True
            assert re.fullmatch("[1-9][0-9]*", point["asInt"])
        else:
            assert all(isinstance(count, str) for count in [point["count"], *point["bucketCounts"]])
            assert sum(map(int, point["bucketCounts"])) == int(point["count"]) > 0
            assert len(point["bucketCounts"]) == len(point["explicitBounds"]) + 1
            assert point["min"] <= point["max"] <= point["sum"]


def values_of(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {attribute["key"]: next(iter(attribute["value"].values())) for attribute in attributes}


@pytest.fixture
async def collector(reachable: Reachable) -> AsyncIterator[Collector]:
    collector = Collector()
    collector.port = await reachable(collector.open)
    yield collector
    await collector.close()


async def otlp(host: Host, folder: MakeFolder, url: str, **environment: str) -> Function:
    return await deploy(host, folder, "telemetry-otlp", **{"OTEL_EXPORTER_OTLP_ENDPOINT": url, **environment})


async def test_otlp_tells_of_an_invoke_before_it_ends(host: Host, folder: MakeFolder, collector: Collector) -> None:
    settings = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20a%2Cb, x-tenant = 7",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=other",
        "OTEL_SERVICE_NAME": "orders",
    }
    function = await otlp(host, folder, collector.url + "/otlp/", **settings)
    result = (await function.invoke({"sleep": 0.05}, trace_id=TRACE)).check()
    ((path, fields, document),) = collector.documents
    assert path == "/otlp/v1/traces"
    assert (fields["authorization"], fields["x-tenant"]) == ("Bearer a,b", "7")
    resource = values_of(document["resourceSpans"][0]["resource"]["attributes"])
    check_attributes(document["resourceSpans"][0]["resource"]["attributes"])
    name = function.config.name
    assert resource | {"faas.instance": ""} == {
        "service.name": "orders",
        "cloud.provider": "aws",
        "cloud.platform": "aws_lambda",
        "cloud.region": "us-east-1",
        "faas.name": name,
        "faas.version": "$LATEST",
        "faas.instance": "",
        "faas.max_memory": str(128 * 1024 * 1024),
        "deployment.environment.name": "test",
    }
    init, invoke, *steps = collector.spans()
    assert {span["traceId"] for span in [init, invoke, *steps]} == {"5759e988bd862e3fe1be46a994272793"}
    assert (init["name"], init["kind"], init["parentSpanId"]) == ("init", 1, "53995c3f42cd8ad8")
    assert (invoke["name"], invoke["kind"], invoke["parentSpanId"]) == (name, 2, "53995c3f42cd8ad8")
    assert (invoke["flags"], invoke["status"]) == (1, {})
    assert values_of(invoke["attributes"]) == {
        "faas.invocation_id": result.request_id,
        "faas.coldstart": True,
        "cloud.account.id": "123456789012",
        "cloud.resource_id": function.config.arn,
        "aws.lambda.invoked_arn": function.config.arn,
    }
    assert int(invoke["endTimeUnixNano"]) - int(invoke["startTimeUnixNano"]) >= 49_000_000
    assert [step["name"] for step in steps] == ["responseLatency", "responseDuration", "runtimeOverhead"]
    assert {step["parentSpanId"] for step in steps} == {invoke["spanId"]}
    collector.check()


async def test_otlp_counts_what_the_reports_tell(host: Host, folder: MakeFolder, collector: Collector) -> None:
    function = await otlp(host, folder, collector.url)
    well = [await function.invoke() for _ in range(2)]
    raised = await function.invoke({"do": "raise"})
    failed = await function.invoke({"do": "exit"})
    again = (await function.invoke()).check()
    await function.shutdown()
    collector.check()
    spans = {values_of(span["attributes"])["faas.invocation_id"]: span for span in collector.spans() if span["kind"] == 2}
    assert set(spans) == {result.request_id for result in [*well, raised, failed, again]}
    assert spans[failed.request_id]["status"] == {"code": 2, "message": "Runtime.ExitError"}
    assert values_of(spans[failed.request_id]["attributes"])["error.type"] == "Runtime.ExitError"
    assert spans[raised.request_id]["status"] == {}  # the platform calls it a success (TL-072)
    totals = collector.totals()
    assert (totals["faas.invocations"], totals["faas.errors"], totals["faas.coldstarts"]) == (4, 1, 1)
    assert "faas.timeouts" not in totals
    reports = [result.report for result in [*well, raised, failed, again]]
    assert totals["faas.invoke_duration"] * 1000 == pytest.approx(sum(report.duration_ms for report in reports if report))
    assert well[0].report is not None
    assert totals["faas.init_duration"] * 1000 == pytest.approx(well[0].report.init_duration_ms)


async def test_otlp_counts_a_timeout(host: Host, folder: MakeFolder, collector: Collector, wind_downs: list[Record]) -> None:
    function = await deploy(host, folder, "telemetry-otlp", 2, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    await function.invoke()
    late = await function.invoke({"sleep": 100})
    assert late.status == "timeout"
    async with asyncio.timeout(20):
        while not wind_downs:
            await asyncio.sleep(0.005)
    assert ending(wind_downs)["exit"] == "exit code 0"
    span = collector.spans()[-1] if collector.spans()[-1]["kind"] == 2 else collector.spans()[-2]
    assert span["status"] == {"code": 2, "message": "timeout"}
    (await function.invoke()).check()  # the report of the one that was late comes to the next process
    await function.shutdown()
    totals = collector.totals()
    assert (totals["faas.timeouts"], totals["faas.errors"], totals["faas.invocations"]) == (1, 1, 2)
    collector.check()


async def test_otlp_tells_of_an_init_that_no_invoke_followed(host: Host, folder: MakeFolder, collector: Collector) -> None:
    function = await otlp(host, folder, collector.url)
    await function.initialise()
    async with asyncio.timeout(20):
        while function.environments[0].machine.phase is not Phase.FROZEN:
            await asyncio.sleep(0.005)
    await function.shutdown()
    (span,) = collector.spans()
    assert (span["name"], span["parentSpanId"]) == ("init", "")
    collector.check()


async def test_otlp_holds_an_invoke_no_longer_than_it_says(host: Host, folder: MakeFolder, collector: Collector) -> None:
    collector.silent = True
    function = await otlp(host, folder, collector.url, OTEL_EXPORTER_OTLP_TIMEOUT="300")
    assert 300 <= held(await function.invoke()) < 1500
    assert held(await function.invoke()) < 300  # an endpoint that failed is left alone for a second


async def test_otlp_sends_later_what_an_endpoint_did_not_take(
    host: Host, folder: MakeFolder, collector: Collector, wind_downs: list[Record]
) -> None:
    collector.status = 503
    function = await otlp(host, folder, collector.url)
    results = [await function.invoke() for _ in range(3)]
    said = [line for result in results for line in result.log if "does not take telemetry" in line]
    assert len(said) == 1
    assert "503" in said[0]
    assert collector.documents == []
    collector.status = 200
    await function.shutdown()
    assert ending(wind_downs)["exit"] == "exit code 0"
    assert len([span for span in collector.spans() if span["kind"] == 2]) == 3
    assert collector.totals()["faas.invocations"] == 3
    collector.check()


async def test_otlp_gives_up_what_an_endpoint_refuses(host: Host, folder: MakeFolder, collector: Collector) -> None:
    collector.status = 400
    function = await otlp(host, folder, collector.url)
    result = (await function.invoke()).check()
    assert "telemetry-otlp: answered with 400 X: a document for /v1/traces is lost" in result.log
    collector.status = 200
    await function.shutdown()
    assert collector.spans() == []
    assert collector.totals()["faas.invocations"] == 1


async def test_otlp_without_a_usable_endpoint_does_nothing(host: Host, folder: MakeFolder) -> None:
    function = await otlp(host, folder, "collector:4317")
    result = (await function.invoke()).check()
    assert any("nothing is exported" in line for line in result.log)
    assert held(result) < 300


async def test_otlp_where_nobody_listens(host: Host, folder: MakeFolder, wind_downs: list[Record]) -> None:
    function = await otlp(host, folder, "http://127.0.0.1:9")
    for _ in range(2):
        assert held((await function.invoke()).check()) < 500
    await function.shutdown()
    assert ending(wind_downs)["exit"] == "exit code 0"


@pytest.mark.parametrize(
    ("header", "trace", "parent", "flags"),
    [
        (TRACE, "5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8", 1),
        ("Sampled=0;Root=1-5759E988-BD862E3FE1BE46A994272793;Lineage=1:2", "5759e988bd862e3fe1be46a994272793", "", 0),
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=0000000000000000", "5759e988bd862e3fe1be46a994272793", "", 0),
        ("Root=1-5759e988-short;Parent=53995c3f42cd8ad8;Sampled=1", None, "", 1),
        (";;=;Root", None, "", 0),
        (None, None, "", 0),
    ],
)
def test_otlp_reads_an_x_ray_header(header: str | None, trace: str | None, parent: str, flags: int) -> None:
    code = """
import importlib.machinery, importlib.util, json, sys
loader = importlib.machinery.SourceFileLoader("otlp", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("otlp", loader))
sys.dont_write_bytecode = True
loader.exec_module(module)
trace = module.Trace({"value": json.loads(sys.argv[2])})
print(json.dumps([trace.id, trace.parent, trace.flags]))
"""
    program = EXTENSIONS / "telemetry-otlp" / "extensions" / "telemetry-otlp"
    done = subprocess.run([sys.executable, "-c", code, program, json.dumps(header)], capture_output=True, check=True)
    found, *rest = json.loads(done.stdout)
    assert found == trace if trace else re.fullmatch("[0-9a-f]{32}", found)
    assert rest == [parent, flags]


def held(result: InvokeResult) -> float:
    """How long the extension kept the environment running after the runtime was done, in ms."""
    (cost,) = result.extensions
    assert cost.after_runtime_ms is not None
    return cost.after_runtime_ms


# ── fault-injector ──


async def faulty(host: Host, folder: MakeFolder, fault: str, timeout: float = 10) -> Function:
    return await deploy(host, folder, "fault-injector", timeout, FAULT=fault)


def error_type(result: InvokeResult) -> str:
    assert result.function_error == "Unhandled"
    return str(result.json()["errorType"])


async def test_without_a_fault_it_behaves_well(host: Host, folder: MakeFolder, wind_downs: list[Record]) -> None:
    function = await faulty(host, folder, "")
    for _ in range(2):
        assert held((await function.invoke()).check()) < 300
    await function.shutdown()
    assert ending(wind_downs)["exit"] == "exit code 0"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no-such-fault", "unknown fault 'no-such-fault'; there are slow-init, never-register,"),
        ("slow-next:1,slow-init:soon", "slow-init needs a number, as in slow-init:2, not 'slow-init:soon'"),
        ("hog-memory", "hog-memory needs a number"),
        ("slow-next:nan", "slow-next needs a number"),
        ("crash-in-invoke:0", "crash-in-invoke needs a number"),
        ("ignore-shutdown:1", "ignore-shutdown takes no value"),
    ],
)
async def test_a_fault_that_it_does_not_know(host: Host, folder: MakeFolder, fault: str, said: str) -> None:
    result = await (await faulty(host, folder, fault)).invoke()
    assert result.json()["errorMessage"].endswith("Error: exit status 2")
    assert any(line.startswith(f"fault-injector: {said}") for line in result.log)
    assert "EXTENSION\tName: fault-injector\tState: Started\tEvents: []" in result.log


@pytest.mark.parametrize(
    ("fault", "type_", "state"),
    [
        ("crash-before-register", "Extension.Crash", "Started"),
        ("crash-after-register", "Extension.Crash", "Registered"),
        ("init-error", "Extension.InitError", "InitError"),
    ],
)
async def test_faults_that_end_init(host: Host, folder: MakeFolder, fault: str, type_: str, state: str) -> None:
    result = await (await faulty(host, folder, fault)).invoke()
    assert error_type(result) == type_
    assert result.json()["errorMessage"].endswith("Error: exit status 1")
    assert any(line.startswith(f"EXTENSION\tName: fault-injector\tState: {state}\t") for line in result.log)


async def test_never_register(host: Host, folder: MakeFolder) -> None:
    result = await (await faulty(host, folder, "never-register", timeout=0.5)).invoke()
    assert error_type(result) == "Sandbox.Timedout"
    assert any("fault-injector never registered" in line for line in result.log)
    assert "hello from the function" not in result.log


async def test_slow_init(host: Host, folder: MakeFolder) -> None:
    result = (await (await faulty(host, folder, "slow-init:0.3")).invoke()).check()
    (cost,) = result.extensions
    assert cost.init_ms is not None
    assert cost.init_ms > 300
    assert result.report is not None
    assert result.report.init_duration_ms is not None
    assert result.report.init_duration_ms > cost.init_ms  # the runtime was not started before


@pytest.mark.parametrize(
    ("fault", "type_"), [("crash-in-invoke:2", "Extension.Crash"), ("exit-error:2", "Extension.ExitError")]
)
async def test_faults_that_end_an_invoke(host: Host, folder: MakeFolder, fault: str, type_: str) -> None:
    function = await faulty(host, folder, fault)
    (await function.invoke()).check()
    result = await function.invoke({"sleep": 5})
    assert error_type(result) == type_
    assert result.report is not None
    assert result.report.duration_ms < 5000  # at once, not when the handler is done
    (await function.invoke()).check()  # the first invoke of a new process


async def test_slow_next(host: Host, folder: MakeFolder) -> None:
    function = await faulty(host, folder, "slow-next:0.2")
    result = (await function.invoke()).check()
    assert held(result) > 150
    assert result.held_open_by == "fault-injector"


async def test_never_next(host: Host, folder: MakeFolder, wind_downs: list[Record]) -> None:
    function = await faulty(host, folder, "never-next:2", timeout=0.5)
    (await function.invoke()).check()
    result = (await function.invoke()).check()  # the caller has its answer
    assert result.report is not None
    assert result.report.status == "timeout"
    await function.shutdown()
    assert ending(wind_downs)["exit"] == "signal: killed"
    assert ending(wind_downs)["told"] is False


@pytest.mark.parametrize(
    ("fault", "exit_", "least"), [("ignore-shutdown", "signal: killed", 500), ("slow-shutdown:0.2", "exit code 0", 200)]
)
async def test_faults_in_shutdown(
    host: Host, folder: MakeFolder, wind_downs: list[Record], fault: str, exit_: str, least: float
) -> None:
    function = await faulty(host, folder, fault)
    (await function.invoke()).check()
    await function.shutdown()
    end = ending(wind_downs)
    assert (end["told"], end["exit"]) == (True, exit_)
    assert end["ms"] >= least


@pytest.mark.parametrize(("fault", "retries"), [("stall-telemetry", 0), ("refuse-telemetry", 1)])
async def test_faults_of_a_telemetry_sink(host: Host, folder: MakeFolder, fault: str, retries: int) -> None:
    function = await faulty(host, folder, fault)
    for _ in range(2):
        result = (await function.invoke({"sleep": 0.1})).check()
        assert held(result) < 1000
    (cost,) = result.extensions
    assert cost.telemetry is not None
    assert cost.telemetry["deliveredRecords"] == 0
    assert cost.telemetry["pendingRecords"] > 0
    assert cost.telemetry["retries"] >= retries


async def test_hog_memory(host: Host, folder: MakeFolder) -> None:
    within = (await (await faulty(host, folder, "hog-memory:60")).invoke()).check()
    assert within.report is not None
    assert within.report.max_memory_used_mb is not None
    assert 70 < within.report.max_memory_used_mb <= 128
    result = await (await faulty(host, folder, "hog-memory:150")).invoke({"sleep": 1})
    assert error_type(result) == "Runtime.OutOfMemory"


async def test_flood_logs(host: Host, folder: MakeFolder) -> None:
    result = (await (await faulty(host, folder, "flood-logs:1000,slow-next:0.1")).invoke({"sleep": 0.4})).check()
    lines = [line for line in result.log if line.startswith("fault-injector: line ")]
    assert 200 < len(lines) < 1000
    assert lines[0] == "fault-injector: line 0"
