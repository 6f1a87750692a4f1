"""What an invoke comes back with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sandbox.clock import Clock
from sandbox.core.errors import FunctionFailure
from sandbox.core.limits import LOG_TAIL, STREAM_BURST, STREAM_RATE
from sandbox.core.parties import milliseconds
from sandbox.telemetry.journal import Record
from sandbox.telemetry.levels import LogView

_QUEUE_BYTES: Final = 256 * 1024  # a stream's reader may be this far behind before the runtime is made to wait


class Report(NamedTuple):
    """The figures of REPORT. Times in ms, memory in MB of 1,024 KB. init_duration_ms only after a cold Init (TL-075).
    max_memory_used_mb: None for a runtime that its user started.
    runtime_note: that the interpreter is another one than was asked for, or none of AWS's."""

    duration_ms: float
    billed_duration_ms: int
    memory_size_mb: int
    max_memory_used_mb: int | None
    status: str
    init_duration_ms: float | None = None
    error_type: str | None = None
    runtime_note: str | None = None

    def document(self) -> dict[str, Any]:
        """The keys of `--json`."""
        document: dict[str, Any] = {"durationMs": self.duration_ms, "billedDurationMs": self.billed_duration_ms}
        if self.init_duration_ms is not None:
            document["initDurationMs"] = self.init_duration_ms
        document |= {"memorySizeMB": self.memory_size_mb, "maxMemoryUsedMB": self.max_memory_used_mb, "status": self.status}
        if self.error_type is not None:
            document["errorType"] = self.error_type
        if self.runtime_note is not None:
            document["runtimeNote"] = self.runtime_note
        return document


class Phase(NamedTuple):
    """One stretch of the timeline. start_ms counts from the moment the invoke was asked for; None is unknown."""

    name: str
    start_ms: float | None
    duration_ms: float | None

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "startMs": self.start_ms, "durationMs": self.duration_ms}


class ExtensionCost(NamedTuple):
    """What one extension took. Times in ms, memory in MB; None is unknown, or does not apply.

    type: external or internal. init_ms: from its start (an internal one: from its register) to its first poll.
    after_response_ms: from the runtime's answer to its next poll; after_runtime_ms: from the runtime's own next poll, which is
    how long it kept the environment from its freeze. telemetry: its subscription's figures, in records.
    """

    name: str
    type: str
    events: list[str]
    state: str
    init_ms: float | None = None
    after_response_ms: float | None = None
    after_runtime_ms: float | None = None
    max_memory_used_mb: int | None = None
    telemetry: dict[str, int] | None = None

    def document(self) -> dict[str, Any]:
        """The keys of `--json`."""
        document: dict[str, Any] = {"name": self.name, "type": self.type, "events": self.events, "state": self.state}
        document |= {"initMs": self.init_ms, "afterResponseMs": self.after_response_ms}
        document |= {"afterRuntimeMs": self.after_runtime_ms, "maxMemoryUsedMB": self.max_memory_used_mb}
        return document | {"telemetry": self.telemetry}


class Account(NamedTuple):
    """What an environment wrote down of one invoke, at its REPORT. Figures are made of it when somebody asks.

    record: that of platform.report. phases: (name, start on the machine's clock, ms). origin: when the invoke was asked for.
    extensions: the record of sandbox.extensions, empty without any. view: the function's log format and levels.
    """

    record: dict[str, Any]
    phases: list[tuple[str, float | None, float | None]]
    origin: float
    records: list[Record]
    extensions: dict[str, Any]
    view: LogView


@dataclass(slots=True)
class InvokeResult:
    """The answer to one invoke.

    payload: the bytes that the caller gets. function_error: None, or "Unhandled" (IN-021). status: ok, error, timeout or
    failure, as the caller sees it. error_phase: "init" or "invoke" if the platform ended it. error_cause: what the runtime's
    client reported for X-Ray (RT-098). report, phases and records are there once everybody has polled again; `invoke` waits
    for that unless told not to.
    """

    request_id: str
    invocation_id: str
    payload: bytes = b""
    content_type: str = "application/json"
    function_error: str | None = None
    executed_version: str = "$LATEST"
    status: str = "ok"
    error_type: str | None = None
    error_phase: str | None = None
    error_cause: dict[str, Any] | None = None
    account: Account | None = None

    @property
    def report(self) -> Report | None:
        """The figures of REPORT; None before it."""
        if self.account is None:
            return None
        record = self.account.record
        metrics = record["metrics"]
        return Report(
            metrics["durationMs"],
            metrics["billedDurationMs"],
            metrics["memorySizeMB"],
            metrics.get("maxMemoryUsedMB"),
            record["status"],
            metrics.get("initDurationMs"),
            record.get("errorType"),
            record.get("runtimeNote"),
        )

    @property
    def phases(self) -> list[Phase]:
        """The timeline: init, extension-init, runtime-init and function-init of each Init, and invoke."""
        if self.account is None:
            return []
        origin = self.account.origin
        return [
            Phase(name, milliseconds(at - origin) if at is not None else None, duration)
            for name, at, duration in self.account.phases
        ]

    @property
    def extensions(self) -> list[ExtensionCost]:
        """What each extension took of this invoke."""
        costs = self.account.extensions.get("extensions", []) if self.account is not None else []
        return [
            ExtensionCost(
                cost["name"],
                cost["type"],
                cost["events"],
                cost["state"],
                cost["initMs"],
                cost.get("afterResponseMs"),
                cost.get("afterRuntimeMs"),
                cost.get("maxMemoryUsedMB"),
                cost.get("telemetry"),
            )
            for cost in costs
        ]

    @property
    def held_open_by(self) -> str | None:
        """The extension that polled last, after the runtime had: who kept the environment from its freeze."""
        return self.account.extensions.get("heldOpenBy") if self.account is not None else None

    @property
    def held_open_ms(self) -> float | None:
        """For how long it did, in ms."""
        return self.account.extensions.get("heldOpenMs") if self.account is not None else None

    @property
    def records(self) -> list[Record]:
        """Every record from the end of the invoke before it to its REPORT."""
        return self.account.records if self.account is not None else []

    @property
    def log(self) -> list[str]:
        """The log lines of this invoke, from the end of the one before it to its REPORT."""
        if self.account is None:
            return []
        return [line for record in self.account.records for line in self.account.view.lines(record)]

    @property
    def tail(self) -> bytes:
        """The end of its log, as LogType Tail has it."""
        return log_tail(self.account.records, self.account.view) if self.account is not None else b""

    def json(self) -> Any:
        """The payload, parsed. Raises ValueError if it is not JSON."""
        return json.loads(self.payload)

    def check(self) -> InvokeResult:
        """Itself, or FunctionFailure if the function failed."""
        if self.function_error is None:
            return self
        try:
            document = json.loads(self.payload)
            error_type, message = document.get("errorType"), document.get("errorMessage")
        except (ValueError, AttributeError):
            error_type, message = None, self.payload.decode("utf-8", "replace")
        raise FunctionFailure(str(error_type or self.error_type or ""), str(message or ""))


def log_tail(records: Iterable[Record], view: LogView) -> bytes:
    """IN-023: the last 4 KB of these records' log; neither INIT_START is in it (recorded), nor what only we say."""
    shown = [record for record in records if not record.type.startswith(("sandbox.", "platform.initStart"))]
    lines = [line for record in shown for line in view.lines(record)]
    lines = [f"{line}\t" if line.startswith("REPORT RequestId: ") else line for line in lines]  # recorded
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")[-LOG_TAIL:]


class Bucket:
    """RT-075: a stream's first 6 MiB pass at once, then 2 MiB a second."""

    def __init__(self, clock: Clock, burst: float = STREAM_BURST, rate: float = STREAM_RATE) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._level = float(burst)
        self._at = clock.now()

    def take(self, size: int) -> float:
        """Takes `size` bytes; returns how many seconds to wait before they may go."""
        now = self._clock.now()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - size
        self._at = now
        return max(0.0, -self._level / self._rate)


class ResponseStream:
    """An answer as it comes: `async for chunk in stream`, then `stream.result`.

    A reader that is slow makes the runtime wait; one that leaves (breaks the loop, or calls close) does not (RT-078).
    result.function_error and error_type tell of an error in mid-stream.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bucket = Bucket(clock)
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queued = 0
        self.produced = 0  # bytes that the runtime has sent, whoever read them
        self._left = self._over = False
        self._error: Exception | None = None
        self._flow: Any = None  # the exchange that the chunks come from, while it can be paused
        self.content_type: str | None = None
        self.result: InvokeResult | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._chunks.get()) is not None:
                self._queued -= len(chunk)
                if self._flow is not None and self._queued < _QUEUE_BYTES:
                    self._flow.resume()
                if (wait := self._bucket.take(len(chunk))) > 0:
                    await self._clock.sleep(wait)
                yield chunk
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        """Reads no more: the function goes on without its caller."""
        self._left = True
        if self._flow is not None:
            self._flow.resume()

    # ── for the environment ──

    def begin(self, content_type: str, flow: Any) -> None:
        self.content_type = content_type
        self._flow = flow

    def push(self, chunk: bytes) -> None:
        if not self._over:
            self.produced += len(chunk)
        if chunk and not self._left:
            self._queued += len(chunk)
            self._chunks.put_nowait(chunk)
            if self._flow is not None and self._queued > _QUEUE_BYTES:
                self._flow.pause()

    def fail(self, error: Exception) -> None:
        self._error = error
        self.end()

    def end(self) -> None:
        self._left = self._over = True  # what a runtime that was cut off still sends is dropped
        if self._flow is not None:
            self._flow.resume()
            self._flow = None
        self._chunks.put_nowait(None)
