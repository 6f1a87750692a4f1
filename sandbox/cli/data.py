"""Finds the data folder that a command is about: by --data, or by asking the `sandbox serve` that runs on this machine."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from sandbox.core.errors import ConfigError

_TIMEOUT: Final = 10.0  # seconds
_DEFAULT: Final = "http://127.0.0.1:3001"

option = click.option(
    "--data", "data_", metavar="DIR", help="The folder of `sandbox serve --data`; else the one that runs here is asked."
)


class Place(NamedTuple):
    """folder: with everything that is kept. endpoint: of the host that uses it now, None if none does."""

    folder: Path
    endpoint: str | None


def find(data: str | None) -> Place:
    """Raises ConfigError."""
    if data is None:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_LAMBDA", _DEFAULT).rstrip("/")
        return Place(Path(_folder_of(endpoint)), endpoint)
    folder = Path(data)
    if not (folder / "lambda.sqlite3").is_file():
        raise ConfigError(f"--data {data}: no data folder of `sandbox serve --data`")
    user = _in_use_by(folder)
    if user is None:
        return Place(folder, None)
    if not user or not folder.samefile(_folder_of(user)):  # asking also brings what is new to disk
        raise ConfigError(f"--data {data}: a host that is starting, or does not serve, uses it: try again when it is ready")
    return Place(folder, user)


def _in_use_by(folder: Path) -> str | None:
    """The endpoint of who holds the lock, empty if that is not known; None if nobody does."""
    try:
        with (folder / "in-use").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip()
    except FileNotFoundError:
        pass
    return None


def _folder_of(endpoint: str) -> str:
    about = ask(endpoint, "GET", "about")
    return str(about["data"])


_ANSWERS: Final = {
    "about": ("data",),
    "queue": ("queued", "ended", "undelivered"),
    "replay": ("events", "messages"),
    "discard": ("discarded",),
}


def ask(endpoint: str, method: str, what: str, document: Any = None) -> dict[str, Any]:
    """What `sandbox serve` answers to one of our own requests. Raises ConfigError."""
    body = json.dumps(document).encode() if document is not None else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        url, kind = f"{endpoint}/_sandbox/{what}", {"Content-Type": "application/json"}
        with opener.open(urllib.request.Request(url, body, kind, method=method), timeout=_TIMEOUT) as answer:
            found = json.load(answer)
        if not isinstance(found, dict) or not all(key in found for key in _ANSWERS[what]):
            raise ConfigError(f"{endpoint}: what answers there is no `sandbox serve`; name a folder with --data")
        return found
    except urllib.error.HTTPError as error:
        said = error.read(300).decode("utf-8", "replace")
        raise ConfigError(
            f"{endpoint}: what answers there is no `sandbox serve`, or an older one: {error.code} {said}"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        text = getattr(why, "strerror", None) or why
        raise ConfigError(
            f"no `sandbox serve` answers at {endpoint}: {text}; start it, or name its folder with --data"
        ) from None
