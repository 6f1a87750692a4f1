"""Stock clients that know the Lambda API and nothing of us: a served service, and how they are found and run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sandbox import Host
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import ROOT, SHORT, no_task_is_left

CLIENTS = ROOT / ".cache" / "clients"
ROLE = "arn:aws:iam::123456789012:role/r"
ARN = "arn:aws:lambda:us-east-1:123456789012:function"
APP = """
import os, time
def handler(event, context):
    do = event.get("do")
    if do == "raise":
        raise ValueError("as asked")
    if do == "print":
        print(event["line"])
    if do == "sleep":
        time.sleep(event["seconds"])
    with_layer = open("/opt/word").read() if os.path.exists("/opt/word") else None
    return {"event": event, "version": context.function_version, "arn": context.invoked_function_arn, "word": os.getenv("WORD")}
"""


def needs(path: str) -> Path:
    """What scripts/setup dev made in .cache/clients. Skips where it is not."""
    if not (CLIENTS / path).exists():
        pytest.skip(f"no .cache/clients/{path}: scripts/setup dev makes it, where what it needs can be had")
    return CLIENTS / path


def command(name: str) -> str:
    """A program on PATH. Skips where it is not."""
    if (found := shutil.which(name)) is None:
        pytest.skip(f"no {name} on PATH")
    return found


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """A service without a data folder, served: its endpoint."""
    async with Service(Host(limits=SHORT)) as service:
        server = Server(service)
        try:
            yield await server.start()
        finally:
            await server.close()
    no_task_is_left()


class Done(NamedTuple):
    code: int
    out: str
    err: str


async def run(*words: str | Path, folder: Path, **variables: str) -> Done:
    """A program to its end, in an environment of its own: no settings or credentials of whoever runs the tests."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **variables}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, cwd=folder, env=environment, stdin=-3, stdout=pipe, stderr=pipe)
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())
