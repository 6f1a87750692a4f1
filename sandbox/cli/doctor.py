"""`sandbox doctor [CODE]`: what works here, and why not. Tests skip with the reasons that this gives."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
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
        Finding("extensions, telemetry", False, "not part of this version yet"),
        bash(),
    ]


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
def command(code: str | None) -> int:
    """Tell what works on this machine, and why something does not; with CODE, whether that folder can be started."""
    click.echo(f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    for finding in findings():
        click.echo(f"{'ok  ' if finding.works else 'no  '}{finding.name}: {finding.text}")
    if code is None:
        return OK
    problem = _examine(Path(code))
    click.echo(f"{'no  ' if problem else 'ok  '}{code}: {problem or 'a bootstrap that can be started'}")
    return USAGE if problem else OK


def _examine(code: Path) -> str | None:
    """What is wrong with a folder's bootstrap; None if nothing is."""
    from sandbox.host.environment.diagnosis import entrypoint_hints

    if not code.is_dir():
        return "there is no such folder"
    file = code / "bootstrap"
    if not file.exists():
        return "it has no bootstrap; it needs a managed runtime: sandbox invoke --runtime python --handler module.function"
    return "; ".join(entrypoint_hints(str(file))) or None
