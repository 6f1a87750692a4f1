"""Invokes that are refused because too many are under way, or have begun."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.host.concurrency import Account
from tests.conftest import SHORT, Reply, Tier
from tests.control.conftest import Caller, called
from tests.control.test_invoke import GOES_ON, connected, raw, refusal, until

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"


class Held:
    """Invokes that last until `go`."""

    def __init__(self, caller: Caller, folder: Path) -> None:
        self._caller = caller
        self._folder = folder
        self._tasks: list[asyncio.Task[Reply]] = []

    async def begin(self, name: str = "f") -> None:
        """One more; returns when the function is at work."""
        number = len(self._tasks)
        files = {"begun": str(self._folder / f"begun{number}"), "go": str(self._folder / "go")}
        event = json.dumps(files | {"done": str(self._folder / "done")}).encode()
        self._tasks.append(asyncio.ensure_future(raw(self._caller, event, name)))
        await until(Path(files["begun"]))

    async def go(self) -> list[Reply]:
        (self._folder / "go").touch()
        return await asyncio.gather(*self._tasks)


@pytest.fixture
async def held(caller: Caller, tmp_path: Path) -> AsyncIterator[Held]:
    held = Held(caller, tmp_path)
    try:
        yield held
    finally:
        await held.go()


def is_throttled(reply: Reply, reason: str) -> bool:
    assert (reply.status, reply.headers.get("x-amzn-errortype")) == (429, "TooManyRequestsException")
    body = json.loads(reply.body)
    assert body == {"Type": "User", "message": "Rate Exceeded.", "Reason": reason}
    return True


@pytest.mark.catalogue("IN-060", "IN-061", "IN-063", "IN-066", "IN-146")
async def test_nobody_may_invoke_with_a_reservation_of_none(caller: Caller) -> None:
    await caller.create()
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    for _ in range(3):
        reply = await raw(caller)
        assert is_throttled(reply, RESERVED)
        text = f'{{"Type":"User","message":"Rate Exceeded.","Reason":"{RESERVED}"}}'
        assert reply.body == text.encode()
    assert await refusal(caller.invoke(FunctionName="f")) == (429, "TooManyRequestsException", "Rate Exceeded.")
    await caller.delete_function_concurrency(FunctionName="f")
    assert (await raw(caller)).json()["calls"] == 1


@pytest.mark.catalogue("IN-061", "IN-062", "IN-066")
async def test_more_than_the_reservation(caller: Caller, held: Held) -> None:
    await caller.create(app=GOES_ON, Timeout=30)
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=2)
    await held.begin()
    await held.begin()
    assert is_throttled(await raw(caller), RESERVED)
    assert is_throttled(await raw(caller, X_Amz_Log_Type="Tail"), RESERVED)
    assert [reply.status for reply in await held.go()] == [200, 200]
    assert (await raw(caller)).json() == 2


@pytest.mark.catalogue("IN-061", "IN-062")
async def test_more_than_the_account_has(caller: Caller, held: Held) -> None:
    """What one function has reserved is taken from the others."""
    await caller.create(app=GOES_ON, Timeout=30)
    await caller.create("g")
    caller.service.host.account.limit = 2
    await caller.put_function_concurrency(FunctionName="g", ReservedConcurrentExecutions=1)
    await held.begin()
    assert is_throttled(await raw(caller), "ConcurrentInvocationLimitExceeded")
    assert (await raw(caller, name="g")).status == 200
    await held.go()
    assert (await raw(caller)).status == 200


@pytest.mark.catalogue("IN-060", "IN-062", "NF-016")
async def test_a_stream_is_throttled_too(caller: Caller) -> None:
    await caller.create()
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    async with connected(caller) as connection:
        reply = await connection.ask("POST", "/2021-11-15/functions/f/response-streaming-invocations", b"{}")
    assert is_throttled(reply, RESERVED)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(tier: Tier, lean: bool, clock: ManualClock) -> AsyncIterator[Caller]:
    """The same on a clock that only the test moves."""
    async with called(Host(limits=SHORT, clock=clock), lean=lean) as made:
        yield made


@pytest.mark.catalogue("IN-061", "IN-064")
async def test_ten_requests_a_second_for_each_unit(timed: Caller, clock: ManualClock) -> None:
    """Each request counts once, one that makes an environment included."""
    await timed.create()
    await timed.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
    assert [(await raw(timed)).status for _ in range(10)] == [200] * 10
    assert is_throttled(await raw(timed), "ReservedFunctionInvocationRateLimitExceeded")
    clock.advance(0.5)
    assert [(await raw(timed)).status for _ in range(5)] == [200] * 5
    assert is_throttled(await raw(timed), "ReservedFunctionInvocationRateLimitExceeded")


@pytest.mark.catalogue("IN-061", "IN-064")
async def test_ten_requests_a_second_for_each_unit_of_the_account(timed: Caller, clock: ManualClock) -> None:
    timed.service.host.account = Account(clock, 1)
    await timed.create()
    assert [(await raw(timed)).status for _ in range(10)] == [200] * 10
    assert is_throttled(await raw(timed), "FunctionInvocationRateLimitExceeded")
    clock.advance(1)
    assert (await raw(timed)).status == 200
