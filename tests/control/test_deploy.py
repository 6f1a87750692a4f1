"""Folders and .zips that become functions, and again when they change: `sandbox serve CODE …` without the command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.control.deploy import Deployer, function_name, read_code
from sandbox.control.service import Service
from sandbox.core.errors import ConfigError, SandboxError
from sandbox.telemetry.journal import Journal
from tests.conftest import SHORT, MakeFolder, no_task_is_left
from tests.control.conftest import zip_of

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

APP = "def handler(event, context):\n    return {}\n"


def says(what: object) -> str:
    return APP.format(repr(what))


class World:
    """A service without a listener, on a clock that stands still; what a person was told."""

    def __init__(self, service: Service, clock: ManualClock, folder: MakeFolder) -> None:
        self.service, self.clock, self.folder = service, clock, folder
        self.told: list[str] = []

    def deployer(self, *paths: Path) -> Deployer:
        return Deployer(self.service, [read_code(str(path)) for path in paths], self.told.append)

    async def deploy(self, *paths: Path) -> None:
        await self.deployer(*paths).deploy()

    async def refuses(self, path: Path) -> str:
        """Why it is not deployed; any error that is not ours fails the test."""
        with pytest.raises(SandboxError) as caught:
            await self.deploy(path)
        return str(caught.value)

    async def get(self, name: str) -> dict[str, Any]:
        return await self.service.run("GetFunctionConfiguration", {"FunctionName": name})

    async def answer(self, name: str) -> bytes:
        """Of an invoke."""
        from sandbox.control.invoke import Invocation

        begun = self.service.invoker.begin(Invocation(name, "", {}, b"{}"))
        return bytes((await begun.whole()).body)

    @contextlib.asynccontextmanager
    async def watched(self, deployer: Deployer) -> AsyncIterator[Callable[[str], Any]]:
        """Watches; `until(text)` lets time go by until a person was told that."""
        task = asyncio.ensure_future(deployer.watch())

        async def until(text: str) -> None:
            async with asyncio.timeout(20):
                while not any(text in line for line in self.told):
                    if task.done():
                        task.result()
                    self.clock.advance(0.25)
                    await asyncio.sleep(0.002)

        try:
            yield until
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
async def world(folder: MakeFolder) -> AsyncIterator[World]:
    clock = ManualClock()
    async with Service(Host(limits=SHORT, clock=clock, journal=Journal())) as service:
        yield World(service, clock, folder)
    no_task_is_left()


# ── what is found in a folder ──


@pytest.mark.parametrize(
    ("files", "runtime", "handler"),
    [
        ({"lambda_function_py": "def lambda_handler(event, context): pass"}, "python", "lambda_function.lambda_handler"),
        ({"app_py": "import os\ndef handler(event, context): pass"}, "python", "app.handler"),
        ({"main_py": "def other(): pass", "index_py": "def handler(e, c): pass"}, "python", "index.handler"),
        ({"index.mjs": "export const handler = async () => 1"}, "nodejs", "index.handler"),
        ({"index.js": "exports.handler = async () => 1"}, "nodejs", "index.handler"),
        ({"index.js": "module.exports.handler = async () => 1"}, "nodejs", "index.handler"),
        ({"app.mjs": "export const lambdaHandler = async () => 1"}, "nodejs", "app.lambdaHandler"),
        ({"lambda_function.rb": "def lambda_handler(event:, context:)\nend"}, "ruby", "lambda_function.lambda_handler"),
        ({"bootstrap": "#!/bin/sh\n", "app_py": APP}, "provided.al2023", "bootstrap"),
    ],
)
async def test_runtime_and_handler_are_found(
    world: World, files: dict[str, str], runtime: str, handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.service.host, "runtime_id", lambda language: f"{language}-here")
    [code] = [read_code(str(world.folder(**files)))]
    _, tree = code.bytes_and_tree()
    wanted = await world.deployer()._parameters(code, tree)
    assert wanted == {"Runtime": runtime if runtime.startswith("provided") else f"{runtime}-here", "Handler": handler}


async def test_a_folder_is_a_function_and_answers(world: World) -> None:
    code = world.folder(app_py=says("there"))
    await world.deploy(code)
    assert await world.answer(code.name) == b'"there"'
    assert (await world.get(code.name))["State"] == "Active"


async def test_a_zip_is_a_function_and_answers(world: World, tmp_path: Path) -> None:
    path = tmp_path / "my fn.v2.zip"
    path.write_bytes(zip_of(app_py=says("zipped")))
    await world.deploy(path)
    assert await world.answer("my-fn-v2") == b'"zipped"'


async def test_a_handler_behind_a_link_is_found(world: World) -> None:
    """Monorepos link the entry point into place."""
    code = world.folder(**{"src/main_py": says(1)})
    (code / "app.py").symlink_to("src/main.py")
    await world.deploy(code)
    assert (await world.get(code.name))["Handler"] == "app.handler"


@pytest.mark.parametrize("files", [{}, {"notes.txt": "no code"}, {"app_py": "def other(): pass"}])
async def test_where_nothing_is_found_it_says_what_to_write(world: World, files: dict[str, str]) -> None:
    text = await world.refuses(world.folder(**files))
    for word in ("bootstrap", "lambda_function.py", "index.mjs", "sandbox.toml", 'runtime = "', 'handler = "'):
        assert word in text


@pytest.mark.parametrize(
    ("text", "name"),
    [("my fn", "my-fn"), ("a.b.zip", "a-b"), ("ünï", "n"), ("---", "function"), ("x" * 80, "x" * 64)],
)
def test_the_name_is_that_of_the_folder(tmp_path: Path, text: str, name: str) -> None:
    assert function_name(tmp_path / text) == name


def test_two_with_one_name_are_refused(world: World, tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "same").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"same.*sandbox\.toml"):
        world.deployer(tmp_path / "one" / "same", tmp_path / "two" / "same")


async def test_what_no_package_can_hold_is_left_out_and_told(world: World) -> None:
    code = world.folder(app_py=says(1))
    (code / "out").symlink_to("/etc/hostname")
    (code / "away").symlink_to("/etc/passwd")
    await world.deploy(code)
    [line] = world.told
    for word in ("left out", "1 more", code.name):
        assert word in line


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"a\\b.txt"], ids=["no UTF-8", "backslash"])
async def test_an_odd_file_name_does_not_end_everything(world: World, name: bytes) -> None:
    """Deployed, or left out and told, or refused with the name: never an error of ours."""
    code = world.folder(app_py=says(1))
    os.mknod(bytes(code) + b"/" + name)
    with contextlib.suppress(ConfigError):
        await world.deploy(code)


# ── sandbox.toml ──

EVERY_KEY = """
name = "mine"
runtime = "python"
handler = "sub/mod.go"
description = "é"
memory = 512
timeout = 7
tmp-size = 1024
layers = ["../LAYER"]
[environment]
TEXT = "a=b"
NUMBER = 3
"""


async def test_every_key(world: World) -> None:
    layer = world.folder(**{"python/extra.py": "VALUE = 'from the layer'"})
    app = "import os, extra\ndef go(event, context): return [extra.VALUE, os.environ['TEXT'], os.environ['NUMBER']]"
    code = world.folder(**{"sub/mod_py": app, "sandbox.toml": EVERY_KEY.replace("LAYER", layer.name)})
    await world.deploy(code)
    document = await world.get("mine")
    assert document["Runtime"].startswith("python3.")
    assert document["Environment"] == {"Variables": {"TEXT": "a=b", "NUMBER": "3"}}
    assert document["EphemeralStorage"] == {"Size": 1024}
    keys = ("Handler", "Description", "MemorySize", "Timeout")
    assert [document[key] for key in keys] == ["sub/mod.go", "é", 512, 7]
    [used] = document["Layers"]
    assert f":layer:mine-{layer.name}:1" in used["Arn"]
    assert await world.answer("mine") == b'["from the layer", "a=b", "3"]'


async def test_the_settings_are_no_part_of_the_code(world: World) -> None:
    plain = world.folder(app_py=says(1))
    told = world.folder(app_py=says(1), **{"sandbox.toml": "memory = 256"})
    await world.deploy(plain, told)
    assert (await world.get(plain.name))["CodeSha256"] == (await world.get(told.name))["CodeSha256"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memroy = 1", "memroy"),
        ("memory = '256'", "memory"),
        ("memory = true", "memory"),
        ("timeout = 3.5", "timeout"),
        ("environment = 'A=b'", "environment"),
        ("layers = 'one'", "layers"),
        ("layers = [1]", "layers"),
        ("name = 3", "name"),
        ("name = ''", "name"),
        ("name = 'bad name'", "name"),
        ("name = 'arn:aws:lambda:us-east-1:123456789012:function:x'", "name"),
        ("[environment]\nAA = ['list']", "AA"),
        ("[environment.AA]\nB = 'table'", "AA"),
        ("[environment]\nAWS_REGION = 'eu-west-1'", "AWS_REGION"),
        ("[environment]\n'1-bad' = 'x'", "1-bad"),
        ("memory = 1", "memory"),
        ("timeout = 0", "timeout"),
        ("timeout = 901", "timeout"),
        ("tmp-size = 511", "ephemeral"),
        (f"description = '{'x' * 257}'", "description"),
        (f"handler = '{'x' * 129}'", "handler"),
        ("handler = 'with space.go'", "handler"),
        ("runtime = 'cobol'", "cobol"),
        ("runtime = ''", "runtime"),
        ("layers = ['nowhere']", "nowhere"),
        ("layers = ['arn:aws:lambda:us-east-1:123456789012:layer:none:1']", "layer"),
        ("memory =", "sandbox.toml"),
        ("memory = 1\nmemory = 2", "sandbox.toml"),
    ],
)
async def test_wrong_settings_are_named_and_refused(world: World, text: str, words: str) -> None:
    code = world.folder(app_py=says(1), **{"sandbox.toml": text})
    with pytest.raises(SandboxError) as caught:
        await world.deploy(code)
    assert words.lower() in str(caught.value).replace(str(code), "").lower() or words in str(caught.value)
    assert (await world.service.run("ListFunctions", {}))["Functions"] == []


async def test_settings_that_were_refused_do_not_spoil_the_data_folder(folder: MakeFolder, tmp_path: Path) -> None:
    code = folder(app_py=says("fine"), **{"sandbox.toml": "[environment]\nA = 'one letter is too short'"})
    for text in (None, "[environment]\nAA = 'enough'"):
        if text is not None:
            (code / "sandbox.toml").write_text(text)
        async with Service(Host(limits=SHORT), data=tmp_path / "data") as service:
            with contextlib.nullcontext() if text is not None else pytest.raises(ConfigError):
                await Deployer(service, [read_code(str(code))], print).deploy()
    no_task_is_left()


@pytest.mark.parametrize("data", [b"name = '\xff'", b"\xef\xbb\xbfmemory = 1 1"])
def test_settings_that_cannot_be_read_are_an_error_with_their_place(folder: MakeFolder, data: bytes) -> None:
    code = folder(app_py=APP)
    (code / "sandbox.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"sandbox\.toml"):
        read_code(str(code))


async def test_truth_in_the_environment_is_written_as_in_toml(world: World) -> None:
    code = world.folder(app_py=says(1), **{"sandbox.toml": "[environment]\nDEBUG = true"})
    await world.deploy(code)
    assert (await world.get(code.name))["Environment"]["Variables"] == {"DEBUG": "true"}


async def test_a_runtime_without_a_handler_gets_the_one_that_is_there(world: World) -> None:
    code = world.folder(app_py=says("found"), **{"sandbox.toml": "runtime = 'python'"})
    await world.deploy(code)
    assert (await world.get(code.name))["Handler"] == "app.handler"


async def test_a_handler_without_a_runtime_gets_the_language_of_its_file(world: World) -> None:
    code = world.folder(**{"mine_py": "def go(event, context): return 1", "sandbox.toml": "handler = 'mine.go'"})
    text = ""
    with contextlib.suppress(ConfigError):
        await world.deploy(code)
        text = (await world.get(code.name))["Runtime"]
    if not text:  # refused: then the words tell what is missing
        assert 'runtime = "' in await world.refuses(code)
    else:
        assert text.startswith("python")


# ── unchanged, changed ──


async def test_what_is_unchanged_is_not_updated(world: World) -> None:
    layer = world.folder(**{"python/extra.py": "VALUE = 1"})
    code = world.folder(
        app_py=says(1), **{"sandbox.toml": f"memory = 256\nlayers = ['../{layer.name}']\n[environment]\nAA = 'b'"}
    )
    await world.deploy(code)
    before = await world.get(code.name)
    (code / "app.py").touch()
    await world.deploy(code)
    assert await world.get(code.name) == before


async def test_without_settings_nothing_that_was_set_over_the_api_is_lost(world: World) -> None:
    code = world.folder(app_py=says(1))
    await world.deploy(code)
    await world.service.run("UpdateFunctionConfiguration", {"FunctionName": code.name, "MemorySize": 700})
    await world.service.live.settled(code.name)
    before = await world.get(code.name)
    await world.deploy(code)
    assert await world.get(code.name) == before


async def test_only_settings_changed_keeps_the_code(world: World) -> None:
    code = world.folder(app_py=says(1), **{"sandbox.toml": "memory = 256\n[environment]\nAA = 'b'"})
    await world.deploy(code)
    before = await world.get(code.name)
    (code / "sandbox.toml").write_text("memory = 512")
    await world.deploy(code)
    after = await world.get(code.name)
    assert after["CodeSha256"] == before["CodeSha256"]
    assert (after["MemorySize"], after.get("Environment", {"Variables": {}})) == (512, {"Variables": {}})
    assert after["RevisionId"] != before["RevisionId"]


async def test_a_setting_that_is_taken_away_is_the_default_again(world: World) -> None:
    """As an environment that is taken away is gone; what a restart without --data would give."""
    text = "description = 'x'\nmemory = 512\ntimeout = 9\ntmp-size = 600\n[environment]\nAA = 'b'"
    code = world.folder(app_py=says(1), **{"sandbox.toml": text})
    await world.deploy(code)
    (code / "sandbox.toml").write_text("handler = 'app.handler'\nruntime = 'python'")
    await world.deploy(code)
    document = await world.get(code.name)
    found = [document[key] for key in ("Description", "MemorySize", "Timeout")]
    assert [*found, document["EphemeralStorage"]["Size"]] == ["", 128, 3, 512]


async def test_two_layers_whose_folders_have_one_name(world: World, tmp_path: Path) -> None:
    """Each stays what it is: deployed again unchanged, neither is published again."""
    for parent in ("one", "two"):
        where = tmp_path / parent / "deps"
        where.mkdir(parents=True)
        (where / f"{parent}.txt").write_text(parent)
    text = f"layers = ['{tmp_path}/one/deps', '{tmp_path}/two/deps']"
    app = "import os\ndef handler(event, context): return sorted(os.listdir('/opt')) if 0 else 1"
    code = world.folder(app_py=app, **{"sandbox.toml": text})
    await world.deploy(code)
    before = await world.get(code.name)
    await world.deploy(code)
    assert await world.get(code.name) == before


# ── --watch ──


async def test_an_edit_is_deployed_when_it_has_settled(world: World) -> None:
    code = world.folder(app_py=says("before"))
    deployer = world.deployer(code)
    await deployer.deploy()
    assert await world.answer(code.name) == b'"before"'
    async with world.watched(deployer) as until:
        await asyncio.to_thread(lambda: None)  # its first look is a thread's
        for _ in range(3):
            await asyncio.sleep(0.01)
        (code / "app.py").write_text(says("after, and longer"))
        await until(f"{code.name} was changed")
    assert await world.answer(code.name) == b'"after, and longer"'


async def test_an_edit_while_others_are_still_deployed_is_seen(world: World) -> None:
    """Between the moment a folder was read and the first look of the watch."""
    code = world.folder(app_py=says("before"))
    deployer = world.deployer(code)
    await deployer.deploy()
    (code / "app.py").write_text(says("after, and longer"))
    async with world.watched(deployer) as until:
        try:
            async with asyncio.timeout(3):  # twice six seconds of its clock would do
                await until(f"{code.name} was changed")
        except TimeoutError:
            pytest.fail("an edit before the first look is never deployed")


@pytest.mark.parametrize(
    "text",
    ["memory = 'x'", "memory = 1", "layers = ['nowhere']", "layers = [1]", "name = 'other'", "runtime = 'java21'", "[["],
)
async def test_an_edit_that_breaks_leaves_the_one_before(world: World, text: str) -> None:
    """Its new code is not served either; and the next edit is deployed."""
    code = world.folder(app_py=says("before"), **{"sandbox.toml": "memory = 256"})
    deployer = world.deployer(code)
    await deployer.deploy()
    async with world.watched(deployer) as until:
        for _ in range(5):
            await asyncio.sleep(0.01)
        (code / "sandbox.toml").write_text(text)
        (code / "app.py").write_text(says("broken with it"))
        await until("still serves")
        assert await world.answer(code.name) == b'"before"'
        assert (await world.get(code.name))["MemorySize"] == 256
        (code / "sandbox.toml").write_text("memory = 300")
        await until(f"{code.name} was changed")
    assert await world.answer(code.name) == b'"broken with it"'


async def test_a_runtime_that_is_not_here_does_not_end_the_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runtime = "ruby"` on a machine without Ruby."""
    from sandbox.host.interpreters import Interpreters

    code = world.folder(app_py=says("before"))
    deployer = world.deployer(code)
    await deployer.deploy()
    find = Interpreters.find

    def none(interpreters: Interpreters, runtime: str | None) -> Any:
        from sandbox.core.errors import Unsupported

        if runtime is not None and runtime.startswith("ruby"):
            raise Unsupported("no Ruby here")
        return find(interpreters, runtime)

    monkeypatch.setattr(Interpreters, "find", none)
    async with world.watched(deployer) as until:
        for _ in range(5):
            await asyncio.sleep(0.01)
        (code / "sandbox.toml").write_text("runtime = 'ruby'\nhandler = 'app.handler'")
        await until("no Ruby here")
    assert await world.answer(code.name) == b'"before"'


async def test_a_full_disk_does_not_end_the_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    code = world.folder(app_py=says("before"))
    deployer = world.deployer(code)
    await deployer.deploy()
    async with world.watched(deployer) as until:
        for _ in range(5):
            await asyncio.sleep(0.01)

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(world.service._store, "_transact", full)
            (code / "app.py").write_text(says("after, and longer"))
            await until("disk is full")
        assert await world.answer(code.name) == b'"before"'


async def test_a_folder_that_goes_and_comes_back_is_deployed_again(world: World, tmp_path: Path) -> None:
    code = world.folder(app_py=says("before"))
    deployer = world.deployer(code)
    await deployer.deploy()
    async with world.watched(deployer) as until:
        for _ in range(5):
            await asyncio.sleep(0.01)
        code.rename(tmp_path / "aside")
        await until("still serves")
        assert await world.answer(code.name) == b'"before"'
        (tmp_path / "aside" / "app.py").write_text(says("back again"))
        (tmp_path / "aside").rename(code)
        await until(f"{code.name} was changed")
    assert await world.answer(code.name) == b'"back again"'


async def test_a_zip_that_is_replaced_is_deployed_again(world: World, tmp_path: Path) -> None:
    path, fresh = tmp_path / "f.zip", tmp_path / "fresh"
    path.write_bytes(zip_of(app_py=says("before")))
    deployer = world.deployer(path)
    await deployer.deploy()
    async with world.watched(deployer) as until:
        for _ in range(5):
            await asyncio.sleep(0.01)
        path.write_bytes(b"half of a zip")
        await until("still serves")
        fresh.write_bytes(zip_of(app_py=says("after it")))
        fresh.rename(path)
        await until("f was changed")
    assert await world.answer("f") == b'"after it"'


async def test_a_layer_that_changes_is_deployed_again(world: World) -> None:
    layer = world.folder(**{"python/extra.py": "VALUE = 'before'"})
    app = "import extra\ndef handler(event, context): return extra.VALUE"
    code = world.folder(app_py=app, **{"sandbox.toml": f"layers = ['../{layer.name}']"})
    deployer = world.deployer(code)
    await deployer.deploy()
    assert await world.answer(code.name) == b'"before"'
    async with world.watched(deployer) as until:
        for _ in range(5):
            await asyncio.sleep(0.01)
        (layer / "python" / "extra.py").write_text("VALUE = 'after it'")
        await until(f"{code.name} was changed")
    assert await world.answer(code.name) == b'"after it"'
