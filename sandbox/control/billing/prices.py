"""Prices as dated data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, Final

from sandbox.core.errors import ConfigError

_MOST: Final = 10**15
ARCHITECTURES: Final = ("x86_64", "arm64")


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one architecture, in USD per GB-second. tiers: up to so many a month (None: no end), and the price."""

    tiers: tuple[tuple[Decimal | None, Decimal], ...]
    provisioned: Decimal
    while_provisioned: Decimal

    def cost(self, gb_seconds: Decimal) -> Decimal:
        """BL-014: of a month's sum."""
        total, before = Decimal(0), Decimal(0)
        for end, price in self.tiers:
            upto = gb_seconds if end is None else min(gb_seconds, end)
            total += max(Decimal(0), upto - before) * price
            before = max(before, upto)
        return total


@dataclass(frozen=True, slots=True)
class Prices:
    """In USD. since: the day from which they hold."""

    since: date
    request: Decimal
    streaming_gb: Decimal
    tmp_gb_second: Decimal
    free_requests: Decimal
    free_gb_seconds: Decimal
    free_streaming_gb: Decimal
    rates: dict[str, Rates]


def read_prices(path: Path | None = None) -> list[Prices]:
    """Those of a file, or those that were published; the oldest first. Raises ConfigError."""
    if path is None:
        text = (resources.files(__package__) / "prices.toml").read_text(encoding="utf-8")
        where = "prices.toml"
    else:
        where = f"--prices {path}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: {getattr(error, 'strerror', None) or error}") from None
    try:
        entries = tomllib.loads(text, parse_float=Decimal)["prices"]
        found = [_prices(entry) for entry in entries]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: no TOML: {error}") from None
    except KeyError as error:
        raise ConfigError(f"{where}: {error} is missing; sandbox/control/billing/prices.toml shows the form") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}; sandbox/control/billing/prices.toml shows the form") from None
    if not found:
        raise ConfigError(f"{where}: there are no prices in it")
    return sorted(found, key=lambda prices: prices.since)


def at(prices: list[Prices], day: date) -> Prices:
    """Those that hold on a day; before all of them, the oldest."""
    held = [one for one in prices if one.since <= day]
    return held[-1] if held else prices[0]


def _prices(entry: dict[str, Any]) -> Prices:
    since = entry["from"]
    if type(since) is not date:
        raise ValueError(f"from: {since!r} is no date, as 2025-08-01")
    return Prices(
        since,
        _amount(entry, "requests-per-million") / 1_000_000,
        _amount(entry, "streaming-per-gb"),
        _amount(entry, "tmp-per-gb-second"),
        _amount(entry, "free-requests"),
        _amount(entry, "free-gb-seconds"),
        _amount(entry, "free-streaming-gb"),
        {architecture: _rates(architecture, entry[architecture]) for architecture in ARCHITECTURES},
    )


def _amount(entry: dict[str, Any], key: str) -> Decimal:
    value = entry[key]
    number = isinstance(value, int | Decimal) and not isinstance(value, bool) and Decimal(value).is_finite()
    if not number or not 0 <= value <= _MOST:
        raise ValueError(f"{key}: {value!r} is no amount")
    return Decimal(value)


def _rates(architecture: str, entry: Any) -> Rates:
    if not isinstance(entry, dict):
        raise ValueError(f"{architecture}: {entry!r} is no table")
    given = entry["per-gb-second"]
    if not isinstance(given, list) or not all(isinstance(tier, list) and len(tier) == 2 for tier in given):
        raise ValueError(f"{architecture}: per-gb-second: {given!r} is no list of pairs: an end in GB-seconds, and a price")
    tiers = []
    for end, price in given:
        amounts = {"per-gb-second": end, "per-gb-second, price": price}
        tiers.append((_amount(amounts, "per-gb-second") or None, _amount(amounts, "per-gb-second, price")))
    ends = [end for end, _ in tiers[:-1]]
    if not tiers or tiers[-1][0] is not None or None in ends or ends != sorted(ends, key=lambda end: end or 0):
        raise ValueError("per-gb-second: the tiers' ends rise, and the last one's is 0: it has no end")
    whole, while_provisioned = _amount(entry, "provisioned-per-gb-second"), _amount(entry, "per-gb-second-provisioned")
    return Rates(tuple(tiers), whole, while_provisioned)
