"""A host for one test: real processes, time that can be moved on, all traffic seen, every reply spoilt on request."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from sandbox.clock import SystemClock, TravelClock
from sandbox.core.errors import ConfigError
from sandbox.core.events import RUNTIME
from sandbox.core.limits import Limits
from sandbox.host.environment import Environment, Job
from sandbox.host.environment.processes import Exit
from sandbox.host.host import Function, Host
from sandbox.host.result import InvokeResult
from sandbox.telemetry.journal import Journal, Record
from sandbox.wire.tap import Fault, Seen, Tap

LOOK_EVERY: Final = 0.002  # seconds, for what nobody tells
PATIENCE: Final = 10.0  # real seconds that a test waits for a process

Files = Mapping[str, str | bytes]
T = TypeVar("T")


class Failed(AssertionError):
    """What a test expected did not come; the message says where the processes were."""


class Lapse(NamedTuple):
    """A deadline that was missed. who: "runtime" or an extension's name. seconds: late by so much; None if it was killed."""

    who: str
    what: str
    seconds: float | None


class Sandbox:
    """`async with Sandbox() as box`: a host whose clock is `box.advance`d and whose traffic is seen.

    Time runs as outside, and can be moved on besides: `advance(900)` and every limit of a quarter of an hour goes off. limits:
    other time limits than AWS's. isolation, network: as `Host` has them. patience: real seconds before a wait is given up.
    """

    def __init__(
        self, *, limits: Limits | None = None, isolation: str = "auto", network: str = "auto", patience: float = PATIENCE
    ) -> None:
        self.patience = patience
        self._real = SystemClock()
        self.clock = TravelClock(self._real)
        self.tap = Tap(self.clock)
        self.journal: list[Record] = []
        journal = Journal()
        journal.subscribe(self.journal.append)
        self.host = Host(clock=self.clock, journal=journal, tap=self.tap, limits=limits, isolation=isolation, network=network)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._folders = 0

    async def __aenter__(self) -> Sandbox:
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-test-")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Kills what still runs: a test that wants a Shutdown asks for one."""
        self.host.kill()
        closing = asyncio.ensure_future(self.host.close())
        while not closing.done():
            await self._real.sleep(LOOK_EVERY)
            self.clock.advance(0.25)
        self.clock.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        closing.result()

    async def deploy(
        self,
        code: str | Path | Files | None = None,
        *,
        bootstrap: str | Path | None = None,
        extensions: Iterable[str | Path] = (),
        layers: Iterable[str | Path] = (),
        **settings: Any,
    ) -> Deployed:
        """A function, a bare runtime, or either with extensions; no process runs yet.

        code: a folder, a .zip, or files by their names ({"app.py": "…"}). bootstrap: an executable that is the runtime; `code`
        may be left out then. extensions: executables, each of which is put into a layer of its own. settings: those of
        `Host.deploy` (runtime, handler, timeout in seconds, memory_mb, environment …). Raises ConfigError, Unsupported.
        """
        if code is None and bootstrap is None:
            raise ConfigError("deploy: `code` or `bootstrap` is needed")
        if not isinstance(code, str | Path):
            code = self._folder_of(code or {})
        if bootstrap is not None:
            code = self._with_bootstrap(Path(code), Path(bootstrap))
            settings = {"runtime": "provided", "handler": "handler", **settings}
        made = [self._layer_of(Path(extension)) for extension in extensions]
        config = {"layers": [*map(str, layers), *map(str, made)], **settings}
        return Deployed(self, await self.host.deploy(str(code), **config))

    def advance(self, seconds: float) -> None:
        """Moves time on; every limit that is due on the way goes off. Processes see the machine's own time."""
        self.clock.advance(seconds)

    # ── faults ──

    def spoil(self, route: str, fault: Fault, *, skip: int = 0, times: float = 1) -> None:
        """Gives a fault to the next `times` exchanges of a route ("next", "response", "event/next" … see wire.tap.ROUTES)."""
        self.tap.spoil(route, fault, skip=skip, times=times)

    def slow(self, route: str, seconds: float, *, skip: int = 0, times: float = 1) -> None:
        """The reply is held back for seconds of the box's time."""
        self.spoil(route, Fault(hold=seconds), skip=skip, times=times)

    def lost(self, route: str, *, skip: int = 0, times: float = 1) -> None:
        """The host hears the request; its reply never comes, and the connection ends."""
        self.spoil(route, Fault(lost=True), skip=skip, times=times)

    def truncated(self, route: str, size: int, *, skip: int = 0, times: float = 1) -> None:
        """So many bytes of the reply's body come, then the connection ends."""
        self.spoil(route, Fault(cut=size), skip=skip, times=times)

    def refused(self, route: str, status: int = 500, *, skip: int = 0, times: float = 1) -> None:
        """The host never hears the request, which is answered with this status."""
        self.spoil(route, Fault(reaches_host=False, status=status), skip=skip, times=times)

    # ── waiting ──

    async def until(self, what: str, condition: Callable[[], T]) -> T:
        """Waits until a condition holds; its value. what: for the message. Raises Failed when the patience is at an end."""
        end = self._real.now() + self.patience
        while not (value := condition()):
            if self._real.now() > end:
                raise self.failed(what)
            await self._real.sleep(LOOK_EVERY)
        return value

    async def wait(self, what: str, waiting: Awaitable[T]) -> T:
        """The same for something that is awaited; a future is not cancelled."""
        future = asyncio.ensure_future(waiting)
        try:
            await self.until(what, future.done)
        except Failed:
            if not isinstance(waiting, asyncio.Future):
                future.cancel()
            raise
        return future.result()

    def failed(self, what: str) -> Failed:
        """What to raise when something has not come."""
        return Failed(f"{what}: not within {self.patience:g} s. {self.whereabouts()}")

    def whereabouts(self) -> str:
        """The last call of an API and the last output, for a person."""
        calls = [seen for seen in self.tap.exchanges if seen.route is not None]
        said = "No process has called an API"
        if calls:
            how = "which waits for its reply" if calls[-1].status is None else f"answered {calls[-1].status}"
            said = f"The last call was {calls[-1].method} {calls[-1].path}, {how}"
        printed = [str(one.record).strip() for one in self.journal if one.type in ("function", "extension")]
        return f"{said}; printed last: {printed[-1][:300]!r}" if printed else f"{said}; nothing was printed"

    # ── folders ──

    def _new(self) -> Path:
        if self._folder is None:
            raise ConfigError("the sandbox is not open: `async with Sandbox() as box`")
        self._folders += 1
        made = Path(self._folder.name, str(self._folders))
        made.mkdir()
        return made

    def _folder_of(self, files: Files) -> Path:
        where = self._new()
        for name, content in files.items():
            file = where / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
            if name == "bootstrap":
                file.chmod(0o755)
        return where

    def _with_bootstrap(self, code: Path, bootstrap: Path) -> Path:
        if not code.is_dir():
            raise ConfigError(f"{code}: with `bootstrap`, the code is a folder or files")
        where = self._new() / "code"
        shutil.copytree(code, where, symlinks=True)
        self._put(bootstrap, where / "bootstrap")
        return where

    def _layer_of(self, extension: Path) -> Path:
        where = self._new()
        (where / "extensions").mkdir()
        self._put(extension, where / "extensions" / extension.name)
        return where

    def _put(self, file: Path, place: Path) -> None:
        if not file.is_file():
            raise ConfigError(f"{file}: there is no such file")
        shutil.copyfile(file, place)
        place.chmod(0o755)


class Deployed:
    """A function in a sandbox, with its environments; made by `Sandbox.deploy`."""

    def __init__(self, box: Sandbox, function: Function) -> None:
        self.box = box
        self.function = function
        self._known: dict[str, Environment] = {}

    # ── its life ──

    async def initialise(self) -> None:
        """Init without an invoke, to its end. Raises Failed if it does not come to one."""
        await self.function.initialise()
        made = self._look()[-1]

        def over() -> bool:
            polls = [seen for seen in self.calls("next") if seen.environment == made.name]
            failed = [one for one in self.records("platform.initReport") if one.record["status"] != "success"]
            return bool(polls and made.free) or any(one.environment == made.name for one in failed)

        await self.box.until("the end of Init: the polls of the runtime and of every extension", over)

    async def invoke(self, event: Any = None, *, payload: bytes | None = None, **context: Any) -> InvokeResult:
        """An invoke to its end, when the runtime and every extension have polled again. context: see `Function.job`."""
        return await self.result(await self.begin(event, payload=payload, **context))

    async def begin(self, event: Any = None, *, payload: bytes | None = None, **context: Any) -> Job:
        """An invoke that is under way; see `result`."""
        body = payload if payload is not None else json.dumps({} if event is None else event).encode()
        job = await self.box.wait("a place for the invoke", self.function.submit(body, **context))
        self._look()
        return job

    async def result(self, job: Job) -> InvokeResult:
        """The result of an invoke that was begun, at its end."""
        await self.box.wait("an answer", job.answered)
        await self.box.wait("the next polls, which end the invoke", job.reported)
        self._look()
        return job.result

    @property
    def environment(self) -> Environment:
        """Its first execution environment. Raises Failed if there is none."""
        environments = self._look()
        if not environments:
            raise Failed("there is no execution environment: nobody has initialised or invoked it, or it was shut down")
        return environments[0]

    def freeze(self) -> None:
        """SIGSTOP to all processes of its environments, whatever they do."""
        self._signal("STOP")

    def thaw(self) -> None:
        """SIGCONT to them."""
        self._signal("CONT")

    def kill(self, who: str = RUNTIME) -> None:
        """SIGKILL to one process of each environment: "runtime", or an extension by its name. What follows is a reset."""
        self._signal("KILL", who)

    def _signal(self, name: str, who: str | None = None) -> None:
        self.environment  # noqa: B018 (it raises if there is none)
        for environment in self._look():
            environment.signal(name, who)

    async def shutdown(self, reason: str = "spindown") -> None:
        """A Shutdown; returns when every process has ended. reason: spindown, timeout or failure."""
        self._look()
        await self.function.shutdown(reason)

    def _look(self) -> tuple[Environment, ...]:
        found = self.function.environments
        self._known.update((one.name, one) for one in found)
        return found

    # ── what was seen ──

    @property
    def exits(self) -> list[Exit]:
        """How its processes ended: who, code, signal."""
        self._look()
        return [end for environment in self._known.values() for end in environment.exits]

    def calls(self, *routes: str) -> list[Seen]:
        """The calls that its processes made, oldest first; of these routes if any is named."""
        self._look()
        return [
            seen
            for seen in self.box.tap.exchanges
            if seen.environment in self._known and (seen.route in routes if routes else seen.route is not None)
        ]

    def records(self, *types: str) -> list[Record]:
        """Its telemetry, as the Telemetry API has it, oldest first; of these types if any is named."""
        self._look()
        return [one for one in self.box.journal if one.environment in self._known and (not types or one.type in types)]

    @property
    def output(self) -> list[str]:
        """What its processes printed, line by line."""
        return [str(one.record).rstrip("\n") for one in self.records("function", "extension")]

    @property
    def phases(self) -> list[tuple[str, str]]:
        """The phases that are over, with their statuses: [("init", "success"), ("invoke", "success")]."""
        found = []
        for one in self.records("platform.initReport", "platform.report"):
            name = "init" if one.type == "platform.initReport" else "invoke"
            found.append((name, str(one.record["status"])))
        return found

    @property
    def lapses(self) -> list[Lapse]:
        """The deadlines that were missed: answers after the Deadline-Ms of their event, processes that Shutdown killed."""
        return [*self._late_answers(), *self._killed()]

    def _late_answers(self) -> Iterable[Lapse]:
        offset = self.box.clock.wall() - self.box.clock.now()
        deadlines = {
            seen.replied("Lambda-Runtime-Aws-Request-Id"): int(seen.replied("Lambda-Runtime-Deadline-Ms") or 0) / 1000
            for seen in self.calls("next")
            if seen.status == 200
        }
        for seen in self.calls("response", "error"):
            request = seen.path.rsplit("/", 2)[-2]
            late = seen.sent_at + offset - deadlines.get(request, float("inf"))
            if late > 0:
                yield Lapse("runtime", f"the answer to {request}", late)

    def _killed(self) -> Iterable[Lapse]:
        for end in self.exits:
            if end.signal == 9:
                yield Lapse(end.who, "its process was killed", None)

    # ── assertions ──

    def expect_phases(self, *names: str) -> None:
        """Raises Failed unless exactly these phases went well, in this order: expect_phases("init", "invoke")."""
        wanted = [(name, "success") for name in names]
        if self.phases != wanted:
            raise Failed(f"the phases: {wanted} was expected, {self.phases} came. {self.box.whereabouts()}")

    def expect_calls(self, *routes: str) -> None:
        """Raises Failed unless exactly these calls were made, in this order."""
        made = [seen.route for seen in self.calls()]
        if made != list(routes):
            raise Failed(f"the calls: {list(routes)} was expected, {made} came. {self.box.whereabouts()}")

    def expect_deadlines_kept(self) -> None:
        """Raises Failed if an answer came after its deadline, or a process had to be killed."""
        if self.lapses:
            said = "; ".join(
                f"{one.who}: {one.what}" + (f", {one.seconds:.3f} s late" if one.seconds is not None else "")
                for one in self.lapses
            )
            raise Failed(f"deadlines were missed: {said}. {self.box.whereabouts()}")
