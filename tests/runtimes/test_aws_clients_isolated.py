"""AWS's own clients in tier `namespace`, each as a layer at /opt: they may not notice that this is not AWS there, either.

What they do is shown in tier `process` (test_aws_clients.py, test_awslambdaric.py); here, that nothing around them is missing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.host.host import Function
from tests.clients.real import ALL, INSTALLED, Client
from tests.conftest import MakeFolder, Tier, python_of
from tests.runtimes.conftest import TRACE

pytestmark = [pytest.mark.tiers("namespace"), pytest.mark.usefixtures("tier")]
EVENTS = ({"ä": "日本", "n": [1, 2.5, None, True]}, "text", 0, [], {})
ECHO = "import os\ndef handler(event, context):\n    return os.getpid() if event == {'do': 'pid'} else event\n"


async def echoes_in_one_process(function: Function) -> None:
    for sent in EVENTS:
        assert (await function.invoke(sent, trace_id=TRACE)).check().json() == sent
    first, second = [(await function.invoke({"do": "pid"})).check().json() for _ in range(2)]
    assert first == second


@pytest.mark.catalogue("RT-001", "RT-021", "RT-050", "LC-035", "EN-050")
@pytest.mark.parametrize("client", ALL, ids=str)
async def test_a_client_in_a_layer(host: Host, folder: MakeFolder, client: Client) -> None:
    layer = client.folder  # it skips
    if "{clients}" in client.command:
        pytest.skip(f"{client.name} runs on a Node.js of its own, too large for a layer")
    programs = {name: os.path.realpath(shutil.which(name) or name) for name in ("node", "java")}
    if not all(path.startswith("/usr/") for name, path in programs.items() if f"{{{name}}}" in client.command):
        pytest.skip(f"{client.name}: its interpreter is not below /usr, and a custom runtime sees no other")
    code = folder(bootstrap=f'#!/bin/sh\nexec {client.command.format(folder="/opt", **programs)} "$_HANDLER"\n')
    pattern = Path(client.files)
    for file in pattern.parent.glob(pattern.name) if client.files else ():
        shutil.copy(file, code)
    function = await host.deploy(code, handler=client.handler, timeout=20, memory_mb=1024, layers=(str(layer),))
    await echoes_in_one_process(function)


@pytest.mark.catalogue("RT-001", "RT-021", "RT-050", "LC-035", "EN-050")
@pytest.mark.parametrize("version", ["4.2.2", "3.1.1"])
async def test_awslambdaric_in_a_layer(host: Host, folder: MakeFolder, tier: Tier, version: str) -> None:
    layer = INSTALLED / f"awslambdaric-{version}"
    if not layer.is_dir():
        pytest.skip(f"{layer.name}: not installed: run scripts/setup dev")
    bootstrap = f"#!/bin/sh\nexport PYTHONPATH=/opt\nexec {python_of(tier)} -m awslambdaric app.handler\n"
    function = await host.deploy(folder(bootstrap=bootstrap, app_py=ECHO), timeout=20, layers=(str(layer),))
    await echoes_in_one_process(function)
