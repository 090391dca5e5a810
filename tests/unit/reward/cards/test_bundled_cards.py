"""Every bundled card on a random model of each of its families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from unit.reward.cards.test_card_format import ANSWERS
from unit.reward.vlm.test_qwen_vl import random_images

from onereward.fill.task import Task
from onereward.reward.cards.card_judge import CardJudge, local_judge
from onereward.reward.cards.find_card import BUILT_IN, bundled_cards
from onereward.reward.judge import JudgeConfig, PairQuestion
from onereward.reward.query import queries_for
from onereward.reward.score import judge_pair
from support.judge_families import make_family
from support.judges import make_judge

CASES = [
    (name, family)
    for name, card in bundled_cards().items()
    for family in card.families
    if name != BUILT_IN
]
QUERIES = queries_for(Task.FILL, "a red circle")


def checkpoint(folder: Path, name: str, family: str) -> Path:
    """Write a random model under the published name; with heads if the card reads some."""
    make = make_judge if family == "qwen2_5_vl" else lambda path: make_family(path, family)
    make(folder)
    if name == "editreward":
        add_reward_heads(folder)
    return folder


def add_reward_heads(folder: Path) -> None:
    """As published: one embedding more, and two heads of three layers each."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 1)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(2)
    for head in bundled_cards()["editreward"].heads:
        for layer, (rows, cols) in {"0": (1024, 64), "3": (16, 1024), "5": (2, 16)}.items():
            weight = torch.randn(rows, cols, generator=generator) / cols**0.5
            tensors |= {f"{head}.{layer}.weight": weight, f"{head}.{layer}.bias": torch.zeros(rows)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("name", "family"), CASES, ids=["-".join(case) for case in CASES])
def test_card_asks_a_model_of_its_family(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / f"{bundled_cards()[name].names[0]}-tiny", name, family)
    config = JudgeConfig(folder=str(folder), precision="fp32")
    judge = local_judge(config, torch.device("cpu"))
    assert isinstance(judge, CardJudge)
    assert judge.card.name == bundled_cards()[name].name
    images = random_images((64, 64), (64, 64), (64, 64))
    if judge.is_differentiable:
        images[0].requires_grad_()
        first, second, source = judge.encode_images(images)
        judgement = judge_pair(judge, first, second, QUERIES, source=source)
        p = judge.probabilities([question(judge, first, second, source)])
        p.sum().backward()
        assert images[0].grad is not None
        assert images[0].grad.abs().sum() > 0
    else:
        # What a random model writes is no answer, so it writes what the published one does.
        text, _ = ANSWERS[name]
        ids = judge.chat.tokenizer.encode(text)
        monkeypatch.setattr(judge.model, "generate", lambda *_: ids)
        with torch.no_grad():
            first, second, source = judge.encode_images(images)
            judgement = judge_pair(judge, first, second, QUERIES, source=source)
        assert judgement.mean() == 0.5, "the same answer about both"
    assert all(0 < value < 1 for value in judgement.probabilities.values())
    assert len(judgement.probabilities) == len(QUERIES)


def question(judge: CardJudge, first: Any, second: Any, source: Any) -> Any:

    return PairQuestion(first, second, QUERIES[0], source if judge.needs_source else None)
