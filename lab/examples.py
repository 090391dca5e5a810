"""Write ``assets/examples/``: what the templates load like a user's own data.

``python -m onereward.lab.examples TARGET``

``toy-train`` and ``toy-test`` are edit data sets of scenes that the bundled models know;
``toy-preferences`` holds two candidates of every training scene, labelled by the oracle; ``scenes``
has one source per task, whose transparent area is the mask; ``photo`` has a photograph with a mask.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ..fill.config import ModelConfig
from ..fill.local_host import LocalHost
from ..fill.models import load_fill_models
from ..reward.preference import PreferenceSet
from ..training.data.conditions import EditDataset
from ..training.data.edit_dataset import EditDatasetConfig
from ..training.data.generate import GenerateConfig, generate_candidates
from ..training.data.label import label
from .ground_truth import WorldGroundTruth
from .labeller import GroundTruthLabeller
from .toy_dataset import make_from_world
from .world.conditions import TASKS, sample_conditions
from .world.splits import Split

ASSETS = Path(__file__).resolve().parents[1] / "assets"
NUM_TRAIN, NUM_TEST = 24, 4
CANDIDATES = GenerateConfig(num_candidates=2, steps=(2, 6))
MARGIN = 0.05
"""Least difference of two oracle scores that makes a pair."""
SCENE_BATCH = 20_000
"""Index of a batch of the world's dev split: training never used it."""
SPOON = (
    *((394, 64), (430, 66), (426, 110), (404, 182), (392, 232), (410, 258), (412, 298)),
    *((392, 328), (348, 332), (322, 312), (322, 266), (346, 240), (374, 228), (388, 196)),
    *((404, 140), (400, 100)),
)
"""Outline of the spoon in the photograph, x and y in pixels."""


def write_examples(target: Path) -> None:
    """Write all examples into an empty or missing folder.

    The scenes are the same on every machine. Candidates are the same every time on one machine;
    another processor may round them otherwise.
    """
    host = LocalHost("cpu")
    for name, split, num in (
        ("toy-train", Split.TRAIN, NUM_TRAIN),
        ("toy-test", Split.TEST, NUM_TEST),
    ):
        make_from_world(target / name, split, EditDatasetConfig(num_conditions=num), host)
    write_preferences(target / "toy-preferences", target / "toy-train")
    write_scenes(target / "scenes")
    write_photograph(target / "photo")


def write_preferences(folder: Path, conditions: Path) -> None:
    """Write candidates of the bundled model and the oracle's preferences among them.

    Args:
        folder: Where they go.
        conditions: An edit data set of scenes of the toy world.
    """
    host = LocalHost("cpu")
    models = load_fill_models(ModelConfig(folder=str(ASSETS / "fill")), host.device)
    data = PreferenceSet(folder)
    generate_candidates(EditDataset(conditions), models, data, CANDIDATES, host)
    label(data, GroundTruthLabeller(WorldGroundTruth()), MARGIN, host)


def write_scenes(folder: Path) -> None:
    """Write a source image per task; an extension's is whole, the others' masks are transparent."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = sample_conditions(Split.DEV, SCENE_BATCH, torch.arange(len(TASKS)))
    for row, task in enumerate(TASKS):
        if task == "extend":  # the node makes the new area itself
            image = _image(scenes.target[row]).convert("RGBA")
        else:
            image = _image(scenes.source[row])
            image.putalpha(_image(1 - scenes.mask[row][None]).convert("L"))
        image.save(folder / f"{task}.png")


def write_photograph(folder: Path) -> None:
    """Write a photograph of a cup of coffee, and a mask of its spoon.

    It is scikit-image's ``coffee``: CC0 by the photographer, Rachel Michetti. The bundled model
    was not trained on it.
    """
    import skimage

    folder.mkdir(parents=True, exist_ok=True)
    source = Path(skimage.__file__).parent / "data" / "coffee.png"
    shutil.copyfile(source, folder / "coffee.png")
    with Image.open(source) as image:
        mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).polygon(SPOON, fill=255)
    mask.save(folder / "coffee_mask.png", optimize=True)


def _image(pixels: torch.Tensor) -> Image.Image:
    """Return pixels ``[C, H, W]``, 0..1, as an image: RGB, or grey with one channel."""
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="an empty or missing folder")
    write_examples(parser.parse_args().target)


if __name__ == "__main__":
    main()
