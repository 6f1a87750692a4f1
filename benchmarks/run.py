"""Warm and cold invokes against the machine's own limits, in one run. See README.md here."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import uvloop

from sandbox import Host
from sandbox.core.effects import EVERYONE, Signal
from sandbox.host.environment.processes import Processes
from sandbox.host.host import Function
from sandbox.telemetry.journal import Journal, Record
from sandbox.telemetry.report import lines_of

HERE = Path(__file__).parent
BUILD = HERE / "build"
EVENT = b'{"k":"xxxxxxxxxxx"}'


def build() -> None:
    BUILD.mkdir(exist_ok=True)
    for source, target in (("runtime.c", "bootstrap"), ("ping_pong.c", "ping_pong")):
        subprocess.run(["cc", "-O2", "-o", str(BUILD / target), str(HERE / source)], check=True)


class Freezes:
    """Counts freezes, by looking at the signals that are performed."""

    def __init__(self) -> None:
        self.count = 0
        perform = Processes.signal

        def counted(processes: Processes, effect: Signal) -> None:
            self.count += effect.who == EVERYONE and effect.name == "STOP"
            perform(processes, effect)

        Processes.signal = counted  # type: ignore[method-assign]


def figures(took: list[float], seconds: float, cpu: float) -> dict[str, float]:
    took.sort()
    return {
        "rate": len(took) / seconds,
        "p50": took[len(took) // 2] * 1e6,
        "p99": took[int(len(took) * 0.99)] * 1e6,
        "cpu": cpu / len(took) * 1e6,
    }


async def closed_loop(function: Function, seconds: float) -> dict[str, float]:
    took = []
    start, cpu = time.perf_counter(), time.process_time()
    at = start
    while at < start + seconds:
        before = at
        await function.invoke(payload=EVENT, wait_for_report=False)
        at = time.perf_counter()
        took.append(at - before)
    return figures(took, at - start, time.process_time() - cpu)


async def paced(function: Function, seconds: float, freezes: Freezes) -> dict[str, float]:
    took = []
    start, cpu, frozen = time.perf_counter(), time.process_time(), freezes.count
    while time.perf_counter() < start + seconds:
        before = time.perf_counter()
        await function.invoke(payload=EVENT, wait_for_report=False)
        took.append(time.perf_counter() - before)
        await asyncio.sleep(0.001)
    return {**figures(took, seconds, time.process_time() - cpu), "freezes": (freezes.count - frozen) / len(took)}


def raw(seconds: float) -> dict[str, float]:
    said = subprocess.run([str(BUILD / "ping_pong"), str(seconds)], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said))


async def cold(host: Host) -> float:
    function = await host.deploy(BUILD)
    start = time.perf_counter()
    await function.invoke(payload=EVENT, wait_for_report=False)
    took = time.perf_counter() - start
    await function.close("spindown")
    return took * 1e3


def bare(program: Path = BUILD / "bootstrap") -> float:
    """Spawn, accept, one event, one answer: what no host can do without."""
    listener = socket.create_server(("127.0.0.1", 0))
    env = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}"}
    start = time.perf_counter()
    process = subprocess.Popen([str(program)], env=env, start_new_session=True)
    connection, _ = listener.accept()
    connection.recv(65536)
    head = f"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: 1\r\nContent-Length: {len(EVENT)}\r\n\r\n"
    connection.sendall(head.encode() + EVENT)
    connection.recv(65536)
    took = time.perf_counter() - start
    process.kill()
    process.wait()
    connection.close()
    listener.close()
    return took * 1e3


async def run(rounds: int, seconds: float) -> None:
    build()
    freezes = Freezes()
    journal = Journal()
    with tempfile.TemporaryFile("wb") as log:

        def write(record: Record) -> None:
            for line in lines_of(record):
                log.write(line.encode() + b"\n")
            if record.type == "platform.report":
                log.flush()

        journal.subscribe(write)
        results: dict[str, list[dict[str, float]]] = {"raw": [], "closed loop": [], "paced": []}
        colds: list[float] = []
        bares: list[float] = []
        async with Host(journal=journal) as host:
            function = await host.deploy(BUILD, environment={"PRINT": "1"})
            await function.invoke(payload=EVENT)
            await closed_loop(function, 0.3)
            for _ in range(rounds):
                results["raw"].append(raw(seconds))
                results["closed loop"].append(await closed_loop(function, seconds))
                results["paced"].append(await paced(function, seconds, freezes))
                for _ in range(10):
                    bares.append(bare())
                    colds.append(await cold(host))
        print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}")
        print(f"{'medians of ' + str(rounds) + ' rounds':24} {'invokes/s':>10} {'p50 µs':>8} {'p99 µs':>8} {'host CPU µs':>12}")
        for name, found in results.items():
            middle = {key: statistics.median(f[key] for f in found) for key in found[0]}
            more = f"   {middle['freezes']:.2f} freezes per invoke" if "freezes" in middle else ""
            print(f"{name:24} {middle['rate']:10.0f} {middle['p50']:8.1f} {middle['p99']:8.1f} {middle['cpu']:12.1f}{more}")
        ratios = [ours["rate"] / limit["rate"] for ours, limit in zip(results["closed loop"], results["raw"], strict=True)]
        print(f"closed loop / raw: {statistics.median(ratios):.0%} (rounds: {', '.join(f'{r:.0%}' for r in ratios)})")
        over = statistics.median(colds) - statistics.median(bares)
        print(f"cold: {statistics.median(colds):.2f} ms, bare spawn {statistics.median(bares):.2f} ms: {over:.2f} ms more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--one-core", action="store_true", help="everything on one processor: the most repeatable")
    arguments = parser.parse_args()
    if arguments.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    uvloop.run(run(arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
