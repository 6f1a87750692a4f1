"""The root logger's handler: text or JSON, to the log descriptor (framed) or to stdout.

A frame is u32 type | u32 length | u64 µs | message, big endian; one record stays one record, however many lines it has.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import sys
import time
import traceback

_MAGIC = 0xA55A0003  # bit 1: the time is there; bit 0: text
_JSON_MAGIC = 0xA55A0002
_MARK = 0xA55B0000
_ATOMIC = 4096  # PIPE_BUF: a write of at most this much is never mixed with another
_PYTHON_LEVELS = {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "aws_request_id", "tenant_id", "taskName"}


class Sink:
    """Where records go. `request_id` and `tenant_id` are those of the invocation under way.

    fd is the log descriptor. Short frames go down the pipe of stdout instead, which keeps their order among printed lines.
    """

    def __init__(self, fd: int | None, as_json: bool) -> None:
        self.fd = fd
        self.as_json = as_json
        self.request_id: str | None = None
        self.tenant_id: str | None = None
        self._printed = os.dup(1) if fd is not None else None

    def write(self, text: str, level: int) -> None:
        """One record. `level` is logging's number, 0 if there is none."""
        if self.fd is None:
            try:
                sys.stdout.write(text + "\n")
            except Exception:  # closed, or replaced by something that is no file: there is nowhere to write
                pass
            flush(sys.stdout)
            return
        magic = (_JSON_MAGIC if self.as_json else _MAGIC) | _frame_level(level) << 2
        self._frame(magic, text.encode("utf-8", "replace"))

    def mark(self, number: int) -> None:
        """Tells the host that function init begins (1) or has ended (2)."""
        if self.fd is not None:
            self._frame(_MARK | number, b"")

    def _frame(self, magic: int, message: bytes) -> None:
        data = struct.pack(">IIQ", magic, len(message), time.time_ns() // 1000) + message
        fd = self._printed if len(data) <= _ATOMIC else self.fd
        if fd == self._printed:
            flush(sys.stdout)
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:  # the function closed it: from here on as without
            self.fd = None


def flush(stream) -> None:  # anything: sys.stdout is the function's to replace
    """What was printed is out; also if the function has closed the stream, or put something else in its place."""
    try:
        stream.flush()
    except Exception:
        pass


def _frame_level(level: int) -> int:
    """1 TRACE … 6 FATAL, 0 none: a level between two of them counts as the lower one."""
    if level <= 0:
        return 0
    return 1 if level < logging.DEBUG else min(6, level // 10 + 1)


class LambdaHandler(logging.Handler):
    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.sink = sink
        self._end = "" if sink.as_json or sink.fd is None else "\n"  # a frame's last line feed is not part of the record

    def emit(self, record: logging.LogRecord) -> None:
        """What cannot be formatted fails the caller, as on Lambda."""
        self.sink.write(self.format(record) + self._end, record.levelno)


class _RequestId(logging.Filter):
    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self._sink.request_id or ""
        record.tenant_id = self._sink.tenant_id
        return True


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": logging.getLevelName(min(50, record.levelno // 10 * 10)),
            "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            document["stackTrace"] = traceback.format_tb(trace)
            document["errorType"], document["errorMessage"] = kind.__name__, str(error)
        document["requestId"] = record.aws_request_id or None
        if "errorType" in document:
            document["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        if record.tenant_id is not None:
            document["tenantId"] = record.tenant_id
        for name, value in record.__dict__.items():
            if name not in _PLAIN and name not in document:
                document[name] = value
        return json.dumps({k: v for k, v in document.items() if v is not None}, default=str, ensure_ascii=False)


def set_up() -> Sink:
    """Gives the root logger its handler, as Lambda does before the function is imported."""
    told = os.environ.pop("_LAMBDA_TELEMETRY_LOG_FD", None)  # children must not inherit it
    fd = int(told) if told else None
    if fd is not None:
        os.set_inheritable(fd, False)
    as_json = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
    sink = Sink(fd, as_json)
    handler = LambdaHandler(sink)
    handler.addFilter(_RequestId(sink))
    if as_json:
        handler.setFormatter(JsonFormatter())
        level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "INFO").upper()
        logging.root.setLevel(_PYTHON_LEVELS.get(level, level))
    else:
        text = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
        formatter = logging.Formatter(text, "%Y-%m-%dT%H:%M:%S")
        handler.setFormatter(formatter)
    logging.Formatter.converter = time.gmtime  # for formatters of the function's own, too
    logging.root.addHandler(handler)
    return sink
