"""Names and ARNs of functions (recorded)."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.control.errors import ApiError
from sandbox.control.names import Here, Named
from tests.control.conftest import Caller
from tests.control.helpers import ARN, FAILED, INVALID, NOT_FOUND, check

HERE = Here("123456789012", "us-east-1")
PATTERN = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?"
    r"([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)


@pytest.fixture
def lean() -> bool:
    return True


@pytest.mark.parametrize(
    ("text", "name", "qualifier"),
    [
        ("f", "f", None),
        ("f:1", "f", "1"),
        ("f:$LATEST", "f", "$LATEST"),
        ("function:f", "f", None),
        ("123456789012:function:f:live", "f", "live"),
        (f"{ARN}:function:f", "f", None),
        (f"{ARN}:function:f:live", "f", "live"),
        (f"{ARN}:function", "function", None),
        ("us-east-1:123456789012:function:f", "f", None),
        ("order-handler-1", "order-handler-1", None),
        ("order-handler-1:prod", "order-handler-1", "prod"),
    ],
)
def test_forms_of_a_name(text: str, name: str, qualifier: str | None) -> None:
    assert HERE.function(text) == Named(name, qualifier)


def test_two_qualifiers_and_other_places() -> None:
    assert HERE.function("f:1", "1") == Named("f", "1")
    for text, qualifier in (
        ("f:1", "2"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:f", None),
        ("210987654321:function:f", None),
    ):
        with pytest.raises(ApiError):
            HERE.function(text, qualifier)


@pytest.mark.usefixtures("tier")
@pytest.mark.tiers("process")
@pytest.mark.catalogue("CP-003")
async def test_names_over_the_wire(caller: Caller) -> None:
    calls: list[Any] = [caller.get_function, caller.delete_function, caller.invoke]
    bad = ["my-function!", "*", "invalid-account:function:my-function", f"{ARN}:function:f:1:2", "function:f:$LATEST:extra"]
    for name in bad:
        text = f"1 validation error detected: Value '{name}' at 'functionName' {FAILED}: "
        for call in calls:
            await check(
                call(FunctionName=name),
                400,
                "ValidationException",
                f"{text}Member must satisfy regular expression pattern: {PATTERN}",
            )
    abroad = "arn:aws:lambda:eu-west-1:123456789012:function:f"
    text = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
    for call in [
        *calls,
        caller.get_function_configuration,
        caller.get_function_concurrency,
        caller.get_function_code_signing_config,
    ]:
        await check(call(FunctionName=abroad), 404, NOT_FOUND, text)
    text = "The derived qualifier from the function name does not match the specified qualifier."
    for call in calls:
        await check(call(FunctionName="f:1", Qualifier="2"), 400, INVALID, text)
    for qualifier, shown in (("1", ":1"), ("a", ":a"), ("$LATEST", ":$LATEST"), ("$latest", ":$latest")):
        await check(
            caller.get_function(FunctionName="f", Qualifier=qualifier),
            404,
            NOT_FOUND,
            f"Function not found: {ARN}:function:f{shown}",
        )
    await check(caller.get_function(FunctionName="a" * 65), 404, NOT_FOUND, f"Function not found: {ARN}:function:{'a' * 65}")
    await check(
        caller.delete_function(FunctionName="f", Qualifier="$latest"), 404, NOT_FOUND, f"Function not found: {ARN}:function:f"
    )
    text = (
        rf"1 validation error detected: Value 'invalid!' at 'qualifier' {FAILED}: "
        rf"Member must satisfy regular expression pattern: \$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"
    )
    for call in calls:
        await check(call(FunctionName="f", Qualifier="invalid!"), 400, "ValidationException", text)
