"""A target that is small and quick: a custom runtime in Python, of one file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.conformance.target import Target, load

# What it does differently from a good runtime is chosen by what stands in place of the markers.
RUNTIME = """\
#!{python} -SE
import http.client, json, os, sys, time

def call(method, path, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, "/2018-06-01/runtime/" + path, body, {{"Content-Type": "application/json"}})
    reply = connection.getresponse()
    return reply, reply.read()

while True:
    reply, event = call("GET", "invocation/next")
    if reply.status != 200:
        sys.exit(1)
    path = "invocation/" + reply.headers["Lambda-Runtime-Aws-Request-Id"]
    if os.environ["_HANDLER"] == "error":
        call("POST", path + "/error", json.dumps({{"errorMessage": json.loads(event)["message"], "errorType": "E"}}))
        continue
    answer = event
    {instead}
    call("POST", path + "/response", answer)
"""

CONFORMANCE = """\
[target]
kind = "runtime"
name = "small"
isolation = "process" # where any interpreter is to be seen
patience = {patience}

[handlers]
echo = "echo"
error = "error"
"""

MakeTarget = Callable[..., Target]


def write_target(folder: Path, instead: str = "pass", patience: float = 10.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bootstrap = folder / "bootstrap"
    bootstrap.write_text(RUNTIME.format(python=sys.executable, instead=instead))
    bootstrap.chmod(0o755)
    (folder / "conformance.toml").write_text(CONFORMANCE.format(patience=patience))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> MakeTarget:
    def make(instead: str = "pass", patience: float = 10.0) -> Target:
        return load(write_target(tmp_path / "target", instead, patience), "runtime")

    return make
