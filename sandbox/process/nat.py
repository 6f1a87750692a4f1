"""A way out for an environment of its own network: slirp4netns, a network in user space.

It takes no rights but those to /dev/net/tun. Nothing of this machine's loopback can be reached through it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from typing import Final

from sandbox.core.errors import Unsupported
from sandbox.process.launcher import is_real_root

_READY_WAIT: Final = 5.0
_NS_GET_USERNS: Final = 0xB701  # ioctl of a namespace: the user namespace that owns it


class NoNatError(Unsupported):
    """Why functions cannot call out."""


def missing() -> str | None:
    """What is missing here for certain; None if it is worth a try."""
    if shutil.which("slirp4netns") is None:
        return "slirp4netns is not here (Debian: apt-get install slirp4netns)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "this user may not use /dev/net/tun"
    return None


class Nat:
    """One slirp4netns. It ends when `close` is called, or this process ends."""

    def __init__(self) -> None:
        self._program: subprocess.Popen[bytes] | None = None
        self._life = -1  # the write end of a pipe: at its end slirp4netns leaves

    async def start(self, network: int) -> None:
        """Leads the network namespace of that descriptor out. Raises NoNatError."""
        if (why := missing()) is not None:
            raise NoNatError(why)
        try:
            owner = fcntl.ioctl(network, _NS_GET_USERNS)
        except OSError as error:
            raise NoNatError(f"who owns the environment's network is not told: {error.strerror}") from None
        life, self._life = os.pipe()
        ready, told = os.pipe()
        errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        try:
            os.set_blocking(ready, False)
            words = ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]
            if is_real_root():
                words.append("--enable-sandbox")  # it sees nothing of the files, and keeps no rights of root's
            else:
                words.append(f"--userns-path=/proc/self/fd/{owner}")
            words += [f"--ready-fd={told}", f"--exit-fd={life}", f"/proc/self/fd/{network}", "tap0"]
            self._program = subprocess.Popen(
                words,
                pass_fds=[life, told, network, owner],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
            )
            os.close(told)
            told = -1
            if not await _one_byte(ready):
                words = os.pread(errors, 4096, 0).decode("utf-8", "replace").strip().splitlines()
                raise NoNatError(f"slirp4netns: {words[-1] if words else 'it ended without a word'}")
        except BaseException:
            self.close()
            raise
        finally:
            for fd in (life, ready, told, errors, owner):
                if fd >= 0:
                    os.close(fd)

    def close(self) -> None:
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._program is not None:
            self._program.kill()
            self._program.wait()
            self._program = None


async def _one_byte(fd: int) -> bool:
    """Whether one comes before the end."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(_READY_WAIT):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 1) != b""
