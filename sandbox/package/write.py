"""Writes a tree into a new, empty folder. No entry lies below a link, so nothing is ever written through one.

Everything can be read by everybody, whatever its mode: a zip made with a strict umask would not run on Lambda, where the code
belongs to another user; `sandbox doctor CODE` tells of that.
"""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.package.tree import OPT, TASK, Entry, PackageError, Tree, follow


def write(tree: Tree, where: Path) -> None:
    """As it is in the package, for the cache. Raises PackageError, OSError."""
    _write(tree, where, {name: entry.target for name, entry in tree.entries.items() if entry.kind == "link"}, frozen=False)


def write_for_environment(tree: Tree, where: Path, places: dict[str, Path] | None, *, moving: bool = False) -> None:
    """For one environment: links to /opt and /var/task lead to where these are here (`places`), and nothing is writable.

    places: None if processes will find them at /opt and /var/task: then every link is right as it is.

    moving: somebody is working in the folder that it is read from: a file that has gone by now (an editor's) is left out.
    Raises PackageError, OSError.
    """
    links = {}
    for name, entry in tree.entries.items():
        if entry.kind == "link":
            way = follow(tree, name)
            if way is None:
                raise PackageError(f"{tree.name}: the entry {name!r} is a link to {entry.target!r}, outside the package")
            links[name] = entry.target if way.plain or places is None else _here(where / name, way.end, places)
    _write(tree, where, links, frozen=True, moving=moving)


def _here(link: Path, end: tuple[str, ...], places: dict[str, Path]) -> str:
    mount = OPT if end[0] == "opt" else TASK
    below = end[len(mount.split("/")) - 1 :]
    return os.path.relpath(places[mount].joinpath(*below), link.parent)


def _write(tree: Tree, where: Path, links: dict[str, str], *, frozen: bool, moving: bool = False) -> None:
    mask = 0o555 if frozen else 0o777
    root = str(where)
    folders: list[tuple[str, Entry]] = []
    for name, entry in tree.entries.items():
        path = f"{root}/{name}"
        if entry.kind == "folder":
            os.mkdir(path, 0o700)
            folders.append((path, entry))
        elif entry.kind == "link":
            os.symlink(links[name], path)
        else:
            try:
                _write_file(path, name, entry, mask)
            except FileNotFoundError:
                if not moving:
                    raise
                os.unlink(path)
    for path, entry in reversed(folders):
        os.chmod(path, (entry.mode | 0o755) & mask)
    os.chmod(root, 0o755 & mask)


def _write_file(path: str, name: str, entry: Entry, mask: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        assert entry.source is not None
        entry.source.copy(name, fd)
        os.fchmod(fd, (entry.mode | 0o444) & mask)
        if entry.mtime_ns:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(fd)
