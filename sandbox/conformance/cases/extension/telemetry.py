"""Telemetry: the subscription, and what is sent to the extension's listener."""

from __future__ import annotations

import json
from typing import Any, Final

from sandbox.conformance.case import case
from sandbox.conformance.cases.extension.events import LOST, freeze_for
from sandbox.conformance.cases.extension.registering import error
from sandbox.conformance.extension_lab import ExtensionLab
from sandbox.conformance.lab import expect, expect_same
from sandbox.conformance.verdict import Inapplicable
from sandbox.wire.tap import Fault

_TIME: Final = "2026-11-23T10:00:00.000Z"
_ID: Final = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
_INIT: Final = {"initializationType": "on-demand", "phase": "init"}
_TRACING: Final = {"type": "X-Amzn-Trace-Id", "value": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700", "spanId": "54565fb41ac79632"}
_SPANS: Final = [{"name": "responseLatency", "start": _TIME, "durationMs": 23.02}]
_METRICS: Final = {"durationMs": 10.4, "billedDurationMs": 11, "memorySizeMB": 128, "maxMemoryUsedMB": 40}
_RECORDS: Final[dict[str, Any]] = {
    "platform.initStart": {**_INIT, "functionName": "f", "functionVersion": "$LATEST", "runtimeVersion": "x"},
    "platform.initRuntimeDone": {**_INIT, "status": "success", "spans": _SPANS},
    "platform.initReport": {**_INIT, "status": "success", "metrics": {"durationMs": 125.33}},
    "platform.start": {"requestId": _ID, "version": "$LATEST", "tracing": _TRACING},
    "platform.runtimeDone": {"requestId": _ID, "status": "timeout", "metrics": {"durationMs": 1.5, "producedBytes": 0}},
    "platform.report": {"requestId": _ID, "status": "error", "errorType": "Runtime.ExitError", "metrics": _METRICS},
    "platform.restoreStart": {"functionName": "f", "functionVersion": "1"},
    "platform.restoreRuntimeDone": {"status": "success", "spans": _SPANS},
    "platform.restoreReport": {"status": "success", "metrics": {"durationMs": 70.87}},
    "platform.extension": {"name": "other", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]},
    "platform.telemetrySubscription": {"name": "other", "state": "Subscribed", "types": ["platform", "function"]},
    "platform.logsDropped": {"droppedBytes": 12345, "droppedRecords": 123, "reason": "Some logs were dropped"},
    "platform.end": {"requestId": _ID},
    "platform.fault": f"RequestId: {_ID} Process exited before completing request",
    "platform.yetUnknown": {"a": [1, None]},
    "unknown": "text",
}
_LINES: Final[dict[str, Any]] = {
    "text": "a line",
    "empty": "",
    "unicode": "Grüße 😀 こんにちは",
    "control": "a\u0000b\u0001\t\u2028\ufeff",
    "quotes": "\"\\ ' ` $HOME %s {0}",
    "json-text": '{"level":"INFO","message":"m"}',
    "object": {"timestamp": _TIME, "level": "INFO", "message": "m", "requestId": _ID},
    "nested": {"a": {"b": [1, {"c": None}]}},
    "long": "x" * 262_144,
    "number": 42,
}


def events(record: Any = "a line", type_: str = "function", count: int = 1) -> list[dict[str, Any]]:
    """A batch."""
    return [{"time": _TIME, "type": type_, "record": record} for _ in range(count)]


async def still_works(lab: ExtensionLab) -> None:
    """Nothing of it has ended, and invokes go on."""
    await lab.works()
    lab.one_process()


# ── the subscription ──


@case("extension.telemetry.window")
async def window(lab: ExtensionLab) -> None:
    await lab.start()
    registered, subscribed, polled = (
        lab.calls(*routes)[:1] for routes in (("register",), ("telemetry", "logs"), ("event/next",))
    )
    expect(subscribed, "it never subscribed")
    expect(registered[0].number < subscribed[0].number < polled[0].number, "it subscribed after its first poll")


@case("extension.telemetry.document")
async def document(lab: ExtensionLab) -> None:
    await lab.start()
    seen = lab.subscription
    reply = seen.reply.decode("utf-8", "replace")
    expect(seen.status == 200, f"its subscription was answered {seen.status}: {reply}. It was {seen.body[:500]!r}")


@case("extension.telemetry.listens-first")
async def listens_first(lab: ExtensionLab) -> None:
    await lab.deploy()
    lab.spoil("telemetry", Fault(hold=60))
    lab.spoil("logs", Fault(hold=60))
    await lab.function.initialise()
    await lab.until("its subscription", lambda: any(seen.complete for seen in lab.calls("telemetry", "logs")))
    await lab.connect()  # its reply is held back: whoever does not listen yet listens too late
    lab.time.advance(61)


@case("extension.telemetry.accepts")
async def accepts(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.takes(events())
    await still_works(lab)


_FORMS: Final[dict[str, dict[str, Any]]] = {
    "1-byte-pieces": {"piece": 1},
    "100-byte-pieces": {"piece": 100},
    "lower-case": {"rename": True},
}


@case("extension.telemetry.request-forms", _FORMS)
async def request_forms(lab: ExtensionLab, how: dict[str, Any]) -> None:
    await lab.start()
    await lab.takes(events(count=20), **how)
    await still_works(lab)


@case("extension.telemetry.connections", ["one-after-another", "side-by-side", "idle"])
async def connections(lab: ExtensionLab, how: str) -> None:
    await lab.start()
    if how == "one-after-another":
        for _ in range(10):
            await lab.takes(events())
        return
    first, second = await lab.connect(), await lab.connect()
    await lab.takes(events(), second if how == "idle" else first)
    await lab.takes(events(), second if how == "side-by-side" else None)


@case("extension.telemetry.every-event", _RECORDS)
async def every_event(lab: ExtensionLab, record: Any) -> None:
    type_ = next(name for name, known in _RECORDS.items() if known is record)
    await lab.start()
    await lab.takes(events(record, type_))
    await still_works(lab)


@case("extension.telemetry.records", _LINES)
async def records(lab: ExtensionLab, record: Any) -> None:
    await lab.start()
    await lab.takes([*events(record), *events(record, "extension")])
    await still_works(lab)


@case("extension.telemetry.large", {"as-asked-for": 1, "twice": 2})
async def large(lab: ExtensionLab, times: int) -> None:
    await lab.start()
    size = lab.subscribed.get("buffering", {}).get("maxBytes", 262_144) * times
    await lab.takes(events("x" * 1000, count=size // 1075))
    await still_works(lab)


@case("extension.telemetry.many-events")
async def many_events(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.takes(events("x", count=min(3000, lab.subscribed.get("buffering", {}).get("maxItems", 1000))))
    await still_works(lab)


@case("extension.telemetry.empty")
async def empty(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.takes([])
    await still_works(lab)


@case("extension.telemetry.again")
async def again(lab: ExtensionLab) -> None:
    await lab.start()
    for _ in range(2):
        await lab.takes([*events(), *events(_RECORDS["platform.report"], "platform.report")])
    await still_works(lab)


@case("extension.telemetry.broken-off", {"in-the-body": 300, "in-the-header": 20, "nothing": 0})
async def broken_off(lab: ExtensionLab, size: int) -> None:
    await lab.start()
    poster = await lab.connect()
    poster.post(lab.listener[1], json.dumps(events(count=50)).encode(), stop_after=size)
    await lab.pause(0.02)
    poster.close()
    await lab.takes(events())
    await still_works(lab)


_GARBAGE: Final = {
    "no-json": b"hello",
    "broken": b'[{"time":',
    "object": b'{"a":1}',
    "list": b'[1,null,"a"]',
    "no-utf-8": b'["\xff"]',
}


@case("extension.telemetry.garbage", _GARBAGE)
async def garbage(lab: ExtensionLab, body: bytes) -> None:
    await lab.start()
    await lab.post(body)
    await lab.pause(0.05)
    await lab.takes(events())
    await still_works(lab)


@case("extension.telemetry.flood")
async def flood(lab: ExtensionLab) -> None:
    await lab.start()
    poster, refused = await lab.connect(), 0
    for _ in range(60):
        reply = await lab.post(events("x" * 900, count=250), poster)
        expect(reply.status, "it ended the connection without a reply")
        if reply.status >= 300:
            refused += 1
            await lab.pause(0.02)
    expect(refused < 60, "it refused every batch")
    await still_works(lab)


@case("extension.telemetry.no-feedback")
async def no_feedback(lab: ExtensionLab) -> None:
    await lab.start()
    if "extension" not in lab.subscribed.get("types", []):
        raise Inapplicable("it does not subscribe to extensions' lines")
    for _ in range(3):
        before = len(lab.printed)
        await lab.takes(events("a line of an extension", "extension", 100))
        await lab.pause(0.1)
        count = len(lab.printed) - before
        expect(count < 100, f"100 lines of extensions made it print {count} more")


@case("extension.telemetry.while-polling")
async def while_polling(lab: ExtensionLab) -> None:
    await lab.start()
    poster = await lab.connect()
    for _ in range(5):
        poster.post(lab.listener[1], json.dumps(events(count=200)).encode())
        await lab.works()
        reply = await lab.wait("the reply to a batch of telemetry", poster.replied())
        expect_same("the first digit of its status", reply.status // 100, 2)


@case("extension.telemetry.through")
async def through(lab: ExtensionLab) -> None:
    await lab.start()
    for number in range(3):
        await lab.invoke({"lines": [f"line {number}"] * 20})
        lab.time.advance(35)  # longer than any buffering
    await lab.works()
    lost = [record.record for record in lab.records if record.type == "platform.logsDropped"]
    expect_same("platform.logsDropped", lost, [])
    lab.one_process()


_REFUSALS: Final = {
    "400": Fault(reaches_host=False, status=400, body=error("ValidationError")),
    "403": Fault(reaches_host=False, status=403, body=error("Telemetry.SubscriptionClosed")),
    "500": Fault(reaches_host=False, status=500, body=error("InternalServerError")),
}


async def _subscription_fails(lab: ExtensionLab, fault: Fault) -> None:
    await lab.deploy()
    lab.spoil("telemetry", fault)
    lab.spoil("logs", fault)
    await lab.function.initialise()
    await lab.until("its subscription", lambda: lab.calls("telemetry", "logs"))


@case("extension.telemetry.refused", _REFUSALS)
async def refused(lab: ExtensionLab, fault: Fault) -> None:
    await _subscription_fails(lab, fault)
    await lab.ends_or("a poll, or another try", lambda: lab.calls("event/next") or lab.calls("telemetry", "logs")[1:])


@case("extension.telemetry.not-supported")
async def not_supported(lab: ExtensionLab) -> None:
    body = error("Telemetry.NotSupported")
    await _subscription_fails(lab, Fault(reaches_host=False, status=202, body=body))
    await lab.until("the end of Init", lambda: lab.environment.free or lab.exits)
    await still_works(lab)


@case("extension.telemetry.lost")
async def lost(lab: ExtensionLab) -> None:
    await _subscription_fails(lab, LOST)
    await lab.ends_or("a poll, or another try", lambda: lab.calls("event/next") or lab.calls("telemetry", "logs")[1:])


@case("extension.freeze.with-telemetry")
async def after_a_freeze(lab: ExtensionLab) -> None:
    await lab.start()
    poster = await lab.connect()
    await lab.takes(events(), poster)
    await freeze_for(lab, 7 * 3600)
    await lab.takes(events())
    await still_works(lab)
