"""Put trained adapters beside the bundled model, with a card that says what they change.

`python -m onereward.training.policy.study.publish TARGET NAME=RUN[,RUN...] ...`

The runs of a name differ in their seed alone; the first one's adapter is published. Every run is
measured on the test split, which nothing else looks at, sampled as it was trained; the same
command writes the same numbers again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ....reward.report import sign_test
from ....world.conditions import TASKS
from ....world.splits import Split
from ...pretrain.models import load_folder
from ...pretrain.run import RunFolder, write_text
from ..config import PolicyTrainConfig
from ..run import ADAPTER
from .usability import TaskUsability, draw_scenes, load_with_adapter

NUMBERS = "usability.json"
_WINDOW = 25
"""Steps that the reward at the start and at the end is averaged over."""
_HEAD = """# Adapters for the bundled model

LoRAs that OneReward's two algorithms made from the bundled model, with the bundled judge as their
only teacher: `fixed` (alg. 1) compares with the model it started from, `dynamic` (alg. 2) with its
own moving average. They show that the loop works; they do nothing for other models.

This page is written by `python -m onereward.training.policy.study.publish`."""


def measure(runs: Sequence[Path], scenes: int) -> list[dict[str, Any]]:
    """Return config, rewards and usability of each run on the test split.

    Raises:
        FileNotFoundError: A run has no adapter yet.
    """
    found: list[dict[str, Any]] = []
    for run in runs:
        config = PolicyTrainConfig.load(run / "config.json")
        model = Path(config.model["folder"])
        drawn = draw_scenes(
            model, Split.TEST, scenes, steps=config.sampling_steps, true_cfg=config.true_cfg
        )
        before = drawn.usable(load_folder(model))
        lines = drawn.compare(before, drawn.usable(load_with_adapter(model, run / ADAPTER)))
        found.append(
            {
                "config": json.loads(config.to_json()),
                "rewards": rewards(RunFolder(config).read_curve()),
                "usability": [asdict(line) for line in lines],
            }
        )
    return found


def rewards(curve: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the mean reward per task and dimension of the first and of the last steps."""
    ends: list[dict[str, float]] = []
    for rows in (curve[:_WINDOW], curve[-_WINDOW:]):
        values: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            for name, value in row.items():
                if name.split(".")[0] in TASKS and "." in name:
                    values[name].append(float(value))
        ends.append({name: round(fmean(each), 4) for name, each in values.items()})
    return {name: (ends[0][name], ends[1][name]) for name in ends[0] if name in ends[1]}


def card(numbers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the card: measured numbers alone."""
    parts = [_HEAD]
    for name, runs in numbers.items():
        config = runs[0]["config"]
        parts.append(
            f"## {name}\n\n{config['steps']} steps of {config['batch']} edits, learning rate "
            f"{config['learning_rate']:g}, seeds "
            + ", ".join(str(run["config"]["seed"]) for run in runs)
            + f"; sampled in {config['sampling_steps']} steps at true_cfg {config['true_cfg']:g}, "
            "for training and here."
        )
        parts.append(
            "Usable results of the test split as its oracle says, in %: before, after (mean over "
            "the seeds, and each), results that became usable and that stopped being it, sign "
            "test.\n\n" + _usability([run["usability"] for run in runs])
        )
        parts.append(
            f"Reward P(Yes) of the first and of the last {_WINDOW} steps, mean over the seeds:\n\n"
            + _rewards([run["rewards"] for run in runs])
        )
    return "\n\n".join(parts) + "\n"


def _usability(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    rows = ["| task | before | after | each seed | + / - | p |", "|---|---|---|---|---|---|"]
    for lines in zip(*runs, strict=True):
        made = [TaskUsability(**{**line, "interval": tuple(line["interval"])}) for line in lines]
        won, lost = sum(m.became_usable for m in made), sum(m.stopped_being_usable for m in made)
        each = " ".join(f"{100 * m.after:.1f}" for m in made)
        rows.append(
            f"| {made[0].task} | {100 * made[0].before:.1f} | "
            f"{100 * fmean(m.after for m in made):.1f} | {each} | {won} / {lost} | "
            f"{sign_test(won, lost):.3f} |"
        )
    return "\n".join(rows)


def _rewards(runs: Sequence[Mapping[str, Sequence[float]]]) -> str:
    rows = ["| task and dimension | first | last |", "|---|---|---|"]
    for name in runs[0]:
        first, last = (fmean(run[name][end] for run in runs if name in run) for end in (0, 1))
        rows.append(f"| {name.replace('.', ', ').replace('_', ' ')} | {first:.3f} | {last:.3f} |")
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("names", nargs="+", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--scenes", type=int, default=250, help="test scenes per task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    target: Path = arguments.target
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    numbers: dict[str, list[dict[str, Any]]] = {}
    for one in arguments.names:
        name, _, found = one.partition("=")
        runs = [Path(run) for run in found.split(",")]
        numbers[name] = measure(runs, arguments.scenes)
        shutil.copyfile(runs[0] / ADAPTER, fresh / f"{name}.safetensors")
    write_text(fresh / NUMBERS, json.dumps(numbers, indent=2) + "\n")
    write_text(fresh / "README.md", card(numbers))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    sys.stdout.write(card(numbers))


if __name__ == "__main__":
    main()
