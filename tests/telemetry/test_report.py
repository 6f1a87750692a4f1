"""The platform's log lines, letter by letter."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.telemetry.journal import Record
from sandbox.telemetry.report import lines_of

ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"


def lines(type_: str, record: Any) -> list[str]:
    return lines_of(Record(1, 0.0, 0.0, "environment", type_, record))


def report(status: str = "success", error_type: str | None = None, **metrics: Any) -> dict[str, Any]:
    figures = {"durationMs": 12.34, "billedDurationMs": 13, "memorySizeMB": 128, "maxMemoryUsedMB": 40, **metrics}
    said: dict[str, Any] = {"requestId": ID, "status": status, "metrics": figures}
    return said if error_type is None else {**said, "errorType": error_type}


PLAIN = f"REPORT RequestId: {ID}\tDuration: 12.34 ms\tBilled Duration: 13 ms\tMemory Size: 128 MB\tMax Memory Used: 40 MB"


@pytest.mark.catalogue("TL-100")
@pytest.mark.parametrize(
    ("type_", "record", "expected"),
    [
        (
            "platform.initStart",
            {"runtimeVersion": "python:3.13.v1", "runtimeVersionArn": "arn:aws:lambda:::runtime:x"},
            ["INIT_START Runtime Version: python:3.13.v1\tRuntime Version ARN: arn:aws:lambda:::runtime:x"],
        ),
        ("platform.start", {"requestId": ID, "version": "$LATEST"}, [f"START RequestId: {ID} Version: $LATEST"]),
        ("platform.start", {"requestId": ID, "version": "7"}, [f"START RequestId: {ID} Version: 7"]),
        ("platform.report", report(), [f"END RequestId: {ID}", PLAIN]),
        (
            "platform.report",
            report(initDurationMs=1000.126),
            [f"END RequestId: {ID}", f"{PLAIN}\tInit Duration: 1000.13 ms"],
        ),
        (
            "platform.report",
            report(durationMs=3000, billedDurationMs=3000),
            [f"END RequestId: {ID}", PLAIN.replace("12.34", "3000.00").replace("13 ms", "3000 ms")],
        ),
    ],
)
def test_lines_of_an_ordinary_invoke(type_: str, record: dict[str, Any], expected: list[str]) -> None:
    assert lines(type_, record) == expected


def test_what_is_not_known_is_not_made_up() -> None:
    assert lines("platform.initStart", {}) == ["INIT_START Runtime Version: unknown\tRuntime Version ARN: unknown"]


@pytest.mark.catalogue("TL-101", "NF-023")
@pytest.mark.parametrize(
    ("body", "tail"),
    [
        (report("error", "Runtime.ExitError"), "\tStatus: error\tError Type: Runtime.ExitError"),
        (report("timeout"), "\tStatus: timeout"),
        (report("failure", "Sandbox.Failure"), "\tStatus: failure\tError Type: Sandbox.Failure"),
    ],
)
def test_a_failed_invoke_says_so_at_the_end_of_its_report(body: dict[str, Any], tail: str) -> None:
    assert lines("platform.report", body) == [f"END RequestId: {ID}", PLAIN + tail]


@pytest.mark.catalogue("TL-101")
def test_init_duration_comes_before_the_status() -> None:
    assert (
        lines("platform.report", report("timeout", initDurationMs=5.0))[1]
        == f"{PLAIN}\tInit Duration: 5.00 ms\tStatus: timeout"
    )


@pytest.mark.catalogue("TL-102")
@pytest.mark.parametrize(
    ("status", "error_type", "expected"),
    [
        ("timeout", None, "INIT_REPORT Init Duration: 9999.50 ms\tPhase: init\tStatus: timeout"),
        (
            "error",
            "Runtime.ExitError",
            "INIT_REPORT Init Duration: 9999.50 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError",
        ),
    ],
)
def test_a_failed_init_has_a_line(status: str, error_type: str | None, expected: str) -> None:
    body: dict[str, Any] = {"phase": "init", "status": status, "metrics": {"durationMs": 9999.5}}
    if error_type is not None:
        body["errorType"] = error_type
    again = "sandbox: Init is done again inside the invoke, within the function's timeout (suppressed init)"
    assert lines("platform.initReport", body) == [expected, again]
    assert lines("platform.initReport", {**body, "phase": "invoke"}) == [expected.replace("Phase: init", "Phase: invoke")]


@pytest.mark.catalogue("TL-102")
def test_an_init_that_went_well_has_none() -> None:
    assert lines("platform.initReport", {"phase": "init", "status": "success", "metrics": {"durationMs": 1.0}}) == []


@pytest.mark.parametrize("type_", ["function", "extension"])
def test_output_is_shown_as_it_is(type_: str) -> None:
    assert lines(type_, "hello\tworld") == ["hello\tworld"]


def test_a_diagnosis_is_shown_line_by_line() -> None:
    assert lines("sandbox.diagnosis", "sandbox: one\nsandbox: two") == ["sandbox: one", "sandbox: two"]


@pytest.mark.parametrize("type_", ["platform.initRuntimeDone", "platform.runtimeDone", "sandbox.other"])
def test_what_logs_do_not_show(type_: str) -> None:
    assert lines(type_, {"requestId": ID, "status": "success", "phase": "init"}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "given SHUTDOWN, exit code 0 after 12 ms"),
        ({"exit": "signal: killed", "ms": 2000.4}, "given SHUTDOWN, did not exit: signal: killed after 2000 ms"),
        ({"exit": "exit code 1", "ms": 0.0}, "given SHUTDOWN, exit code 1 after 0 ms"),
        ({"exit": None}, "given SHUTDOWN, killed after 12 ms"),
        ({"told": False, "state": "LaunchError", "exit": "no such file"}, "had not started: no such file"),
        ({"told": False, "ms": 0.0, "exit": "exit code 3"}, "had ended before: exit code 3"),
        ({"told": False, "registered": False, "exit": None, "events": []}, "had not registered, killed after 12 ms"),
        ({"told": False, "events": ["INVOKE"]}, "had not asked for SHUTDOWN, exit code 0 after 12 ms"),
        ({"told": False, "exit": "signal: killed"}, "did not poll for SHUTDOWN, signal: killed after 12 ms"),
        ({"telemetry": {"undeliveredRecords": 0}}, "given SHUTDOWN, exit code 0 after 12 ms"),
        (
            {"telemetry": {"undeliveredRecords": 7}},
            "given SHUTDOWN, exit code 0 after 12 ms; 7 telemetry records were not delivered",
        ),
    ],
)
def test_how_an_extension_ended(changes: dict[str, Any], expected: str) -> None:
    extension = {"name": "agent", "state": "Shutdown", "registered": True, "told": True, "events": ["INVOKE", "SHUTDOWN"]}
    extension |= {"exit": "exit code 0", "ms": 12.3, **changes}
    body = {"phase": "Shutdown", "reason": "spindown", "durationMs": 20.4, "windowMs": 2000.0, "runtimeMs": 5.0}
    head, line = lines("sandbox.windDown", {**body, "extensions": [extension]})
    assert head == "sandbox: Shutdown (spindown): 20 ms of 2000 ms; the runtime ended after 5 ms"
    assert line == f"sandbox:   extension agent: {expected}"
