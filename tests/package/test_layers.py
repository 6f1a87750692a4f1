"""Layers: merged in order, links between the two trees, and what all of it together may take."""

from __future__ import annotations

import os
import socket
from itertools import product
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.core.errors import ConfigError
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import PACKAGE_LIMIT
from sandbox.package.tree import OPT, Entry, PackageError, Tree, merge
from tests.package.conftest import FILE, LINK, Ground, Raw, lay, picture, raw_zip, zip_folder, zip_of

Node = str | bytes | None


def layer(ground: Ground, name: str, zipped: bool, /, **nodes: Node) -> str:
    folder = lay(ground.root / name, **nodes)
    return zip_folder(folder, ground.root / f"{name}.zip") if zipped else str(folder)


def held(root: Path) -> dict[str, bytes]:
    """Files by name, with what is in them; links with where they lead."""
    return {name: data for name, (kind, _, data) in picture(root).items() if kind != "folder"}


@pytest.mark.parametrize("zips", list(product([False, True], repeat=3)), ids=lambda zips: "".join("fz"[z] for z in zips))
@pytest.mark.catalogue("EN-053")
def test_the_last_layer_wins_and_folders_merge(ground: Ground, zips: tuple[bool, ...]) -> None:
    layers = [
        layer(ground, "one", zips[0], **{"same": b"1", "d/same": b"1", "d/one": b"1", "first": b"1"}),
        layer(ground, "two", zips[1], **{"same": b"2", "d/same": b"2", "d/two": b"2", "first": b"2"}),
        layer(ground, "three", zips[2], **{"same": b"3", "d/three": b"3", "e/three": b"3"}),
    ]
    opt = ground.placed(ground.code, *layers).opt
    expected = {"same": b"3", "d/same": b"2", "d/one": b"1", "d/two": b"2", "d/three": b"3", "e/three": b"3", "first": b"2"}
    assert held(opt) == expected
    backwards = ground.placed(ground.code, *reversed(layers)).opt
    assert held(backwards) == expected | {"same": b"1", "d/same": b"1", "first": b"1"}


CLASHES: dict[str, dict[str, Node]] = {
    "file": {"x": b"file"},
    "folder": {"x/inner": b"inner", "x/deep/er": b"er"},
    "link": {"x": "target"},
    "dangling": {"x": "nowhere"},
}


@pytest.mark.parametrize("zipped", [False, True], ids=["folders", "zips"])
@pytest.mark.parametrize(("low", "high"), list(product(CLASHES, repeat=2)))
@pytest.mark.catalogue("EN-053")
def test_clashes(ground: Ground, low: str, high: str, zipped: bool) -> None:
    """Every combination of a file, a folder and a link; what a link leads to is never written to."""
    rest: dict[str, Node] = {"target/inner": b"as it was", "target/deep/er": b"as it was"}
    lower = layer(ground, "low", zipped, **CLASHES[low], **rest)
    higher = layer(ground, "high", zipped, **{name.replace("inner", "upper"): node for name, node in CLASHES[high].items()})
    seen = picture(ground.placed(ground.code, lower, higher).opt)
    below = {name: data for name, (kind, _, data) in seen.items() if name.startswith("x/") and kind == "file"}
    kind = {"dangling": "link"}.get(high, high)
    assert seen["x"][0] == kind
    assert {name: seen[name][2] for name in rest} == dict.fromkeys(rest, b"as it was")
    if high == "folder":
        assert below == {"x/upper": b"inner", "x/deep/er": b"er"} | ({"x/inner": b"inner"} if low == "folder" else {})
    else:
        assert below == {}
        assert seen["x"][2] == {"file": b"file", "link": b"target", "dangling": b"nowhere"}[high]


@pytest.mark.catalogue("EN-053")
def test_what_a_layer_took_away_does_not_come_back(ground: Ground) -> None:
    layers = [
        layer(ground, "one", True, **{"x/a": b"1", "x/y/b": b"1", "xx/c": b"1", "x-": b"1"}),
        layer(ground, "two", False, x=b"2"),
        layer(ground, "three", True, **{"x/y/d": b"3"}),
    ]
    assert held(ground.placed(ground.code, *layers).opt) == {"x/y/d": b"3", "xx/c": b"1", "x-": b"1"}


@pytest.mark.catalogue("EN-053")
def test_a_parent_comes_before_its_children_whatever_was_there(ground: Ground) -> None:
    """A folder that takes the place of something keeps no place in an order in which it could not be written."""
    layers = [
        layer(ground, "one", True, **{"a": b"1", "z/a": b"1"}),
        layer(ground, "two", True, **{"a/b/c": b"2", "z": b"2"}),
        layer(ground, "three", True, **{"a/b": b"3", "z/b/c": b"3"}),
        layer(ground, "four", True, **{"a/b/d": b"4"}),
    ]
    assert held(ground.placed(ground.code, *layers).opt) == {"a/b/d": b"4", "z/b/c": b"3"}


def test_many_clashes_cost_no_more_than_many_files() -> None:
    looked = 0

    class Name(str):
        __slots__ = ()

        def startswith(self, *prefix: object) -> bool:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return str.startswith(self, *prefix)  # type: ignore[arg-type]

    low, high = Tree("low", OPT), Tree("high", OPT)
    for number in range(300):
        low.entries[Name(f"d{number}")] = Entry("folder", 0o755, 0, "", None)
        high.entries[Name(f"d{number}")] = Entry("link", 0o777, 0, "x", None)
    merged = merge([low, high])
    assert {entry.kind for entry in merged.entries.values()} == {"link"}
    assert looked < 300 * 10


# ── exec bits and links ──


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.catalogue("EN-056")
def test_exec_bits_and_no_others(ground: Ground, zipped: bool) -> None:
    path = layer(ground, "tools", zipped, **{"bin/tool": b"#!/bin/sh\nexit 7\n", "bin/data": b"data", "bin/link": "tool"})
    opt = ground.placed(ground.code, path).opt
    assert {name: seen[:2] for name, seen in picture(opt).items()} == {
        "bin": ("folder", 0o555),
        "bin/tool": ("file", 0o555),
        "bin/data": ("file", 0o444),
        "bin/link": ("link", 0o777),
    }
    assert opt.stat().st_mode & 0o777 == 0o555
    assert os.waitstatus_to_exitcode(os.system(str(opt / "bin/link"))) == 7


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.catalogue("EN-056")
def test_absolute_links_and_links_between_the_trees_lead_to_the_copies(ground: Ground, zipped: bool) -> None:
    code = layer(
        ground,
        "code",
        zipped,
        **{
            "own": b"task",
            "d/absolute": "/var/task/own",
            "d/relative": "../own",
            "d/opt": "/opt/own",
            "d/up": "../../../opt/own",
            "d/round": "/opt/../var/./task//own",
            "d/over": "absolute",
            "d/whole": "/opt",
            "d/through": "/opt/link",
        },
    )
    tools = layer(
        ground,
        "tools",
        zipped,
        own=b"opt",
        task="/var/task/own",
        up="../var/task/own",
        absolute="/opt/own",
        link="own",
        root="/var/task",
        **{"d/root": "..", "d/own": "root/own"},
    )
    places = ground.placed(code, tools)
    assert {name: (places.task / "d" / name).read_bytes() for name in os.listdir(places.task / "d") if name != "whole"} == {
        "absolute": b"task",
        "relative": b"task",
        "opt": b"opt",
        "up": b"opt",
        "round": b"task",
        "over": b"task",
        "through": b"opt",
    }
    assert (places.task / "d/whole/own").read_bytes() == b"opt"
    assert {name: (places.opt / name).read_bytes() for name in ("task", "up", "absolute", "link", "root/own", "d/own")} == {
        "task": b"task",
        "up": b"task",
        "absolute": b"opt",
        "link": b"opt",
        "root/own": b"task",
        "d/own": b"opt",
    }
    assert places.leads_out() == []
    assert os.readlink(places.task / "d/relative") == "../own"  # what can stay as it is stays so


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.catalogue("EN-056")
def test_a_link_does_not_lead_out_through_a_link_of_the_other_tree(ground: Ground, zipped: bool) -> None:
    """On paper `d` is five folders deep; on the disk a layer's link has made it the root of a tree."""
    victim = str(ground.outside / "secret")
    deep = "1/2/3/4/5/6/7/8/9/10/11/12"
    code = layer(ground, "code", zipped, f=b"f", d=f"/opt/{deep}/root", evil="d" + "/.." * 13 + victim)
    tools = layer(ground, "tools", zipped, f=b"f", **{f"{deep}/root": "/opt"})
    refusal, places = ground.tried(code, tools)
    assert "'evil'" in refusal if places is None else places.leads_out() == []


def test_links_that_lead_out_only_once_layers_are_merged(ground: Ground) -> None:
    """Each of them is fine alone; the second turns what the first one's link went through."""
    low = layer(ground, "low", True, **{"f": b"1", "a/b/f": b"1", "d": "a/b", "e": "d/../../f"})
    high = layer(ground, "high", True, g=b"1", d="g")
    assert ground.placed(ground.code, low).leads_out() == []
    assert ground.placed(ground.code, high).leads_out() == []
    ground.refuses(str(ground.code), (low, high), "'e'", "'d/../../f'")


def test_a_layer_is_refused_for_what_a_code_folder_leaves_out(ground: Ground) -> None:
    victim = str(ground.outside / "secret")
    nodes: dict[str, Node] = {"f": b"f", "d/evil": victim, "d/up": "../../../x"}
    where = lay(ground.root / "mixed", **nodes)
    os.mkfifo(where / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where / "socket"))
        with ground.opened(where) as package:
            left_out = sorted(package.code.left_out)
        assert len(left_out) == 4
        for words, told in zip(
            [["'d/evil'", victim], ["'d/up'"], ["'pipe'", "named pipe"], ["'socket'"]], left_out, strict=True
        ):
            assert all(word in told for word in words)
        assert held(ground.placed(where).task) == {"f": b"f"}
        for name, words in (("pipe", ["'pipe'", "named pipe"]), ("socket", ["'socket'"]), ("d/evil", ["'d/evil'", victim])):
            ground.refuses(str(ground.code), (str(where),), str(where), *words)
            (where / name).unlink()
    ground.refuses(str(ground.code), (str(where),), "'d/up'")


def test_a_code_folder_without_what_a_link_led_through(ground: Ground) -> None:
    """What leads out by way of a link that is left out is left out too."""
    where = lay(ground.root / "mixed", f=b"f", out=str(ground.outside), through="out/secret", good="f")
    places = ground.placed(where)
    assert held(places.task) == {"f": b"f", "good": b"f"}
    assert places.leads_out() == []


# ── limits ──


@pytest.mark.catalogue("EN-054")
@pytest.mark.tiers("process")  # nothing runs
async def test_a_sixth_layer(ground: Ground, host: Host) -> None:
    layers = tuple(layer(ground, f"layer{number}", bool(number % 2), f=b"%d" % number) for number in range(6))
    with pytest.raises(ConfigError, match=r"6 layers.* at most 5"):
        FunctionConfig(str(ground.code), layers=layers)
    with pytest.raises(ConfigError, match=r"6 layers.* at most 5"):
        await host.deploy(ground.code, layers=layers)
    FunctionConfig(str(ground.code), layers=layers[:5])
    assert held(ground.placed(ground.code, *layers[:5]).opt) == {"f": b"4"}


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.catalogue("EN-054")
def test_code_and_layers_together(ground: Ground, zipped: bool) -> None:
    """Code as a folder is not copied before there is an environment: a hole in a file will do."""
    large = ground.root / "large"
    large.mkdir()
    with open(large / "hole", "wb") as file:
        file.truncate(PACKAGE_LIMIT - 5)
    two, three = (layer(ground, f"layer{size}", zipped, **{f"f{size}": b"x" * size}) for size in (2, 3))
    with ground.opened(large, two, three):
        pass
    one = layer(ground, "layer1", zipped, f1=b"x")
    text = ground.refuses(str(large), (two, three, one), "262,144,001", "262,144,000 (250 MB)", two, three, one)
    assert f"{large} 250.0 MB" in text
    with open(large / "hole", "wb") as file:
        file.truncate(PACKAGE_LIMIT + 1)
    ground.refuses(str(large), (), "262,144,001", str(large))
    if not zipped:
        ground.refuses(str(ground.code), (str(large),), "262,144,005", str(large))


@pytest.mark.catalogue("EN-054")
def test_files_that_another_layer_replaces_count_too(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.package.tree.PACKAGE_LIMIT", 1000)
    layers = [layer(ground, f"layer{number}", True, f=bytes([number]) * 400) for number in range(3)]
    ground.placed(ground.code, *layers[:2])
    ground.refuses(str(ground.code), tuple(layers), "1,204 bytes", "1,000")


@pytest.mark.catalogue("EN-054")
def test_the_same_package_twice_counts_twice(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.package.tree.PACKAGE_LIMIT", 1000)
    path = layer(ground, "half", True, f=b"x" * 501)
    ground.refuses(path, (path,), "1,002 bytes", "1,000")


def test_a_refused_layer_is_named_and_the_good_ones_are_not_kept(ground: Ground) -> None:
    good = layer(ground, "good", True, f=b"1")
    evil = ground.file(raw_zip(Raw(b"f"), Raw(b"evil", b"/etc/passwd", LINK)), "evil.zip")
    broken = ground.file(raw_zip(Raw(b"f"), Raw(b"evil", b"x", crc=1)), "broken.zip")
    code = zip_of(ground.root / "code.zip", ("f", b"code", FILE))
    ground.refuses(code, (good, evil), evil, "'evil'")
    ground.placed(code)  # a broken one is found while it is unpacked: what is whole by then may stay
    ground.refuses(code, (good, broken), broken, "'evil'")
    assert not [name for name in ground.trees() if name.endswith(".part")]


@pytest.mark.parametrize("name", ["nothing", "nothing.zip", ""])
def test_a_package_that_is_not_there(ground: Ground, name: str) -> None:
    path = str(ground.root / name) if name else "/dev/null"
    ground.refuses(path, (), path, "no such" if name else "neither a folder nor a .zip")
    ground.refuses(str(ground.code), (path,), path)


def test_a_layer_that_cannot_be_read_is_named(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(layer(ground, "one", False, f=b"1"))

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path / "f"))

    monkeypatch.setattr("sandbox.package.folder.hashlib.file_digest", denied)
    with pytest.raises(PackageError, match=f"{path}/f: Permission denied"):
        ground.placed(ground.code, path)


def test_a_link_whose_way_is_too_long_to_look_at_is_refused(ground: Ground) -> None:
    """What was not looked at may lead anywhere."""
    ways = {"a/x": b"", "l": "a/../" * 800 + "a", "e": "l/../" * 3 + "../../etc/passwd"}
    ground.refuses(layer(ground, "long", True, **ways), (), "'e'", "neither in")
