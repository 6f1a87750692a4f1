"""The library's public face."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

from sandbox.clock import Clock, SystemClock
from sandbox.core.errors import ConfigError, Unsupported
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import INIT_AHEAD, SHUTDOWN_REASONS, Limits
from sandbox.host.concurrency import Account, Share, Throttled
from sandbox.host.environment import Environment, Job
from sandbox.host.environment.job import event_bytes
from sandbox.host.interpreters import Interpreter, Interpreters, default_handler
from sandbox.host.relay import NOTHING
from sandbox.host.result import InvokeResult, ResponseStream
from sandbox.host.scheduler import ON_DEMAND, FunctionClosed, InitializationType, Scheduler
from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package
from sandbox.process.isolation import OUTS, TIERS, Isolation, choose
from sandbox.telemetry.journal import Journal
from sandbox.wire.tap import Tap

__all__ = ["Function", "Host", "Throttled"]


class Host:
    """Holds functions and their execution environments. Use it as `async with Host() as host`.

    limits: the lifecycle's time limits, for tests. clock: time itself, for tests. credentials: the AWS credentials that
    functions get; dummies unless given. journal: every record goes there; subscribe to see what happens. cache: the folder
    where unpacked packages are kept (~/.cache/lambda-sandbox). runtime_dirs: folders with interpreters, searched first.
    nearest_runtime: run the nearest version of an interpreter that is not here, and say so, instead of refusing.
    isolation: "auto" for the best tier that works here, "namespace" or "process"; or what another host's `isolation()` gave,
    which spares the trying. network: how functions in tier `namespace`
    reach the world: "auto" for NAT where it works, "nat", "host" or "none". tap: sees all traffic of its environments with
    their processes, and may spoil it.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
        credentials: Mapping[str, str] | None = None,
        journal: Journal | None = None,
        cache: str | Path | None = None,
        runtime_dirs: Sequence[str | Path] = (),
        nearest_runtime: bool = False,
        isolation: str | Isolation = "auto",
        network: str = "auto",
        tap: Tap | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.clock = clock or SystemClock()
        self.journal = journal or Journal()
        self.tap = tap
        self._credentials = credentials
        self.account = Account(self.clock)
        self.around = NOTHING  # what functions find of this host; set before the first one is invoked
        self._environments: WeakValueDictionary[str, Environment] = WeakValueDictionary()
        self._interpreters = Interpreters(runtime_dirs, nearest=nearest_runtime)
        self._cache = Cache(Path(cache) if cache is not None else None)
        self._isolation = isolation if isinstance(isolation, Isolation) else None
        tier = "auto" if isinstance(isolation, Isolation) else isolation
        self._wanted = _one_of("isolation", tier, TIERS), _one_of("network", network, OUTS)
        self._choosing: asyncio.Future[Isolation] | None = None
        self._functions: list[Function] = []
        self._closed = False

    async def __aenter__(self) -> Host:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, reason: str = "spindown") -> None:
        """Shuts every environment down (reason: spindown, timeout or failure)."""
        _checked(reason)
        self._closed = True
        functions, self._functions = self._functions, []
        await asyncio.gather(*(function.close(reason) for function in functions))

    def kill(self) -> None:
        """Kills every process of every environment now; who closes the host waits no longer for any of them."""
        for environment in list(self._environments.values()):
            environment.kill()

    async def deploy(self, code: str | Path | FunctionConfig, *, share: Share | None = None, **settings: Any) -> Function:
        """A function, ready to be invoked; no process runs yet. `settings` are those of FunctionConfig.

        share: of the account's concurrency, if other versions use the same one.

        Raises ConfigError for what Lambda would refuse, Unsupported for what this machine has not.
        """
        self._check_open()
        config = code if isinstance(code, FunctionConfig) else FunctionConfig(str(code), **settings)
        interpreter = await asyncio.to_thread(self._interpreters.find, config.runtime)  # it may have to ask some of them
        if interpreter is not None and not config.handler:
            config = replace(config, handler=default_handler(interpreter.language))
        isolation = await self.isolation()
        opening = asyncio.ensure_future(asyncio.to_thread(open_package, config.code, config.layers, self._cache))
        try:
            package = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise
        try:
            self._check_open()  # the world went on meanwhile
        except ConfigError:
            package.close()
            raise
        share = share or Share(self.account)
        function = Function(self, config, package, interpreter, self._credentials, isolation, share)
        self._functions.append(function)
        return function

    def made(self, environment: Environment) -> None:
        self._environments[environment.name] = environment

    @property
    def environments(self) -> tuple[Environment, ...]:
        """The execution environments of all its functions that there are now."""
        return tuple(environment for function in self._functions for environment in function.environments)

    def environment(self, name: str) -> Environment | None:
        """An execution environment by its name in the journal; None if there is none any more."""
        return self._environments.get(name)

    def function_of(self, environment: str) -> FunctionConfig | None:
        """Whose execution environment this is, by its name in the journal; None if it is none of this host's any more."""
        found = self.environment(environment)
        return found.function if found is not None else None

    def has_runtime(self, runtime: str) -> bool:
        """Whether an interpreter for that id is here. It may look for a while."""
        try:
            return self._interpreters.find(runtime) is not None
        except (Unsupported, ConfigError):
            return False

    def runtime_id(self, language: str) -> str:
        """The id of the newest managed runtime of a language that is here: python3.11 for python. Raises Unsupported."""
        found = self._interpreters.find(language)
        assert found is not None
        return found.runtime

    async def remove(self, function: Function) -> None:
        """Closes one of its functions; what it is doing ends."""
        if function in self._functions:
            self._functions.remove(function)
            await function.close()

    async def isolation(self) -> Isolation:
        """The tier of its environments, chosen by trying when it is first asked for. Raises Unsupported."""
        if self._isolation is not None:
            return self._isolation
        if self._choosing is None or self._choosing.cancelled():
            self._choosing = asyncio.ensure_future(choose(*self._wanted))
        return await asyncio.shield(self._choosing)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the host was closed: it takes no function any more")


class Function:
    """A deployed function version; made by `Host.deploy`.

    interpreter: of its managed runtime, None for a custom one. package: its code and layers; `package.code.left_out` says what
    of the code's folder no function can get (links that lead out of it, pipes). share: of the account's concurrency.
    """

    def __init__(
        self,
        host: Host,
        config: FunctionConfig,
        package: Package,
        interpreter: Interpreter | None,
        credentials: Mapping[str, str] | None,
        isolation: Isolation,
        share: Share,
    ) -> None:
        self.config = config
        self.isolation = isolation
        self.interpreter = interpreter
        self.package = package
        self.share = share
        self._host = host
        self._credentials = credentials
        self._scheduler = self._make_scheduler()
        self._tenants: dict[str, Scheduler] = {}
        self._closed = False

    def _make_scheduler(self, *, tenant: bool = False) -> Scheduler:
        def make(initialization_type: InitializationType) -> Environment:
            return self._make_environment(scheduler, initialization_type)

        scheduler = Scheduler(make, self._host.clock, self.share, self._host.limits, tenant=tenant)
        return scheduler

    def _make_environment(self, scheduler: Scheduler, initialization_type: InitializationType) -> Environment:
        limits = self._host.limits
        if initialization_type != ON_DEMAND:
            limits = replace(limits, init=max(INIT_AHEAD, self.config.timeout))  # LC-005
        environment = Environment(
            self.config,
            self.package,
            self._host.journal,
            self._host.clock,
            interpreter=self.interpreter,
            isolation=self.isolation,
            limits=limits,
            credentials=self._credentials,
            initialization_type=initialization_type,
            on_idle=scheduler.idle,
            take_work=scheduler.take_work,
            on_broken=scheduler.broken,
            around=self._host.around,
            tap=self._host.tap,
        )
        self._host.made(environment)
        return environment

    @property
    def _schedulers(self) -> list[Scheduler]:
        return [self._scheduler, *self._tenants.values()]

    @property
    def environments(self) -> tuple[Environment, ...]:
        """The execution environments there are now."""
        return tuple(environment for scheduler in self._schedulers for environment in scheduler.environments)

    async def initialise(self) -> None:
        """Makes an environment and begins its Init, without an invoke (LC-008)."""
        (await self._scheduler.add()).start()

    def hold_provisioned(self, hold: bool) -> None:
        """Whether those that were initialised ahead are kept from work (CP-075)."""
        self._scheduler.hold_ahead = hold

    async def provision(self) -> bool:
        """One environment more that is initialised ahead. False if its Init failed (LC-130). Raises SandboxError."""
        return await self._scheduler.add_ahead()

    @property
    def provisioned(self) -> int:
        """How many environments were initialised ahead."""
        return len(self._scheduler.ahead)

    async def unprovision(self, count: int) -> None:
        """So many of them less."""
        await self._scheduler.remove_ahead(count)

    async def invoke(
        self, event: Any = None, *, payload: bytes | None = None, wait_for_report: bool = True, **context: Any
    ) -> InvokeResult:
        """Invokes it, in an environment that is free or a new one.

        event: anything that json can write, None for {}; or payload: JSON as bytes. context: see `job`. A function that
        fails is a result, not an exception; see InvokeResult.check. Raises ConfigError for what the Invoke API would refuse,
        and Throttled. With wait_for_report=False it returns as soon as the caller's answer is there: report and log come later.
        """
        job = await self.submit(_payload(event, payload), **context)
        await job.answered
        if wait_for_report:
            await job.reported
        return job.result

    async def invoke_stream(self, event: Any = None, *, payload: bytes | None = None, **context: Any) -> ResponseStream:
        """Invokes it; the answer's bytes come as the runtime sends them (RT-070). context: see `job`."""
        stream = self.stream()
        await self.submit(_payload(event, payload), stream, **context)
        return stream

    def stream(self) -> ResponseStream:
        """For `submit`."""
        return ResponseStream(self._host.clock)

    async def submit(self, payload: bytes, stream: ResponseStream | None = None, **context: Any) -> Job:
        """An invoke that is under way when this returns; see `job` for its arguments. Raises ConfigError and Throttled."""
        job = self.job(payload, stream, **context)
        await self.scheduler_of(job.tenant_id).place(job)
        return job

    def job(
        self,
        payload: bytes,
        stream: ResponseStream | None = None,
        *,
        request_id: str | None = None,
        client_context: Any = None,
        cognito_identity: Mapping[str, str] | None = None,
        trace_id: str | None = None,
        tenant_id: str | None = None,
        arn: str | None = None,
        tail: bool = False,
    ) -> Job:
        """An invoke that is not under way yet; payload: JSON that `event_bytes` has let pass.

        request_id: a UUID. client_context, cognito_identity: JSON objects. trace_id: the X-Ray header. tenant_id: whose
        environments it may run in; nobody shares them (IN-141). arn: as it was invoked, with its qualifier. tail: the end of
        its log is wanted. Raises ConfigError.
        """
        clock = self._host.clock
        return Job(
            payload,
            arn=arn or self.config.arn,
            accepted_at=clock.now(),
            wall=clock.wall(),
            request_id=request_id,
            client_context=client_context,
            cognito_identity=cognito_identity,
            trace_id=trace_id,
            tenant_id=tenant_id,
            stream=stream,
            tail=tail,
        )

    def scheduler_of(self, tenant_id: str | None) -> Scheduler:
        """Who places this tenant's invokes, or everybody's. Raises FunctionClosed."""
        if tenant_id is None:
            return self._scheduler
        if self._closed:
            raise FunctionClosed
        scheduler = self._tenants.get(tenant_id)
        if scheduler is None:
            for name in [name for name, one in self._tenants.items() if one.unused]:
                del self._tenants[name]
            scheduler = self._tenants[tenant_id] = self._make_scheduler(tenant=True)
        return scheduler

    async def shutdown(self, reason: str = "spindown") -> None:
        """Shuts its environments down, as Lambda does after some idle minutes; the next invoke is a cold start.

        reason: spindown, timeout or failure, as extensions are told (EX-051).
        """
        _checked(reason)
        await asyncio.gather(*(scheduler.shut_down(reason) for scheduler in self._schedulers))

    async def retire(self) -> None:
        """Ends it when its invokes have: new ones go to another version. Environments without work are shut down at once."""
        self._closed = True
        await asyncio.gather(*(scheduler.retire() for scheduler in self._schedulers))
        await self._host.remove(self)

    async def close(self, reason: str = "spindown") -> None:
        """Shuts its environments down, for good. reason: see `shutdown`."""
        self._closed = True
        try:
            _checked(reason)
            await asyncio.gather(*(scheduler.close(reason) for scheduler in self._schedulers))
        finally:
            self.package.close()


def _one_of(what: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{what} {value!r}: one of {', '.join(known)}")
    return value


def _checked(reason: str) -> str:
    if reason not in SHUTDOWN_REASONS:
        raise ConfigError(f"shutdown reason {reason!r}: one of {', '.join(SHUTDOWN_REASONS)}")
    return reason


def _close(opening: asyncio.Future[Package]) -> None:
    """Nobody waits for this package any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _payload(event: Any, payload: bytes | None) -> bytes:
    if payload is not None or event is None:
        return event_bytes(payload or b"")
    try:
        body = json.dumps(event).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the event cannot be written as JSON: {error}") from None
    return event_bytes(body)
