"""A judge as wide as the published 7B, two layers deep: it runs and differentiates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onereward.fill.task import Task
from onereward.reward.judge import JudgeConfig
from onereward.reward.memory import judging_bytes
from onereward.reward.query import queries_for
from onereward.reward.qwen_vl import QwenJudge
from onereward.reward.score import judge_pair
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small judge's folder with the wide model in it, in bfloat16."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder = make_judge(tmp_path_factory.mktemp("wide"), REAL_LIKE)
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    for part, sizes in ((config.text_config, TEXT), (config.vision_config, VISION)):
        for name, value in sizes.items():
            setattr(part, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_it_answers_and_the_gradient_reaches_every_window(folder: Path) -> None:
    """Unequal windows: 140 x 252 pixels are 5 x 9 merged patches, windows are 4 x 4."""
    judge = QwenJudge(JudgeConfig(folder=str(folder), precision="bf16"), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 140, 252, generator=generator) for _ in range(2))
    first.requires_grad_(True)
    queries = queries_for(Task.FILL, "a red circle")[:2]
    encoded = [judge.encode(image) for image in (first, second)]
    assert [(e.rows, e.cols, e.tokens.shape[-1]) for e in encoded] == [(5, 9, 3584)] * 2
    answers = judge.ask(encoded[0], encoded[1], queries)
    assert torch.isfinite(answers).all()
    assert ((answers > 0) & (answers < 1)).all()
    (gradient,) = torch.autograd.grad(answers.log().sum(), first)
    assert torch.isfinite(gradient).all()
    windows = gradient.abs().unfold(1, 28, 28).unfold(2, 28, 28).amax(dim=(3, 4))
    assert (windows > 0).all(), "a merged patch has no gradient"
    with torch.no_grad():
        alone = torch.cat([judge.ask(encoded[0], encoded[1], [query]) for query in queries])
    # bfloat16 has 8 bits; padding and batching round differently.
    assert torch.allclose(answers, alone, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(140, 252), (504, 504)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_it_takes_the_memory_that_is_asked_for(folder: Path, size: tuple[int, int]) -> None:
    """Enough, and not so much that everything else is driven out."""
    judge = QwenJudge(JudgeConfig(folder=str(folder), precision="bf16"), torch.device("cpu"))
    pair = [torch.rand(3, *size, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    module = judge.component.module
    queries = queries_for(Task.FILL, "a red circle")
    with LiveMemory([*module.parameters(), *module.buffers()]) as memory, torch.no_grad():
        first, second = judge.encode_images(pair)
        judge_pair(judge, first, second, queries)
    assert memory.peak < judging_bytes(judge, size[0] * size[1]) < 8 * memory.peak
