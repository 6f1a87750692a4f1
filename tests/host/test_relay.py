"""Functions with a network of their own reach the ports of this host that they were given, and no other."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from sandbox import Host
from sandbox.host.relay import Around, Port, Relay
from tests.conftest import SHORT, MakeFolder, Tier, no_task_is_left

APP = """
import os, socket
def handler(event, context):
    if event.get("do") == "exit":
        os._exit(3)
    if event.get("do") == "env":
        return {name: os.environ.get(name) for name in event["names"]}
    if event.get("do") == "try":
        found = []
        for port in event["ports"]:
            for address in event["addresses"]:
                try:
                    socket.create_connection((address, port), 3).close()
                    found.append([address, port])
                except OSError:
                    pass
        return found
    with socket.create_connection(("127.0.0.1", event["port"]), 10) as talk:
        talk.sendall(event["say"].encode())
        talk.shutdown(socket.SHUT_WR)
        data = b""
        while piece := talk.recv(65536):
            data += piece
    return data.decode()
"""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All of it, after its end."""
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


@asynccontextmanager
async def listening(serve: Serve = echo) -> AsyncIterator[int]:
    """A port of this host's loopback."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def relayed(port: int) -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = listener.getsockname()
    relay = Relay(listener, Port(port))
    await relay.start()
    try:
        yield address
    finally:
        await relay.close()
        assert [task for task in asyncio.all_tasks() if "Relay._serve" in repr(task.get_coro())] == []


# ── the relay alone ──


async def test_bytes_go_both_ways_and_so_does_an_end() -> None:
    async with listening() as port, relayed(port) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"half ")
        await writer.drain()
        writer.write(b"a word")
        writer.write_eof()  # the answer comes after it
        assert await reader.read() == b"HALF A WORD"
        writer.close()
        await writer.wait_closed()


async def test_much_goes_through_whole_to_a_slow_reader() -> None:
    data = os.urandom(1 << 20) * 8

    async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async with listening(big) as port, relayed(port) as address:
        reader, writer = await asyncio.open_connection(*address, limit=1024)
        got = bytearray()
        while piece := await reader.read(1 << 16):
            got += piece
            await asyncio.sleep(0)
        assert bytes(got) == data
        writer.close()
        await writer.wait_closed()


async def test_many_at_once_do_not_mix() -> None:
    async def ask(address: tuple[str, int], number: int) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"caller {number}".encode())
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async with listening() as port, relayed(port) as address:
        answers = await asyncio.gather(*(ask(address, number) for number in range(50)))
    assert answers == [f"CALLER {number}".encode() for number in range(50)]


async def test_where_nobody_listens_the_caller_is_hung_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    async with relayed(port) as address:
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_caller_that_has_gone_is_told_to_the_other_side() -> None:
    over = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        over.set()
        writer.close()

    async with listening(wait) as port, relayed(port) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"x")
        writer.transport.abort()
        await asyncio.wait_for(over.wait(), 20)


async def test_a_side_that_breaks_off_ends_the_other(caplog: pytest.LogCaptureFixture) -> None:
    """A reset in the middle of a big answer: nothing stays open, and nothing is logged as a mistake."""

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"x" * 100_000)
        writer.transport.abort()

    async with listening(broken) as port, relayed(port) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"y" * 100_000)
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        writer.close()
    assert caplog.records == []


async def test_closing_ends_what_is_open() -> None:
    until_there = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        until_there.set()
        await reader.read()
        writer.close()

    async with listening(wait) as port:
        async with relayed(port) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            await until_there.wait()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)


# ── an environment ──


@asynccontextmanager
async def around(tier: Tier, *ports: int, **variables: str) -> AsyncIterator[Host]:
    async with Host(limits=SHORT) as host:
        host.around = Around(variables, tuple(Port(port) for port in ports))
        yield host
    no_task_is_left()


async def test_a_function_reaches_the_ports_it_was_given(tier: Tier, folder: MakeFolder) -> None:
    async with listening() as one, listening() as other, around(tier, one, other) as host:
        function = await host.deploy(folder(app_py=APP), runtime="python", handler="app.handler", timeout=20)
        for port in (one, other):
            result = await function.invoke({"port": port, "say": "from the function"})
            assert result.json() == "FROM THE FUNCTION"


@pytest.mark.tiers("namespace")
async def test_a_function_reaches_no_other_port_of_this_host(tier: Tier, folder: MakeFolder) -> None:
    async with listening() as given, listening() as other, around(tier, given) as host:
        function = await host.deploy(folder(app_py=APP), runtime="python", handler="app.handler", timeout=60)
        addresses = ["127.0.0.1", "localhost", "127.0.0.2", "::1", "10.0.2.2"]
        result = await function.invoke({"do": "try", "ports": [given, other], "addresses": addresses})
        assert {port for _, port in result.json()} == {given}


async def test_the_port_is_there_again_after_a_crash(tier: Tier, folder: MakeFolder) -> None:
    async with listening() as port, around(tier, port) as host:
        function = await host.deploy(folder(app_py=APP), runtime="python", handler="app.handler", timeout=20)
        assert (await function.invoke({"do": "exit"})).function_error is not None
        assert (await function.invoke({"port": port, "say": "again"})).json() == "AGAIN"


@pytest.mark.tiers("namespace")
async def test_each_of_several_environments_has_its_own_way(tier: Tier, folder: MakeFolder) -> None:
    both = asyncio.Barrier(2)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait_for(both.wait(), 20)  # two at once: two environments
        await echo(reader, writer)

    async with listening(meet) as port, around(tier, port) as host:
        function = await host.deploy(folder(app_py=APP), runtime="python", handler="app.handler", timeout=30)
        results = await asyncio.gather(*(function.invoke({"port": port, "say": word}) for word in ("a", "b")))
        assert [result.json() for result in results] == ["A", "B"]
        assert len(function.environments) == 2


@pytest.mark.tiers("process")
async def test_a_functions_own_value_wins(tier: Tier, folder: MakeFolder) -> None:
    async with around(tier, AWS_ENDPOINT_URL_LAMBDA="http://127.0.0.1:1", AWS_ENDPOINT_URL="http://127.0.0.1:2") as host:
        mine = {"AWS_ENDPOINT_URL": "http://mine:3"}
        settings = {"runtime": "python", "handler": "app.handler", "environment": mine}
        function = await host.deploy(folder(app_py=APP), **settings)
        result = await function.invoke({"do": "env", "names": ["AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL"]})
        assert result.json() == {"AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:1", "AWS_ENDPOINT_URL": "http://mine:3"}
