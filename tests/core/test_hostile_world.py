"""A hostile world against the machine: any peer may do anything that its process could do, at any time, in any order.

The world keeps its own account of connections, processes, timers and callers, and holds the machine to the invariants of
the architecture: a reply goes only to a connection that waits, once; every invocation is answered exactly once; frozen
implies idle; telemetry per request is start, runtimeDone, report; after Shutdown everything is dead.
"""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sandbox.core import effects, events
from sandbox.core.limits import Limits
from sandbox.core.machine import Machine
from sandbox.core.states import Extension, Invocation, Phase

NAMES = ("one", "two")
WHO = st.sampled_from([events.RUNTIME, *NAMES])


class World(RuleBasedStateMachine):
    @initialize(externals=st.integers(0, 2))
    def boot(self, externals: int) -> None:
        self.machine = Machine(NAMES[:externals])
        self.limits = Limits()
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.waiting: set[int] = set()  # exchanges that have no reply yet
        self.alive_conns: set[int] = set()
        self.processes: dict[str, int] = {}  # who → generation
        self.timers: list[tuple[float, int, object]] = []
        self.answers: dict[str, str | None] = {}
        self.requests: dict[str, str] = {}
        self.telemetry: dict[str, list[str]] = {}
        self.bodies: list[int] = []  # answers whose body is still on its way
        self.delivered: list[tuple[str, str]] = []
        self.frozen = False
        self.closed = False
        self.events: dict[str, set[str]] = {}  # what each extension of this generation has asked for
        self.last_told = (0, "")
        self.told: set[str] = set()  # who has been given SHUTDOWN, and took it
        self.init: list[str] = []  # the records of the newest Init
        self.killed: set[str] = set()
        self.feed(events.Start())

    # ── the shell, as the machine sees it ──

    def feed(self, event: events.Event) -> None:
        conn = getattr(event, "conn", None)
        if conn is not None and not isinstance(event, events.ClientGone | events.AnswerEnds | events.AnswerRefused):
            self.waiting.add(conn)
        self.event = event
        for effect in self.machine.handle(event, self.now):
            self.perform(effect)

    def reply(self, conn: int) -> None:
        assert conn in self.waiting, "a reply to an exchange that does not wait"
        self.waiting.discard(conn)

    def perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Deliver(conn, invocation):
                self.reply(conn)
                assert conn in self.alive_conns, "an event was given to a client that has gone"
                assert not self.frozen, "an event was given before the thaw"
                assert self.answers[invocation] is None, "an event was given that is answered already"
            case effects.DeliverInvoke(conn, name, _):
                self.reply(conn)
                assert not self.frozen
                assert "INVOKE" in self.events[name], "INVOKE for one that did not ask for it"
            case effects.DeliverShutdown(conn, name, reason, deadline):
                self.reply(conn)
                assert not self.frozen
                assert "SHUTDOWN" in self.events[name], "SHUTDOWN for one that did not ask for it"
                assert name not in self.told, "SHUTDOWN twice"
                assert events.RUNTIME not in self.processes or events.RUNTIME in self.killed, "the runtime is ended first"
                assert reason in ("spindown", "timeout", "failure")
                assert deadline <= self.machine.wind_down_at + self.limits.shutdown_external
                assert self.now <= deadline
                self.told.add(name)
                self.last_told = (conn, name)
            case effects.Accept(conn) | effects.Refuse(conn, _, _, _):
                self.reply(conn)
                if isinstance(effect, effects.Accept) and isinstance(self.event, events.Register):
                    self.events[self.event.name] = set(self.event.events)
            case effects.Spawn(who, generation):
                self.killed.discard(who)
                assert who not in self.processes, f"a second process for {who}"
                self.processes[who] = generation
            case effects.Signal(effects.EVERYONE, "STOP"):
                self.frozen = True
            case effects.Signal(effects.EVERYONE, "CONT"):
                self.frozen = False
            case effects.Signal(effects.EVERYONE, "KILL"):
                self.at(0.0, "everyone dies")
            case effects.Signal(who, "KILL"):
                self.killed.add(who)
                self.at(0.0, ("dies", who, self.processes.get(who)))
            case effects.SetTimer(token, key, at, generation):
                self.timers.append((at, next(self.numbers), events.Timer(token, key, generation)))
            case effects.Answered(invocation, _, _):
                self.answer(invocation, "answered")
            case effects.Failed(invocation, status, error_type, _, _, _):
                assert error_type
                self.answer(invocation, status)
            case effects.Emit(type_, _, record, invocation):
                self.init_is_told(type_, record)
                if invocation is not None:
                    assert record["requestId"] == self.requests[invocation]
                    self.telemetry.setdefault(invocation, []).append(type_.removeprefix("platform."))
            case effects.Closed():
                assert not self.closed
                self.closed = True

    def init_is_told(self, type_: str, record: dict[str, object]) -> None:
        """initStart, initRuntimeDone, one extension record each, initReport: in this order, once for each generation."""
        name = type_.removeprefix("platform.")
        if name == "initStart":
            assert self.init[-1:] in ([], ["initReport"], ["initStart"], ["initRuntimeDone"]), self.init
            self.init, self.events, self.told = [name], {}, set()
        elif name == "initRuntimeDone":
            assert self.init == ["initStart"]
            self.init.append(name)
        elif name == "extension":
            assert self.init[:2] == ["initStart", "initRuntimeDone"]
            self.init.append(name)
        elif name == "initReport":
            assert self.init == ["initStart", "initRuntimeDone", *["extension"] * len(self.machine.extensions)]
            self.init.append(name)
            assert record["status"] in ("success", "error", "timeout")

    def answer(self, invocation: str, how: str) -> None:
        assert self.answers[invocation] is None, "an invocation was answered twice"
        self.answers[invocation] = how

    def at(self, delay: float, what: object) -> None:
        self.timers.append((self.now + delay, next(self.numbers), what))

    def run(self, what: object) -> None:
        match what:
            case events.Timer():
                self.feed(what)
            case "everyone dies":
                self.frozen = False
                for who in list(self.processes):
                    self.dies(who, None, 9)
                self.feed(events.Gone(self.machine.generation))
            case ("dies", who, generation):
                if generation is not None and self.processes.get(who) == generation:
                    self.dies(who, None, 9)

    def dies(self, who: str, code: int | None, signal: int | None) -> None:
        self.feed(events.Exited(who, self.processes.pop(who), code, signal))

    def conn(self) -> int:
        number = next(self.numbers)
        self.alive_conns.add(number)
        return number

    def up(self, who: str) -> bool:
        return who in self.processes and not self.frozen

    # ── the peers ──

    @rule()
    def runtime_polls(self) -> None:
        if self.up(events.RUNTIME):
            self.feed(events.Next(self.conn(), events.RUNTIME))

    @rule()
    def everybody_behaves(self) -> None:
        """Gets the world into its deep states, from which the other rules can go wrong."""
        for name in NAMES:
            agent = self.machine.extensions.get(name)
            if agent is not None and agent.state is Extension.STARTED:
                self.registers(name, {"INVOKE", "SHUTDOWN"})
        self.runtime_polls()
        for name in NAMES:
            agent = self.machine.extensions.get(name)
            if agent is not None and agent.state in (Extension.REGISTERED, Extension.RUNNING):
                self.extension_polls(name)

    @rule(data=st.data())
    def a_waiting_client_goes(self, data: st.DataObject) -> None:
        parked = sorted(set(self.machine.polls) | {a.poll for a in self.machine.extensions.values() if a.poll is not None})
        if parked:
            conn = data.draw(st.sampled_from(parked))
            self.alive_conns.discard(conn)
            self.waiting.discard(conn)
            self.feed(events.ClientGone(conn))

    @rule()
    def the_event_was_lost_on_its_way(self) -> None:
        current = self.machine.current
        if current is not None and current.delivered_on is not None:
            self.alive_conns.discard(current.delivered_on)
            self.feed(events.ClientGone(current.delivered_on))

    @rule(
        kind=st.sampled_from(["whole", "begins", "error", "refused"]),
        id_=st.sampled_from(["right", "right", "right", "wrong", "stale invocation"]),
    )
    def runtime_answers(self, kind: str, id_: str) -> None:
        if not self.up(events.RUNTIME):
            return
        current = self.machine.current
        request = current.request_id if current and id_ != "wrong" else "no such id"
        invocation = "another" if id_ == "stale invocation" else None
        conn = self.conn()
        if kind == "begins":
            self.feed(events.AnswerBegins(conn, request, invocation))
            if conn in self.waiting:
                self.bodies.append(conn)
        elif kind == "refused":
            self.waiting.add(conn)
            self.feed(events.AnswerRefused(conn, request, invocation, "Function.X", "m", 413, "X", "m"))
        else:
            self.feed(events.Answer(conn, request, invocation, 2, kind == "error"))

    @precondition(lambda self: bool(self.bodies))
    @rule(how=st.sampled_from(["whole", "error", "truncated"]))
    def an_answer_ends(self, how: str) -> None:
        if self.frozen:
            return
        conn = self.bodies.pop(0)
        if how == "truncated":
            self.feed(events.AnswerRefused(conn, "-", None, "Runtime.TruncatedResponse", "m", 400, "X", "m"))
        else:
            self.feed(events.AnswerEnds(conn, 9, how == "error"))

    @rule()
    def runtime_reports_init_error(self) -> None:
        if self.up(events.RUNTIME):
            self.feed(events.InitError(self.conn(), "Runtime.ImportModuleError"))

    @rule(name=st.sampled_from([*NAMES, "internal"]), wants=st.sets(st.sampled_from(["INVOKE", "SHUTDOWN"])))
    def registers(self, name: str, wants: set[str]) -> None:
        if self.up(name if name in NAMES else events.RUNTIME):
            self.feed(events.Register(self.conn(), name, frozenset(wants)))

    @rule(name=st.sampled_from([*NAMES, "internal"]), api=st.sampled_from(["Telemetry", "Logs"]))
    def subscribes(self, name: str, api: str) -> None:
        if self.up(name if name in NAMES else events.RUNTIME):
            open_ = self.machine.phase in (Phase.INIT_EXTENSIONS, Phase.INIT_RUNTIME)
            agent = self.machine.extensions.get(name)
            conn = self.conn()
            self.feed(events.Subscribe(conn, name, api))
            if open_ and agent is not None and agent.state in (Extension.REGISTERED, Extension.READY):
                assert agent.api is not None

    @rule()
    def shutdown_was_lost_on_its_way(self) -> None:
        conn, name = self.last_told
        agent = self.machine.extensions.get(name)
        if agent is not None and agent.delivered_on == conn and agent.state is Extension.SHUTDOWN:
            self.told.discard(name)
            self.feed(events.ClientGone(conn))

    @rule(name=st.sampled_from([*NAMES, "internal"]))
    def extension_polls(self, name: str) -> None:
        if self.up(name if name in NAMES else events.RUNTIME):
            self.feed(events.Next(self.conn(), name))

    @rule(name=st.sampled_from(NAMES), exiting=st.booleans())
    def extension_reports_error(self, name: str, exiting: bool) -> None:
        if self.up(name):
            self.feed(events.ExtensionError(self.conn(), name, "Extension.Mine", exiting))

    @rule(who=WHO, end=st.sampled_from([(0, None), (7, None), (None, 9), (None, 11)]))
    def a_process_dies(self, who: str, end: tuple[int | None, int | None]) -> None:
        if who in self.processes:
            self.dies(who, *end)

    @rule(who=WHO)
    def a_process_cannot_start(self, who: str) -> None:
        agent = self.machine.extensions.get(who)
        fresh = agent.state is Extension.STARTED if agent else self.machine.runtime.value == "Started"
        if who in self.processes and fresh and not self.frozen:
            self.feed(events.SpawnFailed(who, self.processes.pop(who), "Runtime.InvalidEntrypoint", "m"))

    @rule()
    def memory_runs_out(self) -> None:
        if self.processes:
            self.feed(events.MemoryExceeded(self.machine.generation))

    @rule(generation=st.integers(0, 1))
    def ghosts_speak(self, generation: int) -> None:
        if generation < self.machine.generation:
            self.feed(events.Exited(events.RUNTIME, generation, 1, None))
            self.feed(events.Timer("init", "", generation))
            self.feed(events.Gone(generation))
            self.feed(events.MemoryExceeded(generation))

    # ── callers and time ──

    @rule(timeout=st.floats(0.1, 5.0))
    def a_caller_invokes(self, timeout: float) -> None:
        if self.machine.free or self.machine.about_to_be_free or self.machine.phase in (Phase.SHUTDOWN, Phase.CLOSED):
            number = len(self.answers)
            self.answers[f"i{number}"] = None
            self.requests[f"i{number}"] = f"r{number}"
            self.feed(events.Invoke(f"i{number}", f"r{number}", timeout))

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 0.7, 2.5, 11.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and min(self.timers)[0] <= end:
            due = min(self.timers)
            self.timers.remove(due)
            self.now = max(self.now, due[0])
            self.run(due[2])
        self.now = end

    @precondition(lambda self: len(self.answers) > 2)
    @rule(reason=st.sampled_from(["spindown", "timeout", "failure"]))
    def the_service_ends_it(self, reason: str) -> None:
        self.feed(events.Shutdown(reason))

    # ── what must hold ──

    @invariant()
    def frozen_means_idle(self) -> None:
        if self.frozen:
            assert self.machine.phase is Phase.FROZEN
            assert self.machine.current is None
            assert not self.machine.waiting

    @invariant()
    def every_open_invocation_is_owned(self) -> None:
        owned = [i.id for i in self.machine.waiting]
        owned += [i.id for i in self.machine.invocations.values() if i.state is not Invocation.ANSWERED]
        assert sorted(owned) == sorted(i for i, how in self.answers.items() if how is None)

    @invariant()
    def idle_is_instantaneous(self) -> None:
        assert self.machine.phase is not Phase.IDLE

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.feed(events.Shutdown("spindown"))
        for _ in range(4):
            self.time_passes(11.0)
        assert self.closed, f"it did not close: {self.machine.phase}, {self.processes}"
        assert self.machine.phase is Phase.CLOSED
        assert not self.processes, "processes were left"
        assert None not in self.answers.values(), "a caller was left without an answer"
        for invocation, seen in self.telemetry.items():
            assert seen == ["start", "runtimeDone", "report"], (invocation, seen)


STEPS = int(os.environ.get("HOSTILE_STEPS", "15000"))  # the nightly setting is a million
World.TestCase.settings = settings(max_examples=STEPS // 50, stateful_step_count=50, deadline=None)
TestHostileWorld = pytest.mark.catalogue("LC-014", "LC-082", "LC-050", "RT-037", "LC-109")(World.TestCase)
