"""Draws the lifecycle's tables as Mermaid for the README: python -m tests.core.diagram [--write]."""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path

from sandbox.core import states

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- diagram: begin -->", "<!-- diagram: end -->"
_TITLES = {"Phase": states.PHASE, "Runtime": states.RUNTIME, "Extension": states.EXTENSION, "Invocation": states.INVOCATION}


def drawn() -> str:
    """Everything between the marks in the README."""
    return "\n".join(_drawing(title, table) for title, table in _TITLES.items())


def _drawing(title: str, table: dict) -> str:
    lines = [f"**{title}**", "", "```mermaid", "stateDiagram-v2"]
    first = next(iter(table))
    lines.append(f"    [*] --> {first.name}")
    lines += [f"    {state.name}: {state.value.replace(':', ' -')}" for state in table]
    for state, row in table.items():
        moves: dict[Enum, list[str]] = {}
        for move, after in row.items():
            moves.setdefault(after, []).append(move.name)
        lines += [f"    {state.name} --> {after.name}: {', '.join(names)}" for after, names in moves.items()]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    text = README.read_text()
    new = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{drawn()}{END}", text, flags=re.S)
    if "--write" in sys.argv:
        README.write_text(new)
    else:
        print(drawn())


if __name__ == "__main__":
    main()
