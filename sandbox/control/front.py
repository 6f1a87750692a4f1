"""The way in for invokes: a lean protocol for Invoke, which hands everything else over to aiohttp.

A connection begins here. At the first request that is not an Invoke it becomes aiohttp's, for good; aiohttp has every route,
Invoke included.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from sandbox.control.errors import ApiError
from sandbox.control.invoke import Begun, Invocation
from sandbox.control.rest_json import Request, Response
from sandbox.control.service import Service
from sandbox.core.limits import INVOKE_LIMIT, REQUEST_LIMIT
from sandbox.wire import browsers
from sandbox.wire.http1 import Exchange, Http1Protocol

_PREFIX: Final = b"/2015-03-31/functions/"
_SUFFIX: Final = b"/invocations"
_INVOKE: Final = re.compile(rb"POST /2015-03-31/functions/[^/ ?]+/invocations(\?[^ ]*)? HTTP/1\.1\r\n").match
_LINE_LIMIT: Final = 8 * 1024  # of the first line of a request; a longer one is aiohttp's to refuse
_WANTED: Final = frozenset(
    {
        b"content-type",
        b"expect",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"x-amz-client-context",
        b"x-amz-invocation-type",
        b"x-amz-log-type",
        b"x-amz-tenant-id",
        b"x-amzn-requestid",
        b"x-amzn-trace-id",
    }
)
_GUARDS: Final = frozenset({b"content-type", b"expect", b"host", b"origin", b"sec-fetch-site"})


class FrontProtocol(Http1Protocol):
    """One connection. make_other: makes the protocol that takes over."""

    wanted = _WANTED

    def __init__(self, handler: Front, connections: set[Http1Protocol], make_other: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(handler, connections)
        self._make_other = make_other
        self._begun = b""  # of a request whose first line is not whole yet

    def data_received(self, data: bytes) -> None:
        if self.between_messages:
            if self._begun:
                data, self._begun = self._begun + data, b""
            if not _INVOKE(data):
                if b"\r\n" not in data and len(data) < _LINE_LIMIT:
                    self._begun = data
                else:
                    self._hand_over(data)
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        incoming = self._incoming
        if incoming is not None and not _is_invoke(incoming):  # sent behind an Invoke
            incoming.limit = REQUEST_LIMIT + 1

    def _hand_over(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        self._connections.discard(self)
        other = self._make_other()
        transport.set_protocol(other)
        other.connection_made(transport)
        other.data_received(data)


def _is_invoke(exchange: Exchange) -> bool:
    return exchange.target.startswith(_PREFIX) and exchange.target.endswith(_SUFFIX) and exchange.method == b"POST"


class Front:
    """Answers Invokes; the handler of every connection of the lean protocol. allowed: names that a Host may have."""

    def __init__(self, service: Service, allowed: frozenset[str] = frozenset()) -> None:
        self._service = service
        self._invoker = service.invoker
        self._allowed = allowed
        self._good_host: bytes | None = None  # let in before
        self._connections: set[Http1Protocol] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def protocol(self, make_other: Callable[[], asyncio.Protocol]) -> FrontProtocol:
        return FrontProtocol(self, self._connections, make_other)

    def close(self) -> None:
        """Ends every connection."""
        for connection in list(self._connections):
            connection.end()
        for task in self._tasks:
            task.cancel()

    # ── the handler of the lean protocol ──

    def head(self, exchange: Exchange) -> None:
        """The body is still on its way: there is nothing to do before its end."""

    def gone(self, exchange: Exchange) -> None:
        """IN-029: the function goes on without its caller."""

    def body_limit(self, exchange: Exchange) -> None:
        """It is refused at its end, when the client reads."""

    def request(self, exchange: Exchange) -> None:
        headers = exchange.headers
        if headers.get(b"host") != self._good_host or b"origin" in headers or b"sec-fetch-site" in headers:
            if (why := browsers.refusal(headers, self._allowed)) is not None:
                self._reply_error(exchange, ApiError("AccessDeniedException", why))
                return
            self._good_host = headers.get(b"host")
        target = exchange.target
        if not _is_invoke(exchange):
            self._start(self._other(exchange))  # sent behind an Invoke before its answer was there
            return
        try:
            if exchange.size > INVOKE_LIMIT:  # what was kept of it may be nothing
                text = f"Request must be smaller than {INVOKE_LIMIT} bytes for the InvokeFunction operation"
                raise ApiError("RequestTooLargeException", text)
            name = target[len(_PREFIX) : -len(_SUFFIX)].decode("latin-1")
            call = Invocation(
                unquote(name) if "%" in name else name,
                exchange.query.decode("latin-1") if exchange.query else "",
                {key.decode(): value.decode("latin-1") for key, value in headers.items() if key not in _GUARDS},
                exchange.body,
            )
            begun = self._invoker.begin(call)
            if begun.accept is not None:
                begun.accept(partial(self._accepted, exchange))
            elif not begun.dry and begun.place_now():
                self._wait(exchange, begun)
            else:
                self._start(self._slow(exchange, begun))
        except ApiError as error:
            self._reply_error(exchange, error)
        except Exception as error:
            self._reply_error(exchange, self._service.failure(error))

    # ── answers ──

    def _wait(self, exchange: Exchange, begun: Begun) -> None:
        job = begun.job
        assert job is not None
        if job.tail is None:
            job.on_answer = partial(self._answer, exchange, begun)
        else:
            job.tail.add_done_callback(lambda _: self._answer(exchange, begun))

    def _accepted(self, exchange: Exchange, found: Response | Exception) -> None:
        if isinstance(found, Exception):
            self._reply_error(exchange, self._service.failure(found))
        else:
            self._reply(exchange, found)

    def _answer(self, exchange: Exchange, begun: Begun) -> None:
        try:
            self._reply(exchange, begun.answer())
        except ApiError as error:
            self._reply_error(exchange, error)
        except Exception as error:
            self._reply_error(exchange, self._service.failure(error))

    async def _slow(self, exchange: Exchange, begun: Begun) -> None:
        try:
            self._reply(exchange, await (begun.whole() if begun.dry else begun.finish()))
        except ApiError as error:
            self._reply_error(exchange, error)
        except Exception as error:
            self._reply_error(exchange, self._service.failure(error))

    async def _other(self, exchange: Exchange) -> None:
        headers = {key.decode(): value.decode("latin-1") for key, value in exchange.headers.items()}
        path, query = exchange.target.decode("latin-1"), exchange.query.decode("latin-1")
        response = await self._service.handle(Request(exchange.method.decode(), path, query, headers, exchange.body))
        if response.stream is not None:
            response.body = b"".join([piece async for piece in response.stream])
        self._reply(exchange, response)

    def _reply_error(self, exchange: Exchange, error: ApiError) -> None:
        self._reply(exchange, self._service.render_error(error))

    @staticmethod
    def _reply(exchange: Exchange, response: Response) -> None:
        head = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        exchange.reply(response.status, head.encode("latin-1", "replace"), response.body)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
