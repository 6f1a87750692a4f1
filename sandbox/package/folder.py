"""Reads a folder as a package. Nothing in it is followed or changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from sandbox.package.archive import SPECIAL
from sandbox.package.tree import Entry, PackageError, Tree, follow

_BLOCK: Final = 1024 * 1024


class FolderSource:
    """The bytes of a folder's files."""

    def __init__(self, root: str) -> None:
        self._root = root

    def copy(self, name: str, fd: int) -> None:
        """See tree.Source. The kernel copies, and shares the blocks on file systems that can."""
        source = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if hasattr(os, "copy_file_range"):
                try:
                    while os.copy_file_range(source, fd, 1 << 30):
                        pass
                    return
                except OSError:  # another file system, or one that cannot: by hand, from where it stopped
                    pass
            with open(source, "rb", closefd=False) as read, open(fd, "wb", closefd=False) as write:
                shutil.copyfileobj(read, write, _BLOCK)
        finally:
            os.close(source)


def read_folder(path: Path, mount: str, *, strict: bool = True) -> Tree:
    """The tree in a folder. strict: what no package can hold (a pipe, a link that leads out) is refused; else it is left
    out and named in `left_out`: a working folder may hold such things (.venv/bin/python). Raises PackageError, OSError."""
    tree = Tree(str(path), mount)
    source = FolderSource(str(path))
    entries = tree.entries
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(f"{path}/{folder}" if folder else path) as found:
            for item in sorted(found, key=lambda item: item.name):
                name = f"{folder}/{item.name}" if folder else item.name
                about = item.stat(follow_symlinks=False)
                mode = stat.S_IMODE(about.st_mode) & 0o777
                if stat.S_ISREG(about.st_mode):
                    entries[name] = Entry("file", mode, about.st_size, "", source)
                elif stat.S_ISDIR(about.st_mode):
                    entries[name] = Entry("folder", mode, 0, "", None)
                    folders.append(name)
                elif stat.S_ISLNK(about.st_mode):
                    entries[name] = Entry("link", 0o777, 0, os.readlink(f"{path}/{name}"), None)
                else:
                    kind = SPECIAL.get(stat.S_IFMT(about.st_mode), "special file")
                    _not_possible(tree, f"{name!r} is a {kind}: a package cannot hold it", strict)
    for name in [name for name, entry in entries.items() if entry.kind == "link" and follow(tree, name) is None]:
        target = entries.pop(name).target
        _not_possible(tree, f"{name!r} is a link to {target!r}, outside the package", strict)
    return tree


def _not_possible(tree: Tree, what: str, strict: bool) -> None:
    if strict:
        raise PackageError(f"{tree.name}: the entry {what}")
    tree.left_out.append(what)


def digest(tree: Tree, root: Path) -> str:
    """A check sum of a folder's names, modes, links and contents."""
    total = hashlib.sha256()
    for name, entry in sorted(tree.entries.items()):
        total.update(f"{entry.kind}\0{entry.mode:o}\0{entry.size}\0{name}\0{entry.target}\0".encode("utf-8", "surrogateescape"))
        if entry.kind == "file":
            total.update(file_digest(root / name))
    return total.hexdigest()


def file_digest(path: Path) -> bytes:
    """The check sum of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
