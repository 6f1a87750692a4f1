"""Which pages may call a local listener: DECISIONS "browser pages against local listeners"."""

from __future__ import annotations

import pytest

from sandbox.wire.browsers import is_local_name, refusal
from tests.conftest import Played
from tests.wire.talk import accepted, chunked, in_both_tiers, path, refused

pytestmark = pytest.mark.tiers("process")  # see talk.py

LOCAL = "127.0.0.1:9001"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9001",
        "127.8.9.10:1",
        "[::1]",
        "[::1]:9001",
        "::1",
        "localhost",
        "LocalHost:3000",
        "app.localhost:80",
        "a.b.LOCALHOST",
        "sandbox",
        "sandbox:4243",
        "sandbox.localdomain:8080",
        "sandbox.local.domain",
        "169.254.100.1:9001",
    ],
)
def test_a_name_of_this_machine_is_local(host: str) -> None:
    assert is_local_name(host)
    assert refusal({b"host": host.encode()}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9001",
        "localhost.evil.example",
        "localhost.evil.example:9001",
        "127.0.0.1.evil.example",
        "evillocalhost",
        "sandbox.evil.example",
        "10.0.0.1",
        "192.168.1.1:9001",
        "169.254.169.254",
        "0.0.0.0",
        "[2001:db8::1]:9001",
        "[::2]",
        "127.0.0.1@evil.example",
    ],
)
def test_any_other_name_is_refused(host: str) -> None:
    assert not is_local_name(host)
    assert "Host" in (refusal({b"host": host.encode()}) or "")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # HTTP/1.0
        ({"host": LOCAL}, True),
        ({"host": LOCAL, "sec-fetch-mode": "cors"}, True),  # Node.js's fetch
        ({"host": LOCAL, "sec-fetch-mode": "no-cors", "sec-fetch-site": "none"}, True),  # typed in the address bar
        ({"host": LOCAL, "sec-fetch-site": "same-origin"}, True),
        ({"host": LOCAL, "origin": f"http://{LOCAL}"}, True),
        ({"host": LOCAL, "origin": f"http://{LOCAL}", "sec-fetch-site": "same-origin"}, True),
        ({"host": "LOCALHOST:9001", "origin": "http://localhost:9001"}, True),
        ({"host": LOCAL, "origin": "https://evil.example"}, False),
        ({"host": LOCAL, "origin": "http://evil.example", "sec-fetch-site": "same-origin"}, False),
        ({"host": LOCAL, "origin": "null"}, False),
        ({"host": LOCAL, "origin": ""}, False),
        ({"host": LOCAL, "origin": "http://127.0.0.1:9002"}, False),
        ({"host": LOCAL, "origin": f"http://{LOCAL}.evil.example"}, False),
        ({"host": LOCAL, "sec-fetch-site": "cross-site"}, False),
        ({"host": LOCAL, "sec-fetch-site": "Cross-Site"}, False),
        ({"host": LOCAL, "sec-fetch-site": "same-site"}, False),
        ({"host": LOCAL, "origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"}, False),
        ({"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"}, False),  # rebinding
        ({"origin": "http://evil.example"}, False),
    ],
)
def test_the_table_of_headers(headers: dict[str, str], allowed: bool) -> None:
    reason = refusal({name.encode(): value.encode() for name, value in headers.items()})
    assert (reason is None) is allowed


FOREIGN = [{"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}]


@pytest.mark.parametrize("fields", FOREIGN)
async def test_a_foreign_page_gets_403_and_no_event(played: Played, fields: dict[str, str]) -> None:
    connection = await played.connect()
    job = played.invoke()
    refused(await connection.ask("GET", "invocation/next", **fields), 403, "Forbidden")
    event = await connection.ask("GET", "invocation/next")
    refused(await connection.ask("POST", path(event), b"1", **fields), 403, "Forbidden")
    await connection.send(chunked(path(event), b"x" * 300_000, **fields))
    refused(await connection.reply(), 403, "Forbidden")
    refused(await connection.ask("POST", "init/error", b"{}", **fields), 403, "Forbidden")
    assert not job.answered.done()
    accepted(await connection.ask("POST", path(event), b"own"))
    assert job.result.payload == b"own"


async def test_a_rebound_name_gets_403(played: Played) -> None:
    connection = await played.connect()
    await connection.send(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: evil.example:9001\r\n\r\n")
    assert "evil.example" in refused(await connection.reply(), 403, "Forbidden")


@pytest.mark.tiers("namespace")
@pytest.mark.parametrize("fields", FOREIGN)
async def test_no_page_reaches_into_a_network_of_its_own_so_nobody_is_refused(played: Played, fields: dict[str, str]) -> None:
    connection = await played.connect()
    _, event = await played.deliver(connection)
    accepted(await connection.ask("POST", path(event), b"own", **fields))


@in_both_tiers
async def test_nodes_fetch_is_no_browser(played: Played) -> None:
    _, event = await played.deliver(await played.connect())
    connection = await played.connect()
    accepted(await connection.ask("POST", path(event), b"1", sec_fetch_mode="cors"))


async def test_no_host_at_all_is_accepted(played: Played) -> None:
    connection = await played.connect()
    played.invoke()
    await connection.send(b"GET /2018-06-01/runtime/invocation/next HTTP/1.0\r\n\r\n")
    assert (await connection.reply()).status == 200
