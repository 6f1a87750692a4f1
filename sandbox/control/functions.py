"""Functions: create, read, update, delete (CP-001 … CP-030)."""

from __future__ import annotations

import copy
from typing import Final

from sandbox.control import configuration, versions
from sandbox.control.context import Context, Parameters, Result, page
from sandbox.control.errors import conflict, invalid, not_found, stale, too_large
from sandbox.control.names import LATEST, Named
from sandbox.control.store import code_sha256
from sandbox.control.tables import FunctionRow, VersionRow
from sandbox.core.limits import DIRECT_UPLOAD, PACKAGE_LIMIT, TAGS
from sandbox.package.archive import open_zip
from sandbox.package.tree import OPT, TASK, PackageError, PackageTooLarge, Tree, check_size

_BAD_ZIP: Final = "Could not unzip uploaded file. Please check your file, then try to upload again."


def create_function(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    if c.tables.function(named.name) is not None:
        raise conflict(f"Function already exist: {named.name}")
    tags = p.get("Tags", {})
    if len(tags) > TAGS:
        raise invalid("Number of tags exceeds resource tag limit.")
    document = configuration.new(c, p, named.name)
    row = VersionRow(named.name, LATEST, document, "")
    _take_code(c, row, p["Code"])
    configuration.change_layers(c, row, p.get("Layers", []))
    _check_total(c, row)
    configuration.touch(c, row)
    c.tables.put_function(FunctionRow(named.name, tags))
    c.tables.put_version(row)
    c.changed.add(named.name)
    if p.get("Publish"):
        return configuration.shown(c, versions.publish(c, row)) | {"FunctionArn": c.here.function_arn(named.name)}
    return configuration.shown(c, row)


def _take_code(c: Context, row: VersionRow, code: Parameters) -> None:
    """Keeps the code. S3 objects were fetched into ZipFile before."""
    if code.get("ImageUri"):
        raise invalid("Please don't provide ImageUri when updating a function with packageType Zip.")
    data = code.get("ZipFile")
    if data is None:
        raise invalid("Please provide a source for function code.")
    if len(data) > DIRECT_UPLOAD and "S3Bucket" not in code:
        raise too_large(f"Zipped size must be smaller than {DIRECT_UPLOAD} bytes")
    row.code = c.blobs.put(data)
    check_zip(c, row.code)
    row.configuration |= {"CodeSha256": code_sha256(data), "CodeSize": len(data)}


def check_zip(c: Context, blob: str, mount: str = TASK) -> Tree:
    """CP-010, CP-011. Raises ApiError."""
    try:
        with open_zip(c.blobs.path(blob), mount) as (tree, _):
            check_size([("it", tree.size)])
            return tree
    except PackageTooLarge as error:
        raise invalid(f"Unzipped size must be smaller than {PACKAGE_LIMIT} bytes") from error
    except PackageError as error:
        raise invalid(_BAD_ZIP) from error


def _check_total(c: Context, row: VersionRow) -> None:
    """CP-011: code and layers together."""
    if not row.layers:
        return
    total = check_zip(c, row.code).size + sum(check_zip(c, layer, OPT).size for layer in row.layers)
    if total > PACKAGE_LIMIT:
        text = f"exceeds the maximum allowed size of {PACKAGE_LIMIT} bytes. The actual size is {total} bytes."
        raise invalid(f"Function code combined with layers {text}")


def get_function(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    row, function = c.version(named), c.function(named)
    result: Result = {
        "Configuration": configuration.shown(c, row, named.qualifier),
        "Code": {"RepositoryType": "S3", "Location": c.link(row.code)},
    }
    if function.tags:
        result["Tags"] = function.tags
    if function.reserved is not None:
        result["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved}
    return result


def get_function_configuration(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    return configuration.shown(c, c.version(named), named.qualifier)


def list_functions(c: Context, p: Parameters) -> Result:
    everything = p.get("FunctionVersion") == "ALL"
    rows: list[VersionRow] = []
    for function in c.tables.functions():
        versions_of = c.tables.versions(function.name)
        rows += versions_of if everything else versions_of[:1]
    return page([configuration.listed(c, row, qualified=everything) for row in rows], p, "Functions")


def _to_update(c: Context, p: Parameters) -> VersionRow:
    """$LATEST, if it may be changed now (CP-021 … CP-023)."""
    named = c.here.function(p["FunctionName"])
    c.function(Named(named.name))
    if named.qualifier not in (None, LATEST):
        raise invalid(
            "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
            "Please specify either a function name or an unqualified function ARN."
        )
    row = c.version(Named(named.name))
    configuration.check_settled(c, row)
    if "RevisionId" in p and p["RevisionId"] != row.configuration["RevisionId"]:
        raise stale()
    return row


def update_function_code(c: Context, p: Parameters) -> Result:
    configuration.refuse_unsupported(p)
    row = _to_update(c, p)
    before = copy.deepcopy(row)
    code: Parameters = {key: p[key] for key in ("ZipFile", "S3Bucket", "ImageUri") if key in p}
    if p.get("Architectures"):
        row.configuration["Architectures"] = p["Architectures"]
    _take_code(c, row, code)
    _check_total(c, row)
    if p.get("DryRun"):  # CP-020
        return configuration.shown(c, before) | {key: row.configuration[key] for key in ("CodeSha256", "CodeSize")}
    return _updated(c, row, publish=bool(p.get("Publish")))


def update_function_configuration(c: Context, p: Parameters) -> Result:
    row = _to_update(c, p)
    configuration.change(c, row.configuration, p)
    if "Layers" in p:
        configuration.change_layers(c, row, p["Layers"])
        _check_total(c, row)
    return _updated(c, row, publish=False)


def put_function(c: Context, p: Parameters) -> Result:
    """A function that is to be as p says: created, or changed in one step. No operation of the API: folders need it."""
    named = c.here.function(p["FunctionName"])
    if c.tables.function(named.name) is None:
        return create_function(c, p)
    row = c.version(Named(named.name))
    before = copy.deepcopy(row)
    configuration.change(c, row.configuration, p)
    if "Layers" in p:
        configuration.change_layers(c, row, p["Layers"])
    _take_code(c, row, p["Code"])
    _check_total(c, row)
    if row == before:
        return configuration.shown(c, row)
    configuration.check_settled(c, row)
    return _updated(c, row, publish=False)


def _updated(c: Context, row: VersionRow, *, publish: bool) -> Result:
    configuration.touch(c, row)
    configuration.begin_update(row.configuration)
    c.tables.put_version(row)
    c.changed.add(row.function)
    if not publish:
        return configuration.shown(c, row)
    published = versions.publish(c, row)
    return configuration.shown(c, published, published.version)


def delete_function(c: Context, p: Parameters) -> Result:
    """CP-024: with a qualifier that version alone."""
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    if named.qualifier == LATEST:
        raise invalid("$LATEST version cannot be deleted without deleting the function.")
    if named.qualifier is not None and not named.is_version:
        if named.qualifier.startswith("$"):
            raise not_found(f"Function not found: {c.here.function_arn(named.name)}")
        raise invalid("Deletion of aliases is not currently supported.")
    c.function(Named(named.name))
    c.changed.add(named.name)
    if named.qualifier is None:
        c.tables.delete_policies_of(c.here.function_arn(named.name))
        c.tables.delete_function(named.name)
        return {"StatusCode": 204}
    used_by = [
        alias["AliasArn"]
        for alias in c.tables.aliases(named.name)
        if named.qualifier in (alias["FunctionVersion"], *alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}))
    ]
    if used_by:
        what = c.here.function_arn(*named)
        raise conflict(f"Version {what} cannot be deleted: it is referenced by the alias {', '.join(used_by)}")
    c.tables.delete_version(named.name, named.qualifier)
    c.tables.delete_provisioned(named.name, named.qualifier)
    c.tables.delete_qualified(named.name, named.qualifier)
    c.tables.delete_policy(c.here.function_arn(*named))
    return {"StatusCode": 204}
