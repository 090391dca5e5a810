"""Photographs: base against alg. 1 and 2 by measures, on crops that nothing was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...fill.config import ModelConfig
from ...fill.models import load_fill_models
from ...fill.task import Task
from ..benchmark.config import BenchmarkConfig
from ..benchmark.run import Contenders, benchmark
from ..data import FILE_NAME, ConditionSet, save_picture
from ..make_conditions import MASKS, PICTURES, ConditionsConfig, make_from_folder
from ..policy.config import DYNAMIC, FIXED
from ..pretrain.photographs import PHOTOGRAPHS, draw_photo_crops
from .config import ReproduceConfig
from .policies import adapter_of
from .stage import Context, Stage

TASKS = (Task.REMOVE, Task.EXTEND)


def photo_stage() -> Stage:
    """Return the stage."""
    return Stage(name="photos", work=_measure, needs=(FIXED, DYNAMIC), is_measurement=True)


def usable_photographs(folder: Path) -> list[Path]:
    """Return all pictures below a folder, without those that the bundled models learned from.

    Raises:
        ValueError: There are none.
    """
    learned = {photo.file for photo in PHOTOGRAPHS if not photo.is_held_out}
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURES]
    found = [path for path in found if path.name not in learned]
    if not found:
        raise ValueError(
            f"{folder} holds no photographs ({', '.join(PICTURES)}) but those that the bundled "
            "model was trained on; name another folder"
        )
    return found


def _measure(context: Context) -> bool:
    """Without a folder of photographs say so; the rest of the report does not need them."""
    config = context.config
    if context.photos is None:
        context.write("photos", {"crops": 0})
        return True
    conditions = _conditions(context, context.photos)
    base, made = _models(config, None), {}
    for name in (FIXED, DYNAMIC):
        contenders = Contenders(model=_models(config, name), rival=base)
        folder = context.result(f"photos-{name}").with_suffix("")
        plan = BenchmarkConfig(seed=config.seed)
        made[name] = benchmark(contenders, conditions, plan, folder, context.host).numbers()
    files = [path.name for path in usable_photographs(context.photos)]
    context.write("photos", {"crops": config.photo_crops, "files": files, "models": made})
    return True


def _conditions(context: Context, photos: Path) -> ConditionSet:
    """Cut the crops and draw their masks, the same whenever the same photographs are given."""
    config, folder = context.config, context.folder / "photos"
    if not (folder / FILE_NAME).exists():
        generator = torch.Generator().manual_seed(config.seed)
        crops = draw_photo_crops(usable_photographs(photos), config.photo_crops, generator)
        for task in TASKS:
            place = context.folder / "crops" / task.value
            place.mkdir(parents=True, exist_ok=True)
            for number, crop in enumerate(crops):
                save_picture(place / f"crop-{number:02d}.png", crop.permute(1, 2, 0) / 255)
        plan = ConditionsConfig(
            masks=MASKS[1], num_conditions=len(TASKS) * config.photo_crops, seed=config.seed
        )
        make_from_folder(folder, context.folder / "crops", plan, context.host)
    return ConditionSet(folder)


def _models(config: ReproduceConfig, name: str | None) -> Any:
    models = load_fill_models(
        ModelConfig(folder=config.fill_folder, precision="fp32"), torch.device("cpu")
    )
    return models.with_adapter(adapter_of(config, name), 1.0) if name else models
