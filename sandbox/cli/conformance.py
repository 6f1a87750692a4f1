"""`sandbox conformance runtime TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox.cli.exits import NOT_CONFORMING, OK
from sandbox.core.errors import ConfigError

if TYPE_CHECKING:
    from sandbox.conformance.runner import Run
    from sandbox.conformance.target import Target

_KINDS = ("runtime", "extension", "host")
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("conformance", short_help="Test a runtime, an extension or a host: is it as Lambda wants it?")
@click.argument("words", metavar="runtime|extension|host TARGET | REPORT.json …", nargs=-1)
@click.option("--only", metavar="ID", multiple=True, help="A case, a requirement, or how its id begins; may be repeated.")
@click.option("--level", "levels", metavar="L", multiple=True, help="MUST, SHOULD, MAY or OBSERVED; may be repeated.")
@click.option("--junit", metavar="F", type=_FILE, help="Write JUnit's XML.")
@click.option("--report", metavar="F.html", type=_FILE, help="Write a page with the transcript of every exchange.")
@click.option("--json", "json_", metavar="F", type=_FILE, help="Write everything as JSON, for --compare.")
@click.option("--expected", metavar="F.toml", type=_FILE, help="Expected failures; else the file that conformance.toml names.")
@click.option("--update-expected", is_flag=True, help="Write what failed into that file.")
@click.option("--strict", is_flag=True, help="Failures of MAY and OBSERVED fail the run, too.")
@click.option("--slow", is_flag=True, help="Cases that take real minutes, too.")
@click.option("--jobs", metavar="N", type=click.IntRange(1, 64), default=2, show_default=True, help="Cases at a time.")
@click.option("--seed", metavar="N", type=int, help="Begin the requirements in an order that is made of N.")
@click.option("--no-build", is_flag=True, help="Leave the target's build line out.")
@click.option("--verbose", "-v", is_flag=True, help="Show cases that passed, too.")
@click.option("--list", "list_", is_flag=True, help="Print the cases, and run none.")
@click.option(
    "--write-probe", metavar="DIR", type=click.Path(path_type=Path), help="Write the function that hosts are tested with."
)
@click.option("--requirements", is_flag=True, help="Print every requirement as a page in Markdown.")
@click.option("--compare", is_flag=True, help="Print a table of several reports of --json.")
def command(words: tuple[str, ...], **options: Any) -> int:
    """Start a custom runtime, an extension or a host again and again, and see whether it does what Lambda requires.

    TARGET is a folder with conformance.toml in it, or such a file; README describes it. A host can also be named by the URL of
    its invocations, or by a line that starts it, with {code}, {layer}, {port}, {timeout} and {memory} in it. With --compare,
    the arguments are reports that --json wrote.

    Exit code: 0 when nothing is broken that counts, 5 when a MUST or SHOULD is broken or an expected failure passed, 2 usage.
    """
    if options["compare"]:
        return _compare([Path(word) for word in words])
    kind = words[0] if words else ""
    if kind not in _KINDS:
        raise ConfigError(f"{kind or 'nothing'!r} cannot be tested: say {' or '.join(_KINDS)}, then the target")
    if options["write_probe"]:
        return _write_probe(kind, options["write_probe"])
    if options["requirements"] or options["list_"]:
        return _print(kind, options)
    if len(words) != 2:
        raise ConfigError(f"one target is tested at a time, and {len(words) - 1} were named")
    return _test(kind, words[1], options)


def _compare(files: list[Path]) -> int:
    from sandbox.conformance.reports.document import compare, read

    if not files:
        raise ConfigError("--compare: name the reports that --json has written")
    click.echo(compare([read(file) for file in files]), nl=False)
    return OK


def _print(kind: str, options: dict[str, Any]) -> int:
    if options["requirements"]:
        from sandbox.conformance.reports.catalogue import catalogue

        click.echo(catalogue(kind), nl=False)
        return OK
    from sandbox.conformance.requirements import requirements
    from sandbox.conformance.runner import select

    for one in select(kind, options["only"], options["levels"]):
        click.echo(f"{requirements(kind)[one.requirement].level:<8} {one.id}")
    return OK


def _write_probe(kind: str, folder: Path) -> int:
    """For a host that runs already, and is given by its URL: what to deploy there."""
    from sandbox.conformance.host_lab import write_probe

    if kind != "host":
        raise ConfigError("--write-probe: only hosts are tested with a function of ours")
    write_probe(folder)
    click.echo(f"{folder}/bootstrap: deploy it as a function with a custom runtime, then name the URL of its invocations")
    return OK


def _target(kind: str, word: str) -> Target:
    """A folder or a file; of a host also its URL, or the line that starts it."""
    from sandbox.conformance.target import Target, load

    if kind == "host" and word.startswith(("http://", "https://")):
        return Target(kind, word, Path.cwd(), Path.cwd(), url=word)
    if kind == "host" and "{port}" in word:
        return Target(kind, word.split()[0], Path.cwd(), Path.cwd(), start=word, features=("extensions",))
    return load(Path(word), kind)


def _test(kind: str, word: str, options: dict[str, Any]) -> int:
    from sandbox.cli.invoke import run as run_until_signalled
    from sandbox.conformance import expected
    from sandbox.conformance.runner import select
    from sandbox.conformance.target import build

    target = _target(kind, word)
    chosen = select(kind, options["only"], options["levels"])
    file = options["expected"] or target.expected
    if options["update_expected"] and file is None:
        raise ConfigError("--update-expected: neither --expected nor conformance.toml's `expected` names a file")
    reasons = {} if file is None or (options["update_expected"] and not file.exists()) else expected.load(file, kind)
    for wanted in ("junit", "report", "json_"):
        _check_writable(options[wanted])
    if not options["no_build"]:
        build(target)
    made: list[Run] = []
    run_until_signalled(_run(target, chosen, reasons, options, made))
    [run] = made
    _report(run, options)
    if options["update_expected"]:
        assert file is not None
        expected.write(file, expected.updated(run.outcomes, reasons))
        click.echo(f"expected failures are in {file}", err=True)
        return OK
    failed = run.failures if not options["strict"] else run.broken
    return NOT_CONFORMING if failed else OK


def _check_writable(file: Path | None) -> None:
    """Now, and not after a run whose results could then not be written."""
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.absolute().parent}")


async def _run(target: Target, chosen: Any, reasons: dict[str, str], options: dict[str, Any], made: list[Run]) -> int:
    from sandbox.conformance.reports.terminal import Progress
    from sandbox.conformance.runner import Runner

    progress = Progress(len(chosen), lambda text: click.echo(text, nl=False, err=True)) if sys.stderr.isatty() else None
    runner = Runner(
        target,
        jobs=options["jobs"],
        slow=options["slow"],
        expected=reasons,
        seed=options["seed"],
        told=progress.told if progress else lambda _: None,
    )
    try:
        made.append(await runner.run(chosen))
    finally:
        if progress:
            progress.over()
    return OK


def _report(run: Run, options: dict[str, Any]) -> None:
    from sandbox.conformance.reports import junit, page, terminal

    click.echo(terminal.tree(run, _style, all_cases=options["verbose"]))
    if options["junit"]:
        junit.write(run, options["junit"])
    if options["report"]:
        page.write(run, options["report"])
    if options["json_"]:
        options["json_"].write_text(page.json_text(run), "utf-8", "replace")


def _style(text: str, colour: str | None) -> str:
    return click.style(text, fg=colour) if colour else click.style(text, bold=True)
