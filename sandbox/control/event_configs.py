"""Event invoke configs: retries, age and destinations of asynchronous invokes (CP-090 … CP-092). AWS's words are recorded."""

from __future__ import annotations

import re
from typing import Any, Final

from sandbox.control.context import Context, Parameters, Result, page
from sandbox.control.errors import ApiError, invalid, not_found
from sandbox.control.names import LATEST, Named
from sandbox.control.tables import Document

_SETTINGS: Final = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
_FILES: Final = "file://"
_TARGET: Final = re.compile(
    r"arn:[^:]+:(lambda:[^:]+:[^:]+:function:.+|sqs:[^:]+:[^:]+:.+|sns:[^:]+:[^:]+:.+|events:.+:event-bus/.+)"
)
_BUCKET: Final = re.compile(r"arn:[^:]+:s3:::.+")
_NOBODY: Final = "The function doesn't exist."


def put_function_event_invoke_config(c: Context, p: Parameters) -> Result:
    """It replaces what was there."""
    named = c.there(p, _NOBODY)
    return _put(c, named, {}, p)


def update_function_event_invoke_config(c: Context, p: Parameters) -> Result:
    """It changes what is said, and leaves the rest."""
    named = c.there(p, _NOBODY)
    return _put(c, named, _config(c, named), p)


def get_function_event_invoke_config(c: Context, p: Parameters) -> Result:
    named = _named(c, p)
    return _shown(c, named, _config(c, named))


def delete_function_event_invoke_config(c: Context, p: Parameters) -> Result:
    named = _named(c, p)
    _config(c, named)
    c.tables.delete_event_config(named.name, named.qualifier or LATEST)
    c.changed.add(named.name)
    return {}


def list_function_event_invoke_configs(c: Context, p: Parameters) -> Result:
    named = c.there(p, _NOBODY)
    configs = c.tables.event_configs(named.name).items()
    found = [_shown(c, Named(named.name, qualifier), document) for qualifier, document in configs]
    return page(found, p, "FunctionEventInvokeConfigs")


def _named(c: Context, p: Parameters) -> Named:
    return c.here.function(p["FunctionName"], p.get("Qualifier"))


def _config(c: Context, named: Named) -> Document:
    qualifier = named.qualifier or LATEST
    document = c.tables.event_config(named.name, qualifier)
    if document is None:
        arn = c.here.function_arn(named.name, qualifier)
        raise not_found(f"The function {arn} doesn't have an EventInvokeConfig")
    return document


def _put(c: Context, named: Named, document: Document, p: Parameters) -> Result:
    if not any(member in p for member in _SETTINGS):
        raise invalid("You must specify at least one of error handling or destination setting.")
    if "DestinationConfig" in p:
        _check_destinations(c, named, p["DestinationConfig"])
    before = document.get("DestinationConfig", {})
    document = document | {member: p[member] for member in _SETTINGS if member in p}
    if "DestinationConfig" in p:
        document["DestinationConfig"] = {**before, **p["DestinationConfig"]}
    document["LastModified"] = c.wall
    c.tables.put_event_config(named.name, named.qualifier or LATEST, document)
    c.changed.add(named.name)
    return _shown(c, named, document)


def _shown(c: Context, named: Named, document: Document) -> Result:
    arn = c.here.function_arn(named.name, named.qualifier or LATEST)
    destinations = document.get("DestinationConfig", {})
    shown = {side: _only_destination(destinations.get(side, {})) for side in ("OnSuccess", "OnFailure")}
    return {**document, "FunctionArn": arn, "DestinationConfig": shown}


def _only_destination(side: Document) -> Document:
    return {"Destination": side["Destination"]} if side.get("Destination") else {}


def _check_destinations(c: Context, named: Named, config: Document) -> None:
    for side in ("OnSuccess", "OnFailure"):
        target = config.get(side, {}).get("Destination")
        if not target or target.startswith(_FILES):
            continue
        if _TARGET.fullmatch(target) is None and not (side == "OnFailure" and _BUCKET.fullmatch(target)):
            raise invalid(f"The provided destination config {_java(config)} is invalid.")
        if ":lambda:" in target:
            _check_function(c, named, target)


def _check_function(c: Context, named: Named, target: str) -> None:
    try:
        other = c.here.function(target)
        c.version(other)
    except ApiError:
        raise invalid(f"The destination ARN {target} is invalid.") from None
    if other.name == named.name and (other.qualifier or LATEST) == (named.qualifier or LATEST):
        raise invalid("You can't specify the function as a destination for itself.")


def _java(config: Document) -> str:
    def side(name: str) -> Any:
        given = config.get(name)
        return "null" if given is None else f"{name}(destination={given.get('Destination', 'null')})"

    return f"DestinationConfig(onSuccess={side('OnSuccess')}, onFailure={side('OnFailure')})"
