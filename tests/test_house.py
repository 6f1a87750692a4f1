"""The rules of the house that a machine can check: layers, one clock, sizes, what is exported, what the README says."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.cli.invoke import command
from tests.conftest import ROOT

MODULES = sorted((ROOT / "sandbox").rglob("*.py"))


def calls(path: Path) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


def test_the_import_contracts_are_kept() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_says_what_it_is_and_reads_no_clock_of_its_own(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text))
    if path.name != "clock.py":
        forbidden = {"time.time", "time.monotonic", "asyncio.sleep", "datetime.now", "loop.call_later"}
        allowed = {"asyncio.sleep"} if path.name == "plain_tree.py" else set()  # it polls for the death of processes
        assert not calls(path) & (forbidden - allowed)
    if "cli" not in path.parts:
        assert "print" not in calls(path)


def test_each_module_can_be_imported_first() -> None:
    """Whoever comes first: no two modules wait for each other."""
    names = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__") for path in MODULES]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for known in [known for known in sys.modules if known.split('.')[0] == 'sandbox']: del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_exported_is_there() -> None:
    for name in sandbox.__all__:
        assert getattr(sandbox, name) is not None
    with pytest.raises(AttributeError):
        _ = sandbox.nothing  # type: ignore[attr-defined]


def test_the_readme_names_every_option_of_invoke() -> None:
    readme = (ROOT / "README.md").read_text()
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    missing = {option for option in options if option not in readme}
    assert not missing
    said = set(re.findall(r"--[a-z-]+", readme.partition("sandbox invoke CODE [EVENT]")[2].partition("sandbox serve")[0]))
    assert said <= options


@pytest.mark.parametrize("verb", ["serve", "report", "logs", "queue"])
def test_the_readme_names_every_option(verb: str) -> None:
    made = importlib.import_module(f"sandbox.cli.{verb}").command
    options = {option for parameter in made.params for option in parameter.opts if option.startswith("--")}
    said = (
        (ROOT / "README.md")
        .read_text()
        .partition(f"\n    sandbox {verb} ")[2]
        .partition("\n    sandbox ")[0]
        .partition("\n\n")[0]
    )
    assert set(re.findall(r"--[a-z-]+", said)) == options


def test_the_readme_has_every_operation_of_the_api() -> None:
    from tests.control.table import table, written

    assert written() == table(), "python -m tests.control.table --write"


async def test_the_example_in_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    start, _, body = text.partition("\n\n")
    names: dict[str, object] = {}
    code = f"{start}\nasync def example():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    exec(compile(code, "README.md", "exec"), names)
    await names["example"]()  # type: ignore[operator]


def test_help_is_quick_because_verbs_are_imported_late() -> None:
    code = "import sys; from sandbox.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    heavy = "print([m for m in ('asyncio', 'uvloop', 'httptools', 'psutil', 'sandbox.host') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code + heavy], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def test_the_comparison_with_awss_clients_has_every_case() -> None:
    from tests.runtimes import comparison

    told = comparison.FILE.read_text()
    missing = [name for name in comparison.names() if f"**{name}**" not in told]
    assert not missing, "python -m tests.runtimes.comparison --write"


def test_every_test_that_security_md_names_is_there() -> None:
    """A promise without its test is none."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    files = [*(ROOT / "tests" / "process").glob("test_*.py"), *(ROOT / "tests" / "host").glob("test_*.py")]
    there = {name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert len(named) > 20
    assert named <= there
