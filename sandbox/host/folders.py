"""Folders of an environment: what functions leave in them must not keep them there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def remove_tree(folder: Path) -> None:
    """Removes a folder and all in it, folders that a function made read-only included. Raises OSError if some stays."""

    def make_writable_and_retry(again: Callable[..., Any], path: str, _: Any) -> None:
        for part in (Path(path).parent, Path(path)):
            if not part.is_symlink() and part.is_dir():
                part.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=make_writable_and_retry)
    else:
        shutil.rmtree(folder, onerror=make_writable_and_retry)
