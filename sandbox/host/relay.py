"""Lets the processes of an environment with a network of its own reach one port of this host, on the same port of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

_BLOCK = 64 * 1024


class Port(NamedTuple):
    """A port of this host, at one of its own addresses."""

    number: int
    address: str = "127.0.0.1"


class Around(NamedTuple):
    """What functions find around them. variables: of the environment, unless a function sets them itself. ports: those that
    they reach even from a network of their own, at their 127.0.0.1."""

    variables: Mapping[str, str]
    ports: tuple[Port, ...]


NOTHING: Final = Around({}, ())


class Relay:
    """Passes on what comes to `listener`, both ways, to a port of this host."""

    def __init__(self, listener: socket.socket, port: Port) -> None:
        self._listener = listener
        self._port = port
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):  # nobody listens there, or somebody hung up: so does the other side
                there_reader, there_writer = await asyncio.open_connection(self._port.address, self._port.number)
                try:
                    await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
                finally:
                    there_writer.close()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
