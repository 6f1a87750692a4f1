"""The Runtime API, 2018-06-01: next, response, error, init/error. Rows RT-001 to RT-105.

A request becomes one event for the machine; the machine's effects come back as `deliver`, `accept` and `refuse`. Requests
are validated before the machine sees them, so a refused call changes nothing (RT-008).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sandbox.core import errors
from sandbox.core.events import (
    RUNTIME,
    Answer,
    AnswerBegins,
    AnswerEnds,
    AnswerRefused,
    ClientGone,
    Event,
    InitError,
    Next,
)
from sandbox.core.limits import ERROR_CAUSE_LIMIT, PAYLOAD_LIMIT, STREAM_LIMIT
from sandbox.wire import browsers
from sandbox.wire.http1 import JSON, Exchange, Handler, Http1Protocol, error_body

_BASE: Final = b"/2018-06-01/runtime/"
_NEXT: Final = _BASE + b"invocation/next"
_INIT_ERROR: Final = _BASE + b"init/error"
_INVOCATION: Final = _BASE + b"invocation/"
_OK: Final = b'{"status":"OK"}\n'  # RT-007; the line feed: real-clients 1.4
_ERROR_TYPE: Final = b"lambda-runtime-function-error-type"
_CAUSE_TYPE: Final = "application/vnd.aws.lambda.error.cause+json"


Tap = Callable[[Handler, set[Http1Protocol]], Http1Protocol]


class InvocationEvent(NamedTuple):
    """What a poll is answered with. Headers that are None are left out, never sent empty (RT-031)."""

    request_id: str
    invocation_id: str
    deadline_ms: int
    arn: str
    trace_id: str
    payload: bytes
    client_context: str | None = None
    cognito_identity: str | None = None
    tenant_id: str | None = None

    def headers(self) -> bytes:
        """RT-022 … RT-030. Content-Type is exactly this for every client (DECISIONS)."""
        head = (
            "Content-Type: application/json\r\n"
            f"Lambda-Runtime-Aws-Request-Id: {self.request_id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {self.deadline_ms}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {self.arn}\r\n"
            f"Lambda-Runtime-Trace-Id: {self.trace_id}\r\n"
            f"Lambda-Runtime-Invocation-Id: {self.invocation_id}\r\n"
        )
        if self.client_context is not None:
            head += f"Lambda-Runtime-Client-Context: {self.client_context}\r\n"
        if self.cognito_identity is not None:
            head += f"Lambda-Runtime-Cognito-Identity: {self.cognito_identity}\r\n"
        if self.tenant_id is not None:
            head += f"Lambda-Runtime-Aws-Tenant-Id: {self.tenant_id}\r\n"
        return head.encode("latin-1")


class AnswerNote(NamedTuple):
    """What the handler remembers of an answer whose body is still coming."""

    request_id: str
    invocation_id: str | None
    error: bool
    good_mode: bool


@dataclass(slots=True)
class LastCall:
    """The newest request that has been answered or parked, for errors written to a person. status: None while it waits."""

    method: str
    target: str
    status: int | None = None


class RuntimeApi:
    """The listener's handler for one environment. `feed` takes events; `before_poll` runs before a poll is told.

    routes: who answers targets that begin so, besides the Runtime API's own. on_refusal: told of every refusal. tap: makes the
    protocol of a connection; whoever wants to see or to spoil the traffic makes another (`wire/tap.py`).
    """

    def __init__(self, feed: Callable[[Event], None], before_poll: Callable[[], None], *, local_only: bool = True) -> None:
        self._feed = feed
        self._before_poll = before_poll
        self._local_only = local_only
        self.routes: dict[bytes, Callable[[Exchange], None]] = {}
        self.tap: Tap = Http1Protocol
        self.on_refusal: Callable[[Exchange, int, str, str], None] | None = None
        self._open: dict[int, Exchange] = {}
        self._connections: set[Http1Protocol] = set()
        self._last: tuple[bytes, bytes] | None = None  # method and target; not the exchange, which holds its body
        self._last_status: int | None = None
        self._good_host: bytes | None = None  # let in before; a request that names it and has nothing of a browser's is as good

    def protocol(self) -> Http1Protocol:
        """A protocol for a new connection."""
        return self.tap(self, self._connections)

    def close(self) -> None:
        """Ends every connection."""
        self._open.clear()
        for connection in list(self._connections):
            connection.close()

    def has_unread(self) -> bool:
        """Whether a connection has bytes that were sent and not read yet."""
        return any(connection.has_unread() for connection in self._connections)

    def has_connections(self) -> bool:
        return bool(self._connections)

    @property
    def last_call(self) -> LastCall | None:
        last = self._last
        if last is None:
            return None
        return LastCall(last[0].decode(), last[1].decode("latin-1"), self._last_status)

    # ── requests ──

    def request(self, exchange: Exchange) -> None:
        if exchange.target.startswith(_BASE):
            self._last, self._last_status = (exchange.method, exchange.target), None
        note = exchange.note
        if note is not None:
            assert isinstance(note, AnswerNote)
            self._open[exchange.number] = exchange
            self._feed(AnswerEnds(exchange.number, exchange.size, note.error or _ERROR_TYPE in exchange.trailers))
            return
        headers = exchange.headers
        known_good = headers.get(b"host") == self._good_host and b"origin" not in headers and b"sec-fetch-site" not in headers
        if self._local_only and not known_good:
            why = browsers.refusal(headers)
            if why is not None:
                self.refuse_exchange(exchange, 403, "Forbidden", why)
                return
            self._good_host = headers.get(b"host")
        if exchange.target == _NEXT:
            self._next(exchange)
        elif exchange.target.startswith(_INVOCATION):
            self._answer(exchange)
        elif exchange.target == _INIT_ERROR:
            self._init_error(exchange)
        else:
            self._other(exchange)

    def _next(self, exchange: Exchange) -> None:
        if exchange.method != b"GET":
            self.wrong_method(exchange, "GET")
            return
        exchange.undeliverable = True
        self._open[exchange.number] = exchange
        self._before_poll()
        self._feed(Next(exchange.number, RUNTIME))

    def _answer(self, exchange: Exchange) -> None:
        note = self._note(exchange)
        if note is None:
            return
        self._open[exchange.number] = exchange
        number = exchange.number
        if not note.good_mode:
            self._bad_mode(exchange, note)
        elif exchange.size > PAYLOAD_LIMIT:
            self._too_large(exchange, note)
        else:
            error = note.error or _ERROR_TYPE in exchange.trailers
            self._feed(Answer(number, note.request_id, note.invocation_id, exchange.size, error))

    def _note(self, exchange: Exchange) -> AnswerNote | None:
        """Reads the ids and the mode of an answer; None if it was refused here."""
        request_id, _, what = exchange.target[len(_INVOCATION) :].partition(b"/")
        if what not in (b"response", b"error"):
            self.not_found(exchange)
            return None
        if exchange.method != b"POST":
            self.wrong_method(exchange, "POST")
            return None
        echoed = exchange.headers.get(b"lambda-runtime-invocation-id")
        mode = exchange.headers.get(b"lambda-runtime-function-response-mode")
        good_mode = mode is None or what == b"error" or mode.lower() == b"streaming"
        invocation_id = echoed.decode("latin-1") if echoed else None
        return AnswerNote(request_id.decode("latin-1"), invocation_id, what == b"error", good_mode)

    def _bad_mode(self, exchange: Exchange, note: AnswerNote) -> None:
        mode = exchange.headers.get(b"lambda-runtime-function-response-mode", b"").decode("latin-1")
        text = f"Invalid function response mode: {mode}"
        self._refuse_answer(exchange, note, errors.BAD_RESPONSE_MODE, text, 400, "InvalidFunctionResponseMode", text)

    def _too_large(self, exchange: Exchange, note: AnswerNote) -> None:
        allowed = STREAM_LIMIT if exchange.size > STREAM_LIMIT else PAYLOAD_LIMIT
        refusal = f"Exceeded maximum allowed payload size ({allowed} bytes)."  # RT-057
        if note.error:
            error_type, text = self.error_type(exchange), f"Error body {refusal[0].lower()}{refusal[1:]}"  # RT-104
        else:
            error_type = errors.RESPONSE_TOO_LARGE
            # RT-058, in the words that AWS was seen to use (aws-observed.md)
            text = f"Response payload size exceeded maximum allowed payload size ({allowed} bytes)."
        self._refuse_answer(exchange, note, error_type, text, 413, "RequestEntityTooLarge", refusal)

    def _refuse_answer(
        self,
        exchange: Exchange,
        note: AnswerNote,
        error_type: str,
        text: str,
        status: int,
        refusal_type: str,
        refusal: str,
    ) -> None:
        ids = (note.request_id, note.invocation_id)
        self._feed(AnswerRefused(exchange.number, *ids, error_type, text, status, refusal_type, refusal))

    def _init_error(self, exchange: Exchange) -> None:
        if exchange.method != b"POST":
            self.wrong_method(exchange, "POST")
            return
        self._open[exchange.number] = exchange
        self._feed(InitError(exchange.number, self.error_type(exchange)))

    def _other(self, exchange: Exchange) -> None:
        if exchange.target == b"/ping":  # RT-005
            exchange.reply(200, b"Content-Type: text/plain\r\n", b"pong")
            return
        for prefix, answer in self.routes.items():
            if exchange.target.startswith(prefix):
                answer(exchange)
                return
        self.not_found(exchange)

    def park(self, exchange: Exchange) -> None:
        """It waits for its reply: deliver, accept or refuse by its number."""
        self._open[exchange.number] = exchange

    def not_found(self, exchange: Exchange) -> None:
        target = exchange.target.decode("latin-1")
        self.refuse_exchange(exchange, 404, "NotFound", f"No such path in the Runtime API: {target}")  # RT-003

    def wrong_method(self, exchange: Exchange, allowed: str) -> None:
        text = f"{exchange.method.decode()} is not allowed here, only {allowed}"
        self.reply(exchange, 405, JSON + f"Allow: {allowed}\r\n".encode(), error_body("MethodNotAllowed", text))  # RT-004
        self._tell_refusal(exchange, 405, "MethodNotAllowed", text)

    # ── bodies that take their time, and peers that go ──

    def head(self, exchange: Exchange) -> None:
        if exchange.target.startswith(_BASE):
            self._last, self._last_status = (exchange.method, exchange.target), None
        why = browsers.refusal(exchange.headers) if self._local_only else None
        if why is not None:
            self.refuse_exchange(exchange, 403, "Forbidden", why)
            return
        if not exchange.target.startswith(_INVOCATION) or exchange.target == _NEXT:
            return
        note = self._note(exchange)
        if note is None:
            return
        self._open[exchange.number] = exchange
        if note.good_mode:
            exchange.note = note
            self._feed(AnswerBegins(exchange.number, note.request_id, note.invocation_id))
        else:
            self._bad_mode(exchange, note)

    def body_limit(self, exchange: Exchange) -> None:
        note = exchange.note
        if isinstance(note, AnswerNote):
            self._too_large(exchange, note)

    def gone(self, exchange: Exchange) -> None:
        note = exchange.note
        if exchange.undeliverable:
            self._open.pop(exchange.number, None)
            self._feed(ClientGone(exchange.number))
        elif isinstance(note, AnswerNote) and exchange.number in self._open:
            text = "HTTP request detected as truncated"  # RT-060
            message = "The runtime's response ended before it was complete"
            self._refuse_answer(exchange, note, errors.TRUNCATED_RESPONSE, message, 400, "TruncatedHTTPRequest", text)
            self._open.pop(exchange.number, None)

    # ── what the shell performs ──

    def deliver(self, conn: int, event: InvocationEvent) -> bool:
        """Answers a poll with an event. False if its client has gone: then nothing was sent."""
        exchange = self._open.pop(conn, None)
        if exchange is None or not exchange.client_is_there():
            return False
        exchange.reply(200, event.headers(), event.payload)
        self._last, self._last_status = (exchange.method, exchange.target), 200
        return True

    def deliver_bytes(self, conn: int, headers: bytes, body: bytes) -> bool:
        """Answers a parked poll that is not the runtime's. False if its client has gone."""
        exchange = self._open.pop(conn, None)
        if exchange is None or not exchange.client_is_there():
            return False
        # What was written has arrived, for all we can know: one that closes without having read it all has had its event.
        exchange.undeliverable = False
        self.reply(exchange, 200, headers, body)
        return True

    def reply(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Sends it, and keeps what was said for the errors that a person reads."""
        self._open.pop(exchange.number, None)
        exchange.reply(status, headers, body)
        if exchange.target.startswith(_BASE):
            self._last, self._last_status = (exchange.method, exchange.target), status
        elif isinstance(exchange.note, LastCall):
            exchange.note.status = status

    def accept(self, conn: int) -> None:
        exchange = self._open.pop(conn, None)
        if exchange is None:
            return
        if exchange.target == _INIT_ERROR and exchange.size > PAYLOAD_LIMIT:
            text = f"Exceeded maximum allowed payload size ({PAYLOAD_LIMIT} bytes)."
            self.refuse_exchange(exchange, 413, "RequestEntityTooLarge", text)  # RT-104
            return
        self.reply(exchange, 202, JSON, _OK)

    def refuse(self, conn: int, status: int, error_type: str, message: str) -> None:
        exchange = self._open.pop(conn, None)
        if exchange is not None:
            if isinstance(exchange.note, AnswerNote):
                exchange.note = None
            self.refuse_exchange(exchange, status, error_type, message)

    def refuse_exchange(self, exchange: Exchange, status: int, error_type: str, message: str) -> None:
        self.reply(exchange, status, JSON, error_body(error_type, message))
        self._tell_refusal(exchange, status, error_type, message)

    def _tell_refusal(self, exchange: Exchange, status: int, error_type: str, message: str) -> None:
        if self.on_refusal is not None:
            self.on_refusal(exchange, status, error_type, message)

    def exchange(self, conn: int) -> Exchange | None:
        """An exchange that has no reply yet."""
        return self._open.get(conn)

    @staticmethod
    def error_type(exchange: Exchange) -> str:
        """RT-093."""
        reported = exchange.headers.get(_ERROR_TYPE)
        return errors.normal_error_type(reported.decode("latin-1") if reported else None)


def error_payload(exchange: Exchange) -> tuple[bytes, str]:
    """What the caller gets of a post to /error or init/error, and its content type (RT-090 to RT-094, RT-099)."""
    body = exchange.body
    content_type = exchange.headers.get(b"content-type", b"application/json").decode("latin-1")
    if not body:
        reported = exchange.headers.get(_ERROR_TYPE)
        error_type = reported.decode("latin-1") if reported else errors.normal_error_type(None)
        return json.dumps({"errorMessage": "", "errorType": error_type}).encode(), "application/json"  # RT-092
    if content_type.lower() != _CAUSE_TYPE:
        return body, content_type
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return b'"Invalid error body"', "application/octet-stream"
    kept = {key: document[key] for key in ("errorMessage", "errorType", "stackTrace") if key in document}
    return json.dumps(kept).encode(), "application/json"


def error_cause(exchange: Exchange) -> dict[str, Any] | None:
    """The cause that a client sends for X-Ray, if it is a JSON object (RT-098). What is not is ignored, never refused.

    Keys as the clients send them: working_directory, exceptions [{type, message, stack}], paths. One that is too long keeps
    only the type and the beginning of the message of its exceptions.
    """
    header = exchange.headers.get(b"lambda-runtime-function-xray-error-cause")
    if not header:
        return None
    try:
        cause = json.loads(header)
    except (ValueError, RecursionError):
        return None
    if not isinstance(cause, dict):
        return None
    if len(header) <= ERROR_CAUSE_LIMIT:
        return cause
    found = cause.get("exceptions")
    exceptions = [e for e in found if isinstance(e, dict)][:10] if isinstance(found, list) else []
    return {"exceptions": [{key: str(e[key])[:1024] for key in ("type", "message") if key in e} for e in exceptions]}
