"""Put trained adapters beside the bundled model, with a card that says what they change.

`python -m onereward.lab.adapters.publish TARGET NAME=RUN[,RUN...] ...`

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
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ...reward.report import sign_test
from ...training.charts.tables import markdown_table
from ...training.policy.config import PolicyTrainConfig
from ...training.policy.run import ADAPTER
from ...training.runs.directory import RunDirectory
from ...training.runs.files import write_text
from ..base_model.models import load_folder, load_with_adapter
from ..world.conditions import TASKS
from ..world.splits import Split
from .usability import Scenes, random_scenes

NUMBERS = "usability.json"
WINDOW = 25
"""Steps that the reward at the start and at the end is averaged over."""
MARGIN = 0.02
"""A mean score that differs by less is a vote for *same*."""
_NORMAL = 1.96
_HEAD = """# Adapters for the bundled model

LoRAs that OneReward's two algorithms made from the bundled model, with the bundled judge as their
only teacher: `fixed` (alg. 1) compares with the model it started from, `dynamic` (alg. 2) with its
own moving average. They show that the loop works; they do nothing for other models.

This page is written by `python -m onereward.lab.adapters.publish`. What the oracle
says is of the test split: {scenes} scenes per task (draw {draw}), the same noises before and after,
mean over the seeds, 95 % intervals over the scenes. Rewards are the judge's, on the train split."""


def measure(runs: Sequence[Path], per_task: int, draw: int = 0) -> dict[str, Any]:
    """Return config, rewards and what the oracle says of runs that differ in their seed alone.

    Raises:
        FileNotFoundError: A run has no adapter yet.
    """
    configs = [PolicyTrainConfig.load(run / "config.json") for run in runs]
    curves = [RunDirectory(one).read_metrics() for one in configs]
    config, model = configs[0], Path(configs[0].model["folder"])
    steps, true_cfg = config.sampling_steps, config.true_cfg
    scenes = random_scenes(model, Split.TEST, per_task, draw, steps=steps, true_cfg=true_cfg)
    before = scenes.judge(load_folder(model))
    after = [scenes.judge(load_with_adapter(model, run / ADAPTER)) for run in runs]
    usable = torch.stack([one.usable for one in after]).float()
    scores = {
        name: (values, torch.stack([one.scores[name] for one in after]))
        for name, values in before.scores.items()
    }
    return {
        "config": json.loads(config.to_json()),
        "seeds": [one.seed for one in configs],
        "rewards": _rewards(curves),
        "looks": _last_looks(curves),
        "usable": _by_task(scenes, before.usable.float(), usable),
        "scores": {name: _by_task(scenes, *both) for name, both in scores.items()},
        "votes": _votes(scenes, scores),
    }


def _by_task(scenes: Scenes, before: Tensor, after: Tensor) -> dict[str, dict[str, Any]]:
    """Return the means per task of values ``[B]`` and ``[R, B]``; NaN where there is none."""
    found: dict[str, dict[str, Any]] = {}
    for task, rows in scenes.rows().items():
        rows = rows & ~before.isnan()
        if not rows.any():
            continue
        gaps = (after - before)[:, rows]
        mean = float(gaps.mean())
        spread = _NORMAL * float(gaps.mean(0).std()) / int(rows.sum()) ** 0.5
        # Seeds share their scenes, so that a test has to count scenes and not images.
        whole = gaps.mean(0)
        won, lost = int((whole > 0).sum()), int((whole < 0).sum())
        found[task] = {
            "before": float(before[rows].mean()),
            "after": float(after[:, rows].mean()),
            "each": [float(one) for one in after[:, rows].mean(1)],
            "change": mean,
            "interval": (mean - spread, mean + spread),
            "won": won,
            "lost": lost,
            "p": sign_test(won, lost),
        }
    return found


def _votes(
    scenes: Scenes, scores: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, dict[str, Any]]:
    """Return good, same and bad by the oracle's mean score, itself the mean over the runs."""
    before = torch.stack([one for one, _ in scores.values()]).nanmean(0)
    gaps = (torch.stack([many for _, many in scores.values()]).nanmean(0) - before).mean(0)
    found: dict[str, dict[str, Any]] = {}
    for task, rows in scenes.rows().items():
        good = int((gaps[rows] > MARGIN).sum())
        bad = int((gaps[rows] < -MARGIN).sum())
        same = int(rows.sum()) - good - bad
        found[task] = {"good": good, "same": same, "bad": bad, "p": sign_test(good, bad)}
    return found


def _rewards(curves: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, tuple[float, float]]:
    """Return the mean reward per task and dimension of the first and of the last steps."""
    ends: list[dict[str, float]] = []
    for part in (slice(None, WINDOW), slice(-WINDOW, None)):
        values: dict[str, list[float]] = defaultdict(list)
        for row in (row for curve in curves for row in curve[part]):
            for name, value in row.items():
                if name.split(".")[0] in TASKS and "." in name:
                    values[name].append(float(value))
        ends.append({name: fmean(each) for name, each in values.items()})
    return {name: (ends[0][name], ends[1][name]) for name in sorted(ends[0]) if name in ends[1]}


def _last_looks(curves: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Return the mean reward per cell of held-out edits beside the start's, at the last look."""
    values: dict[str, list[float]] = defaultdict(list)
    for curve in curves:
        looks = [row for row in curve if "look" in row]
        for name, value in (looks[-1] if looks else {}).items():
            if name.startswith("look."):
                values[name.removeprefix("look.")].append(float(value))
    return {name: fmean(each) for name, each in sorted(values.items())}


def card(numbers: Mapping[str, Mapping[str, Any]], per_task: int, draw: int = 0) -> str:
    """Return the card: measured numbers alone."""
    parts = [_HEAD.format(scenes=per_task, draw=draw)]
    for name, found in numbers.items():
        config = found["config"]
        parts += [
            f"## {name}\n\n{config['steps']} steps of {config['batch']} edits, learning rate "
            f"{config['learning_rate']:g}, seeds {', '.join(map(str, found['seeds']))}; sampled in "
            f"{config['sampling_steps']} steps at true_cfg {config['true_cfg']:g}, for training "
            f"and here; t from {config['t1']:g} to {config['t2']:g} of the schedule.",
            "Usable results as the oracle says, in %; + / -: scenes that became usable or stopped "
            "being it, in the mean over the seeds.",
            markdown_table(_usable_cells(found["usable"])),
            "The oracle's scores, 0 to 1:",
            markdown_table(_score_cells(found["scores"])),
            f"Votes by the mean of these scores; *same*: they differ by less than {MARGIN:g}.",
            markdown_table(_vote_cells(found["votes"])),
            f"Reward P(Yes) of the first and of the last {WINDOW} steps, of unfinished images "
            "beside the reference's; and at the end of held-out edits beside the start's (0.5: as "
            "good):",
            markdown_table(_reward_cells(found["rewards"], found["looks"])),
        ]
    return "\n\n".join(parts) + "\n"


def _usable_cells(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [["task", "before", "after", "change (95 %)", "each seed", "+ / -", "p"]]
    for task, one in found.items():
        low, high = one["interval"]
        rows.append(
            [
                *(task, f"{100 * one['before']:.1f}", f"{100 * one['after']:.1f}"),
                f"{100 * one['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                " ".join(f"{100 * share:.1f}" for share in one["each"]),
                f"{one['won']} / {one['lost']}",
                f"{one['p']:.4f}",
            ]
        )
    return rows


def _score_cells(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    rows = [["task", "dimension", "before", "after", "change (95 %)"]]
    for task in TASKS:
        for dimension, tasks in found.items():
            if task in tasks:
                one = tasks[task]
                low, high = one["interval"]
                rows.append(
                    [
                        *(task, dimension.replace("_", " ")),
                        *(f"{one['before']:.3f}", f"{one['after']:.3f}"),
                        f"{one['change']:+.4f} ({low:+.4f} to {high:+.4f})",
                    ]
                )
    return rows


def _vote_cells(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [["task", "good", "same", "bad", "p"]]
    for task, one in found.items():
        rows.append([task, *(str(one[k]) for k in ("good", "same", "bad")), f"{one['p']:.4f}"])
    return rows


def _reward_cells(
    found: Mapping[str, Sequence[float]], looks: Mapping[str, float]
) -> list[list[str]]:
    rows = [["task and dimension", "first", "last", "held out"]]
    for name, (first, last) in found.items():
        look = f"{looks[name]:.3f}" if name in looks else ""
        title = name.replace(".", ", ").replace("_", " ")
        rows.append([title, f"{first:.3f}", f"{last:.3f}", look])
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("names", nargs="+", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--scenes", type=int, default=250, help="test scenes per task")
    parser.add_argument("--draw", type=int, default=0, help="which scenes; raise for a new look")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    target: Path = arguments.target
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    numbers: dict[str, dict[str, Any]] = {}
    for one in arguments.names:
        name, _, found = one.partition("=")
        runs = [Path(run) for run in found.split(",")]
        numbers[name] = measure(runs, arguments.scenes, arguments.draw)
        shutil.copyfile(runs[0] / ADAPTER, fresh / f"{name}.safetensors")
    text = card(numbers, arguments.scenes, arguments.draw)
    write_text(fresh / NUMBERS, json.dumps(numbers, indent=2) + "\n")
    write_text(fresh / "README.md", text)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
