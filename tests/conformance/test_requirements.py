"""The requirements as data, and the cases that belong to them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sandbox.conformance.case import cases
from sandbox.conformance.requirements import parse, requirements
from sandbox.conformance.target import FEATURES, HANDLERS
from sandbox.core.errors import InvariantError

ROWS = {match[0] for match in re.finditer(r"[A-Z]{2}-\d{3}", (Path(__file__).parents[1] / "catalogue.toml").read_text())}
KINDS = ["runtime", "extension", "host"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_requirement_has_a_case_or_says_why_not(kind: str) -> None:
    tested = {one.requirement for one in cases(kind)}
    for requirement in requirements(kind).values():
        assert (requirement.id in tested) != bool(requirement.untested), requirement.id


@pytest.mark.parametrize("kind", KINDS)
def test_every_requirement_is_of_the_catalogue(kind: str) -> None:
    for requirement in requirements(kind).values():
        assert set(requirement.rows) <= ROWS, requirement.id


@pytest.mark.parametrize("kind", KINDS)
def test_what_requirements_use_and_need_is_there(kind: str) -> None:
    known = requirements(kind)
    order = list(known)
    for requirement in known.values():
        assert set(requirement.uses) <= HANDLERS.keys() | FEATURES.keys(), requirement.id
        assert all(order.index(needed) < order.index(requirement.id) for needed in requirement.needs), requirement.id


def test_there_are_as_many_cases_as_were_promised() -> None:
    assert len(cases("runtime")) >= 150
    assert len(cases("extension")) >= 80
    assert len(cases("host")) >= 60


GOOD = """
[sources]
docs = "https://docs.aws.amazon.com/"
["runtime.a.b"]
level = "MUST"
text = "A sentence."
rows = ["RT-020"]
source = "docs"
"""


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (GOOD.replace("runtime.a.b", "runtime.a"), "no slug"),
        (GOOD.replace("runtime.a.b", "runtime.a.B"), "no slug"),
        (GOOD.replace("runtime.a.b", "host.a.b"), "no slug"),
        (GOOD.replace("MUST", "must"), "level"),
        (GOOD.replace("sentence.", "sentence"), "no sentence"),
        (GOOD.replace('["RT-020"]', "[]"), "catalogue"),
        (GOOD.replace('"RT-020"', '"RT20"'), "catalogue"),
        (GOOD.replace('source = "docs"', 'source = "doc"'), "source"),
        (GOOD + 'profile = "x"\n', "profile"),
        (GOOD + 'needs = ["runtime.x.y"]\n', "needs"),
        (GOOD + "extra = 1\n", "unknown keys"),
    ],
)
def test_data_that_is_wrong_is_refused(wrong: str, why: str) -> None:
    parse("runtime", tomllib.loads(GOOD))
    with pytest.raises(InvariantError, match=why):
        parse("runtime", tomllib.loads(wrong))
