"""`sandbox serve`, as a process of its own with stock boto3 in front."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from botocore.exceptions import ClientError

from sandbox.core.limits import Limits
from tests.cli.conftest import APP, COMMAND, ROLE, MakeServe, Outcome, assert_no_traceback_of_ours
from tests.conftest import MakeFolder
from tests.host.test_extensions import PRELUDE

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]


@pytest.fixture
def refused(main: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """It ends at once with exit code 2 and one line, which is returned; no temporary folder is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def run(*arguments: str | Path) -> str:
        done = main("serve", "--port", "0", "--isolation", "process", *arguments)
        assert_no_traceback_of_ours(done.err)
        assert done.code == 2
        assert list(tmp_path.glob("lambda-sandbox-data-*")) == []
        lines = [line for line in done.err.splitlines() if line.startswith("sandbox: ") and "isolation" not in line]
        return lines[-1] if lines else done.err

    return run


# ── it serves ──


def test_it_prints_the_endpoint_and_lines_to_paste(serve: MakeServe, app: Path) -> None:
    served = serve(app, "--region", "eu-west-1")
    [paste] = served.until("export AWS_ENDPOINT_URL_LAMBDA=")
    [keys] = served.until("export AWS_DEFAULT_REGION=")
    variables = dict(part.split("=", 1) for line in (paste, keys) for part in line.split()[1:])
    assert variables["AWS_ENDPOINT_URL_LAMBDA"] == served.endpoint
    [command] = served.until("aws lambda invoke")
    name = command.split()[command.split().index("--function-name") + 1]
    with pytest.MonkeyPatch.context() as patch:
        for key, value in variables.items():
            patch.setenv(key, value)
        with closing(boto3.session.Session().client("lambda")) as client:
            answer = client.invoke(FunctionName=name)
            with closing(answer["Payload"]) as body:
                assert body.read() == b'"VALUE"'
            assert ":eu-west-1:" in client.get_function_configuration(FunctionName=name)["FunctionArn"]
    assert served.end() == 0


def test_one_folder_is_the_function_of_the_emulators_address(serve: MakeServe, app: Path) -> None:
    served = serve(app)
    assert served.call("function") == "VALUE"


def test_several_codes_a_zip_among_them(serve: MakeServe, app: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("app.py", APP.replace("VALUE", "ZIPPED"))
    served = serve(app, tmp_path / "packed.zip")
    assert [served.call(app.name), served.call("packed")] == ["VALUE", "ZIPPED"]
    said = ""
    try:
        served.call("function")  # which of them?
    except ClientError as error:  # a traceback that is kept would keep a connection open
        said = error.response["Error"]["Code"]
    assert said == "ResourceNotFoundException"


def test_functions_are_created_over_the_api(serve: MakeServe) -> None:
    served = serve()
    client = served.client()
    make(client, "mine")
    assert served.call("mine") == "VALUE"
    assert client.list_functions()["Functions"][0]["FunctionName"] == "mine"


def make(client: Any, name: str, app: str = APP, **settings: Any) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("app.py", app)
    code = {"ZipFile": data.getvalue()}
    client.create_function(
        **{"FunctionName": name, "Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": code, **settings}
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})


@pytest.mark.parametrize("address", ["127.0.0.2", "::1", "0.0.0.0", "::"])
def test_another_address(serve: MakeServe, app: Path, address: str) -> None:
    """What is printed to paste works, links work, and functions call back."""
    if ":" in address and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    served = serve(app, "--host", address)
    [paste] = served.until("export AWS_ENDPOINT_URL_LAMBDA=")
    client = served.client(paste.partition("=")[2])
    link = client.get_function(FunctionName=app.name)["Code"]["Location"]
    with urllib.request.urlopen(link, timeout=20) as answer:
        assert zipfile.ZipFile(io.BytesIO(answer.read())).namelist() == ["app.py"]
    event = {"do": "call", "name": app.name, "event": {}}
    answer = client.invoke(FunctionName=app.name, Payload=json.dumps(event))
    with closing(answer["Payload"]) as body:
        assert json.loads(body.read()) == "VALUE"


# ── what is refused at the start ──


def test_a_port_in_use(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        text = refused("--port", port)
    assert port in text
    assert "in use" in text
    assert "--port" in text


@pytest.mark.parametrize(
    "url", ["localhost:5000", "ftp://127.0.0.1", "5000", "", "http://", "http://127.0.0.1:99999", "http://[::1"]
)
def test_a_bad_aws_endpoint(refused: Callable[..., str], url: str) -> None:
    text = refused("--aws-endpoint", url)
    assert "--aws-endpoint" in text


def test_a_profile_that_is_not_there_does_not_matter_or_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_PROFILE is for the real AWS; credentials are dummies here."""
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert "--watch" not in refused("--aws-endpoint", "http://127.0.0.1:9", "/nonexistent")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # far enough that the client was made
        text = refused("--aws-endpoint", "http://127.0.0.1:9", "--port", str(taken.getsockname()[1]))
    assert "in use" in text or "nowhere" in text


def test_watch_without_code(refused: Callable[..., str]) -> None:
    assert "--watch" in refused("--watch")


@pytest.mark.parametrize("code", ["/nonexistent", ""])
def test_code_that_is_not_there(refused: Callable[..., str], code: str) -> None:
    assert "no such folder or .zip" in refused(code)


def test_an_empty_folder_says_what_to_write(refused: Callable[..., str], folder: MakeFolder) -> None:
    text = refused(folder())
    for word in ("bootstrap", "lambda_function.py", "index.mjs", "sandbox.toml", "handler ="):
        assert word in text


def test_a_file_that_is_no_zip(refused: Callable[..., str], app: Path) -> None:
    text = refused(app / "app.py")
    assert "neither a folder nor a .zip" in text
    assert str(app) in text


def test_two_folders_with_one_name(refused: Callable[..., str], tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "same").mkdir(parents=True)
    assert "same" in refused(tmp_path / "one" / "same", tmp_path / "two" / "same")


def test_a_wrong_key_in_the_settings(refused: Callable[..., str], folder: MakeFolder) -> None:
    text = refused(folder(app_py=APP, **{"sandbox.toml": "memroy = 1"}))
    assert "memroy" in text
    assert "memory" in text


# ── --data ──


def test_data_is_there_after_a_restart(serve: MakeServe, tmp_path: Path) -> None:
    first = serve("--data", tmp_path / "data")
    client = first.client()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("python/extra.py", "VALUE = 'layer'")
    layer = client.publish_layer_version(LayerName="l", Content={"ZipFile": data.getvalue()})["LayerVersionArn"]
    make(client, "kept", "def handler(event, context):\n    import extra\n    return extra.VALUE\n", Layers=[layer])
    client.publish_version(FunctionName="kept")
    client.create_alias(FunctionName="kept", Name="live", FunctionVersion="1")
    before = client.get_function_configuration(FunctionName="kept")
    assert first.end(signal.SIGTERM) == 143
    second = serve("--data", tmp_path / "data")
    client = second.client()
    after = client.get_function_configuration(FunctionName="kept")
    for document in (before, after):
        del document["ResponseMetadata"]
    assert after == before
    assert [second.call("kept", Qualifier=q) for q in ("$LATEST", "1", "live")] == ["layer"] * 3
    assert client.list_layers()["Layers"][0]["LatestMatchingVersion"]["LayerVersionArn"] == layer
    assert client.publish_version(FunctionName="kept")["Version"] == "1"


def test_data_of_one_that_was_killed(serve: MakeServe, app: Path, tmp_path: Path) -> None:
    first = serve(app, "--data", tmp_path / "data")
    before = first.client().get_function_configuration(FunctionName=app.name)["RevisionId"]
    first.process.kill()
    first.process.wait()
    second = serve(app, "--data", tmp_path / "data")
    assert second.call(app.name) == "VALUE"
    assert second.client().get_function_configuration(FunctionName=app.name)["RevisionId"] == before


def test_data_in_use(serve: MakeServe, refused: Callable[..., str], tmp_path: Path) -> None:
    serve("--data", tmp_path / "data").until("the Lambda API is at")
    text = refused("--data", tmp_path / "data")
    assert str(tmp_path / "data") in text
    assert "another process" in text


def test_data_of_a_newer_version(refused: Callable[..., str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "blobs").mkdir(parents=True)
    with closing(sqlite3.connect(data / "lambda.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    text = refused("--data", data)
    assert "newer" in text
    assert "99" in text


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only", "no database"])
def test_data_that_cannot_be_used(refused: Callable[..., str], tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "a file":
        data.write_text("")
    elif kind == "below a file":
        data.write_text("")
        data /= "sub"
    elif kind == "read-only":
        data = Path("/proc/self/data")
    else:
        data.mkdir()
        (data / "lambda.sqlite3").write_bytes(b"no database" * 1000)
    assert str(data) in refused("--data", data)


# ── the end ──

EXTENSION = """
register("INVOKE", "SHUTDOWN")
while True:
    event = next()
    if event["eventType"] == "SHUTDOWN":
        say("told", event["eventType"], event["shutdownReason"])
        break
"""
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
register("INVOKE", "SHUTDOWN")
while next()["eventType"] != "SHUTDOWN":
    pass
say("will not go")
while True:
    signal.pause()
"""


def with_extension(folder: MakeFolder, body: str) -> Path:
    layer = folder(**{"extensions/watcher": PRELUDE + body})
    (layer / "extensions" / "watcher").chmod(0o755)
    return folder(app_py=APP, **{"sandbox.toml": f"layers = ['../{layer.name}']"})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_shuts_environments_down_in_order(serve: MakeServe, folder: MakeFolder, number: int, code: int) -> None:
    app = with_extension(folder, EXTENSION)
    served = serve(app)
    assert served.call(app.name) == "VALUE"
    assert served.end(number) == code
    assert [line for line in served.lines if "told" in line] == [f"{app.name} | told SHUTDOWN spindown"]


def test_a_signal_as_soon_as_it_listens_ends_it(serve: MakeServe, app: Path) -> None:
    served = serve(app)
    served.until("the Lambda API is at")
    assert served.end() == 0


def test_a_signal_while_an_invoke_runs(serve: MakeServe, app: Path) -> None:
    served = serve(app)
    client = served.client()
    with ThreadPoolExecutor(1) as thread:
        event = json.dumps({"do": "sleep", "seconds": 1000})
        client.update_function_configuration(FunctionName=app.name, Timeout=900)
        client.get_waiter("function_updated_v2").wait(FunctionName=app.name, WaiterConfig={"Delay": 1})
        waiting = thread.submit(client.invoke, FunctionName=app.name, Payload=event)
        served.until("START RequestId")
        assert served.end() == 0
        assert waiting.exception() is not None or waiting.result()["StatusCode"] == 200


@contextmanager
def _here(*arguments: str | Path) -> Iterator[asyncio.Task[int]]:
    """The command in this process' loop."""
    from sandbox.cli.serve import _serve, command

    with click.Context(command) as context:
        command.parse_args(context, [str(argument) for argument in (*arguments, "--port", "0", "--isolation", "process")])
        options = context.params
    task = asyncio.ensure_future(_serve(options))
    try:
        yield task
    finally:
        task.cancel()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


async def _until(condition: Callable[[], bool], task: asyncio.Task[int]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            if task.done():
                task.result()
            await asyncio.sleep(0.005)


async def test_a_second_ctrl_c_kills(
    folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its extension would not end for an hour."""
    patient = replace(Limits(), shutdown_external=3600.0, runtime_share=0.5)
    monkeypatch.setattr("sandbox.host.host.Limits", lambda: patient)
    app = with_extension(folder, STUBBORN)
    said = ""

    def heard(text: str) -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return text in said

    with _here(app) as task:
        await _until(lambda: heard("aws lambda invoke"), task)
        endpoint = re.findall(r"the Lambda API is at http://(\S+)", said)[0]
        path = f"/2015-03-31/functions/{app.name}/invocations"
        assert (await asyncio.to_thread(_request, endpoint, "POST", path)).status == 200
        os.kill(os.getpid(), signal.SIGINT)
        await _until(lambda: heard("will not go"), task)
        assert not task.done()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(20):
            assert await task == 0


def test_a_broken_stderr_does_not_stop_it(serve: MakeServe, app: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [COMMAND, "serve", str(app), "--port", "0", "--isolation", "process"], stderr=write, stdin=subprocess.DEVNULL
    )
    os.close(write)
    try:
        said = b""
        while b"--function-name" not in said:
            piece = os.read(read, 65536)
            assert piece, said
            said += piece
        os.close(read)
        endpoint = re.findall(rb"the Lambda API is at http://(\S+)", said)[0].decode()
        for _ in range(3):
            event = json.dumps({"do": "print", "lines": ["x" * 1000] * 200}).encode()
            answer = _request(endpoint, "POST", f"/2015-03-31/functions/{app.name}/invocations", event)
            assert (answer.status, answer.body) == (200, b'"VALUE"')
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_cloudwatch_that_never_answers_does_not_hold_up_the_second_ctrl_c(serve: MakeServe, app: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        served = serve(app, "--aws-endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert served.call(app.name) == "VALUE"
        connection, _ = silent.accept()  # the log is on its way
        with connection:
            served.process.send_signal(signal.SIGINT)
            served.until("shutting down")
            served.process.send_signal(signal.SIGINT)
            try:
                served.process.wait(8)
            except subprocess.TimeoutExpired:
                pytest.fail("it waits for CloudWatch")


# ── logs ──


def test_each_line_of_the_log_has_the_functions_name_in_front(serve: MakeServe, folder: MakeFolder) -> None:
    one, other = folder(app_py=APP), folder(app_py=APP)
    served = serve(one, other)
    for code in (one, other):
        served.call(code.name, {"do": "print", "lines": ["first é", "of\ntwo", f"last of {code.name}"]})
    served.until("REPORT", 2)
    for code in (one, other):
        mine = [line.removeprefix(f"{code.name} | ") for line in served.lines if line.startswith(f"{code.name} | ")]
        kinds = [line.split()[0] for line in mine]
        assert kinds == ["INIT_START", "START", "first", "of", "two", "last", "END", "REPORT"]
    assert [line for line in served.lines if "two" in line and " | " not in line] == []


def test_a_log_in_json(serve: MakeServe) -> None:
    served = serve()
    make(served.client(), "f", LoggingConfig={"LogFormat": "JSON"})
    served.call("f", {"do": "print", "lines": ["a line"]})
    served.until("platform.report")
    documents = [json.loads(line.removeprefix("f | ")) for line in served.lines if line.startswith("f | {")]
    assert [one["type"] for one in documents if "type" in one] == ["platform.initStart", "platform.start", "platform.report"]
    served.until("f | a line")


# ── --watch ──


def test_an_edit_is_served_and_a_bad_one_is_not(serve: MakeServe, app: Path) -> None:
    served = serve(app, "--watch")
    assert served.call(app.name) == "VALUE"
    (app / "app.py").write_text(APP.replace("VALUE", "EDITED"))
    served.until("was changed, and is deployed again")
    assert served.call(app.name) == "EDITED"
    (app / "sandbox.toml").write_text("memory = [")
    served.until("still serves")
    assert served.call(app.name) == "EDITED"
    assert served.end() == 0


def test_edits_under_load_lose_no_request(serve: MakeServe, app: Path) -> None:
    served = serve(app, "--watch")
    stop, seen = threading.Event(), []
    client = served.client()

    def load() -> None:
        while not stop.is_set():
            answer = client.invoke(FunctionName=app.name)
            with closing(answer["Payload"]) as body:
                seen.append((answer.get("FunctionError"), json.loads(body.read())))

    with ThreadPoolExecutor(3) as threads:
        loads = [threads.submit(load) for _ in range(3)]
        try:
            for number in (1, 2):
                (app / "app.py").write_text(APP.replace("VALUE", f"EDIT {number}"))
                served.until("was changed, and is deployed again", number)
        finally:
            stop.set()
        for one in loads:
            one.result()
    assert {error for error, _ in seen} == {None}
    assert {"VALUE", "EDIT 1"} <= {value for _, value in seen}
    assert served.call(app.name) == "EDIT 2"


# ── functions call back ──


@pytest.mark.tiers("process", "namespace")
def test_functions_call_the_service_that_runs_them(serve: MakeServe, folder: MakeFolder) -> None:
    one, other = folder(app_py=APP), folder(app_py=APP.replace("VALUE", "OTHER"))
    served = serve(one, other)
    assert served.call(one.name, {"do": "call", "name": other.name, "event": {}}) == "OTHER"


# ── pages of other sites ──


class _Answer:
    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body


def _request(endpoint: str, method: str, path: str, body: bytes = b"{}", **fields: str) -> _Answer:
    with closing(http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=20)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
        answer = connection.getresponse()
        return _Answer(answer.status, answer.read())


def test_a_page_of_another_site_is_refused_and_a_name_let_in(serve: MakeServe, app: Path) -> None:
    served = serve(app, "--allow-host", "Proxy.Example")
    ways = [("POST", f"/2015-03-31/functions/{app.name}/invocations"), ("GET", "/2015-03-31/functions")]
    local = served.endpoint.removeprefix("http://")
    for method, path in ways:
        for fields in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Host": "evil.example"},
            {"Host": "evil.example:3001"},
            {"Host": "proxy.example.evil"},
            {"Host": "proxy.example", "Origin": "http://evil.example"},
        ):
            answer = _request(local, method, path, **fields)
            assert (answer.status, fields) == (403, fields)
            assert b"proxy" in answer.body or b"evil" in answer.body or b"null" in answer.body or b"cross" in answer.body
        for fields in ({}, {"Host": "proxy.example"}, {"Host": "PROXY.EXAMPLE:8080"}, {"Sec_Fetch_Mode": "cors"}):
            assert (_request(local, method, path, **fields).status, fields) == (200, fields)
