"""The AWS Lambda execution environment on your own machine.

    async with Host() as host:
        function = await host.deploy("path/to/code", runtime="python", handler="app.handler")
        result = await function.invoke({"hello": "world"})
        print(result.payload, result.report.duration_ms)

What this package exports is its public face; everything else may change without notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.core.errors import ConfigError, FunctionFailure, InvariantError, SandboxError, Unsupported
    from sandbox.core.function import FunctionConfig
    from sandbox.core.limits import Limits
    from sandbox.host.host import Function, Host, Throttled
    from sandbox.host.result import ExtensionCost, InvokeResult, Phase, Report, ResponseStream

__version__ = "0.1.0"

_EXPORTS = {
    "ConfigError": "sandbox.core.errors",
    "FunctionConfig": "sandbox.core.function",
    "FunctionFailure": "sandbox.core.errors",
    "InvariantError": "sandbox.core.errors",
    "SandboxError": "sandbox.core.errors",
    "Unsupported": "sandbox.core.errors",
    "Limits": "sandbox.core.limits",
    "Function": "sandbox.host.host",
    "Host": "sandbox.host.host",
    "Throttled": "sandbox.host.host",
    "ExtensionCost": "sandbox.host.result",
    "InvokeResult": "sandbox.host.result",
    "Phase": "sandbox.host.result",
    "Report": "sandbox.host.result",
    "ResponseStream": "sandbox.host.result",
}

__all__ = [  # noqa: RUF022 (the order people meet them in)
    "Host",
    "Function",
    "FunctionConfig",
    "InvokeResult",
    "Report",
    "Phase",
    "ExtensionCost",
    "ResponseStream",
    "Limits",
    "SandboxError",
    "ConfigError",
    "FunctionFailure",
    "InvariantError",
    "Throttled",
    "Unsupported",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line's `--help` must not pay for the host."""
    if name in _EXPORTS:
        import importlib

        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
