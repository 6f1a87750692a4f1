"""AWS's own clients for Node.js, Go, Rust and Java, unmodified, as custom runtimes: what is the same for all of them.

None of them may notice that this is not AWS. What only one of them does is in test_aws_client_quirks.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from sandbox.core.states import Phase
from sandbox.host.result import InvokeResult, ResponseStream
from tests.clients.real import ALL, GO, JVM, NODE_3, NODE_4, RUST, Client, Deploy, deploying
from tests.conftest import MakeFolder, no_task_is_left
from tests.runtimes.conftest import TRACE, in_tier_process, platform_error, printed, put

pytestmark = in_tier_process


@pytest.fixture(params=ALL, ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param
    assert found.folder.is_dir()  # or the test is skipped
    return found


@pytest.fixture
def ric(host: Host, folder: MakeFolder, client: Client) -> Deploy:
    """Deploys the function of tests/clients on that client."""
    return deploying(host, folder, client)


def streamed(client: Client) -> dict[str, str]:
    """Node.js has another handler for answers in pieces."""
    return {"handler": "app.stream"} if client in (NODE_3, NODE_4) else {}


def beginning(client: Client) -> tuple[str, bytes]:
    """What the stream's content type is, and its bytes before the pause. Rust's client always sends HTTP metadata first."""
    if client is not RUST:
        return "text/plain", b"first"
    metadata = b'{"statusCode":200,"headers":{"content-type":"application/octet-stream"},"cookies":[]}'
    return "application/vnd.awslambda.http-integration-response", metadata + b"\0" * 8 + b"first"


async def gathered(chunks: AsyncIterator[bytes], size: int) -> bytes:
    """So many bytes of a stream, in however many pieces."""
    found = b""
    while len(found) < size:
        found += await anext(chunks)
    return found


async def reported(stream: ResponseStream) -> InvokeResult:
    """Its result, once its environment is free again: else the next invoke might meet another one."""
    assert stream.result is not None
    async with asyncio.timeout(20):
        while stream.result.report is None:
            await asyncio.sleep(0.001)
    return stream.result


@pytest.mark.catalogue("RT-001", "RT-021", "RT-030", "RT-050", "LC-035")
async def test_it_echoes_in_one_process(ric: Deploy) -> None:
    function = await ric()
    events: list[Any] = [{"ä": "日本 😀", "n": [1, 2.5, None, True], "": {}}, "text", 0, False, [], {}]
    for sent in events:
        result = await function.invoke(sent)
        assert result.check().json() == sent
        assert result.content_type == "application/json"
    assert (await function.invoke(payload=b"null")).check().payload == b"null"
    first, second = [(await function.invoke({"do": "pid"})).check().json() for _ in range(2)]
    assert first == second


@pytest.mark.catalogue("RT-022", "RT-024", "RT-025", "RT-026", "RT-027", "RT-028")
async def test_it_understands_every_header(ric: Deploy, client: Client) -> None:
    app = {"installation_id": "i", "app_title": "büro", "app_version_name": "", "app_version_code": "", "app_package_name": ""}
    # Rust's client reads "environment" where the others read "env".
    sent = {"client": app, "custom": {"a": "1"}, "environment" if client is RUST else "env": {"b": "c"}}
    result = await (await ric()).invoke(
        {"do": "context"},
        client_context=sent,
        cognito_identity={"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"},
        tenant_id="blue",
        trace_id=TRACE,
    )
    told = result.check().json()
    assert 0 < told.pop("left") <= 20_000
    assert told == {
        "client": ["büro", {"a": "1"}, {"b": "c"}],
        "identity": ["id", "pool"],
        "arn": "arn:aws:lambda:us-east-1:123456789012:function:function",
        "id": result.request_id,
        "trace": TRACE,
    } | ({} if client is RUST else {"tenant": "blue"})  # Rust's client does not know of tenants


@pytest.mark.catalogue("RT-090", "RT-094", "RT-095", "RT-096", "TL-072")
@pytest.mark.parametrize("text", ["bööm 日本", "k" * 900_000], ids=["short", "long"])  # an X-Ray header may be as long, too
async def test_an_error_arrives_as_it_was_posted_and_the_process_lives_on(ric: Deploy, client: Client, text: str) -> None:
    function = await ric()
    before = (await function.invoke({"do": "pid"})).check().json()
    failed = await function.invoke({"do": "fail", "text": text})
    told = failed.json()
    assert (told["errorType"], told["errorMessage"]) == (client.error, text)
    assert (failed.function_error, failed.status, failed.error_type) == ("Unhandled", "error", client.error)
    assert failed.report is not None
    assert (failed.report.status, failed.report.error_type) == ("success", None)
    assert (await function.invoke({"do": "pid"})).check().json() == before


@pytest.mark.catalogue("RT-102", "RT-103", "LC-012", "LC-013")
async def test_an_error_of_init(ric: Deploy, client: Client) -> None:
    function = await ric(environment={"INIT": "fail"})
    result = await function.invoke()
    # Go and Rust have no word for it: their programs just exit. Node.js posts no type in a header, Java one of its own.
    error_type = {NODE_3: "Runtime.Unknown", NODE_4: "Runtime.Unknown", JVM: "Runtime.BadFunctionCode"}.get(
        client, "Runtime.ExitError"
    )
    told = result.json()
    told.pop("trace", None)
    if client in (GO, RUST):
        assert told == platform_error(result, error_type, "Runtime exited with error: exit status 1")
    else:
        assert told == {"errorType": client.error, "errorMessage": "no start"}
    assert (result.function_error, result.error_phase) == ("Unhandled", "init")
    reports = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
    rest = ["Status: error", f"Error Type: {error_type}"]
    assert reports == [["Phase: init", *rest], ["Phase: invoke", *rest]]


@pytest.mark.catalogue("LC-070", "LC-072")
async def test_a_timeout_and_the_invoke_after_it(folder: MakeFolder, client: Client) -> None:
    """On a clock that only the test moves: nobody waits for the limit."""
    clock = ManualClock()
    async with Host(clock=clock) as host:
        function = await deploying(host, folder, client)(timeout=3)
        before = (await function.invoke({"do": "pid"})).check().json()
        asleep = asyncio.Event()
        host.journal.subscribe(lambda record: asleep.set() if "asleep" in str(record.record) else None)
        invoke = asyncio.ensure_future(function.invoke({"do": "sleep"}))
        await asleep.wait()
        clock.advance(3)
        late = await invoke
        assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert (late.status, late.function_error) == ("timeout", "Unhandled")
        after = await function.invoke({"do": "pid"})
        assert after.check().json() != before
        assert len(function.environments) == 1
    no_task_is_left()


@pytest.mark.catalogue("RT-021", "RT-050")
async def test_6_mib_both_ways(ric: Deploy) -> None:
    function = await ric()
    payload = b'"' + b"a" * (6 * MIB - 2) + b'"'
    assert (await function.invoke(payload=payload)).check().payload == payload


@pytest.mark.catalogue("RT-057", "RT-058", "RT-059")
async def test_an_answer_over_the_limit(ric: Deploy, client: Client) -> None:
    """The caller is told at once. Go's and Java's client take the 413 for fatal and exit; the others go on."""
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
    ends = client in (GO, JVM)
    expected = ("error", "Runtime.ExitError") if ends else ("success", None)
    assert (large.report.status, large.report.error_type) == expected
    assert ((await function.invoke({"do": "pid"})).check().json() != before) is ends


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


@pytest.mark.catalogue("LC-074", "LC-070")
@pytest.mark.parametrize(
    ("status", "message"),
    [(0, "Runtime exited without providing a reason"), (9, "Runtime exited with error: exit status 9")],
)
async def test_an_exit_in_the_handler(ric: Deploy, status: int, message: str) -> None:
    function = await ric()
    ended = await function.invoke({"do": "exit", "status": status})
    assert ended.json() == platform_error(ended, "Runtime.ExitError", message)
    assert (await function.invoke("again")).check().json() == "again"


async def test_what_it_logs_belongs_to_its_invoke(ric: Deploy, client: Client) -> None:
    function = await ric()
    await function.invoke()
    for text in ("said ä", "and again"):
        [line] = printed(await function.invoke({"do": "log", "text": text}))
        assert line.endswith(text)


@pytest.mark.catalogue("RT-052", "RT-070", "RT-077", "LC-035")
@pytest.mark.parametrize("client", [NODE_3, NODE_4, GO, RUST], ids=str, indirect=True)
async def test_a_stream_arrives_in_pieces(ric: Deploy, client: Client) -> None:
    function = await ric(**streamed(client))
    stream = await function.invoke_stream({"do": "stream"})
    chunks = aiter(stream)
    content_type, start = beginning(client)
    assert await gathered(chunks, len(start)) == start
    assert stream.content_type == content_type
    assert stream.result is None  # the function waits for the file
    put(function, "go", "")
    assert b"".join([chunk async for chunk in chunks]) == b"second"
    assert (await reported(stream)).check().content_type == content_type
    # The same function, now for a caller who wants it whole.
    whole = await function.invoke({"do": "stream"})
    assert whole.check().payload == start + b"second"
    assert len(function.environments) == 1


@pytest.mark.catalogue("RT-072")
@pytest.mark.parametrize("client", [NODE_3, NODE_4, GO], ids=str, indirect=True)
async def test_an_error_in_mid_stream_comes_in_trailers(ric: Deploy, client: Client) -> None:
    function = await ric(**streamed(client))
    stream = await function.invoke_stream({"do": "stream", "fail": True})
    chunks = aiter(stream)
    assert await gathered(chunks, 5) == b"first"
    put(function, "go", "")
    assert [chunk async for chunk in chunks] == []
    result = await reported(stream)
    told = result.json()
    assert (told["errorType"], told["errorMessage"]) == (client.error, "in mid-stream")
    assert (result.function_error, result.error_type) == ("Unhandled", client.error)
    again = await function.invoke({"do": "stream", "fail": True})  # the same for a caller who wants it whole
    assert (again.function_error, again.json()["errorMessage"]) == ("Unhandled", "in mid-stream")
    assert len(function.environments) == 1
