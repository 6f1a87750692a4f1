"""Environments with extensions in a layer, whose runtime and extensions the test plays: their processes only sleep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from sandbox import Limits
from sandbox.clock import ManualClock
from sandbox.core.function import FunctionConfig
from sandbox.host.environment import Environment
from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package
from sandbox.telemetry.journal import Journal
from tests.conftest import SLEEPER, MakeFolder, Played, Tier, no_task_is_left


class World(Played):
    """One such environment. At its end time is moved on until the last window is over."""

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        ending = asyncio.ensure_future(self.environment.shutdown())
        for _ in range(3000):
            if ending.done():
                break
            self.clock.advance(0.1)
            await asyncio.sleep(0.001)
        else:  # a failed test is one thing, a test run that hangs another
            self.environment._break(AssertionError("shutdown did not end"))
        await ending


W = TypeVar("W", bound=World)


@contextlib.asynccontextmanager
async def worlds(kind: type[W], folder: MakeFolder, tier: Tier) -> AsyncIterator[Callable[..., Awaitable[W]]]:
    """Gives what makes them: `await make("a", "b")` has two external extensions. Init has begun, and nobody has registered."""
    made: list[W] = []
    packages: list[Package] = []

    async def make(
        *names: str, program: str = SLEEPER, bootstrap: str = SLEEPER, limits: Limits | None = None, **settings: Any
    ) -> W:
        layer = folder(**{f"extensions/{name}": program for name in names}, empty="")
        for name in names:
            (layer / "extensions" / name).chmod(0o755)
        function = FunctionConfig(str(folder(bootstrap=bootstrap)), timeout=3, layers=(str(layer),), **settings)
        clock, journal = ManualClock(), Journal()
        package = open_package(function.code, function.layers, Cache())

        environment = Environment(function, package, journal, clock, isolation=tier.isolation, limits=limits or Limits())
        packages.append(package)
        await environment.open()
        made.append(kind(environment, clock, journal))
        environment.start()
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            await one.close()
        for package in packages:
            package.close()
        no_task_is_left()
