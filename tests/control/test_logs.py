"""Logs as they come: with the function's name in front, and what happens when nobody takes them."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.control import logs
from sandbox.control.logs import CloudWatch, Printer
from tests.conftest import SHORT, MakeFolder, no_task_is_left

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

APP = """
import logging, sys
def handler(event, context):
    for line in event.get("lines", []):
        print(line)
    return [context.log_group_name, context.log_stream_name]
"""


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with Host(limits=SHORT) as host:
        yield host
    no_task_is_left()


async def run(host: Host, code: Path, event: Any, **settings: Any) -> list[str]:
    function = await host.deploy(code, runtime="python", handler="app.handler", **settings)
    result = (await function.invoke(event)).json()
    assert isinstance(result, list)
    return result


# ── on a stream ──


async def test_each_line_has_the_name_in_front(host: Host, folder: MakeFolder) -> None:
    out = io.BytesIO()
    printer = Printer(out, host.function_of)
    host.journal.subscribe(printer)
    for name in ("one", "other"):
        await run(host, folder(app_py=APP), {"lines": ["plain", "two\nlines", "é"]}, name=name)
    printer.flush()
    lines = out.getvalue().decode().splitlines()
    for name in ("one", "other"):
        mine = [line.partition(" | ")[2] for line in lines if line.startswith(f"{name} | ")]
        assert [line.split()[0] for line in mine] == ["INIT_START", "START", "plain", "two", "lines", "é", "END", "REPORT"]
    assert [line for line in lines if " | " not in line] == []


async def test_the_format_is_that_of_the_function(host: Host, folder: MakeFolder) -> None:
    out = io.BytesIO()
    printer = Printer(out, host.function_of)
    host.journal.subscribe(printer)
    await run(host, folder(app_py=APP), {}, name="f", log_format="JSON")
    printer.flush()
    assert b'"type":"platform.report"' in out.getvalue().replace(b" ", b"")
    assert b"REPORT RequestId" not in out.getvalue()


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
async def test_a_stream_that_is_gone_stops_nothing(host: Host, folder: MakeFolder, error: type[Exception]) -> None:
    class Gone(io.RawIOBase):
        def write(self, _: object) -> int:
            raise error

    host.journal.subscribe(Printer(Gone(), host.function_of))  # type: ignore[arg-type]
    assert await run(host, folder(app_py=APP), {"lines": ["x"]})


# ── to CloudWatch Logs: what AWS's limits ask for; see test_aws for a server's view ──


class Taker:
    """In the place of botocore's client: counts, and fails as told."""

    def __init__(self, fails: Callable[[int], Exception | None] = lambda _: None) -> None:
        self.batches: list[tuple[str, str, list[dict[str, Any]]]] = []
        self.made: list[tuple[str, ...]] = []
        self.calls = 0
        self._fails = fails
        self.arrived = threading.Event()

        class Exceptions:
            class ResourceAlreadyExistsException(Exception):
                pass

            class ResourceNotFoundException(Exception):
                pass

        self.exceptions = Exceptions

    def create_log_group(self, **names: str) -> None:
        self.made.append(tuple(names.values()))

    def create_log_stream(self, **names: str) -> None:
        self.made.append(tuple(names.values()))

    def put_log_events(self, **batch: Any) -> None:
        self.calls += 1
        if (error := self._fails(self.calls)) is not None:
            raise error
        self.batches.append((batch["logGroupName"], batch["logStreamName"], batch["logEvents"]))
        self.arrived.set()


async def test_batches_keep_to_the_limits_of_put_log_events(host: Host, folder: MakeFolder) -> None:
    taker = Taker()
    cloudwatch = CloudWatch(taker, host.function_of, print)
    host.journal.subscribe(cloudwatch)
    await run(host, folder(app_py=APP), {"lines": ["x" * 200_000] * 12 + [""] * 3 + ["é" * 100_000] * 3}, name="f")
    await cloudwatch.close()
    assert len(taker.batches) > 2
    for _, _, events in taker.batches:
        assert len(events) <= 10_000
        assert sum(len(event["message"].encode()) + 26 for event in events) <= 1_048_576
        assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
        assert all(event["message"] for event in events)  # an empty one is refused
    messages = [event["message"] for _, _, events in taker.batches for event in events]
    assert messages.count("x" * 200_000) == 12
    assert messages.count("é" * 100_000) == 3
    assert len(taker.made) == 2


def test_batches_of_many_short_lines() -> None:
    lines = [(1, "x")] * 25_000
    batches = list(logs._batches(lines))
    assert [len(batch) for batch in batches] == [10_000, 10_000, 5_000]
    assert [line for batch in batches for line in batch] == lines
    assert list(logs._batches([])) == []


async def test_an_error_is_told_once_and_does_not_end_the_delivery(host: Host, folder: MakeFolder) -> None:
    told: list[str] = []
    taker = Taker(lambda call: OSError("no way: there") if call <= 2 else None)
    cloudwatch = CloudWatch(taker, host.function_of, told.append)
    code = folder(app_py=APP)
    host.journal.subscribe(cloudwatch)
    function = await host.deploy(code, runtime="python", handler="app.handler", name="f")
    for _ in range(3):
        await function.invoke({})
        cloudwatch.deliver_now()
    await cloudwatch.close()
    assert len(told) == 1
    assert "no way" in told[0]
    assert taker.batches != []


async def test_what_is_too_much_is_dropped_and_told(host: Host, folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BACKLOG", 5)
    monkeypatch.setattr(logs.CloudWatch, "every", 1000.0)
    told: list[str] = []
    taker = Taker()
    cloudwatch = CloudWatch(taker, host.function_of, told.append)
    host.journal.subscribe(cloudwatch)
    await run(host, folder(app_py=APP), {"lines": ["x"] * 20})
    await cloudwatch.close()
    [text] = told
    dropped = int(text.split(" lines were dropped")[0].split()[-1])
    assert dropped >= 20 + 4 - 5  # INIT_START, START, END, REPORT
    assert sum(len(events) for _, _, events in taker.batches) == 5
