"""The README's table of operations, from what is there: `python -m tests.control.table --write`."""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.control.operations import INVOKES, OPERATIONS, SUPPORTED
from sandbox.control.rest_json import Api

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- operations: python -m tests.control.table --write -->\n", "<!-- end of operations -->\n"
_AREAS = {
    "functions": "functions",
    "versions": "versions, aliases",
    "layers": "layers",
    "capacity": "concurrency, account",
    "policies": "resource policies",
    "event_configs": "asynchronous invokes",
    "configs": "function URLs",
    "settings": "tags, small settings",
}


def table() -> str:
    """One line an area, with the operations that are supported; then those that are not."""
    rows = {"invoke": sorted(INVOKES)}
    for module, area in _AREAS.items():
        rows[area] = sorted(name for name, work in OPERATIONS.items() if work.__module__.rpartition(".")[2] == module)
    missing = [name for name in Api().operations if name not in SUPPORTED]
    lines = ["| | |", "|---|---|", *(f"| {area} | {', '.join(names)} |" for area, names in rows.items())]
    lines += [f"| **not yet** ({len(missing)} of {len(missing) + len(SUPPORTED)}) | {', '.join(missing)} |"]
    return "\n".join(lines) + "\n"


def written() -> str:
    """The table as the README has it."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__" and "--write" in sys.argv:
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
