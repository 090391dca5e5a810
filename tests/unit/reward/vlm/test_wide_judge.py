"""A judge as wide as the published 7B, two layers deep: it runs and differentiates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onereward.fill.task import Task
from onereward.reward.judge import JudgeConfig
from onereward.reward.query import queries_for
from onereward.reward.score import judge_pair
from onereward.reward.vlm.memory import judging_bytes
from onereward.reward.vlm.qwen_vl import QwenJudge
from support.judges import REAL_LIKE, make_judge
from support.live_memory import LiveMemory

TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 1e6},
        "mrope_section": [16, 24, 24],
    },
    "initializer_range": 0.02,
}
VISION = {
    **{"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
    "initializer_range": 0.02,
}
"""Sizes of Qwen2.5-VL-7B-Instruct, from its config.json."""
WIDTHS = {"small": REAL_LIKE.width, "wide": TEXT["hidden_size"]}


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("small"), REAL_LIKE)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small judge's folder with the wide model in it, in bfloat16."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder = make_judge(tmp_path_factory.mktemp("wide"), REAL_LIKE)
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    for tower, sizes in ((config.text_config, TEXT), (config.vision_config, VISION)):
        for name, value in sizes.items():
            setattr(tower, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "precision", "tolerance"),
    # bfloat16 has 8 bits, and most processors compute wide products of it very slowly.
    [("wide", "fp32", 1e-3), ("small", "fp32", 1e-3), ("small", "bf16", 0.1)],
)
def test_it_answers_and_the_gradient_reaches_every_window(
    size: str, precision: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    """Unequal windows: 140 x 252 pixels are 5 x 9 merged patches, windows are 4 x 4."""
    folder: Path = request.getfixturevalue(f"{size}_folder")
    judge = QwenJudge(JudgeConfig(folder=str(folder), precision=precision), torch.device("cpu"))
    width = WIDTHS[size]
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 140, 252, generator=generator) for _ in range(2))
    first.requires_grad_(True)
    queries = queries_for(Task.FILL, "a red circle")[:2]
    encoded = [judge.encode(image) for image in (first, second)]
    assert [(e.rows, e.cols, e.tokens.shape[-1]) for e in encoded] == [(5, 9, width)] * 2
    answers = judge.ask(encoded[0], encoded[1], queries)
    assert torch.isfinite(answers).all()
    assert ((answers > 0) & (answers < 1)).all()
    (gradient,) = torch.autograd.grad(answers.log().sum(), first)
    assert torch.isfinite(gradient).all()
    windows = gradient.abs().unfold(1, 28, 28).unfold(2, 28, 28).amax(dim=(3, 4))
    assert (windows > 0).all(), "a merged patch has no gradient"
    with torch.no_grad():
        alone = torch.cat([judge.ask(encoded[0], encoded[1], [query]) for query in queries])
    # Padding and batching round differently.
    assert torch.allclose(answers, alone, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(140, 252), (504, 504)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_it_takes_the_memory_that_is_asked_for(
    wide_folder: Path, size: tuple[int, int], precision: str
) -> None:
    """Enough, and not so much that everything else is driven out."""
    config = JudgeConfig(folder=str(wide_folder), precision=precision)
    judge = QwenJudge(config, torch.device("cpu"))
    pair = [torch.rand(3, *size, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    module = judge.component.module
    queries = queries_for(Task.FILL, "a red circle")
    weights = [*module.parameters(), *module.buffers()]
    with LiveMemory(weights, has_values=False) as memory, torch.no_grad():
        first, second = judge.encode_images(pair)
        judge_pair(judge, first, second, queries)
    assert memory.peak < judging_bytes(judge, size[0] * size[1]) < 8 * memory.peak


def test_zeros_take_the_memory_of_values(small_folder: Path) -> None:
    """So that the tests above may leave the products out."""
    judge = QwenJudge(JudgeConfig(folder=str(small_folder), precision="bf16"), torch.device("cpu"))
    module = judge.component.module
    image = torch.rand(3, 140, 252, generator=torch.Generator().manual_seed(0))
    peaks = []
    for has_values in (True, False):
        weights = [*module.parameters(), *module.buffers()]
        with LiveMemory(weights, has_values=has_values) as memory, torch.no_grad():
            encoded = judge.encode(image)
            judge_pair(judge, encoded, encoded, queries_for(Task.REMOVE, ""))
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1] > 0
