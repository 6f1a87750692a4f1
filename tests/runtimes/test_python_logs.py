"""The managed Python runtime: what it prints and logs."""

from __future__ import annotations

import json
import re

import pytest

from tests.runtimes.conftest import (
    EVALUATE,
    Deploy,
    code_of,
    in_both_tiers,
    in_tier_process,
    printed,
)

pytestmark = in_tier_process

# ── logs ──


@in_both_tiers
@pytest.mark.catalogue("TL-052")
async def test_stdout_stderr_and_children_are_logged_in_order(deploy: Deploy) -> None:
    app = """
    import os, subprocess, sys
    def handler(event, context):
        for number in range(50):
            print(f"out {number}")
            print(f"err {number}", file=sys.stderr)
            os.write(1 + number % 2, b"raw %d\\n" % number)
        subprocess.run(["sh", "-c", "echo child; echo child err >&2"])
        print("two\\nlines\\n")
        os.write(1, b"\\xff\\n")
    """
    result = await (await deploy(app)).invoke()
    expected = [line for n in range(50) for line in (f"out {n}", f"err {n}", f"raw {n}")]
    expected += ["child", "child err", "two", "lines", "", "\N{REPLACEMENT CHARACTER}"]
    assert printed(result) == expected
    start, end = f"START RequestId: {result.request_id} Version: $LATEST", f"END RequestId: {result.request_id}"
    assert result.log[1:-1] == [start, *expected, end]
    assert {record.request_id for record in result.records if record.type == "function"} == {result.request_id}


async def test_print_and_logging_are_told_in_order(deploy: Deploy) -> None:
    app = """
    import logging
    def handler(event, context):
        for number in range(200):
            print(f"print {number}")
            logging.warning("logged %d", number)
    """
    result = await (await deploy(app)).invoke()
    words = [line.split("\t")[-1] for line in printed(result)]
    assert words == [word for n in range(200) for word in (f"print {n}", f"logged {n}")]


async def test_a_line_without_its_end_belongs_to_the_invoke_that_wrote_it(deploy: Deploy) -> None:
    function = await deploy("def handler(event, context):\n    print('of', event, end='')\n")
    assert [printed(await function.invoke(event)) for event in (1, 2)] == [["of 1"], ["of 2"]]


async def test_a_line_without_its_end_is_not_lost_when_the_process_ends(deploy: Deploy) -> None:
    result = await (await deploy(EVALUATE)).invoke("print('almost', end=''), os._exit(1)")
    assert printed(result)[0] == "almost"


@pytest.mark.catalogue("TL-055", "EN-026")
async def test_a_record_of_logging_stays_one_record(deploy: Deploy) -> None:
    app = """
    import logging
    logging.getLogger().setLevel("INFO")
    logging.warning("in init")
    def handler(event, context):
        logging.getLogger("mine").info("one %s\\nrecord", "long")
        logging.debug("left out")
    """
    result = await (await deploy(app)).invoke()
    init, record = printed(result)
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"\[WARNING\]\t{time}\t\tin init", init)
    assert re.fullmatch(rf"\[INFO\]\t{time}\t{result.request_id}\tone long\nrecord", record)


@pytest.mark.catalogue("TL-055")
async def test_context_log_writes_one_record(deploy: Deploy) -> None:
    result = await (await deploy(EVALUATE)).invoke("context.log('one\\nrecord')")
    assert printed(result) == ["one\nrecord"]


@in_both_tiers
async def test_a_very_long_record_shows_no_frame_head(deploy: Deploy) -> None:
    """AWS cuts records at 256 KiB; whatever is done here, the text is what was logged and nothing else."""
    result = await (await deploy(EVALUATE)).invoke("logging.warning('z' * 1_500_000)")
    assert re.fullmatch(r"\[WARNING\]\t\S+\t\S+\tz{1500000}", "".join(printed(result)))


@in_both_tiers
@pytest.mark.catalogue("EN-011", "TL-054")
async def test_json_records(deploy: Deploy) -> None:
    app = """
    import logging
    def handler(event, context):
        logging.getLogger("mine").info("said %s\\ntwice", "ü", extra={"order": 7, "thing": {1}})
        logging.debug("left out: INFO is the default")
    """
    function = await deploy(app, log_format="JSON")
    result = await function.invoke(tenant_id="blue")
    [line] = printed(result)
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("timestamp"))
    assert told == {
        "level": "INFO",
        "message": "said ü\ntwice",
        "logger": "mine",
        "requestId": result.request_id,
        "tenantId": "blue",
        "order": 7,
        "thing": "{1}",
    }


@pytest.mark.catalogue("EN-011")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("TRACE", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("WARN", ["WARNING", "ERROR", "CRITICAL"]),
        ("ERROR", ["ERROR", "CRITICAL"]),
        ("FATAL", ["CRITICAL"]),
    ],
)
async def test_levels_filter_json_records_and_nothing_else(deploy: Deploy, level: str, expected: list[str]) -> None:
    app = """
    import logging, os
    def handler(event, context):
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logging, level)("said")
        print("printed")
        return os.environ["AWS_LAMBDA_LOG_FORMAT"], os.environ["AWS_LAMBDA_LOG_LEVEL"]
    """
    function = await deploy(app, log_format="JSON", log_level=level)
    result = await function.invoke()
    assert result.check().json() == ["JSON", level]
    lines = printed(result)
    lines.remove("printed")
    assert [json.loads(line)["level"] for line in lines] == expected


@pytest.mark.catalogue("TL-054", "EN-011")
async def test_an_error_in_json(deploy: Deploy) -> None:
    app = "def handler(event, context):\n    raise LookupError('no\\nthing')\n"
    result = await (await deploy(app, log_format="JSON")).invoke()
    [line] = printed(result)
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told.pop("timestamp"))
    assert told == {"level": "ERROR", **result.json()}


LOG_EXCEPTION = """
import logging
def handler(event, context):
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("mine").exception("it failed")
"""


@pytest.mark.catalogue("TL-054")
async def test_logger_exception_in_json(deploy: Deploy) -> None:
    function = await deploy(LOG_EXCEPTION, log_format="JSON")
    result = await function.invoke()
    [line] = printed(result)
    told = json.loads(line)
    assert isinstance(told.pop("stackTrace"), list)  # see the next test
    del told["timestamp"]
    assert told == {
        "level": "ERROR",
        "message": "it failed",
        "logger": "mine",
        "errorType": "ZeroDivisionError",
        "errorMessage": "division by zero",
        "location": f"{code_of(function)}/app.py:handler:7",
        "requestId": result.request_id,
    }


async def test_the_stack_trace_in_json_has_one_string_per_frame(deploy: Deploy) -> None:
    function = await deploy(LOG_EXCEPTION, log_format="JSON")
    [line] = printed(await function.invoke())
    [frame] = json.loads(line)["stackTrace"]
    assert frame.startswith(f'  File "{code_of(function)}/app.py", line 5, in handler\n    1 / 0\n')


async def test_an_empty_message_in_json_is_still_there(deploy: Deploy) -> None:
    [line] = printed(await (await deploy(EVALUATE, log_format="JSON")).invoke("logging.info('')"))
    assert json.loads(line)["message"] == ""


async def test_a_dict_is_an_object_in_json(deploy: Deploy) -> None:
    [line] = printed(await (await deploy(EVALUATE, log_format="JSON")).invoke("logging.info({'order': 7})"))
    assert json.loads(line)["message"] == {"order": 7}


LOOK_PY = """
import json, os

found = []
for fd in range(3, 256):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
print(json.dumps([found, "_LAMBDA_TELEMETRY_LOG_FD" in os.environ]))
"""


@pytest.mark.catalogue("EN-026", "TL-055")
async def test_the_log_descriptor_is_hidden_from_the_handler_and_from_children(deploy: Deploy) -> None:
    app = """
    import json, logging, os, subprocess, sys
    at_import = os.environ.get("_LAMBDA_TELEMETRY_LOG_FD")
    def handler(event, context):
        logging.warning("one\\nrecord")
        command = [sys.executable, "-S", "look.py"]
        child = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, check=True)
        return [at_import, os.environ.get("_LAMBDA_TELEMETRY_LOG_FD"), json.loads(child.stdout)]
    """
    result = await (await deploy(app, {"look.py": LOOK_PY})).invoke()
    assert result.check().json() == [None, None, [[], False]]
    assert printed(result)[0].endswith("\tone\nrecord")  # so there is such a descriptor
