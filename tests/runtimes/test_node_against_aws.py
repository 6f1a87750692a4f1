"""Our Node.js runtime beside AWS's own client (aws-lambda-ric 3.3.0), unmodified: same handlers, same events, what differs?

Both are started alike, as the managed runtime: AWS's by AWS_LAMBDA_EXEC_WRAPPER, with a script in a layer that starts it with
the same interpreter and the same options. So it has what it has on Lambda: NODE_PATH, and the log descriptor.

What it prints and what it logs reach the host by two pipes, whose order nobody knows: a case does either.

Cases share a process, each a module of its own that is required at its first event, except those that are `alone`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import textwrap
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.host.host import Function
from tests.clients.real import NODE_3
from tests.runtimes.comparing import Case, Normal, Observation, explain
from tests.runtimes.conftest import code_of, in_tier_process
from tests.runtimes.node import RUNTIME, hosting, needs_node

pytestmark = in_tier_process

# All arguments but the last, which is our own program.
WRAPPER = """#!/bin/sh
left=$#
while [ "$left" -gt 1 ]; do
    first=$1
    shift
    set -- "$@" "$first"
    left=$((left - 1))
done
shift
exec "$@" '{client}/bin/index.mjs' "$_HANDLER"
"""
DISPATCH = """
exports.handler = (event, context, callback) => {
  if (event === "pid") return Promise.resolve(process.pid);
  return require(`./cases/${event.case}/app.js`).handler(event.event, context, callback);
};
exports.stream = awslambda.streamifyResponse((event, stream, context) => {
  if (event === "pid") return Promise.resolve(stream.end(String(process.pid)));
  return require(`./cases/${event.case}/app.js`).handler(event.event, stream, context);
});
"""


@dataclass(frozen=True)
class NodeCase(Case):
    """file: what its code is in. more: other files."""

    file: str = "app.js"
    more: Mapping[str, str] = field(default_factory=dict)


def case(name: str, what: str, code: str, event: str = "{}", **settings: Any) -> NodeCase:
    """A module that others share a process with."""
    return NodeCase(name, what, textwrap.dedent(code).lstrip("\n"), event, settings)


def body(name: str, what: str, statements: str, event: str = "{}", **settings: Any) -> NodeCase:
    """An async handler of some lines."""
    inner = textwrap.indent(textwrap.dedent(statements).strip("\n"), "  ")
    return case(name, what, f"exports.handler = async (event, context) => {{\n{inner}\n}};\n", event, **settings)


def plain(name: str, what: str, statements: str) -> NodeCase:
    """A handler with a callback."""
    return case(name, what, f"exports.handler = (event, context, callback) => {{ {statements} }};\n")


def alone(
    name: str, what: str, code: str, *, file: str = "app.js", more: Mapping[str, str] | None = None, **settings: Any
) -> NodeCase:
    """A module with a process of its own."""
    code = textwrap.dedent(code).lstrip("\n")
    return NodeCase(name, what, code, "{}", {"handler": "app.handler"} | settings, True, file, more or {})


def stream(name: str, what: str, statements: str, kind: str = "async ") -> NodeCase:
    """A streaming handler."""
    return case(name, what, f"exports.handler = {kind}(event, stream) => {{ {statements} }};\n", handler="dispatch.stream")


JSON = {"log_format": "JSON"}
VALUES = """
console.log({ a: 1, b: { c: { d: { e: 1 } } } });
console.log(null);
console.log(undefined);
console.log("%s %d %j", "x", 5, { k: 1 }, "more");
console.log("multi\\nline\\ttab");
console.log("");
const c = {}; c.c = c;
console.log(c);
console.log(10n, Symbol("s"));
console.log(10n);
console.log(new Map([[1, 2]]));
console.log({ toJSON() { throw new Error("inner"); } });
console.log("ü \\u2028 \\ud800");
"""
ERRORS = """
class Mine extends Error {}
console.error(Object.assign(new RangeError("r"), { code: "E", extra: { x: 1 } }));
console.error(new Mine("of a class"));
console.error([new Error("in a list")]);
console.error({ e: new TypeError("in an object") });
console.error(Object.assign(new Error("x"), { toJSON: () => "mine" }));
const bare = new Error("no stack");
delete bare.stack;
console.error(bare);
"""
LEVELS = 'for (const f of ["trace", "debug", "log", "info", "warn", "error", "fatal"]) console[f]("at %s", f);'
NAMED = """
class MyError extends Error {
  constructor(message) { super(message); this.name = "Named"; this.code = "E1"; this.extra = { x: new Error("n") }; }
}
exports.handler = async () => { throw new MyError("cm"); };
"""
THROWS = 'throw new TypeError("boom \\u00e9\\nline 2");'
ANYTHING = 'exports.handler = async () => "found";\n'
MODULE = 'export const handler = async () => "found";\n'

BAD_PROPERTY = "throw Object.defineProperty(new Error('x'), 'p', { enumerable: true, get() { throw 1; } });"
PRINTS = """
process.stdout.write("a b\\nmulti\\nline\\n");
process.stderr.write("err\\n");
process.stdout.write("tail");
"""
METHODS = """
console.group("g");
console.count();
console.table([{ a: 1 }]);
console.assert(false, "no");
"""
HTTP = "awslambda.HttpResponseStream.from(stream, { statusCode: 201 })"
PIPELINE = 'await require("stream/promises").pipeline(require("stream").Readable.from(["p1", "p2"]), stream);'
MARKER = "Symbol.for('aws.lambda.runtime.handler.streaming')"
WARNS = 'console.warn("init");\nexports.handler = async () => console.warn("invoke");\n'
REJECTS = """
exports.handler = () => {
  Promise.reject(new Error("ur"));
  return new Promise(() => setTimeout(() => {}, 60_000));
};
"""
THROWS_LATER = """
exports.handler = () => new Promise(() => {
  setTimeout(() => { throw new Error("timer"); });
});
"""

SHARED: list[NodeCase] = [
    # ── what goes in and comes out ──
    body("echo", "no spaces in the answer", "return event;", '{"a":[1, 2.5,"x",true,null,{}],"b":{"c":[]}}'),
    body("null", "null in and out", "return event;", "null"),
    body("nothing", "no return", ""),
    body("string", "a bare string stays quoted", 'return "got " + event;', '"hi"'),
    body("unicode", "not ASCII, U+2028", "return [event.s, event.s.length, '\\u2028 🚀'];", '{"s":"é☃😀\u2028"}'),
    body("escaped-event", "control characters and NUL", "return event;", '{"s":"\\u00e9\\n\\t\\"\\\\\\/\\u0000\\u001f"}'),
    body("lone-surrogate", "half a character", "return event;", '{"s":"\\ud800"}'),
    body("big-numbers", "beyond 2**53", "return event;", '{"i":12345678901234567890,"f":1.10,"e":1e20,"z":-0.0,"h":1e400}'),
    body("not-finite", "NaN in the answer", "return [NaN, Infinity, -0];"),
    body("odd-types", "Date, Buffer, Map, Error", "return [new Date(0), Buffer.from('hi'), new Map([[1, 2]]), Error('x')];"),
    body("deep", "200 lists in each other", "let a = []; for (let i = 0; i < 200; i++) a = [a]; return a;"),
    body("bigint", "cannot be JSON", "return 10n;"),
    body("cycle", "a list in itself", "const a = []; a.push(a); return a;"),
    body("function-result", "JSON of it is undefined", "return () => 1;"),
    body(
        "context-values", "the fields of the context", "return Object.keys(context).map((k) => [k, typeof context[k]]).sort();"
    ),
    body("context-order", "the order of the context's fields", "return Object.keys(context);"),
    body(
        "environment",
        "what it finds",
        "const e = process.env;\nreturn [process.cwd() === e.LAMBDA_TASK_ROOT, e._LAMBDA_TELEMETRY_LOG_FD];",
    ),
    # ── how it answers ──
    plain("callback", "an object", "callback(null, { cb: 1 });"),
    plain("callback-nothing", "no arguments", "callback();"),
    plain("callback-error", "an error", 'callback(new RangeError("no"));'),
    plain("callback-string", "a string as the error", 'callback("no");'),
    plain("callback-zero", "0 as the error", "callback(0, 1);"),
    plain("callback-late", "after a timer", "setTimeout(callback, 5, null, 1);"),
    plain("callback-waits", "a timer is due", 'setTimeout(() => console.log("timer"), 20); callback(null, 1);'),
    plain("callback-twice", "the second is ignored", "callback(null, 1); callback(null, 2);"),
    plain("callback-and-promise", "an async handler that uses its callback", "callback(null, 1); return Promise.resolve(2);"),
    plain("done", "context.done", 'context.done(null, "d");'),
    plain("done-error", "context.done with an error", 'context.done(new RangeError("no"), "d");'),
    plain("succeed", "context.succeed", 'context.succeed("s");'),
    plain("succeed-and-callback", "two answers", 'context.succeed("s"); callback(null, 2);'),
    plain("fail", "context.fail", 'context.fail(new RangeError("no"));'),
    plain("fail-nothing", "context.fail without an error", "context.fail();"),
    plain("sync-return", "what a plain function returns is ignored", "return { sync: 1 };"),
    plain("sync-throw", "a plain function throws", 'throw new RangeError("no");'),
    plain("sync-throw-undefined", "a plain function throws undefined", "throw undefined;"),
    plain("never", "a promise that nothing settles", "return new Promise(() => {});"),
    plain("thenable", "no promise, but like one", "return { then: (ok) => ok(5) };"),
    # ── errors ──
    body("raise", "a plain error", THROWS),
    body("raise-empty", "no message", "throw new Error();"),
    case("raise-custom", "a class with a name, a code, more", NAMED),
    body("raise-cause", "with a cause", 'try { null.x; } catch (e) { throw new Error("outer", { cause: e }); }'),
    body("raise-group", "an AggregateError", 'throw new AggregateError([new Error("a")], "g");'),
    body("raise-deep", "frames through helpers", "const f = (n) => { if (!n) throw new RangeError('k'); f(n - 1); };\nf(3);"),
    body("raise-recursion", "the stack overflows", "const f = () => f() + 1;\nreturn f();"),
    body("raise-string", "a string", 'throw "text";'),
    body("raise-number", "a number", "throw 42;"),
    body("raise-object", "an object", "throw { a: 1 };"),
    body("raise-null", "null", "throw null;"),
    body("raise-undefined", "undefined", "throw undefined;"),
    body("raise-symbol", "a symbol", 'throw Symbol("q");'),
    body("raise-bare-object", "an object without a prototype", "throw Object.create(null);"),
    body("raise-like-an-error", "name, message and stack", 'throw { name: "N", message: "M", stack: "N: M" };'),
    body("raise-other-realm", "an error of another realm", "throw require('vm').runInNewContext('new TypeError(\"vm\")');"),
    body("raise-no-stack", "the stack is undefined", 'const e = new Error("x");\ne.stack = undefined;\nthrow e;'),
    body("raise-odd-name", "the name is a number", 'const e = new Error("x");\ne.name = 5;\nthrow e;'),
    body("raise-cyclic", "a property that is a cycle", 'const e = new Error("x");\ne.self = e;\nthrow e;'),
    body("raise-bad-property", "a getter that throws", BAD_PROPERTY),
    body("raise-control", "control characters", 'throw new Error("a\\x07b\\r\\nX: y\\u0000");'),
    body("name-error", "a name that is not there", "return undefinedThing;"),
    # ── logs ──
    body("print", "lines and no line", PRINTS),
    body("log-child", "a child process", 'require("child_process").execSync("echo out; echo err >&2", { stdio: "inherit" });'),
    body("log-levels", "all methods", LEVELS),
    body("log-levels-json", "all methods", LEVELS, **JSON),
    body("log-levels-warn", "those from WARN on", LEVELS, **JSON, log_level="WARN"),
    body("log-values", "values of every kind", VALUES),
    body("log-values-json", "values of every kind", VALUES, **JSON),
    body("log-nothing", "console.log()", "console.log();"),
    body("log-nothing-json", "console.log()", "console.log();", **JSON),
    body("log-errors-json", "errors", ERRORS, **JSON),
    body("log-other-methods", "group, count, table, assert, a warning", METHODS),
    body("raise-json", "a plain error", THROWS, **JSON),
    case("raise-custom-json", "a class with a name", NAMED, **JSON),
    body("raise-at-fatal", "an error below the level of the log", THROWS, **JSON, log_level="FATAL"),
    # ── streams ──
    stream("stream", "pieces", 'stream.setContentType("a/b"); stream.write("a"); stream.write({ b: 1 }); stream.end("c");'),
    stream("stream-http", "metadata", f'{HTTP}.write("body"); stream.end();'),
    stream("stream-http-end", "metadata, and end() at once", f'{HTTP}.end("body");'),
    stream("stream-throw", "an error in mid-stream", 'stream.write("a"); throw new TypeError("mid");'),
    stream("stream-throw-early", "an error before the first byte", 'throw new TypeError("early");'),
    stream("stream-throw-late", "an error after the end", 'stream.end("a"); throw new TypeError("late");'),
    stream("stream-pipeline", "pipeline()", PIPELINE),
    stream("stream-type-late", "the type is set too late", 'stream.write("a"); stream.setContentType("text/plain");'),
    stream("stream-result", "it returns something", 'stream.end("a"); return 5;'),
    stream("stream-nothing", "end() alone", "stream.end();"),
    stream("stream-write-undefined", "undefined is written", "stream.write(undefined); stream.end();"),
    stream("stream-destroy", "destroy(error)", 'stream.write("a"); stream.destroy(new RangeError("d"));'),
    stream("stream-plain", "a handler that is not async", 'stream.end("x");', kind=""),
]
ALONE: list[NodeCase] = [
    # ── loading ──
    alone("folder-is-the-module", "lib/index.js", ANYTHING, file="lib/index.js", handler="lib.handler"),
    alone("folder-in-a-folder", "sub/lib/index.js", ANYTHING, file="sub/lib/index.js", handler="sub/lib.handler"),
    alone("esm", "top-level await", f"await Promise.resolve(7);\n{MODULE}", file="app.mjs"),
    alone("default-export", "a handler in the default export", "export default { handler: async () => 1 };\n", file="app.mjs"),
    alone("exports-promise", "module.exports is a promise", "module.exports = Promise.resolve({ handler: async () => 1 });\n"),
    alone("load-error", "an error at load", 'throw new RangeError("at load");'),
    alone("load-error-json", "an error at load", 'throw new RangeError("at load");', **JSON),
    alone("load-string", "a string is thrown at load", 'throw "text";'),
    alone("load-syntax", "a syntax error", "exports.handler = async () => {\n  let x = = 1;\n};\n"),
    alone("load-esm-in-js", "export in CommonJS", MODULE),
    alone("load-require-esm", "require() of an ES module", 'require("./b.mjs");', more={"b.mjs": "export const a = 1;"}),
    alone("load-missing-module", "the file is not there", "", file="other.js"),
    alone("load-missing-dependency", "require", 'require("nope-nope");'),
    alone("load-missing-dependency-esm", "import", 'import "nope-nope";', file="app.mjs"),
    alone("load-missing-handler", "the name is not there", "exports.other = async () => 1;"),
    alone("load-no-dot", "the handler's name has no dot", "", handler="app"),
    alone("load-dot-dot", "the handler is outside", "", handler="../app.handler"),
    alone("load-never", "a top-level await that never ends", "await new Promise(() => {});", file="app.mjs"),
    alone("load-bad-marker", "a marker that nobody knows", f"{ANYTHING}exports.handler[{MARKER}] = 'x';"),
    alone("log-init", "before and in the invoke", WARNS),
    alone("log-init-json", "before and in the invoke", WARNS, **JSON),
    # ── the process ends ──
    alone("exit", "exit 7", "exports.handler = async () => process.exit(7);"),
    alone("kill-self", "SIGKILL", 'exports.handler = async () => { process.kill(process.pid, "SIGKILL"); for (;;); };'),
    alone("background-error", "a timer throws", THROWS_LATER),
    alone("unhandled-rejection", "nobody handles it", REJECTS),
    alone("unhandled-rejection-json", "nobody handles it", REJECTS, **JSON),
]

# Where ours differs on purpose.
NAMES_IT = "ours has a type of its own for it, as AWS's 4.x has"
NO_FRAMES = "the error that is made for the log has the frame that called the callback, with AWS's client"
SURVIVES = "AWS's client tells of its own trouble with the thrown value instead of the value"
PLACE = "ours keeps the stack that Node.js made, with the place of the error; so does AWS's 4.x"
ACCEPTED: dict[str, str] = {
    "bigint": NAMES_IT,
    "cycle": NAMES_IT,
    "callback-string": NO_FRAMES,
    "callback-zero": NO_FRAMES,
    "fail-nothing": NO_FRAMES,
    "sync-throw-undefined": "AWS's client takes it for success; an async handler that throws undefined fails there, too",
    "raise-symbol": SURVIVES,
    "raise-bare-object": SURVIVES,
    "raise-like-an-error": "the log of AWS's client says [object Object]",
    "raise-other-realm": "the log of AWS's client has no stack of it",
    "raise-no-stack": SURVIVES,
    "raise-odd-name": SURVIVES,
    "raise-at-fatal": "ours logs the error that the caller gets at any level",
    "load-syntax": PLACE,
    "load-esm-in-js": PLACE,
    "load-missing-module": PLACE,
    "load-missing-dependency": PLACE,
    "load-never": "AWS's client is an ES module itself, which Node.js ends with 13",
    "load-bad-marker": "AWS's client fails with a ReferenceError",
    "stream-http-end": "AWS's client forgets the metadata",
    "stream-write-undefined": "Node.js's own words for it",
    "stream-destroy": "AWS's client cuts the connection and ends",
}


# ── both sides ──


# Frames of the runtimes and of Node.js itself; "new Promise" is of ours, and test_node_errors.py has a test for it.
HIDDEN = ("/var/runtime/", "node:", "new Promise (<anonymous>)", "new Error (<anonymous>)")


class NodeNormal(Normal):
    """Also without the names of the runtimes' own files where Node.js tells which file required a missing one."""

    def text(self, text: str) -> str:
        text = re.sub(r'(?:\n|\\n)- /var/runtime/[^\s"\\]*|,"- /var/runtime/[^"]*"', "", super().text(text))
        return re.sub(r"\(node:\d+\)", "(node:PID)", text)


async def deploy(host: Host, folder: Path, files: Mapping[str, str], client: Path | None, settings: dict[str, Any]) -> Function:
    """A function in `folder` on AWS's client, which is in the folder `client`, or on our runtime if that is None."""
    for name, text in files.items():
        file = folder / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    settings = {"runtime": needs_node().runtime, "timeout": 20} | settings
    if client is not None:
        wrapper = folder / "layer" / "start"
        wrapper.parent.mkdir()
        wrapper.write_text(WRAPPER.format(client=client))
        wrapper.chmod(0o755)
        settings |= {"layers": (str(wrapper.parent),), "environment": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/start"}}
    return await host.deploy(folder / "code", **settings)


async def observe(function: Function, case: Case, client: Path | None) -> Observation:
    """Gives the case to a function that knows it, and then looks whether its process is still there."""
    if case.alone:
        result = await function.invoke(payload=case.event.encode())
        alive = False
        if result.error_phase != "init":
            again = await function.invoke(payload=case.event.encode())
            alive = not any(record.type == "platform.initStart" for record in again.records)
    else:
        before = (await function.invoke("pid")).check().json()
        payload = f'{{"case":{json.dumps(case.name)},"event":{case.event}}}'
        result = await function.invoke(payload=payload.encode())
        alive = (await function.invoke("pid")).check().json() == before
    task = code_of(function)
    places = {
        f"{task}/cases/{case.name}": "/var/task",
        f"{task}/dispatch.js": "/var/runtime/dispatch.js",
        task: "/var/task",
        str(RUNTIME): "/var/runtime",
    }
    if client is not None:
        places |= {str(client): "/var/runtime", os.path.realpath(client): "/var/runtime"}
    found = NodeNormal(places, HIDDEN).observation(result, alive=alive)
    # AWS's client says hello; its cause for X-Ray has no places in it ("path": "file"), so that ours cannot be the same.
    kept = tuple(record for record in found.log if not record.startswith("Executing '"))
    return Observation(found.answer, found.error, found.alive, kept)


async def observe_all(host: Host, folder: Path, client: Path | None, cases: Iterable[NodeCase]) -> dict[str, Observation]:
    """Each case on one side. folder: an empty one, for what is deployed."""
    together: dict[str, list[NodeCase]] = {}
    for one in cases:
        together.setdefault(one.name if one.alone else f"cases {json.dumps(one.settings)}", []).append(one)
    gate = asyncio.Semaphore(2)
    found: dict[str, Observation] = {}

    async def run(number: int, group: list[NodeCase]) -> None:
        first = group[0]
        if first.alone:
            files, settings = {first.file: first.code, **first.more}, dict(first.settings)
        else:
            files = {f"cases/{one.name}/app.js": one.code for one in group} | {"dispatch.js": DISPATCH}
            settings = {"handler": "dispatch.handler"} | dict(first.settings)
        async with gate:
            function = await deploy(host, folder / str(number), files, client, settings)
            for one in group:
                found[one.name] = await observe(function, one, client)
            await function.close()

    async with asyncio.TaskGroup() as tasks:
        for number, group in enumerate(together.values()):
            tasks.create_task(run(number, group))
    return found


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting() as host:
        yield host


@pytest.mark.parametrize("cases", [SHARED, ALONE[: len(ALONE) // 2], ALONE[len(ALONE) // 2 :]], ids=["shared", "alone", "more"])
async def test_ours_does_what_awss_client_does(host: Host, tmp_path: Path, cases: list[NodeCase]) -> None:
    """Except for what the tables say; and whatever they say must still be so."""
    client = NODE_3.folder
    aws = await observe_all(host, tmp_path / "aws", client, cases)
    ours = await observe_all(host, tmp_path / "ours", None, cases)
    told = ACCEPTED
    differing = {one.name: aws[one.name].differences(ours[one.name]) for one in cases}
    unknown = [name for name, found in differing.items() if found and name not in told]
    assert not unknown, "\n\n".join(f"── {name}\n{explain(aws[name], ours[name])}" for name in unknown)
    stale = [name for name, found in differing.items() if not found and name in told]
    assert not stale, f"these are the same by now: {stale}"


def test_the_tables_name_cases_that_exist_and_each_once() -> None:
    names = [one.name for one in SHARED + ALONE]
    assert len(names) == len(set(names))
    assert set(ACCEPTED) <= set(names)
