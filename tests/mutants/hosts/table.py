"""What is wrong with each host, and which requirement it breaks with that, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sandbox.wire.tap import Fault


class Mutant(NamedTuple):
    """faults: by route, of every exchange. payload: what becomes of each answer on its way to the caller."""

    breaks: str | None
    faults: tuple[tuple[str, Fault], ...] = ()
    payload: Callable[[bytes], bytes] = bytes
    tells_errors: bool = True
    starts_extensions: bool = True
    memory: int = 256


def _without(name: str) -> tuple[tuple[str, Fault], ...]:
    return (("next", Fault(without=frozenset({name}))),)


def _status(route: str, status: int) -> tuple[tuple[str, Fault], ...]:
    return ((route, Fault(status=status)),)


def _field(route: str, name: str, value: str) -> tuple[tuple[str, Fault], ...]:
    return ((route, Fault(fields=((name, value),), without=frozenset({name.lower()}))),)


MUTANTS = {
    "good": Mutant(None),
    "no deadline": Mutant("host.next.deadline", _without("lambda-runtime-deadline-ms")),
    "deadline in seconds": Mutant("host.next.deadline", _field("next", "Lambda-Runtime-Deadline-Ms", "1795495568")),
    "no ARN": Mutant("host.next.arn", _without("lambda-runtime-invoked-function-arn")),
    "a name for an ARN": Mutant("host.next.arn", _field("next", "Lambda-Runtime-Invoked-Function-Arn", "function")),
    "no trace id": Mutant("host.next.trace-id", _without("lambda-runtime-trace-id")),
    "events are text": Mutant("host.next.content-type", _field("next", "Content-Type", "text/plain")),
    "accepts errors with 200": Mutant("host.post.error", _status("error", 200)),
    "accepts with another document": Mutant(
        "host.post.status-document", (("response", Fault(body=b"OK")), ("error", Fault(body=b"OK")))
    ),
    "does not tell errors": Mutant("host.invoke.function-error", tells_errors=False),
    "trims answers": Mutant("host.invoke.bytes", payload=bytes.strip),
    "starts no extensions": Mutant("host.extension.registers", starts_extensions=False),
    "no events' identifiers": Mutant(
        "host.event.identifier", (("event/next", Fault(without=frozenset({"lambda-extension-event-identifier"}))),)
    ),
    "telemetry is 404": Mutant("host.telemetry.logs", (("logs", Fault(status=404)),)),
}
