"""How the author of a runtime tests it: replies are lost, cut off and refused, and it must go on."""

import asyncio
import unittest
from pathlib import Path

import pytest

from sandbox.testing import BlockingSandbox

BOOTSTRAP = Path(__file__).with_name("bootstrap")


def test_an_event_and_its_answer(lambda_sandbox):
    runtime = lambda_sandbox.deploy(bootstrap=BOOTSTRAP)
    assert runtime.invoke({"hello": "world"}).json() == {"hello": "world"}
    runtime.expect_calls("next", "response", "next")
    runtime.expect_phases("init", "invoke")
    runtime.expect_deadlines_kept()


@pytest.mark.parametrize(("fault", "answers"), [("refused", 2), ("lost", 1)])
def test_it_asks_again(lambda_sandbox, fault, answers):
    runtime = lambda_sandbox.deploy(bootstrap=BOOTSTRAP)
    runtime.initialise()
    getattr(lambda_sandbox, fault)("response")
    assert runtime.invoke({"number": 1}).json() == {"number": 1}
    assert len(runtime.calls("response")) == answers  # the host never heard the refused one, and gave its event again
    assert runtime.invoke({"number": 2}).json() == {"number": 2}


def test_a_deadline_is_missed(lambda_sandbox):
    runtime = lambda_sandbox.deploy(bootstrap=BOOTSTRAP, timeout=2)
    runtime.initialise()
    lambda_sandbox.slow("next", seconds=10)
    job = runtime.begin()
    lambda_sandbox.advance(2.5)
    assert runtime.result(job).status == "timeout"


def test_with_asyncio(async_lambda_sandbox):
    async def many():
        async with async_lambda_sandbox as box:
            runtime = await box.deploy(bootstrap=BOOTSTRAP)
            return await asyncio.gather(*(runtime.invoke({"number": number}) for number in range(3)))

    assert [result.json()["number"] for result in asyncio.run(many())] == [0, 1, 2]


class WithUnittest(unittest.TestCase):
    def setUp(self):
        self.box = BlockingSandbox()
        self.box.open()
        self.addCleanup(self.box.close)

    def test_an_event(self):
        assert self.box.deploy(bootstrap=BOOTSTRAP).invoke([1]).json() == [1]
