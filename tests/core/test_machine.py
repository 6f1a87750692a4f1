"""The machine, step by step: what the hostile world cannot name."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.core import effects as fx
from sandbox.core import events as ev
from sandbox.core.limits import Limits
from sandbox.core.machine import Machine
from sandbox.core.states import Phase


class Driver:
    """Feeds a machine and keeps what it asked for."""

    def __init__(self, *extensions: str) -> None:
        self.machine = Machine(extensions)
        self.now = 0.0
        self.conn = 0
        self.effects: list[fx.Effect] = []

    def feed(self, event: ev.Event, *, after: float = 0.0) -> list[fx.Effect]:
        self.now += after
        effects = self.machine.handle(event, self.now)
        self.effects += effects
        return effects

    def next(self, who: str = ev.RUNTIME, *, after: float = 0.0) -> list[fx.Effect]:
        self.conn += 1
        return self.feed(ev.Next(self.conn, who), after=after)

    def register(self, name: str, *wants: str) -> list[fx.Effect]:
        self.conn += 1
        return self.feed(ev.Register(self.conn, name, frozenset(wants)))

    def answer(self, number: str = "1", *, error: bool = False, after: float = 0.0) -> list[fx.Effect]:
        self.conn += 1
        return self.feed(ev.Answer(self.conn, f"r{number}", None, 2, error), after=after)

    def invoke(self, number: str = "1", timeout: float = 3.0, *, after: float = 0.0) -> list[fx.Effect]:
        return self.feed(ev.Invoke(f"i{number}", f"r{number}", timeout), after=after)

    def gone(self) -> list[fx.Effect]:
        return self.feed(ev.Gone(self.machine.generation))

    def ring(self, token: str, key: str = "") -> list[fx.Effect]:
        """The newest timer of that token goes off, at its time."""
        timer = [e for e in self.effects if isinstance(e, fx.SetTimer) and e.token == token][-1]
        self.now = timer.at
        return self.feed(ev.Timer(token, timer.key, timer.generation))

    def warm(self) -> None:
        """Through Init to Frozen, with whatever extensions there are registered for everything."""
        self.feed(ev.Start())
        for name in self.machine.externals:
            self.register(name, "INVOKE", "SHUTDOWN")
        self.next()
        for name in self.machine.externals:
            self.next(name)
        assert self.machine.phase is Phase.FROZEN
        self.effects.clear()

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [e.record for e in self.effects if isinstance(e, fx.Emit) and e.type == f"platform.{kind}"]

    def kinds(self) -> list[str]:
        return [e.type.removeprefix("platform.") for e in self.effects if isinstance(e, fx.Emit)]


def signals(effects: list[fx.Effect]) -> list[tuple[str, str]]:
    return [(e.who, e.name) for e in effects if isinstance(e, fx.Signal)]


@pytest.mark.catalogue("LC-001", "LC-002", "LC-016", "EX-005", "EX-041")
def test_init_waits_for_registrations_then_for_every_poll() -> None:
    d = Driver("one", "two")
    assert [e.who for e in d.feed(ev.Start()) if isinstance(e, fx.Spawn)] == ["one", "two"]
    assert not [e for e in d.register("one") if isinstance(e, fx.Spawn)]
    assert [e.who for e in d.register("two") if isinstance(e, fx.Spawn)] == [ev.RUNTIME]
    d.next(after=0.2)
    d.next("one")
    assert d.machine.phase is Phase.INIT_RUNTIME
    d.next("two", after=0.8)
    assert d.machine.phase is Phase.FROZEN
    assert d.records("initReport")[0]["metrics"]["durationMs"] == 1000.0


@pytest.mark.catalogue("LC-052", "LC-053", "TL-087", "TL-088", "BL-001", "BL-004", "TL-075")
def test_a_cold_then_a_warm_invoke() -> None:
    d = Driver()
    d.invoke()
    d.next(after=0.0805)
    d.answer(after=0.1)
    assert signals(d.next(after=0.0301)) == [(fx.EVERYONE, "STOP")]
    assert d.kinds() == ["initStart", "initRuntimeDone", "initReport", "start", "runtimeDone", "report"]
    metrics = d.records("report")[0]["metrics"]
    assert metrics["initDurationMs"] == 80.5
    assert metrics["durationMs"] == 130.1
    assert metrics["billedDurationMs"] == 211  # ceil(130.1 + 80.5)
    warm = d.invoke("2", after=60)
    assert warm[0] == fx.Signal(fx.EVERYONE, "CONT")
    assert any(isinstance(e, fx.Deliver) for e in warm[1:])
    d.answer("2")
    d.next()
    assert "initDurationMs" not in d.records("report")[1]["metrics"]


@pytest.mark.catalogue("LC-003", "LC-004", "LC-007", "TL-064", "TL-102", "LC-006")
def test_init_over_its_limit_is_done_again_inside_the_invoke() -> None:
    d = Driver()
    d.invoke(timeout=3.0)
    assert d.now == 0.0
    assert signals(d.ring("init")) == [(fx.EVERYONE, "KILL")]
    assert d.now == Limits().init
    assert d.records("initReport")[0] == {
        "initializationType": "on-demand",
        "phase": "init",
        "status": "timeout",
        "metrics": {"durationMs": 10000.0},
    }
    d.gone()
    assert d.machine.phase is Phase.INIT_RUNTIME
    ended = d.ring("init")
    assert d.now == Limits().init + 3.0
    failed = next(e for e in ended if isinstance(e, fx.Failed))
    assert (failed.status, failed.error_type, failed.phase) == ("timeout", "Sandbox.Timedout", "init")
    assert failed.message == "Task timed out after 3.00 seconds"
    assert d.records("initReport")[1]["phase"] == "invoke"
    assert d.records("report")[0]["metrics"] == {"durationMs": 3000.0, "billedDurationMs": 3000}


@pytest.mark.catalogue("BL-005", "TL-075")
def test_a_suppressed_init_that_works_counts_into_the_duration() -> None:
    d = Driver()
    d.invoke(timeout=5.0)
    d.feed(ev.Exited(ev.RUNTIME, 1, 1, None))
    d.gone()
    d.next(after=0.5)
    d.answer(after=0.1)
    d.next()
    assert d.records("report")[0]["metrics"] == {"durationMs": 600.0, "billedDurationMs": 600}


@pytest.mark.catalogue("LC-013", "RT-102")
def test_a_reported_init_error_is_the_cause_that_is_kept() -> None:
    d = Driver()
    d.invoke()
    for generation in (1, 2):
        d.feed(ev.InitError(90 + generation, "Runtime.ImportModuleError"))
        d.feed(ev.Exited(ev.RUNTIME, generation, 1, None))
        d.gone()
    failed = next(e for e in d.effects if isinstance(e, fx.Failed))
    assert (failed.error_type, failed.reported, failed.phase) == ("Runtime.ImportModuleError", True, "init")
    assert [r["errorType"] for r in d.records("initReport")] == ["Runtime.ImportModuleError"] * 2


@pytest.mark.catalogue("RT-101")
def test_a_runtime_that_stays_after_its_init_error_is_ended() -> None:
    d = Driver()
    d.feed(ev.Start())
    assert signals(d.feed(ev.InitError(9, "Runtime.X"))) == []
    assert signals(d.ring("reported-error")) == [(fx.EVERYONE, "KILL")]


@pytest.mark.catalogue("LC-031", "LC-032", "LC-033", "LC-034", "EX-049", "TL-074", "EX-090", "BL-002")
def test_an_invoke_ends_when_the_last_extension_polls() -> None:
    d = Driver("one")
    d.warm()
    d.invoke()
    assert any(isinstance(e, fx.Answered) for e in d.answer(after=0.1))
    d.next()
    assert d.kinds()[-1] == "runtimeDone"
    assert d.machine.phase is Phase.INVOKE
    d.next("one", after=0.4)
    report = d.records("report")[0]
    assert report["metrics"]["durationMs"] == 500.0
    assert report["spans"] == [("extensionOverhead", pytest.approx(0.1), pytest.approx(0.5))]


@pytest.mark.catalogue("LC-031", "LC-032")
def test_an_extension_that_hangs_after_the_answer_times_the_invoke_out_but_the_caller_keeps_the_answer() -> None:
    d = Driver("one")
    d.warm()
    d.invoke()
    d.answer()
    d.next()
    ended = d.ring("invoke")
    assert not [e for e in ended if isinstance(e, fx.Failed)]
    assert d.records("runtimeDone")[0]["status"] == "success"
    assert d.records("report")[0]["status"] == "timeout"


@pytest.mark.catalogue("EX-047")
def test_an_extension_without_invoke_is_neither_told_nor_awaited() -> None:
    d = Driver("one")
    d.feed(ev.Start())
    d.register("one", "SHUTDOWN")
    d.next()
    d.next("one")
    assert not [e for e in d.invoke() if isinstance(e, fx.DeliverInvoke)]
    d.answer()
    d.next()
    assert d.machine.phase is Phase.FROZEN


@pytest.mark.catalogue("LC-101", "LC-104", "LC-111", "LC-113")
def test_shutdown_without_extensions_is_a_sigkill_that_nobody_bills() -> None:
    d = Driver()
    d.warm()
    assert d.feed(ev.Shutdown("spindown")) == [fx.Signal(fx.EVERYONE, "CONT"), fx.Signal(fx.EVERYONE, "KILL")]
    d.feed(ev.Exited(ev.RUNTIME, 1, None, 9))
    assert d.gone() == [fx.Closed()]
    assert d.kinds() == []


@pytest.mark.catalogue("LC-102", "EX-089")
def test_shutdown_with_internal_extensions_gives_the_runtime_half_a_second() -> None:
    d = Driver()
    d.feed(ev.Start())
    d.register("inside", "INVOKE")
    d.next()
    d.next("inside")
    assert signals(d.feed(ev.Shutdown("spindown")))[-1] == (ev.RUNTIME, "TERM")
    start = d.now
    assert signals(d.ring("window")) == [(fx.EVERYONE, "KILL")]
    assert d.now - start == 0.5


@pytest.mark.catalogue("LC-103", "LC-105", "LC-106", "LC-107", "LC-112", "EX-083", "EX-084")
def test_shutdown_with_external_extensions_runtime_first_then_they() -> None:
    d = Driver("one")
    d.warm()
    start = d.now
    asked = d.feed(ev.Shutdown("spindown"))
    assert signals(asked)[-1] == (ev.RUNTIME, "TERM")
    assert not [e for e in asked if isinstance(e, fx.DeliverShutdown)]
    told = d.ring("runtime-share")
    assert d.now - start == pytest.approx(0.6)
    assert signals(told) == [(ev.RUNTIME, "KILL")]
    event = next(e for e in told if isinstance(e, fx.DeliverShutdown))
    assert (event.reason, event.deadline) == ("spindown", start + 2.0)
    d.feed(ev.Exited(ev.RUNTIME, 1, None, 9))
    assert signals(d.ring("window")) == [(fx.EVERYONE, "KILL")]
    assert d.now - start == 2.0


@pytest.mark.catalogue("LC-107")
def test_extensions_are_told_as_soon_as_the_runtime_is_gone() -> None:
    d = Driver("one")
    d.warm()
    d.feed(ev.Shutdown("spindown"))
    told = d.feed(ev.Exited(ev.RUNTIME, 1, 0, None), after=0.1)
    assert [e for e in told if isinstance(e, fx.DeliverShutdown)]


@pytest.mark.catalogue("LC-108")
def test_a_busy_extension_is_told_at_its_next_poll() -> None:
    d = Driver("one")
    d.warm()
    d.invoke()
    d.feed(ev.Exited(ev.RUNTIME, 1, 1, None))
    assert d.machine.phase is Phase.RESET
    assert [e for e in d.next("one", after=0.5) if isinstance(e, fx.DeliverShutdown)]


@pytest.mark.catalogue("EX-085", "EX-033")
def test_an_extension_that_did_not_ask_for_shutdown_is_killed_after_the_runtime() -> None:
    d = Driver("one")
    d.feed(ev.Start())
    d.register("one")
    d.next()
    d.next("one")
    d.feed(ev.Shutdown("spindown"))
    assert (("one", "KILL")) in signals(d.feed(ev.Exited(ev.RUNTIME, 1, 0, None)))


@pytest.mark.catalogue("LC-070", "LC-076", "LC-083", "EX-082", "EX-091", "LC-077")
def test_a_crash_resets_and_the_next_invoke_starts_anew() -> None:
    d = Driver("one")
    d.warm()
    d.invoke()
    d.feed(ev.Exited(ev.RUNTIME, 1, 1, None))
    assert [e.reason for e in d.effects if isinstance(e, fx.DeliverShutdown)] == []  # it still works on its INVOKE
    told = d.next("one")
    assert [e.reason for e in told if isinstance(e, fx.DeliverShutdown)] == ["failure"]
    assert signals(d.feed(ev.Exited("one", 1, 0, None))) == [(fx.EVERYONE, "KILL")]
    d.gone()
    assert (d.machine.phase, d.machine.extensions) == (Phase.CREATED, {})
    spawned = [e for e in d.invoke("2") if isinstance(e, fx.Spawn)]
    assert [(e.who, e.generation) for e in spawned] == [("one", 2)]
    assert d.records("initStart")[0]["phase"] == "invoke"


@pytest.mark.catalogue("LC-081")
def test_an_exit_after_the_answer_costs_the_environment_not_the_answer() -> None:
    d = Driver()
    d.warm()
    d.invoke()
    d.answer()
    ended = d.feed(ev.Exited(ev.RUNTIME, 1, 0, None))
    assert not [e for e in ended if isinstance(e, fx.Failed)]
    assert d.records("report")[0]["status"] == "error"
    assert d.records("report")[0]["errorType"] == "Runtime.ExitError"


@pytest.mark.catalogue("EX-080", "LC-080")
def test_an_extension_that_exits_even_with_0_is_a_crash() -> None:
    d = Driver("one")
    d.warm()
    d.invoke()
    failed = next(e for e in d.feed(ev.Exited("one", 1, 0, None)) if isinstance(e, fx.Failed))
    assert failed.error_type == "Extension.Crash"


@pytest.mark.catalogue("LC-075")
def test_out_of_memory_has_a_type_of_its_own() -> None:
    d = Driver()
    d.warm()
    d.invoke()
    ended = d.feed(ev.MemoryExceeded(1))
    assert signals(ended)[0] == (ev.RUNTIME, "KILL")
    failed = next(e for e in ended if isinstance(e, fx.Failed))
    assert (failed.error_type, failed.message) == ("Runtime.OutOfMemory", "Runtime exited with error: signal: killed")


@pytest.mark.catalogue("EX-026", "EX-028", "EX-029", "EX-030", "EX-010")
def test_refused_registrations() -> None:
    d = Driver("one")
    d.feed(ev.Start())

    def refusal(effects: list[fx.Effect]) -> str:
        return next(e.error_type for e in effects if isinstance(e, fx.Refuse))

    assert refusal(d.register("inside", "SHUTDOWN")) == "Extension.InvalidEventType"
    d.register("one")
    assert refusal(d.register("one")) == "Extension.InvalidExtensionState"
    d.register("inside")
    assert refusal(d.register("inside")) == "Extension.InvalidExtensionState"
    for number in range(8):
        d.register(f"more{number}")
    assert refusal(d.register("eleventh")) == "Extension.TooManyExtensions"
    d.next()
    assert refusal(d.register("late")) == "Extension.RegistrationClosed"


@pytest.mark.catalogue("EX-054", "EX-055", "EX-053", "EX-064")
def test_polls_and_reports_of_extensions() -> None:
    d = Driver("one")
    d.warm()
    assert [e for e in d.next("one") if isinstance(e, fx.Refuse)]
    d.feed(ev.ClientGone(d.conn - 1))  # the parked one
    assert not [e for e in d.next("one") if isinstance(e, fx.Refuse)]
    d.feed(ev.Shutdown("spindown"))
    d.feed(ev.Exited(ev.RUNTIME, 1, 0, None))
    assert d.next("one") == []
    d.feed(ev.ExtensionError(900, "one", "Extension.First", exiting=True))
    d.feed(ev.ExtensionError(901, "one", "Extension.Second", exiting=True))
    assert d.machine.extensions["one"].error_type == "Extension.First"
    assert [e for e in d.next("one") if isinstance(e, fx.Refuse)]


@pytest.mark.catalogue("LC-030", "LC-038")
def test_an_invoke_that_waits_for_the_poll_spares_the_freeze() -> None:
    d = Driver()
    d.warm()
    d.invoke()
    d.answer()
    assert d.machine.about_to_be_free
    d.invoke("2")
    polled = d.next()
    assert signals(polled) == []
    assert [e.invocation_id for e in polled if isinstance(e, fx.Deliver)] == ["i2"]
