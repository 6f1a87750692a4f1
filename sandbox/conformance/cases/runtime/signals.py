"""Freeze, thaw, and the end."""

from __future__ import annotations

import json

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.polls import echoes
from sandbox.conformance.cases.runtime.streams import without_metadata
from sandbox.conformance.lab import RuntimeLab, expect, expect_same

_A_WHILE = 0.05  # real seconds for which it is frozen


async def freeze_for_a_while(lab: RuntimeLab) -> None:
    lab.environment.signal("STOP")
    await lab.pause(_A_WHILE)
    lab.environment.signal("CONT")


@case("runtime.freeze.in-poll", {"by-the-host": False, "by-hand": True})
async def in_poll(lab: RuntimeLab, by_hand: bool) -> None:
    await lab.deploy()
    await lab.init()
    if by_hand:
        lab.environment.signal("CONT")
        await freeze_for_a_while(lab)
    await echoes(lab, {"after": "thaw"})
    await echoes(lab, {"and": "again"})


@case("runtime.freeze.again-and-again")
async def again_and_again(lab: RuntimeLab) -> None:
    await lab.deploy()
    await lab.init()
    for _ in range(20):
        lab.environment.signal("CONT")
        await lab.pause(0.004)
        lab.environment.signal("STOP")
        await lab.pause(0.002)
    await echoes(lab, {"after": "thaw"})
    expect_same("answers", len(lab.calls("response")), 1)


@case("runtime.freeze.event-before-thaw")
async def event_before_thaw(lab: RuntimeLab) -> None:
    await lab.deploy()
    await lab.init()
    job = await lab.begin({"a": 1})
    lab.environment.signal("STOP")
    await lab.pause(_A_WHILE)
    lab.environment.signal("CONT")
    result = await lab.end(job)
    expect_same("the answer", json.loads(result.payload), {"a": 1})
    expect_same("answers", len(lab.calls("response", "error")), 1)


@case("runtime.freeze.in-handler")
async def in_handler(lab: RuntimeLab) -> None:
    await lab.deploy("sleep")
    job = await lab.begin({"ms": 150})
    await lab.until("the delivery of the event", lambda: any(seen.status == 200 for seen in lab.calls("next")))
    for _ in range(3):
        await lab.pause(0.02)
        await freeze_for_a_while(lab)
    result = await lab.end(job)
    expect_same("the answer", result.payload.strip(), b"true")


@case("runtime.freeze.in-init")
async def in_init(lab: RuntimeLab) -> None:
    await lab.deploy()
    await lab.function.initialise()
    for _ in range(3):
        await lab.pause(0.005)
        await freeze_for_a_while(lab)
    await lab.until("the end of Init", lambda: lab.environment.free)
    await echoes(lab, {"after": "thaw"})


@case("runtime.freeze.in-answer")
async def in_answer(lab: RuntimeLab) -> None:
    await lab.deploy("big")
    job = await lab.begin({"bytes": 5_000_000})
    await lab.until("the beginning of its answer", lambda: lab.calls("response"))
    await freeze_for_a_while(lab)
    result = await lab.end(job)
    expect_same("the answer's length", len(result.payload.strip()), 5_000_002)


@case("runtime.freeze.in-stream")
async def in_stream(lab: RuntimeLab) -> None:
    await lab.deploy("stream")
    job, stream = await lab.stream({"chunks": 10, "bytes": 1000, "ms": 10})
    reading = lab.read(stream)
    await lab.until("the first bytes", lambda: any(seen.size for seen in lab.calls("response")))
    await freeze_for_a_while(lab)
    data = without_metadata(await lab.wait("the end of the stream", reading), lab.calls("response")[0])
    expect_same("bytes of the stream", len(data), 10_000)
    await lab.end(job)


@case("runtime.signal.term")
async def term(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, 1)
    lab.environment.signal("CONT")
    lab.environment.signal("TERM")
    await lab.process_ended()


@case("runtime.signal.term-in-handler")
async def term_in_handler(lab: RuntimeLab) -> None:
    await lab.deploy("sleep")
    await lab.begin({"ms": 600_000})
    await lab.until("the delivery of the event", lambda: any(seen.status == 200 for seen in lab.calls("next")))
    await lab.pause(0.05)
    lab.environment.signal("TERM")
    await lab.process_ended()


@case("runtime.signal.nothing-left")
async def nothing_left(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, 1)
    before = len(lab.calls())
    lab.environment.signal("CONT")
    lab.environment.signal("TERM")
    await lab.process_ended()
    calls = [f"{seen.method} {seen.path}" for seen in lab.calls()[before:] if seen.route != "next"]
    expect_same("its calls after SIGTERM", calls, [])
    expect(not [one for one in lab.printed if "Traceback" in one], f"it printed {lab.printed[-1:]}")
