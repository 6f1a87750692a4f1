"""Who takes part in an environment besides the runtime: extensions, invocations; and how a move is looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from sandbox.core import errors
from sandbox.core.errors import Refused
from sandbox.core.states import EXTENSION_DEAD, Extension, Invocation

S = TypeVar("S", bound=Enum)
M = TypeVar("M", bound=Enum)


class Fatal(NamedTuple):
    """Why a generation ends. The first one is kept: it is the root cause (LC-014)."""

    error_type: str
    message: str
    status: str = "error"
    reported: bool = False


@dataclass(slots=True)
class ExtensionAgent:
    """One extension. `poll` is its parked exchange; `delivered_on` the exchange that its event was written to."""

    name: str
    external: bool
    state: Extension = Extension.STARTED
    events: frozenset[str] = frozenset()
    registered: bool = False
    poll: int | None = None
    delivered_on: int | None = None
    invocation: str | None = None
    owed_shutdown: bool = False
    error_type: str | None = None

    @property
    def alive(self) -> bool:
        return self.state not in EXTENSION_DEAD

    def record(self) -> dict[str, Any]:
        """platform.extension (TL-081)."""
        record: dict[str, Any] = {"name": self.name, "state": self.state.value, "events": sorted(self.events)}
        if self.error_type is not None:
            record["errorType"] = self.error_type
        return record


@dataclass(slots=True)
class InvocationParty:
    """One invocation, by its invocation id. Times are on the machine's clock; None until they have come."""

    id: str
    request_id: str
    timeout: float
    state: Invocation = Invocation.PENDING
    started: float | None = None  # where its duration begins: delivery, or the suppressed Init before it (BL-005)
    dispatched: float | None = None
    deadline: float = 0.0
    delivered_on: int | None = None
    answering_on: int | None = None
    answer_began: float | None = None
    answered: float | None = None
    runtime_done: float | None = None
    size: int = 0


def step(table: Mapping[S, Mapping[M, S]], state: S, move: M, refuse: Callable[..., Refused], *names: str) -> S:
    """The state after a move; raises what `refuse` makes if the table has no such move."""
    try:
        return table[state][move]
    except KeyError:
        raise refuse(state, move, *names) from None


def refuse_runtime(state: Enum, move: Enum) -> Refused:
    """RT-055."""
    text = f"State transition from {state.value} to {move.value} failed for runtime."
    return Refused(403, errors.TRANSITION, f"{text} Error: State transition is not allowed")


def refuse_extension(state: Enum, move: Enum, name: str) -> Refused:
    """EX-056."""
    text = f"State transition from {state.value} to {move.value} failed for extension {name}."
    return Refused(403, errors.EXTENSION_STATE, f"{text} Error: State transition is not allowed")


def spans_of(invocation: InvocationParty, now: float) -> list[tuple[str, float, float]]:
    """The spans of platform.runtimeDone (TL-068) as (name, start, end), as far as they are known."""
    delivered, began, answered = invocation.dispatched, invocation.answer_began, invocation.answered
    if delivered is None or began is None or answered is None:
        return []
    return [
        ("responseLatency", delivered, began),
        ("responseDuration", began, answered),
        ("runtimeOverhead", answered, now),
    ]


def milliseconds(seconds: float) -> float:
    """TL-086: milliseconds with µs precision."""
    return round(seconds * 1000, 3)
