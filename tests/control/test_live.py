"""What happens to environments when versions, aliases and settings change."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.control.names import Named
from sandbox.host.environment import Environment
from tests.conftest import request
from tests.control.conftest import APP, Caller, zip_of
from tests.control.test_invoke import GOES_ON, connected, ended, path_of, raw, refusal, until

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]


async def version(caller: Caller, app: str = APP, name: str = "f", **settings: Any) -> str:
    """Makes the code that of a new version; its number."""
    await caller.update_function_code(FunctionName=name, ZipFile=zip_of(app_py=app), **settings)
    await caller.active(name)
    number: str = (await caller.publish_version(FunctionName=name))["Version"]
    await caller.active(name, number)
    return number


async def provisioned(caller: Caller, qualifier: str) -> dict[str, Any]:
    """Its provisioned concurrency, once that is not in progress."""
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = await caller.get_provisioned_concurrency_config(FunctionName="f", Qualifier=qualifier)
            if found["Status"] != "IN_PROGRESS":
                return found
            await asyncio.sleep(0.01)


# ── one environment, and others ──


@pytest.mark.catalogue("LC-037", "LC-038")
async def test_a_thousand_invokes_one_by_one_meet_one_environment(caller: Caller) -> None:
    await caller.create()
    await caller.create("g")
    async with connected(caller) as connection:
        told = [(await connection.ask("POST", path_of(), b"{}")).json() for _ in range(1000)]
        other = (await connection.ask("POST", path_of("g"), b"{}")).json()
    assert {one["pid"] for one in told} == {told[0]["pid"]}
    assert [one["calls"] for one in told] == list(range(1, 1001))
    assert (other["calls"], other["pid"] != told[0]["pid"]) == (1, True)


@pytest.mark.parametrize("lean", [True])
@pytest.mark.catalogue("IN-080", "IN-081", "IN-082")
async def test_an_alias_with_weights(caller: Caller, lean: bool) -> None:
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await version(caller, APP + "\n# two")
    routing = {"AdditionalVersionWeights": {"2": 0.3}}
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1", RoutingConfig=routing)
    targets = [caller.service.live.target(Named("f", "live")) for _ in range(2000)]
    numbers = [target.version.row.version for target in targets]
    assert set(numbers) == {"1", "2"}
    assert 0.24 * 2000 <= numbers.count("2") <= 0.36 * 2000
    assert {target.arn for target in targets} == {"arn:aws:lambda:us-east-1:123456789012:function:f:live"}
    await caller.update_alias(FunctionName="f", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    reply = await raw(caller, name="f:live")
    assert (reply.headers["x-amz-executed-version"], reply.json()["version"]) == ("2", "2")
    await caller.update_alias(FunctionName="f", Name="live", RoutingConfig={"AdditionalVersionWeights": {}})
    assert {caller.service.live.target(Named("f", "live")).version.row.version for _ in range(50)} == {"1"}


# ── updates and deletions ──

NUMBERED = """
import os
def handler(event, context):
    return [{n}, os.getpid()]
"""


@pytest.mark.catalogue("CP-028")
async def test_no_invoke_is_lost_by_an_update(caller: Caller) -> None:
    await caller.create(app=NUMBERED.format(n=0))
    answers: list[tuple[int, str | None, Any]] = []
    over = asyncio.Event()

    async def invoke() -> None:
        async with connected(caller) as connection:
            while not over.is_set():
                reply = await connection.ask("POST", path_of(), b"{}")
                answers.append((reply.status, reply.headers.get("x-amz-function-error"), reply.json()))

    workers = [asyncio.ensure_future(invoke()) for _ in range(3)]
    try:
        for n in range(1, 11):
            await caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=NUMBERED.format(n=n)))
            await caller.active("f")
            assert (await raw(caller)).json()[0] == n
    finally:
        over.set()
        await asyncio.gather(*workers)
    assert {(status, error) for status, error, _ in answers} == {(200, None)}
    assert {number for _, _, (number, _) in answers} <= set(range(11))
    [last] = {pid for _, _, (number, pid) in answers[-1:]}
    for pid in {pid for _, _, (number, pid) in answers if number < 10} - {last}:
        await ended(pid)


@pytest.mark.catalogue("CP-028")
async def test_an_update_shuts_old_environments_down(caller: Caller) -> None:
    await caller.create()
    old = (await raw(caller)).json()["pid"]
    await caller.update_function_configuration(FunctionName="f", Environment={"Variables": {"AA": "B"}})
    await caller.active("f")
    await ended(old)
    assert (await raw(caller, b'{"do": "env"}')).json()["AA"] == "B"


@pytest.mark.catalogue("CP-028")
@pytest.mark.parametrize("what", ["update", "delete"])
async def test_an_invoke_under_way_goes_on_to_its_end(caller: Caller, tmp_path: Path, what: str) -> None:
    await caller.create(app=GOES_ON, Timeout=30)
    files = {name: str(tmp_path / name) for name in ("begun", "go", "done")}
    async with connected(caller) as connection:
        await connection.send(request("POST", path_of(), json.dumps(files).encode()))
        pid = int(await until(tmp_path / "begun"))
        if what == "delete":
            await caller.delete_function(FunctionName="f")
            assert (await refusal(caller.invoke(FunctionName="f")))[0] == 404
            await caller.create(app=NUMBERED.format(n=5))  # another one by the same name
        else:
            await caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=NUMBERED.format(n=5)))
            await caller.active("f")
        assert (await raw(caller)).json()[0] == 5
        (tmp_path / "go").touch()
        reply = await connection.reply()
        assert (reply.status, reply.body) == (200, b"1")
    await ended(pid)


async def test_a_function_that_is_deleted_while_its_environment_is_made(caller: Caller) -> None:
    """The invoke was let in, so it is done; nothing is left behind."""
    await caller.create()
    async with connected(caller) as connection:
        await connection.send(request("POST", path_of(), b"{}"))
        while not caller.service.live._functions["f"].versions["$LATEST"].function._scheduler._opening:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        await caller.delete_function(FunctionName="f")
        assert (await connection.reply()).json()["calls"] == 1


# ── provisioned concurrency ──


@pytest.mark.catalogue("CP-073", "CP-075", "CP-076", "LC-131", "LC-132")
async def test_provisioned_environments_are_used_first(caller: Caller, tmp_path: Path) -> None:
    await caller.create(Timeout=30)
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    gone = (404, "ProvisionedConcurrencyConfigNotFoundException")
    assert (await refusal(caller.get_provisioned_concurrency_config(FunctionName="f", Qualifier="1")))[:2] == gone
    made = await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=2)
    assert caller.metadata["HTTPStatusCode"] == 202
    assert (made["Status"], made["AllocatedProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 0)
    ready = await provisioned(caller, "1")
    assert (ready["Status"], ready["AvailableProvisionedConcurrentExecutions"]) == ("READY", 2)
    go = tmp_path / "go"
    waiting = json.dumps({"do": "wait", "file": str(go)}).encode()
    busy = [asyncio.ensure_future(raw(caller, waiting, "f:1")) for _ in range(2)]
    function = caller.service.live.target(Named("f", "1")).version.function
    assert function is not None
    async with asyncio.timeout(20):
        while function._scheduler._ahead:
            await asyncio.sleep(0.001)
    kind = "AWS_LAMBDA_INITIALIZATION_TYPE"
    assert (await raw(caller, b'{"do": "env"}', "f:1")).json()[kind] == "on-demand"  # spills over
    go.touch()
    pids = {reply.json()["pid"] for reply in await asyncio.gather(*busy)}
    assert len(pids) == 2
    async with asyncio.timeout(20):
        while len(function._scheduler._ahead) < 2:  # an answer comes before its runtime asks for the next
            await asyncio.sleep(0.001)
    assert (await raw(caller, b'{"do": "env"}', "f:1")).json()[kind] == "provisioned-concurrency"
    assert (await raw(caller, b'{"do": "env"}')).json()[kind] == "on-demand"
    await caller.delete_provisioned_concurrency_config(FunctionName="f", Qualifier="1")
    for pid in pids:
        await ended(pid)
    assert (await raw(caller, b'{"do": "env"}', "f:1")).json()[kind] == "on-demand"


@pytest.mark.parametrize("lean", [True])
@pytest.mark.catalogue("CP-075")
async def test_provisioned_environments_whose_init_fails(caller: Caller, lean: bool) -> None:
    await caller.create(app="raise ValueError('as asked')")
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=2)
    failed = await provisioned(caller, "1")
    assert (failed["Status"], failed["StatusReason"]) == ("FAILED", "FUNCTION_ERROR_INIT_FAILURE")
    assert failed["AvailableProvisionedConcurrentExecutions"] == failed["AllocatedProvisionedConcurrentExecutions"] == 0
    function = caller.service.live.target(Named("f", "1")).version.function
    assert function is not None
    assert function.environments == ()


@pytest.mark.parametrize("lean", [True])
@pytest.mark.catalogue("CP-078")
async def test_provisioned_environments_move_with_their_alias(caller: Caller, lean: bool) -> None:
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await version(caller, APP + "\n# two")
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="live", ProvisionedConcurrentExecutions=1)
    assert (await provisioned(caller, "live"))["Status"] == "READY"
    old = (await raw(caller, name="f:live")).json()["pid"]
    await caller.update_alias(FunctionName="f", Name="live", FunctionVersion="2")
    found = await caller.get_provisioned_concurrency_config(FunctionName="f", Qualifier="live")
    assert found["Status"] in ("IN_PROGRESS", "READY")
    assert (await provisioned(caller, "live"))["Status"] == "READY"
    await ended(old)
    told = (await raw(caller, b'{"do": "env"}', "f:live")).json()
    assert told["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency"
    assert told["AWS_LAMBDA_FUNCTION_VERSION"] == "2"


@pytest.mark.parametrize("lean", [True])
@pytest.mark.parametrize("how", ["fewer", "more", "anew", "to and fro"])
async def test_changes_that_follow_at_once_end_with_what_was_asked_for_last(caller: Caller, how: str, lean: bool) -> None:
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await version(caller, APP + "\n# two")
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    here = {"FunctionName": "f", "Qualifier": "live"}
    run = caller.service.run

    async def put(count: int) -> None:
        await run("PutProvisionedConcurrencyConfig", here | {"ProvisionedConcurrentExecutions": count})

    await put(3)
    if how in ("anew", "to and fro"):
        assert (await provisioned(caller, "live"))["Status"] == "READY"
    if how == "anew":
        await run("DeleteProvisionedConcurrencyConfig", here)
        await put(3)
    elif how == "to and fro":
        for to in ("2", "1"):
            await run("UpdateAlias", {"FunctionName": "f", "Name": "live", "FunctionVersion": to})
    else:
        await put(2 if how == "fewer" else 4)
    wanted = {"fewer": 2, "more": 4}.get(how, 3)
    found = await provisioned(caller, "live")
    await caller.service.live.settled("f")
    function = caller.service.live.target(Named("f", "live")).version.function
    assert function is not None
    tasks = list(caller.service.live._tasks)  # ends of the old ones
    await asyncio.gather(*tasks)
    assert (found["Status"], function.provisioned, len(function.environments)) == ("READY", wanted, wanted)


@pytest.mark.parametrize("lean", [True])
async def test_a_service_that_closes_while_environments_are_provisioned(caller: Caller, lean: bool) -> None:
    """Nothing is left: the fixtures look."""
    await caller.create(app="import time\ntime.sleep(60)\n" + APP)
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=3)
    found = await caller.get_provisioned_concurrency_config(FunctionName="f", Qualifier="1")
    assert found["Status"] == "IN_PROGRESS"


@pytest.mark.parametrize("lean", [True])
async def test_a_service_that_closes_while_provisioned_environments_end(caller: Caller, lean: bool) -> None:
    """Nothing is left: the fixtures look."""
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=3)
    assert (await provisioned(caller, "1"))["Status"] == "READY"
    await caller.service.run("DeleteProvisionedConcurrencyConfig", {"FunctionName": "f", "Qualifier": "1"})
    await asyncio.sleep(0)  # the first of them is being shut down
    await asyncio.sleep(0)
    await caller.service.live.close()


@pytest.mark.parametrize("lean", [True])
@pytest.mark.catalogue("CP-075")
async def test_one_that_cannot_be_made_leaves_no_other_behind(
    caller: Caller, lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are asked for, or none are kept: FAILED holds no environment."""
    await caller.create()
    await caller.publish_version(FunctionName="f")
    opened, count = Environment.open, itertools.count()

    async def opens(environment: Environment) -> None:
        if next(count) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        await opened(environment)

    monkeypatch.setattr(Environment, "open", opens)
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=3)
    found = await provisioned(caller, "1")
    assert found["Status"] == "FAILED"
    while caller.service.host.environments:
        await asyncio.sleep(0.002)
