"""Asking for events, INVOKE, and freezing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from sandbox.conformance.case import case
from sandbox.conformance.cases.extension.registering import EXTENSION, FORMS, error
from sandbox.conformance.extension_lab import ExtensionLab
from sandbox.conformance.lab import expect, expect_same
from sandbox.core.function import ACCOUNT, DEFAULT_REGION
from sandbox.wire.tap import Fault

REQUEST_ID: Final = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
ARN: Final = f"arn:aws:lambda:{DEFAULT_REGION}:{ACCOUNT}:function:function"
LOST: Final = Fault(reaches_host=False, lost=True)
_FIRST_OR_LATER: Final = {"first-poll": 0, "later-poll": 1}


def refusal(status: int) -> Fault:
    """A poll that the host never hears of, and that is answered so."""
    return Fault(reaches_host=False, status=status, body=error("Extension.InvalidExtensionState"))


def polls(lab: ExtensionLab) -> int:
    return len(lab.calls("event/next"))


@case("extension.next.identifier")
async def identifier(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works(2)
    given = lab.calls("register")[0].replied("lambda-extension-identifier")
    for seen in lab.calls(*EXTENSION)[1:]:
        expect_same(f"the identifier of {seen.method} {seen.path}", seen.get("lambda-extension-identifier"), given)


@case("extension.next.no-body")
async def no_body(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()
    expect_same("bytes in the bodies of its polls", [seen.size for seen in lab.calls("event/next") if seen.size], [])


@case("extension.next.one-at-a-time")
async def one_at_a_time(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works(3)
    await lab.pause(0.05)
    waiting = [seen for seen in lab.calls("event/next") if seen.status is None and not seen.gone]
    expect_same("polls that wait", len(waiting), 1)
    refused = [seen.status for seen in lab.calls("event/next") if seen.status not in (None, 200)]
    expect_same("polls that the host refused", refused, [])


@case("extension.next.idle-for-hours", {"once": (6 * 3600,), "again": (3600, 60, 86_400)})
async def idle_for_hours(lab: ExtensionLab, waits: tuple[float, ...]) -> None:
    await lab.start()
    for wait in waits:
        lab.time.advance(wait)
        await lab.works()
    lab.one_process()


async def _poll_fails(lab: ExtensionLab, fault: Fault, skip: int, times: float = 1) -> None:
    """Lets its first poll fail, or the one after an event, until it has been seen."""
    await lab.deploy()
    lab.spoil("event/next", fault, skip=skip, times=times)
    await lab.function.initialise()
    await lab.until("its first poll", lambda: polls(lab))
    if skip:
        await lab.function.submit(b"{}")

    def failed() -> bool:
        lab.time.advance(0)  # telemetry goes out, for those who wait for it before they poll
        return polls(lab) > skip

    await lab.until("the poll that fails", failed)


_STATUSES: Final = {f"{status}": status for status in (400, 403, 503)}


@case("extension.next.refused", _STATUSES)
async def refused(lab: ExtensionLab, status: int) -> None:
    await _poll_fails(lab, refusal(status), 0)
    await lab.ends_or("another call", lambda: len(lab.calls(*EXTENSION)) > 2 + len(lab.calls("telemetry", "logs")))


@case("extension.next.refused", {"later": 403}, uses=("invoke",))
async def refused_later(lab: ExtensionLab, status: int) -> None:
    await _poll_fails(lab, refusal(status), 1)
    await lab.ends_or("another poll", lambda: polls(lab) > 2)


@case("extension.next.unrecoverable")
async def unrecoverable(lab: ExtensionLab) -> None:
    await _poll_fails(lab, refusal(500), 0)
    end = await lab.ends_or("another poll", lambda: polls(lab) > 1)
    expect(end is not None, "it asked again instead of ending its process")


@case("extension.next.lost")
async def lost(lab: ExtensionLab) -> None:
    await _poll_fails(lab, LOST, 0)
    await lab.ends_or("another poll", lambda: polls(lab) > 1)


@case("extension.next.lost", {"later": 1}, uses=("invoke",))
async def lost_later(lab: ExtensionLab, skip: int) -> None:
    await _poll_fails(lab, LOST, skip)
    await lab.ends_or("another poll", lambda: polls(lab) > skip + 1)


@case("extension.next.does-not-spin", {"503": refusal(503), "lost": LOST})
async def does_not_spin(lab: ExtensionLab, fault: Fault) -> None:
    await _poll_fails(lab, fault, 0, times=100_000)
    before = polls(lab)
    await lab.pause(0.5)
    expect(polls(lab) - before < 100, f"{polls(lab) - before} polls in half a second, each of them refused")


# ── INVOKE ──


@case("extension.invoke.asks-again")
async def asks_again(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works(3)
    expect_same("its polls", polls(lab), 4)
    lab.one_process()


@case("extension.invoke.many")
async def many(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works(100)
    lab.one_process()


@case("extension.invoke.reply-forms", FORMS)
async def reply_forms(lab: ExtensionLab, fault: Fault) -> None:
    await lab.start()
    lab.spoil("event/next", fault)
    await lab.works(2)
    lab.one_process()


@case("extension.invoke.connection-closed")
async def connection_closed(lab: ExtensionLab) -> None:
    await lab.start()
    lab.spoil("event/next", Fault(close=True), times=3)
    await lab.works(4)
    lab.one_process()


def event(lab: ExtensionLab, **changes: Any) -> bytes:
    """An INVOKE as the host makes it, with changes; None takes a key away."""
    document = {
        "eventType": "INVOKE",
        "deadlineMs": int((lab.real.wall() + 60) * 1000),
        "requestId": REQUEST_ID,
        "invokedFunctionArn": ARN,
        "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0"},
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


async def _bears(lab: ExtensionLab, **changes: Any) -> None:
    """It is told of an invoke so, and asks for the next one."""
    await lab.start()
    lab.spoil("event/next", Fault(body=event(lab, **changes)))
    await lab.works(request_id=REQUEST_ID)  # as telemetry will name it, too
    await lab.works()
    lab.one_process()


@case("extension.invoke.more-keys")
async def more_keys(lab: ExtensionLab) -> None:
    await _bears(lab, yetUnknown={"a": [1, None, "ü"]}, tenantId="tenant-1")


@case("extension.invoke.no-tracing")
async def no_tracing(lab: ExtensionLab) -> None:
    await _bears(lab, tracing=None)


@case("extension.invoke.event-identifier", ["none", "old-name"])
async def event_identifier(lab: ExtensionLab, how: str) -> None:
    fields = (("Lambda-Extension-Identifier", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),) if how == "old-name" else ()
    await lab.start()
    lab.spoil("event/next", Fault(without=frozenset({"lambda-extension-event-identifier"}), fields=fields))
    await lab.works(2)


@case("extension.invoke.past-deadline")
async def past_deadline(lab: ExtensionLab) -> None:
    await _bears(lab, deadlineMs=1_000_000_000_000)


@case("extension.invoke.arns", {"alias": f"{ARN}:live", "version": f"{ARN}:7", "long": ARN + ":" + "a" * 120})
async def arns(lab: ExtensionLab, arn: str) -> None:
    await _bears(lab, invokedFunctionArn=arn)


@case("extension.invoke.unknown-type", uses=("invoke",))
async def unknown_type(lab: ExtensionLab) -> None:
    await _bears(lab, eventType="RESTORE")


_FAILURES: Final = {"error": {"seconds": "no number"}, "large": {"text": "x" * 100_000}}


@case("extension.invoke.failures", _FAILURES)
async def failures(lab: ExtensionLab, what: Any) -> None:
    await lab.start()
    await lab.invoke(what)
    await lab.works()
    lab.one_process()


@case("extension.invoke.large-output")
async def large_output(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.invoke({"lines": [f"line {number} {'x' * 100}" for number in range(3000)]})
    lab.time.advance(2)
    await lab.works(2)
    lab.one_process()


# ── freezing ──


async def freeze_for(lab: ExtensionLab, seconds: float) -> None:
    """Frozen, whoever is working; time passes, and everything is thawed."""
    lab.environment.signal("STOP")
    lab.time.advance(seconds)
    await lab.pause(0.01)
    lab.environment.signal("CONT")


_FREEZES: Final[dict[str, Callable[[int], float]]] = {"a-minute": lambda _: 60, "hours": lambda _: 7 * 3600}


@case("extension.freeze.in-poll", _FREEZES)
async def in_poll(lab: ExtensionLab, seconds: Callable[[int], float]) -> None:
    await lab.start()
    for number in range(2):
        await freeze_for(lab, seconds(number))
        await lab.works()
    lab.one_process()


@case("extension.freeze.many-times")
async def many_times(lab: ExtensionLab) -> None:
    await lab.start()
    for _ in range(15):
        await freeze_for(lab, 10)
    await lab.works(2)
    lab.one_process()
