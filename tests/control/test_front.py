"""The listener: hot requests (Invoke) and cold ones (the rest) in every order, and clients that do odd things."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import SHORT, Connection, Tier, no_task_is_left, request
from tests.control.conftest import Caller, called, zip_of
from tests.control.test_invoke import GOES_ON, connected, path_of, raw, until

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

HOT = request("POST", path_of(), b'{"x": 1}')
COLD = request("GET", "/2015-03-31/functions/f/configuration")


async def read(connection: Connection, kind: bytes) -> None:
    """The answer to HOT or to COLD."""
    reply = await connection.reply()
    assert reply.status == 200
    if kind is HOT:
        assert reply.json()["event"] == {"x": 1}
    else:
        assert reply.json()["FunctionName"] == "f"


ORDERS = [order for length in (2, 3) for order in itertools.product((HOT, COLD), repeat=length)]


async def test_hot_and_cold_requests_share_a_connection(caller: Caller) -> None:
    await caller.create()
    for order in ORDERS:
        async with connected(caller) as connection:
            for kind in order:
                await connection.send(kind)
                await read(connection, kind)


async def test_pipelined_requests_are_answered_in_their_order(caller: Caller) -> None:
    await caller.create()
    for order in ORDERS:
        async with connected(caller) as connection:
            await connection.send(b"".join(order))  # one segment
            for kind in order:
                await read(connection, kind)
            await connection.send(HOT)
            await read(connection, HOT)


async def test_a_request_behind_one_that_is_still_answered(caller: Caller, tmp_path: Path) -> None:
    await caller.create(app=GOES_ON, Timeout=30)
    for number, later in enumerate((COLD, HOT)):
        files = {name: str(tmp_path / f"{name}{number}") for name in ("begun", "go", "done")}
        async with connected(caller) as connection:
            await connection.send(request("POST", path_of(), json.dumps(files).encode()))
            await until(Path(files["begun"]))
            await connection.send(later)
            await raw(caller, name="nobody")
            Path(files["go"]).touch()
            assert [(await connection.reply()).status for _ in range(2)] == [200, 200]


async def test_a_large_request_behind_an_invoke(caller: Caller) -> None:
    """Longer than an event may be, but not than code."""
    await caller.create()
    await caller.create("g")
    code = base64.b64encode(zip_of(app_py="x = 1", data=os.urandom(6 * 1024 * 1024))).decode()
    body = json.dumps({"ZipFile": code}).encode()
    async with connected(caller) as connection:
        await connection.send(HOT + request("PUT", "/2015-03-31/functions/g/code", body))
        await read(connection, HOT)
        reply = await connection.reply()
        assert (reply.status, reply.json().get("FunctionName")) == (200, "g")
    await caller.active("g")


async def test_a_request_may_come_in_pieces(caller: Caller) -> None:
    await caller.create()
    async with connected(caller) as connection:
        for kind in (HOT, COLD):
            end = kind.index(b"\r\n") + 3
            for at in range(1, end):
                async with connected(caller) as other:
                    await other.send(kind[:at])
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    await other.send(kind[at:])
                    await read(other, kind)
        for at in range(1, len(HOT)):  # on one connection
            await connection.send(HOT[:at])
            await asyncio.sleep(0)
            await connection.send(HOT[at:])
            await read(connection, HOT)
        for byte in HOT + COLD + HOT:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0)
        for kind in (HOT, COLD, HOT):
            await read(connection, kind)


async def test_chunked_bodies(caller: Caller) -> None:
    await caller.create()
    head = f"POST {path_of()} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with connected(caller) as connection:
        for _ in range(2):
            await connection.send(head + b'4\r\n{"x"\r\n')
            await connection.send(b"4\r\n: 1}\r\n0\r\n\r\n")
            await read(connection, HOT)


@pytest.mark.parametrize("hot", [True, False])
async def test_a_client_that_waits_for_100_continue(caller: Caller, hot: bool) -> None:
    await caller.create()
    method, path, body = (
        ("POST", path_of(), b'{"x": 1}')
        if hot
        else ("PUT", "/2017-10-31/functions/f/concurrency", b'{"ReservedConcurrentExecutions":1}')
    )
    whole = request(method, path, body, Expect="100-continue")
    async with connected(caller) as connection:
        await connection.send(whole[: -len(body)])
        async with asyncio.timeout(5):
            assert (await connection.reply()).status == 100
            await connection.send(body)
            assert (await connection.reply()).status == 200


async def test_older_clients_and_those_that_want_one_answer(caller: Caller) -> None:
    await caller.create()
    path = path_of().encode()
    for text in (
        b"POST %b HTTP/1.0\r\nContent-Length: 8\r\n\r\n" % path,
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 8\r\n\r\n" % path,
    ):
        async with connected(caller) as connection:
            await connection.send(text + b'{"x": 1}')
            await read(connection, HOT)
            assert await connection.reader.read() == b""


async def test_a_head_request_has_no_body(caller: Caller) -> None:
    await caller.create()
    async with connected(caller) as connection:
        await connection.send(request("HEAD", path_of()))
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        await connection.send(HOT)
        await read(connection, HOT)


FOREIGN = [
    {"Host": "example.com"},
    {"Host": "localhost.example.com"},
    {"Host": "10.0.0.1:9001"},
    {"Host": "127.0.0.1:9001", "Origin": "http://example.com"},
    {"Host": "127.0.0.1:9001", "Origin": "null"},
    {"Host": "127.0.0.1:9001", "Sec-Fetch-Site": "cross-site"},
    {"Host": "127.0.0.1:9001", "Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("seen", [False, True])
async def test_pages_of_other_sites_are_refused_before_anything_runs(caller: Caller, seen: bool) -> None:
    """Whether or not a good request has come on the connection before."""
    await caller.create()
    calls = 0
    for headers in FOREIGN:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        for line, body in ((f"POST {path_of()}", b"{}"), ("DELETE /2015-03-31/functions/f", b""), ("GET /_blobs/x", b"")):
            async with connected(caller) as connection:
                if seen:
                    await connection.send(HOT)
                    await read(connection, HOT)
                    calls += 1
                await connection.send(f"{line} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                reply = await connection.reply()
                assert (headers, reply.status) == (headers, 403)
                assert reply.headers["x-amzn-errortype"] == "AccessDeniedException"
    assert (await raw(caller)).json()["calls"] == calls + 1


async def test_local_pages_and_names_are_let_in(caller: Caller) -> None:
    await caller.create()
    good = ("localhost", "localhost:1", "127.0.0.2:9", "[::1]:8", "a.localhost", "sandbox:3")
    for host in good:
        for extra in ("", f"Origin: http://{host}\r\n", "Sec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Mode: cors\r\n"):
            async with connected(caller) as connection:
                await connection.send(f"POST {path_of()} HTTP/1.1\r\nHost: {host}\r\n{extra}Content-Length: 0\r\n\r\n".encode())
                assert (host, extra, (await connection.reply()).status) == (host, extra, 200)


@pytest.fixture
async def named(tier: Tier, lean: bool) -> AsyncIterator[Caller]:
    """A service that answers to another name, too."""
    async with called(Host(limits=SHORT), lean=lean, allowed=frozenset({"lambda.internal"})) as made:
        yield made


async def test_a_name_that_is_allowed(named: Caller) -> None:
    await named.create()
    for host, status in (("lambda.internal", 200), ("LAMBDA.internal:80", 200), ("x.lambda.internal", 403)):
        for line in (f"POST {path_of()}", "GET /2015-03-31/functions/f"):
            async with connected(named) as connection:
                await connection.send(f"{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
                assert (host, line, (await connection.reply()).status) == (host, line, status)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        HOT.replace(b"Content-Length: 8", b"Content-Length: x"),
        HOT.replace(b"Host:", b"Bad header\r\nHost:"),
        b"GET / HTTP/1.1\n\n\r\n",
    ],
)
async def test_garbage_is_refused_and_does_no_harm(caller: Caller, garbage: bytes) -> None:
    async with connected(caller) as connection:
        await connection.send(garbage)
        reply = await connection.reader.readuntil(b"\r\n")
        assert reply.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert (await raw(caller, name="nobody")).status == 404


async def test_clients_that_hang_up_in_a_request(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """That is nobody's mistake here."""
    await caller.create()
    for kind in (HOT, COLD, request("PUT", "/2017-10-31/functions/f/concurrency", b"{ }")):
        for at in (0, 1, 10, kind.index(b"\r\n") + 2, len(kind) - 1):
            async with connected(caller) as connection:
                await connection.send(kind[:at])
            async with connected(caller) as connection:
                await connection.send(kind[:at])
                connection.writer.transport.abort()
    assert (await raw(caller)).json()["calls"] == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_two_hundred_connections_at_once(caller: Caller) -> None:
    await caller.create()
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=2)
    connections = [Connection(*await asyncio.open_connection(*caller.endpoint[7:].split(":"))) for _ in range(200)]
    try:
        for number, connection in enumerate(connections):
            await connection.send((HOT, COLD)[number % 2])
        for number, connection in enumerate(connections):
            reply = await connection.reply()
            assert reply.status in ((200, 429), (200,))[number % 2]
    finally:
        for connection in connections:
            await connection.close()


@pytest.mark.parametrize("used", [b"", HOT, COLD, HOT[:20]])
async def test_an_idle_connection_does_not_keep_the_server(tier: Tier, lean: bool, used: bytes) -> None:
    """Its client finds it closed."""
    async with Service(Host(limits=SHORT)) as service:
        server = Server(service, lean=lean)
        made = Caller(await server.start(), service)
        async with connected(made) as connection:
            await connection.send(used)
            if used in (HOT, COLD):
                assert (await connection.reply()).status == 404
            await raw(made, name="nobody")
            made.client.close()
            async with asyncio.timeout(4):  # not the time that answers under way may take
                await server.close()
            try:
                assert await connection.reader.read() == b""
            except ConnectionResetError:
                pass
    no_task_is_left()


async def test_a_server_that_closes_while_an_environment_is_made(tier: Tier, lean: bool) -> None:
    """Nothing is left of it: the fixtures look."""
    async with Service(Host(limits=SHORT)) as service:
        server = Server(service, lean=lean)
        made = Caller(await server.start(), service)
        await made.create()
        made.client.close()
        async with connected(made) as connection:
            await connection.send(HOT)
            function = service.live._functions["f"].versions["$LATEST"].function
            assert function is not None
            while not function._scheduler._opening:
                await asyncio.sleep(0)
            await server.close()
    no_task_is_left()
