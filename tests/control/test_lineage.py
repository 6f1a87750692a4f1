"""Recursive loops: the trace header tells of them, and the seventeenth time is refused (IN-142)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.control.lineage import handed_on
from tests.control.conftest import Caller
from tests.control.helpers import ARN, refused

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
TRACE = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"
HEADER = "import os\ndef handler(event, context):\n    return os.environ['_X_AMZN_TRACE_ID']\n"


def test_each_function_of_a_chain_is_counted() -> None:
    one, loop = handed_on(TRACE, "a")
    assert one.startswith(f"{TRACE};Lineage=")
    assert one.endswith(":0")
    assert not loop
    two, _ = handed_on(one, "b")
    three, _ = handed_on(two, "a")
    counts = [hop.partition(":")[2] for hop in three.partition("Lineage=")[2].split("|")]
    assert sorted(counts) == ["0", "1"]
    assert three.count("Lineage=") == 1


@pytest.mark.catalogue("IN-142")
def test_sixteen_times_are_let_pass() -> None:
    trace, loops = TRACE, []
    for _ in range(17):
        trace, loop = handed_on(trace, "a")
        loops.append(loop)
    assert loops == [False] * 16 + [True]


@pytest.mark.parametrize("lineage", ["", "x", "::", "a87bd80c:", "a87bd80c:x|68fd508a:1", "1:a87bd80c:0", "a87bd80c:99999999"])
def test_a_lineage_that_others_have_written_is_no_mistake(lineage: str) -> None:
    told, loop = handed_on(f"Root=1-2-3;Lineage={lineage};Sampled=1", "a")
    assert told.startswith("Root=1-2-3;Sampled=1;Lineage=")
    assert not loop


async def _calls(caller: Caller, times: int) -> str:
    """The trace header after so many invokes, each with that of the one before."""
    trace = TRACE
    for _ in range(times):
        answer = await _invoke(caller, trace)
        trace = json.loads(answer["Payload"].read())
    return trace


async def _invoke(caller: Caller, trace: str, **parameters: Any) -> Any:
    def add(request: Any, **_: Any) -> None:
        request.headers["X-Amzn-Trace-Id"] = trace

    caller.client.meta.events.register("before-send.lambda.Invoke", add, "trace")
    try:
        return await caller.invoke(FunctionName="f", Payload=b"{}", **parameters)
    finally:
        caller.client.meta.events.unregister("before-send.lambda.Invoke", unique_id="trace")


@pytest.mark.catalogue("IN-142")
async def test_a_loop_is_stopped_unless_it_is_allowed(caller: Caller) -> None:
    await caller.create(app=HEADER)
    trace = await _calls(caller, 16)
    said = await refused(_invoke(caller, trace))
    assert (said.status, said.code) == (400, "RecursiveInvocationException")
    assert "recursive loop" in said.message
    await caller.put_function_recursion_config(FunctionName="f", RecursiveLoop="Allow")
    assert json.loads((await _invoke(caller, trace))["Payload"].read()).startswith(TRACE)


@pytest.mark.catalogue("IN-142")
async def test_an_event_of_a_loop_goes_to_its_destination(caller: Caller, tmp_path: Path) -> None:
    await caller.create(app=HEADER)
    trace = await _calls(caller, 16)
    destination = {"OnFailure": {"Destination": f"file://{tmp_path}/failed"}}
    await caller.put_function_event_invoke_config(FunctionName="f", DestinationConfig=destination)
    assert (await _invoke(caller, trace, InvocationType="Event"))["StatusCode"] == 202
    found = await _file(tmp_path / "failed")
    assert found["requestContext"]["condition"] == "RecursionDetected"
    assert found["requestContext"]["functionArn"] == f"{ARN}:function:f:$LATEST"
    assert "responsePayload" not in found


async def _file(folder: Path) -> Any:

    async with asyncio.timeout(20):
        while not (found := list(folder.glob("*.json"))):
            await asyncio.sleep(0.005)
    return json.loads(found[0].read_text())
