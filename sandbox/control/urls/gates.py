"""A listener for each function URL: a host name of its own under localhost, and a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from sandbox.clock import Clock
from sandbox.control import http
from sandbox.control.errors import ApiError
from sandbox.control.invoke import service_error, traced
from sandbox.control.live import Live, Target
from sandbox.control.names import Here, Named
from sandbox.control.placing import placed
from sandbox.control.tables import UrlRow
from sandbox.control.urls import answer as answers
from sandbox.control.urls import cors, event
from sandbox.control.urls.answer import Answer, BadAnswer, Prelude
from sandbox.control.urls.configs import host_name
from sandbox.core.errors import ConfigError, SandboxError
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import INVOKE_LIMIT
from sandbox.host.environment import Job
from sandbox.host.environment.job import new_request_id, new_trace_id
from sandbox.host.host import Function
from sandbox.host.result import ResponseStream
from sandbox.wire import browsers

_log = logging.getLogger("sandbox.control")
_TOLD: Final = 1000  # sentences that are told of all of them
_FAILED: Final = b"Internal Server Error"  # recorded
_FORBIDDEN: Final = (  # recorded
    "Forbidden. For troubleshooting Function URL authorization issues, see: "
    "https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html"
)
_UNSIGNED: Final = "AuthType AWS_IAM: the request is not signed (Signature Version 4; here any signature will do)"


class _Gate(NamedTuple):
    row: UrlRow
    http: web.Server
    listener: asyncio.AbstractServer


class Gates:
    """Every function URL that there is. on_moved: told, and keeps, that a URL has another port than it had.

    address: where they listen. allowed: names besides the local ones that a Host may have.
    """

    def __init__(
        self,
        live: Live,
        here: Here,
        clock: Clock,
        on_trouble: Callable[[str], None],
        on_moved: Callable[[UrlRow], Awaitable[None]],
    ) -> None:
        self._live = live
        self._here = here
        self._clock = clock
        self._on_trouble = on_trouble
        self._on_moved = on_moved
        self.address = "127.0.0.1"
        self.allowed: frozenset[str] = frozenset()
        self._gates: dict[str, _Gate] = {}  # by id
        self._leaving: list[_Gate] = []  # with requests under way
        self._reserved: dict[int, socket.socket] = {}
        self._lock = threading.Lock()  # reserve() is called in the store's thread
        self._told: set[str] = set()
        self.on_stream: Callable[[Job, FunctionConfig | None], None] | None = None  # for who bills

    # ── listeners ──

    def reserve(self) -> int:
        """A free port, that stays free until `sync` is told whose it is, or `release`. Raises OSError."""
        made = self._bind(0)
        port: int = made.getsockname()[1]
        with self._lock:
            self._reserved[port] = made
        return port

    def _bind(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return socket.create_server((self.address, port), family=family, backlog=256)

    async def sync(self, function: str, rows: list[UrlRow]) -> None:
        """Listens for these URLs of a function, and for no others."""
        wanted = {row.id: row for row in rows}
        for id_ in [id_ for id_, gate in self._gates.items() if gate.row.function == function and id_ not in wanted]:
            gate = self._gates.pop(id_)
            gate.listener.close()
            gate.http.pre_shutdown()  # what is under way ends as it would
            self._leaving.append(gate)
        self._leaving = [gate for gate in self._leaving if gate.http.connections]
        for id_, row in wanted.items():
            if id_ in self._gates:
                self._gates[id_] = self._gates[id_]._replace(row=row)
            else:
                await self._open(row)

    def release(self, ports: list[int]) -> None:
        """Those of an operation that has ended: if it was refused, nobody has taken them."""
        with self._lock:
            unused = [self._reserved.pop(port) for port in ports if port in self._reserved]
        for made in unused:
            made.close()

    async def _open(self, row: UrlRow) -> None:
        with self._lock:
            made = self._reserved.pop(row.port, None)
        try:
            if made is None:
                made = self._bind(row.port)
        except OSError as error:
            before, made = row.port, self._bind(0)
            row.port = made.getsockname()[1]
            why = (error.strerror or str(error)).partition(" (while")[0]
            self._on_trouble(
                f"URL of function {row.function}: port {before}: {why}: it is http://{host_name(self._here, row)}/"
            )
            await self._on_moved(row)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            gate = self._gates.get(row.id)
            return await self._handle(gate.row if gate is not None else row, request)

        accepting = http.server(handle, auto_decompress=False)
        listener = await asyncio.get_running_loop().create_server(accepting, sock=made, backlog=256)
        self._gates[row.id] = _Gate(row, accepting, listener)

    @staticmethod
    async def _close(gate: _Gate) -> None:
        gate.listener.close()
        gate.http.pre_shutdown()
        await gate.http.shutdown(http.LAST_ANSWERS)

    @property
    def urls(self) -> list[tuple[str, str]]:
        """Function (with its alias), and URL, of each."""
        rows = [gate.row for gate in self._gates.values()]
        return sorted(
            (":".join(filter(None, (row.function, row.qualifier))), f"http://{host_name(self._here, row)}/") for row in rows
        )

    async def close(self) -> None:
        """Ends every connection; who waits for an answer gets a moment for it."""
        gates, self._gates, self._leaving = [*self._gates.values(), *self._leaving], {}, []
        await asyncio.gather(*(self._close(gate) for gate in gates))
        with self._lock:
            for made in self._reserved.values():
                made.close()
            self._reserved.clear()

    # ── requests ──

    async def _handle(self, row: UrlRow, request: web.BaseRequest) -> web.StreamResponse:
        headers = event.joined(request.headers.items())
        settings = row.document.get("Cors")
        try:
            if settings and cors.is_preflight(request.method, headers):
                answer = Answer(200, [("Content-Type", answers.JSON), *cors.preflight(settings, headers)])
                return _response(answer, {"x-amzn-RequestId": new_request_id()})
            return await self._answer(row, request, headers)
        except ApiError as error:
            answer = _refusal(error)
        except BadAnswer as error:
            self._tell(row, f"502: {error}")
            answer = Answer(502, [("Content-Type", answers.JSON)], _FAILED)
        except ConnectionError:  # the caller has gone in the middle of its request
            answer = Answer(400)
        except (SandboxError, OSError) as error:
            answer = _refusal(service_error(error))
        except Exception as error:
            _log.error("a mistake of lambda-sandbox itself", exc_info=error)
            self._tell(row, f"a mistake of lambda-sandbox itself: {type(error).__name__}: {error}")
            answer = Answer(502, [("Content-Type", answers.JSON)], _FAILED)
        return _response(self._with_cors(row, answer, headers), {"x-amzn-RequestId": new_request_id()})

    @staticmethod
    def _with_cors(row: UrlRow, answer: Answer, headers: dict[str, str]) -> Answer:
        if settings := row.document.get("Cors"):
            answer.headers = cors.with_cors(answer.headers, settings, headers)
        return answer

    def _tell(self, row: UrlRow, text: str) -> None:
        """The same of one function is told once."""
        text = f"URL of function {row.function}: {text}"
        if len(self._told) < _TOLD and text not in self._told:
            self._told.add(text)
            self._on_trouble(text)

    async def _answer(self, row: UrlRow, request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        if (why := self._foreign(row, headers)) is not None:
            raise ApiError("AccessDeniedException", why)
        if request.method == "CONNECT":
            raise ApiError("InvalidRequestContentException", "Function URLs are no proxies: send plain HTTP requests.")
        if "websocket" in headers.get("upgrade", "").lower():
            raise ApiError("InvalidRequestContentException", "Function URLs have no WebSockets: send plain HTTP requests.")
        target = request.raw_path
        if not target.startswith("/"):  # the client takes us for a proxy
            parts = urlsplit(target)
            target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        query = target.partition("?")[2]
        access_key = None
        if row.document["AuthType"] == "AWS_IAM" and (access_key := event.signed_by(headers, query)) is None:
            self._tell(row, f"403: {_UNSIGNED}")
            raise ApiError("AccessDeniedException", _FORBIDDEN)
        body = await self._body(request, headers)
        url_request = event.UrlRequest(
            request.method,
            target,
            tuple(request.headers.items()),
            body,
            host_name(self._here, row),
            row.id,
            request.remote or "127.0.0.1",
        )
        request_id = new_request_id()
        wall = self._clock.wall()
        trace_id = headers.get("x-amzn-trace-id") or new_trace_id(wall)
        payload = event.build(url_request, request_id=request_id, trace_id=trace_id, wall=wall, access_key=access_key)
        if len(payload) > INVOKE_LIMIT:
            raise _too_large()
        return await self._invoke(row, request, headers, payload, request_id, trace_id)

    def _foreign(self, row: UrlRow, headers: dict[str, str]) -> str | None:
        """Why a request is refused that a page of another site may have sent. Who knows the URL's own name has been told
        it, and an Origin that CORS allows is no foreign one; but 127.0.0.1 and a port is what any page can try."""
        told = headers.get("host", "") == host_name(self._here, row)
        wanted = "origin" in headers and cors.allows(row.document.get("Cors", {}), headers["origin"])
        names = ("host",) if told or wanted else ("host", "origin", "sec-fetch-site")
        guards = {name.encode(): headers[name].encode("latin-1", "replace") for name in names if name in headers}
        return browsers.refusal(guards, self.allowed)

    @staticmethod
    async def _body(request: web.BaseRequest, headers: dict[str, str]) -> bytes:
        if headers.get("expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was no part of the answer
        pieces: list[bytes] = []
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
            if size <= INVOKE_LIMIT:
                pieces.append(piece)
            if size > INVOKE_LIMIT + http.DROP:
                break
        if size > INVOKE_LIMIT:
            raise _too_large()
        return b"".join(pieces)

    async def _invoke(
        self, row: UrlRow, request: web.BaseRequest, headers: dict[str, str], payload: bytes, request_id: str, trace_id: str
    ) -> web.StreamResponse:
        named = Named(row.function, row.qualifier or None)
        streaming = row.document.get("InvokeMode") == "RESPONSE_STREAM"

        def make(function: Function, target: Target) -> Job:
            stream = function.stream() if streaming else None
            try:
                return function.job(payload, stream, request_id=request_id, trace_id=trace_id, arn=target.arn)
            except ConfigError as error:
                raise ApiError("InvalidRequestContentException", str(error)) from None

        trace_id = self._live.handed_on(row.function, trace_id)
        job = await placed(lambda: self._live.target(named), make)
        about = {"x-amzn-RequestId": job.request_id, "X-Amzn-Trace-Id": traced(job.trace_id)}
        if job.stream is not None:
            if self.on_stream is not None:
                self.on_stream(job, self._live.config(named))
            return await self._streamed(row, request, headers, job.stream, about)
        await asyncio.wait([job.answered])
        if (failure := job.answered.exception()) is not None:
            assert isinstance(failure, Exception)
            raise service_error(failure)
        result = job.result
        if result.function_error is not None:  # the log has why
            return _response(self._with_cors(row, Answer(502, [("Content-Type", answers.JSON)], _FAILED), headers), about)
        if result.content_type.startswith(answers.PRELUDE_TYPE):  # it streams, and the URL is BUFFERED
            prelude = Prelude(result.content_type)
            body = prelude.feed(result.payload)
            answer = prelude.whole()
            answer.body = body
        else:
            answer = answers.buffered(result.payload)
        return _response(self._with_cors(row, answer, headers), about)

    async def _streamed(
        self, row: UrlRow, request: web.BaseRequest, headers: dict[str, str], stream: ResponseStream, about: dict[str, str]
    ) -> web.StreamResponse:
        """What a function streams goes out as it comes; an error after the first byte breaks the connection off."""
        pieces = aiter(stream)
        try:
            prelude, first = await self._beginning(stream, pieces)
            failed = stream.result is not None and stream.result.function_error is not None
            if failed and not first:  # it is over; but what it had sent before may still be here
                first = await anext(pieces, b"")
            if failed and not first:
                return _response(self._with_cors(row, Answer(502, [("Content-Type", answers.JSON)], _FAILED), headers), about)
            answer = self._with_cors(row, prelude.whole(), headers)
            response = web.StreamResponse(status=answer.status)
            for name, value in [*answer.headers, *about.items()]:
                response.headers.add(name, value)
            with contextlib.suppress(ConnectionError):  # the caller has gone; the function goes on
                await response.prepare(request)
                if first:
                    await response.write(first)
                async for piece in pieces:
                    await response.write(piece)
                if stream.result is not None and stream.result.function_error is None:
                    await response.write_eof()
                elif request.transport is not None:  # whoever reads must not take it for the whole
                    request.transport.abort()
            return response
        finally:
            stream.close()

    @staticmethod
    async def _beginning(stream: ResponseStream, pieces: AsyncIterator[bytes]) -> tuple[Prelude, bytes]:
        """The metadata, and the first bytes of the body; both may be missing if the stream ended before."""
        prelude: Prelude | None = None
        async for piece in pieces:
            if prelude is None:
                prelude = Prelude(stream.content_type)
            first = prelude.feed(piece)
            if prelude.answer is not None:
                return prelude, first
        if prelude is None:
            prelude = Prelude(stream.content_type)
        return prelude, b""


def _too_large() -> ApiError:
    return ApiError(
        "RequestTooLargeException", f"Request must be smaller than {INVOKE_LIMIT} bytes for the InvokeFunction operation"
    )


def _refusal(error: ApiError) -> Answer:
    """An error before the function: who calls a URL gets another status than who calls the API."""
    status = _STATUSES.get(error.code, 502)
    message: str | None = error.message
    if error.code == "ResourceNotFoundException":  # recorded
        message = None
    kind = "AccessDeniedException" if status == 403 else error.code
    return Answer(
        status, [("Content-Type", answers.JSON), ("x-amzn-ErrorType", kind)], json.dumps({"Message": message}).encode()
    )


_STATUSES: Final = {
    "AccessDeniedException": 403,
    "InvalidRequestContentException": 400,
    "RecursiveInvocationException": 400,
    "RequestTooLargeException": 413,
    "ResourceConflictException": 409,
    "ResourceNotFoundException": 403,
    "TooManyRequestsException": 429,
}


def _response(answer: Answer, about: dict[str, str]) -> web.Response:
    headers = CIMultiDict([*answer.headers, *about.items()])
    return web.Response(status=answer.status, headers=headers, body=answer.body or None)
