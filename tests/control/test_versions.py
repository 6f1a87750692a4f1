"""Versions and aliases, as AWS answers (recorded)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.conftest import APP, Caller, zip_of
from tests.control.helpers import (
    ARN,
    CONFLICT,
    FAILED,
    INVALID,
    NOT_FOUND,
    STALE,
    STALE_TEXT,
    check,
    nothing_settles,
    refused,
    settled,
)

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
F = f"{ARN}:function:f"


@pytest.fixture
def lean() -> bool:
    return True


async def change(caller: Caller, **settings: Any) -> None:
    await caller.update_function_configuration(FunctionName="f", **settings)
    await settled(caller)


async def two_versions(caller: Caller) -> None:
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await change(caller, Timeout=9)
    await caller.publish_version(FunctionName="f")


@pytest.mark.catalogue("CP-040", "CP-041", "CP-044")
async def test_publish(caller: Caller) -> None:
    await caller.create(Description="of the latest")
    latest = await caller.get_function_configuration(FunctionName="f")
    one = await caller.publish_version(FunctionName="f")
    assert caller.metadata["HTTPStatusCode"] == 201
    own = {"FunctionArn": f"{F}:1", "Version": "1", "RevisionId": one["RevisionId"], "LastModified": one["LastModified"]}
    assert one == {**latest, **own}
    assert one["RevisionId"] != latest["RevisionId"]
    now = await caller.get_function_configuration(FunctionName="f")
    assert now["RevisionId"] not in (one["RevisionId"], latest["RevisionId"])
    assert await caller.get_function_configuration(FunctionName="f", Qualifier="1") == one
    assert await caller.publish_version(FunctionName="f") == one  # nothing has changed
    assert caller.metadata["HTTPStatusCode"] == 201
    await change(caller, Description="another")
    two = await caller.publish_version(FunctionName="f", Description="of the version")
    assert (two["Version"], two["Description"]) == ("2", "of the version")
    await caller.delete_function(FunctionName="f", Qualifier="1")
    await change(caller, MemorySize=256)
    assert (await caller.publish_version(FunctionName="f"))["Version"] == "3"
    found = (await caller.list_versions_by_function(FunctionName="f"))["Versions"]
    assert [item["FunctionArn"] for item in found] == [f"{F}:$LATEST", f"{F}:2", f"{F}:3"]
    left_out = {"State", "LastUpdateStatus", "RuntimeVersionConfig"}
    assert all(set(item) == set(latest) - left_out for item in found)
    await caller.delete_function(FunctionName="f")
    await caller.create()
    assert (await caller.publish_version(FunctionName="f"))["Version"] == "4"  # never used again


@pytest.mark.catalogue("CP-041")
async def test_a_description_of_its_own_does_not_make_the_next_publish_a_change(caller: Caller) -> None:
    await caller.create()
    one = await caller.publish_version(FunctionName="f", Description="the first")
    assert await caller.publish_version(FunctionName="f") == one


@pytest.mark.catalogue("CP-042")
async def test_reserved_concurrency_is_no_change_and_each_setting_is(caller: Caller) -> None:
    await caller.create(Publish=True)
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=3)
    await caller.tag_resource(Resource=F, Tags={"a": "b"})
    assert (await caller.publish_version(FunctionName="f"))["Version"] == "1"
    settings: list[dict[str, Any]] = [
        {"Environment": {"Variables": {"AB": "c"}}},
        {"Handler": "app.other"},
        {"MemorySize": 512},
        {"Timeout": 5},
        {"Role": "arn:aws:iam::123456789012:role/another"},
        {"Description": "d"},
        {"EphemeralStorage": {"Size": 600}},
        {"LoggingConfig": {"LogFormat": "JSON"}},
        {"TracingConfig": {"Mode": "Active"}},
        {"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:123456789012:q"}},
        {"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}},
        {"SnapStart": {"ApplyOn": "PublishedVersions"}},
    ]
    for number, setting in enumerate(settings, 2):
        await change(caller, **setting)
        assert (await caller.publish_version(FunctionName="f"))["Version"] == str(number), setting


@pytest.mark.catalogue("CP-016", "CP-019")
async def test_an_update_of_code_that_publishes(caller: Caller) -> None:
    await caller.create()
    async with nothing_settles(caller.service):
        made = await caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=APP + "#"), Publish=True)
        assert (made["FunctionArn"], made["Version"], made["State"]) == (f"{F}:1", "1", "Pending")
        assert (made["StateReason"], made["StateReasonCode"]) == ("The function is being created.", "Creating")
        assert not [key for key in made if key.startswith("LastUpdate")]
        latest = await caller.get_function_configuration(FunctionName="f")
        assert (latest["State"], latest["LastUpdateStatus"]) == ("Active", "InProgress")
        assert await caller.get_function_configuration(FunctionName="f", Qualifier="1") == made
    await settled(caller)
    assert (await caller.call(Qualifier="1"))["version"] == "1"


@pytest.mark.catalogue("CP-043")
async def test_publish_of_what_one_does_not_mean(caller: Caller) -> None:
    made = await caller.create()
    text = (
        f"CodeSHA256 (x) is different from current CodeSHA256 in $LATEST ({made['CodeSha256']}). "
        "Please try again with the CodeSHA256 in $LATEST."
    )
    await check(caller.publish_version(FunctionName="f", CodeSha256="x"), 400, INVALID, text)
    await check(caller.publish_version(FunctionName="f", RevisionId="x"), 412, STALE, STALE_TEXT)
    assert (await caller.publish_version(FunctionName="f", CodeSha256=made["CodeSha256"]))["Version"] == "1"


@pytest.mark.catalogue("CP-045", "CP-046", "CP-047", "CP-048", "CP-049", "CP-050")
async def test_the_life_of_an_alias(caller: Caller) -> None:
    await two_versions(caller)
    made = await caller.create_alias(
        FunctionName="f", Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {}}
    )
    assert caller.metadata["HTTPStatusCode"] == 201
    revision = made["RevisionId"]
    plain = {"AliasArn": f"{F}:live", "Name": "live", "FunctionVersion": "1", "Description": "", "RevisionId": revision}
    assert made == plain
    assert await caller.get_alias(FunctionName="f", Name="live") == made
    routing = {"AdditionalVersionWeights": {"2": 1.0}}
    routed = await caller.update_alias(FunctionName="f", Name="live", RoutingConfig=routing, RevisionId=revision)
    assert routed == {**plain, "RoutingConfig": routing, "RevisionId": routed["RevisionId"]}
    assert routed["RevisionId"] != revision
    said = await caller.call(Qualifier="live")
    assert (said["version"], said["arn"]) == ("2", f"{F}:live")
    described = await caller.update_alias(FunctionName="f", Name="live", Description="d")
    assert (described["Description"], described["RoutingConfig"]) == ("d", routing)
    stale = caller.update_alias(FunctionName="f", Name="live", RevisionId=revision)
    await check(stale, 412, STALE, STALE_TEXT)
    reset = await caller.update_alias(FunctionName="f", Name="live", RoutingConfig={"AdditionalVersionWeights": {}})
    assert "RoutingConfig" not in reset
    assert (await caller.call(Qualifier="live"))["version"] == "1"
    await caller.create_alias(FunctionName="f", Name="2024-01-02", FunctionVersion="$LATEST")
    await caller.create_alias(FunctionName="f", Name="a", FunctionVersion="2")
    found = (await caller.list_aliases(FunctionName="f"))["Aliases"]
    assert [one["Name"] for one in found] == ["2024-01-02", "a", "live"]
    assert (await caller.list_aliases(FunctionName="f", FunctionVersion="1")) == {"Aliases": [reset]}
    assert (await caller.list_aliases(FunctionName="f", MaxItems=2))["NextMarker"]
    for _ in range(2):
        await caller.delete_alias(FunctionName="f", Name="live")
        assert caller.metadata["HTTPStatusCode"] == 204


@pytest.mark.catalogue("CP-045", "CP-046", "CP-047", "CP-050")
async def test_what_aliases_refuse(caller: Caller) -> None:
    await two_versions(caller)

    def create(version: str = "1", name: str = "x", function: str = "f", **weights: float) -> Any:
        routing = (
            {"RoutingConfig": {"AdditionalVersionWeights": {k.strip("v"): w for k, w in weights.items()}}} if weights else {}
        )
        return caller.create_alias(FunctionName=function, Name=name, FunctionVersion=version, **routing)

    await create(name="custom")
    one = "1 validation error detected: "
    text = f"{one}Value '2024' at 'name' {FAILED}: Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"
    await check(create(name="2024"), 400, "ValidationException", text)
    await check(create(name="custom"), 409, CONFLICT, f"Alias already exists: {F}:custom")
    await check(
        caller.get_alias(FunctionName="f", Name="non-existent"), 404, NOT_FOUND, f"Cannot find alias arn: {F}:non-existent"
    )
    await check(
        caller.update_alias(FunctionName="f", Name="non-existent"), 404, NOT_FOUND, f"Alias not found: {F}:non-existent"
    )
    await check(create("10"), 404, NOT_FOUND, f"Function not found: {F}:10")
    await check(create(v10=0.5), 404, NOT_FOUND, f"Function not found: {F}:10")
    await check(create(function="unknown"), 404, NOT_FOUND, f"Function not found: {ARN}:function:unknown:1")
    text = "Number of items in AdditionalVersionWeights cannot be greater than 1"
    await check(create(v1=0.1, v2=0.1), 400, INVALID, text)
    text = "Invalid function version 1. Function version 1 is already included in routing configuration."
    await check(create(v1=0.1), 400, INVALID, text)
    text = "$LATEST is not supported for an alias pointing to more than 1 version"
    assert await refused(create("$LATEST", v1=0.1)) == (400, INVALID, text, False)
    await caller.update_alias(FunctionName="f", Name="custom", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}})
    said = await refused(caller.delete_function(FunctionName="f", Qualifier="2"))
    assert said.status == 409
    await change(caller, Role="arn:aws:iam::123456789012:role/another")
    await caller.publish_version(FunctionName="f")
    assert (await refused(create(v3=0.1)))[:2] == (400, INVALID)
    await caller.delete_function(FunctionName="f")
    await check(caller.get_alias(FunctionName="f", Name="custom"), 404, NOT_FOUND, f"Cannot find alias arn: {F}:custom")


async def test_an_alias_behind_a_name_that_looks_like_a_region(caller: Caller) -> None:
    """order-handler-1 is no region: those begin with two letters."""
    await caller.create("order-handler-1", Publish=True)
    await caller.create_alias(FunctionName="order-handler-1", Name="prod", FunctionVersion="1")
    found = await caller.get_function_configuration(FunctionName="order-handler-1:prod")
    assert found["FunctionArn"] == f"{ARN}:function:order-handler-1:prod"
