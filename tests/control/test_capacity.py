"""Reserved and provisioned concurrency, as AWS answers (recorded)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.control.conftest import APP, Caller, zip_of
from tests.control.helpers import ARN, CONFLICT, DATE, FAILED, INVALID, NOT_FOUND, check, refused

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
F = f"{ARN}:function:f"
NONE = "ProvisionedConcurrencyConfigNotFoundException"


@pytest.fixture
def lean() -> bool:
    return True


@pytest.mark.catalogue("CP-070", "CP-071", "CP-072")
async def test_reserved_concurrency(caller: Caller) -> None:
    await caller.create()
    of = {"FunctionName": "f"}
    assert await caller.get_function_concurrency(**of) == {}
    for n in (0, 900, 5):
        assert await caller.put_function_concurrency(**of, ReservedConcurrentExecutions=n) == {
            "ReservedConcurrentExecutions": n
        }
        assert await caller.get_function_concurrency(**of) == {"ReservedConcurrentExecutions": n}
    await caller.create("g")
    low = (
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
        "below its minimum value of [100]."
    )
    for name, n in (("f", 901), ("f", 1001), ("g", 896)):
        said = await refused(caller.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=n))
        assert said == (400, INVALID, low, False)
    said = await refused(caller.put_function_concurrency(**of, ReservedConcurrentExecutions=-1))
    assert (said.status, said.code) == (400, "ValidationException")
    text = f"Function not found: {ARN}:function:doesnotexist"
    unknown = {"FunctionName": "doesnotexist"}
    await check(caller.put_function_concurrency(**unknown, ReservedConcurrentExecutions=1), 404, NOT_FOUND, f"{text}:$LATEST")
    await check(caller.get_function_concurrency(**unknown), 404, NOT_FOUND, text)
    text = (
        "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
        "Please specify either a function name or an unqualified function ARN."
    )
    await check(caller.put_function_concurrency(FunctionName=f"{F}:1", ReservedConcurrentExecutions=1), 400, INVALID, text)
    account = (await caller.get_account_settings())["AccountLimit"]
    assert account["UnreservedConcurrentExecutions"] == 995
    for _ in range(2):
        await caller.delete_function_concurrency(**of)
        assert caller.metadata["HTTPStatusCode"] == 204
    assert await caller.get_function_concurrency(**of) == {}


async def ready(caller: Caller, qualifier: str) -> dict[str, Any]:
    while True:
        found = await caller.get_provisioned_concurrency_config(FunctionName="f", Qualifier=qualifier)
        if found["Status"] != "IN_PROGRESS":
            return dict(found)
        await asyncio.sleep(0.005)


def numbers(requested: int, now: int, status: str, **more: str) -> dict[str, Any]:
    return {
        "RequestedProvisionedConcurrentExecutions": requested,
        "AvailableProvisionedConcurrentExecutions": now,
        "AllocatedProvisionedConcurrentExecutions": now,
        "Status": status,
        **more,
    }


@pytest.mark.catalogue("CP-073", "CP-075", "CP-076", "CP-077", "CP-074")
async def test_provisioned_concurrency(caller: Caller) -> None:
    await caller.create(Publish=True)
    await caller.active("f", "1")
    await caller.create_alias(FunctionName="f", Name="a", FunctionVersion="1")
    await caller.create_alias(FunctionName="f", Name="b", FunctionVersion="1")
    f = {"FunctionName": "f"}
    text = "No Provisioned Concurrency Config found for this function"
    await check(caller.get_provisioned_concurrency_config(**f, Qualifier="1"), 404, NONE, text)
    made = await caller.put_provisioned_concurrency_config(**f, Qualifier="a", ProvisionedConcurrentExecutions=2)
    assert caller.metadata["HTTPStatusCode"] == 202
    assert re.fullmatch(DATE, made["LastModified"])
    assert made == numbers(2, 0, "IN_PROGRESS", LastModified=made["LastModified"])
    there = await ready(caller, "a")
    assert there == numbers(2, 2, "READY", LastModified=made["LastModified"])
    listed = (await caller.list_provisioned_concurrency_configs(**f))["ProvisionedConcurrencyConfigs"]
    assert listed == [{**there, "FunctionArn": f"{F}:a"}]

    def put(qualifier: str, n: int = 1) -> Any:
        return caller.put_provisioned_concurrency_config(**f, Qualifier=qualifier, ProvisionedConcurrentExecutions=n)

    text = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
    await check(put("b"), 409, CONFLICT, text)
    await check(put("1"), 409, CONFLICT, "Version is pointed by a Provisioned Concurrency alias")
    said = await refused(caller.put_function_concurrency(**f, ReservedConcurrentExecutions=1))
    text = " ReservedConcurrentExecutions  1 should not be lower than function's total provisioned concurrency [2]."
    assert said == (400, INVALID, text, False)
    await caller.put_function_concurrency(**f, ReservedConcurrentExecutions=2)
    text = "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
    assert await refused(put("a", 3)) == (400, INVALID, text, True)
    await caller.delete_alias(**f, Name="a")
    assert await caller.list_provisioned_concurrency_configs(**f) == {"ProvisionedConcurrencyConfigs": []}
    for _ in range(2):
        await caller.delete_provisioned_concurrency_config(**f, Qualifier="1")
        assert caller.metadata["HTTPStatusCode"] == 204


@pytest.mark.catalogue("CP-074", "CP-076")
async def test_what_provisioning_refuses(caller: Caller) -> None:
    await caller.create(Publish=True)

    def put(qualifier: str, n: int = 1, name: str = "f") -> Any:
        return caller.put_provisioned_concurrency_config(
            FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=n
        )

    one = f"1 validation error detected: Value '0' at 'provisionedConcurrentExecutions' {FAILED}: "
    await check(put("1", 0), 400, "ValidationException", f"{one}Member must have value greater than or equal to 1")
    text = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
    await check(put("$LATEST"), 400, INVALID, text)
    text = "The function resource provided must be an alias or a published version."
    for call in (caller.get_provisioned_concurrency_config, caller.delete_provisioned_concurrency_config):
        await check(call(FunctionName="f", Qualifier="$LATEST"), 400, INVALID, text)
        await check(call(FunctionName="f", Qualifier="no"), 404, NOT_FOUND, f"Cannot find alias arn: {F}:no")
        await check(call(FunctionName="f", Qualifier="10"), 404, NOT_FOUND, f"Function not found: {F}:10")
    await check(put("no", name="g"), 404, NOT_FOUND, f"Cannot find alias arn: {ARN}:function:g:no")
    await check(put("1", name="g"), 404, NOT_FOUND, f"Function not found: {ARN}:function:g:1")
    text = "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000]."
    assert await refused(put("1", 1001)) == (400, INVALID, text, False)
    text = (
        "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
        "below its minimum value of [100]."
    )
    assert await refused(put("1", 901)) == (400, INVALID, text, False)
    said = await refused(caller.list_provisioned_concurrency_configs(FunctionName="doesnotexist"))
    assert said == (404, NOT_FOUND, f"Function not found: {ARN}:function:doesnotexist", True)


@pytest.mark.catalogue("CP-075", "LC-017")
async def test_an_init_that_fails_is_told(caller: Caller) -> None:
    await caller.create(app="raise ValueError('as asked')", Publish=True)
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=1)
    found = await ready(caller, "1")
    found.pop("LastModified")
    assert found == numbers(1, 0, "FAILED", StatusReason="FUNCTION_ERROR_INIT_FAILURE")


@pytest.mark.catalogue("CP-079")
async def test_account_settings(caller: Caller) -> None:
    found = await caller.get_account_settings()
    limit = {"TotalCodeSize": 80530636800, "CodeSizeUnzipped": 262144000, "CodeSizeZipped": 52428800}
    limit |= {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000}
    assert found == {"AccountLimit": limit, "AccountUsage": {"TotalCodeSize": 0, "FunctionCount": 0}}
    size = len(zip_of(app_py=APP))
    await caller.create()
    await caller.publish_layer_version(LayerName="l", Content={"ZipFile": zip_of(app_py=APP)})
    await caller.publish_version(FunctionName="f")
    usage = (await caller.get_account_settings())["AccountUsage"]
    assert usage == {"TotalCodeSize": 3 * size, "FunctionCount": 1}
