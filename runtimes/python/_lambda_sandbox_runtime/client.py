"""The Runtime API over one kept-alive connection. http.client would cost 15 ms at every cold start."""

from __future__ import annotations

import socket
from collections.abc import Iterator

_BASE = "/2018-06-01/runtime"


class Refused(Exception):
    """The API answered with something that ends this runtime."""


class RuntimeClient:
    def __init__(self, address: str) -> None:
        self._address = address
        self._connect()

    def next(self) -> tuple[dict[str, str], bytes]:
        """Waits for an event: its header fields (names in lower case) and its bytes."""
        status, headers, body = self._exchange("GET", "/invocation/next")
        if status != 200:
            raise Refused(f"GET next was answered with {status}: {body[:200]!r}")
        return headers, body

    def respond(self, request_id: str, invocation_id: str | None, body: bytes, content_type: str) -> int:
        fields = {"Content-Type": content_type}
        if invocation_id:
            fields["Lambda-Runtime-Invocation-Id"] = invocation_id
        return self._exchange("POST", f"/invocation/{request_id}/response", body, fields)[0]

    def report_error(self, request_id: str, invocation_id: str | None, body: bytes, cause: str | None) -> int:
        fields = {"Content-Type": "application/json"}
        if invocation_id:
            fields["Lambda-Runtime-Invocation-Id"] = invocation_id
        if cause is not None:
            fields["Lambda-Runtime-Function-XRay-Error-Cause"] = cause
        return self._exchange("POST", f"/invocation/{request_id}/error", body, fields)[0]

    def report_init_error(self, body: bytes, error_type: str) -> int:
        fields = {"Content-Type": "application/json", "Lambda-Runtime-Function-Error-Type": error_type}
        return self._exchange("POST", "/init/error", body, fields)[0]

    def _exchange(
        self, method: str, path: str, body: bytes = b"", fields: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        head = f"{method} {_BASE}{path} HTTP/1.1\r\nHost: {self._address}\r\nUser-Agent: lambda-sandbox-python\r\n"
        for name, value in (fields or {}).items():
            head += f"{name}: {value}\r\n"
        if method == "POST":
            head += f"Content-Length: {len(body)}\r\n"
        message = f"{head}\r\n".encode("latin-1", "replace")
        if self._closed:
            self._connect()
        try:
            return self._send(message, body)
        except (Refused, OSError):
            if self._answering or not self._used:
                raise
        # It was closed while nobody used it. An answer that did arrive is refused when it is sent again, not taken twice.
        self._connect()
        return self._send(message, body)

    def _connect(self) -> None:
        host, _, port = self._address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._used = self._closed = False

    def _send(self, message: bytes, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self._answering = False
        if len(body) < 65536:
            self._socket.sendall(message + body)
        else:
            self._socket.sendall(message)
            self._socket.sendall(body)
        return self._reply()

    def _reply(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = self._head()
        while status < 200:  # 1xx: the reply proper is still to come
            status, headers = self._head()
        if "transfer-encoding" in headers:
            body = b"".join(self._chunks())
        else:
            body = self._take(int(headers.get("content-length", "0")))
        self._used = True
        if headers.get("connection", "").lower() == "close":
            self._socket.close()
            self._closed = True
        return status, headers, body

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._buffer += self._receive(65536)
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(first.split(" ", 2)[1]), headers

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().partition(b";")[0], 16):
            yield self._take(size)
            self._line()
        while self._line():  # trailers
            pass

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._buffer += self._receive(65536)
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _take(self, length: int) -> bytes:
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        missing = length - len(body)
        if not missing:
            return body
        parts = [body]
        while missing:
            part = self._receive(min(missing, 1 << 20))
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _receive(self, size: int) -> bytes:
        data = self._socket.recv(size)
        if not data:
            raise Refused("the Runtime API closed the connection")
        self._answering = True
        return data
