"""A fill model: validated from configs and headers, read from disk only when a host needs it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .adapters import Adapter, read_adapter
from .cache import TensorCache
from .config import ModelConfig
from .files import TensorInfo, num_bytes, read_json, read_weights
from .latents import vae_factor
from .parts import Part
from .recipe import Recipe, find_recipe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PIPELINES = ("FluxFillPipeline", "FluxPipeline")
"""Folders whose VAE and text encoders serve a Fill transformer."""
PROMPT_CACHE_BYTES = 256 << 20
PICTURE_CACHE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class _Component:
    """Where a part is and what is in it."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]


class FillModels:
    """Transformer, VAE, text encoders, tokenizers, recipe and adapters of one fill model.

    Attributes:
        transformer: ``FluxTransformer2DModel`` with the input channels of Fill.
        vae: ``AutoencoderKL``.
        text_encoder: CLIP, for the pooled state.
        text_encoder_2: T5 encoder.
        recipe: The settings it was trained for.
        adapters: LoRA adapters to be active in a run.
        prompts: Encoded prompts by text.
        pictures: Encoded pictures by content.
    """

    def __init__(
        self, parts: dict[str, _Component], folder: Path, recipe: Recipe, dtype: torch.dtype
    ) -> None:
        """Take validated components; :func:`load_fill_models` is the way in."""
        self.folder = folder
        self.recipe = recipe
        self.dtype = dtype
        self.adapters: tuple[Adapter, ...] = ()
        self._base: FillModels | None = None
        self.transformer_config = parts["transformer"].config
        self.vae_config = parts["vae"].config
        self.scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
        self.transformer_tensors = parts["transformer"].tensors
        self.transformer = _part("transformer", parts["transformer"], dtype)
        self.vae = _part("vae", parts["vae"], dtype)
        self.text_encoder = _part("text_encoder", parts["text_encoder"], dtype)
        self.text_encoder_2 = _part("text_encoder_2", parts["text_encoder_2"], dtype)
        self.prompts = TensorCache(PROMPT_CACHE_BYTES)
        self.pictures = TensorCache(PICTURE_CACHE_BYTES)

    @property
    def multiple(self) -> int:
        """Sides of a sampled picture are multiples of this: VAE factor times 2 x 2 packing."""
        return 2 * vae_factor(self.vae_config)

    @property
    def has_guidance(self) -> bool:
        """Whether the transformer has a guidance embedding."""
        return bool(self.transformer_config.get("guidance_embeds", False))

    @cached_property
    def tokenizer(self) -> Any:
        """CLIP's tokenizer."""
        return _load_tokenizer(self.folder / "tokenizer")

    @cached_property
    def tokenizer_2(self) -> Any:
        """T5's tokenizer."""
        return _load_tokenizer(self.folder / "tokenizer_2")

    def with_adapter(self, path: Path, strength: float) -> FillModels:
        """Return a copy that shares all weights and caches and has one more adapter.

        Raises:
            FileNotFoundError: No such file.
            ValueError: The adapter does not fit this transformer.
        """
        other = copy.copy(self)
        other._base = self  # a host may know models by weak reference: this one must stay known
        other.adapters = (*self.adapters, read_adapter(path, strength, self.transformer_tensors))
        return other


def load_fill_models(config: ModelConfig, device: torch.device) -> FillModels:
    """Check a model folder and prepare its parts; no weight is read yet.

    Args:
        config: Folder in diffusers format, optional transformer folder, recipe, precision.
        device: Where it will run; decides the data type if the precision is ``auto``.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: Pickled, damaged or foreign weights, or parts that do not fit together.
    """
    folder = Path(config.folder)
    transformer = Path(config.transformer) if config.transformer else None
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") not in PIPELINES:
        raise ValueError(
            f"{folder.name} is a {index.get('_class_name')} folder, but a FluxFillPipeline is "
            "expected; choose FLUX.1-Fill-dev or a model made from it"
        )
    parts = {name: _component(folder / name) for name in ("vae", "text_encoder", "text_encoder_2")}
    parts["transformer"] = _component(transformer or folder / "transformer")
    _check_fit(parts)
    _check_tokenizers(folder)
    recipe = find_recipe(config.recipe, folder, transformer)
    auto = torch.float32 if device.type == "cpu" else torch.bfloat16
    return FillModels(parts, folder, recipe, DTYPES.get(config.precision, auto))


def _component(folder: Path) -> _Component:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing; download the complete model folder in diffusers format"
        )
    return _Component(folder, read_json(folder / "config.json"), read_weights(folder))


def _check_fit(parts: dict[str, _Component]) -> None:
    transformer, vae = parts["transformer"].config, parts["vae"].config
    where = parts["transformer"].folder
    if transformer.get("_class_name") != "FluxTransformer2DModel":
        raise ValueError(
            f"{where} holds a {transformer.get('_class_name')}, but a FluxTransformer2DModel "
            "is expected"
        )
    latent = vae["latent_channels"]
    expected = 4 * (2 * latent + vae_factor(vae) ** 2)
    if transformer["in_channels"] != expected:
        raise ValueError(
            f"the transformer in {where} has {transformer['in_channels']} input channels, "
            f"but a Fill model with this VAE has {expected}; choose FLUX.1-Fill-dev or a model "
            "made from it"
        )
    widths = {
        "text_encoder": (parts["text_encoder"].config.get("hidden_size"), "pooled_projection_dim"),
        "text_encoder_2": (parts["text_encoder_2"].config.get("d_model"), "joint_attention_dim"),
    }
    for name, (width, key) in widths.items():
        if width != transformer.get(key):
            raise ValueError(
                f"{name} is {width} wide, but the transformer in {where} expects "
                f"{transformer.get(key)}; these parts belong to different models"
            )


def _check_tokenizers(folder: Path) -> None:
    for name in ("tokenizer", "tokenizer_2"):
        found = [
            file
            for file in ("tokenizer.json", "spiece.model", "vocab.json")
            if (folder / name / file).is_file()
        ]
        if not found:
            raise FileNotFoundError(
                f"{folder / name} holds no tokenizer; download the complete model folder"
            )


def _part(name: str, component: _Component, dtype: torch.dtype) -> Part:
    def load() -> nn.Module:
        return _load_module(name, component, dtype)

    return Part(name, load, num_bytes(component.tensors, dtype.itemsize), dtype)


def _load_module(name: str, component: _Component, dtype: torch.dtype) -> nn.Module:
    # Older diffusers knows only the older name of the argument, newer transformers only the newer.
    precision = "torch_dtype" if name in ("transformer", "vae") else "dtype"
    module, info = _class_of(name).from_pretrained(
        str(component.folder),
        **{precision: dtype},
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    # Both libraries fill missing weights with random numbers and only warn.
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{component.folder} lacks {len(missing)} weights ({missing[0]} ...); download it again"
        )
    return module


def _class_of(name: str) -> Any:
    if name == "transformer":
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel
    if name == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if name == "text_encoder":
        from transformers import CLIPTextModel

        return CLIPTextModel
    from transformers import T5EncoderModel

    return T5EncoderModel


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
