"""What a runtime has posted, as the caller's answer."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Final

from sandbox.host.environment.job import Job
from sandbox.wire.http1 import Exchange
from sandbox.wire.runtime_api import RuntimeApi, error_cause, error_payload

UNHANDLED: Final = "Unhandled"  # IN-021


def take_answer(job: Job, exchange: Exchange, *, error: bool) -> None:
    """Fills the job's result from a whole answer; `error` if it was posted to /error, or ended in an error trailer."""
    result = job.result
    result.content_type = content_type(exchange)
    mid_stream = exchange.trailers.get(b"lambda-runtime-function-error-type")
    if error and mid_stream is not None and not exchange.target.endswith(b"/error"):
        _error_in_mid_stream(job, exchange, mid_stream)
    elif error:
        result.function_error, result.status = UNHANDLED, "error"
        result.payload, result.content_type = error_payload(exchange)
        result.error_type = error_type_in(result.payload) or RuntimeApi.error_type(exchange)
        result.error_cause = error_cause(exchange)
    else:
        result.payload = exchange.body


def _error_in_mid_stream(job: Job, exchange: Exchange, error_type: bytes) -> None:
    """RT-072: the type and, in base64, the details come in trailers. Details that are no base64 are left out (RT-080)."""
    result = job.result
    if job.stream is not None and job.stream.content_type is None:  # it came whole: what was sent stays sent
        job.stream.content_type = result.content_type
        job.stream.push(exchange.body)
    result.function_error, result.status = UNHANDLED, "error"
    result.error_type = error_type.decode("latin-1")
    try:
        result.payload = base64.b64decode(exchange.trailers.get(b"lambda-runtime-function-error-body", b""), validate=True)
    except binascii.Error:
        result.payload = b""
    if not result.payload:
        result.payload = error_document(result.error_type, "the response was broken off by an error")


def content_type(exchange: Exchange) -> str:
    return exchange.headers.get(b"content-type", b"application/json").decode("latin-1")


def error_document(error_type: str, message: str) -> bytes:
    """IN-027."""
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


_REFUSED_MEMORY = re.compile(r"(\w+<)?(No)?MemoryError>?").fullmatch  # Python's and Ruby's


def is_out_of_memory(exchange: Exchange) -> bool:
    """Whether an error that a runtime posts is that of an allocation that was refused."""
    payload = error_payload(exchange)[0]
    error_type = error_type_in(payload) or ""
    if error_type == "RangeError":  # Node.js's
        return b"Array buffer allocation failed" in payload
    return _REFUSED_MEMORY(error_type) is not None


def error_type_in(payload: bytes) -> str | None:
    """RT-094: the body's own errorType, if it has one."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    error_type = document.get("errorType") if isinstance(document, dict) else None
    return error_type if isinstance(error_type, str) else None
