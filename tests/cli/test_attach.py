"""`sandbox attach`, as its user meets it: a real process each, and a runtime started by hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND

RUNTIME = """
import http.client, os, sys

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
for _ in range(int(sys.argv[1])):
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    event = api.getresponse()
    body = event.read().upper()
    id = event.headers["Lambda-Runtime-Aws-Request-Id"]
    api.request("POST", f"/2018-06-01/runtime/invocation/{id}/response", body)
    api.getresponse().read()
api.request("GET", "/2018-06-01/runtime/invocation/next")
try:
    api.getresponse()
except http.client.RemoteDisconnected:
    pass  # the end
"""

Attach = Callable[..., tuple["subprocess.Popen[str]", dict[str, str]]]


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Starts it on any port; gives the process and the variables that it wants exported."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        command = [COMMAND, "attach", "--port", "0", *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        assert process.stderr is not None
        exports = {}
        while not (line := process.stderr.readline()).startswith("Nothing is frozen"):
            assert line, "it ended"
            if found := re.match(r"export (\w+)='?(.*?)'?\n", line):
                exports[found[1]] = found[2]
        return process, exports

    yield start
    for process in started:
        process.kill()
        process.communicate()


def runtime(exports: dict[str, str], events: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUNTIME, str(events)], env={**os.environ, **exports})


def test_events_of_the_command_line_in_their_order(attach: Attach, tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text('{"from": "a file"}')
    process, exports = attach('{"a": "first"}', f"@{file}", "--handler", "my.handler")
    assert exports["_HANDLER"] == "my.handler"
    mine = runtime(exports, 2)
    out, err = process.communicate(timeout=30)
    assert out.splitlines() == ['{"A": "FIRST"}', '{"FROM": "A FILE"}']
    assert process.returncode == 0
    assert mine.wait(30) == 0
    assert err.count("START RequestId") == 2
    assert "> POST /2018-06-01/runtime/invocation/" in err


def test_events_of_standard_input_one_a_line(attach: Attach) -> None:
    process, exports = attach("-", "--quiet")
    mine = runtime(exports, 2)
    out, err = process.communicate('"one"\n\nno json\n"two"\n', timeout=30)
    assert out.splitlines() == ['"ONE"', '"TWO"']
    assert "sandbox: standard input, 'no json': the event is not JSON" in err
    assert "> GET" not in err
    assert (process.returncode, mine.wait(30)) == (0, 0)


def test_without_an_event_it_serves_until_it_is_interrupted(attach: Attach, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    process, exports = attach("--env-file", str(file))
    assert f"AWS_LAMBDA_RUNTIME_API={exports['AWS_LAMBDA_RUNTIME_API']}\n" in file.read_text()
    assert "AWS_LAMBDA_FUNCTION_VERSION='$LATEST'\n" in file.read_text()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "\nsandbox: interrupted\n" or err == "sandbox: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["{"], "not JSON"), (["--task", "/no/such"], "/no/such"), (["--env-file", "/no/such/.env"], "/no/such/.env")],
)
def test_a_mistake_is_2_and_named(arguments: list[str], said: str) -> None:
    command = [COMMAND, "attach", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_file_of_the_users_own_is_not_written_over(attach: Attach, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("SECRET=mine\n")
    command = [COMMAND, "attach", "--port", "0", "--env-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, file.read_text()) == (2, "SECRET=mine\n")
    assert "name another file" in done.stderr
    file.unlink()
    for _ in range(2):  # its own it may
        attach("--env-file", str(file))


def test_the_answer_is_shown_before_the_runtime_polls_again(attach: Attach) -> None:
    """It may be held in a debugger, or be ended: then the invoke ends a second later."""
    process, exports = attach("1", "2")
    code = RUNTIME.partition('api.request("GET", "/2018-06-01/runtime/invocation/next")\ntry')[0]
    for _ in range(2):
        once = [sys.executable, "-c", code, "1"]
        subprocess.run(once, env={**os.environ, **exports}, check=True, timeout=30)
    out, err = process.communicate(timeout=30)
    assert out == "1\n2\n"
    assert "a new generation begins" in err
    assert process.returncode == 0
