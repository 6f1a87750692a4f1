"""Looks into a package before it is run: what on Lambda, or here, would fail at Init with a message that helps nobody."""

from __future__ import annotations

import ast
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.core.errors import SandboxError
from sandbox.core.limits import DIRECT_UPLOAD, PACKAGE_LIMIT
from sandbox.host.environment.diagnosis import elf_hint, entrypoint_hints
from sandbox.host.folders import remove_tree
from sandbox.host.interpreters import Interpreter, Interpreters, default_handler
from sandbox.host.runtimes import Source
from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package

_LAYER: Final = {"python", "nodejs", "ruby", "java", "bin", "lib", "extensions", "dotnetcore", "php", "opt"}  # EN-055
_SUFFIXES: Final = {"python": (".py",), "nodejs": (".js", ".mjs", ".cjs"), "ruby": (".rb",)}
_SOURCES: Final = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_HEAD: Final = 64


class Remark(NamedTuple):
    """One finding. fails: with it the function does not start; else it is worth knowing."""

    fails: bool
    text: str


def examine(
    code: str, runtime: str | None, handler: str, interpreters: Interpreters, layers: Sequence[str] = ()
) -> tuple[str, list[Remark]]:
    """What a folder or .zip is (in words), and what is wrong with it. layers: where its handler may be, too."""
    with tempfile.TemporaryDirectory(prefix="lambda-sandbox-doctor-") as folder:
        where = Path(folder)
        try:
            package = open_package(code, layers, Cache(where / "cache"))
        except SandboxError as error:
            return "no package", [Remark(True, str(error).removeprefix(f"{Path(code).resolve()}: ").removeprefix(f"{code}: "))]
        try:
            (where / "task").mkdir()
            (where / "opt").mkdir()
            package.place(where / "task", where / "opt")
            return _examine(Path(code), where / "task", package, runtime, handler, interpreters)
        finally:
            package.close()
            remove_tree(where / "task")
            remove_tree(where / "opt")


def _examine(
    code: Path, root: Path, package: Package, runtime: str | None, handler: str, interpreters: Interpreters
) -> tuple[str, list[Remark]]:
    remarks = list(_size(code, package))
    remarks += [Remark(False, f"left out: {what}") for what in package.code.left_out]
    remarks += _modes(package)
    remarks += _programs(code, root, package)
    if runtime is None and not handler and "bootstrap" not in package.code.entries:
        if _is_layer(package):
            return "a layer", remarks + list(_layer(package))
        if (misplaced := _misplaced(package)) is not None:
            return "a layer", [*remarks, Remark(True, misplaced)]
    try:
        interpreter = interpreters.find(runtime)
    except SandboxError as error:
        return "a function", [*remarks, Remark(True, str(error))]
    if interpreter is not None:
        return f"a function for {interpreter.runtime}", remarks + list(_managed(root, package, interpreter, handler))
    if not package.code.entries:
        return "nothing", [*remarks, Remark(True, "it is empty")]
    if "bootstrap" in package.code.entries:
        hints = entrypoint_hints(str(root / "bootstrap"), _source(code, "bootstrap"))
        return "a bootstrap that can be started" if not hints else "a bootstrap", remarks + [Remark(True, h) for h in hints]
    return "a function without a bootstrap", [*remarks, Remark(True, _no_bootstrap(package))]


def _size(code: Path, package: Package) -> Iterator[Remark]:
    size = package.code.size
    if size > PACKAGE_LIMIT * 0.8:
        yield Remark(False, f"{size:,} bytes unzipped: with its layers a function may have {PACKAGE_LIMIT:,}")
    if code.is_file() and code.stat().st_size > DIRECT_UPLOAD:
        yield Remark(False, f"the zip has {code.stat().st_size:,} bytes: more than {DIRECT_UPLOAD:,} go by way of S3 only")


def _modes(package: Package) -> Iterator[Remark]:
    """On Lambda the code belongs to another user than the one that runs it."""
    closed = [
        name
        for name, entry in package.code.entries.items()
        if (entry.kind == "file" and not entry.mode & 0o004) or (entry.kind == "folder" and entry.mode & 0o005 != 0o005)
    ]
    if closed:
        yield Remark(False, f"{_some(closed)}: not readable for others, and on Lambda another user runs it: chmod -R o+rX")


def _programs(code: Path, root: Path, package: Package) -> Iterator[Remark]:
    """Extensions that cannot be started; shared libraries for other machines."""
    for name, entry in package.code.entries.items():
        if entry.kind != "file":
            continue
        if re.fullmatch(r"extensions/[^/]+", name):
            yield from (Remark(True, hint) for hint in entrypoint_hints(str(root / name), _source(code, name)))
        elif name.endswith((".so", ".node")) or ".so." in name:
            with (root / name).open("rb") as file:
                head = file.read(_HEAD)
            if head.startswith(b"\x7fELF"):
                if (hint := elf_hint(name, head)) is not None:
                    yield Remark(True, hint)
            elif head:
                yield Remark(True, f"{name} is no library for Linux: install the package for Linux (pip --platform, npm --os)")


def _source(code: Path, name: str) -> Source:
    return Source(f"{code}/{name}") if code.is_dir() else Source(name, code.name)


def _top(package: Package) -> set[str]:
    return {name.partition("/")[0] for name in package.code.entries}


def _is_layer(package: Package) -> bool:
    top = _top(package)
    return bool(top & _LAYER) and not any(name.endswith(_SOURCES) for name in top)


def _layer(package: Package) -> Iterator[Remark]:
    names = package.code.entries
    for name in ("python", "nodejs", "ruby", "bin", "lib", "extensions"):
        if name in names and names[name].kind != "folder":
            yield Remark(True, f"{name} is a {names[name].kind}: in a layer it is a folder")
    if any(name.startswith("opt/") for name in names):
        yield Remark(True, "the folder opt/ is inside the layer: its contents would be in /opt/opt; pack what is in it")
    if "nodejs" in names and not any(re.match(r"nodejs/(node\d+/)?node_modules", name) for name in names):
        yield Remark(True, "nodejs/ has no node_modules in it: require() looks in nodejs/node_modules")
    if "ruby" in names and "ruby/lib" not in names and "ruby/gems" not in names:
        yield Remark(True, "ruby/ has neither lib nor gems/VERSION in it: nothing in it is found")
    if "python" not in names and any(re.match(r"lib/python\d+\.\d+/site-packages", name) for name in names):
        yield Remark(True, "lib/pythonX.Y/site-packages is not looked at: it belongs into python/")
    closed = [n for n, entry in names.items() if n.startswith("bin/") and entry.kind == "file" and not entry.mode & 0o111]
    if closed:
        yield Remark(False, f"{_some(closed)}: in bin/, and not executable")


def _misplaced(package: Package) -> str | None:
    """What looks like a layer, and is not packed as one; None for everything else."""
    names, top = package.code.entries, _top(package)
    if any(name.endswith(_SOURCES) for name in top):
        return None
    if "node_modules" in top:
        return "node_modules is at the top: in a layer it belongs into nodejs/"
    packages = [
        name for name in top if f"{name}/__init__.py" in names or name.endswith(".dist-info") or name == "site-packages"
    ]
    if packages:
        return f"{_some(sorted(packages))}: Python packages are at the top: in a layer they belong into python/"
    inside = {name.split("/")[1] for name in names if "/" in name}
    if len(top) == 1 and inside & _LAYER:
        return f"everything is in the folder {next(iter(top))}: pack what is in it, not the folder itself"
    return None


def _managed(root: Path, package: Package, interpreter: Interpreter, handler: str) -> Iterator[Remark]:
    yield from _compiled(package, interpreter)
    handler = handler or default_handler(interpreter.language)
    if "." not in handler:
        yield Remark(True, f"the handler {handler!r} has no dot: it is module.function")
        return
    folder, _, base = handler.rpartition("/")
    module, _, function = base.partition(".") if interpreter.language != "python" else base.rpartition(".")
    stem = (f"{folder}/" if folder else "") + (module.replace(".", "/") if interpreter.language == "python" else module)
    suffixes = _SUFFIXES[interpreter.language]
    files = _files(root, package, interpreter)
    wanted = [stem + suffix for suffix in suffixes]
    if interpreter.language == "python":
        wanted.append(f"{stem}/__init__.py")
    elif interpreter.language == "nodejs":
        wanted.append(f"{stem}/index.js")
    name = next((name for name in wanted if name in files), None)
    if name is None:
        there = " or ".join(stem + suffix for suffix in suffixes)
        yield Remark(True, f"handler {handler}: there is no {there}{_elsewhere(package, stem, suffixes)}")
        return
    for fails, problem in _function(files[name], name, function, interpreter):
        yield Remark(fails, f"handler {handler}: {problem}")


def _files(root: Path, package: Package, interpreter: Interpreter) -> dict[str, Path]:
    """Where a handler's module is looked for: the code, and what layers put beside it."""
    found = {}
    version = ".".join(map(str, interpreter.number[:2]))
    prefixes = {"python": (f"python/lib/python{version}/site-packages/", "python/"), "ruby": ("ruby/lib/",)}
    for prefix in prefixes.get(interpreter.language, ()):
        for name, entry in package.layers.entries.items():
            if entry.kind != "folder" and name.startswith(prefix):
                found[name.removeprefix(prefix)] = root.parent / "opt" / name
    return found | {name: root / name for name, entry in package.code.entries.items() if entry.kind != "folder"}


def _elsewhere(package: Package, stem: str, suffixes: tuple[str, ...]) -> str:
    wanted = tuple(f"/{stem.rpartition('/')[2]}{suffix}" for suffix in suffixes)
    found = [name for name in package.code.entries if name.endswith(wanted)]
    if found:
        name = found[0].rpartition(".")[0]
        return f"; it is in {found[0]}: pack what is in the folder, not the folder itself, or name the handler {name}.FUNCTION"
    there = [name for name in package.code.entries if "/" not in name and name.endswith(suffixes)]
    return f"; here are {_some(there)}" if there else ""


def _function(path: Path, name: str, function: str, interpreter: Interpreter) -> Iterator[tuple[bool, str]]:
    """Why a handler is not in its file, as far as reading the file can tell: (whether that is certain, the words)."""
    text = path.read_text("utf-8", "replace")
    if interpreter.language != "python":
        yield from _other_language(path, name, text, function, interpreter)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, name)
    except (SyntaxError, ValueError) as error:
        yield True, f"{name} cannot be read as Python: {error}"
        return
    names = set(_python_names(tree))
    if function not in names:
        dynamic = bool(names & {"*", "__getattr__", "globals", "exec", "setattr", "vars"})
        yield not dynamic, f"{name} defines no {function!r}" + (", as far as can be seen without running it" if dynamic else "")


def _other_language(path: Path, name: str, text: str, function: str, interpreter: Interpreter) -> Iterator[tuple[bool, str]]:
    flag = "--check" if interpreter.language == "nodejs" else "-c"
    done = subprocess.run([interpreter.path, flag, str(path)], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if "rror" in line), done.stderr.strip())
        yield True, f"{name} cannot be read: {line.replace(str(path), name)}"
        return
    last = re.escape(function.rpartition(".")[2])
    if not re.search(rf"\b{last}\b", text):
        elsewhere = re.search(r"\brequire\b|\bexport \*|\binclude\b|\bextend\b|\bload\b", text) is not None
        yield not elsewhere, f"{name} has no {function!r} in it" + (", and may get it from elsewhere" if elsewhere else "")


def _python_names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module may get: what it defines, assigns or imports, at any depth but inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        yield from _python_names(node)


def _compiled(package: Package, interpreter: Interpreter) -> Iterator[Remark]:
    """Python's extension modules are for one version each."""
    if interpreter.language != "python":
        return
    tag = "cpython-{}{}".format(*interpreter.number[:2])
    other = [n for n in package.code.entries if (m := re.search(r"\.(cpython-\d+)[^/]*\.so$", n)) and m[1] != tag]
    if other:
        yield Remark(
            True, f"{_some(other)}: compiled for another Python than {interpreter.runtime}: install it for that version"
        )


def _no_bootstrap(package: Package) -> str:
    inside = [name for name in package.code.entries if name.endswith("/bootstrap")]
    if inside:
        return f"it has no bootstrap at its top; it is in {inside[0]}: pack what is in the folder, not the folder itself"
    language = next(
        (lang for lang, suffixes in _SUFFIXES.items() if any(name.endswith(suffixes) for name in _top(package))), "python"
    )
    return f"it has no bootstrap; it needs a managed runtime: sandbox invoke --runtime {language} --handler module.function"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
