"""How the author of an extension tests it: a real function beside it, and the platform does what it is told to."""

from pathlib import Path

import pytest

COUNTER = Path(__file__).with_name("counter")
APP = {"app.py": "def handler(event, context):\n    return event\n"}


@pytest.fixture
def deployed(lambda_sandbox):
    return lambda_sandbox.deploy(APP, runtime="python", handler="app.handler", extensions=[COUNTER])


def test_it_counts(deployed):
    for number in range(3):
        assert deployed.invoke({"number": number}).json() == {"number": number}
    deployed.shutdown("timeout")
    assert "3 invokes, then timeout" in deployed.output
    deployed.expect_phases("init", "invoke", "invoke", "invoke")
    deployed.expect_deadlines_kept()
    (end,) = [one for one in deployed.exits if one.who == "counter"]
    assert end.code == 0


def test_it_registers_for_both_events(deployed):
    deployed.initialise()
    (call,) = deployed.calls("register")
    assert b"INVOKE" in call.body
    assert b"SHUTDOWN" in call.body


def test_a_minute_in_the_freezer(lambda_sandbox, deployed):
    deployed.invoke()
    lambda_sandbox.advance(60)  # within the minutes for which an idle environment is kept
    deployed.invoke()
    deployed.shutdown()
    assert "2 invokes, then spindown" in deployed.output
