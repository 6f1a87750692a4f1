"""The tiers that this machine has, side by side, for isolation.py and crowd.py: environments of each, figures, tables."""

from __future__ import annotations

import getpass
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from sandbox import Host
from sandbox.core.errors import SandboxError
from sandbox.host.host import Function
from sandbox.process.init_tree import InitTree
from sandbox.process.isolation import Isolation
from sandbox.process.launcher import Tree, guard
from sandbox.process.namespace import NamespaceTree
from sandbox.process.room import Room

ROOT = Path(__file__).parent.parent


class _Watched(InitTree):
    """A tree that can be waited for, and that notes how much memory each of its processes had when it ended."""

    def __init__(self, joins: Sequence[str] = ()) -> None:
        super().__init__(joins)
        self.peaks: list[int] = []

    async def frozen(self) -> None:
        """Returns when the freeze is complete: every thread has been seen stopped."""
        if self._sweeping is not None:
            await self._sweeping

    def _exited(self, pid: int, status: int, peak: int) -> None:
        self.peaks.append(peak)
        super()._exited(pid, status, peak)


class _WatchedNamespace(NamespaceTree, _Watched):
    def __init__(self, room: Room, joins: Sequence[str]) -> None:
        NamespaceTree.__init__(self, room, joins)


class Watched(Isolation):
    """An isolation that keeps the trees it has made, the newest last."""

    trees: list[_Watched] = []

    def tree(self, room: Room | None, joins: Sequence[str] = ()) -> Tree:
        made = _Watched(joins) if room is None else _WatchedNamespace(room, joins)
        self.trees.append(made)
        return made


class Variant:
    """One tier as environments can have it here. name: "+ cgroup" where the kernel holds the memory limit, "+ nat" with NAT."""

    def __init__(self, host: Host, isolation: Isolation) -> None:
        self.host = host
        self.isolation = isolation
        self.name = isolation.tier + (" + cgroup" if isolation.exact_memory else "")
        if isolation.network.out == "nat":
            self.name += " + nat"

    async def deploy(self, code: Path, *, trees: list[_Watched] | None = None, **settings: object) -> Function:
        """trees: where the trees of its environments are to be kept."""
        function = await self.host.deploy(code, **settings)
        function.isolation = self.isolation
        if trees is not None:
            watched = Watched(*self.isolation)
            watched.trees = trees
            function.isolation = watched
        return function


async def variants(stack: AsyncExitStack, wanted: Sequence[str] = (), *, watchdog: bool = True) -> list[Variant]:
    """What works here, without NAT; what does not is told. watchdog: also without control groups where there are some."""
    if (why := guard().why_not) is not None:
        raise SystemExit(why)
    found = []
    for tier in ("process", "namespace"):
        host = await stack.enter_async_context(Host(isolation=tier, network="none"))
        try:
            isolation = await host.isolation()
        except SandboxError as error:
            print(f"{tier}: left out: {error}")
            continue
        found.append(Variant(host, isolation))
        if isolation.exact_memory and watchdog:
            found.append(Variant(host, isolation._replace(exact_memory=False)))
    return [variant for variant in found if not wanted or variant.name in wanted or variant.isolation.tier in wanted]


async def with_nat(stack: AsyncExitStack) -> list[Variant]:
    """Tier `namespace` with NAT and without a control group, if it works here."""
    host = await stack.enter_async_context(Host(isolation="namespace", network="nat"))
    try:
        return [Variant(host, (await host.isolation())._replace(exact_memory=False))]
    except SandboxError as error:
        print(f"namespace + nat: left out: {error}")
        return []


def compiled(folder: Path, *sources: Path, name: str = "bootstrap") -> Path:
    """A new folder with one C program in it."""
    folder.mkdir()
    include = ["-I", str(ROOT / "bootstrap" / "c")]
    subprocess.run(["cc", "-O2", *include, "-o", str(folder / name), *map(str, sources)], check=True)
    return folder


def p50(found: Sequence[float]) -> float:
    return statistics.median(found)


def p90(found: Sequence[float]) -> float:
    return sorted(found)[min(len(found) - 1, int(len(found) * 0.9))]


def heading(title: str) -> None:
    print(f"\n{title}")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """The first column is text; numbers get one digit behind the point."""
    lines = [list(head), *([f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def machine() -> None:
    system = f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}"
    print(f"{system}, Python {platform.python_version()}, as {getpass.getuser()}, load {os.getloadavg()[0]:.1f}")
