"""Lanes of targets: what is down is tried with growing pauses, and holds up nobody else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.control.asynchronous.deliveries import Deliveries
from sandbox.control.asynchronous.queue import Delivery, Ending, Event, Queue
from sandbox.core.limits import DELIVERY_AGE
from tests.conftest import SHORT
from tests.control.conftest import called
from tests.control.helpers import ARN

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]


class World:
    """sent: what was taken. down: targets that take nothing; poison: ids that nobody takes; hang: targets that never answer."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.queue = Queue(folder)
        self.tried: list[int] = []
        self.sent: list[int] = []
        self.down: set[str] = set()
        self.poison: set[int] = set()
        self.hang: set[str] = set()
        self.go_on = threading.Event()
        self.told: list[str] = []
        self.deliveries = Deliveries(self.queue, self.send, self.clock, self.told.append)

    def send(self, delivery: Delivery) -> None:
        self.tried.append(delivery.id)
        if delivery.target in self.hang:
            self.go_on.wait(30)
        if delivery.target in self.down or delivery.id in self.poison:
            raise ConnectionRefusedError("down")
        self.sent.append(delivery.id)

    async def post(self, target: str, count: int) -> list[int]:
        made = [
            Delivery(
                self.queue.next_delivery_id(), "f", "r", target, "failure", {"body": "x"}, self.clock.wall(), self.clock.wall()
            )
            for _ in range(count)
        ]
        event = Event(self.queue.next_id(), "f", None, "r", "t", None, b"{}", 0.0, 0.0)
        await self.queue.end(Ending(event, "Success", deliveries=made))
        for one in made:
            self.deliveries.add(one)
        return [one.id for one in made]

    async def quiet(self) -> None:
        await self.until(lambda: not self.deliveries._tasks)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.go_on.set()
        await made.deliveries.close()
        await made.queue.flushed()
        made.queue.close()


async def test_a_target_that_is_down_is_tried_with_one_message_at_a_time(world: World) -> None:
    world.down = {"a"}
    await world.post("a", 50)
    await world.quiet()
    tries = []
    for wait in (1, 2, 4, 8):
        before = len(world.tried)
        world.clock.advance(wait)
        await world.quiet()
        tries.append(len(world.tried) - before)
    assert tries == [1, 1, 1, 1]
    world.down = set()
    world.clock.advance(16)
    await world.quiet()
    world.clock.advance(300)  # those that were tried wait for their own time
    await world.quiet()
    assert sorted(world.sent) == list(range(1, 51))
    assert len(world.told) == 1


async def test_a_message_that_nobody_takes_holds_up_no_other(world: World) -> None:
    world.poison = {1}
    await world.post("a", 20)
    await world.quiet()
    world.clock.advance(1)
    await world.quiet()
    assert sorted(world.sent) == list(range(2, 21))
    world.poison = set()
    world.clock.advance(300)
    await world.quiet()
    assert len(world.sent) == 20


async def test_a_target_that_hangs_holds_up_no_other(world: World) -> None:
    world.hang = {"a"}
    await world.post("a", 30)
    await world.until(lambda: len(world.tried) == 2)
    ids = await world.post("b", 30)
    await world.until(lambda: len(world.sent) == 30)
    assert sorted(world.sent) == ids
    assert len(world.tried) == 32


async def test_what_waits_for_a_target_that_is_down_for_long_is_given_up_together(world: World) -> None:
    world.down = {"a"}
    await world.post("a", 40)
    await world.quiet()
    for _ in range(30):
        world.clock.advance(300)
        await world.quiet()
    assert world.clock.now() - 1000 > DELIVERY_AGE
    assert await world.queue.deliveries() == []
    assert (await world.queue.overview())["undeliveredInAll"] == 40
    assert len(world.tried) < 40
    assert world.deliveries._made == {}


async def test_a_loop_by_way_of_destinations_ends(tmp_path: Path) -> None:
    """ping's destination is pong, and pong's is ping."""
    async with called(Host(limits=SHORT)) as caller:
        app = "def handler(event, context):\n    return 1\n"
        for name in ("ping", "pong"):
            await caller.create(name, app=app)
        for name, other in (("ping", "pong"), ("pong", "ping")):
            side = {"OnSuccess": {"Destination": f"{ARN}:function:{other}"}}
            failed = {"OnFailure": {"Destination": f"file://{tmp_path}/failed"}}
            await caller.put_function_event_invoke_config(FunctionName=name, DestinationConfig=side | failed)
        await caller.invoke(FunctionName="ping", InvocationType="Event", Payload=b"{}")
        async with asyncio.timeout(20):
            while not (found := list((tmp_path / "failed").glob("*.json"))):
                await asyncio.sleep(0.005)
        context = json.loads(found[0].read_text())["requestContext"]
        assert (context["condition"], context["approximateInvokeCount"]) == ("RecursionDetected", 0)
        assert "function:ping" in context["functionArn"]
