"""Provisioned concurrency of one version or alias: environments that are initialised ahead (CP-073 … CP-078, LC-130)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from sandbox.core.errors import SandboxError

if TYPE_CHECKING:
    from sandbox.control.live import LiveVersion
    from sandbox.control.tables import ProvisionedRow
    from sandbox.host.host import Function

_AT_A_TIME: Final = 8
FAILED_INIT: Final = "FUNCTION_ERROR_INIT_FAILURE"  # recorded


class Provisioning:
    """status: IN_PROGRESS, READY or FAILED; reason: why the last. ready: how many environments there are."""

    def __init__(
        self,
        version: LiveVersion,
        row: ProvisionedRow,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_trouble: Callable[[str], None],
    ) -> None:
        self.version = version
        self._row = row
        self.status = "IN_PROGRESS"
        self.reason: str | None = None
        self._start = start
        self._on_trouble = on_trouble
        self._task = start(self._work())

    @property
    def ready(self) -> int:
        function = self.version.function
        return function.provisioned if function is not None and self.status != "FAILED" else 0

    @property
    def units(self) -> int:
        """How many are paid for."""
        return self._row.requested if self.status != "FAILED" else 0

    def is_for(self, version: LiveVersion, row: ProvisionedRow) -> bool:
        return self.version is version and self._row == row

    def change(self, row: ProvisionedRow) -> None:
        """More or fewer of them; or as many, tried again."""
        self.cancel()
        self._row, self.status, self.reason = row, "IN_PROGRESS", None
        self._task = self._start(self._work())

    async def _work(self) -> None:
        try:
            function = await self.version.open()
            await self._reach(function)
        except (SandboxError, OSError) as error:
            self.status, self.reason = "FAILED", FAILED_INIT
            self._on_trouble(f"provisioned concurrency of {self.version.row.function}: {error}")

    async def _reach(self, function: Function) -> None:
        missing = self._row.requested - function.provisioned
        function.hold_provisioned(function.provisioned == 0)
        if missing < 0:
            await function.unprovision(-missing)
        slots, name = asyncio.Semaphore(_AT_A_TIME), f"{self._row.function}:{self._row.qualifier}"

        async def one() -> bool:
            async with slots:
                try:
                    return await function.provision()
                except (SandboxError, OSError) as error:  # the others are waited for, and ended below
                    self._on_trouble(f"provisioned concurrency of {name}: {error}")
                    return False

        made = await asyncio.gather(*(one() for _ in range(missing)))
        if all(made):
            self.status = "READY"
        else:
            self.status, self.reason = "FAILED", FAILED_INIT
            self._on_trouble(f"provisioned concurrency of {name} has FAILED: its Init did; the log above says why")
            await function.unprovision(function.provisioned)
        function.hold_provisioned(False)

    async def end(self) -> None:
        """No environments are kept ahead any more."""
        self.cancel()
        if self.version.function is not None:
            await self.version.function.unprovision(self.version.function.provisioned)
            self.version.function.hold_provisioned(False)

    def cancel(self) -> None:
        self._task.cancel()
