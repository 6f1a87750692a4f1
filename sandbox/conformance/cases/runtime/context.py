"""What the handler is told of its invoke."""

from __future__ import annotations

import json
from typing import Any

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.polls import CLIENT_CONTEXT
from sandbox.conformance.lab import RuntimeLab, expect, expect_same
from sandbox.conformance.verdict import NotOffered
from sandbox.core.function import ACCOUNT, DEFAULT_REGION
from sandbox.wire.tap import Fault

_ARN = f"arn:aws:lambda:{DEFAULT_REGION}:{ACCOUNT}:function:function"
_TRACE = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"
_DEADLINE = "Lambda-Runtime-Deadline-Ms"


async def told(lab: RuntimeLab, *keys: str, **context: Any) -> dict[str, Any]:
    """What a handler says that it was told. Raises NotOffered if none of the keys is in it."""
    result = await lab.invoke(**context)
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")
    answer = json.loads(result.payload)
    expect(isinstance(answer, dict), f"handler context did not answer an object, but {result.payload[:100]!r}")
    if keys and not any(key in answer for key in keys):
        raise NotOffered(f"its context does not tell {' or '.join(keys)}")
    return dict(answer)


@case("runtime.context.request-id")
async def request_id(lab: RuntimeLab) -> None:
    await lab.deploy("context")
    for number in range(2):
        wanted = f"8476a536-e9f4-11e8-9739-2dfe598c3fc{number}"
        expect_same("requestId", (await told(lab, "requestId", request_id=wanted))["requestId"], wanted)


@case("runtime.context.arn")
async def arn(lab: RuntimeLab) -> None:
    await lab.deploy("context")
    for wanted in (_ARN, f"{_ARN}:live", f"{_ARN}:7", _ARN):
        expect_same("functionArn", (await told(lab, "functionArn", arn=wanted))["functionArn"], wanted)


@case("runtime.context.deadline", {"near": 60, "far": 100_000})
async def deadline(lab: RuntimeLab, seconds: int) -> None:
    await lab.deploy("context")
    for more in (0, 1000):
        wanted = int((lab.real.wall() + seconds + more) * 1000)
        lab.spoil("next", Fault(fields=((_DEADLINE, str(wanted)),)))
        seen = await told(lab, "deadlineMs", "remainingMs")
        if "deadlineMs" in seen:
            expect(abs(seen["deadlineMs"] - wanted) < 2, f"deadlineMs is {seen['deadlineMs']}, and {wanted} was sent")
        else:
            left = wanted - lab.real.wall() * 1000
            told_left = seen["remainingMs"]
            expect(abs(told_left - left) < 30_000, f"remainingMs is {told_left}, and about {left:.0f} were left")


@case("runtime.context.past-deadline", {"2001": 1_000_000_000_000, "just-now": None})
async def past_deadline(lab: RuntimeLab, moment: int | None) -> None:
    await lab.deploy()
    moment = moment or int(lab.real.wall() * 1000)
    lab.spoil("next", Fault(fields=((_DEADLINE, str(moment)),)))
    result = await lab.invoke(1)
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")


@case("runtime.context.trace-id")
async def trace_id(lab: RuntimeLab) -> None:
    await lab.deploy("context")
    for trace in (_TRACE, _TRACE.replace("5bef", "6bef")):
        expect_same("traceId", (await told(lab, "traceId", trace_id=trace))["traceId"], trace)


async def no_stale(lab: RuntimeLab, key: str, first: Any, **context: Any) -> None:
    """The second invoke has nothing of what the first one had."""
    await lab.deploy("context")
    before = (await told(lab, key, **context))[key]
    expect(before, f"{key} was not told at all")
    after = (await told(lab)).get(key)
    expect(not after or after != before, f"{key} of the invoke before was shown: {after!r}")


@case("runtime.context.no-stale-trace-id")
async def no_stale_trace_id(lab: RuntimeLab) -> None:
    lab.spoil("next", Fault(without=frozenset({"lambda-runtime-trace-id"})), skip=1)
    await no_stale(lab, "traceId", _TRACE, trace_id=_TRACE)


@case("runtime.context.client-context")
async def client_context(lab: RuntimeLab) -> None:
    await lab.deploy("context")
    seen = (await told(lab, "clientContext", client_context=CLIENT_CONTEXT))["clientContext"]
    expect(isinstance(seen, dict), f"clientContext is {seen!r}")
    expect_same("clientContext.custom", seen.get("custom"), CLIENT_CONTEXT["custom"])


@case("runtime.context.no-stale-client-context")
async def no_stale_client_context(lab: RuntimeLab) -> None:
    await no_stale(lab, "clientContext", CLIENT_CONTEXT, client_context=CLIENT_CONTEXT)


_IDENTITY = {"cognitoIdentityId": "us-east-1:11-22", "cognitoIdentityPoolId": "us-east-1:33-44"}


@case("runtime.context.identity")
async def identity(lab: RuntimeLab) -> None:
    await lab.deploy("context")
    expect_same("identity", (await told(lab, "identity", cognito_identity=_IDENTITY))["identity"], _IDENTITY)


@case("runtime.context.no-stale-identity")
async def no_stale_identity(lab: RuntimeLab) -> None:
    await no_stale(lab, "identity", _IDENTITY, cognito_identity=_IDENTITY)


@case("runtime.context.tenant-id")
async def tenant_id(lab: RuntimeLab) -> None:
    await lab.deploy("context")
    expect_same("tenantId", (await told(lab, "tenantId", tenant_id="tenant-1"))["tenantId"], "tenant-1")


@case("runtime.context.function", ["functionName", "functionVersion", "memoryMB", "logGroup", "logStream"])
async def function(lab: RuntimeLab, key: str) -> None:
    config = (await lab.deploy("context")).config
    seen = (await told(lab, key))[key]
    wanted = {
        "functionName": config.name,
        "functionVersion": config.version,
        "memoryMB": str(config.memory_mb),
        "logGroup": config.log_group,
        "logStream": lab.environment.name,
    }
    expect_same(key, str(seen), wanted[key])
