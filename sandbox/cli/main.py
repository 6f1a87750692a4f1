"""`sandbox`: finds the verb, and turns errors into words and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from sandbox import __version__
from sandbox.cli.exits import FAILED, INTERRUPTED, USAGE

_VERBS = {
    "invoke": "Run a function from a folder or a .zip, once or several times.",
    "serve": "Serve the Lambda API: for boto3, the AWS CLI and every SDK.",
    "report": "Billed time, GB-seconds and cost per function.",
    "logs": "What a function has logged, and what it logs.",
    "queue": "Asynchronous events that wait, and those that are stuck.",
    "attach": "Serve a runtime that you start yourself, in a debugger or an IDE.",
    "conformance": "Test a runtime: does it keep what Lambda requires of it?",
    "doctor": "Tell what works on this machine, and why something does not.",
}


class _Verbs(click.Group):
    """Imports a verb's module when that verb is used: --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = importlib.import_module(f"sandbox.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sandbox")
def group() -> None:
    """The AWS Lambda execution environment on this machine: real processes, real lifecycle, no Docker."""


def main(arguments: list[str] | None = None) -> Any:
    """The entry point. Exit codes: see sandbox.cli.exits."""
    from sandbox.core.errors import ConfigError, SandboxError, Unsupported

    _open_what_is_closed()
    try:
        code = group.main(arguments, prog_name="sandbox", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        error.show()
        code = USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("sandbox: interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        code = FAILED
    except (ConfigError, Unsupported) as error:
        click.echo(f"sandbox: {error}", err=True)
        code = USAGE
    except SandboxError as error:
        click.echo(f"sandbox: {error}", err=True)
        code = FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"sandbox: {where}{error.strerror or error}", err=True)
        code = FAILED
    _flush_or_drop()
    sys.exit(code or 0)


def _flush_or_drop() -> None:
    """A reader that has gone must not change the exit code: Python's own last flush would make it 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_what_is_closed() -> None:
    """Someone may have started us with standard streams closed (`2>&-`): their numbers must not go to other files."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            if name != "stdin":  # there, None says that it is closed
                setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 (open until the end)
