"""Answers, and what may become of them."""

from __future__ import annotations

import json

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.polls import echoes
from sandbox.conformance.lab import RuntimeLab, expect, expect_same, words
from sandbox.core.limits import PAYLOAD_LIMIT
from sandbox.wire.tap import Fault

_INVOCATION = "lambda-runtime-invocation-id"


def error(error_type: str) -> bytes:
    return json.dumps({"errorMessage": "as the suite asked", "errorType": error_type}).encode()


@case("runtime.response.id", {"made-here": None, "of-the-caller": "8476A536-e9f4-11e8-9739-2dfe598c3fcd"})
async def request_id(lab: RuntimeLab, wanted: str | None) -> None:
    await lab.deploy()
    result = await lab.invoke(1, request_id=wanted)
    paths = [seen.path for seen in lab.calls("response", "error")]
    expect_same("the paths of its answers", paths, [f"/2018-06-01/runtime/invocation/{result.request_id}/response"])


@case("runtime.response.once")
async def once(lab: RuntimeLab) -> None:
    await lab.deploy()
    for number in range(4):
        await echoes(lab, number)
    expect_same("answers to four events", len(lab.calls("response", "error")), 4)


@case("runtime.response.json", {"string": "ü😀", "object": {"a": "ö", "b": [None, True, 1.5]}, "null": None, "number": 1})
async def is_json(lab: RuntimeLab, event: object) -> None:
    await lab.deploy()
    await lab.invoke(event)
    [seen] = lab.calls("response")
    try:
        answer = json.loads(seen.body.decode("utf-8"))
    except ValueError:
        expect(False, f"it posted {seen.body[:100]!r}, which is no JSON in UTF-8")
    else:
        expect_same("what it posted", answer, event)


@case("runtime.response.content-type")
async def content_type(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, {"a": 1})
    [seen] = lab.calls("response")
    kind = (seen.get("content-type") or "").partition(";")[0].strip().lower()
    expect_same("Content-Type", kind, "application/json")


async def gives_invocation_id_back(lab: RuntimeLab, route: str) -> None:
    """It was given one, and gives it back."""
    event = next(seen for seen in lab.calls("next") if seen.status == 200)
    answer = lab.calls(route)[0]
    expect_same("Lambda-Runtime-Invocation-Id", answer.get(_INVOCATION), event.replied(_INVOCATION))


@case("runtime.response.invocation-id")
async def invocation_id(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, 1)
    await gives_invocation_id_back(lab, "response")


@case("runtime.response.own-invocation-id")
async def own_invocation_id(lab: RuntimeLab) -> None:
    await lab.deploy()
    lab.spoil("next", Fault(without=frozenset({_INVOCATION})), skip=1)
    for number in range(3):
        await lab.answer(await lab.begin(number))
        expect_same("answers so far", len(lab.calls("response")), number + 1)
    events = [seen.replied(_INVOCATION) for seen in lab.calls("next") if seen.status == 200]
    for number, (event, answer) in enumerate(zip(events, lab.calls("response"), strict=False)):
        echoed = answer.get(_INVOCATION)
        expect(not echoed or echoed == event, f"answer {number + 1} gave {echoed!r} back, and its event had {event!r}")


@case("runtime.response.large", {"1-MB": 1_000_000, "5-MB": 5_000_000, "6-MB": 6 * 1024 * 1024 - 10})
async def large(lab: RuntimeLab, size: int) -> None:
    await lab.deploy("big")
    result = await lab.invoke({"bytes": size})
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")
    expect(json.loads(result.payload) == "x" * size, f"the answer of {len(result.payload)} bytes is not what was asked for")


async def _too_large(lab: RuntimeLab, size: int) -> object:
    await lab.deploy("big")
    result = await lab.answer(await lab.begin({"bytes": size}))
    expect(result.function_error is not None, "the caller got an answer of more than 6 MB")
    return await lab.goes_on_or_exits(2)


@case("runtime.response.too-large", {"a-little": PAYLOAD_LIMIT + 1, "7-MB": 7_000_000})
async def too_large(lab: RuntimeLab, size: int) -> None:
    await _too_large(lab, size)


@case("runtime.response.survives-too-large")
async def survives_too_large(lab: RuntimeLab) -> None:
    end = await _too_large(lab, 7_000_000)
    expect(end is None, "its process ended")
    result = await lab.invoke({"bytes": 10})
    expect_same("the next answer", result.payload, b'"xxxxxxxxxx"')


async def _is_told(lab: RuntimeLab, fault: Fault) -> str | None:
    """The answer is taken, and its poster is told otherwise. How its process ended, if it did."""
    await lab.deploy()
    lab.spoil("response", fault)
    await lab.answer(await lab.begin({"number": 0}))
    end = await lab.goes_on_or_exits(2)
    return words(end) if end is not None else None


_LATE = {
    "stale-invocation-id": Fault(status=400, body=error("InvalidInvocationId")),
    "unknown-request-id": Fault(status=400, body=error("InvalidRequestID")),
    "gone": Fault(status=410, body=error("InvokeTimeout")),
}


@case("runtime.response.late", _LATE)
async def late(lab: RuntimeLab, fault: Fault) -> None:
    end = await _is_told(lab, fault)
    expect(end is None, f"its process ended: {end}")
    await echoes(lab, {"number": 1})


_REFUSED = {
    "403": Fault(status=403, body=error("InvalidStateTransition")),
    "413": Fault(status=413, body=error("RequestEntityTooLarge")),
    "429": Fault(status=429, body=error("TooManyRequests")),
    "502": Fault(status=502, body=b""),
    "503": Fault(status=503, body=b"no JSON"),
}


@case("runtime.response.refused", _REFUSED)
async def refused(lab: RuntimeLab, fault: Fault) -> None:
    await _is_told(lab, fault)


@case("runtime.response.unrecoverable")
async def unrecoverable(lab: RuntimeLab) -> None:
    end = await _is_told(lab, Fault(status=500, body=error("InternalServerError")))
    expect(end is not None, "it asked for the next event instead of ending its process")


_LOST = {"after-it-was-read": Fault(lost=True), "before-it-was-read": Fault(reaches_host=False, at_once=True)}


@case("runtime.response.reply-lost", _LOST)
async def reply_lost(lab: RuntimeLab, fault: Fault) -> None:
    await lab.deploy()
    lab.spoil("response", fault)
    await lab.begin({"number": 0})
    await lab.until("its answer", lambda: lab.calls("response"))
    await lab.goes_on_or_exits(2)


_FORMS = {
    "pieces": Fault(piece=1),
    "chunked": Fault(chunk=3),
    "lower-case": Fault(rename=str.lower),
    "empty": Fault(body=b""),
    "more-fields": Fault(fields=(("X-More", "1"),)),
    "closed": Fault(close=True),
}


@case("runtime.response.reply-forms", _FORMS)
async def reply_forms(lab: RuntimeLab, fault: Fault) -> None:
    end = await _is_told(lab, fault)
    expect(end is None, f"its process ended: {end}")
    await echoes(lab, {"number": 1})
