from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.reward.judge import JudgeConfig
from onereward.reward.preference import CandidateGroup, PreferenceSet
from onereward.reward.query import queries_for
from onereward.reward.qwen_vl import QwenJudge
from onereward.reward.score import judge_pair
from onereward.training.data import save_picture
from onereward.training.label import label_by_judge, label_group
from support.hosts import RecordingHost
from support.judges import make_judge

GROUP = CandidateGroup(
    file_names=("0.png", "1.png", "2.png"),
    task=Task.FILL,
    condition="c",
    prompt="a red circle",
    settings=({"seed": 5}, {"seed": 6}, {"seed": 7}),
)


def test_best_and_worst_of_each_dimension() -> None:
    pairs = label_group(
        GROUP,
        {Dimension.STRUCTURE: [0.1, 0.9, 0.5], Dimension.AESTHETICS: [0.8, 0.2, 0.7]},
        margin=0.3,
        judged_by="oracle",
    )
    found = {p.dimension: (p.winner_file_name, p.loser_file_name) for p in pairs}
    assert found == {
        Dimension.STRUCTURE: ("1.png", "0.png"),
        Dimension.AESTHETICS: ("0.png", "1.png"),
    }
    assert pairs[0].settings == {"winner": {"seed": 6}, "loser": {"seed": 5}}
    assert {p.judged_by for p in pairs} == {"oracle"}


@pytest.mark.parametrize(
    ("values", "margin", "kept"),
    [
        ([0.5, 0.5, 0.5], 0.0, 0),
        ([0.5, 0.6, 0.55], 0.2, 0),
        ([0.5, 0.75, 0.5], 0.25, 1),
        ([0.5, float("nan"), 0.1], 0.1, 0),
    ],
    ids=["equal", "near", "clear", "unknown"],
)
def test_hardly_any_difference_drops_the_dimension(
    values: list[float], margin: float, kept: int
) -> None:
    assert len(label_group(GROUP, {Dimension.STRUCTURE: values}, margin, "human")) == kept


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores for 3 candidates"):
        label_group(GROUP, {Dimension.STRUCTURE: [0.1, 0.2]}, 0.0, "human")
    with pytest.raises(ValueError, match="margin is -1"):
        label_group(GROUP, {}, -1, "human")


def test_a_judges_label_is_its_own_verdict(tmp_path: Path) -> None:
    """With two candidates the winner is the one the judge prefers in the swapped comparison."""
    data = PreferenceSet(tmp_path / "data")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 64, 64, 3, generator=generator)
    for number, picture in enumerate(pictures):
        save_picture(data.folder / f"{number}.png", picture)
    group = CandidateGroup(
        file_names=("0.png", "1.png"), task=Task.FILL, condition="c", prompt="a red circle"
    )
    judge = QwenJudge(JudgeConfig(folder=str(make_judge(tmp_path / "judge"))), torch.device("cpu"))
    pairs = label_by_judge(group, data, judge, 0.0, RecordingHost())
    rounded = (pictures * 255).round() / 255
    with torch.no_grad():
        a, b = judge.encode_many([p.permute(2, 0, 1) for p in rounded])
    verdict = judge_pair(judge, a, b, queries_for(Task.FILL, "a red circle")).probabilities
    assert {p.dimension for p in pairs} == set(verdict)
    for pair in pairs:
        assert (pair.winner_file_name == "0.png") == (verdict[pair.dimension] > 0.5)
