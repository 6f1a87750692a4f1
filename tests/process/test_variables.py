"""The variables of runtime and extension."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.core.errors import ConfigError
from sandbox.core.function import RESERVED_VARIABLES, FunctionConfig
from sandbox.process.variables import DUMMY_CREDENTIALS, Identity, Places, extension_variables, runtime_variables

AWS_PLACES = Places("/var/task", "/opt", "/var/runtime", "/tmp", "/var/lang")
STREAM = "2026/11/23/[$LATEST]0123456789abcdef0123456789abcdef"


def variables(
    *,
    places: Places = AWS_PLACES,
    credentials: dict[str, str] = DUMMY_CREDENTIALS,
    extra: dict[str, str] | None = None,
    start: str = "on-demand",
    **settings: Any,
) -> dict[str, str]:
    function = FunctionConfig("/code", **{"name": "hello", "runtime": "python3.13", "handler": "app.handler", **settings})
    return runtime_variables(function, places, Identity("127.0.0.1:9001", STREAM, start), credentials, extra or {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("_HANDLER", "app.handler", marks=pytest.mark.catalogue("EN-003")),
        pytest.param("AWS_EXECUTION_ENV", "AWS_Lambda_python3.13", marks=pytest.mark.catalogue("EN-005")),
        pytest.param("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128", marks=pytest.mark.catalogue("EN-006")),
        pytest.param("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST", marks=pytest.mark.catalogue("EN-007")),
        pytest.param("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand", marks=pytest.mark.catalogue("EN-008")),
        pytest.param("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/hello", marks=pytest.mark.catalogue("EN-009")),
        pytest.param("AWS_LAMBDA_LOG_STREAM_NAME", STREAM, marks=pytest.mark.catalogue("EN-009")),
        pytest.param("LAMBDA_TASK_ROOT", "/var/task", marks=pytest.mark.catalogue("EN-012")),
        pytest.param("LAMBDA_RUNTIME_DIR", "/var/runtime", marks=pytest.mark.catalogue("EN-012")),
        pytest.param("TZ", ":UTC", marks=pytest.mark.catalogue("EN-013")),
        pytest.param("LANG", "en_US.UTF-8", marks=pytest.mark.catalogue("EN-013")),
        pytest.param("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin", marks=pytest.mark.catalogue("EN-014")),
        pytest.param(
            "LD_LIBRARY_PATH",
            "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
            marks=pytest.mark.catalogue("EN-015"),
        ),
        pytest.param("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR", marks=pytest.mark.catalogue("EN-017")),
        pytest.param("AWS_XRAY_DAEMON_ADDRESS", "169.254.100.1:2000", marks=pytest.mark.catalogue("EN-017")),
        pytest.param("_AWS_XRAY_DAEMON_ADDRESS", "169.254.100.1", marks=pytest.mark.catalogue("EN-017")),
        pytest.param("_AWS_XRAY_DAEMON_PORT", "2000", marks=pytest.mark.catalogue("EN-017")),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
        ("AWS_LAMBDA_FUNCTION_NAME", "hello"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "sandbox"),
    ],
)
def test_the_runtime_gets(name: str, value: str) -> None:
    assert variables()[name] == value


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"memory_mb": 10240}, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "10240"),
        ({"version": "2"}, "AWS_LAMBDA_FUNCTION_VERSION", "2"),
        ({"region": "eu-central-1"}, "AWS_DEFAULT_REGION", "eu-central-1"),
        ({"start": "provisioned-concurrency"}, "AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency"),
        ({"log_format": "JSON", "log_level": "DEBUG"}, "AWS_LAMBDA_LOG_LEVEL", "DEBUG"),
        ({"log_format": "Text"}, "AWS_LAMBDA_LOG_FORMAT", "Text"),
    ],
)
def test_settings_show(settings: dict[str, Any], name: str, value: str) -> None:
    assert variables(**settings)[name] == value


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        pytest.param({}, "_X_AMZN_TRACE_ID", marks=pytest.mark.catalogue("EN-004")),
        pytest.param({"runtime": "provided.al2023"}, "AWS_EXECUTION_ENV", marks=pytest.mark.catalogue("EN-005")),
        pytest.param({"runtime": None}, "AWS_EXECUTION_ENV", marks=pytest.mark.catalogue("EN-005")),
        pytest.param({}, "AWS_LAMBDA_LOG_FORMAT", marks=pytest.mark.catalogue("EN-011")),
        pytest.param({}, "AWS_LAMBDA_LOG_LEVEL", marks=pytest.mark.catalogue("EN-011")),
        pytest.param({"log_format": "JSON"}, "AWS_LAMBDA_LOG_LEVEL", marks=pytest.mark.catalogue("EN-011")),
        pytest.param({}, "AWS_LAMBDA_MAX_CONCURRENCY", marks=pytest.mark.catalogue("EN-023")),
        ({"credentials": {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}}, "AWS_SESSION_TOKEN"),
    ],
)
def test_is_absent(settings: dict[str, Any], name: str) -> None:
    assert name not in variables(**settings)


def test_a_custom_runtime_has_no_language_folder() -> None:
    found = variables(places=AWS_PLACES._replace(language=None), runtime=None)
    assert found["PATH"] == "/usr/local/bin:/usr/bin/:/bin:/opt/bin"
    assert found["LD_LIBRARY_PATH"].startswith("/lib64:/usr/lib64:/var/runtime:")


def test_nothing_of_the_hosts_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret of the host")
    monkeypatch.setenv("LD_PRELOAD", "/lib/evil.so")
    found = variables()
    assert "AWS_PROFILE" not in found
    assert "LD_PRELOAD" not in found
    assert "secret of the host" not in found.values()


@pytest.mark.catalogue("EN-002", "EN-024")
@pytest.mark.parametrize(
    "name", ["LANG", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "AWS_XRAY_CONTEXT_MISSING", "AWS_XRAY_DAEMON_ADDRESS", "TZ"]
)
def test_the_users_value_wins_for_what_is_not_reserved(name: str) -> None:
    assert variables(environment={name: "mine"}, extra={"PYTHONPATH": "/var/runtime"})[name] == "mine"


@pytest.mark.catalogue("EN-024")
def test_the_platforms_value_wins_for_what_is_reserved() -> None:
    """Credentials and an `extra` of ours cannot change it either."""
    reserved = dict.fromkeys(RESERVED_VARIABLES, "theirs")
    found = variables(credentials={**DUMMY_CREDENTIALS, **reserved, "AWS_ACCESS_KEY_ID": "real"}, extra=reserved)
    plain = variables()
    for name in ("AWS_REGION", "AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_FUNCTION_NAME"):
        assert found[name] == plain[name]
    assert found["AWS_ACCESS_KEY_ID"] == "real"


@pytest.mark.catalogue("EN-001")
@pytest.mark.parametrize("name", sorted(RESERVED_VARIABLES))
def test_a_reserved_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="reserved"):
        FunctionConfig("/code", environment={name: "x"})


@pytest.mark.catalogue("EN-001")
def test_the_reserved_names_are_those_of_aws() -> None:
    listed = (
        "_HANDLER _X_AMZN_TRACE_ID AWS_DEFAULT_REGION AWS_REGION AWS_EXECUTION_ENV AWS_LAMBDA_FUNCTION_NAME"
        " AWS_LAMBDA_FUNCTION_MEMORY_SIZE AWS_LAMBDA_FUNCTION_VERSION AWS_LAMBDA_INITIALIZATION_TYPE"
        " AWS_LAMBDA_LOG_GROUP_NAME AWS_LAMBDA_LOG_STREAM_NAME AWS_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY"
        " AWS_SESSION_TOKEN AWS_LAMBDA_RUNTIME_API LAMBDA_TASK_ROOT LAMBDA_RUNTIME_DIR AWS_LAMBDA_MAX_CONCURRENCY"
        " AWS_LAMBDA_METADATA_API AWS_LAMBDA_METADATA_TOKEN"
    )
    assert set(listed.split()) == RESERVED_VARIABLES


@pytest.mark.catalogue("EN-018", "EN-019")
@pytest.mark.parametrize("name", ["A", "", "_X", "1A", "A-B", "A B", "ÄB", "AB\n"])
def test_a_name_out_of_rule_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        FunctionConfig("/code", environment={name: "x"})


@pytest.mark.catalogue("EN-019")
def test_values_are_literal() -> None:
    assert variables(environment={"AB": "$HOME ${PATH} `id` %s"})["AB"] == "$HOME ${PATH} `id` %s"


@pytest.mark.catalogue("EN-020")
def test_keys_and_values_take_4096_bytes_at_most() -> None:
    FunctionConfig("/code", environment={"KEY": "é" * 2046 + "x"})
    with pytest.raises(ConfigError, match="4097 bytes"):
        FunctionConfig("/code", environment={"KEY": "é" * 2047})


@pytest.mark.catalogue("EX-014", "EN-025")
def test_an_extension_gets_all_but_what_is_the_runtimes() -> None:
    runtime = variables(environment={"CUSTOM": "kept"})
    left_out = set(runtime) - set(extension_variables(runtime))
    assert left_out == {
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "_AWS_XRAY_DAEMON_ADDRESS",
        "_AWS_XRAY_DAEMON_PORT",
        "_HANDLER",
    }


@pytest.mark.catalogue("EX-015")
def test_an_extension_gets_no_name_that_begins_with_an_underscore() -> None:
    found = extension_variables({"_FOO": "1", "FOO": "2", "AWS_ACCESS_KEY_ID": "3"})
    assert found == {"FOO": "2", "AWS_ACCESS_KEY_ID": "3"}
