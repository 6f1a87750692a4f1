"""The event: any JSON, in and out."""

from __future__ import annotations

import json
from typing import Any

from sandbox.conformance.case import case
from sandbox.conformance.lab import RuntimeLab, expect, expect_same


async def echoes_text(lab: RuntimeLab, text: str) -> None:
    """An event of exactly these characters comes back with the same meaning."""
    await lab.deploy()
    result = await lab.invoke(payload=text.encode())
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")
    expect_same("the answer", json.loads(result.payload), json.loads(text))


_VALUES = {
    "null": "null",
    "true": "true",
    "false": "false",
    "string": '"text"',
    "empty-string": '""',
    "number": "42",
    "zero": "0",
    "object": '{"a":{"b":[1,2,{"c":null}]}}',
    "empty-object": "{}",
    "list": '[1,"a",null,true,[],{}]',
    "empty-list": "[]",
}


@case("runtime.event.values", _VALUES)
async def values(lab: RuntimeLab, text: str) -> None:
    await echoes_text(lab, text)


_TEXTS = {
    "umlauts": '{"text":"Grüße aus Köln"}',
    "cyrillic": '{"text":"Привет, мир"}',
    "japanese": '{"text":"こんにちは世界"}',
    "right-to-left": '{"text":"שלום עולם مرحبا"}',
    "emoji": '{"text":"😀👨‍👩‍👧‍👦🇨🇭"}',
    "escaped": '{"text":"\\u00e9\\u4f60\\ud83d\\ude00"}',
    "combining": '{"text":"e\u0301 \u00e9"}',
    "control": '{"text":"\\u0001\\b\\f\\n\\r\\t\\u001f\\u007f"}',
    "escaped-nul": '{"text":"a\\u0000b"}',
    "line-separators": '{"text":"a\\u2028b\\u2029c"}',
    "quotes": '{"text":"\\"\\\\ / \' ` $HOME $(id) %s {0} \\\\n"}',
    "markup": '{"text":"<script>&amp;</script>"}',
    "byte-order-mark-inside": '{"text":"a\\ufeffb"}',
}


@case("runtime.event.text", _TEXTS)
async def text(lab: RuntimeLab, event: str) -> None:
    await echoes_text(lab, event)


@case("runtime.event.numbers", ["-1", "0.1", "-0.5", "1e300", "5e-324", "123456789012345", "9007199254740991", "1.0E+2"])
async def numbers(lab: RuntimeLab, event: str) -> None:
    await echoes_text(lab, f'{{"number":{event}}}')


@case("runtime.event.long-integers", ["9007199254740993", "18446744073709551615", "123456789012345678901234567890"])
async def long_integers(lab: RuntimeLab, event: str) -> None:
    await echoes_text(lab, f'{{"number":{event}}}')


_SPACES = {"around": ' \t{"a":1} ', "line-feeds": '\n{\n "a": 1,\n "b": [ ]\n}\n', "carriage-returns": '{\r\n"a":1\r\n}\r\n'}


@case("runtime.event.white-space", _SPACES)
async def white_space(lab: RuntimeLab, event: str) -> None:
    await echoes_text(lab, event)


_KEYS = ["", "a.b", "a b", "__proto__", "constructor", "class", "$ref", "0", "é", "toString", "body", "errorType"]


@case("runtime.event.keys")
async def keys(lab: RuntimeLab) -> None:
    await echoes_text(lab, json.dumps({key: f"value of {key}" for key in _KEYS}))


def nested(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


@case("runtime.event.nested")
async def deep(lab: RuntimeLab) -> None:
    await echoes_text(lab, nested(50))


@case("runtime.event.nested-deeper")
async def deeper(lab: RuntimeLab) -> None:
    await echoes_text(lab, nested(400))


def _text_of(size: int) -> str:
    return json.dumps({"text": "0123456789" * (size // 10)})


_LARGE: dict[str, Any] = {"100-kB": 100_000, "1-MB": 1_000_000, "6-MB": 6 * 1024 * 1024 - 40}


@case("runtime.event.large", _LARGE)
async def large(lab: RuntimeLab, size: int) -> None:
    await lab.deploy()
    event = _text_of(size)
    result = await lab.invoke(payload=event.encode())
    expect(result.function_error is None, f"the invoke failed: {result.payload[:300]!r}")
    expect(json.loads(result.payload) == json.loads(event), f"the answer, of {len(result.payload)} bytes, is not the event")
