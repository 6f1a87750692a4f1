"""The shortest life of a function, in both tiers and by both ways in."""

import pytest

from tests.control.conftest import Caller

pytestmark = pytest.mark.usefixtures("tier")


async def test_create_invoke_delete(caller: Caller) -> None:
    await caller.create()
    assert (await caller.call("f", {"x": 1}))["event"] == {"x": 1}
    await caller.delete_function(FunctionName="f")
    assert (await caller.list_functions())["Functions"] == []
