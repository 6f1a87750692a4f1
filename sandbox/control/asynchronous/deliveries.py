"""Messages to destinations and dead-letter targets: sent until they are taken, or given up and kept for people.

Each target has a lane of its own, in which only the numbers of messages are; what they say is read when it is their turn. A
message that is not taken is tried again after 1 s, 2 s, 4 s …; as long as a target takes nothing at all, one message at a time
is tried, with growing pauses.
"""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from sandbox.clock import Clock
from sandbox.control.asynchronous.lanes import Lane, back_off
from sandbox.control.asynchronous.queue import Delivery, Posted, Queue
from sandbox.control.tasks import Tasks
from sandbox.core.limits import DELIVERY_AGE, THROTTLED_LONGEST_WAIT

_THREADS: Final = 8
_AT_A_TIME: Final = 2  # of one target: one that hangs leaves threads for the others


class Send(Protocol):
    """Sends one message. It is called in a thread. Raises whatever keeps it from arriving."""

    def __call__(self, delivery: Delivery) -> None: ...


class _Lane(Lane[int]):
    """The messages of one target. failing_since: on the clock, since when it has taken nothing; None while it does."""

    failing_since: float | None = None


class Deliveries:
    """clock: of the waits between two tries. on_trouble: told, once for each target, of what does not arrive."""

    def __init__(self, queue: Queue, send: Send, clock: Clock, on_trouble: Callable[[str], None]) -> None:
        self._queue = queue
        self._send = send
        self._clock = clock
        self._on_trouble = on_trouble
        self._threads = ThreadPoolExecutor(_THREADS, "destinations")  # its own: others must not wait for one that hangs
        self._tasks = Tasks(on_trouble)
        self._lanes: dict[str, _Lane] = {}
        self._made: dict[int, float] = {}  # when each was made, on the clock
        self._told: set[str] = set()  # targets that are down
        self._closed = False

    async def load(self) -> None:
        """What an earlier host has left. Raises sqlite3.Error."""
        self.take_up(await self._queue.deliveries())

    def take_up(self, those: list[Posted]) -> None:
        """What is on disk."""
        now, wall = self._clock.now(), self._clock.wall()
        for one in those:
            self._made[one.id] = now - max(0.0, wall - one.made)
            lane = self._lanes.setdefault(one.target, _Lane())
            lane.put(one.id, now, min(one.due - wall, THROTTLED_LONGEST_WAIT))
        for target in {one.target for one in those}:
            self._go_on(target)

    def add(self, delivery: Delivery) -> None:
        """One that was just written."""
        self.take_up([Posted(delivery.id, delivery.target, delivery.made, delivery.due)])

    def _go_on(self, target: str) -> None:
        lane = self._lanes.get(target)
        if lane is None or self._closed:
            return
        now = self._clock.now()
        lane.wake(now)
        room = (1 if lane.refusals else _AT_A_TIME) - lane.running
        while room > 0 and lane.ready and lane.paused_until <= now:
            lane.running += 1
            self._tasks.start(self._deliver(target, lane, lane.ready.popleft()))
            room -= 1
        lane.ring(self._clock, now, lambda: self._go_on(target))
        if lane.empty:
            del self._lanes[target]

    async def _deliver(self, target: str, lane: _Lane, number: int) -> None:
        try:
            found = await self._queue.delivery(number)
            if found is not None:
                await self._try(lane, found)
            else:
                self._made.pop(number, None)
        except sqlite3.Error as error:
            self._on_trouble(f"the queue of records for {target} cannot be read, and is tried again: {error}")
            self._pause(lane)
            lane.ready.appendleft(number)
        finally:
            lane.running -= 1
            self._go_on(target)

    async def _try(self, lane: _Lane, delivery: Delivery) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._send, delivery)
        except Exception as error:  # botocore's, urllib3's, the system's: whatever it is, it may pass
            await self._not_taken(lane, delivery, f"{type(error).__name__}: {error}")
            return
        lane.refusals, lane.failing_since = 0, None
        self._told.discard(delivery.target)
        self._made.pop(delivery.id, None)
        await self._note(self._queue.delivered(delivery))

    async def _not_taken(self, lane: _Lane, delivery: Delivery, reason: str) -> None:
        now = self._clock.now()
        self._pause(lane)
        delivery.tries += 1
        wait = back_off(delivery.tries)
        given_up = now + wait - self._made.get(delivery.id, now) > DELIVERY_AGE
        delivery.due = self._clock.wall() + wait
        self._tell(delivery, reason, given_up=given_up)
        if given_up:
            self._made.pop(delivery.id, None)
        else:
            heapq.heappush(lane.later, (now + wait, delivery.id))
        await self._note(self._queue.not_delivered(delivery, reason, given_up=given_up))
        if lane.failing_since is not None and now - lane.failing_since > DELIVERY_AGE:
            await self._give_up_old(lane, now, reason)

    def _pause(self, lane: _Lane) -> None:
        now = self._clock.now()
        if lane.failing_since is None:
            lane.failing_since = now
        lane.pause(now)

    async def _give_up_old(self, lane: _Lane, now: float, reason: str) -> None:
        """A target that has been down for so long: what waits for it as long is not tried one by one."""
        old = [number for number in lane.ready if now - self._made.get(number, now) > DELIVERY_AGE]
        if old:
            lane.ready = deque(number for number in lane.ready if number not in set(old))
            for number in old:
                self._made.pop(number, None)
            await self._note(self._queue.give_up(old, reason))

    async def _note(self, writing: Coroutine[Any, Any, None]) -> None:
        """If it cannot be written, the next host sends it once more: a message arrives at least once."""
        try:
            await writing
        except sqlite3.Error as error:
            self._on_trouble(f"what became of a message to a destination cannot be written: {error}")

    def _tell(self, delivery: Delivery, reason: str, *, given_up: bool) -> None:
        what = f"{delivery.kind} record of function {delivery.function} to {delivery.target}"
        if given_up:
            self._on_trouble(f"{what}: given up: {reason}; request {delivery.request_id} is kept: see `sandbox queue`")
        elif delivery.target not in self._told:
            self._told.add(delivery.target)
            self._on_trouble(f"{what}: not delivered, and tried again: {reason}")

    async def close(self) -> None:
        """What is under way is sent again by the next host, if it does not arrive."""
        self._closed = True
        for lane in self._lanes.values():
            lane.stop()
        await self._tasks.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
