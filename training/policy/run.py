"""A whole run: from a config to an adapter, through any number of stops."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.memory.plan import NotEnoughMemory, is_out_of_memory
from ..charts.dashboard import plot_dashboard
from ..data.conditions import EditDataset, read_image, save_image
from ..runs.directory import (
    RunDirectory,
    TrainState,
    initial_state,
    reset_if_not_started,
    saved_step,
)
from ..runs.distributed import Distributed
from ..runs.files import remove, replace_by_copy
from ..runs.loop import Clock
from ..runs.tensorboard import TensorBoard
from .adapter_file import write_adapter
from .config import LORA, PolicyTrainConfig
from .forecast import Forecast, make_forecast, memory_advice
from .inputs import check_inputs, digests_of, keep_inputs
from .loop import PolicyTrainer, TrainerContext
from .monitoring.monitor import Monitor, last_scores
from .references import ReferenceStore
from .reward_cells import reward_cells_of
from .rewards import JudgeReward, Reward
from .run_models import RunModels, load
from .samples import SampleSource
from .sharding import make_sharding
from .supervised import SupervisedTrainer
from .weights import Policy

log = logging.getLogger("onereward.training")

ADAPTER, TRANSFORMER = "adapter.safetensors", "transformer"
"""The result in the run folder: a LoRA, or a transformer's folder."""
DASHBOARD = "dashboard.png"
"""Curves and images in the run folder, as of the last checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyResult:
    """What a run has come to."""

    path: Path
    """The adapter's file, or the transformer's folder."""
    step: int
    """Steps done."""
    notes: tuple[str, ...]
    """What the user should know: cells left out, why it stopped."""
    dashboard: Tensor
    """Curves and images, ``[H, W, 3]``, 0..1."""
    curve: tuple[Mapping[str, float], ...]
    """A record per step."""


def train_policy(
    config: PolicyTrainConfig,
    host: Host,
    run_models: RunModels | None = None,
    processes: Distributed | None = None,
) -> PolicyResult:
    """Train until done, stopped or out of time, from the last checkpoint on.

    However it ends, the work so far is in the run folder: a checkpoint to go on from, and the
    weights at that step.

    Raises:
        ValueError: The config does not fit the folder, the models or the conditions.
        NotEnoughMemory: It does not fit; says what to change.
        RuntimeError: The loss is not finite.
    """
    processes = processes or Distributed()
    if done := finished(config):
        if run_models:
            cells = reward_cells_of(config, run_models.judges)
            found = digests_of(config, run_models.models, run_models.all_judges, cells)
            check_inputs(Path(config.run_folder), found)
            done = replace(done, notes=cells.notes)
        host.notify(f"all {config.steps} steps are done; raise steps to go on")
        return done
    with torch.inference_mode(False), torch.enable_grad():
        run_models = run_models or load(config, host.device)
        host.notify(check(config, host, run_models).text())
        try:
            with closing(PolicyRun(config, host, run_models, processes)) as run:
                run.train()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise NotEnoughMemory(memory_advice(config)) from error
    return run.result()


def check(config: PolicyTrainConfig, host: Host, run_models: RunModels) -> Forecast:
    """Return how much memory a run takes and whether it fits; no weight is read.

    Raises:
        JudgeError: A judge cannot answer Yes and No.
        ValueError: All weights are to learn, but they are packed; or the reward is missing.
    """
    if config.mode != LORA and run_models.models.transformer_source.is_quantised:
        raise ValueError(
            f"mode full trains all weights, but those of {run_models.models.transformer_source.path} "
            "are packed and frozen; set mode to lora, or choose a bf16 or fp16 file"
        )
    if config.external_reward and run_models.reward is None:
        raise ValueError(
            "external_reward is on, but no reward was handed in; start this run from the program "
            "that made it, or connect a judge"
        )
    for judge in run_models.all_judges:
        _ = judge.answer_ids
    return make_forecast(config, run_models.models, run_models.judges, host, run_models.eval_judge)


def finished(config: PolicyTrainConfig) -> PolicyResult | None:
    """Return what a run has come to that has done all its steps; None if there is more to do.

    Raises:
        ValueError: The folder holds a run with other settings.
    """
    run = Path(config.run_folder)
    path, dashboard = run / _result_name(config), run / DASHBOARD
    if not dashboard.is_file() or not path.exists() or saved_step(run) < config.steps:
        return None
    folder = RunDirectory(config)
    return PolicyResult(
        path=path,
        step=saved_step(run),
        notes=(),
        dashboard=read_image(dashboard),
        curve=tuple(folder.read_metrics()),
    )


class PolicyRun:
    """A run in progress."""

    def __init__(
        self, config: PolicyTrainConfig, host: Host, run_models: RunModels, processes: Distributed
    ) -> None:
        self.config, self.host, self.processes = config, host, processes
        self.run_models = run_models
        if processes.count > config.batch_size:
            raise ValueError(
                f"batch_size is {config.batch_size}, but {processes.count} processes share it; give at least "
                "one edit to each"
            )
        self.sharding = make_sharding(config, processes)
        if self.sharding is not None:
            host.notify(f"all weights are spread over {processes.count} processes (FSDP2)")
        conditions = EditDataset(Path(config.dataset_folder))
        self.reward_cells = reward_cells_of(config, run_models.judges)
        self.notes: list[str] = []
        self.tell(*self.reward_cells.notes)
        if processes.is_main:
            reset_if_not_started(config, "prompts", "references", "results")
        else:
            processes.wait()  # for the folder, and for prompts that are encoded once
        self.folder = RunDirectory(config)
        found = digests_of(config, run_models.models, run_models.all_judges, self.reward_cells)
        if saved_step(self.folder.path) < 0 and processes.is_main:
            keep_inputs(self.folder.path, found)
        check_inputs(self.folder.path, found)
        source = SampleSource(config, conditions, run_models.models, self.reward_cells, host)
        if processes.is_main:
            processes.wait()
        surroundings = TrainerContext(
            models=run_models.models,
            host=host,
            processes=processes,
            references=ReferenceStore(self.folder.path / "references"),
        )
        reward: Reward
        if run_models.reward is not None:
            reward = run_models.reward(config, run_models.models, host)
        else:
            reward = JudgeReward(config, run_models.models, run_models.judges, host)
        stored = initial_state(self.folder, config)
        self.log: TensorBoard | None = None
        if config.tensorboard and processes.is_main:
            self.log = TensorBoard(self.folder.path, stored.step if stored else 0)
        policy = Policy(run_models.models, config, host.device, self.sharding)
        kind = PolicyTrainer if config.needs_reward else SupervisedTrainer
        self.trainer = kind(config, policy, source, reward, surroundings)
        self.monitor = Monitor(self.trainer, run_models.judges, run_models.eval_judge)
        self.tell(*self.monitor.notes())
        self.curve = self.restore(stored)
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self.clock = Clock(config, stored.seconds if stored else 0.0)

    def restore(self, stored: TrainState | None) -> list[dict[str, float]]:
        """Go on from a checkpoint or begin; return the curve. Failing leaves the model as found."""
        try:
            if stored:
                self.trainer.restore(stored)
                if stored.step:  # else it is another run's, whose looks are not of this one
                    self.monitor.restore(stored.tensors)
            if self.processes.is_main:
                # A kill leaves lines of steps that are now done again.
                self.folder.truncate_metrics(self.trainer.step)
            return self.folder.read_metrics()
        except BaseException:
            self.close()
            raise

    def tell(self, *notes: str) -> None:
        """Tell the user now, and once more beside the result."""
        self.notes += notes
        for note in notes:
            self.host.notify(note)

    def close(self) -> None:
        """Leave the model as it was found."""
        self.trainer.policy.release()
        if self.log is not None:
            self.log.close()

    def train(self) -> None:
        """Do the steps; save however they end."""
        try:
            self.evaluate_if_due()
            while not self.processes.any(self.is_over()):
                self.step()
        except BaseException:
            # Half an optimiser's step is no state to go on from; the last checkpoint is. Nor is
            # there a whole state where others hold a share of it and are busy with something else.
            if not self.trainer.is_updating and self.sharding is None:
                self.save()
            raise
        self.save()
        self.keep_best()
        step, steps = self.trainer.step, self.config.steps
        if step < steps and self.clock.is_out_of_time():
            self.tell(f"the time is up after {step} of {steps} steps; run again to go on")

    def is_over(self) -> bool:
        """Whether all steps are done, the time is up, or there is a reason to stop."""
        if self.trainer.step >= self.config.steps or self.clock.is_over(self.trainer.step):
            return True
        return self.monitor.reason_to_stop() is not None

    def step(self) -> None:
        """Do one step, and what is due after it."""
        record = self.trainer.train_step()
        step, seconds = self.trainer.step, round(self.clock.seconds(), 2)
        self.note({"step": step, "seconds": seconds, **record})
        self.evaluate_if_due()
        if self.processes.is_main:
            if self.log is not None:
                self.log.add(self.curve[-1])
            if step % self.config.log_every == 0:
                log.info("%s %s", self.folder.path.name, self.curve[-1])
            self.host.progress(step, self.config.steps, self.dashboard)
        if self.agree(self.clock.wants_checkpoint()):
            self.save()

    def note(self, record: Mapping[str, float]) -> None:
        """Write a step's line of the curve, in the place of what it has said of that step."""
        if not self.processes.is_main:
            return
        if self.curve and self.curve[-1]["step"] == record["step"]:
            self.curve.pop()
            self.folder.truncate_metrics(int(record["step"]) - 1)
        self.curve.append({name: round(value, 6) for name, value in record.items()})
        self.folder.append_metrics(self.curve[-1])

    def evaluate_if_due(self) -> None:
        """EvalResult after the step just done; also after a stop that cut its look short."""
        if self.takes_part and self.monitor.is_due():
            looked = self.look()
            line = self.curve[-1] if self.curve else {}
            self.note({**line, "step": self.trainer.step, **looked})

    @property
    def takes_part(self) -> bool:
        """Whether this process is needed for what the first one writes: it may hold a share."""
        return self.processes.is_main or self.sharding is not None

    def agree(self, flag: bool) -> bool:
        """Return a flag on which processes act alike if they have to."""
        return flag if self.sharding is None else self.processes.any(flag)

    def look(self) -> dict[str, float]:
        """EvalResult at held-out conditions; keep the weights, the best and the last few."""
        look = self.monitor.look()
        self.rows = look.rows
        results = self.folder.path / "results"
        results.mkdir(exist_ok=True)
        name = f"step-{self.trainer.step:06d}"
        if self.agree(self.monitor.is_best(look)):
            self.export(results / f"best{self.ending}")
        self.export(results / f"{name}{self.ending}")
        if not self.processes.is_main:
            return {}
        for old in sorted(results.glob(f"step-*{self.ending}"))[: -self.config.save_total_limit]:
            remove(old)
        if self.log is not None:
            self.log.add_image(self.dashboard(), self.trainer.step)
        return look.record()

    def dashboard(self) -> Tensor:
        """Return curves and images so far, ``[H, W, 3]``, 0..1."""
        return plot_dashboard(self.curve, self.rows)

    def save(self) -> None:
        """Write the checkpoint and the weights."""
        if not self.takes_part:
            return
        state = self.trainer.train_state(self.clock.seconds())
        if self.processes.is_main:
            # Comes back at the end: without it the result may be an older checkpoint's.
            (self.folder.path / DASHBOARD).unlink(missing_ok=True)
            self.folder.save(replace(state, tensors=state.tensors | self.monitor.tensors()))
        self.export(self.folder.path / self.name)
        if self.processes.is_main:
            save_image(self.folder.path / DASHBOARD, self.dashboard())

    def keep_best(self) -> None:
        """Make the best look the result of a run that stopped itself; without one, the start."""
        if not self.takes_part:
            return
        reason, result = self.monitor.reason_to_stop(), self.folder.path / self.name
        best = self.folder.path / "results" / f"best{self.ending}"
        has_best = self.agree(best.exists())
        if self.agree(self.monitor.has_drifted) and not has_best:
            self.export(result, is_start=True)
            reason = f"{reason}; no look was good, so the result is the start, unchanged"
        if reason is None or not self.processes.is_main:
            return
        self.tell(reason)
        if has_best:
            replace_by_copy(best, result)

    @property
    def ending(self) -> str:
        """Of every result's name: a file of a LoRA, a folder of a transformer."""
        return Path(self.name).suffix

    @property
    def name(self) -> str:
        """The result's name in the folder."""
        return _result_name(self.config)

    def export(self, path: Path, is_start: bool = False) -> None:
        """Write the weights as others can load them, or those that the run started from."""
        policy, config = self.trainer.policy, self.config
        if config.mode == LORA:
            about = self.about() | ({"step": 0, "scores": {}} if is_start else {})
            weights = policy.weights("start" if is_start else config.saved_weights)
            write_adapter(path, weights, about, config.lora_scale)
            return
        fresh, is_main = path.with_name(path.name + ".new"), self.processes.is_main
        if is_main:
            remove(fresh)
        with policy.as_start() if is_start else policy.as_result():
            policy.save_module(fresh, is_main)
        if is_main:
            remove(path)
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
            "judges": [judge.label for judge in self.run_models.judges],
            "left_out": list(self.reward_cells.notes),
            "scores": last_scores(self.curve),
        }

    def result(self) -> PolicyResult:
        """Return what the run has come to."""
        return PolicyResult(
            path=self.folder.path / self.name,
            step=self.trainer.step,
            notes=tuple(self.notes),
            dashboard=self.dashboard(),
            curve=tuple(self.curve),
        )


def _result_name(config: PolicyTrainConfig) -> str:
    return ADAPTER if config.mode == LORA else TRANSFORMER
