"""The custom runtime in C that is shipped in bootstrap/c: on our host, and against a Runtime API that the test plays."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.limits import PAYLOAD_LIMIT
from sandbox.core.states import Phase
from sandbox.telemetry.journal import Record
from tests.conftest import ROOT, no_task_is_left
from tests.runtimes.conftest import TRACE, in_both_tiers, in_tier_process, platform_error, printed

pytestmark = in_tier_process

C = ROOT / "bootstrap" / "c"
FLAGS = ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-std=c11"]
FUNCTION = r"""
#define _XOPEN_SOURCE 700
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "runtime.h"

static void nothing(int number) { (void)number; }

/* From now on a signal interrupts every call that waits, many times. */
static void storm(void) {
    struct sigaction action = {.sa_handler = nothing};
    struct itimerval often = {{0, 300}, {0, 300}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
}

/* What a shell of ours has open, and how it ends when SIGPIPE comes. */
static void start(struct buffer *answer) {
    char line[64];
    FILE *shell = popen("for fd in 0 1 2 3 4 5 6 7; do (: <&$fd) 2>/dev/null && printf ' %d' $fd; done; echo", "r");
    buffer_format(answer, "open:%s", fgets(line, sizeof line, shell));
    pclose(shell);
    int status = system("kill -PIPE $$");
    buffer_format(answer, "ended by %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static const char *shown(const char *text) { return text ? text : "absent"; }

const char *handler(const char *event, size_t length, const struct context *context, struct buffer *answer) {
    unsigned long size;
    if (strcmp(event, "\"exit\"") == 0) exit(7);
    if (strcmp(event, "\"abort\"") == 0) abort();
    if (strcmp(event, "\"storm\"") == 0) storm();
    if (strcmp(event, "\"pid\"") == 0) return buffer_format(answer, "%d", (int)getpid()), NULL;
    if (strcmp(event, "\"print\"") == 0) printf("one\ntwo");
    if (strcmp(event, "\"hang\"") == 0) {
        puts("hanging");
        for (;;) pause();
    }
    if (strcmp(event, "\"stop\"") == 0) {
        raise(SIGSTOP);
        event = "{\"size\": 6000000}";
    }
    if (strcmp(event, "\"bytes\"") == 0) return buffer_add(answer, "a\0b\xff", 4), NULL;
    if (strcmp(event, "\"nothing\"") == 0) return NULL;
    if (strcmp(event, "\"fail silently\"") == 0) return "Function.Silent";
    if (strcmp(event, "\"fail\"") == 0) {
        const char message[] =
            "\"a\\b\"\n\t\x01\0\x7f é日😀 "
            "\xc0\xaf \xed\xa0\x80 \xf5 \xe0\x80\xaf \xf0\x80\x80\x80 \xf4\x90\x80\x80 \xe2\x82";
        buffer_add(answer, message, sizeof message - 1);
        return "Function.Odd\r\nX: y";
    }
    if (sscanf(event, "{\"size\": %lu}", &size) == 1) {
        char *zeros = calloc(size, 1);
        buffer_add(answer, zeros, size);
        free(zeros);
        return NULL;
    }
    if (strcmp(event, "\"context\"") == 0) {
        buffer_format(answer, "%s\n%s\n%s\n%s\n%s\n%s\n%s\n%d", context->request_id, shown(context->function_arn),
                      shown(context->trace_id), shown(getenv("_X_AMZN_TRACE_ID")), shown(context->client_context),
                      shown(context->cognito_identity), shown(context->tenant_id),
                      remaining_ms(context) > 0 && remaining_ms(context) <= 20000);
        return NULL;
    }
    if (strcmp(event, "\"start\"") == 0) return start(answer), NULL;
    buffer_add(answer, event, length);
    return NULL;
}
"""


def build(folder: Path, function: str | None = None, compiler: str | None = None) -> Path:
    """A copy of the shipped folder, built as its README says; with a function.c of the test's, if there is one."""
    compiler = compiler or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on PATH")
    for name in ("runtime.h", "runtime.c", "function.c"):
        shutil.copy(C / name, folder)
    if function is not None:
        (folder / "function.c").write_text(function)
    command = [compiler, *FLAGS, "-o", "bootstrap", "runtime.c", "function.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it is, built."""
    return build(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the function of these tests."""
    return build(tmp_path_factory.mktemp("code"), FUNCTION)


# ── a Runtime API that the test plays ──


class Request(NamedTuple):
    """What the runtime sent. Names of fields are lower-case."""

    line: str
    fields: dict[str, str]
    body: bytes
    trailers: dict[str, str]


class Peer:
    """The test at the other end: it reads requests and writes what it likes, in pieces as it likes."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process = process
        self.said = said
        self.connections = 0
        self._fresh: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._fresh.put_nowait((reader, writer))

    async def accept(self) -> None:
        """Takes the next connection."""
        self.reader, self.writer = await self._fresh.get()
        self.connections += 1

    async def head(self) -> tuple[str, dict[str, str]]:
        """A request as far as its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.strip().split("\r\n")
        return line, _fields(lines)

    async def request(self) -> Request:
        """A whole request."""
        line, fields = await self.head()
        if fields.get("transfer-encoding") != "chunked":
            return Request(line, fields, await self.reader.readexactly(int(fields.get("content-length", "0"))), {})
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        trailers = []
        while trailer := (await self.reader.readuntil(b"\r\n")).decode().strip():
            trailers.append(trailer)
        return Request(line, fields, body, _fields(trailers))

    async def send(self, *pieces: bytes) -> None:
        """Writes the pieces one by one. A runtime that has ended shows in `ended`, not here."""
        with suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(0)

    async def event(self, payload: bytes = b"{}", *, fields: str = "") -> Request:
        """Answers the poll that comes with an event; returns what is posted then."""
        assert (await self.request()).line == "GET /2018-06-01/runtime/invocation/next HTTP/1.1"
        await self.send(reply("200 OK", payload, fields or EVENT))
        return await self.request()

    async def hang_up(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ended(self) -> tuple[int, str]:
        """The exit status, and what was written to standard error."""
        async with asyncio.timeout(20):
            while self.process.poll() is None:
                await asyncio.sleep(0.001)
        return self.process.returncode, self.said.read_text()

    async def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def _fields(lines: list[str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def reply(status: str, body: bytes, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


EVENT = "Lambda-Runtime-Aws-Request-Id: one\r\nLambda-Runtime-Deadline-Ms: 1\r\n"
OK = reply("202 Accepted", b'{"status":"OK"}\n')


@asynccontextmanager
async def facing(code: Path, said: Path, address: str = "127.0.0.1", **variables: str) -> AsyncIterator[Peer]:
    """A bootstrap that talks to the test; its first connection is there."""
    peer: Peer

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connected(reader, writer)

    server = await asyncio.start_server(connected, address, 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    with said.open("wb") as errors:
        environment = {"AWS_LAMBDA_RUNTIME_API": f"{address}:{port}", **variables}
        process = subprocess.Popen([code / "bootstrap"], env=environment, stderr=errors)
    peer = Peer(process, said)
    try:
        async with asyncio.timeout(30):
            await peer.accept()
            yield peer
    finally:
        await peer.close()
        server.close()
        await server.wait_closed()
    no_task_is_left()


# ── it builds ──


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_it_compiles_without_a_warning(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on PATH")
    build(tmp_path, compiler=compiler)


def test_outside_a_sandbox_it_says_what_it_is(code: Path) -> None:
    done = subprocess.run([code / "bootstrap"], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("runtime: there is no AWS_LAMBDA_RUNTIME_API")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "runtime: cannot connect to 127.0.0.1:1: "),
        ("127.0.0.1", "runtime: AWS_LAMBDA_RUNTIME_API is not host:port: 127.0.0.1\n"),
        ("127.0.0.1:none", "runtime: cannot find 127.0.0.1:none: "),
    ],
)
def test_nobody_is_there(code: Path, address: str, message: str) -> None:
    environment = {"AWS_LAMBDA_RUNTIME_API": address}
    done = subprocess.run([code / "bootstrap"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)


# ── on our host ──


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-022", "RT-050", "LC-009")
async def test_the_folder_as_it_is_echoes_and_logs(host: Host, shipped: Path) -> None:
    function = await host.deploy(shipped, timeout=20)
    payload = '{"hello": "wörld",  "n": [1, null]}'.encode()
    result = (await function.invoke(payload=payload)).check()
    assert result.payload.startswith(b'{"event":' + payload)
    told = result.json()
    assert told["requestId"] == result.request_id
    assert 0 < told["remainingMs"] <= 20_000
    assert printed(result) == [f"an event of {len(payload)} bytes"]


@pytest.mark.catalogue("RT-090", "RT-095", "RT-096")
async def test_the_example_fails_when_it_is_asked_to(host: Host, shipped: Path) -> None:
    function = await host.deploy(shipped, timeout=20)
    failed = await function.invoke("fail")
    assert failed.function_error == "Unhandled"
    assert failed.json() == {"errorType": "Function.AskedToFail", "errorMessage": 'the event was "fail"'}
    assert failed.report is not None
    assert failed.report.status == "success"
    assert (await function.invoke("then")).check().json()["event"] == "then"


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-050", "RT-064")
async def test_bytes_pass_as_they_are(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    for payload in ('{ "ä" :\n"日本 😀 \\u0000" }\n\n'.encode(), b"null", b'""', b"[]"):
        assert (await function.invoke(payload=payload)).check().payload == payload
    assert (await function.invoke("bytes")).check().payload == b"a\0b\xff"
    assert (await function.invoke("nothing")).check().payload == b""
    assert len(function.environments) == 1


@pytest.mark.catalogue("RT-090", "RT-093", "RT-094")
async def test_any_message_of_an_error_arrives_as_json(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    failed = await function.invoke("fail")
    # What is not UTF-8 is replaced, byte by byte; a type cannot add a header field.
    odd = [2, 3, 1, 3, 4, 4, 2]
    message = '"a\\b"\n\t\x01\0\x7f é日😀 ' + " ".join("\ufffd" * count for count in odd)
    assert failed.json() == {"errorType": "Function.Odd\r\nX: y", "errorMessage": message}
    assert (await function.invoke("fail silently")).json() == {"errorType": "Function.Silent", "errorMessage": ""}


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-050")
@pytest.mark.parametrize("weather", ["quiet", "storm"])
async def test_6_mib_both_ways(host: Host, code: Path, weather: str) -> None:
    """In the storm a signal interrupts what reads and writes all the time, while it waits for the event, too."""
    function = await host.deploy(code, timeout=20)
    await function.invoke(weather)
    payload = b'"' + b"ab" * (PAYLOAD_LIMIT // 2 - 1) + b'"'
    assert len(payload) == PAYLOAD_LIMIT
    for _ in range(3):
        assert (await function.invoke(payload=payload)).check().payload == payload
    assert len(function.environments) == 1
    assert not any("Runtime.ExitError" in line for line in (await function.invoke()).check().log)


@pytest.mark.catalogue("RT-057", "RT-058", "RT-059")
async def test_an_answer_that_is_too_large_is_told_to_the_caller_and_the_process_goes_on(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke("pid")).check().json()
    large = await function.invoke({"size": PAYLOAD_LIMIT + 1})
    assert large.json()["errorType"] == "Function.ResponseSizeTooLarge"
    assert printed(large)[0].startswith(f"runtime: {PAYLOAD_LIMIT + 1} bytes are too many: ")
    assert (await function.invoke("pid")).check().json() == before


@pytest.mark.catalogue("LC-035", "LC-051", "LC-053")
async def test_it_is_frozen_between_two_invokes_and_thaws(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    pid = (await function.invoke("pid")).check().json()
    [environment] = function.environments
    assert environment.machine.phase is Phase.FROZEN
    async with asyncio.timeout(20):
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.001)
    assert (await function.invoke("pid")).check().json() == pid
    assert function.environments == (environment,)


@in_both_tiers
@pytest.mark.catalogue("RT-024", "RT-025", "RT-026", "RT-027", "RT-028", "EN-004")
async def test_what_is_known_of_an_invocation(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    result = await function.invoke(
        "context",
        trace_id=TRACE,
        client_context={"custom": {"a": 1}},
        cognito_identity={"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"},
        tenant_id="blue",
    )
    request_id, arn, trace, variable, client, identity, tenant, in_time = result.check().payload.decode().split("\n")
    assert (request_id, arn) == (result.request_id, function.config.arn)
    assert (trace, variable, tenant, in_time) == (TRACE, TRACE, "blue", "1")
    assert client == '{"custom":{"a":1}}'
    assert "pool" in identity
    bare = (await function.invoke("context")).check().payload.decode().split("\n")
    assert bare[2] == bare[3] != TRACE
    assert bare[4:7] == ["absent"] * 3


@pytest.mark.catalogue("IN-023")
async def test_what_is_printed_is_in_the_log_of_its_own_invoke(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    assert printed(await function.invoke("print")) == ["one", "two"]


@in_both_tiers
@pytest.mark.catalogue("LC-070", "LC-072")
async def test_a_timeout_and_the_invoke_after_it(code: Path) -> None:
    clock = ManualClock()
    async with Host(clock=clock) as host:
        function = await host.deploy(code, timeout=3)
        before = (await function.invoke("pid")).check().json()
        hanging = asyncio.Event()

        def heard(record: Record) -> None:
            if record.record == "hanging":
                hanging.set()

        host.journal.subscribe(heard, ["function"])
        invoke = asyncio.create_task(function.invoke("hang"))
        await hanging.wait()
        clock.advance(3)
        late = await invoke
        assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert (await function.invoke("pid")).check().json() != before
    no_task_is_left()


@pytest.mark.catalogue("LC-012", "LC-070", "LC-074")
@pytest.mark.parametrize(("way", "message"), [("exit", "exit status 7"), ("abort", "signal: aborted")])
async def test_a_process_that_ends_is_replaced(host: Host, code: Path, way: str, message: str) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke("pid")).check().json()
    ended = await function.invoke(way)
    assert ended.json() == platform_error(ended, "Runtime.ExitError", f"Runtime exited with error: {message}")
    assert (await function.invoke("pid")).check().json() != before


# ── on the wire ──


async def test_one_connection_carries_everything(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        for number in range(20):
            posted = await peer.event(b"%d" % number)
            assert posted.line == "POST /2018-06-01/runtime/invocation/one/response HTTP/1.1"
            assert posted.body == b"%d" % number
            await peer.send(OK)
        assert peer.connections == 1


@pytest.mark.catalogue("RT-011", "RT-029", "RT-061")
async def test_fields_have_no_case_and_the_invocation_id_is_echoed_when_it_is_given(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        posted = await peer.event(fields="lambda-runtime-AWS-request-id:two  \r\nLAMBDA-RUNTIME-INVOCATION-ID:\tthe-id \r\n")
        assert posted.line.startswith("POST /2018-06-01/runtime/invocation/two/response ")
        assert posted.fields["lambda-runtime-invocation-id"] == "the-id"
        await peer.send(OK)
        assert "lambda-runtime-invocation-id" not in (await peer.event()).fields
        await peer.send(OK)
        failed = await peer.event(b'"fail"', fields=EVENT + "Lambda-Runtime-Invocation-Id: other\r\n")
        assert failed.line == "POST /2018-06-01/runtime/invocation/one/error HTTP/1.1"
        assert failed.fields["lambda-runtime-invocation-id"] == "other"
        assert failed.fields["lambda-runtime-function-error-type"] == "Function.Odd??X:?y"
        assert "x" not in failed.fields


@pytest.mark.catalogue("RT-025", "EN-004")
async def test_without_a_trace_id_there_is_no_variable(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        for sent, variable in ((f"Lambda-Runtime-Trace-Id: {TRACE}\r\n", TRACE), ("", "absent")):
            posted = await peer.event(b'"context"', fields=EVENT + sent)
            assert posted.body.decode().split("\n")[3] == variable
            await peer.send(OK)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_reply_that_arrives_in_pieces(code: Path, tmp_path: Path, framing: str) -> None:
    """Byte by byte, behind a 100 that nobody asked for; AWS's emulator sends larger events in chunks."""
    payload = '{"ä": "in pieces"}'.encode()
    whole = reply("200 OK", payload, EVENT)
    if framing == "chunks":
        chunks = b"1\r\n{\r\n00a;x=y\r\n" + payload[1:11] + b"\r\n%X \r\n" % len(payload[11:]) + payload[11:]
        head = f"HTTP/1.1 200 OK\r\n{EVENT}transfer-encoding: Chunked\r\n\r\n"
        whole = head.encode() + chunks + b"\r\n0\r\nSome: trailer\r\n\r\n"
    async with facing(code, tmp_path / "said") as peer:
        for _ in range(2):
            await peer.request()
            await peer.send(*(bytes([byte]) for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + whole))
            assert (await peer.request()).body == payload
            await peer.send(*(bytes([byte]) for byte in OK))


async def test_6_mib_to_a_slow_reader(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        payload = b'"' + b"ab" * (PAYLOAD_LIMIT // 2 - 1) + b'"'
        await peer.event(b'"storm"')
        await peer.send(OK)
        await peer.request()
        await peer.send(reply("200 OK", b"", EVENT).replace(b"Length: 0", b"Length: %d" % len(payload)))
        await peer.send(*(payload[at : at + 99_991] for at in range(0, len(payload), 99_991)))
        _, fields = await peer.head()
        read = b""
        while len(read) < int(fields["content-length"]):
            read += await peer.reader.read(30_011)
            await asyncio.sleep(0)
        assert read == payload


async def test_it_connects_again_when_it_is_told_that_the_connection_ends(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        await peer.request()
        await peer.send(reply("200 OK", b"1", EVENT + "Connection: close\r\n"))
        await peer.accept()
        assert (await peer.request()).body == b"1"
        await peer.send(reply("413 Content Too Large", b"{}", "connection: Close\r\n"))
        await peer.accept()
        assert (await peer.event(b"2")).body == b"2"
        assert peer.connections == 3


@pytest.mark.catalogue("RT-053", "RT-054", "RT-061")
@pytest.mark.parametrize(
    ("status", "error_type"),
    [("400 Bad Request", "InvalidInvocationId"), ("403 Forbidden", "InvalidStateTransition"), ("200 OK", "Odd")],
)
@pytest.mark.parametrize(("event", "what"), [(b"1", "response"), (b'"fail"', "error")])
async def test_an_answer_that_is_refused_ends_the_process(
    code: Path, tmp_path: Path, status: str, error_type: str, event: bytes, what: str
) -> None:
    """A stale invocation id, for one: the platform has given the invocation up."""
    async with facing(code, tmp_path / "said") as peer:
        await peer.event(event)
        await peer.send(reply(status, f'{{"errorType":"{error_type}"}}'.encode()))
        said = f'runtime: posted the {what} and got {status[:3]}: {{"errorType":"{error_type}"}}\n'
        assert await peer.ended() == (1, said)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "the Runtime API closed the connection"),
        (b"HTTP/1.1 200 O", "the Runtime API closed the connection"),
        (reply("200 OK", b"{}", EVENT)[:-1], "the Runtime API closed the connection"),
        (reply("403 Forbidden", b'{"a":1}'), 'asked for an event and got 403: {"a":1}'),
        (reply("200 OK", b"{}"), "got an event without a request id"),
        (b"SSH-2.0\r\n\r\n", "not a status line: SSH-2.0"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "a reply of unknown length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "a reply with Transfer-Encoding: gzip"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not a length: -1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "not a length: 1, 1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "not a length: 99999999999999999999"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", "18446744073709551615 bytes are more than "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "not a length: xyz"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "a chunk does not end where it should"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "the head of a reply is longer than 65536 bytes"),
    ],
)
async def test_what_is_no_event_ends_the_process(code: Path, tmp_path: Path, sent: bytes, said: str) -> None:
    async with facing(code, tmp_path / "said") as peer:
        await peer.request()
        await peer.send(sent)
        await peer.hang_up()
        status, text = await peer.ended()
        assert status == 1
        assert text.startswith(f"runtime: {said}")


async def test_a_peer_that_hangs_up_in_mid_answer(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        await peer.request()
        await peer.send(reply("200 OK", b'{"size": 6000000}', EVENT))
        await peer.head()
        await peer.hang_up()
        assert await peer.ended() == (1, "runtime: the Runtime API closed the connection\n")


async def test_a_peer_that_hung_up_before_the_answer_is_an_error_and_no_signal(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        await peer.request()
        await peer.send(reply("200 OK", b'"stop"', EVENT))
        while psutil.Process(peer.process.pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.001)
        await peer.hang_up()
        peer.process.send_signal(signal.SIGCONT)
        assert await peer.ended() == (1, "runtime: the Runtime API closed the connection\n")


async def test_a_program_that_the_function_starts_inherits_nothing_of_the_runtimes(code: Path, tmp_path: Path) -> None:
    """Neither the connection nor a SIGPIPE that is ignored."""
    async with facing(code, tmp_path / "said") as peer:
        posted = await peer.event(b'"start"')
        assert posted.body.decode() == f"open: 0 1 2\nended by {signal.SIGPIPE}\n"
