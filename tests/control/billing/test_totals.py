"""What is billed, from functions that run to the report of a data folder."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.control.billing.costs import Line, Report, report
from sandbox.control.billing.prices import read_prices
from sandbox.control.billing.totals import Bill, ProvisionedTime, Total, read
from sandbox.control.kept_logs import Reader
from sandbox.control.server import Server
from sandbox.control.service import Service
from sandbox.control.store import look
from sandbox.telemetry.journal import Record
from tests.conftest import SHORT, Tier, no_task_is_left, request
from tests.control.conftest import APP, ROLE, Caller, zip_of
from tests.control.test_invoke import connected, path_of, raw, until
from tests.control.test_live import provisioned, version
from tests.control.test_store import files_end_at
from tests.control.test_streaming import archive

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

KIB, MIB = 1024, 1024**2
STREAMS = "/2021-11-15/functions/s/response-streaming-invocations"


class Place:
    """A served service, and what it bills."""

    def __init__(self, caller: Caller, told: list[str]) -> None:
        self.caller, self.told = caller, told
        self.service = caller.service
        self._counts = Counter[str]()
        self.service.host.journal.subscribe(self._count, ["platform.start", "platform.report"])

    def _count(self, record: Record) -> None:
        self._counts[record.type] += 1

    async def read(self) -> tuple[list[tuple[Bill, Total]], list[ProvisionedTime]]:
        """What is on disk when everything has ended and the service has been asked, as commands ask it."""
        async with asyncio.timeout(20):
            while self._counts["platform.start"] != self._counts["platform.report"]:
                await asyncio.sleep(0.001)
        async with connected(self.caller) as connection:
            reply = await connection.ask("GET", "/_sandbox/about")
        assert reply.status == 200, reply
        return await asyncio.to_thread(look, Path(reply.json()["data"]), read)

    async def report(self) -> Report:
        return report(*await self.read(), read_prices())

    async def event(self, body: bytes, name: str = "f") -> None:
        reply = await raw(self.caller, body, name, X_Amz_Invocation_Type="Event")
        assert reply.status == 202, reply

    async def done(self) -> None:
        """Waits until no event waits for anything."""
        async with asyncio.timeout(40):
            while (await self.service._queue.overview())["queued"] or self.service.dispatcher._tasks:
                await asyncio.sleep(0.01)

    async def stream(self, *do: tuple[str, Any]) -> None:
        """Read to its end."""
        async with connected(self.caller) as connection:
            await connection.send(request("POST", STREAMS, json.dumps({"do": do}).encode(), Connection="close"))
            assert b"InvokeComplete" in await connection.reader.read()


@asynccontextmanager
async def place_of(clock: ManualClock | None = None, **options: Any) -> AsyncIterator[Place]:
    told: list[str] = []
    host = Host(limits=SHORT, clock=clock) if clock is not None else Host(limits=SHORT)
    async with Service(host, on_trouble=told.append, **options) as service:
        server = Server(service)
        caller = Caller(await server.start(), service)
        try:
            yield Place(caller, told)
        finally:
            caller.client.close()
            await server.close()
    no_task_is_left()
    assert not [text for text in told if "mistake of lambda-sandbox" in text]


@pytest.fixture
async def place(tier: Tier) -> AsyncIterator[Place]:
    """On the machine's clock; waits of asynchronous invokes are a thousandth."""
    async with place_of(time_scale=1000) as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(tier: Tier, clock: ManualClock) -> AsyncIterator[Place]:
    """On a clock that only the test moves."""
    async with place_of(clock) as made:
        yield made


async def streaming(place: Place, tier: Tier, **settings: Any) -> None:
    code = {"ZipFile": archive(tier)}
    await place.caller.create_function(
        FunctionName="s", Runtime="provided.al2023", Handler="x", Role=ROLE, Timeout=30, Code=code, **settings
    )
    await place.caller.active("s")


def begun(place: Place) -> asyncio.Event:
    """Set when the next invoke has begun."""
    found = asyncio.Event()
    place.service.host.journal.subscribe(lambda _: found.set(), ["platform.start"])
    return found


class Printed(NamedTuple):
    """A REPORT line, as people read it."""

    duration: float
    billed: int
    memory: int
    init: float | None
    status: str | None


_REPORT = re.compile(
    r"REPORT RequestId: \S+\tDuration: (?P<duration>[\d.]+) ms\tBilled Duration: (?P<billed>\d+) ms\t"
    r"Memory Size: (?P<memory>\d+) MB\tMax Memory Used: [^\t]+"
    r"(\tInit Duration: (?P<init>[\d.]+) ms)?(\tStatus: (?P<status>\w+))?"
)


def printed(folder: Path, name: str, version: str) -> list[Printed]:
    found = []
    for line in Reader(folder, name).read():
        if line["version"] == version and line["message"].startswith("REPORT"):
            match = _REPORT.match(line["message"])
            assert match is not None, line
            init = float(match["init"]) if match["init"] else None
            figures = float(match["duration"]), int(match["billed"]), int(match["memory"])
            found.append(Printed(*figures, init, match["status"]))
    return found


# ── a random run ──

RANDOM = """
import os, time
def handler(event, context):
    do = event["do"]
    if do == "raise":
        raise ValueError("as asked")
    if do == "exit":
        os._exit(1)
    if do == "sleep":
        time.sleep(30)
    if do == "work":
        time.sleep(event["ms"] / 1000)
    return do
"""


class Kind(NamedTuple):
    """name, qualifier and do: what is invoked. starts: how often the function begins because of it."""

    way: str
    name: str
    qualifier: str
    do: str
    starts: int = 1


KINDS = {
    Kind("sync", "f", "$LATEST", "work"): 330,
    Kind("sync", "f", "1", "work"): 200,
    Kind("sync", "g", "$LATEST", "work"): 200,
    Kind("sync", "f", "$LATEST", "raise"): 40,
    Kind("sync", "g", "$LATEST", "exit"): 14,
    Kind("sync", "t", "$LATEST", "sleep"): 2,
    Kind("async", "f", "1", "work"): 60,
    Kind("async", "g", "$LATEST", "raise", 3): 18,
    Kind("stream", "s", "$LATEST", "write"): 100,
}


async def run(place: Place, plan: list[Kind], chance: random.Random) -> None:
    """Three at a time."""
    left = list(plan)

    async def worker() -> None:
        async with connected(place.caller) as connection:
            while left:
                kind = left.pop()
                event = json.dumps({"do": kind.do, "ms": chance.random() * 3}).encode()
                query = f"?Qualifier={kind.qualifier}"
                if kind.way == "stream":
                    await place.stream(("write", "x" * chance.randrange(1000)))
                elif kind.way == "async":
                    reply = await connection.ask("POST", path_of(kind.name, query), event, X_Amz_Invocation_Type="Event")
                    assert reply.status == 202, reply
                else:
                    reply = await connection.ask("POST", path_of(kind.name, query), event)
                    failed = reply.headers.get("x-amz-function-error")
                    assert (reply.status, failed) == (200, None if kind.do == "work" else "Unhandled")

    await asyncio.gather(*(worker() for _ in range(3)))
    await place.done()


@pytest.mark.catalogue("BL-001", "BL-003", "BL-006", "BL-010", "NF-007")
async def test_the_report_is_the_sum_of_the_report_lines_of_a_random_run(tier: Tier, tmp_path: Path) -> None:
    """To the unit, over a restart."""
    chance = random.Random(7)
    plan = [kind for kind, count in KINDS.items() for _ in range(count)]
    chance.shuffle(plan)
    half = len(plan) // 2
    async with place_of(data=tmp_path, time_scale=1000) as place:
        await place.caller.create("f", RANDOM)
        await place.caller.publish_version(FunctionName="f")
        await place.caller.active("f", "1")
        await place.caller.create("g", RANDOM, MemorySize=512, Architectures=["arm64"], EphemeralStorage={"Size": 1024})
        await place.caller.create("t", RANDOM, Timeout=1, MemorySize=1769)
        await streaming(place, tier, MemorySize=256)
        await run(place, plan[:half], chance)
        await place.caller.update_function_configuration(FunctionName="f", MemorySize=192)
        await place.caller.active("f")
    async with place_of(data=tmp_path, time_scale=1000) as place:
        await run(place, plan[half:], chance)
        made = await place.report()
        told = place.told
    wanted = Counter[tuple[str, str]]()
    for kind in plan:
        wanted[kind.name, kind.qualifier] += kind.starts
    assert wanted.total() == 1000
    assert set(made.lines) == set(wanted)
    for (name, number), line in made.lines.items():
        lines = printed(tmp_path, name, number)
        billed = sum(one.billed for one in lines)
        gb_seconds = sum(Fraction(one.memory * one.billed, 1024 * 1000) for one in lines)
        assert (name, line.requests, len(lines)) == (name, wanted[name, number], wanted[name, number])
        assert (line.billed_ms, Fraction(line.gb_seconds)) == (billed, gb_seconds)
        assert (line.further_requests, line.init_ms, line.provisioned_gb_seconds, line.streamed_bytes) == (0, 0, 0, 0)
        assert Fraction(line.tmp_gb_seconds) == (Fraction(billed, 2 * 1000) if name == "g" else 0)
        for one in lines:  # the REPORT lines themselves: Init is billed, and nothing is cut off at the timeout
            assert -0.02 < one.billed - one.duration - (one.init or 0.0) < 1.02
        assert any(one.init for one in lines)
    statuses = Counter(one.status for key in wanted for one in printed(tmp_path, *key))
    assert statuses == {None: 984, "error": 14, "timeout": 2}
    assert {one.memory for one in printed(tmp_path, "f", "$LATEST")} == {128, 192}
    assert all(one.billed > 1000 + (one.init or 0) for one in printed(tmp_path, "t", "$LATEST"))
    assert [text for text in told if "billed" in text or "logs" in text] == []


@pytest.mark.catalogue("BL-009")
async def test_what_is_between_two_invokes_is_not_billed(timed: Place, clock: ManualClock) -> None:
    lines: list[int] = []
    timed.service.host.journal.subscribe(
        lambda record: lines.append(record.record["metrics"]["billedDurationMs"]), ["platform.report"]
    )
    await timed.caller.create()
    await raw(timed.caller)
    await timed.read()  # the runtime has asked for its next event: the invoke has ended
    for _ in range(60):
        clock.advance(60)
        await asyncio.sleep(0)
    await raw(timed.caller)
    total = (await timed.report()).total
    assert (total.requests, total.billed_ms) == (2, sum(lines))
    assert total.billed_ms < 60_000


# ── kept ──


async def test_a_function_that_is_deleted_keeps_its_totals(tier: Tier, tmp_path: Path) -> None:
    async with place_of(data=tmp_path) as place:
        await place.caller.create()
        await raw(place.caller)
        await place.caller.delete_function(FunctionName="f")
        before = (await place.report()).lines["f", "$LATEST"]
    async with place_of(data=tmp_path) as place:
        assert (await place.report()).lines["f", "$LATEST"] == before
        await place.caller.create()
        await raw(place.caller)
        after = (await place.report()).lines["f", "$LATEST"]
    assert (before.requests, after.requests) == (1, 2)
    assert after.billed_ms > before.billed_ms > 0


async def test_all_is_there_without_a_request_for_it(tier: Tier, tmp_path: Path) -> None:
    async with place_of(data=tmp_path) as place:
        await place.caller.create()
        for _ in range(5):
            await raw(place.caller)
    [(bill, total)], [] = await asyncio.to_thread(look, tmp_path, read)
    assert (bill.function, total.requests) == ("f", 5)


async def test_a_disk_that_is_full_loses_nothing_and_is_told_once(tier: Tier, tmp_path: Path) -> None:
    async with place_of(data=tmp_path) as place:
        await place.caller.create()
        await raw(place.caller)
        before = (await place.report()).total
        with files_end_at((tmp_path / "lambda.sqlite3-wal").stat().st_size):
            for _ in range(3):
                await raw(place.caller)
                await place.service._totals.write()
        assert len([text for text in place.told if "billed" in text]) == 1
        after = (await place.report()).total
    assert (before.requests, after.requests) == (1, 4)


async def test_the_end_while_totals_are_written_loses_nothing(tier: Tier, tmp_path: Path) -> None:
    """The store is at work with something else when the service closes."""
    async with place_of(data=tmp_path) as place:
        await place.caller.create()
        await raw(place.caller)
        totals, store, loop = place.service._totals, place.service._store, asyncio.get_running_loop()
        await place.report()
        await raw(place.caller)
        at_work, go = asyncio.Event(), asyncio.Event()

        def slow(_: Any) -> None:
            loop.call_soon_threadsafe(at_work.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(20)

        slowly = asyncio.ensure_future(store.transact(slow))
        await at_work.wait()
        assert totals._task is not None
        async with asyncio.timeout(20):
            while totals._new:  # its own writing, within a second
                await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(totals.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        await closing
        await slowly
    [(_, total)], [] = await asyncio.to_thread(look, tmp_path, read)
    assert total.requests == 2


# ── requests ──


@pytest.mark.catalogue("BL-011", "BL-010")
@pytest.mark.parametrize(
    ("size", "requests"),
    [(2, 1), (256 * KIB, 1), (256 * KIB + 1, 2), (300 * KIB, 2), (320 * KIB, 2), (320 * KIB + 1, 3), (MIB, 13)],
)
async def test_a_large_event_is_more_than_one_request(place: Place, size: int, requests: int) -> None:
    await place.caller.create(app="def handler(event, context):\n    return 1\n")
    await place.event(b'"' + b"x" * (size - 2) + b'"')
    await place.done()
    total = (await place.report()).total
    assert (total.requests, total.requests + total.further_requests) == (1, requests)


@pytest.mark.catalogue("BL-010", "BL-011")
async def test_each_attempt_of_a_large_event_is_as_many_requests(place: Place) -> None:
    await place.caller.create(app="def handler(event, context):\n    raise ValueError\n")
    await place.event(b'"' + b"x" * (300 * KIB) + b'"')
    await place.done()
    total = (await place.report()).total
    assert (total.requests, total.further_requests) == (3, 3)


@pytest.mark.catalogue("BL-011", "BL-010")
async def test_a_large_event_that_kills_its_environment_each_time(place: Place) -> None:
    await place.caller.create(app="import os\ndef handler(event, context):\n    os._exit(1)\n")
    await place.event(b'"' + b"x" * (MIB - 2) + b'"')
    await place.done()
    total = (await place.report()).total
    assert (total.requests, total.further_requests) == (3, 36)


async def test_a_large_invoke_that_waits_is_one_request(place: Place) -> None:
    await place.caller.create(app="def handler(event, context):\n    return 1\n")
    await raw(place.caller, b'"' + b"x" * MIB + b'"')
    total = (await place.report()).total
    assert (total.requests, total.further_requests) == (1, 0)


async def test_refusals_cost_nothing(place: Place) -> None:
    await place.caller.create()
    await place.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    assert (await raw(place.caller)).status == 429
    assert (await raw(place.caller, b"no JSON")).status == 400
    assert (await raw(place.caller, name="nobody")).status == 404
    await raw(place.caller, X_Amz_Invocation_Type="DryRun")
    assert (await place.read()) == ([], [])


async def test_a_duplicate_is_a_request(tier: Tier) -> None:
    async with place_of(duplicates=100) as place:
        await place.caller.create()
        await place.event(b"{}")
        await place.done()
        assert (await place.report()).total.requests == 2


# ── what is asked for ──


@pytest.mark.catalogue("BL-014")
async def test_the_architecture_is_that_of_the_version(place: Place) -> None:
    await place.caller.create(Architectures=["arm64"])
    await place.caller.create("g")
    for name in ("f", "g"):
        await raw(place.caller, name=name)
    bills, _ = await place.read()
    assert {bill.function: bill.architecture for bill, _ in bills} == {"f": "arm64", "g": "x86_64"}


@pytest.mark.parametrize("change", ["delete", "update"])
async def test_an_invoke_under_way_is_billed_as_what_it_runs_on(place: Place, tmp_path: Path, change: str) -> None:
    """Its function is deleted, or becomes another, before its end."""
    await place.caller.create(Architectures=["arm64"], MemorySize=256, Timeout=30)
    await raw(place.caller)
    go, under_way = tmp_path / "go", begun(place)
    async with connected(place.caller) as connection:
        await connection.send(request("POST", path_of(), json.dumps({"do": "wait", "file": str(go)}).encode()))
        await under_way.wait()
        if change == "delete":
            await place.caller.delete_function(FunctionName="f")
        else:
            await place.caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=APP), Architectures=["x86_64"])
            await place.caller.active("f")
        go.touch()
        assert (await connection.reply()).status == 200
    bills, _ = await place.read()
    assert [(bill.architecture, bill.memory_mb, total.requests) for bill, total in bills] == [("arm64", 256, 2)]


@pytest.mark.catalogue("BL-012")
async def test_ephemeral_storage(place: Place) -> None:
    await place.caller.create(EphemeralStorage={"Size": 1024})
    await place.caller.create("g", EphemeralStorage={"Size": 512})
    for name in ("f", "g"):
        await raw(place.caller, name=name)
    made = await place.report()
    line = made.lines["f", "$LATEST"]
    assert Fraction(line.tmp_gb_seconds) == Fraction(line.billed_ms, 2000) > 0
    assert made.lines["g", "$LATEST"].tmp_gb_seconds == 0


# ── streams ──


@pytest.mark.catalogue("BL-013")
async def test_what_is_streamed_beyond_six_megabytes(place: Place, tier: Tier) -> None:
    await streaming(place, tier)
    await place.stream(("bytes", 6 * MIB))
    assert (await place.report()).total.streamed_bytes == 0
    await place.stream(("bytes", 6 * MIB), ("bytes", 5))
    await place.stream(("write", "x"))
    total = (await place.report()).total
    assert (total.requests, total.streamed_bytes) == (3, 5)


@pytest.mark.catalogue("BL-013")
async def test_a_stream_whose_reader_left_is_billed_whole(place: Place, tier: Tier, tmp_path: Path) -> None:
    await streaming(place, tier)
    files = [str(tmp_path / name) for name in ("go", "done")]
    do = [("write", "x"), ("wait", files[0]), ("bytes", 10 * MIB - 1), ("make", files[1])]
    async with connected(place.caller) as connection:
        await connection.send(request("POST", STREAMS, json.dumps({"do": do}).encode()))
        await connection.reader.readuntil(b"\r\n\r\n")
    Path(files[0]).touch()
    await until(Path(files[1]))
    total = (await place.report()).total
    assert (total.requests, total.streamed_bytes) == (1, 4 * MIB)


@pytest.mark.catalogue("BL-013")
async def test_a_stream_that_breaks_off_is_billed_to_there(place: Place, tier: Tier) -> None:
    await streaming(place, tier)
    await place.stream(("bytes", 6 * MIB), ("bytes", 100), ("exit", 1))
    total = (await place.report()).total
    assert (total.requests, total.streamed_bytes) == (1, 100)


# ── provisioned concurrency ──

SLOW_INIT = """
import os, time, uuid
folder = os.environ["FOLDER"]
if os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency":
    open(os.path.join(folder, f"begun-{uuid.uuid4()}"), "w").close()
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.002)
def handler(event, context):
    while event and not os.path.exists(event["file"]):
        time.sleep(0.002)
    return os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]
"""


async def ready(place: Place, folder: Path, count: int, clock: ManualClock | None = None, **settings: Any) -> None:
    """Version 1 of f has so many; their Inits last half a second each."""
    await place.caller.create(app=SLOW_INIT, Timeout=30, Environment={"Variables": {"FOLDER": str(folder)}}, **settings)
    await place.caller.publish_version(FunctionName="f")
    await place.caller.active("f", "1")
    await provision(place, count)
    async with asyncio.timeout(30):
        while len(list(folder.glob("begun-*"))) < count:
            await asyncio.sleep(0.002)
    if clock is not None:
        clock.advance(0.5)
    (folder / "go").touch()
    assert (await provisioned(place.caller, "1"))["Status"] == "READY"


async def provision(place: Place, count: int) -> None:
    await place.caller.put_provisioned_concurrency_config(
        FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=count
    )


async def unprovision(place: Place) -> None:
    await place.caller.delete_provisioned_concurrency_config(FunctionName="f", Qualifier="1")


async def seconds(place: Place, clock: ManualClock, count: int) -> None:
    """Time goes by in seconds, as a service has it."""
    for _ in range(count):
        clock.advance(1)
        await place.service._totals.write()


def line_of(made: Report, number: str = "1") -> Line:
    return made.lines["f", number]


@pytest.mark.catalogue("BL-007", "LC-134")
async def test_inits_ahead_are_billed_though_nothing_is_invoked(timed: Place, clock: ManualClock, tmp_path: Path) -> None:
    await ready(timed, tmp_path, 2, clock, MemorySize=512)
    line = line_of(await timed.report())
    assert (line.requests, line.billed_ms, line.init_ms) == (0, 0, 1000)
    assert (line.gb_seconds, Fraction(line.provisioned_gb_seconds)) == (0, Fraction(1, 2))
    assert line.cost > 0


@pytest.mark.catalogue("BL-007")
@pytest.mark.parametrize(("passed", "paid"), [(1, 300), (299, 300), (301, 600), (1000, 1200)])
async def test_provisioned_time_in_steps_of_five_minutes(
    timed: Place, clock: ManualClock, tmp_path: Path, passed: int, paid: int
) -> None:
    await ready(timed, tmp_path, 2, MemorySize=512)
    await timed.report()
    clock.advance(passed)
    await timed.report()
    await unprovision(timed)
    for _ in range(2):  # and no more when it is over
        line = line_of(await timed.report())
        assert line.allocated_gb_seconds == paid
        clock.advance(10_000)
    assert line.gb_seconds == 0


@pytest.mark.catalogue("BL-007")
async def test_provisioned_time_begins_and_ends_when_it_is_asked_for(timed: Place, clock: ManualClock, tmp_path: Path) -> None:
    """Exactly five minutes are five minutes."""
    await ready(timed, tmp_path, 1, MemorySize=1024)
    await timed.service._totals.write()
    clock.advance(300)
    await unprovision(timed)
    clock.advance(0.5)
    assert line_of(await timed.report()).allocated_gb_seconds == 300


@pytest.mark.catalogue("BL-007")
async def test_provisioned_for_a_moment_is_five_minutes(timed: Place, clock: ManualClock, tmp_path: Path) -> None:
    await ready(timed, tmp_path, 1, MemorySize=1024)
    await unprovision(timed)
    assert line_of(await timed.report()).allocated_gb_seconds == 300


@pytest.mark.catalogue("BL-007")
async def test_more_and_fewer_are_provisioned(timed: Place, clock: ManualClock, tmp_path: Path) -> None:
    """Each number for its own time: 2 for 600 s, 1 for 300 s, 3 for 900 s."""
    await ready(timed, tmp_path, 2, MemorySize=1024)
    await timed.report()
    await seconds(timed, clock, 599)
    for count, time in ((1, 299), (3, 899)):
        await provision(timed, count)
        assert (await provisioned(timed.caller, "1"))["Status"] == "READY"
        await timed.report()
        await seconds(timed, clock, time)
    await unprovision(timed)
    assert line_of(await timed.report()).allocated_gb_seconds == 2 * 600 + 300 + 3 * 900
    _, times = await timed.read()
    assert [time.units for time in times] == [2, 1, 3]


@pytest.mark.catalogue("BL-007")
async def test_provisioned_time_moves_with_its_alias(timed: Place, clock: ManualClock, tmp_path: Path) -> None:
    await timed.caller.create(MemorySize=1024)
    await timed.caller.publish_version(FunctionName="f")
    await timed.caller.active("f", "1")
    await version(timed.caller, APP + "\n# two")
    await timed.caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    await timed.caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="live", ProvisionedConcurrentExecutions=1)
    await provisioned(timed.caller, "live")
    await timed.report()
    clock.advance(250)
    await timed.caller.update_alias(FunctionName="f", Name="live", FunctionVersion="2")
    await provisioned(timed.caller, "live")
    await timed.report()
    clock.advance(250)
    await timed.caller.delete_function(FunctionName="f")
    made = await timed.report()
    assert [line_of(made, number).allocated_gb_seconds for number in ("1", "2")] == [300, 300]


@pytest.mark.catalogue("BL-007")
async def test_two_aliases_of_one_version_are_both_paid_for(timed: Place, clock: ManualClock, tmp_path: Path) -> None:
    await timed.caller.create(MemorySize=1024)
    await timed.caller.publish_version(FunctionName="f")
    await timed.caller.active("f", "1")
    wanted = 0
    for name, count in (("one", 1), ("other", 2)):
        await timed.caller.create_alias(FunctionName="f", Name=name, FunctionVersion="1")
        try:
            await timed.caller.put_provisioned_concurrency_config(
                FunctionName="f", Qualifier=name, ProvisionedConcurrentExecutions=count
            )
        except timed.caller.client.exceptions.ResourceConflictException:
            continue
        await provisioned(timed.caller, name)
        wanted += count
    await timed.report()
    clock.advance(100)
    assert line_of(await timed.report()).allocated_gb_seconds == 300 * wanted


@pytest.mark.catalogue("BL-007")
async def test_what_spills_over_is_on_demand(timed: Place, tmp_path: Path) -> None:
    await ready(timed, tmp_path, 1, MemorySize=1024)
    go, under_way = tmp_path / "spill", begun(timed)
    async with connected(timed.caller) as connection:
        await connection.send(request("POST", path_of("f:1"), json.dumps({"file": str(go)}).encode()))
        await under_way.wait()
        assert (await raw(timed.caller, name="f:1")).json() == "on-demand"
        assert (await raw(timed.caller, name="f:1")).json() == "on-demand"
        go.touch()
        assert (await connection.reply()).json() == "provisioned-concurrency"
    bills, _ = await timed.read()
    assert {bill.provisioned: total.requests for bill, total in bills} == {True: 1, False: 2}


@pytest.mark.catalogue("BL-007")
async def test_provisioned_time_over_a_restart(tier: Tier, clock: ManualClock, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "files"
    folder.mkdir()
    async with place_of(clock, data=data) as place:
        await ready(place, folder, 1, MemorySize=1024)
        await place.report()
        clock.advance(400)
    clock.advance(100_000)  # nothing runs, and nothing is paid
    async with place_of(clock, data=data) as place:
        assert (await provisioned(place.caller, "1"))["Status"] == "READY"
        await place.report()
        clock.advance(100)
        await unprovision(place)
        line = line_of(await place.report())
    assert line.allocated_gb_seconds == 600 + 300
    assert line.requests == 0


@pytest.mark.catalogue("BL-003", "BL-004", "NF-007")
async def test_the_init_of_an_environment_made_on_demand_is_in_its_first_invoke(place: Place) -> None:
    reports: list[Any] = []
    place.service.host.journal.subscribe(lambda record: reports.append(record.record["metrics"]), ["platform.report"])
    await place.caller.create()  # a .zip and a managed runtime
    for _ in range(2):
        await raw(place.caller)
    total = (await place.report()).total  # a record is made after the answer, when the runtime asks for its next event
    cold, warm = reports
    assert cold["billedDurationMs"] == math.ceil(round(cold["durationMs"] + cold["initDurationMs"], 6)) > cold["durationMs"]
    assert "initDurationMs" not in warm
    assert (total.billed_ms, total.init_ms) == (cold["billedDurationMs"] + warm["billedDurationMs"], 0)


def test_a_new_folder_has_no_bills(tmp_path: Path) -> None:
    assert look(tmp_path, read) == ([], [])
    with sqlite3.connect(tmp_path / "lambda.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM totals").fetchone() == (0,)
    database.close()
