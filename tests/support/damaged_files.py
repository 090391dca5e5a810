"""Strategies of hypothesis that damage a valid file, by what the file is made of."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

from .format_entry import BINARY, JSON, LINES, TENSORS

ABSURD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 2**31, 2**63, -(2**63), 10**39, 10**60),
    *("", " ", "x", "x" * 5000, "\0", "a\0b", "\ud800", "猫" * 100, "../x", "/etc/passwd", "C:\\x"),
    *("nul", "a\nb", "1", "true", "\u202e", "%s%n", "{}", "images/" * 200, "'\"\\", "inf", "nan"),
    *([], {}, [[]], [{}], {"": ""}, [None] * 50, {"a": {"b": {"c": [1, 2]}}}, [1, "a", None]),
    *(float("nan"), float("inf"), float("-inf"), list(range(5000))),
]
RAW = ["NaN", "Infinity", "1e999", "9" * 5000, "[" * 99999, '{"a":' * 99999, "[" * 70 + "]" * 70]
"""Texts that stand in the place of a value."""
_MARK = "\u0001value\u0001"

values = st.one_of(
    st.sampled_from(ABSURD),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
)


def _places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every value, from the root on."""
    keys = list(node) if isinstance(node, dict) else range(len(node) if type(node) is list else 0)
    return [place, *(inner for key in keys for inner in _places(node[key], (*place, key)))]


def _changed(node: Any, place: tuple[Any, ...], change: Any) -> Any:
    """Return a copy with another value in one place; with ``...`` it is gone."""
    if not place:
        return None if change is ... else change
    key, *below = place
    if isinstance(node, dict):
        copy = {k: _changed(v, tuple(below), change) if k == key else v for k, v in node.items()}
        if change is ... and not below:
            del copy[key]
        return copy
    return [_changed(v, tuple(below), change) if i == key else v for i, v in enumerate(node)]


@st.composite
def damaged_json(draw: st.DrawFn, valid: str) -> str:
    """Replace, delete or add values of JSON text, one to three times."""
    node = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(node)[:300]))
        how = draw(st.sampled_from(("replace", "replace", "raw", "delete", "add", "wrap")))
        if how == "raw":
            text = json.dumps(_changed(node, place, _MARK))
            return text.replace(json.dumps(_MARK), draw(st.sampled_from(RAW)))
        if how == "add" and isinstance(node, dict):
            node = node | {draw(st.text(max_size=12)): draw(values)}
        elif how == "wrap":
            node = [node] if draw(st.booleans()) else {"a": node}
        else:
            node = _changed(node, place, ... if how == "delete" else draw(values))
        if not isinstance(node, (dict, list)):
            break
    return json.dumps(node)


@st.composite
def damaged_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Flip, cut, repeat, insert or recode bytes."""
    size = len(valid)
    position = (
        draw(st.integers(0, min(size, 4096))) if draw(st.booleans()) else draw(st.integers(0, size))
    )
    how = draw(st.sampled_from(("flip", "flip", "cut", "insert", "repeat", "delete", "whole")))
    if how == "flip":
        data = bytearray(valid)
        for _ in range(draw(st.integers(1, 8))):
            if data:
                index = min(draw(st.integers(0, max(size - 1, 0))), size - 1)
                data[index] = draw(st.integers(0, 255))
        return bytes(data)
    if how == "cut":
        return valid[:position]
    if how == "insert":
        return valid[:position] + draw(st.binary(max_size=16)) + valid[position:]
    if how == "repeat":
        return valid[:position] + valid[:position] + valid[position:]
    if how == "delete":
        return valid[:position] + valid[position + draw(st.integers(1, 64)) :]
    return draw(st.sampled_from(whole_files(valid)))


def whole_files(valid: bytes) -> list[bytes]:
    """Return contents that stand in the place of a file whatever it is."""
    text = valid.decode("utf-8", errors="replace")
    return [
        *(b"", b"\0" * 64, b"\xff\xfe", b"\x80\x02pickle", b"\n\n\n", b"[]", b"{}", b"null", b"{"),
        *(text.encode("utf-16"), text.encode("utf-16-le"), b"\xef\xbb\xbf" + valid),
        *(valid.replace(b"\n", b"\r\n"), b"[" * 200_000, b'{"a":' * 200_000, b'"' + b"x" * 100_000),
    ]


@st.composite
def damaged_lines(draw: st.DrawFn, valid: bytes) -> bytes:
    """Damage one line of records."""
    lines = valid.decode().splitlines()
    index = draw(st.integers(0, len(lines) - 1))
    lines[index] = draw(damaged_json(lines[index]))
    return "\n".join(lines).encode() + draw(st.sampled_from((b"\n", b"", b'{"a": 1', b"\0\n")))


@st.composite
def damaged_tensors(draw: st.DrawFn, valid: bytes) -> bytes:
    """Damage the header of a safetensors file, or lie about its length."""
    (length,) = struct.unpack("<Q", valid[:8])
    header, data = valid[8 : 8 + length].decode(), valid[8 + length :]
    if draw(st.booleans()):
        text = draw(damaged_json(header)).encode()
        return struct.pack("<Q", len(text)) + text + data
    lie = draw(st.sampled_from((0, 1, length - 1, length + 1, 10**8, 2**63, 2**64 - 1)))
    return struct.pack("<Q", lie) + valid[8:]


def damaged(kind: str, valid: bytes) -> st.SearchStrategy[bytes]:
    """Return damaged contents of a file of some kind.

    Example: ``damaged("json", b'{"steps": 20}')``.
    """
    blind = damaged_bytes(valid)
    if kind == JSON:
        return st.one_of(damaged_json(valid.decode()).map(str.encode), blind)
    if kind == LINES:
        return st.one_of(damaged_lines(valid), blind)
    if kind == TENSORS:
        return st.one_of(damaged_tensors(valid), blind)
    assert kind in (BINARY, "text"), kind
    return blind
