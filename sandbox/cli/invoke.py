"""`sandbox invoke CODE [EVENT]`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox.cli.exits import FAILED, INIT_FAILED, OK, TIMED_OUT
from sandbox.core.errors import ConfigError
from sandbox.core.function import DEFAULT_REGION, FunctionConfig
from sandbox.core.limits import DEFAULT_MEMORY_MB, DEFAULT_TIMEOUT_S, DEFAULT_TMP_MB, LAYERS, SHUTDOWN_REASONS

if TYPE_CHECKING:
    from sandbox.host.host import Function
    from sandbox.host.result import InvokeResult
    from sandbox.telemetry.journal import Journal, Record
    from sandbox.telemetry.levels import LogView


@click.command("invoke", short_help="Run a function from a folder or a .zip, once or several times.")
@click.argument("code")
@click.argument("event", default="{}")
@click.option("--runtime", metavar="ID", help="A managed runtime: python3.11, nodejs20.x, ruby3.2; python, nodejs, ruby.")
@click.option("--handler", metavar="H", default="", help="module.function; as AWS's console makes it if not given.")
@click.option("--memory", metavar="MB", type=int, default=DEFAULT_MEMORY_MB, show_default=True)
@click.option("--timeout", metavar="S", type=float, default=DEFAULT_TIMEOUT_S, show_default=True, help="Seconds, up to 900.")
@click.option("--env", "variables", metavar="K=V", multiple=True, help="An environment variable; may be repeated.")
@click.option("--layer", "layers", metavar="PATH", multiple=True, help=f"A folder or .zip, lowest first; up to {LAYERS}.")
@click.option("--repeat", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="Invoke N times.")
@click.option("--tmp-size", metavar="MB", type=int, default=DEFAULT_TMP_MB, show_default=True, help="Of /tmp, up to 10240.")
@click.option("--isolation", type=click.Choice(["auto", "process", "namespace"]), default="auto", show_default=True)
@click.option("--network", type=click.Choice(["auto", "nat", "none", "host"]), default="auto", show_default=True)
@click.option("--credentials", type=click.Choice(["dummy", "host"]), default="dummy", show_default=True)
@click.option("--region", metavar="R", default=DEFAULT_REGION, show_default=True)
@click.option("--shutdown-reason", type=click.Choice(SHUTDOWN_REASONS), default="spindown", show_default=True)
@click.option("--log-format", type=click.Choice(["Text", "JSON"], case_sensitive=False), default="Text", show_default=True)
@click.option(
    "--log-level", metavar="L", help="With JSON: TRACE, DEBUG, INFO, WARN, ERROR or FATAL, of the application's records."
)
@click.option("--system-log-level", metavar="L", help="With JSON: DEBUG, INFO or WARN, of the platform's records.")
@click.option("--journal", metavar="FILE", help="Write every record to FILE, one JSON document a line.")
@click.option("--client-context", metavar="JSON", help="The client context that the handler sees.")
@click.option("--cognito", metavar="JSON", help="cognitoIdentityId and cognitoIdentityPoolId, as a JSON object.")
@click.option("--trace-id", metavar="H", help="The X-Ray header: Root=…;Parent=…;Sampled=…")
@click.option("--nearest-runtime", is_flag=True, help="Run the nearest installed version instead of refusing.")
@click.option("--runtime-dir", "runtime_dirs", metavar="DIR", multiple=True, help="A folder with interpreters, searched first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document per invoke on stdout, logs included.")
def command(**options: Any) -> int:
    """Run the function in CODE, a folder or a .zip, with EVENT: JSON text, @FILE, or - for standard input.

    Without --runtime, CODE holds an executable file named bootstrap: a custom runtime. The payload goes to stdout, log
    lines go to stderr.

    Exit code: 0 ok, 1 the function failed, 2 usage, 3 Init failed, 4 timed out, 130 interrupted; with --repeat, that of the
    first invoke that was not ok.
    """
    payload = read_event(options["event"])
    code = Path(options["code"])
    config = FunctionConfig(
        code=options["code"],
        name=_function_name(code),
        runtime=options["runtime"],
        handler=options["handler"],
        memory_mb=options["memory"],
        timeout=options["timeout"],
        tmp_mb=options["tmp_size"],
        environment=dict(_variable(text) for text in options["variables"]),
        layers=options["layers"],
        region=options["region"],
        log_format="JSON" if options["log_format"] == "JSON" else None,
        log_level=_upper(options["log_level"]),
        system_log_level=_upper(options["system_log_level"]),
    )
    return run(_invoke(config, payload, options))


def read_event(text: str) -> bytes:
    """The event's bytes from JSON text, @file or -. Raises ConfigError."""
    from sandbox.host.environment.job import event_bytes

    if text == "-":
        if sys.stdin is None:
            raise ConfigError("the event is to come from standard input, which is closed")
        payload = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            payload = Path(text[1:]).read_bytes()
        except OSError as error:
            raise ConfigError(f"the event's file {text[1:]}: {error.strerror}") from None
    else:
        payload = text.encode("utf-8", "surrogateescape")
    return event_bytes(payload)


def check_function(function: Function) -> None:
    """No runtime: a custom runtime, if there is a bootstrap to be one. Says what is left out of the code."""
    package = function.package
    names = package.code.entries
    if function.config.runtime is None and "bootstrap" not in names and "bootstrap" not in package.layers.entries:
        raise ConfigError(f"{function.config.code} holds no bootstrap, and no --runtime was given; {_managed_hint(names)}")
    if package.code.left_out:
        first, more = package.code.left_out[0], len(package.code.left_out) - 1
        also = f", and {more} more like it" if more else ""
        click.echo(f"sandbox: left out of the function's code: {first}{also}", err=True)


def _managed_hint(names: Iterable[str]) -> str:
    for runtime, suffixes in (("python", (".py",)), ("nodejs", (".mjs", ".js", ".cjs")), ("ruby", (".rb",))):
        modules = sorted(name.removesuffix(suffix) for suffix in suffixes for name in names if name.endswith(suffix))
        top = [module for module in modules if "/" not in module]
        if top:
            return f"for a managed runtime: --runtime {runtime} --handler {top[0]}.handler"
    return "for a managed runtime: --runtime python|nodejs|ruby --handler module.function"


def _function_name(code: Path) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", code.resolve().name.removesuffix(".zip"))[:64].strip("-") or "function"


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--env {text}: it takes NAME=VALUE")
    return name, value


def _upper(text: str | None) -> str | None:
    return text.upper() if text is not None else None


def _document(name: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not JSON: {error}") from None


def host_credentials(choice: str) -> dict[str, str] | None:
    if choice == "dummy":
        return None
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    found = {name: os.environ[name] for name in names if name in os.environ}
    if "AWS_ACCESS_KEY_ID" not in found:
        raise ConfigError("--credentials host: AWS_ACCESS_KEY_ID is not set here (profiles and roles are not looked up)")
    return found


def run(work: Coroutine[Any, Any, int]) -> int:
    _allow_many_descriptors()
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: slower, otherwise the same
        return asyncio.run(_until_signalled(work))
    return int(uvloop.run(_until_signalled(work)))


def _allow_many_descriptors() -> None:
    """Each environment takes a dozen. Functions have a limit of their own."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a number that it then refuses
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _until_signalled(work: Coroutine[Any, Any, int]) -> int:
    """SIGTERM and SIGHUP end everything in order, as Ctrl-C does: exit code 128 and the signal's number."""
    caught: list[int] = []
    task = asyncio.ensure_future(work)

    def end(number: int) -> None:
        caught.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        click.echo(f"sandbox: ended by {signal.Signals(caught[0]).name}", err=True)
        return 128 + caught[0]


async def _invoke(config: FunctionConfig, payload: bytes, options: dict[str, Any]) -> int:
    from sandbox.host.host import Host
    from sandbox.telemetry.levels import LogView

    client_context = _document("--client-context", options["client_context"])
    if isinstance(client_context, str):
        raise ConfigError("--client-context is not a JSON object: it has the keys client, custom and env")
    cognito = _document("--cognito", options["cognito"])
    code = OK
    with open_journal(options["journal"]) as journal:
        host = Host(
            credentials=host_credentials(options["credentials"]),
            journal=journal,
            runtime_dirs=options["runtime_dirs"],
            nearest_runtime=options["nearest_runtime"],
            isolation=options["isolation"],
            network=options["network"],
        )
        if not options["as_json"]:
            view = LogView.of(config)
            journal.subscribe(lambda record: print_log(record, view))
        else:  # no invoke's document has it
            journal.subscribe(print_log, ["sandbox.windDown"])
        try:
            for note in (await host.isolation()).notes:
                click.echo(f"sandbox: {note}", err=True)
            function = await host.deploy(config)
            check_function(function)
            for _ in range(options["repeat"]):
                result = await function.invoke(
                    payload=payload, client_context=client_context, cognito_identity=cognito, trace_id=options["trace_id"]
                )
                print_result(result, options["as_json"])
                code = code or exit_code(result)
        finally:
            await host.close(options["shutdown_reason"])
    return code


@contextlib.contextmanager
def open_journal(path: str | None) -> Iterator[Journal]:
    from sandbox.telemetry.journal import Journal, JsonLines

    journal = Journal()
    if path is None:
        yield journal
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed below, where a full disk may tell of itself)
    except OSError as error:
        raise ConfigError(f"--journal {path}: {error.strerror}") from None
    lines = JsonLines(file)
    journal.subscribe(lines)
    try:
        yield journal
    finally:
        try:
            file.close()
        except OSError as error:
            lines.error = lines.error or error
        if lines.error is not None:
            click.echo(f"sandbox: --journal {path}: {lines.error.strerror}: it is not complete", err=True)


def print_log(record: Record, view: LogView | None = None) -> None:
    """Log lines go to standard error; without a view, in text."""
    from sandbox.telemetry.levels import LogView

    lines = (view or LogView()).lines(record)
    if lines:
        text = "".join(f"{line}\n" for line in lines)
        try:
            sys.stderr.buffer.write(text.encode("utf-8", "replace"))
            sys.stderr.buffer.flush()
        except (OSError, ValueError):  # nobody reads the log any more: the invoke goes on
            pass


def print_result(result: InvokeResult, as_json: bool) -> None:
    out = sys.stdout.buffer
    out.write(json.dumps(document(result)).encode() if as_json else result.payload)
    out.write(b"\n")
    out.flush()


def document(result: InvokeResult) -> dict[str, Any]:
    """The document of `--json`. A payload that is not JSON comes as payloadBase64."""
    said: dict[str, Any] = {"requestId": result.request_id}
    try:
        said["payload"] = json.loads(result.payload.decode(), parse_constant=_not_json)
    except (ValueError, RecursionError):
        import base64

        said["payloadBase64"] = base64.b64encode(result.payload).decode()
    said["functionError"] = result.function_error
    said["executedVersion"] = result.executed_version
    said["report"] = result.report.document() if result.report is not None else None
    said["phases"] = [phase.document() for phase in result.phases]
    said["extensions"] = [cost.document() for cost in result.extensions]
    if result.held_open_by is not None:
        said["heldOpenBy"], said["heldOpenMs"] = result.held_open_by, result.held_open_ms
    said["logs"] = result.log
    return said


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def exit_code(result: InvokeResult) -> int:
    """Which exit code an invoke ends with."""
    if result.function_error is None:
        return OK
    if result.status == "timeout":
        return TIMED_OUT
    return INIT_FAILED if result.error_phase == "init" else FAILED
