"""Where the files of one environment are: for its processes, and on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.assets import asset
from sandbox.core.limits import DEFAULT_TMP_MB, MIB
from sandbox.host.interpreters import Interpreter
from sandbox.package.package import Package
from sandbox.process import room as rooms
from sandbox.process.isolation import Isolation
from sandbox.process.room import Room
from sandbox.process.variables import Places

_HOPS: Final = 40  # Linux's own limit for links that lead to links
_FOLDERS: Final = {"python": "python", "nodejs": "node", "ruby": "ruby"}  # of our runtimes, by language


@dataclass(frozen=True, slots=True)
class Site:
    """places: as the processes see them; real: as this machine does. In tier `process` they are the same.

    room: what they find around them in tier `namespace`. wrapper: the program behind AWS_LAMBDA_EXEC_WRAPPER, as they see it.
    """

    places: Places
    real: Places
    wrapper: str
    room: Room | None = None

    def seen(self, path: str) -> str:
        """A path of this machine as the processes see it."""
        return _moved(path, self.real, self.places) if self.room is not None else path

    def real_path(self, path: str) -> str:
        """A path of the processes as this machine sees it."""
        return _moved(path, self.places, self.real) if self.room is not None else path

    def file(self, path: str) -> Path:
        """The file behind a path of the processes, on this machine: its last part may be a link to anywhere they see."""
        for _ in range(_HOPS):
            real = Path(self.real_path(path))
            if not real.is_symlink():
                break
            path = os.path.normpath(Path(path).parent / real.readlink())
        return real

    def prepare(self) -> None:
        """Makes what has to be there before the first process. Raises OSError, SandboxError."""
        if self.room is not None:
            rooms.write_etc(Path(self.room.etc), self.room.network)
            if self.room.disk is not None:
                from sandbox.process.disk import make_image

                make_image(Path(self.room.disk), self.room.tmp)

    def furnish(self, package: Package) -> None:
        """Puts code and layers there. Raises PackageError."""
        package.place(Path(self.real.task), Path(self.real.opt), at_home=self.room is not None)


def site(
    folder: Path, isolation: Isolation, interpreter: Interpreter | None, package: Package, tmp_mb: int = DEFAULT_TMP_MB
) -> Site:
    """The places of an environment whose own folder is `folder`, with `task`, `opt` and `tmp` in it."""
    runtime = str(asset("runtimes", _FOLDERS[interpreter.language])) if interpreter else f"{folder}/runtime"
    wrapper = str(asset("runtimes", "bootstrap"))
    if isolation.tier == "process":
        places = Places(
            f"{folder}/task", f"{folder}/opt", runtime, f"{folder}/tmp", interpreter.prefix if interpreter else None
        )
        return Site(places, places, wrapper)
    language = rooms.home_of_language(interpreter.prefix) if interpreter else None
    real = Places(
        task=str(package.kept_task or folder / "task"),
        opt=str(package.kept_opt or folder / "opt"),
        runtime=runtime,
        tmp="",
        language=language or (interpreter.prefix if interpreter else None),
    )
    places = Places(rooms.TASK, rooms.OPT, rooms.RUNTIME, rooms.TMP, rooms.LANGUAGE if language is not None else real.language)
    room = Room(
        real.task,
        real.opt,
        etc=f"{folder}/etc",
        runtime=runtime if interpreter else None,
        wrapper=wrapper if interpreter else None,
        language=rooms.shown_of_language(language, interpreter.path) if interpreter and language else None,
        tmp=tmp_mb * MIB,
        disk=f"{folder}/tmp.ext4" if isolation.exact_memory else None,
        network=isolation.network,
    )
    return Site(places, real, rooms.WRAPPER, room)


def _moved(path: str, old: Places, new: Places) -> str:
    """The same file from the other side. The longest folder that holds it counts."""
    pairs = [(before, after) for before, after in zip(old, new, strict=True) if before and after]
    for before, after in sorted(pairs, key=lambda pair: -len(pair[0])):
        if path == before or path.startswith(before + os.sep):
            return after + path[len(before) :]
    return path
