"""ComfyUI's own text encoder as a judge, against transformers' model with the same weights."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from onereward.fill.task import Task
from onereward.lab.judge.build import CHAT_TEMPLATE
from onereward.reward.judge import JudgeError, PairQuestion
from onereward.reward.judging import View, score_pairs
from onereward.reward.load_judge import check_judge_values, load_judge
from onereward.reward.query import queries_for
from support.judges import as_uint8, random_images

QUERIES = queries_for(Task.FILL, "a red circle")
SIZES = ((256, 288), (320, 256))
"""Of whole tokens, and above the least, so that nobody resizes."""
VISION = {"hidden_size": 128, "intermediate_size": 256, "depth": 3}
DEEPSTACK = [0, 2]
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
MAX_PIXELS = 512 * 512


@pytest.fixture(scope="module")
def encoders(nodes: ModuleType) -> ModuleType:
    """ComfyUI's classes of Qwen3-VL."""
    del nodes
    return pytest.importorskip("comfy.text_encoders.qwen3vl", reason="this ComfyUI has no Qwen3-VL")


@pytest.fixture(scope="module")
def native(nodes: ModuleType) -> ModuleType:
    del nodes
    return importlib.import_module("onereward.nodes.native.native_judge")


@functools.cache
def transformers_model(is_tied: bool) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            **{"vocab_size": 151936, "head_dim": 128, "initializer_range": 0.1},
            **{"rope_parameters": rope | {"mrope_section": [24, 20, 20]}},
            **TEXT,
            **HEADS,
        },
        vision_config={
            **{"num_heads": 16, "out_hidden_size": TEXT["hidden_size"]},
            **{"deepstack_visual_indexes": DEEPSTACK, "initializer_range": 0.1},
            **VISION,
        },
        tie_word_embeddings=is_tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return Qwen3VLForConditionalGeneration(config).eval()


def as_comfy_names(model: Any) -> dict[str, torch.Tensor]:
    """The names of ComfyUI's files, which are the published ones."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def load_clip(file: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load a file as Load CLIP does; the sizes are the only thing that is not the published one."""
    encoders = importlib.import_module("comfy.text_encoders.qwen3vl")
    sd: Any = importlib.import_module("comfy.sd")
    vision = VISION | {"deepstack_visual_indexes": DEEPSTACK}
    monkeypatch.setitem(encoders.QWEN3VL_VISION, kind, vision)
    options = {f"{kind}_model_config": TEXT | HEADS}
    if kind == "qwen3vl_4b":  # known by its width alone
        monkeypatch.setattr(sd, "detect_te_model", lambda _: sd.TEModel.QWEN3VL_4B)
    return sd.load_clip([str(file)], model_options=options)


@pytest.mark.parametrize("kind", ["qwen3vl_8b", "qwen3vl_4b"])
def test_it_answers_as_transformers_does(
    encoders: ModuleType,
    native: ModuleType,
    nodes: ModuleType,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = transformers_model(is_tied=kind == "qwen3vl_4b")
    file = tmp_path / f"{kind}.safetensors"
    save_file(as_comfy_names(model), file)
    judge = native.NativeJudge(load_clip(file, kind, monkeypatch), MAX_PIXELS)
    judge.check()
    assert judge.label == f"{kind} (native)"
    images = random_images(*SIZES)
    host = nodes.comfy_host.ComfyHost(None)
    with host.resident(*judge.components, activation_bytes=judge.working_bytes(320 * 288)):
        first, second = judge.encode_images(images)
        answers = judge.probabilities([PairQuestion(first, second, q) for q in QUERIES])
        swapped = judge.probabilities([PairQuestion(second, first, q) for q in QUERIES])
    expected = torch.stack([_by_transformers(model, images, q.question()) for q in QUERIES])
    change = (answers / swapped).log().abs().max()
    assert (answers.cpu() / expected).log().abs().max() < 0.01 * change


@torch.no_grad()
def _by_transformers(model: Any, images: list[torch.Tensor], question: str) -> torch.Tensor:
    from transformers import (
        AutoTokenizer,
        Qwen2VLImageProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    encoders = importlib.import_module("comfy.text_encoders.qwen3vl")
    tokenizer: Any = AutoTokenizer.from_pretrained(
        Path(str(encoders.__file__)).parent / "qwen25_tokenizer"
    )
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    processor: Any = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16, image_mean=half, image_std=half, size=size
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    pictures = [Image.fromarray(as_uint8(i).permute(1, 2, 0).numpy()) for i in images]
    content: list[Any] = [{"type": "image"} for _ in pictures]
    content.append({"type": "text", "text": question})
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    logits = model(**processor(text=[text], images=pictures, return_tensors="pt")).logits
    return logits[0, -1].float().softmax(-1)[tokenizer.convert_tokens_to_ids("Yes")]


def test_large_pictures_are_shrunk_and_judged(
    encoders: ModuleType,
    native: ModuleType,
    nodes: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "large.safetensors"
    save_file(as_comfy_names(transformers_model(is_tied=False)), file)
    judge = native.NativeJudge(load_clip(file, "qwen3vl_8b", monkeypatch), 256 * 256)
    images = torch.rand(2, 4096, 1024, 3, generator=torch.Generator().manual_seed(0))
    host = nodes.comfy_host.ComfyHost(None)
    (judgement,) = score_pairs(judge, (images[:1], images[1:]), QUERIES[:1], host, View())
    assert 0 < judgement.mean() < 1
    encoded = judge.encode_images([images[0].permute(2, 0, 1)])
    assert encoded[0].rows * encoded[0].cols * 32 * 32 <= 256 * 256


@pytest.mark.parametrize("part", ["lm_head", "final norm"])
def test_a_file_without_its_end_is_refused(
    encoders: ModuleType,
    native: ModuleType,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = as_comfy_names(transformers_model(is_tied=False))
    if part == "lm_head":
        del tensors["lm_head.weight"]
    file = tmp_path / "short.safetensors"
    save_file(tensors, file)
    clip = load_clip(file, "qwen3vl_8b", monkeypatch)
    if part == "final norm":
        clip.cond_stage_model.qwen3vl_8b.transformer.model.norm = None
    message = "lacks its language head" if part == "lm_head" else "without its last norm"
    with pytest.raises(JudgeError, match=message) as error:
        native.NativeJudge(clip, MAX_PIXELS)
    assert len(str(error.value)) <= 300
    # A ComfyUI that does not remember the file.
    clip.patcher.cached_patcher_init = None
    with pytest.raises(JudgeError, match=message):
        native.NativeJudge(clip, MAX_PIXELS)


def test_other_text_encoders_are_refused_with_what_to_load(native: ModuleType) -> None:
    class Qwen25_7BVLI:  # noqa: N801 - ComfyUI's name
        """Stands for ComfyUI's class, which takes 15 GB."""

    class CLIPTextModel:
        """Stands for a text encoder that sees nothing."""

    for network, message in (
        (Qwen25_7BVLI(), "Qwen2.5-VL, whose language head ComfyUI leaves out"),
        (CLIPTextModel(), "CLIP is CLIPTextModel, but a judge needs a Qwen3-VL"),
    ):
        stage = SimpleNamespace(clip="part", part=SimpleNamespace(transformer=network))
        clip = SimpleNamespace(cond_stage_model=stage, patcher=SimpleNamespace())
        with pytest.raises(JudgeError, match=message) as error:
            native.NativeJudge(clip, MAX_PIXELS)
        assert len(str(error.value)) <= 300


def test_it_is_no_reward_and_only_a_record_outside_of_the_graph(
    encoders: ModuleType, native: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "judge.safetensors"
    save_file(as_comfy_names(transformers_model(is_tied=False)), file)
    clip = load_clip(file, "qwen3vl_8b", monkeypatch)
    judge = native.NativeJudge(clip, MAX_PIXELS)
    assert not judge.is_differentiable
    values = json.loads(json.dumps(judge.to_values()))
    check_judge_values(values)
    assert values["label"] == judge.label
    with pytest.raises(JudgeError, match="was in the memory of a ComfyUI server"):
        load_judge(values, torch.device("cpu"))
    patched = clip.clone()
    name = "qwen3vl_8b.transformer.model.layers.0.mlp.down_proj.weight"
    shape = clip.patcher.model.state_dict()[name].shape
    patched.add_patches({name: ("diff", (torch.ones(shape),))}, 1.0)
    other_judge = native.NativeJudge(patched, MAX_PIXELS)
    assert other_judge.digest == judge.digest
    assert other_judge.identity != judge.identity, "a LoRA changes the answers"
