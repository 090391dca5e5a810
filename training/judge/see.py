"""Teach an untrained judge to see.

`python -m onereward.training.judge.see config.json`
"""

import argparse
import logging
import shutil
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reward.judge import JudgeConfig
from ...reward.qwen_vl import Encoded, QwenJudge
from ...world.splits import Split
from ..pretrain.muon import Muon
from ..pretrain.run import (
    RunFolder,
    Snapshot,
    flatten_optimizer,
    restore_optimizer,
    run_stage,
    step_generator,
)
from .build import build_judge
from .config import SeeConfig
from .probe import make_probe, probe_loss
from .questions import MARKS, Gallery, Sight, draw_gallery, draw_questions

log = logging.getLogger("onereward.training")

_WEIGHT_DECAY = 0.01
_EMBEDDINGS = ("embed_tokens", "lm_head", "patch_embed", "probe")
_TEST_BATCH = 64


class SeeTrainer:
    """One run: judge, optimisers and the next step to do."""

    def __init__(self, config: SeeConfig, folder: Path) -> None:
        self.config = config
        if not (folder / "config.json").is_file():
            build_judge(folder, config.shape(), config.seed)
        self.judge = QwenJudge(
            JudgeConfig(folder=str(folder), precision="fp32"), torch.device("cpu")
        )
        # Many short sequences: the plain attention is twice as fast on a CPU as the fused one.
        model = self.judge.part.module.requires_grad_(True)
        model.set_attn_implementation("eager")  # type: ignore[operator]
        side = config.patch_size * self.judge.patches.merge_size
        self.probe = make_probe(config.width, side, config.seed)
        self.parameters = dict(model.named_parameters())
        self.parameters |= {f"probe.{k}": p for k, p in self.probe.named_parameters()}
        matrices = [p for name, p in self.parameters.items() if is_matrix(name, p)]
        others = [p for name, p in self.parameters.items() if not is_matrix(name, p)]
        self.muon = Muon(matrices, lr=0.0, weight_decay=_WEIGHT_DECAY)
        self.adam = torch.optim.AdamW(
            others, lr=0.0, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=True
        )
        self.step = 0

    def learning_scale(self) -> float:
        """Return the current share of the peak learning rates."""
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        return warm * min(1.0, (config.steps - self.step) / max(1, config.decay_steps))

    def train_step(self) -> float:
        """Do one step; return the loss.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        config, scale = self.config, self.learning_scale()
        self.muon.param_groups[0]["lr"] = config.matrix_learning_rate * scale
        self.adam.param_groups[0]["lr"] = config.learning_rate * scale
        gallery = draw_gallery(Split.TRAIN, config.seed * 10_000_000 + self.step, config.pictures)
        generator = step_generator(config.seed, self.step)
        asked = draw_questions(gallery, config.questions, generator)
        encoded = self.encode(gallery)
        loss = config.probe_weight * probe_loss(self.probe(encoded), gallery)
        if asked:
            loss = loss + F.cross_entropy(*self.answer(encoded, asked))
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the loss of step {self.step} is not finite; the last checkpoint in "
                f"{config.run_folder} is good: go on from it with a lower learning_rate"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())

    def encode(self, gallery: Gallery) -> list[Encoded]:
        """Return what the judge sees of each picture."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.judge.encode_many(list(gallery.images))

    def answer(self, encoded: list[Encoded], asked: list[Sight]) -> tuple[Tensor, Tensor]:
        """Return the logits `[Q, vocabulary]` and the ids of the right answers `[Q]`."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.judge.answer_logits(
                [(encoded[one.first], encoded[one.second], one) for one in asked]
            )
        ids = [self.judge.tokenizer.convert_tokens_to_ids(one.answer) for one in asked]
        return logits, torch.tensor(ids)

    @torch.no_grad()
    def accuracy(self) -> dict[str, float]:
        """Return the share of right answers per kind on held-out pictures (dev split).

        `marked_...` are the probe's: of the cells with such a mark, the share it gets right.
        """
        right: dict[str, list[float]] = defaultdict(list)
        for index in range(-(-self.config.test_pictures // _TEST_BATCH)):
            gallery = draw_gallery(Split.DEV, index, _TEST_BATCH)
            asked = draw_questions(gallery, 4 * _TEST_BATCH, step_generator(0, index, purpose=1))
            encoded = self.encode(gallery)
            right_marks = self.right_marks(encoded, gallery)
            for name, values in right_marks.items():
                right[name] += values
            if not self.config.questions:
                continue
            logits, answers = self.answer(encoded, asked)
            for one, is_right in zip(asked, (logits.argmax(-1) == answers).tolist(), strict=True):
                right[one.kind].append(float(is_right))
        return {kind: round(sum(values) / len(values), 4) for kind, values in right.items()}

    def right_marks(self, encoded: list[Encoded], gallery: Gallery) -> dict[str, list[float]]:
        """Return for every marked cell whether the probe is right, per kind of mark."""
        found = [logits.argmax(1) for logits in self.probe(encoded)]
        return {
            f"marked_{name}": (one == mark)[mark > 0].float().tolist()
            for name, one, mark in zip(MARKS, found, gallery.marks.unbind(1), strict=True)
        }

    def snapshot(self, seconds: float) -> Snapshot:
        """Return what the run needs to go on."""
        tensors = {f"weights.{k}": p for k, p in self.parameters.items()}
        tensors |= flatten_optimizer(self.muon, "muon") | flatten_optimizer(self.adam, "adam")
        return Snapshot(step=self.step, seconds=seconds, tensors=tensors)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Take over weights and optimiser states."""
        for name, parameter in self.parameters.items():
            parameter.copy_(snapshot.tensors[f"weights.{name}"])
        if any(key.startswith("adam.") for key in snapshot.tensors):
            restore_optimizer(self.muon, snapshot.tensors, "muon")
            restore_optimizer(self.adam, snapshot.tensors, "adam")
        self.step = snapshot.step


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains a parameter: the matrices of both towers, not the embeddings."""
    return parameter.ndim == 2 and not any(part in name for part in _EMBEDDINGS)


def train_to_see(config: SeeConfig) -> None:
    """Train until done or out of time; `judge/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder = RunFolder(config)
    trainer = SeeTrainer(config, folder.path / "untrained")

    def measure() -> dict[str, float]:
        return trainer.accuracy() if trainer.step % config.test_every == 0 else {}

    run_stage(folder, trainer, config, config.steps, measure)
    _export(trainer, folder.path)


def _export(trainer: SeeTrainer, run: Path) -> None:
    """Write the judge as a folder that :class:`QwenJudge` loads."""
    fresh, current = run / "judge.new", run / "judge"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(run / "untrained", fresh)
    trainer.judge.part.module.save_pretrained(fresh)  # type: ignore[operator]
    shutil.rmtree(current, ignore_errors=True)
    fresh.rename(current)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_to_see(SeeConfig.load(arguments.config))


if __name__ == "__main__":
    main()
