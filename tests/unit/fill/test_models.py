"""Model folders: what is refused, in which words, and that nothing is read too early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from onereward.fill.config import ModelConfig
from onereward.fill.io.files import read_header, read_weights
from onereward.fill.models import load_fill_models
from onereward.fill.recipe import FLUX_FILL
from support.bundled_models import BUNDLED
from support.recording_host import RecordingHost

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model to damage."""
    return Path(shutil.copytree(BUNDLED, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def truncate(folder: Path) -> None:
    path = weights_of(folder / "transformer")
    path.write_bytes(path.read_bytes()[:-100])


def pickle_only(folder: Path) -> None:
    weights_of(folder / "vae").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def garbage(folder: Path) -> None:
    weights_of(folder / "vae").write_bytes(b"not a safetensors file at all")


def index_that_escapes(folder: Path) -> None:
    path = weights_of(folder / "transformer")
    index = {"weight_map": {"x": "../../vae/diffusion_pytorch_model.safetensors"}}
    path.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(folder: Path) -> None:
    path = weights_of(folder / "transformer")
    index = {"weight_map": {"x": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    path.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def in_folder(name: str, **changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, **changes)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: shutil.rmtree(f), FileNotFoundError, "model_index.json is missing"),
        (lambda f: shutil.rmtree(f / "vae"), FileNotFoundError, "vae is missing"),
        (
            lambda f: (f / "vae" / "config.json").unlink(),
            FileNotFoundError,
            "config.json is missing",
        ),
        (lambda f: shutil.rmtree(f / "tokenizer_2"), FileNotFoundError, "holds no tokenizer"),
        (
            lambda f: weights_of(f / "text_encoder_2").unlink(),
            FileNotFoundError,
            "no safetensors weights",
        ),
        (missing_shard, FileNotFoundError, "00002-of-00002.safetensors is missing"),
        (pickle_only, ValueError, "only pickled weights"),
        (truncate, ValueError, "cut off or damaged"),
        (garbage, ValueError, "no safetensors file"),
        (index_that_escapes, ValueError, "outside its folder"),
        (
            lambda f: (f / "vae" / "config.json").write_text("{"),
            ValueError,
            "cut off in the middle",
        ),
        (
            in_folder("model_index.json", _class_name="StableDiffusionXLPipeline"),
            ValueError,
            "is a StableDiffusionXLPipeline",
        ),
        (
            in_folder("transformer/config.json", _class_name="UNet2DConditionModel"),
            ValueError,
            "holds a UNet2DConditionModel",
        ),
        (in_folder("transformer/config.json", in_channels=64), ValueError, "64 input channels"),
        (
            in_folder("transformer/config.json", joint_attention_dim=4096),
            ValueError,
            "text_encoder_2 is .* expects 4096",
        ),
        (
            in_folder("transformer/config.json", pooled_projection_dim=768),
            ValueError,
            "text_encoder is .* expects 768",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_broken_folder_is_refused_before_loading(
    folder: Path, damage: Callable, error: type[Exception], message: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        load_fill_models(ModelConfig(folder=str(folder)), CPU)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_filled_with_random_numbers(folder: Path) -> None:
    path = weights_of(folder / "transformer")
    tensors = load_file(path)
    removed = sorted(tensors)[0]
    del tensors[removed]
    save_file(tensors, path)
    models = load_fill_models(ModelConfig(folder=str(folder)), CPU)
    with pytest.raises(ValueError, match="lacks 1 weights"):
        _ = models.transformer.module


def test_weights_are_read_at_first_use_and_outside_inference_mode() -> None:
    with torch.inference_mode():
        models = load_fill_models(ModelConfig(folder=str(BUNDLED)), CPU)
        components = (models.transformer, models.vae, models.text_encoder, models.text_encoder_2)
        assert not any(component.is_loaded for component in components)
        for component in components:
            with RecordingHost().resident(component, activation_bytes=1):
                assert component.is_loaded
    for component in components:
        assert not any(p.is_inference() for p in component.module.parameters()), component.name
        assert not any(p.requires_grad for p in component.module.parameters()), component.name


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("auto", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp32", torch.float32),
    ],
)
def test_precision_and_size(precision: str, dtype: torch.dtype) -> None:
    models = load_fill_models(ModelConfig(folder=str(BUNDLED), precision=precision), CPU)
    weights = list(models.transformer.module.parameters())
    assert {w.dtype for w in weights} == {dtype}
    assert models.transformer.num_bytes == sum(w.nbytes for w in weights)


def test_a_separate_transformer_replaces_the_bases(folder: Path, tmp_path: Path) -> None:
    transformer = Path(shutil.move(folder / "transformer", tmp_path / "OneReward-transformer"))
    models = load_fill_models(ModelConfig(folder=str(folder), transformer=str(transformer)), CPU)
    assert models.transformer_tensors == read_weights(transformer)
    (folder / "recipe.json").unlink()
    models = load_fill_models(ModelConfig(folder=str(folder), transformer=str(transformer)), CPU)
    assert models.recipe.name == "OneReward"


def test_headers_say_what_the_library_loads() -> None:
    path = weights_of(BUNDLED / "vae")
    infos, _ = read_header(path)
    assert {k: v.shape for k, v in infos.items()} == {
        k: tuple(v.shape) for k, v in load_file(path).items()
    }


def test_a_folders_recipe_is_not_for_a_transformer_of_another_size(tmp_path: Path) -> None:
    """The bundled model lends VAE and encoders; settings made for it would spoil a real model."""
    transformer = tmp_path / "transformer"
    shutil.copytree(BUNDLED / "transformer", transformer)
    config = json.loads((transformer / "config.json").read_text())
    (transformer / "config.json").write_text(json.dumps(config | {"num_layers": 19}))
    loaded = load_fill_models(ModelConfig(folder=str(BUNDLED), transformer=str(transformer)), CPU)
    assert loaded.recipe == FLUX_FILL
    copy = tmp_path / "same"
    shutil.copytree(BUNDLED / "transformer", copy)
    loaded = load_fill_models(ModelConfig(folder=str(BUNDLED), transformer=str(copy)), CPU)
    assert loaded.recipe.name == "bundled"
