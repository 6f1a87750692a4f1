"""How many invokes may be under way at a time, and how many may begin in a second; else a throttle, with its reason.

A unit of concurrency is an environment that has work: from its invoke to its freeze, slow extensions included (IN-067).
"""

from __future__ import annotations

from typing import Final

from sandbox.clock import Clock
from sandbox.core.errors import SandboxError
from sandbox.core.limits import (
    ACCOUNT_CONCURRENCY,
    REQUESTS_PER_CONCURRENCY,
    SCALING_BURST,
    SCALING_RATE,
    TENANT_ENVIRONMENTS,
)

# The values of `Reason` (IN-061).
CONCURRENT: Final = "ConcurrentInvocationLimitExceeded"
RATE: Final = "FunctionInvocationRateLimitExceeded"
RESERVED: Final = "ReservedFunctionConcurrentInvocationLimitExceeded"
RESERVED_RATE: Final = "ReservedFunctionInvocationRateLimitExceeded"


class Throttled(SandboxError):
    """TooManyRequestsException. reason: why, as in its `Reason`."""

    def __init__(self, reason: str, message: str = "Rate Exceeded.") -> None:
        super().__init__(message)
        self.reason = reason


class Rate:
    """So many at once, and then so many a second."""

    def __init__(self, clock: Clock, burst: float, rate: float) -> None:
        self._clock = clock
        self._burst, self._rate = burst, rate
        self._level, self._at = burst, clock.now()

    def take(self) -> bool:
        """False if there is none left now."""
        now = self._clock.now()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


class Account:
    """What all functions of one account share. limit: environments that may have work at a time."""

    def __init__(self, clock: Clock, limit: int = ACCOUNT_CONCURRENCY) -> None:
        self.clock = clock
        self.limit = limit
        self.set_aside = 0  # reserved, and provisioned for functions without a reservation
        self.busy = 0  # of functions that have no reservation, on demand
        self._rate = Rate(clock, limit * REQUESTS_PER_CONCURRENCY, limit * REQUESTS_PER_CONCURRENCY)

    @property
    def unreserved(self) -> int:
        """UnreservedConcurrentExecutions (CP-079)."""
        return self.limit - self.set_aside

    def admit(self) -> None:
        if not self._rate.take():
            raise Throttled(RATE)


class Share:
    """What one function may use, all of its versions together. `admit` an invoke, `take` a unit for it, `give` it back."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._clock = account.clock
        self._reserved: int | None = None
        self._provisioned = 0
        self._busy = 0
        self._rate: Rate | None = None
        self._scaling = Rate(self._clock, SCALING_BURST, SCALING_RATE)
        self.tenants = 0  # environments that belong to tenants

    @property
    def reserved(self) -> int | None:
        """Its reserved concurrency; None without one, 0 if nobody may invoke it."""
        return self._reserved

    @property
    def provisioned(self) -> int:
        """Environments that are initialised ahead, of all versions: they are part of its reservation, or of the account's."""
        return self._provisioned

    def set(self, *, reserved: int | None, provisioned: int) -> None:
        account = self._account
        account.set_aside -= self._aside()
        if self._reserved is None:
            account.busy -= self._busy
        if reserved != self._reserved:
            per_second = (reserved or 0) * REQUESTS_PER_CONCURRENCY
            self._rate = Rate(self._clock, per_second, per_second) if reserved is not None else None
        self._reserved, self._provisioned = reserved, provisioned
        if reserved is None:
            account.busy += self._busy
        account.set_aside += self._aside()

    def _aside(self) -> int:
        return self._reserved if self._reserved is not None else self._provisioned

    def admit(self) -> None:
        """IN-064. Raises Throttled: too many invokes began in the last second."""
        if self._reserved == 0:
            raise Throttled(RESERVED)  # IN-063
        if self._rate is None:
            self._account.admit()
        elif not self._rate.take():
            raise Throttled(RESERVED_RATE)

    def take(self) -> None:
        """A unit of concurrency, on demand. Raises Throttled."""
        if self._reserved is not None:
            if self._busy >= self._reserved - self._provisioned:
                raise Throttled(RESERVED)
        elif self._account.busy >= self._account.unreserved:
            raise Throttled(CONCURRENT)
        else:
            self._account.busy += 1
        self._busy += 1

    def give(self) -> None:
        self._busy -= 1
        if self._reserved is None:
            self._account.busy -= 1

    def scale(self, *, tenant: bool) -> None:
        """One environment more. Raises Throttled: too many were made just now (IN-065), or too many are tenants' (IN-068)."""
        if tenant and self.tenants >= TENANT_ENVIRONMENTS * self._account.limit // ACCOUNT_CONCURRENCY:
            raise Throttled(CONCURRENT, "Rate exceeded")
        if not self._scaling.take():
            raise Throttled(CONCURRENT)
