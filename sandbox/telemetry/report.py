"""Log lines of the platform: INIT_START, START, END, REPORT, INIT_REPORT (TL-100 to TL-102)."""

from __future__ import annotations

from typing import Any

from sandbox.core.limits import HELD_OPEN_MS
from sandbox.telemetry.journal import Record

UNKNOWN = "unknown"  # what cannot be known is never made up


def lines_of(record: Record) -> list[str]:
    """The log lines that a record makes, in text format; none for records that logs do not show."""
    body = record.record
    match record.type:
        case "function" | "extension" | "sandbox.diagnosis":
            return body.split("\n") if record.type == "sandbox.diagnosis" else [body]
        case "platform.start":
            return [f"START RequestId: {body['requestId']} Version: {body.get('version', '$LATEST')}"]
        case "platform.report":
            return [f"END RequestId: {body['requestId']}", _report(body)]
        case "platform.initStart":
            version, arn = body.get("runtimeVersion", UNKNOWN), body.get("runtimeVersionArn", UNKNOWN)
            return [f"INIT_START Runtime Version: {version}\tRuntime Version ARN: {arn}"]
        case "platform.initReport" if body["status"] != "success":
            again = "sandbox: Init is done again inside the invoke, within the function's timeout (suppressed init)"
            by_invoke = body["phase"] == "init" and body.get("initializationType", "on-demand") == "on-demand"
            return [_init_report(body), *([again] if by_invoke else [])]
        case "platform.extension":
            parts = ["EXTENSION", f"Name: {body['name']}", f"State: {body['state']}", _listed("Events", body["events"])]
            return ["\t".join(parts + ([f"Error Type: {body['errorType']}"] if "errorType" in body else []))]
        case "platform.telemetrySubscription" | "platform.logsSubscription":
            head = "TELEMETRY" if record.type == "platform.telemetrySubscription" else "LOGS"
            types = _listed("Types", [type_.capitalize() for type_ in body["types"]])
            return [f"{head}\tName: {body['name']}\tState: {body['state']}\t{types}"]
        case "platform.logsDropped":
            what = f"{body['droppedRecords']} records ({body['droppedBytes']} bytes)"
            return [f"sandbox: telemetry of extension {record.extension}: {what} were dropped: {body['reason']}"]
        case "sandbox.extensions" if body.get("heldOpenMs", 0.0) >= HELD_OPEN_MS:
            held = f"{body['heldOpenMs']:.2f} ms after the runtime was done"
            return [f"sandbox: extension {body['heldOpenBy']} kept the environment running for {held}"]
        case "sandbox.refused":
            who = f" by extension {record.extension}" if record.extension else ""
            what = f"{body['method']} {body['target']}{who}"
            return [f"sandbox: refused: {what}: {body['status']} {body['errorType']}: {body['message']}"]
        case "sandbox.windDown":
            return _wind_down(body)
    return []


def _listed(name: str, values: list[str]) -> str:
    return f"{name}: [{', '.join(values)}]"


def _wind_down(body: dict[str, Any]) -> list[str]:
    """How Reset or Shutdown went: who was told, who ended how, who had to be killed."""
    budget = f"of {body['windowMs']:.0f} ms" if body["windowMs"] else "(killed at once: no extension had registered)"
    head = f"sandbox: {body['phase']} ({body['reason']}): {body['durationMs']:.0f} ms {budget}"
    if body["runtimeMs"] is not None:
        head += f"; the runtime ended after {body['runtimeMs']:.0f} ms"
    lines = [head]
    for extension in body["extensions"]:
        line = f"sandbox:   extension {extension['name']}: {_end_of(extension)}"
        if undelivered := extension.get("telemetry", {}).get("undeliveredRecords"):
            line += f"; {undelivered} telemetry records were not delivered"
        lines.append(line)
    return lines


def _end_of(extension: dict[str, Any]) -> str:
    """How one extension ended, and why it was not given SHUTDOWN, or what it made of it."""
    how = f"{extension['exit'] or 'killed'} after {extension['ms']:.0f} ms"
    if extension["state"] == "LaunchError":
        return f"had not started: {extension['exit']}"
    if not extension["told"] and extension["ms"] == 0:
        return f"had ended before: {extension['exit']}"
    if extension["told"]:
        killed = extension["exit"] == "signal: killed"
        return f"given SHUTDOWN, {'did not exit: ' if killed else ''}{how}"
    if not extension["registered"]:
        return f"had not registered, {how}"
    if "SHUTDOWN" not in extension["events"]:
        return f"had not asked for SHUTDOWN, {how}"
    return f"did not poll for SHUTDOWN, {how}"


def _report(body: dict[str, Any]) -> str:
    metrics = body["metrics"]
    parts = [
        f"REPORT RequestId: {body['requestId']}",
        f"Duration: {metrics['durationMs']:.2f} ms",
        f"Billed Duration: {metrics['billedDurationMs']} ms",
        f"Memory Size: {metrics['memorySizeMB']} MB",
        f"Max Memory Used: {metrics['maxMemoryUsedMB']} MB" if "maxMemoryUsedMB" in metrics else f"Max Memory Used: {UNKNOWN}",
    ]
    if "initDurationMs" in metrics:
        parts.append(f"Init Duration: {metrics['initDurationMs']:.2f} ms")
    note = [f"Runtime: {body['runtimeNote']}"] if "runtimeNote" in body else []
    return "\t".join(parts + _status(body) + note)


def _init_report(body: dict[str, Any]) -> str:
    duration = f"INIT_REPORT Init Duration: {body['metrics']['durationMs']:.2f} ms"
    return "\t".join([duration, f"Phase: {body['phase']}", *_status(body)])


def _status(body: dict[str, Any]) -> list[str]:
    """TL-101."""
    if body["status"] == "success":
        return []
    error = [f"Error Type: {body['errorType']}"] if "errorType" in body else []
    return [f"Status: {body['status']}", *error]
