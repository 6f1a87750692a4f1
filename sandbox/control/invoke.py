"""Invoke and InvokeWithResponseStream: from a request to a job, from a job to an answer (IN-001 … IN-046)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

from botocore.model import ServiceModel

from sandbox.clock import Clock
from sandbox.control import event_stream
from sandbox.control.asynchronous.dispatcher import Dispatcher
from sandbox.control.errors import ApiError, in_header, validation
from sandbox.control.live import Live, LiveVersion, Target
from sandbox.control.names import Here, Named
from sandbox.control.placing import TRIES, check_tenant
from sandbox.control.rest_json import JSON_TYPE, Response
from sandbox.control.validation import complaints
from sandbox.core.errors import ConfigError, SandboxError, Unsupported
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import CLIENT_CONTEXT_LIMIT, EVENT_LIMIT, INVOKE_LIMIT
from sandbox.host.concurrency import Throttled
from sandbox.host.environment import Job
from sandbox.host.environment.job import event_bytes, is_sendable, new_trace_id
from sandbox.host.host import Function
from sandbox.host.result import ResponseStream
from sandbox.host.scheduler import FunctionClosed
from sandbox.package.tree import PackageError

Accepted = Callable[["Response | Exception"], None]
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_IN_HEADERS: Final = (
    ("InvocationType", "x-amz-invocation-type"),
    ("LogType", "x-amz-log-type"),
    ("TenantId", "x-amz-tenant-id"),
)
_PLAIN: Final = re.compile(r"[a-zA-Z0-9-_]{1,64}").fullmatch  # a name that no rule forbids
_ROOT: Final = re.compile(r"Root=[^;]*").search
_SAMPLED: Final = re.compile(r"Sampled=[01?]").search


@dataclass(slots=True)
class Invocation:
    """One request to invoke. name: as in the path, decoded. query: as it was sent. headers: names in lower case."""

    name: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    streaming: bool = False


class Invoker:
    """Invokes functions by name. stand_in: the function that answers to the name `function`, as RIE's only one does."""

    def __init__(self, live: Live, dispatcher: Dispatcher, here: Here, model: ServiceModel, clock: Clock) -> None:
        self._live = live
        self._dispatcher = dispatcher
        self._clock = clock
        self._here = here
        self._shapes = [model.operation_model(name).input_shape for name in ("Invoke", "InvokeWithResponseStream")]
        self.stand_in: str | None = None
        self.on_stream: Callable[[Job, FunctionConfig | None], None] | None = None  # for who bills

    def begin(self, call: Invocation) -> Begun:
        """Checks a request, and makes a job of it that is not placed yet. Raises ApiError."""
        given = self._checked(call)
        name = call.name
        if name == "function" and self.stand_in is not None:
            name = self.stand_in
        named = self._here.function(name, given.get("Qualifier"))

        def find() -> Target:
            return self._live.target(named)

        target = find()
        payload = _event(call.body)
        kind = given.get("InvocationType")
        tenant = given.get("TenantId")
        check_tenant(tenant, target.version.row)
        trace_id = call.headers.get("x-amzn-trace-id")
        if not trace_id or not is_sendable(trace_id):
            trace_id = new_trace_id(self._clock.wall())
        if kind == "Event":
            accept = partial(self._accept, call, named, payload, trace_id, tenant)
            return Begun(call, target, find, payload, False, tenant, trace_id, accept=accept)
        tail = given.get("LogType") == "Tail"
        trace_id = self._live.handed_on(named.name, trace_id)
        return Begun(call, target, find, payload, tail, tenant, trace_id, dry=kind == "DryRun", on_stream=self.on_stream)

    def _accept(
        self, call: Invocation, named: Named, payload: bytes, trace_id: str, tenant: str | None, done: Accepted
    ) -> None:
        """Queues an event; done gets the answer, or what to refuse it with (IN-100)."""

        def answered(error: Exception | None) -> None:
            headers = {"x-amzn-RequestId": request_id, "X-Amzn-Trace-Id": traced(trace_id)}
            done(error if error is not None else Response(202, headers))

        given = call.headers.get("x-amzn-requestid")
        request_id = self._dispatcher.accept(named, payload, trace_id, answered, request_id=given, tenant_id=tenant)

    async def legacy(self, call: Invocation) -> Response:
        """InvokeAsync (IN-111). Raises ApiError, sqlite3.Error."""
        headers = {**call.headers, "x-amz-invocation-type": "Event"}
        answer = await self.begin(Invocation(call.name, call.query, headers, call.body)).whole()
        return Response(answer.status, answer.headers | {"Content-Type": JSON_TYPE}, b'{"Status":202}')

    def _checked(self, call: Invocation) -> dict[str, str]:
        """The parameters that are there, as the model lets them pass. Raises ApiError."""
        headers = call.headers
        given = {member: headers[name] for member, name in _IN_HEADERS if name in headers}
        if call.query and (qualifier := parse_qs(call.query, keep_blank_values=True).get("Qualifier")):
            given["Qualifier"] = qualifier[-1]
        if given or not _PLAIN(call.name):
            found = complaints(self._shapes[call.streaming], {"FunctionName": call.name, **given})
            if found:
                raise validation(found)
        limit = EVENT_LIMIT if given.get("InvocationType") == "Event" else INVOKE_LIMIT
        if len(call.body) > limit:  # IN-009
            text = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
            raise ApiError("RequestTooLargeException", text)
        if (request_id := headers.get("x-amzn-requestid")) is not None and not _UUID(request_id):
            raise ApiError("InvalidRequestContentException", "x-amzn-RequestId header must be a valid UUID.")  # IN-010
        return given


def _event(body: bytes) -> bytes:
    """IN-008."""
    try:
        return event_bytes(body)
    except ConfigError as error:
        text = f"Could not parse request body into json: Could not parse payload into json: {error}"
        raise ApiError("InvalidRequestContentException", text) from None


def _client_context(headers: Mapping[str, str]) -> Any:
    """IN-006: base64 of a JSON object."""
    text = headers.get("x-amz-client-context")
    if not text:
        return None
    if len(text) > CLIENT_CONTEXT_LIMIT:
        limit = f"Client context must be no more than {CLIENT_CONTEXT_LIMIT} bytes when base64-encoded."
        raise ApiError("InvalidRequestContentException", limit)
    try:
        document = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ApiError("InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON object.")
    return document


def service_error(error: Exception) -> ApiError:
    """What a caller gets if no environment could be had."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Throttled):  # IN-060
        return ApiError("TooManyRequestsException", str(error), Reason=error.reason)
    if isinstance(error, Unsupported):
        return ApiError("InvalidRuntimeException", str(error))
    if isinstance(error, PackageError):
        return ApiError("InvalidZipFileException", str(error))
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return ApiError("ServiceException", f"No execution environment could be had: {text}")


class Begun:
    """An invoke that was let in. `place_now` or `place`, then `answer`; or `streamed`; or `accept`, of an event."""

    __slots__ = ("_call", "_find", "_on_stream", "_payload", "_tail", "_tenant", "_trace_id", "accept", "dry", "job", "target")

    def __init__(
        self,
        call: Invocation,
        target: Target,
        find: Callable[[], Target],
        payload: bytes,
        tail: bool,
        tenant: str | None,
        trace_id: str,
        *,
        dry: bool = False,
        accept: Callable[[Accepted], None] | None = None,
        on_stream: Callable[[Job, FunctionConfig | None], None] | None = None,
    ) -> None:
        self._call = call
        self._find = find
        self.target = target
        self._payload = payload
        self._tail = tail
        self._tenant = tenant
        self._trace_id = trace_id
        self.dry = dry
        self.accept = accept
        self._on_stream = on_stream
        self.job: Job | None = None

    @property
    def _version(self) -> LiveVersion:
        return self.target.version

    def _make_job(self, function: Function, stream: ResponseStream | None = None) -> Job:
        headers = self._call.headers
        try:
            return function.job(
                self._payload,
                stream,
                request_id=headers.get("x-amzn-requestid"),
                client_context=_client_context(headers),
                trace_id=self._trace_id,
                tenant_id=self._tenant,
                arn=self.target.arn,
                tail=self._tail,
            )
        except ConfigError as error:
            raise ApiError("InvalidRequestContentException", str(error)) from None

    def place_now(self) -> bool:
        """Gives it to an environment; False if one must be made first (`place`). Raises ApiError."""
        function = self._version.function
        if function is None:
            return False
        self.job = job = self._make_job(function)
        try:
            return function.scheduler_of(self._tenant).place_now(job)
        except FunctionClosed:
            self._look_again()
            return False
        except (SandboxError, OSError) as error:
            raise service_error(error) from None

    def _look_again(self) -> None:
        """Another version has taken its place meanwhile: no request is lost by an update."""
        self.job = None
        self.target = self._find()

    async def place(self, stream: ResponseStream | None = None) -> None:
        """Gives it to an environment, one that is made for it if need be. Raises ApiError."""
        for _ in range(TRIES):
            try:
                await self._place(stream)
                return
            except FunctionClosed:
                self._look_again()
            except (SandboxError, OSError) as error:
                raise service_error(error) from None
        raise ApiError(
            "ServiceException", "The function was updated again and again while this invoke looked for an environment"
        )

    async def _place(self, stream: ResponseStream | None) -> None:
        function = await self._version.open()
        scheduler = function.scheduler_of(self._tenant)
        if self.job is not None:
            await scheduler.place_in_new(self.job)
        else:
            self.job = self._make_job(function, stream)
            await scheduler.place(self.job)

    def answer(self) -> Response:
        """What the caller gets; `job.answered` is done, and `job.tail` if the log is wanted. Raises ApiError."""
        assert self.job is not None
        result = self.job.result
        if (error := self.job.answered.exception()) is not None:
            assert isinstance(error, Exception)
            raise service_error(error)
        headers = {
            "Content-Type": JSON_TYPE,
            "x-amzn-RequestId": result.request_id,
            "X-Amz-Executed-Version": result.executed_version,
            "X-Amzn-Trace-Id": traced(self.job.trace_id),
        }
        if result.function_error is not None:
            headers["X-Amz-Function-Error"] = result.function_error
        if self.job.tail is not None:
            headers["X-Amz-Log-Result"] = base64.b64encode(self.job.tail.result()).decode()
        return Response(200, headers, result.payload)

    async def whole(self) -> Response:
        """Invoke, from here to its answer. Raises ApiError, sqlite3.Error."""
        if self.accept is not None:
            return await self._accepted(self.accept)
        if self.dry:
            return Response(204, {"x-amzn-RequestId": self._call.headers.get("x-amzn-requestid") or str(uuid.uuid4())})
        if self.place_now():
            return await self._waited()
        return await self.finish()

    async def _accepted(self, accept: Callable[[Accepted], None]) -> Response:
        answer: asyncio.Future[Response | Exception] = asyncio.get_running_loop().create_future()
        accept(lambda found: None if answer.done() else answer.set_result(found))
        found = await answer
        if isinstance(found, Exception):
            raise found
        return found

    async def finish(self) -> Response:
        """What `place_now` could not place, to its answer. Raises ApiError."""
        await self.place()
        return await self._waited()

    async def _waited(self) -> Response:
        assert self.job is not None
        await asyncio.wait([self.job.answered])
        if self.job.tail is not None and self.job.answered.exception() is None:
            await self.job.tail
        return self.answer()

    async def streamed(self) -> Response:
        """InvokeWithResponseStream, to the moment when the answer begins (IN-040 … IN-046). Raises ApiError."""
        if self.dry:
            return Response(204, {"x-amzn-RequestId": self._call.headers.get("x-amzn-requestid") or str(uuid.uuid4())})
        function = await self._open()
        stream = function.stream()
        await self.place(stream)
        assert self.job is not None
        if self._on_stream is not None:
            self._on_stream(self.job, function.config)
        pieces = aiter(stream)
        try:
            first = await anext(pieces, b"")
        except (SandboxError, OSError) as error:
            raise service_error(error) from None
        headers = {
            "Content-Type": event_stream.CONTENT_TYPE,
            "X-Amzn-Remapped-Content-Type": in_header(stream.content_type or "application/octet-stream"),
            "x-amzn-RequestId": self.job.request_id,
            "X-Amz-Executed-Version": self._version.row.version,
            "X-Amzn-Trace-Id": traced(self.job.trace_id),
        }
        return Response(200, headers, stream=self._frames(first, pieces, stream), close=stream.close)

    async def _open(self) -> Function:
        try:
            return await self._version.open()
        except (SandboxError, OSError) as error:
            raise service_error(error) from None

    async def _frames(self, first: bytes, pieces: AsyncIterator[bytes], stream: ResponseStream) -> AsyncGenerator[bytes, None]:
        assert self.job is not None
        try:
            for frame in event_stream.payload_chunks(first):
                yield frame
            async for piece in pieces:
                for frame in event_stream.payload_chunks(piece):
                    yield frame
            result = stream.result
            assert result is not None
            log = base64.b64encode(await self.job.tail).decode() if self.job.tail is not None else None
            if result.function_error is None:
                yield event_stream.invoke_complete(log=log)
            else:  # IN-044
                details = result.payload.decode("utf-8", "replace")
                yield event_stream.invoke_complete(code=result.error_type or result.function_error, details=details, log=log)
        finally:
            stream.close()


def traced(trace_id: str) -> str:
    """IN-024: what the caller is told of the trace: its root, and whether it is sampled."""
    root, sampled = _ROOT(trace_id), _SAMPLED(trace_id)
    parts = [found[0] for found in (root, sampled) if found is not None]
    return in_header(";".join(parts) or trace_id)
