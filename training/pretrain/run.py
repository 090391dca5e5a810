"""The folder of a training run: its config, its curve, and checkpoints that survive any stop."""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import PhotoRunConfig, RunConfig

log = logging.getLogger("onereward.training")

_TENSORS, _STATE = "state.safetensors", "state.json"


class NotFinite(RuntimeError):  # noqa: N818 - the message says what to do
    """Learning has come to numbers that are none; the last good state is kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """What a run needs to go on exactly."""

    step: int
    """Steps done."""
    seconds: float
    """Training time so far, over all stages."""
    tensors: dict[str, Tensor]
    """Weights, averages and optimiser state by name."""


class RunFolder:
    """A run's folder; at every moment it holds one whole checkpoint or none."""

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
        if before is not None and (changed := _changed_settings(before, config)):
            differences = ", ".join(f"{k}: {old} -> {new}" for k, (old, new) in changed.items())
            raise ValueError(
                f"{self.path} holds a run with other settings ({differences}); "
                "choose another run_folder or restore them"
            )
        if before != config.to_json():
            write_text(stored, config.to_json())

    def append_curve(self, record: Mapping[str, float | str]) -> None:
        """Add a line to the curve."""
        with (self.path / "curve.jsonl").open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(dict(record)) + "\n")

    def read_curve(self) -> list[dict[str, float]]:
        """Return all whole lines of the curve."""
        path = self.path / "curve.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if math.isfinite(_step_of(line))]

    def cut_curve(self, step: int) -> None:
        """Drop the lines after `step`, where a run goes on, and one that a crash tore."""
        path = self.path / "curve.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(path, "".join(f"{line}\n" for line in kept))

    def save(self, snapshot: Snapshot) -> None:
        """Replace the checkpoint; a stop at any moment leaves the old one or the new one."""
        fresh, current = self.path / "checkpoint.new", self.path / "checkpoint"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            save_file(_apart(snapshot.tensors), fresh / _TENSORS)
            state = {"step": snapshot.step, "seconds": snapshot.seconds}
            write_text(fresh / _STATE, json.dumps(state))
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

    def load(self) -> Snapshot | None:
        """Return the checkpoint, or None if there is none yet."""
        for name in ("checkpoint", "checkpoint.old"):
            if (self.path / name / _STATE).exists():
                return load_snapshot(self.path / name)
        return None


def training_device(config: PhotoRunConfig) -> torch.device:
    """Return the device a config names; RuntimeError if this machine has none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "the config says device cuda, but PyTorch finds no GPU here; install a CUDA build of "
            "PyTorch or set device to cpu"
        )
    return torch.device(config.device)


def saved_step(run: Path) -> int:
    """Return the step of a run folder's checkpoint, -1 if there is none; reads no tensor."""
    for name in ("checkpoint", "checkpoint.old"):
        if (run / name / _STATE).exists():
            return int(json.loads((run / name / _STATE).read_text(encoding="utf-8"))["step"])
    return -1


def forget_unstarted(config: RunConfig, *made: str) -> None:
    """Free the folder of a run that ended before its first checkpoint for other settings.

    Args:
        config: What is to be run there.
        made: Names in the folder whose contents follow from the settings.
    """
    run, stored = Path(config.run_folder), Path(config.run_folder) / "config.json"
    is_unstarted = saved_step(run) < 0 and stored.exists()
    if is_unstarted and _changed_settings(stored.read_text(encoding="utf-8"), config):
        for name in (*made, stored.name):  # last the settings, which say what the others are
            remove(run / name)


def first_snapshot(folder: RunFolder, config: RunConfig) -> Snapshot | None:
    """Return what a run starts from: its own checkpoint, an earlier stage's at step 0, or None."""
    stored = folder.load()
    if stored is None and config.init_from:
        return replace(load_snapshot(Path(config.init_from)), step=0, seconds=0.0)
    return stored


def load_snapshot(folder: Path) -> Snapshot:
    """Read a checkpoint folder."""
    if not (folder / _STATE).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it lacks {_STATE}")
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    tensors = load_file(folder / _TENSORS)
    if os.name == "nt":  # Windows replaces no file that is still mapped
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return Snapshot(tensors=tensors, **state)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file at once; several processes may write the same one.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(kept, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path} ({error}); free some space and run again") from error


def write_text(path: Path, text: str) -> None:
    """Write a file at once: readers see the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def remove(path: Path) -> None:
    """Delete a file, or a folder with what is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_by_copy(source: Path, target: Path) -> None:
    """Replace a file or folder by a copy of another; a stop in between leaves one of them whole."""
    fresh = target.with_name(target.name + ".new")
    remove(fresh)
    (shutil.copytree if source.is_dir() else shutil.copy)(source, fresh)
    if target.is_dir():
        remove(target)
    fresh.replace(target)


def _changed_settings(stored: str, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    before, after = json.loads(stored), json.loads(config.to_json())
    keys = sorted((before.keys() | after.keys()) - set(config.MAY_CHANGE))
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _step_of(line: str) -> float:
    """Return the step of a curve's line; infinity for one that a crash tore."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


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

    def snapshot(self, seconds: float) -> Snapshot:
        """Return what the run needs to go on."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        ...


def run_stage(
    folder: RunFolder,
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
    stored = first_snapshot(folder, config)
    if stored:
        trainer.restore(stored)
    folder.cut_curve(trainer.step)  # a kill leaves lines of steps that are now done again
    clock = Clock(config, stored.seconds if stored else 0.0)
    losses: list[float] = []
    while trainer.step < steps and not clock.is_over(trainer.step):
        losses.append(trainer.train_step())
        if trainer.step % config.log_every == 0:
            loss = round(sum(losses) / len(losses), 4)
            record = {"step": trainer.step, "seconds": round(clock.seconds(), 1), "loss": loss}
            record |= measure()
            folder.append_curve(record)
            log.info("%s %s", folder.path.name, record)
            losses = []
        if clock.wants_checkpoint():
            folder.save(trainer.snapshot(clock.seconds()))
    folder.save(trainer.snapshot(clock.seconds()))


def flatten_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimiser's state as `prefix.<parameter>.<name>`, longer for what is nested.

    bitsandbytes nests its state, counts steps in a Python number, and shares one table among all.
    """
    return _flat(optimizer.state_dict()["state"], prefix)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Load what `flatten_optimizer` returned into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            index, *path, name = key[len(prefix) + 1 :].split(".")
            place = state.setdefault(int(index), {})
            for part in path:
                place = place.setdefault(part, {})
            # PyTorch's own optimisers count in floats: a whole number was a Python number.
            is_int = value.ndim == 0 and value.dtype == torch.int64
            place[name] = int(value) if is_int else value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _flat(value: Any, name: str) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {name: value if isinstance(value, Tensor) else torch.tensor(value)}
    parts = [_flat(inner, f"{name}.{key}") for key, inner in value.items()]
    return {key: tensor for part in parts for key, tensor in part.items()}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which no two share memory; safetensors writes no others."""
    made: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        kept = tensor.detach().contiguous()
        if kept.untyped_storage().data_ptr() in seen:
            kept = kept.clone()
        seen.add(kept.untyped_storage().data_ptr())
        made[name] = kept
    return made
