"""The managed Ruby runtime: wrappers, layers, gems, what is loaded, variables, the marked runtime id."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.host.interpreters import OFFERED, Interpreters
from tests.conftest import MakeFolder
from tests.runtimes.conftest import TRACE, Deploy, code_of, in_both_tiers, in_tier_process, platform_error, printed
from tests.runtimes.ruby import EVALUATE, deploying, facing, ruby

pytestmark = in_tier_process


@pytest.fixture
def deploy_ruby(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


def abi() -> str:
    """What folders of gems are named after."""
    major, minor, *_ = ruby().number
    return f"{major}.{minor}.0"


def write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if text.startswith("#!"):
            file.chmod(0o755)
    return str(folder)


def gem(name: str, text: str, version: str = "1.2.3") -> dict[str, str]:
    """The files of an installed gem."""
    specification = (
        f"Gem::Specification.new {{ |s| s.name = {name!r}; s.version = {version!r}; s.summary = 'x'; s.authors = ['x']; "
    )
    return {
        f"gems/{name}-{version}/lib/{name}.rb": text,
        f"specifications/{name}-{version}.gemspec": specification + "s.files = []; s.require_paths = ['lib'] }\n",
    }


def requires(library: str) -> bool:
    """Whether this Ruby finds it, with nothing set."""
    command = [ruby().path, "-e", f"require '{library}'"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# ── the wrapper, layers, gems ──


@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_gets_the_interpreter_and_its_arguments(deploy_ruby: Deploy, tmp_path: Path) -> None:
    wrapper = '#!/bin/sh\necho "wrapped $1" >&2\nexport FROM_WRAPPER="$#"\nexec "$1" -W1 "$2"\n'
    write(tmp_path, {"wrapper": wrapper})
    function = await deploy_ruby(environment={"AWS_LAMBDA_EXEC_WRAPPER": str(tmp_path / "wrapper")})
    result = await function.invoke("[ENV['FROM_WRAPPER'], Gem.ruby, ENV['AWS_LAMBDA_EXEC_WRAPPER']]")
    assert result.check().json() == ["2", ruby().path, str(tmp_path / "wrapper")]
    assert printed(result) == [f"wrapped {ruby().path}"]


@pytest.mark.catalogue("EN-022", "LC-012")
async def test_a_wrapper_that_is_not_there(deploy_ruby: Deploy, tmp_path: Path) -> None:
    function = await deploy_ruby(environment={"AWS_LAMBDA_EXEC_WRAPPER": str(tmp_path / "missing")})
    result = await function.invoke("1")
    assert result.json() == platform_error(result, "Runtime.ExitError", "Runtime exited with error: exit status 127")
    assert "AWS_LAMBDA_EXEC_WRAPPER" in "\n".join(r.record for r in result.records if r.type == "sandbox.diagnosis")


@in_both_tiers
@pytest.mark.catalogue("EN-022")
async def test_a_wrapper_in_a_layer_is_named_below_opt(deploy_ruby: Deploy, tmp_path: Path) -> None:
    layer = write(tmp_path / "layer", {"wrapper": '#!/bin/sh\nexport FROM_WRAPPER=yes\nexec "$@"\n'})
    settings: dict[str, Any] = {"environment": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrapper"}, "layers": (layer,)}
    assert (await (await deploy_ruby(**settings)).invoke("ENV['FROM_WRAPPER']")).check().json() == "yes"


@in_both_tiers
@pytest.mark.catalogue("EN-016", "EN-053", "EN-055")
async def test_layers_and_gems(deploy_ruby: Deploy, tmp_path: Path) -> None:
    """ruby/lib and ruby/gems of layers, the last layer wins, and the function's own files and gems win over them."""
    gems = f"ruby/gems/{abi()}"
    low = {"ruby/lib/only_low.rb": "LOW = :low\n", "ruby/lib/both.rb": "BOTH = :low\n", "ruby/lib/mine.rb": "MINE = :low\n"}
    low |= {f"{gems}/{name}": text for name, text in gem("layered", "LAYERED = :low\n").items()}
    low |= {f"{gems}/{name}": text for name, text in gem("bundled", "BUNDLED = :low\n").items()}
    layers = (write(tmp_path / "low", low), write(tmp_path / "high", {"ruby/lib/both.rb": "BOTH = :high\n"}))
    app = """
    require "both"
    require "bundled"
    require "layered"
    require "mine"
    require "only_low"
    def handler(event:, context:) = [BOTH, BUNDLED, LAYERED, MINE, LOW, Gem.loaded_specs["layered"].version.to_s]
    """
    bundle = {f"vendor/bundle/ruby/{abi()}/{name}": text for name, text in gem("bundled", "BUNDLED = :function\n").items()}
    function = await deploy_ruby(app, {"mine.rb": "MINE = :function\n", **bundle}, layers=layers)
    assert (await function.invoke()).check().json() == ["high", "function", "low", "function", "low", "1.2.3"]


async def test_a_gem_of_the_function_is_newer_than_the_default_one(deploy_ruby: Deploy) -> None:
    """A gem that the runtime has not loaded itself can be brought along."""
    files = gem("prettyprint", "class PrettyPrint; MINE = :function; end\n", "99.0.0")
    bundle = {f"vendor/bundle/ruby/{abi()}/{name}": text for name, text in files.items()}
    result = await (await deploy_ruby(files=bundle)).invoke("require 'prettyprint'; PrettyPrint::MINE")
    assert result.check().json() == "function"


@pytest.mark.catalogue("EN-003")
async def test_the_code_folder_comes_first_where_files_are_looked_for(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(files={"lib/part.rb": "PART = 1\n", "set.rb": "OWN_SET = 1\n"})
    first, cwd, program = (await function.invoke("[$LOAD_PATH.first, Dir.pwd, ARGV]")).check().json()
    assert (first, cwd, program) == (code_of(function), code_of(function), [])
    assert (await function.invoke("require 'lib/part'; require_relative 'lib/part'; PART")).check().json() == 1


BUNDLED = "rexml/document"  # of Ruby's own bundled gems; AWS's images have them, and its SDK for Ruby uses this one


@in_both_tiers
async def test_gems_that_come_with_ruby_can_be_required(deploy_ruby: Deploy) -> None:
    if not requires(BUNDLED):
        pytest.skip(f"{BUNDLED} is not installed with this Ruby")
    assert (await (await deploy_ruby()).invoke(f"require '{BUNDLED}'")).check().json() is True


async def test_gems_of_the_users_home_cannot_be_required(deploy_ruby: Deploy, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", write(tmp_path, {f".gem/ruby/{abi()}/{n}": text for n, text in gem("of_home", "").items()}))
    for name, text in gem("of_home", "").items():
        write(tmp_path, {f".local/share/gem/ruby/{abi()}/{name}": text})
    result = await (await deploy_ruby()).invoke("require 'of_home'")
    assert result.json()["errorType"] == "Function<LoadError>"


@in_both_tiers
async def test_nothing_is_left_in_the_code_folder(host: Host, folder: MakeFolder) -> None:
    code = folder(**{"app.rb": "require 'helper'\ndef handler(event:, context:) = 1\n", "helper.rb": ""})
    before = sorted(code.rglob("*"))
    function = await host.deploy(code, runtime=ruby().runtime, handler="app.handler", timeout=20)
    assert (await function.invoke()).check().json() == 1
    assert sorted(code.rglob("*")) == before


# ── what is loaded ──


async def test_what_functions_may_use_without_asking_for_it(deploy_ruby: Deploy) -> None:
    """AWS's client has loaded it."""
    names = "Net::HTTP::Get, Net::HTTP.new('h', 1).port, JSON.generate(1), StringIO, Logger, Socket, Net::ReadTimeout"
    told = (await (await deploy_ruby("def handler(event:, context:) = [" + names + "]\n")).invoke()).check().json()
    assert told == ["Net::HTTP::Get", 1, "1", "StringIO", "Logger", "Socket", "Net::ReadTimeout"]


async def test_what_the_client_of_aws_brings_along(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby("def handler(event:, context:) = eval(event)\n")
    names = ["URI('http://a/b').path", "URI.parse('http://a').host", "Timeout.timeout(9) { 1 }", "Time.at(0).utc.iso8601"]
    names.append("Time.parse('2026-01-01').year")
    found = [(await function.invoke(name)).json() for name in names]
    assert found == ["/b", "a", 1, "1970-01-01T00:00:00Z", 2026]


@pytest.mark.parametrize("library", ["net/http", "open-uri", "net/protocol"])  # the last as net/smtp, net/imap and mail do
async def test_libraries_that_open_net_can_be_required(deploy_ruby: Deploy, library: str) -> None:
    app = f"require '{library}'\ndef handler(event:, context:) = Net::HTTP.name\n"
    assert (await (await deploy_ruby(app)).invoke()).check().json() == "Net::HTTP"


# ── phases ──


async def test_function_init_is_a_phase_of_its_own(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby("sleep 0.1\ndef handler(event:, context:) = 1\n")
    cold, warm = await function.invoke(), await function.invoke()
    assert [phase.name for phase in cold.phases] == ["init", "runtime-init", "function-init", "invoke"]
    init, runtime, own, _ = (phase.duration_ms for phase in cold.phases)
    assert init is not None
    assert runtime is not None
    assert own is not None
    assert init >= own > 50  # it slept there, and nowhere else
    assert [phase.name for phase in warm.phases] == ["invoke"]


# ── variables ──

BY_CHANCE = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}  # of the shell, of macOS
VARIABLES = {
    *("_AWS_XRAY_DAEMON_ADDRESS", "_AWS_XRAY_DAEMON_PORT", "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_ACCESS_KEY_ID"),
    *("AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME"),
    *("AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME"),
    *("AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_XRAY_CONTEXT_MISSING", "AWS_XRAY_DAEMON_ADDRESS", "GEM_PATH", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT", "LANG"),
    *("LD_LIBRARY_PATH", "PATH", "RUBYLIB", "TZ", "TMPDIR"),
}


@pytest.mark.catalogue("EN-003", "EN-005", "EN-012", "EN-013", "EN-016", "EN-023")
async def test_the_variables_of_the_managed_runtime_and_no_others(deploy_ruby: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_OF_THE_HOST", "RUBYOPT", "RUBYLIB", "GEM_HOME", "GEM_PATH", "BUNDLE_GEMFILE", "HTTP_PROXY", "LC_ALL"):
        monkeypatch.setenv(name, "the host's")
    told = (await (await deploy_ruby()).invoke("ENV.to_h", trace_id=TRACE)).check().json()
    assert set(told) - BY_CHANCE == VARIABLES
    task, runtime, opt = told["LAMBDA_TASK_ROOT"], told["LAMBDA_RUNTIME_DIR"], told["PATH"].split(":")[-1].removesuffix("/bin")
    assert told["GEM_PATH"].split(":")[:2] == [f"{task}/vendor/bundle/ruby/{abi()}", f"{opt}/ruby/gems/{abi()}"]
    assert told["RUBYLIB"] == f"{task}:{runtime}/lib:{opt}/ruby/lib"
    assert (told["_HANDLER"], told["_X_AMZN_TRACE_ID"], told["LANG"]) == ("app.handler", TRACE, "en_US.UTF-8")
    assert told["AWS_EXECUTION_ENV"] == f"AWS_Lambda_{ruby().runtime}"


@pytest.mark.catalogue("EN-002", "EN-016")
async def test_the_users_value_wins_for_what_is_not_reserved(deploy_ruby: Deploy, tmp_path: Path) -> None:
    mine = {
        "LANG": "C",
        "TZ": "Europe/Berlin",
        "RUBYOPT": "-W0 -r./first",
        "RUBYLIB": write(tmp_path / "lib", {"elsewhere.rb": "ELSEWHERE = 1\n"}),
        "GEM_PATH": write(tmp_path / "gems", gem("in_mine", "IN_MINE = 2\n")),
        "PLAIN": "$HOME ${PATH} `x` \\ '\"=\n",
        "EMPTY": "",
    }
    function = await deploy_ruby(files={"first.rb": "FIRST = 0\n"}, environment=mine)
    found = await function.invoke("require 'elsewhere'; require 'in_mine'; [FIRST, ELSEWHERE, IN_MINE, ENV.to_h]")
    *constants, told = found.check().json()
    assert constants == [0, 1, 2]
    assert {name: told.get(name) for name in mine} == mine


@in_both_tiers
async def test_text_is_utf8_whatever_the_locale_is(deploy_ruby: Deploy) -> None:
    app = """
    # no magic comment
    def handler(event:, context:)
      ["ü".encoding, Encoding.default_external, Encoding.default_internal, File.read("data.txt") == "é", Dir["dat*"].size,
       File.read("data.txt").encoding, event == "ü", `printf ü` == "ü"]
    end
    """
    for variables in ({}, {"LANG": "C"}, {"LC_ALL": "POSIX"}):
        function = await deploy_ruby(app, {"data.txt": "é", "datü.txt": ""}, environment=variables)
        told = (await function.invoke("ü")).check().json()
        assert told == ["UTF-8", "UTF-8", None, True, 2, "UTF-8", True, True]


async def test_variables_are_utf8(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(environment={"GREETING": "grüß"})
    assert (await function.invoke("[ENV['GREETING'] == 'grüß', ENV['GREETING'].encoding]")).check().json() == [True, "UTF-8"]


# ── a Ruby that AWS does not have ──


async def test_a_ruby_that_is_none_of_awss_is_marked_everywhere(deploy_ruby: Deploy) -> None:
    interpreter = ruby()
    function = await deploy_ruby()
    result = await function.invoke("RUBY_VERSION")
    assert result.check().json() == interpreter.version
    assert result.report is not None
    note = None if interpreter.runtime in OFFERED else f"{interpreter.runtime} is no runtime of AWS's"
    assert Interpreters().find(interpreter.runtime).note == note
    assert result.report.runtime_note == note
    assert result.report.document().get("runtimeNote") == note
    shown = f"ruby:{interpreter.version}" + (f" ({note})" if note else "")
    assert result.log[0] == f"INIT_START Runtime Version: {shown}\tRuntime Version ARN: unknown"
    assert result.log[-1].startswith("REPORT ")
    assert result.log[-1].endswith(f"\tRuntime: {note}" if note else "ms")


async def test_the_runtime_may_be_called_by_its_language_alone(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(runtime="ruby")
    version, name = (await function.invoke("[RUBY_VERSION, ENV['AWS_EXECUTION_ENV']]")).check().json()
    major, minor, _ = version.split(".")
    assert name == f"AWS_Lambda_ruby{major}.{minor}"  # the id that runs, not "ruby"


async def test_without_the_api_it_ends_with_words(folder: MakeFolder) -> None:
    ended = await facing(folder(**{"app.rb": EVALUATE}), sent=None, AWS_LAMBDA_RUNTIME_API="127.0.0.1:1")
    assert ended.status > 0
    assert "refused" in ended.err
