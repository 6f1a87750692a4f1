"""Runs cases: side by side, each within its own limit, and none of them can end the run."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.clock import Clock, SystemClock
from sandbox.conformance.case import Case, cases
from sandbox.conformance.expected import apply
from sandbox.conformance.extension_lab import ExtensionLab
from sandbox.conformance.host_lab import HostLab
from sandbox.conformance.lab import Lab, RuntimeLab
from sandbox.conformance.requirements import COUNTED, KINDS, LEVELS, Requirement, requirements
from sandbox.conformance.target import Target
from sandbox.conformance.verdict import Broken, Inapplicable, NotOffered, Outcome, Verdict, worst
from sandbox.core.errors import ConfigError, InvariantError, Unsupported
from sandbox.process.isolation import Isolation, choose

CASE_LIMIT: Final = 90.0  # real seconds for one case, whatever it waits for
_LINES_KEPT: Final = 200  # of what the target printed in one case
_GRACE: Final = 15.0  # real seconds in which a laboratory must have been closed

Labs = Mapping[str, Callable[[Target, Clock, Isolation], Lab]]
LABS: Final[Labs] = {"runtime": RuntimeLab, "extension": ExtensionLab, "host": HostLab}


@dataclass
class Run:
    """A run and what came of it. outcomes: in the order of the requirements. seconds: of real time."""

    target: Target
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    seed: int | None = None

    @property
    def broken(self) -> list[Outcome]:
        """Everything that is not as it should be, whatever its level."""
        return [one for one in self.outcomes if one.verdict in (Verdict.ERROR, Verdict.XPASS, Verdict.FAIL)]

    @property
    def failures(self) -> list[Outcome]:
        """What fails the run: MUST and SHOULD that are broken, passes against the expectation, errors of ours."""
        known = requirements(self.target.kind)
        return [one for one in self.broken if one.verdict is not Verdict.FAIL or known[one.requirement].level in COUNTED]

    def verdicts(self) -> dict[str, Verdict]:
        """By requirement: the worst of its cases."""
        found: dict[str, list[Verdict]] = {}
        for one in self.outcomes:
            found.setdefault(one.requirement, []).append(one.verdict)
        return {requirement: worst(verdicts) for requirement, verdicts in found.items()}


def select(kind: str, patterns: Sequence[str] = (), levels: Sequence[str] = ()) -> list[Case]:
    """The cases whose id, or requirement's id, is or begins with one of the patterns. Raises ConfigError if there are none."""
    assert kind in KINDS
    if wrong := [level for level in levels if level not in LEVELS]:
        raise ConfigError(f"level {wrong[0]!r}: one of {', '.join(LEVELS)}")
    known = requirements(kind)
    found = [one for one in cases(kind) if not levels or known[one.requirement].level in levels]
    for pattern in patterns:
        if not any(_matches(one, pattern) for one in found):
            raise ConfigError(f"no case is called {pattern}, or begins so; --list shows them")
    return [one for one in found if not patterns or any(_matches(one, pattern) for pattern in patterns)]


def _matches(one: Case, pattern: str) -> bool:
    return one.id == pattern or one.id.startswith((f"{pattern.rstrip('.')}.", f"{pattern}["))


class Runner:
    """Runs cases against one target. told: called with each outcome as it comes. jobs: cases at a time.

    expected: why a case, or a requirement, is expected to fail. slow: cases that take real minutes, too. seed: cases are
    begun in an order that is made of it, instead of their own.
    """

    def __init__(
        self,
        target: Target,
        *,
        jobs: int = 2,
        slow: bool = False,
        expected: Mapping[str, str] | None = None,
        seed: int | None = None,
        limit: float = CASE_LIMIT,
        told: Callable[[Outcome], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self._target = target
        self._known = requirements(target.kind)
        self._slow = slow
        self._expected = expected or {}
        self._seed = seed
        self._limit = limit
        self._told = told
        self._clock = clock or SystemClock()
        self._places = asyncio.Semaphore(jobs)
        self._verdicts: dict[str, asyncio.Future[Verdict]] = {}  # of requirements, when all their cases are done

    async def run(self, chosen: Sequence[Case]) -> Run:
        """Raises ConfigError or Unsupported if the target cannot be started at all on this machine."""
        run = Run(self._target, seed=self._seed)
        self._isolation = await _isolation(self._target)
        await self._try_target()
        began = self._clock.now()
        by_requirement: dict[str, list[Case]] = {}
        for one in self._with_needs(chosen):
            by_requirement.setdefault(one.requirement, []).append(one)
        loop = asyncio.get_running_loop()
        self._verdicts = {requirement: loop.create_future() for requirement in by_requirement}
        order = list(by_requirement)
        if self._seed is not None:
            random.Random(self._seed).shuffle(order)
        async with asyncio.TaskGroup() as group:
            tasks = {id_: group.create_task(self._requirement(self._known[id_], by_requirement[id_])) for id_ in order}
        run.outcomes = [outcome for id_ in self._known if id_ in tasks for outcome in tasks[id_].result()]
        run.seconds = self._clock.now() - began
        return run

    async def _try_target(self) -> None:
        """What is wrong with the target as a whole is told once, before any case. Raises ConfigError, Unsupported."""
        lab = LABS[self._target.kind](self._target, self._clock, self._isolation)
        try:
            await lab.try_out()
        finally:
            await lab.close()

    def _with_needs(self, chosen: Sequence[Case]) -> list[Case]:
        """Those that were chosen, and those of the requirements that they need."""
        wanted, todo = {one.id: one for one in chosen}, [one.requirement for one in chosen]
        all_of: dict[str, list[Case]] = {}
        for one in cases(self._target.kind):
            all_of.setdefault(one.requirement, []).append(one)
        seen: set[str] = set()
        while todo:
            for needed in self._known[todo.pop()].needs:
                if needed not in seen:
                    seen.add(needed)
                    todo.append(needed)
                    if not any(one.requirement == needed for one in chosen):
                        wanted.update((one.id, one) for one in all_of.get(needed, ()))
        order = {requirement: number for number, requirement in enumerate(self._known)}
        return sorted(wanted.values(), key=lambda one: order[one.requirement])

    async def _requirement(self, requirement: Requirement, mine: list[Case]) -> list[Outcome]:
        """Its cases, when those that it needs have passed."""
        outcomes: list[Outcome] = []
        try:
            why = await self._why_not(requirement)
            if why is not None:
                outcomes = [Outcome(one.id, requirement.id, why[0], why[1]) for one in mine]
            else:
                outcomes = await asyncio.gather(*(self._case(one) for one in mine))
                apply(requirement.id, outcomes, self._expected)
            for outcome in outcomes:
                self._told(outcome)
        finally:
            self._verdicts[requirement.id].set_result(worst([one.verdict for one in outcomes] or [Verdict.ERROR]))
        return outcomes

    async def _why_not(self, requirement: Requirement) -> tuple[Verdict, str] | None:
        """Why its cases say nothing about this target."""
        for use in requirement.uses:
            if not self._target.offers(use):
                what = "handler" if self._target.kind == "runtime" else "feature"
                return Verdict.DISABLED, f"{what} {use} is not offered"
        if requirement.slow and not self._slow:
            return Verdict.SKIP, "it takes more than a minute; --slow runs it"
        for needed in requirement.needs:
            verdict = await asyncio.shield(self._verdicts[needed])
            if verdict not in (Verdict.PASS, Verdict.XPASS):
                return Verdict.SKIP, f"it says nothing while {needed} is not kept ({verdict})"
        return None

    async def _case(self, one: Case) -> Outcome:
        if missing := [use for use in one.uses if not self._target.offers(use)]:
            return Outcome(one.id, one.requirement, Verdict.DISABLED, f"feature {missing[0]} is not offered")
        async with self._places:
            return await self._run(one)

    async def _run(self, one: Case) -> Outcome:
        began = self._clock.now()
        outcome = Outcome(one.id, one.requirement, Verdict.PASS)
        closing = Outcome(one.id, one.requirement, Verdict.PASS)
        lab = LABS[self._target.kind](self._target, self._clock, self._isolation)
        try:
            await self._watched(outcome, lab, one.run(lab), self._limit)
        finally:  # a run that is broken off leaves no process behind either
            outcome.transcript, outcome.timeline, outcome.output = lab.transcript(), lab.timeline(), lab.printed[:_LINES_KEPT]
            await self._watched(closing, lab, lab.close(), _GRACE)
        if closing.verdict is not Verdict.PASS and outcome.verdict is not Verdict.ERROR:
            outcome.verdict, outcome.message = Verdict.ERROR, f"while the laboratory was closed: {closing.message}"
        mistakes = [record.record for record in lab.records if record.type == "sandbox.mistake"]
        if mistakes:
            outcome.verdict = Verdict.ERROR
            outcome.message = f"a mistake of lambda-sandbox itself, please report it: {mistakes[0]['error']}"
        outcome.seconds = self._clock.now() - began
        return outcome

    async def _watched(self, outcome: Outcome, lab: Lab, work: Awaitable[Any], limit: float) -> None:
        """Awaits it and writes down how it ends."""
        try:
            async with asyncio.timeout(limit):
                await work
        except Broken as broken:
            outcome.verdict, outcome.message = Verdict.FAIL, str(broken)
        except (NotOffered, Inapplicable) as reason:
            outcome.verdict = Verdict.DISABLED if isinstance(reason, NotOffered) else Verdict.SKIP
            outcome.message = str(reason)
        except TimeoutError:
            outcome.verdict = Verdict.FAIL
            outcome.message = f"it was not over within {limit:g} s. {lab.whereabouts()}"
        except (ConfigError, Unsupported) as error:  # it could be started at first: something was taken away since
            outcome.verdict, outcome.message = Verdict.ERROR, str(error)
        except Exception as error:  # whatever it is, it is ours: the target's own failures are Broken
            outcome.verdict = Verdict.ERROR
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = str(error) if isinstance(error, InvariantError) else f"{type(error).__name__}: {error}"
            outcome.message = f"a mistake of the suite, please report it: {what} ({where.name}, line {where.lineno})"


async def _isolation(target: Target) -> Isolation:
    """Found by trying, once for a run. Raises Unsupported if this machine has not what the target asks for by name."""
    if target.network is not None:
        return await choose(target.isolation, target.network)
    try:
        return await choose(target.isolation, "none")  # the quickest: most targets call nobody
    except Unsupported:
        return await choose(target.isolation)
