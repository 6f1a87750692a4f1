"""Unpacked packages, kept by content: what was unpacked once is there at the next start. Shared by hosts, never by functions.

A tree is made under another name and renamed when it is whole; whoever uses one holds a lock, and what nobody has used for
a month is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Final

from sandbox.assets import cache_folder

_UNUSED_AFTER: Final = 30 * 24 * 3600


class Kept:
    """A tree in the cache that stays there until `release`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Cache:
    """Trees by key, below `root`; that folder is made when something is kept."""

    def __init__(self, root: Path | None = None) -> None:
        self._given = root

    @cached_property
    def root(self) -> Path:
        return (self._given or cache_folder()) / "packages"

    def keep(self, key: str, make: Callable[[Path], None]) -> Kept:
        """The tree of that key; `make` fills a new folder if there is none yet. Raises what it raises, and OSError."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._lock(key, fcntl.LOCK_SH)  # says that the tree is used
        try:
            if not (self.root / key).is_dir():
                self._make(key, make)
            os.utime(lock)
        except BaseException:
            os.close(lock)
            raise
        return Kept(self.root / key, lock)

    def _lock(self, name: str, how: int) -> int:
        """A lock of that name, waited for. Who removes one holds it alone: then it is made anew."""
        path = self.root / f"{name}.lock"
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, how)
                if os.fstat(lock).st_ino == path.stat().st_ino:
                    return lock
            except FileNotFoundError:
                pass  # it was removed in between
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _make(self, key: str, make: Callable[[Path], None]) -> None:
        """One makes it, the others wait for that."""
        path, part = self.root / key, self.root / f"{key}.part"
        making = self._lock(f"{key}.making", fcntl.LOCK_EX)
        try:
            if path.is_dir():
                return
            remove(part)  # of a host that was killed
            part.mkdir(mode=0o700)
            try:
                make(part)
                part.rename(path)
            except BaseException:
                remove(part)
                raise
            self._remove_unused(os.fstat(making).st_mtime)
        finally:
            (self.root / f"{key}.making.lock").unlink(missing_ok=True)  # who waits for it makes another one
            os.close(making)

    def _remove_unused(self, now: float) -> None:
        for name in self.root.glob("*.lock"):
            with contextlib.suppress(OSError):  # in use, or gone: not ours to remove
                if now - name.stat().st_mtime < _UNUSED_AFTER:
                    continue
                lock = os.open(name, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(name.with_suffix(""))
                    remove(name.with_suffix(".part"))
                    name.unlink()
                finally:
                    os.close(lock)


def remove(folder: Path) -> None:
    """Removes a tree of the cache, if it is there; its folders are the user's own, and writable."""
    if folder.exists():
        shutil.rmtree(folder)
