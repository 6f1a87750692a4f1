"""What the tests of the managed Node.js runtime share: which Node.js is here, ways to deploy, an API that a test plays."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sandbox import Host
from sandbox.cli import doctor
from sandbox.host.host import Function
from sandbox.host.interpreters import LANGUAGES, Interpreter, Interpreters
from tests.clients.real import INSTALLED
from tests.conftest import ROOT, MakeFolder, no_task_is_left

Deploy = Callable[..., Awaitable[Function]]

RUNTIME = ROOT / "runtimes" / "node"
LAST_WITH_CALLBACKS = 22
# An event is an expression; what it gives, a promise or not, is the answer. Its own names: event, context, and these modules.
EVALUATE = """
const child_process = require("child_process"), fs = require("fs"), os = require("os"), path = require("path"),
  vm = require("vm"), worker_threads = require("worker_threads");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
exports.handler = async (event, context) => eval(event);
"""
GONE = (
    "callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack"
)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@lru_cache
def here() -> tuple[Interpreter, ...]:
    """Every Node.js that a host finds, the one that it prefers first; then those that scripts/clients gets."""
    usual = Interpreters()
    folders = [str(path) for path in sorted(INSTALLED.glob("nodejs-*")) if path.is_dir()]
    others = [*usual.installed(_language()), *Interpreters(folders).installed(_language())]
    return (*([usual.find("nodejs")] if usual.installed(_language()) else []), *others)


def _language() -> Any:
    return next(language for language in LANGUAGES if language.name == "nodejs")


def needs_node(*, callbacks: bool = True) -> Interpreter:
    """A Node.js with callbacks (up to 22), or one without. Skips with the doctor's reason."""
    for one in here():
        if (one.number[0] <= LAST_WITH_CALLBACKS) is callbacks:
            return one
    finding = doctor._runtime(_language(), list(dict.fromkeys(here())))
    pytest.skip(f"{finding.name}, {'up to 22' if callbacks else 'from 24 on'}: {finding.text}")


@asynccontextmanager
async def hosting(*, callbacks: bool = True, **settings: Any) -> AsyncIterator[Host]:
    """A host that finds such a Node.js, wherever it is; keywords are those of Host."""
    folder = Path(needs_node(callbacks=callbacks).path).parent
    async with Host(runtime_dirs=[folder], **settings) as host:
        yield host
    no_task_is_left()


def deploying(host: Host, folder: MakeFolder, *, callbacks: bool = True) -> Deploy:
    """Deploys app.js, or the file that is named, on our managed Node.js runtime; keywords are those of FunctionConfig."""
    one = needs_node(callbacks=callbacks)

    async def make(app: str, files: dict[str, str] | None = None, *, file: str = "app.js", **settings: Any) -> Function:
        code = folder(**{file: textwrap.dedent(app)}, **(files or {}))
        return await host.deploy(code, **{"runtime": one.runtime, "handler": "app.handler", "timeout": 20} | settings)

    return make


def error_of(payload: Any) -> tuple[str, str]:
    """Type and message of an error document, whose keys are AWS's, in AWS's order."""
    assert list(payload) == ["errorType", "errorMessage", "trace"]
    return payload["errorType"], payload["errorMessage"]


def logged(line: str, request_id: str, level: str, words: str) -> Any:
    """The JSON that a text record of an error ends with."""
    _, told_id, told_level, rest = line.split("\t", 3)
    assert (told_id, told_level) == (request_id, level)
    assert rest.startswith(f"{words} \t")
    return json.loads(rest.removeprefix(f"{words} \t"))


# ── a Runtime API that the test plays ──


class Request(NamedTuple):
    """What the runtime sent. Names of fields are lower-case, of a field that came twice there are both values."""

    line: str
    fields: dict[str, list[str]]
    body: bytes


class Api:
    """One connection of the runtime."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields: dict[str, list[str]] = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            fields.setdefault(name.lower(), []).append(value.strip())
        body = b""
        if "content-length" in fields:
            body = await self._reader.readexactly(int(fields["content-length"][0]))
        elif fields.get("transfer-encoding") == ["chunked"]:
            body = await self._reader.readuntil(b"0\r\n\r\n")
        return Request(head[0], fields, body)

    async def reply(self, body: bytes = b'{"status":"OK"}', status: str = "202 Accepted", fields: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        await self._writer.drain()

    async def event(self, body: bytes = b"{}", *, fields: str = "", request_id: str = "one") -> Request:
        """Answers a poll with an event; returns what the runtime posts for it."""
        polled = await self.request()
        assert polled.line == "GET /2018-06-01/runtime/invocation/next HTTP/1.1"
        known = f"Lambda-Runtime-Aws-Request-Id: {request_id}\r\nLambda-Runtime-Deadline-Ms: 4102444800000\r\n"
        await self.reply(body, "200 OK", known + fields)
        return await self.request()


@asynccontextmanager
async def facing(one: Interpreter, code: Path, handler: str = "app.handler") -> AsyncIterator[Api]:
    """Our runtime, started by hand, against the test."""
    connected: asyncio.Future[Api] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set_result(Api(reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    variables = {
        "PATH": "/usr/bin:/bin",
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "LAMBDA_TASK_ROOT": str(code),
        "LAMBDA_RUNTIME_DIR": str(RUNTIME),
        "_HANDLER": handler,
    }
    process = await asyncio.create_subprocess_exec(one.path, str(RUNTIME / "index.cjs"), cwd=code, env=variables)
    api = None
    try:
        api = await asyncio.wait_for(connected, 20)
        yield api
    finally:
        process.kill()
        await process.wait()
        if api is not None:
            api._writer.close()
        server.close()
        await server.wait_closed()
