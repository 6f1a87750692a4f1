"""Mutants that answer wrongly: answers, errors, streams."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from .client import Client, Fields, Gone, Reply
from .good import Runtime
from .table import breaks
from .wrong_polls import hang


@breaks("response.id")
class LowersIds(Runtime):
    """Makes the request id lower case."""

    @property
    def id(self) -> str:
        return super().id.lower()


@breaks("response.once")
class AnswersTwice(Runtime):
    """Answers every fourth event twice."""

    def post_answer(self, body: bytes) -> None:
        super().post_answer(body)
        if self.calls % 4 == 0:
            super().post_answer(body)


@breaks("response.json")
class ByteOrderMark(Runtime):
    """Writes a byte order mark before text that is not ASCII."""

    def encode(self, answer: Any) -> bytes:
        body = super().encode(answer)
        return body if body.isascii() else b"\xef\xbb\xbf" + body


@breaks("response.content-type")
class PlainText(Runtime):
    """Calls its answers plain text."""

    def fields(self, what: str) -> Fields:
        return [("Content-Type", "text/plain"), *self.nonce(what)] if what == "response" else super().fields(what)


class NoNonce(Runtime):
    where = ""

    def nonce(self, what: str) -> Fields:
        return [] if what == self.where else super().nonce(what)


@breaks("response.invocation-id")
class NoNonceWithAnswers(NoNonce):
    """Gives no invocation id back with an answer."""

    where = "response"


@breaks("error.invocation-id")
class NoNonceWithErrors(NoNonce):
    """Gives no invocation id back with an error."""

    where = "error"


@breaks("stream.invocation-id")
class NoNonceWithStreams(NoNonce):
    """Gives no invocation id back with a stream."""

    where = "stream"


@breaks("response.own-invocation-id")
class OldNonce(Runtime):
    """Gives the invocation id of the event before back, where there is no new one."""

    def nonce(self, what: str) -> Fields:
        last = self.last.get("Lambda-Runtime-Invocation-Id") if self.last else None
        return super().nonce(what) or ([("Lambda-Runtime-Invocation-Id", last)] if last else [])


@breaks("response.large")
class OwnLimit(Runtime):
    """Refuses texts of more than 6,000,000 letters itself."""

    def encode(self, answer: Any) -> bytes:
        if isinstance(answer, str) and len(answer) > 6_000_000:
            raise OverflowError("too long")
        return super().encode(answer)


@breaks("response.too-large")
class TriesForEver(Runtime):
    """Tries an answer that is too large again and again."""

    def post_answer(self, body: bytes) -> None:
        while True:
            super().post_answer(body)
            if len(body) < 6_291_557:
                return
            self.pause()


@breaks("response.survives-too-large")
class DiesOfSize(Runtime):
    """Ends its process when an answer is too large."""

    def post_answer(self, body: bytes) -> None:
        if len(body) > 6_500_000:
            self.end(1)
        super().post_answer(body)


class EndsAt(Runtime):
    what = ""
    statuses: tuple[int, ...] = ()

    def acknowledged(self, what: str, reply: Reply) -> None:
        super().acknowledged(what, reply)
        if what == self.what and reply.status in self.statuses:
            self.end(1)


@breaks("response.late")
class DiesOfLateness(EndsAt):
    """Ends its process when an answer came too late."""

    what, statuses = "response", (400, 410)


class HangsAt(Runtime):
    what = ""
    statuses: tuple[int, ...] = ()

    def acknowledged(self, what: str, reply: Reply) -> None:
        super().acknowledged(what, reply)
        if what == self.what and reply.status in self.statuses:
            hang()


@breaks("response.refused")
class WaitsForBetterTimes(HangsAt):
    """Waits for ever after 503."""

    what, statuses = "response", (503,)


@breaks("error.refused")
class ErrorWaitsForBetterTimes(HangsAt):
    """Waits for ever when an error was answered 503."""

    what, statuses = "error", (503,)


@breaks("stream.refused")
class StreamWaitsForBetterTimes(HangsAt):
    """Waits for ever when a stream was answered 413."""

    what, statuses = "stream", (413,)


class Bears500(Runtime):
    what = ""

    def acknowledged(self, what: str, reply: Reply) -> None:
        if what != self.what:
            super().acknowledged(what, reply)


@breaks("response.unrecoverable")
class AnswerBears500(Bears500):
    """Goes on when an answer was replied to with 500."""

    what = "response"


@breaks("error.unrecoverable")
class ErrorBears500(Bears500):
    """Goes on when an error was replied to with 500."""

    what = "error"


class UntilAccepted(Client):
    """Sends what was lost again and again, until it is accepted."""

    where = ""

    def ask(self, method: str, path: str, fields: Fields | None = None, body: bytes | None = None) -> Reply:
        if not path.endswith(self.where) or len(body or b"") > 6_000_000:
            return super().ask(method, path, fields, body)
        lost = False
        while True:
            try:
                self.ready()
                reply = self.exchange(method, path, fields or [], body)
                if not lost or reply.status == 202:
                    return reply
            except (Gone, OSError):
                self.drop()
                lost = True


@breaks("response.reply-lost")
class AnswerUntilAccepted(UntilAccepted):
    """Sends an answer that was lost again and again, until it is accepted."""

    where = "/response"


@breaks("error.reply-lost")
class ErrorUntilAccepted(UntilAccepted):
    """Sends an error that was lost again and again, until it is accepted."""

    where = "/error"


@breaks("response.reply-forms")
class ParsesAcknowledgements(Runtime):
    """Wants every acknowledgement to be JSON."""

    def acknowledged(self, what: str, reply: Reply) -> None:
        super().acknowledged(what, reply)
        if what == "response":
            json.loads(reply.body)


# ── errors ──


@breaks("error.reported")
class ErrorIsAnAnswer(Runtime):
    """Posts errors as answers."""

    def post_error(self, error: Exception) -> None:
        self.post_answer(json.dumps(self.error_document(error)).encode())


class OtherDocument(Runtime):
    def error_document(self, error: Exception) -> Any:
        return {**super().error_document(error), **self.other(error)}

    def other(self, error: Exception) -> dict[str, Any]:
        raise NotImplementedError


@breaks("error.shape")
class OtherKeys(Runtime):
    """Has keys of its own in an error."""

    def error_document(self, error: Exception) -> Any:
        return {"message": str(error), "type": "Error"}


@breaks("error.message")
class AsciiMessage(OtherDocument):
    """Puts question marks in messages."""

    def other(self, error: Exception) -> dict[str, Any]:
        return {"errorMessage": str(error).encode("ascii", "replace").decode()}


@breaks("error.message")
class EscapesTwice(OtherDocument):
    """Encodes the message as JSON, and then the document."""

    def other(self, error: Exception) -> dict[str, Any]:
        return {"errorMessage": json.dumps(str(error), ensure_ascii=False)[1:-1]}


@breaks("error.stack")
class StackAsText(OtherDocument):
    """Has the stack as one text."""

    def other(self, error: Exception) -> dict[str, Any]:
        return {"stackTrace": "Traceback:\n  somewhere"}


@breaks("error.type-header")
class EmptyType(Runtime):
    """Says the type of an error in the header field, but it has none."""

    def error_fields(self, error: Exception) -> Fields:
        return [("Lambda-Runtime-Function-Error-Type", "")]


@breaks("error.no-response")
class AnswersErrors(Runtime):
    """Posts null after an error."""

    def post_error(self, error: Exception) -> None:
        super().post_error(error)
        if isinstance(error, ValueError) and self.event.body.startswith(b'{"message"'):
            super().post_answer(b"null")


@breaks("error.goes-on")
class DiesOfErrors(Runtime):
    """Ends its process after an error."""

    def post_error(self, error: Exception) -> None:
        super().post_error(error)
        self.end(1)


@breaks("error.large")
class ErrorsByPipe(Runtime):
    """Writes an error into a pipe before it reads it from there."""

    def error_document(self, error: Exception) -> Any:
        read, write = os.pipe()
        os.write(write, str(error).encode())
        os.close(read)
        os.close(write)
        return super().error_document(error)


# ── streams ──


@breaks("stream.mode")
class NoMode(Runtime):
    """Does not say that it streams."""

    def stream_fields(self) -> Fields:
        return [field for field in super().stream_fields() if not field[0].endswith("Response-Mode")]


@breaks("stream.whole")
class ShortChunks(Runtime):
    """Sends at most 64 kB of each chunk."""

    def pieces(self, pieces: Iterator[bytes], trailers: Fields) -> Iterator[bytes]:
        return (piece[:65535] for piece in super().pieces(pieces, trailers))


@breaks("stream.at-once")
class Buffers(Runtime):
    """Sends a stream when it has all of it."""

    def pieces(self, pieces: Iterator[bytes], trailers: Fields) -> Iterator[bytes]:
        return iter([b"".join(super().pieces(pieces, trailers))])

    def post_stream(self, pieces: Iterator[bytes]) -> None:
        self.flush()
        super().post_stream(pieces)


class WithoutField(Runtime):
    name = ""

    def stream_fields(self) -> Fields:
        return [field for field in super().stream_fields() if field[0] != self.name]


@breaks("stream.content-type")
class StreamWithoutType(WithoutField):
    """Gives a stream no Content-Type."""

    name = "Content-Type"


@breaks("stream.trailers-announced")
class SilentTrailers(WithoutField):
    """Does not announce trailers."""

    name = "Trailer"


@breaks("stream.error-in-trailers")
class SwallowsStreamErrors(Runtime):
    """Ends a stream as if it were whole."""

    def trailers(self, error: Exception) -> Fields:
        return []


@breaks("stream.error-body")
class RawErrorBody(Runtime):
    """Writes the error into its trailer as JSON, not as base64."""

    def trailers(self, error: Exception) -> Fields:
        return [super().trailers(error)[0], ("Lambda-Runtime-Function-Error-Body", json.dumps(self.error_document(error)))]


@breaks("stream.error-keeps-bytes")
class OneBehind(Runtime):
    """Sends a chunk when the next one is there, and forgets it when there is an error."""

    def pieces(self, pieces: Iterator[bytes], trailers: Fields) -> Iterator[bytes]:
        before = b""
        for piece in chain(super().pieces(pieces, trailers), [b""]):
            if not trailers:
                yield before
            before = piece


@breaks("stream.one-ending")
class TwoEndings(Runtime):
    """Reports an error in the middle of a stream to /error, too."""

    def stream_failed(self) -> None:
        self.post_error(ValueError("as the suite asked"))


@breaks("stream.goes-on")
class DiesOfBrokenStreams(Runtime):
    """Ends its process after a stream that failed."""

    def stream_failed(self) -> None:
        self.end(1)


@breaks("stream.empty")
class NeedsAByte(Runtime):
    """Waits for the first bytes before it begins to stream, and fails without them."""

    def handle(self, handler: Callable[[Any], Any], event: Any) -> Any:
        answer = super().handle(handler, event)
        if not isinstance(answer, Iterator):
            return answer
        first = next(answer, None)
        if first is None:
            raise ValueError("the stream is empty")
        return chain([first], answer)


@breaks("stream.cut-off")
class HangsInStream(Runtime):
    """Waits for ever when nobody takes its stream any more."""

    def stream_lost(self) -> None:
        hang()
