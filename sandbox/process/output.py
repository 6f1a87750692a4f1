"""What processes print: lines from stdout and stderr, framed records from the log descriptor.

stdout and stderr of a process share one pipe, so that their order is kept, as on a terminal. The log descriptor
(`_LAMBDA_TELEMETRY_LOG_FD`) carries frames: u32 type | u32 length | u64 µs since the epoch | message, big endian, where bit 1
of the type says whether the time is there and bits 2 to 4 are the level (real-clients.md §5). Frames are read by those bits.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import re
import struct
import termios
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sandbox.core.limits import LOG_FRAME_LIMIT, LOG_LINE_LIMIT

_CHUNK: Final = 32 * 1024  # more would be mapped and unmapped anew for each read
FRAME_MAGIC: Final = 0xA55A0000
MARK_MAGIC: Final = 0xA55B0000  # ours: a bootstrap marks the start (…01) and the end (…02) of function init
_LEVELS: Final = (None, "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", None)


class Line(NamedTuple):
    """One record of output. time: seconds since the epoch if the process gave one."""

    text: str
    level: str | None = None
    time: float | None = None
    json: bool = False


class Mark(NamedTuple):
    """Function init begins (1) or has ended (2), at a time in seconds since the epoch."""

    number: int
    time: float


def pipe() -> tuple[int, int]:
    """(read end, write end); neither is inherited, and reading does not block."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write


def _cut(data: bytes, at: int) -> int:
    """Where a part that begins at `at` ends: LOG_LINE_LIMIT further, but not within a UTF-8 character."""
    end = at + LOG_LINE_LIMIT
    if end >= len(data):
        return len(data)
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end


def _parts(data: bytes) -> Iterator[bytes]:
    """A record as one part, or as several if it is too long."""
    if len(data) <= LOG_LINE_LIMIT:
        yield data
        return
    at = 0
    while at < len(data):
        end = _cut(data, at)
        yield data[at:end]
        at = end


class Lines:
    """Splits bytes into lines. A line longer than LOG_LINE_LIMIT is cut into several."""

    def __init__(self, emit: Callable[[Line], None]) -> None:
        self._emit = emit
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._rest) > LOG_LINE_LIMIT:
            cut = _cut(self._rest, 0)
            self._line(self._rest[:cut])
            self._rest = self._rest[cut:]

    def flush(self) -> None:
        """What there is without a line feed becomes a line now: it belongs to what came before."""
        rest, self._rest = self._rest, b""
        if rest:
            self._line(rest)

    close = flush

    def _line(self, line: bytes) -> None:
        for part in _parts(line):
            self._emit(Line(part.decode("utf-8", "replace")))


class Mixed:
    """Lines with short frames among them: the stdout of our own runtimes, which so keep the order of what they say.

    A frame is written at once and no longer than PIPE_BUF, so it is never mixed with anything; it begins with bytes that no
    text has. A longer one comes on the log descriptor.
    """

    def __init__(self, emit: Callable[[Line], None], mark: Callable[[Mark], None]) -> None:
        self._lines = Lines(emit)
        self._frames = Frames(emit, mark)
        self._rest = b""

    def feed(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        while True:
            found = _FRAME_HEAD.search(data, at)
            if found is None:
                break
            length = int.from_bytes(data[found.start() + 4 : found.start() + 8], "big")
            end = found.start() + 16 + length
            if end > len(data):
                break
            self._lines.feed(data[at : found.start()])
            self._frames.feed(data[found.start() : end])
            at = end
        keep = found.start() if found is not None else len(data) - _partial_head(data)
        if keep > at:
            self._lines.feed(data[at:keep])
        self._rest = data[max(at, keep) :]

    def flush(self) -> None:
        self._lines.flush()

    def close(self) -> None:
        rest, self._rest = self._rest, b""
        self._lines.feed(rest)
        self._lines.close()


# Frames with a time in them, and a length below PIPE_BUF.
_FRAME_HEAD: Final = re.compile(rb"\xa5[\x5a\x5b]\x00[\x00-\x1f]\x00\x00[\x00-\x0f]", re.DOTALL)


def _partial_head(data: bytes) -> int:
    """How many bytes at the end may be the beginning of a frame's head."""
    at = data.rfind(b"\xa5", max(0, len(data) - 7))
    if at < 0:
        return 0
    tail = data[at:]
    return len(tail) if _FRAME_HEAD.match(tail + b"\x5a\x00\x00\x00\x00\x00"[len(tail) - 1 :]) else 0


class Frames:
    """Reads framed records and marks. Bytes that are no frame are given as lines, so that nothing is lost."""

    def __init__(self, emit: Callable[[Line], None], mark: Callable[[Mark], None]) -> None:
        self._emit = emit
        self._mark = mark
        self._rest = b""
        self._garbage = Lines(emit)

    def feed(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        while len(data) - at >= 8:
            type_, length = struct.unpack_from(">II", data, at)
            magic = type_ & 0xFFFF0000
            if magic not in (FRAME_MAGIC, MARK_MAGIC) or length > LOG_FRAME_LIMIT:
                at = self._skip_garbage(data, at)
                continue
            head = 16 if type_ & 2 or magic == MARK_MAGIC else 8
            if len(data) - at < head + length:
                break
            time = struct.unpack_from(">Q", data, at + 8)[0] / 1e6 if head == 16 else None
            message = data[at + head : at + head + length]
            at += head + length
            if magic == MARK_MAGIC:
                self._mark(Mark(type_ & 0xFF, time or 0.0))
            else:
                self._record(message.removesuffix(b"\n"), _LEVELS[type_ >> 2 & 7], time, not type_ & 1)
        self._rest = data[at:]

    def _record(self, message: bytes, level: str | None, time: float | None, json: bool) -> None:
        for part in _parts(message):
            self._emit(Line(part.decode("utf-8", "replace"), level, time, json))

    def _skip_garbage(self, data: bytes, at: int) -> int:
        """To the next byte that may begin a frame."""
        following = data.find(b"\xa5", at + 1)
        end = following if following > 0 else len(data)
        self._garbage.feed(data[at:end])
        return end

    def flush(self) -> None:
        """A frame that has begun is waited for."""

    def close(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._garbage.feed(rest)
        self._garbage.close()


class Output:
    """One pipe of one process, read by the event loop, and by `drain` whenever order matters."""

    def __init__(self, fd: int, parser: Lines | Frames | Mixed) -> None:
        self._fd = fd
        self._parser = parser
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._readable)
        self._waiting = array.array("i", [0])

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self._parser.feed(data)
        else:
            self.close()

    def drain(self) -> None:
        """Reads as much as is in the pipe at this moment, and no more: a flood has no end (DECISIONS "process output")."""
        if self._fd < 0:
            return
        fcntl.ioctl(self._fd, termios.FIONREAD, self._waiting)
        left = self._waiting[0]
        while left > 0:
            try:
                data = os.read(self._fd, min(left, _CHUNK))
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                return
            left -= len(data)
            self._parser.feed(data)

    def flush(self) -> None:
        """Ends a line that has no line feed yet."""
        self._parser.flush()

    def close(self) -> None:
        """Stops reading. What was read and has no line feed yet is given now."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._parser.close()
