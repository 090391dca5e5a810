"""The readers of text and JSON at their bounds; the corpus has what is inside the files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from onereward.fill.io.json_text import (
    MAX_DEPTH,
    label_of,
    parse_json,
    quote,
    read_lines,
    read_text,
    shorten,
)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders on this system")
def test_a_pipe_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"pipe\.json is no file"):
        read_text(tmp_path / "pipe.json")


def test_a_device_has_no_end(tmp_path: Path):
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"zero\.json is no file"):
        read_text(tmp_path / "zero.json")


def test_only_so_many_bytes_are_read(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x" * (1 << 20) + "y")
    with pytest.raises(ValueError, match=r"a\.txt is larger than 1 MB"):
        read_text(tmp_path / "a.txt", 1 << 20)
    assert len(read_text(tmp_path / "a.txt", (1 << 20) + 1)) == (1 << 20) + 1


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"a\.txt is missing$"):
        read_text(tmp_path / "a.txt")
    assert list(read_lines(tmp_path / "a.txt")) == []


def test_line_breaks_of_all_systems(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\nb\rc\n")
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "a"), (3, "b"), (4, "c")]


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 1])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_usual_depths_are_read_as_json_reads_them(levels: int, brackets: str):
    text = brackets[:-1] * levels + "1" + brackets[-1] * levels
    assert parse_json(text) == json.loads(text)
    deeper = brackets[:-1] * MAX_DEPTH + text + brackets[-1] * MAX_DEPTH
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        parse_json(deeper)


@pytest.mark.parametrize(
    "value",
    [1, -(2**63), 10**30, 0.1, 1e-320, 1.7e308, "", "é猫\U00020bb7", "\\u0000", [None, True], {}],
)
def test_values_come_back_as_json_reads_them(value: Any):
    for text in (json.dumps(value), json.dumps({"a": [value]}, ensure_ascii=False)):
        assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("value", ["x" * 9999, ["x" * 99] * 99, {"a" * 999: 1}, 10**4000, "a\nb"])
def test_quotations_are_short_and_on_one_line(value: Any):
    assert len(quote(value)) <= 80
    assert "\n" not in quote(value)


def test_long_texts_keep_both_ends():
    text = shorten("begin " + "x" * 500 + " end")
    assert len(text) <= 300
    assert text.startswith("begin x")
    assert text.endswith("x end")


def test_labels_are_the_end_of_a_path():
    assert label_of(Path("/home/me/models/fill/vae/config.json")) == "fill/vae/config.json"
    assert label_of(Path("a.json")) == "a.json"
    assert len(label_of(Path("/" + "/".join(["猫" * 80] * 5)))) <= 100
