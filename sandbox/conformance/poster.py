"""One connection on which telemetry is posted to an extension's listener: bytes as the tester wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple, cast

import httptools

_FIELDS = "Host: sandbox.localdomain\r\nContent-Type: application/json\r\n"


class Reply(NamedTuple):
    """status 0: the connection ended without a reply, or with bytes that are no HTTP."""

    status: int
    body: bytes


class Poster(asyncio.Protocol):
    """A connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._replies: asyncio.Queue[Reply] = asyncio.Queue()
        self._rest: Iterator[bytes] = iter(())

    def post(self, path: str, body: bytes, *, piece: int = 0, rename: bool = False, stop_after: int | None = None) -> None:
        """Sends a request. piece: in writes of so many bytes. rename: in lower case. stop_after: only so many bytes."""
        head = f"{_FIELDS}Content-Length: {len(body)}\r\n"
        if rename:
            head = "".join(f"{line.partition(':')[0].lower()}:{line.partition(':')[2]}\r\n" for line in head.splitlines())
        data = (f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)[:stop_after]
        step = piece or max(1, len(data))
        self._rest = iter([data[at : at + step] for at in range(0, len(data), step)])
        self._write_on()

    def _write_on(self) -> None:
        piece = next(self._rest, None)
        if piece is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(piece)
            asyncio.get_running_loop().call_soon(self._write_on)

    async def replied(self) -> Reply:
        """The next reply."""
        return await self._replies.get()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ── asyncio and httptools call these ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._replies.put_nowait(Reply(0, data))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._replies.put_nowait(Reply(0, b""))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._replies.put_nowait(Reply(self._parser.get_status_code(), self._body))
        self._body = b""
