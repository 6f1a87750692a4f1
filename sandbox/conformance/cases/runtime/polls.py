"""Asking for the next event, and what may come instead of one."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from sandbox.conformance.case import case
from sandbox.conformance.lab import RuntimeLab, expect, expect_same, words
from sandbox.wire.tap import Fault, Seen

_ERROR = b'{"errorMessage":"as the suite asked","errorType":"InternalServerError"}'
_EVENT = {"text": "x" * 300, "ünï": "😀"}
_TRACE, _CLIENT, _IDENTITY = "lambda-runtime-trace-id", "lambda-runtime-client-context", "lambda-runtime-cognito-identity"
_INVOCATION, _TENANT = "lambda-runtime-invocation-id", "lambda-runtime-aws-tenant-id"
CLIENT_CONTEXT = {  # with every field that a client asks for by name
    "client": {
        "appTitle": "App",
        "appVersionName": "1.0",
        "appVersionCode": "10",
        "appPackageName": "com.example.app",
        "installationId": "i-1",
    },
    "custom": {"answer": "42", "ünï": "ö"},
    "env": {"locale": "en", "platform": "Android"},
    "environment": {"locale": "en"},
}
_LOST = Fault(reaches_host=False, lost=True)
_FIRST_OR_LATER = {"first-poll": 0, "later-poll": 1}


def refusal(status: int) -> Fault:
    """A poll that the host never hears of, and that is answered so."""
    return Fault(reaches_host=False, status=status, body=_ERROR)


async def echoes(lab: RuntimeLab, event: Any, **context: Any) -> None:
    """One invoke that is to come back as it was."""
    result = await lab.invoke(event, **context)
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")
    expect_same("the answer", json.loads(result.payload), event)


@case("runtime.invoke.answers")
async def answers(lab: RuntimeLab) -> None:
    await lab.deploy()
    result = await lab.answer(await lab.begin({"hello": "world"}))
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}. {lab.whereabouts()}")
    try:
        answer = json.loads(result.payload)
    except ValueError:
        answer = result.payload
    expect_same("the answer", answer, {"hello": "world"})


@case("runtime.invoke.again")
async def again(lab: RuntimeLab) -> None:
    await lab.deploy()
    for number in range(5):
        await echoes(lab, {"number": number})
    expect(not lab.exits, f"its process ended in between: {words(lab.exits[0]) if lab.exits else ''}")


@case("runtime.invoke.same-process")
async def same_process(lab: RuntimeLab) -> None:
    await lab.deploy("count")
    counts = [json.loads((await lab.invoke()).payload) for _ in range(3)]
    expect_same("the counts", counts, [1, 2, 3])


@case("runtime.invoke.many")
async def many(lab: RuntimeLab) -> None:
    await lab.deploy()
    for number in range(200):
        await echoes(lab, {"number": number})
    expect(not lab.exits, "its process ended in between")


@case("runtime.invoke.few-connections")
async def few_connections(lab: RuntimeLab) -> None:
    await lab.deploy()
    for number in range(60):
        await echoes(lab, number)
    left = lab.tap.open_connections
    expect(left <= 12, f"{left} connections are open after 60 invokes")


@case("runtime.invoke.repeated-id")
async def repeated_id(lab: RuntimeLab) -> None:
    await lab.deploy()
    request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    for number in range(3):
        await echoes(lab, {"try": number}, request_id=request_id)
    paths = {seen.path for seen in lab.calls("response")}
    expect_same("the path of the answers", paths, {f"/2018-06-01/runtime/invocation/{request_id}/response"})


@case("runtime.next.no-body")
async def no_body(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, 1)
    expect_same("bytes in the bodies of its polls", [seen.size for seen in lab.calls("next") if seen.size], [])


@case("runtime.next.first")
async def first(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, 1)
    seen = lab.tap.exchanges[0]
    expect(seen.route == "next", f"its first call was {seen.method} {seen.path}")


@case("runtime.next.one-at-a-time")
async def one_at_a_time(lab: RuntimeLab) -> None:
    await lab.deploy()
    for number in range(3):
        await echoes(lab, number)
    delivered = answered = 0
    for seen in lab.calls("next", "response", "error"):
        if seen.route == "next":
            expect(delivered == answered, f"poll {delivered + 1} came when {answered} events were answered")
            delivered += 1
        else:
            answered += 1


@case("runtime.next.after-the-reply")
async def after_the_reply(lab: RuntimeLab) -> None:
    await lab.deploy()
    lab.spoil("response", Fault(hold=60))
    await lab.answer(await lab.begin(1))
    polls = len(lab.calls("next"))
    await lab.pause(0.15)
    expect_same("polls before its answer was acknowledged", len(lab.calls("next")), polls)
    lab.time.advance(61)
    await lab.until("a poll after the acknowledgement", lambda: len(lab.calls("next")) > polls)


@case("runtime.next.no-handler-without-event")
async def silent_without_event(lab: RuntimeLab) -> None:
    await lab.deploy()
    await lab.init()
    lab.environment.signal("CONT")  # it is not frozen: whatever it wants to do, it can
    await lab.pause(0.15)
    calls = [f"{seen.method} {seen.path}" for seen in lab.calls() if seen.route != "next"]
    expect_same("its calls while no event came", calls, [])


@case("runtime.next.idle-for-hours", {"once": (6 * 3600,), "again": (3600, 60, 86_400)})
async def idle_for_hours(lab: RuntimeLab, waits: tuple[float, ...]) -> None:
    await lab.deploy()
    await lab.init()
    for number, wait in enumerate(waits):
        lab.time.advance(wait)
        await echoes(lab, {"number": number})
    expect_same("answers", len(lab.calls("response")), len(waits))
    lab.one_process()


@case("runtime.next.idle-for-a-minute")
async def idle_for_a_minute(lab: RuntimeLab) -> None:
    await lab.deploy()
    await lab.init()
    lab.environment.signal("CONT")
    await lab.pause(70)
    await echoes(lab, 1)
    expect_same("polls before the event came", len([seen for seen in lab.calls("next") if seen.status == 200]), 1)


@case("runtime.next.pieces", {f"{size}-byte": size for size in (1, 7, 100)})
async def pieces(lab: RuntimeLab, size: int) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(piece=size))
    await echoes(lab, _EVENT)


@case("runtime.next.chunked", {f"{size}-byte": size for size in (1, 16, 4096)})
async def chunked(lab: RuntimeLab, size: int) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(chunk=size))
    await echoes(lab, _EVENT)


@case("runtime.next.field-names", {"lower": str.lower, "upper": str.upper, "swapped": str.swapcase})
async def field_names(lab: RuntimeLab, rename: Any) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(rename=rename))
    await echoes(lab, _EVENT)


_UNKNOWN = {
    "one": (("Lambda-Runtime-Yet-Unknown", "a; b=c, d"),),
    "fifty": tuple((f"X-Unknown-{number}", str(number)) for number in range(50)),
    "long": (("X-Long", "x" * 7000),),
    "empty": (("X-Empty", ""),),
    "date": (("Date", "Mon, 23 Nov 2026 00:00:00 GMT"), ("Server", "x"), ("Vary", "*")),
}


@case("runtime.next.unknown-fields", _UNKNOWN)
async def unknown_fields(lab: RuntimeLab, fields: Any) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(fields=fields))
    await echoes(lab, _EVENT)


_OPTIONAL = {"trace-id": {_TRACE}, "invocation-id": {_INVOCATION}, "all": {_TRACE, _INVOCATION}}


@case("runtime.next.optional-fields", _OPTIONAL)
async def optional_fields(lab: RuntimeLab, without: set[str]) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(without=frozenset(without)))
    await echoes(lab, _EVENT)


@case("runtime.next.empty-optional-fields", [_TRACE, _CLIENT, _IDENTITY, _INVOCATION, _TENANT])
async def empty_optional_fields(lab: RuntimeLab, name: str) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(fields=((name, ""),)))
    await echoes(lab, _EVENT)


@case("runtime.next.every-optional-field")
async def every_optional_field(lab: RuntimeLab) -> None:
    await lab.deploy()
    identity = {"cognitoIdentityId": "us-east-1:1", "cognitoIdentityPoolId": "us-east-1:2"}
    trace = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1;Lineage=a87bd80c:1"
    await echoes(lab, _EVENT, client_context=CLIENT_CONTEXT, cognito_identity=identity, trace_id=trace, tenant_id="tenant-1")


_CONTENT_TYPES = {
    "charset": (("Content-Type", "application/json; charset=utf-8"),),
    "octet-stream": (("Content-Type", "application/octet-stream"),),
    "text": (("Content-Type", "text/plain"),),
}


@case("runtime.next.content-type", {**_CONTENT_TYPES, "none": ()})
async def content_type(lab: RuntimeLab, fields: Any) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(fields=fields, without=frozenset({"content-type"})))
    await echoes(lab, _EVENT)


@case("runtime.next.interim-replies", {"continue": (100,), "early-hints": (103,), "both": (100, 103)})
async def interim_replies(lab: RuntimeLab, statuses: tuple[int, ...]) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(interim=statuses))
    await echoes(lab, _EVENT)


@case("runtime.next.connection-closed", {"poll": ("next",), "answer": ("response",), "both": ("next", "response")})
async def connection_closed(lab: RuntimeLab, routes: tuple[str, ...]) -> None:
    await lab.deploy()
    for route in routes:
        lab.spoil(route, Fault(close=True), times=100)
    for number in range(4):
        await echoes(lab, number)
    expect(not lab.exits, "its process ended in between")


@case("runtime.next.connection-closed-silently")
async def connection_closed_silently(lab: RuntimeLab) -> None:
    await lab.deploy("sleep")
    lab.spoil("next", Fault(close=True, announced=False))
    await lab.begin({"ms": 150})  # its client has that long to see the end, so that nothing depends on who is faster
    end = await lab.goes_on_or_exits(2)
    expect(end is None, f"its process ended: {words(end) if end else ''}")
    expect_same("the answer to the next event", (await lab.invoke({"ms": 0})).payload.strip(), b"true")


async def _poll_fails(lab: RuntimeLab, fault: Fault, skip: int, times: float = 1) -> None:
    """Lets the first poll fail, or the one after an invoke, until the target has noticed."""
    await lab.deploy()
    lab.spoil("next", fault, skip=skip, times=times)
    if skip:
        await lab.answer(await lab.begin({"number": 0}))
    else:
        await lab.function.initialise()
    await lab.until("the poll that fails", lambda: len(lab.calls("next")) > skip)


@case("runtime.next.unrecoverable", _FIRST_OR_LATER)
async def unrecoverable(lab: RuntimeLab, skip: int) -> None:
    await _poll_fails(lab, refusal(500), skip)
    end = await lab.goes_on_or_exits(skip + 2)
    expect(end is not None, "it asked again instead of ending its process")


_STATUSES = (400, 403, 404, 429, 503)
_REFUSALS = {f"{status}-{when}": (status, skip) for status in _STATUSES for when, skip in _FIRST_OR_LATER.items()}


@case("runtime.next.refused", _REFUSALS)
async def refused(lab: RuntimeLab, what: tuple[int, int]) -> None:
    status, skip = what
    await _poll_fails(lab, refusal(status), skip)
    await lab.goes_on_or_exits(skip + 2)
    again = [seen.number for seen in lab.calls("next")][skip + 1 : skip + 2]
    calls = [seen for seen in lab.calls("response", "error") if not again or seen.number < again[0]]
    expect_same("answers and errors before the next poll", [f"{seen.method} {seen.path}" for seen in calls[skip:]], [])


@case("runtime.next.lost", _FIRST_OR_LATER)
async def lost(lab: RuntimeLab, skip: int) -> None:
    await _poll_fails(lab, _LOST, skip)
    await lab.goes_on_or_exits(skip + 2)


@case("runtime.next.lost", ["at-the-end-of-a-connection"])
async def lost_connection(lab: RuntimeLab, _: str) -> None:
    await lab.deploy()
    lab.spoil("response", Fault(close=True, announced=False))
    await lab.answer(await lab.begin({"number": 0}))
    await lab.goes_on_or_exits(2)


@case("runtime.next.lost", {"with-its-event": 0})
async def lost_with_its_event(lab: RuntimeLab, skip: int) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(lost=True), skip=skip)
    await lab.begin({"number": 0})
    await lab.goes_on_or_exits(skip + 2)


@case("runtime.next.does-not-spin", {"503": refusal(503), "lost": _LOST})
async def does_not_spin(lab: RuntimeLab, fault: Fault) -> None:
    await _poll_fails(lab, fault, 0, times=10_000)
    before = len(lab.calls("next"))
    await lab.pause(0.5)
    polls = len(lab.calls("next")) - before
    expect(polls < 100, f"{polls} polls in half a second, each of them refused")


@case("runtime.next.cut-off", {"at-its-end": 9_990, "in-the-middle": 5_000, "at-once": 0})
async def cut_off(lab: RuntimeLab, size: int) -> None:
    event = {"text": "x" * 10_000}
    await lab.deploy()
    lab.spoil("next", Fault(cut=size))
    job = await lab.begin(event)
    await lab.until(
        "an answer, another poll or the end of the process",
        lambda: job.answered.done() or len(lab.calls("next")) > 1 or lab.exits,
    )
    for seen in lab.calls("response"):
        await lab.until("the end of the answer", partial(_is_over, seen))
        expect(seen.size > 10_000, f"it answered what had come: {seen.body[:60]!r}, {seen.size} bytes")


def _is_over(seen: Seen) -> bool:
    return seen.complete or seen.gone


@case("runtime.next.no-json", {"empty": b"", "broken": b'{"a":', "text": b"hello", "no-utf-8": b'"\xff\xfe"'})
async def no_json(lab: RuntimeLab, body: bytes) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(body=body))
    job = await lab.begin(1)
    await lab.until(
        "an answer, an error or the end of the process",
        lambda: job.answered.done() or lab.calls("response", "error") or lab.exits,
    )
