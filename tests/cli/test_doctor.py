"""`sandbox doctor`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.process.launcher import guard
from tests.cli.conftest import Outcome
from tests.conftest import MakeFolder

Sandbox = Callable[..., Outcome]
OTHER_MACHINE = b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\x00\xff\xff" + b"\0" * 44


def test_it_names_what_there_is_and_why_not(sandbox: Sandbox) -> None:
    done = sandbox("doctor")
    assert (done.code, done.err) == (0, "")
    first, *findings = done.out.decode().splitlines()
    assert "Python 3." in first
    assert all(line[:4] in ("ok  ", "no  ") and ": " in line for line in findings)
    words = "\n".join(findings)
    assert "ok  tier process: " in words
    assert "not a security boundary" in words
    assert ("ok  " if guard().complete else "no  ") + "guard: " in words
    assert f"python{sys.version_info.major}.{sys.version_info.minor} (" in words


def test_a_folder_with_a_good_bootstrap_is_fine(main: Sandbox, folder: MakeFolder) -> None:
    code = folder(bootstrap="#!/bin/sh\nexit 0\n")
    done = main("doctor", code)
    assert done.code == 0
    assert done.out.decode().splitlines()[-1].startswith(f"ok  {code}: ")
    (code / "bootstrap").write_bytes(Path("/bin/sh").read_bytes())
    assert main("doctor", code).code == 0
    (code / "bootstrap").write_text("#!/usr/bin/env sh\nexit 0\n")
    assert main("doctor", code).code == 0


BAD = {
    "no exec bit": (b"#!/bin/sh\n", 0o644, "chmod +x"),
    "CR LF": (b"#!/bin/sh\r\n", 0o755, "CR LF"),
    "missing interpreter": (b"#!/no/such/thing\n", 0o755, "'/no/such/thing'"),
    "no first line": (b"exit 0\n", 0o755, "does not begin with #!"),
    "empty": (b"", 0o755, "does not begin with #!"),
    "name of an interpreter only": (
        b"#!sh\n",
        0o755,
        "'sh'",
    ),
    "env finds nothing": (
        b"#!/usr/bin/env no-such-thing\n",
        0o755,
        "no-such-thing",
    ),
    "another machine's": (OTHER_MACHINE, 0o755, "another machine"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_bootstrap_is_named_with_its_cause(main: Sandbox, folder: MakeFolder, what: str) -> None:
    content, mode, cause = BAD[what]
    code = folder()
    (code / "bootstrap").write_bytes(content)
    (code / "bootstrap").chmod(mode)
    done = main("doctor", code)
    assert done.code == 2
    last = done.out.decode().splitlines()[-1]
    assert last.startswith(f"no  {code}: ")
    assert cause in last


def test_a_folder_without_a_bootstrap_is_told_of_managed_runtimes(main: Sandbox, folder: MakeFolder) -> None:
    done = main("doctor", folder(app_py=""))
    assert done.code == 2
    assert "--runtime python" in done.out.decode().splitlines()[-1]


def test_a_folder_that_is_not_there(main: Sandbox) -> None:
    done = main("doctor", "/no/such/folder")
    assert done.code == 2
    assert "/no/such/folder: there is no such folder" in done.out.decode()


def test_a_bootstrap_that_is_a_folder(main: Sandbox, folder: MakeFolder) -> None:
    code = folder()
    (code / "bootstrap").mkdir()
    done = main("doctor", code)
    assert done.code == 2
    assert done.out.decode().splitlines()[-1].startswith(f"no  {code}: ")
