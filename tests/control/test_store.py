"""What is kept: migrations, one process at a time, restarts, kills, a full disk."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.control.database import migrations
from sandbox.control.rest_json import Request
from sandbox.control.service import Service
from sandbox.control.store import Store
from sandbox.control.tables import FunctionRow, LayerRow, VersionRow
from sandbox.core.errors import ConfigError
from tests.conftest import ROOT, SHORT, no_task_is_left
from tests.control.conftest import APP, ROLE, zip_of
from tests.control.helpers import nothing_settles

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]
SCRIPTS = list(migrations("sandbox.control"))


def schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def number(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


# ── migrations and the folder ──


@pytest.mark.parametrize("done", range(len(SCRIPTS) + 1))
def test_tables_are_brought_up_to_date_from_every_number(tmp_path: Path, done: int) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    Store(fresh).close()
    old.mkdir()
    with closing(sqlite3.connect(old / "lambda.sqlite3")) as database:
        for script in SCRIPTS[:done]:
            database.executescript(script)
        database.execute(f"PRAGMA user_version = {done}")
    Store(old).close()
    assert schema(old / "lambda.sqlite3") == schema(fresh / "lambda.sqlite3")
    assert number(old / "lambda.sqlite3") == len(SCRIPTS)


def test_tables_of_a_newer_version_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "lambda.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="newer lambda-sandbox") as refused:
        Store(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert number(tmp_path / "lambda.sqlite3") == 99


def test_a_folder_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from sandbox.control.store import Store\n"
    code += "store = Store(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read(); store.close()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ConfigError) as refused:
            Store(tmp_path)
        main = "import sys; from sandbox.cli.main import main; sys.exit(main())"
        served = [sys.executable, "-c", main, "serve", "--data", str(tmp_path), "--port", "0"]
        said = subprocess.run(served, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    text = str(refused.value)
    assert str(tmp_path) in text
    assert "another process" in text
    assert "\n" not in text
    assert said.returncode == 2
    assert text in said.stderr
    assert "Traceback" not in said.stderr
    Store(tmp_path).close()  # the other one has let go of it


@pytest.mark.parametrize("what", ["a file", "no database"])
def test_what_is_no_data_folder_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "data"
    if what == "a file":
        folder.write_text("x")
    else:
        folder.mkdir()
        (folder / "lambda.sqlite3").write_text("This is no database, and long enough to be looked at. " * 100)
    with pytest.raises(ConfigError) as refused:
        Store(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_its_user_may_look_into_a_new_folder(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "data").close()
    assert (tmp_path / "a" / "data").stat().st_mode & 0o077 == 0


def test_a_temporary_store_is_removed() -> None:
    store = Store()
    folder = store.blobs.path("x").parent.parent
    store.blobs.put(b"x")
    assert folder.exists()
    store.close()
    assert not folder.exists()


async def test_a_transaction_is_all_or_nothing() -> None:
    store = Store()
    try:

        def work(tables: Any) -> None:
            tables.put_function(FunctionRow("f"))
            raise ValueError("as asked")

        with pytest.raises(ValueError, match="as asked"):
            await store.transact(work)
        assert await store.transact(lambda tables: tables.functions()) == []
    finally:
        store.close()


async def test_blobs_that_nobody_needs_are_removed_at_the_next_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code, layer, own, alone = (store.blobs.put(text) for text in (b"code", b"layer", b"own", b"alone"))
    (tmp_path / "blobs" / "half.part").write_bytes(b"of a host that was killed")

    def work(tables: Any) -> None:
        tables.put_function(FunctionRow("f"))
        tables.put_version(VersionRow("f", "$LATEST", {}, code, [layer]))  # its layer version is deleted: LC-062
        tables.put_layer(LayerRow("l", 1, {}, own))

    await store.transact(work)
    store.close()
    Store(tmp_path).close()
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == {code, layer, own}
    assert alone not in {code, layer, own}


WRITER = """
import asyncio, sys
from pathlib import Path
from sandbox.control.store import Store
from sandbox.control.tables import FunctionRow, VersionRow
store = Store(Path(sys.argv[1]))
def work(tables):
    number = tables.next_number("f")
    tables.put_function(FunctionRow("f"))
    blob = store.blobs.put(b"code %d" % number * 1000)
    tables.put_version(VersionRow("f", str(number), {"n": number}, blob))
    return number
async def main():
    while True:
        print(await store.transact(work), flush=True)
asyncio.run(main())
"""


async def test_a_kill_in_the_middle_of_writes_loses_nothing_that_was_told(tmp_path: Path) -> None:
    told = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            before = told
            while told < before + 20:
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            left = writer.stdout.read().split("\n")[:-1]
            told = int(left[-1]) if left else told
        store = Store(tmp_path)
        try:
            rows = await store.transact(lambda tables: tables.versions("f"))
            assert [row.version for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
            assert told <= len(rows) <= told + 1
            assert all(store.blobs.path(row.code).read_bytes() == b"code %d" % row.configuration["n"] * 1000 for row in rows)
            told = len(rows)
        finally:
            store.close()


# ── the service ──


class Api:
    """Calls a service without HTTP; `status` is that of the last answer."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.status = 0

    async def __call__(self, method: str, path: str, **document: Any) -> Any:
        body = json.dumps(document).encode() if document else b""
        path, _, query = path.partition("?")
        answer = await self.service.handle(Request(method, path, query, {}, body))
        self.status = answer.status
        return json.loads(answer.body) if answer.body else None

    async def create(self, name: str = "f", app: str = APP, **settings: Any) -> Any:
        code = {"ZipFile": base64.b64encode(zip_of(app_py=app)).decode()}
        given = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": code, **settings}
        made = await self("POST", "/2015-03-31/functions", FunctionName=name, **given)
        await self.service.live.settled(name)
        return made


FUNCTION = "/2015-03-31/functions/f"


def service(data: Path, **settings: Any) -> Service:
    return Service(Host(limits=SHORT), data=data, **settings)


@pytest.mark.catalogue("CP-040", "CP-060")
async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    layer = {"Content": {"ZipFile": base64.b64encode(zip_of(x_txt="x")).decode()}}
    reads = [
        FUNCTION,
        f"{FUNCTION}/versions",
        f"{FUNCTION}/aliases",
        f"{FUNCTION}/policy",
        f"{FUNCTION}/configuration?Qualifier=live",
        "/2015-03-31/functions",
        "/2018-10-31/layers",
        "/2018-10-31/layers/l/versions",
        "/2018-10-31/layers/l/versions/2/policy",
        "/2019-09-30/functions/f/concurrency",
        "/2024-08-31/functions/f/recursion-config",
        "/2016-08-19/account-settings",
    ]

    async def everything(api: Api) -> list[Any]:
        found = [await api("GET", path) for path in reads]
        found[0]["Code"].pop("Location")  # a link is good for a while
        return found

    async with service(tmp_path) as first:
        api = Api(first)
        for _ in range(2):
            await api("POST", "/2018-10-31/layers/l/versions", **layer)
        arn = "arn:aws:lambda:us-east-1:123456789012:layer:l:1"
        await api.create(Tags={"a": "b"}, Layers=[arn], Environment={"Variables": {"KEY": "é"}})
        assert (await api("POST", f"{FUNCTION}/versions"))["Version"] == "1"
        await api("PUT", f"{FUNCTION}/configuration", Description="changed")
        await first.live.settled("f")
        assert (await api("POST", f"{FUNCTION}/versions"))["Version"] == "2"
        routing = {"AdditionalVersionWeights": {"2": 0.25}}
        await api("POST", f"{FUNCTION}/aliases", Name="live", FunctionVersion="1", RoutingConfig=routing)
        statement = {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"}
        await api("POST", f"{FUNCTION}/policy", **statement)
        public = {"StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*"}
        await api("POST", "/2018-10-31/layers/l/versions/2/policy", **public)
        await api("PUT", "/2017-10-31/functions/f/concurrency", ReservedConcurrentExecutions=7)
        await api("PUT", "/2024-08-31/functions/f/recursion-config", RecursiveLoop="Allow")
        await api("DELETE", "/2018-10-31/layers/l/versions/1")
        before = await everything(api)
    async with service(tmp_path) as second:
        api = Api(second)
        assert await everything(api) == before
        assert (await api("POST", f"{FUNCTION}/invocations?Qualifier=live", do="env"))["KEY"] == "é"
        assert (await api("POST", "/2018-10-31/layers/l/versions", **layer))["Version"] == 3
        await api("DELETE", FUNCTION)
        await api.create()
        assert (await api("POST", f"{FUNCTION}/versions"))["Version"] == "3"
    no_task_is_left()


async def test_what_was_on_its_way_at_the_end_arrives_after_a_restart(tmp_path: Path) -> None:
    first = service(tmp_path)
    try:
        api = Api(first)
        await api.create("g")
        async with nothing_settles(first):
            code = {"ZipFile": base64.b64encode(zip_of(app_py=APP)).decode()}
            given = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": code}
            assert (await api("POST", "/2015-03-31/functions", FunctionName="f", **given))["State"] == "Pending"
            await api("PUT", "/2015-03-31/functions/g/configuration", MemorySize=256)
            await first.live.close()
    finally:
        await first.close()
    async with service(tmp_path) as second:
        api = Api(second)
        for name in ("f", "g"):
            await second.live.settled(name)
            found = await api("GET", f"/2015-03-31/functions/{name}/configuration")
            assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")
            assert (await api("POST", f"/2015-03-31/functions/{name}/invocations"))["calls"] == 1
    no_task_is_left()


@pytest.mark.catalogue("CP-040", "CP-044")
async def test_a_data_folder_is_of_one_region(tmp_path: Path) -> None:
    """ARNs are kept as they were given out; another region is refused, and nothing is changed by that."""
    async with service(tmp_path) as first:
        await Api(first).create()
    with pytest.raises(ConfigError, match="start with --region us-east-1"):
        async with service(tmp_path, region="eu-west-1"):
            pass
    async with service(tmp_path) as again:
        assert (await Api(again)("GET", f"{FUNCTION}/configuration"))["FunctionName"] == "f"
    no_task_is_left()


@pytest.mark.parametrize("variables", [{"KEY": "é" * 2500}, {"KEY": "a\0b"}], ids=["4 KB", "NUL"])
async def test_nothing_that_was_accepted_prevents_a_start(tmp_path: Path, variables: dict[str, str]) -> None:
    """What no environment can be given is refused, or fails: it must not be kept and then stop the service."""
    async with service(tmp_path) as first:
        api = Api(first)
        made = await api.create(Environment={"Variables": variables})
        if api.status != 201:
            assert api.status == 400, made
            assert (await api("GET", "/2015-03-31/functions"))["Functions"] == []
    async with service(tmp_path) as second:
        api = Api(second)
        await api.create("other")
        assert (await api("POST", "/2015-03-31/functions/other/invocations"))["calls"] == 1
        found = await api("GET", f"{FUNCTION}/configuration")
        assert api.status == 404 or found["State"] in ("Active", "Failed")
    no_task_is_left()


# ── a full disk ──


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process can be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_code_that_does_not_fit_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    async with service(tmp_path, on_trouble=told.append) as served:
        api = Api(served)
        await api.create("small")
        before, blobs = await api("GET", "/2015-03-31/functions"), set(os.listdir(tmp_path / "blobs"))
        sizes = [path.stat().st_size for path in tmp_path.iterdir()]
        big = zip_of(app_py=APP, data=os.urandom(max(sizes) + 300_000))
        code = {"ZipFile": base64.b64encode(big).decode()}
        given = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": code}
        with files_end_at(max(sizes) + 100_000):
            answer = await api("POST", "/2015-03-31/functions", FunctionName="f", **given)
        assert api.status == 500
        assert answer["Type"] == "Service"
        assert "Nothing was changed" in answer["Message"]
        assert await api("GET", "/2015-03-31/functions") == before
        assert set(os.listdir(tmp_path / "blobs")) == blobs
        assert len(told) == 1
        await api("POST", "/2015-03-31/functions", FunctionName="f", **given)
        assert api.status == 201
        await served.live.settled("f")
    no_task_is_left()


async def test_a_row_that_does_not_fit_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    async with service(tmp_path, on_trouble=told.append) as served:
        api = Api(served)
        await api.create()
        before = await api("GET", f"{FUNCTION}/configuration")
        with files_end_at((tmp_path / "lambda.sqlite3-wal").stat().st_size):
            answer = await api("POST", f"{FUNCTION}/versions", Description="x" * 200)
        assert api.status == 500
        assert answer["Type"] == "Service"
        assert "Nothing was changed" in answer["Message"]
        assert await api("GET", f"{FUNCTION}/configuration") == before
        assert told
        assert (await api("POST", f"{FUNCTION}/versions"))["Version"] == "1"
        assert (await api("POST", f"{FUNCTION}/invocations"))["calls"] == 1
    no_task_is_left()


async def test_a_disk_that_is_full_while_a_function_becomes_active_is_told(tmp_path: Path) -> None:
    """Its state cannot be kept; when there is room again, it is not lost for good."""
    told: list[str] = []
    async with service(tmp_path, on_trouble=told.append) as served:
        api = Api(served)
        async with nothing_settles(served):
            code = {"ZipFile": base64.b64encode(zip_of(app_py=APP)).decode()}
            given = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": code}
            await api("POST", "/2015-03-31/functions", FunctionName="f", **given)
            await asyncio.sleep(0)
        with files_end_at(0):
            while not told:
                await asyncio.sleep(0.002)
        assert "function f" in told[0]
        assert "is tried again" in told[0]
        await served.live.settled("f")  # there is room again; its code could perhaps not be unpacked meanwhile
        assert (await api("GET", f"{FUNCTION}/configuration"))["State"] in ("Active", "Failed")
    no_task_is_left()
