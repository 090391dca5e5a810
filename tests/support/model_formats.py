"""The files of fill models, adapters and judges, and how the product reads them."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from onereward.fill.checkpoint.adapters import read_adapter
from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.stored_tensors import open_checkpoint
from onereward.fill.config import ModelConfig
from onereward.fill.io.files import read_header, read_weights
from onereward.fill.io.json_text import read_text
from onereward.fill.io.template import render_template
from onereward.fill.models import load_fill_models
from onereward.fill.recipe import read_recipe
from onereward.reward.calibration import Calibration, read_calibration
from onereward.reward.cards.find_card import FOLDER as CARDS
from onereward.reward.cards.find_card import JudgeCard
from onereward.reward.judge import BUNDLED_FOLDER, JudgeConfig
from onereward.reward.load_judge import load_judge
from onereward.training.policy.adapter_file import read_about

from .bundled_models import BUNDLED, bundled_models
from .format_entry import BINARY, JSON, TENSORS, TEXT, AddFormat

CPU = torch.device("cpu")
LORA_LAYER = "transformer_blocks.0.attn.to_q"
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi?"}]}]


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


def _copy_card(source: Path, folder: Path) -> None:
    shutil.copyfile(source, folder / "card.json")


def add_fill_model(add: AddFormat) -> None:
    """Add what a fill model and its adapters are made of."""
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


def add_judge(add: AddFormat) -> None:
    """Add what a judge is made of."""
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
