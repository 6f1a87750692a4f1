"""Adds up what is billed, from the journal's REPORT records on, and writes it to the store."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sandbox.clock import Clock
from sandbox.control.store import Store
from sandbox.control.tables import Tables
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import EVENT_CHUNK, EVENT_FIRST_CHUNK, STREAM_FREE
from sandbox.host.scheduler import PROVISIONED
from sandbox.telemetry.journal import Record

if TYPE_CHECKING:
    from sandbox.host.environment import Environment, Job

_EVERY: Final = 1.0  # seconds between two writes
TYPES: Final = ("platform.report", "platform.initReport")


class Bill(NamedTuple):
    """What a total is of."""

    function: str
    version: str
    day: str
    architecture: str
    memory_mb: int
    tmp_mb: int
    provisioned: bool


@dataclass(slots=True)
class Total:
    """requests: as many as REPORT lines. further_requests: of large events. billed_ms: the sum of Billed Duration.

    init_ms: of Inits ahead of invokes. streamed_bytes: beyond what is free of each request.
    """

    requests: int = 0
    further_requests: int = 0
    billed_ms: int = 0
    init_ms: int = 0
    streamed_bytes: int = 0


class ProvisionedTime(NamedTuple):
    """So many environments of one version were provisioned from `begun` to `ended`, seconds since the epoch."""

    function: str
    version: str
    architecture: str
    memory_mb: int
    units: int
    begun: float
    ended: float


class Totals:
    """environment_of: an execution environment by its name. provisioned: what is provisioned now, by function and version: how
    many environments, their memory in MB and architecture; `look` is to be called when that changes. Subscribe it to TYPES.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        environment_of: Callable[[str], Environment | None],
        provisioned: Callable[[], dict[tuple[str, str], tuple[int, int, str]]],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._environment_of = environment_of
        self._provisioned = provisioned
        self._on_trouble = on_trouble
        self._new: dict[Bill, Total] = {}
        self._times: dict[tuple[str, str], ProvisionedTime] = {}  # that go on
        self._ended: list[ProvisionedTime] = []
        self._told = False
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def __call__(self, record: Record) -> None:
        environment = self._environment_of(record.environment)
        if environment is None:
            return
        ahead = environment.machine.initialization_type == PROVISIONED
        metrics = record.record["metrics"]
        if record.type == "platform.report":
            total = self._total(environment.function, record.wall, ahead=ahead)
            total.requests += 1
            total.billed_ms += metrics["billedDurationMs"]
        elif ahead and record.record.get("phase", "init") == "init":
            self._total(environment.function, record.wall, ahead=True).init_ms += math.ceil(metrics["durationMs"])

    def _total(self, config: FunctionConfig, wall: float, *, ahead: bool) -> Total:
        day = f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d}"
        bill = Bill(config.name, config.version, day, config.architecture, config.memory_mb, config.tmp_mb, ahead)
        total = self._new.get(bill)
        if total is None:
            total = self._new[bill] = Total()
            if self._task is None:
                self.begin()
        return total

    def event(self, job: Job, config: FunctionConfig | None, size: int) -> None:
        """BL-011: an attempt of an asynchronous event is more than one request if it is large."""
        if size > EVENT_FIRST_CHUNK:
            further = -(-(size - EVENT_FIRST_CHUNK) // EVENT_CHUNK)
            self._at_report(job, config, lambda total: _add(total, "further_requests", further))

    def stream(self, job: Job, config: FunctionConfig | None) -> None:
        """BL-013: what a request streams beyond the first 6 MB."""
        stream = job.stream
        assert stream is not None
        self._at_report(job, config, lambda total: _add(total, "streamed_bytes", max(0, stream.produced - STREAM_FREE)))

    def _at_report(self, job: Job, config: FunctionConfig | None, add: Callable[[Total], None]) -> None:
        """config: of the function, if its environment is gone by then."""

        def reported(_: asyncio.Future[None]) -> None:
            if job.result.account is None:
                return
            record = job.result.account.records[-1]
            environment = self._environment_of(record.environment)
            of = environment.function if environment is not None else config
            if of is not None:
                ahead = environment is not None and environment.machine.initialization_type == PROVISIONED
                add(self._total(of, record.wall, ahead=ahead))

        job.reported.add_done_callback(reported)

    # ── on disk ──

    def begin(self) -> None:
        """Writes what is new every second, from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_often())

    async def _write_often(self) -> None:
        while True:
            await self.write()
            await self._clock.sleep(_EVERY)

    async def write(self) -> None:
        """What is new is in the store then; if the disk is full, the next time."""
        await asyncio.shield(asyncio.ensure_future(self._write()))  # to its end, even if nobody waits any more

    async def _write(self) -> None:
        async with self._writing:
            self.look()
            new, self._new = self._new, {}
            ended, self._ended = self._ended, []
            times = [*ended, *self._times.values()]
            if not new and not times:
                return
            try:
                await self._store.transact(lambda tables: _write(tables, new, times))
            except (sqlite3.Error, OSError) as error:
                if not self._told:
                    self._told = True
                    self._on_trouble(f"what is billed cannot be written now, and is kept in memory: {error}")
                self._ended = ended + self._ended
                for bill, total in new.items():
                    known = self._new.setdefault(bill, Total())
                    for field in fields(Total):
                        _add(known, field.name, getattr(total, field.name))

    def look(self) -> None:
        """Sees what is provisioned now: what was, and is not any more, has ended."""
        wall = self._clock.wall()
        now = self._provisioned()
        for key, time in list(self._times.items()):
            ended = time._replace(ended=max(wall, time.ended))
            if now.get(key) == (time.units, time.memory_mb, time.architecture):
                self._times[key] = ended
            else:
                del self._times[key]
                self._ended.append(ended)
        for key, (units, memory, architecture) in now.items():
            if key not in self._times:
                self._times[key] = ProvisionedTime(*key, architecture, memory, units, wall, wall)

    async def close(self) -> None:
        """Everything is written then."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.write()
        if self._new or self._ended:
            self._on_trouble("what was billed last could not be written: it is missing from the report")


def _add(total: Total, name: str, value: int) -> None:
    setattr(total, name, getattr(total, name) + value)


def _write(tables: Tables, new: dict[Bill, Total], times: list[ProvisionedTime]) -> None:
    names = [field.name for field in fields(Total)]
    for bill, total in new.items():
        tables.add_total(bill._asdict(), {name: getattr(total, name) for name in names})
    for time in times:
        tables.put_provisioned_time(time._asdict())


def read(tables: Tables) -> tuple[list[tuple[Bill, Total]], list[ProvisionedTime]]:
    """Everything that was billed."""
    rows: list[dict[str, Any]] = tables.totals()
    bills = []
    for row in rows:
        of = {name: row.pop(name) for name in Bill._fields}
        bills.append((Bill(**of | {"provisioned": bool(of["provisioned"])}), Total(**row)))
    return bills, [ProvisionedTime(**row) for row in tables.provisioned_times()]
