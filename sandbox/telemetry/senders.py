"""How a batch reaches a subscriber: over one keep-alive HTTP connection, or one TCP connection (TL-034, TL-035).

A client of our own, not a library's: a batch is on its way when `send` returns, which orders it before what the host writes
next; answers are read bounded, no redirect is followed, no proxy is asked, and the socket is made by whoever knows the
environment's network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import httptools

from sandbox.core.limits import TELEMETRY_ANSWER
from sandbox.core.subscription import Subscription

Dial = Callable[[Callable[[], asyncio.Protocol], int], Awaitable[object]]
Done = Callable[[bool], None]
_OK: Final = range(200, 300)


async def dial_loopback(protocol: Callable[[], asyncio.Protocol], port: int) -> object:
    """Connects to a port of 127.0.0.1: where `sandbox.localdomain` is in an environment that shares the host's network."""
    return await asyncio.get_running_loop().create_connection(protocol, "127.0.0.1", port)


class Sender(Protocol):
    """Sends one batch at a time."""

    def send(self, batch: Sequence[bytes], done: Done) -> None:
        """Sends it; `done` is called once with whether it was taken. Connects first, if it must."""

    @property
    def connecting(self) -> bool:
        """Whether a batch waits for the connection to be made."""

    def abort(self) -> None:
        """Gives up what is on its way, connection included; `done` is not called any more."""


def make_sender(subscription: Subscription, dial: Dial) -> Sender:
    return HttpSender(subscription, dial) if subscription.protocol == "HTTP" else TcpSender(subscription, dial)


class _Connecting(asyncio.Protocol):
    """One connection at a time, made when there is something to send."""

    def __init__(self, subscription: Subscription, dial: Dial) -> None:
        self._subscription = subscription
        self._dial = dial
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._done: Done | None = None
        self._batch: Sequence[bytes] = ()

    def send(self, batch: Sequence[bytes], done: Done) -> None:
        self._batch, self._done = batch, done
        if self._transport is not None and not self._transport.is_closing():
            self._write(self._transport)
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._connect())

    @property
    def connecting(self) -> bool:
        return self._task is not None

    def abort(self) -> None:
        self._done, self._batch = None, ()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    async def _connect(self) -> None:
        try:
            await self._dial(lambda: self, self._subscription.port)
        except OSError:
            self._finish(False)
        finally:
            self._task = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's
        self._task = None
        if self._done is None:
            transport.close()
        else:
            assert self._transport is not None
            self._write(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish(False)

    def _finish(self, taken: bool) -> None:
        done, self._done = self._done, None
        self._batch = ()
        if done is not None:
            done(taken)

    def _write(self, transport: asyncio.Transport) -> None:
        raise NotImplementedError


class HttpSender(_Connecting):
    """POSTs a JSON array, and waits for its answer before the next."""

    def __init__(self, subscription: Subscription, dial: Dial) -> None:
        super().__init__(subscription, dial)
        where = subscription
        self._head = f"{where.method} {where.path} HTTP/1.1\r\nHost: {where.host}:{where.port}\r\n".encode()
        self._parser: httptools.HttpResponseParser | None = None
        self._status = 0
        self._read = 0

    def _write(self, transport: asyncio.Transport) -> None:
        body = b"[" + b",".join(self._batch) + b"]"
        self._parser = httptools.HttpResponseParser(self)
        self._status = self._read = 0
        transport.write(self._head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def data_received(self, data: bytes) -> None:
        parser, transport = self._parser, self._transport
        if parser is None or transport is None:
            self._hang_up()  # an answer that nobody asked for
            return
        self._read += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hang_up()
            return
        if self._parser is not None and self._read > TELEMETRY_ANSWER:
            self._hang_up(self._status in _OK)

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        if self._status < 200:
            return  # an interim answer; the final one follows
        self._parser = None
        if not parser.should_keep_alive():
            self._hang_up(self._status in _OK)
        else:
            self._finish(self._status in _OK)

    def connection_lost(self, exc: Exception | None) -> None:
        ended_by_eof = self._parser is not None and self._status in _OK and exc is None
        self._transport = self._parser = None
        self._finish(ended_by_eof)

    def _hang_up(self, taken: bool = False) -> None:
        transport, self._transport = self._transport, None
        self._parser = None
        if transport is not None:
            transport.abort()
        self._finish(taken)


class TcpSender(_Connecting):
    """Writes a line for each event. Nothing answers: a batch is taken when the last of it has left for the kernel."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.set_write_buffer_limits(high=0)  # type: ignore[attr-defined]
        self._full = False
        super().connection_made(transport)

    def _write(self, transport: asyncio.Transport) -> None:
        transport.write(b"".join([event + b"\n" for event in self._batch]))
        if not self._full:
            self._finish(True)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._finish(True)
