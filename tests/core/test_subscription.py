"""What may be asked for in PUT /2022-07-01/telemetry and PUT /2020-08-15/logs, and what is said of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.core.errors import Refused
from sandbox.core.subscription import LOGS, TELEMETRY, Subscription, parse

URI = "http://sandbox.localdomain:4243/telemetry"
HTTP = {"protocol": "HTTP", "URI": URI}
ERRORS = {TELEMETRY: "ValidationError", LOGS: "Logs.ValidationError"}
NOTHING: Any = object()


def body(**changes: Any) -> bytes:
    """A good body with changes; NOTHING takes a key out."""
    document = {"schemaVersion": "2022-12-13", "types": ["platform"], "destination": HTTP} | changes
    return json.dumps({key: value for key, value in document.items() if value is not NOTHING}).encode()


def http(uri: Any, **more: Any) -> dict[str, Any]:
    return {"protocol": "HTTP", "URI": uri, **more}


def refusal(data: bytes, api: str = TELEMETRY, reserved: frozenset[int] = frozenset()) -> str:
    with pytest.raises(Refused) as caught:
        parse(data, api, reserved)
    assert (caught.value.status, caught.value.error_type) == (400, ERRORS[api])
    return caught.value.message


@pytest.mark.catalogue("TL-004", "TL-007", "TL-010", "TL-030", "TL-031", "TL-032", "TL-034")
def test_a_plain_subscription_has_the_documented_defaults() -> None:
    assert parse(body(), TELEMETRY) == Subscription(
        api=TELEMETRY,
        schema="2022-12-13",
        types=("platform",),
        protocol="HTTP",
        host="sandbox.localdomain",
        port=4243,
        path="/telemetry",
        method="POST",
        max_items=10_000,
        max_bytes=262_144,
        timeout_ms=1_000,
    )


# ── schemaVersion ──


@pytest.mark.catalogue("TL-004")
@pytest.mark.parametrize("version", ["2022-07-01", "2022-12-13", "2025-01-29"])
def test_schema_versions_of_the_telemetry_api(version: str) -> None:
    assert parse(body(schemaVersion=version), TELEMETRY).schema == version


@pytest.mark.catalogue("TL-004", "TL-012")
@pytest.mark.parametrize(
    "version", [NOTHING, None, "", "2020-08-15", "2021-03-18", "2023-01-01", " 2022-07-01", 20220701, [], {}]
)
def test_the_telemetry_api_has_no_other_schema_version_and_needs_one(version: Any) -> None:
    assert "schemaVersion" in refusal(body(schemaVersion=version))


@pytest.mark.catalogue("TL-005")
@pytest.mark.parametrize(("version", "schema"), [(NOTHING, "2020-08-15"), ("2020-08-15",) * 2, ("2021-03-18",) * 2])
def test_schema_versions_of_the_logs_api(version: Any, schema: str) -> None:
    assert parse(body(schemaVersion=version), LOGS).schema == schema


@pytest.mark.catalogue("TL-005", "TL-012")
@pytest.mark.parametrize("version", ["2022-07-01", "2022-12-13", "2025-01-29", "", 1, False])
def test_the_logs_api_has_no_schema_version_of_the_other(version: Any) -> None:
    assert "schemaVersion" in refusal(body(schemaVersion=version), LOGS)


# ── types ──


@pytest.mark.catalogue("TL-006")
@pytest.mark.parametrize("types", [["platform"], ["extension", "function"], ["function", "platform", "extension"]])
def test_types_are_kept_in_their_order(types: list[str]) -> None:
    assert parse(body(types=types), TELEMETRY).types == tuple(types)


@pytest.mark.catalogue("TL-006")
@pytest.mark.parametrize("types", [[], NOTHING, None, {}, "platform", 1])
def test_types_should_not_be_empty(types: Any) -> None:
    assert refusal(body(types=types)) == "types should not be empty"


@pytest.mark.catalogue("TL-006")
@pytest.mark.parametrize("wrong", ["Platform", "platform.start", "", "logs", None, 1, ["platform"], {"platform": 1}])
def test_an_unknown_type_is_named(wrong: Any) -> None:
    message = refusal(body(types=["platform", wrong]))
    assert "types" in message
    assert json.dumps(wrong) in message


def test_a_type_that_is_named_twice_is_one_type() -> None:
    assert parse(body(types=["platform", "platform"]), TELEMETRY).types == ("platform",)


# ── destination ──


@pytest.mark.catalogue("TL-007")
@pytest.mark.parametrize("protocol", ["http", "Http", "tcp", "HTTPS", "UDP", "", None, NOTHING, 1, ["HTTP"]])
def test_a_protocol_is_http_or_tcp_in_upper_case(protocol: Any) -> None:
    destination = {"URI": URI, "port": 4243} | ({} if protocol is NOTHING else {"protocol": protocol})
    assert "destination.protocol" in refusal(body(destination=destination))


@pytest.mark.catalogue("TL-007")
@pytest.mark.parametrize("destination", [NOTHING, None, [], "HTTP", 1, {}])
def test_a_destination_is_an_object(destination: Any) -> None:
    assert "destination" in refusal(body(destination=destination))


@pytest.mark.catalogue("TL-007")
@pytest.mark.parametrize("port", [1, 80, 9000, 9002, 65535])
def test_tcp_takes_a_port(port: int) -> None:
    for more in ({}, {"URI": "http://nobody.asks:1/"}):
        wanted = parse(body(destination={"protocol": "TCP", "port": port, **more}), TELEMETRY)
        assert (wanted.protocol, wanted.port) == ("TCP", port)


@pytest.mark.catalogue("TL-007")
@pytest.mark.parametrize("port", [0, -1, 65536, 10**30, 4243.0, "4243", True, None, NOTHING, [4243], float("nan")])
def test_a_port_is_a_whole_number_that_tcp_has(port: Any) -> None:
    destination = {"protocol": "TCP"} | ({} if port is NOTHING else {"port": port})
    assert "destination.port" in refusal(body(destination=destination))


@pytest.mark.catalogue("TL-007")
def test_tcp_takes_a_uri_with_a_port_too() -> None:
    wanted = parse(body(destination={"protocol": "TCP", "URI": "tcp://sandbox.localdomain:4243"}), TELEMETRY)
    assert (wanted.protocol, wanted.port) == ("TCP", 4243)
    for wrong in ("tcp://sandbox.localdomain", "http://sandbox.localdomain:4243", "tcp://localhost:4243", "tcp://sandbox:0"):
        refusal(body(destination={"protocol": "TCP", "URI": wrong}))


@pytest.mark.catalogue("TL-007")
@pytest.mark.parametrize("uri", [NOTHING, None, "", 1, [], {}, ["http://sandbox:1"]])
def test_http_needs_a_uri(uri: Any) -> None:
    destination = {"protocol": "HTTP", "port": 4243} | ({} if uri is NOTHING else {"URI": uri})
    assert "destination.URI" in refusal(body(destination=destination))


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize("host", ["sandbox.localdomain", "sandbox", "sandbox.local.domain", "SANDBOX.localdomain"])
def test_a_host_is_the_sandbox(host: str) -> None:
    assert parse(body(destination=http(f"http://{host}:8080")), TELEMETRY).host.lower() == host.lower()


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "169.254.169.254",
        "example.com",
        "sandbox.localdomain.example.com",
        "sandbox.",
        "xsandbox",
        "sandbox%2elocaldomain",
        "",
        "[sandbox]",
        "sandbox,sandbox",
    ],
)
def test_no_other_host_gets_telemetry(host: str) -> None:
    refusal(body(destination=http(f"http://{host}:8080/")))


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize(
    "uri", ["http://sandbox.localdomain", "http://sandbox.localdomain/x", "http://sandbox:/", "http://sandbox?8080"]
)
def test_a_port_has_to_be_in_the_uri(uri: str) -> None:
    assert refusal(body(destination=http(uri, port=8080))) == "URI port is not provided"


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize("port", ["0", "65536", "-1", "+80", "80a", "80:81", "٨٠", "9" * 5000, " 80", "0x50"])
def test_a_port_in_a_uri_is_one_that_tcp_has(port: str) -> None:
    refusal(body(destination=http(f"http://sandbox.localdomain:{port}/")))


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize("scheme", ["https", "tcp", "ftp", "file", "httpx", "unix", "javascript"])
def test_the_scheme_is_told_before_the_host(scheme: str) -> None:
    for host in ("sandbox.localdomain", "example.com"):
        assert refusal(body(destination=http(f"{scheme}://{host}:8080/"))) == "Only 'http' scheme is supported."


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize(
    "uri", ["//sandbox:8080/", "sandbox:8080", "/x", "sandbox.localdomain:8080/x", "http:sandbox:8080", "http:///x"]
)
def test_a_uri_is_absolute(uri: str) -> None:
    refusal(body(destination=http(uri)))


@pytest.mark.catalogue("TL-008")
@pytest.mark.parametrize("user", ["user@", "user:secret@", "@", ":@", "example.com:80@", "a@b@"])
def test_user_information_is_refused(user: str) -> None:
    refusal(body(destination=http(f"http://{user}sandbox.localdomain:8080/")))


@pytest.mark.catalogue("TL-008", "TL-010")
@pytest.mark.parametrize("bad", ["\r\nX-Evil: 1", "\n", "\r", "\t", "\0", " ", "\x7f", "\x1f", "é", "日", "\u2028", "\ud800"])
@pytest.mark.parametrize(
    "uri", ["http://sandbox:8080/a{}b", "http://sandbox{}:8080/", "http://sandbox:80{}80/", "{}http://sandbox:8080/"]
)
def test_characters_that_could_forge_a_request_are_refused(uri: str, bad: str) -> None:
    assert "destination.URI" in refusal(body(destination=http(uri.format(bad))))


@pytest.mark.catalogue("TL-010")
@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a/b/", "/a/b/"),
        ("?x=1", "/?x=1"),
        ("/a?x=1&y=%20", "/a?x=1&y=%20"),
        ("/a#fragment", "/a"),
        ("/%0d%0aX:1", "/%0d%0aX:1"),
        ("//a", "//a"),
        ("/a;b", "/a;b"),
    ],
)
def test_the_path_is_honoured(rest: str, path: str) -> None:
    assert parse(body(destination=http(f"http://sandbox.localdomain:8080{rest}")), TELEMETRY).path == path


@pytest.mark.catalogue("TL-011")
@pytest.mark.parametrize("destination", [http("http://sandbox:9001/"), {"protocol": "TCP", "port": 9001}])
def test_the_port_of_the_api_takes_no_telemetry(destination: dict[str, Any]) -> None:
    assert "9001" in refusal(body(destination=destination))
    assert "9001" in refusal(body(destination=destination), LOGS, frozenset({4444}))


@pytest.mark.catalogue("TL-011")
def test_neither_does_the_port_that_it_really_listens_on() -> None:
    assert "4243" in refusal(body(), reserved=frozenset({4243}))
    assert "4243" in refusal(body(destination={"protocol": "TCP", "port": 4243}), reserved=frozenset({4243}))


@pytest.mark.catalogue("TL-034")
def test_the_logs_api_may_put() -> None:
    for method in ("POST", "PUT"):
        assert parse(body(schemaVersion="2021-03-18", destination=http(URI, method=method)), LOGS).method == method
    for method in ("put", "GET", "", None, 1, []):
        assert "destination.method" in refusal(body(schemaVersion="2021-03-18", destination=http(URI, method=method)), LOGS)
    assert parse(body(destination=http(URI, method="PUT")), TELEMETRY).method == "POST"


# ── buffering ──

RANGES = {"maxItems": (1_000, 10_000), "maxBytes": (262_144, 1_048_576), "timeoutMs": (25, 30_000)}
FIELDS = {"maxItems": "max_items", "maxBytes": "max_bytes", "timeoutMs": "timeout_ms"}
ROWS = pytest.mark.catalogue("TL-030", "TL-031", "TL-032")


@ROWS
@pytest.mark.parametrize("name", RANGES)
def test_the_bounds_of_buffering_are_in_it(name: str) -> None:
    for value in RANGES[name]:
        assert getattr(parse(body(buffering={name: value}), TELEMETRY), FIELDS[name]) == value


@ROWS
@pytest.mark.parametrize("name", RANGES)
def test_what_is_beyond_the_bounds_is_refused_with_them(name: str) -> None:
    least, most = RANGES[name]
    for value in (least - 1, most + 1, 0, -1, 10**40, least + 0.5, float(least), str(least), True, [], {}, float("inf")):
        for api, version in ((TELEMETRY, "2022-07-01"), (LOGS, "2021-03-18")):
            text = refusal(body(schemaVersion=version, buffering={name: value}), api)
            assert text == f"{name} should be between {least} and {most}"


@ROWS
@pytest.mark.parametrize("buffering", [NOTHING, None, {}, {"maxItems": None, "maxBytes": None, "timeoutMs": None}])
def test_buffering_that_is_left_out_has_its_defaults(buffering: Any) -> None:
    wanted = parse(body(buffering=buffering), TELEMETRY)
    assert (wanted.max_items, wanted.max_bytes, wanted.timeout_ms) == (10_000, 262_144, 1_000)


@pytest.mark.parametrize("buffering", [[], 0, False, "", "x", 1])
def test_buffering_is_an_object(buffering: Any) -> None:
    assert "buffering" in refusal(body(buffering=buffering))


# ── the whole ──


@pytest.mark.catalogue("TL-012")
@pytest.mark.parametrize("api", [TELEMETRY, LOGS])
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'"x"', b"1", b"NaN", b"\xff", b"\xef\xbb\xbf{}", b"{}x", b"[" * 100_000, b"1" * 5000, b"\0"],
)
def test_what_is_no_json_object_is_refused(data: bytes, api: str) -> None:
    refusal(data, api)


@pytest.mark.catalogue("TL-012")
def test_several_faults_are_told_at_once() -> None:
    text = refusal(body(schemaVersion="1999-01-01", types=[], destination=http("http://sandbox/"), buffering={"maxItems": 1}))
    told = [
        "schemaVersion",
        "URI port is not provided",
        "types should not be empty",
        "maxItems should be between 1000 and 10000",
    ]
    places = [text.find(fault) for fault in told]  # the URI before the types, as in AWS's own example
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.catalogue("TL-012")
def test_several_faults_of_buffering_are_told_at_once() -> None:
    text = refusal(body(buffering={"maxItems": 1, "maxBytes": 1, "timeoutMs": 1}))
    assert all(name in text for name in RANGES)


def test_what_is_not_known_is_left_alone() -> None:
    more = {"extra": {"x": [1]}, "destination": {**HTTP, "encoding": "JSON", "y": None}}
    assert parse(body(**more), TELEMETRY) == parse(body(), TELEMETRY)


@pytest.mark.catalogue("TL-012")
@pytest.mark.parametrize("key", ["schemaVersion", "types", "protocol", "URI", "port", "method"])
def test_nesting_of_any_depth_is_refused_in_words(key: str) -> None:
    for depth in [*range(1, 1000), 5000, 16_000]:
        deep = "[" * depth + "]" * depth
        place = f'"{key}":{deep}' if key in ("schemaVersion",) else f'"types":[{deep}],"destination":{{"protocol":"TCP"}}'
        if key in ("protocol", "URI", "port", "method"):
            protocol = '"TCP"' if key == "port" else '"HTTP"'
            place = f'"destination":{{"protocol":{protocol},"{key}":{deep}}}'
        refusal(f"{{{place}}}".encode(), LOGS if key == "method" else TELEMETRY)


def test_a_long_value_is_quoted_in_part() -> None:
    assert len(refusal(body(types=["x" * 60_000]))) < 1000
    assert len(refusal(body(destination=http("http://" + "x" * 60_000)))) < 1000


def test_a_long_port_is_quoted_in_part() -> None:
    assert len(refusal(body(destination=http("http://sandbox:" + "x" * 60_000)))) < 1000


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["HTTP", "TCP", URI]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PORTS = st.integers(-1, 70_000).map(str) | st.text(max_size=6)
URIS = st.builds(
    "{}://{}{}:{}{}".format,
    st.sampled_from(["http", "HTTP", "tcp", "https", ""]),
    st.sampled_from(["", "", "", "u@", "u:p@", "["]),
    st.sampled_from(["sandbox", "sandbox.localdomain", "localhost", "", "[::1]", "]"]) | st.text(max_size=5),
    PORTS,
    st.sampled_from(["", "/", "/x?y", "?", "#"]) | st.text(max_size=5),
)
DESTINATIONS = st.fixed_dictionaries(
    {},
    optional={
        "protocol": st.sampled_from(["HTTP", "TCP"]) | ANY,
        "URI": URIS | ANY,
        "port": st.integers(-1, 70_000) | ANY,
        "method": st.sampled_from(["PUT", "POST"]) | ANY,
    },
)
NUMBERS = st.sampled_from([24, 25, 1000, 10_000, 262_144, 1_048_576, 1_048_577]) | ANY
BUFFERING = st.fixed_dictionaries({}, optional={"maxItems": NUMBERS, "maxBytes": NUMBERS, "timeoutMs": NUMBERS})
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.sampled_from(["2020-08-15", "2021-03-18", "2022-07-01", "2022-12-13", "2025-01-29"]) | ANY,
        "types": st.lists(st.sampled_from(["platform", "function", "extension"]) | ANY, max_size=4) | ANY,
        "destination": DESTINATIONS | ANY,
        "buffering": BUFFERING | ANY,
    },
)


def good_or_refused(data: bytes, api: str) -> None:
    try:
        wanted = parse(data, api)
    except Refused:
        assert refusal(data, api)
        return
    assert wanted.api == api
    assert wanted.types
    assert set(wanted.types) <= {"platform", "function", "extension"}
    assert wanted.protocol in ("HTTP", "TCP")
    assert wanted.host in ("sandbox", "sandbox.localdomain", "sandbox.local.domain")
    assert 1 <= wanted.port <= 65535
    assert wanted.port != 9001
    assert wanted.path.startswith("/")
    assert wanted.path.isascii()
    assert wanted.path.isprintable()
    assert " " not in wanted.path
    assert wanted.method in ("POST", "PUT")
    assert 1_000 <= wanted.max_items <= 10_000
    assert 262_144 <= wanted.max_bytes <= 1_048_576
    assert 25 <= wanted.timeout_ms <= 30_000


@pytest.mark.catalogue("TL-004", "TL-005", "TL-006", "TL-007", "TL-008", "TL-011", "TL-012", "TL-030", "TL-031", "TL-032")
@given(DOCUMENTS | ANY, st.sampled_from([TELEMETRY, LOGS]))
@example({"types": [[["x"]]], "destination": {"protocol": {}, "method": {}}}, LOGS)
def test_any_json_is_a_subscription_or_a_refusal(document: Any, api: str) -> None:
    good_or_refused(json.dumps(document).encode(), api)


@given(st.binary(max_size=200), st.sampled_from([TELEMETRY, LOGS]))
def test_any_bytes_are_a_subscription_or_a_refusal(data: bytes, api: str) -> None:
    good_or_refused(data, api)
