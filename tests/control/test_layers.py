"""Layers and their policies, as AWS answers (recorded)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.control.conftest import APP, ROLE, Caller, zip_of
from tests.control.helpers import ARN, CONFLICT, DATE, FAILED, INVALID, NOT_FOUND, STALE, check, refused, settled

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
CODE = zip_of(**{"python/shared_py": "value = 7"})
L = f"{ARN}:layer:l"
USER = "import shared\ndef handler(event, context): return shared.value\n"


@pytest.fixture
def lean() -> bool:
    return True


async def publish(caller: Caller, name: str = "l", **given: Any) -> dict[str, Any]:
    return dict(await caller.publish_layer_version(LayerName=name, Content={"ZipFile": CODE}, **given))


@pytest.mark.catalogue("CP-060", "CP-063")
async def test_the_life_of_a_layer(caller: Caller) -> None:
    made = await publish(caller)
    assert caller.metadata["HTTPStatusCode"] == 201
    assert set(made) == {"Content", "LayerArn", "LayerVersionArn", "Description", "CreatedDate", "Version"}
    assert set(made["Content"]) == {"Location", "CodeSha256", "CodeSize"}
    assert (made["LayerArn"], made["LayerVersionArn"], made["Version"], made["Description"]) == (L, f"{L}:1", 1, "")
    assert re.fullmatch(DATE, made["CreatedDate"])
    more = {"CompatibleRuntimes": ["python3.11", "python3.7"], "LicenseInfo": "MIT", "Description": "d"}
    two = await publish(caller, **more)
    assert {key: two[key] for key in more} == more
    assert (two["Version"], two["CompatibleArchitectures"]) == (2, [])
    for found in (
        await caller.get_layer_version(LayerName="l", VersionNumber=2),
        await caller.get_layer_version(LayerName=L, VersionNumber=2),
        await caller.get_layer_version_by_arn(Arn=f"{L}:2"),
    ):
        assert found.pop("Content").keys() == two["Content"].keys()
        assert found == {key: value for key, value in two.items() if key != "Content"}
    items = [{k: v for k, v in one.items() if k not in ("Content", "LayerArn")} for one in (two, made)]
    assert await caller.list_layer_versions(LayerName="l") == {"LayerVersions": items}
    assert await caller.list_layer_versions(LayerName="l", CompatibleRuntime="python3.11") == {"LayerVersions": items[:1]}
    assert await caller.list_layer_versions(LayerName="unknown") == {"LayerVersions": []}
    listed = {"LayerName": "l", "LayerArn": L, "LatestMatchingVersion": items[0]}
    assert await caller.list_layers() == {"Layers": [listed]}
    assert len((await caller.list_layer_versions(LayerName="l", MaxItems=1))["LayerVersions"]) == 1
    for _ in range(2):
        for version in (1, 2):
            await caller.delete_layer_version(LayerName="l", VersionNumber=version)
            assert caller.metadata["HTTPStatusCode"] == 204
    assert await caller.list_layers() == {"Layers": []}
    text = "The resource you requested does not exist."
    await check(caller.get_layer_version(LayerName="l", VersionNumber=1), 404, NOT_FOUND, text)
    assert (await publish(caller, CompatibleRuntimes=[], CompatibleArchitectures=[]))["Version"] == 3


@pytest.mark.catalogue("CP-060", "CP-063")
async def test_what_layers_refuse(caller: Caller) -> None:
    await publish(caller)
    gone = "The resource you requested does not exist."
    await check(caller.get_layer_version_by_arn(Arn=f"{L}:9"), 404, NOT_FOUND, gone)
    low = "Layer Version Cannot be less than 1"
    for version in (0, -1):
        await check(caller.get_layer_version(LayerName="l", VersionNumber=version), 400, INVALID, low)
        await check(caller.delete_layer_version(LayerName="l", VersionNumber=version), 400, INVALID, low)
    said = await refused(publish(caller, CompatibleRuntimes=["python3.11"] * 16))
    assert (said.status, said.code) == (400, "ValidationException")
    said = await refused(publish(caller, CompatibleRuntimes=["badone"], CompatibleArchitectures=["badarch"]))
    start = (
        f"2 validation errors detected: Value '[badone]' at 'compatibleRuntimes' {FAILED}: "
        f"Member must satisfy enum value set: ["
    )
    end = (
        f"]; Value '[badarch]' at 'compatibleArchitectures' {FAILED}: Member must satisfy constraint: "
        "[Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"
    )
    assert said.message.startswith(start)
    assert said.message.endswith(end)
    said = await refused(caller.list_layers(CompatibleArchitecture="bad"))
    text = (
        f"1 validation error detected: Value 'bad' at 'compatibleArchitecture' {FAILED}: "
        f"Member must satisfy enum value set: [x86_64, arm64]"
    )
    assert said.message == text


@pytest.mark.catalogue("CP-061", "CP-062")
async def test_a_function_keeps_a_layer_that_was_deleted(caller: Caller) -> None:
    await publish(caller)
    made = await caller.create(app=USER, Layers=[f"{L}:1"])
    assert made["Layers"] == [{"Arn": f"{L}:1", "CodeSize": len(CODE)}]
    await caller.publish_version(FunctionName="f")
    await caller.delete_layer_version(LayerName="l", VersionNumber=1)
    assert await caller.call() == 7
    await caller.update_function_configuration(FunctionName="f", MemorySize=256)  # environments are made anew
    await settled(caller)
    assert await caller.call() == 7
    assert (await caller.get_function_configuration(FunctionName="f"))["Layers"] == made["Layers"]
    text = f"Layer version {L}:1 does not exist."
    given = {
        "FunctionName": "g",
        "Runtime": "python3.11",
        "Handler": "app.handler",
        "Role": ROLE,
        "Code": {"ZipFile": zip_of(app_py=APP)},
    }
    await check(caller.create_function(**given, Layers=[f"{L}:1"]), 400, INVALID, text)
    assert "Layers" not in await caller.update_function_configuration(FunctionName="f", Layers=[])
    await settled(caller)
    await check(caller.update_function_configuration(FunctionName="f", Layers=[f"{L}:1"]), 400, INVALID, text)


@pytest.mark.catalogue("CP-061")
async def test_which_layers_a_function_may_have(caller: Caller) -> None:
    for n in range(6):
        await publish(caller, f"l{n}")
    await publish(caller, "l0")
    await caller.create()

    def use(*arns: str) -> Any:
        return caller.update_function_configuration(FunctionName="f", Layers=list(arns))

    await check(use(*(f"{L}{n}:1" for n in range(6))), 400, INVALID, "Cannot reference more than 5 layers.")
    text = "Two different versions of the same layer are not allowed to be referenced in the same function. "
    for other in (1, 2):
        what = f"{L}0:1 and {L}0:{other} are versions of the same layer."
        await check(use(f"{L}0:1", f"{L}0:{other}"), 400, INVALID, text + what)
    abroad = "arn:aws:lambda:eu-west-1:123456789012:layer:l0:1"
    text = "Layers are not in the same region as the function. Layers are expected to be in region us-east-1."
    await check(use(abroad), 400, INVALID, text)
    said = await refused(use(L))
    assert said.code == "ValidationException"
    assert said.message.startswith(
        f"1 validation error detected: Value '[{L}]' at 'layers' {FAILED}: Member must satisfy constraint: ["
    )
    assert len((await use(*(f"{L}{n}:1" for n in range(5))))["Layers"]) == 5


async def test_the_policy_of_a_layer_version(caller: Caller) -> None:
    await publish(caller)
    of: dict[str, Any] = {"LayerName": "l", "VersionNumber": 1}
    give = {**of, "StatementId": "s1", "Action": "lambda:GetLayerVersion", "Principal": "*"}
    none = "No policy is associated with the given resource."
    await check(caller.get_layer_version_policy(**of), 404, NOT_FOUND, none)
    added = await caller.add_layer_version_permission(**give)
    assert caller.metadata["HTTPStatusCode"] == 201
    statement = {"Sid": "s1", "Effect": "Allow", "Principal": "*", "Action": "lambda:GetLayerVersion", "Resource": f"{L}:1"}
    assert list(json.loads(added["Statement"]).items()) == list(statement.items())
    found = await caller.get_layer_version_policy(**of)
    assert found["RevisionId"] == added["RevisionId"]
    assert json.loads(found["Policy"]) == {"Version": "2012-10-17", "Id": "default", "Statement": [statement]}
    text = "The statement id (s1) provided already exists. Please provide a new statement id, or remove the existing statement."
    await check(caller.add_layer_version_permission(**give), 409, CONFLICT, text)
    text = (
        "The Revision Id provided does not match the latest Revision Id. "
        "Call the GetLayerPolicy API to retrieve the latest Revision Id"
    )
    stale = {**give, "StatementId": "s2", "RevisionId": "wrong"}
    await check(caller.add_layer_version_permission(**stale), 412, STALE, text)
    await check(caller.remove_layer_version_permission(**of, StatementId="s1", RevisionId="wrong"), 412, STALE, text)
    text = "Statement doesnotexist is not found in resource policy."
    await check(caller.remove_layer_version_permission(**of, StatementId="doesnotexist"), 404, NOT_FOUND, text)
    text = f"Layer version {L}:2 does not exist."
    await check(caller.get_layer_version_policy(LayerName="l", VersionNumber=2), 404, NOT_FOUND, text)
    await caller.remove_layer_version_permission(**of, StatementId="s1", RevisionId=added["RevisionId"])
    assert caller.metadata["HTTPStatusCode"] == 204
    await check(caller.get_layer_version_policy(**of), 404, NOT_FOUND, none)


async def test_version_0_is_not_version_1(caller: Caller) -> None:
    await publish(caller)
    assert (await refused(caller.get_layer_version_by_arn(Arn=f"{L}:0"))).status in (400, 404)
