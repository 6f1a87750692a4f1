"""The queue on disk: against a plain model in any order, closed and opened again; and what a commit of many does."""

from __future__ import annotations

import asyncio
import copy
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sandbox.control.asynchronous.queue import DATABASE, Delivery, Ending, Event, Posted, Queue, Queued
from sandbox.control.database import migrations
from sandbox.core.errors import ConfigError


def event_of(number: int, function: str = "f", **given: Any) -> Event:
    return replace(Event(number, function, None, f"r{number}", "Root=1", None, b"{}", 10.0, 10.0), **given)


def posted(one: Delivery) -> Posted:
    return Posted(one.id, one.target, one.made, one.due)


def delivery_of(number: int, **given: Any) -> Delivery:
    message = {"body": '{"ü": 1.10}', "attributes": {"A": {"DataType": "String", "StringValue": "x"}}}
    return replace(Delivery(number, "f", f"r{number}", "file:///x", "failure", message, 10.0, 10.0), **given)


async def added(queue: Queue, *events: Event) -> None:
    """Adds them, and waits until they are on disk."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Exception | None]] = [loop.create_future() for _ in events]

    def tell(future: asyncio.Future[Exception | None], _: Any, error: Exception | None) -> None:
        future.set_result(error)

    for event, future in zip(events, futures, strict=True):
        queue.add(event, partial(tell, future))
    assert await asyncio.gather(*futures) == [None] * len(events)


@contextmanager
def queue_at(folder: Path) -> Iterator[Queue]:
    queue = Queue(folder)
    try:
        yield queue
    finally:
        queue.close()


def by_id(what: Any) -> int:
    number: int = what.id
    return number


# ── any order ──

FUNCTIONS = st.sampled_from(["f", "g", "h"])
NUMBERS = st.integers(0, 1000)
TIMES = st.integers(0, 10**6).map(float)


class Kept:
    """An event or a delivery of the model. state: an event's condition, None while it is queued; a delivery's given_up."""

    def __init__(self, what: Any, state: Any, reason: str | None = None) -> None:
        self.what, self.state, self.reason = what, state, reason


class AnyOrder(RuleBasedStateMachine):
    """What the queue says, and what dictionaries say. It is closed and opened again at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.queue = self.opened()
        self.events: dict[int, Kept] = {}
        self.deliveries: dict[int, Kept] = {}

    def opened(self) -> Queue:
        return Queue(Path(self.folder.name))

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.queue.close()
        self.runner.close()
        self.folder.cleanup()

    def queued(self) -> list[int]:
        return [number for number, kept in self.events.items() if kept.state is None]

    def one_of(self, numbers: list[int], chosen: int) -> int:
        return numbers[chosen % len(numbers)]

    @rule(function=FUNCTIONS, qualifier=st.sampled_from([None, "1", "live"]), tenant=st.sampled_from([None, "t"]), at=TIMES)
    def add(self, function: str, qualifier: str | None, tenant: str | None, at: float) -> None:
        number = self.queue.next_id()
        assert number not in self.events
        payload = b'"\xc3\xbc"' * (number % 3 + 1)
        event = event_of(number, function, qualifier=qualifier, tenant_id=tenant, payload=payload, accepted=at, due=at + 1)
        self.events[number] = Kept(copy.copy(event), None)
        self.do(added(self.queue, event))

    @precondition(lambda self: self.queued())
    @rule(chosen=NUMBERS, due=TIMES, failures=st.integers(0, 2))
    def put_off(self, chosen: int, due: float, failures: int) -> None:
        kept = self.events[self.one_of(self.queued(), chosen)]
        kept.what = replace(kept.what, due=due, failures=failures)
        assert self.do(self.queue.put_off(kept.what))

    @precondition(lambda self: self.queued())
    @rule(chosen=NUMBERS, keep=st.booleans(), messages=st.integers(0, 2), others=st.integers(0, 1), at=TIMES)
    def end(self, chosen: int, keep: bool, messages: int, others: int, at: float) -> None:
        number = self.one_of(self.queued(), chosen)
        event = replace(self.events[number].what, failures=3)
        ending = Ending(event, "RetriesExhausted", "it failed", keep)
        for _ in range(messages):
            delivery = delivery_of(self.queue.next_delivery_id(), request_id=event.request_id, made=at, due=at)
            assert delivery.id not in self.deliveries
            ending.deliveries.append(delivery)
            self.deliveries[delivery.id] = Kept(copy.copy(delivery), False)
        for _ in range(others):
            other = event_of(self.queue.next_id(), "h", accepted=at, due=at)
            ending.events.append(other)
            self.events[other.id] = Kept(copy.copy(other), None)
        if keep:
            self.events[number] = Kept(event, "RetriesExhausted", "it failed")
        else:
            del self.events[number]
        self.do(self.queue.end(ending))

    @rule(function=FUNCTIONS)
    def drop(self, function: str) -> None:
        gone = [number for number in self.queued() if self.events[number].what.function == function]
        for number in gone:
            self.events[number] = Kept(self.events[number].what, "FunctionGone", "deleted")
        assert self.do(self.queue.drop(function, self.queue.last_event, "deleted", "FunctionGone")) == len(gone)

    @precondition(lambda self: self.deliveries)
    @rule(chosen=NUMBERS, well=st.booleans(), given_up=st.booleans(), due=TIMES)
    def deliver(self, chosen: int, well: bool, given_up: bool, due: float) -> None:
        kept = self.deliveries[self.one_of(list(self.deliveries), chosen)]
        if well:
            del self.deliveries[kept.what.id]
            self.do(self.queue.delivered(kept.what))
        else:
            kept.what = replace(kept.what, due=due, tries=kept.what.tries + 1)
            kept.state, kept.reason = given_up, "down"
            self.do(self.queue.not_delivered(kept.what, "down", given_up=given_up))

    @rule(everything=st.booleans(), chosen=st.lists(st.integers(0, 30), max_size=4), now=TIMES)
    def replay(self, everything: bool, chosen: list[int], now: float) -> None:
        wanted = [f"r{number}" for number in chosen]
        events, deliveries = self.do(self.queue.replay(None if everything else wanted, now))
        again = [kept for kept in self.events.values() if kept.state is not None]
        sent = [kept for kept in self.deliveries.values() if kept.state]
        if not everything:
            again = [kept for kept in again if kept.what.request_id in wanted]
            sent = [kept for kept in sent if kept.what.request_id in wanted]
        for kept in again:
            kept.what, kept.state = replace(kept.what, accepted=now, due=now, failures=0), None
            kept.reason = None
        for kept in sent:
            kept.what, kept.state = replace(kept.what, made=now, due=now, tries=0), False
        assert sorted(events, key=by_id) == sorted(
            (Queued(one.what.function, one.what.qualifier, one.what.id, now, now) for one in again), key=by_id
        )
        assert sorted(deliveries, key=by_id) == sorted((posted(one.what) for one in sent), key=by_id)

    @rule()
    def open_again(self) -> None:
        self.queue.close()
        self.queue = self.opened()

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        queued = sorted(self.queued())
        models = [self.events[number].what for number in queued]
        found = self.do(self.queue.queued())
        assert found == [Queued(one.function, one.qualifier, one.id, one.accepted, one.due) for one in models]
        assert self.do(self.queue.events(sorted(self.events))) == models
        open_ = [self.deliveries[number] for number in sorted(self.deliveries) if not self.deliveries[number].state]
        assert self.do(self.queue.deliveries()) == [posted(kept.what) for kept in open_]
        for kept in open_[:2]:
            assert self.do(self.queue.delivery(kept.what.id)) == kept.what
        self.check_overview(self.do(self.queue.overview()), models)

    def check_overview(self, said: dict[str, Any], models: list[Event]) -> None:
        by_function: dict[str, list[Event]] = {}
        for one in models:
            by_function.setdefault(one.function, []).append(one)
        assert {one["function"]: one for one in said["queued"]} == {
            name: {
                "function": name,
                "events": len(those),
                "oldest": min(one.accepted for one in those),
                "next": min(one.due for one in those),
                "failed": sum(one.failures > 0 for one in those),
            }
            for name, those in by_function.items()
        }
        ended = [kept for _, kept in sorted(self.events.items(), reverse=True) if kept.state is not None]
        assert [(one["requestId"], one["condition"], one["reason"], one["failures"]) for one in said["ended"]] == [
            (kept.what.request_id, kept.state, kept.reason, kept.what.failures) for kept in ended
        ]
        left = [kept for _, kept in sorted(self.deliveries.items(), reverse=True)]
        assert [(one["requestId"], one["tries"], bool(one["givenUp"]), one["reason"]) for one in said["undelivered"]] == [
            (kept.what.request_id, kept.what.tries, kept.state, kept.reason) for kept in left
        ]
        assert (said["endedInAll"], said["undeliveredInAll"]) == (len(ended), len(left))


class TestAnyOrder(AnyOrder.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


# ── commits ──


async def test_what_was_added_is_on_disk_when_that_is_told(tmp_path: Path) -> None:
    """Another connection sees it."""
    with queue_at(tmp_path) as queue, closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        for number in range(1, 6):
            await added(queue, event_of(number))
            assert other.execute("SELECT count(*) FROM events").fetchone() == (number,)
        [[level]] = await queue._ask(lambda database: database.execute("PRAGMA synchronous").fetchall())
        assert level == 2, "not FULL"


async def test_many_share_a_commit_and_keep_their_order(tmp_path: Path) -> None:
    told: list[int] = []

    def tell(number: int, _: Any, error: Exception | None) -> None:
        told.append(number if error is None else -1)

    with queue_at(tmp_path) as queue:
        for number in range(1, 1301):
            queue.add(event_of(number), partial(tell, number))
        await queue.flushed()
        assert told == list(range(1, 1301))
        assert [one.id for one in await queue.queued()] == told


async def test_what_cannot_be_added_keeps_no_other_from_it(tmp_path: Path) -> None:
    """Each is told what became of its own."""
    told: dict[str, Exception | None] = {}

    def tell(name: str) -> Any:
        return lambda _, error: told.__setitem__(name, error)

    with queue_at(tmp_path) as queue:
        await added(queue, event_of(1))
        for name, event in (("a", event_of(2)), ("twice", event_of(1)), ("b", event_of(3)), ("c", event_of(4))):
            queue.add(event, tell(name))
        await queue.flushed()
        assert isinstance(told.pop("twice"), sqlite3.IntegrityError)
        assert told == {"a": None, "b": None, "c": None}
        assert [one.id for one in await queue.queued()] == [1, 2, 3, 4]


async def test_an_ending_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with queue_at(tmp_path) as queue:
        await added(queue, event_of(1), event_of(2))
        ending = Ending(event_of(1), "Success", deliveries=[delivery_of(1)], events=[event_of(2)])
        with pytest.raises(sqlite3.IntegrityError):
            await queue.end(ending)
        assert [one.id for one in await queue.queued()] == [1, 2]
        assert await queue.deliveries() == []


async def test_a_callback_that_raises_is_nobody_elses_trouble(tmp_path: Path) -> None:
    """The others of its commit are told all the same."""
    told: list[int] = []

    def raises(_: Any, __: Any) -> None:
        raise RuntimeError("a mistake of the one who called")

    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
    with queue_at(tmp_path) as queue:
        queue.add(event_of(1), lambda _, __: told.append(1))
        queue.add(event_of(2), raises)
        queue.add(event_of(3), lambda _, __: told.append(3))
        async with asyncio.timeout(20):
            await queue.flushed()
        assert told == [1, 3]


async def test_an_event_that_has_ended_is_not_put_off(tmp_path: Path) -> None:
    with queue_at(tmp_path) as queue:
        await added(queue, event_of(1), event_of(2))
        await queue.end(Ending(event_of(1), "Success"))
        await queue.drop("f", 1000, "deleted", "FunctionGone")
        assert [await queue.put_off(event_of(number, failures=1)) for number in (1, 2, 3)] == [False] * 3
        assert [(one["requestId"], one["failures"]) for one in (await queue.overview())["ended"]] == [("r2", 0)]


async def test_the_newest_hundred_that_ended_are_shown(tmp_path: Path) -> None:
    with queue_at(tmp_path) as queue:
        await added(queue, *(event_of(number) for number in range(1, 121)))
        assert await queue.drop("f", 1000, "deleted", "FunctionGone") == 120
        overview = await queue.overview()
        assert [one["requestId"] for one in overview["ended"]] == [f"r{number}" for number in range(120, 20, -1)]
        assert overview["endedInAll"] == 120


async def test_a_message_is_kept_as_it_is(tmp_path: Path) -> None:
    with queue_at(tmp_path) as queue:
        await added(queue, event_of(1))
        await queue.end(Ending(event_of(1), "Success", deliveries=[delivery_of(1), delivery_of(2, tries=4)]))
    with queue_at(tmp_path) as queue:
        assert await queue.deliveries() == [posted(delivery_of(1)), posted(delivery_of(2))]
        kept = [await queue.delivery(number) for number in (1, 2)]
        assert kept == [delivery_of(1), delivery_of(2, tries=4)]
        assert await queue.delivery(3) is None
        assert queue.next_delivery_id() == 3


# ── the database ──


def test_a_queue_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    newer = len(list(migrations("sandbox.control.asynchronous"))) + 1
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        database.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(ConfigError, match="newer lambda-sandbox"):
        Queue(tmp_path)


@pytest.mark.parametrize("what", [b"no database at all, and long enough to be told from one" * 20, b"SQLite format 3\0" * 100])
def test_a_damaged_queue_is_told(tmp_path: Path, what: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(what)
    with pytest.raises(ConfigError, match="damaged"):
        Queue(tmp_path)
