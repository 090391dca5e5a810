"""Preference data in from people's own lists, and out as image folders that others load.

A list is a ``.csv`` with a header or a ``.jsonl``, one pair per row; image names are relative to
the list's folder. Columns: ``winner``, ``loser``, ``task``, ``dimension``; ``source`` (the image
before the edit) or ``condition`` (any name), because pairs of one condition must never fall into
different splits; and, where known, ``mask``, ``prompt``, ``judged_by``, ``confidence``::

    winner,loser,task,dimension,source,prompt
    kite-a.png,kite-b.png,fill,text_alignment,beach.png,a red kite

Semicolons or tabs may stand for the commas, ``chosen`` and ``rejected`` for winner and loser, and
tasks, dimensions and columns may be written with spaces and capitals ("Text alignment").
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..fill.io.folder_lock import folder_lock
from ..fill.io.image_file import open_image
from ..fill.io.json_text import (
    MAX_LIST_BYTES,
    label_of,
    quote,
    read_records,
    read_text,
    shorten,
)
from ..fill.io.writing import atomic_folder, copy_file
from ..fill.task import Dimension, Task
from .preference import PAIRS, Preference, PreferenceSet, by_split, to_line
from .query import Query

IMAGES = ("winner", "loser", "source", "mask")
REQUIRED = ("winner", "loser", "task", "dimension")
ALIASES = {"chosen": "winner", "rejected": "loser"}
"""What other tools call columns."""
COLUMNS = (*IMAGES, "task", "dimension", "condition", "prompt", "judged_by", "confidence")
FOLDER = "images/imported"
SPLIT_NAMES = {"train": "train", "dev": "validation", "test": "test"}
"""What ``datasets`` calls the splits."""
_DELIMITERS = (",", ";", "\t")
_MAX_ERRORS = 20
"""Rows that are named when several are bad."""


def import_pairs(path: Path, folder: Path) -> int:
    """Copy the images of a list into preference data and add its pairs.

    Every row is checked before anything is written; pairs that are there already are not added
    again.

    Args:
        path: The list.
        folder: The data; made if there is none.

    Returns:
        The number of new pairs.

    Raises:
        ValueError: Rows are no pairs, or images cannot be read; names file and row, a line each.
        OSError: A file cannot be read or written.
        FolderInUse: Another process writes to the data.
    """
    # Check all rows.
    rows: list[tuple[Preference, dict[str, Path]]] = []
    errors: list[str] = []
    for index, row in enumerate(_rows(path), start=1):
        try:
            rows.append(_pair(row, path.parent))
        except (ValueError, OSError) as error:
            errors.append(shorten(f"{label_of(path)}, row {index}: {error}"))
    if num_more := len(errors[_MAX_ERRORS:]):
        errors[_MAX_ERRORS:] = [f"and {num_more} more rows"]
    if errors:
        raise ValueError("\n".join(errors))
    if not rows:
        raise ValueError(f"{label_of(path)} lists no pairs; give one row per pair")
    # New pairs and their images.
    num = 0
    with folder_lock(folder):
        data = PreferenceSet(folder)
        lines = set(map(_without_condition, data.pairs()))
        for pair, images in rows:
            line = _without_condition(pair)
            if line in lines:
                continue
            for name, source in images.items():
                if not (folder / name).is_file():
                    copy_file(source, folder / name)
            data.add(pair)
            lines.add(line)
            num += 1
    return num


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written. Example: ``export_pairs(folder, target).counts['train']``."""

    counts: Mapping[str, int]
    """Pairs per split."""
    left_out: tuple[str, ...]
    """Columns that were left out."""


def export_pairs(folder: Path, target: Path, judged_by: str = "") -> Exported:
    """Write the pairs as one image folder per split; ``load_dataset(target)`` reads it as it is.

    ``datasets`` wants the same types in every split, and null has one of its own: sources or masks
    that no pair of some split has are left out of all.

    Args:
        folder: Preference data.
        target: Where to; must not be there yet.
        judged_by: Only pairs of this judge; empty: all.

    Returns:
        The number of pairs per split, and the columns that were left out.

    Raises:
        ValueError: The target is there, there are no such pairs, or an image is missing.
    """
    if target.exists():
        raise ValueError(f"{target} is there already; name a folder that is not")
    if not (folder / PAIRS).is_file():
        raise ValueError(f"{folder} has no {PAIRS}; name a folder of preference data with pairs")
    data = PreferenceSet(folder)
    pairs = [pair for pair in data.pairs() if judged_by in ("", pair.judged_by)]
    if not pairs:
        raise ValueError(f"{folder} holds no pairs{f' judged by {judged_by}' * bool(judged_by)}")
    splits = {SPLIT_NAMES[name]: rows for name, rows in by_split(pairs).items() if rows}
    # Images that a whole split lacks are left out of all splits.
    columns = ("source_file_name", "mask_file_name")
    left_out = tuple(c for c in columns if any(_lacks(c, rows) for rows in splits.values()))
    with atomic_folder(target) as fresh:
        for name, rows in splits.items():
            _write_split(data, rows, left_out, fresh / name)
    return Exported(counts={name: len(rows) for name, rows in splits.items()}, left_out=left_out)


def _lacks(column: str, pairs: Sequence[Preference]) -> bool:
    return not any(getattr(pair, column) for pair in pairs)


def _write_split(
    data: PreferenceSet, pairs: Sequence[Preference], left_out: Sequence[str], folder: Path
) -> None:
    folder.mkdir(parents=True)
    lines = []
    for pair in pairs:
        line = {k: v for k, v in json.loads(to_line(pair)).items() if k not in left_out}
        for column, name in line.items():
            if not column.endswith("_file_name") or not name:
                continue
            if not data.image(name).is_file():
                raise ValueError(f"{data.folder / name} is missing; remove the pairs that name it")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data.image(name), folder / name)
        # Settings differ from judge to judge, and with them their type.
        lines.append(json.dumps(line | {"settings": json.dumps(line["settings"])}))
    (folder / PAIRS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    label = label_of(path)
    if path.suffix.lower() == ".csv":
        try:
            text = read_text(path, MAX_LIST_BYTES)
            delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
            for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter):
                yield _with_our_columns(row)
        except csv.Error as error:
            raise ValueError(f"{label} is no list of columns ({error})") from error
    elif path.suffix.lower() == ".jsonl":
        if not path.exists():
            raise FileNotFoundError(f"{label} is missing; name a list of pairs")
        for row in read_records(path, dict):
            yield _with_our_columns(row)
    else:
        raise ValueError(f"{label} is neither .csv nor .jsonl; give a list in one of these formats")


def _with_our_columns(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a row holds by the names of our columns, without what is empty."""
    values = {}
    for column, value in row.items():
        name = "beyond the header" if column is None else _plain(str(column))
        if isinstance(value, str):
            value = value.strip()
        if value not in (None, ""):
            values[ALIASES.get(name, name)] = value
    return values


def _plain(text: str) -> str:
    """Return a name as it is written here. Example: ``_plain("Text alignment")``."""
    return "_".join(text.lower().replace("-", " ").split())


def _path_of(name: str, folder: Path) -> Path:
    """Return an image of a list, which may have been written on Windows."""
    path = folder / name
    return path if path.exists() else folder / name.replace("\\", "/")


def _pair(row: Mapping[str, Any], folder: Path) -> tuple[Preference, dict[str, Path]]:
    """Return a pair of one row, and where the images that it names come from."""
    if unknown := sorted(map(str, set(row) - set(COLUMNS))):
        names = shorten(", ".join(unknown), 80)
        raise ValueError(f"unknown columns {names}; known are {', '.join(COLUMNS)}")
    if absent := [name for name in REQUIRED if name not in row]:
        raise ValueError(f"{', '.join(absent)} missing")
    if "source" not in row and "condition" not in row:
        raise ValueError("give source or condition, so that one condition stays in one split")
    for name in set(row) - {"confidence"}:
        if not isinstance(row[name], str):
            raise ValueError(f"{name} is {quote(row[name])}, but text is expected")
    sources = {name: _path_of(row[name], folder) for name in IMAGES if name in row}
    _check_images(sources)
    names = {name: _name_of(path) for name, path in sources.items()}
    if names["winner"] == names["loser"]:
        raise ValueError(
            f"{quote(row['winner'])} and {quote(row['loser'])} are the same image; none is better"
        )
    pair = Preference(
        winner_file_name=names["winner"],
        loser_file_name=names["loser"],
        task=_member(Task, "task", row["task"]),
        dimension=_member(Dimension, "dimension", row["dimension"]),
        condition="",
        source_file_name=names.get("source", ""),
        mask_file_name=names.get("mask", ""),
        prompt=row.get("prompt", ""),
        judged_by=row.get("judged_by", "human"),
        confidence=_confidence(row.get("confidence", 1.0)),
    )
    Query(pair.task, pair.dimension, pair.prompt)  # refuses text alignment without a text
    condition = row.get("condition") or _condition_of(pair)
    return replace(pair, condition=condition), {names[n]: path for n, path in sources.items()}


def _confidence(value: Any) -> float:
    try:
        return float(value.replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, TypeError):
        raise ValueError(f"confidence is {quote(value)}, but 0.5 to 1 is expected") from None


def _member(kind: Any, name: str, value: Any) -> Any:
    try:
        return kind(_plain(value))
    except ValueError:
        options = ", ".join(member.value for member in kind)
        raise ValueError(f"{name} is {quote(value)}; choose one of: {options}") from None


def _condition_of(pair: Preference) -> str:
    """Name a condition by its source alone: what was made from one image stays in one split."""
    digest = hashlib.blake2b(pair.source_file_name.encode(), digest_size=8).hexdigest()
    return f"imported-{digest}"


def _without_condition(pair: Preference) -> str:
    return to_line(replace(pair, condition=""))


def _check_images(sources: Mapping[str, Path]) -> None:
    sizes = {}
    for name, path in sources.items():
        with open_image(path) as image:
            image.load()
            sizes[name] = image.size
    width, height = sizes["winner"]
    for name, size in sizes.items():
        if size != (width, height):
            raise ValueError(
                f"{name} {quote(sources[name].name)} is {size[0]}x{size[1]} pixels but winner is "
                f"{width}x{height} pixels; give images of the same size"
            )


def _name_of(path: Path) -> str:
    """Name an image by what is in it: the same one is stored once."""
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return f"{FOLDER}/{digest}{path.suffix.lower()}"
