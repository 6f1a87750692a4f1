"""The real command, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import psutil
import pytest
from botocore.config import Config

from tests.conftest import MakeFolder, Tier

with contextlib.suppress(ImportError):  # libuv keeps one pipe per process from its first loop on: not a leak of a test
    import uvloop

    uvloop.new_event_loop().close()

COMMAND = str(Path(sys.executable).parent / "sandbox")


class Outcome(NamedTuple):
    code: int
    out: bytes
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def assert_no_traceback_of_ours(err: str) -> None:
    """The function's own tracebacks are welcome; one that goes through this package is not."""
    ours = [part for part in err.split("Traceback (most recent call last)")[1:] if "/sandbox/" in part.split("\nSTART ")[0]]
    assert ours == []
    assert "InvariantError" not in err
    assert "was never awaited" not in err
    assert "exception was never retrieved" not in err


def ours_that_run(mark: str) -> list[psutil.Process]:
    """Processes with `mark` (a test's own folder) in their arguments or environment."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            folder = Path(f"/proc/{process.pid}")
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() + b"/" in words:
            found.append(process)
    return found


@pytest.fixture
def main(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Outcome]:
    """The same without a process of its own, for the many ways to mistype a command."""
    from sandbox.cli.main import main as entry_point

    def run(*arguments: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as raised:
            entry_point([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        code = raised.value.code
        assert isinstance(code, int)
        return Outcome(code, out, err.decode())

    return run


@pytest.fixture
def sandbox(tier: Tier) -> Callable[..., Outcome]:
    """Runs `sandbox` with these arguments; stdin is what `given` says. Functions run in the test's tier."""

    def run(*arguments: str | Path, given: bytes = b"", **variables: str) -> Outcome:
        options = tier.options if arguments[0] == "invoke" else ()
        done = subprocess.run(
            [COMMAND, *map(str, arguments), *options],
            input=given,
            capture_output=True,
            timeout=40,
            env={**os.environ, **variables},
        )
        err = done.stderr.decode("utf-8", "replace")
        assert_no_traceback_of_ours(err)
        return Outcome(done.returncode, done.stdout, err)

    return run


# ── sandbox serve ──

ROLE = "arn:aws:iam::123456789012:role/r"
APP = """
import json, os, time, urllib.request
def handler(event, context):
    do = event.get("do") if isinstance(event, dict) else None
    if do == "print":
        for line in event["lines"]:
            print(line)
    if do == "env":
        return {name: os.environ.get(name) for name in event["names"]}
    if do == "call":  # the service that runs it
        body = json.dumps(event["event"]).encode()
        url = f"{os.environ['AWS_ENDPOINT_URL_LAMBDA']}/2015-03-31/functions/{event['name']}/invocations"
        return json.loads(urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=20).read())
    if do == "sleep":
        time.sleep(event["seconds"])
    return "VALUE"
"""


class Serve:
    """`sandbox serve` with these arguments; what it says on stderr."""

    def __init__(self, *arguments: str | Path, tier: Tier, **variables: str) -> None:
        port = () if "--port" in arguments else ("--port", "0")
        self.process = subprocess.Popen(
            [COMMAND, "serve", *map(str, arguments), *port, *tier.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables},
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._clients: list[Any] = []

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._more:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def until(self, text: str, count: int = 1) -> list[str]:
        """Waits for so many lines with this text in them."""
        with self._more:
            found = self._more.wait_for(lambda: self._ended or len(self._with(text)) >= count, 20)
        assert found, f"{text!r} was not said: {self.lines}"
        lines = self._with(text)
        assert len(lines) >= count, f"{text!r} was not said: {self.lines}"
        return lines

    def _with(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    @property
    def endpoint(self) -> str:
        return self.until("the Lambda API is at ")[0].rpartition(" ")[2]

    def client(self, endpoint: str | None = None) -> Any:
        self.until("AWS_SECRET_ACCESS_KEY")
        made = boto3.session.Session().client(
            "lambda",
            endpoint_url=endpoint or self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
        )
        self._clients.append(made)
        return made

    def call(self, name: str, event: Any = None, **more: Any) -> Any:
        answer = self.client().invoke(FunctionName=name, Payload=json.dumps(event or {}), **more)
        with closing(answer["Payload"]) as body:
            return json.loads(body.read())

    def end(self, number: int = signal.SIGINT) -> int:
        """Its exit code; nothing of it is left."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        self.close()
        assert_no_traceback_of_ours("\n".join(self.lines))
        return code

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(20)
        assert self.process.stderr is not None
        self.process.stderr.close()


MakeServe = Callable[..., Serve]


@pytest.fixture
def serve(tier: Tier, tmp_path: Path) -> Iterator[MakeServe]:
    made: list[Serve] = []

    def make(*arguments: str | Path, **variables: str) -> Serve:
        one = Serve(*arguments, tier=tier, **variables)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
    left = ours_that_run(str(tmp_path))
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture
def app(folder: MakeFolder) -> Path:
    return folder(app_py=APP)
