"""A judge that learns preferences: one step of eq. 3 of OneReward, and what a checkpoint holds."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ...fill.host import Host
from ...fill.io.writing import atomic_folder
from ...reward.judge import JudgeError, judge_folder
from ...reward.label_choice import choose_labels
from ...reward.preference import Preference, PreferenceSet, by_split
from ...reward.report import Answer, JudgeReport, make_report
from ...reward.vlm.adapter import (
    adapter_parameters,
    attach_adapter,
    inject_lora,
    save_adapter,
    write_notes,
)
from ...reward.vlm.qwen_vl import RESULT, QwenJudge
from ..objectives import preference_loss
from ..runs.config import OFF, require
from ..runs.directory import TrainState
from ..runs.distributed import Distributed
from ..runs.hosts import TrainingHost
from ..runs.loop import NonFiniteError, step_generator, warmup_scale
from ..runs.optimizer_state import flatten_optimizer, restore_optimizer
from .config import JudgeTrainConfig
from .pair_answers import answer_pairs, ask_both_ways, on_device
from .pairs import Augmentation, images_of, sample_batch, spread


class JudgeTrainer:
    """One run: judge, data, optimiser and the next step to do.

    Example: ``JudgeTrainer(config).train_step()`` does one step and returns its loss.
    """

    def __init__(
        self,
        config: JudgeTrainConfig,
        host: Host | None = None,
        processes: Distributed | None = None,
    ) -> None:
        """Open the data and load the judge, a copy of its own.

        Raises:
            ValueError: The data has no pair to learn from, or processes cannot share a batch.
            JudgeError: The folder holds no judge, or the adapter does not fit.
        """
        self.config = config
        self.processes = processes or Distributed()
        require(
            config.batch_size % self.processes.count == 0,
            f"batch_size is {config.batch_size}, but {self.processes.count} processes share it; "
            "choose a multiple, so that each gets as many pairs",
        )
        self.host = host or TrainingHost(self.processes.device)
        self.data = PreferenceSet(Path(config.preferences_folder))
        choice = choose_labels(self.data.pairs(), config.labels_by, config.contradictions)
        if note := choice.note():
            self.host.notify(note)
        self.splits = by_split(choice.pairs)
        if not self.splits["train"]:
            raise ValueError(
                f"{config.preferences_folder} holds no pairs of its train split; collect more"
            )
        self.judge = QwenJudge(config.judge(), self.host.device)
        _ = self.judge.answer_ids
        make_trainable(self.judge.component.module, config)
        self.step = 0
        self.is_updating = False
        """Whether weights and optimiser are half changed: no state to save."""

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; first asked for when the judge is where it stays."""
        return trained_parameters(self.judge.component.module, self.config)

    @cached_property
    def adam(self) -> torch.optim.AdamW:
        """The optimiser; its rate is set at every step."""
        decay = self.config.weight_decay
        return torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=(0.9, 0.98), weight_decay=decay
        )

    def train_step(self) -> float:
        """Do one step of eq. 3; return the loss of this process's share.

        Raises:
            NonFiniteError: Loss or gradient is not finite.
        """
        config = self.config
        batch = sample_batch(self.splits["train"], self.step, config.batch_size, config.seed)
        num_pairs = config.batch_size // self.processes.count
        first = self.processes.rank * num_pairs
        total = 0.0
        self.adam.zero_grad()
        with self._autocast():
            for start in range(0, num_pairs, config.micro_batch_size):
                self.host.check_cancelled()
                end = min(start + config.micro_batch_size, num_pairs)
                loss = self.loss(batch, range(first + start, first + end))
                loss = loss * ((end - start) / num_pairs)
                loss.backward()
                total += float(loss.detach())
        # Asked of all: one that left by itself would let the others wait for its gradients.
        if self.processes.any(not math.isfinite(total)):
            self._raise_not_finite("loss")
        self._update()
        return total

    def loss(self, batch: Sequence[Preference], indices: Sequence[int]) -> Tensor:
        """Return eq. 3 over some pairs of a step's batch; each is augmented in its own way."""
        config = self.config
        augmentation = Augmentation(shift=config.shift, blur=config.blur, noise=config.noise)
        pairs = [batch[index] for index in indices]
        views = []
        for index, pair in zip(indices, pairs, strict=True):
            generator = step_generator(config.seed, self.step * len(batch) + index)
            images = images_of(self.data, pair, config.view)
            views.append(on_device(augmentation.apply(images, generator), self.host.device))
        answers = ask_both_ways(self.judge, views, pairs)  # [B, 2, 2]
        return preference_loss(answers[:, 0, 0], answers[:, 1, 1])

    @torch.no_grad()
    def report(self, split: str = "dev") -> JudgeReport:
        """Return accuracy, consistency and calibration on a held-out split."""
        return make_report(self.answers(split))

    def answers(self, split: str = "dev") -> list[Answer]:
        """Return the answers about a held-out split; every process asks about its share."""
        pairs = spread(self.splits[split], self.config.eval_pairs)
        share = pairs[self.processes.rank :: self.processes.count]

        def tick(*_: int) -> None:
            self.host.check_cancelled()

        with self._autocast():
            view, device = self.config.view, self.host.device
            answers = answer_pairs(self.judge, self.data, share, tick, device, view)
        return [answer for share in self.processes.gather(answers) for answer in share]

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        tensors: dict[str, Tensor] = {f"weights.{k}": p for k, p in self.parameters.items()}
        tensors["processes"] = torch.tensor(self.processes.count)
        return TrainState(
            step=self.step,
            seconds=seconds,
            tensors=tensors | flatten_optimizer(self.adam, "adam"),
        )

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Take over weights and optimiser state; ValueError if they are another set-up's."""
        count = int(state.tensors.get("processes", torch.tensor(1)))
        if count != self.processes.count:
            raise ValueError(
                f"this run was started on {count} processes and goes on with as many, but there "
                f"are {self.processes.count}"
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(state.tensors[f"weights.{name}"])
        restore_optimizer(self.adam, state.tensors, "adam")
        self.step = state.step

    def export(self) -> Path:
        """Write the result as a folder that loads by itself: the whole judge, or its adapter."""
        result, start = result_folder(self.config), judge_folder(self.config.judge_folder)
        model: Any = self.judge.component.module
        with atomic_folder(result) as fresh:
            if self.config.mode == "full":
                # Weights in other shards would be taken for the new ones.
                weights = shutil.ignore_patterns("*.safetensors*", "*.bin*", "report.json")
                shutil.copytree(start, fresh, ignore=weights, dirs_exist_ok=True)
                model.save_pretrained(fresh)
            else:
                save_adapter(model, fresh)
            write_notes(
                fresh,
                base=start.name,
                steps=self.step,
                view=self.config.view,
                max_pixels=self.config.max_pixels,
            )
        return result

    def _update(self) -> None:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.processes.sum(gradients)
        for gradient in gradients:
            gradient /= self.processes.count
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            self._raise_not_finite("gradient")
        scale = warmup_scale(self.step, self.config.warmup_steps)
        self.adam.param_groups[0]["lr"] = self.config.peak_rate * scale
        self.is_updating = True
        self.adam.step()
        self.adam.zero_grad()
        self.step += 1
        self.is_updating = False

    def _raise_not_finite(self, name: str) -> NoReturn:
        self.adam.zero_grad()
        raise NonFiniteError(
            f"the {name} of step {self.step} is not finite; the last checkpoint in "
            f"{self.config.run_folder} is good: go on from it with a lower learning_rate"
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        """Compute in bfloat16 where all weights are kept in float32 on a GPU."""
        device, precision = self.host.device.type, self.config.precision
        is_half = precision == "bf16" or (precision == "auto" and device == "cuda")
        if self.config.mode == "full" and is_half:
            return torch.autocast(device, torch.bfloat16)
        return nullcontext()


def trained_parameters(model: nn.Module, config: JudgeTrainConfig) -> dict[str, nn.Parameter]:
    """Return what is trained, by name."""
    return dict(model.named_parameters()) if config.mode == "full" else adapter_parameters(model)


def make_trainable(model: Any, config: JudgeTrainConfig) -> None:
    """Attach the adapter, in float32, or let all weights learn."""
    if config.gradient_checkpointing != OFF:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers recomputes only then; these models have no dropout
    if config.mode == "lora" and config.judge_adapter:
        attach_adapter(model, Path(config.judge_adapter))
        _check_rank(model, config)
    elif config.mode == "lora":
        from peft import LoraConfig

        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(config.seed)
            inject_lora(model, LoraConfig(**config.adapter()))
    parameters = trained_parameters(model, config)
    if not parameters:
        raise JudgeError(f"{config.judge_folder} has none of the layers an adapter goes on")
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def _check_rank(model: Any, config: JudgeTrainConfig) -> None:
    (adapter,) = model.peft_config.values()
    if (adapter.r, adapter.lora_alpha) != (config.rank, config.lora_alpha):
        raise ValueError(
            f"the judge's adapter has rank {adapter.r} and alpha {adapter.lora_alpha:g}, "
            f"but {config.rank} and {config.lora_alpha:g} are set; set those of the adapter"
        )


def result_folder(config: JudgeTrainConfig) -> Path:
    """Return where the trained judge or its adapter is."""
    return Path(config.run_folder) / (RESULT if config.mode == "full" else "adapter")
