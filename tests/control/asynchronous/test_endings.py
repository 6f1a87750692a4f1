"""How events end: records, messages, and what stays when nobody takes note."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.control.asynchronous.outcomes import Outcome, dead_letter_attributes, destination_record, timestamp
from sandbox.control.asynchronous.queue import Event
from sandbox.core.limits import DEAD_LETTER_TEXT
from tests.conftest import Tier, python_of
from tests.control.asynchronous.test_schedule import FAILS, World, world_of
from tests.control.conftest import APP, zip_of
from tests.control.helpers import ARN
from tests.control.test_invoke import raw

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

QUEUE = "arn:aws:sqs:us-east-1:123456789012:dead"
KEEPS = """
import json, os
def handler(event, context):
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps([context.aws_request_id, event]) + "\\n")
    if os.environ.get("FAIL"):
        raise ValueError("kept, and failed")
"""
SAYS = """#!{python}
import http.client, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    connection.request("GET", "/2018-06-01/runtime/invocation/next")
    answer = connection.getresponse()
    answer.read()
    path = "/2018-06-01/runtime/invocation/" + answer.getheader("Lambda-Runtime-Aws-Request-Id") + "/response"
    with open(os.environ["SAY"], "rb") as file:
        connection.request("POST", path, file.read())
    connection.getresponse().read()
"""


@pytest.fixture
async def world(tier: Tier) -> AsyncIterator[World]:
    """Nobody else's services are there: what SQS would get is a file below the store."""
    async with world_of(ManualClock()) as world:
        yield world


def dead(world: World) -> Path:
    """Where messages to QUEUE are."""
    return world.service._store.folder / "destinations" / "sqs" / "dead"


async def seen(world: World, path: Path, count: int = 1) -> list[Any]:
    """What a function with KEEPS was given, when it was called so often."""
    await world.quiet()
    await world.until(lambda: path.exists() and len(path.read_text().splitlines()) >= count)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == count
    return lines


# ── records ──


@pytest.mark.catalogue("IN-106")
async def test_the_record_of_a_success(world: World, tmp_path: Path) -> None:
    await world.caller.create(app="def handler(event, context):\n    return {'got': event}\n")
    await world.config(good=f"file://{tmp_path}/good", bad=f"file://{tmp_path}/bad")
    request_id = await world.event({"a": [1, "ü"]})
    [record] = await world.records(tmp_path / "good")
    assert list(record) == ["version", "timestamp", "requestContext", "requestPayload", "responseContext", "responsePayload"]
    assert re.fullmatch(r"2023-11-14T22:13:2\d\.\d{3}Z", record["timestamp"])
    assert record | {"timestamp": ""} == {
        "version": "1.0",
        "timestamp": "",
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{ARN}:function:f:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"a": [1, "ü"]},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"got": {"a": [1, "ü"]}},
    }
    overview = await world.overview()
    assert (overview["queued"], overview["ended"], overview["undelivered"]) == ([], [], [])
    assert not (tmp_path / "bad").exists()


@pytest.mark.catalogue("IN-106")
async def test_the_record_of_a_failure(world: World, tmp_path: Path) -> None:
    """Once, after the last attempt."""
    await world.caller.create()
    await world.config(good=f"file://{tmp_path}/good", bad=f"file://{tmp_path}/bad")
    request_id = await world.event()
    await world.pass_(179)
    assert not (tmp_path / "bad").exists()
    await world.pass_(200)
    [record] = await world.records(tmp_path / "bad")
    answer = record.pop("responsePayload")
    assert {key: answer[key] for key in ("errorMessage", "errorType", "requestId")} == {
        "errorMessage": "as asked",
        "errorType": "ValueError",
        "requestId": request_id,
    }
    record.pop("timestamp")
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{ARN}:function:f:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": FAILS,
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
    }
    assert (await world.overview())["ended"] == []
    assert not (tmp_path / "good").exists()


ANSWERS = [
    (b'{"n": 1.10, "e":1E400, "i": 12345678901234567890.0}', None),
    (b"[0.10000000000000000000001]", None),
    (b"9" * 5000, None),
    (b"null", None),
    (b"no JSON", "no JSON"),
    (b"", ""),
    (b"NaN", "NaN"),
    (b'{"a": 1', '{"a": 1'),
    ("grün ☃".encode(), "grün ☃"),
    (b"\xff\xfe", "��"),
    (b"[" * 100_000, "[" * 100_000),
]


@pytest.mark.parametrize(("body", "text"), ANSWERS, ids=range(len(ANSWERS)))
@pytest.mark.catalogue("IN-106")
def test_an_answer_in_a_record(body: bytes, text: str | None) -> None:
    """As it is if it is JSON, every digit of a number included; else as a string."""
    event = Event(1, "f", None, "id", "Root=1", None, b'{ "x": 1.00 }', 0.0, 0.0)
    record = destination_record(event, "arn", "Success", 1, 0.0, Outcome(200, "7", body))
    assert '"requestPayload":{ "x": 1.00 },' in record
    if text is None:
        assert record.endswith(f',"responsePayload":{body.decode()}}}')
    else:
        assert json.loads(record)["responsePayload"] == text


@pytest.mark.catalogue("IN-106")
async def test_numbers_and_answers_that_are_no_json_on_their_way(world: World, tmp_path: Path, tier: Tier) -> None:
    said = tmp_path / "said"
    code = {"ZipFile": zip_of(bootstrap=SAYS.format(python=python_of(tier)))}
    await world.caller.create(Runtime="provided.al2023", Handler="x", Code=code, Environment={"Variables": {"SAY": str(said)}})
    await world.config(good=f"file://{tmp_path}/good")
    texts = []
    for count, body in enumerate((b'{"n": 1.10}', b"plain"), 1):
        said.write_bytes(body)
        assert (await raw(world.caller, b'{"big": 1e999}', X_Amz_Invocation_Type="Event")).status == 202
        await world.quiet()
        await world.until(partial(lambda count: len(list((tmp_path / "good").glob("*.json"))) == count, count))
        texts.append(max((tmp_path / "good").glob("*.json"), key=lambda file: file.stat().st_mtime_ns).read_text())
        world.clock.advance(1)
    assert '"requestPayload":{"big": 1e999}' in texts[0]
    assert texts[0].endswith('"responsePayload":{"n": 1.10}}')
    assert texts[1].endswith('"responsePayload":"plain"}')


@pytest.mark.catalogue("IN-106")
async def test_an_event_that_is_empty_is_an_empty_object(world: World, tmp_path: Path) -> None:
    await world.caller.create()
    await world.config(good=f"file://{tmp_path}/good")
    assert (await raw(world.caller, b"", X_Amz_Invocation_Type="Event")).status == 202
    [record] = await world.records(tmp_path / "good")
    assert (record["requestPayload"], record["responsePayload"]["event"]) == ({}, {})


def test_times_in_records() -> None:
    assert timestamp(1573755365.5689) == "2019-11-14T18:16:05.568Z"
    assert timestamp(1573755365.0) == "2019-11-14T18:16:05.000Z"


# ── functions as destinations ──


@pytest.mark.parametrize("good", [True, False], ids=["success", "failure"])
@pytest.mark.catalogue("IN-106")
async def test_a_record_is_another_functions_event(world: World, tmp_path: Path, good: bool) -> None:
    """Under a request id of its own; how that one ends is its own affair."""
    path = tmp_path / "seen"
    await world.caller.create()
    await world.caller.create("g", KEEPS, Environment={"Variables": {"SEEN": str(path), "FAIL": "1"}})
    await world.config(retries=0, **{"good" if good else "bad": f"{ARN}:function:g"})
    await world.config("g", retries=1, bad=f"file://{tmp_path}/bad")
    request_id = await world.event({} if good else FAILS)
    [(own_id, record)] = await seen(world, path)
    assert own_id != request_id
    context = record["requestContext"]
    assert context["requestId"] == request_id
    assert context["condition"] == ("Success" if good else "RetriesExhausted")
    assert context["functionArn"] == f"{ARN}:function:f:$LATEST"
    assert ("functionError" in record["responseContext"]) is not good
    await world.pass_(60)
    await seen(world, path, 2)
    [after] = await world.records(tmp_path / "bad")
    assert (after["requestContext"]["requestId"], after["requestPayload"]) == (own_id, record)
    assert world.times(own_id) == [0, 60]
    overview = await world.overview()
    assert (overview["queued"], overview["ended"]) == ([], [])


@pytest.mark.catalogue("IN-106")
async def test_a_function_as_destination_by_its_alias(world: World, tmp_path: Path) -> None:
    await world.caller.create()
    await world.caller.create("g", KEEPS, Environment={"Variables": {"SEEN": str(tmp_path / "seen")}})
    await world.caller.publish_version(FunctionName="g")
    await world.caller.active("g", "1")
    await world.caller.create_alias(FunctionName="g", Name="live", FunctionVersion="1")
    await world.config(good=f"{ARN}:function:g:live")
    await world.config("g", "live", good=f"file://{tmp_path}/good")
    await world.event({})
    [record] = await world.records(tmp_path / "good")
    assert record["requestContext"]["functionArn"] == f"{ARN}:function:g:live"
    assert record["responseContext"]["executedVersion"] == "1"


@pytest.mark.catalogue("IN-106")
async def test_a_destination_that_was_deleted(world: World) -> None:
    """The record stays for people, as the event of that function."""
    await world.caller.create()
    await world.caller.create("g")
    await world.config(good=f"{ARN}:function:g")
    await world.caller.delete_function(FunctionName="g")
    request_id = await world.event({"a": 1})
    [ended] = (await world.overview())["ended"]
    assert (ended["function"], ended["condition"]) == ("g", "FunctionGone")
    assert ended["requestId"] != request_id
    assert [text for text in world.told if ended["requestId"] in text]


# ── dead-letter targets ──


@pytest.mark.catalogue("IN-107")
async def test_a_dead_letter(world: World) -> None:
    """The event byte for byte, and three attributes."""
    await world.caller.create(DeadLetterConfig={"TargetArn": QUEUE})
    await world.config(retries=0)
    event = b'{"do":  "raise", "n": 1.10, "\\u00fc": "\xc3\xbc"}'
    reply = await raw(world.caller, event, X_Amz_Invocation_Type="Event")
    [message] = await world.records(dead(world))
    assert message == {
        "body": event.decode(),
        "attributes": {
            "RequestID": {"DataType": "String", "StringValue": reply.headers["x-amzn-requestid"]},
            "ErrorCode": {"DataType": "Number", "StringValue": "200"},
            "ErrorMessage": {"DataType": "String", "StringValue": "as asked"},
        },
    }
    await world.event({})
    await world.quiet()
    assert len(list(dead(world).glob("*.json"))) == 1
    assert (await world.overview())["ended"] == []


@pytest.mark.parametrize("way", ["throttled", "reserved"])
@pytest.mark.catalogue("IN-063", "IN-107")
async def test_a_dead_letter_of_an_event_that_never_ran(world: World, way: str) -> None:
    await world.caller.create(DeadLetterConfig={"TargetArn": QUEUE})
    await world.config(age=60)
    if way == "throttled":
        world.throttle()
    else:
        await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    request_id = await world.event({"a": 1})
    await world.pass_(60)
    [message] = await world.records(dead(world))
    assert json.loads(message["body"]) == {"a": 1}
    assert {name: value["StringValue"] for name, value in message["attributes"].items()} == {
        "RequestID": request_id,
        "ErrorCode": "429",
        "ErrorMessage": "Rate Exceeded.",
    }


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * 2000, "x" * 1024),
        ("ü" * 1000, "ü" * 512),
        ("x" + "ü" * 1000, "x" + "ü" * 511),
        ("x" * 1024, "x" * 1024),
    ],
)
@pytest.mark.catalogue("IN-107")
def test_the_first_kilobyte_of_an_error(text: str, kept: str) -> None:
    event = Event(1, "f", None, "id", "Root=1", None, b"{}", 0.0, 0.0)
    found = dead_letter_attributes(event, Outcome(200, text=text))["ErrorMessage"]["StringValue"]
    assert found == kept
    assert len(found.encode()) <= DEAD_LETTER_TEXT == 1024


@pytest.mark.catalogue("IN-106", "IN-107")
async def test_a_dead_letter_and_a_record(world: World, tmp_path: Path) -> None:
    """Of the version that was asked for, each of both once."""
    await world.caller.create(DeadLetterConfig={"TargetArn": QUEUE})
    await world.caller.publish_version(FunctionName="f")
    await world.caller.active("f", "1")
    await world.caller.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": ""})
    await world.caller.active("f")
    for qualifier in ("1", "$LATEST"):
        await world.config("f", qualifier, retries=0, bad=f"file://{tmp_path}/{qualifier}")
    first, second = await world.event(name="f:1"), await world.event()
    [message] = await world.records(dead(world))
    [of_first] = await world.records(tmp_path / "1")
    [of_second] = await world.records(tmp_path / "$LATEST")
    assert message["attributes"]["RequestID"]["StringValue"] == first
    assert of_first["requestContext"]["requestId"] == first
    assert of_second["requestContext"]["requestId"] == second
    overview = await world.overview()
    assert (overview["ended"], overview["undelivered"]) == ([], [])


# ── nobody takes note ──


async def test_what_stays_when_nobody_takes_note(world: World, tmp_path: Path) -> None:
    """A failure is kept and told, a success is not; a destination of successes does not help."""
    await world.caller.create()
    await world.config(retries=0, good=f"file://{tmp_path}/good")
    accepted = world.clock.wall()
    ids = [await world.event(), await world.event({"do": "exit", "code": 3})]
    await world.event({})
    await world.pass_(10)
    overview = await world.overview()
    assert overview["endedInAll"] == 2
    ended = {one.pop("requestId"): one for one in overview["ended"]}
    assert list(ended) == ids[::-1]
    common = {"function": "f", "condition": "RetriesExhausted", "failures": 1, "accepted": accepted}
    assert ended[ids[0]] == {**common, "reason": "as asked"}
    assert ended[ids[1]].pop("reason").endswith("Error: Runtime exited with error: exit status 3")
    assert ended[ids[1]] == common
    for request_id in ids:
        assert len([text for text in world.told if request_id in text and "RetriesExhausted" in text]) == 1


async def test_what_waits_is_shown_by_function(world: World) -> None:
    await world.caller.create()
    await world.caller.create("g")
    began = world.clock.wall()
    await world.event()
    await world.pass_(10)
    await world.event()
    await world.quiet()
    world.throttle()
    await world.event({}, "g")
    f, g = (await world.overview())["queued"]
    assert f == {"function": "f", "events": 2, "oldest": began, "next": began + 60, "failed": 2}
    del g["next"]
    assert g == {"function": "g", "events": 1, "oldest": began + 10, "failed": 0}


async def test_replay(world: World, tmp_path: Path) -> None:
    """As new events, with their whole schedule, under the same request ids; what goes well is gone then."""
    await world.caller.create()
    ids = [await world.event() for _ in range(3)]
    await world.pass_(400, 20)
    assert (await world.overview())["endedInAll"] == 3
    replay = world.service.dispatcher.replay
    assert await replay(["01234567-89ab-cdef-0123-456789abcdef"]) == (0, 0)
    assert await replay([ids[1], ids[1]]) == (1, 0)
    await world.pass_(400, 20)
    assert [world.times(request_id) for request_id in ids] == [[0, 60, 180], [0, 60, 180, 400, 460, 580], [0, 60, 180]]
    assert (await world.overview())["endedInAll"] == 3
    await world.config(retries=0, bad=f"file://{tmp_path}/bad")
    assert await replay(None) == (3, 0)
    records = await world.records(tmp_path / "bad", 3)
    assert {record["requestContext"]["requestId"] for record in records} == set(ids)
    assert {record["requestContext"]["approximateInvokeCount"] for record in records} == {1}
    assert (await world.overview())["endedInAll"] == 0
    assert await replay(None) == (0, 0)


async def test_a_replayed_event_is_as_young_as_a_new_one(world: World, tmp_path: Path) -> None:
    await world.caller.create()
    await world.config(age=60)
    request_id = await world.event()
    await world.pass_(5000, 1000)
    await world.config(age=61, bad=f"file://{tmp_path}/bad")
    assert await world.service.dispatcher.replay(None) == (1, 0)
    await world.pass_(60)
    assert world.times(request_id) == [0, 5000, 5060]
    [record] = await world.records(tmp_path / "bad")
    assert record["requestContext"]["condition"] == "EventAgeExceeded"


async def test_a_record_that_was_given_up_is_sent_again(world: World, tmp_path: Path) -> None:
    """A file is where its folder should be; the event itself is done."""
    await world.caller.create()
    (tmp_path / "good").write_text("in the way")
    await world.config(good=f"file://{tmp_path}/good")
    request_id = await world.event({})
    for tries in range(30):
        await world.quiet()
        [one] = await undelivered(world, tries)
        if one["givenUp"]:
            break
        world.clock.advance(300)
    assert one["givenUp"]
    assert (one["requestId"], one["function"], one["kind"]) == (request_id, "f", "success")
    assert "Error: " in one["reason"]
    (tmp_path / "good").unlink()
    world.clock.advance(4000)
    assert not (tmp_path / "good").exists()
    assert await world.service.dispatcher.replay([request_id]) == (0, 1)
    [record] = await world.records(tmp_path / "good")
    assert record["requestContext"]["requestId"] == request_id
    await world.until(lambda: not world.service._deliveries._tasks)
    overview = await world.overview()
    assert (overview["undelivered"], overview["undeliveredInAll"]) == ([], 0)
    assert len(world.starts) == 1


async def undelivered(world: World, tries: int) -> list[Any]:
    """What could not be sent, once it was tried more often than this."""
    while True:
        found: list[Any] = (await world.overview())["undelivered"]
        if found and found[0]["tries"] > tries:
            return found


async def test_what_waits_is_there_after_a_restart(tier: Tier, tmp_path: Path) -> None:
    """Its schedule goes on where it was."""
    clock, data = ManualClock(), tmp_path / "data"
    async with world_of(clock, data=data) as world:
        await world.caller.create(app=APP)
        await world.config(bad=f"file://{tmp_path}/bad")
        request_id = await world.event()
        await world.pass_(20)
    clock.advance(20)
    async with world_of(clock, data=data) as world:
        await world.pass_(139)
        assert world.times(request_id) == [20]
        await world.pass_(1)
        assert world.times(request_id) == [20, 140]
        [record] = await world.records(tmp_path / "bad")
        assert record["requestContext"]["approximateInvokeCount"] == 3
    async with world_of(clock, data=data) as world:
        await world.pass_(1000, 100)
        assert world.starts == []
