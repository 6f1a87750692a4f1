"""Functions: create, read, update, delete, as AWS answers (recorded)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import urllib.error
import urllib.request
from typing import Any

import pytest

from sandbox.control.operations import SUPPORTED
from sandbox.control.rest_json import Request
from tests.control.conftest import APP, ROLE, Caller, zip_of
from tests.control.helpers import (
    ARN,
    CONFLICT,
    DATE,
    FAILED,
    INVALID,
    NOT_FOUND,
    STALE,
    STALE_TEXT,
    UUID,
    check,
    nothing_settles,
    refused,
    settled,
)

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
CODE = zip_of(app_py=APP)
OTHER = zip_of(app_py=APP + "\n# another one")
DIGEST = base64.b64encode(hashlib.sha256(CODE).digest()).decode()
GIVEN = {"FunctionName": "f", "Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE}
IN_PROGRESS = f"The operation cannot be performed at this time. An update is in progress for resource: {ARN}:function:f"
PENDING = "The operation cannot be performed at this time. The function is currently in the following state: Pending"


@pytest.fixture
def lean() -> bool:
    return True


def base(**more: Any) -> dict[str, Any]:
    """What every answer on a function says that was created with nothing but what is required."""
    return {
        "FunctionName": "f",
        "FunctionArn": f"{ARN}:function:f",
        "Runtime": "python3.11",
        "Role": ROLE,
        "Handler": "app.handler",
        "CodeSize": len(CODE),
        "CodeSha256": DIGEST,
        "Description": "",
        "Timeout": 3,
        "MemorySize": 128,
        "Version": "$LATEST",
        "TracingConfig": {"Mode": "PassThrough"},
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/f"},
        **more,
    }


CREATING = {"StateReason": "The function is being created.", "StateReasonCode": "Creating"}
UPDATING = {f"LastUpdateStatus{key.removeprefix('State')}": value for key, value in CREATING.items()}


def without_changing(answer: dict[str, Any], *, listed: bool = False) -> dict[str, Any]:
    """The answer without what differs each time, which is checked."""
    rest = dict(answer)
    assert re.fullmatch(UUID, rest.pop("RevisionId"))
    assert re.fullmatch(DATE, rest.pop("LastModified"))
    if not listed:
        runtime = rest.pop("RuntimeVersionConfig")
        assert set(runtime) == {"RuntimeVersionArn"}
        assert re.fullmatch(r"arn:aws:lambda:us-east-1::runtime:[0-9a-f]{64}", runtime["RuntimeVersionArn"])
    return rest


@pytest.mark.catalogue("CP-001", "CP-006", "CP-009", "CP-017", "CP-018", "CP-025", "CP-027")
async def test_the_keys_of_an_answer_in_each_state(caller: Caller) -> None:
    async with nothing_settles(caller.service):
        made = await caller.create_function(**GIVEN, Code={"ZipFile": CODE})
        assert caller.metadata["HTTPStatusCode"] == 201
        assert without_changing(made) == base(State="Pending", **CREATING)
        assert await caller.get_function_configuration(FunctionName="f") == made
    await settled(caller)
    active = await caller.get_function_configuration(FunctionName="f")
    assert without_changing(active) == base(State="Active", LastUpdateStatus="Successful")
    async with nothing_settles(caller.service):
        changed = await caller.update_function_configuration(FunctionName="f", MemorySize=256)
        assert caller.metadata["HTTPStatusCode"] == 200
        state = {"State": "Active", "LastUpdateStatus": "InProgress", **UPDATING}
        assert without_changing(changed) == base(MemorySize=256, **state)
        assert (await caller.get_function(FunctionName="f"))["Configuration"] == changed
    await settled(caller)
    last = await caller.get_function_configuration(FunctionName="f")
    assert without_changing(last) == base(MemorySize=256, State="Active", LastUpdateStatus="Successful")
    assert len({one["RevisionId"] for one in (made, active, changed, last)}) == 4
    (item,) = (await caller.list_functions())["Functions"]
    assert without_changing(item, listed=True) == base(MemorySize=256)


async def test_a_change_of_nothing_is_an_update_too(caller: Caller) -> None:
    await caller.create()
    seen = [(await caller.get_function_configuration(FunctionName="f"))["RevisionId"]]
    changed = await caller.update_function_code(FunctionName="f", ZipFile=CODE)
    assert changed["LastUpdateStatus"] == "InProgress"
    seen.append(changed["RevisionId"])
    await settled(caller)
    seen.append((await caller.get_function_configuration(FunctionName="f"))["RevisionId"])
    assert len(set(seen)) == 3


@pytest.mark.catalogue("CP-017", "CP-070")
async def test_get_function(caller: Caller) -> None:
    await caller.create(Code={"ZipFile": CODE})
    found = await caller.get_function(FunctionName="f")
    assert set(found) == {"Configuration", "Code"}
    assert set(found["Code"]) == {"RepositoryType", "Location"}
    assert found["Code"]["RepositoryType"] == "S3"
    link = found["Code"]["Location"]

    def load(url: str) -> bytes:
        with urllib.request.urlopen(url) as answer:
            return bytes(answer.read())

    assert await asyncio.to_thread(load, link) == CODE
    with pytest.raises(urllib.error.HTTPError, match="403") as bad_link:
        await asyncio.to_thread(load, link[:-1] + ("0" if link[-1] != "0" else "1"))
    bad_link.value.close()
    await caller.tag_resource(Resource=f"{ARN}:function:f", Tags={"a": "b"})
    await caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    found = await caller.get_function(FunctionName="f")
    assert (found["Tags"], found["Concurrency"]) == ({"a": "b"}, {"ReservedConcurrentExecutions": 0})


@pytest.mark.catalogue("CP-018", "CP-016")
async def test_the_arn_says_what_was_asked_for(caller: Caller) -> None:
    made = await caller.create(Publish=True)
    assert (made["Version"], made["State"]) == ("1", "Pending")
    assert made["FunctionArn"] == f"{ARN}:function:f"
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    await settled(caller)
    one = await caller.get_function_configuration(FunctionName="f", Qualifier="1")
    for qualifier, version in (("$LATEST", "$LATEST"), ("1", "1"), ("live", "1")):
        for named in ({"FunctionName": "f", "Qualifier": qualifier}, {"FunctionName": f"{ARN}:function:f:{qualifier}"}):
            found = (await caller.get_function(**named))["Configuration"]
            assert (found["FunctionArn"], found["Version"]) == (f"{ARN}:function:f:{qualifier}", version)
            assert await caller.get_function_configuration(**named) == found
        assert (found["RevisionId"] == one["RevisionId"]) == (version == "1")
    found = await caller.get_function_configuration(FunctionName="123456789012:function:f")
    assert (found["FunctionArn"], found["Version"]) == (f"{ARN}:function:f", "$LATEST")


@pytest.mark.catalogue("CP-002", "CP-008")
@pytest.mark.parametrize("missing", ["Runtime", "Handler", "Role", "Code", "FunctionName"])
async def test_what_is_required(caller: Caller, missing: str) -> None:
    given = {**GIVEN, "Code": {"ZipFile": CODE}}
    given.pop(missing)
    said = await refused(caller.create_function(**given))
    assert said.status == 400
    assert missing.lower() in said.message.lower()
    if missing in ("Role", "Code", "FunctionName"):
        member = missing[0].lower() + missing[1:]
        assert said.message == f"1 validation error detected: Value null at '{member}' {FAILED}: Member must not be null"
    assert (await caller.list_functions())["Functions"] == []


@pytest.mark.catalogue("CP-005", "CP-003", "CP-004", "CP-007", "CP-012", "CP-013", "CP-029", "CP-030", "CP-010")
async def test_what_create_refuses(caller: Caller) -> None:
    def create(**more: Any) -> Any:
        return caller.create_function(**{**GIVEN, "Code": {"ZipFile": CODE}, **more})

    one = "1 validation error detected: "
    role = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"
    text = f"{one}Value 'r1' at 'role' {FAILED}: Member must satisfy regular expression pattern: {role}"
    await check(create(Role="r1"), 400, "ValidationException", text)
    longer = "a" * 65
    text = f"{one}Value '{longer}' at 'functionName' {FAILED}: Member must have length less than or equal to 64"
    said = await refused(create(FunctionName=longer))
    assert said == (400, INVALID, text, True)
    for runtime in ("python2.0", "PYTHON3.9"):
        said = await refused(create(Runtime=runtime))
        start = f"Value {runtime} at 'runtime' {FAILED}: Member must satisfy enum value set: [nodejs20.x, python3.14, "
        assert (said.status, said.code, said.typed) == (400, INVALID, True)
        assert said.message.startswith(start)
        assert said.message.endswith("] or be a valid ARN")
    text = (
        "The runtime parameter of {} is no longer supported for creating or updating AWS Lambda functions. "
        "We recommend you use a supported runtime while creating or updating functions."
    )
    for runtime in ("java8", "go1.x", "provided", "ruby2.7", "nodejs14.x", "python3.7", "dotnetcore3.1", "nodejs12.x"):
        await check(create(Runtime=runtime), 400, INVALID, text.format(runtime))
    text = f"{one}Value '[x86_64, arm64]' at 'architectures' {FAILED}: Member must have length less than or equal to 1"
    await check(create(Architectures=["x86_64", "arm64"]), 400, "ValidationException", text)
    text = "Could not unzip uploaded file. Please check your file, then try to upload again."
    await check(create(Code={"ZipFile": b"no zip"}), 400, INVALID, text)
    await check(create(Tags={f"k{n}": "" for n in range(51)}), 400, INVALID, "Number of tags exceeds resource tag limit.")
    for name, bad in (("Timeout", (0, 901)), ("MemorySize", (127, 10241))):
        for value in bad:
            said = await refused(create(**{name: value}))
            assert said.status == 400
            assert f"Value '{value}' at '{name[0].lower()}{name[1:]}' {FAILED}: Member must have value" in said.message
    for size in (511, 10241):
        said = await refused(create(EphemeralStorage={"Size": size}))
        assert f"Value '{size}' at 'ephemeralStorage.size' {FAILED}: Member must have value" in said.message
    said = await refused(create(LoggingConfig={"LogFormat": "Text", "ApplicationLogLevel": "INFO"}))
    assert (said.status, said.code) == (400, INVALID)
    said = await refused(create(Environment={"Variables": {"AWS_REGION": "x"}}))
    assert (said.status, said.code) == (400, INVALID)
    assert "AWS_REGION" in said.message
    said = await refused(create(Environment={"Variables": {"1x": "x"}}))
    assert (said.status, said.code) == (400, "ValidationException")
    assert (await caller.list_functions())["Functions"] == []
    await caller.create()
    said = await refused(create())
    assert said == (409, CONFLICT, "Function already exist: f", True)


@pytest.mark.catalogue("CP-012")
async def test_the_limit_of_the_environment_is_that_of_its_json(caller: Caller) -> None:
    fits = {"SMALL_VAR": "ok", "LARGE_VAR": "x" * (4096 - len('{"SMALL_VAR":"ok","LARGE_VAR":""}'))}
    made = await caller.create(Environment={"Variables": fits})
    assert made["Environment"] == {"Variables": fits}
    fits["LARGE_VAR"] += "x"
    text = (
        "Lambda was unable to configure your environment variables because the environment variables you have provided "
        'exceeded the 4KB limit. String measured: {"SMALL_VAR":"ok","LARGE_VAR":"' + fits["LARGE_VAR"] + '"}'
    )
    await check(caller.update_function_configuration(FunctionName="f", Environment={"Variables": fits}), 400, INVALID, text)


@pytest.mark.catalogue("CP-008")
async def test_code_is_one_thing(caller: Caller) -> None:
    for code in (
        {},
        {"ZipFile": CODE, "S3Bucket": "bucket", "S3Key": "key"},
        {"ZipFile": CODE, "ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/i:latest"},
        {"ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/i:latest"},
    ):
        said = await refused(caller.create_function(**GIVEN, Code=code))
        assert (said.status, said.code) == (400, INVALID), code
    await caller.create()
    text = "Please don't provide ImageUri when updating a function with packageType Zip."
    await check(caller.update_function_code(FunctionName="f", ImageUri="x"), 400, INVALID, text)


@pytest.mark.catalogue("CP-011")
async def test_code_that_is_too_big(caller: Caller) -> None:
    big = zip_of(app_py=APP, data=b"\0" * 10)
    code = {"ZipFile": big + b"\0" * (52_428_800 - len(big) + 1)}
    text = "Zipped size must be smaller than 52428800 bytes"
    said = await refused(caller.create_function(**GIVEN, Code=code))
    assert said == (413, "RequestEntityTooLargeException", text, False)
    code = {"ZipFile": b"\0" * 52_700_000}
    text = "Request must be smaller than 70167211 bytes for the CreateFunction operation"
    said = await refused(caller.create_function(**GIVEN, Code=code))
    assert said == (413, "RequestEntityTooLargeException", text, False)


@pytest.mark.catalogue("CP-019", "CP-023")
async def test_while_something_is_on_its_way_the_rest_is_refused(caller: Caller) -> None:
    calls: list[Any] = [
        lambda: caller.update_function_code(FunctionName="f", ZipFile=OTHER),
        lambda: caller.update_function_configuration(FunctionName="f", Timeout=9),
        lambda: caller.publish_version(FunctionName="f"),
        lambda: caller.tag_resource(Resource=f"{ARN}:function:f", Tags={"a": "b"}),
    ]
    async with nothing_settles(caller.service):
        await caller.create_function(**GIVEN, Code={"ZipFile": CODE})
        for call in calls:
            await check(call(), 409, CONFLICT, PENDING)
        await check(caller.invoke(FunctionName="f"), 409, CONFLICT, PENDING)
    await settled(caller)
    async with nothing_settles(caller.service):
        await caller.update_function_code(FunctionName="f", ZipFile=OTHER)
        for call in calls:
            await check(call(), 409, CONFLICT, IN_PROGRESS)
        assert (await caller.call())["version"] == "$LATEST"  # the old code is served meanwhile
    await settled(caller)
    for call in calls:
        await call()
        await settled(caller)


@pytest.mark.catalogue("CP-019", "CP-028")
async def test_new_code_is_served_when_the_update_has_succeeded(caller: Caller) -> None:
    app = "def handler(event, context): return {}"
    await caller.create(app=app.format(1))
    assert await caller.call() == 1
    async with nothing_settles(caller.service):
        await caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=app.format(2)))
        assert await caller.call() == 1
    await settled(caller)
    assert await caller.call() == 2


@pytest.mark.catalogue("CP-021")
async def test_a_stale_revision(caller: Caller) -> None:
    made = await caller.create()
    old = made["RevisionId"]  # of the pending one
    await check(caller.update_function_code(FunctionName="f", ZipFile=CODE, RevisionId=old), 412, STALE, STALE_TEXT)
    await check(caller.update_function_configuration(FunctionName="f", RevisionId=old), 412, STALE, STALE_TEXT)
    await check(caller.publish_version(FunctionName="f", RevisionId=old), 412, STALE, STALE_TEXT)
    fresh = (await caller.get_function_configuration(FunctionName="f"))["RevisionId"]
    assert (await caller.update_function_code(FunctionName="f", ZipFile=CODE, RevisionId=fresh))["RevisionId"] != fresh


@pytest.mark.catalogue("CP-020")
async def test_a_dry_run_changes_nothing(caller: Caller) -> None:
    await caller.create()
    before = await caller.get_function_configuration(FunctionName="f")
    said = await caller.update_function_code(FunctionName="f", ZipFile=OTHER, DryRun=True, Publish=True)
    assert said["CodeSha256"] == base64.b64encode(hashlib.sha256(OTHER).digest()).decode()
    assert await caller.get_function_configuration(FunctionName="f") == before
    assert len((await caller.list_versions_by_function(FunctionName="f"))["Versions"]) == 1
    assert (await refused(caller.update_function_code(FunctionName="f", ZipFile=b"x", DryRun=True))).status == 400


@pytest.mark.catalogue("CP-022", "CP-044")
async def test_a_published_version_is_not_updated(caller: Caller) -> None:
    await caller.create(Publish=True)
    for named in ("f:1", f"{ARN}:function:f:1"):
        assert (await refused(caller.update_function_configuration(FunctionName=named, Timeout=9))).status == 400
        assert (await refused(caller.update_function_code(FunctionName=named, ZipFile=OTHER))).status == 400


async def test_members_that_are_shown_only_when_they_are_set(caller: Caller) -> None:
    made = await caller.create(
        Environment={},
        VpcConfig={"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        DeadLetterConfig={"TargetArn": "arn:aws:sqs:us-east-1:123456789012:q"},
        KMSKeyArn="arn:aws:kms:us-east-1:123456789012:key/k",
    )
    assert made["Environment"] == {"Variables": {}}
    vpc = made["VpcConfig"]
    assert vpc.pop("VpcId").startswith("vpc-")
    assert vpc == {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"], "Ipv6AllowedForDualStack": False}

    async def change(**settings: Any) -> dict[str, Any]:
        answer = await caller.update_function_configuration(FunctionName="f", **settings)
        await settled(caller)
        return dict(answer)

    empty = {"SubnetIds": [], "SecurityGroupIds": []}
    changed = await change(VpcConfig=empty, DeadLetterConfig={"TargetArn": ""}, KMSKeyArn="")
    assert changed["VpcConfig"] == {**empty, "VpcId": "", "Ipv6AllowedForDualStack": False}
    assert not {"DeadLetterConfig", "KMSKeyArn"} & changed.keys()
    assert (await change(Environment={"Variables": {"AB": "c"}}))["Environment"] == {"Variables": {"AB": "c"}}
    assert (await change(Environment={"Variables": {"DE": "f"}}))["Environment"] == {"Variables": {"DE": "f"}}
    assert (await change(Environment={"Variables": {}}))["Environment"] == {"Variables": {}}
    assert (await change(Timeout=900, MemorySize=10240, EphemeralStorage={"Size": 10240}))["Timeout"] == 900
    await caller.create("g")
    assert "VpcConfig" not in await caller.update_function_configuration(FunctionName="g", VpcConfig=empty)


@pytest.mark.catalogue("CP-013")
async def test_logging(caller: Caller) -> None:
    await caller.create()

    async def change(**logging: str) -> dict[str, Any]:
        answer = await caller.update_function_configuration(FunctionName="f", LoggingConfig=logging)
        await settled(caller)
        return dict(answer["LoggingConfig"])

    levels = {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}
    group = {"LogGroup": "/aws/lambda/f"}
    assert await change(LogFormat="JSON") == {"LogFormat": "JSON", **group, **levels}
    assert await change(LogFormat="JSON", SystemLogLevel="WARN") == {
        "LogFormat": "JSON",
        **group,
        **levels,
        "SystemLogLevel": "WARN",
    }
    assert await change(LogGroup="mine") == {"LogFormat": "JSON", "LogGroup": "mine", **levels, "SystemLogLevel": "WARN"}
    assert await change(LogFormat="Text") == {"LogFormat": "Text", "LogGroup": "mine"}
    said = await refused(caller.update_function_configuration(FunctionName="f", LoggingConfig={"SystemLogLevel": "INFO"}))
    assert (said.status, said.code) == (400, INVALID)


@pytest.mark.catalogue("CP-024")
async def test_delete(caller: Caller) -> None:
    await caller.create(Publish=True)
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    text = "$LATEST version cannot be deleted without deleting the function."
    for named in ({"FunctionName": "f", "Qualifier": "$LATEST"}, {"FunctionName": "nothing:$LATEST"}):
        await check(caller.delete_function(**named), 400, INVALID, text)
    said = await refused(caller.delete_function(FunctionName="f", Qualifier="1"))
    assert (said.status, said.code) == (409, CONFLICT)
    await check(
        caller.delete_function(FunctionName="f", Qualifier="live"),
        400,
        INVALID,
        "Deletion of aliases is not currently supported.",
    )
    await caller.delete_alias(FunctionName="f", Name="live")
    for qualifier in ("1", "1", "77"):  # one that is not there is no error
        await caller.delete_function(FunctionName="f", Qualifier=qualifier)
        assert caller.metadata["HTTPStatusCode"] == 204
    text = f"Function not found: {ARN}:function:f:1"
    await check(caller.get_function(FunctionName="f", Qualifier="1"), 404, NOT_FOUND, text)
    assert (await caller.call())["version"] == "$LATEST"
    await caller.delete_function(FunctionName="f")
    assert caller.metadata["HTTPStatusCode"] == 204
    await check(caller.delete_function(FunctionName="f"), 404, NOT_FOUND, f"Function not found: {ARN}:function:f")
    await check(
        caller.delete_function(FunctionName="f", Qualifier="1"), 404, NOT_FOUND, f"Function not found: {ARN}:function:f"
    )
    await caller.create()  # the same name works at once
    assert (await caller.call())["calls"] == 1


async def test_a_function_that_is_deleted_while_it_is_created(caller: Caller) -> None:
    async with nothing_settles(caller.service):
        for handler in ("app.first", "app.handler"):
            await caller.create_function(**{**GIVEN, "Handler": handler}, Code={"ZipFile": CODE})
            if handler == "app.first":
                await caller.delete_function(FunctionName="f")
    await settled(caller)
    await caller.active("f")
    assert (await caller.call())["calls"] == 1


@pytest.mark.catalogue("CP-025")
async def test_lists_come_in_pages(caller: Caller) -> None:
    names = sorted(f"f{n}" for n in range(51))
    for name in names:
        await caller.create_function(**{**GIVEN, "FunctionName": name}, Code={"ZipFile": CODE})
    first = await caller.list_functions()
    assert len(first["Functions"]) == 50
    last = await caller.list_functions(Marker=first["NextMarker"], MaxItems=10_000)
    assert [one["FunctionName"] for one in first["Functions"] + last["Functions"]] == names
    assert set(last) == {"Functions"}

    def paged(size: int) -> list[list[str]]:
        pages = caller.client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": size})
        return [[one["FunctionName"] for one in page["Functions"]] for page in pages]

    pages = await asyncio.to_thread(paged, 17)
    assert [len(page) for page in pages] == [17, 17, 17]
    assert [name for page in pages for name in page] == names
    for size in (0, 10_001):
        said = await refused(caller.list_functions(MaxItems=size))
        assert (said.status, said.code) == (400, "ValidationException")
        assert f"Value '{size}' at 'maxItems' {FAILED}: Member must have value" in said.message
    assert (await refused(caller.list_functions(Marker="²"))).status == 400


@pytest.mark.catalogue("CP-025")
async def test_all_versions_in_a_list(caller: Caller) -> None:
    await caller.create("b", Publish=True)
    await caller.create("a")
    found = (await caller.list_functions(FunctionVersion="ALL"))["Functions"]
    assert [one["FunctionArn"] for one in found] == [f"{ARN}:function:{name}" for name in ("a:$LATEST", "b:$LATEST", "b:1")]
    assert [one["Version"] for one in found] == ["$LATEST", "$LATEST", "1"]
    keys = set(base()) | {"RevisionId", "LastModified"}
    assert all(set(one) == keys for one in found)
    text = "1 validation error detected: Value 'invalid' at 'functionVersion' "
    text += f"{FAILED}: Member must satisfy enum value set: [ALL]"
    await check(caller.list_functions(FunctionVersion="invalid"), 400, "ValidationException", text)


@pytest.mark.catalogue("CP-026")
async def test_botocores_waiters(caller: Caller) -> None:
    def wait(name: str, **named: str) -> None:
        caller.client.get_waiter(name).wait(FunctionName="f", **named, WaiterConfig={"Delay": 0, "MaxAttempts": 2000})

    await caller.create_function(**GIVEN, Code={"ZipFile": CODE}, Publish=True)
    for name in ("function_exists", "function_active", "function_active_v2", "function_updated", "function_updated_v2"):
        await asyncio.to_thread(wait, name)
    await asyncio.to_thread(wait, "published_version_active", Qualifier="1")
    await caller.update_function_code(FunctionName="f", ZipFile=OTHER)
    await asyncio.to_thread(wait, "function_updated_v2")
    assert (await caller.get_function_configuration(FunctionName="f"))["LastUpdateStatus"] == "Successful"


@pytest.mark.catalogue("CP-027")
async def test_a_runtime_that_is_not_here_fails_the_function(caller: Caller) -> None:
    await caller.create_function(**{**GIVEN, "Runtime": "java21"}, Code={"ZipFile": CODE})
    await settled(caller)
    found = await caller.get_function_configuration(FunctionName="f")
    assert found["State"] == "Failed"
    assert found["StateReasonCode"] in ("InvalidRuntime", "FunctionError.InvalidRuntime")
    assert found["StateReason"]


@pytest.mark.catalogue("CP-014")
async def test_tenant_isolation_is_chosen_once(caller: Caller) -> None:
    tenancy = {"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}}
    snap = {"SnapStart": {"ApplyOn": "PublishedVersions"}}
    said = await refused(caller.create_function(**GIVEN, Code={"ZipFile": CODE}, **tenancy, **snap))
    assert said.status == 400
    assert (await caller.create(**tenancy))["TenancyConfig"] == tenancy["TenancyConfig"]
    assert (await refused(caller.update_function_configuration(FunctionName="f", **snap))).status == 400
    assert (await caller.get_function_configuration(FunctionName="f"))["TenancyConfig"] == tenancy["TenancyConfig"]


@pytest.mark.catalogue("CP-015")
@pytest.mark.parametrize(
    "setting",
    [
        {"DurableConfig": {"ExecutionTimeout": 60}},
        {"CapacityProviderConfig": {"LambdaManagedInstancesCapacityProviderConfig": {"CapacityProviderArn": "x"}}},
        {"FileSystemConfigs": [{"Arn": "x", "LocalMountPath": "/mnt/x"}]},
        {"AcceleratorConfig": {"AcceleratorMemorySize": 1}},
        {"CodeSigningConfigArn": "arn:aws:lambda:us-east-1:123456789012:code-signing-config:csc-" + "a" * 17},
        {"PublishTo": "LATEST_PUBLISHED", "Publish": True},
        {"PackageType": "Image"},
    ],
    ids=lambda setting: next(iter(setting)),
)
async def test_what_is_not_supported_is_not_passed_over(caller: Caller, setting: dict[str, Any]) -> None:
    said = await refused(caller.create_function(**GIVEN, Code={"ZipFile": CODE}, **setting))
    assert said.status >= 400
    if said.code != "ValidationException":
        assert next(iter(setting)) in said.message
    assert (await caller.list_functions())["Functions"] == []


async def test_operations_that_are_not_supported_are_named(caller: Caller) -> None:
    api = caller.service.api
    others = [name for name in api.operations if name not in SUPPORTED]
    assert others
    for name in others:
        operation = api.model.operation_model(name)
        path, _, query = re.sub(r"\{[^}]+\}", "x", operation.http["requestUri"]).partition("?")
        answer = await caller.service.handle(Request(operation.http["method"], path, query, {}, b"{}"))
        assert answer.status == 501, name
        assert answer.headers["x-amzn-ErrorType"] == "UnsupportedOperationException"
        assert re.search(rf"\b{name}\b", answer.body.decode())
    said = await refused(caller.list_event_source_mappings())
    assert (said.status, said.code) == (501, "UnsupportedOperationException")
    assert "ListEventSourceMappings" in said.message
