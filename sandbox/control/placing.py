"""A job for whoever invokes by name and waits: events and function URLs. (Invoke has its own, leaner way: invoke.py.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sandbox.control.errors import invalid
from sandbox.control.live import Target
from sandbox.control.tables import VersionRow
from sandbox.core.errors import SandboxError
from sandbox.host.environment import Job
from sandbox.host.host import Function
from sandbox.host.scheduler import FunctionClosed

TRIES: Final = 5  # to find a version that is not on its way out


def check_tenant(tenant_id: str | None, row: VersionRow) -> None:
    """IN-140. Raises ApiError."""
    isolated = "TenancyConfig" in row.configuration
    if isolated and tenant_id is None:
        raise invalid("The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request.")
    if not isolated and tenant_id is not None:
        raise invalid("The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your request.")


async def placed(find: Callable[[], Target], make: Callable[[Function, Target], Job], tenant_id: str | None = None) -> Job:
    """A job under way. find: where it goes, by name; it is asked again if that was updated meanwhile.

    Raises ApiError, Throttled, SandboxError, OSError.
    """
    for _ in range(TRIES):
        target = find()
        check_tenant(tenant_id, target.version.row)
        function = await target.version.open()
        job = make(function, target)
        try:
            await function.scheduler_of(job.tenant_id).place(job)
        except FunctionClosed:
            continue
        return job
    raise SandboxError("the function was updated again and again while an execution environment was looked for")
