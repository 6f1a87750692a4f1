"""Resource policies of functions and layer versions: kept and shown, never enforced (CP-097)."""

from __future__ import annotations

import json
import re
from typing import Final

from sandbox.control.context import Context, Parameters, Result, revision
from sandbox.control.errors import conflict, invalid, not_found, stale
from sandbox.control.names import LATEST, Named
from sandbox.control.tables import Document

_ACCOUNT: Final = re.compile(r"[0-9]{12}").fullmatch
_PRINCIPAL: Final = re.compile(r"arn:aws[a-zA-Z-]*:(iam|sts)::[0-9]{12}:.+").fullmatch
_SERVICE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*\.(amazonaws|amazon)\.com(\.cn)?").fullmatch
_NO_POLICY: Final = "No policy is associated with the given resource."
_STRING_CONDITIONS: Final = (
    ("SourceAccount", "AWS:SourceAccount"),
    ("FunctionUrlAuthType", "lambda:FunctionUrlAuthType"),
    ("PrincipalOrgID", "aws:PrincipalOrgID"),
    ("EventSourceToken", "lambda:EventSourceToken"),
)


def add_permission(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    if named.qualifier == LATEST:
        raise invalid("We currently do not support adding policies for $LATEST.")
    _check_there(c, named)
    resource = c.here.function_arn(*named)
    statement: Document = {
        "Sid": p["StatementId"],
        "Effect": "Allow",
        "Principal": _principal(p["Principal"]),
        "Action": p["Action"],
        "Resource": resource,
    }
    strings = {key: p[member] for member, key in _STRING_CONDITIONS if member in p}
    if "InvokedViaFunctionUrl" in p:
        strings_of = {"Bool": {"lambda:InvokedViaFunctionUrl": str(p["InvokedViaFunctionUrl"]).lower()}}
    else:
        strings_of = {}
    condition: Document = ({"StringEquals": strings} if strings else {}) | strings_of
    if "SourceArn" in p:
        condition["ArnLike"] = {"AWS:SourceArn": p["SourceArn"]}
    if condition:
        statement["Condition"] = condition
    _add(c, resource, statement, p.get("RevisionId"), "GetPolicy")
    return {"Statement": _text(statement)}


def _check_there(c: Context, named: Named) -> None:
    if named.qualifier is not None and not named.is_version and "$" not in named.qualifier:
        c.function(Named(named.name))
        if c.tables.alias(named.name, named.qualifier) is None:
            raise not_found(f"Cannot find alias arn: {c.here.function_arn(*named)}")
    else:
        c.version(named)


def _principal(text: str) -> str | Document:
    if text == "*":
        return text
    if _ACCOUNT(text):
        return {"AWS": f"arn:aws:iam::{text}:root"}
    if _PRINCIPAL(text):
        return {"AWS": text}
    if _SERVICE(text):
        return {"Service": text}
    raise invalid("The provided principal was invalid. Please check the principal and try again.")


def _add(c: Context, resource: str, statement: Document, known: str | None, call: str) -> str:
    statements, current = c.tables.policy(resource) or ([], None)
    if known is not None and known != current:
        raise stale(call)
    sid = statement["Sid"]
    if any(one["Sid"] == sid for one in statements):
        raise conflict(
            f"The statement id ({sid}) provided already exists. "
            "Please provide a new statement id, or remove the existing statement."
        )
    new = revision()
    c.tables.put_policy(resource, [*statements, statement], new)
    return new


def _remove(c: Context, resource: str, sid: str, known: str | None, call: str) -> None:
    found = c.tables.policy(resource)
    if found is None:
        raise not_found(_NO_POLICY)
    statements, current = found
    left = [one for one in statements if one["Sid"] != sid]
    if len(left) == len(statements):
        raise not_found(f"Statement {sid} is not found in resource policy.")
    if known is not None and known != current:
        raise stale(call)
    if left:
        c.tables.put_policy(resource, left, revision())
    else:
        c.tables.delete_policy(resource)


def _text(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"))


def _policy(c: Context, resource: str, missing: str) -> Result:
    found = c.tables.policy(resource)
    if found is None:
        raise not_found(missing)
    document = {"Version": "2012-10-17", "Id": "default", "Statement": found[0]}
    return {"Policy": _text(document), "RevisionId": found[1]}


def get_policy(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    return _policy(c, c.here.function_arn(*named), "The resource you requested does not exist.")


def remove_permission(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    if c.tables.function(named.name) is None:
        raise not_found(f"No policy found for: {c.here.function_arn(*named)}")
    _check_there(c, named)
    _remove(c, c.here.function_arn(*named), p["StatementId"], p.get("RevisionId"), "GetPolicy")
    return {}


# ── layer versions ──


def _layer_resource(c: Context, p: Parameters) -> str:
    arn = c.here.layer_arn(p["LayerName"].rpartition(":")[2], p["VersionNumber"])
    if c.tables.layer(p["LayerName"].rpartition(":")[2], p["VersionNumber"]) is None:
        raise not_found(f"Layer version {arn} does not exist.")
    return arn


def add_layer_version_permission(c: Context, p: Parameters) -> Result:
    resource = _layer_resource(c, p)
    principal = p["Principal"] if p["Principal"] == "*" else _principal(p["Principal"])
    statement: Document = {
        "Sid": p["StatementId"],
        "Effect": "Allow",
        "Principal": principal,
        "Action": p["Action"],
        "Resource": resource,
    }
    if "OrganizationId" in p:
        statement["Condition"] = {"StringEquals": {"aws:PrincipalOrgID": p["OrganizationId"]}}
    return {"Statement": _text(statement), "RevisionId": _add(c, resource, statement, p.get("RevisionId"), "GetLayerPolicy")}


def get_layer_version_policy(c: Context, p: Parameters) -> Result:
    return _policy(c, _layer_resource(c, p), _NO_POLICY)


def remove_layer_version_permission(c: Context, p: Parameters) -> Result:
    _remove(c, _layer_resource(c, p), p["StatementId"], p.get("RevisionId"), "GetLayerPolicy")
    return {}
