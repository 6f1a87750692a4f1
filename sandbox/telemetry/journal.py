"""Everything observable is one record here; whoever prints, bills or delivers subscribes (rule 4)."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TextIO

Subscriber = Callable[["Record"], None]


class Record(NamedTuple):
    """One record.

    seq: its number in the journal. mono: seconds on the host's clock. wall: seconds since the epoch. environment: which
    execution environment (its log stream). type: platform.* as in the Telemetry API, function, extension, or sandbox.* for
    what only we say. record: what the Telemetry API would have in it; a string for output. extension: whose it is, if one's.
    """

    seq: int
    mono: float
    wall: float
    environment: str
    type: str
    record: Any
    request_id: str | None = None
    extension: str | None = None

    def document(self) -> dict[str, Any]:
        """The record as a JSON document: the Telemetry API's envelope (TL-050) and what we add to it."""
        document: dict[str, Any] = {"seq": self.seq, "time": iso(self.wall), "type": self.type}
        record = self.record
        if isinstance(record, dict) and "spans" in record:
            offset = self.wall - self.mono
            record = {**record, "spans": [span_document(span, offset) for span in record["spans"]]}
        document["record"] = record
        document["environment"] = self.environment
        if self.request_id is not None:
            document["requestId"] = self.request_id
        if self.extension is not None:
            document["extension"] = self.extension
        return document


class Journal:
    """The one list of what happened. Subscribers are called in order, at once, and must not block.

    One that raises is told so by the logger "sandbox.journal" and gets no more records: what it does not want to hear must
    not change what happens.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._subscribers: list[tuple[frozenset[str] | None, Subscriber]] = []

    def subscribe(self, subscriber: Subscriber, types: Iterable[str] | None = None) -> Callable[[], None]:
        """Calls `subscriber` for every later record, or those of the given types. Returns what ends it."""
        entry = (frozenset(types) if types is not None else None, subscriber)
        self._subscribers = [*self._subscribers, entry]  # a new list: one may come or go while records are given out
        return lambda: self._unsubscribe(entry)

    def _unsubscribe(self, entry: tuple[frozenset[str] | None, Subscriber]) -> None:
        self._subscribers = [other for other in self._subscribers if other is not entry]

    def append(
        self,
        mono: float,
        wall: float,
        environment: str,
        type_: str,
        record: Any,
        request_id: str | None = None,
        extension: str | None = None,
    ) -> Record:
        entry = Record(next(self._numbers), mono, wall, environment, type_, record, request_id, extension)
        for subscription in self._subscribers:
            types, subscriber = subscription
            if types is None or type_ in types:
                try:
                    subscriber(entry)
                except Exception:
                    self._unsubscribe(subscription)
                    logging.getLogger("sandbox.journal").exception("a subscriber raised: it gets no more records")
        return entry


class JsonLines:
    """A subscriber that writes each record on a line of its own, for `--journal`. `error`: why it had to stop."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def __call__(self, record: Record) -> None:
        if self.error is None:
            try:
                self._file.write(json.dumps(record.document()) + "\n")
            except OSError as error:  # a full disk
                self.error = error


def iso(wall: float) -> str:
    """TL-050: UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def span_document(span: tuple[str, float, float], offset: float) -> dict[str, Any]:
    """A span as the Telemetry API has it (TL-068); `offset` turns machine time into wall time."""
    name, start, end = span
    return {"name": name, "start": iso(start + offset), "durationMs": round((end - start) * 1000, 3)}
