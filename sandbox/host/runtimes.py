"""Which program a function's runtime is: a managed runtime of ours, or a `bootstrap` that the function brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.core.function import FunctionConfig
from sandbox.host.interpreters import Interpreter
from sandbox.host.site import Site
from sandbox.process.variables import Identity, Places, extension_variables, runtime_variables

A_LAYER: Final = "a layer"


class Source(NamedTuple):
    """A file as its author knows it: its name, and the .zip or layer that it is in, if it is no file of its own."""

    name: str
    package: str | None = None

    def __str__(self) -> str:
        return f"{self.name} (in {self.package})" if self.package else self.name

    def after(self, command: str) -> str:
        """A command that mends it, and what is to be done then."""
        package = "the layer" if self.package == A_LAYER else self.package
        return f"{command} {self.name}" + (f", and pack {package} again" if package else "")


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
    """How the runtime of one environment is started. With an interpreter it is one of ours, and takes the log descriptor.

    What starts and runs is named as the processes see it; what is told to people, as this machine does (`Site`).
    """

    site: Site
    variables: Mapping[str, str]
    interpreter: Interpreter | None = None
    arguments: Sequence[str] = ()
    extensions: tuple[str, ...] = ()

    @property
    def places(self) -> Places:
        """As the processes see them."""
        return self.site.places

    @property
    def managed(self) -> bool:
        return self.interpreter is not None

    @property
    def version(self) -> str | None:
        """runtimeVersion, as INIT_START has it."""
        one = self.interpreter
        return f"{one.language}:{one.version}" + (f" ({one.note})" if one.note else "") if one is not None else None

    def entry(self) -> Entry:
        """Raises EntrypointError."""
        if self.interpreter is not None:
            command = [self.site.seen(self.interpreter.path), *self.arguments]
            if not self.variables.get("AWS_LAMBDA_EXEC_WRAPPER"):
                return Entry(command[0], command, self.variables)
            bootstrap = self.site.wrapper
            return Entry(bootstrap, [bootstrap, self.places.opt, *command], self.variables)
        looked_at = None
        for folder in (self.places.task, self.places.opt):  # DECISIONS "bootstrap search"
            program = f"{folder}/bootstrap"
            file = self.site.file(program)
            if file.is_file():
                looked_at = looked_at or self.site.real_path(program)
                if file.stat().st_mode & 0o111:
                    return Entry(program, [program], self.variables)
        raise EntrypointError("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]", looked_at)

    def extension(self, name: str) -> Entry:
        """An external extension; argv[0] is the name that it has on Lambda, symbolic links as they are."""
        file = f"{self.places.opt}/extensions/{name}"
        return Entry(file, [f"/opt/extensions/{name}"], extension_variables(self.variables))

    def source(self, path: str | None, code: str) -> Source | None:
        """A file as its author knows it: what is in the function's own folders are copies."""
        task, opt = self.site.real.task + "/", self.site.real.opt + "/"
        if path is None:
            return None
        real = self.site.real_path(path)
        if real.startswith(opt):
            return Source(real.removeprefix(opt), A_LAYER)
        if not real.startswith(task):
            return Source(path)
        name = real.removeprefix(task)
        return Source(f"{code}/{name}") if Path(code).is_dir() else Source(name, code)

    @property
    def wrapper(self) -> str | None:
        """The file that AWS_LAMBDA_EXEC_WRAPPER names, if this runtime honours it."""
        name = self.variables.get("AWS_LAMBDA_EXEC_WRAPPER")
        if not name or not self.managed:
            return None
        if name.startswith("/opt/") and (self.site.room is not None or not Path(name).exists()):
            return self.site.real.opt + name.removeprefix("/opt")
        return self.site.real_path(name)

    def shown(self, program: str | None) -> str:
        """A program's path as the function would see it on Lambda."""
        real = self.site.real
        for place, name in ((real.task, "/var/task"), (real.opt, "/opt"), (real.runtime, "/var/runtime")):
            if program is not None and program.startswith(place + "/"):
                return name + program[len(place) :]
        return program or "/var/task/bootstrap"


def plan(
    function: FunctionConfig,
    interpreter: Interpreter | None,
    site: Site,
    identity: Identity,
    credentials: Mapping[str, str],
    variables: Mapping[str, str],
) -> Plan:
    """The plan for an environment whose files are there; without an interpreter, for a custom runtime.

    variables: what every function gets besides, unless it sets them itself.
    """
    places = site.places
    extra = {**variables, **(_layer_paths(interpreter, places) if interpreter else {})}
    all_of_them = runtime_variables(function, places, identity, credentials, extra)
    extensions = _extensions(site)
    if interpreter is None:
        return Plan(site, all_of_them, extensions=extensions)
    all_of_them["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{interpreter.runtime}"  # EN-005: the id that runs, not "python"
    return Plan(site, all_of_them, interpreter, _arguments(interpreter, places, function), extensions)


def _extensions(site: Site) -> tuple[str, ...]:
    """EX-001: every file in /opt/extensions in the order of their names; symbolic links, too, unless to folders.

    A link that leads nowhere cannot be started, and is told so.
    """
    folder = f"{site.places.opt}/extensions"
    try:
        names = sorted(file.name for file in Path(site.real_path(folder)).iterdir())
        return tuple(name for name in names if not site.file(f"{folder}/{name}").is_dir())
    except (FileNotFoundError, NotADirectoryError):  # EX-003
        return ()


def _arguments(interpreter: Interpreter, places: Places, function: FunctionConfig) -> list[str]:
    """What the interpreter is started with."""
    if interpreter.language == "python":
        # -S: only the standard library, the function and its layers can be imported, as on Lambda. -u: print() is out at once.
        return ["-S", "-u", f"{places.runtime}/bootstrap.py", places.opt]
    if interpreter.language == "nodejs":
        return [*_node_options(interpreter.number, function), f"{places.runtime}/index.cjs"]
    return [f"{places.runtime}/bootstrap.rb"]


def _node_options(version: tuple[int, ...], function: FunctionConfig) -> list[str]:
    """The options that Lambda's own Node.js runs with; those of the function's NODE_OPTIONS win."""
    users = function.environment.get("NODE_OPTIONS", "").replace("_", "-")
    options = ["--expose-gc", "--max-http-header-size", "81920"]
    if "max-old-space-size" not in users and "max-semi-space-size" not in users:
        young = function.memory_mb // 10
        options += [f"--max-semi-space-size={young // 2}", f"--max-old-space-size={function.memory_mb - young}"]
    # From these releases on Node.js can require() ES modules, and guesses which files are some. Lambda has switched that off.
    if version >= (20, 17) and "--experimental-require-module" not in users:
        options.append("--no-experimental-require-module")
    if version >= (22,) and "--experimental-detect-module" not in users:
        options.append("--no-experimental-detect-module")
    return options


def _layer_paths(interpreter: Interpreter, places: Places) -> dict[str, str]:
    """EN-016: where a language finds what is in the layers and in the code."""
    task, opt, runtime = places.task, places.opt, places.runtime
    if interpreter.language == "python":
        return {"PYTHONPATH": runtime}  # our own main sets the rest
    if interpreter.language == "nodejs":
        major = interpreter.number[0]
        modules = [f"{opt}/nodejs/node{major}/node_modules", f"{opt}/nodejs/node_modules", f"{runtime}/node_modules"]
        return {"NODE_PATH": ":".join([*modules, runtime, task])}
    abi = f"{interpreter.number[0]}.{interpreter.number[1]}.0"
    return {
        "GEM_PATH": f"{task}/vendor/bundle/ruby/{abi}:{opt}/ruby/gems/{abi}",
        "RUBYLIB": f"{task}:{runtime}/lib:{opt}/ruby/lib",
        "LC_CTYPE": "C.UTF-8",  # so that variables are UTF-8 where this machine has no en_US.UTF-8
    }
