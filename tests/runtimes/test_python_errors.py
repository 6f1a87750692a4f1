"""The managed Python runtime: errors of handlers, of Init, and processes that end."""

from __future__ import annotations

import pytest

from sandbox import Host
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from tests.conftest import MakeFolder
from tests.runtimes.conftest import (
    EVALUATE,
    Deploy,
    code_of,
    in_both_tiers,
    in_tier_process,
    platform_error,
    printed,
    put,
)

pytestmark = in_tier_process

# ── errors of the handler ──


@in_both_tiers
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
    result = await function.invoke()
    frame = f'  File "{code_of(function)}/importlib_demo/app.py", line 2, in handler\n    return 1 / 0\n'
    assert result.json()["stackTrace"] == [frame]


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
    told = result.json()
    frames = told.pop("stackTrace")
    assert told == {"errorMessage": message.format(no="No module named"), "errorType": error_type, "requestId": ""}
    assert frames[len(frames) - len(trace) :] == [frame.format(root=root, indent="  ") for frame in trace]
    assert all("importlib" in frame for frame in frames[: len(frames) - len(trace)])  # as AWS's client shows them
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


@in_both_tiers
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


@in_both_tiers
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


@pytest.mark.parametrize("break_it", ["sys.stdout.close()", "sys.stdout = None", "os.close(1)"])
async def test_errors_are_told_and_logged_without_a_stdout(deploy: Deploy, break_it: str) -> None:
    app = f"""
    import os, sys
    def handler(event, context):
        {break_it} if event == "break" else None
        raise ValueError(os.getpid())
    """
    function = await deploy(app)
    first, second, third = [await function.invoke(event) for event in ("break", "", "")]
    for result in (first, second, third):
        assert result.json()["errorType"] == "ValueError"
        assert printed(result)[0].startswith("[ERROR] ValueError")
    assert first.json()["errorMessage"] == third.json()["errorMessage"]  # one process
