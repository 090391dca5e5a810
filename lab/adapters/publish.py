"""Put trained adapters beside the bundled model, with a card that says what they change.

`python -m onereward.lab.adapters.publish TARGET NAME=RUN[,RUN...] ...`

The runs of a name differ in their seed alone; the first one's adapter is published. Every run is
measured on the test split, which nothing else uses, sampled as it was trained; the same command
writes the same numbers again.

`usability.json`, shortened: by name of the adapter, shares 0..1 per task::

    {"fixed": {
        "config": {"format": 1, "steps": 200, "batch_size": 16},
        "seeds": [0, 1, 2],
        "rewards": {"fill.structure": [0.532, 0.581]},
        "evaluation": {"fill.structure": 0.553},
        "usable": {"all": {"before": 0.832, "after": 0.842, "each": [0.840, 0.844, 0.844],
            "change": 0.01, "interval": [0.003, 0.016], "won": 46, "lost": 28, "p": 0.0474}},
        "scores": {"structure": {"fill": {"before": 0.853, "after": 0.858}}},
        "votes": {"all": {"good": 202, "same": 1677, "bad": 121, "p": 0.0}}}}
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

from ...fill.io.files import write_text
from ...reward.report import sign_test
from ...training.charts.tables import markdown_table
from ...training.policy.config import PolicyTrainConfig
from ...training.policy.run import ADAPTER
from ...training.runs.directory import RunDirectory
from ..base_model.models import load_folder, load_with_adapter
from ..world.conditions import TASKS
from ..world.splits import Split
from .usability import Scenes, random_scenes

NUMBERS = "usability.json"
WINDOW = 25
"""Steps that the reward at the start and at the end is averaged over."""
MARGIN = 0.02
"""A mean score that differs by less is a vote for *same*."""
EVAL = "eval"
"""Metric of an evaluation: the mean reward of held-out edits beside the start's."""
_NORMAL = 1.96
_HEAD = """# Adapters for the bundled model

LoRAs that OneReward's two algorithms trained for the bundled model, with the bundled judge as the
only reward: `fixed` (alg. 1) compares with the model it started from, `dynamic` (alg. 2) with its
own moving average. They show that the loop works; they do nothing for other models.

This page is written by `python -m onereward.lab.adapters.publish`. The oracle's numbers are of the
test split: {scenes} scenes per task (draw {draw}), the same noises before and after, mean over the
seeds, 95 % intervals over the scenes. Rewards are the judge's, on the train split."""


def measure(runs: Sequence[Path], per_task: int, draw: int = 0) -> dict[str, Any]:
    """Return config, rewards and the oracle's results of runs that differ in their seed alone.

    Raises:
        FileNotFoundError: A run has no adapter yet.
    """
    configs = [PolicyTrainConfig.load(run / "config.json") for run in runs]
    metrics = [RunDirectory(run_config).read_metrics() for run_config in configs]
    config, model = configs[0], Path(configs[0].model["folder"])
    steps, true_cfg = config.sampling_steps, config.true_cfg
    scenes = random_scenes(model, Split.TEST, per_task, draw, steps=steps, true_cfg=true_cfg)
    before = scenes.judge(load_folder(model))
    after = [scenes.judge(load_with_adapter(model, run / ADAPTER)) for run in runs]
    usable = torch.stack([scored.usable for scored in after]).float()
    scores = {
        name: (values, torch.stack([scored.scores[name] for scored in after]))
        for name, values in before.scores.items()
    }
    return {
        "config": json.loads(config.to_json()),
        "seeds": [run_config.seed for run_config in configs],
        "rewards": _rewards(metrics),
        "evaluation": _last_evaluations(metrics),
        "usable": _by_task(scenes, before.usable.float(), usable),
        "scores": {name: _by_task(scenes, *sides) for name, sides in scores.items()},
        "votes": _votes(scenes, scores),
    }


def _by_task(scenes: Scenes, before: Tensor, after: Tensor) -> dict[str, dict[str, Any]]:
    """Return the means per task of values ``[B]`` and ``[R, B]``; NaN: the scene has no value."""
    tasks: dict[str, dict[str, Any]] = {}
    for task, rows in scenes.rows().items():
        rows = rows & ~before.isnan()
        if not rows.any():
            continue
        gaps = (after - before)[:, rows]
        mean = float(gaps.mean())
        spread = _NORMAL * float(gaps.mean(0).std()) / int(rows.sum()) ** 0.5
        # Seeds share their scenes, so the test counts scenes and not images.
        scene_gaps = gaps.mean(0)  # [rows]
        won, lost = int((scene_gaps > 0).sum()), int((scene_gaps < 0).sum())
        tasks[task] = {
            "before": float(before[rows].mean()),
            "after": float(after[:, rows].mean()),
            "each": [float(share) for share in after[:, rows].mean(1)],
            "change": mean,
            "interval": (mean - spread, mean + spread),
            "won": won,
            "lost": lost,
            "p": sign_test(won, lost),
        }
    return tasks


def _votes(
    scenes: Scenes, scores: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, dict[str, Any]]:
    """Return good, same and bad by the oracle's mean score, itself the mean over the runs."""
    before = torch.stack([base for base, _ in scores.values()]).nanmean(0)  # [B]
    after = torch.stack([runs for _, runs in scores.values()]).nanmean(0)  # [R, B]
    gaps = (after - before).mean(0)
    votes: dict[str, dict[str, Any]] = {}
    for task, rows in scenes.rows().items():
        good = int((gaps[rows] > MARGIN).sum())
        bad = int((gaps[rows] < -MARGIN).sum())
        undecided = int(rows.sum()) - good - bad
        votes[task] = {"good": good, "same": undecided, "bad": bad, "p": sign_test(good, bad)}
    return votes


def _rewards(metrics: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, tuple[float, float]]:
    """Return the mean reward per task and dimension of the first and of the last steps."""
    ends: list[dict[str, float]] = []
    for window in (slice(None, WINDOW), slice(-WINDOW, None)):
        values: dict[str, list[float]] = defaultdict(list)
        for row in (row for records in metrics for row in records[window]):
            for name, value in row.items():
                if name.split(".")[0] in TASKS and "." in name:
                    values[name].append(float(value))
        ends.append({name: fmean(rewards) for name, rewards in values.items()})
    return {name: (ends[0][name], ends[1][name]) for name in sorted(ends[0]) if name in ends[1]}


def _last_evaluations(metrics: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Return the mean reward per cell of held-out edits at the last evaluation."""
    values: dict[str, list[float]] = defaultdict(list)
    for records in metrics:
        evaluations = [row for row in records if EVAL in row]
        for name, value in (evaluations[-1] if evaluations else {}).items():
            if name.startswith(f"{EVAL}."):
                values[name.removeprefix(f"{EVAL}.")].append(float(value))
    return {name: fmean(rewards) for name, rewards in sorted(values.items())}


def card(numbers: Mapping[str, Mapping[str, Any]], per_task: int, draw: int = 0) -> str:
    """Return the card in Markdown; it holds measured numbers only."""
    paragraphs = [_HEAD.format(scenes=per_task, draw=draw)]
    for name, measured in numbers.items():
        config = measured["config"]
        paragraphs += [
            f"## {name}\n\n{config['steps']} steps of {config['batch_size']} edits, learning rate "
            f"{config['learning_rate']:g}, seeds {', '.join(map(str, measured['seeds']))}; sampled "
            f"in {config['sampling_steps']} steps at true_cfg {config['true_cfg']:g}, for training "
            f"and here; t from {config['t1']:g} to {config['t2']:g} of the schedule.",
            "Usable results by the oracle, in %; + / -: scenes that became usable or stopped being "
            "usable, in the mean over the seeds.",
            markdown_table(_usable_cells(measured["usable"])),
            "The oracle's scores, 0 to 1:",
            markdown_table(_score_cells(measured["scores"])),
            f"Votes by the mean of these scores; *same*: they differ by less than {MARGIN:g}.",
            markdown_table(_vote_cells(measured["votes"])),
            f"Reward P(Yes) over the first and the last {WINDOW} steps, of one-step predictions "
            "against the reference's; and at the end, of finished held-out edits against the "
            "start's (0.5: equally good):",
            markdown_table(_reward_cells(measured["rewards"], measured["evaluation"])),
        ]
    return "\n\n".join(paragraphs) + "\n"


def _usable_cells(usable: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [["task", "before", "after", "change (95 %)", "each seed", "+ / -", "p"]]
    for task, row in usable.items():
        low, high = row["interval"]
        rows.append(
            [
                *(task, f"{100 * row['before']:.1f}", f"{100 * row['after']:.1f}"),
                f"{100 * row['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                " ".join(f"{100 * share:.1f}" for share in row["each"]),
                f"{row['won']} / {row['lost']}",
                f"{row['p']:.4f}",
            ]
        )
    return rows


def _score_cells(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    rows = [["task", "dimension", "before", "after", "change (95 %)"]]
    for task in TASKS:
        for dimension, tasks in scores.items():
            if task in tasks:
                row = tasks[task]
                low, high = row["interval"]
                rows.append(
                    [
                        *(task, dimension.replace("_", " ")),
                        *(f"{row['before']:.3f}", f"{row['after']:.3f}"),
                        f"{row['change']:+.4f} ({low:+.4f} to {high:+.4f})",
                    ]
                )
    return rows


def _vote_cells(votes: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [["task", "good", "same", "bad", "p"]]
    for task, row in votes.items():
        rows.append([task, *(str(row[k]) for k in ("good", "same", "bad")), f"{row['p']:.4f}"])
    return rows


def _reward_cells(
    rewards: Mapping[str, Sequence[float]], evaluation: Mapping[str, float]
) -> list[list[str]]:
    rows = [["task and dimension", "first", "last", "held out"]]
    for name, (first, last) in rewards.items():
        held_out = f"{evaluation[name]:.3f}" if name in evaluation else ""
        title = name.replace(".", ", ").replace("_", " ")
        rows.append([title, f"{first:.3f}", f"{last:.3f}", held_out])
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("names", nargs="+", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--scenes", type=int, default=250, help="test scenes per task")
    parser.add_argument("--draw", type=int, default=0, help="which scenes; raise it for new ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    target: Path = arguments.target
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    numbers: dict[str, dict[str, Any]] = {}
    for argument in arguments.names:
        name, _, folders = argument.partition("=")
        runs = [Path(run) for run in folders.split(",")]
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
