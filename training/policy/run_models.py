"""A policy's run from outside: its models, whether they are those that it began with, its result.

Settings only name folders; ``inputs.json`` in the run folder says what was in them. With a judge
that was trained further in between, a run would be half one thing and half another, and its record
would name neither::

    {
      "the fill model": "5d0c2e...",
      "the list of conditions in data/edits": "81ffa0...",
      "the cells that reach min_judge_accuracy": "0b3c77...",
      "judge 1 (my-judge)": "c4d9e1..."
    }
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...fill.fingerprint import fingerprint
from ...fill.io.file_digest import fingerprint_files
from ...fill.io.files import write_text
from ...fill.io.json_text import label_of, read_json, shorten
from ...fill.io.writing import recover
from ...fill.models import FillModels, load_fill_models
from ...reward.judge import Judge
from ...reward.load_judge import load_judge
from ...reward.preference import PAIRS
from ..data.conditions import FILE_NAME, read_image
from ..runs.directory import RunDirectory, reset_if_not_started, saved_step
from .config import DPO, LORA, PolicyTrainConfig
from .reward_cells import RewardCells
from .rewards import RewardFactory

ADAPTER, TRANSFORMER = "adapter.safetensors", "transformer"
"""The result in the run folder: a LoRA, or a transformer's folder."""
DASHBOARD = "dashboard.png"
"""Metrics and images in the run folder, as of the last checkpoint."""
INPUTS = "inputs.json"
"""In the run folder: name of what the run began with, to its digest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunModels:
    """The models of a run; a node hands over what is connected to it.

    Example: ``RunModels(models=load_fill_models(model_config, device), judges=(judge,))``.
    """

    models: FillModels
    judges: tuple[Judge, ...] = ()
    eval_judge: Judge | None = None
    reward: RewardFactory | None = None
    """Takes the place of the judges in a run with ``external_reward``."""

    @property
    def all_judges(self) -> tuple[Judge, ...]:
        """Those that reward, then the one that only evaluates."""
        return (*self.judges, *([self.eval_judge] if self.eval_judge else []))


def load(
    config: PolicyTrainConfig, device: torch.device, poll: Callable[[], None] = lambda: None
) -> RunModels:
    """Check all models of a run; no weight is read yet.

    Args:
        config: Names them.
        device: Where they will run.
        poll: Called while a judge's server is waited for; raises to cancel.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: Something does not fit together.
        JudgeError: A judge cannot answer Yes and No.
    """
    models = load_fill_models(config.model_config(), device)
    for path, strength in zip(config.adapters, config.strengths, strict=True):
        models = models.with_adapter(Path(path), strength)
    judges = tuple(load_judge(judge, device, poll) for judge in config.judges)
    eval_judge = load_judge(config.eval_judge, device, poll) if config.eval_judge else None
    return RunModels(models=models, judges=judges, eval_judge=eval_judge)


def input_digests(
    config: PolicyTrainConfig, run_models: RunModels, cells: RewardCells
) -> dict[str, str]:
    """Return a digest of everything that a run's result follows from and its config only names.

    Of the conditions their list counts, not the images it names; of the judges' reports, which
    cells they let take part.

    Raises:
        OSError: A file is gone.
    """
    preferences = Path(config.preferences_folder) / PAIRS
    names = sorted(f"{task.value}.{dimension.value}" for task, dimension in cells.cells)
    conditions = Path(config.dataset_folder)
    return {
        "the fill model": fingerprint(run_models.models),
        f"the list of conditions in {conditions}": fingerprint_files([conditions / FILE_NAME]),
        "the cells that reach min_judge_accuracy": fingerprint_files([], *names),
        **(
            {f"the list of pairs in {config.preferences_folder}": fingerprint_files([preferences])}
            if config.objective == DPO
            else {}
        ),
        **{
            f"judge {index} ({judge.label})": judge.digest
            for index, judge in enumerate(run_models.all_judges, 1)
        },
    }


def write_inputs(run: Path, digests: Mapping[str, str]) -> None:
    """Write down what a run begins with."""
    write_text(run / INPUTS, json.dumps(dict(digests), indent=2) + "\n")


def check_inputs(run: Path, digests: Mapping[str, str]) -> None:
    """Let a run go on with what it began with, and with nothing else.

    Runs that wrote nothing down go on with anything.

    Raises:
        ValueError: Something has changed; names it.
    """
    path = run / INPUTS
    before = read_json(path, "choose another run folder") if path.exists() else digests
    changes = [name for name in before if before[name] != digests.get(name)]
    if changes:
        raise ValueError(
            f"since {label_of(run)} was begun, {shorten(' and '.join(changes), 120)} changed; "
            "choose another run folder (another name on the node), or put the old files back"
        )


def open_directory(
    config: PolicyTrainConfig, run_models: RunModels, cells: RewardCells, is_main: bool
) -> RunDirectory:
    """Open a run's folder; ValueError if it holds a run with other settings, models or data."""
    if is_main:
        for folder in Path(config.run_folder).glob("*/"):
            recover(folder)
        reset_if_not_started(config, "prompts", "references", "results", "samples")
    directory = RunDirectory(config)
    digests = input_digests(config, run_models, cells)
    if is_main and saved_step(directory.path) < 0:
        write_inputs(directory.path, digests)
    check_inputs(directory.path, digests)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyResult:
    """What a run has come to.

    Example: ``models.with_adapter(train_policy(config, host).path, 1.0)``.
    """

    path: Path
    """The adapter's file, or the transformer's folder."""
    step: int
    """Steps done."""
    notes: tuple[str, ...]
    """What the user should know: cells left out, why it stopped."""
    dashboard: Tensor
    """Metrics and images, ``[H, W, 3]``, 0..1."""
    metrics: tuple[Mapping[str, float], ...]
    """A record per step."""


def finished(config: PolicyTrainConfig) -> PolicyResult | None:
    """Return what a run has come to that has done all its steps; None if there is more to do.

    Raises:
        ValueError: The folder holds a run with other settings.
    """
    run = Path(config.run_folder)
    path, dashboard = run / result_name(config), run / DASHBOARD
    if not dashboard.is_file() or not path.exists() or saved_step(run) < config.steps:
        return None
    directory = RunDirectory(config)
    return PolicyResult(
        path=path,
        step=saved_step(run),
        notes=(),
        dashboard=read_image(dashboard),
        metrics=tuple(directory.read_metrics()),
    )


def result_name(config: PolicyTrainConfig) -> str:
    """Return the result's name in the run folder."""
    return ADAPTER if config.mode == LORA else TRANSFORMER
