"""The managed Node.js runtime: what it prints and logs."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest

from sandbox import Host
from tests.conftest import MakeFolder
from tests.runtimes.conftest import code_of, in_both_tiers, in_tier_process, printed
from tests.runtimes.node import EVALUATE, RUNTIME, TIME, Deploy, deploying, hosting

pytestmark = in_tier_process


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting() as host:
        yield host


@pytest.fixture
def deploy(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


# ── what is printed ──


@in_both_tiers
@pytest.mark.catalogue("TL-052")
async def test_stdout_stderr_children_and_the_console_are_logged_in_order(deploy: Deploy) -> None:
    app = """
    const { spawnSync } = require("child_process"), fs = require("fs");
    exports.handler = async () => {
      for (let number = 0; number < 50; number++) {
        process.stdout.write(`out ${number}\\n`);
        console.log("logged", number);
        process.stderr.write(`err ${number}\\n`);
        fs.writeSync(1 + number % 2, `raw ${number}\\n`);
      }
      spawnSync("sh", ["-c", "echo child; echo child err >&2"], { stdio: "inherit" });
      process.stdout.write("two\\nlines\\n\\n");
      process.stdout.write(Buffer.from([0xff, 0x0a]));
    };
    """
    result = await (await deploy(app)).invoke()
    expected = [line for n in range(50) for line in (f"out {n}", f"logged {n}", f"err {n}", f"raw {n}")]
    expected += ["child", "child err", "two", "lines", "", "\N{REPLACEMENT CHARACTER}"]
    assert [line.split("\t")[-1] for line in printed(result)] == expected
    assert {record.request_id for record in result.records if record.type == "function"} == {result.request_id}


async def test_a_line_without_its_end_belongs_to_the_invoke_that_wrote_it(deploy: Deploy) -> None:
    function = await deploy("exports.handler = async (event) => { process.stdout.write(`of ${event}`); };")
    assert [printed(await function.invoke(event)) for event in (1, 2)] == [["of 1"], ["of 2"]]


async def test_a_line_without_its_end_is_not_lost_when_the_process_ends(deploy: Deploy) -> None:
    result = await (await deploy(EVALUATE)).invoke("process.stdout.write('almost'), process.exit(1)")
    assert printed(result)[0] == "almost"


async def test_what_was_logged_is_out_before_the_process_ends(deploy: Deploy) -> None:
    """Far more than a pipe holds. Of process.stdout, Node.js itself loses what does not fit; of the console nothing is lost."""
    result = await (await deploy(EVALUATE)).invoke("(console.log('x'.repeat(1_000_000)), console.log('end'), process.exit(1))")
    # Long records and short ones go by different pipes: which of both comes first is not sure.
    assert "".join(printed(result)).count("x") == 1_000_000
    assert [line for line in printed(result) if line.endswith("\tend")]


# ── the console as text ──


@pytest.mark.catalogue("TL-055", "EN-026")
async def test_a_record_stays_one_record(deploy: Deploy) -> None:
    app = """
    console.warn("in", "init");
    exports.handler = async () => { console.log("one %s\\nrecord", "long"); };
    """
    function = await deploy(app)
    result = await function.invoke()
    init, record = printed(result)
    assert re.fullmatch(rf"{TIME}\tundefined\tWARN\tin init", init)
    assert re.fullmatch(rf"{TIME}\t{result.request_id}\tINFO\tone long\nrecord", record)
    again = await function.invoke()
    assert printed(again)[0].split("\t")[1] == again.request_id != result.request_id


METHODS = [
    *(("trace", "TRACE"), ("debug", "DEBUG"), ("log", "INFO"), ("info", "INFO")),
    *(("warn", "WARN"), ("error", "ERROR"), ("fatal", "FATAL")),
]


async def test_every_method_has_its_level(deploy: Deploy) -> None:
    function = await deploy(EVALUATE)
    result = await function.invoke(
        "['trace', 'debug', 'log', 'info', 'warn', 'error', 'fatal'].map((m) => console[m]('at', m))"
    )
    assert [tuple(line.split("\t")[2:]) for line in printed(result)] == [(level, f"at {method}") for method, level in METHODS]


TEXTS = {
    "{ a: 1, b: { c: { d: { e: 1 } } } }": "{ a: 1, b: { c: { d: [Object] } } }",
    "null": "null",
    "''": "",
    "'%s %d %j', 'x', 5, { k: 1 }, 'more'": 'x 5 {"k":1} more',
    "'tab\\tstays'": "tab\tstays",
    "(() => { const c = {}; c.c = c; return c; })()": "<ref *1> { c: [Circular *1] }",
    "10n, Symbol('s'), undefined": "10n Symbol(s) undefined",
    "new Map([[1, 2]])": "Map(1) { 1 => 2 }",
    "'日本 🎉'": "日本 🎉",
}


async def test_values_are_told_as_nodes_own_console_tells_them(deploy: Deploy) -> None:
    result = await (await deploy(EVALUATE)).invoke(";".join(f"console.log({values})" for values in TEXTS))
    assert [line.split("\t", 3)[3] for line in printed(result)] == list(TEXTS.values())


async def test_nothing_is_told_as_undefined(deploy: Deploy) -> None:
    [line] = printed(await (await deploy(EVALUATE)).invoke("console.log()"))
    assert line.split("\t", 3)[3] == "undefined"


async def test_errors_are_told_with_their_stack_and_properties(deploy: Deploy) -> None:
    app = """
    exports.handler = async () => {
      console.error("failed:", Object.assign(new RangeError("no", { cause: new Error("why") }), { code: "E" }));
    };
    """
    function = await deploy(app)
    [line] = printed(await function.invoke())
    first, second, *rest = line.split("\t", 3)[3].split("\n")
    assert first == "failed: RangeError: no"
    assert second == f"    at exports.handler ({code_of(function)}/app.js:3:42)"
    assert "  code: 'E'," in rest
    assert "  [cause]: Error: why" in rest


async def test_a_logged_stack_is_the_functions(deploy: Deploy) -> None:
    [line] = printed(await (await deploy(EVALUATE)).invoke("console.error(new Error('x'))"))
    assert line.count(str(RUNTIME)) <= 1


async def test_other_methods_go_the_same_way(deploy: Deploy) -> None:
    app = """
    exports.handler = async () => {
      const { log } = console;
      log("taken out");
      console.group("a group");
      console.groupEnd();
      console.assert(1 > 2, "asserted");
      console.count();
      console.table([{ a: 1 }]);
      console.dir({ raw: 1 });
      new console.Console(process.stdout).log("a console of its own");
      process.emitWarning("careful");
      await new Promise(setImmediate);
    };
    """
    taken, group, asserted, count, table, *raw, warned = printed(await (await deploy(app)).invoke())
    levels = [line.split("\t")[2] for line in (taken, group, asserted, count, table, warned)]
    assert levels == ["INFO", "INFO", "WARN", "INFO", "INFO", "ERROR"]
    assert [line.split("\t")[3] for line in (taken, group, asserted, count)] == [
        *("taken out", "a group"),
        *("Assertion failed: asserted", "default: 1"),
    ]
    assert "│ 0       │ 1 │" in table
    assert raw == ["{ raw: 1 }", "a console of its own"]
    assert "Warning: careful" in warned


async def test_long_records_are_whole_and_show_no_frame_head(deploy: Deploy) -> None:
    """Those of more than 4,096 bytes take another way than short ones; those of more than 256 KiB are cut, as AWS does."""
    function = await deploy(EVALUATE)
    for size in (4000, 4096, 5000, 65_536, 100_000, 1_500_000):
        result = await function.invoke(f"console.log('z'.repeat({size}))")
        assert re.fullmatch(rf"{TIME}\t{result.request_id}\tINFO\tz+", "".join(printed(result)))
        assert "".join(printed(result)).count("z") == size


async def test_a_flood_from_threads_and_children_breaks_no_record(deploy: Deploy) -> None:
    """They write into the same pipe, in pieces larger than a pipe takes at once, while the handler logs."""
    app = """
    const { Worker } = require("worker_threads"), { spawn } = require("child_process");
    const noise = `const line = "w".repeat(99) + "\\\\n";
      for (let n = 0; n < 50; n++) require("fs").writeSync(1, line.repeat(400));`;
    exports.handler = async () => {
      const worker = new Worker(noise, { eval: true });
      const child = spawn("sh", ["-c", "for i in $(seq 300); do echo child $i; done"], { stdio: ["ignore", 1, 1] });
      const ends = [new Promise((done) => worker.on("exit", done)), new Promise((done) => child.on("exit", done))];
      for (let number = 0; number < 300; number++) {
        console.log("logged\\n%d", number);
        if (number % 10 === 0) await new Promise(setImmediate);
      }
      await Promise.all(ends);
    };
    """
    lines = printed(await (await deploy(app)).invoke())
    logged = [line for line in lines if "\t" in line]
    assert [line.split("\t")[3] for line in logged] == [f"logged\n{number}" for number in range(300)]
    rest = "".join(line for line in lines if "\t" not in line)
    assert rest.count("w") == 99 * 400 * 50
    assert all(f"child {number}" in rest for number in range(1, 301))


# ── the console as JSON ──


@in_both_tiers
@pytest.mark.catalogue("EN-011", "TL-054")
async def test_json_records(deploy: Deploy) -> None:
    app = """
    console.log("loading");
    exports.handler = async () => {
      console.info("said %s\\ntwice", "ü");
      console.error({ order: 7, failed: new RangeError("no") });
      console.warn("it failed:", Object.assign(new TypeError("no"), { code: "E" }), 5);
    };
    """
    function = await deploy(app, log_format="JSON")
    result = await function.invoke(tenant_id="blue")
    loading, *records = [json.loads(line) for line in printed(result)]
    assert list(loading) == ["timestamp", "level", "message"]
    assert (loading["level"], loading["message"]) == ("INFO", "loading")
    for record in records:
        assert list(record)[:5] == ["timestamp", "level", "requestId", "tenantId", "message"]
        assert re.fullmatch(TIME, record["timestamp"])
        assert (record["requestId"], record["tenantId"]) == (result.request_id, "blue")
    said, value, failed = records
    assert (said["level"], said["message"]) == ("INFO", "said ü\ntwice")
    stack = value["message"]["failed"].pop("stackTrace")
    assert stack[:2] == ["RangeError: no", f"    at exports.handler ({code_of(function)}/app.js:5:37)"]
    assert (value["level"], value["message"]) == (
        "ERROR",
        {"order": 7, "failed": {"errorType": "RangeError", "errorMessage": "no"}},
    )
    assert list(failed)[5:] == ["errorType", "errorMessage", "stackTrace"]
    assert (failed["errorType"], failed["errorMessage"], failed["stackTrace"][0]) == ("TypeError", "no", "TypeError: no")
    assert failed["message"].startswith("it failed: TypeError: no\n    at exports.handler (")
    [after] = [json.loads(line) for line in printed(await function.invoke())][:1]
    assert "tenantId" not in after


NO_MESSAGE = object()
JSONS = {
    "{ a: { b: { c: { d: { e: 1 } } } } }": {"a": {"b": {"c": {"d": {"e": 1}}}}},
    "null": None,
    "": NO_MESSAGE,
    "undefined": NO_MESSAGE,
    "() => 1": NO_MESSAGE,
    "''": "",
    "5": 5,
    "[1, [2]]": [1, [2]],
    "new Map([[1, 2]])": {},
    "new Date(0)": "1970-01-01T00:00:00.000Z",
    "(() => { const c = {}; c.c = c; return c; })()": "<ref *1> { c: [Circular *1] }",
    "10n": "10n",
    "{ toJSON() { throw new Error('inner'); } }": "{ toJSON: [Function: toJSON] }",
    "'%s %d', 'x', 5, { k: 1 }": "x 5 { k: 1 }",
    "'x', undefined": "x undefined",
    "'日本 🎉 \\u2028'": "日本 🎉 \u2028",
}


async def test_a_single_value_is_an_object_in_json_several_are_a_text(deploy: Deploy) -> None:
    function = await deploy(EVALUATE, log_format="JSON")
    result = await function.invoke(";".join(f"console.log({values})" for values in JSONS))
    assert [json.loads(line).get("message", NO_MESSAGE) for line in printed(result)] == list(JSONS.values())


@pytest.mark.catalogue("TL-054", "EN-011")
async def test_an_error_that_is_thrown_in_json(deploy: Deploy) -> None:
    app = """
    class Mine extends Error { constructor(message) { super(message); this.name = "Named"; this.code = "E"; } }
    exports.handler = async () => { throw new Mine("no\\nthing"); };
    """
    result = await (await deploy(app, log_format="JSON")).invoke()
    [line] = printed(result)
    record = json.loads(line)
    assert (record["level"], record["requestId"]) == ("ERROR", result.request_id)
    assert record["message"] == {
        "errorType": "Mine",  # the class here, the name in what the caller gets; as AWS's client has it
        "errorMessage": "no\nthing",
        "stackTrace": result.json()["trace"],
        "name": "Named",
        "code": "E",
    }
    assert result.json()["errorType"] == "Named"


@pytest.mark.catalogue("EN-011")
@pytest.mark.parametrize("level", ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"])
async def test_levels_filter_the_console_and_nothing_else(deploy: Deploy, level: str) -> None:
    app = """
    exports.handler = async () => {
      for (const method of ["trace", "debug", "log", "info", "warn", "error", "fatal"]) console[method]("said");
      process.stdout.write("printed\\n");
      return [process.env.AWS_LAMBDA_LOG_FORMAT, process.env.AWS_LAMBDA_LOG_LEVEL];
    };
    """
    result = await (await deploy(app, log_format="JSON", log_level=level)).invoke()
    assert result.check().json() == ["JSON", level]
    *records, last = printed(result)
    assert last == "printed"
    names = [name for _, name in METHODS]
    assert [json.loads(line)["level"] for line in records] == names[names.index(level) :]


async def test_an_error_is_logged_at_any_level(deploy: Deploy) -> None:
    """AWS's client is silent at FATAL; nobody is helped by that at two in the morning."""
    function = await deploy(EVALUATE, log_format="JSON", log_level="FATAL")
    [line] = printed(await function.invoke("Promise.reject(new Error('no'))"))
    assert json.loads(line)["message"]["errorMessage"] == "no"


@pytest.mark.catalogue("EN-026", "TL-055")
async def test_the_log_descriptor_is_hidden_from_the_handler_and_from_children(deploy: Deploy) -> None:
    app = """
    const { execFileSync } = require("child_process");
    const atLoad = process.env._LAMBDA_TELEMETRY_LOG_FD;
    exports.handler = async () => {
      console.log("one\\nrecord");
      const told = [atLoad, process.env._LAMBDA_TELEMETRY_LOG_FD];
      // Node.js gives a child sockets for stdout and stderr: whatever pipe it has would be one of ours.
      told.push(execFileSync("sh", ["-c", "ls -l /proc/self/fd; env"], { encoding: "utf8" }).match(/pipe:|_LOG_FD|socket:/g));
      return told;
    };
    """
    result = await (await deploy(app)).invoke()
    assert result.check().json() == [None, None, ["socket:"] * 3]
    assert printed(result)[0].endswith("\tone\nrecord")  # so there is such a descriptor
