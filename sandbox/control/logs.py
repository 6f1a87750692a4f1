"""The log of every function as it comes: on a stream, with the function's name in front; and elsewhere, to CloudWatch Logs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from sandbox.core.function import FunctionConfig
from sandbox.telemetry.journal import Record
from sandbox.telemetry.levels import LogView

FunctionOf = Callable[[str], FunctionConfig | None]

_SILENT: Final = frozenset({"sandbox.freeze", "sandbox.thaw"})  # of each invoke, and never in a log
_VIEWS: Final = 4096  # environments that are remembered
_BACKLOG: Final = 100_000  # lines that CloudWatch may be behind before some are dropped
_BACKLOG_BYTES: Final = 64 * 1024 * 1024  # … and bytes
_BATCH_LINES: Final = 10_000  # PutLogEvents: events of one batch …
_BATCH_BYTES: Final = 1_000_000  # … and bytes, a little below the limit
_LINE_COST: Final = 26  # PutLogEvents: what an event counts besides its text


class Views:
    """How the log of each environment looks, and whose it is. An environment's function never changes."""

    def __init__(self, function_of: FunctionOf) -> None:
        self._function_of = function_of
        self._known: dict[str, tuple[FunctionConfig, LogView]] = {}

    def lines(self, record: Record) -> tuple[FunctionConfig, list[str]] | None:
        """The function that a record belongs to, and the log lines that it makes."""
        known = self._known.get(record.environment)
        if known is None:
            function = self._function_of(record.environment)
            if function is None:
                return None
            if len(self._known) >= _VIEWS:
                self._known.clear()
            known = self._known[record.environment] = function, LogView.of(function)
        return known[0], known[1].lines(record)


class Printer:
    """A journal's subscriber. What comes in one turn of the event loop is written at once."""

    def __init__(self, out: BinaryIO, function_of: FunctionOf) -> None:
        self._out = out
        self._views = Views(function_of)
        self._lines: list[str] = []

    def __call__(self, record: Record) -> None:
        if record.type in _SILENT:
            return
        found = self._views.lines(record)
        if found is None or not found[1]:
            return
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        name, lines = found[0].name, found[1]
        self._lines += [f"{name} | {part}\n" for line in lines for part in line.split("\n")]

    def flush(self) -> None:
        text, self._lines = "".join(self._lines), []
        try:
            self._out.write(text.encode("utf-8", "replace"))
            self._out.flush()
        except (OSError, ValueError):  # nobody reads the log any more: functions go on
            pass


class LogLine(NamedTuple):
    """wall: seconds since the epoch."""

    wall: float
    function: str
    version: str
    request_id: str | None
    message: str


class Shipper(ABC):
    """A journal's subscriber that brings logs somewhere else, in a thread of its own: a log group a function, a stream an
    environment. What it is too slow for is dropped, and told.

    on_trouble: told, once for each kind, of what does not arrive.
    """

    what = ""  # in words, for `on_trouble`
    every = 1.0  # seconds between two deliveries

    def __init__(self, function_of: FunctionOf, on_trouble: Callable[[str], None]) -> None:
        self._views = Views(function_of)
        self._on_trouble = on_trouble
        self._lines: deque[tuple[str, str, LogLine]] = deque()
        self._size = self._dropped = 0
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._delivering = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=self.what, daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> None:
        if record.type.startswith("sandbox."):
            return
        found = self._views.lines(record)
        if found is None:
            return
        function = found[0]
        for text in found[1]:
            if not text:
                continue
            if len(self._lines) >= _BACKLOG or self._size >= _BACKLOG_BYTES:
                self._dropped += 1
            else:
                self._size += len(text)
                line = LogLine(record.wall, function.name, function.version, record.request_id, text)
                self._lines.append((function.log_group, record.environment, line))

    @abstractmethod
    def deliver(self, group: str, stream: str, lines: list[LogLine]) -> None:
        """Called in the thread. Raises whatever keeps them from arriving."""

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            self.deliver_now()
        self.deliver_now()
        with contextlib.suppress(RuntimeError):  # nobody has waited for it, and the loop is closed
            self._loop.call_soon_threadsafe(self._ended.set)

    def deliver_now(self) -> None:
        """What has come so far is there when this returns."""
        with self._delivering:
            self._size = 0
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            streams: dict[tuple[str, str], list[LogLine]] = {}
            for group, stream, line in taken:
                streams.setdefault((group, stream), []).append(line)
            for (group, stream), lines in streams.items():
                try:
                    self.deliver(group, stream, lines)
                except Exception as error:  # the disk's, botocore's, urllib3's: whatever it is, functions go on
                    kind = getattr(error, "strerror", None) or str(error).rpartition(":")[2]
                    self._tell(kind, f"{self.what}: {len(lines)} lines were not delivered: {error}")
            if self._dropped:
                self._tell("dropped", f"{self.what}: it is too slow: {self._dropped} lines were dropped")
                self._dropped = 0

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._on_trouble(text)

    async def close(self) -> None:
        """Delivers what is left, and ends; who does not want to wait for that cancels it."""
        self._stop.set()
        await self._ended.wait()


class CloudWatch(Shipper):
    """Sends logs to a CloudWatch Logs service. client: botocore's for `logs`."""

    what = "CloudWatch Logs"

    def __init__(self, client: Any, *rest: Any) -> None:
        self._client = client
        self._known: set[tuple[str, str]] = set()
        super().__init__(*rest)

    def deliver(self, group: str, stream: str, lines: list[LogLine]) -> None:
        for batch in _batches([(int(line.wall * 1000), line.message) for line in lines]):
            self._put(group, stream, batch)

    def _put(self, group: str, stream: str, batch: list[tuple[int, str]]) -> None:
        events = [{"timestamp": at, "message": line} for at, line in sorted(batch, key=lambda line: line[0])]
        names = {"logGroupName": group, "logStreamName": stream}
        if (group, stream) in self._known:
            try:
                self._client.put_log_events(**names, logEvents=events)
                return
            except self._client.exceptions.ResourceNotFoundException:  # somebody has deleted it, or the service is another
                self._known.discard((group, stream))
        for make, those in ((self._client.create_log_group, ("logGroupName",)), (self._client.create_log_stream, names)):
            try:
                make(**{name: names[name] for name in those})
            except self._client.exceptions.ResourceAlreadyExistsException:
                pass
        self._known.add((group, stream))
        self._client.put_log_events(**names, logEvents=events)


def _batches(lines: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for at, line in lines:
        cost = len(line.encode("utf-8", "replace")) + _LINE_COST
        if batch and (len(batch) >= _BATCH_LINES or size + cost > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((at, line))
        size += cost
    if batch:
        yield batch
