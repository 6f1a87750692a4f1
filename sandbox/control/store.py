"""What the service keeps: a SQLite database (WAL) and, beside it, code and layers as files named by their content.

All work with the database is done in one thread, a transaction at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from sandbox.control.database import open_database
from sandbox.control.tables import Tables
from sandbox.core.errors import ConfigError
from sandbox.core.function import DEFAULT_REGION

T = TypeVar("T")

_DATABASE: Final = "lambda.sqlite3"
_ORPHAN: Final = ".part"


def code_sha256(data: bytes) -> str:
    """As CodeSha256 has it (CP-009)."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Blobs:
    """Files named by the SHA-256 of their bytes, in hexadecimal."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.fresh: set[str] = set()  # those that the transaction under way has made

    def put(self, data: bytes) -> str:
        """Its name; when this returns it is on disk. Raises OSError."""
        name = hashlib.sha256(data).hexdigest()
        path = self.path(name)
        if path.exists():
            return name
        part = self._root / f"{name}.{secrets.token_hex(4)}{_ORPHAN}"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            self.fresh.add(name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return name

    def path(self, name: str) -> Path:
        return self._root / name

    def size(self, name: str) -> int:
        return self.path(name).stat().st_size

    def keep_only(self, names: set[str]) -> None:
        """Removes the others, and what a host left that was killed."""
        for path in self._root.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)


class Store:
    """folder: where everything is kept; None for a temporary one, which is removed at the end. region: that of its ARNs.

    Raises ConfigError: the folder is in use, is from a newer version or of another region, or cannot be written to.
    """

    def __init__(self, folder: Path | None = None, region: str = DEFAULT_REGION) -> None:
        self._temporary = folder is None
        self.folder = folder if folder is not None else Path(tempfile.mkdtemp(prefix="lambda-sandbox-data-"))
        self._thread = ThreadPoolExecutor(1, "store")
        self._lock = -1
        self._database: sqlite3.Connection | None = None
        try:
            self._lock = _lock(self.folder, temporary=self._temporary)
            (self.folder / "blobs").mkdir(exist_ok=True)
            self.blobs = Blobs(self.folder / "blobs")
            self._database = self._thread.submit(open_database, self.folder / _DATABASE, "sandbox.control").result()
            self._thread.submit(self._transact, lambda tables: _check_region(tables, self.folder, region)).result()
            self.blobs.keep_only(self._thread.submit(lambda: Tables(self._connection).blobs()).result())
        except (OSError, sqlite3.Error) as error:
            self._release()
            what = (
                getattr(error, "strerror", None) or f"{error}: no data folder of lambda-sandbox, or damaged: take another one"
            )
            raise ConfigError(f"--data {self.folder}: {what}") from None
        except BaseException:
            self._release()
            raise

    async def transact(self, work: Callable[[Tables], T]) -> T:
        """Does it in one transaction: all of it, or nothing. Raises what it raises, and sqlite3.Error."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[Tables], T]) -> T:
        database = self._connection
        self.blobs.fresh.clear()
        database.execute("BEGIN IMMEDIATE")
        try:
            result = work(Tables(database))
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk may have ended it
                database.execute("ROLLBACK")
            for name in self.blobs.fresh:  # what was refused is not kept
                self.blobs.path(name).unlink(missing_ok=True)
            raise
        return result

    async def tidy(self, used: set[str]) -> None:
        """Removes the blobs that nobody needs any more. used: those of versions that still serve, whatever the tables say."""
        await self.transact(lambda tables: self.blobs.keep_only(tables.blobs() | used))

    def announce(self, endpoint: str) -> None:
        """Writes down who uses the folder, for commands that are given it."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, endpoint.encode(), 0)

    def close(self) -> None:
        """Everything is on disk then; a temporary folder is gone."""
        self._release()

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database

    def _release(self) -> None:
        if self._database is not None:
            self._thread.submit(self._database.close).result()
            self._database = None
        self._thread.shutdown()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


def _lock(folder: Path, *, temporary: bool) -> int:
    """Says that the folder is in use. A temporary one has its lock as environments' folders have theirs: if this host is
    killed, the next one's sweep removes it (host/folders.py). No other folder may have such a lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = "lock.new" if temporary else "in-use"
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)  # whose it was
        if temporary:
            (folder / name).rename(folder / "lock")
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(f"--data {folder}: another process is using it; end that one, or take another folder") from None
    return lock


def _check_region(tables: Tables, folder: Path, region: str) -> None:
    """ARNs are kept as they were given out."""
    if (kept := tables.region(region)) != region:
        raise ConfigError(f"--data {folder}: its functions are in {kept}: start with --region {kept}, or take another folder")


def look(folder: Path, work: Callable[[Tables], T]) -> T:
    """Does it with the tables of a folder, whether a host uses it or not. Raises ConfigError."""
    try:
        with contextlib.closing(open_database(folder / _DATABASE, "sandbox.control")) as database:
            return work(Tables(database))
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"--data {folder}: {_DATABASE}: {error}") from None
