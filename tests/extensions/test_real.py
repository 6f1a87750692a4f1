"""Real extensions that nobody here wrote, unmodified, and AWS's own crate for them (`recorder`): none may notice that this is
not AWS. Each runs in bubblewrap, with driver.py as the host; scripts/extensions makes them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeFolder, needs_bash
from tests.extensions import bwrap

DRIVER = Path(__file__).with_name("driver.py")
SINK = 9999
PROJECT = {"PYTHONPATH": str(bwrap.ROOT)}
SERVERLESS = {"DO_NOT_WAIT": "1", "DEBUG_SLS_OTEL_LAYER": "1"}
DSN = f"http://key@127.0.0.1:{SINK}/1"
BOTH = ["INVOKE", "SHUTDOWN"]
QUICK = 5.0  # seconds: nobody waits for the timeout of 20
APP = """
import json, os, time, urllib.request

def post(port, path, body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://localhost:{port}{path}", body.encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return reply.status

def handler(event, context):
    do = event.get("do")
    if do == "print":
        print(event["text"])
    time.sleep(event.get("seconds", 0))
    if do == "exit":
        os._exit(3)
    if do == "fail":
        raise ValueError("bad luck")
    if do == "post":
        return post(event["port"], event["path"], event["body"].replace("REQUEST", context.aws_request_id))
    if do == "meet":  # until so many functions are here
        open(os.path.join(event["at"], context.aws_request_id), "w").close()
        while len(os.listdir(event["at"])) < event["count"]:
            time.sleep(0.01)
    return event
"""
WEB = """#!/usr/bin/env python3
import http.server, json, os, signal, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        pieces = [json.dumps({"path": self.path, "colour": self.headers["x-colour"]}).encode()]
        if self.path == "/stream":
            pieces = [b"first", b"second"]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(0.1 * (self.path == "/stream"))
        self.wfile.write(b"0\\r\\n\\r\\n")

    def log_message(self, *_):
        pass

def end(*_):
    print("told to end", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer.handle_error = lambda *_: None  # the adapter looks whether it is there, and hangs up
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""
SIGTERM = """
import os, signal, threading, lambda_sigterm

def end():
    signal.sigwait({signal.SIGTERM})  # a handler may miss its moment: the main thread is frozen between a send and its recv
    print("told to end", flush=True)
    os._exit(0)

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
threading.Thread(target=end, daemon=True).start()
lambda_sigterm.register()

def handler(event, context):
    return event
"""


class Run:
    """What the driver saw: answers to its invokes, the journal, what arrived at the sink, the seconds of the last SHUTDOWN."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.invokes: list[dict[str, Any]] = document["invokes"]
        self.journal: list[dict[str, Any]] = document["journal"]
        self.sent: list[dict[str, Any]] = document["sent"]
        self.closing: float = document["closing"]

    def all(self, type_: str) -> list[Any]:
        return [record["record"] for record in self.journal if record["type"] == type_]

    def said(self, name: str) -> list[str]:
        """What an extension printed."""
        return [
            record["record"] for record in self.journal if record.get("extension") == name and record["type"] == "extension"
        ]

    def ends(self, name: str) -> list[dict[str, Any]]:
        """How it took the end of each generation."""
        return [end for down in self.all("sandbox.windDown") for end in down["extensions"] if end["name"] == name]

    def recorded(self, kind: str) -> list[Any]:
        """What the recorder printed of that kind, in one list: event, telemetry or logs."""
        found: list[Any] = []
        for line in self.said("recorder"):
            document = json.loads(line) if line.startswith("{") else {}
            found += document.get(kind, []) if kind != "event" else [document] if kind in document else []
        return found

    def shutdowns(self) -> list[str]:
        return [event["told"][0] for event in self.recorded("event") if event["event"] == "SHUTDOWN"]

    def statuses(self) -> list[str]:
        """Of all invokes. None of them hung."""
        assert all(invoke["seconds"] < QUICK for invoke in self.invokes)
        return [invoke["status"] for invoke in self.invokes]

    def payloads(self) -> list[Any]:
        assert set(self.statuses()) == {"ok"}
        return [json.loads(invoke["payload"]) for invoke in self.invokes]


Real = Callable[..., Run]


@pytest.fixture
def real(folder: MakeFolder) -> Real:
    """Runs a function with a layer: real(layer, event, …, code={…}, variables={…}), then what else `deploy` takes."""
    bwrap.needs_bwrap()

    def run(
        layer: Path | None,
        *steps: Any,
        code: dict[str, str] | Path | None = None,
        variables: dict[str, str] | None = None,
        reason: str = "spindown",
        visible: Sequence[Path] = (),
        **settings: Any,
    ) -> Run:
        where = code if isinstance(code, Path) else folder(**(code or {"app_py": APP}))
        settings = {"runtime": "python", "handler": "app.handler", "timeout": 20, "memory_mb": 1024, **settings}
        settings |= {"environment": variables or {}, "layers": ["/opt"] if layer is not None else []}
        plan = {"settings": settings, "steps": steps, "reason": reason, "sink": SINK}
        done = bwrap.run(
            [sys.executable, DRIVER],
            layer=layer,
            code=where,
            visible=visible,
            environment=PROJECT,
            given=json.dumps(plan),
        )
        assert (done.returncode, done.stderr) == (0, "")
        return Run(json.loads(done.stdout))

    return run


def made(name: str, tool: str) -> Path:
    """The extension's folder. Skips without it, or without what runs it."""
    folder = bwrap.folder(name, tool)
    if tool == "npm" and shutil.which("node") is None:
        pytest.skip(f"extension {name}: no node on PATH")
    return folder


def recorder() -> Path:
    return bwrap.folder("recorder", "cargo")


def post(port: int, path: str, body: Any) -> dict[str, Any]:
    """An event: the function posts that to an extension's port."""
    return {"do": "post", "port": port, "path": path, "body": body if isinstance(body, str) else json.dumps(body)}


# ── Sentry: a tunnel on a port of its own; asks for another event after SHUTDOWN ──


@pytest.mark.catalogue("EX-002", "EX-012", "EX-055", "EX-084", "LC-103")
def test_sentry_forwards_envelopes_and_is_killed_at_the_deadline(real: Real) -> None:
    envelope = json.dumps({"dsn": DSN}) + '\n{"type":"event"}\n{"message":"REQUEST"}\n'
    run = real(made("sentry", "npm"), {}, post(9000, "/envelope", envelope), variables={"SENTRY_DSN": DSN})
    assert run.payloads() == [{}, 200]
    [sent] = run.sent
    assert (sent["method"], sent["path"]) == ("POST", "/api/1/envelope/?sentry_version=7&sentry_key=key")
    assert sent["body"] == envelope.replace("REQUEST", run.invokes[1]["id"])
    [end] = run.ends("sentry-extension")
    assert (end["told"], end["exit"]) == (True, "signal: killed")
    assert 2000 <= end["ms"] < 3000
    assert run.said("sentry-extension") == []


# ── Serverless: the Logs API; waits in SHUTDOWN for the report of the last invoke ──


def reports_of(run: Run) -> list[Any]:
    """The platform.report events that Serverless's extension had when it ended of itself."""
    [last] = [line for line in run.said("otel-extension") if line.startswith("DONE... ")]
    return [event for batch in json.loads(last.removeprefix("DONE... ")) for event in batch]


@pytest.mark.catalogue("TL-002", "TL-008", "TL-041", "TL-042", "TL-082")
def test_serverless_gets_each_report_and_the_last_one_in_shutdown(real: Real) -> None:
    layer = made("serverless-otel", "npm")
    run = real(layer, {}, {}, variables=SERVERLESS)
    assert run.payloads() == [{}, {}]
    [end] = run.ends("otel-extension")
    assert {"name": "otel-extension", "state": "Subscribed", "types": ["platform"]} in run.all("platform.logsSubscription")
    assert (end["told"], end["exit"]) == (True, "exit code 0")
    assert end["ms"] < 1900  # it looks once, after a second
    reports = reports_of(run)
    assert [event["record"]["requestId"] for event in reports] == [invoke["id"] for invoke in run.invokes]
    assert [event["type"] for event in reports] == ["platform.report"] * 2
    figures = run.invokes[0]["report"]
    assert {name: figures[name] for name in reports[0]["record"]["metrics"]} == reports[0]["record"]["metrics"]
    assert "initDurationMs" not in reports[1]["record"]["metrics"]


@pytest.mark.catalogue("TL-041", "EX-082")
def test_serverless_gets_the_report_of_a_crash_in_shutdown(real: Real) -> None:
    run = real(made("serverless-otel", "npm"), {"do": "exit", "seconds": 0.1}, variables=SERVERLESS)
    assert run.statuses() == ["error"]
    [end] = run.ends("otel-extension")
    assert (end["told"], end["exit"]) == (True, "exit code 0")


@pytest.mark.catalogue("EX-012", "EX-049")
def test_serverless_holds_the_environment_until_the_function_has_sent_its_data(real: Real) -> None:
    """Its wrapper in the function does that; without, it waits for ever, though the caller has long been answered."""
    layer = made("serverless-otel", "npm")
    run = real(layer, post(2772, "/", [{"type": "function", "record": "\tREQUEST\t⚡.none"}]), {}, timeout=1)
    assert run.statuses() == ["ok", "ok"]
    assert [invoke["report"]["status"] for invoke in run.invokes] == ["success", "timeout"]
    assert [invoke["held_open_by"] for invoke in run.invokes] == ["otel-extension"] * 2
    assert run.invokes[1]["extensions"][0]["afterRuntimeMs"] > 900
    assert "what to do" in "\n".join(run.invokes[1]["log"])
    assert [down["reason"] for down in run.all("sandbox.windDown")] == ["timeout"]


# ── OpenTelemetry in Rust: waits in each invoke for its runtimeDone ──


@pytest.mark.catalogue("TL-001", "TL-070", "TL-074", "EX-049", "EX-090")
def test_opentelemetry_exports_the_function_s_spans_and_the_platform_s(real: Real) -> None:
    name = "opentelemetry-lambda-extension"
    span = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "orders"}
    spans = {"resourceSpans": [{"scopeSpans": [{"spans": [{**span, "startTimeUnixNano": "1", "endTimeUnixNano": "2"}]}]}]}
    variables = {"LAMBDA_OTEL_EXPORTER_ENDPOINT": f"http://127.0.0.1:{SINK}", "NO_COLOR": "1"}
    variables |= {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    run = real(bwrap.folder("opentelemetry-rust", "cargo"), {}, post(4318, "/v1/traces", spans), variables=variables)
    assert run.payloads() == [{}, 200]
    assert {sent["type"] for sent in run.sent} == {"application/x-protobuf"}
    assert {sent["path"] for sent in run.sent} == {"/v1/traces", "/v1/metrics"}
    assert any("orders" in sent["body"] for sent in run.sent)
    [end] = run.ends(name)
    assert (end["told"], end["exit"]) == (True, "exit code 0")
    assert any("Final flush complete" in line and "dropped=0" in line for line in run.said(name))
    assert not any("WARN" in line or "ERROR" in line for line in run.said(name))
    assert [invoke["held_open_by"] for invoke in run.invokes] == [name, name]
    spans = [(span["name"], span["durationMs"]) for report in run.all("platform.report") for span in report["spans"]]
    assert spans == [("extensionOverhead", invoke["extensions"][0]["afterRuntimeMs"]) for invoke in run.invokes]


# ── the web adapter: an extension that is the runtime's client; the runtime is a web server ──


def web_event(path: str) -> dict[str, Any]:
    http = {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"}
    context = {"http": http, "requestId": "r", "accountId": "1", "apiId": "a", "stage": "$default", "timeEpoch": 1}
    context |= {"time": "12/Mar/2020:19:03:58 +0000", "domainName": "d", "domainPrefix": "p"}
    event = {"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "requestContext": context}
    return event | {"headers": {"x-colour": "blue"}, "isBase64Encoded": False}


def web(real: Real, *steps: Any, **variables: str) -> Run:
    """A web server in place of a managed runtime."""
    variables["AWS_LAMBDA_EXEC_WRAPPER"] = "/opt/bootstrap"
    layer = bwrap.folder("lambda-adapter", "cargo")
    return real(layer, *steps, code={"bootstrap": WEB}, handler="bootstrap", variables=variables)


@pytest.mark.catalogue("EX-021", "EX-033", "EX-085")
def test_the_web_adapter_answers_in_the_runtime_s_place(real: Real) -> None:
    run = web(real, web_event("/hello"), web_event("/again"))
    for answer, path in zip(run.payloads(), ("/hello", "/again"), strict=True):
        assert answer["statusCode"] == 200
        assert json.loads(answer["body"]) == {"path": path, "colour": "blue"}
    assert run.all("platform.extension") == [{"name": "lambda-adapter", "state": "Ready", "events": []}]
    assert run.all("function") == ["told to end"]
    [end] = run.ends("lambda-adapter")
    assert (end["told"], end["exit"]) == (False, "signal: killed")
    assert run.closing < 1
    assert [invoke["held_open_by"] for invoke in run.invokes] == [None, None]


@pytest.mark.catalogue("RT-070", "RT-077")
def test_the_web_adapter_streams(real: Real) -> None:
    run = web(real, {"stream": web_event("/stream")}, AWS_LWA_INVOKE_MODE="response_stream")
    assert run.statuses() == ["ok"]
    assert run.invokes[0]["pieces"][-2:] == ["first", "second"]
    metadata, _, rest = "".join(run.invokes[0]["pieces"]).partition("\0" * 8)
    assert (json.loads(metadata)["statusCode"], rest) == (200, "firstsecond")


# ── Tailscale: two ways not to come up ──


@pytest.mark.catalogue("EX-001", "EX-007", "EX-069", "LC-004")
def test_tailscale_as_it_is_published_cannot_be_executed(real: Real) -> None:
    run = real(bwrap.folder("tailscale"), {})
    [result] = run.invokes
    assert json.loads(result["payload"])["errorType"] == "Extension.LaunchError"
    assert (result["status"], result["phase"]) == ("error", "init")
    failed = {"name": "tailscale-extension", "state": "LaunchError", "events": [], "errorType": "PermissionDenied"}
    assert run.all("platform.extension") == [failed, failed]
    assert "chmod" in "\n".join(result["log"])
    assert result["seconds"] < 1


@pytest.mark.catalogue("EX-001", "EX-066", "EX-080", "EX-081")
def test_tailscale_without_its_settings_crashes_before_its_first_poll(real: Real, tmp_path: Path) -> None:
    needs_bash()  # and curl: the extension is a script
    layer = shutil.copytree(bwrap.folder("tailscale") / "extensions", tmp_path / "layer" / "extensions").parent
    (layer / "extensions" / "tailscale-extension").chmod(0o755)
    run = real(layer, {})
    [result] = run.invokes
    error = {"errorType": "Extension.Crash", "errorMessage": f"RequestId: {result['id']} Error: exit status 1"}
    assert json.loads(result["payload"]) == error
    assert "TS_SECRET_API_KEY: unbound variable" in "\n".join(result["log"])
    assert [record["state"] for record in run.all("platform.extension")] == ["Registered"] * 2
    assert result["seconds"] < 2


# ── internal extensions: those that clients register in order to be told by SIGTERM ──


@pytest.mark.catalogue("EX-009", "EX-021", "EX-089", "LC-102")
@pytest.mark.parametrize(
    ("name", "tool", "extension"),
    [
        ("lambda-sigterm", "pip", "lambda-sigterm"),
        ("go-sigterm", "go", "GoLangEnableSIGTERM"),
        ("rust-sigterm", "cargo", "_lambda-rust-runtime-no-op-graceful-shutdown-helper"),
    ],
)
def test_an_internal_extension_brings_a_sigterm(real: Real, name: str, tool: str, extension: str) -> None:
    path = made(name, tool)
    if name == "lambda-sigterm":
        run = real(path, {"n": 1}, {"n": 2}, code={"app_py": SIGTERM})
    else:
        run = real(None, {"n": 1}, {"n": 2}, code=path, runtime=None)
    assert run.payloads() == [{"n": 1}, {"n": 2}]
    assert run.all("platform.extension") == [{"name": extension, "state": "Ready", "events": []}]
    assert [cost["type"] for invoke in run.invokes for cost in invoke["extensions"]] == ["internal"] * 2
    assert "told to end" in run.all("function")
    [down] = run.all("sandbox.windDown")
    assert (down["windowMs"], down["extensions"]) == (500, [])
    assert down["runtimeMs"] < 400


# ── AWS's crate: each record is parsed by it, or it answers 400 and prints nothing ──


@pytest.mark.catalogue("EX-044", "EX-050", "TL-034", "TL-040", "TL-050", "TL-052", "TL-087", "TL-088", "EX-088")
@pytest.mark.catalogue("TL-060", "TL-062", "TL-063", "TL-066", "TL-067", "TL-073", "TL-081", "TL-082", "TL-086")
def test_the_crate_parses_every_record_of_the_telemetry_api(real: Real) -> None:
    events = {"do": "print", "text": "one\ntwo"}, {"do": "fail"}
    run = real(recorder(), *events, variables={"RECORDER_STAYS": "300"})
    assert run.statuses() == ["ok", "error"]
    told = run.recorded("telemetry")
    init = ["initStart", "telemetrySubscription", "initRuntimeDone", "extension", "initReport"]
    first = ["start", "function", "function", "runtimeDone", "report"]
    second = ["start", "function", "runtimeDone", "report"]
    assert [record["type"].removeprefix("platform.") for record in told] == init + first + second
    assert [record["record"] for record in told if record["type"] == "function"][:2] == ["one", "two"]
    assert [record["time"] for record in told] == sorted(record["time"] for record in told)
    starts = [record["record"] for record in told if record["type"] == "platform.start"]
    invokes = [event["told"] for event in run.recorded("event") if event["event"] == "INVOKE"]
    assert [event[0] for event in invokes] == [start["requestId"] for start in starts] == [i["id"] for i in run.invokes]
    assert [event[3] for event in invokes] == [start["tracing"]["value"] for start in starts]
    [end] = run.ends("recorder")
    assert (end["exit"], end["telemetry"]["deliveredRecords"]) == ("exit code 0", len(told))
    assert not any(end["telemetry"][name] for name in ("droppedRecords", "undeliveredRecords", "retries"))


@pytest.mark.catalogue("TL-005", "TL-052", "TL-084")
def test_the_crate_parses_every_record_of_the_logs_api(real: Real) -> None:
    variables = {"RECORDER_API": "logs", "RECORDER_STAYS": "300"}
    run = real(recorder(), {"do": "print", "text": "one\ntwo"}, {"do": "exit"}, variables=variables)
    assert run.statuses() == ["ok", "error"]
    told = [str(record).partition(" ")[0] for record in run.recorded("logs")]
    init = ["PlatformLogsSubscription", "PlatformExtension"]
    first = ["PlatformStart", 'Function("one")', 'Function("two")', "PlatformRuntimeDone", "PlatformEnd", "PlatformReport"]
    second = ["PlatformStart", "PlatformRuntimeDone", 'PlatformFault("RequestId:', "PlatformEnd", "PlatformReport"]
    assert told == init + first + second
    assert [end["telemetry"]["undeliveredRecords"] for end in run.ends("recorder")] == [0]


@pytest.mark.catalogue("TL-053", "TL-056")
def test_the_crate_gets_json_lines_as_strings_for_it_asks_for_the_first_schema(real: Real) -> None:
    line = '{"level": "INFO", "message": "büro", "n": 1}'
    event = {"do": "print", "text": line}
    run = real(recorder(), event, variables={"RECORDER_STAYS": "300"}, log_format="JSON", system_log_level="WARN")
    assert run.statuses() == ["ok"]
    told = run.recorded("telemetry")
    assert [record["record"] for record in told if record["type"] == "function"] == [line]
    assert "platform.report" in [record["type"] for record in told]


@pytest.mark.catalogue("EX-051", "EX-082", "EX-091", "LC-070", "TL-043", "TL-064", "TL-071")
def test_a_timeout_is_told_and_a_new_recorder_follows(real: Real) -> None:
    events = {}, {"seconds": 30}, {}
    run = real(recorder(), *events, timeout=0.5, variables={"RECORDER_STAYS": "300"})
    assert run.statuses() == ["ok", "timeout", "ok"]
    assert [invoke["error"] for invoke in run.invokes] == [None, "Sandbox.Timedout", None]
    assert run.shutdowns() == ["timeout", "spindown"]
    told = run.recorded("telemetry")
    done = [record["record"] for record in told if record["type"] == "platform.runtimeDone"]
    assert [record["status"] for record in done] == ["success", "timeout", "success"]
    starts = [record["record"]["phase"] for record in told if record["type"] == "platform.initStart"]
    assert starts == ["init", "invoke"]
    assert [end["exit"] for end in run.ends("recorder")] == ["exit code 0"] * 2


@pytest.mark.catalogue("EX-051", "EX-082", "LC-074", "TL-071")
def test_the_death_of_the_runtime_is_a_failure(real: Real) -> None:
    run = real(recorder(), {"do": "exit"}, {}, variables={"RECORDER_STAYS": "300"})
    assert [invoke["error"] for invoke in run.invokes] == ["Runtime.ExitError", None]
    text = f"RequestId: {run.invokes[0]['id']} Error: Runtime exited with error: exit status 3"
    assert json.loads(run.invokes[0]["payload"]) == {"errorType": "Runtime.ExitError", "errorMessage": text}
    assert run.shutdowns() == ["failure", "spindown"]
    told = run.recorded("telemetry")
    done = [record["record"] for record in told if record["type"] == "platform.runtimeDone"]
    assert [(record["status"], record.get("error_type")) for record in done][1] == ("success", None)
    assert (done[0]["status"], "Runtime.ExitError" in done[0].values()) == ("error", True)
    assert run.all("sandbox.windDown")[0]["runtimeMs"] == 0


@pytest.mark.catalogue("EX-051", "EX-087")
def test_every_reason_of_a_shutdown_arrives(real: Real) -> None:
    steps = {}, {"shutdown": "failure"}, {}, {"shutdown": "timeout"}, {}
    run = real(recorder(), *steps, variables={"RECORDER_API": "none"})
    assert run.payloads() == [{}, {}, {}]
    assert run.shutdowns() == ["failure", "timeout", "spindown"]
    assert [(end["told"], end["exit"]) for end in run.ends("recorder")] == [(True, "exit code 0")] * 3
    assert [invoke["report"].get("initDurationMs") is not None for invoke in run.invokes] == [True] * 3
    assert run.invokes[0]["extensions"][0]["telemetry"] is None
    assert run.closing < 1


@pytest.mark.catalogue("EX-062", "EX-066", "EX-080", "EX-091")
def test_an_extension_that_dies_in_an_invoke_ends_it_at_once(real: Real) -> None:
    """The crate posts init/error, which is refused there, and exits."""
    event = {"seconds": 10}
    run = real(recorder(), event, event, variables={"RECORDER_FAILS": "INVOKE"})
    assert run.statuses() == ["error", "error"]
    for result in run.invokes:
        error = {"errorType": "Extension.Crash", "errorMessage": f"RequestId: {result['id']} Error: exit status 1"}
        assert json.loads(result["payload"]) == error
    assert "Recorder.BadLuck" in "\n".join(run.invokes[0]["log"])
    assert "init/error (answered 403)" in "\n".join(run.invokes[0]["log"])
    assert [end["told"] for end in run.ends("recorder")] == [False, False]
    assert run.closing < 1


@pytest.mark.catalogue("EX-087", "LC-082")
def test_an_extension_that_fails_in_shutdown_breaks_nothing(real: Real) -> None:
    run = real(recorder(), {}, {"shutdown": "spindown"}, {}, variables={"RECORDER_FAILS": "SHUTDOWN"})
    assert run.payloads() == [{}, {}]
    assert [(end["told"], end["exit"]) for end in run.ends("recorder")] == [(True, "exit status 1")] * 2
    assert not run.all("sandbox.failure")


@pytest.mark.catalogue("EX-050", "EX-084", "LC-103", "LC-107")
def test_an_extension_that_stays_is_killed_at_the_deadline_that_it_was_told(real: Real) -> None:
    run = real(recorder(), {}, variables={"RECORDER_STAYS": "30000"})
    [down] = [record for record in run.journal if record["type"] == "sandbox.windDown"]
    [end] = run.ends("recorder")
    assert (end["told"], end["exit"]) == (True, "signal: killed")
    assert 2000 <= end["ms"] < 3000
    [event] = [event for event in run.recorded("event") if event["event"] == "SHUTDOWN"]
    began = down["wall"] * 1000 - down["record"]["durationMs"]
    assert event["told"][1] == pytest.approx(began + 2000, abs=5)


@pytest.mark.catalogue("TL-052")
def test_a_thousand_lines_arrive_in_their_order(real: Real) -> None:
    lines = [f"line {number}" for number in range(1000)]
    event = {"do": "print", "text": "\n".join(lines)}
    run = real(recorder(), event, {}, variables={"RECORDER_STAYS": "300"})
    assert run.statuses() == ["ok", "ok"]
    assert [record["record"] for record in run.recorded("telemetry") if record["type"] == "function"] == lines


# ── together ──


@pytest.mark.catalogue("EX-012", "TL-009")
@pytest.mark.parametrize(
    ("name", "extension", "tool"), [("recorder", "recorder", "cargo"), ("serverless-otel", "otel-extension", "npm")]
)
def test_two_environments_at_the_same_time_with_the_same_ports(
    real: Real, tmp_path: Path, name: str, extension: str, tool: str
) -> None:
    layer, place = made(name, tool), tmp_path / "place"
    place.mkdir()
    event = {"do": "meet", "at": str(place), "count": 2}
    variables = {**SERVERLESS, "RECORDER_STAYS": "300"}
    with ThreadPoolExecutor(2) as threads:
        begun = [threads.submit(real, layer, event, {}, variables=variables, visible=[place]) for _ in range(2)]
        runs = [future.result() for future in begun]
    for run in runs:
        assert run.payloads() == [event, {}]
        [end] = run.ends(extension)
        assert (end["told"], end["exit"]) == (True, "exit code 0")
        assert end["telemetry"]["deliveredRecords"] > 5
        assert not any(end["telemetry"][figure] for figure in ("droppedRecords", "undeliveredRecords", "retries"))
    ids = [{invoke["id"] for invoke in run.invokes} for run in runs]
    for mine, others, run in zip(ids, reversed(ids), runs, strict=True):
        said = "\n".join(run.said(extension))
        assert all(request_id in said for request_id in mine)
        assert not any(request_id in said for request_id in others)


@pytest.mark.catalogue("EX-049", "EX-084", "TL-018")
def test_four_extensions_in_one_environment(real: Real, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    four = [("recorder", "cargo"), ("sentry", "npm"), ("serverless-otel", "npm"), ("opentelemetry-rust", "cargo")]
    for name, tool in four:
        shutil.copytree(made(name, tool), layer, dirs_exist_ok=True)
    variables = {"DO_NOT_WAIT": "1", "NO_COLOR": "1", "RECORDER_API": "logs", "SENTRY_DSN": DSN}  # or two want port 9003
    variables["LAMBDA_OTEL_EXPORTER_ENDPOINT"] = f"http://127.0.0.1:{SINK}"
    run = real(layer, {"n": 1}, variables=variables)
    assert run.payloads() == [{"n": 1}]
    names = ["opentelemetry-lambda-extension", "otel-extension", "recorder", "sentry-extension"]
    records = run.all("platform.extension")
    assert records == [{"name": name, "state": "Ready", "events": BOTH} for name in names]
    assert run.invokes[0]["held_open_by"] == names[0]
    ends = {name: run.ends(name)[0] for name in names}
    assert all(end["told"] for end in ends.values())
    assert [ends[name]["exit"] for name in names] == [*["exit code 0"] * 3, "signal: killed"]
    assert sum(record.startswith("PlatformExtension {") for record in run.recorded("logs")) == 4


@pytest.mark.catalogue("EX-051", "EX-088")
def test_the_command_says_what_it_says_in_aws_s_log(folder: MakeFolder, tmp_path: Path) -> None:
    bwrap.needs_bwrap()
    journal = tmp_path / "shown" / "journal"
    journal.parent.mkdir()
    words = [bwrap.COMMAND, "invoke", "/var/task", '{"n": 1}', "--layer", "/opt", "--runtime", "python"]
    words += ["--handler", "app.handler", "--shutdown-reason", "timeout", "--repeat", "2", "--journal", str(journal)]
    done = bwrap.run(words, layer=recorder(), code=folder(app_py=APP), visible=[journal.parent], environment=PROJECT)
    assert (done.returncode, done.stdout.split()) == (0, ['{"n":', "1}"] * 2)
    log = done.stderr.splitlines()
    assert "EXTENSION\tName: recorder\tState: Ready\tEvents: [INVOKE, SHUTDOWN]" in log
    assert "TELEMETRY\tName: recorder\tState: Subscribed\tTypes: [Platform, Function]" in log
    assert any("extension recorder: given SHUTDOWN, exit code 0 after" in line for line in log)
    assert any(line.startswith('{"event":"SHUTDOWN","told":["timeout",') for line in log)
    last = json.loads(journal.read_text().splitlines()[-1])
    assert (last["type"], last["record"]["reason"]) == ("sandbox.windDown", "timeout")
