"""Whole packages: a zip is its folder, an environment's copy is its own, and real functions run from them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import posixpath
import shutil
import stat
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import Host
from sandbox.core.errors import ConfigError
from sandbox.host.folders import remove_tree
from sandbox.package import package as package_module
from tests.conftest import ROOT, MakeFolder, Tier, needs_bash
from tests.package.conftest import FILE, FOLDER, Ground, Picture, lay, picture, zip_folder, zip_of

# ── a tree is a tree, whatever it came in ──

NAME = st.text("ab.-é 日\u0301", min_size=1, max_size=6).filter(lambda name: name not in (".", "..", "-"))
CONTENT = st.one_of(st.binary(max_size=40), st.just(b"#!/bin/sh\n" * 3000))
NODE = st.one_of(
    st.tuples(st.just("file"), CONTENT, st.sampled_from([0o644, 0o755, 0o600, 0o700, 0o444, 0o555, 0o666, 0o640])),
    st.tuples(st.just("link"), st.sampled_from(["near", "task", "opt", "nowhere"]), st.integers(0, 50)),
    st.tuples(st.just("folder"), st.none(), st.sampled_from([0o755, 0o700, 0o775])),
)
TREE = st.dictionaries(st.lists(NAME, min_size=1, max_size=3).map("/".join), NODE, min_size=1, max_size=10)


def build(root: Path, nodes: dict[str, tuple[str, Any, int]]) -> None:
    """What is possible of it: a name below a file or a link is passed over."""
    names = sorted(nodes)
    for name in names:
        kind, content, number = nodes[name]
        path = root / name
        if os.path.lexists(path) or any(parent.is_symlink() or parent.is_file() for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
            path.chmod(number)
        elif kind == "file":
            path.write_bytes(content)
            path.chmod(number)
        else:
            to = names[number % len(names)]
            near = posixpath.relpath(to, posixpath.dirname(name) or ".")
            path.symlink_to({"near": near, "task": f"/var/task/{to}", "opt": f"/opt/{to}", "nowhere": "no/where"}[content])


@settings(max_examples=25, deadline=None)
@given(TREE)
@pytest.mark.catalogue("EN-056")
def test_a_zip_of_a_folder_is_the_folder(nodes: dict[str, tuple[str, Any, int]]) -> None:
    """As code and as a layer, however it was zipped; and what is placed is what was there, without write bits."""
    with tempfile.TemporaryDirectory() as where, contextlib.ExitStack() as tidy:
        ground = Ground(Path(where, "ground"))
        tidy.callback(remove_tree, ground.root)  # a plain user's rmtree cannot
        folder = ground.root / "tree"
        folder.mkdir()
        build(folder, nodes)
        before = picture(folder)
        zips = [zip_folder(folder, ground.root / "python.zip")]
        if shutil.which("zip"):
            zips.append(str(ground.root / "zip.zip"))
            subprocess.run(["zip", "-qry", zips[-1], "."], cwd=folder, check=True)
        placed = ground.placed(folder, folder)
        expected = placed_picture(before)
        for seen in (picture(placed.task), picture(placed.opt)):
            assert without_targets(seen) == without_targets(expected)
            if not any(kind == "link" and target.startswith(b"/") for kind, _, target in before.values()):
                assert seen == expected  # what needs no other target keeps its own
        for path in zips:
            others = ground.placed(path, path)
            assert (picture(others.task), picture(others.opt)) == (picture(placed.task), picture(placed.opt))
            assert others.leads_out() == []
        assert picture(folder) == before
        for root in (placed.task, placed.opt):
            assert root.stat().st_mode & 0o777 == 0o555


def placed_picture(before: Picture) -> Picture:
    modes = {"file": 0o444, "folder": 0o555, "link": 0o777}
    return {
        name: (kind, 0o777 if kind == "link" else (mode & 0o555) | modes[kind], data)
        for name, (kind, mode, data) in before.items()
    }


def without_targets(seen: Picture) -> Picture:
    return {name: (kind, mode, b"" if kind == "link" else data) for name, (kind, mode, data) in seen.items()}


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_large_and_empty_files_come_whole(ground: Ground, zipped: bool) -> None:
    source = lay(ground.root / "source", empty=b"", large=os.urandom(3 * 2**20 + 1), zeros=b"\0" * 2**20)
    code = zip_folder(source, ground.root / "code.zip") if zipped else source
    placed = ground.placed(code, code)
    for root in (placed.task, placed.opt):
        assert {path.name: path.read_bytes() for path in root.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}


def test_without_help_of_the_kernel_it_is_copied_by_hand(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one file system to another, or half way through."""
    source = lay(ground.root / "source", large=os.urandom(2**20 + 1), small=b"1")
    copy, calls = os.copy_file_range, itertools.count()

    def half(source: int, target: int, count: int) -> int:
        if next(calls) % 2:
            raise OSError(18, "Invalid cross-device link")
        return copy(source, target, min(count, 1000))

    monkeypatch.setattr(os, "copy_file_range", half)
    placed = ground.placed(source)
    assert (placed.task / "large").read_bytes() == (source / "large").read_bytes()
    assert (placed.task / "small").read_bytes() == b"1"
    monkeypatch.delattr(os, "copy_file_range")  # macOS
    assert (ground.placed(source).task / "large").read_bytes() == (source / "large").read_bytes()


def test_a_code_folder_is_copied_as_it_is_at_that_moment_and_a_zip_as_it_was(ground: Ground) -> None:
    code = lay(ground.root / "code", f=b"old", gone=b"1")
    zipped = Path(zip_folder(code, ground.root / "code.zip"))
    roots = iter(ground.root / f"environment-{number}" for number in range(4))

    def place(package: Any) -> Picture:
        root = next(roots)
        for name in ("task", "opt"):
            (root / name).mkdir(parents=True)
        package.place(root / "task", root / "opt")
        return picture(root / "task")

    with ground.opened(code) as folder, ground.opened(zipped) as archive:
        assert place(folder) == place(archive) == {"f": ("file", 0o444, b"old"), "gone": ("file", 0o444, b"1")}
        (code / "f").write_bytes(b"new")
        (code / "gone").rename(code / "come")
        (code / "out").symlink_to("/etc/passwd")
        zipped.unlink()
        assert place(folder) == {"f": ("file", 0o444, b"new"), "come": ("file", 0o444, b"1")}
        assert place(archive) == {"f": ("file", 0o444, b"old"), "gone": ("file", 0o444, b"1")}


def test_a_file_that_an_editor_takes_away_meanwhile(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editors save by writing another file and renaming it; a code folder is copied while somebody works in it."""
    code = lay(ground.root / "code", **{".f.swp": b"1", "f": b"2"})
    opened = os.open

    def racing(path: Any, *arguments: Any, **settings: Any) -> int:
        if str(path).startswith(str(code)):
            (code / ".f.swp").unlink(missing_ok=True)
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", racing)
    assert picture(ground.placed(code).task) == {"f": ("file", 0o444, b"2")}


@pytest.mark.parametrize("layer", [False, True], ids=["code", "layer"])
def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, layer: bool
) -> None:
    """Between the listing and the copy: the bytes of a file of the host's must not come into the package."""
    folder = lay(ground.root / "folder", f=b"1")
    name = "write" if layer else "write_for_environment"
    write = getattr(package_module, name)

    def swapped(*arguments: Any, **settings: Any) -> None:
        (folder / "f").unlink(missing_ok=True)
        (folder / "f").symlink_to(ground.outside / "secret")
        write(*arguments, **settings)

    monkeypatch.setattr(package_module, name, swapped)
    with pytest.raises((ConfigError, OSError), match="f"):
        ground.placed(*((ground.code, folder) if layer else (folder,)))
    held = [
        data
        for seen in (picture(ground.cache_root), *map(picture, ground.root.glob("environment*")))
        for *_, data in seen.values()
    ]
    assert b"secret" not in held


def test_a_code_folder_that_is_gone_when_it_is_placed_is_named(ground: Ground) -> None:
    code = lay(ground.root / "code", f=b"1")
    (ground.root / "task").mkdir()
    with ground.opened(code) as package:
        shutil.rmtree(code)
        with pytest.raises(ConfigError, match=str(code)):
            package.place(ground.root / "task", ground.root / "opt")


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_files_keep_their_times(ground: Ground, zipped: bool) -> None:
    """A .pyc holds the time of its source in whole seconds."""
    code = lay(ground.root / "code", **{"app.py": b"x = 1\n"})
    then = 1_600_000_000
    os.utime(code / "app.py", (then, then))
    path: str | Path = code
    if zipped:
        path = ground.root / "code.zip"
        with zipfile.ZipFile(path, "w") as made:
            made.write(code / "app.py", "app.py")
    # a zip's time has two seconds, and no zone
    seen = ground.placed(path).task.joinpath("app.py").stat().st_mtime
    assert abs(seen - then) <= (24 * 3600 if zipped else 0)


# ── an environment's copy is its own ──

DESTROY = """
import os, sys

def handler(event, context):
    task, opt = os.environ["LAMBDA_TASK_ROOT"], sys.path[-1]
    for name in event["roots"]:
        root = {"task": task, "opt": os.path.join(os.path.dirname(task), "opt")}[name]
        os.chmod(root, 0o777)
        for folder, folders, files in os.walk(root):
            for name in folders:
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), 0o777)
        for folder, folders, files in os.walk(root, topdown=False):
            for name in files + folders:
                path = os.path.join(folder, name)
                if os.path.isfile(path):  # through links, too
                    os.chmod(path, 0o777)
                    with open(path, "r+b") as file:
                        file.write(b"overwritten")
                        file.truncate()
                    with open(path, "ab") as file:
                        file.write(b", and more")
        for folder, folders, files in os.walk(root, topdown=False):
            for name in files + folders:
                path = os.path.join(folder, name)
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        open(os.path.join(root, "new"), "w").close()
    return [os.listdir(os.path.join(os.path.dirname(task), name)) for name in event["roots"]]
"""


@pytest.mark.tiers("process")  # in tier namespace it cannot: see below
@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("zipped", [False, True], ids=["folders", "zips"])
@pytest.mark.catalogue("EN-050")
async def test_a_function_that_destroys_its_code_and_layers_harms_nobody_else(ground: Ground, zipped: bool) -> None:
    """Not the user's folders, not the zips, not the cache, and not the next environment."""
    code = lay(
        ground.root / "code",
        **{"app.py": DESTROY.encode(), "data/f": b"data", "data/link": "f", "own": "/var/task/data/f", "over": "/opt/lib/g"},
    )
    (code / "data/f").chmod(0o666)
    layer = lay(
        ground.root / "layer", **{"lib/g": b"g", "lib/link": "g", "back": "/var/task/data/f", "bin/tool": b"#!/bin/sh\n"}
    )
    packages: list[str] = [str(code), str(layer)]
    if zipped:
        packages = [zip_folder(Path(path), Path(f"{path}.zip")) for path in packages]
    settings: dict[str, Any] = {"runtime": "python", "handler": "app.handler", "timeout": 20, "layers": (packages[1],)}
    async with Host(cache=ground.cache_root) as host:
        function = await host.deploy(packages[0], **settings)
        before = picture(ground.root)
        assert len(ground.trees()) == (2 if zipped else 1)
        await function.initialise()
        await function.initialise()
        one, two = function.environments
        sound = [picture(place) for place in (Path(two.plan.places.task), Path(two.plan.places.opt))]
        assert [len(seen) for seen in sound] == [5 + 1, 4 + 2]
        result = await function.invoke({"roots": ["task", "opt"]})
        assert result.check().json() == [["new"], ["new"]]
        left = [environment for environment in (one, two) if len(os.listdir(environment.plan.places.task)) > 1]
        assert [[picture(Path(e.plan.places.task)), picture(Path(e.plan.places.opt))] for e in left] == [sound]
        assert picture(ground.root) == before
        again = await host.deploy(packages[0], **settings)
        assert (await again.invoke({"roots": []})).check().json() == []
        assert picture(ground.root) == before
    assert picture(ground.root) == before


@pytest.mark.catalogue("EN-050")
async def test_a_function_cannot_write_into_its_code(host: Host, folder: MakeFolder, tier: Tier) -> None:
    if tier.name != "namespace" and os.getuid() == 0:
        pytest.skip("root may write into its copy all the same")
    app = "import os\ndef handler(event, context):\n    open(os.path.join(os.path.dirname(__file__), event), 'a')\n"
    function = await host.deploy(folder(app_py=app), runtime="python", handler="app.handler")
    read_only = "OSError" if tier.name == "namespace" else "PermissionError"  # EROFS: the folder is shown so to whoever it is
    for name, error_type in (("app.py", "PermissionError"), ("new", read_only)):
        assert (await function.invoke(name)).json()["errorType"] == error_type


# ── real functions ──

RUN = """
import os, subprocess, sys
import helper, common, vendored

def handler(event, context):
    return {
        "helper": helper.NAME,
        "common": common.NAME,
        "vendored": vendored.NAME,
        "tool": subprocess.run(["tool"], capture_output=True, text=True, check=True).stdout,
        "linked": subprocess.run(["linked"], capture_output=True, text=True, check=True).stdout,
        "data": open(os.path.join(os.environ["LAMBDA_TASK_ROOT"], "data", "link")).read(),
        "opt": open("opt-file").read(),
    }
"""


@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("zipped", [True, False], ids=["zips", "folders"])
@pytest.mark.catalogue("EN-053", "EN-055", "EN-056")
async def test_a_python_function_with_layers(ground: Ground, zipped: bool) -> None:
    code = lay(
        ground.root / "code",
        **{
            "app.py": RUN.encode(),
            "vendored.py": b"NAME = 'code'\n",
            "data/file": b"data",
            "data/link": "file",
            "opt-file": "/opt/etc/file",
        },
    )
    low = lay(
        ground.root / "low",
        **{
            "python/helper.py": b"NAME = 'low'\n",
            "python/common/__init__.py": b"from common.name import NAME\n",
            "python/common/name.py": b"NAME = 'low'\n",
            "python/vendored.py": b"NAME = 'low'\n",
            "bin/tool": b"#!/bin/sh\necho low\n",
            "etc": b"a file that becomes a folder",
        },
    )
    high = lay(
        ground.root / "high",
        **{
            "python/common/name.py": b"NAME = 'high'\n",
            "bin/tool": b"#!/bin/sh\necho high\n",
            "bin/linked": "/opt/bin/tool",
            "etc/file": b"etc",
        },
    )
    packages: list[str | Path] = [code, low, high]
    if zipped:
        packages = [zip_folder(Path(path), Path(f"{path}.zip")) for path in packages]
    async with Host(cache=ground.cache_root) as host:
        layers = tuple(str(path) for path in packages[1:])
        function = await host.deploy(packages[0], runtime="python", handler="app.handler", timeout=20, layers=layers)
        assert (await function.invoke()).check().json() == {
            "helper": "low",
            "common": "high",
            "vendored": "code",
            "tool": "high\n",
            "linked": "high\n",
            "data": "data",
            "opt": "etc",
        }


@pytest.mark.usefixtures("tier")
@pytest.mark.catalogue("EN-056", "LC-009")
async def test_a_custom_runtime_in_a_zip_with_a_tool_in_a_layer(ground: Ground) -> None:
    needs_bash()
    shipped = ROOT / "bootstrap" / "bash"
    script = b'handler() { tool "$1"; }\n'
    bootstrap = (shipped / "bootstrap").read_bytes()
    code = zip_of(ground.root / "code.zip", ("bootstrap", bootstrap, stat.S_IFREG | 0o755), ("function.sh", script, FILE))
    tool = b'#!/bin/sh\nprintf \'"%s"\' "$(cat "$(dirname "$0")/../share/text")"\n'
    layer = zip_of(
        ground.root / "layer.zip",
        ("bin/tool", tool, stat.S_IFREG | 0o755),
        ("share/", b"", FOLDER),
        ("share/text", b"hello", FILE),
    )
    async with Host(cache=ground.cache_root) as host:
        function = await host.deploy(code, layers=(layer,), handler="function.handler", timeout=20)
        results = await asyncio.gather(*(function.invoke() for _ in range(2)))
        assert [result.check().json() for result in results] == ["hello", "hello"]
        assert len(function.environments) == 2
        assert len(ground.trees()) == 2


async def test_a_host_refuses_what_a_package_refuses_and_keeps_nothing(ground: Ground) -> None:
    evil = zip_of(ground.root / "evil.zip", ("f", b"1", FILE), ("../evil", b"1", FILE))
    good = zip_of(ground.root / "good.zip", ("f", b"1", FILE))
    async with Host(cache=ground.cache_root) as host:
        for code, layers in ((evil, ()), (str(ground.code), (evil,)), (good, (evil,)), (str(ground.code), (good, evil))):
            with pytest.raises(ConfigError, match=r"evil\.zip: the entry '\.\./evil' has '\.\.' in its name"):
                await host.deploy(code, layers=layers, runtime="python")
    assert ground.trees() == []


async def test_what_a_code_folder_cannot_give_is_told(host: Host, folder: MakeFolder) -> None:
    code = folder(
        app_py="def handler(event, context):\n    import os\n    return sorted(os.listdir(os.path.dirname(__file__)))\n"
    )
    (code / "venv").mkdir()
    (code / "venv/python").symlink_to("/usr/bin/python3")
    function = await host.deploy(code, runtime="python", handler="app.handler", timeout=20)
    [told] = function.package.code.left_out
    assert "'venv/python'" in told
    assert "'/usr/bin/python3'" in told
    assert (await function.invoke()).check().json() == ["app.py", "venv"]
