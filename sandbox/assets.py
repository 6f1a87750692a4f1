"""Finds what is shipped beside the code (runtimes, bootstraps), in a checkout or inside an installed wheel; and the folder for
what is kept between two runs."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def asset(*parts: str) -> Path:
    """The path of a shipped file or folder, e.g. asset("runtimes", "python"). Raises FileNotFoundError."""
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"lambda-sandbox was installed without {'/'.join(parts)}: install it again")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/lambda-sandbox, or ~/.cache/lambda-sandbox, or a folder of the user's where temporary files are."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    for root in (Path(base, "lambda-sandbox"), Path(tempfile.gettempdir(), f"lambda-sandbox-cache-{os.getuid()}")):
        if root.is_absolute():
            with contextlib.suppress(OSError):
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                about = root.lstat()  # whoever may write into it could put code into a function
                if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022:
                    return root
    return Path(tempfile.mkdtemp(prefix="lambda-sandbox-cache-"))
