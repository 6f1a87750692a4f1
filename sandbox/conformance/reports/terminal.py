"""A run in a terminal: progress while it lasts, a tree when it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sandbox.conformance.reports.junit import area_of
from sandbox.conformance.requirements import COUNTED, requirements
from sandbox.conformance.runner import Run
from sandbox.conformance.verdict import Outcome, Verdict

_SLOWEST = 5
_LOUD = (Verdict.FAIL, Verdict.XPASS, Verdict.ERROR)
_COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.XPASS: "red", Verdict.ERROR: "magenta", Verdict.XFAIL: "yellow"}
_WORDS = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.XPASS: "passed unexpectedly",
    Verdict.ERROR: "errors of the suite",
    Verdict.XFAIL: "failed as expected",
    Verdict.SKIP: "skipped",
    Verdict.DISABLED: "not offered",
}

Style = Callable[[str, str | None], str]


class Progress:
    """One line that is written over while a run lasts. total: cases. write: to a terminal."""

    def __init__(self, total: int, write: Callable[[str], None]) -> None:
        self._total, self._write = total, write
        self._done = self._loud = 0

    def told(self, outcome: Outcome) -> None:
        self._done += 1
        self._loud += outcome.verdict in _LOUD
        failed = f", {self._loud} not as they should be" if self._loud else ""
        self._write(f"\r{self._done} of {self._total} cases{failed}\x1b[K")

    def over(self) -> None:
        self._write("\r\x1b[K")


def tree(run: Run, style: Style, *, all_cases: bool = False) -> str:
    """Areas, with the requirements that are not kept, and their cases. all_cases: those that passed, too."""
    lines: list[str] = []
    known = requirements(run.target.kind)
    areas: dict[str, list[Outcome]] = {}
    for one in run.outcomes:
        areas.setdefault(area_of(one.requirement), []).append(one)
    width = max((len(area) for area in areas), default=0)
    for area, outcomes in areas.items():
        seconds = sum(one.seconds for one in outcomes)
        lines.append(f"{area:<{width}}  {_counted(outcomes, style)}  {style(f'{seconds:.1f} s', 'bright_black')}")
        shown: str | None = None
        for one in outcomes:
            if not all_cases and one.verdict not in _LOUD:
                continue
            if one.requirement != shown:
                shown = one.requirement
                requirement = known[shown]
                rows = ", ".join(requirement.rows)
                lines.append(f"  {style(requirement.level, None)} {shown}: {requirement.text} ({rows})")
            variant = one.case.removeprefix(one.requirement) or "case"
            said = f": {one.message}" if one.message else ""
            lines.append(f"    {style(str(one.verdict), _COLOURS.get(one.verdict))} {variant}{said}")
    return "\n".join([*lines, "", summary(run, style)])


def _counted(outcomes: list[Outcome], style: Style) -> str:
    counts = Counter(one.verdict for one in outcomes)
    return ", ".join(style(f"{counts[v]} {_WORDS[v]}", _COLOURS.get(v)) for v in _WORDS if counts[v])


def summary(run: Run, style: Style) -> str:
    """Counts, what was not offered, and where the time went."""
    kept = Counter(run.verdicts().values())
    lines = [
        f"{run.target.name}: {len(run.outcomes)} cases of {len(run.verdicts())} requirements in {run.seconds:.1f} s: "
        + _counted(run.outcomes, style),
        f"  requirements: {kept[Verdict.PASS]} kept, {kept[Verdict.FAIL]} broken",
    ]
    if missing := sorted({one.message for one in run.outcomes if one.verdict is Verdict.DISABLED}):
        lines.append(f"  not offered: {'; '.join(missing)}")
    slowest = sorted(run.outcomes, key=lambda one: -one.seconds)[:_SLOWEST]
    lines.append("  slowest: " + ", ".join(f"{one.case} {one.seconds:.1f} s" for one in slowest if one.seconds))
    free = [one for one in run.outcomes if one.verdict is Verdict.FAIL and one not in run.failures]
    if free:
        lines.append(f"  {len(free)} failures do not count: only those of {' and '.join(COUNTED)} fail a run")
    if run.seed is not None:
        lines.append(f"  begun in the order of --seed {run.seed}")
    return "\n".join(lines)
