"""The custom runtimes that are shipped in bootstrap/: each is documented, builds as it says, and keeps what it is said to keep.

What those in bash, C and Go do in detail is shown in files of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.conformance.target import load
from tests.clients.real import GO, INSTALLED, JVM, RUST, SOURCES, Client
from tests.conftest import ROOT, needs_bash
from tests.runtimes.conftest import in_both_tiers, printed

FOLDERS = {  # in bootstrap/, each with the folder in conformance/targets that builds and tries it
    "bash": "bash",
    "c": "c",
    "deno": "deno",
    "go": "go",
    "go/aws-lambda-go": "aws-lambda-go",
    "java": "aws-lambda-java",
    "rust": "lambda_runtime",
}
TOOLS = {"c": ("cc",), "go": ("go",), "aws-lambda-java": ("mvn", "javac", "jlink")}
CLIENTS: dict[str, Client] = {"aws-lambda-go": GO, "lambda_runtime": RUST, "aws-lambda-java": JVM}
MANIFESTS = {"go/aws-lambda-go/go.mod": "go/go.mod", "java/pom.xml": "java/pom.xml", "rust/Cargo.toml": "rust/Cargo.toml"}
DENO = INSTALLED / "deno-2.9.6"


def needs(target: str) -> None:
    """Skips where what it is built with, or of, is not here."""
    if target == "bash":
        needs_bash()
    for tool in TOOLS.get(target, ()):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on PATH")
    if target in CLIENTS:
        CLIENTS[target].folder  # noqa: B018  # it skips
    if target == "deno" and shutil.which("deno") is None:
        needs_deno()


def needs_deno() -> None:
    if not DENO.is_dir():
        pytest.skip(f"{DENO.name}: not installed: run scripts/setup dev")


def test_each_folder_is_known_here() -> None:
    assert set(os.listdir(ROOT / "bootstrap")) == {name.partition("/")[0] for name in FOLDERS}


@pytest.mark.parametrize("name", FOLDERS)
def test_it_says_how_it_is_built_run_and_tried(name: str) -> None:
    text = (ROOT / "bootstrap" / name / "README.md").read_text("utf-8")
    assert "uild" in text
    assert f"sandbox invoke bootstrap/{name}" in text
    assert f"sandbox conformance runtime conformance/targets/{FOLDERS[name]}`" in text
    target = load(ROOT / "conformance" / "targets" / FOLDERS[name], "runtime")
    assert target.expected is not None
    assert target.build is not None
    assert f"bootstrap/{name}" in target.build  # one source, and no copy of it
    assert all(one["reason"] for one in tomllib.loads(target.expected.read_text("utf-8")).values())


@pytest.mark.parametrize("name", MANIFESTS)
def test_its_client_is_the_one_that_is_installed_for_the_tests(name: str) -> None:
    """A build has no network: what it needs is there because scripts/clients has built with it."""
    ours, theirs = ((ROOT / "bootstrap" / name).read_text(), (SOURCES / MANIFESTS[name]).read_text())
    numbers = re.compile(r"\d+\.\d+[.\d]*")
    assert set(numbers.findall(ours)) == set(numbers.findall(theirs))


@in_both_tiers
@pytest.mark.usefixtures("tier")
async def test_deno_runs_the_folder_as_it_is(host: Host) -> None:
    needs_deno()
    code = ROOT / "bootstrap" / "deno"
    function = await host.deploy(code, handler="function.handler", timeout=20, memory_mb=256, layers=(str(DENO),))
    result = await function.invoke({"hello": "wörld"})
    assert result.check().json()["event"] == {"hello": "wörld"}
    assert printed(result) == ["an event of 17 characters"]
    failed = await function.invoke("fail")
    assert failed.function_error == "Unhandled"
    assert (failed.json()["errorType"], failed.json()["errorMessage"]) == ("RangeError", 'the event was "fail"')


def test_deno_finds_no_mistake_in_it(tmp_path: Path) -> None:
    needs_deno()
    files = sorted([*(ROOT / "bootstrap" / "deno").glob("*.ts"), *(ROOT / "conformance" / "targets" / "deno").glob("*s.ts")])
    for words in (["check"], ["lint"], ["fmt", "--check", "--line-width", "128"]):
        done = subprocess.run(
            [DENO / "bin" / "deno", *words, *files],
            cwd=tmp_path,
            env={**os.environ, "DENO_DIR": str(tmp_path / "deno"), "DENO_NO_UPDATE_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.soak  # a build takes up to a minute, a run up to two
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", FOLDERS.values())
def test_it_keeps_what_it_is_said_to_keep(target: str) -> None:
    needs(target)
    words = [Path(sys.executable).parent / "sandbox", "conformance", "runtime", f"conformance/targets/{target}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
