"""The inbox, the timers, the connections and the callers of one execution environment.

`feed` is the only way in. Events are taken one at a time, so the machine is never re-entered and needs no locks.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.clock import Clock, Handle
from sandbox.core import effects as fx
from sandbox.core import errors
from sandbox.core.errors import InvariantError
from sandbox.core.events import ClientGone, Event, Invoke, Shutdown, Start, Timer
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import STREAM_LIMIT, Limits
from sandbox.core.machine import Machine
from sandbox.host.environment.diagnosis import Scene, explain, init_hint
from sandbox.host.environment.job import Job
from sandbox.host.environment.ledger import Ledger
from sandbox.host.environment.processes import Processes
from sandbox.host.folders import make_folder, remove_tree
from sandbox.host.interpreters import Interpreter
from sandbox.host.runtimes import Plan, plan
from sandbox.package.package import Package
from sandbox.process.variables import DUMMY_CREDENTIALS, Identity
from sandbox.telemetry.journal import Journal
from sandbox.wire.http1 import Exchange
from sandbox.wire.runtime_api import RuntimeApi, error_cause, error_payload

_UNHANDLED = "Unhandled"  # IN-021


class Environment:
    """One execution environment of one function version. `open`, then `submit` invokes, then `shutdown`.

    interpreter: of the managed runtime; None for a custom one. on_idle: called when it can take another invoke. take_work:
    asked for a waiting job just before it would be frozen. on_broken: called when a mistake of ours has ended it.
    """

    def __init__(
        self,
        function: FunctionConfig,
        package: Package | None,
        journal: Journal,
        clock: Clock,
        *,
        interpreter: Interpreter | None = None,
        limits: Limits | None = None,
        credentials: Mapping[str, str] | None = None,
        on_idle: Callable[[Environment], None] | None = None,
        take_work: Callable[[Environment], Job | None] | None = None,
        on_broken: Callable[[Environment], None] | None = None,
    ) -> None:
        self.function = function
        self._package = package
        self._interpreter = interpreter
        self.clock = clock
        self.limits = limits or Limits()
        self.machine = Machine(limits=self.limits)
        self.name = f"{_date(clock)}/[{function.version}]{uuid.uuid4().hex}"  # EN-009
        self.address = ""  # host:port of its Runtime API, once it is open
        self._journal = journal
        self._credentials = dict(credentials if credentials is not None else DUMMY_CREDENTIALS)
        self._on_idle = on_idle
        self._take_work = take_work
        self._on_broken = on_broken
        self._api = self._make_api()
        self._inbox: deque[Event] = deque()
        self._handle, self._now = self.machine.handle, clock.now
        self._busy = False
        self._drained = False  # a poll has just been heard, and before it all that was printed
        self._timers: dict[str, _Timer] = {}
        self._jobs: dict[str, Job] = {}
        self._init_error: bytes | None = None
        self._folder: Path | None = None
        self._lock = -1  # a descriptor that says, as long as it is open, that the folder is in use
        self._server: asyncio.AbstractServer | None = None
        self._closed = asyncio.Event()
        self._broken: BaseException | None = None
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            fx.Deliver: self._deliver,
            fx.Accept: self._accept,
            fx.Refuse: self._refuse,
            fx.Spawn: self._spawn,
            fx.Signal: self._signal,
            fx.SetTimer: self._set_timer,
            fx.Emit: self._emit,
            fx.Begun: self._begun,
            fx.Answered: self._answered,
            fx.Failed: self._failed,
            fx.Closed: self._close,
        }

    # ── from outside ──

    async def open(self) -> None:
        """Makes the listener, the folders and the first process; Init has not begun yet. Raises SandboxError, OSError."""
        self._processes = self._make_processes()
        try:
            await self._processes.open()  # first: it gets ready while the rest is made
            self._folder, self._lock = make_folder()
            # RT-002: the listener accepts before any process of the function is started.
            listener = self._listen()
            self._server = await asyncio.get_running_loop().create_server(self._api.protocol, sock=listener)
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
            identity = Identity(self.address, self.name, self.machine.initialization_type)
            self.plan: Plan = await self._furnish(self._folder, identity)
            peak = self._processes.measured_peak
            self._ledger = Ledger(self._journal, self.clock, self.function, self.name, self.plan, peak)
            self._processes.begin(self.plan, self._ledger)
        except BaseException:
            await self._processes.close()
            await self._remove()
            raise

    def _make_api(self) -> RuntimeApi:
        return RuntimeApi(self.feed, self._before_poll)

    def _make_processes(self) -> Processes:
        return Processes(self.clock, self.limits, self.function.memory_mb, self.feed, self._break, self._api.has_unread)

    def _listen(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0), backlog=256)

    async def _furnish(self, folder: Path, identity: Identity) -> Plan:
        """Puts code and layers into its folder."""
        assert self._package is not None
        placing = asyncio.ensure_future(asyncio.to_thread(self._package.place, folder / "task", folder / "opt"))
        try:
            await asyncio.shield(placing)
        except asyncio.CancelledError:
            await asyncio.wait([placing])  # else the folder would be removed while it is being filled
            raise
        return plan(self.function, self._interpreter, str(folder), identity, self._credentials)

    def start(self) -> None:
        """Begins Init without an invoke."""
        self.feed(Start())

    def submit(self, job: Job) -> None:
        """Gives it an invocation. Only when `free` or `about_to_be_free`."""
        self._jobs[job.invocation_id] = job
        if self._broken is not None:
            self._platform_error(job, errors.SANDBOX_FAILURE, "this environment has ended", "failure", "invoke")
            self._finish(job)
            return
        self.feed(Invoke(job.invocation_id, job.request_id, self.function.timeout))

    @property
    def free(self) -> bool:
        return self.machine.free and self._broken is None

    @property
    def about_to_be_free(self) -> bool:
        return self.machine.about_to_be_free and self._broken is None

    async def shutdown(self, reason: str = "spindown") -> None:
        """Ends it; returns when every process is dead and its folders are gone (LC-110)."""
        if not self._closed.is_set():
            self.feed(Shutdown(reason))
        await self._closed.wait()
        await self._processes.close()
        await self._remove()

    async def _remove(self) -> None:
        self._api.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for timer in self._timers.values():
            timer.handle.cancel()
        self._timers.clear()
        if self._folder is not None:
            await asyncio.to_thread(remove_tree, self._folder)
            os.close(self._lock)
            self._folder = None

    # ── the inbox ──

    def feed(self, event: Event) -> None:
        """One event for the machine; everything that follows from it is done on return."""
        inbox = self._inbox
        if self._busy or self._broken is not None:
            inbox.append(event)
            return
        self._busy = True
        handle, perform, now = self._handle, self._perform, self._now
        try:
            for effect in handle(event, now()):
                perform[type(effect)](effect)
            while inbox:
                for effect in handle(inbox.popleft(), now()):
                    perform[type(effect)](effect)
        except Exception as error:  # whatever it is, it is ours
            self._break(error)
        finally:
            self._busy = False

    def _break(self, error: BaseException) -> None:
        """Our mistake: this environment ends, and whoever waits for it is told. Nothing is swallowed."""
        if self._broken is not None:
            return
        self._broken = error
        what = str(error) if isinstance(error, InvariantError) else f"{type(error).__name__}: {error}"
        self._ledger.mistake(what, error)
        self._inbox.clear()
        for job in list(self._jobs.values()):
            self._platform_error(job, errors.SANDBOX_FAILURE, what, "failure", "invoke")
            self._finish(job)
        self._processes.signal(fx.Signal(fx.EVERYONE, "KILL"))
        self._closed.set()
        if self._on_broken is not None:
            self._on_broken(self)

    def _before_poll(self) -> None:
        """Before the runtime's poll is told: its output belongs to this invoke, and work that waits spares a freeze."""
        self._processes.drain(end_lines=True)
        self._drained = True
        if self._take_work is not None and (job := self._take_work(self)) is not None:
            self.submit(job)

    # ── effects → connections ──

    def _deliver(self, effect: fx.Deliver) -> None:
        job = self._jobs[effect.invocation_id]
        if job.event is None:
            left = self.machine.invocations[effect.invocation_id].deadline - self.clock.now()
            job.deliver_as(int((self.clock.wall() + left) * 1000))  # RT-023: epoch milliseconds
        assert job.event is not None
        job.deliveries += 1
        if not self._api.deliver(effect.conn, job.event):
            self._inbox.append(ClientGone(effect.conn))

    def _accept(self, effect: fx.Accept) -> None:
        exchange = self._api.exchange(effect.conn)
        if exchange is not None and exchange.note is None and exchange.target.endswith(b"/init/error"):
            self._init_error = error_payload(exchange)[0]
        self._api.accept(effect.conn)

    def _refuse(self, effect: fx.Refuse) -> None:
        self._api.refuse(effect.conn, effect.status, effect.error_type, effect.message)

    def _begun(self, effect: fx.Begun) -> None:
        """A body is on its way: a caller who streams gets it as it comes."""
        job, exchange = self._jobs[effect.invocation_id], self._api.exchange(effect.conn)
        if job.stream is None or exchange is None or not exchange.target.endswith(b"/response"):
            return
        job.stream.begin(_content_type(exchange), exchange)
        chunks = exchange.take_chunks()
        exchange.limit, exchange.sink = STREAM_LIMIT, job.stream.push
        for chunk in chunks:
            job.stream.push(chunk)

    def _answered(self, effect: fx.Answered) -> None:
        job, exchange = self._jobs[effect.invocation_id], self._api.exchange(effect.conn)
        assert exchange is not None
        result = job.result
        result.content_type = _content_type(exchange)
        mid_stream = exchange.trailers.get(b"lambda-runtime-function-error-type")
        if effect.error and mid_stream is not None and not exchange.target.endswith(b"/error"):
            self._error_in_mid_stream(job, exchange, mid_stream)
        elif effect.error:
            result.function_error, result.status = _UNHANDLED, "error"
            result.payload, result.content_type = error_payload(exchange)
            result.error_type = _error_type_in(result.payload) or self._api.error_type(exchange)
            result.error_cause = error_cause(exchange)
        else:
            result.payload = exchange.body
        self._give(job)

    def _error_in_mid_stream(self, job: Job, exchange: Exchange, error_type: bytes) -> None:
        """RT-072: the type and, in base64, the details come in trailers. Details that are no base64 are left out (RT-080)."""
        import base64
        import binascii

        result = job.result
        if job.stream is not None and job.stream.content_type is None:  # it came whole: what was sent stays sent
            job.stream.content_type = result.content_type
            job.stream.push(exchange.body)
        result.function_error, result.status = _UNHANDLED, "error"
        result.error_type = error_type.decode("latin-1")
        try:
            result.payload = base64.b64decode(exchange.trailers.get(b"lambda-runtime-function-error-body", b""), validate=True)
        except binascii.Error:
            result.payload = b""
        if not result.payload:
            result.payload = _error_document(result.error_type, "the response was broken off by an error")

    # ── effects → callers ──

    def _give(self, job: Job) -> None:
        """The caller's answer is whole."""
        job.result.executed_version = self.function.version
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

    def _failed(self, effect: fx.Failed) -> None:
        job = self._jobs[effect.invocation_id]
        if effect.reported and self._init_error is not None:
            result = job.result
            result.function_error, result.status = _UNHANDLED, "error"
            result.error_type, result.error_phase = effect.error_type, effect.phase
            result.payload = self._init_error  # RT-102
            hint = init_hint(_error_type_in(result.payload), self.function)
            if hint is not None:
                self._ledger.diagnosis(hint, job.request_id)
            self._give(job)
        else:
            self._explain(effect, job)
            message = effect.message
            if effect.error_type not in (errors.RESPONSE_TOO_LARGE, errors.BAD_RESPONSE_MODE, errors.TRUNCATED_RESPONSE):
                message = errors.platform_message(job.request_id, message)
            self._platform_error(job, effect.error_type, message, effect.status, effect.phase)
        if not job.started:
            self._finish(job)  # it never came to a START, so there is no REPORT to wait for

    def _platform_error(self, job: Job, error_type: str, message: str, status: str, phase: str) -> None:
        result = job.result
        result.function_error, result.status = _UNHANDLED, status
        result.error_type, result.error_phase = error_type, phase
        result.content_type = "application/json"
        result.payload = _error_document(error_type, message)
        self._give(job)

    def _explain(self, effect: fx.Failed, job: Job) -> None:
        self._processes.drain()
        scene = Scene(
            effect.error_type,
            effect.message,
            effect.phase,
            self.function,
            self._api.last_call,
            job.deliveries,
            list(self._ledger.last_lines),
            self._processes.memory.now,
            self._processes.program,
            self.plan.source(self._processes.program, self.function.code),
            str(self.plan.source(self._processes.command, self.function.code) or ""),
            self.plan.managed,
            self.plan.wrapper,
            self.plan.source(self.plan.wrapper, self.function.code),
        )
        self._ledger.diagnosis(explain(scene), job.request_id)

    def _finish(self, job: Job) -> None:
        self._jobs.pop(job.invocation_id, None)
        job.finish()

    # ── effects → records, processes, timers ──

    def _emit(self, effect: fx.Emit) -> None:
        job = self._jobs.get(effect.invocation_id) if effect.invocation_id is not None else None
        if effect.type == "platform.runtimeDone":
            if not self._drained:
                self._processes.drain(end_lines=True)  # the last words come before END
            self._drained = False
        elif effect.type == "platform.initStart":
            self._init_error = None
        elif effect.type == "platform.start" and job is not None:
            job.started = True
        self._ledger.emit(effect, job)
        if effect.type == "platform.report" and job is not None:
            self._finish(job)

    def _spawn(self, effect: fx.Spawn) -> None:
        self._processes.spawn(effect.who, effect.generation)

    def _signal(self, effect: fx.Signal) -> None:
        self._processes.signal(effect)
        if effect.who == fx.EVERYONE and effect.name == "STOP" and self._on_idle is not None:
            self._on_idle(self)

    def _set_timer(self, effect: fx.SetTimer) -> None:
        """One timer per token. A later deadline leaves a running one alone: when that rings too early, it is set anew."""
        timer = self._timers.get(effect.token)
        if timer is None or effect.at < timer.rings_at:
            if timer is not None:
                timer.handle.cancel()
            handle = self.clock.call_at(effect.at, lambda: self._ring(effect.token))
            self._timers[effect.token] = _Timer(handle, effect.at, effect)
        else:
            timer.wanted = effect

    def _ring(self, token: str) -> None:
        timer = self._timers[token]
        wanted = timer.wanted
        if self.clock.now() < wanted.at:
            timer.rings_at = wanted.at
            timer.handle = self.clock.call_at(wanted.at, lambda: self._ring(token))
        else:
            del self._timers[token]
            self.feed(Timer(token, wanted.key, wanted.generation))

    def _close(self, effect: fx.Closed) -> None:
        self._closed.set()


@dataclass(slots=True)
class _Timer:
    """A timer that runs. It rings at `rings_at`; by then it may be wanted later."""

    handle: Handle
    rings_at: float
    wanted: fx.SetTimer


def _content_type(exchange: Exchange) -> str:
    return exchange.headers.get(b"content-type", b"application/json").decode("latin-1")


def _error_document(error_type: str, message: str) -> bytes:
    """IN-027."""
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


def _error_type_in(payload: bytes) -> str | None:
    """RT-094: the body's own errorType, if it has one."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    error_type = document.get("errorType") if isinstance(document, dict) else None
    return error_type if isinstance(error_type, str) else None


def _date(clock: Clock) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y/%m/%d")
