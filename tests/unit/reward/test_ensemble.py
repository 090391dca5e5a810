"""Several judges as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onereward.fill.local_host import LocalHost
from onereward.fill.task import Task
from onereward.reward.ensemble import EnsembleJudge, members_of
from onereward.reward.judge import JudgeConfig, JudgeError, PairQuestion
from onereward.reward.judging import View, rank_candidates, score_pairs
from onereward.reward.load_judge import check_judge_values, load_judge
from onereward.reward.query import queries_for
from onereward.reward.score import RankingConfig, judge_pair
from onereward.reward.vlm.qwen_vl import QwenJudge
from support.judges import make_judge

QUERIES = queries_for(Task.FILL, "a kite")


class FixedJudge:
    """Always says the same numbers, one per question."""

    identity, digest, folder, components = "f", "f", None, ()
    is_differentiable = True

    def __init__(self, label: str, answers: Sequence[float] = (0.5,), **values: Any) -> None:
        self.label, self.answers = label, list(answers)
        self.notes: dict[str, Any] = values.get("notes", {})
        self.needs_source = values.get("needs_source", False)
        self.questions: list[PairQuestion] = []

    def check(self) -> None:
        if not self.answers:
            raise JudgeError("the server is not reachable")

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        return pixels * rows * len(self.answers)

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        return self.working_bytes(pixels, rows) + recompute

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[Any]:
        return [(self.label, float(image.mean())) for image in images]

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        self.check()
        self.questions += questions
        return torch.tensor((self.answers * len(questions))[: len(questions)])


def ensemble(*judges: FixedJudge, combine: str = "mean") -> EnsembleJudge:
    return EnsembleJudge(judges, combine)  # type: ignore[arg-type]


def questions_of(judge: EnsembleJudge, num: int) -> list[PairQuestion]:
    a, b, s = judge.encode_images([torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.eye(8)])
    return [PairQuestion(a, b, query, s) for query in QUERIES[:num]]


@pytest.mark.parametrize(("combine", "expected"), [("mean", [0.5, 0.5]), ("worst", [0.25, 0.125])])
def test_answers_are_combined_exactly(combine: str, expected: list[float]):
    judge = ensemble(
        FixedJudge("a", [0.25, 0.875]), FixedJudge("b", [0.75, 0.125]), combine=combine
    )
    assert judge.probabilities(questions_of(judge, 2)).tolist() == expected


def test_worst_in_both_orders_is_the_middle_and_swaps_with_the_images():
    judge = ensemble(FixedJudge("a", [0.2]), FixedJudge("b", [0.6]), combine="worst")
    (question,) = questions_of(judge, 1)
    p = judge_pair(judge, question.first, question.second, QUERIES[:1]).mean()
    # min(0.2, 0.6) = 0.2 in either order.
    assert p == pytest.approx((0.2 + 1 - 0.2) / 2)
    once = judge_pair(judge, question.first, question.second, QUERIES[:1], swap=False).mean()
    assert once == pytest.approx(0.2)


def test_each_member_gets_what_it_made_of_the_images_and_the_source_if_it_needs_it():
    blind, seeing = FixedJudge("blind"), FixedJudge("seeing", needs_source=True)
    judge = ensemble(blind, seeing)
    assert judge.needs_source
    judge.probabilities(questions_of(judge, 1))
    assert blind.questions == [PairQuestion(("blind", 0.0), ("blind", 1.0), QUERIES[0])]
    assert seeing.questions == [
        PairQuestion(("seeing", 0.0), ("seeing", 1.0), QUERIES[0], ("seeing", 0.125))
    ]


def test_source_is_asked_for_before_any_judge_works():
    judge = ensemble(FixedJudge("a"), FixedJudge("b", needs_source=True))
    images = torch.rand(2, 16, 16, 3)
    with pytest.raises(ValueError, match="needs the image before the edit"):
        score_pairs(judge, (images, images), QUERIES, LocalHost("cpu"), View())
    view = View(source=images[:1])
    assert score_pairs(judge, (images, images), QUERIES, LocalHost("cpu"), view)[0].mean() == 0.5
    ranking = rank_candidates(judge, images, QUERIES, LocalHost("cpu"), view, RankingConfig())
    assert ranking.scores == (0.5, 0.5)


def test_members_of_one_view_and_no_others():
    crop, full = {"view": "crop"}, {"view": "full_image"}
    judge = ensemble(FixedJudge("a", notes=crop), FixedJudge("b"), FixedJudge("c", notes=crop))
    assert judge.notes == crop
    assert ensemble(FixedJudge("a"), FixedJudge("b")).notes == {}
    with pytest.raises(ValueError, match="a with crop but b with full_image is how these judges"):
        ensemble(FixedJudge("a", notes=crop), FixedJudge("b", notes=full))


def test_member_that_fails_is_named_and_not_left_out():
    judge = ensemble(FixedJudge("good"), FixedJudge("bad", []))
    with pytest.raises(JudgeError, match=r"judge 2 \(bad\): the server is not reachable"):
        judge.check()
    with pytest.raises(JudgeError, match=r"judge 2 \(bad\)"):
        judge.probabilities(questions_of(judge, 1))


@pytest.mark.parametrize("num", [0, 1, 17])
def test_number_of_judges_is_limited(num: int):
    with pytest.raises(ValueError, match=f"ensemble of {num} judges"):
        EnsembleJudge([FixedJudge("a")] * num)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=f"ensemble of {num} judges"):
        check_judge_values({"kind": "ensemble", "judges": [{"folder": "bundled"}] * num})


def test_memory_is_that_of_the_largest_at_once_and_of_all_with_gradient():
    judge = ensemble(FixedJudge("a", [0.5] * 3), FixedJudge("b", [0.5] * 5))
    assert judge.working_bytes(10, 2) == 100
    assert judge.training_bytes(10, 2, True) == 162


def test_members_of_nested_ensembles():
    a, b, c = FixedJudge("a"), FixedJudge("b"), FixedJudge("c")
    nested = ensemble(ensemble(a, b), c)  # type: ignore[arg-type]
    assert members_of(nested) == [a, b, c]
    assert members_of(a) == [a]  # type: ignore[arg-type]


# -- real judges ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [make_judge(tmp_path_factory.mktemp("judge"), seed=seed) for seed in (0, 1)]


@pytest.mark.parametrize("combine", ["mean", "worst"])
def test_gradient_is_that_of_differences(random_folders: list[Path], combine: str):
    """Through calibrated and plain members, down to the pixels, along a random direction."""
    from onereward.reward.calibrated_judge import CalibratedJudge
    from onereward.reward.calibration import Calibration

    device = torch.device("cpu")
    plain, second_judge = (QwenJudge(JudgeConfig(folder=str(f)), device) for f in random_folders)
    Calibration(judge=second_judge.identity, temperature=0.5).save(random_folders[1])
    judge = EnsembleJudge((plain, CalibratedJudge(second_judge, random_folders[1])), combine)
    assert judge.is_differentiable
    generator = torch.Generator().manual_seed(0)
    first, second, direction = torch.rand(3, 3, 64, 64, generator=generator)
    first, direction = first * 0.8 + 0.1, direction - 0.5

    def value(image: torch.Tensor) -> torch.Tensor:
        a, b = judge.encode_images([image, second])
        return judge.probabilities([PairQuestion(a, b, q) for q in QUERIES]).sum()

    leaf = first.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    slope = float((gradient * direction).sum())
    with torch.no_grad():
        step = 1e-2
        difference = (value(first + step * direction) - value(first - step * direction)) / 2 / step
    assert abs(slope) > 1e-6
    assert slope == pytest.approx(float(difference), rel=0.05)


def test_values_make_the_same_judge_again(random_folders: list[Path]):
    values = {
        "kind": "ensemble",
        "judges": [{"folder": str(folder)} for folder in random_folders],
        "combine": "worst",
    }
    check_judge_values(values)
    judge = load_judge(values, torch.device("cpu"))
    again = load_judge(json.loads(json.dumps(judge.to_values())), torch.device("cpu"))
    assert again.identity == judge.identity
    assert len(again.components) == 2
    mean = load_judge(values | {"combine": "mean"}, torch.device("cpu"))
    assert mean.identity != judge.identity
    assert mean.digest != judge.digest


def test_same_member_twice_is_resident_once(random_folders: list[Path]):
    judge = QwenJudge(JudgeConfig(folder=str(random_folders[0])), torch.device("cpu"))
    assert EnsembleJudge((judge, judge)).components == (judge.component,)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kind": "magic"}, "kind of a judge is 'magic'"),
        ({"kind": 7}, "kind of a judge is 7"),
        ({"kind": "ensemble", "judges": [{"kind": "remote"}, {}]}, "no model is named"),
        ({"kind": "ensemble", "judges": [{}, {"more": 1}]}, "unknown settings"),
        ({"kind": "ensemble", "judges": [{}, {}], "combine": "best"}, "combine is 'best'"),
        ({"kind": "calibrated", "judge": {"more": 1}, "folder": "x"}, "unknown settings"),
        ({"kind": "calibrated", "judge": {}}, "'folder'.* missing"),
        (SimpleNamespace(), "an object of settings is expected"),
    ],
)
def test_wrong_values_are_refused_before_any_file_is_read(values: Any, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        check_judge_values(values)
