"""The listener of the Lambda API: the lean way in for Invoke, and aiohttp for everything, Invoke included."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import socket
import sys
from typing import Final
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from sandbox.control import http
from sandbox.control.errors import ApiError
from sandbox.control.front import Front
from sandbox.control.rest_json import Request
from sandbox.control.service import Service
from sandbox.core.errors import ConfigError
from sandbox.wire import browsers

_GUARDS: Final = ("host", "origin", "sec-fetch-site")
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class Server:
    """Serves one service. allowed: names besides the local ones that a Host may have. lean: whether Invoke has its own way."""

    def __init__(self, service: Service, *, allowed: frozenset[str] = frozenset(), lean: bool = True) -> None:
        self._service = service
        self._allowed = allowed
        self._lean = lean
        self._front = Front(service, allowed)
        self._others: web.Server | None = None
        self._server: asyncio.AbstractServer | None = None
        self._sockets: list[socket.socket] = []
        self.address = ""  # where this machine reaches it, and …
        self.port = 0
        self.endpoint = ""  # … both as a URL

    def bind(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Takes the port; who connects waits for `start`. Raises ConfigError."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            made = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            what = (error.strerror or str(error)).partition(" (while")[0]
            if error.errno == errno.EADDRINUSE:
                what = "it is in use: end what uses it, or take another one with --port"
            raise ConfigError(f"cannot listen at {host} port {port}: {what}") from None
        self._sockets = [made]
        self.port = made.getsockname()[1]
        self.address = _EVERYWHERE.get(host, host)
        self._service.urls.address = host
        self._service.urls.allowed = self._allowed
        shown = f"[{self.address}]" if ":" in self.address else self.address
        self.endpoint = self._service.endpoint = f"http://{shown}:{self.port}"

    async def start(self) -> str:
        """Answers; returns the endpoint. Raises ConfigError."""
        if not self._sockets:
            self.bind()
        others = self._others = http.server(self._handle)
        make = (lambda: self._front.protocol(others)) if self._lean else others
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(make, sock=self._sockets.pop(), backlog=1024)
        self._service.announce()
        return self.endpoint

    def stop(self) -> None:
        """Takes no more connections; what is under way goes on."""
        for made in self._sockets:
            made.close()
        self._sockets = []
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Ends every connection; who still waits for an answer of aiohttp's gets a moment for it."""
        self.stop()
        self._front.close()
        if self._others is not None:
            self._others.pre_shutdown()  # idle connections, which would be waited for
            await self._others.shutdown(http.LAST_ANSWERS)
        if self._server is not None:
            await self._server.wait_closed()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        guards = {name.encode(): headers[name].encode("latin-1", "replace") for name in _GUARDS if name in headers}
        if (why := browsers.refusal(guards, self._allowed)) is not None:
            answer = self._service.render_error(ApiError("AccessDeniedException", why))
        else:
            raw = request.raw_path
            if not raw.startswith("/"):  # the client takes us for a proxy
                parts = urlsplit(raw)
                raw = f"{parts.path or '/'}?{parts.query}"
            path, _, query = raw.partition("?")
            try:
                if headers.get("expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0  # that was no part of the answer
                body = await _body(request, self._service.limit_of(path))
            except ConnectionError:  # the client has gone in the middle of its request
                return web.Response(status=400)
            answer = await self._service.handle(Request(request.method, path, query, headers, body))
        if answer.stream is None:
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        try:
            await response.prepare(request)
            async for piece in answer.stream:
                await response.write(piece)
            await response.write_eof()
        except ConnectionError:  # the caller has gone; the function goes on
            pass
        finally:
            await answer.stream.aclose()
            if answer.close is not None:
                answer.close()  # a stream that was never begun does not close itself
        return response


async def _body(request: web.BaseRequest, limit: int) -> bytes:
    """At most one byte more than the limit: whoever gets it sees that it is too long."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.content.iter_any():
        if size <= limit:
            pieces.append(piece)
        size += len(piece)
        if size > limit + http.DROP:
            break
    return b"".join(pieces)[: limit + 1]


def calm_collector() -> None:
    """Fewer looks at what stays: after the start, thousands of objects live as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def keep_big_blocks() -> None:
    """Lets glibc reuse the memory of big payloads: each would be mapped, and its pages faulted in, anew.

    performance.md: a 6 MB echo costs 5.4 ms instead of 19.7. In-process, for the variables would be children's, too.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    for option, value in ((-3, 128 << 20), (-1, 256 << 20), (-2, 16 << 20)):  # mmap threshold, trim threshold, top pad
        mallopt(option, value)
