"""HTTP/1.1 as peers really speak it: split, pipelined, chunked, trickled, broken off."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox.core.limits import HEADERS_LIMIT, MIB
from sandbox.wire.http1 import Exchange, Http1Protocol
from tests.conftest import Connection, Played, request
from tests.wire.talk import LIMIT, accepted, chunked, hang_up, in_both_tiers, parked, path, refused

pytestmark = pytest.mark.tiers("process")  # see talk.py

NEXT = "/2018-06-01/runtime/invocation/next"


async def ends(connection: Connection) -> None:
    """The host hangs up, with nothing more to say."""
    assert await connection.reader.read() == b""


# ── connections ──


@in_both_tiers
@pytest.mark.catalogue("RT-010")
async def test_a_thousand_cycles_on_one_connection(played: Played) -> None:
    connection = await played.connect()
    for i in range(1000):
        payload = b"%d" % i
        job, event = await played.deliver(connection, payload)
        assert event.body == payload
        accepted(await connection.ask("POST", path(event), payload))
        assert job.result.payload == payload


@in_both_tiers
@pytest.mark.catalogue("RT-010")
async def test_a_new_connection_for_every_call(played: Played) -> None:
    for i in range(100):
        job = played.invoke(b"%d" % i)
        connection = await played.connect()
        event = await connection.ask("GET", "invocation/next", connection="close")
        assert event.headers["connection"] == "close"
        await ends(connection)
        connection = await played.connect()
        accepted(await connection.ask("POST", path(event), event.body, connection="close"))
        await ends(connection)
        assert job.result.payload == b"%d" % i
        await played.until(lambda: played.environment.free or played.environment.about_to_be_free)


async def test_http_1_0_is_answered_and_hung_up(played: Played) -> None:
    connection = await played.connect()
    job = played.invoke()
    await connection.send(f"GET {NEXT} HTTP/1.0\r\n\r\n".encode())
    event = await connection.reply()
    assert event.body == b"{}"
    await ends(connection)
    connection = await played.connect()
    await connection.send(f"POST /2018-06-01/runtime/{path(event)} HTTP/1.0\r\nContent-Length: 2\r\n\r\nok".encode())
    accepted(await connection.reply())
    await ends(connection)
    assert job.result.payload == b"ok"


async def test_http_1_0_may_keep_its_connection(played: Played) -> None:
    connection = await played.connect()
    for _ in range(2):
        await connection.send(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await connection.reply()).body == b"pong"


# ── pipelining ──


async def test_an_answer_and_a_poll_in_one_segment(played: Played) -> None:
    connection = await played.connect()
    first, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), b"1") + request("GET", "invocation/next"))
    accepted(await connection.reply())
    await played.until(first.reported.done)
    second = played.invoke()
    assert (await connection.reply()).headers["lambda-runtime-aws-request-id"] == second.request_id


async def test_two_polls_in_one_segment_are_answered_in_turn(played: Played) -> None:
    connection = await played.connect()
    job = played.invoke()
    await connection.send(request("GET", "invocation/next") * 2)
    for _ in range(2):  # the second is a poll while the event is unanswered
        assert (await connection.reply()).headers["lambda-runtime-aws-request-id"] == job.request_id
    accepted(await connection.ask("POST", path(job), b"1"))


async def test_what_is_pipelined_behind_a_parked_poll_waits_its_turn(played: Played) -> None:
    connection = await played.connect()
    played.environment.start()
    await connection.send(request("GET", "invocation/next") + b"".join(request("GET", f"/p{i}") for i in range(20)))
    await played.until(lambda: len(played.environment.machine.polls) == 1)
    job = played.invoke()
    assert (await connection.reply()).headers["lambda-runtime-aws-request-id"] == job.request_id
    for i in range(20):
        assert f"/p{i}" in refused(await connection.reply(), 404)
    accepted(await connection.ask("POST", path(job), b"1"))


async def test_nothing_is_read_ahead_of_a_parked_poll(played: Played) -> None:
    connection = await played.connect()
    played.environment.start()
    await connection.send(request("GET", "invocation/next") + request("POST", "/flood", b"x" * (50 * MIB))[:100])
    await played.until(lambda: len(played.environment.machine.polls) == 1)
    sending = asyncio.ensure_future(connection.send(b"x" * (50 * MIB)))
    for _ in range(20):
        await (await played.connect()).ask("GET", "/ping")
    assert not sending.done()
    connection.writer.transport.abort()
    await asyncio.gather(sending, return_exceptions=True)


async def test_an_answer_split_behind_a_parked_poll_waits_its_turn(played: Played) -> None:
    connection = await played.connect()
    played.environment.start()
    await connection.send(request("GET", "invocation/next") + request("POST", "invocation/x/response", b"abc")[:-2])
    await played.until(lambda: len(played.environment.machine.polls) == 1)
    played.invoke()
    assert (await connection.reply()).status == 200
    await connection.send(b"bc")
    refused(await connection.reply(), 400, "InvalidRequestID")


@in_both_tiers
async def test_a_pipelining_client_that_vanishes_swallows_no_event(played: Played) -> None:
    connection, live = await played.connect(), await played.connect()
    played.environment.start()
    await connection.send(request("GET", "invocation/next") * 2)
    await played.until(lambda: len(played.environment.machine.polls) == 1)
    await connection.close()
    job, event = await played.deliver(live)
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id
    accepted(await live.ask("POST", path(event), b"1"))


# ── Expect ──


async def test_an_expected_continue_is_given(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    body = b"x" * 2_000_000
    data = request("POST", path(event), body, expect="100-Continue")
    await connection.send(data[: -len(body)])
    assert (await connection.reply()).status == 100
    await connection.send(body)
    accepted(await connection.reply())
    assert job.result.payload == body


async def test_a_body_that_did_not_wait_for_continue_is_taken(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), b"eager", expect="100-continue"))
    reply = await connection.reply()
    accepted(await connection.reply() if reply.status == 100 else reply)
    assert job.result.payload == b"eager"


async def test_an_answer_that_is_refused_gets_no_continue(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    other = await played.connect()
    await other.send(request("POST", "invocation/wrong/response", b"x" * 1000, expect="100-continue")[:-1000])
    reply = await other.reply()
    refused(reply, 400, "InvalidRequestID")
    assert reply.headers["connection"] == "close"
    await ends(other)
    accepted(await connection.ask("POST", path(event), b"1"))
    assert job.result.payload == b"1"


# ── Upgrade ──


OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAEAAEAAAAIAAAABAAMAAABkAAQB"}


async def test_an_offer_of_http_2_is_ignored(played: Played) -> None:
    connection = await played.connect()
    played.invoke()
    assert (await connection.ask("GET", "invocation/next", **OFFER)).status == 200
    await connection.send(request("GET", "/ping", **OFFER) + request("GET", "/ping", **OFFER) + request("GET", "/ping"))
    for _ in range(3):
        assert (await connection.reply()).body == b"pong"


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_an_answer_that_offers_http_2_keeps_its_body(played: Played, split: bool, framing: str) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    whole = framing == "content-length"
    data = request("POST", path(event), b"body", **OFFER) if whole else chunked(path(event), b"body", **OFFER)
    if split:
        await connection.send(data[:-2])
        await (await played.connect()).ask("GET", "/ping")
        data = data[-2:]
    await connection.send(data + request("GET", "/ping"))
    accepted(await connection.reply())
    assert job.result.payload == b"body"
    assert (await connection.reply()).body == b"pong"


# ── heads ──


async def test_a_header_field_of_a_mebibyte_passes(played: Played) -> None:
    connection = await played.connect()
    assert (await connection.ask("GET", "/ping", x_long="x" * MIB)).body == b"pong"
    assert (await connection.ask("GET", "/ping")).body == b"pong"


@pytest.mark.parametrize("shape", ["one field", "many fields", "the target", "the name"])
async def test_endless_header_fields_are_refused(played: Played, shape: str) -> None:
    start = b"GET /" if shape == "the target" else b"GET /ping HTTP/1.1\r\n"
    piece = {"one field": b"x", "many fields": b"A: b\r\n", "the target": b"x", "the name": b"X"}[shape]
    start += b"X: " if shape == "one field" else b""
    connection = await played.connect()
    await connection.send((start + piece * HEADERS_LIMIT)[:HEADERS_LIMIT])
    await connection.send(b"x")
    reply = await connection.reply()
    refused(reply, 431)
    await ends(connection)


async def test_endless_trailers_are_refused(played: Played) -> None:
    connection = await played.connect()
    _, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), transfer_encoding="chunked") + b"0\r\nX: ")
    sending = asyncio.ensure_future(connection.send(b"x" * (3 * HEADERS_LIMIT) + b"\r\n\r\n"))
    try:
        reply = await connection.reply()
        assert reply.status in (400, 431)
    finally:
        connection.writer.transport.abort()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_garbage_gets_400_and_a_hang_up(played: Played, garbage: bytes) -> None:
    connection = await played.connect()
    await connection.send(garbage)
    refused(await connection.reply(), 400)
    await ends(connection)
    assert (await (await played.connect()).ask("GET", "/ping")).body == b"pong"


async def test_garbage_behind_a_parked_poll_takes_the_poll_away(played: Played) -> None:
    connection, live = await played.connect(), await played.connect()
    played.environment.start()
    await connection.send(request("GET", "invocation/next") + b"\0\0garbage\r\n\r\n")
    refused(await connection.reply(), 400)
    await ends(connection)
    job, event = await played.deliver(live)
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:9001/ping",
        "http://127.0.0.1:9001/ping?x=1",
        "HTTP://localhost/ping",
        "/ping?",
        "/ping?a=/2018-06-01/runtime/invocation/next",
    ],
)
async def test_absolute_targets_and_queries_name_the_same_path(played: Played, target: str) -> None:
    connection = await played.connect()
    await connection.send(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert (await connection.reply()).body == b"pong"


@pytest.mark.parametrize("target", ["*", "http://[", "//", "/%2e%2e/ping", "/\xff", "http://\xff/ping"])
async def test_odd_targets_are_404(played: Played, target: str) -> None:
    connection = await played.connect()
    await connection.send(f"OPTIONS {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode("latin-1"))
    assert (await connection.reply()).status in (400, 404)
    assert (await (await played.connect()).ask("GET", "/ping")).body == b"pong"


@pytest.mark.catalogue("RT-004")
async def test_head_of_next_is_405_without_a_body(played: Played) -> None:
    connection = await played.connect()
    await connection.send(request("HEAD", "invocation/next"))
    head = await connection.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET\r\n" in head
    assert (await connection.ask("GET", "/ping")).body == b"pong"  # no bytes of a body in between


@pytest.mark.catalogue("RT-011")
@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
async def test_header_names_have_no_case(played: Played, change: Callable[[str], str]) -> None:
    connection = await played.connect()
    _, event = await played.deliver(connection)
    fields = ["Host: localhost", "Content-Length: 2", "Lambda-Runtime-Invocation-Id: stale"]
    lines = [change(name) + ":" + value for name, _, value in (field.partition(":") for field in fields)]
    await connection.send(f"POST /2018-06-01/runtime/{path(event)} HTTP/1.1\r\n".encode())
    await connection.send(("\r\n".join(lines) + "\r\n\r\n{}").encode())
    refused(await connection.reply(), 400, "InvalidInvocationId")


async def test_blanks_around_a_value_are_no_part_of_it(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(
        f"POST /2018-06-01/runtime/{path(event)} HTTP/1.1\r\nHost:\t localhost \t\r\n"
        f"Lambda-Runtime-Invocation-Id:  {job.invocation_id} \t\r\nContent-Type:text/plain  \r\n"
        "Lambda-Runtime-Function-Response-Mode: streaming \r\nContent-Length: 2 \r\n\r\nok".encode()
    )
    accepted(await connection.reply())
    assert job.result.content_type == "text/plain"


# ── bodies ──


async def test_a_body_may_trickle(played: Played) -> None:
    connection, other = await played.connect(), await played.connect()
    job, event = await played.deliver(connection)
    data = request("POST", path(event), b"0123456789")
    for i in range(len(data) - 1):
        await connection.send(data[i : i + 1])
        if i % 8 == 0:
            await other.ask("GET", "/ping")
    assert not job.answered.done()
    await connection.send(data[-1:])
    accepted(await connection.reply())
    assert job.result.payload == b"0123456789"


async def test_a_poll_may_have_a_body(played: Played) -> None:
    connection = await played.connect()
    played.invoke()
    await connection.send(request("GET", "invocation/next", b"abc")[:-2])
    await (await played.connect()).ask("GET", "/ping")
    await connection.send(b"bc")
    assert (await connection.reply()).body == b"{}"


@pytest.mark.parametrize("what", ["invocation/next", "init/error", "/unknown", "invocation/x/response"])
async def test_a_client_that_vanishes_in_mid_body_changes_nothing(played: Played, what: str) -> None:
    connection, live = await played.connect(), await played.connect()
    job = played.invoke()
    await connection.send(request("GET" if "next" in what else "POST", what, b"x" * 100)[:-50])
    await live.ask("GET", "/ping")
    await connection.close()
    event = await live.ask("GET", "invocation/next")
    accepted(await live.ask("POST", path(event), b"1"))
    assert job.result.payload == b"1"


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-038")
async def test_the_biggest_event_reaches_a_slow_reader_intact(played: Played) -> None:
    connection = await played.connect()
    payload = b'"' + bytes(b"abcdefghijk"[i % 11] for i in range(1000)) * 6291 + b"y" * (LIMIT - 6_291_002) + b'"'
    assert len(payload) == LIMIT
    job = played.invoke(payload)
    await connection.send(request("GET", "invocation/next"))
    head = await connection.reader.readuntil(b"\r\n\r\n")
    assert f"Content-Length: {LIMIT}\r\n".encode() in head
    got = bytearray()
    other = await played.connect()
    while len(got) < LIMIT:
        got += await connection.reader.readexactly(min(500_000, LIMIT - len(got)))
        assert (await other.ask("GET", "/ping")).status == 200
    assert got == payload
    accepted(await connection.ask("POST", path(job), b"1"))


# ── half-closed sockets ──


async def test_a_request_of_a_half_closed_socket_is_answered(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), b"1"))
    await hang_up(connection)
    accepted(await connection.reply())
    await ends(connection)
    assert job.result.payload == b"1"


@in_both_tiers
async def test_a_parked_poll_that_half_closes_is_taken_for_gone(played: Played) -> None:
    connection, live = await played.connect(), await played.connect()
    played.environment.start()
    poll = await parked(played, connection)
    await hang_up(connection)
    with pytest.raises(asyncio.IncompleteReadError):
        await poll
    assert not played.environment.machine.polls
    job, event = await played.deliver(live)
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id


async def test_a_silent_connection_harms_nobody(played: Played) -> None:
    silent, half = await played.connect(), await played.connect()
    await half.send(b"GET /2018-06-01/runtime/invocation/ne")
    await hang_up(half)
    await ends(half)
    await silent.close()
    assert (await (await played.connect()).ask("GET", "/ping")).body == b"pong"


# ── the protocol alone, with bytes as they may fall ──


class Wire:
    """A transport that records, and a handler that answers every request at once."""

    def __init__(self) -> None:
        self.pair = socket.socketpair()
        self.sent = b""
        self.closed = False
        self.paused = False
        self.seen: list[tuple[bytes, bytes, bytes, dict[bytes, bytes], dict[bytes, bytes]]] = []
        self.heads = 0
        self.gone_count = 0
        self.protocol = Http1Protocol(self, set())  # type: ignore[arg-type]
        self.protocol.connection_made(self)  # type: ignore[arg-type]

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.pair[0]

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the hang-up"
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def head(self, exchange: Exchange) -> None:
        self.heads += 1

    def request(self, exchange: Exchange) -> None:
        self.seen.append((exchange.method, exchange.target, exchange.body, dict(exchange.headers), dict(exchange.trailers)))
        exchange.reply(200, b"", exchange.target)

    def body_limit(self, exchange: Exchange) -> None:
        raise AssertionError("not here")

    def gone(self, exchange: Exchange) -> None:
        self.gone_count += 1

    async def feed(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            while self.paused:
                await asyncio.sleep(0)
            self.protocol.data_received(piece)
        for _ in range(2 * len(pieces) + 2):
            await asyncio.sleep(0)

    def end(self) -> None:
        self.protocol.connection_lost(None)
        for one in self.pair:
            one.close()


def talk(pieces: list[bytes]) -> Wire:
    async def run() -> Wire:
        wire = Wire()
        try:
            await wire.feed(pieces)
        finally:
            wire.end()
        return wire

    return asyncio.run(run())


TWO = (
    b"POST /a?q=1 HTTP/1.1\r\nhost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
    b"Trailer: Lambda-Runtime-Function-Error-Type\r\n\r\n"
    b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nLambda-Runtime-Function-Error-Type: Boom\r\n\r\n"
    b"GET /b HTTP/1.1\r\nHOST: localhost\r\n\r\n"
    b"POST /c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nend"
)


def check_two(wire: Wire) -> None:
    first, second, third = wire.seen
    assert first == (
        b"POST",
        b"/a",
        b"hello!",
        {b"host": b"localhost", b"content-type": b"text/plain"},
        {b"lambda-runtime-function-error-type": b"Boom"},
    )
    assert second == (b"GET", b"/b", b"", {b"host": b"localhost"}, {})
    assert third == (b"POST", b"/c", b"end", {b"host": b"localhost"}, {})
    assert wire.sent == b"".join(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/%c" % c for c in b"abc")
    assert not wire.closed
    assert wire.gone_count == 0


def test_requests_may_be_split_at_every_byte() -> None:
    for cut in range(1, len(TWO)):
        check_two(talk([TWO[:cut], TWO[cut:]]))
    check_two(talk([TWO[i : i + 1] for i in range(len(TWO))]))


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, len(TWO) - 1), max_size=12))
@example(cuts=[])
def test_requests_may_be_split_anyhow(cuts: list[int]) -> None:
    points = [0, *sorted(set(cuts)), len(TWO)]
    check_two(talk([TWO[a:b] for a, b in itertools.pairwise(points)]))


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    trailer=st.one_of(st.none(), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50)),
    upper=st.booleans(),
    step=st.integers(1, 400),
)
def test_chunks_and_trailers_of_any_shape(chunks: list[bytes], trailer: str | None, upper: bool, step: int) -> None:
    data = b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n"
    for piece in chunks:
        size = b"%X" % len(piece) if upper else b"%04x" % len(piece)
        data += size + b"\r\n" + piece + b"\r\n"
    data += b"0\r\n"
    if trailer is not None:
        data += b"lambda-runtime-function-error-body: " + trailer.encode() + b"\r\n"
    data += b"\r\n" + request("GET", "/after")
    wire = talk([data[i : i + step] for i in range(0, len(data), step)])
    assert [target for _, target, *_ in wire.seen] == [b"/x", b"/after"]
    assert wire.seen[0][2] == b"".join(chunks)
    assert wire.seen[0][4] == ({} if trailer is None else {b"lambda-runtime-function-error-body": trailer.encode()})


@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([TWO, TWO[:100], TWO[100:]])), max_size=5))
def test_no_bytes_at_all_break_the_protocol(data: list[bytes]) -> None:
    async def run() -> None:
        wire = Wire()
        try:
            for piece in data:
                if wire.closed:
                    break
                await wire.feed([piece])
            if not wire.closed:
                wire.protocol.eof_received()
            assert wire.closed
        finally:
            wire.end()

    asyncio.run(run())


async def test_every_reply_of_a_long_pipeline_comes_in_order(played: Played) -> None:
    connection = await played.connect()
    await connection.send(b"".join(request("POST", f"/p{i}", b"x" * i) for i in range(300)))
    for i in range(300):
        assert f'/p{i}"' in refused(await connection.reply(), 404) + '"'


async def test_a_chunked_answer_of_many_small_chunks(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    pieces = [bytes([65 + i % 26]) * (i % 50 + 1) for i in range(5000)]
    await connection.send(chunked(path(event), *pieces))
    accepted(await connection.reply())
    assert job.result.payload == b"".join(pieces)


async def test_requests_after_a_close_are_not_served(played: Played) -> None:
    connection = await played.connect()
    await connection.send(request("GET", "/ping", connection="close") + request("GET", "/ping"))
    assert (await connection.reply()).body == b"pong"
    await ends(connection)
