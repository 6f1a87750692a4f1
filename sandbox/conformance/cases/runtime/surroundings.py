"""What is around a runtime: variables, memory, others like it."""

from __future__ import annotations

import json

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.polls import echoes
from sandbox.conformance.lab import RuntimeLab, expect, expect_same

_DEAD_END = "http://127.0.0.1:1"
_MEMORY_SAMPLES = 20


@case("runtime.surroundings.proxies", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
async def proxies(lab: RuntimeLab, name: str) -> None:
    await lab.deploy(environment={name: _DEAD_END})
    await echoes(lab, 1)


_STRANGE = {
    "unicode": "Grüße 😀",
    "quotes": "\"'`$(exit 1)\\ ;&|",
    "lines": "a\nb\n\nc",
    "empty": "",
    "equals": "a=b=c",
    "long": "v" * 3000,
}


@case("runtime.surroundings.strange-variables", _STRANGE)
async def strange_variables(lab: RuntimeLab, value: str) -> None:
    await lab.deploy(environment={"STRANGE": value})
    await echoes(lab, 1)


@case("runtime.surroundings.little-memory")
async def little_memory(lab: RuntimeLab) -> None:
    await lab.deploy(memory=128)
    job = await lab.begin({"text": "x" * 100_000})
    for _ in range(_MEMORY_SAMPLES):  # where memory is measured from time to time, time has to pass
        lab.time.advance(0.1)
        await lab.pause(0.005)
    result = await lab.end(job)
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")


@case("runtime.surroundings.side-by-side")
async def side_by_side(lab: RuntimeLab) -> None:
    functions = [await lab.deploy(), await lab.deploy()]
    for number in range(5):
        jobs = [await lab.wait("a place", one.submit(json.dumps([number, at]).encode())) for at, one in enumerate(functions)]
        for at, job in enumerate(jobs):
            await lab.wait("an answer", job.answered)
            expect_same("the answer", json.loads(job.result.payload), [number, at])
            await lab.wait("the next poll", job.reported)
    expect_same("environments", len({one.environments[0].name for one in functions}), 2)


@case("runtime.surroundings.no-children")
async def no_children(lab: RuntimeLab) -> None:
    await lab.deploy()
    await echoes(lab, 0)
    before = len(lab.environment.pids)
    for number in range(10):
        await echoes(lab, number)
    after = len(lab.environment.pids)
    expect(after < before + 5, f"{after} processes after eleven invokes, {before} after the first")
