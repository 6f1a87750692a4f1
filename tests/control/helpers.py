"""What the tests of the API's answers share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from sandbox.control.live import _ACTIVATIONS
from sandbox.control.service import Service
from tests.control.conftest import Caller

ARN = "arn:aws:lambda:us-east-1:123456789012"
NOT_FOUND = "ResourceNotFoundException"
INVALID = "InvalidParameterValueException"
CONFLICT = "ResourceConflictException"
STALE = "PreconditionFailedException"
FAILED = "failed to satisfy constraint"
STALE_TEXT = (
    "The Revision Id provided does not match the latest Revision Id. "
    "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
)
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000"


class Refusal(NamedTuple):
    """An error answer, as boto3 shows it. typed: whether its body had `Type`."""

    status: int
    code: str
    message: str
    typed: bool


async def refused(call: Awaitable[Any]) -> Refusal:
    """The error that a call is answered with."""
    try:
        answer = await call
    except ClientError as error:
        said = error.response
        status = said["ResponseMetadata"]["HTTPStatusCode"]
        return Refusal(status, said["Error"]["Code"], said["Error"]["Message"], "Type" in said or "Type" in said["Error"])
    raise AssertionError(f"it was answered: {answer}")


async def check(call: Awaitable[Any], status: int, code: str, message: str) -> None:
    """The call is refused with exactly this."""
    said = await refused(call)
    assert (said.status, said.code, said.message) == (status, code, message)


@contextlib.asynccontextmanager
async def nothing_settles(service: Service) -> AsyncIterator[None]:
    """What is being created or updated stays so meanwhile: every slot for activations is taken."""
    slots = service.live._slots
    taken = 0
    try:
        for _ in range(_ACTIVATIONS):
            await slots.acquire()
            taken += 1
        yield
    finally:
        for _ in range(taken):
            slots.release()


async def settled(caller: Caller, name: str = "f") -> None:
    """Waits until every version of it is where it is going."""
    await caller.service.live.settled(name)
