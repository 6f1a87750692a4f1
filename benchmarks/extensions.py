"""What an extension and a telemetry subscriber cost the host per warm invoke; and how much a stalled one can hold.

See README.md here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import uvloop

from benchmarks.run import BUILD, EVENT, HERE, build
from sandbox import Host
from sandbox.core.limits import RESULT_LOG_LIMIT, SUBSCRIPTION_DEFAULTS, TELEMETRY_BACKLOG
from sandbox.host.host import Function

VARIANTS: dict[str, dict[str, str] | None] = {
    "no extension": None,
    "SHUTDOWN only": {},
    "INVOKE": {"INVOKE": "1"},
    "telemetry": {"TELEMETRY": "1"},
    "INVOKE and telemetry": {"INVOKE": "1", "TELEMETRY": "1"},
}
# The most that one stalled subscriber may hold: TELEMETRY_BACKLOG times maxBytes, and 100 bytes of Python for each of so many
# times maxItems records, both with the reserve for platform events; and what a result keeps of its log.
WANTED = SUBSCRIPTION_DEFAULTS
STALLED_CAP = 1.25 * TELEMETRY_BACKLOG * (WANTED["maxBytes"] + 100 * WANTED["maxItems"]) + 2 * RESULT_LOG_LIMIT
FLOOD = """
import sys, time

def handler(event, context):
    line, end, due = "x" * event["width"] + "\\n", time.monotonic() + event["seconds"], time.monotonic()
    while due < end:
        sys.stdout.write(line * 100)
        sys.stdout.flush()
        due += 100 / event["rate"]
        time.sleep(max(0.0, due - time.monotonic()))
"""


async def warm(function: Function, seconds: float) -> tuple[float, float, float]:
    """(invokes a second, middle µs of one from call to REPORT, host CPU µs of one), a caller after the other."""
    took = []
    start, cpu = time.perf_counter(), time.process_time()
    at = start
    while at < start + seconds:
        before = at
        await function.invoke(payload=EVENT)
        at = time.perf_counter()
        took.append(at - before)
    used = time.process_time() - cpu
    return len(took) / (at - start), statistics.median(took) * 1e6, used / len(took) * 1e6


def build_layer() -> str:
    target = BUILD / "layer" / "extensions"
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-pthread", "-o", str(target / "probe"), str(HERE / "extension.c")], check=True)
    return str(target.parent)


async def cost(rounds: int, seconds: float) -> None:
    build()
    layer = build_layer()
    async with Host() as host:
        functions = {
            name: await host.deploy(BUILD, environment=variables or {}, layers=(layer,) if variables is not None else ())
            for name, variables in VARIANTS.items()
        }
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in functions}
        for _ in range(rounds):
            for name, function in functions.items():
                await function.invoke(payload=EVENT)
                results[name].append(await warm(function, seconds))
    print(f"{platform.platform()}, {os.cpu_count()} processors, {rounds} rounds of {seconds} s each")
    print(f"{'':22} {'invokes/s':>10} {'p50 µs':>8} {'host CPU µs':>12}   more than without")
    base = results["no extension"]
    for name, found in results.items():
        rate, p50, cpu = (statistics.median(f[i] for f in found) for i in range(3))
        more = [statistics.median(f[i] - b[i] for f, b in zip(found, base, strict=True)) for i in (1, 2)]
        print(f"{name:22} {rate:10.0f} {p50:8.0f} {cpu:12.0f}   {more[0]:+.0f} µs, {more[1]:+.0f} µs of host CPU")


async def stalled(seconds: float, rate: int, width: int) -> None:
    """A subscriber that takes connections and never answers, while the function prints."""
    me = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder)
        (code / "app.py").write_text(FLOOD)
        layer = code / "layer"
        shutil.copytree(HERE.parent / "extensions" / "fault-injector", layer)
        lost = []
        async with Host() as host:
            host.journal.subscribe(lambda record: lost.append(record.record), ["platform.logsDropped"])
            lines = 0

            def count(_: object) -> None:
                nonlocal lines
                lines += 1

            host.journal.subscribe(count, ["function"])
            function = await host.deploy(
                code,
                runtime="python",
                handler="app.handler",
                timeout=900,
                memory_mb=512,
                layers=(str(layer),),
                environment={"FAULT": "stall-telemetry"},
            )
            await function.initialise()
            await function.invoke({"seconds": 1, "rate": rate, "width": width})
            before = most = me.memory_info().rss
            task = asyncio.create_task(function.invoke({"seconds": seconds, "rate": rate, "width": width}))
            while not task.done():
                await asyncio.sleep(0.5)
                most = max(most, me.memory_info().rss)
            result = await task
            await function.close()
    print(f"{lines} lines in {seconds:.0f} s; host memory {before / 2**20:.1f} MiB, at most {most / 2**20:.1f} MiB")
    print(f"stated cap: {STALLED_CAP / 2**20:.1f} MiB more; {'kept' if most - before <= STALLED_CAP else 'EXCEEDED'}")
    print(f"the subscriber: {result.extensions[0].telemetry}; platform.logsDropped: {len(lost)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round; with --stalled, of all")
    parser.add_argument("--stalled", action="store_true", help="a stalled subscriber instead")
    parser.add_argument("--rate", type=int, default=10_000, help="lines a second")
    parser.add_argument("--width", type=int, default=100, help="characters of a line")
    arguments = parser.parse_args()
    if arguments.stalled:
        uvloop.run(stalled(arguments.seconds, arguments.rate, arguments.width))
    else:
        uvloop.run(cost(arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
