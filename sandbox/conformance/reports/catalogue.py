"""The requirements of one kind of target as a page in Markdown."""

from __future__ import annotations

from collections import Counter

from sandbox.conformance.case import cases
from sandbox.conformance.reports.junit import area_of
from sandbox.conformance.requirements import COUNTED, requirements

_ARTICLES = {"runtime": "a runtime", "extension": "an extension", "host": "a host"}


def catalogue(kind: str) -> str:
    """Every requirement: its sentence, level, source and rows, how many cases it has, or why it has none."""
    known, counted = requirements(kind), Counter(one.requirement for one in cases(kind))
    levels = Counter(one.level for one in known.values())
    lines = [
        f"# What {_ARTICLES[kind]} must do",
        "",
        f"{len(known)} requirements, {sum(counted.values())} cases. "
        + ", ".join(f"{count} {level}" for level, count in levels.items())
        + f". A failure of {' or '.join(COUNTED)} fails a run; OBSERVED is what AWS's own programs do. The rows are those of "
        "the requirement catalogue (`tests/catalogue.toml`).",
    ]
    area = ""
    for one in known.values():
        if area_of(one.id) != area:
            area = area_of(one.id)
            lines += ["", f"## {area}", ""]
        number = counted[one.id]
        tested = f"{number} case{'s' if number != 1 else ''}" if number else f"no case: {one.untested}"
        offered = f"; uses {', '.join(one.uses)}" if one.uses else ""
        source = f"<{one.source}>" if one.source.startswith("http") else one.source
        lines.append(f"- **{one.level}** `{one.id}`: {one.text} ({', '.join(one.rows)}; {tested}{offered}; {source})")
    return "\n".join(lines) + "\n"
