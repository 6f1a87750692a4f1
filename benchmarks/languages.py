"""Cold starts of the managed runtimes, beside an interpreter that does nothing and AWS's own clients. See README.md here."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from sandbox import Host
from sandbox.core.errors import Unsupported

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / ".cache" / "clients"
HANDLERS = {
    "app.py": "def handler(event, context):\n    return event\n",
    "app.js": "exports.handler = async (event) => event;\n",
    "app.rb": "def handler(event:, context:)\n  event\nend\n",
}


class Subject(NamedTuple):
    """One language here: what does nothing, and AWS's client as a bootstrap (None if it is not here)."""

    runtime: str
    nothing: list[str]
    client: str | None


def subjects(host_runtimes: dict[str, str], ruby_client: str | None) -> list[Subject]:
    found = []
    if python := host_runtimes.get("python"):
        folder = next(iter(sorted(CLIENTS.glob("awslambdaric-*"), reverse=True)), None)
        client = f"PYTHONPATH={shlex.quote(str(folder))} exec {python} -m awslambdaric app.handler" if folder else None
        found.append(Subject("python", [python, "-c", "pass"], client))
    if node := host_runtimes.get("nodejs"):
        entry = next(iter(CLIENTS.glob("aws-lambda-ric-3*/bin/index.mjs")), None)
        found.append(Subject("nodejs", [node, "-e", "0"], f"exec {node} {entry} app.handler" if entry else None))
    if ruby := host_runtimes.get("ruby"):
        # Not in a registry that tests may use: a checkout of it, by hand.
        client = f"exec {ruby} -I{ruby_client}/lib {ruby_client}/bin/aws_lambda_ric app.handler" if ruby_client else None
        found.append(Subject("ruby", [ruby, "-e", "0"], client))
    return found


def code(folder: Path, client: str | None = None) -> Path:
    """A folder with the same function in three languages, and a bootstrap that runs AWS's client."""
    folder.mkdir()
    for name, text in HANDLERS.items():
        (folder / name).write_text(text)
    if client:
        (folder / "bootstrap").write_text(f"#!/bin/sh\n{client}\n")
        (folder / "bootstrap").chmod(0o755)
    return folder


def nothing(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return (time.perf_counter() - start) * 1e3


async def cold(host: Host, folder: Path, **settings: str) -> float:
    """From the call to the answer, in ms: environment, process, Init, and one event."""
    function = await host.deploy(folder, memory_mb=512, timeout=30, **settings)
    start = time.perf_counter()
    result = await function.invoke({"k": 1}, wait_for_report=False)
    took = (time.perf_counter() - start) * 1e3
    assert result.json() == {"k": 1}, result
    await function.close("spindown")
    return took


async def run(rounds: int, ruby_client: str | None) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    with tempfile.TemporaryDirectory() as made:
        folder = code(Path(made, "code"))
        async with Host() as host:
            here = {}
            for language in ("python", "nodejs", "ruby"):
                try:
                    function = await host.deploy(folder, runtime=language, handler="app.handler")
                except Unsupported as error:
                    print(f"{language}: left out: {error}")
                    continue
                assert function.interpreter is not None
                here[language] = function.interpreter.path
            for subject in subjects(here, ruby_client):
                await measure(host, folder, subject, rounds, Path(made))


async def measure(host: Host, folder: Path, subject: Subject, rounds: int, made: Path) -> None:
    theirs = code(made / f"{subject.runtime}-client", subject.client)
    took: dict[str, list[float]] = {"nothing": [], "ours": [], "AWS's client": []}
    for _ in range(rounds):  # side by side: this machine's speed changes from minute to minute
        took["nothing"].append(await asyncio.to_thread(nothing, subject.nothing))
        took["ours"].append(await cold(host, folder, runtime=subject.runtime, handler="app.handler"))
        if subject.client:
            took["AWS's client"].append(await cold(host, theirs, handler="app.handler"))
    least = statistics.median(took["nothing"])
    for name, found in took.items():
        if found:
            middle = statistics.median(found)
            print(f"{subject.runtime:8} {name:14} {middle:8.1f} ms   {middle / least:5.2f} x nothing   (best {min(found):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ruby-client", metavar="DIR", help="a checkout of AWS's Ruby runtime interface client")
    arguments = parser.parse_args()
    uvloop.run(run(arguments.rounds, arguments.ruby_client))


if __name__ == "__main__":
    main()
