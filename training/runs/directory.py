"""The directory of a training run: config, metrics and checkpoints that survive any stop.

::

    config.json              every setting; the run goes on with no others
    metrics.jsonl            {"step": 10, "seconds": 8.25, "loss": 0.693}, a line each
    checkpoint/state.json    {"step": 10, "seconds": 8.25}
    checkpoint/state.safetensors    weights, averages and optimiser state by name

Everything is replaced at once, as ``fill/io/writing.py`` says.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ...fill.io.files import load_tensors, write_text
from ...fill.io.json_text import (
    label_of,
    parse_object,
    quote,
    read_json,
    read_lines,
    read_text,
    shorten,
)
from ...fill.io.writing import (
    append_line,
    atomic_folder,
    folder_set_aside,
    make_folder,
    remove,
    sync_file,
)
from ...fill.json_config import make_record
from .config import RunConfig

_CHECKPOINT, _TENSORS, _STATE = "checkpoint", "state.safetensors", "state.json"
_METRICS = "metrics.jsonl"
_RUN_ADVICE = "restore the run's folder from a copy, or choose another"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainState:
    """What a run needs to go on exactly.

    Example: ``TrainState(step=10, seconds=8.25, tensors={"weights.a": weight})``.
    """

    step: int
    """Steps done."""
    seconds: float
    """Training time so far, over all stages."""
    tensors: dict[str, Tensor]
    """Weights, averages and optimiser state by name."""


class RunDirectory:
    """A run's folder; at every moment it holds one whole checkpoint or none.

    Example: ``RunDirectory(config).load()`` is the checkpoint of a run that was stopped.
    """

    def __init__(self, config: RunConfig) -> None:
        """Create the folder, or reopen it if it was made with the same config.

        What the config names in ``MAY_CHANGE`` may differ.

        Raises:
            ValueError: If the folder holds a run with another config.
        """
        self.path = Path(config.run_folder)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{label_of(self.path)} is a file; choose another run_folder")
        make_folder(self.path)
        stored = self.path / "config.json"
        before = read_text(stored) if stored.exists() else None
        if before is not None and (changes := _changed_settings(stored, config)):
            differences = ", ".join(
                f"{k}: {quote(old)} -> {quote(new)}" for k, (old, new) in changes.items()
            )
            raise ValueError(
                f"{label_of(self.path)} holds a run with other settings "
                f"({shorten(differences, 120)}); choose another run_folder or restore them"
            )
        if before != config.to_json():
            write_text(stored, config.to_json())

    def append_metrics(self, record: Mapping[str, float | str]) -> None:
        """Add a line to the metrics."""
        # Every step has one: they are brought to the disk with the checkpoint.
        append_line(self.path / _METRICS, json.dumps(dict(record)), is_durable=False)

    def read_metrics(self) -> list[dict[str, float]]:
        """Return all whole lines of the metrics."""
        lines = (line for _, line in read_lines(self.path / _METRICS))
        return [
            parse_object(line, allows_nan=True) for line in lines if math.isfinite(_step_of(line))
        ]

    def replace_metrics(self, records: Sequence[Mapping[str, float | str]]) -> None:
        """Write all lines of the metrics anew."""
        lines = (json.dumps(dict(record)) + "\n" for record in records)
        write_text(self.path / _METRICS, "".join(lines))

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`, where a run goes on, and one that a crash tore."""
        path = self.path / _METRICS
        if path.exists():
            lines = [line for _, line in read_lines(path)]
            write_text(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def save(self, state: TrainState) -> None:
        """Replace the checkpoint; a stop at any moment leaves the old one or the new one.

        Raises:
            WriteError: It cannot be written; the old one is whole.
        """
        if (self.path / _METRICS).exists():
            sync_file(self.path / _METRICS)
        with atomic_folder(self.path / _CHECKPOINT) as fresh:
            save_file(untie_shared_tensors(state.tensors), fresh / _TENSORS)
            progress = {"step": state.step, "seconds": state.seconds}
            (fresh / _STATE).write_text(json.dumps(progress), encoding="utf-8")

    def load(self) -> TrainState | None:
        """Return the checkpoint, or None if there is none yet."""
        checkpoint = _find_checkpoint(self.path)
        return load_state(checkpoint) if checkpoint else None


def saved_step(run: Path) -> int:
    """Return the step of a run folder's checkpoint, -1 if there is none; reads no tensor."""
    checkpoint = _find_checkpoint(run)
    return _read_progress(checkpoint)[0] if checkpoint else -1


def reset_if_not_started(config: RunConfig, *names: str) -> None:
    """Free the folder of a run that ended before its first checkpoint for other settings.

    Args:
        config: What is to be run there.
        *names: Names in the folder whose contents follow from the settings.
    """
    run, stored = Path(config.run_folder), Path(config.run_folder) / "config.json"
    is_unstarted = saved_step(run) < 0 and stored.exists()
    if is_unstarted and _changed_settings(stored, config):
        for name in (*names, stored.name):  # last the settings, which say what the others are
            remove(run / name)


def initial_state(folder: RunDirectory, config: RunConfig) -> TrainState | None:
    """Return what a run starts from: its own checkpoint, an earlier stage's at step 0, or None."""
    stored = folder.load()
    if stored is None and config.init_from:
        return replace(load_state(Path(config.init_from)), step=0, seconds=0.0)
    return stored


def load_state(folder: Path) -> TrainState:
    """Read a checkpoint folder."""
    if not (folder / _STATE).exists():
        raise FileNotFoundError(f"{label_of(folder)} is no checkpoint: it lacks {_STATE}")
    step, seconds = _read_progress(folder)
    tensors = load_tensors(folder / _TENSORS)
    if os.name == "nt":  # Windows replaces no file that is still mapped
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return TrainState(step=step, seconds=seconds, tensors=tensors)


def _find_checkpoint(run: Path) -> Path | None:
    current = run / _CHECKPOINT
    folders = (current, folder_set_aside(current), current.with_suffix(".old"))  # older versions'
    return next((folder for folder in folders if (folder / _STATE).exists()), None)


def _read_progress(checkpoint: Path) -> tuple[int, float]:
    """Return the steps and seconds of a checkpoint."""
    path = checkpoint / _STATE
    try:
        progress = make_record(_Progress, parse_object(read_text(path)))
        if not progress.step >= 0 or not progress.seconds >= 0:
            raise ValueError(f"step is {progress.step}, seconds {progress.seconds}")
    except ValueError as error:
        raise ValueError(f"{label_of(path)} cannot be used ({error}); {_RUN_ADVICE}") from error
    return progress.step, float(progress.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    step: int
    seconds: float


def _changed_settings(stored: Path, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    before, after = read_json(stored, _RUN_ADVICE), json.loads(config.to_json())
    # A run that was begun before a setting existed has had what is now its default.
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    before = {**{k: v for k, v in defaults.items() if after[k] == v}, **before}
    keys = sorted((before.keys() | after.keys()) - set(config.MAY_CHANGE))
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _step_of(line: str) -> float:
    """Return the step of a line of the metrics; infinity for one that a crash tore."""
    try:
        step: object = parse_object(line, allows_nan=True).get("step")
        return float(step) if isinstance(step, (int, float)) else math.inf
    except ValueError:
        return math.inf


def untie_shared_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which no two share memory; safetensors writes no others."""
    untied: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        contiguous = tensor.detach().contiguous()
        if contiguous.untyped_storage().data_ptr() in storages:
            contiguous = contiguous.clone()
        storages.add(contiguous.untyped_storage().data_ptr())
        untied[name] = contiguous
    return untied
