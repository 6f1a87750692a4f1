"""Reserved and provisioned concurrency, and the account's settings (CP-070 … CP-079)."""

from __future__ import annotations

from sandbox.control.context import Context, Parameters, Result, page
from sandbox.control.errors import ApiError, conflict, invalid, not_found
from sandbox.control.names import LATEST, Named
from sandbox.control.tables import FunctionRow, ProvisionedRow
from sandbox.core.limits import ACCOUNT_CONCURRENCY, DIRECT_UPLOAD, PACKAGE_LIMIT, UNRESERVED_MINIMUM

CODE_STORAGE = 80_530_636_800  # CP-079: 75 GB, the account's default


def _total_provisioned(c: Context, name: str, but: str | None = None) -> int:
    return sum(row.requested for row in c.tables.all_provisioned(name) if row.qualifier != but)


def _set_aside(c: Context, but: str) -> int:
    """What all other functions keep for themselves: reservations, and what is provisioned without one."""
    others = (row for row in c.tables.functions() if row.name != but)
    return sum(row.reserved if row.reserved is not None else _total_provisioned(c, row.name) for row in others)


def _unqualified(c: Context, p: Parameters) -> Named:
    named = c.here.function(p["FunctionName"])
    if named.qualifier is not None:
        raise invalid(
            "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
            "Please specify either a function name or an unqualified function ARN."
        )
    return named


def put_function_concurrency(c: Context, p: Parameters) -> Result:
    named, wanted = _unqualified(c, p), p["ReservedConcurrentExecutions"]
    row = c.tables.function(named.name)
    if row is None:
        raise not_found(f"Function not found: {c.here.function_arn(named.name, LATEST)}")
    provisioned = _total_provisioned(c, named.name)
    if wanted < provisioned:
        raise invalid(
            f" ReservedConcurrentExecutions  {wanted} should not be lower than function's "
            f"total provisioned concurrency [{provisioned}].",
            typed=False,
        )
    if ACCOUNT_CONCURRENCY - _set_aside(c, named.name) - wanted < UNRESERVED_MINIMUM:
        raise invalid(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{UNRESERVED_MINIMUM}].",
            typed=False,
        )
    row.reserved = wanted
    return _keep(c, row)


def _keep(c: Context, row: FunctionRow) -> Result:
    c.tables.put_function(row)
    c.changed.add(row.name)
    return {} if row.reserved is None else {"ReservedConcurrentExecutions": row.reserved}


def get_function_concurrency(c: Context, p: Parameters) -> Result:
    row = c.function(_unqualified(c, p))
    return {} if row.reserved is None else {"ReservedConcurrentExecutions": row.reserved}


def delete_function_concurrency(c: Context, p: Parameters) -> Result:
    row = c.function(_unqualified(c, p))
    row.reserved = None
    _keep(c, row)
    return {}


# ── provisioned ──


def _provisionable(c: Context, p: Parameters, refusal: str) -> tuple[Named, str]:
    """The alias or version, and the version behind it. Raises ApiError."""
    named = c.here.function(p["FunctionName"], p.get("Qualifier"))
    if named.qualifier in (None, LATEST):
        raise invalid(refusal)
    assert named.qualifier is not None
    alias = c.tables.alias(named.name, named.qualifier)
    if alias is None and not named.is_version:
        raise not_found(f"Cannot find alias arn: {c.here.function_arn(*named)}")
    return named, c.version(named).version


def put_provisioned_concurrency_config(c: Context, p: Parameters) -> Result:
    refusal = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
    named, version = _provisionable(c, p, refusal)
    assert named.qualifier is not None
    function, wanted = c.function(named), p["ProvisionedConcurrentExecutions"]
    row = c.version(named)
    if row.configuration["SnapStart"]["ApplyOn"] != "None":
        raise invalid("Provisioned Concurrency is not supported for functions with SnapStart enabled.")
    if "TenancyConfig" in row.configuration:
        raise invalid("Provisioned Concurrency is not supported for functions with tenant isolation.")
    for other in c.tables.all_provisioned(named.name):  # CP-077
        if other.qualifier == named.qualifier or c.version(Named(named.name, other.qualifier)).version != version:
            continue
        if named.is_version:
            raise conflict("Version is pointed by a Provisioned Concurrency alias")
        raise conflict("Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version")
    total = _total_provisioned(c, named.name, named.qualifier) + wanted
    if function.reserved is not None:
        if total > function.reserved:
            raise invalid(
                "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
            )
    else:
        _check_account(c, named.name, total)
    c.tables.put_provisioned(ProvisionedRow(named.name, named.qualifier, wanted, c.now()))
    c.changed.add(named.name)
    return {
        "RequestedProvisionedConcurrentExecutions": wanted,
        "AvailableProvisionedConcurrentExecutions": 0,
        "AllocatedProvisionedConcurrentExecutions": 0,
        "Status": "IN_PROGRESS",
        "LastModified": c.now(),
    }


def _check_account(c: Context, name: str, total: int) -> None:
    free = ACCOUNT_CONCURRENCY - _set_aside(c, name)
    if total > free:
        text = f"Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{free}]."
        raise invalid(text, typed=False)
    if free - total < UNRESERVED_MINIMUM:
        raise invalid(
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{UNRESERVED_MINIMUM}].",
            typed=False,
        )


def _shown(c: Context, row: ProvisionedRow) -> Result:
    ready, status, reason = c.provisioned_state(row.function, row.qualifier)
    result: Result = {
        "RequestedProvisionedConcurrentExecutions": row.requested,
        "AvailableProvisionedConcurrentExecutions": ready if status == "READY" else 0,
        "AllocatedProvisionedConcurrentExecutions": ready,
        "Status": status,
        "LastModified": row.modified,
    }
    if reason is not None:
        result["StatusReason"] = reason
    return result


def get_provisioned_concurrency_config(c: Context, p: Parameters) -> Result:
    named, _ = _provisionable(c, p, "The function resource provided must be an alias or a published version.")
    assert named.qualifier is not None
    row = c.tables.provisioned(named.name, named.qualifier)
    if row is None:
        text = "No Provisioned Concurrency Config found for this function"
        raise ApiError("ProvisionedConcurrencyConfigNotFoundException", text)
    return _shown(c, row)


def list_provisioned_concurrency_configs(c: Context, p: Parameters) -> Result:
    named = c.here.function(p["FunctionName"])
    c.function(Named(named.name))
    items = [
        _shown(c, row) | {"FunctionArn": c.here.function_arn(row.function, row.qualifier)}
        for row in c.tables.all_provisioned(named.name)
    ]
    return page(items, p, "ProvisionedConcurrencyConfigs")


def delete_provisioned_concurrency_config(c: Context, p: Parameters) -> Result:
    named, _ = _provisionable(c, p, "The function resource provided must be an alias or a published version.")
    assert named.qualifier is not None
    c.tables.delete_provisioned(named.name, named.qualifier)
    c.changed.add(named.name)
    return {}


def get_account_settings(c: Context, p: Parameters) -> Result:
    functions = c.tables.functions()
    versions = [row for function in functions for row in c.tables.versions(function.name)]
    layers = [row for name in c.tables.layer_names() for row in c.tables.layer_versions(name)]
    size = sum(row.configuration["CodeSize"] for row in versions)
    size += sum(row.document["Content"]["CodeSize"] for row in layers)
    return {
        "AccountLimit": {
            "TotalCodeSize": CODE_STORAGE,
            "CodeSizeUnzipped": PACKAGE_LIMIT,
            "CodeSizeZipped": DIRECT_UPLOAD,
            "ConcurrentExecutions": ACCOUNT_CONCURRENCY,
            "UnreservedConcurrentExecutions": ACCOUNT_CONCURRENCY - _set_aside(c, ""),
        },
        "AccountUsage": {"TotalCodeSize": size, "FunctionCount": len(functions)},
    }
