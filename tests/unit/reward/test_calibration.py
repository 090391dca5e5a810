"""Calibration against judges whose fault is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.reward.calibrated_judge import CalibratedJudge
from onereward.reward.calibration import (
    FILE_NAME,
    Calibration,
    calibrated_answer,
    fit_calibration,
    held_out_answers,
    log_loss,
    read_calibration,
)
from onereward.reward.judge import JudgeConfig, PairQuestion
from onereward.reward.load_judge import load_judge
from onereward.reward.query import queries_for
from onereward.reward.report import Answer, Cell, make_report
from onereward.reward.vlm.qwen_vl import QwenJudge

STRUCTURE = (Task.FILL, Dimension.STRUCTURE)
LOOKS = (Task.FILL, Dimension.AESTHETICS)
RARE = (Task.REMOVE, Dimension.REMOVAL_QUALITY)
STAIRS = ((0.1, 0), (0.2, 1), (0.3, 0), (0.4, 1), (0.6, 1), (0.7, 0), (0.8, 1), (0.9, 1))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def answers_of(temperature: float, num: int, cell: Cell = STRUCTURE, seed: int = 0) -> list[Answer]:
    """Return answers of a judge that says sigmoid(T z) where sigmoid(z) is true."""
    draw = random.Random(seed)
    answers = []
    for index in range(num):
        pair = []
        for is_yes in (True, False):
            z = draw.gauss(0, 1.5)
            while (draw.random() < sigmoid(z)) != is_yes:
                z = draw.gauss(0, 1.5)
            pair.append(sigmoid(temperature * z))
        answers.append(
            Answer(criterion=cell, winner_first=pair[0], loser_first=pair[1], condition=str(index))
        )
    return answers


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_known_temperature_is_recovered(temperature: float):
    calibration = fit_calibration(answers_of(temperature, 4000), "x")
    assert calibration.temperature == pytest.approx(temperature, rel=0.06)
    assert calibration.temperatures["fill.structure"] == calibration.temperature


def test_each_cell_has_its_own_and_a_rare_one_that_of_all():
    answers = [*answers_of(3.0, 1500), *answers_of(0.5, 1500, LOOKS, 1)]
    answers += answers_of(1.0, 29, RARE, 2)
    calibration = fit_calibration(answers, "x", min_pairs=30)
    assert calibration.temperatures["fill.structure"] == pytest.approx(3.0, rel=0.1)
    assert calibration.temperatures["fill.aesthetics"] == pytest.approx(0.5, rel=0.1)
    assert "remove.removal_quality" not in calibration.temperatures
    p = calibration.applied(torch.tensor([0.9]), ["remove.removal_quality"])
    assert float(p) == pytest.approx(sigmoid(math.log(9) / calibration.temperature), rel=1e-5)
    assert calibration.num_pairs == 3029


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_log_loss_falls_on_pairs_that_calibration_did_not_know(method: str):
    learned_from, unseen = answers_of(3.0, 1500), answers_of(3.0, 1500, seed=1)
    calibration = fit_calibration(learned_from, "x", method)
    after = [calibrated_answer(calibration, answer) for answer in unseen]
    perfect = log_loss(answers_of(1.0, 1500, seed=1))
    assert log_loss(after) < log_loss(unseen) - 0.15
    assert log_loss(after) == pytest.approx(perfect, abs=0.02)


def test_temperature_changes_no_answer_and_isotonic_turns_none_around():
    answers = answers_of(3.0, 500)
    before = make_report(answers).cells[STRUCTURE].accuracy
    for method in ("temperature", "isotonic"):
        calibration = fit_calibration(answers, "x", method)
        after = [calibrated_answer(calibration, answer) for answer in answers]
        if method == "temperature":
            assert make_report(after).cells[STRUCTURE].accuracy == before
        for old, new in zip(answers, after, strict=True):
            assert (new.score - 0.5) * (old.score - 0.5) >= 0


def test_isotonic_regression_by_hand():
    """Neighbours that fall are pooled, 1 0 0 to 1/3 and 1 1 0 to 2/3, and kept off 0 and 1."""
    firsts = [p for p, y in STAIRS if y]
    seconds = [p for p, y in STAIRS if not y]
    answers = [
        Answer(criterion=STRUCTURE, winner_first=a, loser_first=b)
        for a, b in zip(firsts, [*seconds, *seconds][: len(firsts)], strict=True)
    ]
    # Each false answer counts as often as it was paired: 0.1 and 0.3 twice, 0.7 once.
    calibration = fit_calibration(answers, "x", "isotonic", min_pairs=1)
    edge = 1 / (len(answers) * 2 + 2)
    corners = dict(map(tuple, calibration.steps["fill.structure"]))
    assert corners[0.1] == pytest.approx(edge)
    assert corners[0.2] == corners[0.3] == pytest.approx(1 / 3)
    assert corners[0.4] == corners[0.7] == pytest.approx(2 / 3)
    assert corners[0.8] == corners[0.9] == pytest.approx(1 - edge)
    assert 0.6 not in corners, "only the ends of a step are kept"
    p = torch.tensor([0.0, 0.25, 0.5, 0.35, 1.0])
    expected = [edge, 1 / 3, 2 / 3, 1 / 2, 1 - edge]
    torch.testing.assert_close(
        calibration.applied(p, ["fill.structure"] * 5), torch.tensor(expected)
    )


def test_report_is_made_without_the_condition_itself():
    """One lucky condition says nothing about itself: calibrating on it would."""
    answers = answers_of(1.0, 40)
    odd = Answer(criterion=STRUCTURE, winner_first=0.01, loser_first=0.99, condition="odd")
    with_odd = held_out_answers([*answers, odd], min_pairs=1)
    index = sorted({a.condition for a in [*answers, odd]}).index("odd")
    names = sorted({a.condition for a in [*answers, odd]})
    remaining = [a for a in answers if names.index(a.condition) % 5 != index % 5]
    expected = calibrated_answer(fit_calibration(remaining, "", min_pairs=1), odd)
    assert with_odd[-1].winner_first == pytest.approx(expected.winner_first, rel=1e-5)


def test_gradient_passes_a_temperature_as_differences_say():
    calibration = Calibration(judge="x", temperature=2.0, temperatures={"fill.structure": 0.7})
    cells = ["fill.structure", "fill.aesthetics"]
    p = torch.tensor([0.3, 0.9], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(calibration.applied(p, cells).double().sum(), p)
    for i, (cell, t) in enumerate(zip(cells, (0.7, 2.0), strict=True)):
        del cell

        def value(x: float, t: float = t) -> float:
            return sigmoid(math.log(x / (1 - x)) / t)

        x = p[i].item()
        slope = (value(x + 1e-5) - value(x - 1e-5)) / 2e-5
        assert float(gradient[i]) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_answers_stay_finite(p: float):
    answers = [Answer(criterion=STRUCTURE, winner_first=p, loser_first=1 - p)] * 50
    for method in ("temperature", "isotonic"):
        calibration = fit_calibration(answers, "x", method)
        calibrated = calibration.applied(torch.tensor([p, 0.5]), ["fill.structure"] * 2)
        assert torch.isfinite(calibrated).all()
        assert math.isfinite(log_loss([calibrated_answer(calibration, a) for a in answers]))


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="calibration has 4 of the 5 pairs"):
        fit_calibration(answers_of(1.0, 4), "x")


# -- the file and the judge ----------------------------------------------------------------------


def test_file_comes_back_as_it_was(tmp_path: Path):
    calibration = replace(fit_calibration(answers_of(2.0, 60), "x", "isotonic"), view="crop")
    calibration.save(tmp_path)
    again = read_calibration(tmp_path)
    p = torch.linspace(0, 1, 50)
    cells = ["fill.structure"] * 50
    torch.testing.assert_close(again.applied(p, cells), calibration.applied(p, cells))
    assert again.view == "crop"
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperatures": {"fill.structure": -1.0}}, "temperature of 'fill.structure'"),
        ({"temperatures": {"fill.structure": "x"}}, "temperatures"),
        ({"steps": {"fill.structure": [[0.5, 0.2], [0.4, 0.3]]}}, "no rising pairs"),
        ({"steps": {"fill.structure": [[0.5, 0.2], [0.6, 0.1]]}}, "no rising pairs"),
        ({"steps": {"fill.structure": [[0.5, 1.2]]}}, "no rising pairs"),
        ({"steps": {"fill.structure": []}}, "no rising pairs"),
        ({"steps": {"fill.structure": "x"}}, "no rising pairs"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"format": 2}, "format is 2"),
        ({"more": 1}, "unknown settings"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, change: dict[str, object], sentence: str):
    values = json.loads(Calibration(judge="x").to_json()) | change
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=FILE_NAME) as caught:
        read_calibration(tmp_path)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) <= 300


def bundled() -> QwenJudge:
    return QwenJudge(JudgeConfig(), torch.device("cpu"))


def test_calibration_of_another_judge_is_refused(tmp_path: Path):
    judge = bundled()
    Calibration(judge=judge.identity).save(tmp_path)
    CalibratedJudge(judge, tmp_path)
    smaller = QwenJudge(JudgeConfig(max_pixels=1024), torch.device("cpu"))
    with pytest.raises(ValueError, match="made of another judge than bundled"):
        CalibratedJudge(smaller, tmp_path)
    with pytest.raises(FileNotFoundError, match="calibrate the judge"):
        CalibratedJudge(judge, tmp_path / "other")


class SureJudge:
    """Says what it is shown: the first number."""

    label, identity, digest, folder, components = "sure", "s", "s", None, ()
    notes: dict[str, str] = {}  # noqa: RUF012 - never changed
    needs_source, is_differentiable = False, True

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        return torch.stack([question.first for question in questions])


def test_each_question_has_the_calibration_of_its_cell(tmp_path: Path):
    Calibration(judge="s", temperature=2.0, temperatures={"fill.structure": 4.0}, view="crop").save(
        tmp_path
    )
    judge = CalibratedJudge(SureJudge(), tmp_path)  # type: ignore[arg-type]
    queries = queries_for(Task.FILL, "a kite")
    p = judge.probabilities([PairQuestion(torch.tensor(0.9), None, q) for q in queries])
    for query, value in zip(queries, p.tolist(), strict=True):
        t = 4.0 if query.dimension is Dimension.STRUCTURE else 2.0
        assert value == pytest.approx(sigmoid(math.log(9) / t), rel=1e-5)
    assert judge.notes == {"view": "crop"}


@pytest.mark.parametrize(("method", "trains"), [("temperature", True), ("isotonic", False)])
def test_values_make_the_same_judge_again(tmp_path: Path, method: str, trains: bool):
    judge = bundled()
    replace(fit_calibration(answers_of(2.0, 60), judge.identity, method)).save(tmp_path)
    calibrated = CalibratedJudge(judge, tmp_path)
    again = load_judge(json.loads(json.dumps(calibrated.to_values())), torch.device("cpu"))
    assert again.identity == calibrated.identity != judge.identity
    assert again.label == f"bundled+{method}"
    assert again.is_differentiable is trains
    assert again.folder == tmp_path
