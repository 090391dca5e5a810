"""A demo model says what it is as soon as somebody uses it for something else, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.demo_model import unknown_words
from onereward.fill.models import load_fill_models
from onereward.fill.pipeline import run_fill
from onereward.fill.recipe import FLUX_FILL, find_recipe
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from onereward.lab.world.conditions import sample_conditions
from onereward.lab.world.splits import Split
from support.bundled_models import BUNDLED, bundled_models
from support.recording_host import RecordingHost

SENTENCE = "this is the bundled demo model, for toy scenes of 64 x 64 pixels"


def notes(prompt: str = "a red circle", height: int = 64, width: int = 64) -> tuple[str, ...]:
    mask = torch.zeros(height, width)
    mask[8:24, 8:24] = 1
    request = FillRequest(
        task=Task.FILL,
        image=torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0)),
        mask=mask,
        prompt=prompt,
        config=FillConfig(steps=1),
    )
    host = RecordingHost()
    result = run_fill(request, bundled_models(), host)
    assert set(result.notes) <= set(host.lines)
    return tuple(note for note in result.notes if "demo" in note)


def test_every_prompt_of_the_toy_world_is_known():
    prompts = sample_conditions(Split.TRAIN, 0, torch.arange(4).repeat(50)).prompts
    assert len(set(prompts)) > 50
    tokenizer = bundled_models().tokenizer_2
    assert [word for prompt in prompts for word in unknown_words(tokenizer, prompt)] == []
    assert notes() == notes(height=128, width=128) == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 129}, "but this image has 129 x 64;"),
        ({"height": 200}, "but this image has 64 x 200;"),
        ({"prompt": "a cup of coffee"}, "but it does not know 'cup', 'coffee';"),
        ({"prompt": "红色的圆"}, "but it does not know '红色的圆';"),
        (
            {"prompt": "a photo, of one two three", "width": 160},
            "but this image has 160 x 64 and it does not know 'photo', 'one', 'two';",
        ),
    ],
    ids=["wide", "tall", "words", "another script", "all"],
)
def test_a_photograph_or_another_word_gets_one_sentence(changes: dict, reason: str):
    (note,) = notes(**changes)
    assert note.startswith(SENTENCE)
    assert reason in note
    assert "choose a real model in OneReward Load Model" in note


def test_text_to_be_written_may_be_spelled():
    tokenizer = bundled_models().tokenizer_2
    assert unknown_words(tokenizer, 'the words "QXZV", and in the next line "JKW"') == []
    assert unknown_words(tokenizer, 'the words "QXZV", neon') == ["neon"]


def test_only_a_demo_model_says_so_under_any_settings(tmp_path: Path):
    config = ModelConfig(folder=str(BUNDLED), recipe="FLUX.1 Fill")
    loaded = load_fill_models(config, torch.device("cpu"))
    assert loaded.recipe == replace(FLUX_FILL, demo_side=64)
    assert find_recipe("auto", tmp_path, None).demo_side == 0
