"""Teach a judge preferences.

`python -m onereward.training.judge.train config.json`
"""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...reward.judge import JudgeConfig, JudgeError
from ...reward.preference import Preference, PreferenceSet, by_split
from ...reward.qwen_vl import QwenJudge
from ...reward.report import Answer, JudgeReport, make_report
from ..objective import preference_loss
from ..pretrain.run import (
    RunFolder,
    Snapshot,
    flatten_optimizer,
    restore_optimizer,
    run_stage,
    step_generator,
)
from .config import JudgeTrainConfig
from .pairs import Jitter, draw_batch, pictures_of, query_of

log = logging.getLogger("onereward.training")


class JudgeTrainer:
    """One run: judge, data, optimiser and the next step to do."""

    def __init__(self, config: JudgeTrainConfig) -> None:
        """Load judge and data.

        Raises:
            ValueError: The data has no pair to learn from.
            JudgeError: The folder holds no judge.
        """
        self.config = config
        self.data = PreferenceSet(Path(config.data_folder))
        self.splits = by_split(self.data.pairs())
        if not self.splits["train"]:
            raise ValueError(
                f"{config.data_folder} holds no pairs of its train split; collect more"
            )
        judge = JudgeConfig(
            folder=config.judge_folder, precision="fp32", max_pixels=config.max_pixels
        )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.judge = QwenJudge(judge, self.device)
        _ = self.judge.answer_ids
        self.judge.part.module.to(self.device)
        self.parameters = _trainable(self.judge.part.module, config)
        self.adam = torch.optim.AdamW(
            self.parameters.values(),
            lr=0.0,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        )
        self.step = 0

    def train_step(self) -> float:
        """Do one step of eq. 3; return the loss.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        config = self.config
        rate = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        self.adam.param_groups[0]["lr"] = rate
        batch = draw_batch(self.splits["train"], self.step, config.batch, config.seed)
        log_yes, log_no = self.answer(batch, step_generator(config.seed, self.step))
        loss = preference_loss(log_yes, log_no)
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the loss of step {self.step} is not finite; the last checkpoint in "
                f"{config.run_folder} is good: go on from it with a lower learning_rate"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), config.clip_norm)
        self.adam.step()
        self.adam.zero_grad()
        self.step += 1
        return float(loss.detach())

    def answer(
        self, pairs: Sequence[Preference], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return log P("Yes") with the winner first and log P("No") with the loser first, ``[B]``.

        Args:
            pairs: What to ask about; every picture is encoded once.
            generator: Source of the jitter; None: undisturbed.
        """
        config = self.config
        jitter = Jitter(shift=config.shift, blur=config.blur, noise=config.noise)
        pictures: list[Tensor] = []
        for pair in pairs:
            both = pictures_of(self.data, pair)
            drawn = both if generator is None else jitter.apply(both, generator)
            pictures.extend(picture.to(self.device) for picture in drawn)
        encoded = self.judge.encode_many(pictures)
        asked = []
        for number, pair in enumerate(pairs):
            winner, loser, query = encoded[2 * number], encoded[2 * number + 1], query_of(pair)
            asked += [(winner, loser, query), (loser, winner, query)]
        answers = self.judge.answer(asked)
        return answers[0::2, 0], answers[1::2, 1]

    @torch.no_grad()
    def report(self, split: str = "dev") -> JudgeReport:
        """Return accuracy, consistency and calibration on a held-out split."""
        pairs = self.splits[split][: self.config.test_pairs]
        answers: list[Answer] = []
        for start in range(0, len(pairs), self.config.batch):
            answers += self._answers(pairs[start : start + self.config.batch])
        return make_report(answers)

    def _answers(self, pairs: Sequence[Preference]) -> list[Answer]:
        encoded = [
            self.judge.encode_many([picture.to(self.device) for picture in both])
            for both in (pictures_of(self.data, pair) for pair in pairs)
        ]
        asked = []
        for pair, (winner, loser) in zip(pairs, encoded, strict=True):
            asked += [(winner, loser, query_of(pair)), (loser, winner, query_of(pair))]
        yes = self.judge.answer(asked)[:, 0].exp().tolist()
        return [
            Answer(criterion=(pair.task, pair.dimension), winner_first=a, loser_first=b)
            for pair, a, b in zip(pairs, yes[0::2], yes[1::2], strict=True)
        ]

    def snapshot(self, seconds: float) -> Snapshot:
        """Return what the run needs to go on."""
        tensors = {f"weights.{k}": p for k, p in self.parameters.items()}
        return Snapshot(
            step=self.step,
            seconds=seconds,
            tensors=tensors | flatten_optimizer(self.adam, "adam"),
        )

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Take over weights and optimiser state."""
        for name, parameter in self.parameters.items():
            parameter.copy_(snapshot.tensors[f"weights.{name}"])
        restore_optimizer(self.adam, snapshot.tensors, "adam")
        self.step = snapshot.step


def _trainable(model: Any, config: JudgeTrainConfig) -> dict[str, nn.Parameter]:
    """Put the adapter on, or free all weights; return what is trained, by name."""
    if config.mode == "full":
        model.requires_grad_(True)
        return dict(model.named_parameters())
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        model.add_adapter(LoraConfig(**config.adapter()))
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise JudgeError(f"{config.judge_folder} has none of the layers an adapter goes on")
    return found


def train_judge(config: JudgeTrainConfig) -> None:
    """Train until done or out of time; `judge/` or `adapter/` in the run folder is the result."""
    torch.set_num_threads(config.threads)
    folder, trainer = RunFolder(config), JudgeTrainer(config)

    def measure() -> dict[str, float]:
        if trainer.step % config.test_every or not trainer.splits["dev"]:
            return {}
        cells = trainer.report().cells.items()
        return {f"{t.value}.{d.value}": round(cell.accuracy, 4) for (t, d), cell in cells}

    run_stage(folder, trainer, config, config.steps, measure)
    export(trainer, folder.path)


def export(trainer: JudgeTrainer, run: Path) -> Path:
    """Write the result as a folder that loads by itself: the whole judge, or its adapter."""
    is_full = trainer.config.mode == "full"
    current = run / ("judge" if is_full else "adapter")
    fresh = current.with_name(current.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    if is_full:
        shutil.copytree(trainer.config.judge_folder, fresh)
    model: Any = trainer.judge.part.module
    model.save_pretrained(fresh)
    shutil.rmtree(current, ignore_errors=True)
    fresh.rename(current)
    return current


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_judge(JudgeTrainConfig.load(arguments.config))


if __name__ == "__main__":
    main()
