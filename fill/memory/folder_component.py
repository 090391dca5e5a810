"""One component of a fill model in a folder of its own, in diffusers or transformers format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint.config_limits import COMPONENTS, check_sizes, read_model_config
from ..checkpoint.modules import class_of, load_pretrained
from ..io.files import read_weights, tensor_bytes, weight_files
from ..io.json_text import label_of


class FolderComponent:
    """A transformer, VAE or text encoder in a folder with ``config.json``.

    Example: ``FolderComponent('vae', folder / 'vae').load(torch.bfloat16)``.

    Args:
        name: Which component of a fill model.
        path: The folder.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: Pickled or damaged weights, or a config that cannot be theirs.
    """

    is_quantised = False

    def __init__(self, name: str, path: Path) -> None:
        if not path.is_dir():
            raise FileNotFoundError(
                f"{label_of(path)} is missing; download the complete model folder in diffusers "
                "format"
            )
        self.name = name
        self.path = path
        self.config = read_model_config(path / "config.json", *COMPONENTS[name])
        self.tensors = read_weights(path)
        check_sizes(label_of(path), self.config, self.tensors)

    @property
    def files(self) -> list[Path]:
        """The files of its weights."""
        return weight_files(self.path)

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return the memory of the loaded weights, in bytes."""
        return sum(self.tensor_bytes(dtype).values())

    def tensor_bytes(self, dtype: torch.dtype) -> dict[str, int]:
        """Return the same for every weight, by name."""
        return tensor_bytes(self.tensors, dtype.itemsize)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Read the weights and convert them to ``dtype``.

        Raises:
            ValueError: Weights that the model needs are missing.
        """
        # Older diffusers knows only the older name of the argument, newer transformers only the
        # newer.
        precision = "torch_dtype" if self.name in ("transformer", "vae") else "dtype"
        options: dict[str, Any] = {precision: dtype}
        return load_pretrained(class_of(self.name), self.path, **options)
