"""A file is what its header says, whatever its name: published sizes, without their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.partners import fits, is_fill_transformer, part_config
from onereward.fill.config import COMPONENTS
from support.bundled_models import BUNDLED
from support.headers import FLUX_LAYERS, write_holes
from support.published import CLIP, T5, TRANSFORMER, VAE


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the published sizes under names that say nothing."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    transformer: dict[str, Any] = TRANSFORMER | FLUX_LAYERS
    dev: dict[str, Any] = transformer | {"in_channels": 64}
    depth: dict[str, Any] = transformer | {"in_channels": 128}
    vae: dict[str, Any] = VAE
    clip: dict[str, Any] = CLIP | {"num_hidden_layers": 12}
    clip_g: dict[str, Any] = clip | {"hidden_size": 1280, "num_attention_heads": 20}
    t5: dict[str, Any] = T5 | {"num_layers": 24}
    folder = tmp_path_factory.mktemp("published")
    with torch.device("meta"):
        modules: dict[str, Any] = {
            "transformer": FluxTransformer2DModel(**transformer),
            "dev": FluxTransformer2DModel(**dev),
            "depth": FluxTransformer2DModel(**depth),
            "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**clip)),
            "clip_g": CLIPTextModel(CLIPTextConfig(**clip_g)),
            "text_encoder_2": T5EncoderModel(T5Config(**t5)),
        }
    files = {name: folder / f"{index}.safetensors" for index, name in enumerate(modules)}
    for name, module in modules.items():
        write_holes(files[name], dict(module.named_parameters()))
    return files


def test_only_fill_takes_a_mask(published: dict[str, Path]):
    configs = {name: part_config("transformer", file) for name, file in published.items()}
    assert {name for name, config in configs.items() if config} == {"transformer", "dev", "depth"}
    assert [name for name, config in configs.items() if is_fill_transformer(config)] == [
        "transformer"
    ]
    assert is_fill_transformer(part_config("transformer", BUNDLED / "transformer"))
    assert not is_fill_transformer(part_config("vae", BUNDLED / "vae"))


def test_partners_fit_by_their_sizes(published: dict[str, Path]):
    real = part_config("transformer", published["transformer"])
    toy = part_config("transformer", BUNDLED / "transformer")
    assert real is not None
    assert toy is not None
    for name in COMPONENTS[1:]:
        large, small = part_config(name, published[name]), part_config(name, BUNDLED / name)
        assert large is not None
        assert small is not None
        assert (fits(name, large, real), fits(name, small, toy)) == (True, True), name
        assert (fits(name, large, toy), fits(name, small, real)) == (False, False), name
    wide = part_config("text_encoder", published["clip_g"])
    assert wide is not None
    assert not fits("text_encoder", wide, real)


@pytest.mark.parametrize("damage", ["missing", "empty", "pickle", "cut", "no config"])
def test_what_cannot_be_read_is_no_partner(damage: str, tmp_path: Path):
    path, whole = tmp_path / "clip_l.safetensors", BUNDLED / "text_encoder" / "model.safetensors"
    assert part_config("text_encoder", whole) is not None
    if damage == "no config":
        path.mkdir()
    elif damage != "missing":
        content = {"empty": b"", "pickle": b"\x80\x02pickle", "cut": whole.read_bytes()[:-1]}
        path.write_bytes(content[damage])
    assert part_config("text_encoder", path) is None


def test_a_file_that_was_replaced_is_read_again(published: dict[str, Path], tmp_path: Path):
    path = tmp_path / "file.safetensors"
    path.symlink_to(published["vae"])
    assert part_config("vae", path) is not None
    path.unlink()
    path.symlink_to(published["text_encoder"])
    assert part_config("vae", path) is None
    assert part_config("text_encoder", path) is not None


def test_umt5_is_no_t5(tmp_path: Path):
    from transformers import UMT5Config, UMT5EncoderModel

    config: dict[str, Any] = T5 | {"num_layers": 2, "vocab_size": 256384}
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**config))
    path = tmp_path / "umt5_xxl.safetensors"
    write_holes(path, dict(model.named_parameters()))
    assert part_config("text_encoder_2", path) is None
    with pytest.raises(ValueError, match="is a UMT5 encoder, as Wan has, but the T5 encoder"):
        FileComponent("text_encoder_2", path)
