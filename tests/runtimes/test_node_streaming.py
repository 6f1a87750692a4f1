"""The managed Node.js runtime: handlers that answer in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.limits import MIB
from sandbox.host.host import Function
from sandbox.host.result import InvokeResult
from tests.conftest import MakeFolder
from tests.runtimes.conftest import in_both_tiers, in_tier_process, platform_error, printed, put
from tests.runtimes.node import GONE, Deploy, deploying, error_of, hosting, logged

pytestmark = in_tier_process

PRELUDE = b'{"statusCode":201,"headers":{"x-a":"b"},"cookies":["c=d"]}' + b"\0" * 8
HTTP = "application/vnd.awslambda.http-integration-response"

APP = """
const { Readable } = require("stream"), { pipeline } = require("stream/promises"), fs = require("fs");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
// The test has seen what was sent before when it makes the file.
const go = async (file = "go") => { while (!fs.existsSync(file)) await pause(2); };
const prelude = { statusCode: 201, headers: { "x-a": "b" }, cookies: ["c=d"] };
const http = (stream, ...rest) => awslambda.HttpResponseStream.from(stream, ...rest);
const cases = {
  pieces: async (s) => {
    s.setContentType("text/plain");
    s.write("one");
    await go();
    s.write("two");
    await go("go2");
    s.end("three");
  },
  "nothing but end": async (s) => { s.end(); },
  objects: async (s) => { s.write({ a: 1 }); s.write(5); s.write([1, "ü"]); s.write(true); s.end({ e: 1 }); },
  bytes: async (s) => {
    s.write(Buffer.from([0, 255, 13, 10]));
    s.write(new Uint8Array([48]));
    s.write("ü");
    s.end("6869", "hex");
  },
  "empty pieces": async (s) => { s.write(""); s.write("a"); s.write(""); s.end(""); },
  http: async (s) => { s = http(s, prelude); s.write("body"); s.end(); },
  "http end": async (s) => { http(s, prelude).end("body"); },
  "http empty": async (s) => { http(s, prelude).end(); },
  "http same": async (s) => { if (http(s, prelude) !== s) throw new Error("another"); s.end("body"); },
  "type with line ends": async (s) => { s.setContentType("text/plain\\r\\nContent-Length: 0"); s.end("body"); },
  "http, then type": async (s) => { http(s, prelude); s.setContentType("text/html"); s.end("body"); },
  "http without prelude": async (s) => { s = http(s); s.write("body"); s.end(); },
  "http end without prelude": async (s) => { http(s).end(); },
  "type too late": async (s) => { s.write("one"); await go(); s.setContentType("text/html"); },
  "http too late": async (s) => { s.write("one"); await go(); http(s, prelude); },
  pipeline: async (s) => { await pipeline(Readable.from(["p1", "p2"]), s); },
  "pipeline fails": async (s) => {
    await pipeline(Readable.from((async function* () { yield "one"; await go(); throw new RangeError("source"); })()), s);
  },
  pipe: async (s) => { Readable.from(["p1", "p2"]).pipe(s); },
  "later end": async (s) => { setTimeout(() => s.end("late"), 20); },
  "throw early": async () => { throw new RangeError("early"); },
  "throw early, http": async (s) => { http(s, prelude); throw new RangeError("early"); },
  "throw mid": async (s) => { s.write("one"); await go(); throw Object.assign(new RangeError("mïd"), { code: "E" }); },
  "throw string": async (s) => { s.write("one"); await go(); throw "mid"; },
  "throw odd": async (s) => { s.write("one"); await go(); throw Object.create(null); },
  "throw mute": async (s) => {
    s.write("one");
    await go();
    throw Object.defineProperty(new Error("x"), "stack", { get() { throw new Error("inner"); } });
  },
  "throw late": async (s) => { s.end("one"); await pause(5); throw new RangeError("late"); },
  destroy: async (s) => { s.write("one"); await go(); s.destroy(new RangeError("destroyed")); },
  "destroy, no error": async (s) => { s.write("one"); await go(); s.destroy(); },
  "destroy early": async (s) => { s.destroy(new RangeError("destroyed")); },
  "write after end": async (s) => { s.write("one"); await go(); s.end(); s.write("two"); },
  "write nothing": async (s) => { s.write("one"); await go(); s.write(undefined); },
  "write null": async (s) => { s.write("one"); await go(); s.write(null); },
  result: async (s) => { s.end("one"); return { ignored: true }; },
  never: async (s) => { s.write("sent"); },
  exit: async (s) => { s.write("one"); await go(); process.exit(3); },
  reject: async (s) => { s.write("one"); await go(); Promise.reject(new RangeError("nobody")); await pause(60_000); },
  context: async (s, context) => { s.end(JSON.stringify(context)); },
  large: async (s, context, { size, file }) => {
    for (let sent = 0; sent < size; sent += 65536) {
      if (!s.write("x".repeat(65536))) await new Promise((done) => s.once("drain", done));
      fs.writeFileSync(file, String(sent));
    }
    s.end();
  },
};
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  if (event === "pid") return void stream.end(String(process.pid));
  return cases[event.do ?? event](stream, context, event);
});
exports.plain = awslambda.streamifyResponse((event, stream) => { stream.end("plain"); });
exports.throws = awslambda.streamifyResponse(() => { throw new RangeError("at once"); });
"""


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting() as host:
        yield host


@pytest.fixture
def deploy(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


async def whole(function: Function, event: Any) -> tuple[bytes, str | None, InvokeResult]:
    """All of a stream, its content type, its result."""
    stream = await function.invoke_stream(event)
    body = b"".join([chunk async for chunk in stream])
    assert stream.result is not None
    return body, stream.content_type, stream.result


async def after_one(function: Function, event: Any) -> tuple[bytes, InvokeResult]:
    """A stream whose function waits until its first piece, `one`, has been seen: what comes then, and the result."""
    stream = await function.invoke_stream(event)
    chunks = aiter(stream)
    assert await anext(chunks) == b"one"
    assert stream.result is None
    put(function, "go", "")
    rest = b"".join([chunk async for chunk in chunks])
    assert stream.result is not None
    return rest, stream.result


# ── pieces ──


@pytest.mark.catalogue("RT-052", "RT-070", "RT-071", "LC-035")
async def test_pieces_arrive_one_by_one(deploy: Deploy) -> None:
    function = await deploy(APP)
    stream = await function.invoke_stream("pieces")
    chunks = aiter(stream)
    assert await anext(chunks) == b"one"
    assert stream.content_type == "text/plain"
    assert stream.result is None
    put(function, "go", "")
    assert await anext(chunks) == b"two"
    put(function, "go2", "")
    assert [chunk async for chunk in chunks] == [b"three"]
    assert stream.result is not None
    assert stream.result.check().content_type == "text/plain"


STREAMS = {
    "nothing but end": b"",
    "objects": '{"a":1}5[1,"ü"]true{"e":1}'.encode(),
    "bytes": b"\0\xff\r\n0\xc3\xbchi",
    "empty pieces": b"a",
    "pipeline": b"p1p2",
    "pipe": b"p1p2",
    "later end": b"late",
    "http": PRELUDE + b"body",
    "http end": PRELUDE + b"body",
    "http empty": PRELUDE,
    "http same": PRELUDE + b"body",
}


@in_both_tiers
@pytest.mark.catalogue("RT-052", "RT-070", "RT-076", "RT-077")
async def test_what_is_written_arrives_for_a_streaming_and_for_a_buffered_caller(deploy: Deploy) -> None:
    """AWS's client forgets the metadata of a response whose first call is end()."""
    function = await deploy(APP)
    pid, _, _ = await whole(function, "pid")
    for name, expected in STREAMS.items():
        kind = HTTP if name.startswith("http") else "application/octet-stream"
        body, content_type, result = await whole(function, name)
        assert (name, body, content_type, result.function_error) == (name, expected, kind, None)
        buffered = await function.invoke(name)
        assert (name, buffered.check().payload, buffered.content_type) == (name, expected, kind)
        assert printed(buffered) == []
    assert (await whole(function, "pid"))[0] == pid


@pytest.mark.catalogue("RT-076")
async def test_the_content_type_may_change_before_the_first_byte(deploy: Deploy) -> None:
    body, content_type, _ = await whole(await deploy(APP), "http, then type")
    assert (body, content_type) == (PRELUDE + b"body", "text/html")


async def test_a_streaming_handlers_context_has_no_callbacks(deploy: Deploy) -> None:
    result = await (await deploy(APP)).invoke("context")
    told = result.check().json()
    assert told["awsRequestId"] == result.request_id
    assert not {"succeed", "fail", "done"} & set(told)
    assert told["callbackWaitsForEmptyEventLoop"] is True


async def test_a_slow_reader_makes_the_function_wait(deploy: Deploy, tmp_path: Path) -> None:
    """It writes down how far it is: while nobody reads, not further than what the buffers on the way can hold."""
    function = await deploy(APP)
    file = tmp_path / "sent"
    size = 32 * MIB
    stream = await function.invoke_stream({"do": "large", "size": size, "file": str(file)})
    chunks = aiter(stream)
    received = len(await anext(chunks))
    seen, same = "", 0
    async with asyncio.timeout(20):
        while same < 20:  # it moves no more
            await asyncio.sleep(0.01)
            now = file.read_text()  # empty while it is being written
            same, seen = (same + 1 if now and now == seen else 0), now
    assert 0 < int(seen) < size - 2 * 65536
    stream.close()
    async for chunk in chunks:  # what is left in the queue; the function ends without its reader
        received += len(chunk)
    assert received < size


# ── errors ──


@pytest.mark.catalogue("RT-072")
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("throw mid", ("RangeError", "mïd")),
        ("throw string", ("string", "mid")),
        ("throw odd", ("object", "[object Object]")),
        ("throw mute", ("handled", GONE)),
        ("type too late", ("Runtime.InvalidStreamingOperation", "Cannot set content-type, too late.")),
        ("http too late", ("Runtime.InvalidStreamingOperation", "Cannot set content-type, too late.")),
        ("pipeline fails", ("RangeError", "source")),
        ("destroy", ("RangeError", "destroyed")),
        ("destroy, no error", ("Error", "Response stream is not finished.")),
        ("write null", ("TypeError", "May not write null values to stream")),
    ],
)
async def test_an_error_in_mid_stream_comes_in_trailers(deploy: Deploy, name: str, error: tuple[str, str]) -> None:
    function = await deploy(APP)
    pid, _, _ = await whole(function, "pid")
    rest, result = await after_one(function, name)
    assert rest == b""
    assert error_of(result.json()) == error
    assert (result.function_error, result.error_type) == ("Unhandled", error[0])
    again = await function.invoke(name)  # the same for a caller who wants it whole
    assert (again.function_error, error_of(again.json())) == ("Unhandled", error)
    if name.startswith("throw"):
        [line] = printed(again)
        assert logged(line, again.request_id, "ERROR", "Invoke Error")["errorMessage"] == error[1]
    assert (await whole(function, "pid"))[0] == pid


async def test_what_is_written_after_the_end_is_not_sent(deploy: Deploy) -> None:
    """Whether the caller is told of it depends on how far the end has got."""
    function = await deploy(APP)
    pid, _, _ = await whole(function, "pid")
    rest, _ = await after_one(function, "write after end")
    assert rest == b""
    assert (await whole(function, "pid"))[0] == pid


async def test_a_content_type_is_one_field(deploy: Deploy) -> None:
    function = await deploy(APP)
    body, content_type, result = await whole(function, "type with line ends")
    assert (body, content_type) == (b"body", "text/plain  Content-Length: 0")
    assert result.function_error is None


@pytest.mark.catalogue("RT-072")
async def test_what_cannot_be_written_is_an_error(deploy: Deploy) -> None:
    rest, result = await after_one(await deploy(APP), "write nothing")
    assert rest == b""
    assert error_of(result.json())[0] == "TypeError"


@in_both_tiers
@pytest.mark.catalogue("RT-072")
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("throw early", ("RangeError", "early")),
        ("throw early, http", ("RangeError", "early")),
        ("destroy early", ("RangeError", "destroyed")),
    ],
)
async def test_an_error_before_the_first_byte(deploy: Deploy, name: str, error: tuple[str, str]) -> None:
    function = await deploy(APP)
    pid, _, _ = await whole(function, "pid")
    body, _, result = await whole(function, name)
    assert (body, result.function_error, error_of(result.json())) == (b"", "Unhandled", error)
    assert error_of((await function.invoke(name)).json()) == error
    assert (await whole(function, "pid"))[0] == pid


@pytest.mark.catalogue("RT-060")
async def test_an_exit_in_mid_stream(deploy: Deploy) -> None:
    function = await deploy(APP)
    rest, result = await after_one(function, "exit")
    assert rest == b""
    assert (result.function_error, result.error_type) == ("Unhandled", "Runtime.TruncatedResponse")
    assert (await whole(function, "nothing but end"))[2].function_error is None


async def test_a_rejection_that_nobody_handles_in_mid_stream(deploy: Deploy) -> None:
    """The response has begun, so nothing can be posted any more (RT-073); the process ends, and with it the response."""
    function = await deploy(APP)
    rest, result = await after_one(function, "reject")
    assert (rest, result.function_error) == (b"", "Unhandled")
    assert (await whole(function, "nothing but end"))[2].function_error is None


async def test_an_error_after_the_end_is_only_logged(deploy: Deploy) -> None:
    function = await deploy(APP)
    body, _, result = await whole(function, "throw late")
    assert (body, result.function_error) == (b"one", None)
    again = await function.invoke("throw late")
    assert again.check().payload == b"one"
    [line] = printed(again)
    assert logged(line, again.request_id, "ERROR", "Invoke Error")["errorMessage"] == "late"


async def test_a_result_is_ignored_and_that_is_said(deploy: Deploy) -> None:
    result = await (await deploy(APP)).invoke("result")
    assert result.check().payload == b"one"
    [line] = printed(result)
    assert line.endswith("\tWARN\tStreaming handlers ignore return values.")


@pytest.mark.parametrize(
    ("handler", "body", "error"),
    [("app.plain", b"plain", None), ("app.throws", b"", ("RangeError", "at once"))],
)
async def test_a_streaming_handler_that_is_not_async(
    deploy: Deploy, handler: str, body: bytes, error: tuple[str, str] | None
) -> None:
    function = await deploy(APP, handler=handler)
    result = await function.invoke()
    [line] = printed(result)
    message = logged(line, result.request_id, "ERROR", "Invoke Error")["errorMessage"]
    if error is None:  # it has ended its stream before that could be told to the caller
        assert (result.function_error, result.payload) == (None, body)
        assert message == "Streaming does not support non-async handlers."
    else:
        assert (result.function_error, error_of(result.json()), message) == ("Unhandled", error, error[1])


async def test_metadata_that_is_missing_is_an_error(deploy: Deploy) -> None:
    body, _, result = await whole(await deploy(APP), "http without prelude")
    assert (body, error_of(result.json())[0]) == (b"", "TypeError")


async def timed_out(folder: MakeFolder, event: str) -> tuple[bytes, InvokeResult]:
    """A stream that the function leaves open until its timeout, on a clock that only the test moves."""
    clock = ManualClock()
    async with hosting(clock=clock) as host:
        function = await deploying(host, folder)(APP, timeout=3)
        stream = await function.invoke_stream(event)
        chunks = aiter(stream)
        sent = await anext(chunks)
        clock.advance(3)
        sent += b"".join([chunk async for chunk in chunks])
        assert stream.result is not None
        assert (await function.invoke("nothing but end")).check().payload == b""
    return sent, stream.result


@pytest.mark.catalogue("LC-070")
async def test_a_stream_that_nobody_ends_is_waited_for(folder: MakeFolder) -> None:
    """What was sent is with the caller already."""
    sent, result = await timed_out(folder, "never")
    assert sent == b"sent"
    assert result.json() == platform_error(result, "Sandbox.Timedout", "Task timed out after 3.00 seconds")


async def test_metadata_that_is_missing_is_an_error_at_the_end_too(deploy: Deploy) -> None:
    function = await deploy(APP, timeout=1)
    body, _, result = await whole(function, "http end without prelude")  # AWS's client: an empty answer
    assert (body, result.error_type) == (b"", "TypeError")


# ── sizes ──


@pytest.mark.catalogue("RT-058", "RT-077")
async def test_a_stream_that_is_too_long_for_a_buffered_caller(deploy: Deploy, tmp_path: Path) -> None:
    function = await deploy(APP)
    pid, _, _ = await whole(function, "pid")
    result = await function.invoke({"do": "large", "size": 7 * MIB, "file": str(tmp_path / "sent")})
    assert result.function_error == "Unhandled"
    assert result.json()["errorType"] == "Function.ResponseSizeTooLarge"
    assert (await whole(function, "pid"))[0] == pid


async def test_a_stream_of_5_mib_is_whole(deploy: Deploy, tmp_path: Path) -> None:
    """For a streaming caller, too."""
    function = await deploy(APP)
    event = {"do": "large", "size": 5 * MIB, "file": str(tmp_path / "sent")}
    body, _, result = await whole(function, event)
    assert result.function_error is None
    assert body == (await function.invoke(event)).check().payload == b"x" * (5 * MIB)
