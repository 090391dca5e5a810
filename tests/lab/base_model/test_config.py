"""Configs: round trips, and one clear sentence for what cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest

from onereward.lab.base_model.config import FillTrainConfig, VaeTrainConfig

SHIPPED = Path(__file__).parents[3] / "lab" / "base_model" / "configs"


def _vae(**values: object) -> VaeTrainConfig:
    return VaeTrainConfig(run_folder="runs/x", **values)  # type: ignore[arg-type]


def _fill(**values: object) -> FillTrainConfig:
    return FillTrainConfig(run_folder="runs/x", vae_folder="vae", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [_vae(seed=4), _fill(width=64)], ids=["vae", "fill"])
def test_json_round_trip(config: VaeTrainConfig | FillTrainConfig):
    assert type(config).from_json(config.to_json()) == config


def test_shipped_configs_are_valid():
    for path in sorted(SHIPPED.glob("*.json")):
        kind = VaeTrainConfig if path.stem.startswith("vae") else FillTrainConfig
        assert kind.load(path).run_folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"run_folder": "x", "learnig_rate": 1}', r"unknown settings \['learnig_rate'\]"),
        ("{}", r"settings \['run_folder'\] are missing"),
        ("[1]", "an object of settings is expected"),
        ("{", "cut off in the middle of its JSON"),
        ('{"format": 9, "run_folder": "x"}', "config format is 9.*update this pack"),
        ('{"run_folder": 3}', "run_folder is 3, but text is expected"),
        ('{"run_folder": "x", "seed": "4"}', "seed is '4', but a whole number is expected"),
        ('{"run_folder": "x", "seed": true}', "seed is True, but a whole number is expected"),
        ('{"run_folder": "x", "photo_folders": "a"}', "a list of entries, each text, is expected"),
        ('{"run_folder": "x", "photo_share": null}', "photo_share is None, but a number is"),
    ],
    ids=[
        *("unknown-key", "missing-key", "list", "broken", "format"),
        *("number-for-text", "text-for-number", "switch-for-number", "text-for-list", "null"),
    ],
)
def test_bad_json_is_one_sentence(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        VaeTrainConfig.from_json(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 100}, "width 100 is no multiple of 32"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"decay_steps": 9, "steps": 3}, "decay_steps is more than steps"),
        ({"task_weights": (1.0, 1.0)}, "give four"),
        ({"drop_prompt": 1.0}, "drop_prompt is 1.0"),
        ({"photo_share": -0.1}, "photo_share is -0.1"),
    ],
    ids=str,
)
def test_impossible_values_are_named(values: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        replace(_fill(), **values)


def test_impossible_vae_widths_are_named():
    with pytest.raises(ValueError, match=r"block_channels \[12\]"):
        _vae(block_channels=(8, 12))


def test_missing_config_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*gone\.json"):
        VaeTrainConfig.load(tmp_path / "gone.json")
