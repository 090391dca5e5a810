"""Single files in ComfyUI's own model folders: transformer, VAE, text encoders; its tokenizers."""

from __future__ import annotations

import os
from pathlib import Path

import comfy
import folder_paths
from comfy_api.latest import io

from ...fill.checkpoint.partners import is_fill_transformer, part_config
from ...fill.io.json_text import quote

FROM_MODEL = "from the model folder"
"""Label for no separate file."""
ENDS = (".safetensors", ".sft", ".gguf")
FOLDERS = {
    "transformer": "diffusion_models",
    "vae": "vae",
    "clip": "text_encoders",
    "t5": "text_encoders",
}
"""Where ComfyUI keeps the files of each input."""
CHECKPOINTS = "checkpoints/"
"""Begins the names of files that hold a whole model; those are offered as transformers."""
_FLUX_NAMES = ("flux", "fill", "onereward")
"""A checkpoint is opened to see what it is only with one of these in its name: people have many."""


def file_names(what: str) -> list[str]:
    """Return the files of a kind; ComfyUI's own list leaves GGUF out."""
    return _names(FOLDERS[what])


def checkpoint_names() -> list[str]:
    """Return the files in ``models/checkpoints`` that hold the transformer of a Fill model."""
    names = []
    for name in (name for name in _names("checkpoints") if not name.endswith(".gguf")):
        path = folder_paths.get_full_path("checkpoints", name)
        if path is not None and any(word in name.lower() for word in _FLUX_NAMES):
            config = part_config("transformer", Path(path))
            names += [CHECKPOINTS + name] if is_fill_transformer(config) else []
    return names


def _names(kind: str) -> list[str]:
    names: set[str] = set()
    for folder in folder_paths.get_folder_paths(kind):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        # Neither broken links nor pipes and devices, which nobody could read.
        names.update(n for n in files if n.endswith(ENDS) and os.path.isfile(f"{folder}/{n}"))
    return sorted(names)


def is_file_name(name: str) -> bool:
    """Tell the name of a file from that of a folder."""
    return name.endswith(ENDS)


def model_file(what: str, name: str) -> Path | None:
    """Return a chosen file, or None for the model folder's own part.

    Raises:
        FileNotFoundError: There is no such file in its model folder.
    """
    if not name or name == FROM_MODEL:
        return None
    path = folder_paths.get_full_path(FOLDERS[what], name) if is_file_name(name) else None
    if path is None and what == "transformer" and is_file_name(name):
        kind, _, file = name.partition("/")
        path = folder_paths.get_full_path(kind, file) if f"{kind}/" == CHECKPOINTS else None
    if path is None:
        raise FileNotFoundError(
            f"{what} {quote(name)} is not a file in models/{FOLDERS[what]}; put it there and press "
            "R, or choose one from the list"
        )
    return Path(path)


def file_input(what: str, tooltip: str) -> io.Input:
    """Return the input that chooses a file; by default the model folder's own part."""
    return io.Combo.Input(
        what,
        options=[FROM_MODEL, *file_names(what)],
        default=FROM_MODEL,
        optional=True,
        tooltip=tooltip,
    )


def tokenizer_folders() -> tuple[Path, Path]:
    """Return the folders of the tokenizers of CLIP-L and T5 that come with ComfyUI."""
    folder = Path(comfy.__path__[0])
    return folder / "sd1_tokenizer", folder / "text_encoders" / "t5_tokenizer"
