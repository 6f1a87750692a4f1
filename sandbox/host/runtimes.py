"""Which program a function's runtime is: a managed runtime of ours, or a `bootstrap` that the function brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.assets import asset
from sandbox.core.errors import ConfigError, Unsupported
from sandbox.core.function import FunctionConfig
from sandbox.process.variables import Identity, Places, runtime_variables

_OWN: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
_NOT_YET: Final = ("nodejs", "ruby", "java", "dotnet", "go")


class EntrypointError(Exception):
    """LC-010: there is no program to start. The text is AWS's; `program` is the file that was looked at, if any."""

    def __init__(self, message: str, program: str | None) -> None:
        super().__init__(message)
        self.program = program


class Entry(NamedTuple):
    """What to start: a file, its arguments, its environment."""

    file: str
    argv: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the runtime of one environment is started. managed: it is one of ours, and takes the log descriptor."""

    managed: bool
    places: Places
    variables: Mapping[str, str]
    interpreter: str | None = None
    version: str | None = None

    def entry(self) -> Entry:
        """Raises EntrypointError."""
        if self.managed:
            bootstrap = f"{self.places.runtime}/bootstrap"
            return Entry(bootstrap, [bootstrap, self.interpreter or "", self.places.opt], self.variables)
        looked_at = None
        for folder in (self.places.task, self.places.opt):  # DECISIONS "bootstrap search"
            file = Path(folder, "bootstrap")
            if file.is_file():
                looked_at = looked_at or str(file)
                if os.access(file, os.X_OK):
                    return Entry(str(file), [str(file)], self.variables)
        raise EntrypointError("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]", looked_at)

    def shown(self, program: str | None) -> str:
        """A program's path as the function would see it on Lambda."""
        for place, name in ((self.places.task, "/var/task"), (self.places.opt, "/opt"), (self.places.runtime, "/var/runtime")):
            if program is not None and program.startswith(place + "/"):
                return name + program[len(place) :]
        return program or "/var/task/bootstrap"


class Interpreter(NamedTuple):
    """An installed interpreter: its runtime id, its path, its prefix, its version."""

    runtime: str
    path: str
    prefix: str
    version: str


def plan(function: FunctionConfig, folder: str, identity: Identity, credentials: Mapping[str, str]) -> Plan:
    """The plan for an environment whose own files are in `folder`. Raises Unsupported, ConfigError."""
    interpreter = find_interpreter(function.runtime)
    places = Places(
        task=str(Path(function.code).resolve()),
        opt=f"{folder}/opt",
        runtime=str(asset("runtimes", "python")) if interpreter else f"{folder}/runtime",
        tmp=f"{folder}/tmp",
        language=interpreter.prefix if interpreter else None,
    )
    extra = {"PYTHONPATH": places.runtime} if interpreter else {}  # EN-016
    variables = runtime_variables(function, places, identity, credentials, extra)
    if interpreter is None:
        return Plan(False, places, variables)
    variables["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{interpreter.runtime}"  # EN-005: the id that runs, not "python"
    return Plan(True, places, variables, interpreter.path, f"{interpreter.runtime[:6]}:{interpreter.version}")


def find_interpreter(runtime: str | None) -> Interpreter | None:
    """The interpreter of a managed runtime, None for a custom one. Raises Unsupported with what is here."""
    if runtime is None or runtime.startswith("provided"):
        return None
    if not runtime.startswith("python"):
        if runtime.startswith(_NOT_YET):
            raise Unsupported(f"runtime {runtime}: this version has managed runtimes for Python only. {_custom_hint()}")
        raise ConfigError(
            f"runtime {runtime!r} is not known: python, python3.X, or provided.al2023 for a bootstrap of your own"
        )
    found = python_named(_OWN if runtime in ("python", "python3") else runtime)
    if found is None:
        names = ", ".join(installed_pythons()) or "none"
        raise Unsupported(f"runtime {runtime}: no such interpreter is on this machine's PATH; here are: {names}")
    return found


def _custom_hint() -> str:
    return "A runtime of any language works as a custom runtime: an executable file named bootstrap in the code folder"


@cache
def python_named(name: str) -> Interpreter | None:
    """The interpreter for a runtime id such as python3.12: the one that runs us, or one on PATH. None if it is not here."""
    if name == _OWN:
        version = ".".join(map(str, sys.version_info[:3]))
        return Interpreter(name, os.path.realpath(sys.executable), sys.base_prefix, version)
    path = shutil.which(name)
    return _ask(name, path) if path is not None else None


def installed_pythons() -> dict[str, Interpreter]:
    """All of them, by runtime id, newest first. Slow: it asks each one."""
    names = [f"python3.{minor}" for minor in range(20, 7, -1)]
    return {name: found for name in names if (found := python_named(name)) is not None}


def _ask(name: str, path: str) -> Interpreter | None:
    """What an interpreter says of itself; None if it does not run (a version manager's empty shim), or is another one."""
    code = "import sys; print(sys.executable, sys.base_prefix, '%d.%d.%d' % sys.version_info[:3], sep='\\n')"
    try:
        said = subprocess.run([path, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=10, check=True).stdout
        executable, prefix, version = said.splitlines()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if not version.startswith(name.removeprefix("python") + "."):
        return None
    return Interpreter(name, os.path.realpath(executable), prefix, version)
