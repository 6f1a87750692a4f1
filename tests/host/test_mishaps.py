"""What must not happen to a host: mistakes of its own, the death of what holds its processes, floods, late endings."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from pathlib import Path

import pytest

from sandbox import ConfigError, Host, ResponseStream
from sandbox.clock import ManualClock
from sandbox.core.limits import RESULT_LOG_LIMIT
from sandbox.core.states import Phase
from sandbox.host import folders
from sandbox.host.environment import Environment
from sandbox.process.launcher import guard
from tests.conftest import MakeFolder, Played, outside
from tests.host.test_lifecycle import COUNTER, error, python, threads_of, until


@pytest.mark.usefixtures("tier")
async def test_closing_the_host_while_an_environment_is_being_made(folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    closing = asyncio.Event()
    open_ = Environment.open

    async def slow(environment: Environment) -> None:
        await open_(environment)
        await closing.wait()

    monkeypatch.setattr(Environment, "open", slow)
    host = Host()
    function = await python(host, folder(app_py=COUNTER))
    invoking = asyncio.ensure_future(function.invoke())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(closing.set)
    await host.close()
    with pytest.raises(ConfigError, match="closed"):
        await invoking
    with pytest.raises(ConfigError, match="closed"):
        await function.invoke()
    with pytest.raises(ConfigError, match="closed"):
        await python(host, folder(app_py=COUNTER))


async def test_closing_the_host_fails_who_waits_for_a_poll(host: Host, folder: MakeFolder) -> None:
    code = folder(app_py=COUNTER)
    function = await python(host, code)
    await function.invoke(wait_for_report=False)
    waiting = [asyncio.ensure_future(function.invoke(wait_for_report=False)) for _ in range(2)]
    stream = asyncio.ensure_future(function.invoke_stream())
    await asyncio.sleep(0)
    await host.close()
    for future in [*waiting, stream]:
        done = (await asyncio.gather(future, return_exceptions=True))[0]
        assert done is not None


async def test_an_environment_that_broke_while_frozen_is_replaced(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER))
    await function.invoke()
    broken = function.environments[0]
    broken.feed(object())  # type: ignore[arg-type]
    assert function.environments == ()
    assert (await function.invoke()).json()["calls"] == 1


async def test_a_mistake_of_ours_ends_that_environment_and_is_told(
    host: Host, folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = await python(host, folder(app_py=COUNTER))
    await function.invoke()
    records = []
    host.journal.subscribe(records.append, ["sandbox.mistake", "sandbox.diagnosis"])
    monkeypatch.setattr(function.environments[0].machine, "_start_invocation", lambda now: 1 / 0)
    result = await function.invoke()
    assert error(result) == ("Sandbox.Failure", "ZeroDivisionError: division by zero")
    assert "_start_invocation" in records[0].record["trace"]
    assert "please report it" in records[1].record
    assert (await function.invoke()).json()["calls"] == 1


@pytest.mark.tiers("process")
async def test_a_function_that_kills_the_parent_of_its_processes_is_served_again(host: Host, folder: MakeFolder) -> None:
    if (why := guard().why_not) is not None:
        pytest.skip(why)
    code = folder(
        app_py="""
import os, time
def handler(event, context):
    if event:
        os.kill(os.getppid(), 9)
        time.sleep(10)
    return os.getpid()
"""
    )
    function = await python(host, code)
    assert error(await function.invoke({"kill": True}))[0] == "Runtime.ExitError"
    first, second = (await function.invoke()).json(), (await function.invoke()).json()
    assert first == second
    assert len(function.environments) == 1


@pytest.mark.tiers("namespace")
async def test_a_function_cannot_harm_the_parent_of_its_processes(host: Host, folder: MakeFolder) -> None:
    code = folder(
        app_py="""
import contextlib, os
def handler(event, context):
    with contextlib.suppress(PermissionError):
        os.kill(os.getppid(), event)
    return [os.getpid(), os.getppid()]
"""
    )
    function = await python(host, code)
    told = [(await function.invoke(number)).json() for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL, 0)]
    assert told == [[told[0][0], 1]] * 4


async def test_a_function_that_stops_the_parent_of_its_processes_is_frozen_all_the_same(host: Host, folder: MakeFolder) -> None:
    if (why := guard().why_not) is not None:
        pytest.skip(why)
    code = folder(
        app_py="""
import contextlib, os, signal, subprocess
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
def handler(event, context):
    with contextlib.suppress(PermissionError):
        os.kill(os.getppid(), signal.SIGSTOP)
    return child.pid
"""
    )
    function = await python(host, code)
    for _ in range(2):
        told = (await function.invoke()).json()
        pid = outside(function.environments[0], told)
        await until(lambda pid=pid: threads_of(pid) == "T")


async def test_a_runtime_that_dies_while_frozen_is_told_of(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER))
    pid = (await function.invoke()).json()["pid"]
    (environment,) = function.environments
    os.kill(outside(environment, pid), 9)
    await until(lambda: environment.machine.phase is Phase.CREATED)
    result = await function.invoke()
    assert result.json()["calls"] == 1
    text = "sandbox: Runtime.ExitError while frozen, between two invokes: Runtime exited with error: signal: killed"
    assert text in result.log


async def test_a_flood_of_empty_lines_fills_no_memory(played: Played) -> None:
    connection = await played.connect()
    job, _ = await played.deliver(connection)
    from sandbox.process.output import Line

    for _ in range(RESULT_LOG_LIMIT // 50):
        played.environment._ledger.line("function", Line(""))
    await connection.ask("POST", f"invocation/{job.request_id}/response", b"1")
    polling = asyncio.ensure_future(connection.ask("GET", "invocation/next"))
    await job.reported
    assert len(job.result.records) <= RESULT_LOG_LIMIT // 100 + 1
    assert "earlier records are left out here" in job.result.log[0]
    polling.cancel()


@pytest.mark.parametrize("size", [10, 6_000_000])
async def test_what_an_exit_had_posted_is_heard_before_its_end(host: Host, folder: MakeFolder, size: int) -> None:
    """A runtime that posts an error and leaves without waiting for the reply: the error counts, not the exit."""
    code = folder(
        app_py="""
import os, socket
def handler(event, context):
    host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
    body = b'{"errorType":"Mine","errorMessage":"' + b"m" * event + b'"}'
    s = socket.create_connection((host, int(port)))
    path = f"/2018-06-01/runtime/invocation/{context.aws_request_id}/error"
    s.sendall(f"POST {path} HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
    os._exit(1)
"""
    )
    function = await python(host, code, memory_mb=256)
    for _ in range(5):
        assert error(await function.invoke(size))[0] == "Mine"


def test_what_a_killed_host_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead, alive = tmp_path / "lambda-sandbox-dead", tmp_path / "lambda-sandbox-alive"
    for where in (dead, alive):
        where.mkdir()
        (where / "lock").touch()
    (tmp_path / "lambda-sandbox-no-lock").mkdir()
    with (alive / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folders._sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lambda-sandbox-alive", "lambda-sandbox-no-lock"]


@pytest.mark.usefixtures("tier")
async def test_folders_that_a_function_made_read_only_are_removed(folder: MakeFolder) -> None:
    code = folder(
        app_py="""
import os
def handler(event, context):
    where = os.environ.get("TMPDIR", "/tmp") + "/a/b"
    os.makedirs(where)
    open(where + "/file", "w").close()
    os.symlink("/etc", where + "/link")
    os.chmod(where, 0o500)
    os.chmod(os.path.dirname(where), 0o500)
    return sorted(os.listdir(where))
"""
    )
    async with Host() as host:
        function = await python(host, code)
        assert (await function.invoke()).json() == ["file", "link"]
        place = function.environments[0]._folder
        assert place is not None
        assert place.is_dir()
    assert not place.exists()


async def test_a_stream_that_no_environment_could_be_had_for_raises() -> None:
    stream = ResponseStream(ManualClock())
    stream.fail(ConfigError("no environment"))
    with pytest.raises(ConfigError, match="no environment"):
        _ = [chunk async for chunk in stream]
