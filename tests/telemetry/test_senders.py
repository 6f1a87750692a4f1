"""How batches travel: HTTP over one connection, and lines over TCP. The subscribers are servers of the test's own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sandbox.core.limits import TELEMETRY_ANSWER
from sandbox.core.subscription import LOGS, TELEMETRY, Subscription
from sandbox.telemetry.senders import Sender, dial_loopback, make_sender
from tests.conftest import no_task_is_left

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BATCH = [b'{"n":1}', b'{"n":2}']

Play = Callable[["Line"], Awaitable[None]]


class Line:
    """One connection of a subscriber."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """(request line, header fields with lower-case names, body). Raises IncompleteReadError at the end."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head[:-4].split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return first, fields, await self.reader.readexactly(int(fields["content-length"]))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


class Server:
    """A subscriber's listener. play: what is done with each connection, which is closed when that returns."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.connections = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.lines: list[Line] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.port = 0

    async def open(self, port: int = 0, size: int | None = None) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if size is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        listener.bind(("127.0.0.1", port))
        self.server = await asyncio.start_server(self._accept, sock=listener, limit=16 * 1024 * 1024)
        self.port = listener.getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        line = Line(reader, writer)
        self.lines.append(line)
        try:
            await self.play(line)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.tasks.discard(task)

    async def close(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        for line in self.lines:
            line.writer.close()
            try:
                await line.writer.wait_closed()
            except ConnectionError:
                pass
        while self.tasks:
            await asyncio.sleep(0)


class Post:
    """A sender and its answers."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.senders: list[Sender] = []

    async def server(self, play: Play, port: int = 0, size: int | None = None) -> Server:
        server = Server(play)
        await server.open(port, size)
        self.servers.append(server)
        return server

    def sender(self, port: int, protocol: str = "HTTP", api: str = TELEMETRY, path: str = "/", method: str = "POST") -> Sender:
        host = "sandbox.localdomain"
        where = Subscription(api, "2022-12-13", ("platform",), protocol, host, port, path, method, 1_000, 262_144, 25)
        self.senders.append(make_sender(where, dial_loopback))
        return self.senders[-1]

    async def close(self) -> None:
        for sender in self.senders:
            sender.abort()
        for server in self.servers:
            await server.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    desk = Post()
    async with asyncio.timeout(30):
        yield desk
        await desk.close()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)
    no_task_is_left()


async def sent(sender: Sender, batch: list[bytes] | None = None) -> bool:
    """Sends a batch; returns whether it was taken."""
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sender.send(BATCH if batch is None else batch, answer.set_result)  # a second answer would raise
    return await answer


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def answering(*answers: bytes) -> Play:
    """Reads requests and gives each the next answer; after the last one it hangs up."""

    async def play(line: Line) -> None:
        for answer in answers:
            await line.request()
            await line.say(answer)

    return play


def keeping(server_requests: list[tuple[str, dict[str, str], bytes]], answer: bytes = OK) -> Play:
    """Takes everything, on connections that stay."""

    async def play(line: Line) -> None:
        while True:
            server_requests.append(await line.request())
            await line.say(answer)

    return play


# ── HTTP: the request ──


@pytest.mark.catalogue("TL-034", "TL-010", "TL-009")
async def test_a_batch_is_a_json_array_in_one_post_to_the_path(post: Post) -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []
    server = await post.server(keeping(requests))
    assert await sent(post.sender(server.port, path="/a/b?c=%20"))
    [(first, fields, body)] = requests
    assert first == "POST /a/b?c=%20 HTTP/1.1"
    assert fields["content-type"] == "application/json"
    assert fields["host"] == f"sandbox.localdomain:{server.port}"
    assert "transfer-encoding" not in fields
    assert json.loads(body) == [{"n": 1}, {"n": 2}]


@pytest.mark.catalogue("TL-045")
async def test_a_sequence_id_is_left_out_or_is_the_digest_of_the_body(post: Post) -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []
    server = await post.server(keeping(requests))
    assert await sent(post.sender(server.port))
    [(_, fields, body)] = requests
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert fields.get("sequence-id") in (None, digest, digest.rstrip("="))


@pytest.mark.catalogue("TL-034")
async def test_one_event_is_an_array_too(post: Post) -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []
    server = await post.server(keeping(requests))
    assert await sent(post.sender(server.port), [b'{"n":1}'])
    assert requests[0][2] == b'[{"n":1}]'


@pytest.mark.catalogue("TL-034")
async def test_the_logs_api_puts_if_it_was_asked_to(post: Post) -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []
    server = await post.server(keeping(requests))
    assert await sent(post.sender(server.port, api=LOGS, method="PUT", path="/logs"))
    assert requests[0][0] == "PUT /logs HTTP/1.1"


@pytest.mark.catalogue("TL-036")
async def test_batches_share_one_connection_that_is_kept_alive(post: Post) -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []
    server = await post.server(keeping(requests))
    sender = post.sender(server.port)
    for number in range(20):
        assert await sent(sender, [b"%d" % number])
    assert server.connections == 1
    assert [body for _, _, body in requests] == [b"[%d]" % number for number in range(20)]
    assert all(fields.get("connection", "keep-alive").lower() == "keep-alive" for _, fields, _ in requests)


@pytest.mark.catalogue("TL-037")
@pytest.mark.parametrize("size", [2 * 1_048_576, 8 * 1_048_576])
async def test_one_post_may_be_large(post: Post, size: int) -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []
    server = await post.server(keeping(requests))
    assert await sent(post.sender(server.port), [b'"%b"' % (b"x" * size)])
    assert len(requests[0][2]) == size + 4


@pytest.mark.catalogue("TL-036")
async def test_a_subscriber_that_reads_one_byte_at_a_time_gets_all(post: Post) -> None:
    body = bytearray()

    async def play(line: Line) -> None:
        head = await line.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body.extend(await line.reader.readexactly(1))
        await line.say(OK)

    server = await post.server(play, size=4096)
    assert await sent(post.sender(server.port), [b'"%b"' % (b"x" * 100_000)])
    assert len(body) == 100_004


async def test_no_proxy_is_asked(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, str], bytes]] = []
    requests: list[tuple[str, dict[str, str], bytes]] = []
    proxy, server = await post.server(keeping(asked)), await post.server(keeping(requests))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert await sent(post.sender(server.port))
    assert requests
    assert proxy.connections == 0


# ── HTTP: the answer ──


@pytest.mark.catalogue("TL-036")
@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", True),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 202 \r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 299 Well\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 300 Many\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", False),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!", False),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 1000\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 503 Later\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n3;x=y\r\n...\r\n0\r\nTrailer: x\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
async def test_2xx_is_taken_and_the_connection_stays(post: Post, answer: bytes, taken: bool) -> None:
    async def in_pieces(line: Line) -> None:
        await line.request()
        for byte in answer:
            await line.say(bytes([byte]))
        await line.request()
        await line.say(OK)

    for play in (answering(answer, OK), in_pieces):
        server = await post.server(play)
        sender = post.sender(server.port)
        assert await sent(sender) is taken
        assert await sent(sender)
        assert server.connections == 1


async def test_a_redirect_is_not_followed(post: Post) -> None:
    elsewhere: list[tuple[str, dict[str, str], bytes]] = []
    other = await post.server(keeping(elsewhere))
    for status in (301, 302, 307, 308):
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:{other.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        server = await post.server(answering(answer))
        assert not await sent(post.sender(server.port))
    assert other.connections == 0


@pytest.mark.catalogue("TL-036")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_subscriber_may_close_after_each_answer(post: Post, answer: bytes) -> None:
    server = await post.server(answering(answer))
    sender = post.sender(server.port)
    taken = 0
    for number in range(10):
        while not await sent(sender, [b"%d" % number]):  # a close that crosses a request: it is sent again
            await asyncio.sleep(0)
        taken += 1
    assert taken == 10
    assert server.connections >= 10


@pytest.mark.catalogue("TL-036")
@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"],
)
async def test_one_that_says_that_it_closes_costs_no_batch_a_second_try(post: Post, answer: bytes) -> None:
    """The end of the old connection is not taken for that of the new one."""
    server = await post.server(answering(answer))
    sender, left, done = post.sender(server.port), 10, asyncio.Event()
    outcomes: list[bool] = []

    def answered(taken: bool) -> None:
        nonlocal left
        outcomes.append(taken)
        left -= 1
        if left:
            sender.send([b"%d" % left], answered)  # at once, from within the answer to the one before
        else:
            done.set()

    sender.send([b"first"], answered)
    async with asyncio.timeout(10):
        await done.wait()
    assert outcomes == [True] * 10
    assert server.connections == 10


@pytest.mark.catalogue("TL-036")
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nx",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0" * 1000,
    ],
)
async def test_what_is_no_answer_is_a_failure_and_the_next_batch_gets_a_new_connection(post: Post, answer: bytes) -> None:
    answers = iter([answer])

    async def play(line: Line) -> None:
        await line.request()
        await line.say(next(answers, OK))

    server = await post.server(play)
    sender = post.sender(server.port)
    assert not await sent(sender)
    assert await sent(sender)
    assert server.connections == 2


async def test_a_subscriber_that_speaks_first_does_no_harm(post: Post) -> None:
    async def play(line: Line) -> None:
        await line.say(b"220 welcome\r\n" if server.connections == 1 else b"")
        await line.request()
        await line.say(OK)

    server = await post.server(play)
    sender = post.sender(server.port)
    while not await sent(sender):
        await asyncio.sleep(0)
    assert server.connections == 2


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(post: Post) -> None:
    refusal = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"

    async def play(line: Line) -> None:
        await line.request()
        await line.say(OK + OK if server.connections == 1 else refusal)
        await line.request()
        await line.say(refusal)

    server = await post.server(play)
    sender = post.sender(server.port)
    second: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    first: list[bool] = []

    def send_another(taken: bool) -> None:
        first.append(taken)
        sender.send(BATCH, second.set_result)

    sender.send(BATCH, send_another)
    assert not await second
    assert first == [True]


@pytest.mark.parametrize(("status", "taken"), [(200, True), (500, False)])
async def test_an_answer_that_is_longer_than_the_bound_is_not_read_to_its_end(post: Post, status: int, taken: bool) -> None:
    written = 0

    async def play(line: Line) -> None:
        nonlocal written
        await line.request()
        if server.connections > 1:
            await line.say(OK)
            return
        await line.say(f"HTTP/1.1 {status} X\r\nContent-Length: 1000000000\r\n\r\n".encode())
        while True:
            await line.say(b"x" * 65536)
            written += 65536

    server = await post.server(play)
    sender = post.sender(server.port)
    assert await sent(sender) is taken
    await until(lambda: len(server.tasks) == 0)
    assert written < TELEMETRY_ANSWER + 20_000_000  # what fits in the kernel's buffers besides
    assert await sent(sender)
    assert server.connections == 2


async def test_a_head_without_end_is_not_read_for_ever(post: Post) -> None:
    async def play(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\n")
        while True:
            await line.say(b"X-Long: " + b"x" * 60_000 + b"\r\n")

    server = await post.server(play)
    assert not await sent(post.sender(server.port))


async def test_interim_answers_without_end_are_not_read_for_ever(post: Post) -> None:
    async def play(line: Line) -> None:
        await line.request()
        while True:
            await line.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    server = await post.server(play)
    assert not await sent(post.sender(server.port))


async def test_an_answer_before_the_end_of_the_request_counts(post: Post) -> None:
    async def play(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(b"HTTP/1.1 413 Too large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    server = await post.server(play, size=4096)
    assert not await sent(post.sender(server.port), [b'"%b"' % (b"x" * 4_000_000)])


# ── connections ──


@pytest.mark.catalogue("TL-036")
@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
async def test_a_listener_that_comes_late_gets_it(post: Post, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    sender = post.sender(port, protocol)
    for _ in range(3):
        assert not await sent(sender)
    requests: list[tuple[str, dict[str, str], bytes]] = []
    lines: list[bytes] = []

    async def read(line: Line) -> None:
        lines.append(await line.reader.readline())

    await post.server(keeping(requests) if protocol == "HTTP" else read, port)
    assert await sent(sender)
    await until(lambda: bool(requests or lines))


@pytest.mark.catalogue("TL-036")
async def test_a_subscriber_that_accepts_one_connection_and_binds_again(post: Post) -> None:
    """As AWS's `lambda-extension` crate does: while one connection is served there is no listener."""
    requests: list[tuple[str, dict[str, str], bytes]] = []
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]

    async def serve() -> None:
        while True:
            with socket.create_server(("127.0.0.1", port), backlog=1) as listener:
                listener.setblocking(False)
                one, _ = await loop.sock_accept(listener)
            reader, writer = await asyncio.open_connection(sock=one)
            line = Line(reader, writer)
            try:
                for _ in range(3):
                    requests.append(await line.request())
                    await line.say(OK)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    serving = asyncio.ensure_future(serve())
    sender = post.sender(port)
    failures = 0
    for number in range(10):
        while not await sent(sender, [b"%d" % number]):
            failures += 1
            assert failures < 100
            await asyncio.sleep(0.001)
    assert [body for _, _, body in requests] == [b"[%d]" % number for number in range(10)]
    sender.abort()
    await asyncio.sleep(0.001)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
async def test_after_abort_nobody_is_called_and_the_connection_is_gone(post: Post, protocol: str) -> None:
    arrived = asyncio.Event()

    async def play(line: Line) -> None:
        await line.reader.read(1)
        arrived.set()
        while await line.reader.read(65536):
            pass

    server = await post.server(play, size=4096)
    sender = post.sender(server.port, protocol)
    answers: list[bool] = []
    sender.send([b'"%b"' % (b"x" * 10_000_000)], answers.append)
    sender.abort()  # while it connects
    sender.send([b'"%b"' % (b"x" * 10_000_000)], answers.append)
    await arrived.wait()
    sender.abort()  # on its way
    await until(lambda: not server.tasks)
    assert answers == []


# ── TCP ──


@pytest.mark.catalogue("TL-035")
async def test_tcp_is_one_event_a_line_over_one_connection(post: Post) -> None:
    lines: list[bytes] = []

    async def play(line: Line) -> None:
        while data := await line.reader.readline():
            lines.append(data)

    server = await post.server(play)
    sender = post.sender(server.port, "TCP")
    for number in range(10):
        assert await sent(sender, [b'{"n":%d}' % number, b'{"x":"\\n"}'])
    await until(lambda: len(lines) == 20)
    assert server.connections == 1
    assert all(line.endswith(b"\n") for line in lines)
    assert [json.loads(line) for line in lines[::2]] == [{"n": number} for number in range(10)]


@pytest.mark.catalogue("TL-035", "TL-038")
async def test_a_tcp_reader_that_stalls_takes_nothing_until_it_reads(post: Post) -> None:
    gate, total = asyncio.Event(), 0

    async def play(line: Line) -> None:
        nonlocal total
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await gate.wait()
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while data := await line.reader.read(65536):
            total += len(data)

    server = await post.server(play, size=4096)
    sender = post.sender(server.port, "TCP")
    answers: list[bool] = []
    sender.send([b"x" * 32_000_000], answers.append)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert answers == []
    gate.set()
    await until(lambda: bool(answers))
    assert answers == [True]
    await until(lambda: total == 32_000_001)


@pytest.mark.catalogue("TL-035", "TL-036")
async def test_a_tcp_reader_that_goes_in_the_middle_is_a_failure(post: Post) -> None:
    async def play(line: Line) -> None:
        await line.reader.read(10)
        line.writer.transport.abort()  # type: ignore[attr-defined]

    server = await post.server(play, size=4096)
    sender = post.sender(server.port, "TCP")
    assert not await sent(sender, [b"x" * 32_000_000])
    await sent(sender, [b"{}"])
    assert server.connections == 2


@pytest.mark.catalogue("TL-035", "TL-036")
async def test_a_tcp_reader_that_has_closed_gets_a_new_connection(post: Post) -> None:
    lines: list[bytes] = []

    async def play(line: Line) -> None:
        lines.append(await line.reader.readline())

    server = await post.server(play)
    sender = post.sender(server.port, "TCP")
    for count in range(1, 6):
        assert await sent(sender, [b"%d" % count])
        await until(lambda count=count: len(lines) == count and not server.tasks)  # type: ignore[misc]
        for _ in range(10):
            await asyncio.sleep(0.001)
    assert lines == [b"%d\n" % number for number in range(1, 6)]
    assert server.connections == 5


async def test_what_a_tcp_reader_says_is_not_heard(post: Post) -> None:
    lines: list[bytes] = []

    async def play(line: Line) -> None:
        await line.say(b"hello\n" * 1000)
        while data := await line.reader.readline():
            lines.append(data)

    server = await post.server(play)
    sender = post.sender(server.port, "TCP")
    for _ in range(5):
        assert await sent(sender)
    await until(lambda: len(lines) == 10)
