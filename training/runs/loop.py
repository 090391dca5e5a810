"""The loop of a training run: when it stops, logs, measures and saves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from .config import RunConfig
from .directory import RunDirectory, TrainState, initial_state

log = logging.getLogger("onereward.training")


class NonFiniteError(RuntimeError):  # noqa: N818 - the message says what to do
    """Learning has come to numbers that are none; the last good state is kept."""


def step_generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """Return the generator of one step: a run that stopped and went on draws the same numbers."""
    mixed = (seed * 1_000_003 + step) * 16 + purpose
    return torch.Generator().manual_seed(mixed % 2**63)


class Clock:
    """Says when to stop, and when to write a checkpoint."""

    def __init__(self, config: RunConfig, seconds_before: float) -> None:
        self._start = self._last_save = time.monotonic()
        self._config = config
        self._before = seconds_before

    def seconds(self) -> float:
        """Training time so far, over all stages."""
        return self._before + time.monotonic() - self._start

    def is_over(self, step: int) -> bool:
        """Whether this stage ends before `step`."""
        return 0 < self._config.stop_step <= step or self.is_out_of_time()

    def is_out_of_time(self) -> bool:
        """Whether this run has had its minutes."""
        return time.monotonic() - self._start > 60 * self._config.max_minutes

    def wants_checkpoint(self) -> bool:
        """Whether the last checkpoint is old; a yes starts the next interval."""
        now = time.monotonic()
        if now - self._last_save < 60 * self._config.checkpoint_minutes:
            return False
        self._last_save = now
        return True


class Trainer(Protocol):
    """What a stage needs of the thing it trains."""

    @property
    def step(self) -> int:
        """Steps done."""
        ...

    def train_step(self) -> float:
        """Do one step; return the loss."""
        ...

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        ...

    def restore(self, state: TrainState) -> None:
        """Go on from there."""
        ...


def run_stage(
    folder: RunDirectory,
    trainer: Trainer,
    config: RunConfig,
    steps: int,
    measure: Callable[[], Mapping[str, float]],
) -> None:
    """Train until done or out of time, from the last checkpoint on; end with a checkpoint.

    Args:
        folder: Where the run lives.
        trainer: What is trained.
        config: Times and intervals.
        steps: The whole run's.
        measure: Called for every line of the curve, after the step it belongs to.
    """
    stored = initial_state(folder, config)
    if stored:
        trainer.restore(stored)
    folder.truncate_metrics(trainer.step)  # a kill leaves lines of steps that are now done again
    clock = Clock(config, stored.seconds if stored else 0.0)
    losses: list[float] = []
    while trainer.step < steps and not clock.is_over(trainer.step):
        losses.append(trainer.train_step())
        if trainer.step % config.log_every == 0:
            loss = round(sum(losses) / len(losses), 4)
            record = {"step": trainer.step, "seconds": round(clock.seconds(), 1), "loss": loss}
            record |= measure()
            folder.append_metrics(record)
            log.info("%s %s", folder.path.name, record)
            losses = []
        if clock.wants_checkpoint():
            folder.save(trainer.train_state(clock.seconds()))
    folder.save(trainer.train_state(clock.seconds()))
