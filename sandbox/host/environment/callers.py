"""Those who wait for an answer of one environment: what they get, and when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

from sandbox.core import effects as fx
from sandbox.core import errors
from sandbox.core.function import FunctionConfig
from sandbox.host.environment import answers
from sandbox.host.environment.diagnosis import init_hint
from sandbox.host.environment.job import Job
from sandbox.host.environment.ledger import Ledger
from sandbox.wire.http1 import Exchange

# These come from the wire, in AWS's words for them: no request id in front.
_WIRE_ERRORS: Final = (errors.RESPONSE_TOO_LARGE, errors.BAD_RESPONSE_MODE, errors.TRUNCATED_RESPONSE)


class Callers:
    """The jobs of one environment, by invocation id. init_error: the body that the runtime posted to init/error, if any.

    A job is given its answer once (`give`, `failed`, `platform_error`), and is done with at its REPORT (`finish`).
    """

    def __init__(self, function: FunctionConfig, ledger: Callable[[], Ledger]) -> None:
        self._function = function
        self._ledger = ledger
        self.jobs: dict[str, Job] = {}
        self.init_error: bytes | None = None

    def give(self, job: Job) -> None:
        """The caller's answer is whole."""
        job.result.executed_version = self._function.version
        stream = job.stream
        if stream is not None:
            if stream.content_type is None:  # it came whole
                stream.content_type = job.result.content_type
                if job.result.function_error is None:
                    stream.push(job.result.payload)
            stream.result = job.result
            stream.end()
        if not job.answered.done():
            job.answered.set_result(None)
            job.tell_answer()  # the caller's answer is on its way before the runtime's

    def answered(self, effect: fx.Answered, exchange: Exchange) -> None:
        """The runtime has answered."""
        job = self.jobs[effect.invocation_id]
        answers.take_answer(job, exchange, error=effect.error)
        self.give(job)

    def failed(self, effect: fx.Failed) -> None:
        """The platform answers instead of the runtime."""
        job = self.jobs[effect.invocation_id]
        if effect.reported and self.init_error is not None:
            result = job.result
            result.function_error, result.status = answers.UNHANDLED, "error"
            result.error_type, result.error_phase = effect.error_type, effect.phase
            result.payload = self.init_error  # RT-102
            hint = init_hint(answers.error_type_in(result.payload), self._function)
            if hint is not None:
                self._ledger().diagnosis(hint, job.request_id)
            self.give(job)
        else:
            message = effect.message
            if effect.error_type not in _WIRE_ERRORS:
                message = errors.platform_message(job.request_id, message)
            self.platform_error(job, effect.error_type, message, effect.status, effect.phase)
        if not job.started:
            self.finish(job)  # it never came to a START, so there is no REPORT to wait for

    def platform_error(self, job: Job, error_type: str, message: str, status: str, phase: str) -> None:
        result = job.result
        result.function_error, result.status = answers.UNHANDLED, status
        result.error_type, result.error_phase = error_type, phase
        result.content_type = "application/json"
        result.payload = answers.error_document(error_type, message)
        self.give(job)

    def broken(self, what: str) -> None:
        """A mistake of ours has ended the environment: whoever still waits is told."""
        for job in list(self.jobs.values()):
            self.platform_error(job, errors.SANDBOX_FAILURE, what, "failure", "invoke")
            self.finish(job)

    def finish(self, job: Job) -> None:
        """Its REPORT is out, or there will be none."""
        self.jobs.pop(job.invocation_id, None)
        if job.tail is not None and not job.tail.done():
            job.tail.set_result(job.result.tail if job.result.account is not None else self._ledger().tail(None))
        job.finish()

    def runtime_done(self, job: Job, effect: fx.Emit, init_ms: float | None, duration_ms: float) -> None:
        """The runtime has polled again, and whoever wants the log waits no longer (DECISIONS "LogResult").

        While extensions still run, the log ends with a REPORT that is provisional; journal and billing have the final one.
        init_ms: of the Init that this REPORT tells of. duration_ms: since the invoke began, an Init inside it included.
        """
        if job.tail is not None:
            asyncio.get_running_loop().call_soon(self._tell_tail, job, effect, init_ms, duration_ms)

    def _tell_tail(self, job: Job, effect: fx.Emit, init_ms: float | None, duration: float) -> None:
        if job.tail is None or job.tail.done():
            return
        done = effect.record
        metrics: dict[str, Any] = {"durationMs": duration, "billedDurationMs": math.ceil(round(duration + (init_ms or 0.0), 3))}
        if init_ms is not None:
            metrics["initDurationMs"] = init_ms
        same = ("requestId", "status", "errorType", "tracing", "tenantId")
        report = {key: done[key] for key in same if key in done} | {"metrics": metrics}
        job.tail.set_result(self._ledger().tail(report))
