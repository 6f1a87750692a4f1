"""The real command, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.conftest import Tier

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
