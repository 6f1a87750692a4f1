"""Published versions and aliases (CP-040 … CP-050)."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Final

from sandbox.control import configuration
from sandbox.control.context import Context, Parameters, Result, page, revision
from sandbox.control.errors import conflict, invalid, not_found, stale
from sandbox.control.names import LATEST, Named
from sandbox.control.tables import Document, VersionRow

# CP-042: what makes a version another one. Members that follow from these, or say when and how it was changed, do not.
_DIFFERENCE_FREE: Final = {
    *("LastModified", "RevisionId", "State", "StateReason", "StateReasonCode"),
    *("LastUpdateStatus", "LastUpdateStatusReason", "LastUpdateStatusReasonCode", "RuntimeVersionConfig"),
}


def publish(c: Context, latest: VersionRow, description: str | None = None) -> VersionRow:
    """A version of $LATEST as it is now; if nothing has changed since the last one, that one (CP-041)."""
    published = c.tables.versions(latest.function)[1:]
    document = copy.deepcopy(latest.configuration)
    if description is not None:
        document["Description"] = description
    made_of = _digest(latest)
    if published and published[-1].made_of == made_of:
        return published[-1]
    if document.get("LastUpdateStatus") == "InProgress":  # its code is on its way, too
        for key in ("LastUpdateStatus", "LastUpdateStatusReason", "LastUpdateStatusReasonCode"):
            document.pop(key)
        document |= {"State": "Pending", **configuration.CREATING}
    number = c.tables.next_number(c.here.function_arn(latest.function))
    document["RevisionId"] = revision()
    row = VersionRow(latest.function, str(number), document, latest.code, latest.layers, latest.runtime_management, made_of)
    latest.configuration["RevisionId"] = revision()
    c.tables.put_version(row)
    c.tables.put_version(latest)
    c.changed.add(latest.function)
    return row


def _digest(latest: VersionRow) -> str:
    """Another one when something has changed that a version is made of."""
    relevant = {key: value for key, value in latest.configuration.items() if key not in _DIFFERENCE_FREE}
    return hashlib.sha256(json.dumps([relevant, latest.layers], sort_keys=True).encode()).hexdigest()


def publish_version(c: Context, p: Parameters) -> Result:
    configuration.refuse_unsupported(p)
    named = c.here.function(p["FunctionName"])
    latest = c.version(Named(named.name))
    configuration.check_settled(c, latest)
    current = latest.configuration["CodeSha256"]
    if "CodeSha256" in p and p["CodeSha256"] != current:  # CP-043
        raise invalid(
            f"CodeSHA256 ({p['CodeSha256']}) is different from current CodeSHA256 in $LATEST ({current}). "
            "Please try again with the CodeSHA256 in $LATEST."
        )
    if "RevisionId" in p and p["RevisionId"] != latest.configuration["RevisionId"]:
        raise stale()
    row = publish(c, latest, p.get("Description") or None)
    return configuration.shown(c, row, row.version)


def list_versions_by_function(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    c.function(Named(named.name))
    rows = c.tables.versions(named.name)
    return page([configuration.listed(c, row, qualified=True) for row in rows], p, "Versions")


# ── aliases ──


def create_alias(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    arn = c.here.function_arn(named.name, p["Name"])
    _check_version(c, named.name, p["FunctionVersion"])
    if c.tables.alias(named.name, p["Name"]) is not None:
        raise conflict(f"Alias already exists: {arn}")
    document: Document = {
        "AliasArn": arn,
        "Name": p["Name"],
        "FunctionVersion": p["FunctionVersion"],
        "Description": p.get("Description", ""),
    }
    _route(c, named.name, document, p.get("RoutingConfig"))
    return _keep(c, named.name, document)


def _check_version(c: Context, name: str, version: str) -> None:
    if c.tables.version(name, version) is None:
        raise not_found(f"Function not found: {c.here.function_arn(name, version)}")


def _route(c: Context, name: str, document: Document, routing: Document | None) -> None:
    """CP-047, CP-048."""
    if routing is not None:
        document.pop("RoutingConfig", None)
        if weights := routing.get("AdditionalVersionWeights"):
            document["RoutingConfig"] = {"AdditionalVersionWeights": weights}
    weights = document.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    if len(weights) > 1:
        raise invalid("Number of items in AdditionalVersionWeights cannot be greater than 1")
    version = document["FunctionVersion"]
    if weights and version == LATEST:
        raise invalid("$LATEST is not supported for an alias pointing to more than 1 version", typed=False)
    for other in weights:
        if other == version:
            text = f"Function version {version} is already included in routing configuration."
            raise invalid(f"Invalid function version {version}. {text}")
        _check_version(c, name, other)
        first, second = (c.tables.version(name, one) for one in (version, other))
        assert first is not None
        assert second is not None
        for member, what in (("Role", "execution role"), ("DeadLetterConfig", "dead-letter queue configuration")):
            if first.configuration.get(member) != second.configuration.get(member):
                raise invalid(f"The versions {version} and {other} of an alias must have the same {what}.")


def _keep(c: Context, name: str, document: Document) -> Result:
    document["RevisionId"] = revision()
    c.tables.put_alias(name, document)
    c.changed.add(name)
    return document


def get_alias(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    document = c.tables.alias(named.name, p["Name"])
    if document is None:
        raise not_found(f"Cannot find alias arn: {c.here.function_arn(named.name, p['Name'])}")
    return document


def update_alias(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    document = c.tables.alias(named.name, p["Name"])
    if document is None:
        raise not_found(f"Alias not found: {c.here.function_arn(named.name, p['Name'])}")
    if "RevisionId" in p and p["RevisionId"] != document["RevisionId"]:
        raise stale()
    if "FunctionVersion" in p:
        _check_version(c, named.name, p["FunctionVersion"])
        document["FunctionVersion"] = p["FunctionVersion"]
    if "Description" in p:
        document["Description"] = p["Description"]
    _route(c, named.name, document, p.get("RoutingConfig"))
    return _keep(c, named.name, document)


def list_aliases(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    c.function(Named(named.name))
    wanted = p.get("FunctionVersion")
    aliases = [one for one in c.tables.aliases(named.name) if wanted is None or one["FunctionVersion"] == wanted]
    return page(aliases, p, "Aliases")


def delete_alias(c: Context, p: Parameters) -> Result:
    """CP-049: deleting one that is not there is no error."""
    named = c.here.function(p["FunctionName"])
    c.function(Named(named.name))
    c.tables.delete_alias(named.name, p["Name"])
    c.tables.delete_provisioned(named.name, p["Name"])
    c.tables.delete_policy(c.here.function_arn(named.name, p["Name"]))
    c.changed.add(named.name)
    return {}
