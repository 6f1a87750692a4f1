"""Cases: coroutines that are given a laboratory, and raise `Broken` if the target breaks a requirement."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sandbox.conformance.requirements import Requirement, requirements
from sandbox.core.errors import InvariantError

Body = Callable[..., Awaitable[None]]
B = TypeVar("B", bound=Body)


class Case(NamedTuple):
    """id: of its requirement, with [variant] if there are several. uses: what it needs besides what its requirement uses."""

    id: str
    requirement: str
    run: Callable[[Any], Awaitable[None]]
    uses: tuple[str, ...] = ()


_cases: dict[str, Case] = {}


def case(
    requirement: str, variants: Mapping[str, Any] | Iterable[Any] | None = None, *, uses: tuple[str, ...] = ()
) -> Callable[[B], B]:
    """Registers a case for a requirement. variants: one case for each; its value is the body's second argument."""

    def register(body: B) -> B:
        if variants is None:
            _add(Case(requirement, requirement, body, uses))
            return body
        table = variants if isinstance(variants, Mapping) else {str(value): value for value in variants}
        for name, value in table.items():
            _add(Case(f"{requirement}[{name}]", requirement, _bound(body, value), uses))
        return body

    return register


def _bound(body: Body, value: Any) -> Callable[[Any], Awaitable[None]]:
    return lambda lab: body(lab, value)


def _add(new: Case) -> None:
    if new.id in _cases:
        raise InvariantError(f"there are two cases {new.id}")
    _cases[new.id] = new


@cache
def cases(kind: str) -> tuple[Case, ...]:
    """Every case for one kind of target, in the order of the requirements. Raises InvariantError if data and code differ."""
    package = importlib.import_module(f"sandbox.conformance.cases.{kind}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    known = requirements(kind)
    mine = [one for one in _cases.values() if one.requirement.startswith(f"{kind}.")]
    _check(known, mine)
    order = {id_: number for number, id_ in enumerate(known)}
    return tuple(sorted(mine, key=lambda one: order[one.requirement]))


def _check(known: Mapping[str, Requirement], mine: list[Case]) -> None:
    if unknown := sorted({one.requirement for one in mine} - known.keys()):
        raise InvariantError(f"cases without a requirement: {', '.join(unknown)}")
    tested = {one.requirement for one in mine}
    for requirement in known.values():
        if (requirement.id in tested) == (requirement.untested is not None):
            raise InvariantError(f"requirement {requirement.id}: either a case, or `untested` says why there is none")
