"""Which files belong to a transformer, told by their headers before any is chosen."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..sampling.latents import vae_factor
from .config_limits import read_model_config
from .identify import identify
from .shapes import make_config
from .stored_tensors import open_checkpoint

WIDTHS = {
    "text_encoder": ("hidden_size", "pooled_projection_dim"),
    "text_encoder_2": ("d_model", "joint_attention_dim"),
}
"""Of each text encoder: where its config has its width, and where the transformer's has it."""


def part_config(component: str, path: Path) -> Mapping[str, Any] | None:
    """Return the config of a component in a file or folder; None if it holds no such thing.

    Files are opened once while they stay as they are.

    Example: ``part_config('vae', Path('ae.safetensors'))``.
    """
    try:
        stat = path.stat()
        return _known_config(component, path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=1024)
def _known_config(component: str, path: Path, size: int, changed_ns: int) -> Any:
    del size, changed_ns  # of the file that this answer is for
    try:
        return read_part_config(component, path)
    except (OSError, ValueError, RuntimeError):  # the last without the package gguf
        return None


def read_part_config(component: str, path: Path) -> Mapping[str, Any]:
    """Return the same, of a file that may hold several components.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged or something else; says what.
    """
    if path.is_dir():
        return read_model_config(path / "config.json")
    checkpoint = open_checkpoint(path)
    return make_config(component, checkpoint, identify(checkpoint, component), None)


def fits(component: str, config: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
    """Tell whether a VAE or text encoder belongs to a transformer, by their configs."""
    if component == "vae":
        return transformer.get("in_channels") == fill_channels(config)
    width, expected = WIDTHS[component]
    return config.get(width) == transformer.get(expected)


def fill_channels(vae: Mapping[str, Any]) -> int:
    """Return the input channels of a Fill transformer: latent, masked latent and packed mask."""
    return 4 * (2 * vae["latent_channels"] + vae_factor(vae) ** 2)


def is_fill_transformer(config: Mapping[str, Any] | None) -> bool:
    """Tell whether a transformer takes a mask; FLUX's others take one latent, or two."""
    if config is None or config.get("_class_name") != "FluxTransformer2DModel":
        return False
    inputs = config.get("in_channels") or 0
    return inputs > 2 * (config.get("out_channels") or inputs)
