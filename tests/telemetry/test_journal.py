"""The journal: numbers, subscribers, documents, JSON lines."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime

import pytest

from sandbox.telemetry.journal import Journal, JsonLines, Record, iso

WALL = 1_700_000_000.0


def test_records_are_numbered_from_one_whoever_listens() -> None:
    journal = Journal()
    records = [journal.append(5.0, WALL, "e", "function", text) for text in ("a", "b")]
    assert [(record.seq, record.record) for record in records] == [(1, "a"), (2, "b")]
    assert records[0] == Record(1, 5.0, WALL, "e", "function", "a", None)


def test_a_subscriber_gets_what_comes_after_it_and_only_its_types() -> None:
    journal = Journal()
    everything: list[str] = []
    some: list[str] = []
    nothing: list[str] = []
    journal.append(0, WALL, "e", "function", "before")
    journal.subscribe(lambda record: everything.append(record.record))
    journal.subscribe(lambda record: some.append(record.record), ["extension", "platform.start"])
    journal.subscribe(lambda record: nothing.append(record.record), [])
    for type_ in ("function", "extension", "platform.start", "platform"):
        journal.append(0, WALL, "e", type_, type_)
    assert everything == ["function", "extension", "platform.start", "platform"]
    assert some == ["extension", "platform.start"]
    assert nothing == []


def test_subscribers_are_called_in_order_and_at_once() -> None:
    journal = Journal()
    calls: list[str] = []
    journal.subscribe(lambda record: calls.append("first"))
    journal.subscribe(lambda record: calls.append("second"))
    journal.append(0, WALL, "e", "function", "x")
    assert calls == ["first", "second"]


def test_unsubscribing_ends_that_subscription_only() -> None:
    journal = Journal()
    calls: list[str] = []

    def subscriber(record: Record) -> None:
        calls.append(record.type)

    leave = journal.subscribe(subscriber, ["a"])
    journal.subscribe(subscriber, ["b"])
    leave()
    journal.append(0, WALL, "e", "a", "")
    journal.append(0, WALL, "e", "b", "")
    assert calls == ["b"]


def test_a_subscriber_that_leaves_while_it_is_called_takes_nothing_from_others() -> None:
    """Waiting for one record, then leaving, is what subscribers do."""
    journal = Journal()
    once: list[str] = []
    always: list[str] = []

    def first(record: Record) -> None:
        once.append(record.record)
        leave()

    leave = journal.subscribe(first)
    journal.subscribe(lambda record: always.append(record.record))
    journal.append(0, WALL, "e", "function", "one")
    journal.append(0, WALL, "e", "function", "two")
    assert once == ["one"]
    assert always == ["one", "two"]


@pytest.mark.catalogue("TL-050")
def test_the_envelope() -> None:
    record = Record(7, 5.0, WALL, "2026/11/23/[$LATEST]ab", "platform.start", {"requestId": "r", "version": "1"}, "r")
    document = record.document()
    assert {key: document[key] for key in ("time", "type", "record")} == {
        "time": "2023-11-14T22:13:20.000Z",
        "type": "platform.start",
        "record": {"requestId": "r", "version": "1"},
    }
    assert {**document} | {"seq": 7, "environment": "2026/11/23/[$LATEST]ab", "requestId": "r"} == document
    assert set(document) == {"seq", "time", "type", "record", "environment", "requestId"}
    assert "requestId" not in record._replace(request_id=None).document()


@pytest.mark.catalogue("TL-050")
@pytest.mark.parametrize(
    ("wall", "expected"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (WALL + 0.123, "2023-11-14T22:13:20.123Z"),
        (WALL + 0.9996, "2023-11-14T22:13:20.999Z"),
        (WALL + 59.5, "2023-11-14T22:14:19.500Z"),
    ],
)
def test_times_are_utc_with_milliseconds(wall: float, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert iso(wall) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.catalogue("TL-068")
def test_spans_are_written_with_wall_times_and_the_record_stays_as_it_was() -> None:
    body = {
        "requestId": "r",
        "status": "success",
        "spans": [("responseLatency", 101.5, 101.52302), ("runtimeOverhead", 102, 102.5)],
    }
    record = Record(1, 103.0, WALL, "e", "platform.runtimeDone", body, "r")
    assert record.document()["record"]["spans"] == [
        {"name": "responseLatency", "start": "2023-11-14T22:13:18.500Z", "durationMs": 23.02},
        {"name": "runtimeOverhead", "start": "2023-11-14T22:13:19.000Z", "durationMs": 500.0},
    ]
    assert body["spans"][0] == ("responseLatency", 101.5, 101.52302)


def test_json_lines_has_one_document_a_line_whatever_is_in_it() -> None:
    file = io.StringIO()
    journal = Journal()
    journal.subscribe(JsonLines(file))
    texts = ["plain", "two\nlines\r\n", 'quotes " and \\', "é 漢 \u2028 \x00", ""]
    for text in texts:
        journal.append(1.0, WALL, "e", "function", text)
    lines = file.getvalue().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["record"] for line in lines] == texts
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", json.loads(line)["time"]) for line in lines)
    assert datetime.fromisoformat(json.loads(lines[0])["time"]) == datetime.fromtimestamp(WALL, UTC)


def test_a_name_that_is_no_utf8_can_be_written() -> None:
    """A folder's name may hold any byte; a diagnosis quotes it."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    JsonLines(file)(Record(1, 0.0, WALL, "e", "sandbox.diagnosis", "folder \udcff"))
    assert "folder" in json.loads(raw.getvalue())["record"]
