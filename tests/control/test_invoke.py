"""Invoke over both ways in: what it takes, what it refuses, what it answers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from botocore.exceptions import ClientError

from sandbox.control.errors import ApiError
from sandbox.core.limits import INVOKE_LIMIT, PAYLOAD_LIMIT
from tests.conftest import Connection, Reply, request
from tests.control.conftest import Caller

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

ARN = "arn:aws:lambda:us-east-1:123456789012:function"
SOME_ID = "01234567-89ab-cdef-0123-456789abcdef"
P0 = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?"
    r"([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
SIZES = """
def handler(event, context):
    if isinstance(event, dict):
        return "x" * (event["answer"] - 2)
    return len(event)
"""
CONTEXT = """
import os
environ = dict(os.environ)
def handler(event, context):
    c = context.client_context
    return {
        "custom": c and c.custom,
        "trace": os.environ.get("_X_AMZN_TRACE_ID"),
        "tenant": getattr(context, "tenant_id", None),
        "environ": environ,
        "pid": os.getpid(),
    }
"""


@pytest.fixture
def caller(caller: Caller) -> Iterator[Caller]:
    """Invokes on connections of their own: one that has served another operation is aiohttp's from then on."""
    second = Caller(caller.endpoint, caller.service)
    vars(caller)["invoke"] = second.invoke
    yield caller
    second.client.close()


def path_of(name: str = "f", query: str = "", *, safe: str = "") -> str:
    return f"/2015-03-31/functions/{quote(name, safe=safe)}/invocations{query}"


@asynccontextmanager
async def connected(caller: Caller) -> AsyncIterator[Connection]:
    """A connection to the service, bytes as the test wants them."""
    connection = Connection(*await asyncio.open_connection(*caller.endpoint.removeprefix("http://").split(":")))
    try:
        yield connection
    finally:
        await connection.close()


async def raw(caller: Caller, body: bytes | None = b"{}", name: str = "f", query: str = "", **fields: str) -> Reply:
    """One Invoke on a connection of its own."""
    async with connected(caller) as connection:
        return await connection.ask("POST", path_of(name, query), body, **fields)


async def refusal(call: Awaitable[Any]) -> tuple[int, str, str]:
    """Status, code and message of an error answer."""
    try:
        await call
    except ClientError as error:  # not kept: it holds the client's connection
        answer = error.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]
    pytest.fail("it was not refused")


async def until(path: Path) -> str:
    """What is in a file, once it is there and not empty."""
    async with asyncio.timeout(20):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.002)
    return path.read_text()


async def ended(pid: int) -> None:
    """Waits for the end of a process."""
    async with asyncio.timeout(20):
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.002)


# ── names and qualifiers ──


async def published(caller: Caller) -> None:
    """Version 1, and the alias live of it."""
    await caller.create()
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")


@pytest.mark.catalogue("IN-001", "IN-002", "IN-003", "IN-022", "IN-082")
async def test_every_form_of_a_name_finds_the_function(caller: Caller) -> None:
    await published(caller)
    pids: dict[str, set[int]] = {}
    for form in ("f", "function:f", "123456789012:function:f", f"{ARN}:f", "123456789012:f"):
        for qualifier, version in ((None, "$LATEST"), ("$LATEST", "$LATEST"), ("1", "1"), ("live", "1")):
            ways: list[dict[str, str]] = [{"FunctionName": form} | ({"Qualifier": qualifier} if qualifier else {})]
            if qualifier:
                ways.append({"FunctionName": f"{form}:{qualifier}"})
                ways.append({"FunctionName": f"{form}:{qualifier}", "Qualifier": qualifier})
            for way in ways:
                answer = await caller.invoke(**way)
                told = json.loads(answer["Payload"].read())
                assert (way, answer["ExecutedVersion"], told["version"]) == (way, version, version)
                assert told["arn"] == f"{ARN}:f" + (f":{qualifier}" if qualifier else "")
                pids.setdefault(version, set()).add(told["pid"])
    assert not pids["1"] & pids["$LATEST"]


@pytest.mark.catalogue("IN-002")
async def test_a_path_may_be_encoded_or_not(caller: Caller) -> None:
    await caller.create()
    async with connected(caller) as connection:
        for safe, name in product(("", ":", ":$"), (f"{ARN}:f", f"{ARN}:f:$LATEST", "f:$LATEST")):
            reply = await connection.ask("POST", path_of(name, safe=safe), b"{}")
            assert (reply.status, reply.json()["arn"]) == (200, f"{ARN}:f" + (":$LATEST" if "$" in name else ""))


NOT_FOUND = (404, "ResourceNotFoundException")
INVALID = (400, "InvalidParameterValueException")
VALIDATION = (400, "ValidationException")
FAILED = "failed to satisfy constraint: Member must"
OTHER = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
QUALIFIER = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"


@pytest.mark.catalogue("IN-003", "IN-004", "IN-005", "IN-013", "IN-040")
async def test_what_is_refused(caller: Caller) -> None:
    """The answers are recorded ones, where there is a recording."""
    await published(caller)
    for streaming in (False, True):
        await _refused(caller, streaming)


async def _refused(caller: Caller, streaming: bool) -> None:
    call = caller.invoke_with_response_stream if streaming else caller.invoke
    types = "[RequestResponse, DryRun]" if streaming else "[Event, RequestResponse, DryRun]"
    one = "1 validation error detected: Value"
    mismatch = "The derived qualifier from the function name does not match the specified qualifier."
    cases: list[tuple[dict[str, str], tuple[int, str], str]] = [
        ({"FunctionName": "nobody"}, NOT_FOUND, f"Function not found: {ARN}:nobody:$LATEST"),
        ({"FunctionName": "a" * 65}, NOT_FOUND, f"Function not found: {ARN}:{'a' * 65}:$LATEST"),
        ({"FunctionName": ARN}, NOT_FOUND, f"Function not found: {ARN}:function:$LATEST"),
        ({"FunctionName": "f", "Qualifier": "2"}, NOT_FOUND, f"Function not found: {ARN}:f:2"),
        ({"FunctionName": "f:other"}, NOT_FOUND, f"Function not found: {ARN}:f:other"),
        ({"FunctionName": "f", "Qualifier": "$latest"}, NOT_FOUND, f"Function not found: {ARN}:f:$latest"),
        ({"FunctionName": ARN.replace("us-east-1", "eu-west-1") + ":f"}, NOT_FOUND, OTHER),
        ({"FunctionName": f"{ARN}:f:1", "Qualifier": "live"}, INVALID, mismatch),
        ({"FunctionName": "nobody:1", "Qualifier": "2"}, INVALID, mismatch),
        (
            {"FunctionName": "f!"},
            VALIDATION,
            f"{one} 'f!' at 'functionName' {FAILED} satisfy regular expression pattern: {P0}",
        ),
        (
            {"FunctionName": "f/g"},
            VALIDATION,
            f"{one} 'f/g' at 'functionName' {FAILED} satisfy regular expression pattern: {P0}",
        ),
        (
            {"FunctionName": "f", "Qualifier": "a!"},
            VALIDATION,
            f"{one} 'a!' at 'qualifier' {FAILED} satisfy regular expression pattern: {QUALIFIER}",
        ),
        (
            {"FunctionName": "f", "Qualifier": "a" * 129},
            VALIDATION,
            f"{one} '{'a' * 129}' at 'qualifier' {FAILED} have length less than or equal to 128",
        ),
        (
            {"FunctionName": "f", "InvocationType": "Foo"},
            VALIDATION,
            f"{one} 'Foo' at 'invocationType' {FAILED} satisfy enum value set: {types}",
        ),
        (
            {"FunctionName": "f", "LogType": "Foo"},
            VALIDATION,
            f"{one} 'Foo' at 'logType' {FAILED} satisfy enum value set: [None, Tail]",
        ),
    ]
    for given, expected, message in cases:
        assert (given, await refusal(call(**given))) == (given, (*expected, message))
    two = await refusal(call(FunctionName="f!", LogType="Foo"))
    assert two[2].startswith("2 validation errors detected: Value ")
    assert two[2].count("; Value ") == 1


async def test_another_accounts_function_is_not_ours(caller: Caller) -> None:
    await caller.create()
    status, code, _ = await refusal(caller.invoke(FunctionName="210987654321:function:f"))
    assert (status, code) == (403, "AccessDeniedException")


@pytest.mark.catalogue("IN-013")
async def test_an_errors_answer(caller: Caller) -> None:
    reply = await raw(caller, name="nobody")
    assert reply.status == 404
    assert reply.headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert reply.headers["content-type"] == "application/json"
    assert uuid.UUID(reply.headers["x-amzn-requestid"])
    assert reply.body == f'{{"Type":"User","Message":"Function not found: {ARN}:nobody:$LATEST"}}'.encode()


# ── invocation types ──


@pytest.mark.catalogue("IN-004", "IN-100")
async def test_an_asynchronous_invoke_is_accepted(caller: Caller) -> None:
    """More of it is in tests/control/asynchronous."""
    await caller.create()
    answer = await caller.invoke(FunctionName="f", InvocationType="Event")
    assert (answer.pop("StatusCode"), answer.pop("Payload").read(), answer) == (202, b"", {})
    assert (await refusal(caller.invoke(FunctionName="nobody", InvocationType="Event")))[0] == 404


@pytest.mark.catalogue("IN-014")
async def test_a_dry_run_runs_nothing(caller: Caller) -> None:
    await caller.create()
    reply = await raw(caller, X_Amz_Invocation_Type="DryRun")
    assert (reply.status, reply.body) == (204, b"")
    assert "x-amz-executed-version" not in reply.headers
    assert "x-amz-function-error" not in reply.headers
    assert uuid.UUID(reply.headers["x-amzn-requestid"])
    assert (await caller.call())["calls"] == 1
    assert (await refusal(caller.invoke(FunctionName="nobody", InvocationType="DryRun")))[0] == 404
    assert (await refusal(caller.invoke(FunctionName="f", InvocationType="DryRun", Payload="{")))[0] == 400


# ── what is sent ──


@pytest.mark.catalogue("IN-008")
async def test_nothing_is_an_empty_event(caller: Caller) -> None:
    await caller.create()
    for body in (None, b"", b"{}"):
        assert (await raw(caller, body)).json()["event"] == {}


@pytest.mark.catalogue("IN-008", "IN-025")
async def test_any_json_value_is_an_event(caller: Caller) -> None:
    await caller.create()
    for event in (None, True, 0, -1.5, "ü\n", [], [1], {"a": {"b": "\u2028"}}):
        answer = await caller.invoke(FunctionName="f", Payload=json.dumps(event))
        assert json.loads(answer["Payload"].read())["event"] == event


@pytest.mark.catalogue("IN-008")
async def test_what_is_no_json_is_refused(caller: Caller) -> None:
    await caller.create()
    for body in (b"{", b"x", b"{} {}", b"'a'", b"n\x87", b"NaN", b"\xef\xbb\xbf{}", b" ", b"[" * 100_000):
        status, code, message = await refusal(caller.invoke(FunctionName="f", Payload=body))
        assert (body[:9], status, code) == (body[:9], 400, "InvalidRequestContentException")
        assert message.startswith("Could not parse request body into json: Could not parse payload into json: ")


@pytest.mark.catalogue("IN-009", "IN-025", "IN-027")
async def test_sizes_of_events_and_answers(caller: Caller) -> None:
    await caller.create(app=SIZES, MemorySize=512, Timeout=20)
    largest = b'"' + b"x" * (INVOKE_LIMIT - 2) + b'"'
    assert (await raw(caller, largest)).json() == INVOKE_LIMIT - 2
    for more in (b" ", b" " * 200, b" " * 1_000_000):
        reply = await raw(caller, largest + more)
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (413, "RequestTooLargeException")
        text = "Request must be smaller than 6291456 bytes for the InvokeFunction operation"
        assert reply.json() == {"Type": "User", "message": text}
    whole = await raw(caller, json.dumps({"answer": PAYLOAD_LIMIT}).encode())
    assert (len(whole.body), "x-amz-function-error" in whole.headers) == (PAYLOAD_LIMIT, False)
    longer = await raw(caller, json.dumps({"answer": PAYLOAD_LIMIT + 1}).encode())
    assert (longer.status, longer.headers["x-amz-function-error"]) == (200, "Unhandled")
    assert longer.json()["errorType"] == "Function.ResponseSizeTooLarge"


@pytest.mark.catalogue("IN-006")
async def test_the_client_context_comes_to_the_function(caller: Caller) -> None:
    await caller.create(app=CONTEXT)
    for custom in ({}, {"a": "b"}, {"ü": "\u2028"}):
        context = base64.b64encode(json.dumps({"custom": custom}).encode()).decode()
        assert (await caller.call("f", ClientContext=context))["custom"] == custom
    assert (await caller.call("f"))["custom"] is None


@pytest.mark.catalogue("IN-006")
async def test_the_client_contexts_length_is_that_of_its_base64(caller: Caller) -> None:
    await caller.create(app=CONTEXT)
    frame = len('{"custom":{"k":""}}')
    size = 3580 // 4 * 3 - frame
    good = base64.b64encode(json.dumps({"custom": {"k": "x" * size}}, separators=(",", ":")).encode()).decode()
    assert len(good) == 3580
    assert (await caller.call("f", ClientContext=good))["custom"]["k"] == "x" * size
    long = base64.b64encode(json.dumps({"custom": {"k": "x" * (size + 3)}}, separators=(",", ":")).encode()).decode()
    assert (await refusal(caller.invoke(FunctionName="f", ClientContext=long)))[:2] == (400, "InvalidRequestContentException")


@pytest.mark.catalogue("IN-006")
async def test_a_client_context_in_another_script_is_as_long_as_it_was_sent(caller: Caller) -> None:
    await caller.create(app=CONTEXT)
    text = "ü" * 1000
    wide = base64.b64encode(json.dumps({"custom": {"k": text}}, ensure_ascii=False).encode()).decode()
    assert len(wide) < 3583
    assert (await caller.call("f", ClientContext=wide))["custom"]["k"] == text


@pytest.mark.catalogue("IN-006")
async def test_a_client_context_that_is_none(caller: Caller) -> None:
    await caller.create()
    for context in ("!", "e30", base64.b64encode(b"{").decode(), base64.b64encode(b"[]").decode()):
        status, code, _ = await refusal(caller.invoke(FunctionName="f", ClientContext=context))
        assert (context, status, code) == (context, 400, "InvalidRequestContentException")


@pytest.mark.catalogue("IN-010", "IN-024")
async def test_a_callers_request_id_is_the_functions(caller: Caller) -> None:
    await caller.create()
    for given in (SOME_ID, SOME_ID.upper()):
        reply = await raw(caller, x_amzn_RequestId=given)
        assert (reply.headers["x-amzn-requestid"], reply.json()["requestId"]) == (given, given)
    reply = await raw(caller)
    assert reply.headers["x-amzn-requestid"] == reply.json()["requestId"] != SOME_ID
    for bad in ("x", SOME_ID[:-1], SOME_ID + "0", "{" + SOME_ID + "}"):
        reply = await raw(caller, x_amzn_RequestId=bad)
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (400, "InvalidRequestContentException")


@pytest.mark.catalogue("IN-011", "IN-024")
async def test_a_trace_goes_on_in_the_function(caller: Caller) -> None:
    await caller.create(app=CONTEXT)
    root = "Root=1-5759e988-bd862e3fe1be46a994272793"
    reply = await raw(caller, X_Amzn_Trace_Id=f"{root};Parent=53995c3f42cd8ad8;Sampled=1")
    assert reply.json()["trace"].startswith(root)
    assert reply.headers["x-amzn-trace-id"].startswith(root)
    made = await raw(caller)
    found = re.match("Root=1-[0-9a-f]{8}-[0-9a-f]{24}", made.headers["x-amzn-trace-id"])
    assert found
    assert made.json()["trace"].startswith(found[0])
    assert found[0] != root


# ── answers ──


@pytest.mark.catalogue("IN-001", "IN-022", "IN-030")
async def test_an_answers_headers(caller: Caller) -> None:
    await caller.create()
    reply = await raw(caller)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-amz-executed-version"] == "$LATEST"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert not {"x-amz-function-error", "x-amz-log-result", "x-amzn-errortype"} & reply.headers.keys()


@pytest.mark.catalogue("IN-025")
async def test_no_value_is_null(caller: Caller) -> None:
    await caller.create()
    assert (await raw(caller, b'{"do": "none"}')).body == b"null"


ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"do": "raise"}, "ValueError", "as asked"),
    ({"do": "exit", "code": 7}, "Runtime.ExitError", f"RequestId: {SOME_ID} Error: Runtime exited with error: exit status 7"),
    ({"do": "exit", "code": 0}, "Runtime.ExitError", f"RequestId: {SOME_ID} Error: Runtime exited without providing a reason"),
    ({"do": "sleep", "seconds": 30}, "Sandbox.Timedout", f"RequestId: {SOME_ID} Error: Task timed out after 1.00 seconds"),
]


@pytest.mark.catalogue("IN-020", "IN-021", "IN-022", "IN-023", "IN-027")
async def test_a_function_that_fails(caller: Caller) -> None:
    """An answer like any other, with a tail of its log if that is wanted."""
    await caller.create(Timeout=1)
    for event, kind, message in ERRORS:
        reply = await raw(caller, json.dumps(event).encode(), x_amzn_RequestId=SOME_ID, X_Amz_Log_Type="Tail")
        assert (event, reply.status, reply.headers["x-amz-function-error"]) == (event, 200, "Unhandled")
        assert reply.headers["x-amz-executed-version"] == "$LATEST"
        assert "x-amzn-errortype" not in reply.headers
        told = reply.json()
        assert (told["errorType"], told["errorMessage"]) == (kind, message)
        log = base64.b64decode(reply.headers["x-amz-log-result"]).decode()
        assert f"START RequestId: {SOME_ID} Version: $LATEST\n" in log
        assert f"\nREPORT RequestId: {SOME_ID}\tDuration: " in log
    assert (await raw(caller)).json()["event"] == {}


@pytest.mark.catalogue("IN-027")
async def test_a_function_that_cannot_be_initialised(caller: Caller) -> None:
    await caller.create(app="raise ValueError('as asked')")
    for log_type in ("None", "Tail"):
        reply = await raw(caller, X_Amz_Log_Type=log_type)
        assert (reply.status, reply.headers["x-amz-function-error"]) == (200, "Unhandled")
        told = reply.json()
        assert (told["errorType"], told["errorMessage"], told["requestId"]) == ("ValueError", "as asked", "")


@pytest.mark.catalogue("IN-005", "IN-023", "IN-081")
async def test_the_tail_of_a_log(caller: Caller) -> None:
    await published(caller)
    answer = await caller.invoke(FunctionName="f", LogType="Tail", Payload='{"do": "print", "lines": ["one", "two"]}')
    log = base64.b64decode(answer["LogResult"]).decode()
    number = json.loads(answer["Payload"].read())["requestId"]
    assert log.startswith(f"START RequestId: {number} Version: $LATEST\none\ntwo\nEND RequestId: {number}\nREPORT RequestId: ")
    for given in ({}, {"LogType": "None"}):
        assert "LogResult" not in await caller.invoke(FunctionName="f", **given)
    event = json.dumps({"do": "print", "lines": ["ü" * 100] * 100})
    answer = await caller.invoke(FunctionName="f", LogType="Tail", Payload=event)
    tail = base64.b64decode(answer["LogResult"])
    assert len(tail) == 4096
    assert b"\nREPORT RequestId: " in tail
    answer = await caller.invoke(FunctionName="f:live", LogType="Tail")
    assert "Version: 1\n" in base64.b64decode(answer["LogResult"]).decode()


@pytest.mark.catalogue("IN-023")
async def test_a_reports_line_ends_with_a_tab_as_recorded(caller: Caller) -> None:
    await caller.create()
    reply = await raw(caller, X_Amz_Log_Type="Tail")
    assert base64.b64decode(reply.headers["x-amz-log-result"]).endswith(b" ms\t\n")


# ── tenants ──

TENANCY = {"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}}


@pytest.mark.catalogue("IN-007", "IN-140", "IN-146")
async def test_tenant_ids_that_are_refused(caller: Caller) -> None:
    await caller.create("f")
    await caller.create("g", **TENANCY)
    assert (await refusal(caller.invoke(FunctionName="f", TenantId="a")))[:2] == INVALID
    assert (await refusal(caller.invoke(FunctionName="g")))[:2] == INVALID
    for bad in ("a" * 257, "a#", "a,b", "a\tb"):
        status, code, _ = await refusal(caller.invoke(FunctionName="g", TenantId=bad))
        assert (bad, status, code) == (bad, *VALIDATION)


@pytest.mark.catalogue("IN-007", "IN-141", "LC-037")
async def test_tenants_share_no_environment(caller: Caller) -> None:
    await caller.create(app=CONTEXT, **TENANCY)
    pids = {}
    for tenant in ("a", "b", "a" * 256, "._:/=+-@ 9", "A"):
        first = await caller.call("f", TenantId=tenant)
        again = await caller.call("f", TenantId=tenant)
        assert first["pid"] == again["pid"]
        assert first["tenant"] == again["tenant"] == tenant
        assert tenant == "a" or tenant not in first["environ"].values()
        pids[tenant] = first["pid"]
    assert len(set(pids.values())) == 5


# ── states ──


@pytest.mark.catalogue("IN-015", "IN-146")
async def test_a_function_that_is_pending(caller: Caller) -> None:
    slots = caller.service.live._slots
    for _ in range(4):  # nothing is activated
        await slots.acquire()
    await caller.create_function(
        FunctionName="f",
        Runtime="python3.11",
        Handler="app.handler",
        Role="arn:aws:iam::123456789012:role/r",
        Code={"ZipFile": zip_of_app()},
    )
    what = "The function is currently in the following state: Pending"
    message = f"The operation cannot be performed at this time. {what}"
    assert await refusal(caller.invoke(FunctionName="f")) == (409, "ResourceConflictException", message)
    for _ in range(4):
        slots.release()
    await caller.active("f")
    assert (await caller.call())["calls"] == 1


def zip_of_app() -> bytes:
    from tests.control.conftest import APP, zip_of

    return zip_of(app_py=APP)


@pytest.mark.catalogue("IN-146")
async def test_a_function_whose_runtime_is_not_here(caller: Caller) -> None:
    await caller.create(Runtime="java21")
    status, code, message = await refusal(caller.invoke(FunctionName="f"))
    assert (status, code) == (502, "InvalidRuntimeException")
    assert "java21" in message


STATUSES = {
    400: ("InvalidParameterValue", "InvalidRequestContent", "SnapStart", "RecursiveInvocation"),
    403: ("EFSMountFailure",),
    404: ("ResourceNotFound",),
    408: ("EFSMountTimeout", "SnapStartTimeout"),
    409: ("ResourceConflict", "SnapStartNotReady"),
    410: ("EFSIO",),
    413: ("RequestTooLarge",),
    415: ("UnsupportedMediaType",),
    429: ("TooManyRequests",),
    500: ("Service",),
    502: ("InvalidZipFile", "InvalidRuntime", "ResourceNotReady", "KMSDisabled", "ENILimitReached", "EC2Unexpected"),
}


@pytest.mark.parametrize("lean", [True])
@pytest.mark.catalogue("IN-146")
async def test_each_error_has_its_status(caller: Caller, lean: bool) -> None:
    for status, names in STATUSES.items():
        for name in names:
            answer = caller.service.render_error(ApiError(f"{name}Exception", "text"))
            assert (name, answer.status) == (name, status)
            assert answer.headers["x-amzn-ErrorType"] == f"{name}Exception"
            assert json.loads(answer.body)["Type"] == ("Service" if status >= 500 else "User")


# ── callers who leave, RIE's name ──

GOES_ON = """
import os, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    if event:
        open(event["begun"], "w").write(str(os.getpid()))
        while not os.path.exists(event["go"]):
            time.sleep(0.002)
        open(event["done"], "w").write("done")
    return calls
"""


@pytest.mark.catalogue("IN-029")
async def test_a_function_goes_on_without_its_caller(caller: Caller, tmp_path: Path) -> None:
    await caller.create(app=GOES_ON, Timeout=30)
    for reset in (False, True):
        files = {name: str(tmp_path / f"{name}{reset}") for name in ("begun", "go", "done")}
        async with connected(caller) as connection:
            await connection.send(request("POST", path_of(), json.dumps(files).encode()))
            await until(Path(files["begun"]))
            if reset:
                connection.writer.transport.abort()
        await raw(caller, name="nobody")  # by now the service knows
        Path(files["go"]).touch()
        assert await until(Path(files["done"])) == "done"
    assert await caller.call() == 3  # in the same environment


@pytest.mark.catalogue("IN-147")
async def test_the_name_function_of_rie(caller: Caller) -> None:
    await caller.create("mine")
    assert (await refusal(caller.invoke(FunctionName="function")))[0] == 404
    caller.service.invoker.stand_in = "mine"
    assert (await caller.call("function"))["arn"] == f"{ARN}:mine"
    assert (await caller.call("mine"))["calls"] == 2
    assert (await refusal(caller.get_function(FunctionName="function")))[0] == 404
