"""Function URLs over HTTP: real functions, and clients that send what they like."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import pytest

from sandbox import Host
from sandbox.control.server import Server
from sandbox.control.service import Service
from tests.conftest import SHORT, Tier, no_task_is_left
from tests.control.conftest import ROLE, Caller, zip_of
from tests.control.helpers import nothing_settles
from tests.control.test_invoke import until

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]

MIB = 1024 * 1024
FAILED = b"Internal Server Error"
# Answers with what ?do= says, or with its event.
APP = """
import base64, json, os, sys, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    q = event.get("queryStringParameters", {})
    do = q.get("do")
    if do == "raise":
        raise ValueError("as asked")
    if do == "exit":
        os._exit(3)
    if do == "sleep":
        time.sleep(60)
    if do == "wait":
        open(q["begun"], "w").write("begun")
        while not os.path.exists(q["go"]):
            time.sleep(0.002)
        open(q["done"], "w").write("done")
        return "waited"
    if do == "answer":
        return json.loads(q["with"])
    if do == "big":
        return "x" * int(q["size"])
    if do == "mirror":
        return {"statusCode": 200, "body": event["body"], "isBase64Encoded": event["isBase64Encoded"]}
    if do == "version":
        return context.function_version
    event["calls"], event["id"], event["arn"] = calls, context.aws_request_id, context.invoked_function_arn
    return event
"""
NODE = """
const fs = require("fs");
const until = async (file) => { while (!fs.existsSync(file)) await new Promise((r) => setTimeout(r, 2)); };
exports.handler = awslambda.streamifyResponse(async (event, out) => {
  const q = event.queryStringParameters || {};
  if (q.early) throw new Error("before the first byte");
  if (q.mode !== "plain") {
    const headers = {"content-type": "text/event-stream", "x-a": "1"};
    out = awslambda.HttpResponseStream.from(out, {statusCode: Number(q.status || 201), headers, cookies: ["a=1", "b=2"]});
  }
  out.write("first\\n");
  if (q.go) await until(q.go);
  if (q.late) throw new Error("after the first byte");
  for (let n = 0; n < Number(q.mib || 0); n++) {
    if (!out.write(Buffer.alloc(1024 * 1024, 120))) await new Promise((r) => out.once("drain", r));
  }
  out.write("last\\n");
  out.end();
  if (q.done) { await new Promise((r) => out.once("finish", r)); fs.writeFileSync(q.done, "done"); }
});
"""
SIGNED = "AWS4-HMAC-SHA256 Credential=AKIDX/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=abc"


@pytest.fixture
def lean() -> bool:
    """URLs have ways in of their own."""
    return True


class World:
    """A service, its client, and what it told people."""

    def __init__(self, caller: Caller, told: list[str]) -> None:
        self.caller = caller
        self.told = told

    async def url(self, name: str = "f", app: str = APP, function: dict[str, Any] | None = None, **settings: Any) -> Url:
        """A function in Python with a URL."""
        await self.caller.create(name, app=app, **(function or {}))
        return await self.url_of(name, **settings)

    async def url_of(self, name: str = "f", **settings: Any) -> Url:
        given = {"FunctionName": name, "AuthType": "NONE", **settings}
        return Url((await self.caller.create_function_url_config(**given))["FunctionUrl"])

    async def streaming(self, **settings: Any) -> Url:
        """One in Node.js that streams."""
        if shutil.which("node") is None:
            pytest.skip("runtime nodejs: no node on PATH")
        code = {"ZipFile": zip_of(**{"index.js": NODE})}
        given = {
            "Runtime": "nodejs20.x",
            "Handler": "index.handler",
            "Role": ROLE,
            "Code": code,
            "Timeout": 60,
            "MemorySize": 512,
        }
        await self.caller.create_function(FunctionName="s", **given)
        await self.caller.active("s")
        return await self.url_of("s", **{"InvokeMode": "RESPONSE_STREAM", **settings})


class Got:
    """An answer. headers: as they came; cut: the connection ended before it did."""

    def __init__(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status = status
        self.headers = headers
        self.body = b""
        self.cut = False

    def all(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name]

    def one(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) <= 1, found
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Got:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        pairs = [line.partition(":")[::2] for line in lines]
        return Got(int(first.split(" ")[1]), [(name, value.strip()) for name, value in pairs])

    async def chunk(self) -> bytes:
        """The next of a chunked body; none at its end."""
        size = int((await self.reader.readline()).strip() or b"-1", 16)
        if size < 0:
            raise asyncio.IncompleteReadError(b"", None)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def got(self, method: str = "GET") -> Got:
        """A whole answer."""
        got = await self.head()
        if method == "HEAD" or got.status in (100, 204, 304):
            return got
        try:
            if got.one("transfer-encoding") == "chunked":
                while piece := await self.chunk():
                    got.body += piece
            elif (length := got.one("content-length")) is not None:
                got.body = await self.reader.readexactly(int(length))
            else:
                got.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            got.cut = True
        return got


class Url:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self.url, self.host, self.port = url, parts.netloc, parts.port

    def request(self, method: str, target: str, body: bytes | None, headers: tuple[tuple[str, str], ...]) -> bytes:
        lines = [f"{method} {target} HTTP/1.1"]
        if not any(name.lower() == "host" for name, _ in headers):
            lines.append(f"Host: {self.host}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None and not any(name.lower() == "transfer-encoding" for name, _ in headers):
            lines.append(f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")

    @contextlib.asynccontextmanager
    async def line(self, limit: int = 4 * MIB) -> AsyncIterator[Line]:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        try:
            yield line
        finally:
            line.writer.close()
            with contextlib.suppress(ConnectionError):
                await line.writer.wait_closed()

    async def ask(self, method: str = "GET", target: str = "/", body: bytes | None = None, *headers: tuple[str, str]) -> Got:
        async with self.line() as line:
            await line.send(self.request(method, target, body, headers))
            return await line.got(method)

    async def answered(self, result: Any, method: str = "GET") -> Got:
        """What becomes of this result of the function."""
        return await self.ask(method, f"/?do=answer&with={quote(json.dumps(result))}")


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[World]:
    told: list[str] = []
    async with Service(Host(limits=SHORT), on_trouble=told.append) as service:
        server = Server(service)
        caller = Caller(await server.start(), service)
        try:
            yield World(caller, told)
        finally:
            caller.client.close()
            await server.close()


@pytest.fixture
async def world(tier: Tier) -> AsyncIterator[World]:
    async with served() as made:
        yield made
    no_task_is_left()


def waits(folder: Path) -> tuple[str, Path, Path, Path]:
    """The target of a request that lasts until `go`; its files."""
    begun, go, done = (folder / name for name in ("begun", "go", "done"))
    return f"/?do=wait&begun={begun}&go={go}&done={done}", begun, go, done


# ── requests ──


@pytest.mark.catalogue("IN-120", "CP-094")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_every_method_reaches_the_function(world: World, method: str) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(url.request(method, "/a/b?c=d", b"xyz" if method in ("POST", "PUT", "PATCH", "DELETE") else None, ()))
        got = await line.got(method)
        assert (got.status, got.one("content-type")) == (200, "application/json")
        if method == "HEAD":
            assert (got.body, int(got.one("content-length") or 0) > 100) == (b"", True)
        else:
            assert got.json()["requestContext"]["http"]["method"] == method
        await line.send(url.request("GET", "/", None, ()))  # the connection is as good as before
        assert (await line.got()).json()["calls"] == 2


@pytest.mark.catalogue("IN-120")
async def test_the_event_of_a_real_request(world: World) -> None:
    url = await world.url()
    headers = ("User-Agent", "me"), ("X-Two", "1"), ("x-two", "2"), ("Cookie", "a=1; b=2"), ("X-U", "grün")
    got = await url.ask("POST", "/p%20q?multi=foo&multi=%2Fbar", b"text", ("Content-Type", "text/plain"), *headers)
    event, name = got.json(), url.host.partition(".")[0]
    context = event["requestContext"]
    assert (event["rawPath"], event["rawQueryString"]) == ("/p%20q", "multi=foo&multi=%2Fbar")
    assert event["queryStringParameters"] == {"multi": "foo,/bar"}
    assert (event["body"], event["isBase64Encoded"], event["cookies"]) == ("text", False, ["a=1", "b=2"])
    assert (event["headers"]["x-two"], event["headers"]["x-u"], event["headers"]["host"]) == ("1,2", "grün", url.host)
    assert (context["domainName"], context["domainPrefix"], context["apiId"]) == (url.host, name, name)
    assert (context["http"]["sourceIp"], context["http"]["userAgent"]) == ("127.0.0.1", "me")
    assert event["headers"]["x-forwarded-port"] == str(url.port)
    assert got.one("x-amzn-requestid") == event["id"] == context["requestId"]
    assert event["headers"]["x-amzn-trace-id"].startswith("Root=1-")
    assert event["headers"]["x-amzn-trace-id"].partition("=")[2][:35] in (got.one("x-amzn-trace-id") or "")
    assert event["arn"] == "arn:aws:lambda:us-east-1:123456789012:function:f"


@pytest.mark.catalogue("IN-121")
async def test_bytes_go_both_ways(world: World) -> None:
    url = await world.url()
    data = bytes(range(256)) * 100
    got = await url.ask("POST", "/?do=mirror", data, ("Content-Type", "image/png"))
    assert (got.status, got.body) == (200, data)
    packed = gzip.compress(b"hello")
    sent = ("Content-Type", "text/plain"), ("Content-Encoding", "gzip")
    assert (await url.ask("POST", "/?do=mirror", packed, *sent)).body == packed  # nobody unpacks it
    event = (await url.ask("POST", "/", packed, *sent)).json()
    assert (event["headers"]["content-encoding"], base64.b64decode(event["body"])) == ("gzip", packed)
    chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    got = await url.ask("POST", "/?do=mirror", chunks, ("Transfer-Encoding", "chunked"), ("Content-Type", "text/plain"))
    assert got.body == b"abcde"


async def test_a_body_in_bad_chunks_is_the_callers_mistake(world: World) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(url.request("POST", "/", None, (("Transfer-Encoding", "chunked"),)))
        await line.send(b"3\r\nabc\r\nno number\r\n\r\n")
        assert (await line.got()).status == 400
    assert (await url.ask()).json()["calls"] == 1
    assert world.told == []


async def test_expect_100_continue(world: World) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(
            url.request(
                "POST",
                "/?do=mirror",
                None,
                (("Expect", "100-continue"), ("Content-Length", "5"), ("Content-Type", "text/plain")),
            )
        )
        assert (await line.got()).status == 100
        await line.send(b"hello")
        got = await line.got()
        assert (got.status, got.body) == (200, b"hello")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://other.example/p%20q?x=1", "/p%20q", "x=1"),
        ("http://other.example", "/", ""),
        ("http://other.example?x=/a", "/", "x=/a"),
        ("//a//b", "//a//b", ""),
        ("/a?x=http://b/?c", "/a", "x=http://b/?c"),
        ("/../a/./b", "/../a/./b", ""),
    ],
)
async def test_forms_of_targets(world: World, target: str, path: str, query: str) -> None:
    url = await world.url()
    event = (await url.ask("GET", target)).json()
    assert (event["rawPath"], event["rawQueryString"]) == (path, query)


async def test_long_targets(world: World) -> None:
    url = await world.url()
    assert (await url.ask("GET", "/" + "a" * 8000)).json()["rawPath"] == "/" + "a" * 8000
    assert (await url.ask("GET", "/" + "a" * 100_000)).status in (400, 414)
    assert (await url.ask("GET", "/", None, ("X-Long", "a" * 100_000))).status in (400, 431)
    assert (await url.ask()).json()["calls"] == 2


async def test_requests_after_and_behind_each_other(world: World) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(b"".join(url.request("POST", f"/{n}", b"x" * n, ()) for n in range(5)))
        assert [(await line.got()).json()["rawPath"] for _ in range(5)] == [f"/{n}" for n in range(5)]
        await line.send(url.request("GET", "/last", None, (("Connection", "close"),)))
        assert (await line.got()).json()["rawPath"] == "/last"
        assert await line.reader.read() == b""


async def test_http_1_0(world: World) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert (await line.got()).json()["rawPath"] == "/old"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example"])
async def test_a_foreign_host_is_refused(world: World, host: str) -> None:
    url = await world.url()
    got = await url.ask("GET", "/", None, ("Host", host))
    assert (got.status, got.one("x-amzn-errortype")) == (403, "AccessDeniedException")
    assert host in got.json()["Message"]
    for good in ("localhost", f"127.0.0.1:{url.port}", "anything.localhost"):
        assert (await url.ask("GET", "/", None, ("Host", good))).status == 200
    assert (await url.ask()).json()["calls"] == 4


async def test_a_page_that_only_tries_ports_is_refused(world: World) -> None:
    """Whoever knows the URL's own name was told it; for an Origin that is allowed any name will do."""
    url = await world.url(Cors=CORS)
    tried = ("Host", f"127.0.0.1:{url.port}")
    foreign = ("Origin", "http://y.example")
    assert (await url.ask("POST", "/", b"x", tried, foreign)).status == 403
    assert (await url.ask("GET", "/", None, tried, ("Sec-Fetch-Site", "cross-site"))).status == 403
    assert (await url.ask("POST", "/", b"x", foreign)).status == 200
    assert (await url.ask("POST", "/", b"x", tried, ORIGIN)).status == 200
    assert (await url.ask("GET", "/", None, tried)).json()["calls"] == 3


async def test_what_is_no_http_is_nobodys_traceback(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await line.got()).status == 400
    assert (await url.ask("CONNECT", "x.example:443")).status == 400
    assert "Traceback" not in capfd.readouterr().err


async def test_a_websocket_is_refused(world: World) -> None:
    url = await world.url()
    wanted = ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "eA=="), ("Sec-WebSocket-Version", "13")
    got = await url.ask("GET", "/", None, *wanted)
    assert (got.status, "WebSocket" in got.json()["Message"]) == (400, True)
    assert (await url.ask("GET", "/", None, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"))).json()["calls"] == 1


async def test_a_trace_header_of_any_kind(world: World) -> None:
    url = await world.url()
    root = "Root=1-65538000-0123456789abcdef01234567"
    event = (await url.ask("GET", "/", None, ("X-Amzn-Trace-Id", root + ";Sampled=1"))).json()
    assert root in event["headers"]["x-amzn-trace-id"]
    for value in ("ä", "x" * 5000, "", "Root="):
        assert (value, (await url.ask("GET", "/", None, ("X-Amzn-Trace-Id", value))).status) in ((value, 200), (value, 400))
    assert (await url.ask()).status == 200
    assert world.told == []


@pytest.mark.catalogue("IN-128")
async def test_aws_iam_asks_for_a_signature(world: World) -> None:
    url = await world.url(AuthType="AWS_IAM")
    for _ in range(2):
        got = await url.ask()
        assert (got.status, got.one("x-amzn-errortype")) == (403, "AccessDeniedException")
        assert got.json()["Message"].startswith("Forbidden")
    assert len([text for text in world.told if "not signed" in text]) == 1
    event = (await url.ask("GET", "/", None, ("Authorization", SIGNED))).json()
    assert event["requestContext"]["authorizer"]["iam"]["accessKey"] == "AKIDX"
    assert (event["requestContext"]["accountId"], event["calls"]) == ("123456789012", 1)
    await world.caller.update_function_url_config(FunctionName="f", AuthType="NONE")
    assert (await url.ask()).json()["requestContext"]["accountId"] == "anonymous"


@pytest.mark.catalogue("IN-009")
async def test_a_request_that_is_too_large(world: World) -> None:
    url = await world.url()
    got = await url.ask("POST", "/", b"x" * (6 * MIB + 1), ("Content-Type", "text/plain"))
    assert (got.status, got.one("x-amzn-errortype")) == (413, "RequestTooLargeException")
    assert (await url.ask("POST", "/", b"x" * (5 * MIB), ("Content-Type", "image/png"))).status == 413  # as base64
    got = await url.ask("POST", "/?do=mirror", b"x" * (5 * MIB), ("Content-Type", "text/plain"))
    assert (got.status, len(got.body)) == (200, 5 * MIB)


# ── answers ──


@pytest.mark.catalogue("IN-122", "IN-123", "CP-094")
async def test_answers_over_http(world: World) -> None:
    url = await world.url()
    got = await url.answered({"hello": "world"})
    assert (got.status, got.body, got.one("content-length"), got.one("content-type")) == (
        200,
        b'{"hello":"world"}',
        "17",
        "application/json",
    )
    got = await url.answered(
        {
            "statusCode": 418,
            "headers": {"X-N": 3, "Content-Type": "text/html"},
            "cookies": ["a=1; Path=/", "b=2"],
            "body": "<p>",
        }
    )
    assert (got.status, got.body, got.one("x-n"), got.one("content-type")) == (418, b"<p>", "3", "text/html")
    assert got.all("set-cookie") == ["a=1; Path=/", "b=2"]


async def test_header_values_beyond_ascii(world: World) -> None:
    url = await world.url()
    got = await url.answered({"statusCode": 200, "headers": {"X-U": "grün €"}, "cookies": ["a=ü"]})
    assert (got.one("x-u"), got.one("set-cookie")) == ("grün €", "a=ü")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304])
async def test_answers_without_a_body(world: World, method: str, status: int) -> None:
    url = await world.url()
    result = quote(json.dumps({"statusCode": status, "body": "some body"}))
    async with url.line() as line:
        await line.send(url.request(method, f"/?do=answer&with={result}", None, ()))
        got = await line.got(method)
        assert (got.status, got.body) == (status, b"some body" if (method, status) == ("GET", 200) else b"")
        await line.send(url.request("GET", "/", None, ()))
        assert (await line.got()).json()["calls"] == 2


@pytest.mark.catalogue("IN-124")
@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": 200, "headers": []},
        {"statusCode": 200, "headers": {"a": "x\ny"}},
    ],
)
async def test_a_bad_answer_is_502_and_told_once(world: World, result: Any) -> None:
    url = await world.url()
    for _ in range(2):
        got = await url.answered(result)
        assert (got.status, got.body) == (502, FAILED)
    [text] = world.told
    assert "function f" in text


@pytest.mark.parametrize("value", ["a\x01b", "a\x7fb", "\t", " x "])
async def test_odd_header_values_are_sent_or_a_bad_answer(world: World, value: str) -> None:
    url = await world.url()
    got = await url.answered({"statusCode": 200, "headers": {"X-Odd": value}, "body": "ok"})
    assert (got.status, got.body) in ((200, b"ok"), (502, FAILED))
    assert not [text for text in world.told if "mistake" in text]


@pytest.mark.catalogue("IN-125")
async def test_errors_are_502(world: World) -> None:
    url = await world.url(function={"Timeout": 1})
    for do in ("raise", "exit", "sleep"):
        got = await url.ask("GET", f"/?do={do}")
        assert (do, got.status, got.body) == (do, 502, FAILED)
        assert got.one("x-amzn-requestid")
    got = await url.ask("GET", f"/?do=big&size={6 * MIB + 200}")
    assert (got.status, got.body) == (502, FAILED)
    got = await url.ask("GET", f"/?do=big&size={6 * MIB - 200}")
    assert (got.status, len(got.body)) == (200, 6 * MIB - 198)


@pytest.mark.catalogue("IN-125")
async def test_throttles_are_429(world: World, tmp_path: Path) -> None:
    url = await world.url(function={"Timeout": 30})
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    got = await url.ask()
    assert (got.status, got.one("x-amzn-errortype")) == (429, "TooManyRequestsException")
    assert got.json()["Message"] == "Rate Exceeded."
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
    target, begun, go, _ = waits(tmp_path)
    async with url.line() as line:
        await line.send(url.request("GET", target, None, ()))
        await until(begun)
        assert (await url.ask()).status == 429
        go.touch()
        assert (await line.got()).body == b'"waited"'
    assert (await url.ask()).status == 200


async def test_a_function_that_is_not_ready(world: World) -> None:
    async with nothing_settles(world.caller.service):
        given = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "Code": {"ZipFile": zip_of(app_py=APP)}}
        await world.caller.create_function(FunctionName="f", **given)
        url = await world.url_of()
        got = await url.ask()
        assert (got.status, "Message" in got.json()) == (409, True)
    await world.caller.active("f")
    assert (await url.ask()).json()["calls"] == 1


# ── callers, updates, many at a time ──


@pytest.mark.parametrize("reset", [False, True])
async def test_the_function_goes_on_without_its_caller(world: World, tmp_path: Path, reset: bool) -> None:
    url = await world.url(function={"Timeout": 30})
    target, begun, go, done = waits(tmp_path)
    async with url.line() as line:
        await line.send(url.request("GET", target, None, ()))
        await until(begun)
        if reset:
            line.writer.transport.abort()
    await url.ask()  # by now it is known
    go.touch()
    assert await until(done) == "done"
    assert world.told == []


async def test_a_caller_who_leaves_within_the_request(world: World) -> None:
    url = await world.url()
    async with url.line() as line:
        await line.send(url.request("POST", "/", None, (("Content-Length", "100"),)) + b"only this")
    assert (await url.ask()).json()["calls"] == 1
    assert world.told == []


async def test_fifty_at_once(world: World) -> None:
    url = await world.url()
    found = await asyncio.gather(*(url.ask("POST", f"/{n}", str(n).encode()) for n in range(50)))
    assert [(one.status, one.json()["rawPath"]) for one in found] == [(200, f"/{n}") for n in range(50)]
    assert len({one.one("x-amzn-requestid") for one in found}) == 50


async def test_no_request_is_lost_by_an_update(world: World) -> None:
    url = await world.url(app="def handler(event, context):\n    return 0\n")
    found: list[tuple[int, bytes]] = []
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            got = await url.ask()
            found.append((got.status, got.body))

    workers = [asyncio.ensure_future(ask()) for _ in range(2)]
    try:
        for n in range(1, 5):
            app = f"def handler(event, context):\n    return {n}\n"
            await world.caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=app))
            await world.caller.active("f")
            assert (await url.ask()).body == str(n).encode()
    finally:
        over.set()
        await asyncio.gather(*workers)
    assert {status for status, _ in found} == {200}


@pytest.mark.catalogue("CP-093")
async def test_the_url_of_an_alias_follows_its_weights(world: World) -> None:
    await world.caller.create(app=APP)
    for number in ("1", "2"):
        await world.caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py=f"{APP}\n# {number}"))
        await world.caller.active("f")
        await world.caller.publish_version(FunctionName="f")
        await world.caller.active("f", number)
    routing = {"AdditionalVersionWeights": {"2": 0.5}}
    await world.caller.create_alias(FunctionName="f", Name="live", FunctionVersion="1", RoutingConfig=routing)
    url = await world.url_of(Qualifier="live")
    assert {(await url.ask("GET", "/?do=version")).body for _ in range(40)} == {b'"1"', b'"2"'}
    await world.caller.update_alias(FunctionName="f", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    assert {(await url.ask("GET", "/?do=version")).body for _ in range(5)} == {b'"2"'}
    assert (await url.ask()).json()["arn"].endswith(":function:f:live")


@pytest.mark.parametrize("what", ["url", "function"])
async def test_a_request_under_way_outlives_its_url(world: World, tmp_path: Path, what: str) -> None:
    """What is deleted takes no new requests; who waits still gets the answer, and nobody else is held up."""
    url = await world.url(function={"Timeout": 30})
    target, begun, go, _ = waits(tmp_path)
    async with url.line() as line:
        await line.send(url.request("GET", target, None, ()))
        await until(begun)
        delete = world.caller.delete_function_url_config if what == "url" else world.caller.delete_function
        await delete(FunctionName="f")
        with pytest.raises(ConnectionRefusedError):
            await url.ask()
        go.touch()
        got = await line.got()
        assert (got.status, got.body) == (200, b'"waited"')


# ── CORS ──


CORS = {
    "AllowOrigins": ["http://x.example"],
    "AllowMethods": ["GET", "PUT"],
    "AllowHeaders": ["x-a"],
    "MaxAge": 5,
    "ExposeHeaders": ["x-b"],
}
ORIGIN = ("Origin", "http://x.example")


@pytest.mark.catalogue("IN-127")
async def test_the_platform_answers_preflights(world: World) -> None:
    url = await world.url(Cors=CORS)
    asked = ("Access-Control-Request-Method", "PUT"), ("Access-Control-Request-Headers", "x-a")
    got = await url.ask("OPTIONS", "/", None, ORIGIN, *asked)
    assert (got.status, got.body, got.one("content-length"), got.one("vary")) == (200, b"", "0", "Origin")
    assert got.one("access-control-allow-origin") == "http://x.example"
    assert (got.one("access-control-allow-methods"), got.one("access-control-allow-headers")) == ("GET,PUT", "x-a")
    assert (got.one("access-control-max-age"), got.one("access-control-allow-credentials")) == ("5", None)
    got = await url.ask("OPTIONS", "/", None, ("Origin", "http://y.example"), *asked)
    assert (got.status, [name for name, _ in got.headers if name.lower().startswith("access-control")]) == (200, [])
    assert (await url.ask("OPTIONS", "/", None, ORIGIN)).json()["calls"] == 1  # no preflight; the first that the function sees


@pytest.mark.catalogue("IN-127")
async def test_the_platforms_cors_headers_win(world: World) -> None:
    url = await world.url(Cors=CORS)
    own = {"Access-Control-Allow-Origin": "*", "access-control-allow-methods": "DELETE", "Vary": "Accept"}
    target = "/?do=answer&with=" + quote(json.dumps({"statusCode": 200, "headers": own}))
    got = await url.ask("GET", target, None, ORIGIN)
    assert (got.one("access-control-allow-origin"), got.one("access-control-allow-methods")) == ("http://x.example", None)
    assert (got.one("vary"), got.one("access-control-expose-headers")) == ("Accept, Origin", "x-b")
    got = await url.ask("GET", "/?do=raise", None, ORIGIN)  # or a page could not read the error
    assert (got.status, got.one("access-control-allow-origin")) == (502, "http://x.example")
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    got = await url.ask("GET", "/", None, ORIGIN)
    assert (got.status, got.one("access-control-allow-origin")) == (429, "http://x.example")


@pytest.mark.catalogue("IN-127")
@pytest.mark.parametrize("emptied", [False, True])
async def test_without_cors_all_is_the_functions(world: World, emptied: bool) -> None:
    """Emptied settings are none: there is no other way to take them back."""
    url = await world.url()
    if emptied:
        await world.caller.update_function_url_config(FunctionName="f", Cors=CORS)
        await world.caller.update_function_url_config(FunctionName="f", Cors={})
    got = await url.ask("OPTIONS", "/", None, ORIGIN, ("Access-Control-Request-Method", "PUT"))
    assert got.json()["requestContext"]["http"]["method"] == "OPTIONS"
    got = await url.answered({"statusCode": 200, "headers": {"Access-Control-Allow-Origin": "*"}})
    assert (got.one("access-control-allow-origin"), got.one("vary")) == ("*", None)


# ── streams ──


@pytest.mark.catalogue("IN-126")
@pytest.mark.parametrize("mode", ["plain", "http"])
async def test_the_first_byte_comes_before_the_last_is_written(world: World, tmp_path: Path, mode: str) -> None:
    url = await world.streaming()
    go = tmp_path / "go"
    async with url.line() as line:
        await line.send(url.request("GET", f"/?mode={mode}&go={go}", None, ()))
        head = await line.head()
        assert await line.chunk() == b"first\n"
        go.touch()  # only now may it go on
        rest = b""
        while piece := await line.chunk():
            rest += piece
        assert rest == b"last\n"
        if mode == "http":
            assert (head.status, head.one("x-a"), head.one("content-type")) == (201, "1", "text/event-stream")
            assert head.all("set-cookie") == ["a=1", "b=2"]
        else:
            assert (head.status, head.one("content-type")) == (200, "application/octet-stream")
        assert head.one("x-amzn-requestid")


@pytest.mark.catalogue("IN-126")
async def test_a_browser_reads_a_stream(world: World, tmp_path: Path) -> None:
    """A preflight, then the request; it may read, and reads as it comes."""
    url = await world.streaming(Cors=CORS)
    asked = ORIGIN, ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Site", "cross-site")
    got = await url.ask("OPTIONS", "/", None, *asked, ("Access-Control-Request-Method", "GET"))
    assert got.one("access-control-allow-origin") == "http://x.example"
    go = tmp_path / "go"
    async with url.line() as line:
        await line.send(url.request("GET", f"/?go={go}", None, asked))
        head = await line.head()
        assert (head.status, head.one("access-control-allow-origin")) == (201, "http://x.example")
        assert await line.chunk() == b"first\n"
        go.touch()
        assert await line.chunk() == b"last\n"


@pytest.mark.catalogue("IN-126")
async def test_curl_reads_a_stream(world: World, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on PATH")
    url = await world.streaming()
    go = tmp_path / "go"
    where = f"{url.host}:127.0.0.1"
    command = [curl, "-sN", "--noproxy", "*", "--resolve", where, f"{url.url}?go={go}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"first\n"
    go.touch()
    assert await process.stdout.read() == b"last\n"
    assert await process.wait() == 0


@pytest.mark.catalogue("IN-126", "IN-125")
@pytest.mark.parametrize("mode", ["plain", "http"])
async def test_errors_before_and_after_the_first_byte(world: World, mode: str) -> None:
    url = await world.streaming()
    got = await url.ask("GET", f"/?mode={mode}&early=1")
    assert (got.status, got.body) == (502, FAILED)
    got = await url.ask("GET", f"/?mode={mode}&late=1")
    assert (got.status, got.cut) == (200 if mode == "plain" else 201, True)
    got = await url.ask("GET", f"/?mode={mode}")
    assert (got.body, got.cut) == (b"first\nlast\n", False)
    assert world.told == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_stream_that_may_have_no_body(world: World, method: str, status: int) -> None:
    url = await world.streaming()
    async with url.line() as line:
        await line.send(url.request(method, f"/?status={status}", None, ()))
        got = await line.got(method)
        assert (got.status, got.one("x-a")) == (status, "1")
        await line.send(url.request("GET", "/", None, ()))  # what comes next is the next answer
        assert (await line.got()).body == b"first\nlast\n"


async def test_a_stream_to_http_1_0(world: World) -> None:
    url = await world.streaming()
    async with url.line() as line:
        await line.send(b"GET / HTTP/1.0\r\n\r\n")
        got = await line.got()
        assert (got.one("transfer-encoding"), got.body) == (None, b"first\nlast\n")


@pytest.mark.catalogue("IN-126")
async def test_a_function_that_does_not_stream(world: World) -> None:
    """Recorded: its answer is sent as it is."""
    url = await world.url(InvokeMode="RESPONSE_STREAM")
    got = await url.answered({"statusCode": 418, "body": "x"})
    assert (got.status, got.json()) == (200, {"statusCode": 418, "body": "x"})
    got = await url.ask("GET", "/?do=raise")
    assert (got.status, got.body) == (502, FAILED)
    await world.caller.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    assert (await url.ask()).status == 429


@pytest.mark.catalogue("IN-126")
async def test_the_mode_can_be_changed(world: World) -> None:
    url = await world.url()
    assert (await url.answered({"statusCode": 418, "body": "x"})).status == 418
    await world.caller.update_function_url_config(FunctionName="f", InvokeMode="RESPONSE_STREAM")
    assert (await url.answered({"statusCode": 418, "body": "x"})).status == 200


@pytest.mark.catalogue("IN-126")
async def test_a_function_that_streams_behind_a_url_that_does_not(world: World) -> None:
    url = await world.streaming(InvokeMode="BUFFERED")
    got = await url.ask()
    assert (got.status, got.body, got.one("x-a"), got.all("set-cookie")) == (201, b"first\nlast\n", "1", ["a=1", "b=2"])


@pytest.mark.catalogue("IN-126")
async def test_a_reader_who_leaves(world: World, tmp_path: Path) -> None:
    """The function goes on to its end, and the next request is answered."""
    url = await world.streaming()
    go, done = tmp_path / "go", tmp_path / "done"
    async with url.line() as line:
        await line.send(url.request("GET", f"/?go={go}&mib=4&done={done}", None, ()))
        await line.head()
        assert await line.chunk() == b"first\n"
        line.writer.transport.abort()
    go.touch()
    assert await until(done) == "done"
    assert (await url.ask()).body == b"first\nlast\n"
    assert world.told == []


@pytest.mark.catalogue("IN-126")
async def test_a_slow_reader_makes_the_function_wait(world: World, tmp_path: Path) -> None:
    """What nobody reads is not heaped up in the host: 40 MiB are more than all that lies between the two."""
    url = await world.streaming()
    done = tmp_path / "done"
    async with url.line(limit=1024) as line:
        await line.send(url.request("GET", f"/?mib=40&done={done}", None, ()))
        await line.head()
        assert await line.chunk() == b"first\n"
        for _ in range(10):  # others are served meanwhile
            assert (await url.ask("GET", "/?mib=4")).status == 201
        assert not done.exists()
    assert await until(done) == "done"  # nobody is there to be waited for


async def test_a_stream_that_a_service_ends(tier: Tier, tmp_path: Path) -> None:
    """Its reader sees that it is not whole."""
    async with contextlib.AsyncExitStack() as stack:
        async with served() as world:
            url = await world.streaming()
            line = await stack.enter_async_context(url.line())
            await line.send(url.request("GET", f"/?go={tmp_path / 'never'}", None, ()))
            await line.head()
            assert await line.chunk() == b"first\n"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await line.chunk()
        with contextlib.suppress(ConnectionError):
            assert await line.reader.read() == b""
    no_task_is_left()


async def test_who_waits_is_answered_when_the_service_ends(tier: Tier, tmp_path: Path) -> None:
    target, begun, _, _ = waits(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        async with served() as world:
            url = await world.url(function={"Timeout": 30})
            line = await stack.enter_async_context(url.line())
            await line.send(url.request("GET", target, None, ()))
            await until(begun)
        assert (await line.got()).status == 502
    no_task_is_left()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.catalogue("IN-126")
async def test_20_mb_pass_with_flat_memory(world: World) -> None:
    url = await world.streaming()
    assert (await url.ask("GET", "/?mib=1")).status == 201  # what is made once is there
    before = psutil.Process().memory_info().rss
    most = size = 0
    async with url.line() as line:
        await line.send(url.request("GET", "/?mib=20", None, ()))
        await line.head()
        while piece := await line.chunk():
            size += len(piece)
            most = max(most, psutil.Process().memory_info().rss)
    assert size == 20 * MIB + 11
    assert most - before < 10 * MIB
