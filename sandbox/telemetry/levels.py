"""Log format JSON: what of the journal is logged at which level (TL-104 to TL-108)."""

from __future__ import annotations

from typing import Final, NamedTuple

from sandbox.core.function import FunctionConfig
from sandbox.core.subscription import SCHEMAS, TELEMETRY
from sandbox.telemetry.journal import Record
from sandbox.telemetry.report import lines_of
from sandbox.telemetry.schema import Style, encode, kind_of, line_record

_LEVELS: Final = {"TRACE": 0, "DEBUG": 1, "INFO": 2, "WARN": 3, "WARNING": 3, "ERROR": 4, "FATAL": 5, "CRITICAL": 5}
_STYLE: Final = Style(TELEMETRY, SCHEMAS[TELEMETRY][-1], json=True)


class LogView(NamedTuple):
    """How a function's log looks. json: system logs are telemetry events; levels: the least that is logged."""

    json: bool = False
    system: str = "INFO"
    application: str = "INFO"

    @classmethod
    def of(cls, function: FunctionConfig) -> LogView:
        return cls(function.log_format == "JSON", function.system_log_level or "INFO", function.log_level or "INFO")  # TL-107

    def lines(self, record: Record) -> list[str]:
        """The log lines that a record makes; what only we say is a line for people in either format."""
        kind = kind_of(record.type)
        if not self.json or kind == "sandbox":
            return lines_of(record)
        if kind in ("function", "extension"):
            return [record.record] if _LEVELS[application_level(record.record)] >= _LEVELS[self.application] else []
        if _LEVELS[system_level(record)] < _LEVELS[self.system]:
            return []
        return [event.decode() for event in encode(record, _STYLE)]


def application_level(line: str) -> str:
    """TL-106: the level that a JSON line gives itself; INFO without a known one."""
    document = line_record(line)
    level = document.get("level") if isinstance(document, dict) else None
    level = level.upper() if isinstance(level, str) else "INFO"
    return level if level in _LEVELS else "INFO"


def system_level(record: Record) -> str:
    """TL-105."""
    body = record.record
    good = body.get("status", "success") == "success"
    match record.type:
        case "platform.initStart":
            return "INFO" if "runtimeVersion" in body else "DEBUG"
        case "platform.initRuntimeDone" | "platform.runtimeDone":
            return "DEBUG" if good else "WARN"
        case "platform.initReport" if good:
            return "DEBUG" if body["initializationType"] == "on-demand" else "INFO"
        case "platform.extension":
            return "WARN" if "errorType" in body else "INFO"
        case "platform.logsDropped":
            return "WARN"
    return "INFO" if good else "WARN"
