"""How a batch reaches a subscriber: over one keep-alive HTTP connection, or one TCP connection (TL-034, TL-035).

A client of our own, not a library's: a batch is on its way when `send` returns, which orders it before what the host writes
next; answers are read bounded, no redirect is followed, no proxy is asked, and the socket is made by whoever knows the
environment's network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

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


class _Link(asyncio.Protocol):
    """One connection of a sender. Once the sender has let go of it, nothing that happens to it counts any more."""

    def __init__(self, sender: _Connecting) -> None:
        self.sender: _Connecting | None = sender
        self.transport: asyncio.Transport | None = None
        self.full = False  # something that was written is still here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by name
        self.transport.set_write_buffer_limits(high=0)
        if self.sender is None:
            self.drop()
        else:
            self.sender.connected()

    def drop(self) -> None:
        """The sender lets go of it."""
        self.sender = None
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.sender is not None:
            self.sender.received(data)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.sender is not None:
            self.sender.written()

    def connection_lost(self, exc: Exception | None) -> None:
        sender, self.sender = self.sender, None
        if sender is not None:
            sender.lost(exc)


class _Connecting:
    """One connection at a time, made when there is something to send."""

    def __init__(self, subscription: Subscription, dial: Dial) -> None:
        self._subscription = subscription
        self._dial = dial
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._done: Done | None = None
        self._batch: Sequence[bytes] = ()

    def send(self, batch: Sequence[bytes], done: Done) -> None:
        self._batch, self._done = batch, done
        link = self._link
        if link is not None and link.transport is not None and not link.transport.is_closing():
            self._write(link.transport)
            return
        self._let_go()
        self._link = _Link(self)
        self._task = asyncio.get_running_loop().create_task(self._connect(self._link))

    @property
    def connecting(self) -> bool:
        return self._link is not None and self._link.transport is None

    def abort(self) -> None:
        self._done, self._batch = None, ()
        self._let_go()

    def _let_go(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    async def _connect(self, link: _Link) -> None:
        try:
            await self._dial(lambda: link, self._subscription.port)
        except OSError:
            if link is self._link:
                self._link = None
                self._finish(False)

    def _finish(self, taken: bool) -> None:
        done, self._done = self._done, None
        self._batch = ()
        if done is not None:
            done(taken)

    # ── told by the link ──

    def connected(self) -> None:
        self._task = None
        link = self._link
        if self._done is not None and link is not None and link.transport is not None:
            self._write(link.transport)

    def lost(self, exc: Exception | None) -> None:
        self._link = None
        self._finish(False)

    def received(self, data: bytes) -> None:
        """Nothing that is waited for."""

    def written(self) -> None:
        """All that was written has left."""

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

    def received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            self._hang_up()  # an answer that nobody asked for
            return
        self._read += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hang_up()
            return
        if self._parser is parser and self._read > TELEMETRY_ANSWER:
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

    def lost(self, exc: Exception | None) -> None:
        ended_by_eof = self._parser is not None and self._status in _OK and exc is None
        self._link = self._parser = None
        self._finish(ended_by_eof)

    def _hang_up(self, taken: bool = False) -> None:
        self._parser = None
        self._let_go()
        self._finish(taken)


class TcpSender(_Connecting):
    """Writes a line for each event. Nothing answers: a batch is taken when the last of it has left for the kernel."""

    def _write(self, transport: asyncio.Transport) -> None:
        transport.write(b"".join([event + b"\n" for event in self._batch]))
        if self._link is not None and not self._link.full:
            self._finish(True)

    def written(self) -> None:
        self._finish(True)
