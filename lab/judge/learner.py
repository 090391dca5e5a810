"""Training all weights of a small judge: optimisers, schedule and state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...reward.judge import JudgeConfig
from ...reward.vlm.qwen_vl import QwenJudge
from ...training.runs.directory import TrainState
from ...training.runs.loop import RunLoop, Trainer, warmup_scale
from ...training.runs.optimizer_state import flatten_optimizer, restore_optimizer
from ..base_model.muon import Muon
from .config import LearnConfig
from .copies import judge_like

_WEIGHT_DECAY = 0.01
_EMBEDDINGS = ("embed_tokens", "lm_head", "patch_embed", "probe")


def learning_scale(config: LearnConfig, step: int) -> float:
    """Return the share of the peak learning rates at a step: linear warm-up, linear decay."""
    warmup = warmup_scale(step, config.warmup_steps)
    return warmup * min(1.0, (config.steps - step) / max(1, config.decay_steps))


def load_whole_judge(folder: Path) -> QwenJudge:
    """Load a judge in float32 with all weights trainable.

    Raises:
        JudgeError: The folder holds no judge.
    """
    judge = QwenJudge(JudgeConfig(folder=str(folder), precision="fp32"), torch.device("cpu"))
    model = judge.component.module.requires_grad_(True)
    # Many short sequences: the plain attention is twice as fast on a CPU as the fused one.
    model.set_attn_implementation("eager")  # type: ignore[operator]
    return judge


class EvaluatedTrainer(Trainer, Protocol):
    """A trainer that evaluates itself on held-out data.

    Example: ``EvaluatedTrainer`` is what ``VqaTrainer`` and ``CompareTrainer`` are.
    """

    def measure(self) -> dict[str, float]:
        """Return the metrics of one evaluation."""
        ...


class LearnerRun(RunLoop[EvaluatedTrainer]):
    """A run of either stage: evaluates every ``eval_every`` steps.

    Example: ``LearnerRun(RunDirectory(config), trainer, config.steps).run()``.
    """

    def is_eval_due(self) -> bool:
        """Whether the step just done has a line of the metrics and is evaluated."""
        config: Any = self.trainer.config
        return self.is_line_due() and self.trainer.step % config.eval_every == 0

    def evaluate(self) -> dict[str, float]:
        """Return the trainer's metrics."""
        return self.trainer.measure()


class Learner:
    """Trains all weights of a judge, and of an auxiliary head if there is one.

    Example: ``Learner(load_whole_judge(folder), config).learn(loss)``.
    """

    def __init__(
        self, judge: QwenJudge, config: LearnConfig, head: nn.Module | None = None
    ) -> None:
        self.config, self.judge, self.step = config, judge, 0
        self.parameters = dict(judge.component.module.named_parameters())
        if head is not None:
            self.parameters |= {f"probe.{k}": p for k, p in head.named_parameters()}
        matrices = [p for name, p in self.parameters.items() if is_matrix(name, p)]
        vectors = [p for name, p in self.parameters.items() if not is_matrix(name, p)]
        self.muon = Muon(matrices, lr=0.0, weight_decay=_WEIGHT_DECAY)
        self.adam = torch.optim.AdamW(
            vectors, lr=0.0, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=True
        )

    def learn(self, loss: Tensor) -> float:
        """Do one step on a loss; return it.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        value, scale = float(loss.detach()), learning_scale(self.config, self.step)
        if not math.isfinite(value):
            raise RuntimeError(
                f"the loss of step {self.step} is not finite; the last checkpoint in "
                f"{self.config.run_folder} is good: go on from it with a lower learning_rate"
            )
        self.muon.param_groups[0]["lr"] = self.config.matrix_learning_rate * scale
        self.adam.param_groups[0]["lr"] = self.config.learning_rate * scale
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return value

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        tensors = {f"weights.{k}": p for k, p in self.parameters.items()}
        tensors |= flatten_optimizer(self.muon, "muon") | flatten_optimizer(self.adam, "adam")
        return TrainState(step=self.step, seconds=seconds, tensors=tensors)

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Load weights and optimiser states."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state.tensors[f"weights.{name}"])
        if any(key.startswith("adam.") for key in state.tensors):
            restore_optimizer(self.muon, state.tensors, "muon")
            restore_optimizer(self.adam, state.tensors, "adam")
        self.step = state.step

    def export(self, source: Path, target: Path) -> None:
        """Write the judge to ``target``, with tokenizer and preprocessor of ``source``, at once.

        Card and report of the source are not copied; the record of its training is.
        """
        with judge_like(source, target) as fresh:
            self.judge.component.module.save_pretrained(fresh)  # type: ignore[operator]


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains a parameter: the matrices of both towers, not the embeddings."""
    return parameter.ndim == 2 and not any(word in name for word in _EMBEDDINGS)
