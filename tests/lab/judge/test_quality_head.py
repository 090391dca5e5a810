"""The quality head: blends, the oracle's scores, ranks and artifacts as its targets."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from onereward.lab.judge.pairs.blends import blended_pairs, sample_blends
from onereward.lab.judge.pairs.candidates import ARTIFACT, TRUTH, Candidates
from onereward.lab.judge.quality_head import NUM_MAPS, QualityHead, maps_of
from onereward.lab.oracle import DIMENSIONS, composite, judge
from onereward.lab.world.artifacts import inject_artifact
from onereward.lab.world.conditions import Conditions, sample_conditions
from onereward.lab.world.splits import Split
from onereward.reward.vlm.qwen_vl import EncodedImage

SCENES = 16
MARGINS = (0.1,) * 5


@pytest.fixture(scope="module")
def scenes() -> Conditions:
    """Scenes of all tasks."""
    return sample_conditions(Split.TRAIN, 7, torch.arange(SCENES) % 4)


@pytest.fixture(scope="module")
def pool(scenes: Conditions) -> Candidates:
    """The truth of each scene and an image with a shifted tone."""
    damaged = inject_artifact("tone_shift", scenes, torch.Generator().manual_seed(0)).images
    images = torch.stack([scenes.target, composite(damaged, scenes)], 1)
    scores = torch.stack([judge(images[:, m], scenes).table for m in range(2)], 1)
    return Candidates(
        images=(images * 255).round().to(torch.uint8),
        scores=scores.half(),
        usable=torch.ones(SCENES, 2, dtype=torch.bool),
        kinds=torch.tensor([TRUTH, ARTIFACT], dtype=torch.uint8),
        pattern_base=torch.full((SCENES, 2), -1),
        task=scenes.task,
        masks=scenes.mask.to(torch.uint8),
        prompts=scenes.prompts,
    )


def test_blends_lie_between_two_images_of_their_scene(pool: Candidates, scenes: Conditions) -> None:
    blends = sample_blends(pool, scenes, torch.arange(SCENES), 6, torch.Generator().manual_seed(1))
    assert blends.rows.tolist() == torch.arange(SCENES).repeat_interleave(6).tolist()
    assert blends.conditions.prompts == [pool.prompts[row] for row in blends.rows]
    pairs = pool.images[blends.rows].float() / 255
    assert (blends.images >= pairs.amin(1) - 1e-6).all()
    assert (blends.images <= pairs.amax(1) + 1e-6).all()
    reach = (pairs[:, 1] - pairs[:, 0]).abs().mean((1, 2, 3))
    share = (blends.images - pairs[:, 0]).abs().mean((1, 2, 3)) / reach
    assert ((share > 0.05) & (share < 0.95)).float().mean() > 0.2  # neither one nor the other
    assert (share < 1e-3).any()
    assert (share > 1 - 1e-3).any()


def test_blended_pairs_are_decided_by_the_oracle(pool: Candidates, scenes: Conditions) -> None:
    comparisons, images, masks = blended_pairs(
        pool, scenes, 60, MARGINS, torch.Generator().manual_seed(2)
    )
    assert len(comparisons) == len(images) == len(masks) > 10
    # A mask belongs to one of these scenes alone.
    rows = [int((scenes.mask == mask).all(2).all(1).nonzero()) for mask in masks]
    of_scene = scenes.select(torch.tensor(rows))
    assert [comparison.prompt for comparison in comparisons] == of_scene.prompts
    oracle_scores = [judge(images[:, index], of_scene).scores for index in (0, 1)]
    for row, comparison in enumerate(comparisons):
        assert (comparison.group, comparison.images) == (-1, (-1, -1))
        winners = {dimension.value: better for dimension, better in comparison.winners}
        for name in DIMENSIONS:
            gap = float(oracle_scores[0][name][row] - oracle_scores[1][name][row])
            winner = winners.get(name)
            if math.isnan(gap) or abs(gap) < 0.0999:
                assert winner is None
            elif abs(gap) > 0.1001:
                assert winner == int(gap < 0)


def test_maps_show_where_and_how_a_result_is_wrong(scenes: Conditions) -> None:
    rows = torch.tensor([row for row in range(SCENES) if scenes.task[row] >= 2])
    removals = scenes.select(rows)  # removals and words: the truth is the nearest right result
    mask = removals.mask[:, None]
    flat = replace(removals, target=removals.target * 0 + 0.5, source=removals.source * 0 + 0.5)
    offset = torch.tensor([0.1, 0.0, -0.2]).view(1, 3, 1, 1)
    maps = maps_of(flat.target + offset * mask, flat)
    assert maps.shape == (len(rows), NUM_MAPS, 8, 8)
    whole = maps[:, 5] == 1
    assert whole.any()
    for channel, size in enumerate((0.1, 0.0, -0.2)):
        values = maps[:, channel][whole]
        assert torch.allclose(values, torch.tensor(math.asinh(size / 0.05)), atol=1e-4)
    error = math.log1p(0.1 / 0.02)
    assert torch.allclose(maps[:, 4][whole], torch.tensor(error), atol=1e-4)
    for channel in (0, 1, 2, 4):
        assert maps[:, channel][maps[:, 5] == 0].abs().max() < 1e-5
    assert torch.equal(maps_of(flat.target, flat)[:, :5].abs().amax(), torch.tensor(0.0))


def test_the_loss_is_scores_ranks_and_maps_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    head = QualityHead(8, 16)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    encoded = [
        EncodedImage(tokens=torch.randn(16, 8, generator=generator), rows=4, cols=4)
        for _ in range(4)
    ]
    extend = sample_conditions(Split.TRAIN, 3, torch.tensor([1]))
    conditions = replace(extend, shape=torch.tensor([4])).select(torch.zeros(4, dtype=torch.long))
    scores = torch.full((2, 2, 5), float("nan"))
    scores[..., 0] = torch.tensor([[0.2, 0.9], [0.5, 0.52]])
    maps = torch.randn(4, NUM_MAPS, 8, 8, generator=generator)
    overlaps = torch.zeros(4, 6)
    loss = head.loss(encoded, conditions, scores, overlaps, maps, torch.full((5,), 0.05))
    first = 1 * (len(DIMENSIONS) + 6)
    columns = [first + DIMENSIONS.index("text_alignment"), first + len(DIMENSIONS) + 4]
    means = torch.stack([image.tokens.mean(0) for image in encoded]).double()
    logits, worth = (
        (means @ layer.weight[columns].double().T + layer.bias[columns].double()).sum(1)
        for layer in (head.scores, head.utilities)
    )
    targets = [0.2, 0.9, 0.5, 0.52]
    divergence = [
        w * math.log(w / p) + (1 - w) * math.log((1 - w) / (1 - p))
        for w, p in zip(targets, logits.sigmoid().tolist(), strict=True)
    ]
    ranked = math.log1p(math.exp(float(worth[0] - worth[1])))  # the other two hardly differ
    tokens = torch.stack([image.tokens for image in encoded])
    cells = tokens @ head.maps.weight.T + head.maps.bias
    squares = []
    for image in range(4):
        for token in range(16):
            top, left = 2 * (token // 4), 2 * (token % 4)
            values = cells[image, token].view(2, 2, NUM_MAPS)
            for row in range(2):
                for col in range(2):
                    gap = values[row, col] - maps[image, :, top + row, left + col]
                    squares += gap.square().tolist()
    by_hand = sum(divergence) / 4 + ranked + sum(squares) / len(squares)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_fill_also_has_a_loss_of_overlaps_with_each_shape() -> None:
    generator = torch.Generator().manual_seed(4)
    head = QualityHead(8, 16)
    torch.nn.init.normal_(head.overlaps.weight, generator=generator)
    encoded = [
        EncodedImage(tokens=torch.randn(16, 8, generator=generator), rows=4, cols=4)
        for _ in range(4)
    ]
    conditions = sample_conditions(Split.TRAIN, 3, torch.tensor([0, 0, 1, 1]))
    scores, maps = torch.full((2, 2, 5), float("nan")), torch.zeros(4, NUM_MAPS, 8, 8)
    overlaps = torch.rand(4, 6, generator=generator)
    least = torch.full((5,), 0.05)
    loss = head.loss(encoded, conditions, scores, overlaps, maps, least)
    total = 0.0
    for image in range(2):  # the fills
        logits = encoded[image].tokens.double().mean(0) @ head.overlaps.weight.double().T
        for logit, target in zip(logits.tolist(), overlaps[image].tolist(), strict=True):
            w, p = min(max(target, 0.01), 0.99), 1 / (1 + math.exp(-logit))
            total += w * math.log(w / p) + (1 - w) * math.log((1 - w) / (1 - p))
    assert loss.item() == pytest.approx(total / 12, rel=1e-5)
