"""What the handler prints."""

from __future__ import annotations

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.polls import echoes
from sandbox.conformance.lab import RuntimeLab, expect, expect_same
from sandbox.host.result import InvokeResult


async def _logs(lab: RuntimeLab, lines: list[str], errors: list[str]) -> InvokeResult:
    await lab.deploy("log")
    result = await lab.invoke({"lines": lines, "errors": errors})
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")
    return result


def _printed(result: InvokeResult) -> list[str]:
    return [line for record in result.records if record.type == "function" for line in str(record.record).splitlines()]


def _expect_line(result: InvokeResult, line: str) -> None:
    expect(any(line in one for one in _printed(result)), f"{line!r} is not in the log of its invoke: {_printed(result)[-5:]}")


@case("runtime.log.output")
async def output(lab: RuntimeLab) -> None:
    _expect_line(await _logs(lab, ["a line of output"], []), "a line of output")


@case("runtime.log.errors")
async def errors(lab: RuntimeLab) -> None:
    _expect_line(await _logs(lab, [], ["a line of errors"]), "a line of errors")


@case("runtime.log.order")
async def order(lab: RuntimeLab) -> None:
    lines = [f"line {number:03}" for number in range(50)]
    result = await _logs(lab, lines, [])
    found = [line for one in _printed(result) for line in lines if line in one]
    expect_same("the lines", found, lines)
    types = [record.type for record in result.records]
    last = max(number for number, kind in enumerate(types) if kind == "function")
    expect(last < types.index("platform.runtimeDone"), "a line came after the end of its invoke")


_TEXTS = {
    "unicode": "Grüße, 世界 😀",
    "quotes": "\"quoted\" 'single' \\ back",
    "json": '{"level":"x","a":[1]}',
    "percent": "100 % %s %d {0}",
    "tabs": "a\tb\tc",
    "long": "z" * 20_000,
}


@case("runtime.log.text", _TEXTS)
async def text(lab: RuntimeLab, line: str) -> None:
    _expect_line(await _logs(lab, [line], []), line)


@case("runtime.log.many")
async def many(lab: RuntimeLab) -> None:
    lines = [f"line {number:04}." for number in range(1000)]
    text = "\n".join(_printed(await _logs(lab, lines, [])))
    missing = [line for line in lines if line not in text]
    expect(not missing, f"{len(missing)} of 1000 lines are not in the log, {missing[0] if missing else ''} first")


@case("runtime.log.silent")
async def silent(lab: RuntimeLab) -> None:
    await lab.deploy()
    for number in range(3):
        await echoes(lab, number)
    expect_same("what it printed", lab.printed, [])
