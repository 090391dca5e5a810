"""Teach an untrained judge to see.

`python -m onereward.lab.judge.vqa config.json`
"""

import argparse
import logging
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reward.qwen_vl import EncodedImage, QwenJudge
from ...training.runs.directory import RunDirectory, TrainState
from ...training.runs.loop import run_stage, step_generator
from ..world.splits import Split
from .build import build_judge
from .config import VqaConfig
from .learner import Learner, load_whole_judge
from .pairs.vqa_questions import MARKS, VqaBatch, VqaQuestion, sample_questions, sample_vqa_batch
from .probe import make_probe, probe_loss

log = logging.getLogger("onereward.training")

_TEST_BATCH = 64


class VqaTrainer:
    """One run: judge, probe, optimisers and the next step to do."""

    def __init__(self, config: VqaConfig, folder: Path) -> None:
        self.config = config
        if not (folder / "config.json").is_file():
            build_judge(folder, config.shape(), config.seed)
        self.judge = load_whole_judge(folder)
        side = config.patch_size * self.judge.patches.merge_size
        self.probe = make_probe(config.width, side, config.seed)
        self.learner = Learner(self.judge, config, self.probe)

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
        batch = sample_vqa_batch(Split.TRAIN, config.seed * 10_000_000 + self.step, config.images)
        asked = sample_questions(batch, config.questions, step_generator(config.seed, self.step))
        encoded = encode(self.judge, batch)
        loss = config.probe_weight * probe_loss(self.probe(encoded), batch)
        if asked:
            loss = loss + F.cross_entropy(*answer(self.judge, encoded, asked))
        return self.learner.learn(loss)

    @torch.no_grad()
    def accuracy(self) -> dict[str, float]:
        """Return the share of right answers per kind on held-out images (dev split).

        `marked_...` are the probe's: of the cells with such a mark, the share it gets right.
        """
        marked: dict[str, list[float]] = defaultdict(list)
        for index in range(-(-self.config.eval_images // _TEST_BATCH)):
            batch = sample_vqa_batch(Split.DEV, index, _TEST_BATCH)
            for name, values in self.right_marks(encode(self.judge, batch), batch).items():
                marked[name] += values
        found = {name: round(sum(values) / len(values), 4) for name, values in marked.items()}
        if self.config.questions:
            found |= sight_accuracy(self.judge, Split.DEV, self.config.eval_images)
        return found

    def right_marks(self, encoded: list[EncodedImage], batch: VqaBatch) -> dict[str, list[float]]:
        """Return for every marked cell whether the probe is right, per kind of mark."""
        found = [logits.argmax(1) for logits in self.probe(encoded)]
        return {
            f"marked_{name}": (one == mark)[mark > 0].float().tolist()
            for name, one, mark in zip(MARKS, found, batch.marks.unbind(1), strict=True)
        }

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        return self.learner.train_state(seconds)

    def restore(self, state: TrainState) -> None:
        """Go on from there."""
        self.learner.restore(state)


def encode(judge: QwenJudge, batch: VqaBatch) -> list[EncodedImage]:
    """Return what the judge sees of each image."""
    with torch.autocast("cpu", torch.bfloat16):
        return judge.encode_images(list(batch.images))


def answer(
    judge: QwenJudge, encoded: list[EncodedImage], asked: list[VqaQuestion]
) -> tuple[Tensor, Tensor]:
    """Return the logits `[Q, vocabulary]` and the ids of the right answers `[Q]`."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = judge.answer_logits(
            [(encoded[one.first], encoded[one.second], one) for one in asked]
        )
    ids = [judge.tokenizer.convert_tokens_to_ids(one.answer) for one in asked]
    return logits, torch.tensor(ids)


@torch.no_grad()
def sight_accuracy(judge: QwenJudge, split: Split, num: int) -> dict[str, float]:
    """Return the share of right answers per kind of question, on about `num` images."""
    right: dict[str, list[float]] = defaultdict(list)
    for index in range(-(-num // _TEST_BATCH)):
        batch = sample_vqa_batch(split, index, _TEST_BATCH)
        asked = sample_questions(batch, 4 * _TEST_BATCH, step_generator(0, index, purpose=1))
        logits, answers = answer(judge, encode(judge, batch), asked)
        for one, is_right in zip(asked, (logits.argmax(-1) == answers).tolist(), strict=True):
            right[one.kind].append(float(is_right))
    return {kind: round(sum(values) / len(values), 4) for kind, values in sorted(right.items())}


def train_to_see(config: VqaConfig) -> None:
    """Train until done or out of time; `judge/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder = RunDirectory(config)
    trainer = VqaTrainer(config, folder.path / "untrained")

    def measure() -> dict[str, float]:
        return trainer.accuracy() if trainer.step % config.eval_every == 0 else {}

    run_stage(folder, trainer, config, config.steps, measure)
    trainer.learner.export(folder.path / "untrained", folder.path / "judge")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_to_see(VqaConfig.load(arguments.config))


if __name__ == "__main__":
    main()
