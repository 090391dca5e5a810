"""Model folders as people have them: variants of a precision, and shards whose index is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from onereward.fill.config import COMPONENTS, ModelConfig
from onereward.fill.models import load_fill_models
from support.bundled_models import BUNDLED, bundled_models

SHARDS = 3


def rename(end: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.rename(file.with_name(file.stem + end))

    return write


def split(name: str) -> Callable[[Path], None]:
    """Return what replaces a file by shards; ``{n}`` and ``{total}`` stand for their numbers."""

    def write(file: Path) -> None:
        tensors = list(load_file(file).items())
        file.unlink()
        for index in range(SHARDS):
            shard = name.format(stem=file.stem, n=f"{index + 1:05d}", total=f"{SHARDS:05d}")
            save_file(dict(tensors[index::SHARDS]), file.with_name(shard))

    return write


def damaged_fp16_beside(file: Path) -> None:
    """Put a damaged file of another precision beside the one that is to be taken."""
    file.with_name(f"{file.stem}.fp16.safetensors").write_bytes(b"damaged")


LAYOUTS = {
    "fp16 variant": rename(".fp16.safetensors"),
    "bf16 beside fp16": lambda file: (damaged_fp16_beside(file), rename(".bf16.safetensors")(file)),
    "plain beside fp16": damaged_fp16_beside,
    "shards": split("{stem}-{n}-of-{total}.safetensors"),
    "shards of a variant": split("{stem}.fp16-{n}-of-{total}.safetensors"),
    "shards of a variant, as older libraries name them": split(
        "{stem}-{n}-of-{total}.fp16.safetensors"
    ),
}


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_holds_what_the_plain_one_holds(layout: str, tmp_path: Path):
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    for component in COMPONENTS:
        (file,) = (folder / component).glob("*.safetensors")
        LAYOUTS[layout](file)
    loaded = load_fill_models(
        ModelConfig(folder=str(folder), precision="fp32"), torch.device("cpu")
    )
    truth = bundled_models()
    assert loaded.recipe == truth.recipe
    assert loaded.tokenizer_2("a red circle") == truth.tokenizer_2("a red circle")
    for component in COMPONENTS:
        values = weights(getattr(loaded, component).module)
        expected = weights(getattr(truth, component).module)
        assert set(values) == set(expected)
        for name, value in expected.items():
            assert torch.equal(values[name], value), f"{component} {name}"


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    (file,) = (folder / "transformer").glob("*.safetensors")
    LAYOUTS["shards"](file)
    (folder / "transformer" / f"{file.stem}-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"-00002-of-00003\.safetensors\); put all shards"):
        load_fill_models(ModelConfig(folder=str(folder)), torch.device("cpu"))
