"""Reads a .zip warily. The standard library reads its directory; the bytes are read here, because there a zip can lie.

The directory at the end, the header before each file and the compressed bytes tell the same things three times over.
They must agree: names, sizes, check sums, and no two files may share bytes (that is how small zips become petabytes).
"""

from __future__ import annotations

import calendar
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from sandbox.package.tree import Entry, PackageError, Tree, check_size

_HEADER: Final = struct.Struct("<4s5H3I2H")
_CHUNK: Final = 256 * 1024
_BLOCK: Final = 1024 * 1024
_LINK_LIMIT: Final = 4096  # PATH_MAX
_ENCRYPTED: Final = 0x1
_SIZES_FOLLOW: Final = 0x8
_UTF8: Final = 0x800
_UNIX: Final = (3, 19)  # the systems whose zips have Unix modes: Unix, macOS
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """An open .zip, as the source of its entries' bytes."""

    def __init__(self, name: str, file: BinaryIO, zipped: zipfile.ZipFile) -> None:
        self._name = name
        self._file = file
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self._end = zipped.start_dir

    def copy(self, name: str, fd: int) -> None:
        """See tree.Source."""
        for data in self.read(name.strip("/")):
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]

    def add(self, name: str, info: zipfile.ZipInfo) -> None:
        self._infos[name] = info

    def check_overlaps(self) -> None:
        """Raises PackageError if two entries share bytes."""
        end = 0
        for info in sorted(self._infos.values(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise self._broken(info.filename, "shares its bytes with another entry")
            end = self._seek(info) + info.compress_size
            if end > self._end:
                raise self._broken(info.filename, "reaches into the directory at the zip's end")

    def read(self, name: str) -> Iterator[bytes]:
        """The file's bytes, piece by piece: exactly as many as the directory says. Raises PackageError."""
        info = self._infos[name]
        self._seek(info)
        left, size, check = info.compress_size, 0, 0
        inflate = zlib.decompressobj(-zlib.MAX_WBITS) if info.compress_type == zipfile.ZIP_DEFLATED else None
        packed = b""
        more = False  # zlib took all of `packed`, and may still hold what came of it
        while left or packed or more:
            if not packed and not more:
                packed = self._file.read(min(_CHUNK, left))
                left -= len(packed)
                if not packed:
                    raise self._broken(name, "ends too early")
            if inflate is None:
                data, packed = packed, b""
            else:
                try:
                    data = inflate.decompress(packed, _CHUNK)
                except zlib.error as error:
                    raise self._broken(name, f"cannot be unpacked ({error})") from None
                packed = inflate.unconsumed_tail
                more = len(data) == _CHUNK and not inflate.eof
                if inflate.eof and (packed or left or inflate.unused_data):
                    raise self._broken(name, "has more bytes than its compressed data")
            size += len(data)
            check = zlib.crc32(data, check)
            if size > info.file_size:
                raise self._broken(name, f"says that it has {info.file_size:,} bytes, and has more")
            if data:
                yield data
        if inflate is not None and not inflate.eof:
            raise self._broken(name, "ends too early")
        if size != info.file_size:
            raise self._broken(name, f"says that it has {info.file_size:,} bytes, and has {size:,}")
        if check != info.CRC:
            raise self._broken(name, "does not match its check sum")

    def _seek(self, info: zipfile.ZipInfo) -> int:
        """Goes to the first byte of an entry, and says where it is; the header before it must say what the directory says."""
        self._file.seek(info.header_offset)
        head = self._file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(b"PK\3\4"):
            raise self._broken(info.filename, "is not where the directory says")
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _HEADER.unpack(head)
        name = self._file.read(name_length)
        if name != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "surrogateescape"):
            raise self._broken(info.filename, f"is named {name.decode('utf-8', 'replace')!r} in its own header")
        elsewhere = flags & _SIZES_FOLLOW or packed == size == 0xFFFFFFFF  # after the data, or (zip64) in the extra field
        if not elsewhere and (packed, size, crc) != (info.compress_size, info.file_size, info.CRC):
            raise self._broken(info.filename, "has another size or check sum in its own header")
        if method != info.compress_type or (flags ^ info.flag_bits) & (_ENCRYPTED | _UTF8):
            raise self._broken(info.filename, "is stored in another way than the directory says")
        return self._file.seek(extra_length, os.SEEK_CUR)

    def _broken(self, name: str, why: str) -> PackageError:
        return PackageError(f"{self._name}: the zip is broken or was tampered with: the entry {name!r} {why}")


@contextmanager
def open_zip(path: Path, mount: str) -> Iterator[tuple[Tree, Check]]:
    """The tree in a .zip, and its check sum; its files can be read until the context ends. Raises PackageError, OSError."""
    name = str(path)
    with open(path, "rb") as file:
        try:  # broken zips make the standard library raise all of these
            zipped = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, EOFError, OSError, NotImplementedError) as error:
            why = "it is empty" if not os.fstat(file.fileno()).st_size else f"{str(error) or type(error).__name__}".lower()
            if path.suffix != ".zip":
                raise PackageError(f"{name}: neither a folder nor a .zip ({why}); its folder is {path.parent}") from None
            raise PackageError(f"{name}: not a zip, or a broken or truncated one: {why}") from None
        with zipped:
            yield _tree(name, mount, file, zipped), Check(name, file)


class Check:
    """The check sum of an open .zip: of what was read, whatever has the name by now."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file
        self.digest = self._read()

    def _read(self) -> bytes:
        self._file.seek(0)
        total = hashlib.sha256()
        while data := self._file.read(_BLOCK):
            total.update(data)
        return total.digest()

    def again(self) -> None:
        """Raises PackageError if the file was written to meanwhile."""
        if self._read() != self.digest:
            raise PackageError(f"{self._name}: it was changed while it was read")


def _tree(name: str, mount: str, file: BinaryIO, zipped: zipfile.ZipFile) -> Tree:
    tree = Tree(name, mount)
    archive = Archive(name, file, zipped)
    if not zipped.infolist():
        raise PackageError(f"{name}: the zip is empty: there is no file in it")
    check_size([(name, sum(info.file_size for info in zipped.infolist()))])
    links: list[tuple[str, zipfile.ZipInfo]] = []
    for info in zipped.infolist():
        entry_name = _name_of(info)
        kind = _check(name, entry_name, info)
        if kind == stat.S_IFDIR and entry_name == "./":
            continue  # the root itself, as some tools write it
        archive.add(entry_name.strip("/"), info)
        if kind == stat.S_IFLNK:
            links.append((entry_name, info))
        elif kind == stat.S_IFDIR:
            tree.add(entry_name, Entry("folder", _mode(info) or 0o755, 0, "", None))
        else:
            tree.add(
                entry_name, Entry("file", _mode(info) or 0o644, info.file_size, "", _Named(archive, entry_name), _time(info))
            )
    archive.check_overlaps()
    for entry_name, _ in links:
        target = b"".join(archive.read(entry_name.strip("/"))).decode("utf-8", "surrogateescape")
        if not target or "\0" in target:
            raise PackageError(f"{name}: the link {entry_name!r} leads to no name")
        tree.add(entry_name, Entry("link", 0o777, 0, target, None))
    if not tree.entries:
        raise PackageError(f"{name}: the zip is empty: there is no file in it")
    return tree


class _Named:
    """A file of an archive by its name there: a tree may give it another one (`./a` is `a`)."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive = archive
        self._name = name.strip("/")

    def copy(self, _: str, fd: int) -> None:
        self._archive.copy(self._name, fd)


def _name_of(info: zipfile.ZipInfo) -> str:
    """The name; tools that do not mark UTF-8 as such mostly write it all the same."""
    if info.flag_bits & _UTF8 or info.orig_filename.isascii():
        return info.orig_filename
    try:
        return info.orig_filename.encode("cp437").decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return info.orig_filename


def _check(package: str, name: str, info: zipfile.ZipInfo) -> int:
    """The kind of an entry, S_IFREG, S_IFDIR or S_IFLNK. Raises PackageError for what a package cannot hold."""
    if info.flag_bits & _ENCRYPTED:
        raise PackageError(f"{package}: the entry {name!r} is encrypted: Lambda has no password for it")
    if info.compress_type not in _METHODS:
        raise PackageError(
            f"{package}: the entry {name!r} is compressed with method {info.compress_type}: it takes 'stored' or 'deflate'"
        )
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system in _UNIX else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise PackageError(f"{package}: the entry {name!r} is a {SPECIAL.get(kind, 'special file')}: a package cannot hold it")
    if name.endswith("/") or kind == stat.S_IFDIR:
        if info.file_size:
            raise PackageError(f"{package}: the entry {name!r} is a folder, and has {info.file_size:,} bytes")
        return stat.S_IFDIR
    if kind == stat.S_IFLNK:
        if info.file_size > _LINK_LIMIT:
            raise PackageError(f"{package}: the link {name!r} leads to a name of {info.file_size:,} bytes")
        return kind
    return stat.S_IFREG


SPECIAL: Final = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def _mode(info: zipfile.ZipInfo) -> int:
    """EN-056: 0 if the zip has no Unix modes."""
    return (info.external_attr >> 16) & 0o777 if info.create_system in _UNIX else 0


def _time(info: zipfile.ZipInfo) -> int:
    """Nanoseconds; 0 if it says no possible time. A zip knows no time zone: on Lambda it is unpacked in UTC."""
    try:
        return max(0, calendar.timegm(info.date_time)) * 10**9
    except (ValueError, OverflowError):
        return 0
