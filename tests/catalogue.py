"""Keeps tests/catalogue.toml, the map of what is tested, in step with the marks on the tests.

    python -m tests.catalogue           what differs
    python -m tests.catalogue --write   brings the lists of tests up to date; statuses are kept, rows are never removed

A row is `tested` (by which tests), `later` (with which capability; `begun` names tests that show a part of it), or
`not_applicable` (why). A row whose status is `later` stays so until somebody removes that word by hand.
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from pathlib import Path

TESTS = Path(__file__).parent
FILE = TESTS / "catalogue.toml"
HEAD = """# Every row of the requirement catalogue: tested (by what), later (with which capability), or not applicable (why).
# `begun` names tests that show a part of a row that comes later. Keep it with: python -m tests.catalogue --write
"""


def expand(ranges: str, prefix: str) -> list[str]:
    """ "001-003 010" → ["RT-001", "RT-002", "RT-003", "RT-010"]."""
    rows = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        rows += [f"{prefix}-{number:03}" for number in range(int(first), int(last or first) + 1)]
    return rows


def load() -> dict:
    return tomllib.loads(FILE.read_text())


def all_rows(document: dict) -> list[str]:
    return [row for prefix, ranges in document["ranges"].items() for row in expand(ranges, prefix)]


def marked() -> dict[str, list[str]]:
    """row → the tests that name it, by reading the files."""
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(TESTS).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for row in _rows(node.decorator_list):
                    found.setdefault(row, set()).add(f"{name}::{node.name}")
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
                for row in _rows([node.value.func]):
                    found.setdefault(row, set()).add(f"{name}::{node.targets[0].id}")
    return {row: sorted(tests) for row, tests in found.items()}


def _rows(decorators: list[ast.expr]) -> list[str]:
    """The rows of every pytest.mark.catalogue in them, those of single parameters included."""
    rows: list[str] = []
    for decorator in decorators:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.catalogue":
                for argument in node.args:
                    values = argument.value.elts if isinstance(argument, ast.Starred) else [argument]
                    rows += [value.value for value in values if isinstance(value, ast.Constant)]
    return rows


def updated(document: dict) -> dict[str, dict]:
    """row → its entry, with the lists of tests as the marks have them."""
    tests = marked()
    entries = {}
    for row in all_rows(document):
        entry = dict(document["row"].get(row, {"later": "unsorted"}))
        entry.pop("tested", None)
        entry.pop("begun", None)
        if row in tests:
            entry["begun" if "later" in entry else "tested"] = tests[row]
            entry.pop("not_applicable", None)
        entries[row] = entry or {"later": "unsorted"}
    return entries


def write(document: dict) -> None:
    lines = [HEAD, "[ranges]"]
    lines += [f"{prefix} = {json.dumps(ranges)}" for prefix, ranges in document["ranges"].items()]
    lines += ["", "[capabilities]"]
    lines += [f"{json.dumps(name)} = {json.dumps(what)}" for name, what in document["capabilities"].items()]
    lines += ["", "[row]"]
    for row, entry in updated(document).items():
        fields = ", ".join(
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(entry.items(), reverse=True)
        )
        lines.append(f"{row} = {{ {fields} }}")
    FILE.write_text("\n".join(lines) + "\n")


def main() -> None:
    document = load()
    if "--write" in sys.argv:
        write(document)
        return
    for row, entry in updated(document).items():
        if document["row"].get(row) != entry:
            print(row, document["row"].get(row), "→", entry)


if __name__ == "__main__":
    main()
