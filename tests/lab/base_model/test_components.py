"""Muon, tokenizers, loss weights and the exported folder against independent truths."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onereward.fill.recipe import read_recipe
from onereward.lab.base_model.config import FillTrainConfig
from onereward.lab.base_model.export import export_pipeline
from onereward.lab.base_model.models import load_folder
from onereward.lab.base_model.muon import Muon, orthogonalise
from onereward.lab.base_model.pool import IGNORED, letter_positions, loss_weight
from onereward.lab.base_model.report.photo_edits import replicate_edges
from onereward.lab.base_model.sampling import SampleSettings, sample_scenes
from onereward.lab.base_model.tokenizers import (
    MAX_TOKENS,
    NEGATIVE_PROMPTS,
    build_clip_tokenizer,
    build_t5_tokenizer,
    tokenize,
)
from onereward.lab.base_model.transformer import FillTrainer
from onereward.lab.world.conditions import sample_conditions
from onereward.lab.world.splits import Split


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)], ids=str)
def test_orthogonalised_singular_values_are_near_one(shape: tuple[int, int]):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    # Jordan's coefficients trade exactness for speed: 0.7 to 1.2 is where they converge.
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3


def test_muon_solves_a_linear_problem():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(8, 8, generator=generator)
    weight = torch.zeros(8, 8, requires_grad=True)
    optimizer = Muon([weight], lr=0.3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        inputs = torch.randn(32, 8, generator=generator)
        ((inputs @ (weight - truth)) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float((weight.detach() - truth).abs().max()) < 0.1


def test_t5_spells_words_letter_by_letter_and_knows_every_prompt():
    tokenizer = build_t5_tokenizer()
    assert tokenizer.tokenize('the words "ABQZ"')[-5:] == ["A", "B", "Q", "Z", '"']
    scenes = sample_conditions(Split.TRAIN, 0, torch.arange(200) % 4)
    for prompt in [*scenes.prompts, *NEGATIVE_PROMPTS]:
        ids = tokenizer(prompt).input_ids
        assert tokenizer.unk_token_id not in ids, prompt
        assert len(ids) <= MAX_TOKENS


def test_letters_know_their_position_in_the_word():
    """Against the words of the prompts; other prompts have no positions."""
    tokenizer = build_t5_tokenizer()
    prompts = ['the words "ABQZ"', 'the words "K"', "a red circle", ""]
    ids = torch.tensor(tokenize(tokenizer, prompts))
    quotes: Any = tokenizer.convert_tokens_to_ids(['▁"', '"'])
    for prompt, row, tokens in zip(prompts, letter_positions(ids, *quotes), ids, strict=True):
        word = prompt.split('"')[1] if '"' in prompt else ""
        letters = tokenizer.convert_ids_to_tokens(tokens[row >= 0].tolist())
        assert "".join(letters) == word
        assert row[row >= 0].tolist() == list(range(len(word)))
        assert (row[row < 0] == IGNORED).all()


def test_the_t5_starts_out_attending_one_to_four_tokens_back(fill_config: FillTrainConfig):
    t5 = FillTrainer(replace(fill_config, width=128)).components.t5
    t5.set_attn_implementation("eager")
    ids = torch.arange(10, 22)[None]
    shares = t5(ids, output_attentions=True).attentions[0][0]
    for head in range(4):
        for token in range(head + 1, 12):
            assert shares[head, token].argmax() == token - 1 - head
            assert shares[head, token].max() > 0.5


def test_clip_separates_all_colours_and_shapes():
    tokenizer = build_clip_tokenizer()
    scenes = sample_conditions(Split.TRAIN, 0, torch.zeros(200, dtype=torch.long))
    prompts = sorted(set(scenes.prompts))
    ids = [tuple(tokenizer(prompt).input_ids) for prompt in prompts]
    assert len(set(ids)) == len(prompts)
    assert max(len(i) for i in ids) <= MAX_TOKENS


def test_loss_weight_covers_the_mask_and_favours_small_ones():
    mask = torch.zeros(2, 16, 16)
    mask[0, :8, :8] = 1
    mask[1] = 1
    weight = loss_weight(mask, torch.zeros(2, 4, 32), factor=4, keep=0.0)
    assert (weight[0, 0] > 0).all()
    assert (weight[0, 1:] == 0).all()
    # A quarter of the area gets half of the total, not a quarter.
    assert float(weight[0].sum() / weight[1].sum()) == pytest.approx(0.5)


def _make_encoder_certain(vae: Any) -> None:
    """The pipeline draws from the posterior; a variance near 0 makes that its mode."""
    channels = vae.config["latent_channels"]
    with torch.no_grad():
        vae.encoder.conv_out.weight[channels:] = 0
        vae.encoder.conv_out.bias[channels:] = -20


def test_exported_folder_gives_what_diffusers_own_pipeline_gives(
    fill_config: FillTrainConfig, tmp_path: Path
):
    from diffusers import FluxFillPipeline

    components = FillTrainer(fill_config).components
    for parameter in components.transformer.parameters():  # zeros would hide a bug
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    _make_encoder_certain(components.vae)
    export_pipeline(components, tmp_path / "model")
    assert read_recipe(tmp_path / "model" / "recipe.json").max_sequence_length == MAX_TOKENS
    loaded = load_folder(tmp_path / "model")
    scenes = sample_conditions(Split.DEV, 0, torch.arange(4))
    images = sample_scenes(loaded, scenes, SampleSettings(steps=3, seed=5))
    noise = torch.randn(4, 64, 16, generator=torch.Generator().manual_seed(5))
    pipeline = FluxFillPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    call: Any = pipeline
    expected = call(
        prompt=scenes.prompts,
        image=scenes.source,
        mask_image=scenes.mask[:, None],
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.5,
        latents=noise,
        max_sequence_length=MAX_TOKENS,
        output_type="np",
    ).images
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=5e-3)


def test_export_replaces_a_folder_and_names_no_path(fill_config: FillTrainConfig, tmp_path: Path):
    components = FillTrainer(fill_config).components
    for _ in range(2):
        export_pipeline(components, tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file.name
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "FluxFillPipeline"


def test_edge_replication_repeats_the_nearest_pixel():
    image = torch.arange(8.0).expand(3, 4, 8).clone()
    mask = torch.zeros(4, 8)
    mask[:, 6:] = 1
    assert (replicate_edges(image, mask)[:, :, 6:] == 5).all()
