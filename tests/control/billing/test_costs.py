"""From totals and prices to a report: sums, tiers, what is free."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.control.billing.costs import Line, report
from sandbox.control.billing.prices import Prices, read_prices
from sandbox.control.billing.totals import Bill, ProvisionedTime, Total

HELD = read_prices()
GIB = 1024**3
X86 = [(6 * 10**9, Fraction("0.0000166667")), (15 * 10**9, Fraction("0.000015")), (10**30, Fraction("0.0000133334"))]
ARM = [(75 * 10**8, Fraction("0.0000133334")), (1875 * 10**7, Fraction("0.0000120001")), (10**30, Fraction("0.0000106667"))]
TIERS = {"x86_64": X86, "arm64": ARM}
NOV = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def bill(**given: Any) -> Bill:
    defaults = {"function": "f", "version": "$LATEST", "day": "2026-11-23", "architecture": "x86_64"}
    return Bill(**{**defaults, "memory_mb": 1024, "tmp_mb": 512, "provisioned": False, **given})


def provisioned(seconds: float, begun: float = NOV, **given: Any) -> ProvisionedTime:
    defaults = {"function": "f", "version": "1", "architecture": "x86_64", "memory_mb": 1024, "units": 1}
    return ProvisionedTime(**{**defaults, **given}, begun=begun, ended=begun + seconds)


def total(*bills: tuple[Bill, Total], times: tuple[ProvisionedTime, ...] = (), **options: Any) -> Line:
    return report(bills, times, HELD, **options).total


def close(cost: Decimal, wanted: Fraction | str) -> bool:
    """To a billionth of it."""
    wanted = Fraction(wanted)
    return abs(Fraction(cost) - wanted) <= abs(wanted) / 10**9


# ── one amount each ──


@pytest.mark.catalogue("BL-001")
@pytest.mark.parametrize(("memory", "ms", "gb_seconds"), [(1024, 1000, "1"), (128, 694, "0.08675"), (10240, 1, "0.01")])
def test_gb_seconds(memory: int, ms: int, gb_seconds: str) -> None:
    line = total((bill(memory_mb=memory), Total(requests=1, billed_ms=ms)))
    assert line.gb_seconds == Decimal(gb_seconds)
    assert close(line.cost, Fraction(gb_seconds) * Fraction("0.0000166667") + Fraction("0.0000002"))


@pytest.mark.catalogue("BL-009", "BL-010")
def test_requests_are_paid_whatever_they_lasted() -> None:
    line = total((bill(), Total(requests=5_000_000)))
    assert (line.requests, line.cost, line.gb_seconds) == (5_000_000, Decimal(1), 0)


@pytest.mark.catalogue("BL-011")
def test_further_requests_of_large_events_cost_as_much() -> None:
    line = total((bill(), Total(requests=1_000_000, further_requests=12_000_000)))
    assert (line.requests, line.further_requests, line.cost) == (1_000_000, 12_000_000, Decimal("2.6"))


@pytest.mark.catalogue("BL-012")
@pytest.mark.parametrize(("tmp", "gb_seconds"), [(512, "0"), (1024, "5"), (513, "0.009765625"), (10240, "95")])
def test_tmp_beyond_what_everybody_has(tmp: int, gb_seconds: str) -> None:
    with_it, without = (total((bill(tmp_mb=mb), Total(billed_ms=10_000))) for mb in (tmp, 512))
    assert with_it.tmp_gb_seconds == Decimal(gb_seconds)
    assert abs(with_it.cost - without.cost - Decimal(gb_seconds) * Decimal("0.0000000309")) < Decimal("1e-20")


@pytest.mark.catalogue("BL-013")
def test_streamed_gigabytes() -> None:
    line = total((bill(), Total(streamed_bytes=5 * GIB // 2)))
    assert (line.streamed_bytes, line.cost) == (5 * GIB // 2, Decimal("0.02"))


@pytest.mark.catalogue("BL-007", "LC-134")
@pytest.mark.parametrize(("architecture", "used", "held"), [("x86_64", "97222", "41667"), ("arm64", "77778", "33334")])
def test_provisioned_time_and_what_runs_in_it_are_apart(architecture: str, used: str, held: str) -> None:
    time = provisioned(3600, units=2, architecture=architecture)
    line = total((bill(provisioned=True, architecture=architecture), Total(0, 0, 600, 400, 0)), times=(time,))
    assert (line.gb_seconds, line.provisioned_gb_seconds, line.allocated_gb_seconds) == (0, 1, 7200)
    assert (line.billed_ms, line.init_ms) == (600, 400)
    assert line.cost == Decimal(used) / 10**10 + 7200 * Decimal(held) / 10**10


@pytest.mark.catalogue("BL-007")
@pytest.mark.parametrize(
    ("seconds", "paid"), [(0.001, 300), (299, 300), (300, 300), (300.5, 600), (601, 900), (86_400, 86_400)]
)
def test_provisioned_time_is_rounded_up_to_five_minutes(seconds: float, paid: int) -> None:
    line = total(times=(provisioned(seconds, memory_mb=512, units=3),))
    assert line.allocated_gb_seconds == Decimal(paid) * 3 / 2


@pytest.mark.catalogue("BL-007", "BL-014")
def test_provisioned_time_is_paid_in_the_month_in_which_it_passes() -> None:
    begun = datetime(2026, 11, 30, tzinfo=UTC).timestamp()
    times = (provisioned(3 * 86_400, begun),)
    months = [total(times=times, month=month).allocated_gb_seconds for month in ("2026-11", "2026-12")]
    assert months == [86_400, 2 * 86_400]
    assert total(times=times).allocated_gb_seconds == 3 * 86_400


# ── tiers ──


def plainly(architecture: str, gb_seconds: Fraction) -> Fraction:
    """Tier by tier."""
    cost, left, before = Fraction(0), gb_seconds, 0
    for end, price in TIERS[architecture]:
        here = min(left, Fraction(end - before))
        cost, left, before = cost + here * price, left - here, end
    return cost


@pytest.mark.catalogue("BL-014")
@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
@given(gb_seconds=st.integers(0, 4 * 10**10))
@settings(deadline=None)
def test_tiers(architecture: str, gb_seconds: int) -> None:
    found = HELD[0].rates[architecture].cost(Decimal(gb_seconds))
    assert Fraction(found) == plainly(architecture, Fraction(gb_seconds))


@pytest.mark.catalogue("BL-014")
@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
@given(parts=st.lists(st.integers(0, 10**10), min_size=1, max_size=5))
@settings(deadline=None)
def test_tiers_are_counted_over_all_functions_of_a_month(architecture: str, parts: list[int]) -> None:
    bills = [
        (bill(function=f"f{number}", day=f"2026-11-{number + 1:02}", architecture=architecture), Total(billed_ms=1000 * gb))
        for number, gb in enumerate(parts)
    ]
    assert close(total(*bills).cost, plainly(architecture, Fraction(sum(parts))))


@pytest.mark.catalogue("BL-014")
def test_months_and_architectures_have_tiers_of_their_own() -> None:
    much = Total(billed_ms=1000 * 6 * 10**9)
    bills = [(bill(day=day), much) for day in ("2026-10-31", "2026-11-01")] + [(bill(architecture="arm64"), much)]
    assert close(total(*bills).cost, plainly("x86_64", Fraction(6 * 10**9)) * 2 + plainly("arm64", Fraction(6 * 10**9)))


# ── sums ──

_totals = st.builds(
    Total,
    requests=st.integers(0, 10**8),
    further_requests=st.integers(0, 10**6),
    billed_ms=st.integers(0, 10**13),
    init_ms=st.integers(0, 10**6),
    streamed_bytes=st.integers(0, 10**15),
)
_bills = st.builds(
    Bill,
    function=st.sampled_from(["f", "g", "h"]),
    version=st.sampled_from(["$LATEST", "1", "2"]),
    day=st.sampled_from(["2020-02-29", "2026-10-31", "2026-11-01", "2026-11-30"]),
    architecture=st.sampled_from(["x86_64", "arm64"]),
    memory_mb=st.integers(128, 10_240),
    tmp_mb=st.integers(512, 10_240),
    provisioned=st.booleans(),
)
_times = st.builds(
    provisioned,
    st.floats(0, 10**6),
    st.floats(NOV, NOV + 86_400),
    function=st.sampled_from(["f", "g"]),
    architecture=st.sampled_from(["x86_64", "arm64"]),
    memory_mb=st.integers(128, 10_240),
    units=st.integers(1, 1000),
)
_everything = (
    st.dictionaries(_bills, _totals, max_size=6).map(lambda found: list(found.items())),
    st.lists(_times, max_size=3),
)


def _nearly(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) <= max(abs(one), abs(other)) * Decimal("1e-20")


@settings(deadline=None)
@given(*_everything, st.booleans())
def test_functions_add_up_to_the_total(bills: list[tuple[Bill, Total]], times: list[ProvisionedTime], free: bool) -> None:
    made = report(bills, times, HELD, free_tier=free)
    for name in ("requests", "further_requests", "billed_ms", "init_ms", "streamed_bytes"):
        wanted = sum(getattr(one, name) for _, one in bills)
        assert sum(getattr(line, name) for line in made.lines.values()) == getattr(made.total, name) == wanted
    cost = sum((line.cost for line in made.lines.values()), Decimal(0))
    assert _nearly(made.total.cost, max(Decimal(0), cost - (made.free or 0)))
    assert set(made.lines) == {(one.function, one.version) for one, _ in bills} | {
        (time.function, time.version) for time in times
    }
    document = json.loads(json.dumps(made.document(), allow_nan=False))
    assert [(one["function"], one["version"]) for one in document["functions"]] == sorted(made.lines)
    assert document["total"]["billedMs"] == made.total.billed_ms
    assert ("freeTierUsd" in document) is free


@settings(deadline=None)
@given(*_everything)
def test_months_add_up_to_the_whole(bills: list[tuple[Bill, Total]], times: list[ProvisionedTime]) -> None:
    whole = report(bills, times, HELD).total
    parts = [report(bills, times, HELD, month=month).total for month in ("2020-02", "2026-10", "2026-11", "2026-12")]
    assert sum(part.requests for part in parts) == whole.requests
    assert _nearly(sum((part.cost for part in parts), Decimal(0)), whole.cost)
    assert report(bills, times, HELD, month="1999-01").lines == {}


# ── what is free ──


@pytest.mark.catalogue("BL-015")
def test_nothing_is_free_unless_it_is_asked_for() -> None:
    little = (bill(), Total(requests=10, billed_ms=10_000))
    assert total(little).cost > 0
    assert total(little, free_tier=True).cost == 0


@pytest.mark.catalogue("BL-015")
def test_what_is_free() -> None:
    """Requests and GB-seconds of both architectures together; 100 GiB streamed."""
    more = Total(requests=600_000, billed_ms=300_000_000, streamed_bytes=60 * GIB)
    made = report([(bill(), more), (bill(architecture="arm64"), more)], [], HELD, free_tier=True)
    seconds = Fraction(300_000) * (Fraction("0.0000166667") + Fraction("0.0000133334"))
    assert made.free is not None
    assert close(made.free, Fraction("0.2") + seconds * Fraction(2, 3) + Fraction("0.8"))
    assert close(made.total.cost, Fraction("0.04") + seconds / 3 + Fraction("0.16"))


@pytest.mark.catalogue("BL-015")
def test_each_month_has_its_own() -> None:
    million = Total(requests=1_000_000)
    assert total((bill(day="2026-10-31"), million), (bill(day="2026-11-01"), million), free_tier=True).cost == 0
    assert total((bill(day="2026-11-02"), million), (bill(day="2026-11-01"), million), free_tier=True).cost == Decimal("0.2")


@settings(deadline=None)
@given(*_everything)
@pytest.mark.catalogue("BL-015")
def test_never_more_is_taken_off_than_was_to_pay(bills: list[tuple[Bill, Total]], times: list[ProvisionedTime]) -> None:
    """Provisioned concurrency and /tmp are not free at all."""
    made = report(bills, times, HELD, free_tier=True)
    rest = [(one._replace(tmp_mb=512), each) for one, each in bills if not one.provisioned]
    rest += [
        (one._replace(tmp_mb=512), Total(each.requests, each.further_requests, streamed_bytes=each.streamed_bytes))
        for one, each in bills
        if one.provisioned
    ]
    could = report(rest, [], HELD).total.cost
    assert made.free is not None
    assert 0 <= made.free <= could * (1 + Decimal("1e-20"))
    assert made.total.cost >= 0


@pytest.mark.catalogue("BL-015")
def test_what_is_free_in_a_month_with_two_prices() -> None:
    """As much as was paid for it, not as it costs later; whatever else was paid stays."""

    def prices(since: str, request: str) -> Prices:
        old = HELD[0]
        values = {name: getattr(old, name) for name in Prices.__slots__}
        values |= {"since": datetime.fromisoformat(since).date(), "request": Decimal(request)}
        return Prices(**values)

    held = [prices("2026-01-01", "0.000001"), prices("2026-11-15", "0.000002")]
    bills = [(bill(day="2026-11-14"), Total(requests=500_000)), (bill(day="2026-11-15"), Total(requests=500_000))]
    times = [provisioned(86_400, datetime(2026, 11, 16, tzinfo=UTC).timestamp())]
    made = report(bills, times, held, free_tier=True)
    assert made.free == Decimal("1.5")
    assert made.total.cost == 86_400 * Decimal("0.0000041667")
