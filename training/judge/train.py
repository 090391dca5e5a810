"""Teach a judge preferences: eq. 3 of OneReward, an adapter or all weights.

`onereward train-judge config.json`, in one process or under `accelerate launch`. A line of the
run's ``metrics.jsonl``, the accuracies only where it was evaluated::

    {"step": 100, "seconds": 81.4, "loss": 0.6121, "accuracy": 0.7031, "fill.structure": 0.7031}
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.io.folder_lock import folder_lock, put_right
from ...fill.memory.plan import explain_out_of_memory
from ...reward.report import JudgeReport
from ...reward.vlm.adapter import read_notes
from ..charts.dashboard import plot_judge_dashboard
from ..runs.directory import RunDirectory, reset_if_not_started, saved_step
from ..runs.distributed import Distributed
from ..runs.hosts import TrainingHost
from ..runs.loop import RunLoop
from .config import JudgeTrainConfig
from .memory import training_bytes
from .pairs import check_pairs, spread
from .trainer import JudgeTrainer, result_folder, trained_parameters

log = logging.getLogger("onereward.training")

OnRecord = Callable[[Mapping[str, float]], None]
"""Called with every line of the metrics."""


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
        FolderInUse: Another process trains in this folder.
        NotEnoughMemory: It does not fit; says what to change.
        WriteError: The disk is full; the last checkpoint is whole.
    """
    processes = processes or Distributed()
    host = host or TrainingHost(processes.device)
    if processes.is_main:
        put_right(Path(config.run_folder))
    if is_finished(config):
        host.notify(f"all {config.steps} steps are done; raise steps to go on")
        return result_folder(config)
    # ComfyUI's nodes run in inference mode; weights that were made there cannot learn.
    with (
        folder_lock(Path(config.run_folder)) if processes.is_main else nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        trainer = JudgeTrainer(config, host, processes)
        host.notify(describe(trainer))
        dev = spread(trainer.splits["dev"], config.eval_pairs)
        check_pairs(trainer.data, [*trainer.splits["train"], *dev], config.view)
        # The steps, with the judge on the device.
        trained = trained_parameters(trainer.judge.component.module, config)
        need = training_bytes(trainer.judge, config, trained.values())
        with (
            explain_out_of_memory(memory_advice(config)),
            host.resident(trainer.judge.component, activation_bytes=need),
        ):
            JudgeRun(trainer, on_record).run()
        processes.wait()
        return result_folder(config)


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
    """Return what to change when memory ran out."""
    return (
        "not enough memory to train the judge; what was done is saved and goes on with a smaller "
        f"micro_batch_size (now {config.micro_batch_size}) or gradient_checkpointing of blocks "
        f"(now {config.gradient_checkpointing}); a new run takes less with a smaller max_pixels "
        f"(now {config.max_pixels}), mode lora (now {config.mode}) or precision nf4 (now "
        f"{config.precision})"
    )


def describe(trainer: JudgeTrainer) -> str:
    """Return a line about what there is to learn from."""
    splits = trainer.splits
    cells = Counter(f"{p.task.value} {p.dimension.value}" for p in splits["train"])
    counts = ", ".join(f"{name} {num}" for name, num in sorted(cells.items()))
    held_out = (
        f"{len(splits['dev'])} held out"
        if splits["dev"]
        else ("none held out: accuracy cannot be measured until there are more conditions")
    )
    return f"{len(splits['train'])} pairs to learn from ({counts}); {held_out}"


class JudgeRun(RunLoop[JudgeTrainer]):
    """A run of the judge's training in progress.

    Example: ``JudgeRun(JudgeTrainer(config)).run()``.
    """

    def __init__(self, trainer: JudgeTrainer, on_record: OnRecord | None = None) -> None:
        config, processes = trainer.config, trainer.processes
        if processes.is_main:
            reset_if_not_started(config)
        else:
            processes.wait()  # for the folder
        directory = RunDirectory(config)
        if processes.is_main:
            processes.wait()
        super().__init__(directory, trainer, config.steps, processes)
        self.config, self.host, self.on_record = config, trainer.host, on_record

    def before_first_step(self) -> None:
        """Evaluate, where a stop has cut an evaluation short."""
        line = self.metrics[-1] if self.metrics else {}
        is_missing = self.trainer.step > 0 and self.is_eval_due() and "accuracy" not in line
        if self.processes.any(is_missing):
            self.write_metrics(self.evaluate())

    def is_line_due(self) -> bool:
        """Whether to write a line: every few steps, with every evaluation, and at the end."""
        is_last = self.trainer.step >= self.steps
        return super().is_line_due() or self.is_eval_due() or is_last

    def is_eval_due(self) -> bool:
        """Whether held-out pairs are asked about after the step just done."""
        step = self.trainer.step
        is_due = step % self.config.eval_every == 0 or step >= self.steps
        return is_due and bool(self.trainer.splits["dev"])

    def evaluate(self) -> dict[str, float]:
        """Return held-out accuracies; every process asks about its share."""
        return accuracies(self.trainer.report())

    def report(self) -> None:
        """Show a line of the metrics, and the progress."""
        super().report()
        if self.is_line_due() and self.on_record is not None:
            self.on_record(self.metrics[-1])
        self.host.progress(self.trainer.step, self.steps, self.dashboard)

    def dashboard(self) -> Tensor:
        """Draw the metrics so far."""
        return plot_judge_dashboard(self.metrics, self.steps)

    def save(self) -> None:
        """Write the checkpoint, and the result so far; not those of weights that are not finite.

        Raises:
            WriteError: The disk is full; the last checkpoint is whole.
        """
        weights = self.trainer.parameters.values()
        is_worth_it = self.trainer.step > 0 and self.processes.is_main
        if not is_worth_it or not all(torch.isfinite(w).all() for w in weights):
            return
        super().save()
        self.trainer.export()


def accuracies(report: JudgeReport) -> dict[str, float]:
    """Return a report's accuracy over all pairs and per cell, for the metrics."""
    cells = report.cells.items()
    num = sum(cell.num_pairs for _, cell in cells)
    mean = sum(cell.accuracy * cell.num_pairs for _, cell in cells) / num
    by_cell = {f"{t.value}.{d.value}": round(cell.accuracy, 4) for (t, d), cell in cells}
    return {"accuracy": round(mean, 4), **by_cell}
