"""Effects → processes: spawn, signal, exits, memory, output of one environment, generation by generation."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal as signals
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sandbox.clock import Clock
from sandbox.core import errors
from sandbox.core.effects import EVERYONE, Signal
from sandbox.core.events import RUNTIME, Event, Exited, Gone, MemoryExceeded, SpawnFailed
from sandbox.core.limits import FILE_DESCRIPTORS, MEMORY_SAMPLE_MAX, MIB, Limits
from sandbox.host.environment.ledger import Ledger
from sandbox.host.runtimes import EntrypointError, Plan
from sandbox.process.launcher import Ended, Program, Tree, make_tree
from sandbox.process.memory import MemoryWatch, descendants, resident
from sandbox.process.output import Frames, Line, Lines, Mixed, Output, pipe

_SIGNALS: Final = {"TERM": signals.SIGTERM, "KILL": signals.SIGKILL}
_SETTLE_ROUNDS: Final = 4  # turns of the event loop in which what a dying process had sent is accepted, and begun to be read
_SETTLE_MOST: Final = 400  # … and as many more as there is something to read: 6 MiB come in some 25 to 100 pieces
_LOG_FD = "_LAMBDA_TELEMETRY_LOG_FD"


class _Process:
    """One process of one generation."""

    __slots__ = ("at_birth", "ended", "generation", "measured_at", "outputs", "peak", "pid")

    def __init__(self, generation: int, outputs: list[Output]) -> None:
        self.generation = generation
        self.outputs = outputs
        self.pid = 0
        self.at_birth: list[int] = []  # signals that came before its process did
        self.measured_at, self.peak = -MEMORY_SAMPLE_MAX, 0  # of its memory, and what that was, in bytes
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Processes:
    """Performs Spawn and Signal, and tells the machine by `feed` what became of it."""

    def __init__(
        self,
        clock: Clock,
        limits: Limits,
        memory_mb: int,
        feed: Callable[[Event], None],
        broke: Callable[[BaseException], None],
        has_unread: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._feed = feed
        self._broke = broke
        self._has_unread = has_unread
        self._tree: Tree = make_tree()
        self._processes: dict[str, _Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.generation = 0  # the machine's: whose death Gone tells of
        self._devnull = -1
        self._plan: Plan
        self._ledger: Ledger
        self.program: str | None = None  # the newest runtime's, for errors
        self.command: str | None = None
        self.memory = MemoryWatch(clock, memory_mb * MIB, lambda: self._tree.pids(), self._memory_exceeded)

    async def open(self) -> None:
        """Raises OSError if not even the first process can be started."""
        self._devnull = os.open(os.devnull, os.O_RDWR)
        await self._tree.start()

    def measured_peak(self) -> int | None:
        """The environment's peak in bytes; None where it cannot be known."""
        return self.memory.measured_peak()

    def peak_of(self, who: str) -> int | None:
        """The most memory, in bytes, that one process ever had resident, with what its children have; None if unknown."""
        process = self._processes.get(who)
        if process is None or not process.pid:
            return None
        if process.ended.done():
            return process.peak or None
        now = self._clock.now()
        if now - process.measured_at > MEMORY_SAMPLE_MAX:  # reading takes as long as a small invoke
            process.measured_at = now
            children = sum(resident(child)[0] for child in descendants(process.pid))
            process.peak = max(process.peak, resident(process.pid)[1] + children)
        return process.peak

    def begin(self, plan: Plan, ledger: Ledger) -> None:
        """What to start, and where its output goes; before the first Spawn."""
        self._plan = plan
        self._ledger = ledger

    async def close(self) -> None:
        self.memory.close()
        for task in list(self._tasks):
            await asyncio.wait([task])
        await self._tree.close()
        self._forget()
        if self._devnull >= 0:
            os.close(self._devnull)
            self._devnull = -1

    # ── effects ──

    def spawn(self, who: str, generation: int) -> None:
        self._later(self._spawn(who, generation))

    def signal(self, effect: Signal) -> None:
        if effect.who == EVERYONE:
            match effect.name:
                case "STOP":
                    self.memory.rest()
                    self._tree.freeze()
                case "CONT":
                    self._tree.thaw()
                    self.memory.run()
                case "KILL":
                    self._later(self._kill_everyone(self.generation))
        elif (process := self._processes.get(effect.who)) is not None:
            if process.pid:
                self._tree.signal(process.pid, _SIGNALS[effect.name])
            else:
                process.at_birth.append(_SIGNALS[effect.name])

    def drain(self, *, end_lines: bool = False) -> None:
        """Reads what processes have printed up to this moment (DECISIONS "process output against events").

        end_lines: text of the runtime without a line feed is a line, too, and does not wait for the next invoke.
        """
        for who, process in self._processes.items():
            for output in process.outputs:
                output.drain()
                if end_lines and who == RUNTIME:
                    output.flush()

    # ── starting ──

    async def _spawn(self, who: str, generation: int) -> None:
        reads: list[int] = []
        writes: list[int] = []
        try:
            if not self._tree.alive:  # somebody, the function perhaps, killed the parent of all its processes
                await self._tree.close()
                self._tree = make_tree()
                await self._tree.start()
            of_ours = who == RUNTIME and self._plan.managed
            if who == RUNTIME:
                entry = self._plan.entry()
                self.program, self.command = entry.file, " ".join(entry.argv)
            else:
                entry = self._plan.extension(who)
            reads, writes = _pipes(2 if of_ours else 1)
            env = dict(entry.env)
            fds = [self._devnull, writes[0], writes[0], *writes[1:]]
            if of_ours:
                env[_LOG_FD] = str(self._tree.fd_in_child(3, writes[1]))
            limits = [(resource.RLIMIT_NOFILE, FILE_DESCRIPTORS), (resource.RLIMIT_CORE, 0)]
            process = _Process(generation, self._outputs(reads, who))
            reads = []  # theirs now
            self._processes[who] = process
            self.memory.run()
            if who == RUNTIME:
                self._ledger.spawned()
            program = Program(entry.file, entry.argv, env, self._plan.places.task, fds, limits)
            process.pid = await self._tree.spawn(program, lambda ended: self._ended(who, process, ended))
            for signal in process.at_birth:
                self._tree.signal(process.pid, signal)
        except EntrypointError as error:
            self.program, self.command = error.program, None
            self._failed(who, generation, str(error))
        except ConnectionError:
            self._failed(who, generation, "the environment's first process has gone")
        except OSError as error:
            if who == RUNTIME:
                self._failed(who, generation, f"fork/exec {self._plan.shown(self.program)}: {_reason(error)}")
            else:
                error_type = "PermissionDenied" if error.errno in (errno.EACCES, errno.EPERM) else "UnknownError"  # EX-007
                self._failed(who, generation, f"fork/exec /opt/extensions/{who}: {_reason(error)}", error_type)
        finally:
            for fd in (*reads, *writes):
                os.close(fd)

    def _failed(self, who: str, generation: int, message: str, error_type: str = errors.INVALID_ENTRYPOINT) -> None:
        failed = self._processes.pop(who, None)
        if failed is not None:
            for output in failed.outputs:
                output.close()
        self._feed(SpawnFailed(who, generation, error_type, message))

    def _outputs(self, reads: list[int], who: str) -> list[Output]:
        ledger = self._ledger

        def emit(line: Line) -> None:
            ledger.line(who, line)

        if who != RUNTIME or not self._plan.managed:
            return [Output(reads[0], Lines(emit))]
        return [Output(reads[0], Mixed(emit, ledger.mark)), Output(reads[1], Frames(emit, ledger.mark))]

    # ── ending ──

    def _ended(self, who: str, process: _Process, ended: Ended) -> None:
        self.memory.peak = max(self.memory.peak, ended.peak)
        process.peak = max(process.peak, ended.peak)
        self._settle(0, who, process, ended)

    def _settle(self, rounds: int, who: str, process: _Process, ended: Ended) -> None:
        """What the process sent before it died is in our sockets: it is heard first, then its end is told."""
        if rounds < _SETTLE_ROUNDS or (rounds < _SETTLE_MOST and self._has_unread()):
            asyncio.get_running_loop().call_soon(self._settle, rounds + 1, who, process, ended)
            return
        for output in process.outputs:
            output.drain()
        if not process.ended.done():
            process.ended.set_result(None)
            self._feed(Exited(who, process.generation, ended.code, ended.signal))

    async def _kill_everyone(self, generation: int) -> None:
        left = await self._tree.kill(self._limits.kill_wait)
        mine = [p for p in self._processes.values() if p.generation == generation and p.pid]
        waiting = [p.ended for p in mine if not p.ended.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=self._limits.kill_wait)
        if left:
            self._ledger.diagnosis(f"sandbox: {left} processes did not end within {self._limits.kill_wait} s of SIGKILL", None)
        self.memory.rest()
        self._forget()
        self._feed(Gone(generation))

    def _forget(self) -> None:
        processes, self._processes = self._processes, {}
        for process in processes.values():
            for output in process.outputs:
                output.drain()
                output.close()

    def _memory_exceeded(self, used: int) -> None:
        self._feed(MemoryExceeded(self.generation))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broke(error)


def _pipes(count: int) -> tuple[list[int], list[int]]:
    pairs = [pipe() for _ in range(count)]
    return [read for read, _ in pairs], [write for _, write in pairs]


def _reason(error: OSError) -> str:
    """In the words in which AWS reports it (Go's)."""
    known = {
        errno.ENOENT: "no such file or directory",
        errno.EACCES: "permission denied",
        errno.ENOEXEC: "exec format error",
        errno.E2BIG: "argument list too long",
    }
    return known.get(error.errno or 0, error.strerror or "unknown error")
