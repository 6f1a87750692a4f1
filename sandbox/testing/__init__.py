"""The test library: for authors of runtimes, extensions and functions who want to assert on the protocol.

`Sandbox` is for asyncio, `BlockingSandbox` for everybody else; the pytest plugin gives both as fixtures. It owns how a test
reads, and nothing of how an environment works: that is the host's. It must not know pytest.
"""

from __future__ import annotations

from sandbox.testing.blocking import BlockingDeployed, BlockingSandbox
from sandbox.testing.laboratory import Deployed, Failed, Lapse, Sandbox
from sandbox.wire.tap import Fault, Seen

__all__ = ["BlockingDeployed", "BlockingSandbox", "Deployed", "Failed", "Fault", "Lapse", "Sandbox", "Seen"]
