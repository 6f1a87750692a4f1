"""A function's answer as HTTP (IN-122 … IN-124), buffered or streamed. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

PRELUDE_TYPE: Final = "application/vnd.awslambda.http-integration-response"
_END_OF_PRELUDE: Final = b"\0" * 8
_PRELUDE_LIMIT: Final = 1024 * 1024  # ours
_OURS: Final = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "x-amzn-requestid"}
)  # the listener's own
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch
_TOO_DEEP: Final = "the function's answer is nested too deeply"
JSON: Final = "application/json"


class BadAnswer(Exception):
    """Nothing that could be sent: the caller gets 502. Its text is for who wrote the function."""


@dataclass(slots=True)
class Answer:
    """headers: as they go out, Set-Cookie included."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def buffered(payload: bytes) -> Answer:
    """The whole answer of a function. Raises BadAnswer."""
    try:
        return _buffered(payload)
    except RecursionError:
        raise BadAnswer(_TOO_DEEP) from None


def _buffered(payload: bytes) -> Answer:
    try:
        document = json.loads(payload, parse_constant=_refuse)
    except ValueError:
        raise BadAnswer("the function's answer is not JSON") from None
    if not isinstance(document, dict) or "statusCode" not in document:
        return Answer(200, [("Content-Type", JSON)], _compact(document))
    answer = _head(document, JSON)
    answer.body = _body(document)
    return answer


def _refuse(constant: str) -> None:
    """NaN, Infinity: Python's own."""
    raise ValueError(constant)


def _body(document: dict[str, Any]) -> bytes:
    body = document.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        return _compact(body)
    if document.get("isBase64Encoded") is not True:
        return body.encode("utf-8", "replace")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise BadAnswer("isBase64Encoded is true, and the body is no base64") from None


def _head(document: dict[str, Any], default_type: str) -> Answer:
    headers = document.get("headers")
    cookies = document.get("cookies")
    if headers is None:
        headers = {}
    if not isinstance(headers, dict):
        raise BadAnswer("headers is no object")
    if cookies is None:
        cookies = []
    if not isinstance(cookies, list):
        raise BadAnswer("cookies is no array")
    pairs = [(name, _field(name, value)) for name, value in headers.items() if value is not None]
    pairs = [(name, value) for name, value in pairs if name.lower() not in _OURS]
    if not any(name.lower() == "content-type" for name, _ in pairs):
        pairs.append(("Content-Type", default_type))
    return Answer(_status(document.get("statusCode", 200)), pairs + [("Set-Cookie", _field("cookies", one)) for one in cookies])


def _status(status: Any) -> int:
    """IN-124; but 1xx are no answers in HTTP: whoever asked would wait on. A number as a string is taken, too (recorded)."""
    if isinstance(status, str) and re.fullmatch("[0-9]{3}", status):
        status = int(status)
    if isinstance(status, float) and status.is_integer():
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise BadAnswer(f"statusCode {json.dumps(status)[:100]}: 200 to 599 are possible")
    return status


def _field(name: str, value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str) or not _VALUE(value) or not _NAME(name):
        raise BadAnswer(f"header {name[:100]!r}: its value is no text that a header can carry")
    return value.encode("utf-8", "replace").decode()  # what is no character becomes "?"


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


class Prelude:
    """Takes the beginning of a stream apart: what it says of status, headers and cookies, and where the body begins."""

    def __init__(self, content_type: str | None) -> None:
        self._begun = b""
        self.answer: Answer | None = None
        if (content_type or "").partition(";")[0].strip().lower() != PRELUDE_TYPE:
            self.answer = Answer(200, [("Content-Type", _field("Content-Type", content_type or "application/octet-stream"))])

    def feed(self, piece: bytes) -> bytes:
        """What of it belongs to the body; `answer` is there once the prelude is whole. Raises BadAnswer."""
        if self.answer is not None:
            return piece
        self._begun += piece
        head, end, rest = self._begun.partition(_END_OF_PRELUDE)
        if len(head) > (_PRELUDE_LIMIT if end else _PRELUDE_LIMIT + len(_END_OF_PRELUDE) - 1):
            raise BadAnswer(f"the metadata before a streamed body is longer than {_PRELUDE_LIMIT} bytes")
        if not end:
            return b""
        try:
            document = json.loads(head)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise BadAnswer("the metadata before a streamed body is no JSON object")
        try:
            self.answer = _head(document, "application/octet-stream")
        except RecursionError:
            raise BadAnswer(_TOO_DEEP) from None
        self._begun = b""
        return rest

    def whole(self) -> Answer:
        """Its answer, without a body. Raises BadAnswer: the stream has ended before."""
        if self.answer is None:
            raise BadAnswer("the stream ended within the metadata before its body")
        return self.answer
