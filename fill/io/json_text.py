"""Text and JSON from outside, read within bounds; whatever is wrong is one short sentence.

Files are UTF-8, with or without a byte order mark. Sizes, nesting and numbers are bounded before
anything is made of them, and messages name a file by the end of its path.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import reprlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

MAX_MESSAGE = 300
"""Characters of an error's message."""
MAX_BYTES = 64 << 20
"""Of a text or JSON file; vocabularies, the largest, have some 10 MB."""
MAX_LIST_BYTES = 512 << 20
"""Of a file with a record per line."""
MAX_LINE = 4 << 20
"""Characters of such a line."""
MAX_DEPTH = 64
"""Levels of lists and objects within one another."""
MAX_DIGITS = 40
"""Of a whole number; tokenizers write 10 to the 30th for "no limit"."""
_LABEL_CHARACTERS = 100
_BAD_CHARACTERS = re.compile("[\0\ud800-\udfff]")
_ESCAPED_BAD_CHARACTERS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
T = TypeVar("T")

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = 60
_shortener.maxlist = _shortener.maxtuple = _shortener.maxdict = _shortener.maxlevel = 3


def quote(value: Any) -> str:
    """Return a value for a message: its representation, shortened."""
    return shorten(_shortener.repr(value), 80)


def shorten(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return a text on one line, with dots in the middle if it is longer than the limit."""
    text = " ".join(text[: 4 * limit].split()) + ("..." if len(text) > 4 * limit else "")
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def label_of(path: Path, num_parts: int = 3) -> str:
    """Return how messages name a file or folder: the last parts of its path, shortened."""
    parts = path.parts[-num_parts:]
    return shorten("/".join(part.strip("/\\") for part in parts), _LABEL_CHARACTERS)


def parse_json(text: str, *, allows_nan: bool = False) -> Any:
    """Parse JSON text; ValueError with a short sentence, which does not say what the text is of.

    Args:
        text: Any text.
        allows_nan: Whether NaN and Infinity are numbers.
    """
    not_finite = None if allows_nan else _refuse_constant
    try:
        value = json.loads(
            text, parse_constant=not_finite, parse_int=_whole_number, parse_float=_finite_number
        )
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ValueError("it is empty, but JSON is expected") from None
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise ValueError("it is cut off in the middle of its JSON") from None
        raise ValueError(
            f"it is not valid JSON at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    may_be_deep = text.count("[") + text.count("{") > MAX_DEPTH
    if may_be_deep or _ESCAPED_BAD_CHARACTERS.search(text):
        _check_tree(value)
    return value


def parse_object(text: str, *, allows_nan: bool = False) -> dict[str, Any]:
    """Parse a JSON object; as :func:`parse_json`, and ValueError if it is something else."""
    values = parse_json(text, allows_nan=allows_nan)
    if not isinstance(values, dict):
        raise ValueError(f"it is {quote(values)}, but a JSON object is expected")
    return values


def read_text(path: Path, max_bytes: int = MAX_BYTES, *, allows_utf16: bool = False) -> str:
    """Read a text file; UTF-16, as some editors save it, only where that is allowed.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no file, too large, or no text in UTF-8; names it.
        OSError: It cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{label_of(path)} is no file, but a text file is expected")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"{label_of(path)} is missing") from None
    except OSError as error:
        raise OSError(f"{label_of(path)} cannot be read ({error.strerror})") from error
    if len(data) > max_bytes:
        raise ValueError(
            f"{label_of(path)} is larger than {max_bytes >> 20} MB, which no such file is"
        )
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if is_utf16 and not allows_utf16:
        raise ValueError(f"{label_of(path)} is text in UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{label_of(path)} is not text in UTF-8 (byte {error.start:,}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"{label_of(path)} holds NUL characters, so it is no text in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, advice: str = "download it again", **options: Any) -> dict[str, Any]:
    """Read a JSON object; further options as for :func:`parse_object`.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is not a JSON object; names it and ends with the advice.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{label_of(path)} is missing; download the complete model folder in diffusers format"
        )
    try:
        return parse_object(read_text(path), **options)
    except ValueError as error:
        raise ValueError(shorten(_named(path, error) + f"; {advice}")) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not blank; none without the file.

    Raises:
        ValueError: As :func:`read_text`.
    """
    lines = read_text(path, MAX_LIST_BYTES).split("\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line


def read_records(
    path: Path, parse: Callable[[dict[str, Any]], T], *, allows_nan: bool = False
) -> list[T]:
    """Parse the JSON object in every line that is not blank; without the file there are none.

    Raises:
        ValueError: A line is damaged; names file and line.
    """
    records = []
    for number, line in read_lines(path):
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"it has {len(line):,} characters, but {MAX_LINE:,} are the most")
            records.append(parse(parse_object(line, allows_nan=allows_nan)))
        except ValueError as error:
            raise ValueError(shorten(f"{label_of(path)}, line {number}: {error}")) from error
    return records


def _named(path: Path, error: ValueError) -> str:
    text, label = str(error), label_of(path)
    return text if text.startswith(label) else f"{label}: {text}"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, but finite numbers are expected")


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _finite_number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {quote(digits)}, which is too large")
    return number


def _check_tree(value: Any) -> None:
    """Raise ValueError for too many levels, and for text that no UTF-8 file can hold."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += [*node.keys(), *node.values()]
            elif isinstance(node, list):
                below += node
            elif isinstance(node, str) and _BAD_CHARACTERS.search(node):
                raise ValueError(f"it holds {quote(node)}, which is no text")
        level = below
