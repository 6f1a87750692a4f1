"""Answers that are streamed."""

from __future__ import annotations

import base64
import binascii
import json

from sandbox.conformance.case import case
from sandbox.conformance.cases.runtime.answers import error, gives_invocation_id_back
from sandbox.conformance.lab import RuntimeLab, expect, expect_same
from sandbox.wire.tap import Fault, Seen

_MODE, _TYPE, _BODY = (
    "lambda-runtime-function-response-mode",
    "lambda-runtime-function-error-type",
    "lambda-runtime-function-error-body",
)


def without_metadata(data: bytes, seen: Seen) -> bytes:
    """What a handler wrote. Some clients begin every stream with an answer for HTTP: JSON, then eight NUL bytes (RT-076)."""
    if (seen.get("content-type") or "").lower().startswith("application/vnd.awslambda.http-integration-response"):
        return data.partition(b"\0" * 8)[2]
    return data


async def _streams(lab: RuntimeLab, chunks: int = 3, size: int = 100, **more: int) -> tuple[bytes, Seen]:
    """A whole stream: its bytes, without metadata, and how it was posted."""
    await lab.deploy("stream")
    _, stream = await lab.stream({"chunks": chunks, "bytes": size, "ms": 0, **more})
    data = await lab.wait("the end of the stream", lab.read(stream))
    calls = lab.calls("response")
    expect(calls, f"nothing was posted to /response. {lab.whereabouts()}")
    await lab.until("the end of its post", lambda: calls[0].complete or calls[0].gone)
    return without_metadata(data, calls[0]), calls[0]


async def _fails_after(lab: RuntimeLab, chunks: int = 2) -> tuple[bytes, Seen]:
    return await _streams(lab, 5, 100, fail=chunks)


@case("runtime.stream.mode")
async def mode(lab: RuntimeLab) -> None:
    _, seen = await _streams(lab)
    expect_same("Lambda-Runtime-Function-Response-Mode", (seen.get(_MODE) or "").lower(), "streaming")


@case("runtime.stream.streams")
async def streams(lab: RuntimeLab) -> None:
    _, seen = await _streams(lab)
    expect(seen.chunked, f"it was posted with Content-Length {seen.get('content-length')}")


@case("runtime.stream.whole", {"small": (3, 100), "many-chunks": (500, 10), "2-MB": (20, 100_000)})
async def whole(lab: RuntimeLab, shape: tuple[int, int]) -> None:
    data, _ = await _streams(lab, *shape)
    expect(data == b"x" * (shape[0] * shape[1]), f"{len(data)} bytes of {shape[0] * shape[1]} came")


@case("runtime.stream.at-once")
async def at_once(lab: RuntimeLab) -> None:
    await lab.deploy("stream")
    _, stream = await lab.stream({"chunks": 3, "bytes": 100, "ms": 400})
    reading = lab.read(stream)
    await lab.until("the first bytes", lambda: any(seen.size for seen in lab.calls("response")))
    [seen] = lab.calls("response")
    expect(not seen.complete, "its first bytes came with its last")
    await lab.wait("the end of the stream", reading)


@case("runtime.stream.content-type")
async def content_type(lab: RuntimeLab) -> None:
    _, seen = await _streams(lab)
    expect(seen.get("content-type"), "it has no Content-Type")


@case("runtime.stream.error-in-trailers")
async def error_in_trailers(lab: RuntimeLab) -> None:
    _, seen = await _fails_after(lab)
    expect(seen.trailer(_TYPE), f"the trailers were {seen.trailers}")


@case("runtime.stream.trailers-announced")
async def trailers_announced(lab: RuntimeLab) -> None:
    _, seen = await _fails_after(lab)
    announced = ",".join(value for name, value in seen.fields if name.lower() == "trailer").lower()
    expect(_TYPE in announced, f"the header field Trailer was {announced!r}")


@case("runtime.stream.error-body")
async def error_body(lab: RuntimeLab) -> None:
    _, seen = await _fails_after(lab)
    body = seen.trailer(_BODY) or ""
    try:
        document = json.loads(base64.b64decode(body, validate=True))
    except (ValueError, binascii.Error):
        document = None
    expect(isinstance(document, dict), f"Lambda-Runtime-Function-Error-Body is {body[:100]!r}")
    assert isinstance(document, dict)
    missing = [key for key in ("errorType", "errorMessage") if not isinstance(document.get(key), str)]
    expect(not missing, f"it has no text {' and '.join(missing)}: {document}")


@case("runtime.stream.error-keeps-bytes")
async def error_keeps_bytes(lab: RuntimeLab) -> None:
    data, _ = await _fails_after(lab)
    expect_same("the bytes before the error", data[:200], b"x" * 200)


@case("runtime.stream.one-ending")
async def one_ending(lab: RuntimeLab) -> None:
    await _fails_after(lab)
    await lab.goes_on_or_exits(2)
    expect_same("posts to /error", len(lab.calls("error")), 0)


@case("runtime.stream.goes-on", {"after-a-whole-one": None, "after-a-broken-one": 2})
async def goes_on(lab: RuntimeLab, fail: int | None) -> None:
    await _streams(lab, 5, 100, **({"fail": fail} if fail else {}))
    await lab.until("the next poll", lambda: len(lab.calls("next")) > 1)
    _, stream = await lab.stream({"chunks": 2, "bytes": 10, "ms": 0})
    data = without_metadata(await lab.wait("the end of the second stream", lab.read(stream)), lab.calls("response")[1])
    expect_same("bytes of the second stream", len(data), 20)


@case("runtime.stream.empty")
async def empty(lab: RuntimeLab) -> None:
    data, _ = await _streams(lab, 0, 0)
    expect_same("bytes of the stream", len(data), 0)
    expect_same("posts to /error", len(lab.calls("error")), 0)


@case("runtime.stream.slow-reader")
async def slow_reader(lab: RuntimeLab) -> None:
    await lab.deploy("stream")
    _, stream = await lab.stream({"chunks": 20, "bytes": 100_000, "ms": 0})
    data = await lab.wait("the end of the stream", lab.read(stream, pause=0.01))
    data = without_metadata(data, lab.calls("response")[0])
    expect_same("bytes of the stream", len(data), 2_000_000)


@case("runtime.stream.cut-off")
async def cut_off(lab: RuntimeLab) -> None:
    await lab.deploy("stream")
    lab.spoil("response", Fault(at_once=True))
    _, stream = await lab.stream({"chunks": 20, "bytes": 50_000, "ms": 10})
    reading = lab.read(stream)
    await lab.goes_on_or_exits(2)
    await lab.wait("the end of the stream", reading)


@case("runtime.stream.refused", {"403": "InvalidStateTransition", "413": "RequestEntityTooLarge"})
async def refused(lab: RuntimeLab, error_type: str) -> None:
    await lab.deploy("stream")
    status = 413 if error_type == "RequestEntityTooLarge" else 403
    lab.spoil("response", Fault(status=status, body=error(error_type)))
    _, stream = await lab.stream({"chunks": 3, "bytes": 10, "ms": 0})
    await lab.wait("the end of the stream", lab.read(stream))
    await lab.goes_on_or_exits(2)


@case("runtime.stream.invocation-id")
async def invocation_id(lab: RuntimeLab) -> None:
    await _streams(lab)
    await gives_invocation_id_back(lab, "response")
