"""Tags, permissions and small settings, as AWS answers (recorded)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.control.conftest import Caller
from tests.control.helpers import ARN, CONFLICT, FAILED, INVALID, NOT_FOUND, STALE, check, refused, settled

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
F = f"{ARN}:function:f"


@pytest.fixture
def lean() -> bool:
    return True


@pytest.mark.catalogue("CP-030")
async def test_tags(caller: Caller) -> None:
    await caller.create()
    assert await caller.list_tags(Resource=F) == {"Tags": {}}
    seen = [(await caller.get_function_configuration(FunctionName="f"))["RevisionId"]]
    for tags in ({"a": "1", "b c": "é"}, {"a": "2"}):
        await caller.tag_resource(Resource=F, Tags=tags)
        assert caller.metadata["HTTPStatusCode"] == 204
        seen.append((await caller.get_function_configuration(FunctionName="f"))["RevisionId"])
    assert await caller.list_tags(Resource=F) == {"Tags": {"a": "2", "b c": "é"}}
    await caller.untag_resource(Resource=F, TagKeys=["a", "unknown"])
    assert caller.metadata["HTTPStatusCode"] == 204
    seen.append((await caller.get_function_configuration(FunctionName="f"))["RevisionId"])
    assert len(set(seen)) == len(seen)
    assert await caller.list_tags(Resource=F) == {"Tags": {"b c": "é"}}
    many = "Number of tags exceeds resource tag limit."
    await check(caller.tag_resource(Resource=F, Tags={f"k{n}": "" for n in range(50)}), 400, INVALID, many)
    await caller.tag_resource(Resource=F, Tags={f"k{n}": "" for n in range(49)})
    await check(
        caller.tag_resource(Resource=F, Tags={}), 400, INVALID, "An error occurred and the request cannot be processed."
    )
    text = f"1 validation error detected: Value null at 'tagKeys' {FAILED}: Member must not be null"
    await check(caller.untag_resource(Resource=F, TagKeys=[]), 400, "ValidationException", text)
    text = "Tags on function aliases and versions are not supported. Please specify a function ARN."
    for end in (":1", ":$LATEST", ":alias"):
        await check(caller.list_tags(Resource=F + end), 400, INVALID, text)
    unknown = f"{ARN}:function:unknown"
    await check(caller.list_tags(Resource=unknown), 404, NOT_FOUND, f"Function not found: {unknown}")
    unknown = f"{ARN}:event-source-mapping:{'0' * 8}-0000-0000-0000-{'0' * 12}"
    await check(caller.list_tags(Resource=unknown), 404, NOT_FOUND, f"Event source mapping not found: {unknown}")


@pytest.mark.catalogue("CP-097")
async def test_permissions(caller: Caller) -> None:
    await caller.create(Publish=True)
    await caller.create_alias(FunctionName="f", Name="a", FunctionVersion="1")
    f = {"FunctionName": "f"}
    do = {"Action": "lambda:InvokeFunction"}
    none = "The resource you requested does not exist."
    await check(caller.get_policy(**f), 404, NOT_FOUND, none)
    principals: list[tuple[str, Any]] = [
        ("s3.amazonaws.com", {"Service": "s3.amazonaws.com"}),
        ("*", "*"),
        ("111122223333", {"AWS": "arn:aws:iam::111122223333:root"}),
        ("arn:aws:iam::111122223333:role/r", {"AWS": "arn:aws:iam::111122223333:role/r"}),
    ]
    statements = []
    for n, (given, shown) in enumerate(principals):
        made = await caller.add_permission(**f, **do, StatementId=f"s{n}", Principal=given)
        assert caller.metadata["HTTPStatusCode"] == 201
        assert set(made) == {"Statement"}
        statement = {"Sid": f"s{n}", "Effect": "Allow", "Principal": shown, **do, "Resource": F}
        assert list(json.loads(made["Statement"]).items()) == list(statement.items())
        statements.append(statement)
    found = await caller.get_policy(**f)
    assert json.loads(found["Policy"]) == {"Version": "2012-10-17", "Id": "default", "Statement": statements}
    every = {
        "SourceArn": "arn:aws:s3:::b",
        "SourceAccount": "111122223333",
        "FunctionUrlAuthType": "NONE",
        "PrincipalOrgID": "o-1234567890",
    }
    made = await caller.add_permission(**f, **do, StatementId="all", Principal="*", Qualifier="a", **every)
    statement = json.loads(made["Statement"])
    assert statement["Resource"] == f"{F}:a"
    strings = {"AWS:SourceAccount": "111122223333", "lambda:FunctionUrlAuthType": "NONE", "aws:PrincipalOrgID": "o-1234567890"}
    condition = {"StringEquals": strings, "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::b"}}
    assert json.dumps(statement["Condition"]) == json.dumps(condition)  # in this order

    def add(**more: Any) -> Any:
        return caller.add_permission(**{**f, **do, "StatementId": "x", "Principal": "*", **more})

    text = "The statement id (s1) provided already exists. Please provide a new statement id, or remove the existing statement."
    await check(add(StatementId="s1"), 409, CONFLICT, text)
    await check(add(Qualifier="$LATEST"), 400, INVALID, "We currently do not support adding policies for $LATEST.")
    text = "The provided principal was invalid. Please check the principal and try again."
    await check(add(Principal="nobody"), 400, INVALID, text)
    await check(add(FunctionName="no"), 404, NOT_FOUND, f"Function not found: {ARN}:function:no")
    await check(add(Qualifier="42"), 404, NOT_FOUND, f"Function not found: {F}:42")
    await check(add(Qualifier="no"), 404, NOT_FOUND, f"Cannot find alias arn: {F}:no")
    await check(add(Qualifier="with-$-x"), 404, NOT_FOUND, f"Function not found: {F}:with-$-x")
    text = f"1 validation error detected: Value 'example.com' at 'statementId' {FAILED}: "
    await check(
        add(StatementId="example.com"),
        400,
        "ValidationException",
        text + "Member must satisfy regular expression pattern: ([a-zA-Z0-9-_]+)",
    )
    assert (await refused(add(RevisionId="wrong")))[:2] == (412, STALE)
    remove = caller.remove_permission
    await check(remove(FunctionName="no", StatementId="s"), 404, NOT_FOUND, f"No policy found for: {ARN}:function:no")
    await check(remove(**f, StatementId="s", Qualifier="1"), 404, NOT_FOUND, "No policy is associated with the given resource.")
    await check(remove(**f, StatementId="no"), 404, NOT_FOUND, "Statement no is not found in resource policy.")
    await remove(**f, StatementId="s0", RevisionId=found["RevisionId"])
    assert caller.metadata["HTTPStatusCode"] == 204
    assert (await caller.get_policy(**f))["RevisionId"] != found["RevisionId"]
    await remove(**f, StatementId="all", Qualifier="a")
    await check(caller.get_policy(**f, Qualifier="a"), 404, NOT_FOUND, none)


@pytest.mark.catalogue("CP-096")
async def test_small_settings(caller: Caller) -> None:
    await caller.create()
    f = {"FunctionName": "f"}
    assert await caller.get_function_code_signing_config(**f) == {}
    assert await caller.get_function_recursion_config(**f) == {"RecursiveLoop": "Terminate"}
    assert await caller.put_function_recursion_config(**f, RecursiveLoop="Allow") == {"RecursiveLoop": "Allow"}
    assert await caller.get_function_recursion_config(**f) == {"RecursiveLoop": "Allow"}
    before = (await caller.get_function_configuration(**f))["RuntimeVersionConfig"]
    arn = f"arn:aws:lambda:us-east-1::runtime:{'0' * 64}"
    assert (await caller.get_runtime_management_config(**f))["UpdateRuntimeOn"] == "Auto"
    said = await caller.put_runtime_management_config(**f, UpdateRuntimeOn="Manual", RuntimeVersionArn=arn)
    assert (said["UpdateRuntimeOn"], said["RuntimeVersionArn"]) == ("Manual", arn)
    await caller.update_function_configuration(**f, Timeout=9)
    await settled(caller)
    assert (await caller.get_function_configuration(**f))["RuntimeVersionConfig"] == {"RuntimeVersionArn": arn}
    assert (await refused(caller.put_runtime_management_config(**f, UpdateRuntimeOn="Manual"))).status == 400
    assert (await refused(caller.put_runtime_management_config(**f, UpdateRuntimeOn="x"))).status == 400
    await caller.put_runtime_management_config(**f, UpdateRuntimeOn="Auto")
    assert (await caller.get_function_configuration(**f))["RuntimeVersionConfig"] == before


@pytest.mark.catalogue("CP-096")
async def test_another_recursive_loop(caller: Caller) -> None:
    text = (
        f"1 validation error detected: Value 'x' at 'recursiveLoop' {FAILED}: "
        f"Member must satisfy enum value set: [Terminate, Allow]"
    )
    said = caller.put_function_recursion_config(FunctionName="f", RecursiveLoop="x")
    await check(said, 400, "ValidationException", text)
