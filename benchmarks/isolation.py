"""What isolation costs: the tiers side by side.

    PYTHONPATH=. .venv/bin/python -m benchmarks.isolation [create] [freeze] [latency] [thousand] [memory] [options]

create    an environment's tree made and ready, with its steps, and whole cold invokes, each against a bare spawn
freeze    freeze + thaw of 1, 5 and 20 processes, until every thread is seen stopped and the last runs again
latency   HTTP round trips from inside the environment to the Runtime API
thousand  many frozen environments in one host (crowd.py)
memory    what a function gets of its memory, and how far over it comes at full speed (pressure.py)

Rounds are interleaved: what is compared was measured in the same seconds. "+ cgroup" is the kernel's own memory limit, which
only root has; there /tmp is a file system in an image. See README.md here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import crowd, pressure
from benchmarks.languages import code, nothing
from benchmarks.run import EVENT, bare
from benchmarks.tiers import ROOT, Variant, Watched, compiled, heading, machine, p50, p90, table, variants, with_nat
from sandbox.core.limits import MIB
from sandbox.host.folders import make_folder, remove_tree
from sandbox.host.site import site
from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package
from sandbox.process.cgroup import Group as ControlGroup
from sandbox.process.cgroup import groups as control_groups
from sandbox.process.launcher import Ended, Program

HERE = Path(__file__).parent
STEPS = ("folder", "files", "cgroup", "start", "listen", "spawn")
SPAWN_TARGET = 8.0  # ms
LATENCY_TARGET = 1.2
SPEAKS = ["/bin/echo", "here"]  # the program whose first word ends the wait
# 1, 5 and 20 processes in one group, as a function's children are; and in sessions of their own.
GROUPS = {"1": (1, ""), "5": (5, ""), "20": (20, ""), "20, each a session": (20, "setsid ")}
SPINS = 20_000  # looks at a process's state, so many at most


# ── create ──


def bare_spawn() -> float:
    """ms from Popen to the program's first word."""
    start = time.perf_counter()
    process = subprocess.Popen(SPEAKS, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True, env={})
    assert process.stdout is not None
    process.stdout.read(1)
    took = time.perf_counter() - start
    process.stdout.close()
    process.wait()
    return took * 1e3


async def first_word(read: int) -> None:
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(read, said.set)
    await said.wait()
    loop.remove_reader(read)


async def tree_made(variant: Variant, package: Package) -> dict[str, float]:
    """ms of every step until a program in the environment has said its first word; and of taking all away again."""
    times = [time.perf_counter()]
    folder, lock = make_folder()
    where = site(folder, variant.isolation, None, package)
    times.append(time.perf_counter())
    await asyncio.to_thread(where.prepare)
    times.append(time.perf_counter())
    group = ControlGroup(control_groups(), folder.name, 512 * MIB) if variant.isolation.exact_memory else None
    times.append(time.perf_counter())
    tree = variant.isolation.tree(where.room, group.joins if group is not None else ())
    await tree.start()
    times.append(time.perf_counter())
    listener = await tree.listen()
    times.append(time.perf_counter())
    read, write = os.pipe()
    null, ended = os.open(os.devnull, os.O_RDWR), asyncio.Event()

    def end(_: Ended) -> None:
        ended.set()

    await tree.spawn(Program(SPEAKS[0], SPEAKS, {}, where.places.task, [null, write, write]), end)
    os.close(write)
    await first_word(read)
    times.append(time.perf_counter())
    await ended.wait()
    begin = time.perf_counter()
    listener.close()
    await tree.close()
    if group is not None:
        group.close()
    await asyncio.to_thread(remove_tree, folder)
    gone = time.perf_counter() - begin
    for fd in (read, null, lock):
        os.close(fd)
    took = {step: (after - before) * 1e3 for step, before, after in zip(STEPS, times, times[1:], strict=False)}
    return took | {"ready": (times[-1] - times[0]) * 1e3, "close": gone * 1e3}


async def create(made: Path, options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        tiers = await variants(stack) + await with_nat(stack)
        package = open_package(str(code(made / "empty")), (), Cache(made / "cache"))
        steps: dict[str, dict[str, list[float]]] = {tier.name: defaultdict(list) for tier in tiers}
        spawns = []
        for number in range(options.rounds + 1):  # the first is not counted
            spawned = bare_spawn()
            for tier in tiers:
                for step, took in (await tree_made(tier, package)).items():
                    if number:
                        steps[tier.name][step].append(took)
            if number:
                spawns.append(spawned)
        package.close()
        heading(f"create: ms to an environment whose program has said its first word, {options.rounds} rounds, p50 (p90 last)")
        rows: list[list[object]] = [["bare spawn", *[""] * len(STEPS), p50(spawns), p90(spawns), "", ""]]
        for name, found in steps.items():
            middle = [p50(found[step]) for step in STEPS]
            over = p50([ready - spawn for ready, spawn in zip(found["ready"], spawns, strict=True)])
            rows.append([name, *middle, p50(found["ready"]), p90(found["ready"]), over, p50(found["close"])])
        table(["", *STEPS, "ready", "p90", "over bare", "close"], rows)
        print(f"target: tier namespace at most {SPAWN_TARGET:.0f} ms over the bare spawn")
        await cold(made, tiers, options.rounds)


async def cold(made: Path, tiers: list[Variant], rounds: int) -> None:
    """Whole cold invokes, from the call to the answer."""
    native = compiled(made / "native", HERE / "runtime.c")
    folder = code(made / "python")
    interpreter = (await tiers[0].host.deploy(folder, runtime="python", handler="app.handler")).interpreter
    assert interpreter is not None
    kinds: dict[str, tuple[Path, dict[str, Any], Callable[[], float]]] = {
        "C": (native, {}, lambda: bare(native / "bootstrap")),
        "Python": (folder, {"runtime": "python", "handler": "app.handler"}, lambda: nothing([interpreter.path, "-c", "pass"])),
    }
    rows: list[list[object]] = []
    for kind, (where, settings, least) in kinds.items():
        bares: list[float] = []
        found: dict[str, list[float]] = {tier.name: [] for tier in tiers}
        for number in range(rounds + 1):
            spawned = least()
            for tier in tiers:
                took = await cold_invoke(tier, where, **settings)
                if number:
                    found[tier.name].append(took)
            if number:
                bares.append(spawned)
        rows.append([f"{kind}: bare", p50(bares), p90(bares), ""])
        for name, times in found.items():
            over = p50([took - spawn for took, spawn in zip(times, bares, strict=True)])
            rows.append([f"{kind}: {name}", p50(times), p90(times), over])
    heading(f"cold invoke: ms from the call to the answer, {rounds} rounds")
    table(["", "p50", "p90", "over bare"], rows)


async def cold_invoke(tier: Variant, folder: Path, **settings: Any) -> float:
    function = await tier.deploy(folder, memory_mb=512, timeout=30, **settings)
    start = time.perf_counter()
    result = await function.invoke(payload=EVENT, wait_for_report=False)
    took = time.perf_counter() - start
    assert result.payload.replace(b" ", b"") == EVENT, result
    await function.close()
    return took * 1e3


# ── freeze ──


class Group:
    """Some processes that sleep, in one environment."""

    def __init__(self, tier: Variant, folder: Path, count: int, prefix: str) -> None:
        self.tier, self.folder, self.count, self.prefix = tier, folder, count, prefix
        self.call: list[float] = []  # of each cycle, in µs
        self.complete: list[float] = []
        self.cycle: list[float] = []
        self.stopped = 0

    async def start(self, package: Package) -> None:
        self.folder.mkdir()
        for name in ("task", "opt", "tmp"):
            (self.folder / name).mkdir()
        isolation = Watched(*self.tier.isolation._replace(exact_memory=False))
        where = site(self.folder, isolation, None, package)
        where.prepare()
        isolation.tree(where.room)
        self.tree = isolation.trees[-1]
        await self.tree.start()
        children = f"i=1; while [ $i -lt {self.count} ]; do {self.prefix}sleep 1000 & i=$((i+1)); done; exec sleep 1000"
        null = os.open(os.devnull, os.O_RDWR)
        program = Program("/bin/sh", ["sh", "-c", children], {"PATH": "/usr/bin:/bin"}, where.places.task, [null, null, null])
        await self.tree.spawn(program, lambda ended: None)
        os.close(null)
        for _ in range(500):
            if self._names() == ["sleep"] * self.count:
                break
            await asyncio.sleep(0.01)
        self.pids = self.tree.pids()
        assert len(self.pids) == self.count, self._names()

    def _names(self) -> list[str]:
        found = []
        for pid in self.tree.pids():
            try:
                found.append(Path(f"/proc/{pid}/comm").read_text().strip())
            except OSError:  # it has just ended
                continue
        return found

    async def once(self) -> None:
        """A freeze and a thaw, each until it is seen to have happened."""
        start = time.perf_counter()
        self.tree.freeze()
        called = time.perf_counter()
        await self.tree.frozen()
        complete = time.perf_counter()
        self.stopped += all(state(pid) == "T" for pid in self.pids)
        again = time.perf_counter()
        self.tree.thaw()
        for _ in range(SPINS):
            if state(self.pids[-1]) != "T":
                break
            await asyncio.sleep(0)  # what thaw has posted may have to be sent
        end = time.perf_counter()
        self.call.append((called - start) * 1e6)
        self.complete.append((complete - start) * 1e6)
        self.cycle.append((complete - start + end - again) * 1e6)


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return chr(file.read().rpartition(b") ")[2][0])


async def freeze(made: Path, options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        tiers = await variants(stack, watchdog=False)
        package = open_package(str(code(made / "empty")), (), Cache(made / "cache"))
        groups: dict[str, list[Group]] = {}
        for name, (count, prefix) in GROUPS.items():
            groups[name] = [Group(tier, made / f"group-{tier.isolation.tier}-{len(groups)}", count, prefix) for tier in tiers]
            for group in groups[name]:
                await group.start(package)
        for _ in range(options.cycles):
            for some in groups.values():
                for group in some:
                    await group.once()
        heading(f"freeze: µs, {options.cycles} cycles each")
        rows = []
        for name, some in groups.items():
            for group in some:
                figures = [p50(group.call), p50(group.complete), p90(group.complete), p50(group.cycle), p90(group.cycle)]
                rows.append([f"{name}: {group.tier.isolation.tier}", *figures, f"{group.stopped} of {options.cycles}"])
        table(["processes", "call", "complete", "p90", "with thaw", "p90", "all threads T"], rows)
        for some in groups.values():
            for group in some:
                await group.tree.close()
        package.close()


# ── latency ──


async def latency(made: Path, options: argparse.Namespace) -> None:
    native = ROOT / "bootstrap" / "c"
    async with AsyncExitStack() as stack:
        tiers = await variants(stack, watchdog=False)
        folder = compiled(made / "trips", native / "runtime.c", HERE / "round_trips.c")
        functions = {tier.isolation.tier: await tier.deploy(folder, memory_mb=512, timeout=60) for tier in tiers}
        trips: dict[str, list[list[float]]] = {name: [] for name in functions}
        invokes: dict[str, list[list[float]]] = {name: [] for name in functions}
        for number in range(options.rounds + 1):
            for name, function in functions.items():
                result = await function.invoke(options.trips)
                took = [ns / 1e3 for ns in result.check().json()[1:]]
                warm = [await one_invoke(function) for _ in range(options.trips // 10)]
                if number:
                    trips[name].append(took)
                    invokes[name].append(warm)
        heading(f"latency: µs, {options.rounds} rounds of {options.trips} round trips and {options.trips // 10} invokes")
        rows: list[list[object]] = []
        for what, found in (("round trip", trips), ("warm invoke", invokes)):
            base = found["process"]
            for name, rounds in found.items():
                every = [took for one in rounds for took in one]
                ratio = p50([p50(ours) / p50(theirs) for ours, theirs in zip(rounds, base, strict=True)])
                rows.append([f"{what}: {name}", p50(every), p90(every), f"{ratio:.2f}"])
        table(["", "p50", "p90", "x process"], rows)
        print(f"target: round trips in tier namespace at most {LATENCY_TARGET} x those of the plain loopback")


async def one_invoke(function: Any) -> float:
    start = time.perf_counter()
    await function.invoke(payload=b"0", wait_for_report=False)
    return (time.perf_counter() - start) * 1e6


# ── the command ──

PARTS: dict[str, Callable[[Path, argparse.Namespace], Coroutine[Any, Any, None]]] = {
    "create": create,
    "freeze": freeze,
    "latency": latency,
    "thousand": crowd.thousand,
    "memory": pressure.memory,
}


async def run(options: argparse.Namespace) -> None:
    machine()
    for part in options.parts or PARTS:
        made = Path(tempfile.mkdtemp(prefix="isolation-benchmark-"))
        try:
            await PARTS[part](made, options)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    children = psutil.Process().children(recursive=True)
    left = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]  # multiprocessing's own
    print(f"\nleft behind: {left or 'nothing'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=30, help="of create and of latency")
    parser.add_argument("--cycles", type=int, default=200, help="of freeze and thaw")
    parser.add_argument("--trips", type=int, default=1000, help="HTTP round trips in one round")
    parser.add_argument("--count", type=int, default=1000, help="environments of the part thousand")
    parser.add_argument("--tier", action="append", default=[], help="of thousand and memory: process, namespace, with + cgroup")
    parser.add_argument("--tries", type=int, default=5, help="of memory: kills for each language and size")
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512, 1024], help="of memory, in MB")
    if sys.platform != "linux":
        raise SystemExit("this compares what only Linux has")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
