"""A run as a JSON document, and several of them side by side."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sandbox import __version__
from sandbox.conformance.requirements import requirements
from sandbox.conformance.runner import Run
from sandbox.conformance.verdict import Outcome
from sandbox.core.errors import ConfigError

SCHEMA: Final = 1  # of the document; a reader refuses one that it does not know
_EXCHANGES: Final = 60  # of one case that are written; the others are from its middle
SIGNS: Final = {
    "pass": "✔",
    "fail": "✘",
    "error": "!",
    "xpass": "✘ passed",
    "xfail": "✘ expected",
    "skip": "-",
    "disabled": "·",
}


def document(run: Run) -> dict[str, Any]:
    """schema, suite, target, seconds, verdicts (by requirement), counts (of cases), outcomes."""
    return {
        "schema": SCHEMA,
        "suite": {"version": __version__, "kind": run.target.kind, "python": platform.python_version()},
        "target": {"name": run.target.name, "handlers": sorted(run.target.handlers)},
        "machine": f"{platform.system()} {platform.machine()}",
        "seconds": round(run.seconds, 3),
        "seed": run.seed,
        "counts": dict(Counter(str(one.verdict) for one in run.outcomes)),
        "verdicts": {id_: str(verdict) for id_, verdict in run.verdicts().items()},
        "outcomes": [_outcome(one) for one in run.outcomes],
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    requirement = requirements(one.requirement.partition(".")[0])[one.requirement]
    return {
        "case": one.case,
        "requirement": one.requirement,
        "level": requirement.level,
        "rows": list(requirement.rows),
        "text": requirement.text,
        "verdict": str(one.verdict),
        "message": one.message,
        "seconds": round(one.seconds, 3),
        "timeline": one.timeline[:_EXCHANGES],
        "transcript": shortened(one.transcript),
        "output": one.output,
    }


def shortened(exchanges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last of many exchanges."""
    if len(exchanges) <= _EXCHANGES:
        return exchanges
    half = _EXCHANGES // 2
    return [*exchanges[:half], {"leftOut": len(exchanges) - 2 * half}, *exchanges[-half:]]


def read(path: Path) -> dict[str, Any]:
    """A document that was written before. Raises ConfigError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: it is no JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ConfigError(f"{path}: it is no report of `sandbox conformance --json`, or of another version")
    return found


def compare(documents: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown: a line for each requirement, a column for each target. Raises ConfigError for a mixture of kinds."""
    kinds = sorted({one["suite"]["kind"] for one in documents})
    if len(kinds) != 1:
        raise ConfigError(f"reports of different kinds cannot be compared: {', '.join(kinds)}")
    names = [one["target"]["name"] for one in documents]
    lines = [f"| requirement | level | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for id_, requirement in requirements(kinds[0]).items():
        verdicts = [one["verdicts"].get(id_) for one in documents]
        if any(verdicts):
            cells = " | ".join(SIGNS.get(verdict or "", " ") for verdict in verdicts)
            lines.append(f"| `{id_}` | {requirement.level} | {cells} |")
    total = " | ".join(_summary(one) for one in documents)
    lines += [f"| requirements kept | | {total} |", "", _legend(documents)]
    return "\n".join(lines) + "\n"


def _summary(one: dict[str, Any]) -> str:
    counts = Counter(one["verdicts"].values())
    said = sum(counts[verdict] for verdict in ("pass", "xpass", "fail", "xfail"))
    return f"{counts['pass'] + counts['xpass']} of {said}"


def _legend(documents: Sequence[dict[str, Any]]) -> str:
    words = {
        "pass": "kept",
        "fail": "broken",
        "xfail": "broken, as its author says",
        "xpass": "kept, though its author says otherwise",
        "error": "a failure of the suite",
        "skip": "says nothing here",
        "disabled": "not offered",
    }
    seen = {verdict for one in documents for verdict in one["verdicts"].values()}
    return "; ".join(f"{SIGNS[verdict]} {word}" for verdict, word in words.items() if verdict in seen) + "."
