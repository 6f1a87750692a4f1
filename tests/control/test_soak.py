"""Many callers of many functions for long: `pytest -m soak tests/control/test_soak.py`, SOAK_SECONDS=60 unless set."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from sandbox import Host
from sandbox.control.deploy import Code
from sandbox.control.server import Server
from sandbox.control.service import Service
from sandbox.core.errors import Unsupported
from sandbox.package.pack import pack
from tests.conftest import ROOT, no_task_is_left
from tests.control.conftest import ROLE, zip_of

PYTHON = "def handler(event, context):\n    return event\n"
NODE = "exports.handler = async (event) => event\n"
RUBY = "def handler(event:, context:)\n  event\nend\n"
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
CALLERS = 200


def _kinds(host: Host) -> dict[str, tuple[str, str, bytes]]:
    """Runtime, handler and code of the languages that are here."""
    kinds = {"python": (host.runtime_id("python"), "app.handler", zip_of(app_py=PYTHON))}
    for language, file, text in (("nodejs", "app.js", NODE), ("ruby", "app.rb", RUBY)):
        try:
            kinds[language] = (host.runtime_id(language), "app.handler", zip_of(**{file: text}))
        except Unsupported:
            continue
    return kinds


def _bash(tmp_path: Path) -> bytes:
    folder = tmp_path / "bash"
    shutil.copytree(ROOT / "bootstrap" / "bash", folder)
    (folder / "function.sh").write_text("handler() { cat; }\n")
    with ExitStack() as zips:
        return pack(Code(folder, {}).tree(zips))


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.tiers("process")
@pytest.mark.usefixtures("tier")
@pytest.mark.catalogue("IN-066", "LC-030")
async def test_200_callers_of_10_functions(tmp_path: Path) -> None:
    """Every answer is its caller's own, and nothing fails that would not fail on AWS."""
    async with Service(Host()) as service:
        kinds = _kinds(service.host)
        kinds["bash"] = ("provided.al2023", "function.handler", _bash(tmp_path))
        names = [f"f{number}" for number in range(10)]
        for name, (runtime, handler, code) in zip(names, list(kinds.values()) * 10, strict=False):
            given = {"FunctionName": name, "Runtime": runtime, "Handler": handler, "Role": ROLE, "Timeout": 60}
            await service.run("CreateFunction", {**given, "Code": {"ZipFile": code}})
            await service.live.settled(name)
        server = Server(service)
        endpoint = await server.start()
        answers: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        until = loop.time() + SECONDS

        async def caller(session: aiohttp.ClientSession, number: int) -> None:
            luck = random.Random(number)
            while loop.time() < until:
                name, event = luck.choice(names), {"caller": number, "id": str(uuid.uuid4())}
                async with session.post(f"{endpoint}/2015-03-31/functions/{name}/invocations", data=json.dumps(event)) as reply:
                    body = await reply.read()
                assert reply.status == 200, (name, reply.status, body)
                assert "X-Amz-Function-Error" not in reply.headers, (name, body)
                assert json.loads(body) == event, (name, body)
                answers[name] += 1

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
            await asyncio.gather(*(caller(session, number) for number in range(CALLERS)))
        print(f"{sum(answers.values())} invokes: {dict(answers)}")
        assert set(answers) == set(names)
        await server.close()
    no_task_is_left()
