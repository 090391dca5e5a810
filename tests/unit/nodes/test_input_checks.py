"""What every node refuses by its schema, before the queue and before it runs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

NOT_SHORT = "x" * 10_000
IMAGE, MASK = torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64)
CONSTANTS: list[tuple[str, dict[str, Any], str]] = [
    ("OneRewardFill", {"model": "x"}, "model is 'x', but a model from OneReward Load Model"),
    ("OneRewardFill", {"image": {"a": 1}}, "image is of the type dict, but IMAGE"),
    ("OneRewardFill", {"prompt": "a\0"}, "prompt holds a NUL character at position 1"),
    ("OneRewardFill", {"prompt": "\ud800"}, "prompt holds half of a character"),
    ("OneRewardFill", {"prompt": "x" * 200_001}, "prompt has 200,001 characters, but 200,000"),
    ("OneRewardFill", {"prompt": " "}, "prompt is empty"),
    ("OneRewardFill", {"seed": -1}, "seed is -1, but 0 to"),
    ("OneRewardLoadAdapter", {"strength": math.nan}, "strength is nan, but a finite number"),
    ("OneRewardLoadAdapter", {"strength": 11.0}, "strength is 11.0, but -10.0 to 10.0"),
    ("OneRewardLoadAdapter", {"adapter": NOT_SHORT}, "adapter has 10,000 characters"),
    ("OneRewardScore", {"view": "side"}, "view is 'side'; choose one of: "),
    ("OneRewardScore", {"swap": "no"}, "swap is 'no', but true or false is expected"),
    ("OneRewardSettings", {"steps": 1.5}, "steps is 1.5, but a whole number"),
]


@pytest.mark.parametrize(("node", "values", "sentence"), CONSTANTS)
def test_constants_are_refused_before_the_queue(
    node: str, values: dict[str, Any], sentence: str, nodes: ModuleType
):
    with pytest.raises((ValueError, OSError)) as refused:
        getattr(nodes, node).validate_inputs(**values)
    text = str(refused.value)
    assert text.startswith(sentence)
    assert len(text) <= 300


def test_what_is_linked_is_not_known_before_the_queue(nodes: ModuleType):
    linked = dict.fromkeys(("model", "image", "mask", "prompt", "seed"))
    assert nodes.OneRewardFill.validate_inputs(**linked) is True


def test_one_end_of_a_range_waits_for_the_other(nodes: ModuleType):
    validate = nodes.OneRewardGenerateCandidates.validate_inputs
    assert validate(guidance_min=None, guidance_max=3.0, steps_min=None, steps_max=2) is True
    with pytest.raises(ValueError, match="steps goes from 9 to 2"):
        validate(steps_min=9, steps_max=2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seed": True}, "seed is True, but a whole number"),
        ({"model": None}, "model is empty, but a model from OneReward Load Model"),
        ({"image": IMAGE[0]}, "image has shape [64, 64, 3], but"),
        ({"image": IMAGE[..., :1]}, "image has 1 channel (greyscale)"),
        ({"image": IMAGE.to(torch.uint8)}, "image has data type torch.uint8"),
        ({"image": IMAGE[:, :0]}, "image is 64x0 pixels"),
        ({"mask": MASK[None]}, "mask has shape [1, 1, 64, 64]"),
        ({"image": IMAGE / 0}, "image contains NaN or infinite values"),
        ({"context_mask": MASK / 0}, "context_mask contains NaN or infinite values"),
        ({"mask": MASK.int()}, "mask has data type torch.int32"),
        ({"settings": {"steps": 1}}, "settings is of the type dict, but what OneReward Settings"),
        ({"seed": 10**400}, "seed is 1"),
        ({"stitch_mask": 7}, "stitch_mask is 7, but MASK (a tensor)"),
    ],
)
def test_what_arrives_is_checked_before_the_node_runs(
    values: dict[str, Any], sentence: str, nodes: ModuleType
):
    from onereward.fill.models import FillModels

    valid = {"model": FillModels.__new__(FillModels), "image": IMAGE, "mask": MASK, "prompt": "a"}
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
        nodes.OneRewardFill.PREPARE_CLASS_CLONE({}).execute(**valid | values)
    assert str(refused.value).startswith(sentence)
    assert len(str(refused.value)) <= 300


def test_settings_of_training_are_those_of_its_node(nodes: ModuleType):
    further = nodes.train_policy._further_settings
    assert further({"t1": 0.5}) == {"t1": 0.5}
    with pytest.raises(ValueError, match=r"^settings holds \['steps', 'x'\]; connect OneReward"):
        further({"t1": 0.5, "x": 1, "steps": 2})  # steps is on the node itself


def make_node(nodes: ModuleType, body: Any) -> Any:
    from comfy_api.latest import io

    class Raises(nodes.node.OneRewardNode):
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(node_id="Raises", display_name="Raises", outputs=[])

        @classmethod
        def execute(cls) -> Any:
            return body()

    return Raises


def library_error() -> Any:
    return torch.zeros(2) + torch.zeros(3)


def missing_key() -> Any:
    values: dict[str, int] = {}
    return values["x"]


def too_long_name() -> None:
    Path("/tmp", "x" * 300).read_text()


def test_sentences_of_this_pack_are_raised_as_they_are(nodes: ModuleType):
    with pytest.raises(ValueError, match=r"^name is '\.\.', but up to 100 letters"):
        nodes.node.refusal(lambda: nodes.paths.work_folders.work_folder("x", ".."))
    node = make_node(nodes, lambda: nodes.paths.work_folders.work_folder("x", ".."))
    with pytest.raises(ValueError, match=r"^name is '\.\.', but up to 100 letters"):
        node.execute()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (library_error, "Raises stopped with RuntimeError: The size of tensor a"),
        (missing_key, "Raises stopped with KeyError: 'x'; this should not happen: please report"),
        (too_long_name, "cannot be used (file name too long); choose a shorter name"),
    ],
)
def test_faults_say_that_they_are_faults(body: Any, sentence: str, nodes: ModuleType):
    node = make_node(nodes, body)
    with pytest.raises(Exception, match=re.escape(sentence)) as raised:
        node.execute()
    assert len(str(raised.value)) <= 300
    assert raised.value.__cause__ is not None  # its lines are in ComfyUI's log


def test_too_little_memory_is_left_to_comfyui(nodes: ModuleType):
    def body() -> None:
        raise MemoryError("there is no room for the transformer")

    with pytest.raises(MemoryError, match=r"^there is no room for the transformer$"):
        make_node(nodes, body).execute()
