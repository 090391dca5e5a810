"""Photographs: base against alg. 1 and 2 by measures, on crops that nothing was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...fill.config import FillConfig, ModelConfig
from ...fill.io.files import write_text
from ...fill.io.photo import ENDS
from ...fill.models import load_fill_models
from ...fill.task import Task
from ...training.data.conditions import FILE_NAME, EditDataset, save_image
from ...training.data.edit_dataset import MASKS, EditDatasetConfig, make_edit_dataset
from ...training.evaluation.config import EvalConfig
from ...training.evaluation.run import EvalModels, evaluate
from ...training.policy.config import DYNAMIC, FIXED
from ..base_model.photographs import PHOTOGRAPHS, sample_photo_crops
from .config import ReproduceConfig
from .policies import adapter_of
from .stage import Context, Stage

TASKS = (Task.REMOVE, Task.EXTEND)
PHOTOS = "photos"
"""Stage and measurement."""
_FILES = "files.json"
"""The photographs' names, beside their crops."""


def photo_stage() -> Stage:
    """Return the stage."""
    return Stage(name=PHOTOS, work=_measure, needs=(FIXED, DYNAMIC), is_measurement=True)


def reset_photo_stage(context: Context) -> None:
    """Reset the stage if it ran without photographs, so that it runs now that there are some."""
    if context.result(PHOTOS).exists() and not context.read(PHOTOS)["crops"]:
        photo_stage().marker(context.config).unlink(missing_ok=True)


def usable_photographs(folder: Path) -> list[Path]:
    """Return all images below a folder, without those that the bundled models were trained on.

    Raises:
        ValueError: There are none.
    """
    trained_on = {photo.file for photo in PHOTOGRAPHS if not photo.is_held_out}
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in ENDS]
    paths = [path for path in paths if path.name not in trained_on]
    if not paths:
        raise ValueError(
            f"{folder} holds no photographs ({', '.join(ENDS)}) but those that the bundled "
            "model was trained on; name another folder"
        )
    return paths


def _measure(context: Context) -> bool:
    """Without a folder of photographs say so; the rest of the report does not need them."""
    config, folder = context.config, context.folder / "photos"
    if not (folder / FILE_NAME).exists():
        if context.photos is None:
            context.write(PHOTOS, {"crops": 0})
            return True
        _cut_crops(context, usable_photographs(context.photos))
    conditions, base, numbers = EditDataset(folder), _models(config, None), {}
    for name in (FIXED, DYNAMIC):
        eval_models = EvalModels(model=_models(config, name), baseline=base)
        target = context.result(f"photos-{name}").with_suffix("")
        plan = EvalConfig(seed=config.seed)
        numbers[name] = evaluate(
            eval_models, conditions, plan, target, context.host, FillConfig(**config.sampling())
        ).numbers()
    files = json.loads((context.folder / "crops" / _FILES).read_text(encoding="utf-8"))
    context.write(PHOTOS, {"crops": config.photo_crops, "files": files, "models": numbers})
    return True


def _cut_crops(context: Context, photographs: Sequence[Path]) -> None:
    """Cut the crops and draw their masks, the same for the same photographs."""
    config, folder = context.config, context.folder / "crops"
    generator = torch.Generator().manual_seed(config.seed)
    crops = sample_photo_crops(list(photographs), config.photo_crops, generator)
    for task in TASKS:
        (folder / task.value).mkdir(parents=True, exist_ok=True)
        for index, crop in enumerate(crops):
            path = folder / task.value / f"crop-{index:02d}.png"
            save_image(path, crop.permute(1, 2, 0) / 255)
    used = [path.name for path in photographs[: config.photo_crops]]
    write_text(folder / _FILES, json.dumps(used))
    plan = EditDatasetConfig(
        masks=MASKS[1], num_conditions=len(TASKS) * config.photo_crops, seed=config.seed
    )
    make_edit_dataset(context.folder / "photos", folder, plan, context.host)


def _models(config: ReproduceConfig, name: str | None) -> Any:
    models = load_fill_models(
        ModelConfig(folder=config.fill_folder, precision="fp32"), torch.device("cpu")
    )
    return models.with_adapter(adapter_of(config, name), 1.0) if name else models
