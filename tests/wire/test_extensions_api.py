"""The Extensions API as an extension meets it. The test plays runtime and extensions; their processes only sleep."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sandbox import Limits
from sandbox.core.limits import EXTENSION_BODY, EXTENSION_NAME, EXTENSION_NAMES
from sandbox.core.states import Extension, Phase, Runtime
from sandbox.host.environment import Job
from tests import worlds
from tests.conftest import Connection, MakeFolder, Reply, Tier, request
from tests.wire.talk import accepted, answered, in_both_tiers, refused

pytestmark = pytest.mark.tiers("process")  # see talk.py

BASE = "/2020-01-01/extension/"
UNKNOWN = "11111111-2222-4333-8444-555555555555"
NOT_ALLOWED = "Error: State transition is not allowed"
NEEDS_IDENTIFIER = [("GET", "event/next"), ("POST", "init/error"), ("POST", "exit/error")]


class World(worlds.World):
    """See there; with extensions to play."""

    async def extension(self, name: str, *events: str, **fields: str) -> Played_:
        """One that has registered."""
        connection = await self.connect()
        reply = await register(connection, name, *events, **fields)
        assert reply.status == 200, reply
        return Played_(self, connection, name, reply.headers["lambda-extension-identifier"])

    async def spawned(self) -> None:
        """The runtime's process is there: only then can a signal reach it."""
        processes = self.environment._processes._processes
        await self.until(lambda: "runtime" in processes and processes["runtime"].pid != 0)

    async def ready(self, *extensions: Played_) -> Connection:
        """Everybody polls; returns the runtime's connection, whose poll is parked (`event` reads its reply)."""
        for extension in extensions:
            await extension.park()
        await self.spawned()
        runtime = await self.connect()
        await parked_poll(self, runtime)
        await self.until(lambda: self.environment.machine.phase is Phase.FROZEN)
        return runtime

    def told(self, kind: str) -> list[dict[str, object]]:
        return [record for type_, record in self.records if type_ == kind and isinstance(record, dict)]


class Played_:  # noqa: N801
    """An extension as the test plays it: a connection and an identifier."""

    def __init__(self, world: World, connection: Connection, name: str, identifier: str) -> None:
        self.world, self.connection, self.name, self.identifier = world, connection, name, identifier

    @property
    def agent(self) -> object:
        return self.world.environment.machine.extensions[self.name]

    def state(self) -> Extension:
        return self.world.environment.machine.extensions[self.name].state

    async def ask(self, method: str, what: str, body: bytes | None = None, **fields: str) -> Reply:
        return await self.connection.ask(method, BASE + what, body, lambda_extension_identifier=self.identifier, **fields)

    async def elsewhere(self, method: str, what: str, body: bytes | None = None, **fields: str) -> Reply:
        """The same on a connection of its own, for the usual one holds a poll."""
        other = await self.world.connect()
        return await other.ask(method, BASE + what, body, lambda_extension_identifier=self.identifier, **fields)

    async def park(self) -> None:
        await self.connection.send(request("GET", BASE + "event/next", lambda_extension_identifier=self.identifier))
        await self.world.until(lambda: self.world.environment.machine.extensions[self.name].poll is not None)

    async def event(self) -> Reply:
        return await self.connection.reply()

    async def reports(self, what: str, error_type: str = "Extension.Mine", body: bytes | None = None) -> Reply:
        return await self.elsewhere("POST", what, body or b"", lambda_extension_function_error_type=error_type)

    def not_allowed(self, was: str, to: str) -> str:
        return f"State transition from {was} to {to} failed for extension {self.identifier}. {NOT_ALLOWED}"


MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
async def world(folder: MakeFolder, tier: Tier) -> AsyncIterator[MakeWorld]:
    """Makes a world: `await world("a", "b")` has two external extensions. Init has begun, and nobody has registered."""
    async with worlds.worlds(World, folder, tier) as make:
        yield make


def events_of(*events: str) -> bytes:
    return json.dumps({"events": events}).encode()


async def register(connection: Connection, name: str, *events: str, **fields: str) -> Reply:
    return await connection.ask("POST", BASE + "register", events_of(*events), lambda_extension_name=name, **fields)


async def parked_poll(world: World, runtime: Connection) -> None:
    """The runtime polls, and the reply is left to be read."""
    await runtime.send(request("GET", "invocation/next"))
    await world.until(lambda: bool(world.environment.machine.polls))


async def repolls(world: World, runtime: Connection) -> None:
    """After its answer, the runtime's next poll: its part is over."""
    await runtime.send(request("GET", "invocation/next"))
    await world.until(lambda: world.environment.machine.runtime is Runtime.READY)


async def ended(world: World, job: Job) -> None:
    await world.until(lambda: job.is_reported)


# ── register ──


@in_both_tiers
@pytest.mark.catalogue("EX-009", "EX-021", "EX-022", "EX-023")
async def test_a_register_is_answered_with_an_identifier_and_the_function(world: MakeWorld) -> None:
    w = await world()
    reply = await register(await w.connect(), "inside", "INVOKE")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert uuid.UUID(reply.headers["lambda-extension-identifier"]).version == 4
    function = w.environment.function
    assert reply.json() == {"functionName": function.name, "functionVersion": "$LATEST", "handler": function.handler}


@pytest.mark.catalogue("EX-024")
@pytest.mark.parametrize(
    ("features", "given"),
    [
        ("accountId", True),
        (" other , accountId ", True),
        ("accountId,accountId", True),
        ("accountid", False),
        ("other", False),
        ("", False),
    ],
)
async def test_the_account_is_told_to_who_asks_for_it(world: MakeWorld, features: str, given: bool) -> None:
    w = await world()
    reply = await register(await w.connect(), "inside", lambda_extension_accept_feature=features)
    document = reply.json()
    assert isinstance(document, dict)
    assert ("accountId" in document) is given
    if given:
        assert isinstance(document["accountId"], str)
        assert document["accountId"].isdigit()


@pytest.mark.catalogue("EX-020")
@pytest.mark.parametrize("fields", [{}, {"lambda_extension_name": ""}, {"lambda_extension_name": "  "}])
async def test_a_register_without_a_name_is_refused(world: MakeWorld, fields: dict[str, str]) -> None:
    connection = await (await world("ext")).connect()
    reply = await connection.ask("POST", BASE + "register", events_of("INVOKE"), **fields)
    assert refused(reply, 403, "Extension.InvalidExtensionName") == "Empty extension name"
    assert (await register(connection, "ext")).status == 200


@pytest.mark.catalogue("EX-020")
async def test_a_name_has_a_longest_length(world: MakeWorld) -> None:
    w = await world()
    connection = await w.connect()
    said = refused(await register(connection, "x" * (EXTENSION_NAME + 1)), 403, "Extension.InvalidExtensionName")
    assert said == f"The extension name is longer than {EXTENSION_NAME} characters"
    assert w.environment._extensions.callers() == []
    assert (await register(connection, "x" * EXTENSION_NAME)).status == 200


@pytest.mark.catalogue("EX-010")
async def test_only_so_many_names_that_called_are_remembered(world: MakeWorld) -> None:
    w = await world()
    connection = await w.connect()
    for number in range(EXTENSION_NAMES + 2):
        await register(connection, f"inside{number}")
    api = w.environment._extensions
    assert api.callers() == [f"inside{number}" for number in range(EXTENSION_NAMES)]
    before = api.last_call("inside0")
    await register(connection, "inside0")
    assert api.last_call("inside0") not in (None, before)  # of those that are, the newest call


@pytest.mark.catalogue("EX-021")
@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"{}", set()),
        (b'{"events": []}', set()),
        (b'{"events": null}', set()),
        (b'{"events": ["INVOKE"]}', {"INVOKE"}),
        (b'{"events": ["SHUTDOWN", "INVOKE", "INVOKE"]}', {"INVOKE", "SHUTDOWN"}),
        (b' {"events": ["SHUTDOWN"], "more": [1]}\n', {"SHUTDOWN"}),
        (b'{"events": [], "configurationKeys": []}', set()),
    ],
)
async def test_any_subset_of_the_events_can_be_asked_for(world: MakeWorld, body: bytes, events: set[str]) -> None:
    w = await world("ext")
    reply = await (await w.connect()).ask("POST", BASE + "register", body, lambda_extension_name="ext")
    assert reply.status == 200
    assert w.environment.machine.extensions["ext"].events == events


@pytest.mark.catalogue("EX-021")
async def test_a_null_document_asks_for_no_events(world: MakeWorld) -> None:
    w = await world("ext")
    assert (await (await w.connect()).ask("POST", BASE + "register", b"null", lambda_extension_name="ext")).status == 200


@pytest.mark.catalogue("EX-021")
async def test_the_key_of_the_events_has_any_case(world: MakeWorld) -> None:
    w = await world("ext")
    await (await w.connect()).ask("POST", BASE + "register", b'{"Events": ["INVOKE"]}', lambda_extension_name="ext")
    assert w.environment.machine.extensions["ext"].events == {"INVOKE"}


@pytest.mark.catalogue("EX-021")
@pytest.mark.parametrize("fields", [{}, {"content_type": "application/x-www-form-urlencoded"}, {"content_type": "nonsense"}])
async def test_the_content_type_of_a_register_does_not_matter(world: MakeWorld, fields: dict[str, str]) -> None:
    w = await world("ext")
    await w.extension("ext", "INVOKE", **fields)
    assert w.environment.machine.extensions["ext"].events == {"INVOKE"}


@pytest.mark.catalogue("EX-020", "EX-022")
async def test_header_names_have_any_case(world: MakeWorld) -> None:
    w = await world("ext")
    connection, body = await w.connect(), events_of("INVOKE")
    head = (
        f"POST {BASE}register HTTP/1.1\r\nhost: 127.0.0.1\r\nLAMBDA-EXTENSION-NAME: ext\r\ncontent-LENGTH: {len(body)}\r\n\r\n"
    )
    await connection.send(head.encode() + body)
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode()
    assert "\r\nLambda-Extension-Identifier: " in head
    assert "\r\nContent-Type: application/json\r\n" in head


@pytest.mark.catalogue("EX-025")
@pytest.mark.parametrize("name", ["ext", "inside"])
@pytest.mark.parametrize("event", ["BOGUS", "invoke", "RESTORE", ""])
async def test_an_unknown_event_is_refused_by_its_name(world: MakeWorld, name: str, event: str) -> None:
    connection = await (await world("ext")).connect()
    reply = await register(connection, name, "INVOKE", event, "OTHER")
    assert refused(reply, 403, "Extension.InvalidEventType") == f"{event}: ErrorInvalidEventType"
    assert (await register(connection, name, "INVOKE")).status == 200


@pytest.mark.catalogue("EX-026")
async def test_an_internal_extension_cannot_have_shutdown(world: MakeWorld) -> None:
    connection = await (await world("ext")).connect()
    reply = await register(connection, "inside", "INVOKE", "SHUTDOWN")
    assert refused(reply, 403, "Extension.InvalidEventType") == "SHUTDOWN: ShutdownEventNotSupportedForInternalExtension"


@pytest.mark.catalogue("EX-002", "EX-027", "EX-005")
async def test_the_name_is_the_files_whole_name_and_any_other_is_internal(world: MakeWorld) -> None:
    w = await world("ext.sh")
    await w.extension("ext", "INVOKE")
    assert not w.environment.machine.extensions["ext"].external
    assert w.environment.machine.phase is Phase.INIT_EXTENSIONS
    assert w.environment.machine.runtime is Runtime.ABSENT
    await w.extension("ext.sh", "SHUTDOWN")
    assert w.environment.machine.runtime is Runtime.STARTED


@pytest.mark.catalogue("EX-031")
@pytest.mark.parametrize(
    "body", [b"", b"{", b"x", b"[]", b'"INVOKE"', b'{"events": "INVOKE"}', b'{"events": [1]}', b"{} x", b"\xff"]
)
async def test_a_body_that_is_no_request_is_refused(world: MakeWorld, body: bytes) -> None:
    connection = await (await world("ext")).connect()
    refused(await connection.ask("POST", BASE + "register", body, lambda_extension_name="ext"), 403, "InvalidRequestFormat")
    assert (await register(connection, "ext")).status == 200


@pytest.mark.catalogue("EX-031")
@pytest.mark.parametrize("body", [b"", b"{"])
async def test_a_body_that_ends_early_is_refused_in_the_words_of_aws(world: MakeWorld, body: bytes) -> None:
    connection = await (await world("ext")).connect()
    reply = await connection.ask("POST", BASE + "register", body, lambda_extension_name="ext")
    assert refused(reply, 403, "InvalidRequestFormat") == "unexpected end of JSON input"


@pytest.mark.catalogue("EX-032")
async def test_configuration_keys_are_refused(world: MakeWorld) -> None:
    connection = await (await world("ext")).connect()
    body = b'{"events": [], "configurationKeys": ["a"]}'
    reply = await connection.ask("POST", BASE + "register", body, lambda_extension_name="ext")
    said = "configurationKeys are deprecated; use environment variables instead"
    assert refused(reply, 403, "InvalidRequestFormat") == said


@pytest.mark.catalogue("EX-028", "EX-056")
async def test_an_external_extension_registers_once(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    said = f"State transition from Registered to Registered failed for extension ext. {NOT_ALLOWED}"
    assert refused(await register(ext.connection, "ext"), 403, "Extension.InvalidExtensionState") == said
    await w.ready(ext)
    assert "from Ready to Registered" in refused(
        await register(await w.connect(), "ext"), 403, "Extension.InvalidExtensionState"
    )


@pytest.mark.catalogue("EX-029")
async def test_an_internal_name_is_taken_once(world: MakeWorld) -> None:
    w = await world()
    inside = await w.extension("inside", "INVOKE")
    said = "Extension with this name already registered"
    assert refused(await register(inside.connection, "inside"), 403, "Extension.InvalidExtensionState") == said


@pytest.mark.catalogue("EX-010", "EX-009")
async def test_ten_extensions_external_and_internal_together(world: MakeWorld) -> None:
    w = await world("ext", "other")
    for number in range(8):
        await w.extension(f"inside{number}", "INVOKE")  # by whichever process: only the name decides
    said = "Extension limit (10) reached"
    assert refused(await register(await w.connect(), "one"), 403, "Extension.TooManyExtensions") == said
    await w.extension("ext")
    await w.extension("other")


@pytest.mark.catalogue("EX-030", "EX-009")
async def test_internal_extensions_register_until_the_runtime_polls(world: MakeWorld) -> None:
    w = await world("ext")
    early = await w.extension("early")
    ext = await w.extension("ext")
    later = await w.extension("later")
    await parked_poll(w, await w.connect())
    said = "Extension registration closed already"
    assert refused(await register(await w.connect(), "late"), 403, "Extension.RegistrationClosed") == said
    for one in (early, ext, later):
        await one.park()
    await w.until(lambda: w.environment.machine.phase is Phase.FROZEN)
    assert refused(await register(await w.connect(), "late"), 403, "Extension.RegistrationClosed") == said


@pytest.mark.catalogue("EX-091", "LC-083")
async def test_identifiers_differ_and_end_with_their_generation(world: MakeWorld) -> None:
    w = await world("ext", limits=Limits(init=1))
    ext, inside = await w.extension("ext", "SHUTDOWN"), await w.extension("inside")
    assert ext.identifier != inside.identifier
    await w.ready(ext, inside)
    job = w.invoke()
    w.clock.advance(3)
    await w.until(lambda: job.is_reported)
    assert json.loads((await ext.event()).body)["shutdownReason"] == "timeout"
    w.clock.advance(2)
    await w.until(lambda: w.environment.machine.phase is Phase.CREATED)
    w.invoke()
    again = await w.extension("ext", "INVOKE")
    assert again.identifier != ext.identifier
    for old in (ext, inside):
        said = refused(await old.elsewhere("GET", "event/next"), 403, "Extension.UnknownExtensionIdentifier")
        assert said == f"Unknown extension {old.identifier}"
    assert list(w.environment.machine.extensions) == ["ext"]


# ── identifiers ──


@pytest.mark.catalogue("EX-040")
@pytest.mark.parametrize(("method", "what"), NEEDS_IDENTIFIER)
@pytest.mark.parametrize(
    ("identifier", "error_type", "said"),
    [
        (None, "Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header"),
        ("", "Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header"),
        ("ext", "Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"),
        (UNKNOWN + "0", "Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"),
    ],
)
async def test_an_identifier_has_to_be_there_and_be_one(
    world: MakeWorld, method: str, what: str, identifier: str | None, error_type: str, said: str
) -> None:
    connection = await (await world("ext")).connect()
    fields = {} if identifier is None else {"lambda_extension_identifier": identifier}
    reply = await connection.ask(method, BASE + what, b"" if method == "POST" else None, **fields)
    assert refused(reply, 403, error_type) == said  # before a missing error type


@pytest.mark.catalogue("EX-040")
@pytest.mark.parametrize(("method", "what"), NEEDS_IDENTIFIER)
async def test_an_identifier_that_nobody_has(world: MakeWorld, method: str, what: str) -> None:
    connection = await (await world("ext")).connect()
    fields = {"lambda_extension_identifier": UNKNOWN, "lambda_extension_function_error_type": "Extension.X"}
    reply = await connection.ask(method, BASE + what, b"" if method == "POST" else None, **fields)
    said = refused(reply, 403, "Extension.UnknownExtensionIdentifier")
    if what == "event/next":
        assert said == f"Unknown extension {UNKNOWN}"


@pytest.mark.catalogue("EX-040")
@pytest.mark.parametrize("what", ["init/error", "exit/error"])
async def test_an_unknown_identifier_with_an_error_in_the_words_of_aws(world: MakeWorld, what: str) -> None:
    connection = await (await world("ext")).connect()
    fields = {"lambda_extension_identifier": UNKNOWN, "lambda_extension_function_error_type": "Extension.X"}
    reply = await connection.ask("POST", BASE + what, b"", **fields)
    assert refused(reply, 403) == "Unknown Lambda-Extension-Identifier"


@pytest.mark.catalogue("EX-022")
async def test_an_identifier_in_capitals_is_the_same(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext")
    ext.identifier = ext.identifier.upper()
    await ext.park()


# ── event/next ──


@in_both_tiers
@pytest.mark.catalogue("EX-041")
async def test_init_ends_when_runtime_and_every_extension_have_polled(world: MakeWorld) -> None:
    w = await world("ext")
    ext, inside = await w.extension("ext"), await w.extension("inside")
    await parked_poll(w, await w.connect())
    await ext.park()
    assert w.environment.machine.phase is Phase.INIT_RUNTIME
    w.clock.advance(0.25)
    await inside.park()
    assert w.environment.machine.phase is Phase.FROZEN
    assert w.told("platform.initReport")[0]["metrics"] == {"durationMs": 250.0}


@in_both_tiers
@pytest.mark.catalogue("EX-043", "EX-044", "EX-046", "EX-048")
async def test_runtime_and_extension_are_told_of_one_invoke(world: MakeWorld) -> None:
    w = await world("ext")
    ext, inside = await w.extension("ext", "INVOKE", "SHUTDOWN"), await w.extension("inside", "INVOKE")
    runtime = await w.ready(ext, inside)
    w.clock.advance(77.25)
    job = w.invoke(b'"the payload"')
    event, other, given = await ext.event(), await inside.event(), await runtime.reply()
    assert event.status == 200
    assert event.headers["content-type"] == "application/json"
    for reply in (event, other):
        assert uuid.UUID(reply.headers["lambda-extension-event-identifier"])
    assert event.headers["lambda-extension-event-identifier"] != other.headers["lambda-extension-event-identifier"]
    assert not [name for name in event.headers if name.startswith("lambda-runtime")]
    assert event.json() == other.json()
    assert event.json() == {
        "eventType": "INVOKE",
        "deadlineMs": round((w.clock.wall() + 3) * 1000),
        "requestId": job.request_id,
        "invokedFunctionArn": job.arn,
        "tracing": {"type": "X-Amzn-Trace-Id", "value": job.trace_id},
    }
    assert given.headers["lambda-runtime-deadline-ms"] == str(round((w.clock.wall() + 3) * 1000))


@pytest.mark.catalogue("EX-045")
async def test_a_trace_id_is_always_given(world: MakeWorld) -> None:
    """DECISIONS "trace id": there is always one, so `tracing` is always there."""
    w = await world()
    inside = await w.extension("inside", "INVOKE")
    runtime = await w.ready(inside)
    w.invoke()
    event, given = json.loads((await inside.event()).body), await runtime.reply()
    assert event["tracing"]["value"] == given.headers["lambda-runtime-trace-id"]


@pytest.mark.catalogue("EX-044", "EX-050", "EX-023")
async def test_documents_are_as_compact_as_those_of_aws(world: MakeWorld) -> None:
    w = await world()
    connection = await w.connect()
    reply = await register(connection, "inside", "INVOKE")
    inside = Played_(w, connection, "inside", reply.headers["lambda-extension-identifier"])
    await w.ready(inside)
    w.invoke()
    event = await inside.event()
    assert event.body.startswith(b'{"eventType":"INVOKE","deadlineMs":')
    assert reply.body.startswith(b'{"functionName":"')


@pytest.mark.catalogue("EX-042")
async def test_a_poll_outlives_a_day_of_freezing(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    await w.ready(ext)
    w.clock.advance(24 * 3600)
    job = w.invoke()
    assert json.loads((await ext.event()).body)["requestId"] == job.request_id


@pytest.mark.catalogue("EX-047")
async def test_who_did_not_ask_for_invoke_is_neither_told_nor_awaited(world: MakeWorld) -> None:
    w = await world("ext", "nothing")
    ext, nothing = await w.extension("ext", "SHUTDOWN"), await w.extension("nothing")
    runtime = await w.ready(ext, nothing)
    for _ in range(2):
        job = w.invoke()
        await answered(runtime, await runtime.reply())
        await parked_poll(w, runtime)
        await ended(w, job)
    assert (ext.state(), nothing.state()) == (Extension.READY, Extension.READY)
    assert "spans" not in w.told("platform.report")[0]


@pytest.mark.catalogue("EX-049", "EX-090", "LC-031", "LC-032", "LC-033", "LC-034")
async def test_an_invoke_ends_with_the_last_poll_and_its_caller_does_not_wait(world: MakeWorld) -> None:
    w = await world("ext")
    ext, inside = await w.extension("ext", "INVOKE"), await w.extension("inside", "INVOKE")
    runtime = await w.ready(ext, inside)
    job = w.invoke()
    await ext.event()
    await inside.event()
    w.clock.advance(0.1)
    await answered(runtime, await runtime.reply())
    assert job.answered.done()
    await repolls(w, runtime)
    await inside.park()
    following = w.invoke()
    w.clock.advance(0.2)
    assert not job.is_reported
    assert w.environment.machine.current.request_id == job.request_id
    event = await ext.ask("GET", "event/next")
    assert job.is_reported
    assert json.loads(event.body)["requestId"] == following.request_id
    assert job.result.report.duration_ms == 300.0
    ((name, began, done),) = w.told("platform.report")[0]["spans"]
    assert (name, round(done - began, 6)) == ("extensionOverhead", 0.2)
    assert job.result.held_open_by == "ext"


@in_both_tiers
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it writes to the output of another process, by /proc")
async def test_what_an_extension_printed_before_its_poll_is_recorded_before_the_report(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    runtime = await w.ready(ext)
    job = w.invoke()
    await ext.event()
    await answered(runtime, await runtime.reply())
    await repolls(w, runtime)
    process = w.environment._processes._processes["ext"]
    for output in process.outputs:
        asyncio.get_running_loop().remove_reader(output._fd)  # it is not read by chance
    out = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY)
    os.write(out, b"at the end\n")
    os.close(out)
    await ext.park()
    await ended(w, job)
    assert w.records.index(("extension", "at the end")) < [type_ for type_, _ in w.records].index("platform.report")


@pytest.mark.catalogue("EX-054", "EX-056")
async def test_a_second_poll_beside_a_parked_one_is_refused(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    await w.ready(ext)
    said = refused(await ext.elsewhere("GET", "event/next"), 403, "Extension.InvalidExtensionState")
    assert said == ext.not_allowed("Ready", "Ready")
    w.invoke()
    assert (await ext.event()).status == 200


@pytest.mark.catalogue("EX-054")
async def test_a_poll_takes_the_place_of_one_whose_client_has_gone(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    await w.ready(ext)
    await ext.connection.close()
    await w.until(lambda: w.environment.machine.extensions["ext"].poll is None)
    ext.connection = await w.connect()
    await ext.park()
    w.invoke()
    assert (await ext.event()).status == 200


@in_both_tiers
@pytest.mark.catalogue("EX-054")
async def test_an_event_whose_client_had_gone_is_given_to_the_next_poll(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    runtime = await w.ready(ext)
    with socket.socket(fileno=os.dup(ext.connection.writer.get_extra_info("socket").fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)  # gone, and the host's event loop has not been told yet
    job = w.invoke()
    await runtime.reply()
    ext.connection = await w.connect()
    event = await ext.ask("GET", "event/next")
    assert json.loads(event.body)["requestId"] == job.request_id
    assert ext.state() is Extension.RUNNING


@pytest.mark.catalogue("EX-049")
async def test_an_event_that_arrived_is_not_given_again(world: MakeWorld) -> None:
    """A client that makes a connection for each request, and closes it when it has its reply."""
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    runtime = await w.ready(ext)
    job = w.invoke()
    await ext.event()
    await ext.connection.close()
    await answered(runtime, await runtime.reply())
    await repolls(w, runtime)
    ext.connection = await w.connect()
    await ext.park()
    await ended(w, job)
    assert job.result.report.status == "success"


# ── SHUTDOWN ──


async def shut_down(w: World, reason: str = "spindown") -> asyncio.Task[None]:
    return asyncio.ensure_future(w.environment.shutdown(reason))


async def over(w: World, ending: asyncio.Task[None], seconds: float = 2) -> None:
    w.clock.advance(seconds)
    await ending


@in_both_tiers
@pytest.mark.catalogue("EX-050", "EX-051", "EX-052", "EX-083", "LC-106", "LC-112", "LC-100")
@pytest.mark.parametrize("reason", ["spindown", "timeout", "failure"])
async def test_shutdown_is_the_answer_to_a_poll_after_the_runtime_has_gone(world: MakeWorld, reason: str) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "SHUTDOWN")
    await w.ready(ext)
    ending = await shut_down(w, reason)
    event = await ext.event()
    assert w.environment.machine.runtime is Runtime.EXITED
    assert event.status == 200
    assert event.headers["content-type"] == "text/plain; charset=utf-8"
    assert not [name for name in event.headers if name.startswith("lambda")]
    deadline = round((w.clock.wall() + 2) * 1000)
    assert event.json() == {"eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": deadline}
    await over(w, ending)


@in_both_tiers
@pytest.mark.catalogue("LC-106", "EX-084")
@pytest.mark.parametrize("killed", [False, True])
async def test_a_signal_for_a_runtime_that_is_being_started_reaches_it(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    w = await world("ext")
    processes = w.environment._processes
    await w.until(lambda: "ext" in processes._processes and processes._processes["ext"].pid != 0)
    tree, begun, go_on = processes._tree, asyncio.Event(), asyncio.Event()
    spawn, send, sent = tree.spawn, tree.signal, []

    async def slow(*what: Any) -> int:
        begun.set()
        await go_on.wait()
        return await spawn(*what)

    def noted(pid: int, number: int) -> None:
        sent.append(number)
        send(pid, number)

    monkeypatch.setattr(tree, "spawn", slow)
    monkeypatch.setattr(tree, "signal", noted)
    ext = await w.extension("ext", "SHUTDOWN")
    await begun.wait()
    ending = await shut_down(w)
    await w.until(lambda: w.environment.machine.phase is Phase.SHUTDOWN)
    if killed:
        w.clock.advance(w.environment.limits.runtime_share)
    go_on.set()
    await w.until(lambda: processes._processes["runtime"].pid != 0)
    assert sent == [signal.SIGTERM, signal.SIGKILL][: 1 + killed]
    await w.until(lambda: w.environment.machine.runtime is Runtime.EXITED)
    assert (await ext.ask("GET", "event/next")).json()["eventType"] == "SHUTDOWN"
    await over(w, ending)


@pytest.mark.catalogue("EX-055", "LC-110")
async def test_a_poll_after_shutdown_is_never_answered(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE", "SHUTDOWN")
    await w.ready(ext)
    ending = await shut_down(w)
    await ext.event()
    await ext.park()
    await over(w, ending)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await ext.event()


@pytest.mark.catalogue("LC-108", "EX-084", "EX-082", "LC-107", "LC-072", "LC-076", "LC-077", "LC-078")
async def test_a_busy_extension_is_given_shutdown_at_its_next_poll(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE", "SHUTDOWN")
    await w.ready(ext)
    job = w.invoke()
    await ext.event()
    w.clock.advance(3)
    assert w.told("platform.runtimeDone")[0]["status"] == "timeout"
    deadline = round((w.clock.wall() + 2) * 1000)
    await w.until(lambda: w.environment.machine.runtime is Runtime.EXITED)
    w.clock.advance(0.5)
    event = await ext.ask("GET", "event/next")
    assert event.json() == {"eventType": "SHUTDOWN", "shutdownReason": "timeout", "deadlineMs": deadline}
    assert job.result.report.duration_ms == 3000.0


@pytest.mark.catalogue("LC-106")
async def test_shutdown_is_given_to_who_was_still_in_init(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "SHUTDOWN")
    await w.spawned()
    ending = await shut_down(w)
    await w.until(lambda: w.environment.machine.runtime is Runtime.EXITED)
    event = await ext.ask("GET", "event/next")
    assert json.loads(event.body)["eventType"] == "SHUTDOWN"
    await over(w, ending)


@pytest.mark.catalogue("EX-055")
async def test_a_shutdown_that_was_lost_on_its_way_is_given_again(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "SHUTDOWN")
    await w.ready(ext)
    await ext.connection.close()
    ending = await shut_down(w)
    await w.until(lambda: w.environment.machine.runtime is Runtime.EXITED)
    ext.connection = await w.connect()
    assert json.loads((await ext.ask("GET", "event/next")).body)["eventType"] == "SHUTDOWN"
    await over(w, ending)


@pytest.mark.catalogue("EX-033", "EX-085", "LC-113")
async def test_who_did_not_ask_for_shutdown_gets_no_bytes(world: MakeWorld) -> None:
    w = await world("ext")
    ext, inside = await w.extension("ext"), await w.extension("inside", "INVOKE")
    runtime = await w.ready(ext, inside)
    await (await shut_down(w))  # without time moving on: nobody is waited for
    for connection in (ext.connection, inside.connection, runtime):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await connection.reply()


# ── init/error and exit/error ──


@pytest.mark.catalogue("EX-060")
@pytest.mark.parametrize("what", ["init/error", "exit/error"])
@pytest.mark.parametrize("fields", [{}, {"lambda_extension_function_error_type": ""}])
@pytest.mark.parametrize("known", [True, False])
async def test_an_error_without_its_type_is_refused(world: MakeWorld, what: str, fields: dict[str, str], known: bool) -> None:
    w = await world("ext")
    ext = await w.extension("ext")
    if not known:
        ext.identifier = UNKNOWN  # a missing type is told first
    said = refused(await ext.ask("POST", what, b"{}", **fields), 403, "Extension.MissingHeader")
    assert said == "Lambda-Extension-Function-Error-Type not found"
    assert ext.state() is Extension.REGISTERED


@pytest.mark.catalogue("EX-061", "EX-067")
@pytest.mark.parametrize("what", ["init/error", "exit/error"])
@pytest.mark.parametrize(
    "body", [None, b"", b"{}", b"text", b'{"errorMessage": "m", "errorType": "t", "stackTrace": []}', b"\xff"]
)
async def test_an_error_is_taken_with_any_body(world: MakeWorld, what: str, body: bytes | None) -> None:
    w = await world("ext")
    ext = await w.extension("ext")
    reply = await ext.ask("POST", what, body, lambda_extension_function_error_type="Extension.Mine")
    accepted(reply)
    assert reply.body == b'{"status":"OK"}\n'


@pytest.mark.catalogue("EX-064", "EX-066", "EX-068", "EX-069")
@pytest.mark.parametrize(
    ("what", "state", "kind"), [("init/error", "InitError", "InitError"), ("exit/error", "ExitError", "ExitError")]
)
async def test_the_first_error_type_is_kept_whatever_it_is(world: MakeWorld, what: str, state: str, kind: str) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    for error_type in ("Foo", "Extension.Second"):
        accepted(await ext.reports(what, error_type))
    w.clock.advance(0.5)  # it does not exit
    assert w.told("platform.extension") == [{"name": "ext", "state": state, "events": ["INVOKE"], "errorType": "Foo"}]
    assert w.told("platform.initReport")[0]["errorType"] == f"Extension.{kind}"


@pytest.mark.catalogue("EX-062", "EX-056")
async def test_an_init_error_comes_before_the_first_poll_only(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    runtime = await w.ready(ext)
    said = refused(await ext.reports("init/error"), 403, "Extension.InvalidExtensionState")
    assert said == ext.not_allowed("Ready", "InitError")
    job = w.invoke()
    await ext.event()
    said = refused(await ext.reports("init/error"), 403, "Extension.InvalidExtensionState")
    assert said == ext.not_allowed("Running", "InitError")
    await answered(runtime, await runtime.reply())
    await repolls(w, runtime)
    await ext.park()
    await ended(w, job)
    assert job.result.report.status == "success"


@pytest.mark.catalogue("EX-063")
@pytest.mark.parametrize("state", ["Registered", "Ready", "Running", "Shutdown"])
async def test_an_exit_error_comes_at_any_time(world: MakeWorld, state: str) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE", "SHUTDOWN")
    if state != "Registered":
        await w.ready(ext)
    if state == "Running":
        w.invoke()
    if state == "Shutdown":
        ending = await shut_down(w)
        await ext.event()
    assert ext.state().value == state
    accepted(await ext.reports("exit/error"))
    accepted(await ext.reports("exit/error"))
    assert ext.state() is Extension.EXIT_ERROR
    if state == "Shutdown":
        await over(w, ending)


@pytest.mark.catalogue("EX-053", "EX-065", "EX-056")
@pytest.mark.parametrize(("what", "state"), [("init/error", "InitError"), ("exit/error", "ExitError")])
async def test_after_an_error_nothing_else_succeeds(world: MakeWorld, what: str, state: str) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    accepted(await ext.reports(what))
    said = refused(await ext.ask("GET", "event/next"), 403, "Extension.InvalidExtensionState")
    assert said == ext.not_allowed(state, "Ready")
    refused(await register(ext.connection, "ext", "INVOKE"), 403, "Extension.InvalidExtensionState")
    body = b'{"schemaVersion": "2022-12-13", "types": ["function"], "destination": {"protocol": "HTTP", "URI": "http://sandbox:8080"}}'
    fields = {"lambda_extension_identifier": ext.identifier}
    reply = await ext.connection.ask("PUT", "/2022-07-01/telemetry", body, **fields)
    refused(reply, 403, "Extension.InvalidExtensionState")


@pytest.mark.catalogue("EX-066", "LC-014")
async def test_an_exit_error_in_an_invoke_fails_it_when_the_extension_does_not_exit(world: MakeWorld) -> None:
    w = await world("ext")
    ext = await w.extension("ext", "INVOKE")
    await w.ready(ext)
    job = w.invoke()
    await ext.event()
    accepted(await ext.reports("exit/error", "Extension.Mine"))
    w.clock.advance(0.5)
    assert job.answered.done()
    document = json.loads(job.result.payload)
    assert document["errorType"] == "Extension.ExitError"
    assert "ext" in document["errorMessage"]


# ── paths, methods, sizes ──


@pytest.mark.catalogue("EX-020")
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", BASE),
        ("POST", BASE + "registers"),
        ("POST", BASE + "register/"),
        ("GET", BASE + "event"),
        ("GET", BASE + "event/next/"),
        ("POST", BASE + "error"),
        ("POST", "/2020-01-02/extension/register"),
        ("GET", "/extension/event/next"),
    ],
)
async def test_an_unknown_path_is_404(world: MakeWorld, method: str, target: str) -> None:
    w = await world("ext")
    connection = await w.connect()
    fields = {"lambda_extension_name": "ext", "lambda_extension_identifier": UNKNOWN}
    refused(await connection.ask(method, target, b"{}" if method == "POST" else None, **fields), 404)
    assert w.environment.machine.extensions["ext"].state is Extension.STARTED


@pytest.mark.catalogue("EX-020", "EX-040")
@pytest.mark.parametrize(
    ("method", "what", "allowed"),
    [
        ("GET", "register", "POST"),
        ("PUT", "register", "POST"),
        ("POST", "event/next", "GET"),
        ("DELETE", "event/next", "GET"),
        ("GET", "init/error", "POST"),
        ("PUT", "exit/error", "POST"),
    ],
)
async def test_a_wrong_method_is_405(world: MakeWorld, method: str, what: str, allowed: str) -> None:
    w = await world("ext")
    ext = await w.extension("ext")
    reply = await ext.ask(method, what, None if method == "GET" else b"{}", lambda_extension_function_error_type="X")
    refused(reply, 405)
    assert reply.headers["allow"] == allowed
    assert ext.state() is Extension.REGISTERED


@pytest.mark.catalogue("EX-031")
async def test_a_body_that_is_too_large_is_refused_and_the_connection_lives_on(world: MakeWorld) -> None:
    connection = await (await world("ext")).connect()
    body = b'{"events": []' + b" " * (EXTENSION_BODY - 14) + b"}"
    assert len(body) == EXTENSION_BODY
    refused(await connection.ask("POST", BASE + "register", body + b" ", lambda_extension_name="ext"), 413)
    assert (await connection.ask("POST", BASE + "register", body, lambda_extension_name="ext")).status == 200


# ── internal extensions ──


@pytest.mark.catalogue("EX-009", "EX-047", "EX-049")
async def test_an_internal_extension_is_awaited_like_any_other(world: MakeWorld) -> None:
    w = await world()
    inside = await w.extension("inside", "INVOKE")
    runtime = await w.ready(inside)
    job = w.invoke()
    assert json.loads((await inside.event()).body)["requestId"] == job.request_id
    await answered(runtime, await runtime.reply())
    await repolls(w, runtime)
    assert w.environment.machine.phase is Phase.INVOKE
    await inside.park()
    await ended(w, job)
    (cost,) = job.result.extensions
    assert (cost.name, cost.type, cost.events, cost.state) == ("inside", "internal", ["INVOKE"], "Ready")


@in_both_tiers
@pytest.mark.catalogue("EX-010")
async def test_more_files_than_there_may_be_extensions_fail_init(world: MakeWorld) -> None:
    w = await world(*(f"ext{number:02}" for number in range(11)))
    job = w.invoke()
    async with asyncio.timeout(3):
        await job.answered
    document = json.loads(job.result.payload)
    said = f"RequestId: {job.request_id} Error: ErrTooManyExtensions"
    assert document == {"errorType": "Extension.LaunchError", "errorMessage": said}
    failed = [record for record in w.told("platform.extension") if record["state"] == "LaunchError"]
    assert [(record["name"], record["errorType"]) for record in failed][:1] == [("ext10", "TooManyExtensions")]
