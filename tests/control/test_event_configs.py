"""Event invoke configs: what is answered, what is refused and in which words, when they go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import SHORT, Tier, no_task_is_left
from tests.control.conftest import Caller
from tests.control.helpers import ARN, FAILED, INVALID, NOT_FOUND, check, refused
from tests.control.test_invoke import connected, raw

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

QUEUE = "arn:aws:sqs:us-east-1:123456789012:q"
PATTERN = (
    r"$|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|"
    r"arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)"
)
NOTHING = "You must specify at least one of error handling or destination setting."
NOWHERE: dict[str, Any] = {"OnSuccess": {}, "OnFailure": {}}


@pytest.fixture
def lean() -> bool:
    return True


@pytest.fixture
async def f(caller: Caller) -> Caller:
    """A client; there is a function `f`."""
    await caller.create()
    return caller


def without_date(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "LastModified"}


def none(qualifier: str = "$LATEST", name: str = "f") -> tuple[int, str, str]:
    return 404, NOT_FOUND, f"The function {ARN}:function:{name}:{qualifier} doesn't have an EventInvokeConfig"


NO_FUNCTION = (404, NOT_FOUND, "The function doesn't exist.")


# ── what is answered ──


@pytest.mark.catalogue("CP-091")
async def test_what_is_answered(f: Caller) -> None:
    given = {"MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 60}
    before = datetime.now(UTC)
    put = await f.put_function_event_invoke_config(
        FunctionName="f", **given, DestinationConfig={"OnFailure": {"Destination": QUEUE}}
    )
    assert f.metadata["HTTPStatusCode"] == 200
    assert abs((put["LastModified"] - before).total_seconds()) < 60
    wanted = {"OnSuccess": {}, "OnFailure": {"Destination": QUEUE}}
    assert without_date(put) == {"FunctionArn": f"{ARN}:function:f:$LATEST", "DestinationConfig": wanted, **given}
    assert await f.get_function_event_invoke_config(FunctionName="f") == put
    assert f.metadata["HTTPStatusCode"] == 200
    assert await f.list_function_event_invoke_configs(FunctionName="f") == {"FunctionEventInvokeConfigs": [put]}
    assert await f.delete_function_event_invoke_config(FunctionName="f") == {}
    assert f.metadata["HTTPStatusCode"] == 204
    assert await f.list_function_event_invoke_configs(FunctionName="f") == {"FunctionEventInvokeConfigs": []}


@pytest.mark.catalogue("CP-091")
async def test_on_the_wire_the_date_is_a_number(f: Caller) -> None:
    reply = await ask(f, "PUT", {"MaximumRetryAttempts": 0})
    assert reply.status == 200
    date = json.loads(reply.body)["LastModified"]
    assert isinstance(date, int | float)
    assert abs(date - datetime.now(UTC).timestamp()) < 60


async def ask(caller: Caller, method: str, document: dict[str, Any]) -> Any:
    async with connected(caller) as connection:
        path = "/2019-09-25/functions/f/event-invoke-config"
        return await connection.ask(method, path, json.dumps(document).encode(), Content_Type="application/json")


@pytest.mark.catalogue("CP-090")
async def test_put_replaces_and_update_changes(f: Caller) -> None:
    """Sides of the destinations, too."""
    name: dict[str, Any] = {"FunctionName": "f"}
    sides = [{side: {"Destination": QUEUE}} for side in ("OnSuccess", "OnFailure")]
    await f.put_function_event_invoke_config(**name, MaximumEventAgeInSeconds=100, DestinationConfig=sides[0])
    changed = await f.update_function_event_invoke_config(**name, MaximumRetryAttempts=2)
    assert without_date(changed) == {
        "FunctionArn": f"{ARN}:function:f:$LATEST",
        "MaximumRetryAttempts": 2,
        "MaximumEventAgeInSeconds": 100,
        "DestinationConfig": {**NOWHERE, **sides[0]},
    }
    changed = await f.update_function_event_invoke_config(**name, DestinationConfig=sides[1])
    assert changed["DestinationConfig"] == {**sides[0], **sides[1]}
    assert changed["MaximumEventAgeInSeconds"] == 100
    assert await f.get_function_event_invoke_config(**name) == changed
    await f.put_function_event_invoke_config(**name, MaximumRetryAttempts=0)
    found = await f.get_function_event_invoke_config(**name)
    assert set(found) == {"FunctionArn", "LastModified", "DestinationConfig", "MaximumRetryAttempts"}
    assert (found["MaximumRetryAttempts"], found["DestinationConfig"]) == (0, NOWHERE)


@pytest.mark.catalogue("CP-090")
async def test_an_empty_destination_takes_it_away(f: Caller) -> None:
    await f.put_function_event_invoke_config(FunctionName="f", DestinationConfig={"OnFailure": {"Destination": QUEUE}})
    changed = await f.update_function_event_invoke_config(
        FunctionName="f", DestinationConfig={"OnFailure": {"Destination": ""}}
    )
    assert changed["DestinationConfig"] == NOWHERE


@pytest.mark.catalogue("CP-091", "CP-092")
async def test_each_version_and_alias_has_its_own(f: Caller) -> None:
    await f.publish_version(FunctionName="f")
    await f.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    for retries, extra in enumerate(({}, {"Qualifier": "1"}, {"Qualifier": "live"})):
        await f.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=retries, **extra)
    found = (await f.list_function_event_invoke_configs(FunctionName="f"))["FunctionEventInvokeConfigs"]
    assert {one["FunctionArn"].rpartition(":")[2]: one["MaximumRetryAttempts"] for one in found} == {
        "$LATEST": 0,
        "1": 1,
        "live": 2,
    }
    same = await f.get_function_event_invoke_config(FunctionName="f", Qualifier="$LATEST")
    assert same == await f.get_function_event_invoke_config(FunctionName=f"{ARN}:function:f")
    assert (await f.get_function_event_invoke_config(FunctionName="f:live"))["MaximumRetryAttempts"] == 2
    await f.delete_function_event_invoke_config(FunctionName="f", Qualifier="1")
    await check(f.get_function_event_invoke_config(FunctionName="f", Qualifier="1"), *none("1"))
    assert (await f.get_function_event_invoke_config(FunctionName="f"))["MaximumRetryAttempts"] == 0


async def test_a_list_in_pages(f: Caller) -> None:
    for number in range(3):
        await f.update_function_configuration(FunctionName="f", Description=str(number))
        await f.active("f")
        await f.publish_version(FunctionName="f")
        await f.put_function_event_invoke_config(FunctionName="f", Qualifier=str(number + 1), MaximumRetryAttempts=0)
    first = await f.list_function_event_invoke_configs(FunctionName="f", MaxItems=2)
    second = await f.list_function_event_invoke_configs(FunctionName="f", MaxItems=2, Marker=first["NextMarker"])
    assert "NextMarker" not in second
    found = first["FunctionEventInvokeConfigs"] + second["FunctionEventInvokeConfigs"]
    assert [one["FunctionArn"].rpartition(":")[2] for one in found] == ["1", "2", "3"]


# ── what is not there ──


@pytest.mark.catalogue("CP-092")
async def test_without_a_config(f: Caller) -> None:
    await check(f.get_function_event_invoke_config(FunctionName="f"), *none())
    await check(f.delete_function_event_invoke_config(FunctionName="f"), *none())
    await check(f.update_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=1), *none())
    await check(f.get_function_event_invoke_config(FunctionName="nowhere"), *none(name="nowhere"))
    await check(f.delete_function_event_invoke_config(FunctionName="nowhere"), *none(name="nowhere"))


@pytest.mark.catalogue("CP-092")
@pytest.mark.parametrize("name", [{"FunctionName": "nowhere"}, {"FunctionName": "f", "Qualifier": "nowhere"}])
async def test_of_a_function_that_is_not_there(f: Caller, name: dict[str, str]) -> None:
    await check(f.put_function_event_invoke_config(**name, MaximumRetryAttempts=1), *NO_FUNCTION)
    if "Qualifier" not in name:
        await check(f.list_function_event_invoke_configs(**name), *NO_FUNCTION)


async def test_a_refusal_tells_that_it_is_the_users(f: Caller) -> None:
    """As recorded: Type and Message with a capital M, for what is not found; a small one for what is invalid."""
    reply = await ask(f, "POST", {"MaximumRetryAttempts": 1})
    assert json.loads(reply.body) == {"Type": "User", "Message": none()[2]}
    reply = await ask(f, "PUT", {})
    assert reply.status == 400
    assert json.loads(reply.body) == {"Type": "User", "message": NOTHING}


# ── what is refused ──


@pytest.mark.parametrize("operation", ["put_function_event_invoke_config", "update_function_event_invoke_config"])
async def test_nothing_to_set(f: Caller, operation: str) -> None:
    await f.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=1)
    await check(getattr(f, operation)(FunctionName="f"), 400, INVALID, NOTHING)


@pytest.mark.catalogue("IN-102")
@pytest.mark.parametrize(
    ("member", "value", "constraint"),
    [
        ("MaximumRetryAttempts", 3, "Member must have value less than or equal to 2"),
        ("MaximumRetryAttempts", -1, "Member must have value greater than or equal to 0"),
        ("MaximumEventAgeInSeconds", 59, "Member must have value greater than or equal to 60"),
        ("MaximumEventAgeInSeconds", 21_601, "Member must have value less than or equal to 21600"),
    ],
)
async def test_numbers_out_of_range(f: Caller, member: str, value: int, constraint: str) -> None:
    where = member[0].lower() + member[1:]
    text = f"1 validation error detected: Value '{value}' at '{where}' {FAILED}: {constraint}"
    for operation in (f.put_function_event_invoke_config, f.update_function_event_invoke_config):
        await check(operation(FunctionName="f", **{member: value}), 400, "ValidationException", text)
    await check(f.get_function_event_invoke_config(FunctionName="f"), *none())


@pytest.mark.catalogue("IN-102")
@pytest.mark.parametrize(("retries", "age"), [(0, 60), (2, 21_600)])
async def test_numbers_at_the_ends_of_their_range(f: Caller, retries: int, age: int) -> None:
    given = {"MaximumRetryAttempts": retries, "MaximumEventAgeInSeconds": age}
    found = await f.put_function_event_invoke_config(FunctionName="f", **given)
    assert {key: found[key] for key in given} == given


def config(**sides: str) -> dict[str, Any]:
    return {"FunctionName": "f", "DestinationConfig": {side: {"Destination": target} for side, target in sides.items()}}


async def test_destinations_that_are_refused(f: Caller) -> None:
    """What was there before stays."""
    before = await f.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=1)
    nowhere, itself = f"{ARN}:function:nowhere", f"{ARN}:function:f"
    stream, bucket = "arn:aws:kinesis:us-east-1:123456789012:stream/s", "arn:aws:s3:::b"
    alias = f"{itself}:nowhere"
    self_text = "You can't specify the function as a destination for itself."
    start = "The provided destination config DestinationConfig("
    for sides, text in (
        ({"OnSuccess": nowhere}, f"The destination ARN {nowhere} is invalid."),
        ({"OnFailure": alias}, f"The destination ARN {alias} is invalid."),
        ({"OnSuccess": itself}, self_text),
        ({"OnFailure": f"{itself}:$LATEST"}, self_text),
        ({"OnSuccess": stream}, f"{start}onSuccess=OnSuccess(destination={stream}), onFailure=null) is invalid."),
        ({"OnFailure": stream}, f"{start}onSuccess=null, onFailure=OnFailure(destination={stream})) is invalid."),
        ({"OnSuccess": bucket}, f"{start}onSuccess=OnSuccess(destination={bucket}), onFailure=null) is invalid."),
    ):
        await check(f.put_function_event_invoke_config(**config(**sides)), 400, INVALID, text)
        await check(f.update_function_event_invoke_config(**config(**sides)), 400, INVALID, text)
    assert await f.get_function_event_invoke_config(FunctionName="f") == before


@pytest.mark.parametrize("target", ["nowhere", "file://relative/folder", "file:relative", "file:///a\nb", "http://127.0.0.1/"])
async def test_a_destination_that_is_no_arn(f: Caller, target: str) -> None:
    where = "destinationConfig.onFailure.destination"
    constraint = f"Member must satisfy regular expression pattern: {PATTERN}"
    text = f"1 validation error detected: Value '{target}' at '{where}' {FAILED}: {constraint}"
    await check(f.put_function_event_invoke_config(**config(OnFailure=target)), 400, "ValidationException", text)


@pytest.mark.parametrize(
    "target",
    [
        QUEUE,
        "arn:aws:sns:us-east-1:123456789012:t",
        "arn:aws:events:us-east-1:123456789012:event-bus/default",
        f"{ARN}:function:g",
        f"{ARN}:function:g:live",
        f"{ARN}:function:f:live",
        "file:///some%20where/else",
    ],
)
async def test_destinations_that_are_taken(f: Caller, target: str) -> None:
    """On both sides, as they were given."""
    await f.create("g")
    for name in "fg":
        await f.publish_version(FunctionName=name)
        await f.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    found = await f.put_function_event_invoke_config(**config(OnSuccess=target, OnFailure=target))
    assert found["DestinationConfig"] == {side: {"Destination": target} for side in ("OnSuccess", "OnFailure")}


async def test_a_bucket_is_for_failures(f: Caller) -> None:
    found = await f.put_function_event_invoke_config(**config(OnFailure="arn:aws:s3:::b"))
    assert found["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {"Destination": "arn:aws:s3:::b"}}


# ── dead-letter targets ──


async def test_a_folder_is_a_dead_letter_target(caller: Caller) -> None:
    """It is shown, and is taken away by an empty one."""
    made = await caller.create(DeadLetterConfig={"TargetArn": "file:///some/where"})
    assert made["DeadLetterConfig"] == {"TargetArn": "file:///some/where"}
    changed = await caller.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": QUEUE})
    assert changed["DeadLetterConfig"] == {"TargetArn": QUEUE}
    await caller.active("f")
    changed = await caller.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": ""})
    assert "DeadLetterConfig" not in changed


async def test_a_dead_letter_target_that_is_nothing(caller: Caller) -> None:
    said = await refused(caller.create(DeadLetterConfig={"TargetArn": "file://relative"}))
    assert (said.status, said.code) == (400, "ValidationException")
    assert "at 'deadLetterConfig.targetArn'" in said.message


@pytest.mark.parametrize("service", ["kinesis", "dynamodb"])
async def test_a_dead_letter_target_of_a_service_that_takes_no_messages(caller: Caller, service: str) -> None:
    """Refused: nothing could be sent there."""
    target = f"arn:aws:{service}:us-east-1:123456789012:x"
    said = await refused(caller.create(DeadLetterConfig={"TargetArn": target}))
    assert (said.status, said.code) == (400, INVALID)
    assert target in said.message


# ── with what they end ──


async def test_a_config_goes_with_its_alias_version_and_function(f: Caller) -> None:
    await f.publish_version(FunctionName="f")
    await f.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    for extra in ({}, {"Qualifier": "1"}, {"Qualifier": "live"}):
        await f.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=1, **extra)
    await f.delete_alias(FunctionName="f", Name="live")
    await check(f.get_function_event_invoke_config(FunctionName="f", Qualifier="live"), *none("live"))
    await f.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    await check(f.get_function_event_invoke_config(FunctionName="f", Qualifier="live"), *none("live"))
    await f.delete_alias(FunctionName="f", Name="live")
    await f.delete_function(FunctionName="f", Qualifier="1")
    await check(f.get_function_event_invoke_config(FunctionName="f", Qualifier="1"), *none("1"))
    [left] = (await f.list_function_event_invoke_configs(FunctionName="f"))["FunctionEventInvokeConfigs"]
    assert left["FunctionArn"].endswith(":$LATEST")
    await f.delete_function(FunctionName="f")
    await f.create()
    await check(f.get_function_event_invoke_config(FunctionName="f"), *none())
    assert await f.list_function_event_invoke_configs(FunctionName="f") == {"FunctionEventInvokeConfigs": []}


# ── with --data ──


@pytest.fixture
async def starts(tier: Tier, tmp_path: Path) -> AsyncIterator[Any]:
    """`await starts()`: a client of a service with a data folder; the one before is closed first."""
    opened: list[tuple[Caller, Server, Service]] = []

    async def close() -> None:
        for caller, server, service in opened:
            caller.client.close()
            await server.close()
            await service.close()
        opened.clear()

    async def start() -> Caller:
        await close()
        service = Service(Host(limits=SHORT), data=tmp_path / "data")
        await service.load()
        server = Server(service)
        caller = Caller(await server.start(), service)
        opened.append((caller, server, service))
        return caller

    yield start
    await close()
    no_task_is_left()


@pytest.mark.catalogue("CP-090")
async def test_configs_are_there_after_a_restart(starts: Any, tmp_path: Path) -> None:
    """They are in effect, too: the record of an event is where they say."""
    folder = tmp_path / "records"
    caller = await starts()
    await caller.create(DeadLetterConfig={"TargetArn": f"file://{folder}/dead"})
    await caller.publish_version(FunctionName="f")
    before = [
        await caller.put_function_event_invoke_config(**config(OnSuccess=f"file://{folder}")),
        await caller.put_function_event_invoke_config(FunctionName="f", Qualifier="1", MaximumRetryAttempts=0),
    ]
    caller = await starts()
    assert (await caller.list_function_event_invoke_configs(FunctionName="f"))["FunctionEventInvokeConfigs"] == before
    assert (await raw(caller, b'{"a": 1}', X_Amz_Invocation_Type="Event")).status == 202
    assert (await raw(caller, b'{"do": "raise"}', name="f:1", X_Amz_Invocation_Type="Event")).status == 202
    record = json.loads(await only_file(folder))
    assert record["requestPayload"] == {"a": 1}
    dead = json.loads(await only_file(folder / "dead"))
    assert dead["body"] == '{"do": "raise"}'
    caller = await starts()
    assert (await caller.list_function_event_invoke_configs(FunctionName="f"))["FunctionEventInvokeConfigs"] == before


async def only_file(folder: Path) -> str:
    """Waits for it."""
    async with asyncio.timeout(20):
        while not (found := list(folder.glob("*.json"))):
            await asyncio.sleep(0.005)
    [path] = found
    return path.read_text()
