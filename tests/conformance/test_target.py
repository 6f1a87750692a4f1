"""conformance.toml, and the file of expected failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.conformance import expected
from sandbox.conformance.case import cases
from sandbox.conformance.target import build, load
from sandbox.conformance.verdict import Outcome, Verdict
from sandbox.core.errors import ConfigError
from tests.conformance.conftest import MakeTarget, write_target

ANSWERS = "runtime.invoke.answers"


def test_a_target_is_read(tmp_path: Path) -> None:
    (tmp_path / "conformance.toml").write_text(
        '[target]\ncode = "src"\nlayers = ["a"]\nenvironment = {K = "v"}\nmemory = 512\nexpected = "e.toml"\n'
        '[handlers]\necho = "f.echo"\n'
    )
    for path in (tmp_path, tmp_path / "conformance.toml"):
        target = load(path, "runtime")
        assert (target.name, target.kind, target.memory) == (tmp_path.name, "runtime", 512)
        assert (target.code, target.expected) == (tmp_path / "src", tmp_path / "e.toml")
        assert (target.layers, target.environment) == ((str(tmp_path / "a"),), {"K": "v"})
        assert target.offers("echo")
        assert not target.offers("stream")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"it has no \[target\]"),
        ("target = 1", r"it has no \[target\]"),
        ("[target", "conformance.toml"),
        ("[target]\n[x]\n", "x: not known here; possible are handlers, target"),
        ('[target]\nhandler = "x"\n', r"\[target\] handler: not known here; possible are build, code"),
        ("[target]\ncode = 1\n", r"\[target\] code = 1: it is to be text"),
        ("[target]\nmemory = true\n", "it is to be a number"),
        ('[target]\nmemory = "1"\n', "it is to be a number"),
        ('[target]\nkind = "extension"\n', "its kind is extension, and runtime was asked for"),
        ('[target]\nkind = "x"\n', "which is none of runtime, extension, host"),
        ("[target]\nlayers = [1]\n", "are text"),
        ("[target]\nenvironment = {A = 1}\n", "are text"),
        ('[target]\nisolation = "docker"\n', "one of auto, process, namespace"),
        ('[target]\nnetwork = "wifi"\n', "one of auto"),
        ('[target]\n[handlers]\nechoo = "x"\n', r"\[handlers\] echoo: not known here; possible are big, context"),
        ("[target]\n[handlers]\necho = 1\n", r"\[handlers\] echo: text"),
        ("handlers = 1\n[target]\n", r"\[handlers\] is a table"),
    ],
)
def test_a_file_that_is_wrong_says_where_and_what_would_be_right(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "conformance.toml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        load(tmp_path, "runtime")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; it says what is to be tested"):
        load(tmp_path, "runtime")


def test_a_build_line(tmp_path: Path) -> None:
    folder = write_target(tmp_path / "t")
    text = (folder / "conformance.toml").read_text()
    (folder / "conformance.toml").write_text(text.replace("[handlers]", 'build = "echo built > mark"\n[handlers]'))
    build(load(folder, "runtime"))
    assert (folder / "mark").read_text() == "built\n"
    (folder / "conformance.toml").write_text(text.replace("[handlers]", 'build = "echo why; exit 3"\n[handlers]'))
    with pytest.raises(ConfigError, match="its build line failed with status 3: echo why; exit 3\nwhy"):
        build(load(folder, "runtime"))


# ── expected failures ──


@given(reasons=st.dictionaries(st.sampled_from([one.id for one in cases("runtime")]), st.text(max_size=50), max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, reasons: dict[str, str]) -> None:
    file = tmp_path_factory.mktemp("expected") / "e.toml"
    expected.write(file, {id_: reason.encode("utf-8", "ignore").decode() for id_, reason in reasons.items()})
    assert expected.load(file, "runtime") == {id_: reason.encode("utf-8", "ignore").decode() for id_, reason in reasons.items()}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('["runtime.x.y"]\nreason = "r"', "neither a requirement nor a case"),
        (f'["{ANSWERS}"]\nwhy = "r"', "one key, reason"),
        (f'["{ANSWERS}"]\nreason = 1', "one key, reason"),
        (f'"{ANSWERS}" = "r"', "one key, reason"),
        ("[", "e.toml"),
    ],
)
def test_a_file_of_expected_failures_that_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        expected.load(tmp_path / "e.toml", "runtime")


def test_an_update_keeps_reasons_drops_what_passes_and_leaves_what_did_not_run(target: MakeTarget) -> None:
    def outcome(case: str, verdict: Verdict, message: str = "") -> Outcome:
        return Outcome(case, case.partition("[")[0], verdict, message)

    before = {"a": "whole", "b[1]": "one", "c": "did not run", "d[2]": "passes now"}
    outcomes = [
        outcome("a[1]", Verdict.XFAIL),
        outcome("a[2]", Verdict.PASS),
        outcome("b[1]", Verdict.XFAIL),
        outcome("b[2]", Verdict.FAIL, "new"),
        outcome("c", Verdict.SKIP),
        outcome("d[2]", Verdict.XPASS),
    ]
    assert expected.updated(outcomes, before) == {
        "a": "whole",
        "b[1]": "one",
        "b[2]": "not explained yet: new",
        "c": "did not run",
    }
