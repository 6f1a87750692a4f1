"""Layers and their versions (CP-060 … CP-063)."""

from __future__ import annotations

from sandbox.control.context import Context, Parameters, Result, page
from sandbox.control.errors import ApiError, invalid, not_found, too_large
from sandbox.control.functions import check_zip
from sandbox.control.store import code_sha256
from sandbox.control.tables import Document, LayerRow
from sandbox.core.limits import DIRECT_UPLOAD
from sandbox.package.tree import OPT

_LISTED_WITHOUT = ("Content", "LayerArn")


def publish_layer_version(c: Context, p: Parameters) -> Result:
    name, _ = _layer(c, p["LayerName"])
    data = p["Content"].get("ZipFile")
    if data is None:
        raise invalid("Please provide a source for layer content.")
    if len(data) > DIRECT_UPLOAD and "S3Bucket" not in p["Content"]:
        raise too_large(f"Zipped size must be smaller than {DIRECT_UPLOAD} bytes")
    blob = c.blobs.put(data)
    check_zip(c, blob, OPT)
    version = c.tables.next_number(c.here.layer_arn(name))
    document: Document = {
        "Content": {"CodeSha256": code_sha256(data), "CodeSize": len(data)},
        "LayerArn": c.here.layer_arn(name),
        "LayerVersionArn": c.here.layer_arn(name, version),
        "Description": p.get("Description", ""),
        "CreatedDate": c.now(),
        "Version": version,
    }
    if "CompatibleRuntimes" in p or "CompatibleArchitectures" in p:
        for member in ("CompatibleRuntimes", "CompatibleArchitectures"):
            document[member] = p.get(member, [])
    if "LicenseInfo" in p:
        document["LicenseInfo"] = p["LicenseInfo"]
    row = LayerRow(name, version, document, blob)
    c.tables.put_layer(row)
    return _shown(c, row)


def _layer(c: Context, text: str) -> tuple[str, int | None]:
    """A layer's name, from its name or its ARN."""
    if not text.startswith("arn:"):
        return text, None
    found = c.here.layer(text)
    if found is None:
        raise ApiError("AccessDeniedException", f"This sandbox is account {c.here.account}: {text} belongs to another one")
    return found


def _shown(c: Context, row: LayerRow) -> Result:
    return row.document | {"Content": row.document["Content"] | {"Location": c.link(row.content)}}


def _found(c: Context, name: str, version: int) -> LayerRow:
    if version < 1:
        raise invalid("Layer Version Cannot be less than 1")
    row = c.tables.layer(_layer(c, name)[0], version)
    if row is None:
        raise not_found("The resource you requested does not exist.")
    return row


def get_layer_version(c: Context, p: Parameters) -> Result:
    return _shown(c, _found(c, p["LayerName"], p["VersionNumber"]))


def get_layer_version_by_arn(c: Context, p: Parameters) -> Result:
    name, version = _layer(c, p["Arn"])
    return _shown(c, _found(c, name, version if version is not None else 1))


def list_layer_versions(c: Context, p: Parameters) -> Result:
    rows = c.tables.layer_versions(_layer(c, p["LayerName"])[0])
    return page([_listed(row) for row in rows if _matches(row, p)], p, "LayerVersions")


def _listed(row: LayerRow) -> Document:
    return {key: value for key, value in row.document.items() if key not in _LISTED_WITHOUT}


def _matches(row: LayerRow, p: Parameters) -> bool:
    pairs = ("CompatibleRuntime", "CompatibleRuntimes"), ("CompatibleArchitecture", "CompatibleArchitectures")
    return all(one not in p or p[one] in row.document.get(many, []) for one, many in pairs)


def list_layers(c: Context, p: Parameters) -> Result:
    layers = []
    for name in c.tables.layer_names():
        matching = [row for row in c.tables.layer_versions(name) if _matches(row, p)]
        if matching:
            arn = c.here.layer_arn(name)
            layers.append({"LayerName": name, "LayerArn": arn, "LatestMatchingVersion": _listed(matching[0])})
    return page(layers, p, "Layers")


def delete_layer_version(c: Context, p: Parameters) -> Result:
    """CP-062: functions that use it keep it. Deleting one that is not there is no error."""
    if p["VersionNumber"] < 1:
        raise invalid("Layer Version Cannot be less than 1")
    name = _layer(c, p["LayerName"])[0]
    c.tables.delete_layer(name, p["VersionNumber"])
    c.tables.delete_policy(c.here.layer_arn(name, p["VersionNumber"]))
    return {}
