"""The Extensions API and the Telemetry API, as an extension sees them."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

from sandbox.conformance.case import case
from sandbox.conformance.cases.host.api import REFUSED, error, expect_status, post
from sandbox.conformance.host_lab import EXTENSION, HostLab, Step
from sandbox.conformance.lab import expect, expect_same
from sandbox.conformance.verdict import Inapplicable

API: Final = "/2020-01-01/extension"
_ID: Final = {"Lambda-Extension-Identifier": "{ext}"}
_UNKNOWN: Final = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
_RESET: Final = 0.6  # real seconds in which an environment is made ready again; else the next event may go to another one
_TELEMETRY: Final = "/2022-07-01/telemetry"
_LOGS: Final = "/2020-08-15/logs"


def register(body: str = '{"events":["INVOKE"]}', name: str | None = EXTENSION) -> Step:
    fields = {} if name is None else {"Lambda-Extension-Name": name}
    return {"call": ["POST", f"{API}/register", fields, body]}


async def before(lab: HostLab, step: Step) -> Any:
    """What a step of an extension comes to, before it registers as it should."""
    await lab.start(extension={"before": [step]})
    [result] = (await lab.told_of("init"))["steps"]
    return result


async def registered(lab: HostLab, *steps: Step, **orders: Any) -> list[Any]:
    """The same for steps after its registration, and before its first poll."""
    await lab.start(extension={"registered": steps, **orders})
    return list((await lab.told_of("registered"))["steps"])


# ── registration ──


@case("host.extension.registers", ["status", "identifier", "document"])
async def registers(lab: HostLab, what: str) -> None:
    await lab.start(extension={})
    reply = (await lab.told_of("register"))["reply"]
    if what == "status":
        expect_status("a registration", reply, 200)
    elif what == "identifier":
        text = reply["headers"].get("lambda-extension-identifier", "")
        try:
            UUID(text)
        except ValueError:
            expect(False, f"the identifier is {text!r}")
    else:
        missing = {"functionName", "functionVersion", "handler"} - json.loads(reply["body"]).keys()
        expect(not missing, f"{', '.join(sorted(missing))} is not in {reply['body']}")


@case("host.extension.account")
async def account(lab: HostLab) -> None:
    await lab.start(extension={"fields": {"Lambda-Extension-Accept-Feature": "accountId"}})
    body = (await lab.told_of("register"))["reply"]["body"]
    expect(json.loads(body).get("accountId"), f"accountId is not in {body}")


@case("host.extension.before-runtime")
async def before_runtime(lab: HostLab) -> None:
    late: list[Step] = [{"sleep": 0.3}, {"put": ["/tmp/registers-now", "1"]}]
    await lab.start(init=[{"get": "/tmp/registers-now"}], extension={"before": late})
    expect_same("what the runtime found when it was started", (await lab.seen())["init"], ["1"])


@case("host.extension.no-name")
async def no_name(lab: HostLab) -> None:
    expect_status("a registration without a name", await before(lab, register(name=None)), *REFUSED)


@case("host.extension.unknown-event")
async def unknown_event(lab: HostLab) -> None:
    expect_status("a registration for FREEZE", await before(lab, register('{"events":["FREEZE"]}')), *REFUSED)


@case("host.extension.no-json", {"empty": "", "text": "hello", "broken": '{"events":['})
async def no_json(lab: HostLab, body: str) -> None:
    expect_status("a registration that is no JSON", await before(lab, register(body)), *REFUSED)


@case("host.extension.twice")
async def twice(lab: HostLab) -> None:
    [result] = await registered(lab, register())
    expect_status("a second registration", result, 403)


@case("host.extension.internal")
async def internal(lab: HostLab) -> None:
    poll: Step = {"background": ["GET", f"{API}/event/next", _ID, None]}  # without it Init would not end
    await lab.start(init=[register(name="internal"), poll])
    [result, _] = (await lab.seen())["init"]
    expect_status("the registration of an internal extension", result, 200)


@case("host.extension.internal-shutdown")
async def internal_shutdown(lab: HostLab) -> None:
    await lab.start(init=[register('{"events":["SHUTDOWN"]}', "internal")])
    [result] = (await lab.seen())["init"]
    expect_status("the registration of an internal extension for SHUTDOWN", result, 403)


@case("host.extension.too-late")
async def too_late(lab: HostLab) -> None:
    await lab.start()
    [result] = await lab.results(register(name="internal"))
    expect_status("a registration in an invoke", result, 403)


# ── events ──


async def _events(lab: HostLab, count: int = 2) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """So many invokes: what the runtime was told of each, and the extension's INVOKEs."""
    await lab.start(extension={})
    told = [(await lab.seen())["next"] for _ in range(count)]
    return told, [one for one in await lab.told() if one["seen"] == "INVOKE"][:count]


@case("host.event.invoke", ["requestId", "deadlineMs", "invokedFunctionArn"])
async def invoke(lab: HostLab, key: str) -> None:
    told, invokes = await _events(lab)
    fields = {
        "requestId": "lambda-runtime-aws-request-id",
        "deadlineMs": "lambda-runtime-deadline-ms",
        "invokedFunctionArn": "lambda-runtime-invoked-function-arn",
    }
    for event, seen in zip(told, invokes, strict=True):
        wanted = event["headers"].get(fields[key])
        expect(key in seen["event"], f"INVOKE is {seen['event']}")
        expect_same(key, str(seen["event"][key]), wanted)


@case("host.event.tracing")
async def tracing(lab: HostLab) -> None:
    told, invokes = await _events(lab)
    for event, seen in zip(told, invokes, strict=True):
        expect_same(
            "tracing.value", seen["event"].get("tracing", {}).get("value"), event["headers"].get("lambda-runtime-trace-id")
        )


@case("host.event.identifier")
async def identifier(lab: HostLab) -> None:
    _, invokes = await _events(lab)
    found = [seen["headers"].get("lambda-extension-event-identifier") for seen in invokes]
    expect(all(found) and len(set(found)) == len(found), f"they were {found}")


@case("host.event.waits")
async def waits(lab: HostLab) -> None:
    slow: list[Step] = [{"sleep": 0.4}, {"put": ["/tmp/asks-again", "1"]}]
    await lab.start(extension={"invoke": slow})
    [first] = await lab.results({"env": None})
    [second, found] = await lab.results({"env": None}, {"get": "/tmp/asks-again"})
    if first.get("AWS_LAMBDA_LOG_STREAM_NAME") != second.get("AWS_LAMBDA_LOG_STREAM_NAME"):
        raise Inapplicable("the host gave the second event to another environment, as Lambda does")
    expect_same("what the extension had written before the second event", found, "1")


_IDENTIFIERS: Final = {
    "none": {},
    "no-uuid": {"Lambda-Extension-Identifier": "hello"},
    "unknown": {"Lambda-Extension-Identifier": _UNKNOWN},
}


@case("host.event.no-identifier", _IDENTIFIERS)
async def no_identifier(lab: HostLab, fields: Any) -> None:
    [result] = await registered(lab, {"call": ["GET", f"{API}/event/next", fields, None]})
    expect_status("a poll", result, *REFUSED)


async def _shutdown(lab: HostLab, step: Step, reason: str) -> None:
    await lab.start(extension={}, timeout=2)
    await lab.probe(step)
    await lab.pause(_RESET)
    seen = (await lab.told_of("SHUTDOWN"))["event"]
    expect_same("shutdownReason", str(seen.get("shutdownReason")).lower(), reason)
    expect(isinstance(seen.get("deadlineMs"), int), f"deadlineMs is {seen.get('deadlineMs')!r}")


@case("host.event.shutdown-failure")
async def shutdown_failure(lab: HostLab) -> None:
    await _shutdown(lab, {"exit": 1}, "failure")


@case("host.event.shutdown-timeout")
async def shutdown_timeout(lab: HostLab) -> None:
    await _shutdown(lab, {"sleep": 30}, "timeout")


@case("host.event.started-anew")
async def started_anew(lab: HostLab) -> None:
    await lab.start(extension={})
    await lab.probe({"exit": 1})
    await lab.pause(_RESET)
    replies = [one["reply"] for one in await lab.told() if one["seen"] == "register"]
    expect_same("registrations of two processes", [reply["status"] for reply in replies], [200, 200])
    given = {reply["headers"].get("lambda-extension-identifier") for reply in replies}
    expect_same("identifiers", len(given), 2)


@case("host.event.crash")
async def crash(lab: HostLab) -> None:
    await lab.start(extension={"invoke": [{"exit": 3}]})
    answer = await lab.probe({"sleep": 0.5})
    expect(b"errorType" in answer.body, f"the caller got {answer.body[:200]!r}")


# ── errors of extensions ──


def _reports(what: str, kind: str | None = "Extension.OfTheSuite", body: str = "{}") -> Step:
    fields = dict(_ID) if kind is None else {**_ID, "Lambda-Extension-Function-Error-Type": kind}
    return {"call": ["POST", f"{API}/{what}/error", fields, body]}


@case("host.report.init-error", ["status", "caller"])
async def init_error(lab: HostLab, what: str) -> None:
    steps = [_reports("init", body=error()), {"exit": 1}]
    if what == "caller":
        await lab.start(extension={"registered": steps})
        answer = await lab.post(b"{}")
        expect(b"Extension.InitError" in answer.body or b"Extension." in answer.body, f"the caller got {answer.body[:200]!r}")
        return
    await lab.start(extension={"registered": [_reports("init", body=error())], "once": True})
    await lab.post(b"{}")
    await lab.pause(_RESET)
    [result] = (await lab.told_of("registered"))["steps"]
    expect_status("an error of its Init", result, 202)


@case("host.report.exit-error", {"document": error(), "empty": "", "text": "no JSON"})
async def exit_error(lab: HostLab, body: str) -> None:
    await lab.start(extension={"invoke": [_reports("exit", body=body)], "once": True})
    await lab.post(b"{}")
    await lab.pause(_RESET)
    [result] = (await lab.told_of("steps"))["steps"]
    expect_status("an error of its exit", result, 202)


@case("host.report.no-type", ["init", "exit"])
async def no_type(lab: HostLab, what: str) -> None:
    [result] = await registered(lab, _reports(what, None))
    expect_status("an error without a type", result, *REFUSED)


# ── telemetry ──


def _subscription(schema: str, **changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": schema,
        "types": ["platform", "function"],
        "buffering": {"maxItems": 1000, "maxBytes": 262144, "timeoutMs": 100},
        "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8899/"},
    }
    return {**document, **changes}


def subscribe(path: str, document: Any, fields: Any = _ID) -> Step:
    return {"call": ["PUT", path, {**fields, "Content-Type": "application/json"}, json.dumps(document)]}


@case("host.telemetry.subscribes", ["2022-07-01", "2022-12-13"])
async def subscribes(lab: HostLab, schema: str) -> None:
    [result] = await registered(lab, subscribe(_TELEMETRY, _subscription(schema)))
    expect_status("a subscription", result, 200, 202)


@case("host.telemetry.logs")
async def logs(lab: HostLab) -> None:
    [result] = await registered(lab, subscribe(_LOGS, _subscription("2021-03-18")))
    expect_status("a subscription to the Logs API", result, 200, 202)


_BUFFER: Final = {"maxItems": 1000, "maxBytes": 262144, "timeoutMs": 100}
_WRONG: Final[dict[str, dict[str, Any]]] = {
    "schema": {"schemaVersion": "2019-01-01"},
    "no-types": {"types": []},
    "unknown-type": {"types": ["kernel"]},
    "protocol": {"destination": {"protocol": "http", "URI": "http://sandbox.localdomain:8899/"}},
    "host": {"destination": {"protocol": "HTTP", "URI": "http://localhost:8899/"}},
    "no-port": {"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain/"}},
    "items": {"buffering": {**_BUFFER, "maxItems": 999}},
    "bytes": {"buffering": {**_BUFFER, "maxBytes": 1_048_577}},
    "time": {"buffering": {**_BUFFER, "timeoutMs": 24}},
}


@case("host.telemetry.refused", _WRONG)
async def refused(lab: HostLab, changes: dict[str, Any]) -> None:
    [result] = await registered(lab, subscribe(_TELEMETRY, _subscription("2022-12-13", **changes)))
    expect_status("a subscription that is wrong", result, 400, 202)


@case("host.telemetry.no-identifier", _IDENTIFIERS)
async def telemetry_no_identifier(lab: HostLab, fields: Any) -> None:
    [result] = await registered(lab, subscribe(_TELEMETRY, _subscription("2022-12-13"), fields))
    expect_status("a subscription", result, *REFUSED, 202)


@case("host.telemetry.too-late")
async def telemetry_too_late(lab: HostLab) -> None:
    await lab.start(extension={"invoke": [subscribe(_TELEMETRY, _subscription("2022-12-13"))]})
    await lab.seen()
    [result] = (await _steps_of_invoke(lab))["steps"]
    expect_status("a subscription in an invoke", result, 403, 202)


async def _steps_of_invoke(lab: HostLab) -> dict[str, Any]:
    await lab.probe(post("response"), answer=False)
    return await lab.told_of("steps")
