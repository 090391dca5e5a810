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
from ...reward.adapter import adapter_parameters, attach_adapter, write_notes
from ...reward.judge import JudgeError, judge_folder
from ...reward.preference import Preference, PreferenceSet, by_split
from ...reward.qwen_vl import RESULT, QwenJudge
from ...reward.report import Answer, JudgeReport, make_report
from ..objectives import preference_loss
from ..runs.config import OFF
from ..runs.directory import TrainState
from ..runs.distributed import Distributed
from ..runs.hosts import TrainingHost
from ..runs.loop import NonFiniteError, step_generator
from ..runs.optimizer_state import flatten_optimizer, restore_optimizer
from .config import JudgeTrainConfig
from .pair_answers import answer_pairs, ask_both_ways, on_device
from .pairs import Augmentation, images_of, sample_batch, spread


class JudgeTrainer:
    """One run: judge, data, optimiser and the next step to do."""

    def __init__(
        self,
        config: JudgeTrainConfig,
        host: Host | None = None,
        processes: Distributed | None = None,
    ) -> None:
        """Open the data and load the judge, a copy of its own.

        Raises:
            ValueError: The data has no pair to learn from.
            JudgeError: The folder holds no judge, or the adapter does not fit.
        """
        self.config = config
        self.processes = processes or Distributed()
        self.host = host or TrainingHost(self.processes.device)
        self.data = PreferenceSet(Path(config.preferences_folder))
        self.splits = by_split(self.data.pairs())
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
            RuntimeError: If the loss is not finite.
        """
        config = self.config
        whole = sample_batch(
            self.splits["train"], self.step, config.batch_size * self.processes.count, config.seed
        )
        first = self.processes.rank * config.batch_size
        total = 0.0
        self.adam.zero_grad()
        with self._computing():
            for start in range(0, config.batch_size, config.micro_batch_size):
                self.host.check_cancelled()
                places = range(start, min(start + config.micro_batch_size, config.batch_size))
                share = len(places) / config.batch_size
                loss = self.loss(whole, [first + place for place in places]) * share
                loss.backward()
                total += float(loss.detach())
        # Asked of all: one that left by itself would let the others wait for its gradients.
        if self.processes.any(not math.isfinite(total)):
            self._refuse("loss")
        self._update()
        return total

    def loss(self, whole: Sequence[Preference], places: Sequence[int]) -> Tensor:
        """Return eq. 3 over some pairs of a step; each pair has a augmentation of its own."""
        config = self.config
        augmentation = Augmentation(shift=config.shift, blur=config.blur, noise=config.noise)
        pairs = [whole[place] for place in places]
        images = []
        for place, pair in zip(places, pairs, strict=True):
            generator = step_generator(config.seed, self.step * len(whole) + place)
            both = augmentation.apply(images_of(self.data, pair, config.view), generator)
            images.append(on_device(both, self.host.device))
        answers = ask_both_ways(self.judge, images, pairs)
        return preference_loss(answers[:, 0, 0], answers[:, 1, 1])

    @torch.no_grad()
    def report(self, split: str = "dev") -> JudgeReport:
        """Return accuracy, consistency and calibration on a held-out split."""
        return make_report(self.answers(split))

    def answers(self, split: str = "dev") -> list[Answer]:
        """Return the answers about a held-out split; every process asks about its share."""
        pairs = spread(self.splits[split], self.config.eval_pairs)
        mine = pairs[self.processes.rank :: self.processes.count]
        with self._computing():
            answers = answer_pairs(
                self.judge,
                self.data,
                mine,
                lambda *_: self.host.check_cancelled(),
                self.config.view,
            )
        return [answer for part in self.processes.gather(answers) for answer in part]

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
        is_full, current = self.config.mode == "full", result_folder(self.config)
        start = judge_folder(self.config.judge_folder)
        fresh = current.with_name(current.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        if is_full:
            # Weights in other shards would be taken for the new ones.
            weights = shutil.ignore_patterns("*.safetensors*", "*.bin*", "report.json")
            shutil.copytree(start, fresh, ignore=weights)
        model: Any = self.judge.component.module
        model.save_pretrained(fresh)
        write_notes(
            fresh,
            base=start.name,
            steps=self.step,
            view=self.config.view,
            max_pixels=self.config.max_pixels,
        )
        shutil.rmtree(current, ignore_errors=True)
        fresh.rename(current)
        return current

    def _update(self) -> None:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.processes.sum(gradients)
        for gradient in gradients:
            gradient /= self.processes.count
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            self._refuse("gradient")
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        self.adam.param_groups[0]["lr"] = self.config.peak_rate * warm
        self.is_updating = True
        self.adam.step()
        self.adam.zero_grad()
        self.step += 1
        self.is_updating = False

    def _refuse(self, name: str) -> NoReturn:
        self.adam.zero_grad()
        raise NonFiniteError(
            f"the {name} of step {self.step} is not finite; the last checkpoint in "
            f"{self.config.run_folder} is good: go on from it with a lower learning_rate"
        )

    def _computing(self) -> AbstractContextManager[Any]:
        """Compute in bfloat16 where all weights are kept in float32 on a GPU."""
        device, wanted = self.host.device.type, self.config.precision
        is_half = wanted == "bf16" or (wanted == "auto" and device == "cuda")
        if self.config.mode == "full" and is_half:
            return torch.autocast(device, torch.bfloat16)
        return nullcontext()


def trained_parameters(model: nn.Module, config: JudgeTrainConfig) -> dict[str, nn.Parameter]:
    """Return what is trained, by name."""
    return dict(model.named_parameters()) if config.mode == "full" else adapter_parameters(model)


def make_trainable(model: Any, config: JudgeTrainConfig) -> None:
    """Put the adapter on, in float32, or free all weights."""
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
            model.add_adapter(LoraConfig(**config.adapter()))
    found = trained_parameters(model, config)
    if not found:
        raise JudgeError(f"{config.judge_folder} has none of the layers an adapter goes on")
    for parameter in found.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def _check_rank(model: Any, config: JudgeTrainConfig) -> None:
    (worn,) = model.peft_config.values()
    if (worn.r, worn.lora_alpha) != (config.rank, config.lora_alpha):
        raise ValueError(
            f"the adapter that the judge wears has rank {worn.r} and alpha {worn.lora_alpha:g}, "
            f"but {config.rank} and {config.lora_alpha:g} are set; set those of the adapter"
        )


def result_folder(config: JudgeTrainConfig) -> Path:
    """Return where the trained judge or its adapter is."""
    return Path(config.run_folder) / (RESULT if config.mode == "full" else "adapter")
