"""The accounts of one environment: records for the journal, the log and the figures of each invoke.

Durations come from the machine; this only adds what the machine does not know: names, memory, the mark of function init.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sandbox.clock import Clock
from sandbox.core.effects import Emit
from sandbox.core.events import RUNTIME
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import LAST_OUTPUT_LINES, LAST_REFUSALS, MIB, REFUSALS_TOLD, RESULT_LOG_LIMIT
from sandbox.core.parties import milliseconds
from sandbox.host.environment.job import Job
from sandbox.host.result import Account, log_tail
from sandbox.host.runtimes import Plan
from sandbox.process.output import Line, Mark
from sandbox.telemetry.delivery import Dropped, Standing
from sandbox.telemetry.journal import Journal, Record
from sandbox.telemetry.levels import LogView

_RECORD: Final = 100  # what a record counts besides its text
_CROPPED: Final = 400  # characters of what a peer says that a record keeps


class Ledger:
    """Writes records, and keeps those of the invoke under way: from the end of one REPORT to the next."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        function: FunctionConfig,
        name: str,
        plan: Plan,
        measured_peak: Callable[[], int | None],
        take: Callable[[Record], None],
    ) -> None:
        """take: gets every record that subscribers of the Telemetry API may want."""
        self._journal = journal
        self._clock = clock
        self._function = function
        self._name = name
        self._runtime_version = plan.version
        self._view = LogView.of(function)
        self._with_extensions = bool(plan.extensions)
        self._note = plan.interpreter.note if plan.interpreter else None
        self._measured_peak = measured_peak
        self._take = take
        self._records: deque[Record] = deque()
        self._size = 0
        self._left_out = 0
        self._current: str | None = None  # request id, from START to REPORT
        self._wall_offset = clock.wall() - clock.now()
        self._marks: dict[int, float] = {}
        self._phases: list[tuple[str, float | None, float | None]] = []
        self._init_at = 0.0
        self._runtime_at: float | None = None
        self._invoke_at = 0.0
        self._extensions: dict[str, Any] | None = None  # what they cost, of the invoke that is being closed
        self._last_lines: dict[str, deque[str]] = {}
        self._refused: dict[tuple[str, str, str], int] = {}  # how often, since the last REPORT
        self._refusals: deque[tuple[str | None, str]] = deque(maxlen=LAST_REFUSALS)

    # ── what is written ──

    def line(self, who: str, line: Line) -> None:
        """One line of output of the runtime (internal extensions with it) or an extension (EX-016)."""
        if who not in self._last_lines:
            self._last_lines[who] = deque(maxlen=LAST_OUTPUT_LINES)
        self._last_lines[who].append(line.text)
        now = self._clock.now()
        wall = now + self._wall_offset if line.time is None else line.time
        size = len(line.text) + _RECORD
        if who == RUNTIME:
            self._add(now, wall, "function", line.text, self._current, size)
        else:
            self._add(now, wall, "extension", line.text, self._current, size, who)

    def last_lines(self, who: str) -> list[str]:
        """The newest output of one process of this generation."""
        return list(self._last_lines.get(who, ()))

    def subscribed(self, name: str, api: str, types: tuple[str, ...], *, again: bool) -> None:
        """TL-082. again: in place of an earlier subscription of this generation."""
        type_ = "platform.telemetrySubscription" if api == "Telemetry" else "platform.logsSubscription"
        record = {"name": name, "state": "Already subscribed" if again else "Subscribed", "types": list(types)}
        now = self._clock.now()
        self._add(now, now + self._wall_offset, type_, record, self._current, _RECORD)

    def dropped(self, name: str, lost: Dropped) -> Record:
        """TL-083: what a subscriber has lost. The record is for that subscriber alone."""
        record = {"reason": lost.reason, "droppedRecords": lost.records, "droppedBytes": lost.size}
        now = self._clock.now()
        return self._add(now, now + self._wall_offset, "platform.logsDropped", record, self._current, _RECORD, name)

    def diagnosis(self, text: str, request_id: str | None) -> None:
        self._add(self._clock.now(), self._clock.wall(), "sandbox.diagnosis", text, request_id, len(text) + _RECORD)

    def moment(self, type_: str) -> None:
        """Something that has no more to say than when it was: sandbox.freeze, sandbox.thaw."""
        now = self._clock.now()
        self._add(now, now + self._wall_offset, type_, {}, self._current, _RECORD)

    def refusal(self, method: str, target: str, status: int, error_type: str, message: str, extension: str | None) -> None:
        """A request that got an error for an answer. Of many of one kind only the first are told, until the next REPORT."""
        target, message = target[:_CROPPED], message[:_CROPPED]
        kind = (method, target, error_type)
        count = self._refused.get(kind, 0) + 1
        self._refusals.append((extension, f"{method} {target}: {status} {error_type}: {message}"))
        if count > REFUSALS_TOLD or (count == 1 and len(self._refused) >= REFUSALS_TOLD):
            return
        self._refused[kind] = count
        if count == REFUSALS_TOLD:
            message += " (further ones like it are not told until the next invoke)"
        record = {"method": method, "target": target, "status": status, "errorType": error_type, "message": message}
        now, size = self._clock.now(), len(target) + len(message) + _RECORD
        self._add(now, now + self._wall_offset, "sandbox.refused", record, self._current, size, extension)

    def refusals(self, extension: str) -> list[str]:
        """The newest refusals of this generation that an extension got, or somebody whom nobody knows."""
        return [text for name, text in self._refusals if name in (None, extension)]

    def mistake(self, what: str, error: BaseException) -> None:
        """A mistake of our own. The journal gets where it happened; a person gets a sentence."""
        trace = "".join(traceback.format_exception(error))
        self._add(self._clock.now(), self._clock.wall(), "sandbox.mistake", {"error": what, "trace": trace}, None, _RECORD)
        text = f"sandbox: a mistake of lambda-sandbox itself ended this environment: {what}"
        self.diagnosis(f"{text}\nsandbox:   what to do: please report it, with the file that --journal FILE writes", None)

    def mark(self, mark: Mark) -> None:
        """Function init begins or has ended, on the wall clock of the runtime."""
        self._marks[mark.number] = mark.time - self._clock.wall() + self._clock.now()

    def spawned(self) -> None:
        """The runtime process starts: what was before belongs to extension init."""
        self._runtime_at = self._clock.now()
        self._marks = {}

    def costs(self, effect: Emit, memory: Callable[[str], int | None], standing: Callable[[str], Standing | None]) -> None:
        """sandbox.extensions, with what the machine does not know: memory, and how telemetry fared."""
        for cost in effect.record["extensions"]:
            if (peak := memory(cost["name"])) is not None:
                cost["maxMemoryUsedMB"] = -(-peak // MIB)
            if (figures := standing(cost["name"])) is not None:
                cost["telemetry"] = _telemetry(figures, "pendingRecords")
        self._extensions = effect.record
        self.emit(effect, None)

    def wind_down(self, effect: Emit, standing: Callable[[str], Standing | None]) -> None:
        """sandbox.windDown, with what subscribers had not been given when they were ended."""
        for extension in effect.record["extensions"]:
            if (figures := standing(extension["name"])) is not None:
                extension["telemetry"] = _telemetry(figures, "undeliveredRecords")
        self.emit(effect, None)

    def emit(self, effect: Emit, job: Job | None) -> None:
        """A record of the machine, completed."""
        record, type_ = effect.record, effect.type
        if job is not None:  # platform.start, runtimeDone, report
            record["tracing"] = {"type": "X-Amzn-Trace-Id", "value": job.trace_id}  # TL-085
            if job.tenant_id is not None:
                record["tenantId"] = job.tenant_id
        if type_ == "platform.start":
            record["version"] = self._function.version
            self._current = record["requestId"]
            self._invoke_at = effect.at
            self._wall_offset = self._clock.wall() - self._clock.now()  # fresh for each invoke: the wall clock may be set
        elif type_ == "platform.report":
            self._complete_report(record)
        elif type_ == "platform.initStart":
            self._wall_offset = self._clock.wall() - self._clock.now()
            self._begin_init(effect.at, record)
        elif type_ == "platform.initReport":
            self._init_phases(effect.at)
        self._add(effect.at, effect.at + self._wall_offset, type_, record, self._current, _RECORD)
        if type_ == "platform.report":
            self._current = None
            if job is not None:
                self._close(job, effect, record)

    def _complete_report(self, record: dict[str, Any]) -> None:
        record["metrics"]["memorySizeMB"] = self._function.memory_mb
        if (peak := self._measured_peak()) is not None:
            record["metrics"]["maxMemoryUsedMB"] = -(-peak // MIB)  # BL-016: rounded up
        if self._note is not None:
            record["runtimeNote"] = self._note

    def _begin_init(self, at: float, record: dict[str, Any]) -> None:
        self._init_at, self._runtime_at = at, None
        record |= {"functionName": self._function.name, "functionVersion": self._function.version}
        record |= {"instanceId": self._name, "instanceMaxMemory": self._function.memory_mb}
        if self._runtime_version is not None:
            record["runtimeVersion"] = self._runtime_version
        self._last_lines.clear()
        self._refusals.clear()
        self._refused.clear()

    def _add(
        self,
        mono: float,
        wall: float,
        type_: str,
        record: Any,
        request_id: str | None,
        size: int,
        extension: str | None = None,
    ) -> Record:
        entry = self._journal.append(mono, wall, self._name, type_, record, request_id, extension)
        self._take(entry)
        self._records.append(entry)
        self._size += size
        while self._size > RESULT_LOG_LIMIT and len(self._records) > 1:
            dropped = self._records.popleft()
            self._size -= _RECORD + (len(dropped.record) if isinstance(dropped.record, str) else 0)
            self._left_out += 1
        return entry

    # ── what an invoke comes back with ──

    def tail(self, report: dict[str, Any] | None) -> bytes:
        """The end of the log of the invoke under way; report: a provisional platform.report, to end it with."""
        records = list(self._records)
        if report is not None:
            self._complete_report(report)
            now, wall = self._clock.now(), self._clock.wall()
            records.append(Record(0, now, wall, self._name, "platform.report", report, self._current))
        return log_tail(records, self._view)

    def _init_phases(self, now: float) -> None:
        self._phases.append(("init", self._init_at, milliseconds(now - self._init_at)))
        runtime = self._runtime_at
        if runtime is None:
            return
        if self._with_extensions:
            self._phases.append(("extension-init", self._init_at, milliseconds(runtime - self._init_at)))
        began, ended = self._marks.get(1), self._marks.get(2)
        for name, start, end in (("runtime-init", runtime, began), ("function-init", began, ended)):
            self._phases.append((name, start, milliseconds(end - start) if start is not None and end is not None else None))

    def _close(self, job: Job, effect: Emit, record: dict[str, Any]) -> None:
        self._phases.append(("invoke", self._invoke_at, milliseconds(effect.at - self._invoke_at)))
        if self._left_out:
            note = f"sandbox: {self._left_out} earlier records are left out here; the journal has them"
            first = self._records[0]
            self._records.appendleft(first._replace(type="sandbox.diagnosis", record=note))
            self._left_out = 0
        records, costs = list(self._records), self._extensions or {}
        job.result.account = Account(record, self._phases, job.accepted_at, records, costs, self._view)
        self._phases, self._extensions = [], None
        self._refused.clear()
        self._records.clear()
        self._size = 0


def _telemetry(figures: Standing, left: str) -> dict[str, int]:
    """In records; batches are requests that were answered, retries those that were not. left: what those not delivered are."""
    document = {"deliveredRecords": figures.delivered, "droppedRecords": figures.dropped, left: figures.undelivered}
    return document | {"batches": figures.batches, "retries": figures.retries}
