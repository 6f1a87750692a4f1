"""The test library: what it sees, what it says when an expectation does not come, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from sandbox import ConfigError, Limits
from sandbox.testing import BlockingSandbox, Failed, Sandbox
from tests.conftest import ROOT, Tier

BOOTSTRAP = ROOT / "examples" / "testing" / "runtime" / "bootstrap"
COUNTER = ROOT / "examples" / "testing" / "extension" / "counter"
APP = {"app.py": "def handler(event, context):\n    print('hello from', event)\n    return event\n"}
PYTHON = {"runtime": "python", "handler": "app.handler"}


def pytest_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-p", "sandbox.pytest_plugin", "-p", "no:cacheprovider", "-W", "ignore", "-c", "/dev/null"]
    where = ROOT / "examples" / "testing"
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(where), "--import-mode=importlib", *arguments]
    return subprocess.run([*command, str(where)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_worked_examples(arguments: tuple[str, ...]) -> None:
    done = pytest_run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


def test_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import sandbox.pytest_plugin; "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('importlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['sandbox', 'sandbox.pytest_plugin']"


@pytest.mark.catalogue("EX-051")
async def test_what_is_seen(tier: Tier) -> None:
    async with Sandbox() as box:
        function = await box.deploy(APP, extensions=[COUNTER], **PYTHON)
        result = await function.invoke({"a": 1})
        assert result.json() == {"a": 1}
        assert [seen.route for seen in function.calls("register", "response")] == ["register", "response"]
        assert "hello from {'a': 1}" in function.output
        assert [one.type for one in function.records("platform.start", "platform.report")] == [
            "platform.start",
            "platform.report",
        ]
        function.expect_phases("init", "invoke")
        with pytest.raises(Failed, match=r"the phases: .*'init', 'success'.* was expected"):
            function.expect_phases("init")
        with pytest.raises(Failed, match="the calls: "):
            function.expect_calls("next")
        await function.shutdown("failure")
        assert "1 invokes, then failure" in function.output
        function.expect_deadlines_kept()
        with pytest.raises(Failed, match="there is no execution environment"):
            function.freeze()


async def test_a_killed_environment_and_the_one_after(tier: Tier) -> None:
    async with Sandbox() as box:
        function = await box.deploy(APP, **PYTHON)
        await function.initialise()
        function.kill()
        await box.until("the end of the process", lambda: function.exits)
        with pytest.raises(Failed, match="runtime: its process was killed"):
            function.expect_deadlines_kept()
        assert (await function.invoke({"b": 2})).json() == {"b": 2}


async def test_an_answer_after_its_deadline(tier: Tier) -> None:
    """Its processes see real time, and the box another: the answer is late by what was moved on."""
    async with Sandbox(limits=Limits(init=1000)) as box:
        runtime = await box.deploy(bootstrap=BOOTSTRAP, timeout=5)
        await runtime.invoke()
        assert runtime.lapses == []
        box.slow("response", 0)
        await runtime.invoke()
        (first, *_) = runtime.calls("response")
        first.sent_at += 10
        ((who, _, seconds),) = runtime.lapses
        assert who == "runtime"
        assert seconds == pytest.approx(5, abs=1)


@pytest.mark.parametrize("how", ["frozen", "silent"])
async def test_what_does_not_come_is_said_with_where_it_is(tier: Tier, how: str) -> None:
    async with Sandbox(patience=0.4) as box:
        runtime = await box.deploy(
            {"bootstrap": "#!/bin/sh\necho here I am\nexec sleep 1000\n"}, runtime="provided", handler="h"
        )
        with pytest.raises(
            Failed, match=r"the end of Init: .* not within 0\.4 s\. No process has called an API; printed last: 'here"
        ):
            await runtime.initialise()
        if how == "frozen":
            runtime.freeze()


async def test_what_cannot_be_deployed(tier: Tier) -> None:
    async with Sandbox() as box:
        with pytest.raises(ConfigError, match="`code` or `bootstrap` is needed"):
            await box.deploy()
        with pytest.raises(ConfigError, match="there is no such file"):
            await box.deploy(APP, extensions=["nowhere"], **PYTHON)
    with pytest.raises(ConfigError, match="is not open"):
        await Sandbox().deploy(APP, **PYTHON)


def test_blocking_leaves_no_thread(tier: Tier) -> None:
    before = threading.active_count()
    with BlockingSandbox() as box:
        function = box.deploy(APP, **PYTHON)
        function.initialise()
        box.truncated("next", 1)
        assert function.phases == [("init", "success")]
        assert function.records("platform.initStart")
        assert function.lapses == []
        function.freeze()
        function.thaw()
        function.kill()
        box.until("its end", lambda: function.exits)
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="is not open"):
        box.advance(1)


def test_blocking_says_what_has_not_come(tier: Tier) -> None:
    with BlockingSandbox(patience=0.2) as box, pytest.raises(Failed, match=r"the moon: not within 0\.2 s"):
        box.until("the moon", lambda: False)
