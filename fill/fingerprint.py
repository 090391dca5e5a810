"""What a model is, as a short text: the same for two that hold the same weights."""

from __future__ import annotations

import hashlib

import torch

from .checkpoint.adapters import Adapter
from .io.file_digest import add_files
from .memory.packed_component import PackedComponent
from .models import FillModels


def fingerprint(models: FillModels) -> str:
    """Return 16 digits that follow from the weights of a fill model and of its adapters.

    What is in the files counts, not where they are or when they were written, so it holds on
    another machine too. Adapters count with their strengths, and so does packing as fp8 or nf4;
    recipe, data type and settings of memory do not.

    Raises:
        ValueError: The model was not loaded from files.
        OSError: A file is gone.
    """
    if models.config is None:
        raise ValueError("this fill model was not loaded from files; use a loader node")
    hasher = hashlib.blake2b(digest_size=8)
    for name, source in sorted(models.sources.items()):
        packing = source.precision if isinstance(source, PackedComponent) else ""
        hasher.update(f"{name}|{packing}|".encode())
        add_files(hasher, source.files)
    for digest in sorted(_adapter_digest(adapter) for adapter in models.adapters):
        hasher.update(digest)
    return hasher.hexdigest()


def _adapter_digest(adapter: Adapter) -> bytes:
    """Return a digest of the weights in memory: a run that goes on writes its file anew."""
    hasher = hashlib.blake2b(f"{float(adapter.strength)}|".encode(), digest_size=8)
    for name, tensor in sorted(adapter.weights.items()):
        hasher.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        hasher.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.digest()
