"""The library classes that the components of a fill model are built from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..io.json_text import label_of, read_json, read_text, shorten

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
    *("added_tokens.json", "merges.txt", "chat_template.jinja"),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type of a config's precision; where that names none, by the device."""
    return DTYPES.get(precision, torch.float32 if device.type == "cpu" else torch.bfloat16)


def class_of(component: str) -> Any:
    """Return the class of a component of a fill model."""
    if component == "transformer":
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel
    if component == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if component == "text_encoder":
        from transformers import CLIPTextModel

        return CLIPTextModel
    from transformers import T5EncoderModel

    return T5EncoderModel


def empty_module(component: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a component without memory for parameters; buffers, which no file holds, are real."""
    from accelerate import init_empty_weights

    cls = class_of(component)
    with (
        _explained(f"the config of {component}", ValueError),
        torch.inference_mode(False),
        torch.no_grad(),
        init_empty_weights(include_buffers=False),
    ):
        if component in ("transformer", "vae"):
            return cls.from_config(dict(config))
        module = cls(cls.config_class(**config))
    if component == "text_encoder_2":
        module.encoder.embed_tokens = module.shared  # one embedding under two names
    return module


def load_pretrained(
    cls: Any, folder: Path, error: type[Exception] = ValueError, **options: Any
) -> nn.Module:
    """Load a library's model from a folder of safetensors; raise ``error`` if it lacks weights."""
    with _explained(label_of(folder), error):
        module, info = cls.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    # Both libraries fill missing weights with random numbers and only warn.
    if missing := sorted(info["missing_keys"]):
        raise error(
            f"{label_of(folder)} lacks {len(missing)} weights ({missing[0]} ...); download it again"
        )
    return module


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's own tokenizer; ValueError if its files are damaged."""
    from transformers import AutoTokenizer

    for file in (folder / name for name in TOKENIZER_FILES):
        if file.exists():  # a sentence of our own comes before the library's
            (read_json if file.suffix == ".json" else read_text)(file)
    with _explained(f"the tokenizer in {label_of(folder)}", ValueError):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        if not tokenizer.model_max_length >= 1 or not len(tokenizer):
            raise ValueError(f"its length is {tokenizer.model_max_length}")
    return tokenizer


_PYTHONS_OWN = (TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)
"""Errors whose texts are about code, not about files."""


@contextmanager
def _explained(label: str, error: type[Exception]) -> Iterator[None]:
    """Turn what a library raises for files that it cannot use into a sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as cause:
        says_little = isinstance(cause, (*_PYTHONS_OWN, UnicodeError))
        reason = "its settings do not fit together" if says_little else str(cause)
        reason = shorten(reason.replace("NoneType", "null"), 150)
        raise error(f"{label} cannot be loaded ({reason}); download it again") from cause
