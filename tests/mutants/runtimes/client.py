"""The HTTP/1.1 client of `good.py`: one connection, kept as long as the host keeps it."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Iterator

Fields = list[tuple[str, str]]


class Gone(Exception):
    """The connection ended before the reply was whole."""


class Reply:
    def __init__(self, status: int, fields: Fields, body: bytes = b"") -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


class Client:
    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self.place = (host, int(port))
        self.socket: socket.socket | None = None
        self.buffer = b""
        self.came = False  # whether a byte of the reply has come

    # ── the connection ──

    def connect(self) -> None:
        self.buffer = b""
        self.socket = socket.create_connection(self.place)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def drop(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def ready(self) -> bool:
        """Whether the connection is a new one. What can be read between two requests is the connection's end."""
        if self.socket is not None and select.select([self.socket], [], [], 0)[0]:
            self.drop()
        if self.socket is not None:
            return False
        self.connect()
        return True

    # ── requests ──

    def ask(self, method: str, path: str, fields: Fields | None = None, body: bytes | None = None) -> Reply:
        """One exchange; again on a new connection if the host closed the old one just now. Raises Gone."""
        try:
            fresh = self.ready()
            try:
                return self.exchange(method, path, fields or [], body)
            except (Gone, OSError):
                self.drop()
                if self.came or not self.again(method, fresh):
                    raise
            self.connect()
            return self.exchange(method, path, fields or [], body)
        except (Gone, OSError) as error:
            self.drop()
            raise Gone(str(error)) from None

    def again(self, method: str, fresh: bool) -> bool:
        return not fresh

    def exchange(self, method: str, path: str, fields: Fields, body: bytes | None) -> Reply:
        if body is not None:
            fields = [*fields, ("Content-Length", str(len(body)))]
        self.send(self.head(method, path, fields) + (body or b""))
        return self.reply()

    def stream(self, path: str, fields: Fields, pieces: Iterator[bytes], trailers: Fields) -> Reply:
        """A request whose body comes piece by piece; what is in `trailers` at its end follows it. Raises Gone."""
        try:
            self.ready()
            self.send(self.head("POST", path, [*fields, ("Transfer-Encoding", "chunked")]))
            for piece in pieces:
                if piece:
                    self.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.send(b"0\r\n" + self.lines(trailers) + b"\r\n")
            return self.reply()
        except (Gone, OSError) as error:
            self.drop()
            raise Gone(str(error)) from None

    def head(self, method: str, path: str, fields: Fields) -> bytes:
        first = f"{method} {path} HTTP/1.1\r\nHost: {self.address}\r\n"
        return first.encode() + self.lines(fields) + b"\r\n"

    def lines(self, fields: Iterable[tuple[str, str]]) -> bytes:
        return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("utf-8")

    def send(self, data: bytes) -> None:
        assert self.socket is not None
        self.came = False
        self.socket.sendall(data)

    # ── replies ──

    def more(self) -> bytes:
        assert self.socket is not None
        data = self.socket.recv(65536)
        if not data:
            raise Gone("the host closed the connection")
        self.came = True
        return data

    def reply(self) -> Reply:
        while True:
            reply = self.read_head()
            if not self.interim(reply.status):
                break
        if "chunked" in (reply.get("transfer-encoding") or "").lower():
            reply.body = self.read_chunks()
        else:
            reply.body = self.read_body(int(reply.get("content-length") or 0))
        if self.ends(reply):
            self.drop()
        return reply

    def interim(self, status: int) -> bool:
        return 100 <= status < 200

    def ends(self, reply: Reply) -> bool:
        return (reply.get("connection") or "").lower() == "close"

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.buffer += self.more()
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def read_head(self) -> Reply:
        first, *lines = self.read_until(b"\r\n\r\n").decode("utf-8").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Reply(int(first.split(" ")[1]), fields)

    def read_body(self, size: int) -> bytes:
        pieces, length = [self.buffer], len(self.buffer)
        while length < size:
            pieces.append(self.more())
            length += len(pieces[-1])
        whole = b"".join(pieces)
        self.buffer = whole[size:]
        return whole[:size]

    def read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.read_until(b"\r\n").partition(b";")[0], 16):
            chunks.append(self.read_body(size))
            self.read_until(b"\r\n")
        while self.read_until(b"\r\n"):
            pass  # a trailer
        return b"".join(chunks)
