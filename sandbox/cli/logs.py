"""`sandbox logs FUNCTION`: what a function has logged, and what it logs."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from sandbox.cli import data
from sandbox.cli.exits import FAILED, OK
from sandbox.cli.invoke import run
from sandbox.core.errors import ConfigError

_EVERY: Final = 0.25  # seconds between two looks


@click.command("logs", short_help="What a function has logged, and what it logs.")
@click.argument("function")
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--request-id", metavar="ID", help="Only the lines of one request.")
@data.option
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line: time, function, version, requestId, message.")
def command(function: str, follow: bool, request_id: str | None, data_: str | None, as_json: bool) -> int:
    """The log of FUNCTION, of all its execution environments, in the order of time. FUNCTION may also be a log group, which
    begins with a slash.

    Logs are kept by `sandbox serve --data DIR`.
    """
    return run(_show(function, follow, request_id, data_, as_json))


async def _show(function: str, follow: bool, request_id: str | None, data_: str | None, as_json: bool) -> int:
    from sandbox.clock import SystemClock
    from sandbox.control.kept_logs import FOLDER, Reader

    place = data.find(data_)
    if not (place.folder / FOLDER).is_dir() and data_ is None:
        raise ConfigError(f"{place.endpoint} keeps no logs: start it with `sandbox serve --data DIR`")
    reader = Reader(place.folder, function, request_id)
    clock, shown = SystemClock(), 0
    while True:
        for line in reader.read():
            click.echo(json.dumps(line) if as_json else _text(line))
            shown += 1
        if not follow:
            break
        await clock.sleep(_EVERY)
    if shown:
        return OK
    known = ", ".join(sorted(reader.functions)) or "none"
    what = f"request {request_id} of function {function}" if request_id else f"function {function}"
    click.echo(f"sandbox: there are no log lines of {what}; functions with logs: {known}", err=True)
    return FAILED


def _text(line: dict[str, Any]) -> str:
    return f"{line['time']} {line['message']}"
