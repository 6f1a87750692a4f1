"""One subscriber: batches, order, retries, what is lost and how that is told. Time is the test's, and so is the sender."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sandbox.clock import ManualClock
from sandbox.core.limits import TELEMETRY_BACKLOG, Limits
from sandbox.core.subscription import TELEMETRY, Subscription
from sandbox.telemetry.delivery import Dropped, Subscriber, ThawedTime

ITEMS, BYTES, TIMEOUT_MS = 1_000, 262_144, 100
BOUND = TELEMETRY_BACKLOG * BYTES
LIMITS = Limits(telemetry_answer=5.0, telemetry_retry=20.0)


class Peer:
    """Stands in for a Sender: the test answers. quick: it answers at once, as TCP does."""

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick
        self.sent: list[list[bytes]] = []
        self.taken: list[bytes] = []
        self.aborts = 0
        self.done: Callable[[bool], None] | None = None

    def send(self, batch: Sequence[bytes], done: Callable[[bool], None]) -> None:
        assert self.done is None, "a second batch while one is on its way"
        assert batch
        self.sent.append(list(batch))
        if self.quick:
            self.taken += batch
            done(True)
        else:
            self.done = done

    def abort(self) -> None:
        self.aborts += 1
        self.done = None

    def answer(self, taken: bool) -> None:
        done, self.done = self.done, None
        assert done is not None, "nothing is on its way"
        if taken:
            self.taken += self.sent[-1]
        done(taken)


class Desk:
    """A subscriber and everything around it."""

    def __init__(self, quick: bool = False, **buffering: int) -> None:
        wanted = {"max_items": ITEMS, "max_bytes": BYTES, "timeout_ms": TIMEOUT_MS, **buffering}
        self.clock = ManualClock()
        self.time = ThawedTime(self.clock)
        self.peer = Peer(quick)
        self.dropped: list[Dropped] = []
        where = Subscription(TELEMETRY, "2022-12-13", ("function",), "HTTP", "sandbox", 1, "/", "POST", **wanted)
        self.subscriber = Subscriber(where, self.peer, self.time, LIMITS, self.tell)
        self.count = 0
        self.given: list[bytes] = []

    def tell(self, lost: Dropped) -> bytes:
        self.dropped.append(lost)
        told = {"dropped": [lost.records, lost.size, lost.reason], "number": len(self.dropped)}
        return json.dumps(told).encode()

    def add(self, size: int = 20, *, platform: bool = False, report: bool = False) -> bytes:
        event = b"%d " % self.count
        event += b"x" * (size - len(event))
        self.count += 1
        self.given.append(event)
        self.subscriber.add(event, platform=platform, report=report)
        return event

    def wait(self) -> None:
        self.clock.advance(TIMEOUT_MS / 1000)

    def freeze(self) -> None:
        self.time.freeze()

    def thaw(self) -> None:
        self.time.thaw()
        self.subscriber.go_on()

    def lost(self) -> list[tuple[int, int]]:
        """What was told as lost, in the events that were taken."""
        told = [json.loads(event)["dropped"] for event in self.peer.taken if event.startswith(b"{")]
        return [(records, size) for records, size, _ in told]

    def events(self) -> list[bytes]:
        return [event for event in self.peer.taken if not event.startswith(b"{")]

    def take_all(self) -> None:
        """The subscriber is quick from here on."""
        self.subscriber.flush()
        while self.peer.done is not None or self.subscriber.pending():
            if self.peer.done is None:
                self.clock.advance(1.0)
                self.subscriber.flush()
            else:
                self.peer.answer(True)


# ── batches ──


@pytest.mark.catalogue("TL-033")
def test_a_batch_goes_out_when_its_time_since_the_first_event_is_over() -> None:
    desk = Desk()
    first = desk.add()
    desk.clock.advance(0.099)
    second = desk.add()
    assert not desk.peer.sent
    desk.clock.advance(0.001)
    assert desk.peer.sent == [[first, second]]
    desk.peer.answer(True)
    third = desk.add()
    desk.clock.advance(0.099)
    assert len(desk.peer.sent) == 1
    desk.clock.advance(0.001)
    assert desk.peer.sent[1:] == [[third]]


@pytest.mark.catalogue("TL-033", "TL-030")
def test_a_batch_goes_out_when_it_has_its_items() -> None:
    desk = Desk(max_items=1_000)
    for _ in range(999):
        desk.add()
    assert not desk.peer.sent
    desk.add()
    desk.add()
    assert [len(batch) for batch in desk.peer.sent] == [1_000]
    desk.peer.answer(True)
    desk.wait()
    assert [len(batch) for batch in desk.peer.sent] == [1_000, 1]


@pytest.mark.catalogue("TL-033", "TL-031")
def test_a_batch_goes_out_when_it_has_its_bytes() -> None:
    desk = Desk()
    first = desk.add(BYTES - 1)
    assert not desk.peer.sent
    desk.add(1_000)  # does not fit any more
    assert desk.peer.sent == [[first]]
    exact = Desk()
    events = [exact.add(BYTES // 2), exact.add(BYTES // 2)]
    assert exact.peer.sent == [events]


@pytest.mark.catalogue("TL-033", "TL-037")
def test_no_batch_of_several_events_has_more_bytes_than_wanted() -> None:
    desk = Desk(quick=True)
    for size in (1, 200_000, 70_000, 300_000, 5, 262_144, 262_143, 1, 1):
        desk.add(max(size, 4))
    desk.subscriber.flush()
    assert desk.events() == desk.given
    assert all(sum(map(len, batch)) <= BYTES or len(batch) == 1 for batch in desk.peer.sent)


def test_a_batch_that_went_out_early_takes_its_timer_with_it() -> None:
    desk = Desk(quick=True)
    desk.add()
    desk.clock.advance(0.09)
    desk.subscriber.flush()
    desk.add()
    desk.clock.advance(0.09)
    assert len(desk.peer.sent) == 1
    desk.clock.advance(0.01)
    assert len(desk.peer.sent) == 2


@pytest.mark.catalogue("TL-036")
def test_one_batch_is_on_its_way_at_a_time_and_order_is_kept() -> None:
    desk = Desk()
    for _ in range(5):
        desk.add()
        desk.wait()
    assert len(desk.peer.sent) == 1  # Peer refuses a second one
    desk.take_all()
    assert desk.peer.taken == desk.given
    assert desk.subscriber.standing()[:3] == (5, 0, 0)


@pytest.mark.catalogue("TL-038")
def test_many_batches_that_are_taken_at_once_do_not_pile_up_on_the_stack() -> None:
    desk = Desk(quick=True)
    desk.freeze()
    for _ in range(2_000):
        desk.add()
        desk.subscriber.flush()
    desk.thaw()
    assert desk.peer.taken == desk.given


# ── flush, close ──


@pytest.mark.catalogue("TL-039", "TL-041")
def test_flush_sends_what_is_there_and_nothing_twice() -> None:
    desk = Desk()
    desk.subscriber.flush()
    assert not desk.peer.sent
    event = desk.add()
    desk.subscriber.flush()
    desk.subscriber.flush()
    assert desk.peer.sent == [[event]]
    desk.peer.answer(True)
    desk.clock.advance(100)
    assert desk.peer.sent == [[event]]


def test_after_close_nothing_is_sent_and_no_timer_rings() -> None:
    desk = Desk()
    on_its_way, buffered = desk.add(), None
    desk.wait()
    done = desk.peer.done
    buffered = desk.add()
    assert desk.subscriber.pending() == [on_its_way, buffered]
    desk.subscriber.close()
    assert desk.peer.aborts == 1
    assert done is not None
    done(False)  # it comes too late
    desk.clock.advance(1_000)
    desk.subscriber.go_on()
    assert len(desk.peer.sent) == 1
    assert desk.subscriber.standing().undelivered == 2


def test_what_is_pending_is_told_in_order() -> None:
    desk = Desk()
    for _ in range(3):
        desk.add()
        desk.wait()
    desk.add()
    assert desk.subscriber.pending() == desk.given
    assert desk.subscriber.standing().undelivered == 4
    desk.peer.answer(True)
    assert desk.subscriber.pending() == desk.given[1:]
    assert desk.subscriber.standing() == (1, 0, 3, 1, 0)


# ── hold, release ──


@pytest.mark.catalogue("TL-041")
def test_held_is_the_newest_report_and_what_follows_it_until_it_is_released() -> None:
    desk = Desk(quick=True)
    before = [desk.add(), desk.add(report=True), desk.add()]
    held = [desk.add(report=True), desk.add()]
    desk.subscriber.hold()
    assert desk.peer.sent == [before]
    assert desk.subscriber.pending() == held
    desk.clock.advance(1_000)
    held.append(desk.add())
    desk.clock.advance(1_000)  # what comes now has a timer, which does not send it
    assert desk.peer.sent == [before]
    desk.subscriber.release()
    assert desk.peer.sent == [before, held]
    after = desk.add()
    desk.wait()
    assert desk.peer.sent == [before, held, [after]]
    assert desk.subscriber.standing() == (len(desk.given), 0, 0, 3, 0)


@pytest.mark.catalogue("TL-041")
@pytest.mark.parametrize("events", [0, 1, 3])
def test_without_a_report_nothing_is_held(events: int) -> None:
    desk = Desk(quick=True)
    for _ in range(events):
        desk.add()
    desk.subscriber.hold()
    assert desk.events() == desk.given
    desk.add()
    desk.wait()
    assert desk.events() == desk.given


@pytest.mark.catalogue("TL-041")
def test_a_report_that_is_the_first_is_held_and_no_empty_batch_is_sent() -> None:
    desk = Desk(quick=True)
    desk.add(report=True)
    desk.subscriber.hold()
    assert desk.peer.sent == []
    desk.subscriber.release()
    assert desk.peer.sent == [desk.given]


@pytest.mark.catalogue("TL-041", "TL-033")
def test_what_is_held_waits_behind_what_was_on_its_way() -> None:
    desk = Desk()
    for report in (False, False, True):
        desk.wait()
        desk.add(report=report)
    desk.subscriber.hold()
    desk.subscriber.release()
    desk.take_all()
    assert desk.peer.sent == [[event] for event in desk.given]


@pytest.mark.catalogue("TL-041", "TL-031", "TL-038")
def test_the_sizes_of_what_is_held_and_of_the_rest_are_right() -> None:
    desk = Desk(quick=True)
    desk.add(100_000)
    desk.add(90_000, report=True)
    desk.subscriber.hold()
    assert (desk.subscriber._backlog, desk.subscriber._backlog_records) == (90_000, 1)
    desk.subscriber.release()
    assert desk.subscriber._backlog == desk.subscriber._backlog_records == 0
    desk.peer.quick = False
    for _ in range(TELEMETRY_BACKLOG):  # the whole bound is there again, and no more
        desk.add(BYTES)
    assert desk.subscriber.standing()[:3] == (2, 0, TELEMETRY_BACKLOG)
    desk.add()
    assert desk.subscriber.standing()[:3] == (2, 1, TELEMETRY_BACKLOG)


def overflowed(size: int, count: int) -> Desk:
    """More than a batch's worth has come while it was held."""
    desk = Desk(quick=True)
    before, _ = desk.add(), desk.add(report=True)
    desk.subscriber.hold()
    for _ in range(count):
        desk.add(size)
    assert desk.peer.sent == [[before]]
    return desk


OVERFLOWS = pytest.mark.parametrize(("size", "count"), [(100_000, 5), (20, ITEMS + 5)])


@pytest.mark.catalogue("TL-041")
@OVERFLOWS
def test_what_overflows_while_it_is_held_is_held_and_then_goes_out_in_order(size: int, count: int) -> None:
    desk = overflowed(size, count)
    desk.subscriber.release()
    assert desk.events() == desk.given
    assert desk.subscriber.standing()[:3] == (len(desk.given), 0, 0)


@pytest.mark.catalogue("TL-041", "TL-031", "TL-030")
@OVERFLOWS
def test_what_overflows_while_it_is_held_goes_out_in_batches_as_wanted(size: int, count: int) -> None:
    desk = overflowed(size, count)
    desk.subscriber.release()
    assert all(len(batch) <= ITEMS and sum(map(len, batch)) <= BYTES for batch in desk.peer.sent)


@pytest.mark.catalogue("TL-041", "TL-038", "TL-083")
def test_what_is_lost_while_something_is_held_is_told_when_it_is_released() -> None:
    desk = Desk(quick=True)
    desk.add()
    desk.add(report=True)
    desk.subscriber.hold()
    while not desk.subscriber.standing().dropped:
        desk.add(100_000)
    desk.subscriber.release()
    desk.add()
    desk.take_all()
    missing = [event for event in desk.given if event not in desk.events()]
    assert desk.lost() == [(len(missing), sum(map(len, missing)))]
    assert desk.subscriber.standing()[:3] == (len(desk.peer.taken), len(missing), 0)


# ── retries ──


@pytest.mark.catalogue("TL-036")
def test_what_was_not_taken_is_sent_again_with_back_off() -> None:
    desk = Desk()
    desk.add()
    desk.wait()
    waits = []
    for count in range(2, 12):
        before = desk.clock.now()
        desk.peer.answer(False)
        while len(desk.peer.sent) < count:
            desk.clock.advance(0.001)
        waits.append(desk.clock.now() - before)
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0], abs=0.002)
    assert all(batch == desk.peer.sent[0] for batch in desk.peer.sent)
    desk.peer.answer(True)
    assert desk.subscriber.standing() == (1, 0, 0, 1, 10)
    desk.add()
    desk.wait()
    desk.peer.answer(False)
    desk.clock.advance(0.01)  # the next one begins with the shortest wait again
    assert len(desk.peer.sent) == 13


@pytest.mark.catalogue("TL-036")
def test_what_comes_meanwhile_waits_behind_what_is_sent_again() -> None:
    desk = Desk()
    desk.add()
    desk.wait()
    desk.peer.answer(False)
    desk.add()
    desk.subscriber.flush()
    assert len(desk.peer.sent) == 1  # no flush goes past the back-off
    desk.take_all()
    assert desk.peer.taken == desk.given


@pytest.mark.catalogue("TL-036")
def test_no_answer_is_a_failure() -> None:
    desk = Desk()
    desk.add()
    desk.wait()
    desk.clock.advance(4.99)
    assert desk.peer.aborts == 0
    desk.clock.advance(0.01)
    assert desk.peer.aborts == 1
    desk.clock.advance(0.01)
    assert desk.peer.sent == [desk.given] * 2


@pytest.mark.catalogue("TL-036", "TL-083")
def test_what_nobody_takes_for_too_long_is_dropped_and_told() -> None:
    desk = Desk()
    first = [desk.add(), desk.add(31)]
    desk.wait()
    second = desk.add()
    began = desk.clock.now()
    while not desk.dropped:
        if desk.peer.done is not None:
            desk.peer.answer(False)
        desk.clock.advance(0.01)
    assert 20.0 <= desk.clock.now() - began <= 21.1
    desk.take_all()
    assert desk.events() == [second]
    assert desk.lost() == [(2, sum(map(len, first)))]
    assert desk.subscriber.standing()[:3] == (2, 2, 0)


@pytest.mark.catalogue("TL-083")
def test_what_was_told_to_nobody_is_told_again() -> None:
    desk = Desk()
    for _ in range(50):
        desk.add()
    for _ in range(2):
        told = len(desk.dropped)
        desk.wait()
        while len(desk.dropped) == told:
            if desk.peer.done is not None:
                desk.peer.answer(False)
            desk.clock.advance(0.5)
    desk.take_all()
    assert desk.events() == []
    assert desk.lost() == [(50, 1_000)]


# ── what is lost ──


def stalled(size: int = 1_000) -> Desk:
    """A subscriber whose backlog is full."""
    desk = Desk()
    while desk.subscriber.standing().dropped == 0:
        desk.add(size)
    return desk


@pytest.mark.catalogue("TL-038", "TL-083")
@pytest.mark.parametrize("size", [10, 1_000, 100_000])
def test_beyond_the_bound_records_are_lost_and_counted(size: int) -> None:
    desk = stalled(size)
    for _ in range(99):
        desk.add(size)
    waiting = desk.subscriber.pending()
    assert sum(len(event) for event in waiting) <= BOUND
    assert len(waiting) <= TELEMETRY_BACKLOG * ITEMS
    assert not desk.dropped
    desk.take_all()
    assert desk.events() == desk.given[:-100]
    assert desk.lost() == [(100, 100 * size)]
    assert desk.subscriber.standing()[:3] == (len(waiting) + 1, 100, 0)


@pytest.mark.catalogue("TL-083")
def test_what_is_lost_is_told_where_it_is_missing() -> None:
    desk = stalled(100_000)
    desk.peer.answer(True)  # there is room again
    after = desk.add()
    desk.take_all()
    place = next(n for n, event in enumerate(desk.peer.taken) if event.startswith(b"{"))
    assert desk.peer.taken[:place] == desk.given[:-2]
    assert desk.peer.taken[place + 1 :] == [after]


@pytest.mark.catalogue("TL-083")
def test_the_words_of_what_is_lost() -> None:
    desk = stalled()
    desk.take_all()
    [lost] = desk.dropped
    slow = "Some logs were dropped because the downstream consumer is slower than the logs production rate"
    assert lost.reason == slow


@pytest.mark.catalogue("TL-083")
def test_an_event_that_is_larger_than_the_bound_is_told_as_lost_though_nothing_follows() -> None:
    desk = Desk()
    desk.add(BOUND + 1)
    desk.clock.advance(60)
    desk.take_all()
    assert desk.lost() == [(1, BOUND + 1)]


@pytest.mark.catalogue("TL-083")
def test_an_event_that_is_larger_than_the_bound_is_told_as_lost_with_the_next() -> None:
    desk = Desk()
    desk.add(BOUND + 1)
    after = desk.add()
    desk.take_all()
    assert desk.lost() == [(1, BOUND + 1)]
    assert desk.events() == [after]


@pytest.mark.catalogue("TL-038")
def test_platform_events_get_in_where_output_does_not_any_more_but_not_for_ever() -> None:
    desk = stalled()
    start = desk.add(200, platform=True)
    assert start in desk.subscriber.pending()
    before = desk.subscriber.standing().dropped
    while desk.subscriber.standing().dropped == before:
        desk.add(1_000, platform=True)
    assert sum(map(len, desk.subscriber.pending())) <= 1.25 * BOUND
    desk.take_all()
    told = sum(records for records, _ in desk.lost())
    assert len(desk.events()) + told == len(desk.given)


@pytest.mark.catalogue("TL-038")
@pytest.mark.parametrize("size", [10, 1_000])  # of these, the records are the bound, and of those the bytes
def test_a_platform_event_gets_in_where_output_of_its_size_does_not(size: int) -> None:
    desk = stalled(size)
    desk.add(size)
    assert desk.given[-1] not in desk.subscriber.pending()
    event = desk.add(size, platform=True)
    assert desk.subscriber.pending()[-1] == event
    desk.add(size)
    assert desk.given[-1] not in desk.subscriber.pending()


@pytest.mark.catalogue("TL-040", "TL-083")
def test_what_was_lost_before_it_subscribed_is_told_at_once() -> None:
    desk = Desk()
    desk.add()
    desk.subscriber.lose(7, 700)
    desk.take_all()
    assert desk.lost() == [(7, 700)]
    assert desk.subscriber.standing().dropped == 7


# ── frozen ──


@pytest.mark.catalogue("TL-042")
def test_frozen_nothing_is_sent_and_no_time_passes() -> None:
    desk = Desk()
    desk.add()
    desk.clock.advance(0.06)
    desk.freeze()
    desk.freeze()
    desk.add()
    desk.clock.advance(1_000_000)
    desk.subscriber.flush()
    for _ in range(ITEMS):
        desk.add()
    desk.clock.advance(1_000_000)
    assert not desk.peer.sent
    desk.thaw()
    desk.take_all()
    assert desk.events() == desk.given


@pytest.mark.catalogue("TL-042", "TL-033")
def test_after_a_thaw_the_rest_of_the_time_is_waited_for() -> None:
    desk = Desk()
    desk.add()
    for _ in range(3):
        desk.clock.advance(0.03)
        desk.freeze()
        desk.clock.advance(3600)
        desk.thaw()
    desk.clock.advance(0.0099)
    assert not desk.peer.sent
    desk.clock.advance(0.0002)
    assert len(desk.peer.sent) == 1


@pytest.mark.catalogue("TL-042")
def test_a_batch_that_is_on_its_way_at_the_freeze_is_not_sent_again_for_that() -> None:
    desk = Desk()
    desk.add()
    desk.wait()
    desk.clock.advance(4)
    desk.freeze()
    desk.clock.advance(3600)
    assert desk.peer.aborts == 0
    desk.thaw()
    desk.clock.advance(0.9)
    assert desk.peer.aborts == 0
    desk.peer.answer(True)
    assert len(desk.peer.sent) == 1


@pytest.mark.catalogue("TL-042")
@pytest.mark.parametrize("taken", [True, False])
def test_an_answer_that_comes_while_it_is_frozen_counts_but_sends_nothing(taken: bool) -> None:
    desk = Desk()
    desk.add()
    desk.wait()
    desk.add()
    desk.subscriber.flush()
    desk.freeze()
    desk.peer.answer(taken)
    desk.clock.advance(3600)
    assert len(desk.peer.sent) == 1
    assert desk.subscriber.standing().delivered == int(taken)
    desk.thaw()
    desk.take_all()
    assert desk.peer.taken == desk.given


@pytest.mark.catalogue("TL-042", "TL-036")
def test_frozen_time_does_not_count_towards_the_end_of_the_retries() -> None:
    desk = Desk()
    desk.add()
    desk.wait()
    for _ in range(5):
        desk.peer.answer(False)
        desk.freeze()
        desk.clock.advance(1_000)
        desk.thaw()
        desk.clock.advance(1.0)
    assert not desk.dropped
    desk.take_all()
    assert desk.peer.taken == desk.given


@pytest.mark.catalogue("TL-042")
def test_thawed_time_stands_still_while_frozen() -> None:
    clock = ManualClock(now=50.0)
    time = ThawedTime(clock)
    rung: list[float] = []
    assert time.now() == 50.0
    time.thaw()
    time.after(10, lambda: rung.append(clock.now()))
    gone = time.after(10, lambda: rung.append(-1.0))
    clock.advance(4)
    time.freeze()
    time.after(1, lambda: rung.append(clock.now()))
    clock.advance(100)
    assert time.now() == 54.0
    assert time.frozen
    gone.cancel()
    time.thaw()
    assert not time.frozen
    assert time.now() == 54.0
    clock.advance(20)
    assert rung == [155.0, 160.0]
    assert time.now() == 74.0


# ── anything in any order ──


class AnyOrder(RuleBasedStateMachine):
    """A subscriber in a world that adds, answers, freezes, thaws and lets time pass as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.sends_at_freeze = 0

    @rule(size=st.sampled_from([8, 30, 5_000, 100_000, 261_000, 400_000]), platform=st.booleans(), times=st.integers(1, 5))
    def add(self, size: int, platform: bool, times: int) -> None:
        for _ in range(times):
            self.desk.add(size, platform=platform)

    @rule(times=st.integers(900, 1_100))
    def add_many(self, times: int) -> None:
        for _ in range(times):
            self.desk.add()

    @precondition(lambda self: self.desk.peer.done is not None)
    @rule(taken=st.booleans())
    def answer(self, taken: bool) -> None:
        self.desk.peer.answer(taken)

    @precondition(lambda self: not self.desk.time.frozen)
    @rule()
    def freeze(self) -> None:
        self.desk.freeze()
        self.sends_at_freeze = len(self.desk.peer.sent)

    @precondition(lambda self: self.desk.time.frozen)
    @rule()
    def thaw(self) -> None:
        self.desk.thaw()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.1, 1.0, 5.0, 30.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.desk.clock.advance(seconds)

    @rule()
    def flush(self) -> None:
        self.desk.subscriber.flush()

    @invariant()
    def the_backlog_is_bounded(self) -> None:
        waiting = self.desk.subscriber.pending()
        size = sum(len(event) for event in waiting)
        assert size <= 1.25 * BOUND + 1_000
        assert len(waiting) <= 1.25 * TELEMETRY_BACKLOG * ITEMS + 10

    @invariant()
    def nothing_is_sent_while_frozen(self) -> None:
        assert not self.desk.time.frozen or len(self.desk.peer.sent) == self.sends_at_freeze

    @invariant()
    def batches_are_as_they_were_wanted(self) -> None:
        for batch in self.desk.peer.sent[-2:]:
            assert len(batch) <= ITEMS
            assert sum(map(len, batch)) <= BYTES or len(batch) == 1

    def teardown(self) -> None:
        desk = self.desk
        if desk.time.frozen:
            desk.thaw()
        desk.take_all()
        desk.add()  # what was lost is told now at the latest
        desk.take_all()
        numbers = [int(event.split()[0]) for event in desk.events()]
        assert numbers == sorted(set(numbers)), "order, or an event that was taken twice"
        kept = set(desk.events())
        missing = [event for event in desk.given if event not in kept]
        assert sum(records for records, _ in desk.lost()) == len(missing)
        assert sum(size for _, size in desk.lost()) == sum(map(len, missing))
        standing: Any = desk.subscriber.standing()
        assert standing.delivered == len(desk.peer.taken)
        assert standing.dropped == len(missing)
        assert standing.undelivered == 0


@pytest.mark.catalogue("TL-036", "TL-038", "TL-042", "TL-083")
class TestAnyOrder(AnyOrder.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
