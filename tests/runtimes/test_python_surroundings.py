"""The managed Python runtime: wrappers, layers, imports, phases, variables, limits."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.core.errors import ConfigError
from sandbox.core.limits import VARIABLES_LIMIT
from tests.conftest import MakeFolder
from tests.runtimes.conftest import (
    CUSTOM,
    CUSTOM_PY,
    EVALUATE,
    PID,
    PYTHON,
    TRACE,
    Deploy,
    code_of,
    in_both_tiers,
    in_tier_process,
    platform_error,
    printed,
)

pytestmark = in_tier_process

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


@in_both_tiers
@pytest.mark.catalogue("EN-022", "LC-012")
async def test_a_wrapper_that_is_not_there(deploy: Deploy, tmp_path: Path) -> None:
    function = await deploy(EVALUATE, environment={"AWS_LAMBDA_EXEC_WRAPPER": str(tmp_path / "missing")})
    result = await function.invoke("1")
    assert result.json() == platform_error(result, "Runtime.ExitError", "Runtime exited with error: exit status 127")
    assert "AWS_LAMBDA_EXEC_WRAPPER" in "\n".join(r.record for r in result.records if r.type == "sandbox.diagnosis")


@in_both_tiers
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


@in_both_tiers
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


@in_both_tiers
@pytest.mark.catalogue("EN-055", "EN-014")
async def test_programs_of_a_layer_are_on_the_path(deploy: Deploy, tmp_path: Path) -> None:
    program = tmp_path / "layer" / "bin" / "say-hello"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello from a layer\n")
    program.chmod(0o755)
    function = await deploy(EVALUATE, layers=(str(tmp_path / "layer"),))
    result = await function.invoke("subprocess.check_output(['say-hello'], text=True)")
    assert result.check().json() == "hello from a layer\n"


@in_both_tiers
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


@in_both_tiers
async def test_nothing_is_left_in_the_code_folder(host: Host, folder: MakeFolder) -> None:
    app = "import helper\nfrom package import part\ndef handler(event, context):\n    return part.x\n"
    code = folder(**{"app.py": app, "helper.py": "", "package/__init__.py": "", "package/part.py": "x = 1\n"})
    before = sorted(code.rglob("*"))
    function = await host.deploy(code, runtime="python", handler="app.handler", timeout=20)
    assert (await function.invoke()).check().json() == 1
    assert sorted(code.rglob("*")) == before


# ── phases ──


@in_both_tiers
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


@in_both_tiers
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
