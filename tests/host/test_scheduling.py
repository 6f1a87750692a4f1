"""Many environments, with real processes: who gets an invoke, who is throttled, who is shut down. Time is the test's."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import ConfigError, Host, InvokeResult, Limits
from sandbox.clock import ManualClock
from sandbox.core.limits import LOG_TAIL, REPOLL_WAIT
from sandbox.core.states import Phase
from sandbox.host.concurrency import CONCURRENT, RESERVED, RESERVED_RATE, Throttled
from sandbox.host.environment import Environment, Job
from sandbox.host.host import Function
from sandbox.telemetry.journal import Record
from tests.conftest import MakeFolder, Tier, no_task_is_left, python_of
from tests.host.test_extensions import PRELUDE

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

# wait: a file of this machine that the handler waits for; in tier `process` it sees all of them.
APP = """
import os, time
AT_INIT = dict(os.environ)
TMP = os.environ.get("TMPDIR", "/tmp")
me = os.urandom(8).hex()
calls = 0
def handler(event, context):
    global calls
    calls += 1
    do = event.get("do")
    if do == "exit":
        os._exit(7)
    if do == "hang":
        time.sleep(1000)
    if do == "fail":
        raise ValueError("on purpose")
    if do == "write":
        open(TMP + "/kept", "w").close()
    if do == "print":
        print(*event["lines"], sep="\\n")
    while "wait" in event and not os.path.exists(event["wait"]):
        time.sleep(0.002)
    return {
        "me": me,
        "calls": calls,
        "type": AT_INIT["AWS_LAMBDA_INITIALIZATION_TYPE"],
        "kept": os.path.exists(TMP + "/kept"),
        "arn": context.invoked_function_arn,
        "tenant": getattr(context, "tenant_id", None),
        "init": [name + "=" + value for name, value in AT_INIT.items()],
    }
"""
# It answers, and polls again only when it may: until then it is about to be free.
SLOW_POLLER = """
import http.client, itertools, os, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
for number in itertools.count():
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    reply = api.getresponse()
    reply.read()
    id = reply.headers["lambda-runtime-aws-request-id"]
    api.request("POST", f"/2018-06-01/runtime/invocation/{id}/response", str(os.getpid()))
    api.getresponse().read()
    while not os.path.exists("GATE"):
        time.sleep(0.002)
"""
SERVE = """
register("INVOKE", "SHUTDOWN")
while True:
    event = next()
    if event["eventType"] == "SHUTDOWN":
        say("told", event["shutdownReason"])
        break
"""


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def turns() -> None:
    """Lets everybody do what needs nobody else."""
    for _ in range(50):
        await asyncio.sleep(0)


class Gate:
    """A file that functions and extensions wait for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def event(self) -> dict[str, str]:
        return {"wait": str(self.path)}

    @property
    def wait(self) -> str:
        """The same, for an extension's body."""
        return f"while not os.path.exists({str(self.path)!r}):\n            time.sleep(0.002)"

    def open(self) -> None:
        self.path.touch()


class Kit:
    """A host whose clock only the test moves, and what its functions need."""

    def __init__(self, host: Host, clock: ManualClock, folder: MakeFolder, tmp_path: Path) -> None:
        self.host, self.clock = host, clock
        self._folder, self._tmp_path = folder, tmp_path
        self._gates = 0
        self.records: list[Record] = []
        host.journal.subscribe(self.records.append)

    def gate(self) -> Gate:
        self._gates += 1
        return Gate(self._tmp_path / f"gate{self._gates}")

    async def deploy(self, app: str = APP, extension: str | None = None, **settings: Any) -> Function:
        layers: tuple[str, ...] = ()
        if extension is not None:
            layer = self._folder(**{"extensions/ext": PRELUDE + extension}, other="")
            (layer / "extensions" / "ext").chmod(0o755)
            layers = (str(layer),)
        code = self._folder(app_py=app)
        return await self.host.deploy(code, runtime="python", handler="app.handler", layers=layers, **settings)

    async def custom(self, tier: Tier, runtime: str, **settings: Any) -> Function:
        bootstrap = f"#!/bin/sh\nexec {python_of(tier)} -S runtime.py\n"
        return await self.host.deploy(self._folder(bootstrap=bootstrap, **{"runtime.py": runtime}), **settings)

    def said(self) -> list[str]:
        return [record.record.strip() for record in self.records if record.type == "extension"]

    def of(self, type_: str) -> list[Any]:
        return [record.record for record in self.records if record.type == type_]


@pytest.fixture
async def kit(tier: Tier, folder: MakeFolder, tmp_path: Path) -> AsyncIterator[Kit]:
    clock = ManualClock()
    async with Host(clock=clock) as host:
        yield Kit(host, clock, folder, tmp_path)
    assert host.account.busy == 0, "a unit of concurrency was lost"
    no_task_is_left()


async def begin(function: Function, event: dict[str, Any], **context: Any) -> asyncio.Future[InvokeResult]:
    """An invoke that an environment has at work when this returns."""
    before = sum(environment.machine.phase is Phase.INVOKE for environment in function.environments)
    invoking = asyncio.ensure_future(function.invoke(event, **context))
    await until(
        lambda: (
            sum(environment.machine.phase is Phase.INVOKE for environment in function.environments) > before or invoking.done()
        )
    )
    assert not invoking.done(), invoking.exception() or invoking.result().payload
    return invoking


async def throttled(function: Function, **context: Any) -> str:
    with pytest.raises(Throttled) as caught:
        await function.invoke(**context)
    return caught.value.reason


async def at_rest(function: Function) -> None:
    """Nobody has work, and nobody is being reset."""
    at_rest = (Phase.FROZEN, Phase.CREATED)
    await until(lambda: all(environment.machine.phase in at_rest and environment.free for environment in function.environments))
    await asyncio.sleep(0)  # a reset is told a turn of the loop later


def me(result: InvokeResult) -> str:
    return str(result.json()["me"])


# ── who gets an invoke ──


@pytest.mark.catalogue("LC-038")
async def test_one_by_one_they_meet_one_environment(kit: Kit) -> None:
    function = await kit.deploy()
    for number in range(50):
        kit.clock.advance(1)
        result = await function.invoke(wait_for_report=bool(number % 2))
        assert result.json()["calls"] == number + 1
    assert len(function.environments) == 1


@pytest.mark.catalogue("LC-037", "LC-038", "IN-066")
async def test_so_many_at_once_meet_so_many_and_the_one_used_last_is_used_first(kit: Kit) -> None:
    function = await kit.deploy()
    gates = [kit.gate() for _ in range(4)]
    invokes = [await begin(function, gate.event) for gate in gates]
    assert len(function.environments) == 4
    names = {}
    for which in (2, 0, 3, 1):
        gates[which].open()
        names[which] = me(await invokes[which])
    assert len(set(names.values())) == 4
    assert me(await function.invoke()) == names[1]
    again = [kit.gate() for _ in range(3)]
    invokes = [await begin(function, gate.event) for gate in again]
    for gate in again:
        gate.open()
    assert [me(await invoke) for invoke in invokes] == [names[1], names[3], names[0]]
    assert len(function.environments) == 4


@pytest.mark.catalogue("LC-037")
async def test_functions_do_not_share(kit: Kit) -> None:
    one, two = await kit.deploy(), await kit.deploy()
    assert me(await one.invoke()) != me(await two.invoke())
    assert not set(one.environments) & set(two.environments)


@pytest.mark.catalogue("LC-038", "IN-067")
async def test_each_of_those_about_to_poll_is_waited_for(kit: Kit, tier: Tier) -> None:
    """Two callers, each one by one: neither is throttled, and no third environment is made."""
    gate = kit.gate()
    function = await kit.custom(tier, SLOW_POLLER.replace("GATE", str(gate.path)))
    function.share.set(reserved=2, provisioned=0)
    first = await asyncio.gather(*(function.invoke(wait_for_report=False) for _ in range(2)))
    assert all(environment.about_to_be_free for environment in function.environments)
    invokes = [asyncio.ensure_future(function.invoke(wait_for_report=False)) for _ in range(2)]
    await asyncio.sleep(0)
    gate.open()
    second = await asyncio.gather(*invokes)
    # One of them may have been quick enough to take both.
    assert {result.payload for result in second} <= {result.payload for result in first}
    assert len(function.environments) == 2
    await at_rest(function)


async def test_one_that_never_polls_is_not_waited_for_long(kit: Kit, tier: Tier) -> None:
    function = await kit.custom(tier, SLOW_POLLER.replace("GATE", str(kit.gate().path)), timeout=3)
    function.share.set(reserved=1, provisioned=0)
    await function.invoke(wait_for_report=False)
    job = await function.submit(b"{}", tail=True)
    assert not job.answered.done()
    kit.clock.advance(REPOLL_WAIT)
    with pytest.raises(Throttled) as caught:
        await job.answered
    assert caught.value.reason == RESERVED
    assert job.tail is not None
    assert job.tail.done(), "nobody will ever have its log: who waits for it must be told"
    job.tail.exception()


# ── throttles ──


@pytest.mark.catalogue("IN-061", "IN-062", "IN-066")
async def test_one_more_than_is_reserved_is_throttled(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    function.share.set(reserved=2, provisioned=0)
    invokes = [await begin(function, gate.event) for _ in range(2)]
    assert await throttled(function) == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert len(function.environments) == 2
    gate.open()
    for invoke in invokes:
        assert (await invoke).status == "ok"
    assert (await function.invoke()).status == "ok"


@pytest.mark.catalogue("IN-062", "IN-066")
async def test_a_frozen_environment_does_not_help_who_has_no_unit(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    invokes = [await begin(function, gate.event) for _ in range(2)]
    gate.open()
    await asyncio.gather(*invokes)
    assert len(function.environments) == 2
    function.share.set(reserved=1, provisioned=0)
    closed = kit.gate()
    invoke = await begin(function, closed.event)
    assert await throttled(function) == RESERVED
    closed.open()
    await invoke
    function.share.set(reserved=None, provisioned=0)
    assert (await function.invoke()).status == "ok"
    assert len(function.environments) == 2


@pytest.mark.catalogue("IN-063")
async def test_a_reservation_of_nothing_throttles_every_invoke(kit: Kit) -> None:
    function = await kit.deploy()
    function.share.set(reserved=0, provisioned=0)
    assert await throttled(function) == RESERVED
    assert not function.environments
    function.share.set(reserved=1, provisioned=0)
    assert (await function.invoke()).status == "ok"


@pytest.mark.catalogue("IN-064")
async def test_the_eleventh_request_of_a_second_is_throttled(kit: Kit) -> None:
    function = await kit.deploy()
    function.share.set(reserved=1, provisioned=0)
    for _ in range(10):
        assert (await function.invoke()).status == "ok"
    assert await throttled(function) == RESERVED_RATE
    kit.clock.advance(1)
    assert (await function.invoke()).status == "ok"


@pytest.mark.catalogue("IN-061", "IN-062")
async def test_functions_without_a_reservation_share_the_account(kit: Kit) -> None:
    one, two, kept = await kit.deploy(), await kit.deploy(), await kit.deploy()
    kit.host.account.limit = 3
    kept.share.set(reserved=1, provisioned=0)
    gate = kit.gate()
    invokes = [await begin(one, gate.event), await begin(two, gate.event)]
    assert await throttled(one) == await throttled(two) == "ConcurrentInvocationLimitExceeded"
    invokes.append(await begin(kept, gate.event))
    assert await throttled(kept) == RESERVED
    gate.open()
    await asyncio.gather(*invokes)
    assert (await two.invoke()).status == "ok"


@pytest.mark.catalogue("IN-062", "LC-037")
async def test_versions_share_a_reservation_and_no_environment(kit: Kit) -> None:
    old = await kit.deploy()
    new = await kit.deploy(share=old.share)
    old.share.set(reserved=1, provisioned=0)
    gate = kit.gate()
    invoke = await begin(old, gate.event)
    assert await throttled(new) == RESERVED
    gate.open()
    first = await invoke
    assert me(await new.invoke()) != me(first)


@pytest.mark.catalogue("IN-065")
async def test_a_function_that_scales_too_fast_is_throttled_and_loses_no_unit(kit: Kit) -> None:
    function = await kit.deploy()
    while function.share._scaling.take():
        pass
    assert await throttled(function) == CONCURRENT
    assert kit.host.account.busy == 0
    kit.clock.advance(1)
    assert (await function.invoke()).status == "ok"


@pytest.mark.catalogue("LC-038", "IN-066")
@pytest.mark.parametrize("do", ["exit", "hang"])
async def test_a_reset_is_waited_for_instead_of_a_throttle(kit: Kit, do: str) -> None:
    gate = kit.gate()
    function = await kit.deploy(extension=SERVE.replace("break", gate.wait + "\n        break"), timeout=3)
    function.share.set(reserved=1, provisioned=0)
    invoke = await begin(function, {"do": do}) if do == "hang" else asyncio.ensure_future(function.invoke({"do": do}))
    if do == "hang":
        kit.clock.advance(3)
    assert (await invoke).status == ("timeout" if do == "hang" else "error")
    (environment,) = function.environments
    assert environment.machine.phase is Phase.RESET
    waiting = asyncio.ensure_future(function.invoke())
    await asyncio.sleep(0)
    assert environment.machine.phase is Phase.RESET
    assert await throttled(function) == RESERVED  # one may wait for it, no more
    gate.open()
    result = await waiting
    assert (result.status, result.json()["calls"]) == ("ok", 1)
    assert function.environments == (environment,)


@pytest.mark.catalogue("IN-067")
async def test_a_slow_extension_keeps_the_unit(kit: Kit) -> None:
    gate = kit.gate()
    extension = SERVE.replace("    if event", f'    if event["eventType"] == "INVOKE":\n        {gate.wait}\n    if event')
    function = await kit.deploy(extension=extension)
    function.share.set(reserved=1, provisioned=0)
    first = await function.invoke(wait_for_report=False)
    assert first.status == "ok"
    await until(lambda: kit.of("platform.runtimeDone"))
    assert await throttled(function) == RESERVED
    function.share.set(reserved=None, provisioned=0)
    second = await function.invoke(wait_for_report=False)
    assert me(second) != me(first)
    assert (len(function.environments), kit.host.account.busy) == (2, 2)
    gate.open()
    await at_rest(function)
    assert kit.host.account.busy == 0


# ── units come back ──


@pytest.mark.catalogue("IN-062")
@pytest.mark.parametrize("do", ["nothing", "fail", "exit", "hang"])
async def test_a_unit_is_given_back_however_it_ends(kit: Kit, do: str) -> None:
    function = await kit.deploy(timeout=3)
    kit.host.account.limit = 1
    for _ in range(3):
        job = await function.submit(json.dumps({"do": do}).encode())
        if do == "hang":
            (environment,) = function.environments
            await until(lambda at=environment: at.machine.phase is Phase.INVOKE)
            kit.clock.advance(3)
        await job.answered
        await job.reported
        await at_rest(function)
        assert kit.host.account.busy == 0
    assert len(function.environments) == 1


@pytest.mark.catalogue("IN-062")
async def test_a_unit_is_given_back_after_an_init_that_fails(kit: Kit) -> None:
    bad, good = await kit.deploy("import os\nos._exit(3)\n"), await kit.deploy()
    kit.host.account.limit = 1
    for _ in range(2):
        assert (await bad.invoke()).error_phase == "init"
        await at_rest(bad)
        assert kit.host.account.busy == 0
        assert (await good.invoke()).status == "ok"


@pytest.mark.catalogue("IN-062")
async def test_a_unit_is_given_back_when_no_environment_could_be_made(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    function = await kit.deploy()
    kit.host.account.limit = 1

    async def fails(environment: Environment) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Environment, "open", fails)
        for _ in range(3):
            with pytest.raises(OSError, match="no space left"):
                await function.invoke()
            with pytest.raises(OSError, match="no space left"):
                await function.invoke(tenant_id="one")
    assert (kit.host.account.busy, function.share.tenants, function.environments) == (0, 0, ())
    assert (await function.invoke()).status == "ok"


@pytest.mark.catalogue("IN-062")
async def test_a_unit_is_given_back_when_the_code_is_gone(kit: Kit) -> None:
    function = await kit.deploy()
    kit.host.account.limit = 1
    shutil.rmtree(function.config.code)
    for _ in range(2):
        (outcome,) = await asyncio.gather(function.invoke(), return_exceptions=True)
        assert not isinstance(outcome, Throttled)
        assert isinstance(outcome, Exception) or outcome.function_error is not None
        await at_rest(function)
        assert kit.host.account.busy == 0


@pytest.mark.catalogue("IN-062")
async def test_a_unit_is_given_back_by_a_caller_who_leaves_before_there_is_an_environment(
    kit: Kit,
) -> None:
    function = await kit.deploy()
    leaving = asyncio.ensure_future(function.invoke())
    async with asyncio.timeout(20):
        while not function._scheduler._opening:
            await asyncio.sleep(0)  # by the turn: a pause could be over when the environment is there
    assert kit.host.account.busy
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await until(lambda: not kit.host.account.busy)
    assert not function.environments
    assert (await function.invoke()).status == "ok"


@pytest.mark.catalogue("IN-062")
@pytest.mark.parametrize("tenant", [None, "one"])
async def test_a_unit_is_given_back_by_one_that_we_broke(kit: Kit, monkeypatch: pytest.MonkeyPatch, tenant: str | None) -> None:
    function = await kit.deploy()
    kit.host.account.limit = 1
    for _ in range(2):
        await function.invoke(tenant_id=tenant)
        monkeypatch.setattr(function.environments[0].machine, "_start_invocation", lambda now: 1 / 0)
        assert (await function.invoke(tenant_id=tenant)).error_type == "Sandbox.Failure"
        assert (function.environments, kit.host.account.busy, function.share.tenants) == ((), 0, 0)


async def test_a_unit_is_given_back_by_one_that_is_shut_down_at_work(kit: Kit) -> None:
    function = await kit.deploy()
    invoke = await begin(function, kit.gate().event)
    await function.shutdown()
    assert (await invoke).error_type == "Sandbox.Failure"
    assert (function.environments, kit.host.account.busy) == ((), 0)


# ── idle, and old ──


@pytest.mark.catalogue("LC-100")
async def test_one_that_nobody_invokes_is_shut_down(kit: Kit) -> None:
    function = await kit.deploy(extension=SERVE)
    await function.invoke()
    kit.clock.advance(Limits().idle - 1)
    assert len(function.environments) == 1
    kit.clock.advance(1)
    assert not function.environments
    await until(lambda: "told spindown" in kit.said())
    assert (await function.invoke()).json()["calls"] == 1


@pytest.mark.catalogue("LC-100")
async def test_one_that_is_used_in_time_stays(kit: Kit) -> None:
    function = await kit.deploy()
    first = me(await function.invoke())
    for _ in range(4):
        kit.clock.advance(Limits().idle - 1)
        assert me(await function.invoke()) == first
    kit.clock.advance(Limits().idle)
    assert not function.environments


@pytest.mark.catalogue("LC-100")
async def test_only_those_that_were_idle_long_enough_are_shut_down(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    invokes = [await begin(function, gate.event) for _ in range(3)]
    gate.open()
    await asyncio.gather(*invokes)
    kit.clock.advance(Limits().idle / 2)
    used = me(await function.invoke())
    busy = kit.gate()
    invokes = [await begin(function, busy.event) for _ in range(2)]
    kit.clock.advance(1)
    assert len(function.environments) == 3
    busy.open()
    assert used in [me(await invoke) for invoke in invokes]
    kit.clock.advance(Limits().idle / 2)
    assert len(function.environments) == 2
    kit.clock.advance(Limits().idle / 2)
    assert not function.environments


@pytest.mark.catalogue("LC-100")
async def test_one_at_work_is_never_idle(kit: Kit) -> None:
    function, gate = await kit.deploy(timeout=900), kit.gate()
    await function.invoke()
    invoke = await begin(function, gate.event)
    kit.clock.advance(Limits().idle + 1)
    gate.open()
    assert (await invoke).status == "ok"
    assert len(function.environments) == 1


@pytest.mark.catalogue("LC-100")
async def test_one_that_was_reset_is_idle_too(kit: Kit) -> None:
    function = await kit.deploy()
    assert (await function.invoke({"do": "exit"})).status == "error"
    await at_rest(function)
    kit.clock.advance(Limits().idle)
    assert not function.environments


@pytest.mark.catalogue("LC-039")
async def test_one_that_is_too_old_ends_after_its_invoke(kit: Kit) -> None:
    function = await kit.deploy(extension=SERVE)
    first = me(await function.invoke())
    for _ in range(math.ceil(Limits().lifetime / 500)):
        assert me(await function.invoke()) == first
        kit.clock.advance(500)
    result = await function.invoke()
    assert (me(result), result.status) == (first, "ok")
    assert not function.environments
    await until(lambda: "told spindown" in kit.said())
    assert me(await function.invoke()) != first


# ── retirement ──


@pytest.mark.catalogue("CP-028", "LC-100")
async def test_who_retires_ends_its_work_first(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    function, gates = await kit.deploy(extension=SERVE), [kit.gate(), kit.gate()]
    invokes = [await begin(function, gate.event) for gate in gates]
    gates[0].open()
    await invokes[0]
    closed = []
    monkeypatch.setattr(function.package, "close", lambda close=function.package.close: (closed.append(True), close()))
    retiring = asyncio.ensure_future(function.retire())
    await until(lambda: "told spindown" in kit.said())  # the idle one
    assert len(function.environments) == 1
    assert not retiring.done()
    assert not closed
    gates[1].open()
    assert (await invokes[1]).status == "ok"
    await retiring
    assert (function.environments, closed) == ((), [True])
    assert kit.said().count("told spindown") == 2
    with pytest.raises(ConfigError, match="closed"):
        await function.invoke()


@pytest.mark.catalogue("CP-028")
async def test_who_retires_waits_for_slow_extensions(kit: Kit) -> None:
    gate = kit.gate()
    extension = SERVE.replace("    if event", f'    if event["eventType"] == "INVOKE":\n        {gate.wait}\n    if event')
    function = await kit.deploy(extension=extension)
    job = await function.submit(b"{}")
    await job.answered
    retiring = asyncio.ensure_future(function.retire())
    await until(lambda: kit.of("platform.runtimeDone"))
    assert not retiring.done()
    gate.open()
    await retiring
    assert job.is_reported
    assert job.result.report is not None
    assert job.result.report.status == "success"


@pytest.mark.catalogue("CP-028")
async def test_a_function_that_was_never_invoked_retires(kit: Kit) -> None:
    function = await kit.deploy()
    async with asyncio.timeout(10):
        await function.retire()
    with pytest.raises(ConfigError, match="closed"):
        await function.invoke()


@pytest.mark.catalogue("CP-028")
@pytest.mark.parametrize("do", ["exit", "fail"])
async def test_who_retires_while_it_fails_ends(kit: Kit, do: str) -> None:
    function = await kit.deploy()
    await function.invoke()
    job = await function.submit(json.dumps({"do": do}).encode())
    async with asyncio.timeout(10):
        await function.retire()
    assert job.is_reported
    assert job.result.function_error == "Unhandled"
    assert job.result.error_type != "Sandbox.Failure"


def opening_waits(monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> asyncio.Event:
    """Environments come about only when this is set."""
    may, open_ = asyncio.Event(), Environment.open

    async def waits(environment: Environment) -> None:
        await may.wait()
        if fails:
            raise OSError("no space left")
        await open_(environment)

    monkeypatch.setattr(Environment, "open", waits)
    return may


@pytest.mark.catalogue("CP-028")
async def test_who_retires_while_an_environment_is_made_does_that_invoke(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    function, may = await kit.deploy(), opening_waits(monkeypatch)
    invoke = asyncio.ensure_future(function.invoke())
    await until(lambda: kit.host.account.busy)
    retiring = asyncio.ensure_future(function.retire())
    await asyncio.sleep(0)
    may.set()
    assert (await invoke).status == "ok"
    await retiring


@pytest.mark.catalogue("CP-028")
async def test_who_retires_while_an_environment_cannot_be_made_ends(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    function, may = await kit.deploy(), opening_waits(monkeypatch, fails=True)
    invoke = asyncio.ensure_future(function.invoke())
    await until(lambda: kit.host.account.busy)
    retiring = asyncio.ensure_future(function.retire())
    await turns()
    may.set()
    with pytest.raises(OSError, match="no space left"):
        await invoke
    async with asyncio.timeout(5):
        await retiring


@pytest.mark.catalogue("CP-028")
async def test_an_invoke_that_is_let_in_while_others_retire_is_not_cut_off(kit: Kit) -> None:
    """Refused or done, but not begun and then killed."""
    function, gate = await kit.deploy(), kit.gate()
    invoke = await begin(function, gate.event, tenant_id="one")  # the default environments have nothing to do
    retiring = asyncio.ensure_future(function.retire())
    await turns()
    late_gate = kit.gate()
    late = asyncio.ensure_future(function.invoke(late_gate.event))
    await until(lambda: late.done() or any(e.machine.current and e.machine.phase is Phase.INVOKE for e in _of(function)))
    gate.open()
    await invoke
    await until(lambda: all(scheduler.unused for scheduler in function._tenants.values()))
    await turns()  # for what should not happen
    late_gate.open()
    outcome = (await asyncio.gather(late, return_exceptions=True))[0]
    await retiring
    assert isinstance(outcome, ConfigError) or outcome.status == "ok"


def _of(function: Function) -> tuple[Environment, ...]:
    """Those that belong to no tenant."""
    return function._scheduler.environments


async def test_closing_waits_for_those_that_end_meanwhile(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ends of age while close waits for another that is being made: its folder is gone when close returns."""
    gate = kit.gate()
    function = await kit.deploy(extension=SERVE)
    invoke = await begin(function, gate.event)
    (old,) = function.environments
    may = opening_waits(monkeypatch)
    other = asyncio.ensure_future(function.invoke())
    shutdown, ended = Environment.shutdown, asyncio.Event()

    async def slow(environment: Environment, reason: str = "spindown") -> None:
        await shutdown(environment, reason)
        if environment is old:
            await asyncio.wait([other])
            await turns()
            ended.set()

    monkeypatch.setattr(Environment, "shutdown", slow)
    await until(lambda: kit.host.account.busy == 2)
    closing = asyncio.ensure_future(function.close())
    await turns()
    old.opened_at = float("-inf")
    gate.open()
    await invoke
    may.set()
    await closing
    assert ended.is_set()
    with pytest.raises(ConfigError, match="closed"):
        await other


@pytest.mark.catalogue("CP-028", "IN-141")
@pytest.mark.parametrize("known", [True, False])
async def test_a_function_that_was_closed_takes_no_tenant(kit: Kit, known: bool) -> None:
    function = await kit.deploy()
    if known:
        await function.invoke(tenant_id="one")
    await function.retire()
    try:
        with pytest.raises(ConfigError, match="closed"):
            await function.invoke(tenant_id="one")
        assert not function.environments
    finally:
        await function.close()


# ── initialised ahead ──


@pytest.mark.catalogue("LC-130", "LC-131", "LC-132")
async def test_those_initialised_ahead_come_first_and_others_take_what_is_left(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    cold = await function.invoke()
    assert cold.json()["type"] == "on-demand"
    assert await function.provision()
    assert await function.provision()
    assert (function.provisioned, len(function.environments)) == (2, 3)
    kit.host.account.limit = 1
    ahead = [await begin(function, gate.event) for _ in range(2)]
    assert kit.host.account.busy == 0, "they are nobody else's, so they need no unit"
    spilled = await begin(function, gate.event)
    assert await throttled(function) == CONCURRENT
    gate.open()
    results = [await invoke for invoke in ahead]
    assert {result.json()["type"] for result in results} == {"provisioned-concurrency"}
    assert all(result.report and result.report.init_duration_ms is not None for result in results)
    over = await spilled
    assert (over.json()["type"], me(over)) == ("on-demand", me(cold))
    assert function.provisioned == 2
    assert {record["initializationType"] for record in kit.of("platform.initStart")} == {"on-demand", "provisioned-concurrency"}


@pytest.mark.catalogue("LC-132")
async def test_nothing_spills_over_when_all_that_is_reserved_is_initialised_ahead(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    function.share.set(reserved=1, provisioned=1)
    assert await function.provision()
    invoke = await begin(function, gate.event)
    assert await throttled(function) == RESERVED
    gate.open()
    assert (await invoke).json()["type"] == "provisioned-concurrency"


@pytest.mark.catalogue("LC-132", "IN-064")
async def test_beyond_ten_requests_a_second_they_spill_over(kit: Kit) -> None:
    function = await kit.deploy()
    function.share.set(reserved=None, provisioned=1)
    assert await function.provision()
    types = [(await function.invoke()).json()["type"] for _ in range(11)]
    assert types == ["provisioned-concurrency"] * 10 + ["on-demand"]


@pytest.mark.catalogue("LC-130")
@pytest.mark.parametrize("app", ["import os\nos._exit(3)\n", "raise ValueError('on purpose')\n", "x = ("])
async def test_an_init_ahead_that_fails_leaves_nothing(kit: Kit, app: str) -> None:
    function = await kit.deploy(app)
    assert not await function.provision()
    assert (function.provisioned, function.environments, kit.host.account.busy) == (0, (), 0)
    await function.retire()


@pytest.mark.catalogue("LC-005", "LC-130")
@pytest.mark.parametrize("timeout", [3, 300])
async def test_an_init_ahead_may_take_longer(kit: Kit, timeout: int) -> None:
    gate = kit.gate()
    slow = f"import os, time\nwhile not os.path.exists({str(gate.path)!r}):\n    time.sleep(0.002)\n" + APP
    function = await kit.deploy(slow, timeout=timeout)
    limit = max(130, timeout)

    async def begun() -> asyncio.Future[bool]:
        ahead = asyncio.ensure_future(function.provision())
        await until(lambda: any(e.machine.phase is Phase.INIT_RUNTIME for e in function.environments))
        assert function.provisioned == 0
        return ahead

    late = await begun()
    kit.clock.advance(limit)
    assert not await late
    assert not function.environments
    in_time = await begun()
    kit.clock.advance(limit - 1)
    gate.open()
    assert await in_time
    assert function.provisioned == 1


@pytest.mark.catalogue("LC-130")
async def test_one_whose_init_is_under_way_gets_no_invoke(kit: Kit) -> None:
    gate = kit.gate()
    slow = (
        "import os, time\n"
        "while os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'] != 'on-demand' and not os.path.exists(GATE):\n"
        "    time.sleep(0.002)\n"
    )
    function = await kit.deploy(slow.replace("GATE", repr(str(gate.path))) + APP)
    ahead = asyncio.ensure_future(function.provision())
    await until(lambda: any(e.machine.phase is Phase.INIT_RUNTIME for e in function.environments))
    assert (await function.invoke()).json()["type"] == "on-demand"
    gate.open()
    assert await ahead
    assert (await function.invoke()).json()["type"] == "provisioned-concurrency"


@pytest.mark.catalogue("LC-130")
async def test_whoever_gives_up_waiting_for_an_init_ahead_leaves_nothing(kit: Kit) -> None:
    gate = kit.gate()
    function = await kit.deploy(
        f"import os, time\nwhile not os.path.exists({str(gate.path)!r}):\n    time.sleep(0.002)\n" + APP
    )
    ahead = asyncio.ensure_future(function.provision())
    await until(lambda: any(e.machine.phase is Phase.INIT_RUNTIME for e in function.environments))
    ahead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ahead
    await until(lambda: not function.environments)
    assert function.provisioned == 0


@pytest.mark.catalogue("LC-084", "LC-131")
async def test_one_initialised_ahead_that_failed_begins_again_inside_an_invoke(kit: Kit) -> None:
    function = await kit.deploy()
    assert await function.provision()
    first = (await function.invoke()).json()
    assert (await function.invoke({"do": "exit"})).status == "error"
    after = await function.invoke()
    assert (after.json()["type"], after.json()["calls"]) == ("provisioned-concurrency", 1)
    assert me(after) != first["me"]
    assert [record["phase"] for record in kit.of("platform.initStart")] == ["init", "invoke"]
    assert (function.provisioned, len(function.environments), kit.host.account.busy) == (1, 1, 0)


@pytest.mark.catalogue("LC-130", "LC-100")
async def test_those_initialised_ahead_stay_when_nobody_invokes_them(kit: Kit) -> None:
    function = await kit.deploy()
    assert await function.provision()
    await function.invoke()
    kit.clock.advance(Limits().idle * 2)
    assert (function.provisioned, len(function.environments)) == (1, 1)


@pytest.mark.catalogue("LC-130")
async def test_those_with_nothing_to_do_go_first(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    assert await function.provision()
    assert await function.provision()
    invoke = await begin(function, gate.event)
    await function.unprovision(1)
    assert (function.provisioned, len(function.environments)) == (1, 1)
    gate.open()
    assert (await invoke).status == "ok"
    assert function.provisioned == 1
    await function.unprovision(5)
    assert (function.provisioned, function.environments) == (0, ())
    assert (await function.invoke()).json()["type"] == "on-demand"


@pytest.mark.catalogue("LC-130")
@pytest.mark.parametrize("at_once", [True, False])
async def test_those_at_work_go_when_they_have_done_it(kit: Kit, at_once: bool) -> None:
    function, gate = await kit.deploy(extension=SERVE), kit.gate()
    assert await function.provision()
    assert await function.provision()
    invokes = [await begin(function, gate.event) for _ in range(2)]
    for count in (2,) if at_once else (1, 1):
        await function.unprovision(count)
    assert len(function.environments) == 2
    gate.open()
    assert [(await invoke).status for invoke in invokes] == ["ok", "ok"]
    await until(lambda: all(e.free for e in function.environments))
    assert not function.environments
    await until(lambda: kit.said().count("told spindown") == 2)


@pytest.mark.catalogue("LC-130", "CP-028")
async def test_those_initialised_ahead_retire_with_the_others(kit: Kit) -> None:
    function = await kit.deploy(extension=SERVE)
    assert await function.provision()
    async with asyncio.timeout(10):
        await function.retire()
    assert not function.environments
    assert kit.said() == ["told spindown"]


# ── tenants ──


@pytest.mark.tiers("process", "namespace")
@pytest.mark.catalogue("IN-141", "LC-037")
async def test_tenants_share_neither_environment_nor_tmp(host: Host, folder: MakeFolder) -> None:
    function = await host.deploy(folder(app_py=APP), runtime="python", handler="app.handler")
    ours = await function.invoke({"do": "write"}, tenant_id="tenant:A")
    others = [await function.invoke(tenant_id="tenant:B"), await function.invoke()]
    assert len({me(result) for result in [ours, *others]}) == 3
    assert [result.json()["kept"] for result in [ours, *others]] == [True, False, False]
    again = await function.invoke(tenant_id="tenant:A")
    assert (me(again), again.json()["kept"], again.json()["calls"]) == (me(ours), True, 2)
    assert not [value for value in again.json()["init"] if "tenant:" in value]
    assert len(function.environments) == 3


@pytest.mark.catalogue("IN-141", "IN-062")
async def test_tenants_share_the_function_s_concurrency(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    function.share.set(reserved=1, provisioned=0)
    invoke = await begin(function, gate.event, tenant_id="one")
    assert await throttled(function, tenant_id="two") == await throttled(function) == RESERVED
    gate.open()
    await invoke
    assert (await function.invoke(tenant_id="two")).status == "ok"


@pytest.mark.catalogue("IN-068")
async def test_so_many_environments_may_be_tenants(kit: Kit) -> None:
    function = await kit.deploy()
    kit.host.account.limit = 1
    for tenant in ("one", "two"):
        await function.invoke(tenant_id=tenant)
    with pytest.raises(Throttled, match=r"^Rate exceeded$"):
        await function.invoke(tenant_id="three")
    assert kit.host.account.busy == 0
    assert (await function.invoke()).status == "ok"
    assert (await function.invoke(tenant_id="two")).json()["calls"] == 2
    kit.clock.advance(Limits().idle)
    assert function.share.tenants == 0
    assert (await function.invoke(tenant_id="three")).status == "ok"


@pytest.mark.catalogue("IN-141", "LC-100")
async def test_tenants_who_are_gone_leave_nothing(kit: Kit) -> None:
    function = await kit.deploy()
    for number in range(5):
        await function.invoke(tenant_id=f"tenant{number}")
        if number % 2:
            kit.clock.advance(Limits().idle)
        else:
            await function.shutdown()
        assert (function.environments, function.share.tenants) == ((), 0)
        await until(lambda: all(scheduler.unused for scheduler in function._tenants.values()))
    assert len(function._tenants) == 1


@pytest.mark.catalogue("IN-141")
async def test_a_tenant_who_is_refused_leaves_nothing(kit: Kit) -> None:
    function = await kit.deploy()
    for bad in ("", "x" * 257, "a\nb"):
        with pytest.raises(ConfigError, match="tenant"):
            await function.invoke(tenant_id=bad)
    function.share.set(reserved=0, provisioned=0)
    for number in range(20):
        assert await throttled(function, tenant_id=f"tenant{number}") == RESERVED
    assert len(function._tenants) <= 1


@pytest.mark.catalogue("IN-141", "CP-028")
async def test_environments_of_tenants_retire_with_the_others(kit: Kit) -> None:
    function, gate = await kit.deploy(), kit.gate()
    await function.invoke(tenant_id="one")
    invoke = await begin(function, gate.event, tenant_id="two")
    retiring = asyncio.ensure_future(function.retire())
    await until(lambda: len(function.environments) == 1)
    assert not retiring.done()
    gate.open()
    assert (await invoke).status == "ok"
    await retiring
    assert (function.environments, function.share.tenants) == ((), 0)


async def test_a_function_knows_the_name_that_it_was_invoked_by(kit: Kit) -> None:
    function = await kit.deploy()
    arn = f"{function.config.arn}:live"
    assert (await function.invoke(arn=arn)).json()["arn"] == arn
    assert (await function.invoke()).json()["arn"] == function.config.arn


# ── the end of the log ──


async def tail_of(job: Job) -> list[str]:
    async with asyncio.timeout(20):
        await job.answered
        assert job.tail is not None
        return (await job.tail).decode().splitlines()


def kinds(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if line.split()[0] in ("START", "END", "REPORT")]


@pytest.mark.catalogue("IN-023")
async def test_the_tail_is_the_log_from_start_to_report(kit: Kit) -> None:
    function = await kit.deploy()
    await function.invoke({"do": "print", "lines": ["of another invoke"]})
    job = await function.submit(b'{"do": "print", "lines": ["one", "zwei", "\\u00fc"]}', tail=True)
    lines = await tail_of(job)
    assert lines[0] == f"START RequestId: {job.request_id} Version: $LATEST"
    assert lines[1:4] == ["one", "zwei", "ü"]
    assert lines[4] == f"END RequestId: {job.request_id}"
    assert lines[5].startswith(f"REPORT RequestId: {job.request_id}\tDuration: ")
    assert len(lines) == 6
    await job.reported
    assert job.result.tail.decode().splitlines() == lines
    assert (await function.submit(b"{}")).tail is None


@pytest.mark.catalogue("IN-023")
async def test_of_a_long_log_the_last_four_kilobytes(kit: Kit) -> None:
    function = await kit.deploy()
    event = {"do": "print", "lines": [f"{number:03} " + "ü" * 60 for number in range(200)]}
    job = await function.submit(json.dumps(event).encode(), tail=True)
    await job.answered
    assert job.tail is not None
    tail = await job.tail
    assert len(tail) == LOG_TAIL == 4096
    lines = tail.decode("utf-8", "replace").splitlines()
    assert kinds(lines) == ["END", "REPORT"]
    assert lines[-3] == "199 " + "ü" * 60
    await job.reported
    assert job.result.tail == tail


@pytest.mark.catalogue("IN-023")
@pytest.mark.parametrize(("do", "status"), [("hang", "timeout"), ("exit", "error"), ("fail", None)])
async def test_the_tail_of_an_invoke_that_fails(kit: Kit, do: str, status: str | None) -> None:
    gate = kit.gate()  # an extension that takes its time to end holds nobody up
    function = await kit.deploy(extension=SERVE.replace("break", gate.wait + "\n        break"), timeout=3)
    await function.invoke()
    job = await function.submit(json.dumps({"do": do}).encode(), tail=True)
    if do == "hang":
        await until(lambda: function.environments[0].machine.phase is Phase.INVOKE)
        kit.clock.advance(3)
    lines = await tail_of(job)
    assert kinds(lines) == ["START", "END", "REPORT"]
    if status is not None:
        assert f"\tStatus: {status}" in lines[-1]
    assert not [line for line in lines if line.startswith("sandbox")]
    gate.open()


@pytest.mark.catalogue("IN-023", "LC-004")
@pytest.mark.parametrize("app", ["import os\nprint('at import')\nos._exit(3)\n", "print('at import')\nraise ValueError\n"])
async def test_the_tail_of_an_init_that_fails(kit: Kit, app: str) -> None:
    function = await kit.deploy(app)
    job = await function.submit(b"{}", tail=True)
    lines = await tail_of(job)
    assert "at import" in lines
    assert kinds(lines) == ["START", "END", "REPORT"]
    assert lines[-1].startswith(f"REPORT RequestId: {job.request_id}\t")
    await job.reported
    assert job.result.tail.decode().splitlines() == lines


async def test_the_tail_of_an_environment_that_we_broke(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    function = await kit.deploy()
    await function.invoke()
    monkeypatch.setattr(function.environments[0].machine, "_start_invocation", lambda now: 1 / 0)
    job = await function.submit(b"{}", tail=True)
    await tail_of(job)
    assert job.result.error_type == "Sandbox.Failure"


def slow(gate: Gate) -> str:
    """An extension that holds an invoke until it may go on."""
    held = f'    if event["eventType"] == "INVOKE":\n        {gate.wait}\n        say("after the gate")\n    if event'
    return SERVE.replace("    if event", held)


def figures(report: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition(": ") for part in report.strip().split("\t"))}


@pytest.mark.catalogue("IN-023", "IN-028")
async def test_the_tail_does_not_wait_for_extensions(kit: Kit) -> None:
    gate = kit.gate()
    function = await kit.deploy(extension=slow(gate), memory_mb=256)
    job = await function.submit(b'{"do": "print", "lines": ["one"]}', tail=True)
    lines = await tail_of(job)
    assert not job.is_reported
    assert kinds(lines) == ["START", "END", "REPORT"]
    assert "one" in lines
    assert "after the gate" not in lines
    provisional = figures(lines[-1])
    assert len(kit.of("platform.report")) == 0, "the journal has the final one only"
    kit.clock.advance(1)
    gate.open()
    await job.reported
    final = job.result.tail.decode().splitlines()
    assert "after the gate" in final
    assert kinds(final) == ["START", "END", "REPORT"]
    assert figures(final[-1]).keys() == provisional.keys()
    assert provisional["Init Duration"] == figures(final[-1])["Init Duration"]
    assert provisional["Memory Size"] == "256 MB"
    assert (provisional["Duration"], figures(final[-1])["Duration"]) == ("0.00 ms", "1000.00 ms")
    assert len(kit.of("platform.report")) == 1
    again = await function.submit(b"{}", tail=True)
    assert "Init Duration" not in (await tail_of(again))[-1]


@pytest.mark.catalogue("IN-023", "IN-028", "LC-007")
async def test_a_provisional_report_counts_an_init_inside_the_invoke(kit: Kit) -> None:
    """As the final one does: that Init is part of the invocation's duration, and is billed (BL-005)."""
    gate, imported = kit.gate(), kit.gate()
    app = f"import os, time\nwhile not os.path.exists({str(imported.path)!r}):\n    time.sleep(0.002)\n" + APP
    function = await kit.deploy(app, extension=slow(gate).replace("break", "os._exit(0)"), timeout=20)
    await function.initialise()
    (environment,) = function.environments
    await until(lambda: environment.machine.phase is Phase.INIT_RUNTIME)
    kit.clock.advance(10)  # the limit of an Init on demand
    await at_rest(function)
    job = await function.submit(b"{}", tail=True)
    await until(lambda: environment.machine.phase is Phase.INIT_RUNTIME)
    kit.clock.advance(4)
    imported.open()
    provisional = figures((await tail_of(job))[-1])
    assert not job.is_reported
    gate.open()
    await job.reported
    final = figures(job.result.tail.decode().splitlines()[-1])
    assert (final["Duration"], final["Billed Duration"]) == ("4000.00 ms", "4000 ms")
    assert (provisional["Duration"], provisional["Billed Duration"]) == ("4000.00 ms", "4000 ms")


@pytest.mark.catalogue("IN-023", "IN-028")
@pytest.mark.parametrize("extended", [False, True])
async def test_the_tail_of_a_log_in_json(kit: Kit, extended: bool) -> None:
    gate = kit.gate()
    function = await kit.deploy(extension=slow(gate) if extended else None, log_format="JSON")
    job = await function.submit(b'{"do": "print", "lines": ["{\\"level\\": \\"INFO\\"}"]}', tail=True, tenant_id="one")
    documents = [json.loads(line) for line in await tail_of(job)]
    types = [document.get("type") for document in documents]
    assert types[-1] == "platform.report"
    assert "platform.start" in types
    assert {"level": "INFO"} in documents
    assert types.count("platform.report") == 1
    assert job.is_reported != extended
    gate.open()
    await job.reported
    final = json.loads(job.result.tail.decode().splitlines()[-1])
    assert final["type"] == "platform.report"
    assert documents[-1]["record"]["requestId"] == job.request_id
    missing = final["record"].keys() - documents[-1]["record"].keys()
    assert missing <= {"spans"}, "only what extensions took is not known yet"
