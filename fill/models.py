"""A fill model: validated from configs and headers, read from disk only when a host needs it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .checkpoint.adapters import Adapter, read_adapter
from .checkpoint.component import FileComponent
from .checkpoint.config_limits import read_model_config, read_scheduler_config
from .checkpoint.modules import compute_dtype, load_tokenizer
from .checkpoint.packing import expansion_bytes
from .checkpoint.partners import WIDTHS, fill_channels, fits
from .checkpoint.shapes import FLUX_SCHEDULER
from .checkpoint.stored_tensors import unlisted_file
from .config import COMPONENTS, PACKED_PRECISIONS, ModelConfig
from .io.files import read_json
from .memory.components import Component, least_bytes
from .memory.folder_component import FolderComponent
from .memory.packed_component import PackedComponent
from .recipe import Recipe, find_recipe
from .sampling.cache import TensorCache
from .sampling.latents import vae_factor

PIPELINES = ("FluxFillPipeline", "FluxPipeline")
"""Folders whose VAE and text encoders serve a Fill transformer."""
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")
PROMPT_CACHE_BYTES = 256 << 20
IMAGE_CACHE_BYTES = 512 << 20


Source = FolderComponent | FileComponent | PackedComponent
"""Where a component comes from."""
EncodeTexts = Callable[[Sequence[str]], list[tuple[torch.Tensor, torch.Tensor]]]
"""Texts to T5's states ``[L, D]`` and CLIP's pooled state ``[P]`` of each, on the CPU."""


class FillModels:
    """Transformer, VAE, text encoders, tokenizers, recipe and adapters of one fill model.

    Example: ``load_fill_models(ModelConfig(folder=folder), torch.device('cuda'))``.

    Attributes:
        transformer: ``FluxTransformer2DModel`` with the input channels of Fill.
        vae: ``AutoencoderKL``.
        text_encoder: CLIP, for the pooled state.
        text_encoder_2: T5 encoder.
        config: What it was loaded from; None if it was put together by hand.
        kernels: Whether the transformer runs on fused kernels: ``auto``, ``on`` or ``off``.
        offload: Whether blocks may pass through the device: ``auto``, ``on`` or ``off``.
        memory_limit: Gigabytes of the device's memory that a run may take; 0 = what is free.
        recipe: The settings it was trained for.
        sources: Where every component comes from, by name.
        transformer_source: Where the transformer comes from.
        adapters: LoRA adapters to be active in a run.
        prompts: Encoded prompts by text.
        images: Encoded images by content.
        encode_texts: What stands in for the text encoders, if they are another program's.
        sample_rows: What stands in for the sampler, if it is another program's.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        tokenizers: tuple[Path, Path],
        scheduler_config: dict[str, Any],
        recipe: Recipe,
        dtype: torch.dtype,
    ) -> None:
        """Take validated sources; :func:`load_fill_models` is the way in."""
        self.config: ModelConfig | None = None
        self.kernels, self.offload, self.memory_limit = "auto", "auto", 0.0
        self.recipe = recipe
        self.dtype = dtype
        self.adapters: tuple[Adapter, ...] = ()
        self._base: FillModels | None = None
        self._tokenizers = tokenizers
        self.scheduler_config = scheduler_config
        self.sources = sources
        self.transformer_source = sources["transformer"]
        self.transformer_config = sources["transformer"].config
        self.vae_config = sources["vae"].config
        self.max_clip_tokens = int(sources["text_encoder"].config["max_position_embeddings"])
        self.transformer_tensors = sources["transformer"].tensors
        self.transformer = _component(sources["transformer"], dtype)
        self.vae = _component(sources["vae"], dtype)
        self.text_encoder = _component(sources["text_encoder"], dtype)
        self.text_encoder_2 = _component(sources["text_encoder_2"], dtype)
        self.prompts = TensorCache(PROMPT_CACHE_BYTES)
        self.images = TensorCache(IMAGE_CACHE_BYTES)
        self.encode_texts: EncodeTexts | None = None
        self.sample_rows: Callable[..., torch.Tensor] | None = None

    @property
    def multiple(self) -> int:
        """Sides of a sampled image are multiples of this: VAE factor times 2 x 2 packing."""
        return 2 * vae_factor(self.vae_config)

    @property
    def has_guidance(self) -> bool:
        """Whether the transformer has a guidance embedding."""
        return bool(self.transformer_config.get("guidance_embeds", False))

    @property
    def expansion_bytes(self) -> int:
        """What the transformer's largest packed layer takes while it is used; 0 without any."""
        return self.transformer.expansion_bytes

    @cached_property
    def tokenizer(self) -> Any:
        """CLIP's tokenizer."""
        return load_tokenizer(self._tokenizers[0])

    @cached_property
    def tokenizer_2(self) -> Any:
        """T5's tokenizer."""
        return load_tokenizer(self._tokenizers[1])

    def with_adapter(self, path: Path, strength: float) -> FillModels:
        """Return a copy that shares all weights and caches and has one more adapter.

        Raises:
            FileNotFoundError: No such file.
            ValueError: The adapter does not fit this transformer.
        """
        models = copy.copy(self)
        models._base = self  # a host may hold models by weak reference: this one must stay
        models.adapters = (*self.adapters, read_adapter(path, strength, self.transformer_tensors))
        return models


def load_fill_models(config: ModelConfig, device: torch.device) -> FillModels:
    """Check a model's folder and files and prepare its components; no weight is read yet.

    Args:
        config: Folder in diffusers format, or a file for every component, or a mixture; recipe and
            precision.
        device: Where it will run; decides the data type if the precision is ``auto``.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: Pickled, damaged or foreign weights, or components that do not fit together.
    """
    # Where every component comes from.
    folder = Path(config.folder) if config.folder else None
    if folder is not None:
        _check_pipeline(folder)
    paths = {name: Path(path) for name in COMPONENTS if (path := getattr(config, name))}
    stored = {name: _source(name, paths.get(name), folder) for name in COMPONENTS}
    sources: dict[str, Source] = dict(stored)
    check_fit(sources)
    tokenizers = (
        _find_tokenizer("text_encoder", sources, folder, config.tokenizer),
        _find_tokenizer("text_encoder_2", sources, folder, config.tokenizer_2),
    )
    # Schedule and recipe.
    scheduler, owner = FLUX_SCHEDULER, _settings_folder(folder, sources["transformer"])
    if owner is not None:
        scheduler = read_scheduler_config(owner / "scheduler" / "scheduler_config.json")
    recipe = find_recipe(config.recipe, owner, paths.get("transformer"))
    # Data type and packing.
    dtype = compute_dtype(config.precision, device)
    if config.precision in PACKED_PRECISIONS:
        sources["transformer"] = PackedComponent(stored["transformer"], config.precision)
    models = FillModels(sources, tokenizers, scheduler, recipe, dtype)
    models.config, models.kernels = config, config.kernels
    models.offload, models.memory_limit = config.offload, config.memory_limit
    return models


def _check_pipeline(folder: Path) -> None:
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in PIPELINES:
        raise ValueError(
            f"{folder.name} is a {name} folder, but a FluxFillPipeline is expected; choose "
            "FLUX.1-Fill-dev or a model made from it"
        )


def _source(name: str, path: Path | None, folder: Path | None) -> FolderComponent | FileComponent:
    """Return where a component comes from: what was given for it, else the model folder."""
    if path is not None and not path.is_dir():
        config = folder / name / "config.json" if folder is not None else None
        base = read_model_config(config) if config is not None and config.is_file() else None
        return FileComponent(name, path, base)
    if path is None:
        assert folder is not None, "ModelConfig asks for a folder or for every component"
        path = folder / name
    if file := unlisted_file(path):
        return FileComponent(name, file, read_model_config(path / "config.json"))
    return FolderComponent(name, path)


def check_fit(components: Mapping[str, Any]) -> None:
    """Raise ValueError if the configs of the four components do not belong to one Fill model."""
    # Transformer and VAE.
    transformer, vae = components["transformer"].config, components["vae"].config
    where = components["transformer"].path
    if transformer.get("_class_name") != "FluxTransformer2DModel":
        raise ValueError(
            f"{where} holds a {transformer.get('_class_name')}, but a FluxTransformer2DModel "
            "is expected"
        )
    expected = fill_channels(vae)
    if transformer["in_channels"] != expected:
        raise ValueError(
            f"the transformer in {where} has {transformer['in_channels']} input channels"
            f"{_family(transformer['in_channels'], 4 * vae['latent_channels'])}, but a Fill model "
            f"with this VAE has {expected}; choose FLUX.1-Fill-dev or a model made from it"
        )
    # Transformer and text encoders.
    for name, (width, key) in WIDTHS.items():
        config = components[name].config
        if not fits(name, config, transformer):
            raise ValueError(
                f"{name} is {config.get(width)} wide, but the transformer in {where} expects "
                f"{transformer.get(key)}; these components belong to different models"
            )


def _family(channels: int, latent: int) -> str:
    """Name which FLUX takes so many channels, where ``latent`` are those of a packed latent."""
    if channels == latent:
        return " (as FLUX.1-dev, -schnell, Krea and Kontext have)"
    return " (as FLUX.1 Depth and Canny have)" if channels == 2 * latent else ""


def _settings_folder(folder: Path | None, source: Source) -> Path | None:
    """Return the model folder if its recipe and scheduler are meant for a transformer of this size.

    They belong to the folder's own transformer: any other model that takes only VAE or text
    encoders from there has a recipe of its own.
    """
    config = folder / "transformer" / "config.json" if folder is not None else None
    if config is None or not config.is_file():
        return folder
    values = read_model_config(config)
    return folder if all(values.get(key) == source.config.get(key) for key in _SIZES) else None


_SIZES = ("in_channels", "num_layers", "num_single_layers", "num_attention_heads")


def _find_tokenizer(
    encoder: str, sources: dict[str, Source], folder: Path | None, fallback: str
) -> Path:
    """Return the folder of an encoder's tokenizer.

    An encoder from a file uses the model folder's unless that was made for another number of
    tokens.
    """
    name = encoder.replace("text_encoder", "tokenizer")
    path = folder / name if folder is not None else None
    source = sources[encoder]
    if path is not None and isinstance(source, FileComponent):
        config = path.parent / encoder / "config.json"
        is_other = (
            config.is_file()
            and read_model_config(config).get("vocab_size") != source.config["vocab_size"]
        )
        path = None if is_other or not path.is_dir() else path
    path = path or (Path(fallback) if fallback else None)
    if path is None:
        raise FileNotFoundError(
            f"{source.path.name} has no tokenizer; give the folder of one as {name}, or choose a "
            "model folder of the same kind"
        )
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise FileNotFoundError(f"{path} holds no tokenizer; download the complete model folder")
    return path


def _component(source: Source, dtype: torch.dtype) -> Component:
    sizes = source.tensor_bytes(dtype)
    least = None if source.name == "vae" else least_bytes(sizes)
    loading = source.loading_bytes(dtype) if isinstance(source, PackedComponent) else None
    component = Component(
        source.name, lambda: source.load(dtype), sum(sizes.values()), dtype, least, loading
    )
    precision = source.precision if isinstance(source, PackedComponent) else ""
    component.expansion_bytes = expansion_bytes(source.tensors, precision)
    return component
