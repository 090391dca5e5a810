"""Teach a judge that can see to compare: eq. 3 on candidates that the oracle scored.

`python -m onereward.training.judge.compare config.json`
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reward.qwen_vl import Asked, Encoded, QwenJudge
from ...reward.report import Answer, JudgeReport, make_report
from ...world.splits import Split
from ..objective import preference_loss
from ..pretrain.run import RunFolder, Snapshot, run_stage, step_generator
from .appraisal import Appraisal, differences_in
from .candidates import FAULT, FULL, ONE_STEP, PATTERN, TRUTH, Candidates, load_candidates
from .comparisons import Comparison, best_and_worst, compare, draw_comparisons
from .config import CompareConfig
from .gather import files_of
from .learner import Learner, load_whole_judge
from .pairs import Jitter
from .questions import draw_gallery, draw_questions
from .see import answer, encode

log = logging.getLogger("onereward.training")

_TEST_BATCH = 64
_SMOOTH_CELL = 4
_SMOOTH_FACTOR = 3.0


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
        self.pool = load_candidates(files_of(pool, Split.TRAIN))
        self.differences = differences_in(pool, Split.TRAIN)
        self.held_out = load_candidates(files_of(pool, Split.DEV))
        self.judge = load_whole_judge(Path(config.judge_folder))
        width: int = self.judge.part.module.config.text_config.hidden_size  # type: ignore[union-attr]
        side = self.judge.patches.patch_size * self.judge.patches.merge_size
        self.appraisal = Appraisal(width, side)
        self.learner = Learner(self.judge, config, self.appraisal)

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
        if config.appraised:
            losses.append(config.score_weight * self._appraised(generator))
        if config.questions:
            index = config.seed * 10_000_000 + self.step
            gallery = draw_gallery(Split.TRAIN, index, config.pictures)
            asked = draw_questions(gallery, config.questions, generator)
            sights = answer(self.judge, encode(self.judge, gallery), asked)
            losses.append(F.cross_entropy(*sights))
        return self.learner.learn(torch.stack(losses).sum())

    def _compared(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a step's pairs."""
        config, pool = self.config, self.pool
        drawn = draw_comparisons(
            pool, config.pairs, config.margins, generator, config.pattern_share
        )
        pictures = self._disturbed(pictures_of(pool, drawn), generator)
        num = round(config.attack_share * len(drawn))
        if num:
            masks = torch.stack([pool.masks[one.group] for one in drawn[:num]]).float()
            pictures[:num] = attack(self.judge, pictures[:num], drawn[:num], masks, config)
        encoded = encode_pairs(self.judge, pictures)
        rows = torch.tensor([one.group for one in drawn]).repeat_interleave(2)
        shown = torch.tensor([one.pictures for one in drawn]).flatten()
        scores = pool.scores[rows, shown].float()
        said = self.appraisal.score_loss(encoded, pool.task[rows], scores)
        return comparison_loss(self.judge, encoded, drawn) + config.score_weight * said

    def _appraised(self, generator: torch.Generator) -> Tensor:
        """Return the head's loss on single pictures."""
        pool, num = self.pool, self.config.appraised
        rows = torch.randint(len(pool), (num,), generator=generator)
        shown = torch.randint(pool.images.shape[1], (num,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = self.judge.encode_many(list(pool.images[rows, shown].float() / 255))
        scores = pool.scores[rows, shown].float()
        said = self.appraisal.score_loss(encoded, pool.task[rows], scores)
        seen = self.appraisal.difference_loss(encoded, self.differences[rows, shown].float())
        return said + seen

    def _disturbed(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        jitter = Jitter(shift=config.shift, blur=config.blur, noise=config.noise)
        pairs = [jitter.apply((a, b), generator) for a, b in pictures]
        return torch.stack([torch.stack(pair) for pair in pairs])

    def measure(self) -> dict[str, float]:
        """Return held-out accuracies: per cell on finished pictures, and per kind of pair."""
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
        return {name: round(value, 4) for name, value in found.items()}

    def snapshot(self, seconds: float) -> Snapshot:
        """Return what the run needs to go on."""
        return self.learner.snapshot(seconds)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        self.learner.restore(snapshot)


def pictures_of(pool: Candidates, drawn: Sequence[Comparison]) -> Tensor:
    """Return both pictures of each comparison, float32 `[N, 2, 3, 64, 64]` in 0..1."""
    return torch.stack([pool.images[one.group, list(one.pictures)] for one in drawn]).float() / 255


def encode_pairs(judge: QwenJudge, pictures: Tensor) -> list[Encoded]:
    """Encode `[N, 2, 3, H, W]`; returns both pictures of each pair in turn, `2 N`."""
    with torch.autocast("cpu", torch.bfloat16):
        return judge.encode_many(list(pictures.flatten(0, 1)))


def _asked(encoded: Sequence[Encoded], drawn: Sequence[Comparison]) -> list[Asked]:
    """Return every question twice: with the better picture first, and with it second."""
    asked: list[Asked] = []
    for number, one in enumerate(drawn):
        pair = encoded[2 * number : 2 * number + 2]
        for query, place in one.queries():
            winner, loser = pair[place], pair[1 - place]
            asked += [(winner, loser, query), (loser, winner, query)]
    return asked


def comparison_loss(
    judge: QwenJudge, encoded: Sequence[Encoded], drawn: Sequence[Comparison]
) -> Tensor:
    """Return eq. 3 over all questions of the comparisons; `encoded` as by `encode_pairs`."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = judge.answer(_asked(encoded, drawn))
    return preference_loss(answers[0::2, 0], answers[1::2, 1])


def attack(
    judge: QwenJudge,
    pictures: Tensor,
    drawn: Sequence[Comparison],
    masks: Tensor,
    config: CompareConfig,
) -> Tensor:
    """Change pictures a little, under their masks, so that the judge errs most.

    Every other pair is changed pixel by pixel, the rest smoothly (4x4 px) and three times as much,
    as a policy would.

    Args:
        judge: The judge.
        pictures: float32 `[N, 2, 3, H, W]` in 0..1.
        drawn: What they are compared on.
        masks: float32 `[N, H, W]`, 1 = repainted.
        config: Steps and size.

    Source: A. Madry et al., "Towards deep learning models resistant to adversarial attacks"
    (2018): projected sign ascent.
    """
    is_smooth = (torch.arange(len(drawn)) % 2 == 1).view(-1, 1, 1, 1, 1)
    size = config.attack_size * torch.where(is_smooth, _SMOOTH_FACTOR, 1.0)
    where = masks[:, None, None]
    change = torch.zeros_like(pictures)
    for _ in range(config.attack_steps):
        moved = (pictures + change).clamp(0, 1).requires_grad_(True)
        (uphill,) = torch.autograd.grad(
            comparison_loss(judge, encode_pairs(judge, moved), drawn), moved
        )
        direction = torch.where(is_smooth, _coarse(uphill), uphill).sign()
        change = (change + 2 * size / config.attack_steps * direction).clamp(-size, size) * where
    return (pictures + change).clamp(0, 1)


def _coarse(values: Tensor) -> Tensor:
    """Average `[N, 2, 3, H, W]` over cells of 4x4."""
    flat = F.avg_pool2d(values.flatten(0, 1), _SMOOTH_CELL)
    return F.interpolate(flat, scale_factor=_SMOOTH_CELL).view_as(values)


@torch.no_grad()
def report_on(judge: QwenJudge, pool: Candidates, drawn: Sequence[Comparison]) -> JudgeReport:
    """Return the judge's accuracy on comparisons, undisturbed."""
    answers: list[Answer] = []
    for start in range(0, len(drawn), _TEST_BATCH):
        part = drawn[start : start + _TEST_BATCH]
        encoded = judge.encode_many(list(pictures_of(pool, part).flatten(0, 1)))
        yes = judge.answer(_asked(encoded, part))[:, 0].exp().tolist()
        queries = [query for one in part for query, _ in one.queries()]
        answers += [
            Answer(criterion=query.criterion, winner_first=a, loser_first=b)
            for query, a, b in zip(queries, yes[0::2], yes[1::2], strict=True)
        ]
    return make_report(answers)


def kinds_of_pairs(pool: Candidates, margins: Sequence[float]) -> dict[str, list[Comparison]]:
    """Return held-out comparisons by kind, one per group, beside those of finished pictures."""
    kinds = pool.kinds.tolist()
    full, one_step, truth, fault, pattern = map(
        kinds.index, (FULL, ONE_STEP, TRUTH, FAULT, PATTERN)
    )
    groups = range(len(pool))
    wanted = {
        "one_step": [(g, (one_step, full)) for g in groups],
        "fault": [(g, (fault, truth)) for g in groups],
        "pattern": [(g, (pattern, int(pool.spoils[g, pattern]))) for g in groups],
    }
    return {
        name: [found for g, both in pairs if (found := compare(pool, g, both, margins))]
        for name, pairs in wanted.items()
    }


def train_to_compare(config: CompareConfig) -> None:
    """Train until done or out of time; `judge/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder, trainer = RunFolder(config), CompareTrainer(config)

    def measure() -> dict[str, float]:
        return trainer.measure() if trainer.step % config.test_every == 0 else {}

    run_stage(folder, trainer, config, config.steps, measure)
    trainer.learner.export(Path(config.judge_folder), folder.path / "judge")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_to_compare(CompareConfig.load(arguments.config))


if __name__ == "__main__":
    main()
