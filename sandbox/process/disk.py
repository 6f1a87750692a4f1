"""A file system of a given size in a file: /tmp where memory is counted by a control group. Mounted by init/stage.c."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from sandbox.assets import cache_folder
from sandbox.core.errors import Unsupported
from sandbox.core.limits import MIB

_INODE: Final = 16384  # bytes of the file system for each file that it can have: ext4's own default
_OVERHEAD: Final = 1.03  # of its tables …
_FIXED: Final = 4 * MIB  # … and what every one has


def make_image(path: Path, size: int) -> None:
    """A sparse file with an ext4 that has room for `size` bytes, copied from one that is kept. Raises Unsupported, OSError."""
    template = cache_folder() / "disks" / f"{size}-{_INODE}.ext4"
    if not template.exists():
        template.parent.mkdir(mode=0o700, exist_ok=True)
        made = template.with_suffix(f".{uuid.uuid4().hex}")
        try:
            _make(made, size)
            made.replace(template)
        finally:
            made.unlink(missing_ok=True)
    _copy(template, path)


def _copy(template: Path, path: Path) -> None:
    """Only the some hundred KB that are not empty."""
    with template.open("rb") as source, path.open("wb") as target:
        size, at = os.fstat(source.fileno()).st_size, 0
        target.truncate(size)
        while True:
            try:
                at = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:  # no more of it
                return
            end = os.lseek(source.fileno(), at, os.SEEK_HOLE)
            while at < end:  # not copy_file_range: the two may be on different kinds of file system
                at += os.pwrite(target.fileno(), os.pread(source.fileno(), min(end - at, MIB), at), at)


def _make(path: Path, size: int) -> None:
    program = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise Unsupported("mkfs.ext4 is not here (Debian: e2fsprogs)")
    with path.open("wb") as file:
        file.truncate(int(size * _OVERHEAD) + _FIXED)
    options = "lazy_itable_init=1,nodiscard"
    command = [program, "-q", "-F", "-m", "0", "-i", str(_INODE), "-O", "^has_journal,^resize_inode", "-E", options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsupported(f"mkfs.ext4: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
