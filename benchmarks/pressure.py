"""Part "memory" of isolation.py: what a function gets of its memory, and how far over it comes."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.tiers import Variant, heading, p50, table, variants
from sandbox.core.errors import Unsupported
from sandbox.core.limits import MIB

# Takes memory in blocks of event["block"] MB and writes to all of it. With a pause, it says after each how much it has.
HANDLERS = {
    "python": """
import time

def handler(event, context):
    kept, block, pause = [], event["block"], event["pause"]
    while len(kept) * block < event["most"]:
        kept.append(b"x" * (block << 20))
        if pause:
            print("has", len(kept) * block, flush=True)
            time.sleep(pause)
    return "not ended"
""",
    "nodejs": """
exports.handler = async (event) => {
  const kept = [];
  while (kept.length * event.block < event.most) {
    kept.push(Buffer.alloc(event.block << 20, 1));
    if (event.pause) {
      console.log('has', kept.length * event.block);
      await new Promise((after) => setTimeout(after, event.pause * 1000));
    }
  }
  return 'not ended';
};
""",
    "ruby": """
def handler(event:, context:)
  kept = []
  while kept.length * event["block"] < event["most"]
    kept << "x" * (event["block"] << 20)
    if event["pause"] > 0
      puts "has #{kept.length * event["block"]}"
      $stdout.flush
      sleep event["pause"]
    end
  end
  "not ended"
end
""",
}
FILES = {"python": "app.py", "nodejs": "app.js", "ruby": "app.rb"}
SLOWLY = 0.01  # seconds after each MB (each 4 MB beyond 256 MB)
OVER_MB, OVER_SHARE = 30, 0.10  # the target of the watchdog: the larger of the two


async def memory(made: Path, options: argparse.Namespace) -> None:
    folder = made / "code"
    folder.mkdir()
    for language, text in HANDLERS.items():
        (folder / FILES[language]).write_text(text)
    heading(f"memory: MB; ended slowly once, at full speed {options.tries} times")
    rows: list[list[object]] = []
    async with AsyncExitStack() as stack:
        tiers = await variants(stack, options.tier)
        for language in HANDLERS:
            for size in options.sizes:
                for tier in tiers:
                    try:
                        rows.append(await ended(tier, folder, language, size, options.tries))
                    except Unsupported as error:
                        rows.append([f"{language} {size}: {tier.name}", str(error)[:40], *[""] * 6])
    table(["", "could use", "peak: slow", "fast p50", "fast max", "over p50", "%", "ended as"], rows)
    print(
        "could use: what the function itself had allocated. peak, fast: of its process (ru_maxrss: with what it maps of files)"
    )
    print("over: of that peak over the limit; with a control group, of what the group was charged")
    print(f"target of the watchdog (without cgroup): the median over the limit at most {OVER_MB} MB or {OVER_SHARE:.0%}")


async def ended(tier: Variant, folder: Path, language: str, size: int, tries: int) -> list[object]:
    trees: list[Any] = []
    function = await tier.deploy(folder, runtime=language, handler="app.handler", memory_mb=size, timeout=60, trees=trees)
    await function.initialise()
    while not (there := trees[-1].pids()):  # noqa: ASYNC110 (no event tells of it)
        await asyncio.sleep(0.01)
    group = _memory_group(there[0]) if tier.isolation.exact_memory else None
    block = 1 if size <= 256 else 4
    slow = await function.invoke({"block": block, "pause": SLOWLY, "most": 3 * size})
    had = max((int(found) for found in re.findall(r"has (\d+)", "\n".join(slow.log))), default=0)
    ends, slowly, fast, counted = Counter([_end(slow)]), await peak_of(trees), [], []
    for _ in range(tries):
        result = await function.invoke({"block": 8, "pause": 0, "most": 3 * size})
        ends[_end(result)] += 1
        fast.append(await peak_of(trees))
        counted.append(fast[-1] if group is None else int(group.read_text()) / MIB)
    await function.close()
    over = p50(counted) - size
    kinds = ", ".join(f"{kind} x {times}" for kind, times in ends.items())
    return [f"{language} {size}: {tier.name}", had, slowly, p50(fast), max(fast), over, over / size * 100, kinds]


async def peak_of(trees: list[Any]) -> float:
    """MB that the largest process had that has ended since the last call. Its end may be told after the REPORT."""
    for _ in range(500):
        peaks = [peak for tree in trees for peak in tree.peaks]
        if peaks:
            break
        await asyncio.sleep(0.01)
    for tree in trees:
        tree.peaks.clear()
    return max(peaks, default=0) / MIB


def _memory_group(pid: int) -> Path | None:
    """Where the kernel says how much the control group of a process had at most."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for file in (f"memory{path}/memory.max_usage_in_bytes", f"{path.lstrip('/')}/memory.peak"):
            found = Path("/sys/fs/cgroup", file)
            if controllers in ("", "memory") and found.exists():
                return found
    return None


def _end(result: Any) -> str:
    return str(result.error_type or result.status)
