"""One invocation, as the shell carries it: the event on its way in, the answer on its way out."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.core.errors import ConfigError
from sandbox.core.limits import CLIENT_CONTEXT_LIMIT, PAYLOAD_LIMIT
from sandbox.host.result import InvokeResult, ResponseStream
from sandbox.wire.runtime_api import InvocationEvent

_random = random.Random(os.urandom(32)).getrandbits  # nobody else's seed makes two invokes share an id
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch  # RT-033, IN-010
_TENANT = re.compile(r"[a-zA-Z0-9._:/=+\-@ ]{1,256}").fullmatch  # IN-007
_TENANT_WORDS = "1 to 256 of a-z, A-Z, 0-9, '._:/=+-@' and blank"
is_sendable = re.compile(r"[^\r\n\0\u0100-\U0010ffff]*").fullmatch


class Job:
    """An invoke that somebody waits for. `answered` is done when the caller's answer is whole, `reported` at REPORT."""

    __slots__ = (
        "_reported",
        "accepted_at",
        "answered",
        "arn",
        "client_context",
        "cognito_identity",
        "deliveries",
        "event",
        "invocation_id",
        "is_reported",
        "on_answer",
        "payload",
        "request_id",
        "result",
        "started",
        "stream",
        "tail",
        "tenant_id",
        "trace_id",
    )

    def __init__(
        self,
        payload: bytes,
        *,
        arn: str,
        accepted_at: float,
        wall: float,
        request_id: str | None = None,
        client_context: Any = None,
        cognito_identity: Mapping[str, str] | None = None,
        trace_id: str | None = None,
        tenant_id: str | None = None,
        stream: ResponseStream | None = None,
        tail: bool = False,
    ) -> None:
        digits = f"{_random(352):088x}"
        loop = asyncio.get_running_loop()
        self.request_id = _uuid(digits) if request_id is None else _checked("request id", request_id, _UUID, "a UUID")
        self.invocation_id = _uuid(digits[32:])
        self.arn = arn
        self.payload = payload
        self.accepted_at = accepted_at
        self.client_context = None
        if client_context is not None:
            self.client_context = _compact("client context", client_context, CLIENT_CONTEXT_LIMIT)
        self.cognito_identity = _cognito(cognito_identity) if cognito_identity is not None else None
        # Always there: one real runtime exits without it (DECISIONS "trace id").
        self.trace_id = _plain("trace id", trace_id) if trace_id else _trace_id(digits, wall)
        self.tenant_id = _checked("tenant id", tenant_id, _TENANT, _TENANT_WORDS) if tenant_id is not None else None
        self.stream = stream
        # The end of its log, once the runtime has polled again or has failed (DECISIONS "LogResult").
        self.tail: asyncio.Future[bytes] | None = loop.create_future() if tail else None
        self.event: InvocationEvent | None = None
        self.deliveries = 0  # how often a poll was answered with it
        self.started = False  # its START has been told
        self.answered: asyncio.Future[None] = loop.create_future()
        self.on_answer: Callable[[], None] | None = None  # called as soon as `answered` is done; it must not raise
        self.is_reported = False
        self._reported: asyncio.Future[None] | None = None  # made when somebody wants it
        self.result = InvokeResult(self.request_id, self.invocation_id)

    @property
    def reported(self) -> asyncio.Future[None]:
        """Done at REPORT."""
        if self._reported is None:
            self._reported = asyncio.get_running_loop().create_future()
            if self.is_reported:
                self._reported.set_result(None)
        return self._reported

    def finish(self) -> None:
        """Its REPORT is out, or there will be none."""
        self.is_reported = True
        if self._reported is not None and not self._reported.done():
            self._reported.set_result(None)

    def tell_answer(self) -> None:
        """Calls `on_answer`, once; it is forgotten then, for it holds the job, and so its payload."""
        on_answer, self.on_answer = self.on_answer, None
        if on_answer is not None:
            on_answer()

    def fail(self, error: Exception) -> None:
        """No environment could be had for it: its caller gets the exception."""
        if self.stream is not None:
            self.stream.fail(error)
        elif not self.answered.done():
            self.answered.set_exception(error)
            self.tell_answer()
        if self.tail is not None and not self.tail.done():
            self.tail.set_result(b"")

    def deliver_as(self, deadline_ms: int) -> InvocationEvent:
        """The event as a poll gets it. Given again, it is the same one, deadline included (RT-034)."""
        if self.event is None:
            self.event = InvocationEvent(
                self.request_id,
                self.invocation_id,
                deadline_ms,
                self.arn,
                self.trace_id,
                self.payload,
                self.client_context,
                self.cognito_identity,
                self.tenant_id,
            )
        return self.event


def _trace_id(digits: str, wall: float) -> str:
    return f"Root=1-{int(wall):08x}-{digits[64:88]};Parent={digits[:16]};Sampled=0"


def new_request_id() -> str:
    return _uuid(f"{_random(128):032x}")


def new_trace_id(wall: float) -> str:
    """One that nobody samples, for an invoke without one. wall: seconds since the epoch."""
    return _trace_id(f"{_random(352):088x}", wall)


def event_bytes(payload: bytes) -> bytes:
    """An event as a runtime gets it: nothing is {} (DECISIONS "empty Invoke payload"). Raises ConfigError (IN-008, RT-038)."""
    payload = payload or b"{}"
    _check(payload)
    return payload


def _check(payload: bytes) -> None:
    if len(payload) > PAYLOAD_LIMIT:
        raise ConfigError(f"the event has {len(payload)} bytes: at most {PAYLOAD_LIMIT} are possible")
    try:
        text = payload.decode()
        if text.startswith("\ufeff"):
            raise ConfigError("the event is not JSON: it begins with a byte order mark at line 1 column 1: save it without")
        _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"the event is not JSON: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"the event is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except _NoJsonError as error:
        raise ConfigError(f"the event is not JSON: {error} is no JSON value at {_where(text, str(error))}") from None
    except RecursionError:
        raise ConfigError("the event is not JSON that can be read: it is nested too deep") from None


class _NoJsonError(Exception):
    """NaN, Infinity or -Infinity, which Python's json would take."""


def _no_constant(name: str) -> None:
    raise _NoJsonError(name)


def _where(text: str, constant: str) -> str:
    """The place of the first such word outside a string."""
    for found in re.finditer(rf'"(?:[^"\\]|\\.)*"|{re.escape(constant)}', text):
        if found[0] == constant:
            before = text[: found.start()]
            return f"line {before.count(chr(10)) + 1} column {found.start() - before.rfind(chr(10))}"
    return "an unknown place"


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)  # numbers may have any length


def _uuid(digits: str) -> str:
    """EN-080: a version 4 UUID from 32 random hexadecimal digits."""
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"


def _checked(what: str, value: str, matches: Callable[[str], object], words: str) -> str:
    if not matches(value):
        raise ConfigError(f"the {what} {value!r} is not {words}")
    return value


def _plain(what: str, value: str) -> str:
    """A value that may travel in a header: DECISIONS "what is forwarded in headers"."""
    if not is_sendable(value):
        raise ConfigError(f"the {what} holds characters that a header cannot carry (CR, LF, NUL, or beyond Latin-1)")
    return value


def _compact(what: str, value: Any, limit: int) -> str:
    """A JSON document as compact ASCII; a str is parsed first."""
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the {what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"the {what} is not a JSON object: it has the keys client, custom and env")
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"the {what} cannot be written as JSON: {error}") from None
    said = text if text.isascii() and "\\u" not in text else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(said.encode("utf-8", "replace")) * 4 / 3 > limit:
        raise ConfigError(f"the {what} is too long: at most {limit} bytes in base64 are possible (IN-006)")
    return text


def _cognito(identity: Mapping[str, str]) -> str:
    """RT-027."""
    known = {"cognitoIdentityId", "cognitoIdentityPoolId"}
    if not isinstance(identity, Mapping) or not set(identity) <= known:
        raise ConfigError(f"the Cognito identity has the keys {' and '.join(sorted(known))}, and no others")
    return json.dumps(dict(identity), separators=(",", ":"))
