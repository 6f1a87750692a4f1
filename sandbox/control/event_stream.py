"""Frames of application/vnd.amazon.eventstream (IN-041): a prelude, headers, a payload, each with a checksum."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
_STRING: Final = 7  # the type of a header's value
_CHUNK: Final = 256 * 1024  # of a payload in one frame


def _frame(event: str, content_type: str, payload: bytes) -> bytes:
    pairs = ((":event-type", event), (":content-type", content_type), (":message-type", "event"))
    headers = b"".join(_header(name, value) for name, value in pairs)
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = b"".join((prelude, struct.pack("!I", crc32(prelude)), headers, payload))
    return message + struct.pack("!I", crc32(message))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text


def payload_chunks(data: bytes) -> Iterator[bytes]:
    """PayloadChunk events."""
    for start in range(0, len(data), _CHUNK):
        yield _frame("PayloadChunk", "application/octet-stream", data[start : start + _CHUNK])


def invoke_complete(*, code: str | None = None, details: str | None = None, log: str | None = None) -> bytes:
    """The last event (IN-042). log: base64."""
    pairs = (("ErrorCode", code), ("ErrorDetails", details), ("LogResult", log))
    document = {name: value for name, value in pairs if value is not None}
    return _frame("InvokeComplete", "application/json", json.dumps(document).encode())
