"""What OneReward Load Model takes where nothing was chosen: a real model, and the files for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...fill.checkpoint.partners import fits, is_fill_transformer, part_config, read_part_config
from . import folders, model_files
from .model_files import FROM_MODEL

PARTS = {"vae": "vae", "text_encoder": "clip", "text_encoder_2": "t5"}
"""The loader's input for each component beside the transformer."""
_PUBLISHED = {
    "transformer": (
        "flux.1-fill-dev-OneReward-transformer_fp8.safetensors",
        "Comfy-Org/OneReward_repackaged",
    ),
    "vae": ("ae.safetensors", "Comfy-Org/Lumina_Image_2.0_Repackaged"),
    "clip": ("clip_l.safetensors", "comfyanonymous/flux_text_encoders"),
    "t5": ("t5xxl_fp8_e4m3fn_scaled.safetensors", "comfyanonymous/flux_text_encoders"),
}
"""A file for each input, and its repository on the Hugging Face Hub."""
_PREFERRED = {
    # Stable Diffusion 3 has a VAE of the same sizes.
    "vae": (r"^ae\b", "flux", r"^(?!.*sd.?3)"),
    "clip": ("^clip_l", "clip|vit-l", ""),
    "t5": ("fp8.*scaled", "fp8", "fp16|bf16", "q8", "q[56]", ""),
}
"""Patterns of file names, the best first; what a file is says its header."""


def default_choice() -> tuple[str, str]:
    """Return the loader's defaults for model and transformer: real ones where they are there.

    Example: ``(NO_FOLDER, 'flux.1-fill-dev-OneReward-transformer_fp8.safetensors')``.
    """
    transformer = _best_transformer()
    models = [n for n in folders.model_names()[1:-1] if not folders.is_demo(_folder(n))]
    models.sort(key=lambda name: not _is_onereward(name))
    complete = [name for name in models if _is_fill(_folder(name) / "transformer")]
    if complete:
        is_better = _is_onereward(transformer) and not _is_onereward(complete[0])
        return complete[0], transformer if is_better else FROM_MODEL
    if transformer:
        return (models or [folders.NO_FOLDER])[0], transformer
    return folders.BUNDLED, FROM_MODEL


def _is_onereward(name: str) -> bool:
    return "onereward" in name.lower()


def _folder(name: str) -> Path:
    folder = folders.model_folder(name)
    assert folder is not None, "only asked for names of folders"
    return folder


def _is_fill(path: Path | None) -> bool:
    return path is not None and is_fill_transformer(part_config("transformer", path))


def _best_transformer() -> str:
    """Return the first OneReward transformer there is, else another of Fill; empty: none."""
    names = [n for n in folders.transformer_names()[1:] if re.search("onereward|fill", n.lower())]
    # Single files first, which are smaller as a rule.
    names.sort(key=lambda n: (not _is_onereward(n), not model_files.is_file_name(n), len(n), n))
    # Opening a GGUF file would import a large library whenever the front end asks for the nodes.
    return next(
        (n for n in names if n.endswith(".gguf") or _is_fill(folders.transformer_path(n))), ""
    )


def model_paths(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the path of every component by its field of ModelConfig; empty: the folder's own.

    What was left open, and what the model folder lacks or has for another transformer only, is
    taken from ComfyUI's folders. Nothing but headers is read.

    Args:
        values: The loader's choices; None where one is linked and not known yet.

    Raises:
        FileNotFoundError: A choice is gone, or no file fits; says which to get and where to put it.
        ValueError: The transformer is something else.
    """
    hub_id = (values.get("hub_id") or "").strip()
    name = values.get("model") or ""
    folder = folders.download_folder(hub_id) if hub_id else folders.model_folder(name)
    transformer = folders.transformer_path(values.get("transformer") or FROM_MODEL)
    files = {
        part: model_files.model_file(what, values.get(what) or "") for part, what in PARTS.items()
    }
    if not hub_id:
        if folder is None and transformer is None:
            transformer = folders.transformer_path(_best_transformer() or FROM_MODEL)
        folder, files = _with_partners(folder, transformer, files)
    paths = {"folder": folder, "transformer": transformer, **files}
    return {field: str(path or "") for field, path in paths.items()}


def found_note(values: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    """Return one line that names the files that were taken without being chosen; empty: none."""
    inputs = {"transformer": "transformer", **PARTS}
    names = [
        f"{Path(paths[part]).name} ({what})"
        for part, what in inputs.items()
        if paths[part] and (values.get(what) or FROM_MODEL) == FROM_MODEL
    ]
    return f"found for this model: {', '.join(names)}" if names else ""


def _with_partners(
    folder: Path | None, transformer: Path | None, files: dict[str, Path | None]
) -> tuple[Path | None, dict[str, Path | None]]:
    """Return the model folder, unless it is for another transformer, and every part's file."""
    where = transformer or (folder / "transformer" if folder else None)
    config = read_part_config("transformer", where) if where else None
    # What the folder has for the parts that are open.
    open_parts = [part for part, path in files.items() if path is None]
    stored = {part: part_config(part, folder / part) if folder else None for part in open_parts}
    is_foreign = folder is None
    if transformer is not None and config is not None:
        is_foreign |= any(c is not None and not fits(part, c, config) for part, c in stored.items())
    # What ComfyUI's folders have.
    files, missing = dict(files), [] if where else ["transformer"]
    for part in open_parts:
        if is_foreign or stored[part] is None:
            files[part] = _partner(part, where, config)
            missing += [] if files[part] else [PARTS[part]]
    if not is_foreign:  # who reads the folder says what it lacks
        return folder, files
    if missing:
        raise FileNotFoundError(_missing(missing, folder is not None))
    return None, files


def _partner(part: str, transformer: Path | None, config: Mapping[str, Any] | None) -> Path | None:
    """Return the first file that fits a transformer: the one it is in itself, or the best name.

    For a transformer that is not of Fill any VAE does: the engine then says what it is.
    """
    files = [transformer] if transformer is not None and transformer.is_file() else []
    for path in [*files, *_ranked(PARTS[part])]:
        stored = part_config(part, path)
        # Only the VAE of FLUX.1 is read from a file at all.
        is_any = config is None or (part == "vae" and not is_fill_transformer(config))
        if stored is not None and (is_any or fits(part, stored, config or {})):
            return path
    return None


def _ranked(what: str) -> list[Path]:
    def rank(name: str) -> int | None:
        base = re.split(r"[/\\]", name.lower())[-1]
        patterns = enumerate(_PREFERRED[what])
        return next((index for index, p in patterns if re.search(p, base)), None)

    names = [(rank(name), len(name), name) for name in model_files.file_names(what)]
    ranked = sorted(entry for entry in names if entry[0] is not None)
    return [path for *_, name in ranked if (path := model_files.model_file(what, name))]


def _missing(inputs: list[str], has_folder: bool) -> str:
    files = [
        f"{name} (huggingface.co/{repository}) into models/{model_files.FOLDERS[what]}"
        for what in inputs
        for name, repository in [_PUBLISHED[what]]
    ]
    reason = ", as the model's own is for another transformer" if has_folder else ""
    return f"there is no file for {_listed(inputs)}{reason}; put {_listed(files)}"


def _listed(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
