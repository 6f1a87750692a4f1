"""Errors, and the words in which the platform speaks of them.

SandboxError
  Refused           a peer broke the protocol: its own 4xx; the host goes on
  FunctionFailure   the function's fate: FunctionError + errorType
  Unsupported       this machine cannot: what, why, and what to do
  ConfigError       the operator's mistake: exit code 2
  InvariantError    our mistake: that environment ends
"""

from __future__ import annotations

import re
from typing import Final


class SandboxError(Exception):
    """Everything that this package raises on purpose. The text is for the reader."""


class ConfigError(SandboxError):
    """The operator's mistake: says what is wrong, where, and what would be right."""


class Refused(SandboxError):
    """A peer asked for a move that is not in a table. Carries the reply (status, errorType, message)."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message


class FunctionFailure(SandboxError):
    """A function failed, for callers who asked for an exception (`InvokeResult.check`)."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}" if error_type else message)
        self.error_type = error_type
        self.message = message


class Unsupported(SandboxError):
    """This machine, or this version, cannot do what was asked."""


class InvariantError(SandboxError):
    """Our mistake. The environment that it happened in ends; please report it."""


# Error types of the platform (LC-010 … LC-075, RT-053 … RT-065)
EXIT_ERROR: Final = "Runtime.ExitError"
INVALID_ENTRYPOINT: Final = "Runtime.InvalidEntrypoint"
OUT_OF_MEMORY: Final = "Runtime.OutOfMemory"
TIMED_OUT: Final = "Sandbox.Timedout"
SANDBOX_FAILURE: Final = "Sandbox.Failure"
UNKNOWN: Final = "Runtime.Unknown"  # TL-089: Init ran into its limit
RESPONSE_TOO_LARGE: Final = "Function.ResponseSizeTooLarge"
TRUNCATED_RESPONSE: Final = "Runtime.TruncatedResponse"
BAD_RESPONSE_MODE: Final = "Runtime.InvalidResponseModeHeader"
EXTENSION_CRASH: Final = "Extension.Crash"
EXTENSION_LAUNCH: Final = "Extension.LaunchError"
EXTENSION_INIT: Final = "Extension.InitError"
EXTENSION_EXIT: Final = "Extension.ExitError"

TRANSITION: Final = "InvalidStateTransition"
EXTENSION_STATE: Final = "Extension.InvalidExtensionState"

_SIGNAL_NAMES: Final = {
    1: "hangup",
    2: "interrupt",
    3: "quit",
    4: "illegal instruction",
    5: "trace/breakpoint trap",
    6: "aborted",
    7: "bus error",
    8: "floating point exception",
    9: "killed",
    11: "segmentation fault",
    13: "broken pipe",
    14: "alarm clock",
    15: "terminated",
}  # the words of Go's os/exec, in which AWS reports an exit


def status_words(code: int | None, signal: int | None) -> str:
    """How a process ended, in the words of Go's os/exec."""
    if signal is not None:
        return f"signal: {_SIGNAL_NAMES.get(signal, str(signal))}"
    return f"exit status {code}" if code else "exit code 0"


def exit_message(code: int | None, signal: int | None) -> str:
    """What AWS says of an exit (LC-012, LC-074)."""
    if signal is not None or code:
        return f"Runtime exited with error: {status_words(code, signal)}"
    return "Runtime exited without providing a reason"


def timeout_message(timeout: float) -> str:
    """LC-072: two decimals."""
    return f"Task timed out after {timeout:.2f} seconds"


def platform_message(request_id: str, message: str) -> str:
    """The errorMessage of a platform error (IN-027)."""
    return f"RequestId: {request_id} Error: {message}"


_ERROR_TYPE = re.compile(r"(Runtime|Function)\.[A-Z][a-zA-Z]+")


def normal_error_type(reported: str | None) -> str:
    """RT-093: the type from `Lambda-Runtime-Function-Error-Type`, as telemetry has it."""
    if reported and _ERROR_TYPE.fullmatch(reported):
        return reported
    return "Function.Unknown" if reported and reported.startswith("Function.") else "Runtime.Unknown"
