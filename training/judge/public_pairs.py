"""Public benchmarks of reward models for edits, read in the formats they are published in.

- EditReward-Bench of TIGER-Lab: parquet with ``instruction``, ``source_image``, ``candidate_1``,
  ``candidate_2``, ``comparison_type`` (``AvsB``) and ``ranking`` (``A>B``, ``A=B``).
- EditReward-Bench of EditScore: arrow with ``instruction``, ``input_image``, ``output_images`` (the
  better one first), ``dimension`` and ``task_type``.
- GenAI-Bench, image edition: parquet with ``instruct_prompt``, ``source_image``,
  ``left_output_image``, ``right_output_image`` and ``vote_type``.
- FIRM-Bench-Edit: ``bench_v1.jsonl`` and ``result/human_bench_v1.jsonl`` with ``id``,
  ``instruction``, ``image`` (the original, then the edit) and people's scores
  ``{"execution": {"score": [4]}, ...}``. Edits of one image by one instruction become pairs
  wherever people's scores differ.

The first three may also be JSON or JSONL with names of image files, for example::

    {"instruct_prompt": "add a hat", "source_image": "0/source.png", "vote_type": "leftvote",
     "left_output_image": "0/left.png", "right_output_image": "0/right.png"}
"""

from __future__ import annotations

import io
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...fill.io.image_file import check_pixels, open_image
from ...fill.io.json_text import label_of, parse_json, quote, read_records, read_text, shorten
from ...fill.io.photo import to_tensor
from ...fill.io.pixels import to_rgb

Row = Mapping[str, Any]
OVERALL = "overall"
_VOTES = {"leftvote": 1.0, "rightvote": 0.0, "tievote": 0.5, "bothbad_vote": 0.5, "tie": 0.5}
_FIRM_DIMENSIONS = ("execution", "consistency")
_HUMAN, _BENCH = "result/human_bench_v1.jsonl", "bench_v1.jsonl"
_BATCH = 16
"""Rows of a parquet file that are in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublicPair:
    """Two edits of one image, and which people prefer. Example: ``pair.image(pair.first)``."""

    key: str
    """What tells it from the others of its benchmark."""
    group: str
    """What it was made from, where several pairs may share it."""
    dimension: str
    """As published: ``overall``, ``prompt_following``, ``execution`` or ``consistency``."""
    instruction: str
    better: float
    """1: the first; 0: the second; 0.5: a tie."""
    source: bytes | Path
    first: bytes | Path
    second: bytes | Path

    def image(self, data: bytes | Path) -> torch.Tensor:
        """Return one of its images as ``[3, H, W]``, 0..1; ValueError if it cannot be read."""
        if isinstance(data, Path):
            with open_image(data, "download it again") as image:
                return to_tensor(to_rgb(image)).permute(2, 0, 1)
        try:
            with Image.open(io.BytesIO(data)) as image:
                check_pixels(*image.size)
                return to_tensor(to_rgb(image)).permute(2, 0, 1)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            text = f"an image of pair {self.key} cannot be read ({error}); download it again"
            raise ValueError(shorten(text)) from error


def read_public_pairs(path: Path) -> Iterator[PublicPair]:
    """Read the pairs of a benchmark, one by one.

    Example: ``for pair in read_public_pairs(Path("EditReward-Bench/2pair")): ...``.

    Args:
        path: A file, or a folder of them; the folder of FIRM-Bench-Edit.

    Raises:
        FileNotFoundError: There is no such file, or none in the folder.
        ValueError: A file is damaged or of no known form.
        ImportError: Parquet and arrow need pyarrow; says how to install it.
    """
    if (path / _HUMAN).exists():
        yield from _firm_pairs(path)
        return
    ends = (".parquet", ".arrow", ".jsonl", ".json")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in ends)
    if not files:
        raise FileNotFoundError(
            f"there is no benchmark in {label_of(path)}; give a file or folder of "
            + ", ".join(end[1:] for end in ends)
        )
    for file in files:
        for number, row in enumerate(_rows(file)):
            try:
                yield _pair(row, f"{file.relative_to(path.parent)}:{number}", file.parent)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise ValueError(
                    shorten(f"{label_of(file)}, entry {number + 1}: {what}")
                ) from error


def _pair(row: Row, key: str, root: Path) -> PublicPair:
    """Return the pair of a row of any form but FIRM-Bench's."""
    if "output_images" in row:
        first, second = row["output_images"]
        images, dimension, better = (row["input_image"], first, second), row["dimension"], 1.0
    elif "candidate_1" in row:
        images = (row["source_image"], row["candidate_1"], row["candidate_2"])
        dimension, better = OVERALL, _ranked(row["ranking"], row.get("comparison_type") or "AvsB")
    elif "left_output_image" in row:
        images = (row["source_image"], row["left_output_image"], row["right_output_image"])
        dimension = OVERALL
        if row["vote_type"] not in _VOTES:
            raise ValueError(f"vote_type is {quote(row['vote_type'])}, which is no known vote")
        better = _VOTES[row["vote_type"]]
    else:
        raise ValueError(
            "it is of no known form: candidate_1, output_images or left_output_image is expected"
        )
    source, first, second = (_image(value, root) for value in images)
    instruction = row["instruct_prompt"] if "instruct_prompt" in row else row["instruction"]
    return PublicPair(
        key=key,
        group=f"{_mark(source)}:{instruction}",
        dimension=str(dimension),
        instruction=str(instruction),
        better=better,
        source=source,
        first=first,
        second=second,
    )


def _ranked(ranking: str, comparison: str) -> float:
    """Return which candidate of ``AvsC`` is better by a ranking such as ``C>A``."""
    candidates = comparison.split("vs")
    match = re.fullmatch(r"\s*(\w)\s*([><=])\s*(\w)\s*", ranking)
    if not match or {match[1], match[3]} != set(candidates):
        raise ValueError(f"ranking {quote(ranking)} is not about {quote(comparison)}")
    if match[2] == "=":
        return 0.5
    winner = match[1] if match[2] == ">" else match[3]
    return float(winner == candidates[0])


def _image(value: Any, root: Path) -> bytes | Path:
    """Return an image's bytes, as parquet files hold it, or its file."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return root / value
    if not isinstance(value, bytes):
        raise ValueError(f"an image is {quote(value)}, but its bytes or its file are expected")
    return value


def _mark(source: bytes | Path) -> str:
    return str(source) if isinstance(source, Path) else f"{zlib.crc32(source):08x}"


def _rows(file: Path) -> Iterable[Row]:
    if file.suffix == ".jsonl":
        return read_records(file, dict)
    if file.suffix == ".json":
        rows = parse_json(read_text(file))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{label_of(file)} is no list of objects, each a pair")
        return rows
    return _table_rows(file)


def _table_rows(file: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            "reading parquet and arrow files needs the package pyarrow; install it with: "
            "pip install pyarrow"
        ) from error
    try:
        if file.suffix == ".parquet":
            batches = parquet.ParquetFile(file).iter_batches(batch_size=_BATCH)
        else:
            batches = arrow.ipc.open_stream(arrow.memory_map(str(file)))
        for batch in batches:
            yield from batch.to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            shorten(f"{label_of(file)} cannot be read ({error}); download it again")
        ) from error


def _firm_pairs(folder: Path) -> Iterator[PublicPair]:
    """Return all pairs of edits of FIRM-Bench that people scored differently."""
    bench = {record.get("id"): record for record in read_records(folder / _BENCH, dict)}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for scored in read_records(folder / _HUMAN, dict):
        record = bench.get(scored.get("id"), {}) | scored
        instruction = record.get("instruction") or record.get("prompt")
        images = record.get("image")
        if not isinstance(instruction, str) or not isinstance(images, list) or len(images) != 2:
            raise ValueError(
                f"{label_of(folder / _HUMAN)}, id {quote(record.get('id'))}: an instruction and "
                "two files as image are expected, the original and the edit"
            )
        groups[images[0], instruction].append(record)
    for (source, instruction), records in groups.items():
        for a, b in itertools.combinations(records, 2):
            for dimension in _FIRM_DIMENSIONS:
                scores = [_firm_score(record, dimension) for record in (a, b)]
                if scores[0] != scores[1]:
                    yield PublicPair(
                        key=f"{a['id']}:{b['id']}:{dimension}",
                        group=f"{source}:{instruction}",
                        dimension=dimension,
                        instruction=instruction,
                        better=float(scores[0] > scores[1]),
                        source=folder / source,
                        first=folder / a["image"][1],
                        second=folder / b["image"][1],
                    )


def _firm_score(record: Row, dimension: str) -> float:
    try:
        score = record[dimension]["score"]
        return float(score[0] if isinstance(score, list) else score)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"id {quote(record.get('id'))} of {_HUMAN} has no score of {dimension}"
        ) from error
