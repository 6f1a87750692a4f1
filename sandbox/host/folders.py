"""Folders of an environment: what functions leave in them must not keep them there."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.process.cgroup import remove_groups

_PREFIX = "lambda-sandbox-"
_swept = False


def make_folder() -> tuple[Path, int]:
    """A new environment's folder with `tmp`, `task` and `opt` in it, and its lock, a descriptor to be closed after removal."""
    global _swept
    if not _swept:
        _swept = True
        _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    for name in ("tmp", "task", "opt"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)  # whatever the umask: as root, functions are another user
    lock = os.open(folder / "lock.new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / "lock.new").rename(folder / "lock")  # only now can another host's sweep see it: it finds it held
    return folder, lock


def _sweep(where: Path) -> None:
    """Removes what hosts left that were killed: a lock that nobody holds has no host any more, whatever its process id."""
    for lock in where.glob(f"{_PREFIX}*/lock"):
        try:
            if lock.stat().st_uid != os.getuid():
                continue
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_groups(lock.parent.name)
            remove_tree(lock.parent)
        except (OSError, subprocess.SubprocessError):  # in use; or it cannot be removed now, and the next host tries again
            continue
        finally:
            os.close(fd)


def remove_tree(folder: Path) -> None:
    """Removes a folder and all in it, folders that a function made read-only included. Raises OSError if some stays.

    Nothing outside of it is touched: what it is in may be /tmp.
    """
    folder = folder.absolute()

    def make_writable_and_retry(again: Callable[..., Any], path: str, _: Any) -> None:
        for part in (Path(path).parent, Path(path)):
            if part.is_relative_to(folder) and not part.is_symlink() and part.is_dir():
                part.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    try:
        if sys.version_info >= (3, 12):
            shutil.rmtree(folder, onexc=make_writable_and_retry)
        else:
            shutil.rmtree(folder, onerror=make_writable_and_retry)
    except RecursionError:  # a thousand folders, one in the other: this program goes down without recursion
        subprocess.run(["rm", "-rf", "--", str(folder)], check=True, capture_output=True)


async def to_the_end(work: Callable[[], None]) -> None:
    """Done in a thread, to its end even if nobody waits any more: a folder must not be removed while it is being filled."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise
