"""The bundled examples are what ``lab.examples`` writes, and small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from onereward.lab.examples import ASSETS, write_examples

BUNDLED = ASSETS / "examples"
MAX_BYTES = 2_000_000
PREFERENCES = "toy-preferences"
SAMPLED = ("candidates.jsonl", "labels.jsonl", "metadata.jsonl")
"""What depends on sampled images, which differ slightly from machine to machine."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return folder


def files_of(folder: Path) -> set[Path]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if path.name != "README.md"}


def is_sampled(path: Path) -> bool:
    return path.parts[0] == PREFERENCES and (path.name in SAMPLED or path.stem.isdigit())


def pixels(path: Path) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(path) as image:
        return image.mode, image.size, image.tobytes()


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) <= MAX_BYTES


def test_data_sets_scenes_and_masks_are_the_bundled_ones(written: Path) -> None:
    """Lists byte for byte; images by their pixels, which no PNG encoder changes."""
    assert files_of(written) == files_of(BUNDLED)
    exact = [path for path in files_of(BUNDLED) if not is_sampled(path)]
    assert len(exact) > 100
    for path in exact:
        if path.suffix == ".png":
            assert pixels(written / path) == pixels(BUNDLED / path), path
        else:
            assert (written / path).read_bytes() == (BUNDLED / path).read_bytes(), path


def test_candidates_and_labels_are_of_the_same_scenes(written: Path) -> None:
    fresh, bundled = written / PREFERENCES, BUNDLED / PREFERENCES
    for path in files_of(bundled):
        if path.stem.isdigit():
            assert pixels(fresh / path)[:2] == pixels(bundled / path)[:2], path
    for name in ("candidates.jsonl", "labels.jsonl"):
        written_records, bundled_records = records(fresh / name), records(bundled / name)
        assert len(written_records) == len(bundled_records)
        for record, expected in zip(written_records, bundled_records, strict=True):
            assert record["condition"] == expected["condition"]
            assert set(record) == set(expected), name
    conditions = {record["condition"] for record in records(bundled / "candidates.jsonl")}
    keys = {frozenset(record) for record in records(bundled / "metadata.jsonl")}
    for preference in records(fresh / "metadata.jsonl"):
        assert preference["condition"] in conditions
        assert preference["judged_by"] == "oracle"
        assert frozenset(preference) in keys
