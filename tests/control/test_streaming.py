"""InvokeWithResponseStream, read by botocore's own decoder."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from sandbox.control import event_stream
from tests.conftest import Tier, python_of, request
from tests.control.conftest import ROLE, Caller
from tests.control.test_invoke import connected, raw, refusal, until

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

# Does what its event lists: write text, write n bytes, wait for a file, make a file, fail, exit.
BOOTSTRAP = """#!{python}
import http.client, base64, json, os, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    reply = api.getresponse()
    event = json.loads(reply.read())
    base = "/2018-06-01/runtime/invocation/" + reply.headers["Lambda-Runtime-Aws-Request-Id"]
    api.putrequest("POST", base + "/response")
    api.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
    api.putheader("Transfer-Encoding", "chunked")
    api.putheader("Content-Type", event.get("type", "text/plain"))
    api.putheader("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body")
    api.endheaders()
    trailers = ""
    for do, what in event["do"]:
        if do in ("write", "bytes"):
            data = what.encode() if do == "write" else b"x" * what
            api.send(b"%x\\r\\n%b\\r\\n" % (len(data), data))
        elif do == "wait":
            while not os.path.exists(what):
                time.sleep(0.002)
        elif do == "make":
            open(what, "w").write("made")
        elif do == "print":
            print(what, flush=True)
        elif do == "exit":
            os._exit(what)
        elif do == "fail":
            body = base64.b64encode(json.dumps({{"errorType": what, "errorMessage": "as asked"}}).encode()).decode()
            trailers = "Lambda-Runtime-Function-Error-Type: " + what + "\\r\\n"
            trailers += "Lambda-Runtime-Function-Error-Body: " + body + "\\r\\n"
    api.send(b"0\\r\\n" + trailers.encode() + b"\\r\\n")
    api.getresponse().read()
"""
SHOWN = "application/vnd.amazon.eventstream"


def archive(tier: Tier) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        file.writestr(entry, BOOTSTRAP.format(python=python_of(tier)))
    return data.getvalue()


@pytest.fixture
async def deployed(caller: Caller, tier: Tier) -> Caller:
    await caller.create_function(
        FunctionName="f", Runtime="provided.al2023", Handler="x", Role=ROLE, Timeout=30, Code={"ZipFile": archive(tier)}
    )
    await caller.active("f")
    return caller


class Stream:
    """An answer as it comes, read in a thread."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self._events: Iterator[dict[str, Any]] = iter(answer["EventStream"])

    async def next(self) -> dict[str, Any] | None:
        return await asyncio.to_thread(next, self._events, None)

    async def rest(self) -> tuple[bytes, dict[str, Any]]:
        """The bytes that still come, and the last event, of which there is one."""
        events = await asyncio.to_thread(list, self._events)
        body = b"".join(event["PayloadChunk"]["Payload"] for event in events[:-1])
        complete: dict[str, Any] = events[-1]["InvokeComplete"]
        return body, complete


async def begin(caller: Caller, *do: tuple[str, Any], name: str = "f", event: Any = None, **parameters: Any) -> Stream:
    payload = json.dumps(event if event is not None else {"do": do})
    return Stream(await caller.invoke_with_response_stream(FunctionName=name, Payload=payload, **parameters))


@pytest.mark.catalogue("IN-041", "IN-043", "IN-040")
async def test_pieces_come_as_they_are_written(deployed: Caller, tmp_path: Path) -> None:
    go = [str(tmp_path / "go"), str(tmp_path / "go2")]
    stream = await begin(deployed, ("write", "one"), ("wait", go[0]), ("write", "twö"), ("wait", go[1]), ("write", "three"))
    headers = deployed.metadata["HTTPHeaders"]
    assert headers["content-type"] == SHOWN
    assert headers["x-amzn-remapped-content-type"] == "text/plain"
    assert stream.answer["ExecutedVersion"] == "$LATEST"
    assert await stream.next() == {"PayloadChunk": {"Payload": b"one"}}
    Path(go[0]).touch()
    assert await stream.next() == {"PayloadChunk": {"Payload": "twö".encode()}}
    Path(go[1]).touch()
    assert await stream.rest() == (b"three", {})


@pytest.mark.catalogue("IN-042", "IN-044")
async def test_errors_in_mid_stream(deployed: Caller) -> None:
    stream = await begin(deployed, ("write", "one"), ("fail", "Own.Error"))
    body, complete = await stream.rest()
    assert (body, complete["ErrorCode"]) == (b"one", "Own.Error")
    assert json.loads(complete["ErrorDetails"]) == {"errorType": "Own.Error", "errorMessage": "as asked"}
    assert "LogResult" not in complete
    stream = await begin(deployed, ("write", "one"), ("exit", 3), LogType="Tail")
    body, complete = await stream.rest()
    assert (body, complete["ErrorCode"]) == (b"one", "Runtime.TruncatedResponse")
    assert "REPORT" in base64.b64decode(complete["LogResult"]).decode()
    assert await (await begin(deployed, ("write", "again"))).rest() == (b"again", {})


@pytest.mark.catalogue("IN-042")
async def test_the_tail_comes_last(deployed: Caller) -> None:
    stream = await begin(deployed, ("print", "hello"), ("write", "one"), LogType="Tail")
    body, complete = await stream.rest()
    log = base64.b64decode(complete.pop("LogResult")).decode()
    assert (body, complete) == (b"one", {})
    assert log.startswith("START RequestId: ")
    assert "\nhello\nEND RequestId: " in log
    assert "\nREPORT RequestId: " in log


async def test_a_stream_of_nothing_and_a_long_one(deployed: Caller) -> None:
    assert await (await begin(deployed)).rest() == (b"", {})
    stream = await begin(deployed, ("bytes", 2_000_000), ("bytes", 1), ("bytes", 999_999))
    body, complete = await stream.rest()
    assert (body == b"x" * 3_000_000, complete) == (True, {})


@pytest.mark.catalogue("IN-045", "IN-046")
async def test_functions_that_do_not_stream(caller: Caller) -> None:
    await caller.create(Timeout=1)
    body, complete = await (await begin(caller, event={"x": 1})).rest()
    assert (json.loads(body)["event"], complete) == ({"x": 1}, {})
    stream = await begin(caller, event={"do": "raise"})
    body, complete = await stream.rest()
    assert (body, complete["ErrorCode"]) == (b"", "ValueError")
    assert json.loads(complete["ErrorDetails"])["errorMessage"] == "as asked"
    for event, code in (({"do": "exit", "code": 1}, "Runtime.ExitError"), ({"do": "sleep", "seconds": 9}, "Sandbox.Timedout")):
        body, complete = await (await begin(caller, event=event)).rest()
        assert (body, complete["ErrorCode"]) == (b"", code)


@pytest.mark.catalogue("IN-040", "NF-005")
async def test_types_of_streaming_invokes(deployed: Caller) -> None:
    status, code, _ = await refusal(deployed.invoke_with_response_stream(FunctionName="f", InvocationType="Event"))
    assert (status, code) == (400, "ValidationException")
    path = "/2021-11-15/functions/f/response-streaming-invocations"
    async with connected(deployed) as connection:
        reply = await connection.ask("POST", path, b"{}", X_Amz_Invocation_Type="DryRun")
        assert (reply.status, reply.body) == (204, b"")
        reply = await connection.ask("POST", path, b"{")
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (400, "InvalidRequestContentException")


async def test_a_stream_behind_an_invoke(deployed: Caller) -> None:
    """On one connection, in one segment."""
    both = request("POST", "/2015-03-31/functions/nobody/invocations", b"{}")
    event = json.dumps({"do": [("write", "one")]}).encode()
    path = "/2021-11-15/functions/f/response-streaming-invocations"
    async with connected(deployed) as connection:
        await connection.send(both + request("POST", path, event, Connection="close"))
        assert (await connection.reply()).status == 404
        rest = await connection.reader.read()
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert b"".join(event_stream.payload_chunks(b"one")) in rest


@pytest.mark.parametrize("when", ["before", "after", "unread"])
async def test_a_reader_who_leaves_does_not_stop_the_function(deployed: Caller, tmp_path: Path, when: str) -> None:
    """Before the first byte, after it, or when much has been sent that it did not read."""
    begun, go, done = (tmp_path / name for name in ("begun", "go", "done"))
    first = [("write", "one")] if when == "after" else [("bytes", 8_000_000)] if when == "unread" else []
    more = [] if when == "unread" else [("wait", str(go))]
    do = [("make", str(begun)), *first, *more, *[("bytes", 200_000)] * 20, ("make", str(done))]
    path = "/2021-11-15/functions/f/response-streaming-invocations"
    async with connected(deployed) as connection:
        await connection.send(request("POST", path, json.dumps({"do": do}).encode()))
        await until(begun)
        if when != "before":
            await connection.reader.readexactly(20)
        connection.writer.transport.abort()
    await raw(deployed, name="nobody")
    go.touch()
    assert await until(done) == "made"
    assert await (await begin(deployed, ("write", "again"))).rest() == (b"again", {})


async def test_a_slow_reader_makes_the_function_wait(deployed: Caller, tmp_path: Path) -> None:
    done = tmp_path / "done"
    stream = await begin(deployed, *[("bytes", 1_000_000)] * 40, ("make", str(done)))
    await stream.next()
    for _ in range(20):
        await raw(deployed, name="nobody")
    assert not done.exists()
    await asyncio.to_thread(stream.answer["EventStream"].close)
    assert await until(done) == "made"


# ── frames ──


@given(st.lists(st.binary(max_size=2000), max_size=5), st.none() | st.text(), st.none() | st.text(), st.none() | st.text())
def test_frames_are_what_botocore_reads(pieces: list[bytes], code: str | None, details: str | None, log: str | None) -> None:
    frames = [frame for piece in pieces for frame in event_stream.payload_chunks(piece)]
    data = b"".join([*frames, event_stream.invoke_complete(code=code, details=details, log=log)])
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    *chunks, last = list(buffer)
    for chunk in chunks:
        assert chunk.headers[":event-type"] == "PayloadChunk"
        assert chunk.headers[":message-type"] == "event"
    assert b"".join(chunk.payload for chunk in chunks) == b"".join(pieces)
    assert last.headers[":event-type"] == "InvokeComplete"
    given_ = {"ErrorCode": code, "ErrorDetails": details, "LogResult": log}
    assert json.loads(last.payload) == {name: value for name, value in given_.items() if value is not None}


def test_a_large_piece_is_several_frames() -> None:
    data = os.urandom(600_000)
    buffer = EventStreamBuffer()
    for frame in event_stream.payload_chunks(data):
        buffer.add_data(frame)
    assert b"".join(message.payload for message in buffer) == data
