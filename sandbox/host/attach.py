"""An environment whose runtime its user starts: in a debugger, in an IDE, with `cargo run`.

Nothing is spawned, frozen or killed here. What a process would tell by its end is told by its connections: a poll that has
been gone for a second, or an init error after Init, begins a new generation (DECISIONS "a user-started runtime").
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from sandbox.clock import Clock
from sandbox.core.effects import EVERYONE, Answered, Emit, Signal
from sandbox.core.errors import ConfigError, SandboxError
from sandbox.core.events import RUNTIME, ClientGone, Event, Exited, Gone, InitError, Invoke, Next, Start
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import POLL_LOST, Limits
from sandbox.core.states import Phase, Runtime
from sandbox.host.environment import Environment, Job
from sandbox.host.environment.job import event_bytes
from sandbox.host.environment.ledger import Ledger
from sandbox.host.environment.processes import Processes
from sandbox.host.runtimes import Plan
from sandbox.host.site import Site
from sandbox.process.launcher import LoopbackTree
from sandbox.process.room import Room
from sandbox.process.variables import Identity, Places, runtime_variables
from sandbox.telemetry.journal import Journal
from sandbox.wire.http1 import JSON, Exchange, error_body
from sandbox.wire.runtime_api import RuntimeApi

_FOREVER: Final = 366 * 24 * 3600.0  # for a person with a debugger
_RIE: Final = b"/2015-03-31/functions/"

Watch = Callable[[str], None]


class UserStarted(Processes):
    """No process of ours: the user's own is neither signalled nor measured."""

    async def open(self, room: Room | None, name: str) -> None:
        pass

    def begin(self, plan: Plan, ledger: Ledger) -> None:
        self._ledger = ledger

    def measured_peak(self) -> int | None:
        return None

    def peak_of(self, who: str) -> int | None:
        return None

    async def close(self) -> None:
        pass

    def spawn(self, who: str, generation: int) -> None:
        self._ledger.spawned()

    def signal(self, effect: Signal) -> None:
        if effect.who == EVERYONE and effect.name == "KILL":
            asyncio.get_running_loop().call_soon(self._feed, Gone(self.generation))

    def drain(self, *, end_lines: bool = False) -> None:
        pass


class AttachedEnvironment(Environment):
    """See `Environment`. `invoke` queues an event: it is delivered when a runtime polls, however long that takes.

    port: of the API, 0 for any. timeouts: False suspends the function's timeout. watch: gets a line for each request and
    reply. task: LAMBDA_TASK_ROOT for the runtime's variables.
    """

    def __init__(
        self,
        function: FunctionConfig,
        journal: Journal,
        clock: Clock,
        *,
        port: int = 9001,
        timeouts: bool = True,
        task: str = "/var/task",
        watch: Watch | None = None,
    ) -> None:
        self._port, self._timeouts, self._task, self.watch = port, timeouts, task, watch
        self._queue: deque[Job] = deque()
        super().__init__(
            function,
            None,
            journal,
            clock,
            limits=Limits(init=_FOREVER),  # Init waits for a person
            on_idle=lambda _: self._pump(),
            take_work=lambda _: self._queue.popleft() if self._queue else None,
        )

    def _make_api(self) -> RuntimeApi:
        return _AttachedApi(self, self._before_poll)

    def _make_processes(self) -> Processes:
        return UserStarted(self.clock, self.limits, self.function.memory_mb, self.feed, self._break, self._api.has_unread)

    async def dial(self, protocol: Callable[[], asyncio.Protocol], port: int) -> object:
        return await LoopbackTree().dial(protocol, port)

    async def _listen(self) -> socket.socket:
        try:
            return socket.create_server(("127.0.0.1", self._port), backlog=256)
        except OSError as error:
            raise ConfigError(f"port {self._port}: {error.strerror}; choose another with --port, or 0 for any") from None

    def _site(self, folder: Path) -> Site:
        places = Places(self._task, "/opt", "/var/runtime", str(folder / "tmp"))
        return Site(places, places, "")

    def _furnish(self, where: Site) -> None:
        """Its files are where its user has them."""

    def _make_plan(self, where: Site, identity: Identity) -> Plan:
        return Plan(where, runtime_variables(self.function, where.places, identity, self._credentials, {}))

    def exports(self) -> dict[str, str]:
        """The variables that a runtime needs, without those that its user's shell has better ones of (PATH …)."""
        own = {"PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "TMPDIR"}
        return {name: value for name, value in self.plan.variables.items() if name not in own}

    def invoke(self, job: Job) -> None:
        """Queues an invocation."""
        self._queue.append(job)
        self._pump()

    def forget(self, job: Job) -> None:
        """Its caller has gone: an event that waits is not delivered any more."""
        if job in self._queue:
            self._queue.remove(job)
            job.fail(ConfigError("its caller has gone"))

    async def shutdown(self, reason: str = "spindown") -> None:
        queued, self._queue = self._queue, deque()
        for job in queued:
            job.fail(ConfigError("no runtime polled for this event before the end"))
        await super().shutdown(reason)

    def submit(self, job: Job) -> None:
        self._jobs[job.invocation_id] = job
        self.feed(Invoke(job.invocation_id, job.request_id, self.function.timeout if self._timeouts else _FOREVER))

    def _pump(self) -> None:
        """Gives the next event, once a runtime has polled: its Init never counts against an invoke's timeout."""
        if self._queue and self.machine.phase is Phase.FROZEN and self.machine.polls:
            job = self._queue.popleft()
            asyncio.get_running_loop().call_soon(self._submit_or_wait, job)

    def _submit_or_wait(self, job: Job) -> None:
        if self.machine.phase is Phase.FROZEN and self.machine.polls:
            self.submit(job)
        else:
            self._queue.appendleft(job)

    # ── generations ──

    def feed(self, event: Event) -> None:
        if isinstance(event, InitError) and self.machine.runtime not in (Runtime.STARTED, Runtime.ABSENT):
            self._begin_anew("it reports an init error after Init")
        elif isinstance(event, Next) and self.machine.runtime is Runtime.INIT_ERROR:
            self._begin_anew("it polls after an init error")
        if isinstance(event, Next | InitError) and self.machine.phase is Phase.CREATED:
            super().feed(Start())  # when its process began is not known: this is the first sign of it
        super().feed(event)
        if isinstance(event, ClientGone) and not self.machine.polls and self.machine.runtime is Runtime.READY:
            generation = self.machine.generation
            self.clock.call_at(self.clock.now() + POLL_LOST, lambda: self._poll_lost(generation))
        elif self._queue:
            self._pump()

    def _answered(self, effect: Answered) -> None:
        super()._answered(effect)
        self._watch_for_its_end(effect.invocation_id)

    def _watch_for_its_end(self, invocation_id: str) -> None:
        """A runtime that answers and goes (a debugger that is stopped) never polls again: its connections tell."""

        def look() -> None:
            current = self.machine.current
            if current is None or current.id != invocation_id or self.machine.runtime is not Runtime.RUNNING:
                return
            if self._api.has_connections():
                self._watch_for_its_end(invocation_id)
            else:
                self._begin_anew("it has answered, and its connections are gone")

        self.clock.call_at(self.clock.now() + POLL_LOST, look)

    def _explain(self, failure: dict[str, Any]) -> None:
        """Nothing is known of how it ended, and it is not ours to say: the exchanges are shown."""

    def _emit(self, effect: Emit) -> None:
        if effect.type == "platform.report":
            effect.record["metrics"].pop("initDurationMs", None)  # not known, so not told
        super()._emit(effect)

    def _poll_lost(self, generation: int) -> None:
        machine = self.machine
        if machine.generation == generation and not machine.polls and machine.runtime is Runtime.READY:
            self._begin_anew("its poll is gone")

    def _begin_anew(self, why: str) -> None:
        """The old runtime is taken to have exited; nothing of ours is left of it."""
        if self.watch is not None:
            self.watch(f"-- the runtime was started again, or has gone ({why}): a new generation begins")
        generation = self.machine.generation
        super().feed(Exited(RUNTIME, generation, 0, None))
        if self.machine.phase is Phase.RESET:
            super().feed(Gone(generation))


class _AttachedApi(RuntimeApi):
    """The Runtime API, watched; and beside it the path at which AWS's emulator takes invokes."""

    def __init__(self, environment: AttachedEnvironment, before_poll: Callable[[], None]) -> None:
        super().__init__(environment.feed, before_poll)
        self._environment = environment
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: dict[int, Job] = {}

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        super().close()

    def head(self, exchange: Exchange) -> None:
        self._watch(exchange)
        super().head(exchange)

    def request(self, exchange: Exchange) -> None:
        self._watch(exchange)
        super().request(exchange)

    def _watch(self, exchange: Exchange) -> None:
        watch = self._environment.watch
        if watch is None or exchange.on_reply is not None:
            return  # nobody looks, or it was shown when its head came
        watch(f"{exchange.number}> {exchange.method.decode()} {exchange.target.decode('latin-1')}{_size(exchange.size)}")
        exchange.on_reply = partial(_show_reply, watch, exchange.number)

    def _other(self, exchange: Exchange) -> None:
        if not (exchange.target.startswith(_RIE) and exchange.target.endswith(b"/invocations")):
            super()._other(exchange)
        elif exchange.method != b"POST":
            self.wrong_method(exchange, "POST")
        else:
            task = asyncio.get_running_loop().create_task(self._invoke(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def gone(self, exchange: Exchange) -> None:
        job = self._callers.get(exchange.number)
        if job is None:
            super().gone(exchange)
        else:
            self._environment.forget(job)

    async def _invoke(self, exchange: Exchange) -> None:
        """One synchronous invoke, answered as the Lambda API answers it."""
        environment = self._environment
        try:
            job = Job(
                event_bytes(exchange.body),
                arn=environment.function.arn,
                accepted_at=environment.clock.now(),
                wall=environment.clock.wall(),
                client_context=_client_context(exchange),
                trace_id=_text(exchange, b"x-amzn-trace-id"),
            )
        except ConfigError as error:
            exchange.reply(400, JSON, error_body("InvalidRequestContentException", str(error)))
            return
        exchange.undeliverable = True  # so that `gone` is told of a caller who has given up
        self._callers[exchange.number] = job
        environment.invoke(job)
        try:
            await job.answered
        except SandboxError as error:
            exchange.reply(503, JSON, error_body("ServiceException", str(error)))
            return
        finally:
            exchange.undeliverable = False
            self._callers.pop(exchange.number, None)
        result = job.result
        fields = f"Content-Type: {result.content_type}\r\nX-Amz-Executed-Version: {result.executed_version}\r\n"
        fields += f"x-amzn-RequestId: {result.request_id}\r\n"
        if result.function_error is not None:
            fields += f"X-Amz-Function-Error: {result.function_error}\r\n"
        exchange.reply(200, fields.encode("latin-1"), result.payload)


def _show_reply(watch: Watch, number: int, status: int, body: bytes) -> None:
    why = f" {body[:200].decode('utf-8', 'replace').rstrip()}" if status >= 400 else ""
    watch(f"{number}< {status}{_size(len(body))}{why}")


def _size(size: int) -> str:
    return f" ({size} bytes)" if size else ""


def _text(exchange: Exchange, name: bytes) -> str | None:
    value = exchange.headers.get(name)
    return value.decode("latin-1") if value else None


def _client_context(exchange: Exchange) -> object:
    """X-Amz-Client-Context: JSON in base64. Raises ConfigError."""
    value = exchange.headers.get(b"x-amz-client-context")
    if not value:
        return None
    try:
        return json.loads(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise ConfigError("X-Amz-Client-Context is no JSON in base64") from None


def env_file(variables: dict[str, str]) -> str:
    """NAME=VALUE lines, as debuggers and IDEs read them; quoted where a reader could see more in a value than its text."""
    lines = ["# written by sandbox attach"]
    for name, value in variables.items():
        lines.append(f"{name}={value}" if re.fullmatch(r"[\w./:@+-]*", value) else f"{name}={_quoted(value)}")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return "'" + value.replace("\n", " ").replace("'", "") + "'"
