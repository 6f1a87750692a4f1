"""What AWS's own Ruby client does with 53 small handlers, and what our runtime does with them: the same, but for a table.

cases/ruby.json was recorded from the client 3.1.3 on Ruby 3.1.7, with its log descriptor, on a Runtime API that was played to
it: what it posted (its response or error), what it logged, and the status that it ended with, if it did. It cannot be fetched
here (no gem registry), so the record stands in for it. Left out of it: frames that are not the function's own, times, ids,
addresses, and the content type that it sends with JSON (application/x-www-form-urlencoded, by mistake; ours is
application/json). Lines of stdout and stderr follow the framed records there, so logs are compared without their order.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sandbox import Host
from sandbox.host.result import InvokeResult
from tests.conftest import ROOT, MakeFolder
from tests.runtimes.conftest import code_of, in_tier_process, printed
from tests.runtimes.ruby import deploying, replaced, ruby

pytestmark = in_tier_process

CASES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("cases").joinpath("ruby.json").read_text())
FOREIGN = (f"{ROOT}/runtimes/ruby/", "<internal:")  # frames
# Their texts are those of a version of json, or of Ruby's parser.
ONLY_ON_3_1 = {"lone-surrogate", "unserialisable", "cycle", "deep", "load-syntax", "name-error", "load-missing-handler"}

NAMED = "our record says which handler it was; in AWS's the name is lost (its older versions have it)"
EARLY = "one event or one message that is no JSON is no reason for an error of Init, and for an end with 252"
DIFFERENCES: dict[str, tuple[set[str], str]] = {
    "lone-surrogate": ({"post", "error", "log", "ends"}, EARLY),
    "raise-bad-text": ({"post", "error", "log", "ends"}, EARLY),
    "load-error": ({"log"}, NAMED),
    "load-syntax": ({"log"}, NAMED),
    "load-missing-dependency": ({"log"}, NAMED),
    "load-exit": ({"log"}, NAMED),
}


def expected(case: dict[str, Any]) -> dict[str, Any]:
    """A case as it was recorded. A process that is killed, or leaves at once, posts nothing."""
    said = {key: case[key] for key in ("post", "payload", "error") if key in case}
    if case.get("post") == "response":
        said["content_type"] = case.get("content_type", "application/json")
    if "post" not in case:
        said["error"] = f"exit status {case['exit']}" if case["exit"] > 0 else "signal: killed"
    if "error" in case and "stackTrace" in case["error"]:
        case["error"]["errorMessage"] = _bare(case["error"]["errorMessage"])
    return said | {"log": sorted(case.get("log", [])), "ends": "exit" in case}


def _bare(message: str) -> str:
    """Without the line of json's own source that some versions begin with, and the snippet of source that Ruby 3.1 ends with.

    AWS's rubies are newer than 3.1, and have no such snippets in messages.
    """
    return re.sub(r"^\d+: ", "N: ", message).partition("\n\n")[0]


def observed(result: InvokeResult, root: str, ends: bool) -> dict[str, Any]:
    """What ours did, in the same words."""

    def normal(text: str) -> str:
        text = text.replace(root, "DIR").replace(result.request_id, "ID")
        text = re.sub(r"\[\d{4}-\d\d-\d\dT[\d:.]+ #\d+\]", "[TIME #PID]", re.sub(r"0x[0-9a-f]{16}", "0x…", text))
        return "\n".join(line for line in text.split("\n") if not line.startswith(FOREIGN))

    log = [normal(record) for record in printed(result)]
    text = normal(result.payload.decode())
    said: dict[str, Any] = {"ends": ends}
    if result.function_error is None:
        short = text if len(text) < 1000 else f"{text[:2]}… {len(result.payload)} bytes"
        said |= {"post": "response", "payload": short, "content_type": result.content_type}
    elif result.error_phase == "invoke":
        said["error"] = json.loads(text)["errorMessage"].rpartition("error: ")[2]
    else:
        document = json.loads(text)
        log = ["ERROR DOCUMENT" if line.startswith("{") and json.loads(line) == document else line for line in log]
        document["stackTrace"] = [line for line in document["stackTrace"] if line.startswith("DIR/")]
        if len(document["stackTrace"]) == 100:
            document["stackTrace"][1:] = ["…"]
        document["errorMessage"] = _bare(document["errorMessage"])
        said |= {"post": "init/error" if result.error_phase == "init" else "error", "error": document}
        if result.error_phase == "init":  # it was tried twice
            assert log[: len(log) // 2] == log[len(log) // 2 :]
            log = log[len(log) // 2 :]
    return said | {"log": sorted(log)}


def test_the_table_names_only_cases_that_there_are() -> None:
    assert set(DIFFERENCES) <= set(CASES)
    assert set(CASES) >= ONLY_ON_3_1


@pytest.mark.parametrize("name", CASES)
async def test_ours_does_what_aws_does(host: Host, folder: MakeFolder, name: str) -> None:
    version = ruby().number[:2]
    if not (3, 1) <= version <= (3, 3):
        pytest.skip(f"recorded on Ruby 3.1; the texts of {ruby().version} are others")
    if name in ONLY_ON_3_1 and version != (3, 1):
        pytest.skip(f"recorded on Ruby 3.1; this text is another one on {ruby().version}")
    case = CASES[name]
    event = case.get("event", "{}").encode()
    function = await deploying(host, folder)(case["app"], handler=case.get("handler", "app.handler"))
    result = await function.invoke(payload=event, trace_id="Root=1-1")
    ends = result.error_phase == "init" or replaced(await function.invoke(payload=event))
    ours, aws = observed(result, code_of(function), ends), expected(case)
    fields, reason = DIFFERENCES.get(name, (set(), ""))
    same = {key for key in ours.keys() & aws.keys() if ours[key] == aws[key]}
    different = (ours.keys() | aws.keys()) - same
    assert {key: ours.get(key) for key in different - fields} == {key: aws.get(key) for key in different - fields}
    assert different == fields, f"no difference any more, so it goes from the table: {reason}"
