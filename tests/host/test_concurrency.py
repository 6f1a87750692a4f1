"""Shares of concurrency: who is throttled and why, and that no unit is lost. Time is the test's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sandbox.clock import ManualClock
from sandbox.core.limits import ACCOUNT_CONCURRENCY, SCALING_BURST, SCALING_RATE, TENANT_ENVIRONMENTS
from sandbox.host.concurrency import CONCURRENT, RATE, RESERVED, RESERVED_RATE, Account, Rate, Share, Throttled


def reason_of(action: Callable[[], None]) -> str | None:
    """Why it was throttled; None if it was not."""
    try:
        action()
    except Throttled as throttled:
        return throttled.reason
    return None


def count(action: Callable[[], None], at_most: int = 5000) -> int:
    """How often it can be done now."""
    done = 0
    while done < at_most and reason_of(action) is None:
        done += 1
    return done


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


# ── rates ──


def test_a_rate_is_so_many_at_once_and_then_so_many_a_second(clock: ManualClock) -> None:
    rate = Rate(clock, 4, 2)
    assert [rate.take() for _ in range(5)] == [True] * 4 + [False]
    clock.advance(0.5)
    assert [rate.take() for _ in range(2)] == [True, False]
    clock.advance(0.25)
    assert not rate.take()
    clock.advance(0.25)
    assert [rate.take() for _ in range(2)] == [True, False]
    clock.advance(3600)
    assert [rate.take() for _ in range(5)] == [True] * 4 + [False]


def test_a_rate_of_nothing_gives_nothing(clock: ManualClock) -> None:
    rate = Rate(clock, 0, 0)
    clock.advance(3600)
    assert not rate.take()


@pytest.mark.catalogue("IN-064", "IN-065")
def test_what_was_not_used_is_not_saved_up(clock: ManualClock) -> None:
    """One that was taken long ago does not make more than a burst possible at once."""
    rate = Rate(clock, 10, 10)
    assert rate.take()
    clock.advance(3600)
    assert [rate.take() for _ in range(20)].count(True) == 10


@given(
    burst=st.integers(1, 8),
    rate=st.integers(1, 8),
    steps=st.lists(st.tuples(st.sampled_from((0, 1, 2, 4, 8, 64)), st.integers(0, 12)), max_size=20),
)
@settings(deadline=None)
def test_a_rate_holds_over_every_stretch_of_time(burst: int, rate: int, steps: list[tuple[int, int]]) -> None:
    """Eighths of a second, so that no figure is rounded."""
    clock = ManualClock()
    limit = Rate(clock, burst, rate)
    level, taken = float(burst), list[float]()
    for eighths, wanted in steps:
        clock.advance(eighths / 8)
        level = min(float(burst), level + eighths / 8 * rate)
        for _ in range(wanted):
            assert limit.take() == (level >= 1.0)
            if level >= 1.0:
                level -= 1.0
                taken.append(clock.now())
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - start)


# ── shares ──


@pytest.mark.catalogue("IN-061", "IN-062")
def test_the_two_reasons_of_concurrency(clock: ManualClock) -> None:
    account = Account(clock, limit=5)
    reserved, one, two = Share(account), Share(account), Share(account)
    reserved.set(reserved=2, provisioned=0)
    assert account.unreserved == 3
    assert count(reserved.take) == 2
    assert reason_of(reserved.take) == RESERVED == "ReservedFunctionConcurrentInvocationLimitExceeded"
    one.take()
    one.take()
    two.take()
    assert reason_of(one.take) == reason_of(two.take) == CONCURRENT == "ConcurrentInvocationLimitExceeded"
    reserved.give()  # it is nobody else's
    assert reason_of(two.take) == CONCURRENT
    one.give()
    two.take()
    reserved.take()
    assert (account.busy, account.set_aside) == (3, 2)


@pytest.mark.catalogue("IN-060")
def test_a_throttle_has_the_words_of_aws(clock: ManualClock) -> None:
    share = Share(Account(clock, limit=0))
    with pytest.raises(Throttled, match=r"^Rate Exceeded\.$"):
        share.take()


@pytest.mark.catalogue("IN-063")
def test_a_reservation_of_nothing_lets_nobody_in(clock: ManualClock) -> None:
    share = Share(Account(clock))
    share.set(reserved=0, provisioned=0)
    assert reason_of(share.admit) == RESERVED
    assert reason_of(share.take) == RESERVED
    clock.advance(3600)
    assert reason_of(share.admit) == RESERVED
    share.set(reserved=None, provisioned=0)
    assert reason_of(share.admit) is None


@pytest.mark.catalogue("IN-061", "IN-064")
def test_ten_requests_a_second_for_each_unit_of_a_reservation(clock: ManualClock) -> None:
    account = Account(clock, limit=1)
    share, other = Share(account), Share(account)
    share.set(reserved=1, provisioned=0)
    assert count(share.admit) == 10
    assert reason_of(share.admit) == RESERVED_RATE == "ReservedFunctionInvocationRateLimitExceeded"
    clock.advance(0.1)
    assert count(share.admit) == 1
    assert count(other.admit) == 10, "the account's requests are counted apart"
    assert reason_of(other.admit) == RATE == "FunctionInvocationRateLimitExceeded"
    share.set(reserved=2, provisioned=0)
    assert count(share.admit) == 20


@pytest.mark.catalogue("IN-064")
def test_the_account_lets_ten_requests_a_second_in_for_each_unit(clock: ManualClock) -> None:
    account = Account(clock)
    one, two = Share(account), Share(account)
    assert count(one.admit, 6000) + count(two.admit, 6000) == 10_000
    clock.advance(1)
    assert count(two.admit, 20_000) == 10_000


@pytest.mark.catalogue("IN-064", "IN-062")
def test_a_reservation_that_is_set_again_as_it_was_does_not_renew_its_rate(clock: ManualClock) -> None:
    share = Share(Account(clock))
    share.set(reserved=1, provisioned=0)
    assert count(share.admit) == 10
    share.set(reserved=1, provisioned=1)
    assert reason_of(share.admit) == RESERVED_RATE


@pytest.mark.catalogue("IN-065")
def test_a_function_scales_by_a_thousand_at_once_and_then_by_a_hundred_a_second(clock: ManualClock) -> None:
    account = Account(clock, limit=10_000)
    share, other = Share(account), Share(account)
    scale = lambda: share.scale(tenant=False)  # noqa: E731
    assert count(scale) == SCALING_BURST == 1000
    assert reason_of(scale) == CONCURRENT
    assert count(lambda: other.scale(tenant=False)) == 1000, "each function scales for itself"
    clock.advance(1)
    assert count(scale) == SCALING_RATE == 100
    clock.advance(10)
    assert count(scale) == 1000
    clock.advance(3600)
    assert count(scale) == 1000


@pytest.mark.catalogue("IN-065")
def test_half_a_burst_is_not_added_to_the_next_one(clock: ManualClock) -> None:
    share = Share(Account(clock))
    assert count(lambda: share.scale(tenant=False), 500) == 500
    clock.advance(3600)
    assert count(lambda: share.scale(tenant=False)) == 1000


@pytest.mark.catalogue("IN-068")
def test_environments_of_tenants_have_a_limit_of_their_own(clock: ManualClock) -> None:
    share = Share(Account(clock, limit=2))
    share.tenants = TENANT_ENVIRONMENTS * 2 // ACCOUNT_CONCURRENCY - 1
    share.scale(tenant=True)
    share.tenants += 1
    with pytest.raises(Throttled, match=r"^Rate exceeded$") as caught:
        share.scale(tenant=True)
    assert caught.value.reason == CONCURRENT
    share.scale(tenant=False)


@pytest.mark.catalogue("LC-132", "CP-079")
def test_what_is_provisioned_is_taken_from_the_reservation_or_from_the_account(clock: ManualClock) -> None:
    account = Account(clock, limit=4)
    share, other = Share(account), Share(account)
    share.set(reserved=None, provisioned=3)
    assert (account.set_aside, account.unreserved, share.provisioned, share.reserved) == (3, 1, 3, None)
    other.take()
    assert reason_of(share.take) == CONCURRENT, "spill-over is the account's"
    share.set(reserved=3, provisioned=2)
    assert account.unreserved == 1
    share.take()
    assert reason_of(share.take) == RESERVED
    share.give()
    share.set(reserved=2, provisioned=2)
    assert reason_of(share.take) == RESERVED, "nothing spills over when all that is reserved is provisioned"
    share.set(reserved=None, provisioned=0)
    assert (account.set_aside, account.busy) == (0, 1)


def test_a_throttle_takes_nothing(clock: ManualClock) -> None:
    account = Account(clock, limit=1)
    one, two = Share(account), Share(account)
    one.take()
    for _ in range(20):
        assert reason_of(two.take) == CONCURRENT
    one.give()
    two.take()
    two.give()
    assert account.busy == 0


LIMIT = 6


class World(RuleBasedStateMachine):
    """Three functions of one account: the model counts what each holds, and the account must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account(ManualClock(), limit=LIMIT)
        self.shares = [Share(self.account) for _ in range(3)]
        self.held = [0, 0, 0]
        self.config: list[tuple[int | None, int]] = [(None, 0)] * 3

    def aside(self) -> int:
        return sum(provisioned if reserved is None else reserved for reserved, provisioned in self.config)

    def on_demand(self) -> int:
        return sum(held for held, (reserved, _) in zip(self.held, self.config, strict=True) if reserved is None)

    @rule(which=st.integers(0, 2))
    def take(self, which: int) -> None:
        reserved, provisioned = self.config[which]
        if reserved is not None:
            expected = RESERVED if self.held[which] >= reserved - provisioned else None
        else:
            expected = CONCURRENT if self.on_demand() >= LIMIT - self.aside() else None
        assert reason_of(self.shares[which].take) == expected
        self.held[which] += expected is None

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        which = data.draw(st.sampled_from([index for index, held in enumerate(self.held) if held]))
        self.shares[which].give()
        self.held[which] -= 1

    @rule(which=st.integers(0, 2), reserved=st.none() | st.integers(0, LIMIT), provisioned=st.integers(0, LIMIT))
    def set(self, which: int, reserved: int | None, provisioned: int) -> None:
        """What a control plane lets pass: no more than there is."""
        old = self.config[which]
        self.config[which] = reserved, min(provisioned, reserved if reserved is not None else LIMIT)
        if self.aside() > LIMIT:
            self.config[which] = old
            return
        self.shares[which].set(reserved=reserved, provisioned=self.config[which][1])

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.account.busy == self.on_demand()
        assert self.account.set_aside == self.aside()
        assert self.account.unreserved == LIMIT - self.aside()
        assert [(share.reserved, share.provisioned) for share in self.shares] == self.config
        assert [share._busy for share in self.shares] == self.held

    def teardown(self) -> None:
        for share, held in zip(self.shares, self.held, strict=True):
            for _ in range(held):
                share.give()
            share.set(reserved=None, provisioned=0)
        assert (self.account.busy, self.account.set_aside) == (0, 0)


TestWorld = pytest.mark.catalogue("IN-062")(World.TestCase)
TestWorld.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
