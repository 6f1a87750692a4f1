"""Runs a function with real extensions in bubblewrap, for test_real.py: a plan on standard input, what happened on the output.

plan: settings (of deploy), steps (each an event, {"stream": event} or {"shutdown": reason}), reason (of the last SHUTDOWN), and
sink: a port on which everything is taken in that an extension sends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from sandbox import Host
from sandbox.host.host import Function
from sandbox.host.result import InvokeResult


class Sink:
    """A server that says 200 to everything and keeps it."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await _chunked(reader) if "transfer-encoding" in fields else await _sized(reader, fields)
                method, path, _ = first.split(" ")
                seen = {"method": method, "path": path, "type": fields.get("content-type"), "body": body.decode("latin-1")}
                self.received.append(seen)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def _sized(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    return await reader.readexactly(int(fields.get("content-length", "0")))


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def told(result: InvokeResult, pieces: list[str] | None, seconds: float) -> dict[str, Any]:
    """What a caller of the library sees."""
    return {
        "id": result.request_id,
        "payload": result.payload.decode(),
        "pieces": pieces,
        "status": result.status,
        "error": result.error_type,
        "phase": result.error_phase,
        "log": result.log,
        "report": result.report.document() if result.report is not None else None,
        "extensions": [cost.document() for cost in result.extensions],
        "held_open_by": result.held_open_by,
        "seconds": seconds,
    }


async def take(function: Function, step: Any) -> dict[str, Any] | None:
    began = time.monotonic()
    if "shutdown" in step:
        return await function.shutdown(step["shutdown"])
    if "stream" not in step:
        result = await function.invoke(step)
        return told(result, None, time.monotonic() - began)
    stream = await function.invoke_stream(step["stream"])
    pieces = [chunk.decode() async for chunk in stream]
    while stream.result is None or stream.result.report is None:
        await asyncio.sleep(0.001)
    return told(stream.result, pieces, time.monotonic() - began)


async def main() -> None:
    plan = json.load(sys.stdin)
    journal: list[dict[str, Any]] = []
    sink = Sink()
    server = await asyncio.start_server(sink.serve, "127.0.0.1", plan["sink"])
    async with Host() as host:
        host.journal.subscribe(lambda record: journal.append(record.document() | {"mono": record.mono, "wall": record.wall}))
        function = await host.deploy("/var/task", **plan["settings"])
        invokes = [answer for step in plan["steps"] if (answer := await take(function, step)) is not None]
        began = time.monotonic()
        await host.close(plan["reason"])
    server.close()
    seconds = time.monotonic() - began
    json.dump({"invokes": invokes, "journal": journal, "sent": sink.received, "closing": seconds}, sys.stdout)


asyncio.run(main())
