"""Errors of the Lambda API, as its callers get them. Statuses and the spelling of the body's keys are the service model's."""

from __future__ import annotations

import re
from typing import Any, Final

from sandbox.core.errors import SandboxError

_NO_MODEL: Final = {  # not in the service model, but AWS answers so
    "AccessDeniedException": 403,
    "RequestEntityTooLargeException": 413,
    "SerializationException": 400,
    "UnknownOperationException": 404,
    "UnsupportedOperationException": 501,  # ours: what the Lambda API has, and we do not
    "ValidationException": 400,
}


class ApiError(SandboxError):
    """An error answer. code: the exception's name. typed: whether its body tells that it is the user's mistake.

    extra: further members of the exception. status: where the model has none.
    """

    def __init__(self, code: str, message: str, *, typed: bool = True, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.typed = typed and code not in _NO_MODEL
        self.extra = extra

    @property
    def status(self) -> int | None:
        """None if the model knows."""
        return _NO_MODEL.get(self.code)


def invalid(message: str, *, typed: bool = True) -> ApiError:
    return ApiError("InvalidParameterValueException", message, typed=typed)


def not_found(message: str) -> ApiError:
    return ApiError("ResourceNotFoundException", message)


def conflict(message: str) -> ApiError:
    return ApiError("ResourceConflictException", message)


def stale(call: str = "GetFunction/GetAlias") -> ApiError:
    """CP-021."""
    text = "The Revision Id provided does not match the latest Revision Id."
    return ApiError("PreconditionFailedException", f"{text} Call the {call} API to retrieve the latest Revision Id")


def validation(complaints: list[str]) -> ApiError:
    """What the model forbids."""
    s = "s" if len(complaints) > 1 else ""
    return ApiError("ValidationException", f"{len(complaints)} validation error{s} detected: {'; '.join(complaints)}")


def unsupported(what: str) -> ApiError:
    return ApiError("UnsupportedOperationException", f"lambda-sandbox does not support {what} yet.")


def too_large(message: str) -> ApiError:
    return ApiError("RequestEntityTooLargeException", message)


_HEADER = re.compile(r"[^\t\x20-\x7e]")


def in_header(text: str) -> str:
    """A text as a header can carry it."""
    return _HEADER.sub("?", text)
