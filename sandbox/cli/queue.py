"""`sandbox queue`: asynchronous events that wait, and those that are stuck."""

from __future__ import annotations

import json
from typing import Any

import click

from sandbox.cli import data
from sandbox.cli.exits import FAILED, OK


@click.command("queue", short_help="Asynchronous events that wait, and those that are stuck.")
@click.argument("request_ids", nargs=-1, metavar="[REQUEST_ID ...]")
@click.option("--replay", is_flag=True, help="Try these again; without a REQUEST_ID everything that is stuck.")
@click.option("--discard", is_flag=True, help="Throw these away; without a REQUEST_ID everything that is stuck.")
@data.option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(request_ids: tuple[str, ...], replay: bool, discard: bool, data_: str | None, as_json: bool) -> int:
    """Shows the events that wait for an attempt; those that failed for good and have no destination; and records that no
    destination takes. --replay tries the last two again: at once if `sandbox serve` runs, else when it is started.
    """
    from sandbox.control.asynchronous import queue

    place = data.find(data_)
    if replay and discard:
        raise click.UsageError("--replay or --discard: one of them")
    if request_ids and not (replay or discard):
        raise click.UsageError("REQUEST_ID goes with --replay or --discard")
    if replay:
        return _replay(place, list(request_ids) or None, as_json)
    if discard:
        return _discard(place, list(request_ids) or None, as_json)
    overview = data.ask(place.endpoint, "GET", "queue") if place.endpoint else queue.look(place.folder, queue.overview)
    click.echo(json.dumps(overview) if as_json else "\n".join(_lines(overview)))
    return OK


def _replay(place: data.Place, request_ids: list[str] | None, as_json: bool) -> int:
    from functools import partial

    from sandbox.clock import SystemClock
    from sandbox.control.asynchronous import queue

    if place.endpoint:
        counts = data.ask(place.endpoint, "POST", "replay", {"requestIds": request_ids})
        events, messages = counts["events"], counts["messages"]
    else:
        found = queue.look(place.folder, partial(queue.replay, request_ids, SystemClock.wall()))
        events, messages = len(found[0]), len(found[1])
    when = "now" if place.endpoint else "when `sandbox serve --data` is started"
    told = f"{events} events and {messages} records are tried again {when}"
    if request_ids is not None and not (events or messages):
        told = "nothing that is stuck has such a request id: `sandbox queue` shows what is"
    click.echo(json.dumps({"events": events, "messages": messages}) if as_json else told)
    return OK if events or messages or request_ids is None else FAILED


def _discard(place: data.Place, request_ids: list[str] | None, as_json: bool) -> int:
    from functools import partial

    from sandbox.control.asynchronous import queue

    if place.endpoint:
        count = data.ask(place.endpoint, "POST", "discard", {"requestIds": request_ids})["discarded"]
    else:
        count = queue.look(place.folder, partial(queue.discard, request_ids))
    click.echo(json.dumps({"discarded": count}) if as_json else f"{count} events and records were thrown away")
    return OK if count or request_ids is None else FAILED


def _lines(overview: dict[str, Any]) -> list[str]:
    lines = []
    for one in overview["queued"]:
        failed = f", {one['failed']} of them failed before" if one["failed"] else ""
        refused = f", refused an environment {one['refusals']} times in a row" if one.get("refusals") else ""
        lines.append(f"queued: {one['function']}: {one['events']:,} events{failed}{refused}")
    lines += [
        f"stuck: {one['requestId']} {one['function']}: {one['condition']}: {_short(one['reason'])}" for one in overview["ended"]
    ]
    for one in overview["undelivered"]:
        state = "given up" if one["givenUp"] else f"tried {one['tries']} times"
        what = f"undelivered: {one['requestId']} {one['function']}: {one['kind']} record to {one['target']}"
        lines.append(f"{what}: {state}: {_short(one['reason'])}")
    more = overview["endedInAll"] - len(overview["ended"]) + overview["undeliveredInAll"] - len(overview["undelivered"])
    if more:
        lines.append(f"and {more:,} more")
    if overview["ended"] or any(one["givenUp"] for one in overview["undelivered"]):
        lines.append("`sandbox queue --replay` tries them again")
    return lines or ["Nothing waits, and nothing is stuck."]


def _short(reason: str | None) -> str:
    return " ".join((reason or "").split())[:200]
