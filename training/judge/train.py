"""Teach a judge preferences: eq. 3 of OneReward, an adapter or all weights.

`onereward train-judge config.json`, in one process or under `accelerate launch`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ...fill.host import Host
from ...fill.memory.plan import NotEnoughMemory, is_out_of_memory
from ...reward.adapter import read_notes
from ...reward.report import JudgeReport
from ..charts.judge_curve import plot_metrics
from ..runs.directory import RunDirectory, initial_state, reset_if_not_started, saved_step
from ..runs.distributed import Distributed
from ..runs.hosts import TrainingHost
from ..runs.loop import Clock
from .config import JudgeTrainConfig
from .memory import training_bytes
from .pairs import check_pairs, spread
from .trainer import JudgeTrainer, result_folder, trained_parameters

log = logging.getLogger("onereward.training")

OnRecord = Callable[[Mapping[str, float]], None]
"""Called with every line of the curve."""


def train_judge(
    config: JudgeTrainConfig,
    host: Host | None = None,
    processes: Distributed | None = None,
    on_record: OnRecord | None = None,
) -> Path:
    """Train until done, out of time or cancelled; return the folder of the adapter or judge.

    A run that was cancelled or killed goes on from its last checkpoint, exactly.

    Raises:
        ValueError: The data cannot be learned from, or the folder holds another run.
        JudgeError: The folder holds no judge.
        NotEnoughMemory: It does not fit; says what to change.
        OSError: The disk is full; the last checkpoint is whole.
    """
    processes = processes or Distributed()
    host = host or TrainingHost(processes.device)
    if is_finished(config):
        host.notify(f"all {config.steps} steps are done; raise steps to go on")
        return result_folder(config)
    with torch.inference_mode(False), torch.enable_grad():
        trainer = JudgeTrainer(config, host, processes)
        host.notify(describe(trainer))
        dev = spread(trainer.splits["dev"], config.eval_pairs)
        check_pairs(trainer.data, [*trainer.splits["train"], *dev], config.view)
        trained = trained_parameters(trainer.judge.component.module, config)
        need = training_bytes(trainer.judge, config, trained.values())
        try:
            with host.resident(trainer.judge.component, activation_bytes=need):
                return _Run(trainer, on_record).train()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise NotEnoughMemory(memory_advice(config)) from error


def is_finished(config: JudgeTrainConfig) -> bool:
    """Whether the run with exactly this config is done; ValueError if the folder holds another."""
    folder = Path(config.run_folder)
    if not (folder / "config.json").is_file() or not result_folder(config).is_dir():
        return False
    RunDirectory(config)  # refuses another run's
    # A stop between the two leaves an older result beside the last checkpoint.
    step = saved_step(folder)
    return step >= config.steps and read_notes(result_folder(config)).get("steps") == step


def memory_advice(config: JudgeTrainConfig) -> str:
    """Say what to change when memory ran out."""
    return (
        "not enough memory to train the judge; what was done is saved and goes on with a smaller "
        f"micro_batch_size (now {config.micro_batch_size}) or gradient_checkpointing of blocks (now "
        f"{config.gradient_checkpointing}); a new run takes less with a smaller "
        f"max_pixels (now {config.max_pixels}), mode lora (now {config.mode}) or precision nf4 "
        f"(now {config.precision})"
    )


def describe(trainer: JudgeTrainer) -> str:
    """Say what there is to learn from."""
    splits = trainer.splits
    cells = Counter(f"{p.task.value} {p.dimension.value}" for p in splits["train"])
    counts = ", ".join(f"{name} {num}" for name, num in sorted(cells.items()))
    held_out = (
        f"{len(splits['dev'])} held out"
        if splits["dev"]
        else ("none held out: accuracy cannot be measured until there are more conditions")
    )
    return f"{len(splits['train'])} pairs to learn from ({counts}); {held_out}"


class _Run:
    """A run in progress."""

    def __init__(self, trainer: JudgeTrainer, on_record: OnRecord | None) -> None:
        self.trainer, self.config, self.host = trainer, trainer.config, trainer.host
        self.processes, self.on_record = trainer.processes, on_record
        self.losses: list[float] = []
        if self.processes.is_main:
            reset_if_not_started(self.config)
            self.folder = RunDirectory(self.config)
        self.processes.wait()
        if not self.processes.is_main:
            self.folder = RunDirectory(self.config)
        stored = initial_state(self.folder, self.config)
        if stored:
            trainer.restore(stored)
        if self.processes.is_main:
            # A kill leaves lines of steps that are now done again.
            self.folder.truncate_metrics(trainer.step)
        self.curve: list[Mapping[str, float]] = [*self.folder.read_metrics()]
        self.clock = Clock(self.config, stored.seconds if stored else 0.0)

    def train(self) -> Path:
        """Do the steps; save however they end."""
        try:
            while not self.processes.any(self.is_over()):
                self.losses.append(self.trainer.train_step())
                self.after_step()
        finally:
            # Half an optimiser's step is no state to go on from; the last checkpoint is.
            if self.trainer.step and not self.trainer.is_updating:
                self.save()
        self.processes.wait()
        return result_folder(self.config)

    def is_over(self) -> bool:
        """Whether all steps are done or the time is up."""
        return self.trainer.step >= self.config.steps or self.clock.is_over(self.trainer.step)

    def after_step(self) -> None:
        """Do what is due after a step: a line of the curve, a measurement, a checkpoint."""
        step = self.trainer.step
        is_last = step >= self.config.steps
        record: dict[str, float] = {}
        if (step % self.config.eval_every == 0 or is_last) and self.trainer.splits["dev"]:
            record = accuracies(self.trainer.report())
        if record or step % self.config.log_every == 0 or is_last:
            self.record(record)
        self.host.progress(step, self.config.steps, self.preview)
        if self.processes.any(self.clock.wants_checkpoint()):
            self.save()

    def record(self, measured: Mapping[str, float]) -> None:
        """Write a line of the curve, with the mean loss since the last one."""
        losses = [loss for part in self.processes.gather(self.losses) for loss in part]
        self.losses = []
        line = {"step": self.trainer.step, "seconds": round(self.clock.seconds(), 1)}
        line |= {"loss": round(sum(losses) / len(losses), 4), **measured}
        if not self.processes.is_main:
            return
        self.folder.append_metrics(line)
        self.curve.append(line)
        log.info("%s %s", self.folder.path.name, line)
        if self.on_record is not None:
            self.on_record(line)

    def preview(self) -> Tensor:
        """Draw the curve so far."""
        return plot_metrics(self.curve, self.config.steps)

    def save(self) -> None:
        """Write the checkpoint, and the result so far; not those of weights that are no numbers.

        Raises:
            OSError: The disk is full.
        """
        weights = self.trainer.parameters.values()
        if not self.processes.is_main or not all(torch.isfinite(w).all() for w in weights):
            return
        self.folder.save(self.trainer.train_state(self.clock.seconds()))
        try:
            self.trainer.export()
        except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
            raise OSError(
                f"cannot write {result_folder(self.config)} ({error}); free some space and run "
                "again: it goes on from the last checkpoint"
            ) from error


def accuracies(report: JudgeReport) -> dict[str, float]:
    """Return a report's accuracy over all pairs and per cell, for the curve."""
    cells = report.cells.items()
    num = sum(cell.num_pairs for _, cell in cells)
    mean = sum(cell.accuracy * cell.num_pairs for _, cell in cells) / num
    each = {f"{t.value}.{d.value}": round(cell.accuracy, 4) for (t, d), cell in cells}
    return {"accuracy": round(mean, 4), **each}
