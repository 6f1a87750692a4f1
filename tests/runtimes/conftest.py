"""What the tests of runtimes share: a host with AWS's own limits (nothing here waits for one), and a way to deploy.

They compare what an interpreter does with a handler, hundreds of times, and with clients that lie anywhere on this machine:
that is for tier `process`, where an environment is a little quicker to be had. What a tier could change (where the runtime, the
code and layers are, how output comes, what a timeout ends) is shown for each language in both, `in_both_tiers`.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.host.host import Function
from sandbox.host.result import InvokeResult
from tests.conftest import TIERS, MakeFolder, Tier, no_task_is_left

Deploy = Callable[..., Awaitable[Function]]

in_tier_process = [pytest.mark.tiers("process"), pytest.mark.usefixtures("tier")]
in_both_tiers = pytest.mark.tiers(*TIERS)

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
PID = "import os\ndef handler(event, context):\n    return os.getpid()\n"
EVALUATE = """
import collections, decimal, json, logging, os, signal, subprocess, sys, tempfile, time

Point = collections.namedtuple("Point", "x y")

def handler(event, context):
    return eval(event, {**globals(), "context": context})
"""
# A custom runtime of a few lines, in the interpreter that runs the tests: it answers each event with its own variables.
CUSTOM = f"#!/bin/sh\nexec '{os.path.realpath(sys.executable)}' -S runtime.py\n"
CUSTOM_PY = """
import http.client, json, os

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    event = api.getresponse()
    event.read()
    path = f"/2018-06-01/runtime/invocation/{event.headers['Lambda-Runtime-Aws-Request-Id']}/response"
    api.request("POST", path, json.dumps(dict(os.environ)))
    api.getresponse().read()
"""


@pytest.fixture
async def host(tier: Tier) -> AsyncIterator[Host]:
    """A cold interpreter on a busy machine may take a second: Init has AWS's 10 s here."""
    async with Host() as host:
        yield host
    no_task_is_left()


@pytest.fixture
def deploy(host: Host, folder: MakeFolder) -> Deploy:
    """Deploys app.py (and other files, by path) on our managed Python runtime; keywords are those of FunctionConfig."""

    async def make(app: str, files: dict[str, str] | None = None, **settings: Any) -> Function:
        code = folder(**{"app.py": textwrap.dedent(app)}, **(files or {}))
        return await host.deploy(code, **{"runtime": "python", "handler": "app.handler", "timeout": 20} | settings)

    return make


def code_of(function: Function) -> str:
    """The code folder as the function sees it, once there is an environment."""
    return function.environments[0].plan.places.task


def put(function: Function, name: str, text: str) -> None:
    """Writes a file into the environment's code, which the function itself could not do on Lambda."""
    file = Path(code_of(function), name)
    file.parent.chmod(0o755)
    file.unlink(missing_ok=True)
    file.write_text(text)


def printed(result: InvokeResult) -> list[str]:
    """The records of type "function": what the processes wrote."""
    return [record.record for record in result.records if record.type == "function"]


def platform_error(result: InvokeResult, error_type: str, message: str) -> dict[str, str]:
    """The payload that the platform makes when the runtime gave none."""
    return {"errorType": error_type, "errorMessage": f"RequestId: {result.request_id} Error: {message}"}
