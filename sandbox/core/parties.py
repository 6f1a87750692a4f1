"""Who takes part in an environment besides the runtime: extensions, invocations; and how a move is looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from sandbox.core import errors
from sandbox.core.errors import Refused
from sandbox.core.states import EXTENSION_DEAD, Extension, ExtensionMove, Invocation

S = TypeVar("S", bound=Enum)
M = TypeVar("M", bound=Enum)


class Fatal(NamedTuple):
    """Why a generation ends. The first one is kept: it is the root cause (LC-014). who: the party it happened to, if one."""

    error_type: str
    message: str
    status: str = "error"
    reported: bool = False
    who: str | None = None


@dataclass(slots=True)
class ExtensionAgent:
    """One extension. `poll` is its parked exchange; `delivered_on` the exchange that its event was written to.

    Times are on the machine's clock: started (spawned; an internal one: registered), ready (its first poll), polled (its
    newest one), ended. api: the one of the two, Telemetry or Logs, that it has subscribed with.
    """

    name: str
    external: bool
    started: float
    state: Extension = Extension.STARTED
    events: frozenset[str] = frozenset()
    registered: bool = False
    poll: int | None = None
    delivered_on: int | None = None
    invocation: str | None = None
    owed_shutdown: bool = False
    told: bool = False  # it was given SHUTDOWN
    error_type: str | None = None
    api: str | None = None
    ready: float | None = None
    polled: float | None = None
    ended: float | None = None
    exit: str | None = None
    last_state: Extension | None = None  # before its exit

    @property
    def alive(self) -> bool:
        return self.state not in EXTENSION_DEAD

    @property
    def init_ms(self) -> float | None:
        return milliseconds(self.ready - self.started) if self.ready is not None else None

    def cost(self, invocation: InvocationParty, now: float) -> dict[str, Any]:
        """What it took of an invoke: ms after the answer, and ms after the runtime's next poll (the environment's overhead)."""
        cost: dict[str, Any] = {"name": self.name, "type": "external" if self.external else "internal"}
        cost |= {"events": sorted(self.events), "state": self.state.value}
        if "INVOKE" not in self.events or self.invocation != invocation.id:
            return cost
        done = self.polled if self.ended is None else self.ended
        until = done if done is not None and done >= (invocation.dispatched or 0.0) else now
        for key, since in (("afterResponseMs", invocation.answered), ("afterRuntimeMs", invocation.runtime_done)):
            cost[key] = milliseconds(max(0.0, until - since)) if since is not None else None
        return cost

    def farewell(self, now: float, began: float) -> dict[str, Any]:
        """How it took the end of its generation: whether it was told, how it ended, and when (ms from the beginning)."""
        at = self.ended if self.ended is not None else now
        record: dict[str, Any] = {"name": self.name, "state": self.state.value, "registered": self.registered}
        record |= {"events": sorted(self.events), "told": self.told, "exit": self.exit}
        return record | {"ms": milliseconds(max(0.0, at - began))}

    def record(self) -> dict[str, Any]:
        """platform.extension (TL-081)."""
        state = self.last_state or self.state  # a crash leaves it as it was, in AWS's own records
        record: dict[str, Any] = {"name": self.name, "state": state.value, "events": sorted(self.events)}
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
    asked = "Exited" if move is ExtensionMove.EXIT_ERROR else move.value  # the word that AWS's emulator has there
    text = f"State transition from {state.value} to {asked} failed for extension {name}."
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
