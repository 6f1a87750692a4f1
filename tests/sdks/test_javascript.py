"""The AWS SDK for JavaScript v3, stock, through the whole life of a function."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.conftest import zip_of
from tests.sdks import APP, ARN, ROLE, command, needs, serving

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

GIVEN = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": {"ZipFile": zip_of(app_py=APP)}}
STREAM = """
const fs = require("node:fs");
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  stream.write("first,");
  while (event.until && !fs.existsSync(event.until)) await new Promise((done) => setTimeout(done, 2));
  if (event.fail) throw new RangeError("half way");
  stream.write("second");
  stream.end();
});
"""


class Failed(Exception):
    """What the SDK threw. typed: an instance of the class of its name, which programs catch."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['name']}: {error['message']}")
        self.name: str = error["name"]
        self.message: str = error["message"]
        self.status: int | None = error.get("status")
        self.typed: bool = error["typed"]
        self.fault: str | None = error.get("fault")
        self.members: dict[str, Any] = error["members"]


class JavaScript:
    """`await js("GetFunction", FunctionName="f")`: the output of a command, or Failed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def __call__(self, name: str, **parameters: Any) -> Any:
        await self.send(name, **parameters)
        answer = await self.line()
        assert "event" not in answer
        return answer["result"]

    async def send(self, name: str, **parameters: Any) -> None:
        self._in.write(json.dumps([name, coded(parameters)]).encode() + b"\n")
        await self._in.drain()

    async def line(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._out.readline(), object_hook=decoded)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    async def invoke(self, event: Any = None, name: str = "f", **parameters: Any) -> Any:
        answer = await self("Invoke", FunctionName=name, Payload=json.dumps(event or {}).encode(), **parameters)
        return json.loads(answer["Payload"])

    async def updated(self, name: str = "f") -> None:
        answer = await self("wait", until="waitUntilFunctionUpdatedV2", of={"FunctionName": name})
        assert answer["state"] == "SUCCESS"


def coded(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    return {key: coded(one) for key, one in value.items()} if isinstance(value, dict) else value


def decoded(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["$bytes"]) if value.keys() == {"$bytes"} else value


@pytest.fixture
async def js() -> AsyncIterator[JavaScript]:
    sdk, program = needs("aws-sdk-js/node_modules"), Path(__file__).parent / "javascript" / "client.cjs"
    node = command("node")
    async with serving() as endpoint:
        process = await asyncio.create_subprocess_exec(
            *(node, program, endpoint),
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(sdk)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        try:
            yield JavaScript(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def create(js: JavaScript, name: str = "f", **settings: Any) -> Any:
    made = await js("CreateFunction", FunctionName=name, **{**GIVEN, **settings})
    answer = await js("wait", until="waitUntilFunctionActiveV2", of={"FunctionName": name})
    assert answer["state"] == "SUCCESS"
    return made


@pytest.mark.catalogue("CP-001", "CP-006", "CP-009", "CP-017", "CP-019", "CP-024", "CP-026")
async def test_a_function_is_created_invoked_updated_and_deleted(js: JavaScript) -> None:
    code = zip_of(app_py=APP)
    made = await create(js, Code={"ZipFile": code}, Environment={"Variables": {"WORD": "ä"}}, Tags={"k": "v"})
    assert made["$metadata"]["httpStatusCode"] == 201
    assert made["$metadata"]["requestId"]
    assert (made["State"], made["FunctionArn"], made["Timeout"], made["MemorySize"]) == ("Pending", f"{ARN}:f", 3, 128)
    assert made["CodeSha256"] == base64.b64encode(hashlib.sha256(code).digest()).decode()

    answer = await js("Invoke", FunctionName="f", Payload=b'{"do": "print", "line": "a line"}', LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"], answer.get("FunctionError")) == (200, "$LATEST", None)
    assert json.loads(answer["Payload"])["word"] == "ä"
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert lines[0].startswith("START RequestId: ")
    assert lines[1] == "a line"
    assert [line.split(" ")[0] for line in lines[2:]] == ["END", "REPORT"]

    failed = await js("Invoke", FunctionName="f", Payload=b'{"do": "raise"}')
    assert (failed["StatusCode"], failed["FunctionError"]) == (200, "Unhandled")
    error = json.loads(failed["Payload"])
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "as asked")

    assert (await js("Invoke", FunctionName="f", InvocationType="DryRun"))["StatusCode"] == 204

    second = APP.replace('"version"', '"new"')
    changing = await js("UpdateFunctionCode", FunctionName="f", ZipFile=zip_of(app_py=second))
    assert changing["LastUpdateStatus"] == "InProgress"
    await js.updated()
    await js("UpdateFunctionConfiguration", FunctionName="f", Timeout=7, Environment={"Variables": {"WORD": "b"}})
    await js.updated()
    answer = await js.invoke()
    assert (answer["new"], answer["word"]) == ("$LATEST", "b")
    found = await js("GetFunction", FunctionName="f")
    assert (found["Configuration"]["Timeout"], found["Tags"]) == (7, {"k": "v"})
    assert found["Configuration"]["State"] == "Active"

    assert (await js("DeleteFunction", FunctionName="f"))["$metadata"]["httpStatusCode"] in (200, 204)
    with pytest.raises(Failed) as gone:
        await js("GetFunction", FunctionName="f")
    assert (gone.value.name, gone.value.status) == ("ResourceNotFoundException", 404)


@pytest.mark.catalogue("CP-005", "CP-007", "CP-021", "CP-046", "CP-076")
async def test_errors_are_of_the_classes_that_a_program_catches(js: JavaScript) -> None:
    await create(js)

    async def caught(name: str, **parameters: Any) -> Failed:
        with pytest.raises(Failed) as failed:
            await js(name, **parameters)
        assert failed.value.fault == "client"
        assert failed.value.message
        return failed.value

    error = await caught("GetFunction", FunctionName="none")
    assert (error.name, error.status, error.typed) == ("ResourceNotFoundException", 404, True)
    assert error.message == f"Function not found: {ARN}:none"
    assert error.members["Type"] == "User"
    error = await caught("CreateFunction", FunctionName="f", **GIVEN)
    assert (error.name, error.status, error.typed) == ("ResourceConflictException", 409, True)
    error = await caught("UpdateFunctionConfiguration", FunctionName="f", RevisionId="x")
    assert (error.name, error.status, error.typed) == ("PreconditionFailedException", 412, True)
    error = await caught("Invoke", FunctionName="f", Payload=b"not json")
    assert (error.name, error.status, error.typed) == ("InvalidRequestContentException", 400, True)
    error = await caught("UpdateFunctionCode", FunctionName="f", ZipFile=b"no zip")
    assert (error.name, error.status, error.typed) == ("InvalidParameterValueException", 400, True)
    assert error.message == "Could not unzip uploaded file. Please check your file, then try to upload again."
    error = await caught("UpdateFunctionConfiguration", FunctionName="f", Timeout=0)
    assert (error.name, error.status, error.typed) == ("ValidationException", 400, False)  # no model has it
    assert error.message.startswith("1 validation error detected: Value '0' at 'timeout' failed to satisfy constraint: ")
    await js("PublishVersion", FunctionName="f")
    error = await caught("GetProvisionedConcurrencyConfig", FunctionName="f", Qualifier="1")
    assert (error.name, error.status, error.typed) == ("ProvisionedConcurrencyConfigNotFoundException", 404, True)
    await js("PutFunctionConcurrency", FunctionName="f", ReservedConcurrentExecutions=0)
    error = await caught("Invoke", FunctionName="f")
    assert (error.name, error.status, error.typed) == ("TooManyRequestsException", 429, True)
    assert error.members["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"


@pytest.mark.catalogue("CP-025", "CP-044", "CP-045", "CP-047", "CP-049")
async def test_versions_aliases_weights_and_pages(js: JavaScript) -> None:
    await create(js)
    first = await js("PublishVersion", FunctionName="f", Description="one")
    await js("UpdateFunctionConfiguration", FunctionName="f", Environment={"Variables": {"WORD": "two"}})
    await js.updated()
    second = await js("PublishVersion", FunctionName="f")
    assert [first["Version"], second["Version"]] == ["1", "2"]
    waited = await js("wait", until="waitUntilPublishedVersionActive", of={"FunctionName": "f", "Qualifier": "2"})
    assert waited["state"] == "SUCCESS"

    alias = await js("CreateAlias", FunctionName="f", Name="live", FunctionVersion="1")
    assert alias["AliasArn"] == f"{ARN}:f:live"
    answer = await js.invoke(Qualifier="live")
    assert (answer["version"], answer["arn"], answer["word"]) == ("1", f"{ARN}:f:live", None)
    weights = {"AdditionalVersionWeights": {"2": 1.0}}  # all of it goes there
    changed = await js("UpdateAlias", FunctionName="f", Name="live", RoutingConfig=weights, RevisionId=alias["RevisionId"])
    assert changed["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1}}
    answer = await js("Invoke", FunctionName=f"{ARN}:f:live")
    assert answer["ExecutedVersion"] == "2"
    assert json.loads(answer["Payload"])["word"] == "two"
    await js("UpdateAlias", FunctionName="f", Name="live", RoutingConfig={"AdditionalVersionWeights": {}})
    assert (await js.invoke(Qualifier="live"))["version"] == "1"

    for name in ("a", "b", "c"):
        await create(js, name)
    pages = await js("paginate", what="ListFunctions", size=3, of={})
    assert [[one["FunctionName"] for one in page["Functions"]] for page in pages] == [["a", "b", "c"], ["f"]]
    assert "State" not in pages[0]["Functions"][0]
    pages = await js("paginate", what="ListVersionsByFunction", size=2, of={"FunctionName": "f"})
    assert [[one["Version"] for one in page["Versions"]] for page in pages] == [["$LATEST", "1"], ["2"]]
    await js("DeleteAlias", FunctionName="f", Name="live")
    assert (await js("ListAliases", FunctionName="f"))["Aliases"] == []


@pytest.mark.catalogue("CP-030", "CP-060", "CP-061", "CP-063", "CP-070", "CP-072", "CP-073", "CP-075", "CP-097")
async def test_layers_concurrency_tags_and_permissions(js: JavaScript) -> None:
    layer = await js("PublishLayerVersion", LayerName="words", Content={"ZipFile": zip_of(word=b"from the layer")})
    assert (layer["Version"], layer["LayerVersionArn"].rpartition(":")[2]) == (1, "1")
    await create(js, Layers=[layer["LayerVersionArn"]], Publish=True)
    assert (await js.invoke())["word"] is None
    assert (await js.invoke(Qualifier="1"))["version"] == "1"
    found = await js("GetLayerVersionByArn", Arn=layer["LayerVersionArn"])
    assert found["Content"]["CodeSize"] == layer["Content"]["CodeSize"]
    assert [one["LayerName"] for one in (await js("ListLayers"))["Layers"]] == ["words"]

    assert (await js("PutFunctionConcurrency", FunctionName="f", ReservedConcurrentExecutions=5))[
        "ReservedConcurrentExecutions"
    ] == 5
    assert (await js("GetFunctionConcurrency", FunctionName="f"))["ReservedConcurrentExecutions"] == 5
    put = await js("PutProvisionedConcurrencyConfig", FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=1)
    assert (put["$metadata"]["httpStatusCode"], put["Status"]) == (202, "IN_PROGRESS")
    async with asyncio.timeout(20):
        while (ready := await js("GetProvisionedConcurrencyConfig", FunctionName="f", Qualifier="1"))["Status"] != "READY":
            assert ready["Status"] == "IN_PROGRESS"
    assert ready["AvailableProvisionedConcurrentExecutions"] == 1
    await js("DeleteProvisionedConcurrencyConfig", FunctionName="f", Qualifier="1")
    await js("DeleteFunctionConcurrency", FunctionName="f")
    assert "ReservedConcurrentExecutions" not in await js("GetFunctionConcurrency", FunctionName="f")

    tagged = await js("TagResource", Resource=f"{ARN}:f", Tags={"a": "1", "b ü": "2"})
    assert tagged["$metadata"]["httpStatusCode"] == 204
    await js("UntagResource", Resource=f"{ARN}:f", TagKeys=["a"])
    assert (await js("ListTags", Resource=f"{ARN}:f"))["Tags"] == {"b ü": "2"}

    allowed = await js(
        "AddPermission", FunctionName="f", StatementId="s", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com"
    )
    assert json.loads(allowed["Statement"])["Principal"] == {"Service": "s3.amazonaws.com"}
    assert [one["Sid"] for one in json.loads((await js("GetPolicy", FunctionName="f"))["Policy"])["Statement"]] == ["s"]
    await js("RemovePermission", FunctionName="f", StatementId="s")
    with pytest.raises(Failed, match="ResourceNotFoundException"):
        await js("GetPolicy", FunctionName="f")


async def test_a_streamed_response_is_read_chunk_by_chunk(js: JavaScript, tmp_path: Path) -> None:
    code = {"ZipFile": zip_of(**{"index.js": STREAM})}
    await create(js, Runtime="nodejs20.x", Handler="index.handler", Code=code)
    gate = tmp_path / "go on"
    event = json.dumps({"until": str(gate)}).encode()
    await js.send("InvokeWithResponseStream", FunctionName="f", Payload=event, LogType="Tail")
    assert (await js.line())["event"] == {"PayloadChunk": {"Payload": b"first,"}}  # while the function still runs
    gate.touch()
    rest = b""
    while "PayloadChunk" in (event := (await js.line())["event"]):
        rest += event["PayloadChunk"]["Payload"]
    assert rest == b"second"
    assert "ErrorCode" not in event["InvokeComplete"]
    assert b"REPORT RequestId: " in base64.b64decode(event["InvokeComplete"]["LogResult"])
    result = (await js.line())["result"]
    assert (result["StatusCode"], result["ExecutedVersion"]) == (200, "$LATEST")

    await js.send("InvokeWithResponseStream", FunctionName="f", Payload=b'{"fail": true}')
    assert (await js.line())["event"] == {"PayloadChunk": {"Payload": b"first,"}}
    while "PayloadChunk" in (event := (await js.line())["event"]):
        pass
    assert event["InvokeComplete"]["ErrorCode"] == "RangeError"
    assert "half way" in event["InvokeComplete"]["ErrorDetails"]
    await js.line()
    with pytest.raises(Failed) as failed:
        await js("InvokeWithResponseStream", FunctionName="none")
    assert (failed.value.name, failed.value.status, failed.value.typed) == ("ResourceNotFoundException", 404, True)
