"""When an event is tried, and what becomes of it (IN-100 … IN-105).

Each function and qualifier has a lane: events whose time has come, in order, and others by when it comes. So many of a lane
are tried at a time; beyond them only their numbers are in memory. A throttle makes the lane wait, not one event alone: then a
single one is tried, and the others when that went well. Waits are on the injected clock; what is on disk is in wall time, and a
wait that is read from there is never longer than the longest there is: a clock that jumped loses nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import sqlite3
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from sandbox.clock import Clock
from sandbox.control.asynchronous import outcomes
from sandbox.control.asynchronous.deliveries import Deliveries
from sandbox.control.asynchronous.lanes import Lane
from sandbox.control.asynchronous.outcomes import Outcome, Settings
from sandbox.control.asynchronous.queue import Delivery, Ending, Event, Queue, Queued
from sandbox.control.errors import ApiError
from sandbox.control.live import Live, Target
from sandbox.control.names import LATEST, Here, Named
from sandbox.control.placing import check_tenant, placed
from sandbox.control.tasks import Tasks
from sandbox.core.errors import SandboxError
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import EVENT_LIMIT, EVENT_RETRY_WAITS, EVENTS_AT_A_TIME, THROTTLED_LONGEST_WAIT
from sandbox.host.concurrency import Throttled
from sandbox.host.environment import Job
from sandbox.host.host import Function

T = TypeVar("T")
_LONGEST_WAIT: Final = max(THROTTLED_LONGEST_WAIT, *EVENT_RETRY_WAITS)
_KEPT_TOLD: Final = 20  # events of a function that are told one by one
_TOLD: Final = 1000  # sentences
_DISK_WAIT: Final = 1.0  # seconds until what could not be written is tried again


class _Lane(Lane[Event]):
    """The events of one function and qualifier; with the event itself while there is room for it. loading: from disk."""

    loading = False


def _id(one: Event | int) -> int:
    return one if isinstance(one, int) else one.id


class _Refused(NamedTuple):
    """No environment could be had. longest: seconds until the event is too old."""

    longest: float


class Dispatcher:
    """clock: of every wait; wall: seconds since the epoch. on_trouble: told, in a sentence, of what a person should know.

    duplicates: how many of 100 events are given to their function once more (IN-105).
    """

    def __init__(
        self,
        live: Live,
        queue: Queue,
        deliveries: Deliveries,
        here: Here,
        clock: Clock,
        on_trouble: Callable[[str], None],
        duplicates: float = 0.0,
    ) -> None:
        self._live = live
        self._queue = queue
        self._deliveries = deliveries
        self._here = here
        self._clock = clock
        self._on_trouble = on_trouble
        self._duplicates = duplicates
        self._lanes: dict[Named, _Lane] = {}
        self._tasks = Tasks(on_trouble)
        self._accepted: dict[int, float] = {}  # when each event was accepted, on the clock
        self._told: set[tuple[str, str]] = set()
        self._kept: dict[str, int] = {}  # how many events of each function have failed for good
        self._closed = False
        self.on_attempt: Callable[[Job, FunctionConfig | None, int], None] | None = None  # for who bills: bytes of its event

    # ── in ──

    def accept(
        self,
        named: Named,
        payload: bytes,
        trace_id: str,
        done: Callable[[Exception | None], None],
        *,
        request_id: str | None = None,
        tenant_id: str | None = None,
    ) -> str:
        """An event; its request id. done: called when it is on disk, or with what kept it from there (IN-100)."""
        event = self._event(named, payload, trace_id, request_id, tenant_id)

        def added(_: None, error: Exception | None) -> None:
            if error is None:
                self._ready(event)
            else:
                del self._accepted[event.id]
            done(error)

        self._queue.add(event, added)
        return event.request_id

    def _event(
        self, named: Named, payload: bytes, trace_id: str, request_id: str | None = None, tenant_id: str | None = None
    ) -> Event:
        wall = self._clock.wall()
        request_id = request_id or str(uuid.uuid4())
        number = self._queue.next_id()
        self._accepted[number] = self._clock.now()
        return Event(number, named.name, named.qualifier, request_id, trace_id, tenant_id, payload, wall, wall)

    async def load(self) -> None:
        """What an earlier host has left. Raises sqlite3.Error."""
        self._take_up(await self._queue.queued())

    def _take_up(self, those: list[Queued]) -> None:
        now, wall = self._clock.now(), self._clock.wall()
        for one in those:
            self._accepted[one.id] = now - max(0.0, wall - one.accepted)
            lane = self._lane(Named(one.function, one.qualifier))
            lane.put(one.id, now, min(one.due - wall, _LONGEST_WAIT))
        for named in {Named(one.function, one.qualifier) for one in those}:
            self._go_on(named)

    def _lane(self, named: Named) -> _Lane:
        lane = self._lanes.get(named)
        if lane is None:
            lane = self._lanes[named] = _Lane()
        return lane

    def _ready(self, event: Event) -> None:
        named = Named(event.function, event.qualifier)
        lane = self._lane(named)
        lane.ready.append(event if len(lane.ready) < EVENTS_AT_A_TIME else event.id)
        self._go_on(named)

    async def function_gone(self, function: str) -> None:
        """Its events end. Those that are under way end by themselves."""
        lanes = [lane for named, lane in self._lanes.items() if named.name == function]
        if not lanes:
            return
        for lane in lanes:
            for one in lane.ready:
                self._accepted.pop(_id(one), None)
            for _, number in lane.later:
                self._accepted.pop(number, None)
            lane.ready.clear()
            lane.later.clear()
        last = self._queue.last_event
        try:
            await self._drop(function, last)
        except sqlite3.Error as error:
            self._trouble("events", f"what became of an event cannot be written, and is tried again: {error}")
            self._tasks.start(self._written(lambda: self._drop(function, last)))

    async def _drop(self, function: str, last: int) -> None:
        """Those with later numbers are of a function that was made after it."""
        count = await self._queue.drop(function, last, "the function was deleted", outcomes.FUNCTION_GONE)
        if count:
            self._on_trouble(f"function {function} was deleted: {count} events that waited for it will not be tried")

    def function_changed(self, function: str) -> None:
        """What was refused an environment may have one now: nobody waits any longer."""
        for named in [named for named, lane in self._lanes.items() if named.name == function and lane.refusals]:
            self._lanes[named].paused_until = 0.0
            self._go_on(named)

    # ── the lanes ──

    def _go_on(self, named: Named) -> None:
        """Starts as many attempts as there is room for."""
        lane = self._lanes.get(named)
        if lane is None or self._closed or lane.loading:
            return
        now = self._clock.now()
        lane.wake(now)
        room = self._room(named.name, lane) - lane.running if lane.paused_until <= now else 0
        while room > 0 and lane.ready and isinstance(lane.ready[0], Event):
            event = lane.ready.popleft()
            assert isinstance(event, Event)
            self._attempt_soon(lane, event)
            room -= 1
        if room > 0 and lane.ready:
            lane.loading = True
            self._tasks.start(self._load_some(named, lane, room))
        lane.ring(self._clock, now, lambda: self._go_on(named))
        if lane.empty:
            del self._lanes[named]

    def _room(self, function: str, lane: _Lane) -> int:
        reserved = self._live.reserved(function)
        if lane.refusals or reserved == 0:
            return 1
        return EVENTS_AT_A_TIME if reserved is None else min(reserved, EVENTS_AT_A_TIME)

    async def _load_some(self, named: Named, lane: _Lane, room: int) -> None:
        numbers: list[int] = []
        while lane.ready and len(numbers) < room and isinstance(lane.ready[0], int):
            number = lane.ready.popleft()
            assert isinstance(number, int)
            numbers.append(number)
        try:
            events = await self._queue.events(numbers)
        except sqlite3.Error as error:
            self._trouble("events", f"the queue of events cannot be read, and is tried again: {error}")
            lane.ready.extendleft(reversed(numbers))
            await self._clock.sleep(_DISK_WAIT)
            events, numbers = [], []
        finally:
            lane.loading = False
        for gone in set(numbers).difference(event.id for event in events):
            self._accepted.pop(gone, None)
        for event in events:
            self._attempt_soon(lane, event)
        self._go_on(named)

    def _attempt_soon(self, lane: _Lane, event: Event) -> None:
        lane.running += 1
        self._tasks.start(self._attempt(lane, event))

    # ── one attempt ──

    async def _attempt(self, lane: _Lane, event: Event) -> None:
        try:
            found = await self._try(lane, event)
            if isinstance(found, _Refused):
                lane.pause(self._clock.now(), found.longest)
                await self._put_back(lane, event)
            elif found is not None:
                heapq.heappush(lane.later, (found, event.id))
        finally:
            lane.running -= 1
            self._go_on(Named(event.function, event.qualifier))

    async def _put_back(self, lane: _Lane, event: Event) -> None:
        """To its place before those that came later, unless its function was deleted meanwhile."""
        try:
            if not await self._queue.events([event.id]):
                self._accepted.pop(event.id, None)
                return
        except sqlite3.Error:  # it is looked for again when it is its turn
            pass
        place = 0
        while place < min(len(lane.ready), EVENTS_AT_A_TIME) and _id(lane.ready[place]) < event.id:
            place += 1
        lane.ready.insert(place, event)

    async def _try(self, lane: _Lane, event: Event) -> float | _Refused | None:
        """One attempt; when the next one is due, on the clock, or None: it has ended."""
        named = Named(event.function, event.qualifier)
        row = self._live.row(named)
        if row is None:
            text = f"Function not found: {self._here.function_arn(event.function, event.qualifier or LATEST)}"
            await self._end(event, None, outcomes.FUNCTION_GONE, Outcome(404, text=text))
            return None
        settings = Settings.of(self._live.event_config(named), row.configuration)
        if self._age(event) >= settings.max_age:
            await self._end(event, settings, outcomes.AGE_EXCEEDED, Outcome(429, text="Rate Exceeded."))
            return None
        if self._live.reserved(event.function) == 0:  # IN-063
            await self._end(event, settings, outcomes.ZERO_RESERVED, Outcome(429, text="Rate Exceeded."))
            return None
        try:
            check_tenant(event.tenant_id, row)
        except ApiError as error:
            await self._end(event, settings, outcomes.REFUSED, Outcome(400, text=error.message))
            return None
        try:
            trace_id = self._live.handed_on(event.function, event.trace_id)
        except ApiError as error:
            await self._end(event, settings, outcomes.RECURSION, Outcome(400, text=error.message))
            return None
        try:
            job = await self._placed(event, named, trace_id)
            await asyncio.wait([job.answered])
            if (failure := job.answered.exception()) is not None:
                raise failure
        except (SandboxError, OSError) as error:  # IN-103: that is no attempt that counts
            if not isinstance(error, Throttled):
                self._trouble(event.function, f"function {event.function}: an event waits, for it cannot be invoked: {error}")
            return _Refused(settings.max_age - self._age(event))
        lane.refusals = 0
        ran = self._live.row(Named(event.function, job.result.executed_version))
        settings = Settings.of(self._live.event_config(named), (ran or row).configuration)
        if job.result.function_error is not None:
            return await self._failed(event, settings, job, trace_id)
        if self._duplicates and event.failures == 0 and random.random() * 100 < self._duplicates:
            await self._once_more(event, named, trace_id)
        outcome = Outcome(200, job.result.executed_version, job.result.payload)
        await self._end(event, settings, outcomes.SUCCESS, outcome, trace_id)
        return None

    async def _placed(self, event: Event, named: Named, trace_id: str) -> Job:
        """Its job, under way. Raises SandboxError, OSError."""

        def make(function: Function, target: Target) -> Job:
            return function.job(
                event.payload,
                request_id=event.request_id,
                trace_id=trace_id,
                tenant_id=event.tenant_id,
                arn=target.arn,
            )

        job = await placed(lambda: self._live.target(named), make, event.tenant_id)
        if self.on_attempt is not None:
            self.on_attempt(job, self._live.config(named), len(event.payload))
        return job

    async def _once_more(self, event: Event, named: Named, trace_id: str) -> None:
        """A duplicate; what comes of it is nobody's concern."""
        try:
            job = await self._placed(event, named, trace_id)
            await asyncio.wait([job.answered])
            job.answered.exception()
        except (SandboxError, OSError):
            pass

    def _age(self, event: Event) -> float:
        now = self._clock.now()
        return now - self._accepted.get(event.id, now)

    async def _failed(self, event: Event, settings: Settings, job: Job, trace_id: str) -> float | None:
        """IN-101."""
        result = job.result
        event.failures += 1
        text = outcomes.error_text(result.payload)
        outcome = Outcome(200, result.executed_version, result.payload, result.function_error, text)
        if event.failures > settings.retries:
            await self._end(event, settings, outcomes.RETRIES_EXHAUSTED, outcome, trace_id)
            return None
        wait = EVENT_RETRY_WAITS[event.failures - 1]
        if self._age(event) + wait >= settings.max_age:  # recorded: decided now, and not when it is too old
            await self._end(event, settings, outcomes.AGE_EXCEEDED, outcome, trace_id)
            return None
        return await self._put_off(event, wait)

    async def _put_off(self, event: Event, wait: float) -> float | None:
        due = self._clock.now() + wait
        event.due = self._clock.wall() + wait
        if await self._written(lambda: self._queue.put_off(event)):
            return due
        self._accepted.pop(event.id, None)  # its function was deleted meanwhile
        return None

    async def _written(self, write: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A disk is not full for ever."""
        while True:
            try:
                return await write()
            except sqlite3.Error as error:
                self._trouble("events", f"what became of an event cannot be written, and is tried again: {error}")
            await self._clock.sleep(_DISK_WAIT)

    # ── endings ──

    async def _end(
        self, event: Event, settings: Settings | None, condition: str, outcome: Outcome, trace_id: str | None = None
    ) -> None:
        """What is to be sent is written together with the end; without anybody to send to, a failure stays for people.

        trace_id: as the function got it, if it ran: a chain of requests goes on at its destination (IN-142).
        """
        good = condition == outcomes.SUCCESS
        ending = Ending(event, condition, outcome.text)
        trace_id = trace_id or event.trace_id
        if settings is not None:
            arn = self._here.function_arn(event.function, event.qualifier or LATEST)
            invokes = event.failures + good
            wall = self._clock.wall()
            if target := settings.on_success if good else settings.on_failure:
                record = outcomes.destination_record(event, arn, condition, invokes, wall, outcome)
                message: dict[str, Any] = {"body": record, "arn": arn, "trace": trace_id}
                self._send(ending, target, "success" if good else "failure", message, trace_id)
            if not good and settings.dead_letter:
                message = {"body": event.payload.decode(), "attributes": outcomes.dead_letter_attributes(event, outcome)}
                self._send(ending, settings.dead_letter, "dead-letter", message, trace_id)
        ending.keep = not good and not (ending.deliveries or ending.events)
        await self._written(lambda: self._queue.end(ending))
        self._accepted.pop(event.id, None)
        for delivery in ending.deliveries:
            self._deliveries.add(delivery)
        for other in ending.events:
            self._ready(other)
        if ending.keep:
            self._tell_kept(event, condition, outcome)

    def _send(self, ending: Ending, target: str, kind: str, message: dict[str, Any], trace_id: str) -> None:
        event, wall = ending.event, self._clock.wall()
        if ":lambda:" in target and len(message["body"]) <= EVENT_LIMIT:
            try:
                named = self._here.function(target)
            except ApiError as error:
                self._trouble(target, f"destination {target}: {error}")
            else:
                ending.events.append(self._event(named, message["body"].encode(), trace_id))
                return
        number = self._queue.next_delivery_id()
        ending.deliveries.append(Delivery(number, event.function, event.request_id, target, kind, message, wall, wall))

    def _tell_kept(self, event: Event, condition: str, outcome: Outcome) -> None:
        """The first ones of each function, and then how many there are, at each thousand."""
        count = self._kept[event.function] = self._kept.get(event.function, 0) + 1
        tail = "kept: see `sandbox queue`"
        if count <= _KEPT_TOLD:
            self._on_trouble(f"function {event.function}: event {event.request_id}: {condition}: {outcome.text[:300]}; {tail}")
        elif count % 1000 == 0 or count == _KEPT_TOLD + 1:
            self._on_trouble(f"function {event.function}: {count} events have failed for good; the newest are {tail}")

    def _trouble(self, what: str, text: str) -> None:
        """The same is told once."""
        if len(self._told) < _TOLD and (what, text) not in self._told:
            self._told.add((what, text))
            self._on_trouble(text)

    # ── for people ──

    async def overview(self) -> dict[str, Any]:
        """See `overview` in queue; `next` is when a function's next attempt is due, throttles included, and `refusals` how
        often in a row it was refused an environment."""
        found = await self._queue.overview()
        now, wall = self._clock.now(), self._clock.wall()
        for one in found["queued"]:
            lanes = [lane for named, lane in self._lanes.items() if named.name == one["function"]]
            dues = [due for lane in lanes if (due := lane.due) is not None]
            one["next"] = wall + max(0.0, min(dues) - now) if dues else wall
            one["refusals"] = max((lane.refusals for lane in lanes), default=0)
        return found

    async def replay(self, request_ids: list[str] | None) -> tuple[int, int]:
        """What ended without anybody's notice is tried again, what was given up is sent again. How many events and messages."""
        events, deliveries = await self._queue.replay(request_ids, self._clock.wall())
        self._take_up(events)
        self._deliveries.take_up(deliveries)
        return len(events), len(deliveries)

    async def close(self) -> None:
        """Attempts that are under way are broken off; they are made again by the next host."""
        self._closed = True
        for lane in self._lanes.values():
            lane.stop()
        await self._tasks.close()
