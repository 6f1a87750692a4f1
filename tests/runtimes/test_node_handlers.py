"""The managed Node.js runtime: how a handler is found, called and answered."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import psutil
import pytest

from sandbox import Host
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from sandbox.core.states import Phase
from tests.conftest import MakeFolder
from tests.runtimes.conftest import TRACE, code_of, in_both_tiers, in_tier_process, platform_error, printed
from tests.runtimes.node import EVALUATE, TIME, Deploy, deploying, error_of, facing, hosting, needs_node

pytestmark = in_tier_process


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting() as host:
        yield host


@pytest.fixture
def deploy(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


# ── loading ──

ABOUT = """
const about = (file) => [process.cwd(), process.env.LAMBDA_TASK_ROOT, process.env._HANDLER, file, read("data.txt", "utf8")];
"""
COMMON = f"const read = require('fs').readFileSync;{ABOUT}exports.handler = async () => about(__filename);\n"
MODULE = (
    "import { readFileSync as read } from 'fs';\nimport { fileURLToPath } from 'url';\n"
    f"{ABOUT}export const handler = async () => about(fileURLToPath(import.meta.url));\n"
)
IS_MODULE = '{"type": "module"}'


@in_both_tiers
@pytest.mark.catalogue("EN-003", "EN-012", "LC-009")
@pytest.mark.parametrize(
    ("handler", "file", "app", "package"),
    [
        ("app.handler", "app.js", COMMON, None),
        ("app.handler", "app.cjs", COMMON, None),
        ("app.handler", "app.cjs", COMMON, IS_MODULE),
        ("app.handler", "app", COMMON, None),
        ("app.handler", "app.mjs", MODULE, None),
        ("app.handler", "app.js", MODULE, IS_MODULE),
        ("app.handler", "app.js", COMMON, '{"type": "commonjs"}'),
        ("src/deep/app.handler", "src/deep/app.js", COMMON, None),
        ("./src/app.handler", "src/app.js", COMMON, None),
        ("src/app.handler", "src/app.js", MODULE, IS_MODULE),
        ("a.b/app.handler", "a.b/app.js", COMMON, None),
        ("lib.handler", "lib/index.js", COMMON, None),
        ("package.handler", "node_modules/package/index.js", COMMON, None),
        # names that our own files have, too
        ("index.handler", "index.js", COMMON, None),
        ("index.handler", "index.cjs", COMMON, None),
        ("index.handler", "index.mjs", MODULE, None),
        ("runtime.handler", "runtime.js", COMMON, None),
        ("bootstrap.handler", "bootstrap.mjs", MODULE, None),
        ("lib/runtime.handler", "lib/runtime.js", COMMON, None),
        ("sub/lib.handler", "sub/lib/index.js", COMMON, None),
    ],
)
async def test_a_handler_is_found_and_runs_in_the_code_folder(
    host: Host, folder: MakeFolder, handler: str, file: str, app: str, package: str | None
) -> None:
    files = {file: app, "data.txt": "beside it"} | ({"package.json": package} if package else {})
    function = await host.deploy(folder(**files), runtime=needs_node().runtime, handler=handler, timeout=20)
    result = await function.invoke()
    root = code_of(function)
    assert result.check().json() == [root, root, handler, f"{root}/{file}", "beside it"]


async def test_without_a_name_it_is_the_handler_that_the_console_makes(host: Host, folder: MakeFolder) -> None:
    code = folder(**{"index.mjs": "export const handler = async () => 'found';\n"})
    function = await host.deploy(code, runtime=needs_node().runtime, timeout=20)
    assert (await function.invoke()).check().json() == "found"


@pytest.mark.parametrize(
    ("handler", "files", "answer"),
    [
        ("app.a.b.c", {"app.js": "exports.a = { b: { c: async () => 'deep' } };"}, "deep"),
        ("app.a.b", {"app.mjs": "export const a = { b: async () => 'deep' };"}, "deep"),
        ("app.A.b", {"app.js": "exports.A = class { static async b() { return 'of a class'; } };"}, "of a class"),
        ("my.app.handler", {"my.js": "exports.app = { handler: async () => 'two dots' };"}, "two dots"),
        ("app.default", {"app.mjs": "export default async () => 'default';"}, "default"),
        ("app.handler", {"app.mjs": "const x = await Promise.resolve(7);\nexport const handler = async () => x;"}, 7),
        ("app.handler", {"app.js": "module.exports = Promise.resolve({ handler: async () => 'promised' });"}, "promised"),
        ("app.handler", {"app.js": "exports.handler = (async () => 'bound').bind(null);"}, "bound"),
        ("app.handler", {"app.js": "exports.handler = async () => 'js';", "app.mjs": "export const handler = 0;"}, "js"),
        ("app.handler", {"app.js": "exports.handler = async () => 'file';", "app/index.js": "throw 1;"}, "file"),
        # the nearest package.json decides
        (
            "sub/app.handler",
            {"package.json": IS_MODULE, "sub/package.json": "{}", "sub/app.js": "exports.handler = async () => 'nearest';"},
            "nearest",
        ),
    ],
)
async def test_what_counts_as_the_handler(
    host: Host, folder: MakeFolder, handler: str, files: dict[str, str], answer: object
) -> None:
    function = await host.deploy(folder(**files), runtime=needs_node().runtime, handler=handler, timeout=20)
    assert (await function.invoke()).check().json() == answer


@pytest.mark.catalogue("LC-035")
@pytest.mark.parametrize("file", ["app.js", "app.mjs"])
async def test_what_is_outside_the_handler_runs_once_and_is_kept(deploy: Deploy, file: str) -> None:
    app = """
    process.stdout.write("loading\\n");
    const seen = [];
    const handler = async (event) => [process.pid, seen.push(event), seen];
    """
    function = await deploy(app + ("exports.handler = handler;" if file == "app.js" else "export { handler };"), file=file)
    first, second = await function.invoke(1), await function.invoke(2)
    pid = first.check().json()[0]
    assert [first.json(), second.check().json()] == [[pid, 1, [1]], [pid, 2, [1, 2]]]
    assert [printed(first), printed(second)] == [["loading"], []]


# ── how it is called, up to Node.js 22 ──

STYLES = """
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
let ticked;
// Read when the answer is written, so it tells whether the timer had run by then.
const when = { toJSON: () => ticked };
const later = () => { ticked = false; setTimeout(() => { ticked = true; }, 30); };
const styles = {
  callback: (context, callback) => { callback(null, { a: 1 }); },
  "callback later": (context, callback) => { setTimeout(callback, 5, null, "later"); },
  "callback nothing": (context, callback) => { callback(); },
  "callback error": (context, callback) => { callback(new RangeError("no")); },
  "callback string": (context, callback) => { callback("no"); },
  "callback 0": (context, callback) => { callback(0, "ignored"); },
  "callback waits": (context, callback) => { later(); callback(null, when); },
  "callback does not wait": (context, callback) => {
    context.callbackWaitsForEmptyEventLoop = false;
    later();
    callback(null, when);
  },
  "promise does not wait": async () => { later(); return when; },
  "succeed does not wait": (context) => { later(); context.succeed(when); },
  done: (context) => { context.done(null, "done"); },
  "done error": (context) => { context.done(new RangeError("no")); },
  fail: (context) => { context.fail(new RangeError("no")); },
  "fail nothing": (context) => { context.fail(); },
  "plain result": () => ({ ignored: true }),
  "plain throw": () => { throw new RangeError("no"); },
  thenable: () => ({ then: (ok) => ok("then") }),
  "never settles": () => new Promise(() => {}),
  "no answer": () => {},
  "no answer, timer": () => { setTimeout(() => {}, 5); },
  "async callback": async (context, callback) => { callback(null, "callback"); },
  "async callback and result": async (context, callback) => { callback(null, "callback"); return "result"; },
  "callback twice": (context, callback) => { callback(null, 1); callback(null, 2); },
  "succeed, then callback": (context, callback) => { context.succeed(1); callback(null, 2); },
  "callback later than the promise": async (context, callback) => { setTimeout(callback, 1, null, 2); return 1; },
  settled: async () => { await pause(40); return ticked; },
};
exports.handler = function (event, context, callback) {
  if (event === "arguments") return Promise.resolve([arguments.length, Object.keys(styles)]);
  if (event === "pid") return Promise.resolve(process.pid);
  return styles[event](context, callback);
};
"""


@in_both_tiers
async def test_every_way_to_answer(deploy: Deploy) -> None:
    function = await deploy(STYLES)
    pid = (await function.invoke("pid")).check().json()
    for style, answer in {
        "callback": {"a": 1},
        "callback later": "later",
        "callback nothing": None,
        "callback waits": True,
        "callback does not wait": False,
        "settled": True,  # the timer of the invoke before went on in this one
        "promise does not wait": False,
        "succeed does not wait": False,
        "done": "done",
        "plain result": None,
        "thenable": "then",
        "never settles": None,
        "no answer": None,
        "no answer, timer": None,
        "async callback": "callback",
        "async callback and result": "callback",
        "callback twice": 1,
        "succeed, then callback": 1,
        "callback later than the promise": 1,
    }.items():
        result = await function.invoke(style)
        assert (style, result.check().json()) == (style, answer)
    assert (await function.invoke("pid")).check().json() == pid


async def test_every_way_to_fail(deploy: Deploy) -> None:
    function = await deploy(STYLES)
    pid = (await function.invoke("pid")).check().json()
    for style, error in {
        "callback error": ("RangeError", "no"),
        "callback string": ("string", "no"),
        "callback 0": ("number", "0"),
        "done error": ("RangeError", "no"),
        "fail": ("RangeError", "no"),
        "fail nothing": ("string", "handled"),
        "plain throw": ("RangeError", "no"),
    }.items():
        result = await function.invoke(style)
        assert (style, error_of(result.json()), result.function_error) == (style, error, "Unhandled")
    assert (await function.invoke("pid")).check().json() == pid


@pytest.mark.parametrize("style", ["async callback", "async callback and result", "succeed, then callback"])
async def test_an_answer_after_the_answer_is_nothing_to_complain_about(deploy: Deploy, style: str) -> None:
    """A handler may be async and use its callback; there are many such."""
    assert printed(await (await deploy(STYLES)).invoke(style)) == []


async def test_a_handler_gets_three_arguments(deploy: Deploy) -> None:
    assert (await (await deploy(STYLES)).invoke("arguments")).check().json()[0] == 3


@in_both_tiers
@pytest.mark.catalogue("LC-036")
async def test_a_timer_that_was_frozen_goes_on_in_the_next_invoke(deploy: Deploy) -> None:
    app = """
    let timer, ran = false;
    exports.handler = async (event) => {
      if (event === "start") timer = new Promise((done) => setTimeout(() => { ran = true; done(); }, 200));
      else await timer;
      return ran;
    };
    """
    function = await deploy(app)
    assert (await function.invoke("start")).check().json() is False
    assert (await function.invoke("wait")).check().json() is True


@pytest.mark.catalogue("LC-051", "LC-053")
async def test_it_is_frozen_with_its_children_and_thaws(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    pids = (await function.invoke("[process.pid, child_process.spawn('sleep', ['1000']).pid]")).check().json()
    [environment] = function.environments
    assert environment.machine.phase is Phase.FROZEN
    async with asyncio.timeout(20):
        while any(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in pids):
            await asyncio.sleep(0.001)
    assert (await function.invoke("process.pid")).check().json() == pids[0]
    assert function.environments == (environment,)


# ── the context ──

NAMES = [
    *("callbackWaitsForEmptyEventLoop", "succeed", "fail", "done"),
    *("functionVersion", "functionName", "memoryLimitInMB", "logGroupName", "logStreamName"),
    *("clientContext", "identity", "invokedFunctionArn", "awsRequestId", "tenantId", "getRemainingTimeInMillis"),
]


@pytest.mark.catalogue("RT-022", "RT-024", "EN-006", "EN-007", "EN-009", "EN-080", "TL-061")
async def test_every_field_of_the_context(deploy: Deploy) -> None:
    app = """
    exports.handler = async (event, context) => {
      const kinds = Object.fromEntries(Object.entries(context).map(([name, value]) => [name, typeof value]));
      return [kinds, context, context.getRemainingTimeInMillis(), process.env];
    };
    """
    function = await deploy(app, name="orders", memory_mb=256, region="eu-central-1", version="7", timeout=20)
    result = await function.invoke()
    kinds, told, left, variables = result.check().json()
    assert kinds == dict.fromkeys(NAMES, "string") | {
        "callbackWaitsForEmptyEventLoop": "boolean",
        **dict.fromkeys(["succeed", "fail", "done", "getRemainingTimeInMillis"], "function"),
        **dict.fromkeys(["clientContext", "identity", "tenantId"], "undefined"),
    }
    assert 0 < left <= 20_000
    stream = told.pop("logStreamName")
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[7\][0-9a-f]{32}", stream)
    assert told == {
        "callbackWaitsForEmptyEventLoop": True,
        "functionName": "orders",
        "functionVersion": "7",
        "invokedFunctionArn": "arn:aws:lambda:eu-central-1:123456789012:function:orders",
        "memoryLimitInMB": "256",
        "awsRequestId": result.request_id,
        "logGroupName": "/aws/lambda/orders",
    }
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", result.request_id)
    assert variables["AWS_LAMBDA_LOG_STREAM_NAME"] == stream
    assert result.executed_version == "7"


async def test_the_order_of_the_contexts_fields_is_that_of_awss_client(deploy: Deploy) -> None:
    assert (await (await deploy(EVALUATE)).invoke("Object.keys(context)")).check().json() == NAMES


@pytest.mark.catalogue("RT-026", "RT-027", "RT-028", "RT-033")
async def test_what_the_caller_sends_along(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    telling = (
        "({client: context.clientContext, identity: context.identity, tenant: context.tenantId, id: context.awsRequestId})"
    )
    client = {"client": {"installation_id": "i", "app_title": "bücher"}, "custom": {"a": [1]}, "env": {"locale": "de"}}
    identity = {"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"}
    request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    result = await function.invoke(
        telling, client_context=client, cognito_identity=identity, tenant_id="blue", request_id=request_id
    )
    assert result.check().json() == {"client": client, "identity": identity, "tenant": "blue", "id": request_id}
    after = await function.invoke(telling)
    assert after.check().json() == {"id": after.request_id}  # nothing of it is left over


@pytest.mark.catalogue("EN-004", "RT-025")
async def test_the_trace_id_is_set_for_each_event_and_not_before(deploy: Deploy) -> None:
    app = """
    const atLoad = "_X_AMZN_TRACE_ID" in process.env;
    exports.handler = async () => [atLoad, process.env._X_AMZN_TRACE_ID];
    """
    function = await deploy(app)
    assert (await function.invoke(trace_id=TRACE)).check().json() == [False, TRACE]
    at_load, made_up = (await function.invoke()).check().json()
    assert at_load is False
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", made_up)


async def test_the_remaining_time_runs_out(deploy: Deploy) -> None:
    app = """
    exports.handler = async (event, context) => {
      const before = context.getRemainingTimeInMillis();
      await new Promise((done) => setTimeout(done, 25));
      return [before, context.getRemainingTimeInMillis()];
    };
    """
    before, after = (await (await deploy(app, timeout=7)).invoke()).check().json()
    assert 7000 >= before > after > 0
    assert before - after >= 24  # timers count from the beginning of a turn of the loop


# ── events and results ──


@pytest.mark.catalogue("RT-021", "RT-050", "IN-025", "IN-021")
async def test_events_and_results_of_any_kind_pass(deploy: Deploy) -> None:
    function = await deploy("exports.handler = async (event) => event;")
    for event in ({"ä": "日本 🎉", "n": [1, 2.5, None, True]}, "text", 0, False, [], {}, {"__proto__": {"a": 1}}):
        result = await function.invoke(event)
        assert result.check().json() == event
        assert result.function_error is None
        assert result.content_type == "application/json"
    assert (await function.invoke(payload=b"null")).check().payload == b"null"


RESULTS = {
    "undefined": "null",
    "null": "null",
    "''": '""',
    "'ü \\u2028 \\u0000'": '"ü \u2028 \\u0000"',
    "'\\ud800'": '"\\ud800"',
    "[NaN, Infinity, -Infinity, -0]": "[null,null,null,0]",
    "[12345678901234567890, 1e400, 1e20, 1.10, 1e-7]": "[12345678901234567000,null,100000000000000000000,1.1,1e-7]",
    "new Date(0)": '"1970-01-01T00:00:00.000Z"',
    "Buffer.from('hi')": '{"type":"Buffer","data":[104,105]}',
    "new Uint8Array([1, 2])": '{"0":1,"1":2}',
    "[new Map([[1, 2]]), new Set([1]), new Error('x'), /x/]": "[{},{},{},{}]",
    "({a: undefined, b: () => 1, c: Symbol('s'), d: [undefined]})": '{"d":[null]}',
    "({toJSON: () => 'mine'})": '"mine"',
    "Promise.resolve(Promise.resolve(1))": "1",
    "Array(3)": "[null,null,null]",
    "Object.create({inherited: 1})": "{}",
    "pause(1).then(() => 'later')": '"later"',
}


@pytest.mark.catalogue("RT-050", "IN-025")
async def test_a_result_is_written_as_json_stringify_writes_it(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    found = {}
    for expression in RESULTS:
        result = await function.invoke(expression)
        assert (result.function_error, result.content_type) == (None, "application/json")
        found[expression] = result.payload.decode()
    assert found == RESULTS


@pytest.mark.catalogue("RT-021")
async def test_an_event_is_parsed_as_json_parse_parses_it(deploy: Deploy) -> None:
    function = await deploy("exports.handler = async (event) => event;")
    for sent, answered in {
        '{"i": 12345678901234567890, "f": 1.10, "x": 1e400}': '{"i":12345678901234567000,"f":1.1,"x":null}',
        ' [ "\\u00e9\\ud83d\\ude00\\/" , -0.0 ] ': '["é😀/",0]',
        '{"b": 1, "a": 2, "b": 3, "1": 4}': '{"1":4,"b":3,"a":2}',
    }.items():
        assert (await function.invoke(payload=sent.encode())).check().payload.decode() == answered


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-057", "RT-058", "RT-059", "EN-077")
async def test_6_mib_both_ways_and_one_byte_too_many(deploy: Deploy) -> None:
    app = """
    exports.handler = async (event) => {
      process.stdout.write(`${process.pid}\\n`);
      return typeof event === "number" ? "x".repeat(event - 2) : event;
    };
    """
    function = await deploy(app, memory_mb=512)
    payload = b'"' + "ä".encode() * (3 * MIB - 1) + b'"'
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


# ── on the wire ──


@pytest.mark.catalogue("RT-011", "RT-029", "RT-061")
async def test_the_invocation_id_is_echoed_when_it_is_given(folder: MakeFolder) -> None:
    app = """
    exports.handler = async (event) => { if (event === "fail") throw new Error("no"); return event; };
    exports.stream = awslambda.streamifyResponse(async (event, response) => { response.end("chunk"); });
    """
    code = folder(**{"app.js": app})
    one = needs_node()
    async with facing(one, code) as api:
        posted = await api.event(b"1", fields="lambda-runtime-INVOCATION-id:\tthe-id \r\n", request_id="a/b ü")
        assert posted.line == "POST /2018-06-01/runtime/invocation/a%2Fb%20%C3%BC/response HTTP/1.1"
        assert posted.fields["lambda-runtime-invocation-id"] == ["the-id"]
        assert posted.fields["content-type"] == ["application/json"]
        assert posted.body == b"1"
        await api.reply()
        assert "lambda-runtime-invocation-id" not in (await api.event(b"2")).fields
        await api.reply()
        failed = await api.event(b'"fail"', fields="Lambda-Runtime-Invocation-Id: other\r\n")
        assert failed.line == "POST /2018-06-01/runtime/invocation/one/error HTTP/1.1"
        assert failed.fields["lambda-runtime-invocation-id"] == ["other"]
        assert error_of(json.loads(failed.body)) == ("Error", "no")
    async with facing(one, code, "app.stream") as api:
        posted = await api.event(b"1", fields="Lambda-Runtime-Invocation-Id: the-id\r\n")
        assert posted.fields["lambda-runtime-invocation-id"] == ["the-id"]
        assert posted.fields["lambda-runtime-function-response-mode"] == ["streaming"]
        assert posted.fields["transfer-encoding"] == ["chunked"]
        assert posted.fields["trailer"] == ["Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"]
        assert posted.body == b"5\r\nchunk\r\n0\r\n\r\n"


async def test_without_a_trace_id_there_is_no_variable(folder: MakeFolder) -> None:
    code = folder(**{"app.js": "exports.handler = async () => process.env._X_AMZN_TRACE_ID;"})
    async with facing(needs_node(), code) as api:
        for sent, variable in ((f"Lambda-Runtime-Trace-Id: {TRACE}\r\n", f'"{TRACE}"'), ("", "null")):
            assert (await api.event(fields=sent)).body.decode() == variable
            await api.reply()


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "413 Payload Too Large", "500 Internal Server Error"])
async def test_a_refused_answer_is_no_reason_to_end(folder: MakeFolder, status: str) -> None:
    async with facing(needs_node(), folder(**{"app.js": "exports.handler = async (event) => event;"})) as api:
        for event in (b"1", b"2"):
            assert (await api.event(event)).body == event
            await api.reply(b'{"errorType":"Refused"}', status)


async def test_an_event_that_is_no_json_is_an_error_of_its_invocation(folder: MakeFolder) -> None:
    async with facing(needs_node(), folder(**{"app.js": "exports.handler = async (event) => event;"})) as api:
        for sent, fields, error_type in (
            (b"", "", "SyntaxError"),
            (b"{", "", "SyntaxError"),
            (b"{}", "Lambda-Runtime-Client-Context: {\r\n", "Error"),
            (b"{}", "Lambda-Runtime-Cognito-Identity: {\r\n", "Error"),
        ):
            posted = await api.event(sent, fields=fields)
            assert posted.line.startswith("POST /2018-06-01/runtime/invocation/one/error ")
            assert error_of(json.loads(posted.body))[0] == error_type
            await api.reply()
        assert (await api.event(b"1")).body == b"1"


# ── from Node.js 24 on ──


@pytest.fixture
async def modern(folder: MakeFolder) -> AsyncIterator[Deploy]:
    """Deploys on a Node.js whose AWS client knows no callbacks any more."""
    async with hosting(callbacks=False) as host:
        yield deploying(host, folder, callbacks=False)


async def test_24_whatever_a_handler_returns_is_its_answer(modern: Deploy) -> None:
    app = """
    exports.handler = function (event, context) {
      if (event === "arguments") return [arguments.length, Object.keys(context), context.xRayTraceId];
      if (event === "promise") return new Promise((done) => setTimeout(done, 1, "promise"));
      return { sync: event };
    };
    """
    function = await modern(app)
    assert (await function.invoke(1)).check().json() == {"sync": 1}
    assert (await function.invoke("promise")).check().json() == "promise"
    assert (await function.invoke("arguments", trace_id=TRACE)).check().json() == [
        2,
        [
            *("clientContext", "identity", "invokedFunctionArn", "awsRequestId", "tenantId", "xRayTraceId"),
            *("getRemainingTimeInMillis", "functionName", "functionVersion", "memoryLimitInMB"),
            *("logGroupName", "logStreamName"),
        ],
        TRACE,
    ]


@pytest.mark.parametrize("app", ["(event, context, callback) => callback()", "async (event, context, callback) => 1"])
async def test_24_a_handler_with_a_callback_is_refused(modern: Deploy, app: str) -> None:
    result = await (await modern(f"exports.handler = {app};")).invoke()
    error_type, message = error_of(result.json())
    assert error_type == "Runtime.CallbackHandlerDeprecated"
    assert message.startswith(
        "ERROR: AWS Lambda has removed support for callback-based function handlers starting with Node.js 24"
    )
    assert result.error_phase == "init"


async def test_24_a_promise_that_nothing_can_settle_ends_the_process(modern: Deploy) -> None:
    result = await (await modern("exports.handler = () => new Promise(() => {});")).invoke()
    assert result.json() == platform_error(result, "Runtime.ExitError", "Runtime exited without providing a reason")


async def test_24_a_default_export_may_hold_the_handler(modern: Deploy) -> None:
    function = await modern("export default { handler: () => 'inside' };", file="app.mjs")
    assert (await function.invoke()).check().json() == "inside"


async def test_24_records_of_init_have_a_dash_for_the_request(modern: Deploy) -> None:
    function = await modern("console.log('loading');\nexports.handler = () => console.log('called');")
    result = await function.invoke()
    loading, called = printed(result)
    assert re.fullmatch(rf"{TIME}\t-\tINFO\tloading", loading)
    assert re.fullmatch(rf"{TIME}\t{result.request_id}\tINFO\tcalled", called)


async def test_24_a_rejection_that_nobody_handles_is_told(modern: Deploy) -> None:
    """AWS's own client ends without a word then; the caller would have to guess."""
    app = "exports.handler = async () => { Promise.reject(new Error('oh')); await new Promise((d) => setTimeout(d, 10_000)); };"
    result = await (await modern(app)).invoke()
    assert error_of(result.json()) == ("Runtime.UnhandledPromiseRejection", "Error: oh")
    assert result.report is not None
    assert result.report.error_type == "Runtime.ExitError"
