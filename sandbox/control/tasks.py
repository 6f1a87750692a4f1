"""Work that nobody waits for: held, told of if it breaks, cancelled at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

_log = logging.getLogger("sandbox.control")


class Tasks:
    """on_trouble: told, in a sentence, of a mistake of ours."""

    def __init__(self, on_trouble: Callable[[str], None]) -> None:
        self._on_trouble = on_trouble
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a mistake of lambda-sandbox itself", exc_info=error)
            self._on_trouble(f"a mistake of lambda-sandbox itself: {type(error).__name__}: {error}")

    async def close(self, also: Callable[[], Iterable[asyncio.Future[Any]]] = tuple) -> None:
        """Cancels all of it, and waits for it; and for what `also` gives."""
        for task in self._tasks:
            task.cancel()
        while waiting := {*self._tasks, *also()}:
            await asyncio.wait(waiting)
