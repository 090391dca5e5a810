"""Every file that the product reads: a valid one, and the way a user's call reads it.

A format writes its valid files into a folder; corpus and fuzzer change one of them and read again.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from onereward.fill.checkpoint.adapters import read_adapter
from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.stored_tensors import open_checkpoint
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.io.files import read_header, read_weights
from onereward.fill.io.json_text import read_records, read_text
from onereward.fill.io.photo import read_photo
from onereward.fill.io.template import render_template
from onereward.fill.json_config import JsonConfig, make_record
from onereward.fill.models import load_fill_models
from onereward.fill.recipe import read_recipe
from onereward.reward.calibration import Calibration, read_calibration
from onereward.reward.cards.find_card import FOLDER as CARDS
from onereward.reward.cards.find_card import JudgeCard
from onereward.reward.exchange import import_pairs
from onereward.reward.judge import BUNDLED_FOLDER, JudgeConfig
from onereward.reward.load_judge import load_judge
from onereward.reward.preference import PreferenceSet
from onereward.reward.report import read_report
from onereward.training.data.conditions import EditDataset, read_image
from onereward.training.data.label import LabelLine
from onereward.training.evaluation.config import EvalConfig
from onereward.training.evaluation.report import Row
from onereward.training.jobs import LabelJob
from onereward.training.policy.adapter_file import read_about
from onereward.training.policy.run_models import check_inputs
from onereward.training.runs.config import RunConfig
from onereward.training.runs.directory import RunDirectory, load_state, saved_step

from .bundled_models import BUNDLED, bundled_models

CPU = torch.device("cpu")
JSON, LINES, TENSORS, BINARY, TEXT = "json", "lines", "tensors", "binary", "text"
"""Kinds of contents: what a mutation may take for granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """One format. Example: ``file_formats()['conditions.jsonl'].read(folder)``."""

    kind: str
    file: str
    """The file that is changed, below the folder."""
    write: Callable[[Path], object]
    """Writes the valid files."""
    read: Callable[[Path], Any]
    """Reads them as the product does."""
    label: str = ""
    """What messages call it; empty: the file's name."""

    @property
    def name(self) -> str:
        """What its messages must hold."""
        return self.label or Path(self.file).name


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
LORA_LAYER = "transformer_blocks.0.attn.to_q"


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


def _copy_model(source: Path, folder: Path) -> None:
    """Copy small files, and link those of weights, which nothing here changes."""
    for path in source.rglob("*"):
        target = folder / path.relative_to(source)
        if path.is_dir() or target.exists():
            target.mkdir(exist_ok=True) if path.is_dir() else None
        elif path.suffix == ".safetensors":
            target.symlink_to(path)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _load_model(folder: Path) -> Any:
    models = load_fill_models(ModelConfig(folder=str(folder), precision="fp32"), CPU)
    return models.multiple, models.max_clip_tokens


def _load_tokenizers(folder: Path) -> Any:
    models = load_fill_models(ModelConfig(folder=str(folder), precision="fp32"), CPU)
    return models.tokenizer("a red cup").input_ids, models.tokenizer_2("a cup").input_ids


def _load_judge(folder: Path) -> Any:
    judge: Any = load_judge({"folder": str(folder)}, CPU)
    return judge.answer_ids, judge.working_bytes(4096)


def _write_lora(folder: Path) -> None:
    weights = {
        f"base_model.model.{LORA_LAYER}.lora_A.weight": torch.ones(2, 128),
        f"base_model.model.{LORA_LAYER}.lora_B.weight": torch.ones(128, 2),
    }
    metadata = {"lora_adapter_metadata": '{"transformer.r": 2}', "onereward": '{"step": 1}'}
    save_file(weights, folder / "adapter_model.safetensors", metadata=metadata)
    save_file(weights, folder / "alone.safetensors", metadata=metadata)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"to_q": 2}}
    config |= {"alpha_pattern": {"to_q": 8}, "use_rslora": False, "use_dora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _read_lora(folder: Path) -> Any:
    return len(read_adapter(folder, 1.0, bundled_models().transformer_tensors).weights)


def _read_lora_file(folder: Path) -> Any:
    path = folder / "alone.safetensors"
    return read_about(path), read_adapter(path, 1.0, bundled_models().transformer_tensors).name


def _write_judge_adapter(folder: Path) -> None:
    _write_lora(folder)
    notes = {"format": 1, "template_version": 1, "base": "x", "steps": 4, "view": "crop"}
    (folder / "onereward.json").write_text(json.dumps(notes))


def _read_judge_adapter(folder: Path) -> Any:
    judge: Any = load_judge({"folder": str(JudgeConfig().folder), "adapter": str(folder)}, CPU)
    return judge.notes


def _write_shards(folder: Path) -> None:
    names = {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}
    for key, name in names.items():
        save_file({key: torch.ones(2, 3)}, folder / name)
    index = {"metadata": {"total_size": 48}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_transformer(folder: Path) -> None:
    source = next((BUNDLED / "transformer").glob("*.safetensors"))
    shutil.copyfile(source, folder / "fill.safetensors")


def _write_gguf(folder: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(folder / "fill.gguf"), "flux")
    writer.add_string("general.name", "tiny")
    writer.add_array("general.tags", ["a", "b"])
    values = np.arange(64 * 4, dtype=np.float32).reshape(4, 64)
    writer.add_tensor("img_in.weight", values)
    writer.add_tensor("txt_in.weight", values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi?"}]}]


def file_formats() -> dict[str, FileFormat]:
    """Return every format by its name."""
    formats: dict[str, FileFormat] = {}

    def add(kind: str, file: str, write: Any, read: Any, label: str = "", name: str = "") -> None:
        formats[name or file] = FileFormat(
            kind=kind, file=file, write=write, read=read, label=label
        )

    # Data.
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
    # Runs and settings.
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
    # The fill model.
    for file in (
        "model_index.json",
        "recipe.json",
        "scheduler/scheduler_config.json",
        *(
            f"{part}/config.json"
            for part in ("transformer", "vae", "text_encoder", "text_encoder_2")
        ),
    ):
        add(JSON, file, partial(_copy_model, BUNDLED), _load_model, label=" ")
    for file in sorted(p for n in ("tokenizer", "tokenizer_2") for p in (BUNDLED / n).iterdir()):
        name = f"{file.parent.name}/{file.name}"
        kind = JSON if file.suffix == ".json" else TEXT
        add(kind, name, partial(_copy_model, BUNDLED), _load_tokenizers, label=file.parent.name)
    add(
        JSON,
        "recipe.json",
        lambda f: shutil.copyfile(BUNDLED / "recipe.json", f / "recipe.json"),
        lambda f: read_recipe(f / "recipe.json"),
        name="recipe.json alone",
    )
    add(
        TENSORS,
        "fill.safetensors",
        _write_transformer,
        lambda f: len(FileComponent("transformer", f / "fill.safetensors").tensors),
    )
    add(BINARY, "fill.gguf", _write_gguf, lambda f: len(open_checkpoint(f / "fill.gguf").tensors))
    add(JSON, "model.safetensors.index.json", _write_shards, read_weights, label=" ")
    add(TENSORS, "adapter_model.safetensors", _write_lora, _read_lora)
    add(JSON, "adapter_config.json", _write_lora, _read_lora, label="adapter_")
    add(TENSORS, "alone.safetensors", _write_lora, _read_lora_file)
    add(
        TENSORS,
        "notes.safetensors",
        lambda f: save_file({"a": torch.ones(3)}, f / "notes.safetensors", metadata={"a": "b"}),
        lambda f: read_header(f / "notes.safetensors"),
    )
    # The judge.
    for file in sorted(BUNDLED_FOLDER.glob("*.json")):
        if file.name in (
            "config.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ):
            add(
                JSON,
                file.name,
                partial(_copy_model, BUNDLED_FOLDER),
                _load_judge,
                label=" ",
                name=f"judge {file.name}",
            )
    add(TEXT, "chat_template.jinja", partial(_copy_model, BUNDLED_FOLDER), _load_judge, label=" ")
    add(
        TEXT,
        "template.jinja",
        lambda f: shutil.copyfile(BUNDLED_FOLDER / "chat_template.jinja", f / "template.jinja"),
        lambda f: render_template(read_text(f / "template.jinja"), messages=MESSAGES),
        label=" ",
    )
    add(JSON, "onereward.json", _write_judge_adapter, _read_judge_adapter, label=" ")
    add(
        JSON,
        "adapter_config.json",
        _write_judge_adapter,
        _read_judge_adapter,
        label=" ",
        name="judge adapter_config.json",
    )
    for card in ("editreward", "editscore"):
        source = CARDS / f"{card}.json"
        add(
            JSON,
            "card.json",
            partial(_copy_card, source),
            lambda f: JudgeCard.load(f / "card.json"),
            name=f"{card} card.json",
        )
    calibration = Calibration(judge="9f", temperatures={"fill.structure": 1.5})
    add(JSON, "calibration.json", calibration.save, read_calibration)
    # Pictures.
    for kind in ("png", "jpg", "webp", "tif", "bmp"):
        add(BINARY, f"photo.{kind}", _picture(kind), partial(_read_picture, name=f"photo.{kind}"))
    return formats


def _load_settings(cls: type[JsonConfig], folder: Path) -> JsonConfig:
    return cls.load(folder / "settings.json")


def _copy_card(source: Path, folder: Path) -> None:
    shutil.copyfile(source, folder / "card.json")


def _label_scores(values: dict[str, Any]) -> Any:
    return make_record(LabelLine, values, ignores_unknown=True).candidate_scores()


def encoded_picture(image: Image.Image, kind: str) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
