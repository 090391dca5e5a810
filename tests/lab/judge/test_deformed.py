"""Deformed truths: endless scenes, kept sources, the oracle's word."""

from __future__ import annotations

import pytest
import torch

from onereward.lab.judge.pairs import deformed
from onereward.lab.judge.pairs.deformed import deformed_pairs, fresh_scenes, sample_deformed
from onereward.lab.oracle import DIMENSIONS, judge
from onereward.lab.world.canvas import SIZE

SCENES, IMAGES = 16, 4
MARGINS = (0.1,) * len(DIMENSIONS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_two_numbers_have_a_scene_in_common() -> None:
    first, again, second = fresh_scenes(3, 8), fresh_scenes(3, 8), fresh_scenes(4, 8)
    assert torch.equal(first.source, again.source)
    same = (first.source[:, None] == second.source[None]).flatten(2).all(2)
    assert not same.any()
    assert sorted(first.task.tolist()) == [0, 0, 0, 1, 1, 1, 2, 3]
    assert second.task[:7].equal(first.task[1:])  # few scenes per number: all tasks all the same


def test_results_differ_keep_the_source_and_are_right_and_wrong() -> None:
    scenes = fresh_scenes(5, 3 * SCENES)
    made = sample_deformed(scenes, IMAGES, seeded(0))
    assert made.images.shape == (3 * SCENES * IMAGES, 3, SIZE, SIZE)
    assert ((made.images >= 0) & (made.images <= 1)).all()
    kept = made.conditions.mask[:, None] == 0
    assert ((made.images - made.conditions.source).abs() * kept).max() == 0
    groups = made.images.view(3 * SCENES, IMAGES, -1)
    assert (groups[:, 0] != groups[:, 1]).any(1).all()
    usable = judge(made.images, made.conditions).usable.float()
    for task in range(4):
        assert 0.15 < usable[made.conditions.task == task].mean() < 0.95


def test_without_any_strength_the_truth_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths = deformed._Strengths
    monkeypatch.setattr(strengths, "some", lambda self, share: torch.zeros(self.count, 1, 1, 1))
    monkeypatch.setattr(strengths, "shares", lambda self: torch.zeros(self.count))
    monkeypatch.setattr(
        strengths, "chance", lambda self, share: torch.zeros(self.count, 1, 1, 1) > 0
    )
    scenes = fresh_scenes(6, SCENES)
    made = sample_deformed(scenes, 2, seeded(1))
    truth = scenes.target[made.rows]
    inside = made.conditions.mask[:, None]
    assert ((made.images - truth) * inside).abs().max() < 1e-3


def test_only_the_prompt_says_which_shape_and_colour_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images turn into what another scene asks for: neither is better by itself."""
    monkeypatch.setattr(deformed, "_STRAYS", 1.0)
    strengths = deformed._Strengths
    monkeypatch.setattr(strengths, "some", lambda self, share: torch.zeros(self.count, 1, 1, 1))
    scenes = fresh_scenes(9, 16 * SCENES)
    made = sample_deformed(scenes, IMAGES, seeded(4))
    is_fill = made.conditions.task == 0
    oracle_scores = judge(made.images, made.conditions)
    likeness = oracle_scores.shape_overlap[is_fill]
    asked = made.conditions.shape[is_fill]
    shown = likeness.argmax(1)
    assert 0.3 < (shown == asked).float().mean() < 0.8
    others = shown[shown != asked].bincount(minlength=6)
    assert (others > 0).all()  # every shape stands in for others
    clear = likeness.gather(1, shown[:, None])[:, 0] > 0.9
    assert clear[shown != asked].any()
    scores = oracle_scores.scores["text_alignment"][is_fill]
    assert scores[shown == asked].mean() > scores[shown != asked].mean() + 0.3


def test_images_of_a_scene_err_much_or_a_little_together() -> None:
    draw = deformed._Strengths(200, IMAGES, seeded(5))
    most = draw._most.view(200, IMAGES)
    assert (most == most[:, :1]).all()
    assert 0.3 < (most[:, 0] < 1).float().mean() < 0.7
    assert (draw.some(1.0) <= draw._most).all()


def test_pairs_are_decided_by_the_oracle() -> None:
    drawn, images, masks = deformed_pairs(7, SCENES, MARGINS, seeded(2))
    assert len(drawn) == len(images) == len(masks) > SCENES / 2
    scenes = fresh_scenes(7, SCENES)
    rows = torch.tensor([int((scenes.mask == m).all(2).all(1).nonzero()[0]) for m in masks])
    scores = [judge(images[:, place], scenes.select(rows)).scores for place in (0, 1)]
    for number, one in enumerate(drawn):
        for dimension, place in one.winners:
            first, second = (float(s[dimension.value][number]) for s in scores)
            assert abs(first - second) > 0.0999
            assert place == int(first < second)
