"""What starts and holds the processes of one environment.

`NamespaceTree` (Linux, tier `namespace`) gives them namespaces of their own: files, network, process ids. `InitTree` (Linux)
has a small program of ours between the host and the processes: complete freeze and kill, and nothing is left when the host
dies. `PlainTree` (any POSIX) starts them directly.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

INIT_PROGRAM = Path(__file__).parent / "init" / "sandbox-init"
BACKLOG = 256
ENDED = -1  # the id of a process that was gone before anybody could look


class Program(NamedTuple):
    """What to start. fds become the child's 0, 1, 2, …; limits are (resource, value) for setrlimit, soft and hard."""

    file: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    fds: Sequence[int]
    limits: Sequence[tuple[int, int]] = ()


class Ended(NamedTuple):
    """How a process ended: an exit code, or a signal's number; and the most memory it ever had resident.

    peak is in bytes, 0 if it cannot be known.
    """

    code: int | None
    signal: int | None
    peak: int = 0

    @classmethod
    def from_status(cls, status: int, peak: int) -> Ended:
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status), peak)
        return cls(os.WEXITSTATUS(status), None, peak)


class Tree(Protocol):
    """The processes of one environment. Process ids are as this host counts them, and name process groups too: each process
    starts a session of its own."""

    async def start(self) -> None:
        """Makes the tree ready. Raises OSError, SandboxError."""

    async def listen(self, port: int = 0) -> socket.socket:
        """A listening socket at the loopback that the processes see; port 0: where the Runtime API is. Raises OSError."""

    async def dial(self, protocol: Callable[[], asyncio.Protocol], port: int) -> object:
        """Connects to a port of that loopback. Raises OSError."""

    @property
    def alive(self) -> bool:
        """False if what holds the processes has itself been killed: then a new tree is needed."""

    async def spawn(self, program: Program, ended: Callable[[Ended], None]) -> int:
        """Starts a process; `ended` is called once. Returns its id, ENDED if it has none any more.

        Raises OSError (errno as from exec).
        """

    def fd_in_child(self, position: int, fd: int) -> int:
        """The number that `program.fds[position]`, which is `fd` here, has in the child."""

    def signal(self, pid: int, signal: int) -> None:
        """Signals the process group of `pid`; one that has ended is ignored."""

    def freeze(self) -> None:
        """SIGSTOP to every process."""

    def thaw(self) -> None:
        """SIGCONT to every process."""

    async def kill(self, wait: float) -> int:
        """SIGKILL to every process; returns when all are gone, or after `wait` seconds, with how many then are left."""

    def pids(self) -> list[int]:
        """Every process of the tree, what it forked included."""

    async def close(self) -> None:
        """Kills what is left and gives everything back."""


class LoopbackTree:
    """For trees whose processes share this host's network."""

    async def listen(self, port: int = 0) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)

    async def dial(self, protocol: Callable[[], asyncio.Protocol], port: int) -> object:
        return await asyncio.get_running_loop().create_connection(protocol, "127.0.0.1", port)


class Guard(NamedTuple):
    """Whether leftovers are killed when the host itself is killed."""

    complete: bool
    why_not: str | None


def guard() -> Guard:
    """Probes for the small program; never guesses from versions."""
    if not sys.platform.startswith("linux"):
        return Guard(False, f"{sys.platform} has no child subreaper")
    if not INIT_PROGRAM.exists():
        return Guard(False, "sandbox-init was not built: install a C compiler (Debian: gcc), then install lambda-sandbox again")
    if not os.access(INIT_PROGRAM, os.X_OK):
        return Guard(False, f"{INIT_PROGRAM} is not executable")
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        return Guard(False, "this kernel does not list children in /proc (CONFIG_PROC_CHILDREN)")
    return Guard(True, None)


@functools.cache
def is_real_root() -> bool:
    """Not only root of a user namespace, as in a rootless container: that one is some unprivileged user in truth."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]


def make_tree(joins: Sequence[int] = ()) -> Tree:
    """The best tree of tier `process` that works here. joins: control groups, for InitTree."""
    if guard().complete:
        from sandbox.process.init_tree import InitTree

        return InitTree(joins)
    from sandbox.process.plain_tree import PlainTree

    return PlainTree()
