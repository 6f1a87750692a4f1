"""What a case comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Verdict(StrEnum):
    """PASS: kept. FAIL: broken. SKIP: it says nothing here, and why. DISABLED: the target does not offer what it uses.
    ERROR: our own failure, never the target's. XFAIL: broken, as its author expected. XPASS: kept, against the expectation."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    DISABLED = "disabled"
    ERROR = "error"
    XFAIL = "xfail"
    XPASS = "xpass"


_WORST: Final = (
    Verdict.ERROR,
    Verdict.FAIL,
    Verdict.XPASS,
    Verdict.XFAIL,
    Verdict.PASS,
    Verdict.SKIP,
    Verdict.DISABLED,
)


def worst(verdicts: list[Verdict]) -> Verdict:
    """Of several cases of one requirement; a case that says something outweighs one that does not."""
    return min(verdicts, key=_WORST.index)


class Broken(Exception):
    """The target has broken the requirement. The text: what was expected, and what was seen."""


class Inapplicable(Exception):
    """The case says nothing about this target, or on this machine. The text says why."""


class NotOffered(Exception):
    """The target does not offer what the case uses."""


@dataclass(slots=True)
class Outcome:
    """What one case came to. seconds: of real time. transcript, timeline: JSON documents, see `Lab.transcript`."""

    case: str
    requirement: str
    verdict: Verdict
    message: str = ""
    seconds: float = 0.0
    transcript: list[dict[str, Any]] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
