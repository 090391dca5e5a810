"""The bundled fill model: its size, its card, loadable by diffusers alone, better than nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.recipe import read_recipe
from onereward.lab.base_model.models import load_folder
from onereward.lab.base_model.report.card import write_card
from onereward.lab.base_model.sampling import SampleSettings, sample_scenes
from onereward.lab.oracle import judge
from onereward.lab.world.conditions import TASKS, sample_conditions
from onereward.lab.world.splits import Split

BUNDLED = Path(__file__).parents[2] / "assets" / "fill"
MAX_BYTES = 16_000_000


def test_folder_is_within_its_budget_and_names_its_recipe():
    assert sum(f.stat().st_size for f in BUNDLED.rglob("*") if f.is_file()) < MAX_BYTES
    assert read_recipe(BUNDLED / "recipe.json").name == "bundled"


def test_the_card_is_written_from_the_records(tmp_path: Path):
    shutil.copytree(BUNDLED.parent / "card", tmp_path / "card")
    write_card(tmp_path / "card")
    written = (tmp_path / "model-card.md").read_text()
    assert written == (BUNDLED.parent / "model-card.md").read_text()


def test_diffusers_own_pipeline_runs_it():
    from diffusers import FluxFillPipeline

    scenes = sample_conditions(Split.DEV, 5, torch.tensor([TASKS.index("text")]))
    pipeline: Any = FluxFillPipeline.from_pretrained(BUNDLED, torch_dtype=torch.float32)
    image = pipeline(
        prompt=scenes.prompts,
        image=scenes.source,
        mask_image=scenes.mask[:, None],
        height=64,
        width=64,
        num_inference_steps=2,
        max_sequence_length=read_recipe(BUNDLED / "recipe.json").max_sequence_length,
        output_type="np",
    ).images
    assert image.shape == (1, 64, 64, 3)
    assert pipeline.vae_scale_factor == 4


@pytest.mark.parametrize("task", ["fill", "remove"])
def test_it_is_better_than_a_grey_patch(task: str):
    scenes = sample_conditions(Split.DEV, 6, torch.full((12,), TASKS.index(task)))
    images = sample_scenes(load_folder(BUNDLED), scenes, SampleSettings(steps=8))
    grey = torch.full_like(images, 0.5)
    assert int(judge(images, scenes).usable.sum()) > int(judge(grey, scenes).usable.sum())
