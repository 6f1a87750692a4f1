"""One function at the path of AWS's emulator, served by our host, with what the mutant of that name spoils."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from sandbox import Host
from sandbox.clock import SystemClock
from sandbox.wire.tap import Tap
from tests.mutants.hosts.table import MUTANTS


async def main(name: str, code: str, layer: str, port: str, timeout: str) -> None:
    mutant = MUTANTS[name]
    tap = Tap(SystemClock())
    for route, fault in mutant.faults:
        tap.spoil(route, fault, times=float("inf"))
    layers = [layer] if any(Path(layer).iterdir()) and mutant.starts_extensions else []
    async with Host(tap=tap) as host:
        function = await host.deploy(code, timeout=float(timeout), layers=layers, memory_mb=mutant.memory)

        async def invoke(request: web.Request) -> web.Response:
            result = await function.invoke(payload=await request.read())
            fields = {"X-Amz-Function-Error": result.function_error} if result.function_error and mutant.tells_errors else {}
            return web.Response(body=mutant.payload(result.payload), headers=fields)

        application = web.Application(client_max_size=10**8)
        application.router.add_post("/2015-03-31/functions/function/invocations", invoke)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(port)).start()
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
