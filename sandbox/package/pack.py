"""Makes a .zip of a tree: the same bytes for the same tree, whenever it is made."""

from __future__ import annotations

import os
import tempfile
import zipfile
from typing import Final

from sandbox.package.tree import PackageError, Tree

_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_LINK: Final = 0o120000
_FILE: Final = 0o100000


def pack(tree: Tree) -> bytes:
    """Nothing is compressed: it does not go over a network. Raises PackageError, OSError."""
    for name in tree.entries:
        if "\\" in name or not _is_text(name):
            raise PackageError(f"{tree.name}: the entry {name!r} has a name that a zip cannot hold")
    with tempfile.TemporaryFile() as out:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, entry in sorted(tree.entries.items()):
                info = zipfile.ZipInfo(f"{name}/" if entry.kind == "folder" else name, _DATE)
                kind = {"file": _FILE, "link": _LINK, "folder": 0o040000}[entry.kind]
                info.create_system = 3  # its modes are those of Unix
                info.external_attr = (kind | entry.mode) << 16 | (0x10 if entry.kind == "folder" else 0)
                archive.writestr(info, _content(tree, name))
        out.seek(0)
        return out.read()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def leave_out_odd_names(tree: Tree) -> None:
    """A zip cannot tell them as they are: bytes that are no UTF-8, backslashes. They are named in `left_out`."""
    odd = {name for name in tree.entries if "\\" in name or not _is_text(name)}
    for name in [name for name in tree.entries if any(name == one or name.startswith(f"{one}/") for one in odd)]:
        del tree.entries[name]
    tree.left_out += [f"{name!r} has a name that a package cannot hold" for name in sorted(odd)]


def _content(tree: Tree, name: str) -> bytes:
    entry = tree.entries[name]
    if entry.kind == "folder":
        return b""
    if entry.kind == "link":
        return os.fsencode(entry.target)
    assert entry.source is not None
    with tempfile.TemporaryFile() as file:
        entry.source.copy(name, file.fileno())
        file.seek(0)
        return file.read()
