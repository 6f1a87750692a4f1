"""Shutdown, and starting anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sandbox.conformance.case import case
from sandbox.conformance.cases.extension.events import freeze_for, polls
from sandbox.conformance.cases.extension.registering import FORMS
from sandbox.conformance.cases.extension.telemetry import events
from sandbox.conformance.extension_lab import ExtensionLab, clean, ends_of
from sandbox.conformance.lab import expect, expect_same, words
from sandbox.conformance.verdict import Inapplicable
from sandbox.host.environment import Environment
from sandbox.wire.tap import Fault


@case("extension.shutdown.ends")
async def ends(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()
    end = await lab.shut_down()
    expect(end.signal is None, f"it did not end by itself: {words(end)}")


@case("extension.shutdown.status")
async def status(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()
    end = await lab.shut_down()
    expect(clean(end), f"it ended with {words(end)}")


@case("extension.shutdown.no-more-polls")
async def no_more_polls(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()
    before = polls(lab)
    await lab.shut_down()
    expect_same("polls after SHUTDOWN", polls(lab) - before, 0)


async def _at_once(lab: ExtensionLab) -> None:
    """Before the first invoke."""


async def _after_many(lab: ExtensionLab) -> None:
    await lab.works(30)


async def _after_a_freeze(lab: ExtensionLab) -> None:
    await lab.works()
    await freeze_for(lab, 0)


async def _after_an_error(lab: ExtensionLab) -> None:
    await lab.invoke({"seconds": "no number"})


_TIMES: Final = {
    "at-once": _at_once,
    "after-many": _after_many,
    "after-a-freeze": _after_a_freeze,
    "after-an-error": _after_an_error,
}


@case("extension.shutdown.at-any-time", _TIMES)
async def at_any_time(lab: ExtensionLab, before: Callable[[ExtensionLab], Awaitable[None]]) -> None:
    await lab.start()
    await before(lab)
    end = await lab.shut_down()
    expect(end.signal is None, f"it did not end by itself: {words(end)}")


def _shutdown(lab: ExtensionLab, **changes: Any) -> bytes:
    deadline = int((lab.real.wall() + 2) * 1000)
    return json.dumps({"eventType": "SHUTDOWN", "shutdownReason": "spindown", "deadlineMs": deadline, **changes}).encode()


async def _told(lab: ExtensionLab, **changes: Any) -> None:
    await lab.start()
    await lab.works()
    lab.spoil("event/next", Fault(body=_shutdown(lab, **changes)))
    end = await lab.shut_down()
    expect(end.signal is None, f"it did not end by itself: {words(end)}")


@case("extension.shutdown.reason", ["spindown", "SPINDOWN", "timeout", "TIMEOUT", "failure", "FAILURE"])
async def reason(lab: ExtensionLab, name: str) -> None:
    await _told(lab, shutdownReason=name)


@case("extension.shutdown.reply-forms", FORMS)
async def reply_forms(lab: ExtensionLab, fault: Fault) -> None:
    await lab.start()
    lab.spoil("event/next", fault)
    end = await lab.shut_down()
    expect(end.signal is None, f"it did not end by itself: {words(end)}")


@case("extension.shutdown.more-keys", ["unknown", "text-deadline"])
async def more_keys(lab: ExtensionLab, what: str) -> None:
    if what == "unknown":
        await _told(lab, yetUnknown={"a": [1, None]})
    else:
        await _told(lab, deadlineMs=str(int((lab.real.wall() + 2) * 1000)))


@case("extension.shutdown.little-time", {"passed": -1000, "near": 50})
async def little_time(lab: ExtensionLab, milliseconds: int) -> None:
    await _told(lab, deadlineMs=int(lab.real.wall() * 1000) + milliseconds)


@case("extension.shutdown.with-telemetry")
async def with_telemetry(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()
    await lab.takes(events(count=200))
    poster = await lab.connect()
    poster.post(lab.listener[1], json.dumps(events(count=200)).encode())
    end = await lab.shut_down()
    expect(end.signal is None, f"it did not end by itself: {words(end)}")


# ── starting anew ──


async def _anew(lab: ExtensionLab, count: int = 1) -> None:
    """Its next process has registered with a new identifier, and works."""
    await lab.works(2)
    calls = lab.calls("register")
    mine = [seen for seen in calls if seen.get("lambda-extension-name") == calls[0].get("lambda-extension-name")]
    names = {seen.get("lambda-extension-name") for seen in calls}
    count_of_all = (count + 1) * len(names)
    expect_same("registrations", len(calls), count_of_all)
    expect(len({seen.replied("lambda-extension-identifier") for seen in mine}) == count + 1, "an identifier came twice")


async def _runtime_exits(lab: ExtensionLab) -> None:
    job = await lab.wait("a place for the invoke", lab.function.submit(b'{"exit":1}'))
    await lab.wait("the end of the invoke", job.answered)
    await _reset(lab)


async def _reset(lab: ExtensionLab, count: int = 1) -> None:
    """Lets the Shutdown of a reset run, its limits included, until the extension's process has ended."""

    def gone() -> bool:
        lab.time.advance(0.02)
        return len(lab.exits) >= count

    await lab.until("the end of its process in a reset", gone)


@case("extension.again.after-runtime-exit")
async def after_runtime_exit(lab: ExtensionLab) -> None:
    await lab.start()
    await _runtime_exits(lab)
    await _anew(lab)


@case("extension.again.after-timeout")
async def after_timeout(lab: ExtensionLab) -> None:
    await lab.start(timeout=5)
    job = await lab.wait("a place for the invoke", lab.function.submit(b'{"seconds":600}'))
    await lab.until("the delivery of the event", lambda: any(seen.status == 200 for seen in lab.calls("next")))
    lab.time.advance(6)
    await lab.wait("the end of the invoke", job.answered)
    await _reset(lab)
    await _anew(lab)


@case("extension.again.after-kill")
async def after_kill(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()
    lab.environment.signal("KILL")
    await _reset(lab)
    await _anew(lab)


@case("extension.again.after-another-ends")
async def after_another_ends(lab: ExtensionLab) -> None:
    await lab.start(beside=True)
    await lab.works()
    await lab.invoke({"touch": "/tmp/beside-ends"})
    job = await lab.wait("a place for the invoke", lab.function.submit(b'{"seconds":5}'))
    await _reset(lab)
    await lab.wait("the end of the invoke", job.answered)
    await _anew(lab)


@case("extension.again.new-identifier")
async def new_identifier(lab: ExtensionLab) -> None:
    await lab.start()
    await _runtime_exits(lab)
    await lab.works(2)
    last = lab.calls("register")[-1]
    for seen in lab.calls("event/next", "telemetry", "logs"):
        if seen.number > last.number:
            given = last.replied("lambda-extension-identifier")
            expect_same("the identifier", seen.get("lambda-extension-identifier"), given)


@case("extension.again.subscribes")
async def subscribes(lab: ExtensionLab) -> None:
    await lab.start()
    await _runtime_exits(lab)
    await lab.works()
    expect_same("subscriptions of two processes", len(lab.calls("telemetry", "logs")), 2)
    await lab.takes(events())


@case("extension.again.many-times")
async def many_times(lab: ExtensionLab) -> None:
    await lab.start()
    for number in range(3):
        await lab.works()
        job = await lab.wait("a place for the invoke", lab.function.submit(b'{"exit":3}'))
        await lab.wait("the end of the invoke", job.answered)
        await _reset(lab, number + 1)
    await _anew(lab, 3)


# ── two environments ──


async def _two(lab: ExtensionLab) -> tuple[Environment, Environment]:
    if (await lab.host.isolation()).tier == "process" and lab.target.offers("telemetry"):
        raise Inapplicable("without namespaces two environments share their ports; `sandbox doctor` says what is missing")
    await lab.deploy()
    await asyncio.gather(*(lab.invoke({"seconds": 0.3}) for _ in range(2)))
    first, second = lab.function.environments
    return first, second


@case("extension.two.environments")
async def two_environments(lab: ExtensionLab) -> None:
    first, second = await _two(lab)
    given = [seen.replied("lambda-extension-identifier") for seen in lab.calls("register")]
    expect_same("identifiers of two environments", len(set(given)), 2)
    for seen in lab.calls("event/next"):
        own = lab.tap.of("register", environment=seen.environment)[0].replied("lambda-extension-identifier")
        expect_same("the identifier of a poll", seen.get("lambda-extension-identifier"), own)
    expect(not first.exits and not second.exits, "a process ended")


@case("extension.two.shutdown")
async def two_shutdown(lab: ExtensionLab) -> None:
    first, second = await _two(lab)
    closing = asyncio.ensure_future(first.shutdown())

    def ended() -> list[Any]:
        lab.time.advance(0)
        return ends_of(first)

    await lab.until("the end of its process in one environment", ended, patience=2.0)
    closing.cancel()
    await lab.works()
    expect(not ends_of(second), "its process in the other environment ended, too")
