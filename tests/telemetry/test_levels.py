"""Log format JSON: what is logged at which level, and what a line looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox import ConfigError, Host
from sandbox.core.function import FunctionConfig
from sandbox.telemetry.journal import Record
from sandbox.telemetry.levels import LogView, application_level, system_level
from tests.conftest import MakeFolder

INIT = {"initializationType": "on-demand", "phase": "init"}


def record(type_: str, body: Any) -> Record:
    return Record(1, 0.0, 1_700_000_000.5, "environment", type_, body)


@pytest.mark.catalogue("TL-105", "NF-022")
@pytest.mark.parametrize(
    ("type_", "body", "level"),
    [
        ("initStart", {**INIT, "runtimeVersion": "python:3.11"}, "INFO"),
        ("initStart", INIT, "DEBUG"),
        ("initRuntimeDone", {**INIT, "status": "success"}, "DEBUG"),
        ("initRuntimeDone", {**INIT, "status": "error"}, "WARN"),
        ("initReport", {**INIT, "status": "success"}, "DEBUG"),
        ("initReport", {**INIT, "initializationType": "provisioned-concurrency", "status": "success"}, "INFO"),
        ("initReport", {**INIT, "status": "timeout"}, "WARN"),
        ("start", {"requestId": "1"}, "INFO"),
        ("runtimeDone", {"requestId": "1", "status": "success"}, "DEBUG"),
        ("runtimeDone", {"requestId": "1", "status": "failure"}, "WARN"),
        ("report", {"requestId": "1", "status": "success"}, "INFO"),
        ("report", {"requestId": "1", "status": "timeout"}, "WARN"),
        ("extension", {"name": "x", "state": "Ready", "events": []}, "INFO"),
        ("extension", {"name": "x", "state": "InitError", "events": [], "errorType": "X"}, "WARN"),
        ("telemetrySubscription", {"name": "x", "state": "Subscribed", "types": []}, "INFO"),
        ("logsSubscription", {"name": "x", "state": "Subscribed", "types": []}, "INFO"),
    ],
)
def test_the_level_of_a_system_log(type_: str, body: dict[str, Any], level: str) -> None:
    assert system_level(record(f"platform.{type_}", body)) == level


@pytest.mark.catalogue("TL-106")
@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('{"level":"DEBUG","message":"m"}', "DEBUG"),
        ('{"level":"warning"}', "WARNING"),
        ('{"level":"LOUD"}', "INFO"),
        ('{"level":3}', "INFO"),
        ('{"message":"m"}', "INFO"),
        ("ERROR, but text", "INFO"),
        ('["ERROR"]', "INFO"),
    ],
)
def test_the_level_of_a_line(line: str, level: str) -> None:
    assert application_level(line) == level


@pytest.mark.catalogue("TL-104")
def test_a_system_log_is_the_telemetry_event() -> None:
    body = {"requestId": "1", "version": "$LATEST", "ours": "never"}
    (line,) = LogView(json=True).lines(record("platform.start", body))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "type": "platform.start",
        "record": {"requestId": "1", "version": "$LATEST"},
    }


@pytest.mark.catalogue("TL-104")
@pytest.mark.parametrize(("level", "logged"), [("DEBUG", 1), ("INFO", 0), ("WARN", 0)])
def test_a_system_log_below_the_level_is_left_out(level: str, logged: int) -> None:
    done = record("platform.runtimeDone", {"requestId": "1", "status": "success"})
    assert len(LogView(json=True, system=level).lines(done)) == logged


@pytest.mark.catalogue("TL-106", "TL-108")
def test_lines_of_the_application_are_filtered_and_never_encoded_again() -> None:
    view, line = LogView(json=True, application="WARN"), '{"level": "ERROR",  "message": "as it was"}'
    assert view.lines(record("function", line)) == [line]
    assert view.lines(record("extension", '{"level":"INFO"}')) == []
    assert view.lines(record("function", "text is INFO")) == []


def test_in_text_nothing_is_filtered_and_what_we_say_is_text_in_either_format() -> None:
    assert LogView(application="FATAL").lines(record("function", '{"level":"TRACE"}')) == ['{"level":"TRACE"}']
    assert LogView(json=True, system="WARN").lines(record("sandbox.diagnosis", "sandbox: why")) == ["sandbox: why"]


@pytest.mark.catalogue("TL-107")
def test_json_without_levels_is_info() -> None:
    assert LogView.of(FunctionConfig(".", log_format="JSON")) == LogView(True, "INFO", "INFO")
    assert LogView.of(FunctionConfig(".")).json is False


@pytest.mark.parametrize("settings", [{"system_log_level": "INFO"}, {"log_format": "JSON", "system_log_level": "ERROR"}])
def test_a_system_level_that_lambda_would_refuse(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="DEBUG, INFO, WARN, and only with log format JSON"):
        FunctionConfig(".", **settings)  # type: ignore[arg-type]


@pytest.mark.catalogue("TL-056", "TL-104")
async def test_a_functions_log_has_its_format_and_the_journal_has_everything(host: Host, folder: MakeFolder) -> None:
    types: list[str] = []
    host.journal.subscribe(lambda record: types.append(record.type))
    code = folder(app_py="def handler(event, context):\n    print('printed')\n")
    function = await host.deploy(code, runtime="python", handler="app.handler", log_format="JSON", system_log_level="WARN")
    assert (await function.invoke()).log == ["printed"]
    assert {"platform.initStart", "platform.start", "platform.runtimeDone", "platform.report"} <= set(types)
