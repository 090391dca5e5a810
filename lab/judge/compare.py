"""Stage 2: train a judge to compare, by eq. 3 on candidates that the oracle scored.

`python -m onereward.lab.judge.compare config.json`
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reward.vlm.qwen_vl import EncodedImage
from ...training.judge.pairs import Augmentation
from ...training.runs.directory import RunDirectory, TrainState
from ...training.runs.loop import step_generator
from ..oracle import DIMENSIONS, composite, judge
from ..world.conditions import Conditions, join_conditions
from ..world.splits import Split
from .answers import EVAL_BATCH, attack_pairs, comparison_loss, encode_pairs, images_of, report_on
from .cell_probe import make_probe, probe_loss
from .config import CompareConfig
from .learner import Learner, LearnerRun, load_whole_judge
from .pairs.adversarial import (
    attack_unusable,
    deformed_adversarial_pairs,
    pool_adversarial_pairs,
    slot_of,
)
from .pairs.attacks import Ascent, attack, random_start
from .pairs.blends import blended_pairs, sample_blends, scenes_of_all
from .pairs.candidate_pool import files_of
from .pairs.candidates import load_candidates
from .pairs.comparisons import (
    Comparison,
    as_comparison,
    best_and_worst,
    kinds_of_pairs,
    sample_comparisons,
    sample_dimensions,
    sample_groups,
)
from .pairs.deformations import deformed_pairs, fresh_scenes, sample_deformations
from .pairs.vqa_questions import sample_questions, sample_vqa_batch
from .quality_head import QualityHead, maps_of
from .vqa import answer, encode

if TYPE_CHECKING:
    from .cell_probe import CellProbe

log = logging.getLogger("onereward.training")

_ADVERSARIAL_SCENES = 15_000_000
"""Offset of their scene batches: far from those that the steps use for other purposes."""
_ADVERSARIAL_KEY = "adversarial_pairs."
"""Prefix of attacked images among the tensors of a checkpoint."""
_ADVERSARIAL = 1
"""Purpose of the random numbers that draw adversarial pairs, besides a step's own."""
_PER_SCENE = 4
"""Single images of a scene, which are ranked against each other."""
_Pairs = tuple[list[Comparison], Tensor, Tensor]
"""Comparisons, their images `[N, 2, 3, 64, 64]` and masks `[N, 64, 64]`."""


class CompareTrainer:
    """One run: judge, candidates, optimisers and the next step to do.

    Example: ``CompareTrainer(config).train_step()``.
    """

    def __init__(self, config: CompareConfig) -> None:
        """Load judge and candidates.

        Raises:
            FileNotFoundError: There are no candidates of the train split.
            JudgeError: The folder holds no judge.
        """
        self.config = config
        pool = Path(config.pool_folder)
        files = files_of(pool, Split.TRAIN)
        self.pool = load_candidates(files)
        self.scenes = scenes_of_all(files, len(self.pool) // len(files))
        held_out = files_of(pool, Split.DEV)
        self.held_out = load_candidates(held_out)
        self.held_out_shapes = scenes_of_all(held_out, len(self.held_out) // len(held_out)).shape
        self.judge = load_whole_judge(Path(config.judge_folder))
        width: int = self.judge.component.module.config.text_config.hidden_size  # type: ignore[union-attr]
        side = self.judge.patches.patch_size * self.judge.patches.merge_size
        self.heads = nn.ModuleDict(
            {
                "quality": QualityHead(width, side),
                "cell_labels": make_probe(width, side, config.seed),
            }
        )
        self.learner = Learner(self.judge, config, self.heads)
        # Unusable images of adversarial pairs as last attacked, by slot, `[N, 3, 64, 64]`.
        self.attacked: dict[int, Tensor] = {}

    @property
    def quality_head(self) -> QualityHead:
        """The head that predicts the quality of single images."""
        return cast("QualityHead", self.heads["quality"])

    @property
    def step(self) -> int:
        """Steps done."""
        return self.learner.step

    def train_step(self) -> float:
        """Do one step; return the loss.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        config = self.config
        generator = step_generator(config.seed, self.step)
        losses: list[Tensor] = []
        if config.pairs:
            losses.append(self._pair_loss(generator))
        if config.adversarial_pairs:
            losses.append(self._adversarial_loss())
        if config.quality_images:
            losses.append(self._quality_loss(generator))
        if config.vqa_images:
            losses.append(self._vqa_loss(generator))
        return self.learner.learn(torch.stack(losses).sum())

    def _pair_loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a step's pairs."""
        config, pool = self.config, self.pool
        # Deformed truths, blends, and candidates as they are.
        num_synthetic = round(config.blend_share * config.pairs)
        num_deformed = round(config.deformed_share * num_synthetic)
        num_blended = num_synthetic - num_deformed
        batches = []
        if num_deformed:
            index = self._scene_batch(1)
            batches.append(deformed_pairs(index, num_deformed, config.margins, generator))
        if num_blended:
            batches.append(blended_pairs(pool, self.scenes, num_blended, config.margins, generator))
        if config.pairs > num_synthetic:
            batches.append(self._candidate_pairs(config.pairs - num_synthetic, generator))
        comparisons, images, masks = self._join(batches, generator)
        # The first of the shuffled pairs are attacked.
        num = round(config.attack_share * len(comparisons))
        if num:
            victims = (images[:num], comparisons[:num], masks[:num])
            images[:num] = attack_pairs(self.judge, *victims, config)
        return comparison_loss(self.judge, encode_pairs(self.judge, images), comparisons)

    def _candidate_pairs(self, num: int, generator: torch.Generator) -> _Pairs:
        """Return pairs of candidates as they are, with images and masks."""
        margins, share = self.config.margins, self.config.pattern_share
        comparisons = sample_comparisons(self.pool, num, margins, generator, share)
        masks = self.pool.masks[[comparison.group for comparison in comparisons]].float()
        return comparisons, images_of(self.pool, comparisons), masks

    def _join(self, batches: Sequence[_Pairs], generator: torch.Generator) -> _Pairs:
        """Shuffle and augment pairs, each asked about some of its dimensions."""
        comparisons: list[Comparison] = []
        for batch, _, _ in batches:
            comparisons += [
                sample_dimensions(comparison, self.config.dimensions, generator)
                for comparison in batch
            ]
        order = torch.randperm(len(comparisons), generator=generator)
        images = torch.cat([images for _, images, _ in batches])[order]  # [N, 2, 3, 64, 64]
        masks = torch.cat([masks for _, _, masks in batches])[order]  # [N, 64, 64]
        return [comparisons[k] for k in order.tolist()], self._augment(images, generator), masks

    def _adversarial_loss(self) -> Tensor:
        """Return the loss of unusable images that were attacked so that they win."""
        config = self.config
        # The pairs of this step's slot, drawn as when the slot was filled.
        slot, start = slot_of(self.step, config)
        generator = step_generator(config.seed, start, _ADVERSARIAL)
        num_deformed = round(config.deformed_share * config.adversarial_pairs)
        num_candidates = config.adversarial_pairs - num_deformed
        batches = [pool_adversarial_pairs(self.pool, num_candidates, config.margins, generator)]
        if num_deformed:
            index = self._scene_batch(_ADVERSARIAL_SCENES, start)
            batches.append(
                deformed_adversarial_pairs(index, num_deformed, config.margins, generator)
            )
        if not any(comparisons for comparisons, _, _ in batches):  # nothing may be unusable
            return torch.zeros(())
        comparisons, images, masks = self._join(batches, generator)
        # The attack goes on from where the last visit left it.
        attacked = self.attacked.get(slot)
        if attacked is None or self.step == start:
            attacked = random_start(images[:, 0], masks[:, None], config.attack_size, generator)
        images = attack_unusable(self.judge, comparisons, images, masks, config, attacked)
        if config.adversarial_visits > 1:
            self.attacked[slot] = images[:, 0].clone()
        return comparison_loss(self.judge, encode_pairs(self.judge, images), comparisons)

    def _scene_batch(self, purpose: int, step: int | None = None) -> int:
        """Return the index of a step's fresh scenes (this one's), for one of three purposes."""
        step = self.step if step is None else step
        return (self.config.seed % 16) * 20_000_000 + 2 * step + purpose

    def _quality_loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss on single images: the head's, and eq. 3 of those of a scene."""
        config, pool = self.config, self.pool
        # Blends and deformed truths, `_PER_SCENE` per scene.
        num = config.quality_images // _PER_SCENE
        num_deformed = round(config.deformed_share * num)
        results = []
        if num > num_deformed:
            rows = sample_groups(pool, num - num_deformed, generator)
            results.append(sample_blends(pool, self.scenes, rows, _PER_SCENE, generator))
        if num_deformed:
            scenes = fresh_scenes(self._scene_batch(0), num_deformed)
            results.append(sample_deformations(scenes, _PER_SCENE, generator))
        conditions = join_conditions([result.conditions for result in results])
        images = composite(torch.cat([result.images for result in results]), conditions)
        # Some are attacked, up or down.
        num = round(config.attack_share * len(images))
        if num:
            rows = torch.randperm(len(images), generator=generator)[:num]
            images[rows] = self._attack_quality(images[rows], conditions.select(rows), generator)
        # Scored after the attack: its noise is an artifact, too.
        oracle_scores = judge(images, conditions)
        scores = oracle_scores.table  # [N, D]
        encoded = self._encode(images)
        loss = config.quality_weight * self.quality_head.loss(
            encoded,
            conditions,
            scores.view(-1, _PER_SCENE, len(DIMENSIONS)),
            oracle_scores.shape_overlap,
            maps_of(images, conditions),
            torch.tensor(config.margins) / 2,
        )
        if config.compare_quality_images:
            loss = loss + self._scene_pair_loss(encoded, conditions, scores, generator)
        return loss

    def _attack_quality(
        self, images: Tensor, conditions: Conditions, generator: torch.Generator
    ) -> Tensor:
        """Attack images so that the head's utilities rise or fall, each by chance."""
        sign = torch.randint(2, (len(images), 1), generator=generator) * 2 - 1
        weights = sign * ~judge(images, conditions).table.isnan()  # [N, D]
        task, shape = conditions.task, conditions.shape
        return attack(
            lambda attacked: (weights * self._utility(attacked, task, shape)).sum(),
            images,
            conditions.mask[:, None],
            Ascent(self.config.attack_steps, self.config.attack_size),
        )

    def _scene_pair_loss(
        self,
        encoded: Sequence[EncodedImage],
        conditions: Conditions,
        scores: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return eq. 3 over single images, two of a scene each: they are encoded already."""
        comparisons: list[Comparison] = []
        images: list[EncodedImage] = []
        for row in range(0, len(encoded), 2):
            comparison = as_comparison(
                int(conditions.task[row]),
                conditions.prompts[row],
                (scores[row] - scores[row + 1]).tolist(),
                self.config.margins,
            )
            if comparison is not None:
                comparisons.append(sample_dimensions(comparison, self.config.dimensions, generator))
                images += encoded[row : row + 2]
        if not comparisons:
            return torch.zeros(())
        return comparison_loss(self.judge, images, comparisons)

    def _utility(self, images: Tensor, task: Tensor, shape: Tensor) -> Tensor:
        return self.quality_head.utility(self._encode(images), task, shape)

    def _encode(self, images: Tensor) -> list[EncodedImage]:
        with torch.autocast("cpu", torch.bfloat16):
            return self.judge.encode_images(list(images))

    def _vqa_loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of stage 1."""
        config = self.config
        index = config.seed * 10_000_000 + self.step
        batch = sample_vqa_batch(Split.TRAIN, index, config.vqa_images)
        encoded = encode(self.judge, batch)
        loss = probe_loss(cast("CellProbe", self.heads["cell_labels"])(encoded), batch)
        if config.vqa_questions:
            questions = sample_questions(batch, config.vqa_questions, generator)
            loss = loss + F.cross_entropy(*answer(self.judge, encoded, questions))
        return loss

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        augmentation = Augmentation(shift=config.shift, blur=config.blur, noise=config.noise)
        pairs = [augmentation.apply((a, b), generator) for a, b in images]
        return torch.stack([torch.stack(pair) for pair in pairs])

    def measure(self) -> dict[str, float]:
        """Return held-out accuracies: per cell on finished images, and per kind of pair."""
        margins, pool = self.config.margins, self.held_out
        finished = list(best_and_worst(pool, margins))
        cells = report_on(self.judge, pool, finished).cells if finished else {}
        metrics = {f"{t.value}.{d.value}": c.accuracy for (t, d), c in cells.items()}
        for name, pairs in kinds_of_pairs(pool, margins).items():
            if not pairs:
                continue
            of_kind = report_on(self.judge, pool, pairs).cells.values()
            total = sum(cell.num_pairs for cell in of_kind)
            metrics[name] = sum(cell.accuracy * cell.num_pairs for cell in of_kind) / total
        if finished:
            metrics["quality_head"] = self._head_accuracy(finished)
        return {name: round(value, 4) for name, value in metrics.items()}

    @torch.no_grad()
    def _head_accuracy(self, comparisons: Sequence[Comparison]) -> float:
        """Return how often the head alone prefers the better image."""
        right: list[bool] = []
        for start in range(0, len(comparisons), EVAL_BATCH):
            batch = comparisons[start : start + EVAL_BATCH]
            groups = torch.tensor([c.group for c in batch]).repeat_interleave(2)
            task, shape = self.held_out.task[groups], self.held_out_shapes[groups]
            images = images_of(self.held_out, batch).flatten(0, 1)
            # The second image's utility less the first one's, `[N, D]`.
            lead = self._utility(images, task, shape).view(len(batch), 2, -1).diff(dim=1)[:, 0]
            for comparison, row in zip(batch, lead, strict=True):
                for name, better in comparison.winners:
                    right.append(bool(row[DIMENSIONS.index(name.value)] > 0) == bool(better))
        return sum(right) / len(right)

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        state = self.learner.train_state(seconds)
        attacked = {f"{_ADVERSARIAL_KEY}{slot}": images for slot, images in self.attacked.items()}
        return replace(state, tensors=state.tensors | attacked)

    def restore(self, state: TrainState) -> None:
        """Go on from there; a run that begins draws its own adversarial pairs."""
        self.learner.restore(state)
        self.attacked = {
            int(name.removeprefix(_ADVERSARIAL_KEY)): images
            for name, images in state.tensors.items()
            if state.step and name.startswith(_ADVERSARIAL_KEY)
        }


def train_comparison(config: CompareConfig) -> None:
    """Train until done or out of time; `judge/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder, trainer = RunDirectory(config), CompareTrainer(config)
    LearnerRun(folder, trainer, config.steps).run()
    trainer.learner.export(Path(config.judge_folder), folder.path / "judge")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_comparison(CompareConfig.load(arguments.config))


if __name__ == "__main__":
    main()
