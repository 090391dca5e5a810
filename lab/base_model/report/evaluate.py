"""Measure an exported model and write its card.

`python -m onereward.lab.base_model.report.evaluate MODEL_FOLDER CARD_FOLDER --photos FOLDER`

Scores the chosen split's scenes with the oracle, the autoencoder's own ceiling on the same scenes,
and held-out photographs; writes `evaluation.json`, two contact sheets and `model-card.md`.

`evaluation.json`, shortened to one task and one score:

    {
      "split": "test",
      "sampling": {"steps": 20, "true_cfg": 2.0, "negative_prompt": ""},
      "tasks": {"fill": {"usable": 0.632, "interval": [0.5706, 0.6893], "count": 250,
                         "scores": {"structure": 0.81}}},
      "details": {"fill_shape_right": 0.79},
      "vae_ceiling": {"fill": {"usable": 0.98, "interval": [0.9537, 0.9915], "count": 250,
                               "scores": {"structure": 0.95}}},
      "seconds_per_image": 0.35,
      "device": "x86_64 CPU, 2 threads",
      "bytes": 12345678,
      "photos": {"crops": 50, "remove": {"model": {"psnr_db": 30.1, "seam": 0.02}}}
    }
"""

import argparse
import json
import logging
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....fill.io.files import write_text
from ....reward.report import wilson_interval
from ....training.runs.loop import step_generator
from ...oracle import OracleScores, composite, judge
from ...world.conditions import TASKS, Conditions, sample_conditions
from ...world.splits import Split
from ..models import FillComponents, load_folder
from ..sampling import SampleSettings, sample_scenes
from .card import write_card
from .photo_edits import METHODS, PhotoResult, edit_photos, outline, photo_conditions
from .sheet import save_sheet

log = logging.getLogger("onereward.training")

_BATCH_INDEX = 1_000  # development uses other batches of its own split
_SHEET_COLUMNS = 14
_PHOTOS = 50
_TIMED_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """What to measure.

    Example: ``EvaluateSettings(model=Path("assets/fill"), card=Path("assets/card"))``.
    """

    model: Path
    card: Path
    split: Split = Split.TEST
    scenes_per_task: int = 250
    photo_folders: tuple[str, ...] = ()
    """Empty leaves photographs out."""


def _rates(oracle_scores: OracleScores, scenes: Conditions) -> dict[str, dict[str, object]]:
    rates: dict[str, dict[str, object]] = {}
    for task, name in enumerate(TASKS):
        rows = scenes.task == task
        hits, count = int(oracle_scores.usable[rows].sum()), int(rows.sum())
        low, high = wilson_interval(hits / count, count)
        scores = {
            dimension: round(float(score[rows].nanmean()), 4)
            for dimension, score in oracle_scores.scores.items()
            if not bool(score[rows].isnan().all())
        }
        rates[name] = {
            "usable": round(hits / count, 4),
            "interval": [round(low, 4), round(high, 4)],
            "count": count,
            "scores": scores,
        }
    return rates


def _details(oracle_scores: OracleScores, scenes: Conditions) -> dict[str, float]:
    words, fills = (scenes.task == TASKS.index(name) for name in ("text", "fill"))
    letters = oracle_scores.letters_right[words]
    prompted = (scenes.task == TASKS.index("extend")) & (scenes.shape >= 0)
    plain = (scenes.task == TASKS.index("extend")) & (scenes.shape < 0)
    return {
        "fill_shape_right": round(float(oracle_scores.shape_right[fills].float().mean()), 4),
        "text_words_read_exactly": round(float((letters == 1).float().mean()), 4),
        "text_letters_read": round(float(letters.mean()), 4),
        "extend_prompted_usable": round(float(oracle_scores.usable[prompted].float().mean()), 4),
        "extend_unprompted_usable": round(float(oracle_scores.usable[plain].float().mean()), 4),
    }


@torch.no_grad()
def vae_round_trip(components: FillComponents, images: Tensor) -> Tensor:
    """Encode and decode images in 0..1: no result of the transformer can be better."""
    latents = components.vae.encode(images * 2 - 1).latent_dist.mode()
    return (components.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def _time_one_image(
    components: FillComponents, scenes: Conditions, settings: SampleSettings
) -> float:
    scene = scenes.select(torch.tensor([0]))
    sample_scenes(components, scene, settings)
    start = time.perf_counter()
    for _ in range(_TIMED_RUNS):
        sample_scenes(components, scene, settings)
    return (time.perf_counter() - start) / _TIMED_RUNS


def _photo_numbers(result: PhotoResult) -> dict[str, dict[str, float]]:
    return {
        method: {
            "psnr_db": round(float(result.psnr_db(method).mean()), 2),
            "seam": round(float(result.seam(method).mean()), 4),
        }
        for method in METHODS
    }


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def evaluate(settings: EvaluateSettings) -> dict[str, object]:
    """Measure everything, write the sheets and return the numbers."""
    # The model, sampled as its recipe says.
    components = load_folder(settings.model)
    recipe = json.loads((settings.model / "recipe.json").read_text())
    sampling = SampleSettings(
        steps=recipe["steps"],
        true_cfg=recipe["true_cfg"],
        negative_prompt=recipe["negative_prompt"],
    )
    # Results on the split's scenes, and the oracle's judgement.
    tasks = torch.arange(len(TASKS)).repeat_interleave(settings.scenes_per_task)
    scenes = sample_conditions(settings.split, _BATCH_INDEX, tasks)
    images = sample_scenes(components, scenes, sampling)
    oracle_scores = judge(images, scenes)
    settings.card.mkdir(parents=True, exist_ok=True)
    _scene_sheet(settings.card / "scenes.png", scenes, images, oracle_scores)
    # What is written to evaluation.json.
    numbers: dict[str, object] = {
        "split": settings.split.value,
        "sampling": {k: recipe[k] for k in ("steps", "true_cfg", "negative_prompt")},
        "tasks": _rates(oracle_scores, scenes),
        "details": _details(oracle_scores, scenes),
        "vae_ceiling": _rates(judge(vae_round_trip(components, scenes.target), scenes), scenes),
        "seconds_per_image": round(_time_one_image(components, scenes, sampling), 3),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "bytes": _folder_bytes(settings.model),
    }
    if settings.photo_folders:
        numbers["photos"] = _measure_photos(components, settings, sampling)
    return numbers


def _measure_photos(
    components: FillComponents, settings: EvaluateSettings, sampling: SampleSettings
) -> dict[str, object]:
    numbers: dict[str, object] = {"crops": _PHOTOS}
    rows = []
    for purpose, task in enumerate(("remove", "extend")):
        generator = step_generator(0, purpose, purpose=8)
        conditions = photo_conditions(settings.photo_folders, task, _PHOTOS, generator)
        result = edit_photos(components, conditions, sampling)
        numbers[task] = _photo_numbers(result)
        rows.append(outline(conditions.source, conditions.mask)[:_SHEET_COLUMNS])
        rows += [result.images[method][:_SHEET_COLUMNS] for method in METHODS]
        rows.append(conditions.target[:_SHEET_COLUMNS])
    save_sheet(settings.card / "photos.png", rows)
    return numbers


def _scene_sheet(
    path: Path, scenes: Conditions, images: Tensor, oracle_scores: OracleScores
) -> None:
    """Show the first scenes of each task: mask, result, truth; failures have a red bar."""
    results, rows = composite(images, scenes), []
    for task in range(len(TASKS)):
        first = (scenes.task == task).nonzero()[:_SHEET_COLUMNS, 0]
        framed = results[first].clone()
        failed = ~oracle_scores.usable[first]
        framed[failed, :, -2:] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
        rows += [
            outline(scenes.source[first], scenes.mask[first]),
            framed,
            scenes.target[first],
        ]
    save_sheet(path, rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("card", type=Path)
    parser.add_argument("--split", type=Split, default=Split.TEST)
    parser.add_argument("--scenes", type=int, default=250, help="scenes per task")
    parser.add_argument("--photos", nargs="*", default=[], help="folders of photo packages")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(arguments.threads)
    settings = EvaluateSettings(
        model=arguments.model,
        card=arguments.card,
        split=arguments.split,
        scenes_per_task=arguments.scenes,
        photo_folders=tuple(arguments.photos),
    )
    numbers = evaluate(settings)
    write_text(settings.card / "evaluation.json", json.dumps(numbers, indent=2) + "\n")
    write_card(settings.card)
    log.info("wrote %s", settings.card)


if __name__ == "__main__":
    main()
