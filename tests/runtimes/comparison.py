"""Writes runtimes/COMPARISON.md: our runtimes beside AWS's clients, case by case, as the tests see them.

python -m tests.runtimes.comparison --write
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from sandbox import Host
from tests.conftest import ROOT
from tests.runtimes import test_node_against_aws as node
from tests.runtimes import test_python_against_aws as python
from tests.runtimes import test_ruby_against_aws as in_ruby
from tests.runtimes.comparing import SAME, Case, Observation, Row, table
from tests.runtimes.conftest import code_of
from tests.runtimes.ruby import replaced, ruby

FILE = ROOT / "runtimes" / "COMPARISON.md"
HEAD = """# Our runtimes beside AWS's clients

The same handlers and events given to our managed runtimes and to AWS's own runtime interface clients, unmodified, on this host:
what the caller got, whether the process lived on, and what was in the log. Times, ids, folders and the runtimes' own stack
frames are taken out. `〃` is "as on the left". The last column says why what differs is meant to. The tests
`tests/runtimes/test_*_against_aws.py` compare the same cases, and fail on a difference that is not in this table, and on one
that is and is no more. Written by `python -m tests.runtimes.comparison --write`.
"""


def names() -> list[str]:
    """Every case that the table must have."""
    found = [one.name for one in python.CASES] + [one.name for one in (*node.SHARED, *node.ALONE)]
    return found + list(in_ruby.CASES)


async def python_rows(folder: Path) -> list[Row]:
    aws = await python.observed(folder / "aws", python.client(python.NEWEST), python.CASES)
    ours = await python.observed(folder / "ours", None, python.CASES)
    return python.rows({name: python.without_updates(one) for name, one in aws.items()}, ours)


async def node_rows(folder: Path) -> list[Row]:
    cases = [*node.SHARED, *node.ALONE]
    async with node.hosting(isolation="process") as host:
        aws = await node.observe_all(host, folder / "aws", node.NODE_3.folder, cases)
        ours = await node.observe_all(host, folder / "ours", None, cases)
    return [Row(one, aws[one.name], ours[one.name], node.ACCEPTED.get(one.name, SAME)) for one in cases]


async def ruby_rows(folder: Path) -> list[Row]:
    found = []
    async with Host(isolation="process") as host:
        for name, case in in_ruby.CASES.items():
            code = folder / name
            code.mkdir(parents=True)
            (code / "app.rb").write_text(case["app"])
            event = case.get("event", "{}").encode()
            handler = case.get("handler", "app.handler")
            function = await host.deploy(code, runtime=ruby().runtime, handler=handler, timeout=20)
            result = await function.invoke(payload=event, trace_id="Root=1-1")
            ends = result.error_phase == "init" or replaced(await function.invoke(payload=event))
            ours, aws = in_ruby.observed(result, code_of(function), ends), in_ruby.expected(case)
            await function.close()
            verdict = in_ruby.DIFFERENCES.get(name, (set(), SAME))[1]
            found.append(Row(Case(name, handler, case["app"], event.decode()), _seen(aws), _seen(ours), verdict))
    return found


def _seen(told: dict[str, Any]) -> Observation:
    error = told.get("error")
    if error is None:
        return Observation(told["payload"], None, not told["ends"], tuple(told["log"]))
    text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    return Observation(text, "Unhandled", not told["ends"], tuple(told["log"]))


async def write() -> None:
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as made:
        for title, rows in (
            (f"Python: awslambdaric {python.NEWEST}", await python_rows(Path(made, "python"))),
            ("Node.js: aws-lambda-ric 3.3.0", await node_rows(Path(made, "node"))),
            ("Ruby: aws_lambda_ric 3.1.3 (recorded)", await ruby_rows(Path(made, "ruby"))),
        ):
            same = sum(row.verdict == SAME for row in rows)
            parts.append(f"## {title}\n\n{len(rows)} cases, {same} the same.\n\n{table(rows)}")
    FILE.write_text("\n".join(parts))


if __name__ == "__main__" and "--write" in sys.argv:
    asyncio.run(write())
