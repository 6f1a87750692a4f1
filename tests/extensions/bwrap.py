"""A machine that looks like Lambda's, for real extensions, which take /opt, /var/task and fixed ports for granted.

bubblewrap shows the file system as it is, but for: a layer at /opt and a code folder at /var/task, both read-only; a /tmp of
its own; an /etc/hosts that knows Lambda's names for the loopback; a network with nothing but that; process ids of its own, so
that nothing outlives the command. It needs no root where users may make namespaces.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
INSTALLED = ROOT / ".cache" / "clients" / "extensions"
COMMAND = str(Path(sys.executable).parent / "sandbox")
HOSTS = b"127.0.0.1 localhost sandbox sandbox.localdomain sandbox.local.domain\n"
HIDDEN = (Path("/opt"), Path("/var/task"), Path("/tmp"))


def folder(name: str, *tools: str) -> Path:
    """What scripts/extensions made. Skips without it; fails in CI, where it is asked for, if the tools to make it are there."""
    path = INSTALLED / name
    if not path.is_dir():
        missing = f"extension {name}: not installed: run scripts/clients"
        if os.environ.get("CI") and sys.platform == "linux" and tools and all(shutil.which(tool) for tool in tools):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


def command(
    arguments: Sequence[str | Path], *, layer: Path | None, code: Path, visible: Sequence[Path] = (), hosts: int = 0
) -> list[str]:
    """The command line that runs `arguments` in there, from /var/task. hosts is a descriptor to read /etc/hosts from.

    Of /tmp and of this machine's own /opt, only `visible` and what Python and this project need is there.
    """
    needed = [ROOT, INSTALLED, Path(sys.prefix), Path(sys.base_prefix), *visible]
    kept = {place for path in needed for place in (path.absolute(), path.resolve()) if _hidden(place)}
    words = ["bwrap", "--die-with-parent", "--unshare-net", "--unshare-pid", *_whole(Path("/"))]
    words += ["--dir", "/tmp", "--chmod", "1777", "/tmp", "--perms", "0755", "--tmpfs", "/opt"]
    for path in sorted(path for path in kept if kept.isdisjoint(path.parents)):
        words += ["--dev-bind", str(path), str(path)]
    if layer is not None:
        entries = sorted(entry for entry in layer.iterdir() if entry.name != ".stamp")
        words += [word for entry in entries for word in _shown(entry, Path("/opt") / entry.name, "--ro-bind")]
    words += ["--remount-ro", "/opt", "--ro-bind", str(code.resolve()), "/var/task", "--chdir", "/var/task"]
    words += ["--proc", "/proc", "--ro-bind-data", str(hosts), "/etc/hosts", "--", *map(str, arguments)]
    return words


def run(
    arguments: Sequence[str | Path],
    *,
    layer: Path | None = None,
    code: Path,
    visible: Sequence[Path] = (),
    environment: dict[str, str] | None = None,
    given: str = "",
    timeout: float = 40,
) -> subprocess.CompletedProcess[str]:
    """Runs a command in there to its end: [sys.executable, driver], or [COMMAND, "invoke", "/var/task", "--layer", "/opt"].

    A driver has to be below `visible` if it is in /tmp. What is still running after the timeout is killed, all of it.
    """
    with tempfile.TemporaryFile() as file:
        file.write(HOSTS)
        file.seek(0)
        words = command(arguments, layer=layer, code=code, visible=visible, hosts=file.fileno())
        return subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "TMPDIR": "/tmp", **(environment or {})},
            pass_fds=[file.fileno()],
            check=False,
        )


@functools.cache
def reason_not() -> str | None:
    """Why this does not work here, in one line."""
    if sys.platform != "linux":
        return "bubblewrap is for Linux"
    if shutil.which("bwrap") is None:
        return "no bwrap here: install bubblewrap"
    with tempfile.TemporaryDirectory() as empty:
        try:
            probe = run([sys.executable, "-c", PROBE], layer=Path(empty), code=Path(empty), timeout=20)
        except subprocess.TimeoutExpired:
            return "bwrap does not come back"
    if probe.returncode == 0:
        return None
    said = (probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"])[-1]
    return f"bwrap cannot make namespaces here: {said}"


PROBE = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("sandbox.localdomain", server.getsockname()[1])).close()
"""


def needs_bwrap() -> None:
    """Skips a test that cannot run here."""
    reason = reason_not()
    if reason:
        pytest.skip(reason)


def _hidden(path: Path) -> bool:
    """Whether what is mounted in there lies over it."""
    return any(place in (path, *path.parents) for place in HIDDEN)


def _whole(top: Path) -> Iterator[str]:
    """The file system without the hidden places: they may not exist here, and nothing must be made on the machine itself."""
    for entry in sorted(top.iterdir()):
        if entry in HIDDEN or entry == Path("/proc"):
            continue
        if any(entry in place.parents for place in HIDDEN):
            yield from ("--perms", "0755", "--dir", str(entry))
            yield from _whole(entry)
        else:
            yield from _shown(entry, entry, "--dev-bind")


def _shown(source: Path, target: Path, how: str) -> tuple[str, ...]:
    if source.is_symlink():
        return ("--symlink", os.readlink(source), str(target))
    return (how, str(source), str(target))
