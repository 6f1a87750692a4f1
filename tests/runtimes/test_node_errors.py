"""The managed Node.js runtime: errors of handlers, of Init, and processes that end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from sandbox.core.states import Phase
from tests.conftest import MakeFolder
from tests.runtimes.conftest import code_of, in_both_tiers, in_tier_process, platform_error, printed, put
from tests.runtimes.node import EVALUATE, RUNTIME, Deploy, deploying, error_of, hosting, logged

pytestmark = in_tier_process


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting() as host:
        yield host


@pytest.fixture
def deploy(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


# ── errors of the handler ──

THROWS = """
const { fail } = require("./helper.js");
class Boom extends TypeError {
  constructor(message) {
    super(message);
    this.name = "Boom";
    this.code = "E_BOOM";
    this.extra = { nested: new RangeError("inside") };
  }
}
exports.handler = async (event) => {
  if (event === "pid") return process.pid;
  fail(Boom);
};
"""
HELPER = 'exports.fail = (kind) => {\n  throw new kind("ö: no\\nsecond line");\n};\n'


@in_both_tiers
@pytest.mark.catalogue("RT-090", "RT-094", "RT-095", "RT-096", "TL-072", "IN-021", "IN-027")
async def test_an_error_is_told_as_aws_tells_it(deploy: Deploy) -> None:
    function = await deploy(THROWS, {"helper.js": HELPER})
    pid = (await function.invoke("pid")).check().json()
    failed = await function.invoke()
    root = code_of(function)
    assert error_of(failed.json()) == ("Boom", "ö: no\nsecond line")
    frames = [f"    at exports.fail ({root}/helper.js:2:9)", f"    at exports.handler ({root}/app.js:13:3)"]
    assert failed.json()["trace"][:4] == ["Boom: ö: no", "second line", *frames]
    assert (failed.function_error, failed.status, failed.error_phase) == ("Unhandled", "error", None)
    assert failed.report is not None
    assert failed.report.status == "success"
    [line] = printed(failed)
    told = logged(line, failed.request_id, "ERROR", "Invoke Error")
    assert list(told) == ["errorType", "errorMessage", "code", "name", "extra", "stack"]
    nested = told.pop("extra")["nested"]
    assert (nested["errorType"], nested["errorMessage"]) == ("RangeError", "inside")
    assert told == {
        "errorType": "Boom",
        "errorMessage": "ö: no\nsecond line",
        "code": "E_BOOM",
        "name": "Boom",
        "stack": failed.json()["trace"],
    }
    assert (await function.invoke("pid")).check().json() == pid


async def test_a_trace_has_no_frame_that_is_not_the_functions_or_nodes_own(deploy: Deploy) -> None:
    """As with AWS's client, once its own frame is taken out."""
    function = await deploy(THROWS, {"helper.js": HELPER})
    trace = (await function.invoke()).json()["trace"]
    assert [line for line in trace[4:] if "(node:internal/" not in line] == []


async def test_no_frame_of_this_runtime_is_told(deploy: Deploy) -> None:
    function = await deploy(THROWS, {"helper.js": HELPER})
    failed = await function.invoke()
    assert "helper.js" in failed.payload.decode()
    assert str(RUNTIME) not in failed.payload.decode() + "".join(printed(failed))


@pytest.mark.catalogue("RT-098")
async def test_the_cause_for_x_ray_is_kept(deploy: Deploy) -> None:
    function = await deploy(THROWS, {"helper.js": HELPER})
    result = await function.invoke()
    root = code_of(function)
    assert result.error_cause is not None
    [exception] = result.error_cause["exceptions"]
    assert (exception["type"], exception["message"]) == ("Boom", "ö: no\nsecond line")
    assert exception["stack"][:2] == [
        {"path": f"{root}/helper.js", "line": 2, "label": "exports.fail"},
        {"path": f"{root}/app.js", "line": 13, "label": "exports.handler"},
    ]
    assert result.error_cause["working_directory"] == root
    assert result.error_cause["paths"][:2] == [f"{root}/helper.js", f"{root}/app.js"]


GONE = (
    "callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack"
)
THROWN = {
    "new Error()": ("Error", ""),
    "new (class Mine extends RangeError {})('of a class')": ("RangeError", "of a class"),
    "Object.assign(new Error('named'), {name: 'Named'})": ("Named", "named"),
    "new Error('outer', {cause: new TypeError('inner')})": ("Error", "outer"),
    "new AggregateError([new Error('a')], 'group')": ("AggregateError", "group"),
    "Object.assign(new Error('with code'), {code: 'ENOENT', errno: -2})": ("Error", "with code"),
    "vm.runInNewContext('new TypeError(\"of another realm\")')": ("TypeError", "of another realm"),
    "Object.assign(new Error('cyclic'), {self: globalThis})": ("Error", "cyclic"),
    "Object.assign(new Error('big'), {size: 10n})": ("Error", "big"),
    "Object.defineProperty(new Error('bad getter'), 'x', {enumerable: true, get() { throw 1; }})": ("Error", "bad getter"),
    "Object.assign(new Error('no stack'), {stack: undefined})": ("Error", "no stack"),
    "({name: 'Like', message: 'an error', stack: 'Like: an error'})": ("Like", "an error"),
    "'text'": ("string", "text"),
    "''": ("string", ""),
    "42": ("number", "42"),
    "10n": ("bigint", "10"),
    "true": ("boolean", "true"),
    "Symbol('q')": ("symbol", "Symbol(q)"),
    "undefined": ("string", "handled"),
    "null": ("string", "handled"),
    "({a: 1})": ("object", "[object Object]"),
    "[1, 2]": ("object", "1,2"),
    "(() => 1)": ("function", "() => 1"),
    "Object.create(null)": ("object", "[object Object]"),
    "({toString() { throw new Error('no text'); }})": ("object", "[object Object]"),
}


@pytest.mark.catalogue("RT-090", "RT-095")
async def test_whatever_is_thrown_is_told_and_logged(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    pid = (await function.invoke("process.pid")).check().json()
    found = {}
    for expression in THROWN:
        result = await function.invoke(f"Promise.reject({expression})")
        assert result.function_error == "Unhandled"
        found[expression] = error_of(result.json())
        [line] = printed(result)
        assert logged(line, result.request_id, "ERROR", "Invoke Error")["errorMessage"] == found[expression][1]
    assert found == THROWN
    assert (await function.invoke("process.pid")).check().json() == pid


@pytest.mark.parametrize(
    "expression",
    [
        "Object.defineProperty(new Error('x'), 'stack', {get() { throw new Error('inner'); }})",
        "Object.defineProperty(new Error('x'), 'message', {get() { throw new Error('inner'); }})",
        "new Proxy({}, {get() { throw new Error('trap'); }})",
        "new Error('a bell \\x07 and a DEL \\x7f')",
    ],
)
@pytest.mark.catalogue("RT-095")
async def test_an_error_that_is_hard_to_tell_is_told_somehow(deploy: Deploy, expression: str) -> None:
    function = await deploy(EVALUATE)
    pid = (await function.invoke("process.pid")).check().json()
    result = await function.invoke(f"Promise.reject({expression})")
    assert result.function_error == "Unhandled"
    error_of(result.json())
    assert (await function.invoke("process.pid")).check().json() == pid


@pytest.mark.parametrize(
    "expression",
    [
        "Object.create(null)",
        "Object.defineProperty(new Error('x'), 'message', {get() { throw new Error('inner'); }})",
        "Object.assign(new Error('cyclic'), {self: globalThis})",
    ],
)
async def test_an_error_that_is_hard_to_log_as_json_is_told_all_the_same(deploy: Deploy, expression: str) -> None:
    function = await deploy(EVALUATE, log_format="JSON")
    pid = (await function.invoke("process.pid")).check().json()
    error_of((await function.invoke(f"Promise.reject({expression})")).json())
    assert (await function.invoke("process.pid")).check().json() == pid


async def test_an_uncaught_exception_that_is_hard_to_log_ends_the_process_too(deploy: Deploy) -> None:
    app = """
    exports.handler = async () => {
      setTimeout(() => { throw Object.create(null); });
      await new Promise((done) => setTimeout(done, 100));
      return "survived";
    };
    """
    result = await (await deploy(app, log_format="JSON")).invoke()
    assert result.function_error == "Unhandled"


UNSERIALISABLE = ("Runtime.JSONStringifyError", "Unable to stringify response body")


@pytest.mark.catalogue("RT-090", "RT-095", "IN-021")
async def test_a_result_that_is_no_json(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    pid = (await function.invoke("process.pid")).check().json()
    for expression, error in {
        "10n": UNSERIALISABLE,
        "({deep: [10n]})": UNSERIALISABLE,
        "(() => { const a = []; a.push(a); return a; })()": UNSERIALISABLE,
        "({toJSON() { throw new RangeError('inner'); }})": UNSERIALISABLE,
        "({get x() { throw new RangeError('inner'); }})": UNSERIALISABLE,
        "() => 1": ("TypeError", "Wrong arguments"),
        "Symbol('s')": ("TypeError", "Wrong arguments"),
    }.items():
        result = await function.invoke(expression)
        assert (expression, error_of(result.json()), result.function_error) == (expression, error, "Unhandled")
    assert (await function.invoke("process.pid")).check().json() == pid


@pytest.mark.catalogue("RT-098")
async def test_a_very_long_error(deploy: Deploy) -> None:
    """Its cause for X-Ray goes along in a header of nearly 1 MiB; a longer one is left out. AWS's client posts nothing then."""
    function = await deploy("exports.handler = async (event) => { throw new RangeError('v'.repeat(event)); };")
    for size in (MIB - 1000, 2 * MIB):
        assert error_of((await function.invoke(size)).json()) == ("RangeError", "v" * size)


@pytest.mark.catalogue("RT-104")
async def test_an_error_over_the_limit_fails_the_invoke_and_the_next_one_works(deploy: Deploy) -> None:
    app = "exports.handler = async (event) => { if (event) throw new RangeError('v'.repeat(event)); return process.pid; };"
    function = await deploy(app, memory_mb=512)
    pid = (await function.invoke(0)).check().json()
    large = await function.invoke(PAYLOAD_LIMIT)
    assert large.function_error == "Unhandled"
    assert large.json()["errorType"] == "Runtime.Unknown"  # that of the header, and this client sends none, as AWS's
    assert len(large.payload) < 1000
    assert error_of((await function.invoke(1)).json()) == ("RangeError", "v")
    assert (await function.invoke(0)).check().json() == pid


# ── errors of Init ──

ABSOLUTE = "not a valid handler name. Use absolute paths when specifying root directories in handler names."


@pytest.mark.catalogue("RT-102", "RT-103", "LC-013", "TL-064", "TL-101", "IN-027")
@pytest.mark.parametrize(
    ("app", "handler", "error_type", "message", "trace"),
    [
        ("require('nowhere');", "app.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'nowhere'", None),
        ("require('./no.js');", "app.handler", "Runtime.ImportModuleError", "Error: Cannot find module './no.js'", None),
        ("", "other.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'other'", None),
        ("", "sub/other.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'other'", None),
        ("", "index.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'index'", None),
        ("", "lib/runtime.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'runtime'", None),
        ("", "/src/other.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'other'", None),
        (
            "let x = = 1;\n",
            "app.handler",
            "Runtime.UserCodeSyntaxError",
            "SyntaxError: Unexpected token '='",
            ["{root}/app.js:1", "let x = = 1;", "        ^", "", "SyntaxError: Unexpected token '='"],
        ),
        (
            "export const handler = 1;\n",
            "app.handler",
            "Runtime.UserCodeSyntaxError",
            "SyntaxError: Unexpected token 'export'",
            None,
        ),
        ("", "app.handler", "Runtime.HandlerNotFound", "app.handler is undefined or not exported", None),
        ("exports.a = {};", "app.a.b.c", "Runtime.HandlerNotFound", "app.a.b.c is undefined or not exported", None),
        ("exports.handler = 0;", "app.handler", "Runtime.HandlerNotFound", "app.handler is undefined or not exported", None),
        ("exports.handler = {};", "app.handler", "Runtime.HandlerNotFound", "app.handler is not a function", None),
        ("", "app", "Runtime.MalformedHandlerName", "Bad handler", None),
        (
            "",
            "../app.handler",
            "Runtime.MalformedHandlerName",
            f"'../app.handler' is {ABSOLUTE}",
            None,
        ),
        (
            "exports.handler = () => {}; exports.handler[Symbol.for('aws.lambda.runtime.handler.streaming')] = 'request';",
            "app.handler",
            "Runtime.MalformedStreamingHandler",
            "Only response streaming is supported.",
            None,
        ),
        (
            "function load() {\n  throw new RangeError('of mine');\n}\nload();\n",
            "app.handler",
            "RangeError",
            "of mine",
            ["RangeError: of mine", "    at load ({root}/app.js:2:9)", "    at Object.<anonymous> ({root}/app.js:4:1)"],
        ),
        ("throw 'text';", "app.handler", "string", "text", []),
        ("throw null;", "app.handler", "object", "null", []),
        ("process.nextTick(() => { throw new RangeError('at once'); });", "app.handler", "RangeError", "at once", None),
    ],
)
async def test_what_cannot_be_loaded(
    deploy: Deploy, app: str, handler: str, error_type: str, message: str, trace: list[str] | None
) -> None:
    """Init fails ahead of the invoke, is tried again inside it, and that attempt's error is the answer."""
    if "nextTick" in app:
        app += "exports.handler = async () => 1;"
    function = await deploy(app, handler=handler)
    result = await function.invoke()
    root = code_of(function)
    told_type, told_message = error_of(result.json())
    assert (told_type, told_message.partition("\nRequire stack:")[0]) == (error_type, message)
    if trace is not None:
        expected = [line.format(root=root) for line in trace]
        assert result.json()["trace"][: len(expected) or None] == expected
    assert (result.function_error, result.error_phase) == ("Unhandled", "init")
    known = error_type if error_type.startswith("Runtime.") else "Runtime.Unknown"  # RT-093
    first, second = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
    assert first == ["Phase: init", "Status: error", f"Error Type: {known}"]
    assert second == ["Phase: invoke", "Status: error", f"Error Type: {known}"]
    errors = [line for line in printed(result) if "\tUncaught Exception \t" in line]
    assert [logged(line, "undefined", "ERROR", "Uncaught Exception")["errorMessage"] for line in errors] == [told_message] * 2


@pytest.mark.parametrize(
    ("app", "error"),
    [
        ("import 'nowhere';", ("Error", "Cannot find package 'nowhere' imported from {root}/app.mjs")),
        ("import './no.mjs';", ("Error", "Cannot find module '{root}/no.mjs' imported from {root}/app.mjs")),
        ("let x = = 1;", ("Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected token '='")),
        ("await Promise.reject(new RangeError('late'));", ("RangeError", "late")),
        ("export default { handler() {} };", ("Runtime.HandlerNotFound", "app.handler is undefined or not exported")),
        ("require('fs');", ("ReferenceError", "require is not defined in ES module scope, you can use import instead")),
    ],
)
async def test_a_module_that_cannot_be_loaded(deploy: Deploy, app: str, error: tuple[str, str]) -> None:
    function = await deploy(app, file="app.mjs")
    result = await function.invoke()
    error_type, message = error_of(result.json())
    assert (error_type, message.replace(code_of(function), "{root}")) == error
    assert result.error_phase == "init"


async def test_an_es_module_cannot_be_required(deploy: Deploy) -> None:
    """Lambda has switched off what newer versions of Node.js can do."""
    function = await deploy("require('./other.mjs');", {"other.mjs": "export const x = 1;"})
    error_type, message = error_of((await function.invoke()).json())
    assert error_type == "Error"
    assert message.startswith(
        f"require() of ES Module {code_of(function)}/other.mjs from {code_of(function)}/app.js not supported"
    )


@pytest.mark.catalogue("LC-013")
async def test_a_rejection_in_init_that_nobody_handles(deploy: Deploy) -> None:
    """A connection that is opened at the top of a module, and fails: nothing is more usual."""
    app = """
    const connected = (async () => { throw new RangeError("no database"); })();
    exports.handler = async () => connected;
    """
    result = await (await deploy(app)).invoke()
    assert error_of(result.json()) == ("Runtime.UnhandledPromiseRejection", "RangeError: no database")
    assert result.error_phase == "init"


@pytest.mark.catalogue("RT-103", "LC-071", "TL-075")
async def test_after_a_failed_init_the_next_invoke_begins_anew(deploy: Deploy) -> None:
    function = await deploy("exports.handler = require('./late.js').handler;")
    assert error_of((await function.invoke()).json())[0] == "Runtime.ImportModuleError"
    put(function, "late.js", "exports.handler = async () => 'here';\n")
    result = await function.invoke()
    assert result.check().json() == "here"
    assert result.report is not None
    assert result.report.init_duration_ms is None  # that Init was part of the invoke


@pytest.mark.catalogue("LC-012", "TL-101")
@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("process.exit(0);", "Runtime exited without providing a reason"),
        ("process.exit(4);", "Runtime exited with error: exit status 4"),
        ("process.kill(process.pid, 'SIGKILL'); for (;;);", "Runtime exited with error: signal: killed"),
        ("process.abort();", "Runtime exited with error: signal: aborted"),
    ],
)
async def test_an_exit_in_init(deploy: Deploy, app: str, message: str) -> None:
    result = await (await deploy(app)).invoke()
    assert result.json()["errorType"] == "Runtime.ExitError"
    assert result.json()["errorMessage"].partition(" (core dumped)")[0] == f"RequestId: {result.request_id} Error: {message}"
    assert (result.error_type, result.error_phase) == ("Runtime.ExitError", "init")
    reports = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
    assert reports == [[f"Phase: {phase}", "Status: error", "Error Type: Runtime.ExitError"] for phase in ("init", "invoke")]


# ── the process ends, or is late ──


@pytest.mark.catalogue("LC-012", "LC-070", "LC-071", "LC-074", "TL-039")
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("process.exit(0)", "Runtime exited without providing a reason"),
        ("process.exit(3)", "Runtime exited with error: exit status 3"),
        ("process.reallyExit(7)", "Runtime exited with error: exit status 7"),
        ("process.kill(process.pid, 'SIGKILL') && pause(60_000)", "Runtime exited with error: signal: killed"),
        ("process.kill(process.pid, 'SIGTERM') && pause(60_000)", "Runtime exited with error: signal: terminated"),
    ],
)
async def test_an_exit_in_the_handler(deploy: Deploy, expression: str, message: str) -> None:
    function = await deploy(EVALUATE)
    kept = "path.join(os.tmpdir(), 'kept')"
    before = (await function.invoke(f"fs.writeFileSync({kept}, '!'), process.pid")).check().json()
    ended = await function.invoke(f"console.log('last words'), {expression}")
    assert ended.json() == platform_error(ended, "Runtime.ExitError", message)
    assert (ended.function_error, ended.error_phase) == ("Unhandled", "invoke")
    assert printed(ended)[0].endswith("\tINFO\tlast words")
    assert ended.report is not None
    assert (ended.report.status, ended.report.error_type) == ("error", "Runtime.ExitError")
    text, pid = (await function.invoke(f"[fs.readFileSync({kept}, 'utf8'), process.pid]")).check().json()
    assert text == "!"
    assert pid != before
    assert len(function.environments) == 1


@in_both_tiers
@pytest.mark.catalogue("RT-090", "LC-074", "LC-081")
@pytest.mark.parametrize(
    ("expression", "words", "error", "status"),
    [
        ("setTimeout(() => { throw new RangeError('oh'); })", "Uncaught Exception", ("RangeError", "oh"), 129),
        ("setTimeout(() => { throw 'oh'; })", "Uncaught Exception", ("string", "oh"), 129),
        (
            "Promise.reject(new RangeError('oh'))",
            "Unhandled Promise Rejection",
            ("Runtime.UnhandledPromiseRejection", "RangeError: oh"),
            128,
        ),
        ("Promise.reject(7)", "Unhandled Promise Rejection", ("Runtime.UnhandledPromiseRejection", "7"), 128),
    ],
)
async def test_what_nobody_handles_is_told_and_ends_the_process(
    deploy: Deploy, expression: str, words: str, error: tuple[str, str], status: int
) -> None:
    """The caller has the error that was posted; the REPORT has the exit; the next invoke begins anew."""
    function = await deploy(EVALUATE)
    before = (await function.invoke("process.pid")).check().json()
    result = await function.invoke(
        f"(process.on('exit', (code) => fs.writeSync(1, `left with ${{code}}\\n`)), {expression}, pause(60_000))"
    )
    assert error_of(result.json()) == error
    line, left = printed(result)
    told = logged(line, result.request_id, "ERROR", words)
    assert told["errorMessage"] == error[1]
    if status == 128:
        assert told["promise"] == {}
        assert told["reason"] == 7 or told["reason"]["errorType"] == "RangeError"
    assert left == f"left with {status}"
    assert result.report is not None
    assert (result.report.status, result.report.error_type) == ("error", "Runtime.ExitError")
    assert (await function.invoke("process.pid")).check().json() != before


@pytest.mark.catalogue("LC-074")
async def test_an_exception_between_two_invokes_is_the_second_ones_trouble(deploy: Deploy) -> None:
    """It is a signal here that throws as soon as the frozen process may run: a timer could do so a moment before."""
    app = """
    process.on("SIGUSR2", () => { throw new RangeError("late"); });
    exports.handler = async (event) => {
      if (event === "wait") await new Promise((done) => setTimeout(done, 60_000));
      return process.pid;
    };
    """
    function = await deploy(app)
    pid = (await function.invoke()).check().json()
    [environment] = function.environments
    assert environment.machine.phase is Phase.FROZEN
    os.kill(pid, signal.SIGUSR2)
    result = await function.invoke("wait")
    # Whichever the process sees first, the event or the signal: with the event, there is an invocation to post it for.
    ended = platform_error(result, "Runtime.ExitError", "Runtime exited with error: exit status 129")
    assert result.json() == ended or error_of(result.json()) == ("RangeError", "late")
    assert result.report is not None
    assert result.report.error_type == "Runtime.ExitError"
    assert any("\tUncaught Exception \t" in line and "late" in line for line in printed(result))
    assert (await function.invoke()).check().json() != pid


async def test_what_a_function_handles_itself_is_no_trouble(deploy: Deploy) -> None:
    app = """
    exports.handler = async () => {
      const late = new Promise((_, fail) => setTimeout(fail, 5, new Error("in time")));
      const [one] = await Promise.allSettled([late]);
      return one.reason.message;
    };
    """
    result = await (await deploy(app)).invoke()
    assert result.check().json() == "in time"
    assert printed(result) == []


@in_both_tiers
@pytest.mark.catalogue("LC-070", "LC-072", "LC-071", "TL-071")
async def test_a_timeout_ends_the_process_and_what_it_started(folder: MakeFolder) -> None:
    """On a clock that only the test moves. The suite looks for processes that were left: a child would fail this test."""
    clock = ManualClock()
    async with hosting(clock=clock) as host:
        function = await deploying(host, folder)(EVALUATE, timeout=3)
        before = (await function.invoke("process.pid")).check().json()
        asleep = asyncio.Event()
        host.journal.subscribe(lambda record: asleep.set() if "asleep" in str(record.record) else None)
        invoke = asyncio.ensure_future(
            function.invoke("child_process.spawn('sleep', ['1000']), console.log('asleep'), pause(60_000)")
        )
        await asleep.wait()
        clock.advance(3)
        late = await invoke
        assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert late.report is not None
        assert (late.status, late.report.status, late.function_error) == ("timeout", "timeout", "Unhandled")
        assert (await function.invoke("process.pid")).check().json() != before


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
async def test_a_handler_may_take_stdout_away(deploy: Deploy, log_format: str) -> None:
    """Short records go down a descriptor of our own for the same pipe."""
    function = await deploy(EVALUATE, log_format=log_format)
    first = await function.invoke("(fs.closeSync(1), fs.closeSync(2), console.log('said'), 1)")
    assert first.check().json() == 1
    [line] = printed(first)
    assert "said" in line
    failed = await function.invoke("Promise.reject(new RangeError('no'))")
    assert error_of(failed.json()) == ("RangeError", "no")
    assert (await function.invoke("2")).check().json() == 2


async def test_a_handler_may_take_every_descriptor_away(deploy: Deploy) -> None:
    """Its own fault, and yet no reason to hang or to end without a word: the platform says that the process ended."""
    function = await deploy(EVALUATE)
    before = (await function.invoke("process.pid")).check().json()
    result = await function.invoke("(() => { for (let fd = 3; fd < 64; fd++) try { fs.closeSync(fd) } catch {} })()")
    assert result.function_error == "Unhandled"
    assert result.json()["errorType"] == "Runtime.ExitError"
    assert (await function.invoke("process.pid")).check().json() != before


LATE = {
    "a rejection": "Promise.reject(new RangeError('late'))",
    "in the next turn": "setImmediate(() => { throw new RangeError('late'); })",
    "in the next tick": "process.nextTick(() => { throw new RangeError('late'); })",
}


@pytest.mark.parametrize("what", LATE)
async def test_what_breaks_just_after_the_answer_ends_this_process_and_not_the_next_invoke(deploy: Deploy, what: str) -> None:
    """Up to Node.js 22 the answer counts, as with AWS's client; and a process on its way out takes no event."""
    app = f"exports.handler = async (event) => {{ if (event === 'late') {LATE[what]}; return process.pid; }};"
    function = await deploy(app, handler="app.handler")
    before = (await function.invoke("")).check().json()
    for _ in range(3):
        assert (await function.invoke("late")).check().json() == before
        after = (await function.invoke("")).check().json()
        assert after != before
        before = after
