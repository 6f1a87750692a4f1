"""The AWS CLI v1, stock: each command is a process of its own, with its exit code and its words."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.conftest import zip_of
from tests.sdks import APP, ARN, ROLE, Done, needs, run, serving

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

NEW = ("--runtime", "python3.11", "--handler", "app.handler", "--role", ROLE, "--zip-file", "fileb://app.zip")


class Cli:
    """`await aws("get-function", "--function-name", "f")`: what it printed, parsed. It runs in folder."""

    def __init__(self, packages: Path, folder: Path, endpoint: str) -> None:
        self._packages, self.folder, self.endpoint = packages, folder, endpoint

    async def run(self, *words: str) -> Done:
        return await run(
            *(sys.executable, "-m", "awscli", "lambda", *words),
            folder=self.folder,
            PYTHONPATH=str(self._packages),
            AWS_ENDPOINT_URL_LAMBDA=self.endpoint,
            AWS_ACCESS_KEY_ID="x",
            AWS_SECRET_ACCESS_KEY="y",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_DEFAULT_OUTPUT="json",
            AWS_MAX_ATTEMPTS="1",
        )

    async def __call__(self, *words: str) -> Any:
        done = await self.run(*words)
        assert done.code == 0, done.err
        return json.loads(done.out) if done.out else None

    async def refused(self, *words: str) -> str:
        """The words of a failure of the service's."""
        done = await self.run(*words)
        assert (done.code, done.out) == (255, "")  # 254 in version 2
        return done.err.strip()

    async def invoke(self, event: Any, *words: str) -> tuple[Any, Any]:
        """What it printed, and the payload, which it writes to a file."""
        said = await self("invoke", "--function-name", "f", "--payload", json.dumps(event), *words, "answer.json")
        return said, json.loads((self.folder / "answer.json").read_text())


@pytest.fixture
async def aws(tmp_path: Path) -> AsyncIterator[Cli]:
    packages = needs("awscli-1.46.3")
    (tmp_path / "app.zip").write_bytes(zip_of(app_py=APP))
    async with serving() as endpoint:
        yield Cli(packages, tmp_path, endpoint)


@pytest.mark.catalogue("CP-001", "CP-026")
async def test_a_function_is_created_awaited_invoked_and_deleted(aws: Cli) -> None:
    made = await aws("create-function", "--function-name", "f", *NEW, "--timeout", "5")
    assert (made["FunctionArn"], made["State"], made["Timeout"]) == (f"{ARN}:f", "Pending", 5)
    await aws("wait", "function-active-v2", "--function-name", "f")
    said, answer = await aws.invoke({"do": "print", "line": "a line ü"}, "--log-type", "Tail")
    assert said.keys() == {"StatusCode", "ExecutedVersion", "LogResult"}
    assert (said["StatusCode"], said["ExecutedVersion"], answer["arn"]) == (200, "$LATEST", f"{ARN}:f")
    lines = base64.b64decode(said["LogResult"]).decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["START", "a", "END", "REPORT"]
    assert lines[1] == "a line ü"
    said, answer = await aws.invoke({"do": "raise"})  # which is no failure of the command
    assert (said["FunctionError"], answer["errorType"], answer["errorMessage"]) == ("Unhandled", "ValueError", "as asked")
    await aws("delete-function", "--function-name", "f")
    assert await aws("list-functions") == {"Functions": []}


@pytest.mark.catalogue("CP-004")
async def test_failures_are_exit_codes_and_sentences(aws: Cli) -> None:
    assert await aws.refused("get-function", "--function-name", "none") == (
        f"An error occurred (ResourceNotFoundException) when calling the GetFunction operation: Function not found: {ARN}:none"
    )
    said = await aws.refused("create-function", "--function-name", "f", *NEW, "--role", "r1")
    start = "An error occurred (ValidationException) when calling the CreateFunction operation: 1 validation error detected: "
    assert said.startswith(f"{start}Value 'r1' at 'role' failed to satisfy constraint: ")
    done = await aws.run("wait", "function-exists", "--function-name", "bad name!")
    assert done.code == 255
    assert "Waiter FunctionExists failed" in done.err


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.catalogue("CP-019", "CP-025", "CP-030", "CP-044", "CP-047", "CP-060", "CP-070", "CP-072", "CP-073", "CP-097")
async def test_the_whole_life_of_a_function(aws: Cli) -> None:
    f = ("--function-name", "f")
    (aws.folder / "layer.zip").write_bytes(zip_of(word=b"from the layer"))
    layer = await aws("publish-layer-version", "--layer-name", "words", "--zip-file", "fileb://layer.zip")
    made = await aws("create-function", *f, *NEW, "--publish", "--layers", layer["LayerVersionArn"], "--tags", "a=1,b=2")
    assert made["Version"] == "1"
    await aws("wait", "function-active-v2", *f)
    assert (await aws("list-layers"))["Layers"][0]["LatestMatchingVersion"]["Version"] == 1

    await aws("update-function-configuration", *f, "--environment", "Variables={WORD=two}", "--memory-size", "256")
    await aws("wait", "function-updated-v2", *f)
    (aws.folder / "app.zip").write_bytes(zip_of(app_py=APP + "# changed\n"))
    changed = await aws("update-function-code", *f, "--zip-file", "fileb://app.zip")
    assert (changed["LastUpdateStatus"], changed["MemorySize"]) == ("InProgress", 256)
    assert changed["CodeSha256"] != made["CodeSha256"]
    await aws("wait", "function-updated-v2", *f)
    assert (await aws("publish-version", *f))["Version"] == "2"

    route = ("--routing-config", "AdditionalVersionWeights={2=1.0}")  # all of it goes there
    alias = await aws("create-alias", *f, "--name", "live", "--function-version", "1", *route)
    assert alias["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1.0}}
    said, answer = await aws.invoke({}, "--qualifier", "live")
    assert (said["ExecutedVersion"], answer["version"], answer["arn"]) == ("2", "2", f"{ARN}:f:live")
    page = await aws("list-versions-by-function", *f, "--max-items", "2")  # the CLI cuts the pages by itself
    assert [one["Version"] for one in page["Versions"]] == ["$LATEST", "1"]
    page = await aws("list-versions-by-function", *f, "--starting-token", page["NextToken"])
    assert [one["Version"] for one in page["Versions"]] == ["2"]
    arns = await aws("list-functions", "--function-version", "ALL", "--page-size", "1", "--query", "Functions[].FunctionArn")
    assert arns == [f"{ARN}:f:$LATEST", f"{ARN}:f:1", f"{ARN}:f:2"]

    await aws("put-function-concurrency", *f, "--reserved-concurrent-executions", "3")
    amount = ("--qualifier", "live", "--provisioned-concurrent-executions", "1")
    refused = await aws.refused("put-provisioned-concurrency-config", *f, "--qualifier", "2", *amount[2:-1], "4")
    assert refused.startswith("An error occurred (InvalidParameterValueException) when calling the PutProvisioned")
    await aws("put-provisioned-concurrency-config", *f, *amount)
    listed = await aws("list-provisioned-concurrency-configs", *f)
    assert [one["FunctionArn"] for one in listed["ProvisionedConcurrencyConfigs"]] == [f"{ARN}:f:live"]
    await aws("delete-provisioned-concurrency-config", *f, "--qualifier", "live")
    await aws("put-function-concurrency", *f, "--reserved-concurrent-executions", "0")
    refused = await aws.refused("invoke", *f, "answer.json")
    assert refused.startswith("An error occurred (TooManyRequestsException) when calling the Invoke operation")
    assert "Rate Exceeded." in refused
    await aws("delete-function-concurrency", *f)
    assert await aws("get-function-concurrency", *f) in (None, {})

    await aws("tag-resource", "--resource", f"{ARN}:f", "--tags", "c=3")
    await aws("untag-resource", "--resource", f"{ARN}:f", "--tag-keys", "a")
    assert (await aws("get-function", *f))["Tags"] == {"b": "2", "c": "3"}
    permission = ("--statement-id", "s", "--action", "lambda:InvokeFunction", "--principal", "s3.amazonaws.com")
    await aws("add-permission", *f, *permission)
    assert "s3.amazonaws.com" in (await aws("get-policy", *f))["Policy"]
    await aws("remove-permission", *f, "--statement-id", "s")
    await aws("delete-layer-version", "--layer-name", "words", "--version-number", "1")
    await aws("delete-function", *f)
    assert "Function not found" in await aws.refused("list-aliases", *f)
