"""A host that is killed at any moment: every event that was accepted is attempted, and its destination hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import resource
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
import pytest

from tests.cli.conftest import COMMAND, MakeServe, Serve, serve
from tests.cli.test_serve import make
from tests.conftest import Tier

__all__ = ["serve"]
pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

# One line for each attempt, in one write: it is there or it is not, whoever is killed meanwhile.
APP = """
import os
def handler(event, context):
    line = f"{event['number']} {context.aws_request_id}\\n".encode()
    file = os.open(event["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)
    if event.get("fails"):
        raise ValueError("as asked")
    return event["number"]
"""
EVENTS = "/2015-03-31/functions/{}/invocations"


class Attempt(NamedTuple):
    number: int
    request_id: str


class Attempts:
    """What the function has written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Attempt]:
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()
        return [Attempt(int(number), request_id) for number, request_id in (line.split() for line in lines)]

    def counts(self) -> Counter[int]:
        return Counter(one.number for one in self.all())

    def event(self, number: int, **more: Any) -> dict[str, Any]:
        return {"number": number, "file": str(self.path), **more}


def until(condition: Callable[[], Any], seconds: float = 30, what: Callable[[], Any] = lambda: "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.005)


class Records:
    """The folder that is the destination of a function."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, tuple[str, str]] = {}

    @property
    def target(self) -> str:
        return f"file://{self.folder}"

    def read(self) -> dict[str, tuple[str, str]]:
        """Name of the file: request id and condition. Every file is whole."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.suffix == ".json" and path.name not in self._seen:
                    context = json.loads(path.read_text())["requestContext"]
                    self._seen[path.name] = context["requestId"], context["condition"]
        return self._seen

    def ids(self) -> set[str]:
        return {request_id for request_id, _ in self.read().values()}


def set_up(served: Serve, records: Records, *, retries: int = 2) -> None:
    """A function that keeps its log of attempts, and tells of both ends."""
    client = served.client()
    make(client, "f", APP, Timeout=30)
    sides = {side: {"Destination": records.target} for side in ("OnSuccess", "OnFailure")}
    client.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=retries, DestinationConfig=sides)


class Flood:
    """Sends events for as long as it is told to, to hosts that are killed meanwhile. accepted: request ids by their number.

    senders: how many at a time. fails: every how many-th event fails.
    """

    def __init__(self, attempts: Attempts, count: int, *, senders: int = 8, fails: int = 7) -> None:
        self._attempts = attempts
        self._left = iter(range(count))
        self._senders, self._fails = senders, fails
        self._lock = threading.Lock()
        self.accepted: dict[int, str] = {}
        self.sent: set[int] = set()  # with or without an answer
        self.refused: list[int] = []
        self.endpoint: str | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left = iter(())
        self._thread.join()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            await asyncio.gather(*(self._send(session) for _ in range(self._senders)))

    async def _send(self, session: aiohttp.ClientSession) -> None:
        """Each number until it is accepted: a client's way."""
        for number in self._left:
            while number not in self.accepted:
                try:
                    await self._try(session, number)
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.005)

    async def _try(self, session: aiohttp.ClientSession, number: int) -> None:
        if self.endpoint is None:
            await asyncio.sleep(0.005)
            return
        event = self._attempts.event(number, fails=number % self._fails == 0)
        headers = {"X-Amz-Invocation-Type": "Event"}
        url = self.endpoint + EVENTS.format("f")
        self.sent.add(number)
        async with session.post(url, data=json.dumps(event), headers=headers) as answer:
            body = await answer.read()
            if answer.status == 202:
                assert body == b""
                self.accepted[number] = answer.headers["x-amzn-RequestId"]
            else:
                self.refused.append(answer.status)
                await asyncio.sleep(0.01)


def kill(served: Serve) -> None:
    """Its processes end with it."""
    children = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(signal.SIGKILL)
    served.process.wait(20)
    _, left = psutil.wait_procs(children, 20)
    assert left == []


def run_with_kills(
    serve: MakeServe, folder: Path, count: int, kills: int, scale: int, most: float, seconds: float
) -> tuple[Flood, Attempts, Records, float]:
    """Accepts `count` events while the host is killed so many times, each after at most `most` seconds of serving.

    Returns when everything that was accepted has been told to its destination; the last is the time that this took.
    """
    attempts, records = Attempts(folder / "attempts"), Records(folder / "records")
    options = ["--data", folder / "data", "--time-scale", str(scale)]
    chance = random.Random(7)
    began = time.monotonic()
    served = serve(*options)
    set_up(served, records, retries=1)
    with Flood(attempts, count) as flood:
        for number in range(kills):
            flood.endpoint = served.endpoint
            share = (number + 1) * count // (kills + 1)  # so that there are events to the end
            end = time.monotonic() + 60
            while len(flood.accepted) < share - count // (2 * (kills + 1)) and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(chance.random() * most)
            flood.endpoint = None
            kill(served)
            served.close()
            served = serve(*options)
        flood.endpoint = served.endpoint
        until(lambda: flood.done, seconds, lambda: f"accepted: {len(flood.accepted)}")
    wanted = set(flood.accepted.values())
    until(lambda: wanted <= records.ids(), seconds, lambda: f"not told: {len(wanted - records.ids())} of {len(wanted)}")
    assert served.end() == 0
    return flood, attempts, records, time.monotonic() - began


def judge(flood: Flood, attempts: Attempts, records: Records, count: int) -> None:
    """Nothing is lost, and nobody else is told."""
    assert set(flood.accepted) == set(range(count))
    assert len(set(flood.accepted.values())) == count
    made: dict[int, set[str]] = {}
    for one in attempts.all():
        made.setdefault(one.number, set()).add(one.request_id)
    lost = [number for number, request_id in flood.accepted.items() if request_id not in made.get(number, set())]
    assert lost == []
    number_of = {request_id: number for number, request_id in flood.accepted.items()}
    for request_id, condition in records.read().values():
        if request_id in number_of:
            fails = number_of[request_id] % 7 == 0
            assert condition == ("RetriesExhausted" if fails else "Success"), request_id
    told = Counter(request_id for request_id, _ in records.read().values())
    assert {told[request_id] for request_id in number_of} == {1}  # one that is sent again replaces itself
    assert list(records.folder.glob("*.part")) == []


@pytest.mark.catalogue("IN-100", "IN-105", "IN-106")
@pytest.mark.timeout(120)
def test_every_accepted_event_is_attempted_though_the_host_is_killed(serve: MakeServe, tmp_path: Path) -> None:
    count = 300
    flood, attempts, records, _ = run_with_kills(serve, tmp_path, count, kills=4, scale=600, most=0.05, seconds=60)
    judge(flood, attempts, records, count)
    for number in range(0, count, 7):  # one retry
        assert attempts.counts()[number] >= 2


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.catalogue("IN-100", "IN-105", "IN-106")
def test_10000_events_and_50_kills(serve: MakeServe, tmp_path: Path) -> None:
    """Prints its figures: run it with -s."""
    count, kills = 10_000, 50
    flood, attempts, records, took = run_with_kills(serve, tmp_path, count, kills, scale=600, most=0.3, seconds=600)
    judge(flood, attempts, records, count)
    made = attempts.all()
    ids = set(flood.accepted.values())
    print(
        f"\n{count} events accepted, {kills} SIGKILLs, {took:.0f} s: 0 lost; {len(made)} attempts;"
        f" {sum(one.request_id not in ids for one in made)} of events without an answer;"
        f" {len(ids & records.ids())} destinations notified; {len(flood.refused)} refused"
    )


@pytest.mark.catalogue("IN-101", "IN-104")
@pytest.mark.timeout(90)
def test_a_retry_that_waits_goes_on_after_a_kill(serve: MakeServe, tmp_path: Path) -> None:
    """Attempts that were made count: three in all, with one request id, and one record."""
    attempts, records = Attempts(tmp_path / "attempts"), Records(tmp_path / "records")
    served = serve("--data", tmp_path / "data")  # a minute is a minute: it waits when it is killed
    set_up(served, records)
    event = json.dumps(attempts.event(1, fails=True))
    request_id = served.client().invoke(FunctionName="f", InvocationType="Event", Payload=event)["ResponseMetadata"][
        "RequestId"
    ]
    database = tmp_path / "data" / "events.sqlite3"
    until(lambda: rows(database, "SELECT failures FROM events") == [(1,)])
    kill(served)
    served = serve("--data", tmp_path / "data", "--time-scale", "600")
    until(lambda: records.ids() == {request_id}, 40, lambda: attempts.all())
    assert attempts.all() == [Attempt(1, request_id)] * 3
    [(_, condition)] = records.read().values()
    assert condition == "RetriesExhausted"
    [path] = records.folder.glob("*.json")
    assert json.loads(path.read_text())["requestContext"]["approximateInvokeCount"] == 3
    assert rows(database, "SELECT count(*) FROM events") == [(0,)]
    until(lambda: rows(database, "SELECT count(*) FROM deliveries") == [(0,)])  # the file comes first


def rows(database: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.catalogue("IN-105")
def test_events_are_given_twice_if_that_is_wanted(serve: MakeServe, tmp_path: Path) -> None:
    """With one request id, and one record."""
    attempts, records = Attempts(tmp_path / "attempts"), Records(tmp_path / "records")
    served = serve("--duplicate-events", "100")
    set_up(served, records)
    ids = {number: send(served, attempts.event(number))[1]["x-amzn-requestid"] for number in range(5)}
    until(lambda: records.ids() == set(ids.values()), 30, lambda: attempts.all())
    assert sorted(attempts.all()) == sorted([Attempt(*one) for one in ids.items()] * 2)
    assert len(records.read()) == 5
    assert served.end() == 0


@pytest.mark.timeout(90)
def test_an_event_that_kills_the_runtime_ends_as_others_do(serve: MakeServe, tmp_path: Path) -> None:
    """Its host is not harmed, and other events are not held up."""
    attempts, records = Attempts(tmp_path / "attempts"), Records(tmp_path / "records")
    served = serve("--data", tmp_path / "data", "--time-scale", "600")
    client = served.client()
    poisoned = APP.replace('raise ValueError("as asked")', "os._exit(3)")
    make(client, "f", poisoned)
    sides = {side: {"Destination": records.target} for side in ("OnSuccess", "OnFailure")}
    client.put_function_event_invoke_config(FunctionName="f", DestinationConfig=sides)
    ids = []
    for number in range(6):
        event = json.dumps(attempts.event(number, fails=number % 2 == 0))
        answer = client.invoke(FunctionName="f", InvocationType="Event", Payload=event)
        ids.append(answer["ResponseMetadata"]["RequestId"])
    until(lambda: set(ids) <= records.ids(), 60, lambda: attempts.counts())
    assert attempts.counts() == {number: 3 if number % 2 == 0 else 1 for number in range(6)}
    conditions = dict(records.read().values())
    assert [conditions[one] for one in ids] == ["RetriesExhausted", "Success"] * 3
    assert served.end() == 0


def test_two_hosts_on_one_folder_are_refused(serve: MakeServe, tmp_path: Path, tier: Tier) -> None:
    """With events that wait in it; the first one goes on, and gives them to nobody else."""
    attempts, records = Attempts(tmp_path / "attempts"), Records(tmp_path / "records")
    served = serve("--data", tmp_path / "data")
    set_up(served, records)
    event = json.dumps(attempts.event(1, fails=True))
    served.client().invoke(FunctionName="f", InvocationType="Event", Payload=event)
    until(lambda: rows(tmp_path / "data" / "events.sqlite3", "SELECT failures FROM events") == [(1,)])
    command = [COMMAND, "serve", "--data", str(tmp_path / "data"), "--port", "0", "--time-scale", "600", *tier.options]
    other = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert other.returncode == 2
    assert "another process" in other.stderr
    assert str(tmp_path / "data") in other.stderr
    assert "Traceback" not in other.stderr
    served.client().invoke(FunctionName="f", InvocationType="Event", Payload=json.dumps(attempts.event(2)))
    until(lambda: len(records.ids()) == 1)
    assert attempts.counts() == {1: 1, 2: 1}
    assert served.end() == 0


# ── a full disk ──


@contextlib.contextmanager
def files_of(process: int, end_at: int) -> Iterator[None]:
    """No file of that process can be longer: what it starts later inherits that, what it has started does not."""
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (end_at, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


def send(served: Serve, event: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer to an event."""
    host = served.endpoint.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(host, timeout=20)) as connection:
        connection.request("POST", EVENTS.format("f"), json.dumps(event), {"X-Amz-Invocation-Type": "Event"})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()


@pytest.mark.catalogue("IN-100")
@pytest.mark.timeout(90)
def test_a_full_disk_is_an_error_and_never_a_false_202(serve: MakeServe, tmp_path: Path) -> None:
    """Exactly what was accepted is attempted, also by the next host; what was refused is not."""
    attempts, records = Attempts(tmp_path / "attempts"), Records(tmp_path / "records")
    served = serve("--data", tmp_path / "data", "--time-scale", "600")
    set_up(served, records)
    accepted: dict[int, str] = {}

    def sent(number: int) -> int:
        status, headers, body = send(served, attempts.event(number))
        if status == 202:
            accepted[number] = headers["x-amzn-requestid"]
        else:
            said = json.loads(body)
            assert (status, headers["x-amzn-errortype"], said["Type"]) == (500, "ServiceException", "Service")
            assert "could not be stored" in said["Message"]
        return status

    assert sent(0) == 202
    until(lambda: set(accepted.values()) <= records.ids())
    with files_of(served.process.pid, 0):
        assert [sent(number) for number in range(1, 6)] == [500] * 5
    assert [sent(number) for number in range(6, 9)] == [202] * 3
    wal = tmp_path / "data" / "events.sqlite3-wal"
    with files_of(served.process.pid, wal.stat().st_size + 60_000):  # full in the middle
        statuses = [sent(number) for number in range(9, 60)]
    assert {202, 500} == set(statuses)
    until(lambda: set(accepted.values()) <= records.ids(), 40, lambda: (len(accepted), attempts.counts()))
    kill(served)
    served = serve("--data", tmp_path / "data", "--time-scale", "600")
    assert sent(60) == 202
    until(lambda: set(accepted.values()) <= records.ids(), 40, lambda: (len(accepted), attempts.counts()))
    assert set(attempts.counts()) == set(accepted)
    assert records.ids() == set(accepted.values())
    assert served.end() == 0
