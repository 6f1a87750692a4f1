"""Memory: which processes are counted, what they use, and the watchdog, with real processes on a clock that stands still."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from sandbox.clock import ManualClock
from sandbox.core.limits import MEMORY_FRESH, MEMORY_SAMPLE_MAX, MEMORY_SAMPLE_MIN, MIB
from sandbox.process.memory import MemoryWatch, descendants, resident

# Obeys one line at a time: "hold N" holds N MB, "drop" lets go, "touch N" takes N MB and gives them back before it answers.
HOLDER = """
import mmap, sys
held = []
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "drop":
        held.pop().close()
    else:
        memory = mmap.mmap(-1, int(number) << 20)
        for at in range(0, len(memory), 4096):
            memory[at] = 1
        held.append(memory)
        if word == "touch":
            held.pop().close()
    print("done", flush=True)
"""


class Holder:
    """A process that holds as much memory as it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self.process.pid
        self.tell("hold 1")

    def tell(self, what: str) -> None:
        _pipe(self.process.stdin).write(what + "\n")
        assert _pipe(self.process.stdout).readline() == "done\n"

    def close(self) -> None:
        _pipe(self.process.stdin).close()
        self.process.wait()
        _pipe(self.process.stdout).close()


def _pipe(file: IO[str] | None) -> IO[str]:
    assert file is not None
    return file


@pytest.fixture
def holder() -> Iterator[Holder]:
    made = Holder()
    yield made
    made.close()


def test_descendants_are_all_below_and_not_the_root() -> None:
    script = "import os, sys\nif os.fork() == 0: os.fork()\nos.write(1, b'%d\\n' % os.getpid())\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(3)}
        assert process.pid in pids
        found = descendants(process.pid)
        assert sorted(found) == sorted(pids - {process.pid})
        assert set(descendants(os.getpid())) >= pids
        process.communicate()
    assert descendants(process.pid) == []


def test_children_of_every_thread_are_found() -> None:
    """The kernel lists a child with the thread that forked it."""
    script = (
        "import os, sys, threading, time\n"
        "def work():\n"
        "    if os.fork() == 0: sys.stdin.read(); os._exit(0)\n"
        "    print('forked', flush=True); sys.stdin.read()\n"
        "threading.Thread(target=work).start()"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(descendants(process.pid)) == 1
        process.communicate()


def test_resident_tells_now_and_the_highest_ever(holder: Holder) -> None:
    now, _ = resident(holder.pid)
    holder.tell("touch 64")
    later, peak = resident(holder.pid)
    assert abs(later - now) < 8 * MIB
    assert now + 60 * MIB < peak < now + 80 * MIB


def test_resident_of_what_is_gone_is_nothing(holder: Holder) -> None:
    holder.process.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert resident(holder.pid) == (0, 0)  # a zombie
    holder.process.wait()
    assert resident(holder.pid) == (0, 0)


class Watched:
    """A MemoryWatch over the holder, with 64 MB of room above what it has now."""

    def __init__(self, holder: Holder, room: int = 64) -> None:
        self.clock = ManualClock()
        self.told: list[int] = []
        self.limit = resident(holder.pid)[0] + room * MIB
        self.watch = MemoryWatch(self.clock, self.limit, lambda: [holder.pid], self.told.append)


def test_one_over_the_limit_is_told_and_one_below_is_not(holder: Holder) -> None:
    watched = Watched(holder)
    watched.watch.run()
    holder.tell("hold 40")
    watched.clock.advance(1)
    assert watched.told == []
    assert watched.watch.now > 40 * MIB
    holder.tell("hold 40")
    watched.clock.advance(MEMORY_SAMPLE_MAX)
    assert watched.told
    assert all(used > watched.limit for used in watched.told)
    watched.watch.close()


def test_the_sum_of_all_processes_counts(holder: Holder) -> None:
    other = Holder()
    try:
        told: list[int] = []
        clock = ManualClock()
        start = resident(holder.pid)[0] + resident(other.pid)[0]
        watch = MemoryWatch(clock, start + 64 * MIB, lambda: [holder.pid, other.pid], told.append)
        watch.run()
        holder.tell("hold 40")
        other.tell("hold 40")
        clock.advance(MEMORY_SAMPLE_MAX)
        assert told
        assert watch.peak >= start + 80 * MIB
        watch.close()
    finally:
        other.close()


def test_less_room_means_shorter_intervals(holder: Holder) -> None:
    """Nobody can fill the room faster than between two samples; the first interval knows nothing yet of what is used."""
    watched = Watched(holder, room=8)
    watched.watch.run()
    watched.clock.advance(MEMORY_SAMPLE_MAX)  # the first sample
    holder.tell("hold 20")
    watched.clock.advance(MEMORY_SAMPLE_MIN)
    assert watched.told
    watched.watch.close()


def test_nothing_is_sampled_while_frozen(holder: Holder) -> None:
    watched = Watched(holder)
    watched.watch.run()
    watched.clock.advance(1)
    used = watched.watch.now
    watched.watch.rest()
    holder.tell("hold 100")
    watched.clock.advance(900)
    assert watched.told == []
    assert watched.watch.now == used
    watched.watch.run()
    watched.clock.advance(MEMORY_SAMPLE_MAX)
    assert watched.told
    watched.watch.close()


def test_freezing_and_thawing_often_does_not_multiply_the_samples(holder: Holder) -> None:
    count = 0

    def pids() -> list[int]:
        nonlocal count
        count += 1
        return [holder.pid]

    clock = ManualClock()
    watch = MemoryWatch(clock, 10_000 * MIB, pids, lambda used: None)
    for _ in range(50):
        watch.run()
        watch.rest()
    watch.run()
    clock.advance(10 * MEMORY_SAMPLE_MAX)
    assert count == 10
    watch.close()
    clock.advance(900)
    assert count == 10


@pytest.mark.catalogue("BL-016")
def test_the_peak_between_two_samples_is_not_missed(holder: Holder) -> None:
    watched = Watched(holder, room=1000)
    watched.watch.run()
    watched.clock.advance(1)
    before = watched.watch.peak
    holder.tell("touch 100")
    watched.clock.advance(1)
    assert watched.watch.peak >= before + 90 * MIB
    assert watched.watch.now < before + 30 * MIB
    peak = watched.watch.peak
    holder.tell("hold 10")
    watched.clock.advance(1)
    assert watched.watch.peak == peak  # it never sinks
    watched.watch.close()


def test_a_report_measures_anew_unless_it_was_done_just_now(holder: Holder) -> None:
    watched = Watched(holder, room=1000)
    first = watched.watch.measured_peak()
    assert first > MIB
    holder.tell("hold 50")
    assert watched.watch.measured_peak() == first
    watched.clock.advance(MEMORY_FRESH * 1.5)
    assert watched.watch.measured_peak() >= first + 50 * MIB
