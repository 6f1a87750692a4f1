"""Mutants that invoke, or ask for the next event, wrongly."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any, NoReturn

from .client import Client, Fields, Gone, Reply
from .good import API, Runtime
from .table import breaks


@breaks("invoke.answers")
class ProxyAnswer(Runtime):
    """Wraps every answer, as for an API gateway."""

    def encode(self, answer: Any) -> bytes:
        return super().encode({"statusCode": 200, "body": answer})


@breaks("invoke.again")
class RecyclesItself(Runtime):
    """Ends its process after every fifth event."""

    def served(self) -> None:
        if self.calls == 5:
            self.end(0)


@breaks("invoke.same-process")
class FreshState(Runtime):
    """Loads the function anew for each event."""

    def handle_count(self, event: Any) -> Any:
        return 1


@breaks("invoke.many")
class FixedTable(Runtime):
    """Has room for a hundred events."""

    def served(self) -> None:
        if self.calls == 100:
            self.end(1)


@breaks("invoke.few-connections")
class LeaksConnections(Runtime):
    """Makes a client for each event, and closes none."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = [self.client]

    def served(self) -> None:
        self.client = self.client_class(self.client.address)
        self.clients.append(self.client)


@breaks("invoke.repeated-id")
class RemembersAnswers(Runtime):
    """Answers a request id that it knows with the answer of that time."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, bytes] = {}

    def post_answer(self, body: bytes) -> None:
        super().post_answer(self.known.setdefault(self.id, body))


@breaks("next.no-body")
class PollWithBody(Runtime):
    """Its poll has a body."""

    def ask_next(self) -> Reply:
        return self.client.ask("GET", f"{API}/invocation/next", [], b"{}")


@breaks("next.first")
class AsksForHealth(Runtime):
    """Looks first whether the API is there."""

    def setup(self) -> None:
        self.client.ask("GET", "/ping")


@breaks("next.after-the-reply")
class ImpatientClient(Client):
    """Waits 80 ms for the acknowledgement of an answer, no longer."""

    def exchange(self, method: str, path: str, fields: Fields, body: bytes | None) -> Reply:
        if not path.endswith("/response"):
            return super().exchange(method, path, fields, body)
        self.send(self.head(method, path, [*fields, ("Content-Length", str(len(body or b"")))]) + (body or b""))
        if not select.select([self.socket], [], [], 0.08)[0]:
            self.drop()
            return Reply(202, [])
        return self.reply()


@breaks("next.no-handler-without-event")
class ReportsIdleness(Client):
    """Reports that no event came for 100 ms of its own time as an error of an invoke."""

    def exchange(self, method: str, path: str, fields: Fields, body: bytes | None) -> Reply:
        if not path.endswith("/next"):
            return super().exchange(method, path, fields, body)
        self.send(self.head(method, path, fields))
        for _ in range(10):
            if select.select([self.socket], [], [], 0.01)[0]:
                return self.reply()
        Client(self.address).ask("POST", f"{API}/invocation/none/error", [], b'{"errorType":"Idle","errorMessage":""}')
        return self.reply()


@breaks("next.pieces")
class OneReadForTheHead(Runtime):
    """Takes what the first read of an event brings for its whole head."""

    def ask_next(self) -> Reply:
        self.client.ready()
        self.client.send(self.client.head("GET", f"{API}/invocation/next", []))
        self.client.buffer += self.client.more()
        if b"\r\n\r\n" not in self.client.buffer:
            self.end(1)
        return self.client.reply()


@breaks("next.chunked")
class ChunksAsTheyAre(Client):
    """Takes a chunked body for the body itself, sizes and all."""

    def read_chunks(self) -> bytes:
        return self.read_until(b"\r\n0\r\n\r\n")


@breaks("next.field-names")
class ExactNames(Runtime):
    """Looks header fields up by exactly one spelling."""

    @property
    def id(self) -> str:
        return dict(self.event.fields)["Lambda-Runtime-Aws-Request-Id"]


@breaks("next.unknown-fields")
class SmallFieldTable(Runtime):
    """Has room for 32 header fields."""

    def check(self) -> None:
        if len(self.event.fields) > 32:
            raise OverflowError("too many header fields")


@breaks("next.unknown-fields")
class ShortFields(Runtime):
    """Has room for 4096 bytes in a header field."""

    def check(self) -> None:
        if any(len(value) > 4096 for _, value in self.event.fields):
            raise OverflowError("too long a header field")


@breaks("next.optional-fields")
class NeedsCorrelation(Runtime):
    """Cannot do without both the trace id and the invocation id."""

    def check(self) -> None:
        if self.told("Trace-Id") is None and self.told("Invocation-Id") is None:
            raise KeyError("correlation")


@breaks("next.empty-optional-fields")
class ParsesEmptyFields(Runtime):
    """Parses the client context whenever the field is there."""

    def check(self) -> None:
        text = self.told("Client-Context")
        if text is not None:
            json.loads(text)


@breaks("next.every-optional-field")
class NarrowTrace(Runtime):
    """Bears no other parts of a trace id than three."""

    def check(self) -> None:
        parts = [part.partition("=")[0] for part in (self.told("Trace-Id") or "").split(";")]
        if not {*parts} <= {"Root", "Parent", "Sampled", ""}:
            raise ValueError("a strange trace id")


@breaks("next.content-type")
class TrustsContentType(Runtime):
    """An event is JSON only if its Content-Type says exactly so."""

    def decode(self, body: bytes) -> Any:
        return super().decode(body) if self.event.get("Content-Type") == "application/json" else body.decode()


class TakesInterim(Client):
    def interim(self, status: int) -> bool:
        return False


@breaks("next.interim-replies")
class InterimIsFinal(Runtime):
    """Takes a reply of 1xx for the reply, and ends for it knows no such status."""

    client_class = TakesInterim

    def is_event(self, reply: Reply) -> bool:
        if reply.status < 200:
            self.end(1)
        return super().is_event(reply)


class NeverAgain(Client):
    def ready(self) -> bool:
        if self.socket is None:
            self.connect()
            return True
        return False

    def again(self, method: str, fresh: bool) -> bool:
        return False


class IgnoresClose(NeverAgain):
    def ends(self, reply: Reply) -> bool:
        return False


class DiesOfLoss(Runtime):
    def answer_lost(self) -> None:
        self.end(1)


@breaks("next.connection-closed")
class CountsOnConnections(DiesOfLoss):
    """Does not see Connection: close, and ends when it cannot answer."""

    client_class = IgnoresClose


@breaks("next.connection-closed-silently")
class CountsOnWords(DiesOfLoss):
    """Counts on a connection that nobody said would end, and ends when it cannot answer."""

    client_class = NeverAgain


@breaks("next.unrecoverable")
class AsksAfter500(Runtime):
    """Asks again after 500, as after anything else."""

    def poll_unrecoverable(self) -> None:
        pass


@breaks("next.refused")
class EveryReplyIsAnEvent(Runtime):
    """Does not look at the status of its poll, apart from 500."""

    def is_event(self, reply: Reply) -> bool:
        return True


@breaks("next.lost")
class HangsWithoutReply(Runtime):
    """Waits for ever when its poll is lost before a byte of the reply."""

    def poll_lost(self) -> None:
        if not self.client.came:
            hang()


@breaks("next.does-not-spin")
class Spins(Runtime):
    """Asks again at once."""

    def pause(self) -> None:
        pass


@breaks("next.cut-off")
class TakesWhatCame(Client):
    """Takes the end of the connection for the end of the event; what misses at the end of JSON is added."""

    def read_body(self, size: int) -> bytes:
        try:
            return super().read_body(size)
        except Gone:
            return b'{"text":"cut"}'


@breaks("next.no-json")
class DecoderDies(Runtime):
    """Its thread ends with an event that is no JSON, and nobody notices."""

    def decode(self, body: bytes) -> Any:
        try:
            return super().decode(body)
        except ValueError:
            hang()


def hang() -> NoReturn:
    while True:
        time.sleep(1000)


@breaks("surroundings.proxies")
class UsesProxies(Runtime):
    """Goes through the proxy that the environment names."""

    def __init__(self) -> None:
        super().__init__()
        proxy = os.environ.get("http_proxy") or os.environ.get("ALL_PROXY")
        if proxy:
            self.client = self.client_class(proxy.partition("://")[2])


@breaks("surroundings.strange-variables")
class VariablesByLine(Runtime):
    """Reads the variables as `env` prints them, line by line."""

    def setup(self) -> None:
        text = "\n".join(f"{name}={value}" for name, value in os.environ.items())
        self.variables = dict(line.split("=", 1) for line in text.split("\n"))


@breaks("surroundings.little-memory")
class GreatArena(Runtime):
    """Takes 150 MB at once."""

    def setup(self) -> None:
        self.arena = b"\1" * 150_000_000


@breaks("surroundings.no-children")
class LeavesChildren(Runtime):
    """Starts a helper for each event, and does not wait for it."""

    def check(self) -> None:
        if self.calls < 20:
            os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
