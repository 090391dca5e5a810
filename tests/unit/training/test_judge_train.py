"""Training the judge: exact resume, no rate no change, and a case it has to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from onereward.fill.task import Dimension, Task
from onereward.reward.preference import Preference, PreferenceSet, split_of
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.pairs import Jitter, draw_batch, pictures_of
from onereward.training.judge.train import JudgeTrainer, train_judge
from support.judges import make_judge


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright pictures are better than dark ones, in one dimension of one task."""
    folder = tmp_path_factory.mktemp("data")
    data = PreferenceSet(folder)
    for number in range(24):
        names = []
        for label, level in (("bright", 200 + number), ("dark", 30 + number)):
            name = f"{number}-{label}.png"
            Image.new("RGB", (32, 32), (level, level, level)).save(folder / name)
            names.append(name)
        data.add(
            Preference(
                winner_file_name=names[0],
                loser_file_name=names[1],
                task=Task.REMOVE,
                dimension=Dimension.REMOVAL_QUALITY,
                condition=f"condition {number}",
                judged_by="human",
            )
        )
    return folder


def config(run: Path, judge: Path, data: Path, **changes: Any) -> JudgeTrainConfig:
    values: dict[str, Any] = {
        "run_folder": str(run),
        "judge_folder": str(judge),
        "data_folder": str(data),
        "steps": 4,
        "batch": 4,
        "warmup_steps": 1,
        "learning_rate": 1e-3,
        "log_every": 2,
        "test_every": 2,
        "shift": 1,
        "blur": 0.5,
        "noise": 0.02,
    }
    return JudgeTrainConfig(**values | changes)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_stop_and_resume_equals_no_stop(
    judge_folder: Path, data_folder: Path, tmp_path: Path, mode: str
) -> None:
    whole = JudgeTrainer(config(tmp_path / "a", judge_folder, data_folder, mode=mode))
    losses = [whole.train_step() for _ in range(4)]
    first = JudgeTrainer(config(tmp_path / "b", judge_folder, data_folder, mode=mode))
    first.train_step()
    first.train_step()
    second = JudgeTrainer(config(tmp_path / "b", judge_folder, data_folder, mode=mode))
    second.restore(first.snapshot(0.0))
    assert [second.train_step(), second.train_step()] == losses[2:]
    for name, parameter in second.parameters.items():
        assert torch.equal(parameter, whole.parameters[name]), name


def test_rate_zero_changes_nothing(judge_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    trainer = JudgeTrainer(config(tmp_path, judge_folder, data_folder, learning_rate=0.0))
    before = {name: p.clone() for name, p in trainer.parameters.items()}
    trainer.train_step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_it_learns_that_bright_is_better(
    judge_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, judge_folder, data_folder, steps=40, mode="full", test_every=40)
    train_judge(settings)
    trainer = JudgeTrainer(
        config(tmp_path / "again", tmp_path / "judge", data_folder, learning_rate=0.0)
    )
    cell = trainer.report("test").cells[Task.REMOVE, Dimension.REMOVAL_QUALITY]
    assert cell.accuracy == 1.0
    assert cell.swap_consistency == 1.0


def test_epochs_are_permutations_and_depend_on_the_step_alone(data_folder: Path) -> None:
    pairs = PreferenceSet(data_folder).pairs()
    seen = [p.condition for step in range(6) for p in draw_batch(pairs, step, 4, seed=3)]
    assert sorted(seen) == sorted(p.condition for p in pairs)
    assert draw_batch(pairs, 5, 4, seed=3) == draw_batch(pairs, 5, 4, seed=3)
    assert [p.condition for p in draw_batch(pairs, 0, 4, seed=4)] != seen[:4]


def test_jitter_moves_both_pictures_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 16, 16)
    a, b = Jitter(shift=3, blur=1.0).apply((picture, picture), generator)
    assert torch.equal(a, b)
    assert not torch.equal(a, picture)
    still, _ = Jitter().apply((picture, picture), generator)
    assert torch.equal(still, picture)


def test_splits_have_something_to_hold_out() -> None:
    names = [split_of(f"condition {number}") for number in range(24)]
    assert {"train", "test"} <= set(names), "the data of this file needs both"


def test_bad_data_is_named(judge_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pairs of its train split"):
        JudgeTrainer(config(tmp_path / "run", judge_folder, tmp_path / "empty"))
    data = PreferenceSet(data_folder)
    broken = data.pairs()[0]
    (tmp_path / "broken").mkdir()
    other = PreferenceSet(tmp_path / "broken")
    (tmp_path / "broken" / broken.winner_file_name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        pictures_of(other, broken)
    with pytest.raises(ValueError, match="choose one of: lora, full"):
        config(tmp_path, judge_folder, data_folder, mode="half")
