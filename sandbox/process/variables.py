"""The environment variables of runtime and extensions, built from nothing; nothing of the host's leaks in (EN-001 to EN-026).

Order, later wins (EN-024): the platform's unreserved ones, the user's, credentials, what the platform reserves. For the
unreserved names of EN-002 the user's value wins (DECISIONS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sandbox.core.function import FunctionConfig

# EX-014: what an extension does not get. Keys with a leading underscore go too (EX-015).
NOT_FOR_EXTENSIONS: Final = frozenset(
    {
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    }
)
DUMMY_CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "sandbox",
    "AWS_SECRET_ACCESS_KEY": "sandbox",
    "AWS_SESSION_TOKEN": "sandbox",
}


class Places(NamedTuple):
    """Where the environment's folders are, seen from inside or from outside (host/site.py)."""

    task: str
    opt: str
    runtime: str  # the managed runtime's own folder; for a custom runtime a folder that need not exist
    tmp: str
    language: str | None = None  # the prefix of the interpreter, if the runtime is managed


class Identity(NamedTuple):
    """What differs between two environments of one function."""

    runtime_api: str
    log_stream: str
    initialization_type: str


def runtime_variables(
    function: FunctionConfig, places: Places, identity: Identity, credentials: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """The variables of the runtime process. `extra` is what a managed runtime adds (EN-016), or the service around it."""
    language = [f"{places.language}/bin"] if places.language else []
    libraries = [f"{places.language}/lib"] if places.language else []
    variables = {
        "PATH": ":".join([*language, "/usr/local/bin", "/usr/bin/", "/bin", f"{places.opt}/bin"]),  # EN-014
        "LD_LIBRARY_PATH": ":".join(  # EN-015
            [
                *libraries,
                "/lib64",
                "/usr/lib64",
                places.runtime,
                f"{places.runtime}/lib",
                places.task,
                f"{places.task}/lib",
                f"{places.opt}/lib",
            ]
        ),
        "LANG": "en_US.UTF-8",  # EN-013
        "TZ": ":UTC",
        # Tier `process` cannot give an environment its own /tmp: the next best.
        **({"TMPDIR": places.tmp} if places.tmp != "/tmp" else {}),
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",  # EN-017
        "AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1:2000",
        **extra,
        **function.environment,
        **credentials,
        **_reserved(function, identity),
        "_AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1",
        "_AWS_XRAY_DAEMON_PORT": "2000",
        "_HANDLER": function.handler,  # EN-003
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,  # EN-009
        "AWS_LAMBDA_LOG_STREAM_NAME": identity.log_stream,
        "LAMBDA_TASK_ROOT": places.task,  # EN-012
        "LAMBDA_RUNTIME_DIR": places.runtime,
    }
    if function.runtime and not function.runtime.startswith("provided"):
        variables["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{function.runtime}"  # EN-005
    if function.log_format is not None:  # EN-011
        variables["AWS_LAMBDA_LOG_FORMAT"] = function.log_format
        if function.log_level is not None:
            variables["AWS_LAMBDA_LOG_LEVEL"] = function.log_level
    return variables


def _reserved(function: FunctionConfig, identity: Identity) -> dict[str, str]:
    return {
        "AWS_REGION": function.region,
        "AWS_DEFAULT_REGION": function.region,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),  # EN-006
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,  # EN-007
        "AWS_LAMBDA_INITIALIZATION_TYPE": identity.initialization_type,  # EN-008
        "AWS_LAMBDA_RUNTIME_API": identity.runtime_api,  # RT-001
    }


def extension_variables(runtime: Mapping[str, str]) -> dict[str, str]:
    """The variables of an external extension, from those of the runtime (EX-014, EX-015)."""
    return {k: v for k, v in runtime.items() if k not in NOT_FOR_EXTENSIONS and not k.startswith("_")}
