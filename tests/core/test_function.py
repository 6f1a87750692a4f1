"""A function's configuration: what Lambda would refuse is refused, with the limit in the message."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.core.errors import ConfigError
from sandbox.core.function import FunctionConfig


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        pytest.param({"memory_mb": 127}, "128 to 10240", marks=pytest.mark.catalogue("EN-070")),
        pytest.param({"memory_mb": 10241}, "128 to 10240", marks=pytest.mark.catalogue("EN-070")),
        pytest.param({"timeout": 901}, "at most 900", marks=pytest.mark.catalogue("EN-073")),
        pytest.param({"timeout": 0}, "at most 900", marks=pytest.mark.catalogue("EN-073")),
        ({"name": "a b"}, "function name 'a b'"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"handler": "x" * 129}, "at most 128"),
        ({"handler": "a b"}, "white space"),
        ({"layers": ("a",) * 6}, "at most 5"),
        ({"log_format": "XML"}, "Text, JSON"),
        ({"log_level": "INFO"}, "only with log format JSON"),
        ({"log_format": "JSON", "log_level": "LOUD"}, "TRACE, DEBUG"),
        ({"environment": {"AWS_REGION": "x"}}, "reserved"),
        ({"environment": {"A": "x"}}, "a letter, then"),
        ({"environment": {"AB": "x\0"}}, "NUL"),
    ],
)
def test_what_lambda_refuses(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FunctionConfig("code", **setting)


@pytest.mark.catalogue("EN-070", "EN-073")
def test_the_limits_themselves_are_possible_and_the_defaults_are_lambdas() -> None:
    for memory, timeout in ((128, 1), (10240, 900)):
        assert FunctionConfig("code", memory_mb=memory, timeout=timeout).memory_mb == memory
    config = FunctionConfig("code")
    assert (config.memory_mb, config.timeout, config.version) == (128, 3, "$LATEST")
    assert config.arn == "arn:aws:lambda:us-east-1:123456789012:function:function"
    assert config.log_group == "/aws/lambda/function"
