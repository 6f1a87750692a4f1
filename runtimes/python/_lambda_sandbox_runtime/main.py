"""The loop: load the handler, then event by event."""

from __future__ import annotations

import json
import logging
import os
import site
import sys
from collections.abc import Callable

from . import answers, faults, logs
from .client import RuntimeClient
from .context import LambdaContext
from .faults import Fault
from .loading import load

_ACCEPTED = 202


def main(opt: str) -> None:
    client = RuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"])
    sink = logs.set_up()
    _set_paths(opt)
    sys.dont_write_bytecode = True  # /var/task is read-only on Lambda; here nothing is left in the user's folder
    sink.mark(1)
    try:
        handler = load(os.environ["_HANDLER"])
    except Exception as error:
        _init_failed(client, sink, error)
    finally:
        sink.mark(2)
    while True:
        _serve_one(client, sink, handler)


def _set_paths(opt: str) -> None:
    """EN-016: the function, its layers, the runtime, the standard library. What `site` gives to builtins, too (-S)."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    runtime = os.environ["LAMBDA_RUNTIME_DIR"]
    sys.path[:] = [path for path in sys.path if path != runtime]
    sys.path[:0] = [os.environ["LAMBDA_TASK_ROOT"], f"{opt}/python/lib/{version}/site-packages", f"{opt}/python"]
    sys.path.insert(3, runtime)
    site.setquit()
    site.setcopyright()
    site.sethelper()


def _init_failed(client: RuntimeClient, sink: logs.Sink, error: Exception) -> None:
    told = faults.document(error, "")
    _log(sink, told)
    _flush()
    client.report_init_error(answers.to_bytes(told), told["errorType"])
    sys.exit(1)


def _serve_one(client: RuntimeClient, sink: logs.Sink, handler: Callable) -> None:
    headers, payload = client.next()
    request_id = headers["lambda-runtime-aws-request-id"]
    invocation_id = headers.get("lambda-runtime-invocation-id")
    trace_id = headers.get("lambda-runtime-trace-id")
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
    sink.request_id, sink.tenant_id = request_id, headers.get("lambda-runtime-aws-tenant-id")
    try:
        event = _event(payload)
        body, content_type = _answer(handler(event, LambdaContext(headers, sink)))
    except Exception as error:
        told = faults.document(error, request_id)
        _log(sink, told)
        _flush()
        status = client.report_error(request_id, invocation_id, answers.to_bytes(told), faults.cause(error))
    else:
        _flush()
        status = client.respond(request_id, invocation_id, body, content_type)
        if status == 413:  # the caller has been told already; the next event comes as ever
            status = _ACCEPTED
    if status not in (_ACCEPTED, 400, 410):  # 400 and 410: too late, the invocation is over (RT-062)
        sys.exit(f"the Runtime API answered {status}")


def _flush() -> None:
    """What was printed must be in the log before the answer is out."""
    logs.flush(sys.stdout)
    logs.flush(sys.stderr)


def _event(payload: bytes) -> object:
    try:
        return json.loads(payload)
    except ValueError as error:
        raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from None


def _answer(result: object) -> tuple[bytes, str]:
    if isinstance(result, bytes):
        return result, "application/unknown"
    try:
        return answers.to_bytes(result), "application/json"
    except Exception as error:
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {error}") from None


def _log(sink: logs.Sink, told: dict) -> None:
    if sink.as_json:
        import time

        record = {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": "ERROR", **told}
        sink.write(answers.to_json(record), logging.ERROR)
    else:
        sink.write(faults.log_text(told), logging.ERROR)
