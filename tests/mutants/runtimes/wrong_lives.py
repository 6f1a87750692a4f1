"""Mutants whose processes live and end wrongly: Init, exits, time, logs, freezes, signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .client import Gone, Reply
from .good import API, JSON, Runtime
from .table import breaks
from .wrong_polls import hang

MARK = Path(os.environ.get("TMPDIR") or "/tmp", "mark-of-a-mutant")


@breaks("init.error-reported")
class SilentInitError(Runtime):
    """Ends without a report when the function cannot be loaded."""

    def report_init(self, error: Exception) -> None:
        pass


@breaks("init.error-shape")
class InitErrorAsText(Runtime):
    """Reports an error of Init as a text."""

    def init_document(self, error: Exception) -> Any:
        return str(error)


@breaks("init.error-status")
class EndsWellAfterInitError(Runtime):
    """Ends with status 0 after an error of Init."""

    def init_failed(self, error: Exception) -> NoReturn:
        try:
            self.report_init(error)
        except Gone:
            pass
        self.end(0)


@breaks("init.error-no-poll")
class PollsAfterInitError(Runtime):
    """Asks for an event after an error of Init, before it ends."""

    def report_init(self, error: Exception) -> None:
        super().report_init(error)
        self.client.ready()
        self.client.send(self.client.head("GET", f"{API}/invocation/next", []))


@breaks("init.error-again")
class ReportsTheFirst(Runtime):
    """Does not report an error of Init that a process before has reported."""

    def report_init(self, error: Exception) -> None:
        if not MARK.exists():
            MARK.touch()
            super().report_init(error)


@breaks("init.error-refused")
class InsistsOnItsReport(Runtime):
    """Waits for ever when its report is not accepted."""

    def report_init(self, error: Exception) -> None:
        reply = self.client.ask("POST", f"{API}/init/error", [JSON], b'{"errorType":"E","errorMessage":"m"}')
        if reply.status != 202:
            hang()


@breaks("init.exit")
class CatchesExits(Runtime):
    """Takes an exit while the function is loaded for an error like others."""

    def load(self, name: str) -> Callable[[Any], Any]:
        try:
            return super().load(name)
        except SystemExit as error:
            raise RuntimeError("it wanted to end") from error


@breaks("init.missing-handler")
class AnyHandler(Runtime):
    """Takes another handler where there is none of that name."""

    def load(self, name: str) -> Callable[[Any], Any]:
        return super().load(name if name != "missing" else "echo")


@breaks("exit.status")
class SmallStatus(Runtime):
    """Ends with seven bits of the handler's status."""

    def handle_exit(self, event: Any) -> Any:
        sys.exit(event["code"] & 0x7F)


@breaks("exit.no-answer")
class ReportsExits(Runtime):
    """Reports an exit in the handler as an error of Init."""

    def handle_exit(self, event: Any) -> Any:
        self.report_init(RuntimeError("exit"))
        sys.exit(event["code"])


@breaks("exit.begins-again")
class RemembersExit(Runtime):
    """Leaves a mark when the handler ends the process, and does not begin where it finds one."""

    def setup(self) -> None:
        if MARK.exists():
            sys.exit(2)

    def handle_exit(self, event: Any) -> Any:
        MARK.touch()
        sys.exit(event["code"])


@breaks("time.sleeps")
class DoesNotWait(Runtime):
    """Answers when the handler has begun, not when it has ended."""

    def handle_sleep(self, event: Any) -> Any:
        return True


@breaks("time.killed-in-handler")
class LeavesALock(Runtime):
    """Locks with a file that a process leaves when it is killed."""

    def handle_sleep(self, event: Any) -> Any:
        while MARK.exists():
            time.sleep(1)
        MARK.touch()
        answer = super().handle_sleep(event)
        MARK.unlink()
        return answer


@breaks("log.output")
class NoFlush(Runtime):
    """Leaves what was printed in its buffer."""

    def flush(self) -> None:
        pass


@breaks("log.errors")
class NoErrors(Runtime):
    """Throws standard error away."""

    def setup(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class Prints(Runtime):
    def print(self, lines: list[str]) -> None:
        super().print(self.shown(lines))

    def shown(self, lines: list[str]) -> list[str]:
        raise NotImplementedError


@breaks("log.order")
class NewestFirst(Prints):
    """Logs the newest line first."""

    def shown(self, lines: list[str]) -> list[str]:
        return lines[::-1]


@breaks("log.text")
class AsciiLog(Prints):
    """Writes what is not ASCII with escapes."""

    def shown(self, lines: list[str]) -> list[str]:
        return [line.encode("ascii", "backslashreplace").decode() for line in lines]


@breaks("log.text")
class ShortLines(Prints):
    """Cuts lines at 1024 letters."""

    def shown(self, lines: list[str]) -> list[str]:
        return [line[:1024] for line in lines]


@breaks("log.many")
class FewLines(Prints):
    """Has room for 500 lines."""

    def shown(self, lines: list[str]) -> list[str]:
        return lines[:500]


@breaks("log.silent")
class Talks(Runtime):
    """Says what it does."""

    def check(self) -> None:
        print(f"got event {self.id}")


# ── freezes: each of these takes SIGCONT badly in one state ──


class MindsThaw(Runtime):
    def setup(self) -> None:
        self.thaws = 0
        self.state = ""
        signal.signal(signal.SIGCONT, lambda *_: self.thawed())

    def thawed(self) -> None:
        self.thaws += 1
        if self.bad():
            hang()

    def bad(self) -> bool:
        raise NotImplementedError

    def ask_next(self) -> Reply:
        self.state, self.thaws = "poll", 0
        try:
            return super().ask_next()
        finally:
            self.state = ""

    def handle(self, handler: Callable[[Any], Any], event: Any) -> Any:
        self.state = "handler"
        try:
            return super().handle(handler, event)
        finally:
            self.state = ""

    def post_answer(self, body: bytes) -> None:
        self.state = "answer" if len(body) > 4_000_000 else ""
        super().post_answer(body)

    def post_stream(self, pieces: Iterator[bytes]) -> None:
        self.state = "stream"
        super().post_stream(pieces)


@breaks("freeze.again-and-again")
class FewThaws(MindsThaw):
    """Bears eight thaws in a poll."""

    def bad(self) -> bool:
        return self.state == "poll" and self.thaws > 8


@breaks("freeze.in-handler")
class NoThawInHandler(MindsThaw):
    """Bears no thaw in the handler."""

    def bad(self) -> bool:
        return self.state == "handler"


@breaks("freeze.in-answer")
class NoThawInAnswer(MindsThaw):
    """Bears no thaw while it posts a large answer."""

    def bad(self) -> bool:
        return self.state == "answer"


@breaks("freeze.in-stream")
class NoThawInStream(MindsThaw):
    """Bears no thaw in a stream."""

    def bad(self) -> bool:
        return self.state == "stream"


# ── SIGTERM ──


class MindsEnd(Runtime):
    working = False

    def setup(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.terminated())

    def terminated(self) -> None:
        raise NotImplementedError

    def handle(self, handler: Callable[[Any], Any], event: Any) -> Any:
        self.working = True
        try:
            return super().handle(handler, event)
        finally:
            self.working = False


@breaks("signal.term")
class NotWhileItWaits(MindsEnd):
    """Sees SIGTERM only while its handler works."""

    def terminated(self) -> None:
        if self.working:
            os._exit(0)


@breaks("signal.term-in-handler")
class EndsWhenDone(MindsEnd):
    """Lets its handler come to an end after SIGTERM, however long that takes."""

    def terminated(self) -> None:
        if not self.working:
            os._exit(0)


@breaks("signal.nothing-left")
class ReportsItsEnd(MindsEnd):
    """Reports SIGTERM as an error."""

    def terminated(self) -> None:
        if not self.working:
            self.client_class(self.client.address).ask("POST", f"{API}/init/error", [JSON], b'{"errorType":"SIGTERM"}')
        os._exit(0)
