"""The Telemetry API and Logs API of one environment: who has subscribed, and what they get (TL-040, TL-043)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sandbox.clock import Clock
from sandbox.core.limits import TELEMETRY_HISTORY, TELEMETRY_RECORD_COST, TELEMETRY_REPLAYS, Limits
from sandbox.core.subscription import SCHEMAS, TELEMETRY, Subscription
from sandbox.telemetry.delivery import Dropped, Standing, Subscriber, ThawedTime
from sandbox.telemetry.journal import Record
from sandbox.telemetry.schema import Style, encode, kind_of
from sandbox.telemetry.senders import Dial, make_sender

_SUBSCRIPTIONS: Final = ("platform.telemetrySubscription", "platform.logsSubscription")
_ANY_STYLE: Final = Style(TELEMETRY, SCHEMAS[TELEMETRY][-1])


class _Seat(NamedTuple):
    style: Style
    types: tuple[str, ...]
    subscriber: Subscriber
    replays: int = 1  # how often the Init so far was given to this extension


class Telemetry:
    """Gives records to subscribers. note_dropped: makes the journal's record of what the named extension has lost.

    json: the function's log format is JSON. dial: connects to a port of the environment's loopback.
    """

    def __init__(
        self,
        clock: Clock,
        limits: Limits,
        dial: Dial,
        *,
        json: bool,
        note_dropped: Callable[[str, Dropped], Record],
    ) -> None:
        self._limits = limits
        self._dial = dial
        self._json = json
        self._note_dropped = note_dropped
        self._time = ThawedTime(clock)
        self._seats: dict[str, _Seat] = {}
        self._history: list[Record] | None = None  # of this Init, for who subscribes later; None once it is over
        self._history_size = 0
        self._lost: dict[str, tuple[int, int]] = {}  # by kind: records and bytes of this Init that were not kept

    def begin(self) -> None:
        """A new generation's Init: subscriptions of the old one are over (LC-083)."""
        self.close()
        self._history, self._history_size, self._lost = [], 0, {}

    def close(self) -> None:
        """No more deliveries."""
        seats, self._seats = self._seats, {}
        self._history = None
        for seat in seats.values():
            seat.subscriber.close()

    def take(self, record: Record) -> None:
        """One record of the journal."""
        if self._history is None and not self._seats:
            return
        kind = kind_of(record.type)
        if kind == "sandbox" or record.type == "platform.logsDropped":  # the latter is for one of them alone
            return
        if self._history is not None:
            self._keep(record, kind)
        encoded: dict[Style, list[bytes]] = {}
        for seat in self._seats.values():
            if kind in seat.types:
                if seat.style not in encoded:
                    encoded[seat.style] = encode(record, seat.style)
                report = record.type == "platform.report"
                for event in encoded[seat.style]:
                    seat.subscriber.add(event, platform=kind == "platform", report=report)
                    report = False
        if record.type == "platform.initReport":
            self._history = None  # the window is closed (TL-014)

    def _keep(self, record: Record, kind: str) -> None:
        assert self._history is not None
        if kind == "platform" and record.type in _SUBSCRIPTIONS and record.record["state"] != "Subscribed":
            return  # one that subscribes a thousand times does not make the others' beginning longer
        size = len(record.record) + TELEMETRY_RECORD_COST if isinstance(record.record, str) else TELEMETRY_RECORD_COST
        if kind != "platform" and self._history_size + size > TELEMETRY_HISTORY:
            records, lost = self._lost.get(kind, (0, 0))
            self._lost[kind] = (records + 1, lost + sum(len(event) for event in encode(record, _ANY_STYLE)))
            return
        self._history.append(record)
        self._history_size += size

    def subscribe(self, name: str, subscription: Subscription) -> None:
        """A new subscription, or one in place of another (TL-015). It begins with what this Init has had so far (TL-040)."""
        style = Style(subscription.api, subscription.schema, self._json)
        before = self._seats.pop(name, None)
        subscriber = Subscriber(
            subscription,
            make_sender(subscription, self._dial),
            self._time,
            self._limits,
            lambda lost: encode(self._note_dropped(name, lost), style)[0],
        )
        replays = before.replays + 1 if before is not None else 1
        self._seats[name] = _Seat(style, subscription.types, subscriber, replays)
        if before is not None:
            before.subscriber.close()
            same = (before.style, before.types) == (style, subscription.types)  # it wants no more than it had
            if same or replays > TELEMETRY_REPLAYS:
                subscriber.succeed(before.subscriber)
                return
        for record in self._history or ():
            kind = kind_of(record.type)
            if kind in subscription.types:
                for event in encode(record, style):
                    subscriber.add(event, platform=kind == "platform")
        for kind, (records, size) in self._lost.items():
            if kind in subscription.types:
                subscriber.lose(records, size)

    def freeze(self) -> None:
        """Nothing is sent from here on, and no time passes."""
        self._time.freeze()

    def thaw(self) -> None:
        self._time.thaw()
        for seat in self._seats.values():
            seat.subscriber.go_on()

    def begin_shutdown(self) -> None:
        """Thawed for the end: all goes out, but for the last platform.report, which waits for `release`."""
        self._time.thaw()
        for seat in self._seats.values():
            seat.subscriber.hold()

    def release(self) -> None:
        """SHUTDOWN has been given: the rest goes out."""
        for seat in self._seats.values():
            seat.subscriber.release()

    def flush(self) -> None:
        """All that is buffered goes out."""
        for seat in self._seats.values():
            seat.subscriber.flush()

    def connecting(self) -> bool:
        """Whether a batch waits for its connection: it will be on its way in a moment."""
        return any(seat.subscriber.connecting for seat in self._seats.values())

    def standing(self, name: str) -> Standing | None:
        """The figures of one extension's subscription."""
        seat = self._seats.get(name)
        return seat.subscriber.standing() if seat is not None else None
