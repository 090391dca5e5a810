"""Reference images that are used again: on the disk, so that a run that stopped finds the same.

A departure from the paper, off by default: the reference's noise comes from a fixed pool.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...fill.io.files import load_tensors
from ..runs.files import write_tensors
from .samples import Sample


class ReferenceStore:
    """A folder of the fixed reference's latents, by condition and seed.

    Example: ``ReferenceStore(run / "references").get(sample)``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, sample: Sample) -> Tensor | None:
        """Return packed latents ``[S, 4C]``, float32, or None."""
        path = self._path(sample)
        return load_tensors(path)["latents"] if path.is_file() else None

    def put(self, sample: Sample, latents: Tensor) -> None:
        """Keep the latents of one reference."""
        write_tensors(self._path(sample), {"latents": latents})

    def _path(self, sample: Sample) -> Path:
        return self._folder / sample.condition.name / f"{sample.reference_seed}.safetensors"
