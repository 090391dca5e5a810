"""What people see of a judge: its report, and what Pick Best keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.reward.judge import JudgeConfig, Judgement
from onereward.reward.judging import View, chosen_queries, rank_candidates, score_pairs
from onereward.reward.preference import Preference, PreferenceSet
from onereward.reward.report import Answer, make_report, read_report
from onereward.reward.score import Comparison, Ranking, RankingConfig
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.data.conditions import read_image, save_image
from onereward.training.data.ranking import picked_group, save_ranking
from onereward.training.judge.report import ReportConfig, report_on_judge, report_text, save_report
from support.judges import make_judge
from support.recording_host import CancelledError, RecordingHost

CELL = (Task.REMOVE, Dimension.REMOVAL_QUALITY)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> QwenJudge:
    folder = make_judge(tmp_path_factory.mktemp("judge"))
    return QwenJudge(JudgeConfig(folder=str(folder)), torch.device("cpu"))


def test_a_report_is_written_and_comes_back(tmp_path: Path) -> None:
    answers = [Answer(criterion=CELL, winner_first=0.9, loser_first=0.2)] * 3
    report = make_report([*answers, Answer(criterion=CELL, winner_first=0.3, loser_first=0.6)])
    image = save_report(tmp_path, report, "mine")
    assert read_report(tmp_path) == report
    text = (tmp_path / "report.md").read_text()
    assert text == report_text(report, "mine")
    assert text.startswith("# mine on held-out pairs")
    assert "75.0" in text
    assert "remove, removal quality: 100.0%" in text
    saved = read_image(tmp_path / "report.png")
    assert torch.allclose(saved, image[0], atol=1 / 255)


def test_what_was_compared_is_kept_once(tmp_path: Path) -> None:
    data = PreferenceSet(tmp_path)
    images = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    source, mask = torch.rand(1, 16, 16, 3), torch.ones(16, 16)
    group = picked_group(data, Task.EXTEND, "a red circle", images, (source, mask))
    beauty, structure = Dimension.AESTHETICS, Dimension.STRUCTURE
    ranking = Ranking(
        order=(1, 0, 2),
        scores=(0.4, 0.7, 0.4),
        comparisons=(
            Comparison(
                first=0, second=1, judgement=Judgement(probabilities={beauty: 0.2, structure: 0.5})
            ),
            Comparison(
                first=1, second=2, judgement=Judgement(probabilities={beauty: 0.6, structure: 0.9})
            ),
        ),
    )
    assert save_ranking(data, group, images, ranking, "judge:mine") == 3
    assert save_ranking(data, group, images, ranking, "judge:mine") == 0
    names = group.file_names
    outcomes = [
        (pair.winner_file_name, pair.loser_file_name, pair.dimension, pair.confidence)
        for pair in data.pairs()
    ]
    assert outcomes == [
        (names[1], names[0], beauty, 0.8),
        (names[1], names[2], beauty, 0.6),
        (names[1], names[2], structure, 0.9),
    ]
    assert data.groups() == [group]
    opposite = replace(
        ranking,
        comparisons=tuple(replace(c, first=c.second, second=c.first) for c in ranking.comparisons),
    )
    assert save_ranking(data, group, images, opposite, "judge:mine") == 0
    assert save_ranking(data, group, images, opposite, "judge:another") == 3
    assert save_ranking(data, group, images, ranking, "judge:another") == 0
    assert [p.judged_by for p in data.pairs()] == ["judge:mine"] * 3 + ["judge:another"] * 3
    assert data.groups() == [group]
    assert torch.allclose(read_image(data.image(names[2])), images[2], atol=1 / 255)
    assert torch.equal(read_image(data.image(group.mask_file_name), "L"), mask)
    second_group = picked_group(data, Task.EXTEND, "a blue circle", images, (None, None))
    assert second_group.condition != group.condition
    assert second_group.source_file_name == ""
    seed = picked_group(data, Task.EXTEND, "a red circle", 1 - images, (source, mask))
    assert seed.condition == group.condition, "what is made from one image stays in one split"
    assert not set(seed.file_names) & set(group.file_names)
    assert save_ranking(data, seed, 1 - images, ranking, "judge:mine") == 3
    assert data.groups() == [group, seed]
    with pytest.raises(
        ValueError, match="the mask is 8x4 pixels but the candidates are 16x16 pixels"
    ):
        picked_group(data, Task.EXTEND, "a red circle", images, (source, torch.ones(4, 8)))
    rounded = torch.tensor(0.5).nextafter(torch.tensor(1.0)).item()
    equal = Comparison(first=0, second=1, judgement=Judgement(probabilities={beauty: rounded}))
    tie = replace(ranking, comparisons=(equal,))
    assert save_ranking(data, group, images, tie, "judge:third") == 0, "nobody has won"


def test_cancel_is_heard_while_judging(judge: QwenJudge, tmp_path: Path) -> None:
    """Scores, rankings and reports ask before every comparison."""
    images = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    queries = chosen_queries(Task.REMOVE, "")
    data = PreferenceSet(tmp_path)
    for number in range(40):
        for name, image in zip("ab", images, strict=False):
            save_image(tmp_path / f"{number}{name}.png", image)
        data.add(
            Preference(
                winner_file_name=f"{number}a.png",
                loser_file_name=f"{number}b.png",
                task=CELL[0],
                dimension=CELL[1],
                condition=f"condition {number}",
            )
        )
    for at in (1, 2):
        host = RecordingHost(cancel_at_call=at)
        with pytest.raises(CancelledError):
            score_pairs(judge, (images[:2], images[2:]), queries, host, View())
    for at in (1, 4, 6):
        host = RecordingHost(cancel_at_call=at)
        with pytest.raises(CancelledError):
            rank_candidates(judge, images, queries, host, View(), RankingConfig())
    for at in (1, 2):
        host = RecordingHost(cancel_at_call=at)
        with pytest.raises(CancelledError):
            report_on_judge(judge, data, ReportConfig(split="test_and_dev"), host)
