"""`sandbox doctor [CODE]`: what works here, and why not. Tests skip with the reasons that this gives."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from sandbox.cli.exits import OK, USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.host.interpreters import Interpreter, Language


class Finding(NamedTuple):
    """One capability: whether it is there, and what it is or what is missing."""

    name: str
    works: bool
    text: str


def findings(folders: Sequence[str] = ()) -> list[Finding]:
    """Every capability, probed."""
    from sandbox.host.interpreters import LANGUAGES, Interpreters
    from sandbox.process.launcher import guard

    guarded = guard()
    interpreters = Interpreters(folders)
    uvloop = _has("uvloop")
    return [
        Finding("tier process", True, "functions run as plain processes of this user; not a security boundary"),
        Finding("tier namespace", False, "not part of this version yet"),
        Finding(
            "guard",
            guarded.complete,
            "freeze and kill reach every process, and nothing is left if the host is killed"
            if guarded.complete
            else f"freeze and kill reach process groups, the rest by a walk: {guarded.why_not}",
        ),
        Finding("event loop", uvloop, "uvloop" if uvloop else "asyncio's own: pip install uvloop makes invokes faster"),
        Finding("memory limit", True, f"a watchdog over resident memory ({_memory_source()})"),
        *(_runtime(language, interpreters.installed(language)) for language in LANGUAGES),
        _names(),
        _ready_extensions(),
        bash(),
    ]


def _names() -> Finding:
    """Where extensions listen for telemetry: they must be able to look it up, if they bind it by name."""
    from sandbox.host.environment.diagnosis import NAMES_HINT, resolves

    if resolves():
        return Finding("telemetry names", True, "sandbox.localdomain is known here")
    return Finding("telemetry names", False, f"extensions that listen at sandbox.localdomain by name cannot: {NAMES_HINT}")


def _ready_extensions() -> Finding:
    from sandbox.assets import asset

    folder = asset("extensions")
    names = sorted(path.name for path in folder.iterdir() if (path / "extensions").is_dir())
    return Finding("ready extensions", True, f"{', '.join(names)}: --layer {folder}/NAME")


def _runtime(language: Language, here: list[Interpreter]) -> Finding:
    text = ", ".join(f"{one.runtime} ({one.version})" for one in here)
    how = language.how_to_get.format(version="VERSION")
    return Finding(f"runtime {language.name}", bool(here), text or f"no interpreter is here; to get one: {how}")


def bash() -> Finding:
    """bootstrap/bash needs bash and curl."""
    import shutil

    missing = [tool for tool in ("bash", "curl") if shutil.which(tool) is None]
    return Finding("bootstrap bash", not missing, "bash and curl are here" if not missing else f"missing: {', '.join(missing)}")


def _memory_source() -> str:
    return "/proc" if sys.platform.startswith("linux") else "psutil"


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


@click.command("doctor", short_help="Tell what works on this machine, and why something does not.")
@click.argument("code", required=False)
@click.option("--runtime", metavar="ID", help="With CODE: look for the handler of this managed runtime.")
@click.option("--handler", metavar="H", default="", help="With CODE: module.function.")
@click.option("--layer", "layers", metavar="PATH", multiple=True, help="With CODE: a layer that it runs with.")
@click.option("--nearest-runtime", is_flag=True, help="With CODE: take the nearest installed version.")
@click.option("--runtime-dir", "runtime_dirs", metavar="DIR", multiple=True, help="A folder with interpreters, searched first.")
def command(
    code: str | None,
    runtime: str | None,
    handler: str,
    layers: tuple[str, ...],
    nearest_runtime: bool,
    runtime_dirs: tuple[str, ...],
) -> int:
    """Tell what works on this machine, and why something does not; with CODE, a folder or .zip, whether that can be run as a
    function or as a layer: what is missing, in the wrong place, for another machine, or not executable.
    """
    click.echo(f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    for finding in findings(runtime_dirs):
        click.echo(f"{'ok  ' if finding.works else 'no  '}{finding.name}: {finding.text}")
    if code is None:
        return OK
    from sandbox.host.examine import examine
    from sandbox.host.interpreters import Interpreters

    what, remarks = examine(code, runtime, handler, Interpreters(runtime_dirs, nearest=nearest_runtime), layers)
    failing = [remark.text for remark in remarks if remark.fails]
    for remark in remarks:
        click.echo(f"{'no  ' if remark.fails else 'note'}{'' if remark.fails else ' '}{code}: {remark.text}")
    if not failing:
        click.echo(f"ok  {code}: {what}")
    return USAGE if failing else OK
