"""Events and deliveries on disk. What was added is there when its callback is called, whatever happens then.

All work is done in one thread. What comes while it commits is committed together, next: so many callers share one sync of
the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sandbox.control.database import open_database
from sandbox.core.errors import ConfigError
from sandbox.core.limits import EVENTS_KEPT

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
Done = Callable[[Any, Exception | None], None]

DATABASE: Final = "events.sqlite3"
_EVENT: Final = "id, function, qualifier, request_id, trace_id, tenant_id, payload, accepted, due, failures"
_DELIVERY: Final = "id, function, request_id, target, kind, message, made, due, tries"
_AT_A_TIME: Final = 500  # of one commit
_FREE_PAGES: Final = 2000  # of 4 KB: so many are left for what comes next
_log = logging.getLogger("sandbox.control")


@dataclass(slots=True)
class Event:
    """One asynchronous invoke. qualifier: as it was asked for. accepted, due: seconds since the epoch; no attempt before `due`.

    failures: attempts that the function failed.
    """

    id: int
    function: str
    qualifier: str | None
    request_id: str
    trace_id: str
    tenant_id: str | None
    payload: bytes
    accepted: float
    due: float
    failures: int = 0


@dataclass(slots=True)
class Delivery:
    """What a destination or a dead-letter target is to get. target: an ARN or file://…; kind: success, failure, dead-letter.

    message: its `body`, a text, and `attributes`. Times as those of events.
    """

    id: int
    function: str
    request_id: str
    target: str
    kind: str
    message: dict[str, Any]
    made: float
    due: float
    tries: int = 0


class Queued(NamedTuple):
    """An event that waits, without what it carries."""

    function: str
    qualifier: str | None
    id: int
    accepted: float
    due: float


class Posted(NamedTuple):
    """A delivery that is to be made, without what it says."""

    id: int
    target: str
    made: float
    due: float


@dataclass(slots=True)
class Ending:
    """How an event ends. condition: as in the record of its destination. keep: nobody takes note of it, so it stays here for
    people. events: those of functions that are its destination."""

    event: Event
    condition: str
    reason: str = ""
    keep: bool = False
    deliveries: list[Delivery] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Queue:
    """folder: of the store. Raises ConfigError: the database is damaged, or newer."""

    def __init__(self, folder: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "events")
        self._waiting: list[tuple[Work, Done | None]] = []
        self._committing: asyncio.Future[list[tuple[Any, Exception | None]]] | None = None
        try:
            self._database = self._thread.submit(open_database, folder / DATABASE, __package__).result()
            count = partial(
                _all, "SELECT coalesce(max(id), 0) FROM events UNION ALL SELECT coalesce(max(id), 0) FROM deliveries"
            )
            rows = self._thread.submit(count, self._database).result()
            self._last_event, self._last_delivery = int(rows[0][0]), int(rows[1][0])
        except (sqlite3.Error, OSError) as error:
            self._thread.shutdown()
            raise ConfigError(f"--data {folder}: {DATABASE}: {error}: damaged, or none of lambda-sandbox") from None
        except BaseException:
            self._thread.shutdown()
            raise

    # ── work for the thread ──

    def _do(self, work: Work, done: Done | None = None) -> None:
        self._waiting.append((work, done))
        if self._committing is None:
            self._commit_next()

    async def _ask(self, work: Work) -> Any:
        """Its result, when everything before it is on disk, too. Raises sqlite3.Error."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: Exception | None) -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._do(work, done)
        return await future

    def _commit_next(self) -> None:
        batch, self._waiting = self._waiting[:_AT_A_TIME], self._waiting[_AT_A_TIME:]
        works = [work for work, _ in batch]
        self._committing = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, works)
        self._committing.add_done_callback(partial(self._committed, batch))

    def _commit(self, works: list[Work]) -> list[tuple[Any, Exception | None]]:
        """All in one transaction; if one of them cannot be done, each in its own: the others are."""
        try:
            return [(result, None) for result in self._transact(works)]
        except Exception as error:
            if len(works) == 1:
                return [(None, error)]
            return [found for work in works for found in self._commit([work])]

    def _transact(self, works: list[Work]) -> list[Any]:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            results = [work(database) for work in works]
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk may have ended it
                database.execute("ROLLBACK")
            raise
        return results

    def _committed(self, batch: list[tuple[Work, Done | None]], future: asyncio.Future[Any]) -> None:
        self._committing = None
        if self._waiting:
            self._commit_next()
        else:
            self._thread.submit(_give_back, self._database)
        for (_, done), (result, error) in zip(batch, future.result(), strict=True):
            if done is not None:
                try:
                    done(result, error)
                except Exception:  # the others are told even so
                    _log.exception("a mistake of lambda-sandbox itself")
            elif error is not None:
                _log.error("events: %s", error)

    async def flushed(self) -> None:
        """Waits until everything that was asked for is done."""
        while self._waiting or self._committing is not None:
            await self._ask(lambda _: None)

    def close(self) -> None:
        """Everything is on disk then, if `flushed` was waited for."""
        self._thread.submit(self._database.close).result()
        self._thread.shutdown()

    # ── events ──

    def next_id(self) -> int:
        self._last_event += 1
        return self._last_event

    def next_delivery_id(self) -> int:
        self._last_delivery += 1
        return self._last_delivery

    def add(self, event: Event, done: Done) -> None:
        """done: called with (None, None) when it is on disk, or with the error that kept it from there."""
        self._do(partial(_insert_event, event), done)

    async def queued(self) -> list[Queued]:
        """Every event that waits, in the order of their acceptance."""
        sql = "SELECT function, qualifier, id, accepted, due FROM events INDEXED BY events_queued "
        sql += "WHERE condition IS NULL ORDER BY id"
        return [Queued(*row) for row in await self._ask(partial(_all, sql))]

    async def events(self, ids: list[int]) -> list[Event]:
        """Those of them that are queued."""
        marks = ", ".join("?" * len(ids))
        sql = f"SELECT {_EVENT} FROM events WHERE condition IS NULL AND id IN ({marks}) ORDER BY id"
        return [Event(*row) for row in await self._ask(partial(_all, sql, *ids))]

    async def put_off(self, event: Event) -> bool:
        """Keeps when it is tried next, and how often it failed. False if it is not queued any more."""
        sql = "UPDATE events SET due = ?, failures = ? WHERE id = ? AND condition IS NULL"
        return bool(await self._ask(partial(_run, sql, event.due, event.failures, event.id)))

    async def end(self, ending: Ending) -> None:
        """The event is not queued any more, and what is to be sent is kept: both, or neither."""
        await self._ask(partial(_end, ending))

    @property
    def last_event(self) -> int:
        """The highest number that was given out."""
        return self._last_event

    async def drop(self, function: str, last: int, reason: str, condition: str) -> int:
        """The function is gone: what is queued for it, up to a number, ends, and is kept for people. How many there were."""
        sql = "UPDATE events SET condition = ?, reason = ? WHERE function = ? AND id <= ? AND condition IS NULL"
        return int(await self._ask(partial(_run, sql, condition, reason, function, last)))

    # ── deliveries ──

    async def deliveries(self) -> list[Posted]:
        """Those that are still to be made, in the order of their making."""
        sql = "SELECT id, target, made, due FROM deliveries WHERE NOT given_up ORDER BY id"
        return [Posted(*row) for row in await self._ask(partial(_all, sql))]

    async def delivery(self, number: int) -> Delivery | None:
        """One that is still to be made."""
        rows = await self._ask(partial(_all, f"SELECT {_DELIVERY} FROM deliveries WHERE NOT given_up AND id = ?", number))
        return _delivery(rows[0]) if rows else None

    async def give_up(self, numbers: list[int], reason: str) -> None:
        """They stay for people."""
        sql = "UPDATE deliveries SET given_up = 1, reason = ? WHERE id = ?"
        await self._ask(lambda database: database.executemany(sql, [(reason, number) for number in numbers]))

    async def delivered(self, delivery: Delivery) -> None:
        await self._ask(partial(_run, "DELETE FROM deliveries WHERE id = ?", delivery.id))

    async def not_delivered(self, delivery: Delivery, reason: str, *, given_up: bool) -> None:
        sql = "UPDATE deliveries SET due = ?, tries = ?, reason = ?, given_up = ? WHERE id = ?"
        await self._ask(partial(_run, sql, delivery.due, delivery.tries, reason, given_up, delivery.id))

    # ── for people ──

    async def overview(self) -> dict[str, Any]:
        """See `overview` below."""
        found: dict[str, Any] = await self._ask(overview)
        return found

    async def discard(self, request_ids: list[str] | None) -> int:
        """See `discard` below."""
        return int(await self._ask(partial(discard, request_ids)))

    async def replay(self, request_ids: list[str] | None, now: float) -> tuple[list[Queued], list[Posted]]:
        """See `replay` below."""
        found: tuple[list[Queued], list[Posted]] = await self._ask(partial(replay, request_ids, now))
        return found


def _give_back(database: sqlite3.Connection) -> None:
    """Nobody waits: space that events have left goes back to the disk."""
    with contextlib.suppress(sqlite3.Error):
        if database.execute("PRAGMA freelist_count").fetchone()[0] > _FREE_PAGES:
            database.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES})")  # execute would free a single page


def _all(sql: str, *values: Any) -> Any:
    """`_all(sql, …, database)`: made for partial, where the database comes last."""
    return values[-1].execute(sql, values[:-1]).fetchall()


def _run(sql: str, *values: Any) -> int:
    """The same; how many rows were changed."""
    count: int = values[-1].execute(sql, values[:-1]).rowcount
    return count


_INSERT_EVENT: Final = f"INSERT INTO events ({_EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_DELIVERY: Final = f"INSERT INTO deliveries ({_DELIVERY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def _insert_event(event: Event, database: sqlite3.Connection) -> None:
    e = event
    head = e.id, e.function, e.qualifier, e.request_id, e.trace_id, e.tenant_id
    database.execute(_INSERT_EVENT, (*head, e.payload, e.accepted, e.due, e.failures))


def _end(ending: Ending, database: sqlite3.Connection) -> None:
    event = ending.event
    if ending.keep:
        sql = "UPDATE events SET condition = ?, reason = ?, failures = ? WHERE id = ?"
        database.execute(sql, (ending.condition, ending.reason, event.failures, event.id))
        newest = "SELECT id FROM events WHERE condition IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?"
        database.execute(f"DELETE FROM events WHERE condition IS NOT NULL AND id <= ({newest})", (EVENTS_KEPT,))
    else:
        database.execute("DELETE FROM events WHERE id = ?", (event.id,))
    for d in ending.deliveries:
        what = d.id, d.function, d.request_id, d.target, d.kind, json.dumps(d.message)
        database.execute(_INSERT_DELIVERY, (*what, d.made, d.due, d.tries))
    for other in ending.events:
        _insert_event(other, database)


def _delivery(row: tuple[Any, ...]) -> Delivery:
    number, function, request_id, target, kind, message, made, due, tries = row
    return Delivery(number, function, request_id, target, kind, json.loads(message), made, due, tries)


def overview(database: sqlite3.Connection) -> dict[str, Any]:
    """What is queued, by function; the newest events that ended without anybody's notice; what could not be delivered."""
    queued = "SELECT function, count(*), min(accepted), min(due), sum(failures > 0) FROM events INDEXED BY events_queued"
    columns = "request_id, function, condition, reason, failures, accepted"
    ended = f"SELECT {columns} FROM events WHERE condition IS NOT NULL ORDER BY id DESC LIMIT 100"
    undelivered = (
        "SELECT request_id, function, target, kind, reason, tries, given_up FROM deliveries ORDER BY id DESC LIMIT 100"
    )
    return {
        "queued": _documents(
            database, f"{queued} WHERE condition IS NULL GROUP BY function", "function", "events", "oldest", "next", "failed"
        ),
        "ended": _documents(database, ended, "requestId", "function", "condition", "reason", "failures", "accepted"),
        "undelivered": _documents(
            database, undelivered, "requestId", "function", "target", "kind", "reason", "tries", "givenUp"
        ),
        "endedInAll": database.execute("SELECT count(*) FROM events WHERE condition IS NOT NULL").fetchone()[0],
        "undeliveredInAll": database.execute("SELECT count(*) FROM deliveries").fetchone()[0],
    }


def discard(request_ids: list[str] | None, database: sqlite3.Connection) -> int:
    """Throws away what has ended and what was given up: of these requests, or all of it. How much it was."""
    count = 0
    for table, stuck in (("events", "condition IS NOT NULL"), ("deliveries", "given_up")):
        if request_ids is None:
            count += database.execute(f"DELETE FROM {table} WHERE {stuck}").rowcount
        else:
            sql = f"DELETE FROM {table} WHERE {stuck} AND request_id = ?"
            count += sum(database.execute(sql, (one,)).rowcount for one in dict.fromkeys(request_ids))
    return count


def _documents(database: sqlite3.Connection, sql: str, *keys: str) -> list[dict[str, Any]]:
    return [dict(zip(keys, row, strict=True)) for row in database.execute(sql)]


def replay(request_ids: list[str] | None, now: float, database: sqlite3.Connection) -> tuple[list[Queued], list[Posted]]:
    """What has ended is queued again as a new event, and what was given up is sent again: of these requests, or of all."""
    events = "UPDATE events SET condition = NULL, reason = NULL, failures = 0, accepted = ?1, due = ?1 "
    events += "WHERE condition IS NOT NULL"
    deliveries = "UPDATE deliveries SET given_up = 0, tries = 0, made = ?1, due = ?1 WHERE given_up"
    found: list[list[Any]] = []
    for sql, columns in ((events, "function, qualifier, id, accepted, due"), (deliveries, "id, target, made, due")):
        if request_ids is None:
            found.append(database.execute(f"{sql} RETURNING {columns}", (now,)).fetchall())
        else:
            one = f"{sql} AND request_id = ?2 RETURNING {columns}"
            found.append([row for id_ in dict.fromkeys(request_ids) for row in database.execute(one, (now, id_)).fetchall()])
    return [Queued(*row) for row in found[0]], [Posted(*row) for row in found[1]]


def look(folder: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Does it with the database of a folder that no host uses. Raises ConfigError."""
    try:
        with contextlib.closing(open_database(folder / DATABASE, __package__)) as database, database:
            database.execute("BEGIN IMMEDIATE")
            return work(database)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"--data {folder}: {DATABASE}: {error}") from None
