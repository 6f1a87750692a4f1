"""Records as real clients see them: moto's server as SQS, SNS, EventBridge and S3, and stock boto3 looking at the result."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.control.aws import OtherServices
from sandbox.control.server import Server
from sandbox.control.service import Service
from sandbox.core.limits import DELIVERY_AGE
from tests.conftest import SHORT, Tier, no_task_is_left
from tests.control.conftest import Caller
from tests.control.helpers import ARN, UUID
from tests.control.test_aws import moto
from tests.control.test_invoke import raw

__all__ = ["moto"]
pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
APP = """
def handler(event, context):
    if isinstance(event, dict) and "raise" in event:
        raise ValueError(event["raise"])
    return {"got": event}
"""


class World:
    """A service on a clock that only the test moves, with other services at `endpoint`. told: what people were told."""

    def __init__(self, caller: Caller, clock: ManualClock, endpoint: str, told: list[str]) -> None:
        self.caller, self.clock, self.endpoint, self.told = caller, clock, endpoint, told

    async def do(self, service: str, call: Callable[[Any], Any], endpoint: str | None = None) -> Any:
        """What a stock client of that service answers."""
        client = boto3.session.Session().client(
            service,
            endpoint_url=endpoint or self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        with closing(client):
            return await asyncio.to_thread(call, client)

    async def queue(self, name: str) -> tuple[str, str]:
        """A new queue: its URL and ARN."""
        url = (await self.do("sqs", lambda sqs: sqs.create_queue(QueueName=name)))["QueueUrl"]
        return url, f"arn:aws:sqs:us-east-1:123456789012:{name}"

    async def message(self, url: str) -> Any:
        """The next message, however long it takes; it is deleted."""

        def receive(sqs: Any) -> Any:
            found = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"])
            for message in found.get("Messages", []):
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            return found.get("Messages", [])

        async with asyncio.timeout(20):
            while not (messages := await self.do("sqs", receive)):
                await asyncio.sleep(0.01)
        [message] = messages
        return message

    async def config(self, **sides: str) -> None:
        targets = {side: {"Destination": target} for side, target in sides.items()}
        await self.caller.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=0, DestinationConfig=targets)

    async def event(self, event: Any, **fields: str) -> str:
        """The request id of an event that was accepted."""
        reply = await raw(self.caller, json.dumps(event).encode(), X_Amz_Invocation_Type="Event", **fields)
        assert reply.status == 202, reply
        return reply.headers["x-amzn-requestid"]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)

    async def overview(self) -> Any:
        return await self.caller.service._queue.overview()

    async def undelivered(self, count: int = 1, tries: int = 0) -> list[Any]:
        """What could not be sent, when it is so many, tried at least so often."""
        async with asyncio.timeout(20):
            while True:
                found: list[Any] = (await self.overview())["undelivered"]
                if len(found) == count and all(one["tries"] >= tries for one in found):
                    return found
                await asyncio.sleep(0.002)


@asynccontextmanager
async def opened(endpoint: str, data: Path | None = None, clock: ManualClock | None = None) -> AsyncIterator[World]:
    told: list[str] = []
    clock = clock or ManualClock()
    others = OtherServices(endpoint, "us-east-1")
    async with Service(Host(limits=SHORT, clock=clock), data=data, others=others, on_trouble=told.append) as service:
        server = Server(service)
        caller = Caller(await server.start(), service)
        try:
            yield World(caller, clock, endpoint, told)
        finally:
            caller.client.close()
            await server.close()
    no_task_is_left()


@pytest.fixture
async def world(tier: Tier, moto: str) -> AsyncIterator[World]:
    """There is a function `f`."""
    async with opened(moto) as world:
        await world.caller.create(app=APP)
        yield world


def check(text: str, kind: str, event: Any, request_id: str, error: str = "as asked") -> None:
    """A record of one attempt, whole."""
    record = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    good = kind == "Success"
    payload = record.pop("responsePayload")
    if good:
        assert payload == {"got": event}
    else:
        assert (payload["errorMessage"], payload["errorType"]) == (error, "ValueError")
    context = {"statusCode": 200, "executedVersion": "$LATEST"}
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{ARN}:function:f:$LATEST",
            "condition": kind,
            "approximateInvokeCount": 1,
        },
        "requestPayload": event,
        "responseContext": context if good else context | {"functionError": "Unhandled"},
    }


GOOD, BAD = {"é": ["<&>", 1.5]}, {"raise": "as asked"}


# ── SQS and SNS ──


@pytest.mark.catalogue("IN-106")
async def test_sqs_gets_the_record_and_the_trace(world: World) -> None:
    url, arn = await world.queue("records")
    await world.config(OnSuccess=arn, OnFailure=arn)
    for event, kind in ((GOOD, "Success"), (BAD, "RetriesExhausted")):
        request_id = await world.event(event, X_Amzn_Trace_Id=TRACE)
        message = await world.message(url)
        check(message["Body"], kind, event, request_id)
        assert message["Attributes"]["AWSTraceHeader"].startswith(TRACE.partition(";")[0])
        assert "MessageAttributes" not in message
    await world.until(lambda: not world.caller.service._deliveries._tasks)
    assert (await world.overview())["undelivered"] == []
    assert world.told == []


@pytest.mark.catalogue("IN-106")
async def test_sns_gets_the_record(world: World) -> None:
    """A queue that is subscribed to the topic sees it."""
    url, queue = await world.queue("subscribed")
    topic = (await world.do("sns", lambda sns: sns.create_topic(Name="records")))["TopicArn"]
    await world.do("sns", lambda sns: sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue))
    await world.config(OnSuccess=topic, OnFailure=topic)
    for event, kind in ((GOOD, "Success"), (BAD, "RetriesExhausted")):
        request_id = await world.event(event)
        notice = json.loads((await world.message(url))["Body"])
        assert notice["TopicArn"] == topic
        check(notice["Message"], kind, event, request_id)
        assert notice.get("MessageAttributes", {}) == {}


# ── EventBridge ──


@pytest.mark.catalogue("IN-106", "IN-109")
@pytest.mark.parametrize("bus", ["default", "of-my-own"])
async def test_eventbridge_gets_the_record(world: World, bus: str) -> None:
    """By a rule that puts it into a queue."""
    url, queue = await world.queue(f"rule-{bus}")
    arn = f"arn:aws:events:us-east-1:123456789012:event-bus/{bus}"

    def make(events: Any) -> None:
        if bus != "default":
            events.create_event_bus(Name=bus)
        events.put_rule(Name=f"to-{bus}", EventBusName=bus, EventPattern=json.dumps({"source": ["lambda"]}))
        events.put_targets(Rule=f"to-{bus}", EventBusName=bus, Targets=[{"Id": "q", "Arn": queue}])

    await world.do("events", make)
    await world.config(OnSuccess=arn, OnFailure=arn)
    for event, kind, side in ((GOOD, "Success", "Success"), (BAD, "RetriesExhausted", "Failure")):
        request_id = await world.event(event)
        found = json.loads((await world.message(url))["Body"])
        assert found["source"] == "lambda"
        assert found["detail-type"] == f"Lambda Function Invocation Result - {side}"
        assert found["resources"] == [arn, f"{ARN}:function:f:$LATEST"]
        check(json.dumps(found["detail"]), kind, event, request_id)


@pytest.mark.catalogue("IN-109")
async def test_a_bus_that_is_not_there_is_not_a_success(world: World) -> None:
    """EventBridge answers 200 with a count of failures, or an error: the record is kept, either way."""
    arn = "arn:aws:events:us-east-1:123456789012:event-bus/nowhere"
    await world.config(OnSuccess=arn)
    request_id = await world.event(GOOD)
    [one] = await world.undelivered(tries=1)
    assert (one["requestId"], one["target"], one["kind"]) == (request_id, arn, "success")


# ── S3 ──


@pytest.mark.catalogue("IN-106", "IN-108")
async def test_s3_gets_the_record_of_a_failure(world: World) -> None:
    await world.do("s3", lambda s3: s3.create_bucket(Bucket="failures"))
    await world.config(OnFailure="arn:aws:s3:::failures")
    ids = {await world.event({**BAD, "number": number}) for number in range(2)}

    def objects(s3: Any) -> dict[str, Any]:
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket="failures").get("Contents", [])]
        return {key: s3.get_object(Bucket="failures", Key=key) for key in keys}

    def read(s3: Any) -> dict[str, bytes]:
        found = {}
        for key, one in objects(s3).items():
            with closing(one["Body"]) as body:
                found[key] = body.read()
        return found

    async with asyncio.timeout(20):
        while len(found := await world.do("s3", read)) < 2:
            await asyncio.sleep(0.01)
    for key, body in found.items():
        day, name = r"2023/11/14", r"2023-11-14T\d\d\.\d\d\.\d\d"  # the clock's
        assert re.fullmatch(rf"aws/lambda/async/f/{day}/{name}-{UUID}", key)
        record = json.loads(body)
        ids.remove(record["requestContext"]["requestId"])
        check(body.decode(), "RetriesExhausted", record["requestPayload"], record["requestContext"]["requestId"])
    assert ids == set()


# ── dead-letter targets ──


async def dead_letter(world: World, target: str) -> None:
    await world.caller.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=0)
    await world.caller.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": target})
    await world.caller.active("f")


def attributes(request_id: str, text: str, value: str, kind: str) -> dict[str, dict[str, str]]:
    """As SQS shows them, or as SNS does in a notice."""
    return {
        "RequestID": {kind: "String", value: request_id},
        "ErrorCode": {kind: "Number", value: "200"},
        "ErrorMessage": {kind: "String", value: text},
    }


@pytest.mark.catalogue("IN-107")
async def test_a_dead_letter_queue_gets_the_event_and_three_attributes(world: World) -> None:
    url, arn = await world.queue("dead")
    await dead_letter(world, arn)
    for text, seen in (("as asked", "as asked"), ("é" * 2000, "é" * 512)):  # 1 KB of it
        body = f'{{"raise":  "{text}", "number": 1.0}}'.encode()
        reply = await raw(world.caller, body, X_Amz_Invocation_Type="Event")
        message = await world.message(url)
        assert message["Body"] == body.decode()  # with its spaces
        assert message["MessageAttributes"] == attributes(reply.headers["x-amzn-requestid"], seen, "StringValue", "DataType")
    await world.event(GOOD)
    await world.until(lambda: not world.caller.service.dispatcher._lanes)
    assert (await world.do("sqs", lambda sqs: sqs.receive_message(QueueUrl=url))).get("Messages") is None


@pytest.mark.catalogue("IN-107")
async def test_what_sqs_refuses_in_a_text_is_not_sent(world: World) -> None:
    """Control characters: a function's coloured error must not keep its event from its dead-letter queue."""
    url, arn = await world.queue("coloured")
    await dead_letter(world, arn)
    await world.event({"raise": "\x1b[31mred\x00\ttab\nline\uffff"})
    text = (await world.message(url))["MessageAttributes"]["ErrorMessage"]["StringValue"]
    assert re.fullmatch("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+", text), ascii(text)
    assert "red" in text
    assert "\ttab\nline" in text


@pytest.mark.catalogue("IN-107")
async def test_a_dead_letter_topic_gets_the_event_and_three_attributes(world: World) -> None:
    url, queue = await world.queue("dead-subscribed")
    topic = (await world.do("sns", lambda sns: sns.create_topic(Name="dead")))["TopicArn"]
    await world.do("sns", lambda sns: sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue))
    await dead_letter(world, topic)
    request_id = await world.event(BAD)
    notice = json.loads((await world.message(url))["Body"])
    assert json.loads(notice["Message"]) == BAD
    assert notice["MessageAttributes"] == attributes(request_id, "as asked", "Value", "Type")


@pytest.mark.catalogue("IN-106", "IN-107")
async def test_an_event_that_never_ran_has_an_error_code_of_its_own(world: World) -> None:
    """Both are told: the destination and the dead-letter queue."""
    url, arn = await world.queue("never-ran")
    dead_url, dead = await world.queue("never-ran-dead")
    await world.config(OnFailure=arn)
    await world.caller.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": dead})
    await world.caller.active("f")
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    request_id = await world.event(GOOD)
    record = json.loads((await world.message(url))["Body"])
    assert record["requestContext"]["condition"] == "ZeroReservedConcurrency"
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert {"responseContext", "responsePayload"} & set(record) == set()
    message = await world.message(dead_url)
    assert json.loads(message["Body"]) == GOOD
    said = message["MessageAttributes"]
    assert said["RequestID"]["StringValue"] == request_id
    assert said["ErrorCode"] == {"DataType": "Number", "StringValue": "429"}


# ── a destination that does not take it ──


async def test_a_target_that_is_made_later_gets_its_record(world: World) -> None:
    """It is told once that there is none; the tries are ever further apart."""
    arn = "arn:aws:sqs:us-east-1:123456789012:late"
    await world.config(OnSuccess=arn)
    request_id = await world.event(GOOD)
    for tries in (1, 2, 3):
        wait = await asleep(world, tries)
        if tries == 3:
            url, _ = await world.queue("late")
        world.clock.advance(wait)
    check((await world.message(url))["Body"], "Success", GOOD, request_id)
    await world.undelivered(0)
    [line] = world.told
    for word in ("success", "function f", arn, "NonExistentQueue"):
        assert word in line
    assert "\n" not in line


async def asleep(world: World, tries: int, count: int = 1) -> float:
    """Waits until so many deliveries have been tried so often, and wait for the clock; how long they do."""
    found = await world.undelivered(count, tries)
    assert [(one["tries"], one["givenUp"]) for one in found] == [(tries, 0)] * count
    wait = min(2.0 ** (tries - 1), 300.0)
    until = world.clock.now() + wait
    async with asyncio.timeout(20):
        while [abs(when - until) < 1e-6 for when in due_times(world)].count(True) < count:
            await asyncio.sleep(0.001)
    return wait


def due_times(world: World) -> list[float]:
    return [when for when, _, handle in world.clock._timers if handle.callback is not None]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


@asynccontextmanager
async def forwarded(port: int, endpoint: str) -> AsyncIterator[None]:
    """What comes to this port goes to the endpoint."""
    host, _, there = endpoint.removeprefix("http://").partition(":")
    tasks: set[asyncio.Task[Any] | None] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        to_reader, to_writer = await asyncio.open_connection(host, int(there))
        try:
            await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))
        except ConnectionError:
            pass
        finally:
            to_writer.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


async def test_a_service_that_is_down_at_first(tier: Tier, moto: str) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(opened(f"http://127.0.0.1:{port}"))
        await world.caller.create(app=APP)
        world.endpoint = moto
        url, arn = await world.queue("down")
        await world.config(OnSuccess=arn, OnFailure=arn)
        ids = [await world.event({"number": number}) for number in range(3)]
        await world.undelivered(3)
        await world.until(lambda: bool(world.told) and not world.caller.service._deliveries._tasks)
        [line] = world.told  # one service, one line
        assert arn in line
        assert "tried again" in line
        async with forwarded(port, moto):
            world.clock.advance(1)
            bodies = [json.loads((await world.message(url))["Body"]) for _ in ids]
            await world.undelivered(0)
        assert {body["requestContext"]["requestId"] for body in bodies} == set(ids)


async def test_a_service_that_never_comes(tier: Tier, moto: str, tmp_path: Path) -> None:
    """Given up at its age, kept over a restart, told; when the service is there, it is replayed."""
    port, clock = free_port(), ManualClock()
    endpoint = f"http://127.0.0.1:{port}"
    arn = "arn:aws:sqs:us-east-1:123456789012:never"
    async with opened(endpoint, tmp_path / "data", clock) as world:
        await world.caller.create(app=APP)
        await world.config(OnSuccess=arn)
        began = clock.now()
        request_id = await world.event(GOOD)
        tries = 0
        while clock.now() - began <= DELIVERY_AGE - 300:
            tries += 1
            clock.advance(await asleep(world, tries))
        tries += 1
        [one] = await world.undelivered(tries=tries)
        assert one["givenUp"] == 1
        assert clock.now() - began == 511 + 10 * 300
        await world.until(lambda: len(world.told) == 2)
        assert "tried again" in world.told[0]
        assert "given up" in world.told[1]
        assert request_id in world.told[1]
        assert not world.caller.service._deliveries._tasks
    async with opened(endpoint, tmp_path / "data", clock) as world:
        [one] = await world.undelivered(1)
        assert (one["requestId"], one["givenUp"], one["tries"]) == (request_id, 1, tries)
        assert await world.caller.service.dispatcher.replay([str(uuid.uuid4())]) == (0, 0)
        async with forwarded(port, moto):
            world.endpoint = moto
            url, _ = await world.queue("never")
            assert await world.caller.service.dispatcher.replay([request_id]) == (0, 1)
            check((await world.message(url))["Body"], "Success", GOOD, request_id)
            await world.undelivered(0)
        assert await world.caller.service.dispatcher.replay(None) == (0, 0)


async def test_a_folder_that_cannot_be_written_gets_its_record_later(world: World, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    folder = tmp_path / "taken" / "records"
    await world.config(OnSuccess=f"file://{folder}")
    request_id = await world.event(GOOD)
    wait = await asleep(world, 1)
    [line] = world.told
    assert str(folder) in line
    (tmp_path / "taken").unlink()
    world.clock.advance(wait)
    await world.undelivered(0)
    [path] = folder.iterdir()
    check(path.read_text(), "Success", GOOD, request_id)


async def test_one_target_that_is_down_does_not_hold_up_another(world: World) -> None:
    url, arn = await world.queue("up")
    await world.config(OnSuccess=arn, OnFailure="arn:aws:sqs:us-east-1:123456789012:not-made")
    for _ in range(12):  # more than are sent at a time
        await world.event(BAD)
    await world.undelivered(12)
    request_id = await world.event(GOOD)
    check((await world.message(url))["Body"], "Success", GOOD, request_id)


class Refuses(BaseHTTPRequestHandler):
    """Another service that keeps connections open."""

    protocol_version = "HTTP/1.1"
    begun = ended = 0

    def setup(self) -> None:
        type(self).begun += 1
        super().setup()

    def finish(self) -> None:
        super().finish()
        type(self).ended += 1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


async def test_a_service_that_was_closed_has_closed_its_connections(tier: Tier) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            async with opened(f"http://127.0.0.1:{server.server_port}") as world:
                await world.caller.create(app=APP)
                await world.config(OnSuccess="arn:aws:sqs:us-east-1:123456789012:q")
                await world.event(GOOD)
                await asleep(world, 1)
                assert (Refuses.begun, Refuses.ended) == (1, 0)
            for _ in range(1000):
                if Refuses.ended:
                    break
                await asyncio.sleep(0.002)
            ended = Refuses.ended
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()
    assert ended == 1, "its connection is still open"
