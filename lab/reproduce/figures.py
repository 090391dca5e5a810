"""The report's images: plots of rewards, calibration and hacking, contact sheets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...training.charts.contact_sheets import CELL, contact_sheet
from ...training.charts.dashboard import reward_lines
from ...training.charts.plots import Series, plot, stack
from ...training.data.conditions import save_image
from ...training.policy.adapter_file import read_about
from ...training.policy.config import DYNAMIC, FIXED, PolicyTrainConfig
from ...training.runs.directory import RunDirectory
from ..adapters.usability import random_scenes
from ..base_model.models import load_folder, load_with_adapter
from ..base_model.report.photo_edits import outline
from ..base_model.sampling import sample_scenes
from ..oracle import composite, judge
from ..world.conditions import TASKS
from ..world.splits import Split
from .judge_stages import MAIN_JUDGE
from .measurements import BASE, read_images, test_scenes
from .photos import PHOTOS
from .policies import HACK_RUNS, adapter_of
from .stage import Context

FRAME = 5
"""Width in pixels of the frame around a usable image."""
USABLE_COLOUR = (0.1, 0.65, 0.25)
HACKED_SCENES = 2
"""Dev scenes per task that show what hacked policies paint: the first ones."""
IMAGES = "images"
"""Folder of the images, beside the report."""


def plot_figures(context: Context, folder: Path) -> dict[str, str]:
    """Draw all images of the report into ``images`` below its folder; return name to file.

    Files are named relative to the report; what cannot be drawn is left out.
    """
    figures = {
        "calibration": _draw_calibration(context.read(MAIN_JUDGE)["report"]["calibration"]),
        "hacked": _draw_hacked(context),
        **_draw_rewards(context),
        **_draw_sheets(context),
        **{name: _draw_hacking(name, context.read(name)["points"]) for name in HACK_RUNS.values()},
    }
    target = folder / IMAGES
    target.mkdir(parents=True, exist_ok=True)
    for name, image in figures.items():
        save_image(target / f"{name}.png", image)
    names = [*figures, *_copy_photo_sheets(context, target)]
    return {name: f"{IMAGES}/{name}.png" for name in names}


def _draw_rewards(context: Context) -> dict[str, Tensor]:
    """Draw smoothed rewards of alg. 1 and 2, one plot per task."""
    figures = {}
    for name in (FIXED, DYNAMIC):
        metrics = read_metrics(context, name)
        lines = {cell: line for cell, line in reward_lines(metrics).items() if "." in cell}
        last = max((record["step"] for record in metrics), default=1)
        plots = []
        for task in TASKS:
            cells = sorted(cell for cell in lines if cell.startswith(f"{task}."))
            series = [
                Series(name=cell.partition(".")[2].replace("_", " "), points=lines[cell])
                for cell in cells
            ]
            if series:
                plots.append(plot(f"{task}: P(Yes)", series, (0, last), (0, 1), "step"))
        if plots:
            figures[f"reward-{name}"] = stack(plots)[0]
    return figures


def _draw_calibration(bins: Sequence[Mapping[str, float]]) -> Tensor:
    """Draw how often the judge is right by its confidence."""
    points = [(row["mean_score"], row["accuracy"]) for row in bins]
    ideal = Series(name="ideal", points=[(0.5, 0.5), (1.0, 1.0)])
    labels = [str(row["num_pairs"]) for row in bins]
    series = [ideal, Series(name="judge", points=points, labels=labels)]
    title = "Right answers by confidence (number of pairs)"
    return plot(title, series, (0.5, 1), (0, 1), "confidence")


def _draw_hacking(name: str, points: Sequence[Mapping[str, Any]]) -> Tensor:
    """Draw the judge's reward and the oracle's share of usable images over the steps."""
    lines = {
        "reward": [(p["step"], p["reward"]) for p in points if p.get("reward") is not None],
        "usable (oracle)": [(p["step"], p["usable"]) for p in points],
    }
    series = [Series(name=key, points=line) for key, line in lines.items() if line]
    last = max(p["step"] for p in points)
    return plot(name, series, (0, last), (0, 1), "step")


def _draw_sheets(context: Context) -> dict[str, Tensor]:
    """Draw the first test scenes of each task: source with mask, base, alg. 1, alg. 2."""
    scenes = test_scenes(context.config).conditions
    models = [read_images(context, name) for name in (BASE, FIXED, DYNAMIC)]
    sources = outline(scenes.source, scenes.mask)  # [B, 3, H, W]
    sheets = {}
    for index, task in enumerate(TASKS):
        cells = []
        for row in (scenes.task == index).nonzero()[: context.config.sheet_scenes, 0].tolist():
            cells.append(_add_frame(sources[row], False))
            cells += [_add_frame(m["images"][row] / 255, bool(m["usable"][row])) for m in models]
        if cells:
            sheets[f"sheet-{task}"] = _sheet(cells)
    return sheets


def _draw_hacked(context: Context) -> Tensor:
    """Draw dev scenes by the base and by both policies that were to be hacked."""
    config = context.config
    folder = Path(config.fill_folder)
    scenes = random_scenes(folder, Split.DEV, HACKED_SCENES, config.seed, **config.sampling())
    models = [load_folder(folder)]
    for name in HACK_RUNS.values():
        models.append(load_with_adapter(folder, hacked_result(context, name)[0]))
    images = [sample_scenes(model, scenes.conditions, scenes.sampling) for model in models]
    usable = [judge(batch, scenes.conditions).usable.tolist() for batch in images]
    pasted = [composite(batch, scenes.conditions) for batch in images]
    cells = []
    for row, source in enumerate(outline(scenes.conditions.source, scenes.conditions.mask)):
        cells.append(_add_frame(source, False))
        cells += [_add_frame(p[row], yes[row]) for p, yes in zip(pasted, usable, strict=True)]
    return _sheet(cells)


def hacked_result(context: Context, name: str) -> tuple[Path, int, bool]:
    """Return the weights of a run to be hacked that are drawn, their step, and whether they part.

    Where reward and oracle part, if they do and the weights of that step were saved; else the end.
    """
    parting = context.read(name)["parting"]
    if parting:
        step = int(parting["step"])
        path = context.folder / "policies" / name / "results" / f"step-{step:06d}.safetensors"
        if path.is_file():
            return path, step, True
    path = adapter_of(context.config, name)
    return path, int(read_about(path).get("step", 0)), False


def _copy_photo_sheets(context: Context, folder: Path) -> list[str]:
    """Copy the photographs' contact sheets, where there are any; return their names."""
    names = []
    for name in (f"{PHOTOS}-{FIXED}", f"{PHOTOS}-{DYNAMIC}"):
        sheet = context.result(name).with_suffix("") / "sheet.png"
        if sheet.is_file():
            shutil.copyfile(sheet, folder / f"{name}.png")
            names.append(name)
    return names


def read_metrics(context: Context, name: str) -> list[dict[str, float]]:
    """Return a policy's metrics, a record per step."""
    run = context.folder / "policies" / name
    return RunDirectory(PolicyTrainConfig.load(run / "config.json")).read_metrics()


def _add_frame(image: Tensor, is_usable: bool) -> Tensor:
    """Return an image ``[3, H, W]`` as large as a sheet's cell, in a green frame if it is usable.

    The others have a white one, so that all are of one size.
    """
    inner = CELL - 2 * FRAME
    large = F.interpolate(image[None].float(), (inner, inner), mode="bilinear")[0]
    colour = torch.tensor(USABLE_COLOUR if is_usable else (1.0, 1.0, 1.0))
    framed = colour[:, None, None].repeat(1, CELL, CELL)
    framed[:, FRAME:-FRAME, FRAME:-FRAME] = large.clamp(0, 1)
    return framed


def _sheet(cells: Sequence[Tensor]) -> Tensor:
    return contact_sheet([cell.permute(1, 2, 0) for cell in cells], columns=8)[0]
