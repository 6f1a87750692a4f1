"""`sandbox serve` with a switch or two. Usage: service_host lean|aiohttp PROFILE ARGUMENT…

aiohttp: every request goes through aiohttp, Invoke included. PROFILE: a file, or "": the first SIGUSR1 starts a profile, the
second writes it there.
"""

from __future__ import annotations

import cProfile
import signal
import sys
import time
from functools import partial

from sandbox.cli.main import main
from sandbox.control import server


def profile_to(file: str) -> None:
    profile = cProfile.Profile(time.thread_time)  # whom a wake-up lets run first is not counted
    running = False

    def toggle(number: int, frame: object) -> None:
        nonlocal running
        if running:
            profile.disable()
            profile.dump_stats(file)
        else:
            profile.enable()
        running = not running

    signal.signal(signal.SIGUSR1, toggle)


if __name__ == "__main__":
    _, way, file, *arguments = sys.argv
    if way == "aiohttp":
        server.Server = partial(server.Server, lean=False)
    if file:
        profile_to(file)
    sys.argv = ["sandbox", "serve", *arguments]
    main()
