"""What a function is made of: its code and its layers, checked, and ready to be copied for each environment."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from sandbox.package.archive import open_zip
from sandbox.package.cache import Cache, Kept
from sandbox.package.folder import digest, file_digest, read_folder
from sandbox.package.tree import OPT, TASK, PackageError, Tree, check_links, check_size, merge
from sandbox.package.write import write, write_for_environment


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

    def place(self, task: Path, opt: Path) -> None:
        """Copies the trees into the empty folders `task` and `opt`. What a function does to its copy harms nobody else.

        Raises PackageError, OSError.
        """
        places = {TASK: task, OPT: opt}
        kept = self._kept_code
        tree = read_folder(kept.path if kept else self._folder, TASK, strict=kept is not None)
        write_for_environment(tree, task, places)
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
            raise PackageError(f"{error.filename or code}: {error.strerror or error}") from None
        raise


def _open(zips: contextlib.ExitStack, code: Path, layers: list[Path], cache: Cache, kept: list[Kept]) -> Package:
    """`zips` closes the archives, `kept` tells what was locked in the cache."""
    if code.is_dir():
        code_tree = read_folder(code, TASK, strict=False)
    else:
        code_tree = zips.enter_context(open_zip(code, TASK))
        check_links(code_tree)
    trees = [_layer(zips, layer) for layer in layers]
    check_size({tree.name: tree.size for tree in (code_tree, *(tree for tree, _ in trees))})
    kept_code = kept_layers = None
    if not code.is_dir():
        key = hashlib.sha256(b"task" + file_digest(code)).hexdigest()
        kept_code = cache.keep(key, lambda where: write(code_tree, where))
        kept.append(kept_code)
    merged = merge(tree for tree, _ in trees)
    if trees:
        check_links(merged)
        key = hashlib.sha256(b"opt" + b"".join(check for _, check in trees)).hexdigest()
        kept_layers = cache.keep(key, lambda where: write(merged, where))
        kept.append(kept_layers)
    return Package(code, code_tree, merged, kept_code, kept_layers)


def _existing(path: str) -> Path:
    found = Path(path)
    if not found.exists():
        raise PackageError(f"{path}: there is no such folder or .zip")
    if not found.is_dir() and not found.is_file():
        raise PackageError(f"{path}: neither a folder nor a .zip")
    return found.resolve()


def _layer(zips: contextlib.ExitStack, path: Path) -> tuple[Tree, bytes]:
    """A layer's tree, and a check sum of its content."""
    if path.is_dir():
        tree = read_folder(path, OPT)
        return tree, b"folder" + bytes.fromhex(digest(tree, path))
    tree = zips.enter_context(open_zip(path, OPT))
    check_links(tree)
    return tree, b"zip" + file_digest(path)
