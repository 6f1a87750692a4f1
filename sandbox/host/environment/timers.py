"""The machine's timers on the clock: one per token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox.clock import Clock, Handle
from sandbox.core.effects import SetTimer
from sandbox.core.events import Event, Timer


@dataclass(slots=True)
class _Timer:
    """A timer that runs. It rings at `rings_at`; by then it may be wanted later."""

    handle: Handle
    rings_at: float
    wanted: SetTimer


class Timers:
    """Performs SetTimer, and feeds Timer when one is due."""

    def __init__(self, clock: Clock, feed: Callable[[Event], None]) -> None:
        self._clock = clock
        self._feed = feed
        self._timers: dict[str, _Timer] = {}

    def set(self, effect: SetTimer) -> None:
        """A later deadline leaves a running timer alone: when that rings too early, it is set anew."""
        timer = self._timers.get(effect.token)
        if timer is None or effect.at < timer.rings_at:
            if timer is not None:
                timer.handle.cancel()
            handle = self._clock.call_at(effect.at, lambda: self._ring(effect.token))
            self._timers[effect.token] = _Timer(handle, effect.at, effect)
        else:
            timer.wanted = effect

    def _ring(self, token: str) -> None:
        timer = self._timers[token]
        wanted = timer.wanted
        if self._clock.now() < wanted.at:
            timer.rings_at = wanted.at
            timer.handle = self._clock.call_at(wanted.at, lambda: self._ring(token))
        else:
            del self._timers[token]
            self._feed(Timer(token, wanted.key, wanted.generation))

    def close(self) -> None:
        for timer in self._timers.values():
            timer.handle.cancel()
        self._timers.clear()
