"""AWS's own Python client, unmodified, as a custom runtime: whatever it meets here, it must not notice that this is not AWS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from sandbox.core.states import Phase
from sandbox.host.attach import AttachedEnvironment
from sandbox.host.environment import Job
from sandbox.host.host import Function
from sandbox.telemetry.journal import Journal
from tests.conftest import ROOT, MakeFolder
from tests.runtimes.conftest import Deploy, in_tier_process, platform_error, printed

pytestmark = in_tier_process

BASE_PYTHON = os.path.realpath(sys.executable)
APP = """
import json, logging, os, subprocess, sys, time

def handler(event, context):
    match event:
        case {"do": "fail", "size": size}:
            raise KeyError("k" * size)
        case {"do": "sleep"}:
            time.sleep(60)
        case {"do": "exit", "status": status}:
            sys.exit(status)
        case {"do": "large", "size": size}:
            return "x" * (size - 2)
        case {"do": "pid"}:
            return os.getpid()
        case {"do": "child"}:
            return [os.getpid(), subprocess.Popen(["sleep", "1000"]).pid]
        case {"do": "log"}:
            logging.getLogger("mine").error("said")
        case {"do": "context"}:
            client = context.client_context
            return {
                "client": [client.client.app_title, client.custom, client.env],
                "identity": [context.identity.cognito_identity_id, context.identity.cognito_identity_pool_id],
                "tenant": context.tenant_id,
                "arn": context.invoked_function_arn,
                "id": context.aws_request_id,
                "trace": os.environ["_X_AMZN_TRACE_ID"],
                "left": context.get_remaining_time_in_millis(),
            }
    return event
"""


@pytest.fixture(params=["4.2.2", "3.1.1"])
def client(request: pytest.FixtureRequest) -> Path:
    """The folder that this version of awslambdaric is in."""
    path = ROOT / ".cache" / "clients" / f"awslambdaric-{request.param}"
    if not path.is_dir():
        missing = f"{path.name}: not installed: run scripts/setup dev"
        if os.environ.get("CI"):  # there it is the proof that was asked for
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@pytest.fixture
def ric(host: Host, folder: MakeFolder, client: Path) -> Deploy:
    """Deploys app.py on that client."""

    async def make(app: str = APP, **settings: Any) -> Function:
        bootstrap = f"#!/bin/sh\nexport PYTHONPATH='{client}'\nexec '{BASE_PYTHON}' -m awslambdaric app.handler\n"
        return await host.deploy(folder(bootstrap=bootstrap, app_py=app), **{"timeout": 20} | settings)

    return make


@pytest.mark.catalogue("RT-001", "RT-021", "RT-030", "RT-050", "LC-035")
async def test_it_echoes_in_one_process(ric: Deploy) -> None:
    function = await ric()
    for event in ({"ä": "日本", "n": [1, 2.5, None, True]}, "text", 0, None, []):
        sent = {} if event is None else event
        result = await function.invoke(event)
        assert result.check().json() == sent
        assert result.content_type == "application/json"
    first, second = [(await function.invoke({"do": "pid"})).check().json() for _ in range(2)]
    assert first == second


@pytest.mark.catalogue("RT-022", "RT-024", "RT-025", "RT-026", "RT-027", "RT-028")
async def test_it_understands_every_header(ric: Deploy) -> None:
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    result = await (await ric()).invoke(
        {"do": "context"},
        client_context={"client": {"app_title": "büro"}, "custom": {"a": 1}, "env": {"b": "c"}},
        cognito_identity={"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"},
        tenant_id="blue",
        trace_id=trace,
    )
    told = result.check().json()
    assert 0 < told.pop("left") <= 20_000
    assert told == {
        "client": ["büro", {"a": 1}, {"b": "c"}],
        "identity": ["id", "pool"],
        "tenant": "blue",
        "arn": "arn:aws:lambda:us-east-1:123456789012:function:function",
        "id": result.request_id,
        "trace": trace,
    }


@pytest.mark.catalogue("RT-090", "RT-095", "RT-096", "TL-072")
@pytest.mark.parametrize("size", [1, 900_000])  # its X-Ray header is as long: up to 1 MiB is possible
async def test_an_error_arrives_as_it_was_posted_and_the_process_lives_on(ric: Deploy, size: int) -> None:
    function = await ric()
    before = (await function.invoke({"do": "pid"})).check().json()
    failed = await function.invoke({"do": "fail", "size": size})
    assert failed.function_error == "Unhandled"
    told = failed.json()
    assert (told["errorType"], told["errorMessage"], told["requestId"]) == ("KeyError", f"'{'k' * size}'", failed.request_id)
    assert told["stackTrace"][-1].endswith('in handler\n    raise KeyError("k" * size)\n')
    assert failed.report is not None
    assert failed.report.status == "success"
    assert (await function.invoke({"do": "pid"})).check().json() == before


@pytest.mark.catalogue("RT-102", "RT-103", "LC-013")
async def test_an_error_of_init(ric: Deploy) -> None:
    function = await ric("import nowhere_to_be_found\n")
    result = await function.invoke()
    told = result.json()
    assert told["errorType"] == "Runtime.ImportModuleError"
    assert told["errorMessage"] == "Unable to import module 'app': No module named 'nowhere_to_be_found'"
    assert (result.function_error, result.error_phase) == ("Unhandled", "init")
    phases = [line.split("\t")[1] for line in result.log if line.startswith("INIT_REPORT")]
    assert phases == ["Phase: init", "Phase: invoke"]


@pytest.mark.catalogue("LC-070", "LC-072")
async def test_a_timeout_and_the_invoke_after_it(ric: Deploy) -> None:
    function = await ric(timeout=1)
    before = (await function.invoke({"do": "pid"})).check().json()
    late = await function.invoke({"do": "sleep"})
    assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 1.00 seconds")
    assert (late.status, late.function_error) == ("timeout", "Unhandled")
    after = await function.invoke({"do": "pid"})
    assert after.check().json() != before
    assert len(function.environments) == 1


@pytest.mark.catalogue("RT-021", "RT-050")
async def test_6_mib_both_ways(ric: Deploy) -> None:
    function = await ric()
    payload = b'"' + b"a" * (6 * MIB - 2) + b'"'
    assert (await function.invoke(payload=payload)).check().payload == payload


@pytest.mark.catalogue("RT-057", "RT-058", "LC-070")
async def test_an_answer_over_the_limit_ends_the_client_but_the_caller_is_told(ric: Deploy) -> None:
    """It takes the 413 for fatal and exits 1, after the caller has had the answer: the next invoke begins anew."""
    function = await ric()
    whole = await function.invoke({"do": "large", "size": PAYLOAD_LIMIT})
    assert len(whole.check().payload) == PAYLOAD_LIMIT
    before = (await function.invoke({"do": "pid"})).check().json()
    large = await function.invoke({"do": "large", "size": PAYLOAD_LIMIT + 1})
    assert large.function_error == "Unhandled"
    assert large.json() == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": f"Response payload size exceeded maximum allowed payload size ({PAYLOAD_LIMIT} bytes).",
    }
    assert large.report is not None
    assert (large.report.status, large.report.error_type) == ("error", "Runtime.ExitError")
    assert (await function.invoke({"do": "pid"})).check().json() != before


@pytest.mark.catalogue("LC-051", "LC-053")
async def test_it_is_frozen_between_invokes_and_thaws(ric: Deploy) -> None:
    function = await ric()
    pids = (await function.invoke({"do": "child"})).check().json()
    [environment] = function.environments
    assert environment.machine.phase is Phase.FROZEN
    async with asyncio.timeout(20):
        while any(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in pids):
            await asyncio.sleep(0.001)
    assert (await function.invoke({"do": "pid"})).check().json() == pids[0]
    assert function.environments == (environment,)


@pytest.mark.catalogue("LC-074", "LC-012", "LC-070")
@pytest.mark.parametrize(
    ("status", "message"),
    [(0, "Runtime exited without providing a reason"), (9, "Runtime exited with error: exit status 9")],
)
async def test_an_exit_in_the_handler(ric: Deploy, status: int, message: str) -> None:
    function = await ric()
    ended = await function.invoke({"do": "exit", "status": status})
    assert ended.json() == platform_error(ended, "Runtime.ExitError", message)
    assert (await function.invoke("again")).check().json() == "again"


@pytest.mark.catalogue("EN-011")
async def test_it_logs_json_when_told_to(ric: Deploy) -> None:
    function = await ric(log_format="JSON", log_level="ERROR")
    result = await function.invoke({"do": "log"})
    [line] = printed(result)
    told = json.loads(line)
    assert (told["level"], told["message"], told["logger"]) == ("ERROR", "said", "mine")
    assert told["requestId"] == result.request_id


@pytest.mark.catalogue("RT-061")
async def test_a_late_answer_with_a_stale_invocation_id_touches_nobody(tmp_path: Path, client: Path) -> None:
    """The same request id is invoked again while a process still works on the first time: only `attach` lets one live on."""
    if not client.name.endswith("4.2.2"):
        pytest.skip("this client is older than the invocation id")
    (tmp_path / "app.py").write_text(
        "import os, time\n"
        "def handler(event, context):\n"
        "    while not os.path.exists(event): time.sleep(0.005)\n"
        "    return os.getpid()\n"
    )
    clock, journal = ManualClock(), Journal()
    function = FunctionConfig(str(tmp_path), timeout=3, handler="app.handler")
    lines: list[str] = []
    environment = AttachedEnvironment(function, journal, clock, port=0, task=str(tmp_path), watch=lines.append)
    await environment.open()
    variables = {**environment.exports(), "PATH": os.environ["PATH"], "PYTHONPATH": str(client)}
    command = [BASE_PYTHON, "-m", "awslambdaric", "app.handler"]
    quiet = {"cwd": tmp_path, "env": variables, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [await asyncio.create_subprocess_exec(*command, **quiet)]  # type: ignore[arg-type]
    same = str(uuid.uuid4())

    def invoke(gate: str) -> Job:
        payload = json.dumps(str(tmp_path / gate)).encode()
        job = Job(payload, arn=function.arn, accepted_at=clock.now(), wall=clock.wall(), request_id=same)
        environment.invoke(job)
        return job

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)

    try:
        first = invoke("first")
        await until(lambda: first.started)
        clock.advance(3)
        await first.answered
        processes.append(await asyncio.create_subprocess_exec(*command, **quiet))  # type: ignore[arg-type]
        second = invoke("second")
        await until(lambda: second.started)
        (tmp_path / "first").touch()
        await processes[0].wait()
        refused = [line for line in lines if "< 400" in line]
        assert "InvalidInvocationId" in refused[0]
        assert not second.answered.done()
        (tmp_path / "second").touch()
        await second.answered
        assert second.result.json() == processes[1].pid
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await environment.shutdown()
