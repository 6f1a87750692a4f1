"""The inbox, the timers, the connections and the callers of one execution environment.

`feed` is the only way in. Events are taken one at a time, so the machine is never re-entered and needs no locks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sandbox.clock import Clock, Handle
from sandbox.core import effects as fx
from sandbox.core.errors import InvariantError
from sandbox.core.events import RUNTIME, Answer, AnswerEnds, ClientGone, Event, Gone, Invoke, MemoryExceeded, Shutdown, Start
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import STREAM_LIMIT, Limits
from sandbox.core.machine import Machine
from sandbox.core.parties import milliseconds
from sandbox.core.states import Phase
from sandbox.core.subscription import Subscription
from sandbox.host.environment import answers
from sandbox.host.environment.callers import Callers
from sandbox.host.environment.explainer import Explainer
from sandbox.host.environment.job import Job
from sandbox.host.environment.ledger import Ledger
from sandbox.host.environment.processes import Exit, Processes
from sandbox.host.environment.timers import Timers
from sandbox.host.folders import make_folder, remove_tree, to_the_end
from sandbox.host.interpreters import Interpreter
from sandbox.host.relay import NOTHING, Around, Relay
from sandbox.host.runtimes import Plan, plan
from sandbox.host.site import Site, site
from sandbox.package.package import Package
from sandbox.process.isolation import PROCESS, Isolation
from sandbox.process.variables import DUMMY_CREDENTIALS, Identity
from sandbox.telemetry.delivery import Dropped
from sandbox.telemetry.hub import Telemetry
from sandbox.telemetry.journal import Journal, Record
from sandbox.wire.extensions_api import Call, ExtensionsApi
from sandbox.wire.http1 import Exchange
from sandbox.wire.runtime_api import InvocationEvent, RuntimeApi, error_payload
from sandbox.wire.tap import Tap

_SETTLE_TURNS: Final = 220  # of the event loop, in which a connection to a subscriber on the loopback is made, or refused …
_QUICK_TURNS: Final = 20  # … so many of them at once, the others half a millisecond apart


class Environment:
    """One execution environment of one function version. `open`, then `submit` invokes, then `shutdown`.

    interpreter: of the managed runtime; None for a custom one. on_idle: called when it can take another invoke. take_work:
    asked for a waiting job just before it would be frozen. on_broken: called when a mistake of ours has ended it. around: what
    its processes find of this host. tap: sees its exchanges, and may spoil them.
    """

    def __init__(
        self,
        function: FunctionConfig,
        package: Package | None,
        journal: Journal,
        clock: Clock,
        *,
        interpreter: Interpreter | None = None,
        isolation: Isolation = PROCESS,
        limits: Limits | None = None,
        credentials: Mapping[str, str] | None = None,
        initialization_type: str = "on-demand",
        around: Around = NOTHING,
        tap: Tap | None = None,
        on_idle: Callable[[Environment], None] | None = None,
        take_work: Callable[[Environment], Job | None] | None = None,
        on_broken: Callable[[Environment], None] | None = None,
    ) -> None:
        self.function = function
        self._package = package
        self._interpreter = interpreter
        self.isolation = isolation
        self.clock = clock
        self.limits = limits or Limits()
        self.machine = Machine(limits=self.limits, initialization_type=initialization_type)
        self.init_status: str | None = None  # of its last Init: success, error, timeout; None before its end
        self.opened_at = self.idle_since = clock.now()  # the second is the scheduler's
        self.name = f"{_date(clock)}/[{function.version}]{uuid.uuid4().hex}"  # EN-009
        self.address = ""  # host:port of its Runtime API, once it is open
        self._journal = journal
        self._credentials = dict(credentials if credentials is not None else DUMMY_CREDENTIALS)
        self._around = around
        self._relays: list[Relay] = []
        self._on_idle = on_idle
        self._take_work = take_work
        self._on_broken = on_broken
        self._api = self._make_api()
        if tap is not None:
            self._api.tap = tap.on(self.name)
        self._extensions = ExtensionsApi(self._api, self.feed, lambda: self._processes.drain(), function)
        self._telemetry = Telemetry(
            clock, self.limits, self.dial, json=function.log_format == "JSON", note_dropped=self._note_dropped
        )
        self._inbox: deque[Event] = deque()
        self._handle, self._now = self.machine.handle, clock.now
        self._busy = False
        self._drained = False  # a poll has just been heard, and before it all that was printed
        self._timers = Timers(clock, self.feed)
        self._callers = Callers(function, lambda: self._ledger)
        self._jobs = self._callers.jobs
        self._folder: Path | None = None
        self._lock = -1  # a descriptor that says, as long as it is open, that the folder is in use
        self._server: asyncio.AbstractServer | None = None
        self._last: Handle | None = None  # what goes out a little after SHUTDOWN
        self._closed = asyncio.Event()
        self._broken: BaseException | None = None
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            fx.Deliver: self._deliver,
            fx.DeliverInvoke: self._deliver_invoke,
            fx.DeliverShutdown: self._deliver_shutdown,
            fx.Accept: self._accept,
            fx.Refuse: self._refuse,
            fx.Spawn: self._spawn,
            fx.Signal: self._signal,
            fx.SetTimer: self._timers.set,
            fx.Emit: self._emit,
            fx.Begun: self._begun,
            fx.Answered: self._answered,
            fx.Failed: self._callers.failed,
            fx.Closed: lambda _: self._closed.set(),
        }

    # ── from outside ──

    async def open(self) -> None:
        """Makes the folders, the listener and the first process; Init has not begun yet. Raises SandboxError, OSError."""
        self._processes = self._make_processes()
        try:
            self._folder, self._lock = make_folder()
            where = self._site(self._folder)
            await self._make(where)
            # RT-002: the listener accepts before any process of the function is started.
            listener = await self._listen()
            self._server = await asyncio.get_running_loop().create_server(self._api.protocol, sock=listener)
            await self._start_relays()
            self._extensions.port = listener.getsockname()[1]
            self.address = f"127.0.0.1:{self._extensions.port}"
            identity = Identity(self.address, self.name, self.machine.initialization_type)
            self.plan: Plan = self._make_plan(where, identity)
            peak = self._processes.measured_peak
            take = self._telemetry.take
            self._ledger = Ledger(self._journal, self.clock, self.function, self.name, self.plan, peak, take)
            self.machine.externals = self._extensions.launched = self.plan.extensions
            self._api.on_refusal = self._refused
            self._processes.begin(self.plan, self._ledger)
            self._explainer = Explainer(self.function, self.plan, self._ledger, self._processes, self._api, self._extensions)
        except BaseException:
            await self._processes.close()
            await self._remove()
            raise

    def _make_api(self) -> RuntimeApi:
        # No browser reaches into an environment's own network (DECISIONS "browser pages against local listeners").
        return RuntimeApi(self._hear, self._before_poll, local_only=not self.isolation.network.own)

    def _hear(self, event: Event) -> None:
        """What the runtime does. On Lambda an allocation is not refused: whoever uses too much is killed (LC-075)."""
        if isinstance(event, Answer | AnswerEnds) and event.error and self.isolation.backstop:
            exchange = self._api.exchange(event.conn)
            if exchange is not None and answers.is_out_of_memory(exchange):
                self.feed(MemoryExceeded(self.machine.generation))
                return
        self.feed(event)

    def _hear_of_processes(self, event: Event) -> None:
        self.feed(event)
        if isinstance(event, Gone):
            asyncio.get_running_loop().call_soon(self._after_reset)  # this may be in the middle of another event

    def _after_reset(self) -> None:
        if self.machine.phase is Phase.CREATED and self.free and self._on_idle is not None:
            self._on_idle(self)

    def _make_processes(self) -> Processes:
        told = self._hear_of_processes, self._break, self._api.has_unread
        return Processes(self.clock, self.limits, self.function.memory_mb, *told, self.isolation)

    async def _listen(self) -> socket.socket:
        return await self._processes.listen()

    async def _start_relays(self) -> None:
        if self.isolation.network.own:
            for port in self._around.ports:
                relay = Relay(await self._processes.listen(port.number), port)
                self._relays.append(relay)
                await relay.start()

    async def dial(self, protocol: Callable[[], asyncio.Protocol], port: int) -> object:
        """A connection to a port of its processes, from inside: the transport and the protocol. Raises OSError."""
        return await self._processes.dial(protocol, port)

    def _site(self, folder: Path) -> Site:
        assert self._package is not None
        return site(folder, self.isolation, self._interpreter, self._package, self.function.tmp_mb)

    def _make_plan(self, where: Site, identity: Identity) -> Plan:
        return plan(self.function, self._interpreter, where, identity, self._credentials, self._around.variables)

    async def _make(self, where: Site) -> None:
        """Makes what the first process needs, then that, while code and layers are put into their folders."""
        if where.room is not None:
            await to_the_end(where.prepare)
        furnishing = asyncio.ensure_future(to_the_end(partial(self._furnish, where)))
        try:
            assert self._folder is not None
            await self._processes.open(where.room, self._folder.name)
        finally:
            await asyncio.wait([furnishing])
        furnishing.result()

    def _furnish(self, where: Site) -> None:
        assert self._package is not None
        where.furnish(self._package)

    def start(self) -> None:
        """Begins Init without an invoke."""
        self.feed(Start())

    def submit(self, job: Job) -> None:
        """Gives it an invocation. Only when `free` or `about_to_be_free`."""
        self._jobs[job.invocation_id] = job
        if self._broken is not None:
            self._callers.broken("this environment has ended")
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

    def kill(self) -> None:
        """SIGKILL to all of it, whatever it is doing: for somebody who does not want to wait for a Shutdown."""
        if not self._closed.is_set():
            self._processes.signal(fx.Signal(fx.EVERYONE, "KILL"))

    @property
    def exits(self) -> list[Exit]:
        """How the last of its processes ended, oldest first."""
        return list(self._processes.exits)

    @property
    def pids(self) -> list[int]:
        """Its processes now."""
        return list(self._processes.pids())

    def signal(self, name: str, who: str | None = None) -> None:
        """STOP, CONT or KILL to all of it, TERM to its runtime, behind the machine's back: for those who test what bears it.

        who: "runtime" or an extension's name, for TERM or KILL to that process alone.
        """
        self._processes.signal(fx.Signal(who or (RUNTIME if name == "TERM" else fx.EVERYONE), name))

    async def _remove(self) -> None:
        self._api.close()
        self._telemetry.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for relay in self._relays:
            await relay.close()
        self._timers.close()
        if self._last is not None:
            self._last.cancel()
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
        self._callers.broken(what)
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
        event = job.event or self._event_of(job)
        job.deliveries += 1
        if not self._api.deliver(effect.conn, event):
            self._inbox.append(ClientGone(effect.conn))

    def _event_of(self, job: Job) -> InvocationEvent:
        """Made once: runtime and extensions are told the same deadline."""
        return job.event or job.deliver_as(self._epoch_ms(self.machine.invocations[job.invocation_id].deadline))

    def _epoch_ms(self, at: float) -> int:
        """RT-023: a moment of machine time as epoch milliseconds."""
        return int((self.clock.wall() + at - self.clock.now()) * 1000)

    def _deliver_invoke(self, effect: fx.DeliverInvoke) -> None:
        event = self._event_of(self._jobs[effect.invocation_id])
        told = (event.request_id, event.arn, event.trace_id, event.deadline_ms)
        if not self._extensions.deliver_invoke(effect.conn, *told):
            self._inbox.append(ClientGone(effect.conn))

    def _deliver_shutdown(self, effect: fx.DeliverShutdown, turns: int = 0) -> None:
        if turns < _SETTLE_TURNS and self._telemetry.connecting():  # TL-039: the last lines first
            delay = 0 if turns < _QUICK_TURNS else 0.0005
            asyncio.get_running_loop().call_later(delay, self._deliver_shutdown, effect, turns + 1)
            return
        if not self._extensions.deliver_shutdown(effect.conn, effect.reason, self._epoch_ms(effect.deadline)):
            self.feed(ClientGone(effect.conn))
        if self._last is None:
            self._last = self.clock.call_at(self.clock.now() + self.limits.last_telemetry, self._last_telemetry)

    def _last_telemetry(self) -> None:
        """TL-041. A little after SHUTDOWN: some extensions only then wait for a batch, with the last platform.report in it."""
        self._last = None
        if self.machine.phase in (Phase.RESET, Phase.SHUTDOWN):  # by now another generation may be at work
            self._telemetry.release()

    def _accept(self, effect: fx.Accept) -> None:
        exchange = self._api.exchange(effect.conn)
        if exchange is None:
            return
        call = exchange.note
        if isinstance(call, Call):
            if call.subscription is not None:
                self._subscribe(call.name, call.subscription)
            self._extensions.accept(exchange, call)
            return
        if call is None and exchange.target.endswith(b"/init/error"):
            self._callers.init_error = error_payload(exchange)[0]
        self._api.accept(effect.conn)

    def _subscribe(self, name: str, wanted: Subscription) -> None:
        again = self._telemetry.standing(name) is not None
        self._telemetry.subscribe(name, wanted)
        self._ledger.subscribed(name, wanted.api, wanted.types, again=again)

    def _note_dropped(self, name: str, lost: Dropped) -> Record:
        return self._ledger.dropped(name, lost)

    def _refuse(self, effect: fx.Refuse) -> None:
        exchange, message = self._api.exchange(effect.conn), effect.message
        if exchange is not None and isinstance(exchange.note, Call):
            message = self._extensions.exact(exchange.note, message)
        self._api.refuse(effect.conn, effect.status, effect.error_type, message)

    def _refused(self, exchange: Exchange, status: int, error_type: str, message: str) -> None:
        call = exchange.note
        name = call.name if isinstance(call, Call) else None
        asked = (exchange.method.decode(), exchange.target.decode("latin-1"))
        self._ledger.refusal(*asked, status, error_type, message, name)

    def _begun(self, effect: fx.Begun) -> None:
        """A body is on its way: a caller who streams gets it as it comes."""
        job, exchange = self._jobs[effect.invocation_id], self._api.exchange(effect.conn)
        if job.stream is None or exchange is None or not exchange.target.endswith(b"/response"):
            return
        job.stream.begin(answers.content_type(exchange), exchange)
        chunks = exchange.take_chunks()
        exchange.limit, exchange.sink = STREAM_LIMIT, job.stream.push
        for chunk in chunks:
            job.stream.push(chunk)

    def _answered(self, effect: fx.Answered) -> None:
        exchange = self._api.exchange(effect.conn)
        assert exchange is not None
        self._callers.answered(effect, exchange)

    def _explain(self, failure: dict[str, Any]) -> None:
        """For people: what has failed, and what is known about those that it happened to, or that were waited for."""
        self._processes.drain()
        if failure["reported"] and self._callers.init_error is not None:
            return  # the runtime's own words say it
        request_id = failure.get("requestId")
        deliveries = next((job.deliveries for job in self._jobs.values() if job.request_id == request_id), 0)
        text = self._explainer.explain(failure, self.machine, deliveries)
        self._ledger.diagnosis(text, request_id)

    # ── effects → records, processes, timers ──

    def _emit(self, effect: fx.Emit) -> None:
        job = self._jobs.get(effect.invocation_id) if effect.invocation_id is not None else None
        if effect.type == "platform.runtimeDone":
            if not self._drained:
                self._processes.drain(end_lines=True)  # the last words come before END
            self._drained = False
            if job is not None and (party := self.machine.invocations.get(job.invocation_id)) is not None:
                spent = milliseconds(effect.at - (party.started if party.started is not None else effect.at))
                self._callers.runtime_done(job, effect, self.machine.init_report_ms, spent)
        elif effect.type == "platform.initReport":
            self.init_status = effect.record["status"]
        elif effect.type == "platform.initStart":
            self._callers.init_error = None
            self._processes.generation = self.machine.generation
            if self._last is not None:  # it was for the generation before
                self._last.cancel()
                self._last = None
            self._extensions.begin()
            self._telemetry.begin()
        elif effect.type == "platform.start" and job is not None:
            job.started = True
        elif effect.type.startswith("sandbox."):
            self._emit_ours(effect)
            return
        self._ledger.emit(effect, job)
        if effect.type == "platform.report" and job is not None:
            self._callers.finish(job)

    def _emit_ours(self, effect: fx.Emit) -> None:
        """Records that the Telemetry API does not have."""
        if effect.type == "sandbox.failure":
            self._ledger.emit(effect, None)
            self._explain(effect.record)
            self._telemetry.flush()  # TL-039: the last lines go out; the report follows when SHUTDOWN has been given
        elif effect.type == "sandbox.extensions":
            self._ledger.costs(effect, self._processes.peak_of, self._telemetry.standing)
        elif effect.type == "sandbox.windDown":
            self._ledger.wind_down(effect, self._telemetry.standing)
            self._telemetry.close()

    def _spawn(self, effect: fx.Spawn) -> None:
        self._processes.spawn(effect.who, effect.generation)

    def _signal(self, effect: fx.Signal) -> None:
        self._processes.signal(effect)
        if effect.who != fx.EVERYONE:
            return
        if effect.name == "CONT":
            self._ledger.moment("sandbox.thaw")
            if self.machine.phase is Phase.SHUTDOWN:
                self._telemetry.begin_shutdown()
            else:
                self._telemetry.thaw()
        elif effect.name == "STOP":
            self._ledger.moment("sandbox.freeze")
            self._telemetry.freeze()  # it waits for no subscriber
            if self._on_idle is not None:
                self._on_idle(self)


def _date(clock: Clock) -> str:
    return time.strftime("%Y/%m/%d", time.gmtime(clock.wall()))
