"""The Lambda service: one account, one region. `handle` answers every request of the API but the invokes of the hot path."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sandbox import __version__
from sandbox.clock import ScaledClock
from sandbox.control.asynchronous.deliveries import Deliveries
from sandbox.control.asynchronous.destinations import Sender
from sandbox.control.asynchronous.dispatcher import Dispatcher
from sandbox.control.asynchronous.queue import Queue
from sandbox.control.aws import OtherServices
from sandbox.control.billing.totals import TYPES, Totals
from sandbox.control.context import Context, Operation
from sandbox.control.errors import ApiError, too_large, unsupported
from sandbox.control.invoke import Invocation, Invoker
from sandbox.control.kept_logs import LogFolder
from sandbox.control.live import Live
from sandbox.control.names import Here
from sandbox.control.operations import INVOKES, OPERATIONS
from sandbox.control.rest_json import JSON_TYPE, Api, Request, Response
from sandbox.control.store import Store
from sandbox.control.tables import UrlRow
from sandbox.control.urls.gates import Gates
from sandbox.core.errors import SandboxError
from sandbox.core.function import ACCOUNT, DEFAULT_REGION
from sandbox.core.limits import INVOKE_LIMIT, LINK_LIFETIME, REQUEST_LIMIT
from sandbox.host.host import Host

_log = logging.getLogger("sandbox.control")
_LARGE: Final = 100_000  # bytes of a request that is parsed in another thread
_LINK: Final = "/_blobs/"
_OWN: Final = "/_sandbox/"


class Service:
    """host: where functions run; it is closed with the service. data: where everything is kept, None for this run only.

    others: the other AWS services: code in S3, destinations; None if there are none. on_trouble: told, in a sentence, of
    what a person should know. time_scale: so many times as fast pass the waits of asynchronous invokes. duplicates: how many
    of 100 events are given to their function twice. Use it as `async with Service(host) as service`. Raises ConfigError.
    """

    def __init__(
        self,
        host: Host,
        *,
        data: Path | None = None,
        region: str = DEFAULT_REGION,
        others: OtherServices | None = None,
        on_trouble: Callable[[str], None] | None = None,
        time_scale: float = 1.0,
        duplicates: float = 0.0,
    ) -> None:
        self.host = host
        self.here = Here(ACCOUNT, region)
        self.api = Api()
        self.endpoint = ""  # http://host:port, once it is served
        self._on_trouble = on_trouble or _log.warning
        self._others = others
        self._secret = secrets.token_bytes(32)  # signs links
        self._store = Store(data, region)
        self.live = Live(host, self._store, self.here, self._on_trouble)
        try:
            self._queue = Queue(self._store.folder)
        except BaseException:
            self._store.close()
            raise
        clock = ScaledClock(host.clock, time_scale) if time_scale != 1 else host.clock
        send = self._sender = Sender(others, self._store.folder / "destinations", self._on_trouble)
        self._deliveries = Deliveries(self._queue, send, clock, self._on_trouble)
        self.dispatcher = Dispatcher(self.live, self._queue, self._deliveries, self.here, clock, self._on_trouble, duplicates)
        self.urls = Gates(self.live, self.here, host.clock, self._on_trouble, self._url_moved)
        self.live.on_urls = self.urls.sync
        self.live.on_gone = self.dispatcher.function_gone
        self.live.on_changed = self.dispatcher.function_changed
        self._totals = Totals(self._store, host.clock, host.environment, self.live.provisioned, self._on_trouble)
        self._unsubscribe = [host.journal.subscribe(self._totals, TYPES)]
        self._logs: LogFolder | None = None
        self._kept = data is not None
        self.invoker = Invoker(self.live, self.dispatcher, self.here, self.api.model, host.clock)
        self.live.on_provisioned = self._totals.look
        self.dispatcher.on_attempt = self._totals.event
        self.invoker.on_stream = self.urls.on_stream = self._totals.stream

    async def __aenter__(self) -> Service:
        await self.load()
        return self

    async def load(self) -> None:
        """Everything that is in the store, after a start: functions, and events that wait. Raises sqlite3.Error."""
        if self._kept:
            self._logs = LogFolder(self._store.folder, self.host.function_of, self._on_trouble)
            self._unsubscribe.append(self.host.journal.subscribe(self._logs))
        self._totals.begin()
        await self.live.load()
        await self._deliveries.load()
        await self.dispatcher.load()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, reason: str = "spindown") -> None:
        """Shuts every environment down, and closes the store."""
        try:
            await self.dispatcher.close()
            await self._deliveries.close()
            closing = asyncio.ensure_future(self.urls.close())  # who waits for an invoke is answered when its environment ends
            await self.live.close()
            await self.host.close(reason)
            await self.live.retired()
            await closing
            self._sender.close()
            await self._queue.flushed()
            await self._totals.close()
            if self._logs is not None:
                await self._logs.close()
        finally:
            for unsubscribe in self._unsubscribe:
                unsubscribe()
            self._queue.close()
            self._store.close()

    def announce(self) -> None:
        """It is served: commands that are given its folder find it."""
        self._store.announce(self.endpoint)

    async def _url_moved(self, row: UrlRow) -> None:
        await self._store.transact(lambda tables: tables.put_url(row))

    # ── requests ──

    async def handle(self, request: Request) -> Response:
        """The answer to any request. Nothing is raised: what goes wrong is an answer, too."""
        try:
            if request.path.startswith(_LINK):
                return await self._blob(request)
            if request.path.startswith(_OWN):
                return await self._own(request)
            response = await self._handle(request)
        except ApiError as error:
            if error.__cause__ is not None:
                why = str(error.__cause__).partition(": ")[2].partition("; its folder")[0] or str(error.__cause__)
                self._on_trouble(f"refused: {error} ({why})")
            return self.render_error(error)
        except Exception as error:
            return self.render_error(self.failure(error))
        response.headers.setdefault("x-amzn-RequestId", str(uuid.uuid4()))
        return response

    def render_error(self, error: ApiError) -> Response:
        """An error answer."""
        response = self.api.render_error(error)
        response.headers["x-amzn-RequestId"] = str(uuid.uuid4())
        return response

    def failure(self, error: Exception) -> ApiError:
        """Something that is nobody's fault out there: a disk that is full, a mistake of ours."""
        if isinstance(error, SandboxError):
            return ApiError("ServiceException", str(error))
        if isinstance(error, sqlite3.Error | OSError):
            what = getattr(error, "strerror", None) or str(error)
            self._on_trouble(f"the store: {what}")
            return ApiError("ServiceException", f"Nothing was changed, for it could not be stored: {what}")
        _log.error("a mistake of lambda-sandbox itself", exc_info=error)
        text = f"a mistake of lambda-sandbox itself: {type(error).__name__}: {error}"
        self._on_trouble(text)
        return ApiError("ServiceException", text)

    async def _own(self, request: Request) -> Response:
        """For the commands `sandbox report`, `logs` and `queue`, which look at the same folder."""
        match request.method, request.path.removeprefix(_OWN):
            case "GET", "about":
                await self._totals.write()
                if self._logs is not None:
                    await asyncio.to_thread(self._logs.deliver_now)
                document: dict[str, Any] = {"data": str(self._store.folder.absolute()), "version": __version__}
            case "GET", "queue":
                document = await self.dispatcher.overview()
            case "POST", "replay":
                events, messages = await self.dispatcher.replay(_request_ids(request.body))
                document = {"events": events, "messages": messages}
            case "POST", "discard":
                document = {"discarded": await self._queue.discard(_request_ids(request.body))}
            case _:
                raise ApiError("UnknownOperationException", f"{request.method} {request.path} is nothing of lambda-sandbox's")
        return Response(200, {"Content-Type": JSON_TYPE}, json.dumps(document).encode())

    async def _handle(self, request: Request) -> Response:
        operation, path = self.api.match(request)
        if operation.name in INVOKES:
            streaming = operation.name != "Invoke"
            call = Invocation(path["FunctionName"], request.query, request.headers, request.body, streaming)
            if operation.name == "InvokeAsync":
                return await self.invoker.legacy(call)
            begun = self.invoker.begin(call)
            return await (begun.streamed() if streaming else begun.whole())
        work = OPERATIONS.get(operation.name)
        if work is None:
            raise unsupported(f"the operation {operation.name}")
        if len(request.body) > REQUEST_LIMIT:
            raise too_large(f"Request must be smaller than {REQUEST_LIMIT} bytes for the {operation.name} operation")
        if len(request.body) > _LARGE:  # else every invoke would wait for it
            name, parameters = await asyncio.to_thread(self.api.parse, request)
        else:
            name, parameters = self.api.parse(request)
        await self._fetch_code(parameters)
        return self.api.render(name, await self.run(name, parameters))

    async def run(self, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """One operation of the model, with parameters that were checked. Raises ApiError, sqlite3.Error, OSError."""
        return await self.do(OPERATIONS[name], parameters)

    async def do(self, work: Operation, parameters: dict[str, Any]) -> dict[str, Any]:
        """Work with the store, in one transaction; what runs is in line with it when this returns. Raises as `run` does."""
        ports: list[int] = []
        try:
            return await self._do(work, parameters, ports)
        finally:
            self.urls.release(ports)

    async def _do(self, work: Operation, parameters: dict[str, Any], ports: list[int]) -> dict[str, Any]:
        context: list[Context] = []

        def reserve() -> int:
            ports.append(self.urls.reserve())
            return ports[-1]

        def transaction(tables: Any) -> dict[str, Any]:
            c = Context(
                tables=tables,
                blobs=self._store.blobs,
                here=self.here,
                wall=self.host.clock.wall(),
                link=self.link,
                installed=self.host.has_runtime,
                provisioned_state=self.live.provisioned_state,
                reserve_port=reserve,
            )
            context.append(c)
            return work(c, parameters)

        result = await self._store.transact(transaction)
        for changed in sorted(context[0].changed):
            try:
                await self.live.sync(changed)
            except (sqlite3.Error, OSError) as error:
                text = f"The change of {changed} is kept, and is not in effect before the next one: {error}"
                raise ApiError("ServiceException", text) from None
        return result

    @staticmethod
    def limit_of(path: str) -> int:
        """How many bytes of a body are read at most; a longer one is refused all the same."""
        invokes = ("/invocations", "/response-streaming-invocations", "/invoke-async", "/invoke-async/")
        return INVOKE_LIMIT if path.endswith(invokes) else REQUEST_LIMIT

    # ── code from S3, and links to what is kept ──

    async def _fetch_code(self, parameters: dict[str, Any]) -> None:
        """Puts the bytes of an S3 object in the place of its name."""
        for place in (parameters.get("Code"), parameters.get("Content"), parameters):
            if place is None or "S3Bucket" not in place:
                continue
            if "ZipFile" in place:  # CP-008
                text = "Please do not provide other FunctionCode parameters when providing a ZipFile."
                raise ApiError("InvalidParameterValueException", text)
            if self._others is None:
                text = "code in S3 needs an S3 service: start `sandbox serve` with --aws-endpoint URL"
                raise ApiError("InvalidParameterValueException", f"Error occurred while GetObject. S3 Error Code: none. {text}")
            names = place["S3Bucket"], place.get("S3Key", ""), place.get("S3ObjectVersion")
            place["ZipFile"] = await asyncio.to_thread(self._others.fetch_object, *names)

    def link(self, blob: str) -> str:
        """CP-017: a link to it that is good for ten minutes."""
        until = int(self.host.clock.wall()) + LINK_LIFETIME
        return f"{self.endpoint}{_LINK}{blob}?Expires={until}&Signature={self._sign(blob, until)}"

    def _sign(self, blob: str, until: int) -> str:
        return hmac.new(self._secret, f"{blob} {until}".encode(), hashlib.sha256).hexdigest()

    async def _blob(self, request: Request) -> Response:
        blob = request.path.removeprefix(_LINK)
        query = dict(part.partition("=")[::2] for part in request.query.split("&"))
        with contextlib.suppress(ValueError):
            until = int(query.get("Expires", ""))
            good = hmac.compare_digest(self._sign(blob, until), query.get("Signature", ""))
            if good and until >= self.host.clock.wall() and request.method == "GET":
                data = await asyncio.to_thread(self._store.blobs.path(blob).read_bytes)
                return Response(200, {"Content-Type": "application/zip"}, data)
        raise ApiError("AccessDeniedException", "This link is not good, or not any more: ask for a new one")


def _request_ids(body: bytes) -> list[str] | None:
    try:
        ids = json.loads(body or b"{}").get("requestIds")
    except (ValueError, AttributeError, RecursionError):
        ids = ""
    if ids is None or (isinstance(ids, list) and all(isinstance(one, str) for one in ids)):
        return ids
    raise ApiError("SerializationException", 'the body is a JSON object: {"requestIds": ["…"]}, or null for all')
