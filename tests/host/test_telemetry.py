"""Subscriptions through a whole environment: what is delivered, in which order and when; what is refused; what a reset ends.

The test plays the runtime and the extensions where time matters; their processes then only sleep. Elsewhere all are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from sandbox import Host, InvokeResult
from sandbox.clock import ManualClock
from sandbox.core.limits import EXTENSION_BODY, TELEMETRY_HISTORY, TELEMETRY_REPLAYS
from sandbox.core.states import Phase
from sandbox.host.environment import Environment, Job
from sandbox.telemetry.journal import Journal
from tests import worlds
from tests.conftest import (
    SHORT,
    SLEEPER,
    Connection,
    MakeFolder,
    Played,
    Reachable,
    Reply,
    Tier,
    listener,
    no_task_is_left,
    request,
    tmp_of,
    touch,
)
from tests.wire.talk import answered, refused

EXTENSION = "/2020-01-01/extension/"
PATHS = {"Telemetry": "/2022-07-01/telemetry", "Logs": "/2020-08-15/logs"}
ALL = ["platform", "function", "extension"]
UNKNOWN = "11111111-2222-4333-8444-555555555555"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
RUNTIME = SLEEPER.replace("1000", "1001")  # to be told from the extensions
SOON = 0.025  # timeoutMs of most subscriptions here


class Sink:
    """A subscriber's listener. how: ok, stall, 500 or close; it may be changed. events: all that came, in order."""

    def __init__(self, how: str = "ok") -> None:
        self.how = how
        self.batches: list[list[dict[str, Any]]] = []
        self.marks: list[str] = []  # batches and what else was posted, in order
        self.requests = 0
        self.go_on = asyncio.Event()
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for batch in self.batches for event in batch]

    def types(self) -> list[str]:
        """Of platform events, without `platform.`; output by its kind."""
        return [event["type"].removeprefix("platform.") for event in self.events]

    def records(self, type_: str) -> list[Any]:
        return [event["record"] for event in self.events if event["type"] == type_]

    async def open(self, sock: socket.socket) -> Sink:
        self._servers.append(await asyncio.start_server(self._accept, sock=sock, limit=64 * 1024 * 1024))
        self.port = sock.getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except (ConnectionError, asyncio.CancelledError):
                pass
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = re.search(r"(?i)content-length: *(\d+)", head)
        body = await reader.readexactly(int(found[1])) if found else b""
        target = head.split(" ")[1]
        if target.startswith("/mark/"):
            self.marks.append(target[6:])
            writer.write(OK)
            return
        self.requests += 1
        if self.how == "close":
            raise ConnectionResetError
        if self.how == "stall":
            await self.go_on.wait()
        if self.how == "500":
            writer.write(OK.replace(b"200", b"500"))
            return
        batch = json.loads(body)
        assert isinstance(batch, list)
        self.batches.append(batch)
        self.marks += [event["type"] for event in batch]
        writer.write(OK)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.sleep(0.001)


class World(worlds.World):
    """An environment whose runtime and extensions the test plays. Init has begun, and nobody has registered."""

    def __init__(self, environment: Environment, clock: ManualClock, journal: Journal) -> None:
        super().__init__(environment, clock, journal)
        self.sinks: list[Sink] = []

    async def sink(self, how: str = "ok") -> Sink:
        self.sinks.append(await Sink(how).open(await listener(self.environment)))
        return self.sinks[-1]

    async def agent(self, name: str = "agent", *events: str) -> Agent:
        """An extension that has registered."""
        connection = await self.connect()
        body = json.dumps({"events": events or ["INVOKE", "SHUTDOWN"]}).encode()
        reply = await connection.ask("POST", EXTENSION + "register", body, lambda_extension_name=name)
        assert reply.status == 200, reply
        return Agent(self, name, connection, reply.headers["lambda-extension-identifier"])

    async def initialised(self, *agents: Agent) -> Connection:
        """Everybody polls; returns the runtime's connection, on which a poll is parked."""
        for agent in agents:
            await agent.park()
        runtime = await self.poll()
        await self.until(lambda: self.environment.machine.phase is Phase.FROZEN)
        return runtime

    async def poll(self, runtime: Connection | None = None) -> Connection:
        """The runtime polls, and is heard."""
        runtime = runtime or await self.connect()
        await runtime.send(request("GET", "invocation/next"))
        await self.heard()
        return runtime

    async def heard(self) -> None:
        """What was sent before has been dealt with."""
        for _ in range(2):
            assert (await (await self.connect()).ask("GET", "/ping")).status == 200

    async def warm_invoke(self, runtime: Connection, *agents: Agent) -> Job:
        """A whole invoke: event, answer, and everybody polls again."""
        job = self.invoke()
        await answered(runtime, await runtime.reply())
        for agent in agents:
            await agent.connection.reply()
        await self.poll(runtime)
        for agent in agents:
            await agent.park()
        await self.until(lambda: self.environment.machine.phase is Phase.FROZEN)
        return job

    async def passes(self, seconds: float = SOON) -> None:
        """Time passes for the environment; and a moment of real time, in which what is sent arrives."""
        self.clock.advance(seconds)
        for _ in range(10):
            await asyncio.sleep(0.001)

    async def kill_runtime(self) -> None:
        """Its process dies; there is one once it has become what it is."""
        found: list[psutil.Process] = []

        def looked() -> bool:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile, or has ended and is not waited for
                    if child.cmdline()[-1:] == ["1001"]:
                        found.append(child)
            return bool(found)

        await self.until(looked)
        found[0].kill()

    async def kill(self, name: str) -> None:
        """Its process dies, whatever it is by then: "runtime", or an extension."""
        processes = self.environment._processes._processes
        await self.until(lambda: name in processes and processes[name].pid != 0)
        os.kill(processes[name].pid, signal.SIGKILL)

    async def got(self, sink: Sink, *types: str) -> None:
        """Time passes until these events, and no others, have come."""
        for _ in range(3000):
            if len(sink.types()) >= len(types):
                break
            await self.passes()
        assert sink.types() == list(types)

    async def close(self) -> None:
        await super().close()
        for sink in self.sinks:
            await sink.close()


class Agent:
    """An extension that the test plays."""

    def __init__(self, world: World, name: str, connection: Connection, identifier: str) -> None:
        self.world, self.name, self.connection, self.identifier = world, name, connection, identifier

    async def subscribe(self, sink: Sink, api: str = "Telemetry", **changes: Any) -> Reply:
        document = {
            "schemaVersion": "2022-12-13" if api == "Telemetry" else "2021-03-18",
            "types": ALL,
            "destination": {"protocol": "HTTP", "URI": f"http://sandbox.localdomain:{sink.port}/t"},
            "buffering": {"timeoutMs": 25},
            **changes,
        }
        return await self.put(api, json.dumps({k: v for k, v in document.items() if v is not None}).encode())

    async def subscribed(self, sink: Sink, api: str = "Telemetry", **changes: Any) -> None:
        reply = await self.subscribe(sink, api, **changes)
        assert (reply.status, reply.body) == (200, b'"OK"'), reply

    async def put(self, api: str, body: bytes) -> Reply:
        connection = await self.world.connect()
        return await connection.ask("PUT", PATHS[api], body, lambda_extension_identifier=self.identifier)

    async def park(self) -> None:
        await self.connection.send(request("GET", EXTENSION + "event/next", lambda_extension_identifier=self.identifier))
        await self.world.heard()


MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
async def world(folder: MakeFolder, tier: Tier) -> AsyncIterator[MakeWorld]:
    """`await world("a", "b")` has two external extensions, which all run the program; without names, one named agent."""
    async with worlds.worlds(World, folder, tier) as make:
        yield lambda *names, **settings: make(*(names or ("agent",)), bootstrap=RUNTIME, **settings)


# ── subscribing ──


@pytest.mark.catalogue("TL-001", "TL-002", "TL-017")
@pytest.mark.parametrize("api", PATHS)
async def test_a_subscription_is_answered_with_ok_in_quotes(world: MakeWorld, api: str) -> None:
    one = await world()
    sink, agent = await one.sink(), await one.agent()
    reply = await agent.subscribe(sink, api)
    assert (reply.status, reply.body) == (200, b'"OK"')
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.catalogue("TL-003")
@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    ("identifier", "error"),
    [(None, "Missing"), ("", "Missing"), ("x", "Invalid"), (UNKNOWN[:-1], "Invalid"), (UNKNOWN, "Unknown")],
)
async def test_only_an_extension_may_subscribe(world: MakeWorld, api: str, identifier: str | None, error: str) -> None:
    one = await world()
    fields = {} if identifier is None else {"lambda_extension_identifier": identifier}
    reply = await (await one.connect()).ask("PUT", PATHS[api], b"{}", **fields)
    refused(reply, 403, f"Extension.{error}ExtensionIdentifier")


@pytest.mark.catalogue("TL-012", "TL-004", "TL-006", "TL-008")
async def test_a_bad_subscription_is_400_and_nothing_has_changed(world: MakeWorld) -> None:
    one = await world()
    sink, agent = await one.sink(), await one.agent()
    for bad in ({"types": []}, {"schemaVersion": "x"}, {"destination": {"protocol": "HTTP", "URI": "http://localhost:8080"}}):
        refused(await agent.subscribe(sink, **bad), 400, "ValidationError")
        refused(await agent.subscribe(sink, "Logs", **bad), 400, "Logs.ValidationError")
    refused(await agent.put("Telemetry", b"{"), 400, "ValidationError")
    await agent.subscribed(sink)
    await one.got(sink, "initStart", "telemetrySubscription")


@pytest.mark.parametrize("api", PATHS)
async def test_other_methods_paths_and_sizes(world: MakeWorld, api: str) -> None:
    one = await world()
    agent = await one.agent()
    other = await one.connect()
    for method in ("POST", "DELETE"):
        reply = await other.ask(method, PATHS[api], b"{}", lambda_extension_identifier=agent.identifier)
        assert (reply.status, reply.headers["allow"]) == (405, "PUT")
    for target in (PATHS[api] + "/", PATHS[api] + "x", PATHS[api].replace("20", "21", 1)):
        assert (await other.ask("PUT", target, b"{}", lambda_extension_identifier=agent.identifier)).status == 404
    assert (await agent.put(api, b" " * (EXTENSION_BODY + 1))).status == 413


@pytest.mark.catalogue("TL-011")
async def test_telemetry_does_not_go_to_the_api_itself(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    port = int(one.environment.address.partition(":")[2])
    for destination in ({"protocol": "TCP", "port": port}, {"protocol": "HTTP", "URI": f"http://sandbox:{port}/"}):
        assert str(port) in refused(await agent.subscribe(sink, destination=destination), 400, "ValidationError")


@pytest.mark.catalogue("TL-014", "TL-013")
@pytest.mark.parametrize("api", PATHS)
async def test_the_window_is_open_until_init_is_complete_and_then_closed(world: MakeWorld, api: str) -> None:
    one = await world("a", "b")
    a, sink = await one.agent("a"), await one.sink()
    await a.subscribed(sink, api)
    b = await one.agent("b")
    runtime = await one.poll()
    await b.subscribed(sink, api)  # the runtime is ready, but not every extension
    await a.park()
    await b.park()
    await one.until(lambda: one.environment.machine.phase is Phase.FROZEN)
    message = f"{api} API subscription is closed already"
    assert refused(await a.subscribe(sink, api), 403, f"{api}.SubscriptionClosed") == message
    one.invoke()
    await runtime.reply()
    await a.connection.reply()
    assert refused(await a.subscribe(sink, api), 403, f"{api}.SubscriptionClosed") == message


@pytest.mark.catalogue("TL-016")
@pytest.mark.parametrize(("first", "second"), [("Telemetry", "Logs"), ("Logs", "Telemetry")])
async def test_an_extension_has_one_of_the_two_apis(world: MakeWorld, first: str, second: str) -> None:
    one = await world()
    sink, agent = await one.sink(), await one.agent()
    await agent.subscribed(sink, first)
    message = refused(await agent.subscribe(sink, second), 400, f"{second}.AccessDenied")
    assert "agent" in message
    assert first in message
    await agent.subscribed(sink, first)


@pytest.mark.catalogue("TL-016", "TL-018")
async def test_two_extensions_may_have_one_each(world: MakeWorld) -> None:
    one = await world("a", "b")
    a, b = await one.agent("a"), await one.agent("b")
    old, new = await one.sink(), await one.sink()
    await a.subscribed(old, "Logs", types=["platform"])
    await b.subscribed(new, types=["platform"])
    runtime = await one.initialised(a, b)
    await one.warm_invoke(runtime, a, b)
    one.invoke()
    await one.got(
        new,
        *["initStart", "telemetrySubscription", "initRuntimeDone", *["extension"] * 2, "initReport"],
        "start",
        "runtimeDone",
        "report",
        "start",
    )
    await one.got(old, "logsSubscription", *["extension"] * 2, "start", "runtimeDone", "end", "report", "start")


# ── what is delivered, and when ──


@pytest.mark.catalogue("TL-040", "TL-042", "TL-051", "TL-070", "TL-074", "TL-075", "TL-081", "TL-082", "TL-087", "TL-088")
async def test_a_cold_and_a_warm_invoke(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    one.clock.advance(1)
    await agent.subscribed(sink, types=["platform"])
    init = ["initStart", "telemetrySubscription"]
    await one.got(sink, *init)
    runtime = await one.initialised(agent)
    job = one.invoke()
    event = await runtime.reply()
    assert (await agent.connection.reply()).json()["requestId"] == job.request_id
    init += ["initRuntimeDone", "extension", "initReport", "start"]
    await one.got(sink, *init)
    one.clock.advance(0.5)
    await answered(runtime, event, b"four")
    await one.poll(runtime)
    await one.got(sink, *init, "runtimeDone")  # while the extension is still at work
    assert one.environment.machine.phase is Phase.INVOKE
    one.clock.advance(0.25)
    await agent.park()
    await one.until(lambda: one.environment.machine.phase is Phase.FROZEN)
    await one.passes(86_400)
    assert sink.types() == [*init, "runtimeDone"]  # frozen: the report has to wait
    second = one.invoke()
    await one.got(sink, *init, "runtimeDone", "report", "start")
    await answered(runtime, await runtime.reply())
    await agent.connection.reply()
    await one.poll(runtime)
    await one.got(sink, *init, "runtimeDone", "report", "start", "runtimeDone")
    await agent.park()

    assert sink.records("platform.telemetrySubscription") == [{"name": "agent", "state": "Subscribed", "types": ["platform"]}]
    assert sink.records("platform.extension") == [{"name": "agent", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]}]
    [report] = sink.records("platform.report")
    assert report["requestId"] == job.request_id
    assert [span["name"] for span in report["spans"]] == ["extensionOverhead"]
    assert report["spans"][0]["durationMs"] == pytest.approx(275, abs=26)
    assert "initDurationMs" in report["metrics"]
    first, again = sink.records("platform.runtimeDone")
    assert (first["metrics"]["durationMs"], first["metrics"]["producedBytes"]) == (pytest.approx(525, abs=26), 4)
    assert again["requestId"] == second.request_id
    await one.until(second.reported.done)
    assert second.result.report is not None
    assert second.result.report.init_duration_ms is None
    times = [event["time"] for event in sink.events]
    assert times == sorted(times)


@pytest.mark.catalogue("TL-060", "TL-061", "TL-062", "TL-063", "TL-064", "TL-065", "TL-066", "TL-067", "TL-073", "TL-085")
async def test_the_records_of_a_cold_invoke(world: MakeWorld) -> None:
    one = await world(memory_mb=256, version="7", name="mine")
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, types=["platform"], schemaVersion="2025-01-29")
    runtime = await one.initialised(agent)
    job = await one.warm_invoke(runtime, agent)
    one.invoke()
    names = [
        "initStart",
        "telemetrySubscription",
        "initRuntimeDone",
        "extension",
        "initReport",
        "start",
        "runtimeDone",
        "report",
    ]
    await one.got(sink, *names, "start")
    records = {event["type"]: event["record"] for event in sink.events[:8]}
    init = {"initializationType": "on-demand", "phase": "init"}
    assert records["platform.initStart"] == {
        **init,
        "functionName": "mine",
        "functionVersion": "7",
        "instanceId": one.environment.name,
        "instanceMaxMemory": 256,
    }
    assert records["platform.initRuntimeDone"] == {**init, "status": "success"}
    assert records["platform.initReport"] == {**init, "status": "success", "metrics": {"durationMs": 0.0}}
    tracing = {"type": "X-Amzn-Trace-Id", "value": job.trace_id}
    assert records["platform.start"] == {"requestId": job.request_id, "version": "7", "tracing": tracing}
    done = records["platform.runtimeDone"]
    assert set(done) == {"requestId", "status", "metrics", "spans", "tracing"}
    assert [span["name"] for span in done["spans"]] == ["responseLatency", "responseDuration", "runtimeOverhead"]
    report = records["platform.report"]
    assert set(report) == {"requestId", "status", "metrics", "spans", "tracing"}
    names = ["durationMs", "billedDurationMs", "memorySizeMB", "maxMemoryUsedMB", "initDurationMs"]
    assert set(report["metrics"]) == set(names)
    assert (report["status"], report["metrics"]["memorySizeMB"]) == ("success", 256)


@pytest.mark.catalogue("TL-041", "TL-042")
async def test_the_last_report_comes_in_shutdown(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, types=["platform"], buffering={"timeoutMs": 30_000})
    runtime = await one.initialised(agent)
    await one.warm_invoke(runtime, agent)
    await one.passes(600)
    assert sink.events == []
    ending = asyncio.ensure_future(one.environment.shutdown())
    event = (await agent.connection.reply()).json()
    assert event["eventType"] == "SHUTDOWN"
    await one.passes(one.environment.limits.last_telemetry)
    await one.until(lambda: bool(sink.events))
    assert sink.types()[-2:] == ["runtimeDone", "report"]
    assert not ending.done()
    assert one.clock.wall() * 1000 < event["deadlineMs"]
    one.clock.advance(2)
    await ending


@pytest.mark.catalogue("TL-042")
async def test_nothing_is_delivered_while_frozen_not_even_what_was_full(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink)
    runtime = await one.initialised(agent)
    for _ in range(3):
        before = sink.requests
        await one.warm_invoke(runtime, agent)
        await one.passes(3600)
        assert sink.requests == before
    one.invoke()
    await one.got(
        sink,
        "initStart",
        "telemetrySubscription",
        "initRuntimeDone",
        "extension",
        "initReport",
        *["start", "runtimeDone", "report"] * 3,
        "start",
    )


@pytest.mark.catalogue("TL-041", "TL-042")
async def test_at_the_thaw_of_shutdown_everything_goes_out_but_the_last_report(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, types=["platform"], buffering={"timeoutMs": 30_000})
    runtime = await one.initialised(agent)
    await one.warm_invoke(runtime, agent)
    ending = asyncio.ensure_future(one.environment.shutdown())
    assert (await agent.connection.reply()).json()["eventType"] == "SHUTDOWN"
    await one.until(lambda: bool(sink.events))  # on a connection of its own: no time passes, but it may come after SHUTDOWN
    assert sink.types()[-2:] == ["start", "runtimeDone"]
    await one.passes(one.environment.limits.last_telemetry - 0.001)
    assert sink.types()[-1] == "runtimeDone"
    one.clock.advance(0.001)
    await one.until(lambda: sink.requests == 2)
    assert sink.types()[-2:] == ["runtimeDone", "report"]
    one.clock.advance(2)
    await ending


@pytest.mark.catalogue("TL-042")
async def test_a_batch_that_waited_for_another_one_goes_out_at_the_thaw(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink("stall")
    await agent.subscribed(sink, types=["platform"])
    await one.passes()
    await one.poll()
    await one.passes()  # a second batch is whole, behind the one that nobody has answered
    await agent.park()
    await one.until(lambda: one.environment.machine.phase is Phase.FROZEN)
    sink.how = "ok"
    sink.go_on.set()
    await one.until(lambda: one.environment._telemetry.standing("agent").delivered == 2)
    await one.heard()
    assert sink.requests == 1
    one.invoke()
    await one.until(lambda: len(sink.batches) == 2)  # time stands still
    assert sink.types() == ["initStart", "telemetrySubscription", "initRuntimeDone"]


@pytest.mark.catalogue("TL-010", "TL-009", "TL-007")
async def test_a_tcp_subscriber_gets_lines(world: MakeWorld) -> None:
    one = await world()
    lines: list[bytes] = []

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            lines.append(line)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(read, sock=await listener(one.environment))
    agent = await one.agent()
    port = server.sockets[0].getsockname()[1]
    sink = await one.sink()
    await agent.subscribed(sink, destination={"protocol": "TCP", "port": port})
    await one.passes()
    await one.until(lambda: len(lines) == 2)
    assert [json.loads(line)["type"] for line in lines] == ["platform.initStart", "platform.telemetrySubscription"]
    await one.close()
    server.close()


# ── several subscribers ──


@pytest.mark.catalogue("TL-018", "TL-038", "TL-036")
@pytest.mark.parametrize("how", ["stall", "500", "close"])
async def test_a_bad_subscriber_holds_up_neither_the_invoke_nor_another_subscriber(world: MakeWorld, how: str) -> None:
    one = await world("a", "b")
    a, b = await one.agent("a"), await one.agent("b")
    bad, good = await one.sink(how), await one.sink()
    await a.subscribed(bad, types=["platform"])
    await b.subscribed(good, types=["platform"])
    runtime = await one.initialised(a, b)
    for _ in range(3):
        job = await one.warm_invoke(runtime, a, b)
        assert job.result.payload == b"1"
    one.invoke()
    events = ["initStart", *["telemetrySubscription"] * 2, "initRuntimeDone", *["extension"] * 2, "initReport"]
    events += [*["start", "runtimeDone", "report"] * 3, "start"]
    await one.got(good, *events)
    assert bad.events == []
    assert bad.requests >= 1
    bad.how = "ok"
    bad.go_on.set()
    await one.got(bad, *events)


@pytest.mark.catalogue("TL-036")
async def test_a_listener_that_is_there_only_later_gets_everything(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await sink.close()
    await agent.subscribed(sink)
    for _ in range(20):
        await one.passes(0.2)
    await sink.open(await listener(one.environment, sink.port))
    await one.got(sink, "initStart", "telemetrySubscription")


@pytest.mark.catalogue("TL-019")
async def test_an_internal_extension_may_subscribe(played: Played) -> None:
    sink = await Sink().open(await listener(played.environment))
    one = World(played.environment, played.clock, played.journal)
    one.environment.start()
    agent = await one.agent("internal", "INVOKE")
    await agent.subscribed(sink, types=["platform"])
    runtime = await one.initialised(agent)
    await one.warm_invoke(runtime, agent)
    one.invoke()
    events = [
        "initStart",
        "telemetrySubscription",
        "initRuntimeDone",
        "extension",
        "initReport",
        "start",
        "runtimeDone",
        "report",
    ]
    await one.got(sink, *events, "start")
    await one.close()
    await sink.close()


# ── once more ──


@pytest.mark.catalogue("TL-015")
async def test_a_second_equal_subscription_delivers_nothing_twice(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink)
    await one.got(sink, "initStart", "telemetrySubscription")
    await agent.subscribe(sink)
    await agent.subscribe(sink)
    await one.got(sink, "initStart", *["telemetrySubscription"] * 3)
    assert [record["state"] for record in sink.records("platform.telemetrySubscription")] == [
        "Subscribed",
        "Already subscribed",
        "Already subscribed",
    ]
    await one.initialised(agent)
    one.invoke()
    await one.got(sink, "initStart", *["telemetrySubscription"] * 3, "initRuntimeDone", "extension", "initReport", "start")


@pytest.mark.catalogue("TL-015")
async def test_a_second_subscription_takes_the_place_of_the_first(world: MakeWorld) -> None:
    one = await world()
    agent, first, second = await one.agent(), await one.sink(), await one.sink()
    await agent.subscribed(first)
    await one.got(first, "initStart", "telemetrySubscription")
    reply = await agent.subscribe(second, types=["function", "platform"])
    assert reply.status == 200
    await one.initialised(agent)
    one.invoke()
    for _ in range(100):
        await one.passes()
        if "start" in second.types():
            break
    assert second.types()[-4:] == ["initRuntimeDone", "extension", "initReport", "start"]
    assert first.types() == ["initStart", "telemetrySubscription"]


@pytest.mark.catalogue("TL-015")
async def test_a_second_subscription_gets_what_the_first_was_not_given(world: MakeWorld) -> None:
    one = await world()
    agent, first, second = await one.agent(), await one.sink("stall"), await one.sink()
    await agent.subscribed(first)
    await one.passes()
    await agent.subscribe(second)
    await one.got(second, "initStart", "telemetrySubscription", "telemetrySubscription")
    assert first.events == []


@pytest.mark.catalogue("TL-015", "TL-040")
async def test_who_subscribes_anew_is_given_its_init_a_bounded_number_of_times(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    expected: list[str] = []
    for number in range(TELEMETRY_REPLAYS + 3):
        await agent.subscribed(sink, types=ALL[: 1 + number % 2])  # each wants something else than the one before
        replay = ["initStart", "telemetrySubscription"] if number < TELEMETRY_REPLAYS else []
        expected += [*replay, *(["telemetrySubscription"] if number else [])]
        await one.got(sink, *expected)


@pytest.mark.catalogue("TL-015", "TL-040")
async def test_a_later_subscriber_is_not_told_how_often_another_one_has_subscribed(world: MakeWorld) -> None:
    one = await world("a", "b")
    a, b = await one.agent("a"), await one.agent("b")
    sink, other = await one.sink(), await one.sink()
    for _ in range(3):
        await a.subscribed(sink, types=["platform"])
    await b.subscribed(other, types=["platform"])
    await one.got(other, "initStart", *["telemetrySubscription"] * 2)
    states = [(record["name"], record["state"]) for record in other.records("platform.telemetrySubscription")]
    assert states == [("a", "Subscribed"), ("b", "Subscribed")]


# ── a reset ──


@pytest.mark.catalogue("TL-043", "TL-064", "TL-040", "TL-070", "TL-071", "TL-088")
async def test_after_a_reset_nothing_is_delivered_until_a_new_subscription(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, types=["platform"])
    runtime = await one.initialised(agent)
    job = one.invoke()
    await runtime.reply()
    await agent.connection.reply()
    await one.passes(3)  # the timeout
    assert job.result.error_type == "Sandbox.Timedout"
    await one.passes(0.6)  # the runtime's share
    await agent.connection.send(request("GET", EXTENSION + "event/next", lambda_extension_identifier=agent.identifier))
    assert (await agent.connection.reply()).json()["eventType"] == "SHUTDOWN"
    await one.passes(0.1)
    await one.until(lambda: "report" in sink.types())
    assert sink.types()[-3:] == ["start", "runtimeDone", "report"]
    assert [sink.events[n]["record"]["status"] for n in (-2, -1)] == ["timeout", "timeout"]
    one.clock.advance(2)
    await one.until(lambda: one.environment.machine.phase is Phase.CREATED)
    before = len(sink.events)

    second = one.invoke()
    await one.until(lambda: one.environment.machine.phase is Phase.INIT_EXTENSIONS)
    refused(await agent.subscribe(sink), 403, "Extension.UnknownExtensionIdentifier")
    await one.passes(1)
    assert len(sink.events) == before
    again = await one.agent()
    await one.passes(0.5)
    assert len(sink.events) == before
    await again.subscribed(sink, types=["platform"])
    await again.park()
    runtime = await one.poll()
    assert (await runtime.reply()).headers["lambda-runtime-aws-request-id"] == second.request_id
    expected = ["initStart", "telemetrySubscription", "initRuntimeDone", "extension", "initReport", "start"]
    await one.got(sink, *sink.types()[:before], *expected)
    assert {event["record"]["phase"] for event in sink.events[before:] if "phase" in event["record"]} == {"invoke"}


@pytest.mark.catalogue("TL-041", "TL-042", "TL-043")
async def test_the_last_report_of_a_quick_reset_is_no_reason_to_send_what_the_next_generation_has(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent("agent", "SHUTDOWN"), await one.sink()
    await one.initialised(agent)
    await one.kill("runtime")
    assert (await agent.connection.reply()).json()["eventType"] == "SHUTDOWN"
    await one.kill("agent")
    await one.until(lambda: one.environment.machine.phase is Phase.CREATED)
    one.invoke()
    await one.until(lambda: one.environment.machine.phase is Phase.INIT_EXTENSIONS)
    again = await one.agent()
    await again.subscribed(sink, types=["platform"], buffering={"timeoutMs": 30_000})
    await again.park()
    runtime = await one.poll()
    event = await runtime.reply()
    await one.passes(one.environment.limits.last_telemetry)  # the old generation's
    assert sink.requests == 0
    await answered(runtime, event)
    await again.connection.reply()
    await again.park()
    await one.poll(runtime)
    await one.until(lambda: one.environment.machine.phase is Phase.FROZEN)
    await one.passes(one.environment.limits.last_telemetry)
    one.invoke()
    await one.passes()
    assert sink.requests == 0  # nor was a batch made while it was frozen


@pytest.mark.catalogue("TL-041")
async def test_after_a_quick_shutdown_no_timer_of_its_last_report_rings(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await world()
    agent, rung = await one.agent("agent", "SHUTDOWN"), []
    monkeypatch.setattr(one.environment, "_last_telemetry", lambda: rung.append(one.clock.now()))
    await one.initialised(agent)
    ending = asyncio.ensure_future(one.environment.shutdown())
    await agent.connection.reply()
    await one.kill("agent")
    await ending
    one.clock.advance(60)
    assert rung == []


@pytest.mark.catalogue("TL-039", "TL-071", "TL-069")
async def test_a_crash_flushes_though_the_extension_does_not_poll(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, types=["platform"], buffering={"timeoutMs": 30_000})
    runtime = await one.initialised(agent)
    one.invoke()
    await runtime.reply()
    await agent.connection.reply()
    assert sink.events == []
    await one.kill_runtime()
    await one.until(lambda: bool(sink.events))  # time stands still
    assert sink.types()[:6] == ["initStart", "telemetrySubscription", "initRuntimeDone", "extension", "initReport", "start"]


@pytest.mark.catalogue("TL-039")
async def test_a_crash_delivers_what_was_buffered_with_the_shutdown_event(world: MakeWorld) -> None:
    one = await world()
    agent, sink = await one.agent("agent", "SHUTDOWN"), await one.sink()
    await agent.subscribed(sink, types=["platform"], buffering={"timeoutMs": 30_000})
    runtime = await one.initialised(agent)
    one.invoke()
    await runtime.reply()
    await one.kill_runtime()
    assert (await agent.connection.reply()).json()["eventType"] == "SHUTDOWN"
    await one.until(lambda: bool(sink.events))  # time stands still; which of the two connections is read first is chance
    assert sink.requests == 1


@pytest.mark.catalogue("TL-089")
async def test_an_init_that_timed_out_is_unknown(world: MakeWorld) -> None:
    one = await world()
    await one.agent()
    one.clock.advance(10)
    await one.until(lambda: any(type_ == "platform.initReport" for type_, _ in one.records))
    [done] = [record for type_, record in one.records if type_ == "platform.initRuntimeDone"]
    assert done["errorType"] == "Runtime.Unknown"


# ── the Logs API ──


@pytest.mark.catalogue("TL-005", "TL-084", "TL-082", "TL-002")
@pytest.mark.parametrize("schema", ["2020-08-15", "2021-03-18", None])
async def test_the_events_of_the_logs_api(world: MakeWorld, schema: str | None) -> None:
    one = await world()
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, "Logs", types=["platform"], schemaVersion=schema)
    runtime = await one.initialised(agent)
    job = await one.warm_invoke(runtime, agent)
    one.invoke()
    done = ["runtimeDone"] if schema == "2021-03-18" else []
    await one.got(sink, "logsSubscription", "extension", "start", *done, "end", "report", "start")
    assert sink.records("platform.logsSubscription") == [{"name": "agent", "state": "Subscribed", "types": ["platform"]}]
    assert sink.records("platform.end") == [{"requestId": job.request_id}]
    assert set(sink.records("platform.report")[0]) == {"requestId", "metrics"}


# ── what is lost ──

FLOOD = """#!/bin/sh
i=0
while [ $i -lt %d ]; do
    echo "line $i %s"
    i=$((i + 1))
done
exec sleep 1000
"""
LINES, FILL = 6_000, "x" * 200


async def flooded(world: MakeWorld) -> World:
    """An extension that has printed more in its Init than is kept for who subscribes later."""
    one = await world(program=FLOOD % (LINES, FILL))
    last = f"line {LINES - 1} {FILL}"
    await one.until(lambda: any(record == last for _, record in one.records))
    assert LINES * (len(FILL) + 200) > TELEMETRY_HISTORY
    return one


async def all_of(one: World, sink: Sink) -> None:
    """Time passes until nothing comes any more."""
    quiet = 0
    while quiet < 10:
        before = len(sink.events)
        await one.passes(0.1)
        quiet = quiet + 1 if len(sink.events) == before else 0


@pytest.mark.catalogue("TL-040", "TL-083")
async def test_what_is_not_kept_for_a_later_subscriber_is_told_as_dropped(world: MakeWorld) -> None:
    one = await flooded(world)
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, buffering={"timeoutMs": 25, "maxBytes": 1_048_576})
    await all_of(one, sink)
    lines = sink.records("extension")
    assert lines == [f"line {number} {FILL}" for number in range(len(lines))]
    assert 0 < len(lines) < LINES
    assert sum(lost["droppedRecords"] for lost in sink.records("platform.logsDropped")) == LINES - len(lines)


@pytest.mark.catalogue("TL-083")
async def test_the_bytes_of_what_is_not_kept_are_those_of_its_events(world: MakeWorld) -> None:
    one = await flooded(world)
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, buffering={"timeoutMs": 25, "maxBytes": 1_048_576})
    await all_of(one, sink)
    missing = range(len(sink.records("extension")), LINES)
    size = len(json.dumps({"time": sink.events[0]["time"], "type": "extension", "record": ""}, separators=(",", ":")))
    expected = sum(size + len(f"line {number} {FILL}") for number in missing)
    assert sum(lost["droppedBytes"] for lost in sink.records("platform.logsDropped")) == expected


@pytest.mark.catalogue("TL-083")
async def test_nobody_is_told_of_losses_that_are_not_his(world: MakeWorld) -> None:
    one = await flooded(world)
    agent, sink = await one.agent(), await one.sink()
    await agent.subscribed(sink, types=["function"])
    await all_of(one, sink)
    assert sink.events == []


@pytest.mark.catalogue("TL-015", "TL-083")
async def test_a_second_subscription_is_told_what_the_first_has_lost(world: MakeWorld) -> None:
    wait = '#!/bin/sh\nwhile [ ! -e "${TMPDIR:-/tmp}/gate" ]; do sleep 0.01; done\n'
    one = await world(program=wait + (FLOOD % (LINES, FILL)).partition("\n")[2])
    agent, sink, second = await one.agent(), await one.sink("stall"), await one.sink()
    await agent.subscribed(sink, types=["extension"])
    touch(one.environment, tmp_of(one.environment) + "/gate")
    last = f"line {LINES - 1} {FILL}"
    await one.until(lambda: any(record == last for _, record in one.records))
    await agent.subscribe(second, types=["extension"])
    await all_of(one, second)
    lost = sum(lost["droppedRecords"] for lost in second.records("platform.logsDropped"))
    assert len(second.records("extension")) + lost == LINES


# ── real processes ──

RECORDER = """#!/usr/bin/env -S python3 -S
import http.client, json, os, sys, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def call(method, path, body=None, **fields):
    api.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
    reply = api.getresponse()
    return reply.status, reply.headers, reply.read()
def mark(what):
    sink = http.client.HTTPConnection("127.0.0.1", int(os.environ["SINK_PORT"]))
    sink.request("POST", "/mark/" + what, "")
    sink.getresponse().read()
events = json.dumps({"events": ["INVOKE", "SHUTDOWN"]})
_, headers, _ = call("POST", "/2020-01-01/extension/register", events, Lambda_Extension_Name=os.path.basename(sys.argv[0]))
me = {"Lambda_Extension_Identifier": headers["Lambda-Extension-Identifier"]}
print("extension is here", flush=True)
status, _, body = call("PUT", os.environ["SINK_PATH"], os.environ["SINK_BODY"], **me)
assert status == 200, body
while True:
    event = json.loads(call("GET", "/2020-01-01/extension/event/next", **me)[2])
    mark(event["eventType"])
    if event["eventType"] == "SHUTDOWN":
        time.sleep(0.3)
        break
    print("extension at work\\r", flush=True)
    if os.environ.get("SINK_WAIT"):
        time.sleep(float(os.environ["SINK_WAIT"]))
"""
APP = """
import json, os, sys
print("during init")
def handler(event, context):
    what = event.get("do")
    if what == "print":
        for line in event["lines"]:
            print(line)
    if what == "flood":
        for number in range(event["count"]):
            sys.stdout.write("%06d %s\\n" % (number, "x" * event["size"]))
    if what == "raise":
        raise ValueError("a\\nb")
    if what == "log":
        import logging
        logging.getLogger().warning("a\\nb")
    if what == "exit":
        print("last words")
        os._exit(3)
    return "x" * 10
"""
QUICK = replace(SHORT, init=20.0, shutdown_external=2.0, runtime_share=1.0)


@pytest.fixture
async def recorded(folder: MakeFolder, reachable: Reachable) -> AsyncIterator[Callable[..., Awaitable[tuple[Any, Sink, Host]]]]:
    """Deploys APP with an extension `recorder` that subscribes; returns the function, what was recorded, and the host."""
    hosts: list[Host] = []
    sinks: list[Sink] = []

    async def make(api: str = "Telemetry", how: str = "ok", wait: float = 0.0, **changes: Any) -> tuple[Any, Sink, Host]:
        settings = {name: changes.pop(name) for name in ("log_format", "log_level", "system_log_level") if name in changes}
        sink = Sink(how)
        sinks.append(sink)
        port = await reachable(sink.open)
        layer = folder(**{"extensions/recorder": RECORDER})
        (layer / "extensions/recorder").chmod(0o755)
        document = {
            "schemaVersion": "2022-12-13" if api == "Telemetry" else "2021-03-18",
            "types": ALL,
            "destination": {"protocol": "HTTP", "URI": f"http://sandbox.localdomain:{port}/"},
            "buffering": {"timeoutMs": 25},
            **changes,
        }
        environment = {"SINK_PORT": str(port), "SINK_PATH": PATHS[api], "SINK_BODY": json.dumps(document)}
        if wait:
            environment["SINK_WAIT"] = str(wait)
        hosts.append(Host(limits=QUICK))
        function = await hosts[-1].deploy(
            folder(app_py=APP),
            runtime="python",
            handler="app.handler",
            timeout=20,
            layers=(str(layer),),
            environment=environment,
            **settings,
        )
        return function, sink, hosts[-1]

    yield make
    for host in hosts:
        await host.close()
    for sink in sinks:
        await sink.close()
    no_task_is_left()


Recorded = Callable[..., Awaitable[tuple[Any, Sink, Host]]]


async def closed(host: Host, sink: Sink) -> None:
    """The environment is shut down: everything has come that ever will."""
    await host.close()
    assert sink.marks.count("SHUTDOWN") == 1


@pytest.mark.catalogue("TL-087", "TL-088", "TL-052", "TL-041", "TL-050", "TL-009", "TL-072")
async def test_everything_of_a_life_in_order(recorded: Recorded) -> None:
    function, sink, host = await recorded()
    await function.invoke({"do": "print", "lines": ["one", "", "two"]})
    await function.invoke({"do": "raise"})
    await closed(host, sink)
    platform = [type_ for type_ in sink.types() if type_ not in ("function", "extension")]
    assert platform == [
        "initStart",
        "telemetrySubscription",
        "initRuntimeDone",
        "initReport",
        *["start", "runtimeDone", "report"] * 2,
    ]
    types = [event["type"] for event in sink.events if event["type"] != "extension"]
    assert types[types.index("platform.start") :][:6] == [
        "platform.start",
        *["function"] * 3,
        "platform.runtimeDone",
        "platform.report",
    ]
    assert sink.records("function")[:4] == ["during init", "one", "", "two"]
    assert all(isinstance(line, str) and not line.endswith("\n") for line in sink.records("function"))
    assert types.index("function") < types.index("platform.initRuntimeDone")
    assert [record["status"] for record in sink.records("platform.runtimeDone")] == ["success", "success"]
    assert sink.records("platform.runtimeDone")[0]["metrics"]["producedBytes"] == 12
    lines = sink.records("extension")
    assert lines[0] == "extension is here"
    assert [line.rstrip("\r") for line in lines] == ["extension is here", "extension at work", "extension at work"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"]) for event in sink.events)


@pytest.mark.catalogue("TL-053", "TL-054", "TL-055", "TL-056", "TL-108")
@pytest.mark.parametrize("schema", ["2022-07-01", "2022-12-13", "2025-01-29"])
async def test_log_format_json(recorded: Recorded, schema: str) -> None:
    function, sink, host = await recorded(
        schemaVersion=schema, log_format="JSON", log_level="ERROR", system_log_level="WARN", types=ALL
    )
    lines = ['{"a": {"b": [1]}, "c": "é"}', "plain", "[1]", '{"level": "DEBUG", "message": "kept"}']
    result = await function.invoke({"do": "print", "lines": lines})
    await function.invoke({"do": "log"})
    await function.invoke({"do": "raise"})
    await closed(host, sink)
    records = sink.records("function")
    as_objects = schema >= "2022-12-13"
    found = records[records.index("plain") - 1 :]
    assert found[:4] == [json.loads(line) if as_objects and line.startswith("{") else line for line in lines]
    *_, error = (json.loads(r) if isinstance(r, str) else r for r in records if "ValueError" in json.dumps(r))
    assert {"timestamp", "level", "requestId", "errorMessage", "errorType", "stackTrace"} <= set(error) | {"message"}
    assert error["errorMessage"] == "a\nb"
    assert result.request_id in [record["requestId"] for record in sink.records("platform.start")]
    assert sink.types().count("report") == 3  # whatever the levels of the log


@pytest.mark.catalogue("TL-055")
async def test_a_record_of_several_lines_is_one_event_and_printed_lines_are_one_each(recorded: Recorded) -> None:
    function, sink, host = await recorded(types=["function"])
    await function.invoke({"do": "log"})
    await function.invoke({"do": "print", "lines": ["p\nq"]})
    await closed(host, sink)
    lines = sink.records("function")
    assert len([line for line in lines if "a\nb" in line]) == 1
    assert lines[-2:] == ["p", "q"]


@pytest.mark.catalogue("TL-053", "TL-052", "TL-005")
async def test_the_logs_api_has_strings_only(recorded: Recorded) -> None:
    function, sink, host = await recorded("Logs", log_format="JSON")
    await function.invoke({"do": "print", "lines": ['{"a": 1}', "x"]})
    await function.invoke({"do": "exit"})
    await host.close()
    records = sink.records("function") + sink.records("extension")
    assert '{"a": 1}' in records
    assert all(isinstance(record, str) for record in records)
    assert sink.types().count("start") == 2
    [fault] = sink.records("platform.fault")
    assert re.fullmatch(r"RequestId: [-0-9a-f]{36} Process exited before completing request", fault)


@pytest.mark.catalogue("TL-039", "TL-041", "TL-071", "TL-069")
async def test_a_crash_delivers_the_last_words(recorded: Recorded) -> None:
    function, sink, host = await recorded(buffering={"timeoutMs": 30_000})
    result = await function.invoke({"do": "exit"})
    assert result.error_type == "Runtime.ExitError"
    async with asyncio.timeout(10):
        while "SHUTDOWN" not in sink.marks or "platform.report" not in sink.marks:
            await asyncio.sleep(0.005)
    assert "last words" in sink.records("function")
    [done], [report] = sink.records("platform.runtimeDone"), sink.records("platform.report")
    assert (done["status"], done["errorType"]) == ("error", "Runtime.ExitError")
    assert done["metrics"].get("producedBytes", 0) == 0
    assert (report["status"], report["errorType"]) == ("error", "Runtime.ExitError")
    await host.close()


@pytest.mark.catalogue("TL-038", "TL-083", "TL-018")
async def test_a_flood_loses_what_a_slow_subscriber_does_not_take_and_tells_how_much(recorded: Recorded) -> None:
    count, size = 30_000, 100
    function, sink, host = await recorded(how="stall", types=["function"])
    result: InvokeResult = await function.invoke({"do": "flood", "count": count, "size": size})
    assert result.json() == "x" * 10  # nobody waited for the subscriber
    [cost] = result.extensions
    assert cost.telemetry is not None
    assert cost.telemetry["deliveredRecords"] == 0
    assert cost.telemetry["droppedRecords"] + cost.telemetry["pendingRecords"] == count + 1
    sink.how = "ok"
    sink.go_on.set()
    await function.invoke()
    await closed(host, sink)
    numbers = [int(line[:6]) for line in sink.records("function") if line != "during init"]
    assert numbers == sorted(set(numbers))
    told = sink.records("platform.logsDropped")
    assert sum(lost["droppedRecords"] for lost in told) == count - len(numbers) > 0
    event = {"time": "2023-11-14T22:13:20.250Z", "type": "function", "record": "x" * (size + 7)}
    each = len(json.dumps(event, separators=(",", ":")))
    assert sum(lost["droppedBytes"] for lost in told) == (count - len(numbers)) * each
    assert {tuple(lost) for lost in told} == {("reason", "droppedRecords", "droppedBytes")}
    assert "slower than the logs production rate" in told[0]["reason"]


@pytest.mark.catalogue("TL-018")
async def test_the_standing_of_a_subscriber_is_in_the_result(recorded: Recorded) -> None:
    function, sink, host = await recorded(wait=0.2)
    await function.invoke()
    result: InvokeResult = await function.invoke()
    [cost] = result.extensions
    assert cost.telemetry is not None
    assert set(cost.telemetry) == {"deliveredRecords", "droppedRecords", "pendingRecords", "batches", "retries"}
    assert cost.telemetry["deliveredRecords"] > 0
    assert cost.telemetry["batches"] > 0
    assert (cost.telemetry["droppedRecords"], cost.telemetry["retries"]) == (0, 0)
    await closed(host, sink)
    assert len(sink.batches) >= cost.telemetry["batches"]


@pytest.mark.catalogue("TL-070", "TL-042")
async def test_runtime_done_comes_while_a_real_extension_is_still_at_work(recorded: Recorded) -> None:
    function, sink, host = await recorded(wait=0.5)
    invoke = asyncio.ensure_future(function.invoke())
    async with asyncio.timeout(10):
        while "runtimeDone" not in sink.types():
            await asyncio.sleep(0.002)
    assert not invoke.done()
    await invoke
    assert "report" not in sink.types()
    await closed(host, sink)
    assert sink.types()[-1] == "report"


@pytest.mark.catalogue("TL-043")
async def test_after_a_real_crash_the_next_generation_subscribes_anew(recorded: Recorded) -> None:
    function, sink, host = await recorded()
    await function.invoke({"do": "exit"})
    await function.invoke()
    await host.close()
    starts = sink.records("platform.initStart")
    assert [record["phase"] for record in starts] == ["init", "invoke"]
    assert sink.types().count("telemetrySubscription") == 2
    ids = [record["requestId"] for record in sink.records("platform.start")]
    assert len(ids) == len(set(ids)) == 2
