"""What a package holds, by name, before anything is written: entries, links that are followed on paper, layers that merge."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

from sandbox.core.errors import ConfigError
from sandbox.core.limits import PACKAGE_ENTRIES, PACKAGE_LIMIT

TASK: Final = "/var/task"
OPT: Final = "/opt"
_MOUNTS: Final = (("var", "task"), ("opt",))
_HOPS: Final = 40  # Linux's own limit for links that lead to links
_STEPS: Final = 4096  # of one link's way in all; real ones take a few, and each costs time
NAME_LIMIT: Final = 1024  # bytes of a whole name: shorter than PATH_MAX, and less deep than shutil.rmtree can go


class PackageError(ConfigError):
    """A package that cannot be used. The text names the package, the entry or the limit, and what would be right."""


class PackageTooLarge(PackageError):
    """EN-054: more bytes than a function may have, unzipped."""


class Source(Protocol):
    """Where the bytes of files come from."""

    def copy(self, name: str, fd: int) -> None:
        """Writes a file's bytes to a descriptor. Raises PackageError, OSError."""


class Entry(NamedTuple):
    """A file, folder or link. mode: permission bits, target: where a link leads, both as they are in the package.

    mtime_ns: when a file was last changed; 0 is unknown.
    """

    kind: Literal["file", "folder", "link"]
    mode: int
    size: int
    target: str
    source: Source | None
    mtime_ns: int = 0


@dataclass
class Tree:
    """Entries by their names relative to the root, `a/b/c`; each parent is there, as a folder, and before its children.

    name: of the package, for messages. mount: where a function sees the root. left_out: what a folder held that no package
    can hold, in words.
    """

    name: str
    mount: str
    entries: dict[str, Entry] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.entries.values())

    def add(self, name: str, entry: Entry) -> None:
        """Adds an entry, and the folders above it. Raises PackageError if the name is taken or is no name."""
        parts = check_name(self.name, name)
        name = "/".join(parts)
        check_count(self.name, len(self.entries) + 1)
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            above = self.entries.setdefault(parent, FOLDER)
            if above.kind != "folder":
                raise PackageError(f"{self.name}: {name!r} lies in {parent!r}, which is a {above.kind}")
        before = self.entries.get(name)
        if before is not None and before.kind == "folder" and entry.kind != "folder":
            raise PackageError(f"{self.name}: {name!r} is a {entry.kind}, and other entries lie in it")
        if before is not None and (before.kind, entry.kind) != ("folder", "folder"):
            raise PackageError(f"{self.name}: two entries are named {name!r}")
        self.entries[name] = entry


FOLDER: Final = Entry("folder", 0o755, 0, "", None)


def check_name(package: str, name: str) -> list[str]:
    """The parts of an entry's name. Raises PackageError for a name that leads out of the package or that no file can have."""
    if name.startswith("/"):
        raise PackageError(f"{package}: the entry {name!r} has an absolute name")
    if "\0" in name:
        raise PackageError(f"{package}: the entry {name!r} has a NUL byte in its name")
    if "\\" in name:
        raise PackageError(
            f"{package}: the entry {name!r} has backslashes in its name: the zip was made by a tool that does not write '/'"
        )
    if len(name.encode("utf-8", "surrogateescape")) > NAME_LIMIT:
        raise PackageError(f"{package}: the entry {name[:60]!r}… has a name of more than {NAME_LIMIT:,} bytes")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PackageError(f"{package}: the entry {name!r} has '..' in its name, which leads out of the package")
    if not parts:
        raise PackageError(f"{package}: an entry has the name {name!r}, which is none")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts):
        raise PackageError(f"{package}: the entry {name[:60]!r}… has a name of more than 255 bytes")
    return parts


def check_count(package: str, count: int) -> None:
    """Raises PackageError for more entries than a disk should get."""
    if count > PACKAGE_ENTRIES:
        raise PackageError(f"{package}: it has more than {PACKAGE_ENTRIES:,} entries")


def merge(layers: Iterable[Tree]) -> Tree:
    """EN-053: layers in their order; same-named folders merge, and else the last one wins, whatever was there before.

    A file takes the place of a folder with all that is in it; a folder takes the place of a link, which is not followed.
    """
    merged: dict[str, Entry] = {}
    for layer in layers:
        taken = {n for n, e in layer.entries.items() if e.kind != "folder" and n in merged and merged[n].kind == "folder"}
        if taken:
            merged = {name: entry for name, entry in merged.items() if not taken.intersection(_ways(name))}
        for name, entry in layer.entries.items():
            before = merged.get(name)
            if before is not None and before.kind != "folder" and entry.kind == "folder":
                del merged[name]  # and its place in the order: children come after their parent
            merged[name] = entry
        check_count("the layers", len(merged))
    return Tree("the layers", OPT, merged)


def _ways(name: str) -> Iterator[str]:
    """The name and those of the folders above it."""
    yield name
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def check_size(sizes: Sequence[tuple[str, int]]) -> None:
    """EN-054: code and layers unzipped, together. Raises PackageError."""
    total = sum(size for _, size in sizes)
    if total > PACKAGE_LIMIT:
        told = ", ".join(f"{name} {_mib(size)}" for name, size in sizes)
        raise PackageTooLarge(
            f"the code and its layers take {total:,} bytes unzipped, and {PACKAGE_LIMIT:,} (250 MB) are possible: {told}"
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MB"


class Way(NamedTuple):
    """Where a link leads. end: the parts of an absolute path below /var/task or /opt. plain: as it is written it may stay,
    wherever the trees lie: it is relative, and leaves its tree on no step."""

    end: tuple[str, ...]
    plain: bool


def follow(tree: Tree, name: str) -> Way | None:
    """Follows a link as the kernel would, on paper, through other links of its tree; None if it ends in neither tree."""
    here = [part for part in tree.mount.split("/") if part]
    at = [*here, *name.split("/")[:-1]]
    ahead = deque(_steps(tree.entries[name].target))
    plain = not tree.entries[name].target.startswith("/")
    hops = steps = 0
    while ahead:
        steps += 1
        if steps > _STEPS:
            return None  # what comes after was not looked at: it is not known to stay inside
        step = ahead.popleft()
        if step == "/":
            at.clear()
            plain = False
            continue
        if step == "..":
            del at[-1:]
        else:
            at.append(step)
        inside = at[: len(here)] == here
        plain = plain and inside
        link = tree.entries.get("/".join(at[len(here) :])) if inside else None
        if link is not None and link.kind == "link":
            hops += 1
            if hops > _HOPS:  # a ring: it leads nowhere, on Lambda as here
                return Way((*here, *name.split("/")), plain)
            at.pop()
            ahead.extendleft(reversed(list(_steps(link.target))))
    return Way(tuple(at), plain) if _mount_of(at) is not None else None


def _steps(target: str) -> Iterator[str]:
    if target.startswith("/"):
        yield "/"
    yield from (part for part in target.split("/") if part not in ("", "."))


def _mount_of(path: list[str]) -> tuple[str, ...] | None:
    return next((mount for mount in _MOUNTS if tuple(path[: len(mount)]) == mount), None)


def check_links(tree: Tree) -> None:
    """Raises PackageError for a link that leads out of the function's two trees."""
    for name, entry in tree.entries.items():
        if entry.kind == "link" and follow(tree, name) is None:
            raise PackageError(
                f"{tree.name}: the entry {name!r} is a link to {entry.target!r}, which is neither in {TASK} nor in {OPT}"
            )
