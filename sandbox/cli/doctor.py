"""`sandbox doctor [CODE]`: what works here, and why not. Tests skip with the reasons that this gives."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from sandbox.cli.exits import OK, USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.host.interpreters import Interpreter, Language
    from sandbox.process.isolation import Isolation


class Finding(NamedTuple):
    """One capability: whether it is there, and what it is or what is missing."""

    name: str
    works: bool
    text: str


def findings(folders: Sequence[str] = ()) -> list[Finding]:
    """Every capability, probed."""
    import asyncio

    from sandbox.host.interpreters import LANGUAGES, Interpreters
    from sandbox.process.isolation import choose, probe_namespace
    from sandbox.process.launcher import guard

    guarded = guard()
    isolated, chosen = asyncio.run(probe_namespace()), asyncio.run(choose())
    interpreters = Interpreters(folders)
    uvloop = _has("uvloop")
    return [
        Finding("tier namespace", isolated.works, isolated.why_not or _namespace()),
        Finding(
            "system call filter",
            isolated.filtered,
            _FILTER if isolated.filtered else "only in tier namespace (x86-64, ARM)",
        ),
        _network(isolated.works, chosen),
        Finding("tier process", True, "functions run as plain processes of this user; not a security boundary"),
        Finding(
            "guard",
            guarded.complete,
            "freeze and kill reach every process, and nothing is left if the host is killed"
            if guarded.complete
            else f"freeze and kill reach process groups, the rest by a walk: {guarded.why_not}",
        ),
        Finding("event loop", uvloop, "uvloop" if uvloop else "asyncio's own: pip install uvloop makes invokes faster"),
        Finding("memory limit", True, _memory(chosen)),
        *(_runtime(language, interpreters.installed(language)) for language in LANGUAGES),
        _names(),
        _ready_extensions(),
        bash(),
    ]


_FILTER: Final = "unshare, setns, ptrace, mount, bpf, keyctl, io_uring, odd sockets, and limits of others are refused"


def _namespace() -> str:
    import subprocess

    from sandbox.process.namespace import find_bwrap

    version = subprocess.run([find_bwrap() or "bwrap", "--version"], capture_output=True, text=True, check=False)
    return f"files, network, process ids of its own for each environment, by {version.stdout.strip()}"


def _network(isolated: bool, chosen: Isolation) -> Finding:
    """How functions get out."""
    if not isolated:
        return Finding("network", True, "functions have this machine's network")
    if chosen.network.out == "nat":
        return Finding("network", True, "a network of its own for each environment, with a way out through slirp4netns")
    return Finding("network", False, "; ".join(chosen.notes))


def _memory(chosen: Isolation) -> str:
    from sandbox.process.cgroup import groups

    if chosen.exact_memory:
        return f"exact, by control groups (version {groups().version})"
    why = groups().why_not or "there is no file system of a given size for /tmp (loop devices, mkfs.ext4)"
    return f"a watchdog over resident memory ({_memory_source()}): {why}"


def _names() -> Finding:
    """Where extensions listen for telemetry: they must be able to look it up, if they bind it by name."""
    from sandbox.host.environment.diagnosis import NAMES_HINT, resolves

    if resolves():
        return Finding("telemetry names", True, "sandbox.localdomain is known here")
    return Finding("telemetry names", False, f"in tier process, extensions that listen at a name cannot: {NAMES_HINT}")


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
