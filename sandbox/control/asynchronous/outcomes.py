"""How an event ended, in the words of destinations and dead-letter targets (IN-106, IN-107). Plain data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sandbox.control.asynchronous.queue import Event
from sandbox.core.limits import DEAD_LETTER_TEXT, EVENT_AGE, EVENT_RETRIES

SUCCESS: Final = "Success"
RETRIES_EXHAUSTED: Final = "RetriesExhausted"
AGE_EXCEEDED: Final = "EventAgeExceeded"
ZERO_RESERVED: Final = "ZeroReservedConcurrency"  # recorded
FUNCTION_GONE: Final = "FunctionGone"  # ours: no destination hears of it, for its configuration is gone, too
REFUSED: Final = "InvalidInvoke"  # ours: a tenant id that is missing, or one too many
RECURSION: Final = "RecursionDetected"  # ours

_NOT_IN_MESSAGES: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what SQS refuses


@dataclass(frozen=True, slots=True)
class Settings:
    """What the event invoke config of a qualifier says. max_age: seconds. Targets: ARNs, file://… or None."""

    retries: int = EVENT_RETRIES
    max_age: float = EVENT_AGE
    on_success: str | None = None
    on_failure: str | None = None
    dead_letter: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any] | None, configuration: Mapping[str, Any]) -> Settings:
        """document: of the event invoke config, None without one. configuration: the version's, for its DeadLetterConfig."""
        given = document or {}
        targets = given.get("DestinationConfig", {})
        return cls(
            given.get("MaximumRetryAttempts", EVENT_RETRIES),
            given.get("MaximumEventAgeInSeconds", EVENT_AGE),
            targets.get("OnSuccess", {}).get("Destination") or None,
            targets.get("OnFailure", {}).get("Destination") or None,
            configuration.get("DeadLetterConfig", {}).get("TargetArn") or None,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the last attempt came to. payload: the function's answer; None if it never ran. error: Unhandled, or None.

    status: of the answer, as a synchronous caller would have had it. text: what went wrong, for people.
    """

    status: int
    version: str = ""
    payload: bytes | None = None
    error: str | None = None
    text: str = ""


def destination_record(event: Event, arn: str, condition: str, invokes: int, wall: float, outcome: Outcome | None) -> str:
    """IN-106. arn: the function's, qualified. outcome: None, or without a payload, if the function never ran (IN-110)."""
    context = {"requestId": event.request_id, "functionArn": arn, "condition": condition, "approximateInvokeCount": invokes}
    parts = [f'"version":"1.0","timestamp":"{timestamp(wall)}"', f'"requestContext":{_dump(context)}']
    parts.append(f'"requestPayload":{event.payload.decode()}')  # as it came: no number is rounded
    if outcome is not None and outcome.payload is not None:
        answer: dict[str, Any] = {"statusCode": outcome.status, "executedVersion": outcome.version}
        if outcome.error is not None:
            answer["functionError"] = outcome.error
        parts += [f'"responseContext":{_dump(answer)}', f'"responsePayload":{_json_text(outcome.payload)}']
    return "{" + ",".join(parts) + "}"


def dead_letter_attributes(event: Event, outcome: Outcome) -> dict[str, dict[str, str]]:
    """IN-107: of a message to SQS or SNS."""
    text = _NOT_IN_MESSAGES.sub("?", outcome.text).encode("utf-8", "replace")[:DEAD_LETTER_TEXT].decode("utf-8", "ignore")
    return {
        "RequestID": {"DataType": "String", "StringValue": event.request_id},
        "ErrorCode": {"DataType": "Number", "StringValue": str(outcome.status)},
        "ErrorMessage": {"DataType": "String", "StringValue": text or "unknown"},
    }


def error_text(payload: bytes) -> str:
    """The errorMessage of a function's error, or all of it."""
    try:
        return str(_DECODER.decode(payload.decode())["errorMessage"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return payload.decode("utf-8", "replace")


def timestamp(wall: float) -> str:
    """2019-11-14T18:16:05.568Z."""
    at = datetime.fromtimestamp(wall, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _dump(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def _json_text(payload: bytes) -> str:
    """An answer inside a JSON document: as it is if it is JSON, else as a string."""
    try:
        text = payload.decode()
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return _dump(payload.decode("utf-8", "replace"))
    return text


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)  # numbers may have any length
