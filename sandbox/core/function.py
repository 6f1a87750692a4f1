"""What a function is: its configuration, checked once, here. Plain data: the code folder is only a name here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sandbox.core import limits
from sandbox.core.errors import ConfigError

# EN-001: given by the platform, never by the user.
RESERVED_VARIABLES: Final = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_MAX_CONCURRENCY",
        "AWS_LAMBDA_METADATA_API",
        "AWS_LAMBDA_METADATA_TOKEN",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    }
)

ACCOUNT: Final = "123456789012"  # the account of AWS's own examples; nothing here belongs to a real one
DEFAULT_REGION: Final = "us-east-1"  # DECISIONS "credentials and region"

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_VARIABLE = re.compile(r"[a-zA-Z]([a-zA-Z0-9_])+")  # EN-019
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LOG_FORMATS: Final = ("Text", "JSON")
_LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
_SYSTEM_LEVELS: Final = ("DEBUG", "INFO", "WARN")


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """One function version. Raises ConfigError on a value that Lambda would refuse.

    code: a folder or a .zip. runtime: the id of a managed runtime ("python3.11"; "python" for whichever is
    here), or None for a custom runtime: a `bootstrap` in `code` or in a layer. memory_mb: MB of 1,024 KB (EN-071).
    timeout: seconds; AWS takes whole seconds, a library user may give any positive number up to 900. layers: folders
    or .zips, lowest first. tmp_mb: the size of /tmp (EN-051), where a function has one of its own. log_format: Text | JSON.
    With JSON, log_level is the least of the application's records that are logged, and system_log_level (DEBUG, INFO, WARN)
    the platform's; INFO unless given (EN-011, TL-107). custom_log_group: instead of /aws/lambda/NAME.
    code_name: what people call the code, where `code` is a name of ours. architecture: that it is billed as, x86_64 or arm64;
    what runs is this machine's.
    """

    code: str
    name: str = "function"
    runtime: str | None = None
    handler: str = ""
    memory_mb: int = limits.DEFAULT_MEMORY_MB
    timeout: float = limits.DEFAULT_TIMEOUT_S
    environment: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    tmp_mb: int = limits.DEFAULT_TMP_MB
    region: str = DEFAULT_REGION
    version: str = "$LATEST"
    log_format: str | None = None
    log_level: str | None = None
    system_log_level: str | None = None
    custom_log_group: str | None = None
    code_name: str | None = None
    architecture: str = "x86_64"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > limits.FUNCTION_NAME_LENGTH:
            raise ConfigError(f"function name {self.name!r}: 1 to {limits.FUNCTION_NAME_LENGTH} of a-z, A-Z, 0-9, '-' and '_'")
        if self.memory_mb not in limits.MEMORY_MB:
            raise ConfigError(
                f"memory of {self.memory_mb} MB: {limits.MEMORY_MB.start} to {limits.MEMORY_MB.stop - 1} are possible"
            )
        if self.tmp_mb not in limits.TMP_MB:
            raise ConfigError(f"/tmp of {self.tmp_mb} MB: {limits.TMP_MB.start} to {limits.TMP_MB.stop - 1} are possible")
        if not 0 < self.timeout <= limits.TIMEOUT_S.stop - 1:
            raise ConfigError(
                f"timeout of {self.timeout} s: more than 0 and at most {limits.TIMEOUT_S.stop - 1} s are possible"
            )
        if len(self.handler) > limits.HANDLER_LENGTH or any(c.isspace() for c in self.handler):
            raise ConfigError(f"handler {self.handler!r}: at most {limits.HANDLER_LENGTH} characters, none of them white space")
        if not _REGION.fullmatch(self.region):
            raise ConfigError(f"region {self.region!r}: a name like us-east-1")
        if len(self.layers) > limits.LAYERS:
            raise ConfigError(f"{len(self.layers)} layers: a function has at most {limits.LAYERS}")
        if self.log_format not in (None, *_LOG_FORMATS):
            raise ConfigError(f"log format {self.log_format!r}: one of {', '.join(_LOG_FORMATS)}")
        if self.log_level is not None and (self.log_level not in _LOG_LEVELS or self.log_format != "JSON"):
            raise ConfigError(f"log level {self.log_level!r}: one of {', '.join(_LOG_LEVELS)}, and only with log format JSON")
        if self.system_log_level is not None and (self.system_log_level not in _SYSTEM_LEVELS or self.log_format != "JSON"):
            levels = ", ".join(_SYSTEM_LEVELS)
            raise ConfigError(f"system log level {self.system_log_level!r}: one of {levels}, and only with log format JSON")
        self._check_environment()

    def _check_environment(self) -> None:
        for key, value in self.environment.items():
            if key in RESERVED_VARIABLES:
                raise ConfigError(f"environment variable {key}: reserved, the platform sets it itself (EN-001)")
            if not _VARIABLE.fullmatch(key):
                raise ConfigError(f"environment variable {key!r}: a letter, then one or more of a-z, A-Z, 0-9 and '_'")
            if "\0" in value:
                raise ConfigError(f"environment variable {key}: its value holds a NUL byte")
        size = sum(len(key.encode()) + len(value.encode()) for key, value in self.environment.items())
        if size > limits.VARIABLES_LIMIT:
            raise ConfigError(f"environment variables take {size} bytes: at most {limits.VARIABLES_LIMIT} are possible")

    @property
    def arn(self) -> str:
        """The unqualified ARN."""
        return f"arn:aws:lambda:{self.region}:{ACCOUNT}:function:{self.name}"

    @property
    def log_group(self) -> str:
        """EN-009."""
        return self.custom_log_group or f"/aws/lambda/{self.name}"
