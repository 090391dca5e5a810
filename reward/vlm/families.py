"""The vision-language families that can judge, by the names in their ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...fill.checkpoint.config_limits import read_model_config as read_config
from ...fill.io.json_text import label_of, quote, read_json, read_text
from ..judge import JudgeError

MODEL_TYPES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
}
"""Class of transformers by ``model_type``."""
FAMILY_NAMES = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5"
_TEMPLATE, TEMPLATE_FILE = "chat_template.jinja", "chat_template.json"
_PROCESSOR, _PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
_OWN = ("model.visual.", "model.language_model.", "model.layers.", "model.norm.", "model.embed")
_OWN += ("visual.", "language_model.", "lm_head.", "mtp.")
"""Begins the names of all tensors of these families; ``mtp`` is for faster generation."""


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return a folder's ``config.json`` if it is of a family that can judge.

    Example: ``read_model_config(folder)['image_token_id']``.

    Raises:
        FileNotFoundError: It is not there.
        JudgeError: A single file, another model, or one in a packed format.
    """
    if folder.is_file():
        raise JudgeError(
            f"{label_of(folder)} is a single file, but a judge needs a folder in transformers "
            "format; load it with Load CLIP and connect OneReward Judge From Native instead"
        )
    values = read_config(folder / "config.json")
    kind = values.get("model_type")
    if kind not in MODEL_TYPES:
        raise JudgeError(
            f"{label_of(folder)} is a {quote(kind)} model, but a judge needs {FAMILY_NAMES}; "
            "choose such a folder"
        )
    if packing := values.get("quantization_config"):
        method = packing.get("quant_method") if isinstance(packing, Mapping) else None
        raise JudgeError(
            f"{label_of(folder)} is quantised ({method or 'unknown method'}), which cannot judge; "
            "choose the original folder in bf16 and precision nf4 or fp8, which take as little"
        )
    return values


def model_class(kind: str) -> Any:
    """Return the class of transformers for a ``model_type``; JudgeError if it is too new."""
    import transformers

    cls = getattr(transformers, MODEL_TYPES[kind], None)
    if cls is None:
        raise JudgeError(
            f"transformers {transformers.__version__} has no {MODEL_TYPES[kind]}; update it with: "
            "pip install -U transformers"
        )
    return cls


def read_image_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder's image processor, from either generation's file."""
    if (folder / _PREPROCESSOR).exists() or not (folder / _PROCESSOR).exists():
        return read_config(folder / _PREPROCESSOR)
    values = read_json(folder / _PROCESSOR).get("image_processor")
    if not isinstance(values, dict):
        raise JudgeError(
            f"{label_of(folder)}/{_PROCESSOR} has no image_processor; download {_PREPROCESSOR} of "
            "the original checkpoint into that folder"
        )
    return values


def read_chat_template(folder: Path) -> str | None:
    """Return the chat template for images; None: the tokenizer's own.

    The published folders have it in a file for processors, while their tokenizer brings one that
    may be for text alone.
    """
    if (folder / _TEMPLATE).is_file():
        return read_text(folder / _TEMPLATE)
    for name in (TEMPLATE_FILE, _PROCESSOR):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None


def foreign_tensors(names: Mapping[str, Any]) -> list[str]:
    """Return the tensors of a checkpoint that the bare model has no use for, such as a reward head.

    Example: ``foreign_tensors(read_weights(folder)) == ['score.weight']``.
    """
    return sorted(name for name in names if not name.startswith(_OWN))


def check_tensors(folder: Path, names: Mapping[str, Any], heads: tuple[str, ...] = ()) -> None:
    """Raise JudgeError if a checkpoint has tensors that nobody uses.

    Args:
        folder: Of the checkpoint.
        names: Its tensors.
        heads: Begins the names of those that a card reads by itself, such as ``score.``.
    """
    unused = [name for name in foreign_tensors(names) if not name.startswith(heads or ("\0",))]
    if unused:
        raise JudgeError(
            f"{label_of(folder)} has {unused[0]}, a head that this judge does not read: the bare "
            "model would answer something else; choose a card for this checkpoint, or its base "
            "model"
        )
