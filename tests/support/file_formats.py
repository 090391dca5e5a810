"""Every file that the product reads: a valid one, and the way a user's call reads it.

A format writes its valid files into a folder; corpus and fuzzer change one of them and read again.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from onereward.fill.config import FillConfig
from onereward.fill.io.json_text import read_records, read_text
from onereward.fill.io.photo import read_photo
from onereward.fill.json_config import JsonConfig, make_record
from onereward.reward.exchange import import_pairs
from onereward.reward.preference import PreferenceSet
from onereward.reward.report import read_report
from onereward.training.data.conditions import EditDataset, read_image
from onereward.training.data.label import LabelLine
from onereward.training.evaluation.config import EvalConfig
from onereward.training.evaluation.report import Row
from onereward.training.jobs import LabelJob
from onereward.training.policy.run_models import check_inputs
from onereward.training.runs.config import RunConfig
from onereward.training.runs.directory import RunDirectory, load_state, saved_step

from .format_entry import BINARY, JSON, LINES, TENSORS, TEXT, AddFormat, FileFormat
from .model_formats import add_fill_model, add_judge


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _lines(name: str, *records: dict[str, Any]) -> Callable[[Path], object]:
    return _text(name, "".join(json.dumps(record) + "\n" for record in records))


def _json(name: str, values: Any) -> Callable[[Path], object]:
    return _text(name, json.dumps(values, indent=2))


CONDITION = {
    **{"name": "cup", "task": "remove", "image_file_name": "a.png", "mask_file_name": "b.png"},
    **{"prompt": "", "text": "", "result_file_name": "c.png"},
}
PAIR = {
    **{"winner_file_name": "a.png", "loser_file_name": "b.png", "task": "fill"},
    **{"dimension": "structure", "condition": "kite", "source_file_name": "s.png"},
    **{"mask_file_name": None, "prompt": "a kite", "judged_by": "human", "confidence": 1.0},
    "settings": {"winner": {"seed": 1}},
}
GROUP = {
    **{"file_names": ["a.png", "b.png"], "task": "fill", "condition": "kite", "made_by": "9f"},
    **{"source_file_name": "s.png", "mask_file_name": "m.png", "prompt": "a kite"},
    "settings": [{"seed": 1}, {"seed": 2}],
}
LABEL = {
    **{"condition": "kite", "made_by": "9f", "labeller": "metrics"},
    **{"scores": {"consistency": [0.9, None]}, "wins": [["consistency", 0, 1, 0.8]]},
}
ROW = {
    **{"key": "cup-0", "condition": "cup", "task": "fill", "images": {"model": "a.png"}},
    **{"measures": {"model": {"seam": 0.1, "tone": None}}, "usable": {"model": True}},
}
REPORT = {
    "format": 1,
    "cells": {
        "fill.structure": {
            **{"num_pairs": 6, "accuracy": 0.8, "low": 0.7, "high": 0.9, "swap_consistency": 1.0}
        }
    },
    "calibration": [{"low": 0.5, "high": 0.6, "num_pairs": 4, "mean_score": 0.5, "accuracy": 0.5}],
}
LISTED = {
    **{"winner": "a.png", "loser": "b.png", "task": "fill", "dimension": "structure"},
    **{"source": "a.png", "prompt": "a kite", "judged_by": "me", "confidence": "0.9"},
}
CONDITIONS_OF_RUN = {"the fill model": "5d0c2e", "judge 1 (mine)": "c4d9e1"}


def _write_pictures(folder: Path) -> None:
    for name, level in (("a.png", 10), ("b.png", 200)):
        Image.new("RGB", (16, 16), (level, level, level)).save(folder / name)


def _write_list(folder: Path, name: str, text: str) -> None:
    _write_pictures(folder)
    (folder / name).write_text(text, encoding="utf-8")


def _import(folder: Path, name: str) -> int:
    shutil.rmtree(folder / "data", ignore_errors=True)
    return import_pairs(folder / name, folder / "data")


def _run_config(folder: Path) -> RunConfig:
    return RunConfig(run_folder=str(folder))


def _write_checkpoint(folder: Path) -> None:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "state.json").write_text('{"step": 10, "seconds": 8.25}')
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, checkpoint / "state.safetensors")


def _read_checkpoint(folder: Path) -> Any:
    return saved_step(folder), load_state(folder / "checkpoint")


def _picture(kind: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        pixels = (np.indices((16, 24)).sum(0) * 6).astype(np.uint8)
        image = Image.merge("RGB", [Image.fromarray(pixels)] * 3)
        options: dict[str, Any] = {"exif": _exif()} if kind != "bmp" else {}
        if kind == "png":
            image.putalpha(Image.fromarray(pixels))
        image.save(folder / f"photo.{kind}", **options)

    return write


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a kite"
    return exif.tobytes()


def _read_picture(folder: Path, name: str) -> Any:
    path = folder / name
    return read_photo(path).pixels.shape, read_image(path).shape, read_image(path, "L").shape


def _metrics(folder: Path) -> Any:
    return RunDirectory(_run_config(folder)).read_metrics()


def file_formats() -> dict[str, FileFormat]:
    """Return every format by its name."""
    formats: dict[str, FileFormat] = {}

    def add(kind: str, file: str, write: Any, read: Any, label: str = "", name: str = "") -> None:
        formats[name or file] = FileFormat(
            kind=kind, file=file, write=write, read=read, label=label
        )

    _add_data(add)
    _add_runs(add)
    add_fill_model(add)
    add_judge(add)
    # Pictures.
    for kind in ("png", "jpg", "webp", "tif", "bmp"):
        add(BINARY, f"photo.{kind}", _picture(kind), partial(_read_picture, name=f"photo.{kind}"))
    return formats


def _add_data(add: AddFormat) -> None:
    add(
        LINES,
        "conditions.jsonl",
        _lines("conditions.jsonl", CONDITION, CONDITION | {"name": "b"}),
        lambda f: EditDataset(f).conditions,
    )
    add(
        LINES,
        "metadata.jsonl",
        _lines("metadata.jsonl", PAIR, PAIR),
        lambda f: PreferenceSet(f).pairs(),
    )
    add(
        LINES,
        "candidates.jsonl",
        _lines("candidates.jsonl", GROUP, GROUP),
        lambda f: PreferenceSet(f).groups(),
    )
    add(
        LINES,
        "labels.jsonl",
        _lines("labels.jsonl", LABEL, LABEL),
        lambda f: read_records(f / "labels.jsonl", _label_scores),
    )
    add(
        LINES,
        "results.jsonl",
        _lines("results.jsonl", ROW, ROW),
        lambda f: read_records(f / "results.jsonl", partial(make_record, Row), allows_nan=True),
    )
    add(
        LINES,
        "pairs.jsonl",
        partial(_write_list, name="pairs.jsonl", text=json.dumps(LISTED) + "\n"),
        partial(_import, name="pairs.jsonl"),
    )
    csv = ",".join(LISTED) + "\n" + ",".join(LISTED.values()) + "\n"
    add(
        TEXT,
        "pairs.csv",
        partial(_write_list, name="pairs.csv", text=csv),
        partial(_import, name="pairs.csv"),
    )
    add(TEXT, "kite.txt", _text("kite.txt", "a red kite"), lambda f: read_text(f / "kite.txt"))


def _add_runs(add: AddFormat) -> None:
    add(
        JSON,
        "config.json",
        lambda f: RunDirectory(_run_config(f)),
        lambda f: RunDirectory(_run_config(f)).path,
        name="run config.json",
        label=" ",
    )
    add(JSON, "checkpoint/state.json", _write_checkpoint, _read_checkpoint)
    add(TENSORS, "checkpoint/state.safetensors", _write_checkpoint, _read_checkpoint)
    add(
        LINES,
        "metrics.jsonl",
        _lines("metrics.jsonl", {"step": 1, "loss": 0.5}, {"step": 2}),
        _metrics,
    )
    add(
        JSON,
        "inputs.json",
        _json("inputs.json", CONDITIONS_OF_RUN),
        lambda f: check_inputs(f, CONDITIONS_OF_RUN),
        label=" ",
    )
    add(JSON, "report.json", _json("report.json", REPORT), read_report)
    for config in (FillConfig(), EvalConfig(), LabelJob(preferences_folder="data")):
        add(
            JSON,
            "settings.json",
            _text("settings.json", config.to_json()),
            partial(_load_settings, type(config)),
            name=f"{type(config).__name__} settings.json",
        )


def _load_settings(cls: type[JsonConfig], folder: Path) -> JsonConfig:
    return cls.load(folder / "settings.json")


def _label_scores(values: dict[str, Any]) -> Any:
    return make_record(LabelLine, values, ignores_unknown=True).candidate_scores()


def encoded_picture(image: Image.Image, kind: str) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
