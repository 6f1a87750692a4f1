"""What the tests of packages share: zips written byte by byte, pictures of trees, and a ground that refusals must not touch."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package
from sandbox.package.tree import PackageError

FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
UNIX = 3
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")

Picture = dict[str, tuple[str, int, bytes]]


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@dataclass
class Raw:
    """One entry of a zip. What is None is as it should be; `local` overrides what the header before the data says."""

    name: bytes
    data: bytes = b""
    mode: int = FILE
    method: int = STORED
    flags: int = 0
    system: int = UNIX
    version: int = 20
    packed: bytes | None = None
    packed_size: int | None = None
    size: int | None = None
    crc: int | None = None
    extra: bytes = b""
    offset: int | None = None
    local: dict[str, bytes | int] = field(default_factory=dict)

    def fields(self) -> dict[str, bytes | int]:
        packed = self.packed if self.packed is not None else deflate(self.data) if self.method == DEFLATED else self.data
        return {
            "name": self.name,
            "flags": self.flags,
            "method": self.method,
            "packed": packed,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
            "packed_size": len(packed) if self.packed_size is None else self.packed_size,
            "size": len(self.data) if self.size is None else self.size,
        }

    def head(self) -> bytes:
        """The local header and the data."""
        said = self.fields() | {"extra": b""} | self.local
        numbers = (0, said["flags"], said["method"], 0, 0x21, said["crc"], said["packed_size"], said["size"])
        lengths = (len(said["name"]), said.get("extra_length", len(said["extra"])))
        return LOCAL.pack(b"PK\3\4", *numbers, *lengths) + said["name"] + said["extra"] + said["packed"]

    def record(self, offset: int) -> bytes:
        """The entry in the directory at the end."""
        said = self.fields()
        numbers = (self.system << 8 | 20, self.version, said["flags"], said["method"], 0, 0x21)
        sizes = (said["crc"], said["packed_size"], said["size"], len(self.name), len(self.extra))
        offset = offset if self.offset is None else self.offset
        return CENTRAL.pack(b"PK\1\2", *numbers, *sizes, 0, 0, 0, self.mode << 16, offset) + self.name + self.extra


def raw_zip(*entries: Raw, prefix: bytes = b"", comment: bytes = b"") -> bytes:
    """A zip of just these bytes. An entry with an offset of its own brings no header and no data."""
    body, records = bytearray(), b""
    for entry in entries:
        records += entry.record(len(body))
        if entry.offset is None:
            body += entry.head()
    end = END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), len(records), len(body), len(comment))
    return prefix + bytes(body) + records + end + comment


def zip_of(path: Path, *entries: tuple[str, bytes, int]) -> str:
    """A well-made zip: (name, data, mode) each."""
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = UNIX, mode << 16, DEFLATED
            zipped.writestr(info, data)
    return str(path)


def zip_folder(folder: Path, path: Path) -> str:
    """Zips a folder with the standard library, links as links."""
    entries = []
    for name, (kind, mode, data) in picture(folder).items():
        file_type = {"folder": stat.S_IFDIR, "link": stat.S_IFLNK, "file": stat.S_IFREG}[kind]
        entries.append((f"{name}/" if kind == "folder" else name, data, file_type | mode))
    return zip_of(path, *entries)


def picture(root: Path) -> Picture:
    """All that is below a folder: kind, permission bits, bytes (or where a link leads). A large file is its size and time."""
    found: Picture = {}
    for folder, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            about = os.lstat(path)
            mode = stat.S_IMODE(about.st_mode)
            if stat.S_ISLNK(about.st_mode):
                seen = ("link", 0o777, os.fsencode(os.readlink(path)))
            elif stat.S_ISDIR(about.st_mode):
                seen = ("folder", mode, b"")
            elif stat.S_ISREG(about.st_mode):
                large = about.st_size > 16 * 2**20
                seen = ("file", mode, b"%d %d" % (about.st_size, about.st_mtime_ns) if large else Path(path).read_bytes())
            else:
                seen = ("special", mode, b"")
            found[os.path.relpath(path, root)] = seen
    return found


def lay(root: Path, /, **nodes: str | bytes | None) -> Path:
    """A folder: bytes are a file (executable if they begin with #!), None is a folder, text is where a link leads."""
    root.mkdir(parents=True, exist_ok=True)
    for name, node in nodes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if node is None:
            path.mkdir(exist_ok=True)
        elif isinstance(node, str):
            path.symlink_to(node)
        else:
            path.write_bytes(node)
            path.chmod(0o755 if node.startswith(b"#!") else 0o644)
    return root


@dataclass
class Places:
    """Where an environment's two trees were placed."""

    task: Path
    opt: Path

    def leads_out(self) -> list[str]:
        """Links in either tree whose end, there or not, is in neither."""
        wrong = []
        for root in (self.task, self.opt):
            for name, (kind, _, _) in picture(root).items():
                end = Path(os.path.realpath(root / name))
                if kind == "link" and not (end.is_relative_to(self.task) or end.is_relative_to(self.opt)):
                    wrong.append(f"{root.name}/{name} -> {end}")
        return wrong


class Ground:
    """A cache, a folder whose content nobody may change, and what is checked after each refusal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache_root = root / "cache"
        self.outside = lay(root / "outside", **{"secret": b"secret", "tool": b"#!/bin/sh\n", "sub/x": b"x", "link": "secret"})
        self.code = lay(root / "plain", f=b"code")
        self._count = 0

    @property
    def cache(self) -> Cache:
        """As another host would have it: nothing is remembered."""
        return Cache(self.cache_root)

    def trees(self) -> list[str]:
        """What the cache holds, locks apart: trees and halves of trees."""
        packages = self.cache_root / "packages"
        return sorted(p.name for p in packages.iterdir() if p.suffix != ".lock") if packages.exists() else []

    def file(self, data: bytes, name: str | None = None) -> str:
        self._count += 1
        path = self.root / (name or f"package{self._count}.zip")
        path.write_bytes(data)
        return str(path)

    def refuses(self, code: str, layers: tuple[str, ...], *words: str) -> str:
        """Opens it and wants a refusal that says these words and changes nothing. Returns the text."""
        passwd = os.lstat("/etc/passwd")
        before, kept = self._world(), self.trees()
        with pytest.raises(PackageError) as caught:
            open_package(code, layers, self.cache).close()
        text = str(caught.value)
        without = text.replace(str(self.root), "")  # which has the test's name in it
        for word in words:
            assert word in (text if str(self.root) in word else without)
        assert self._world() == before
        assert self.trees() == kept
        after = os.lstat("/etc/passwd")
        assert (after.st_mtime_ns, after.st_mode, after.st_ino) == (passwd.st_mtime_ns, passwd.st_mode, passwd.st_ino)
        return text

    def refuses_zip(self, data: bytes, *words: str) -> None:
        """As code and as a layer; the text names the zip."""
        path = self.file(data)
        self.refuses(path, (), path, *words)
        self.refuses(str(self.code), (path,), path, *words)

    def _world(self) -> Picture:
        return {name: seen for name, seen in picture(self.root).items() if name.split("/")[0] != "cache"}

    @contextmanager
    def opened(self, code: str | Path, *layers: str | Path) -> Iterator[Package]:
        package = open_package(str(code), [str(layer) for layer in layers], self.cache)
        try:
            yield package
        finally:
            package.close()

    def placed(self, code: str | Path, *layers: str | Path) -> Places:
        """Opens and places, as for one environment."""
        self._count += 1
        places = Places(self.root / f"environment{self._count}" / "task", self.root / f"environment{self._count}" / "opt")
        places.task.mkdir(parents=True)
        places.opt.mkdir()
        with self.opened(code, *layers) as package:
            package.place(places.task, places.opt)
        return places

    def tried(self, code: str | Path, *layers: str | Path) -> tuple[str, Places | None]:
        """Places, or the words of a refusal: for what may end either way."""
        try:
            return "", self.placed(code, *layers)
        except PackageError as error:
            return str(error), None


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)
