"""Effects → processes: spawn, signal, exits, memory, output of one environment, generation by generation."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal as signals
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from sandbox.clock import Clock
from sandbox.core import errors
from sandbox.core.effects import EVERYONE, Signal
from sandbox.core.errors import InvariantError
from sandbox.core.events import RUNTIME, Event, Exited, Gone, MemoryExceeded, SpawnFailed
from sandbox.core.limits import DATA_EXTRA, DATA_FACTOR, FILE_DESCRIPTORS, MEMORY_SAMPLE_MAX, MIB, PROCESSES, Limits
from sandbox.host.environment.ledger import Ledger
from sandbox.host.runtimes import EntrypointError, Plan
from sandbox.process.cgroup import Group, groups
from sandbox.process.isolation import PROCESS, Isolation
from sandbox.process.launcher import Ended, Program, Tree
from sandbox.process.memory import MemoryWatch, descendants, resident
from sandbox.process.output import Frames, Line, Lines, Mixed, Output, pipe
from sandbox.process.room import Room

_SIGNALS: Final = {"TERM": signals.SIGTERM, "KILL": signals.SIGKILL}
_SETTLE_ROUNDS: Final = 4  # turns of the event loop in which what a dying process had sent is accepted, and begun to be read
_SETTLE_MOST: Final = 400  # … and as many more as there is something to read: 6 MiB come in some 25 to 100 pieces
_PID_1_GONE: Final = "its first process was killed from outside: by hand, or because this machine was out of memory"
_KILL_TRIES: Final = 20  # a millisecond apart
_EXITS_KEPT: Final = 64  # for those who ask how a process ended
_LOG_FD = "_LAMBDA_TELEMETRY_LOG_FD"


class Exit(NamedTuple):
    """The end of one process. who: "runtime" or an extension's name. code: None if a signal ended it."""

    who: str
    generation: int
    code: int | None
    signal: int | None


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
        isolation: Isolation = PROCESS,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._feed = feed
        self._broke = broke
        self._has_unread = has_unread
        self._isolation = isolation
        self._room: Room | None = None
        self._tree: Tree
        self._group: Group | None = None
        self._kills = 0  # of the kernel in that group, so far
        self._told = -1  # a descriptor that can be read when that group's memory was full
        self._processes: dict[str, _Process] = {}
        self.exits: deque[Exit] = deque(maxlen=_EXITS_KEPT)
        self._tasks: set[asyncio.Task[None]] = set()
        self.generation = 0  # the machine's: whose death Gone tells of
        self._devnull = -1
        self._plan: Plan
        self._ledger: Ledger
        self.program: str | None = None  # the newest runtime's, for errors
        self.command: str | None = None
        self._limit = memory_mb * MIB
        watched = None if isolation.exact_memory else self._limit
        self.memory = MemoryWatch(clock, watched, lambda: self._tree.pids(), self._memory_exceeded, self._look_at_group)

    async def open(self, room: Room | None, name: str) -> None:
        """name: of the environment's folder. Raises OSError, SandboxError if not even the first process can be started."""
        self._devnull = os.open(os.devnull, os.O_RDWR)
        self._room = room
        if self._isolation.exact_memory:
            # In a namespace RLIMIT_NPROC holds: there the processes of one environment are counted, not of a user.
            self._group = Group(groups(), name, self._limit, PROCESSES if room is None else None)
            self._told = self._group.watch()
            if self._told >= 0:
                asyncio.get_running_loop().add_reader(self._told, self._memory_was_full)
        await self._start_tree()

    async def _start_tree(self) -> None:
        self._tree = self._isolation.tree(self._room, self._group.joins() if self._group is not None else ())
        await self._tree.start()

    async def listen(self, port: int = 0) -> socket.socket:
        """A listening socket at the loopback that the processes see: of the Runtime API, or at a port. Raises OSError."""
        return await self._tree.listen(port)

    async def dial(self, protocol: Callable[[], asyncio.Protocol], port: int) -> object:
        """Connects to a port of the environment's loopback. Raises OSError."""
        return await self._tree.dial(protocol, port)

    def pids(self) -> list[int]:
        return self._tree.pids()

    def measured_peak(self) -> int | None:
        """The environment's peak in bytes; None where it cannot be known."""
        peak = self.memory.measured_peak()
        return peak if self._group is None else min(peak, self._limit)  # pages that two of them share were counted twice

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
        if hasattr(self, "_tree"):
            await self._tree.close()
        if self._told >= 0:
            asyncio.get_running_loop().remove_reader(self._told)
            os.close(self._told)
            self._told = -1
        if self._group is not None:
            self._group.close()
            self._group = None
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
                if self._room is not None:
                    self._broke(InvariantError(_PID_1_GONE))
                    return
                await self._tree.close()
                await self._start_tree()
            of_ours = who == RUNTIME and self._plan.managed
            if who == RUNTIME:
                entry = self._plan.entry()
                self.program, self.command = self._plan.site.real_path(entry.file), " ".join(entry.argv)
            else:
                entry = self._plan.extension(who)
            reads, writes = _pipes(2 if of_ours else 1)
            env = dict(entry.env)
            fds = [self._devnull, writes[0], writes[0], *writes[1:]]
            if of_ours:
                env[_LOG_FD] = str(self._tree.fd_in_child(3, writes[1]))
            limits = [(resource.RLIMIT_NOFILE, FILE_DESCRIPTORS), (resource.RLIMIT_CORE, 0)]
            if self._room is not None:  # elsewhere it would count everything that this user runs
                limits.append((resource.RLIMIT_NPROC, PROCESSES))
            if self._isolation.backstop:
                limits.append((resource.RLIMIT_DATA, DATA_FACTOR * self._limit + DATA_EXTRA))
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
            if ended.signal == signals.SIGKILL:
                self._look_at_group()
            self.exits.append(Exit(who, process.generation, ended.code, ended.signal))
            self._feed(Exited(who, process.generation, ended.code, ended.signal))

    def _look_at_group(self) -> bool:
        """Tells the machine if the kernel has killed somebody because memory was full, be it a child of a child."""
        before = self._kills
        if self._group is not None:
            self._kills = self._group.kills()
        if self._kills == before:
            return False
        self.memory.now = self.memory.peak = self._limit
        self._feed(MemoryExceeded(self.generation))
        return True

    def _memory_was_full(self, tries: int = 0) -> None:
        """The kernel tells it before it kills, and sometimes it then finds some memory after all."""
        if tries == 0:
            os.eventfd_read(self._told)
        if self._group is not None and not self._look_at_group() and tries < _KILL_TRIES:
            asyncio.get_running_loop().call_later(0.001, self._memory_was_full, tries + 1)

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
