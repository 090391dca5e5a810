"""What a prompt loses on its way into the model is said, by the published model's own tokenizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from onereward.fill.recipe import ONEREWARD
from onereward.fill.sampling.text import prompt_notes
from support import machine

LENGTH = ONEREWARD.max_sequence_length


@pytest.fixture(scope="module")
def models() -> Any:
    folder = machine.comfyui_path() / "comfy" / "text_encoders" / "t5_tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return SimpleNamespace(tokenizer_2=tokenizer, recipe=ONEREWARD)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red cup on a wooden table",
        "Café in Zürich, façade",
        "a sign (old, rusty): 3 letters",
        "time 12:30",
        "кот",  # known, letter by letter
        "",
    ],
)
def test_plain_prompts_get_no_note(models: Any, prompt: str):
    assert prompt_notes(models, prompt) == []


@pytest.mark.parametrize(
    ("prompt", "share", "example"),
    [("一只红色的猫", "100%", "一"), ("猫 and cat", "14%", "猫"), ("a cat 😀", "20%", "😀")],
)
def test_lost_characters_are_named_with_their_share(
    models: Any, prompt: str, share: str, example: str
):
    (note,) = prompt_notes(models, prompt)
    assert note.startswith(f"{share} of the prompt")
    assert repr(example) in note


def test_a_choice_that_no_front_end_has_made_is_named(models: Any):
    (note,) = prompt_notes(models, "a {red|dark blue} cup")
    assert note.startswith("'{red|dark blue}' counts as plain text")


@pytest.mark.parametrize(
    ("prompt", "syntax"),
    [
        ("a (red:1.3) cup", "(red:1.3)"),
        ("a ((bright red: 1.25)) cup", "(bright red: 1.25)"),
        ("a cup <lora:detail_v2:0.8>", "<lora:detail_v2:0.8>"),
    ],
)
def test_syntax_of_other_programs_is_named(models: Any, prompt: str, syntax: str):
    (note,) = prompt_notes(models, prompt)
    assert repr(syntax) in note
    assert "plain text" in note


def test_what_is_cut_is_quoted(models: Any):
    words = ["word"] * (LENGTH - 1)
    assert len(models.tokenizer_2(" ".join(words)).input_ids) == LENGTH
    assert prompt_notes(models, " ".join(words)) == []
    (note,) = prompt_notes(models, " ".join([*words, "a blue sofa"]))
    assert "cut from 'a blue sofa'" in note
