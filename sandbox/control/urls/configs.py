"""The operations on function URLs (CP-093 … CP-095). AWS's words are recorded."""

from __future__ import annotations

import secrets
import string
from datetime import UTC, datetime
from typing import Final

from sandbox.control.context import Context, Parameters, Result, page
from sandbox.control.errors import conflict, not_found
from sandbox.control.names import Here, Named
from sandbox.control.tables import UrlRow

BUFFERED: Final = "BUFFERED"
_ALPHABET: Final = string.ascii_lowercase + string.digits
_ID_LENGTH: Final = 32  # as AWS's
_NOBODY: Final = "Function does not exist"


def host_name(here: Here, row: UrlRow) -> str:
    """Its own name: browsers and curl take every name below localhost for this machine."""
    return f"{row.id}.lambda-url.{here.region}.localhost:{row.port}"


def create_function_url_config(c: Context, p: Parameters) -> Result:
    named = c.there(p, _NOBODY)
    qualifier = named.qualifier or ""
    if c.tables.url(named.name, qualifier) is not None:
        where = f"[functionArn = {c.here.function_arn(*named)}]"
        what = "FunctionUrlConfig exists for this Lambda function"
        raise conflict(f"Failed to create function url config for {where}. Error message:  {what}")
    now = _now(c)
    document = {"AuthType": p["AuthType"], "CreationTime": now, "LastModifiedTime": now}
    document |= {member: p[member] for member in ("Cors", "InvokeMode") if member in p}
    id_ = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    row = UrlRow(named.name, qualifier, id_, c.reserve_port(), document)
    c.tables.put_url(row)
    c.changed.add(named.name)
    shown = _shown(c, row)
    del shown["LastModifiedTime"]
    return shown


def get_function_url_config(c: Context, p: Parameters) -> Result:
    return {"InvokeMode": BUFFERED} | _shown(c, _row(c, _named(c, p)))


def update_function_url_config(c: Context, p: Parameters) -> Result:
    row = _row(c, c.there(p, _NOBODY))
    row.document |= {member: p[member] for member in ("AuthType", "Cors", "InvokeMode") if member in p}
    row.document["LastModifiedTime"] = _now(c)
    c.tables.put_url(row)
    c.changed.add(row.function)
    return _shown(c, row)


def delete_function_url_config(c: Context, p: Parameters) -> Result:
    row = _row(c, _named(c, p))
    c.tables.delete_url(row.function, row.qualifier)
    c.changed.add(row.function)
    return {}


def list_function_url_configs(c: Context, p: Parameters) -> Result:
    named = c.there(p, _NOBODY)
    found = [{"InvokeMode": BUFFERED} | _shown(c, row) for row in c.tables.urls(named.name)]
    return page(found, p, "FunctionUrlConfigs")


def _named(c: Context, p: Parameters) -> Named:
    return c.here.function(p["FunctionName"], p.get("Qualifier"))


def _row(c: Context, named: Named) -> UrlRow:
    row = c.tables.url(named.name, named.qualifier or "")
    if row is None:
        raise not_found("The resource you requested does not exist.")
    return row


def _shown(c: Context, row: UrlRow) -> Result:
    arn = c.here.function_arn(row.function, row.qualifier or None)
    return {"FunctionUrl": f"http://{host_name(c.here, row)}/", "FunctionArn": arn, **row.document}


def _now(c: Context) -> str:
    return f"{datetime.fromtimestamp(c.wall, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
