"""A .zip of a tree: the same bytes for the same tree, and the tree again when it is read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.package.archive import open_zip
from sandbox.package.folder import read_folder
from sandbox.package.pack import pack
from sandbox.package.tree import TASK, PackageError, Tree
from tests.package.conftest import lay

# Whatever a file may be called on Linux but a backslash, which no package can have.
NAMES = st.one_of(
    st.sampled_from(["a", "b", "é", "日本", "a b", ".hidden", "x.py", "%2e", "-", "a:b", "\U0001f600", "C:", "e\u0301"]),
    st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 200)
MODES = st.integers(0o000, 0o777).map(lambda mode: mode | 0o400)  # a mode of 0 means in a zip that it tells none
FILES = st.tuples(st.binary(max_size=40), MODES)
NODES = st.recursive(
    st.one_of(FILES, st.sampled_from(["a", "./a", "b/é", "nowhere"])),  # text: a link in the same folder
    lambda children: st.dictionaries(NAMES, children, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(NAMES, NODES, min_size=1, max_size=5)


def _make(root: Path, nodes: dict[str, object]) -> None:
    root.mkdir()
    for name, node in nodes.items():
        path = root / name
        if isinstance(node, dict):
            _make(path, node)
        elif isinstance(node, str):
            path.symlink_to(node)
        else:
            assert isinstance(node, tuple)
            path.write_bytes(node[0])
            path.chmod(node[1])


def _told(tree: Tree) -> dict[str, object]:
    """All that a function would see of it: kinds, modes, targets and bytes."""
    found: dict[str, object] = {}
    for name, entry in tree.entries.items():
        data = b""
        if entry.source is not None:
            with tempfile.TemporaryFile() as file:
                entry.source.copy(name, file.fileno())
                file.seek(0)
                data = file.read()
        found[name] = (entry.kind, oct(entry.mode), entry.size, entry.target, data)
    return found


def _again(data: bytes, folder: Path) -> dict[str, object]:
    path = folder / "packed.zip"
    path.write_bytes(data)
    with open_zip(path, TASK) as (tree, _):
        return _told(tree)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_what_is_packed_is_read_again_as_it_was(nodes: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder) / "code", nodes)
        tree = read_folder(Path(folder) / "code", TASK, strict=False)
        told = _told(tree)
        if told:  # a folder of nothing but links that lead nowhere in it has none
            assert _again(pack(tree), Path(folder)) == told


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_a_copy_of_the_folder_gives_the_same_bytes(nodes: dict[str, object]) -> None:
    """Neither times, nor the order in which names were made, nor where the folder is."""
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        _make(one, nodes)
        _make(other, dict(reversed(nodes.items())))
        for path in other.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (10**9, 10**9))
        packed = [pack(read_folder(root, TASK, strict=False)) for root in (one, other)]
        assert packed[0] == packed[1]


def test_a_mode_a_link_and_a_name_each_make_other_bytes(tmp_path: Path) -> None:
    def packed() -> bytes:
        return pack(read_folder(tmp_path / "code", TASK))

    code = lay(tmp_path / "code", f=b"text", g=b"text", link="f", empty=None)
    seen = [packed()]
    (code / "f").chmod(0o600)
    seen.append(packed())
    (code / "link").unlink()
    (code / "link").symlink_to("g")
    seen.append(packed())
    (code / "empty").rename(code / "void")
    seen.append(packed())
    assert len(set(seen)) == 4


def test_a_name_that_is_no_utf_8_is_packed_or_refused(tmp_path: Path) -> None:
    """An old archive unpacked in a folder may leave one: no error but those that pack() names."""
    code = lay(tmp_path / "code", f=b"text")
    Path(os.fsdecode(os.fsencode(code) + b"/caf\xe9.txt")).write_bytes(b"x")
    with contextlib.suppress(PackageError):
        assert len(_again(pack(read_folder(code, TASK)), tmp_path)) == 2


def test_where_a_link_leads_may_be_no_utf_8(tmp_path: Path) -> None:
    code = lay(tmp_path / "code", f=b"text")
    os.symlink(b"caf\xe9", os.fsencode(code) + b"/link")
    tree = read_folder(code, TASK)
    assert _again(pack(tree), tmp_path) == _told(tree)


def test_a_big_file_is_packed_whole(tmp_path: Path) -> None:
    code = lay(tmp_path / "code", big=os.urandom(1024) * 5000)
    tree = read_folder(code, TASK)
    assert _again(pack(tree), tmp_path) == _told(tree)
