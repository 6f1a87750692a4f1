"""Tier `process` with the small program: init/init.c as the parent of everything that an environment starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
import socket
import subprocess
from collections.abc import Callable, Sequence
from functools import partial

from sandbox.process.init_client import SPAWN, SWEEP, Answer, InitClient, pack
from sandbox.process.launcher import INIT_PROGRAM, Ended, LoopbackTree, Program
from sandbox.process.memory import descendants

FREEZE_WAIT_MS = 10_000  # it gives way to whatever the host asks next, so a long chase delays nobody
ANSWER_WAIT = 1.0  # seconds beyond the wait that the program was given
_STEPS = {2: "its descriptors", 3: "its resource limits", 4: "its working directory"}


class InitTree(LoopbackTree):
    """See `launcher.Tree`."""

    def __init__(self, joins: Sequence[int] = ()) -> None:
        self._joins = list(joins)  # of control groups: see cgroup.Group
        self._program: subprocess.Popen[bytes] | None = None
        self._client: InitClient | None = None
        self._ended: dict[int, Callable[[Ended], None]] = {}  # by process id, as the program counts
        self._sweeps = 0
        self._sweeping: int | None = None  # the number of a freeze that the program is still completing
        self._strays = 0  # processes that the last freeze found outside the groups we know

    async def start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._program = subprocess.Popen(
                [str(INIT_PROGRAM), str(theirs.fileno()), *map(str, self._joins)],
                pass_fds=[theirs.fileno(), *self._joins],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._client = InitClient(ours, ready=self._is_ready, exited=self._exited, gone=self._has_gone)

    @property
    def alive(self) -> bool:
        return self._client is not None and self._client.alive

    async def spawn(self, program: Program, ended: Callable[[Ended], None]) -> int:
        spec = pack(program)
        try:
            answer = await self._post(SPAWN, fds=[spec, *program.fds], then=partial(self._born, ended))
        finally:
            os.close(spec)
        if answer.error:
            step = _STEPS.get(answer.value)
            text = os.strerror(answer.error)
            raise OSError(answer.error, f"{text} ({step})" if step else text, program.file)
        return self._outside(answer.value)

    def fd_in_child(self, position: int, fd: int) -> int:
        return position

    def signal(self, pid: int, signal: int) -> None:
        # Straight from here, not through the program: a microsecond instead of a switch. The program reaps, so between its
        # waitpid and our reading of EXITED the number could in theory be used again; that takes a whole turn of pid_max.
        if pid in self._running():
            try:
                os.killpg(pid, signal)
            except ProcessLookupError:
                pass

    def freeze(self) -> None:
        # Nobody waits for it, so all of it is the program's work: a signal to another processor costs 50 µs in a VM.
        self._wake_program()
        self._sweeps += 1
        self._sweeping = self._sweeps
        self._post(SWEEP, signals.SIGSTOP, FREEZE_WAIT_MS, then=partial(self._swept, self._sweeps))

    def _swept(self, number: int, answer: Answer) -> None:
        if number == self._sweeping:
            self._sweeping = None
        self._strays = answer.value

    def thaw(self) -> None:
        if self._strays or self._sweeping is not None:
            assert self._client is not None
            self._client.tell(SWEEP, signals.SIGCONT)
            self._sweeping = None
        else:
            for pid in self._running():
                self.signal(pid, signals.SIGCONT)

    async def kill(self, wait: float) -> int:
        if not self.alive:
            return 0
        self._wake_program()
        try:
            async with asyncio.timeout(wait + ANSWER_WAIT):
                await self._post(SWEEP, signals.SIGKILL, round(wait * 1000))
        except ConnectionError:
            return 0
        except TimeoutError:
            self._end_program()
        return len(self.pids())

    def pids(self) -> list[int]:
        return descendants(self._program.pid) if self._program is not None else []

    async def close(self) -> None:
        if self.alive:
            await self.kill(2.0)
            self._hang_up()
        if self._program is not None:
            try:
                self._program.wait(1.0)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
            self._program = None

    # ── what differs when the program is pid 1 of a namespace ──

    def _wake_program(self) -> None:
        """A function may have stopped the program, which is its parent; this costs nothing if it has not."""
        if self._program is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._program.pid, signals.SIGCONT)

    def _end_program(self) -> None:
        """It does not answer: something holds it up."""
        if self._program is not None:
            self._program.kill()
        self._hang_up()

    def _is_ready(self, said: Answer) -> None:
        """Nobody waits for it: what is posted before is read then."""

    def _outside(self, pid: int) -> int:
        """The process id, as this host counts, of one that the program started."""
        return pid

    def _running(self) -> list[int]:
        """Those of all that it started and that have not ended."""
        return list(self._ended)

    # ── the socket ──

    def _post(
        self, op: int, a: int = 0, b: int = 0, fds: list[int] | None = None, then: Callable[[Answer], None] | None = None
    ) -> asyncio.Future[Answer]:
        assert self._client is not None
        return self._client.post(op, a, b, fds or (), then)

    def _born(self, ended: Callable[[Ended], None], answer: Answer) -> None:
        if not answer.error:
            self._ended[answer.value] = ended

    def _exited(self, pid: int, status: int, peak: int) -> None:
        ended = self._ended.pop(pid, None)
        if ended is not None:
            self._strays = max(1, self._strays)  # what it leaves in its group is now in no group that we know
            ended(Ended.from_status(status, peak))

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.hang_up()

    def _has_gone(self) -> None:
        for pid in self._running():
            self.signal(pid, signals.SIGKILL)  # the program's own death takes only those that it had started itself
        self._all_ended()

    def _all_ended(self) -> None:
        ended, self._ended = self._ended, {}
        for callback in ended.values():
            callback(Ended(None, signals.SIGKILL))
