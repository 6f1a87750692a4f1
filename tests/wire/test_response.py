"""The Runtime API as a runtime meets it: answers, their sizes, and what is cut off or overlaps."""

from __future__ import annotations

import pytest

from tests.conftest import Played, request
from tests.wire.talk import (
    ERROR_TYPE,
    INVOCATION_ID,
    LIMIT,
    MODE,
    TRANSITION,
    accepted,
    answered,
    cancelled,
    chunk,
    chunked,
    hang_up,
    in_both_tiers,
    parked,
    path,
    post_sized,
    refused,
    second_init,
    serves,
    under_way,
)

pytestmark = pytest.mark.tiers("process")  # see talk.py

# ── response ──


@pytest.mark.catalogue("RT-050", "RT-064")
@pytest.mark.parametrize("body", [b"", b"SUCCESS", b"\x00\xff\r\n\r\n", b'{"a": 1}\n', b"0\r\n\r\n"])
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_any_bytes_are_an_answer(played: Played, body: bytes, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    where = path(event)
    await connection.send(
        request("POST", where, body) if framing == "content-length" else chunked(where, *([body] if body else []))
    )
    accepted(await connection.reply())
    assert job.result.payload == body
    assert job.result.function_error is None


@in_both_tiers
@pytest.mark.catalogue("RT-051")
async def test_the_caller_has_its_answer_before_the_next_poll(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await answered(connection, event)
    assert job.answered.done()
    assert not job.reported.done()
    poll = await parked(played, connection, 0)
    await played.until(job.reported.done)
    await cancelled(poll)


@pytest.mark.catalogue("RT-052")
async def test_the_content_type_of_an_answer_is_kept(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event), b"<p>", content_type="text/html; charset=x"))
    assert job.result.content_type == "text/html; charset=x"


@pytest.mark.catalogue("RT-008", "RT-053")
@pytest.mark.parametrize("what", ["response", "error"])
@pytest.mark.parametrize("trickled", [False, True])
async def test_a_wrong_id_is_refused_and_the_right_one_still_works(played: Played, what: str, trickled: bool) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    where = f"invocation/00000000-0000-4000-8000-000000000000/{what}"
    data = request("POST", where, b"wrong")
    if trickled:
        await connection.send(data[:-3])
        await (await played.connect()).ask("GET", "/ping")
        data = data[-3:]
    await connection.send(data)
    assert refused(await connection.reply(), 400, "InvalidRequestID") == "Invalid request ID"
    assert not job.answered.done()
    await answered(connection, event)
    assert job.result.payload == b"1"


@pytest.mark.catalogue("RT-056")
@pytest.mark.parametrize("what", ["response", "error"])
async def test_an_answer_before_any_next_is_refused(played: Played, what: str) -> None:
    connection = await played.connect()
    job = played.invoke()
    refused(await connection.ask("POST", path(job, what), b"1"), 400, "InvalidRequestID")
    assert not job.answered.done()
    event = await connection.ask("GET", "invocation/next")
    await answered(connection, event)


@pytest.mark.catalogue("RT-054", "RT-055", "RT-097")
@pytest.mark.parametrize("first", ["response", "error"])
@pytest.mark.parametrize("second", ["response", "error"])
async def test_a_second_answer_is_a_refused_transition(played: Played, first: str, second: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, first), b'"first"'))
    reply = await connection.ask("POST", path(event, second), b'"second"')
    assert TRANSITION.fullmatch(refused(reply, 403, "InvalidStateTransition"))
    assert job.result.payload == b'"first"'
    await serves(played, connection)


@pytest.mark.catalogue("RT-053")
@pytest.mark.parametrize("what", ["response", "error"])
async def test_an_answer_to_a_finished_invocation_is_refused(played: Played, what: str) -> None:
    connection = await played.connect()
    old, event = await played.deliver(connection)
    await answered(connection, event)
    new, event = await played.deliver(connection)
    refused(await connection.ask("POST", path(old, what), b"stale"), 400, "InvalidRequestID")
    await answered(connection, event, b"fresh")
    assert (old.result.payload, new.result.payload) == (b"1", b"fresh")


@pytest.mark.catalogue("RT-061")
@pytest.mark.parametrize("what", ["response", "error"])
async def test_an_echoed_invocation_id_must_be_the_current_one(played: Played, what: str) -> None:
    same = "11111111-2222-4333-8444-555555555555"
    connection = await played.connect()
    _, first = await played.deliver(connection, request_id=same)
    stale = first.headers["lambda-runtime-invocation-id"]
    accepted(await connection.ask("POST", path(first, what), b"1", **{INVOCATION_ID: stale}))  # equal
    job, second = await played.deliver(connection, request_id=same)
    for wrong in (stale, "nonsense"):
        reply = await connection.ask("POST", path(second, what), b"2", **{INVOCATION_ID: wrong})
        refused(reply, 400, "InvalidInvocationId")
    assert not job.answered.done()
    accepted(await connection.ask("POST", path(second, what), b"3"))  # absent
    assert job.result.payload == b"3"


@pytest.mark.catalogue("RT-065", "RT-008")
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_bad_response_mode_fails_the_invocation(played: Played, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    where = "invocation/00000000-0000-4000-8000-000000000000/response"
    refused(await connection.ask("POST", where, b"1", **{MODE: "buffered"}), 400, "InvalidRequestID")
    fields = {MODE: "buffered"}
    whole = framing == "content-length"
    await connection.send(request("POST", path(event), b"1", **fields) if whole else chunked(path(event), b"1", **fields))
    refused(await connection.reply(), 400, "InvalidFunctionResponseMode")
    assert job.result.function_error == "Unhandled"
    assert job.result.json()["errorType"] == "Runtime.InvalidResponseModeHeader"
    await serves(played, connection)


# ── sizes ──


FRAMINGS = pytest.mark.parametrize("framing", ["content-length", "chunked"])


@pytest.mark.catalogue("RT-057")
@FRAMINGS
async def test_an_answer_of_exactly_the_limit_is_accepted(played: Played, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await post_sized(connection, path(event), LIMIT, framing))
    assert len(job.result.payload) == LIMIT == 6291556
    assert job.result.function_error is None


@in_both_tiers
@pytest.mark.catalogue("RT-057", "RT-058", "RT-059")
@FRAMINGS
async def test_one_byte_more_is_refused_and_the_environment_lives(played: Played, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    reply = await post_sized(connection, path(event), LIMIT + 1, framing)
    assert refused(reply, 413, "RequestEntityTooLarge") == "Exceeded maximum allowed payload size (6291556 bytes)."
    assert job.result.function_error == "Unhandled"
    assert job.result.json() == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }
    refused(await connection.ask("POST", path(event, "error"), b"{}"), 403, "InvalidStateTransition")  # what bref meets
    await serves(played, connection)
    assert played.environment.machine.generation == 1


@pytest.mark.catalogue("RT-104")
@FRAMINGS
async def test_an_error_of_exactly_the_limit_is_accepted(played: Played, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await post_sized(connection, path(event, "error"), LIMIT, framing))
    assert len(job.result.payload) == LIMIT
    assert job.result.function_error == "Unhandled"


@pytest.mark.catalogue("RT-104")
@FRAMINGS
async def test_a_longer_error_fails_with_the_type_of_its_header(played: Played, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    reply = await post_sized(connection, path(event, "error"), LIMIT + 1, framing, **{ERROR_TYPE: "Function.Huge"})
    refused(reply, 413, "RequestEntityTooLarge")
    assert job.result.function_error == "Unhandled"
    assert job.result.error_type == "Function.Huge"
    assert job.result.json()["errorType"] == "Function.Huge"
    await serves(played, connection)


@pytest.mark.catalogue("RT-104")
@FRAMINGS
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 202), (LIMIT + 1, 413)])
async def test_an_init_error_has_the_same_limit(played: Played, framing: str, size: int, status: int) -> None:
    job = played.invoke()
    for attempt in range(2):
        connection = await second_init(played) if attempt else await played.connect()
        reply = await post_sized(connection, "init/error", size, framing, **{ERROR_TYPE: "Runtime.Huge"})
        assert reply.status == status
    played.clock.advance(0.5)
    await played.until(job.answered.done)
    assert job.result.function_error == "Unhandled"
    assert job.result.error_type == "Runtime.Huge"
    if status == 202:
        assert len(job.result.payload) == size
    else:
        assert job.result.json()["errorType"] == "Runtime.Huge"


# ── bodies that are cut ──


@pytest.mark.catalogue("RT-060")
@pytest.mark.parametrize("what", ["response", "error"])
@FRAMINGS
async def test_a_truncated_answer_is_told_and_fails_the_invocation(played: Played, what: str, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    data = chunked(path(event, what), b"half") if framing == "chunked" else request("POST", path(event, what), b"half")
    await connection.send(data[:-2])
    await hang_up(connection)
    assert refused(await connection.reply(), 400, "TruncatedHTTPRequest") == "HTTP request detected as truncated"
    assert job.result.function_error == "Unhandled"
    assert job.result.json()["errorType"] == "Runtime.TruncatedResponse"
    await serves(played, await played.connect())
    assert played.environment.machine.generation == 1


@in_both_tiers
@pytest.mark.catalogue("RT-060")
async def test_a_client_that_vanishes_in_mid_answer_fails_the_invocation(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), b"x" * 1000)[:-1])
    await played.until(lambda: played.environment.machine.current.answering_on is not None)
    connection.writer.transport.abort()
    await played.until(job.answered.done)
    assert job.result.json()["errorType"] == "Runtime.TruncatedResponse"
    await serves(played, await played.connect())


@pytest.mark.catalogue("RT-060")
async def test_a_broken_chunk_fails_the_invocation(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), transfer_encoding="chunked") + chunk(b"half"))
    await played.until(lambda: played.environment.machine.current.answering_on is not None)
    await connection.send(b"zz\r\n")
    refused(await connection.reply(), 400)
    assert job.result.json()["errorType"] == "Runtime.TruncatedResponse"
    assert await connection.reader.read() == b""
    await serves(played, await played.connect())


@pytest.mark.catalogue("RT-053")
async def test_a_truncated_answer_with_a_wrong_id_touches_nothing(played: Played) -> None:
    connection, other = await played.connect(), await played.connect()
    job, event = await played.deliver(connection)
    await other.send(request("POST", "invocation/other/response", b"half")[:-2])
    await hang_up(other)
    await other.reader.read()
    assert not job.answered.done()
    await answered(connection, event)


# ── an answer under way ──


@pytest.mark.catalogue("RT-034")
async def test_a_poll_during_an_answer_is_held_until_it_ends(played: Played) -> None:
    connection, job, _ = await under_way(played)
    other = await played.connect()
    poll = await parked(played, other)
    await (await played.connect()).ask("GET", "/ping")
    assert not poll.done()
    assert not job.reported.done()
    await connection.send(b"ow")
    accepted(await connection.reply())
    await played.until(job.reported.done)
    assert job.result.payload == b"slow"
    following = played.invoke()
    assert (await poll).headers["lambda-runtime-aws-request-id"] == following.request_id


@pytest.mark.catalogue("RT-054", "RT-073", "RT-097")
@pytest.mark.parametrize("what", ["response", "error"])
async def test_a_second_answer_while_one_is_under_way_is_refused(played: Played, what: str) -> None:
    connection, job, event = await under_way(played)
    other = await played.connect()
    message = refused(await other.ask("POST", path(event, what), b"2"), 403, "InvalidStateTransition")
    assert TRANSITION.fullmatch(message)
    assert not job.answered.done()
    await connection.send(b"ow")
    accepted(await connection.reply())
    assert job.result.payload == b"slow"


@pytest.mark.catalogue("RT-054", "RT-065")
async def test_a_bad_mode_while_an_answer_is_under_way_is_refused_as_a_transition(played: Played) -> None:
    connection, job, event = await under_way(played)
    reply = await (await played.connect()).ask("POST", path(event), b"2", **{MODE: "bad"})
    refused(reply, 403, "InvalidStateTransition")
    assert not job.answered.done()
    await connection.send(b"ow")
    accepted(await connection.reply())
    assert job.result.payload == b"slow"
