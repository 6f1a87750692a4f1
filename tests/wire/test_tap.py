"""A tap: every exchange is seen, and a fault is what it says, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import Limits
from sandbox.host.environment import Environment
from sandbox.package.cache import Cache
from sandbox.package.package import open_package
from sandbox.telemetry.journal import Journal
from sandbox.wire.tap import KEPT, ROUTES, Fault, Tap, route_of
from tests.conftest import SLEEPER, Connection, MakeFolder, Played, Tier, no_task_is_left, request

NEXT = "/2018-06-01/runtime/invocation/next"


class Tapped(Played):
    tap: Tap

    async def parked_poll(self) -> Connection:
        """A runtime is waiting for its first event."""
        self.environment.start()
        connection = await self.connect()
        await connection.send(request("GET", NEXT))
        await self.until(lambda: self.environment.free)
        return connection

    async def raw_next(self, payload: bytes = b'"event"') -> bytes:
        """What a poll is answered with, byte by byte, until the host hangs up."""
        connection = await self.connect()
        self.invoke(payload)
        await connection.send(request("GET", NEXT, Connection="close"))
        return await asyncio.wait_for(connection.reader.read(), 10)


@pytest.fixture
async def played(folder: MakeFolder, tier: Tier) -> AsyncIterator[Tapped]:
    function = FunctionConfig(str(folder(bootstrap=SLEEPER)), timeout=3)
    clock, journal = ManualClock(), Journal()
    tap = Tap(clock)
    package = open_package(function.code, (), Cache())
    environment = Environment(function, package, journal, clock, isolation=tier.isolation, limits=Limits(), tap=tap)
    await environment.open()
    world = Tapped(environment, clock, journal)
    world.tap = tap
    try:
        yield world
    finally:
        await world.close()
        no_task_is_left()


async def answer(played: Tapped, connection: Connection, body: bytes = b"1", **fields: str) -> Any:
    """One invoke, delivered and answered; the reply to the answer."""
    _, event = await played.deliver(connection)
    path = f"invocation/{event.headers['lambda-runtime-aws-request-id']}/response"
    return await connection.ask("POST", path, body, **fields)


def test_routes() -> None:
    paths = {
        "next": NEXT,
        "response": "/2018-06-01/runtime/invocation/x/response",
        "error": "/2018-06-01/runtime/invocation/x/error",
        "register": "/2020-01-01/extension/register",
        "telemetry": "/2022-07-01/telemetry",
    }
    methods = {"next": "GET", "telemetry": "PUT"}
    for name, path in paths.items():
        assert route_of(methods.get(name, "POST"), path) == name
        assert route_of("DELETE", path) is None
        assert route_of(methods.get(name, "POST"), f"{path}/more") is None
    assert set(paths) <= set(ROUTES)


def test_a_route_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="route 'nxt': one of next, response"):
        Tap(ManualClock()).spoil("nxt", Fault())


async def test_every_exchange_is_seen_as_it_was(played: Tapped) -> None:
    connection = await played.connect()
    await answer(played, connection, b'{"a": 1}', X_Strange_CASE="Value")
    poll, post = played.tap.exchanges
    assert (poll.route, poll.method, poll.path, poll.status, poll.version) == ("next", "GET", NEXT, 200, "1.1")
    assert poll.replied("lambda-runtime-deadline-ms")
    assert poll.reply == b"{}"
    assert (post.route, post.body, post.size, post.status, post.complete) == ("response", b'{"a": 1}', 8, 202, True)
    assert ("X-Strange-CASE", "Value") in post.fields
    assert post.get("x-strange-case") == "Value"
    assert poll.connection == post.connection == 1
    assert played.tap.of("response") == [post]


async def test_trailers_and_chunks_are_seen(played: Tapped) -> None:
    connection = await played.connect()
    _, event = await played.deliver(connection)
    path = f"/2018-06-01/runtime/invocation/{event.headers['lambda-runtime-aws-request-id']}/response"
    head = request("POST", path, Transfer_Encoding="chunked", Trailer="Lambda-Runtime-Function-Error-Type")
    await connection.send(head + b"3\r\nabc\r\n0\r\nLambda-Runtime-Function-Error-Type: Boom\r\n\r\n")
    assert (await connection.reply()).status == 202
    [post] = played.tap.of("response")
    assert (post.chunked, post.body, post.trailer("lambda-runtime-function-error-type")) == (True, b"abc", "Boom")


async def test_a_client_that_goes_is_seen(played: Tapped) -> None:
    connection = await played.parked_poll()
    await connection.close()
    await played.until(lambda: played.tap.exchanges[0].gone)
    await played.until(lambda: played.tap.open_connections == 0)  # its end of the stream is seen before the connection's


FORMS = {
    "chunk": (Fault(chunk=2), [b"Transfer-Encoding: chunked", b'\r\n\r\n2\r\n"e\r\n2\r\nve\r\n2\r\nnt\r\n1\r\n"\r\n0\r\n\r\n']),
    "piece": (Fault(piece=1), [b"HTTP/1.1 200 OK", b'"event"']),
    "interim": (Fault(interim=(100, 103)), [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK"]),
    "rename": (Fault(rename=str.upper), [b"LAMBDA-RUNTIME-AWS-REQUEST-ID: ", b"CONTENT-LENGTH: 7"]),
    "fields": (Fault(fields=(("X-A", "b"), ("content-type", "x/y"))), [b"X-A: b\r\n", b"content-type: x/y"]),
    "body": (Fault(body=b"other"), [b"Content-Length: 5", b"\r\n\r\nother"]),
    "status": (Fault(status=418), [b"HTTP/1.1 418 "]),
    "unknown-status": (Fault(status=599), [b"HTTP/1.1 599 Unknown"]),
    "cut": (Fault(cut=3), [b"Content-Length: 7", b'\r\n\r\n"ev']),
}


@pytest.mark.parametrize(("fault", "wanted"), FORMS.values(), ids=FORMS)
async def test_a_reply_is_spoilt_as_the_fault_says(played: Tapped, fault: Fault, wanted: list[bytes]) -> None:
    played.tap.spoil("next", fault)
    raw = await played.raw_next()
    for part in wanted:
        assert part in raw
    assert raw.endswith(wanted[-1]) or fault.cut is None
    assert played.tap.exchanges[0].fault == fault


async def test_fields_are_left_out(played: Tapped) -> None:
    played.tap.spoil("next", Fault(without=frozenset({"content-type", "lambda-runtime-trace-id"})))
    raw = (await played.raw_next()).lower()
    assert b"content-type" not in raw
    assert b"trace-id" not in raw
    assert b"lambda-runtime-deadline-ms" in raw


@pytest.mark.parametrize(("fault", "served"), [(Fault(lost=True), 2), (Fault(lost=True, reaches_host=False), 1)])
async def test_a_reply_is_lost(played: Tapped, fault: Fault, served: int) -> None:
    """An event that was lost on its way is given again; one that nobody was asked for is given for the first time."""
    played.tap.spoil("next", fault)
    assert await played.raw_next() == b""
    [job] = played.environment._jobs.values()
    connection = await played.connect()
    assert (await connection.ask("GET", "invocation/next")).status == 200
    assert job.deliveries == served


async def test_a_reply_that_never_comes(played: Tapped) -> None:
    played.tap.spoil("next", Fault(silent=True))
    connection = await played.connect()
    played.invoke()
    await connection.send(request("GET", NEXT))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connection.reply(), 0.05)
    assert not connection.reader.at_eof()


async def test_a_reply_is_held_on_the_host_s_clock(played: Tapped) -> None:
    played.tap.spoil("response", Fault(hold=60))
    connection = await played.connect()
    waiting = asyncio.ensure_future(answer(played, connection))
    await played.until(lambda: bool(played.tap.of("response")) and played.tap.of("response")[0].complete)
    await asyncio.sleep(0.02)
    assert not waiting.done()
    played.clock.advance(61)
    assert (await waiting).status == 202


@pytest.mark.parametrize("announced", [True, False])
async def test_the_connection_ends_after_the_reply(played: Tapped, announced: bool) -> None:
    played.tap.spoil("response", Fault(close=True, announced=announced))
    connection = await played.connect()
    reply = await answer(played, connection)
    assert reply.status == 202
    assert ("connection" in reply.headers) is announced
    assert await asyncio.wait_for(connection.reader.read(), 10) == b""


async def test_the_connection_ends_before_the_body_is_read(played: Tapped) -> None:
    played.tap.spoil("response", Fault(at_once=True, reaches_host=False))
    connection = await played.connect()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await answer(played, connection, b"x" * 1_000_000)
    [job] = played.environment._jobs.values()
    assert not job.answered.done()


async def test_what_the_host_does_not_hear_of_changes_nothing(played: Tapped) -> None:
    played.tap.spoil("response", Fault(reaches_host=False, status=503, body=b"{}"))
    connection = await played.connect()
    assert (await answer(played, connection)).status == 503
    [job] = played.environment._jobs.values()
    assert not job.answered.done()
    event = await connection.ask("GET", "invocation/next")  # the same again
    path = f"invocation/{event.headers['lambda-runtime-aws-request-id']}/response"
    assert (await connection.ask("POST", path, b"1")).status == 202
    assert job.answered.done()


async def test_which_exchanges_are_spoilt(played: Tapped) -> None:
    tap = played.tap
    tap.spoil("response", Fault(status=599), skip=1, times=2)
    connection = await played.connect()
    assert [(await answer(played, connection)).status for _ in range(5)] == [202, 599, 599, 202, 202]
    tap.spoil("response", Fault(status=599), times=100)
    tap.heal()
    assert (await answer(played, connection)).status == 202
    tap.spoil("response", Fault(status=599), environment="another")
    assert (await answer(played, connection)).status == 202


async def test_a_poll_that_waits_already_can_be_spoilt(played: Tapped) -> None:
    connection = await played.parked_poll()
    played.tap.spoil("next", Fault(fields=(("X-Late", "1"),)))
    played.invoke()
    assert (await connection.reply()).headers["x-late"] == "1"


async def test_of_large_bodies_the_beginning_is_kept(played: Tapped) -> None:
    connection = await played.connect()
    await answer(played, connection, b"x" * 1_000_000)
    [post] = played.tap.of("response")
    assert (len(post.body), post.size) == (KEPT, 1_000_000)
