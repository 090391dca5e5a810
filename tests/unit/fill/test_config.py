from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.json_config import JsonConfig
from onereward.fill.recipe import (
    FLUX_FILL,
    ONEREWARD,
    Recipe,
    deviations,
    find_recipe,
    read_recipe,
    resolve_settings,
)

ORDER = (
    "steps true_cfg guidance negative_prompt num_candidates denoise shift cfg_mode "
    "crop_to_context context_factor target_size grow feather fill_holes colour_correction"
)


def test_order_of_the_settings_is_kept() -> None:
    """Workflow files store widget values by position: append only."""
    assert " ".join(f.name for f in fields(FillConfig)).startswith(ORDER)


@pytest.mark.parametrize(
    "config",
    [
        FillConfig(),
        FillConfig(steps=7, negative_prompt="", cfg_mode="sequential"),
        ModelConfig(folder="x"),
    ],
    ids=["default", "changed", "model"],
)
def test_json_round_trip_holds_every_value(config: FillConfig | ModelConfig) -> None:
    text = config.to_json()
    assert type(config).from_json(text) == config
    assert set(json.loads(text)) == {"format"} | {f.name for f in fields(config)}


def test_json_names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"FillConfig has unknown settings \['colour', 'stepz'\]"):
        FillConfig.from_json('{"format": 1, "stepz": 3, "colour": 1}')
    with pytest.raises(ValueError, match="format is 2"):
        FillConfig.from_json('{"format": 2}')


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": -2},
        {"steps": 1.5},
        {"steps": True},
        {"true_cfg": -0.5},
        {"true_cfg": float("nan")},
        {"denoise": 0.0},
        {"denoise": 1.1},
        {"shift": 0.0},
        {"num_candidates": 0},
        {"num_candidates": 65},
        {"cfg_mode": "both"},
        {"context_factor": 0.5},
        {"target_size": 3},
        {"grow": -2},
        {"feather": 513},
        {"fill_holes": 1},
        {"colour_correction": 1.5},
        {"negative_prompt": 3},
    ],
    ids=lambda bad: "-".join(f"{k}={v}" for k, v in bad.items()),
)
def test_a_bad_value_is_named_and_not_repaired(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FillConfig(**bad)


def test_minus_one_follows_the_recipe() -> None:
    settings = resolve_settings(FillConfig(), ONEREWARD)
    assert (settings.steps, settings.true_cfg, settings.guidance) == (50, 4.0, 1.0)
    assert settings.negative_prompt == "nsfw"
    assert deviations(FillConfig(), ONEREWARD) == ()


def test_every_departure_is_named_with_both_values() -> None:
    config = FillConfig(true_cfg=1.0, guidance=30.0, negative_prompt="")
    assert deviations(config, ONEREWARD) == (
        "true_cfg 1.0 instead of 4.0",
        "guidance 30.0 instead of 1.0",
        "negative_prompt '' instead of 'nsfw'",
    )
    assert deviations(FillConfig(true_cfg=4.0), ONEREWARD) == ()


def test_recipe_is_found_by_choice_file_or_name(tmp_path: Path) -> None:
    base = tmp_path / "FLUX.1-Fill-dev"
    dynamic = tmp_path / "flux.1-fill-dev-OneRewardDynamic-transformer"
    base.mkdir()
    dynamic.mkdir()
    assert find_recipe("auto", base, None) == FLUX_FILL
    assert find_recipe("auto", base, dynamic) == ONEREWARD
    assert find_recipe("FLUX.1 Fill", base, dynamic) == FLUX_FILL
    with pytest.raises(FileNotFoundError, match=r"no recipe\.json"):
        find_recipe("bundled", base, None)
    recipe = replace(FLUX_FILL, name="mine", steps=9)
    values = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
    (base / "recipe.json").write_text(json.dumps({"format": 1, **values}))
    assert find_recipe("auto", base, None) == recipe
    assert find_recipe("OneReward", base, None) == ONEREWARD


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "steps": 0}', '{"format": 9}']
)
def test_a_broken_recipe_names_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.json is not a recipe"):
        read_recipe(path)


@dataclass(frozen=True, kw_only=True)
class Ranges(JsonConfig):
    steps: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5}, "steps is 5, but a list of 2 entries, each a whole number, is expected"),
        ({"steps": [5]}, "a list of 2 entries"),
        ({"steps": [1.5, 2]}, "each a whole number"),
        ({"names": "nsfw"}, "names is 'nsfw', but a list of entries, each text, is expected"),
        (
            {"colour": 1},
            r"Ranges has unknown settings \['colour'\]; correct or remove them, or update",
        ),
        ([], r"Ranges is \[\], but an object of settings is expected"),
    ],
    ids=str,
)
def test_json_of_another_type_is_named(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ranges.from_values(values)
    assert Ranges.from_values({"steps": [3, 4], "names": ["a"]}).steps == (3, 4)
