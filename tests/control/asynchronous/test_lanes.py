"""What waits in a lane is woken or rung for, whenever its time comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.clock import ManualClock
from sandbox.control.asynchronous.lanes import Lane, back_off
from sandbox.core.limits import THROTTLED_LONGEST_WAIT

moments = st.floats(0, 10, allow_nan=False)


@given(wait=moments, passes=moments, pause=st.booleans())
def test_nothing_falls_between_waking_and_ringing(wait: float, passes: float, pause: bool) -> None:
    clock, lane = ManualClock(), Lane[int]()
    heard: list[float] = []
    lane.put(1, clock.now(), wait)
    if pause:
        lane.pause(clock.now(), 5)
    now = clock.now()
    lane.wake(now)
    clock.advance(passes)  # what is done in between takes its time
    lane.ring(clock, now, lambda: heard.append(clock.now()))
    clock.advance(100)
    assert heard or (lane.ready and not pause)


def test_the_back_off() -> None:
    waits = [back_off(tries) for tries in range(1, 40)]
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == waits[-1] == THROTTLED_LONGEST_WAIT
