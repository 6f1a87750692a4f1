"""`sandbox serve [CODE …]`: the Lambda API for boto3, the AWS CLI and other SDKs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from sandbox.cli.exits import OK
from sandbox.cli.invoke import host_credentials, run
from sandbox.core.errors import ConfigError
from sandbox.core.function import DEFAULT_REGION

if TYPE_CHECKING:
    from sandbox.control.aws import OtherServices
    from sandbox.control.server import Server
    from sandbox.control.service import Service
    from sandbox.host.host import Host
    from sandbox.host.relay import Around

PORT = 3001


@click.command("serve", short_help="Serve the Lambda API: for boto3, the AWS CLI and every SDK.")
@click.argument("codes", nargs=-1, metavar="[CODE ...]")
@click.option("--host", "address", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any free one.")
@click.option("--data", metavar="DIR", help="Keep functions, versions, aliases and layers here; else they end with it.")
@click.option("--watch", is_flag=True, help="Deploy a CODE again when it changes.")
@click.option("--allow-host", "allowed", metavar="NAME", multiple=True, help="A Host besides the local ones: of a proxy.")
@click.option("--aws-endpoint", metavar="URL", help="Other AWS services: code in S3, CloudWatch Logs; functions get it, too.")
@click.option(
    "--time-scale",
    metavar="N",
    type=click.FloatRange(0.001, 1_000_000),
    default=1.0,
    show_default=True,
    help="Asynchronous invokes wait N times as short: with 60 a minute is a second.",
)
@click.option(
    "--duplicate-events",
    "duplicates",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    default=0.0,
    help="Give so many of 100 events to their function twice, as Lambda may.",
)
@click.option("--region", metavar="R", default=DEFAULT_REGION, show_default=True)
@click.option("--credentials", type=click.Choice(["dummy", "host"]), default="dummy", show_default=True)
@click.option("--isolation", type=click.Choice(["auto", "process", "namespace"]), default="auto", show_default=True)
@click.option("--network", type=click.Choice(["auto", "nat", "none", "host"]), default="auto", show_default=True)
@click.option("--nearest-runtime", is_flag=True, help="Run the nearest installed version instead of refusing.")
@click.option("--runtime-dir", "runtime_dirs", metavar="DIR", multiple=True, help="A folder with interpreters, searched first.")
@click.option("--journal", metavar="FILE", help="Write every record to FILE, one JSON document a line.")
def command(**options: Any) -> int:
    """Serve the Lambda API until Ctrl-C. Each CODE, a folder or a .zip, is a function from the start; others are created
    with an SDK or the AWS CLI.

    A folder is named after itself, and its runtime and handler are found by its files; a sandbox.toml in it says more: name,
    runtime, handler, description, memory, timeout, tmp-size, layers, and a table environment.
    """
    return run(_serve(options))


async def _serve(options: dict[str, Any]) -> int:
    from sandbox.cli.invoke import open_journal
    from sandbox.control.deploy import read_code
    from sandbox.host.host import Host

    codes = [read_code(text) for text in options["codes"]]
    if options["watch"] and not codes:
        raise ConfigError("--watch: there is no CODE to watch")
    credentials = host_credentials(options["credentials"])
    with open_journal(options["journal"]) as journal:
        host = Host(
            credentials=credentials,
            journal=journal,
            runtime_dirs=options["runtime_dirs"],
            nearest_runtime=options["nearest_runtime"],
            isolation=options["isolation"],
            network=options["network"],
        )
        for note in (await host.isolation()).notes:
            _tell(note)
        others = None
        if options["aws_endpoint"] is not None:
            from sandbox.control.aws import OtherServices

            _parts(options["aws_endpoint"])
            others = OtherServices(options["aws_endpoint"], options["region"], credentials)
        return await _until_interrupted(host, codes, options, others)


def _parts(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        found = parts.scheme, parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"--aws-endpoint {url}: {error}: it is a URL, as http://127.0.0.1:5000") from None
    if found[0] not in ("http", "https") or not found[1]:
        raise ConfigError(f"--aws-endpoint {url}: it is a URL, as http://127.0.0.1:5000")
    return found


class _Signals:
    """The first signal shuts everything down in order; the second kills. code: the exit code, by what came first."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self.code = OK
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._caught, number)

    def _caught(self, number: signal.Signals) -> None:
        if self.first.is_set():
            self.second.set()
            self._host.kill()
            return
        self.code = OK if number == signal.SIGINT else 128 + number
        self.first.set()


async def _until_interrupted(host: Host, codes: list[Any], options: dict[str, Any], others: OtherServices | None) -> int:
    from sandbox.control.logs import CloudWatch, Printer
    from sandbox.control.server import Server, keep_big_blocks
    from sandbox.control.service import Service

    keep_big_blocks()
    signals = _Signals(host)
    cloudwatch = CloudWatch(others.client("logs", quick=True), host.function_of, _tell) if others is not None else None
    service = Service(
        host,
        data=Path(options["data"]) if options["data"] else None,
        region=options["region"],
        others=others,
        on_trouble=_tell,
        time_scale=options["time_scale"],
        duplicates=options["duplicates"],
    )
    printer = Printer(sys.stderr.buffer, host.function_of)
    host.journal.subscribe(printer)
    if cloudwatch is not None:
        host.journal.subscribe(cloudwatch)
    server = Server(service, allowed=frozenset(name.lower() for name in options["allowed"]))
    try:
        server.bind(options["address"], options["port"])
        host.around = _around(server, options["aws_endpoint"], own_network=(await host.isolation()).network.own)
        working = asyncio.ensure_future(_work(service, server, codes, options))
        stopping = asyncio.ensure_future(signals.first.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()
        if not signals.first.is_set():
            await working  # it has failed
        _tell("shutting down; Ctrl-C again kills")
    finally:
        server.stop()
        await service.close()  # who waits for an invoke is told
        await server.close()
        printer.flush()
        if cloudwatch is not None:
            await _first([cloudwatch.close(), signals.second.wait()])
    return signals.code


async def _work(service: Service, server: Server, codes: list[Any], options: dict[str, Any]) -> None:
    """Loads, deploys, serves, watches; until it is cancelled."""
    from sandbox.control.deploy import Deployer, stand_in
    from sandbox.control.server import calm_collector

    deployer = Deployer(service, codes, _tell)
    await service.load()
    await server.start()
    stand_in(service, codes)
    await deployer.deploy()
    calm_collector()
    _greet(service, options)
    if options["watch"]:
        await deployer.watch()
    await asyncio.Event().wait()


async def _first(waits: list[Coroutine[Any, Any, Any]]) -> None:
    """Waits for one of them."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _around(server: Server, aws_endpoint: str | None, *, own_network: bool) -> Around:
    """What functions find: this API, and the other services. Those at this host's loopback are relayed into their networks."""
    from sandbox.host.relay import Around, Port
    from sandbox.wire.browsers import is_local_name

    ports = [Port(server.port, server.address)]
    variables = {"AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{server.port}" if own_network else server.endpoint}
    if aws_endpoint is not None:
        scheme, name, port = _parts(aws_endpoint)
        if own_network and port is not None and is_local_name(name):
            ports.append(Port(port, name))
            aws_endpoint = f"{scheme}://127.0.0.1:{port}"
        variables["AWS_ENDPOINT_URL"] = aws_endpoint
    return Around(variables, tuple({port.number: port for port in ports}.values()))


def _greet(service: Service, options: dict[str, Any]) -> None:
    region, endpoint, names = options["region"], service.endpoint, service.live.names
    lines = [
        f"sandbox: the Lambda API is at {endpoint}",
        "sandbox: for boto3, the AWS CLI and other SDKs:",
        f"  export AWS_ENDPOINT_URL_LAMBDA={endpoint}",
        f"  export AWS_DEFAULT_REGION={region} AWS_REGION={region} AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox",
    ]
    if names:
        lines.append(f"sandbox: functions: {', '.join(names)}")
        lines.append(f"  aws lambda invoke --function-name {names[0]} /dev/stdout")
    lines += [f"sandbox: {name} is at {url}" for name, url in service.urls.urls]
    with contextlib.suppress(OSError, ValueError):
        click.echo("\n".join(lines), err=True)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        click.echo(f"sandbox: {text}", err=True)
