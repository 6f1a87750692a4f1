"""What is tested, as its author declares it: `conformance.toml` beside it."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sandbox.conformance.requirements import KINDS
from sandbox.core.errors import ConfigError
from sandbox.process.isolation import OUTS, TIERS

FILE: Final = "conformance.toml"
HANDLERS: Final = {
    "echo": "answers with its event",
    "error": "fails with an error whose message is event.message",
    "sleep": "waits event.ms milliseconds, then answers true",
    "exit": "ends the process with status event.code, and answers nothing",
    "big": "answers a string of event.bytes letters x",
    "stream": "streams event.chunks chunks of event.bytes letters x, event.ms apart; fails after chunk event.fail, if given",
    "log": "prints each of event.lines on standard output and each of event.errors on standard error, then answers true",
    "context": "answers an object with what it was told: requestId, functionArn, deadlineMs or remainingMs, traceId, "
    "clientContext, identity, tenantId, functionName, functionVersion, memoryMB, logGroup, logStream; null is "
    "'there is none', a key that is not there 'this runtime does not tell'",
    "count": "answers how often it was called in this process: 1, 2, 3 …",
    "init_error": "fails with an error while it is loaded",
    "init_exit": "ends the process with status 7 while it is loaded",
    "missing": "the name of a handler that does not exist",
}
FEATURES: Final = {
    "invoke": "it registers for INVOKE",
    "shutdown": "it registers for SHUTDOWN",
    "telemetry": "it subscribes to the Telemetry API, or to the Logs API, with a destination of HTTP",
    "extensions": "a host: it starts extensions",
}
_TARGET: Final[Mapping[str, tuple[type, ...]]] = {
    "kind": (str,),
    "name": (str,),
    "code": (str,),
    "build": (str,),
    "runtime": (str,),
    "layers": (list,),
    "environment": (dict,),
    "memory": (int,),
    "patience": (int, float),
    "isolation": (str,),
    "network": (str,),
    "expected": (str,),
    "features": (list,),
    "start": (str,),
    "ready": (str,),
    "url": (str,),
}
_BUILD_LIMIT: Final = 1800  # seconds: a first build fetches a language's whole world


@dataclass(frozen=True)
class Target:
    """folder: of its file; every path in it counts from there. handlers: by their names in the contract, what `_HANDLER` is.

    start: of a host, the line that starts it, and ready: what it prints then; url: of one that runs already. features: of an
    extension or a host, see FEATURES. patience: real seconds to wait for it to do something. network: of its environments, as
    `sandbox invoke` has it; none unless it asks for one. expected: the file of its expected failures. memory: MB.
    """

    kind: str
    name: str
    folder: Path
    code: Path
    build: str | None = None
    runtime: str | None = None
    layers: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int = 256
    patience: float = 10.0
    isolation: str = "auto"
    network: str | None = None
    expected: Path | None = None
    handlers: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    start: str | None = None
    ready: str | None = None
    url: str | None = None

    def offers(self, what: str) -> bool:
        """A handler, or a feature."""
        return what in self.handlers or what in self.features


def load(path: Path, kind: str) -> Target:
    """Reads conformance.toml, or a folder's. Raises ConfigError, which says the place and what would be right."""
    file = path / FILE if path.is_dir() else path
    if not file.exists():
        raise ConfigError(f"{file}: there is no such file; it says what is to be tested, see README, 'Conformance'")
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None
    _check_keys(file, document, {"target", "handlers"})
    target = document.get("target")
    if not isinstance(target, dict):
        raise ConfigError(f"{file}: it has no [target]")
    _check_target(file, target, kind)
    handlers = document.get("handlers", {})
    if not isinstance(handlers, dict):
        raise ConfigError(f"{file}: [handlers] is a table: handler of the contract = what _HANDLER is to be")
    _check_keys(file, handlers, set(HANDLERS), "[handlers] ")
    if wrong := [name for name, value in handlers.items() if not isinstance(value, str)]:
        raise ConfigError(f"{file}: [handlers] {', '.join(wrong)}: text, what _HANDLER is to be")
    folder = file.parent.resolve()
    expected = target.get("expected")
    return Target(
        kind=kind,
        name=target.get("name", folder.name),
        folder=folder,
        code=folder / target.get("code", "."),
        build=target.get("build"),
        runtime=target.get("runtime"),
        layers=tuple(str(folder / layer) for layer in target.get("layers", [])),
        environment=target.get("environment", {}),
        memory=target.get("memory", 256),
        patience=float(target.get("patience", 10.0)),
        isolation=_choice(file, target, "isolation", TIERS, "auto"),
        network=_choice(file, target, "network", OUTS, "auto") if "network" in target else None,
        expected=folder / expected if expected else None,
        handlers=handlers,
        features=tuple(target.get("features", ())),
        start=target.get("start"),
        ready=target.get("ready"),
        url=target.get("url"),
    )


def _choice(file: Path, target: Mapping[str, Any], key: str, possible: Sequence[str], default: str) -> str:
    value = target.get(key, default)
    if value not in possible:
        raise ConfigError(f"{file}: [target] {key} = {value!r}: one of {', '.join(possible)}")
    return str(value)


def _check_target(file: Path, target: Mapping[str, Any], kind: str) -> None:
    _check_keys(file, target, set(_TARGET), "[target] ")
    for key, value in target.items():
        if not isinstance(value, _TARGET[key]) or isinstance(value, bool):
            raise ConfigError(f"{file}: [target] {key} = {value!r}: it is to be {_words(_TARGET[key])}")
    if target.get("kind", kind) != kind:
        known = target["kind"] if target["kind"] in KINDS else f"{target['kind']!r}, which is none of {', '.join(KINDS)}"
        raise ConfigError(f"{file}: its kind is {known}, and {kind} was asked for")
    if wrong := [name for name in target.get("features", []) if name not in FEATURES]:
        raise ConfigError(f"{file}: [target] features: {wrong[0]!r} is none of {', '.join(FEATURES)}")
    texts = [*target.get("layers", []), *target.get("environment", {}).values()]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{file}: [target] layers and the values of environment are text")


def _check_keys(file: Path, found: Mapping[str, Any], known: set[str], where: str = "") -> None:
    if wrong := sorted(found.keys() - known):
        raise ConfigError(f"{file}: {where}{', '.join(wrong)}: not known here; possible are {', '.join(sorted(known))}")


def _words(types: tuple[type, ...]) -> str:
    names = {str: "text", list: "a list", dict: "a table", int: "a number", float: "a number"}
    return names[types[0]]


def build(target: Target) -> None:
    """Runs its build line in its folder. Raises ConfigError with the end of what it printed."""
    if target.build is None:
        return
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", target.build],
            cwd=target.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_BUILD_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{target.name}: its build line took longer than {_BUILD_LIMIT} s: {target.build}") from None
    if done.returncode != 0:
        last = "\n".join(done.stdout.decode("utf-8", "replace").splitlines()[-15:])
        raise ConfigError(f"{target.name}: its build line failed with status {done.returncode}: {target.build}\n{last}")
