"""A laboratory: one host, one target in it, and everything that can be done to it.

Time in it runs as outside, so that what is measured is true; but no limit comes by itself. A case moves time on, so a slow
machine breaks no requirement, and hours pass at once. Waiting for the target has a limit in real seconds: its patience.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from sandbox.clock import Clock, TravelClock
from sandbox.conformance.target import Target
from sandbox.conformance.verdict import Broken, NotOffered
from sandbox.core.errors import InvariantError
from sandbox.core.events import RUNTIME
from sandbox.core.limits import Limits
from sandbox.host.environment import Environment, Job
from sandbox.host.environment.processes import Exit
from sandbox.host.host import Function, Host
from sandbox.host.result import InvokeResult, ResponseStream
from sandbox.process.isolation import Isolation
from sandbox.telemetry.journal import Journal, Record
from sandbox.wire.tap import Fault, Seen, Tap

_LOOK_EVERY: Final = 0.002  # seconds, for what nobody tells
_NEVER: Final = 1e9  # seconds
_CLOSE_STEP: Final = 0.25  # seconds that are moved on in each look while a host closes
_SHOWN: Final = 2048  # bytes of each body in a transcript
_TIMELINE: Final = frozenset(
    {
        "platform.initStart",
        "platform.initRuntimeDone",
        "platform.initReport",
        "platform.start",
        "platform.runtimeDone",
        "platform.report",
        "platform.extension",
        "platform.telemetrySubscription",
        "sandbox.freeze",
        "sandbox.thaw",
        "sandbox.failure",
        "sandbox.windDown",
    }
)

EMPTY: Final[Mapping[str, Any]] = {}
T = TypeVar("T")


def expect(condition: Any, message: str) -> None:
    """Raises Broken unless the condition holds."""
    if not condition:
        raise Broken(message)


def expect_same(what: str, seen: Any, wanted: Any) -> None:
    """Raises Broken, which shows both, unless they are equal."""
    if seen != wanted:
        raise Broken(f"{what}: {_cropped(wanted)} was expected, {_cropped(seen)} came")


def _cropped(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}… ({len(text)} characters)"


class Lab:
    """What laboratories for each kind of target share. `clock`: real time; the host's own is `time`."""

    def __init__(self, target: Target, clock: Clock, isolation: Isolation) -> None:
        self.target = target
        self.real = clock
        self.time = TravelClock(clock, timers=False)
        self.began = clock.now()
        self.tap = Tap(self.time)
        self.records: list[Record] = []
        self.notes: list[str] = []
        journal = Journal()
        journal.subscribe(self.records.append)
        limits = Limits(idle=_NEVER, lifetime=_NEVER)  # hours that a case lets pass make no new environment
        self.host = Host(clock=self.time, journal=journal, tap=self.tap, isolation=isolation, limits=limits)

    async def try_out(self) -> None:
        """Whether the target can be deployed at all on this machine. Raises ConfigError, Unsupported."""
        raise NotImplementedError

    async def close(self) -> None:
        """Ends everything; what does not end by itself runs into its limit at once."""
        closing = asyncio.ensure_future(self.host.close())
        while not closing.done():
            await self.real.sleep(_LOOK_EVERY)
            self.time.advance(_CLOSE_STEP)
        self.time.close()
        closing.result()

    # ── waiting ──

    async def until(self, what: str, condition: Callable[[], T], patience: float | None = None) -> T:
        """Waits until a condition holds; its value. Raises Broken when the patience is at an end."""
        limit = self.target.patience if patience is None else patience
        end = self.real.now() + limit
        while not (value := condition()):
            if self.real.now() > end:
                raise Broken(f"{what}: not within {limit:g} s. {self.whereabouts()}")
            await self.real.sleep(_LOOK_EVERY)
        return value

    async def wait(self, what: str, waiting: Awaitable[T], patience: float | None = None) -> T:
        """The same for something that is awaited."""
        future = asyncio.ensure_future(waiting)
        try:
            await self.until(what, future.done, patience)
        except Broken:
            if not isinstance(waiting, asyncio.Future):
                future.cancel()
            raise
        return future.result()

    async def pause(self, seconds: float) -> None:
        """Real seconds in which something that must not happen could."""
        await self.real.sleep(seconds)

    def whereabouts(self) -> str:
        """What the target did last, for a person."""
        calls = [seen for seen in self.tap.exchanges if seen.route is not None]
        if not calls:
            said = "It has called nothing yet"
        else:
            last = calls[-1]
            how = "which waits for its reply" if last.status is None else f"answered {last.status}"
            said = f"Its last call was {last.method} {last.path}, {how}"
        printed = [str(record.record).strip() for record in self.records if record.type in ("function", "extension")]
        return f"{said}; it printed last: {printed[-1][:300]!r}" if printed else f"{said}; it has printed nothing"

    # ── what is known ──

    def calls(self, *routes: str) -> list[Seen]:
        """Its calls of these routes; of every Lambda API if none is named."""
        return self.tap.of(*routes) if routes else [seen for seen in self.tap.exchanges if seen.route is not None]

    def one_process(self) -> None:
        """Raises Broken unless all calls came from one environment, none of whose processes has ended."""
        environments = {seen.environment for seen in self.calls()}
        expect(len(environments) == 1, f"{len(environments)} environments were made")
        ended = [one for environment in self.host.environments for one in environment.exits]
        expect(not ended, f"a process ended in between: {words(ended[0]) if ended else ''}")

    def spoil(self, route: str, fault: Fault, **how: Any) -> None:
        """See `Tap.spoil`."""
        self.tap.spoil(route, fault, **how)

    @property
    def printed(self) -> list[str]:
        """Lines of the processes."""
        return [str(record.record) for record in self.records if record.type in ("function", "extension")]

    def transcript(self) -> list[dict[str, Any]]:
        """Every exchange, for reports: times in ms since the laboratory was opened, bodies cropped."""
        return [self._exchange(seen) for seen in self.tap.exchanges]

    def _exchange(self, seen: Seen) -> dict[str, Any]:
        offset = self.began
        document: dict[str, Any] = {
            "atMs": round((seen.sent_at - offset) * 1000, 1),
            "connection": seen.connection,
            "method": seen.method,
            "path": seen.path,
            "headers": seen.fields,
            "body": seen.body[:_SHOWN].decode("utf-8", "replace"),
            "bodySize": seen.size,
            "status": seen.status,
        }
        if seen.trailers:
            document["trailers"] = seen.trailers
        if seen.replied_at is not None:
            document["repliedAtMs"] = round((seen.replied_at - offset) * 1000, 1)
            document["replyHeaders"] = seen.reply_fields
            document["reply"] = seen.reply[:_SHOWN].decode("utf-8", "replace")
            document["replySize"] = seen.reply_size
        if seen.gone:
            document["clientGone"] = True
        if seen.fault is not None:
            document["fault"] = describe(seen.fault)
        return document

    def timeline(self) -> list[dict[str, Any]]:
        """The lifecycle's moments, in ms since the laboratory was opened."""
        found = [record for record in self.records if record.type in _TIMELINE]
        return [
            {"atMs": round((record.mono - self.began) * 1000, 1), "type": record.type, "environment": record.environment}
            for record in found
        ]


def describe(fault: Fault) -> str:
    """A fault in words: what differs from a healthy exchange."""
    healthy = Fault()
    parts = []
    for name in fault.__dataclass_fields__:
        value = getattr(fault, name)
        if value != getattr(healthy, name):
            parts.append(name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {_cropped(value)}")
    return ", ".join(parts) or "none"


class RuntimeLab(Lab):
    """A laboratory for a runtime: one function, one execution environment of it at a time."""

    function: Function

    async def deploy(
        self,
        handler: str = "echo",
        *,
        timeout: float = 300,
        memory: int | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Function:
        """The target with one of the contract's handlers. No process runs yet. Raises NotOffered."""
        if not self.target.offers(handler):
            raise NotOffered(f"handler {handler} is not offered")
        target = self.target
        self.function = await self.host.deploy(
            target.code,
            runtime=target.runtime,
            handler=target.handlers[handler],
            memory_mb=memory or target.memory,
            timeout=timeout,
            layers=(*settings.pop("layers", ()), *target.layers),
            environment={**target.environment, **(environment or {})},
            **settings,
        )
        return self.function

    async def try_out(self) -> None:
        for handler in self.target.handlers:
            await self.deploy(handler)

    @property
    def environment(self) -> Environment:
        environments = self.function.environments
        if not environments:
            raise InvariantError("no environment was made yet")
        return environments[0]

    @property
    def exits(self) -> list[Exit]:
        """How the runtime's processes have ended so far."""
        environments = self.function.environments
        return [one for one in environments[0].exits if one.who == RUNTIME] if environments else []

    async def init(self) -> None:
        """Init without an invoke, to its end: the runtime's poll waits."""
        await self.function.initialise()
        await self.until("the first poll of /invocation/next", lambda: self.calls("next"))
        await self.until("the end of Init", lambda: self.environment.free)

    async def begin(self, event: Any = EMPTY, *, payload: bytes | None = None, **context: Any) -> Job:
        """An invoke that is under way."""
        body = payload if payload is not None else json.dumps(event).encode()
        return await self.wait("a place for the invoke", self.function.submit(body, **context))

    async def answer(self, job: Job) -> InvokeResult:
        await self.wait("an answer", job.answered)
        return job.result

    async def end(self, job: Job) -> InvokeResult:
        """Its result when the runtime has polled again, or has failed."""
        await self.answer(job)
        await self.wait("the next poll", job.reported)
        return job.result

    async def invoke(self, event: Any = EMPTY, *, payload: bytes | None = None, **context: Any) -> InvokeResult:
        """An invoke to its end."""
        return await self.end(await self.begin(event, payload=payload, **context))

    async def stream(self, event: Any) -> tuple[Job, ResponseStream]:
        """An invoke whose answer is read as it comes."""
        stream = self.function.stream()
        job = await self.wait("a place for the invoke", self.function.submit(json.dumps(event).encode(), stream))
        return job, stream

    def read(self, stream: ResponseStream, pause: float = 0.0) -> asyncio.Future[bytes]:
        """All of a stream, read from now on; pause: real seconds after each piece."""

        async def read_all() -> bytes:
            pieces = []
            async for piece in stream:
                pieces.append(piece)
                if pause:
                    await self.real.sleep(pause)
            return b"".join(pieces)

        return asyncio.ensure_future(read_all())

    async def process_ended(self, count: int = 1) -> Exit:
        """How the runtime's process ended."""
        await self.until("the end of the runtime's process", lambda: len(self.exits) >= count)
        return self.exits[count - 1]

    async def goes_on_or_exits(self, polls: int) -> Exit | None:
        """Waits until the runtime polls for the `polls`-th time, or has ended: one of the two, instead of hanging."""
        await self.until(
            "another poll, or the end of the process",
            lambda: len(self.calls("next")) >= polls or self.exits,
        )
        return self.exits[0] if self.exits else None


def words(end: Exit) -> str:
    """How a process ended, for a person."""
    return f"exit status {end.code}" if end.code is not None else f"signal {signal.Signals(end.signal or 0).name}"
