"""A laboratory for a host: it starts the host with a probe as the function, and invokes it over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from sandbox.clock import Clock
from sandbox.conformance.lab import Lab, expect
from sandbox.conformance.target import Target
from sandbox.conformance.verdict import Broken, Inapplicable
from sandbox.core.errors import ConfigError
from sandbox.process.isolation import Isolation

EXTENSION: Final = "probe-extension"
TOLD: Final = "/tmp/probe-extension.jsonl"
INVOCATIONS: Final = "/2015-03-31/functions/function/invocations"  # of AWS's emulator, and of others after it
_START_LIMIT: Final = 30.0  # real seconds until a host listens
_OUTPUT_KEPT: Final = 64 * 1024  # bytes of what a host prints

Step = Mapping[str, Any]


class Answer(NamedTuple):
    """What a caller got. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Raises Broken if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Broken(f"the caller got {self.body[:300]!r} with status {self.status}, which is no JSON") from None


class HostLab(Lab):
    """One host, with one function."""

    def __init__(self, target: Target, clock: Clock, isolation: Isolation) -> None:
        super().__init__(target, clock, isolation)
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._output = b""
        self._url = target.url
        self._session: aiohttp.ClientSession | None = None
        self._invokes: list[dict[str, Any]] = []

    async def try_out(self) -> None:
        """Raises ConfigError if it does not start at all."""
        try:
            await self.start()
        except Broken as broken:
            raise ConfigError(str(broken)) from None

    async def close(self) -> None:
        try:
            if self._session is not None:
                await self._session.close()
            await self._end_host()
        finally:
            await super().close()
            self._folder.cleanup()

    async def _end_host(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(8):
                    await process.wait()
            except TimeoutError:
                pass
        _signal(process, signal.SIGKILL)
        await process.wait()
        if self._reading is not None:
            await self._reading

    # ── the host ──

    async def start(
        self, init: Sequence[Step] = (), extension: Mapping[str, Any] | None = None, timeout: int = 10, memory: int = 256
    ) -> None:
        """The host listens, with the probe as its function. init: steps of the runtime before its first poll.

        extension: orders of the probe as an extension; none is there otherwise. timeout: seconds. memory: MB. Raises Broken if
        it does not listen.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        if self.target.start is None and self.target.url is None:
            raise ConfigError(f"{self.target.name}: neither `start`, a line that starts the host, nor `url` is in [target]")
        if self.target.start is None:
            if init or extension:
                raise Inapplicable("it takes a host that the suite can start; this one was given by its URL")
            return
        code, layer = self._write_probe(init, extension)
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}{INVOCATIONS}"
        values = {"code": code, "layer": layer, "port": str(port), "timeout": str(timeout), "memory": str(memory)}
        line = self.target.start
        for name, value in values.items():
            line = line.replace(f"{{{name}}}", shlex.quote(value))
        self._process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            line,
            cwd=self.target.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **self.target.environment},
        )
        self._reading = asyncio.ensure_future(self._read(self._process))
        await self._is_ready(port)

    def _write_probe(self, init: Sequence[Step], extension: Mapping[str, Any] | None) -> tuple[str, str]:
        code, layer = Path(self._folder.name, "code"), Path(self._folder.name, "layer")
        write_probe(code)
        _write(code / "probe.json", json.dumps({"init": list(init)}))
        layer.mkdir(exist_ok=True)
        if extension is not None:
            _write(layer / "extensions" / EXTENSION, _probe())
            _write(layer / "probe.json", json.dumps({"events": ["INVOKE", "SHUTDOWN"], **extension}))
        return str(code), str(layer)

    async def _is_ready(self, port: int) -> None:
        """It listens, and has said so if it is one that does. Raises Broken."""
        end, ready = self.real.now() + _START_LIMIT, (self.target.ready or "").encode()
        while ready not in self._output or not await _listens(port):
            assert self._process is not None
            if self._process.returncode is not None or self.real.now() > end:
                what = f"it has not printed {self.target.ready!r}" if ready else f"nothing listens at port {port}"
                raise Broken(f"{self.target.name}: {what}. {self.whereabouts()}")
            await self.real.sleep(0.01)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(65_536):
            self._output = (self._output + data)[-_OUTPUT_KEPT:]

    # ── invoking ──

    async def post(self, body: bytes, **fields: str) -> Answer:
        """An event, and what its caller gets. Raises Broken if that is no answer."""
        assert self._session is not None
        assert self._url is not None
        began = self.real.now()
        request = self._session.post(self._url, data=io.BytesIO(body), headers={"Content-Type": "application/json", **fields})
        try:
            async with await self.wait("an answer to the caller", _entered(request), self.target.patience + 20) as reply:
                headers = {name.lower(): value for name, value in reply.headers.items()}
                answer = Answer(reply.status, headers, await self.wait("the answer's end", reply.read()))
        except aiohttp.ClientError as error:
            raise Broken(f"the caller got no whole answer: {error or type(error).__name__}. {self.whereabouts()}") from None
        self._invokes.append(self._shown(began, body, answer))
        return answer

    async def probe(self, *steps: Step, after: Sequence[Step] = (), answer: bool = True) -> Answer:
        """The probe does these steps, then answers what it saw unless it is told not to; `after` comes after its answer."""
        orders = {"steps": steps, "after": after, "answer": answer}
        return await self.post(json.dumps({"probe": orders}).encode())

    async def seen(self, *steps: Step, **how: Any) -> dict[str, Any]:
        """What the probe saw: {next, init, after, steps}. Raises Broken if it did not come to an answer."""
        told = (await self.probe(*steps, **how)).document
        expect(isinstance(told, dict) and "steps" in told, f"the probe was not heard: the caller got {str(told)[:300]}")
        return dict(told)

    async def results(self, *steps: Step) -> list[Any]:
        return list((await self.seen(*steps))["steps"])

    async def told(self) -> list[dict[str, Any]]:
        """What the extension has written down so far."""
        [text] = await self.results({"get": TOLD})
        return [json.loads(line) for line in (text or "").splitlines()]

    async def told_of(self, what: str) -> dict[str, Any]:
        """The first thing of that name which it has written down. Raises Broken if there is none."""
        told = await self.told()
        found = [one for one in told if one["seen"] == what]
        expect(found, f"the extension saw {', '.join(one['seen'] for one in told) or 'nothing'}, and no {what}")
        return found[0]

    # ── for reports ──

    def whereabouts(self) -> str:
        printed = self.printed[-5:]
        ended = self._process.returncode if self._process is not None else None
        return (f"The host has ended with status {ended}; " if ended is not None else "") + f"it printed last: {printed}"

    @property
    def printed(self) -> list[str]:
        return self._output.decode("utf-8", "replace").splitlines()

    def transcript(self) -> list[dict[str, Any]]:
        return self._invokes

    def _shown(self, began: float, body: bytes, answer: Answer) -> dict[str, Any]:
        return {
            "atMs": round((began - self.began) * 1000, 1),
            "connection": 1,
            "method": "POST",
            "path": self._url,
            "headers": [],
            "body": body[:2048].decode("utf-8", "replace"),
            "bodySize": len(body),
            "status": answer.status,
            "repliedAtMs": round((self.real.now() - self.began) * 1000, 1),
            "replyHeaders": list(answer.headers.items()),
            "reply": answer.body[:2048].decode("utf-8", "replace"),
            "replySize": len(answer.body),
        }


def write_probe(folder: Path) -> None:
    """The probe as a function with a custom runtime."""
    _write(folder / "bootstrap", _probe())


def _probe() -> str:
    return resources.files("sandbox.conformance.probe").joinpath("probe").read_text("utf-8")


async def _entered(request: Any) -> Any:
    return await request


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    """To all that its command line started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    file.chmod(0o755)
