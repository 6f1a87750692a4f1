"""Which tier is chosen, what is said where one is missing, the way out of a network, and the kernel's limits."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.core.errors import Unsupported
from sandbox.core.limits import MIB
from sandbox.process import disk, namespace, nat
from sandbox.process.cgroup import Group, groups, remove_groups
from sandbox.process.isolation import Isolation, choose, probe_namespace
from sandbox.process.namespace import NamespaceTree, remedy
from sandbox.process.room import NETWORKS, Room, write_etc

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a script that stands for another program: program(name, text)."""

    def make(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    return make


async def needs_namespaces() -> None:
    probe = await probe_namespace()
    if not probe.works:
        pytest.skip(f"tier namespace: {probe.why_not}")


# ── choosing ──


async def test_the_namespace_tier_is_chosen_where_it_works() -> None:
    await needs_namespaces()
    chosen = await choose("auto", "none")
    assert (chosen.tier, chosen.network, chosen.notes) == ("namespace", NETWORKS["none"], ())
    assert chosen == await choose("namespace", "none")


async def test_tier_process_is_had_for_the_asking_and_nothing_is_missing_then() -> None:
    chosen = await choose("process")
    assert (chosen.tier, chosen.network, chosen.notes) == ("process", NETWORKS["host"], ())


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: setting up uid map: Permission denied", "apparmor_restrict_unprivileged_userns=0"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor_restrict_unprivileged_userns=0"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "seccomp=unconfined"),
        ("bwrap: No permissions to create a new namespace, likely because …", "unprivileged_userns_clone=1"),
        ("bwrap: … max_*_namespaces exceeded (ENOSPC)", "user.max_user_namespaces"),
        ("bwrap: Unknown option --disable-userns", "0.8 is needed"),
        ("bwrap: something new", "something new"),
    ],
)
async def test_what_bubblewrap_says_comes_with_what_to_do(
    program: Program, monkeypatch: pytest.MonkeyPatch, said: str, advice: str
) -> None:
    bwrap = program("bwrap", f"echo '{said}' >&2; exit 1")
    bwrap.parent.chmod(0o755)
    monkeypatch.setattr(namespace, "find_bwrap", lambda: str(bwrap))
    monkeypatch.setattr(namespace, "is_real_root", lambda: False)  # else nobody would have to be able to read the script
    chosen = await choose("auto")
    assert chosen.tier == "process"
    [note] = chosen.notes
    assert said in note
    assert advice in note
    with pytest.raises(Unsupported, match="--isolation namespace") as caught:
        await choose("namespace")
    assert advice in str(caught.value)


@pytest.mark.parametrize("text", ["exit 0", "kill -9 $$", "exec sleep 1000"])
async def test_a_bubblewrap_that_does_nothing(program: Program, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(namespace, "find_bwrap", lambda: str(program("bwrap", text)))
    monkeypatch.setattr(namespace, "is_real_root", lambda: False)
    monkeypatch.setattr(namespace, "START_WAIT", 0.3)
    assert (await choose("auto")).tier == "process"


async def test_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "find_bwrap", lambda: None)
    with pytest.raises(Unsupported, match="install bubblewrap"):
        await choose("namespace")


async def test_without_a_disk_for_tmp_memory_is_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await needs_namespaces()
    if not groups().works:
        pytest.skip(f"memory limit: {groups().why_not}")
    assert (await choose("auto", "none")).exact_memory
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # none is kept there
    monkeypatch.setattr(disk, "shutil", SimpleNamespace(which=lambda *_, **__: None))  # mkfs.ext4 is not here
    chosen = await choose("auto", "none")
    assert (chosen.tier, chosen.exact_memory) == ("namespace", False)


def test_every_advice_is_one_line() -> None:
    for sign, _ in namespace._REMEDIES:
        assert "\n" not in remedy(f"first\nbwrap: {sign}")


# ── the way out ──


async def test_without_a_way_out_one_line_says_so(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    await needs_namespaces()
    slirp = program("slirp4netns", "echo 'open(/dev/net/tun): no' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{slirp.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(nat.os, "access", lambda *_: True)
    chosen = await choose("auto", "auto")
    assert (chosen.tier, chosen.network) == ("namespace", NETWORKS["none"])
    [note] = chosen.notes
    assert note.startswith("functions cannot call out: slirp4netns: open(/dev/net/tun): no")
    assert "--network host" in note
    with pytest.raises(Unsupported, match="--network nat: slirp4netns"):
        await choose("auto", "nat")


async def with_nat() -> Isolation:
    await needs_namespaces()
    try:
        return await choose("namespace", "nat")
    except Unsupported as error:
        pytest.skip(f"network: {error}")


def own_address() -> str:
    """An address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("network: this machine has no address but its loopback")
        return str(probe.getsockname()[0])


def room(folder: Path, network: str) -> Room:
    for name in ("task", "opt"):
        (folder / name).mkdir()
    write_etc(folder / "etc", NETWORKS[network])
    return Room(f"{folder}/task", f"{folder}/opt", f"{folder}/etc", network=NETWORKS[network])


async def connects(tree: NamespaceTree, host: str, port: int) -> bool:
    """Whether a socket of the environment's network gets through."""
    made = await tree._socket(0, 0)
    try:
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_connect(made, (host, port))
    except OSError:
        return False
    else:
        return True
    finally:
        made.close()


@pytest.mark.catalogue("EN-078")
async def test_nat_leads_out_but_not_to_this_machines_loopback(tmp_path: Path) -> None:
    await with_nat()
    address = own_address()
    tree = NamespaceTree(room(tmp_path, "nat"))
    await tree.start()
    try:
        with socket.create_server((address, 0)) as outside, socket.create_server(("127.0.0.1", 0)) as within:
            assert await connects(tree, address, outside.getsockname()[1])
            assert not await connects(tree, "127.0.0.1", within.getsockname()[1])
            assert not await connects(tree, "10.0.2.2", within.getsockname()[1])
        assert (tmp_path / "etc" / "resolv.conf").read_text() == "nameserver 10.0.2.3\n"
    finally:
        await tree.close()


@pytest.mark.catalogue("EN-078")
async def test_without_a_network_nothing_is_reached(tmp_path: Path) -> None:
    await needs_namespaces()
    address = own_address()
    tree = NamespaceTree(room(tmp_path, "none"))
    await tree.start()
    try:
        with socket.create_server((address, 0)) as outside:
            assert not await connects(tree, address, outside.getsockname()[1])
    finally:
        await tree.close()


async def test_with_the_hosts_network_everything_is_its_own(tmp_path: Path) -> None:
    await needs_namespaces()
    tree = NamespaceTree(room(tmp_path, "host"))
    await tree.start()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, await tree.listen() as listener:
            assert await connects(tree, "127.0.0.1", server.getsockname()[1])
            socket.create_connection(listener.getsockname()).close()
    finally:
        await tree.close()


async def test_the_way_out_ends_with_a_host_that_is_killed(tmp_path: Path) -> None:
    await with_nat()
    room(tmp_path, "nat")
    script = f"""
import asyncio
from sandbox.process.namespace import NamespaceTree
from sandbox.process.room import NETWORKS, Room
async def main():
    tree = NamespaceTree(Room("{tmp_path}/task", "{tmp_path}/opt", "{tmp_path}/etc", network=NETWORKS["nat"]))
    await tree.start()
    print(tree._nat._program.pid, flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    victim = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert victim.stdout is not None
    slirp = os.pidfd_open(int(await asyncio.to_thread(victim.stdout.readline)))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(slirp, ended.set)
    try:
        victim.kill()
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(slirp)
        os.close(slirp)
        victim.wait()
        victim.stdout.close()


# ── what is around ──


@pytest.mark.parametrize("network", NETWORKS)
def test_an_etc_of_its_own(tmp_path: Path, network: str) -> None:
    write_etc(tmp_path / "etc", NETWORKS[network])
    hosts = (tmp_path / "etc" / "hosts").read_text().split()
    assert hosts == ["127.0.0.1", "localhost", "sandbox", "sandbox.localdomain", "sandbox.local.domain"]
    known = network == "nat" or (network == "host" and Path("/etc/resolv.conf").exists())
    assert (tmp_path / "etc" / "resolv.conf").exists() == known
    assert not (tmp_path / "etc" / "shadow").exists()
    for file in (tmp_path / "etc").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o004, file


# ── control groups ──


def needs_groups() -> None:
    if not groups().works:
        pytest.skip(f"memory limit: {groups().why_not}")


@pytest.fixture
def group_of() -> Iterator[Callable[..., Group]]:
    """Makes groups, and sees to it that nothing is left of them."""
    if not groups().works:
        pytest.skip(f"memory limit: {groups().why_not}")
    made: list[Group] = []

    def make(memory: int, processes: int | None = None) -> Group:
        made.append(Group(groups(), f"lambda-sandbox-test-{uuid.uuid4().hex}", memory, processes))
        return made[-1]

    yield make
    for group in made:
        group.close()
        assert not any(folder.exists() for folder in group._folders())


def started_in(group: Group, script: str) -> subprocess.Popen[bytes]:
    """Python in that group; it waits for a line before it begins."""
    joins = "".join(f"echo 0 >&{fd}; " for fd in group.joins())
    words = ["bash", "-c", f'{joins}exec "$0" -c "$1"', sys.executable, f"input()\n{script}"]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=group.joins())


@pytest.mark.catalogue("EN-076")
def test_a_group_ends_who_takes_more_than_its_memory_and_tells(group_of: Callable[..., Group]) -> None:
    group = group_of(64 * MIB)
    told = group.watch()
    try:
        eater = started_in(group, "x = bytearray(100 << 20)")
        assert group.kills() == 0
        eater.communicate(b"\n", timeout=30)
        assert eater.returncode == -signal.SIGKILL
        assert group.kills() == 1
        if told >= 0:
            assert os.eventfd_read(told) >= 1
        other = started_in(group, "import os; os.kill(os.getpid(), 9)")
        other.communicate(b"\n", timeout=30)
        assert group.kills() == 1, "a SIGKILL of somebody else's is not the kernel's"
    finally:
        if told >= 0:
            os.close(told)


@pytest.mark.catalogue("EN-075")
def test_a_group_has_so_many_processes_and_no_more(group_of: Callable[..., Group]) -> None:
    if groups().version == 1 and groups().processes is None:
        pytest.skip("no pids controller here")
    forks = """
import os
made = []
try:
    while len(made) < 100:
        pid = os.fork()
        if pid == 0:
            os.read(0, 1)
            os._exit(0)
        made.append(pid)
except BlockingIOError:
    print(len(made), flush=True)
for pid in made:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""
    forker = started_in(group_of(64 * MIB, 5), forks)
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(b"\n")
    forker.stdin.flush()
    assert forker.stdout.readline() == b"4\n"
    forker.communicate(timeout=30)


def test_groups_that_a_killed_host_left_are_removed(group_of: Callable[..., Group]) -> None:
    group = group_of(64 * MIB, 5)
    assert all(folder.exists() for folder in group._folders())
    remove_groups(group._folders()[0].name)
    assert not any(folder.exists() for folder in group._folders())


@pytest.mark.parametrize("size", [512 * MIB, 10240 * MIB])
def test_an_image_takes_no_room_and_has_all_that_was_asked_for(tmp_path: Path, size: int) -> None:
    try:
        disk.make_image(tmp_path / "image", size)
    except Unsupported as error:
        pytest.skip(str(error))
    assert (tmp_path / "image").stat().st_blocks * 512 < 16 * MIB
    # struct ext4_super_block: free blocks at 12, the block size's logarithm at 24.
    with (tmp_path / "image").open("rb") as file:
        file.seek(1024)
        block = file.read(1024)
    free, log = int.from_bytes(block[12:16], "little"), int.from_bytes(block[24:28], "little")
    assert size <= free * (1024 << log) <= size * 1.03 + 8 * MIB
