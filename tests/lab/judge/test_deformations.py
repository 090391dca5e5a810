"""Deformed truths: new scenes without end, unchanged sources, the oracle's scores."""

from __future__ import annotations

import pytest
import torch

from onereward.lab.judge.pairs import deformations
from onereward.lab.judge.pairs.deformations import deformed_pairs, fresh_scenes, sample_deformations
from onereward.lab.oracle import DIMENSIONS, judge
from onereward.lab.world.canvas import SIZE

SCENES, IMAGES = 16, 4
MARGINS = (0.1,) * len(DIMENSIONS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_two_batches_have_a_scene_in_common() -> None:
    first, again, second = fresh_scenes(3, 8), fresh_scenes(3, 8), fresh_scenes(4, 8)
    assert torch.equal(first.source, again.source)
    is_equal = (first.source[:, None] == second.source[None]).flatten(2).all(2)
    assert not is_equal.any()
    assert sorted(first.task.tolist()) == [0, 0, 0, 1, 1, 1, 2, 3]
    assert second.task[:7].equal(first.task[1:])  # few scenes per batch: all tasks all the same


def test_results_differ_keep_the_source_and_are_right_and_wrong() -> None:
    scenes = fresh_scenes(5, 3 * SCENES)
    results = sample_deformations(scenes, IMAGES, seeded(0))
    images, conditions = results.images, results.conditions
    assert images.shape == (3 * SCENES * IMAGES, 3, SIZE, SIZE)
    assert ((images >= 0) & (images <= 1)).all()
    outside = conditions.mask[:, None] == 0
    assert ((images - conditions.source).abs() * outside).max() == 0
    groups = images.view(3 * SCENES, IMAGES, -1)
    assert (groups[:, 0] != groups[:, 1]).any(1).all()
    usable = judge(images, conditions).usable.float()
    for task in range(4):
        assert 0.15 < usable[conditions.task == task].mean() < 0.95


def test_without_any_strength_the_result_is_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths = deformations._Strengths
    monkeypatch.setattr(strengths, "some", lambda self, share: torch.zeros(self.count, 1, 1, 1))
    monkeypatch.setattr(strengths, "shares", lambda self: torch.zeros(self.count))
    monkeypatch.setattr(
        strengths, "chance", lambda self, share: torch.zeros(self.count, 1, 1, 1) > 0
    )
    scenes = fresh_scenes(6, SCENES)
    results = sample_deformations(scenes, 2, seeded(1))
    truth = scenes.target[results.rows]
    inside = results.conditions.mask[:, None]
    assert ((results.images - truth) * inside).abs().max() < 1e-3


def test_only_the_prompt_tells_the_right_shape_and_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images morph into what another scene asks for: neither is better by itself."""
    monkeypatch.setattr(deformations, "_MORPHED", 1.0)
    strengths = deformations._Strengths
    monkeypatch.setattr(strengths, "some", lambda self, share: torch.zeros(self.count, 1, 1, 1))
    scenes = fresh_scenes(9, 16 * SCENES)
    results = sample_deformations(scenes, IMAGES, seeded(4))
    is_fill = results.conditions.task == 0
    oracle_scores = judge(results.images, results.conditions)
    overlaps = oracle_scores.shape_overlap[is_fill]
    shape = overlaps.argmax(1)
    is_right = shape == results.conditions.shape[is_fill]
    assert 0.3 < is_right.float().mean() < 0.8
    assert (shape[~is_right].bincount(minlength=6) > 0).all()  # every shape stands in for others
    is_clear = overlaps.gather(1, shape[:, None])[:, 0] > 0.9
    assert is_clear[~is_right].any()
    scores = oracle_scores.scores["text_alignment"][is_fill]
    assert scores[is_right].mean() > scores[~is_right].mean() + 0.3


def test_images_of_a_scene_err_much_or_a_little_together() -> None:
    draw = deformations._Strengths(200, IMAGES, seeded(5))
    most = draw._most.view(200, IMAGES)
    assert (most == most[:, :1]).all()
    assert 0.3 < (most[:, 0] < 1).float().mean() < 0.7
    assert (draw.some(1.0) <= draw._most).all()


def test_pairs_are_decided_by_the_oracle() -> None:
    comparisons, images, masks = deformed_pairs(7, SCENES, MARGINS, seeded(2))
    assert len(comparisons) == len(images) == len(masks) > SCENES / 2
    scenes = fresh_scenes(7, SCENES)
    rows = torch.tensor([int((scenes.mask == m).all(2).all(1).nonzero()[0]) for m in masks])
    scores = [judge(images[:, index], scenes.select(rows)).scores for index in (0, 1)]
    for row, comparison in enumerate(comparisons):
        for dimension, better in comparison.winners:
            first, second = (float(s[dimension.value][row]) for s in scores)
            assert abs(first - second) > 0.0999
            assert better == int(first < second)
