"""A runtime that its user starts: generations without processes, events that wait for a poll, the emulator's path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.clock import ManualClock
from sandbox.core.errors import ConfigError
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import POLL_LOST
from sandbox.core.states import Phase
from sandbox.host.attach import AttachedEnvironment, env_file
from sandbox.host.environment import Job
from sandbox.telemetry.journal import Journal
from tests.conftest import Connection, Played, Reply, no_task_is_left

RIE = "/2015-03-31/functions/function/invocations"


class Attached(Played):
    """The test is the user's runtime, or several of them one after the other."""

    environment: AttachedEnvironment

    def __init__(self, environment: AttachedEnvironment, clock: ManualClock, journal: Journal, lines: list[str]) -> None:
        super().__init__(environment, clock, journal)
        self.lines = lines  # what was shown of requests and replies

    def give(self, job: Job) -> None:
        self.environment.invoke(job)

    async def poll(self, connection: Connection) -> asyncio.Task[Reply]:
        """A poll that is parked, or answered."""
        before = self.polls
        task = asyncio.ensure_future(connection.ask("GET", "invocation/next"))
        await self.until(lambda: task.done() or self.polls > before)
        return task

    @property
    def polls(self) -> int:
        return len(self.environment.machine.polls)


@pytest.fixture(params=[True, False], ids=["timeouts", "no timeouts"])
async def attached(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Attached]:
    lines: list[str] = []
    clock, journal = ManualClock(), Journal()
    environment = AttachedEnvironment(
        FunctionConfig(str(tmp_path), timeout=3, handler="my.handler"),
        journal,
        clock,
        port=0,
        timeouts=request.param,
        task="/my/project",
        watch=lines.append,
    )
    await environment.open()
    world = Attached(environment, clock, journal, lines)
    try:
        yield world
    finally:
        await world.close()
        no_task_is_left()


only_with_timeouts = pytest.mark.parametrize("attached", [True], indirect=True)


async def answer(connection: Connection, job: Job, body: bytes = b'"answer"') -> Reply:
    return await connection.ask("POST", f"invocation/{job.request_id}/response", body)


async def test_events_wait_for_a_poll_however_long_it_takes(attached: Attached) -> None:
    first, second = attached.invoke(b"1"), attached.invoke(b"2")
    attached.clock.advance(100_000)  # the person is at lunch: neither Init nor the timeout has run
    runtime = await attached.connect()
    assert (await runtime.ask("GET", "invocation/next")).body == b"1"
    attached.clock.advance(2)
    assert (await answer(runtime, first)).status == 202
    assert (await runtime.ask("GET", "invocation/next")).body == b"2"
    assert (await answer(runtime, second)).status == 202
    task = await attached.poll(runtime)
    await second.reported
    assert (first.result.payload, first.result.function_error) == (b'"answer"', None)
    assert first.result.report is not None
    assert (first.result.report.duration_ms, first.result.report.init_duration_ms) == (2000, None)
    assert first.result.report.max_memory_used_mb is None
    assert "Max Memory Used: unknown" in first.result.log[-1]
    task.cancel()


@only_with_timeouts
async def test_after_a_timeout_the_same_process_is_a_new_generation(attached: Attached) -> None:
    job, runtime = attached.invoke(), await attached.connect()
    await runtime.ask("GET", "invocation/next")
    attached.clock.advance(3)
    await job.answered
    assert job.result.status == "timeout"
    late = await answer(runtime, job)
    assert (late.status, late.json()) == (400, {"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"})
    again = attached.invoke(b'"again"')
    assert (await runtime.ask("GET", "invocation/next")).body == b'"again"'
    assert attached.environment.machine.generation == 2
    assert (await answer(runtime, again)).status == 202


@pytest.mark.parametrize("attached", [False], indirect=True)
async def test_without_timeouts_a_breakpoint_may_take_days(attached: Attached) -> None:
    job, runtime = attached.invoke(), await attached.connect()
    await runtime.ask("GET", "invocation/next")
    attached.clock.advance(3 * 24 * 3600)
    assert (await answer(runtime, job)).status == 202
    await job.answered
    assert job.result.payload == b'"answer"'


@pytest.mark.catalogue("RT-034")
async def test_an_event_that_was_not_answered_is_given_to_the_next_one_that_polls(attached: Attached) -> None:
    job, killed = attached.invoke(b'"event"'), await attached.connect()
    before = await killed.ask("GET", "invocation/next")
    await killed.close()
    started_again = await attached.connect()
    again = await started_again.ask("GET", "invocation/next")
    assert (again.body, again.headers) == (before.body, before.headers)
    assert (await answer(started_again, job)).status == 202
    assert attached.environment.machine.generation == 1


async def test_a_poll_that_is_gone_for_a_second_ends_a_generation(attached: Attached) -> None:
    killed = await attached.connect()
    task = await attached.poll(killed)
    task.cancel()
    await killed.close()
    await attached.until(lambda: not attached.polls)
    attached.clock.advance(POLL_LOST)
    await attached.until(lambda: attached.environment.machine.phase is Phase.CREATED)
    job = attached.invoke(b'"new"')
    assert (await (await attached.connect()).ask("GET", "invocation/next")).body == b'"new"'
    assert attached.environment.machine.generation == 2
    assert job.started


async def test_one_that_polls_again_within_the_second_is_the_same(attached: Attached) -> None:
    first = await attached.connect()
    task = await attached.poll(first)
    task.cancel()
    await first.close()
    await attached.until(lambda: not attached.polls)
    attached.clock.advance(POLL_LOST / 2)
    second = await attached.connect()
    task = await attached.poll(second)
    attached.clock.advance(POLL_LOST)
    assert attached.environment.machine.generation == 1
    task.cancel()


async def test_an_init_error_after_init_is_a_new_start(attached: Attached) -> None:
    job, first = attached.invoke(), await attached.connect()
    await first.ask("GET", "invocation/next")
    await first.close()
    second = await attached.connect()
    error = json.dumps({"errorType": "Broken", "errorMessage": "a syntax error"}).encode()
    assert (await second.ask("POST", "init/error", error)).status == 202
    await job.answered
    assert job.result.error_type == "Runtime.ExitError"  # the one that had the event has gone
    third = await attached.connect()  # at once: it does not wait until the second is given up
    waiting = attached.invoke(b'"mended"')
    assert (await third.ask("GET", "invocation/next")).body == b'"mended"'
    assert (await answer(third, waiting)).status == 202
    assert attached.environment.machine.generation == 3


async def test_the_emulators_path(attached: Attached) -> None:
    caller, runtime = await attached.connect(), await attached.connect()
    request = asyncio.ensure_future(
        caller.ask("POST", RIE, b'{"from":"curl"}', x_amz_client_context="eyJjdXN0b20iOnsiYSI6MX19")
    )
    event = await runtime.ask("GET", "invocation/next")
    assert event.json() == {"from": "curl"}
    assert json.loads(event.headers["lambda-runtime-client-context"]) == {"custom": {"a": 1}}
    request_id = event.headers["lambda-runtime-aws-request-id"]
    body = b'{"errorType":"Mine","errorMessage":"no"}'
    await runtime.ask("POST", f"invocation/{request_id}/error", body)
    reply = await request
    assert (reply.status, reply.body) == (200, body)
    assert reply.headers["x-amz-function-error"] == "Unhandled"
    assert reply.headers["x-amzn-requestid"] == request_id


@pytest.mark.parametrize(
    ("fields", "body", "said"), [({}, b"{", "not JSON"), ({"x_amz_client_context": "e30"}, b"{}", "base64")]
)
async def test_a_bad_event_at_the_emulators_path(attached: Attached, fields: dict[str, str], body: bytes, said: str) -> None:
    reply = await (await attached.connect()).ask("POST", RIE, body, **fields)
    assert reply.status == 400
    assert said in reply.body.decode()


async def test_a_wrong_method_at_the_emulators_path(attached: Attached) -> None:
    assert (await (await attached.connect()).ask("GET", RIE)).status == 405


async def test_a_caller_who_has_given_up_is_not_served_later(attached: Attached) -> None:
    impatient, runtime = await attached.connect(), await attached.connect()
    task = asyncio.ensure_future(impatient.ask("POST", RIE, b'"first"'))
    await attached.until(lambda: bool(attached.environment._queue))
    task.cancel()
    await impatient.close()
    await attached.until(lambda: not attached.environment._queue)
    job = attached.invoke(b'"second"')
    assert (await runtime.ask("GET", "invocation/next")).body == b'"second"'
    assert (await answer(runtime, job)).status == 202


async def test_a_runtime_that_answers_and_goes_ends_its_generation(attached: Attached) -> None:
    job, runtime = attached.invoke(b"1"), await attached.connect()
    await runtime.ask("GET", "invocation/next")
    assert (await answer(runtime, job)).status == 202
    attached.clock.advance(POLL_LOST)  # it is held in a debugger, perhaps
    assert not job.is_reported
    await runtime.close()
    await attached.until(lambda: not attached.environment._api.has_connections())
    attached.clock.advance(POLL_LOST)
    await job.reported
    assert job.result.payload == b'"answer"'
    another = attached.invoke(b"2")
    runtime = await attached.connect()
    assert (await runtime.ask("GET", "invocation/next")).body == b"2"
    assert attached.environment.machine.generation == 2
    assert another.started


async def test_an_event_that_nobody_took_is_refused_at_the_end(attached: Attached) -> None:
    job = attached.invoke()
    await attached.environment.shutdown()
    with pytest.raises(ConfigError, match="no runtime polled"):
        await job.answered


async def test_each_request_and_reply_is_shown(attached: Attached) -> None:
    runtime = await attached.connect()
    await runtime.ask("POST", "invocation/none/response", b"12345")
    sent, got = attached.lines
    assert sent.endswith("> POST /2018-06-01/runtime/invocation/none/response (5 bytes)")
    assert got.split("< ")[1].startswith("400 (")
    assert got.endswith('{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}')


async def test_what_a_runtime_needs_is_exported(attached: Attached) -> None:
    told = attached.environment.exports()
    assert told["AWS_LAMBDA_RUNTIME_API"] == attached.environment.address
    assert (told["_HANDLER"], told["LAMBDA_TASK_ROOT"]) == ("my.handler", "/my/project")
    needed = {"AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"}
    assert needed | {"AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_REGION"} <= set(told)
    assert not {"PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG"} & set(told)
    assert "_HANDLER=my.handler\n" in env_file(told)


async def test_a_port_that_is_taken_is_named(attached: Attached) -> None:
    port = int(attached.environment.address.rpartition(":")[2])
    other = AttachedEnvironment(attached.environment.function, Journal(), ManualClock(), port=port)
    with pytest.raises(ConfigError, match=f"port {port}: .*--port"):
        await other.open()
