"""Code from S3 and logs to CloudWatch, with moto's server as those services and stock boto3 looking at the result."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from sandbox import Host
from sandbox.control.aws import OtherServices
from sandbox.control.logs import CloudWatch
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import ROOT, SHORT, no_task_is_left
from tests.control.conftest import ROLE, Caller, zip_of

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

MOTO = ROOT / ".cache" / "clients" / "moto-5.2.5-jsonpath"
APP = """
def handler(event, context):
    for line in event.get("lines", []):
        print(line)
    return [context.log_group_name, context.log_stream_name, "VALUE"]
"""


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of moto's server."""
    if not MOTO.is_dir():
        pytest.skip(f"{MOTO.name} is not here: scripts/setup dev installs it")
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=log.parent,
            env={**os.environ, "PYTHONPATH": str(MOTO), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    try:
        for _ in range(3000):
            if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.01)
        assert found, log.read_text()
        yield found[1]
    finally:
        server.kill()
        server.wait()


class World:
    """A service with those services around it."""

    def __init__(self, caller: Caller, told: list[str], cloudwatch: CloudWatch, endpoint: str) -> None:
        self.caller, self.told, self.cloudwatch = caller, told, cloudwatch
        self._endpoint = endpoint

    def stock(self, service: str) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=self._endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    async def delivered(self) -> None:
        await asyncio.to_thread(self.cloudwatch.deliver_now)


@asynccontextmanager
async def opened(endpoint: str) -> AsyncIterator[World]:
    told: list[str] = []
    others = OtherServices(endpoint, "us-east-1")
    async with Service(Host(limits=SHORT), others=others, on_trouble=told.append) as service:
        host = service.host
        logs = others.client("logs")
        cloudwatch = CloudWatch(logs, host.function_of, told.append)
        host.journal.subscribe(cloudwatch)
        server = Server(service)
        made = Caller(await server.start(), service)
        try:
            yield World(made, told, cloudwatch, endpoint)
        finally:
            made.client.close()
            await server.close()
            await cloudwatch.close()
            logs.close()
            if others._s3 is not None:
                others._s3.close()
    no_task_is_left()


@pytest.fixture
async def world(moto: str) -> AsyncIterator[World]:
    async with opened(moto) as world:
        yield world


async def bucket(world: World, name: str, versioned: bool = False, **objects: bytes) -> list[str]:
    """The versions of its objects."""

    def make() -> list[str]:
        with closing(world.stock("s3")) as s3:
            s3.create_bucket(Bucket=name)
            if versioned:
                s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            return [str(s3.put_object(Bucket=name, Key=key, Body=body).get("VersionId")) for key, body in objects.items()]

    return await asyncio.to_thread(make)


def says(value: str) -> bytes:
    return zip_of(app_py=APP.replace("VALUE", value))


async def refused(call: Awaitable[Any]) -> tuple[int, str, str]:
    """Status, name and text of the error. A traceback that is kept would keep a connection open."""
    try:
        await call
    except ClientError as error:
        said = error.response
        return said["ResponseMetadata"]["HTTPStatusCode"], said["Error"]["Code"], said["Error"]["Message"]
    raise AssertionError("it was not refused")


# ── S3 ──


@pytest.mark.catalogue("CP-001")
async def test_code_and_layers_from_s3(world: World) -> None:
    code = zip_of(app_py="import extra\ndef handler(event, context): return extra.VALUE")
    await bucket(world, "code-and-layer", code=code, layer=zip_of(**{"python/extra.py": "VALUE = 'layer'"}))
    content = {"S3Bucket": "code-and-layer", "S3Key": "layer"}
    layer = (await world.caller.publish_layer_version(LayerName="l", Content=content))["LayerVersionArn"]
    made = await world.caller.create("f", Code={"S3Bucket": "code-and-layer", "S3Key": "code"}, Layers=[layer])
    assert made["CodeSize"] == len(code)
    assert await world.caller.call("f") == "layer"


async def test_an_update_takes_the_version_that_was_asked_for(world: World) -> None:
    [first] = await bucket(world, "versions", versioned=True, **{"a/ü b.zip": says("first")})
    with closing(world.stock("s3")) as s3:
        await asyncio.to_thread(lambda: s3.put_object(Bucket="versions", Key="a/ü b.zip", Body=says("second")))
    await world.caller.create("f")
    place = {"S3Bucket": "versions", "S3Key": "a/ü b.zip"}
    for more, value in (({}, "second"), ({"S3ObjectVersion": first}, "first")):
        await world.caller.update_function_code(FunctionName="f", **place, **more)
        await world.caller.active("f")
        assert (await world.caller.call("f"))[2] == value


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (
            {"S3Bucket": "nowhere-at-all", "S3Key": "k"},
            "NoSuchBucket. S3 Error Message: The specified bucket does not exist",
        ),
        (
            {"S3Bucket": "there", "S3Key": "none"},
            "NoSuchKey. S3 Error Message: The specified key does not exist.",
        ),
    ],
)
async def test_what_is_not_there_is_told_in_awss_words(world: World, place: dict[str, str], text: str) -> None:
    await bucket(world, "there", code=says("x"))
    await world.caller.create("f")
    before = await world.caller.get_function_configuration(FunctionName="f")
    whole = f"Error occurred while GetObject. S3 Error Code: {text}"
    for call in (
        world.caller.create_function(FunctionName="g", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code=place),
        world.caller.update_function_code(FunctionName="f", **place),
    ):
        assert await refused(call) == (400, "InvalidParameterValueException", whole)
    assert await world.caller.get_function_configuration(FunctionName="f") == before


async def test_an_s3_that_is_down_is_an_error_with_its_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    async with opened(endpoint) as world:
        await world.caller.create("f")
        code = {"S3Bucket": "any", "S3Key": "k"}
        status, name, text = await refused(world.caller.update_function_code(FunctionName="f", **code))
        assert (status, name) == (400, "InvalidParameterValueException")
        assert text.startswith("Error occurred while GetObject. S3 Error Code: ")
        assert endpoint in text
        assert (await world.caller.call("f"))["calls"] == 1


# ── CloudWatch Logs ──


def events(world: World, group: str, stream: str) -> list[str]:
    with closing(world.stock("logs")) as logs:
        found = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]
        return [event["message"] for event in found]


async def test_logs_are_in_cloudwatch(world: World) -> None:
    """The group and stream that the handler sees, and events in their order."""
    await world.caller.create("cw-order", app=APP)
    lines = [f"line {number}" for number in range(50)]
    group, stream, _ = await world.caller.call("cw-order", {"lines": lines})
    assert group == "/aws/lambda/cw-order"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", stream)
    await world.caller.delete_function(FunctionName="cw-order")
    await asyncio.gather(*list(world.caller.service.live._retiring))
    await world.delivered()
    found = await asyncio.to_thread(events, world, group, stream)
    assert [text.split()[0] for text in found] == ["INIT_START", "START", *["line"] * 50, "END", "REPORT"]
    assert found[2:52] == lines


async def test_each_environment_has_a_stream_and_json_is_json(world: World) -> None:
    logging = {"LogFormat": "JSON", "LogGroup": "/mine/group"}
    await world.caller.create("cw-json", app=APP, LoggingConfig=logging)
    streams = set()
    for _ in range(2):
        group, stream, _ = await world.caller.call("cw-json")
        streams.add(stream)
        await world.caller.update_function_configuration(FunctionName="cw-json", Timeout=5 + len(streams))
        await world.caller.active("cw-json")
    assert (len(streams), group) == (2, "/mine/group")
    await asyncio.gather(*list(world.caller.service.live._retiring))
    await world.delivered()
    for stream in streams:
        types = [json.loads(text)["type"] for text in await asyncio.to_thread(events, world, group, stream)]
        assert types == ["platform.initStart", "platform.start", "platform.report"]


async def test_a_group_that_was_deleted_is_made_again(world: World) -> None:
    """Or a server that was started again, and has forgotten everything."""
    await world.caller.create("cw-gone", app=APP)
    group, stream, _ = await world.caller.call("cw-gone")
    await world.delivered()
    with closing(world.stock("logs")) as logs:
        await asyncio.to_thread(lambda: logs.delete_log_group(logGroupName=group))
    await world.caller.call("cw-gone", {"lines": ["after it"]})
    await world.delivered()
    found = await asyncio.to_thread(events, world, group, stream)
    assert "after it" in found


async def test_a_cloudwatch_that_is_down_is_told_in_one_line_and_functions_go_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    async with opened(endpoint) as world:
        await world.caller.create("f", app=APP)
        for _ in range(2):
            assert (await world.caller.call("f"))[2] == "VALUE"
            await world.delivered()
    [line] = world.told
    assert "CloudWatch" in line
    assert endpoint in line
    assert "\n" not in line


async def test_without_an_endpoint_code_in_s3_says_what_to_do(caller: Caller) -> None:
    _, _, text = await refused(caller.create("f", Code={"S3Bucket": "there", "S3Key": "k"}))
    assert "--aws-endpoint" in text


@pytest.fixture
def lean() -> bool:
    return True


def test_the_pins_are_those_of_the_folder() -> None:
    """What is in tests/clients.txt is what is used here."""
    text = (Path(__file__).parent.parent / "clients.txt").read_text()
    assert f"{MOTO.name} moto==5.2.5 " in text
