"""Folders as people have them: newly saved, packed, with heads, without a config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from onereward.fill.task import Task
from onereward.lab.judge.build import CHAT_TEMPLATE
from onereward.reward.judge import JudgeConfig, JudgeError
from onereward.reward.query import queries_for
from onereward.reward.vlm.families import MODEL_TYPES
from onereward.reward.vlm.model import VisionLanguageModel
from onereward.reward.vlm.qwen_vl import QwenJudge
from support.judge_families import make_family
from support.judges import make_judge, random_images

CPU = torch.device("cpu")
QUERIES = queries_for(Task.FILL, "a red circle")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("judge"), "qwen3_vl")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "judge"))


def load(folder: Path) -> QwenJudge:
    return QwenJudge(JudgeConfig(folder=str(folder)), CPU)


def test_a_folder_saved_by_a_whole_processor_answers_the_same(original: Path, folder: Path) -> None:
    """As transformers 5 writes it: one file for all settings, the template in its own."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    processor: Any = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(folder),
        tokenizer=load(folder).tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    for name in ("preprocessor_config.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    processor.save_pretrained(folder)
    assert (folder / "processor_config.json").is_file()
    assert not (folder / "preprocessor_config.json").exists(), "else nothing is tested"
    images = random_images((64, 96), (1000, 800))
    answers = []
    for judge in (load(original), load(folder)):
        first, second = judge.encode_images(images)
        answers.append(judge.ask(first, second, QUERIES))
    assert torch.equal(*answers)


def test_a_template_inside_the_processors_file_is_found(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    image_processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    values = {"image_processor": image_processor, "chat_template": template}
    (folder / "processor_config.json").write_text(json.dumps(values))
    assert load(folder).chat.template == template
    (folder / "processor_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(JudgeError, match="has no image_processor; download preprocessor_config"):
        load(folder)


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "fp8"])
def test_packed_folders_are_refused_at_once(folder: Path, method: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(JudgeError, match=rf"quantised \({method}\).*original folder in bf16"):
        load(folder)


@pytest.mark.parametrize("name", ["rm_head.0.weight", "score.weight", "v_head.summary.weight"])
def test_a_head_that_nobody_reads_is_refused(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(1, 64)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(JudgeError, match=rf"has {name}, a head .* choose a card") as error:
        load(folder)
    assert len(str(error.value)) <= 300
    head = name.split(".")[0] + "."
    model = VisionLanguageModel(JudgeConfig(folder=str(folder)), CPU, heads=(head,))
    assert model.tensors[name].shape == (1, 64)


def test_weights_for_faster_generation_are_no_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    extra = {"mtp.fc.weight": torch.zeros(2, 2)}
    save_file(tensors | extra, folder / "model.safetensors", {"format": "pt"})
    load(folder)


def test_the_older_families_tensors_are_known_by_either_name(tmp_path: Path) -> None:
    older = make_judge(tmp_path / "judge")
    tensors = load_file(older / "model.safetensors")
    load(older)
    starts = {"visual.": "model.visual.", "model.": "model.language_model."}
    renamed = {}
    for name, tensor in tensors.items():
        old = next(start for start in starts if name.startswith(start))
        renamed[starts[old] + name.removeprefix(old)] = tensor
    save_file(renamed, older / "model.safetensors", {"format": "pt"})
    load(older)


def test_a_single_file_is_refused_with_the_way_that_works(original: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(original / "model.safetensors", tmp_path / "qwen3vl.safetensors"))
    with pytest.raises(JudgeError, match=r"single file.*OneReward Judge From Native"):
        load(file)


def test_a_family_that_transformers_lacks_says_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL_TYPES, "qwen3_vl", "Qwen9VLForConditionalGeneration")
    with pytest.raises(JudgeError, match="no Qwen9VLForConditionalGeneration; update it with: pip"):
        load(folder)
