"""Each kind of process tree, with real processes: start, end, freeze, thaw, kill, and what is left when somebody dies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import json
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from sandbox.core.limits import MIB
from sandbox.process import launcher
from sandbox.process.isolation import Probe, probe_namespace
from sandbox.process.launcher import Ended, Program, Tree, make_tree
from sandbox.process.namespace import NamespaceTree
from sandbox.process.room import TASK, Room, home_of_language, shown_of_language, write_etc

ROOT = Path(__file__).parent.parent.parent
PYTHON = sys.executable

# A counter in a shared file: slot N is touched only by the process that was told N. Its descriptor is given: any tier has it.
BEAT = """
import mmap, os, struct, sys, threading, time
memory = mmap.mmap(int(sys.argv[1]), 4096)
def beat(slot):
    n = 0
    while True:
        n += 1
        struct.pack_into("=Q", memory, slot * 8, n)
        time.sleep(0.0005)
def daemon(slot):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            beat(slot)
        os._exit(0)
    os.wait()
"""

FAMILY = BEAT + "daemon(2) if sys.argv[2] != 'plain' else None\nif os.fork() == 0: beat(1)\nbeat(0)"


def state(pid: int, thread: int | None = None) -> str | None:
    """The state letter of a process, or of one of its threads; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/task/{thread or pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2]


def states(pid: int) -> set[str]:
    """Those of all threads."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return set()
    return {letter for thread in threads if (letter := state(pid, int(thread))) is not None}


def ticks(pid: int) -> int:
    """User and system time, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def gone(pid: int) -> bool:
    return state(pid) in (None, "Z", "X")


def burn() -> None:
    """Some CPU time of our own."""
    begun = time.process_time()
    while time.process_time() - begun < 0.05:
        pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


class Counters:
    """The host's side of BEAT."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        if not path.exists():  # the second one shares it: to cut it short would be SIGBUS for who reads it
            path.write_bytes(b"\0" * 4096)
        self.fd = os.open(self.path, os.O_RDWR)
        self._memory = mmap.mmap(self.fd, 4096)

    def __getitem__(self, slot: int) -> int:
        return int(struct.unpack_from("=Q", self._memory, slot * 8)[0])

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    async def all_go_on(self, slots: int) -> None:
        before = [self[slot] for slot in range(slots)]
        await until(lambda: all(self[slot] > before[slot] for slot in range(slots)))


class Started:
    """One process: its id, a future of how it ended, and what it printed."""

    def __init__(self, pid: int, ended: asyncio.Future[Ended], output: int) -> None:
        self.pid = pid
        self.ended = ended
        self._output = output

    async def said(self) -> bytes:
        """Everything up to the end of its output."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        with open(self._output, "rb", closefd=False) as file:
            return file.read()


class World:
    """folder: what is put there is, for the processes, in `seen`. python: the interpreter, as they see it."""

    def __init__(self, tree: Tree, folder: Path, seen: str, python: str = PYTHON) -> None:
        self.tree = tree
        self.folder, self.seen, self.python_path = folder, seen, python
        self._stack = contextlib.ExitStack()

    async def start(
        self,
        file: str,
        *argv: str,
        env: dict[str, str] | None = None,
        cwd: str = "/",
        limits: tuple[tuple[int, int], ...] = (),
        more: tuple[int, ...] = (),
    ) -> Started:
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._stack.callback(os.close, read)
        try:
            program = Program(file, [file, *argv], env or {}, cwd, [null, write, write, *more], limits)
            pid = await self.tree.spawn(program, future.set_result)  # a second call of `ended` would raise
        finally:
            os.close(write)
            os.close(null)
        return Started(pid, future, read)

    async def sh(self, script: str) -> Started:
        return await self.start("/bin/sh", "-c", script, env={"PATH": "/usr/bin:/bin"})

    async def python(self, script: str, *argv: str, limits: tuple[tuple[int, int], ...] = ()) -> Started:
        return await self.start(self.python_path, "-S", "-c", script, *argv, limits=limits)

    async def beat(self, counters: Counters, script: str, *argv: str) -> Started:
        """A script that finds the counters at sys.argv[1]; their path, the last argument, says whose process it is."""
        fd = str(self.tree.fd_in_child(3, counters.fd))
        return await self.start(self.python_path, "-S", "-c", script, fd, *argv, counters.path, more=(counters.fd,))

    async def close(self) -> None:
        await self.tree.close()
        self._stack.close()


@functools.cache
def namespace_probe() -> Probe:
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, whatever runs here
        return pool.submit(asyncio.run, probe_namespace()).result()


def needs_namespaces() -> None:
    """Skips with the reason that `--isolation namespace` gives."""
    if not (probe := namespace_probe()).works:
        pytest.skip(f"tier namespace: {probe.why_not}")


def shown_language() -> tuple[str, str] | None:
    prefix = home_of_language(sys.base_prefix)
    return shown_of_language(prefix, os.path.realpath(sys.executable)) if prefix is not None else None


def make_room(folder: Path, **fields: object) -> Room:
    """What an environment of tier `namespace` is given, with this interpreter in it."""
    for name in ("task", "opt"):
        (folder / name).mkdir(parents=True)
    room = Room(f"{folder}/task", f"{folder}/opt", f"{folder}/etc", language=shown_language())
    room = room._replace(**fields)
    write_etc(folder / "etc", room.network)
    return room


def python_in(room: Room) -> str:
    """This interpreter, as it is seen from inside."""
    path = os.path.realpath(PYTHON)
    return room.language[1] + path.removeprefix(room.language[0]) if room.language is not None else path


def pid_of_program(tree: Tree) -> int:
    """The small program, which is the parent of all; pid 1 in there, by its number here."""
    return tree._init if isinstance(tree, NamespaceTree) else tree._program.pid


def world_of(kind: str, folder: Path) -> World:
    """Not started yet."""
    if kind == "namespace":
        room = make_room(folder / "room")
        return World(NamespaceTree(room), Path(room.task), TASK, python_in(room))
    if kind == "plain":
        launcher.guard = lambda: launcher.Guard(False, "the test wants it so")  # put back by the fixture
    return World(make_tree(), folder, str(folder))


@pytest.fixture(params=["init", "plain", "namespace"])
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with each kind of process tree, as far as they work here."""
    monkeypatch.setattr(launcher, "guard", launcher.guard)
    if request.param == "namespace":
        needs_namespaces()
    elif request.param == "init" and (why := launcher.guard().why_not) is not None:
        pytest.skip(why)
    return str(request.param)


@pytest.fixture
async def world(tree: str, tmp_path: Path) -> AsyncIterator[World]:
    made = world_of(tree, tmp_path)
    assert type(made.tree).__name__ == {"init": "InitTree", "plain": "PlainTree", "namespace": "NamespaceTree"}[tree]
    await made.tree.start()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    made = Counters(tmp_path / "counters")
    yield made
    made.close()


complete = pytest.mark.parametrize("tree", ["init", "namespace"], indirect=True)  # those that see every descendant


# ── start and end ──


@pytest.mark.parametrize(
    ("script", "code", "by"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("kill -TERM $$", None, signal.SIGTERM),
        ("kill -KILL $$", None, signal.SIGKILL),
    ],
)
async def test_tells_how_a_process_ended(world: World, script: str, code: int | None, by: int | None) -> None:
    process = await world.sh(script)
    ended = await process.ended
    assert (ended.code, ended.signal) == (code, by)
    assert gone(process.pid)


async def test_each_of_many_gets_its_own_end(world: World, tree: str) -> None:
    """As many as an environment may have: a runtime and ten extensions. Some end before their ids are known."""
    processes = await asyncio.gather(*(world.sh(f"exit {n}") for n in range(1, 12)))
    known = [process.pid for process in processes]
    if tree == "namespace":  # one that was gone before we could look never had a number here
        known = [pid for pid in known if pid > 0]
    assert len(set(known)) == len(known)
    assert [(await process.ended).code for process in processes] == list(range(1, 12))
    assert world.tree.pids() == []


BAD_FILES = {
    "missing file": (None, 0, errno.ENOENT),
    "no exec bit": ("#!/bin/sh\n", 0o644, errno.EACCES),
    "missing interpreter": ("#!/no/such/interpreter\n", 0o755, errno.ENOENT),
    "interpreter without exec bit": ("#!/etc/passwd\n", 0o755, errno.EACCES),
    "CR LF": ("#!/bin/sh\r\nexit 0\r\n", 0o755, errno.ENOENT),
    "neither script nor binary": ("exit 0\n", 0o755, errno.ENOEXEC),
    "empty": ("", 0o755, errno.ENOEXEC),
}


@pytest.mark.parametrize("what", BAD_FILES)
async def test_what_cannot_be_executed_raises_the_errno_of_exec(world: World, what: str) -> None:
    text, mode, number = BAD_FILES[what]
    file = world.folder / "bootstrap"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is looked at
        await world.start(f"{world.seen}/bootstrap")
    assert raised.value.errno == number
    assert world.tree.pids() == []
    assert (await (await world.sh("exit 3")).ended).code == 3  # and the tree is as good as before


@pytest.mark.parametrize(("cwd", "number"), [("/no/such/folder", errno.ENOENT), ("/etc/passwd", errno.ENOTDIR)])
async def test_a_bad_working_directory_is_an_oserror(world: World, cwd: str, number: int) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011
        await world.start("/bin/sh", "-c", "exit 0", cwd=cwd)
    assert raised.value.errno == number


async def test_an_argument_that_is_too_long_is_e2big(world: World) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011
        await world.start("/bin/sh", "-c", "exit 0", "x" * 140_000)
    assert raised.value.errno == errno.E2BIG


async def test_a_limit_that_cannot_be_set_is_an_oserror_and_leaves_no_process(world: World, tree: str) -> None:
    """No process may have more descriptors than fs.nr_open, not even root's."""
    with contextlib.suppress(OSError):
        await world.start("/bin/sleep", "1000", limits=((resource.RLIMIT_NOFILE, 1 << 40),))
        pytest.fail("it was started")
    left = [p for p in psutil.Process().children(recursive=True) if p.name() == "sleep"]
    for process in left:
        process.kill()
        process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Popen object that was forgotten
        gc.collect()
    assert left == []


async def test_arguments_and_environment_are_exactly_what_was_given(world: World) -> None:
    env = {"EMPTY": "", "LINES": "a\nb", "EQUALS": "x=y", "BYTES": os.fsdecode(b"\xff\xfe"), "WORD": "é", "LONG": "x" * 100_000}
    show = "import sys; sys.stdout.buffer.write(open('/proc/self/%s' % sys.argv[1], 'rb').read())"
    process = await world.start(world.python_path, "-S", "-c", show, "environ", env=env)
    expected = {os.fsencode(f"{key}={value}") for key, value in env.items()}
    assert set((await process.said()).removesuffix(b"\0").split(b"\0")) == expected
    words = ["cmdline", "", "two words", "*", os.fsdecode(b"\xff")]
    process = await world.start(world.python_path, "-S", "-c", show, *words)
    assert (await process.said()).split(b"\0")[4:-1] == [os.fsencode(word) for word in words]


@pytest.mark.catalogue("EN-074")
async def test_a_process_has_its_own_session_its_folder_its_limits_and_no_signal_is_blocked(world: World, tree: str) -> None:
    script = (
        "import json, os, resource as r, time\n"
        "while r.getrlimit(r.RLIMIT_NOFILE) != (1024, 1024) and time.process_time() < 5: pass\n"  # plain: set after exec
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(json.dumps([os.getpid(), os.getpgid(0), os.getsid(0), os.getcwd(), r.getrlimit(r.RLIMIT_NOFILE),"
        " r.getrlimit(r.RLIMIT_CORE), int(status['SigBlk'], 16)]))"
    )
    limits = ((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_CORE, 0))
    process = await world.start(world.python_path, "-S", "-c", script, cwd=world.seen, limits=limits)
    pid, group, session, cwd, files, core, blocked = json.loads(await process.said())
    assert pid == group == session
    assert pid == process.pid or tree == "namespace"  # which has numbers of its own
    assert cwd == world.seen
    assert (files, core) == ([1024, 1024], [0, 0])
    assert blocked == 0


async def test_default_signal_actions_are_restored(world: World) -> None:
    """Python ignores SIGPIPE; a shell pipeline of the function must not inherit that."""
    process = await world.start("/bin/cat", "/proc/self/status")
    ignored = re.search(rb"SigIgn:\s*([0-9a-f]+)", await process.said())
    assert ignored is not None
    assert not int(ignored[1], 16) >> (signal.SIGPIPE - 1) & 1


async def test_exactly_the_given_descriptors_are_passed(world: World) -> None:
    read, write = os.pipe()
    other = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(other, True)
    try:
        number = world.tree.fd_in_child(3, write)
        script = (
            "import json, os, sys\n"
            "found = []\n"
            "for fd in os.listdir('/proc/self/fd'):\n"
            "    try: found.append((int(fd), os.readlink('/proc/self/fd/' + fd)))\n"
            "    except OSError: pass\n"
            "found = [fd for fd, name in found if not name.endswith('/fd')]\n"
            "print(json.dumps(sorted(found)))\n"
            "os.write(int(sys.argv[1]), b'through the fourth')"
        )
        process = await world.start(world.python_path, "-S", "-c", script, str(number), more=(write,))
        os.close(write)
        write = -1
        assert json.loads(await process.said()) == sorted({0, 1, 2, number})
        assert os.read(read, 100) == b"through the fourth"
    finally:
        os.close(other)
        os.close(read)
        if write >= 0:
            os.close(write)


@pytest.mark.catalogue("BL-016")
async def test_peak_is_that_of_the_process_and_not_of_the_host(world: World, tree: str) -> None:
    ballast = bytearray(80 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])  # resident
    small = await (await world.sh("exit 0")).ended
    big = await (await world.python("x = b'x' * (60 << 20)")).ended
    unknown = {0} if tree == "plain" else set()  # it cannot tell a peak that is below the host's own
    assert 60 * MIB <= big.peak < 75 * MIB or big.peak in unknown
    assert 100_000 < small.peak < 20 * MIB or small.peak in unknown
    del ballast


# ── signals ──


async def test_a_signal_reaches_the_whole_group_and_one_that_has_ended_is_ignored(world: World) -> None:
    process = await world.sh("trap 'wait; exit 5' TERM; (trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done) & wait")
    inner = await _child(process.pid)
    world.tree.signal(process.pid, signal.SIGTERM)
    assert (await process.ended).code == 5
    await until(lambda: gone(inner))
    world.tree.signal(process.pid, signal.SIGTERM)


async def _child(pid: int) -> int:
    """The first child of a process, when it has handlers for SIGTERM on both."""
    parent = psutil.Process(pid)

    def traps(who: int) -> bool:
        found = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{who}/status").read_text())
        return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)

    await until(lambda: bool(parent.children()) and traps(pid) and traps(parent.children()[0].pid))
    return parent.children()[0].pid


# ── freeze and thaw ──

BUSY = "import os, threading\nos.fork()\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()\nwhile 1: pass"


@pytest.mark.catalogue("LC-036", "LC-051", "LC-058")
async def test_frozen_threads_and_children_make_no_progress_and_go_on_when_thawed(world: World) -> None:
    process = await world.python(BUSY)
    await until(lambda: len(world.tree.pids()) == 2 and all(len(os.listdir(f"/proc/{p}/task")) == 2 for p in world.tree.pids()))
    pids = world.tree.pids()
    world.tree.freeze()
    await until(lambda: all(states(pid) == {"T"} for pid in pids))
    before = {pid: ticks(pid) for pid in pids}
    burn()
    assert {pid: ticks(pid) for pid in pids} == before
    world.tree.thaw()
    await until(lambda: all(ticks(pid) > before[pid] for pid in pids))
    assert not process.ended.done()


@complete
@pytest.mark.catalogue("LC-051")
async def test_a_daemon_in_a_session_of_its_own_is_frozen_too(world: World, counters: Counters) -> None:
    await world.beat(counters, BEAT + "daemon(0)\nbeat(1)")
    await counters.all_go_on(2)
    pids = world.tree.pids()
    assert len(pids) == 2
    world.tree.freeze()
    await until(lambda: all(states(pid) == {"T"} for pid in pids))
    before = counters[0], counters[1]
    burn()
    assert (counters[0], counters[1]) == before
    world.tree.thaw()
    await counters.all_go_on(2)


@complete
async def test_a_daemon_whose_parent_has_ended_is_frozen_and_thawed(world: World, counters: Counters) -> None:
    """Nothing that the host started is left, yet the tree has a process."""
    process = await world.beat(counters, BEAT + "daemon(0)")
    await process.ended
    await counters.all_go_on(1)
    (pid,) = world.tree.pids()
    world.tree.freeze()
    await until(lambda: states(pid) == {"T"})
    world.tree.thaw()
    await counters.all_go_on(1)


async def test_a_freeze_that_is_taken_back_at_once_leaves_nothing_stopped(world: World, tree: str, counters: Counters) -> None:
    await world.beat(counters, FAMILY, tree)
    slots = 2 if tree == "plain" else 3
    await until(lambda: all(counters[slot] for slot in range(slots)))
    for round_ in range(200):
        world.tree.freeze()
        for _ in range(round_ % 4):
            await asyncio.sleep(0)
        world.tree.thaw()
        if round_ % 5 == 4:  # a freeze after the thaw, and a thaw after that, before anything was answered
            world.tree.freeze()
            world.tree.thaw()
        await counters.all_go_on(slots)


@complete
async def test_a_process_that_ends_while_frozen_leaves_its_children_able_to_go_on(world: World, counters: Counters) -> None:
    """Somebody (the OOM killer, a person) kills the one that the host started, while all are stopped."""
    process = await world.beat(counters, BEAT + "if os.fork() == 0: beat(0)\nbeat(1)")
    await counters.all_go_on(2)
    pids = world.tree.pids()
    world.tree.freeze()
    await until(lambda: all(states(pid) == {"T"} for pid in pids))
    await asyncio.sleep(0.05)  # the freeze is answered
    os.kill(process.pid, signal.SIGKILL)
    await process.ended
    world.tree.thaw()
    (left,) = set(pids) - {process.pid}
    for _ in range(500):
        if states(left) != {"T"}:
            break
        await asyncio.sleep(0.002)
    assert states(left) != {"T"}
    await counters.all_go_on(1)


# Ends by itself at a time that is given: should a test be killed, its comet must not fly on for hours.
COMET = """
import mmap, os, struct, sys, time
memory = mmap.mmap(int(sys.argv[1]), 4096)
for generation in range(1, int(sys.argv[3]) + 1):
    struct.pack_into("=Q", memory, 0, generation)
    if time.time() > float(sys.argv[4]):
        break
    if os.fork():
        os._exit(0)
    if sys.argv[2] == "setsid":
        os.setsid()
"""


@complete
@pytest.mark.catalogue("LC-051", "LC-109")
@pytest.mark.parametrize("how", ["setsid", "group"])
async def test_a_comet_is_frozen_completely_and_killed(world: World, tree: str, counters: Counters, how: str) -> None:
    """Each generation forks, leaves its session and exits: there is never a process to hold on to.

    Without a pid namespace it is found by looking, which misses it once in some hundred times; see the soak.
    """
    await world.beat(counters, COMET, how, "50000", str(time.time() + 60))
    whole = 0
    for _ in range(10):
        at = counters[0]
        await until(lambda at=at: counters[0] > at + 5)
        world.tree.freeze()
        await until(lambda: world.tree._sweeping is None)
        if tree == "namespace":
            # One that had exited, and whose parent was stopped before it could be told, stays a zombie until the thaw.
            await until(
                lambda: {"T"} in (of := [states(pid) for pid in world.tree.pids()]) and all(s <= {"T", "Z"} for s in of)
            )
        at = counters[0]
        burn()
        whole += counters[0] == at
        world.tree.thaw()
    assert whole == 10 if tree == "namespace" else whole >= 8
    assert await world.tree.kill(5.0) == 0
    at = counters[0]
    burn()
    assert counters[0] == at
    assert at < 50000, "it came to its end by itself: this showed nothing"
    assert world.tree.pids() == []


@pytest.mark.soak
@pytest.mark.timeout(540)
@pytest.mark.parametrize("how", ["setsid", "group"])
async def test_two_hundred_freezes_of_a_comet(world: World, tree: str, counters: Counters, how: str) -> None:
    """Complete: once the tree says that it is frozen, nothing moves any more. Tier `process` only says how often it was so."""
    tries, whole = 200, 0
    await world.beat(counters, COMET, how, "2000000", str(time.time() + 540))
    for _ in range(tries):
        at = counters[0]
        await until(lambda at=at: counters[0] >= at + 20)
        world.tree.freeze()
        if tree != "plain":
            await until(lambda: world.tree._sweeping is None)
        at = counters[0]
        burn()
        whole += counters[0] == at
        world.tree.thaw()
        if tree == "plain" and how == "setsid" and not world.tree.pids():
            break  # it was in nobody's sight from the first generation on
    print(f"\ncomet, {how}, tree {tree}: {whole} of {tries} freezes were complete, {counters[0]} generations")
    left = await world.tree.kill(5.0)
    at = counters[0]
    burn()
    print(f"comet, {how}, tree {tree}: kill counted {left} left, and was {'complete' if counters[0] == at else 'NOT complete'}")
    await _end_comet(counters)
    assert counters[0] < 2000000, "it came to its end by itself: this showed nothing"
    if tree == "namespace":
        assert (whole, left) == (tries, 0)


async def _end_comet(counters: Counters) -> None:
    """Whatever outlived its tree: found by the mark in its arguments, and caught as it flies."""
    for _ in range(5000):
        found = [p.pid for p in psutil.process_iter() if _is_beat(p.pid, counters.path)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# ── kill ──


@pytest.mark.catalogue("LC-109")
async def test_kill_leaves_nothing(world: World, tree: str, counters: Counters) -> None:
    process = await world.beat(counters, FAMILY, tree)
    size = 2 if tree == "plain" else 3
    await until(lambda: all(counters[slot] for slot in range(size)))
    pids = world.tree.pids()
    assert len(pids) == size
    assert await world.tree.kill(5.0) == 0
    assert [pid for pid in pids if not gone(pid)] == []
    assert world.tree.pids() == []
    assert (await process.ended)[:2] == (None, signal.SIGKILL)


async def test_what_is_frozen_and_ignores_signals_is_killed(world: World) -> None:
    process = await world.python("import signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(1000)")
    world.tree.freeze()
    await until(lambda: states(process.pid) == {"T"})
    assert await world.tree.kill(5.0) == 0
    assert (await process.ended).signal == signal.SIGKILL


async def test_a_killed_tree_takes_new_processes(world: World) -> None:
    """A reset: the same tree, the next generation."""
    first = await world.sh("sleep 1000")
    await world.tree.kill(5.0)
    assert (await first.ended).signal == signal.SIGKILL
    assert (await (await world.sh("exit 4")).ended).code == 4


async def test_close_ends_what_runs(world: World) -> None:
    process = await world.sh("sleep 1000 & sleep 1000")
    await until(lambda: len(world.tree.pids()) == 3)
    pids = world.tree.pids()
    await world.tree.close()
    assert [pid for pid in pids if not gone(pid)] == []
    assert (await process.ended).signal == signal.SIGKILL
    await world.tree.close()  # and once more


@pytest.mark.catalogue("LC-114")
@complete
async def test_kill_comes_back_after_its_wait_even_if_the_program_in_between_stands_still(world: World) -> None:
    """A function may stop its parent process: kill's wait is bounded (LC-114)."""
    await world.sh("sleep 1000")
    between = pid_of_program(world.tree)
    os.kill(between, signal.SIGSTOP)
    try:
        async with asyncio.timeout(2):
            await world.tree.kill(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(between, signal.SIGCONT)


# ── who dies, and who is told ──


@complete
async def test_the_host_is_told_when_the_program_in_between_is_killed(world: World) -> None:
    process = await world.sh("exec sleep 1000")
    os.kill(pid_of_program(world.tree), signal.SIGKILL)
    assert (await process.ended)[:2] == (None, signal.SIGKILL)
    await until(lambda: gone(process.pid))
    with pytest.raises(OSError):  # noqa: PT011 - documented so
        await world.sh("exit 0")
    world.tree.freeze()
    world.tree.thaw()
    world.tree.signal(process.pid, signal.SIGTERM)
    assert await world.tree.kill(1.0) == 0
    await world.tree.close()


@complete
async def test_nothing_in_the_group_survives_the_program_in_between(world: World, counters: Counters) -> None:
    process = await world.beat(counters, BEAT + "if os.fork() == 0: beat(0)\nbeat(1)")
    await counters.all_go_on(2)
    pids = world.tree.pids()
    os.kill(pid_of_program(world.tree), signal.SIGKILL)
    await process.ended
    await world.tree.close()
    try:
        await _until_gone(pids)
    finally:
        _kill_ours(pids, counters.path)


async def _until_gone(pids: list[int]) -> None:
    """Two seconds and more; in truth it takes milliseconds."""
    for _ in range(1000):
        if all(gone(pid) for pid in pids):
            return
        await asyncio.sleep(0.002)
    pytest.fail(f"still there: {[pid for pid in pids if not gone(pid)]}")


def _kill_ours(pids: list[int], mark: str) -> None:
    """Ends what a test started and the code under test left behind; the mark in its arguments says that it is ours."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


HOST = """
import asyncio, os, sys
from pathlib import Path
from tests.process.test_trees import FAMILY, Counters, world_of
async def main():
    path, tree, how, folder = sys.argv[1:]
    world, counters = world_of(tree, Path(folder)), Counters(Path(path))
    await world.tree.start()
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n" + FAMILY
    await world.beat(counters, script, "daemon")
    if how == "frozen":
        while not all(counters[slot] for slot in range(3)):
            await asyncio.sleep(0.01)
        world.tree.freeze()
        await asyncio.sleep(0.05)
    print(*world.tree.pids(), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["running", "frozen"])
async def test_nothing_is_left_when_the_host_is_killed(tree: str, how: str, counters: Counters, tmp_path: Path) -> None:
    argv = [PYTHON, "-c", HOST, counters.path, tree, how, str(tmp_path)]
    host = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found: set[int] = set()
    try:
        await until(lambda: all(counters[slot] for slot in range(3)))
        assert host.stdout is not None
        await asyncio.to_thread(host.stdout.readline)
        found = {p.pid for p in psutil.process_iter() if _is_beat(p.pid, counters.path)} - {host.pid}
        assert len(found) == 3
        leaders = [pid for pid in found if os.getsid(pid) == pid]  # the daemon's session has lost its leader
        assert len(leaders) == 1
        group = [pid for pid in found if os.getpgid(pid) == leaders[0]]
        assert len(group) == 2
        host.kill()
        assert host.wait() == -signal.SIGKILL
        # Without the small program only the group of what was started is ended; the daemon is known to be left.
        await _until_gone(group if tree == "plain" else list(found))
    finally:
        host.kill()
        host.wait()
        if host.stdout is not None:
            host.stdout.close()
        _kill_ours(list(found), counters.path)


def _is_beat(pid: int, mark: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2:-1] == [mark.encode()]
    except OSError:
        return False


async def test_children_that_the_host_started_otherwise_are_not_reaped(world: World) -> None:
    mine = subprocess.Popen(["/bin/sh", "-c", "exit 9"])
    os.waitid(os.P_PID, mine.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it has ended, and nobody has asked
    assert (await (await world.sh("exit 3")).ended).code == 3
    orphan = await world.sh("(sleep 0.01; exit 8) & exit 0")
    assert (await orphan.ended).code == 0
    await world.tree.kill(5.0)
    assert mine.wait() == 9


@complete
async def test_orphans_are_adopted_and_reaped(world: World) -> None:
    """What the function forgets becomes no zombie, whether its parent lives or not."""
    process = await world.python(
        "import os\nfor _ in range(5):\n    if os.fork() == 0:\n        os.fork(); os._exit(0)\nos._exit(0)"
    )
    await process.ended
    await until(lambda: world.tree.pids() == [])
    assert psutil.STATUS_ZOMBIE not in {p.status() for p in psutil.Process().children()}


# In a pid namespace, where the numbers can be chosen: 60 bystanders with three digits, a tree whose ids have four.
CROWD = """
import asyncio, os, subprocess, sys
from sandbox.process.init_tree import InitTree
from sandbox.process.launcher import Program
assert os.getpid() < 50, "not in a pid namespace of its own"
def next_pid(number):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(number - 1))
next_pid(400)
bystanders = [subprocess.Popen(["sleep", "100"]) for _ in range(60)]
next_pid(1000)
FORKS = "import os, time\\nfor _ in range(3600):\\n    if os.fork() == 0: os._exit(0)\\nos.write(1, b'x')\\ntime.sleep(100)"
async def main():
    tree = InitTree()
    await tree.start()
    null, (read, write) = os.open(os.devnull, os.O_RDWR), os.pipe()
    argv = [sys.executable, "-S", "-c", FORKS]
    await tree.spawn(Program(argv[0], argv, {}, "/", [null, write, null]), lambda ended: None)
    assert await asyncio.to_thread(os.read, read, 1) == b"x"
    assert len(tree.pids()) == 3601
    tree.freeze()
    await tree.kill(10)
    await tree.close()
asyncio.run(main())
states = {process.pid: open(f"/proc/{process.pid}/stat").read().split()[2] for process in bystanders}
print([pid for pid, state in states.items() if state in "TZ"])
"""


def test_a_tree_of_thousands_is_frozen_and_killed_and_no_bystander() -> None:
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("unshare --pid does not work here")
    argv = [*apart, PYTHON, "-c", CROWD]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_a_program_that_is_still_open_for_writing_is_waited_for(world: World, tree: str) -> None:
    """A copy that was made a moment ago can be held open by a process that was forked meanwhile, until it has called exec."""
    if tree == "plain":
        pytest.skip("the plain tree reports it")
    program = world.folder / "program"
    shutil.copy("/bin/true", program)
    holder = open(program, "ab")  # noqa: ASYNC230, SIM115 (closed by the loop)
    asyncio.get_running_loop().call_later(0.02, holder.close)
    assert (await (await world.start(f"{world.seen}/program")).ended).code == 0
