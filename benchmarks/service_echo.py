"""A bare aiohttp server that sends every body back: what boto3 costs with nothing behind it. Usage: service_echo PORT"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def echo(request: web.BaseRequest) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/json")


async def serve(port: int) -> None:
    await asyncio.get_running_loop().create_server(web.Server(echo, access_log=None), "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
