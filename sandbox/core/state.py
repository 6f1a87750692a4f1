"""What the machine keeps between two events, and the records it makes of it.

The tables say which moves exist; this holds what they cannot: who is parked, whose deadline it is, which error
came first.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final

from sandbox.core import errors
from sandbox.core.effects import Effect, Emit
from sandbox.core.errors import InvariantError
from sandbox.core.events import RUNTIME
from sandbox.core.limits import Limits
from sandbox.core.parties import (
    ExtensionAgent,
    Fatal,
    InvocationParty,
    milliseconds,
    refuse_extension,
    refuse_runtime,
    spans_of,
    step,
)
from sandbox.core.states import (
    EXTENSION,
    INVOCATION,
    PHASE,
    Extension,
    ExtensionMove,
    InvocationMove,
    Phase,
    PhaseMove,
    Runtime,
    RuntimeMove,
)
from sandbox.core.states import RUNTIME as RUNTIME_MOVES

INIT: Final = (Phase.INIT_EXTENSIONS, Phase.INIT_RUNTIME)
ENDING: Final = (Phase.SHUTDOWN, Phase.CLOSED)


class MachineState:
    """Feed events, perform effects. One instance is one execution environment.

    extensions: names of the external ones. initialization_type: EN-008. limits: seconds, see core.limits.
    """

    def __init__(
        self,
        extensions: tuple[str, ...] = (),
        *,
        limits: Limits | None = None,
        initialization_type: str = "on-demand",
    ) -> None:
        self.limits = limits or Limits()
        self.externals = extensions
        self.initialization_type = initialization_type
        self.phase = Phase.CREATED
        self.generation = 0
        self.runtime = Runtime.ABSENT
        self.polls: list[int] = []  # parked polls of the runtime, the longest parked first
        self.extensions: dict[str, ExtensionAgent] = {}
        self.waiting: deque[InvocationParty] = deque()
        self.invocations: dict[str, InvocationParty] = {}  # under way, by invocation id
        self.current: InvocationParty | None = None  # the one of them that there is on demand
        self.fatal: Fatal | None = None  # the first one: it is the root cause (LC-014)
        self.init_phase = "init"
        self.init_started = 0.0
        self.init_report_ms: float | None = None  # for the first REPORT after a cold Init (TL-075)
        self.suppressed = False  # Init has failed or was reset: the next one runs inside an invoke (LC-004)
        self.reason = "spindown"
        self.wind_down_at = 0.0
        self.window = 0.0
        self._runtime_reported = False  # initRuntimeDone of this generation is out
        self._extensions_told = False
        self._killed_all = False
        self.runtime_ended: float | None = None
        self._out: list[Effect] = []

    # ── small verbs ──

    def _to(self, move: PhaseMove) -> None:
        try:
            self.phase = PHASE[self.phase][move]
        except KeyError:
            raise InvariantError(f"phase {self.phase.value}: no move {move.name}") from None

    def _runtime_moves(self, move: RuntimeMove) -> None:
        self.runtime = step(RUNTIME_MOVES, self.runtime, move, refuse_runtime)

    def _extension_moves(self, agent: ExtensionAgent, move: ExtensionMove) -> None:
        agent.state = step(EXTENSION, agent.state, move, refuse_extension, agent.name)

    def _invocation_moves(self, invocation: InvocationParty, move: InvocationMove) -> None:
        invocation.state = step(INVOCATION, invocation.state, move, refuse_runtime)

    def _emit(self, type_: str, at: float, record: dict[str, Any], invocation_id: str | None = None) -> None:
        self._out.append(Emit(type_, at, record, invocation_id))

    def _start_invocation(self, now: float) -> InvocationParty:
        invocation = self.waiting.popleft()
        self.invocations[invocation.id] = self.current = invocation
        self._invocation_moves(invocation, InvocationMove.DELIVER)
        invocation.dispatched = now
        if invocation.started is None:
            invocation.started = now
            invocation.deadline = now + invocation.timeout
        self._out.append(Emit("platform.start", now, {"requestId": invocation.request_id}, invocation.id))
        return invocation

    def _forget_invocation(self, invocation: InvocationParty) -> None:
        del self.invocations[invocation.id]
        self.current = None

    # ── records ──

    def _init_record(self, **more: Any) -> dict[str, Any]:
        return {"initializationType": self.initialization_type, "phase": self.init_phase, **more}

    def _report_runtime_init(self, now: float, status: str) -> None:
        if not self._runtime_reported:
            self._runtime_reported = True
            record = self._with_error(self._init_record(status=status), status)
            if status == "timeout":
                record["errorType"] = errors.UNKNOWN  # TL-089
            self._emit("platform.initRuntimeDone", now, record)

    def _report_init(self, now: float, status: str) -> None:
        self._report_runtime_init(now, status)
        for agent in self.extensions.values():
            self._emit("platform.extension", now, agent.record())
        metrics = {"durationMs": milliseconds(now - self.init_started)}
        record = self._with_error(self._init_record(status=status), status)
        self._emit("platform.initReport", now, {**record, "metrics": metrics})

    def _with_error(self, record: dict[str, Any], status: str) -> dict[str, Any]:
        if status in ("error", "failure") and self.fatal is not None:
            record["errorType"] = self.fatal.error_type
        return record

    def _emit_runtime_done(self, invocation: InvocationParty, now: float, status: str, error_type: str | None = None) -> None:
        record: dict[str, Any] = {"requestId": invocation.request_id, "status": status}
        if error_type is not None and status != "timeout":  # TL-071
            record["errorType"] = error_type
        record["metrics"] = {
            "durationMs": milliseconds(now - (invocation.dispatched or now)),
            "producedBytes": invocation.size,
        }
        record["spans"] = spans_of(invocation, now)
        self._out.append(Emit("platform.runtimeDone", now, record, invocation.id))

    def _awaits_extensions(self) -> bool:
        return any("INVOKE" in agent.events for agent in self.extensions.values())

    def _awaited(self) -> list[str]:
        """Who has not done yet what this phase waits for: the ones to look at when it takes too long."""
        if self.phase is Phase.INIT_EXTENSIONS:
            return [agent.name for agent in self.extensions.values() if agent.state is Extension.STARTED]
        state = Extension.REGISTERED if self.phase is Phase.INIT_RUNTIME else Extension.RUNNING
        runtime = [RUNTIME] if self.runtime in (Runtime.STARTED, Runtime.RUNNING) else []
        return runtime + [agent.name for agent in self.extensions.values() if agent.state is state]

    def _emit_failure(self, fatal: Fatal, phase: str, now: float) -> None:
        """For people: what the platform has ended, and who was awaited then. Not an event of the Telemetry API."""
        record: dict[str, Any] = {"errorType": fatal.error_type, "message": fatal.message, "phase": phase}
        record |= {"who": fatal.who, "awaited": self._awaited(), "reported": fatal.reported}
        if self.current is not None:
            record["requestId"] = self.current.request_id
        self._emit("sandbox.failure", now, record)

    def _emit_costs(self, invocation: InvocationParty, now: float) -> None:
        """What each extension took of this invoke, and who of them polled last."""
        costs = [agent.cost(invocation, now) for agent in self.extensions.values()]
        for cost, agent in zip(costs, self.extensions.values(), strict=True):
            cost["initMs"] = agent.init_ms
        last = max(costs, key=lambda cost: cost.get("afterRuntimeMs") or 0.0)
        record: dict[str, Any] = {"requestId": invocation.request_id, "extensions": costs}
        if held := last.get("afterRuntimeMs"):
            record |= {"heldOpenBy": last["name"], "heldOpenMs": held}
        self._emit("sandbox.extensions", now, record)

    def _emit_wind_down(self, now: float) -> None:
        began = self.wind_down_at
        runtime = milliseconds(max(0.0, self.runtime_ended - began)) if self.runtime_ended is not None else None
        record: dict[str, Any] = {
            "phase": self.phase.value,
            "reason": self.reason,
            "windowMs": milliseconds(self.window),
            "runtimeMs": runtime,
        }
        record["durationMs"] = milliseconds(now - began)
        record["extensions"] = [agent.farewell(now, began) for agent in self.extensions.values() if agent.external]
        self._emit("sandbox.windDown", now, record)

    def _emit_report(self, invocation: InvocationParty, now: float, status: str, error_type: str | None = None) -> None:
        if self.extensions:
            self._emit_costs(invocation, now)
        duration = now - (invocation.started if invocation.started is not None else now)
        metrics: dict[str, Any] = {"durationMs": milliseconds(duration), "billedDurationMs": 0}
        billed = duration * 1000
        if self.init_report_ms is not None:
            metrics["initDurationMs"] = self.init_report_ms
            billed += self.init_report_ms  # BL-004
            self.init_report_ms = None
        metrics["billedDurationMs"] = math.ceil(round(billed, 3))  # BL-001
        record: dict[str, Any] = {"requestId": invocation.request_id, "status": status, "metrics": metrics}
        if error_type is not None and status != "timeout":
            record["errorType"] = error_type
        if self.extensions and invocation.runtime_done is not None and self._awaits_extensions():
            start = invocation.runtime_done
            record["spans"] = [("extensionOverhead", start, now)]  # TL-074
        self._out.append(Emit("platform.report", now, record, invocation.id))
