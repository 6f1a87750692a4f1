"""The records of a whole life, compared as a whole: Init, invokes, freeze, timeout, reset, re-init, spindown."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Host
from sandbox.core.states import Phase
from sandbox.telemetry.journal import Record
from tests.conftest import MakeFolder

EXTENSION = """#!/usr/bin/env -S python3 -S
import http.client, json, os, sys

connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])

def ask(method, what, body=None, **fields):
    connection.request(method, "/2020-01-01/extension/" + what, body, {k.replace("_", "-"): v for k, v in fields.items()})
    reply = connection.getresponse()
    return reply, json.loads(reply.read())

events = {"one": ["INVOKE", "SHUTDOWN"], "two": ["SHUTDOWN"]}[os.path.basename(sys.argv[0])]
reply, _ = ask("POST", "register", json.dumps({"events": events}), Lambda_Extension_Name=os.path.basename(sys.argv[0]))
identifier = reply.getheader("Lambda-Extension-Identifier")
while ask("GET", "event/next", Lambda_Extension_Identifier=identifier)[1]["eventType"] == "INVOKE":
    pass
"""
BOOTSTRAP = """#!/usr/bin/env -S python3 -S
import http.client, json, os, threading, time

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
here, other = http.client.HTTPConnection(API), http.client.HTTPConnection(API)

def ask(connection, method, path, body=None, headers={}):
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply, reply.read()

reply, _ = ask(other, "POST", "/2020-01-01/extension/register", '{"events":["INVOKE"]}', {"Lambda-Extension-Name": "inside"})
fields = {"Lambda-Extension-Identifier": reply.getheader("Lambda-Extension-Identifier")}

def extension():
    while True:
        ask(other, "GET", "/2020-01-01/extension/event/next", headers=fields)

threading.Thread(target=extension, daemon=True).start()
while True:
    reply, event = ask(here, "GET", "/2018-06-01/runtime/invocation/next")
    if b"hang" in event:
        time.sleep(1000)
    ask(here, "POST", f"/2018-06-01/runtime/invocation/{reply.getheader('Lambda-Runtime-Aws-Request-Id')}/response", event)
"""


def told(record: Record) -> tuple[Any, ...]:
    """What of a record is not chance."""
    body, kind = record.record, record.type.removeprefix("platform.")
    keys = ("phase", "name", "state", "status", "errorType", "who", "awaited", "reason")
    return (
        kind,
        *(body[key] for key in keys if key in body),
        *(["cold"] if "initDurationMs" in body.get("metrics", {}) else []),
    )


def init(phase: str) -> list[tuple[Any, ...]]:
    return [
        ("initStart", phase),
        ("initRuntimeDone", phase, "success"),
        *[("extension", name, "Ready") for name in ("one", "two", "inside")],
        ("initReport", phase, "success"),
    ]


INVOKE = [("start",), ("runtimeDone", "success"), ("sandbox.extensions",)]
LIFE = [
    *init("init"),
    ("sandbox.freeze",),
    ("sandbox.thaw",),
    *INVOKE,
    ("report", "success", "cold"),
    ("sandbox.freeze",),
    ("sandbox.thaw",),
    *INVOKE,
    ("report", "success"),
    ("sandbox.freeze",),
    ("sandbox.thaw",),
    ("start",),
    ("sandbox.failure", "invoke", "Sandbox.Timedout", None, ["runtime"]),
    ("runtimeDone", "timeout"),
    ("sandbox.extensions",),
    ("report", "timeout"),
    ("sandbox.windDown", "Reset", "timeout"),
    *init("invoke"),
    *INVOKE,
    ("report", "success"),
    ("sandbox.freeze",),
    ("sandbox.thaw",),
    ("sandbox.windDown", "Shutdown", "spindown"),
]


@pytest.mark.catalogue(
    *("LC-001", "LC-002", "LC-004", "LC-033", "LC-050", "LC-052", "LC-070", "LC-071", "LC-076", "LC-083", "LC-100", "LC-107"),
    *("EX-004", "EX-041", "EX-049", "EX-082", "EX-083", "EX-091", "TL-064", "TL-075", "TL-081", "TL-087", "TL-088"),
)
async def test_a_whole_life_with_two_external_extensions_and_an_internal_one(host: Host, folder: MakeFolder) -> None:
    records: list[Record] = []
    host.journal.subscribe(records.append)
    layer = folder(**{"extensions/one": EXTENSION, "extensions/two": EXTENSION})
    for name in ("one", "two"):
        (layer / "extensions" / name).chmod(0o755)
    function = await host.deploy(folder(bootstrap=BOOTSTRAP), layers=(str(layer),), timeout=2)
    await function.initialise()
    (environment,) = function.environments
    while environment.machine.phase is not Phase.FROZEN:
        await host.clock.sleep(0.01)
    results = [await function.invoke(event) for event in ("one", "two", "hang", "after")]
    assert [result.status for result in results] == ["ok", "ok", "timeout", "ok"]
    assert function.environments == (environment,)
    await function.shutdown()
    assert [told(record) for record in records if record.type not in ("function", "extension", "sandbox.diagnosis")] == LIFE
    wound_down = [record.record for record in records if record.type == "sandbox.windDown"]
    for record in wound_down:
        assert [(one["name"], one["told"], one["exit"]) for one in record["extensions"]] == [
            ("one", True, "exit code 0"),
            ("two", True, "exit code 0"),
        ]
    assert [record.record for record in records if record.type in ("function", "extension")] == []
    times = [record.mono for record in records if record.type.startswith("platform.")]
    assert times == sorted(times)
    assert len({record.environment for record in records}) == 1
