"""What `sandbox doctor CODE` finds in a function or a layer before it is run."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from sandbox.cli.doctor import findings
from sandbox.core.limits import DIRECT_UPLOAD, PACKAGE_LIMIT
from sandbox.host.examine import Remark, examine
from sandbox.host.interpreters import Interpreters
from tests.conftest import MakeFolder

OWN = f"python{sys.version_info.major}.{sys.version_info.minor}"
TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
HERE = {finding.name.removeprefix("runtime "): finding for finding in findings() if finding.name.startswith("runtime ")}
with open(sys.executable, "rb") as program:
    ELF = program.read(64)
FOREIGN = ELF[:18] + (b"\x08\x00" if ELF[18:20] != b"\x08\x00" else b"\x3e\x00") + ELF[20:]  # MIPS: nobody's machine here


def look(code: Path, runtime: str | None = None, handler: str = "") -> tuple[str, list[Remark]]:
    return examine(str(code), runtime, handler, Interpreters())


def failing(code: Path, runtime: str | None = None, handler: str = "") -> str:
    """The one remark that there is, which says that it fails."""
    _, (remark,) = look(code, runtime, handler)
    assert remark.fails
    return remark.text


@pytest.mark.parametrize(
    ("files", "runtime", "handler", "said"),
    [
        ({"app.py": ""}, "python", "app.handler", "app.py defines no 'handler'"),
        ({"app.py": "x = ="}, "python", "app.handler", "app.py cannot be read as Python: invalid syntax"),
        ({"app.py": ""}, "python", "main.handler", "there is no main.py; here are app.py"),
        ({"my/app.py": ""}, "python", "app.handler", "it is in my/app.py: pack what is in the folder"),
        ({"app.py": ""}, "python", "app", "has no dot"),
        ({"a.txt": ""}, "python", "", "there is no lambda_function.py"),
        ({"app.py": "def inner():\n    handler = 1\n"}, "python", "app.handler", "defines no 'handler'"),
        ({"index.js": "exports.other = 1"}, "nodejs", "index.handler", "index.js has no 'handler' in it"),
        ({"src/index.mjs": ""}, "nodejs", "index.handler", "name the handler src/index.FUNCTION"),
        ({"app.rb": "def other = 1"}, "ruby", "app.handler", "app.rb has no 'handler' in it"),
        ({"app.py": ""}, None, "", "it has no bootstrap; it needs a managed runtime: sandbox invoke --runtime python"),
        ({"index.mjs": ""}, None, "", "sandbox invoke --runtime nodejs"),
        ({"build/bootstrap": "#!/bin/sh\n"}, None, "", "it is in build/bootstrap: pack what is in the folder"),
        ({"bootstrap": "#!/bin/sh\r\n"}, None, "", "Windows line ends"),
        ({"app.py": ""}, "cobol85", "", "not known"),
        ({"extensions/logs": "#!/no/such/shell\n"}, None, "", "extensions/logs"),
        ({"opt/bin/tool": "", "lib/x": ""}, None, "", "/opt/opt"),
        ({"nodejs/left-pad/index.js": ""}, None, "", "nodejs/node_modules"),
        ({"ruby/thing.txt": ""}, None, "", "neither lib nor gems"),
        ({"python": "", "lib/x": ""}, None, "", "python is a file: in a layer it is a folder"),
        ({"lib/python3.11/site-packages/x.txt": ""}, None, "", "it belongs into python/"),
        ({"requests/__init__.py": "", "requests-2.dist-info/RECORD": ""}, None, "", "requests, requests-2.dist-info: Python"),
        ({"site-packages/x/y.py": ""}, None, "", "they belong into python/"),
        ({"node_modules/x/index.js": ""}, None, "", "node_modules is at the top: in a layer it belongs into nodejs/"),
        ({"mine/python/x.py": ""}, None, "", "everything is in the folder mine: pack what is in it"),
        ({}, None, "", "it is empty"),
        ({"index.js": "exports.handler = = 1"}, "nodejs", "index.handler", "index.js cannot be read: SyntaxError"),
        ({"app.rb": "def handler = = 1"}, "ruby", "app.handler", "app.rb cannot be read: app.rb:1: syntax error"),
    ],
)
def test_what_would_fail_is_named(
    folder: MakeFolder, files: dict[str, str], runtime: str | None, handler: str, said: str
) -> None:
    if runtime in HERE and not HERE[runtime].works:
        pytest.skip(HERE[runtime].text)
    assert said in failing(folder(**files), runtime, handler)


@pytest.mark.parametrize(
    ("files", "runtime", "handler", "what"),
    [
        ({"app.py": "async def other(): pass\ndef handler(e, c): pass"}, "python", "app.handler", f"a function for {OWN}"),
        ({"app.py": "from lib import handler"}, "python", "app.handler", f"a function for {OWN}"),
        ({"app.py": "from lib import other as handler"}, "python", "app.handler", f"a function for {OWN}"),
        ({"app.py": "if True:\n    handler = lambda e, c: 1"}, "python", "app.handler", f"a function for {OWN}"),
        ({"app.py": "class App: ...\nhandler: App = App()"}, "python", "app.handler", f"a function for {OWN}"),
        ({"a/__init__.py": "", "a/b.py": "handler = 1"}, "python", "a.b.handler", f"a function for {OWN}"),
        ({"a/__init__.py": "handler = 1"}, "python", "a.handler", f"a function for {OWN}"),
        ({"a/b.py": "handler = 1"}, "python", "a/b.handler", f"a function for {OWN}"),
        ({"bootstrap": "#!/bin/sh\n"}, None, "", "a bootstrap that can be started"),
        ({"python/lib.py": ""}, None, "", "a layer"),
        ({"nodejs/node20/node_modules/x/index.js": ""}, None, "", "a layer"),
        ({"ruby/lib/x.rb": "", "lib/x": ""}, None, "", "a layer"),
    ],
)
def test_what_is_right_is_told_for_what_it_is(
    folder: MakeFolder, files: dict[str, str], runtime: str | None, handler: str, what: str
) -> None:
    assert look(folder(**files), runtime, handler) == (what, [])


@pytest.mark.parametrize(
    ("files", "runtime"),
    [
        ({"app.py": "from impl import *"}, "python"),
        ({"app.py": "globals()['hand' + 'ler'] = print"}, "python"),
        ({"app.py": "def __getattr__(name): return print"}, "python"),
        ({"app.js": "module.exports = require('./impl')"}, "nodejs"),
        ({"app.mjs": "export * from './impl.mjs'"}, "nodejs"),
        ({"app.rb": "require_relative 'impl'\nextend Impl"}, "ruby"),
    ],
)
def test_what_only_running_can_tell_is_no_verdict(folder: MakeFolder, files: dict[str, str], runtime: str) -> None:
    if not HERE[runtime].works:
        pytest.skip(HERE[runtime].text)
    what, (remark,) = look(folder(**files), runtime, "app.handler")
    assert what.startswith("a function for")
    assert not remark.fails


def test_a_handler_in_a_layer(folder: MakeFolder) -> None:
    code, layer = folder(**{"data.txt": ""}), folder(**{"python/shared.py": "def handler(event, context): pass"})
    assert "there is no shared.py" in failing(code, "python", "shared.handler")
    assert examine(str(code), "python", "shared.handler", Interpreters(), [str(layer)]) == (f"a function for {OWN}", [])


def test_a_folder_with_the_name_of_a_module(folder: MakeFolder) -> None:
    assert "there is no app.py" in failing(folder(**{"app.py/x.txt": ""}), "python", "app.handler")


@pytest.mark.skipif(not ELF.startswith(b"\x7fELF"), reason="programs here are no ELF files")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("numpy/core.so", FOREIGN, "for another machine"),
        ("lib/libz.so.1", FOREIGN, "for another machine"),
        ("node_modules/x/x.node", b"\xcf\xfa\xed\xfe", "no library for Linux"),
        (f"x.{TAG}0-linux.so", ELF, f"compiled for another Python than {OWN}"),
    ],
)
def test_libraries_that_cannot_be_loaded(folder: MakeFolder, name: str, content: bytes, said: str) -> None:
    code = folder(app_py="def handler(e, c): pass")
    file = code / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    assert said in failing(code, "python", "app.handler")
    file.write_bytes(ELF)
    file.rename(code / f"x.{TAG}-linux.so")
    assert look(code, "python", "app.handler")[1] == []


def test_an_extension_without_its_exec_bit(folder: MakeFolder) -> None:
    code = folder(**{"extensions/logs": "#!/bin/sh\n"})
    (code / "extensions" / "logs").chmod(0o644)
    file = code / "extensions" / "logs"
    assert failing(code) == f"{file} is there but not executable: chmod +x {file}"
    file.chmod(0o755)
    assert look(code) == ("a layer", [])


def test_what_is_worth_knowing_but_does_not_fail(folder: MakeFolder, tmp_path: Path) -> None:
    code = folder(app_py="def handler(e, c): pass", secret="")
    (code / "secret").chmod(0o600)
    os.symlink("/etc/passwd", code / "users")
    what, remarks = look(code, "python", "app.handler")
    assert what == f"a function for {OWN}"
    assert [remark.fails for remark in remarks] == [False, False]
    assert "'users' is a link to '/etc/passwd'" in remarks[0].text
    assert remarks[1].text.startswith("secret: not readable for others")


def test_sizes_near_a_limit(folder: MakeFolder, tmp_path: Path) -> None:
    code = folder(app_py="def handler(e, c): pass")
    with open(code / "big", "wb") as file:
        file.truncate(PACKAGE_LIMIT * 9 // 10)  # sparse
    (remark,) = look(code, "python", "app.handler")[1]
    assert not remark.fails
    assert f"may have {PACKAGE_LIMIT:,}" in remark.text
    with open(code / "big", "r+b") as file:
        file.truncate(PACKAGE_LIMIT)
    assert "250 MB" in failing(code, "python", "app.handler")


def test_a_zip_too_large_for_a_request(tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("app.py", "def handler(e, c): pass")
        file.writestr("data", os.urandom(DIRECT_UPLOAD))
    large, closed = look(path, "python", "app.handler")[1]
    assert (large.fails, "S3" in large.text) == (False, True)
    assert closed.text.startswith("app.py, data: not readable for others")  # what Python's zipfile makes of bare bytes


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty"), (b"hello", "not a zip"), (b"PK\5\6" + bytes(18), "no file in it")]
)
def test_a_file_that_is_no_package(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "code.zip"
    path.write_bytes(content)
    assert said in failing(path)
