"""Wrong runtimes: each is found to break exactly the requirement that it was made to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sandbox.conformance.requirements import requirements
from sandbox.conformance.runner import Runner, select
from sandbox.conformance.target import HANDLERS, Target, load
from sandbox.conformance.verdict import Verdict

from .runtimes.mutants import MUTANTS

RUNTIMES = Path(__file__).parent / "runtimes"
BOOTSTRAP = "#!/bin/sh\nexec python3 -S -E -B -X utf8 -m runtimes\n"
PATIENCE = 3  # seconds; these runtimes are quick, and some of the mutants hang


def target(where: Path, mutant: str | None = None) -> Target:
    """A folder with the runtime, and its conformance.toml."""
    code = where / "code"
    code.mkdir()
    shutil.copytree(RUNTIMES, code / "runtimes", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "bootstrap").write_text(BOOTSTRAP)
    (code / "bootstrap").chmod(0o755)
    lines = ["[target]", 'kind = "runtime"', 'code = "code"', f"patience = {PATIENCE}"]
    if mutant is not None:
        lines.append(f'environment = {{ MUTANT = "{mutant}" }}')
    lines += ["[handlers]", *(f'{name} = "{name}"' for name in HANDLERS)]
    (where / "conformance.toml").write_text("\n".join(lines))
    return load(where, "runtime")


async def broken(target: Target, *patterns: str) -> dict[str, list[str]]:
    """The requirements that fail or make an error, with what is said of each case."""
    run = await Runner(target, jobs=2).run(select("runtime", patterns))
    found: dict[str, list[str]] = {}
    for one in run.outcomes:
        assert one.verdict is not Verdict.DISABLED, f"{one.case}: {one.message}"
        if one.verdict not in (Verdict.PASS, Verdict.SKIP):
            found.setdefault(one.requirement, []).append(f"{one.verdict}: {one.case}: {one.message}")
    return found


def with_neighbour(requirement: str) -> list[str]:
    """It and the one after it: the whole suite takes some seconds for each mutant."""
    known = list(dict.fromkeys(case.requirement for case in select("runtime")))
    at = known.index(requirement)
    return known[at : at + 2]


def expect_one(found: dict[str, list[str]], mutant: str) -> None:
    assert set(found) == {MUTANTS[mutant].requirement}, found
    assert not [line for lines in found.values() for line in lines if line.startswith(str(Verdict.ERROR))], found


@pytest.mark.timeout(300)
async def test_a_good_runtime_passes_everything(tmp_path: Path) -> None:
    run = await Runner(target(tmp_path), jobs=2).run(select("runtime"))
    known = requirements("runtime")
    assert {
        f"{one.verdict}: {one.case}: {one.message}"
        for one in run.outcomes
        if one.verdict is not Verdict.PASS and not known[one.requirement].slow
    } == set()


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mutant_breaks_its_requirement(mutant: str, tmp_path: Path) -> None:
    expect_one(await broken(target(tmp_path, mutant), *with_neighbour(MUTANTS[mutant].requirement)), mutant)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mutant_breaks_nothing_else(mutant: str, tmp_path: Path) -> None:
    expect_one(await broken(target(tmp_path, mutant)), mutant)
