"""Registration, and Init."""

from __future__ import annotations

import json
from typing import Any, Final

from sandbox.conformance.case import case
from sandbox.conformance.extension_lab import ExtensionLab
from sandbox.conformance.lab import expect, expect_same
from sandbox.conformance.verdict import Inapplicable
from sandbox.wire.tap import Fault, Seen

EXTENSION: Final = ("register", "event/next", "telemetry", "logs", "extension/init/error", "extension/exit/error")
FORMS: Final = {
    "1-byte-pieces": Fault(piece=1),
    "7-byte-pieces": Fault(piece=7),
    "chunked-1": Fault(chunk=1),
    "chunked-16": Fault(chunk=16),
    "lower-case": Fault(rename=str.lower),
    "upper-case": Fault(rename=str.upper),
    "more-fields": Fault(fields=(("Lambda-Extension-Yet-Unknown", "a; b"), ("X-Empty", ""), ("X-Long", "x" * 5000))),
    "charset": Fault(fields=(("Content-Type", "application/json; charset=utf-8"),), without=frozenset({"content-type"})),
    "interim": Fault(interim=(100,)),
}


def error(error_type: str) -> bytes:
    return json.dumps({"errorMessage": "as the suite asked", "errorType": error_type}).encode()


async def registers(lab: ExtensionLab) -> Seen:
    """Its registration, once it has been read to its end."""
    await lab.deploy()
    await lab.function.initialise()
    await lab.until("its registration", lambda: [seen for seen in lab.calls("register") if seen.complete])
    return lab.calls("register")[0]


def events_of(seen: Seen) -> list[Any]:
    """What it registers for."""
    try:
        document = json.loads(seen.body)
    except ValueError:
        document = None
    expect(isinstance(document, dict), f"its registration is no JSON object: {seen.body[:200]!r}")
    assert isinstance(document, dict)
    events = document.get("events", [])
    expect(isinstance(events, list), f"events is {events!r}")
    return list(events)


@case("extension.register.first")
async def first(lab: ExtensionLab) -> None:
    await registers(lab)
    mine = lab.calls(*EXTENSION)
    expect(mine[0].route == "register", f"its first call was {mine[0].method} {mine[0].path}")


@case("extension.register.name")
async def name(lab: ExtensionLab) -> None:
    seen = await registers(lab)
    await lab.until("the reply to its registration", lambda: seen.status is not None)
    given = seen.get("lambda-extension-name")
    expect(lab.names is None or given in lab.names, f"it registers as {given!r}, and its files are {lab.names}")
    expect_same("the status of its registration", seen.status, 200)


@case("extension.register.events")
async def events(lab: ExtensionLab) -> None:
    wanted = events_of(await registers(lab))
    expect(set(wanted) <= {"INVOKE", "SHUTDOWN"}, f"its events are {wanted}")


@case("extension.register.once")
async def once(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works(2)
    expect_same("registrations", len(lab.calls("register")), 1)


@case("extension.register.as-declared")
async def as_declared(lab: ExtensionLab) -> None:
    await lab.start()
    found = {event.lower() for event in events_of(lab.calls("register")[0])}
    if lab.calls("telemetry", "logs"):
        found.add("telemetry")
    expect_same("features", sorted(found), sorted(lab.target.features))


@case("extension.register.no-old-keys")
async def no_old_keys(lab: ExtensionLab) -> None:
    seen = await registers(lab)
    expect(not json.loads(seen.body or b"{}").get("configurationKeys"), f"it sent {seen.body[:200]!r}")


@case("extension.register.reply-forms", FORMS)
async def reply_forms(lab: ExtensionLab, fault: Fault) -> None:
    lab.spoil("register", fault)
    await lab.start()
    await lab.works()


_FUNCTION = {"functionName": "function", "functionVersion": "$LATEST", "handler": "app.handler"}
_REPLIES = {
    "account": {**_FUNCTION, "accountId": "123456789012"},
    "unknown": {**_FUNCTION, "yetUnknown": {"a": [1, None]}},
    "handler-null": {**_FUNCTION, "handler": None},
}


@case("extension.register.more-keys", _REPLIES)
async def more_keys(lab: ExtensionLab, document: Any) -> None:
    lab.spoil("register", Fault(body=json.dumps(document).encode()))
    await lab.start()
    await lab.works()


_REFUSALS = {
    "403-closed": Fault(reaches_host=False, status=403, body=error("Extension.RegistrationClosed")),
    "403-name": Fault(reaches_host=False, status=403, body=error("Extension.InvalidExtensionName")),
    "400": Fault(reaches_host=False, status=400, body=error("InvalidRequestFormat")),
    "500": Fault(reaches_host=False, status=500, body=error("InternalServerError")),
}


@case("extension.register.refused", _REFUSALS)
async def refused(lab: ExtensionLab, fault: Fault) -> None:
    lab.spoil("register", fault)
    await registers(lab)
    again: list[Seen] = []
    await lab.ends_or("another registration, or a poll", lambda: lab.calls("register", "event/next")[1:])
    again = lab.calls("register", "event/next")[1:2]
    expect(not again or again[0].route == "register", "it asked for events, and was not registered")


@case("extension.register.lost")
async def lost(lab: ExtensionLab) -> None:
    lab.spoil("register", Fault(reaches_host=False, lost=True))
    await registers(lab)
    await lab.ends_or("another registration", lambda: lab.calls("register")[1:])


@case("extension.register.does-not-spin")
async def does_not_spin(lab: ExtensionLab) -> None:
    lab.spoil("register", Fault(reaches_host=False, status=503, body=b""), times=100_000)
    await registers(lab)
    await lab.pause(0.5)
    calls = len(lab.calls("register"))
    expect(calls < 100, f"{calls} registrations in half a second, each of them refused")


# ── Init ──


@case("extension.init.polls")
async def polls(lab: ExtensionLab) -> None:
    await lab.start()
    await lab.works()


@case("extension.init.slow-runtime")
async def slow_runtime(lab: ExtensionLab) -> None:
    await lab.start(environment={"INIT_SECONDS": "0.3"})
    await lab.works()
    lab.one_process()


@case("extension.init.beside-another")
async def beside_another(lab: ExtensionLab) -> None:
    await lab.start(beside=True)
    await lab.works(2)
    names = {seen.get("lambda-extension-name") for seen in lab.calls("register")}
    expect_same("extensions that have registered", len(names), 2)


@case("extension.init.read-only-code")
async def read_only_code(lab: ExtensionLab) -> None:
    if (await lab.host.isolation()).tier == "process":
        raise Inapplicable("without namespaces nothing is read-only here; `sandbox doctor` says what is missing")
    await lab.start()
    await lab.works()


_VARIABLES = {"no-home": {"HOME": ""}, "odd-locale": {"LANG": "C", "LC_ALL": "C"}, "utc-away": {"TZ": "Pacific/Auckland"}}


@case("extension.init.little-environment", _VARIABLES)
async def little_environment(lab: ExtensionLab, variables: Any) -> None:
    await lab.start(environment=variables)
    await lab.works()


@case("extension.init.no-secrets")
async def no_secrets(lab: ExtensionLab) -> None:
    secret = "a-secret-that-nobody-prints"
    await lab.start(environment={"SECRET_OF_THE_SUITE": secret})
    await lab.works()
    expect(not [line for line in lab.printed if secret in line], "it printed the value of a variable of the function")
