"""Teach a judge that can see to compare: eq. 3 on candidates that the oracle scored.

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

from ...reward.qwen_vl import EncodedImage
from ...training.judge.pairs import Augmentation
from ...training.runs.directory import RunDirectory, TrainState
from ...training.runs.loop import run_stage, step_generator
from ..oracle import DIMENSIONS, composite, judge
from ..world.conditions import Conditions, join_conditions
from ..world.splits import Split
from .answers import TOGETHER, attack_pairs, comparison_loss, encode_pairs, images_of, report_on
from .config import CompareConfig
from .learner import Learner, load_whole_judge
from .pairs.adversarial import deformed_adversarial_pairs, pool_adversarial_pairs, push, round_of
from .pairs.attacks import Ascent, attack, random_start
from .pairs.blends import blended_pairs, sample_blends, scenes_of_all
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
from .pairs.candidate_pool import files_of
from .pairs.vqa_questions import sample_questions, sample_vqa_batch
from .probe import make_probe, probe_loss
from .quality_head import QualityHead, maps_of
from .vqa import answer, encode

if TYPE_CHECKING:
    from .probe import Probe

log = logging.getLogger("onereward.training")

_ADVERSARIAL_SCENES = 15_000_000
"""Far from the scenes that are numbered step by step for the other purposes."""
_STANDING = "adversarial_pairs."
_ADVERSARIAL = 1
"""Purpose of the random numbers that draw adversarial_pairs, besides a step's own."""
_PER_SCENE = 4
"""Results of a scene that are ranked against each other."""
_Pairs = tuple[list[Comparison], Tensor, Tensor]
"""Comparisons, their images `[N, 2, 3, 64, 64]` and masks `[N, 64, 64]`."""


class CompareTrainer:
    """One run: judge, candidates, optimisers and the next step to do."""

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
            {"appraisal": QualityHead(width, side), "marks": make_probe(width, side, config.seed)}
        )
        self.learner = Learner(self.judge, config, self.heads)
        self.pushed: dict[
            int, Tensor
        ] = {}  # unusable images of standing adversarial_pairs, by place

    @property
    def appraisal(self) -> QualityHead:
        """The head that says how good single images are."""
        return cast("QualityHead", self.heads["appraisal"])

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
            losses.append(self._compared(generator))
        if config.adversarial_pairs:
            losses.append(self._adversarial_loss())
        if config.quality_images:
            losses.append(self._appraised(generator))
        if config.images:
            losses.append(self._seen(generator))
        return self.learner.learn(torch.stack(losses).sum())

    def _compared(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a step's pairs."""
        config, pool = self.config, self.pool
        num = round(config.blend_share * config.pairs)
        fresh = round(config.deformed_share * num)
        parts = []
        if fresh:
            parts.append(deformed_pairs(self._number(1), fresh, config.margins, generator))
        if num > fresh:
            rest = num - fresh
            parts.append(blended_pairs(pool, self.scenes, rest, config.margins, generator))
        if config.pairs > num:
            parts.append(self._candidates(config.pairs - num, generator))
        drawn, images, masks = self._joined(parts, generator)
        num = round(config.attack_share * len(drawn))
        if num:
            tried = (images[:num], drawn[:num], masks[:num])
            images[:num] = attack_pairs(self.judge, *tried, config)
        return comparison_loss(self.judge, encode_pairs(self.judge, images), drawn)

    def _candidates(self, num: int, generator: torch.Generator) -> _Pairs:
        """Return pairs of candidates as they are, with images and masks."""
        margins, share = self.config.margins, self.config.pattern_share
        found = sample_comparisons(self.pool, num, margins, generator, share)
        masks = self.pool.masks[[one.group for one in found]].float()
        return found, images_of(self.pool, found), masks

    def _joined(self, parts: Sequence[_Pairs], generator: torch.Generator) -> _Pairs:
        """Shuffle and augment pairs, each asked about some of its dimensions."""
        drawn = [
            sample_dimensions(one, self.config.dimensions, generator)
            for part in parts
            for one in part[0]
        ]
        order = torch.randperm(len(drawn), generator=generator)
        images = torch.cat([part[1] for part in parts])[order]
        masks = torch.cat([part[2] for part in parts])[order]
        return [drawn[k] for k in order.tolist()], self._augmented(images, generator), masks

    def _adversarial_loss(self) -> Tensor:
        """Return the loss of unusable images that were pushed to win."""
        config = self.config
        place, start = round_of(self.step, config)
        generator = step_generator(config.seed, start, _ADVERSARIAL)
        fresh = round(config.deformed_share * config.adversarial_pairs)
        parts = [
            pool_adversarial_pairs(
                self.pool, config.adversarial_pairs - fresh, config.margins, generator
            )
        ]
        if fresh:
            number = self._number(_ADVERSARIAL_SCENES, start)
            parts.append(deformed_adversarial_pairs(number, fresh, config.margins, generator))
        if not any(part[0] for part in parts):  # there may be nothing unusable
            return torch.zeros(())
        drawn, images, masks = self._joined(parts, generator)
        moved = self.pushed.get(place)
        if moved is None or self.step == start:
            moved = random_start(images[:, 0], masks[:, None], config.attack_size, generator)
        images = push(self.judge, drawn, images, masks, config, moved)
        if config.adversarial_visits > 1:
            self.pushed[place] = images[:, 0].clone()
        return comparison_loss(self.judge, encode_pairs(self.judge, images), drawn)

    def _number(self, purpose: int, step: int | None = None) -> int:
        """Return the number of a step's fresh scenes (this one's), for one of three purposes."""
        step = self.step if step is None else step
        return (self.config.seed % 16) * 20_000_000 + 2 * step + purpose

    def _appraised(self, generator: torch.Generator) -> Tensor:
        """Return the loss on single images: the head's, and eq. 3 of those of a scene."""
        config, pool = self.config, self.pool
        num = config.quality_images // _PER_SCENE
        fresh = round(config.deformed_share * num)
        parts = []
        if num > fresh:
            rows = sample_groups(pool, num - fresh, generator)
            parts.append(sample_blends(pool, self.scenes, rows, _PER_SCENE, generator))
        if fresh:
            scenes = fresh_scenes(self._number(0), fresh)
            parts.append(sample_deformations(scenes, _PER_SCENE, generator))
        conditions = join_conditions([part.conditions for part in parts])
        images = composite(torch.cat([part.images for part in parts]), conditions)
        num = round(config.attack_share * len(images))
        if num:
            chosen = torch.randperm(len(images), generator=generator)[:num]
            sign = torch.randint(2, (num, 1), generator=generator) * 2 - 1
            tried = conditions.select(chosen)
            wanted = sign * ~judge(images[chosen], tried).table.isnan()
            images[chosen] = attack(
                lambda moved: (wanted * self._utility(moved, tried.task, tried.shape)).sum(),
                images[chosen],
                tried.mask[:, None],
                Ascent(config.attack_steps, config.attack_size),
            )
        # Asked after the attack: noise is a artifact, whoever made it.
        oracle_scores = judge(images, conditions)
        scores = oracle_scores.table
        encoded = self._encode(images)
        loss = config.quality_weight * self.appraisal.loss(
            encoded,
            conditions,
            scores.view(-1, _PER_SCENE, len(DIMENSIONS)),
            oracle_scores.shape_overlap,
            maps_of(images, conditions),
            torch.tensor(config.margins) / 2,
        )
        if config.compare_quality_images:
            loss = loss + self._asked_too(encoded, conditions, scores, generator)
        return loss

    def _asked_too(
        self,
        encoded: Sequence[EncodedImage],
        conditions: Conditions,
        scores: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return eq. 3 over the quality_images images, two by two: they are encoded already."""
        drawn: list[Comparison] = []
        images: list[EncodedImage] = []
        for number in range(0, len(encoded), 2):
            found = as_comparison(
                int(conditions.task[number]),
                conditions.prompts[number],
                (scores[number] - scores[number + 1]).tolist(),
                self.config.margins,
            )
            if found is not None:
                drawn.append(sample_dimensions(found, self.config.dimensions, generator))
                images += encoded[number : number + 2]
        if not drawn:
            return torch.zeros(())
        return comparison_loss(self.judge, images, drawn)

    def _utility(self, images: Tensor, task: Tensor, shape: Tensor) -> Tensor:
        return self.appraisal.utility(self._encode(images), task, shape)

    def _encode(self, images: Tensor) -> list[EncodedImage]:
        with torch.autocast("cpu", torch.bfloat16):
            return self.judge.encode_images(list(images))

    def _seen(self, generator: torch.Generator) -> Tensor:
        """Return the loss of the first stage's lessons."""
        config = self.config
        index = config.seed * 10_000_000 + self.step
        batch = sample_vqa_batch(Split.TRAIN, index, config.images)
        encoded = encode(self.judge, batch)
        loss = probe_loss(cast("Probe", self.heads["marks"])(encoded), batch)
        if config.questions:
            asked = sample_questions(batch, config.questions, generator)
            loss = loss + F.cross_entropy(*answer(self.judge, encoded, asked))
        return loss

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        augmentation = Augmentation(shift=config.shift, blur=config.blur, noise=config.noise)
        pairs = [augmentation.apply((a, b), generator) for a, b in images]
        return torch.stack([torch.stack(pair) for pair in pairs])

    def measure(self) -> dict[str, float]:
        """Return held-out accuracies: per cell on finished images, and per kind of pair."""
        margins, pool = self.config.margins, self.held_out
        finished = list(best_and_worst(pool, margins))
        cells = report_on(self.judge, pool, finished).cells if finished else {}
        found = {f"{t.value}.{d.value}": c.accuracy for (t, d), c in cells.items()}
        for name, pairs in kinds_of_pairs(pool, margins).items():
            if not pairs:
                continue
            of_kind = report_on(self.judge, pool, pairs).cells.values()
            total = sum(cell.num_pairs for cell in of_kind)
            found[name] = sum(cell.accuracy * cell.num_pairs for cell in of_kind) / total
        if finished:
            found["appraisal"] = self._head_accuracy(finished)
        return {name: round(value, 4) for name, value in found.items()}

    @torch.no_grad()
    def _head_accuracy(self, drawn: Sequence[Comparison]) -> float:
        """Return how often the head alone puts the better image first."""
        right: list[bool] = []
        for start in range(0, len(drawn), TOGETHER):
            part = drawn[start : start + TOGETHER]
            groups = torch.tensor([one.group for one in part]).repeat_interleave(2)
            task, shape = self.held_out.task[groups], self.held_out_shapes[groups]
            images = images_of(self.held_out, part).flatten(0, 1)
            lead = self._utility(images, task, shape).view(len(part), 2, -1).diff(dim=1)[:, 0]
            for one, row in zip(part, lead, strict=True):
                for name, place in one.winners:
                    right.append(bool(row[DIMENSIONS.index(name.value)] > 0) == bool(place))
        return sum(right) / len(right)

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        state = self.learner.train_state(seconds)
        standing = {f"{_STANDING}{place}": moved for place, moved in self.pushed.items()}
        return replace(state, tensors=state.tensors | standing)

    def restore(self, state: TrainState) -> None:
        """Go on from there; a run that begins draws its own adversarial_pairs."""
        self.learner.restore(state)
        self.pushed = {
            int(name.removeprefix(_STANDING)): moved
            for name, moved in state.tensors.items()
            if state.step and name.startswith(_STANDING)
        }


def train_comparison(config: CompareConfig) -> None:
    """Train until done or out of time; `judge/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder, trainer = RunDirectory(config), CompareTrainer(config)

    def measure() -> dict[str, float]:
        return trainer.measure() if trainer.step % config.eval_every == 0 else {}

    run_stage(folder, trainer, config, config.steps, measure)
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
