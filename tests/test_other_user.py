"""A part of the tests again as the other kind of user: what root passes, a plain user must pass, too.

Only as root: it becomes a plain user for the time, with a copy of the project and an interpreter that this user
can read. A plain user cannot become root; CI runs as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOME = ("tests/process/test_isolation.py", "tests/process/test_namespace.py", "tests/control/test_first.py")
LONG = "not 1024 and not cancelled and not fails and not twenty"  # and the same for every user
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
USER = 54321  # of nobody else: environments of root are `nobody`
NOT_NEEDED = shutil.ignore_patterns(
    "*.pyc", "*mypy*", "pip*", "setuptools*", "pkg_resources", "grimp*", "_rustgrimp*", "rich*", "ruff*"
)


def readable_python() -> str:
    """An interpreter of this very version (the packages here are compiled for it) that everybody may run. Skips without."""
    for folder in ("/usr/bin", "/usr/local/bin"):
        python = f"{folder}/{VERSION}"
        if os.access(python, os.X_OK):
            return python
    pytest.skip(f"no {VERSION} in /usr: a plain user cannot read {sys.base_prefix}")


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy that everybody can read; pytest's own folders are for its user only."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-other-user-"))
    try:
        folder.chmod(0o755)
        for name in ("sandbox", "tests", "runtimes", "bootstrap", "extensions", "examples"):
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        # Where an interpreter looks by itself: tests start others, without a PYTHONPATH.
        packages = folder / "home" / ".local" / "lib" / VERSION / "site-packages"
        shutil.copytree(sysconfig.get_paths()["purelib"], packages, symlinks=True, ignore=NOT_NEEDED)
        os.chown(folder / "home", USER, USER)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.getuid() != 0, reason="a plain user cannot become another")
def test_a_plain_user_passes_too(checkout: Path) -> None:
    python = readable_python()
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60", "-k", LONG, *SOME],
        cwd=checkout,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(checkout / "home"),
            "TMPDIR": str(checkout / "home"),
            "PYTHONPATH": str(checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        user=USER,
        group=USER,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
