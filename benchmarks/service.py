"""Invokes over HTTP, of `sandbox serve`, beside the machine's own limits and beside peers, in one run. See README.md here."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import pstats
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.tiers import heading, machine, table

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = HERE / "build"
EVENT = 20  # bytes, as in run.py
GAP_US = 1000  # between an answer and the next invoke, where it is paced
SIZES = {"1 KB": 1000, "100 KB": 100_000, "1 MB": 1_000_000, "6 MB": 6 * 1024 * 1024}  # the last one is the limit of an event
HANDLER = 'def handler(event, context):\n    print("an event of", len(event), "keys")\n    return event\n'
RIE_PATH = "/2015-03-31/functions/function/invocations"
Figures = dict[str, float]


# ── programs, functions ──


def build() -> None:
    BUILD.mkdir(exist_ok=True)
    for source in ("service_load", "service_pong"):
        subprocess.run(["cc", "-O2", "-o", str(BUILD / source), str(HERE / f"{source}.c")], check=True)


def codes(made: Path, names: Sequence[str]) -> list[Path]:
    """A folder for each function: c… has the minimal C runtime, py… the managed one. Both print a line for each event."""
    subprocess.run(["cc", "-O2", "-o", str(made / "bootstrap"), str(HERE / "runtime.c")], check=True)
    found = []
    for name in names:
        folder = made / name
        folder.mkdir()
        if name.startswith("py"):
            (folder / "app.py").write_text(HANDLER)
            settings = 'runtime = "python"\nhandler = "app.handler"\n'
        else:
            os.link(made / "bootstrap", folder / "bootstrap")
            settings = 'runtime = "provided.al2023"\n'
        (folder / "sandbox.toml").write_text(f'name = "{name}"\n{settings}timeout = 60\nenvironment = {{ PRINT = "1" }}\n')
        found.append(folder)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Subject:
    """A process that serves Invoke on a port, or a URL where something does (then process is None)."""

    def __init__(self, port: int, process: psutil.Process | None, path: Callable[[str], str]) -> None:
        self.port = port
        self.process = process
        self.path = path

    def cpu(self) -> float:
        """Seconds of processor time of all its threads."""
        if self.process is None:
            return 0.0
        spent = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def megabytes(self, field: str = "VmHWM") -> float:
        """VmHWM: the most that it ever had resident, VmRSS: what it has now."""
        if self.process is None:
            return 0.0
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) / 1024

    def environments(self, name: str) -> int:
        """Processes of this function's runtime, by their variables."""
        mine = f"AWS_LAMBDA_FUNCTION_NAME={name}".encode()
        found = 0
        for one in self.process.children(recursive=True) if self.process is not None else []:
            with contextlib.suppress(OSError, psutil.Error):
                found += mine in Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0")
        return found


@contextlib.contextmanager
def served(command: Sequence[str], port: int, path: Callable[[str], str], ready: str = "") -> Iterator[Subject]:
    """Runs a server until the block ends, with its output dropped. ready: the function that must be there."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        subject = Subject(port, psutil.Process(process.pid), path)
        for _ in range(1200):
            if process.poll() is not None:
                raise SystemExit(f"it has ended with status {process.returncode}: {shlex.join(command)}")
            if answers(port, path(ready)):
                break
            time.sleep(0.05)
        else:
            raise SystemExit(f"it answers no invoke: {shlex.join(command)}")
        yield subject
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, b'{"k":1}', {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ours(stack: ExitStack, made: Path, options: argparse.Namespace, way: str, names: Sequence[str], file: str = "") -> Subject:
    """`sandbox serve` with these functions. way: "lean" as it is, or "aiohttp"."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir=made))
    arguments = ["--port", str(port), "--isolation", options.isolation, *map(str, codes(folder, names))]
    command = [sys.executable, "-m", "benchmarks.service_host", way, file, *arguments]
    return stack.enter_context(served(command, port, lambda name: f"/2015-03-31/functions/{name}/invocations", names[-1]))


# ── measurements ──


class Complaints:
    """What makes figures worthless, told at the end."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def add(self, what: str, count: float) -> None:
        if count:
            self.found[what] = self.found.get(what, 0) + int(count)

    def tell(self) -> None:
        print()
        for what, count in self.found.items():
            print(f"NOT TO BE USED: {count} x {what}")
        if not self.found:
            print("no invoke was throttled (an account has 10,000 invokes/s), none failed")


complaints = Complaints()


def load(
    subject: Subject, name: str, *, width: int = 1, seconds: float, gap: int = 0, body: int = EVENT, most: int = 4_000_000
) -> Figures:
    """Drives it with the C client; cpu: of its process, µs per invoke."""
    command = [str(BUILD / "service_load"), str(subject.port), subject.path(name), width, seconds, gap, body, most]
    before = subject.cpu()
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    spent = subject.cpu() - before
    if run.returncode:
        raise SystemExit(f"port {subject.port}{subject.path(name)}: {run.stderr.strip()}")
    found: Figures = json.loads(run.stdout)
    complaints.add(f"{name} x {width}: throttled (429): the account's rate of 10,000 invokes/s?", found["throttled"])
    complaints.add(f"{name} x {width}: no 200", found["failed"])
    complaints.add(f"{name} x {width}: a function error", found["functions"])
    if not found["count"]:
        raise SystemExit(f"{name} x {width}: not one invoke was answered with 200 and without a function error")
    return {**found, "cpu": spent / found["count"] * 1e6}


def raw(seconds: float, gap: int = 0, payload: int = 0) -> Figures:
    command = [str(BUILD / "service_pong"), str(seconds), str(gap), str(payload)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def middle(rounds: Sequence[Figures], key: str) -> float:
    return statistics.median(found[key] for found in rounds)


def ratio(rounds: Sequence[Figures], others: Sequence[Figures], key: str) -> float:
    """Round by round, for the machine is another one in each."""
    return statistics.median(one[key] / other[key] for one, other in zip(rounds, others, strict=True))


def interleaved(measures: dict[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in measures}
    for number in range(rounds):
        order = list(measures.items())
        for name, measure in order if number % 2 == 0 else reversed(order):
            found[name].append(measure())
    return found


def row(name: str, found: Sequence[Figures]) -> list[object]:
    return [name, f"{middle(found, 'rate'):.0f}", middle(found, "p50"), middle(found, "p99"), middle(found, "cpu")]


def warm(made: Path, options: argparse.Namespace) -> None:
    """Closed loop and paced, with so many environments, both runtimes."""
    heading(f"warm: `sandbox serve`, its log to /dev/null, a line printed for each event; {options.rounds} rounds")
    with ExitStack() as stack:
        names = {(kind, width): f"{kind}-{width}" for kind in ("c", "py") for width in options.widths}
        subject = ours(stack, made, options, "lean", list(names.values()))
        for (_, width), name in names.items():
            load(subject, name, width=width, seconds=0.3 + width * 0.05)
        measures: dict[str, Callable[[], Figures]] = {
            "raw": lambda: raw(options.seconds),
            "raw, paced": lambda: raw(options.seconds, GAP_US),
        }
        for (kind, width), name in names.items():
            for how, gap in (("", 0), (", paced", GAP_US)):
                measures[f"{kind} x {width}{how}"] = lambda name=name, width=width, gap=gap: load(
                    subject, name, width=width, seconds=options.seconds, gap=gap
                )
        found = interleaved(measures, options.rounds)
        there = {f"{kind} x {width}": subject.environments(name) for (kind, width), name in names.items()}
        rows = []
        for name, rounds in found.items():
            bare = found["raw, paced" if name.endswith("paced") else "raw"]
            share = "" if name.endswith("paced") else f"{ratio(rounds, bare, 'rate'):.0%}"
            count = there.get(name.removesuffix(", paced"), "")
            rows.append([*row(name, rounds), str(count), share, f"{ratio(rounds, bare, 'p50'):.2f}"])
        table(["", "invokes/s", "p50 µs", "p99 µs", "host CPU µs", "environments", "rate / raw", "p50 / raw"], rows)
        first = f"c x {options.widths[0]}"
        told = ", ".join(f"{a['rate'] / b['rate']:.0%}" for a, b in zip(found[first], found["raw"], strict=True))
        print(f"target: {first}, closed loop, at least 50 % of raw. Rounds: {told}")
        print(f"host: {subject.megabytes('VmRSS'):.0f} MB resident")


def ways(made: Path, options: argparse.Namespace) -> None:
    """The lean way in, and aiohttp."""
    heading("ways: the lean way in beside aiohttp alone (C runtime)")
    widths = [width for width in options.widths if width in (1, 32)] or options.widths[:1]
    names = [f"c-{width}" for width in widths]
    with ExitStack() as stack:
        subjects = {way: ours(stack, made, options, way, names) for way in ("lean", "aiohttp")}
        measures: dict[str, Callable[[], Figures]] = {"raw": lambda: raw(options.seconds)}
        for width, name in zip(widths, names, strict=True):
            for way, subject in subjects.items():
                load(subject, name, width=width, seconds=0.3 + width * 0.05)
                measures[f"{way} x {width}"] = lambda subject=subject, name=name, width=width: load(
                    subject, name, width=width, seconds=options.seconds
                )
        found = interleaved(measures, options.rounds)
        rows = [[*row(name, rounds), f"{ratio(rounds, found['raw'], 'rate'):.0%}"] for name, rounds in found.items()]
        table(["", "invokes/s", "p50 µs", "p99 µs", "host CPU µs", "rate / raw"], rows)


def boto(made: Path, options: argparse.Namespace) -> None:
    """Sequential invokes of boto3."""
    import boto3
    from botocore.config import Config

    heading("boto3: one after the other, µs from the call until the payload is read")
    with ExitStack() as stack:
        subject = ours(stack, made, options, "lean", ["py", "c"])
        port = free_port()
        stack.enter_context(served([sys.executable, "-m", "benchmarks.service_echo", str(port)], port, lambda name: RIE_PATH))

        def calls(at: int, name: str) -> Callable[[], Figures]:
            client = boto3.session.Session().client(
                "lambda",
                endpoint_url=f"http://127.0.0.1:{at}",
                region_name="us-east-1",
                aws_access_key_id="x",
                aws_secret_access_key="y",
                config=Config(retries={"total_max_attempts": 1}),
            )

            def measure() -> Figures:
                took = []
                start = time.perf_counter()
                while time.perf_counter() < start + options.seconds:
                    before = time.perf_counter()
                    client.invoke(FunctionName=name, Payload=b'{"k":"xxxxxxxxxxxx"}')["Payload"].read()
                    took.append((time.perf_counter() - before) * 1e6)
                took.sort()
                rate = len(took) / (time.perf_counter() - start)
                return {"rate": rate, "p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)], "cpu": 0.0}

            measure()
            return measure

        measures = {
            "bare aiohttp echo": calls(port, "function"),
            "c": calls(subject.port, "c"),
            "py": calls(subject.port, "py"),
        }
        found = interleaved(measures, options.rounds)
        bare = found["bare aiohttp echo"]
        table(
            ["", "invokes/s", "p50 µs", "p99 µs", "p50 / echo"],
            [[*row(name, rounds)[:4], f"{ratio(rounds, bare, 'p50'):.2f}"] for name, rounds in found.items()],
        )
        print("target: at most 1.6 x the echo's median")


def payloads(made: Path, options: argparse.Namespace) -> None:
    """Echoes of large events, and the host's memory."""
    heading("payloads: echo, C runtime, one environment; raw passes as many bytes, four times")
    with ExitStack() as stack:
        subjects = {way: ours(stack, made, options, way, ["c"]) for way in ("lean", "aiohttp")}
        measures: dict[str, Callable[[], Figures]] = {}
        before = {}
        for way, subject in subjects.items():
            load(subject, "c", seconds=0.3)
            before[way] = subject.megabytes("VmRSS")
        for size, count in SIZES.items():
            measures[f"raw {size}"] = lambda count=count: raw(options.seconds, 0, count)
            for way, subject in subjects.items():
                measures[f"{way} {size}"] = lambda subject=subject, count=count: load(
                    subject, "c", seconds=options.seconds, body=count
                )
        found = interleaved(measures, options.rounds)
        rows = []
        for name, rounds in found.items():
            bare = found["raw" + name[name.index(" ") :]]
            rows.append([*row(name, rounds), f"{ratio(rounds, bare, 'rate'):.0%}"])
        table(["", "invokes/s", "p50 µs", "p99 µs", "host CPU µs", "rate / raw"], rows)
        for way, subject in subjects.items():
            peak = subject.megabytes()
            load(subject, "c", width=8, seconds=options.seconds, body=SIZES["6 MB"])
            print(
                f"{way}: host {before[way]:.0f} MB before, {peak:.0f} MB at most; 6 MB eight at a time:"
                f" {subject.megabytes():.0f} MB at most, {subject.megabytes('VmRSS'):.0f} MB afterwards"
            )
        print("target: less than 100 MB at most, one at a time")


def peers(made: Path, options: argparse.Namespace) -> None:
    """What else serves Invoke, given with --peer, beside ours."""
    if not options.peer:
        if "peers" in (options.only or []):
            raise SystemExit("peers: there is none: name some with --peer NAME=COMMAND or --peer NAME=URL")
        return
    heading("peers: sequential, the same client; the C runtime where the command uses {code}")
    with ExitStack() as stack:
        subject = ours(stack, made, options, "lean", ["c", "py"])
        there = {"ours, c": (subject, "c"), "ours, py": (subject, "py")}
        folder = made / "peers"
        folder.mkdir()
        c, py = codes(folder, ["c", "py"])
        for text in options.peer:
            name, _, what = text.partition("=")
            there[name] = (peer(stack, what, c, py), "")
        for one, function in there.values():
            load(one, function, seconds=0.3)
        measures: dict[str, Callable[[], Figures]] = {"raw": lambda: raw(options.seconds)}
        for name, (one, function) in there.items():
            for how, gap in (("", 0), (", paced", GAP_US)):
                measures[name + how] = lambda one=one, function=function, gap=gap: load(
                    one, function, seconds=options.seconds, gap=gap
                )
        found = interleaved(measures, options.rounds)
        rows = []
        for name, rounds in found.items():
            mine = [found[f"ours, {kind}{', paced' if name.endswith(', paced') else ''}"] for kind in ("c", "py")]
            against = [f"{ratio(one, rounds, 'rate'):.2f}" for one in mine]
            share = "" if name.endswith(", paced") else f"{ratio(rounds, found['raw'], 'rate'):.0%}"
            rows.append([*row(name, rounds), share, *against])
        table(["", "invokes/s", "p50 µs", "p99 µs", "CPU µs", "rate / raw", "ours c / it", "ours py / it"], rows)
        print("target: twice the rate of RIE with the same runtime. CPU is that of the process that was started alone")


def peer(stack: ExitStack, what: str, c: Path, py: Path) -> Subject:
    """From `COMMAND … {port} …`, or from a URL."""
    if what.startswith("http://"):
        parts = urlsplit(what)
        path = parts.path if parts.path not in ("", "/") else RIE_PATH
        return Subject(parts.port or 80, None, lambda name: path)
    if "{port}" not in what:
        raise SystemExit(f"--peer {what}: the command says where the port goes, with {{port}}; or it is an http:// URL")
    port = free_port()
    words = {"port": port, "code": c, "pycode": py, "python": sys.executable}
    return stack.enter_context(served(shlex.split(what.format_map(words)), port, lambda name: RIE_PATH))


def profile(made: Path, options: argparse.Namespace) -> None:
    """Where the host's time goes, by cProfile; not part of a run unless it is asked for."""
    for how, gap in (("closed loop", 0), ("paced", GAP_US)):
        with ExitStack() as stack:
            file = made / f"profile-{gap}"
            subject = ours(stack, made, options, options.way, ["c"], str(file))
            load(subject, "c", seconds=0.5)
            subject.process.send_signal(signal.SIGUSR1)
            found = load(subject, "c", seconds=options.seconds, gap=gap)
            subject.process.send_signal(signal.SIGUSR1)
            while not file.exists():
                load(subject, "c", seconds=0.01)
            time.sleep(0.5)
        count = found["count"]
        heading(f"profile: {how}, {options.way}, {count:.0f} invokes; µs per invoke (cProfile makes calls of Python slower)")
        costs = sorted(_costs(pstats.Stats(str(file))), key=lambda cost: -cost[2])
        files: dict[str, list[float]] = {}
        for name, calls, own, _ in costs:
            sums = files.setdefault(name.split(":")[0] if ":" in name else "(built in)", [0, 0])
            sums[0], sums[1] = sums[0] + calls, sums[1] + own
        total = sum(sums[1] for sums in files.values())
        most = sorted(files.items(), key=lambda item: -item[1][1])[:25]
        print(f"{sum(sums[0] for sums in files.values()) / count:.0f} calls per invoke, {total / count * 1e6:.0f} µs")
        table(["", "calls", "share %"], [[name, f"{n / count:.1f}", own / total * 100] for name, (n, own) in most])
        print()
        stats = costs[: options.lines]
        rows = [[name, f"{calls / count:.2f}", own / count * 1e6, whole / count * 1e6] for name, calls, own, whole in stats]
        table(["", "calls", "own µs", "with callees µs"], rows)


def _costs(stats: Any) -> Iterator[tuple[str, int, float, float]]:
    for (file, line, name), (_, calls, own, whole, _) in stats.stats.items():
        where = f"{os.path.relpath(file, ROOT)}:{line} " if line else ""
        yield f"{where}{name}"[:90], calls, own, whole


PARTS = {"warm": warm, "ways": ways, "boto3": boto, "payloads": payloads, "peers": peers, "profile": profile}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.service")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--only", choices=PARTS, action="append", help="repeatable; without it: all but profile")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.3 s, 1 and 8 environments")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 8, 32, 128], help="environments")
    parser.add_argument("--one-core", action="store_true", help="everything on one processor: the most repeatable")
    parser.add_argument("--isolation", default="auto", help="of sandbox serve")
    words = "repeatable; {port}; {code}, {pycode}: folders of the two functions; {python}: this interpreter"
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=CMD-or-URL", help=words)
    parser.add_argument("--way", choices=["lean", "aiohttp"], default="lean", help="of the part profile")
    parser.add_argument("--lines", type=int, default=60, help="of the part profile")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.widths = 2, 0.3, [1, 8]
    if why := [text for text in options.peer if "=" not in text]:
        parser.error(f"--peer {why[0]}: it is NAME=COMMAND or NAME=URL")
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    build()
    machine()
    with tempfile.TemporaryDirectory() as made:
        for name in options.only or [name for name in PARTS if name != "profile"]:
            PARTS[name](Path(made), options)
    complaints.tell()


if __name__ == "__main__":
    main()
