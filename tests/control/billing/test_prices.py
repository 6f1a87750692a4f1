"""Prices as dated data: those that were published, and files of users."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.control.billing.costs import report
from sandbox.control.billing.prices import Prices, at, read_prices
from sandbox.control.billing.totals import Bill, Total
from sandbox.core.errors import ConfigError

TEXT = (resources.files("sandbox.control.billing") / "prices.toml").read_text(encoding="utf-8")
MakeFile = Callable[[str | bytes], Path]


@pytest.fixture
def file(tmp_path: Path) -> MakeFile:
    def make(text: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make


def reckon(path: Path) -> None:
    """Reads the file, and uses it."""
    report([(Bill("f", "1", "2026-11-23", "x86_64", 128, 512, False), Total(requests=1, billed_ms=1))], [], read_prices(path))


def refusal(path: Path) -> str:
    """What is said of a bad file; it names the file."""
    with pytest.raises(ConfigError) as raised:
        reckon(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.catalogue("BL-014", "BL-015", "BL-012", "BL-013", "BL-007")
def test_every_published_price_is_there() -> None:
    [held] = read_prices()
    amounts = (held.request * 1_000_000, held.streaming_gb, held.tmp_gb_second)
    assert amounts == (Decimal("0.20"), Decimal("0.008"), Decimal("0.0000000309"))
    assert (held.free_requests, held.free_gb_seconds, held.free_streaming_gb) == (1_000_000, 400_000, 100)
    billion = 10**9
    x86, arm = held.rates["x86_64"], held.rates["arm64"]
    assert x86.tiers == (
        (6 * billion, Decimal("0.0000166667")),
        (15 * billion, Decimal("0.000015")),
        (None, Decimal("0.0000133334")),
    )
    assert arm.tiers == (
        (Decimal("7.5") * billion, Decimal("0.0000133334")),
        (Decimal("18.75") * billion, Decimal("0.0000120001")),
        (None, Decimal("0.0000106667")),
    )
    assert (x86.provisioned, x86.while_provisioned) == (Decimal("0.0000041667"), Decimal("0.0000097222"))
    assert (arm.provisioned, arm.while_provisioned) == (Decimal("0.0000033334"), Decimal("0.0000077778"))
    assert held.since == date(2025, 8, 1)


def test_a_file_of_the_same_form_takes_their_place(file: MakeFile) -> None:
    [mine] = read_prices(file(TEXT.replace("requests-per-million = 0.20", "requests-per-million = 7")))
    assert mine.request * 1_000_000 == 7
    assert read_prices(file(TEXT)) == read_prices()


def test_the_newest_prices_that_hold_on_a_day(file: MakeFile) -> None:
    later = TEXT.replace("2025-08-01", "2026-03-01").replace("0.20", "0.30")
    held = read_prices(file(later + "\n" + TEXT))  # in any order
    days = (date(2020, 1, 1), date(2025, 8, 1), date(2026, 2, 28), date(2026, 3, 1), date(2030, 1, 1))
    assert [(one.since.year, one.since.month) for one in held] == [(2025, 8), (2026, 3)]
    assert [at(held, day).since.year for day in days] == [2025, 2025, 2025, 2026, 2026]


def _document() -> list[tuple[str, str]]:
    """Each key of the file, and the line that it is in."""
    lines = [line for line in TEXT.splitlines() if " = " in line and not line.startswith(("#", "source"))]
    return [(line.partition(" = ")[0], line) for line in lines]


@pytest.mark.parametrize("number", range(len(_document())))
def test_a_key_that_is_missing_is_named(file: MakeFile, number: int) -> None:
    key, line = _document()[number]
    parts = TEXT.split(line)
    assert len(parts) == 2  # each line is there once
    assert key in refusal(file("".join(parts)))


@pytest.mark.parametrize("value", ['"1"', "true", "-1", "-0.5", "nan", "inf", "-inf", "[]", "{}", "1979-05-27"])
@pytest.mark.parametrize("number", range(1, len(_document())))
def test_a_value_that_is_no_amount_is_named(file: MakeFile, number: int, value: str) -> None:
    key, line = _document()[number]
    text = refusal(file(TEXT.replace(line, f"{key} = {value}")))
    assert key in text


@pytest.mark.parametrize("value", ["1", '"2025-08-01"', "true", "08:00:00", "[]"])
def test_from_is_a_date(file: MakeFile, value: str) -> None:
    assert "from" in refusal(file(TEXT.replace("from = 2025-08-01", f"from = {value}")))


@pytest.mark.parametrize("value", ["2025-08-01T00:00:00", "2025-08-01T00:00:00Z"])
@pytest.mark.parametrize("others", ["", TEXT], ids=["alone", "beside a date"])
def test_a_time_is_no_date(file: MakeFile, value: str, others: str) -> None:
    assert "from" in refusal(file(TEXT.replace("from = 2025-08-01", f"from = {value}") + "\n" + others))


TIERS = "per-gb-second = [[6_000_000_000, 0.0000166667], [15_000_000_000, 0.000015], [0, 0.0000133334]]"


@pytest.mark.parametrize(
    "tiers",
    [
        "[]",
        "[[6, 1]]",
        "[[0, 1], [0, 1]]",
        "[[0, 1], [6, 1]]",
        "[[9, 1], [6, 1], [0, 1]]",
        "[[6, 1, 1], [0, 1]]",
        "[6, 0]",
        "[[-6, 1], [0, 1]]",
        '[["6", 1], [0, 1]]',
        "[[6, nan], [0, 1]]",
    ],
)
def test_tiers_rise_and_the_last_has_no_end(file: MakeFile, tiers: str) -> None:
    assert TIERS in TEXT
    refusal(file(TEXT.replace(TIERS, f"per-gb-second = {tiers}")))


def test_one_tier_is_enough(file: MakeFile) -> None:
    [held] = read_prices(file(TEXT.replace(TIERS, "per-gb-second = [[0, 2]]")))
    assert held.rates["x86_64"].cost(Decimal(21)) == 42


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prices = []",
        "prices = 1",
        "prices = [1]",
        'prices = "x"',
        "prices = true",
        "[prices]\nfrom = 2025-08-01",
        "[[prices]]",
        "[[prices",
        "no = toml = at all",
        b"\xff\xfe\x00",
        b"\x00",
        "x = " + "9" * 5000,
        "x = " + "[" * 5000 + "]" * 5000,
    ],
    ids=lambda text: repr(text)[:24],
)
def test_what_is_no_list_of_prices(file: MakeFile, text: str | bytes) -> None:
    refusal(file(text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.toml")
    assert "directory" in refusal(tmp_path)
    assert "directory" in refusal(Path(__file__) / "below")


@pytest.mark.parametrize("value", ["1e999999", "1e400", "0x" + "f" * 4000])
def test_an_amount_that_nobody_can_reckon_with(file: MakeFile, value: str) -> None:
    """JSON has no number for it."""
    refusal(file(TEXT.replace("requests-per-million = 0.20", f"requests-per-million = {value}")))


def test_prices_of_an_architecture_are_a_table(file: MakeFile) -> None:
    head, _, rest = TEXT.partition("[prices.arm64]")
    entry = head.replace("free-streaming-gb = 100", "free-streaming-gb = 100\narm64 = 3")
    assert "arm64" in refusal(file(entry))
    assert rest


_scalars = st.one_of(
    st.integers(-(10**6), 10**12).map(str),
    st.decimals(-(10**6), 10**12, places=12).map(lambda value: f"{value:f}"),
    st.sampled_from(
        ["[]", "nan", "inf", "true", '"x"', "2026-01-01", "2026-01-01T00:00:00", "{}", "[[0, 1]]", "[[1, 1], [0, 1]]"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_file_is_taken_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    lines = TEXT.splitlines()
    for number in data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=3, unique=True)):
        key = lines[number].partition(" = ")[0]
        if " = " in lines[number] and data.draw(st.booleans()):
            lines[number] = f"{key} = {data.draw(_scalars)}"
        else:
            lines[number] = data.draw(st.sampled_from(["", "[prices.x86_64]", "[[prices]]", "x", "[prices]"]))
    text = "\n".join(lines)
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text)
    try:
        held = read_prices(path)
    except ConfigError:
        assert str(path) in refusal(path)
        return
    document = tomllib.loads(text)
    assert len(held) == len(document["prices"])
    made = report([(Bill("f", "1", "2026-11-23", "arm64", 128, 512, True), Total(1, 1, 1, 1, 1))], [], held, free_tier=True)
    assert made.total.cost >= 0
    assert all(isinstance(one, Prices) for one in held)
