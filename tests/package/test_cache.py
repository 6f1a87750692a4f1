"""The cache: each content once, for any number of hosts at once, whole or not at all, and not for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.assets import cache_folder
from sandbox.package import cache as cache_module
from sandbox.package import package as package_module
from sandbox.package.cache import Cache, Kept
from sandbox.package.package import open_package
from sandbox.package.tree import PackageError
from tests.conftest import ROOT
from tests.package.conftest import FILE, Ground, Picture, lay, picture, zip_folder, zip_of

MONTH = 31 * 24 * 3600


def fill(text: bytes) -> Callable[[Path], None]:
    return lambda where: (where / "f").write_bytes(text) and None  # type: ignore[return-value,func-returns-value]


def never(_: Path) -> None:
    raise AssertionError("it was there, and is made again")


def names(root: Path) -> list[str]:
    """What is there, locks apart."""
    return sorted(path.name for path in (root / "packages").iterdir() if path.suffix != ".lock")


def age(root: Path, key: str, seconds: int) -> None:
    lock = root / "packages" / f"{key}.lock"
    then = lock.stat().st_mtime - seconds
    os.utime(lock, (then, then))


@contextlib.contextmanager
def kept(root: Path, key: str, make: Callable[[Path], None]) -> Iterator[Kept]:
    tree = Cache(root).keep(key, make)
    try:
        yield tree
    finally:
        tree.release()


# ── once ──


@pytest.mark.catalogue("EN-053")
def test_the_same_content_is_unpacked_once(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    write = package_module.write
    monkeypatch.setattr(package_module, "write", lambda tree, where: made.append(where) or write(tree, where))
    entries = (("f", b"1", FILE), ("d/g", b"2", FILE))
    one, same = zip_of(ground.root / "one.zip", *entries), zip_of(ground.root / "same.zip", *entries)
    other = zip_of(ground.root / "other.zip", ("f", b"3", FILE))
    folder = lay(ground.root / "layer", f=b"4")
    for _ in range(2):  # the second time as a host that was started later
        pictures = [picture(ground.placed(code, *layers).task.parent) for code in (one, same) for layers in ((), (one, folder))]
        assert pictures[:2] == pictures[2:]
    assert len(made) == len(ground.trees()) == 2  # the code; the layers
    ground.placed(other, folder, one)
    assert len(made) == len(ground.trees()) == 4  # another code; the layers in another order are other layers
    (folder / "f").write_bytes(b"5")
    assert (ground.placed(one, one, folder).opt / "f").read_bytes() == b"5"
    (folder / "f").chmod(0o755)
    assert (ground.placed(one, one, folder).opt / "f").stat().st_mode & 0o777 == 0o555
    assert len(made) == len(ground.trees()) == 6


def test_a_kept_tree_is_given_again_and_released_twice_without_harm(tmp_path: Path) -> None:
    first = Cache(tmp_path).keep("key", fill(b"1"))
    with kept(tmp_path, "key", never) as second:
        assert first.path == second.path
        assert (second.path / "f").read_bytes() == b"1"
    first.release()
    first.release()
    assert names(tmp_path) == ["key"]


# ── at once ──


def test_who_waited_for_a_tree_gets_it_while_the_other_one_still_has_it(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()
    got: dict[str, Kept] = {}

    def slowly(where: Path) -> None:
        begun.set()
        go.wait(20)
        fill(b"1")(where)

    def first() -> None:
        got["first"] = Cache(tmp_path).keep("key", slowly)

    def second() -> None:
        got["second"] = Cache(tmp_path).keep("key", never)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    begun.wait(20)
    threads[1].start()
    until_waits_for_a_lock(tmp_path / "packages" / "key.lock")
    go.set()
    try:
        threads[0].join(20)
        threads[1].join(2)
        assert set(got) == {"first", "second"}
        assert got["second"].path.joinpath("f").read_bytes() == b"1"
    finally:
        got["first"].release()
        threads[1].join(20)
        got["second"].release()


def until_waits_for_a_lock(path: Path) -> None:
    """Returns when somebody is blocked at the lock of that file (/proc/locks marks it with an arrow), or soon if it cannot be
    seen."""
    inode = f":{path.stat().st_ino} "
    waited = threading.Event()
    for _ in range(500):
        with contextlib.suppress(OSError):
            if any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
                return
        waited.wait(0.002)


def test_many_threads_make_it_once(tmp_path: Path) -> None:
    made: list[Path] = []
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def make(where: Path) -> None:
        made.append(where)
        for number in range(50):
            (where / f"f{number}").write_bytes(b"1")

    def work() -> None:
        try:
            start.wait(20)
            with kept(tmp_path, "key", make) as tree:
                assert len(os.listdir(tree.path)) == 50
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    assert len(made) == 1
    assert names(tmp_path) == ["key"]


HOST = """
import sys, time
from pathlib import Path
from sandbox.package.cache import Cache
from sandbox.package.package import open_package

code, root, place = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
package = open_package(code, (), Cache(Path(root)))
for name in ("task", "opt"):
    Path(place, name).mkdir(parents=True)
package.place(Path(place, "task"), Path(place, "opt"))
package.close()
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe, text=True)


def test_many_processes_make_it_once_and_each_gets_all_of_it(ground: Ground) -> None:
    source = lay(ground.root / "source", **{f"d{number % 7}/f{number}": b"%d" % number for number in range(200)})
    code = zip_folder(source, ground.root / "code.zip")
    hosts = [start(HOST, code, ground.cache_root, ground.root / f"place{number}") for number in range(3)]
    try:
        for host in hosts:
            assert host.stdout is not None
            assert host.stdout.readline() == "ready\n"
        for host in hosts:
            assert host.stdin is not None
            host.stdin.write("\n")
            host.stdin.flush()
        assert [host.wait(20) for host in hosts] == [0, 0, 0]
    finally:
        for host in hosts:
            host.kill()
            host.communicate()
    files = {name: data for name, (kind, _, data) in picture(source).items() if kind == "file"}
    for number in range(3):
        placed = picture(ground.root / f"place{number}" / "task")
        assert {name: data for name, (kind, _, data) in placed.items() if kind == "file"} == files
    assert len(ground.trees()) == 1


# ── whole or not at all ──


@pytest.mark.parametrize("error", [PackageError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_make_that_fails_leaves_nothing_and_the_next_one_begins_anew(tmp_path: Path, error: BaseException) -> None:
    def fail(where: Path) -> None:
        lay(where, **{"half/of/it": b"1", "link": "half"})
        raise error

    with pytest.raises(type(error)):
        Cache(tmp_path).keep("key", fail)
    assert names(tmp_path) == []
    with kept(tmp_path, "key", fill(b"2")) as tree:
        assert picture(tree.path) == {"f": ("file", 0o644, b"2")}
    assert names(tmp_path) == ["key"]


def test_a_full_disk(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that did not fit is named, and nothing of it stays."""
    path = zip_of(ground.root / "code.zip", ("f", b"x" * 1000, FILE), ("g", b"x", FILE))

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sandbox.package.archive.os.write", full)
        with pytest.raises(PackageError) as caught:
            open_package(path, (), ground.cache)
    assert str(caught.value) == f"{ground.cache_root}/packages: No space left on device"
    assert ground.trees() == []
    assert (ground.placed(path).task / "f").read_bytes() == b"x" * 1000


KILLED = """
import sys, time
from pathlib import Path
from sandbox.package.cache import Cache

def make(where):
    (where / "old" / "folder").mkdir(parents=True)
    (where / "old" / "file").write_text("half")
    print("half", flush=True)
    time.sleep(60)

Cache(Path(sys.argv[1])).keep("key", make)
"""


def test_the_half_that_a_killed_host_left_is_replaced(tmp_path: Path) -> None:
    host = start(KILLED, tmp_path)
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == "half\n"
        assert names(tmp_path) == ["key.part"]
    finally:
        host.send_signal(signal.SIGKILL)
        host.communicate()
    assert names(tmp_path) == ["key.part"]
    with kept(tmp_path, "key", fill(b"new")) as tree:
        assert picture(tree.path) == {"f": ("file", 0o644, b"new")}
    assert names(tmp_path) == ["key"]


# ── the package changes while it is read ──


def test_a_zip_that_is_replaced_meanwhile_is_never_kept_under_the_wrong_name(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a build does that runs at the same time: one rename, and each host gets one or the other, now and later."""
    path = Path(zip_of(ground.root / "code.zip", ("f", b"old", FILE)))
    new = Path(zip_of(ground.root / "new.zip", ("f", b"new", FILE)))
    opened = zipfile.ZipFile.__init__

    def replaced(*arguments: object, **settings: object) -> None:
        opened(*arguments, **settings)  # type: ignore[arg-type]
        if new.exists():
            new.rename(path)

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile.__init__", replaced)
        assert (ground.placed(path).task / "f").read_bytes() in (b"old", b"new")
    assert not new.exists()
    assert (ground.placed(path).task / "f").read_bytes() == b"new"


def test_a_layer_that_is_edited_meanwhile_is_never_kept_under_the_wrong_name(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = lay(ground.root / "layer", f=b"old")
    write = package_module.write

    def edited(*arguments: object) -> None:
        (layer / "f").write_bytes(b"new")
        write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(package_module, "write", edited)
        _, places = ground.tried(ground.code, layer)  # to say that it changed is fine, too
        assert places is None or (places.opt / "f").read_bytes() in (b"old", b"new")
    assert (ground.placed(ground.code, layer).opt / "f").read_bytes() == b"new"
    (layer / "f").write_bytes(b"old")
    assert (ground.placed(ground.code, layer).opt / "f").read_bytes() == b"old"


# ── not for ever ──


def test_what_nobody_used_for_a_month_is_removed_when_something_new_comes(tmp_path: Path) -> None:
    for key in ("old", "older", "young", "used"):
        with kept(tmp_path, key, fill(b"1")):
            pass
    for key, seconds in (("old", MONTH), ("older", 12 * MONTH), ("young", MONTH - 2 * 24 * 3600), ("used", MONTH)):
        age(tmp_path, key, seconds)
    with kept(tmp_path, "used", never):
        pass
    assert names(tmp_path) == ["old", "older", "used", "young"]  # only what is made makes room
    with kept(tmp_path, "new", fill(b"1")):
        pass
    assert names(tmp_path) == ["new", "used", "young"]
    assert sorted(path.stem for path in (tmp_path / "packages").glob("*.lock")) == ["new", "used", "young"]
    with kept(tmp_path, "old", fill(b"2")) as again:
        assert (again.path / "f").read_bytes() == b"2"


def test_what_somebody_holds_is_never_removed(tmp_path: Path) -> None:
    with kept(tmp_path, "held", fill(b"1")) as held, kept(tmp_path, "free", fill(b"1")):
        pass
    held = Cache(tmp_path).keep("held", never)
    for key in ("held", "free"):
        age(tmp_path, key, MONTH)
    with kept(tmp_path, "new", fill(b"1")):
        assert names(tmp_path) == ["held", "new"]
    assert (held.path / "f").read_bytes() == b"1"
    held.release()
    age(tmp_path, "held", MONTH)
    with kept(tmp_path, "newer", fill(b"1")):
        assert names(tmp_path) == ["new", "newer"]


def test_the_half_that_a_killed_host_left_goes_too(tmp_path: Path) -> None:
    packages = lay(tmp_path / "packages", **{"dead.lock": b"", "dead.part/f": b"half"})
    age(tmp_path, "dead", MONTH)
    with kept(tmp_path, "new", fill(b"1")):
        assert names(tmp_path) == ["new"]
    assert not (packages / "dead.lock").exists()


def test_a_lock_that_was_there_for_long_is_no_old_tree(tmp_path: Path) -> None:
    """Of a package that could not be unpacked then, and can be now."""
    lay(tmp_path / "packages", **{"key.lock": b""})
    with kept(tmp_path, "old", fill(b"1")):
        pass
    for key in ("key", "old"):
        age(tmp_path, key, MONTH)
    with kept(tmp_path, "key", fill(b"1")):
        assert names(tmp_path) == ["key"]
    with kept(tmp_path, "other", fill(b"1")):
        assert names(tmp_path) == ["key", "other"]


def test_who_opens_a_lock_that_is_removed_at_that_moment_takes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening it and having it: the tree and its lock's name are gone, and a lock without a name guards nothing."""
    with kept(tmp_path, "key", fill(b"old")):
        pass
    flock = cache_module.fcntl.flock
    tricks = 1

    def late(fd: int, how: int) -> None:
        nonlocal tricks
        if tricks:
            tricks -= 1
            packages = tmp_path / "packages"
            cache_module.remove(packages / "key")
            (packages / "key.lock").unlink()
        flock(fd, how)

    monkeypatch.setattr(cache_module.fcntl, "flock", late)
    with kept(tmp_path, "key", fill(b"new")) as tree:
        monkeypatch.undo()
        assert (tree.path / "f").read_bytes() == b"new"
        age(tmp_path, "key", MONTH)
        with kept(tmp_path, "other", fill(b"1")):
            assert names(tmp_path) == ["key", "other"]  # it is really held


# ── where ──


def test_a_root_that_cannot_be_one(ground: Ground) -> None:
    path = zip_of(ground.root / "code.zip", ("f", b"1", FILE))
    root = ground.root / "file"
    root.write_bytes(b"not a folder")
    with pytest.raises(PackageError, match=str(root)):
        open_package(path, (), Cache(root))
    assert root.read_bytes() == b"not a folder"
    open_package(str(ground.code), (), Cache(root)).close()  # a folder needs no cache


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_root_that_is_not_writable(ground: Ground) -> None:
    path = zip_of(ground.root / "code.zip", ("f", b"1", FILE))
    ground.cache_root.mkdir(mode=0o500)
    with pytest.raises(PackageError, match=f"{ground.cache_root}.*Permission denied"):
        open_package(path, (), ground.cache)


def test_the_default_is_below_xdg_cache_home_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lambda-sandbox"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lambda-sandbox"
    code = zip_of(tmp_path / "code.zip", ("f", b"1", FILE))
    open_package(code, (), Cache()).close()
    [tree] = names(cache_folder())
    assert picture(cache_folder() / "packages" / tree) == {"f": ("file", 0o644, b"1")}
    assert (cache_folder() / "packages").stat().st_mode & 0o777 == 0o700


def test_a_relative_xdg_cache_home_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lambda-sandbox"


def test_without_a_home_the_default_is_a_folder_of_the_users_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"lambda-sandbox-cache-{os.getuid()}"
    assert cache_folder() == cache_folder() == own
    assert own.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's folder")
def test_a_folder_that_somebody_else_put_there_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    planted = tmp_path / "lambda-sandbox-cache-0"
    planted.mkdir()
    os.chown(planted, 65534, 65534)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = cache_folder()
    assert root != planted
    assert root.stat().st_uid == 0
    assert root.stat().st_mode & 0o777 == 0o700
    assert list(planted.iterdir()) == []


@pytest.mark.parametrize("how", ["link", "open to all"])
def test_a_folder_where_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A predictable name in a folder where everybody may write: the first one to make it decides what it is."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "documents").mkdir(mode=0o755)
    planted = tmp_path / f"lambda-sandbox-cache-{os.getuid()}"
    if how == "link":
        planted.symlink_to("documents")
    else:
        planted.mkdir()
        planted.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = cache_folder()
    assert not root.is_symlink()
    assert root.stat().st_mode & 0o077 == 0


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = lay(tmp_path / "outside", f=b"1", **{"d/g": b"2"})
    before: Picture = picture(outside)
    tree = lay(tmp_path / "tree", link=str(outside), **{"d/up": "../../outside", "d/f": b"1"})
    cache_module.remove(tree)
    cache_module.remove(tree)
    assert not tree.exists()
    assert picture(outside) == before
