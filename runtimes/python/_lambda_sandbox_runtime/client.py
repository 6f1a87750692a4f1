"""The Runtime API over one kept-alive connection. http.client would cost 15 ms at every cold start."""

from __future__ import annotations

import socket

_BASE = "/2018-06-01/runtime"


class Refused(Exception):
    """The API answered with something that ends this runtime."""


class RuntimeClient:
    def __init__(self, address: str) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

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
        if len(body) < 65536:
            self._socket.sendall(message + body)
        else:
            self._socket.sendall(message)
            self._socket.sendall(body)
        return self._reply()

    def _reply(self) -> tuple[int, dict[str, str], bytes]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._buffer += self._receive(65536)
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        if len(body) < length:
            parts = [body]
            missing = length - len(body)
            while missing:
                part = self._receive(min(missing, 1 << 20))
                parts.append(part)
                missing -= len(part)
            body = b"".join(parts)
        return int(first.split(" ", 2)[1]), headers, body

    def _receive(self, size: int) -> bytes:
        data = self._socket.recv(size)
        if not data:
            raise Refused("the Runtime API closed the connection")
        return data
