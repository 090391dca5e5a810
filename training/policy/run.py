"""A whole run: from a config to an adapter, through any number of stops."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...fill.host import Host
from ...fill.memory import NotEnoughMemory, is_out_of_memory
from ...fill.models import FillModels, load_fill_models
from ...reward.qwen_vl import QwenJudge
from ...reward.report import read_report
from ..data import ConditionSet
from ..loop import PolicyTrainer, Surroundings
from ..pretrain.run import Clock, RunFolder, first_snapshot
from ..processes import Processes
from .adapter import write_adapter
from .config import LORA, PolicyTrainConfig
from .gate import ALL_CELLS, Gate, make_gate
from .references import ReferenceStore
from .rewards import JudgeReward, OracleReward, Reward
from .samples import SampleSource
from .weights import Policy

log = logging.getLogger("onereward.training")

ADAPTER, TRANSFORMER = "adapter.safetensors", "transformer"
"""The result in the run folder: a LoRA, or a transformer's folder."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """The models of a run; a node hands over what is connected to it."""

    models: FillModels
    judges: tuple[QwenJudge, ...] = ()
    held_out_judge: QwenJudge | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """What a run has come to."""

    path: Path
    """The adapter's file, or the transformer's folder."""
    step: int
    """Steps done."""
    notes: tuple[str, ...]
    """What the user should know."""


def load(config: PolicyTrainConfig, device: torch.device) -> Loaded:
    """Check all models of a run; no weight is read yet.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: Something does not fit together.
        JudgeError: A judge cannot answer Yes and No.
    """
    models = load_fill_models(config.model_config(), device)
    for path, strength in zip(config.adapters, config.strengths, strict=True):
        models = models.with_adapter(Path(path), strength)
    judges = [QwenJudge(config.judge(folder), device) for folder in config.judge_folders]
    other = (
        QwenJudge(config.judge(config.held_out_judge), device) if config.held_out_judge else None
    )
    return Loaded(models=models, judges=tuple(judges), held_out_judge=other)


def train_policy(
    config: PolicyTrainConfig,
    host: Host,
    loaded: Loaded | None = None,
    processes: Processes | None = None,
) -> PolicyResult:
    """Train until done, stopped or out of time, from the last checkpoint on.

    However it ends, the work so far is in the run folder: a checkpoint to go on from, and the
    weights at that step.

    Raises:
        ValueError: The config does not fit the folder, the models or the conditions.
        NotEnoughMemory: It does not fit; says what to change.
        RuntimeError: The loss is not finite.
    """
    processes = processes or Processes()
    with torch.inference_mode(False), torch.enable_grad():
        loaded = loaded or load(config, host.device)
        for judge in loaded.judges:
            _ = judge.answer_ids  # refuses a judge without Yes and No before any weight is read
        run = PolicyRun(config, host, loaded, processes)
        try:
            run.train()
        finally:
            run.trainer.policy.release()
    return run.result()


class PolicyRun:
    """A run in progress."""

    def __init__(
        self, config: PolicyTrainConfig, host: Host, loaded: Loaded, processes: Processes
    ) -> None:
        self.config, self.host, self.processes = config, host, processes
        if processes.count > config.batch:
            raise ValueError(
                f"batch is {config.batch}, but {processes.count} processes share it; give at least "
                "one edit to each"
            )
        conditions = ConditionSet(Path(config.conditions_folder))
        self.gate = _gate(config)
        for note in self.gate.notes:
            host.say(note)
        self.folder = RunFolder(config)
        source = SampleSource(config, conditions, loaded.models, self.gate, host)
        surroundings = Surroundings(
            models=loaded.models,
            host=host,
            processes=processes,
            references=ReferenceStore(self.folder.path / "references"),
        )
        reward: Reward
        if config.oracle_control:
            reward = OracleReward(config, loaded.models, host)
        else:
            reward = JudgeReward(config, loaded.models, loaded.judges, host)
        policy = Policy(loaded.models, config, host.device)
        self.trainer = PolicyTrainer(config, policy, source, reward, surroundings)
        stored = first_snapshot(self.folder, config)
        if stored:
            self.trainer.restore(stored)
            self.folder.cut_curve(stored.step)
        self.clock = Clock(config, stored.seconds if stored else 0.0)

    def train(self) -> None:
        """Do the steps; save however they end."""
        try:
            while not self.processes.any(self.is_over()):
                self.step()
        except BaseException as error:
            # Half an optimiser's step is no state to go on from; the last checkpoint is.
            if not self.trainer.is_updating:
                self.save()
            if isinstance(error, (RuntimeError, MemoryError)) and is_out_of_memory(error):
                raise NotEnoughMemory(_advice(self.config)) from error
            raise
        self.save()

    def is_over(self) -> bool:
        """Whether all steps are done or the time is up."""
        return self.trainer.step >= self.config.steps or self.clock.is_over(self.trainer.step)

    def step(self) -> None:
        """Do one step, and what is due after it."""
        record = self.trainer.train_step()
        step, seconds = self.trainer.step, self.clock.seconds()
        line = {"step": step, "seconds": round(seconds, 2)}
        line |= {name: round(value, 6) for name, value in record.items()}
        if self.processes.is_main:
            self.folder.append_curve(line)
        if step % self.config.log_every == 0:
            log.info("%s %s", self.folder.path.name, line)
        self.host.progress(step, self.config.steps)
        if self.clock.wants_checkpoint():
            self.save()

    def save(self) -> None:
        """Write the checkpoint and the weights."""
        if not self.processes.is_main:
            return
        self.folder.save(self.trainer.snapshot(self.clock.seconds()))
        self.export(self.folder.path / self.name)

    @property
    def name(self) -> str:
        """The result's name in the folder."""
        return ADAPTER if self.config.mode == LORA else TRANSFORMER

    def export(self, path: Path) -> None:
        """Write the weights as others can load them."""
        policy, config = self.trainer.policy, self.config
        if config.mode == LORA:
            write_adapter(path, policy.weights(config.result), config, self.about())
            return
        fresh = path.with_name(path.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        with policy.as_result():
            policy.module.save_pretrained(fresh)
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)

    def about(self) -> dict[str, Any]:
        """Return what goes into the file's metadata."""
        config, models = self.config, self.trainer.models
        return {
            "base": Path(config.model.get("folder") or config.model["transformer"]).name,
            "base_adapters": [adapter.label for adapter in models.adapters],
            "recipe": models.recipe.name,
            "objective": config.objective,
            "algorithm": config.algorithm,
            "step": self.trainer.step,
            "judges": [Path(folder).name for folder in config.judge_folders],
            "left_out": list(self.gate.notes),
        }

    def result(self) -> PolicyResult:
        """Return what the run has come to."""
        return PolicyResult(
            path=self.folder.path / self.name, step=self.trainer.step, notes=self.gate.notes
        )


def _gate(config: PolicyTrainConfig) -> Gate:
    if not config.needs_judge:
        return Gate(cells=frozenset(ALL_CELLS))
    return make_gate([read_report(Path(folder)) for folder in config.judge_folders], config.gate)


def _advice(config: PolicyTrainConfig) -> str:
    return (
        "not enough memory for a step of training; the run is saved and goes on with the same "
        f"settings but, in a new run, a smaller target_size (now {config.target_size}), "
        f"micro_batch 1 (now {config.micro_batch}), checkpointing on (now "
        f"{'on' if config.checkpointing else 'off'}) or a lower rank (now {config.rank})"
    )
