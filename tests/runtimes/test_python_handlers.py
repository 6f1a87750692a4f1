"""The managed Python runtime: how a handler is found, called and answered."""

from __future__ import annotations

import re
import sys
import textwrap

import pytest

from sandbox import Host
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from tests.conftest import MakeFolder
from tests.runtimes.conftest import (
    EVALUATE,
    TRACE,
    Deploy,
    code_of,
    in_both_tiers,
    in_tier_process,
    printed,
)

pytestmark = in_tier_process

# ── loading ──


@in_both_tiers
@pytest.mark.catalogue("EN-003", "EN-012", "LC-009")
@pytest.mark.parametrize(
    ("handler", "file"),
    [
        ("app.handler", "app.py"),
        ("sub/app.handler", "sub/app.py"),
        ("package.app.handler", "package/app.py"),
        ("package.inner/app.handler", "package/inner/app.py"),
        ("main.handler", "main.py"),  # names that our own files have, too
        ("bootstrap.handler", "bootstrap.py"),
    ],
)
async def test_a_handler_is_found_and_runs_in_the_code_folder(host: Host, folder: MakeFolder, handler: str, file: str) -> None:
    app = """
    import os
    def handler(event, context):
        with open("data.txt") as data:
            return [os.getcwd(), os.environ["LAMBDA_TASK_ROOT"], os.environ["_HANDLER"], __file__, data.read()]
    """
    code = folder(**{file: textwrap.dedent(app), "data.txt": "beside it", "package/__init__.py": ""})
    function = await host.deploy(code, runtime="python", handler=handler, timeout=20)
    result = await function.invoke()
    root = code_of(function)
    assert result.check().json() == [root, root, handler, f"{root}/{file}", "beside it"]


async def test_without_a_name_it_is_the_handler_that_the_console_makes(host: Host, folder: MakeFolder) -> None:
    code = folder(lambda_function_py="def lambda_handler(event, context):\n    return 'found'\n")
    function = await host.deploy(code, runtime="python", timeout=20)
    assert (await function.invoke()).check().json() == "found"


async def test_a_function_may_be_any_callable(deploy: Deploy) -> None:
    function = await deploy("import functools\nhandler = functools.partial(lambda a, event, context: [a, event], 1)\n")
    assert (await function.invoke({"b": 2})).check().json() == [1, {"b": 2}]


@pytest.mark.catalogue("LC-035")
async def test_what_is_outside_the_handler_runs_once_and_is_kept(deploy: Deploy) -> None:
    app = """
    import os
    print("loading")
    seen = []
    def handler(event, context):
        seen.append(event)
        return [os.getpid(), seen]
    """
    function = await deploy(app)
    first, second = await function.invoke(1), await function.invoke(2)
    pid = first.check().json()[0]
    assert [first.json(), second.check().json()] == [[pid, [1]], [pid, [1, 2]]]
    assert [printed(first), printed(second)] == [["loading"], []]


@in_both_tiers
@pytest.mark.catalogue("LC-036")
async def test_a_thread_that_was_frozen_goes_on_in_the_next_invoke(deploy: Deploy) -> None:
    app = """
    import threading, time
    thread = threading.Thread(target=time.sleep, args=[0.2], daemon=True)
    def handler(event, context):
        if event == "start":
            thread.start()
        else:
            thread.join(10)
        return thread.is_alive()
    """
    function = await deploy(app)
    (await function.invoke("start")).check()
    assert (await function.invoke("join")).check().json() is False


# ── the context ──


@in_both_tiers
@pytest.mark.catalogue("RT-022", "RT-024", "EN-006", "EN-007", "EN-009", "EN-080", "TL-061")
async def test_every_documented_field_of_the_context(deploy: Deploy) -> None:
    app = """
    import os
    names = ["function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb", "aws_request_id",
             "log_group_name", "log_stream_name", "client_context", "tenant_id"]
    def handler(event, context):
        told = {name: getattr(context, name) for name in names}
        identity = context.identity
        told["identity"] = [identity.cognito_identity_id, identity.cognito_identity_pool_id]
        return [told, context.get_remaining_time_in_millis(), dict(os.environ)]
    """
    function = await deploy(app, name="orders", memory_mb=256, region="eu-central-1", version="7", timeout=20)
    result = await function.invoke()
    told, left, variables = result.check().json()
    assert 0 < left <= 20_000
    stream = told.pop("log_stream_name")
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[7\][0-9a-f]{32}", stream)
    assert told == {
        "function_name": "orders",
        "function_version": "7",
        "invoked_function_arn": "arn:aws:lambda:eu-central-1:123456789012:function:orders",
        "memory_limit_in_mb": "256",
        "aws_request_id": result.request_id,
        "log_group_name": "/aws/lambda/orders",
        "client_context": None,
        "identity": [None, None],
        "tenant_id": None,
    }
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", result.request_id)
    assert variables["AWS_LAMBDA_LOG_STREAM_NAME"] == stream
    assert result.executed_version == "7"
    [start] = [record.record for record in result.records if record.type == "platform.initStart"]
    assert (start["instanceId"], start["instanceMaxMemory"]) == (stream, 256)


@pytest.mark.catalogue("RT-026", "RT-027", "RT-028", "RT-033")
async def test_what_the_caller_sends_along(deploy: Deploy) -> None:
    app = """
    def handler(event, context):
        both = context.client_context
        if both is None:
            return None
        client, identity = both.client, context.identity
        return {
            "client": [client.installation_id, client.app_title, client.app_version_name,
                       client.app_version_code, client.app_package_name],
            "custom": both.custom, "env": both.env,
            "identity": [identity.cognito_identity_id, identity.cognito_identity_pool_id],
            "tenant": context.tenant_id, "id": context.aws_request_id,
        }
    """
    function = await deploy(app)
    client = {"installation_id": "i", "app_title": "bücher", "app_version_name": "1.0", "app_version_code": "10"}
    request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    result = await function.invoke(
        client_context={"client": client, "custom": {"a": [1]}, "env": {"locale": "de"}},
        cognito_identity={"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"},
        tenant_id="blue",
        request_id=request_id,
    )
    assert result.check().json() == {
        "client": ["i", "bücher", "1.0", "10", None],
        "custom": {"a": [1]},
        "env": {"locale": "de"},
        "identity": ["id", "pool"],
        "tenant": "blue",
        "id": request_id,
    }
    assert (await function.invoke()).check().json() is None  # nothing of it is left over


@pytest.mark.catalogue("EN-004", "RT-025")
async def test_the_trace_id_is_set_for_each_event_and_not_before(deploy: Deploy) -> None:
    app = """
    import os
    at_import = os.environ.get("_X_AMZN_TRACE_ID")
    def handler(event, context):
        return [at_import, os.environ.get("_X_AMZN_TRACE_ID")]
    """
    function = await deploy(app)
    assert (await function.invoke(trace_id=TRACE)).check().json() == [None, TRACE]
    at_import, made_up = (await function.invoke()).check().json()
    assert at_import is None
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", made_up)


# ── events and results ──


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-050", "IN-025", "IN-021")
async def test_events_and_results_of_any_kind_pass(deploy: Deploy) -> None:
    function = await deploy("def handler(event, context):\n    return event\n")
    for event in ({"ä": "日本 🎉", "n": [1, 2.5, None, True]}, "text", 0, False, [], {}):
        result = await function.invoke(event)
        assert result.check().json() == event
        assert result.function_error is None
        assert result.content_type == "application/json"
    assert (await function.invoke(payload=b"null")).check().payload == b"null"


@pytest.mark.catalogue("RT-050", "RT-052", "IN-025")
@pytest.mark.parametrize(
    ("expression", "payload", "content_type"),
    [
        ("None", b"null", "application/json"),
        ("b'\\xff\\0raw'", b"\xff\0raw", "application/unknown"),
        ("'ü'", b'"\\u00fc"' if sys.version_info < (3, 12) else '"ü"'.encode(), "application/json"),
        ("decimal.Decimal('1.5')", b"1.5", "application/json"),
        ("{1: (2, float('nan'))}", b'{"1": [2, NaN]}', "application/json"),
        pytest.param(
            "[decimal.Decimal('1.10'), decimal.Decimal('0.12345678901234567890')]",
            b"[1.10, 0.12345678901234567890]",
            "application/json",
        ),
        pytest.param(
            "Point(1, 2)",
            b'{"x": 1, "y": 2}',
            "application/json",
        ),
        pytest.param(
            "{'a': b'x'}",
            b'{"a": "x"}',
            "application/json",
        ),
    ],
)
async def test_a_result_is_written_as_aws_writes_it(deploy: Deploy, expression: str, payload: bytes, content_type: str) -> None:
    """The payloads are those of awslambdaric 4.2.2, which was asked."""
    result = await (await deploy(EVALUATE)).invoke(expression)
    assert (result.payload, result.content_type, result.function_error) == (payload, content_type, None)


@pytest.mark.catalogue("RT-090", "RT-095", "IN-021")
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{1, 2}", "Unable to marshal response: Object of type set is not JSON serializable"),
        ("(a := [], a.append(a))[0]", "Unable to marshal response: Circular reference detected"),
        ("{(1, 2): 3}", "Unable to marshal response: keys must be str, int, float, bool or None, not tuple"),
    ],
)
async def test_a_result_that_is_no_json(deploy: Deploy, expression: str, message: str) -> None:
    function = await deploy(EVALUATE)
    result = await function.invoke(expression)
    assert result.function_error == "Unhandled"
    told = {"errorMessage": message, "errorType": "Runtime.MarshalError", "requestId": result.request_id, "stackTrace": []}
    assert result.json() == told
    assert (await function.invoke("1")).check().json() == 1


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-057", "RT-058", "RT-059", "EN-077")
async def test_6_mib_both_ways_and_one_byte_too_many(deploy: Deploy) -> None:
    app = """
    import os
    def handler(event, context):
        print(os.getpid())
        return "x" * (event - 2) if isinstance(event, int) else event
    """
    function = await deploy(app)
    payload = b'"' + b"a" * (6 * MIB - 2) + b'"'
    echoed = await function.invoke(payload=payload)
    assert echoed.check().payload == payload
    whole = await function.invoke(PAYLOAD_LIMIT)
    assert len(whole.check().payload) == PAYLOAD_LIMIT
    large = await function.invoke(PAYLOAD_LIMIT + 1)
    assert large.function_error == "Unhandled"
    assert large.json()["errorType"] == "Function.ResponseSizeTooLarge"
    after = await function.invoke(2)
    assert after.check().json() == ""
    assert printed(echoed) == printed(whole) == printed(large) == printed(after)  # one process answered them all
