"""A small HTTP/1.1 server protocol on httptools.

Why not a framework: request trailers must be readable (runtimes report mid-stream errors only there), header fields reach
1 MiB, and this is the hot path. What it does: keep-alive, pipelining, chunked bodies, trailers, `Expect: 100-continue`,
HTTP/1.0 and `Connection: close`, back-pressure, peers that vanish. It has no timeouts: a poll may stay open for hours.
"""

from __future__ import annotations

import asyncio
import itertools
import select
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import urlsplit

import httptools

from sandbox.core.limits import HEADERS_LIMIT, PAYLOAD_LIMIT

_WANTED: Final = frozenset(
    {
        b"content-type",
        b"expect",
        b"host",
        b"lambda-extension-accept-feature",
        b"lambda-extension-function-error-type",
        b"lambda-extension-identifier",
        b"lambda-extension-name",
        b"lambda-runtime-function-error-body",
        b"lambda-runtime-function-error-type",
        b"lambda-runtime-function-response-mode",
        b"lambda-runtime-function-xray-error-cause",
        b"lambda-runtime-invocation-id",
        b"origin",
        b"sec-fetch-site",
        b"x-amz-client-context",
        b"x-amzn-trace-id",
    }
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_RDHUP: Final = getattr(select, "POLLRDHUP", 0) | select.POLLERR | select.POLLHUP
_WRITE_AT_ONCE: Final = 64 * 1024  # below this, one copy is cheaper than two system calls
_numbers = itertools.count(1)


class Handler(Protocol):
    """Whoever answers requests. Every exchange ends in `request` or `gone`; `head` comes only for bodies that take time."""

    def head(self, exchange: Exchange) -> None:
        """The header fields are complete, the body is still on its way."""

    def request(self, exchange: Exchange) -> None:
        """The request is complete."""

    def body_limit(self, exchange: Exchange) -> None:
        """The body has just grown past `exchange.limit`; what follows is dropped. Called once."""

    def gone(self, exchange: Exchange) -> None:
        """The client has gone: before the end of its request, before the reply, or before the reply had reached it."""


class Exchange:
    """One request and its reply. `number` names it to the machine.

    headers and trailers have lower-case names, and only the names that somebody reads. query: what follows the target's
    question mark. The body is kept in chunks up to
    `limit` bytes, or goes to `sink` as it comes.
    """

    # Class-level defaults: an exchange sets what differs, and the hot path makes two exchanges for each invoke.
    method = b""
    target = b""
    query = b""
    trailers: Mapping[bytes, bytes] = MappingProxyType({})
    chunks: list[bytes] | tuple[()] = ()
    size = 0
    limit = PAYLOAD_LIMIT
    sink: Callable[[bytes], None] | None = None
    keep_alive = True
    expects = False
    announced = False
    complete = False
    replied = False
    undeliverable = False  # tell `gone` even after the reply was written, if it cannot have arrived
    held: tuple[int, bytes, bytes] | None = None
    on_reply: Callable[[int, bytes], None] | None = None  # told of status and body when the reply goes out
    note: object = None  # the handler's own

    def __init__(self, protocol: Http1Protocol) -> None:
        self.number = next(_numbers)
        self.protocol = protocol
        self.headers: dict[bytes, bytes] = {}

    @property
    def body(self) -> bytes:
        """The body as far as it was kept."""
        if len(self.chunks) > 1:
            self.chunks = [b"".join(self.chunks)]
        return self.chunks[0] if self.chunks else b""

    def take_chunks(self) -> Sequence[bytes]:
        """The body so far; it is kept here no longer."""
        chunks, self.chunks = self.chunks, ()
        return chunks

    def discard(self) -> None:
        """Drops the body so far and what is still to come."""
        self.chunks = ()
        self.limit = -1
        self.sink = None

    def client_is_there(self) -> bool:
        """False if the client has closed its side, even if the event loop has not been told yet."""
        return not self.replied and self.protocol.peer_is_there()

    def reply(self, status: int, headers: bytes, body: bytes = b"") -> None:
        """Sends the reply, or holds it until the request's body has ended: a peer that still writes would not read it."""
        if self.replied:
            return
        if not self.complete and not self.expects:
            self.discard()
            self.held = (status, headers, body)
            return
        self.replied = True
        if self.on_reply is not None:
            self.on_reply(status, body)
        self.protocol.send(self, status, headers, body)

    def pause(self) -> None:
        """Back-pressure: no more of the body until `resume`."""
        self.protocol.pause()

    def resume(self) -> None:
        self.protocol.resume()


class Http1Protocol(asyncio.Protocol):
    """One connection. Replies go out in the order of requests; a pipelined request waits its turn unread.

    wanted: the header fields that are kept, names in lower case.
    """

    wanted = _WANTED

    def __init__(self, handler: Handler, connections: set[Http1Protocol]) -> None:
        self._handler = handler
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None  # being parsed
        self._headers_done = False
        self._active: Exchange | None = None  # complete or announced, waits for its reply
        self._queue: deque[Exchange] = deque()  # pipelined behind it
        self._last: Exchange | None = None
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._fd = -1
        self._reading = True
        self._framing: list[tuple[bytes, bytes]] = []  # the fields that say how the incoming body is framed
        self._resuming = False  # a message goes on in a new parser, which is being told its head again
        self._deaf = False  # refused for good: what still comes is dropped
        self._fed = 0  # bytes that the parser was given last
        self._since_body = 0  # bytes since the message began, or since the last of its body: header fields, or trailers

    # ── the connection ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's
        self._fd = transport.get_extra_info("socket").fileno()
        self._poll.register(self._fd, _RDHUP)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._fd = -1
        self._client_has_gone(exc is not None)
        self._transport = None

    def eof_received(self) -> bool:
        """The client has finished writing. One that has asked and still waits is taken for gone."""
        transport = self._transport
        unsent = transport is not None and transport.get_write_buffer_size() > 0
        incoming = self._incoming
        if incoming is not None and self._headers_done and not incoming.complete:
            incoming.complete = True
            self._incoming = None
            if incoming is self._active or self._active is None:
                self._active = incoming
                incoming.keep_alive = False
                self._handler.gone(incoming)  # it may still read a refusal
                if incoming.held is not None:
                    incoming.reply(*incoming.held)
        else:
            self._client_has_gone(unsent)
        if transport is not None:
            transport.close()
        return False

    def _client_has_gone(self, reply_lost: bool) -> None:
        last, self._last = self._last, None
        if reply_lost and last is not None and last.undeliverable:
            self._handler.gone(last)
        for exchange in (self._active, self._incoming):
            if exchange is not None and not exchange.replied and (exchange.announced or exchange.complete):
                exchange.replied = True
                self._handler.gone(exchange)
        self._active = self._incoming = None
        self._queue.clear()

    def peer_is_there(self) -> bool:
        return self._fd >= 0 and not self._poll.poll(0)

    def has_unread(self) -> bool:
        """Whether bytes wait in the socket that will be read."""
        if self._fd < 0 or not self._reading:
            return False
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Ends the connection at once; nobody is told."""
        self._active = self._incoming = self._last = None
        self._queue.clear()
        if self._transport is not None:
            self._transport.abort()

    @property
    def between_messages(self) -> bool:
        """Nothing is being read, answered or waiting: what comes next begins a request."""
        return self._incoming is None and self._active is None and not self._queue and not self._deaf

    def end(self) -> None:
        """Ends the connection when what was written has gone out; nobody is told."""
        self._active = self._incoming = self._last = None
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()

    # ── reading ──

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fed = len(data)
        self._since_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(400, f"The request is not HTTP/1.1: {error}")
            return
        incoming = self._incoming
        if incoming is None:
            return
        if self._since_body > HEADERS_LIMIT:
            self._refuse(431, f"The header fields are longer than {HEADERS_LIMIT} bytes")
        elif self._headers_done and not incoming.announced and self._active is None:
            self._announce(incoming)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Java's client offers h2c with its first request, body and all: stay with HTTP/1.1 (RFC 9110 7.8).

        The parser has stopped behind the head. A new one is told the framing again, and takes the body.
        """
        framing = b"".join(b"%b: %b\r\n" % field for field in self._framing)
        self._framing = []
        self._parser = httptools.HttpRequestParser(self)
        self._resuming = True
        self.data_received(b"POST / HTTP/1.1\r\n%b\r\n%b" % (framing, rest))

    def _announce(self, exchange: Exchange) -> None:
        exchange.announced = True
        self._active = exchange
        self._handler.head(exchange)
        if exchange.expects and not exchange.replied and self._transport is not None:
            exchange.expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        self._incoming = Exchange(self)
        self._headers_done = False
        self._since_body = self._fed
        if self._framing:
            self._framing = []
        if self._active is not None:
            self.pause()

    def on_url(self, url: bytes) -> None:
        if not self._resuming:
            assert self._incoming is not None
            self._incoming.target += url  # in pieces, if it came so

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self.wanted and not self._resuming:
            value = value.rstrip(b" \t")
            incoming = self._incoming
            assert incoming is not None
            if self._headers_done:
                incoming.trailers = {**incoming.trailers, name: value}
            else:
                incoming.headers[name] = value
        elif name in _FRAMING and not self._headers_done:
            self._framing.append((name, value))

    def on_headers_complete(self) -> None:
        if self._resuming:
            self._resuming = False
            return
        incoming = self._incoming
        assert incoming is not None
        incoming.method = self._parser.get_method()
        incoming.keep_alive = self._parser.should_keep_alive()
        target = incoming.target
        if not target.startswith(b"/"):
            incoming.target = _origin_form(target)
        elif b"?" in target:
            incoming.target, _, incoming.query = target.partition(b"?")
        if b"expect" in incoming.headers:
            incoming.expects = incoming.headers[b"expect"].lower() == b"100-continue"
        self._headers_done = True

    def on_body(self, data: bytes) -> None:
        incoming = self._incoming
        assert incoming is not None
        self._since_body = 0
        before = incoming.size
        incoming.size += len(data)
        if incoming.limit < 0:
            return
        if incoming.size > incoming.limit:
            limit = incoming.limit
            incoming.discard()
            if before <= limit and incoming.announced:
                self._handler.body_limit(incoming)
        elif incoming.sink is not None:
            incoming.sink(data)
        elif incoming.chunks:
            incoming.chunks.append(data)
        else:
            incoming.chunks = [data]

    def on_message_complete(self) -> None:
        incoming = self._incoming
        assert incoming is not None
        if self._parser.should_upgrade():
            return  # its body, if it has one, comes by way of _decline_upgrade
        self._incoming = None
        incoming.complete = True
        incoming.expects = False
        if incoming is self._active:
            self._request(incoming)
        elif self._active is None:
            self._active = incoming
            self._request(incoming)
        else:
            self._queue.append(incoming)

    def _request(self, exchange: Exchange) -> None:
        if exchange.held is None:
            if not exchange.replied:
                self._handler.request(exchange)
        else:
            exchange.reply(*exchange.held)

    # ── writing ──

    def send(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        transport = self._transport
        if transport is None or exchange is not self._active:
            return
        self._active = None
        self._last = exchange
        exchange.chunks = ()  # whoever wanted the body has it
        keep = exchange.keep_alive and exchange.complete
        self._write(transport, exchange, status, headers, body, keep)
        if not keep:
            self._hang_up(transport)
        elif self._queue or not self._reading or self._incoming is not None:
            asyncio.get_running_loop().call_soon(self._next_in_line)

    def _write(
        self, transport: asyncio.Transport, exchange: Exchange, status: int, headers: bytes, body: bytes, keep: bool
    ) -> None:
        connection = b"" if keep else b"Connection: close\r\n"
        length = b"Content-Length: %d\r\n" % len(body) if status != HTTPStatus.NO_CONTENT else b""
        head = b"%b%b%b%b\r\n" % (_STATUS_LINES[status], length, headers, connection)
        if exchange.method == b"HEAD":
            transport.write(head)
        elif len(body) < _WRITE_AT_ONCE:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Our side is finished. While theirs still writes, closing would reset the connection under the reply."""
        self._deaf = True
        if self._incoming is not None and transport.can_write_eof():
            transport.write_eof()
            self.resume()
        else:
            transport.close()

    def _next_in_line(self) -> None:
        if self._active is None and self._transport is not None:
            if self._queue:
                self._active = self._queue.popleft()
                self._request(self._active)
            elif self._incoming is not None and self._headers_done and not self._incoming.announced:
                self._announce(self._incoming)
        if not self._queue:
            self.resume()

    def pause(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    def _refuse(self, status: int, message: str) -> None:
        """The bytes make no sense: say so once, and hear no more. The client hangs up when it has read that."""
        transport = self._transport
        if transport is None:
            return
        exchange = self._active or self._incoming or Exchange(self)
        exchange.keep_alive = False
        exchange.complete = True
        if exchange.announced and not exchange.replied:
            self._handler.gone(exchange)
        if not exchange.replied:
            self._active = exchange
            exchange.reply(status, JSON, error_body("InvalidRequest", message))
        self._incoming = None
        self._deaf = True


JSON: Final = b"Content-Type: application/json\r\n"


def error_body(error_type: str, message: str) -> bytes:
    """RT-006: every error is a JSON object, ended by a line feed for people with curl."""
    import json

    return json.dumps({"errorMessage": message, "errorType": error_type}, separators=(",", ":")).encode() + b"\n"


def _origin_form(target: bytes) -> bytes:
    """The path of a target in absolute form (a client that takes us for a proxy)."""
    try:
        return urlsplit(target).path or b"/"
    except ValueError:
        return b"*"
