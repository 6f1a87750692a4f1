"""From totals and prices to a report. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sandbox.control.billing.prices import Prices, at
from sandbox.control.billing.totals import Bill, ProvisionedTime, Total
from sandbox.core.limits import DEFAULT_TMP_MB, PROVISIONED_STEP

_GB = Decimal(1024)  # MB
_BYTES = Decimal(1024**3)


@dataclass(slots=True)
class Line:
    """One version of a function, or all of them. Times in ms, as REPORT lines have them; GB of 1,024 MB; costs in USD.

    gb_seconds: of on-demand invokes; provisioned_gb_seconds: of invokes in environments that were initialised ahead, and of
    their Inits; allocated_gb_seconds: of the time for which they were provisioned.
    """

    requests: int = 0
    further_requests: int = 0
    billed_ms: int = 0
    init_ms: int = 0
    gb_seconds: Decimal = Decimal(0)
    provisioned_gb_seconds: Decimal = Decimal(0)
    allocated_gb_seconds: Decimal = Decimal(0)
    tmp_gb_seconds: Decimal = Decimal(0)
    streamed_bytes: int = 0
    cost: Decimal = Decimal(0)

    def add(self, other: Line) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def document(self) -> dict[str, Any]:
        """The keys of `--json`."""
        return {
            "requests": self.requests,
            "furtherRequests": self.further_requests,
            "billedMs": self.billed_ms,
            "initMs": self.init_ms,
            "gbSeconds": float(self.gb_seconds),
            "provisionedGbSeconds": float(self.provisioned_gb_seconds),
            "allocatedGbSeconds": float(self.allocated_gb_seconds),
            "tmpGbSeconds": float(self.tmp_gb_seconds),
            "streamedBytes": self.streamed_bytes,
            "costUsd": float(self.cost),
        }


class _Month(NamedTuple):
    """What tiers are counted over: a month, while the same prices hold."""

    month: str
    since: date
    architecture: str


@dataclass(slots=True)
class Report:
    """lines: by function and version. free: what the free tier takes off, if it is asked for. prices: that were used."""

    lines: dict[tuple[str, str], Line] = field(default_factory=dict)
    free: Decimal | None = None
    prices: list[Prices] = field(default_factory=list)

    @property
    def total(self) -> Line:
        """Of all of them, the free tier taken off."""
        total = Line()
        for line in self.lines.values():
            total.add(line)
        if self.free is not None:
            total.cost = max(Decimal(0), total.cost - self.free)
        return total

    def document(self) -> dict[str, Any]:
        """`--json`."""
        lines = [{"function": name, "version": version} | line.document() for (name, version), line in self.lines.items()]
        document = {"prices": [str(one.since) for one in self.prices], "functions": lines, "total": self.total.document()}
        return document | ({"freeTierUsd": float(self.free)} if self.free is not None else {})


def report(
    bills: Iterable[tuple[Bill, Total]],
    times: Iterable[ProvisionedTime],
    prices: list[Prices],
    *,
    month: str | None = None,
    free_tier: bool = False,
) -> Report:
    """month: only this one, as 2026-11."""
    parts: list[tuple[tuple[str, str], _Month, Line, Prices]] = []
    for bill, total in bills:
        held = at(prices, date.fromisoformat(bill.day))
        parts.append(
            ((bill.function, bill.version), _Month(bill.day[:7], held.since, bill.architecture), _used(bill, total), held)
        )
    for time in times:
        for day, seconds in _pieces(time):
            held = at(prices, day)
            line = Line(allocated_gb_seconds=seconds * time.units * time.memory_mb / _GB)
            parts.append(((time.function, time.version), _Month(f"{day:%Y-%m}", held.since, time.architecture), line, held))
    parts = [part for part in parts if month is None or part[1].month == month]
    blended = _blended(parts)
    made = Report()
    for key, of, line, held in sorted(parts, key=lambda part: part[0]):
        line.cost = _cost(line, held, of.architecture, blended[of])
        made.lines.setdefault(key, Line()).add(line)
    made.prices = sorted({held.since: held for *_, held in parts}.values(), key=lambda held: held.since)
    if free_tier:
        made.free = sum((_free(each, blended) for each in _by_month(parts).values()), Decimal(0))
    return made


def _pieces(time: ProvisionedTime) -> Iterator[tuple[date, Decimal]]:
    """BL-007: rounded up to five minutes, at its end. A piece for each day, with its seconds: a month may end meanwhile."""
    steps = max(1, math.ceil((time.ended - time.begun) / PROVISIONED_STEP))
    end = time.begun + steps * PROVISIONED_STEP
    at_, whole = time.begun, Decimal(steps * PROVISIONED_STEP)
    while True:
        day = datetime.fromtimestamp(at_, UTC).date()
        midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC).timestamp()
        if midnight >= end:
            yield day, whole
            return
        part = Decimal(midnight) - Decimal(at_)
        yield day, part
        whole -= part
        at_ = midnight


def _used(bill: Bill, total: Total) -> Line:
    gb_seconds = Decimal(bill.memory_mb * (total.billed_ms + total.init_ms)) / _GB / 1000
    tmp = Decimal((bill.tmp_mb - DEFAULT_TMP_MB) * total.billed_ms) / _GB / 1000  # BL-012
    line = Line(total.requests, total.further_requests, total.billed_ms, total.init_ms, tmp_gb_seconds=tmp)
    line.streamed_bytes = total.streamed_bytes
    if bill.provisioned:
        line.provisioned_gb_seconds = gb_seconds
    else:
        line.gb_seconds = gb_seconds
    return line


_Parts = list[tuple[tuple[str, str], _Month, Line, Prices]]


def _blended(parts: _Parts) -> dict[_Month, Decimal]:
    """The price of an on-demand GB-second of a month, all tiers together (BL-014)."""
    sums: dict[_Month, Decimal] = {}
    held: dict[_Month, Prices] = {}
    for _, of, line, prices in parts:
        sums[of] = sums.get(of, Decimal(0)) + line.gb_seconds
        held[of] = prices
    return {of: held[of].rates[of.architecture].cost(total) / total if total else Decimal(0) for of, total in sums.items()}


def _cost(line: Line, prices: Prices, architecture: str, blended: Decimal) -> Decimal:
    rates = prices.rates[architecture]
    return (
        (line.requests + line.further_requests) * prices.request
        + line.gb_seconds * blended
        + line.provisioned_gb_seconds * rates.while_provisioned
        + line.allocated_gb_seconds * rates.provisioned
        + line.tmp_gb_seconds * prices.tmp_gb_second
        + Decimal(line.streamed_bytes) / _BYTES * prices.streaming_gb
    )


def _by_month(parts: _Parts) -> dict[str, _Parts]:
    found: dict[str, _Parts] = {}
    for part in parts:
        found.setdefault(part[1].month, []).append(part)
    return found


def _free(parts: _Parts, blended: dict[_Month, Decimal]) -> Decimal:
    """BL-015: of one month, of both architectures together: so much of what was spent as is free of what was used."""
    requests, seconds, streams = _Spent(), _Spent(), _Spent()
    for _, of, line, prices in parts:
        count = Decimal(line.requests + line.further_requests)
        requests.add(count, prices.request, prices.free_requests)
        seconds.add(line.gb_seconds, blended[of], prices.free_gb_seconds)
        streams.add(Decimal(line.streamed_bytes) / _BYTES, prices.streaming_gb, prices.free_streaming_gb)
    return requests.free + seconds.free + streams.free


@dataclass(slots=True)
class _Spent:
    used: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    allowance: Decimal = Decimal(0)

    def add(self, used: Decimal, price: Decimal, allowance: Decimal) -> None:
        self.used += used
        self.cost += used * price
        self.allowance = max(self.allowance, allowance)

    @property
    def free(self) -> Decimal:
        return self.cost * min(Decimal(1), self.allowance / self.used) if self.used else Decimal(0)
