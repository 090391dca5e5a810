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
    deformed_adversarial_pairs,
    pool_adversarial_pairs,
    push,
    round_of,
)
from onereward.lab.judge.pairs.attacks import random_start
from onereward.lab.judge.pairs.candidates import (
    FAULT,
    FULL,
    ONE_STEP,
    PATTERN,
    TRUTH,
    Candidates,
    draw_candidates,
    lay_pattern,
    load_candidates,
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
from onereward.lab.judge.pairs.candidate_pool import FIRST_INDEX, CandidatePoolConfig, gather
from onereward.lab.judge.robustness import (
    AttackConfig,
    find_adversarial_pairs,
    attack_latents,
    attack_pixels,
    wins,
)
from onereward.lab.oracle import DIMENSIONS, judge
from onereward.lab.world.conditions import TASKS, sample_conditions
from onereward.lab.world.splits import Split
from onereward.reward.judge import JudgeConfig
from onereward.reward.qwen_vl import EncodedImage, QwenJudge
from onereward.training.data.generate import GenerateConfig
from support.judges import make_judge

ASSETS = Path(__file__).parents[3] / "assets" / "fill"
QUICK = GenerateConfig(num_candidates=2, steps=(2, 3))
GROUPS = 8
MARGINS = (0.1,) * 5
NAN = float("nan")
# An 8 pixels patch as in the bundled judge, every image seen whole.
SHAPE = JudgeShape(
    width=32, layers=1, heads=1, vision_width=32, vision_layers=1, vision_heads=1, full_layers=(0,)
)


@pytest.fixture(scope="module")
def pool() -> Candidates:
    """Candidates of the bundled model for eight scenes."""
    return draw_candidates([load_folder(ASSETS)], Split.TRAIN, FIRST_INDEX, QUICK, GROUPS)


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
    """The oracle, asked again about the stored images, says the same but for the rounding."""
    scenes = sample_conditions(Split.TRAIN, FIRST_INDEX, torch.arange(GROUPS) % 4)
    assert pool.prompts == scenes.prompts
    kinds = [FULL] * 2 + [ONE_STEP] * 2 + [TRUTH, FAULT] + [PATTERN] * 2
    assert pool.kinds.tolist() == kinds
    outside = pool.masks[:, None] == 0
    for number in range(len(kinds)):
        images = pool.images[:, number].float() / 255
        oracle_scores = judge(images, scenes)
        for column, name in enumerate(DIMENSIONS):
            stored, now = pool.scores[:, number, column].float(), oracle_scores.scores[name]
            assert torch.equal(stored.isnan(), now.isnan())
            assert torch.allclose(stored, now, atol=0.06, equal_nan=True), name
        kept = (images - scenes.source).abs() * outside
        assert kept.max() <= 0.5 / 255 + 1e-6


def test_the_truth_is_better_than_its_fault_on_average(pool: Candidates) -> None:
    truth, artifact = (pool.kinds.tolist().index(kind) for kind in (TRUTH, FAULT))
    gaps = (pool.scores[:, truth] - pool.scores[:, artifact]).float()
    assert gaps.nanmean() > 0.1
    assert pool.usable[:, truth].float().mean() > pool.usable[:, artifact].float().mean()


def test_same_arguments_give_the_same_candidates(pool: Candidates, tmp_path: Path) -> None:
    again = draw_candidates([load_folder(ASSETS)], Split.TRAIN, FIRST_INDEX, QUICK, GROUPS)
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
    laid = lay_pattern(images, masks, generator)
    assert laid.min() >= 0
    assert laid.max() <= 1
    changed = (laid - images).abs()
    assert (changed * (1 - masks[:, None])).max() == 0
    # Dots may miss a mask; all others are seen under it.
    is_changed = changed.flatten(1).amax(1) > 0.02
    assert is_changed.float().mean() > 0.9


def hand_made(scores: list[list[list[float]]], kinds: list[int], spoils: list[int]) -> Candidates:
    """Groups of the remove task with given scores; every image is one flat grey."""
    table = torch.tensor(scores)
    groups, num = table.shape[:2]
    greys = torch.arange(num, dtype=torch.uint8) * 20
    return Candidates(
        images=greys.view(1, num, 1, 1, 1).expand(groups, num, 3, 64, 64).contiguous(),
        scores=table.half(),
        usable=torch.zeros(groups, num, dtype=torch.bool),
        kinds=torch.tensor(kinds, dtype=torch.uint8),
        spoils=torch.tensor([spoils] * groups),
        task=torch.zeros(groups, dtype=torch.int64),
        masks=torch.ones(groups, 64, 64, dtype=torch.uint8),
        prompts=["a red circle"] * groups,
    )


def test_a_pair_asks_about_clear_differences_only() -> None:
    made = hand_made(
        [[[0.9, 0.50, 0.2, 0.85, NAN], [0.5, 0.55, 0.6, 0.9, NAN]]], [FULL] * 2, [-1] * 2
    )
    found = compare(made, 0, (0, 1), MARGINS)
    assert found is not None
    assert dict(found.winners) == {Dimension.TEXT_ALIGNMENT: 0, Dimension.STRUCTURE: 1}
    assert compare(made, 0, (0, 1), (0.6,) * 5) is None
    turned = compare(made, 0, (1, 0), MARGINS)
    assert turned is not None
    assert dict(turned.winners) == {Dimension.TEXT_ALIGNMENT: 1, Dimension.STRUCTURE: 0}


def test_a_pattern_loses_in_every_dimension_unless_the_oracle_says_otherwise() -> None:
    rows = [[0.9, 0.5, 0.2, 0.8, NAN], [0.88, 0.52, 0.5, 0.3, NAN]]
    made = hand_made([rows], [FULL, PATTERN], [-1, 0])
    found = compare(made, 0, (1, 0), MARGINS)
    assert found is not None
    assert dict(found.winners) == {
        Dimension.TEXT_ALIGNMENT: 1,
        Dimension.CONSISTENCY: 1,
        Dimension.STRUCTURE: 0,
        Dimension.AESTHETICS: 1,
    }


def test_a_pattern_nobody_sees_is_no_fault() -> None:
    rows = [[0.9, 0.5, 0.2, 0.8, NAN], [0.9, 0.5, 0.2, 0.8, NAN]]
    made = hand_made([rows], [FULL, PATTERN], [-1, 0])
    faint = replace(made, images=made.images // 20)
    assert compare(made, 0, (0, 1), MARGINS) is not None
    assert compare(faint, 0, (0, 1), MARGINS) is None


def test_best_and_worst_per_dimension() -> None:
    rows = [[0.1, 0.50, 0.2, NAN, NAN], [0.9, 0.55, 0.6, NAN, NAN], [0.5, 0.52, 0.9, NAN, NAN]]
    made = hand_made([rows], [FULL] * 3, [-1] * 3)
    found = {one.winners[0][0]: one.images for one in best_and_worst(made, MARGINS)}
    assert found == {Dimension.TEXT_ALIGNMENT: (1, 0), Dimension.STRUCTURE: (2, 0)}


def test_pairs_that_differ_clearly_are_counted_per_task(pool: Candidates) -> None:
    wanted = dict.fromkeys(map(Task, TASKS), 0)
    full = [m for m, kind in enumerate(pool.kinds.tolist()) if kind == FULL]
    for group in range(GROUPS):
        for a, b in itertools.combinations(full, 2):
            gaps = (pool.scores[group, a].float() - pool.scores[group, b].float()).abs().tolist()
            found = any(g >= m for g, m in zip(gaps, MARGINS, strict=True))
            wanted[Task(TASKS[int(pool.task[group])])] += found
    assert count_pairs(pool, MARGINS, (FULL,)) == wanted
    everything = count_pairs(pool, (1e-9,) * 5)
    most = len(pool.kinds) * (len(pool.kinds) - 1) // 2
    assert all(wanted[t] < everything[t] <= 2 * most for t in wanted)  # two groups per task


def test_comparisons_are_of_all_kinds_and_of_outlines_most_of_all(pool: Candidates) -> None:
    drawn = sample_comparisons(pool, 800, MARGINS, torch.Generator().manual_seed(0))
    tasks = [one.task for one in drawn]
    for task, share in ((Task.FILL, 3), (Task.EXTEND, 3), (Task.REMOVE, 1), (Task.TEXT, 1)):
        assert tasks.count(task) == 100 * share
    drawn_kinds = {int(pool.kinds[m]) for one in drawn for m in one.images}
    assert drawn_kinds == {FULL, ONE_STEP, TRUTH, FAULT, PATTERN}


def test_a_pair_is_asked_about_so_many_dimensions(pool: Candidates) -> None:
    generator = torch.Generator().manual_seed(3)
    whole = [one for one in drawn_from(pool, 40) if len(one.winners) == 4]
    assert whole
    assert all(sample_dimensions(one, 0, generator) == one for one in whole)
    assert all(sample_dimensions(one, 4, generator) == one for one in whole)
    kept = [sample_dimensions(whole[0], 2, generator) for _ in range(40)]
    assert {len(one.winners) for one in kept} == {2}
    assert all(set(one.winners) < set(whole[0].winners) for one in kept)
    assert {pair for one in kept for pair in one.winners} == set(whole[0].winners)


def drawn_from(pool: Candidates, num: int = 6) -> list[Comparison]:
    return sample_comparisons(pool, num, MARGINS, torch.Generator().manual_seed(1))


def test_the_loss_is_equation_3(pool: Candidates, judge_folder: Path) -> None:
    """Against probabilities asked one by one, put together in float64 by hand."""
    config = JudgeConfig(folder=str(judge_folder), precision="fp32")
    one_by_one = QwenJudge(config, torch.device("cpu"))
    drawn = drawn_from(pool)
    images = images_of(pool, drawn)
    terms = []
    for pair, one in zip(images, drawn, strict=True):
        for query, place in one.queries():
            winner, loser = one_by_one.encode_images([pair[place], pair[1 - place]])
            with torch.no_grad():
                first = one_by_one.answer([(winner, loser, query)])[0].double()
                second = one_by_one.answer([(loser, winner, query)])[0].double()
            terms.append(-0.5 * (first[0] + second[1]))
    learner = load_whole_judge(judge_folder)
    loss = comparison_loss(learner, encode_pairs(learner, images), drawn)
    assert abs(loss.item() - torch.stack(terms).mean().item()) < 0.02  # bfloat16 products


def test_appraised_images_are_asked_about_too(
    pool_folder: Path, judge_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss beside the head's is eq. 3 of the scenes' images two by two."""
    settings = compare_config(
        judge_folder, pool_folder, pairs=0, questions=0, images=0, quality_images=16, attack_share=0.0
    )
    shown: list[torch.Tensor] = []
    encode = CompareTrainer._encode

    def remember(self: CompareTrainer, images: torch.Tensor) -> list[EncodedImage]:
        shown.append(images)
        return encode(self, images)

    monkeypatch.setattr(CompareTrainer, "_encode", remember)
    without = CompareTrainer(settings)._appraised(torch.Generator().manual_seed(0))
    asking = CompareTrainer(replace(settings, compare_quality_images=True))
    loss = asking._appraised(torch.Generator().manual_seed(0)) - without
    assert torch.equal(shown[0], shown[1])
    pairs = shown[0].view(8, 2, *shown[0].shape[1:])
    scenes = sample_conditions(Split.TRAIN, FIRST_INDEX, torch.arange(GROUPS) % len(TASKS))
    fresh = fresh_scenes(asking._number(0), 2)
    drawn, kept = [], []
    for number, pair in enumerate(pairs):
        of = [s.select(torch.tensor([k])) for s in (scenes, fresh) for k in range(len(s))]
        outside = [(pair[0] - one.source[0]).abs() * (1 - one.mask) for one in of]
        scene = of[int(torch.stack([o.amax() for o in outside]).argmin())]
        first, second = (judge(image[None], scene).scores for image in pair)
        gaps = [float(first[d] - second[d]) for d in DIMENSIONS]
        found = as_comparison(int(scene.task), scene.prompts[0], gaps, settings.margins)
        if found is not None:
            drawn.append(found)
            kept.append(pairs[number])
    assert len(drawn) >= 3
    wanted = comparison_loss(asking.judge, encode_pairs(asking.judge, torch.stack(kept)), drawn)
    assert loss.item() == pytest.approx(wanted.item(), abs=0.02)


def test_attacks_stay_small_and_in_the_mask(pool: Candidates, judge_folder: Path) -> None:
    victim, drawn = load_whole_judge(judge_folder), drawn_from(pool)
    images = images_of(pool, drawn)
    masks = torch.stack([pool.masks[one.group] for one in drawn]).float()
    settings = compare_config(judge_folder, Path(), attack_steps=3, attack_size=0.03)
    attacked = attack_pairs(victim, images, drawn, masks, settings)
    change = (attacked - images).abs()
    for number in (0, 1, 4, 5):  # the loser alone, where one image loses everywhere
        places = {place for _, place in drawn[number].winners}
        if len(places) == 1:
            assert change[number, places.pop()].max() == 0
    assert (change * (1 - masks[:, None, None])).max() == 0
    assert change[0::2].max() <= 0.03 + 1e-6
    assert change[1::2].max() <= 0.09 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    with torch.no_grad():
        before, after = (
            comparison_loss(victim, encode_pairs(victim, p), drawn) for p in (images, attacked)
        )
    assert after > before
    assert not attacked.requires_grad
    assert all(p.grad is None for p in victim.component.module.parameters())


def test_adversarial_pairs_are_among_unusable_and_usable_images_of_a_scene(
    pool: Candidates,
) -> None:
    generator = torch.Generator().manual_seed(3)
    drawn, images, masks = pool_adversarial_pairs(pool, 12, MARGINS, generator)
    assert len(drawn) == len(images) == len(masks) == 12
    for one, pair, mask in zip(drawn, images, masks, strict=True):
        rows = [g for g in range(GROUPS) if pool.prompts[g] == one.prompt]
        places = [
            [(g, m) for g in rows for m in range(len(pool.kinds)) if shown(pool, g, m, image)]
            for image in pair
        ]
        assert any(not pool.usable[where] for where in places[0])
        assert any(pool.usable[where] for where in places[1])
        group = places[0][0][0]
        assert mask.equal(pool.masks[group].float())
        judged = int((~pool.scores[group, 0].isnan()).sum())
        assert len(one.winners) == judged  # hardly any difference: the usable one wins


def shown(pool: Candidates, group: int, member: int, image: Tensor) -> bool:
    return bool((pool.images[group, member].float() / 255).equal(image))


def test_without_an_unusable_image_there_is_no_adversarial_pair(pool: Candidates) -> None:
    fine = replace(pool, usable=torch.ones_like(pool.usable))
    drawn, images, masks = pool_adversarial_pairs(fine, 4, MARGINS, torch.Generator())
    assert (drawn, len(images), len(masks)) == ([], 0, 0)


def test_a_pool_without_adversarial_pairs_is_learned_from_all_the_same(
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
    drawn, images, masks = deformed_adversarial_pairs(7, 6, MARGINS, generator)
    assert 3 <= len(drawn) <= 6
    scenes = fresh_scenes(7, 18)
    for one, (bad, good), mask in zip(drawn, images, masks, strict=True):
        (row,) = [r for r in range(18) if scenes.target[r].equal(good)]
        scene = scenes.select(torch.tensor([row]))
        assert not judge(bad[None], scene).usable
        assert judge(good[None], scene).usable
        assert mask.equal(scene.mask[0])
        gaps = [float(judge(p[None], scene).scores[d]) for p in (bad, good) for d in DIMENSIONS]
        for d, bad_score, good_score in zip(DIMENSIONS, gaps[:5], gaps[5:], strict=True):
            if bad_score == bad_score:
                assert (Dimension(d), int(bad_score - good_score < 0.1)) in one.winners


def test_the_unusable_image_alone_is_pushed(pool: Candidates, judge_folder: Path) -> None:
    victim, generator = load_whole_judge(judge_folder), torch.Generator().manual_seed(3)
    drawn, images, masks = pool_adversarial_pairs(pool, 6, MARGINS, generator)
    settings = compare_config(judge_folder, Path(), adversarial_steps=2, attack_size=0.03)
    start = random_start(images[:, 0], masks[:, None], 0.03, generator)
    pushed = push(victim, drawn, images, masks, settings, start)
    change = (pushed - images).abs()
    assert change[:, 1].max() == 0
    assert (change[:, 0] * (1 - masks[:, None])).max() == 0
    assert change[0::2].max() <= 0.03 + 1e-6
    assert change[1::2].max() <= 0.09 + 1e-6
    asked = [(n, query) for n, one in enumerate(drawn) for query, _ in one.queries()]

    def yes(shown: Tensor) -> Tensor:
        first, second = (victim.encode_images(list(shown[:, k])) for k in (0, 1))
        with torch.no_grad():
            return victim.answer([(first[n], second[n], q) for n, q in asked])[:, 0].sum()

    assert yes(pushed) > yes(images)
    on = push(victim, drawn, images, masks, settings, pushed[:, 0])
    assert yes(on) > yes(pushed)
    assert (on - images)[0::2].abs().max() <= 0.03 + 1e-6
    unmoved = push(
        victim, drawn, images, masks, replace(settings, adversarial_steps=0), images[:, 0]
    )
    assert unmoved.equal(images)


def test_adversarial_pairs_come_back_until_others_take_their_place(judge_folder: Path) -> None:
    settings = compare_config(judge_folder, Path(), adversarial_every=4, adversarial_visits=3)
    turns = [round_of(step, settings) for step in range(60)]
    assert [place for place, _ in turns] == [step % 4 for step in range(60)]
    shown: dict[tuple[int, int], list[int]] = {}
    for step, turn in enumerate(turns):
        shown.setdefault(turn, []).append(step)
    for (_, start), steps in shown.items():
        assert steps == list(range(start, start + 4 * len(steps), 4))  # from the start, every four
        if 8 <= start < 48:  # neither of the first, which are cut short, nor of the last
            assert len(steps) == 3
    assert len({start // 4 % 3 for _, start in turns[24:36]}) > 1  # not all anew at once
    once = replace(settings, adversarial_visits=1)
    assert [round_of(step, once)[1] for step in range(9)] == list(range(9))


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
        questions=4,
        images=4,
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
    assert again.pushed.keys() == {0, 1}  # adversarial_pairs that stand
    again.train_step()
    again.train_step()
    config = JudgeConfig(folder=str(pool_folder / "run" / "judge"), precision="fp32")
    expected = QwenJudge(config, torch.device("cpu")).component.module.state_dict()
    assert again.learner.parameters
    for name, value in again.learner.parameters.items():
        if not name.startswith("probe."):  # the head is left behind
            assert torch.equal(value, expected[name]), name
    curve = (pool_folder / "run" / "metrics.jsonl").read_text()
    for name in ("artifact", "pattern"):
        assert f'"{name}"' in curve


def test_adversarial_pairs_set_an_unusable_candidate_against_a_usable_image(
    pool_folder: Path,
) -> None:
    """The oracle, asked about the scenes drawn anew, agrees."""
    adversarial_pairs = find_adversarial_pairs(pool_folder / "pool", Split.TRAIN, num=5)
    assert 1 <= len(adversarial_pairs.bad) <= 5
    assert not judge(adversarial_pairs.bad, adversarial_pairs.conditions).usable.any()
    assert judge(adversarial_pairs.good, adversarial_pairs.conditions).usable.all()
    for number, queries in enumerate(adversarial_pairs.queries):
        assert {query.task.value for query in queries} == {
            TASKS[adversarial_pairs.conditions.task[number]]
        }
    with pytest.raises(FileNotFoundError):
        find_adversarial_pairs(pool_folder / "pool", Split.TEST, num=5)


def test_pushed_images_win_more_and_stay_within_the_limit(
    pool_folder: Path, judge_folder: Path
) -> None:
    victim = load_whole_judge(judge_folder)
    adversarial_pairs = find_adversarial_pairs(pool_folder / "pool", Split.TRAIN, num=4)
    settings = AttackConfig(steps=4, pixel_limit=0.03)
    pushed = {
        "pixels": attack_pixels(victim, adversarial_pairs, settings),
        "latents": attack_latents(victim, adversarial_pairs, settings, load_folder(ASSETS)),
    }
    with torch.no_grad():
        before = wins(victim, adversarial_pairs.bad, adversarial_pairs)
    for name, images in pushed.items():
        change = (images - adversarial_pairs.bad).abs()
        kept = 1 - adversarial_pairs.conditions.mask[:, None]
        assert (change * kept).max() <= 0.5 / 255 + 1e-6, name
        assert change.max() > 0, name
        if name == "pixels":
            assert change.max() <= 0.03 + 1e-6
            with torch.no_grad():
                assert (wins(victim, images, adversarial_pairs) > before).all()


def test_gathering_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Split, int]] = []

    def draw(parts: object, split: Split, index: int, config: GenerateConfig) -> Candidates:
        made.append((split, index - FIRST_INDEX))
        return hand_made([[[0.0] * 5]], [FULL], [-1])

    monkeypatch.setattr("onereward.lab.judge.pairs.candidate_pool.draw_candidates", draw)
    settings = CandidatePoolConfig(
        pool_folder=str(tmp_path / "pool"), fill_folder=str(ASSETS), batches=(2, 1, 1)
    )
    gather(settings)
    whole = [(Split.TRAIN, 0), (Split.TRAIN, 1), (Split.DEV, 0), (Split.TEST, 0)]
    assert made == whole
    (tmp_path / "pool" / "train-00001.safetensors").unlink()
    gather(settings)
    assert made == [*whole, (Split.TRAIN, 1)]
    gather(replace(settings, batches=(3, 1, 1), max_minutes=0.0))
    assert len(made) == 5
    gather(replace(settings, batches=(2, 0, 0), first=2))
    assert made[5:] == [(Split.TRAIN, 2), (Split.TRAIN, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge_folder": ""}, "judge_folder is empty"),
        ({"margins": (0.1,)}, "give 5 between"),
        ({"pairs": 0, "adversarial_pairs": 0, "quality_images": 0, "questions": 0}, "nothing to learn"),
        ({"images": 1}, "questions need two"),
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
    base, other = load_folder(ASSETS), load_folder(ASSETS)
    with torch.no_grad():
        other.transformer.proj_out.weight.mul_(0.5)
    alone, both = (
        draw_candidates(models, Split.TRAIN, FIRST_INDEX, QUICK, GROUPS)
        for models in ([other], [base, other])
    )
    for place, kind in enumerate(pool.kinds[:4].tolist()):
        assert kind in (FULL, ONE_STEP)
        made_by = pool if place % 2 == 0 else alone
        assert torch.equal(both.images[:, place], made_by.images[:, place])
    assert not torch.equal(pool.images[:, 1], alone.images[:, 1])
