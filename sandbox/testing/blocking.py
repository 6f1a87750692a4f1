"""The same for tests without asyncio: the host runs on a thread of its own, and each call waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sandbox.clock import SystemClock
from sandbox.core.events import RUNTIME
from sandbox.core.limits import Limits
from sandbox.host.environment import Job
from sandbox.host.environment.processes import Exit
from sandbox.host.result import InvokeResult
from sandbox.telemetry.journal import Record
from sandbox.testing.laboratory import LOOK_EVERY, PATIENCE, Deployed, Files, Lapse, Sandbox
from sandbox.wire.tap import Fault, Seen

T = TypeVar("T")


class _Thread:
    """An event loop on a thread, which lives as long as the processes that it starts."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="lambda-sandbox", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for it; one who is interrupted (Ctrl-C) leaves nothing running."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        async def called() -> T:
            return function(*arguments, **named)

        return self.run(called())

    def stop(self) -> None:
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class BlockingSandbox:
    """`with BlockingSandbox() as box`: see `Sandbox`, whose arguments and methods it has."""

    def __init__(
        self, *, limits: Limits | None = None, isolation: str = "auto", network: str = "auto", patience: float = PATIENCE
    ) -> None:
        self._settings: dict[str, Any] = {
            "limits": limits,
            "isolation": isolation,
            "network": network,
            "patience": patience,
        }
        self._thread: _Thread | None = None
        self._sandbox: Sandbox | None = None

    def __enter__(self) -> BlockingSandbox:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """For who has no `with`: unittest's setUp. `close` belongs to it."""
        self._thread = _Thread()
        try:
            self._sandbox = self._thread.run(self._make())
        except BaseException:
            self._thread.stop()
            raise

    async def _make(self) -> Sandbox:
        return await Sandbox(**self._settings).__aenter__()

    def close(self) -> None:
        """Kills what still runs."""
        thread, box = self._thread, self._sandbox
        self._thread = self._sandbox = None
        if thread is not None:
            try:
                if box is not None:
                    thread.run(box.close())
            finally:
                thread.stop()

    @property
    def thread(self) -> _Thread:
        if self._thread is None:
            raise RuntimeError("the sandbox is not open: `with BlockingSandbox() as box`")
        return self._thread

    @property
    def sandbox(self) -> Sandbox:
        """What it stands for; touched on its own thread only."""
        if self._sandbox is None:
            raise RuntimeError("the sandbox is not open: `with BlockingSandbox() as box`")
        return self._sandbox

    def deploy(
        self,
        code: str | Path | Files | None = None,
        *,
        bootstrap: str | Path | None = None,
        extensions: Iterable[str | Path] = (),
        layers: Iterable[str | Path] = (),
        **settings: Any,
    ) -> BlockingDeployed:
        """See `Sandbox.deploy`."""
        work = self.sandbox.deploy(code, bootstrap=bootstrap, extensions=extensions, layers=layers, **settings)
        return BlockingDeployed(self, self.thread.run(work))

    def advance(self, seconds: float) -> None:
        """See `Sandbox.advance`."""
        self.thread.call(self.sandbox.advance, seconds)

    def spoil(self, route: str, fault: Fault, *, skip: int = 0, times: float = 1) -> None:
        """See `Sandbox.spoil`."""
        self.thread.call(self.sandbox.spoil, route, fault, skip=skip, times=times)

    def slow(self, route: str, seconds: float, *, skip: int = 0, times: float = 1) -> None:
        """See `Sandbox.slow`."""
        self.thread.call(self.sandbox.slow, route, seconds, skip=skip, times=times)

    def lost(self, route: str, *, skip: int = 0, times: float = 1) -> None:
        """See `Sandbox.lost`."""
        self.thread.call(self.sandbox.lost, route, skip=skip, times=times)

    def truncated(self, route: str, size: int, *, skip: int = 0, times: float = 1) -> None:
        """See `Sandbox.truncated`."""
        self.thread.call(self.sandbox.truncated, route, size, skip=skip, times=times)

    def refused(self, route: str, status: int = 500, *, skip: int = 0, times: float = 1) -> None:
        """See `Sandbox.refused`."""
        self.thread.call(self.sandbox.refused, route, status, skip=skip, times=times)

    def until(self, what: str, condition: Callable[[], T]) -> T:
        """See `Sandbox.until`; the condition runs on the thread of the test, so it may ask the sandbox."""
        clock, pause = SystemClock(), threading.Event()
        end = clock.now() + self.sandbox.patience
        while not (value := condition()):
            if clock.now() > end:
                raise self.thread.call(self.sandbox.failed, what)
            pause.wait(LOOK_EVERY)
        return value


class BlockingDeployed:
    """See `Deployed`, whose methods it has."""

    def __init__(self, box: BlockingSandbox, deployed: Deployed) -> None:
        self.box = box
        self.deployed = deployed

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return self.box.thread.call(function, *arguments)

    def initialise(self) -> None:
        """See `Deployed.initialise`."""
        self.box.thread.run(self.deployed.initialise())

    def invoke(self, event: Any = None, *, payload: bytes | None = None, **context: Any) -> InvokeResult:
        """See `Deployed.invoke`."""
        return self.box.thread.run(self.deployed.invoke(event, payload=payload, **context))

    def begin(self, event: Any = None, *, payload: bytes | None = None, **context: Any) -> Job:
        """See `Deployed.begin`."""
        return self.box.thread.run(self.deployed.begin(event, payload=payload, **context))

    def result(self, job: Job) -> InvokeResult:
        """See `Deployed.result`."""
        return self.box.thread.run(self.deployed.result(job))

    def freeze(self) -> None:
        """See `Deployed.freeze`."""
        self._call(self.deployed.freeze)

    def thaw(self) -> None:
        """See `Deployed.thaw`."""
        self._call(self.deployed.thaw)

    def kill(self, who: str = RUNTIME) -> None:
        """See `Deployed.kill`."""
        self._call(self.deployed.kill, who)

    def shutdown(self, reason: str = "spindown") -> None:
        """See `Deployed.shutdown`."""
        self.box.thread.run(self.deployed.shutdown(reason))

    @property
    def exits(self) -> list[Exit]:
        """See `Deployed.exits`."""
        return self._call(lambda: self.deployed.exits)

    def calls(self, *routes: str) -> list[Seen]:
        """See `Deployed.calls`."""
        return self._call(self.deployed.calls, *routes)

    def records(self, *types: str) -> list[Record]:
        """See `Deployed.records`."""
        return self._call(self.deployed.records, *types)

    @property
    def output(self) -> list[str]:
        """See `Deployed.output`."""
        return self._call(lambda: self.deployed.output)

    @property
    def phases(self) -> list[tuple[str, str]]:
        """See `Deployed.phases`."""
        return self._call(lambda: self.deployed.phases)

    @property
    def lapses(self) -> list[Lapse]:
        """See `Deployed.lapses`."""
        return self._call(lambda: self.deployed.lapses)

    def expect_phases(self, *names: str) -> None:
        """See `Deployed.expect_phases`."""
        self._call(self.deployed.expect_phases, *names)

    def expect_calls(self, *routes: str) -> None:
        """See `Deployed.expect_calls`."""
        self._call(self.deployed.expect_calls, *routes)

    def expect_deadlines_kept(self) -> None:
        """See `Deployed.expect_deadlines_kept`."""
        self._call(self.deployed.expect_deadlines_kept)
