"""Expected failures: a file beside the target, outside the suite, that its author may write and the suite may update."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from sandbox.conformance.case import cases
from sandbox.conformance.requirements import requirements
from sandbox.conformance.verdict import Outcome, Verdict
from sandbox.core.errors import ConfigError

_HEAD = """\
# What this target is expected to fail, by requirement or by case, and why.
# A case in here that passes fails the run. `--update-expected` writes this file, and keeps the reasons.
"""


def load(path: Path, kind: str) -> dict[str, str]:
    """The reasons by id of a requirement or a case. Raises ConfigError."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file of expected failures") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    known = {*requirements(kind), *(one.id for one in cases(kind))}
    for id_, entry in document.items():
        if id_ not in known:
            raise ConfigError(f"{path}: {id_}: neither a requirement nor a case for a target of kind {kind}")
        if not isinstance(entry, dict) or set(entry) != {"reason"} or not isinstance(entry["reason"], str):
            raise ConfigError(f'{path}: {id_}: it is to have one key, reason = "why it is expected to fail"')
    return {id_: entry["reason"] for id_, entry in document.items()}


def apply(requirement: str, outcomes: Iterable[Outcome], expected: Mapping[str, str]) -> None:
    """Turns the outcomes of one requirement's cases into expected failures, and passes into unexpected ones."""
    outcomes = list(outcomes)
    for one in outcomes:
        reason = expected.get(one.case) or expected.get(requirement)
        if one.verdict is Verdict.FAIL and reason is not None:
            one.verdict, one.message = Verdict.XFAIL, f"{one.message} (expected: {reason})"
    whole = requirement in expected and not any(one.verdict is Verdict.XFAIL for one in outcomes)
    for one in outcomes:
        if one.verdict is Verdict.PASS and (one.case in expected or whole):
            reason = expected.get(one.case) or expected[requirement]
            one.verdict, one.message = Verdict.XPASS, f"it passed, and was expected to fail: {reason}"


def updated(outcomes: Iterable[Outcome], expected: Mapping[str, str]) -> dict[str, str]:
    """What would be expected after this run: its failures, with the reasons that were given before.

    A reason that stands for a whole requirement stays so. What did not run stays as it was.
    """
    found: dict[str, str] = {}
    outcomes = list(outcomes)
    ran = {one.case for one in outcomes if one.verdict in (Verdict.PASS, Verdict.XPASS, Verdict.FAIL, Verdict.XFAIL)}
    ran |= {one.requirement for one in outcomes if one.case in ran}
    found.update((id_, reason) for id_, reason in expected.items() if id_ not in ran)
    for one in outcomes:
        if one.verdict in (Verdict.FAIL, Verdict.XFAIL):
            whole = one.requirement in expected and one.case not in expected
            id_ = one.requirement if whole else one.case
            found[id_] = expected.get(id_) or f"not explained yet: {one.message[:200]}"
    return found


def write(path: Path, reasons: Mapping[str, str]) -> None:
    """Raises OSError."""
    entries = [f"\n[{_quoted(id_)}]\nreason = {_quoted(reason)}\n" for id_, reason in sorted(reasons.items())]
    path.write_text(_HEAD + "".join(entries), "utf-8")


def _quoted(text: str) -> str:
    """A basic string of TOML; JSON's escapes are TOML's, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
