"""What the service model forbids, in the words in which AWS refuses it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StructureShape

_FAILED: Final = "failed to satisfy constraint"
_AS_ONE_VALUE: Final = "compatibleRuntimes"  # recorded: a list that is told of as one value, and first
_FILES: Final = frozenset({"DestinationArn", "ResourceArn"})  # ours: a folder does instead of an ARN
_FILE: Final = re.compile(r"file:///[^\r\n\0]+").fullmatch
_ORDERS: Final = {
    "RecursiveLoop": ["Terminate", "Allow"],
    "InvokeMode": ["RESPONSE_STREAM", "BUFFERED"],
}  # recorded, where it is not the model's


def complaints(shape: StructureShape, given: dict[str, Any]) -> list[str]:
    """One sentence for each constraint that is not kept, in the order of the shape's members."""
    found: list[str] = []
    _structure(shape, given, "", found)
    return sorted(found, key=lambda text: f" at '{_AS_ONE_VALUE}' " not in text)


def _structure(shape: StructureShape, given: dict[str, Any], path: str, found: list[str]) -> None:
    for name, member in shape.members.items():
        where = f"{path}{name[0].lower()}{name[1:]}"
        if name in given:
            _value(member, given[name], where, found)
        elif name in shape.required_members:
            found.append(f"Value null at '{where}' {_FAILED}: Member must not be null")


def _value(shape: Shape, value: Any, where: str, found: list[str]) -> None:
    found += [f"Value '{_shown(value)}' at '{where}' {_FAILED}: {constraint}" for constraint in _broken(shape, value)]
    if isinstance(shape, StructureShape):
        _structure(shape, value, f"{where}.", found)
    elif isinstance(shape, ListShape):
        _members(shape.member, value, where, _shown(value), "Member must satisfy constraint: ", found)
    elif isinstance(shape, MapShape):
        _members(shape.key, list(value), where, _shown(value), "Map keys must satisfy constraint: ", found)
        _members(shape.value, list(value.values()), where, _shown(value), "Map value must satisfy constraint: ", found)


def _members(shape: Shape, values: list[Any], where: str, shown: str, words: str, found: list[str]) -> None:
    """What each element must be is told once, for all of them."""
    if isinstance(shape, StructureShape):
        for number, value in enumerate(values, 1):
            _structure(shape, value, f"{where}.{number}.member.", found)
        return
    if any(_broken(shape, value) for value in values):
        rules = [text for text, _ in _rules(shape)]
        not_null = [] if words.startswith("Map keys") or where.startswith("vpcConfig.") else ["Member must not be null"]
        constraint = f"{words}[{', '.join(rules + not_null)}]"
        if where == _AS_ONE_VALUE:
            constraint = rules[-1]
        found.append(f"Value '{shown}' at '{where}' {_FAILED}: {constraint}")


def _broken(shape: Shape, value: Any) -> list[str]:
    return [text for text, kept in _rules(shape) if not kept(value)]


@cache
def _rules(shape: Shape) -> list[tuple[str, Any]]:
    """The constraints of a shape: their words, and what tells whether a value keeps them."""
    meta = shape.metadata
    rules: list[tuple[str, Any]] = []
    low, high = meta.get("min"), meta.get("max")
    number = shape.type_name in ("integer", "long", "float", "double")
    if number:
        as_is = float if shape.type_name in ("float", "double") else int
        if high is not None:
            rules.append((f"Member must have value less than or equal to {as_is(high)}", lambda v: v <= high))
        if low is not None:
            rules.append((f"Member must have value greater than or equal to {as_is(low)}", lambda v: v >= low))
    elif shape.type_name not in ("structure", "blob", "timestamp", "boolean"):
        if high is not None:
            rules.append((f"Member must have length less than or equal to {high}", lambda v: len(v) <= high))
        if low is not None and not (shape.type_name == "list" and low == 0):
            rules.append((f"Member must have length greater than or equal to {low}", lambda v: len(v) >= low))
    if pattern := meta.get("pattern"):
        rules.append((f"Member must satisfy regular expression pattern: {pattern}", _matcher(pattern, shape.name in _FILES)))
    if enum := _ORDERS.get(shape.name) or meta.get("enum"):
        rules.append((f"Member must satisfy enum value set: [{', '.join(enum)}]", lambda v: v in enum))
    return rules


_SCRIPTS: Final = re.compile(r"\(?\[((?:\\p\{[A-Z]\})+)([^]]*)\]\*\)?")  # characters of some categories, and some others


def _matcher(pattern: str, files: bool) -> Callable[[str], bool]:
    """Whether a value is what the pattern says. Python's own have no \\p{L}: the model uses it for tags alone, in one form."""
    if (scripts := _SCRIPTS.fullmatch(pattern)) is None:
        matches = re.compile(pattern, re.ASCII).fullmatch
        return lambda value: matches(value) is not None or (files and _FILE(value) is not None)
    categories = set(re.findall(r"\{(.)\}", scripts[1]))
    others = re.compile(f"[{scripts[2]}]").fullmatch
    return lambda value: all(unicodedata.category(c)[0] in categories or others(c) for c in value)


def _shown(value: Any) -> str:
    """A value as AWS prints it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
