"""CORS as the platform answers it (IN-127). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_OWN: Final = "access-control-"


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """headers: names in lower case."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def preflight(cors: Mapping[str, Any], headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers of the answer to a preflight; of another origin, none that would allow anything."""
    found = _allowed(cors, headers.get("origin"))
    if len(found) == 1:
        return found
    for name, key in (("Access-Control-Allow-Headers", "AllowHeaders"), ("Access-Control-Allow-Methods", "AllowMethods")):
        if cors.get(key):
            found.append((name, ",".join(cors[key])))
    if "MaxAge" in cors:
        found.append(("Access-Control-Max-Age", str(cors["MaxAge"])))
    return found


def with_cors(answer: list[tuple[str, str]], cors: Mapping[str, Any], headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """An answer's headers with the platform's, which win."""
    found = _allowed(cors, headers.get("origin"))
    if len(found) > 1 and cors.get("ExposeHeaders"):
        found.append(("Access-Control-Expose-Headers", ",".join(cors["ExposeHeaders"])))
    vary = [one.strip() for name, value in answer if name.lower() == "vary" for one in value.split(",")]
    vary = [one for one in vary if one and one.lower() != "origin"]
    kept = [(name, value) for name, value in answer if not name.lower().startswith(_OWN) and name.lower() != "vary"]
    return [*kept, ("Vary", ", ".join([*vary, "Origin"])), *found[1:]]


def allows(cors: Mapping[str, Any], origin: str) -> bool:
    origins = cors.get("AllowOrigins") or []
    return "*" in origins or origin.lower() in (one.lower() for one in origins)


def _allowed(cors: Mapping[str, Any], origin: str | None) -> list[tuple[str, str]]:
    """Vary, and, for an origin that is allowed, what says so."""
    found = [("Vary", "Origin")]
    if origin is None or not allows(cors, origin):
        return found
    found.append(("Access-Control-Allow-Origin", origin))  # recorded: it is sent back, whatever allowed it
    if cors.get("AllowCredentials"):
        found.append(("Access-Control-Allow-Credentials", "true"))
    return found
