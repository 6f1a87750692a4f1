"""Asynchronous events of `sandbox serve --data`: accepted and drained per second, beside plain SQLite inserts. See README."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pstats
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from benchmarks.service import (
    BUILD,
    HANDLER,
    HERE,
    Figures,
    Subject,
    _costs,
    build,
    complaints,
    free_port,
    interleaved,
    load,
    middle,
    served,
)
from benchmarks.tiers import heading, machine, table
from sandbox.control.asynchronous.queue import DATABASE
from sandbox.core.limits import EVENTS_AT_A_TIME

PAYLOADS = {"200 B": 200, "10 KB": 10_000}
KINDS = ("c", "py")  # the minimal C runtime, and the managed Python
REST = "x" * 180  # as much as an event's row has besides its payload: names, ids, times
AT_ONCE = 32  # rows of one transaction, for information
POLL = 0.02
AIM = "aim: at least 0.40 of the plain inserts, one per transaction"


# ── plain inserts ──


class Plain:
    """What SQLite can do here from Python: one connection, WAL, synchronous FULL, on the same disk as the data folders."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "plain.sqlite3", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, rest TEXT NOT NULL, payload BLOB NOT NULL)")

    def rate(self, payload: int, seconds: float, at_once: int = 1) -> float:
        """Rows per second, so many in each transaction."""
        database, rows = self._database, 0
        row = REST, b"x" * payload
        insert = "INSERT INTO rows (rest, payload) VALUES (?, ?)"
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            if at_once == 1:
                database.execute(insert, row)
            else:
                database.execute("BEGIN IMMEDIATE")
                for _ in range(at_once):
                    database.execute(insert, row)
                database.execute("COMMIT")
            rows += at_once
        found = rows / (time.perf_counter() - start)
        database.execute("DELETE FROM rows")
        return found

    def beside(self, measure: Callable[[], Figures], payload: int, seconds: float) -> Figures:
        """The machine is another one each second: half of the inserts come right before, half right after."""
        before = self.rate(payload, seconds / 2)
        found = measure()
        return {**found, "plain": (before + self.rate(payload, seconds / 2)) / 2}


# ── functions, hosts ──


def code(made: Path, kind: str, *, held: bool) -> bytes:
    """A .zip. held: it takes events and never comes to an end."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if kind == "py":
            archive.writestr("app.py", "import time\ndef handler(event, context): time.sleep(890)\n" if held else HANDLER)
        else:
            bootstrap = zipfile.ZipInfo("bootstrap")
            bootstrap.external_attr = 0o755 << 16
            archive.writestr(bootstrap, b"#!/bin/sh\nexec sleep 890\n" if held else (made / "bootstrap").read_bytes())
    return file.getvalue()


class Serving:
    """`sandbox serve --data FOLDER`, its output dropped, and one function of each of these kinds, named after its kind."""

    def __init__(self, stack: ExitStack, folder: Path, options: argparse.Namespace, file: str = "") -> None:
        self.folder = folder
        port = free_port()
        arguments = ["--port", str(port), "--isolation", options.isolation, "--data", str(folder)]
        command = [sys.executable, "-m", "benchmarks.service_host", "lean", file, *arguments]
        self.subject: Subject = stack.enter_context(served(command, port, _path))
        self.client: Any = boto3.session.Session().client(
            "lambda",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def create(self, made: Path, kind: str, *, held: bool) -> None:
        self.client.create_function(
            FunctionName=kind,
            Runtime=f"python3.{sys.version_info.minor}" if kind == "py" else "provided.al2023",
            Handler="app.handler",
            Role="arn:aws:iam::000000000000:role/events",
            Code={"ZipFile": code(made, kind, held=held)},
            Timeout=900 if held else 60,
            Environment={"Variables": {"PRINT": "1"}},
        )
        self.client.get_waiter("function_active_v2").wait(FunctionName=kind)

    def accept(self, kind: str, *, width: int, payload: int, seconds: float = 600.0, most: int = 4_000_000) -> Figures:
        """Sends events with so many callers, for so long or until so many were accepted. cpu: of its process, µs per event."""
        drive = [self.subject.port, _path(kind), width, seconds, 0, payload, most, "X-Amz-Invocation-Type: Event", 202]
        before = self.subject.cpu()
        run = subprocess.run([str(BUILD / "service_load"), *map(str, drive)], capture_output=True, text=True, check=False)
        spent = self.subject.cpu() - before
        if run.returncode:
            raise SystemExit(f"events for {kind} x {width}: {run.stderr.strip()}")
        found: Figures = json.loads(run.stdout)
        complaints.add(f"an event for {kind} x {width} was throttled", found["throttled"])
        complaints.add(f"an event for {kind} x {width} got no 202", found["failed"])
        if not found["count"]:
            raise SystemExit(f"events for {kind} x {width}: not one was accepted")
        return {**found, "cpu": spent / found["count"] * 1e6}

    def watch(self) -> Iterator[tuple[float, int]]:
        """When, and how many events were queued then; until there are none. The host is not asked: it has its work to do."""
        with contextlib.closing(sqlite3.connect(f"file:{self.folder / DATABASE}?mode=ro", uri=True)) as database:
            left, changed = -1, time.perf_counter()
            while left:
                before, at = left, time.perf_counter()
                left = database.execute("SELECT count(*) FROM events WHERE condition IS NULL").fetchone()[0]
                yield at, left
                if left != before:
                    changed = at
                if at > changed + 90:
                    raise SystemExit(f"{left} events are queued, and none has ended for 90 s")
                time.sleep(POLL)
            kept = database.execute("SELECT count(*) FROM events").fetchone()[0]
            complaints.add("an event failed", kept)

    def empty(self) -> float:
        """Waits for it; when it was."""
        return list(self.watch())[-1][0]


def _path(name: str) -> str:
    """Without a name: what a host answers that has no function yet, and has nothing to do for."""
    return f"/2015-03-31/functions/{name}/invocations" if name else "/_sandbox/replay"


# ── measurements ──


def accepted(made: Path, options: argparse.Namespace, plain: Plain) -> None:
    """Events for a function that is busy, and for one that takes them at the same time."""
    heading(f"accepted: events with 202, on disk; {options.rounds} rounds of {options.seconds:g} s")
    with ExitStack() as stack:
        hosts = {}
        for how in ("waiting", "drained"):
            host = hosts[how] = Serving(stack, made / f"accepted-{how}", options)
            host.create(made, "c", held=how == "waiting")
            host.accept("c", width=8, payload=200, most=200)
            if how == "drained":
                host.empty()

        def measure(how: str, width: int, payload: int) -> Figures:
            found = plain.beside(
                lambda: hosts[how].accept("c", width=width, payload=payload, seconds=options.seconds), payload, options.seconds
            )
            if how == "drained":
                hosts[how].empty()
            return found

        measures: dict[str, Callable[[], Figures]] = {}
        for size, payload in PAYLOADS.items():
            measures[f"{size}: plain inserts"] = lambda payload=payload: {"rate": plain.rate(payload, options.seconds)}
            measures[f"{size}: plain, {AT_ONCE} at once"] = lambda payload=payload: {
                "rate": plain.rate(payload, options.seconds, AT_ONCE)
            }
            for how in hosts:
                for width in options.widths:
                    name = f"{size}: {width} callers, {'the function is busy' if how == 'waiting' else 'C function drains'}"
                    measures[name] = lambda how=how, width=width, payload=payload: measure(how, width, payload)
        found = interleaved(measures, options.rounds)
        rows: list[list[object]] = []
        for name, rounds in found.items():
            if "p50" not in rounds[0]:
                rows.append([name, f"{middle(rounds, 'rate'):.0f}", "", "", "", ""])
                continue
            figures = [middle(rounds, key) for key in ("p50", "p99", "cpu")]
            rows.append([name, f"{middle(rounds, 'rate'):.0f}", *figures, _beside_plain(rounds, "rate")])
        table(["", "per s", "p50 µs", "p99 µs", "host CPU µs", "/ plain (rounds)"], rows)
        print(AIM)


def drained(made: Path, options: argparse.Namespace, plain: Plain) -> None:
    """N events through a running host, and N that a killed one has left."""
    heading(f"drained: {options.events} events, {options.rounds} rounds; both runtimes print a line for each")
    with ExitStack() as stack:
        host = Serving(stack, made / "drained", options)
        for kind in KINDS:
            host.create(made, kind, held=False)
            host.accept(kind, width=8, payload=200, most=200)
            host.empty()

        def through(kind: str, payload: int) -> Figures:
            before = host.subject.cpu()
            start = time.perf_counter()
            found = host.accept(kind, width=max(options.widths), payload=payload, most=options.events)
            took = host.empty() - start
            cpu = (host.subject.cpu() - before) / found["count"] * 1e6
            return {"rate": found["count"] / took, "steady": found["rate"], "cpu": cpu}

        def waited_for(kind: str, payload: int) -> Figures:
            """The same function and as many environments, without a queue: callers that wait."""
            found = load(host.subject, kind, width=EVENTS_AT_A_TIME, seconds=options.seconds, body=payload)
            return {"rate": found["rate"], "cpu": found["cpu"]}

        measures: dict[str, Callable[[], Figures]] = {}
        for size, payload in PAYLOADS.items():
            for kind in KINDS:
                measures[f"{size}, {kind}: from the first event to an empty queue"] = lambda kind=kind, payload=payload: (
                    plain.beside(lambda: through(kind, payload), payload, options.seconds)
                )
                measures[f"{size}, {kind}: left by a SIGKILL"] = lambda kind=kind, payload=payload: plain.beside(
                    lambda: left(made, options, kind, payload), payload, options.seconds
                )
                measures[f"{size}, {kind}: no events, {EVENTS_AT_A_TIME} callers that wait"] = (
                    lambda kind=kind, payload=payload: plain.beside(lambda: waited_for(kind, payload), payload, options.seconds)
                )
        found = interleaved(measures, options.rounds)
        rows: list[list[object]] = []
        for name, rounds in found.items():
            after = "SIGKILL" in name
            second = f"{middle(rounds, 'steady'):.0f}" if "steady" in rounds[0] else ""
            steady, taken = (second, "") if after else ("", second)
            share = _beside_plain(rounds, "steady") if after else ""
            cpu = middle(rounds, "cpu")
            rows.append([name, f"{middle(rounds, 'rate'):.0f}", _beside_plain(rounds, "rate"), steady, share, taken, cpu])
        head = ["", "drained/s", "/ plain (rounds)", "warm/s", "warm / plain (rounds)", "accepted/s meanwhile", "host CPU µs"]
        table(head, rows)
        print(f"plain inserts: {', '.join(_plain_rates(found, size) for size in PAYLOADS)}")
        print("SIGKILL: from the new host's first answer until nothing is queued, cold starts included; warm: the last 80 %")
        print(AIM)


def left(made: Path, options: argparse.Namespace, kind: str, payload: int) -> Figures:
    """Events are accepted while the function is busy, its code is replaced, the host killed; a new host drains them."""
    folder = Path(tempfile.mkdtemp(dir=made))
    with ExitStack() as stack:
        host = Serving(stack, folder, options)
        host.create(made, kind, held=True)
        count = host.accept(kind, width=max(options.widths), payload=payload, most=options.events)["count"]
        host.client.update_function_code(FunctionName=kind, ZipFile=code(made, kind, held=False))
        host.client.get_waiter("function_updated_v2").wait(FunctionName=kind)
        host.subject.process.kill()
    with ExitStack() as stack:
        host = Serving(stack, folder, options)
        before = host.subject.cpu()
        seen = list(host.watch())
        spent = host.subject.cpu() - before
    shutil.rmtree(folder)
    (start, first), (end, _) = seen[0], seen[-1]
    complaints.add("more than half of what was left was drained before the first answer", first < count / 2)
    warm, there = next(one for one in seen if one[1] <= first * 0.8)
    steady = there / (end - warm) if end > warm else 0.0
    return {"rate": first / (end - start), "steady": steady, "cpu": spent / first * 1e6}


def _beside_plain(rounds: list[Figures], key: str) -> str:
    each = [one[key] / one["plain"] for one in rounds]
    return f"{statistics.median(each):.2f} ({min(each):.2f} … {max(each):.2f})"


def _plain_rates(found: dict[str, list[Figures]], size: str) -> str:
    return f"{size} {statistics.median(one['plain'] for name, rounds in found.items() if size in name for one in rounds):.0f}/s"


def profile(made: Path, options: argparse.Namespace, plain: Plain) -> None:
    """Where the time of the host's event loop goes, by cProfile; not part of a run unless it is asked for."""
    for held in (True, False):
        file = made / f"profile-{held}"
        with ExitStack() as stack:
            host = Serving(stack, made / f"profile-{held}-data", options, str(file))
            host.create(made, "c", held=held)
            host.accept("c", width=8, payload=200, most=200)
            if not held:
                host.empty()
            before, start = host.subject.cpu(), time.perf_counter()
            host.subject.process.send_signal(signal.SIGUSR1)
            count = host.accept("c", width=max(options.widths), payload=200, most=options.events)["count"]
            if not held:
                host.empty()
            host.subject.process.send_signal(signal.SIGUSR1)
            took, spent = time.perf_counter() - start, host.subject.cpu() - before
            while not file.exists():
                host.accept("c", width=1, payload=200, most=1)
            time.sleep(0.5)
        what = "accepted only" if held else "from the first event to an empty queue"
        heading(f"profile: {count:.0f} events, {what}; µs per event (cProfile makes calls of Python slower)")
        print(f"{took / count * 1e6:.0f} µs, of them {spent / count * 1e6:.0f} of processor time of all threads")
        costs = sorted(_costs(pstats.Stats(str(file))), key=lambda cost: -cost[2])
        print(f"event loop: {sum(own for _, _, own, _ in costs) / count * 1e6:.0f} µs")
        stats = costs[: options.lines]
        rows = [[name, f"{calls / count:.2f}", own / count * 1e6, whole / count * 1e6] for name, calls, own, whole in stats]
        table(["", "calls", "own µs", "with callees µs"], rows)


PARTS = {"accepted": accepted, "drained": drained, "profile": profile}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.events")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of a rate")
    parser.add_argument("--events", type=int, default=3000, help="that are queued to be drained")
    parser.add_argument("--only", choices=PARTS, action="append", help="repeatable; without it: all but profile")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 8, 32], help="callers")
    parser.add_argument("--folder", type=Path, default=BUILD, help="on the disk that is measured")
    parser.add_argument("--isolation", default="auto", help="of sandbox serve")
    parser.add_argument("--lines", type=int, default=40, help="of the part profile")
    options = parser.parse_args()
    build()
    machine()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        made = Path(folder)
        subprocess.run(["cc", "-O2", "-o", str(made / "bootstrap"), str(HERE / "runtime.c")], check=True)
        plain = Plain(made)
        for name in options.only or [name for name in PARTS if name != "profile"]:
            PARTS[name](made, options, plain)
    complaints.tell()


if __name__ == "__main__":
    main()
