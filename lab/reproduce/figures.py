"""The report's images: reward curves, calibration, hacking, contact sheets."""

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
from ..base_model.report.photo_probe import outline
from ..base_model.sampling import sample_scenes
from ..oracle import composite, judge
from ..world.conditions import TASKS
from ..world.splits import Split
from .measure import BASE, read_images, test_scenes
from .photos import PHOTOS
from .policies import HACKED, adapter_of
from .stage import Context

FRAME = 5
"""Width in pixels of the frame around a usable image."""
USABLE_COLOUR = (0.1, 0.65, 0.25)
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
    """Draw the judge's reward and the oracle's oracle_scores over the steps; return the file."""
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
    models = [read_images(context, name) for name in (BASE, FIXED, DYNAMIC)]
    sources = outline(scenes.source, scenes.mask)
    made = {}
    for number, task in enumerate(TASKS):
        rows = (scenes.task == number).nonzero()[: context.config.shown, 0].tolist()
        shown = [
            image
            for row in rows
            for image in (
                _framed(sources[row], False),
                *(_framed(m["images"][row] / 255, bool(m["usable"][row])) for m in models),
            )
        ]
        if shown:
            made[task] = _save(folder, f"sheet-{task}", _sheet(shown, 8))
    return made


def draw_hacked(context: Context, folder: Path) -> str:
    """Draw dev scenes by the base and by both policies that were to be hacked."""
    config = context.config
    model = Path(config.fill_folder)
    scenes = random_scenes(model, Split.DEV, HACKED_SHOWN, config.seed, **config.sampling())
    kinds = [load_folder(model)]
    kinds += [load_with_adapter(model, hacked_result(context, one)[0]) for one in HACKED.values()]
    made = [sample_scenes(parts, scenes.conditions, scenes.sampling) for parts in kinds]
    usable = [judge(images, scenes.conditions).usable.tolist() for images in made]
    pasted = [composite(images, scenes.conditions) for images in made]
    sources = outline(scenes.conditions.source, scenes.conditions.mask)
    shown = []
    for row, source in enumerate(sources):
        shown.append(_framed(source, False))
        shown += [_framed(p[row], yes[row]) for p, yes in zip(pasted, usable, strict=True)]
    return _save(folder, "hacked", _sheet(shown, 8))


def hacked_result(context: Context, name: str) -> tuple[Path, int, bool]:
    """Return the weights of a run to be hacked that are shown, their step, and whether they part.

    Where reward and oracle part, if they do and the weights of that step were kept; else the end.
    """
    parting = context.read(name)["parting"]
    if parting:
        step = int(parting["step"])
        path = context.folder / "policies" / name / "results" / f"step-{step:06d}.safetensors"
        if path.is_file():
            return path, step, True
    path = adapter_of(context.config, name)
    return path, int(read_about(path).get("step", 0)), False


def copy_photo_sheets(context: Context, folder: Path) -> dict[str, str]:
    """Copy the photographs' contact sheets, where there are any; return model to file."""
    made = {}
    for name in (FIXED, DYNAMIC):
        sheet = context.result(f"{PHOTOS}-{name}").with_suffix("") / "sheet.png"
        if sheet.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sheet, folder / f"{PHOTOS}-{name}.png")
            made[name] = f"{folder.name}/{PHOTOS}-{name}.png"
    return made


def curve_of(context: Context, name: str) -> list[dict[str, float]]:
    """Return a policy's curve."""
    run = context.folder / "policies" / name
    return RunDirectory(PolicyTrainConfig.load(run / "config.json")).read_metrics()


def _framed(image: Tensor, is_usable: bool) -> Tensor:
    """Return an image ``[3, H, W]`` as large as a sheet's cell, in a green frame if it is usable.

    The others have a white one, so that all are of one size.
    """
    inner = CELL - 2 * FRAME
    large = F.interpolate(image[None].float(), (inner, inner), mode="bilinear")[0]
    colour = torch.tensor(USABLE_COLOUR if is_usable else (1.0, 1.0, 1.0))
    framed = colour[:, None, None].repeat(1, CELL, CELL)
    framed[:, FRAME:-FRAME, FRAME:-FRAME] = large.clamp(0, 1)
    return framed


def _sheet(images: Sequence[Tensor], columns: int) -> Tensor:
    return contact_sheet([image.permute(1, 2, 0) for image in images], columns)[0]


def _save(folder: Path, name: str, image: Tensor) -> str:
    """Write an image beside the report; return its path from there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_image(folder / f"{name}.png", image)
    return f"{folder.name}/{name}.png"
