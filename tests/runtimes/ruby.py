"""What the tests of the managed Ruby runtime share: a way to deploy, and a Runtime API that the test plays."""

from __future__ import annotations

import asyncio
import functools
import signal
import subprocess
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sandbox import Host
from sandbox.cli.doctor import _runtime
from sandbox.host.host import Function
from sandbox.host.interpreters import LANGUAGES, Interpreter, Interpreters
from sandbox.host.result import InvokeResult
from tests.conftest import ROOT, MakeFolder
from tests.runtimes.conftest import Deploy

# An event is a piece of Ruby; what it makes is the answer.
EVALUATE = """
require "json"
require "logger"

def handler(event:, context:)
  eval(event, binding, "event")
end
"""
PID = "def handler(event:, context:) = Process.pid\n"


@functools.cache
def _found() -> tuple[Interpreter | None, str]:
    language = next(one for one in LANGUAGES if one.name == "ruby")
    interpreters = Interpreters()
    return next(iter(interpreters.installed(language)), None), _runtime(language, interpreters.installed(language)).text


def ruby() -> Interpreter:
    """The newest Ruby that is here. Without one the test is skipped, with the reason that `doctor` gives."""
    interpreter, text = _found()
    if interpreter is None:
        pytest.skip(f"runtime ruby: {text}")
    return interpreter


def deploying(host: Host, folder: MakeFolder) -> Deploy:
    """Deploys app.rb (and other files, by path) on our managed Ruby runtime; keywords are those of FunctionConfig."""
    runtime = ruby().runtime

    async def make(app: str = EVALUATE, files: dict[str, str] | None = None, **settings: Any) -> Function:
        code = folder(**{"app.rb": textwrap.dedent(app)}, **(files or {}))
        return await host.deploy(code, **{"runtime": runtime, "handler": "app.handler", "timeout": 20} | settings)

    return make


def frame(path: str, line: int, label: str = "handler") -> str:
    """A line of a backtrace, as this Ruby writes it."""
    if ruby().number < (3, 4):
        return f"{path}:{line}:in `{label}'"
    what, space, name = label.rpartition(" ")
    return f"{path}:{line}:in '{label}'" if label.startswith("<") else f"{path}:{line}:in '{what}{space}Object#{name}'"


def replaced(result: InvokeResult) -> bool:
    """Whether this invoke needed a new process."""
    return any(record.type == "platform.initStart" for record in result.records)


# ── a Runtime API that the test plays: for what our own host never sends ──


class Posted(NamedTuple):
    """What the runtime posted: the path below /2018-06-01/runtime/, its fields by lower-case name, its body."""

    path: str
    fields: dict[str, str]
    body: bytes


class Ended(NamedTuple):
    """What a runtime did until it ended."""

    posts: list[Posted]
    out: str
    err: str
    status: int


EVENT = {"Content-Type": "application/json", "Lambda-Runtime-Aws-Request-Id": "one", "Lambda-Runtime-Deadline-Ms": "1"}


async def facing(
    code: Path, events: Sequence[tuple[bytes, dict[str, str]]] = (), *, sent: int | None = signal.SIGTERM, **variables: str
) -> Ended:
    """Runs the runtime without a log descriptor on these events (payload, more header fields).

    Then its last poll stays open, and it is sent a signal; with sent=None it must end by itself.
    """
    interpreter = ruby().path  # it skips
    waiting = list(events)
    posts: list[Posted] = []
    idle = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                if not first.startswith("GET"):
                    posts.append(Posted(first.split()[1].removeprefix("/2018-06-01/runtime/"), fields, body))
                    writer.write(b'HTTP/1.1 202 Accepted\r\nContent-Length: 16\r\n\r\n{"status":"OK"}\n')
                elif waiting:
                    payload, more = waiting.pop(0)
                    given = "".join(f"{name}: {value}\r\n" for name, value in (EVENT | more).items() if value is not None)
                    writer.write(f"HTTP/1.1 200 OK\r\n{given}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
                else:
                    idle.set()
                await writer.drain()

    server = await asyncio.start_server(served, "127.0.0.1", 0, limit=1 << 22)
    environment = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "LAMBDA_TASK_ROOT": str(code),
        "_HANDLER": "app.handler",
        **variables,
    }
    with (code / "out").open("wb") as out, (code / "err").open("wb") as err:
        process = subprocess.Popen(
            [interpreter, ROOT / "runtimes" / "ruby" / "bootstrap.rb"], cwd=code, env=environment, stdout=out, stderr=err
        )
    try:
        async with asyncio.timeout(20):
            while process.poll() is None:
                if idle.is_set() and sent is not None:
                    process.send_signal(sent)
                    sent = None
                await asyncio.sleep(0.005)
    finally:
        process.kill()
        process.wait()
        for writer in writers:
            writer.close()
        server.close()
        await server.wait_closed()
        for writer in writers:
            with suppress(ConnectionError):
                await writer.wait_closed()
    return Ended(posts, (code / "out").read_text(errors="replace"), (code / "err").read_text(), process.returncode)


def deadline(seconds: float) -> str:
    return str(int((time.time() + seconds) * 1000))
