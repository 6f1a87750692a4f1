"""What an operation of the API works with. Operations are plain functions, run in the store's thread, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sandbox.control.errors import ApiError, invalid, not_found
from sandbox.control.names import LATEST, Here, Named
from sandbox.control.store import Blobs
from sandbox.control.tables import FunctionRow, Tables, VersionRow

Parameters = dict[str, Any]
Result = dict[str, Any]
Operation = Callable[["Context", Parameters], Result]


@dataclass(slots=True)
class Context:
    """tables: the transaction. wall: the time, in seconds since the epoch. link: a link to a blob, good for ten minutes.

    installed: whether a runtime that is none of AWS's can run here. provisioned_state: how many are ready, the status and its
    reason, of a function and a qualifier. reserve_port: a free port for a function URL. changed:
    names of functions that the operation has changed; what runs is brought in line with them afterwards.
    """

    tables: Tables
    blobs: Blobs
    here: Here
    wall: float
    link: Callable[[str], str]
    installed: Callable[[str], bool]
    provisioned_state: Callable[[str, str], tuple[int, str, str | None]]
    reserve_port: Callable[[], int]
    changed: set[str] = field(default_factory=set)

    def now(self) -> str:
        """LastModified."""
        at = datetime.fromtimestamp(self.wall, UTC)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}+0000"

    def function(self, named: Named) -> FunctionRow:
        """Raises ApiError: there is none; the message names the qualifier that was asked for."""
        row = self.tables.function(named.name)
        if row is None:
            raise not_found(f"Function not found: {self.here.function_arn(*named)}")
        return row

    def there(self, p: Parameters, otherwise: str) -> Named:
        """What a request names: a function, and a version or an alias of it. Raises ApiError, in these words: there is none."""
        named = self.here.function(p["FunctionName"], p.get("Qualifier"))
        try:
            self.version(named)
        except ApiError:
            raise not_found(otherwise) from None
        return named

    def version(self, named: Named) -> VersionRow:
        """The version behind a number, an alias or nothing ($LATEST). Raises ApiError."""
        self.function(named)
        qualifier = named.qualifier or LATEST
        if qualifier != LATEST and not named.is_version:
            alias = self.tables.alias(named.name, qualifier)
            qualifier = alias["FunctionVersion"] if alias is not None else ""
        row = self.tables.version(named.name, qualifier)
        if row is None:
            raise not_found(f"Function not found: {self.here.function_arn(*named)}")
        return row


def revision() -> str:
    """A new RevisionId."""
    return str(uuid.uuid4())


def page(items: list[Any], p: Parameters, key: str, *, most: int = 50) -> Result:
    """One page of a list (CP-025): Marker is where it begins."""
    marker = p.get("Marker") or "0"
    if not (marker.isascii() and marker.isdigit() and len(marker) < 10):
        raise invalid("The provided marker was invalid. Please check it, then try again.")
    start = int(marker)
    size = min(p.get("MaxItems", most), most)
    result: Result = {key: items[start : start + size]}
    if start + size < len(items):
        result["NextMarker"] = str(start + size)
    return result
