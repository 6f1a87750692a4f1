"""Errors of handlers, errors of Init, and processes that end."""

from __future__ import annotations

import json
from typing import Any

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.answers import error, gives_invocation_id_back
from sandbox.conformance.lab import RuntimeLab, expect, expect_same, words
from sandbox.host.result import InvokeResult
from sandbox.wire.tap import Fault, Seen


async def _fails(lab: RuntimeLab, message: str = "as the suite asked") -> tuple[InvokeResult, Seen]:
    """A handler fails; what the caller got, and what the runtime posted."""
    await lab.deploy("error")
    result = await lab.answer(await lab.begin({"message": message}))
    calls = lab.calls("error")
    expect(calls, f"nothing was posted to /error; the caller got {result.payload[:200]!r}")
    await lab.until("the end of what it posts", lambda: calls[0].complete or calls[0].gone)
    return result, calls[0]


def _document(seen: Seen, what: str = "the error") -> dict[str, Any]:
    try:
        document = json.loads(seen.body.decode("utf-8"))
    except ValueError:
        document = None
    expect(isinstance(document, dict), f"{what} that it posted is no JSON object: {seen.body[:200]!r}")
    assert isinstance(document, dict)
    for key in ("errorMessage", "errorType"):
        expect(isinstance(document.get(key), str), f"{what} that it posted has no text {key}: {seen.body[:200]!r}")
    return document


@case("runtime.error.reported")
async def reported(lab: RuntimeLab) -> None:
    result, seen = await _fails(lab)
    expect_same("the path", seen.path, f"/2018-06-01/runtime/invocation/{result.request_id}/error")
    expect_same("the status of its post", seen.status, 202)


@case("runtime.error.shape")
async def shape(lab: RuntimeLab) -> None:
    _, seen = await _fails(lab)
    _document(seen)


_MESSAGES = {
    "plain": "as the suite asked",
    "unicode": "Grüße 😀",
    "quotes": 'a "quoted" \\ one',
    "lines": "first\nsecond\r\nthird",
    "percent": "100 % of %s and {0}",
    "long": "y" * 10_000,
}


@case("runtime.error.message", _MESSAGES)
async def message(lab: RuntimeLab, text: str) -> None:
    _, seen = await _fails(lab, text)
    document = _document(seen)
    expect(text in document["errorMessage"], f"errorMessage is {document['errorMessage'][:200]!r}, without {text[:60]!r}")


@case("runtime.error.stack")
async def stack(lab: RuntimeLab) -> None:
    _, seen = await _fails(lab)
    trace = _document(seen).get("stackTrace", [])
    expect(isinstance(trace, list), f"stackTrace is {trace!r:.100}")


@case("runtime.error.type-header")
async def type_header(lab: RuntimeLab) -> None:
    _, seen = await _fails(lab)
    reported = seen.get("lambda-runtime-function-error-type")
    expect(reported is None or reported.strip(), "Lambda-Runtime-Function-Error-Type is there and empty")


@case("runtime.error.no-response")
async def no_response(lab: RuntimeLab) -> None:
    await _fails(lab)
    await lab.goes_on_or_exits(2)
    expect_same("responses to an event that failed", len(lab.calls("response")), 0)


@case("runtime.error.goes-on")
async def goes_on(lab: RuntimeLab) -> None:
    await _fails(lab)
    end = await lab.goes_on_or_exits(2)
    expect(end is None, f"its process ended: {words(end) if end else ''}")
    result = await lab.invoke({"message": "again"})
    expect(result.function_error is not None, f"the next invoke, which was to fail, answered {result.payload[:200]!r}")


@case("runtime.error.large", {"100-kB": 100_000, "2-MB": 2_000_000})
async def large(lab: RuntimeLab, size: int) -> None:
    await lab.deploy("error")
    await lab.begin({"message": "y" * size})
    await lab.goes_on_or_exits(2)


async def _is_told(lab: RuntimeLab, fault: Fault) -> str | None:
    await lab.deploy("error")
    lab.spoil("error", fault)
    await lab.begin({"message": "as the suite asked"})
    await lab.until("its error", lambda: lab.calls("error"))
    end = await lab.goes_on_or_exits(2)
    return words(end) if end is not None else None


_REFUSED = {
    "400": Fault(status=400, body=error("InvalidRequestID")),
    "403": Fault(status=403, body=error("InvalidStateTransition")),
    "413": Fault(status=413, body=error("RequestEntityTooLarge")),
    "503": Fault(status=503, body=b""),
}


@case("runtime.error.refused", _REFUSED)
async def refused(lab: RuntimeLab, fault: Fault) -> None:
    await _is_told(lab, fault)


@case("runtime.error.unrecoverable")
async def unrecoverable(lab: RuntimeLab) -> None:
    end = await _is_told(lab, Fault(status=500, body=error("InternalServerError")))
    expect(end is not None, "it asked for the next event instead of ending its process")


@case("runtime.error.reply-lost", {"after": Fault(lost=True), "before": Fault(reaches_host=False, at_once=True)})
async def reply_lost(lab: RuntimeLab, fault: Fault) -> None:
    await _is_told(lab, fault)


@case("runtime.error.invocation-id")
async def invocation_id(lab: RuntimeLab) -> None:
    await _fails(lab)
    await gives_invocation_id_back(lab, "error")


# ── Init ──


async def _init_fails(lab: RuntimeLab, handler: str = "init_error") -> None:
    await lab.deploy(handler)
    await lab.function.initialise()
    await lab.until(
        "a report to /init/error, a poll, or the end of the process", lambda: lab.calls("init/error", "next") or lab.exits
    )


@case("runtime.init.error-reported")
async def init_error_reported(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    calls = lab.calls("init/error")
    expect(calls, f"nothing was posted to /init/error. {lab.whereabouts()}")
    await lab.until("the reply to its report", lambda: calls[0].status is not None)
    expect_same("the status of its report", calls[0].status, 202)


@case("runtime.init.error-shape")
async def init_error_shape(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    await lab.until("the end of its report", lambda: lab.calls("init/error")[0].complete)
    _document(lab.calls("init/error")[0], "the error of Init")


@case("runtime.init.error-exits")
async def init_error_exits(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    await lab.process_ended()


@case("runtime.init.error-status")
async def init_error_status(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    end = await lab.process_ended()
    expect(end.code != 0, "it ended with status 0")


@case("runtime.init.error-no-poll")
async def init_error_no_poll(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    if not lab.calls("next"):
        await lab.process_ended()
    expect_same("polls", len(lab.calls("next")), 0)


@case("runtime.init.error-once")
async def init_error_once(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    await lab.pause(0.05)
    expect_same("reports of one process", len(lab.calls("init/error")), 1)


@case("runtime.init.error-again")
async def init_error_again(lab: RuntimeLab) -> None:
    await _init_fails(lab)
    await lab.process_ended()
    result = await lab.answer(await lab.begin())
    expect(result.function_error is not None, "the invoke succeeded")
    expect_same("reports of two processes", len(lab.calls("init/error")), 2)


_REPORTS_LOST = {
    "403": Fault(status=403, body=error("InvalidStateTransition")),
    "500": Fault(status=500, body=error("InternalServerError")),
    "lost": Fault(reaches_host=False, lost=True),
}


@case("runtime.init.error-refused", _REPORTS_LOST)
async def init_error_refused(lab: RuntimeLab, fault: Fault) -> None:
    lab.spoil("init/error", fault)
    await _init_fails(lab)
    await lab.process_ended()


@case("runtime.init.exit")
async def init_exit(lab: RuntimeLab) -> None:
    await lab.deploy("init_exit")
    await lab.function.initialise()
    end = await lab.process_ended()
    expect_same("how it ended", words(end), "exit status 7")


@case("runtime.init.missing-handler")
async def missing_handler(lab: RuntimeLab) -> None:
    await lab.deploy("missing")
    result = await lab.answer(await lab.begin())
    expect(result.function_error is not None, f"the invoke succeeded: {result.payload[:200]!r}")


# ── exits, and time ──


async def _exits(lab: RuntimeLab, code: int) -> InvokeResult:
    await lab.deploy("exit")
    return await lab.answer(await lab.begin({"code": code}))


@case("runtime.exit.status", [0, 1, 3, 255])
async def exit_status(lab: RuntimeLab, code: int) -> None:
    result = await _exits(lab, code)
    end = await lab.process_ended()
    expect_same("how it ended", words(end), f"exit status {code}")
    expect(b"Runtime.ExitError" in result.payload, f"the caller got {result.payload[:200]!r}")


@case("runtime.exit.no-answer")
async def exit_no_answer(lab: RuntimeLab) -> None:
    await _exits(lab, 1)
    await lab.process_ended()
    calls = [f"{seen.method} {seen.path}" for seen in lab.calls("response", "error", "init/error")]
    expect_same("what it posted", calls, [])


@case("runtime.exit.begins-again")
async def exit_begins_again(lab: RuntimeLab) -> None:
    await _exits(lab, 2)
    await lab.process_ended()
    await lab.answer(await lab.begin({"code": 4}))
    end = await lab.process_ended(2)
    expect_same("how the second process ended", words(end), "exit status 4")


@case("runtime.time.sleeps", [0, 300])
async def sleeps(lab: RuntimeLab, milliseconds: int) -> None:
    await lab.deploy("sleep")
    before = lab.real.now()
    result = await lab.invoke({"ms": milliseconds})
    expect_same("the answer", result.payload.strip(), b"true")
    took = (lab.real.now() - before) * 1000
    expect(took >= milliseconds * 0.9, f"it slept {took:.0f} ms instead of {milliseconds}")


@case("runtime.time.killed-in-handler")
async def killed_in_handler(lab: RuntimeLab) -> None:
    await lab.deploy("sleep", timeout=5)
    job = await lab.begin({"ms": 600_000})
    await lab.until("the delivery of the event", lambda: any(seen.status == 200 for seen in lab.calls("next")))
    lab.time.advance(6)
    result = await lab.answer(job)
    expect(b"timed out" in result.payload, f"the caller got {result.payload[:200]!r}")
    result = await lab.invoke({"ms": 1})
    expect_same("the answer of the next process", result.payload.strip(), b"true")
