"""How a generation ends: exits, limits, memory, failures; and the one wind-down of Reset and Shutdown.

Rows LC-070 to LC-114.
"""

from __future__ import annotations

from sandbox.core import errors
from sandbox.core.effects import EVERYONE, Closed, DeliverShutdown, Failed, SetTimer, Signal
from sandbox.core.events import RUNTIME, Exited, Gone, MemoryExceeded, Shutdown, SpawnFailed, Timer
from sandbox.core.parties import ExtensionAgent, Fatal
from sandbox.core.state import ENDING, INIT, MachineState
from sandbox.core.states import (
    EXTENSION,
    EXTENSION_DEAD,
    PHASE,
    Extension,
    ExtensionMove,
    Invocation,
    InvocationMove,
    Phase,
    PhaseMove,
    Runtime,
    RuntimeMove,
)


class Ending(MachineState):
    """The moves that lead to Reset and Shutdown, and out of them."""

    # ── processes, memory, time ──

    def _on_spawn_failed(self, event: SpawnFailed, now: float) -> None:
        if event.generation != self.generation:
            return
        if event.who == RUNTIME:
            self._runtime_moves(RuntimeMove.EXIT)
        else:
            agent = self.extensions[event.who]
            self._extension_moves(agent, ExtensionMove.LAUNCH_FAILED)
            agent.error_type, agent.ended, agent.exit = event.error_type, now, event.message
            self._after_death(now, Fatal(errors.EXTENSION_LAUNCH, event.message, who=event.who))  # EX-007
            return
        self.runtime_ended = now
        self._after_death(now, Fatal(event.error_type, event.message, who=RUNTIME))

    def _on_exited(self, event: Exited, now: float) -> None:
        if event.generation != self.generation:
            return  # a ghost of an earlier generation
        if event.who == RUNTIME:
            if self.runtime in (Runtime.ABSENT, Runtime.EXITED):
                return
            self._runtime_moves(RuntimeMove.EXIT)
            self.runtime_ended = now
            self.polls.clear()
            for agent in self.extensions.values():
                if not agent.external and agent.alive:
                    agent.last_state = agent.state
                    self._extension_moves(agent, ExtensionMove.EXIT)  # they lived in that process
            self._after_death(now, Fatal(errors.EXIT_ERROR, errors.exit_message(event.code, event.signal), who=RUNTIME))
            return
        ended = self.extensions.get(event.who)
        if ended is None or not ended.alive:
            return
        ended.last_state = ended.state
        clean = event.code == 0 or ended.state is not Extension.SHUTDOWN  # EX-087
        self._extension_moves(ended, ExtensionMove.EXIT if clean else ExtensionMove.EXIT_FAILED)
        ended.poll, ended.ended = None, now
        ended.exit = errors.status_words(event.code, event.signal)
        if self.fatal is not None and self.fatal.who == ended.name:
            self.fatal = self.fatal._replace(message=ended.exit)  # it had reported an error, and now it has gone
        self._after_death(now, Fatal(errors.EXTENSION_CRASH, ended.exit, who=ended.name))  # EX-080: even with status 0

    def _after_death(self, now: float, fatal: Fatal) -> None:
        if self.phase in (Phase.RESET, Phase.SHUTDOWN):
            self._wind_down_goes_on(now)  # LC-082: no new error
        elif self.phase is not Phase.CLOSED:
            self._fatal(now, fatal)

    def _on_memory_exceeded(self, event: MemoryExceeded, now: float) -> None:
        if event.generation != self.generation or self.phase is Phase.CLOSED:
            return
        if self.phase in (Phase.RESET, Phase.SHUTDOWN):
            self._kill_everyone()
            return
        self._out.append(Signal(RUNTIME, "KILL"))  # it must not go on growing while extensions are wound down
        self._fatal(now, Fatal(errors.OUT_OF_MEMORY, errors.exit_message(None, 9)))

    def _on_timer(self, event: Timer, now: float) -> None:
        if event.generation != self.generation:
            return
        if event.token == "invoke":
            current = self.current
            if current is not None and current.id == event.key and self.phase is Phase.INVOKE:
                self._fatal(now, Fatal(errors.TIMED_OUT, errors.timeout_message(current.timeout), status="timeout"))
        elif event.token == "init":
            if self.phase in INIT:
                self._init_timed_out(now)
        elif event.token == "reported-error":
            if self.fatal is not None and PhaseMove.FATAL in PHASE[self.phase]:
                self._fatal(now, self.fatal)
        elif event.token == "runtime-share":
            if self.phase in (Phase.RESET, Phase.SHUTDOWN):
                self._tell_extensions(now)
        elif event.token == "window" and self.phase in (Phase.RESET, Phase.SHUTDOWN):
            self._kill_everyone()

    def _init_timed_out(self, now: float) -> None:
        if self.init_phase == "invoke":
            text = errors.timeout_message(self.waiting[0].timeout)
            self._fatal(now, Fatal(errors.TIMED_OUT, text, status="timeout"))
        else:
            self._fatal(now, Fatal(errors.UNKNOWN, "Init did not end within its limit", status="timeout"))

    # ── failure ──

    def _fatal(self, now: float, fatal: Fatal) -> None:
        """Something died or overran. In Init: Init comes again inside an invoke. In Invoke: that fails. Then Reset."""
        if self.phase in (Phase.RESET, *ENDING):
            return
        fatal = self.fatal = self.fatal or fatal
        if self.phase in INIT:
            self._report_init(now, fatal.status)
            self._emit_failure(fatal, "init", now)
            if self.init_phase == "invoke" and self.waiting:
                self._start_invocation(now)  # TL-088: its start is told even so
                self._fail_current(now, fatal, "init")
        elif self.invocations:
            self._emit_failure(fatal, "invoke", now)
            self._fail_current(now, fatal, "invoke")
        if self.phase is Phase.FROZEN:
            self._emit_failure(fatal, "frozen", now)
            self._out.append(Signal(EVERYONE, "CONT"))
        self.suppressed = True
        self._to(PhaseMove.FATAL)
        self._wind_down(now, "timeout" if fatal.status == "timeout" else "failure")

    def _fail_current(self, now: float, fatal: Fatal, phase: str) -> None:
        current = self.current
        if current is None:
            return
        answered = current.state is Invocation.ANSWERED
        runtime_told = current.runtime_done is not None
        self._invocation_moves(current, InvocationMove.FAIL)
        if not answered:
            self._out.append(Failed(current.id, fatal.status, fatal.error_type, fatal.message, phase, fatal.reported))
        if not runtime_told:
            self._emit_runtime_done(current, now, fatal.status, fatal.error_type)
        self._emit_report(current, now, fatal.status, fatal.error_type)
        self._forget_invocation(current)

    def _shut_down(self, invocation_id: str) -> Failed:
        text = "the execution environment was shut down"
        return Failed(invocation_id, "failure", errors.SANDBOX_FAILURE, text, "invoke")

    def _on_shutdown(self, event: Shutdown, now: float) -> None:
        if self.phase in ENDING:
            return
        if self.invocations:
            ended = Fatal(errors.SANDBOX_FAILURE, "the execution environment was shut down", status="failure")
            self._emit_failure(ended, "invoke", now)
            self._fail_current(now, ended, "invoke")
        while self.waiting:
            pending = self.waiting.popleft()
            self._out.append(self._shut_down(pending.id))
        was = self.phase
        if was is Phase.FROZEN:
            self._out.append(Signal(EVERYONE, "CONT"))
        self._to(PhaseMove.SHUTDOWN)
        if was is not Phase.RESET:  # there, only the destination changes
            self._wind_down(now, event.reason)

    def _wind_down(self, now: float, reason: str) -> None:
        """The one way in which processes are ended: LC-101 to LC-109."""
        self.reason = reason
        self.wind_down_at = now
        self._extensions_told = self._killed_all = False
        self.window = 0.0
        registered = [agent for agent in self.extensions.values() if agent.registered]
        if not registered:
            self._kill_everyone()  # LC-101: nobody to be graceful for, and no SIGTERM
            return
        external = any(agent.external for agent in registered)
        self.window = self.limits.shutdown_external if external else self.limits.shutdown_internal
        self._out.append(SetTimer("window", "", now + self.window, self.generation))
        if self.runtime not in (Runtime.ABSENT, Runtime.EXITED):
            self._out.append(Signal(RUNTIME, "TERM"))
            if external:
                share = now + min(self.limits.runtime_share, self.window)
                self._out.append(SetTimer("runtime-share", "", share, self.generation))
        self._wind_down_goes_on(now)

    def _wind_down_goes_on(self, now: float) -> None:
        if self._killed_all or self.runtime not in (Runtime.ABSENT, Runtime.EXITED):
            return
        self._tell_extensions(now)
        if not any(agent.alive and agent.external for agent in self.extensions.values()):
            self._kill_everyone()  # what they left behind

    def _tell_extensions(self, now: float) -> None:
        """The runtime's share is over: SHUTDOWN to those that asked for it, SIGKILL to the others (EX-083, EX-085)."""
        if self._extensions_told or self._killed_all:
            return
        self._extensions_told = True
        if self.runtime not in (Runtime.ABSENT, Runtime.EXITED):
            self._out.append(Signal(RUNTIME, "KILL"))
        for agent in self.extensions.values():
            if not agent.external or not agent.alive:
                continue
            if "SHUTDOWN" not in agent.events:
                self._out.append(Signal(agent.name, "KILL"))
            elif agent.state is Extension.READY and agent.poll is not None:
                self._give_shutdown(agent)
            elif ExtensionMove.OWE_SHUTDOWN in EXTENSION[agent.state]:
                self._extension_moves(agent, ExtensionMove.OWE_SHUTDOWN)
                agent.owed_shutdown = True

    def _give_shutdown(self, agent: ExtensionAgent) -> None:
        self._extension_moves(agent, ExtensionMove.SHUTDOWN)
        agent.owed_shutdown, agent.told = False, True
        conn, agent.poll = agent.poll, None
        if conn is not None:
            agent.delivered_on = conn
            self._out.append(DeliverShutdown(conn, agent.name, self.reason, self.wind_down_at + self.window))

    def _kill_everyone(self) -> None:
        if not self._killed_all:
            self._killed_all = True
            self._out.append(Signal(EVERYONE, "KILL"))

    def _on_gone(self, event: Gone, now: float) -> None:
        if event.generation != self.generation or not self._killed_all:
            return
        if self.phase is Phase.SHUTDOWN:
            self._all_ended(now)
            self._to(PhaseMove.GONE)
            self._out.append(Closed())
        elif self.phase is Phase.RESET:
            self._all_ended(now)
            self.extensions = {}
            self._to(PhaseMove.GONE)
            if self.waiting:
                self._begin_init(now)

    def _all_ended(self, now: float) -> None:
        self._everybody_exited()
        if self.extensions:
            self._emit_wind_down(now)

    def _everybody_exited(self) -> None:
        """Gone overtakes an exit that nobody reported (LC-114: the wait for it is bounded)."""
        if self.runtime not in (Runtime.ABSENT, Runtime.EXITED):
            self._runtime_moves(RuntimeMove.EXIT)
        self.polls.clear()
        for agent in self.extensions.values():
            if agent.state not in EXTENSION_DEAD:
                self._extension_moves(agent, ExtensionMove.EXIT)

    # ── what follows a Reset ──

    def _begin_init(self, now: float) -> None:
        raise NotImplementedError
