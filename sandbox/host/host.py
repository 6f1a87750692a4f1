"""The library's public face."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from sandbox.clock import Clock, SystemClock
from sandbox.core.errors import ConfigError
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import SHUTDOWN_REASONS, Limits
from sandbox.host.environment import Environment, Job
from sandbox.host.environment.job import event_bytes
from sandbox.host.interpreters import Interpreter, Interpreters, default_handler
from sandbox.host.result import InvokeResult, ResponseStream
from sandbox.host.scheduler import Scheduler, Throttled
from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package
from sandbox.process.isolation import OUTS, TIERS, Isolation, choose
from sandbox.telemetry.journal import Journal

__all__ = ["Function", "Host", "Throttled"]


class Host:
    """Holds functions and their execution environments. Use it as `async with Host() as host`.

    limits: the lifecycle's time limits, for tests. clock: time itself, for tests. credentials: the AWS credentials that
    functions get; dummies unless given. journal: every record goes there; subscribe to see what happens. cache: the folder
    where unpacked packages are kept (~/.cache/lambda-sandbox). runtime_dirs: folders with interpreters, searched first.
    nearest_runtime: run the nearest version of an interpreter that is not here, and say so, instead of refusing.
    isolation: "auto" for the best tier that works here, "namespace" or "process". network: how functions in tier `namespace`
    reach the world: "auto" for NAT where it works, "nat", "host" or "none".
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
        isolation: str = "auto",
        network: str = "auto",
    ) -> None:
        self.limits = limits or Limits()
        self.clock = clock or SystemClock()
        self.journal = journal or Journal()
        self._credentials = credentials
        self._interpreters = Interpreters(runtime_dirs, nearest=nearest_runtime)
        self._cache = Cache(Path(cache) if cache is not None else None)
        self._wanted = _one_of("isolation", isolation, TIERS), _one_of("network", network, OUTS)
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

    async def deploy(self, code: str | Path | FunctionConfig, **settings: Any) -> Function:
        """A function, ready to be invoked; no process runs yet. `settings` are those of FunctionConfig.

        Raises ConfigError for what Lambda would refuse, Unsupported for what this machine has not.
        """
        self._check_open()
        config = code if isinstance(code, FunctionConfig) else FunctionConfig(str(code), **settings)
        interpreter = self._interpreters.find(config.runtime)
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
        function = Function(self, config, package, interpreter, self._credentials, isolation)
        self._functions.append(function)
        return function

    async def isolation(self) -> Isolation:
        """The tier of its environments, chosen by trying when it is first asked for. Raises Unsupported."""
        if self._choosing is None or self._choosing.cancelled():
            self._choosing = asyncio.ensure_future(choose(*self._wanted))
        return await asyncio.shield(self._choosing)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the host was closed: it takes no function any more")


class Function:
    """A deployed function version; made by `Host.deploy`.

    interpreter: of its managed runtime, None for a custom one. package: its code and layers; `package.code.left_out` says what
    of the code's folder no function can get (links that lead out of it, pipes).
    """

    def __init__(
        self,
        host: Host,
        config: FunctionConfig,
        package: Package,
        interpreter: Interpreter | None,
        credentials: Mapping[str, str] | None,
        isolation: Isolation,
    ) -> None:
        self.config = config
        self.isolation = isolation
        self.interpreter = interpreter
        self.package = package
        self._host = host
        self._scheduler = Scheduler(self._make_environment, host.clock)
        self._credentials = credentials

    def _make_environment(self) -> Environment:
        return Environment(
            self.config,
            self.package,
            self._host.journal,
            self._host.clock,
            interpreter=self.interpreter,
            isolation=self.isolation,
            limits=self._host.limits,
            credentials=self._credentials,
            on_idle=lambda environment: self._scheduler.idle(environment),
            take_work=lambda environment: self._scheduler.take_work(environment),
            on_broken=lambda environment: self._scheduler.broken(environment),
        )

    @property
    def environments(self) -> tuple[Environment, ...]:
        """The execution environments there are now."""
        return self._scheduler.environments

    async def initialise(self) -> None:
        """Makes an environment and begins its Init, without an invoke (LC-008)."""
        (await self._scheduler.add()).start()

    async def invoke(
        self,
        event: Any = None,
        *,
        payload: bytes | None = None,
        wait_for_report: bool = True,
        request_id: str | None = None,
        client_context: Any = None,
        cognito_identity: Mapping[str, str] | None = None,
        trace_id: str | None = None,
        tenant_id: str | None = None,
    ) -> InvokeResult:
        """Invokes it, in an environment that is free or a new one.

        event: anything that json can write, None for {}; or payload: JSON as bytes. A function that fails is a result, not
        an exception; see InvokeResult.check. Raises ConfigError for what the Invoke API would refuse, and Throttled.
        With wait_for_report=False it returns as soon as the caller's answer is there: report and log come later.
        """
        body = _payload(event, payload)
        context = (request_id, client_context, cognito_identity, trace_id, tenant_id)
        job = await self._submit(body, None, *context)
        await job.answered
        if wait_for_report:
            await job.reported
        return job.result

    async def invoke_stream(
        self,
        event: Any = None,
        *,
        payload: bytes | None = None,
        request_id: str | None = None,
        client_context: Any = None,
        cognito_identity: Mapping[str, str] | None = None,
        trace_id: str | None = None,
        tenant_id: str | None = None,
    ) -> ResponseStream:
        """Invokes it; the answer's bytes come as the runtime sends them (RT-070)."""
        stream = ResponseStream(self._host.clock)
        context = (request_id, client_context, cognito_identity, trace_id, tenant_id)
        await self._submit(_payload(event, payload), stream, *context)
        return stream

    async def _submit(
        self,
        payload: bytes,
        stream: ResponseStream | None,
        request_id: str | None,
        client_context: Any,
        cognito_identity: Mapping[str, str] | None,
        trace_id: str | None,
        tenant_id: str | None,
    ) -> Job:
        job = Job(
            payload,
            arn=self.config.arn,
            accepted_at=self._host.clock.now(),
            wall=self._host.clock.wall(),
            request_id=request_id,
            client_context=client_context,
            cognito_identity=cognito_identity,
            trace_id=trace_id,
            tenant_id=tenant_id,
            stream=stream,
        )
        await self._scheduler.place(job)
        return job

    async def shutdown(self, reason: str = "spindown") -> None:
        """Shuts its environments down, as Lambda does after some idle minutes; the next invoke is a cold start.

        reason: spindown, timeout or failure, as extensions are told (EX-051).
        """
        await self._scheduler.shut_down(_checked(reason))

    async def close(self, reason: str = "spindown") -> None:
        """Shuts its environments down, for good. reason: see `shutdown`."""
        try:
            await self._scheduler.close(_checked(reason))
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
