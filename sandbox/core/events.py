"""What the machine is told. NamedTuples: plain, comparable, quick to make.

`conn` is the number of an HTTP exchange that waits for a reply. `who` is "runtime" or an extension's name. `generation`
counts the sets of processes that an environment has had; an exit or a timer of an earlier generation is harmless.
"""

from __future__ import annotations

from typing import Final, NamedTuple

RUNTIME: Final = "runtime"


class Start(NamedTuple):
    """Begin Init without waiting for an invoke (LC-008)."""


class Invoke(NamedTuple):
    """An invocation for this environment. Timeout in seconds."""

    invocation_id: str
    request_id: str
    timeout: float


class Next(NamedTuple):
    """A poll: GET /runtime/invocation/next or GET /extension/event/next."""

    conn: int
    who: str


class ClientGone(NamedTuple):
    """The client of a parked poll has gone, or went before the event that was written to it had reached it."""

    conn: int


class Register(NamedTuple):
    """POST /extension/register."""

    conn: int
    name: str
    events: frozenset[str]


class Subscribe(NamedTuple):
    """PUT /telemetry or /logs by an extension; api is "Telemetry" or "Logs". What it subscribes to is not the machine's."""

    conn: int
    name: str
    api: str


class AnswerBegins(NamedTuple):
    """The head of an answer has arrived, its body has not yet ended. `invocation_id` is None when it was not echoed."""

    conn: int
    request_id: str
    invocation_id: str | None


class AnswerEnds(NamedTuple):
    """The body of the answer that began on `conn` has ended. `error` if it was posted to /error."""

    conn: int
    size: int
    error: bool


class Answer(NamedTuple):
    """A whole answer at once: AnswerBegins and AnswerEnds in one."""

    conn: int
    request_id: str
    invocation_id: str | None
    size: int
    error: bool


class AnswerRefused(NamedTuple):
    """An answer that the platform will not have: it becomes the platform's own error, and the environment lives on.

    If the answer had not begun yet, its ids are looked at first, as for any other answer.
    """

    conn: int
    request_id: str
    invocation_id: str | None
    error_type: str
    message: str
    status: int
    refusal_type: str
    refusal: str


class InitError(NamedTuple):
    """POST /runtime/init/error."""

    conn: int
    error_type: str


class ExtensionError(NamedTuple):
    """POST /extension/init/error or /extension/exit/error (`exiting`)."""

    conn: int
    name: str
    error_type: str
    exiting: bool


class SpawnFailed(NamedTuple):
    """A process could not be started."""

    who: str
    generation: int
    error_type: str
    message: str


class Exited(NamedTuple):
    """A process has ended, with an exit code or by a signal (its number)."""

    who: str
    generation: int
    code: int | None
    signal: int | None


class MemoryExceeded(NamedTuple):
    """The processes of the environment together use more than its memory size."""

    generation: int


class Gone(NamedTuple):
    """Everything that belonged to a generation is dead; the answer to Signal(EVERYONE, KILL)."""

    generation: int


class Timer(NamedTuple):
    """A timer that SetTimer asked for."""

    token: str
    key: str
    generation: int


class Shutdown(NamedTuple):
    """End the environment. Reason: spindown, timeout or failure (EX-051)."""

    reason: str


Event = (
    Start
    | Invoke
    | Next
    | ClientGone
    | Register
    | Subscribe
    | AnswerBegins
    | AnswerEnds
    | Answer
    | AnswerRefused
    | InitError
    | ExtensionError
    | SpawnFailed
    | Exited
    | MemoryExceeded
    | Gone
    | Timer
    | Shutdown
)
