"""The table of mutants."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .client import Client
from .good import Runtime


class Mutant(NamedTuple):
    """requirement: the one that it breaks. how: in words."""

    requirement: str
    how: str
    runtime: type[Runtime]


MUTANTS: dict[str, Mutant] = {}

Wrong = type[Runtime] | type[Client]


def breaks(requirement: str) -> Callable[[Wrong], Wrong]:
    """Enters a wrong runtime, or a good one with a wrong client, under its class's name; its docstring says what is wrong."""

    def enter(wrong: Wrong) -> Wrong:
        runtime = wrong if issubclass(wrong, Runtime) else type(wrong.__name__, (Runtime,), {"client_class": wrong})
        assert wrong.__doc__ is not None
        assert wrong.__name__ not in MUTANTS
        MUTANTS[wrong.__name__] = Mutant(f"runtime.{requirement}", wrong.__doc__, runtime)
        return wrong

    return enter
