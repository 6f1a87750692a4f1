"""Functions from folders and .zips of the user's: `sandbox serve CODE …`, and again when they change (--watch)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.control.errors import ApiError
from sandbox.control.functions import put_function
from sandbox.control.service import Service
from sandbox.control.store import code_sha256
from sandbox.core.errors import ConfigError, SandboxError
from sandbox.core.limits import DEFAULT_MEMORY_MB, DEFAULT_TIMEOUT_S, DEFAULT_TMP_MB, FUNCTION_NAME_LENGTH
from sandbox.host.interpreters import default_handler
from sandbox.package.archive import open_zip
from sandbox.package.folder import read_folder
from sandbox.package.pack import leave_out_odd_names, pack
from sandbox.package.tree import OPT, TASK, PackageError, Tree

SETTINGS: Final = "sandbox.toml"
ROLE: Final = "arn:aws:iam::123456789012:role/lambda-sandbox"
_LOOK_EVERY: Final = 0.5  # seconds between two looks at the folders
_KEYS: Final[Mapping[str, type]] = {
    "name": str,
    "runtime": str,
    "handler": str,
    "description": str,
    "memory": int,
    "timeout": int,
    "tmp-size": int,
    "environment": dict,
    "layers": list,
}
_PYTHON: Final = r"^(?:async )?def (lambda_handler|handler)\b|^(lambda_handler|handler)\s*="
_ES: Final = r"^export (?:const|let|var|async function|function) (handler|lambdaHandler)\b|^export\s*\{[^}]*\b(handler)\b"
_COMMON: Final = r"exports\.(handler|lambdaHandler)\b|module\.exports\s*=\s*\{[^}]*\b(handler)\b"
_RUBY: Final = r"^def (lambda_handler|handler)\b"
_MODULES: Final = {  # where a handler is looked for if no settings name it: file, language, what defines one
    **{f"{name}.py": ("python", _PYTHON) for name in ("lambda_function", "app", "handler", "main", "index")},
    **{f"{name}.mjs": ("nodejs", _ES) for name in ("index", "app")},
    **{f"{name}.js": ("nodejs", f"{_COMMON}|{_ES}") for name in ("index", "app")},
    "index.cjs": ("nodejs", _COMMON),
    **{f"{name}.rb": ("ruby", _RUBY) for name in ("lambda_function", "app")},
}
_LANGUAGES: Final = ("python", "nodejs", "ruby")
# What a function has if its sandbox.toml does not say otherwise.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "MemorySize": DEFAULT_MEMORY_MB,
    "Timeout": DEFAULT_TIMEOUT_S,
    "Description": "",
    "EphemeralStorage": {"Size": DEFAULT_TMP_MB},
    "Environment": {"Variables": {}},
    "Layers": [],
}


@dataclass(slots=True)
class Code:
    """One CODE of the command line. path: a folder or a .zip. settings: those of its sandbox.toml."""

    path: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its function."""
        return self.settings.get("name") or function_name(self.path)

    def tree(self, zips: ExitStack) -> Tree:
        """What is in it. Raises PackageError, OSError."""
        if self.path.is_dir():
            return read_folder(self.path, TASK, strict=False)
        return zips.enter_context(open_zip(self.path, TASK))[0]

    def bytes_and_tree(self) -> tuple[bytes, Tree]:
        """Its .zip, and what is in it. Raises PackageError, OSError."""
        with ExitStack() as zips:
            tree = self.tree(zips)
            tree.entries.pop(SETTINGS, None)
            if self.path.is_dir():
                leave_out_odd_names(tree)
            return (pack(tree) if self.path.is_dir() else self.path.read_bytes()), tree


def function_name(path: Path) -> str:
    """A function's name, from that of its folder or .zip."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "-", path.resolve().name.removesuffix(".zip"))
    return name[:FUNCTION_NAME_LENGTH].strip("-") or "function"


def read_code(text: str) -> Code:
    """Raises ConfigError."""
    path = Path(text)
    if not text or not path.exists():
        raise ConfigError(f"{text or 'an empty name'}: there is no such folder or .zip")
    file = path / SETTINGS
    if not path.is_dir() or not file.exists():
        return Code(path.resolve(), {})
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    for key, value in settings.items():
        if key not in _KEYS:
            raise ConfigError(f"{file}: {key!r} is no setting; there are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise ConfigError(f"{file}: {key} is a {type(value).__name__}, and must be a {_KEYS[key].__name__}")
    if "name" in settings and not re.fullmatch(r"[a-zA-Z0-9_-]+", settings["name"]):
        raise ConfigError(f"{file}: name {settings['name']!r}: a-z, A-Z, 0-9, '-' and '_' are possible")
    if any(not isinstance(text, str) or not text for text in settings.get("layers", [])):
        raise ConfigError(f"{file}: layers: each is a path or an ARN, in quotes")
    if "environment" in settings:
        settings["environment"] = {key: _variable(file, key, value) for key, value in settings["environment"].items()}
    return Code(path.resolve(), settings)


def _variable(file: Path, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{file}: environment: {key} is a {type(value).__name__}: write its value as text, in quotes")


class Deployer:
    """Puts codes into a service, and again when they have changed. tell: prints a sentence for a person."""

    def __init__(self, service: Service, codes: list[Code], tell: Callable[[str], None]) -> None:
        names = [code.name for code in codes]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two of the folders would be the function {twice.pop()}: name one otherwise in its {SETTINGS}")
        self._service = service
        self._codes = codes
        self._tell = tell
        self._deployed: dict[Path, int] = {}  # the signature of what was deployed last

    async def deploy(self) -> None:
        """All of them. Raises ConfigError, Unsupported."""
        for code in self._codes:
            self._deployed[code.path] = await asyncio.to_thread(_signature, code)
            await self._deploy(code)

    async def _deploy(self, code: Code) -> None:
        try:
            data, tree = await asyncio.to_thread(code.bytes_and_tree)
            if tree.left_out:
                self._tell(f"{code.name}: left out of its code: {tree.left_out[0]}" + _more(tree.left_out))
            wanted = await self._parameters(code, tree)
            wanted |= {"FunctionName": code.name, "Role": ROLE}
            self._service.api.check("CreateFunction", wanted | {"Code": {}})
            await self._service.live.settled(code.name)  # somebody may be changing it over the API
            await self._service.do(put_function, wanted | {"Code": _source(data)})
            await self._settled(code.name)
        except ApiError as error:
            raise ConfigError(f"{code.path}: {error}") from None
        except OSError as error:
            raise ConfigError(f"{error.filename or code.path}: {error.strerror}") from None

    async def _settled(self, name: str) -> None:
        """Waits until it is neither being created nor updated. Raises ConfigError: that went wrong."""
        await self._service.live.settled(name)
        document = await self._service.run("GetFunctionConfiguration", {"FunctionName": name})
        if document["State"] == "Failed":
            raise ConfigError(f"function {name}: {document['StateReason']}")
        if document["LastUpdateStatus"] == "Failed":
            raise ConfigError(f"function {name}: {document['LastUpdateStatusReason']}")

    async def _parameters(self, code: Code, tree: Tree) -> dict[str, Any]:
        """Of CreateFunction."""
        settings = code.settings
        runtime, handler = settings.get("runtime"), settings.get("handler")
        if runtime is None or handler is None:
            found = await asyncio.to_thread(_detect, code, tree, runtime)
            runtime, handler = runtime or found[0], handler or found[1]
        if runtime in _LANGUAGES:
            runtime = await asyncio.to_thread(self._service.host.runtime_id, runtime)
        wanted: dict[str, Any] = {"Runtime": runtime, "Handler": handler}
        if not settings:  # a function that was deployed before keeps what it has
            return wanted
        wanted |= _DEFAULTS
        pairs = (("memory", "MemorySize"), ("timeout", "Timeout"), ("description", "Description"))
        wanted |= {member: settings[key] for key, member in pairs if key in settings}
        if "tmp-size" in settings:
            wanted["EphemeralStorage"] = {"Size": settings["tmp-size"]}
        if "environment" in settings:
            wanted["Environment"] = {"Variables": settings["environment"]}
        if "layers" in settings:
            wanted["Layers"] = [await self._layer(code, text) for text in settings["layers"]]
        return wanted

    async def _layer(self, code: Code, text: str) -> str:
        """A layer version with what is at this path, the last one if it is the same. An ARN is itself."""
        if text.startswith("arn:"):
            return text
        path = (code.path / text).resolve()
        data = await asyncio.to_thread(_layer_bytes, path)
        name = f"{code.name}-{function_name(path)}"
        paths = [(code.path / other).resolve() for other in code.settings["layers"] if not other.startswith("arn:")]
        if sum(function_name(other) == function_name(path) for other in paths) > 1:  # two folders of one name are two layers
            name += f"-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        versions = await self._service.run("ListLayerVersions", {"LayerName": name})
        for one in versions["LayerVersions"][:1]:
            known = await self._service.run("GetLayerVersion", {"LayerName": name, "VersionNumber": one["Version"]})
            if known["Content"]["CodeSha256"] == code_sha256(data):
                return str(one["LayerVersionArn"])
        made = await self._service.run("PublishLayerVersion", {"LayerName": name, "Content": {"ZipFile": data, "S3Bucket": ""}})
        return str(made["LayerVersionArn"])

    async def watch(self) -> None:
        """Deploys again what has changed, when it has stopped changing. Runs until it is cancelled."""
        seen, clock, took = dict(self._deployed), self._service.host.clock, 0.0
        while True:
            # A look at a folder of many thousand files takes a while: no more than a tenth of a processor goes into it.
            await clock.sleep(max(_LOOK_EVERY, 9 * took))
            began = clock.now()
            for number, code in enumerate(self._codes):
                now = await asyncio.to_thread(_signature, code)
                before, seen[code.path] = seen[code.path], now
                if now == before and now != self._deployed[code.path]:
                    self._deployed[code.path] = now
                    await self._deploy_again(number, code)
            took = clock.now() - began

    async def _deploy_again(self, number: int, code: Code) -> None:
        try:
            fresh = read_code(str(code.path))
            if fresh.name != code.name:
                raise ConfigError(f"{code.path}: its name is {fresh.name} now, and was {code.name}: start again for that")
            self._codes[number] = fresh
            await self._deploy(fresh)
        except Exception as error:  # of the user's, a full disk's, our own: the others are served even so
            text = str(error) if isinstance(error, SandboxError) else f"{type(error).__name__}: {error}"
            self._tell(f"{code.name} is not deployed again, the one before still serves: {text}")
        else:
            self._tell(f"{code.name} was changed, and is deployed again")


def _source(data: bytes) -> dict[str, Any]:
    """As if it had come from S3: the limit of what a request may upload is not meant."""
    return {"ZipFile": data, "S3Bucket": "this-machine", "S3Key": "code"}


def _more(items: list[str]) -> str:
    return f", and {len(items) - 1} more like it" if len(items) > 1 else ""


def _layer_bytes(path: Path) -> bytes:
    if path.is_dir():
        return pack(read_folder(path, OPT))
    if not path.is_file():
        raise PackageError(f"{path}: there is no such folder or .zip")
    return path.read_bytes()


def _detect(code: Code, tree: Tree, runtime: str | None) -> tuple[str, str]:
    """Runtime and handler, by what is in the code; runtime: if that is known. Raises ConfigError."""
    if runtime.startswith("provided") if runtime is not None else "bootstrap" in tree.entries:
        return "provided.al2023", "bootstrap"
    for name, (language, defines) in _MODULES.items():
        if name not in tree.entries or (runtime is not None and not runtime.startswith(language)):
            continue
        found = re.search(defines, _text(code, tree, name), re.MULTILINE)
        if found:
            return language, f"{name.rpartition('.')[0]}.{next(filter(None, found.groups()))}"
    language = next((one for one in _LANGUAGES if runtime is not None and runtime.startswith(one)), "")
    if runtime is not None:  # one that is not known is refused by the service
        return runtime, default_handler(language) if language else "bootstrap"
    raise ConfigError(
        f"{code.path}: it holds no bootstrap, and no handler was found in {', '.join(_MODULES)}: "
        f'name them in {code.path / SETTINGS if code.path.is_dir() else SETTINGS}, as runtime = "python3.11" and '
        'handler = "module.function"'
    )


def _text(code: Code, tree: Tree, name: str) -> str:
    if code.path.is_dir():  # a link in it leads to somewhere in it
        return (code.path / name).read_text(encoding="utf-8", errors="replace") if (code.path / name).is_file() else ""
    if tree.entries[name].kind != "file":
        return ""
    with tempfile.TemporaryFile() as file, open_zip(code.path, TASK) as (again, _):
        source = again.entries[name].source
        assert source is not None
        source.copy(name, file.fileno())
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def _signature(code: Code) -> int:
    """Another number when something in it has changed: a name, a size, a time."""
    seen: list[tuple[str, int, int, int]] = []
    layers = [code.path / text for text in code.settings.get("layers", []) if not text.startswith("arn:")]
    folders = []
    for path in [code.path, *layers]:
        if path.is_dir():
            folders.append(str(path))
            continue
        with contextlib.suppress(OSError):  # it is being replaced: the next look sees it so
            _see(seen, str(path), path.stat())
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    _see(seen, entry.path, entry.stat(follow_symlinks=False))
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:  # gone meanwhile: the next look sees it so
            continue
    return hash(tuple(sorted(seen)))


def _see(seen: list[tuple[str, int, int, int]], path: str, about: os.stat_result) -> None:
    size = about.st_size if stat.S_ISREG(about.st_mode) else 0
    seen.append((path, about.st_mtime_ns, size, about.st_mode))


def stand_in(service: Service, codes: list[Code]) -> None:
    """RIE serves one function, by the name `function`: so does a service that was given one folder."""
    if len(codes) == 1:
        service.invoker.stand_in = codes[0].name
