"""A small runtime that keeps every requirement: what the mutants are made of.

Each step is a method of its own, so that a mutant can get just that one wrong. The handlers of the contract are in it, too.
"""

from __future__ import annotations

import binascii
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from .client import Client, Fields, Gone, Reply

API = "/2018-06-01/runtime"
PAUSE = 0.1  # seconds after a poll that failed
JSON = ("Content-Type", "application/json")


class Runtime:
    client_class = Client

    def __init__(self) -> None:
        self.client = self.client_class(os.environ["AWS_LAMBDA_RUNTIME_API"])
        self.calls = 0
        self.last: Reply | None = None  # the event before
        self.event: Reply
        self.setup()

    def setup(self) -> None:
        """For mutants. This one leaves every signal as it is: SIGTERM ends it."""

    # ── the life of the process ──

    def run(self) -> NoReturn:
        try:
            handler = self.load(os.environ["_HANDLER"])
        except Exception as error:
            self.init_failed(error)
        while True:
            reply = self.poll()
            if reply is not None:
                self.event = reply
                self.serve(handler)
                self.last = reply
                self.served()

    def served(self) -> None:
        """For mutants: an event was answered."""

    def load(self, name: str) -> Callable[[Any], Any]:
        if name == "init_error":
            raise RuntimeError("as the suite asked")
        if name == "init_exit":
            sys.exit(7)
        return getattr(self, f"handle_{name}")  # type: ignore[no-any-return]

    def init_failed(self, error: Exception) -> NoReturn:
        try:
            self.report_init(error)
        except Gone:
            pass
        self.end(1)

    def report_init(self, error: Exception) -> None:
        self.client.ask("POST", f"{API}/init/error", [JSON], json.dumps(self.init_document(error)).encode())

    def init_document(self, error: Exception) -> Any:
        return {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": []}

    def end(self, status: int) -> NoReturn:
        sys.exit(status)

    # ── asking for an event ──

    def poll(self) -> Reply | None:
        """The next event; None if there is none, and it should be asked for again."""
        try:
            reply = self.ask_next()
        except Gone:
            return self.poll_lost()
        if reply.status == 500:
            self.poll_unrecoverable()
        return reply if self.is_event(reply) else self.pause()

    def ask_next(self) -> Reply:
        return self.client.ask("GET", f"{API}/invocation/next")

    def poll_lost(self) -> None:
        self.pause()

    def poll_unrecoverable(self) -> None:
        self.end(1)

    def is_event(self, reply: Reply) -> bool:
        return reply.status == 200

    def pause(self) -> None:
        time.sleep(PAUSE)

    # ── an event ──

    def told(self, name: str) -> str | None:
        return self.event.get(f"Lambda-Runtime-{name}")

    @property
    def id(self) -> str:
        return self.event.get("Lambda-Runtime-Aws-Request-Id") or ""

    def serve(self, handler: Callable[[Any], Any]) -> None:
        self.calls += 1
        self.set_trace(self.told("Trace-Id"))
        try:
            self.check()
            answer = self.handle(handler, self.decode(self.event.body))
            if isinstance(answer, Iterator):
                self.post_stream(answer)
                return
            body = self.encode(answer)
        except Exception as error:
            self.flush()
            self.post_error(error)
            return
        self.flush()
        self.post_answer(body)

    def check(self) -> None:
        """For mutants: looks at the event's header fields."""

    def set_trace(self, trace: str | None) -> None:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
        if trace:
            os.environ["_X_AMZN_TRACE_ID"] = trace

    def decode(self, body: bytes) -> Any:
        return json.loads(body.decode("utf-8"))

    def encode(self, answer: Any) -> bytes:
        return json.dumps(answer, ensure_ascii=False).encode("utf-8")

    def handle(self, handler: Callable[[Any], Any], event: Any) -> Any:
        return handler(event)

    def flush(self) -> None:
        sys.stdout.flush()

    # ── its answer ──

    def path(self, what: str) -> str:
        return f"{API}/invocation/{self.id}/{what}"

    def nonce(self, what: str) -> Fields:
        """The invocation id, if there was one. what: for which kind of answer."""
        invocation = self.told("Invocation-Id")
        return [("Lambda-Runtime-Invocation-Id", invocation)] if invocation else []

    def fields(self, what: str) -> Fields:
        return [JSON, *self.nonce(what)]

    def post(self, what: str, fields: Fields, body: bytes) -> None:
        try:
            reply = self.client.ask("POST", self.path(what), fields, body)
        except Gone:
            self.answer_lost()
            return
        self.acknowledged(what, reply)

    def answer_lost(self) -> None:
        """For mutants: nobody knows whether the answer has come. The next poll says it."""

    def acknowledged(self, what: str, reply: Reply) -> None:
        """What an answer was replied to with. what: response, error or stream."""
        if reply.status == 500:
            self.end(1)

    def post_answer(self, body: bytes) -> None:
        self.post("response", self.fields("response"), body)

    def post_error(self, error: Exception) -> None:
        document = json.dumps(self.error_document(error), ensure_ascii=False).encode("utf-8")
        self.post("error", [*self.fields("error"), *self.error_fields(error)], document)

    def error_document(self, error: Exception) -> Any:
        return {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": []}

    def error_fields(self, error: Exception) -> Fields:
        return [("Lambda-Runtime-Function-Error-Type", type(error).__name__)]

    # ── a stream ──

    def post_stream(self, pieces: Iterator[bytes]) -> None:
        trailers: Fields = []
        try:
            reply = self.client.stream(self.path("response"), self.stream_fields(), self.pieces(pieces, trailers), trailers)
        except Gone:
            self.stream_lost()
            return
        self.acknowledged("stream", reply)
        if trailers:
            self.stream_failed()

    def stream_fields(self) -> Fields:
        return [
            ("Lambda-Runtime-Function-Response-Mode", "streaming"),
            ("Content-Type", "application/octet-stream"),
            ("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"),
            *self.nonce("stream"),
        ]

    def pieces(self, pieces: Iterator[bytes], trailers: Fields) -> Iterator[bytes]:
        """What is to be sent; an error in the middle becomes trailers."""
        try:
            yield from pieces
        except Exception as error:
            trailers += self.trailers(error)

    def trailers(self, error: Exception) -> Fields:
        document = json.dumps(self.trailer_document(error)).encode()
        return [
            ("Lambda-Runtime-Function-Error-Type", type(error).__name__),
            ("Lambda-Runtime-Function-Error-Body", binascii.b2a_base64(document, newline=False).decode()),
        ]

    def trailer_document(self, error: Exception) -> Any:
        return Runtime.error_document(self, error)

    def stream_lost(self) -> None:
        """For mutants: the connection ended in the middle."""

    def stream_failed(self) -> None:
        """For mutants: an error in the middle was told."""

    # ── the handlers ──

    def handle_echo(self, event: Any) -> Any:
        return event

    def handle_error(self, event: Any) -> Any:
        raise ValueError(event["message"])

    def handle_sleep(self, event: Any) -> Any:
        time.sleep(event["ms"] / 1000)
        return True

    def handle_exit(self, event: Any) -> Any:
        sys.exit(event["code"])

    def handle_big(self, event: Any) -> Any:
        return "x" * event["bytes"]

    def handle_stream(self, event: Any) -> Iterator[bytes]:
        for number in range(event["chunks"]):
            if number == event.get("fail"):
                raise ValueError("as the suite asked")
            if number:
                time.sleep(event["ms"] / 1000)
            yield b"x" * event["bytes"]

    def handle_log(self, event: Any) -> Any:
        self.print(event["lines"])
        for line in event["errors"]:
            print(line, file=sys.stderr)
        return True

    def print(self, lines: list[str]) -> None:
        for line in lines:
            print(line)

    def handle_count(self, event: Any) -> Any:
        return self.calls

    def handle_context(self, event: Any) -> Any:
        environment = os.environ
        return {
            "requestId": self.id,
            "functionArn": self.told("Invoked-Function-Arn"),
            "deadlineMs": int(self.told("Deadline-Ms") or 0),
            "traceId": environment.get("_X_AMZN_TRACE_ID"),
            "clientContext": self.parsed("Client-Context"),
            "identity": self.parsed("Cognito-Identity"),
            "tenantId": self.told("Aws-Tenant-Id"),
            "functionName": environment["AWS_LAMBDA_FUNCTION_NAME"],
            "functionVersion": environment["AWS_LAMBDA_FUNCTION_VERSION"],
            "memoryMB": environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
            "logGroup": environment["AWS_LAMBDA_LOG_GROUP_NAME"],
            "logStream": environment["AWS_LAMBDA_LOG_STREAM_NAME"],
            **self.more_context(),
        }

    def parsed(self, name: str) -> Any:
        text = self.told(name)
        return json.loads(text) if text else None

    def more_context(self) -> dict[str, Any]:
        """For mutants."""
        return {}
