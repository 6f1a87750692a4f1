"""The custom runtime in bash that is shipped in bootstrap/bash, as its README says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sandbox import Host
from sandbox.core.limits import PAYLOAD_LIMIT
from sandbox.host.host import Function
from tests.conftest import ROOT, needs_bash
from tests.runtimes.conftest import in_both_tiers, in_tier_process, platform_error, printed, put

pytestmark = in_tier_process

BASH = ROOT / "bootstrap" / "bash"


@pytest.fixture(autouse=True)
def _bash() -> None:
    needs_bash()


async def deploy(host: Host, tmp_path: Path, script: str, handler: str = "function.handler") -> Function:
    """A copy of the shipped folder with a function.sh of the test's."""
    code = tmp_path / "bash"
    shutil.copytree(BASH, code)
    (code / "function.sh").write_text(script)
    return await host.deploy(code, handler=handler, timeout=20)


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-050", "LC-009")
async def test_the_folder_as_it_is_echoes_and_logs(host: Host) -> None:
    function = await host.deploy(BASH, handler="function.handler", timeout=20)
    payload = '{"hello": "wörld",  "n": [1, null]}'.encode()
    result = await function.invoke(payload=payload)
    assert result.check().json()["echo"] == {"hello": "wörld", "n": [1, None]}
    [logged] = printed(result)
    assert logged.startswith("an event of ")
    assert result.log[1:3] == [f"START RequestId: {result.request_id} Version: $LATEST", logged]
    assert result.log[3] == f"END RequestId: {result.request_id}"


@pytest.mark.catalogue("RT-021", "RT-050")
async def test_the_event_is_on_standard_input_byte_by_byte_and_any_bytes_are_an_answer(host: Host, tmp_path: Path) -> None:
    function = await deploy(host, tmp_path, "handler() { cat; printf 'a\\0b\\377'; }")
    result = await function.invoke(payload=b'{ "a" :\n"\\u0000 \xc3\xa9" }\n\n')
    assert result.check().payload == b'{ "a" :\n"\\u0000 \xc3\xa9" }\n\na\0b\xff'


@pytest.mark.catalogue("EN-004", "RT-025")
async def test_the_trace_id_is_that_of_each_event(host: Host, tmp_path: Path) -> None:
    script = 'before=${_X_AMZN_TRACE_ID-absent}\nhandler() { printf \'["%s","%s"]\' "$before" "$_X_AMZN_TRACE_ID"; }'
    function = await deploy(host, tmp_path, script)
    for trace in ("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", "Root=1-5759e988-bd862e3fe1be46a994272794;Sampled=0"):
        assert (await function.invoke(trace_id=trace)).check().json() == ["absent", trace]


@in_both_tiers
@pytest.mark.catalogue("RT-090", "RT-095", "RT-096")
async def test_a_status_is_a_function_error_and_the_same_shell_takes_the_next_event(host: Host, tmp_path: Path) -> None:
    script = 'handler() { echo "pid $$" >&2; [ "$1" = "{}" ] && return 3; printf 1; }'
    function = await deploy(host, tmp_path, script)
    failed = await function.invoke({})
    assert failed.function_error == "Unhandled"
    assert failed.json() == {"errorType": "Function.Failed", "errorMessage": "handler ended with status 3"}
    assert failed.report is not None
    assert failed.report.status == "success"
    after = await function.invoke(2)
    assert after.check().payload == b"1"
    assert printed(after) == printed(failed)  # the same pid


@in_both_tiers
@pytest.mark.catalogue("LC-074", "LC-070")
async def test_a_handler_that_exits_ends_the_runtime_and_the_next_event_finds_a_new_one(host: Host, tmp_path: Path) -> None:
    function = await deploy(host, tmp_path, 'handler() { [ "$1" = "{}" ] && exit 5; printf \'"%s"\' "$$"; }')
    before = (await function.invoke(1)).check().json()
    ended = await function.invoke({})
    assert ended.json() == platform_error(ended, "Runtime.ExitError", "Runtime exited with error: exit status 5")
    assert (await function.invoke(1)).check().json() != before


@pytest.mark.catalogue("RT-057", "RT-058", "RT-059")
async def test_an_answer_that_is_too_large_is_told_to_the_caller_and_the_shell_goes_on(host: Host, tmp_path: Path) -> None:
    """curl asks with `Expect: 100-continue` first, and takes the 413 as it comes."""
    function = await deploy(host, tmp_path, 'handler() { echo "pid $$" >&2; head -c "$1" /dev/zero; }')
    large = await function.invoke(PAYLOAD_LIMIT + 1)
    assert large.json()["errorType"] == "Function.ResponseSizeTooLarge"
    fits = await function.invoke(PAYLOAD_LIMIT)
    assert fits.check().payload == bytes(PAYLOAD_LIMIT)
    assert printed(fits) == printed(large)[:1]


@pytest.mark.catalogue("RT-102", "RT-103", "LC-013")
@pytest.mark.parametrize(
    ("script", "handler", "error_type", "message"),
    [
        ("true", "missing.handler", "Runtime.ImportModuleError", "there is no missing.sh in the code folder"),
        ("true", "function.other", "Runtime.HandlerNotFound", "function.sh defines no function other"),
        ("true", "handler", "Runtime.MalformedHandlerName", "the handler is named FILE.FUNCTION, not handler"),
        ("return 4", "function.handler", "Runtime.ImportModuleError", "function.sh ended with status 4"),
    ],
)
async def test_what_cannot_be_loaded(
    host: Host, tmp_path: Path, script: str, handler: str, error_type: str, message: str
) -> None:
    function = await deploy(host, tmp_path, script, handler)
    result = await function.invoke()
    assert result.json() == {"errorType": error_type, "errorMessage": message}
    assert (result.error_type, result.error_phase) == (error_type, "init")
    assert printed(result) == [f"{error_type}: {message}"] * 2  # once ahead of the invoke, once inside it


@pytest.mark.catalogue("RT-103", "LC-071")
async def test_after_a_failed_init_the_next_invoke_begins_anew(host: Host, tmp_path: Path) -> None:
    function = await deploy(host, tmp_path, "true")
    assert (await function.invoke()).json()["errorType"] == "Runtime.HandlerNotFound"
    put(function, "function.sh", "handler() { printf 1; }")
    assert (await function.invoke()).check().payload == b"1"
