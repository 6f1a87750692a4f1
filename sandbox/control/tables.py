"""The rows of the store, for one transaction. Documents are the API's own shapes as JSON."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from sandbox.control.names import LATEST

Document = dict[str, Any]


@dataclass(slots=True)
class FunctionRow:
    """What all versions of a function share. reserved: None without reserved concurrency."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    reserved: int | None = None
    recursive_loop: str = "Terminate"


@dataclass(slots=True)
class VersionRow:
    """configuration: members of FunctionConfiguration; what follows from name and version is not in it.

    code and layers: names of blobs. runtime_management: UpdateRuntimeOn and RuntimeVersionArn, None for Auto. made_of: a
    digest of what $LATEST was when this version was published.
    """

    function: str
    version: str
    configuration: Document
    code: str
    layers: list[str] = field(default_factory=list)
    runtime_management: Document | None = None
    made_of: str | None = None


@dataclass(slots=True)
class LayerRow:
    """document: members of GetLayerVersionResponse. content: the name of a blob."""

    name: str
    version: int
    document: Document
    content: str


@dataclass(slots=True)
class ProvisionedRow:
    """requested: environments that are to be initialised ahead. modified: as LastModified has it."""

    function: str
    qualifier: str
    requested: int
    modified: str


@dataclass(slots=True)
class UrlRow:
    """qualifier: an alias; "" for the function itself. id: the first part of its host name. port: where it listens.

    document: members of FunctionUrlConfig; what follows from the others is not in it.
    """

    function: str
    qualifier: str
    id: str
    port: int
    document: Document


class Tables:
    """All rows by what names them; what is not there is None."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
        return found

    def _all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, values).fetchall()

    def _do(self, sql: str, *values: Any) -> int:
        return self._database.execute(sql, values).rowcount

    # ── functions ──

    def function(self, name: str) -> FunctionRow | None:
        row = self._one("SELECT name, tags, reserved, recursive_loop FROM functions WHERE name = ?", name)
        return FunctionRow(row[0], json.loads(row[1]), row[2], row[3]) if row else None

    def functions(self) -> list[FunctionRow]:
        rows = self._all("SELECT name, tags, reserved, recursive_loop FROM functions ORDER BY name")
        return [FunctionRow(row[0], json.loads(row[1]), row[2], row[3]) for row in rows]

    def put_function(self, row: FunctionRow) -> None:
        self._do(
            "INSERT INTO functions (name, tags, reserved, recursive_loop) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "tags = excluded.tags, reserved = excluded.reserved, recursive_loop = excluded.recursive_loop",
            row.name,
            json.dumps(row.tags),
            row.reserved,
            row.recursive_loop,
        )

    def delete_function(self, name: str) -> None:
        self._do("DELETE FROM functions WHERE name = ?", name)

    # ── versions ──

    _VERSION = "SELECT function, version, configuration, code, layers, runtime_management, made_of FROM versions"

    def version(self, function: str, version: str = LATEST) -> VersionRow | None:
        row = self._one(f"{self._VERSION} WHERE function = ? AND version = ?", function, version)
        return _version(row) if row else None

    def versions(self, function: str) -> list[VersionRow]:
        """$LATEST first, then by number."""
        order = "ORDER BY version <> '$LATEST', CAST(version AS INTEGER)"
        return [_version(row) for row in self._all(f"{self._VERSION} WHERE function = ? {order}", function)]

    def put_version(self, row: VersionRow) -> None:
        management = json.dumps(row.runtime_management) if row.runtime_management is not None else None
        self._do(
            "INSERT OR REPLACE INTO versions (function, version, configuration, code, layers, runtime_management, "
            "made_of) VALUES (?, ?, ?, ?, ?, ?, ?)",
            row.function,
            row.version,
            json.dumps(row.configuration),
            row.code,
            json.dumps(row.layers),
            management,
            row.made_of,
        )

    def delete_version(self, function: str, version: str) -> None:
        self._do("DELETE FROM versions WHERE function = ? AND version = ?", function, version)

    # ── aliases ──

    def alias(self, function: str, name: str) -> Document | None:
        row = self._one("SELECT document FROM aliases WHERE function = ? AND name = ?", function, name)
        return json.loads(row[0]) if row else None

    def aliases(self, function: str) -> list[Document]:
        rows = self._all("SELECT document FROM aliases WHERE function = ? ORDER BY name", function)
        return [json.loads(row[0]) for row in rows]

    def put_alias(self, function: str, document: Document) -> None:
        values = function, document["Name"], json.dumps(document)
        self._do("INSERT OR REPLACE INTO aliases (function, name, document) VALUES (?, ?, ?)", *values)

    def delete_alias(self, function: str, name: str) -> None:
        self._do("DELETE FROM aliases WHERE function = ? AND name = ?", function, name)
        self.delete_qualified(function, name)

    def delete_qualified(self, function: str, qualifier: str) -> None:
        """What belongs to a version or an alias that is gone."""
        self.delete_event_config(function, qualifier)
        self.delete_url(function, qualifier)

    # ── provisioned concurrency ──

    def provisioned(self, function: str, qualifier: str) -> ProvisionedRow | None:
        rows = [row for row in self.all_provisioned(function) if row.qualifier == qualifier]
        return rows[0] if rows else None

    def all_provisioned(self, function: str) -> list[ProvisionedRow]:
        columns = "function, qualifier, requested, modified"
        rows = self._all(f"SELECT {columns} FROM provisioned WHERE function = ? ORDER BY qualifier", function)
        return [ProvisionedRow(*row) for row in rows]

    def put_provisioned(self, row: ProvisionedRow) -> None:
        values = row.function, row.qualifier, row.requested, row.modified
        self._do("INSERT OR REPLACE INTO provisioned (function, qualifier, requested, modified) VALUES (?, ?, ?, ?)", *values)

    def delete_provisioned(self, function: str, qualifier: str) -> None:
        self._do("DELETE FROM provisioned WHERE function = ? AND qualifier = ?", function, qualifier)

    # ── event invoke configs ──

    def event_config(self, function: str, qualifier: str) -> Document | None:
        return self.event_configs(function).get(qualifier)

    def event_configs(self, function: str) -> dict[str, Document]:
        """By qualifier."""
        rows = self._all("SELECT qualifier, document FROM event_configs WHERE function = ? ORDER BY qualifier", function)
        return {row[0]: json.loads(row[1]) for row in rows}

    def put_event_config(self, function: str, qualifier: str, document: Document) -> None:
        values = function, qualifier, json.dumps(document)
        self._do("INSERT OR REPLACE INTO event_configs (function, qualifier, document) VALUES (?, ?, ?)", *values)

    def delete_event_config(self, function: str, qualifier: str) -> None:
        self._do("DELETE FROM event_configs WHERE function = ? AND qualifier = ?", function, qualifier)

    # ── function URLs ──

    def url(self, function: str, qualifier: str) -> UrlRow | None:
        return next((row for row in self.urls(function) if row.qualifier == qualifier), None)

    def urls(self, function: str) -> list[UrlRow]:
        """That of the function itself first."""
        columns = "function, qualifier, id, port, document"
        rows = self._all(f"SELECT {columns} FROM function_urls WHERE function = ? ORDER BY qualifier", function)
        return [UrlRow(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

    def put_url(self, row: UrlRow) -> None:
        values = row.function, row.qualifier, row.id, row.port, json.dumps(row.document)
        sql = "INSERT OR REPLACE INTO function_urls (function, qualifier, id, port, document) VALUES (?, ?, ?, ?, ?)"
        self._do(sql, *values)

    def delete_url(self, function: str, qualifier: str) -> None:
        self._do("DELETE FROM function_urls WHERE function = ? AND qualifier = ?", function, qualifier)

    # ── layers ──

    def layer(self, name: str, version: int) -> LayerRow | None:
        rows = [row for row in self.layer_versions(name) if row.version == version]
        return rows[0] if rows else None

    def layer_versions(self, name: str) -> list[LayerRow]:
        """The newest first."""
        sql = "SELECT name, version, document, content FROM layers WHERE name = ? ORDER BY version DESC"
        return [LayerRow(row[0], row[1], json.loads(row[2]), row[3]) for row in self._all(sql, name)]

    def layer_names(self) -> list[str]:
        return [row[0] for row in self._all("SELECT DISTINCT name FROM layers ORDER BY name")]

    def put_layer(self, row: LayerRow) -> None:
        values = row.name, row.version, json.dumps(row.document), row.content
        self._do("INSERT INTO layers (name, version, document, content) VALUES (?, ?, ?, ?)", *values)

    def delete_layer(self, name: str, version: int) -> None:
        self._do("DELETE FROM layers WHERE name = ? AND version = ?", name, version)

    # ── policies and numbers ──

    def policy(self, resource: str) -> tuple[list[Document], str] | None:
        """Its statements, and the id of its revision."""
        row = self._one("SELECT document, revision FROM policies WHERE resource = ?", resource)
        return (json.loads(row[0]), row[1]) if row else None

    def put_policy(self, resource: str, statements: list[Document], revision: str) -> None:
        sql = "INSERT OR REPLACE INTO policies (resource, document, revision) VALUES (?, ?, ?)"
        self._do(sql, resource, json.dumps(statements), revision)

    def delete_policy(self, resource: str) -> None:
        self._do("DELETE FROM policies WHERE resource = ?", resource)

    def delete_policies_of(self, function_arn: str) -> None:
        """Those of a function and of all its versions and aliases."""
        self._do("DELETE FROM policies WHERE resource = ?1 OR substr(resource, 1, length(?1) + 1) = ?1 || ':'", function_arn)

    def next_number(self, resource: str) -> int:
        """CP-040, CP-060: never the same one again."""
        sql = "INSERT INTO numbers (resource, last) VALUES (?, 1) ON CONFLICT (resource) DO UPDATE SET last = last + 1"
        row = self._one(f"{sql} RETURNING last", resource)
        assert row is not None
        return int(row[0])

    # ── what was billed ──

    def add_total(self, bill: Document, total: Document) -> None:
        """Adds to what is there."""
        columns = ", ".join([*bill, *total])
        added = ", ".join(f"{name} = {name} + excluded.{name}" for name in total)
        sql = f"INSERT INTO totals ({columns}) VALUES ({', '.join('?' * (len(bill) + len(total)))})"
        self._do(f"{sql} ON CONFLICT ({', '.join(bill)}) DO UPDATE SET {added}", *bill.values(), *total.values())

    def totals(self) -> list[Document]:
        return self._documents("SELECT * FROM totals ORDER BY day, function, version")

    def put_provisioned_time(self, row: Document) -> None:
        sql = f"INSERT OR REPLACE INTO provisioned_times ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        self._do(sql, *row.values())

    def provisioned_times(self) -> list[Document]:
        return self._documents("SELECT * FROM provisioned_times ORDER BY begun, function, version")

    def _documents(self, sql: str) -> list[Document]:
        cursor = self._database.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    # ── all of it ──

    def region(self, first: str) -> str:
        """The region that the store is of: this one, if it has none yet."""
        self._do("INSERT OR IGNORE INTO about (one, region) VALUES (1, ?)", first)
        row = self._one("SELECT region FROM about")
        assert row is not None
        return str(row[0])

    def blobs(self) -> set[str]:
        """The blobs that somebody needs."""
        found = {row[0] for row in self._all("SELECT code FROM versions UNION SELECT content FROM layers")}
        for row in self._all("SELECT layers FROM versions WHERE layers <> '[]'"):
            found.update(json.loads(row[0]))
        return found


def _version(row: tuple[Any, ...]) -> VersionRow:
    management = json.loads(row[5]) if row[5] is not None else None
    return VersionRow(row[0], row[1], json.loads(row[2]), row[3], json.loads(row[4]), management, row[6])
