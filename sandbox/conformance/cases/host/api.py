"""The Runtime API, as a runtime sees it, and what callers get."""

from __future__ import annotations

import json
import re
import signal
from typing import Any, Final
from uuid import UUID

from sandbox.conformance.case import case
from sandbox.conformance.host_lab import HostLab, Step
from sandbox.conformance.lab import expect, expect_same
from sandbox.core.limits import PAYLOAD_LIMIT

RUNTIME: Final = "/2018-06-01/runtime"
REFUSED: Final = (400, 403)
_JSON: Final = {"Content-Type": "application/json"}


def call(method: str, path: str, body: str | None = None, **fields: str) -> Step:
    """A step that asks the Runtime API something."""
    return {"call": [method, path, {**_JSON, **{name.replace("_", "-"): value for name, value in fields.items()}}, body]}


def post(what: str, body: str = '"answer"', **fields: str) -> Step:
    """A step that posts `response` or `error` for the event."""
    return call("POST", f"{RUNTIME}/invocation/{{id}}/{what}", body, **fields)


def error(message: str = "as the suite asked", kind: str = "ErrorOfTheSuite") -> str:
    return json.dumps({"errorMessage": message, "errorType": kind, "stackTrace": []})


def expect_status(what: str, result: Any, *wanted: int) -> None:
    """What a step of the probe came to."""
    text = " or ".join(map(str, wanted))
    expect(result["status"] in wanted, f"{what}: {text} was expected, {result['status']} came: {result['body'][:200]}")


# ── invoking ──


@case("host.invoke.answers")
async def answers(lab: HostLab) -> None:
    await lab.start()
    answer = await lab.post(b'{"hello": "world"}')
    expect_same("the answer", (answer.status, answer.body), (200, b'{"hello": "world"}'))


_BYTES: Final = {
    "object": '{"a": {"b": [1, 2.50, null]}}',
    "spaces": ' \n{ "a":1 }\t',
    "text": '"Grüße 😀"',
    "escaped": '"\\u00e9\\ud83d\\ude00"',
    "number": "123456789012345678901234567890",
    "null": "null",
    "list": "[]",
    "twice-one-key": '{"a":1,"a":2}',
}


@case("host.invoke.bytes", _BYTES)
async def bytes_(lab: HostLab, text: str) -> None:
    await lab.start()
    answer = await lab.post(text.encode())
    expect_same("the answer", answer.body, text.encode())


@case("host.invoke.large", {"1-MB": 1_000_000, "6-MB": 6 * 1024 * 1024 - 100})
async def large(lab: HostLab, size: int) -> None:
    await lab.start()
    event = b'"' + b"x" * (size - 2) + b'"'
    answer = await lab.post(event)
    expect(answer.body == event, f"of {size} bytes {len(answer.body)} came back: {answer.body[:100]!r}")


@case("host.invoke.answer-any-bytes", {"text": "SUCCESS", "empty": "", "broken": '{"a":'})
async def answer_any_bytes(lab: HostLab, body: str) -> None:
    await lab.start()
    answer = await lab.probe(post("response", body), answer=False)
    expect_same("the answer", answer.body, body.encode())


@case("host.invoke.same-process")
async def same_process(lab: HostLab) -> None:
    await lab.start()
    first = await lab.seen()
    await lab.seen(after=[{"env": None}])
    last = await lab.seen()
    expect(last["after"] and not first["after"], "what the process had seen before was gone")


@case("host.invoke.function-error")
async def function_error(lab: HostLab) -> None:
    await lab.start()
    answer = await lab.probe(post("error", error()), answer=False)
    expect_same("the caller's document", answer.document, json.loads(error()))
    expect_same("X-Amz-Function-Error", answer.headers.get("x-amz-function-error"), "Unhandled")


@case("host.invoke.too-large")
async def too_large(lab: HostLab) -> None:
    await lab.start()
    # The probe's own answer is too large: it reads a file of 7 MB into it.
    text = "x" * 1_000_000
    steps: list[Step] = [{"put": ["/tmp/large", text]}, *([{"get": "/tmp/large"}] * 7)]
    answer = await lab.probe(*steps)
    expect(len(answer.body) < PAYLOAD_LIMIT, f"the caller got {len(answer.body)} bytes")
    expect("errorType" in answer.document, f"the caller was told of no error: {answer.body[:200]!r}")


# ── an event ──


@case("host.next.request-id")
async def request_id(lab: HostLab) -> None:
    await lab.start()
    ids = [(await lab.seen())["next"]["headers"].get("lambda-runtime-aws-request-id") for _ in range(3)]
    expect(all(ids) and len(set(ids)) == 3, f"they were {ids}")
    try:
        UUID(ids[0])
    except ValueError:
        expect(False, f"{ids[0]} is no UUID")


@case("host.next.deadline")
async def deadline(lab: HostLab) -> None:
    await lab.start(timeout=10)
    text = (await lab.seen())["next"]["headers"].get("lambda-runtime-deadline-ms", "")
    expect(re.fullmatch(r"\d{13}", text), f"it is {text!r}")
    left = int(text) - lab.real.wall() * 1000
    if lab.target.start is not None:
        expect(0 < left <= 10_500, f"{left:.0f} ms were left of a timeout of 10 s")


@case("host.next.arn")
async def arn(lab: HostLab) -> None:
    await lab.start()
    text = (await lab.seen())["next"]["headers"].get("lambda-runtime-invoked-function-arn", "")
    expect(re.fullmatch(r"arn:aws[^:]*:lambda:[^:]+:\d*:function:.+", text), f"it is {text!r}")


@case("host.next.trace-id")
async def trace_id(lab: HostLab) -> None:
    await lab.start()
    text = (await lab.seen())["next"]["headers"].get("lambda-runtime-trace-id", "")
    expect(text.startswith("Root=1-"), f"it is {text!r}")


@case("host.next.content-type")
async def content_type(lab: HostLab) -> None:
    await lab.start()
    text = (await lab.seen())["next"]["headers"].get("content-type", "")
    expect_same("Content-Type", text.partition(";")[0], "application/json")


@case("host.next.status")
async def status(lab: HostLab) -> None:
    await lab.start()
    expect_same("the status", (await lab.seen())["next"]["status"], 200)


# ── what the runtime posts ──


@case("host.post.response")
async def response(lab: HostLab) -> None:
    await lab.start()
    [result] = await _after(lab, post("response"))
    expect_status("a response", result, 202)


async def _after(lab: HostLab, *steps: Step) -> list[Any]:
    """What steps come to that answer the event themselves: written down, and told with the next event."""
    answer = await lab.probe(answer=False, after=steps)
    expect(answer.status == 200, f"the caller got {answer.status}: {answer.body[:200]!r}")
    return list((await lab.seen())["after"])


@case("host.post.status-document", {"response": post("response"), "error": post("error", error())})
async def status_document(lab: HostLab, step: Step) -> None:
    await lab.start()
    [result] = await _after(lab, step)
    try:
        document = json.loads(result["body"])
    except ValueError:
        document = result["body"]
    expect_same("the document", document, {"status": "OK"})


_ERRORS: Final = {"document": error(), "empty": "", "text": "no JSON", "null": "null", "list": "[1]"}


@case("host.post.error", _ERRORS)
async def post_error(lab: HostLab, body: str) -> None:
    await lab.start()
    [result] = await _after(lab, post("error", body, lambda_runtime_function_error_type="Runtime.Unknown"))
    expect_status("an error", result, 202)


@case("host.post.twice")
async def twice(lab: HostLab) -> None:
    await lab.start()
    [_, again] = await _after(lab, post("response"), post("response"))
    expect_status("the second response", again, *REFUSED)


@case("host.post.unknown-id", ["response", "error"])
async def unknown_id(lab: HostLab, what: str) -> None:
    await lab.start()
    path = f"{RUNTIME}/invocation/8476a536-e9f4-11e8-9739-2dfe598c3fcd/{what}"
    [result] = await lab.results(call("POST", path, error()))
    expect_status("an answer to an unknown event", result, 400)


@case("host.post.error-after-response")
async def error_after_response(lab: HostLab) -> None:
    await lab.start()
    [_, result] = await _after(lab, post("response"), post("error", error()))
    expect_status("an error after the response", result, *REFUSED)


@case("host.post.before-event")
async def before_event(lab: HostLab) -> None:
    path = f"{RUNTIME}/invocation/8476a536-e9f4-11e8-9739-2dfe598c3fcd/response"
    await lab.start(init=[call("POST", path, "1")])
    [result] = (await lab.seen())["init"]
    expect_status("a response before any event", result, *REFUSED)


@case("host.post.init-error-too-late")
async def init_error_too_late(lab: HostLab) -> None:
    await lab.start()
    [result] = await lab.results(call("POST", f"{RUNTIME}/init/error", error()))
    expect_status("an error of Init in an invoke", result, 403)


@case("host.post.unknown-path", ["/2018-06-01/runtime/nothing", "/2017-01-01/runtime/invocation/next", "/nothing"])
async def unknown_path(lab: HostLab, path: str) -> None:
    await lab.start()
    [result] = await lab.results(call("GET", path))
    expect_status("an unknown path", result, 404)


@case("host.post.chunked")
async def chunked(lab: HostLab) -> None:
    await lab.start()
    fields = {"lambda_runtime_function_response_mode": "streaming", "transfer_encoding": "chunked"}
    answer = await lab.probe(post("response", '{"streamed":true}', **fields), answer=False)
    expect_same("the answer", answer.document, {"streamed": True})


# ── Init, and processes that end ──


@case("host.init.error")
async def init_error(lab: HostLab) -> None:
    await lab.start(init=[call("POST", f"{RUNTIME}/init/error", error("no good", "InitErrorOfTheSuite")), {"exit": 1}])
    document = (await lab.post(b"{}")).document
    expect_same("errorType", document.get("errorType"), "InitErrorOfTheSuite")
    expect_same("errorMessage", document.get("errorMessage"), "no good")


@case("host.init.exit", [0, 1])
async def init_exit(lab: HostLab, code: int) -> None:
    await lab.start(init=[{"exit": code}])
    document = (await lab.post(b"{}")).document
    expect(document.get("errorType"), f"the caller got {document}")


_ENDS: Final = {"status-1": {"exit": 1}, "status-0": {"exit": 0}, "SIGKILL": {"kill": int(signal.SIGKILL)}}


@case("host.exit.status", _ENDS)
async def exit_status(lab: HostLab, step: Step) -> None:
    await lab.start()
    document = (await lab.probe(step)).document
    expect_same("errorType", document.get("errorType"), "Runtime.ExitError")


@case("host.exit.again")
async def exit_again(lab: HostLab) -> None:
    await lab.start()
    await lab.probe({"exit": 1})
    answer = await lab.post(b"[1]")
    expect_same("the next answer", answer.body, b"[1]")


@case("host.time.limit")
async def time_limit(lab: HostLab) -> None:
    await lab.start(timeout=1)
    began = lab.real.now()
    answer = await lab.probe({"sleep": 30})
    expect(lab.real.now() - began < 15, "it took more than 15 s")
    expect(b"timed out" in answer.body.lower() or b"Timedout" in answer.body, f"the caller got {answer.body[:200]!r}")


@case("host.time.again")
async def time_again(lab: HostLab) -> None:
    await lab.start(timeout=1)
    await lab.probe({"sleep": 30})
    expect_same("the next answer", (await lab.post(b"[1]")).body, b"[1]")


# ── what the runtime finds ──


async def _variables(lab: HostLab) -> dict[str, str]:
    await lab.start(memory=256)
    [variables] = await lab.results({"env": None})
    return dict(variables)


_FUNCTION: Final = {
    "AWS_LAMBDA_FUNCTION_NAME": r".+",
    "AWS_LAMBDA_FUNCTION_VERSION": r"\$LATEST|\d+",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": r"\d+",
    "AWS_LAMBDA_LOG_GROUP_NAME": r".+",
    "AWS_LAMBDA_LOG_STREAM_NAME": r".+",
    "AWS_LAMBDA_INITIALIZATION_TYPE": r"on-demand",
    "_HANDLER": r".*",
}
_PLACE: Final = {
    "AWS_REGION": r"[a-z]+-[a-z]+-\d",
    "AWS_DEFAULT_REGION": r"[a-z]+-[a-z]+-\d",
    "LAMBDA_TASK_ROOT": r"/.+",
    "LAMBDA_RUNTIME_DIR": r"/.+",
}


async def _is_there(lab: HostLab, name: str, pattern: str) -> None:
    value = (await _variables(lab)).get(name)
    expect(value is not None and re.fullmatch(pattern, value), f"{name} is {value!r}")


@case("host.variables.function", {name: name for name in _FUNCTION})
async def variables_function(lab: HostLab, name: str) -> None:
    await _is_there(lab, name, _FUNCTION[name])


@case("host.variables.place", {name: name for name in _PLACE})
async def variables_place(lab: HostLab, name: str) -> None:
    await _is_there(lab, name, _PLACE[name])


@case("host.variables.credentials", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
async def variables_credentials(lab: HostLab, name: str) -> None:
    await _is_there(lab, name, ".+")


@case("host.variables.api")
async def variables_api(lab: HostLab) -> None:
    await _is_there(lab, "AWS_LAMBDA_RUNTIME_API", r"[^/:]+:\d+")


@case("host.files.tmp")
async def files_tmp(lab: HostLab) -> None:
    await lab.start()
    [written] = await lab.results({"put": ["/tmp/of-the-suite", "text"]})
    expect(written is None, f"/tmp cannot be written to: {written}")
    expect_same("what was written in the invoke before", await lab.results({"get": "/tmp/of-the-suite"}), ["text"])


@case("host.files.task-root")
async def files_task_root(lab: HostLab) -> None:
    await lab.start()
    [folder, variables] = await lab.results({"folder": None}, {"env": None})
    expect_same("the working folder", folder, variables.get("LAMBDA_TASK_ROOT"))
    [plan] = await lab.results({"get": f"{folder}/bootstrap"})
    expect(plan, f"there is no bootstrap in {folder}")
