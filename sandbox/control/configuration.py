"""A function version's configuration: what a request may say, what is kept, how it is shown (CP-001 … CP-029)."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from sandbox.control.context import Context, Parameters, revision
from sandbox.control.errors import conflict, invalid, unsupported
from sandbox.control.names import LATEST
from sandbox.control.tables import Document, VersionRow
from sandbox.core.errors import ConfigError
from sandbox.core.function import RESERVED_VARIABLES, FunctionConfig
from sandbox.core.limits import (
    DEFAULT_MEMORY_MB,
    DEFAULT_TIMEOUT_S,
    DEFAULT_TMP_MB,
    FUNCTION_NAME_LENGTH,
    LAYERS,
    MEMORY_MB,
    TIMEOUT_S,
    TMP_MB,
    VARIABLES_LIMIT,
)

# Runtimes that AWS lets nobody create functions with any more.
_DEPRECATED: Final = frozenset(
    {"dotnetcore3.1", "go1.x", "java8", "nodejs12.x", "nodejs14.x", "provided", "python3.7", "ruby2.7"}
)
RUNTIMES: Final = (
    *("nodejs20.x", "python3.14", "provided.al2023", "python3.12", "python3.13", "nodejs24.x", "nodejs22.x", "java25"),
    *("python3.10", "python3.11", "java21", "ruby3.3", "ruby3.4", "ruby3.2", "python3.8", "python3.9", "java17"),
    *("nodejs16.x", "dotnet10", "dotnet8", "java11", "dotnet6", "nodejs18.x", "provided.al2", "java8.al2"),
    *("nodejs26.x", "python3.15", "ruby3.5", "ruby4.0"),  # newer ones of the model (CP-029)
)
# Members of a request that are kept as they are.
_AS_GIVEN: Final = ("Role", "Handler", "Description", "Timeout", "MemorySize", "Runtime", "KMSKeyArn")
_UNSUPPORTED: Final = {
    "AcceleratorConfig": "accelerators (AcceleratorConfig)",
    "CapacityProviderConfig": "managed instances (CapacityProviderConfig)",
    "CodeSigningConfigArn": "code signing (CodeSigningConfigArn)",
    "DurableConfig": "durable functions (DurableConfig)",
    "FileSystemConfigs": "file systems (FileSystemConfigs)",
    "ImageConfig": "container images (ImageConfig)",
    "PublishTo": "publishing to $LATEST.PUBLISHED (PublishTo)",
    "RuntimeConfig": "runtimes of one's own as a resource (RuntimeConfig)",
}
_TAKES_DEAD_LETTERS: Final = re.compile(r"arn:[^:]+:(sqs|sns):[^:]+:[^:]+:.+|file:///.+").fullmatch
_FAILED: Final = "failed to satisfy constraint"
_LISTED_WITHOUT: Final = ("RuntimeVersionConfig", "State", "StateReason", "StateReasonCode")
CREATING: Final = {"StateReason": "The function is being created.", "StateReasonCode": "Creating"}


def new(c: Context, p: Parameters, name: str) -> Document:
    """The configuration of a function that is being created."""
    if len(name) > FUNCTION_NAME_LENGTH:
        limit = f"Member must have length less than or equal to {FUNCTION_NAME_LENGTH}"
        raise invalid(f"1 validation error detected: Value '{name}' at 'functionName' {_FAILED}: {limit}")
    if p.get("PackageType") == "Image":
        raise unsupported("container images (PackageType Image)")
    if "Runtime" not in p or "Handler" not in p:
        raise invalid("Runtime and Handler are mandatory parameters for functions created with deployment packages.")
    document: Document = {
        "Description": "",
        "Timeout": DEFAULT_TIMEOUT_S,
        "MemorySize": DEFAULT_MEMORY_MB,
        "EphemeralStorage": {"Size": DEFAULT_TMP_MB},
        "Architectures": p.get("Architectures") or ["x86_64"],
        "PackageType": "Zip",
        "TracingConfig": {"Mode": "PassThrough"},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
        "State": "Pending",
        **CREATING,
    }
    if "TenancyConfig" in p:
        document["TenancyConfig"] = p["TenancyConfig"]  # CP-014: never changed afterwards
    change(c, document, p)
    return document


def change(c: Context, document: Document, p: Parameters) -> None:
    """Puts what the request says into the configuration. Raises ApiError for what AWS refuses."""
    refuse_unsupported(p)
    before = document.get("Runtime")
    if "Runtime" in p:
        _check_runtime(c, p["Runtime"])
    _in_range("timeout", p.get("Timeout"), TIMEOUT_S)
    _in_range("memorySize", p.get("MemorySize"), MEMORY_MB)
    _in_range("ephemeralStorage.size", p.get("EphemeralStorage", {}).get("Size"), TMP_MB)
    document.update({member: p[member] for member in _AS_GIVEN if member in p})
    if not document.get("KMSKeyArn"):
        document.pop("KMSKeyArn", None)
    if "EphemeralStorage" in p:
        document["EphemeralStorage"] = p["EphemeralStorage"]
    if "TracingConfig" in p:
        document["TracingConfig"] = {"Mode": p["TracingConfig"].get("Mode", "PassThrough")}
    if "SnapStart" in p:
        document["SnapStart"] = {"ApplyOn": p["SnapStart"].get("ApplyOn", "None"), "OptimizationStatus": "Off"}
        if "TenancyConfig" in document and document["SnapStart"]["ApplyOn"] != "None":
            raise invalid("SnapStart is not supported for functions with tenant isolation.")
    if "Environment" in p:
        variables = p["Environment"].get("Variables", {})
        _check_variables(variables)
        document["Environment"] = {"Variables": variables}  # EN-021: it replaces all of them
    if "LoggingConfig" in p:
        document["LoggingConfig"] = _logging(document["LoggingConfig"], p["LoggingConfig"])
    if "VpcConfig" in p:
        _change_vpc(document, p["VpcConfig"])
    if "DeadLetterConfig" in p:
        target = p["DeadLetterConfig"].get("TargetArn")
        document.pop("DeadLetterConfig", None)
        if target:
            if not _TAKES_DEAD_LETTERS(target):
                raise invalid(
                    f"The provided dead letter target {target} is invalid: it is the ARN of an SQS queue or an SNS topic."
                )
            document["DeadLetterConfig"] = {"TargetArn": target}
    if "RuntimeVersionConfig" not in document or before != document["Runtime"]:  # one that was pinned stays
        document["RuntimeVersionConfig"] = runtime_version(c, document["Runtime"])


def refuse_unsupported(p: Parameters) -> None:
    """Nothing that would change what a function does is passed over. Raises ApiError."""
    for member, what in _UNSUPPORTED.items():
        if p.get(member):
            raise unsupported(what)


def _in_range(where: str, value: int | None, allowed: range) -> None:
    """CP-007: what the model lets pass for other kinds of functions."""
    if value is not None and value not in allowed:
        too_much = value > allowed[-1]
        bound = f"less than or equal to {allowed[-1]}" if too_much else f"greater than or equal to {allowed[0]}"
        raise invalid(f"1 validation error detected: Value '{value}' at '{where}' {_FAILED}: Member must have value {bound}")


def _check_runtime(c: Context, runtime: str) -> None:
    if runtime in _DEPRECATED:
        raise invalid(
            f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda functions. "
            "We recommend you use a supported runtime while creating or updating functions."
        )
    if runtime not in RUNTIMES and not c.installed(runtime):
        enum = ", ".join(RUNTIMES)
        raise invalid(f"Value {runtime} at 'runtime' {_FAILED}: Member must satisfy enum value set: [{enum}] or be a valid ARN")


def _check_variables(variables: dict[str, str]) -> None:
    """CP-012."""
    reserved = sorted(RESERVED_VARIABLES & variables.keys())
    if reserved:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have provided "
            "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: "
            + ", ".join(reserved)
        )
    measured = json.dumps(variables, separators=(",", ":"), ensure_ascii=False)
    if len(measured.encode()) > VARIABLES_LIMIT:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have provided "
            f"exceeded the 4KB limit. String measured: {measured}"
        )


def _logging(before: Document, wanted: Document) -> Document:
    """CP-013. Levels are for JSON alone; what is not said stays."""
    after = {**before, **wanted}
    if after["LogFormat"] == "JSON":
        return {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO", **after}
    if "ApplicationLogLevel" in wanted or "SystemLogLevel" in wanted:
        raise invalid("To use ApplicationLogLevel or SystemLogLevel, you must set LogFormat to JSON.")
    return {key: value for key, value in after.items() if key in ("LogFormat", "LogGroup")}


def _change_vpc(document: Document, wanted: Document) -> None:
    """It is stored and shown, never applied: there is no VPC here, so its id is made of the subnets' names."""
    subnets, groups = wanted.get("SubnetIds", []), wanted.get("SecurityGroupIds", [])
    if not subnets and not groups and "VpcConfig" not in document:
        return
    vpc = "vpc-" + hashlib.sha256(",".join(sorted(subnets)).encode()).hexdigest()[:17] if subnets else ""
    document["VpcConfig"] = {
        "SubnetIds": subnets,
        "SecurityGroupIds": groups,
        "VpcId": vpc,
        "Ipv6AllowedForDualStack": wanted.get("Ipv6AllowedForDualStack", False),
    }


def runtime_version(c: Context, runtime: str) -> Document:
    """The ARN that every answer has. AWS's hashes name its own builds; this one names the runtime here."""
    digest = hashlib.sha256(f"lambda-sandbox {runtime}".encode()).hexdigest()
    return {"RuntimeVersionArn": f"arn:aws:lambda:{c.here.region}::runtime:{digest}"}


def change_layers(c: Context, row: VersionRow, wanted: list[str]) -> None:
    """CP-061, CP-062. A layer version that a function uses already may be gone meanwhile: it stays."""
    if len(wanted) > LAYERS:
        raise invalid(f"Cannot reference more than {LAYERS} layers.")
    kept = {one["Arn"]: (one, blob) for one, blob in zip(row.configuration.get("Layers", []), row.layers, strict=True)}
    found: list[tuple[Document, str]] = []
    names: dict[str, str] = {}
    for arn in wanted:
        layer = c.here.layer(arn)
        base = arn.rpartition(":")[0]
        if base in names:
            raise invalid(
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{names[base]} and {arn} are versions of the same layer."
            )
        names[base] = arn
        if arn in kept:
            found.append(kept[arn])
            continue
        stored = c.tables.layer(layer[0], layer[1]) if layer is not None and layer[1] is not None else None
        if stored is None:
            raise invalid(f"Layer version {arn} does not exist.")
        found.append(({"Arn": arn, "CodeSize": stored.document["Content"]["CodeSize"]}, stored.content))
    row.configuration.pop("Layers", None)
    if found:
        row.configuration["Layers"] = [document for document, _ in found]
    row.layers = [blob for _, blob in found]


def touch(c: Context, row: VersionRow) -> None:
    """It was changed: when, and as which revision. Raises ApiError: an environment could not be given what it says."""
    try:
        to_run(c.here.region, row, "", [])
    except ConfigError as error:
        raise invalid(f"{error}") from None
    row.configuration |= {"LastModified": c.now(), "RevisionId": revision()}


def begin_update(document: Document) -> None:
    """CP-019. The words are AWS's, the same as those of a creation."""
    document["LastUpdateStatus"] = "InProgress"
    document["LastUpdateStatusReason"] = CREATING["StateReason"]
    document["LastUpdateStatusReasonCode"] = CREATING["StateReasonCode"]


def check_settled(c: Context, row: VersionRow) -> None:
    """CP-023."""
    arn = c.here.function_arn(row.function)
    if row.configuration.get("LastUpdateStatus") == "InProgress":
        what = f"An update is in progress for resource: {arn}"
        raise conflict(f"The operation cannot be performed at this time. {what}")
    if row.configuration["State"] == "Pending":
        what = "The function is currently in the following state: Pending"
        raise conflict(f"The operation cannot be performed at this time. {what}")


def shown(c: Context, row: VersionRow, qualifier: str | None = None) -> Document:
    """FunctionConfiguration, as an operation on one function answers it; qualifier: as it was asked for."""
    names = {"FunctionName": row.function, "FunctionArn": c.here.function_arn(row.function, qualifier), "Version": row.version}
    return names | row.configuration


def listed(c: Context, row: VersionRow, *, qualified: bool) -> Document:
    """The same in a list: without states (CP-025)."""
    document = shown(c, row, row.version if qualified or row.version != LATEST else None)
    return {k: v for k, v in document.items() if k not in _LISTED_WITHOUT and not k.startswith("LastUpdateStatus")}


def to_run(region: str, row: VersionRow, code: str, layers: list[str]) -> FunctionConfig:
    """The configuration for the host. Raises ConfigError: what AWS lets pass and no environment could be given."""
    document = row.configuration
    logging: dict[str, Any] = document["LoggingConfig"]
    json_logs = logging["LogFormat"] == "JSON"
    return FunctionConfig(
        code=code,
        name=row.function,
        runtime=document["Runtime"],
        handler=document.get("Handler", ""),
        memory_mb=document["MemorySize"],
        timeout=document["Timeout"],
        environment=document.get("Environment", {}).get("Variables", {}),
        layers=tuple(layers),
        tmp_mb=document["EphemeralStorage"]["Size"],
        region=region,
        version=row.version,
        log_format=logging["LogFormat"] if json_logs else None,
        log_level=logging.get("ApplicationLogLevel"),
        system_log_level=logging.get("SystemLogLevel"),
        custom_log_group=logging["LogGroup"],
        code_name=f"the code of function {row.function}",
        architecture=document["Architectures"][0],
    )
