"""Gathers what is known about a failure from everywhere in an environment, for `diagnosis` to put into words."""

from __future__ import annotations

from typing import Any

from sandbox.core.events import RUNTIME
from sandbox.core.function import FunctionConfig
from sandbox.core.machine import Machine
from sandbox.host.environment.diagnosis import Party, Scene, explain
from sandbox.host.environment.ledger import Ledger
from sandbox.host.environment.processes import Processes
from sandbox.host.runtimes import Plan
from sandbox.wire.extensions_api import ExtensionsApi
from sandbox.wire.runtime_api import RuntimeApi


class Explainer:
    """Explains the failures of one environment; one that comes again, only in short."""

    def __init__(
        self,
        function: FunctionConfig,
        plan: Plan,
        ledger: Ledger,
        processes: Processes,
        api: RuntimeApi,
        extensions: ExtensionsApi,
    ) -> None:
        self._function = function
        self._plan = plan
        self._ledger = ledger
        self._processes = processes
        self._api = api
        self._extensions = extensions
        self._last: tuple[Any, ...] | None = None

    def explain(self, failure: dict[str, Any], machine: Machine, deliveries: int) -> str:
        """The text about a record sandbox.failure. deliveries: how often the event was given to the runtime."""
        what = (failure["errorType"], failure["message"], failure["who"], *failure["awaited"])
        if what == self._last and failure["phase"] == "init":
            whose = f"extension {what[2]}: " if what[2] not in (None, RUNTIME) else ""
            return f"sandbox: {what[0]} in Init, again: {whose}{what[1]}"
        self._last = what
        names = [failure["who"]] if failure["who"] is not None else failure["awaited"] or [RUNTIME]
        function, plan = self._function, self._plan
        return explain(
            Scene(
                failure["errorType"],
                failure["message"],
                failure["phase"],
                function,
                [self._party(name, machine) for name in names],
                deliveries,
                self._processes.memory.now,
                plan.managed,
                plan.wrapper,
                plan.source(plan.wrapper, function.code_name or function.code),
                [name for name in self._extensions.callers() if name not in plan.extensions],
                isolated=plan.site.room is not None,
            )
        )

    def _party(self, name: str, machine: Machine) -> Party:
        plan, lines = self._plan, self._ledger.last_lines(name)
        code = self._function.code_name or self._function.code
        if name == RUNTIME:
            program, command = self._processes.program, self._processes.command
            shown = str(plan.source(command, code) or "")
            return Party(name, machine.runtime.value, self._api.last_call, lines, program, plan.source(program, code), shown)
        agent, call = machine.extensions[name], self._extensions.last_call(name)
        state, reported = (agent.last_state or agent.state).value, call.reported if call is not None else None
        refusals = self._ledger.refusals(name)
        if not agent.external:
            shown = "internal: it lives in the runtime's process"
            return Party(name, state, call, lines, None, None, shown, reported, refusals)
        program = plan.site.real_path(plan.extension(name).file)
        source = plan.source(program, code)
        return Party(name, state, call, lines, program, source, f"/opt/extensions/{name}", reported, refusals)
