"""Reports: for machines they are read back, for people they say what was seen."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.conformance.reports import document, junit, page, terminal
from sandbox.conformance.reports.catalogue import catalogue
from sandbox.conformance.requirements import requirements
from sandbox.conformance.runner import Run
from sandbox.conformance.target import Target
from sandbox.conformance.verdict import Outcome, Verdict
from sandbox.core.errors import ConfigError

IDS = list(requirements("runtime"))
ROOT = Path(__file__).parents[2]
EXCHANGE = {
    "atMs": 1.5,
    "connection": 1,
    "method": "GET",
    "path": "/2018-06-01/runtime/invocation/next",
    "headers": [("Host", "x")],
    "body": "",
    "bodySize": 0,
    "status": 200,
    "repliedAtMs": 2.0,
    "replyHeaders": [("A", "<b>")],
    "reply": "<script>",
    "replySize": 8,
    "fault": "chunk 1",
}


def a_run(outcomes: list[Outcome], name: str = "small") -> Run:
    here = Path()
    return Run(Target("runtime", name, here, here, handlers={"echo": "e"}), outcomes, 1.25, None)


def outcome(number: int, verdict: Verdict, message: str = "", **more: Any) -> Outcome:
    return Outcome(f"{IDS[number]}[v]", IDS[number], verdict, message, 0.5, **more)


EVERY = [outcome(number, verdict, f"message of {verdict}") for number, verdict in enumerate(Verdict)]

messages = st.text(max_size=80)
outcomes = st.lists(
    st.builds(
        Outcome,
        st.sampled_from(IDS),
        st.sampled_from(IDS),
        st.sampled_from(list(Verdict)),
        messages,
        st.floats(0, 100),
        output=st.lists(messages, max_size=3),
    ),
    max_size=12,
)


@given(outcomes, messages)
def test_junit_is_xml_whose_counts_are_true(found: list[Outcome], name: str) -> None:
    root = Tree.fromstring(junit.junit(a_run(found, name)))
    assert root.tag == "testsuites"
    cases = root.findall("testsuite/testcase")
    assert len(cases) == len(found) == int(root.attrib["tests"])
    for suite in [root, *root.findall("testsuite")]:
        below = suite.findall(".//testcase")
        assert int(suite.attrib["tests"]) == len(below)
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[key]) == len(suite.findall(f".//{tag}"))
        assert float(suite.attrib["time"]) >= 0
    for case in cases:
        assert {child.tag for child in case} <= {"properties", "failure", "error", "skipped", "system-out"}
        assert len(case.findall("failure") + case.findall("error") + case.findall("skipped")) <= 1
        assert case.attrib["classname"] in IDS
    assert len({suite.attrib["name"] for suite in root.findall("testsuite")}) == len(root.findall("testsuite"))


def test_junit_tells_each_verdict(tmp_path: Path) -> None:
    junit.write(a_run(EVERY), tmp_path / "j.xml")
    cases = Tree.parse(tmp_path / "j.xml").getroot().findall("testsuite/testcase")
    told = [[child.tag for child in case if child.tag != "properties"] for case in cases]
    assert told == [[], ["failure"], ["skipped"], ["skipped"], ["error"], ["skipped"], ["failure"]]
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "message of fail"
    assert requirements("runtime")[IDS[1]].text in (failure.text or "")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@given(outcomes, messages)
def test_the_page_is_balanced_whatever_is_in_it(found: list[Outcome], name: str) -> None:
    for one in found:
        one.transcript = [EXCHANGE, {**EXCHANGE, "body": name, "status": None, "clientGone": True}]
        one.timeline = [{"atMs": 0.0, "type": "platform.start", "environment": "e"}] * 2
    tags = _Tags()
    tags.feed(page.page(a_run(found, name)))
    assert tags.open == []
    assert "script" not in [tag for tag, _ in tags.seen]


def test_the_page_needs_no_other_file_and_shows_exchanges() -> None:
    text = page.page(a_run([outcome(0, Verdict.FAIL, "why", transcript=[EXCHANGE], output=["printed"])]))
    for word in ("why", "spoilt: chunk 1", "printed", "GET /2018-06-01/runtime/invocation/next → 200", "&lt;script&gt;"):
        assert word in text
    assert "src=" not in text
    assert "href=" not in text


def test_json_is_read_back(tmp_path: Path) -> None:
    run = a_run(EVERY)
    (tmp_path / "r.json").write_text(page.json_text(run))
    found = document.read(tmp_path / "r.json")
    assert found == json.loads(json.dumps(document.document(run)))
    assert found["counts"] == {str(verdict): 1 for verdict in Verdict}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', "nonsense"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ConfigError, match=r"r\.json"):
        document.read(tmp_path / "r.json")
    with pytest.raises(ConfigError, match="No such file"):
        document.read(tmp_path / "other.json")


def test_a_comparison() -> None:
    one = document.document(a_run([outcome(0, Verdict.PASS), outcome(1, Verdict.FAIL)], "one"))
    two = document.document(a_run([outcome(0, Verdict.PASS), outcome(1, Verdict.XFAIL), outcome(2, Verdict.PASS)], "two"))
    lines = document.compare([one, two]).splitlines()
    assert lines[0] == "| requirement | level | one | two |"
    assert lines[2].endswith("| MUST | ✔ | ✔ |")
    assert lines[3].endswith("| MUST | ✘ | ✘ expected |")
    assert lines[4].endswith("|   | ✔ |")
    assert lines[5] == "| requirements kept | | 1 of 2 | 2 of 3 |"
    other = {**two, "suite": {"kind": "host"}}
    with pytest.raises(ConfigError, match="different kinds"):
        document.compare([one, other])


def test_many_exchanges_are_shortened() -> None:
    short = document.shortened([{"n": n} for n in range(500)])
    assert len(short) == 61
    assert short[30] == {"leftOut": 440}
    assert (short[29], short[31]) == ({"n": 29}, {"n": 470})


def test_the_terminal_says_what_is_broken_and_where_the_time_went() -> None:
    plain = terminal.tree(a_run(EVERY), lambda text, _: text)
    assert "fail [v]: message of fail" in plain
    assert "message of pass" not in plain
    assert "message of pass" in terminal.tree(a_run(EVERY), lambda text, _: text, all_cases=True)
    assert "1 passed, 1 failed, 1 passed unexpectedly, 1 errors of the suite, 1 failed as expected" in plain
    assert "slowest: " in plain


def test_progress_is_one_line() -> None:
    written: list[str] = []
    progress = terminal.Progress(2, written.append)
    progress.told(EVERY[0])
    progress.told(EVERY[1])
    progress.over()
    assert written == ["\r1 of 2 cases\x1b[K", "\r2 of 2 cases, 1 not as they should be\x1b[K", "\r\x1b[K"]


@pytest.mark.parametrize("kind", ["runtime"])
def test_the_page_of_requirements_is_the_one_that_is_committed(kind: str) -> None:
    committed = (ROOT / "conformance" / f"{kind}.md").read_text("utf-8")
    assert committed == catalogue(kind), f"write it anew: sandbox conformance {kind} --requirements > conformance/{kind}.md"
