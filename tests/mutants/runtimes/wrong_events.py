"""Mutants that read the event wrongly, or tell the handler something wrong."""

from __future__ import annotations

import json
import struct
import sys
import time
from typing import Any

from .good import Runtime
from .table import breaks


@breaks("event.values")
class ListsBecomeObjects(Runtime):
    """An empty list becomes an empty object, as in languages that have one type for both."""

    def decode(self, body: bytes) -> Any:
        event = super().decode(body)
        return {} if event == [] else event


@breaks("event.values")
class NoEmptyText(Runtime):
    """An event that is an empty text becomes null."""

    def decode(self, body: bytes) -> Any:
        event = super().decode(body)
        return None if event == "" else event


@breaks("event.text")
class EndsAtNul(Runtime):
    """Text ends at the first NUL."""

    def decode(self, body: bytes) -> Any:
        event = super().decode(body)
        if isinstance(event, dict) and isinstance(event.get("text"), str):
            event["text"] = event["text"].partition("\0")[0]
        return event


@breaks("event.numbers")
class ShortFloats(Runtime):
    """Has floats of four bytes."""

    def decode(self, body: bytes) -> Any:
        return json.loads(body, parse_float=lambda text: struct.unpack("f", struct.pack("f", float(text)))[0])


@breaks("event.long-integers")
class AllNumbersAreDoubles(Runtime):
    """Every number goes through a double."""

    def decode(self, body: bytes) -> Any:
        return json.loads(body, parse_int=lambda text: int(float(text)))


@breaks("event.white-space")
class NoSpaceFirst(Runtime):
    """Wants the first character to be JSON."""

    def decode(self, body: bytes) -> Any:
        return json.JSONDecoder().raw_decode(body.decode())[0]


@breaks("event.keys")
class NoDunder(Runtime):
    """Drops keys that begin with two underscores."""

    def decode(self, body: bytes) -> Any:
        event = super().decode(body)
        return {key: event[key] for key in event if not key.startswith("__")} if isinstance(event, dict) else event


@breaks("event.nested-deeper")
class Shallow(Runtime):
    """Bears 300 levels."""

    def setup(self) -> None:
        sys.setrecursionlimit(300)


@breaks("event.large")
class FixedBuffer(Runtime):
    """Has a buffer of 512 kB for the event."""

    def decode(self, body: bytes) -> Any:
        return super().decode(body[: 512 * 1024])


@breaks("context.request-id")
class TellsNonce(Runtime):
    """Tells the invocation id as the request id."""

    def more_context(self) -> dict[str, Any]:
        return {"requestId": self.told("Invocation-Id")}


@breaks("context.arn")
class FirstArn(Runtime):
    """Tells the ARN of the first invoke for ever."""

    arn: str | None = None

    def more_context(self) -> dict[str, Any]:
        self.arn = self.arn or self.told("Invoked-Function-Arn")
        return {"functionArn": self.arn}


@breaks("context.deadline")
class DeadlineByTimeout(Runtime):
    """Works the deadline out itself."""

    def more_context(self) -> dict[str, Any]:
        return {"deadlineMs": int(time.time() * 1000) + 3000}


@breaks("context.deadline")
class DeadlineInSeconds(Runtime):
    """Takes the deadline for seconds."""

    def more_context(self) -> dict[str, Any]:
        return {"deadlineMs": int(self.told("Deadline-Ms") or 0) * 1000}


@breaks("context.past-deadline")
class RefusesTheLate(Runtime):
    """Fails an event whose deadline is over."""

    def check(self) -> None:
        if int(self.told("Deadline-Ms") or 0) < time.time() * 1000:
            raise TimeoutError("too late")


@breaks("context.trace-id")
class FirstTrace(Runtime):
    """Sets the trace id once."""

    def set_trace(self, trace: str | None) -> None:
        if self.calls == 1:
            super().set_trace(trace)


@breaks("context.no-stale-trace-id")
class KeepsTrace(Runtime):
    """Leaves the trace id of the invoke before, where there is no new one."""

    def set_trace(self, trace: str | None) -> None:
        if trace:
            super().set_trace(trace)


@breaks("context.client-context")
class RawClientContext(Runtime):
    """Gives the client context as text."""

    def more_context(self) -> dict[str, Any]:
        return {"clientContext": self.told("Client-Context")}


class Keeps(Runtime):
    kept: tuple[str, str]

    def more_context(self) -> dict[str, Any]:
        key, name = self.kept
        self.value = self.parsed(name) or getattr(self, "value", None)
        return {key: self.value}


@breaks("context.no-stale-client-context")
class KeepsClientContext(Keeps):
    """Leaves the client context of the invoke before, where there is no new one."""

    kept = ("clientContext", "Client-Context")


@breaks("context.no-stale-identity")
class KeepsIdentity(Keeps):
    """Leaves the identity of the invoke before, where there is no new one."""

    kept = ("identity", "Cognito-Identity")


@breaks("context.identity")
class IdentityByOtherNames(Runtime):
    """Looks for keys of the identity that the host does not send."""

    def more_context(self) -> dict[str, Any]:
        identity = self.parsed("Cognito-Identity") or {}
        return {"identity": {key: identity.get(key) for key in ("identityId", "identityPoolId")}}


@breaks("context.tenant-id")
class NoTenant(Runtime):
    """Looks for the tenant under another name."""

    def more_context(self) -> dict[str, Any]:
        return {"tenantId": self.told("Tenant-Id")}


@breaks("context.function")
class FixedMemory(Runtime):
    """Tells the memory that is the default."""

    def more_context(self) -> dict[str, Any]:
        return {"memoryMB": 128}
