"""A run as JUnit's XML: what continuous integration reads."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as Tree

from sandbox.conformance.requirements import requirements
from sandbox.conformance.runner import Run
from sandbox.conformance.verdict import Outcome, Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(run: Run) -> bytes:
    """A testsuite for each area (`runtime.next`), a testcase for each case. Expected failures are told as skipped."""
    root = Tree.Element("testsuites", name=_clean(run.target.name), time=f"{run.seconds:.3f}")
    areas: dict[str, list[Outcome]] = {}
    for one in run.outcomes:
        areas.setdefault(area_of(one.requirement), []).append(one)
    for area, outcomes in areas.items():
        suite = Tree.SubElement(root, "testsuite", {"name": area, **_counts(outcomes)})
        for one in outcomes:
            _testcase(suite, one)
    for name, value in _counts(run.outcomes).items():
        if name != "time":
            root.set(name, value)
    Tree.indent(root)
    text: bytes = Tree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def write(run: Run, path: Path) -> None:
    """Raises OSError."""
    path.write_bytes(junit(run))


def area_of(requirement: str) -> str:
    """runtime.next of runtime.next.lost."""
    return ".".join(requirement.split(".")[:2])


def _counts(outcomes: list[Outcome]) -> dict[str, str]:
    def count(*verdicts: Verdict) -> str:
        return str(sum(one.verdict in verdicts for one in outcomes))

    return {
        "tests": str(len(outcomes)),
        "failures": count(Verdict.FAIL, Verdict.XPASS),
        "errors": count(Verdict.ERROR),
        "skipped": count(Verdict.SKIP, Verdict.DISABLED, Verdict.XFAIL),
        "time": f"{sum(one.seconds for one in outcomes):.3f}",
    }


def _testcase(suite: Tree.Element, one: Outcome) -> None:
    requirement = requirements(one.requirement.partition(".")[0])[one.requirement]
    case = Tree.SubElement(suite, "testcase", classname=one.requirement, name=one.case, time=f"{one.seconds:.3f}")
    properties = Tree.SubElement(case, "properties")
    Tree.SubElement(properties, "property", name="level", value=requirement.level)
    Tree.SubElement(properties, "property", name="rows", value=" ".join(requirement.rows))
    message = _clean(one.message)
    if one.verdict in (Verdict.FAIL, Verdict.XPASS):
        Tree.SubElement(case, "failure", message=message, type=str(one.verdict)).text = f"{requirement.text}\n{message}"
    elif one.verdict is Verdict.ERROR:
        Tree.SubElement(case, "error", message=message, type="error")
    elif one.verdict is not Verdict.PASS:
        Tree.SubElement(case, "skipped", message=f"{one.verdict}: {message}")
    if one.output and one.verdict is not Verdict.PASS:
        Tree.SubElement(case, "system-out").text = _clean("\n".join(one.output))


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
