"""Requirements as data: one TOML file for each kind of target."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

from sandbox.core.errors import InvariantError

KINDS: Final = ("runtime", "extension", "host")
LEVELS: Final = ("MUST", "SHOULD", "MAY", "OBSERVED")
COUNTED: Final = ("MUST", "SHOULD")  # a failure of these fails a run
PROFILES: Final = ("aws", "rie", "lmi")

_ID = re.compile(r"(runtime|extension|host)(\.[a-z0-9]+(-[a-z0-9]+)*){2,}")
_ROW = re.compile(r"[A-Z]{2}-\d{3}")
_KEYS: Final = frozenset({"level", "text", "rows", "source", "profile", "uses", "needs", "untested", "slow"})


class Requirement(NamedTuple):
    """One sentence that a target keeps or breaks.

    id: a slug, never a number, so that an insertion renames nothing. level: MUST and SHOULD as the source says or implies; MAY
    is free; OBSERVED is what AWS's own clients do. rows: of the requirement catalogue. source: a URL, or the catalogue's word
    for where it comes from. uses: what the target must offer (handlers of the contract, or features). needs: requirements
    without which this one says nothing. untested: why there is no case. slow: it takes real minutes.
    """

    id: str
    level: str
    text: str
    rows: tuple[str, ...]
    source: str
    profile: str = "aws"
    uses: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    untested: str | None = None
    slow: bool = False

    @property
    def kind(self) -> str:
        return self.id.partition(".")[0]


@cache
def requirements(kind: str) -> Mapping[str, Requirement]:
    """Those of one kind of target by id, in the order of the file. Raises InvariantError if the data is wrong."""
    text = resources.files(__package__).joinpath(f"{kind}.toml").read_text("utf-8")
    return parse(kind, tomllib.loads(text))


def parse(kind: str, document: Mapping[str, Any]) -> dict[str, Requirement]:
    """Checks and reads a document. Raises InvariantError: the data is ours."""
    sources, needs = document.get("sources", {}), document.get("defaults", {}).get("needs", ())
    found: dict[str, Requirement] = {}
    for id_, entry in document.items():
        if id_ in ("sources", "defaults"):
            continue
        if not _ID.fullmatch(id_) or not id_.startswith(f"{kind}."):
            raise InvariantError(f"requirement {id_!r}: no slug of kind {kind}")
        if wrong := sorted(entry.keys() - _KEYS):
            raise InvariantError(f"requirement {id_}: unknown keys {', '.join(wrong)}")
        found[id_] = _requirement(id_, {"needs": needs, **entry}, sources)
    for requirement in found.values():
        if missing := [other for other in requirement.needs if other not in found]:
            raise InvariantError(f"requirement {requirement.id} needs {', '.join(missing)}, which there is not")
    return found


def _requirement(id_: str, entry: Mapping[str, Any], sources: Mapping[str, str]) -> Requirement:
    level, text, rows = entry.get("level"), entry.get("text", ""), entry.get("rows", [])
    if level not in LEVELS:
        raise InvariantError(f"requirement {id_}: level {level!r} is none of {', '.join(LEVELS)}")
    if not text.endswith("."):
        raise InvariantError(f"requirement {id_}: its text is no sentence")
    if not rows or not all(_ROW.fullmatch(row) for row in rows):
        raise InvariantError(f"requirement {id_}: rows {rows!r} are none of the catalogue")
    profile = entry.get("profile", "aws")
    if profile not in PROFILES:
        raise InvariantError(f"requirement {id_}: profile {profile!r} is none of {', '.join(PROFILES)}")
    source = entry.get("source", "")
    if source not in sources:
        raise InvariantError(f"requirement {id_}: source {source!r} is none of {', '.join(sources)}")
    uses, needs = tuple(entry.get("uses", ())), tuple(entry.get("needs", ()))
    return Requirement(
        id_, level, text, tuple(rows), sources[source], profile, uses, needs, entry.get("untested"), entry.get("slow", False)
    )
