"""The pytest plugin: `lambda_sandbox` and `async_lambda_sandbox`. It imports the host only when a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sandbox.testing import BlockingSandbox, Sandbox


@pytest.fixture
def lambda_sandbox() -> Iterator[BlockingSandbox]:
    """An execution environment's host for this test: deploy, invoke, freeze, spoil; see sandbox.testing.BlockingSandbox."""
    from sandbox.testing import BlockingSandbox

    with BlockingSandbox() as box:
        yield box


@pytest.fixture
def async_lambda_sandbox() -> Sandbox:
    """The same for asyncio, with whichever plugin runs it: `async with async_lambda_sandbox as box`."""
    from sandbox.testing import Sandbox

    return Sandbox()
