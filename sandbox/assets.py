"""Finds what is shipped beside the code: runtimes and bootstraps, in a checkout or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def asset(*parts: str) -> Path:
    """The path of a shipped file or folder, e.g. asset("runtimes", "python"). Raises FileNotFoundError."""
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"lambda-sandbox was installed without {'/'.join(parts)}: install it again")
