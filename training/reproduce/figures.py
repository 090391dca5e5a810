"""The report's pictures: reward curves, calibration, hacking, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...world.conditions import TASKS
from ...world.splits import Split
from ..data import save_picture
from ..plot import Series, plot, stack
from ..policy.config import DYNAMIC, FIXED, PolicyTrainConfig
from ..policy.looks.board import reward_lines
from ..policy.study.usability import draw_scenes
from ..pretrain.models import load_folder, load_with_adapter
from ..pretrain.report.photo_probe import outline
from ..pretrain.run import RunFolder
from ..pretrain.sampling import sample_scenes
from ..sheet import contact_sheet
from .measure import BASE, read_pictures, test_scenes
from .policies import HACKED, adapter_of
from .stage import Context

HACKED_SHOWN = 2
"""Dev scenes per task that show what hacked policies paint: the first ones."""


def draw_rewards(context: Context, folder: Path) -> dict[str, str]:
    """Draw reward curves of alg. 1 and 2, one plot per task; return name to file."""
    made = {}
    for name in (FIXED, DYNAMIC):
        curve = curve_of(context, name)
        lines = {k: v for k, v in reward_lines(curve).items() if "." in k}
        last = max((record["step"] for record in curve), default=1)
        plots = []
        for task in TASKS:
            own = [(k.partition(".")[2], v) for k, v in lines.items() if k.startswith(f"{task}.")]
            if own:
                series = [Series(name=k.replace("_", " "), points=v) for k, v in sorted(own)]
                plots.append(plot(f"{task}: P(Yes)", series, (0, last), (0, 1), "step"))
        if plots:
            made[name] = _save(folder, f"reward-{name}", stack(plots)[0])
    return made


def draw_calibration(bins: Sequence[Mapping[str, float]], folder: Path) -> str:
    """Draw how often the judge is right by how sure it is; return the file."""
    points = [(one["mean_score"], one["accuracy"]) for one in bins]
    ideal = Series(name="ideal", points=[(0.5, 0.5), (1.0, 1.0)])
    labels = [str(one["num_pairs"]) for one in bins]
    series = [ideal, Series(name="judge", points=points, labels=labels)]
    title = "Right answers by confidence (number of pairs)"
    return _save(folder, "calibration", plot(title, series, (0.5, 1), (0, 1), "confidence"))


def draw_hacking(name: str, points: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Draw the judge's reward and the oracle's verdict over the steps; return the file."""
    lines = {
        "reward": [(p["step"], p["reward"]) for p in points if p.get("reward") is not None],
        "usable (oracle)": [(p["step"], p["usable"]) for p in points],
    }
    series = [Series(name=key, points=line) for key, line in lines.items() if line]
    last = max(p["step"] for p in points)
    return _save(folder, name, plot(name, series, (0, last), (0, 1), "step"))


def draw_sheets(context: Context, folder: Path) -> dict[str, str]:
    """Draw the first test scenes of each task: source with mask, base, alg. 1, alg. 2."""
    scenes = test_scenes(context.config).conditions
    pictures = [read_pictures(context, name)["pictures"] for name in (BASE, FIXED, DYNAMIC)]
    made = {}
    for number, task in enumerate(TASKS):
        rows = (scenes.task == number).nonzero()[: context.config.shown, 0].tolist()
        sources = outline(scenes.source, scenes.mask)
        shown = [
            picture
            for row in rows
            for picture in (sources[row], *(made_by[row] / 255 for made_by in pictures))
        ]
        if shown:
            made[task] = _save(folder, f"sheet-{task}", _sheet(shown, 8))
    return made


def draw_hacked(context: Context, folder: Path) -> str:
    """Draw dev scenes by the base and by both policies that were to be hacked."""
    config = context.config
    model = Path(config.fill_folder)
    scenes = draw_scenes(model, Split.DEV, HACKED_SHOWN, config.seed, **config.sampling())
    kinds = [load_folder(model)]
    kinds += [load_with_adapter(model, adapter_of(config, name)) for name in HACKED.values()]
    pictures = [sample_scenes(parts, scenes.conditions, scenes.sampling) for parts in kinds]
    inside = scenes.conditions.mask[:, None] > 0.5
    pasted = [torch.where(inside, p, scenes.conditions.source) for p in pictures]
    sources = outline(scenes.conditions.source, scenes.conditions.mask)
    shown = [p[row] for row in range(len(sources)) for p in (sources, *pasted)]
    return _save(folder, "hacked", _sheet(shown, 8))


def curve_of(context: Context, name: str) -> list[dict[str, float]]:
    """Return a policy's curve."""
    run = context.folder / "policies" / name
    return RunFolder(PolicyTrainConfig.load(run / "config.json")).read_curve()


def _sheet(pictures: Sequence[Tensor], columns: int) -> Tensor:
    return contact_sheet([picture.permute(1, 2, 0) for picture in pictures], columns)[0]


def _save(folder: Path, name: str, picture: Tensor) -> str:
    """Write a picture beside the report; return its path from there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_picture(folder / f"{name}.png", picture)
    return f"{folder.name}/{name}.png"
