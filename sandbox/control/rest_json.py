"""The server's half of AWS's rest-json protocol, driven by botocore's own service model: no route or field is written here."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape
from botocore.utils import parse_timestamp

from sandbox.control.errors import ApiError, validation
from sandbox.control.validation import complaints

JSON_TYPE: Final = "application/json"

# Checked by the operations themselves, for AWS's answers differ from what the model says.
_LATE: Final[Mapping[str, frozenset[str]]] = {
    "CreateFunction": frozenset({"Runtime"}),
    "UpdateFunctionConfiguration": frozenset({"Runtime"}),
}


@dataclass(frozen=True, slots=True)
class Request:
    """path: as it was sent, percent-encoded. query: without the question mark. headers: names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """stream: the body's pieces as they come, instead of `body`; close: for whoever reads no more of it, or none at all."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: AsyncGenerator[bytes, None] | None = None
    close: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    operation: OperationModel
    pattern: re.Pattern[str]
    names: list[str]
    query: dict[str, str] = field(default_factory=dict)


class Api:
    """Requests to parameters and results to responses, for every operation of the model."""

    def __init__(self) -> None:
        self.model = ServiceModel(Loader().load_service_model("lambda", "service-2"), "lambda")
        self._routes: dict[str, list[_Route]] = {}
        for name in self.model.operation_names:
            operation = self.model.operation_model(name)
            self._routes.setdefault(operation.http["method"], []).append(_route(operation))
        for routes in self._routes.values():  # the most particular one first
            routes.sort(key=lambda route: (-len(route.query), -route.pattern.pattern.count("/"), route.pattern.groups))

    @property
    def operations(self) -> list[str]:
        return sorted(self.model.operation_names)

    # ── requests ──

    def match(self, request: Request) -> tuple[OperationModel, dict[str, str]]:
        """The operation, and what its path says. Raises ApiError."""
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        for route in self._routes.get(request.method, ()):
            found = route.pattern.fullmatch(request.path)
            if found and all(query.get(key) == value for key, value in route.query.items()):
                return route.operation, dict(zip(route.names, map(unquote, found.groups()), strict=True))
        raise ApiError("UnknownOperationException", f"{request.method} {request.path} is no operation of the Lambda API")

    def parse(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The operation's name and its parameters, checked against the model. Raises ApiError."""
        operation, path = self.match(request)
        shape = operation.input_shape
        if shape is None:
            return operation.name, {}
        given = _parameters(shape, path, request)
        self.check(operation.name, given)
        return operation.name, given

    def check(self, name: str, given: Mapping[str, Any]) -> None:
        """Raises ApiError for parameters that the model forbids."""
        late = _LATE.get(name, frozenset())
        shape = self.model.operation_model(name).input_shape
        found = complaints(shape, {key: value for key, value in given.items() if key not in late})
        if found:
            raise validation(found)

    # ── answers ──

    def render(self, name: str, result: Mapping[str, Any]) -> Response:
        """An operation's result, in the members of its output shape."""
        operation = self.model.operation_model(name)
        shape = operation.output_shape
        status = int(operation.http.get("responseCode", 200))
        response = Response(status, {})
        if shape is None:
            return response
        assert isinstance(shape, StructureShape)
        payload, document = shape.serialization.get("payload"), {}
        for member_name, member in shape.members.items():
            value = result.get(member_name)
            if value is None:
                continue
            place, key = member.serialization.get("location"), member.serialization.get("name", member_name)
            if place == "statusCode":
                response.status = value
            elif place == "header":
                response.headers[key] = str(value)
            elif member_name == payload and member.type_name == "blob":
                response.body = value
            else:
                document[key] = _to_json(member, value)
        if payload is None and response.status != 204:
            response.body = _dump(document)
        if response.body:
            response.headers.setdefault("Content-Type", JSON_TYPE)
        return response

    def render_error(self, error: ApiError) -> Response:
        shape = self._shape_of(error.code)
        members = shape.members if shape is not None else {}
        status = error.status
        if status is None and shape is not None:
            status = shape.metadata["error"]["httpStatusCode"]
        status = status or 500
        headers = {"Content-Type": JSON_TYPE, "x-amzn-ErrorType": error.code}
        document: dict[str, Any] = {}
        if error.typed:
            document["Type"] = "Service" if status >= 500 else "User"
        document["Message" if "Message" in members else "message"] = error.message
        for name, value in error.extra.items():
            member = members.get(name)
            if member is not None and member.serialization.get("location") == "header":
                headers[member.serialization["name"]] = str(value)
            else:
                document[name] = value
        return Response(status, headers, _dump(document))

    def _shape_of(self, code: str) -> StructureShape | None:
        if code not in self.model.shape_names:
            return None
        shape = self.model.shape_for(code)
        assert isinstance(shape, StructureShape)
        return shape


def _route(operation: OperationModel) -> _Route:
    target = urlsplit(operation.http["requestUri"])
    parts = re.split(r"(\{[^}]+\})", target.path)
    pattern = "".join("(.+)" if p.endswith("+}") else "([^/]+)" if p.startswith("{") else re.escape(p) for p in parts)
    names = [part.strip("{}+") for part in parts if part.startswith("{")]
    query = dict(parse_qsl(target.query, keep_blank_values=True))
    return _Route(operation, re.compile(pattern.rstrip("/") + "/?"), names, query)


# ── from text and JSON ──


def _parameters(shape: Shape, path: Mapping[str, str], request: Request) -> dict[str, Any]:
    assert isinstance(shape, StructureShape)
    query = parse_qs(request.query, keep_blank_values=True)
    payload = shape.serialization.get("payload")
    document = _document(request.body) if payload is None else {}
    given: dict[str, Any] = {}
    for name, member in shape.members.items():
        place, key = member.serialization.get("location"), member.serialization.get("name", name)
        raw: Any = None
        if place == "uri":
            raw = path.get(key)
        elif place == "header":
            raw = request.headers.get(key.lower())
        elif place == "querystring":
            raw = query.get(key)
            if raw is not None and not isinstance(member, ListShape):
                raw = raw[-1]
        elif name == payload:
            given[name] = request.body if member.type_name == "blob" else _from_json(member, _document(request.body))
        elif place is None and document.get(key) is not None:
            given[name] = _from_json(member, document[key])
        if raw is not None:
            given[name] = _from_text(member, raw)
    return given


def _document(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"Could not parse request body into json: {error}") from None
    if not isinstance(document, dict):
        raise _unreadable("Could not parse request body into json: it is no object")
    return document


def _unreadable(text: str) -> ApiError:
    return ApiError("SerializationException", text)


def _from_text(shape: Shape, value: Any) -> Any:
    if isinstance(shape, ListShape):
        return [_from_text(shape.member, one) for one in value]
    make: Callable[[str], Any] | None = _FROM_TEXT.get(shape.type_name)
    try:
        return make(value) if make is not None else value
    except ValueError:
        raise _unreadable(f"{value!r} can not be converted to {_A[shape.type_name]}") from None


def _whole(bits: int, text: str) -> int:
    """Plain digits that fit: int() would take more."""
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not -(1 << bits) <= int(text) < 1 << bits:
        raise ValueError(text)
    return int(text)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_FROM_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "integer": partial(_whole, 31),
    "long": partial(_whole, 63),
    "float": float,
    "double": float,
    "boolean": _boolean,
    "timestamp": parse_timestamp,
}
_JSON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (str, int, float),
    "blob": (str,),
    "structure": (dict,),
    "list": (list,),
    "map": (dict,),
}
_A: Final = {"integer": "an Integer", "long": "a Long", "float": "a Float", "double": "a Double", "boolean": "a Boolean"}


def _is_of_type(shape: Shape, value: object) -> bool:
    if isinstance(value, bool):
        return bool(shape.type_name == "boolean")
    return isinstance(value, _JSON_TYPES[shape.type_name])


def _from_json(shape: Shape, value: Any) -> Any:
    if not _is_of_type(shape, value):
        wanted = _A.get(shape.type_name, f"a {shape.type_name}")
        raise _unreadable(f"{type(value).__name__.upper()}_VALUE can not be converted to {wanted}")
    if isinstance(shape, StructureShape):
        found = {name: member.serialization.get("name", name) for name, member in shape.members.items()}
        return {name: _from_json(shape.members[name], value[key]) for name, key in found.items() if value.get(key) is not None}
    if isinstance(shape, ListShape):
        return [_from_json(shape.member, one) for one in value if one is not None]
    if isinstance(shape, MapShape):
        return {key: _from_json(shape.value, one) for key, one in value.items() if one is not None}
    if shape.type_name == "blob":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise _unreadable("Unable to decode a blob: it is no base64") from None
    return parse_timestamp(value) if shape.type_name == "timestamp" else value


# ── to JSON ──


def _to_json(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        return {
            member.serialization.get("name", name): _to_json(member, value[name])
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape):
        return [_to_json(shape.member, one) for one in value]
    if isinstance(shape, MapShape):
        return {key: _to_json(shape.value, one) for key, one in value.items()}
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "timestamp" and isinstance(value, datetime):
        if shape.serialization.get("timestampFormat") == "iso8601":
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return value.timestamp()
    return value


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
