"""The directory of a training run: config, metrics and checkpoints that survive any stop.

::

    config.json              every setting; the run goes on with no others
    metrics.jsonl            {"step": 10, "seconds": 8.25, "loss": 0.693}, a line each
    checkpoint/state.json    {"step": 10, "seconds": 8.25}
    checkpoint/state.safetensors    weights, averages and optimiser state by name

While a checkpoint is replaced it is called ``checkpoint.old``, and the new one ``checkpoint.new``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...fill.io.files import write_text
from .config import RunConfig
from .files import remove

_TENSORS, _STATE = "state.safetensors", "state.json"


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
        self.path.mkdir(parents=True, exist_ok=True)
        stored = self.path / "config.json"
        before = stored.read_text(encoding="utf-8") if stored.exists() else None
        if before is not None and (changes := _changed_settings(before, config)):
            differences = ", ".join(f"{k}: {old} -> {new}" for k, (old, new) in changes.items())
            raise ValueError(
                f"{self.path} holds a run with other settings ({differences}); "
                "choose another run_folder or restore them"
            )
        if before != config.to_json():
            write_text(stored, config.to_json())

    def append_metrics(self, record: Mapping[str, float | str]) -> None:
        """Add a line to the metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """Return all whole lines of the metrics."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if math.isfinite(_step_of(line))]

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`, where a run goes on, and one that a crash tore."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_text(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def save(self, state: TrainState) -> None:
        """Replace the checkpoint; a stop at any moment leaves the old one or the new one."""
        fresh, current = self.path / "checkpoint.new", self.path / "checkpoint"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            save_file(untie_shared_tensors(state.tensors), fresh / _TENSORS)
            progress = {"step": state.step, "seconds": state.seconds}
            write_text(fresh / _STATE, json.dumps(progress))
        except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
            shutil.rmtree(fresh, ignore_errors=True)
            raise OSError(
                f"cannot write a checkpoint to {self.path} ({error}); free some space and run "
                "the same command again: it goes on from the last checkpoint"
            ) from error
        old = self.path / "checkpoint.old"
        shutil.rmtree(old, ignore_errors=True)
        if current.exists():
            current.rename(old)
        fresh.rename(current)
        shutil.rmtree(old, ignore_errors=True)

    def load(self) -> TrainState | None:
        """Return the checkpoint, or None if there is none yet."""
        checkpoint = _find_checkpoint(self.path)
        return load_state(checkpoint) if checkpoint else None


def saved_step(run: Path) -> int:
    """Return the step of a run folder's checkpoint, -1 if there is none; reads no tensor."""
    checkpoint = _find_checkpoint(run)
    return int(_read_progress(checkpoint)["step"]) if checkpoint else -1


def reset_if_not_started(config: RunConfig, *names: str) -> None:
    """Free the folder of a run that ended before its first checkpoint for other settings.

    Args:
        config: What is to be run there.
        *names: Names in the folder whose contents follow from the settings.
    """
    run, stored = Path(config.run_folder), Path(config.run_folder) / "config.json"
    is_unstarted = saved_step(run) < 0 and stored.exists()
    if is_unstarted and _changed_settings(stored.read_text(encoding="utf-8"), config):
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
    if not (folder / _STATE).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it lacks {_STATE}")
    tensors = load_file(folder / _TENSORS)
    if os.name == "nt":  # Windows replaces no file that is still mapped
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return TrainState(tensors=tensors, **_read_progress(folder))


def _find_checkpoint(run: Path) -> Path | None:
    folders = (run / "checkpoint", run / "checkpoint.old")
    return next((folder for folder in folders if (folder / _STATE).exists()), None)


def _read_progress(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))


def _changed_settings(stored: str, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    before, after = json.loads(stored), json.loads(config.to_json())
    keys = sorted((before.keys() | after.keys()) - set(config.MAY_CHANGE))
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _step_of(line: str) -> float:
    """Return the step of a line of the metrics; infinity for one that a crash tore."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
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
