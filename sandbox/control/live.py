"""What runs: the host's functions behind the versions and aliases of the store.

After each change of the store `sync` brings one function in line: new versions are activated, changed ones replaced when the
new one is ready, old ones retired, provisioned environments made or removed.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from sandbox.control import configuration, lineage
from sandbox.control.context import revision
from sandbox.control.errors import ApiError, conflict, not_found
from sandbox.control.names import LATEST, Here, Named
from sandbox.control.provisioning import Provisioning
from sandbox.control.store import Store
from sandbox.control.tables import Document, FunctionRow, ProvisionedRow, Tables, UrlRow, VersionRow
from sandbox.control.tasks import Tasks
from sandbox.core.errors import ConfigError, SandboxError, Unsupported
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import RECURSIONS
from sandbox.host.concurrency import Share
from sandbox.host.host import Function, Host
from sandbox.package.tree import PackageError

Deploy = Callable[[FunctionConfig], Awaitable[Function]]

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 30.0  # seconds until a disk that was full is tried again
_ACTIVATIONS = 4  # at a time: each unpacks a package in a thread


class LiveVersion:
    """One version: its row, and the host's function, deployed when it is first needed."""

    def __init__(self, row: VersionRow, config: FunctionConfig | ConfigError, deploy: Deploy) -> None:
        """config: or why there can be none."""
        self.row = row
        self.config = config
        self.function: Function | None = None
        self._deploy = deploy
        self._deploying: asyncio.Task[Function] | None = None

    def same_as(self, other: LiveVersion) -> bool:
        """Whether environments of both are the same."""
        return isinstance(self.config, FunctionConfig) and self.config == other.config

    async def open(self) -> Function:
        """Its function. Raises SandboxError."""
        if isinstance(self.config, ConfigError):
            raise self.config
        if self.function is None:
            if self._deploying is None or self._deploying.cancelled() or self._deploying.done():
                self._deploying = asyncio.ensure_future(self._deploy_it(self.config))
            await asyncio.shield(self._deploying)
        assert self.function is not None
        return self.function

    async def _deploy_it(self, config: FunctionConfig) -> Function:
        self.function = await self._deploy(config)
        return self.function

    @property
    def deploying(self) -> asyncio.Task[Function] | None:
        return self._deploying


class Target(NamedTuple):
    """Where an invoke goes. arn: as the function is told that it was invoked."""

    version: LiveVersion
    arn: str


class _Alias(NamedTuple):
    arn: str
    version: str
    other: str | None
    weight: float


class _Snapshot(NamedTuple):
    function: FunctionRow | None
    versions: list[VersionRow]
    aliases: list[Document]
    provisioned: list[ProvisionedRow]
    event_configs: dict[str, Document]
    urls: list[UrlRow]


class LiveFunction:
    """All versions of one function, and what they share."""

    def __init__(self, name: str, share: Share) -> None:
        self.name = name
        self.share = share
        self.versions: dict[str, LiveVersion] = {}
        self.aliases: dict[str, _Alias] = {}
        self.event_configs: dict[str, Document] = {}  # by qualifier
        self.may_recur = False
        self.provisioning: dict[str, Provisioning] = {}  # by qualifier
        self.activating: dict[str, asyncio.Task[None]] = {}  # versions


class Live:
    """Every function that there is. on_trouble: told, in a sentence, of what a person should know."""

    def __init__(self, host: Host, store: Store, here: Here, on_trouble: Callable[[str], None]) -> None:
        self._host = host
        self._store = store
        self._here = here
        self._on_trouble = on_trouble
        self._functions: dict[str, LiveFunction] = {}
        self._tasks = Tasks(on_trouble)
        self._deploying: set[asyncio.Task[Any]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_ACTIVATIONS)
        self._syncing = asyncio.Lock()
        self.on_urls: Callable[[str, list[UrlRow]], Coroutine[Any, Any, None]] | None = (
            None  # told of a function's URLs after each change
        )
        self.on_changed: Callable[[str], None] | None = None  # told of a function that may be another one now
        self.on_provisioned: Callable[[], None] | None = None  # told that what is provisioned may have changed
        self.on_gone: Callable[[str], Coroutine[Any, Any, None]] | None = None  # told of a function that is not there any more

    # ── invokes ──

    def target(self, named: Named) -> Target:
        """Where an invoke of this name goes now. Raises ApiError: there is none, or its state forbids it."""
        live = self._functions.get(named.name)
        qualifier = named.qualifier
        if live is None:
            raise self._not_found(named)
        if qualifier is None or qualifier == LATEST:
            version = live.versions[LATEST]
            arn = self._here.function_arn(*named)
        elif (alias := live.aliases.get(qualifier)) is not None:
            chosen = alias.version
            if alias.other is not None and random.random() < alias.weight:  # IN-080
                chosen = alias.other
            version, arn = live.versions[chosen], alias.arn
        elif (numbered := live.versions.get(qualifier)) is not None:
            version, arn = numbered, self._here.function_arn(*named)
        else:
            raise self._not_found(named)
        if version.row.configuration["State"] != "Active":
            _refuse_state(version.row.configuration)
        return Target(version, arn)

    def _not_found(self, named: Named) -> ApiError:
        return not_found(f"Function not found: {self._here.function_arn(named.name, named.qualifier or LATEST)}")

    def row(self, named: Named) -> VersionRow | None:
        """The version behind a name, whatever its state; of an alias with weights the main one."""
        live = self._functions.get(named.name)
        if live is None:
            return None
        alias = live.aliases.get(named.qualifier or "")
        version = live.versions.get(alias.version if alias is not None else named.qualifier or LATEST)
        return version.row if version is not None else None

    def config(self, named: Named) -> FunctionConfig | None:
        """What runs behind a name; of an alias with weights the main version."""
        row = self.row(named)
        found = self._functions[named.name].versions[row.version].config if row is not None else None
        return found if isinstance(found, FunctionConfig) else None

    def event_config(self, named: Named) -> Document | None:
        """The event invoke config of a qualifier."""
        live = self._functions.get(named.name)
        return live.event_configs.get(named.qualifier or LATEST) if live is not None else None

    def handed_on(self, name: str, trace_id: str) -> str:
        """The trace header as a function gets it. Raises ApiError: its chain of requests is a loop (IN-142)."""
        told, loop = lineage.handed_on(trace_id, self._here.function_arn(name))
        live = self._functions.get(name)
        if loop and not (live is not None and live.may_recur):
            text = f"function {name} was invoked more than {RECURSIONS} times in one chain of requests: a recursive loop"
            self._on_trouble(f"{text}; stopped (PutFunctionRecursionConfig with RecursiveLoop Allow lets it go on)")
            raise ApiError("RecursiveInvocationException", f"Lambda has detected a recursive loop, and stopped it: {text}.")
        return told

    def reserved(self, name: str) -> int | None:
        """Its reserved concurrency."""
        live = self._functions.get(name)
        return live.share.reserved if live is not None else None

    @property
    def names(self) -> list[str]:
        return sorted(self._functions)

    def provisioned_state(self, name: str, qualifier: str) -> tuple[int, str, str | None]:
        """How many environments are ready, the status, and its reason."""
        live = self._functions.get(name)
        found = live.provisioning.get(qualifier) if live is not None else None
        return (found.ready, found.status, found.reason) if found is not None else (0, "IN_PROGRESS", None)

    def provisioned(self) -> dict[tuple[str, str], tuple[int, int, str]]:
        """How many environments, their memory in MB and architecture, of each function and version that is provisioned."""
        return {
            (live.name, row.version): (one.units, row.configuration["MemorySize"], row.configuration["Architectures"][0])
            for live in self._functions.values()
            for one in live.provisioning.values()
            if (row := one.version.row) and one.units
        }

    # ── in line with the store ──

    async def load(self) -> None:
        """Everything that is in the store, after a start."""
        for row in await self._store.transact(lambda tables: tables.functions()):
            await self.sync(row.name)

    async def settled(self, name: str) -> None:
        """Waits until no version of it is on its way to another state."""
        while (live := self._functions.get(name)) is not None and live.activating:
            await asyncio.wait(list(live.activating.values()))

    async def sync(self, name: str) -> None:
        """Brings one function in line with the store."""
        async with self._syncing:  # in the order of the changes
            seen = await self._store.transact(lambda tables: _snapshot(tables, name))
            if seen.function is None:
                self._remove(name)
                if self.on_urls is not None:
                    await self.on_urls(name, [])
                if self.on_gone is not None:
                    await self.on_gone(name)
                return
            live = self._functions.get(name)
            if live is None:
                live = self._functions[name] = LiveFunction(name, Share(self._host.account))
            self._sync_versions(live, seen.versions)
            live.aliases = {document["Name"]: _alias(document) for document in seen.aliases}
            live.event_configs = seen.event_configs
            live.may_recur = seen.function.recursive_loop == "Allow"
            if self.on_urls is not None:
                await self.on_urls(name, seen.urls)
            total = sum(row.requested for row in seen.provisioned)
            live.share.set(reserved=seen.function.reserved, provisioned=total)
            self._sync_provisioned(live, seen.provisioned)
            self._tell_provisioned()
            if self.on_changed is not None:
                self.on_changed(name)

    def _tell_provisioned(self) -> None:
        if self.on_provisioned is not None:
            self.on_provisioned()

    def _remove(self, name: str) -> None:
        live = self._functions.pop(name, None)
        if live is None:
            return
        for provisioning in live.provisioning.values():
            provisioning.cancel()
        self._tell_provisioned()
        live.share.set(reserved=None, provisioned=0)
        for version in live.versions.values():
            self._retire(version)
        self._tasks.start(self._tidy())

    async def _tidy(self) -> None:
        """Code that neither a row nor a version in memory names is removed: the old one serves while an update is under way."""
        rows = [version.row for live in self._functions.values() for version in live.versions.values()]
        await self._store.tidy({blob for row in rows for blob in (row.code, *row.layers)})

    def _sync_versions(self, live: LiveFunction, rows: list[VersionRow]) -> None:
        there = {row.version for row in rows}
        for number in [number for number in live.versions if number not in there]:
            self._retire(live.versions.pop(number))
            self._tasks.start(self._tidy())
        for row in rows:
            document = row.configuration
            known = live.versions.get(row.version)
            if document["State"] == "Pending" or document.get("LastUpdateStatus") == "InProgress":
                if known is None:
                    live.versions[row.version] = self._version(live, row)
                else:
                    known.row.configuration = known.row.configuration | {"LastUpdateStatus": "InProgress"}
                if row.version not in live.activating:
                    live.activating[row.version] = self._tasks.start(self._activate(live, row))
            elif known is None:
                live.versions[row.version] = self._version(live, row)
            else:
                known.row = row

    def _version(self, live: LiveFunction, row: VersionRow) -> LiveVersion:
        async def deploy(config: FunctionConfig) -> Function:
            task = asyncio.current_task()
            assert task is not None
            self._deploying.add(task)
            try:
                return await self._host.deploy(config, share=live.share)
            finally:
                self._deploying.discard(task)

        return LiveVersion(row, self._config(row), deploy)

    def _config(self, row: VersionRow) -> FunctionConfig | ConfigError:
        path = self._store.blobs.path
        try:
            return configuration.to_run(self._here.region, row, str(path(row.code)), [str(path(blob)) for blob in row.layers])
        except ConfigError as error:  # kept by an older lambda-sandbox that let it pass: the others are served even so
            return error

    async def _activate(self, live: LiveFunction, row: VersionRow) -> None:
        """Makes a new or changed version ready: Pending → Active, InProgress → Successful; the old one serves until then."""
        old = live.versions.get(row.version)
        new = old if old is not None and old.row is row else self._version(live, row)
        failure: tuple[str, str] | None = None
        if new is not old and old is not None and old.function is not None and old.same_as(new):
            new = old  # nothing that an environment would notice
        else:
            async with self._slots:
                failure = await _open(new)
        before = old.row if old is not None and old is not new else None
        settled = await self._kept(row, lambda tables: _settle(tables, row, failure, before))
        live.activating.pop(row.version, None)
        if settled is None or self._functions.get(live.name) is not live:  # deleted meanwhile
            if new is not old:
                self._retire(new)
            return
        if failure is not None:
            self._on_trouble(f"function {row.function}: {failure[1]}")
            if new is not old:
                self._retire(new)
            live.versions[row.version].row = settled
            return
        new.row = settled
        live.versions[row.version] = new
        if old is not None and old is not new:
            self._retire(old)  # CP-028
        await self._tidy()
        await self.sync(live.name)  # what waited for it: provisioned concurrency of a version

    async def _kept(self, row: VersionRow, work: Callable[[Tables], VersionRow | None]) -> VersionRow | None:
        """Work with the store that must be done at some time, for a disk is not full for ever."""
        wait = _FIRST_WAIT
        while True:
            try:
                return await self._store.transact(work)
            except (sqlite3.Error, OSError) as error:
                self._on_trouble(f"function {row.function}: its new state cannot be kept, and is tried again: {error}")
            await self._host.clock.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _retire(self, version: LiveVersion) -> None:
        task = asyncio.ensure_future(_retire(version))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    # ── provisioned concurrency ──

    def _sync_provisioned(self, live: LiveFunction, rows: list[ProvisionedRow]) -> None:
        wanted: dict[str, tuple[LiveVersion, ProvisionedRow]] = {}
        for row in rows:
            alias = live.aliases.get(row.qualifier)
            version = live.versions.get(alias.version if alias is not None else row.qualifier)
            if version is not None and version.row.configuration["State"] == "Active":
                wanted[row.qualifier] = (version, row)
        for qualifier in [qualifier for qualifier in live.provisioning if qualifier not in wanted]:
            self._end(live.provisioning.pop(qualifier))
        for qualifier, (version, row) in wanted.items():
            now = live.provisioning.get(qualifier)
            if now is not None and now.is_for(version, row):
                continue
            if now is not None and now.version is version:
                now.change(row)
                continue
            if now is not None:  # CP-078: the alias has moved
                self._end(now)
            live.provisioning[qualifier] = Provisioning(version, row, self._tasks.start, self._on_trouble)

    def _end(self, provisioning: Provisioning) -> None:
        """To its end even if the service closes meanwhile: nobody else knows these environments any more."""
        task = asyncio.ensure_future(provisioning.end())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """No more changes; the host's own close shuts the environments down."""
        for live in self._functions.values():
            for provisioning in live.provisioning.values():
                provisioning.cancel()
        await self._tasks.close(lambda: self._deploying)

    async def retired(self) -> None:
        """Waits for versions that are on their way out."""
        if self._retiring:
            await asyncio.wait(self._retiring)


def _refuse_state(document: Document) -> None:
    state = document["State"]
    if state == "Pending":  # IN-015
        what = f"The function is currently in the following state: {state}"
        raise conflict(f"The operation cannot be performed at this time. {what}")
    if state == "Failed":
        code, reason = document.get("StateReasonCode", ""), document.get("StateReason", "")
        raise ApiError({"InvalidRuntime": "InvalidRuntimeException"}.get(code, "InvalidZipFileException"), reason)


def _snapshot(tables: Tables, name: str) -> _Snapshot:
    row = tables.function(name)
    if row is None:
        return _Snapshot(None, [], [], [], {}, [])
    rows = tables.versions(name), tables.aliases(name), tables.all_provisioned(name)
    return _Snapshot(row, *rows, tables.event_configs(name), tables.urls(name))


def _alias(document: Document) -> _Alias:
    weights = document.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    other, weight = next(iter(weights.items()), (None, 0.0))
    return _Alias(document["AliasArn"], document["FunctionVersion"], other, weight)


async def _open(version: LiveVersion) -> tuple[str, str] | None:
    """Deploys it; what is wrong with it, as a code and a reason."""
    try:
        await version.open()
    except Unsupported as error:
        return "InvalidRuntime", str(error)
    except PackageError as error:
        return "InvalidZipFileException", str(error)
    except (SandboxError, OSError) as error:
        return "InternalError", str(error)
    return None


def _settle(tables: Tables, row: VersionRow, failure: tuple[str, str] | None, before: VersionRow | None) -> VersionRow | None:
    """The row with its new state; None if it is gone, or is another one by now. before: what serves on after a failure."""
    current = tables.version(row.function, row.version)
    if current is None or (current.code, current.layers) != (row.code, row.layers):
        return None
    if failure is not None and before is not None and before.configuration["State"] == "Active":
        kept = {**before.configuration, "LastModified": current.configuration["LastModified"]}
        current = VersionRow(row.function, row.version, kept, before.code, before.layers, current.runtime_management)
    document = current.configuration
    pending = document["State"] == "Pending"
    for key in ("StateReason", "StateReasonCode", "LastUpdateStatusReason", "LastUpdateStatusReasonCode"):
        document.pop(key, None)
    if failure is None:
        document |= {"State": "Active", "LastUpdateStatus": "Successful"}
    elif pending:
        document |= {"State": "Failed", "StateReasonCode": failure[0], "StateReason": failure[1]}
        document |= {"LastUpdateStatus": "Failed"}
    else:
        document |= {"LastUpdateStatus": "Failed", "LastUpdateStatusReasonCode": failure[0]}
        document |= {"LastUpdateStatusReason": failure[1]}
    document["RevisionId"] = revision()
    tables.put_version(current)
    return current


async def _retire(version: LiveVersion) -> None:
    if version.deploying is not None:
        await asyncio.wait([version.deploying])
    if version.function is not None:
        await version.function.retire()
