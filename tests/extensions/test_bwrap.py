"""The helper itself: what a real extension finds in there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.extensions import bwrap

LOOK = """
import os, socket, sys
print(os.getcwd(), sorted(os.listdir()), sorted(os.listdir("/opt")), os.path.exists(sys.argv[1]), os.getuid())
for path in ("/opt/new", "/var/task/new", "/opt/extensions/new"):
    try:
        open(path, "w")
    except OSError as error:
        print(error.strerror)
open("/tmp/new", "w").close()
print({socket.gethostbyname(f"sandbox{end}") for end in ("", ".localdomain", ".local.domain")}, socket.if_nameindex())
"""


@pytest.fixture(autouse=True)
def _needs_bwrap() -> None:
    bwrap.needs_bwrap()


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "layer" / "extensions").mkdir(parents=True)
    (tmp_path / "layer" / "settings").symlink_to("/tmp")
    return tmp_path / "layer"


def test_it_looks_like_lambda(tmp_path: Path, layer: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "driver.py").write_text(LOOK)
    done = bwrap.run([sys.executable, "driver.py", tmp_path], layer=layer, code=tmp_path / "code")
    told = done.stdout.splitlines()
    seen = not str(tmp_path).startswith("/tmp")  # only what lies in /tmp is hidden
    assert told[0] == f"/var/task ['driver.py'] ['extensions', 'settings'] {seen} {os.getuid()}"
    assert told[1:4] == ["Read-only file system"] * 3
    assert told[4] == "{'127.0.0.1'} [(1, 'lo')]"
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path("/tmp/new").exists()
    assert not (layer / "new").exists()


def test_nothing_outlives_it_and_what_is_asked_for_is_there(tmp_path: Path, layer: Path) -> None:
    (tmp_path / "driver").write_text('sleep 1000 & setsid sleep 1000 & echo "$1" "$FROM" && cat && exit 7')
    words = ["sh", tmp_path / "driver", "said"]
    done = bwrap.run(words, layer=layer, code=layer, visible=[tmp_path], environment={"FROM": "there"}, given="given")
    assert (done.returncode, done.stdout, done.stderr) == (7, "said there\ngiven", "")
    # It would not have come back: both sleepers hold its standard output.


def test_the_command_is_the_one_of_this_project() -> None:
    done = bwrap.run([bwrap.COMMAND, "--version"], code=bwrap.ROOT / "examples" / "orders")
    assert (done.returncode, done.stderr) == (0, "")
