"""What waits for one and the same: in order, some of it for a later time, all of it while there is a pause."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from sandbox.clock import Clock, Handle
from sandbox.core.limits import THROTTLED_FIRST_WAIT, THROTTLED_LONGEST_WAIT

T = TypeVar("T")


def back_off(tries: int) -> float:
    """IN-103: 1 s, 2 s, 4 s … after so many in a row that were refused."""
    return min(math.ldexp(THROTTLED_FIRST_WAIT, min(tries - 1, 32)), THROTTLED_LONGEST_WAIT)


class Lane(Generic[T]):
    """ready: their time has come. later: a heap of when, on the clock, and a number. refusals: in a row, of what was tried."""

    def __init__(self) -> None:
        self.ready: deque[T | int] = deque()
        self.later: list[tuple[float, int]] = []
        self.running = 0
        self.refusals = 0
        self.paused_until = 0.0
        self._timer: Handle | None = None

    @property
    def empty(self) -> bool:
        return not (self.ready or self.later or self.running)

    @property
    def due(self) -> float | None:
        """When something is to be done next, on the clock."""
        if self.ready:
            return self.paused_until
        return max(self.paused_until, self.later[0][0]) if self.later else None

    def put(self, number: int, now: float, wait: float) -> None:
        """One that was read from disk; wait: in seconds."""
        if wait > 0:
            heapq.heappush(self.later, (now + wait, number))
        else:
            self.ready.append(number)

    def wake(self, now: float) -> None:
        """Those whose time has come are ready."""
        while self.later and self.later[0][0] <= now:
            self.ready.append(heapq.heappop(self.later)[1])

    def pause(self, now: float, longest: float = math.inf) -> None:
        """Nothing of it was taken: it waits, and longer each time; `longest` seconds at most."""
        if self.paused_until <= now:
            self.refusals += 1
            self.paused_until = now + min(back_off(self.refusals), max(0.0, longest))

    def ring(self, clock: Clock, now: float, go_on: Callable[[], None]) -> None:
        """Calls `go_on` when something is due, if that is later than `now`: when it was woken, and not a moment after that.

        What came due between the two would be neither woken nor rung for.
        """
        self.stop()
        due = self.due
        if due is not None and due > now:
            self._timer = clock.call_at(due, go_on)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
