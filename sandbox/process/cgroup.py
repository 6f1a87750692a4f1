"""The kernel's own limits for one environment, where this user may make control groups.

Only a host that runs as root uses them: a tmpfs is charged to the group of who writes to it, so /tmp must be on a disk, and a
disk of a given size takes root (DECISIONS "/tmp").
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import uuid
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.core.limits import MIB

_PREFIX: Final = "lambda-sandbox-"
_REMOVE_TRIES: Final = 50  # a millisecond apart: the kernel lets go of a dead process a moment after it is reaped


class Groups(NamedTuple):
    """Where groups are made, and the version of the interface; or why there are none.

    processes: where those are made that limit the number of processes, if version 1 has it elsewhere.
    """

    memory: Path | None
    version: int = 0
    processes: Path | None = None
    why_not: str | None = None

    @property
    def works(self) -> bool:
        return self.memory is not None


@functools.cache
def groups() -> Groups:
    """Looks, and tries it."""
    if not Path("/proc/self/cgroup").exists():
        return Groups(None, why_not="this kernel has no control groups")
    if os.geteuid() != 0:
        return Groups(None, why_not="only root gets exact limits, by control groups")
    for found in _candidates():
        with contextlib.suppress(OSError):
            Group(found, f"{_PREFIX}{uuid.uuid4().hex}", 64 * MIB).close()
            return found
    return Groups(None, why_not="no control group here has a memory controller that can be used")


def _candidates() -> list[Groups]:
    """Below our own group of version 1; at the top of version 2, where no process is in the way."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    first: dict[str, Path] = {}
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, where = before.split(" ")[3:5]
        kind, _, options = after.split(" ")[:3]
        if kind == "cgroup2":
            found.append(Groups(Path(where), 2))
        elif kind == "cgroup":
            for controller in {"memory", "pids"} & set(options.split(",")) & set(own):
                first[controller] = Path(where, os.path.relpath(own[controller], root))
    if "memory" in first:
        found.insert(0, Groups(first["memory"], 1, first.get("pids")))
    return found


class Group:
    """One group with a memory limit in bytes. Raises OSError if it cannot be made.

    name: of its folders. processes: how many may be in it at a time, threads counted; None for no limit, or where the kernel
    has none.
    """

    def __init__(self, where: Groups, name: str, memory: int, processes: int | None = None) -> None:
        assert where.memory is not None
        self._version = where.version
        self._joins: list[int] = []
        self._memory = where.memory / name
        self._processes = where.processes / name if where.processes is not None and processes is not None else None
        try:
            if self._version == 2:
                (where.memory / "cgroup.subtree_control").write_text("+memory +pids")
                self._memory.mkdir()
                (self._memory / "memory.max").write_text(str(memory))
                (self._memory / "pids.max").write_text(str(processes or "max"))
                with contextlib.suppress(OSError):  # a kernel without swap
                    (self._memory / "memory.swap.max").write_text("0")
                return
            self._memory.mkdir()
            (self._memory / "memory.limit_in_bytes").write_text(str(memory))
            with contextlib.suppress(OSError):  # not counted by this kernel
                (self._memory / "memory.memsw.limit_in_bytes").write_text(str(memory))
            if self._processes is not None:
                self._processes.mkdir()
                (self._processes / "pids.max").write_text(str(processes))
        except OSError:
            self.close()
            raise

    def joins(self) -> list[int]:
        """Descriptors: a process of one thread that writes "0" is in the group from then on, with all that it starts.

        That is had at once; from outside it would take a lock of the kernel's for 12 ms.
        """
        if not self._joins:
            name = "cgroup.procs" if self._version == 2 else "tasks"
            self._joins = [os.open(folder / name, os.O_WRONLY | os.O_CLOEXEC) for folder in self._folders()]
        return self._joins

    def _folders(self) -> list[Path]:
        return [folder for folder in (self._memory, self._processes) if folder is not None]

    def kills(self) -> int:
        """How many processes the kernel has killed because the group's memory was full."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        try:
            words = (self._memory / name).read_text().split()
        except OSError:
            return 0
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0

    def watch(self) -> int:
        """A descriptor (an eventfd) that can be read when memory was full; -1 where the kernel tells it in no such way."""
        if self._version != 1:
            return -1
        told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with (self._memory / "memory.oom_control").open() as control:
            (self._memory / "cgroup.event_control").write_text(f"{told} {control.fileno()}")
        return told

    def close(self) -> None:
        """Everybody in it has ended."""
        for fd in self._joins:
            os.close(fd)
        self._joins = []
        for folder in self._folders():
            _remove(folder)


def remove_groups(name: str) -> None:
    """What a host that was killed has left under this name."""
    found = groups()
    for folder in (found.memory, found.processes):
        if folder is not None:
            _remove(folder / name)


def _remove(folder: Path) -> None:
    for _ in range(_REMOVE_TRIES):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.001)
        else:
            return
