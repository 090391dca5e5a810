"""Measurements of trained policies: counted by hand, and of a policy that learned nothing."""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from onereward.lab.adapters import publish
from onereward.lab.adapters.control import BUNDLED, control_config, make_scenes
from onereward.lab.adapters.train_adapters import with_seed
from onereward.lab.adapters.usability import Scenes, random_scenes
from onereward.lab.ground_truth import OracleReward
from onereward.lab.judge.learner import load_whole_judge
from onereward.lab.world.conditions import TASKS
from onereward.lab.world.splits import Split
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.run import ADAPTER, train_policy
from support.policy_runs import run_models_for
from support.recording_host import RecordingHost


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return random_scenes(BUNDLED, Split.DEV, 2)


def test_means_intervals_and_counts_by_hand(scenes: Scenes) -> None:
    before = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, math.nan, math.nan])
    after = torch.tensor([[1.0, 1, 0, 1, 0, 1, 0, 0], [1.0, 0, 1, 1, 0, 1, 0, 0]])
    tasks = publish._by_task(scenes, before, after)
    assert set(tasks) == {"fill", "extend", "remove", "all"}  # nothing is known of text
    fill = tasks["fill"]
    assert (fill["before"], fill["after"], fill["each"]) == (0.5, 0.75, [1.0, 0.5])
    assert (fill["won"], fill["lost"], fill["p"]) == (1, 1, 1.0)
    changes = [1.0, -0.5]
    assert fill["change"] == pytest.approx(statistics.mean(changes))
    reach = 1.96 * statistics.stdev(changes) / math.sqrt(2)
    assert fill["interval"] == pytest.approx((0.25 - reach, 0.25 + reach))
    assert (tasks["all"]["won"], tasks["all"]["lost"]) == (2, 2)


def test_votes_are_of_the_mean_score(scenes: Scenes) -> None:
    nan = math.nan
    base = torch.full((8,), 0.5)
    runs = torch.tensor([[0.6, 0.5, 0.4, 0.51, 0.9, 0.49, 0.5, 0.5]])
    scores = {"a": (base, runs), "b": (base.clone().fill_(nan), runs.clone().fill_(nan))}
    votes = publish._votes(scenes, scores)
    assert [votes["fill"][k] for k in ("good", "same", "bad")] == [1, 1, 0]
    assert [votes["extend"][k] for k in ("good", "same", "bad")] == [0, 1, 1]
    assert [votes["all"][k] for k in ("good", "same", "bad")] == [2, 5, 1]


def test_a_policy_that_learned_nothing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = make_scenes(tmp_path / "conditions", 40)
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, run in enumerate(runs):
        config = replace(
            control_config(run, conditions, 1, seed=seed, learning_rate=0.0),
            batch_size=2,
            micro_batch_size=2,
            sampling_steps=2,
        )
        train_policy(config, RecordingHost(), replace(run_models_for(config), reward=OracleReward))
    target = tmp_path / "adapters"
    target.mkdir()
    (target / "old.safetensors").touch()
    words = ["publish", str(target), f"fixed={runs[0]},{runs[1]}", "--scenes", "2"]
    monkeypatch.setattr(sys, "argv", words)
    publish.main()
    assert {path.name for path in target.iterdir()} == {
        "README.md",
        "fixed.safetensors",
        publish.NUMBERS,
    }
    numbers = json.loads((target / publish.NUMBERS).read_text())["fixed"]
    assert numbers["seeds"] == [0, 1]
    assert set(numbers["usable"]) == {*TASKS, "all"}
    for task in numbers["usable"].values():
        assert (task["change"], task["won"], task["lost"]) == (0, 0, 0)
    assert numbers["votes"]["all"] == {"good": 0, "same": 8, "bad": 0, "p": 1.0}
    text = (target / "README.md").read_text()
    assert text == capsys.readouterr().out
    assert "seeds 0, 1; sampled in 2 steps at true_cfg 1" in text
    trained, copied = load_file(runs[0] / ADAPTER), load_file(target / "fixed.safetensors")
    assert all(torch.equal(tensor, copied[name]) for name, tensor in trained.items())


def test_the_card_is_made_of_the_bundled_numbers() -> None:
    folder = BUNDLED.parent / "adapters"
    numbers = json.loads((folder / publish.NUMBERS).read_text())
    assert (folder / "README.md").read_text() == publish.card(numbers, per_task=500, draw=2)
    for measured in numbers.values():
        PolicyTrainConfig.from_json(json.dumps(measured["config"]))


@pytest.mark.parametrize("name", ["fixed", "dynamic"])
def test_the_bundled_recipes_differ_by_algorithm_and_by_seed_alone(name: str) -> None:
    folder = Path(publish.__file__).parent / "configs"
    first = PolicyTrainConfig.load(folder / "fixed.json")
    config = PolicyTrainConfig.load(folder / f"{name}.json")
    assert config.algorithm == name
    assert replace(config, algorithm="fixed", run_folder=first.run_folder) == first
    seeded = with_seed(config, 2)
    assert seeded.run_folder == f"{config.run_folder}_seed2"
    assert replace(seeded, seed=config.seed, run_folder=config.run_folder) == config


def test_the_last_evaluation_of_each_seed_counts() -> None:
    first = [{"step": 1}, {"step": 2, "eval": 0.9, "eval.fill.structure": 0.9}]
    later = [{"step": 4, "eval": 0.6, "eval.fill.structure": 0.6, "fill.structure": 0.1}]
    second = [{"step": 4, "eval": 0.7, "eval.fill.structure": 0.7, "eval.text.structure": 0.5}]
    seeds = [[*first, *later, {"step": 5}], second, first[:1]]
    evaluation = publish._last_evaluations(seeds)
    assert evaluation == {"fill.structure": pytest.approx(0.65), "text.structure": 0.5}
    rows = publish._reward_cells({"fill.structure": (0.1, 0.2), "remove.x": (0.3, 0.4)}, evaluation)
    assert rows[1:] == [
        ["fill, structure", "0.100", "0.200", "0.650"],
        ["remove, x", "0.300", "0.400", ""],
    ]


def spoil_all_but(scenes: Scenes, row: int, column: int, num: int) -> torch.Tensor:
    """Return candidates, gray inside the mask but for one, which is the scene's own image."""
    inside = scenes.conditions.mask[:, None] > 0.5
    gray = torch.where(inside, 0.5, scenes.conditions.source)
    candidates = gray.repeat(num, 1, 1, 1, 1)
    candidates[row, column] = scenes.conditions.target[column]
    return candidates


@pytest.mark.parametrize("column", range(len(TASKS)))
def test_among_several_the_oracle_and_the_judge_find_the_right_one(column: int) -> None:
    scenes = random_scenes(BUNDLED, Split.DEV, 1, seed=3)
    candidates = spoil_all_but(scenes, 1, column, 3)
    usable = scenes.best_of(candidates)
    assert usable.nonzero().flatten().tolist() == [column]
    assert not scenes.best_of(candidates[::2]).any()
    judge = load_whole_judge(BUNDLED.parent / "judge")
    best = scenes.choose(candidates, judge, RecordingHost())
    assert torch.equal(best[column], scenes.conditions.target[column])
