"""The judge's first stage: questions are true, runs resume exactly, the result is a judge."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onereward.lab.judge.cell_probe import make_probe
from onereward.lab.judge.config import VqaConfig
from onereward.lab.judge.pairs.vqa_questions import (
    KINDS,
    VqaBatch,
    sample_questions,
    sample_vqa_batch,
)
from onereward.lab.judge.vqa import VqaTrainer, answer, encode, train_vqa
from onereward.lab.world.conditions import sample_conditions
from onereward.lab.world.lettering import LETTERS
from onereward.lab.world.shapes import COLOURS, SHAPE_NAMES
from onereward.lab.world.splits import Split
from onereward.reward.judge import JudgeConfig
from onereward.reward.vlm.qwen_vl import EncodedImage, QwenJudge


def config(folder: Path, **changes: object) -> VqaConfig:
    small = VqaConfig(
        run_folder=str(folder),
        width=32,
        layers=1,
        vision_width=32,
        vision_layers=1,
        steps=4,
        decay_steps=2,
        warmup_steps=1,
        images=6,
        questions=8,
        eval_images=64,
        eval_every=2,
        log_every=2,
    )
    return replace(small, **changes)


def test_questions_are_true_of_the_image_they_ask_about() -> None:
    """Colours against the pixels, letters and shapes against the prompt of the scene."""
    num = 60
    batch = sample_vqa_batch(Split.TRAIN, 5, num)
    tasks = torch.tensor([0, 3, 0]).repeat(num // 3)
    scenes = sample_conditions(Split.TRAIN, 5, tasks)
    questions = sample_questions(batch, 400, torch.Generator().manual_seed(0))
    assert {question.kind for question in questions} == set(KINDS)
    for question in questions:
        row = question.first if "first" in question.text else question.second
        prompt = scenes.prompts[row]
        if question.kind == "shape":
            assert prompt.endswith(question.answer)
        if question.kind == "letter":
            position = int("".join(c for c in question.text if c.isdigit()))
            assert prompt.split('"')[1][position - 1] == question.answer
        if question.kind == "colour":
            assert question.answer in prompt
            inside = scenes.coverage[row] > 0.99
            painted = scenes.target[row][:, inside].mean(1)
            assert (painted - torch.tensor(COLOURS[question.answer])).abs().max() < 0.1


def test_artifacts_are_differences_from_the_truth() -> None:
    num = 60
    batch = sample_vqa_batch(Split.TRAIN, 9, num)
    scenes = sample_conditions(Split.TRAIN, 9, torch.tensor([0, 3, 0]).repeat(num // 3))
    for row, facts in enumerate(batch.facts):
        is_damaged = not torch.equal(batch.images[row], scenes.target[row])
        assert is_damaged == (facts["clean"] == "No")
    assert {facts["clean"] for facts in batch.facts} == {"Yes", "No"}


def test_labels_are_what_a_cell_shows() -> None:
    """Against the pixels of letters and shapes, and the prompt of the scene."""
    num = 60
    batch = sample_vqa_batch(Split.TRAIN, 5, num)
    scenes = sample_conditions(Split.TRAIN, 5, torch.tensor([0, 3, 0]).repeat(num // 3))
    colours, shapes = list(COLOURS), list(SHAPE_NAMES)
    for row, prompt in enumerate(scenes.prompts):
        symbol, colour, position, artifact = batch.cell_labels[row]
        if scenes.task[row] == 3:
            x0, y0 = scenes.box[row, :2].tolist()
            word = prompt.split('"')[1]
            for index, letter in enumerate(word):
                y, x = (y0 + 12) // 8, (x0 + 16 * index + 8) // 8
                assert symbol[y, x] == 1 + len(shapes) + LETTERS.index(letter)
                assert position[y, x] == 1 + index
            assert not colour.any()
        else:
            _, colour_name, shape = prompt.split(" ")
            is_labelled = symbol > 0
            assert is_labelled.any()
            assert set(symbol[is_labelled].tolist()) == {1 + shapes.index(shape)}
            assert set(colour[is_labelled].tolist()) == {1 + colours.index(colour_name)}
            assert not position.any()
        differs = (batch.images[row] - scenes.target[row]).abs().mean(0) > 0
        cells = differs.view(8, 8, 8, 8).any(3).any(1)
        assert not (artifact > 0)[~cells].any()
        assert (artifact > 0).any() == (batch.facts[row]["clean"] == "No")


def test_the_probe_reads_each_cell_from_the_token_that_covers_it() -> None:
    probe = make_probe(8, 16, seed=0)
    tokens = torch.randn(16, 8)
    all_cells = []
    for token in range(16):
        without = tokens.clone()
        without[token] = 0
        with torch.no_grad():
            probe.head.weight.normal_(generator=torch.Generator().manual_seed(1))
            before, after = (
                probe([EncodedImage(tokens=t, rows=4, cols=4)])[0][0] for t in (tokens, without)
            )
        cells = (before != after).any(0).nonzero().tolist()
        top, left = token // 4 * 2, token % 4 * 2
        assert cells == [[y, x] for y in (top, top + 1) for x in (left, left + 1)]
        all_cells += cells
    assert len(all_cells) == 64


def test_answers_stand_equally_often_first_and_second() -> None:
    batch = sample_vqa_batch(Split.TRAIN, 1, 30)
    questions = sample_questions(batch, 1000, torch.Generator().manual_seed(1))
    share = sum("first" in question.text for question in questions) / len(questions)
    assert 0.42 < share < 0.58
    assert all(question.first != question.second for question in questions)


def test_every_answer_is_one_token(tmp_path: Path) -> None:
    trainer = VqaTrainer(config(tmp_path), tmp_path / "judge")
    batch = sample_vqa_batch(Split.TRAIN, 2, 60)
    tokenizer = trainer.judge.tokenizer
    answers = {answer for facts in batch.facts for answer in facts.values()}
    for word in sorted(answers | set(COLOURS)):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word


def test_the_vocabulary_is_the_same_in_every_process() -> None:
    """Hash order differs from process to process; the ids of the tokens must not."""
    code = (
        "from onereward.lab.judge.build import build_tokenizer\n"
        "print(sorted(build_tokenizer().get_vocab().items(), key=lambda item: item[1]))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_stop_and_resume_equals_no_stop(tmp_path: Path) -> None:
    whole, stopped = config(tmp_path / "whole"), config(tmp_path / "stopped")
    train_vqa(whole)
    run = VqaTrainer(stopped, tmp_path / "stopped" / "untrained")
    run.train_step()
    run.train_step()
    again = VqaTrainer(stopped, tmp_path / "again")
    again.restore(run.train_state(0.0))
    again.train_step()
    again.train_step()
    expected = QwenJudge(
        JudgeConfig(folder=str(tmp_path / "whole" / "judge"), precision="fp32"),
        torch.device("cpu"),
    ).component.module.state_dict()
    weights = {k: v for k, v in again.learner.parameters.items() if not k.startswith("probe.")}
    assert len(weights) < len(again.learner.parameters)
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name


def test_it_learns_what_can_be_learned(tmp_path: Path) -> None:
    """Two images, asked again and again: the loss has to go to nearly nothing."""
    settings = config(
        tmp_path, steps=60, decay_steps=0, matrix_learning_rate=3e-3, learning_rate=3e-3, width=64
    )
    trainer = VqaTrainer(settings, tmp_path / "judge")
    six = sample_vqa_batch(Split.TRAIN, 0, 6)
    batch = VqaBatch(images=six.images[:2], facts=six.facts[:2], cell_labels=six.cell_labels[:2])
    questions = sample_questions(batch, 8, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(40):
        logits, answers = answer(trainer.judge, encode(trainer.judge, batch), questions)
        loss = torch.nn.functional.cross_entropy(logits, answers)
        losses.append(trainer.learner.learn(loss))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 40}, "no multiple of 32"),
        ({"images": 1}, "needs two"),
        ({"patch_size": 5}, "use 4, 8 or 16"),
        ({"decay_steps": 9}, "more than steps"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)
