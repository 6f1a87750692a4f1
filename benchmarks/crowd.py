"""Part "thousand" of isolation.py: many frozen environments in one host."""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.run import EVENT
from benchmarks.tiers import Variant, compiled, heading, p50, p90, table, variants
from sandbox.core.errors import SandboxError

HERE = Path(__file__).parent
AT_ONCE = 8  # environments that are made at the same time
INVOKES = 1000
REST = 2.0  # seconds in which nobody asks for anything


def raise_descriptors() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def thousand(made: Path, options: argparse.Namespace) -> None:
    descriptors = raise_descriptors()
    folder = compiled(made / "native", HERE / "runtime.c")
    heading(f"thousand: {options.count} frozen environments of a C runtime in one host ({descriptors} descriptors allowed)")
    rows = []
    async with AsyncExitStack() as stack:
        names = [variant.name for variant in await variants(stack, options.tier)]
    loop = asyncio.get_running_loop()
    for name in names:  # a program of its own for each: none gets the memory that the one before has given back
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                rows.append([name, *await loop.run_in_executor(pool, in_own_program, name, folder, options.count)])
            except (OSError, RuntimeError, SandboxError) as error:
                print(f"{name}: {error}")
    head = [
        "",
        "create s",
        "ms each",
        "host KB each",
        "system KB each",
        "descriptors",
        "freeze: call ms",
        "complete ms",
        "thaw ms",
    ]
    table(head, [row[:9] for row in rows])
    heading("its warm invokes: µs, p50 (p90), one environment after the other; host CPU while nobody asks")
    head = ["", "alone before", "with the crowd", "of the crowd", "alone after", "with / alone", "idle CPU", "close s"]
    table(head, [[row[0], *row[9:]] for row in rows])


def in_own_program(name: str, folder: Path, count: int) -> list[Any]:
    async def run() -> list[Any]:
        async with AsyncExitStack() as stack:
            tier = next(variant for variant in await variants(stack) if variant.name == name)
            return await crowded(tier, folder, count)

    raise_descriptors()
    return uvloop.run(run())


async def crowded(tier: Variant, folder: Path, count: int) -> list[Any]:
    me = psutil.Process()
    trees: list[Any] = []
    one = await tier.deploy(folder, memory_mb=128, timeout=30)
    crowd = await tier.deploy(folder, memory_mb=128, timeout=30, trees=trees)
    await one.invoke(payload=EVENT)
    await warm(one)
    before = await warm(one)
    gc.collect()
    host, free = me.memory_info().rss, psutil.virtual_memory().available
    gate = asyncio.Semaphore(AT_ONCE)

    async def add() -> None:
        async with gate:
            await crowd.initialise()

    start = time.perf_counter()
    await asyncio.gather(*(add() for _ in range(count)))
    while not all(environment.free for environment in crowd.environments):  # noqa: ASYNC110 (no event tells of it)
        await asyncio.sleep(0.01)
    created = time.perf_counter() - start
    await asyncio.gather(*(tree.frozen() for tree in trees))
    gc.collect()
    each = (me.memory_info().rss - host) / count / 1024, (free - psutil.virtual_memory().available) / count / 1024
    descriptors = me.num_fds()
    stops = [await stop_all(trees) for _ in range(5)]
    idle = time.process_time()
    await asyncio.sleep(REST)
    idle = (time.process_time() - idle) / REST
    both = [(await warm(one, INVOKES // 4), await warm(crowd, INVOKES // 4)) for _ in range(4)]
    around = [took for took, _ in both for took in took]
    within = [took for _, took in both for took in took]
    start = time.perf_counter()
    await crowd.close()
    closed = time.perf_counter() - start
    after = await warm(one)
    await one.close()
    ratio = p50(around) / p50([*before, *after])
    said = [f"{p50(took):.0f} ({p90(took):.0f})" for took in (before, around, within, after)]
    middle = [p50([stop[i] for stop in stops]) for i in range(3)]
    return [created, created / count * 1e3, *each, descriptors, *middle, *said, f"{ratio:.2f}", f"{idle:.1%}", closed]


async def stop_all(trees: list[Any]) -> tuple[float, float, float]:
    """ms: to ask every environment to freeze, until the last is complete, and to thaw them all. They end frozen."""
    start = time.perf_counter()
    for tree in trees:
        tree.thaw()
    thawed = time.perf_counter() - start
    await asyncio.sleep(0.5)
    start = time.perf_counter()
    for tree in trees:
        tree.freeze()
    asked = time.perf_counter() - start
    await asyncio.gather(*(tree.frozen() for tree in trees))
    return asked * 1e3, (time.perf_counter() - start) * 1e3, thawed * 1e3


async def warm(function: Any, count: int = INVOKES) -> list[float]:
    """µs of one invoke after the other, from the call to REPORT: each thaws the environment and freezes it."""
    took = []
    for _ in range(count):
        start = time.perf_counter()
        await function.invoke(payload=EVENT)
        took.append((time.perf_counter() - start) * 1e6)
    return took
