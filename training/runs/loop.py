"""The loop of every training run: when it stops, logs, evaluates and saves.

:class:`RunLoop` is the one loop of judge runs, policy runs and laboratory runs. What differs
between them are its hooks: what a step is, which metrics are written, what an evaluation measures.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import torch

from .config import RunConfig
from .directory import RunDirectory, TrainState, initial_state
from .distributed import Distributed
from .run_requests import EVALUATE, STOP, forget_all, take

log = logging.getLogger("onereward.training")


class NonFiniteError(RuntimeError):
    """A loss or a gradient is not finite; the last checkpoint is good."""


class DivergedError(RuntimeError):
    """The loss has grown out of all proportion: what is trained is being destroyed."""


TRAINING_ERRORS = (NonFiniteError, DivergedError)
DIVERGED = 20.0
"""A loss this many times that of the start, for some lines of the metrics, is no learning."""
SMALLEST_LOSS = 0.05
"""A start's loss counts as at least this: some begin at 0."""
FIRST_LINES, LAST_LINES = 5, 3
"""Lines of the metrics that are compared, by their medians: a single outlier stops nothing."""


def divergence(losses: Sequence[float]) -> str:
    """Return a sentence if the last losses of a run are far above its first, else nothing.

    Args:
        losses: Of a whole run, in order.

    Example: ``divergence([0.7] * 5 + [49.0] * 3)``.
    """
    if len(losses) < FIRST_LINES + LAST_LINES:
        return ""
    start = max(statistics.median(losses[:FIRST_LINES]), SMALLEST_LOSS)
    end = statistics.median(losses[-LAST_LINES:])
    if end <= DIVERGED * start:
        return ""
    return (
        f"the loss has grown from {start:.3g} to {end:.3g}, so the training does harm; start a run "
        "under another name with a lower learning_rate (a tenth), or a lower max_grad_norm"
    )


def step_generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """Return the generator of one step: a run that stopped and went on draws the same numbers."""
    mixed = (seed * 1_000_003 + step) * 16 + purpose
    return torch.Generator().manual_seed(mixed % 2**63)


def warmup_scale(step: int, num_steps: int) -> float:
    """Return the share of the learning rate at a step of a linear warm-up over `num_steps`."""
    return min(1.0, (step + 1) / max(1, num_steps))


class Trainer(Protocol):
    """What the loop needs of the thing it trains; each kind has a ``train_step`` of its own."""

    @property
    def config(self) -> RunConfig:
        """Times and intervals."""
        ...

    @property
    def step(self) -> int:
        """Steps done."""
        ...

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        ...

    def restore(self, state: TrainState) -> None:
        """Go on from there."""
        ...


_Trainer = TypeVar("_Trainer", bound=Trainer)


class RunLoop(Generic[_Trainer]):
    """One run: goes on from its checkpoint, does the steps, keeps the work however they end.

    The methods below :meth:`seconds` are hooks; as they are they suit a trainer whose
    ``train_step`` returns the loss.

    Example: ``RunLoop(RunDirectory(config), trainer, config.steps).run()``.
    """

    def __init__(
        self,
        directory: RunDirectory,
        trainer: _Trainer,
        steps: int,
        processes: Distributed | None = None,
    ) -> None:
        """Restore the run's checkpoint, or the one that its config names as the start.

        Args:
            directory: Where the run lives.
            trainer: What is trained.
            steps: Steps of the whole run.
            processes: Those that take part; they stop together.
        """
        self.directory, self.trainer, self.steps = directory, trainer, steps
        self.processes = processes or Distributed()
        self.records: list[Any] = []
        """What the steps since the last line of the metrics returned."""
        stored = self.initial_state()
        if stored:
            self.restore(stored)
        if self.processes.is_main:
            # A kill leaves lines of steps that are now done again.
            directory.truncate_metrics(trainer.step)
            forget_all(directory.path)
        self.was_asked_to_stop = False
        self.metrics: list[dict[str, float]] = directory.read_metrics()
        self._seconds_before = stored.seconds if stored else 0.0
        self._start = self._last_save = time.monotonic()

    def run(self) -> None:
        """Do the steps that are left; save however they end, if the state can be gone on from."""
        try:
            self.before_first_step()
            while not self.processes.any(self.is_over() or self.is_asked_to_stop()):
                self.records.append(self.train_step())
                if self.is_line_due():
                    self.write_metrics(self.step_metrics())
                    self.records = []
                    self._check_divergence()
                if self.is_eval_due() or self.is_asked_to_evaluate():
                    self.write_metrics(self.evaluate())
                if self.processes.is_main:
                    self.report()
                if self.processes.any(self._is_checkpoint_due()):
                    self.save()
        except BaseException:
            if self.can_save_after_error:
                if self.metrics and self.processes.is_main:  # a line of theirs may have failed
                    self.directory.replace_metrics(self.metrics)
                self.save()
            raise
        if self.processes.is_main:
            forget_all(self.directory.path)
        self.save()

    def is_asked_to_stop(self) -> bool:
        """Whether somebody has asked this run to end now, with its work kept."""
        if self.takes_request(STOP):
            self.was_asked_to_stop = True
        return self.was_asked_to_stop

    def is_asked_to_evaluate(self) -> bool:
        """Whether somebody has asked for an evaluation; all processes take part in it."""
        return self.processes.any(self.takes_request(EVALUATE))

    def takes_request(self, request: str) -> bool:
        """Whether the first process has been asked for something since the last look."""
        return self.processes.is_main and take(self.directory.path, request)

    def write_metrics(self, values: Mapping[str, float]) -> None:
        """Write metrics of the step just done, in one line with what was written of it before."""
        if not self.processes.is_main:
            return
        step = self.trainer.step
        line = {"step": step, "seconds": round(self.seconds, 2)}
        if self.metrics and self.metrics[-1]["step"] == step:
            self.metrics[-1] = {**self.metrics[-1], **values}
            self.directory.replace_metrics(self.metrics)
        else:
            self.metrics.append({**line, **values})
            self.directory.append_metrics(self.metrics[-1])

    def _check_divergence(self) -> None:
        """Stop all processes where training does harm; only the first has the metrics."""
        sentence = divergence([line["loss"] for line in self.metrics if "loss" in line])
        if self.processes.any(bool(sentence)):
            raise DivergedError(sentence or "another process found that the loss diverges")

    def _is_checkpoint_due(self) -> bool:
        """Whether the last checkpoint is old; a yes starts the next interval."""
        now = time.monotonic()
        if now - self._last_save < 60 * self.trainer.config.checkpoint_minutes:
            return False
        self._last_save = now
        return True

    @property
    def is_out_of_time(self) -> bool:
        """Whether this run has had its minutes."""
        return time.monotonic() - self._start > 60 * self.trainer.config.max_minutes

    @property
    def seconds(self) -> float:
        """Training time so far, over all stages."""
        return self._seconds_before + time.monotonic() - self._start

    def initial_state(self) -> TrainState | None:
        """Return what the run goes on from; None: it begins."""
        return initial_state(self.directory, self.trainer.config)

    def restore(self, state: TrainState) -> None:
        """Go on from a checkpoint."""
        self.trainer.restore(state)

    def before_first_step(self) -> None:
        """Do what has to be made up for after a stop."""

    def is_over(self) -> bool:
        """Whether this process has a reason to stop: all steps are done, or the time is up."""
        step, stop_step = self.trainer.step, self.trainer.config.stop_step
        return step >= self.steps or 0 < stop_step <= step or self.is_out_of_time

    def train_step(self) -> Any:
        """Do one step; return what :meth:`step_metrics` makes metrics of."""
        trainer: Any = self.trainer
        return trainer.train_step()

    def is_line_due(self) -> bool:
        """Whether the step just done gets a line of the metrics."""
        return self.trainer.step % self.trainer.config.log_every == 0

    def step_metrics(self) -> Mapping[str, float]:
        """Return the mean loss since the last line, of all processes; for all of them to call."""
        losses = list(chain(*self.processes.gather(self.records)))
        return {"loss": round(sum(losses) / len(losses), 4)}

    def is_eval_due(self) -> bool:
        """Whether to evaluate after the step just done."""
        return False

    def evaluate(self) -> Mapping[str, float]:
        """Return the metrics of an evaluation on held-out data."""
        return {}

    def report(self) -> None:
        """Tell of the step just done; called in the first process."""
        if self.is_line_due():
            log.info("%s %s", self.directory.path.name, self.metrics[-1])

    def save(self) -> None:
        """Write the checkpoint, and what else is kept."""
        self.directory.save(self.trainer.train_state(self.seconds))

    @property
    def can_save_after_error(self) -> bool:
        """Whether the trainer says that no optimiser's step was cut in half."""
        return not getattr(self.trainer, "is_updating", True)
