"""The plain tree as it is where the kernel has no pidfd (macOS): a thread waits for each process."""

from __future__ import annotations

import asyncio
import os

import pytest

from sandbox.process.launcher import Ended, Program
from sandbox.process.plain_tree import PlainTree


async def test_without_pidfd_an_end_is_heard_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    tree = PlainTree()
    await tree.start()
    ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        await tree.spawn(Program("/bin/sh", ["sh", "-c", "exit 7"], {}, "/", [null, null, null]), ended.set_result)
        async with asyncio.timeout(10):
            assert (await ended)[:2] == (7, None)
    finally:
        await tree.close()
        os.close(null)
