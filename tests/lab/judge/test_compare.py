"""The judge's second stage: honest candidates, fair pairs, bounded attacks, exact resume."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onereward.fill.task import Dimension, Task
from onereward.lab.base_model.models import load_folder
from onereward.lab.judge.answers import attack_pairs, comparison_loss, encode_pairs, images_of
from onereward.lab.judge.build import JudgeShape
from onereward.lab.judge.compare import CompareTrainer, train_comparison
from onereward.lab.judge.config import CompareConfig
from onereward.lab.judge.learner import load_whole_judge
from onereward.lab.judge.pairs.adversarial import (
    attack_unusable,
    deformed_adversarial_pairs,
    pool_adversarial_pairs,
    slot_of,
)
from onereward.lab.judge.pairs.attacks import random_start
from onereward.lab.judge.pairs.candidate_pool import (
    FIRST_INDEX,
    CandidatePoolConfig,
    make_candidate_pool,
)
from onereward.lab.judge.pairs.candidates import (
    ARTIFACT,
    FULL,
    ONE_STEP,
    PATTERN,
    TRUTH,
    Candidates,
    lay_pattern,
    load_candidates,
    sample_candidates,
    save_candidates,
)
from onereward.lab.judge.pairs.comparisons import (
    Comparison,
    as_comparison,
    best_and_worst,
    compare,
    count_pairs,
    sample_comparisons,
    sample_dimensions,
)
from onereward.lab.judge.pairs.deformations import fresh_scenes
from onereward.lab.judge.robustness import (
    AttackConfig,
    attack_latents,
    attack_pixels,
    find_adversarial_pairs,
    wins,
)
from onereward.lab.oracle import DIMENSIONS, judge
from onereward.lab.world.conditions import TASKS, sample_conditions
from onereward.lab.world.splits import Split
from onereward.reward.judge import JudgeConfig, PairQuestion
from onereward.reward.vlm.qwen_vl import EncodedImage, QwenJudge
from onereward.training.data.generate import GenerateConfig
from support.judges import make_judge

ASSETS = Path(__file__).parents[3] / "assets" / "fill"
QUICK = GenerateConfig(num_candidates=2, steps=(2, 3))
GROUPS = 8
MARGINS = (0.1,) * 5
NAN = float("nan")
# Patches of 8 pixels as in the bundled judge, attention to whole images.
SHAPE = JudgeShape(
    width=32, layers=1, heads=1, vision_width=32, vision_layers=1, vision_heads=1, full_layers=(0,)
)


@pytest.fixture(scope="module")
def pool() -> Candidates:
    """Candidates of the bundled model for eight scenes."""
    return sample_candidates([load_folder(ASSETS)], Split.TRAIN, FIRST_INDEX, QUICK, GROUPS)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge with random weights."""
    return make_judge(tmp_path_factory.mktemp("judge"), SHAPE)


def same(first: Candidates, second: Candidates) -> bool:
    """Whether every tensor and prompt is equal; NaN equals NaN."""
    for name in (f.name for f in fields(Candidates)):
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, torch.Tensor):
            a, b = a.nan_to_num(-1.0), b.nan_to_num(-1.0)
            if not torch.equal(a, b):
                return False
        elif a != b:
            return False
    return True


def test_candidates_are_scored_by_the_oracle_and_keep_the_source(pool: Candidates) -> None:
    """The oracle scores the stored images the same but for the rounding."""
    scenes = sample_conditions(Split.TRAIN, FIRST_INDEX, torch.arange(GROUPS) % 4)
    assert pool.prompts == scenes.prompts
    kinds = [FULL] * 2 + [ONE_STEP] * 2 + [TRUTH, ARTIFACT] + [PATTERN] * 2
    assert pool.kinds.tolist() == kinds
    outside = pool.masks[:, None] == 0
    for member in range(len(kinds)):
        images = pool.images[:, member].float() / 255
        oracle_scores = judge(images, scenes)
        for column, name in enumerate(DIMENSIONS):
            stored, now = pool.scores[:, member, column].float(), oracle_scores.scores[name]
            assert torch.equal(stored.isnan(), now.isnan())
            assert torch.allclose(stored, now, atol=0.06, equal_nan=True), name
        change = (images - scenes.source).abs() * outside
        assert change.max() <= 0.5 / 255 + 1e-6


def test_the_truth_is_better_than_with_an_artifact_on_average(pool: Candidates) -> None:
    truth, artifact = (pool.kinds.tolist().index(kind) for kind in (TRUTH, ARTIFACT))
    gaps = (pool.scores[:, truth] - pool.scores[:, artifact]).float()
    assert gaps.nanmean() > 0.1
    assert pool.usable[:, truth].float().mean() > pool.usable[:, artifact].float().mean()


def test_same_arguments_give_the_same_candidates(pool: Candidates, tmp_path: Path) -> None:
    again = sample_candidates([load_folder(ASSETS)], Split.TRAIN, FIRST_INDEX, QUICK, GROUPS)
    assert same(again, pool)
    save_candidates(pool, tmp_path / "a.safetensors")
    assert same(load_candidates([tmp_path / "a.safetensors"]), pool)
    twice = load_candidates([tmp_path / "a.safetensors"] * 2)
    assert len(twice) == 2 * len(pool)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_no_candidates_are_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"lab\.judge\.pairs\.candidate_pool"):
        load_candidates([])


def test_patterns_change_the_mask_only() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(64, 3, 64, 64, generator=generator) * 0.8 + 0.1
    masks = (torch.rand(64, 64, 64, generator=generator) < 0.5).float()
    patterned = lay_pattern(images, masks, generator)
    assert patterned.min() >= 0
    assert patterned.max() <= 1
    change = (patterned - images).abs()
    assert (change * (1 - masks[:, None])).max() == 0
    # Dots may miss a mask; all others are visible under it.
    is_changed = change.flatten(1).amax(1) > 0.02
    assert is_changed.float().mean() > 0.9


def make_candidates(
    scores: list[list[list[float]]], kinds: list[int], pattern_base: list[int]
) -> Candidates:
    """Groups of the remove task with given scores; every image is one flat grey."""
    table = torch.tensor(scores)
    groups, num = table.shape[:2]
    greys = torch.arange(num, dtype=torch.uint8) * 20
    return Candidates(
        images=greys.view(1, num, 1, 1, 1).expand(groups, num, 3, 64, 64).contiguous(),
        scores=table.half(),
        usable=torch.zeros(groups, num, dtype=torch.bool),
        kinds=torch.tensor(kinds, dtype=torch.uint8),
        pattern_base=torch.tensor([pattern_base] * groups),
        task=torch.zeros(groups, dtype=torch.int64),
        masks=torch.ones(groups, 64, 64, dtype=torch.uint8),
        prompts=["a red circle"] * groups,
    )


def test_a_pair_asks_about_clear_differences_only() -> None:
    candidates = make_candidates(
        [[[0.9, 0.50, 0.2, 0.85, NAN], [0.5, 0.55, 0.6, 0.9, NAN]]], [FULL] * 2, [-1] * 2
    )
    comparison = compare(candidates, 0, (0, 1), MARGINS)
    assert comparison is not None
    assert dict(comparison.winners) == {Dimension.TEXT_ALIGNMENT: 0, Dimension.STRUCTURE: 1}
    assert compare(candidates, 0, (0, 1), (0.6,) * 5) is None
    swapped = compare(candidates, 0, (1, 0), MARGINS)
    assert swapped is not None
    assert dict(swapped.winners) == {Dimension.TEXT_ALIGNMENT: 1, Dimension.STRUCTURE: 0}


def test_a_pattern_loses_in_every_dimension_unless_the_oracle_scores_otherwise() -> None:
    rows = [[0.9, 0.5, 0.2, 0.8, NAN], [0.88, 0.52, 0.5, 0.3, NAN]]
    candidates = make_candidates([rows], [FULL, PATTERN], [-1, 0])
    comparison = compare(candidates, 0, (1, 0), MARGINS)
    assert comparison is not None
    assert dict(comparison.winners) == {
        Dimension.TEXT_ALIGNMENT: 1,
        Dimension.CONSISTENCY: 1,
        Dimension.STRUCTURE: 0,
        Dimension.AESTHETICS: 1,
    }


def test_an_invisible_pattern_is_no_artifact() -> None:
    rows = [[0.9, 0.5, 0.2, 0.8, NAN], [0.9, 0.5, 0.2, 0.8, NAN]]
    candidates = make_candidates([rows], [FULL, PATTERN], [-1, 0])
    faint = replace(candidates, images=candidates.images // 20)
    assert compare(candidates, 0, (0, 1), MARGINS) is not None
    assert compare(faint, 0, (0, 1), MARGINS) is None


def test_best_and_worst_per_dimension() -> None:
    rows = [[0.1, 0.50, 0.2, NAN, NAN], [0.9, 0.55, 0.6, NAN, NAN], [0.5, 0.52, 0.9, NAN, NAN]]
    candidates = make_candidates([rows], [FULL] * 3, [-1] * 3)
    pairs = {c.winners[0][0]: c.images for c in best_and_worst(candidates, MARGINS)}
    assert pairs == {Dimension.TEXT_ALIGNMENT: (1, 0), Dimension.STRUCTURE: (2, 0)}


def test_pairs_that_differ_clearly_are_counted_per_task(pool: Candidates) -> None:
    counts = dict.fromkeys(map(Task, TASKS), 0)
    full = [m for m, kind in enumerate(pool.kinds.tolist()) if kind == FULL]
    for group in range(GROUPS):
        for a, b in itertools.combinations(full, 2):
            gaps = (pool.scores[group, a].float() - pool.scores[group, b].float()).abs().tolist()
            is_clear = any(g >= m for g, m in zip(gaps, MARGINS, strict=True))
            counts[Task(TASKS[int(pool.task[group])])] += is_clear
    assert count_pairs(pool, MARGINS, (FULL,)) == counts
    everything = count_pairs(pool, (1e-9,) * 5)
    most = len(pool.kinds) * (len(pool.kinds) - 1) // 2
    assert all(counts[t] < everything[t] <= 2 * most for t in counts)  # two groups per task


def test_comparisons_are_of_all_kinds_and_of_outlines_most_of_all(pool: Candidates) -> None:
    comparisons = sample_comparisons(pool, 800, MARGINS, torch.Generator().manual_seed(0))
    tasks = [comparison.task for comparison in comparisons]
    for task, share in ((Task.FILL, 3), (Task.EXTEND, 3), (Task.REMOVE, 1), (Task.TEXT, 1)):
        assert tasks.count(task) == 100 * share
    kinds = {int(pool.kinds[m]) for comparison in comparisons for m in comparison.images}
    assert kinds == {FULL, ONE_STEP, TRUTH, ARTIFACT, PATTERN}


def test_a_pair_is_asked_about_so_many_dimensions(pool: Candidates) -> None:
    generator = torch.Generator().manual_seed(3)
    whole = [c for c in sample_from(pool, 40) if len(c.winners) == 4]
    assert whole
    assert all(sample_dimensions(c, 0, generator) == c for c in whole)
    assert all(sample_dimensions(c, 4, generator) == c for c in whole)
    subsets = [set(sample_dimensions(whole[0], 2, generator).winners) for _ in range(40)]
    assert {len(winners) for winners in subsets} == {2}
    assert all(winners < set(whole[0].winners) for winners in subsets)
    assert set.union(*subsets) == set(whole[0].winners)


def sample_from(pool: Candidates, num: int = 6) -> list[Comparison]:
    return sample_comparisons(pool, num, MARGINS, torch.Generator().manual_seed(1))


def test_the_loss_is_equation_3(pool: Candidates, judge_folder: Path) -> None:
    """Against probabilities asked one by one, put together in float64 by hand."""
    config = JudgeConfig(folder=str(judge_folder), precision="fp32")
    exact = QwenJudge(config, torch.device("cpu"))
    comparisons = sample_from(pool)
    images = images_of(pool, comparisons)
    terms = []
    for pair, comparison in zip(images, comparisons, strict=True):
        for query, better in comparison.queries():
            winner, loser = exact.encode_images([pair[better], pair[1 - better]])
            with torch.no_grad():
                first = exact.answer([PairQuestion(winner, loser, query)])[0].double()
                second = exact.answer([PairQuestion(loser, winner, query)])[0].double()
            terms.append(-0.5 * (first[0] + second[1]))
    learner = load_whole_judge(judge_folder)
    loss = comparison_loss(learner, encode_pairs(learner, images), comparisons)
    assert abs(loss.item() - torch.stack(terms).mean().item()) < 0.02  # bfloat16 products


def test_single_images_are_compared_too(
    pool_folder: Path, judge_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss beside the head's is eq. 3 of the scenes' images two by two."""
    settings = compare_config(
        judge_folder,
        pool_folder,
        pairs=0,
        vqa_questions=0,
        vqa_images=0,
        quality_images=16,
        attack_share=0.0,
    )
    batches: list[torch.Tensor] = []
    encode = CompareTrainer._encode

    def record(self: CompareTrainer, images: torch.Tensor) -> list[EncodedImage]:
        batches.append(images)
        return encode(self, images)

    monkeypatch.setattr(CompareTrainer, "_encode", record)
    without = CompareTrainer(settings)._quality_loss(torch.Generator().manual_seed(0))
    comparing = CompareTrainer(replace(settings, compare_quality_images=True))
    loss = comparing._quality_loss(torch.Generator().manual_seed(0)) - without
    assert torch.equal(batches[0], batches[1])
    pairs = batches[0].view(8, 2, *batches[0].shape[1:])
    scenes = sample_conditions(Split.TRAIN, FIRST_INDEX, torch.arange(GROUPS) % len(TASKS))
    fresh = fresh_scenes(comparing._scene_batch(0), 2)
    singles = [s.select(torch.tensor([k])) for s in (scenes, fresh) for k in range(len(s))]
    comparisons, images = [], []
    for pair in pairs:
        # The scene is the one whose source the images show outside the mask.
        outside = [((pair[0] - s.source[0]).abs() * (1 - s.mask)).amax() for s in singles]
        scene = singles[int(torch.stack(outside).argmin())]
        first, second = (judge(image[None], scene).scores for image in pair)
        gaps = [float(first[d] - second[d]) for d in DIMENSIONS]
        comparison = as_comparison(int(scene.task), scene.prompts[0], gaps, settings.margins)
        if comparison is not None:
            comparisons.append(comparison)
            images.append(pair)
    assert len(comparisons) >= 3
    encoded = encode_pairs(comparing.judge, torch.stack(images))
    expected = comparison_loss(comparing.judge, encoded, comparisons)
    assert loss.item() == pytest.approx(expected.item(), abs=0.02)


def test_attacks_stay_small_and_in_the_mask(pool: Candidates, judge_folder: Path) -> None:
    victim, comparisons = load_whole_judge(judge_folder), sample_from(pool)
    images = images_of(pool, comparisons)
    masks = torch.stack([pool.masks[comparison.group] for comparison in comparisons]).float()
    settings = compare_config(judge_folder, Path(), attack_steps=3, attack_size=0.03)
    attacked = attack_pairs(victim, images, comparisons, masks, settings)
    change = (attacked - images).abs()
    for row in (0, 1, 4, 5):  # the loser alone, where one image loses everywhere
        winners = {better for _, better in comparisons[row].winners}
        if len(winners) == 1:
            assert change[row, winners.pop()].max() == 0
    assert (change * (1 - masks[:, None, None])).max() == 0
    assert change[0::2].max() <= 0.03 + 1e-6
    assert change[1::2].max() <= 0.09 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    with torch.no_grad():
        before, after = (
            comparison_loss(victim, encode_pairs(victim, p), comparisons)
            for p in (images, attacked)
        )
    assert after > before
    assert not attacked.requires_grad
    assert all(p.grad is None for p in victim.component.module.parameters())


def test_adversarial_pairs_are_among_unusable_and_usable_images_of_a_scene(
    pool: Candidates,
) -> None:
    generator = torch.Generator().manual_seed(3)
    comparisons, images, masks = pool_adversarial_pairs(pool, 12, MARGINS, generator)
    assert len(comparisons) == len(images) == len(masks) == 12
    for comparison, (bad, good), mask in zip(comparisons, images, masks, strict=True):
        groups = [g for g in range(GROUPS) if pool.prompts[g] == comparison.prompt]
        assert any(not pool.usable[index] for index in indices_of(pool, groups, bad))
        assert any(pool.usable[index] for index in indices_of(pool, groups, good))
        group = indices_of(pool, groups, bad)[0][0]
        assert mask.equal(pool.masks[group].float())
        num_dimensions = int((~pool.scores[group, 0].isnan()).sum())
        # Where the scores hardly differ, the usable one wins.
        assert len(comparison.winners) == num_dimensions


def indices_of(pool: Candidates, groups: list[int], image: Tensor) -> list[tuple[int, int]]:
    """Return group and member of each candidate that equals an image."""
    indices = [(group, member) for group in groups for member in range(len(pool.kinds))]
    return [index for index in indices if (pool.images[index].float() / 255).equal(image)]


def test_without_an_unusable_image_there_is_no_adversarial_pair(pool: Candidates) -> None:
    fine = replace(pool, usable=torch.ones_like(pool.usable))
    comparisons, images, masks = pool_adversarial_pairs(fine, 4, MARGINS, torch.Generator())
    assert (comparisons, len(images), len(masks)) == ([], 0, 0)


def test_a_pool_without_adversarial_pairs_can_be_trained_on(
    pool: Candidates, tmp_path: Path, judge_folder: Path
) -> None:
    (tmp_path / "pool").mkdir()
    for split in (Split.TRAIN, Split.DEV):
        fine = replace(pool, usable=torch.ones_like(pool.usable))
        save_candidates(fine, tmp_path / "pool" / f"{split.value}-00000.safetensors")
    settings = compare_config(judge_folder, tmp_path, deformed_share=0.0)
    assert math.isfinite(CompareTrainer(settings).train_step())


def test_deformed_adversarial_pairs_set_a_wrong_result_against_the_truth() -> None:
    generator = torch.Generator().manual_seed(3)
    comparisons, images, masks = deformed_adversarial_pairs(7, 6, MARGINS, generator)
    assert 3 <= len(comparisons) <= 6
    scenes = fresh_scenes(7, 18)
    for comparison, (bad, good), mask in zip(comparisons, images, masks, strict=True):
        (row,) = [r for r in range(18) if scenes.target[r].equal(good)]
        scene = scenes.select(torch.tensor([row]))
        assert not judge(bad[None], scene).usable
        assert judge(good[None], scene).usable
        assert mask.equal(scene.mask[0])
        gaps = [float(judge(p[None], scene).scores[d]) for p in (bad, good) for d in DIMENSIONS]
        for d, bad_score, good_score in zip(DIMENSIONS, gaps[:5], gaps[5:], strict=True):
            if bad_score == bad_score:
                winner = int(bad_score - good_score < 0.1)
                assert (Dimension(d), winner) in comparison.winners


def test_the_unusable_image_alone_is_attacked(pool: Candidates, judge_folder: Path) -> None:
    victim, generator = load_whole_judge(judge_folder), torch.Generator().manual_seed(3)
    comparisons, images, masks = pool_adversarial_pairs(pool, 6, MARGINS, generator)
    settings = compare_config(judge_folder, Path(), adversarial_steps=2, attack_size=0.03)
    start = random_start(images[:, 0], masks[:, None], 0.03, generator)
    attacked = attack_unusable(victim, comparisons, images, masks, settings, start)
    change = (attacked - images).abs()
    assert change[:, 1].max() == 0
    assert (change[:, 0] * (1 - masks[:, None])).max() == 0
    assert change[0::2].max() <= 0.03 + 1e-6
    assert change[1::2].max() <= 0.09 + 1e-6
    queries = [(n, query) for n, c in enumerate(comparisons) for query, _ in c.queries()]

    def yes(pairs: Tensor) -> Tensor:
        first, second = (victim.encode_images(list(pairs[:, k])) for k in (0, 1))
        questions = [PairQuestion(first[n], second[n], query) for n, query in queries]
        with torch.no_grad():
            return victim.answer(questions)[:, 0].sum()

    assert yes(attacked) > yes(images)
    twice = attack_unusable(victim, comparisons, images, masks, settings, attacked[:, 0])
    assert yes(twice) > yes(attacked)
    assert (twice - images)[0::2].abs().max() <= 0.03 + 1e-6
    no_steps = replace(settings, adversarial_steps=0)
    unchanged = attack_unusable(victim, comparisons, images, masks, no_steps, images[:, 0])
    assert unchanged.equal(images)


def test_adversarial_pairs_are_visited_until_their_slot_is_filled_anew(judge_folder: Path) -> None:
    settings = compare_config(judge_folder, Path(), adversarial_every=4, adversarial_visits=3)
    turns = [slot_of(step, settings) for step in range(60)]
    assert [slot for slot, _ in turns] == [step % 4 for step in range(60)]
    visits: dict[tuple[int, int], list[int]] = {}
    for step, turn in enumerate(turns):
        visits.setdefault(turn, []).append(step)
    for (_, start), steps in visits.items():
        assert steps == list(range(start, start + 4 * len(steps), 4))  # from the start, every four
        if 8 <= start < 48:  # neither of the first, which are cut short, nor of the last
            assert len(steps) == 3
    assert len({start // 4 % 3 for _, start in turns[24:36]}) > 1  # not all anew at once
    once = replace(settings, adversarial_visits=1)
    assert [slot_of(step, once)[1] for step in range(9)] == list(range(9))


def compare_config(folder: Path, pool: Path, **changes: object) -> CompareConfig:
    small = CompareConfig(
        run_folder=str(pool / "run"),
        judge_folder=str(folder),
        pool_folder=str(pool / "pool"),
        steps=4,
        decay_steps=2,
        warmup_steps=1,
        pairs=4,
        quality_images=4,
        vqa_questions=4,
        vqa_images=4,
        attack_steps=1,
        adversarial_pairs=2,
        adversarial_steps=1,
        adversarial_every=2,
        adversarial_visits=2,
        eval_every=4,
        log_every=2,
    )
    return replace(small, **changes)


@pytest.fixture
def pool_folder(tmp_path: Path, pool: Candidates) -> Path:
    """A folder with the same candidates as train and dev split."""
    (tmp_path / "pool").mkdir()
    for split in (Split.TRAIN, Split.DEV):
        save_candidates(pool, tmp_path / "pool" / f"{split.value}-00000.safetensors")
    return tmp_path


def test_stop_and_resume_equals_no_stop(pool_folder: Path, judge_folder: Path) -> None:
    settings = compare_config(judge_folder, pool_folder)
    train_comparison(settings)
    run = CompareTrainer(settings)
    run.train_step()
    run.train_step()
    again = CompareTrainer(settings)
    again.restore(run.train_state(0.0))
    assert again.attacked.keys() == {0, 1}  # adversarial pairs of both slots
    again.train_step()
    again.train_step()
    config = JudgeConfig(folder=str(pool_folder / "run" / "judge"), precision="fp32")
    expected = QwenJudge(config, torch.device("cpu")).component.module.state_dict()
    assert again.learner.parameters
    for name, value in again.learner.parameters.items():
        if not name.startswith("probe."):  # the heads are not exported
            assert torch.equal(value, expected[name]), name
    metrics = (pool_folder / "run" / "metrics.jsonl").read_text()
    for name in ("artifact", "pattern"):
        assert f'"{name}"' in metrics


def test_adversarial_pairs_set_an_unusable_candidate_against_a_usable_image(
    pool_folder: Path,
) -> None:
    """The oracle agrees on the scenes drawn again."""
    pairs = find_adversarial_pairs(pool_folder / "pool", Split.TRAIN, num=5)
    assert 1 <= len(pairs.bad) <= 5
    assert not judge(pairs.bad, pairs.conditions).usable.any()
    assert judge(pairs.good, pairs.conditions).usable.all()
    for task, queries in zip(pairs.conditions.task, pairs.queries, strict=True):
        assert {query.task.value for query in queries} == {TASKS[task]}
    with pytest.raises(FileNotFoundError):
        find_adversarial_pairs(pool_folder / "pool", Split.TEST, num=5)


def test_attacked_images_win_more_and_stay_within_the_limit(
    pool_folder: Path, judge_folder: Path
) -> None:
    victim = load_whole_judge(judge_folder)
    pairs = find_adversarial_pairs(pool_folder / "pool", Split.TRAIN, num=4)
    settings = AttackConfig(steps=4, pixel_limit=0.03)
    attacked = {
        "pixels": attack_pixels(victim, pairs, settings),
        "latents": attack_latents(victim, pairs, settings, load_folder(ASSETS)),
    }
    with torch.no_grad():
        before = wins(victim, pairs.bad, pairs)
    for name, images in attacked.items():
        change = (images - pairs.bad).abs()
        outside = 1 - pairs.conditions.mask[:, None]
        assert (change * outside).max() <= 0.5 / 255 + 1e-6, name
        assert change.max() > 0, name
        if name == "pixels":
            assert change.max() <= 0.03 + 1e-6
            with torch.no_grad():
                assert (wins(victim, images, pairs) > before).all()


def test_making_a_pool_resumes_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[Split, int]] = []

    def draw(models: object, split: Split, index: int, config: GenerateConfig) -> Candidates:
        batches.append((split, index - FIRST_INDEX))
        return make_candidates([[[0.0] * 5]], [FULL], [-1])

    monkeypatch.setattr("onereward.lab.judge.pairs.candidate_pool.sample_candidates", draw)
    settings = CandidatePoolConfig(
        pool_folder=str(tmp_path / "pool"), fill_folder=str(ASSETS), batches=(2, 1, 1)
    )
    make_candidate_pool(settings)
    whole = [(Split.TRAIN, 0), (Split.TRAIN, 1), (Split.DEV, 0), (Split.TEST, 0)]
    assert batches == whole
    (tmp_path / "pool" / "train-00001.safetensors").unlink()
    make_candidate_pool(settings)
    assert batches == [*whole, (Split.TRAIN, 1)]
    make_candidate_pool(replace(settings, batches=(3, 1, 1), max_minutes=0.0))
    assert len(batches) == 5
    make_candidate_pool(replace(settings, batches=(2, 0, 0), first=2))
    assert batches[5:] == [(Split.TRAIN, 2), (Split.TRAIN, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge_folder": ""}, "judge_folder is empty"),
        ({"margins": (0.1,)}, "give 5 between"),
        (
            {"pairs": 0, "adversarial_pairs": 0, "quality_images": 0, "vqa_questions": 0},
            "nothing to learn",
        ),
        ({"vqa_images": 1}, "questions need two"),
        ({"quality_images": 6}, "not a multiple of 4"),
        ({"attack_share": 1.5}, "attack_share is 1.5"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_config(Path("judge"), tmp_path, **changes)


def test_models_make_candidates_in_turn(pool: Candidates) -> None:
    """With a second model every other candidate is what that model alone would have made."""
    base, changed_model = load_folder(ASSETS), load_folder(ASSETS)
    with torch.no_grad():
        changed_model.transformer.proj_out.weight.mul_(0.5)
    alone, mixed = (
        sample_candidates(models, Split.TRAIN, FIRST_INDEX, QUICK, GROUPS)
        for models in ([changed_model], [base, changed_model])
    )
    for member, kind in enumerate(pool.kinds[:4].tolist()):
        assert kind in (FULL, ONE_STEP)
        expected = pool if member % 2 == 0 else alone
        assert torch.equal(mixed.images[:, member], expected.images[:, member])
    assert not torch.equal(pool.images[:, 1], alone.images[:, 1])
