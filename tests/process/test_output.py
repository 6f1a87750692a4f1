"""What processes print, however the bytes come: lines, frames, and reading no more than is there."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.limits import LOG_FRAME_LIMIT, LOG_LINE_LIMIT
from sandbox.process.output import FRAME_MAGIC, MARK_MAGIC, Frames, Line, Lines, Mark, Output, pipe

Record = Line | Mark


def lines_of(*chunks: bytes) -> list[Line]:
    found: list[Line] = []
    parser = Lines(found.append)
    for chunk in chunks:
        parser.feed(chunk)
    parser.close()
    return found


def records_of(*chunks: bytes) -> list[Record]:
    found: list[Record] = []
    parser = Frames(found.append, found.append)
    for chunk in chunks:
        parser.feed(chunk)
    parser.close()
    return found


def frame(message: bytes, type_: int = 0xA55A0003, time: int = 1_700_000_000_123_456) -> bytes:
    """As real clients write it: 16 bytes of head if bit 1 is set, else 8."""
    head = struct.pack(">II", type_, len(message))
    return head + (struct.pack(">Q", time) if type_ & 2 else b"") + message


@st.composite
def cut(draw: st.DrawFn, stream: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A stream of bytes, and the same in pieces."""
    data = draw(stream)
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return data, [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


texts = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xc3\xa9", b"\xff", b"\0", b"long " * 50]), max_size=30).map(b"".join)


@given(cut(texts))
def test_lines_are_the_same_however_the_bytes_are_split(case: tuple[bytes, list[bytes]]) -> None:
    data, pieces = case
    expected = [Line(line.decode("utf-8", "replace")) for line in data.split(b"\n")]
    if not data or data.endswith(b"\n"):
        expected.pop()
    assert lines_of(*pieces) == expected


@given(st.integers(0, 3 * LOG_LINE_LIMIT), st.lists(st.integers(0, 3 * LOG_LINE_LIMIT), max_size=3))
def test_a_line_that_is_too_long_is_cut_the_same_way_however_it_comes(length: int, places: list[int]) -> None:
    data = b"x" * length + b"\n" + b"y"
    places = sorted(min(place, len(data)) for place in places)
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    found = [line.text for line in lines_of(*pieces)]
    sizes = [LOG_LINE_LIMIT] * (length // LOG_LINE_LIMIT)
    if length % LOG_LINE_LIMIT or not length:
        sizes.append(length % LOG_LINE_LIMIT)
    assert found == ["x" * size for size in sizes] + ["y"]


def test_a_long_line_without_an_end_is_not_kept_for_ever() -> None:
    found: list[Line] = []
    parser = Lines(found.append)
    parser.feed(b"x" * (2 * LOG_LINE_LIMIT + 1))
    assert [len(line.text) for line in found] == [LOG_LINE_LIMIT, LOG_LINE_LIMIT]


def test_cutting_a_long_line_spoils_no_character() -> None:
    text = "x" + "é" * LOG_LINE_LIMIT
    assert "".join(line.text for line in lines_of(text.encode() + b"\n")) == text


def test_invalid_utf8_is_shown_and_stops_nothing() -> None:
    assert lines_of(b"a\xffb\n\xc3", b"\xa9\n") == [Line("a\ufffdb"), Line("é")]


def test_an_empty_line_is_a_line_and_an_empty_end_is_none() -> None:
    assert lines_of(b"\n\n") == [Line(""), Line("")]
    assert lines_of(b"") == []


FRAME_TYPES = [
    (0xA55A0003, None, False),
    (0xA55A0002, None, True),
    (0xA55A0007, "TRACE", False),
    (0xA55A000B, "DEBUG", False),
    (0xA55A000F, "INFO", False),
    (0xA55A0013, "WARN", False),
    (0xA55A0016, "ERROR", True),
    (0xA55A001B, "FATAL", False),
]


@pytest.mark.parametrize(("type_", "level", "json"), FRAME_TYPES)
def test_a_frame_is_read_by_its_bits(type_: int, level: str | None, json: bool) -> None:
    assert records_of(frame(b"said\n", type_)) == [Line("said", level, 1_700_000_000.123456, json)]


@pytest.mark.parametrize(("type_", "level"), [(0xA55A0001, None), (0xA55A000D, "INFO")])
def test_a_frame_without_a_time_has_a_short_head(type_: int, level: str | None) -> None:
    """awslambdaric 1.2.2 is still to be had."""
    assert records_of(frame(b"one", type_) + frame(b"two", type_)) == [Line("one", level), Line("two", level)]


def test_a_frame_keeps_its_inner_line_feeds_and_loses_one_at_its_end() -> None:
    assert [line.text for line in records_of(frame(b"a\nb\n\n") + frame(b""))] == ["a\nb\n", ""]


def test_a_message_that_looks_like_a_frame_is_text() -> None:
    inner = frame(b"inner", 0xA55A0001)
    assert records_of(frame(inner)) == [Line(inner.decode("utf-8", "replace"), None, 1_700_000_000.123456)]


def test_marks_are_told_apart() -> None:
    data = (
        struct.pack(">IIQ", MARK_MAGIC | 1, 0, 5_000_000) + frame(b"x", 0xA55A0001) + struct.pack(">IIQ", MARK_MAGIC | 2, 0, 0)
    )
    assert records_of(data) == [Mark(1, 5.0), Line("x"), Mark(2, 0.0)]


garbage = st.lists(
    st.sampled_from([b"printed by mistake\n", b"\xa5", b"\xa5\x5a", b"no end", b"\xa5\x5a\0", b"\n"]), max_size=4
)
frames = st.builds(
    frame, st.sampled_from([b"", b"m", b"two\nlines", b"\xa5\x5a\0\3"]), st.sampled_from([t for t, _, _ in FRAME_TYPES])
)
legacy = st.builds(frame, st.binary(max_size=20), st.just(0xA55A0001))
streams = st.lists(st.one_of(frames, legacy, garbage.map(b"".join), st.binary(max_size=30)), max_size=6).map(b"".join)


@given(cut(streams))
def test_frames_are_the_same_however_the_bytes_are_split(case: tuple[bytes, list[bytes]]) -> None:
    data, pieces = case
    assert records_of(*pieces) == records_of(data)


@given(st.lists(st.sampled_from([b"plain words\n", b"\xa5 is no frame\n", b"x" * 30 + b"\n"]), max_size=3), st.integers(0, 2))
def test_garbage_between_frames_is_not_lost(between: list[bytes], at_the_end: int) -> None:
    data = frame(b"first") + b"".join(between) + frame(b"last") + b"end"[:at_the_end]
    found = [line.text for line in records_of(data) if isinstance(line, Line)]
    said = [line.decode("utf-8", "replace").removesuffix("\n") for line in between]
    assert found == ["first", *said, "last", *([b"end"[:at_the_end].decode()] if at_the_end else [])]


def test_a_frame_that_claims_to_be_too_long_is_garbage_and_what_follows_is_read() -> None:
    data = struct.pack(">II", FRAME_MAGIC | 3, LOG_FRAME_LIMIT + 1) + b"\n" + frame(b"good", 0xA55A0001)
    assert records_of(data)[-1] == Line("good")


def test_half_a_frame_is_shown_when_the_writer_is_gone() -> None:
    found = records_of(frame(b"cut off here", time=1)[:-5])
    assert len(found) == 1
    assert "cut off" in found[0].text


# ── reading ──


class Written:
    """A pipe whose read end an Output has."""

    def __init__(self, parser: Callable[[Callable[[Line], None]], Lines]) -> None:
        self.lines: list[str] = []
        read, self.fd = pipe()
        self.output = Output(read, parser(lambda line: self.lines.append(line.text)))

    def close(self) -> None:
        self.output.close()
        os.close(self.fd)


@pytest.mark.catalogue("TL-039")
async def test_drain_reads_what_was_written_before_it() -> None:
    made = Written(Lines)
    try:
        os.write(made.fd, b"one\ntwo\n")
        made.output.drain()
        assert made.lines == ["one", "two"]
        made.output.drain()  # nothing is there, and it does not wait
        assert made.lines == ["one", "two"]
    finally:
        made.close()


async def test_drain_ends_though_a_flood_does_not() -> None:
    """What a writer adds while we read belongs to later. The writer here answers each line that is read with another."""
    made = Written(Lines)
    emitted = 0

    def answer(line: Line) -> None:
        nonlocal emitted
        emitted += 1
        if emitted < 10_000:
            os.write(made.fd, b"another\n")

    made.output.close()
    os.close(made.fd)
    read, made.fd = pipe()
    made.output = Output(read, Lines(answer))
    try:
        os.write(made.fd, b"first\nsecond\n")
        made.output.drain()
        assert emitted == 2
        made.output.drain()
        assert emitted == 4
    finally:
        made.close()


async def test_drain_is_as_long_as_the_pipe_for_a_writer_that_never_stops() -> None:
    made = Written(Lines)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                os.write(made.fd, b"x" * 1023 + b"\n")
            except BlockingIOError:
                pass

    os.set_blocking(made.fd, False)
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(50):
            before = len(made.lines)
            made.output.drain()
            assert len(made.lines) - before <= 65  # a pipe holds 64 KiB
    finally:
        stop.set()
        thread.join()
        made.close()


async def test_the_last_line_needs_no_line_feed() -> None:
    made = Written(Lines)
    os.write(made.fd, b"whole\nhalf")
    made.output.drain()
    assert made.lines == ["whole"]
    made.close()
    assert made.lines == ["whole", "half"]
    made.output.drain()  # after close nothing happens any more
    made.output.close()
    assert made.lines == ["whole", "half"]


async def test_the_loop_reads_by_itself_and_stops_at_the_end_of_file() -> None:
    made = Written(Lines)
    os.write(made.fd, b"one\nrest")
    os.close(made.fd)
    async with asyncio.timeout(20):
        while made.lines != ["one", "rest"]:
            await asyncio.sleep(0)
    made.output.close()
