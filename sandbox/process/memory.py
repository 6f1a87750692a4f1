"""How much memory a process tree uses, and the watchdog that holds it to a limit.

The kernel's own figures, read off the hot path: VmRSS of every process for the sum now, VmHWM for peaks between samples.
Peak = the larger of the highest sum seen and the highest high-water mark of one process (DECISIONS "max memory used").
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from sandbox.clock import Clock, Handle
from sandbox.core.limits import MEMORY_FRESH, MEMORY_GROWTH_RATE, MEMORY_SAMPLE_MAX, MEMORY_SAMPLE_MIN

_LINUX = sys.platform.startswith("linux")


def descendants(root: int) -> list[int]:
    """The process ids below `root`, not `root` itself."""
    if not _LINUX:
        import psutil

        try:
            return [child.pid for child in psutil.Process(root).children(recursive=True)]
        except psutil.Error:
            return []
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    children = [int(child) for child in file.read().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found


def resident(pid: int) -> tuple[int, int]:
    """(resident bytes now, highest ever) of one process; zeros if it is gone."""
    if not _LINUX:
        import psutil

        try:
            now = psutil.Process(pid).memory_info().rss
        except psutil.Error:
            now = 0
        return now, now
    now = peak = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except OSError:
        return 0, 0
    at = text.find(b"VmHWM:")
    if at >= 0:
        peak = int(text[at + 6 : text.index(b"kB", at)]) * 1024
        at = text.find(b"VmRSS:", at)
        now = int(text[at + 6 : text.index(b"kB", at)]) * 1024
    return now, peak


class MemoryWatch:
    """Samples one environment while it runs; frozen processes cannot grow.

    pids: the processes to count, their descendants included. exceeded: called with the bytes in use when they are over
    `limit`; None if the kernel sees to that. The interval follows from the headroom: nobody can fill it faster than
    MEMORY_GROWTH_RATE. look: called now and then while it runs.
    """

    def __init__(
        self,
        clock: Clock,
        limit: int | None,
        pids: Callable[[], list[int]],
        exceeded: Callable[[int], None],
        look: Callable[[], object] | None = None,
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._pids = pids
        self._exceeded = exceeded
        self._look = look
        self._timer: Handle | None = None
        self._running = False
        self._sampled_at = -1.0
        self.now = 0
        self.peak = 0

    def run(self) -> None:
        """Processes may run from here on. Cheap: called at every thaw."""
        self._running = True
        if self._timer is None:
            self._arm()

    def rest(self) -> None:
        """Processes are stopped, or gone."""
        self._running = False

    def close(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def measured_peak(self) -> int:
        """The peak in bytes, measured at most MEMORY_FRESH seconds ago."""
        if self._clock.now() - self._sampled_at > MEMORY_FRESH:
            self.sample()
        return self.peak

    def sample(self) -> int:
        """Measures now. Returns the sum in bytes."""
        self._sampled_at = self._clock.now()
        total = 0
        for pid in self._pids():
            now, peak = resident(pid)
            total += now
            self.peak = max(self.peak, peak)
        self.now = total
        self.peak = max(self.peak, total)
        return total

    def _arm(self) -> None:
        delay = MEMORY_SAMPLE_MAX
        if self._limit is not None:
            headroom = max(0, self._limit - self.now)
            delay = min(delay, max(MEMORY_SAMPLE_MIN, headroom / MEMORY_GROWTH_RATE))
        self._timer = self._clock.call_at(self._clock.now() + delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._running:
            return
        used = self.sample()
        if self._look is not None:
            self._look()
        if self._limit is not None and used > self._limit:
            self._exceeded(used)
        if self._running and self._timer is None:
            self._arm()
