"""A laboratory for an extension: a function whose handler does what its event says, and the extension beside it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sandbox.clock import Clock
from sandbox.conformance.lab import EMPTY, Lab, expect
from sandbox.conformance.poster import Poster, Reply
from sandbox.conformance.target import Target
from sandbox.conformance.verdict import Broken
from sandbox.core.errors import ConfigError, InvariantError
from sandbox.core.events import RUNTIME
from sandbox.core.limits import Limits
from sandbox.host.environment import Environment
from sandbox.host.environment.processes import Exit
from sandbox.host.host import Function
from sandbox.host.result import InvokeResult
from sandbox.process.isolation import Isolation
from sandbox.wire.tap import Seen

BESIDE: Final = "beside"  # the other extension of some cases
SHUTDOWN: Final = Limits().shutdown_external  # seconds
_RELEASE: Final = 0.8  # seconds after SHUTDOWN in which the host's timers go off: the last telemetry is sent then

_APP: Final = """\
import os, time
time.sleep(float(os.environ.get("INIT_SECONDS", "0")))
def handler(event, context):
    for line in event.get("lines", ()):
        print(line)
    if "touch" in event:
        open(event["touch"], "w").close()
    time.sleep(event.get("seconds", 0))
    if "exit" in event:
        os._exit(event["exit"])
    return event
"""
_BESIDE: Final = """\
#!/usr/bin/env -S python3 -SE
import http.client, json, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
events, name = '{"events":["INVOKE","SHUTDOWN"]}', {"Lambda-Extension-Name": "beside"}
connection.request("POST", "/2020-01-01/extension/register", events, name)
reply = connection.getresponse()
reply.read()
identifier = {"Lambda-Extension-Identifier": reply.headers["Lambda-Extension-Identifier"]}
while True:
    connection.request("GET", "/2020-01-01/extension/event/next", None, identifier)
    event = json.loads(connection.getresponse().read())
    if event["eventType"] == "SHUTDOWN":
        break
    if os.path.exists("/tmp/beside-ends"):
        os.remove("/tmp/beside-ends")  # it stays in a reset, and once is enough
        break
"""


class ExtensionLab(Lab):
    """One function with the target as a layer; one environment at a time unless a case makes more."""

    function: Function

    def __init__(self, target: Target, clock: Clock, isolation: Isolation) -> None:
        super().__init__(target, clock, isolation)
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self._posters: list[Poster] = []

    async def close(self) -> None:
        for poster in self._posters:
            poster.close()
        await super().close()
        self._folder.cleanup()

    # ── the function and its life ──

    async def deploy(
        self, *, beside: bool = False, environment: Mapping[str, str] | None = None, memory: int | None = None, **settings: Any
    ) -> Function:
        """The function, with the target. No process runs yet. beside: another extension, a good one, is there, too."""
        code = self._write("code/app.py", _APP).parent
        layers = [str(self.target.code), *self.target.layers]
        if beside:
            layers.append(self._beside())
        self.function = await self.host.deploy(
            code,
            runtime=self.host.runtime_id("python"),
            handler="app.handler",
            memory_mb=memory or self.target.memory,
            layers=layers,
            environment={**self.target.environment, **(environment or {})},
            **{"timeout": 300, **settings},
        )
        return self.function

    async def try_out(self) -> None:
        if self.names == []:
            raise ConfigError(f"{self.target.code}: no file extensions/NAME in it: `code` is a layer, a folder or a zip file")
        await self.deploy()

    def _beside(self) -> str:
        return str(self._write(f"layer/extensions/{BESIDE}", _BESIDE).parent.parent)

    def _write(self, name: str, text: str) -> Path:
        file = Path(self._folder.name, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    @property
    def names(self) -> list[str] | None:
        """Of its files; None if it is no folder, where nobody has looked."""
        code = self.target.code
        return [file.name for file in code.glob("extensions/*") if file.is_file()] if code.is_dir() else None

    async def init(self) -> None:
        """Init to its end: runtime and extensions wait for events."""
        await self.function.initialise()
        await self.until("its first poll of /extension/event/next", lambda: self.calls("event/next"))
        await self.until("the end of Init", lambda: self.calls("next") and self.environment.free)

    async def start(self, **settings: Any) -> None:
        """Deployed, and initialised."""
        await self.deploy(**settings)
        await self.init()

    @property
    def environment(self) -> Environment:
        environments = self.function.environments
        if not environments:
            raise InvariantError("no environment was made yet")
        return environments[0]

    @property
    def exits(self) -> list[Exit]:
        """How the extension's processes have ended so far."""
        environments = self.function.environments
        return ends_of(environments[0]) if environments else []

    async def invoke(self, event: Any = EMPTY, **context: Any) -> InvokeResult:
        """An invoke to its end: the extension has asked for the next event, too, if it is registered for INVOKE."""
        job = await self.wait("a place for the invoke", self.function.submit(json.dumps(event).encode(), **context))
        await self.wait("an answer", job.answered)

        def over() -> bool:
            self.time.advance(0)  # telemetry goes out after a while of the host's: some extensions wait for it before they poll
            return job.reported.done()

        await self.until("the end of the invoke: the runtime's and the extension's next polls", over)
        return job.result

    async def works(self, count: int = 1, **context: Any) -> None:
        """Invokes that come to their end, with the answer that the function gave."""
        for number in range(count):
            result = await self.invoke({"number": number}, **context)
            expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}. {self.whereabouts()}")

    async def ends(self, count: int = 1) -> Exit:
        """How its process ended."""
        await self.until("the end of its process", lambda: len(self.exits) >= count)
        return self.exits[count - 1]

    async def ends_or(self, what: str, condition: Any) -> Exit | None:
        """Waits until a condition holds, or its process has ended: one of the two, instead of hanging."""
        await self.until(f"{what}, or the end of its process", lambda: condition() or self.exits)
        return self.exits[0] if self.exits else None

    async def shut_down(self, reason: str = "spindown", within: float = SHUTDOWN) -> Exit:
        """A Shutdown, and how the extension's process ended in it. Raises Broken if it was not over in time.

        The host's limit does not go off: a process that ends too late is told from one that was killed.
        """
        environment, began = self.environment, self.real.now()
        closing = asyncio.ensure_future(self.function.shutdown(reason))
        try:
            while not (ends := ends_of(environment)):
                took = self.real.now() - began
                if took < _RELEASE:
                    self.time.advance(0)  # the host's small timers, and not its limit
                if took > within:
                    raise Broken(f"its process had not ended {within:g} s after Shutdown began. {self.whereabouts()}")
                await self.real.sleep(0.002)
        finally:
            closing.cancel()
        return ends[0]

    # ── its telemetry ──

    @property
    def subscription(self) -> Seen:
        """Its subscription. Raises Broken if there is none."""
        calls = self.calls("telemetry", "logs")
        expect(calls, f"it has not subscribed. {self.whereabouts()}")
        return calls[-1]

    @property
    def subscribed(self) -> dict[str, Any]:
        """What it subscribed with."""
        try:
            document = json.loads(self.subscription.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Broken(f"its subscription is no JSON object: {self.subscription.body[:200]!r}")
        return document

    @property
    def listener(self) -> tuple[int, str]:
        """Port and path of its listener."""
        destination = self.subscribed.get("destination", {})
        try:
            url = urlsplit(str(destination.get("URI")))
            port = url.port
        except ValueError:
            port = None
        if port is None:
            raise Broken(f"its destination is {destination}")
        return port, url.path or "/"

    async def connect(self) -> Poster:
        """A connection to its listener, as the platform makes one. Raises Broken if nobody listens."""
        port, _ = self.listener
        poster = Poster()
        self._posters.append(poster)
        self.environment.signal("CONT")  # it is not frozen while the platform sends
        try:
            await self.environment.dial(lambda: poster, port)
        except OSError as error:
            raise Broken(f"nobody listens at port {port}, which its subscription names: {error}") from None
        return poster

    async def post(self, body: Any, poster: Poster | None = None, **how: Any) -> Reply:
        """A batch, on a connection of its own unless one is given; the reply. body: events, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        poster = poster or await self.connect()
        poster.post(self.listener[1], data, **how)
        return await self.wait("the reply to a batch of telemetry", poster.replied())

    async def takes(self, body: Any, poster: Poster | None = None, **how: Any) -> None:
        """A batch that it accepts."""
        reply = await self.post(body, poster, **how)
        expect(200 <= reply.status < 300, f"a batch was answered {reply.status}")


def ends_of(environment: Environment) -> list[Exit]:
    """How the processes of extensions have ended in an environment, but for the one that the suite puts beside."""
    return [one for one in environment.exits if one.who not in (RUNTIME, BESIDE)]


def clean(end: Exit) -> bool:
    """Whether a process ended by itself, and with status 0."""
    return end.code == 0
