"""A request to a function URL as the function gets it: payload format 2.0 (IN-120, IN-121). Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from sandbox.core.function import ACCOUNT

_TEXT: Final = re.compile(r"text/.*|application/(json|javascript|xml)")
_NOT_PASSED: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade"})
_CREDENTIAL: Final = re.compile(r"Credential=([^/,\s&]+)/")
_SIGNED_QUERY: Final = re.compile(r"(?:^|&)X-Amz-Credential=([^/&%]+)(?:/|%2F)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UrlRequest:
    """target: as it was sent, percent-encoded. headers: in the order in which they came, names in any case.

    host: the URL's own name, with its port. id: the first part of it. peer: the address of the caller.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    host: str
    id: str
    peer: str
    protocol: str = "HTTP/1.1"


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names in lower case; several of one name joined by commas."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        between = "; " if key == "cookie" else ","
        found[key] = f"{found[key]}{between}{value}" if key in found else value
    return found


def build(request: UrlRequest, *, request_id: str, trace_id: str, wall: float, access_key: str | None) -> bytes:
    """The event. access_key: who signed the request, None with AuthType NONE. wall: seconds since the epoch."""
    path, _, query = request.target.partition("?")
    headers = {name: value for name, value in joined(request.headers).items() if name not in _NOT_PASSED}
    headers |= {"x-amzn-trace-id": trace_id, "x-forwarded-for": request.peer, "x-forwarded-proto": "http"}
    headers["x-forwarded-port"] = request.host.rpartition(":")[2]
    event: dict[str, Any] = {"version": "2.0", "routeKey": "$default", "rawPath": path or "/", "rawQueryString": query}
    if cookie := headers.get("cookie"):
        event["cookies"] = [part.strip() for part in cookie.split(";") if part.strip()]
    event["headers"] = headers
    if query:
        event["queryStringParameters"] = _parameters(query)
    event["requestContext"] = _context(request, headers, path or "/", request_id, wall, access_key)
    text = _text(request.body, headers)
    if request.body:
        event["body"] = text if text is not None else base64.b64encode(request.body).decode()
    event["isBase64Encoded"] = bool(request.body) and text is None
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _context(
    request: UrlRequest, headers: dict[str, str], path: str, request_id: str, wall: float, access_key: str | None
) -> dict[str, Any]:
    context: dict[str, Any] = {"accountId": ACCOUNT if access_key else "anonymous", "apiId": request.id, "authentication": None}
    if access_key:
        caller = f"arn:aws:iam::{ACCOUNT}:user/sandbox"
        iam = {"accessKey": access_key, "accountId": ACCOUNT, "callerId": access_key, "cognitoIdentity": None}
        context["authorizer"] = {"iam": iam | {"principalOrgId": None, "userArn": caller, "userId": access_key}}
    http = {"method": request.method, "path": path, "protocol": request.protocol, "sourceIp": request.peer}
    return context | {
        "domainName": request.host,
        "domainPrefix": request.id,
        "http": http | {"userAgent": headers.get("user-agent", "")},
        "requestId": request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": f"{datetime.fromtimestamp(wall, UTC):%d/%b/%Y:%H:%M:%S +0000}",
        "timeEpoch": int(wall * 1000),
    }


def _text(body: bytes, headers: dict[str, str]) -> str | None:
    """The body as text; None if it is to be sent in base64."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if _TEXT.fullmatch(kind) is None or headers.get("content-encoding", "identity").lower() != "identity":
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def signed_by(headers: dict[str, str], query: str) -> str | None:
    """The access key of a request that is signed (Signature Version 4), in its headers or its query; None if it is not.

    Whether the signature is right is not looked at.
    """
    authorization = headers.get("authorization", "")
    if authorization.startswith("AWS4-") and "Signature=" in authorization:
        found = _CREDENTIAL.search(authorization)
        return found[1] if found else None
    if "X-Amz-Signature=" in query and (found := _SIGNED_QUERY.search(query)):
        return found[1]
    return None
