"""The host's end of the socket to init/init.c: requests, their answers, and how processes ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sandbox.process.launcher import Program

SPAWN: Final = 1
SWEEP: Final = 2
SOCKET: Final = 3
NETWORK: Final = 4
_READY, _ANSWER, _EXITED = 1, 2, 3
_MESSAGE = struct.Struct("=IIii")
GONE: Final = "the environment is gone"


class Answer(NamedTuple):
    """error: 0 or an errno. fd: a descriptor that came with it, -1 if none; whoever asked for it closes it."""

    error: int
    value: int
    fd: int


class InitClient:
    """One such program. ready: called with what it said of itself; exited: with a process id, its wait status and the most
    memory it had in bytes; gone: when the program has ended."""

    def __init__(
        self,
        end: socket.socket,
        *,
        ready: Callable[[Answer], None],
        exited: Callable[[int, int, int], None],
        gone: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._socket: socket.socket | None = end
        self._ready, self._exited, self._gone = ready, exited, gone
        self._number = 0
        self._answers: dict[int, tuple[asyncio.Future[Answer], Callable[[Answer], None] | None]] = {}
        self._unsent: list[tuple[bytes, list[int]]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)

    @property
    def alive(self) -> bool:
        return self._socket is not None

    def post(
        self, op: int, a: int = 0, b: int = 0, fds: Sequence[int] = (), then: Callable[[Answer], None] | None = None
    ) -> asyncio.Future[Answer]:
        """Sends one request; its answer comes in the future, a ConnectionError if the program is gone.

        then: called with the answer before anything that the program said after it.
        """
        self._number = self._number % 0xFFFFFFFF + 1
        answer = self._loop.create_future()
        if self._socket is None:
            answer.set_exception(ConnectionError(GONE))
            answer.exception()
            return answer
        self._answers[self._number] = answer, then
        try:
            self._send(_MESSAGE.pack(self._number, op, a, b), fds)
        except OSError as error:
            self._answers.pop(self._number)
            answer.set_exception(error)
        return answer

    def tell(self, op: int, a: int = 0, b: int = 0) -> None:
        """Sends one request that is not answered: on the hot path, an answer costs a turn of the event loop."""
        if self._socket is not None:
            self._send(_MESSAGE.pack(0, op, a, b), ())

    def hang_up(self) -> None:
        """The program is told to go, or has gone: whatever it held is dead, and so is every answer that is waited for."""
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
        answers, self._answers = self._answers, {}
        for answer, _ in answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError(GONE))
                answer.exception()
        self._gone()

    # ── the socket ──

    def _send(self, message: bytes, fds: Sequence[int]) -> None:
        assert self._socket is not None
        if not self._unsent:
            try:
                self._send_now(message, fds)
            except BlockingIOError:  # the socket holds some hundred unread requests: keep the order, wait
                self._loop.add_writer(self._socket.fileno(), self._writable)
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # this user has too many descriptors on their way in sockets
                    raise
                return  # the program is gone; the reader will say so
            else:
                return
        self._unsent.append((message, [os.dup(fd) for fd in fds]))

    def _send_now(self, message: bytes, fds: Sequence[int]) -> None:
        assert self._socket is not None
        if fds:
            socket.send_fds(self._socket, [message], list(fds))
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

    def _readable(self) -> None:
        """One message: if there are more, the loop comes back."""
        if self._socket is not None:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 64, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.hang_up()
                return
            number, kind, a, b = _MESSAGE.unpack(data)
            fd = fds[0] if fds else -1
            if kind == _EXITED:
                self._exited(a, b, number * 1024)
            elif kind == _READY:
                self._ready(Answer(max(0, -a), b, fd))
            elif kind == _ANSWER:
                self._answered(number, Answer(-a, b, fd))

    def _answered(self, number: int, answer: Answer) -> None:
        future, then = self._answers.pop(number, (None, None))
        if then is not None:
            then(answer)
        if future is not None and not future.done():
            future.set_result(answer)
        elif answer.fd >= 0 and then is None:  # whoever wanted it was cancelled
            os.close(answer.fd)


def pack(program: Program) -> int:
    """The descriptor of a file that says what to start, as init.c reads it; to be closed."""
    head = struct.pack("=IIII", len(program.argv), len(program.env), len(program.limits), 0)
    limits = b"".join(struct.pack("=IIQQ", resource, 0, value, value) for resource, value in program.limits)
    words = [program.file, program.cwd, *program.argv, *(f"{key}={value}" for key, value in program.env.items())]
    spec = os.memfd_create("spec", os.MFD_CLOEXEC)
    try:
        os.write(spec, head + limits + b"".join(os.fsencode(word) + b"\0" for word in words))
    except BaseException:
        os.close(spec)
        raise
    return spec


def process_of(pidfd: int) -> int:
    """The process id, as this host counts, behind a pidfd; 0 if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line[4:]))
    return 0
