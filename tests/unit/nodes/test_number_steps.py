"""Numbers in the front end: a widget shows the value it holds, and takes the one that is typed."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onereward.fill.recipe import FLUX_FILL, ONEREWARD

WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"
USUAL: dict[str, tuple[float, ...]] = {
    "learning_rate": (1e-3, 5e-4, 1e-4, 3e-5, 1e-5, 1e-6, 5e-7),
    "ema_decay": (0.9, 0.99, 0.995, 0.999, 0.9999),
    "kl_weight": (0.001, 0.01, 0.04, 0.1),
    "weight_decay": (0.001, 0.01, 0.1),
    "max_grad_norm": (0.05, 0.5, 1.0, 10.0),
    "alpha": (0.5, 8, 32, 64),
    "max_minutes": (0.5, 30, 600),
    "memory_limit": (7.5, 11.5, 16, 24),
    "strength": (0.25, 0.75, 0.8, 1.25),
    "context_factor": (1.25, 1.5, 3.0),
    "denoise": (0.35, 0.8, 0.95),
    "true_cfg": (1.0, 2.25, 3.5, 7.0, FLUX_FILL.true_cfg, ONEREWARD.true_cfg),
    "guidance": (2.5, 3.5, FLUX_FILL.guidance, ONEREWARD.guidance),
    "target_size": (64, 512, 768, 1000, ONEREWARD.target_size),
    "steps": (20, 28, ONEREWARD.steps),
    "max_pixels": (512 * 512, 1024 * 1024, 1_000_000),
    "max_pairs": (100, 256, 500),
    **dict.fromkeys(("text_alignment", "consistency", "structure", "aesthetics"), (0.25, 0.5, 2.0)),
    **dict.fromkeys(("weight_fill", "weight_extend", "weight_remove"), (0.05, 0.25, 0.5)),
}
"""What people type, by input."""


@pytest.fixture(scope="module")
def inputs(nodes: ModuleType) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the front end is told of every number: by node and input."""
    io = nodes.inputs.io
    kinds = (io.Int.Input, io.Float.Input)
    return {
        (node.__name__, i.id): i.as_dict() | {"is_float": isinstance(i, io.Float.Input)}
        for node in asyncio.run(nodes.OneRewardExtension().get_node_list())
        for i in node.define_schema().inputs
        if isinstance(i, kinds)
    }


def digits(options: dict[str, Any]) -> int:
    """Return how many decimals the front end (1.32 to 1.58) shows and keeps of a float."""
    return max(0, -math.floor(math.log10(options.get("step", 0.5))))


def shown(value: float, options: dict[str, Any]) -> float:
    """Return a value as its widget shows it."""
    return _to_fixed(value, digits(options)) if options["is_float"] else value


def typed(value: float, options: dict[str, Any]) -> float:
    """Return what a widget makes of a value that is typed."""
    low, high = options["min"], options["max"]
    value = min(max(value, low), high)
    if options["is_float"]:
        precision = digits(options)
        value = _to_fixed(value, precision) if precision else value
        return min(max(value, low), high)
    step = options.get("step", 1)
    offset = math.fmod(low, step) if step > 1 else 0  # JavaScript's %, which keeps the sign
    return math.floor((value - offset) / step + 0.5) * step + offset


def _to_fixed(value: float, precision: int) -> float:
    exact = Decimal(str(value)).quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP)
    return float(exact)


def template_values() -> Iterator[tuple[str, str, float]]:
    """Return node, input and value of every number in the shipped workflows."""
    for path in sorted((WORKFLOWS / "api").glob("*.json")):
        for node in json.loads(path.read_text(encoding="utf-8")).values():
            for name, value in node["inputs"].items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield node["class_type"], name, value


def test_every_float_says_its_step(inputs: dict[tuple[str, str], dict[str, Any]]):
    missing = [name for name, i in inputs.items() if i["is_float"] and "step" not in i]
    assert not missing, "the front end would take 0.5 and show one decimal"


def test_defaults_are_shown_and_can_be_typed(inputs: dict[tuple[str, str], dict[str, Any]]):
    for name, options in inputs.items():
        default = options["default"]
        assert shown(default, options) == typed(default, options) == default, name


def test_limits_can_be_typed(inputs: dict[tuple[str, str], dict[str, Any]]):
    for name, options in inputs.items():
        if options["is_float"]:
            assert typed(options["min"], options) == options["min"], name
            assert typed(options["max"], options) == options["max"], name


def test_usual_values_are_shown_and_can_be_typed(
    inputs: dict[tuple[str, str], dict[str, Any]],
):
    assert set(USUAL) <= {name for _, name in inputs}
    for (node, name), options in inputs.items():
        for value in USUAL.get(name, ()):
            assert shown(value, options) == typed(value, options) == value, (node, name, value)


def test_numbers_of_the_templates_are_shown_and_can_be_typed(
    inputs: dict[tuple[str, str], dict[str, Any]],
):
    values = [entry for entry in template_values() if entry[:2] in inputs]
    assert values
    for node, name, value in values:
        options = inputs[node, name]
        assert shown(value, options) == typed(value, options) == value, (node, name, value)


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        (0.25, {"is_float": True, "min": 0.0, "max": 1.0}, 0.3),
        (1024, {"is_float": False, "min": -1, "max": 4096, "step": 16}, 1023),
        (262144, {"is_float": False, "min": 784, "max": 1 << 26, "step": 784}, 261856),
        (1e-6, {"is_float": True, "min": 1e-6, "max": 1.0, "step": 0.1}, 1e-6),
    ],
    ids=["no-step", "offset-of-the-minimum", "coarse-step", "clamped-after-rounding"],
)
def test_the_formula_is_the_front_ends(value: float, options: dict[str, Any], expected: float):
    assert typed(value, options) == expected
