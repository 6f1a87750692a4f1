"""Tier `namespace`: what is inside, what cannot be reached from there, and what is left when it ends or fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import json
import os
import platform
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from sandbox.core.errors import SandboxError, Unsupported
from sandbox.core.limits import FILE_DESCRIPTORS, MIB, PROCESSES
from sandbox.process import namespace
from sandbox.process.launcher import Program
from sandbox.process.namespace import NamespaceTree
from sandbox.process.room import GID, TASK, UID
from tests.process.test_trees import ROOT, World, gone, make_room, needs_namespaces, pid_of_program, python_in, states, until

pytestmark = pytest.mark.usefixtures("_here")

# What the scripts of these tests begin with. refused: the errno's name of what a call raised, None if it raised nothing.
PRELUDE = """
import ctypes, errno, json, os, re, resource, signal, socket, stat, struct, subprocess, sys
def refused(call, *words):
    try:
        result = call(*words)
    except OSError as error:
        return errno.errorcode[error.errno]
    if call is os.open:
        os.close(result)
    return None
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *words):
    ctypes.set_errno(0)
    words = [ctypes.c_void_p(word) if isinstance(word, int) else word for word in words]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def say(what):
    print(json.dumps(what), flush=True)
"""


@pytest.fixture
def _here() -> None:
    needs_namespaces()


def world_in(folder: Path, **fields: object) -> World:
    """Not started yet; fields are those of Room."""
    room = make_room(folder, **fields)
    return World(NamespaceTree(room), Path(room.task), TASK, python_in(room))


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[World]:
    world = world_in(tmp_path / "room")
    await world.tree.start()
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def another(tmp_path: Path) -> AsyncIterator[World]:
    world = world_in(tmp_path / "another")
    await world.tree.start()
    try:
        yield world
    finally:
        await world.close()


async def told(world: World, script: str, *argv: str, limits: tuple[tuple[int, int], ...] = ()) -> object:
    """What a script says, as JSON."""
    process = await world.python(PRELUDE + script, *argv, limits=limits)
    text = await process.said()
    assert (await process.ended)[:2] == (0, None), text
    return json.loads(text)


async def line_of(process: object) -> bytes:
    """The first thing that it prints."""
    return await asyncio.to_thread(os.read, process._output, 4096)  # type: ignore[attr-defined]


# ── who they are ──


async def test_who_they_are_and_what_they_may(inside: World) -> None:
    script = """
import grp, pwd
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
say({
    "users": os.getresuid(), "groups": os.getresgid(), "names": [pwd.getpwuid(os.getuid())[0], grp.getgrgid(os.getgid())[0]],
    "may": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no new privileges": status["NoNewPrivs"], "filter": status["Seccomp"], "terminal": refused(os.open, "/dev/tty", os.O_RDWR),
})
"""
    assert await told(inside, script) == {
        "users": [UID] * 3,
        "groups": [GID] * 3,
        "names": ["sbx_user1051", "sbx_user1051"],
        "may": ["0" * 16] * 5,
        "no new privileges": "1",
        "filter": "2",
        "terminal": "ENXIO",
    }
    assert inside.tree.filtered


async def test_process_ids_are_their_own_and_this_host_knows_them_by_its_own(inside: World) -> None:
    process = await inside.sh("echo $$; sleep 1000 & wait")
    number = int(await line_of(process))
    await until(lambda: len(inside.tree.pids()) == 2)
    seen = re.search(r"NSpid:\s+(.*)", Path(f"/proc/{process.pid}/status").read_text())
    assert seen is not None
    assert [int(word) for word in seen[1].split()][:: len(seen[1].split()) - 1] == [process.pid, number]
    assert process.pid in inside.tree.pids()
    assert process.pid != number
    assert pid_of_program(inside.tree) not in inside.tree.pids()


# ── system calls ──

NUMBERS = {
    "x86_64": {
        "unshare": 272, "setns": 308, "ptrace": 101, "mount": 165, "umount2": 166, "pivot_root": 155, "bpf": 321,
        "keyctl": 250, "add_key": 248, "request_key": 249, "process_vm_readv": 310, "process_vm_writev": 311, "clone": 56,
    },
    "aarch64": {
        "unshare": 97, "setns": 268, "ptrace": 117, "mount": 40, "umount2": 39, "pivot_root": 41, "bpf": 280,
        "keyctl": 219, "add_key": 217, "request_key": 218, "process_vm_readv": 270, "process_vm_writev": 271, "clone": 220,
    },
}.get(platform.machine(), {})  # fmt: skip
# The same number everywhere.
NEW_CALLS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
}
needs_numbers = pytest.mark.skipif(not NUMBERS, reason="no system call numbers of this processor are written down")


@needs_numbers
async def test_what_the_filter_refuses(inside: World) -> None:
    calls = {name: number for name, number in {**NUMBERS, **NEW_CALLS}.items() if name != "clone"}
    script = "say({name: refused(syscall, n, 0, 0, 0, 0, 0) for name, n in json.loads(sys.argv[1]).items()})"
    assert await told(inside, script, json.dumps(calls)) == dict.fromkeys(calls, "EPERM")


@needs_numbers
async def test_no_process_can_look_into_another_of_its_own(inside: World) -> None:
    """Each by its real arguments: a parent at its child, which it may signal."""
    script = """
numbers = json.loads(sys.argv[1])
child = subprocess.Popen(["sleep", "1000"])
room = ctypes.create_string_buffer(64)
vector = struct.pack("=QQ", ctypes.addressof(room), 64)
say({
    "attach": refused(syscall, numbers["ptrace"], 16, child.pid, 0, 0),
    "seize": refused(syscall, numbers["ptrace"], 0x4206, child.pid, 0, 0),
    "trace me": refused(syscall, numbers["ptrace"], 0, 0, 0, 0),
    "read": refused(syscall, numbers["process_vm_readv"], child.pid, vector, 1, vector, 1, 0),
    "write": refused(syscall, numbers["process_vm_writev"], child.pid, vector, 1, vector, 1, 0),
})
child.kill()
"""
    process = await inside.start(
        inside.python_path, "-S", "-c", PRELUDE + script, json.dumps(NUMBERS), env={"PATH": "/usr/bin:/bin"}
    )
    assert json.loads(await process.said()) == dict.fromkeys(["attach", "seize", "trace me", "read", "write"], "EPERM")


@needs_numbers
async def test_no_namespace_can_be_made(inside: World) -> None:
    script = """
SIGCHLD, clone = 17, json.loads(sys.argv[1])["clone"]
kinds = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "network": 0x40000000, "uts": 0x4000000, "ipc": 0x8000000,
         "cgroup": 0x2000000}
def made(call, *words):
    me = os.getpid()
    try:
        if syscall(call, *words) == 0 and os.getpid() != me:
            os._exit(0)
        return None
    except OSError as error:
        return errno.errorcode[error.errno]
def by_clone(flags):
    return made(clone, flags | SIGCHLD, 0, 0, 0, 0)
def by_clone3(flags):
    words = ctypes.create_string_buffer(struct.pack("=11Q", flags, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0))
    return made(435, words, 88)
say({f"{name} by {how.__name__}": how(flags) for name, flags in kinds.items() for how in (by_clone, by_clone3)}
    | {f"user and {name}": by_clone(flags | kinds["user"]) for name, flags in kinds.items()})
"""
    found = await told(inside, script, json.dumps(NUMBERS))
    assert isinstance(found, dict)
    assert set(found.values()) <= {"EPERM", "ENOSPC"}, found  # ENOSPC: no user namespace is allowed here
    assert len(found) == 21


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have no second set of numbers")
async def test_numbers_of_32_bit_and_of_x32_are_no_way_around_the_filter(inside: World) -> None:
    assert await told(inside, "say([refused(syscall, 0x40000000 + n) for n in (39, 272, 521)])") == ["ENOSYS"] * 3
    script = """
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov $20, %eax; int $0x80; ret: getpid, were it allowed
say(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    process = await inside.python(PRELUDE + script)
    said, ended = await process.said(), await process.ended
    assert (said.strip() == str(-errno.ENOSYS).encode()) or ended.signal == signal.SIGSEGV  # a kernel without 32 bits at all


async def test_limits_of_others_are_out_of_reach_and_ones_own_are_not(inside: World) -> None:
    script = """
child = subprocess.Popen(["/bin/sleep", "1000"])
files = resource.RLIMIT_NOFILE
say({
    "of pid 1": refused(resource.prlimit, 1, files, (8, 8)), "of another": refused(resource.prlimit, child.pid, files, (8, 8)),
    "read another's": refused(resource.prlimit, child.pid, files), "read my own": list(resource.getrlimit(files)),
    "set my own": refused(resource.setrlimit, files, (100, 200)), "by prlimit": refused(resource.prlimit, 0, files, (90, 190)),
    "now": list(resource.getrlimit(files)), "back up": refused(resource.setrlimit, files, (100, 1000)) if 0 else None,
    "of the child": list(resource.prlimit(child.pid, files)),
})
child.kill()
"""
    limits = ((resource.RLIMIT_NOFILE, FILE_DESCRIPTORS),)
    found = await told(inside, script, limits=limits)
    assert found == {
        "of pid 1": "EPERM",
        "of another": "EPERM",
        "read another's": None,
        "read my own": [1024, 1024],
        "set my own": None,
        "by prlimit": None,
        "now": [90, 190],
        "back up": None,
        "of the child": [1024, 1024],
    }


async def test_a_limit_that_was_given_cannot_be_raised(inside: World) -> None:
    script = """
say([refused(resource.setrlimit, what, (value, value)) for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
     for value in (1025, resource.RLIM_INFINITY)])
"""
    # CPython raises ValueError for what the kernel refuses with EPERM.
    script = script.replace("refused(resource.setrlimit, what, (value, value))", "raised(what, value)")
    helper = """
def raised(what, value):
    try:
        resource.setrlimit(what, (value, value))
    except (OSError, ValueError):
        return True
    return False
"""
    limits = ((resource.RLIMIT_NOFILE, FILE_DESCRIPTORS), (resource.RLIMIT_NPROC, PROCESSES))
    assert await told(inside, helper + script, limits=limits) == [True] * 4


# ── files ──


_KINDS = "file", "folder", "link", "pipe"


@pytest.mark.catalogue("EN-050", "EN-051")
async def test_nothing_outside_tmp_can_be_written(inside: World) -> None:
    """Every folder near the root, and every mount: a new file is refused; so is opening what is there."""
    script = """
where = []
for folder, folders, files in os.walk("/"):
    depth = folder.count("/") + (folder != "/")
    if folder in ("/proc", "/tmp"):
        folders[:] = []
        continue
    if depth > 3:
        folders[:] = []
    where.append(folder)
where += [line.split()[4] for line in open("/proc/self/mountinfo")]
where = sorted({folder for folder in where if os.path.isdir(folder) and not folder.startswith(("/tmp", "/proc"))})
found = {}
for folder in where:
    for what, call in (("file", lambda p: os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)), ("folder", os.mkdir),
                       ("link", lambda p: os.symlink("x", p)), ("pipe", os.mkfifo)):
        found.setdefault(str(refused(call, folder + "/made-by-a-test")), []).append(f"{what} in {folder}")
opened = []
for folder in ("/etc", "/var/task", "/opt", "/var/runtime", "/bin"):
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and (how := refused(os.open, path, os.O_WRONLY)) not in ("EROFS", "EACCES", "ETXTBSY"):
            opened.append((path, how))
say({"found": {key: value[:20] for key, value in found.items()}, "number": len(where), "where": where[:3], "opened": opened,
     "tmp": refused(os.mkdir, "/tmp/mine"), "mode": oct(os.stat("/tmp").st_mode)})
"""
    (inside.folder / "code").write_text("")
    found = await told(inside, script)
    assert isinstance(found, dict)
    # devpts is a file system that makes nothing: EACCES or EPERM there.
    others = {how: which for how, which in found["found"].items() if how != "EROFS"}
    assert {place for which in others.values() for place in which} <= {f"{what} in /dev/pts" for what in _KINDS}, others
    assert "None" not in others
    assert found["number"] > 20
    assert found["opened"] == []
    assert found["tmp"] is None
    assert found["mode"] == "0o41777"


@pytest.mark.catalogue("EN-050")
@pytest.mark.parametrize(
    "place", ["/", "/usr", "/usr/bin", "/etc", "/var", "/var/task", "/opt", "/var/runtime", "/dev", "/dev/shm", "/var/lang"]
)
async def test_a_write_there_is_erofs(inside: World, place: str) -> None:
    script = "say(refused(os.open, sys.argv[1] + '/new', os.O_CREAT | os.O_WRONLY) if os.path.isdir(sys.argv[1]) else 'EROFS')"
    assert await told(inside, script, place) == "EROFS"


async def test_read_only_files_cannot_be_made_writable_again(inside: World) -> None:
    script = "say([refused(os.chmod, p, 0o777) for p in ('/var/task', '/etc/passwd', '/usr', '/opt')])"
    assert await told(inside, script) == ["EROFS"] * 4
    mounting = ["mount -o remount,rw /", "mount -t tmpfs x /opt", "umount /var/task"]
    for command in mounting:
        assert (await (await inside.sh(f"{command} 2>/dev/null")).ended).code != 0


async def test_nothing_of_the_kernel_can_be_written(inside: World) -> None:
    """All of /proc but the processes: core_pattern above all, for who writes that becomes root."""
    script = """
found, seen = [], 0
for folder, folders, files in os.walk("/proc"):
    if folder == "/proc":
        folders[:] = [name for name in folders if name not in ("self", "thread-self") and not name.isdigit()]
    for name in files:
        seen += folder.startswith("/proc/sys/")
        if refused(os.open, folder + "/" + name, os.O_WRONLY | os.O_NONBLOCK) is None:
            found.append(folder + "/" + name)
say([found, seen > 300])
"""
    assert await told(inside, script) == [[], True]


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user cannot write them anyway")
async def test_a_host_that_is_root_starts_them_as_somebody_else(inside: World) -> None:
    """A namespace that real root makes keeps root's rights to /proc/sys: then every file in it would open for writing."""
    process = await inside.sh("sleep 1000")
    root = pid_of_program(inside.tree)
    for pid in (root, process.pid, psutil.Process(root).ppid()):
        assert 0 not in psutil.Process(pid).uids()
        assert 0 not in psutil.Process(pid).gids()
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"Groups:\s*\n", status)


@pytest.mark.catalogue("EN-051")
async def test_tmp_has_its_size_and_no_more(tmp_path: Path) -> None:
    world = world_in(tmp_path / "room", tmp=3 * MIB)
    await world.tree.start()
    try:
        script = """
file, written = os.open("/tmp/much", os.O_CREAT | os.O_WRONLY), 0
why = None
while why is None and written < 100 << 20:
    try:
        written += os.write(file, b"x" * 4096)
    except OSError as error:
        why = errno.errorcode[error.errno]
os.unlink("/tmp/much")
os.close(file)
again = os.open("/tmp/again", os.O_CREAT | os.O_WRONLY)
say([why, written, os.write(again, b"x" * 4096)])
"""
        assert await told(world, script) == ["ENOSPC", 3 * MIB, 4096]
    finally:
        await world.close()


async def test_programs_in_tmp_can_be_run(inside: World) -> None:
    """Lambda's /tmp takes programs, too."""
    script = "cp /bin/true /tmp/program && /tmp/program && printf '#!/bin/sh\\nexit 5\\n' > /tmp/x && chmod +x /tmp/x && /tmp/x"
    assert (await (await inside.sh(script)).ended).code == 5


@pytest.mark.catalogue("EN-052")
async def test_tmp_is_its_own_and_survives_kill(inside: World, another: World) -> None:
    assert (await (await inside.sh("echo mine > /tmp/mark; ln -s /tmp/mark /tmp/link")).ended).code == 0
    assert (await (await another.sh("test ! -e /tmp/mark")).ended).code == 0
    assert not Path("/tmp/mark").exists()
    await inside.tree.kill(5.0)
    assert (await (await inside.sh("test $(cat /tmp/link) = mine")).ended).code == 0


# ── nothing of the host ──


async def test_the_root_has_what_it_should_and_nothing_of_the_host(inside: World) -> None:
    places = "/", "/var", "/etc", "/var/task", "/opt", "/dev/shm", "/tmp"
    found = await told(inside, "say([sorted(os.listdir(place)) for place in sys.argv[1:]])", *places)
    assert isinstance(found, list)
    root, var, etc, task, opt, memory, tmp = found
    system = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu"}
    assert set(root) - system == {"dev", "etc", "opt", "proc", "tmp", "usr", "var"}
    assert set(var) <= {"lang", "rapid", "runtime", "task"}
    assert {"shadow", "gshadow", "sudoers", "machine-id", "hostname", "fstab", "ssh", "environment"}.isdisjoint(etc)
    assert (task, opt, memory, tmp) == ([], [], [], [])
    nothing = ["/root", "/home", "/sys", "/run", "/boot", "/mnt", "/srv", "/media", str(ROOT), str(inside.folder)]
    script = "say([place for place in sys.argv[1:] if refused(os.stat, place) is None])"
    assert await told(inside, script, *nothing) == []


async def test_the_users_of_the_host_are_not_known(inside: World) -> None:
    script = "import pwd, grp\nsay([[user.pw_name for user in pwd.getpwall()], [group.gr_name for group in grp.getgrall()]])"
    names = await told(inside, script)
    assert names == [["root", "sbx_user1051", "nobody"]] * 2


async def test_variables_of_the_host_are_nowhere(inside: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not in their environment, and not in that of bwrap or of pid 1, which were started by a host that had them."""
    monkeypatch.setenv("SECRET_OF_THE_HOST", "open-sesame")
    world = world_in(tmp_path / "later")
    await world.tree.start()
    try:
        script = """
found = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            found[f"{pid}/{name}"] = open(f"/proc/{pid}/{name}", "rb").read().decode()
        except OSError as error:
            found[f"{pid}/{name}"] = errno.errorcode[error.errno]
say({"own": dict(os.environ), "others": found})
"""
        found = await told(world, script)
        assert isinstance(found, dict)
        assert set(found["own"]) <= {"LC_CTYPE"}  # Python's own
        assert "open-sesame" not in json.dumps(found)
        assert "SECRET" not in json.dumps(found)
        assert found["others"]["1/environ"] in ("EACCES", "EPERM")
    finally:
        await world.close()
    root = pid_of_program(inside.tree)
    with contextlib.suppress(PermissionError):  # a plain user may not look at it
        assert Path(f"/proc/{root}/environ").read_bytes() in (b"", b"PWD=/\0")


async def test_processes_of_the_host_are_not_there(inside: World, another: World) -> None:
    other = await another.sh("sleep 1000")
    script = "say([sorted(int(p) for p in os.listdir('/proc') if p.isdigit()) == [1, os.getpid()], os.getppid()])"
    assert await told(inside, script) == [True, 1]
    script = "say([refused(os.kill, int(pid), 0) for pid in sys.argv[1:]])"
    root = pid_of_program(another.tree)
    assert await told(inside, script, str(os.getpid()), str(other.pid), str(root)) == ["ESRCH"] * 3


async def test_nobody_can_look_into_pid_1(inside: World) -> None:
    script = """
found = {}
for name in ("environ", "mem", "fd", "fdinfo", "root", "cwd", "exe", "maps", "smaps", "auxv", "map_files", "syscall", "stack",
             "pagemap", "clear_refs", "personality", "io", "ns/user", "ns/mnt", "ns/net", "patch_state"):
    path = "/proc/1/" + name
    how = [refused(os.open, path, mode | os.O_NONBLOCK) for mode in (os.O_RDONLY, os.O_WRONLY)]
    how.append(refused(os.listdir, path))
    found[name] = None if None in how else "refused"
    if found[name] is None and name in ("auxv", "smaps", "maps", "syscall", "io"):  # they open, and then refuse, or are empty
        found[name] = refused(lambda: open(path, "rb").read() and None)
        if found[name] is None:
            found[name] = "refused" if not open(path, "rb").read() else None
pidfd = os.pidfd_open(1)
found["a descriptor of it"] = refused(syscall, 438, pidfd, 3, 0)
say({name: how for name, how in found.items() if how is None})
"""
    assert await told(inside, script) == {}


async def test_what_they_start_inherits_no_descriptor_of_ours(inside: World) -> None:
    """A daemon neither: what it is given are 0, 1 and 2, and these are the pipe and /dev/null that we gave."""
    script = """
def open_ones():
    return sorted([int(fd), os.readlink("/proc/self/fd/" + fd)] for fd in os.listdir("/proc/self/fd")
                  if os.path.islink("/proc/self/fd/" + fd))
mine = open_ones()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(read)
        os.write(write, json.dumps(open_ones()).encode())
    os._exit(0)
os.close(write)
say([mine, json.loads(os.read(read, 65536)), write])
"""
    found = await told(inside, script)
    assert isinstance(found, list)
    mine, daemons, own = found
    assert [fd for fd, _ in mine] == [0, 1, 2]
    assert mine[0][1] == "/dev/null"
    assert [fd for fd, _ in daemons if fd != own] == [0, 1, 2]


# ── the network ──


async def test_each_has_port_9001_and_the_host_has_not(inside: World, another: World) -> None:
    with contextlib.closing(await inside.tree.listen()) as one, contextlib.closing(await another.tree.listen()) as two:
        assert one.getsockname() == two.getsockname() == ("127.0.0.1", 9001)
        with pytest.raises(OSError, match="in use"):
            await inside.tree.listen()
        script = """
api = socket.create_connection(("127.0.0.1", 9001))
api.sendall(sys.argv[1].encode())
say(api.recv(100).decode())
"""

        async def serve(listener: socket.socket) -> None:
            loop = asyncio.get_running_loop()
            connection, _ = await loop.sock_accept(listener)
            with connection:
                connection.setblocking(False)
                await loop.sock_sendall(connection, b"answer to " + await loop.sock_recv(connection, 100))

        answers = await asyncio.gather(told(inside, script, "one"), told(another, script, "two"), serve(one), serve(two))
        assert answers[:2] == ["answer to one", "answer to two"]


async def test_the_host_dials_into_each_of_two_on_one_port(inside: World, another: World) -> None:
    script = """
server = socket.create_server(("127.0.0.1", 8080))
say("ready")
for _ in range(2):
    connection, _ = server.accept()
    connection.sendall(sys.argv[1].encode())
    connection.close()
"""
    worlds = {"one": inside, "two": another}
    for name, world in worlds.items():
        assert b"ready" in await line_of(await world.python(PRELUDE + script, name))
    for _ in range(2):
        for name, world in worlds.items():
            assert await _dialled(world, 8080) == name.encode()
    with pytest.raises(ConnectionRefusedError):
        await _dialled(inside, 8081)


async def _dialled(world: World, port: int) -> bytes:
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            ended.set_result(data)

    transport, _ = await world.tree.dial(Reader, port)  # type: ignore[misc]
    try:
        return await ended
    finally:
        transport.close()


async def test_ports_and_sockets_of_the_host_and_of_another_are_out_of_reach(inside: World, another: World) -> None:
    abstract = f"\0lambda-sandbox-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.socket(socket.AF_UNIX) as named:
        named.bind(abstract)
        named.listen()
        port = ours.getsockname()[1]
        serve = "server = socket.create_server(('127.0.0.1', 8081))\nsay('ready')\nsignal.pause()"
        await line_of(await another.python(PRELUDE + serve))
        with contextlib.closing(await another.tree.listen()):
            script = """
def connect(address, family=socket.AF_INET):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
say([refused(connect, ("127.0.0.1", int(sys.argv[1]))), refused(connect, ("127.0.0.1", 8081)),
     refused(connect, ("127.0.0.1", 9001)), refused(connect, "\\0" + sys.argv[2], socket.AF_UNIX)])
"""
            assert await told(inside, script, str(port), abstract[1:]) == ["ECONNREFUSED"] * 4
            away = "say(refused(socket.create_connection, ('10.255.255.1', 80), 5))"
            assert await told(inside, away) == "ENETUNREACH"


async def test_sandbox_localdomain_is_the_environment_itself(inside: World) -> None:
    names = "sandbox.localdomain", "sandbox", "localhost", "sandbox.local.domain"
    assert await told(inside, "say([socket.gethostbyname(name) for name in sys.argv[1:]])", *names) == ["127.0.0.1"] * 4


# ── signals ──


@pytest.mark.catalogue("LC-109")
async def test_signals_end_only_their_own(inside: World, another: World) -> None:
    """To pid 1: no effect. To everyone: everyone in here but the sender and pid 1."""
    neighbour = await another.sh("sleep 1000")
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        own = await inside.sh("sleep 1000")
        script = """
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
os.kill(-1, signal.SIGKILL)
say("still here")
"""
        assert await told(inside, script) == "still here"
        assert (await own.ended).signal == signal.SIGKILL
        assert inside.tree.alive
        assert (await (await inside.sh("exit 3")).ended).code == 3
        assert not gone(neighbour.pid)
        assert not neighbour.ended.done()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_stop_to_everyone_stops_neither_pid_1_nor_a_neighbour(inside: World, another: World) -> None:
    neighbour = await another.python("while 1: pass")
    own = await inside.sh("sleep 1000")
    stopper = await inside.python("import os, signal\nos.kill(1, signal.SIGSTOP)\nos.kill(-1, signal.SIGSTOP)\nos.kill(0, 19)")
    await until(lambda: states(stopper.pid) == states(own.pid) == {"T"})
    assert (await (await inside.sh("exit 3")).ended).code == 3
    assert "T" not in states(neighbour.pid)
    assert await inside.tree.kill(5.0) == 0


# ── how many ──


@pytest.mark.catalogue("EN-074")
async def test_1024_descriptors(inside: World) -> None:
    script = """
opened = []
try:
    while len(opened) < 3000:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    why = errno.errorcode[error.errno]
highest = max(opened)
os.closerange(3, 3000)
say([len(opened), highest, why])
"""
    limits = ((resource.RLIMIT_NOFILE, FILE_DESCRIPTORS),)
    assert await told(inside, script, limits=limits) == [FILE_DESCRIPTORS - 3, FILE_DESCRIPTORS - 1, "EMFILE"]


# Bounded, whatever becomes of the limit. Waits for a line before it lets them go, so that two can be full at once.
FORKS = """
made, why = 0, None
read, write = os.pipe()
while made < 2500:
    try:
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    except OSError as error:
        why = errno.errorcode[error.errno]
        break
    made += 1
say([made, why])
signal.pause()
"""
THREADS = """
import _thread
made, why = 0, None
lock = _thread.allocate_lock()
lock.acquire()
resource.setrlimit(resource.RLIMIT_STACK, (256 << 10, 256 << 10))
_thread.stack_size(64 << 10)
while made < 2500:
    try:
        _thread.start_new_thread(lock.acquire, ())
    except RuntimeError:
        why = "EAGAIN"
        break
    made += 1
say([made, why])
signal.pause()
"""


def modern() -> bool:
    """Since Linux 5.14 the limit counts per user namespace; before, per user of the machine."""
    return tuple(int(word) for word in re.findall(r"\d+", platform.release())[:2]) >= (5, 14)


@pytest.mark.skipif(not modern(), reason="this kernel counts the processes of a user, not of an environment")
@pytest.mark.timeout(180)
@pytest.mark.catalogue("EN-075")
@pytest.mark.parametrize("what", ["forks", "threads"])
async def test_1024_processes_and_threads_for_each_of_two_at_once(inside: World, another: World, what: str) -> None:
    """Everybody in there is counted: pid 1, which is ours, the one that forks, and its children."""
    limits = ((resource.RLIMIT_NPROC, PROCESSES),)
    script = PRELUDE + (FORKS if what == "forks" else THREADS)
    for world in (inside, another):
        process = await world.python(script, limits=limits)
        assert json.loads(await line_of(process)) == [PROCESSES - 2, "EAGAIN"]
    for world in (inside, another):  # both are full
        pids = world.tree.pids()
        tasks = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)
        assert tasks == PROCESSES - 1
        assert await world.tree.kill(10.0) == 0
        assert (await (await world.sh("exit 6")).ended).code == 6


# ── what is left ──


class Traces:
    """What an environment leaves on this machine as long as it lives, as far as it is one of ours: `mark` is in every path."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def processes(self) -> list[str]:
        """Those with the mark in their arguments: bwrap names its folders."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if self._mark.encode() in words and int(pid) != os.getpid():
                    found.append(f"{pid}: {words!r}")
        return found

    def mounts(self) -> list[str]:
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self._mark in line]

    def loops(self) -> list[str]:
        found = []
        for file in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if self._mark in file.read_text():
                    found.append(str(file))
        return found

    def all(self) -> list[str]:
        return self.processes() + self.mounts() + self.loops()


def descriptors() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def leaked(before: set[str]) -> set[str]:
    """What is open now and was not; closed here, so that a test that has found a leak is no leak itself."""
    found = {fd for fd in descriptors() if fd not in before}
    for fd in found:
        with contextlib.suppress(OSError):
            os.close(int(fd.partition(":")[0]))
    return found


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_close_leaves_nothing(tmp_path: Path) -> None:
    traces, before = Traces(str(tmp_path)), descriptors()
    for _ in range(5):
        world = world_in(tmp_path / f"room{_}")
        await world.tree.start()
        await world.sh("setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000")
        await until(lambda world=world: len(world.tree.pids()) >= 4)
        pids = [*world.tree.pids(), pid_of_program(world.tree)]
        await world.close()
        assert [pid for pid in pids if not gone(pid)] == []
    assert traces.all() == []
    assert children() == set()
    assert leaked(before) == set()


async def test_one_that_is_frozen_or_stands_still_can_be_closed(inside: World) -> None:
    process = await inside.sh("sleep 1000")
    inside.tree.freeze()
    os.kill(pid_of_program(inside.tree), signal.SIGSTOP)
    await inside.tree.close()
    assert gone(process.pid)
    assert (await process.ended).signal == signal.SIGKILL


async def test_the_end_of_bwrap_ends_everyone_and_is_told(inside: World) -> None:
    process = await inside.sh("trap '' TERM HUP; setsid sleep 1000 & sleep 1000")
    await until(lambda: len(inside.tree.pids()) == 3)
    pids = inside.tree.pids()
    os.kill(psutil.Process(pid_of_program(inside.tree)).ppid(), signal.SIGKILL)
    assert (await process.ended).signal == signal.SIGKILL
    await until(lambda: all(gone(pid) for pid in pids))
    assert not inside.tree.alive
    with pytest.raises(ConnectionError):
        await inside.sh("exit 0")


FAKES = {
    "bwrap is not there": (None, "install bubblewrap"),
    "it fails without a word": ("exit 1", "without a word"),
    "it says why": ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "unprivileged_userns_clone"),
    "AppArmor": ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "apparmor_restrict_unprivileged_userns"),
    "an old one": ("echo 'bwrap: Unknown option --disable-userns' >&2; exit 1", "0.8 is needed"),
    "it says much": ("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done >&2; exit 1", "tier namespace: "),
    "it says no UTF-8": ("printf '\\377\\376' >&2; exit 1", "\N{REPLACEMENT CHARACTER}"),
    "it is killed": ("kill -9 $$", "without a word"),
    "it never comes to an end": ("sleep 1000", "no environment came to be"),
}


@pytest.mark.parametrize("what", FAKES)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, why = FAKES[what]
    fake = None
    if script is not None:
        place = tmp_path / "fake"
        place.write_text(f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)
        (tmp_path / "fake").chmod(0o755)
        fake = str(place)
    monkeypatch.setattr(namespace, "find_bwrap", lambda: fake)
    monkeypatch.setattr(namespace, "START_WAIT", 0.3 if "never" in what else 10.0)
    if fake is not None and os.geteuid() == 0:  # pytest's folders are root's alone
        monkeypatch.setattr(namespace, "_stage", lambda room: [])
    before = descriptors()
    tree = NamespaceTree(make_room(tmp_path / "room"))
    with pytest.raises(Unsupported, match=re.escape(why)) as raised:
        await tree.start()
    assert "\n" not in str(raised.value)
    assert not tree.alive
    assert tree.pids() == []
    await tree.close()
    assert children() == set()
    assert leaked(before) == set()
    assert Traces(str(tmp_path)).all() == []


BAD_ROOMS: dict[str, dict[str, object]] = {
    "code that is not there": {"task": "/no/such/folder"},
    "layers that are not there": {"opt": "/no/such/folder"},
    "an interpreter that is not there": {"language": ("/no/such/folder", "/var/lang")},
    "a runtime that is not there": {"runtime": "/no/such/folder"},
    "a disk that is none": {"disk": "/etc/passwd"},
    "a disk that is not there": {"disk": "/no/such/image"},
}


@pytest.mark.parametrize("what", BAD_ROOMS)
async def test_a_room_that_cannot_be_made_is_an_error_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    if "disk" in BAD_ROOMS[what] and os.geteuid() != 0:
        pytest.skip("only root has disks")
    before = descriptors()
    tree = NamespaceTree(make_room(tmp_path / "room")._replace(**BAD_ROOMS[what]))
    with pytest.raises(SandboxError) as raised:
        await tree.start()
    for value in BAD_ROOMS[what].values():
        assert str(value[0] if isinstance(value, tuple) else value) in str(raised.value)
    assert not tree.alive
    assert children() == set()
    assert leaked(before) == set()
    assert Traces(str(tmp_path)).all() == []


async def test_a_program_that_was_never_built_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "INIT_PROGRAM", tmp_path / "not-built")
    before = descriptors()
    tree = NamespaceTree(make_room(tmp_path / "room"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises((OSError, SandboxError)):
            await tree.start()
        gc.collect()
    assert warned == []
    assert leaked(before) == set()
    assert children() == set()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 40, 100, 300, 1000])
async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, turns: int) -> None:
    """After so many turns of the event loop; the last ones come after it is done."""
    before = descriptors()
    tree = NamespaceTree(make_room(tmp_path / "room"))
    starting = asyncio.ensure_future(tree.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await tree.close()
    assert children() == set()
    assert leaked(before) == set()
    await until(lambda: not Traces(str(tmp_path)).all())  # what bwrap had just forked ends a moment after it


async def test_a_start_that_is_cancelled_as_it_succeeds_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY, with a descriptor, has been read; whoever waited for it is gone before it could take it."""
    before = descriptors()
    tree = NamespaceTree(make_room(tmp_path / "room"))
    ready = tree._is_ready

    def cancelling(said: object) -> None:
        ready(said)  # type: ignore[arg-type]
        starting.cancel()

    monkeypatch.setattr(tree, "_is_ready", cancelling)
    starting = asyncio.ensure_future(tree.start())
    with pytest.raises(asyncio.CancelledError):
        await starting
    await tree.close()
    assert children() == set()
    assert leaked(before) == set()


async def test_a_listener_that_is_cancelled_as_it_comes_is_closed(inside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client, before = inside.tree._client, descriptors()
    answered = client._answered

    def cancelling(number: int, answer: object) -> None:
        answered(number, answer)
        listening.cancel()

    monkeypatch.setattr(client, "_answered", cancelling)
    listening = asyncio.ensure_future(inside.tree.listen())
    with pytest.raises(asyncio.CancelledError):
        await listening
    monkeypatch.undo()
    assert leaked(before) == set()
    (await inside.tree.listen()).close()  # and the port is free again


async def test_a_spawn_that_is_cancelled_leaves_a_process_that_can_be_killed(inside: World) -> None:
    for turns in range(6):
        null = os.open(os.devnull, os.O_RDWR)
        program = Program("/bin/sleep", ["sleep", "1000"], {}, "/", [null, null, null])
        starting = asyncio.ensure_future(inside.tree.spawn(program, lambda ended: None))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        os.close(null)
    assert (await (await inside.sh("exit 3")).ended).code == 3
    assert await inside.tree.kill(5.0) == 0
    assert inside.tree.pids() == []
    assert inside.tree._here == {}


async def test_twenty_are_made_at_once_and_end_at_once(tmp_path: Path) -> None:
    worlds = [world_in(tmp_path / f"room{number}") for number in range(20)]
    await asyncio.gather(*(world.tree.start() for world in worlds))
    processes = await asyncio.gather(*(world.sh("sleep 1000") for world in worlds))
    await asyncio.gather(*(world.close() for world in worlds))
    assert all(gone(process.pid) for process in processes)
    assert Traces(str(tmp_path)).all() == []


# ── the host is killed ──

# The runtime and an extension double-fork a daemon each, and none of them hears a signal. `phase` says when to be ready.
VICTIM = """
import asyncio, os, sys, tempfile
from pathlib import Path
folder, phase = Path(sys.argv[1]), sys.argv[2]
tempfile.tempdir = str(folder / "tmp")
os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
from sandbox import Host, Limits
from sandbox.core.states import Phase
from sandbox.host import folders
folders._PREFIX += folder.name + "-"  # control groups are called as folders are
WANTED = {"init": Phase.INIT_RUNTIME, "invoke": Phase.INVOKE, "frozen": Phase.FROZEN, "shutdown": Phase.SHUTDOWN}[phase]
async def main():
    long = Limits(init=1000, shutdown_external=1000, shutdown_internal=1000)
    async with Host(isolation="namespace", limits=long) as host:
        code = folder / "code"
        function = await host.deploy(
            code, runtime="python", handler="app.handler", layers=(str(folder / "layer"),), timeout=900,
            environment={"MARK": folder.name, "PHASE": phase})
        work = asyncio.ensure_future(function.invoke())
        while not function.environments:
            await asyncio.sleep(0.002)
        environment = function.environments[0]
        tree = environment._processes._tree
        if phase == "shutdown":
            await work
            closing = asyncio.ensure_future(function.shutdown())
        while environment.machine.phase is not WANTED or len(tree.pids()) < (4 if phase != "init" else 2):
            await asyncio.sleep(0.002)
        print(*tree.pids(), tree._init, flush=True)
        await asyncio.sleep(1000)
asyncio.run(main())
"""
DAEMON = """
import os, signal, subprocess, sys, time
for number in (1, 2, 3, 13, 15):
    signal.signal(number, signal.SIG_IGN)
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
daemon()
"""
VICTIMS_APP = (
    DAEMON
    + """
if os.environ["PHASE"] == "init":
    time.sleep(1000)
def handler(event, context):
    if os.environ["PHASE"] == "invoke":
        time.sleep(1000)
"""
)
VICTIMS_EXTENSION = (
    DAEMON
    + """
import http.client, json
def call(method, what, body=None, **more):
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    api.request(method, "/2020-01-01/extension/" + what, body, {name.replace("_", "-"): value for name, value in more.items()})
    reply = api.getresponse()
    reply.read()
    return reply.headers
name = os.path.basename(sys.argv[0])
registered = call("POST", "register", '{"events": ["INVOKE", "SHUTDOWN"]}', lambda_extension_name=name)
identifier = registered["lambda-extension-identifier"]
call("GET", "event/next", lambda_extension_identifier=identifier)
call("GET", "event/next", lambda_extension_identifier=identifier)
time.sleep(1000)
"""
)


def marked(mark: str) -> dict[int, str]:
    """Every process on this machine with the mark in its arguments or its environment."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if mark.encode() in Path(f"/proc/{pid}/{name}").read_bytes():
                    found[int(pid)] = name
    return found


class Victim:
    """A host of its own that is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("tmp", "code", "layer/extensions"):
            (folder / name).mkdir(parents=True)
        (folder / "code" / "app.py").write_text(VICTIMS_APP)
        extension = folder / "layer" / "extensions" / "deaf"
        extension.write_text(f"#!{python_in(make_room(folder / 'room'))} -S\n" + VICTIMS_EXTENSION)
        extension.chmod(0o755)

    async def die(self, phase: str) -> float:
        """Kills it in that phase; returns after how many seconds nothing of it was left. Fails if something stays."""
        argv = [sys.executable, "-c", VICTIM, str(self.folder), phase]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        host = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, env=env)
        assert host.stdout is not None
        try:
            said = (await asyncio.to_thread(host.stdout.readline)).split()
            assert len(said) >= 3, f"the host itself failed in {phase}"
            family = [psutil.Process(host.pid), *psutil.Process(host.pid).children(recursive=True)]
            assert len(marked(self.folder.name)) >= 3
            begun = time.monotonic()
            host.kill()
            host.wait()
            for _ in range(5000):
                left = [process for process in family if process.is_running() and not gone(process.pid)]
                if not left and not marked(self.folder.name):
                    return time.monotonic() - begun
                await asyncio.sleep(0.001)
            pytest.fail(f"{phase}: still there: {left} {marked(self.folder.name)}")
        finally:
            host.kill()
            host.wait()
            host.stdout.close()
            for pid in marked(self.folder.name):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def groups(self) -> list[Path]:
        """Control groups that it has left."""
        return [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if self.folder.name in Path(folder).name]

    def remains(self) -> list[object]:
        traces = Traces(self.folder.name)
        return [*traces.mounts(), *traces.loops()]


PHASES = ("init", "invoke", "frozen", "shutdown")
_numbers = itertools.count()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    """No host comes after the last one to clear up its control groups: that is done here."""
    made = Victim(tmp_path / f"victim{os.getpid()}x{next(_numbers)}v")
    yield made
    for group in made.groups():
        group.rmdir()


@pytest.mark.catalogue("LC-109")
@pytest.mark.parametrize("phase", PHASES)
async def test_no_process_outlives_a_host_that_is_killed(phase: str, victim: Victim) -> None:
    await victim.die(phase)
    await until(lambda: not victim.remains())  # the kernel puts its mounts and its loop devices away a moment later


async def test_what_is_left_in_folders_is_removed_by_the_next_host(victim: Victim) -> None:
    """A folder in /tmp, and an empty control group where the kernel holds the memory limit."""
    await victim.die("frozen")
    left = list((victim.folder / "tmp").glob("lambda-sandbox-*"))
    assert len(left) == 1
    await victim.die("frozen")
    assert left[0] not in list((victim.folder / "tmp").glob("lambda-sandbox-*"))
    assert len({group.name for group in victim.groups()}) <= 1, "the next host leaves the control groups of those before it"


@pytest.mark.soak
@pytest.mark.timeout(580)
@pytest.mark.parametrize("phase", PHASES)
async def test_fifty_hosts_are_killed(phase: str, victim: Victim) -> None:
    """Times four phases: 200 in all."""
    took = []
    for _ in range(50):
        took.append(await victim.die(phase))
        await until(lambda: not victim.remains())
    groups = victim.groups()
    took.sort()
    print(
        f"\nhost killed in {phase}: 0 survivors in {len(took)}, gone after {took[25] * 1000:.0f} ms (median),"
        f" {took[-1] * 1000:.0f} ms (most); {len(groups)} control groups were left"
    )


# ── the kind of file that /tmp is for a host that is root ──


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has loop devices")
@pytest.mark.catalogue("EN-051")
async def test_a_disk_of_a_given_size_is_mounted_and_given_back(tmp_path: Path) -> None:
    from sandbox.process.disk import make_image

    traces = Traces(str(tmp_path))
    for number in range(3):
        image = tmp_path / f"tmp{number}.ext4"
        make_image(image, 16 * MIB)
        world = world_in(tmp_path / f"room{number}", disk=str(image))
        await world.tree.start()
        try:
            assert len(traces.loops()) == 1
            script = """
file, written, why = os.open("/tmp/much", os.O_CREAT | os.O_WRONLY), 0, None
while why is None and written < 100 << 20:
    try:
        written += os.write(file, b"x" * 65536)
    except OSError as error:
        why = errno.errorcode[error.errno]
say([why, written >> 20, oct(os.stat("/tmp").st_mode), os.stat("/tmp").st_uid == os.getuid()])
"""
            found = await told(world, script)
            assert isinstance(found, list)
            assert found[0] == "ENOSPC"
            assert 16 <= found[1] <= 20
            assert stat.S_IMODE(int(found[2], 8)) & 0o700 == 0o700
            assert found[3]
        finally:
            await world.close()
        await until(lambda: not traces.loops())
    assert traces.all() == []


async def test_sockets_are_of_families_that_a_network_namespace_holds(inside: World) -> None:
    said = await inside.python(
        PRELUDE
        + """
kinds = {1: socket.SOCK_STREAM, 2: socket.SOCK_STREAM, 10: socket.SOCK_STREAM, 16: socket.SOCK_RAW, 40: socket.SOCK_STREAM}
say({family: refused(socket.socket, family, kind) for family, kind in kinds.items()} | {"ring": refused(syscall, 425, 8, 0)})
"""
    )
    answers = json.loads(await said.said())
    del answers["10"]  # not every machine has IPv6
    assert answers == {"1": None, "2": None, "16": None, "40": "EAFNOSUPPORT", "ring": "ENOSYS"}
