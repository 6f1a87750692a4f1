"""One subscriber: its buffer, its queue, its retries (TL-030 to TL-042).

Three promises. Events arrive in their order. Nobody waits for a subscriber: one that is slow loses records, and is told how
many (platform.logsDropped). And time stands still while the environment is frozen, for the subscriber's does, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from sandbox.clock import Clock, Handle
from sandbox.core.limits import TELEMETRY_BACKLOG, Limits
from sandbox.core.subscription import Subscription
from sandbox.telemetry.senders import Sender

SLOW: Final = "Some logs were dropped because the downstream consumer is slower than the logs production rate"  # TL-083
UNTAKEN: Final = "Some logs were dropped because the downstream consumer did not accept them"
_FIRST_RETRY: Final = 0.01  # seconds; doubled each time …
_LAST_RETRY: Final = 1.0  # … up to this
_PLATFORM_RESERVE: Final = 1.25  # platform events are few: they may go this far beyond what output may


class Dropped(NamedTuple):
    """What a subscriber has lost."""

    records: int
    size: int
    reason: str


class Standing(NamedTuple):
    """The figures of one subscriber, in records."""

    delivered: int
    dropped: int
    undelivered: int
    batches: int
    retries: int


class _Batch:
    """tells: how many of its events are platform.logsDropped; lost, lost_size: what these tell of, less themselves."""

    __slots__ = ("attempts", "events", "lost", "lost_size", "report_at", "since", "size", "tells")

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.size = 0  # of the events, in bytes
        self.report_at: int | None = None  # where the newest platform.report begins
        self.tells = self.lost = self.lost_size = 0
        self.attempts = 0
        self.since = 0.0  # thawed seconds at its first attempt


class ThawedTime:
    """Seconds that an environment has not been frozen, and timers on them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0.0
        self._frozen_at: float | None = None
        self._timers: set[ThawedTimer] = set()

    @property
    def frozen(self) -> bool:
        return self._frozen_at is not None

    def now(self) -> float:
        return (self._frozen_at if self._frozen_at is not None else self._clock.now()) - self._offset

    def freeze(self) -> None:
        if self._frozen_at is None:
            self._frozen_at = self._clock.now()
            for timer in self._timers:
                timer.hold()

    def thaw(self) -> None:
        if self._frozen_at is not None:
            self._offset += self._clock.now() - self._frozen_at
            self._frozen_at = None
            for timer in list(self._timers):
                timer.go_on()

    def after(self, seconds: float, ring: Callable[[], None]) -> ThawedTimer:
        timer = ThawedTimer(self, self.now() + seconds, ring)
        self._timers.add(timer)
        if not self.frozen:
            timer.go_on()
        return timer

    def arm(self, timer: ThawedTimer, at: float) -> Handle:
        return self._clock.call_at(at + self._offset, lambda: self._rings(timer))

    def _rings(self, timer: ThawedTimer) -> None:
        self._timers.discard(timer)
        timer.ring()

    def forget(self, timer: ThawedTimer) -> None:
        self._timers.discard(timer)


class ThawedTimer:
    """Rings once, at a moment of thawed time."""

    def __init__(self, time: ThawedTime, at: float, ring: Callable[[], None]) -> None:
        self._time = time
        self._at = at
        self._handle: Handle | None = None
        self.ring = ring

    def hold(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def go_on(self) -> None:
        self._handle = self._time.arm(self, self._at)

    def cancel(self) -> None:
        self.hold()
        self._time.forget(self)


class Subscriber:
    """Buffers, sends and resends the events of one subscription. dropped: told of records that it will never get."""

    def __init__(
        self,
        subscription: Subscription,
        sender: Sender,
        time: ThawedTime,
        limits: Limits,
        dropped: Callable[[Dropped], bytes],
    ) -> None:
        self.subscription = subscription
        self._sender = sender
        self._time = time
        self._limits = limits
        self._tell_dropped = dropped
        self._filling = _Batch()
        self._held = False  # what is being filled waits for `release`
        self._queue: deque[_Batch] = deque()
        self._backlog = self._backlog_records = 0  # bytes and records that wait, in all of them
        self._most = TELEMETRY_BACKLOG * subscription.max_bytes
        self._most_records = TELEMETRY_BACKLOG * subscription.max_items
        self._lost = self._lost_bytes = 0
        self._reason = SLOW
        self._sending: _Batch | None = None
        self._going_on = False  # _send_next is at work: a sender that answers at once does not call it again
        self._flush_timer: ThawedTimer | None = None
        self._retry_timer: ThawedTimer | None = None
        self._answer_timer: ThawedTimer | None = None
        self._delivered = self._dropped = self._batches = self._retries = 0
        self._closed = False

    def standing(self) -> Standing:
        waiting = len(self._filling.events) + sum(len(batch.events) for batch in self._queue)
        return Standing(self._delivered, self._dropped + self._lost, waiting, self._batches, self._retries)

    def add(self, event: bytes, *, platform: bool, report: bool = False) -> None:
        """One event, encoded. Never blocks, never raises. report: with it, platform.report begins."""
        reserve = _PLATFORM_RESERVE if platform else 1.0
        if self._backlog + len(event) > self._most * reserve or self._backlog_records >= self._most_records * reserve:
            self._lose(1, len(event), SLOW)
            if not self._queue and not self._filling.events:
                self._tell()  # it is too large by itself: nothing else will go and make room
            return
        if self._lost:
            self._tell()
        self._append(event, report=report)

    def flush(self) -> None:
        """What is buffered goes out now, if the subscriber takes it (TL-039, TL-041)."""
        self._seal()

    @property
    def connecting(self) -> bool:
        return self._sending is not None and self._sender.connecting

    def succeed(self, before: Subscriber) -> None:
        """Takes over what another one was not able to deliver, and its figures. That one is closed."""
        self._lost, self._lost_bytes, self._reason = before._lost, before._lost_bytes, before._reason
        self._delivered, self._dropped = before._delivered, before._dropped
        self._batches, self._retries = before._batches, before._retries
        for event in before.pending():
            self._append(event)

    def hold(self) -> None:
        """What comes before the newest platform.report goes out now; that, and what follows, when it is released.

        For the beginning of Shutdown: an extension may wait for just that record once it has been given SHUTDOWN.
        """
        filling, at = self._filling, self._filling.report_at
        if at is None or filling.tells:
            self.flush()
            return
        rest = _Batch()
        rest.events, filling.events = filling.events[at:], filling.events[:at]
        rest.size = sum(len(event) for event in rest.events)
        filling.size -= rest.size
        self._seal()
        self._filling, self._held = rest, True

    def release(self) -> None:
        """What was held goes out, in batches as they are wanted."""
        held, was_held, self._held = self._filling, self._held, False
        if was_held and not held.tells:
            self._filling = _Batch()
            self._backlog -= held.size
            self._backlog_records -= len(held.events)
            for event in held.events:
                self._append(event)
        self.flush()

    def pending(self) -> list[bytes]:
        """What has not been delivered, in order."""
        return [event for batch in self._queue for event in batch.events] + self._filling.events

    def lose(self, records: int, size: int) -> None:
        """Records that it would have got, and that are gone."""
        self._lose(records, size, SLOW)
        self._tell()

    def go_on(self) -> None:
        """Thawed: what waited goes out."""
        self._send_next()

    def close(self) -> None:
        """The end: what has not been delivered never will be."""
        self._closed = True
        for timer in (self._flush_timer, self._retry_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        self._sender.abort()

    # ── the buffer ──

    def _append(self, event: bytes, *, report: bool = False) -> None:
        if self._filling.events and self._filling.size + len(event) > self.subscription.max_bytes:
            self._seal()
        filling = self._filling
        if report:
            filling.report_at = len(filling.events)
        filling.events.append(event)
        filling.size += len(event)
        self._backlog += len(event)
        self._backlog_records += 1
        if len(filling.events) >= self.subscription.max_items or filling.size >= self.subscription.max_bytes:
            self._seal()
        elif self._flush_timer is None:
            self._flush_timer = self._time.after(self.subscription.timeout_ms / 1000, self._seal)

    def _seal(self) -> None:
        """The batch is full, or its time has come."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._filling.events and not self._held:
            self._queue.append(self._filling)
            self._filling = _Batch()
        self._send_next()

    def _lose(self, records: int, size: int, reason: str) -> None:
        self._lost += records
        self._lost_bytes += size
        self._reason = reason

    def _tell(self) -> None:
        """platform.logsDropped, at the place in the stream where records are missing."""
        lost = Dropped(self._lost, self._lost_bytes, self._reason)
        self._dropped += self._lost
        self._lost = self._lost_bytes = 0
        event = self._tell_dropped(lost)
        if self._filling.size + len(event) > self.subscription.max_bytes:
            self._seal()
        filling = self._filling
        filling.tells, filling.lost = filling.tells + 1, filling.lost + lost.records
        filling.lost_size += lost.size - len(event)
        self._append(event)

    # ── sending ──

    def _send_next(self) -> None:
        if self._going_on:
            return
        self._going_on = True
        while self._may_send():
            batch = self._sending = self._queue[0]
            if batch.attempts == 0:
                batch.since = self._time.now()
            batch.attempts += 1
            self._answer_timer = self._time.after(self._limits.telemetry_answer, self._no_answer)
            self._sender.send(batch.events, self._answered)
        self._going_on = False

    def _may_send(self) -> bool:
        busy = self._sending is not None or self._retry_timer is not None
        return bool(self._queue) and not busy and not self._time.frozen and not self._closed

    def _no_answer(self) -> None:
        self._sender.abort()
        self._answered(False)

    def _answered(self, taken: bool) -> None:
        batch, self._sending = self._sending, None
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
        if batch is None or self._closed:
            return
        if taken:
            self._delivered += len(batch.events)
            self._batches += 1
            self._leave(batch)
        elif self._time.now() - batch.since >= self._limits.telemetry_retry:
            self._dropped -= batch.lost  # they are told of anew
            self._lose(len(batch.events) - batch.tells + batch.lost, batch.size + batch.lost_size, UNTAKEN)
            self._leave(batch)
        else:
            self._retries += 1
            wait = min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(batch.attempts - 1, 10))
            self._retry_timer = self._time.after(wait, self._again)
            return
        if self._lost:
            self._tell()
        self._send_next()

    def _leave(self, batch: _Batch) -> None:
        self._queue.popleft()
        self._backlog -= batch.size
        self._backlog_records -= len(batch.events)

    def _again(self) -> None:
        self._retry_timer = None
        self._send_next()
