"""A handler's result as JSON, as AWS's runtime writes it: Decimal exactly, named tuples as objects, bytes as text."""

from __future__ import annotations

import json
import sys

_ASCII = sys.version_info < (3, 12)  # AWS's runtimes write other characters as they are from there on


def to_json(result: object) -> str:
    """Raises TypeError, ValueError or RecursionError for what cannot be written."""
    decimals: dict[str, str] = {}

    def default(value: object) -> object:
        if isinstance(value, bytes):
            return value.decode()
        decimal = sys.modules.get("decimal")  # importing it costs 7 ms, and without it there is no Decimal
        if decimal is not None and isinstance(value, decimal.Decimal):
            if not value.is_finite():
                return float(value)
            mark = f"decimal-{id(decimals)}-{len(decimals)}"  # json has no way to write a number as it is told
            decimals[f'"{mark}"'] = str(value)
            return mark
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

    try:
        result = _objects(result)
    except RecursionError:
        pass  # json says what is wrong with it
    text = json.dumps(result, default=default, ensure_ascii=_ASCII)
    for mark, number in decimals.items():
        text = text.replace(mark, number, 1)
    return text


def to_bytes(result: object) -> bytes:
    """The same in UTF-8. Half of a surrogate pair, which UTF-8 has no bytes for, is written as JSON's \\ud800."""
    text = to_json(result)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join(json.dumps(c)[1:-1] if "\ud800" <= c <= "\udfff" else c for c in text).encode()


def _objects(value: object) -> object:
    """Named tuples become objects, and keys what JSON can have, however deep."""
    if isinstance(value, dict):
        return {_key(key): _objects(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _objects(item) for key, item in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [_objects(item) for item in value]
    return value


def _key(key: object) -> object:
    if isinstance(key, bytes):
        return key.decode()
    if key is None or isinstance(key, (str, int, float)):
        return key
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")
