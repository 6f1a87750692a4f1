"""`sandbox conformance`, as its user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as Tree

import psutil
import pytest

from tests.cli.conftest import COMMAND, Outcome, assert_no_traceback_of_ours
from tests.conformance.conftest import write_target

pytestmark = pytest.mark.tiers("process")

Sandbox = Callable[..., Outcome]
VALUES = "runtime.event.values"
POST_TWICE = 'call("POST", path + "/response", answer)'


def test_a_good_runtime_conforms_and_every_report_is_written(sandbox: Sandbox, tmp_path: Path) -> None:
    target = write_target(tmp_path / "small")
    files = ["--junit", tmp_path / "j.xml", "--report", tmp_path / "r.html", "--json", tmp_path / "r.json"]
    done = sandbox("conformance", "runtime", target, "--only", VALUES, "--seed", "3", *files)
    assert done.code == 0, done
    assert b"small: 12 cases of 2 requirements in " in done.out
    assert b"begun in the order of --seed 3" in done.out
    assert Tree.parse(tmp_path / "j.xml").getroot().attrib["tests"] == "12"
    assert "GET /2018-06-01/runtime/invocation/next" in (tmp_path / "r.html").read_text()
    assert json.loads((tmp_path / "r.json").read_text())["verdicts"] == {"runtime.invoke.answers": "pass", VALUES: "pass"}
    table = sandbox("conformance", "--compare", tmp_path / "r.json", tmp_path / "r.json")
    assert table.code == 0
    assert table.out.startswith(b"| requirement | level | small | small |")


def test_a_broken_one_does_not_until_its_failures_are_expected(sandbox: Sandbox, tmp_path: Path) -> None:
    target = write_target(tmp_path / "small", POST_TWICE)
    words = ("conformance", "runtime", target, "--only", "runtime.response.once", "--only", "runtime.response.id[made-here]")
    done = sandbox(*words)
    assert done.code == 5, done
    assert b"answers to four events: 4 was expected, 8 came" in done.out
    assert_no_traceback_of_ours(done.err)
    expected = tmp_path / "expected.toml"
    assert sandbox(*words, "--expected", expected, "--update-expected").code == 0
    assert '["runtime.response.once"]\nreason = "not explained yet: answers to four' in expected.read_text()
    assert sandbox(*words, "--expected", expected).code == 0
    write_target(tmp_path / "small")
    done = sandbox(*words, "--expected", expected)
    assert done.code == 5
    assert b"it passed, and was expected to fail" in done.out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "'nothing' cannot be tested: say runtime or extension or host, then the target"),
        (("car", "x"), "'car' cannot be tested"),
        (("runtime",), "one target is tested at a time, and 0 were named"),
        (("runtime", "a", "b"), "one target is tested at a time, and 2 were named"),
        (("runtime", "{tmp}/nowhere"), "nowhere: there is no such file; it says what is to be tested"),
        (("runtime", "{tmp}/small", "--only", "runtime.nex"), "no case is called runtime.nex"),
        (("runtime", "{tmp}/small", "--level", "must"), "level 'must': one of MUST, SHOULD, MAY, OBSERVED"),
        (("runtime", "{tmp}/small", "--junit", "{tmp}/no/j.xml"), "there is no folder"),
        (("runtime", "{tmp}/small", "--expected", "{tmp}/none.toml"), "there is no such file of expected failures"),
        (("runtime", "{tmp}/small", "--update-expected"), "names a file"),
        (("--compare",), "--compare: name the reports"),
        (("--compare", "{tmp}/none.json"), "none.json: No such file or directory"),
    ],
)
def test_mistakes_are_told_in_one_line(main: Callable[..., Outcome], tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    write_target(tmp_path / "small")
    done = main("conformance", *(word.format(tmp=tmp_path) for word in words))
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if line]
    assert len(lines) == 1, lines
    assert why in lines[0]


def test_cases_and_requirements_are_listed(main: Callable[..., Outcome]) -> None:
    lines = main("conformance", "runtime", "--list", "--level", "MUST").out.decode().splitlines()
    assert "MUST     runtime.event.values[null]" in lines
    assert all(line.startswith("MUST ") for line in lines)
    assert main("conformance", "runtime", "--requirements").out.decode().startswith("# What a runtime must do\n")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    target = write_target(tmp_path / "small", f"open({str(mark)!r}, 'w'); time.sleep(3600)", patience=3600)
    process = subprocess.Popen(
        [COMMAND, "conformance", "runtime", str(target), "--only", "runtime.invoke"], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 30
    while not mark.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 2  # the parent of the environment's processes, and the runtime
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "sandbox: interrupted"
    assert_no_traceback_of_ours(err)
    assert [one for one in below if one.is_running()] == []
