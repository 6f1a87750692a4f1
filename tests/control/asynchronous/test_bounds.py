"""What is bounded, and what a full disk or another function of the same name must not spoil."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.control.asynchronous import queue as queues
from sandbox.control.asynchronous.queue import DATABASE, Ending, Event, Queue
from sandbox.core.limits import EVENT_LIMIT
from tests.conftest import SHORT
from tests.control.conftest import Caller, called
from tests.control.helpers import ARN

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
MIB = 1024 * 1024


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with called(Host(limits=SHORT)) as made:
        yield made


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    made = Queue(tmp_path)
    try:
        yield made
    finally:
        await made.flushed()
        made.close()


def event(number: int, payload: bytes = b"{}") -> Event:
    return Event(number, "f", None, f"r{number}", "t", None, payload, 1.0, 1.0)


async def added(queue: Queue, one: Event) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    queue.add(one, lambda _, error: done.set_exception(error) if error else done.set_result(None))
    await done


async def test_so_many_events_that_failed_are_kept(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "EVENTS_KEPT", 5)
    for number in range(1, 9):
        await added(queue, event(number))
        await queue.end(Ending(event(number), "RetriesExhausted", keep=True))
    ended = (await queue.overview())["ended"]
    assert [one["requestId"] for one in ended] == ["r8", "r7", "r6", "r5", "r4"]


async def test_space_goes_back_to_the_disk(queue: Queue, tmp_path: Path) -> None:
    for number in range(1, 41):
        await added(queue, event(number, b" " * MIB + b"1"))
    for number in range(1, 41):
        await queue.end(Ending(event(number), "Success"))
    async with asyncio.timeout(20):
        while True:
            with closing(sqlite3.connect(f"file:{tmp_path / DATABASE}?mode=ro", uri=True)) as database:
                pages = database.execute("PRAGMA page_count").fetchone()[0]
            if pages * 4096 < 20 * MIB:
                break
            await queue.flushed()
            await asyncio.sleep(0.01)


async def test_who_looks_at_the_queue_reads_no_payload(queue: Queue) -> None:
    columns = "function, qualifier, id, accepted, due, failures"
    sql = f"SELECT {columns} FROM events INDEXED BY events_queued WHERE condition IS NULL"
    plan = await queue._ask(partial(queues._all, f"EXPLAIN QUERY PLAN {sql}"))
    assert "COVERING INDEX events_queued" in plan[0][3]


async def test_events_of_a_function_that_was_deleted_are_not_those_of_its_successor(queue: Queue) -> None:
    await added(queue, event(1))
    await added(queue, event(2))
    assert await queue.drop("f", 1, "deleted", "FunctionGone") == 1
    assert [one.id for one in await queue.queued()] == [2]


async def test_a_deletion_that_cannot_be_written_is_written_later(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in this moment."""
    await caller.create()
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
    dispatcher, kept = caller.service.dispatcher, caller.service._queue
    for _ in range(3):
        await caller.invoke(FunctionName="f", InvocationType="Event", Payload=b'{"do": "sleep", "seconds": 1}')
    drop, full = kept.drop, [True]

    async def fails(*arguments: Any) -> int:
        if full.pop():
            raise sqlite3.OperationalError("database or disk is full")
        return await drop(*arguments)

    full.insert(0, False)
    monkeypatch.setattr(kept, "drop", fails)
    await caller.delete_function(FunctionName="f")
    async with asyncio.timeout(20):
        while (await kept.overview())["queued"]:
            await asyncio.sleep(0.01)
    assert dispatcher._lanes == {} or all(not lane.ready for lane in dispatcher._lanes.values())


async def test_a_record_that_is_too_large_for_a_function_is_no_event(caller: Caller, tmp_path: Path) -> None:
    await caller.create("big", app=f"def handler(event, context):\n    return 'x' * {EVENT_LIMIT}\n")
    await caller.create("next")
    side = {"OnSuccess": {"Destination": f"{ARN}:function:next"}}
    await caller.put_function_event_invoke_config(FunctionName="big", DestinationConfig=side)
    await caller.invoke(FunctionName="big", InvocationType="Event", Payload=b"{}")
    folder = caller.service._store.folder / "destinations" / "lambda"
    async with asyncio.timeout(20):
        while not list(folder.rglob("*.json")):
            await asyncio.sleep(0.01)
    assert (await caller.call("next"))["calls"] == 1


@pytest.mark.catalogue("IN-140")
async def test_a_tenants_function_runs_for_no_event_without_a_tenant(caller: Caller, tmp_path: Path) -> None:
    await caller.create("t", TenancyConfig={"TenantIsolationMode": "PER_TENANT"})
    await caller.create("f")
    side = {"OnSuccess": {"Destination": f"{ARN}:function:t"}}
    await caller.put_function_event_invoke_config(FunctionName="f", DestinationConfig=side)
    await caller.invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
    async with asyncio.timeout(20):
        while not (ended := (await caller.service._queue.overview())["ended"]):
            await asyncio.sleep(0.01)
    assert (ended[0]["function"], ended[0]["condition"], ended[0]["failures"]) == ("t", "InvalidInvoke", 0)
    assert "tenant" in ended[0]["reason"]


async def test_a_lane_that_waits_goes_on_when_its_function_changes(caller: Caller) -> None:
    """Of a function that was throttled: more is reserved for it."""
    await caller.create()
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
    held = asyncio.ensure_future(caller.call("f", {"do": "sleep", "seconds": 2}))
    dispatcher = caller.service.dispatcher
    async with asyncio.timeout(20):
        while not caller.service.live._functions["f"].share._busy:
            await asyncio.sleep(0.005)
        await caller.invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
        while not any(lane.refusals for lane in dispatcher._lanes.values()):
            await asyncio.sleep(0.005)
        [lane] = dispatcher._lanes.values()
        lane.paused_until += 1000
        await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=2)
        while dispatcher._lanes:
            await asyncio.sleep(0.005)
    await held
