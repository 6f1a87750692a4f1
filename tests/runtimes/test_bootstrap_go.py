"""The custom runtime in Go that is shipped in bootstrap/go: on our host, and against a Runtime API that the test plays."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.limits import PAYLOAD_LIMIT
from sandbox.core.states import Phase
from sandbox.host.host import Function
from sandbox.host.result import ResponseStream
from sandbox.telemetry.journal import Record
from tests.conftest import ROOT, Played, no_task_is_left
from tests.runtimes.conftest import TRACE, in_both_tiers, in_tier_process, platform_error, printed
from tests.runtimes.test_bootstrap_c import EVENT, OK, facing, reply
from tests.wire.talk import ERROR_BODY, ERROR_TYPE, chunk, last_chunk, opening, streaming

pytestmark = [pytest.mark.timeout(300), *in_tier_process]  # the first build of all compiles net/http, too

GO = ROOT / "bootstrap" / "go"
FUNCTION = r"""
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

type notFound struct{ what string }

func (e notFound) Error() string     { return "no " + e.what }
func (e notFound) ErrorType() string { return "Function.NotFound\r\nX: y" }

// pieces is a reader that waits for a line in the file `gate` before what comes after its first piece.
type pieces struct {
	gate, end string
	count     int
}

func (p *pieces) ContentType() string { return "text/plain" }

var closed int

func (p *pieces) Close() error { closed++; return nil }

func (p *pieces) Read(into []byte) (int, error) {
	p.count++
	if p.count == 1 {
		return copy(into, "first\n"), nil
	}
	if p.gate != "" {
		gate, err := os.Open(p.gate)
		if err != nil {
			return 0, err
		}
		gate.Read(make([]byte, 1))
		gate.Close()
	}
	switch p.end {
	case "error":
		return copy(into, "last\n"), fmt.Errorf("in mid-stream: %w", notFound{"më <&>"})
	case "panic":
		panic("in mid-stream")
	}
	return copy(into, "last\n"), io.EOF
}

func setUp() (Handler, error) {
	switch os.Getenv("INIT") {
	case "error":
		return nil, errors.New("no database")
	case "typed":
		return nil, notFound{"database"}
	case "panic":
		var none map[string]int
		none["x"] = 1
	}
	return handle, nil
}

func handle(ctx context.Context, event []byte) (any, error) {
	var asked struct{ Do, Gate, End string; Size int }
	json.Unmarshal(event, &asked)
	switch asked.Do {
	case "pid":
		return json.Marshal(os.Getpid())
	case "exit":
		os.Exit(7)
	case "panic":
		return first(nil), nil
	case "hang":
		fmt.Println("hanging")
		select {}
	case "closed":
		return json.Marshal(closed)
	case "bytes":
		return []byte("a\x00b\xff"), nil
	case "nothing":
		return nil, nil
	case "number":
		return 7, nil
	case "fail":
		return nil, fmt.Errorf("cannot: %w", notFound{"\"a\\b\"\n\x01 é日😀 \xff"})
	case "size":
		return make([]byte, asked.Size), nil
	case "stream":
		if asked.Size > 0 {
			return strings.NewReader(strings.Repeat("x", asked.Size)), nil
		}
		return &pieces{gate: asked.Gate, end: asked.End}, nil
	case "context":
		deadline, _ := ctx.Deadline()
		left := time.Until(deadline)
		return json.Marshal([]any{InvocationOf(ctx), os.Getenv("_X_AMZN_TRACE_ID"), left > 0 && left <= 20*time.Second})
	}
	return event, nil
}

func first(list []int) int { return list[0] }
"""


def go(folder: Path, *words: str) -> str:
    """Runs go in a folder, without network; what it compiled before is kept from run to run."""
    if shutil.which("go") is None:
        pytest.skip("no Go compiler on PATH")
    settings = {"CGO_ENABLED": "0", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    settings["GOCACHE"] = os.environ.get("GOCACHE", str(ROOT / ".cache" / "clients" / "go-build"))
    done = subprocess.run(
        ["go", *words], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(folder: Path, function: str | None = None) -> Path:
    """A copy of the shipped folder, built as its README says; with a function.go of the test's, if there is one."""
    for name in ("go.mod", "runtime.go", "function.go"):
        shutil.copy(GO / name, folder)
    if function is not None:
        (folder / "function.go").write_text(function)
    go(folder, "build", "-o", "bootstrap", ".")
    return folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it is, built."""
    return build(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the function of these tests."""
    return build(tmp_path_factory.mktemp("code"), FUNCTION)


class Gate:
    """What a stream of these tests waits for behind its first piece: a pipe that the test writes to."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR)  # both ends: nobody waits for the other one

    def open(self) -> None:
        os.write(self._fd, b"\n")

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()


async def whole(stream: ResponseStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def frozen(function: Function) -> None:
    """Waits for the runtime's next poll: a stream ends before it, and an invoke in between gets another environment."""
    async with asyncio.timeout(20):
        while any(environment.machine.phase is not Phase.FROZEN for environment in function.environments):
            await asyncio.sleep(0.001)


# ── it builds ──


def test_it_is_formatted_and_vetted_and_needs_nothing_else(shipped: Path) -> None:
    assert go(shipped, "vet", ".") == ""
    assert go(shipped, "list", "-m", "all").strip() == "bootstrap"
    if (gofmt := shutil.which("gofmt")) is None:
        pytest.skip("no gofmt on PATH")
    done = subprocess.run([gofmt, "-l", "."], cwd=shipped, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_outside_a_sandbox_it_says_what_it_is(code: Path) -> None:
    done = subprocess.run([code / "bootstrap"], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("runtime: there is no AWS_LAMBDA_RUNTIME_API")


def test_nobody_is_there(code: Path) -> None:
    environment = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1"}
    done = subprocess.run([code / "bootstrap"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("runtime: cannot ask for an event: ")


# ── on our host ──


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-022", "RT-050", "LC-009")
async def test_the_folder_as_it_is_echoes_and_logs(host: Host, shipped: Path) -> None:
    function = await host.deploy(shipped, timeout=20)
    event = {"hello": "wörld", "n": [1, None]}
    result = (await function.invoke(event)).check()
    told = result.json()
    assert (told["event"], told["requestId"]) == (event, result.request_id)
    assert 0 < told["remainingMs"] <= 20_000
    assert printed(result) == [f"an event of {len(json.dumps(event))} bytes"]


@pytest.mark.catalogue("RT-070", "RT-077", "RT-090", "RT-095", "RT-096")
async def test_the_example_fails_and_streams_when_it_is_asked_to(host: Host, shipped: Path) -> None:
    function = await host.deploy(shipped, timeout=20)
    failed = await function.invoke("fail")
    assert failed.function_error == "Unhandled"
    assert failed.json() == {"errorType": "Function.Error", "errorMessage": 'the event was "fail"'}
    assert failed.report is not None
    assert failed.report.status == "success"
    assert await whole(await function.invoke_stream("stream")) == b"1 of 3\n2 of 3\n3 of 3\n"
    await frozen(function)
    assert (await function.invoke("stream")).check().payload == b"1 of 3\n2 of 3\n3 of 3\n"
    assert (await function.invoke("then")).check().json()["event"] == "then"
    assert len(function.environments) == 1


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-050", "RT-052", "RT-064")
async def test_bytes_pass_as_they_are(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    for payload in ('{ "ä" :\n"日本 😀 \\u0000" }\n\n'.encode(), b"null", b'""', b"[]"):
        result = (await function.invoke(payload=payload)).check()
        assert (result.payload, result.content_type) == (payload, "application/json")
    assert (await function.invoke({"do": "bytes"})).check().payload == b"a\0b\xff"
    assert (await function.invoke({"do": "nothing"})).check().payload == b""
    assert len(function.environments) == 1


@pytest.mark.catalogue("RT-090", "RT-093", "RT-094", "RT-095")
async def test_an_error_arrives_as_json_and_the_process_lives_on(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke({"do": "pid"})).check().json()
    failed = await function.invoke({"do": "fail"})
    message = 'cannot: no "a\\b"\n\x01 é日😀 \ufffd'
    assert failed.json() == {"errorType": "Function.NotFound??X:?y", "errorMessage": message}
    wrong = await function.invoke({"do": "number"})
    assert wrong.json()["errorMessage"] == "the handler returned int, not []byte or io.Reader"
    assert (await function.invoke({"do": "pid"})).check().json() == before


@pytest.mark.catalogue("RT-021", "RT-050")
async def test_6_mib_both_ways(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    payload = b'"' + b"ab" * (PAYLOAD_LIMIT // 2 - 1) + b'"'
    assert len(payload) == PAYLOAD_LIMIT
    for _ in range(3):
        assert (await function.invoke(payload=payload)).check().payload == payload
    assert len(function.environments) == 1


@pytest.mark.catalogue("RT-057", "RT-058", "RT-059", "RT-077")
@pytest.mark.parametrize("way", ["size", "stream"])
async def test_an_answer_that_is_too_large_is_told_to_the_caller_and_the_process_goes_on(
    host: Host, code: Path, way: str
) -> None:
    function = await host.deploy(code, timeout=20, memory_mb=512)
    before = (await function.invoke({"do": "pid"})).check().json()
    large = await function.invoke({"do": way, "size": PAYLOAD_LIMIT + 1})
    assert large.json()["errorType"] == "Function.ResponseSizeTooLarge"
    assert printed(large)[0].startswith("runtime: the answer is too long: ")
    assert (await function.invoke({"do": "pid"})).check().json() == before


@pytest.mark.catalogue("LC-035", "LC-051", "LC-053")
async def test_it_is_frozen_between_two_invokes_and_thaws(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    pid = (await function.invoke({"do": "pid"})).check().json()
    [environment] = function.environments
    assert environment.machine.phase is Phase.FROZEN
    async with asyncio.timeout(20):
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.001)
    assert (await function.invoke({"do": "pid"})).check().json() == pid
    assert function.environments == (environment,)


@pytest.mark.catalogue("RT-024", "RT-025", "RT-026", "RT-027", "RT-028", "EN-004")
async def test_what_is_known_of_an_invocation(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    result = await function.invoke(
        {"do": "context"},
        trace_id=TRACE,
        client_context={"custom": {"a": 1}},
        cognito_identity={"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"},
        tenant_id="blue",
    )
    invocation, variable, in_time = result.check().json()
    assert (variable, in_time) == (TRACE, True)
    assert "pool" in invocation.pop("CognitoIdentity")
    assert invocation == {
        "RequestID": result.request_id,
        "FunctionARN": function.config.arn,
        "TraceID": TRACE,
        "ClientContext": '{"custom":{"a":1}}',
        "TenantID": "blue",
    }


@in_both_tiers
@pytest.mark.catalogue("LC-070", "LC-072")
async def test_a_timeout_and_the_invoke_after_it(code: Path) -> None:
    clock = ManualClock()
    async with Host(clock=clock) as host:
        function = await host.deploy(code, timeout=3)
        before = (await function.invoke({"do": "pid"})).check().json()
        hanging = asyncio.Event()

        def heard(record: Record) -> None:
            if record.record == "hanging":
                hanging.set()

        host.journal.subscribe(heard, ["function"])
        invoke = asyncio.create_task(function.invoke({"do": "hang"}))
        await hanging.wait()
        clock.advance(3)
        late = await invoke
        assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert (await function.invoke({"do": "pid"})).check().json() != before
    no_task_is_left()


@pytest.mark.catalogue("LC-070", "LC-074")
async def test_an_exit_in_the_handler(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke({"do": "pid"})).check().json()
    ended = await function.invoke({"do": "exit"})
    assert ended.json() == platform_error(ended, "Runtime.ExitError", "Runtime exited with error: exit status 7")
    assert (await function.invoke({"do": "pid"})).check().json() != before


@in_both_tiers
@pytest.mark.catalogue("RT-090", "LC-070")
async def test_a_panic_is_told_with_its_stack_and_ends_the_process(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke({"do": "pid"})).check().json()
    failed = await function.invoke({"do": "panic"})
    told = failed.json()
    assert told["errorType"] == "Function.Panic"
    assert told["errorMessage"] == "runtime error: index out of range [0] with length 0"
    assert [line.partition(" (function.go:")[0] for line in told["stackTrace"]][:2] == ["main.first", "main.handle"]
    assert f"runtime: Function.Panic: {told['errorMessage']}" in printed(failed)
    assert failed.report is not None
    assert failed.report.error_type == "Runtime.ExitError"
    assert (await function.invoke({"do": "pid"})).check().json() != before


@pytest.mark.catalogue("RT-102", "RT-103", "LC-013")
@pytest.mark.parametrize(
    ("way", "error_type", "message"),
    [
        ("error", "Function.Error", "no database"),
        ("typed", "Function.NotFound??X:?y", "no database"),
        ("panic", "Function.Panic", "assignment to entry in nil map"),
    ],
)
async def test_an_error_of_init(host: Host, code: Path, way: str, error_type: str, message: str) -> None:
    function = await host.deploy(code, timeout=20, environment={"INIT": way})
    result = await function.invoke()
    told = result.json()
    assert (told["errorType"], told["errorMessage"]) == (error_type, message)
    assert (result.function_error, result.error_phase) == ("Unhandled", "init")
    assert ("stackTrace" in told) == (way == "panic")


# ── streams, on our host ──


@pytest.mark.catalogue("RT-052", "RT-070", "RT-071", "RT-079")
async def test_pieces_reach_the_caller_while_the_stream_is_being_made(host: Host, code: Path, gate: Gate) -> None:
    function = await host.deploy(code, timeout=20)
    for _ in range(2):
        stream = await function.invoke_stream({"do": "stream", "gate": gate.path})
        pieces = aiter(stream)
        assert await anext(pieces) == b"first\n"
        assert stream.content_type == "text/plain"
        gate.open()
        assert [piece async for piece in pieces] == [b"last\n"]
        assert stream.result is not None
        assert stream.result.function_error is None
        await frozen(function)
    assert len(function.environments) == 1


@pytest.mark.catalogue("RT-072", "RT-077")
async def test_a_stream_that_fails_says_so_and_the_process_lives_on(host: Host, code: Path, gate: Gate) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke({"do": "pid"})).check().json()
    error = {"errorType": "Function.NotFound??X:?y", "errorMessage": "in mid-stream: no më <&>"}
    stream = await function.invoke_stream({"do": "stream", "end": "error", "gate": gate.path})
    pieces = aiter(stream)
    assert await anext(pieces) == b"first\n"
    gate.open()
    assert [piece async for piece in pieces] == [b"last\n"]
    assert stream.result is not None
    assert (stream.result.function_error, stream.result.error_type) == ("Unhandled", error["errorType"])
    assert stream.result.json() == error
    await frozen(function)
    buffered = await function.invoke({"do": "stream", "end": "error"})
    assert buffered.function_error == "Unhandled"
    assert buffered.json() == error
    assert (await function.invoke({"do": "closed"})).check().json() == 2
    assert (await function.invoke({"do": "pid"})).check().json() == before


@pytest.mark.catalogue("RT-072", "LC-070")
async def test_a_panic_in_mid_stream_is_told_and_ends_the_process(host: Host, code: Path, gate: Gate) -> None:
    function = await host.deploy(code, timeout=20)
    before = (await function.invoke({"do": "pid"})).check().json()
    stream = await function.invoke_stream({"do": "stream", "end": "panic", "gate": gate.path})
    pieces = aiter(stream)
    assert await anext(pieces) == b"first\n"
    gate.open()
    assert [piece async for piece in pieces] == []
    assert stream.result is not None
    told = stream.result.json()
    assert (told["errorType"], told["errorMessage"]) == ("Function.Panic", "in mid-stream")
    assert told["stackTrace"][0].startswith("main.(*pieces).Read (function.go:")
    assert (await function.invoke({"do": "pid"})).check().json() != before


@pytest.mark.catalogue("RT-072")
async def test_a_stream_that_fails_at_once_keeps_its_pieces(played: Played) -> None:
    """What the runtime above sends when nothing holds it up; here in one write, so that the host meets it whole."""
    s = await streaming(played)
    trailers = {ERROR_TYPE: "Boom", ERROR_BODY: base64.b64encode(b'{"errorType":"Boom"}').decode()}
    await s.connection.send(opening(s.path) + chunk(b"first\n") + last_chunk(**trailers))
    assert (await s.connection.reply()).status == 202
    assert await s.rest() == b"first\n"
    assert s.job.result.json() == {"errorType": "Boom"}


@in_both_tiers
@pytest.mark.catalogue("RT-074", "RT-077")
async def test_a_stream_may_be_longer_than_a_buffered_answer(host: Host, code: Path) -> None:
    function = await host.deploy(code, timeout=20, memory_mb=512)
    stream = await function.invoke_stream({"do": "stream", "size": PAYLOAD_LIMIT + 1})
    assert len(await whole(stream)) == PAYLOAD_LIMIT + 1


# ── on the wire ──


async def test_one_connection_carries_everything(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        for number in range(20):
            posted = await peer.event(b"%d" % number)
            assert posted.line == "POST /2018-06-01/runtime/invocation/one/response HTTP/1.1"
            assert (posted.body, posted.fields["content-length"]) == (b"%d" % number, str(len(str(number))))
            await peer.send(OK)
        assert peer.connections == 1


@pytest.mark.catalogue("RT-011", "RT-029", "RT-061")
async def test_the_invocation_id_is_echoed_when_it_is_given(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        posted = await peer.event(fields=EVENT.lower() + "LAMBDA-RUNTIME-INVOCATION-ID:\tthe-id \r\n")
        assert posted.fields["lambda-runtime-invocation-id"] == "the-id"
        await peer.send(OK)
        assert "lambda-runtime-invocation-id" not in (await peer.event()).fields
        await peer.send(OK)
        failed = await peer.event(b'{"do": "fail"}', fields=EVENT + "Lambda-Runtime-Invocation-Id: other\r\n")
        assert failed.line == "POST /2018-06-01/runtime/invocation/one/error HTTP/1.1"
        assert failed.fields["lambda-runtime-invocation-id"] == "other"
        assert failed.fields["lambda-runtime-function-error-type"] == "Function.NotFound??X:?y"


@pytest.mark.catalogue("RT-025", "EN-004")
async def test_without_a_trace_id_there_is_no_variable(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        for sent, variable in ((f"Lambda-Runtime-Trace-Id: {TRACE}\r\n", TRACE), ("", "")):
            posted = await peer.event(b'{"do": "context"}', fields=EVENT + sent)
            assert json.loads(posted.body)[1] == variable
            await peer.send(OK)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_reply_that_arrives_in_pieces(code: Path, tmp_path: Path, framing: str) -> None:
    payload = '{"ä": "in pieces"}'.encode()
    sent = reply("200 OK", payload, EVENT)
    if framing == "chunks":
        chunks = b"1\r\n{\r\n00a;x=y\r\n" + payload[1:11] + b"\r\n%X\r\n" % len(payload[11:]) + payload[11:]
        sent = f"HTTP/1.1 200 OK\r\n{EVENT}transfer-encoding: Chunked\r\n\r\n".encode() + chunks + b"\r\n0\r\n\r\n"
    async with facing(code, tmp_path / "said") as peer:
        for _ in range(2):
            await peer.request()
            await peer.send(*(bytes([byte]) for byte in sent))
            assert (await peer.request()).body == payload
            await peer.send(*(bytes([byte]) for byte in OK))


@pytest.mark.catalogue("RT-070", "RT-072", "RT-079")
async def test_how_a_stream_looks_on_the_wire(code: Path, tmp_path: Path) -> None:
    async with facing(code, tmp_path / "said") as peer:
        given = EVENT + "Lambda-Runtime-Invocation-Id: the-id\r\n"
        well = await peer.event(b'{"do": "stream"}', fields=given)
        assert well.line == "POST /2018-06-01/runtime/invocation/one/response HTTP/1.1"
        assert well.fields["transfer-encoding"] == "chunked"
        assert well.fields["lambda-runtime-function-response-mode"] == "streaming"
        assert well.fields["lambda-runtime-invocation-id"] == "the-id"
        assert well.fields["content-type"] == "text/plain"
        assert well.fields["connection"] == "close"
        announced = {name.strip().lower() for name in well.fields["trailer"].split(",")}
        assert announced == {"lambda-runtime-function-error-type", "lambda-runtime-function-error-body"}
        assert (well.body, well.trailers) == (b"first\nlast\n", {})
        await peer.send(OK)
        await peer.accept()  # the next poll comes on a new connection
        ill = await peer.event(b'{"do": "stream", "end": "error"}')
        assert ill.body == b"first\nlast\n"
        assert ill.trailers.pop("lambda-runtime-function-error-type") == "Function.NotFound??X:?y"
        [(name, value)] = ill.trailers.items()
        assert name == "lambda-runtime-function-error-body"
        error = {"errorType": "Function.NotFound??X:?y", "errorMessage": "in mid-stream: no më <&>"}
        assert json.loads(base64.b64decode(value, validate=True)) == error


async def test_no_proxy_is_asked(code: Path, tmp_path: Path) -> None:
    """Go's own default spares loopback addresses; 0.0.0.0 is this machine, too, but none of those."""
    nobody = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    async with facing(code, tmp_path / "said", "0.0.0.0", **nobody) as peer:
        assert (await peer.event(b"1")).body == b"1"


@pytest.mark.catalogue("RT-053", "RT-054", "RT-061")
@pytest.mark.parametrize(
    ("status", "error_type"),
    [("400 Bad Request", "InvalidInvocationId"), ("403 Forbidden", "InvalidStateTransition"), ("200 OK", "Odd")],
)
@pytest.mark.parametrize(("do", "what"), [("echo", "response"), ("stream", "response"), ("fail", "error")])
async def test_an_answer_that_is_refused_ends_the_process(
    code: Path, tmp_path: Path, status: str, error_type: str, do: str, what: str
) -> None:
    """A stale invocation id, for one: the platform has given the invocation up."""
    async with facing(code, tmp_path / "said") as peer:
        await peer.event(b'{"do": "%s"}' % do.encode())
        await peer.send(reply(status, f'{{"errorType":"{error_type}"}}'.encode()))
        ended, text = await peer.ended()
        assert ended == 1
        assert f'runtime: posted to invocation/one/{what} and got {status}: {{"errorType":"{error_type}"}}\n' in text


async def test_a_refusal_in_mid_stream_ends_the_stream_before_the_next_event(code: Path, tmp_path: Path, gate: Gate) -> None:
    """The 413 comes while the second piece is still being waited for: that one is read, and thrown away, first."""
    async with facing(code, tmp_path / "said") as peer:
        await peer.request()
        payload = json.dumps({"do": "stream", "gate": gate.path}).encode()
        await peer.send(reply("200 OK", payload, EVENT))
        await peer.head()
        await peer.send(reply("413 Content Too Large", b"{}"))
        gate.open()
        await peer.accept()
        assert (await peer.event(b'{"do": "closed"}')).body == b"1"
        assert peer.said.read_text() == "runtime: the answer is too long: {}\n"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (reply("200 OK", b"{}", EVENT)[:-1], "cannot read an event: unexpected EOF"),
        (reply("403 Forbidden", b'{"a":1}'), 'asked for an event and got 403 Forbidden: {"a":1}'),
        (reply("200 OK", b"{}"), "got an event without a request id or a deadline"),
        (b"SSH-2.0\r\n\r\n", "cannot ask for an event: "),
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
