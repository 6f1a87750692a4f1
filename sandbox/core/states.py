"""The lifecycle as tables.

Two rules. Every state and every transition of an execution environment is in this file. And this file performs nothing:
`machine.py` looks moves up here, and a move that is not here is refused: the refusal is the reply that the peer gets.

Four small machines run side by side. The *runtime* and each *extension* are agents: processes that poll us. An
*invocation* is one event on its way to an answer; it has a table of its own, apart from the runtime's, so that several
may be under way at once. The *phase* is what the environment as a whole is doing.

A restore (SnapStart) will add RestoreReady and Restoring between the runtime's Started and Ready, and nothing else.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class _Member(Enum):
    """Members are singletons: their identity is hash enough, and Enum's own hash is Python code on the hot path."""

    __hash__ = object.__hash__


class Runtime(_Member):
    """The runtime as a party to the Runtime API. The values are the words of a refusal (RT-055)."""

    ABSENT = "Absent"
    STARTED = "Started"
    READY = "Ready"
    RUNNING = "Running"
    INIT_ERROR = "InitError"
    EXITED = "Exited"


class RuntimeMove(_Member):
    """What may happen to the runtime. The values name the state that the peer asked for (RT-055)."""

    SPAWN = "Started"
    NEXT = "Ready"  # GET /next that completes what was asked of it
    NEXT_AGAIN = "Ready (again)"  # GET /next while the event is unanswered: the same event again (RT-034)
    NEXT_HELD = "Ready (held)"  # GET /next while an answer is under way, or while everything is being wound down
    DELIVER = "Running"
    INIT_ERROR = "InitError"
    EXIT = "Exited"


class Extension(_Member):
    """One extension, external or internal."""

    STARTED = "Started"
    REGISTERED = "Registered"
    READY = "Ready"
    RUNNING = "Running"
    INIT_ERROR = "InitError"
    EXIT_ERROR = "ExitError"
    SHUTDOWN = "Shutdown"
    EXITED = "Exited"
    SHUTDOWN_FAILED = "ShutdownFailed"
    LAUNCH_ERROR = "LaunchError"


class ExtensionMove(_Member):
    """What may happen to an extension."""

    REGISTER = "Registered"
    SUBSCRIBE = "Registered (subscribing)"
    NEXT = "Ready"
    NEXT_REPLACES = "Ready (in place of a poll whose client has gone)"
    NEXT_AGAIN = "Running (an event that nobody took)"
    NEXT_HELD = "Shutdown (held)"
    DELIVER = "Running"
    SHUTDOWN = "Shutdown"
    OWE_SHUTDOWN = "Shutdown (owed)"
    INIT_ERROR = "InitError"
    EXIT_ERROR = "ExitError"
    LAUNCH_FAILED = "LaunchError"
    EXIT = "Exited"
    EXIT_FAILED = "ShutdownFailed"


class Invocation(_Member):
    """One invocation on its way to an answer."""

    PENDING = "Pending"
    DISPATCHED = "Dispatched"
    ANSWERING = "Answering"
    ANSWERED = "ResponseSent"
    DONE = "Done"


class InvocationMove(_Member):
    """What may happen to an invocation. The values name what the peer asked for (RT-055)."""

    DELIVER = "Running"
    ANSWER_BEGINS = "InvocationResponse"
    ANSWER_ENDS = "InvocationResponseSent"
    ANSWER_REFUSED = "InvocationResponseRefused"  # 413, truncated, bad mode, oversize error: the platform's error
    ERROR = "InvocationErrorResponse"
    FAIL = "Failed"  # timeout, exit, shutdown
    RELEASE = "Done"


class Phase(_Member):
    """What the environment as a whole is doing."""

    CREATED = "Created"
    INIT_EXTENSIONS = "Init: extensions"
    INIT_RUNTIME = "Init: runtime"
    IDLE = "Idle"
    FROZEN = "Frozen"
    INVOKE = "Invoke"
    RESET = "Reset"
    SHUTDOWN = "Shutdown"
    CLOSED = "Closed"


class PhaseMove(_Member):
    """Why the phase changes."""

    START = "start or invoke"
    REGISTERED = "every external extension has registered"
    POLLED = "runtime and extensions have polled"
    WORK = "an invoke waits"
    NO_WORK = "nothing waits: SIGSTOP"
    THAW = "invoke: SIGCONT first"
    DONE = "answered, and everybody polled again"
    FATAL = "exit, init error, limit, deadline, memory"
    GONE = "all processes are dead"
    SHUTDOWN = "shutdown"


RUNTIME: Final[dict[Runtime, dict[RuntimeMove, Runtime]]] = {
    Runtime.ABSENT: {RuntimeMove.SPAWN: Runtime.STARTED},
    Runtime.STARTED: {
        RuntimeMove.NEXT: Runtime.READY,
        RuntimeMove.INIT_ERROR: Runtime.INIT_ERROR,
        RuntimeMove.NEXT_HELD: Runtime.STARTED,
        RuntimeMove.EXIT: Runtime.EXITED,
    },
    Runtime.READY: {
        RuntimeMove.NEXT: Runtime.READY,  # a second poll is parked behind the first
        RuntimeMove.NEXT_HELD: Runtime.READY,
        RuntimeMove.DELIVER: Runtime.RUNNING,
        RuntimeMove.EXIT: Runtime.EXITED,
    },
    Runtime.RUNNING: {
        RuntimeMove.NEXT: Runtime.READY,
        RuntimeMove.NEXT_AGAIN: Runtime.RUNNING,
        RuntimeMove.NEXT_HELD: Runtime.RUNNING,
        RuntimeMove.EXIT: Runtime.EXITED,
    },
    Runtime.INIT_ERROR: {RuntimeMove.EXIT: Runtime.EXITED},
    Runtime.EXITED: {},
}

_X, _XM = Extension, ExtensionMove
_ERROR_STATE_MOVES = (_XM.INIT_ERROR, _XM.EXIT_ERROR)  # EX-064: repeated reports are accepted, the first type is kept
EXTENSION: Final[dict[Extension, dict[ExtensionMove, Extension]]] = {
    _X.STARTED: {_XM.REGISTER: _X.REGISTERED, _XM.LAUNCH_FAILED: _X.LAUNCH_ERROR, _XM.EXIT: _X.EXITED},
    _X.REGISTERED: {
        _XM.NEXT: _X.READY,
        _XM.SUBSCRIBE: _X.REGISTERED,
        _XM.OWE_SHUTDOWN: _X.REGISTERED,
        _XM.INIT_ERROR: _X.INIT_ERROR,
        _XM.EXIT_ERROR: _X.EXIT_ERROR,
        _XM.EXIT: _X.EXITED,
    },
    _X.READY: {
        _XM.NEXT_REPLACES: _X.READY,
        _XM.SUBSCRIBE: _X.READY,
        _XM.DELIVER: _X.RUNNING,
        _XM.SHUTDOWN: _X.SHUTDOWN,
        _XM.OWE_SHUTDOWN: _X.READY,
        _XM.EXIT_ERROR: _X.EXIT_ERROR,
        _XM.EXIT: _X.EXITED,
    },
    _X.RUNNING: {
        _XM.NEXT: _X.READY,
        _XM.NEXT_AGAIN: _X.RUNNING,
        _XM.OWE_SHUTDOWN: _X.RUNNING,
        _XM.EXIT_ERROR: _X.EXIT_ERROR,
        _XM.EXIT: _X.EXITED,
    },
    _X.INIT_ERROR: {**dict.fromkeys(_ERROR_STATE_MOVES, _X.INIT_ERROR), _XM.EXIT: _X.EXITED},
    _X.EXIT_ERROR: {**dict.fromkeys(_ERROR_STATE_MOVES, _X.EXIT_ERROR), _XM.EXIT: _X.EXITED},
    _X.SHUTDOWN: {
        _XM.NEXT_HELD: _X.SHUTDOWN,  # EX-055
        _XM.SHUTDOWN: _X.SHUTDOWN,  # again: nobody was there to take it
        _XM.EXIT_ERROR: _X.EXIT_ERROR,
        _XM.EXIT: _X.EXITED,
        _XM.EXIT_FAILED: _X.SHUTDOWN_FAILED,
    },
    _X.EXITED: {},
    _X.SHUTDOWN_FAILED: {},
    _X.LAUNCH_ERROR: {},
}
EXTENSION_DEAD: Final = frozenset({_X.EXITED, _X.SHUTDOWN_FAILED, _X.LAUNCH_ERROR})

_I, _IM = Invocation, InvocationMove
INVOCATION: Final[dict[Invocation, dict[InvocationMove, Invocation]]] = {
    _I.PENDING: {_IM.DELIVER: _I.DISPATCHED, _IM.FAIL: _I.DONE},
    _I.DISPATCHED: {
        _IM.ANSWER_BEGINS: _I.ANSWERING,
        _IM.ANSWER_REFUSED: _I.ANSWERED,
        _IM.ERROR: _I.ANSWERED,
        _IM.FAIL: _I.DONE,
    },
    _I.ANSWERING: {_IM.ANSWER_ENDS: _I.ANSWERED, _IM.ANSWER_REFUSED: _I.ANSWERED, _IM.FAIL: _I.DONE},
    _I.ANSWERED: {_IM.FAIL: _I.DONE, _IM.RELEASE: _I.DONE},
    _I.DONE: {},
}

_P, _PM = Phase, PhaseMove
PHASE: Final[dict[Phase, dict[PhaseMove, Phase]]] = {
    _P.CREATED: {_PM.START: _P.INIT_EXTENSIONS, _PM.SHUTDOWN: _P.SHUTDOWN},
    _P.INIT_EXTENSIONS: {_PM.REGISTERED: _P.INIT_RUNTIME, _PM.FATAL: _P.RESET, _PM.SHUTDOWN: _P.SHUTDOWN},
    _P.INIT_RUNTIME: {_PM.POLLED: _P.IDLE, _PM.FATAL: _P.RESET, _PM.SHUTDOWN: _P.SHUTDOWN},
    _P.IDLE: {_PM.WORK: _P.INVOKE, _PM.NO_WORK: _P.FROZEN},
    _P.FROZEN: {_PM.THAW: _P.INVOKE, _PM.FATAL: _P.RESET, _PM.SHUTDOWN: _P.SHUTDOWN},
    _P.INVOKE: {_PM.DONE: _P.IDLE, _PM.FATAL: _P.RESET, _PM.SHUTDOWN: _P.SHUTDOWN},
    _P.RESET: {_PM.GONE: _P.CREATED, _PM.SHUTDOWN: _P.SHUTDOWN},
    _P.SHUTDOWN: {_PM.GONE: _P.CLOSED},
    _P.CLOSED: {},
}
