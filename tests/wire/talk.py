"""Words that the tests of this folder share.

What is said over a connection is the same in both tiers: these tests run in tier `process`, some for each part in both.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from sandbox.host.environment import Job
from sandbox.host.result import ResponseStream
from tests.conftest import TIERS, Connection, Played, Reply, request

in_both_tiers = pytest.mark.tiers(*TIERS)
OK = {"status": "OK"}
CAUSE = "application/vnd.aws.lambda.error.cause+json"
TRANSITION = re.compile(r"State transition from \w+ to \w+ failed for runtime\. Error: State transition is not allowed")
LIMIT = 6 * 1024 * 1024 + 100
ERROR_TYPE = "lambda_runtime_function_error_type"
ERROR_BODY = "lambda_runtime_function_error_body"
INVOCATION_ID = "lambda_runtime_invocation_id"
MODE = "lambda_runtime_function_response_mode"


def path(event: Reply | Job, what: str = "response") -> str:
    request_id = event.request_id if isinstance(event, Job) else event.headers["lambda-runtime-aws-request-id"]
    return f"invocation/{request_id}/{what}"


def refused(reply: Reply, status: int, error_type: str | None = None) -> str:
    """Checks the shape of every refusal (RT-006); returns its message."""
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/json"
    document = reply.json()
    assert isinstance(document, dict)
    assert isinstance(document["errorMessage"], str)
    if error_type is not None:
        assert document["errorType"] == error_type
    return str(document["errorMessage"])


def accepted(reply: Reply) -> None:
    assert reply.status == 202, reply
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == OK


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(**trailers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in trailers.items())
    return f"0\r\n{lines}\r\n".encode("latin-1")


def chunked(where: str, *chunks: bytes, **fields: str) -> bytes:
    """A whole chunked POST without trailers."""
    return request("POST", where, transfer_encoding="chunked", **fields) + b"".join(map(chunk, chunks)) + last_chunk()


def opening(where: str, **fields: str) -> bytes:
    """The head of a streamed answer, as Node's client sends it."""
    fields = {MODE: "streaming", "transfer_encoding": "chunked", **fields}
    return request("POST", where, trailer=f"{ERROR_TYPE}, {ERROR_BODY}".replace("_", "-"), **fields)


class Streaming:
    """An invocation whose caller reads its answer as it comes."""

    def __init__(self, played: Played, connection: Connection, job: Job, stream: ResponseStream, event: Reply) -> None:
        self.played = played
        self.connection = connection
        self.job = job
        self.stream = stream
        self.path = path(event)
        self.chunks: AsyncIterator[bytes] = aiter(stream)

    async def begin(self, data: bytes = b"first", **fields: str) -> None:
        """Opens the answer; returns when the caller has its first piece."""
        await self.connection.send(opening(self.path, **fields) + chunk(data))
        assert await anext(self.chunks) == data

    async def rest(self) -> bytes:
        return b"".join([piece async for piece in self.chunks])


async def streaming(played: Played) -> Streaming:
    stream = ResponseStream(played.clock)
    connection = await played.connect()
    job, event = await played.deliver(connection, stream=stream)
    return Streaming(played, connection, job, stream, event)


async def parked(played: Played, connection: Connection, count: int = 1) -> asyncio.Task[Reply]:
    """Polls, and returns once the poll is parked (as the count-th)."""
    await connection.send(request("GET", "invocation/next"))
    await played.until(lambda: len(played.environment.machine.polls) == count)
    return asyncio.ensure_future(connection.reply())


async def hang_up(connection: Connection) -> None:
    """Closes this side for writing; replies can still be read."""
    connection.writer.write_eof()
    await connection.writer.drain()


async def answered(connection: Connection, event: Reply, body: bytes = b"1") -> None:
    accepted(await connection.ask("POST", path(event), body))


async def serves(played: Played, connection: Connection) -> None:
    """One more cycle works: what was refused before has broken nothing."""
    job, event = await played.deliver(connection, b'"again"')
    assert event.headers["lambda-runtime-aws-request-id"] == job.request_id
    await answered(connection, event, b"fine")
    assert job.result.payload == b"fine"


async def second_init(played: Played) -> Connection:
    """The grace of an init error runs out, and Init comes again inside the invoke."""
    generation = played.environment.machine.generation
    played.clock.advance(0.5)
    await played.until(lambda: played.environment.machine.generation == generation + 1)
    return await played.connect()


async def under_way(played: Played) -> tuple[Connection, Job, Reply]:
    connection = await played.connect()
    job, event = await played.deliver(connection)
    await connection.send(request("POST", path(event), b"slow")[:-2])
    await played.until(lambda: played.environment.machine.current.answering_on is not None)
    return connection, job, event


async def cancelled(task: asyncio.Task[Reply]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def post_sized(connection: Connection, where: str, size: int, framing: str, **fields: str) -> Reply:
    body = b"x" * size
    if framing == "chunked":
        await connection.send(chunked(where, body[:1000], body[1000:], **fields))
    else:
        await connection.send(request("POST", where, body, **fields))
    return await connection.reply()
