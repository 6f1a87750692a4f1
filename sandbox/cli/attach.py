"""`sandbox attach [EVENT …]`: the other way round, for who writes or debugs a runtime: they start it, we serve it."""

from __future__ import annotations

import asyncio
import shlex
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox.cli.exits import OK
from sandbox.cli.invoke import exit_code, print_log, print_result, read_event, run
from sandbox.core.errors import ConfigError
from sandbox.core.function import DEFAULT_REGION, FunctionConfig
from sandbox.core.limits import DEFAULT_MEMORY_MB, DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from sandbox.host.attach import AttachedEnvironment
    from sandbox.telemetry.journal import Record


@click.command("attach", short_help="Serve a runtime that you start yourself, in a debugger or an IDE.")
@click.argument("events", metavar="[EVENT]...", nargs=-1)
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=9001, show_default=True, help="0 takes any.")
@click.option("--no-timeout", is_flag=True, help="Suspend the function's timeout: for breakpoints.")
@click.option("--timeout", metavar="S", type=float, default=DEFAULT_TIMEOUT_S, show_default=True, help="Seconds, up to 900.")
@click.option("--memory", metavar="MB", type=int, default=DEFAULT_MEMORY_MB, show_default=True, help="Told, not enforced.")
@click.option("--handler", metavar="H", default="", help="The value of _HANDLER.")
@click.option("--task", metavar="DIR", default=".", help="The value of LAMBDA_TASK_ROOT.  [default: this folder]")
@click.option("--region", metavar="R", default=DEFAULT_REGION, show_default=True)
@click.option("--env-file", metavar="FILE", help="Write the variables there, NAME=VALUE, for your IDE.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document per invoke on stdout, logs included.")
@click.option("--quiet", is_flag=True, help="Do not show requests and replies.")
def command(**options: Any) -> int:
    """Print what to export, then serve the Runtime API to a runtime that you start, and give it EVENTs in their order:
    JSON text, @FILE, or - for standard input, one event a line.

    Without an EVENT it serves until Ctrl-C. Events may also be posted, as to AWS's emulator, to
    /2015-03-31/functions/function/invocations on the same port. Start the runtime as often as you like: an event that it has
    not answered is given again.
    """
    given = [event if event == "-" else read_event(event) for event in options["events"]]
    task = Path(options["task"])
    if not task.is_dir():
        raise ConfigError(f"--task {task}: there is no such folder")
    config = FunctionConfig(
        code=str(task.resolve()),
        handler=options["handler"],
        memory_mb=options["memory"],
        timeout=options["timeout"],
        region=options["region"],
    )
    return run(_attach(config, given, options))


async def _attach(config: FunctionConfig, given: list[str | bytes], options: dict[str, Any]) -> int:
    from sandbox.clock import SystemClock
    from sandbox.host.attach import AttachedEnvironment
    from sandbox.telemetry.journal import Journal

    journal = Journal()
    if not options["as_json"]:
        journal.subscribe(_print)
    environment = AttachedEnvironment(
        config,
        journal,
        SystemClock(),
        port=options["port"],
        timeouts=not options["no_timeout"],
        task=config.code,
        watch=None if options["quiet"] else _say,
    )
    await environment.open()
    try:
        _instruct(environment, options)
        if not given:
            await asyncio.Event().wait()
        code = OK
        async for payload in _payloads(given):
            ended = await _one(environment, payload, options["as_json"])
            code = code or ended
        return code
    finally:
        await environment.shutdown()


def _instruct(environment: AttachedEnvironment, options: dict[str, Any]) -> None:
    from sandbox.host.attach import env_file

    variables = environment.exports()
    if options["env_file"]:
        _write_env_file(Path(options["env_file"]), env_file(variables))
    _say("Start your runtime with these variables, in a debugger if you like; a new start begins a new generation.")
    _say("Credentials and region among them are dummies: leave those lines out to keep your own.")
    for name, value in variables.items():
        _say(f"export {name}={shlex.quote(value)}")
    _say(f"Events: curl -d '{{}}' http://{environment.address}/2015-03-31/functions/function/invocations")
    _say(
        "Nothing is frozen, killed or measured: the process is yours." + (" Timeouts are off." if options["no_timeout"] else "")
    )


def _write_env_file(path: Path, text: str) -> None:
    """Only over a file that was written by us: people have secrets in theirs."""
    try:
        if path.exists() and not path.read_text(errors="replace").startswith(text.partition("\n")[0]):
            raise ConfigError(f"--env-file {path}: it is there already, and not by sandbox attach: name another file")
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"--env-file {path}: {error.strerror}") from None


async def _one(environment: AttachedEnvironment, payload: bytes, as_json: bool) -> int:
    from sandbox.host.environment import Job

    clock = environment.clock
    job = Job(payload, arn=environment.function.arn, accepted_at=clock.now(), wall=clock.wall())
    environment.invoke(job)
    await job.answered
    if job.result.status == "timeout":
        _say("sandbox: on Lambda the process is killed now; here it goes on, and its next poll begins a new generation")
    if not as_json:
        print_result(job.result, as_json)  # at once: the runtime may be held by a debugger before it polls again
    await job.reported
    if as_json:
        print_result(job.result, as_json)
    return exit_code(job.result)


async def _payloads(given: list[str | bytes]) -> AsyncIterator[bytes]:
    from sandbox.host.environment.job import event_bytes

    for event in given:
        if isinstance(event, bytes):
            yield event
            continue
        async for line in _stdin_lines():
            try:
                payload = event_bytes(line.encode("utf-8", "surrogateescape"))
            except ConfigError as error:
                _say(f"sandbox: standard input, {line[:60]!r}: {error}; it is left out")
            else:
                yield payload


async def _stdin_lines() -> AsyncIterator[str]:
    """Lines as they are typed. A thread reads them: a terminal cannot be waited for in any other way everywhere."""
    if sys.stdin is None:
        raise ConfigError("events are to come from standard input, which is closed")
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        if line.strip():
            yield line.strip()


def _print(record: Record) -> None:
    """The log, without what is not known of a process that somebody else started."""
    if record.type == "platform.initReport" and record.record["status"] != "success":
        _say("sandbox: the runtime reported an error of its Init: mend it and start it again")
    elif record.type != "platform.initStart":
        print_log(record)


def _say(text: str) -> None:
    click.echo(text, err=True)
