"""The managed Python runtime, through a host, as a handler and its caller meet it."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.core.errors import ConfigError
from sandbox.core.limits import MIB, PAYLOAD_LIMIT, VARIABLES_LIMIT
from tests.conftest import MakeFolder
from tests.runtimes.conftest import Deploy, code_of, platform_error, printed, put

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
PID = "import os\ndef handler(event, context):\n    return os.getpid()\n"
EVALUATE = """
import collections, decimal, json, logging, os, signal, subprocess, sys, tempfile, time

Point = collections.namedtuple("Point", "x y")

def handler(event, context):
    return eval(event, {**globals(), "context": context})
"""
# A custom runtime of a few lines, in the interpreter that runs the tests: it answers each event with its own variables.
CUSTOM = f"#!/bin/sh\nexec '{os.path.realpath(sys.executable)}' -S runtime.py\n"
CUSTOM_PY = """
import http.client, json, os

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    event = api.getresponse()
    event.read()
    path = f"/2018-06-01/runtime/invocation/{event.headers['Lambda-Runtime-Aws-Request-Id']}/response"
    api.request("POST", path, json.dumps(dict(os.environ)))
    api.getresponse().read()
"""


# ── loading ──


@pytest.mark.catalogue("EN-003", "EN-012", "LC-009")
@pytest.mark.parametrize(
    ("handler", "file"),
    [
        ("app.handler", "app.py"),
        ("sub/app.handler", "sub/app.py"),
        ("package.app.handler", "package/app.py"),
        ("package.inner/app.handler", "package/inner/app.py"),
        ("main.handler", "main.py"),  # names that our own files have, too
        ("bootstrap.handler", "bootstrap.py"),
    ],
)
async def test_a_handler_is_found_and_runs_in_the_code_folder(host: Host, folder: MakeFolder, handler: str, file: str) -> None:
    app = """
    import os
    def handler(event, context):
        with open("data.txt") as data:
            return [os.getcwd(), os.environ["LAMBDA_TASK_ROOT"], os.environ["_HANDLER"], __file__, data.read()]
    """
    code = folder(**{file: textwrap.dedent(app), "data.txt": "beside it", "package/__init__.py": ""})
    function = await host.deploy(code, runtime="python", handler=handler, timeout=20)
    result = await function.invoke()
    root = code_of(function)
    assert result.check().json() == [root, root, handler, f"{root}/{file}", "beside it"]


async def test_without_a_name_it_is_the_handler_that_the_console_makes(host: Host, folder: MakeFolder) -> None:
    code = folder(lambda_function_py="def lambda_handler(event, context):\n    return 'found'\n")
    function = await host.deploy(code, runtime="python", timeout=20)
    assert (await function.invoke()).check().json() == "found"


async def test_a_function_may_be_any_callable(deploy: Deploy) -> None:
    function = await deploy("import functools\nhandler = functools.partial(lambda a, event, context: [a, event], 1)\n")
    assert (await function.invoke({"b": 2})).check().json() == [1, {"b": 2}]


@pytest.mark.catalogue("LC-035")
async def test_what_is_outside_the_handler_runs_once_and_is_kept(deploy: Deploy) -> None:
    app = """
    import os
    print("loading")
    seen = []
    def handler(event, context):
        seen.append(event)
        return [os.getpid(), seen]
    """
    function = await deploy(app)
    first, second = await function.invoke(1), await function.invoke(2)
    pid = first.check().json()[0]
    assert [first.json(), second.check().json()] == [[pid, [1]], [pid, [1, 2]]]
    assert [printed(first), printed(second)] == [["loading"], []]


@pytest.mark.catalogue("LC-036")
async def test_a_thread_that_was_frozen_goes_on_in_the_next_invoke(deploy: Deploy) -> None:
    app = """
    import threading, time
    thread = threading.Thread(target=time.sleep, args=[0.2], daemon=True)
    def handler(event, context):
        if event == "start":
            thread.start()
        else:
            thread.join(10)
        return thread.is_alive()
    """
    function = await deploy(app)
    (await function.invoke("start")).check()
    assert (await function.invoke("join")).check().json() is False


# ── the context ──


@pytest.mark.catalogue("RT-022", "RT-024", "EN-006", "EN-007", "EN-009", "EN-080", "TL-061")
async def test_every_documented_field_of_the_context(deploy: Deploy) -> None:
    app = """
    import os
    names = ["function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb", "aws_request_id",
             "log_group_name", "log_stream_name", "client_context", "tenant_id"]
    def handler(event, context):
        told = {name: getattr(context, name) for name in names}
        identity = context.identity
        told["identity"] = [identity.cognito_identity_id, identity.cognito_identity_pool_id]
        return [told, context.get_remaining_time_in_millis(), dict(os.environ)]
    """
    function = await deploy(app, name="orders", memory_mb=256, region="eu-central-1", version="7", timeout=20)
    result = await function.invoke()
    told, left, variables = result.check().json()
    assert 0 < left <= 20_000
    stream = told.pop("log_stream_name")
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[7\][0-9a-f]{32}", stream)
    assert told == {
        "function_name": "orders",
        "function_version": "7",
        "invoked_function_arn": "arn:aws:lambda:eu-central-1:123456789012:function:orders",
        "memory_limit_in_mb": "256",
        "aws_request_id": result.request_id,
        "log_group_name": "/aws/lambda/orders",
        "client_context": None,
        "identity": [None, None],
        "tenant_id": None,
    }
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", result.request_id)
    assert variables["AWS_LAMBDA_LOG_STREAM_NAME"] == stream
    assert result.executed_version == "7"
    [start] = [record.record for record in result.records if record.type == "platform.initStart"]
    assert (start["instanceId"], start["instanceMaxMemory"]) == (stream, 256)


@pytest.mark.catalogue("RT-026", "RT-027", "RT-028", "RT-033")
async def test_what_the_caller_sends_along(deploy: Deploy) -> None:
    app = """
    def handler(event, context):
        both = context.client_context
        if both is None:
            return None
        client, identity = both.client, context.identity
        return {
            "client": [client.installation_id, client.app_title, client.app_version_name,
                       client.app_version_code, client.app_package_name],
            "custom": both.custom, "env": both.env,
            "identity": [identity.cognito_identity_id, identity.cognito_identity_pool_id],
            "tenant": context.tenant_id, "id": context.aws_request_id,
        }
    """
    function = await deploy(app)
    client = {"installation_id": "i", "app_title": "bücher", "app_version_name": "1.0", "app_version_code": "10"}
    request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    result = await function.invoke(
        client_context={"client": client, "custom": {"a": [1]}, "env": {"locale": "de"}},
        cognito_identity={"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"},
        tenant_id="blue",
        request_id=request_id,
    )
    assert result.check().json() == {
        "client": ["i", "bücher", "1.0", "10", None],
        "custom": {"a": [1]},
        "env": {"locale": "de"},
        "identity": ["id", "pool"],
        "tenant": "blue",
        "id": request_id,
    }
    assert (await function.invoke()).check().json() is None  # nothing of it is left over


@pytest.mark.catalogue("EN-004", "RT-025")
async def test_the_trace_id_is_set_for_each_event_and_not_before(deploy: Deploy) -> None:
    app = """
    import os
    at_import = os.environ.get("_X_AMZN_TRACE_ID")
    def handler(event, context):
        return [at_import, os.environ.get("_X_AMZN_TRACE_ID")]
    """
    function = await deploy(app)
    assert (await function.invoke(trace_id=TRACE)).check().json() == [None, TRACE]
    at_import, made_up = (await function.invoke()).check().json()
    assert at_import is None
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", made_up)


# ── events and results ──


@pytest.mark.catalogue("RT-021", "RT-050", "IN-025", "IN-021")
async def test_events_and_results_of_any_kind_pass(deploy: Deploy) -> None:
    function = await deploy("def handler(event, context):\n    return event\n")
    for event in ({"ä": "日本 🎉", "n": [1, 2.5, None, True]}, "text", 0, False, [], {}):
        result = await function.invoke(event)
        assert result.check().json() == event
        assert result.function_error is None
        assert result.content_type == "application/json"
    assert (await function.invoke(payload=b"null")).check().payload == b"null"


@pytest.mark.catalogue("RT-050", "RT-052", "IN-025")
@pytest.mark.parametrize(
    ("expression", "payload", "content_type"),
    [
        ("None", b"null", "application/json"),
        ("b'\\xff\\0raw'", b"\xff\0raw", "application/unknown"),
        ("'ü'", b'"\\u00fc"' if sys.version_info < (3, 12) else '"ü"'.encode(), "application/json"),
        ("decimal.Decimal('1.5')", b"1.5", "application/json"),
        ("{1: (2, float('nan'))}", b'{"1": [2, NaN]}', "application/json"),
        pytest.param(
            "[decimal.Decimal('1.10'), decimal.Decimal('0.12345678901234567890')]",
            b"[1.10, 0.12345678901234567890]",
            "application/json",
        ),
        pytest.param(
            "Point(1, 2)",
            b'{"x": 1, "y": 2}',
            "application/json",
        ),
        pytest.param(
            "{'a': b'x'}",
            b'{"a": "x"}',
            "application/json",
        ),
    ],
)
async def test_a_result_is_written_as_aws_writes_it(deploy: Deploy, expression: str, payload: bytes, content_type: str) -> None:
    """The payloads are those of awslambdaric 4.2.2, which was asked."""
    result = await (await deploy(EVALUATE)).invoke(expression)
    assert (result.payload, result.content_type, result.function_error) == (payload, content_type, None)


@pytest.mark.catalogue("RT-090", "RT-095", "IN-021")
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{1, 2}", "Unable to marshal response: Object of type set is not JSON serializable"),
        ("(a := [], a.append(a))[0]", "Unable to marshal response: Circular reference detected"),
        ("{(1, 2): 3}", "Unable to marshal response: keys must be str, int, float, bool or None, not tuple"),
    ],
)
async def test_a_result_that_is_no_json(deploy: Deploy, expression: str, message: str) -> None:
    function = await deploy(EVALUATE)
    result = await function.invoke(expression)
    assert result.function_error == "Unhandled"
    told = {"errorMessage": message, "errorType": "Runtime.MarshalError", "requestId": result.request_id, "stackTrace": []}
    assert result.json() == told
    assert (await function.invoke("1")).check().json() == 1


@pytest.mark.catalogue("RT-021", "RT-057", "RT-058", "RT-059", "EN-077")
async def test_6_mib_both_ways_and_one_byte_too_many(deploy: Deploy) -> None:
    app = """
    import os
    def handler(event, context):
        print(os.getpid())
        return "x" * (event - 2) if isinstance(event, int) else event
    """
    function = await deploy(app)
    payload = b'"' + b"a" * (6 * MIB - 2) + b'"'
    echoed = await function.invoke(payload=payload)
    assert echoed.check().payload == payload
    whole = await function.invoke(PAYLOAD_LIMIT)
    assert len(whole.check().payload) == PAYLOAD_LIMIT
    large = await function.invoke(PAYLOAD_LIMIT + 1)
    assert large.function_error == "Unhandled"
    assert large.json()["errorType"] == "Function.ResponseSizeTooLarge"
    after = await function.invoke(2)
    assert after.check().json() == ""
    assert printed(echoed) == printed(whole) == printed(large) == printed(after)  # one process answered them all


# ── errors of the handler ──


@pytest.mark.catalogue("RT-090", "RT-094", "RT-095", "RT-096", "TL-072", "IN-021", "IN-027")
async def test_an_error_is_told_as_aws_tells_it(deploy: Deploy) -> None:
    app = """
    import os, helper
    class Boom(Exception):
        pass
    def handler(event, context):
        if event:
            return os.getpid()
        print(os.getpid())
        helper.fail(Boom)
    """
    function = await deploy(app, {"helper.py": "def fail(kind):\n    raise kind('ö: no')\n"})
    failed = await function.invoke({})
    root = code_of(function)
    trace = [
        f'  File "{root}/app.py", line 9, in handler\n    helper.fail(Boom)\n',
        f"  File \"{root}/helper.py\", line 2, in fail\n    raise kind('ö: no')\n",
    ]
    told = {"errorMessage": "ö: no", "errorType": "Boom", "requestId": failed.request_id, "stackTrace": trace}
    assert failed.json() == told
    assert (failed.function_error, failed.status, failed.error_phase) == ("Unhandled", "error", None)
    assert failed.report is not None
    assert failed.report.status == "success"
    pid, logged = printed(failed)
    assert logged == "[ERROR] Boom: ö: no\nTraceback (most recent call last):\n" + "".join(trace).rstrip("\n")
    assert (await function.invoke(1)).check().json() == int(pid)


async def test_a_path_with_importlib_in_it_is_still_the_functions_own(host: Host, folder: MakeFolder) -> None:
    code = folder(**{"importlib_demo/app.py": "def handler(event, context):\n    return 1 / 0\n"})
    function = await host.deploy(code, runtime="python", handler="importlib_demo/app.handler", timeout=20)
    frame = f'  File "{code_of(function)}/importlib_demo/app.py", line 2, in handler\n    return 1 / 0\n'
    assert (await function.invoke()).json()["stackTrace"] == [frame]


async def test_an_error_whose_text_cannot_be_made_or_is_very_long(deploy: Deploy) -> None:
    """Its cause for X-Ray goes along in a header of nearly 1 MiB; a longer one is left out."""
    app = """
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")
    def handler(event, context):
        raise ValueError("v" * event) if event else Mute()
    """
    function = await deploy(app)
    mute = (await function.invoke(0)).json()
    assert mute["errorType"] == "Mute"
    for size in (MIB - 1000, 2 * MIB):
        assert (await function.invoke(size)).json()["errorMessage"] == "v" * size


@pytest.mark.catalogue("RT-104")
async def test_an_error_over_the_limit_fails_the_invoke_and_the_next_one_works(deploy: Deploy) -> None:
    function = await deploy("def handler(event, context):\n    raise ValueError('v' * event)\n")
    large = await function.invoke(PAYLOAD_LIMIT)
    assert large.function_error == "Unhandled"
    assert large.json()["errorType"] == "Runtime.Unknown"  # that of the header, and this client sends none, as AWS's
    assert len(large.payload) < 1000
    assert (await function.invoke(1)).json()["errorMessage"] == "v"


# ── errors of Init ──


@pytest.mark.catalogue("RT-102", "RT-103", "LC-013", "TL-064", "TL-101", "IN-027")
@pytest.mark.parametrize(
    ("app", "handler", "error_type", "message", "trace"),
    [
        ("import nowhere\n", "app.handler", "Runtime.ImportModuleError", "Unable to import module 'app': {no} 'nowhere'", []),
        ("x = 1\n", "other.handler", "Runtime.ImportModuleError", "Unable to import module 'other': {no} 'other'", []),
        ("x = 1\n", "app.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'", []),
        (
            "x = 1\n",
            "handler",
            "Runtime.MalformedHandlerName",
            "Bad handler 'handler': not enough values to unpack (expected 2, got 1)",
            [],
        ),
        (
            "x = 1\n  y = 2\n",
            "app.handler",
            "Runtime.UserCodeSyntaxError",
            "Syntax error in module 'app': unexpected indent (app.py, line 2)",
            ['  File "{root}/app.py" Line 2\n    {indent}y = 2\n'],
        ),
        (
            "def load():\n    raise LookupError('of mine')\nload()\n",
            "app.handler",
            "LookupError",
            "of mine",
            [
                '  File "{root}/app.py", line 3, in <module>\n    load()\n',
                "  File \"{root}/app.py\", line 2, in load\n    raise LookupError('of mine')\n",
            ],
        ),
        pytest.param(
            "x = 1\n",
            "sub/other.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'sub/other': {no} 'sub'",
            [],
        ),
        pytest.param(
            "x = 1\n",
            "sys.handler",
            "Runtime.BuiltInModuleConflict",
            "Cannot use built-in module sys as a handler module",
            [],
        ),
    ],
)
async def test_what_cannot_be_loaded(
    deploy: Deploy, app: str, handler: str, error_type: str, message: str, trace: list[str]
) -> None:
    """Init fails ahead of the invoke, is tried again inside it, and that attempt's error is the answer."""
    function = await deploy(app, handler=handler)
    result = await function.invoke()
    root = code_of(function)
    assert result.json() == {
        "errorMessage": message.format(no="No module named"),
        "errorType": error_type,
        "requestId": "",
        "stackTrace": [frame.format(root=root, indent="  ") for frame in trace],
    }
    assert (result.function_error, result.error_phase) == ("Unhandled", "init")
    known = error_type if error_type.startswith("Runtime.") else "Runtime.Unknown"  # RT-093
    first, second = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
    assert first == ["Phase: init", "Status: error", f"Error Type: {known}"]
    assert second == ["Phase: invoke", "Status: error", f"Error Type: {known}"]
    assert [line.split("\n")[0] for line in printed(result)] == [f"[ERROR] {error_type}: {result.json()['errorMessage']}"] * 2


@pytest.mark.catalogue("RT-103", "LC-071", "TL-075")
async def test_after_a_failed_init_the_next_invoke_begins_anew(deploy: Deploy) -> None:
    function = await deploy("import late\nhandler = late.handler\n")
    assert (await function.invoke()).json()["errorType"] == "Runtime.ImportModuleError"
    put(function, "late.py", "def handler(event, context):\n    return 'here'\n")
    result = await function.invoke()
    assert result.check().json() == "here"
    assert result.report is not None
    assert result.report.init_duration_ms is None  # that Init was part of the invoke


@pytest.mark.catalogue("LC-012", "TL-101")
@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("import sys\nsys.exit(0)\n", "Runtime exited without providing a reason"),
        ("import sys\nsys.exit(4)\n", "Runtime exited with error: exit status 4"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "Runtime exited with error: signal: killed"),
    ],
)
async def test_an_exit_in_init(deploy: Deploy, app: str, message: str) -> None:
    result = await (await deploy(app)).invoke()
    assert result.json() == platform_error(result, "Runtime.ExitError", message)
    assert (result.error_type, result.error_phase) == ("Runtime.ExitError", "init")
    reports = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
    assert reports == [[f"Phase: {phase}", "Status: error", "Error Type: Runtime.ExitError"] for phase in ("init", "invoke")]


# ── the process ends, or is late ──


@pytest.mark.catalogue("LC-012", "LC-070", "LC-071", "LC-074", "TL-039")
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("sys.exit(0)", "Runtime exited without providing a reason"),
        ("sys.exit(7)", "Runtime exited with error: exit status 7"),
        ("sys.exit('a reason')", "Runtime exited with error: exit status 1"),
        ("os._exit(3)", "Runtime exited with error: exit status 3"),
        ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
        ("os.kill(os.getpid(), 15)", "Runtime exited with error: signal: terminated"),
    ],
)
async def test_an_exit_in_the_handler(deploy: Deploy, expression: str, message: str) -> None:
    function = await deploy(EVALUATE)
    before = (await function.invoke("open(tempfile.gettempdir() + '/kept', 'w').write('!'), os.getpid()")).check().json()
    ended = await function.invoke(f"print('last words'), {expression}")
    assert ended.json() == platform_error(ended, "Runtime.ExitError", message)
    assert (ended.function_error, ended.error_phase) == ("Unhandled", "invoke")
    assert printed(ended)[0] == "last words"
    assert ended.log.index("last words") < ended.log.index(f"END RequestId: {ended.request_id}")
    assert ended.report is not None
    assert (ended.report.status, ended.report.error_type) == ("error", "Runtime.ExitError")
    kept, pid = (await function.invoke("open(tempfile.gettempdir() + '/kept').read(), os.getpid()")).check().json()
    assert kept == "!"
    assert pid != before[1]
    assert len(function.environments) == 1


@pytest.mark.catalogue("LC-070", "LC-072", "LC-071", "TL-071")
async def test_a_timeout_ends_the_process_and_what_it_started(deploy: Deploy) -> None:
    """The suite looks for processes that were left: a child that lived on would fail this test."""
    function = await deploy(EVALUATE, timeout=1)
    before = (await function.invoke("os.getpid()")).check().json()
    late = await function.invoke("subprocess.run(['sleep', '1000'])")
    assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 1.00 seconds")
    assert late.report is not None
    assert (late.status, late.report.status, late.function_error) == ("timeout", "timeout", "Unhandled")
    assert (await function.invoke("os.getpid()")).check().json() != before


async def test_a_handler_may_take_stdout_away(deploy: Deploy) -> None:
    function = await deploy("import sys\ndef handler(event, context):\n    sys.stdout = sys.stderr = None\n    return event\n")
    assert [(await function.invoke(event)).check().json() for event in (1, 2)] == [1, 2]


# ── logs ──


@pytest.mark.catalogue("TL-052")
async def test_stdout_stderr_and_children_are_logged_in_order(deploy: Deploy) -> None:
    app = """
    import os, subprocess, sys
    def handler(event, context):
        for number in range(50):
            print(f"out {number}")
            print(f"err {number}", file=sys.stderr)
            os.write(1 + number % 2, b"raw %d\\n" % number)
        subprocess.run(["sh", "-c", "echo child; echo child err >&2"])
        print("two\\nlines\\n")
        os.write(1, b"\\xff\\n")
    """
    result = await (await deploy(app)).invoke()
    expected = [line for n in range(50) for line in (f"out {n}", f"err {n}", f"raw {n}")]
    expected += ["child", "child err", "two", "lines", "", "\N{REPLACEMENT CHARACTER}"]
    assert printed(result) == expected
    start, end = f"START RequestId: {result.request_id} Version: $LATEST", f"END RequestId: {result.request_id}"
    assert result.log[1:-1] == [start, *expected, end]
    assert {record.request_id for record in result.records if record.type == "function"} == {result.request_id}


async def test_print_and_logging_are_told_in_order(deploy: Deploy) -> None:
    app = """
    import logging
    def handler(event, context):
        for number in range(200):
            print(f"print {number}")
            logging.warning("logged %d", number)
    """
    result = await (await deploy(app)).invoke()
    words = [line.split("\t")[-1] for line in printed(result)]
    assert words == [word for n in range(200) for word in (f"print {n}", f"logged {n}")]


async def test_a_line_without_its_end_belongs_to_the_invoke_that_wrote_it(deploy: Deploy) -> None:
    function = await deploy("def handler(event, context):\n    print('of', event, end='')\n")
    assert [printed(await function.invoke(event)) for event in (1, 2)] == [["of 1"], ["of 2"]]


async def test_a_line_without_its_end_is_not_lost_when_the_process_ends(deploy: Deploy) -> None:
    result = await (await deploy(EVALUATE)).invoke("print('almost', end=''), os._exit(1)")
    assert printed(result)[0] == "almost"


@pytest.mark.catalogue("TL-055", "EN-026")
async def test_a_record_of_logging_stays_one_record(deploy: Deploy) -> None:
    app = """
    import logging
    logging.getLogger().setLevel("INFO")
    logging.warning("in init")
    def handler(event, context):
        logging.getLogger("mine").info("one %s\\nrecord", "long")
        logging.debug("left out")
    """
    result = await (await deploy(app)).invoke()
    init, record = printed(result)
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"\[WARNING\]\t{time}\t\tin init", init)
    assert re.fullmatch(rf"\[INFO\]\t{time}\t{result.request_id}\tone long\nrecord", record)


@pytest.mark.catalogue("TL-055")
async def test_context_log_writes_one_record(deploy: Deploy) -> None:
    result = await (await deploy(EVALUATE)).invoke("context.log('one\\nrecord')")
    assert printed(result) == ["one\nrecord"]


async def test_a_very_long_record_shows_no_frame_head(deploy: Deploy) -> None:
    """AWS cuts records at 256 KiB; whatever is done here, the text is what was logged and nothing else."""
    result = await (await deploy(EVALUATE)).invoke("logging.warning('z' * 1_500_000)")
    assert re.fullmatch(r"\[WARNING\]\t\S+\t\S+\tz{1500000}", "".join(printed(result)))


@pytest.mark.catalogue("EN-011", "TL-054")
async def test_json_records(deploy: Deploy) -> None:
    app = """
    import logging
    def handler(event, context):
        logging.getLogger("mine").info("said %s\\ntwice", "ü", extra={"order": 7, "thing": {1}})
        logging.debug("left out: INFO is the default")
    """
    function = await deploy(app, log_format="JSON")
    result = await function.invoke(tenant_id="blue")
    [line] = printed(result)
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("timestamp"))
    assert told == {
        "level": "INFO",
        "message": "said ü\ntwice",
        "logger": "mine",
        "requestId": result.request_id,
        "tenantId": "blue",
        "order": 7,
        "thing": "{1}",
    }


@pytest.mark.catalogue("EN-011")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("TRACE", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("WARN", ["WARNING", "ERROR", "CRITICAL"]),
        ("ERROR", ["ERROR", "CRITICAL"]),
        ("FATAL", ["CRITICAL"]),
    ],
)
async def test_levels_filter_json_records_and_nothing_else(deploy: Deploy, level: str, expected: list[str]) -> None:
    app = """
    import logging, os
    def handler(event, context):
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logging, level)("said")
        print("printed")
        return os.environ["AWS_LAMBDA_LOG_FORMAT"], os.environ["AWS_LAMBDA_LOG_LEVEL"]
    """
    function = await deploy(app, log_format="JSON", log_level=level)
    result = await function.invoke()
    assert result.check().json() == ["JSON", level]
    lines = printed(result)
    lines.remove("printed")
    assert [json.loads(line)["level"] for line in lines] == expected


@pytest.mark.catalogue("TL-054", "EN-011")
async def test_an_error_in_json(deploy: Deploy) -> None:
    app = "def handler(event, context):\n    raise LookupError('no\\nthing')\n"
    result = await (await deploy(app, log_format="JSON")).invoke()
    [line] = printed(result)
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("timestamp"))
    assert told == {"level": "ERROR", **result.json()}


LOG_EXCEPTION = """
import logging
def handler(event, context):
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("mine").exception("it failed")
"""


@pytest.mark.catalogue("TL-054")
async def test_logger_exception_in_json(deploy: Deploy) -> None:
    function = await deploy(LOG_EXCEPTION, log_format="JSON")
    result = await function.invoke()
    [line] = printed(result)
    told = json.loads(line)
    assert isinstance(told.pop("stackTrace"), list)  # see the next test
    del told["timestamp"]
    assert told == {
        "level": "ERROR",
        "message": "it failed",
        "logger": "mine",
        "errorType": "ZeroDivisionError",
        "errorMessage": "division by zero",
        "location": f"{code_of(function)}/app.py:handler:7",
        "requestId": result.request_id,
    }


async def test_the_stack_trace_in_json_has_one_string_per_frame(deploy: Deploy) -> None:
    function = await deploy(LOG_EXCEPTION, log_format="JSON")
    [line] = printed(await function.invoke())
    [frame] = json.loads(line)["stackTrace"]
    assert frame.startswith(f'  File "{code_of(function)}/app.py", line 5, in handler\n    1 / 0\n')


async def test_an_empty_message_in_json_is_still_there(deploy: Deploy) -> None:
    [line] = printed(await (await deploy(EVALUATE, log_format="JSON")).invoke("logging.info('')"))
    assert json.loads(line)["message"] == ""


async def test_a_dict_is_an_object_in_json(deploy: Deploy) -> None:
    [line] = printed(await (await deploy(EVALUATE, log_format="JSON")).invoke("logging.info({'order': 7})"))
    assert json.loads(line)["message"] == {"order": 7}


LOOK_PY = """
import json, os

found = []
for fd in range(3, 256):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
print(json.dumps([found, "_LAMBDA_TELEMETRY_LOG_FD" in os.environ]))
"""


@pytest.mark.catalogue("EN-026", "TL-055")
async def test_the_log_descriptor_is_hidden_from_the_handler_and_from_children(deploy: Deploy) -> None:
    app = """
    import json, logging, os, subprocess, sys
    at_import = os.environ.get("_LAMBDA_TELEMETRY_LOG_FD")
    def handler(event, context):
        logging.warning("one\\nrecord")
        command = [sys.executable, "-S", "look.py"]
        child = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, check=True)
        return [at_import, os.environ.get("_LAMBDA_TELEMETRY_LOG_FD"), json.loads(child.stdout)]
    """
    result = await (await deploy(app, {"look.py": LOOK_PY})).invoke()
    assert result.check().json() == [None, None, [[], False]]
    assert printed(result)[0].endswith("\tone\nrecord")  # so there is such a descriptor


# ── the wrapper, layers, what can be imported ──


@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_gets_the_interpreter_and_its_arguments(deploy: Deploy, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\necho "wrapped $1" >&2\nexport FROM_WRAPPER="$#"\nexec "$@"\n')
    wrapper.chmod(0o755)
    function = await deploy(EVALUATE, environment={"AWS_LAMBDA_EXEC_WRAPPER": str(wrapper)})
    result = await function.invoke("[os.environ['FROM_WRAPPER'], sys.executable]")
    count, executable = result.check().json()
    assert int(count) >= 2
    assert printed(result) == [f"wrapped {executable}"]


@pytest.mark.catalogue("EN-022", "LC-012")
async def test_a_wrapper_that_is_not_there(deploy: Deploy, tmp_path: Path) -> None:
    function = await deploy(EVALUATE, environment={"AWS_LAMBDA_EXEC_WRAPPER": str(tmp_path / "missing")})
    result = await function.invoke("1")
    assert result.json() == platform_error(result, "Runtime.ExitError", "Runtime exited with error: exit status 127")
    assert "AWS_LAMBDA_EXEC_WRAPPER" in "\n".join(r.record for r in result.records if r.type == "sandbox.diagnosis")


@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_in_a_layer_is_named_below_opt(deploy: Deploy, tmp_path: Path) -> None:
    """Every published wrapper (OpenTelemetry, Datadog, the Insights of AWS) is named so."""
    wrapper = tmp_path / "layer" / "wrapper"
    wrapper.parent.mkdir()
    wrapper.write_text('#!/bin/sh\nexport FROM_WRAPPER=yes\nexec "$@"\n')
    wrapper.chmod(0o755)
    settings: dict[str, Any] = {"environment": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrapper"}, "layers": (str(wrapper.parent),)}
    function = await deploy(EVALUATE, **settings)
    assert (await function.invoke("os.environ['FROM_WRAPPER']")).check().json() == "yes"


@pytest.mark.catalogue("EN-016", "EN-053", "EN-055")
async def test_layers(deploy: Deploy, tmp_path: Path) -> None:
    """Both folders for Python can be imported from, the last layer wins, and the function's own files win over them."""
    site = f"python/lib/{PYTHON}/site-packages"
    for layer, files in {
        "low": {"python/only_low.py": "low", "python/both.py": "low", "python/mine.py": "low", f"{site}/deep.py": "low"},
        "high": {"python/both.py": "high", f"{site}/package/__init__.py": "high"},
    }.items():
        for name, text in files.items():
            file = tmp_path / layer / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"where = {text!r}\n")
    app = """
    import both, deep, mine, only_low, package
    def handler(event, context):
        return [both.where, deep.where, mine.where, only_low.where, package.where]
    """
    layers = (str(tmp_path / "low"), str(tmp_path / "high"))
    function = await deploy(app, {"mine.py": "where = 'function'\n"}, layers=layers)
    assert (await function.invoke()).check().json() == ["high", "low", "function", "low", "high"]


@pytest.mark.catalogue("EN-055", "EN-014")
async def test_programs_of_a_layer_are_on_the_path(deploy: Deploy, tmp_path: Path) -> None:
    program = tmp_path / "layer" / "bin" / "say-hello"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello from a layer\n")
    program.chmod(0o755)
    function = await deploy(EVALUATE, layers=(str(tmp_path / "layer"),))
    result = await function.invoke("subprocess.check_output(['say-hello'], text=True)")
    assert result.check().json() == "hello from a layer\n"


async def test_what_the_host_has_installed_cannot_be_imported(deploy: Deploy) -> None:
    import click  # a package that is surely here

    assert click.__file__
    app = """
    import importlib.util, sys
    def handler(event, context):
        return [[name for name in event if importlib.util.find_spec(name)], [p for p in sys.path if "site-packages" in p]]
    """
    function = await deploy(app)
    found, paths = (await function.invoke(["pytest", "click", "sandbox", "pip", "setuptools", "json"])).check().json()
    assert found == ["json"]
    assert [path.rpartition("/opt/")[2] for path in paths] == [f"python/lib/{PYTHON}/site-packages"]


async def test_nothing_is_left_in_the_code_folder(host: Host, folder: MakeFolder) -> None:
    app = "import helper\nfrom package import part\ndef handler(event, context):\n    return part.x\n"
    code = folder(**{"app.py": app, "helper.py": "", "package/__init__.py": "", "package/part.py": "x = 1\n"})
    before = sorted(code.rglob("*"))
    function = await host.deploy(code, runtime="python", handler="app.handler", timeout=20)
    assert (await function.invoke()).check().json() == 1
    assert sorted(code.rglob("*")) == before


# ── phases ──


async def test_function_init_is_a_phase_of_its_own(deploy: Deploy) -> None:
    function = await deploy("import time\ntime.sleep(0.1)\ndef handler(event, context):\n    return 1\n")
    cold, warm = await function.invoke(), await function.invoke()
    assert [phase.name for phase in cold.phases] == ["init", "runtime-init", "function-init", "invoke"]
    init, runtime, own, _ = cold.phases
    assert init.duration_ms is not None
    assert runtime.duration_ms is not None
    assert own.duration_ms is not None
    assert init.duration_ms >= own.duration_ms > 50  # it slept there, and nowhere else
    assert [phase.name for phase in warm.phases] == ["invoke"]


async def test_of_a_custom_runtime_function_init_is_unknown(host: Host, folder: MakeFolder) -> None:
    function = await host.deploy(folder(bootstrap=CUSTOM, runtime_py=CUSTOM_PY), timeout=20)
    phases = {phase.name: phase.duration_ms for phase in (await function.invoke()).phases}
    assert phases["init"] is not None
    assert (phases["function-init"], phases["runtime-init"]) == (None, None)


# ── variables and limits ──

RESERVED = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_METADATA_TOKEN",
]
BY_CHANCE = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}  # of the shell, of Python, of macOS
OURS = {"TMPDIR"}
EVERYWHERE = {
    "_HANDLER": "app.handler",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_LAMBDA_FUNCTION_NAME": "function",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/function",
    "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
    "AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1:2000",
    "_AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1",
    "_AWS_XRAY_DAEMON_PORT": "2000",
    "AWS_ACCESS_KEY_ID": "sandbox",
    "AWS_SECRET_ACCESS_KEY": "sandbox",
    "AWS_SESSION_TOKEN": "sandbox",
    "TZ": ":UTC",
    "LANG": "en_US.UTF-8",
}
PER_ENVIRONMENT = {"AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR"}
PATHS = {"PATH", "LD_LIBRARY_PATH"}


@pytest.fixture
def _a_host_with_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_OF_THE_HOST", "AWS_PROFILE", "AWS_CONFIG_FILE", "HTTP_PROXY", "PYTHONSTARTUP", "LC_ALL", "TERM"):
        monkeypatch.setenv(name, "the host's")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the host's")
    monkeypatch.setenv("AWS_REGION", "the host's")


@pytest.mark.catalogue(
    *("EN-003", "EN-005", "EN-006", "EN-007", "EN-009", "EN-011", "EN-012", "EN-013", "EN-014", "EN-015", "EN-016"),
    *("EN-017", "EN-023", "RT-001"),
)
@pytest.mark.usefixtures("_a_host_with_secrets")
async def test_the_variables_of_the_managed_runtime_and_no_others(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    told = (await function.invoke("dict(os.environ)", trace_id=TRACE)).check().json()
    assert {name: told.get(name) for name in EVERYWHERE} == EVERYWHERE
    assert (told["AWS_EXECUTION_ENV"], told["_X_AMZN_TRACE_ID"]) == (f"AWS_Lambda_{PYTHON}", TRACE)
    more = {"AWS_EXECUTION_ENV", "_X_AMZN_TRACE_ID", "PYTHONPATH"}
    assert set(told) - BY_CHANCE == set(EVERYWHERE) | PER_ENVIRONMENT | PATHS | OURS | more
    task, runtime, opt = told["LAMBDA_TASK_ROOT"], told["LAMBDA_RUNTIME_DIR"], told["PATH"].split(":")[-1].removesuffix("/bin")
    assert task == code_of(function)
    assert told["PYTHONPATH"] == runtime
    assert told["PATH"].split(":")[1:-1] == ["/usr/local/bin", "/usr/bin/", "/bin"]
    system = ["/lib64", "/usr/lib64"]
    assert told["LD_LIBRARY_PATH"].split(":")[1:] == [*system, runtime, f"{runtime}/lib", task, f"{task}/lib", f"{opt}/lib"]
    assert re.fullmatch(r"[a-z0-9.]+:\d+", told["AWS_LAMBDA_RUNTIME_API"])


@pytest.mark.catalogue("EN-004", "EN-005", "EN-012", "EN-014", "EN-022", "EN-026")
@pytest.mark.usefixtures("_a_host_with_secrets")
@pytest.mark.parametrize("runtime", [None, "provided.al2023"])
async def test_the_variables_of_a_custom_runtime_and_no_others(host: Host, folder: MakeFolder, runtime: str | None) -> None:
    """No AWS_EXECUTION_ENV, no trace id, no log descriptor; and a wrapper is just a variable."""
    code = folder(bootstrap=CUSTOM, runtime_py=CUSTOM_PY)
    environment = {"AWS_LAMBDA_EXEC_WRAPPER": "/nowhere"}
    function = await host.deploy(code, runtime=runtime, handler="app.handler", environment=environment, timeout=20)
    told = (await function.invoke()).check().json()
    expected = EVERYWHERE | environment
    assert {name: told.get(name) for name in expected} == expected
    assert set(told) - BY_CHANCE == set(expected) | PER_ENVIRONMENT | PATHS | OURS
    assert told["PATH"].startswith("/usr/local/bin:/usr/bin/:/bin:")
    assert told["LAMBDA_TASK_ROOT"] == code_of(function)


@pytest.mark.catalogue("EN-002", "EN-019", "EN-016")
async def test_the_users_value_wins_for_what_is_not_reserved_and_is_taken_literally(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("x = 'found'\n")
    mine = {
        "LANG": "C",
        "PATH": "/mine:/bin",
        "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib:/mine",
        "NODE_PATH": "/mine",
        "NODE_OPTIONS": "--mine",
        "PYTHONPATH": str(tmp_path),
        "GEM_PATH": "/mine",
        "AWS_XRAY_CONTEXT_MISSING": "RUNTIME_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:1",
        "AWS_LAMBDA_DOTNET_PREJIT": "Always",
        "TZ": "Europe/Berlin",
        "PLAIN": "$HOME ${PATH} `x` \\ 'ü' \"=\n",
        "EMPTY": "",
    }
    function = await deploy(EVALUATE, environment=mine)
    found, told = (await function.invoke("[__import__('elsewhere').x, dict(os.environ)]")).check().json()
    assert found == "found"
    assert {name: told.get(name) for name in mine} == mine


@pytest.mark.catalogue("EN-002")
async def test_the_runtime_needs_no_variable_that_the_user_may_set(deploy: Deploy) -> None:
    function = await deploy(EVALUATE, environment={"PYTHONPATH": "/mine", "PYTHONSAFEPATH": "1"})
    assert (await function.invoke("1")).check().json() == 1


@pytest.mark.catalogue("EN-001")
@pytest.mark.parametrize("name", RESERVED)
async def test_a_reserved_name_is_refused(deploy: Deploy, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: reserved"):
        await deploy(PID, environment={name: "mine"})


@pytest.mark.catalogue("EN-018", "EN-019", "EN-020")
@pytest.mark.parametrize(
    "environment",
    [
        {"A": "one letter"},
        {"_UNDERSCORE": "x"},
        {"1A": "x"},
        {"A-B": "x"},
        {"": "x"},
        {"ÄB": "x"},
        {"OK": "\0"},
        {"BIG": "x" * (VARIABLES_LIMIT - 2)},
        {"WIDE": "ü" * 2047},
    ],
)
async def test_variables_that_lambda_refuses(deploy: Deploy, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="environment variable"):
        await deploy(PID, environment=environment)


@pytest.mark.catalogue("EN-020")
async def test_4_kb_of_variables_are_possible(deploy: Deploy) -> None:
    value = "x" * (VARIABLES_LIMIT - 3)
    function = await deploy(EVALUATE, environment={"BIG": value})
    assert (await function.invoke("os.environ['BIG']")).check().json() == value


@pytest.mark.catalogue("EN-074")
async def test_1024_descriptors(deploy: Deploy) -> None:
    app = """
    import os, resource
    def handler(event, context):
        opened = []
        try:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            return [max(opened), error.strerror, resource.getrlimit(resource.RLIMIT_NOFILE)]
        finally:
            for fd in opened:
                os.close(fd)
    """
    told = (await (await deploy(app)).invoke()).check().json()
    assert told == [1023, os.strerror(24), [1024, 1024]]


async def test_credentials_are_those_of_the_host_object_and_never_the_machines(
    folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the machine's")
    given = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "mine, too"}
    async with Host(credentials=given) as host:
        function = await host.deploy(folder(app_py=EVALUATE), runtime="python", handler="app.handler", timeout=20)
        told = (await function.invoke("{k: v for k, v in os.environ.items() if k.startswith('AWS_')}")).check().json()
    assert told | given == told
    assert "AWS_SESSION_TOKEN" not in told
