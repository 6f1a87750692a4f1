"""Hostile and broken zips: all refused, by the name of the entry or the limit, with nothing left and nothing changed."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.core.limits import PACKAGE_LIMIT
from sandbox.host.folders import remove_tree
from sandbox.package.package import open_package
from sandbox.package.tree import OPT, Entry, PackageError, Tree, follow
from tests.package.conftest import (
    DEFLATED,
    FILE,
    FOLDER,
    LINK,
    UNIX,
    Ground,
    Raw,
    deflate,
    picture,
    raw_zip,
    zip_of,
)

UTF8 = 0x800
DESCRIPTOR = 0x8
TEXT = b"Some text that can be packed, some text that can be packed. " * 20
SOUND = (
    Raw(b"stored", TEXT),
    Raw(b"bin/deflated", TEXT, stat.S_IFREG | 0o755, DEFLATED),
    Raw(b"folder/", mode=FOLDER),
    Raw(b"folder/link", b"../stored", LINK),
    Raw(b"nothing"),
)


def link(name: bytes, target: bytes) -> Raw:
    return Raw(name, target, LINK)


def test_the_zip_that_the_hostile_ones_are_made_from_is_a_good_one(ground: Ground) -> None:
    places = ground.placed(ground.file(raw_zip(*SOUND)))
    assert picture(places.task) == {
        "stored": ("file", 0o444, TEXT),
        "bin": ("folder", 0o555, b""),
        "bin/deflated": ("file", 0o555, TEXT),
        "folder": ("folder", 0o555, b""),
        "folder/link": ("link", 0o777, b"../stored"),
        "nothing": ("file", 0o444, b""),
    }


# ── names ──

NAMES = {
    b"../x": "leads out",
    b"../../../../../../../../../../../../tmp/x": "leads out",
    b"./../x": "leads out",
    b"a/../../x": "leads out",
    b"a/b/..": "leads out",
    b"..": "leads out",
    b"../": "leads out",
    b"/x": "absolute",
    b"//x": "absolute",
    b"/": "absolute",
    b"..\\x": "backslash",
    b"a\\..\\..\\x": "backslash",
    b"C:\\x": "backslash",
    b"a\0b": "NUL",
    b"harmless\0/../../x": "NUL",
    b"": "''",
    b"./.": "'./.'",
    b"n" * 256: "255 bytes",
    b"d/" + b"n" * 256 + b"/x": "255 bytes",
    "é".encode() * 128: "255 bytes",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_name_that_is_none_or_leads_out(ground: Ground, name: bytes) -> None:
    flags = 0 if name.isascii() else UTF8
    shown = repr(name[:60].decode(errors="ignore"))[1:40]
    data = b"" if name.endswith(b"/") else b"evil"
    ground.refuses_zip(raw_zip(Raw(b"stored"), Raw(name, data, flags=flags)), NAMES[name], shown)
    if data and not name.startswith(b"/"):
        ground.refuses_zip(raw_zip(Raw(b"stored"), Raw(name, b"stored", LINK, flags=flags)), NAMES[name], shown)


@pytest.mark.parametrize("name", [b"/x", b"//x", b"/d/x"])
def test_a_link_with_an_absolute_name(ground: Ground, name: bytes) -> None:
    ground.refuses_zip(raw_zip(Raw(b"stored"), link(name, b"stored")), "absolute", repr(name.decode()))


def test_names_that_would_hit_a_file_outside(ground: Ground) -> None:
    victim = ground.outside / "secret"
    deep = "../" * 40 + str(victim)[1:]
    for name in (str(victim), deep, f"./{deep}", f"a/{deep}", f"/{victim}"):
        ground.refuses_zip(raw_zip(Raw(name.encode(), b"evil")), repr(name))


def test_a_name_of_255_bytes_is_one(ground: Ground) -> None:
    name = "é" * 127 + "x"
    assert list(picture(ground.placed(ground.file(raw_zip(Raw(name.encode(), b"x", flags=UTF8)))).task)) == [name]


@pytest.mark.parametrize(
    "entries",
    [
        (Raw(b"a", b"1"), Raw(b"a", b"2")),
        (Raw(b"a", b"1"), Raw(b"./a", b"2")),
        (Raw(b"d/a", b"1"), Raw(b"d//a", b"2")),
        (Raw(b"d/a", b"1"), Raw(b"d/./a", b"2")),
        (Raw(b"a", b"1"), Raw(b"a/", mode=FOLDER)),
        (Raw(b"a/", mode=FOLDER), Raw(b"a", b"1")),
        (Raw(b"a", b"1"), Raw(b"a/b", b"2")),
        (Raw(b"a/b", b"2"), Raw(b"a", b"1")),
        (Raw(b"a/b/c", b"2"), Raw(b"a", b"1")),
        (Raw(b"a", b"1"), link(b"a", b"b")),
        (link(b"a", b"b"), Raw(b"a", b"1")),
        (link(b"a", b"b"), link(b"a", b"c")),
        (link(b"a", b"b"), Raw(b"a/", mode=FOLDER)),
        (Raw("a\u00e9".encode(), b"1"), Raw("a\u00e9".encode(), b"2", flags=UTF8)),
    ],
    ids=lambda entries: " ".join(f"{entry.name!r}:{entry.mode:o}" for entry in entries),
)
@pytest.mark.catalogue("EN-056")
def test_two_entries_for_one_place(ground: Ground, entries: tuple[Raw, ...]) -> None:
    ground.refuses_zip(raw_zip(*entries), "'a" if entries[0].name[:1] == b"a" else "'d/a'")


@pytest.mark.parametrize("first", ["link", "file"])
def test_an_entry_below_a_link_is_never_written_through_it(ground: Ground, first: str) -> None:
    inside, outside = b"sub", str(ground.outside).encode()
    for target in (inside, outside, b"/opt/sub", b"/var/task/sub"):
        pair = [link(b"d", target), Raw(b"d/secret", b"evil")]
        if first == "file":
            pair.reverse()
        ground.refuses_zip(raw_zip(Raw(b"sub/secret", b"1"), *pair), "'d")


def test_the_root_itself_is_no_entry(ground: Ground) -> None:
    places = ground.placed(ground.file(raw_zip(Raw(b"./", mode=FOLDER), Raw(b"./a", b"1"))))
    assert picture(places.task) == {"a": ("file", 0o444, b"1")}


@pytest.mark.parametrize("name", [b".", b"/.", b"./"])
def test_the_root_is_no_file_and_no_link(ground: Ground, name: bytes) -> None:
    ground.refuses_zip(raw_zip(Raw(b"a"), Raw(name, b"x", FILE)), repr(name.decode()))


@pytest.fixture
def _deep(ground: Ground) -> Iterator[None]:
    """What is too deep for shutil.rmtree would be too deep for pytest's own tidying."""
    yield
    subprocess.run(["rm", "-rf", ground.cache_root], check=True)


@pytest.mark.usefixtures("_deep")
def test_a_name_longer_than_a_path_can_be(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"a/" * 2500 + b"x")), "'a/a/a")


@pytest.mark.usefixtures("_deep")
def test_a_thousand_folders_in_each_other_are_removed_again(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"a/" * 1200 + b"x", b"x", crc=1)), "'a/a/a")


# ── links ──

LEAD_OUT = [
    b"/etc/passwd",
    b"/",
    b"/var",
    b"/var/taskx/y",
    b"/optional",
    b"/opt/../etc/passwd",
    b"/var/task/../../etc/passwd",
    b"/opt/a/../../etc",
    b"/proc/self/cwd/../etc/passwd",
    b"../../../../../../../../etc/passwd",
    b"../../x",
    b"../x",
    b"..",
    b"a/../../x",
    b"./../x",
    b"//etc/passwd",
    b"a" + b"/../.." * 30,
    b"\xff/../../../x",
]


@pytest.mark.parametrize("target", LEAD_OUT)
@pytest.mark.catalogue("EN-056")
def test_a_link_that_leads_out(ground: Ground, target: bytes) -> None:
    text = repr(target.decode(errors="surrogateescape"))
    ground.refuses_zip(raw_zip(Raw(b"a/f"), link(b"evil", target)), "'evil'", text)
    ground.refuses_zip(
        raw_zip(Raw(b"f"), link(b"deep/er/good", b"../../f"), link(b"deep/evil", b"../" * 9 + target)), "'deep/evil'"
    )


def test_a_link_to_a_file_of_the_hosts(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(link(b"evil", str(ground.outside / "secret").encode())), "'evil'", str(ground.outside))


@pytest.mark.parametrize(
    "entries",
    [
        (Raw(b"sub/deep/f"), link(b"d", b"sub/deep"), link(b"e", b"d/../../../x")),
        (link(b"e", b"d/../../../x"), Raw(b"sub/deep/f"), link(b"d", b"sub/deep")),  # in whatever order
        (Raw(b"sub/deep/f"), link(b"d", b"sub"), link(b"e", b"d/../../x")),
        (Raw(b"a/b/f"), link(b"a/up", b".."), link(b"e", b"a/up/../x")),
        (Raw(b"a/f"), link(b"a/root", b".."), link(b"b", b"a/root"), link(b"e", b"b/../etc")),
        (Raw(b"a/f"), link(b"d", b"a/.."), link(b"e", b"d/../x")),
        (link(b"1", b"2/.."), link(b"2", b"3/.."), link(b"3", b"a/b"), link(b"e", b"1/../x"), Raw(b"a/b/f")),
    ],
    ids=["through", "order", "shallow", "parent", "root", "dots", "three"],
)
def test_a_link_that_leads_out_through_another_one(ground: Ground, entries: tuple[Raw, ...]) -> None:
    ground.refuses_zip(raw_zip(*entries), "'e'")


@pytest.mark.parametrize(
    ("target", "says"),
    [(b"", "no name"), (b"a\0b", "no name"), (b"a" * 4097, "4,097 bytes")],
    ids=["empty", "nul", "long"],
)
def test_a_link_that_leads_to_no_name(ground: Ground, target: bytes, says: str) -> None:
    ground.refuses_zip(raw_zip(Raw(b"a"), link(b"evil", target)), "'evil'", says)


@pytest.mark.catalogue("EN-056")
def test_a_ring_of_links_is_kept_and_leads_nowhere(ground: Ground) -> None:
    entries = (link(b"a", b"b"), link(b"b", b"c"), link(b"c", b"a"), link(b"self", b"self"), link(b"d", b"/opt/d"))
    data = raw_zip(Raw(b"f"), *entries)
    for places in (ground.placed(ground.file(data)), ground.placed(ground.code, ground.file(data))):
        for root in (places.task, places.opt):
            for name in set("abc") & set(os.listdir(root)):
                with pytest.raises(OSError, match="Too many levels"):
                    os.stat(root / name)
        assert places.leads_out() == []


def test_a_ring_that_is_none(ground: Ground) -> None:
    """Absolute links are written shorter than they are counted, so what is no way on paper is one on the disk."""
    chain = [link(b"c%d" % i, b"/opt/c%d" % (i + 1) if i < 45 else b"/opt/sub/deep") for i in range(46)]
    out = b"c5" + b"/.." * 40 + str(ground.outside / "secret").encode()
    path = ground.file(raw_zip(Raw(b"sub/deep/f"), *chain, link(b"evil", out)))
    refusal, places = ground.tried(ground.code, path)
    assert "'evil'" in refusal if places is None else places.leads_out() == []


def test_links_that_cost_more_than_they_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand of them are a zip of 100 KB that takes an hour to check."""
    steps = 0

    def counted(target: str) -> list[str]:
        nonlocal steps
        found = [part for part in target.split("/") if part not in ("", ".")]
        steps += len(found)
        return found

    monkeypatch.setattr("sandbox.package.tree._steps", counted)
    tree = Tree("ring", OPT)
    for number in range(42):
        tree.add(f"l{number}", Entry("link", 0o777, 0, "x/../" * 800 + f"l{(number + 1) % 42}", None))
    with contextlib.suppress(PackageError):
        follow(tree, "l0")
    assert 0 < steps < 10_000


# ── kinds and methods ──


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (stat.S_IFIFO, "named pipe"),
        (stat.S_IFCHR, "character device"),
        (stat.S_IFBLK, "block device"),
        (stat.S_IFSOCK, "socket"),
        (0o150000, "special file"),
    ],
    ids=["pipe", "character", "block", "socket", "unknown"],
)
def test_special_files(ground: Ground, kind: int, word: str) -> None:
    ground.refuses_zip(raw_zip(Raw(b"f"), Raw(b"dev/evil", mode=kind | 0o666)), "'dev/evil'", word)


def test_an_encrypted_entry(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"f"), Raw(b"evil", TEXT, flags=1)), "'evil'", "encrypted")
    ground.refuses_zip(raw_zip(Raw(b"f"), Raw(b"evil", TEXT, local={"flags": 1})), "'evil'")


@pytest.mark.skipif(shutil.which("zip") is None, reason="there is no `zip` here")
def test_a_zip_that_was_made_with_a_password(ground: Ground, tmp_path: Path) -> None:
    made = tmp_path / "made.zip"
    subprocess.run(["zip", "-q", "-P", "password", made, "f"], cwd=ground.code, check=True)
    ground.refuses(str(made), (), str(made), "'f'", "encrypted")


@pytest.mark.parametrize("method", [1, 6, 9, 12, 14, 93, 95, 97, 99])
def test_a_method_that_lambda_does_not_know(ground: Ground, method: int) -> None:
    ground.refuses_zip(raw_zip(Raw(b"f"), Raw(b"evil", TEXT, method=method)), "'evil'", f"method {method}")


def test_a_version_that_nobody_knows(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"evil", TEXT, version=99)), "9.9")


def test_a_folder_with_bytes_in_it(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"evil/", TEXT, FOLDER)), "'evil/'", "folder")
    ground.refuses_zip(raw_zip(Raw(b"evil", TEXT, FOLDER)), "'evil'", "folder")
    ground.refuses_zip(raw_zip(Raw(b"evil/", b"target", LINK)), "'evil/'", "folder")


# ── the same thing told three times over ──

LIES = {
    "stored, says less": Raw(b"evil", TEXT, size=10),
    "stored, says more": Raw(b"evil", TEXT, size=len(TEXT) + 1),
    "stored, much more": Raw(b"evil", TEXT, size=PACKAGE_LIMIT // 2),
    "stored, packed less": Raw(b"evil", TEXT, packed_size=10),
    "stored, packed more": Raw(b"evil", TEXT, packed_size=len(TEXT) + 1),
    "stored, both less": Raw(b"evil", TEXT, packed_size=10, size=10),
    "deflated, says less": Raw(b"evil", TEXT, method=DEFLATED, size=10),
    "deflated, says 0": Raw(b"evil", TEXT, method=DEFLATED, size=0),
    "deflated, says more": Raw(b"evil", TEXT, method=DEFLATED, size=len(TEXT) + 1),
    "deflated, packed less": Raw(b"evil", TEXT, method=DEFLATED, packed_size=len(deflate(TEXT)) - 1),
    "deflated, packed more": Raw(b"evil", TEXT, method=DEFLATED, packed_size=len(deflate(TEXT)) + 1),
    "deflated, packed 0": Raw(b"evil", TEXT, method=DEFLATED, packed_size=0),
    "deflated, bytes after its end": Raw(b"evil", TEXT, method=DEFLATED, packed=deflate(TEXT) + b"more"),
    "deflated, cut off": Raw(b"evil", TEXT, method=DEFLATED, packed=deflate(TEXT)[:-3]),
    "deflated, is not": Raw(b"evil", TEXT, method=DEFLATED, packed=b"\xff" + TEXT),
    "stored that is deflated": Raw(b"evil", TEXT, packed=deflate(TEXT), local={"method": DEFLATED}),
    "deflated that is stored": Raw(b"evil", TEXT, method=DEFLATED, packed=TEXT, local={"method": 0}),
    "check sum": Raw(b"evil", TEXT, crc=zlib.crc32(TEXT) ^ 1),
    "check sum, deflated": Raw(b"evil", TEXT, method=DEFLATED, crc=zlib.crc32(TEXT) ^ 1),
    "check sum of nothing": Raw(b"evil", b"", crc=1),
    "another method": Raw(b"evil", TEXT, local={"method": DEFLATED}),
    "another method, deflated": Raw(b"evil", TEXT, method=DEFLATED, local={"method": 0}),
    "another name": Raw(b"evil", TEXT, local={"name": b"good"}),
    "a longer name": Raw(b"evil", TEXT, local={"name": b"evil/../../x"}),
    "another case": Raw(b"evil", TEXT, local={"name": b"EVIL"}),
    "a NUL": Raw(b"evil", TEXT, local={"name": b"evil\0"}),
    "no header there": Raw(b"evil", TEXT, offset=3),
    "in the directory": Raw(b"evil", TEXT, offset=40),
    "far away": Raw(b"evil", TEXT, offset=2**32 - 2),
    "a link's size": Raw(b"evil", b"good", LINK, size=2),
    "a link's check sum": Raw(b"evil", b"good", LINK, crc=1),
    "a link's other name": Raw(b"evil", b"good", LINK, local={"name": b"link"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_zip_that_contradicts_itself(ground: Ground, lie: str) -> None:
    for entries in ((Raw(b"good", TEXT), LIES[lie]), (LIES[lie], Raw(b"good", TEXT))):
        path = ground.file(raw_zip(*entries))
        text = ground.refuses(path, (), path)
        assert "'evil'" in text or ("'good'" in text and "shares" in text)
        ground.refuses(str(ground.code), (path,), path)


@pytest.mark.parametrize(
    "local", [{"size": 1}, {"packed_size": 1}, {"crc": 1}, {"flags": UTF8}], ids=["size", "packed", "crc", "flags"]
)
def test_a_header_that_says_something_else_than_the_directory(ground: Ground, local: dict[str, bytes | int]) -> None:
    ground.refuses_zip(raw_zip(Raw(b"evil", TEXT, local=local)), "'evil'")


def test_a_folder_with_another_name_in_its_header(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"f"), Raw(b"evil/", mode=FOLDER, local={"name": b"good/"})), "'evil/'")


# ── entries that share bytes, and bombs ──


def quoting(count: int, kernel: bytes) -> bytes:
    """A bomb of quoted overlaps (Fifield): each entry's data begins with the next one's header, in a block that is not packed.
    Each one is sound for itself."""
    packed, plain = deflate(kernel), kernel
    heads: list[Raw] = []
    for number in reversed(range(count)):
        entry = Raw(b"e%03d" % number, plain, method=DEFLATED, packed=packed)
        heads.append(entry)
        header = entry.head()[: 30 + len(entry.name)]
        packed = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF) + header + packed
        plain = header + plain
    first, *rest = reversed(heads)
    offset, entries = 0, [first]
    for entry in rest:
        offset += 30 + len(entry.name) + 5
        entry.offset = offset
        entries.append(entry)
    return raw_zip(*entries)


def test_entries_that_quote_each_other(ground: Ground) -> None:
    data = quoting(40, b"\0" * 20_000)
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        infos = zipped.infolist()
    assert len(data) < 6_000
    assert sum(info.file_size for info in infos) > 800_000
    for info in infos:  # each is sound: only their being together is not
        start = info.header_offset + 30 + len(info.filename)
        assert zlib.crc32(zlib.decompress(data[start : start + info.compress_size], -15)) == info.CRC
    ground.refuses_zip(data, "'e001'", "shares its bytes")


def test_entries_that_are_one_and_the_same(ground: Ground) -> None:
    again = [Raw(b"e%d" % i, TEXT, offset=0) for i in range(1, 5)]
    ground.refuses_zip(raw_zip(Raw(b"e0", TEXT), *again), "'e", "shares its bytes")


def test_entries_that_share_their_bytes_behind_an_extra_field(ground: Ground) -> None:
    small = b"0123456789"
    second = Raw(b"b", small).head()
    first = Raw(b"evil", small, local={"packed": b"", "extra": b"\0" * 10 + second[: -len(small)]}).head() + small
    offset = first.index(b"PK\3\4", 1)
    body = Raw(b"evil", small, offset=0), Raw(b"b", small, offset=offset)
    records = b"".join(entry.record(0) for entry in body)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(records), len(first), 0)
    with zipfile.ZipFile(io.BytesIO(first + records + end)) as zipped:
        assert [zipped.getinfo(name).header_offset for name in ("evil", "b")] == [0, offset]
    ground.refuses_zip(first + records + end, "shares its bytes")


def bomb(megabytes: int) -> bytes:
    """That many MB of zeros, deflated, without having them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(b"\0" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


@pytest.mark.catalogue("EN-054")
def test_a_bomb_by_what_it_says(ground: Ground) -> None:
    packed = bomb(300)
    assert len(packed) < 400_000
    ground.refuses_zip(raw_zip(Raw(b"evil", method=DEFLATED, packed=packed, size=300 * 2**20)), "314,572,800", "250 MB")


@pytest.mark.parametrize("said", [0, 1000, PACKAGE_LIMIT])
@pytest.mark.catalogue("EN-054")
def test_a_bomb_that_lies_is_stopped_where_it_said_it_would_end(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    written, write = 0, os.write

    def counted(fd: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        return len(data) if written > 2**20 else write(fd, data)  # the disk need not have it

    monkeypatch.setattr("os.write", counted)
    path = ground.file(raw_zip(Raw(b"evil", method=DEFLATED, packed=bomb(300), size=said)))
    ground.refuses(path, (), path, "'evil'", f"{said:,}", "and has more")
    assert written <= said


@pytest.mark.catalogue("EN-054")
def test_many_small_ones_are_one_large_one(ground: Ground) -> None:
    half = [Raw(b"e%d" % i, size=PACKAGE_LIMIT // 2) for i in range(2)]
    ground.refuses_zip(raw_zip(*half, Raw(b"last", b"x")), "262,144,001", "262,144,000")


@pytest.mark.parametrize("size", [2**40, 2**63, 2**64 - 1])
def test_sizes_of_64_bits(ground: Ground, size: int) -> None:
    extra = struct.pack("<HHQ", 1, 8, size)
    ground.refuses_zip(raw_zip(Raw(b"evil", TEXT, size=2**32 - 1, extra=extra)), f"{size:,}", "250 MB")


def test_more_entries_than_a_disk_has_room_for(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.package.tree.PACKAGE_ENTRIES", 100)
    ground.refuses_zip(raw_zip(*(Raw(b"e%d" % i) for i in range(102))), "100 entries")
    ground.refuses_zip(raw_zip(*(Raw(b"d%d/d/d/f" % i) for i in range(40))), "100 entries")
    ground.placed(ground.file(raw_zip(*(Raw(b"e%d" % i) for i in range(100)))))


# ── broken ones ──


def test_truncated_anywhere(ground: Ground) -> None:
    whole = raw_zip(Raw(b"f", b"stored"), Raw(b"bin/d", b"deflated", method=DEFLATED), link(b"l", b"f"))
    ground.placed(ground.file(whole, "whole.zip"))
    kept = ground.trees()
    for length in range(len(whole)):
        path = ground.file(whole[:length], "cut.zip")
        with pytest.raises(PackageError, match=r"cut\.zip.*" + ("empty" if not length else "truncated")):
            open_package(path, (), ground.cache)
    assert ground.trees() == kept


NO_ZIPS = {
    "empty": b"",
    "text": b"def handler(event, context): ...\n",
    "noise": random.Random(1).randbytes(3000),
    "zeros": b"\0" * 3000,
    "gzip": gzip.compress(TEXT),
    "an end alone, cut": b"PK\5\6" + b"\0" * 10,
    "an end that says more": struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 5, 5, 500, 500, 0),
    "an end that says most": struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0),
    "more entries than there are": raw_zip(*SOUND).replace(b"PK\1\2", b"PK\1\3", 1),
}


@pytest.mark.parametrize("kind", NO_ZIPS)
def test_what_is_no_zip(ground: Ground, kind: str) -> None:
    ground.refuses_zip(NO_ZIPS[kind], "is empty" if kind == "empty" else "not a zip")


def test_a_tar_is_no_zip(ground: Ground) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        tar.add(ground.code / "f", "f")
    ground.refuses_zip(made.getvalue(), "not a zip")


def test_a_zip_with_nothing_in_it(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(), "empty", "no file in it")


def test_a_zip_with_nothing_but_the_root_in_it(ground: Ground) -> None:
    ground.refuses_zip(raw_zip(Raw(b"./", mode=FOLDER)), "empty")


BLAND = raw_zip(*SOUND, Raw(b"e\xcc\x81", b"utf-8", flags=UTF8), comment=b"a comment")
VERSIONS = {i + at for i in range(len(BLAND)) if BLAND[i : i + 4] == b"PK\1\2" for at in (6, 7)}  # has a test of its own


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, len(BLAND) - 1).filter(lambda at: at not in VERSIONS), st.integers(1, 255)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, len(BLAND)),
    st.integers(0, 6),
    st.binary(max_size=3),
)
def test_whatever_is_wrong_with_it_it_is_refused_or_holds_the_same_bytes(
    ground: Ground, flips: list[tuple[int, int]], cut: int, length: int, insert: bytes
) -> None:
    """A flipped bit of a mode is no mistake that anybody could see, and one of a name is one only if the header has another."""
    data = bytearray(BLAND)
    for at, by in flips:
        data[at] ^= by
    if length == 6:
        data[cut : cut + len(insert)] = insert
    path = ground.file(bytes(data), "fuzzed.zip")
    refusal, places = ground.tried(path)
    assert path in refusal or places is not None
    if places is not None:
        for kind, mode, held in picture(places.task).values():
            assert held in (TEXT, b"", b"utf-8", b"../stored")
            assert kind == "link" or not mode & 0o222
        assert places.leads_out() == []
        remove_tree(places.task.parent)
    assert not [name for name in ground.trees() if name.endswith(".part")]
    assert picture(ground.outside)["secret"] == ("file", 0o644, b"secret")


# ── odd ones that are right ──


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_bytes_before_the_zip(ground: Ground, comment: bytes) -> None:
    """As a self-extracting one has them."""
    data = raw_zip(*SOUND, prefix=b"#!/bin/sh\nexec unzip $0\n", comment=comment)
    assert picture(ground.placed(ground.file(data)).task)["bin/deflated"] == ("file", 0o555, TEXT)


def test_64_bits_and_data_descriptors(ground: Ground) -> None:
    class Pipe(io.RawIOBase):
        """Nobody can seek in it: sizes come after the data."""

        held = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.held += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", DEFLATED) as zipped:
        with zipped.open("large", "w", force_zip64=True) as file:
            file.write(TEXT)
        zipped.writestr("stored", TEXT, zipfile.ZIP_STORED)
    with zipfile.ZipFile(io.BytesIO(pipe.held)) as made:
        assert all(info.flag_bits & DESCRIPTOR for info in made.infolist())
    task = ground.placed(ground.file(pipe.held)).task
    assert [(task / name).read_bytes() for name in ("large", "stored")] == [TEXT, TEXT]


def test_names_that_are_not_ascii(ground: Ground) -> None:
    entries = (
        Raw("flagged-é".encode(), b"1", flags=UTF8),
        Raw("unflagged-é".encode(), b"2"),  # `zip` on macOS
        Raw("old-é".encode("cp437"), b"3"),  # Windows' Explorer
        Raw(b"latin-\xff\xfe", b"4"),
    )
    task = ground.placed(ground.file(raw_zip(*entries))).task
    found = {name: held for name, (_, _, held) in picture(task).items()}
    assert found == {"flagged-é": b"1", "unflagged-é": b"2", "old-é": b"3", b"latin-\xff\xfe".decode("cp437"): b"4"}


@pytest.mark.catalogue("EN-056")
def test_entries_without_unix_modes_can_be_read(ground: Ground) -> None:
    entries = (
        Raw(b"f", b"1", 0, system=0),
        Raw(b"d/", mode=0, system=0),
        Raw(b"d/g", b"2", 0),
        Raw(b"l", b"f", LINK, system=0),
    )
    places = ground.placed(ground.file(raw_zip(*entries)))
    assert picture(places.task) == {
        "f": ("file", 0o444, b"1"),
        "d": ("folder", 0o555, b""),
        "d/g": ("file", 0o444, b"2"),
        "l": ("file", 0o444, b"f"),  # whoever does not write Unix modes has no links either
    }


@pytest.mark.catalogue("EN-056")
def test_the_modes_of_a_mac(ground: Ground) -> None:
    places = ground.placed(ground.file(raw_zip(Raw(b"run", TEXT, 0o100755, system=19), Raw(b"l", b"run", LINK, system=19))))
    assert {name: seen[:2] for name, seen in picture(places.task).items()} == {"run": ("file", 0o555), "l": ("link", 0o777)}


@pytest.mark.parametrize(
    ("mode", "kept", "placed"),
    [
        (0o4755, 0o755, 0o555),
        (0o2755, 0o755, 0o555),
        (0o1777, 0o777, 0o555),
        (0o7000, 0o644, 0o444),
        (0o0000, 0o644, 0o444),
        (0o0600, 0o644, 0o444),
        (0o0700, 0o744, 0o544),
        (0o0111, 0o555, 0o555),
    ],
    ids=lambda mode: f"{mode:o}",
)
@pytest.mark.catalogue("EN-056")
def test_modes_are_kept_but_readable_and_without_setuid(ground: Ground, mode: int, kept: int, placed: int) -> None:
    path = ground.file(raw_zip(Raw(b"run", TEXT, stat.S_IFREG | mode)))
    assert picture(ground.placed(path).task)["run"][1] == placed
    [tree] = ground.trees()
    assert picture(ground.cache_root / "packages" / tree)["run"][1] == kept


def test_a_folder_with_an_empty_packed_stream(ground: Ground) -> None:
    """As Java writes them."""
    data = raw_zip(Raw(b"d/", b"", FOLDER, DEFLATED), Raw(b"d/f", b"", FILE, DEFLATED))
    assert picture(ground.placed(ground.file(data)).task) == {"d": ("folder", 0o555, b""), "d/f": ("file", 0o444, b"")}


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 2**19, 3 * 2**18 + 7])
def test_files_around_the_size_of_a_piece(ground: Ground, size: int) -> None:
    noise = random.Random(size).randbytes(size)
    task = ground.placed(ground.file(raw_zip(Raw(b"s", noise), Raw(b"d", noise, method=DEFLATED)))).task
    assert (task / "s").read_bytes() == (task / "d").read_bytes() == noise


def test_well_packed_files_around_the_size_of_a_piece(ground: Ground) -> None:
    entries = tuple((f"zeros{extra}", b"\0" * (2**18 + extra), FILE) for extra in range(0, 300, 3))
    task = ground.placed(zip_of(ground.root / "zeros.zip", *entries)).task
    assert all((task / name).read_bytes() == held for name, held, _ in entries)


def test_the_builder_writes_what_zipfile_reads() -> None:
    """The hostile zips are hostile in what they say, not by a slip of the test's."""
    with zipfile.ZipFile(io.BytesIO(raw_zip(*SOUND))) as zipped:
        assert zipped.testzip() is None
        assert {info.create_system for info in zipped.infolist()} == {UNIX}
