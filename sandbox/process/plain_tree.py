"""Processes without the small program: where there is no C compiler, and on macOS.

What is weaker here: a child that leaves its process group is found by a walk, not by construction; and when the host is
SIGKILLed, only the process groups of what it started are killed (by a shell that waits at a pipe for it).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal as signals
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sandbox.process.launcher import Ended, LoopbackTree, Program
from sandbox.process.memory import descendants

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
# The kernel adds up its counters of resident pages per processor, in batches: two readings of one peak differ by so much.
_MAXRSS_ERROR = 3 * 32 * (os.cpu_count() or 1) * os.sysconf("SC_PAGESIZE") // _MAXRSS_UNIT
_GUARD = 'read -r _; kill -KILL "-$1"'  # dash knows no "--" here


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    ended: Callable[[Ended], None]
    guard: subprocess.Popen[bytes]
    floor: int


class PlainTree(LoopbackTree):
    """See `launcher.Tree`."""

    def __init__(self) -> None:
        self._processes: dict[int, _Child] = {}
        self._pidfds: dict[int, int] = {}
        self._strays: set[int] = set()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    @property
    def alive(self) -> bool:
        return True

    async def spawn(self, program: Program, ended: Callable[[Ended], None]) -> int:
        process = self._popen(program)
        # A spawned child's ru_maxrss begins at our own of that moment: up to there it says nothing about the child.
        floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _MAXRSS_ERROR
        try:
            _set_limits(process.pid, program.limits)
            guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", str(process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={},
            )
        except BaseException:
            process.kill()
            process.wait()
            raise
        self._processes[process.pid] = _Child(process, ended, guard, floor)
        if hasattr(os, "pidfd_open"):
            fd = self._pidfds[process.pid] = os.pidfd_open(process.pid)
            self._loop.add_reader(fd, self._has_ended, process.pid)
        else:
            threading.Thread(target=self._wait, args=(process,), daemon=True).start()
        return process.pid

    def _popen(self, program: Program) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(program.argv),
            executable=program.file,
            env=dict(program.env),
            cwd=program.cwd,
            stdin=program.fds[0],
            stdout=program.fds[1],
            stderr=program.fds[2],
            pass_fds=program.fds[3:],
            start_new_session=True,
        )

    def fd_in_child(self, position: int, fd: int) -> int:
        return fd

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """In a thread of its own, where there is no pidfd (macOS)."""
        _, status, used = os.wait4(process.pid, 0)
        self._loop.call_soon_threadsafe(self._reaped, process.pid, status, used.ru_maxrss)

    def _has_ended(self, pid: int) -> None:
        fd = self._pidfds.pop(pid)
        self._loop.remove_reader(fd)
        os.close(fd)
        _, status, used = os.wait4(pid, 0)
        self._reaped(pid, status, used.ru_maxrss)

    def _reaped(self, pid: int, status: int, maxrss: int) -> None:
        child = self._processes.pop(pid, None)
        if child is None:
            return
        child.process.returncode = os.waitstatus_to_exitcode(status)
        _end_guard(child.guard)
        child.ended(Ended.from_status(status, maxrss * _MAXRSS_UNIT if maxrss > child.floor else 0))

    def signal(self, pid: int, signal: int) -> None:
        if pid in self._processes:
            try:
                os.killpg(pid, signal)
            except (ProcessLookupError, PermissionError):  # macOS says the latter of a zombie's group
                pass

    def _signal_all(self, signal: int) -> None:
        for pid in list(self._processes):
            self.signal(pid, signal)
        for pid in {*self.pids(), *self._strays}:
            try:
                os.kill(pid, signal)
            except (ProcessLookupError, PermissionError):
                self._strays.discard(pid)

    def freeze(self) -> None:
        self._signal_all(signals.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signals.SIGCONT)

    async def kill(self, wait: float) -> int:
        self._strays |= set(self.pids()) - set(self._processes)
        try:
            async with asyncio.timeout(wait):
                while self._processes or self._strays:
                    self._signal_all(signals.SIGKILL)
                    await asyncio.sleep(0.002)
        except TimeoutError:
            pass
        return len(self._processes) + len(self._strays)

    def pids(self) -> list[int]:
        own = list(self._processes)
        return own + [pid for parent in own for pid in descendants(parent)]

    async def close(self) -> None:
        await self.kill(2.0)
        for pid in list(self._pidfds):
            fd = self._pidfds.pop(pid)
            self._loop.remove_reader(fd)
            os.close(fd)
        for child in self._processes.values():
            _end_guard(child.guard)
        self._processes.clear()


def _set_limits(pid: int, limits: Sequence[tuple[int, int]]) -> None:
    """Not before exec: a preexec_fn would fork the whole host. macOS has no way to do it from outside."""
    if hasattr(resource, "prlimit"):
        for kind, value in limits:
            try:
                resource.prlimit(pid, kind, (value, value))
            except ProcessLookupError:
                return


def _end_guard(guard: subprocess.Popen[bytes]) -> None:
    guard.kill()
    guard.wait()
    if guard.stdin is not None:
        guard.stdin.close()
