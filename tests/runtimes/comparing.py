"""A runtime of ours beside AWS's own client: cases, what either side did with them, and a table of both.

A test gives each case to both sides and makes an Observation of each result, in which everything is replaced that no two runs
have in common: times, ids, addresses, folders, and the stack frames of the runtimes themselves. Two observations are the same
if they are equal. `table` shows them side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sandbox.host.result import InvokeResult
from tests.runtimes.conftest import printed

SAME = "same"


@dataclass(frozen=True)
class Case:
    """One handler and one event. what: in a few words, for people. code: the function's file. event: JSON, as text.

    settings: keywords of FunctionConfig, the handler's name included. alone: in a process of its own, because its module does
    something when it is loaded; the others may share one.
    """

    name: str
    what: str
    code: str
    event: str = "{}"
    settings: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Observation:
    """What one side did with a case; all of it normalised.

    answer: the payload's own text, and its content type if that is not JSON. error: function_error and error_type, None if it
    went well. alive: whether another invoke met the same process. log: the records of the function. cause: for X-Ray.
    """

    answer: str
    error: str | None
    alive: bool
    log: tuple[str, ...]
    cause: str | None = None

    def differences(self, other: Observation) -> list[str]:
        """The names of what is not the same."""
        return [each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name)]


@dataclass(frozen=True)
class Row:
    """One case on both sides. verdict: SAME, or why they differ."""

    case: Case
    aws: Observation
    ours: Observation
    verdict: str = SAME


# ── normalising ──

_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?")
_EPOCH = re.compile(r"\b1[78]\d{11}\b")  # milliseconds
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_REPEATED = re.compile(r"repeated \d+ more times")  # how deep a stack may be depends on what is below the handler
_ESCAPED = r'(?:[^"\\]|\\.)*'
_FRAME_BEGINS = r"(?:  File |    at |/)"  # Python, Node.js, Ruby
_WARNING = re.compile(r"\S*:\d+: (\w*Warning: .*)")  # of Python: where, what; then the source line
_PYTHON_FRAME = re.compile(r'  (?:\| )?File "')


@dataclass(frozen=True)
class Normal:
    """Replaces what differs from run to run.

    places: folders, and what to show instead. hidden: what the frames of a runtime have in them, after that; they are left out.
    """

    places: Mapping[str, str]
    hidden: Sequence[str] = ("/var/runtime/",)

    def text(self, text: str) -> str:
        """A time keeps its form, with zeros for its digits. No-break spaces, with which AWS's clients indent, become spaces."""
        for folder in sorted(self.places, key=len, reverse=True):
            text = text.replace(folder, self.places[folder])
        text = _ADDRESS.sub("0x0", _ID.sub("ID", text)).replace("\N{NO-BREAK SPACE}", " ")
        for time in (_TIME, _EPOCH):
            text = time.sub(lambda found: re.sub(r"\d", "0", found[0]), text)
        text = _REPEATED.sub("repeated some more times", text)
        for part in self.hidden:  # in a JSON list of frames
            item = f'"{_FRAME_BEGINS}{_ESCAPED}{re.escape(part)}{_ESCAPED}"'
            text = re.sub(rf"(?<=\[){item}(?:, ?)?|, ?{item}", "", text)
        return text

    def log(self, records: Iterable[str]) -> tuple[str, ...]:
        """A record of which nothing is left is left out: the lines of a traceback on stderr are records."""
        hiding = False
        found = []
        for record in records:
            kept = []
            for line in self.text(record).split("\n"):
                if hiding and re.match(r"  +[^\sF]", line):
                    continue  # the source line of a frame of Python, and what is underlined in it
                hiding = False
                if not self._hides(line):
                    kept.append(line)
                elif warning := _WARNING.match(line):
                    kept.append(warning[1])
                    hiding = True
                elif _PYTHON_FRAME.match(line):
                    hiding = True
            if kept:
                found.append("\n".join(kept))
        return tuple(found)

    def cause(self, cause: dict[str, Any] | None) -> str | None:
        """The X-Ray document as text, without frames and paths that are hidden."""
        if cause is None:
            return None
        cause = {"paths": [], "exceptions": []} | cause
        exceptions = [self._without(one, "stack") for one in cause["exceptions"]]
        paths = sorted(path for path in cause["paths"] if not self._hides("/" + self.text(path)))
        return self.text(json.dumps(cause | {"exceptions": exceptions, "paths": paths}, sort_keys=True, ensure_ascii=False))

    def observation(self, result: InvokeResult, *, alive: bool) -> Observation:
        """What this side did, of its result."""
        answer = self.text(result.payload.decode("utf-8", "backslashreplace"))
        if result.content_type != "application/json":
            answer = f"{answer} ({result.content_type})"
        error = f"{result.function_error}: {result.error_type}" if result.function_error is not None else None
        return Observation(answer, error, alive, self.log(printed(result)), self.cause(result.error_cause))

    def _hides(self, line: str) -> bool:
        return any(part in line for part in self.hidden) and re.match(rf"\s*\|?{_FRAME_BEGINS}", line) is not None

    def _without(self, exception: dict[str, Any], key: str) -> dict[str, Any]:
        kept = [frame for frame in exception.get(key, ()) if not self._hides("/" + self.text(str(frame.get("path"))))]
        return exception | {key: kept}


# ── telling ──

_LONG = 600  # more of a text is not shown in a table


def explain(aws: Observation, ours: Observation) -> str:
    """What is not the same, for a failed test."""
    lines = []
    for name in aws.differences(ours):
        lines += [f"{name}:", f"  AWS:  {getattr(aws, name)!r}", f"  ours: {getattr(ours, name)!r}"]
    return "\n".join(lines)


def table(rows: Iterable[Row]) -> str:
    """Markdown, one row a case: what AWS's client answered and logged, what ours did, and "same" or why not."""
    head = ("Case", "AWS's client", "ours", "log of AWS's client", "our log", "")
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        aws, ours = _told(row.aws), _told(row.ours)
        what = f"**{row.case.name}**: {_plain(row.case.what)}"
        lines.append(_line([what, aws, _or_same(ours, aws), *_logs(row), _plain(row.verdict)]))
    return "\n".join(lines) + "\n"


def _told(one: Observation) -> str:
    parts = [_code(one.answer)]
    if one.error is not None:
        parts.append(_plain(one.error))
    if not one.alive:
        parts.append("the process ends")
    return "<br>".join(parts)


def _logs(row: Row) -> Iterator[str]:
    aws, ours = ("<br>".join(_code(record) for record in one.log) for one in (row.aws, row.ours))
    yield aws
    yield _or_same(ours, aws)


def _or_same(ours: str, aws: str) -> str:
    return "〃" if ours and ours == aws else ours


def _code(text: str) -> str:
    """As HTML, which unlike back ticks can have anything in it; what cannot be seen is shown as JSON shows it."""
    if len(text) > _LONG:
        text = f"{text[:_LONG]}… ({len(text)} characters)"
    text = re.sub(r"[^\n\x20-\x7e\xa1-\ud7ff\ue000-\U0010ffff]|[\u2028\u2029]", lambda found: json.dumps(found[0])[1:-1], text)
    return f"<code>{_plain(text).replace('  ', '&nbsp; ')}</code>" if text else ""


def _plain(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("\n", "<br>")):
        text = text.replace(character, entity)
    return re.sub(r"([*_`\\\[\]~])", r"\\\1", text)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
