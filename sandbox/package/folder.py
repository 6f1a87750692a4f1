"""Reads a folder as a package. Nothing in it is followed or changed."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from sandbox.package.archive import SPECIAL
from sandbox.package.tree import NAME_LIMIT, Entry, PackageError, Tree, check_count, follow

_BLOCK: Final = 1024 * 1024


class FolderSource:
    """The bytes of a folder's files."""

    def __init__(self, root: str) -> None:
        self._root = root

    def copy(self, name: str, fd: int) -> None:
        """See tree.Source. The kernel copies, and shares the blocks on file systems that can."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe in its place must not be waited for
        source = os.open(f"{self._root}/{name}", flags)
        try:
            about = os.fstat(source)
            if not stat.S_ISREG(about.st_mode):
                raise PackageError(f"{self._root}: {name!r} is no file any more: it was changed while it was read")
            left = about.st_size  # a file that grows is copied as it is now
            if hasattr(os, "copy_file_range"):
                try:
                    while left and (copied := os.copy_file_range(source, fd, left)):
                        left -= copied
                except OSError:  # another file system, or one that cannot: by hand, from where it stopped
                    pass
            while left and (data := os.read(source, min(left, _BLOCK))):
                left -= len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
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
                if len(os.fsencode(name)) > NAME_LIMIT:
                    _not_possible(tree, f"{name[:60]!r}… has a name of more than {NAME_LIMIT:,} bytes", strict)
                    continue
                about = item.stat(follow_symlinks=False)
                mode = stat.S_IMODE(about.st_mode) & 0o777
                if stat.S_ISREG(about.st_mode):
                    entries[name] = Entry("file", mode, about.st_size, "", source, about.st_mtime_ns)
                elif stat.S_ISDIR(about.st_mode):
                    entries[name] = Entry("folder", mode, 0, "", None)
                    folders.append(name)
                elif stat.S_ISLNK(about.st_mode):
                    entries[name] = Entry("link", 0o777, 0, os.readlink(f"{path}/{name}"), None)
                else:
                    kind = SPECIAL.get(stat.S_IFMT(about.st_mode), "special file")
                    _not_possible(tree, f"{name!r} is a {kind}: a package cannot hold it", strict)
        check_count(tree.name, len(entries))
    for name in [name for name, entry in entries.items() if entry.kind == "link" and follow(tree, name) is None]:
        target = entries.pop(name).target
        _not_possible(tree, f"{name!r} is a link to {target!r}, outside the package", strict)
    return tree


def _not_possible(tree: Tree, what: str, strict: bool) -> None:
    if strict:
        raise PackageError(f"{tree.name}: the entry {what}")
    tree.left_out.append(what)


class FolderCheck:
    """The check sum of a folder's names, modes, links and contents."""

    def __init__(self, root: Path, tree: Tree) -> None:
        self._root = root
        self._mount = tree.mount
        self.digest = self._of(tree)

    def _of(self, tree: Tree) -> bytes:
        total = hashlib.sha256()
        for name, entry in sorted(tree.entries.items()):
            about = f"{entry.kind}\0{entry.mode:o}\0{entry.size}\0{name}\0{entry.target}\0"
            total.update(about.encode("utf-8", "surrogateescape"))
            if entry.kind == "file":
                with open(self._root / name, "rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
        return total.digest()

    def again(self) -> None:
        """Raises PackageError if the folder was changed meanwhile."""
        if self._of(read_folder(self._root, self._mount)) != self.digest:
            raise PackageError(f"{self._root}: it was changed while it was read")
