"""What a function is made of: its code and its layers, checked, and ready to be copied for each environment."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sandbox.package.archive import Check, open_zip
from sandbox.package.cache import Cache, Kept
from sandbox.package.folder import FolderCheck, read_folder
from sandbox.package.tree import OPT, TASK, PackageError, Tree, check_links, check_size, merge
from sandbox.package.write import write, write_for_environment

_FORMAT: Final = b"1"  # of what is written into the cache: a new one whenever that changes


class Package:
    """Code and layers of one function version. `place` copies them for an environment; `close` when it is not used any more.

    code, layers: the trees as they were when the package was opened (a code folder may change until it is placed).
    """

    def __init__(self, folder: Path, code: Tree, layers: Tree, kept_code: Kept | None, kept_layers: Kept | None) -> None:
        self._folder = folder  # the user's: each new environment gets it as it is then
        self._kept_code = kept_code
        self._kept_layers = kept_layers
        self.code = code
        self.layers = layers

    @property
    def kept_task(self) -> Path | None:
        """The code, unpacked, for everybody: only to be shown where nobody can write to it. None if it is a user's folder."""
        return self._kept_code.path if self._kept_code is not None else None

    @property
    def kept_opt(self) -> Path | None:
        """The layers, in the same way; None if there are none."""
        return self._kept_layers.path if self._kept_layers is not None else None

    def place(self, task: Path, opt: Path, *, at_home: bool = False) -> None:
        """Copies the trees into the empty folders `task` and `opt`. What a function does to its copy harms nobody else.

        at_home: they will be seen at /var/task and /opt, and cannot be written to: what is kept needs no copy, and links stay
        as they are. Raises PackageError.
        """
        try:
            if at_home:
                self._place_at_home(task)
            else:
                self._place(task, opt)
        except OSError as error:
            raise _told(error, reading=self._folder, writing=task.parent) from None

    def _place_at_home(self, task: Path) -> None:
        if self._kept_code is None:
            tree = read_folder(self._folder, TASK, strict=False)
            check_size([(tree.name, tree.size)])
            write_for_environment(tree, task, None, moving=True)

    def _place(self, task: Path, opt: Path) -> None:
        places = {TASK: task, OPT: opt}
        kept = self._kept_code
        tree = read_folder(kept.path if kept else self._folder, TASK, strict=kept is not None)
        check_size([(tree.name, tree.size)])  # a folder may have grown
        write_for_environment(tree, task, places, moving=kept is None)
        if self._kept_layers is not None:
            write_for_environment(read_folder(self._kept_layers.path, OPT), opt, places)

    def close(self) -> None:
        for kept in (self._kept_code, self._kept_layers):
            if kept is not None:
                kept.release()


def open_package(code: str, layers: Sequence[str], cache: Cache) -> Package:
    """Checks code and layers, and unpacks into the cache what needs it. Raises PackageError."""
    kept: list[Kept] = []
    try:
        with contextlib.ExitStack() as zips:
            return _open(zips, _existing(code), [_existing(layer) for layer in layers], cache, kept)
    except BaseException as error:
        for tree in kept:
            tree.release()
        if isinstance(error, OSError):
            raise _told(error, reading=Path(code), writing=cache.root) from None
        raise


def _open(zips: contextlib.ExitStack, code: Path, layers: list[Path], cache: Cache, kept: list[Kept]) -> Package:
    """`zips` closes the archives, `kept` tells what was locked in the cache."""
    code_tree, code_check = _read(zips, code, TASK)
    read = [(layer, *_read(zips, layer, OPT)) for layer in layers]
    check_size([(tree.name, tree.size) for tree in (code_tree, *(tree for _, tree, _ in read))])
    kept_code = kept_layers = None
    if code_check is not None:
        kept_code = cache.keep(_key(b"task", code_check.digest), partial(_write, code_tree, [code_check]))
        kept.append(kept_code)
    merged = merge(tree for _, tree, _ in read)
    if read:
        check_links(merged)
        checks = [check or FolderCheck(layer, tree) for layer, tree, check in read]
        digests = [type(check).__name__.encode() + check.digest for check in checks]
        kept_layers = cache.keep(_key(b"opt", *digests), partial(_write, merged, checks))
        kept.append(kept_layers)
    return Package(code, code_tree, merged, kept_code, kept_layers)


def _read(zips: contextlib.ExitStack, path: Path, mount: str) -> tuple[Tree, Check | None]:
    """A tree, and the check sum of a .zip; that of a folder is dear, and made when it is needed."""
    if path.is_dir():
        return read_folder(path, mount, strict=mount == OPT), None
    tree, check = zips.enter_context(open_zip(path, mount))
    check_links(tree)
    return tree, check


def _key(*parts: bytes) -> str:
    return hashlib.sha256(_FORMAT + b"".join(parts)).hexdigest()


def _write(tree: Tree, checks: Sequence[Check | FolderCheck], where: Path) -> None:
    """Fills a new folder of the cache: with what its name says, or not at all."""
    write(tree, where)
    for check in checks:
        check.again()


def _told(error: OSError, *, reading: Path, writing: Path) -> PackageError:
    """Names the file, or where it happened: an error of a full disk names none."""
    where = error.filename or (writing if error.errno in (errno.ENOSPC, errno.EDQUOT) else reading)
    return PackageError(f"{where}: {error.strerror or error}")


def _existing(path: str) -> Path:
    found = Path(path)
    if not path:
        raise PackageError("an empty name is no folder and no .zip: is a variable of your script not set?")
    if not found.exists():
        raise PackageError(f"{path}: there is no such folder or .zip")
    if not found.is_dir() and not found.is_file():
        raise PackageError(f"{path}: neither a folder nor a .zip")
    return found.resolve()
