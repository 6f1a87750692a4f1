"""What an extension subscribes to: the body of PUT /2022-07-01/telemetry and PUT /2020-08-15/logs, checked (TL-001 to TL-035).

Pure: bytes in, a Subscription or a refusal out. Whether the window is open is the machine's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sandbox.core.errors import Refused
from sandbox.core.limits import (
    API_PORT,
    SUBSCRIPTION_BYTES,
    SUBSCRIPTION_DEFAULTS,
    SUBSCRIPTION_ITEMS,
    SUBSCRIPTION_TIMEOUT_MS,
)

TELEMETRY: Final = "Telemetry"
LOGS: Final = "Logs"
TYPES: Final = ("platform", "function", "extension")
SCHEMAS: Final = {
    TELEMETRY: ("2022-07-01", "2022-12-13", "2025-01-29"),  # TL-004
    LOGS: ("2020-08-15", "2021-03-18"),  # TL-005
}
HOSTS: Final = ("sandbox.localdomain", "sandbox", "sandbox.local.domain")  # TL-008
_ERRORS: Final = {TELEMETRY: "ValidationError", LOGS: "Logs.ValidationError"}  # TL-012
_URI: Final = re.compile(r"[\x21-\x7e]+")
_RANGES: Final = {
    "maxItems": SUBSCRIPTION_ITEMS,
    "maxBytes": SUBSCRIPTION_BYTES,
    "timeoutMs": SUBSCRIPTION_TIMEOUT_MS,
}


class Subscription(NamedTuple):
    """A checked subscription. types in the order given; timeout_ms in milliseconds; host as it was written."""

    api: str
    schema: str
    types: tuple[str, ...]
    protocol: str
    host: str
    port: int
    path: str
    method: str
    max_items: int
    max_bytes: int
    timeout_ms: int


def parse(body: bytes, api: str, reserved: frozenset[int] = frozenset()) -> Subscription:
    """Raises Refused (400). api: TELEMETRY or LOGS. reserved: ports that are the platform's own, besides 9001."""
    try:
        return _parse(body, api, reserved | {API_PORT})
    except _InvalidError as error:
        raise Refused(400, _ERRORS[api], str(error)) from None


class _InvalidError(Exception):
    """What is wrong with the body, for its author."""


def _parse(body: bytes, api: str, reserved: frozenset[int]) -> Subscription:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _InvalidError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _InvalidError("the body should be a JSON object")
    wrong: list[str] = []

    def checked(check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except _InvalidError as error:
            wrong.append(str(error))

    schema = checked(_schema, document, api)
    destination = checked(_destination, document.get("destination"), reserved)
    method = checked(_method, document.get("destination"), api)
    types = checked(_types, document.get("types"))
    buffering = checked(_buffering, document.get("buffering"))
    if wrong:
        raise _InvalidError("; ".join(wrong))
    protocol, host, port, path = destination
    return Subscription(api, schema, types, protocol, host, port, path, method, *buffering)


def _schema(document: dict[str, Any], api: str) -> str:
    schema = document.get("schemaVersion", "2020-08-15" if api == LOGS else None)
    if schema not in SCHEMAS[api]:
        raise _InvalidError(f"schemaVersion should be one of {', '.join(SCHEMAS[api])}; it is {_shown(schema)}")
    return str(schema)


def _method(destination: Any, api: str) -> str:
    """TL-034: the Logs API may PUT."""
    method = destination.get("method", "POST") if api == LOGS and isinstance(destination, dict) else "POST"
    if method not in ("POST", "PUT"):
        raise _InvalidError(f"destination.method should be POST or PUT; it is {_shown(method)}")
    return str(method)


def _types(types: Any) -> tuple[str, ...]:
    if not isinstance(types, list) or not types:
        raise _InvalidError("types should not be empty")  # TL-006
    for type_ in types:
        if type_ not in TYPES:
            raise _InvalidError(f"types should be of {', '.join(TYPES)}; one is {_shown(type_)}")
    return tuple(dict.fromkeys(types))


def _destination(destination: Any, reserved: frozenset[int]) -> tuple[str, str, int, str]:
    if not isinstance(destination, dict):
        raise _InvalidError("destination should be an object with protocol and URI")
    protocol = destination.get("protocol")
    if protocol not in ("HTTP", "TCP"):  # TL-007: upper case
        raise _InvalidError(f"destination.protocol should be HTTP or TCP; it is {_shown(protocol)}")
    uri, port = destination.get("URI"), destination.get("port")
    host, path = HOSTS[0], "/"
    if protocol == "HTTP" or (port is None and uri is not None):
        host, port, path = _uri(uri, protocol)
    if type(port) is not int or not 1 <= port <= 65535:
        raise _InvalidError(f"destination.port should be a number from 1 to 65535; it is {_shown(port)}")
    if port in reserved:  # TL-011
        raise _InvalidError(f"port {port} is reserved for the Runtime API")
    return protocol, host, port, path


def _uri(uri: Any, protocol: str) -> tuple[str, int, str]:
    if not isinstance(uri, str) or not _URI.fullmatch(uri):
        raise _InvalidError(f"destination.URI should be like http://{HOSTS[0]}:8080/path; it is {_shown(uri)}")
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _InvalidError(f"destination.URI {_shown(uri)}: {str(error)[:100]}") from None
    scheme = protocol.lower()
    if parts.scheme != scheme or parts.username is not None:
        raise _InvalidError(f"Only '{scheme}' scheme is supported.")
    if host not in HOSTS:
        raise _InvalidError(f"Only '{HOSTS[0]}' hostname is supported.")
    if port is None:
        raise _InvalidError("URI port is not provided")
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _buffering(buffering: Any) -> tuple[int, int, int]:
    if buffering is None:
        buffering = {}
    if not isinstance(buffering, dict):
        raise _InvalidError("buffering should be an object with maxItems, maxBytes and timeoutMs")
    found, wrong = [], []
    for name, allowed in _RANGES.items():
        value = buffering.get(name)
        value = SUBSCRIPTION_DEFAULTS[name] if value is None else value
        if type(value) is not int or value not in allowed:
            wrong.append(f"{name} should be between {allowed.start} and {allowed.stop - 1}")
        found.append(value)
    if wrong:
        raise _InvalidError("; ".join(wrong))
    return found[0], found[1], found[2]


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deep"
    return text if len(text) <= 100 else f"{text[:100]}…"
