"""Wrong hosts: each breaks the requirement that it was made to break, and no other of its area."""

from __future__ import annotations

import shlex
import sys

import pytest

from sandbox.conformance.requirements import requirements
from sandbox.conformance.runner import Runner, select
from sandbox.conformance.target import Target
from sandbox.conformance.verdict import Verdict
from tests.conftest import ROOT
from tests.mutants.hosts.table import MUTANTS

ALLOWED = {Verdict.PASS, Verdict.SKIP, Verdict.DISABLED}


async def broken(name: str, *patterns: str) -> dict[str, str]:
    """The requirements that a mutant breaks, and what was said of the last case of each."""
    start = (
        f"exec {shlex.quote(sys.executable)} -m tests.mutants.hosts {shlex.quote(name)} {{code}} {{layer}} {{port}} {{timeout}}"
    )
    target = Target("host", name, ROOT, ROOT, start=start, features=("extensions",))
    outcomes = (await Runner(target, jobs=2).run(select("host", patterns))).outcomes
    return {one.requirement: one.message for one in outcomes if one.verdict not in ALLOWED}


def area_of(requirement: str) -> list[str]:
    """It and its neighbour: the whole suite takes a minute for each mutant."""
    area = requirement.rpartition(".")[0]
    known = [one for one in requirements("host") if one.startswith(f"{area}.")]
    at = known.index(requirement)
    return known[at : at + 2]


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.breaks])
async def test_a_wrong_host_breaks_one_requirement(name: str) -> None:
    breaks = MUTANTS[name].breaks
    assert breaks is not None
    found = await broken(name, *area_of(breaks))
    assert set(found) == {breaks}, found


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTANTS)
async def test_and_no_other_of_the_whole_suite(name: str) -> None:
    breaks = MUTANTS[name].breaks
    found = await broken(name)
    assert set(found) == ({breaks} if breaks else set()), found
