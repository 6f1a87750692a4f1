"""When events are tried, on a clock that only the test moves; the queue's waits are on the same one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.control.server import Server
from sandbox.control.service import Service
from sandbox.core.limits import EVENT_AGE, EVENT_LIMIT, EVENTS_AT_A_TIME
from sandbox.telemetry.journal import Record
from tests.conftest import SHORT, Tier, no_task_is_left, python_of
from tests.control.conftest import APP, Caller, zip_of
from tests.control.helpers import ARN, check
from tests.control.test_invoke import GOES_ON, connected, raw, refusal, until

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

FAILS = {"do": "raise"}
COUNTS = """
import os
def handler(event, context):
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{event}\\n")
"""

HELD = """
import os, time
def handler(event, context):
    open(event["begun"], "w").write("x")
    while not os.path.exists(event["go"]):
        time.sleep(0.005)
"""


class World:
    """starts: when, in seconds since it began, which request was given to a function. told: what people were told."""

    def __init__(self, caller: Caller, clock: ManualClock, told: list[str]) -> None:
        self.caller, self.clock, self.told = caller, clock, told
        self.service = caller.service
        self.starts: list[tuple[float, str]] = []
        self._began = clock.now()
        self.service.host.journal.subscribe(self._started, ["platform.start"])

    def _started(self, record: Record) -> None:
        self.starts.append((self.since, record.record["requestId"]))

    @property
    def since(self) -> float:
        return self.clock.now() - self._began

    def times(self, request_id: str) -> list[float]:
        return [at for at, who in self.starts if who == request_id]

    async def event(self, event: Any = FAILS, name: str = "f", **fields: str) -> str:
        """Its request id, when it has been accepted."""
        reply = await raw(self.caller, json.dumps(event).encode(), name, X_Amz_Invocation_Type="Event", **fields)
        assert reply.status == 202, reply
        return reply.headers["x-amzn-requestid"]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)

    async def quiet(self) -> None:
        """Waits until nobody has anything to do before the clock moves."""
        dispatcher, queue = self.service.dispatcher, self.service._queue
        await self.until(lambda: not dispatcher._tasks and not queue._waiting and queue._committing is None)

    async def pass_(self, seconds: float, step: float = 1.0) -> None:
        """Time goes by, in steps; what is due is done in between."""
        await self.quiet()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await self.quiet()

    async def overview(self) -> Any:
        await self.quiet()
        return await self.service._queue.overview()

    async def wait(self) -> float | None:
        """How many seconds it is until the next attempt; None if nothing is queued."""
        await self.quiet()
        whens = []
        for lane in self.service.dispatcher._lanes.values():
            whens += [when for when, _ in lane.later[:1]] + ([lane.paused_until] if lane.ready else [])
        assert bool(whens) == bool((await self.overview())["queued"])
        return round(min(whens) - self.clock.now(), 3) if whens else None

    async def config(self, name: str = "f", qualifier: str | None = None, **given: Any) -> None:
        extra = {"Qualifier": qualifier} if qualifier else {}
        given = {"retries": None, "age": None, "good": None, "bad": None} | given
        values = {"MaximumRetryAttempts": given["retries"], "MaximumEventAgeInSeconds": given["age"]}
        sides = {"OnSuccess": given["good"], "OnFailure": given["bad"]}
        targets = {side: {"Destination": str(target)} for side, target in sides.items() if target is not None}
        extra |= {name: value for name, value in values.items() if value is not None}
        await self.caller.put_function_event_invoke_config(FunctionName=name, DestinationConfig=targets, **extra)

    async def records(self, folder: Path, count: int = 1) -> list[Any]:
        """What arrived at file://folder, when it is so much."""
        await self.quiet()
        await self.until(lambda: len(list(folder.glob("*.json"))) >= count)
        files = sorted(folder.glob("*.json"))
        assert len(files) == count, files
        return [json.loads(file.read_text()) for file in files]

    def throttle(self, on: bool = True) -> None:
        """Whether nobody gets an environment."""
        self.service.host.account.limit = 0 if on else 1000


@asynccontextmanager
async def world_of(clock: ManualClock, *, lean: bool = True, **options: Any) -> AsyncIterator[World]:
    """A served service on this clock. options: the service's."""
    told: list[str] = []
    async with Service(Host(limits=SHORT, clock=clock), on_trouble=told.append, **options) as service:
        server = Server(service, lean=lean)
        caller = Caller(await server.start(), service)
        try:
            yield World(caller, clock, told)
        finally:
            caller.client.close()
            await server.close()
    no_task_is_left()
    assert not [text for text in told if "mistake of lambda-sandbox" in text]


@pytest.fixture
def lean() -> bool:
    return True


@pytest.fixture
async def world(tier: Tier, lean: bool) -> AsyncIterator[World]:
    async with world_of(ManualClock(), lean=lean) as world:
        yield world


# ── 202 ──


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "aiohttp"])
@pytest.mark.catalogue("IN-004", "IN-005", "IN-100")
async def test_an_event_is_accepted_before_it_is_done(world: World, tmp_path: Path, lean: bool) -> None:
    """And a log that was asked for is not given."""
    await world.caller.create(app=GOES_ON)
    files = {name: str(tmp_path / name) for name in ("begun", "go", "done")}
    fields = {"X_Amz_Invocation_Type": "Event", "X_Amz_Log_Type": "Tail"}
    reply = await raw(world.caller, json.dumps(files).encode(), **fields)
    assert (reply.status, reply.body, reply.headers["content-length"]) == (202, b"", "0")
    said = set(reply.headers)
    assert not said & {"x-amz-executed-version", "x-amz-function-error", "x-amz-log-result", "content-type"}
    assert {"x-amzn-requestid", "x-amzn-trace-id"} <= said
    await until(tmp_path / "begun")
    assert not (tmp_path / "done").exists()
    (tmp_path / "go").touch()
    await until(tmp_path / "done")
    await world.quiet()
    assert [who for _, who in world.starts] == [reply.headers["x-amzn-requestid"]]
    refused = await raw(world.caller, name="nobody", X_Amz_Invocation_Type="Event")
    assert (refused.status, refused.headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    refused = await raw(world.caller, b"{", X_Amz_Invocation_Type="Event")
    assert (refused.status, refused.headers["x-amzn-errortype"]) == (400, "InvalidRequestContentException")


@pytest.mark.catalogue("IN-100")
async def test_boto3_sees_a_202_and_nothing_else(world: World) -> None:
    await world.caller.create()
    answer = await world.caller.invoke(FunctionName="f", InvocationType="Event", LogType="Tail", Payload="{}")
    assert (answer.pop("StatusCode"), answer.pop("Payload").read(), answer) == (202, b"", {})


@pytest.mark.catalogue("IN-111")
async def test_the_old_way_to_invoke_with_an_event(world: World) -> None:
    await world.caller.create()
    async with connected(world.caller) as connection:
        reply = await connection.ask("POST", "/2014-11-13/functions/f/invoke-async/", b'{"a": 1}')
        assert (reply.status, reply.json()) == (202, {"Status": 202})
        await world.until(lambda: world.starts)
        refused = await connection.ask("POST", "/2014-11-13/functions/f/invoke-async/", b"{")
        assert (refused.status, refused.headers["x-amzn-errortype"]) == (400, "InvalidRequestContentException")
    answer = await world.caller.invoke_async(FunctionName="f", InvokeArgs=b"{}")
    assert answer == {"Status": 202}
    await world.until(lambda: len(world.starts) == 2)
    assert (await refusal(world.caller.invoke_async(FunctionName="nobody", InvokeArgs=b"{}")))[:2] == (
        404,
        "ResourceNotFoundException",
    )
    await world.quiet()


SIZE = """
import os
def handler(event, context):
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{len(event)}\\n")
"""


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "aiohttp"])
@pytest.mark.catalogue("IN-009", "NF-006")
async def test_the_largest_event(world: World, tmp_path: Path, lean: bool) -> None:
    """1 MiB, quotes included; one byte more is too much."""
    await world.caller.create(app=SIZE, Environment={"Variables": {"SEEN": str(tmp_path / "seen")}})
    await world.event("x" * (1024 * 1024 - 2))
    await world.quiet()
    assert (tmp_path / "seen").read_text() == f"{EVENT_LIMIT - 2}\n"
    for more in (1, 6 * 1024 * 1024):
        body = b'"' + b"x" * (EVENT_LIMIT - 2 + more) + b'"'
        reply = await raw(world.caller, body, X_Amz_Invocation_Type="Event")
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (413, "RequestTooLargeException")
    assert (await raw(world.caller, b'"' + b"x" * (EVENT_LIMIT - 1) + b'"')).status == 200


# ── retries ──


@pytest.mark.parametrize(("retries", "times"), [(None, [0, 60, 180]), (2, [0, 60, 180]), (1, [0, 60]), (0, [0])])
@pytest.mark.catalogue("IN-101", "IN-102")
async def test_an_event_is_tried_again_after_one_and_two_minutes(world: World, retries: int | None, times: list[int]) -> None:
    await world.caller.create()
    if retries is not None:
        await world.config(retries=retries)
    request_id = await world.event()
    await world.pass_(400)
    assert world.times(request_id) == times
    assert (await world.overview())["queued"] == []


@pytest.mark.catalogue("IN-101")
async def test_an_attempt_that_goes_well_is_the_last(world: World, tmp_path: Path) -> None:
    flaky = "import os\ndef handler(event, context):\n    os.rename(event, event + '.2')\n"
    await world.caller.create(app=flaky)
    request_id = await world.event(str(tmp_path / "file"))
    await world.pass_(30)
    (tmp_path / "file").touch()
    await world.pass_(370)
    assert world.times(request_id) == [0, 60]
    overview = await world.overview()
    assert (overview["queued"], overview["ended"]) == ([], [])


@pytest.mark.catalogue("IN-101")
async def test_a_timeout_is_a_failure_too(world: World) -> None:
    """The wait begins at the end of the attempt."""
    await world.caller.create(Timeout=5)
    request_id = await world.event({"do": "sleep", "seconds": 1000})
    for number in range(1, 4):
        await world.until(partial(lambda count: len(world.times(request_id)) == count, number))
        world.clock.advance(5)
        await world.quiet()
        wait = {1: 60, 2: 120}.get(number)
        assert await world.wait() == wait
        world.clock.advance(wait or 1000)
    await world.quiet()
    assert world.times(request_id) == [0, 65, 190]


@pytest.mark.parametrize(
    ("given", "where", "value", "bound"),
    [
        ("MaximumRetryAttempts", "maximumRetryAttempts", 3, "less than or equal to 2"),
        ("MaximumEventAgeInSeconds", "maximumEventAgeInSeconds", 59, "greater than or equal to 60"),
        ("MaximumEventAgeInSeconds", "maximumEventAgeInSeconds", 21601, "less than or equal to 21600"),
    ],
)
@pytest.mark.catalogue("IN-102")
async def test_bounds_of_retries_and_age(world: World, given: str, where: str, value: int, bound: str) -> None:
    await world.caller.create()
    start = f"1 validation error detected: Value '{value}' at '{where}'"
    text = f"{start} failed to satisfy constraint: Member must have value {bound}"
    call = world.caller.put_function_event_invoke_config(FunctionName="f", **{given: value})
    await check(call, 400, "ValidationException", text)


LISTENS = """#!{python}
import http.client, json, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    connection.request("GET", "/2018-06-01/runtime/invocation/next")
    answer = connection.getresponse()
    body = answer.read().decode()
    fields = {{name.lower(): value for name, value in answer.getheaders()}}
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps([fields, body]) + "\\n")
    path = "/2018-06-01/runtime/invocation/" + fields["lambda-runtime-aws-request-id"] + "/error"
    connection.request("POST", path, b'{{"errorMessage": "no", "errorType": "No"}}')
    connection.getresponse().read()
"""


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "aiohttp"])
@pytest.mark.catalogue("IN-006", "IN-011", "IN-104")
async def test_what_the_attempts_of_an_event_share(world: World, tmp_path: Path, tier: Tier, lean: bool) -> None:
    """The request id, the trace and the bytes; not the invocation id. A client context is for callers who wait."""
    code = {"ZipFile": zip_of(bootstrap=LISTENS.format(python=python_of(tier)))}
    variables = {"Variables": {"SEEN": str(tmp_path / "seen")}}
    await world.caller.create(Runtime="provided.al2023", Handler="x", Code=code, Environment=variables)
    wanted = "01234567-89ab-4def-8123-456789abcdef"
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    fields = {"x_amzn_requestid": wanted, "x_amzn_trace_id": trace, "x_amz_client_context": "eyJjdXN0b20iOiB7fX0="}
    event = b'{ "n": 1.10, "m":1e400}'
    reply = await raw(world.caller, event, X_Amz_Invocation_Type="Event", **fields)
    assert (reply.status, reply.headers["x-amzn-requestid"]) == (202, wanted)
    await world.pass_(180, 60)
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [body for _, body in seen] == [event.decode()] * 3
    heads = [head for head, _ in seen]
    assert [head["lambda-runtime-aws-request-id"] for head in heads] == [wanted] * 3
    assert len({head["lambda-runtime-invocation-id"] for head in heads}) == 3
    assert {head["lambda-runtime-trace-id"].partition(";")[0] for head in heads} == {trace.partition(";")[0]}
    assert not any("lambda-runtime-client-context" in head for head in heads)
    assert {head["lambda-runtime-invoked-function-arn"] for head in heads} == {f"{ARN}:function:f"}


POISON = """
import os, signal
def handler(event, context):
    if event == "exit":
        os._exit(3)
    if event == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "memory":
        return len(bytearray(8 << 30))
    return os.getpid()
"""


@pytest.mark.parametrize("poison", ["exit", "kill", "memory"])
@pytest.mark.catalogue("IN-101", "IN-106")
async def test_an_event_that_ends_the_runtime_each_time(world: World, tmp_path: Path, poison: str) -> None:
    """Others are done meanwhile."""
    await world.caller.create(app=POISON, MemorySize=128)
    await world.config(bad=f"file://{tmp_path}/bad")
    request_id = await world.event(poison)
    await world.quiet()
    well = await world.event("well")
    await world.pass_(400, 20)
    assert world.times(request_id) == [0, 60, 180]
    assert world.times(well) == [0]
    [record] = await world.records(tmp_path / "bad")
    context = record["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 3)
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert record["responsePayload"]["errorType"]


# ── throttles ──


@pytest.mark.catalogue("IN-103")
async def test_waits_of_an_event_that_is_throttled(world: World, tmp_path: Path) -> None:
    """1 s, twice as long each time, 5 min at most; and none of that is an attempt."""
    await world.caller.create()
    await world.config(good=f"file://{tmp_path}/good")
    world.throttle()
    request_id = await world.event({})
    waits = []
    for _ in range(12):
        waits.append(await world.wait())
        world.clock.advance(waits[-1] or 1000)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert await world.wait() == 300
    assert [one["failed"] for one in (await world.overview())["queued"]] == [0]
    world.throttle(False)
    before = world.since
    await world.pass_(310)
    assert world.times(request_id) == [before + 300]
    [record] = await world.records(tmp_path / "good")
    assert record["requestContext"]["approximateInvokeCount"] == 1


@pytest.mark.catalogue("IN-101", "IN-103")
async def test_throttles_are_no_retries(world: World, tmp_path: Path) -> None:
    """And after a failure they begin anew at one second."""
    await world.caller.create()
    await world.config(bad=f"file://{tmp_path}/bad")
    world.throttle()
    request_id = await world.event()
    await world.pass_(6)  # at 0, 1 and 3; the next one at 7
    world.throttle(False)
    await world.pass_(30)
    assert await world.wait() == 67 - 36
    world.throttle()
    await world.pass_(31)  # at 67
    assert await world.wait() == 1
    await world.pass_(1)
    assert await world.wait() == 2
    world.throttle(False)
    await world.pass_(500)
    assert world.times(request_id) == [7, 70, 190]
    [record] = await world.records(tmp_path / "bad")
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3


@pytest.mark.parametrize("age", [60, 100, None])
@pytest.mark.catalogue("IN-102", "IN-103", "IN-106", "IN-110")
async def test_an_event_that_is_throttled_until_it_is_too_old(world: World, tmp_path: Path, age: int | None) -> None:
    """To the second. Nothing is said of an answer, for there was none."""
    await world.caller.create()
    await world.config(age=age, bad=f"file://{tmp_path}/bad")
    world.throttle()
    await world.event({"a": 1})
    until_then = age or EVENT_AGE
    while world.since < until_then:
        wait = await world.wait()
        assert 0 < (wait or 0) <= 300
        world.clock.advance(wait or 300)
    assert world.since == until_then
    assert await world.wait() is None
    assert world.starts == []
    [record] = await world.records(tmp_path / "bad")
    context = record["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("EventAgeExceeded", 0)
    assert not {"responseContext", "responsePayload"} & set(record)


@pytest.mark.parametrize(
    ("age", "times", "condition"),
    [
        (60, [0], "EventAgeExceeded"),
        (61, [0, 60], "EventAgeExceeded"),
        (180, [0, 60], "EventAgeExceeded"),
        (181, [0, 60, 180], "RetriesExhausted"),
    ],
)
@pytest.mark.catalogue("IN-101", "IN-102", "IN-106")
async def test_a_retry_that_would_come_too_late(
    world: World, tmp_path: Path, age: int, times: list[int], condition: str
) -> None:
    """It is known at the failure before, and told then."""
    await world.caller.create()
    await world.config(age=age, bad=f"file://{tmp_path}/bad")
    request_id = await world.event()
    for wait in [60, 120][: len(times) - 1]:
        assert await world.wait() == wait
        await world.pass_(wait, wait)
    assert await world.wait() is None
    assert world.times(request_id) == times
    [record] = await world.records(tmp_path / "bad")
    context, answer = record["requestContext"], record["responseContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == (condition, len(times))
    assert answer == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert record["responsePayload"]["errorType"] == "ValueError"


@pytest.mark.catalogue("IN-063", "IN-106", "IN-110")
async def test_a_reservation_of_none(world: World, tmp_path: Path) -> None:
    """An event is accepted, and ends at once; one that waits ends when its time comes."""
    await world.caller.create()
    await world.config(bad=f"file://{tmp_path}/bad")
    first = await world.event()
    await world.pass_(1)
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    second = await world.event({"a": 1})
    [record] = await world.records(tmp_path / "bad")
    context = {
        "requestId": second,
        "functionArn": f"{ARN}:function:f:$LATEST",
        "condition": "ZeroReservedConcurrency",
        "approximateInvokeCount": 0,
    }
    assert (record.pop("version"), record.pop("timestamp")[-1]) == ("1.0", "Z")
    assert record == {"requestContext": context, "requestPayload": {"a": 1}}
    await world.pass_(59)
    other = (await world.records(tmp_path / "bad", 2))[1]["requestContext"]
    assert (other["requestId"], other["condition"], other["approximateInvokeCount"]) == (first, "ZeroReservedConcurrency", 1)
    assert [who for _, who in world.starts] == [first]
    assert await world.wait() is None


# ── settings, and functions that change ──


@pytest.mark.catalogue("IN-101", "IN-106")
async def test_each_qualifier_has_settings_of_its_own(world: World, tmp_path: Path) -> None:
    caller = world.caller
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    await caller.create_alias(FunctionName="f", Name="bare", FunctionVersion="1")
    for qualifier, retries in (("$LATEST", 0), ("1", 1), ("live", 2)):
        await world.config("f", qualifier, retries=retries, bad=f"file://{tmp_path}/{qualifier}")
    ids = {name: await world.event(name=name) for name in ("f", "f:$LATEST", "f:1", "f:live", "f:bare")}
    await world.pass_(400, 20)
    counts = {name: len(world.times(request_id)) for name, request_id in ids.items()}
    assert counts == {"f": 1, "f:$LATEST": 1, "f:1": 2, "f:live": 3, "f:bare": 3}
    told = {}
    for qualifier, count in (("$LATEST", 2), ("1", 1), ("live", 1)):
        for record in await world.records(tmp_path / qualifier, count):
            arn, version = record["requestContext"]["functionArn"], record["responseContext"]["executedVersion"]
            told[record["requestContext"]["requestId"]] = (arn.removeprefix(f"{ARN}:function:"), version)
    assert told == {
        ids["f"]: ("f:$LATEST", "$LATEST"),
        ids["f:$LATEST"]: ("f:$LATEST", "$LATEST"),
        ids["f:1"]: ("f:1", "1"),
        ids["f:live"]: ("f:live", "1"),
    }


@pytest.mark.catalogue("IN-101", "IN-102", "IN-106")
async def test_settings_that_change_while_an_event_waits(world: World, tmp_path: Path) -> None:
    """Those hold that are there at an attempt."""
    await world.caller.create()
    await world.config(retries=1)
    first = await world.event()
    await world.pass_(30)
    await world.config(retries=2, bad=f"file://{tmp_path}/bad")
    await world.pass_(60)
    assert world.times(first) == [0, 60]
    await world.config(retries=0, bad=f"file://{tmp_path}/bad")
    await world.pass_(200)
    assert world.times(first) == [0, 60, 180]
    await world.records(tmp_path / "bad")
    await world.caller.delete_function_event_invoke_config(FunctionName="f")
    world.throttle()
    await world.event()
    await world.pass_(100)
    await world.config(age=60, bad=f"file://{tmp_path}/bad")
    await world.pass_(30)
    ended = (await world.records(tmp_path / "bad", 2))[1]["requestContext"]
    assert ended["condition"] == "EventAgeExceeded"


@pytest.mark.catalogue("IN-101", "CP-028")
async def test_a_retry_meets_the_new_code(world: World) -> None:
    await world.caller.create()
    request_id = await world.event()
    await world.pass_(10)
    await world.caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py="def handler(event, context): return 1"))
    await world.caller.active("f")
    await world.pass_(400, 10)
    assert world.times(request_id) == [0, 60]
    overview = await world.overview()
    assert (overview["queued"], overview["ended"]) == ([], [])


@pytest.mark.catalogue("IN-101", "CP-028")
async def test_no_event_is_lost_by_updates(world: World, tmp_path: Path) -> None:
    await world.caller.create(app=COUNTS, Environment={"Variables": {"SEEN": str(tmp_path / "seen")}})
    for number in range(40):
        await world.event(number)
        if number % 10 == 5:
            await world.caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=f"{COUNTS}\n# {number}"))
    await world.caller.active("f")
    await world.pass_(10)
    assert sorted(map(int, (tmp_path / "seen").read_text().split())) == list(range(40))
    assert await world.wait() is None


@pytest.mark.catalogue("IN-101")
async def test_a_function_that_is_deleted_with_events_queued(world: World, tmp_path: Path) -> None:
    """Another one by its name does not get them, unless somebody wants it so."""
    await world.caller.create()
    await world.config(bad=f"file://{tmp_path}/bad")
    ids = [await world.event() for _ in range(3)]
    await world.pass_(10)
    world.throttle()
    ids.append(await world.event())
    await world.quiet()
    await world.caller.delete_function(FunctionName="f")
    assert [text for text in world.told if text.startswith("function f was deleted: 4 events")]
    world.throttle(False)
    await world.caller.create(app="def handler(event, context): return 1")
    assert await world.wait() is None
    await world.pass_(400, 10)
    assert len(world.starts) == 3
    overview = await world.overview()
    assert {one["requestId"]: (one["condition"], one["failures"]) for one in overview["ended"]} == {
        request_id: ("FunctionGone", 1 if request_id != ids[3] else 0) for request_id in ids
    }
    assert not (tmp_path / "bad").exists()
    assert await world.service.dispatcher.replay(ids[:2]) == (2, 0)
    await world.quiet()
    assert {who for _, who in world.starts[3:]} == set(ids[:2])
    assert len(world.starts) == 5
    assert (await world.overview())["endedInAll"] == 2


@pytest.mark.catalogue("IN-101")
async def test_a_function_that_is_deleted_while_it_has_an_event(world: World, tmp_path: Path) -> None:
    """It fails after that: the function that has its name by then does not get it."""
    await world.caller.create(app=HELD + "    raise ValueError\n", Timeout=30)
    request_id = await world.event({"begun": str(tmp_path / "begun"), "go": str(tmp_path / "go")})
    await until(tmp_path / "begun")
    await world.caller.delete_function(FunctionName="f")
    await world.caller.create(app="def handler(event, context): return 1")
    (tmp_path / "go").touch()
    await world.pass_(400, 10)
    assert world.times(request_id) == [0]
    overview = await world.overview()
    assert [(one["requestId"], one["condition"]) for one in overview["ended"]] == [(request_id, "FunctionGone")]
    assert overview["queued"] == []
    assert world.service.dispatcher._accepted == {}, "what has ended is remembered"


@pytest.mark.catalogue("IN-101")
async def test_an_alias_that_is_deleted_with_events_queued(world: World) -> None:
    caller = world.caller
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    request_id, other = await world.event(name="f:live"), await world.event()
    await world.pass_(10)
    await caller.delete_alias(FunctionName="f", Name="live")
    await world.pass_(400, 10)
    assert (world.times(request_id), world.times(other)) == ([0], [0, 60, 180])
    ended = {one["requestId"]: one for one in (await world.overview())["ended"]}
    assert (ended[request_id]["condition"], ended[request_id]["failures"]) == ("FunctionGone", 1)
    assert ended[request_id]["reason"] == f"Function not found: {ARN}:function:f:live"
    assert ended[other]["condition"] == "RetriesExhausted"


async def test_a_function_that_can_never_run_keeps_its_events_until_they_are_too_old(world: World, tmp_path: Path) -> None:
    """It was made again, of a runtime that is not here, and its events are replayed."""
    await world.caller.create()
    await world.config(retries=0)
    request_id = await world.event()
    await world.quiet()
    await world.caller.delete_function(FunctionName="f")
    code = {"ZipFile": zip_of(x="")}
    role = "arn:aws:iam::123456789012:role/r"
    await world.caller.create_function(FunctionName="f", Runtime="java21", Handler="x", Role=role, Code=code)
    await world.service.live.settled("f")
    assert (await world.caller.get_function_configuration(FunctionName="f"))["State"] == "Failed"
    await world.config(age=60, bad=f"file://{tmp_path}/bad")
    assert await world.service.dispatcher.replay([request_id]) == (1, 0)
    began = world.since
    while world.since - began < 60:
        wait = await world.wait()
        assert 0 < (wait or 0) <= 300
        world.clock.advance(wait or 300)
    assert world.since - began == 60
    [record] = await world.records(tmp_path / "bad")
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert await world.wait() is None


TENANT = """
import os
def handler(event, context):
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{context.tenant_id} {os.getpid()}\\n")
    raise ValueError
"""


@pytest.mark.catalogue("IN-101", "IN-140", "IN-141")
async def test_events_of_tenants(world: World, tmp_path: Path) -> None:
    variables = {"Variables": {"SEEN": str(tmp_path / "seen")}}
    tenancy = {"TenantIsolationMode": "PER_TENANT"}
    await world.caller.create(app=TENANT, Environment=variables, TenancyConfig=tenancy)
    for tenant in ("a", "b"):
        await world.event({}, x_amz_tenant_id=tenant)
    await world.pass_(180, 60)
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert sorted(tenant for tenant, _ in seen) == ["a"] * 3 + ["b"] * 3
    of_a, of_b = ({pid for who, pid in seen if who == tenant} for tenant in "ab")
    assert not of_a & of_b
    await world.caller.create("g")
    fields = {"X_Amz_Invocation_Type": "Event"}
    for name, more in (("f", {}), ("g", {"x_amz_tenant_id": "a"})):
        reply = await raw(world.caller, b"{}", name, "", **fields, **more)
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (400, "InvalidParameterValueException")


# ── order, and how many at a time ──


async def test_events_of_one_environment_keep_their_order(world: World, tmp_path: Path) -> None:
    await world.caller.create(app=COUNTS, Environment={"Variables": {"SEEN": str(tmp_path / "seen")}})
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
    for number in range(60):
        await world.event(number)
    await world.pass_(60)
    assert list(map(int, (tmp_path / "seen").read_text().split())) == list(range(60))


@pytest.mark.catalogue("IN-103")
async def test_six_hundred_events_of_a_function_with_one_environment(world: World, tmp_path: Path) -> None:
    """They are done as fast as its reservation lets them be: ten a second. None grows old in the queue."""
    await world.caller.create(app=COUNTS, Environment={"Variables": {"SEEN": str(tmp_path / "seen")}})
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
    async with connected(world.caller) as connection:
        for number in range(600):
            path = "/2015-03-31/functions/f/invocations"
            reply = await connection.ask("POST", path, str(number).encode(), x_amz_invocation_type="Event")
            assert reply.status == 202
    steps = 0
    while steps < 90 and await world.wait() is not None:
        world.clock.advance(1)
        steps += 1
    seen = list(map(int, (tmp_path / "seen").read_text().split()))
    assert (len(seen), sorted(seen) == list(range(600))) == (600, True)
    assert world.service.dispatcher._lanes == {}
    assert world.service.dispatcher._accepted == {}


@pytest.mark.parametrize(("reserved", "most"), [(None, EVENTS_AT_A_TIME), (2, 2)])
async def test_so_many_events_of_a_function_are_tried_at_a_time(
    world: World, tmp_path: Path, reserved: int | None, most: int
) -> None:
    """Another function does not wait for them."""
    await world.caller.create(app=HELD, Timeout=60)
    await world.caller.create("g")
    if reserved is not None:
        await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=reserved)
    files = [{"begun": str(tmp_path / f"begun{number}"), "go": str(tmp_path / "go")} for number in range(most + 2)]
    ids = [await world.event(event) for event in files]
    await world.until(lambda: len(list(tmp_path.glob("begun*"))) == most)
    other = await world.event({}, "g")
    await world.until(lambda: world.times(other))
    assert {who for _, who in world.starts} == {other, *ids[:most]}
    (tmp_path / "go").touch()
    await world.quiet()
    assert {who for _, who in world.starts} == {other, *ids}


# ── given twice ──


@pytest.mark.catalogue("IN-105")
async def test_every_event_is_given_twice(tier: Tier, tmp_path: Path) -> None:
    """The same request id; one record."""
    async with world_of(ManualClock(), duplicates=100) as world:
        await world.caller.create(app=APP)
        await world.config(good=f"file://{tmp_path}/good")
        ids = [await world.event({"n": number}) for number in range(5)]
        await world.quiet()
        assert {request_id: len(world.times(request_id)) for request_id in ids} == dict.fromkeys(ids, 2)
        records = await world.records(tmp_path / "good", 5)
        assert {record["requestContext"]["requestId"] for record in records} == set(ids)
        assert (await world.caller.call())["requestId"] not in ids
        assert len(world.starts) == 11


@pytest.mark.catalogue("IN-105")
async def test_no_event_is_given_twice_unless_that_is_wanted(world: World) -> None:
    await world.caller.create()
    ids = [await world.event({}) for _ in range(10)]
    await world.pass_(30)
    assert sorted(who for _, who in world.starts) == sorted(ids)
