"""Which environment of a function gets an invoke.

One that was initialised ahead; else the one used last of those that are frozen; else one that has answered and is about to
poll; else one that is being initialised or reset and has no work; else a new one; else a throttle (LC-038, DECISIONS "invoke
that finds no idle environment"). So a caller who invokes one by one always meets the same environment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

from sandbox.clock import Clock, Handle
from sandbox.core.errors import ConfigError, SandboxError
from sandbox.core.limits import REPOLL_WAIT, REQUESTS_PER_CONCURRENCY, Limits
from sandbox.host.concurrency import Rate, Share
from sandbox.host.environment import Environment, Job

ON_DEMAND: Final = "on-demand"
PROVISIONED: Final = "provisioned-concurrency"

InitializationType = Literal["on-demand", "provisioned-concurrency"]


class FunctionClosed(ConfigError):
    """It was closed, or gives way to another version: whoever asks again by name may find that one."""

    def __init__(self) -> None:
        super().__init__("the function was closed: it cannot be invoked any more")


class Scheduler:
    """The environments of one function version, or of one tenant of it.

    make: creates one whose callbacks are ours. share: what of the account it may use. tenant: they count as a tenant's.
    """

    def __init__(
        self,
        make: Callable[[InitializationType], Environment],
        clock: Clock,
        share: Share,
        limits: Limits,
        *,
        tenant: bool = False,
    ) -> None:
        self._make = make
        self._clock = clock
        self._share = share
        self._limits = limits
        self._tenant = tenant
        # Ordered sets: of a thousand environments none is looked for.
        self._environments: dict[Environment, None] = {}
        self._idle: dict[Environment, None] = {}  # the last one was used last
        self._ahead: list[Environment] = []  # idle, too: of those that were initialised ahead
        self._initialising: dict[Environment, asyncio.Future[bool]] = {}  # ahead; done when we know whether that went well
        self.hold_ahead = False  # those that are ready ahead get no work yet (CP-075)
        self._paid: set[Environment] = set()  # those with a unit of concurrency
        self._waiting: deque[tuple[Job, float]] = deque()  # for an environment that is about to poll, and until when
        self._opening: set[asyncio.Future[None]] = set()  # environments on their way
        self._leaving: set[Environment] = set()  # at work, and not kept when they have done it
        self._replacing: set[asyncio.Task[None]] = set()  # new ones in the place of those that have ended
        self._ahead_rate: Rate | None = None  # LC-132
        self._closed = self._retired = False
        self._timer: Handle | None = None
        self._reaper: Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = 0  # environments that are being shut down
        self._empty = asyncio.Event()

    @property
    def environments(self) -> tuple[Environment, ...]:
        return tuple(self._environments)

    @property
    def unused(self) -> bool:
        """Nobody is here, and nobody is on the way."""
        return not (self._environments or self._opening or self._waiting or self._tasks or self._ending)

    async def place(self, job: Job) -> None:
        """Gives the job to an environment. Raises Throttled, ConfigError, or what making an environment raises."""
        if not self.place_now(job):
            await self.place_in_new(job)

    def place_now(self, job: Job) -> bool:
        """The same at once; False if an environment must be made for it (`place_in_new`). Raises Throttled, FunctionClosed."""
        if self._retired:
            raise FunctionClosed
        self._refuse_if_closed()
        self._share.admit()
        if self._submit_to_idle(job):
            return True
        if len(self._waiting) >= sum(environment.about_to_be_free for environment in self._environments):
            return False
        until = self._clock.now() + REPOLL_WAIT
        self._waiting.append((job, until))
        if self._timer is None:
            self._timer = self._clock.call_at(until, self._look_at_waiting)
        return True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise FunctionClosed

    def _submit_to_idle(self, job: Job) -> bool:
        while self._ahead and not self.hold_ahead:
            if self._ahead_rate is not None and not self._ahead_rate.take():
                break  # LC-132: it spills over
            environment = self._ahead.pop()
            if environment.free:
                environment.submit(job)
                return True
        while self._idle:
            environment = next(reversed(self._idle))
            if environment.free:
                self._pay(environment)
                del self._idle[environment]
                environment.submit(job)
                return True
            del self._idle[environment]  # it broke while it was frozen
        return False

    def _pay(self, environment: Environment) -> None:
        """Its unit of concurrency. Raises Throttled."""
        if environment not in self._paid and environment.machine.initialization_type == ON_DEMAND:
            self._share.take()
            self._paid.add(environment)

    def _pay_back(self, environment: Environment) -> None:
        if environment in self._paid:
            self._paid.remove(environment)
            self._share.give()

    async def place_in_new(self, job: Job) -> None:
        """For a job that `place_now` could not place: one that is coming to itself, or a new one. Raises as `place` does."""
        for environment in self._environments:
            if environment.free and environment not in self._initialising and environment not in self._ahead:
                self._pay(environment)
                environment.submit(job)
                return
        self._share.take()
        try:
            self._share.scale(tenant=self._tenant)
            environment = await self.add()
        except BaseException:
            self._share.give()
            raise
        self._paid.add(environment)
        environment.submit(job)

    async def add(self, initialization_type: InitializationType = ON_DEMAND) -> Environment:
        """A new environment, open; Init has not begun."""
        self._refuse_if_closed()
        environment = self._make(initialization_type)
        opened = asyncio.get_running_loop().create_future()
        self._opening.add(opened)
        self._share.tenants += self._tenant
        try:
            await environment.open()
            await self._shut_down_if_closed(environment)
            self._environments[environment] = None
        except BaseException:
            self._share.tenants -= self._tenant
            raise
        finally:
            self._opening.discard(opened)
            opened.set_result(None)
            self._look_whether_empty()
        return environment

    async def _shut_down_if_closed(self, environment: Environment) -> None:
        if self._closed:
            await environment.shutdown()
            raise ConfigError("the function was closed while an execution environment was made for this invoke")

    # ── initialised ahead ──

    async def add_ahead(self) -> bool:
        """One more that waits for invokes, initialised. False if its Init failed: then it is gone again (LC-130)."""
        environment = await self.add(PROVISIONED)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._initialising[environment] = done
        environment.start()
        try:
            went_well = await done
        except asyncio.CancelledError:
            if environment in self._environments:
                self._end_soon(environment)
            raise
        finally:
            self._initialising.pop(environment, None)
        if not went_well:
            await self._remove(environment)
        self._set_ahead_rate()
        return went_well

    def _set_ahead_rate(self) -> None:
        per_second = len(self.ahead) * REQUESTS_PER_CONCURRENCY
        self._ahead_rate = Rate(self._clock, per_second, per_second) if per_second else None

    @property
    def ahead(self) -> list[Environment]:
        """Those that were initialised ahead, at work or not."""
        return [
            environment
            for environment in self._environments
            if environment.machine.initialization_type == PROVISIONED
            and environment not in self._initialising
            and environment not in self._leaving
        ]

    async def remove_ahead(self, count: int) -> None:
        """So many of them less: idle ones now, the others when they have done their work."""
        for task in self._replacing:
            task.cancel()
        chosen = sorted(self.ahead, key=lambda one: one not in self._ahead)[:count]
        idle = [environment for environment in chosen if environment in self._ahead]
        self._leaving.update(environment for environment in chosen if environment not in idle)
        ending = [self._end_soon(environment) for environment in idle]  # whoever counts meanwhile counts right
        self._set_ahead_rate()
        if ending:
            await asyncio.wait(ending)

    # ── told by environments ──

    def broken(self, environment: Environment) -> None:
        """A mistake of ours has ended it: it gets no more work, and what is left of it is removed."""
        if environment in self._environments:
            self._end_soon(environment)
            self._replace(environment)

    def _replace(self, environment: Environment) -> None:
        """One that was initialised ahead has ended: another one is made in its place."""
        if environment.machine.initialization_type == PROVISIONED and environment not in self._leaving and not self._retired:
            task = self._later(self._add_one_ahead())
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _add_one_ahead(self) -> None:
        try:
            await self.add_ahead()
        except (SandboxError, OSError):  # there is one fewer then; the invoke that misses it tells why
            pass

    def take_work(self, environment: Environment) -> Job | None:
        """The job that waits for this poll, if any."""
        if not self._waiting or not environment.about_to_be_free or self._is_over(environment):
            return None
        return self._waiting.popleft()[0]

    def _is_over(self, environment: Environment) -> bool:
        """LC-039: it is not kept when it has done its work."""
        return environment in self._leaving or self._clock.now() - environment.opened_at > self._limits.lifetime

    def idle(self, environment: Environment) -> None:
        """It is free: frozen, or reset."""
        self._pay_back(environment)
        if environment not in self._environments:
            return
        initialising = self._initialising.get(environment)
        if initialising is not None and not initialising.done():
            initialising.set_result(environment.init_status == "success")
            if environment.init_status != "success":
                return
        now = environment.idle_since = self._clock.now()
        if self._retired or self._is_over(environment):
            self._end_soon(environment)
            self._replace(environment)
            self._leaving.discard(environment)
            if self._waiting:  # for this one
                self._later(self._place_late(self._waiting.popleft()[0]))
            return
        if environment.machine.initialization_type == PROVISIONED:
            if environment not in self._ahead:
                self._ahead.append(environment)
            return
        self._idle.pop(environment, None)
        self._idle[environment] = None
        if self._reaper is None and not self._closed:
            self._reaper = self._clock.call_at(now + self._limits.idle, self._reap)

    def _reap(self) -> None:
        """LC-100: shuts down those that nobody invoked for long. One timer for all of them."""
        self._reaper = None
        now = self._clock.now()
        for environment in list(self._idle):
            due = environment.idle_since + self._limits.idle
            if due > now:
                self._reaper = self._clock.call_at(due, self._reap)
                return
            self._end_soon(environment)

    def _look_at_waiting(self, turns: int = 2) -> None:
        """One timer for all of them: it is left running when a job is taken in time, and looks again if it rang too early.

        A poll may have come, and not been read yet: timers run first in a turn of the event loop.
        """
        if turns and not self._closed:
            asyncio.get_running_loop().call_soon(self._look_at_waiting, turns - 1)
            return
        self._timer = None
        while self._waiting:
            job, until = self._waiting[0]
            if until > self._clock.now():
                self._timer = self._clock.call_at(until, self._look_at_waiting)
                return
            self._waiting.popleft()
            self._later(self._place_late(job))

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._look_whether_empty()

    async def _place_late(self, job: Job) -> None:
        try:
            if not self._submit_to_idle(job):
                await self.place_in_new(job)
        except Exception as error:
            job.fail(error)

    # ── endings ──

    def _forget(self, environment: Environment) -> None:
        self._environments.pop(environment, None)
        self._idle.pop(environment, None)
        if environment in self._ahead:
            self._ahead.remove(environment)
        self._pay_back(environment)
        if not self._idle and self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    async def _remove(self, environment: Environment, reason: str = "spindown") -> None:
        if environment in self._environments:
            await asyncio.shield(self._end_soon(environment, reason))  # whoever waits no more must not break it off

    def _let_go(self, environment: Environment) -> None:
        """It gets no more work."""
        self._forget(environment)
        initialising = self._initialising.get(environment)
        if initialising is not None and not initialising.done():
            initialising.set_result(False)
        self._share.tenants -= self._tenant

    async def _end(self, environment: Environment, reason: str = "spindown") -> None:
        self._ending += 1
        try:
            await environment.shutdown(reason)
        finally:
            self._ending -= 1
            self._look_whether_empty()

    def _end_soon(self, environment: Environment, reason: str = "spindown") -> asyncio.Task[None]:
        self._let_go(environment)
        return self._later(self._end(environment, reason))

    def _look_whether_empty(self) -> None:
        if self._retired and self.unused:
            self._empty.set()

    async def shut_down(self, reason: str) -> None:
        """Shuts down the environments there are; the next invoke makes a new one."""
        await asyncio.gather(*(self._remove(environment, reason) for environment in self.environments))

    async def retire(self) -> None:
        """CP-028: whoever has work does it to its end, and is shut down then; the others now. Returns when nobody is left."""
        self._retired = True
        await asyncio.gather(
            *(self._remove(environment) for environment in self.environments if self._has_nothing(environment))
        )
        self._look_whether_empty()
        await self._empty.wait()

    def _has_nothing(self, environment: Environment) -> bool:
        return environment in self._idle or environment in self._ahead or environment in self._initialising

    async def close(self, reason: str) -> None:
        """Shuts every environment down, at the same time, those included that are still being made."""
        self._closed = True
        for timer in (self._timer, self._reaper):
            if timer is not None:
                timer.cancel()
        self._timer = self._reaper = None
        if waiting := [*self._tasks, *self._opening]:
            await asyncio.wait(waiting)
        for job, _ in self._waiting:
            job.fail(ConfigError("the function was closed before this invoke had begun"))
        self._waiting.clear()
        await self.shut_down(reason)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._retired = True
        self._look_whether_empty()
