"""The machine of one execution environment: `handle(event, now) -> effects`.

It looks every move up in `states.py`. It never blocks, never performs, never reads a clock. This file: Init, Invoke,
answers; `extending.py` what extensions do; `ending.py` all that ends in Reset or Shutdown; `state.py` what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.core import errors
from sandbox.core.effects import (
    EVERYONE,
    Accept,
    Answered,
    Begun,
    Deliver,
    DeliverInvoke,
    Effect,
    Failed,
    Refuse,
    SetTimer,
    Signal,
    Spawn,
)
from sandbox.core.errors import InvariantError, Refused
from sandbox.core.events import (
    RUNTIME,
    Answer,
    AnswerBegins,
    AnswerEnds,
    AnswerRefused,
    ClientGone,
    Event,
    Exited,
    ExtensionError,
    Gone,
    InitError,
    Invoke,
    MemoryExceeded,
    Next,
    Register,
    Shutdown,
    SpawnFailed,
    Start,
    Subscribe,
    Timer,
)
from sandbox.core.extending import Extending
from sandbox.core.limits import EXTENSIONS, Limits
from sandbox.core.parties import ExtensionAgent, Fatal, InvocationParty, milliseconds
from sandbox.core.state import ENDING
from sandbox.core.states import (
    Extension,
    ExtensionMove,
    Invocation,
    InvocationMove,
    Phase,
    PhaseMove,
    Runtime,
    RuntimeMove,
)


class Machine(Extending):
    """Feed events, perform effects. One instance is one execution environment."""

    def __init__(
        self, extensions: tuple[str, ...] = (), *, limits: Limits | None = None, initialization_type: str = "on-demand"
    ) -> None:
        super().__init__(extensions, limits=limits, initialization_type=initialization_type)
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            Start: self._on_start,
            Invoke: self._on_invoke,
            Next: self._on_next,
            ClientGone: self._on_client_gone,
            Register: self._on_register,
            Subscribe: self._on_subscribe,
            AnswerBegins: self._on_answer_begins,
            AnswerEnds: self._on_answer_ends,
            Answer: self._on_answer,
            AnswerRefused: self._on_answer_refused,
            InitError: self._on_init_error,
            ExtensionError: self._on_extension_error,
            SpawnFailed: self._on_spawn_failed,
            Exited: self._on_exited,
            MemoryExceeded: self._on_memory_exceeded,
            Gone: self._on_gone,
            Timer: self._on_timer,
            Shutdown: self._on_shutdown,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """One step. A refused move is answered to the peer that asked for it; nothing else has changed then."""
        out: list[Effect] = []
        self._out = out
        try:
            self._handlers[type(event)](event, now)
        except Refused as refused:
            conn = getattr(event, "conn", None)
            if conn is None:
                raise InvariantError(f"{event}: {refused}") from refused
            out.append(Refuse(conn, refused.status, refused.error_type, refused.message))
        return out

    # ── what the shell may ask ──

    @property
    def free(self) -> bool:
        """An invoke given now is not queued behind another one."""
        return not self.waiting and not self.invocations and self.phase not in ENDING

    @property
    def about_to_be_free(self) -> bool:
        """Answered, and only the runtime's next poll is missing (DECISIONS "invoke that finds no idle environment")."""
        return (
            self.current is not None
            and self.current.state is Invocation.ANSWERED
            and self.phase is Phase.INVOKE
            and not self.waiting
            and not (self.extensions and self._awaits_extensions())
        )

    # ── Init ──

    def _on_start(self, event: Start, now: float) -> None:
        if self.phase is Phase.CREATED:
            self._begin_init(now)

    def _begin_init(self, now: float) -> None:
        self._to(PhaseMove.START)
        self.generation += 1
        self.runtime = Runtime.ABSENT
        self.polls = []
        self.fatal = None
        self.runtime_ended = None
        self.init_started = now
        self.init_report_ms = None
        self._runtime_reported = False
        self.extensions = {name: ExtensionAgent(name, external=True, started=now) for name in self.externals}
        deadline = now + self.limits.init
        self.init_phase = "init"
        if self.suppressed and self.waiting:
            self.init_phase = "invoke"
            waiting = self.waiting[0]
            waiting.started = now  # LC-007: this Init and the invoke share the function's timeout …
            waiting.deadline = deadline = now + waiting.timeout  # … and its duration is the invocation's (BL-005)
        self._emit("platform.initStart", now, self._init_record())
        if len(self.externals) > EXTENSIONS:
            self._refuse_extensions(now)
            return
        for name in self.externals:
            self._out.append(Spawn(name, self.generation))
        self._out.append(SetTimer("init", "", deadline, self.generation))
        self._maybe_start_runtime()

    def _refuse_extensions(self, now: float) -> None:
        """EX-010: more files in /opt/extensions than there may be extensions."""
        for name in self.externals[:EXTENSIONS]:
            del self.extensions[name]  # they are not started either
        for agent in self.extensions.values():
            self._extension_moves(agent, ExtensionMove.LAUNCH_FAILED)
            agent.error_type, agent.ended, agent.exit = "TooManyExtensions", now, "ErrTooManyExtensions"
        self._fatal(now, Fatal(errors.EXTENSION_LAUNCH, "ErrTooManyExtensions", who=self.externals[EXTENSIONS]))

    def _maybe_start_runtime(self) -> None:
        if self.phase is not Phase.INIT_EXTENSIONS or self.fatal is not None:
            return
        if all(a.state is not Extension.STARTED for a in self.extensions.values() if a.external):
            self._to(PhaseMove.REGISTERED)
            self._runtime_moves(RuntimeMove.SPAWN)
            self._out.append(Spawn(RUNTIME, self.generation))

    def _maybe_initialised(self, now: float) -> None:
        if self.phase is not Phase.INIT_RUNTIME or self.runtime is not Runtime.READY or self.fatal is not None:
            return
        if any(agent.state is Extension.REGISTERED for agent in self.extensions.values()):
            return
        self._report_init(now, "success")
        if self.init_phase == "init":
            self.init_report_ms = milliseconds(now - self.init_started)
        self.suppressed = False
        self._to(PhaseMove.POLLED)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Idle takes no time: either there is work, or everything is stopped."""
        if self.waiting:
            self._to(PhaseMove.WORK)
            self._dispatch(now)
        else:
            self._to(PhaseMove.NO_WORK)
            self._out.append(Signal(EVERYONE, "STOP"))

    # ── Invoke ──

    def _on_invoke(self, event: Invoke, now: float) -> None:
        if self.phase in ENDING:
            self._out.append(self._shut_down(event.invocation_id))
            return
        if self.waiting or (self.current is not None and self.current.state is not Invocation.ANSWERED):
            raise InvariantError(f"invocation {event.invocation_id} was given to an environment that is busy")
        self.waiting.append(InvocationParty(event.invocation_id, event.request_id, event.timeout))
        if self.phase is Phase.FROZEN:
            self._out.append(Signal(EVERYONE, "CONT"))  # LC-053: thaw first, then deliver
            self._to(PhaseMove.THAW)
            self._dispatch(now)
        elif self.phase is Phase.CREATED:
            self._begin_init(now)
        # else: an Init, an Invoke that is answered, or a Reset ends soon and takes it up

    def _dispatch(self, now: float) -> None:
        invocation = self._start_invocation(now)
        self._out.append(SetTimer("invoke", invocation.id, invocation.deadline, self.generation))
        for agent in self.extensions.values():
            if "INVOKE" in agent.events and agent.state is Extension.READY:
                self._extension_moves(agent, ExtensionMove.DELIVER)
                agent.invocation = invocation.id
                self._give_invoke(agent)
        self._runtime_moves(RuntimeMove.DELIVER)
        self._deliver_to_parked(invocation)

    def _give_invoke(self, agent: ExtensionAgent) -> None:
        if agent.poll is not None and agent.invocation is not None:
            conn, agent.poll = agent.poll, None
            self._out.append(DeliverInvoke(conn, agent.name, agent.invocation))
            agent.delivered_on = conn

    def _deliver_to_parked(self, invocation: InvocationParty) -> None:
        if self.polls:
            invocation.delivered_on = self.polls.pop(0)
            self._out.append(Deliver(invocation.delivered_on, invocation.id))

    def _on_next(self, event: Next, now: float) -> None:
        if event.who != RUNTIME:
            self._extension_next(event, now)
            return
        if self.phase in (Phase.RESET, *ENDING):
            self._runtime_moves(RuntimeMove.NEXT_HELD)  # it waits to be killed
            self.polls.append(event.conn)
            return
        if self.runtime is Runtime.RUNNING:
            current = self.current
            if current is not None and current.state is Invocation.DISPATCHED:
                self._runtime_moves(RuntimeMove.NEXT_AGAIN)  # RT-034
                current.delivered_on = event.conn
                self._out.append(Deliver(event.conn, current.id))
                return
            if current is not None and current.state is Invocation.ANSWERING:
                self._runtime_moves(RuntimeMove.NEXT_HELD)
                self.polls.append(event.conn)
                return
            self.polls.append(event.conn)
            self._runtime_done(now)
            return
        first = self.runtime is Runtime.STARTED
        self._runtime_moves(RuntimeMove.NEXT)
        self.polls.append(event.conn)
        if first:
            self._report_runtime_init(now, "success")
            self._maybe_initialised(now)

    def _on_client_gone(self, event: ClientGone, now: float) -> None:
        if event.conn in self.polls:
            self.polls.remove(event.conn)
            return
        current = self.current
        if current is not None and current.delivered_on == event.conn and current.state is Invocation.DISPATCHED:
            current.delivered_on = None  # the event never arrived there: the next live poll gets it (RT-039)
            self._deliver_to_parked(current)
            return
        for agent in self.extensions.values():
            if agent.poll == event.conn:
                agent.poll = None
            elif agent.delivered_on == event.conn and agent.state in (Extension.RUNNING, Extension.SHUTDOWN):
                agent.delivered_on = None
                agent.owed_shutdown = agent.owed_shutdown or agent.state is Extension.SHUTDOWN

    def _runtime_done(self, now: float) -> None:
        """The runtime has answered and polled again: its part of the Invoke is over."""
        self._runtime_moves(RuntimeMove.NEXT)
        current = self.current
        if current is not None:
            current.runtime_done = now
            self._emit_runtime_done(current, now, "success")
        self._maybe_done(now)

    def _maybe_done(self, now: float) -> None:
        if self.phase is not Phase.INVOKE or self.runtime is not Runtime.READY or self.fatal is not None:
            return
        if self.extensions and any(agent.state is Extension.RUNNING for agent in self.extensions.values()):
            return
        current = self.current
        if current is None:
            return
        self._invocation_moves(current, InvocationMove.RELEASE)
        self._emit_report(current, now, "success")
        self._forget_invocation(current)
        self._to(PhaseMove.DONE)
        self._settle(now)

    # ── answers ──

    def _find(self, request_id: str, invocation_id: str | None) -> InvocationParty:
        """The invocation that an answer names; ids are looked at before any state (DECISIONS, RT-008)."""
        if self.phase not in (Phase.RESET, *ENDING):
            for invocation in self.invocations.values():
                if invocation.request_id == request_id:
                    if invocation_id is not None and invocation_id != invocation.id:
                        raise Refused(400, "InvalidInvocationId", "Invalid invocation ID")  # RT-061
                    return invocation
        raise Refused(400, "InvalidRequestID", "Invalid request ID")  # RT-053, RT-056

    def _on_answer_begins(self, event: AnswerBegins, now: float) -> None:
        invocation = self._find(event.request_id, event.invocation_id)
        self._begin_answer(invocation, event.conn, now)

    def _begin_answer(self, invocation: InvocationParty, conn: int, now: float) -> None:
        self._invocation_moves(invocation, InvocationMove.ANSWER_BEGINS)
        invocation.answering_on = conn
        invocation.answer_began = now
        self._out.append(Begun(invocation.id, conn))

    def _answering_on(self, conn: int) -> InvocationParty | None:
        for invocation in self.invocations.values():
            if invocation.answering_on == conn:
                return invocation
        return None

    def _on_answer_ends(self, event: AnswerEnds, now: float) -> None:
        invocation = self._answering_on(event.conn)
        if invocation is None or invocation.state is not Invocation.ANSWERING:
            raise Refused(400, "InvalidRequestID", "Invalid request ID")  # it timed out, or was reset, while its body came
        self._finish_answer(invocation, event.conn, event.size, event.error, now)

    def _finish_answer(self, invocation: InvocationParty, conn: int, size: int, error: bool, now: float) -> None:
        self._invocation_moves(invocation, InvocationMove.ANSWER_ENDS)
        self._answered(invocation, size, now)
        self._out.append(Answered(invocation.id, conn, error))
        self._out.append(Accept(conn))
        self._resume_held(now)

    def _answered(self, invocation: InvocationParty, size: int, now: float) -> None:
        invocation.answering_on = None
        invocation.answered = now
        invocation.size = size

    def _resume_held(self, now: float) -> None:
        """A poll that was held while the answer was under way now counts."""
        if self.polls and self.runtime is Runtime.RUNNING:
            self._runtime_done(now)

    def _on_answer(self, event: Answer, now: float) -> None:
        invocation = self._find(event.request_id, event.invocation_id)
        if event.error:
            self._invocation_moves(invocation, InvocationMove.ERROR)
        else:
            self._invocation_moves(invocation, InvocationMove.ANSWER_BEGINS)
            self._invocation_moves(invocation, InvocationMove.ANSWER_ENDS)
        invocation.answer_began = now
        self._answered(invocation, event.size, now)
        self._out.append(Answered(invocation.id, event.conn, event.error))
        self._out.append(Accept(event.conn))
        self._resume_held(now)

    def _on_answer_refused(self, event: AnswerRefused, now: float) -> None:
        invocation = self._answering_on(event.conn) or self._find(event.request_id, event.invocation_id)
        if invocation.answering_on not in (None, event.conn):
            self._invocation_moves(invocation, InvocationMove.ANSWER_BEGINS)  # a second answer: refused, whatever it is
        self._invocation_moves(invocation, InvocationMove.ANSWER_REFUSED)
        self._answered(invocation, 0, now)
        self._emit_failure(Fatal(event.error_type, event.message), "invoke", now)
        self._out.append(Refuse(event.conn, event.status, event.refusal_type, event.refusal))
        self._out.append(Failed(invocation.id, "error", event.error_type, event.message, "invoke"))
        self._resume_held(now)

    def _on_init_error(self, event: InitError, now: float) -> None:
        self._runtime_moves(RuntimeMove.INIT_ERROR)
        self._out.append(Accept(event.conn))
        if self.fatal is None:
            self.fatal = Fatal(event.error_type, "the runtime reported an error of its Init", reported=True, who=RUNTIME)
        # It must exit now (RT-101). What it still prints belongs to this Init; one that stays is killed.
        self._out.append(SetTimer("reported-error", "", now + self.limits.init_error_grace, self.generation))
