"""Small settings of a function: tags, code signing, recursion, runtime management (CP-030, CP-096)."""

from __future__ import annotations

from sandbox.control import configuration
from sandbox.control.context import Context, Parameters, Result, revision
from sandbox.control.errors import invalid, not_found
from sandbox.control.names import Named
from sandbox.control.tables import FunctionRow
from sandbox.core.limits import TAGS


def _tagged(c: Context, resource: str) -> FunctionRow:
    if ":function:" not in resource:
        kind = resource.split(":")[5].replace("-", " ")
        raise not_found(f"{kind[0].upper()}{kind[1:]} not found: {resource}")
    named = c.here.function(resource)
    if named.qualifier is not None:
        raise invalid("Tags on function aliases and versions are not supported. Please specify a function ARN.")
    return c.function(named)


def tag_resource(c: Context, p: Parameters) -> Result:
    row = _tagged(c, p["Resource"])
    if not p["Tags"]:
        raise invalid("An error occurred and the request cannot be processed.")
    row.tags |= p["Tags"]
    if len(row.tags) > TAGS:
        raise invalid("Number of tags exceeds resource tag limit.")
    return _keep(c, row)


def untag_resource(c: Context, p: Parameters) -> Result:
    row = _tagged(c, p["Resource"])
    row.tags = {key: value for key, value in row.tags.items() if key not in p["TagKeys"]}
    return _keep(c, row)


def _keep(c: Context, row: FunctionRow) -> Result:
    latest = c.version(Named(row.name))
    configuration.check_settled(c, latest)  # CP-023
    latest.configuration["RevisionId"] = revision()
    c.tables.put_version(latest)
    c.tables.put_function(row)
    return {}


def list_tags(c: Context, p: Parameters) -> Result:
    return {"Tags": _tagged(c, p["Resource"]).tags}


def get_function_code_signing_config(c: Context, p: Parameters) -> Result:
    """No function has one: AWS answers nothing then."""
    c.function(c.here.function(p["FunctionName"]))
    return {}


def get_function_recursion_config(c: Context, p: Parameters) -> Result:
    return {"RecursiveLoop": c.function(c.here.function(p["FunctionName"])).recursive_loop}


def put_function_recursion_config(c: Context, p: Parameters) -> Result:
    row = c.function(c.here.function(p["FunctionName"]))
    row.recursive_loop = p["RecursiveLoop"]
    c.tables.put_function(row)
    c.changed.add(row.name)
    return {"RecursiveLoop": row.recursive_loop}


def get_runtime_management_config(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    row = c.version(named)
    arn = c.here.function_arn(named.name, named.qualifier)
    return {"UpdateRuntimeOn": "Auto", "FunctionArn": arn} | (row.runtime_management or {})


def put_runtime_management_config(c: Context, p: Parameters) -> Result:
    """It is kept and shown: here, the interpreter that is installed runs."""
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    row = c.version(named)
    mode, arn = p["UpdateRuntimeOn"], p.get("RuntimeVersionArn")
    if mode == "Manual" and arn is None:
        raise invalid("Please provide a RuntimeVersionArn when UpdateRuntimeOn is Manual.")
    if mode != "Manual" and arn is not None:
        raise invalid("Please provide a RuntimeVersionArn only when UpdateRuntimeOn is Manual.")
    row.runtime_management = {"UpdateRuntimeOn": mode} | ({"RuntimeVersionArn": arn} if arn else {})
    unpinned = configuration.runtime_version(c, row.configuration["Runtime"])
    row.configuration["RuntimeVersionConfig"] = {"RuntimeVersionArn": arn} if arn else unpinned
    c.tables.put_version(row)
    return row.runtime_management | {"FunctionArn": c.here.function_arn(named.name, named.qualifier)}
