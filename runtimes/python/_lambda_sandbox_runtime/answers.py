"""A handler's result as JSON, as AWS's runtime writes it: Decimal exactly, named tuples as objects, bytes as text."""

from __future__ import annotations

import json
import sys


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

    # AWS's runtimes write non-ASCII characters as they are from Python 3.12 on
    try:
        result = _objects(result)
    except RecursionError:
        pass  # json says what is wrong with it
    text = json.dumps(result, default=default, ensure_ascii=sys.version_info < (3, 12))
    for mark, number in decimals.items():
        text = text.replace(mark, number, 1)
    return text


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
