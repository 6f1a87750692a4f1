"""`sandbox report`: billed time, GB-seconds and cost per function."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox.cli import data
from sandbox.cli.exits import OK
from sandbox.core.errors import ConfigError

if TYPE_CHECKING:
    from sandbox.control.billing.costs import Line, Report

_HEAD = ("FUNCTION", "VERSION", "REQUESTS", "BILLED MS", "GB-SECONDS", "COST USD")


@click.command("report", short_help="Billed time, GB-seconds and cost per function.")
@data.option
@click.option("--month", metavar="YYYY-MM", help="Only this month, of UTC.")
@click.option(
    "--prices", metavar="FILE", type=click.Path(path_type=Path), help="Other prices than those published for us-east-1."
)
@click.option("--free-tier", is_flag=True, help="Take off what is free each month.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(data_: str | None, month: str | None, prices: Path | None, free_tier: bool, as_json: bool) -> int:
    """What the functions of a `sandbox serve` would have cost on Lambda, by function and version.

    BILLED MS and REQUESTS are the sums of the REPORT lines; on Lambda the same code takes another time.
    """
    from sandbox.control.billing.costs import report
    from sandbox.control.billing.prices import read_prices
    from sandbox.control.billing.totals import read
    from sandbox.control.store import look

    if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise ConfigError(f"--month {month}: a month looks like 2026-11")
    held = read_prices(prices)
    bills, times = look(data.find(data_).folder, read)
    made = report(bills, times, held, month=month, free_tier=free_tier)
    click.echo(json.dumps(made.document()) if as_json else _table(made))
    return OK


def _table(made: Report) -> str:
    if not made.lines:
        return "Nothing was billed yet."
    rows = [_HEAD, *(_row(*key, line) for key, line in made.lines.items()), _row("total", "", made.total)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [_aligned(row, widths) for row in rows]
    lines.insert(-1, "-" * len(lines[0]))
    total = made.total
    lines += [f"  {text}" for text in _notes(total)]
    if made.free is not None:
        lines.append(f"  free tier: {_money(made.free)} USD are taken off the total")
    held = ", ".join(str(one.since) for one in made.prices)
    lines.append(f"  prices: those from {held}" + ("" if made.free is not None else "; without the free tier (--free-tier)"))
    return "\n".join(lines)


def _notes(total: Line) -> Iterable[str]:
    if total.further_requests:
        yield f"{total.further_requests:,} further requests were billed for events over 256 KB"
    if total.provisioned_gb_seconds or total.allocated_gb_seconds:
        yield f"provisioned: {total.allocated_gb_seconds:.3f} GB-s allocated, {total.provisioned_gb_seconds:.3f} GB-s used"
    if total.init_ms:
        yield f"{total.init_ms:,} ms of the latter are of Inits ahead of invokes"
    if total.tmp_gb_seconds:
        yield f"/tmp beyond 512 MB: {total.tmp_gb_seconds:.3f} GB-s"
    if total.streamed_bytes:
        yield f"streamed beyond 6 MB of a request: {total.streamed_bytes:,} bytes"


def _row(function: str, version: str, line: Line) -> tuple[str, ...]:
    used = line.gb_seconds + line.provisioned_gb_seconds
    return function, version, f"{line.requests:,}", f"{line.billed_ms:,}", f"{used:,.4f}", _money(line.cost)


def _money(cost: Decimal) -> str:
    return f"{cost:,.2f}" if cost >= 100 else f"{cost:.8f}"


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    names = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
    return "  ".join([*names, *(text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True))])
