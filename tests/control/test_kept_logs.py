"""Logs on disk: a folder for each log group, a file for each environment; and who reads them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from sandbox import Host
from sandbox.control import logs
from sandbox.control.kept_logs import LogFolder, Reader, stream_file
from sandbox.control.logs import LogLine
from sandbox.control.server import Server
from sandbox.control.service import Service
from sandbox.host.host import Function
from tests.conftest import SHORT, MakeFolder, no_task_is_left, request
from tests.control.conftest import ROLE, Caller, zip_of
from tests.control.test_invoke import connected

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

APP = """
import time, os
def handler(event, context):
    for line in event.get("lines", []):
        print(line)
    if "wait" in event:
        open(event["wait"] + ".begun", "w").close()
        while not os.path.exists(event["wait"]):
            time.sleep(0.002)
    return [context.aws_request_id, context.log_group_name, context.log_stream_name]
"""


class Kept:
    """A host whose logs are kept below `folder`, as the service does it."""

    def __init__(self, host: Host, folder: Path, code: Path) -> None:
        self.host, self.folder = host, folder
        self.told: list[str] = []
        self.logs = LogFolder(folder, host.function_of, self.told.append)
        host.journal.subscribe(self.logs)
        self._code = code

    async def function(self, **settings: Any) -> Function:
        return await self.host.deploy(self._code, runtime="python", handler="app.handler", **settings)

    def read(self, name: str = "f", request_id: str | None = None) -> list[dict[str, Any]]:
        """Everything so far."""
        self.logs.deliver_now()
        return Reader(self.folder, name, request_id).read()

    def messages(self, name: str = "f", request_id: str | None = None) -> list[str]:
        return [line["message"] for line in self.read(name, request_id)]

    @property
    def files(self) -> list[Path]:
        self.logs.deliver_now()
        return sorted((self.folder / "logs").glob("*/*"))


@asynccontextmanager
async def kept_in(folder: Path, code: Path) -> AsyncIterator[Kept]:
    async with Host(limits=SHORT) as host:
        made = Kept(host, folder, code)
        try:
            yield made
        finally:
            await made.logs.close()
    no_task_is_left()


@pytest.fixture
async def kept(tmp_path: Path, folder: MakeFolder) -> AsyncIterator[Kept]:
    async with kept_in(tmp_path / "data", folder(app_py=APP)) as made:
        yield made


async def call(function: Function, *lines: str, **event: Any) -> list[str]:
    result = (await function.invoke({"lines": list(lines), **event})).json()
    assert isinstance(result, list), result
    return result


def kinds(messages: list[str]) -> list[str]:
    return [message.split()[0] for message in messages]


WHOLE = ["INIT_START", "START", "one", "two", "END", "REPORT"]

# ── what is where ──


async def test_a_folder_for_the_group_and_a_file_for_the_environment(kept: Kept) -> None:
    function = await kept.function(name="f")
    request_id, group, stream = await call(function, "one", "two")
    while "REPORT" not in str(kept.messages()):
        await kept.host.clock.sleep(0.005)
    assert kinds(kept.messages()) == WHOLE
    [file] = kept.files
    assert (unquote(file.parent.name), unquote(file.stem), group) == (group, stream, "/aws/lambda/f")
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert lines == kept.read()
    assert {(line["function"], line["version"]) for line in lines} == {("f", "$LATEST")}
    assert [line.get("requestId") for line in lines] == [None] + [request_id] * 5
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert all(set(line) - {"requestId"} == {"time", "function", "version", "message"} for line in lines)


async def test_a_log_group_of_its_own(kept: Kept) -> None:
    """Two functions in one group: each has its own lines, the group has all."""
    for name in ("f", "g"):
        function = await kept.function(name=name, custom_log_group="/shared/of-all")
        assert (await call(function, f"of {name}"))[1] == "/shared/of-all"
    await call(await kept.function(name="h"), "of h")
    for name, wanted in (("f", ["of f"]), ("g", ["of g"]), ("/shared/of-all", ["of f", "of g"]), ("/aws/lambda/h", ["of h"])):
        assert [message for message in kept.messages(name) if message.startswith("of ")] == wanted
    assert kept.messages("/shared/of") == kept.messages("/shared") == kept.messages("nobody") == []
    assert len({file.parent for file in kept.files}) == 2


@pytest.mark.parametrize(
    "group",
    ["a/b#c-d_e.f", "/", "#", ".", "..", "../..", "/../../x", "%2F", "x" * 512, "/" * 512, "-"],
    ids=lambda group: group[:12],
)
async def test_groups_with_odd_names_stay_below_the_folder(kept: Kept, tmp_path: Path, group: str) -> None:
    await call(await kept.function(name="f", custom_log_group=group), "one")
    kept.logs.deliver_now()
    outside = [path for path in tmp_path.rglob("*.jsonl") if path.parent.parent != kept.folder / "logs"]
    assert (kept.told, outside) == ([], [])
    assert "one" in kept.messages()
    if group.startswith("/"):
        assert "one" in kept.messages(group)


async def test_lines_are_kept_as_they_were_printed(kept: Kept) -> None:
    lines = ["é 😀 \\u0000", 'a "quoted" \\ line', "tab\tand\x1b[31m colour", '{"json": [1, 2]}', "x" * 100_000, " "]
    await call(await kept.function(name="f"), *lines)
    found = kept.messages()
    assert [line for line in found if line in lines] == lines


async def test_functions_with_logs(kept: Kept) -> None:
    assert Reader(kept.folder, "f").functions == set()
    for name in ("f", "g-h_i"):
        await call(await kept.function(name=name))
    kept.logs.deliver_now()
    assert Reader(kept.folder, "f").functions == {"f", "g-h_i"}


# ── JSON, and levels ──


@pytest.mark.catalogue("TL-104", "TL-105", "TL-107")
@pytest.mark.parametrize(
    ("level", "types"),
    [
        (None, ["initStart", "start", "report"]),
        ("INFO", ["initStart", "start", "report"]),
        ("DEBUG", ["initStart", "initRuntimeDone", "initReport", "start", "runtimeDone", "report"]),
        ("WARN", []),
    ],
)
async def test_system_logs_are_telemetry_events(kept: Kept, level: str | None, types: list[str]) -> None:
    given = {"system_log_level": level} if level else {}
    await call(await kept.function(name="f", log_format="JSON", **given), "a line")
    while types and "platform.report" not in str(kept.messages()):
        await kept.host.clock.sleep(0.005)
    found = kept.messages()
    assert "a line" in found
    events = [json.loads(message) for message in found if message != "a line"]
    assert [event["type"].removeprefix("platform.") for event in events if event["type"] != "platform.extension"] == types
    assert all(set(event) == {"time", "type", "record"} for event in events)
    assert [event["time"] for event in events] == [line["time"] for line in kept.read() if line["message"] != "a line"]


@pytest.mark.catalogue("TL-106", "TL-107", "TL-108")
@pytest.mark.parametrize(
    ("level", "wanted"),
    [(None, ["i", "e", "n", "w", "plain"]), ("TRACE", ["d", "i", "e", "n", "w", "plain"]), ("ERROR", ["e"])],
)
async def test_lines_of_the_application_have_levels(kept: Kept, level: str | None, wanted: list[str]) -> None:
    """They are no JSON within JSON: what is kept is the line."""
    levels = {"d": "DEBUG", "i": "INFO", "e": "error", "n": None, "w": "no level"}
    lines = [json.dumps({"m": name} | ({"level": level_} if level_ else {})) for name, level_ in levels.items()]
    given = {"log_level": level} if level else {}
    await call(await kept.function(name="f", log_format="JSON", **given), *lines, "plain")
    found = [message for message in kept.messages() if '"type":"platform.' not in message.replace(" ", "")]
    assert [line for line in found if line in (*lines, "plain")] == found
    assert [json.loads(line)["m"] if line != "plain" else line for line in found] == wanted


# ── who reads ──


async def test_only_one_request(kept: Kept) -> None:
    function = await kept.function(name="f")
    first, second = [(await call(function, text))[0] for text in ("one", "two")]
    while str(kept.messages()).count("REPORT") < 2:
        await kept.host.clock.sleep(0.005)
    assert kinds(kept.messages(request_id=first)) == ["START", "one", "END", "REPORT"]
    assert kinds(kept.messages(request_id=second)) == ["START", "two", "END", "REPORT"]
    assert kept.messages(request_id="nobody's") == []
    assert kept.messages("g", request_id=first) == []


async def test_two_environments_at_once_come_in_the_order_of_time(kept: Kept, tmp_path: Path) -> None:
    function = await kept.function(name="f", timeout=30)
    files = [str(tmp_path / name) for name in ("one", "two")]
    busy = []
    for number, file in enumerate(files):
        busy.append(asyncio.ensure_future(call(function, f"begins {number}", wait=file)))
        while not Path(f"{file}.begun").exists():
            await kept.host.clock.sleep(0.005)
        await kept.host.clock.sleep(0.005)
    for number, file in reversed(list(enumerate(files))):
        Path(file).touch()
        await busy[number]
        await kept.host.clock.sleep(0.005)
    while str(kept.messages()).count("REPORT") < 2:
        await kept.host.clock.sleep(0.005)
    assert len(kept.files) == 2
    lines = kept.read()
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    ends = [line["requestId"] for line in lines if line["message"].startswith("REPORT")]
    assert ends == [(await busy[1])[0], (await busy[0])[0]]
    begins = [line["message"] for line in lines if line["message"].startswith("begins")]
    assert begins == ["begins 0", "begins 1"]


def line(message: str, at: int = 0, function: str = "f") -> bytes:
    time = f"2026-11-23T00:00:{at:02}.000Z"
    document = {"time": time, "function": function, "version": "$LATEST", "requestId": "r", "message": message}
    return json.dumps(document).encode() + b"\n"


@pytest.fixture
def stream(tmp_path: Path) -> Callable[..., Path]:
    """A file of lines, as somebody wrote it: stream("name", bytes, group="…")."""

    def make(name: str, data: bytes = b"", group: str = "/aws/lambda/f") -> Path:
        path = stream_file(tmp_path / "logs", group, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
        return path

    return make


def said(reader: Reader) -> list[str]:
    return [one["message"] for one in reader.read()]


def test_what_is_new_each_time(stream: Callable[..., Path], tmp_path: Path) -> None:
    reader = Reader(tmp_path, "f", "r")
    assert said(reader) == []
    stream("a", line("one", 1))
    assert (said(reader), said(reader)) == (["one"], [])
    stream("b", line("three", 3))
    stream("a", line("two", 2) + line("four", 4))
    stream("c", line("another's", 3, "g"), group="/aws/lambda/g")
    assert (said(reader), said(reader)) == (["two", "three", "four"], [])
    assert said(Reader(tmp_path, "f")) == ["one", "two", "three", "four"]


def test_a_line_that_is_still_written_comes_when_it_is_whole(stream: Callable[..., Path], tmp_path: Path) -> None:
    reader, whole = Reader(tmp_path, "f"), line("é whole")
    for end in range(1, len(whole)):
        stream("a", whole[end - 1 : end])
        assert said(reader) == []
    stream("a", whole[-1:] + b'{"time"')
    assert (said(reader), said(reader)) == (["é whole"], [])


@pytest.mark.parametrize(
    "damage",
    [
        b"\n",
        b"no JSON\n",
        b"\xff\xfe\x00\n",
        line("x")[:40] + b"\n",
        b"\x00" * 4096 + b"\n",
        b"12\n",
        b"null\n",
        b'"text"\n',
        b"[]\n",
        b"{}\n",
        b'{"function": "f"}\n',
        b'{"time": "2026", "message": "x"}\n',
        b'{"time": null, "function": "f", "message": "x"}\n',
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["f", "/aws/lambda/f"])
def test_a_damaged_line_is_passed_over(stream: Callable[..., Path], tmp_path: Path, damage: bytes, name: str) -> None:
    stream("a", line("before") + damage + line("after", 1))
    assert [message for message in said(Reader(tmp_path, name, "r")) if message != "x"] == ["before", "after"]
    assert {"before", "after"} <= {one.get("message") for one in Reader(tmp_path, name).read()}


def test_other_files_in_the_folder_are_nobodys(stream: Callable[..., Path], tmp_path: Path) -> None:
    path = stream("a", line("one"))
    (path.parent / "notes.txt").write_bytes(line("two"))
    (path.parent / "sub").mkdir()
    (path.parent.parent / "file").write_bytes(line("three"))
    assert said(Reader(tmp_path, "f")) == ["one"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    for folder in (tmp_path, tmp_path / "nowhere"):
        reader = Reader(folder, "f")
        assert (reader.read(), reader.functions) == ([], set())


# ── what goes wrong ──


async def test_a_line_after_one_that_was_cut_off_is_whole(kept: Kept) -> None:
    """A disk that was full took the beginning of a line."""
    whole = LogLine(1.0, "f", "$LATEST", "r", "whole")
    kept.logs.deliver("/aws/lambda/f", "stream", [whole])
    path = stream_file(kept.folder / "logs", "/aws/lambda/f", "stream")
    with path.open("ab") as file:
        file.write(b'{"time":"2026-11-23T00')
    kept.logs.deliver("/aws/lambda/f", "stream", [whole._replace(message="after")])
    assert kept.messages() == ["whole", "after"]


async def test_logs_that_cannot_be_written_are_told_once(kept: Kept, folder: MakeFolder) -> None:
    """Several functions, several environments; functions go on, and so do logs when it is over."""
    (kept.folder / "logs").rmdir()
    (kept.folder / "logs").write_text("in its place")
    functions = [await kept.function(name=name) for name in ("f", "g", "h")]
    for function in functions * 2:
        await call(function, "lost")
        kept.logs.deliver_now()
    assert len(kept.told) == 1, kept.told
    assert "logs" in kept.told[0]
    (kept.folder / "logs").unlink()
    for function in functions:
        await call(function, "kept")
    assert "kept" in kept.messages("g")


async def test_files_that_cannot_be_written_are_told_once(kept: Kept) -> None:
    """Each environment's file has a name of its own; the trouble is one."""
    line = LogLine(1.0, "f", "$LATEST", None, "x")
    for number in range(5):
        stream_file(kept.folder / "logs", "/aws/lambda/f", f"s{number}").mkdir(parents=True)
        kept.logs._lines.append(("/aws/lambda/f", f"s{number}", line))
    kept.logs.deliver_now()
    assert len(kept.told) == 1, kept.told


async def test_too_much_is_told_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BACKLOG", 0)
    function = await kept.function(name="f")
    for count in range(1, 4):
        await call(function, *["x"] * count)
        kept.logs.deliver_now()
    assert len([text for text in kept.told if "dropped" in text]) == 1, kept.told


# ── behind the API ──


@pytest.mark.catalogue("TL-104", "TL-107")
async def test_a_service_with_a_data_folder_keeps_logs(tmp_path: Path) -> None:
    """Over a restart, and of functions that are gone; nothing is asked for."""
    for _ in range(2):
        async with Service(Host(limits=SHORT), data=tmp_path) as service:
            server = Server(service)
            caller = Caller(await server.start(), service)
            code = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": {"ZipFile": zip_of(app_py=APP)}}
            await caller.create_function(FunctionName="f", LoggingConfig={"LogFormat": "JSON"}, **code)
            await caller.active("f")
            assert (await caller.get_function_configuration(FunctionName="f"))["LoggingConfig"] == {
                "LogFormat": "JSON",
                "ApplicationLogLevel": "INFO",
                "SystemLogLevel": "INFO",
                "LogGroup": "/aws/lambda/f",
            }
            await caller.call("f", {"lines": ["a line"]}, LogType="Tail")  # which waits for the report; else it is cut short
            await caller.delete_function(FunctionName="f")
            caller.client.close()
            await server.close()
        no_task_is_left()
    found = Counter(
        json.loads(line["message"])["type"] if line["message"].startswith("{") else line["message"]
        for line in Reader(tmp_path, "f").read()
    )
    assert found == {"platform.initStart": 2, "platform.start": 2, "a line": 2, "platform.report": 2}


async def test_a_service_without_one_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with Service(Host(limits=SHORT)) as service:
        server = Server(service)
        caller = Caller(await server.start(), service)
        await caller.create(app=APP)
        await caller.call("f", {"lines": ["a line"]})
        async with connected(caller) as connection:
            await connection.send(request("GET", "/_sandbox/about"))
            folder = Path((await connection.reply()).json()["data"])
        assert not (folder / "logs").exists()
        caller.client.close()
        await server.close()
    no_task_is_left()
