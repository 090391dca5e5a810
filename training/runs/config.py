"""What every training run sets, and the checks that their configs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...fill.json_config import JsonConfig

OFF, BLOCKS = "off", "blocks"
"""Gradient checkpointing: activations are kept, or computed again block by block."""


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(JsonConfig):
    """What every training run has.

    Example: ``RunConfig(run_folder="runs/a", seed=1, max_minutes=30.0)``.
    """

    MAY_CHANGE: ClassVar[tuple[str, ...]] = ()
    """Settings that may differ when a run goes on."""

    run_folder: str
    """Where checkpoints and metrics go; created if absent."""
    seed: int = 0
    """Decides weights, data order and noise."""
    threads: int = 1
    """CPU threads."""
    init_from: str = ""
    """Checkpoint folder of an earlier stage to start from, optimiser included; empty: fresh."""
    stop_step: int = 0
    """Ends this stage early, where a next one begins from its checkpoint; 0 does not."""
    max_minutes: float = 60.0
    """Stops with a checkpoint after this time; the same command goes on from there."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints."""
    log_every: int = 100
    """Steps between two lines of the metrics."""

    def __post_init__(self) -> None:
        require(bool(self.run_folder), "run_folder is empty; name a folder for the run")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; use 0 to 2147483647")
        require(self.threads >= 1, f"threads is {self.threads}; use at least 1")
        require(self.stop_step >= 0, f"stop_step is {self.stop_step}; use 0 or more")
        require(self.max_minutes > 0, f"max_minutes is {self.max_minutes}; use more than 0")
        require(self.log_every >= 1, f"log_every is {self.log_every}; use at least 1")
        JsonConfig.__post_init__(self)


def check_alpha_and_rate(alpha: float, learning_rate: float) -> None:
    """Raise ValueError for what is below 0 and not -1, which is the usual value; alpha is not 0."""
    require(
        alpha > 0 or alpha == -1,
        f"alpha is {alpha}, but more than 0, or -1 for the rank, is expected",
    )
    require(
        learning_rate >= 0 or learning_rate == -1,
        f"learning_rate is {learning_rate}; use 0 or more, or -1 for the usual one",
    )
