"""Which tier an environment gets here: found by trying, never by version numbers."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.core.errors import SandboxError, Unsupported
from sandbox.process import launcher
from sandbox.process.cgroup import groups
from sandbox.process.launcher import Tree, make_tree
from sandbox.process.nat import NoNatError, missing
from sandbox.process.room import NETWORKS, Network, Room, write_etc

TIERS: Final = ("auto", "process", "namespace")
OUTS: Final = ("auto", "nat", "none", "host")


class Isolation(NamedTuple):
    """tier: "process" or "namespace". exact_memory: the kernel holds the memory limit; else a watchdog does.

    notes: what is missing here, a line for each; empty where a person chose that it should be so.
    """

    tier: str
    network: Network = NETWORKS["host"]
    exact_memory: bool = False
    notes: tuple[str, ...] = ()

    @property
    def backstop(self) -> bool:
        """Whether an allocation far beyond the memory size is refused at once: a watchdog alone would be too late for it."""
        return not self.exact_memory and sys.platform.startswith("linux")

    def tree(self, room: Room | None, joins: Sequence[int] = ()) -> Tree:
        """A tree for one environment. joins: see `cgroup.Group.joins`."""
        if room is None:
            return make_tree(joins)
        from sandbox.process.namespace import NamespaceTree

        return NamespaceTree(room, joins)


PROCESS: Final = Isolation("process")


class Probe(NamedTuple):
    """Whether tier `namespace` works here; if not, why, and what would help."""

    works: bool
    why_not: str | None
    filtered: bool = False


async def probe_namespace(*, disk: bool = False, network: Network = NETWORKS["none"]) -> Probe:
    """Makes an environment, and a listener in it, and ends it: some milliseconds. disk: with a file system for /tmp.

    Raises NoNatError if everything works but the way out.
    """
    if not sys.platform.startswith("linux"):
        return Probe(False, f"{sys.platform} has no namespaces")
    if (why := launcher.guard().why_not) is not None:
        return Probe(False, why)
    folder = Path(tempfile.mkdtemp(prefix="lambda-sandbox-probe-"))
    try:
        return Probe(True, None, await _try(folder, disk, network))
    except NoNatError:
        raise
    except (OSError, SandboxError) as error:
        return Probe(False, str(error).removeprefix("tier namespace: "))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _try(folder: Path, disk: bool, network: Network) -> bool:
    from sandbox.process.disk import make_image
    from sandbox.process.namespace import NamespaceTree

    for name in ("task", "opt"):
        (folder / name).mkdir()
    write_etc(folder / "etc", network)
    image = f"{folder}/tmp.ext4" if disk else None
    room = Room(f"{folder}/task", f"{folder}/opt", f"{folder}/etc", disk=image, network=network)
    if image is not None:
        make_image(Path(image), room.tmp)
    tree = NamespaceTree(room)
    try:
        await tree.start()
        (await tree.listen()).close()
    finally:
        await tree.close()
    return tree.filtered


async def choose(tier: str = "auto", network: str = "auto") -> Isolation:
    """The tier and the network that a host gives its environments, found by trying.

    Raises Unsupported, with the remedy, for what was asked for by name and cannot be had.
    """
    usable = groups()
    if tier == "process":
        return _process(usable.works, network)
    out, notes = _network(network)
    for disk in (True, False) if usable.works else (False,):  # without loop devices /tmp is a tmpfs, not counted as memory
        try:
            probe = await probe_namespace(disk=disk, network=out)
        except NoNatError as error:  # and all the rest works
            if network == "nat":
                raise Unsupported(f"--network nat: {error}") from None
            return Isolation("namespace", NETWORKS["none"], disk, (_no_way_out(str(error)),))
        if probe.works:
            return Isolation("namespace", out, disk, notes)
    if tier == "namespace":
        raise Unsupported(f"--isolation namespace: {probe.why_not}")
    return _process(usable.works, network, f": {probe.why_not}")._replace(
        notes=(f"functions run without isolation: {probe.why_not}",)
    )


def _process(groups_work: bool, network: str, why: str = "") -> Isolation:
    """Control groups take sandbox-init: what that starts is in the group from its first moment. Raises Unsupported."""
    if network in ("none", "nat"):
        raise Unsupported(
            f"--network {network}: only tier namespace has networks of its own, and functions run in tier process{why}"
        )
    return PROCESS._replace(exact_memory=groups_work and launcher.guard().complete)


def _network(wanted: str) -> tuple[Network, tuple[str, ...]]:
    """The network to try. Raises Unsupported."""
    if wanted in ("none", "host"):
        return NETWORKS[wanted], ()
    why = missing()
    if why is None:
        return NETWORKS["nat"], ()
    if wanted == "nat":
        raise Unsupported(f"--network nat: {why}")
    return NETWORKS["none"], (_no_way_out(why),)


def _no_way_out(why: str) -> str:
    return f"functions cannot call out: {why}; --network host gives them this machine's network"
