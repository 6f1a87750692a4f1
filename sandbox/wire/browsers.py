"""Keeps pages of other sites away from local listeners: DNS rebinding and drive-by requests (DECISIONS "browser pages").

Refused are a foreign Origin, `Sec-Fetch-Site: cross-site` (or same-site with another origin), and a Host that is not local.
`Sec-Fetch-Mode` is never looked at: Node.js's own fetch sends it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

# Names that mean this machine, or the environment itself.
LOCAL_NAMES: Final = frozenset({"localhost", "sandbox", "sandbox.localdomain", "sandbox.local.domain", "169.254.100.1"})
_checked_hosts: dict[bytes, bool] = {}


def refusal(headers: Mapping[bytes, bytes], allowed: frozenset[str] = frozenset()) -> str | None:
    """Why a request is refused, or None. Header names in lower case. allowed: further names of this machine, without a port."""
    host = headers.get(b"host")
    if host is not None and not _is_local(host) and _without_port(host.decode("latin-1")) not in allowed:
        return f"Host {host.decode('latin-1')!r} is not local: this listener serves this machine only"
    origin = headers.get(b"origin")
    if origin is not None and (host is None or origin.lower() != b"http://" + host.lower()):
        return f"Origin {origin.decode('latin-1')!r} is another site: its pages may not call this listener"
    site = headers.get(b"sec-fetch-site", b"").lower()
    if site == b"cross-site" or (site == b"same-site" and origin is None):
        return f"Sec-Fetch-Site is {site.decode()!r}: pages of other sites may not call this listener"
    return None


def _is_local(host: bytes) -> bool:
    known = _checked_hosts.get(host)
    if known is None:
        if len(_checked_hosts) > 64:
            _checked_hosts.clear()
        known = _checked_hosts[host] = is_local_name(host.decode("latin-1"))
    return known


def is_local_name(host: str) -> bool:
    """Whether a Host header (name or address, with or without a port) names this machine."""
    name = _without_port(host)
    if name in LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name
