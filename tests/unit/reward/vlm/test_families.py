"""Every newer family against transformers' own processor, forward pass and generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from onereward.fill.checkpoint.linear import QuantisedLinear
from onereward.fill.task import Task
from onereward.lab.judge.build import CHAT_TEMPLATE
from onereward.reward.judge import JudgeConfig, JudgeError, PairQuestion
from onereward.reward.query import queries_for
from onereward.reward.score import judge_pair
from onereward.reward.vlm.adapter import adapter_parameters, inject_lora
from onereward.reward.vlm.chat import IMAGE, Conversation, about_pair
from onereward.reward.vlm.model import ChatRow
from onereward.reward.vlm.preprocess import to_patches
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.judge.config import LORA_TARGETS
from support.judge_families import FAMILIES, make_family
from support.judges import as_uint8, random_images
from support.live_memory import LiveMemory, SavedBytes

QUERIES = queries_for(Task.FILL, "a red circle")
SIZES = ((96, 64), (128, 224))
"""Of whole tokens, which nobody resizes."""
_ATTENTION = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}
_LINEAR = {
    **{"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256},
    **{"linear_num_key_heads": 4, "linear_num_value_heads": 8},
    **{"linear_key_head_dim": 128, "linear_value_head_dim": 128},
}
WIDTHS = {
    "qwen3_vl": {"hidden_size": 640, "intermediate_size": 2432, **_ATTENTION},
    "qwen3_vl_moe": {"hidden_size": 512, "moe_intermediate_size": 192, **_ATTENTION},
    "qwen3_5": {"hidden_size": 640, "intermediate_size": 2304, **_LINEAR},
    "qwen3_5_moe": {"hidden_size": 512, "moe_intermediate_size": 128, **_LINEAR},
}
"""A quarter of those of Qwen3-VL-4B, Qwen3-VL-30B-A3B, Qwen3.5-4B and Qwen3.5-35B-A3B."""


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("judge"), request.param)


def load(folder: Path, precision: str = "fp32") -> QwenJudge:
    return QwenJudge(JudgeConfig(folder=str(folder), precision=precision), torch.device("cpu"))


@pytest.fixture(scope="module")
def judge(folder: Path) -> QwenJudge:
    return load(folder)


def folder_kind(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def processed(judge: QwenJudge, images: list[torch.Tensor], question: str) -> dict[str, Any]:
    """What transformers' own processor makes of a chat with images."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    processor: Any = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(judge.model.folder),
        tokenizer=judge.tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    pictures = [Image.fromarray(as_uint8(i).permute(1, 2, 0).numpy()) for i in images]
    content: list[Any] = [{"type": "image", "image": picture} for picture in pictures]
    content.append({"type": "text", "text": question})
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return processor(text=[text], images=pictures, return_tensors="pt")


def test_logits_equal_the_models_own_forward(judge: QwenJudge) -> None:
    """Token ids, patches, positions, deepstack features and padding, all at once."""
    images = random_images(*SIZES)
    model: Any = judge.component.module
    with torch.no_grad():
        first, second = judge.encode_images(images)
        logits = judge.answer_logits([PairQuestion(first, second, query) for query in QUERIES])
        expected = [model(**processed(judge, images, q.question())).logits[0, -1] for q in QUERIES]
        swapped = judge.answer_logits([PairQuestion(second, first, query) for query in QUERIES])
    assert torch.allclose(logits, torch.stack(expected), atol=2e-4)
    assert (logits - swapped).abs().max() > 0.02, "else the images could be anything"


def test_patches_of_any_size_equal_the_processors(judge: QwenJudge) -> None:
    (image,) = random_images((700, 500))
    patches, (rows, cols) = to_patches(image, judge.patches)
    expected = processed(judge, [image], "")
    assert expected["image_grid_thw"].tolist() == [[1, rows, cols]]
    difference = (patches - expected["pixel_values"]).abs()
    # Two passes that round to 8 bits, over a deviation of one half.
    assert difference.max() < 4 / 255
    assert difference.mean() < 1 / 255


def test_rows_of_any_length_equal_each_alone(judge: QwenJudge) -> None:
    """Linear attention would carry padding on, if it stood before a row's end."""
    encoded = judge.encode_images(random_images(*SIZES))
    rows = [
        ChatRow(judge.chat.ids(about_pair("Is it red?")), encoded),
        ChatRow(judge.chat.ids(Conversation(("Yes or No?",))), ()),
        ChatRow(
            judge.chat.ids(Conversation(("the first: ", IMAGE, " is red, is it?"))), encoded[1:]
        ),
    ]
    with torch.no_grad():
        together = judge.model.last_states(rows)
        alone = torch.cat([judge.model.last_states([row]) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)


def test_gradient_equals_finite_differences(folder: Path) -> None:
    judge = load(folder)
    model: Any = judge.component.module.double()
    if folder_kind(folder).endswith("moe"):
        model.set_experts_implementation("eager")  # the fused one knows no float64
    judge.component.dtype = torch.float64
    image, other_image = (i.double() for i in random_images((64, 64), (64, 96)))
    second = judge.encode(other_image)
    ids = judge.chat.ids(about_pair(QUERIES[0].question()))
    weights = torch.randn(64, generator=torch.Generator().manual_seed(2)).double()

    def value(x: torch.Tensor) -> torch.Tensor:
        return judge.model.last_states([ChatRow(ids, (judge.encode(x), second))])[0] @ weights

    x = image.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x), x)
    assert (gradient.abs().amax(dim=0) > 0).float().mean() > 0.99, "every pixel counts"
    direction = gradient / gradient.norm()
    step = 1e-3
    with torch.no_grad():
        rise = (value(image + step * direction) - value(image - step * direction)) / (2 * step)
    # The recurrence of linear attention is computed in float32 whatever the weights are.
    assert abs(rise - gradient.norm()) < 1e-3 * gradient.norm()


def test_swapped_scores_add_to_one(judge: QwenJudge) -> None:
    first, second = judge.encode_images(random_images(*SIZES))
    forth = judge_pair(judge, first, second, QUERIES).probabilities
    back = judge_pair(judge, second, first, QUERIES).probabilities
    assert all(abs(forth[d] + back[d] - 1) < 1e-5 for d in forth)


def test_generated_tokens_equal_the_models_own(judge: QwenJudge) -> None:
    images = random_images(*SIZES)
    model: Any = judge.component.module
    inputs = processed(judge, images, "Yes or No?")
    expected = model.generate(
        **inputs, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, inputs["input_ids"].shape[1] :].tolist()
    row = ChatRow(judge.chat.ids(about_pair("Yes or No?")), judge.encode_images(images))
    assert judge.model.generate(row, 6, stop=()) == expected
    stopped = judge.model.generate(row, 6, stop=expected[3:4])
    assert stopped == expected[: expected.index(expected[3])]


def test_an_adapter_goes_on_every_layer_and_learns(folder: Path) -> None:
    from peft import LoraConfig

    judge = load(folder)
    model: Any = judge.component.module
    inject_lora(model, LoraConfig(r=2, target_modules=LORA_TARGETS))
    parameters = adapter_parameters(model)
    layers = {name.split("layers.")[1].split(".")[0] for name in parameters}
    assert len(layers) == len(model.model.language_model.layers)
    assert not any("visual" in name for name in parameters)
    mixers = {name.split("layers.")[1].split(".")[1] for name in parameters}
    assert mixers >= {"self_attn"}
    if folder_kind(folder).startswith("qwen3_5"):
        assert "linear_attn" in mixers
    encoded = judge.encode_images(random_images(*SIZES))
    answer = judge.ask(encoded[0], encoded[1], QUERIES).log().sum()
    gradients = torch.autograd.grad(answer, list(parameters.values()))
    grown = [g.abs().max() > 0 for n, g in zip(parameters, gradients, strict=True) if "_B" in n]
    assert all(grown)


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
def test_packed_layers_answer_alike_in_the_memory_that_was_promised(
    judge: QwenJudge, folder: Path, precision: str
) -> None:
    packed = load(folder, precision)
    images = random_images(*SIZES)
    with torch.no_grad():
        answers = []
        for answering in (judge, packed):
            first, second = answering.encode_images(images)
            answers.append(answering.ask(first, second, QUERIES).log())
    assert 0 < (answers[0] - answers[1]).abs().max() < 1.0
    module = packed.component.module
    layers = [m for m in module.modules() if isinstance(m, QuantisedLinear)]
    assert layers
    values = [*module.parameters(), *module.buffers()]
    num_bytes = sum(v.numel() * v.element_size() for v in values)
    assert abs(packed.component.num_bytes - num_bytes) < 0.05 * num_bytes


def test_it_takes_the_memory_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """With the published ratios of the widths; enough, and not many times too much."""
    kind = folder_kind(folder)
    wide = make_family(tmp_path / "wide", kind, **WIDTHS[kind])
    judge = load(wide, "bf16")
    module = judge.component.module.requires_grad_(False)
    weights = [*module.parameters(), *module.buffers()]
    pair = random_images((128, 192), (128, 192))
    pixels = 128 * 192
    with LiveMemory(weights, has_values=False) as memory, torch.no_grad():
        first, second = judge.encode_images(pair)
        judge_pair(judge, first, second, QUERIES)
    assert memory.peak < judge.working_bytes(pixels) < 8 * memory.peak
    counted = SavedBytes(weights)
    with torch.autograd.graph.saved_tensors_hooks(counted.count, lambda tensor: tensor):
        first, second = judge.encode_images([pair[0].requires_grad_(True), pair[1]])
        judge.ask(first, second, QUERIES)
    assert counted.total < judge.training_bytes(pixels, 1, recompute=False) < 3 * counted.total


def test_kernels_for_other_families_are_refused_at_once(folder: Path) -> None:
    config = JudgeConfig(folder=str(folder), liger_kernel=True)
    with pytest.raises(JudgeError, match=r"Qwen2-VL and Qwen2\.5-VL alone.*switch it off"):
        QwenJudge(config, torch.device("cuda"))


def test_the_model_is_told_the_tokens_order(
    judge: QwenJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 4.57 takes equal positions in an image for texts that do not see each other."""
    language: Any = judge.component.module.model.language_model  # type: ignore[union-attr]
    inputs_seen: list[torch.Tensor] = []

    def forward(**inputs: Any) -> Any:
        inputs_seen.append(inputs["position_ids"])
        return original(**inputs)

    original = language.forward
    monkeypatch.setattr(language, "forward", forward)
    row = ChatRow(
        judge.chat.ids(about_pair("Yes or No?")), judge.encode_images(random_images(*SIZES))
    )
    judge.model.generate(row, 3, stop=())
    order = torch.cat([positions[0, 0] for positions in inputs_seen])
    assert order.tolist() == list(range(len(order)))
    assert all(len(positions) == 4 for positions in inputs_seen)
