"""The protocol: botocore writes a request and we read it, we write an answer and botocore reads it, for every operation."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore import parsers, serialize
from botocore.awsrequest import HeadersDict, prepare_request_dict
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.control.errors import ApiError, invalid
from sandbox.control.operations import INVOKES, SUPPORTED
from sandbox.control.rest_json import Api, Request, Response
from sandbox.control.validation import _rules, complaints

API = Api()
MODEL = API.model
SERIALIZER = serialize.create_serializer("rest-json", include_validation=False)
PARSER = parsers.create_parser("rest-json")
STREAM = "InvokeWithResponseStream"
BRIEF = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
EXCEPTIONS = sorted(name for name in MODEL.shape_names if MODEL.shape_for(name).metadata.get("exception"))
MEANINGS = {r"\p{L}": "a-zA-Zäßж日", r"\p{Z}": " \u00a0\u2003", r"\p{N}": "0-9٣½"}


def cached(make: Any) -> Any:
    """The same strategy for the same shape: to build one takes longer than to draw from it."""
    known: dict[Any, Any] = {}

    def get(shape: Shape, place: Any = None) -> Any:
        key = shape.name, place, repr(sorted(shape.metadata.items()))
        if key not in known:
            known[key] = make(shape, place)
        return known[key]

    return get


@cached
def text(shape: Shape, place: str | None) -> st.SearchStrategy[str]:
    """Text that keeps the shape's constraints."""
    meta = shape.metadata
    if "enum" in meta:
        return st.sampled_from(meta["enum"])
    low, high = meta.get("min", 0), meta.get("max", 200)
    if place in ("uri", "header"):
        low = max(low, 1)
    if "pattern" in meta:
        pattern = meta["pattern"]
        for escape, meant in MEANINGS.items():
            pattern = pattern.replace(escape, meant)
        ours = st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True)
        return ours.filter(lambda value: low <= len(value) <= high and not value.endswith("\n"))
    characters = st.characters(codec="ascii", min_codepoint=33) if place == "header" else st.characters(codec="utf-8")
    return st.text(characters, min_size=low, max_size=min(high, low + 20))


@cached
def values(shape: Shape, place: str | None = None) -> st.SearchStrategy[Any]:
    """Values that keep the shape's constraints."""
    meta = shape.metadata
    if isinstance(shape, StructureShape):
        return structures(shape)
    if isinstance(shape, ListShape):
        least = 1 if place == "querystring" else meta.get("min", 0)
        return st.lists(values(shape.member, place), min_size=least, max_size=min(meta.get("max", 3), 3))
    if isinstance(shape, MapShape):
        return st.dictionaries(values(shape.key), values(shape.value), max_size=3)
    if shape.type_name == "string":
        return text(shape, place)
    if shape.type_name in ("integer", "long"):
        most = 2**31 - 1 if shape.type_name == "integer" else 2**63 - 1
        return st.integers(meta.get("min", -most), min(meta.get("max", most), most))
    if shape.type_name == "boolean":
        return st.booleans()
    if shape.type_name == "blob":
        return st.binary(max_size=50)
    if shape.type_name == "timestamp":
        return st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
    assert shape.type_name in ("double", "float"), shape.type_name
    return st.floats(meta.get("min", -1e9), meta.get("max", 1e9))


@cached
def structures(shape: StructureShape, without: frozenset[str] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """Dictionaries with all required members, and any others."""
    must, may = {}, {}
    for name, member in shape.members.items():
        if name not in (without or ()):
            where = must if name in shape.required_members else may
            where[name] = values(member, member.serialization.get("location"))
    return st.fixed_dictionaries(must, optional=may)


def written(name: str, parameters: Mapping[str, Any]) -> Request:
    """The request that botocore makes of it."""
    made = SERIALIZER.serialize_to_request(dict(parameters), MODEL.operation_model(name))
    prepare_request_dict(made, "http://127.0.0.1:1")
    target = urlsplit(made["url"])
    body = made["body"].encode() if isinstance(made["body"], str) else bytes(made["body"])
    headers = {key.lower(): value for key, value in made["headers"].items()}
    return Request(made["method"], target.path, target.query, headers, body)


def as_read(response: Response) -> dict[str, Any]:
    """An answer as botocore's parser is given it."""
    return {"status_code": response.status, "headers": HeadersDict(response.headers), "body": response.body}


def read(name: str, response: Response) -> dict[str, Any]:
    """What botocore reads in an answer."""
    found = PARSER.parse(as_read(response), MODEL.operation_model(name).output_shape)
    found.pop("ResponseMetadata")
    return found


@pytest.mark.parametrize("name", SUPPORTED)
@BRIEF
@given(data=st.data())
def test_what_botocore_writes_is_read_as_it_was(name: str, data: st.DataObject) -> None:
    shape = MODEL.operation_model(name).input_shape
    parameters = data.draw(structures(shape)) if shape.members else {}
    found, again = API.parse(written(name, parameters))
    assert found == name
    if name in INVOKES:  # no payload and an empty one are the same bytes; the client context is base64 on the wire
        parameters = {shape.serialization["payload"]: b"", **parameters}
    assert again == parameters


@pytest.mark.parametrize("name", SUPPORTED)
@BRIEF
@given(data=st.data())
def test_what_we_write_is_read_by_botocore_as_it_was(name: str, data: st.DataObject) -> None:
    shape = MODEL.operation_model(name).output_shape
    if shape is None:
        assert API.render(name, {}).body == b""
        return
    stream = frozenset({shape.serialization["payload"]}) if name == STREAM else frozenset()  # test_event_stream has that
    code = "Status" if name == "InvokeAsync" else "StatusCode"
    result = data.draw(structures(shape, stream | {code, "ResponseStreamContentType"}))
    if code in shape.members:
        result[code] = data.draw(st.sampled_from([200, 202]))
    response = API.render(name, result)
    status = result.get(code, MODEL.operation_model(name).http["responseCode"])
    assert response.status == status
    if name == STREAM:
        found = {"Status": response.status, **response.headers}
        assert found.get("X-Amz-Executed-Version") == result.get("ExecutedVersion")
        return
    expected = dict(result)
    if name == "Invoke":  # botocore hands its payload on as a stream of the same bytes
        assert response.body == expected.pop("Payload", b"")
        response.body = b""
    found = read(name, response)
    if name == "Invoke":
        found.pop("Payload", None)
    assert found == expected


@pytest.mark.parametrize("code", EXCEPTIONS)
def test_every_exception_of_the_model_is_read_by_botocore(code: str) -> None:
    shape = MODEL.shape_for(code)
    extra = {name: f"<{name}>" for name in shape.members if name.lower() not in ("type", "message")}
    response = API.render_error(ApiError(code, "what «it» says", **extra))
    assert response.status == shape.metadata["error"]["httpStatusCode"]
    assert response.headers["x-amzn-ErrorType"] == code
    error = PARSER.parse(as_read(response), None)["Error"]
    assert (error["Code"], error["Message"]) == (code, "what «it» says")
    members = {"Type": "User" if shape.metadata["error"].get("senderFault") else "Service"}
    members |= extra | {name: "what «it» says" for name in shape.members if name.lower() == "message"}
    found = PARSER.parse(as_read(response), shape)
    assert {key: value for key, value in found.items() if key not in ("Error", "ResponseMetadata")} == members


def test_an_error_is_as_long_as_awss_own() -> None:
    """Recorded: compact, no key but these two, no line end."""
    text = (
        "The Revision Id provided does not match the latest Revision Id. "
        "Call the GetPolicy API to retrieve the latest Revision Id"
    )
    response = API.render_error(ApiError("PreconditionFailedException", text))
    assert response.body == b'{"Type":"User","message":"%s"}' % text.encode()
    assert response.headers == {"Content-Type": "application/json", "x-amzn-ErrorType": "PreconditionFailedException"}
    assert json.loads(API.render_error(invalid("x", typed=False)).body) == {"message": "x"}
    assert json.loads(API.render_error(ApiError("ValidationException", "x")).body) == {"message": "x"}
    assert json.loads(API.render_error(ApiError("ResourceNotFoundException", "x")).body) == {"Type": "User", "Message": "x"}


# ── what is no request of the API ──


def parsed(method: str, path: str, body: bytes = b"", query: str = "") -> tuple[str, dict[str, Any]]:
    return API.parse(Request(method, path, query, {}, body))


@pytest.mark.parametrize("name", API.operations)
def test_every_operation_has_its_route(name: str) -> None:
    operation = MODEL.operation_model(name)
    target = urlsplit(operation.http["requestUri"])
    path = re.sub(r"\{[^}]+\}", "x%2Fy", target.path)
    for end in ("", "/") if not path.endswith("/") else ("",):
        found, named = API.match(Request(operation.http["method"], path + end, target.query, {}, b""))
        assert found.name == name
        assert set(named.values()) <= {"x/y"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("PATCH", "/2015-03-31/functions/"), ("GET", "/2015-03-31/functionsx/f"), ("POST", "/x")]
)
def test_another_path_is_no_operation(method: str, path: str) -> None:
    with pytest.raises(ApiError) as refused:
        parsed(method, path)
    assert refused.value.code == "UnknownOperationException"
    assert API.render_error(refused.value).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"FunctionVersion": 1}',
        b'{"RoutingConfig": []}',
        b'{"RoutingConfig": {"AdditionalVersionWeights": {"1": "x"}}}',
        b'{"RoutingConfig": {"AdditionalVersionWeights": {"1": true}}}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_a_body_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parsed("PUT", "/2015-03-31/functions/f/aliases/a", body)
    assert refused.value.code == "SerializationException"
    assert API.render_error(refused.value).status == 400


@pytest.mark.parametrize("number", ["x", "1.5", "", "1_0", "%D9%A3", "%201", "99999999999999999999"])
def test_a_number_in_the_path_is_plain_digits_that_fit(number: str) -> None:
    """1_0 must not be 10, nor may one that fits nowhere reach the store."""
    if not number:
        with pytest.raises(ApiError):
            parsed("DELETE", "/2018-10-31/layers/l/versions/")
        return
    with pytest.raises(ApiError) as refused:
        parsed("DELETE", f"/2018-10-31/layers/l/versions/{number}")
    assert refused.value.status == 400


def test_nulls_are_as_if_they_were_not_there() -> None:
    body = json.dumps({"Description": None, "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": None}})
    _, given = parsed("PUT", "/2015-03-31/functions/f/aliases/a", body.encode())
    assert given == {"FunctionName": "f", "Name": "a", "FunctionVersion": "1", "RoutingConfig": {}}


def test_a_blob_is_base64_or_refused() -> None:
    good = json.dumps({"ZipFile": base64.b64encode(b"zip").decode()}).encode()
    assert parsed("PUT", "/2015-03-31/functions/f/code", good)[1]["ZipFile"] == b"zip"
    with pytest.raises(ApiError) as refused:
        parsed("PUT", "/2015-03-31/functions/f/code", b'{"ZipFile": "%%%"}')
    assert refused.value.code == "SerializationException"


def test_half_a_surrogate_pair_does_not_break_an_answer() -> None:
    """JSON can say it, UTF-8 cannot."""
    _, given = parsed("PUT", "/2015-03-31/functions/f/aliases/a", rb'{"Description": "a\ud800b"}')
    answer = API.render("UpdateAlias", {"Description": given["Description"]})
    assert json.loads(answer.body)["Description"].startswith("a")


# ── wording ──


def said(operation: str, **given: Any) -> list[str]:
    shape = MODEL.operation_model(operation).input_shape
    assert isinstance(shape, StructureShape)
    return complaints(shape, given)


FAILED = "failed to satisfy constraint"


def test_a_missing_member_is_null_without_quotes() -> None:
    assert said("TagResource", Resource="arn:aws:lambda:us-east-1:123456789012:function:f") == [
        f"Value null at 'tags' {FAILED}: Member must not be null"
    ]


def test_numbers_enums_lengths_and_nested_members() -> None:
    assert said("PutProvisionedConcurrencyConfig", FunctionName="f", Qualifier="a", ProvisionedConcurrentExecutions=0) == [
        f"Value '0' at 'provisionedConcurrentExecutions' {FAILED}: Member must have value greater than or equal to 1"
    ]
    assert said("ListFunctions", FunctionVersion="invalid") == [
        f"Value 'invalid' at 'functionVersion' {FAILED}: Member must satisfy enum value set: [ALL]"
    ]
    assert said("GetFunction", FunctionName="f", Qualifier="q" * 129) == [
        f"Value '{'q' * 129}' at 'qualifier' {FAILED}: Member must have length less than or equal to 128"
    ]
    assert said("UpdateFunctionConfiguration", FunctionName="f", SnapStart={"ApplyOn": "x"}) == [
        f"Value 'x' at 'snapStart.applyOn' {FAILED}: Member must satisfy enum value set: [PublishedVersions, None]"
    ]
    assert len(said("CreateAlias", FunctionName="f", Name="a" * 129 + "!", FunctionVersion="1")) == 2  # length and pattern


@pytest.mark.parametrize(
    ("weights", "part", "rules"),
    [
        (
            {"2": 2.0},
            "value",
            (
                "Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, "
                "Member must not be null"
            ),
        ),
        (
            {"$LATEST": 0.5},
            "keys",
            (
                "Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, "
                "Member must satisfy regular expression pattern: [0-9]+"
            ),
        ),
    ],
)
def test_maps(weights: dict[str, float], part: str, rules: str) -> None:
    """The two that are recorded: values with `not be null` at the end, keys without."""
    shown = "{" + ", ".join(f"{key}={value}" for key, value in weights.items()) + "}"
    given = {"FunctionName": "f", "Name": "a", "FunctionVersion": "1"}
    assert said("CreateAlias", **given, RoutingConfig={"AdditionalVersionWeights": weights}) == [
        f"Value '{shown}' at 'routingConfig.additionalVersionWeights' {FAILED}: Map {part} must satisfy constraint: [{rules}]"
    ]


def test_lists() -> None:
    given = {"FunctionName": "f", "ZipFile": b""}
    both = ["x86_64", "arm64"]
    assert said("UpdateFunctionCode", **given, Architectures=both) == [
        f"Value '[x86_64, arm64]' at 'architectures' {FAILED}: Member must have length less than or equal to 1"
    ]
    assert said("UpdateFunctionCode", **given, Architectures=["X86_64"]) == [
        (
            f"Value '[X86_64]' at 'architectures' {FAILED}: Member must satisfy constraint: "
            "[Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"
        )
    ]
    assert said("UpdateFunctionConfiguration", FunctionName="f", VpcConfig={"SubnetIds": ["x"]}) == [
        (
            f"Value '[x]' at 'vpcConfig.subnetIds' {FAILED}: "
            f"Member must satisfy constraint: [Member must have length less than or "
            "equal to 1024, Member must have length greater than or equal to 0, "
            "Member must satisfy regular expression pattern: subnet-[0-9a-z]*]"
        )
    ]


@pytest.mark.parametrize(
    "tags", [{"name": "v"}, {"äж日": "½ ٣"}, {"a b": ""}, {"k": "a_.:/=+-@"}], ids=lambda tags: next(iter(tags)).encode().hex()
)
def test_the_letters_of_a_tag_are_those_of_unicode(tags: dict[str, str]) -> None:
    """Its pattern is Java's: \\p{L}, \\p{Z} and \\p{N}."""
    assert said("TagResource", Resource="arn:aws:lambda:us-east-1:123456789012:function:f", Tags=tags) == []


def test_other_characters_in_a_tag_are_refused() -> None:
    found = said("TagResource", Resource="arn:aws:lambda:us-east-1:123456789012:function:f", Tags={"a*": "b", "c": "d%"})
    assert len(found) == 2
    assert all("Member must satisfy regular expression pattern: ([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)" in one for one in found)


@pytest.mark.parametrize(
    "pattern", sorted({s.metadata["pattern"] for s in map(MODEL.shape_for, MODEL.shape_names) if "pattern" in s.metadata})
)
def test_every_pattern_of_the_model_is_one_that_is_checked(pattern: str) -> None:
    """No pattern may break the operation that has it."""
    shape = next(s for s in map(MODEL.shape_for, MODEL.shape_names) if s.metadata.get("pattern") == pattern)
    assert any(pattern in text for text, _ in _rules(shape))
    for _, kept in _rules(shape):
        kept("x")


def test_digits_in_patterns_are_ascii() -> None:
    """Java's \\d: an account in other digits is none."""
    role = "arn:aws:iam::" + "٣" * 12 + ":role/r"
    found = said("UpdateFunctionConfiguration", FunctionName="f", Role=role)
    assert len(found) == 1
    assert found[0].startswith(f"Value '{role}' at 'role' {FAILED}: Member must satisfy regular expression pattern: arn:")


def test_a_line_end_is_not_overlooked() -> None:
    for name in ("f\n", "\nf"):
        assert said("GetFunction", FunctionName=name)
    assert said("CreateAlias", FunctionName="f", Name="2024\n", FunctionVersion="1")
