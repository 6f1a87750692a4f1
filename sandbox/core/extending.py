"""The Extensions API's side of the machine: register, poll, report an error (EX-020 to EX-069)."""

from __future__ import annotations

from sandbox.core import errors
from sandbox.core.effects import Accept, SetTimer
from sandbox.core.ending import Ending
from sandbox.core.errors import Refused
from sandbox.core.events import ExtensionError, Next, Register, Subscribe
from sandbox.core.limits import EXTENSIONS
from sandbox.core.parties import ExtensionAgent, Fatal
from sandbox.core.state import ENDING, INIT
from sandbox.core.states import Extension, ExtensionMove, Phase, Runtime


class Extending(Ending):
    """The moves of extensions."""

    def _agent(self, name: str) -> ExtensionAgent:
        try:
            return self.extensions[name]
        except KeyError:
            raise Refused(403, "Extension.UnknownExtensionIdentifier", "Unknown extension") from None

    def _on_register(self, event: Register, now: float) -> None:
        agent = self.extensions.get(event.name)
        if agent is None or not agent.external:
            self._check_internal(event)
            agent = self.extensions[event.name] = ExtensionAgent(event.name, external=False, started=now)
        self._extension_moves(agent, ExtensionMove.REGISTER)
        agent.events = event.events
        agent.registered = True
        self._out.append(Accept(event.conn))
        self._maybe_start_runtime()

    def _check_internal(self, event: Register) -> None:
        """A name that no launched file has (EX-009, EX-027)."""
        if "SHUTDOWN" in event.events:  # EX-026
            text = "SHUTDOWN: ShutdownEventNotSupportedForInternalExtension"
            raise Refused(403, "Extension.InvalidEventType", text)
        if self.phase not in INIT or self.runtime not in (Runtime.ABSENT, Runtime.STARTED):
            raise Refused(403, "Extension.RegistrationClosed", "Extension registration closed already")  # EX-030
        if len(self.extensions) >= EXTENSIONS:  # EX-010
            raise Refused(403, "Extension.TooManyExtensions", f"Extension limit ({EXTENSIONS}) reached")
        if event.name in self.extensions:
            raise Refused(403, errors.EXTENSION_STATE, "Extension with this name already registered")  # EX-029

    def _on_subscribe(self, event: Subscribe, now: float) -> None:
        agent = self._agent(event.name)
        if self.phase not in INIT:  # TL-013, TL-014
            raise Refused(403, f"{event.api}.SubscriptionClosed", f"{event.api} API subscription is closed already")
        self._extension_moves(agent, ExtensionMove.SUBSCRIBE)
        if agent.api not in (None, event.api):  # TL-016
            text = f"The extension {agent.name} is already subscribed to the {agent.api}API. "
            text += "You must either subscribe to the LogsAPI or the TelemetryAPI"
            raise Refused(400, f"{event.api}.AccessDenied", text)
        agent.api = event.api
        self._out.append(Accept(event.conn))

    def _extension_next(self, event: Next, now: float) -> None:
        agent = self._agent(event.who)
        if agent.state is Extension.READY and agent.poll is None:
            self._extension_moves(agent, ExtensionMove.NEXT_REPLACES)
        elif agent.state is Extension.RUNNING and agent.delivered_on is None and self.phase is Phase.INVOKE:
            self._extension_moves(agent, ExtensionMove.NEXT_AGAIN)  # nobody was there to take the event
            agent.poll = event.conn
            self._give_invoke(agent)
            return
        elif agent.state is Extension.SHUTDOWN:
            self._extension_moves(agent, ExtensionMove.NEXT_HELD)
        else:
            first = agent.state is Extension.REGISTERED
            self._extension_moves(agent, ExtensionMove.NEXT)
            agent.poll, agent.delivered_on, agent.polled = event.conn, None, now
            if first:
                agent.ready = now
            if agent.owed_shutdown:
                self._give_shutdown(agent)
            elif first:
                self._maybe_initialised(now)
            else:
                self._maybe_done(now)
            return
        agent.poll = event.conn
        if agent.owed_shutdown:
            self._give_shutdown(agent)

    def _on_extension_error(self, event: ExtensionError, now: float) -> None:
        agent = self._agent(event.name)
        move = ExtensionMove.EXIT_ERROR if event.exiting else ExtensionMove.INIT_ERROR
        self._extension_moves(agent, move)
        agent.error_type = agent.error_type or event.error_type
        self._out.append(Accept(event.conn))
        kind = errors.EXTENSION_EXIT if event.exiting else errors.EXTENSION_INIT  # EX-066
        if self.phase in (Phase.RESET, *ENDING):
            return  # LC-082
        if self.fatal is None:
            self.fatal = Fatal(kind, f"extension {agent.name} reported {event.error_type}", who=agent.name)
        # It must exit now. What it still prints belongs to this phase; one that stays does not hold up the end of it.
        self._out.append(SetTimer("reported-error", "", now + self.limits.init_error_grace, self.generation))

    # ── what follows ──

    def _maybe_start_runtime(self) -> None:
        raise NotImplementedError

    def _maybe_initialised(self, now: float) -> None:
        raise NotImplementedError

    def _maybe_done(self, now: float) -> None:
        raise NotImplementedError

    def _give_invoke(self, agent: ExtensionAgent) -> None:
        raise NotImplementedError
