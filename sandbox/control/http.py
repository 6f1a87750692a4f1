"""aiohttp's servers as the API and function URLs use them."""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web

LAST_ANSWERS: Final = 5.0  # seconds that open connections get at the end
DROP: Final = 64 * 1024 * 1024  # bytes: a body that is too long is read to its end, up to so much more

_quiet = logging.getLogger("sandbox.http")  # aiohttp prints a traceback for each request that is no HTTP
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def server(handler: Any, **options: Any) -> web.Server:
    return web.Server(handler, access_log=None, logger=_quiet, **options)
