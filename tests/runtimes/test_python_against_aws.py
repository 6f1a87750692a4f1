"""Our Python runtime beside AWS's own client (awslambdaric), unmodified: same handlers, same events, what differs?

Both are started alike, as the managed runtime: AWS's by AWS_LAMBDA_EXEC_WRAPPER, with a script in a layer that starts
awslambdaric with the same interpreter. So it has what it has on Lambda: AWS_EXECUTION_ENV, by which it chooses how it writes
JSON, and the log descriptor, which a custom runtime lacks: its records come framed as ours do, as they are, and nothing has to
be guessed from the line ends of stdout. Only no-break spaces, with which it indents stack traces, are taken for spaces.

What it prints and what it logs reach the host by two pipes, whose order nobody knows: a case does either. Ours come in order
(test_print_and_logging_are_told_in_order).

Cases share a process, each a module of its own that is imported at its first event, except those that are `alone`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sandbox import Host
from sandbox.host.host import Function
from tests.conftest import ROOT, no_task_is_left
from tests.runtimes.comparing import SAME, Case, Normal, Observation, Row, explain, table
from tests.runtimes.conftest import PYTHON, code_of, in_tier_process

pytestmark = in_tier_process

NEWEST = "4.2.2"
OLDEST = "3.1.1"
WRAPPER = '#!/bin/sh\nPYTHONPATH=\'{client}\' exec "$1" -S -m awslambdaric "$_HANDLER"\n'
DISPATCH = """
import importlib, os
def handler(event, context):
    if event == "pid":
        return os.getpid()
    return importlib.import_module("cases." + event["case"] + ".app").handler(event["event"], context)
"""


def case(name: str, what: str, code: str, event: str = "{}", *, alone: bool = False, **settings: Any) -> Case:
    return Case(name, what, textwrap.dedent(code).lstrip("\n"), event, settings, alone)


def returns(name: str, what: str, expression: str, imports: str = "", event: str = "{}") -> Case:
    """A handler of one line."""
    before = f"{imports}\n\n" if imports else ""
    return case(name, what, f"{before}def handler(event, context):\n    return {expression}\n", event)


def body(name: str, what: str, statements: str, imports: str = "", **settings: Any) -> Case:
    """A handler of some lines."""
    inner = textwrap.indent(textwrap.dedent(statements).strip("\n"), "    ")
    before = f"{imports}\n\n" if imports else ""
    return case(name, what, f"{before}def handler(event, context):\n{inner}\n", **settings)


LEVELS = """
import logging

logging.getLogger().setLevel(logging.DEBUG)

def handler(event, context):
    log = logging.getLogger("mine")
    for say in (log.debug, log.info, log.warning, log.error, log.critical):
        say("at %s", say.__name__)
"""
LEVELS_AS_SET = LEVELS.replace("logging.getLogger().setLevel(logging.DEBUG)\n\n", "")
VALUES = """
log = logging.getLogger()
log.warning({"a": 1})
log.warning(None)
log.warning("%s %d %r", "x", 5, {"k": 1})
log.warning("multi\\nline\\ttab")
log.warning("ü \\u2028 \\U0001f680")
log.warning("")
log.warning("ex", extra={"k": [1], "none": None})
"""
LOG_ERROR = """
try:
    try:
        {}["k"]
    except KeyError as error:
        raise RuntimeError("outer\\nline") from error
except RuntimeError:
    logging.exception("failed")
"""
RAISES = 'raise ValueError("boom \\u00e9\\nline 2")'
AT_LOAD = """
def load():
    raise RuntimeError("at load")

load()
"""
JSON = {"log_format": "JSON"}

CASES: list[Case] = [
    # ── what goes in and comes out ──
    returns("echo", "the spaces of the answer", "event", event='{"a":[1,2.5,"x",true,null,{}],"b":{"c":[]}}'),
    returns("null", "null in and out", "event", event="null"),
    body("nothing", "no return", "pass"),
    returns("empty-containers", "empty list, object, string", '{"l": [], "d": {}, "s": ""}'),
    returns("string", "a bare string stays quoted", '"got " + event', event='"hi"'),
    returns("bool", "a bare bool", "not event", event="true"),
    returns(
        "unicode",
        "not ASCII, an emoji, U+2028",
        '{"s": event["s"], "n": len(event["s"]), "own": "\\u00fc\\u2029\\U0001f680"}',
        event='{"s":"é☃😀\u2028"}',
    ),
    returns(
        "escaped-event",
        "control characters and NUL",
        '[event["s"], len(event["s"])]',
        event='{"s":"\\u00e9\\n\\t\\"\\\\\\/\\u0000\\u001f"}',
    ),
    returns("lone-surrogate", "half a character", "event", event='{"s":"\\ud800"}'),
    returns(
        "big-numbers",
        "whole numbers beyond 2**53, the forms of floats",
        "event",
        event='{"i":12345678901234567890,"f":1.10,"e":1e20,"z":-0.0,"t":0.1,"s":1e-7}',
    ),
    returns("huge-float", "infinity", "event", event='{"x":1e400}'),
    returns("nan", "NaN in the answer", '{"x": float("nan")}'),
    returns("set", "a set cannot be JSON", '{"x": {1}}'),
    returns("datetime", "neither can a date", "datetime.date(2026, 1, 2)", "import datetime"),
    body("cycle", "a list in itself", "a = []\na.append(a)\nreturn a"),
    body("deep", "200 lists in each other", "a = []\nfor _ in range(200):\n    a = [a]\nreturn a"),
    body("too-deep", "100,000 lists in each other", "a = []\nfor _ in range(100_000):\n    a = [a]\nreturn a"),
    returns(
        "decimal", "Decimal is written exactly", '[Decimal("1.10"), Decimal("1E+3"), Decimal(7)]', "from decimal import Decimal"
    ),
    returns(
        "decimal-not-finite",
        "Decimal NaN and infinity",
        '[Decimal("NaN"), Decimal("-Infinity")]',
        "from decimal import Decimal",
    ),
    returns("decimal-key", "Decimal as a key", '{Decimal("1.10"): 1}', "from decimal import Decimal"),
    returns("tuple", "a tuple", "(1, (2,))"),
    returns(
        "namedtuple",
        "a named tuple is an object",
        "[T(1, [2]), {'t': T(T(1, 2), 3)}]",
        'from collections import namedtuple\n\nT = namedtuple("T", "a b")',
    ),
    returns("bytes", "bytes are sent as they are", 'b"raw \\xff"'),
    returns("bytes-inside", "bytes within", '{"b": b"hi \\xc3\\xbc"}'),
    returns("bytes-not-utf8", "bytes within that are no text", '{"b": b"\\xff"}'),
    returns("bytes-key", "bytes as a key", '{b"k": 1}'),
    returns("odd-keys", "keys that are no strings", '{1: "a", None: "b", True: "c", 1.5: "d", float("nan"): "e"}'),
    returns("tuple-key", "a tuple as a key", '{(1, 2): "a"}'),
    returns(
        "enum",
        "enumerations",
        "[Colour.RED, Name.A, {Colour.RED: 1}]",
        "import enum\n\nclass Colour(enum.IntEnum):\n    RED = 1\n\nclass Name(enum.StrEnum):\n    A = 'a'",
    ),
    returns("enum-plain", "an enumeration that is no number", "Plain.A", "import enum\n\nclass Plain(enum.Enum):\n    A = 'a'"),
    returns(
        "dict-kinds",
        "OrderedDict, defaultdict, Counter",
        "[OrderedDict(a=1), defaultdict(int, b=2), Counter('cc')]",
        "from collections import Counter, OrderedDict, defaultdict",
    ),
    returns(
        "subclasses",
        "classes of str, int, float",
        "[S('s'), I(1), F(1.5)]",
        "class S(str): pass\n\nclass I(int):\n    __repr__ = lambda self: 'own'\n\n"
        "class F(float):\n    __repr__ = lambda self: 'own'",
    ),
    returns("dataclass", "a dataclass", "D(1)", "import dataclasses\n\n@dataclasses.dataclass\nclass D:\n    a: int"),
    returns("script", "what HTML would not like", '"</script>&\\u007f"'),
    case("generator", "a generator", "def handler(event, context):\n    yield 1\n"),
    case("async", "a coroutine", "async def handler(event, context):\n    return 1\n"),
    body("too-big", "an answer over 6 MB", 'return "x" * 6_500_000'),
    # ── what is around the handler ──
    returns(
        "context",
        "the fields of the context",
        "[context.function_name, context.function_version, context.memory_limit_in_mb, context.invoked_function_arn,\n"
        "            context.log_group_name, type(context.get_remaining_time_in_millis()).__name__, context.client_context,\n"
        "            type(context.aws_request_id).__name__, context.identity and context.identity.cognito_identity_id,\n"
        "            context.tenant_id]",
    ),
    returns("context-names", "all names of the context", "sorted(n for n in dir(context) if not n.startswith('_'))"),
    returns(
        "context-text",
        "the context as text",
        '[type(context).__name__, repr(context.identity), re.findall(r"(\\w+)=", repr(context))]',
        "import re",
    ),
    body("context-log", "context.log", 'context.log("one\\nrecord")\ncontext.log("two\\n")'),
    body("context-log-value", "context.log of what is no string", "context.log({'a': 1})\nreturn 1"),
    returns(
        "env",
        "working folder and hidden variables",
        '[os.getcwd() == os.environ["LAMBDA_TASK_ROOT"], "_LAMBDA_TELEMETRY_LOG_FD" in os.environ, __name__[-4:]]',
        "import os",
    ),
    returns(
        "logging-set-up",
        "what a function finds of logging",
        "[len(r.handlers), r.level, r.handlers[0].level,\n"
        "            r.handlers[0].formatter.datefmt, r.handlers[0].formatter._fmt.rstrip(), len(r.filters)]",
        "import logging\n\nr = logging.getLogger()",
    ),
    returns(
        "logging-clock", "the clock of the function's own formatters", "logging.Formatter.converter.__name__", "import logging"
    ),
    # ── errors ──
    body("raise", "an error of two lines", RAISES),
    body("raise-empty", "an error without a message", "raise Exception()"),
    case(
        "raise-custom",
        "an own class within a class, with more attributes",
        """
        class Errors:
            class MyError(Exception):
                def __init__(self, message, code):
                    super().__init__(message)
                    self.code = code

        def handler(event, context):
            raise Errors.MyError("cm", 5)
        """,
    ),
    body(
        "raise-cause",
        "an error because of another",
        'try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError("outer") from error',
    ),
    body("raise-notes", "an error with a note", 'error = ValueError("v")\nerror.add_note("a note")\nraise error'),
    body("raise-group", "several errors at once", 'raise ExceptionGroup("g", [ValueError("a"), KeyError("b")])'),
    body(
        "raise-deep",
        "through a few functions",
        "return outer(2)",
        'def outer(n):\n    if n == 0:\n        raise KeyError("k")\n    return outer(n - 1)',
    ),
    body("raise-recursion", "a stack without an end", "return handler(event, context)"),
    body("raise-string", "no exception at all", 'raise "text"'),
    body(
        "raise-bad-text",
        "an error whose __str__ fails",
        "raise Bad()",
        'class Bad(Exception):\n    def __str__(self):\n        raise RuntimeError("inner")',
    ),
    body(
        "raise-text-no-string",
        "an error whose __str__ gives no string",
        "raise Bad()",
        "class Bad(Exception):\n    def __str__(self):\n        return 5",
    ),
    body("raise-surrogate", "an error with half a character", 'raise ValueError("\\ud800")'),
    body("raise-from-exec", "frames without source lines", 'exec("def f():\\n  1 / 0\\nf()")'),
    body("raise-syntax", "a syntax error in the handler", 'exec("x = = 1")'),
    body("raise-import", "a module that is not there, in the handler", "import nope_nope"),
    body("raise-many-lines", "an expression of several lines", "return int(\n    'x'\n)"),
    body("raise-os", "an OSError", "open('/nowhere')"),
    body("raise-nameless", "an error of a class without a name", "raise type('', (Exception,), {})('m')"),
    returns("name-error", "a name that is not there", "undefined_thing"),
    body("keyboard-interrupt", "no ordinary error", 'raise KeyboardInterrupt("ki")'),
    body("base-exception", "a BaseException", "raise Odd('o')", "class Odd(BaseException):\n    pass"),
    body("exit", "sys.exit(7)", 'print("bye")\nsys.exit(7)', "import sys"),
    body("exit-text", "sys.exit with a text", 'sys.exit("why")', "import sys"),
    body("exit-none", "sys.exit()", "sys.exit()", "import sys"),
    body("exit-hard", "os._exit(7)", "os._exit(7)", "import os"),
    body("kill-self", "SIGKILL", "os.kill(os.getpid(), 9)", "import os"),
    body(
        "thread-error",
        "an error in a thread",
        't = threading.Thread(target=lambda: 1 / 0, name="mine")\nt.start()\nt.join()\nreturn "ok"',
        "import threading",
    ),
    body(
        "task-error",
        "an error in a task of asyncio",
        'asyncio.run(main())\nreturn "ok"',
        'import asyncio\n\nasync def boom():\n    raise ValueError("task")\n\n'
        "async def main():\n    asyncio.create_task(boom())\n    await asyncio.sleep(0.01)",
    ),
    # ── what is printed ──
    body(
        "print",
        "lines, stderr, a line without its end",
        'print("a", "b")\nprint("multi\\nline")\nprint("err", file=sys.stderr)\nprint()\nsys.stdout.write("tail")',
        "import sys",
    ),
    body(
        "print-order",
        "stdout and stderr in turn",
        "for n in range(5):\n    print('out', n)\n    print('err', n, file=sys.stderr)\n    os.write(1, b'raw\\n')",
        "import os, sys",
    ),
    body("print-surrogate", "half a character", 'print("\\ud800")'),
    body("print-carriage-returns", "CR and other ends of lines", "print('a\\rb\\r\\nc\\x0bd\\x85e\\u2028f')"),
    body("print-unterminated", "pieces of lines", "print('a', end='')\nprint('b', end='')\nprint('c')"),
    body(
        "write-count",
        "what write() returns",
        "return [sys.stdout.write('abc\\n'), sys.stdout.isatty(), sys.stdout.encoding]",
        "import sys",
    ),
    body(
        "not-utf8",
        "bytes that are no text",
        'os.write(1, b"\\xff\\xfe caf\\xe9\\n")\nsys.stdout.buffer.write(b"\\xe9\\n")\nsys.stdout.flush()',
        "import os, sys",
    ),
    body("child", "what a child process writes", 'subprocess.run(["sh", "-c", "echo out; echo err >&2"])', "import subprocess"),
    body("warning", "warnings.warn", 'warnings.warn("careful")', "import warnings"),
    body(
        "print-exc",
        "traceback.print_exc",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()",
        "import traceback",
    ),
    # ── what is logged ──
    case("log-levels", "each level", LEVELS, alone=True),
    body(
        "log-level-default",
        "which levels there are at first",
        'log = logging.getLogger("mine")\nlog.info("i")\nlog.warning("w")',
        "import logging",
    ),
    case(
        "log-init",
        "at load and in the handler",
        'import logging\n\nlogging.warning("init")\n\ndef handler(event, context):\n    logging.warning("invoke")\n',
        alone=True,
    ),
    body("log-values", "objects, None, arguments, several lines", VALUES, "import logging"),
    body("log-exception", "logging.exception", LOG_ERROR, "import logging"),
    body("log-exc-info", "exc_info where there is no error", 'logging.error("e", exc_info=True)', "import logging"),
    body("log-bad-arguments", "arguments that do not fit", 'logging.warning("%d", "x")\nreturn "ok"', "import logging"),
    body("log-surrogate", "half a character", 'logging.warning("\\ud800")\nreturn "ok"', "import logging"),
    body(
        "log-own-level",
        "a level of one's own",
        'logging.addLevelName(35, "NOTICE")\nlogging.log(35, "n")\nlogging.log(99, "m")',
        "import logging",
    ),
    body(
        "log-line-end",
        "a message that ends its line",
        'logging.warning("w\\n")\nlogging.warning("two\\n\\n")',
        "import logging",
    ),
    body("log-long", "a record that is longer than a pipe takes at once", 'logging.warning("x" * 10_000)', "import logging"),
    body(
        "log-basic-config",
        "basicConfig finds a handler",
        'logging.basicConfig(level=10)\nlogging.info("i")',
        "import logging",
        alone=True,
    ),
    body(
        "log-force",
        "basicConfig(force=True)",
        'logging.basicConfig(force=True, format="%(message)s")\nlogging.error("e")',
        "import logging",
        alone=True,
    ),
    body(
        "log-own-format",
        "an own format for the handler there is",
        "log = logging.getLogger()\nlog.handlers[0].setFormatter(logging.Formatter('%(aws_request_id)s %(message)s'))\n"
        "log.error('e')\nraise ValueError('v')",
        "import logging",
        alone=True,
    ),
    # ── log format JSON ──
    body("json-raise", "an error, in JSON", RAISES, **JSON),
    body("json-raise-empty", "one without a message, in JSON", "raise Exception()", **JSON),
    body("json-raise-marshal", "an answer that cannot be JSON, in JSON", "return {1j}", **JSON),
    body("json-raise-unicode", "an error that is not ASCII, in JSON", 'raise ValueError("ü \\u2028 \\U0001f680")', **JSON),
    case("json-levels", "each level, INFO by default", LEVELS_AS_SET, **JSON),
    case("json-levels-debug", "log level DEBUG", LEVELS_AS_SET, alone=True, log_level="DEBUG", **JSON),
    case("json-levels-trace", "log level TRACE", LEVELS_AS_SET, alone=True, log_level="TRACE", **JSON),
    case("json-levels-warn", "log level WARN", LEVELS_AS_SET, alone=True, log_level="WARN", **JSON),
    case("json-levels-fatal", "log level FATAL", LEVELS_AS_SET, alone=True, log_level="FATAL", **JSON),
    body("json-values", "objects, None, arguments, several lines", VALUES, "import logging", **JSON),
    body("json-exception", "logging.exception", LOG_ERROR, "import logging", **JSON),
    body("json-exc-info", "exc_info where there is no error", 'logging.error("e", exc_info=True)', "import logging", **JSON),
    body(
        "json-exc-info-value",
        "exc_info of an error that was not raised",
        'logging.error("e", exc_info=ValueError("v"))',
        "import logging",
        **JSON,
    ),
    body("json-stack-info", "stack_info", 'logging.error("e", stack_info=True)', "import logging", **JSON),
    body(
        "json-extra",
        "extra fields that cannot be JSON, and those with names that are taken",
        'logging.error("e", extra={"s": {1}, "nan": float("nan"), "level": "mine", "requestId": "r", "tenantId": "t"})',
        "import logging",
        **JSON,
    ),
    body(
        "json-dict-arguments",
        "a dict with arguments, a dict that cannot be JSON",
        'logging.error("%(a)s", {"a": 1})\nlogging.error({"x": {1}, (1,): 2} if event else {"x": {1}})',
        "import logging",
        **JSON,
    ),
    body(
        "json-own-level",
        "a level of one's own",
        'logging.addLevelName(35, "NOTICE")\nlogging.log(35, "n")\nlogging.log(99, "m")',
        "import logging",
        **JSON,
    ),
    body(
        "json-bad-arguments", "arguments that do not fit", 'logging.warning("%d", "x")\nreturn "ok"', "import logging", **JSON
    ),
    body("json-print", "what is printed stays as it is", 'print("plain")', **JSON),
    body("json-line-end", "a message that ends its line", 'logging.warning("w\\n")', "import logging", **JSON),
    # ── loading ──
    case("load-raise", "an error at load", AT_LOAD, alone=True),
    case("load-raise-json", "an error at load, in JSON", AT_LOAD, alone=True, **JSON),
    case("load-syntax", "a syntax error", "def handler(event, context)\n    return 1\n", alone=True),
    case("load-indent", "an indentation error", "def handler(event, context):\nreturn 1\n", alone=True),
    case("load-null-byte", "source that is no source", "x = '\0'\n", alone=True),
    case("load-missing-module", "a module that is not there", "import nope_nope\n", alone=True),
    case("load-missing-name", "a name that a module has not", "from json import nope\n", alone=True),
    case("load-missing-file", "the handler's module is not there", "x = 1\n", alone=True, handler="other.handler"),
    case("load-missing-handler", "the handler is not there", "x = 1\n", alone=True),
    case("load-malformed", "a handler without a dot", "x = 1\n", alone=True, handler="handler"),
    case("load-builtin", "a handler in a built-in module", "x = 1\n", alone=True, handler="sys.handler"),
    case("load-not-callable", "the handler is no function", "handler = 5\n", alone=True),
    case("load-arguments", "the handler takes one argument", "def handler(event):\n    return 1\n", alone=True),
    case("load-exit", "sys.exit(3) at load", "import sys\n\nsys.exit(3)\n", alone=True),
    case("load-interrupt", "KeyboardInterrupt at load", "raise KeyboardInterrupt('ki')\n", alone=True),
    case(
        "load-bad-text",
        "an error at load whose __str__ fails",
        'class Bad(Exception):\n    def __str__(self):\n        raise RuntimeError("inner")\n\nraise Bad()\n',
        alone=True,
    ),
    case("load-empty-text", "an error at load without a message", "raise Exception()\n", alone=True),
    case(
        "load-method",
        "a handler in a class is not found",
        "class C:\n    def handler(self, event, context):\n        return 1\n",
        alone=True,
        handler="app.C.handler",
    ),
]

# Differences that stay, and why.
DIES = "awslambdaric itself fails on it and its process ends; ours tells the error"
ACCEPTED: dict[str, str] = {
    "raise-bad-text": DIES,
    "raise-text-no-string": DIES,
    "raise-surrogate": DIES,
    "load-bad-text": DIES,
    "too-big": "awslambdaric takes the 413 for fatal and exits; ours, whose caller has been told already, goes on",
    "write-count": "awslambdaric's sys.stdout.write returns nothing; ours is Python's own",
    "log-surrogate": "awslambdaric cannot write the record, and its UnicodeEncodeError ends the handler; ours writes a ?",
    "json-exc-info": "awslambdaric looks for an error where there is none, and its AttributeError ends the handler",
    "json-levels": "without AWS_LAMBDA_LOG_LEVEL awslambdaric leaves Python's own level, WARNING; ours takes INFO for it",
}

if sys.version_info >= (3, 12):  # from there on awslambdaric writes what is not ASCII as it is
    ACCEPTED |= {
        "lone-surrogate": DIES,
        "too-deep": "the words of another JSON writer",
    }

# Where awslambdaric 3.1.1 is not as 4.2.2 is. Of the newer one nothing is known to be missing in ours but what is said above.
LEVEL_KEY = "the level of an error in JSON was called log_level"
PLAIN_VALUES = "what cannot be JSON was not made a text, and a dict was no object"
OLDER: dict[str, str] = {
    "too-big": "another text for the 413",
    "context-names": "there was no w3c()",
    **dict.fromkeys(("json-raise", "json-raise-empty", "json-raise-marshal", "json-raise-unicode"), LEVEL_KEY),
    **dict.fromkeys(("json-exc-info", "json-bad-arguments"), LEVEL_KEY),
    **dict.fromkeys(("json-values", "json-extra", "json-dict-arguments"), PLAIN_VALUES),
}

# What awslambdaric logs ahead of each error of Init, and ours does not: nobody updates a runtime here behind anyone's back.
UPDATES = (
    "LAMBDA_WARNING: Unhandled exception. The most likely cause is an issue in the function code. However, in rare cases, a"
)

# ── both sides ──


async def deploy(host: Host, folder: Path, files: dict[str, str], client: Path | None, settings: dict[str, Any]) -> Function:
    """A function in `folder` on AWS's client, which is in the folder `client`, or on our runtime if that is None."""
    for name, text in files.items():
        file = folder / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    settings = {"runtime": PYTHON, "handler": "app.handler", "timeout": 20} | settings
    if client is not None:
        wrapper = folder / "layer" / "start"
        wrapper.parent.mkdir()
        wrapper.write_text(WRAPPER.format(client=client))
        wrapper.chmod(0o755)
        environment = {**settings.get("environment", {}), "AWS_LAMBDA_EXEC_WRAPPER": "/opt/start"}
        settings |= {"layers": (str(wrapper.parent),), "environment": environment}
    return await host.deploy(folder / "code", **settings)


async def observe(function: Function, case: Case, client: Path | None) -> Observation:
    """Gives the case to a function that knows it, and then looks whether its process is still there."""
    if case.alone:
        result = await function.invoke(payload=case.event.encode())
        alive = False
        if result.error_phase != "init":
            again = await function.invoke(payload=case.event.encode())
            alive = not any(record.type == "platform.initStart" for record in again.records)
    else:
        before = (await function.invoke("pid")).check().json()
        payload = f'{{"case":{json.dumps(case.name)},"event":{case.event}}}'
        result = await function.invoke(payload=payload.encode())
        alive = (await function.invoke("pid")).check().json() == before
    task = code_of(function)
    places = {
        f"{task}/cases/{case.name}": "/var/task",
        f"{task}/dispatch.py": "/var/runtime/dispatch.py",
        task: "/var/task",
        str(ROOT / "runtimes" / "python"): "/var/runtime",
        f"{sys.base_prefix}/lib": "/var/lang/lib",
    }
    if client is not None:
        places[str(client)] = "/var/runtime"
    return Normal(places, ("/var/runtime/", '"<frozen runpy>"')).observation(result, alive=alive)


async def observe_all(host: Host, folder: Path, client: Path | None, cases: Sequence[Case]) -> dict[str, Observation]:
    """Each case on one side, in two processes at a time. folder: an empty one, for what is deployed."""
    together: dict[str, list[Case]] = {}
    for one in cases:
        together.setdefault(one.name if one.alone else f"cases {json.dumps(one.settings)}", []).append(one)
    gate = asyncio.Semaphore(2)
    found: dict[str, Observation] = {}

    async def run(number: int, group: list[Case]) -> None:
        if group[0].alone:
            files, settings = {"app.py": group[0].code}, {}
        else:
            files = {f"cases/{one.name}/app.py": one.code for one in group} | {"dispatch.py": DISPATCH}
            settings = {"handler": "dispatch.handler"}
        async with gate:
            function = await deploy(host, folder / str(number), files, client, settings | dict(group[0].settings))
            for one in group:
                found[one.name] = await observe(function, one, client)
            await function.close()

    async with asyncio.TaskGroup() as tasks:
        for number, group in enumerate(together.values()):
            tasks.create_task(run(number, group))
    return {one.name: found[one.name] for one in cases}


def without_updates(one: Observation) -> Observation:
    return replace(one, log=tuple(record for record in one.log if UPDATES not in record))


def rows(aws: dict[str, Observation], ours: dict[str, Observation]) -> list[Row]:
    """Both sides of each case, with the verdict of the tables above."""
    return [Row(one, aws[one.name], ours[one.name], ACCEPTED.get(one.name, SAME)) for one in CASES]


# ── the tests ──


def client(version: str) -> Path:
    path = ROOT / ".cache" / "clients" / f"awslambdaric-{version}"
    if not path.is_dir():
        missing = f"{path.name}: not installed: run scripts/setup dev"
        if os.environ.get("CI"):  # there it is the proof that was asked for
            pytest.fail(missing)
        pytest.skip(missing)
    return path


async def observed(folder: Path, client: Path | None, cases: Sequence[Case]) -> dict[str, Observation]:
    async with Host(isolation="process") as host:
        found = await observe_all(host, folder, client, cases)
    no_task_is_left()
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Observation]:
    """Each case on AWS's newest client."""
    return await observed(tmp_path_factory.mktemp("aws"), client(NEWEST), CASES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ours(tmp_path_factory: pytest.TempPathFactory, aws: dict[str, Observation]) -> dict[str, Observation]:
    """Each case on our runtime."""
    return await observed(tmp_path_factory.mktemp("ours"), None, CASES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def older(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Observation]:
    """Those that share a process, on AWS's older client."""
    return await observed(tmp_path_factory.mktemp("older"), client(OLDEST), [one for one in CASES if not one.alone])


@pytest.mark.parametrize("name", [one.name for one in CASES])
def test_a_case_is_the_same_on_both_sides(name: str, aws: dict[str, Observation], ours: dict[str, Observation]) -> None:
    """Or its difference is known, and still there."""
    expected = without_updates(aws[name])
    if name in ACCEPTED:
        assert ours[name] != expected, f"they no longer differ: take {name} out of ACCEPTED"
    else:
        assert ours[name] == expected, explain(expected, ours[name])


def test_the_tables_name_cases_that_are_there() -> None:
    names = [one.name for one in CASES]
    assert len(names) == len(set(names))
    assert set(ACCEPTED) | set(OLDER) <= set(names)


def test_only_errors_of_init_come_with_a_warning_that_ours_leaves_out(aws: dict[str, Observation]) -> None:
    warned = {name for name, one in aws.items() if without_updates(one) != one}
    ended = {"load-exit", "load-interrupt", "load-bad-text"}  # before it could be written
    invoked = {"load-not-callable", "load-arguments"}
    assert warned == {one.name for one in CASES if one.name.startswith("load-")} - ended - invoked


def test_the_older_client_differs_where_it_is_known_to(older: dict[str, Observation], aws: dict[str, Observation]) -> None:
    assert {name for name, one in older.items() if one != aws[name]} == set(OLDER)


def test_both_sides_make_a_table(aws: dict[str, Observation], ours: dict[str, Observation]) -> None:
    text = table(rows(aws, ours))
    assert len(text.splitlines()) == len(CASES) + 2
    assert {line.count("|") for line in text.splitlines()} == {7}
    nothing = next(line for line in text.splitlines() if line.startswith("| **nothing**"))
    assert nothing == "| **nothing**: no return | <code>null</code> | 〃 |  |  | same |"


def test_no_case_fails_by_a_slip_of_its_own(aws: dict[str, Observation]) -> None:
    """A NameError on both sides would be the same, and would show nothing."""
    slips = [name for name, one in aws.items() if one.error and "NameError" in one.error and "name" not in name]
    assert slips == []
