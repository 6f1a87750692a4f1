"""The Extensions API, 2020-01-01: register, event/next, init/error, exit/error; and who may subscribe. Rows EX-020 to EX-069.

Every request becomes one event for the machine, as in runtime_api. Identifiers are ours: the machine knows names only, and
they end with their generation (EX-091).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from sandbox.core.errors import Refused
from sandbox.core.events import Event, ExtensionError, Next, Register, Subscribe
from sandbox.core.function import ACCOUNT, FunctionConfig
from sandbox.core.limits import EXTENSION_BODY, EXTENSION_ERROR_MESSAGE, EXTENSION_ERROR_TYPE, EXTENSION_NAME, EXTENSION_NAMES
from sandbox.core.subscription import LOGS, TELEMETRY, Subscription, parse
from sandbox.wire.http1 import JSON, Exchange
from sandbox.wire.runtime_api import LastCall, RuntimeApi

_BASE: Final = b"/2020-01-01/extension/"
_SUBSCRIPTIONS: Final = {b"/2022-07-01/telemetry": TELEMETRY, b"/2020-08-15/logs": LOGS}
_EVENTS: Final = ("INVOKE", "SHUTDOWN")
_UUID: Final = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(slots=True)
class Call(LastCall):
    """The handler's note on an exchange with an extension. subscription: what it will have if it is let in; reported: what
    the body of an error says."""

    name: str = ""
    identifier: str | None = None
    subscription: Subscription | None = None
    reported: str | None = None


class ExtensionsApi:
    """The Extensions API on one environment's listener. `before_poll` runs before an extension's poll is told.

    port: of the listener, where no telemetry can go; known once it listens.
    """

    def __init__(
        self, api: RuntimeApi, feed: Callable[[Event], None], before_poll: Callable[[], None], function: FunctionConfig
    ) -> None:
        self._api = api
        self._feed = feed
        self._before_poll = before_poll
        self._function = function
        self._names: dict[str, str] = {}  # by identifier
        self._calls: dict[str, Call] = {}  # the newest of each name
        self.port = 0
        self.launched: Collection[str] = ()  # the external ones
        for prefix in (_BASE, *_SUBSCRIPTIONS):
            api.routes[prefix] = self._request

    def begin(self) -> None:
        """A new generation: identifiers of the old one are unknown from here on."""
        self._names.clear()
        self._calls.clear()

    def last_call(self, name: str) -> Call | None:
        """The newest request of an extension, by the name that it gave itself."""
        return self._calls.get(name)

    def callers(self) -> list[str]:
        """Every name that has called."""
        return list(self._calls)

    # ── requests ──

    def _request(self, exchange: Exchange) -> None:
        try:
            self._dispatch(exchange)
        except Refused as refused:
            self._api.refuse_exchange(exchange, refused.status, refused.error_type, refused.message)

    def _dispatch(self, exchange: Exchange) -> None:
        if exchange.size > EXTENSION_BODY:
            raise Refused(413, "RequestEntityTooLarge", f"The body is longer than {EXTENSION_BODY} bytes")
        target = exchange.target
        if target in _SUBSCRIPTIONS:
            if self._is(exchange, b"PUT"):
                self._subscribe(exchange, _SUBSCRIPTIONS[target])
        elif target == _BASE + b"register":
            if self._is(exchange, b"POST"):
                self._register(exchange)
        elif target == _BASE + b"event/next":
            if self._is(exchange, b"GET"):
                call = self._caller(exchange)
                exchange.undeliverable = True
                self._api.park(exchange)
                self._before_poll()
                self._feed(Next(exchange.number, call.name))
        elif target in (_BASE + b"init/error", _BASE + b"exit/error"):
            if self._is(exchange, b"POST"):
                self._error(exchange, exiting=target.endswith(b"exit/error"))
        else:
            self._api.not_found(exchange)

    def _is(self, exchange: Exchange, method: bytes) -> bool:
        if exchange.method == method:
            return True
        self._api.wrong_method(exchange, method.decode())
        return False

    def _note(self, exchange: Exchange, name: str) -> Call:
        call = Call(exchange.method.decode(), exchange.target.decode("latin-1"), name=name)
        exchange.note = call
        if name in self._calls or name in self.launched or len(self._calls) < EXTENSION_NAMES:
            self._calls[name] = call
        return call

    def _identifier(self, exchange: Exchange) -> str:
        """EX-040."""
        given = exchange.headers.get(b"lambda-extension-identifier")
        if not given:
            raise Refused(403, "Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header")
        if not _UUID.fullmatch(given):
            raise Refused(403, "Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier")
        return given.decode().lower()

    def _caller(self, exchange: Exchange, unknown: str = "Unknown extension {}") -> Call:
        """Whose identifier it is (EX-040)."""
        identifier = self._identifier(exchange)
        name = self._names.get(identifier)
        if name is None:
            raise Refused(403, "Extension.UnknownExtensionIdentifier", unknown.format(identifier))
        call = self._note(exchange, name)
        call.identifier = identifier
        return call

    def _register(self, exchange: Exchange) -> None:
        name = _name(exchange.headers.get(b"lambda-extension-name", b""))
        if not name:
            raise Refused(403, "Extension.InvalidExtensionName", "Empty extension name")
        if len(name) > EXTENSION_NAME:
            raise Refused(
                403, "Extension.InvalidExtensionName", f"The extension name is longer than {EXTENSION_NAME} characters"
            )
        self._note(exchange, name)
        events = _events(exchange.body)
        self._api.park(exchange)
        self._feed(Register(exchange.number, name, events))

    def _error(self, exchange: Exchange, *, exiting: bool) -> None:
        self._identifier(exchange)  # a bad one is told before a missing header, an unknown one after it
        error_type = exchange.headers.get(b"lambda-extension-function-error-type", b"").decode("latin-1")
        if not error_type:
            raise Refused(403, "Extension.MissingHeader", "Lambda-Extension-Function-Error-Type not found")
        call = self._caller(exchange, "Unknown Lambda-Extension-Identifier")
        call.reported = f"{error_type[:EXTENSION_ERROR_TYPE]}{_error_message(exchange.body)}"
        self._api.park(exchange)
        self._feed(ExtensionError(exchange.number, call.name, error_type[:EXTENSION_ERROR_TYPE], exiting))

    def _subscribe(self, exchange: Exchange, api: str) -> None:
        call = self._caller(exchange)
        call.subscription = parse(exchange.body, api, frozenset({self.port}))
        self._api.park(exchange)
        self._feed(Subscribe(exchange.number, call.name, api))

    # ── what the shell performs ──

    def accept(self, exchange: Exchange, call: Call) -> None:
        """The machine has let it in."""
        if exchange.target == _BASE + b"register":
            self._registered(exchange, call)
        elif call.subscription is not None:
            self._api.reply(exchange, 200, JSON, b'"OK"')  # TL-001
        else:
            self._api.reply(exchange, 202, JSON, b'{"status":"OK"}\n')  # EX-061

    def exact(self, call: Call, refusal: str) -> str:
        """A refusal in AWS's words: the machine knows an extension's name, the words have its identifier (EX-056)."""
        return refusal.replace(f"extension {call.name}.", f"extension {call.identifier}.") if call.identifier else refusal

    def _registered(self, exchange: Exchange, call: Call) -> None:
        identifier = str(uuid.uuid4())
        self._names[identifier] = call.name
        function = self._function
        features = exchange.headers.get(b"lambda-extension-accept-feature", b"").decode("latin-1").split(",")
        wanted = "accountId" in [feature.strip() for feature in features]
        document = {"accountId": ACCOUNT} if wanted else {}  # EX-024: text, it may begin with a zero
        document |= {"functionName": function.name, "functionVersion": function.version, "handler": function.handler}
        headers = JSON + f"Lambda-Extension-Identifier: {identifier}\r\n".encode()
        self._api.reply(exchange, 200, headers, compact(document) + b"\n")

    def deliver_invoke(self, conn: int, request_id: str, arn: str, trace_id: str, deadline_ms: int) -> bool:
        """Answers a poll with INVOKE (EX-043, EX-044). False if its client has gone."""
        tracing = {"type": "X-Amzn-Trace-Id", "value": trace_id}
        event = {"eventType": "INVOKE", "deadlineMs": deadline_ms, "requestId": request_id, "invokedFunctionArn": arn}
        headers = JSON + f"Lambda-Extension-Event-Identifier: {uuid.uuid4()}\r\n".encode()
        return self._api.deliver_bytes(conn, headers, compact({**event, "tracing": tracing}))

    def deliver_shutdown(self, conn: int, reason: str, deadline_ms: int) -> bool:
        """Answers a poll with SHUTDOWN (EX-050 to EX-052: with no event identifier). False if its client has gone."""
        event = {"eventType": "SHUTDOWN", "deadlineMs": deadline_ms, "shutdownReason": reason}
        return self._api.deliver_bytes(conn, b"Content-Type: text/plain; charset=utf-8\r\n", compact(event))


def _name(header: bytes) -> str:
    """As it is in the file system, if the header has it so."""
    try:
        return header.decode().strip()
    except UnicodeDecodeError:
        return header.decode("latin-1").strip()


def _events(body: bytes) -> frozenset[str]:
    """The events of a register, whatever its content type is (real-extensions 3.5). Raises Refused."""
    document = _document(body)
    if document.get("configurationkeys"):
        raise Refused(
            403, "InvalidRequestFormat", "configurationKeys are deprecated; use environment variables instead"
        )  # EX-032
    events = document.get("events")
    if events is None:
        return frozenset()
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise Refused(403, "InvalidRequestFormat", "events should be a list of strings")
    for event in events:
        if event not in _EVENTS:
            raise Refused(403, "Extension.InvalidEventType", f"{event}: ErrorInvalidEventType")  # EX-025
    return frozenset(events)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip())
        text = "unexpected end of JSON input" if cut else f"The body is not JSON: {error}"
        raise Refused(403, "InvalidRequestFormat", text) from None  # EX-031
    except (ValueError, RecursionError) as error:
        raise Refused(403, "InvalidRequestFormat", f"The body is not JSON: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Refused(403, "InvalidRequestFormat", "The body is not a JSON object")
    return {key.lower(): value for key, value in document.items()}  # the service's decoder does not look at their case


def _error_message(body: bytes) -> str:
    """What an error's body says, if it says something (EX-067: it may be anything)."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = document.get("errorMessage") if isinstance(document, dict) else None
    return f": {message[:EXTENSION_ERROR_MESSAGE]}" if isinstance(message, str) and message else ""


def compact(document: dict[str, Any]) -> bytes:
    """JSON without blanks: extensions in bash look for "eventType":"SHUTDOWN"."""
    return json.dumps(document, separators=(",", ":")).encode()
