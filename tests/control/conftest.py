"""A served Lambda API, with stock boto3 in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config

from sandbox import Host
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import SHORT, Tier, no_task_is_left

ROLE = "arn:aws:iam::123456789012:role/r"
APP = """
import json, os, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    do = event.get("do") if isinstance(event, dict) else None
    if do == "sleep":
        time.sleep(event["seconds"])
    if do == "raise":
        raise ValueError("as asked")
    if do == "exit":
        os._exit(event["code"])
    if do == "print":
        print("\\n".join(event["lines"]))
    if do == "none":
        return None
    if do == "wait":  # for a file, until the test makes it
        while not os.path.exists(event["file"]):
            time.sleep(0.002)
    if do == "env":
        return dict(os.environ)
    return {
        "pid": os.getpid(),
        "calls": calls,
        "event": event,
        "arn": context.invoked_function_arn,
        "version": context.function_version,
        "requestId": context.aws_request_id,
    }
"""


def zip_of(**files: str | bytes) -> bytes:
    """A .zip: zip_of(app_py="…", **{"sub/x.txt": "…"}). Programs (bootstrap, extensions/…) can be executed."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name[:-3] + ".py" if name.endswith("_py") else name)
            info.external_attr = (0o755 if name == "bootstrap" or name.startswith("extensions/") else 0o644) << 16
            archive.writestr(info, text)
    return data.getvalue()


class Caller:
    """boto3's client in threads, while the service runs in the test's event loop: `await caller.get_function(…)`.

    Its answers come without ResponseMetadata; that of the last call is in `metadata`.
    """

    def __init__(self, endpoint: str, service: Service) -> None:
        self.endpoint = endpoint
        self.service = service
        self.metadata: dict[str, Any] = {}
        self.client = boto3.session.Session().client(
            "lambda",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=100, parameter_validation=False),
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        async def call(**parameters: Any) -> Any:
            result = await asyncio.to_thread(method, **parameters)
            if isinstance(result, dict):
                self.metadata = result.pop("ResponseMetadata")
            return result

        return call

    async def active(self, name: str, qualifier: str | None = None) -> None:
        """Waits until it is neither pending nor being updated, in however long that takes."""
        extra = {"Qualifier": qualifier} if qualifier else {}
        while True:
            found = await self.get_function_configuration(FunctionName=name, **extra)
            if found["State"] != "Pending" and found.get("LastUpdateStatus") != "InProgress":
                return
            await asyncio.sleep(0.002)

    async def create(self, name: str = "f", app: str = APP, **settings: Any) -> dict[str, Any]:
        """A function in Python that is active when this returns; its answer to CreateFunction."""
        given = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": {"ZipFile": zip_of(app_py=app)}}
        made: dict[str, Any] = await self.create_function(FunctionName=name, **{**given, **settings})
        await self.active(name)
        return made

    async def call(self, name: str = "f", event: Any = None, **parameters: Any) -> Any:
        """Invokes it; the payload, parsed."""
        answer = await self.invoke(FunctionName=name, Payload=json.dumps(event if event is not None else {}), **parameters)
        return json.loads(await asyncio.to_thread(answer["Payload"].read))


@pytest.fixture(params=[True, False], ids=["lean", "aiohttp"])
def lean(request: pytest.FixtureRequest) -> bool:
    """Both ways in: the lean protocol, and aiohttp alone. A test that only talks to the store overrides it with one."""
    return bool(request.param)


@pytest.fixture(autouse=True)
def _one_caller_meets_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: 20 ms may pass before a runtime polls again. tests/host has that limit."""
    monkeypatch.setattr("sandbox.host.scheduler.REPOLL_WAIT", 5.0)


@contextlib.asynccontextmanager
async def called(host: Host, **options: Any) -> AsyncIterator[Caller]:
    """A service without a data folder, and a client of it. options: the server's."""
    async with Service(host) as service:
        server = Server(service, **options)
        made = Caller(await server.start(), service)
        try:
            yield made
        finally:
            made.client.close()
            await server.close()
    no_task_is_left()


@pytest.fixture
async def caller(tier: Tier, lean: bool) -> AsyncIterator[Caller]:
    async with called(Host(limits=SHORT), lean=lean) as made:
        yield made
