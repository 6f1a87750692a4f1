"""Which environment of a function gets an invoke.

The one used last of those that are frozen; else one that has answered and is about to poll; else one that is being
initialised or reset and has no work; else a new one; else a throttle (LC-038, DECISIONS "invoke that finds no idle
environment"). So a caller who invokes one by one always meets the same environment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from sandbox.clock import Clock, Handle
from sandbox.core.errors import ConfigError, SandboxError
from sandbox.core.limits import ACCOUNT_CONCURRENCY, REPOLL_WAIT
from sandbox.host.environment import Environment, Job


class Throttled(SandboxError):
    """No environment is free and no other may be made: TooManyRequestsException."""


class Scheduler:
    """The environments of one function version. make: creates one whose callbacks are ours."""

    def __init__(self, make: Callable[[], Environment], clock: Clock, limit: int = ACCOUNT_CONCURRENCY) -> None:
        self._make = make
        self._clock = clock
        self._limit = limit
        self._environments: list[Environment] = []
        self._idle: list[Environment] = []  # the last one was used last
        self._waiting: deque[tuple[Job, float]] = deque()  # for an environment that is about to poll, and until when
        self._opening: set[asyncio.Future[None]] = set()  # environments on their way
        self._closed = False
        self._timer: Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def environments(self) -> tuple[Environment, ...]:
        return tuple(self._environments)

    async def place(self, job: Job) -> None:
        """Gives the job to an environment. Raises Throttled, ConfigError, or what making an environment raises."""
        self._refuse_if_closed()
        if (environment := self._take_idle()) is not None:
            environment.submit(job)
        elif not self._waiting and any(environment.about_to_be_free for environment in self._environments):
            until = self._clock.now() + REPOLL_WAIT
            self._waiting.append((job, until))
            if self._timer is None:
                self._timer = self._clock.call_at(until, self._look_at_waiting)
        else:
            await self._place_elsewhere(job)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ConfigError("the function was closed: it cannot be invoked any more")

    def _take_idle(self) -> Environment | None:
        while self._idle:
            environment = self._idle.pop()
            if environment.free:  # not one that broke while it was frozen
                return environment
        return None

    async def _place_elsewhere(self, job: Job) -> None:
        for environment in self._environments:
            if environment.free:
                environment.submit(job)
                return
        if len(self._environments) + len(self._opening) >= self._limit:
            raise Throttled(f"Rate Exceeded. All {self._limit} execution environments are busy")
        (await self.add()).submit(job)

    async def add(self) -> Environment:
        """A new environment, open; Init has not begun."""
        self._refuse_if_closed()
        environment = self._make()
        opened = asyncio.get_running_loop().create_future()
        self._opening.add(opened)
        try:
            await environment.open()
            await self._shut_down_if_closed(environment)
            self._environments.append(environment)
        finally:
            self._opening.discard(opened)
            opened.set_result(None)
        return environment

    async def _shut_down_if_closed(self, environment: Environment) -> None:
        if self._closed:
            await environment.shutdown()
            raise ConfigError("the function was closed while an execution environment was made for this invoke")

    # ── told by environments ──

    def broken(self, environment: Environment) -> None:
        """A mistake of ours has ended it: it gets no more work, and what is left of it is removed."""
        if environment in self._idle:
            self._idle.remove(environment)
        if environment in self._environments:
            self._environments.remove(environment)
            self._later(environment.shutdown())

    def take_work(self, environment: Environment) -> Job | None:
        """The job that waits for this poll, if any."""
        if not self._waiting or not environment.about_to_be_free:
            return None
        return self._waiting.popleft()[0]

    def idle(self, environment: Environment) -> None:
        """It is frozen, and free."""
        if environment in self._idle:
            self._idle.remove(environment)
        self._idle.append(environment)

    def _look_at_waiting(self) -> None:
        """One timer for all of them: it is left running when a job is taken in time, and looks again if it rang too early."""
        self._timer = None
        while self._waiting:
            job, until = self._waiting[0]
            if until > self._clock.now():
                self._timer = self._clock.call_at(until, self._look_at_waiting)
                return
            self._waiting.popleft()
            self._later(self._place_late(job))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _place_late(self, job: Job) -> None:
        try:
            if (environment := self._take_idle()) is not None:
                environment.submit(job)
            else:
                await self._place_elsewhere(job)
        except Exception as error:
            job.fail(error)

    async def shut_down(self, reason: str) -> None:
        """Shuts down the environments there are; the next invoke makes a new one."""
        environments, self._environments, self._idle = self._environments, [], []
        await asyncio.gather(*(environment.shutdown(reason) for environment in environments))

    async def close(self, reason: str) -> None:
        """Shuts every environment down, at the same time, those included that are still being made."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waiting := [*self._tasks, *self._opening]:
            await asyncio.wait(waiting)
        for job, _ in self._waiting:
            job.fail(ConfigError("the function was closed before this invoke had begun"))
        self._waiting.clear()
        await self.shut_down(reason)
