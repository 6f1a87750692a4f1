"""What the processes of an environment of tier `namespace` find around them, and the bubblewrap arguments that make it so."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.core.limits import DEFAULT_TMP_MB, MIB

UID: Final = 993  # sbx_user1051, as on Lambda
GID: Final = 990
HOSTNAME: Final = "169.254.100.1"  # Lambda's are link-local addresses, too
TASK: Final = "/var/task"
OPT: Final = "/opt"
RUNTIME: Final = "/var/runtime"
LANGUAGE: Final = "/var/lang"
WRAPPER: Final = "/var/rapid/bootstrap"  # what starts a managed runtime through AWS_LAMBDA_EXEC_WRAPPER
TMP: Final = "/tmp"
_ETC: Final = {
    "hosts": "127.0.0.1 localhost sandbox sandbox.localdomain sandbox.local.domain\n",
    "passwd": f"""root:x:0:0:root:/root:/bin/sh
sbx_user1051:x:{UID}:{GID}::/home/sbx_user1051:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
""",
    "group": f"root:x:0:\nsbx_user1051:x:{GID}:\nnobody:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_NAT_RESOLVER: Final = "nameserver 10.0.2.3\n"  # slirp4netns listens there, and asks this machine's own
# Of this machine's /etc: certificates, what /usr has links to, and Java's settings. Each bind costs a fifth of a millisecond.
_FROM_HERE: Final = ("ssl", "pki", "alternatives", "crypto-policies", "java-*")
_LINKER: Final = "ld.so.cache"
_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr, or folders of their own
_STORES: Final = ("/nix/store", "/gnu/store")  # where everything is that /usr has elsewhere


class Network(NamedTuple):
    """own: the environment has a network of its own. out: how functions reach the world: "nat", "host" or "none"."""

    own: bool
    out: str


NETWORKS: Final = {"none": Network(True, "none"), "nat": Network(True, "nat"), "host": Network(False, "host")}


class Room(NamedTuple):
    """Paths of this machine. etc: see `write_etc`. tmp: bytes of /tmp. disk: the image of a file system that is /tmp instead
    (see disk.py)."""

    task: str
    opt: str
    etc: str
    runtime: str | None = None
    wrapper: str | None = None
    language: tuple[str, str] | None = None  # what of an interpreter is shown, and where
    tmp: int = DEFAULT_TMP_MB * MIB
    disk: str | None = None
    network: Network = NETWORKS["none"]

    def sources(self) -> list[tuple[str, str]]:
        """What is shown read-only, and where: everything that may lie where only this user can reach it."""
        shown = [(self.etc, "/etc"), (self.task, TASK), (self.opt, OPT)]
        shown += [(source, place) for source, place in ((self.runtime, RUNTIME), (self.wrapper, WRAPPER)) if source is not None]
        return [*shown, self.language] if self.language is not None else shown


def write_etc(folder: Path, network: Network) -> None:
    """Makes an environment's own /etc. Raises OSError."""
    folder.mkdir()
    for name, text in _ETC.items():
        (folder / name).write_text(text)
    if network.out == "nat":
        (folder / "resolv.conf").write_text(_NAT_RESOLVER)
    copies = [_LINKER, "resolv.conf"] if network.out == "host" else [_LINKER]
    for name in copies:
        if Path("/etc", name).exists():
            shutil.copyfile(Path("/etc", name), folder / name)
    for path in _from_here():
        (folder / path.name).mkdir()
    for path in (folder, *folder.iterdir()):  # whatever the umask
        path.chmod(0o755 if path.is_dir() else 0o644)


def arguments(room: Room, *, staged: bool) -> list[str]:
    """bubblewrap's arguments, without a command. staged: the sources are at /tmp/0, /tmp/1, … (see init/stage.c)."""
    words = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(UID), "--gid", str(GID)]
    # No --die-with-parent: if bubblewrap's first process dies before its second one has been let go, that waits for ever. With
    # the end of its socket pid 1 leaves by itself, and with bubblewrap's end, too.
    words += ["--cap-drop", "ALL", "--new-session", "--as-pid-1", "--hostname", HOSTNAME]
    if not room.network.own:
        words.append("--share-net")
    words += _system()
    words += ["--perms", "0755", "--dir", "/var"]
    if room.runtime is None:
        words += ["--perms", "0755", "--dir", RUNTIME]
    for number, (source, place) in enumerate(room.sources()):
        words += ["--ro-bind", f"/tmp/{number}" if staged else source, place]
    for path in _from_here():
        words += ["--ro-bind", str(path), str(path)]
    # /proc read-only: else the settings of its own namespaces below /proc/sys could be written.
    words += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    if room.disk is None:
        words += ["--size", str(room.tmp), "--perms", "1777", "--tmpfs", TMP]
    else:
        words += ["--bind", "/tmp/tmp", TMP]
    return [*words, "--remount-ro", "/"]


@functools.cache
def _system() -> tuple[str, ...]:
    """The same for all: /usr and what belongs to it, and a /bin/sh that is bash, as on Lambda."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for store in _STORES:
        if Path(store).is_dir():
            words += ["--ro-bind", store, store]
    bash, shell = shutil.which("bash", path="/usr/bin:/bin"), Path("/bin/sh")
    if bash is not None and shell.exists() and not shell.samefile(bash):
        words += ["--ro-bind", bash, os.path.realpath(shell)]
    return tuple(words)


@functools.cache
def _from_here() -> tuple[Path, ...]:
    return tuple(path for pattern in _FROM_HERE for path in sorted(Path("/etc").glob(pattern)) if path.is_dir())


def home_of_language(prefix: str) -> str | None:
    """The prefix of an interpreter if it has to be shown at /var/lang: not if /usr, or a folder like it, holds it."""
    real = os.path.realpath(prefix)
    there = ("/usr", *(f"/{name}" for name in _SYSTEM), *_STORES)
    return None if real == "/" or any(real == place or real.startswith(f"{place}/") for place in there) else real


def shown_of_language(prefix: str, program: str) -> tuple[str, str]:
    """What of it is shown, and where. Of one that lies in ~/bin only the program: its prefix is somebody's home."""
    homes = {os.path.realpath(entry.pw_dir) for entry in pwd.getpwall()} | {os.path.realpath(Path.home())}
    if any(Path(home).is_relative_to(prefix) for home in homes):
        return program, LANGUAGE + program.removeprefix(prefix)
    return prefix, LANGUAGE
