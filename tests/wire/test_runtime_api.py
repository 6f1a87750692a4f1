"""The Runtime API as a runtime meets it: a raw connection, a real environment, a clock that stands still."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.core.errors import ConfigError
from sandbox.core.limits import MIB
from sandbox.core.states import Phase
from sandbox.host.environment import Job, shell
from sandbox.host.result import Bucket, ResponseStream
from sandbox.wire import runtime_api
from tests.conftest import Connection, Played, Reply, request
from tests.wire.talk import (
    ERROR_BODY,
    ERROR_TYPE,
    INVOCATION_ID,
    LIMIT,
    MODE,
    TRANSITION,
    accepted,
    chunk,
    chunked,
    hang_up,
    last_chunk,
    opening,
    parked,
    path,
    refused,
    streaming,
)

CAUSE = "application/vnd.aws.lambda.error.cause+json"


async def answered(connection: Connection, event: Reply, body: bytes = b"1") -> None:
    accepted(await connection.ask("POST", path(event), body))


async def serves(played: Played, connection: Connection) -> None:
    """One more cycle works: what was refused before has broken nothing."""
    job, event = await played.deliver(connection, b'"again"')
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id
    await answered(connection, event, b"fine")
    assert job.result.payload == b"fine"


# ── paths, methods, shapes ──


@pytest.mark.catalogue("RT-020", "RT-021", "RT-022", "RT-050", "RT-007")
async def test_an_event_is_answered(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection, b'{"a": "\xc3\xa9"}')
    assert event.status == 200
    assert event.body == b'{"a": "\xc3\xa9"}'
    request_id = event.headers["lambda-runtime-aws-request-id"]
    assert request_id == job.request_id
    accepted(await connection.ask("POST", f"invocation/{request_id}/response", b"SUCCESS"))
    assert job.result.payload == b"SUCCESS"
    assert job.result.function_error is None


@pytest.mark.catalogue("RT-001", "RT-002", "RT-005")
async def test_the_listener_is_there_before_any_process(played: Played) -> None:
    assert re.fullmatch(r"[\w.]+:[1-9]\d*", played.environment.address)
    assert played.environment.machine.phase is Phase.CREATED
    pong = await (await played.connect()).ask("GET", "/ping")
    assert (pong.status, pong.body) == (200, b"pong")


@pytest.mark.catalogue("RT-003", "RT-006", "RT-110", "RT-114")
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/2018-06-02/runtime/invocation/next"),
        ("GET", "invocation"),
        ("GET", "invocation/next/"),
        ("GET", "invocation/nextt"),
        ("GET", "/runtime/invocation/next"),
        ("POST", "invocation/{id}/result"),
        ("POST", "invocation/{id}/response/"),
        ("POST", "init/errors"),
        ("GET", "restore/next"),
        ("POST", "restore/error"),
    ],
)
async def test_an_unknown_path_is_404_and_changes_nothing(played: Played, method: str, target: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    body = b"{}" if method == "POST" else None
    refused(await connection.ask(method, target.format(id=job.request_id), body), 404)
    await answered(connection, event)
    assert job.result.payload == b"1"


@pytest.mark.catalogue("RT-004", "RT-006")
@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "invocation/next", "GET"),
        ("DELETE", "invocation/next", "GET"),
        ("GET", "invocation/{id}/response", "POST"),
        ("PUT", "invocation/{id}/response", "POST"),
        ("GET", "invocation/{id}/error", "POST"),
        ("GET", "init/error", "POST"),
    ],
)
async def test_a_wrong_method_is_405_and_changes_nothing(played: Played, method: str, target: str, allowed: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    body = None if method == "GET" else b"{}"
    reply = await connection.ask(method, target.format(id=job.request_id), body)
    refused(reply, 405)
    assert reply.headers["allow"] == allowed
    await answered(connection, event)
    assert job.result.payload == b"1"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/2020-01-01/extension/register"),
        ("GET", "/2020-01-01/extension/event/next"),
        ("PUT", "/2022-07-01/telemetry"),
        ("PUT", "/2020-08-15/logs"),
    ],
)
async def test_apis_of_later_versions_say_so(played: Played, method: str, target: str) -> None:
    connection = await played.connect()
    reply = await connection.ask(method, target, None if method == "GET" else b"{}")
    assert "not" in refused(reply, 501)


# ── next ──


@pytest.mark.catalogue("RT-020")
async def test_next_blocks_until_there_is_an_event(played: Played) -> None:
    connection, other = await played.connect(), await played.connect()
    played.environment.start()
    poll = await parked(played, connection)
    assert (await other.ask("GET", "/ping")).status == 200
    assert not poll.done()
    job = played.invoke()
    assert (await poll).headers["lambda-runtime-aws-request-id"] == job.request_id


@pytest.mark.catalogue("RT-012", "RT-037")
async def test_a_poll_outlives_a_day_of_freezing(played: Played) -> None:
    connection = await played.connect()
    await serves(played, connection)
    poll = await parked(played, connection, 0)
    await played.until(lambda: played.environment.machine.phase is Phase.FROZEN)
    played.clock.advance(24 * 3600)
    assert not poll.done()
    job = played.invoke(b'"late"')
    event = await poll
    assert event.body == b'"late"'
    await answered(connection, event)
    again = await parked(played, connection, 0)  # the same event does not come a second time
    await played.until(lambda: job.reported.done())
    assert not again.done()
    await cancelled(again)


async def cancelled(task: asyncio.Task[Reply]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.catalogue("RT-021")
@pytest.mark.parametrize("payload", [b"null", b" {\n\t} \r\n", '{"é": "日本"}'.encode(), b'"\\u0000"', b"0"])
async def test_an_event_arrives_byte_by_byte(played: Played, payload: bytes) -> None:
    _, event = await played.deliver(await played.connect(), payload)
    assert event.body == payload


@pytest.mark.catalogue("RT-023")
async def test_the_deadline_is_delivery_plus_timeout(played: Played) -> None:
    connection = await played.connect()
    _, event = await played.deliver(connection)
    await answered(connection, event)
    poll = await parked(played, connection, 0)
    await played.until(lambda: played.environment.machine.phase is Phase.FROZEN)
    played.clock.advance(77.25)
    played.invoke()
    assert (await poll).headers["lambda-runtime-deadline-ms"] == str(round((played.clock.wall() + 3) * 1000))


@pytest.mark.catalogue("RT-024")
async def test_the_arn_is_the_callers(played: Played) -> None:
    connection = await played.connect()
    for suffix in ("", ":7", ":prod"):
        arn = played.environment.function.arn + suffix
        job = Job(b"{}", arn=arn, accepted_at=played.clock.now(), wall=played.clock.wall())
        played.environment.submit(job)
        event = await connection.ask("GET", "invocation/next")
        assert event.headers["lambda-runtime-invoked-function-arn"] == arn
        await answered(connection, event)
        poll = await parked(played, connection, 0)
        await played.until(lambda: played.environment.machine.phase is Phase.FROZEN)
        await cancelled(poll)
        await connection.close()
        connection = await played.connect()


@pytest.mark.catalogue("RT-025")
async def test_a_trace_id_is_handed_on_or_made_up(played: Played) -> None:
    connection = await played.connect()
    given = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    _, event = await played.deliver(connection, trace_id=given)
    assert event.headers["lambda-runtime-trace-id"] == given
    await answered(connection, event)
    _, event = await played.deliver(connection)
    made = r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0"
    assert re.fullmatch(made, event.headers["lambda-runtime-trace-id"])


@pytest.mark.catalogue("RT-026", "RT-027", "RT-028")
async def test_what_the_caller_said_of_itself_is_handed_on(played: Played) -> None:
    context = {"client": {"app_title": "zoë\r\nX: 1"}, "custom": {}}
    identity = {"cognitoIdentityId": "us-east-1:1", "cognitoIdentityPoolId": "us-east-1:2"}
    connection = await played.connect()
    _, event = await played.deliver(connection, client_context=context, cognito_identity=identity, tenant_id="blue")
    sent = event.headers["lambda-runtime-client-context"]
    assert json.loads(sent) == context
    assert sent == '{"client":{"app_title":"zo\\u00eb\\r\\nX: 1"},"custom":{}}'
    assert json.loads(event.headers["lambda-runtime-cognito-identity"]) == identity
    assert event.headers["lambda-runtime-aws-tenant-id"] == "blue"


@pytest.mark.catalogue("RT-026", "RT-027", "RT-028", "RT-031")
async def test_headers_without_a_value_are_left_out(played: Played) -> None:
    _, event = await played.deliver(await played.connect())
    optional = {"client-context", "cognito-identity", "aws-tenant-id"}
    assert not optional & {name.removeprefix("lambda-runtime-") for name in event.headers}


@pytest.mark.catalogue("RT-029", "RT-032", "RT-033")
async def test_two_attempts_share_the_request_id_only(played: Played) -> None:
    chosen = "11111111-2222-4333-8444-555555555555"
    connection = await played.connect()
    seen = []
    for _ in range(2):
        _, event = await played.deliver(connection, request_id=chosen)
        assert event.headers["lambda-runtime-aws-request-id"] == chosen
        seen.append(event.headers["lambda-runtime-invocation-id"])
        await answered(connection, event)
    assert all(seen)
    assert seen[0] != seen[1]


@pytest.mark.catalogue("RT-011", "RT-030")
async def test_names_and_content_type_of_an_event_are_exact(played: Played) -> None:
    connection = await played.connect()
    played.invoke()
    await connection.send(request("GET", "invocation/next", content_type="application/octet-stream"))
    head = await connection.reader.readuntil(b"\r\n\r\n")
    assert b"\r\nContent-Type: application/json\r\n" in head
    for name in (b"Aws-Request-Id", b"Deadline-Ms", b"Invoked-Function-Arn", b"Trace-Id", b"Invocation-Id"):
        assert head.count(b"\r\nLambda-Runtime-" + name + b": ") == 1


@pytest.mark.catalogue("RT-034")
async def test_an_unanswered_event_is_given_again_unchanged(played: Played) -> None:
    connection, other = await played.connect(), await played.connect()
    job, event = await played.deliver(connection, b'"once"')
    played.clock.advance(1)
    for again in (await connection.ask("GET", "invocation/next"), await other.ask("GET", "invocation/next")):
        assert again.headers == event.headers
        assert again.body == event.body
    await answered(other, event)
    assert job.result.payload == b"1"


@pytest.mark.catalogue("RT-034")
async def test_an_event_goes_to_the_longest_parked_poll_only(played: Played) -> None:
    one, two = await played.connect(), await played.connect()
    played.environment.start()
    first, second = await parked(played, one, 1), await parked(played, two, 2)
    job = played.invoke(b'"one"')
    assert (await first).body == b'"one"'
    assert (await (await played.connect()).ask("GET", "/ping")).status == 200
    assert not second.done()
    accepted(await one.ask("POST", path(job), b"1"))
    await played.until(job.reported.done)  # the second poll counts as the next one
    played.invoke(b'"two"')
    assert (await second).body == b'"two"'


@pytest.mark.catalogue("RT-034", "RT-037")
async def test_a_poll_closed_before_the_invoke_swallows_no_event(played: Played) -> None:
    gone = await played.connect()
    played.environment.start()
    await cancelled(await parked(played, gone))
    await gone.close()
    await played.until(lambda: not played.environment.machine.polls)
    job, event = await played.deliver(await played.connect())
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id


@pytest.mark.catalogue("RT-034", "RT-037")
@pytest.mark.parametrize("second_is_parked", [True, False])
async def test_a_poll_closed_at_the_invoke_swallows_no_event(played: Played, second_is_parked: bool) -> None:
    gone, live = await played.connect(), await played.connect()
    played.environment.start()
    await cancelled(await parked(played, gone, 1))
    if second_is_parked:
        poll = await parked(played, live, 2)
    with socket.socket(fileno=os.dup(gone.writer.get_extra_info("socket").fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
    job = played.invoke()  # the event loop has not yet heard of it
    if not second_is_parked:
        poll = asyncio.ensure_future(live.ask("GET", "invocation/next"))
    event = await poll
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id
    await answered(live, event)


@pytest.mark.catalogue("RT-034", "RT-037")
async def test_an_event_that_was_half_written_to_a_vanished_client_goes_to_the_other_poll(played: Played) -> None:
    gone, live = await played.connect(), await played.connect()
    played.environment.start()
    await cancelled(await parked(played, gone, 1))
    gone.writer.transport.pause_reading()
    poll = await parked(played, live, 2)
    job = played.invoke(b'"%b"' % (b"x" * (6 * MIB)))
    gone.writer.transport.abort()
    event = await poll
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id
    assert event.body == job.payload


@pytest.mark.parametrize(
    "what",
    [
        "request_id",
        "trace_id",
        "tenant_id",
    ],
)
@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "日"])
async def test_what_could_forge_a_header_is_refused_at_invoke(played: Played, what: str, bad: str) -> None:
    with pytest.raises(ConfigError):
        played.invoke(**{what: bad})
    await serves(played, await played.connect())


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


async def post_sized(connection: Connection, where: str, size: int, framing: str, **fields: str) -> Reply:
    body = b"x" * size
    if framing == "chunked":
        await connection.send(chunked(where, body[:1000], body[1000:], **fields))
    else:
        await connection.send(request("POST", where, body, **fields))
    return await connection.reply()


FRAMINGS = pytest.mark.parametrize("framing", ["content-length", "chunked"])


@pytest.mark.catalogue("RT-057")
@FRAMINGS
async def test_an_answer_of_exactly_the_limit_is_accepted(played: Played, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await post_sized(connection, path(event), LIMIT, framing))
    assert len(job.result.payload) == LIMIT == 6291556
    assert job.result.function_error is None


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


async def second_init(played: Played) -> Connection:
    """The grace of an init error runs out, and Init comes again inside the invoke."""
    generation = played.environment.machine.generation
    played.clock.advance(0.5)
    await played.until(lambda: played.environment.machine.generation == generation + 1)
    return await played.connect()


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


async def under_way(played: Played) -> tuple[Connection, Job, Reply]:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), b"slow")[:-2])
    await played.until(lambda: played.environment.machine.current.answering_on is not None)
    return connection, job, event


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


# ── streaming ──


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


# ── error ──


@pytest.mark.catalogue("RT-090", "RT-095", "RT-096")
async def test_a_reported_error_is_the_callers_answer_and_no_more(played: Played) -> None:
    connection = await played.connect()
    body = b'{"errorMessage":"m","errorType":"Boom","stackTrace":[]}'
    job, event = await played.deliver(connection)
    runtime = played.environment._processes._processes["runtime"]
    await played.until(lambda: runtime.pid)
    accepted(await connection.ask("POST", path(event, "error"), body))
    assert job.result.function_error == "Unhandled"
    assert job.result.payload == body
    await serves(played, connection)
    assert played.environment._processes._processes["runtime"] is runtime
    assert not runtime.ended.done()
    for kind in ("platform.runtimeDone", "platform.report"):
        record = next(record for type_, record in played.records if type_ == kind)
        assert record["status"] == "success"  # type: ignore[index]


@pytest.mark.catalogue("RT-091")
@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b'{"error":"<class>"}', b"no json", b"\xff\x00"])
async def test_any_error_body_is_handed_on(played: Played, body: bytes) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), body))
    assert job.result.function_error == "Unhandled"
    assert job.result.payload == body


@pytest.mark.catalogue("RT-091", "RT-092")
async def test_an_error_without_a_body_is_built_from_its_header(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), **{ERROR_TYPE: "Runtime.NoSuchHandler"}))
    assert job.result.function_error == "Unhandled"
    assert job.result.json()["errorType"] == "Runtime.NoSuchHandler"


@pytest.mark.catalogue("RT-093", "RT-094")
@pytest.mark.parametrize(
    ("reported", "normal"),
    [
        ("Runtime.NoSuchHandler", "Runtime.NoSuchHandler"),
        ("Function.Boom", "Function.Boom"),
        ("Unhandled", "Runtime.Unknown"),
        ("unhandled", "Runtime.Unknown"),
        ("Function.lower", "Function.Unknown"),
        ("Function.Boom1", "Function.Unknown"),
        ("Function.", "Function.Unknown"),
        ("Function<ArgumentError>", "Runtime.Unknown"),
        ("xRuntime.Foo", "Runtime.Unknown"),
        ("Runtime.Foo.Bar", "Runtime.Unknown"),
        ("Runtime.X", "Runtime.Unknown"),
        ("Runtime.é", "Runtime.Unknown"),
        ("", "Runtime.Unknown"),
    ],
)
async def test_the_error_type_of_the_header_is_normalised_but_not_the_bodys(played: Played, reported: str, normal: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), b'{"errorMessage":"m"}', **{ERROR_TYPE: reported}))
    assert job.result.error_type == normal
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), b'{"errorType":"Body"}', **{ERROR_TYPE: reported}))
    assert job.result.error_type == job.result.json()["errorType"] == "Body"


@pytest.mark.catalogue("RT-098")
@pytest.mark.parametrize("cause", ["{}", "not json", "x" * (1024 * 1024 - 1), ""])
async def test_an_xray_cause_of_any_kind_is_accepted(played: Played, cause: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    fields = {"lambda_runtime_function_xray_error_cause": cause}
    accepted(await connection.ask("POST", path(event, "error"), b"{}", **fields))
    assert job.result.function_error == "Unhandled"


@pytest.mark.catalogue("RT-099")
async def test_an_error_cause_is_kept_from_the_caller(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    kept = {"errorMessage": "m", "errorType": "T", "stackTrace": ["a"]}
    body = json.dumps({**kept, "errorCause": {"secret": 1}, "other": 2}).encode()
    accepted(await connection.ask("POST", path(event, "error"), body, content_type=CAUSE))
    assert job.result.json() == kept


@pytest.mark.catalogue("RT-099")
@pytest.mark.parametrize("body", [b"{bad", b"\xff", b'"errorType"', b"3", b"null"])
async def test_an_unreadable_error_cause_is_replaced(played: Played, body: bytes) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), body, content_type=CAUSE))
    assert job.result.function_error == "Unhandled"
    assert job.result.payload == b'"Invalid error body"'
    assert job.result.content_type == "application/octet-stream"


@pytest.mark.catalogue("RT-099")
async def test_an_error_cause_nested_too_deep_is_answered(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), b"[" * 100_000, content_type=CAUSE))
    assert job.answered.done()
    assert job.result.payload == b'"Invalid error body"'


async def test_an_error_nested_too_deep_is_handed_on(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event, "error"), b"[" * 100_000))
    assert job.result.payload == b"[" * 100_000


# ── init error ──


@pytest.mark.catalogue("RT-035", "RT-101")
async def test_after_an_init_error_nothing_is_allowed(played: Played) -> None:
    connection = await played.connect()
    job = played.invoke()
    accepted(await connection.ask("POST", "init/error", b'{"errorType":"Runtime.Bad"}'))
    for method, target in (("GET", "invocation/next"), ("POST", "init/error")):
        reply = await connection.ask(method, target, b"{}" if method == "POST" else None)
        assert TRANSITION.fullmatch(refused(reply, 403, "InvalidStateTransition"))
    assert (await connection.ask("POST", path(job), b"1")).status in (400, 403)
    assert not job.answered.done()


@pytest.mark.catalogue("RT-100")
async def test_an_init_error_after_the_first_poll_is_refused(played: Played) -> None:
    connection, other = await played.connect(), await played.connect()
    played.environment.start()
    poll = await parked(played, other)
    refused(await connection.ask("POST", "init/error", b"{}"), 403, "InvalidStateTransition")  # while idle
    job = played.invoke()
    event = await poll
    refused(await connection.ask("POST", "init/error", b"{}"), 403, "InvalidStateTransition")  # while invoked
    await answered(other, event)
    assert job.result.payload == b"1"
    assert played.environment.machine.generation == 1


@pytest.mark.catalogue("RT-102", "RT-103")
async def test_the_init_error_of_the_second_attempt_is_the_first_answer(played: Played) -> None:
    connection = await played.connect()
    job = played.invoke()
    accepted(await connection.ask("POST", "init/error", b'{"errorType":"One"}', **{ERROR_TYPE: "Runtime.One"}))
    connection = await second_init(played)
    assert not job.answered.done()
    accepted(await connection.ask("POST", "init/error", b'{"errorType":"Two"}', **{ERROR_TYPE: "Runtime.Two"}))
    played.clock.advance(0.5)
    await played.until(job.answered.done)
    assert job.result.function_error == "Unhandled"
    assert job.result.payload == b'{"errorType":"Two"}'
    assert job.result.error_type == "Runtime.Two"
    phases = [record["phase"] for type_, record in played.records if type_ == "platform.initStart"]  # type: ignore[index]
    assert phases == ["init", "invoke"]


# ── too late ──


@pytest.mark.catalogue("RT-053", "RT-062")
@pytest.mark.parametrize("what", ["response", "error"])
async def test_an_answer_after_the_timeout_is_refused(played: Played, what: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    played.clock.advance(3)
    assert job.result.status == "timeout"
    refused(await connection.ask("POST", path(event, what), b"late"), 400, "InvalidRequestID")
    assert job.result.json()["errorType"] == "Sandbox.Timedout"
    await played.until(lambda: played.environment.machine.phase is Phase.CREATED)
    refused(await connection.ask("POST", path(event, what), b"later"), 400, "InvalidRequestID")


@pytest.mark.catalogue("RT-062")
async def test_an_answer_under_way_at_the_timeout_is_refused_at_its_end(played: Played) -> None:
    connection, job, _ = await under_way(played)
    played.clock.advance(3)
    assert job.result.status == "timeout"
    await connection.send(b"ow")
    refused(await connection.reply(), 400, "InvalidRequestID")
    assert job.result.json()["errorType"] == "Sandbox.Timedout"


@pytest.mark.catalogue("RT-062")
async def test_a_stream_under_way_at_the_timeout_ends_with_it(played: Played) -> None:
    s = await streaming(played)
    await s.begin()
    played.clock.advance(3)
    assert await s.rest() == b""
    assert s.stream.result is not None
    assert s.stream.result.error_type == "Sandbox.Timedout"
    await s.connection.send(chunk(b"late") + last_chunk())
    refused(await s.connection.reply(), 400, "InvalidRequestID")


@pytest.mark.catalogue("RT-034")
async def test_an_answer_on_the_deadlines_eve_counts(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    played.clock.advance(2.999)
    await answered(connection, event)
    assert job.result.function_error is None
