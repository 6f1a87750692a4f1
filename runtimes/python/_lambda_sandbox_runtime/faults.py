"""How errors are told: the document that the caller gets, the cause for X-Ray, the text in the log."""

from __future__ import annotations

import json
import os

_CAUSE_LIMIT = 1024 * 1024  # AWS's clients leave the header out beyond it


class Fault(Exception):
    """An error of the function's set-up, with an error type of its own (Runtime.ImportModuleError and its like)."""

    def __init__(self, error_type: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.trace = trace or []


def document(error: BaseException, request_id: str) -> dict:
    """errorMessage, errorType, requestId, stackTrace: as AWS's Python client posts them."""
    if isinstance(error, Fault):
        return _document(str(error), error.error_type, request_id, error.trace)
    return _document(_text(error), type(error).__name__, request_id, _lines(error))


def _document(message: str, error_type: str, request_id: str, trace: list[str]) -> dict:
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace}


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a __str__ that fails must not hide the error itself
        return f"<{type(error).__name__} whose text cannot be made>"


def frames(error: BaseException) -> list[tuple[str, int, str, str]]:
    """(file, line, function, source line); our own frames at the beginning are left out."""
    import traceback

    ours = os.path.dirname(os.path.abspath(__file__))
    found = [(f.filename, f.lineno or 0, f.name, f.line or "") for f in traceback.extract_tb(error.__traceback__)]
    while found and found[0][0].startswith(ours):
        del found[0]
    return found


def _lines(error: BaseException) -> list[str]:
    """The frames as text; of a deep recursion only the first few."""
    import traceback

    return traceback.format_list(frames(error))


def cause(error: BaseException) -> str | None:
    """For Lambda-Runtime-Function-XRay-Error-Cause; None if it would be too long for a header."""
    found = frames(error)
    stack = [{"label": name, "path": file, "line": number} for file, number, name, _ in found]
    kind = "LambdaValidationError" if isinstance(error, Fault) else type(error).__name__  # as AWS's client has it
    what = {"message": _text(error), "type": kind, "stack": stack}
    paths = sorted({file for file, _, _, _ in found})
    text = json.dumps({"working_directory": os.getcwd(), "exceptions": [what], "paths": paths})
    return text if len(text) < _CAUSE_LIMIT else None


def log_text(told: dict) -> str:
    """The text of an error in the log: one record of several lines."""
    what = ": ".join(part for part in (told["errorType"], told["errorMessage"]) if part)
    trace = "".join(told["stackTrace"]).rstrip("\n")
    return f"[ERROR] {what}\nTraceback (most recent call last):" + (f"\n{trace}" if trace else "")
