"""What tests share: functions as folders, a host, a runtime that the test plays itself, a watch for what they leave.

Whatever makes environments depends on the fixture `tier`, and runs in the tiers `process` and `namespace`. The marker `tiers`
names others, for a test or for a module: "plain" is tier `process` without sandbox-init.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from sandbox import Host, Limits
from sandbox.cli.doctor import bash as bash_finding
from sandbox.clock import ManualClock
from sandbox.core.errors import Unsupported
from sandbox.core.function import FunctionConfig
from sandbox.host.environment import Environment, Job
from sandbox.package.cache import Cache
from sandbox.package.package import open_package
from sandbox.process import launcher
from sandbox.process.isolation import Isolation, choose
from sandbox.telemetry.journal import Journal

ROOT = Path(__file__).parent.parent
TIERS = ("process", "namespace")
every_tree = pytest.mark.tiers("plain", "process", "namespace")
SLEEPER = "#!/bin/sh\nexec sleep 1000\n"  # a process that never calls the API: the test is the runtime
SHORT = Limits(init=1.0, shutdown_external=0.6, shutdown_internal=0.2, runtime_share=0.2, init_error_grace=0.3, kill_wait=2.0)

MakeFolder = Callable[..., Path]
UVLOOP = os.environ.get("TEST_LOOP") == "uvloop"
if UVLOOP:
    import uvloop

    uvloop.new_event_loop().close()  # it makes a pipe for itself once, which is no leak


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """TEST_LOOP=uvloop runs everything on uvloop, as the command does; the library runs on whichever loop its user has."""
    if UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests unpack stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """A leaked process or descriptor fails the test; for tasks see `no_task_is_left`."""
    me = psutil.Process()
    descriptors, children = _descriptors(), set(me.children(recursive=True))
    yield
    left = set(me.children(recursive=True)) - children
    for process in left:
        process.kill()
    assert not left, f"processes were left: {left}"
    more = _descriptors() - descriptors
    assert not more, f"descriptors were left: {more}"


def _descriptors() -> set[str]:
    if not sys.platform.startswith("linux"):
        return set()
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if "/.hypothesis/" not in target and "/dev/urandom" not in target:
            found.add(f"{fd}: {target}")
    return found


def no_task_is_left() -> None:
    """For the end of a fixture that closes what it opened: nobody but the test itself still runs."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks were left: {left}"


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Makes a code folder: folder(bootstrap="#!/bin/sh…", app_py="…", **{"sub/x.py": "…"}). bootstrap gets its exec bit."""
    count = 0

    def make(**files: str) -> Path:
        nonlocal count
        count += 1
        where = tmp_path / f"code{count}"
        where.mkdir()
        for name, text in files.items():
            file = where / (name[:-3] + ".py" if name.endswith("_py") else name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if file.name == "bootstrap":
                file.chmod(0o755)
        return where

    return make


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "tiers(*names): where this test runs: plain, process, namespace; else the last two")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tier" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("tiers")
        metafunc.parametrize("tier", mark.args if mark is not None else TIERS, indirect=True)


class Tier(NamedTuple):
    """name: plain, process or namespace."""

    name: str
    isolation: Isolation

    @property
    def options(self) -> tuple[str, ...]:
        """Of `sandbox invoke`, for the same."""
        return "--isolation", self.isolation.tier, "--network", self.isolation.network.out


@functools.cache
def isolation_of(name: str) -> Isolation | str:
    """What is had for this name here, or why it cannot be. No test calls out."""

    def probe() -> Isolation | str:
        try:
            return asyncio.run(choose("namespace", "none") if name == "namespace" else choose("process"))
        except Unsupported as error:
            return str(error).removeprefix("--isolation namespace: ")

    with ThreadPoolExecutor(1) as thread:  # its own loop, and a thread that lives as long as what it starts
        return thread.submit(probe).result()


@pytest.fixture
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tier:
    """The tier of every environment whose test does not ask for another."""
    name = str(request.param)
    if name == "plain":
        monkeypatch.setattr(launcher, "guard", lambda: launcher.Guard(False, "the test wants it so"))
    isolation = isolation_of(name)
    if isinstance(isolation, str):
        pytest.skip(f"tier {name}: {isolation}")

    async def chosen(wanted: str = "auto", network: str = "auto") -> Isolation:
        return isolation if wanted == "auto" else await choose(wanted, network)

    monkeypatch.setattr("sandbox.host.host.choose", chosen)
    return Tier(name, isolation)


@pytest.fixture
async def host(tier: Tier) -> AsyncIterator[Host]:
    """A host with short limits and the machine's own clock."""
    async with Host(limits=SHORT) as host:
        yield host
    no_task_is_left()


# ── an environment from outside ──


def outside(environment: Environment, pid: int) -> int:
    """The process that a function knows by this id, as this machine counts."""
    for candidate in environment._processes._tree.pids():
        try:
            status = Path(f"/proc/{candidate}/status").read_text()
        except OSError:
            continue
        line = next((line for line in status.splitlines() if line.startswith("NSpid:")), f"NSpid: {candidate}")
        if int(line.split()[-1]) == pid:
            return candidate
    raise ProcessLookupError(f"the environment has no process {pid}")


def python_of(tier: Tier) -> str:
    """A Python for a custom runtime's scripts. Skips where the environment would see none."""
    if tier.name != "namespace":
        return os.path.realpath(sys.executable)
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("no /usr/bin/python3: a custom runtime in tier namespace has no Python here")
    return "/usr/bin/python3"


def seen_from_here(environment: Environment, path: str) -> Path:
    """A path of the environment's processes, of which one must run."""
    if environment.isolation.tier == "process":
        return Path(path)
    return Path(f"/proc/{_one_of(environment).pid}/root{path}")


def _one_of(environment: Environment) -> psutil.Process:
    """A process of an environment in namespaces: all see the same files, and are the same user."""
    for pid in environment._processes._tree.pids():
        with contextlib.suppress(psutil.NoSuchProcess):  # what forks and ends meanwhile
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
    raise ProcessLookupError("the environment has no process that runs")


def tmp_of(environment: Environment) -> str:
    """The folder for temporary files, as its processes know it."""
    return environment.plan.places.tmp


def touch(environment: Environment, path: str) -> None:
    """Makes a file there, as the user that the processes are: no other can in a file system of theirs."""
    file = seen_from_here(environment, path)
    if environment.isolation.tier == "process":
        file.touch()
        return
    first = _one_of(environment)
    owner = {"user": first.uids().real, "group": first.gids().real, "extra_groups": []} if os.getuid() == 0 else {}
    subprocess.run(["touch", str(file)], check=True, timeout=20, **owner)  # type: ignore[call-overload]


async def listener(environment: Environment, port: int = 0) -> socket.socket:
    """Listens at the loopback that its processes see."""
    tree = environment._processes._tree
    if environment.isolation.network.own:
        from sandbox.process.namespace import NamespaceTree

        assert isinstance(tree, NamespaceTree)
        return await tree._socket(256, port)
    return socket.create_server(("127.0.0.1", port))


def needs_bash() -> None:
    """Skips with the reason that `sandbox doctor` gives."""
    finding = bash_finding()
    if not finding.works:
        pytest.skip(f"{finding.name}: {finding.text}")


Reachable = Callable[[Callable[[socket.socket], Awaitable[object]]], Awaitable[int]]


@pytest.fixture
def reachable(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> Reachable:
    """`port = await reachable(serve)`: a port that environments reach; `serve` is given the socket that listens there.

    Each environment with a network of its own has such a port of its own, and `serve` is called for each.
    """
    ports = iter(range(4243, 4300))

    async def reach(serve: Callable[[socket.socket], Awaitable[object]]) -> int:
        if not tier.isolation.network.own:
            here = socket.create_server(("127.0.0.1", 0))
            await serve(here)
            return int(here.getsockname()[1])
        port, open_ = next(ports), Environment.open

        async def opened(environment: Environment) -> None:
            await open_(environment)
            await serve(await listener(environment, port))

        monkeypatch.setattr(Environment, "open", opened)
        return port

    return reach


class Reply:
    """An HTTP reply: status, header fields with lower-case names, body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:80]!r}>"


class Connection:
    """One TCP connection to the Runtime API, bytes as the test wants them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """The next reply. Raises asyncio.IncompleteReadError if the host hangs up first."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        if status == 100:
            return Reply(100, headers, b"")
        return Reply(status, headers, await self.reader.readexactly(int(headers.get("content-length", "0"))))

    async def ask(self, method: str, path: str, body: bytes | None = None, **fields: str) -> Reply:
        """One request, one reply. Keyword names become header names: lambda_runtime_x → lambda-runtime-x."""
        await self.send(request(method, path, body, **fields))
        return await self.reply()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


def request(method: str, path: str, body: bytes | None = None, **fields: str) -> bytes:
    """The bytes of a request; a path without a leading slash is below /2018-06-01/runtime/."""
    target = path if path.startswith("/") else f"/2018-06-01/runtime/{path}"
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1:9001"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


class Played:
    """An environment whose runtime the test plays over HTTP, on a clock that only the test moves.

    Its process is real (it sleeps), so signals, resets and kills are real too.
    """

    def __init__(self, environment: Environment, clock: ManualClock, journal: Journal) -> None:
        self.environment = environment
        self.clock = clock
        self.journal = journal
        self.records: list[tuple[str, object]] = []
        self._connections: list[Connection] = []
        journal.subscribe(lambda record: self.records.append((record.type, record.record)))

    async def connect(self) -> Connection:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        port = int(self.environment.address.rpartition(":")[2])
        transport, _ = await self.environment.dial(lambda: protocol, port)  # type: ignore[misc]
        connection = Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        self._connections.append(connection)
        return connection

    def invoke(self, payload: bytes = b"{}", **context: object) -> Job:
        """Submits an invocation; job.answered and job.reported are futures, job.result the result."""
        job = Job(
            payload,
            arn=self.environment.function.arn,
            accepted_at=self.clock.now(),
            wall=self.clock.wall(),
            **context,  # type: ignore[arg-type]
        )
        self.give(job)
        return job

    def give(self, job: Job) -> None:
        self.environment.submit(job)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits, in real time, for something that processes or the event loop bring about."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def deliver(self, connection: Connection, payload: bytes = b"{}", **context: object) -> tuple[Job, Reply]:
        """Invokes and polls: returns the job and the event's reply."""
        job = self.invoke(payload, **context)
        return job, await connection.ask("GET", "invocation/next")

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        await self.environment.shutdown()


@pytest.fixture
async def played(folder: MakeFolder, tier: Tier) -> AsyncIterator[Played]:
    """A fresh environment with a timeout of 3 s; nothing has been invoked yet."""
    function = FunctionConfig(str(folder(bootstrap=SLEEPER)), timeout=3)
    clock, journal = ManualClock(), Journal()
    package = open_package(function.code, (), Cache())
    environment = Environment(function, package, journal, clock, isolation=tier.isolation, limits=Limits())
    await environment.open()
    world = Played(environment, clock, journal)
    try:
        yield world
    finally:
        await world.close()
        no_task_is_left()
