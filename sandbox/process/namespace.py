"""Tier `namespace`: bubblewrap makes the namespaces, and init/init.c is pid 1 in them.

A host that runs as root starts all of it as an unprivileged user: a namespace that real root makes keeps root's rights to
/proc/sys, and the limit on the number of processes does not hold there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pwd
import shutil
import signal as signals
import socket
import stat
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from sandbox.core.errors import Unsupported
from sandbox.core.limits import API_PORT
from sandbox.process.init_client import NETWORK, SOCKET, Answer, InitClient, process_of
from sandbox.process.init_tree import InitTree
from sandbox.process.launcher import BACKLOG, ENDED, INIT_PROGRAM, Ended, Program, is_real_root
from sandbox.process.memory import descendants
from sandbox.process.nat import Nat
from sandbox.process.room import Room, arguments

START_WAIT: Final = 10.0  # seconds: what takes milliseconds has then gone wrong for good
_END_WAIT: Final = 2.0  # seconds
_WORDS: Final = 4096  # bytes of what bubblewrap says that are looked at: the last
_UNPRIVILEGED: Final = "nobody"


class NamespaceTree(InitTree):
    """See `launcher.Tree`. Complete by construction: the kernel stops and ends everyone in a pid namespace at once."""

    def __init__(self, room: Room, joins: Sequence[int] = ()) -> None:
        super().__init__(joins)
        self._room = room
        self._ready: asyncio.Future[None]
        self._pidfd = -1  # of pid 1
        self._init = 0  # its process id, as this host counts
        self._here: dict[int, int] = {}  # by a process id in there: the one that this host knows it by
        self._nat: Nat | None = None
        self.filtered = False

    async def start(self) -> None:
        """Raises Unsupported with what bubblewrap said, NoNatError if there is no way out."""
        bwrap = find_bwrap()
        if bwrap is None:
            raise Unsupported("tier namespace: bwrap is not here: install bubblewrap (Debian: apt-get install bubblewrap)")
        self._ready = asyncio.get_running_loop().create_future()
        with contextlib.ExitStack() as stack:
            program = os.open(INIT_PROGRAM, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, program)
            errors = os.memfd_create("errors", os.MFD_CLOEXEC)
            stack.callback(os.close, errors)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    self._program = self._popen(bwrap, program, theirs.fileno(), errors)
                except BaseException:
                    ours.close()
                    raise
            self._client = InitClient(ours, ready=self._is_ready, exited=self._exited, gone=self._has_gone)
            try:
                await self._until_ready(errors)
                if self._room.network.out == "nat":
                    await self._lead_out()
            except BaseException:
                await self.close()
                raise

    def _popen(self, bwrap: str, program: int, end: int, errors: int) -> subprocess.Popen[bytes]:
        staged = is_real_root()
        # Through a descriptor: nothing of ours has to be mounted, and it works where an image has no programs at all.
        words = [bwrap, *arguments(self._room, staged=staged), "--", f"/proc/self/fd/{program}", str(end)]
        words += map(str, self._joins)
        return subprocess.Popen(
            [*_stage(self._room), *words] if staged else words,
            pass_fds=[end, program, *self._joins],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={},
            cwd="/",
            start_new_session=True,
        )

    async def _until_ready(self, errors: int) -> None:
        try:
            async with asyncio.timeout(START_WAIT):
                await self._ready
        except ConnectionError:
            size = os.fstat(errors).st_size
            text = os.pread(errors, _WORDS, max(0, size - _WORDS)).decode("utf-8", "replace").strip()
            raise Unsupported(f"tier namespace: {remedy(text or 'bwrap ended without a word')}") from None
        except TimeoutError:
            raise Unsupported(f"tier namespace: no environment came to be within {START_WAIT:.0f} s") from None

    async def spawn(self, program: Program, ended: Callable[[Ended], None]) -> int:
        if is_real_root():
            user = _unprivileged()
            for fd in program.fds:  # else /dev/stderr, which opens the pipe anew, would not be theirs to write to
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.fchown(fd, user.pw_uid, user.pw_gid)
        return await super().spawn(program, ended)

    # ── the network ──

    async def _lead_out(self) -> None:
        network = await self._descriptor(NETWORK)
        self._nat = Nat()
        try:
            await self._nat.start(network)
        finally:
            os.close(network)

    async def _descriptor(self, op: int, a: int = 0, b: int = 0) -> int:
        """Asks for one. Raises OSError."""
        asked = self._post(op, a, b)
        try:
            answer = await asked
        except asyncio.CancelledError:
            if not asked.cancelled() and asked.exception() is None and asked.result().fd >= 0:
                os.close(asked.result().fd)  # it came in the very turn in which nobody wanted it any more
            raise
        if answer.error:
            raise OSError(answer.error, os.strerror(answer.error))
        return answer.fd

    async def listen(self, port: int = 0) -> socket.socket:
        return await self._socket(BACKLOG, port or (API_PORT if self._room.network.own else 0))

    async def dial(self, protocol: Callable[[], asyncio.Protocol], port: int) -> object:
        made = await self._socket(0, 0)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(made, ("127.0.0.1", port))
            return await loop.create_connection(protocol, sock=made)
        except BaseException:
            made.close()
            raise

    async def _socket(self, backlog: int, port: int) -> socket.socket:
        made = socket.socket(fileno=await self._descriptor(SOCKET, backlog, port))
        made.setblocking(False)
        return made

    # ── ending ──

    def pids(self) -> list[int]:
        return descendants(self._init) if self._init else []

    async def close(self) -> None:
        """SIGKILL to pid 1; its end is that of everyone, and bubblewrap's follows."""
        self._end_program()
        if self._nat is not None:
            self._nat.close()
        program, self._program = self._program, None
        if program is not None:
            await _wait_for(program)
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd, self._init = -1, 0

    def _end_program(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signals.pidfd_send_signal(self._pidfd, signals.SIGKILL)
        self._hang_up()  # if it has not come so far it sees that, and leaves: see room.arguments

    # ── what differs from tier `process` ──

    def _wake_program(self) -> None:
        """Nobody inside can stop pid 1."""

    def _is_ready(self, said: Answer) -> None:
        self._pidfd, self.filtered = said.fd, bool(said.value)
        self._init = process_of(self._pidfd)
        if not self._ready.done() and said.error:
            self._ready.set_exception(OSError(said.error, os.strerror(said.error)))
        elif not self._ready.done():
            self._ready.set_result(None)

    def _born(self, ended: Callable[[Ended], None], answer: Answer) -> None:
        if answer.fd >= 0:
            self._here[answer.value] = process_of(answer.fd)
            os.close(answer.fd)
        super()._born(ended, answer)

    def _outside(self, pid: int) -> int:
        return self._here.get(pid) or ENDED

    def _running(self) -> list[int]:
        return [here for pid in self._ended if (here := self._here.get(pid, 0))]

    def _exited(self, pid: int, status: int, peak: int) -> None:
        super()._exited(pid, status, peak)
        self._here.pop(pid, None)

    def _has_gone(self) -> None:
        if not self._ready.done():
            self._ready.set_exception(ConnectionError())
            self._ready.exception()
        self._all_ended()


def find_bwrap() -> str | None:
    """The system's own first: AppArmor profiles go by its path."""
    return shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin") or shutil.which("bwrap")


@functools.cache
def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise Unsupported(f"tier namespace: root needs a user {_UNPRIVILEGED!r} to start environments as") from None


def _stage(room: Room) -> list[str]:
    """What stands before bwrap where this host is root."""
    user = _unprivileged()
    sources = [source for source, _ in room.sources()]
    start = [str(INIT_PROGRAM), "stage", str(user.pw_uid), str(user.pw_gid), room.disk or "-"]
    return [*start, str(len(sources)), *sources]


async def _wait_for(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(program.pid)
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(_END_WAIT):
            await ended.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signals.SIGKILL)  # both of its processes
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    program.wait()


def remedy(said: str) -> str:
    """What bubblewrap or the kernel refused, and what to do about it."""
    for sign, advice in _REMEDIES:
        if sign in said:
            return f"{said.splitlines()[-1]}: {advice}"
    return said.splitlines()[-1]


_APPARMOR: Final = (
    "AppArmor keeps users from making namespaces (Ubuntu 23.10 and newer): "
    "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give /usr/bin/bwrap a profile with `userns,`"
)
_REMEDIES: Final = (
    ("setting up uid map: Permission denied", _APPARMOR),
    ("RTM_NEWADDR", _APPARMOR),
    ("namespaces exceeded", "user namespaces are switched off: sysctl user.max_user_namespaces must not be 0"),
    ("No space left on device", "user namespaces are switched off: sysctl user.max_user_namespaces must not be 0"),
    ("Creating new namespace failed", "a container's seccomp profile forbids it: docker run --security-opt seccomp=unconfined"),
    ("No permissions to create", "users may not make namespaces here: sysctl kernel.unprivileged_userns_clone=1"),
    ("Operation not permitted", "a container's seccomp profile forbids it: docker run --security-opt seccomp=unconfined"),
    ("Unknown option", "this bubblewrap is too old: 0.8 is needed"),
)
