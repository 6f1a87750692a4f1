"""The event that a function URL makes of a request."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.control.urls.event import UrlRequest, build, joined, signed_by

ID = "abcdefghijklmnopqrstuvwxyz012345"
HOST = f"{ID}.lambda-url.us-east-1.localhost:4711"
TRACE = "Root=1-65538000-0123456789abcdef01234567"
SIGNED = "AWS4-HMAC-SHA256 Credential=AKIDX/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=abc"


def made(
    target: str = "/",
    *headers: tuple[str, str],
    method: str = "GET",
    body: bytes = b"",
    access_key: str | None = None,
    wall: float = 1_700_000_000.5,
) -> dict[str, Any]:
    request = UrlRequest(method, target, headers, body, HOST, ID, "127.0.0.9")
    event: dict[str, Any] = json.loads(build(request, request_id="rid", trace_id=TRACE, wall=wall, access_key=access_key))
    return event


@pytest.mark.catalogue("IN-120")
def test_a_plain_request_as_a_whole() -> None:
    event = made("/", ("Host", HOST), ("User-Agent", "me/1"))
    assert event["requestContext"].pop("authentication", None) is None
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {
            "host": HOST,
            "user-agent": "me/1",
            "x-amzn-trace-id": TRACE,
            "x-forwarded-for": "127.0.0.9",
            "x-forwarded-port": "4711",
            "x-forwarded-proto": "http",
        },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": ID,
            "domainName": HOST,
            "domainPrefix": ID,
            "http": {"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.9", "userAgent": "me/1"},
            "requestId": "rid",
            "routeKey": "$default",
            "stage": "$default",
            "time": "14/Nov/2023:22:13:20 +0000",
            "timeEpoch": 1_700_000_000_500,
        },
        "isBase64Encoded": False,
    }


@pytest.mark.catalogue("IN-120")
def test_path_and_query_are_as_they_were_sent() -> None:
    event = made("/pa2%Fth/a%20b/%2F?multi=foo&multi=%2Fbar&blank=&alone&sp=a+b%20c")
    assert event["rawPath"] == event["requestContext"]["http"]["path"] == "/pa2%Fth/a%20b/%2F"
    assert event["rawQueryString"] == "multi=foo&multi=%2Fbar&blank=&alone&sp=a+b%20c"
    assert event["queryStringParameters"] == {"multi": "foo,/bar", "blank": "", "alone": "", "sp": "a b c"}
    assert "queryStringParameters" not in made("/x?")
    event = made("/a?b?c=d")
    assert (event["rawPath"], event["rawQueryString"], event["queryStringParameters"]) == ("/a", "b?c=d", {"b?c": "d"})


@pytest.mark.catalogue("IN-120")
def test_headers_are_in_lower_case_and_joined() -> None:
    headers = (
        ("ExTrA-HeadErs", "VaLue"),
        ("X-Two", "1"),
        ("x-two", "2"),
        ("Connection", "keep-alive"),
        ("X-Forwarded-For", "9.9.9.9"),
    )
    event = made("/", *headers)
    assert event["headers"]["extra-headers"] == "VaLue"
    assert event["headers"]["x-two"] == "1,2"
    assert "connection" not in event["headers"]
    assert event["headers"]["x-forwarded-for"] == event["requestContext"]["http"]["sourceIp"] == "127.0.0.9"


@pytest.mark.catalogue("IN-120")
def test_cookies_are_a_list() -> None:
    assert made("/", ("Cookie", "a=1; b=2;c=x=y ;"), ("Cookie", "d=4"))["cookies"] == ["a=1", "b=2", "c=x=y", "d=4"]
    assert "cookies" not in made("/")


@pytest.mark.catalogue("IN-121")
@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/plain", b"text", True),
        ("Text/HTML; charset=utf-8", "ä".encode(), True),
        ("application/json", b'{"a": 1}', True),
        ("application/json;charset=utf-8", b"{}", True),
        ("text/plain", b"\xff\xfe", False),  # no text, whatever it says
        ("image/png", b"\x89PNG", False),
        ("application/octet-stream", b"abc", False),
        ("multipart/form-data; boundary=x", b"--x--", False),
        (None, b"abc", False),
    ],
)
def test_a_body_is_text_or_base64(kind: str | None, body: bytes, text: bool) -> None:
    event = made("/", *([("Content-Type", kind)] if kind else []), method="POST", body=body)
    assert event["isBase64Encoded"] is not text
    assert event["body"] == (body.decode() if text else base64.b64encode(body).decode())


def test_a_compressed_body_is_base64() -> None:
    event = made("/", ("Content-Type", "application/json"), ("Content-Encoding", "gzip"), method="POST", body=b"\x1f\x8b")
    assert (event["isBase64Encoded"], event["body"]) == (True, base64.b64encode(b"\x1f\x8b").decode())


def test_no_body_is_no_key() -> None:
    event = made("/", ("Content-Type", "image/png"), method="POST")
    assert ("body" in event, event["isBase64Encoded"]) == (False, False)


@pytest.mark.catalogue("IN-120", "IN-128")
def test_who_has_signed_is_told() -> None:
    context = made("/", access_key="AKIDX")["requestContext"]
    assert context["accountId"] == "123456789012"
    iam = context["authorizer"]["iam"]
    assert set(iam) == {"accessKey", "accountId", "callerId", "cognitoIdentity", "principalOrgId", "userArn", "userId"}
    assert (iam["accessKey"], iam["accountId"], iam["cognitoIdentity"]) == ("AKIDX", "123456789012", None)
    assert "authorizer" not in made("/")["requestContext"]


@pytest.mark.catalogue("IN-128")
def test_what_a_signature_is() -> None:
    assert signed_by({"authorization": SIGNED}, "") == "AKIDX"
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDX%2F20260101%2Fus-east-1%2Flambda%2Faws4_request"
    assert signed_by({}, query + "&X-Amz-Signature=abc") == "AKIDX"
    assert signed_by({}, query) is None
    for other in ("", "Bearer x", "Basic eA==", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=AKIDX/x", SIGNED[:20]):
        assert signed_by({"authorization": other}, "") is None


# ── whatever comes ──

# As aiohttp gives them: what is no UTF-8 comes as lone surrogates.
WIRE = st.binary(max_size=30).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"").decode("utf-8", "surrogateescape"))
NAMES = st.sampled_from(["X-A", "x-a", "Cookie", "cookie", "Content-Type", "Content-Encoding", "Host", "User-Agent", "Origin"])
HEADERS = st.lists(st.tuples(NAMES, WIRE), max_size=6)


@pytest.mark.catalogue("IN-120", "IN-121")
@given(WIRE, WIRE, HEADERS, st.binary(max_size=50), st.none() | st.just("AKIDX"))
def test_any_request_makes_an_event(
    path: str, query: str, headers: list[tuple[str, str]], body: bytes, access_key: str | None
) -> None:
    event = made(f"/{path}?{query}", *headers, method="POST", body=body, access_key=access_key)
    assert event["isBase64Encoded"] in (True, False)
    if body:
        sent = event["body"]
        assert (base64.b64decode(sent, validate=True) if event["isBase64Encoded"] else sent.encode()) == body
    else:
        assert "body" not in event
    assert event["rawPath"].startswith("/")
    assert all(
        isinstance(value, str) for value in [*event["headers"].values(), *event.get("queryStringParameters", {}).values()]
    )
    assert all(name == name.lower() for name in event["headers"])
    assert all(cookie and cookie == cookie.strip() for cookie in event.get("cookies", []))


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "a", "B", "Cookie", "COOKIE"]), st.text("xyz", min_size=1, max_size=3)), max_size=8
    )
)
def test_joining_loses_nothing_and_keeps_the_order(headers: list[tuple[str, str]]) -> None:
    found = joined(headers)
    assert set(found) == {name.lower() for name, _ in headers}
    for name, value in found.items():
        between = "; " if name == "cookie" else ","
        assert value.split(between) == [one for other, one in headers if other.lower() == name]


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=6))
def test_parameters_are_decoded_and_joined(pairs: list[tuple[str, str]]) -> None:
    event = made("/?" + urlencode(pairs, errors="replace"))
    wanted: dict[str, list[str]] = {}
    for name, value in pairs:
        wanted.setdefault(name, []).append(value)
    assert event["queryStringParameters"] == {name: ",".join(values) for name, values in wanted.items()}


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_authorization_is_looked_at(header: str, query: str) -> None:
    found = signed_by({"authorization": "AWS4-" + header + "Signature="}, query)
    assert found is None or found in header
