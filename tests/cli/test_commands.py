"""`sandbox report`, `sandbox logs` and `sandbox queue`, beside a real `sandbox serve` and after it."""

from __future__ import annotations

import fcntl
import json
import os
import queue as queues
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, MakeServe, Outcome, Serve, assert_no_traceback_of_ours
from tests.cli.test_serve import make

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

Sandbox = Callable[..., Outcome]
FAILS = "def handler(event, context):\n    raise ValueError('as asked')\n"
LINES = {"do": "print", "lines": ["first", "é second"]}
COMMANDS = (("report",), ("logs", "f"), ("queue",))


def ran(served: Serve, name: str = "f") -> str:
    """A function with this name was invoked once; the request id."""
    make(served.client(), name)
    served.call(name, LINES)
    report = served.until(f"{name} | REPORT")[0]
    return report.split()[4]


def stuck(served: Serve, name: str = "bad") -> str:
    """An event has failed for good; its request id."""
    client = served.client()
    make(client, name, FAILS)
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=b"{}")
    answer["Payload"].close()
    served.until("see `sandbox queue`")
    return str(answer["ResponseMetadata"]["RequestId"])


def at(served: Serve) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_LAMBDA": served.endpoint}


def refused(done: Outcome, *words: str) -> str:
    """Exit code 2, and one line that has these words."""
    lines = [line for line in done.err.splitlines() if line.startswith("sandbox: ")]
    assert (done.code, done.out, len(lines)) == (2, b"", 1), done
    assert_no_traceback_of_ours(done.err)
    assert "Traceback" not in done.err
    for word in words:
        assert word in lines[0]
    return lines[0]


# ── sandbox report ──


@pytest.mark.parametrize("state", ["asked", "named", "stopped", "killed"])
def test_report(serve: MakeServe, sandbox: Sandbox, tmp_path: Path, state: str) -> None:
    data = tmp_path / "data"
    served = serve("--data", data)
    ran(served)
    [line] = served.until("f | REPORT")
    billed = int(re.findall(r"Billed Duration: (\d+) ms", line)[0])
    if state == "killed":
        assert sandbox("report", **at(served)).code == 0  # on disk
        served.process.kill()
        served.process.wait()
    elif state == "stopped":
        assert served.end() == 0
    given, variables = (("report",), at(served)) if state == "asked" else (("report", "--data", data), {})
    done = sandbox(*given, "--json", **variables)
    assert (done.code, done.err) == (0, "")
    [one] = done.json()["functions"]
    assert (one["function"], one["version"], one["requests"], one["billedMs"]) == ("f", "$LATEST", 1, billed)
    assert one["gbSeconds"] == pytest.approx(128 / 1024 * billed / 1000)
    assert done.json()["total"] == {key: value for key, value in one.items() if key not in ("function", "version")}
    told = sandbox(*given, **variables)
    assert (told.code, told.err) == (0, "")
    head, row, _, total, *_ = told.out.decode().splitlines()
    assert head.split() == ["FUNCTION", "VERSION", "REQUESTS", "BILLED", "MS", "GB-SECONDS", "COST", "USD"]
    assert row.split()[:4] == ["f", "$LATEST", "1", f"{billed:,}"]
    assert total.split()[:3] == ["total", "1", f"{billed:,}"]


def test_report_of_a_server_without_a_data_folder(serve: MakeServe, sandbox: Sandbox) -> None:
    served = serve()
    assert sandbox("report", **at(served)).out == b"Nothing was billed yet.\n"
    assert sandbox("report", "--json", **at(served)).json()["functions"] == []
    ran(served)
    assert sandbox("report", "--json", **at(served)).json()["total"]["requests"] == 1


def test_options_of_report(serve: MakeServe, sandbox: Sandbox, tmp_path: Path) -> None:
    data, prices = tmp_path / "data", tmp_path / "prices.toml"
    served = serve("--data", data)
    ran(served)
    assert served.end() == 0
    here = ("report", "--data", data)
    whole = sandbox(*here, "--json").json()
    assert whole["total"]["costUsd"] > 0
    free = sandbox(*here, "--json", "--free-tier").json()
    assert (free["total"]["costUsd"], free["freeTierUsd"]) == (0, pytest.approx(whole["total"]["costUsd"]))
    assert sandbox(*here, "--json", "--month", "1999-12").json()["functions"] == []
    published = Path(__file__).parents[2] / "sandbox" / "control" / "billing" / "prices.toml"
    prices.write_text(published.read_text().replace("requests-per-million = 0.20", "requests-per-million = 5_000_000"))
    assert sandbox(*here, "--json", "--prices", prices).json()["total"]["costUsd"] == pytest.approx(5, abs=0.001)
    for month in ("2026", "2026-13", "2026-00", "2026-1", "26-01", "x", ""):
        refused(sandbox(*here, "--month", month), "--month", "2026-11")
    prices.write_text("[[prices]]")
    refused(sandbox(*here, "--prices", prices), str(prices))
    refused(sandbox(*here, "--prices", tmp_path / "none"), str(tmp_path / "none"))


# ── sandbox logs ──


@pytest.mark.parametrize("state", ["asked", "named", "stopped"])
def test_logs(serve: MakeServe, sandbox: Sandbox, tmp_path: Path, state: str) -> None:
    data = tmp_path / "data"
    served = serve("--data", data)
    request_id = ran(served)
    if state == "stopped":
        assert served.end() == 0
    given, variables = ((), at(served)) if state == "asked" else (("--data", data), {})
    done = sandbox("logs", "f", *given, **variables)
    assert (done.code, done.err) == (0, "")
    words = [line.split()[1] for line in done.out.decode().splitlines()]
    assert words == ["INIT_START", "START", "first", "é", "END", "REPORT"]
    documents = [json.loads(line) for line in sandbox("logs", "f", "--json", *given, **variables).out.splitlines()]
    assert [one["message"].split()[0] for one in documents] == words
    one = sandbox("logs", "f", "--request-id", request_id, *given, **variables).out.decode().splitlines()
    assert [line.split()[1] for line in one] == words[1:]
    assert sandbox("logs", "/aws/lambda/f", *given, **variables).out == done.out
    for missing in (("g",), ("f", "--request-id", "nobody's"), ("/aws/lambda/g",)):
        nothing = sandbox("logs", *missing, *given, **variables)
        assert (nothing.code, nothing.out) == (1, b"")
        assert "functions with logs: f" in nothing.err
        assert missing[-1] in nothing.err


@contextmanager
def following(*arguments: str | Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], str]]]:
    """A command that goes on; and what waits for a line of its output."""
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **variables}
    )
    lines: queues.Queue[str] = queues.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.decode())

    reader = threading.Thread(target=read)
    reader.start()

    def until(text: str) -> str:
        while text not in (line := lines.get(timeout=20)):
            pass
        return line

    try:
        yield process, until
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(20)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize("how", ["asked", "named"])
def test_logs_that_are_followed(serve: MakeServe, tmp_path: Path, how: str) -> None:
    data = tmp_path / "data"
    served = serve("--data", data)
    ran(served)
    given, variables = ((), at(served)) if how == "asked" else (("--data", data), {})
    with following("logs", "f", "--follow", *given, **variables) as (process, until):
        until(" first")
        until(" REPORT")
        served.call("f", {"do": "print", "lines": ["much later"]})
        assert until("much later").endswith(" much later\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read().decode()


def test_logs_whose_reader_has_left(serve: MakeServe, tmp_path: Path) -> None:
    served = serve("--data", tmp_path / "data")
    ran(served)
    with following("logs", "f", "--follow", **at(served)) as (process, until):
        until("INIT_START")
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [COMMAND, "logs", "f"], stdout=write, stderr=subprocess.PIPE, env={**os.environ, **at(served)}, timeout=40
        )
        os.close(write)
        assert "Traceback" not in done.stderr.decode()
        assert done.returncode == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_logs_of_a_server_that_keeps_none(serve: MakeServe, sandbox: Sandbox) -> None:
    served = serve()
    ran(served)
    refused(sandbox("logs", "f", **at(served)), "--data", served.endpoint)


def test_no_logs_yet(serve: MakeServe, sandbox: Sandbox, tmp_path: Path) -> None:
    """It keeps logs, but nothing was logged."""
    served = serve("--data", tmp_path / "data")
    for given, variables in (((), at(served)), (("--data", tmp_path / "data"), {})):
        done = sandbox("logs", "f", *given, **variables)
        assert done.code == 1, done
        assert "functions with logs: none" in done.err


# ── sandbox queue ──


@pytest.mark.parametrize("state", ["asked", "named", "stopped"])
def test_queue(serve: MakeServe, sandbox: Sandbox, tmp_path: Path, state: str) -> None:
    data = tmp_path / "data"
    served = serve("--data", data)
    here, variables = (("queue",), at(served)) if state == "asked" else (("queue", "--data", data), {})
    served.until("AWS_SECRET_ACCESS_KEY")
    assert sandbox(*here, **variables).out == b"Nothing waits, and nothing is stuck.\n"
    request_id = stuck(served)
    if state == "stopped":
        assert served.end() == 0
    done = sandbox(*here, **variables)
    assert (done.code, done.err) == (0, "")
    first, *_, last = done.out.decode().splitlines()
    assert first.startswith(f"stuck: {request_id} bad: RetriesExhausted: ")
    assert "--replay" in last
    [ended] = sandbox(*here, "--json", **variables).json()["ended"]
    assert (ended["requestId"], ended["function"]) == (request_id, "bad")
    unknown = sandbox(*here, "--replay", "nobody's", **variables)
    assert (unknown.code, unknown.out[:26]) == (1, b"nothing that is stuck has ")
    assert sandbox(*here, request_id, **variables).code == 2
    replayed = sandbox(*here, "--replay", request_id, **variables)
    assert (replayed.code, replayed.out[:8]) == (0, b"1 events")
    if state == "stopped":
        assert "when" in replayed.out.decode()
        assert sandbox(*here, "--json").json()["queued"][0]["events"] == 1
        served = serve("--data", data)
        served.until("see `sandbox queue`")
    else:
        served.until("see `sandbox queue`", 2)
    assert sandbox("queue", "--replay", "--data", data).out[:8] == b"1 events"


def test_what_is_stuck_is_thrown_away(serve: MakeServe, sandbox: Sandbox) -> None:
    served = serve()
    request_id = stuck(served)
    assert sandbox("queue", "--discard", "nobody's", **at(served)).code == 1
    assert sandbox("queue", "--discard", "--replay", **at(served)).code == 2
    assert sandbox("queue", "--discard", request_id, "--json", **at(served)).json() == {"discarded": 1}
    assert sandbox("queue", **at(served)).out == b"Nothing waits, and nothing is stuck.\n"


def test_a_replay_in_json_is_one_document(serve: MakeServe, sandbox: Sandbox) -> None:
    served = serve()
    stuck(served)
    done = sandbox("queue", "--replay", "--json", **at(served))
    assert (done.code, done.json()["events"]) == (0, 1)


# ── folders and servers that are none ──


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("kind", ["nowhere", "empty", "a file", "nothing"])
def test_a_folder_that_is_none(sandbox: Sandbox, tmp_path: Path, command: tuple[str, ...], kind: str) -> None:
    folder: str | Path = tmp_path / "data"
    if kind == "empty":
        Path(folder).mkdir()
    elif kind == "a file":
        Path(folder).write_text("")
    elif kind == "nothing":
        folder = ""
    refused(sandbox(*command, "--data", folder), "--data", str(folder), "no data folder")
    assert kind != "empty" or list(Path(folder).iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("port", ["9", "x", "99999"])
def test_no_server(sandbox: Sandbox, command: tuple[str, ...], port: str) -> None:
    text = refused(sandbox(*command, AWS_ENDPOINT_URL_LAMBDA=f"http://127.0.0.1:{port}"))
    assert "--data" in text
    assert f"127.0.0.1:{port}" in text


@pytest.mark.parametrize("url", ["localhost:3001", "ftp://127.0.0.1/", "http://", "x", "file:///etc/hostname", "http://[::1"])
def test_an_endpoint_that_is_none(sandbox: Sandbox, url: str) -> None:
    refused(sandbox("report", AWS_ENDPOINT_URL_LAMBDA=url), "no `sandbox serve` answers")


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status.encode(), len(body), body)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00\x01\x02",
        answer(b"<html>"),
        answer(b""),
        answer(b"{}"),
        answer(b"[]"),
        answer(b"null"),
        answer(b'{"data": 1}'),
        answer(b'{"data": "/nowhere/at/all", "version": "1"}'),
        answer(b"{}", "404 Not Found"),
        answer(b"\xff", "500 No"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda said: said.split(b"\r\n")[-1][:20].decode("latin-1") or "nothing",
)
def test_a_server_that_is_not_ours(sandbox: Sandbox, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answers() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

        thread = threading.Thread(target=answers)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            for command in COMMANDS:
                refused(sandbox(*command, AWS_ENDPOINT_URL_LAMBDA=endpoint))
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(20)


@pytest.fixture
def data(serve: MakeServe, tmp_path: Path) -> Path:
    """The folder of a server that has ended: one function was invoked, one event is stuck."""
    served = serve("--data", tmp_path / "data")
    ran(served)
    stuck(served)
    assert served.end() == 0
    return tmp_path / "data"


def test_a_database_that_is_damaged(sandbox: Sandbox, data: Path, tmp_path: Path) -> None:
    for file, command in (("lambda.sqlite3", "report"), (_queue_of(data).name, "queue")):
        for name, damage in (("text", b"no database" * 1000), ("cut", (data / file).read_bytes()[:5000])):
            folder = tmp_path / f"{command}-{name}"
            shutil.copytree(data, folder)
            (folder / file).write_bytes(damage)
            for extra in folder.glob(f"{file}-*"):
                extra.unlink()
            refused(sandbox(command, "--data", folder), str(folder))


def test_a_database_that_is_newer(sandbox: Sandbox, data: Path) -> None:
    for file, command in (("lambda.sqlite3", "report"), (_queue_of(data).name, "queue")):
        database = sqlite3.connect(data / file)
        database.execute("PRAGMA user_version = 99")
        database.close()
        refused(sandbox(command, "--data", data), str(data), "newer", "99")


def _queue_of(data: Path) -> Path:
    [found] = [path for path in data.glob("*.sqlite3") if path.name != "lambda.sqlite3"]
    return found


def test_the_folder_of_a_server_that_was_killed(serve: MakeServe, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its endpoint is still written down, and nobody is asked there."""
    data = tmp_path / "data"
    served = serve("--data", data)
    request_id = ran(served)
    bad = stuck(served)
    assert sandbox("report", "--data", data).code == 0
    endpoint = served.endpoint
    served.process.kill()
    served.process.wait()
    assert endpoint in (data / "in-use").read_text()
    assert sandbox("report", "--json", "--data", data).json()["total"]["requests"] == 2
    assert request_id in sandbox("logs", "f", "--data", data).out.decode()
    assert bad in sandbox("queue", "--data", data).out.decode()
    assert "when" in sandbox("queue", "--replay", "--data", data).out.decode()
    second = serve("--data", data)
    second.until("see `sandbox queue`")


def test_an_endpoint_of_an_earlier_server_is_not_asked(
    serve: MakeServe,
    sandbox: Sandbox,
    data: Path,
    tmp_path: Path,
) -> None:
    """The folder is in use by one that is not served yet; at the port of the last one is somebody else."""
    other = serve("--data", tmp_path / "other")
    theirs = stuck(other, "theirs")
    (data / "in-use").write_text(other.endpoint)
    with (data / "in-use").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shown = sandbox("queue", "--data", data)
        replayed = sandbox("queue", "--replay", theirs, "--data", data)
    assert theirs not in shown.out.decode()
    assert replayed.code != 0
    assert theirs in sandbox("queue", **at(other)).out.decode()


def test_help_names_what_there_is(main: Callable[..., Outcome]) -> None:
    for command, options in (
        ("report", ("--month", "--prices", "--free-tier")),
        ("logs", ("--follow", "--request-id")),
        ("queue", ("--replay",)),
    ):
        done = main(command, "--help")
        text = done.out.decode()
        assert done.code == 0
        for option in ("--data", "--json", *options):
            assert option in text
        assert command in main("--help").out.decode()


def test_wrong_usage(main: Callable[..., Outcome]) -> None:
    for arguments in (("logs",), ("logs", "f", "g"), ("report", "x"), ("queue", "--follow"), ("report", "--month")):
        assert main(*arguments).code == 2
