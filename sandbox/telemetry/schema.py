"""Journal records as events of the Telemetry API and the Logs API: the documented fields of each schema (TL-050 to TL-086).

What only we say (sandbox.*, a runtime note) never goes to a subscriber: one field too many and a strict reader drops a batch.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NamedTuple

from sandbox.core.subscription import LOGS
from sandbox.telemetry.journal import Record, iso, span_document

_INSTANCE: Final = ("functionName", "functionVersion", "instanceId", "instanceMaxMemory")
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "platform.initStart": ("initializationType", "phase", "runtimeVersion", "runtimeVersionArn", *_INSTANCE),
    "platform.initRuntimeDone": ("initializationType", "phase", "status", "errorType", "spans"),
    "platform.initReport": ("initializationType", "phase", "status", "errorType", "metrics", "spans"),
    "platform.start": ("requestId", "version", "tracing", "tenantId"),
    "platform.runtimeDone": ("requestId", "status", "errorType", "metrics", "spans", "tracing", "tenantId"),
    "platform.report": ("requestId", "status", "errorType", "metrics", "spans", "tracing", "tenantId"),
    "platform.extension": ("name", "state", "events", "errorType"),
    "platform.telemetrySubscription": ("name", "state", "types"),
    "platform.logsDropped": ("reason", "droppedRecords", "droppedBytes"),
}
_SINCE: Final[dict[str, dict[str, str]]] = {  # the schema version that brought a field
    "platform.initStart": dict.fromkeys(_INSTANCE, "2022-12-13"),
    "platform.initReport": {"status": "2022-12-13", "errorType": "2022-12-13"},
    "platform.extension": {"errorType": "2022-12-13"},
    "platform.start": {"tenantId": "2025-01-29"},
    "platform.runtimeDone": {"tenantId": "2025-01-29"},
    "platform.report": {"tenantId": "2025-01-29"},
}
_LOGS_FIELDS: Final[dict[str, tuple[str, ...]]] = {  # TL-084
    "platform.start": ("requestId", "version"),
    "platform.report": ("requestId", "metrics"),
    "platform.extension": ("name", "state", "events"),
    "platform.logsSubscription": ("name", "state", "types"),
    "platform.logsDropped": ("reason", "droppedRecords", "droppedBytes"),
}


_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # json.dumps makes one for each call


class Style(NamedTuple):
    """What decides how a record looks to a subscriber. json: the function's log format is JSON."""

    api: str
    schema: str
    json: bool = False


def kind_of(record_type: str) -> str:
    """platform, function or extension: what a subscription's `types` name; "sandbox" for what is ours alone."""
    return record_type.partition(".")[0]


def encode(record: Record, style: Style) -> list[bytes]:
    """The events that a record is to a subscriber, each as JSON; none for what its API does not have."""
    time = iso(record.wall)
    return [_ENCODE({"time": time, "type": type_, "record": body}).encode() for type_, body in _events(record, style)]


def _events(record: Record, style: Style) -> list[tuple[str, Any]]:
    if kind_of(record.type) in ("function", "extension"):
        return [(record.type, line_record(record.record) if _parses_lines(style) else record.record)]
    if style.api == LOGS:
        return _logs_events(record, style)
    fields = _FIELDS.get(record.type)
    if fields is None:
        return []
    since = _SINCE.get(record.type, {})
    return [(record.type, _chosen(record, tuple(name for name in fields if since.get(name, "") <= style.schema)))]


def _parses_lines(style: Style) -> bool:
    """TL-053."""
    return style.json and style.api != LOGS and style.schema >= "2022-12-13"


def line_record(line: str) -> Any:
    """A line that is a JSON object, as that object; any other line as it is (TL-053, TL-108)."""
    if not line.startswith("{"):
        return line
    try:
        document = json.loads(line, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return line
    return document if isinstance(document, dict) else line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):  # it would be written as Infinity, which is no JSON
        raise ValueError(f"{number} is too large")
    return value


def _chosen(record: Record, fields: tuple[str, ...]) -> dict[str, Any]:
    body = record.record
    chosen = {name: body[name] for name in fields if name in body}
    if "spans" in chosen:
        offset = record.wall - record.mono
        chosen["spans"] = [span_document(span, offset) for span in chosen["spans"]]
    return chosen


def _logs_events(record: Record, style: Style) -> list[tuple[str, Any]]:
    """The Logs API has events that the Telemetry API has not, and the other way round."""
    body = record.record
    if record.type == "platform.runtimeDone":
        status = "failure" if body["status"] == "error" else body["status"]
        done = {"requestId": body["requestId"], "status": status}
        return [(record.type, done)] if style.schema >= "2021-03-18" else []  # TL-005
    fields = _LOGS_FIELDS.get(record.type)
    if fields is None:
        return []
    events: list[tuple[str, Any]] = [(record.type, _chosen(record, fields))]
    if record.type == "platform.report":
        request_id = body["requestId"]
        events.insert(0, ("platform.end", {"requestId": request_id}))
        if body["status"] in ("error", "failure"):
            events.insert(0, ("platform.fault", f"RequestId: {request_id} Process exited before completing request"))
    return events
