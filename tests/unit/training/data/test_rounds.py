"""Rounds: what a trained policy paints joins the preference data that its judge came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from onereward.fill.models import FillModels
from onereward.fill.task import Dimension, Task
from onereward.reward.judge import JudgeConfig
from onereward.reward.preference import (
    GROUPS,
    CandidateGroup,
    Preference,
    PreferenceSet,
    by_split,
    split_of,
)
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.data.conditions import EditDataset
from onereward.training.data.generate import GenerateConfig, generate_candidates
from onereward.training.data.label import LABELS, label
from onereward.training.data.labellers import JudgeLabeller
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.train import train_judge
from support.adapter_files import make_adapter
from support.bundled_models import bundled_models
from support.judges import make_judge
from support.policy_runs import make_conditions
from support.recording_host import CancelledError, RecordingHost

QUICK = GenerateConfig(num_candidates=2, steps=(1, 2))


class CancelsAt(RecordingHost):
    """Cancels as soon as so many groups are listed."""

    def __init__(self, data: PreferenceSet, num: int) -> None:
        super().__init__()
        self._data, self._num = data, num

    def check_cancelled(self) -> None:
        if len(self._data.groups()) >= self._num:
            raise CancelledError


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def judge(judge_folder: Path) -> QwenJudge:
    return QwenJudge(JudgeConfig(folder=str(judge_folder)), torch.device("cpu"))


@pytest.fixture
def conditions(tmp_path: Path) -> EditDataset:
    return EditDataset(make_conditions(tmp_path / "conditions", per_task=1))


@pytest.fixture
def policy(tmp_path: Path) -> FillModels:
    """The bundled model with an adapter, as OneReward Train hands it over."""
    return bundled_models().with_adapter(make_adapter(tmp_path / "adapter.safetensors", 1), 1.0)


def made(conditions: EditDataset, models: FillModels, data: PreferenceSet) -> int:
    return generate_candidates(conditions, models, data, QUICK, RecordingHost())


def files_of(data: PreferenceSet, groups: Sequence[CandidateGroup]) -> dict[str, bytes]:
    names = [
        name
        for group in groups
        for name in (*group.file_names, group.source_file_name, group.mask_file_name)
    ]
    return {name: data.image(name).read_bytes() for name in names}


def without_maker(data: PreferenceSet) -> None:
    """Turn the list into one of the time before groups named their maker."""
    path = data.folder / GROUPS
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r | {"made_by": ""}) + "\n" for r in rows))
    text = path.read_text().replace(', "made_by": ""', "")
    assert "made_by" not in text
    path.write_text(text)


def test_another_model_adds_groups_and_the_same_one_nothing(
    conditions: EditDataset, policy: FillModels, tmp_path: Path
) -> None:
    data, base = PreferenceSet(tmp_path / "data"), bundled_models()
    assert made(conditions, base, data) == 8
    first = data.groups()
    images = files_of(data, first)
    assert made(conditions, policy, data) == 8
    groups = data.groups()
    assert groups[:4] == first
    assert [g.condition for g in groups[4:]] == [g.condition for g in first]
    assert [g.settings for g in groups[4:]] == [g.settings for g in first], "comparable rounds"
    assert len({g.made_by for g in groups}) == 2
    assert len(files_of(data, groups)) == 2 * len(images)
    assert files_of(data, first) == images
    new = files_of(data, groups[4:])
    assert any(new[n] not in images.values() for g in groups[4:] for n in g.file_names)
    assert made(conditions, base, data) == made(conditions, policy, data) == 0
    assert data.groups() == groups
    alone = PreferenceSet(tmp_path / "alone")
    made(conditions, policy, alone)
    assert alone.groups() == groups[4:]


def test_a_second_round_that_was_cancelled_goes_on(
    conditions: EditDataset, policy: FillModels, tmp_path: Path
) -> None:
    data = PreferenceSet(tmp_path / "data")
    made(conditions, bundled_models(), data)
    with pytest.raises(CancelledError):
        generate_candidates(conditions, policy, data, QUICK, CancelsAt(data, 6))
    assert len(data.groups()) == 6
    assert made(conditions, policy, data) == 2 * 2
    assert len({(g.condition, g.made_by) for g in data.groups()}) == len(data.groups()) == 8


def test_data_that_names_no_maker_stays_and_is_round_one(
    conditions: EditDataset, policy: FillModels, judge: QwenJudge, tmp_path: Path
) -> None:
    data = PreferenceSet(tmp_path / "data")
    made(conditions, bundled_models(), data)
    without_maker(data)
    labeller = JudgeLabeller(judge)
    label(data, labeller, 0.0, RecordingHost())
    path = data.folder / LABELS  # labels of that time name none either
    path.write_text(path.read_text().replace(', "made_by": ""', ""))
    first, pairs, text = data.groups(), data.pairs(), path.read_text()
    assert {group.made_by for group in first} == {""}
    assert "made_by" not in text
    assert made(conditions, bundled_models(), data) == 0
    assert made(conditions, policy, data) == 8
    assert data.groups()[:4] == first
    label(data, labeller, 0.0, RecordingHost())
    assert data.pairs()[: len(pairs)] == pairs
    assert path.read_text().startswith(text)
    assert len(path.read_text().splitlines()) == 8, "what was labelled is not asked again"


def test_a_judge_learns_from_both_rounds(
    conditions: EditDataset,
    policy: FillModels,
    judge: QwenJudge,
    judge_folder: Path,
    tmp_path: Path,
) -> None:
    data, labeller = PreferenceSet(tmp_path / "data"), JudgeLabeller(judge)
    made(conditions, bundled_models(), data)
    names = data.groups()[0].file_names
    human = Preference(
        winner_file_name=names[0],
        loser_file_name=names[1],
        task=Task.FILL,
        dimension=Dimension.STRUCTURE,
        condition=data.groups()[0].condition,
        judged_by="human",
    )
    data.add(human)
    label(data, labeller, 0.0, RecordingHost())
    first = data.pairs()
    made(conditions, policy, data)
    report = label(data, labeller, 0.0, RecordingHost())
    pairs = PreferenceSet(data.folder).pairs()
    assert human in pairs
    assert pairs[: len(first)] == first
    assert len(pairs) == 1 + sum(report.num_pairs.values()) > len(first)
    rounds = [(p.winner_file_name, p.loser_file_name) for p in pairs]
    owners = {name: group.made_by for group in data.groups() for name in group.file_names}
    assert all(len({owners[name] for name in names}) == 1 for names in rounds)
    train = by_split(pairs)["train"]
    assert {owners[p.winner_file_name] for p in train} == set(owners.values())
    assert {split_of(p.condition) for p in train} == {"train"}
    settings = JudgeTrainConfig(
        run_folder=str(tmp_path / "run"),
        judge_folder=str(judge_folder),
        preferences_folder=str(data.folder),
        steps=1,
        batch_size=len(train),
        warmup_steps=1,
    )
    host = RecordingHost()
    adapter = train_judge(settings, host)
    assert (adapter / "adapter_model.safetensors").is_file()
    assert any(f"{len(train)} pairs to learn from" in line for line in host.lines)
