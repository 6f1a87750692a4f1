"""Sizes of what a configuration may say, and what happens around an invoke that only its environment shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.control.conftest import ROLE, Caller, zip_of
from tests.control.helpers import refused

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

SLOW_EXTENSION = """#!/usr/bin/env python3
import http.client, json, os, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
api.request("POST", "/2020-01-01/extension/register", json.dumps({"events": ["INVOKE"]}), {"Lambda-Extension-Name": "slow"})
reply = api.getresponse(); reply.read(); me = reply.headers["Lambda-Extension-Identifier"]
while True:
    api.request("GET", "/2020-01-01/extension/event/next", headers={"Lambda-Extension-Identifier": me})
    api.getresponse().read()
    while not os.path.exists("GATE"):
        time.sleep(0.002)
"""


@pytest.fixture
def lean() -> bool:
    """One way in is enough here."""
    return True


@pytest.mark.catalogue("EN-079")
@pytest.mark.parametrize(
    ("member", "most", "code"),
    [
        ("Description", 256, "ValidationException"),
        ("Handler", 128, "ValidationException"),
        ("FunctionName", 64, "InvalidParameterValueException"),
    ],
)
async def test_one_character_too_many(caller: Caller, member: str, most: int, code: str) -> None:
    given: dict[str, Any] = {"FunctionName": "f", "Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE}
    given |= {"Code": {"ZipFile": zip_of(app_py="")}}
    await caller.create_function(**{**given, member: "x" * most})
    said = await refused(caller.create_function(**{**given, "FunctionName": "g", member: "x" * (most + 1)}))
    assert said.code == code


@pytest.mark.catalogue("EN-079")
async def test_a_tag_one_character_too_long(caller: Caller) -> None:
    await caller.create(Tags={"k" * 128: "v" * 256})
    for tags in ({"k" * 129: "v"}, {"k": "v" * 257}):
        assert (await refused(caller.create(name="g", Tags=tags))).code == "ValidationException"


@pytest.mark.catalogue("EN-021")
async def test_variables_are_replaced_as_a_whole(caller: Caller) -> None:
    await caller.create(Environment={"Variables": {"ONE": "1", "TWO": "2"}})
    assert {"ONE", "TWO"} <= (await caller.call("f", {"do": "env"})).keys()
    await caller.update_function_configuration(FunctionName="f", Environment={"Variables": {"TWO": "3"}})
    await caller.active("f")
    seen = await caller.call("f", {"do": "env"})
    assert seen["TWO"] == "3"
    assert "ONE" not in seen


@pytest.mark.catalogue("IN-026", "IN-028")
async def test_the_answer_does_not_wait_for_extensions_and_neither_does_its_log(caller: Caller, tmp_path: Any) -> None:
    """The extension goes on until the test opens its gate, which is after the answer, and after the log."""
    gate = tmp_path / "gate"
    content = zip_of(**{"extensions/slow": SLOW_EXTENSION.replace("GATE", str(gate))})
    layer = await caller.publish_layer_version(LayerName="slow", Content={"ZipFile": content})
    await caller.create(Layers=[layer["LayerVersionArn"]], Timeout=30)
    try:
        answer = await caller.invoke(FunctionName="f", LogType="Tail")
        assert "LogResult" in answer
        [environment] = caller.service.host.environments
        assert not environment.free
    finally:
        gate.touch()


@pytest.mark.catalogue("LC-133")
async def test_an_init_ahead_is_reported_in_json(caller: Caller) -> None:
    records: list[Any] = []
    caller.service.host.journal.subscribe(records.append)
    await caller.create(LoggingConfig={"LogFormat": "JSON"})
    await caller.publish_version(FunctionName="f")
    await caller.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=1)
    while (await caller.get_provisioned_concurrency_config(FunctionName="f", Qualifier="1"))["Status"] == "IN_PROGRESS":
        pass
    [report] = [record.record for record in records if record.type == "platform.initReport"]
    assert (report["initializationType"], report["phase"], report["status"]) == ("provisioned-concurrency", "init", "success")
    from sandbox.core.function import FunctionConfig
    from sandbox.telemetry.levels import LogView

    view = LogView.of(FunctionConfig("code", log_format="JSON"))
    [line] = [line for record in records if record.type == "platform.initReport" for line in view.lines(record)]
    assert json.loads(line)["type"] == "platform.initReport"
