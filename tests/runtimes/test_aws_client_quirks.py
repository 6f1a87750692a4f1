"""What only some of AWS's clients for Node.js, Go, Rust and Java do, and how it must come out. See test_aws_clients.py."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from tests.clients.real import GO, JVM, NODE, NODE_3, NODE_4, RUST, Client, Deploy, deploying
from tests.conftest import MakeFolder, no_task_is_left
from tests.runtimes.conftest import in_tier_process, platform_error, printed, put

pytestmark = in_tier_process


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param
    assert found.folder.is_dir()  # or the test is skipped
    return found


@pytest.fixture
def ric(host: Host, folder: MakeFolder, client: Client) -> Deploy:
    """Deploys the function of tests/clients on that client."""
    return deploying(host, folder, client)


def on(*clients: Client) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", clients, ids=str, indirect=True)


@on(GO, NODE_3, JVM)
@pytest.mark.catalogue("RT-090", "LC-081")
async def test_an_error_after_which_the_client_ends_itself(ric: Deploy, client: Client) -> None:
    """The caller has the error that was posted; the REPORT has the exit; the next invoke begins anew."""
    function = await ric()
    before = (await function.invoke({"do": "pid"})).check().json()
    wish, error_type, message = {
        GO: ("panic", "string", "oh"),
        NODE_3: ("leave", "Runtime.UnhandledPromiseRejection", "RangeError: oh"),
        JVM: ("memory", "java.lang.OutOfMemoryError", "oh"),
    }[client]
    result = await function.invoke({"do": wish, "text": "oh"})
    told = result.json()
    assert (told["errorType"], told["errorMessage"]) == (error_type, message)
    assert (result.function_error, result.error_type) == ("Unhandled", error_type)
    assert result.report is not None
    assert (result.report.status, result.report.error_type) == ("error", "Runtime.ExitError")
    assert (await function.invoke({"do": "pid"})).check().json() != before


@on(NODE_4)
@pytest.mark.catalogue("LC-074")
async def test_a_rejection_that_nobody_handles_ends_node_before_its_client_can_say_why(ric: Deploy, client: Client) -> None:
    function = await ric()
    result = await function.invoke({"do": "leave", "text": "oh"})
    assert result.json() == platform_error(result, "Runtime.ExitError", "Runtime exited with error: exit status 1")
    assert "RangeError: oh" in printed(result)
    assert (await function.invoke("again")).check().json() == "again"


@on(RUST)
@pytest.mark.catalogue("RT-090", "RT-095")
async def test_a_panic_is_an_error_like_others(ric: Deploy, client: Client) -> None:
    function = await ric()
    before = (await function.invoke({"do": "pid"})).check().json()
    told = (await function.invoke({"do": "panic", "text": "oh"})).json()
    assert told["errorMessage"] == "Lambda panicked: oh"
    assert (await function.invoke({"do": "pid"})).check().json() == before


@on(NODE_3, NODE_4, GO)
@pytest.mark.catalogue("RT-098")
async def test_the_cause_for_x_ray_is_kept(ric: Deploy, client: Client) -> None:
    result = await (await ric()).invoke({"do": "fail", "text": "bööm"})
    assert result.error_cause is not None
    [exception] = result.error_cause["exceptions"]
    assert (exception["type"], exception["message"]) == (client.error, "bööm")


@on(*NODE)
@pytest.mark.catalogue("RT-034")
async def test_an_error_that_its_library_refuses_to_send(folder: MakeFolder, client: Client) -> None:
    """Its X-Ray header would be over 1 MiB: it posts nothing and polls, gets its event again, and so on to the timeout."""
    clock = ManualClock()
    async with Host(clock=clock) as host:
        function = await deploying(host, folder, client)(timeout=3)
        errors: list[str] = []
        thrice = asyncio.Event()

        def count(record: Any) -> None:
            if "\tInvoke Error \t" in str(record.record):
                errors.append(str(record.record).split("\t")[1])
                if len(errors) == 3:
                    thrice.set()

        host.journal.subscribe(count)
        invoke = asyncio.ensure_future(function.invoke({"do": "fail", "text": "k" * 1_200_000}))
        await thrice.wait()
        clock.advance(3)
        result = await invoke
        assert result.json() == platform_error(result, "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert set(errors) == {result.request_id}
        assert (await function.invoke("again")).check().json() == "again"
    no_task_is_left()


@on(RUST)
@pytest.mark.catalogue("RT-070")
async def test_rust_writes_its_trailers_into_the_stream(ric: Deploy, client: Client) -> None:
    """So an error in mid-stream is a text like any other, for AWS as for us."""
    function = await ric()
    stream = await function.invoke_stream({"do": "stream", "fail": True})
    found = b""
    async for chunk in stream:
        found += chunk
        if found.endswith(b"first"):
            put(function, "go", "")
    body = base64.b64encode(b"user body write aborted")
    assert found.partition(b"first")[2] == (
        b"Lambda-Runtime-Function-Error-Type: Runtime.StreamError\r\nLambda-Runtime-Function-Error-Body: " + body + b"\r\n"
    )
    assert stream.result is not None
    assert stream.result.function_error is None


@on(*NODE)
@pytest.mark.catalogue("RT-060")
async def test_an_exit_in_mid_stream(ric: Deploy, client: Client) -> None:
    function = await ric(handler="app.stream")
    stream = await function.invoke_stream({"do": "stream", "exit": 9})
    found = b""
    async for chunk in stream:
        found += chunk
        put(function, "go", "")
    assert found == b"first"
    assert stream.result is not None
    assert (stream.result.function_error, stream.result.error_type) == ("Unhandled", "Runtime.TruncatedResponse")


@on(*NODE, JVM)
@pytest.mark.catalogue("EN-011")
async def test_it_logs_json_when_told_to(ric: Deploy, client: Client) -> None:
    function = await ric(log_format="JSON", log_level="ERROR" if client in NODE else "INFO")
    await function.invoke()
    result = await function.invoke({"do": "log", "text": "said ä"})
    [line] = printed(result)
    told = json.loads(line)
    request_id = told["requestId"] if client in NODE else told["AWSRequestId"]
    assert (told["message"], request_id) == ("said ä", result.request_id)
