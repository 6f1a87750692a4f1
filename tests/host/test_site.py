"""Where files are, for the processes of an environment and for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.host.interpreters import Interpreter
from sandbox.host.site import site
from sandbox.package.cache import Cache
from sandbox.package.package import Package, open_package
from sandbox.process.isolation import PROCESS, Isolation
from sandbox.process.room import NETWORKS, arguments, home_of_language

NAMESPACE = Isolation("namespace", NETWORKS["none"])
ELSEWHERE = Interpreter("python3.12", "/home/me/pythons/3.12/bin/python3.12", "/home/me/pythons/3.12", "3.12.1")
IN_USR = Interpreter("nodejs20.x", "/usr/bin/node", "/usr", "20.1.0")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    (tmp_path / "code").mkdir()
    return open_package(str(tmp_path / "code"), (), Cache(tmp_path / "cache"))


@pytest.mark.catalogue("EN-012", "EN-050")
def test_in_a_namespace_everything_is_where_lambda_has_it(package: Package) -> None:
    made = site(Path("/made/environment"), NAMESPACE, ELSEWHERE, package)
    assert made.places == ("/var/task", "/opt", "/var/runtime", "/tmp", "/var/lang")
    assert made.real.task == "/made/environment/task"
    assert made.seen(ELSEWHERE.path) == "/var/lang/bin/python3.12"
    assert made.real_path("/var/task/app.py") == "/made/environment/task/app.py"
    for path in ("/opt/extensions/one", "/var/runtime/bootstrap.py", "/var/lang/bin/python3.12", "/etc/hosts", "/optional"):
        assert made.seen(made.real_path(path)) == path


def test_an_interpreter_below_usr_stays_there(package: Package) -> None:
    made = site(Path("/made/environment"), NAMESPACE, IN_USR, package)
    assert made.places.language == "/usr"
    assert made.seen(IN_USR.path) == "/usr/bin/node"
    assert made.room is not None
    assert made.room.language is None


def test_in_tier_process_nothing_is_moved(package: Package) -> None:
    made = site(Path("/made/environment"), PROCESS, ELSEWHERE, package)
    assert made.places == made.real
    assert made.room is None
    assert made.seen("/made/environment/task/x") == made.real_path("/made/environment/task/x") == "/made/environment/task/x"


def test_of_an_interpreter_in_somebodys_home_only_the_program_is_shown(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me" / "bin").mkdir(parents=True)
    node = Interpreter("nodejs20.x", str(tmp_path / "me" / "bin" / "node"), str(tmp_path / "me"), "20.1.0")
    made = site(Path("/made/environment"), NAMESPACE, node, package)
    assert made.room is not None
    assert made.room.language == (node.path, "/var/lang/bin/node")
    assert made.seen(node.path) == "/var/lang/bin/node"


def test_a_link_is_followed_as_the_processes_would(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "boot").write_text("#!/bin/sh")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "bootstrap").symlink_to("/opt/boot")
    (tmp_path / "code" / "ring").symlink_to("ring")
    package = open_package(str(tmp_path / "code"), [str(tmp_path / "layer")], Cache(tmp_path / "cache"))
    try:
        folder = tmp_path / "environment"
        for name in ("task", "opt"):
            (folder / name).mkdir(parents=True)
        made = site(folder, NAMESPACE, None, package)
        made.furnish(package)
        assert made.file("/var/task/bootstrap").read_text() == "#!/bin/sh"
        assert not made.file("/var/task/ring").is_file()
        assert not made.file("/var/task/missing").exists()
    finally:
        package.close()


@pytest.mark.parametrize(
    ("prefix", "shown"), [("/usr", None), ("/usr/local", None), ("/", None), ("/usrlocal/python", "/usrlocal/python")]
)
def test_which_prefixes_have_to_be_shown(prefix: str, shown: str | None) -> None:
    assert home_of_language(prefix) == shown


def test_a_kept_package_is_shown_and_not_copied(tmp_path: Path) -> None:
    (tmp_path / "layer" / "bin").mkdir(parents=True)
    (tmp_path / "layer" / "bin" / "tool").write_text("tool")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "link").symlink_to("/opt/bin/tool")
    package = open_package(str(tmp_path / "code"), [str(tmp_path / "layer")], Cache(tmp_path / "cache"))
    try:
        folder = tmp_path / "environment"
        for name in ("task", "opt"):
            (folder / name).mkdir(parents=True)
        made = site(folder, NAMESPACE, None, package)
        made.furnish(package)
        assert made.room is not None
        assert Path(made.room.opt, "bin", "tool").read_text() == "tool"
        assert made.room.opt.startswith(str(tmp_path / "cache"))
        assert list((folder / "opt").iterdir()) == []
        assert (folder / "task" / "link").readlink() == Path("/opt/bin/tool"), "there it leads to the layer"
    finally:
        package.close()


def test_nothing_is_shown_that_can_be_written_to(package: Package) -> None:
    made = site(Path("/made/environment"), NAMESPACE, ELSEWHERE, package)
    assert made.room is not None
    words = arguments(made.room, staged=False)
    assert not {"--bind", "--dev-bind", "--bind-try"} & set(words)
    assert words[-2:] == ["--remount-ro", "/"]
