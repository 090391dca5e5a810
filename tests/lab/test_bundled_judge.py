"""The bundled judge as it is shipped: its size, its card, and pairs whose answer is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from onereward.fill.task import TASKS as FIELDS
from onereward.fill.task import Task
from onereward.lab.adapters.usability import queries_of
from onereward.lab.judge.judge_card import write_card
from onereward.lab.world.conditions import TASKS, Conditions, sample_conditions
from onereward.lab.world.splits import Split
from onereward.reward.judge import BUNDLED, BUNDLED_FOLDER, JudgeConfig
from onereward.reward.report import read_report
from onereward.reward.vlm.qwen_vl import QwenJudge

MAX_BYTES = 8_000_000
NUM = 8


@pytest.fixture(scope="module")
def judge() -> QwenJudge:
    return QwenJudge(JudgeConfig(folder=BUNDLED), torch.device("cpu"))


def scenes_of(task: str) -> Conditions:
    return sample_conditions(Split.DEV, 11, torch.full((NUM,), TASKS.index(task)))


def paint(scenes: Conditions, colour: torch.Tensor) -> torch.Tensor:
    return torch.where(scenes.mask[:, None] > 0.5, colour, scenes.target)


def test_folder_is_within_its_budget_and_brings_its_report() -> None:
    assert sum(f.stat().st_size for f in BUNDLED_FOLDER.rglob("*") if f.is_file()) < MAX_BYTES
    report = read_report(BUNDLED_FOLDER)
    assert report is not None
    assert set(report.cells) == {(task, d) for task in Task for d in FIELDS[task].dimensions}


def test_the_card_is_written_from_the_folder(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED_FOLDER, tmp_path / "judge")
    write_card(tmp_path / "judge")
    written = (tmp_path / "judge" / "README.md").read_text()
    assert written == (BUNDLED_FOLDER / "README.md").read_text()


@pytest.mark.parametrize("task", TASKS)
def test_swap_swaps_the_answer_on_clear_pairs(judge: QwenJudge, task: str) -> None:
    """The truth against the mask filled with noise, in every dimension and both orders."""
    scenes = scenes_of(task)
    noise = torch.rand(scenes.target.shape, generator=torch.Generator().manual_seed(0))
    bad, num_right, num_queries = paint(scenes, noise), 0, 0
    for row in range(NUM):
        queries = queries_of(scenes, row)
        with torch.no_grad():
            good, worse = judge.encode_images([scenes.target[row], bad[row]])
            forth, back = judge.ask(good, worse, queries), judge.ask(worse, good, queries)
        num_right += int(((forth > 0.5) & (back < 0.5)).sum())
        num_queries += len(queries)
    assert num_right >= 0.9 * num_queries


@pytest.mark.parametrize("task", TASKS)
def test_gradient_reaches_the_pixels_and_ascent_raises_the_answer(
    judge: QwenJudge, task: str
) -> None:
    scenes = scenes_of(task)
    queries = queries_of(scenes, 0)
    inside = scenes.mask[0] > 0.5
    image = paint(scenes, scenes.target.mean((2, 3), keepdim=True))[0].requires_grad_()
    with torch.no_grad():
        truth = judge.encode(scenes.target[0])
    answers = []
    for _ in range(4):
        answer = judge.ask(judge.encode(image), truth, queries).log().mean()
        (gradient,) = torch.autograd.grad(answer, image)
        answers.append(answer.item())
        assert gradient[:, inside].abs().max() > 0
        step = 0.5 / 255 * gradient.sign() * inside
        image = (image.detach() + step).clamp(0, 1).requires_grad_()
    assert answers[-1] > answers[0]
