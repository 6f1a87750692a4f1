"""Recursive loops: how often each function was invoked in one chain of requests, told on in the trace header (IN-142).

A function that calls AWS hands its trace header on (every SDK does), and `Lineage` in it says through which functions the
chain has come: `a87bd80c:0|68fd508a:2` is one function for the first time, and another one for the third.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

from sandbox.core.limits import RECURSIONS

_LINEAGE: Final = re.compile(r";?Lineage=([^;]*)")
_HOP: Final = re.compile(r"([0-9a-f]{8}):([0-9]{1,5})")
_MOST: Final = 64  # functions of one chain that are told on


@lru_cache(maxsize=4096)
def _sign(arn: str) -> str:
    return hashlib.sha256(arn.encode()).hexdigest()[:8]


def handed_on(trace_id: str, arn: str) -> tuple[str, bool]:
    """The trace header as the function gets it, and whether the chain has come through it too often. arn: unqualified."""
    own = _sign(arn)
    found = _LINEAGE.search(trace_id)
    if found is None:
        return f"{trace_id};Lineage={own}:0", False
    hops = {sign: int(count) for sign, count in _HOP.findall(found[1])}
    hops[own] = hops.get(own, -1) + 1
    lineage = "|".join(f"{sign}:{count}" for sign, count in list(hops.items())[-_MOST:])
    return f"{_LINEAGE.sub('', trace_id)};Lineage={lineage}", hops[own] >= RECURSIONS
