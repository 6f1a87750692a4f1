"""SQLite databases with numbered migrations: PRAGMA user_version is the number of the last one that was done."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from sandbox.core.errors import ConfigError


def open_database(path: Path, package: str) -> sqlite3.Connection:
    """Opens or makes it, and brings its tables up to date. package: the one with the folder `migrations`.

    What was committed is on disk (synchronous FULL): a machine that loses its power does not lose it. Raises sqlite3.Error;
    ConfigError: it is from a newer version.
    """
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        _migrate(database, path, list(migrations(package)))
    except BaseException:
        database.close()
        raise
    return database


def _migrate(database: sqlite3.Connection, path: Path, known: list[str]) -> None:
    done = int(database.execute("PRAGMA user_version").fetchone()[0])
    if done > len(known):
        raise ConfigError(
            f"--data {path.parent}: it was written by a newer lambda-sandbox (its tables are version {done}, "
            f"this one knows {len(known)}): update lambda-sandbox, or take another folder"
        )
    for number, script in enumerate(known[done:], done + 1):
        with contextlib.closing(database.cursor()) as cursor:
            cursor.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def migrations(package: str) -> Iterator[str]:
    """The scripts in the order of their numbers."""
    folder = resources.files(package) / "migrations"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            yield file.read_text(encoding="utf-8")
