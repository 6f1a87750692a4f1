"""External and internal extensions as real processes: discovery, launch, Init, crashes, the tail of an invoke, Shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import Host, InvokeResult, Limits
from sandbox.core.states import Extension, Phase
from sandbox.host.host import Function
from sandbox.telemetry.journal import Record
from tests.conftest import SHORT, SLEEPER, MakeFolder, Tier, every_tree, no_task_is_left, outside, tmp_of, touch

ROOMY = replace(SHORT, init=20.0, shutdown_external=5.0, shutdown_internal=5.0, runtime_share=2.0, init_error_grace=5.0)

# What the extensions of these tests begin with; a new connection for each request.
PRELUDE = """#!/usr/bin/env -S python3 -S
import http.client, json, os, signal, subprocess, sys, time
NAME = os.path.basename(sys.argv[0])
TMP = os.environ.get("TMPDIR", "/tmp")
headers = {}
def say(*words):
    print(*words, flush=True)
def call(method, what, body=None, **more):
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    fields = {**headers, **{name.replace("_", "-"): value for name, value in more.items()}}
    api.request(method, "/2020-01-01/extension/" + what, body, fields)
    reply = api.getresponse()
    return reply.status, reply.headers, json.loads(reply.read())
def register(*events, name=NAME):
    status, got, body = call("POST", "register", json.dumps({"events": events}), lambda_extension_name=name)
    if status == 200:
        headers["lambda-extension-identifier"] = got["lambda-extension-identifier"]
    return status, body
def next():
    return call("GET", "event/next")[2]
def report(what):
    return call("POST", what, "", lambda_extension_function_error_type="Extension.Mine")[0]
def first(mark):
    if os.path.exists(TMP + "/" + mark):
        return False
    open(TMP + "/" + mark, "w").close()
    return True
def wait_for(mark):
    while not os.path.exists(TMP + "/" + mark):
        time.sleep(0.002)
"""
SERVE = """
register("INVOKE", "SHUTDOWN")
while True:
    event = next()
    say(event["eventType"], event.get("shutdownReason", ""))
    if event["eventType"] == "SHUTDOWN":
        break
"""
APP = """
import os, time
print("at import")
def handler(event, context):
    do = event.get("do")
    if do == "exit":
        os._exit(event["code"])
    if do == "hang":
        time.sleep(1000)
    return os.getpid()
"""
GENTLE = (
    """
import os, signal, threading
# Waited for on a thread of its own: a handler runs only once the main thread is back from a call, and one that was frozen
# just before its recv() starts that call after the signal.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
def end():
    signal.sigwait({signal.SIGTERM})
    print("SIGTERM")
    os._exit(0)
threading.Thread(target=end, daemon=True).start()
"""
    + APP
)
INTERNAL = """
import http.client, os, signal, threading
def call(method, what, body=None, **fields):
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    api.request(method, "/2020-01-01/extension/" + what, body, {k.replace("_", "-"): v for k, v in fields.items()})
    reply = api.getresponse()
    reply.read()
    return reply.headers
identifier = call("POST", "register", '{"events": ["INVOKE"]}', lambda_extension_name="inside")["lambda-extension-identifier"]
def poll():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # else it may hit this thread, and the main one sleeps on
    while True:
        call("GET", "event/next", lambda_extension_identifier=identifier)
        print("inside has an event")
threading.Thread(target=poll, daemon=True).start()
"""


class Kit:
    """A host, what it has written down, and layers of extensions."""

    def __init__(self, host: Host, folder: MakeFolder) -> None:
        self.host, self.folder = host, folder
        self.records: list[Record] = []
        host.journal.subscribe(self.records.append)

    def layer(self, **bodies: str) -> Path:
        """Extensions by name; a text without a shebang gets the prelude."""
        texts = {name: body if body.startswith("#!") else PRELUDE + body for name, body in bodies.items()}
        layer = self.folder(**{f"extensions/{name}": text for name, text in texts.items()}, other="")
        for name in texts:
            (layer / "extensions" / name).chmod(0o755)
        return layer

    async def deploy(self, layer: Path | None, app: str = APP, **settings: Any) -> Function:
        layers = (str(layer),) if layer is not None else ()
        settings = {"timeout": 20, **settings}
        return await self.host.deploy(
            self.folder(app_py=app), runtime="python", handler="app.handler", layers=layers, **settings
        )

    def said(self, name: str) -> list[str]:
        """The output of an extension, in its own type of record (EX-016)."""
        return [record.record.strip() for record in self.records if (record.type, record.extension) == ("extension", name)]

    def of(self, *types: str) -> list[Any]:
        return [record.record for record in self.records if record.type in types]

    def mark(self, function: Function, name: str) -> None:
        """What an extension waits for with wait_for(name)."""
        environment = function.environments[0]
        touch(environment, f"{tmp_of(environment)}/{name}")


MakeKit = Callable[..., Any]


@pytest.fixture
def kit(folder: MakeFolder, tier: Tier) -> MakeKit:
    @asynccontextmanager
    async def make(limits: Limits = ROOMY) -> AsyncIterator[Kit]:
        async with Host(limits=limits) as host:
            yield Kit(host, folder)
        no_task_is_left()

    return make


def error(result: InvokeResult) -> tuple[str, str]:
    document = result.json()
    return document["errorType"], document["errorMessage"].replace(result.request_id, "<id>")


def explained(result: InvokeResult) -> str:
    return "\n".join(line for line in result.log if line.startswith("sandbox:"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def frozen(function: Function) -> None:
    await until(lambda: function.environments[0].machine.phase is Phase.FROZEN)


# ── discovery and launch ──


@every_tree
@pytest.mark.catalogue("EX-001", "EX-002", "EX-016")
async def test_every_file_directly_in_the_folder_is_an_extension(kit: MakeKit) -> None:
    async with kit() as k:
        layer = k.layer(**{"one.sh": SERVE, "two": SERVE, "sub/three": SERVE})
        (layer / "extensions" / "four").symlink_to("two")
        (layer / "extensions" / "five").symlink_to("sub")
        function = await k.deploy(layer)
        result = await function.invoke()
        assert [(one.name, one.type) for one in result.extensions] == [(n, "external") for n in ("four", "one.sh", "two")]
        assert k.said("one.sh") == k.said("four") == ["INVOKE"]
        assert "at import" in [text.strip() for text in k.of("function")]
        assert "EXTENSION\tName: one.sh\tState: Ready\tEvents: [INVOKE, SHUTDOWN]" in result.log


@pytest.mark.catalogue("EX-003")
@pytest.mark.parametrize("files", [{"x": ""}, {"extensions": "a file"}])
async def test_no_folder_no_extensions(kit: MakeKit, files: dict[str, str]) -> None:
    async with kit() as k:
        result = await (await k.deploy(k.folder(**files))).invoke()
        assert (result.function_error, result.extensions, result.held_open_by) == (None, [], None)


@pytest.mark.catalogue("EX-004", "EX-005", "EX-012", "LC-001", "LC-002")
async def test_the_runtime_starts_when_all_have_registered_and_before_they_poll(kit: MakeKit) -> None:
    body = """
wait_for("other") if NAME == "one" else first("other")
first(NAME + "-registers")
register("INVOKE")
wait_for("runtime")
first(NAME + "-polls")
while True:
    next()
"""
    app = """
import os
tmp = os.environ.get("TMPDIR", "/tmp")
there = sorted(os.listdir(tmp))
open(tmp + "/runtime", "w").close()
def handler(event, context):
    return there
"""
    async with kit() as k:
        result = await (await k.deploy(k.layer(one=body, two=body), app)).invoke()
        assert result.json() == ["one-registers", "other", "two-registers"]
        assert [phase.name for phase in result.phases] == ["init", "extension-init", "runtime-init", "function-init", "invoke"]


@pytest.mark.catalogue("EX-006", "LC-003")
async def test_an_extension_that_never_registers(kit: MakeKit) -> None:
    async with kit(replace(SHORT, init=0.4)) as k:
        result = await (await k.deploy(k.layer(silent=SLEEPER), timeout=0.4)).invoke()
        assert error(result) == ("Sandbox.Timedout", "RequestId: <id> Error: Task timed out after 0.40 seconds")
        assert result.error_phase == "init"
        assert result.log.count("EXTENSION\tName: silent\tState: Started\tEvents: []") == 2
        assert "process: extension silent: /opt/extensions/silent" in explained(result)
        assert "none: extension silent never called the Extensions API" in explained(result)
        assert "what to do: extension silent never registered: POST /2020-01-01/extension/register" in explained(result)
        assert not k.of("function")


@pytest.mark.catalogue("EX-027", "EX-026")
@pytest.mark.parametrize("events", ['"INVOKE"', '"INVOKE", "SHUTDOWN"'])
async def test_an_extension_under_another_name_than_its_file(kit: MakeKit, events: str) -> None:
    async with kit(replace(SHORT, init=1)) as k:
        body = f"say(register({events}, name='agent'))\ntime.sleep(1000)"
        result = await (await k.deploy(k.layer(**{"agent.py": body}), timeout=1)).invoke()
        assert error(result)[0] == "Sandbox.Timedout"
        assert "'agent' called the Extensions API: Lambda-Extension-Name must be the file's name, 'agent.py'" in explained(
            result
        )


@pytest.mark.catalogue("EX-020")
async def test_an_extension_that_forgets_its_name_is_told_so(kit: MakeKit) -> None:
    async with kit(replace(SHORT, init=1)) as k:
        result = await (await k.deploy(k.layer(ext="register(name='')\ntime.sleep(1000)"), timeout=1)).invoke()
        assert "never called the Extensions API" not in explained(result)


@every_tree
@pytest.mark.catalogue("EX-007")
@pytest.mark.parametrize(
    ("text", "mode", "kind", "said", "hint"),
    [
        ("#!/bin/sh\n", 0o644, "PermissionDenied", "permission denied", "chmod +x extensions/ext"),
        ("#!/bin/sh\r\n", 0o755, "UnknownError", "no such file or directory", "CR LF"),
        ("#!/no/such\n", 0o755, "UnknownError", "no such file or directory", "'/no/such'"),
        ("hello\n", 0o755, "UnknownError", "exec format error", "does not begin with #!"),
    ],
)
async def test_a_file_that_cannot_be_run(kit: MakeKit, text: str, mode: int, kind: str, said: str, hint: str) -> None:
    async with kit() as k:
        layer = k.folder(**{"extensions/ext": text})
        (layer / "extensions" / "ext").chmod(mode)
        function = await k.deploy(layer)
        for _ in range(2):
            result = await function.invoke()
            message = f"RequestId: <id> Error: fork/exec /opt/extensions/ext: {said}"
            assert error(result) == ("Extension.LaunchError", message)
            assert f"EXTENSION\tName: ext\tState: LaunchError\tEvents: []\tError Type: {kind}" in result.log
        records = k.of("platform.extension")
        assert records[0] == {"name": "ext", "state": "LaunchError", "events": [], "errorType": kind}
        assert hint in "\n".join(k.of("sandbox.diagnosis"))


async def test_a_link_that_leads_nowhere_is_not_passed_over_in_silence(kit: MakeKit) -> None:
    async with kit() as k:
        layer = k.layer(ext=SERVE)
        (layer / "extensions" / "gone").symlink_to("nowhere")
        result = await (await k.deploy(layer)).invoke()
        assert "gone" in "\n".join(result.log)


@pytest.mark.catalogue("EX-001")
async def test_argv_0_is_the_path_on_lambda(kit: MakeKit, folder: MakeFolder) -> None:
    layer = folder(**{"extensions/x": ""})
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, layer / "extensions" / "x")
    async with kit() as k:
        result = await (await k.deploy(layer)).invoke()
        assert error(result) == ("Extension.Crash", "RequestId: <id> Error: exit status 1")
        assert any(line.startswith("/opt/extensions/x: ") for line in k.said("x"))


@every_tree
@pytest.mark.catalogue("EX-008")
async def test_each_extension_has_a_process_group_of_its_own(kit: MakeKit) -> None:
    async with kit() as k:
        body = "say(os.getpgid(0) == os.getpid())" + SERVE
        app = APP.replace("os.getpid()", "[os.getpid(), os.getpgid(0)]")
        result = await (await k.deploy(k.layer(one=body, two=body), app)).invoke()
        assert k.said("one") == k.said("two") == ["True", "INVOKE"]
        assert result.json()[0] == result.json()[1]


@pytest.mark.catalogue("EX-012", "EX-013", "EX-014", "EX-015")
async def test_the_surroundings_of_an_extension(kit: MakeKit, tier: Tier) -> None:
    body = """
open(TMP + "/shared", "w").write("by " + NAME)
say(json.dumps({"env": dict(os.environ), "mode": os.stat(".").st_mode, "files": os.listdir(".")}))
"""
    app = """
import os
def handler(event, context):
    return {"env": dict(os.environ), "shared": open(os.environ.get("TMPDIR", "/tmp") + "/shared").read()}
"""
    async with kit() as k:
        function = await k.deploy(k.layer(ext=body + SERVE), app, environment={"MINE": "kept"})
        runtime = (await function.invoke()).json()
        ext = json.loads(k.said("ext")[0])
    assert runtime["shared"] == "by ext"
    assert ext["files"] == ["app.py"]
    assert not ext["mode"] & 0o222
    hidden = {"AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_XRAY_CONTEXT_MISSING"}
    hidden |= {"AWS_XRAY_DAEMON_ADDRESS", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT", "_AWS_XRAY_DAEMON_ADDRESS"}
    hidden |= {"_AWS_XRAY_DAEMON_PORT", "_HANDLER"}
    assert hidden <= set(runtime["env"])
    assert not [name for name in ext["env"] if name in hidden or name.startswith("_")]
    same = ("MINE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_LAMBDA_RUNTIME_API")
    assert [ext["env"][name] for name in (*same, "PATH")] == [runtime["env"][name] for name in (*same, "PATH")]
    assert ext["env"].get("TMPDIR") == runtime["env"].get("TMPDIR")
    assert ("TMPDIR" in ext["env"]) is (tier.name == "process")


# ── the end of an extension, in Init ──


@pytest.mark.catalogue("EX-066", "EX-080", "EX-081", "LC-014")
@pytest.mark.parametrize(
    ("body", "kind", "exit_text", "state", "events"),
    [
        ("sys.exit(0)", "Crash", "exit code 0", "Started", ""),
        ("sys.exit(17)", "Crash", "exit status 17", "Started", ""),
        ("os.kill(os.getpid(), 9)", "Crash", "signal: killed", "Started", ""),
        ("register('INVOKE')\nsys.exit(17)", "Crash", "exit status 17", "Registered", "INVOKE"),
        ("register('INVOKE')\nreport('init/error')\nsys.exit(1)", "InitError", "exit status 1", "InitError", "INVOKE"),
        ("register('INVOKE')\nreport('init/error')\nsys.exit(0)", "InitError", "exit code 0", "InitError", "INVOKE"),
        ("register('INVOKE')\nreport('exit/error')\nsys.exit(3)", "ExitError", "exit status 3", "ExitError", "INVOKE"),
    ],
)
async def test_an_extension_that_ends_in_init(
    kit: MakeKit, body: str, kind: str, exit_text: str, state: str, events: str
) -> None:
    async with kit() as k:
        result = await (await k.deploy(k.layer(ext="say('pid', os.getpid())\n" + body))).invoke()
        assert error(result) == (f"Extension.{kind}", f"RequestId: <id> Error: {exit_text}")
        assert (result.error_phase, result.function_error) == ("init", "Unhandled")
        reports = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
        ended = ["Status: error", f"Error Type: Extension.{kind}"]
        assert reports == [["Phase: init", *ended], ["Phase: invoke", *ended]]
        lines = [line for line in result.log if line.startswith("EXTENSION")]
        assert len(lines) == 2
        assert all(line.startswith(f"EXTENSION\tName: ext\tState: {state}\tEvents: [{events}]") for line in lines)
        assert result.log[-1].endswith(f"\tStatus: error\tError Type: Extension.{kind}")
        assert f"Extension.{kind} in Init: {exit_text}" in explained(result)
        assert "process: extension ext: /opt/extensions/ext" in explained(result)
        assert "    pid " in explained(result)
        assert len(set(k.said("ext"))) == 2


async def test_what_an_extension_has_reported_is_in_the_explanation(kit: MakeKit) -> None:
    async with kit() as k:
        body = "register('INVOKE')\nreport('init/error')\nsys.exit(1)"
        result = await (await k.deploy(k.layer(ext=body))).invoke()
        assert "last API call: POST /2020-01-01/extension/init/error (answered 202)" in explained(result)
        assert "Extension.Mine" in explained(result)
        assert "what to do" in explained(result)


@pytest.mark.tiers("process")  # in the other one that path is there
async def test_a_script_that_names_a_path_of_lambda(kit: MakeKit) -> None:
    async with kit() as k:
        result = await (await k.deploy(k.layer(ext="#!/bin/sh\nexec /opt/tools/agent --now\n"))).invoke()
        assert "it names /opt/tools/agent, which is only on Lambda" in explained(result)


async def test_an_extension_that_returns_is_told_that_it_must_not(kit: MakeKit) -> None:
    async with kit() as k:
        result = await (await k.deploy(k.layer(ext="#!/bin/sh\necho done\n"))).invoke()
        assert "must run until it is given SHUTDOWN: to end before that, even with 0, is a crash" in explained(result)
        assert "sandbox:     done" in explained(result)


@pytest.mark.catalogue("EX-041", "LC-002")
async def test_an_extension_that_registers_and_never_polls(kit: MakeKit) -> None:
    async with kit(replace(SHORT, init=1)) as k:
        result = await (await k.deploy(k.layer(ext="register('INVOKE')\ntime.sleep(1000)"), timeout=1)).invoke()
        assert error(result)[0] == "Sandbox.Timedout"
        assert "last API call: POST /2020-01-01/extension/register (answered 200)" in explained(result)
        said = "extension ext registered, but never asked for an event: GET /2020-01-01/extension/event/next"
        assert said in explained(result)
        assert "EXTENSION\tName: ext\tState: Registered\tEvents: [INVOKE]" in result.log
        assert "process: runtime" not in explained(result)


@pytest.mark.catalogue("EX-081", "LC-004")
async def test_an_extension_that_fails_once_in_init(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext="say(os.getpid())\nif first('mark'): sys.exit(1)" + SERVE))
        result = await function.invoke()
        assert isinstance(result.json(), int)
        first, second, event = k.said("ext")
        assert first != second
        assert event == "INVOKE"
        assert result.log[-1].startswith("REPORT")
        assert "Status" not in result.log[-1]


# ── the end of an extension, in and between invokes ──

DIES_ONCE = """
register("INVOKE", "SHUTDOWN")
while next()["eventType"] == "INVOKE":
    if first("mark"):
        %s
        sys.exit(%d)
"""


@pytest.mark.catalogue("EX-080", "EX-066", "LC-080", "LC-070", "LC-071", "LC-083")
@pytest.mark.parametrize(("code", "said"), [(17, "exit status 17"), (0, "exit code 0")])
async def test_a_crash_before_the_answer_fails_the_invoke(kit: MakeKit, code: int, said: str) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext=DIES_ONCE % ("pass", code)))
        result = await function.invoke({"do": "hang"})
        assert error(result) == ("Extension.Crash", f"RequestId: <id> Error: {said}")
        assert result.error_phase == "invoke"
        assert result.log[-1].endswith("\tStatus: error\tError Type: Extension.Crash")
        assert "last API call: GET /2020-01-01/extension/event/next (answered 200)" in explained(result)
        after = await function.invoke()
        assert after.function_error is None  # the mark in /tmp is still there
        assert after.report.init_duration_ms is None
        assert len(function.environments) == 1


@pytest.mark.catalogue("LC-080", "EX-080")
async def test_a_crash_after_the_answer_costs_the_environment_only(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext=DIES_ONCE % ("wait_for('answered')", 17)))
        result = await function.invoke(wait_for_report=False)
        assert result.function_error is None
        k.mark(function, "answered")
        await until(lambda: result.report)
        assert (result.report.status, result.report.error_type) == ("error", "Extension.Crash")
        assert result.function_error is None
        after = await function.invoke()
        assert after.json() != result.json()


@pytest.mark.catalogue("EX-063", "EX-066", "LC-014")
async def test_an_exit_error_in_an_invoke_is_the_cause_not_the_exit(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext=DIES_ONCE % ("report('exit/error')", 17)))
        result = await function.invoke({"do": "hang"})
        assert error(result) == ("Extension.ExitError", "RequestId: <id> Error: exit status 17")
        assert (await function.invoke()).function_error is None


@pytest.mark.catalogue("EX-080", "EX-082")
async def test_a_crash_between_two_invokes(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext="say(os.getpid())" + SERVE))
        before = await function.invoke()
        await frozen(function)
        os.kill(outside(function.environments[0], int(k.said("ext")[0])), signal.SIGKILL)
        await until(lambda: k.of("sandbox.windDown"))
        after = await function.invoke()
        assert after.json() != before.json()
        assert "Extension.Crash while frozen, between two invokes: signal: killed" in explained(after)
        assert len(function.environments) == 1


@pytest.mark.catalogue("EX-082", "LC-070", "LC-074", "LC-076", "EX-051")
@pytest.mark.parametrize(("event", "reason"), [({"do": "exit", "code": 3}, "failure"), ({"do": "hang"}, "timeout")])
async def test_the_reason_of_a_reset_is_told_to_extensions(kit: MakeKit, event: dict[str, Any], reason: str) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext=SERVE), timeout=1)
        result = await function.invoke(event)
        assert result.function_error == "Unhandled"
        await until(lambda: k.of("sandbox.windDown"))
        assert k.said("ext") == ["INVOKE", f"SHUTDOWN {reason}"]
        told = [record.type if record.type != "extension" else str(record.record).split()[0] for record in k.records]
        assert told.index("platform.runtimeDone") < told.index("SHUTDOWN")
        after = await function.invoke()
        assert after.function_error is None
        assert any(f"Reset ({reason})" in line for line in [*result.log, *after.log])


@pytest.mark.catalogue("LC-081")
async def test_a_runtime_that_ends_after_its_answer_keeps_it_and_costs_the_environment(kit: MakeKit) -> None:
    app = """
import os, threading, time
def leave():
    while not os.path.exists(os.environ.get("TMPDIR", "/tmp") + "/go"):
        time.sleep(0.002)
    os._exit(3)
def handler(event, context):
    threading.Thread(target=leave, daemon=True).start()
    return os.getpid()
"""
    body = SERVE.replace("    say(", '    event["eventType"] == "INVOKE" and first("told") and wait_for("never")\n    say(')
    async with kit(replace(ROOMY, shutdown_external=0.2)) as k:
        function = await k.deploy(k.layer(ext=body), app)
        result = await function.invoke(wait_for_report=False)
        k.mark(function, "go")
        await until(lambda: result.report)
        assert result.function_error is None
        assert (result.report.status, result.report.error_type) == ("error", "Runtime.ExitError")


@every_tree
@pytest.mark.catalogue("LC-075", "EX-012")
async def test_the_memory_of_an_extension_counts(kit: MakeKit, tier: Tier) -> None:
    async with kit() as k:
        function = await k.deploy(
            k.layer(ext="register('INVOKE')\nwhile next():\n    x = first('mark') and bytearray(200 << 20)")
        )
        result = await function.invoke({"do": "hang"})
        assert error(result)[0] == "Runtime.OutOfMemory"
        assert result.report.max_memory_used_mb >= 128
        assert (await function.invoke()).function_error is None


async def test_closing_the_host_while_extensions_are_in_init(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(one=SLEEPER, two="register('SHUTDOWN')\nsay(next()['eventType'])"))
        waiting = asyncio.ensure_future(function.invoke())
        await until(lambda: function.environments and function.environments[0].machine.extensions["two"].poll is not None)
        await k.host.close()
        assert error(await waiting)[0] == "Sandbox.Failure"
    assert k.said("two") == ["SHUTDOWN"]
    assert [farewell["told"] for farewell in wind_down(k)["extensions"]] == [False, True]


# ── the tail of an invoke ──


@pytest.mark.catalogue("EX-049", "EX-090", "LC-031", "LC-032", "LC-034", "EX-047")
async def test_the_caller_is_answered_while_an_extension_still_works(kit: MakeKit) -> None:
    body = SERVE.replace(
        'say(event["eventType"]', 'event["eventType"] == "INVOKE" and wait_for("go")\n    say(event["eventType"]'
    )
    async with kit() as k:
        quiet = "register('SHUTDOWN')\nnext()"
        function = await k.deploy(k.layer(ext=body, quiet=quiet))
        result = await function.invoke(wait_for_report=False)
        assert result.report is None
        assert k.said("ext") == []
        await until(lambda: k.of("platform.runtimeDone"))
        await asyncio.sleep(0.02)  # longer than is worth a line
        k.mark(function, "go")
        await until(lambda: result.report)
        assert result.report.billed_duration_ms >= 20
        assert result.held_open_by == "ext"
        assert any(line.startswith("sandbox: extension ext kept the environment running for ") for line in result.log)
        ext, other = result.extensions
        assert (ext.name, ext.events, ext.state) == ("ext", ["INVOKE", "SHUTDOWN"], "Ready")
        assert ext.after_response_ms >= ext.after_runtime_ms >= 20
        assert (other.name, other.events, other.after_response_ms) == ("quiet", ["SHUTDOWN"], None)
        assert ext.init_ms > 0
        assert ext.max_memory_used_mb > 0
        assert [span[0] for span in k.of("platform.report")[0]["spans"]] == ["extensionOverhead"]


@pytest.mark.parametrize("end", ["os._exit(3)", "report('exit/error')\n        os._exit(3)"])
async def test_one_that_dies_in_its_tail_is_charged_for_it(kit: MakeKit, end: str) -> None:
    dies = f"    if event['eventType'] == 'INVOKE':\n        wait_for('go')\n        {end}\n"
    body = SERVE.replace("    say(", dies + "    say(", 1)
    async with kit() as k:
        function = await k.deploy(k.layer(ext=body))
        result = await function.invoke(wait_for_report=False)
        await until(lambda: k.of("platform.runtimeDone"))
        await asyncio.sleep(0.02)  # longer than is worth a line
        k.mark(function, "go")
        await until(lambda: result.report)
        (ext,) = result.extensions
        assert ext.after_response_ms >= ext.after_runtime_ms >= 20
        assert ext.max_memory_used_mb > 0
        assert result.held_open_by == "ext"


async def test_of_many_refusals_only_the_first_are_told_and_they_are_cropped(kit: MakeKit) -> None:
    floods = "for path in ['a' * 60000] * 50 + list(range(50)):\n    call('GET', f'no/{path}')\n"
    async with kit() as k:
        result = await (await k.deploy(k.layer(ext=floods + SERVE))).invoke()
        refused = k.of("sandbox.refused")
        assert 20 <= len(refused) < 100
        assert max(len(record["target"]) for record in refused) <= 400
        assert max(len(line) for line in result.log) < 2000


@pytest.mark.catalogue("LC-031", "LC-032", "LC-083", "EX-091", "EX-040", "LC-071", "LC-079")
async def test_an_extension_over_the_timeout_after_the_answer(kit: MakeKit) -> None:
    body = """
say(register("INVOKE", "SHUTDOWN")[0])
if first("mark"):
    open(TMP + "/old", "w").write(headers["lambda-extension-identifier"])
    next()
    wait_for("never")
mine = dict(headers)
headers["lambda-extension-identifier"] = open(TMP + "/old").read()
say(next()["errorType"])
headers.update(mine)
while next()["eventType"] == "INVOKE":
    pass
"""
    async with kit(replace(ROOMY, shutdown_external=0.1, runtime_share=0.05)) as k:
        function = await k.deploy(k.layer(ext=body), timeout=1)
        result = await function.invoke()
        assert (result.function_error, result.status) == (None, "ok")
        assert (result.report.status, result.report.error_type) == ("timeout", None)
        said = (
            "extension ext has not asked for its next event since INVOKE: until it does, the environment runs on, and is billed"
        )
        assert said in explained(result)
        assert "process: runtime" not in explained(result)
        assert "last API call: GET /2020-01-01/extension/event/next (answered 200)" in explained(result)
        after = await function.invoke()
        assert after.json() != result.json()
        assert k.said("ext") == ["200", "200", "Extension.UnknownExtensionIdentifier"]


# ── Shutdown ──


def wind_down(k: Kit) -> dict[str, Any]:
    return k.of("sandbox.windDown")[-1]


@every_tree
@pytest.mark.catalogue("EX-083", "EX-088", "EX-089", "EX-087", "LC-100", "LC-103", "LC-104", "LC-106", "LC-111", "LC-110")
async def test_first_the_runtime_then_the_extensions(kit: MakeKit) -> None:
    async with kit(Limits()) as k:
        function = await k.deploy(k.layer(ext=SERVE + "say('bye')"), GENTLE)
        await function.invoke()
        await frozen(function)
        machine = function.environments[0].machine
        folder = function.environments[0]._folder
    spoken = [(r.type, r.record.strip()) for r in k.records if r.type in ("function", "extension")]
    assert spoken[-3:] == [("function", "SIGTERM"), ("extension", "SHUTDOWN spindown"), ("extension", "bye")]
    assert machine.extensions["ext"].state is Extension.EXITED
    assert len(k.of("platform.report")) == 1
    assert wind_down(k)["windowMs"] == 2000.0
    (farewell,) = wind_down(k)["extensions"]
    assert (farewell["name"], farewell["told"], farewell["exit"]) == ("ext", True, "exit code 0")
    assert not folder.exists()


@pytest.mark.catalogue("EX-089", "LC-101")
async def test_without_extensions_there_is_no_sigterm(kit: MakeKit) -> None:
    async with kit(Limits()) as k:
        await (await k.deploy(None, GENTLE)).invoke()
    assert "SIGTERM" not in "".join(k.of("function"))
    assert k.of("sandbox.windDown") == []


@pytest.mark.catalogue("EX-089", "EX-009", "EX-016", "LC-102", "LC-104")
async def test_with_an_internal_extension_there_is_a_sigterm(kit: MakeKit) -> None:
    async with kit(Limits()) as k:
        function = await k.deploy(None, INTERNAL + GENTLE)
        result = await function.invoke()
        await frozen(function)
    assert [(one.name, one.type) for one in result.extensions] == [("inside", "internal")]
    assert "EXTENSION\tName: inside\tState: Ready\tEvents: [INVOKE]" in result.log
    assert "inside has an event" in result.log
    assert k.of("extension") == []
    assert [text.strip() for text in k.of("function")][-1] == "SIGTERM"
    assert wind_down(k)["windowMs"] == 500.0


async def test_a_runtime_that_ends_in_init_leaves_its_internal_extension_as_it_was(kit: MakeKit) -> None:
    async with kit() as k:
        result = await (await k.deploy(None, INTERNAL + "\nos._exit(3)\n")).invoke()
        assert error(result)[0] == "Runtime.ExitError"
        assert "Exited" not in "".join(line for line in result.log if line.startswith("EXTENSION"))


@pytest.mark.catalogue("EX-086", "LC-105", "EX-083")
async def test_a_runtime_that_ignores_sigterm_is_killed_at_the_end_of_its_share(kit: MakeKit) -> None:
    app = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + APP
    async with kit(replace(ROOMY, runtime_share=0.1)) as k:
        function = await k.deploy(k.layer(ext=SERVE), app)
        await function.invoke()
        await frozen(function)
    assert k.said("ext")[-1] == "SHUTDOWN spindown"
    assert wind_down(k)["runtimeMs"] >= 100
    assert wind_down(k)["extensions"][0]["exit"] == "exit code 0"


@every_tree
@pytest.mark.catalogue("EX-084", "LC-109", "LC-103", "LC-114", "EX-087", "EX-055")
async def test_who_ignores_shutdown_is_killed_with_its_children(kit: MakeKit) -> None:
    body = """
child = subprocess.Popen(["sleep", "1000"])
say(json.dumps([os.getpid(), child.pid]))
register("SHUTDOWN")
say(next()["eventType"])
next()
"""
    async with kit(replace(ROOMY, shutdown_external=0.3, runtime_share=0.1)) as k:
        function = await k.deploy(k.layer(ext=body))
        await function.invoke()
        await frozen(function)
        pids = [outside(function.environments[0], pid) for pid in json.loads(k.said("ext")[0])]
        assert all(psutil.pid_exists(pid) for pid in pids)
        machine = function.environments[0].machine
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert k.said("ext")[1:] == ["SHUTDOWN"]
    assert wind_down(k)["extensions"][0]["told"]
    assert machine.extensions["ext"].state is Extension.SHUTDOWN_FAILED


@pytest.mark.catalogue("EX-085", "EX-033")
async def test_who_did_not_ask_for_shutdown_is_killed_at_once(kit: MakeKit) -> None:
    async with kit() as k:
        body = "register(%s)\nwhile True:\n    say(next())"
        await (await k.deploy(k.layer(one=body % "'INVOKE'", none=body % ""))).invoke()
    assert [len(k.said(name)) for name in ("one", "none")] == [1, 0]
    for farewell in wind_down(k)["extensions"]:
        assert (farewell["told"], farewell["exit"]) == (False, "signal: killed")


@pytest.mark.catalogue("LC-108", "LC-107")
async def test_a_busy_extension_is_given_shutdown_when_it_polls(kit: MakeKit) -> None:
    body = SERVE.replace(
        "    say(", '    if event["eventType"] == "INVOKE":\n        say("busy")\n        wait_for("go")\n    say('
    )
    async with kit() as k:
        function = await k.deploy(k.layer(ext=body), GENTLE)
        await function.invoke(wait_for_report=False)
        await until(lambda: "busy" in k.said("ext"))
        machine = function.environments[0].machine
        environment = function.environments[0]
        closing = asyncio.ensure_future(k.host.close())
        await until(lambda: machine.phase is Phase.SHUTDOWN and "SIGTERM" in "".join(k.of("function")))
        touch(environment, f"{tmp_of(environment)}/go")
        await closing
    assert k.said("ext") == ["busy", "INVOKE", "SHUTDOWN spindown"]
    assert wind_down(k)["extensions"][0]["exit"] == "exit code 0"


@pytest.mark.catalogue("EX-087", "LC-082")
async def test_an_exit_in_shutdown_is_no_new_error(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext=SERVE + "report('exit/error')\nsys.exit(3)", two=SERVE + "sys.exit(4)"))
        await function.invoke()
        await frozen(function)
        machine = function.environments[0].machine
    assert machine.extensions["two"].state is Extension.SHUTDOWN_FAILED
    assert [farewell["exit"] for farewell in wind_down(k)["extensions"]] == ["exit status 3", "exit status 4"]
    assert k.of("sandbox.failure", "sandbox.diagnosis") == []


async def test_the_log_tells_how_a_reset_went(kit: MakeKit) -> None:
    async with kit() as k:
        function = await k.deploy(k.layer(ext=SERVE, deaf="register('INVOKE')\nwhile True: next()"))
        crashed = await function.invoke({"do": "exit", "code": 1})
        after = await function.invoke()
        log = "\n".join([*crashed.log, *after.log])
        assert "sandbox: Reset (failure): " in log
        assert "sandbox:   extension ext: given SHUTDOWN, exit code 0 after " in log
        assert "sandbox:   extension deaf: had not asked for SHUTDOWN, signal: killed after " in log


# ── the command ──


async def test_the_documents_of_the_command_have_the_extensions(folder: MakeFolder, tier: Tier) -> None:
    layer = folder(**{"extensions/ext": PRELUDE + SERVE})
    (layer / "extensions" / "ext").chmod(0o755)
    command = [str(Path(sys.executable).parent / "sandbox"), "invoke", str(folder(app_py=APP)), "--layer", str(layer)]
    command += ["--runtime", "python", "--handler", "app.handler", "--json", *tier.options]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=40, check=True)
    (ext,) = json.loads(done.stdout)["extensions"]
    keys = {"name", "type", "events", "state", "initMs", "afterResponseMs", "afterRuntimeMs", "maxMemoryUsedMB", "telemetry"}
    assert set(ext) == keys
    assert (ext["name"], ext["type"], ext["events"], ext["state"]) == ("ext", "external", ["INVOKE", "SHUTDOWN"], "Ready")
