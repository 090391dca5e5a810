"""Single files in ComfyUI's own model folders: transformer, VAE, text encoders; its tokenizers."""

from __future__ import annotations

from pathlib import Path

import comfy
import folder_paths
from comfy_api.latest import io

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


def file_names(what: str) -> list[str]:
    """Return the files of a kind; ComfyUI's own list leaves GGUF out."""
    names: set[str] = set()
    for folder in folder_paths.get_folder_paths(FOLDERS[what]):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        names.update(name for name in files if name.endswith(ENDS))
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
    if path is None:
        raise FileNotFoundError(
            f"{what} {name!r} is not a file in models/{FOLDERS[what]}; choose one from the list"
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
