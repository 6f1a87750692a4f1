"""The Runtime API as a runtime meets it: streaming responses."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.core.limits import MIB
from sandbox.host.environment import shell
from sandbox.host.result import Bucket, ResponseStream
from sandbox.wire import runtime_api
from tests.conftest import Played, Reply
from tests.wire.talk import (
    ERROR_BODY,
    ERROR_TYPE,
    LIMIT,
    MODE,
    accepted,
    chunk,
    hang_up,
    in_both_tiers,
    last_chunk,
    opening,
    path,
    post_sized,
    refused,
    serves,
    streaming,
)

pytestmark = pytest.mark.tiers("process")  # see talk.py

# ── streaming ──


@in_both_tiers
@pytest.mark.catalogue("RT-070", "RT-071", "RT-052")
async def test_pieces_reach_the_caller_before_the_post_ends(played: Played) -> None:
    s = await streaming(played)
    await s.begin(b"first", content_type="text/event-stream")
    assert s.stream.content_type == "text/event-stream"
    reply = asyncio.ensure_future(s.connection.reply())
    for piece in (b"second", b"\r\n0\r\n\r\n", b"x" * 1000):
        await s.connection.send(chunk(piece))
        assert await anext(s.chunks) == piece
    assert not reply.done()
    assert not s.job.answered.done()
    await s.connection.send(last_chunk())
    accepted(await reply)
    assert await s.rest() == b""
    assert s.stream.result is s.job.result
    assert s.job.result.function_error is None


@pytest.mark.catalogue("RT-072")
async def test_trailers_turn_a_stream_into_an_error(played: Played) -> None:
    s = await streaming(played)
    await s.begin()
    details = b'{"errorType":"Boom","errorMessage":"\xc3\xa9"}'
    trailers = {ERROR_TYPE: "Boom", ERROR_BODY: base64.b64encode(details).decode()}
    await s.connection.send(chunk(b"second") + last_chunk(**trailers))
    accepted(await s.connection.reply())
    assert await s.rest() == b"second"
    assert s.job.result.function_error == "Unhandled"
    assert s.job.result.error_type == "Boom"
    assert s.job.result.payload == details
    await serves(played, s.connection)


@pytest.mark.catalogue("RT-080")
@pytest.mark.parametrize("details", ["Requires base64", "é", "====", "a", None])
async def test_details_that_are_no_base64_keep_the_type(played: Played, details: str | None) -> None:
    s = await streaming(played)
    await s.begin()
    await s.connection.send(last_chunk(**{ERROR_TYPE: "Boom"}, **({} if details is None else {ERROR_BODY: details})))
    accepted(await s.connection.reply())
    assert await s.rest() == b""
    assert (s.job.result.function_error, s.job.result.error_type) == ("Unhandled", "Boom")
    assert s.job.result.json()["errorType"] == "Boom"
    await serves(played, s.connection)


@pytest.mark.catalogue("RT-072", "RT-077")
async def test_trailers_count_for_a_buffered_caller_too(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    details = base64.b64encode(b'{"errorType":"Boom"}').decode()
    await connection.send(opening(path(event)) + chunk(b"lost") + last_chunk(**{ERROR_TYPE: "Boom", ERROR_BODY: details}))
    accepted(await connection.reply())
    assert job.result.function_error == "Unhandled"
    assert job.result.json() == {"errorType": "Boom"}


@pytest.mark.catalogue("RT-077")
async def test_a_streamed_answer_to_a_buffered_caller_is_whole(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(opening(path(event)) + chunk(b"one "))
    await played.until(lambda: played.environment.machine.current.answering_on is not None)
    assert not job.answered.done()
    await connection.send(chunk(b"two") + last_chunk())
    accepted(await connection.reply())
    assert job.result.payload == b"one two"
    job, event = await played.deliver(connection)
    reply = await post_sized(connection, path(event), LIMIT + 1, "chunked", **{MODE: "streaming"})
    refused(reply, 413, "RequestEntityTooLarge")
    assert job.result.json()["errorType"] == "Function.ResponseSizeTooLarge"


@pytest.mark.catalogue("RT-077")
async def test_a_whole_answer_reaches_a_streaming_caller(played: Played) -> None:
    s = await streaming(played)
    accepted(await s.connection.ask("POST", s.path, b"at once", content_type="text/plain"))
    assert await s.rest() == b"at once"
    assert s.stream.content_type == "text/plain"
    assert s.stream.result is not None


@pytest.mark.catalogue("RT-073")
async def test_an_error_in_mid_stream_is_refused(played: Played) -> None:
    s = await streaming(played)
    await s.begin()
    other = await played.connect()
    refused(await other.ask("POST", path(s.job, "error"), b"{}"), 403, "InvalidStateTransition")
    await s.connection.send(chunk(b"second") + last_chunk())
    accepted(await s.connection.reply())
    assert await s.rest() == b"second"
    assert s.job.result.function_error is None


@pytest.mark.catalogue("RT-073", "RT-090")
async def test_an_error_before_the_first_piece_answers_a_streaming_caller(played: Played) -> None:
    s = await streaming(played)
    accepted(await s.connection.ask("POST", path(s.job, "error"), b'{"errorType":"Early"}'))
    assert await s.rest() == b""
    assert s.stream.result is not None
    assert s.stream.result.function_error == "Unhandled"
    assert s.stream.result.json() == {"errorType": "Early"}


@in_both_tiers
@pytest.mark.catalogue("RT-060", "RT-070")
async def test_a_stream_that_is_cut_ends_with_an_error(played: Played) -> None:
    s = await streaming(played)
    await s.begin()
    await s.connection.send(chunk(b"second"))
    await hang_up(s.connection)
    refused(await s.connection.reply(), 400, "TruncatedHTTPRequest")
    assert await s.rest() == b"second"
    assert s.stream.result is not None
    assert s.stream.result.error_type == "Runtime.TruncatedResponse"


@pytest.mark.catalogue("RT-074")
@pytest.mark.parametrize("more", [0, 1])
async def test_a_stream_has_a_cap_of_its_own(played: Played, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    assert shell.STREAM_LIMIT == runtime_api.STREAM_LIMIT == 200 * MIB
    cap = LIMIT + 1000
    monkeypatch.setattr(shell, "STREAM_LIMIT", cap)
    monkeypatch.setattr(runtime_api, "STREAM_LIMIT", cap)
    s = await streaming(played)
    await s.begin(b"x" * 10)
    reading = asyncio.ensure_future(s.rest())
    for size in (LIMIT, 990 + more):  # beyond what a buffered answer may have
        await s.connection.send(chunk(b"x" * size))
    await s.connection.send(last_chunk())
    reply = asyncio.ensure_future(s.connection.reply())
    played.clock.advance(1)  # the bandwidth's share
    if more:
        message = refused(await reply, 413, "RequestEntityTooLarge")
        assert str(cap) in message
        assert s.job.result.error_type == "Function.ResponseSizeTooLarge"
    else:
        accepted(await reply)
        assert s.job.result.function_error is None
    await released(played, reading)
    assert 10 + len(reading.result()) == cap if not more else 10 + len(reading.result()) <= cap


async def released(played: Played, task: asyncio.Task[Any]) -> None:
    """Moves time on until a throttled reader is through."""

    def through() -> bool:
        played.clock.advance(1)
        return task.done()

    await played.until(through)


@pytest.mark.catalogue("RT-075")
def test_bandwidth_is_a_burst_and_then_a_rate() -> None:
    clock = ManualClock()
    bucket = Bucket(clock)
    assert bucket.take(6 * MIB) == 0
    assert bucket.take(2 * MIB) == 1.0
    assert bucket.take(2 * MIB) == 2.0
    clock.advance(2)
    assert bucket.take(0) == 0
    assert bucket.take(MIB) == 0.5
    clock.advance(3600)  # an idle stream saves up one burst, not more
    assert bucket.take(6 * MIB) == 0
    assert bucket.take(1 * MIB) == 0.5


@pytest.mark.catalogue("RT-075")
async def test_what_exceeds_the_burst_waits_for_the_clock() -> None:
    clock = ManualClock()
    stream = ResponseStream(clock)
    for _ in range(10):
        stream.push(b"x" * MIB)
    stream.end()
    got: list[bytes] = []

    async def read() -> None:
        async for piece in stream:
            got.extend([piece])

    task = asyncio.ensure_future(read())
    ready = []
    for _ in range(5):
        for _ in range(30):
            await asyncio.sleep(0)
        ready.append(len(got))
        clock.advance(0.5)
    await task
    assert ready == [6, 7, 8, 9, 10]


@pytest.mark.catalogue("RT-076")
async def test_the_http_prelude_passes_untouched(played: Played) -> None:
    s = await streaming(played)
    prelude = b'{"statusCode":201,"headers":{"a":"b"},"cookies":[]}'
    await s.begin(prelude, content_type="application/vnd.awslambda.http-integration-response")
    await s.connection.send(chunk(b"\0" * 8) + chunk(b"body") + last_chunk())
    accepted(await s.connection.reply())
    assert await s.rest() == b"\0" * 8 + b"body"
    assert s.stream.content_type == "application/vnd.awslambda.http-integration-response"


@in_both_tiers
@pytest.mark.catalogue("RT-078")
async def test_a_caller_that_stops_reading_does_not_stop_the_function(played: Played) -> None:
    s = await streaming(played)
    await s.begin()
    await s.chunks.aclose()  # type: ignore[attr-defined]

    async def post() -> Reply:
        await s.connection.send(chunk(b"x" * (4 * MIB)) + last_chunk())
        return await s.connection.reply()

    reply = asyncio.ensure_future(post())
    try:
        await played.until(lambda: reply.done() or (not s.job.answered.done() and s.stream._queued > 256 * 1024))
        assert reply.done(), "the runtime is made to wait for a caller that has gone"
    finally:
        s.connection.writer.transport.abort()
        await asyncio.gather(reply, return_exceptions=True)
    accepted(reply.result())


@pytest.mark.catalogue("RT-079")
@pytest.mark.parametrize("connection_field", ["close", "keep-alive"])
async def test_a_stream_may_end_its_connection_or_keep_it(played: Played, connection_field: str) -> None:
    s = await streaming(played)
    await s.begin(connection=connection_field)
    await s.connection.send(last_chunk())
    accepted(await s.connection.reply())
    assert await s.rest() == b""
    if connection_field == "close":
        assert await s.connection.reader.read() == b""
    await serves(played, await played.connect() if connection_field == "close" else s.connection)


async def test_a_slow_caller_makes_the_runtime_wait(played: Played) -> None:
    s = await streaming(played)
    await s.begin()
    await s.connection.send(chunk(b"x" * (4 * MIB))[: 2 * MIB])
    sending = asyncio.ensure_future(s.connection.send(b"x" * (20 * MIB)))
    await played.until(lambda: s.stream._queued > 256 * 1024)
    for _ in range(50):
        await (await played.connect()).ask("GET", "/ping")
    assert s.stream._queued < 2 * MIB
    assert not sending.done()
    s.connection.writer.transport.abort()
    await asyncio.gather(sending, return_exceptions=True)


async def test_what_a_runtime_sends_after_its_stream_was_cut_off_is_dropped(played: Played) -> None:
    stream = await streaming(played)
    await stream.begin()
    played.clock.advance(3)
    assert stream.job.result.status == "timeout"
    kept = stream.stream._chunks.qsize()
    for _ in range(20):
        await stream.connection.send(chunk(b"x" * 100_000))
        await (await played.connect()).ask("GET", "/ping")  # by then the host has read on
    assert stream.stream._chunks.qsize() == kept
    assert await stream.rest() == b""
