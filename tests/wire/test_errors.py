"""The Runtime API as a runtime meets it: errors, init errors, and what comes too late."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.core.states import Phase
from tests.conftest import Played
from tests.wire.talk import (
    CAUSE,
    ERROR_TYPE,
    TRANSITION,
    accepted,
    answered,
    chunk,
    in_both_tiers,
    last_chunk,
    parked,
    path,
    refused,
    second_init,
    serves,
    streaming,
    under_way,
)

pytestmark = pytest.mark.tiers("process")  # see talk.py

# ── error ──


@in_both_tiers
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
        assert record["status"] == "success"


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


LONG = [{"type": "E", "message": "m" * 70_000, "stack": [{"line": 1}]}, "no object"]


@pytest.mark.catalogue("RT-098")
@pytest.mark.parametrize(
    ("cause", "kept"),
    [
        ('{"exceptions": [{"type": "E"}]}', {"exceptions": [{"type": "E"}]}),
        (json.dumps({"exceptions": LONG, "paths": []}), {"exceptions": [{"type": "E", "message": "m" * 1024}]}),
        (json.dumps({"exceptions": "x" * 70_000}), {"exceptions": []}),
        ("[1]", None),
        ("not json", None),
        ("[" * 100_000, None),
        ("x" * (1024 * 1024 - 1), None),
        ("", None),
    ],
    ids=["good", "too long", "too long and strange", "no object", "no json", "deep", "1 MiB", "empty"],
)
async def test_an_xray_cause_of_any_kind_is_accepted_and_a_good_one_kept(played: Played, cause: str, kept: Any) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    fields = {"lambda_runtime_function_xray_error_cause": cause}
    accepted(await connection.ask("POST", path(event, "error"), b"{}", **fields))
    assert job.result.function_error == "Unhandled"
    assert job.result.error_cause == kept


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
    phases = [record["phase"] for type_, record in played.records if type_ == "platform.initStart"]
    assert phases == ["init", "invoke"]


# ── too late ──


@in_both_tiers
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
