"""Base classes of configs that read and write JSON, and what every training run sets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...fill.config import check_types

_FORMAT = 1
OFF, BLOCKS = "off", "blocks"
"""Gradient checkpointing: activations are kept, or computed again block by block."""


_Config = TypeVar("_Config", bound="JsonConfig")


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonConfig:
    """A config that reads and writes JSON; unknown keys are an error that names them."""

    def to_json(self) -> str:
        """Return every value, defaults too, as JSON text."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=2)

    @classmethod
    def from_json(cls: type[_Config], text: str) -> _Config:
        """Parse JSON text.

        Raises:
            ValueError: If the text is no JSON object, a newer version's, has unknown keys or an
                impossible value.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the config is not JSON: {error}") from error
        require(isinstance(values, dict), "the config is not a JSON object of settings")
        found = values.pop("format", _FORMAT)
        require(
            found == _FORMAT,
            f"config format is {found}, but this version reads {_FORMAT}; update this pack, or let "
            "a node of this version write the config",
        )
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        require(
            not unknown,
            f"unknown settings {unknown}; correct or remove them, or update this pack if a newer "
            "version wrote the config",
        )
        missing = [f.name for f in dataclasses.fields(cls) if _is_required(f)]
        absent = sorted(set(missing) - set(values))
        require(not absent, f"settings {absent} are missing; {cls.__name__} needs them")
        check_types(cls, values)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    @classmethod
    def load(cls: type[_Config], path: Path) -> _Config:
        """Read a config file."""
        if not path.is_file():
            raise FileNotFoundError(f"there is no config file {path}")
        return cls.from_json(path.read_text())


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(JsonConfig):
    """What every training run has."""

    MAY_CHANGE: ClassVar[tuple[str, ...]] = ()
    """Settings that may differ when a run goes on."""

    run_folder: str
    """Where checkpoints and the curve go; created if absent."""
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
    """Steps between two lines of the curve."""

    def __post_init__(self) -> None:
        require(bool(self.run_folder), "run_folder is empty; name a folder for the run")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; use 0 to 2147483647")
        require(self.threads >= 1, f"threads is {self.threads}; use at least 1")
        require(self.stop_step >= 0, f"stop_step is {self.stop_step}; use 0 or more")
        require(self.max_minutes > 0, f"max_minutes is {self.max_minutes}; use more than 0")
        require(self.log_every >= 1, f"log_every is {self.log_every}; use at least 1")


def check_learning_rate(learning_rate: float) -> None:
    """Raise ValueError for a rate that is neither 0 or more nor -1, the usual one."""
    require(
        learning_rate >= 0 or learning_rate == -1,
        f"learning_rate is {learning_rate}; use 0 or more, or -1 for the usual one",
    )


def check_alpha(alpha: float) -> None:
    """Raise ValueError for an alpha that is neither more than 0 nor -1, the rank."""
    require(
        alpha > 0 or alpha == -1,
        f"alpha is {alpha}, but more than 0, or -1 for the rank, is expected",
    )
