"""TravelClock: another clock's time, moved on by hand."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sandbox.clock import ManualClock, SystemClock, TravelClock

seconds = st.integers(0, 1000).map(float)  # whole ones: sums are exact


@given(st.lists(seconds.map(lambda wait: wait + 1), max_size=8), st.lists(seconds, max_size=8), st.booleans())
def test_every_timer_goes_off_once_in_order_and_at_its_time(waits: list[float], steps: list[float], timers: bool) -> None:
    outer = ManualClock()
    clock = TravelClock(outer, timers=timers)
    began = clock.now()
    heard: list[tuple[float, float]] = []
    for wait in waits:
        clock.call_at(began + wait, lambda wait=wait: heard.append((wait, clock.now() - began)))  # type: ignore[misc]
    for number, step in enumerate(steps):
        (clock.advance if number % 2 == 0 else outer.advance)(step)
    if timers or len(steps) % 2 == 1:  # the last step has woken whatever was due
        passed = clock.now() - began
        assert sorted(wait for wait, _ in heard) == sorted(wait for wait in waits if wait <= passed + 1e-9)
    assert [wait for wait, _ in heard] == sorted(wait for wait, _ in heard)
    assert all(at >= wait - 1e-6 for wait, at in heard)
    assert clock.wall() - clock.now() == outer.wall() - outer.now()


def test_without_timers_of_its_own_nothing_goes_off_by_itself() -> None:
    outer = ManualClock()
    clock = TravelClock(outer, timers=False)
    heard: list[float] = []
    clock.call_at(clock.now() + 5, lambda: heard.append(clock.now()))
    outer.advance(100)
    assert heard == []
    clock.advance(0)
    assert len(heard) == 1


def test_a_timer_that_was_taken_back_does_not_go_off() -> None:
    clock = TravelClock(ManualClock())
    heard: list[int] = []
    clock.call_at(clock.now() + 1, lambda: heard.append(1)).cancel()
    clock.call_at(clock.now() + 2, lambda: heard.append(2))
    clock.advance(3)
    assert heard == [2]


async def test_its_sleep_is_shortened_by_moving_on() -> None:
    clock = TravelClock(SystemClock())
    sleeping = asyncio.ensure_future(clock.sleep(3600))
    await asyncio.sleep(0)
    clock.advance(3600)
    await asyncio.wait_for(sleeping, 5)
    clock.close()
