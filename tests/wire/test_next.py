"""The Runtime API as a runtime meets it: paths, shapes, and GET next."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket

import pytest

from sandbox.core.errors import ConfigError
from sandbox.core.limits import MIB
from sandbox.core.states import Phase
from sandbox.host.environment import Job
from tests.conftest import Played, request
from tests.wire.talk import (
    accepted,
    answered,
    cancelled,
    in_both_tiers,
    parked,
    path,
    refused,
    serves,
)

pytestmark = pytest.mark.tiers("process")  # see talk.py

# ── paths, methods, shapes ──


@in_both_tiers
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


@in_both_tiers
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


@in_both_tiers
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


@pytest.mark.catalogue("RT-021")
@pytest.mark.parametrize("payload", [b"null", b" {\n\t} \r\n", '{"é": "日本"}'.encode(), b'"\\u0000"', b"0"])
async def test_an_event_arrives_byte_by_byte(played: Played, payload: bytes) -> None:
    _, event = await played.deliver(await played.connect(), payload)
    assert event.body == payload


@in_both_tiers
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


@in_both_tiers
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
