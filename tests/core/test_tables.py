"""The tables themselves: every state meets every move, and the diagram in the README is drawn from them."""

from __future__ import annotations

from enum import Enum

import pytest

from sandbox.core import states
from sandbox.core.errors import Refused
from sandbox.core.parties import refuse_extension, refuse_runtime, step
from tests.conftest import ROOT
from tests.core.diagram import drawn

TABLES = [
    (states.RUNTIME, states.Runtime, states.RuntimeMove),
    (states.EXTENSION, states.Extension, states.ExtensionMove),
    (states.INVOCATION, states.Invocation, states.InvocationMove),
    (states.PHASE, states.Phase, states.PhaseMove),
]
PAIRS = [
    pytest.param(table, state, move, id=f"{type(state).__name__}.{state.name}-{move.name}")
    for table, all_states, moves in TABLES
    for state in all_states
    for move in moves
]


@pytest.mark.catalogue("RT-055", "EX-056")
@pytest.mark.parametrize(("table", "state", "move"), PAIRS)
def test_every_move_is_either_in_the_table_or_refused(table: dict, state: Enum, move: Enum) -> None:
    refuse = refuse_extension if isinstance(state, states.Extension) else refuse_runtime
    names = ("telemetry",) if isinstance(state, states.Extension) else ()
    if move in table[state]:
        assert step(table, state, move, refuse, *names) is table[state][move]
        return
    with pytest.raises(Refused) as refused:
        step(table, state, move, refuse, *names)
    assert refused.value.status == 403
    asked = "Exited" if move is states.ExtensionMove.EXIT_ERROR else move.value
    assert f"State transition from {state.value} to {asked} failed for" in refused.value.message
    assert refused.value.message.endswith("Error: State transition is not allowed")


@pytest.mark.parametrize(("table", "all_states", "moves"), TABLES)
def test_no_state_and_no_move_is_dead(table: dict, all_states: type[Enum], moves: type[Enum]) -> None:
    assert set(table) == set(all_states)
    first = next(iter(all_states))
    reached, waiting = {first}, [first]
    while waiting:
        for after in table[waiting.pop()].values():
            if after not in reached:
                reached.add(after)
                waiting.append(after)
    assert reached == set(all_states)
    assert {move for row in table.values() for move in row} == set(moves)


def test_the_diagram_in_the_readme_is_the_tables() -> None:
    readme = (ROOT / "README.md").read_text()
    assert drawn() in readme, "draw it again: python -m tests.core.diagram --write"
