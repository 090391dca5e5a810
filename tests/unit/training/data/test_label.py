from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.lab.ground_truth import WorldGroundTruth
from onereward.lab.labeller import GroundTruthLabeller
from onereward.lab.world.conditions import TASKS, sample_conditions
from onereward.lab.world.splits import Split
from onereward.reward.judge import JudgeConfig
from onereward.reward.preference import CandidateGroup, Preference, PreferenceSet
from onereward.reward.query import queries_for
from onereward.reward.score import judge_pair
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.data.conditions import save_image
from onereward.training.data.label import LABELS, LabelConfig, label, label_group
from onereward.training.data.labellers import JudgeLabeller, MetricLabeller, make_labeller
from support.judges import make_judge
from support.recording_host import CancelledError, RecordingHost

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
    ends = {p.dimension: (p.winner_file_name, p.loser_file_name) for p in pairs}
    assert ends == {
        Dimension.STRUCTURE: ("1.png", "0.png"),
        Dimension.AESTHETICS: ("0.png", "1.png"),
    }
    assert pairs[0].settings == {"winner": {"seed": 6}, "loser": {"seed": 5}}
    assert {p.judged_by for p in pairs} == {"oracle"}


@pytest.mark.parametrize(
    ("values", "margin", "num_pairs"),
    [
        ([0.5, 0.5, 0.5], 0.0, 0),
        ([0.5, 0.6, 0.55], 0.2, 0),
        ([0.5, 0.75, 0.5], 0.25, 1),
        ([0.5, float("nan"), 0.1], 0.1, 0),
    ],
    ids=["equal", "near", "clear", "unknown"],
)
def test_hardly_any_difference_drops_the_dimension(
    values: list[float], margin: float, num_pairs: int
) -> None:
    assert len(label_group(GROUP, {Dimension.STRUCTURE: values}, margin, "human")) == num_pairs


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores for 3 candidates"):
        label_group(GROUP, {Dimension.STRUCTURE: [0.1, 0.2]}, 0.0, "human")
    with pytest.raises(ValueError, match="margin is -1"):
        label_group(GROUP, {}, -1, "human")


def saved_group(data: PreferenceSet, images: torch.Tensor, **changes: Any) -> CandidateGroup:
    """Save candidates and list them."""
    values: dict[str, Any] = {"task": Task.FILL, "condition": "c", "prompt": "a red circle"}
    values |= changes
    names = tuple(f"{values['condition']}-{number}.png" for number in range(len(images)))
    for name, image in zip(names, images, strict=True):
        save_image(data.folder / name, image)
    group = CandidateGroup(file_names=names, **values)
    data.add_group(group)
    return group


@pytest.fixture
def data(tmp_path: Path) -> PreferenceSet:
    return PreferenceSet(tmp_path / "data")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> QwenJudge:
    folder = make_judge(tmp_path_factory.mktemp("judge"))
    return QwenJudge(JudgeConfig(folder=str(folder)), torch.device("cpu"))


def test_a_judges_label_is_its_own_verdict(data: PreferenceSet, judge: QwenJudge) -> None:
    """With two candidates the winner is the one the judge prefers in the swapped comparison."""
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    saved_group(data, images)
    report = label(data, JudgeLabeller(judge), 0.0, RecordingHost())
    rounded = (images * 255).round() / 255
    with torch.no_grad():
        a, b = judge.encode_images([p.permute(2, 0, 1) for p in rounded])
    candidate_scores = judge_pair(judge, a, b, queries_for(Task.FILL, "a red circle")).probabilities
    pairs = data.pairs()
    assert {p.dimension for p in pairs} == set(candidate_scores)
    assert sum(report.num_pairs.values()) == len(pairs) == 4
    for pair in pairs:
        chance = candidate_scores[pair.dimension]
        assert (pair.winner_file_name == "c-0.png") == (chance > 0.5)
        assert pair.confidence == pytest.approx(max(chance, 1 - chance), abs=1e-6)
        assert pair.judged_by == f"judge:{judge.label}"


def test_a_cancelled_run_goes_on_and_another_margin_asks_nobody(
    data: PreferenceSet, judge: QwenJudge
) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        saved_group(data, torch.rand(3, 32, 32, 3, generator=generator), condition=f"c{number}")
    with pytest.raises(CancelledError):
        label(data, JudgeLabeller(judge), 0.0, RecordingHost(cancel_at_call=10))
    some = len((data.folder / LABELS).read_text().splitlines())
    assert 0 < some < 3
    human = Preference(
        winner_file_name="a.png",
        loser_file_name="b.png",
        task=Task.FILL,
        dimension=Dimension.STRUCTURE,
        condition="c0",
        judged_by="human",
    )
    data.add(human)
    label(data, JudgeLabeller(judge), 0.0, RecordingHost())
    assert len(data.pairs()) == 1 + 3 * 4
    again = RecordingHost(cancel_at_call=1)
    assert label(data, JudgeLabeller(judge), 1.0, again).dropped == 1.0
    assert data.pairs() == [human], "pairs of others stay"


def test_the_oracle_prefers_the_truth(data: PreferenceSet) -> None:
    for task in Task:
        scene = sample_conditions(Split.TRAIN, 7, torch.tensor([TASKS.index(task.value)]))
        grey = torch.where(scene.mask[0, ..., None] > 0, 0.5, scene.source[0].permute(1, 2, 0))
        images = torch.stack([grey, scene.target[0].permute(1, 2, 0)])
        name = f"world-train-{task.value}-7"
        saved_group(data, images, task=task, condition=name, prompt=scene.prompts[0])
    label(data, GroundTruthLabeller(WorldGroundTruth()), 0.1, RecordingHost())
    pairs = data.pairs()
    assert {pair.task for pair in pairs} == set(Task)
    assert all(pair.winner_file_name.endswith("-1.png") for pair in pairs)
    assert {pair.judged_by for pair in pairs} == {"oracle"}


def test_metrics_see_a_seam(data: PreferenceSet) -> None:
    clean = torch.full((32, 32, 3), 0.5)
    seamed = clean.clone()
    seamed[8:24, 8:24] = 0.9
    mask = torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    save_image(data.folder / "mask.png", mask)
    saved_group(data, torch.stack([seamed, clean]), mask_file_name="mask.png")
    label(data, MetricLabeller(), 0.2, RecordingHost())
    (pair,) = data.pairs()
    assert (pair.winner_file_name, pair.dimension) == ("c-1.png", Dimension.CONSISTENCY)
    assert pair.judged_by == "metric:seam_step"


def test_words_are_read_by_ocr_or_it_says_how_to_install_it(data: PreferenceSet) -> None:
    save_image(data.folder / "mask.png", torch.ones(64, 160))
    images = torch.ones(2, 64, 160, 3)
    saved_group(data, images, task=Task.TEXT, mask_file_name="mask.png", prompt='the words "AB"')
    if importlib.util.find_spec("rapidocr") is None:
        with pytest.raises(ImportError, match="pip install rapidocr"):
            label(data, MetricLabeller(), 0.2, RecordingHost())
    else:
        assert label(data, MetricLabeller(), 0.2, RecordingHost()).dropped == 1.0


def test_what_cannot_be_labelled_is_refused_before_any_work(
    data: PreferenceSet, judge: QwenJudge
) -> None:
    host = RecordingHost()
    with pytest.raises(ValueError, match="holds no candidates; generate some first"):
        label(data, GroundTruthLabeller(WorldGroundTruth()), 0.1, host)
    group = saved_group(data, torch.rand(2, 32, 32, 3), condition="holiday")
    with pytest.raises(ValueError, match=r"knows nothing of 1 of 1 conditions \(holiday\)"):
        label(data, GroundTruthLabeller(WorldGroundTruth()), 0.1, host)
    with pytest.raises(ValueError, match="holiday has no mask"):
        label(data, MetricLabeller(), 0.1, host)
    with pytest.raises(ValueError, match="no judge is connected"):
        make_labeller(LabelConfig(), None)
    with pytest.raises(ValueError, match="condition holiday: the view beside the source needs"):
        label(data, JudgeLabeller(judge, "image_with_source"), 0.1, host)
    with pytest.raises(ValueError, match="choose one of: judge, metrics"):
        LabelConfig(labeller="neighbour")
    save_image(data.folder / group.file_names[1], torch.rand(16, 32, 3))
    with pytest.raises(ValueError, match="holiday differ in size"):
        label(data, JudgeLabeller(judge), 0.1, host)


def test_a_label_replaces_nothing_that_it_cannot_make_again(
    data: PreferenceSet, judge: QwenJudge
) -> None:
    """Pairs of no group, and those that Pick Best has saved, are by the same judge too."""
    generator = torch.Generator().manual_seed(0)
    saved_group(data, torch.rand(3, 32, 32, 3, generator=generator))
    ranking_config = saved_group(
        data, torch.rand(3, 32, 32, 3, generator=generator), condition="picked-0"
    )
    labeller = JudgeLabeller(judge)
    pairs = [
        Preference(
            winner_file_name=winner,
            loser_file_name=loser,
            task=Task.FILL,
            dimension=Dimension.STRUCTURE,
            condition="picked-0",
            judged_by=labeller.judged_by(Dimension.STRUCTURE),
        )
        for winner, loser in (
            ("a.png", "b.png"),
            ranking_config.file_names[:2],
            ranking_config.file_names[1:],
        )
    ]
    for pair in pairs:
        data.add(pair)
    label(data, labeller, 0.0, RecordingHost())
    assert data.pairs()[:3] == pairs
    assert len({p.comparison for p in data.pairs()}) == len(data.pairs())
    label(data, labeller, 1.0, RecordingHost())
    left = data.pairs()
    assert left[:3] == pairs
    assert {p.condition for p in left} == {"picked-0"}, "its own are gone"


def test_metrics_refuse_what_they_cannot_measure_before_any_work(data: PreferenceSet) -> None:
    save_image(data.folder / "mask.png", torch.ones(64, 64))
    saved_group(data, torch.rand(2, 32, 48, 3), mask_file_name="mask.png")
    with pytest.raises(
        ValueError, match="condition c has a mask of 64x64 pixels for candidates of 48"
    ):
        label(data, MetricLabeller(), 0.2, RecordingHost())
    words = PreferenceSet(data.folder / "text")
    save_image(words.folder / "mask.png", torch.ones(32, 32))
    saved_group(
        words, torch.rand(2, 32, 32, 3), mask_file_name="mask.png", task=Task.TEXT, prompt="AB"
    )
    with pytest.raises(ValueError, match="condition c says 'AB', but metrics read the words in"):
        label(words, MetricLabeller(), 0.2, RecordingHost())
