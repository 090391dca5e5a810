"""Stage 1: train an untrained judge by VQA (visual question answering).

`python -m onereward.lab.judge.vqa config.json`
"""

import argparse
import logging
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reward.judge import PairQuestion
from ...reward.vlm.qwen_vl import EncodedImage, QwenJudge
from ...training.runs.directory import RunDirectory, TrainState
from ...training.runs.loop import step_generator
from ..world.splits import Split
from .build import build_judge
from .cell_probe import make_probe, probe_loss
from .config import VqaConfig
from .learner import Learner, LearnerRun, load_whole_judge
from .pairs.vqa_questions import (
    LABEL_NAMES,
    VqaBatch,
    VqaQuestion,
    sample_questions,
    sample_vqa_batch,
)

log = logging.getLogger("onereward.training")

_EVAL_BATCH = 64


class VqaTrainer:
    """One run: judge, probe, optimisers and the next step to do.

    Example: ``VqaTrainer(config, Path("runs/vqa/untrained")).train_step()``.
    """

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
        generator = step_generator(config.seed, self.step)
        questions = sample_questions(batch, config.questions, generator)
        encoded = encode(self.judge, batch)
        loss = config.probe_weight * probe_loss(self.probe(encoded), batch)
        if questions:
            loss = loss + F.cross_entropy(*answer(self.judge, encoded, questions))
        return self.learner.learn(loss)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the share of right answers per kind on held-out images (dev split).

        `cell_...` are the probe's: of the cells with such a label, the share it gets right.
        """
        hits: dict[str, list[float]] = defaultdict(list)
        for index in range(-(-self.config.eval_images // _EVAL_BATCH)):
            batch = sample_vqa_batch(Split.DEV, index, _EVAL_BATCH)
            for name, values in self.probe_hits(encode(self.judge, batch), batch).items():
                hits[name] += values
        metrics = {name: round(sum(values) / len(values), 4) for name, values in hits.items()}
        if self.config.questions:
            metrics |= vqa_accuracy(self.judge, Split.DEV, self.config.eval_images)
        return metrics

    def probe_hits(self, encoded: list[EncodedImage], batch: VqaBatch) -> dict[str, list[float]]:
        """Return for every labelled cell whether the probe is right, per kind of label."""
        labels, hits = batch.cell_labels.unbind(1), {}
        for name, logits, label in zip(LABEL_NAMES, self.probe(encoded), labels, strict=True):
            is_right = logits.argmax(1) == label  # [B, 8, 8]
            hits[f"cell_{name}"] = is_right[label > 0].float().tolist()
        return hits

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        return self.learner.train_state(seconds)

    def restore(self, state: TrainState) -> None:
        """Go on from there."""
        self.learner.restore(state)


def encode(judge: QwenJudge, batch: VqaBatch) -> list[EncodedImage]:
    """Return the image tokens of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        return judge.encode_images(list(batch.images))


def answer(
    judge: QwenJudge, encoded: list[EncodedImage], questions: list[VqaQuestion]
) -> tuple[Tensor, Tensor]:
    """Return the logits `[Q, vocabulary]` and the ids of the right answers `[Q]`."""
    with torch.autocast("cpu", torch.bfloat16):
        pairs = [PairQuestion(encoded[q.first], encoded[q.second], q) for q in questions]
        logits = judge.answer_logits(pairs)
    ids = [judge.tokenizer.convert_tokens_to_ids(q.answer) for q in questions]
    return logits, torch.tensor(ids)


@torch.no_grad()
def vqa_accuracy(judge: QwenJudge, split: Split, num: int) -> dict[str, float]:
    """Return the share of right answers per kind of question, on about `num` images."""
    right: dict[str, list[float]] = defaultdict(list)
    for index in range(-(-num // _EVAL_BATCH)):
        batch = sample_vqa_batch(split, index, _EVAL_BATCH)
        generator = step_generator(0, index, purpose=1)
        questions = sample_questions(batch, 4 * _EVAL_BATCH, generator)
        logits, answers = answer(judge, encode(judge, batch), questions)
        is_right = (logits.argmax(-1) == answers).tolist()
        for question, hit in zip(questions, is_right, strict=True):
            right[question.kind].append(float(hit))
    return {kind: round(sum(values) / len(values), 4) for kind, values in sorted(right.items())}


def train_vqa(config: VqaConfig) -> None:
    """Train until done or out of time; `judge/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder = RunDirectory(config)
    trainer = VqaTrainer(config, folder.path / "untrained")
    LearnerRun(folder, trainer, config.steps).run()
    trainer.learner.export(folder.path / "untrained", folder.path / "judge")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_vqa(VqaConfig.load(arguments.config))


if __name__ == "__main__":
    main()
