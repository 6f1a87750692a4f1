"""A tap on the wire of an environment: it sees every exchange, and can spoil replies on purpose.

AWS never shows on demand what a peer has to bear: a reply that is lost, late, cut off, refused, oddly framed. Here each of
that is a `Fault` that one route, or one exchange of it, is given. Without a tap none of this costs anything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from sandbox.clock import Clock
from sandbox.wire.http1 import Exchange, Handler, Http1Protocol

KEPT: Final = 64 * 1024  # bytes of each body that are kept for people; its size is known whatever it is

Fields = tuple[tuple[str, str], ...]

_ROUTES: Final = (
    ("next", "GET", r"/2018-06-01/runtime/invocation/next"),
    ("response", "POST", r"/2018-06-01/runtime/invocation/[^/]*/response"),
    ("error", "POST", r"/2018-06-01/runtime/invocation/[^/]*/error"),
    ("init/error", "POST", r"/2018-06-01/runtime/init/error"),
    ("restore/next", "GET", r"/2018-06-01/runtime/restore/next"),
    ("restore/error", "POST", r"/2018-06-01/runtime/restore/error"),
    ("register", "POST", r"/2020-01-01/extension/register"),
    ("event/next", "GET", r"/2020-01-01/extension/event/next"),
    ("extension/init/error", "POST", r"/2020-01-01/extension/init/error"),
    ("extension/exit/error", "POST", r"/2020-01-01/extension/exit/error"),
    ("telemetry", "PUT", r"/2022-07-01/telemetry"),
    ("logs", "PUT", r"/2020-08-15/logs"),
)
ROUTES: Final = tuple(name for name, _, _ in _ROUTES)
_PATTERNS: Final = [(name, method, re.compile(pattern).fullmatch) for name, method, pattern in _ROUTES]


def route_of(method: str, path: str) -> str | None:
    """The name of what is asked for; None if it is no call of a Lambda API."""
    return next((name for name, its_method, matches in _PATTERNS if its_method == method and matches(path)), None)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What becomes of one exchange.

    reaches_host: False, and the host never hears of the request; it is answered 500 unless `status` says otherwise.
    status, body: instead of the host's. fields: that are added. without: names that are left out, lower case.
    rename: what is made of each name. chunk: the body goes out chunked, in chunks of so many bytes. piece: everything goes
    out in writes of so many bytes. interim: statuses of 1xx that come first. hold: seconds on the host's clock before it goes
    out. cut: so many bytes of the reply's body, then the connection ends. close: the connection ends after it, `announced` or
    not. lost: nothing goes out, the connection ends. silent: nothing goes out, ever, and the connection stays.
    at_once: the connection ends when the request's header fields are there.
    """

    reaches_host: bool = True
    status: int | None = None
    body: bytes | None = None
    fields: Fields = ()
    without: frozenset[str] = frozenset()
    rename: Callable[[str], str] | None = None
    chunk: int = 0
    piece: int = 0
    interim: tuple[int, ...] = ()
    hold: float = 0.0
    cut: int | None = None
    close: bool = False
    announced: bool = True
    lost: bool = False
    silent: bool = False
    at_once: bool = False


@dataclass(slots=True)
class Seen:
    """One exchange, as it was on the wire.

    number: in the order of requests. connection: which one, numbered as they were made. sent_at, replied_at: seconds on the
    host's clock; the second is None while it waits. fields: as they came, names and order included. body: its first 64 KB;
    size: of all of it, in bytes. chunked: how it was framed. complete: the request has ended. status: None while it waits.
    reply: the first 64 KB of the reply's body. gone: the client left before the reply. fault: what was done to it on purpose.
    """

    number: int
    environment: str
    connection: int
    sent_at: float
    method: str = ""
    path: str = ""
    version: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    size: int = 0
    chunked: bool = False
    complete: bool = False
    route: str | None = None
    status: int | None = None
    reply_fields: list[tuple[str, str]] = field(default_factory=list)
    reply: bytes = b""
    reply_size: int = 0
    replied_at: float | None = None
    gone: bool = False
    fault: Fault | None = None

    def get(self, name: str) -> str | None:
        """The last header field of that name, whatever its case."""
        return next((value for key, value in reversed(self.fields) if key.lower() == name.lower()), None)

    def trailer(self, name: str) -> str | None:
        return next((value for key, value in reversed(self.trailers) if key.lower() == name.lower()), None)

    def replied(self, name: str) -> str | None:
        """The same of the reply."""
        return next((value for key, value in reversed(self.reply_fields) if key.lower() == name.lower()), None)


@dataclass
class _Rule:
    route: str
    fault: Fault
    skip: int
    times: float
    environment: str | None


class Tap:
    """Sees the traffic of every environment of a host. `Host(tap=Tap(clock))`.

    exchanges: all of them, oldest first. on_change: called whenever one of them has changed.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.exchanges: list[Seen] = []
        self.on_change: Callable[[], None] = lambda: None
        self.connections = 0
        self.open_connections = 0
        self._rules: list[_Rule] = []

    def spoil(self, route: str, fault: Fault, *, skip: int = 0, times: float = 1, environment: str | None = None) -> None:
        """Gives a fault to the next exchanges of a route (see ROUTES): `times` of them, after `skip` that are left alone.

        environment: only in that one. Raises ValueError for a route that there is not.
        """
        if route not in ROUTES:
            raise ValueError(f"route {route!r}: one of {', '.join(ROUTES)}")
        self._rules.append(_Rule(route, fault, skip, times, environment))

    def heal(self) -> None:
        """Spoils nothing any more."""
        self._rules.clear()

    def of(self, *routes: str, environment: str | None = None) -> list[Seen]:
        """The exchanges of these routes."""
        return [
            seen for seen in self.exchanges if seen.route in routes and (environment is None or seen.environment == environment)
        ]

    def on(self, environment: str) -> Callable[[Handler, set[Http1Protocol]], Http1Protocol]:
        """For the listener of one environment."""

        def protocol(handler: Handler, connections: set[Http1Protocol]) -> Http1Protocol:
            return _Tapped(handler, connections, self, environment)

        return protocol

    def fault_for(self, seen: Seen, *, replying: bool) -> Fault | None:
        """What is to become of this exchange. Asked when its request comes, and again before its reply goes out.

        So a poll that waits already can be spoilt, too, unless the host is not to hear of it.
        """
        for rule in self._rules:
            if rule.route != seen.route or rule.environment not in (None, seen.environment):
                continue
            if replying != (rule.fault.reaches_host and not rule.fault.at_once):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            rule.times -= 1
            if rule.times <= 0:
                self._rules.remove(rule)
            return rule.fault
        return None


class _Gate:
    """Between a connection and the API: what a fault keeps from the host does not get through."""

    def __init__(self, handler: Handler, seen: Mapping[int, Seen]) -> None:
        self._handler = handler
        self._seen = seen

    def _kept(self, exchange: Exchange) -> Fault | None:
        seen = self._seen.get(exchange.number)
        fault = seen.fault if seen is not None else None
        return fault if fault is not None and not fault.reaches_host else None

    def head(self, exchange: Exchange) -> None:
        if self._kept(exchange) is None:
            self._handler.head(exchange)

    def request(self, exchange: Exchange) -> None:
        fault = self._kept(exchange)
        if fault is None:
            self._handler.request(exchange)
        elif not fault.silent:
            status = fault.status or HTTPStatus.INTERNAL_SERVER_ERROR
            exchange.reply(status, b"Content-Type: application/json\r\n", fault.body or b"")

    def body_limit(self, exchange: Exchange) -> None:
        if self._kept(exchange) is None:
            self._handler.body_limit(exchange)

    def gone(self, exchange: Exchange) -> None:
        seen = self._seen.get(exchange.number)
        if seen is not None and seen.replied_at is None:
            seen.gone = True
        if self._kept(exchange) is None:
            self._handler.gone(exchange)


class _Tapped(Http1Protocol):
    """A connection with a tap on it."""

    def __init__(self, handler: Handler, connections: set[Http1Protocol], tap: Tap, environment: str) -> None:
        self._tap = tap
        self._by_number: dict[int, Seen] = {}
        super().__init__(_Gate(handler, self._by_number), connections)
        tap.connections += 1
        tap.open_connections += 1
        self._number = tap.connections
        self._environment = environment
        self._current: Seen | None = None  # whose request is being read
        self._rest: Iterator[bytes] | None = None  # of a reply that goes out in pieces
        self._end_when_written = False
        self._writing: Fault | None = None  # of the reply that goes out now

    def connection_lost(self, exc: Exception | None) -> None:
        self._tap.open_connections -= 1
        super().connection_lost(exc)
        self._tap.on_change()

    # ── the request ──

    def on_message_begin(self) -> None:
        going_on = self._resuming
        super().on_message_begin()
        if not going_on:
            incoming = self._incoming
            assert incoming is not None
            number = len(self._tap.exchanges) + 1
            self._current = Seen(number, self._environment, self._number, self._tap.clock.now())
            self._by_number[incoming.number] = self._current
            self._tap.exchanges.append(self._current)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._current is not None and not self._resuming:
            where = self._current.trailers if self._headers_done else self._current.fields
            where.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        going_on = self._resuming
        super().on_headers_complete()
        seen, incoming = self._current, self._incoming
        if seen is None or incoming is None or going_on:
            return
        seen.method, seen.path = incoming.method.decode(), incoming.target.decode("latin-1")
        seen.version = self._parser.get_http_version()
        seen.chunked = "chunked" in (seen.get("transfer-encoding") or "").lower()
        seen.route = route_of(seen.method, seen.path)
        seen.fault = self._tap.fault_for(seen, replying=False)
        if seen.fault is not None and seen.fault.at_once and self._transport is not None:
            seen.gone = True
            self._transport.abort()
        self._tap.on_change()

    def on_body(self, data: bytes) -> None:
        seen = self._current
        if seen is not None:
            seen.body += data[: max(0, KEPT - len(seen.body))]
            seen.size += len(data)
            self._tap.on_change()
        super().on_body(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_upgrade() and self._current is not None:
            self._current.complete = True
            self._current = None
        super().on_message_complete()
        self._tap.on_change()

    # ── the reply ──

    def send(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        seen = self._by_number.get(exchange.number)
        if seen is not None and seen.fault is None:
            seen.fault = self._tap.fault_for(seen, replying=True)
        fault = seen.fault if seen is not None else None
        if fault is None or fault.hold <= 0:
            self._send_now(exchange, status, headers, body)
        else:
            due = self._tap.clock.now() + fault.hold
            self._tap.clock.call_at(due, lambda: self._send_now(exchange, status, headers, body))

    def _send_now(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        seen = self._by_number.pop(exchange.number, None)
        if seen is None:  # it was no message
            super().send(exchange, status, headers, body)
            return
        fault = seen.fault
        if fault is not None:
            status = fault.status if fault.status is not None else status
            body = fault.body if fault.body is not None else body
            headers = _changed(headers, fault)
            exchange.keep_alive = exchange.keep_alive and not (fault.close and fault.announced)
        if fault is not None and (fault.lost or fault.silent):
            self._say_nothing(seen, fault)
            return
        seen.status, seen.replied_at = status, self._tap.clock.now()
        seen.reply, seen.reply_size = body[:KEPT], len(body)
        seen.reply_fields = _parsed(headers)
        self._writing = fault
        super().send(exchange, status, headers, body)
        self._tap.on_change()

    def _say_nothing(self, seen: Seen, fault: Fault) -> None:
        if fault.lost and self._transport is not None:
            self._transport.abort()
        self._tap.on_change()

    def _write(
        self, transport: asyncio.Transport, exchange: Exchange, status: int, headers: bytes, body: bytes, keep: bool
    ) -> None:
        fault, self._writing = self._writing, None
        if fault is None:
            super()._write(transport, exchange, status, headers, body, keep)
            return
        reply = _reply(fault, status, headers, body, keep)
        self._end_when_written = fault.cut is not None or (fault.close and not fault.announced)
        step = fault.piece or len(reply)
        self._rest = iter([reply[at : at + step] for at in range(0, len(reply), step)])
        self._write_on(transport)

    def _write_on(self, transport: asyncio.Transport) -> None:
        """One piece in each turn of the loop, so that its reader may see them one by one."""
        piece = next(self._rest, None) if self._rest is not None and not transport.is_closing() else None
        if piece is not None:
            transport.write(piece)
            asyncio.get_running_loop().call_soon(self._write_on, transport)
            return
        self._rest = None
        if self._end_when_written:
            super()._hang_up(transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        if self._rest is not None:
            self._end_when_written = True
        else:
            super()._hang_up(transport)


def _parsed(headers: bytes) -> list[tuple[str, str]]:
    lines = headers.decode("latin-1").split("\r\n")
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]


def _changed(headers: bytes, fault: Fault) -> bytes:
    fields = [(name, value) for name, value in _parsed(headers) if name.lower() not in fault.without]
    fields = [(name, value) for name, value in fields if name.lower() not in {name.lower() for name, _ in fault.fields}]
    fields += fault.fields
    if fault.rename is not None:
        fields = [(fault.rename(name), value) for name, value in fields]
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")


def _reply(fault: Fault, status: int, headers: bytes, body: bytes, keep: bool) -> bytes:
    """The bytes of a reply that was spoilt."""
    name = fault.rename or (lambda name: name)
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    framing = f"{name('Transfer-Encoding')}: chunked" if fault.chunk else f"{name('Content-Length')}: {len(body)}"
    closing = "" if keep else f"{name('Connection')}: close\r\n"
    head = "".join(f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\n\r\n" for code in fault.interim)
    head += f"HTTP/1.1 {status} {phrase}\r\n{framing}\r\n"
    if fault.chunk:
        chunks = [body[at : at + fault.chunk] for at in range(0, len(body), fault.chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    body = body[: fault.cut] if fault.cut is not None else body
    return head.encode("latin-1") + headers + closing.encode("latin-1") + b"\r\n" + body
