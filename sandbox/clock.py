"""Time, injected. Nothing else in the package reads a clock or sets a timer."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """A timer that can be taken back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """now: monotonic seconds. wall: seconds since the epoch. call_at: a callback at a monotonic time."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Handle: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own time."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        loop = asyncio.get_running_loop()
        return loop.call_later(max(0.0, when - self.now()), callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ScaledClock:
    """Another clock's time, `factor` times as fast: a minute of waiting takes a second with 60. wall is the other's."""

    def __init__(self, clock: Clock, factor: float) -> None:
        self._clock = clock
        self._factor = factor
        self._origin = clock.now()
        self.wall = clock.wall

    def now(self) -> float:
        return self._origin + (self._clock.now() - self._origin) * self._factor

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        return self._clock.call_at(self._origin + (when - self._origin) / self._factor, callback)

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds / self._factor)


class _ManualHandle:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Time that stands still until somebody calls `advance`: 900-second limits are tested in microseconds."""

    def __init__(self, now: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._offset = wall - now
        self._timers: list[tuple[float, int, _ManualHandle]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._offset

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        handle = _ManualHandle(callback)
        heapq.heappush(self._timers, (when, next(self._count), handle))
        return handle

    async def sleep(self, seconds: float) -> None:
        done = asyncio.Event()
        self.call_at(self._now + seconds, done.set)
        await done.wait()

    def advance(self, seconds: float) -> None:
        """Moves time on and runs every timer that is due on the way, in order."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if (callback := handle.callback) is not None:
                callback()
        self._now = end


class TravelClock:
    """Another clock's time that can be moved on: `advance(3600)` and an hour has passed, with every timer that was due in it.

    timers: False, and timers go off only while it is moved on, so that a slow machine runs into no limit by itself.
    """

    def __init__(self, clock: Clock, *, timers: bool = True) -> None:
        self._clock = clock
        self._timers_run = timers
        self._ahead = 0.0
        self._timers: list[tuple[float, int, _ManualHandle]] = []
        self._count = itertools.count()
        self._alarm: Handle | None = None

    def now(self) -> float:
        return self._clock.now() + self._ahead

    def wall(self) -> float:
        return self._clock.wall() + self._ahead

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        handle = _ManualHandle(callback)
        heapq.heappush(self._timers, (when, next(self._count), handle))
        if self._timers[0][2] is handle:
            self._set_alarm()
        return handle

    async def sleep(self, seconds: float) -> None:
        done = asyncio.Event()
        self.call_at(self.now() + seconds, done.set)
        await done.wait()

    def advance(self, seconds: float) -> None:
        """Moves time on and runs every timer that is due on the way, in order."""
        self._run_until(self.now() + seconds)

    def close(self) -> None:
        """No timer goes off any more."""
        self._timers.clear()
        self._set_alarm()

    def _run_until(self, end: float) -> None:
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heapq.heappop(self._timers)
            self._ahead += max(0.0, when - self.now())
            if (callback := handle.callback) is not None:
                callback()
        self._ahead += max(0.0, end - self.now())
        self._set_alarm()

    def _set_alarm(self) -> None:
        if not self._timers_run:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers:
            self._alarm = self._clock.call_at(self._timers[0][0] - self._ahead, lambda: self._run_until(self.now()))
