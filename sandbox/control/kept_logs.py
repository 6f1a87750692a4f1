"""Logs on disk: a folder for each log group, a file for each execution environment, one JSON document a line."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, unquote

from sandbox.control.logs import LogLine, Shipper
from sandbox.telemetry.journal import iso

FOLDER: Final = "logs"
_SUFFIX: Final = ".jsonl"
_NAME: Final = 240  # bytes of a file's name, without its suffix


class LogFolder(Shipper):
    """A journal's subscriber. folder: of the store. Each line: time, function, version, requestId, message."""

    what = "logs"
    every = 0.25

    def __init__(self, folder: Path, *rest: Any) -> None:
        self._folder = folder / FOLDER
        with contextlib.suppress(OSError):  # told when the first line cannot be written
            self._folder.mkdir(parents=True, exist_ok=True)
        super().__init__(*rest)

    def deliver(self, group: str, stream: str, lines: list[LogLine]) -> None:
        path = stream_file(self._folder, group, stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            end = file.tell()
            file.seek(max(0, end - 1))
            cut_off = b"\n" if file.read(1) not in (b"", b"\n") else b""  # by a host that was killed
            try:
                file.write(cut_off + b"".join(_encoded(line) for line in lines))
                file.flush()
            except OSError:
                file.truncate(end)  # half a line would spoil the next one
                raise


def _encoded(line: LogLine) -> bytes:
    document: dict[str, Any] = {"time": iso(line.wall), "function": line.function, "version": line.version}
    if line.request_id is not None:
        document["requestId"] = line.request_id
    document["message"] = line.message
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def stream_file(folder: Path, group: str, stream: str) -> Path:
    return folder / _file_name(group) / f"{_file_name(stream)}{_SUFFIX}"


def _file_name(name: str) -> str:
    """A file system takes neither a slash nor `..`, and 255 bytes; a longer name ends in a digest of itself."""
    quoted = quote(name, safe="").replace(".", "%2E")
    return quoted if len(quoted) <= _NAME else f"{quoted[: _NAME - 41]}~{hashlib.sha1(name.encode()).hexdigest()}"


def _plain(function: str) -> str:
    """The name alone: of an ARN, or of a name with a version or an alias."""
    return function.partition(":function:")[2].partition(":")[0] or function.partition(":")[0]


class Reader:
    """Reads what is kept below `folder` (that of the store), and what comes: each call of `read` gives what is new.

    function: whose; or, beginning with a slash, a log group. request_id: only lines of that request.
    """

    def __init__(self, folder: Path, function: str, request_id: str | None = None) -> None:
        self._folder = folder / FOLDER
        self._function = function if function.startswith("/") else _plain(function)
        self._request_id = request_id
        self._at: dict[Path, int] = {}

    @property
    def functions(self) -> set[str]:
        """Those that have logs, by the default names of their groups."""
        prefix = "/aws/lambda/"
        names = (unquote(path.name) for path in self._folder.iterdir()) if self._folder.is_dir() else ()
        return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}

    def read(self) -> list[dict[str, Any]]:
        """What is new, in the order of time. Raises OSError."""
        found = [line for path in self._files() for line in self._new_lines(path)]
        return sorted(found, key=lambda line: str(line["time"]))

    def _files(self) -> Iterator[Path]:
        if self._folder.is_dir():
            for group in sorted(self._folder.iterdir()):
                if not self._function.startswith("/") or group.name == _file_name(self._function):
                    yield from sorted(group.glob(f"*{_SUFFIX}"))

    def _new_lines(self, path: Path) -> Iterator[dict[str, Any]]:
        if path.stat().st_size == self._at.get(path, 0):
            return
        with path.open("rb") as file:
            file.seek(self._at.get(path, 0))
            for line in self._whole_lines(path, file):
                try:
                    document = json.loads(line)
                except ValueError:  # of a host that was killed while it wrote
                    continue
                if self._wanted(document):
                    yield document

    def _whole_lines(self, path: Path, file: BinaryIO) -> Iterator[bytes]:
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            self._at[path] = self._at.get(path, 0) + len(line)
            yield line

    def _wanted(self, line: Any) -> bool:
        if not isinstance(line, dict) or not line.keys() >= {"time", "function", "message"}:
            return False  # damaged
        if self._request_id is not None and line.get("requestId") != self._request_id:
            return False
        return self._function.startswith("/") or line["function"] == self._function
