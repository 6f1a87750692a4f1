"""What becomes of a function's answer, and what CORS adds to it."""

from __future__ import annotations

import base64
import json
import re
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.control.urls import cors
from sandbox.control.urls.answer import PRELUDE_TYPE, Answer, BadAnswer, Prelude, buffered

JSON = ("Content-Type", "application/json")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def of(document: Any) -> Answer:
    return buffered(json.dumps(document).encode())


def why(document: Any) -> str:
    with pytest.raises(BadAnswer) as found:
        of(document)
    return str(found.value)


def fields(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers}


def can_be_sent(answer: Answer) -> bool:
    """Whether each field is one line, with a name that HTTP knows as one."""
    assert 200 <= answer.status <= 599
    assert isinstance(answer.body, bytes)
    for name, value in answer.headers:
        assert TOKEN.fullmatch(name)
        assert not re.search("[\r\n\0]", value)
    return True


# ── buffered ──


@pytest.mark.catalogue("IN-122")
@pytest.mark.parametrize(
    ("result", "body"),
    [
        ({"hello": "world"}, b'{"hello":"world"}'),
        ("hello", b'"hello"'),
        (3, b"3"),
        (3.1, b"3.1"),
        (True, b"true"),
        (None, b"null"),
        (["hello", 3, True], b'["hello",3,true]'),
        ({"body": "x", "headers": {"a": "b"}}, b'{"body":"x","headers":{"a":"b"}}'),
        ("ä", '"ä"'.encode()),
    ],
)
def test_a_result_without_a_status_is_sent_as_json(result: Any, body: bytes) -> None:
    assert of(result) == Answer(200, [JSON], body)


@pytest.mark.catalogue("IN-122", "IN-123")
def test_a_result_with_a_status_is_mapped() -> None:
    assert of({"statusCode": 200, "body": "body123"}) == Answer(200, [JSON], b"body123")
    assert of({"statusCode": 201}) == Answer(201, [JSON], b"")
    assert of({"statusCode": 200, "body": '{"a": 1}'}).body == b'{"a": 1}'
    assert of({"statusCode": 200, "body": {"a": [1]}}).body == b'{"a":[1]}'
    assert of({"statusCode": 200, "body": "ä"}).body == "ä".encode()
    answer = of(
        {"statusCode": 200, "headers": {"content-type": "text/html", "My-Custom": "x"}, "cookies": ["a=1; Path=/", "b=2"]}
    )
    assert answer.headers == [
        ("content-type", "text/html"),
        ("My-Custom", "x"),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
    ]


def test_a_body_in_base64_is_decoded() -> None:
    data = bytes(range(256))
    encoded = base64.b64encode(data).decode()
    assert of({"statusCode": 200, "body": encoded, "isBase64Encoded": True}).body == data
    assert of({"statusCode": 200, "body": encoded, "isBase64Encoded": False}).body == encoded.encode()
    for body in ("no!", "abc", "ä"):
        assert "base64" in why({"statusCode": 200, "body": body, "isBase64Encoded": True})


def test_values_that_are_no_text() -> None:
    answer = of(
        {"statusCode": 200, "headers": {"a": 3, "b": 1.5, "c": True, "d": None, "content-length": "99", "Connection": "x"}}
    )
    assert fields(answer) == {"a": "3", "b": "1.5", "c": "true", "content-type": "application/json"}


@pytest.mark.catalogue("IN-124")
@pytest.mark.parametrize(("status", "sent"), [(200, 200), (599, 599), ("418", 418), (204.0, 204)])
def test_statuses_that_can_be_sent(status: Any, sent: int) -> None:
    assert of({"statusCode": status}).status == sent


@pytest.mark.catalogue("IN-124")
@pytest.mark.parametrize(
    "status", [199, 600, 0, -200, 99, "", "abc", "2²0", True, None, [], {}, 200.5, 1e300, "20000", "02000"]
)
def test_statuses_that_cannot(status: Any) -> None:
    assert "statusCode" in why({"statusCode": status})


@pytest.mark.parametrize(
    "document",
    [
        {"headers": []},
        {"headers": "x"},
        {"headers": {"a": []}},
        {"headers": {"a": {}}},
        {"headers": {"a": "x\r\nSet-Cookie: y=1"}},
        {"headers": {"a": "x\0"}},
        {"headers": {"a b": "x"}},
        {"headers": {"": "x"}},
        {"headers": {"ä": "x"}},
        {"headers": {"a:": "x"}},
        {"cookies": "a=1"},
        {"cookies": {"a": 1}},
        {"cookies": [None]},
        {"cookies": ["a\nb"]},
    ],
)
def test_what_no_header_can_carry(document: dict[str, Any]) -> None:
    text = why({"statusCode": 200, **document})
    assert "\n" not in text


@pytest.mark.parametrize("payload", [b"", b"hello", b"{", b"\xff", b'{"statusCode": 200', b"[" * 100_000])
def test_what_is_no_json(payload: bytes) -> None:
    with pytest.raises(BadAnswer):
        buffered(payload)


@pytest.mark.parametrize(
    "form", ["%s", '{"statusCode":200,"body":%s}', '{"statusCode":%s}', '{"statusCode":200,"headers":{"a":%s}}']
)
def test_any_depth_is_an_answer_or_a_bad_one(form: str) -> None:
    """Near the limit, reading may go well and writing not."""
    limit = sys.getrecursionlimit()
    for depth in range(limit - 150, limit + 20):
        try:
            answer = buffered((form % ("[" * depth + "]" * depth)).encode())
        except BadAnswer:
            continue
        assert can_be_sent(answer)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
TEXTS = st.text(max_size=8) | st.sampled_from(["x-a", "Content-Type", "content-type", "a\r\nb", "\ud800", "Set-Cookie"])
MAPPED = st.fixed_dictionaries(
    {"statusCode": st.integers(150, 650) | st.integers(200, 599).map(str) | JSONS},
    optional={
        "headers": st.dictionaries(TEXTS, TEXTS | JSONS, max_size=4) | JSONS,
        "cookies": st.lists(TEXTS | JSONS, max_size=3) | JSONS,
        "body": TEXTS | JSONS,
        "isBase64Encoded": st.booleans() | JSONS,
    },
)


@pytest.mark.catalogue("IN-122", "IN-124")
@given(MAPPED | JSONS)
def test_whatever_a_function_returns(document: Any) -> None:
    try:
        answer = of(document)
    except BadAnswer:
        return
    assert can_be_sent(answer)
    assert "content-type" in fields(answer)


@given(st.binary(max_size=60))
def test_whatever_bytes_it_answers(payload: bytes) -> None:
    try:
        answer = buffered(payload)
    except BadAnswer:
        return
    assert can_be_sent(answer)
    json.loads(answer.body)


# ── the prelude of a stream ──


def fed(pieces: list[bytes], content_type: str | None = PRELUDE_TYPE) -> tuple[int, list[tuple[str, str]], bytes] | str:
    """Status, headers and body; or why not."""
    prelude = Prelude(content_type)
    body = b""
    try:
        for piece in pieces:
            body += prelude.feed(piece)
        answer = prelude.whole()
    except BadAnswer as error:
        return str(error)
    return answer.status, answer.headers, body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)] or [data]


@pytest.mark.catalogue("IN-126", "IN-123")
def test_a_prelude_tells_status_headers_and_cookies() -> None:
    head = json.dumps({"statusCode": 418, "headers": {"x-a": "1"}, "cookies": ["a=1", "b=2"]}).encode()
    headers = [("x-a", "1"), ("Content-Type", "application/octet-stream"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    body = b"\0\0 body \0\0\0\0\0\0\0\0 more"
    assert fed([head + b"\0" * 8 + body]) == (418, headers, body)
    assert fed([bytes([one]) for one in head + b"\0" * 8 + body]) == (418, headers, body)
    assert fed([b"{}" + b"\0" * 8]) == (200, [("Content-Type", "application/octet-stream")], b"")


def test_a_stream_without_a_prelude() -> None:
    assert fed([b"{}" + b"\0" * 8, b"x"], "text/plain") == (200, [("Content-Type", "text/plain")], b"{}" + b"\0" * 8 + b"x")
    assert fed([], None) == (200, [("Content-Type", "application/octet-stream")], b"")
    assert fed([b"{}" + b"\0" * 8 + b"x"], PRELUDE_TYPE + "; charset=utf-8") == (
        200,
        [("Content-Type", "application/octet-stream")],
        b"x",
    )


@pytest.mark.parametrize("head", [b"", b"x", b"[]", b'"a"', b'{"statusCode": 99}', b'{"headers": []}', b"\xff", b"[" * 100_000])
def test_a_prelude_that_is_none(head: bytes) -> None:
    assert isinstance(fed([head + b"\0" * 8 + b"body"]), str)


@pytest.mark.parametrize("pieces", [[], [b"{}"], [b"{}" + b"\0" * 7]])
def test_a_stream_that_ends_within_its_prelude(pieces: list[bytes]) -> None:
    assert "ended" in str(fed(pieces))


@pytest.mark.parametrize("more", [0, 1024 * 1024])
def test_a_long_prelude_is_judged_the_same_in_any_pieces(more: int) -> None:
    data = json.dumps({"headers": {"a": "x" * (600_000 + more)}}).encode() + b"\0" * 8 + b"body"
    assert fed([data]) == fed(cut(data, [len(data) - 12, 700_000]))
    assert isinstance(fed([data]), str) == bool(more)


HEADS = st.one_of(MAPPED, st.dictionaries(st.sampled_from(["headers", "cookies", "x"]), JSONS), JSONS).map(
    lambda document: json.dumps(document).encode()
) | st.binary(max_size=20)


@given(HEADS, st.integers(0, 12), st.binary(max_size=30), st.lists(st.integers(0, 400), max_size=12))
def test_a_prelude_in_any_pieces_is_the_same(head: bytes, nulls: int, body: bytes, places: list[int]) -> None:
    data = head + b"\0" * nulls + body
    whole = fed([data])
    assert fed(cut(data, places)) == whole
    if not isinstance(whole, str):
        assert can_be_sent(Answer(whole[0], whole[1], whole[2]))


# ── CORS ──

ASKED = {"origin": "http://a.example", "access-control-request-method": "PUT", "access-control-request-headers": "x-a"}
ALL: dict[str, Any] = {
    "AllowOrigins": ["http://a.example", "http://b.example"],
    "AllowMethods": ["GET", "PUT"],
    "AllowHeaders": ["x-a", "x-b"],
    "AllowCredentials": True,
    "ExposeHeaders": ["x-c", "x-d"],
    "MaxAge": 0,
}


@pytest.mark.catalogue("IN-127")
def test_what_a_preflight_is() -> None:
    assert cors.is_preflight("OPTIONS", ASKED)
    assert not cors.is_preflight("GET", ASKED)
    for missing in ("origin", "access-control-request-method"):
        assert not cors.is_preflight("OPTIONS", {name: value for name, value in ASKED.items() if name != missing})


@pytest.mark.catalogue("IN-127")
def test_a_preflight_is_told_all_that_is_allowed() -> None:
    assert dict(cors.preflight(ALL, ASKED)) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "http://a.example",
        "Access-Control-Allow-Headers": "x-a,x-b",
        "Access-Control-Allow-Methods": "GET,PUT",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Max-Age": "0",
    }
    assert dict(cors.preflight({"AllowOrigins": ["*"]}, ASKED)) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "http://a.example",
    }


@pytest.mark.catalogue("IN-127")
@pytest.mark.parametrize("origin", ["http://c.example", "null", "http://a.example.evil", "", "https://a.example"])
def test_another_origin_is_allowed_nothing(origin: str) -> None:
    headers = ASKED | {"origin": origin}
    assert cors.preflight(ALL, headers) == [("Vary", "Origin")]
    assert cors.with_cors([("X", "1"), ("Access-Control-Allow-Origin", "*")], ALL, headers) == [("X", "1"), ("Vary", "Origin")]
    assert cors.preflight({}, headers) == [("Vary", "Origin")]


@pytest.mark.catalogue("IN-127")
def test_the_platforms_headers_win() -> None:
    own = [
        ("access-control-allow-origin", "*"),
        ("Access-Control-Expose-Headers", "x-own"),
        ("Access-Control-Allow-Methods", "DELETE"),
        ("vary", "Accept"),
        ("X", "1"),
    ]
    found = cors.with_cors(own, ALL, ASKED)
    assert sorted(found) == [
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Origin", "http://a.example"),
        ("Access-Control-Expose-Headers", "x-c,x-d"),
        ("Vary", "Accept, Origin"),
        ("X", "1"),
    ]


def test_vary_names_origin_once() -> None:
    for own in ("Origin", "Accept, origin"):
        vary = dict(cors.with_cors([("Vary", own)], ALL, ASKED))["Vary"]
        assert [one.strip().lower() for one in vary.split(",")].count("origin") == 1


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "AllowOrigins": st.lists(st.sampled_from(["*", "http://a.example", "http://b.example"])),
            "AllowMethods": st.lists(st.sampled_from(["GET", "*"])),
            "AllowHeaders": st.lists(st.sampled_from(["x-a", "*"])),
            "ExposeHeaders": st.lists(st.sampled_from(["x-a", "*"])),
            "AllowCredentials": st.booleans(),
            "MaxAge": st.integers(0, 86_400),
        },
    ),
    st.none() | st.sampled_from(["http://a.example", "http://c.example", "null"]),
    st.lists(st.tuples(st.sampled_from(["X", "Vary", "Access-Control-Allow-Origin", "access-control-max-age"]), st.text("ab"))),
)
def test_nothing_is_allowed_that_was_not(settings: dict[str, Any], origin: str | None, own: list[tuple[str, str]]) -> None:
    headers = {"origin": origin} if origin is not None else {}
    origins = settings.get("AllowOrigins", [])
    allowed = origin is not None and ("*" in origins or origin in origins)
    for found in (cors.with_cors(own, settings, headers), cors.preflight(settings, headers)):
        names = [name.lower() for name, _ in found]
        assert names.count("vary") == 1
        assert ("access-control-allow-origin" in names) == allowed
        assert names.count("access-control-allow-origin") <= 1
        assert allowed or not any(name.startswith("access-control-") for name in names)
    assert [one for one in own if one[0] == "X"] == [one for one in cors.with_cors(own, settings, headers) if one[0] == "X"]
