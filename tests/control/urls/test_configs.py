"""The operations on function URLs, as stock boto3 sees them, and what they keep."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import SHORT, no_task_is_left
from tests.control.conftest import Caller, called, zip_of
from tests.control.helpers import ARN, FAILED, INVALID, NOT_FOUND, check, refused

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

VALIDATION = "ValidationException"
NO_FUNCTION = "Function does not exist"
NO_URL = "The resource you requested does not exist."
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
URL = re.compile(r"http://([a-z0-9]{32})\.lambda-url\.us-east-1\.localhost:(\d+)/")
CODE = "def handler(event, context):\n    return event['requestContext']['apiId']\n"


@pytest.fixture
def lean() -> bool:
    """Every test here talks to the store."""
    return True


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def listens(url: str) -> bool:
    """Whether somebody takes connections at its port."""
    try:
        socket.create_connection(("127.0.0.1", port_of(url))).close()
    except ConnectionRefusedError:
        return False
    return True


async def body_of(url: str) -> bytes:
    """What the URL answers to GET /."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
        await writer.wait_closed()


async def with_alias(caller: Caller) -> None:
    """A function, its version 1, and the alias live of it."""
    await caller.create(app=CODE)
    await caller.publish_version(FunctionName="f")
    await caller.active("f", "1")
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")


async def make(caller: Caller, name: str = "f", **settings: Any) -> dict[str, Any]:
    made: dict[str, Any] = await caller.create_function_url_config(FunctionName=name, **{"AuthType": "NONE", **settings})
    return made


@contextlib.asynccontextmanager
async def kept(data: Path, told: list[str]) -> AsyncIterator[Caller]:
    """A service that keeps everything in a folder."""
    async with Service(Host(limits=SHORT), data=data, on_trouble=told.append) as service:
        server = Server(service)
        caller = Caller(await server.start(), service)
        try:
            yield caller
        finally:
            caller.client.close()
            await server.close()
    no_task_is_left()


# ── answers ──


@pytest.mark.catalogue("CP-093", "CP-094")
async def test_the_keys_of_every_answer(caller: Caller) -> None:
    await caller.create()
    made = await make(caller)
    assert caller.metadata["HTTPStatusCode"] == 201
    assert set(made) == {"FunctionUrl", "FunctionArn", "AuthType", "CreationTime"}
    assert (made["FunctionArn"], made["AuthType"]) == (f"{ARN}:function:f", "NONE")
    assert URL.fullmatch(made["FunctionUrl"])
    assert TIME.fullmatch(made["CreationTime"])
    got = await caller.get_function_url_config(FunctionName="f")
    assert caller.metadata["HTTPStatusCode"] == 200
    assert got == made | {"LastModifiedTime": made["CreationTime"], "InvokeMode": "BUFFERED"}
    assert await caller.list_function_url_configs(FunctionName="f") == {"FunctionUrlConfigs": [got]}
    updated = await caller.update_function_url_config(FunctionName="f", AuthType="AWS_IAM")
    assert caller.metadata["HTTPStatusCode"] == 200
    assert updated == made | {"AuthType": "AWS_IAM", "LastModifiedTime": updated["LastModifiedTime"]}
    assert updated["LastModifiedTime"] > made["CreationTime"]
    assert await caller.delete_function_url_config(FunctionName="f") == {}
    assert caller.metadata["HTTPStatusCode"] == 204
    assert await caller.list_function_url_configs(FunctionName="f") == {"FunctionUrlConfigs": []}


@pytest.mark.catalogue("CP-093")
async def test_what_was_given_is_shown_and_an_update_keeps_the_rest(caller: Caller) -> None:
    await caller.create()
    cors = {
        "AllowCredentials": True,
        "AllowHeaders": ["x-a", "*"],
        "AllowMethods": ["GET", "*"],
        "AllowOrigins": ["https://a.example"],
        "ExposeHeaders": ["x-b"],
        "MaxAge": 86400,
    }
    made = await make(caller, InvokeMode="RESPONSE_STREAM", Cors=cors)
    assert (made["InvokeMode"], made["Cors"]) == ("RESPONSE_STREAM", cors)
    updated = await caller.update_function_url_config(FunctionName="f", AuthType="AWS_IAM")
    assert (updated["InvokeMode"], updated["Cors"], updated["AuthType"]) == ("RESPONSE_STREAM", cors, "AWS_IAM")
    updated = await caller.update_function_url_config(FunctionName="f", Cors={"MaxAge": 0})
    assert (updated["Cors"], updated["AuthType"]) == ({"MaxAge": 0}, "AWS_IAM")  # replaced as a whole
    updated = await caller.update_function_url_config(FunctionName="f", InvokeMode="BUFFERED")
    assert updated["InvokeMode"] == "BUFFERED"
    assert updated["FunctionUrl"] == made["FunctionUrl"]
    assert updated["CreationTime"] == made["CreationTime"]


async def test_times_are_those_of_the_clock() -> None:
    clock = ManualClock(wall=1_700_000_000.25)
    async with Service(Host(limits=SHORT, clock=clock)) as service:
        await service.run(
            "CreateFunction",
            {
                "FunctionName": "f",
                "Runtime": "python3.11",
                "Handler": "app.handler",
                "Role": "r",
                "Code": {"ZipFile": archive()},
            },
        )
        made = await service.run("CreateFunctionUrlConfig", {"FunctionName": "f", "AuthType": "NONE"})
        assert made["CreationTime"] == "2023-11-14T22:13:20.250000Z"
        clock.advance(1)
        updated = await service.run("UpdateFunctionUrlConfig", {"FunctionName": "f"})
        assert (updated["CreationTime"], updated["LastModifiedTime"]) == (
            "2023-11-14T22:13:20.250000Z",
            "2023-11-14T22:13:21.250000Z",
        )
    no_task_is_left()


def archive() -> bytes:
    return zip_of(app_py=CODE)


# ── refusals ──


@pytest.mark.catalogue("CP-093")
@pytest.mark.parametrize("operation", ["create", "get", "update", "delete"])
@pytest.mark.parametrize("qualifier", ["1", "$LATEST"])
async def test_a_number_is_no_qualifier_of_a_url(caller: Caller, operation: str, qualifier: str) -> None:
    await with_alias(caller)
    call = getattr(caller, f"{operation}_function_url_config")
    more = {"AuthType": "NONE"} if operation == "create" else {}
    pattern = r"((?!^\d+$)^[0-9a-zA-Z-_]+$)"
    text = f"Value '{qualifier}' at 'qualifier' {FAILED}: Member must satisfy regular expression pattern: {pattern}"
    await check(call(FunctionName="f", Qualifier=qualifier, **more), 400, VALIDATION, f"1 validation error detected: {text}")


@pytest.mark.catalogue("CP-093")
@pytest.mark.parametrize("name", ["f:1", "f:$LATEST", f"{ARN}:function:f:1"])
async def test_nor_is_one_within_the_name(caller: Caller, name: str) -> None:
    await with_alias(caller)
    assert (await refused(make(caller, name))).status == 400
    assert await caller.list_function_url_configs(FunctionName="f") == {"FunctionUrlConfigs": []}


@pytest.mark.catalogue("CP-093")
async def test_what_is_not_there(caller: Caller) -> None:
    await caller.create()
    for name, more in (("nobody", {}), ("f", {"Qualifier": "nobody"})):
        given = {"FunctionName": name, **more}
        await check(caller.create_function_url_config(**given, AuthType="NONE"), 404, NOT_FOUND, NO_FUNCTION)
        await check(caller.update_function_url_config(**given, AuthType="NONE"), 404, NOT_FOUND, NO_FUNCTION)
        await check(caller.get_function_url_config(**given), 404, NOT_FOUND, NO_URL)
        await check(caller.delete_function_url_config(**given), 404, NOT_FOUND, NO_URL)
    await check(caller.list_function_url_configs(FunctionName="nobody"), 404, NOT_FOUND, NO_FUNCTION)
    await check(caller.get_function_url_config(FunctionName="f"), 404, NOT_FOUND, NO_URL)
    await check(caller.update_function_url_config(FunctionName="f"), 404, NOT_FOUND, NO_URL)
    await check(caller.delete_function_url_config(FunctionName="f"), 404, NOT_FOUND, NO_URL)
    assert (await refused(caller.get_function_url_config(FunctionName="f"))).typed


@pytest.mark.catalogue("CP-094")
async def test_a_second_one_is_refused(caller: Caller) -> None:
    await with_alias(caller)
    for more, arn in (({}, f"{ARN}:function:f"), ({"Qualifier": "live"}, f"{ARN}:function:f:live")):
        made = await make(caller, **more)
        text = f"Failed to create function url config for [functionArn = {arn}]. Error message:  "
        text += "FunctionUrlConfig exists for this Lambda function"
        await check(make(caller, **more), 409, "ResourceConflictException", text)
        assert (await caller.get_function_url_config(FunctionName="f", **more))["FunctionUrl"] == made["FunctionUrl"]


@pytest.mark.catalogue("CP-093")
async def test_other_values_are_refused(caller: Caller) -> None:
    await with_alias(caller)
    modes = "Member must satisfy enum value set: [RESPONSE_STREAM, BUFFERED]"
    text = f"1 validation error detected: Value 'UNKNOWN' at 'invokeMode' {FAILED}: {modes}"
    await check(make(caller, InvokeMode="UNKNOWN"), 400, VALIDATION, text)
    said = await refused(make(caller, AuthType="ANY"))
    assert (said.status, said.code) == (400, VALIDATION)
    assert f"Value 'ANY' at 'authType' {FAILED}: Member must satisfy enum value set: [" in said.message
    said = await refused(caller.create_function_url_config(FunctionName="f"))
    assert (said.status, said.code) == (400, VALIDATION)
    assert f"at 'authType' {FAILED}: Member must not be null" in said.message
    differ = "The derived qualifier from the function name does not match the specified qualifier."
    await check(make(caller, "f:live", Qualifier="other"), 400, INVALID, differ)
    await make(caller)
    await check(caller.update_function_url_config(FunctionName="f", InvokeMode="UNKNOWN"), 400, VALIDATION, text)


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "headers": ({"AllowHeaders": ["h"] * 100}, {"AllowHeaders": ["h"] * 101}),
    "header": ({"AllowHeaders": ["h" * 1024]}, {"AllowHeaders": ["h" * 1025]}),
    "exposed": ({"ExposeHeaders": ["h"] * 100}, {"ExposeHeaders": ["h"] * 101}),
    "expose": ({"ExposeHeaders": ["h" * 1024]}, {"ExposeHeaders": ["h" * 1025]}),
    "methods": ({"AllowMethods": ["GET"] * 6}, {"AllowMethods": ["GET"] * 7}),
    "method": ({"AllowMethods": ["DELETE"]}, {"AllowMethods": ["OPTIONS"]}),
    "origins": ({"AllowOrigins": ["o"] * 100}, {"AllowOrigins": ["o"] * 101}),
    "origin": ({"AllowOrigins": ["o" * 253]}, {"AllowOrigins": ["o" * 254]}),
    "no origin": ({"AllowOrigins": ["o"]}, {"AllowOrigins": [""]}),
    "age": ({"MaxAge": 86_400}, {"MaxAge": 86_401}),
    "no age": ({"MaxAge": 0}, {"MaxAge": -1}),
}


@pytest.mark.catalogue("CP-095")
async def test_the_limits_of_cors(caller: Caller) -> None:
    await caller.create()
    await make(caller)
    for what, (most, over) in LIMITS.items():
        updated = await caller.update_function_url_config(FunctionName="f", Cors=most)
        assert (what, updated["Cors"]) == (what, most)
        said = await refused(caller.update_function_url_config(FunctionName="f", Cors=over))
        assert (what, said.status, said.code) == (what, 400, VALIDATION)
        assert f"at 'cors.{next(iter(over))[0].lower()}{next(iter(over))[1:]}" in said.message
    assert (await caller.get_function_url_config(FunctionName="f"))["Cors"] == {"MaxAge": 0}


# ── aliases, and how long a URL lives ──


@pytest.mark.catalogue("CP-093")
async def test_an_alias_has_a_url_of_its_own(caller: Caller) -> None:
    await with_alias(caller)
    own = await make(caller)
    alias = await make(caller, Qualifier="live")
    assert alias["FunctionArn"] == f"{ARN}:function:f:live"
    assert alias["FunctionUrl"] != own["FunctionUrl"]
    by_name = await caller.get_function_url_config(FunctionName="f:live")
    assert by_name["FunctionUrl"] == alias["FunctionUrl"]
    found = (await caller.list_function_url_configs(FunctionName="f"))["FunctionUrlConfigs"]
    assert [one["FunctionUrl"] for one in found] == [own["FunctionUrl"], alias["FunctionUrl"]]
    await caller.delete_function_url_config(FunctionName="f")
    assert not listens(own["FunctionUrl"])
    await check(caller.get_function_url_config(FunctionName="f"), 404, NOT_FOUND, NO_URL)
    assert (await caller.get_function_url_config(FunctionName="f", Qualifier="live"))["FunctionUrl"] == alias["FunctionUrl"]
    assert listens(alias["FunctionUrl"])


async def test_pages_of_a_list(caller: Caller) -> None:
    await with_alias(caller)
    urls = [(await make(caller, **more))["FunctionUrl"] for more in ({}, {"Qualifier": "live"})]
    first = await caller.list_function_url_configs(FunctionName="f", MaxItems=1)
    assert [one["FunctionUrl"] for one in first["FunctionUrlConfigs"]] == urls[:1]
    second = await caller.list_function_url_configs(FunctionName="f", MaxItems=1, Marker=first["NextMarker"])
    assert [one["FunctionUrl"] for one in second["FunctionUrlConfigs"]] == urls[1:]
    assert "NextMarker" not in second


@pytest.mark.catalogue("CP-094")
async def test_a_url_is_the_same_for_life(caller: Caller) -> None:
    await with_alias(caller)
    url = (await make(caller, Qualifier="live"))["FunctionUrl"]
    await caller.update_function_url_config(FunctionName="f", Qualifier="live", AuthType="NONE", InvokeMode="BUFFERED")
    await caller.update_function_code(FunctionName="f", ZipFile=archive())
    await caller.active("f")
    await caller.update_alias(FunctionName="f", Name="live", Description="x")
    assert (await caller.get_function_url_config(FunctionName="f", Qualifier="live"))["FunctionUrl"] == url
    found = URL.fullmatch(url)
    assert found is not None
    assert await body_of(url) == f'"{found[1]}"'.encode()
    await caller.delete_function_url_config(FunctionName="f", Qualifier="live")
    assert not listens(url)
    again = (await make(caller, Qualifier="live"))["FunctionUrl"]
    assert urlsplit(again).hostname != urlsplit(url).hostname  # another life


async def test_a_url_goes_with_its_alias(caller: Caller) -> None:
    await with_alias(caller)
    url = (await make(caller, Qualifier="live"))["FunctionUrl"]
    own = (await make(caller))["FunctionUrl"]
    await caller.delete_alias(FunctionName="f", Name="live")
    assert (listens(url), listens(own)) == (False, True)
    await caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    await check(caller.get_function_url_config(FunctionName="f", Qualifier="live"), 404, NOT_FOUND, NO_URL)


async def test_urls_go_with_their_function(caller: Caller) -> None:
    await with_alias(caller)
    urls = [(await make(caller, **more))["FunctionUrl"] for more in ({}, {"Qualifier": "live"})]
    await caller.delete_function(FunctionName="f")
    assert not any(map(listens, urls))
    await caller.create()
    assert await caller.list_function_url_configs(FunctionName="f") == {"FunctionUrlConfigs": []}


@pytest.mark.catalogue("CP-094")
async def test_urls_are_kept_over_a_restart(tmp_path: Path) -> None:
    told: list[str] = []
    async with kept(tmp_path, told) as caller:
        await with_alias(caller)
        before = [await make(caller, **more) for more in ({"Cors": {"MaxAge": 1}}, {"Qualifier": "live"})]
    assert not any(listens(one["FunctionUrl"]) for one in before)
    async with kept(tmp_path, told) as caller:
        await caller.active("f")
        await caller.active("f", "1")
        after = (await caller.list_function_url_configs(FunctionName="f"))["FunctionUrlConfigs"]
        assert [one["FunctionUrl"] for one in after] == [one["FunctionUrl"] for one in before]
        assert after[0]["Cors"] == {"MaxAge": 1}
        for one in after:
            found = URL.fullmatch(one["FunctionUrl"])
            assert found is not None
            assert await body_of(one["FunctionUrl"]) == f'"{found[1]}"'.encode()
    assert told == []


@pytest.mark.catalogue("CP-094")
async def test_a_url_whose_port_is_taken_moves_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    async with kept(tmp_path, told) as caller:
        await caller.create(app=CODE)
        before = (await make(caller))["FunctionUrl"]
    with socket.create_server(("127.0.0.1", port_of(before))):
        async with kept(tmp_path, told) as caller:
            await caller.active("f")
            after = (await caller.get_function_url_config(FunctionName="f"))["FunctionUrl"]
            assert urlsplit(after).hostname == urlsplit(before).hostname
            assert port_of(after) != port_of(before)
            [text] = told
            assert ("function f" in text, str(port_of(before)) in text, after in text) == (True, True, True)
            assert "\n" not in text
            assert await body_of(after) == f'"{(urlsplit(after).hostname or "").partition(".")[0]}"'.encode()
    async with kept(tmp_path, told) as caller:  # it stays where it is now
        assert (await caller.get_function_url_config(FunctionName="f"))["FunctionUrl"] == after
    assert len(told) == 1


async def test_many_at_once_have_each_their_own(caller: Caller) -> None:
    names = [f"f{n}" for n in range(12)]
    await asyncio.gather(*(caller.create(name, app=CODE) for name in names))
    made = await asyncio.gather(*(make(caller, name) for name in names))
    assert len({port_of(one["FunctionUrl"]) for one in made}) == len(names)
    for name, one in zip(names, made, strict=True):
        assert (await caller.get_function_url_config(FunctionName=name))["FunctionUrl"] == one["FunctionUrl"]
        found = URL.fullmatch(one["FunctionUrl"])
        assert found is not None
        assert await body_of(one["FunctionUrl"]) == f'"{found[1]}"'.encode()


async def test_a_port_that_was_reserved_stays_free_for_its_url(caller: Caller) -> None:
    """Another function's change, meanwhile, does not give it away."""
    port = await asyncio.to_thread(caller.service.urls.reserve)
    await caller.create("other")
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port)).close()


async def test_a_service_that_ends_closes_every_listener(tier: object) -> None:
    async with called(Host(limits=SHORT)) as caller:
        await caller.create(app=CODE)
        url = (await make(caller))["FunctionUrl"]
        assert listens(url)
    assert not listens(url)
