"""The managed Node.js runtime: variables, options of Node.js, wrappers, layers, what can be required and imported."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from tests.conftest import MakeFolder
from tests.runtimes.conftest import TRACE, code_of, in_both_tiers, in_tier_process, platform_error, printed
from tests.runtimes.node import EVALUATE, RUNTIME, Deploy, deploying, hosting, needs_node
from tests.runtimes.test_python_surroundings import BY_CHANCE, EVERYWHERE, OURS, PATHS, PER_ENVIRONMENT

pytestmark = in_tier_process


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting() as host:
        yield host


@pytest.fixture
def deploy(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


def write(folder: Path, files: dict[str, str]) -> str:
    """A layer, or anything else that is a folder of files."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if text.startswith("#!"):
            file.chmod(0o755)
    return str(folder)


# ── variables and options ──


@pytest.mark.catalogue(
    *("EN-003", "EN-005", "EN-006", "EN-007", "EN-009", "EN-011", "EN-012", "EN-013", "EN-014", "EN-015", "EN-016"),
    *("EN-017", "RT-001"),
)
async def test_the_variables_of_the_managed_runtime_and_no_others(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_OF_THE_HOST", "NODE_OPTIONS", "NODE_PATH", "NODE_ENV", "npm_config_prefix"):
        monkeypatch.setenv(name, "the host's")
    function = await deploy(EVALUATE)
    told = (await function.invoke("process.env", trace_id=TRACE)).check().json()
    assert {name: told.get(name) for name in EVERYWHERE} == EVERYWHERE
    major = needs_node().number[0]
    assert (told["AWS_EXECUTION_ENV"], told["_X_AMZN_TRACE_ID"]) == (f"AWS_Lambda_nodejs{major}.x", TRACE)
    more = {"AWS_EXECUTION_ENV", "_X_AMZN_TRACE_ID", "NODE_PATH"}
    assert set(told) - BY_CHANCE == set(EVERYWHERE) | PER_ENVIRONMENT | PATHS | OURS | more
    task, runtime, opt = told["LAMBDA_TASK_ROOT"], told["LAMBDA_RUNTIME_DIR"], told["PATH"].split(":")[-1].removesuffix("/bin")
    assert (task, runtime) == (code_of(function), str(RUNTIME))
    assert told["NODE_PATH"].split(":") == [
        *(f"{opt}/nodejs/node{major}/node_modules", f"{opt}/nodejs/node_modules"),
        *(f"{runtime}/node_modules", runtime, task),
    ]
    assert re.fullmatch(r"[a-z0-9.]+:\d+", told["AWS_LAMBDA_RUNTIME_API"])


@in_both_tiers
@pytest.mark.parametrize(("memory", "young", "old"), [(128, 6, 116), (1769, 88, 1593)])
async def test_node_runs_with_the_options_of_lambda(deploy: Deploy, memory: int, young: int, old: int) -> None:
    function = await deploy(EVALUATE, memory_mb=memory)
    told = (await function.invoke("[process.execArgv, typeof gc, require('http').maxHeaderSize, process.argv.length]")).check()
    options, gc, header_size, arguments = told.json()
    expected = ["--expose-gc", "--max-http-header-size", "81920"]
    expected += [f"--max-semi-space-size={young}", f"--max-old-space-size={old}"]
    assert options[:5] == expected
    assert set(options[5:]) <= {"--no-experimental-require-module", "--no-experimental-detect-module"}
    assert (gc, header_size, arguments) == ("function", 81920, 2)


@pytest.mark.catalogue("EN-002")
@pytest.mark.parametrize("option", ["--max-old-space-size=200", "--max_old_space_size=200"])
async def test_the_users_options_of_memory_win(deploy: Deploy, option: str) -> None:
    function = await deploy(EVALUATE, environment={"NODE_OPTIONS": option})
    limit, options = (
        (await function.invoke("[require('v8').getHeapStatistics().heap_size_limit, process.execArgv]")).check().json()
    )
    assert not [one for one in options if "space" in one]
    assert 200 <= limit / 1024 / 1024 < 300


@pytest.mark.catalogue("EN-002")
async def test_the_users_other_options_come_on_top(deploy: Deploy) -> None:
    options = {"NODE_OPTIONS": "--no-deprecation --require ./first.js"}
    function = await deploy(EVALUATE, {"first.js": "globalThis.first = process.cwd();"}, environment=options)
    told = (await function.invoke("[first, process.noDeprecation, process.execArgv.includes('--expose-gc')]")).check().json()
    assert told == [code_of(function), True, True]


async def test_requiring_es_modules_can_be_switched_on(deploy: Deploy) -> None:
    """Newer versions of Node.js can; Lambda has switched it off, and leaves it to those who ask for it."""
    files = {"other.mjs": "export const handler = async () => 'required';"}
    function = await deploy(
        "exports.handler = require('./other.mjs').handler;",
        files,
        environment={"NODE_OPTIONS": "--experimental-require-module"},
    )
    if needs_node().number < (20, 17):
        pytest.skip("this Node.js cannot require ES modules at all")
    assert (await function.invoke()).check().json() == "required"


@pytest.mark.parametrize(("value", "kind"), [("1", "undefined"), ("true", "undefined"), ("0", "object"), ("", "object")])
async def test_the_global_awslambda_can_be_left_out(deploy: Deploy, value: str, kind: str) -> None:
    function = await deploy(EVALUATE, environment={"AWS_LAMBDA_NODEJS_NO_GLOBAL_AWSLAMBDA": value})
    assert (await function.invoke("typeof awslambda")).check().json() == kind


async def test_the_global_awslambda(deploy: Deploy) -> None:
    app = """
    const marked = awslambda.streamifyResponse(() => {}, { highWaterMark: 100 });
    exports.handler = async () => [
      Object.keys(awslambda).sort(),
      Object.keys(awslambda.HttpResponseStream),
      Object.getOwnPropertySymbols(marked).map((symbol) => [symbol.description, marked[symbol]]),
    ];
    """
    assert (await (await deploy(app)).invoke()).check().json() == [
        ["HttpResponseStream", "streamifyResponse"],
        ["from"],
        [
            ["aws.lambda.runtime.handler.streaming", "response"],
            ["aws.lambda.runtime.handler.streaming.highWaterMark", 100],
        ],
    ]


# ── what can be required and imported ──


def layers(tmp_path: Path) -> tuple[str, str]:
    """The lower one, then the one that covers it."""
    major = needs_node().number[0]
    module = "nodejs/node_modules"
    of_version = f"nodejs/node{major}/node_modules"
    low = {
        f"{module}/low/index.js": "exports.where = 'low';",
        f"{module}/both/index.js": "exports.where = 'low';",
        f"{module}/mine/index.js": "exports.where = 'low';",
        f"{module}/versioned/index.js": "exports.where = 'low';",
        f"{of_version}/versioned/index.js": "exports.where = 'for this version';",
        f"{module}/@scope/pure/package.json": '{"type": "module", "exports": {".": "./pure.js", "./sub": "./sub.js"}}',
        f"{module}/@scope/pure/pure.js": "export const where = 'an ES module';",
        f"{module}/@scope/pure/sub.js": "export { where } from 'low';",
    }
    return write(tmp_path / "low", low), write(tmp_path / "high", {f"{module}/both/index.js": "exports.where = 'high';"})


FOUND = {"low": "low", "both": "high", "mine": "function", "versioned": "for this version"}
MINE = {"node_modules/mine/index.js": "exports.where = 'function';"}


@in_both_tiers
@pytest.mark.catalogue("EN-016", "EN-053", "EN-055")
async def test_layers_from_require(deploy: Deploy, tmp_path: Path) -> None:
    app = "exports.handler = async (event) => event.map((name) => require(name).where);"
    function = await deploy(app, MINE, layers=layers(tmp_path))
    assert (await function.invoke(list(FOUND))).check().json() == list(FOUND.values())


@in_both_tiers
@pytest.mark.catalogue("EN-016", "EN-055")
async def test_layers_from_import(deploy: Deploy, tmp_path: Path) -> None:
    """A Node.js as it comes does not look at NODE_PATH for ES modules; Lambda's does."""
    app = """
    import { where } from "low";
    import { where as pure } from "@scope/pure";
    import { where as sub } from "@scope/pure/sub";
    const of = async (name) => (await import(name)).where;
    export const handler = async (event) => [where, pure, sub, ...await Promise.all(event.map(of))];
    """
    function = await deploy(app, MINE, file="app.mjs", layers=layers(tmp_path))
    expected = ["low", "an ES module", "low", *FOUND.values()]
    assert (await function.invoke(list(FOUND))).check().json() == expected


@pytest.mark.catalogue("EN-016")
async def test_what_no_layer_has_is_told_as_node_tells_it(deploy: Deploy, tmp_path: Path) -> None:
    app = """
    export const handler = async (event) => {
      try { return await import(event); } catch (error) { return [error.code, error.message]; }
    };
    """
    function = await deploy(app, {"broken.mjs": "import 'nowhere/at/all';"}, file="app.mjs", layers=layers(tmp_path))

    for name, words in {
        "nowhere": "Cannot find package 'nowhere' imported from {root}/app.mjs",
        "./nowhere.mjs": "Cannot find module '{root}/nowhere.mjs' imported from {root}/app.mjs",
        "./broken.mjs": "Cannot find package 'nowhere' imported from {root}/broken.mjs",
    }.items():
        code, message = (await function.invoke(name)).check().json()
        assert (code, message) == ("ERR_MODULE_NOT_FOUND", words.format(root=code_of(function)))


@pytest.mark.catalogue("EN-016", "EN-055")
async def test_layers_from_import_in_commonjs(deploy: Deploy, tmp_path: Path) -> None:
    app = "exports.handler = async (event) => (await import('@scope/pure')).where;"
    function = await deploy(app, layers=layers(tmp_path))
    assert (await function.invoke()).check().json() == "an ES module"


@pytest.mark.catalogue("EN-002")
async def test_any_folder_of_node_path_counts_for_import(deploy: Deploy, tmp_path: Path) -> None:
    shared = write(
        tmp_path / "shared", {"tool/package.json": '{"main": "tool.js"}', "tool/tool.js": "exports.where = 'shared';"}
    )
    function = await deploy("export { where as handler } from 'tool';", file="app.mjs", environment={"NODE_PATH": shared})
    # `where` is a string, which is no handler: it is found, then
    assert (await function.invoke()).json()["errorType"] == "Runtime.HandlerNotFound"


@in_both_tiers
async def test_a_handler_may_be_in_a_layer(deploy: Deploy, tmp_path: Path) -> None:
    layer = write(
        tmp_path / "l",
        {"nodejs/node_modules/wrapper/index.js": "exports.handler = async () => require(`${process.cwd()}/app`);"},
    )
    function = await deploy("module.exports = 'found';", handler="wrapper.handler", layers=(layer,))
    assert (await function.invoke()).check().json() == "found"


@pytest.mark.catalogue("EN-002")
async def test_the_users_node_path_wins(deploy: Deploy, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {"elsewhere.js": "exports.x = 'found';"})
    function = await deploy(EVALUATE, environment={"NODE_PATH": mine})
    assert (await function.invoke("[require('elsewhere').x, process.env.NODE_PATH]")).check().json() == ["found", mine]


async def test_modules_are_found_from_the_root_of_the_code(deploy: Deploy) -> None:
    """NODE_PATH ends with it."""
    files = {"src/deep/uses.js": "exports.x = require('src/other').x;", "src/other.js": "exports.x = 'from the root';"}
    function = await deploy("exports.handler = async () => require('./src/deep/uses').x;", files)
    assert (await function.invoke()).check().json() == "from the root"


@pytest.mark.parametrize("name", ["lib/logs", "lib/client", "lib/context", "lib/streaming", "lib/runtime"])
async def test_our_own_files_hide_nothing_of_the_functions(deploy: Deploy, name: str) -> None:
    app = "exports.handler = async (event) => require(event);"
    function = await deploy(app, {f"{name}.js": "module.exports = 'mine';"})
    assert (await function.invoke(name)).check().json() == "mine"


async def test_our_own_files_cannot_be_required_by_name(deploy: Deploy) -> None:
    app = """
    exports.handler = async (event) => event.filter((name) => {
      try { return require.resolve(name); } catch { return false; }
    });
    """
    names = ["lib/runtime", "lib/client", "lib/logs", "lib/faults", "lib/loading", "runtime", "client", "logs", "index"]
    assert (await (await deploy(app)).invoke(names)).check().json() == []


@in_both_tiers
async def test_nothing_is_left_in_the_code_folder(host: Host, folder: MakeFolder) -> None:
    code = folder(**{"app.mjs": "import './part.mjs';\nexport const handler = async () => 1;", "part.mjs": ""})
    before = sorted(code.rglob("*"))
    function = await host.deploy(code, runtime=needs_node().runtime, handler="app.handler", timeout=20)
    assert (await function.invoke()).check().json() == 1
    assert sorted(code.rglob("*")) == before


# ── the wrapper ──


@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_gets_the_interpreter_and_its_arguments(deploy: Deploy, tmp_path: Path) -> None:
    wrapper = write(tmp_path / "w", {"wrapper": '#!/bin/sh\necho "wrapped $1 $2" >&2\nexport FROM_WRAPPER="$#"\nexec "$@"\n'})
    function = await deploy(EVALUATE, environment={"AWS_LAMBDA_EXEC_WRAPPER": f"{wrapper}/wrapper"})
    result = await function.invoke("[process.env.FROM_WRAPPER, process.execPath, process.execArgv.length]")
    count, executable, options = result.check().json()
    assert int(count) == options + 2  # and the program, and what it runs
    assert printed(result) == [f"wrapped {executable} --expose-gc"]


@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_may_add_options(deploy: Deploy, tmp_path: Path) -> None:
    """That of OpenTelemetry does it so, or by NODE_OPTIONS."""
    script = '#!/bin/sh\nnode=$1; shift\nexport NODE_OPTIONS="--require $PWD/first.js"\nexec "$node" --title=wrapped "$@"\n'
    wrapper = write(tmp_path / "w", {"wrapper": script})
    function = await deploy(
        EVALUATE, {"first.js": "globalThis.first = true;"}, environment={"AWS_LAMBDA_EXEC_WRAPPER": f"{wrapper}/wrapper"}
    )
    assert (await function.invoke("[process.title, first]")).check().json() == ["wrapped", True]


@in_both_tiers
@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_in_a_layer_is_named_below_opt(deploy: Deploy, tmp_path: Path) -> None:
    layer = write(tmp_path / "layer", {"wrapper": '#!/bin/sh\nexport FROM_WRAPPER=yes\nexec "$@"\n'})
    settings: dict[str, Any] = {"environment": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrapper"}, "layers": (layer,)}
    function = await deploy(EVALUATE, **settings)
    assert (await function.invoke("process.env.FROM_WRAPPER")).check().json() == "yes"


@pytest.mark.catalogue("EN-022", "LC-012")
@pytest.mark.parametrize(("mode", "status"), [(None, 127), (0o644, 126)])
async def test_a_wrapper_that_cannot_be_started(deploy: Deploy, tmp_path: Path, mode: int | None, status: int) -> None:
    wrapper = tmp_path / "wrapper"
    if mode is not None:
        wrapper.write_text("#!/bin/sh\n")
        wrapper.chmod(mode)
    function = await deploy(EVALUATE, environment={"AWS_LAMBDA_EXEC_WRAPPER": str(wrapper)})
    result = await function.invoke("1")
    assert result.json() == platform_error(result, "Runtime.ExitError", f"Runtime exited with error: exit status {status}")
    hint = {127: "AWS_LAMBDA_EXEC_WRAPPER", 126: f"{wrapper}: Permission denied"}[status]
    assert hint in "\n".join(r.record for r in result.records if r.type == "sandbox.diagnosis")


# ── phases ──


async def test_function_init_is_a_phase_of_its_own(deploy: Deploy) -> None:
    app = "await new Promise((done) => setTimeout(done, 100));\nexport const handler = async () => 1;"
    function = await deploy(app, file="app.mjs")
    cold, warm = await function.invoke(), await function.invoke()
    assert [phase.name for phase in cold.phases] == ["init", "runtime-init", "function-init", "invoke"]
    init, runtime, own, _ = cold.phases
    assert init.duration_ms is not None
    assert runtime.duration_ms is not None
    assert own.duration_ms is not None
    assert init.duration_ms >= own.duration_ms > 50  # it waited there, and nowhere else
    assert [phase.name for phase in warm.phases] == ["invoke"]
