"""Records as events: which there are in each API and schema version, and with exactly which fields of which kind."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.subscription import LOGS, SCHEMAS, TELEMETRY
from sandbox.telemetry.journal import Record
from sandbox.telemetry.schema import Style, encode, kind_of

ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
OLD, MIDDLE, NEW = SCHEMAS[TELEMETRY]
WALL, MONO = 1_700_000_000.25, 1_000.0
TIME = "2023-11-14T22:13:20.250Z"
TRACING = {"type": "X-Amzn-Trace-Id", "value": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"}
SPANS = [("responseLatency", MONO, MONO + 0.1), ("responseDuration", MONO + 0.1, MONO + 0.1000004)]
SPAN_DOCUMENTS = [
    {"name": "responseLatency", "start": "2023-11-14T22:13:20.250Z", "durationMs": 100.0},
    {"name": "responseDuration", "start": "2023-11-14T22:13:20.350Z", "durationMs": 0.0},
]
METRICS = {"durationMs": 12.345, "billedDurationMs": 13, "memorySizeMB": 128, "maxMemoryUsedMB": 40, "initDurationMs": 67.5}
INIT = {"initializationType": "on-demand", "phase": "init"}

RECORDS: dict[str, Any] = {  # as the ledger writes them, with all that they can have
    "platform.initStart": {
        **INIT,
        "functionName": "f",
        "functionVersion": "$LATEST",
        "instanceId": "2023/11/14/[$LATEST]0123",
        "instanceMaxMemory": 128,
        "runtimeVersion": "python:3.11.7",
        "runtimeVersionArn": "arn:aws:lambda:us-east-1::runtime:x",
    },
    "platform.initRuntimeDone": {**INIT, "status": "error", "errorType": "Runtime.ExitError", "spans": SPANS},
    "platform.extension": {"name": "e", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"], "errorType": "Extension.Mine"},
    "platform.initReport": {
        **INIT,
        "status": "error",
        "errorType": "Runtime.ExitError",
        "metrics": {"durationMs": 525.529},
        "spans": SPANS,
    },
    "platform.start": {"requestId": ID, "version": "$LATEST", "tracing": TRACING, "tenantId": "blue"},
    "platform.runtimeDone": {
        "requestId": ID,
        "status": "error",
        "errorType": "Runtime.ExitError",
        "metrics": {"durationMs": 2.294, "producedBytes": 221},
        "spans": SPANS,
        "tracing": TRACING,
        "tenantId": "blue",
    },
    "platform.report": {
        "requestId": ID,
        "status": "error",
        "errorType": "Runtime.ExitError",
        "metrics": METRICS,
        "spans": SPANS,
        "tracing": TRACING,
        "tenantId": "blue",
    },
    "platform.telemetrySubscription": {"name": "e", "state": "Subscribed", "types": ["platform", "function"]},
    "platform.logsSubscription": {"name": "e", "state": "Subscribed", "types": ["platform"]},
    "platform.logsDropped": {"reason": "slow", "droppedRecords": 3, "droppedBytes": 300},
}
OURS = {
    "sandbox.failure": {"errorType": "x", "phase": "invoke"},
    "sandbox.extensions": {"requestId": ID, "extensions": []},
    "sandbox.windDown": {"phase": "Reset", "extensions": []},
    "sandbox.diagnosis": "sandbox: something",
    "sandbox.mistake": {"error": "x", "trace": "y"},
    "sandbox.freeze": {},
    "sandbox.thaw": {},
    "sandbox.refused": {"method": "GET", "target": "/", "status": 404, "errorType": "x", "message": "y"},
    "sandbox.function": {"requestId": ID},
}

FIELDS: dict[str, dict[str, dict[str, Any]]] = {  # event → schema → the fields of its record, from AWS's published schemas
    "platform.initStart": {
        OLD: {"initializationType": str, "phase": str, "runtimeVersion": str, "runtimeVersionArn": str},
        MIDDLE: {
            "initializationType": str,
            "phase": str,
            "runtimeVersion": str,
            "runtimeVersionArn": str,
            "functionName": str,
            "functionVersion": str,
            "instanceId": str,
            "instanceMaxMemory": int,
        },
    },
    "platform.initRuntimeDone": {
        OLD: {"initializationType": str, "phase": str, "status": str, "errorType": str, "spans": list},
    },
    "platform.extension": {
        OLD: {"name": str, "state": str, "events": list},
        MIDDLE: {"name": str, "state": str, "events": list, "errorType": str},
    },
    "platform.initReport": {
        OLD: {"initializationType": str, "phase": str, "metrics": dict, "spans": list},
        MIDDLE: {
            "initializationType": str,
            "phase": str,
            "metrics": dict,
            "spans": list,
            "status": str,
            "errorType": str,
        },
    },
    "platform.start": {
        OLD: {"requestId": str, "version": str, "tracing": dict},
        NEW: {"requestId": str, "version": str, "tracing": dict, "tenantId": str},
    },
    "platform.runtimeDone": {
        OLD: {"requestId": str, "status": str, "errorType": str, "metrics": dict, "spans": list, "tracing": dict},
        NEW: {
            "requestId": str,
            "status": str,
            "errorType": str,
            "metrics": dict,
            "spans": list,
            "tracing": dict,
            "tenantId": str,
        },
    },
    "platform.telemetrySubscription": {OLD: {"name": str, "state": str, "types": list}},
    "platform.logsDropped": {OLD: {"reason": str, "droppedRecords": int, "droppedBytes": int}},
}
FIELDS["platform.report"] = FIELDS["platform.runtimeDone"]


def record(type_: str, body: Any, **more: Any) -> Record:
    return Record(1, MONO, WALL, "environment", type_, body, ID, **more)


def strict(data: bytes) -> Any:
    """Parses as a reader in another language does: NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(data.decode(), parse_constant=refuse)


def events(type_: str, body: Any, api: str, schema: str, *, json_format: bool = False) -> list[dict[str, Any]]:
    return [strict(event) for event in encode(record(type_, body), Style(api, schema, json_format))]


def wanted(type_: str, schema: str) -> dict[str, Any]:
    """The fields of the newest version that is not newer than this one."""
    versions = FIELDS[type_]
    return versions[max(version for version in versions if version <= schema)]


# ── the Telemetry API ──


@pytest.mark.catalogue("NF-011", "NF-025")
@pytest.mark.catalogue("TL-060", "TL-062", "TL-063", "TL-066", "TL-067", "TL-073", "TL-081", "TL-082", "TL-083", "TL-050")
@pytest.mark.parametrize("schema", SCHEMAS[TELEMETRY])
@pytest.mark.parametrize("type_", FIELDS)
def test_each_event_has_the_fields_of_its_schema_and_no_other(type_: str, schema: str) -> None:
    extra = {"runtimeNote": "not AWS's", "sandbox": 1, "functionArn": "arn", "": None}
    [event] = events(type_, {**RECORDS[type_], **extra}, TELEMETRY, schema)
    assert list(event) == ["time", "type", "record"]
    assert (event["time"], event["type"]) == (TIME, type_)
    assert {name: type(value) for name, value in event["record"].items()} == wanted(type_, schema)
    for name, value in event["record"].items():
        assert value == (SPAN_DOCUMENTS if name == "spans" else RECORDS[type_][name])


@pytest.mark.catalogue("TL-060", "TL-062", "TL-063", "TL-066", "TL-067", "TL-073", "TL-081")
@pytest.mark.parametrize("schema", SCHEMAS[TELEMETRY])
@pytest.mark.parametrize("type_", FIELDS)
def test_what_is_not_known_is_left_out(type_: str, schema: str) -> None:
    optional = ("errorType", "spans", "tracing", "tenantId", "runtimeVersion", "runtimeVersionArn", "version")
    body = {name: value for name, value in RECORDS[type_].items() if name not in optional}
    [event] = events(type_, body, TELEMETRY, schema)
    assert set(event["record"]) == set(wanted(type_, schema)) - set(optional)


@pytest.mark.catalogue("TL-086", "TL-073", "TL-067")
@pytest.mark.parametrize("schema", SCHEMAS[TELEMETRY])
def test_durations_are_fractions_and_billed_ones_are_whole(schema: str) -> None:
    [report] = events("platform.report", RECORDS["platform.report"], TELEMETRY, schema)
    kinds = {name: type(value) for name, value in report["record"]["metrics"].items()}
    whole = {"billedDurationMs": int, "memorySizeMB": int, "maxMemoryUsedMB": int}
    assert kinds == {"durationMs": float, "initDurationMs": float, **whole}
    [done] = events("platform.runtimeDone", RECORDS["platform.runtimeDone"], TELEMETRY, schema)
    assert done["record"]["metrics"] == {"durationMs": 2.294, "producedBytes": 221}


@pytest.mark.catalogue("TL-068", "TL-085")
def test_spans_and_tracing_have_three_and_two_fields() -> None:
    [done] = events("platform.runtimeDone", RECORDS["platform.runtimeDone"], TELEMETRY, NEW)
    assert done["record"]["spans"] == SPAN_DOCUMENTS
    assert done["record"]["tracing"] == TRACING


@pytest.mark.catalogue("TL-084")
@pytest.mark.parametrize("schema", SCHEMAS[TELEMETRY])
def test_the_telemetry_api_has_no_event_of_the_logs_api_alone(schema: str) -> None:
    types = [event["type"] for type_, body in RECORDS.items() for event in events(type_, body, TELEMETRY, schema)]
    assert types == [type_ for type_ in RECORDS if type_ != "platform.logsSubscription"]


# ── the Logs API ──


@pytest.mark.catalogue("TL-005", "TL-084")
@pytest.mark.parametrize("schema", SCHEMAS[LOGS])
def test_the_events_of_the_logs_api(schema: str) -> None:
    found = [event for type_, body in RECORDS.items() for event in events(type_, body, LOGS, schema)]
    done = {"requestId": ID, "status": "failure"}
    expected: list[tuple[str, Any]] = [
        ("platform.extension", {"name": "e", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]}),
        ("platform.start", {"requestId": ID, "version": "$LATEST"}),
        ("platform.runtimeDone", done),
        ("platform.fault", f"RequestId: {ID} Process exited before completing request"),
        ("platform.end", {"requestId": ID}),
        ("platform.report", {"requestId": ID, "metrics": METRICS}),
        ("platform.logsSubscription", RECORDS["platform.logsSubscription"]),
        ("platform.logsDropped", RECORDS["platform.logsDropped"]),
    ]
    if schema == "2020-08-15":
        expected.remove(("platform.runtimeDone", done))
    assert [(event["type"], event["record"]) for event in found] == expected
    assert {tuple(event) for event in found} == {("time", "type", "record")}
    assert {event["time"] for event in found} == {TIME}


@pytest.mark.catalogue("TL-005")
@pytest.mark.parametrize(
    ("status", "told"), [("success", "success"), ("error", "failure"), ("failure", "failure"), ("timeout", "timeout")]
)
def test_the_logs_api_knows_three_statuses(status: str, told: str) -> None:
    [event] = events("platform.runtimeDone", {**RECORDS["platform.runtimeDone"], "status": status}, LOGS, "2021-03-18")
    assert event["record"] == {"requestId": ID, "status": told}


@pytest.mark.catalogue("TL-084")
@pytest.mark.parametrize(("status", "fault"), [("success", False), ("error", True), ("failure", True)])
def test_a_fault_is_told_when_a_process_has_ended(status: str, fault: bool) -> None:
    types = [e["type"] for e in events("platform.report", {**RECORDS["platform.report"], "status": status}, LOGS, "2020-08-15")]
    assert types == [*(["platform.fault"] if fault else []), "platform.end", "platform.report"]


# ── what is ours ──

STYLES = [Style(api, schema, as_json) for api in SCHEMAS for schema in SCHEMAS[api] for as_json in (False, True)]


@pytest.mark.parametrize("type_", OURS)
def test_what_is_ours_never_leaves(type_: str) -> None:
    assert kind_of(type_) == "sandbox"
    for style in STYLES:
        assert encode(record(type_, OURS[type_]), style) == []


@pytest.mark.parametrize("type_", ["platform.end", "platform.fault", "platform.new", "platform", "platform.", ""])
def test_a_platform_record_that_is_not_known_never_leaves(type_: str) -> None:
    for style in STYLES:
        assert encode(record(type_, {"requestId": ID, "status": "success", "metrics": {}}), style) == []


# ── lines ──


@pytest.mark.catalogue("TL-052")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["function", "extension"])
@pytest.mark.parametrize(
    "line", ["", "hello", " {}", "[1]", '"x"', "1", "null", "a\nb", "日本\u2028", "\ud800", "\0\x1b[0m", "{", "{]"]
)
def test_a_line_that_is_no_json_object_is_a_string(style: Style, kind: str, line: str) -> None:
    [data] = encode(record(kind, line), style)
    assert strict(data) == {"time": TIME, "type": kind, "record": line}
    assert b"\n" not in data  # TL-035: one event a line


@pytest.mark.catalogue("TL-053", "TL-108", "TL-054")
@pytest.mark.parametrize("kind", ["function", "extension"])
@pytest.mark.parametrize("style", STYLES)
def test_a_line_of_json_is_an_object_with_log_format_json_and_a_newer_schema_only(kind: str, style: Style) -> None:
    document = {"timestamp": "2023-11-14T22:13:20Z", "level": "INFO", "message": {"a": [1, 2.5, None]}, "requestId": ID}
    line = json.dumps(document)
    [data] = encode(record(kind, line), style)
    as_object = style.json and style.api == TELEMETRY and style.schema >= "2022-12-13"
    assert strict(data)["record"] == (document if as_object else line)


@pytest.mark.catalogue("TL-053")
@pytest.mark.parametrize(
    "line",
    [
        '{"a": NaN}',
        '{"a": [Infinity]}',
        '{"a": {"b": -Infinity}}',
        '{"a": 1e999}',
        '{"a": [-1e999, 1]}',
        '{"a": 1} x',
        "{'a': 1}",
        '{"a": 01}',
        '{"a": ' + "1" * 5000 + "}",
    ],
)
def test_what_only_looks_like_json_stays_a_string(line: str) -> None:
    [event] = events("function", line, TELEMETRY, NEW, json_format=True)
    assert event["record"] == line


@pytest.mark.catalogue("TL-053")
@pytest.mark.parametrize(("opens", "closes"), [('{"a":', "}"), ('{"a":[', "]}")])
def test_nesting_of_any_depth_is_an_event(opens: str, closes: str) -> None:
    for depth in [*range(400, 1000), 5_000, 20_000]:
        line = opens * depth + "1" + closes * depth
        [data] = encode(record("function", line), Style(TELEMETRY, NEW, json=True))
        assert data.endswith(b"}")
        assert data.count(b"[") in (0, depth)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.catalogue("TL-053", "TL-108")
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_any_object_comes_out_as_it_went_in(document: dict[str, Any]) -> None:
    [event] = events("function", json.dumps(document), TELEMETRY, NEW, json_format=True)
    assert event["record"] == document


@given(
    st.text() | st.text(alphabet='{}[]":,\\aenE+-.0123456789 \t', max_size=30).map(lambda text: "{" + text),
    st.sampled_from(STYLES),
)
def test_any_line_is_one_event_that_any_reader_can_parse(line: str, style: Style) -> None:
    [data] = encode(record("function", line), style)
    assert b"\n" not in data
    event = strict(data)
    assert list(event) == ["time", "type", "record"]
    assert event["record"] == line or (isinstance(event["record"], dict) and style.json)


ANYTHING = st.dictionaries(
    st.sampled_from(["name", "state", "extra", "runtimeNote", "note", "tenantId"]) | st.text(), JSON, max_size=6
)


@pytest.mark.catalogue("TL-050")
@given(
    st.sampled_from([*RECORDS, *OURS]),
    ANYTHING,
    st.sampled_from(STYLES),
    st.floats(0, 4_000_000_000),
)
def test_no_field_that_is_not_documented_ever_leaves(type_: str, more: dict[str, Any], style: Style, wall: float) -> None:
    body = {**RECORDS, **OURS}[type_]
    body = {**more, **body} if isinstance(body, dict) else body
    for data in encode(Record(1, wall, wall, "environment", type_, body, ID, "extension"), style):
        event = strict(data)
        assert list(event) == ["time", "type", "record"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
        if type_ in FIELDS and style.api == TELEMETRY:
            assert set(event["record"]) <= set(wanted(type_, style.schema))
        assert kind_of(event["type"]) == "platform"
        assert event["type"] not in OURS


@pytest.mark.catalogue("TL-050", "TL-051")
@given(st.integers(0, 4_000_000_000_000_000))
def test_a_time_has_three_decimals_whatever_it_is(microseconds: int) -> None:
    [event] = [strict(data) for data in encode(Record(1, 0.0, microseconds / 1e6, "e", "function", "x"), STYLES[0])]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
