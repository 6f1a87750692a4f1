"""A run: what cases come to, and that none of them can end it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sandbox.conformance.case import Case
from sandbox.conformance.lab import RuntimeLab, expect
from sandbox.conformance.runner import Run, Runner, select
from sandbox.conformance.verdict import Inapplicable, Outcome, Verdict
from sandbox.core.errors import ConfigError
from tests.conformance.conftest import MakeTarget

ANSWERS, AGAIN, MANY = "runtime.invoke.answers", "runtime.invoke.again", "runtime.invoke.many"

Body = Callable[[Any], Awaitable[None]]


async def passes(lab: RuntimeLab) -> None:
    pass


async def breaks(lab: RuntimeLab) -> None:
    expect(False, "it is broken")


async def raises(lab: RuntimeLab) -> None:
    raise KeyError("of the suite")


async def hangs(lab: RuntimeLab) -> None:
    await lab.deploy()
    await lab.function.initialise()
    await asyncio.Event().wait()


async def does_not_apply(lab: RuntimeLab) -> None:
    raise Inapplicable("not here")


def a_case(body: Body, requirement: str = ANSWERS, variant: str = "") -> Case:
    return Case(requirement + variant, requirement, body)


async def run(target: MakeTarget, *cases: Case, **settings: Any) -> Run:
    return await Runner(target(), **settings).run(cases)


def verdicts(run: Run) -> dict[str, Verdict]:
    return {one.case: one.verdict for one in run.outcomes}


@pytest.mark.parametrize(
    ("body", "verdict", "message"),
    [
        (passes, Verdict.PASS, ""),
        (breaks, Verdict.FAIL, "it is broken"),
        (raises, Verdict.ERROR, "a mistake of the suite, please report it: KeyError: 'of the suite' (raises, line "),
        (does_not_apply, Verdict.SKIP, "not here"),
    ],
)
async def test_a_case_comes_to_a_verdict(target: MakeTarget, body: Body, verdict: Verdict, message: str) -> None:
    [outcome] = (await run(target, a_case(body))).outcomes
    assert outcome.verdict is verdict
    assert outcome.message.startswith(message)
    assert "Traceback" not in outcome.message


async def test_a_case_that_hangs_fails_within_its_limit_and_the_run_goes_on(target: MakeTarget) -> None:
    made = await run(target, a_case(hangs, ANSWERS), a_case(passes, AGAIN, "[x]"), limit=0.5)
    hung = made.outcomes[0]
    assert hung.verdict is Verdict.FAIL
    assert hung.message.startswith("it was not over within 0.5 s. Its last call was GET /2018-06-01/runtime/invocation/next")
    assert verdicts(made)[f"{AGAIN}[x]"] is Verdict.SKIP  # it needs the other one


async def test_the_target_s_silence_is_its_failure(target: MakeTarget) -> None:
    small = target("time.sleep(3600)", patience=0.4)
    made = await Runner(small).run(select("runtime", [ANSWERS]))
    [outcome] = made.outcomes
    assert outcome.verdict is Verdict.FAIL
    assert outcome.message.startswith("an answer: not within 0.4 s. Its last call was GET /2018-06-01/runtime/invocation/next")
    assert outcome.message.endswith("it has printed nothing")
    assert [one["path"] for one in outcome.transcript] == ["/2018-06-01/runtime/invocation/next"]


@pytest.mark.parametrize("garbage", [r"sys.stdout.buffer.write(bytes(range(256)) * 1000)", "os.kill(os.getpid(), 11)", "1 / 0"])
async def test_garbage_and_crashes_are_reported_as_such(target: MakeTarget, garbage: str) -> None:
    made = await Runner(target(garbage)).run(select("runtime", [ANSWERS, "runtime.invoke.again"]))
    wanted = Verdict.PASS if "write" in garbage else Verdict.FAIL
    assert made.outcomes[0].verdict is wanted
    if wanted is Verdict.FAIL:
        assert b"Runtime.ExitError" in made.outcomes[0].message.encode()


async def test_what_needs_something_that_is_broken_says_nothing(target: MakeTarget) -> None:
    made = await run(target, a_case(breaks), a_case(passes, AGAIN), a_case(passes, MANY))
    assert list(verdicts(made).values()) == [Verdict.FAIL, Verdict.SKIP, Verdict.SKIP]
    assert made.outcomes[1].message == f"it says nothing while {ANSWERS} is not kept (fail)"


async def test_what_is_needed_is_run_even_if_it_was_not_chosen(target: MakeTarget) -> None:
    made = await Runner(target()).run(select("runtime", [AGAIN]))
    assert verdicts(made) == {ANSWERS: Verdict.PASS, AGAIN: Verdict.PASS}


async def test_what_is_not_offered_is_disabled_and_the_slow_is_skipped(target: MakeTarget) -> None:
    chosen = select("runtime", ["runtime.stream.streams", "runtime.next.idle-for-a-minute"])
    made = await Runner(target()).run(chosen)
    found = verdicts(made)
    assert found["runtime.stream.streams"] is Verdict.DISABLED
    assert found["runtime.next.idle-for-a-minute"] is Verdict.SKIP
    assert made.failures == []


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        ({}, ["fail", "pass"]),
        ({ANSWERS: "why"}, ["xfail", "pass"]),
        ({f"{ANSWERS}[b]": "why"}, ["xfail", "pass"]),
        ({f"{ANSWERS}[a]": "why", f"{ANSWERS}[b]": "why"}, ["xfail", "xpass"]),
        ({f"{ANSWERS}[a]": "why"}, ["fail", "xpass"]),
    ],
)
async def test_expected_failures(target: MakeTarget, expected: dict[str, str], wanted: list[str]) -> None:
    made = await run(target, a_case(breaks, variant="[b]"), a_case(passes, variant="[a]"), expected=expected)
    assert [str(one.verdict) for one in made.outcomes] == wanted
    assert [str(one.verdict) for one in made.failures] == [one for one in wanted if one in ("fail", "xpass")]


async def test_a_requirement_that_is_kept_as_a_whole_against_the_expectation(target: MakeTarget) -> None:
    made = await run(target, a_case(passes, variant="[a]"), a_case(passes, variant="[b]"), expected={ANSWERS: "why"})
    assert [str(one.verdict) for one in made.failures] == ["xpass", "xpass"]


async def test_only_must_and_should_fail_a_run(target: MakeTarget) -> None:
    free = Case("runtime.next.interim-replies", "runtime.next.interim-replies", breaks)
    made = await run(target, a_case(passes), free)
    assert [one.case for one in made.broken] == [free.id]
    assert made.failures == []


async def test_each_case_is_told_as_it_comes_and_a_seed_changes_no_result(target: MakeTarget) -> None:
    told: list[Outcome] = []
    chosen = select("runtime", ["runtime.event.values"])
    made = await Runner(target(), seed=7, jobs=3, told=told.append).run(chosen)
    assert sorted(one.case for one in told) == sorted(one.case for one in made.outcomes)
    assert {one.verdict for one in made.outcomes} == {Verdict.PASS}


def test_selection() -> None:
    everything = select("runtime")
    assert {one.requirement for one in select("runtime", ["runtime.next"])} < {one.requirement for one in everything}
    assert [one.id for one in select("runtime", ["runtime.event.values[null]"])] == ["runtime.event.values[null]"]
    assert len(select("runtime", ["runtime.event.values"])) == 11
    assert 0 < len(select("runtime", [], ["OBSERVED"])) < 20
    for wrong in (["runtime.nex"], ["x"], ["runtime.next.lost[no]"]):
        with pytest.raises(ConfigError, match="no case is called"):
            select("runtime", wrong)
    with pytest.raises(ConfigError, match="level"):
        select("runtime", [], ["must"])


async def test_a_target_that_cannot_be_started_is_no_failure_of_a_case(target: MakeTarget) -> None:
    small = target()
    for settings in ({"code": small.code / "nowhere"}, {"runtime": "cobol"}, {"memory": 1}):
        wrong = type(small)(**{**small.__dict__, **settings})
        with pytest.raises(ConfigError):
            await Runner(wrong).run(select("runtime", [ANSWERS]))
