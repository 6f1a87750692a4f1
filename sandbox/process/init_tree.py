"""The host's side of init/init.c: one such program per environment, spoken to over one socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
import socket
import struct
import subprocess
from collections.abc import Callable

from sandbox.process.launcher import INIT_PROGRAM, Ended, Program
from sandbox.process.memory import descendants

_MESSAGE = struct.Struct("=IIii")
_SPAWN, _SWEEP = 1, 2
_READY, _ANSWER, _EXITED = 1, 2, 3
_FREEZE_WAIT_MS = 10_000  # it gives way to whatever the host asks next, so a long chase delays nobody
_ANSWER_WAIT = 1.0  # seconds beyond the wait that the program was given
_STEPS = {2: "its descriptors", 3: "its resource limits", 4: "its working directory"}


class InitTree:
    """See `launcher.Tree`."""

    def __init__(self) -> None:
        self._program: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._number = 0
        self._answers: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._ended: dict[int, Callable[[Ended], None]] = {}
        self._starting: dict[int, Callable[[Ended], None]] = {}  # by request, until their process ids are known
        self._sweeping: asyncio.Future[tuple[int, int]] | None = None  # a freeze that the program is still completing
        self._strays = 0  # processes that the last freeze found outside the groups we know
        self._unsent: list[tuple[bytes, list[int]]] = []

    async def start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._program = subprocess.Popen(
                [str(INIT_PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
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
        ours.setblocking(False)
        self._socket = ours
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(ours.fileno(), self._readable)

    @property
    def alive(self) -> bool:
        return self._socket is not None

    async def spawn(self, program: Program, ended: Callable[[Ended], None]) -> int:
        spec = os.memfd_create("spec", os.MFD_CLOEXEC)
        try:
            os.write(spec, _pack(program))
            error, value = await self._ask(_SPAWN, fds=[spec, *program.fds], ended=ended)
        finally:
            os.close(spec)
        if error:
            step = _STEPS.get(value)
            text = os.strerror(-error)
            raise OSError(-error, f"{text} ({step})" if step else text, program.file)
        return value

    def fd_in_child(self, position: int, fd: int) -> int:
        return position

    def signal(self, pid: int, signal: int) -> None:
        # Straight from here, not through the program: a microsecond instead of a switch. The program reaps, so between its
        # waitpid and our reading of EXITED the number could in theory be used again; that takes a whole turn of pid_max.
        if pid in self._ended:
            try:
                os.killpg(pid, signal)
            except ProcessLookupError:
                pass

    def freeze(self) -> None:
        # Nobody waits for it, so all of it is the program's work: a signal to another processor costs 50 µs in a VM.
        # The function may have stopped the program, which is its parent; this costs nothing if it has not.
        if self._program is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._program.pid, signals.SIGCONT)
        self._sweeping = self._post(_SWEEP, signals.SIGSTOP, _FREEZE_WAIT_MS)
        self._sweeping.add_done_callback(self._swept)

    def _swept(self, answer: asyncio.Future[tuple[int, int]]) -> None:
        if answer is self._sweeping:
            self._sweeping = None
        if not answer.cancelled() and answer.exception() is None:
            self._strays = answer.result()[1]

    def thaw(self) -> None:
        for pid in self._ended:
            self.signal(pid, signals.SIGCONT)
        if self._strays or self._sweeping is not None:
            self._post(_SWEEP, signals.SIGCONT)
            self._sweeping = None

    async def kill(self, wait: float) -> int:
        if self._socket is None or self._program is None:
            return 0
        self._program.send_signal(signals.SIGCONT)  # a function may have stopped it: it is their parent
        try:
            async with asyncio.timeout(wait + _ANSWER_WAIT):
                await self._ask(_SWEEP, signals.SIGKILL, round(wait * 1000))
        except ConnectionError:
            return 0
        except TimeoutError:
            self._program.kill()
            self._hang_up()
        return len(self.pids())

    def pids(self) -> list[int]:
        return descendants(self._program.pid) if self._program is not None else []

    async def close(self) -> None:
        if self._socket is not None:
            await self.kill(2.0)
            self._hang_up()
        if self._program is not None:
            try:
                self._program.wait(1.0)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
            self._program = None

    # ── the socket ──

    def _post(self, op: int, a: int = 0, b: int = 0, fds: list[int] | None = None) -> asyncio.Future[tuple[int, int]]:
        """Sends one request; its answer comes in the future."""
        self._number = self._number % 0xFFFFFFFF + 1
        answer = self._answers[self._number] = self._loop.create_future()
        if self._socket is None:
            self._answers.pop(self._number).set_exception(ConnectionError("the environment is gone"))
            answer.exception()
            return answer
        self._send(_MESSAGE.pack(self._number, op, a, b), fds or [])
        return answer

    def _send(self, message: bytes, fds: list[int]) -> None:
        assert self._socket is not None
        if not self._unsent:
            try:
                self._send_now(message, fds)
            except BlockingIOError:  # the socket holds some hundred unread requests: keep the order, wait
                self._loop.add_writer(self._socket.fileno(), self._writable)
            except OSError:
                return  # the program is gone; the reader will say so
            else:
                return
        self._unsent.append((message, [os.dup(fd) for fd in fds]))

    def _send_now(self, message: bytes, fds: list[int]) -> None:
        assert self._socket is not None
        if fds:
            socket.send_fds(self._socket, [message], fds)
        else:
            self._socket.send(message)

    def _writable(self) -> None:
        assert self._socket is not None
        while self._unsent:
            message, fds = self._unsent[0]
            try:
                self._send_now(message, fds)
            except BlockingIOError:
                return
            except OSError:
                pass
            del self._unsent[0]
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._socket.fileno())

    async def _ask(
        self,
        op: int,
        a: int = 0,
        b: int = 0,
        fds: list[int] | None = None,
        ended: Callable[[Ended], None] | None = None,
    ) -> tuple[int, int]:
        answer = self._post(op, a, b, fds)
        if ended is not None:
            number = self._number
            self._starting[number] = ended
        return await answer

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(64)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._hang_up()
                return
            number, kind, a, b = _MESSAGE.unpack(data)
            if kind == _ANSWER:
                starting = self._starting.pop(number, None)
                if starting is not None and a == 0:
                    self._ended[b] = starting
                future = self._answers.pop(number, None)
                if future is not None and not future.done():
                    future.set_result((a, b))
            elif kind == _EXITED and (ended := self._ended.pop(a, None)) is not None:
                self._strays = max(1, self._strays)  # what it leaves in its group is now in no group that we know
                ended(Ended.from_status(b, number * 1024))

    def _hang_up(self) -> None:
        """The program is gone, or is told to go: whatever it held is dead."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        if self._unsent:
            self._loop.remove_writer(self._socket.fileno())
            for _, fds in self._unsent:
                for fd in fds:
                    os.close(fd)
            self._unsent.clear()
        self._socket.close()
        self._socket = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the environment is gone"))
                answer.exception()
        self._answers.clear()
        for pid in self._ended:
            self.signal(pid, signals.SIGKILL)  # the program's own death takes only those that it had started itself
        ended, self._ended = self._ended, {}
        for callback in ended.values():
            callback(Ended(None, signals.SIGKILL))


def _pack(program: Program) -> bytes:
    head = struct.pack("=IIII", len(program.argv), len(program.env), len(program.limits), 0)
    limits = b"".join(struct.pack("=IIQQ", resource, 0, value, value) for resource, value in program.limits)
    words = [program.file, program.cwd, *program.argv, *(f"{key}={value}" for key, value in program.env.items())]
    return head + limits + b"".join(os.fsencode(word) + b"\0" for word in words)
