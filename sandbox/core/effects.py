"""What the machine asks for. Only `host/environment` performs these."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

EVERYONE: Final = "*"


class Deliver(NamedTuple):
    """Answer a parked poll of the runtime with an event."""

    conn: int
    invocation_id: str


class DeliverInvoke(NamedTuple):
    """Answer a parked poll of an extension with INVOKE."""

    conn: int
    name: str
    invocation_id: str


class DeliverShutdown(NamedTuple):
    """Answer a parked poll of an extension with SHUTDOWN. `deadline` is on the machine's clock."""

    conn: int
    name: str
    reason: str
    deadline: float


class Accept(NamedTuple):
    """202 {"status":"OK"}; for a register, 200 with what the Extensions API promises."""

    conn: int


class Refuse(NamedTuple):
    """An error reply."""

    conn: int
    status: int
    error_type: str
    message: str


class Spawn(NamedTuple):
    """Start a process: the runtime or an external extension."""

    who: str
    generation: int


class Signal(NamedTuple):
    """Signal one agent's process group, or EVERYONE. Signals: STOP, CONT, TERM, KILL.

    Signal(EVERYONE, "KILL") is answered by the event Gone once nothing of the generation is alive.
    """

    who: str
    name: str


class SetTimer(NamedTuple):
    """Send Timer(token, key, generation) at `at`. Setting a token again replaces it."""

    token: str
    key: str
    at: float
    generation: int


class Emit(NamedTuple):
    """One journal record (rule 4). Durations in it are milliseconds; `at` is machine time.

    record["spans"] is a list of (name, start, end) in machine time.
    """

    type: str
    at: float
    record: dict[str, Any]
    invocation_id: str | None = None


class Answered(NamedTuple):
    """The caller's answer is whole: it is the body that came on `conn`; `error` if it came to /error."""

    invocation_id: str
    conn: int
    error: bool


class Begun(NamedTuple):
    """An answer was let in: its body may flow to a streaming caller."""

    invocation_id: str
    conn: int


class Failed(NamedTuple):
    """The platform answers instead of the runtime.

    status: error | timeout | failure. phase: the phase it happened in, "init" or "invoke". `reported` is True if the
    runtime's own init/error body is the answer (RT-102).
    """

    invocation_id: str
    status: str
    error_type: str
    message: str
    phase: str
    reported: bool = False


class Closed(NamedTuple):
    """The environment is over: remove what belonged to it."""


Effect = (
    Deliver
    | DeliverInvoke
    | DeliverShutdown
    | Accept
    | Refuse
    | Spawn
    | Signal
    | SetTimer
    | Emit
    | Answered
    | Begun
    | Failed
    | Closed
)
