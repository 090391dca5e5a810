"""What this machine can run."""

from __future__ import annotations

import functools
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@functools.cache
def has_gpu() -> bool:
    """Tell whether torch can use a GPU; does not import torch where no device file exists."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return torch.cuda.is_available()


def comfyui_path() -> Path:
    """Return the ComfyUI to test against; ``make setup`` provides it."""
    folder = os.environ.get("COMFYUI_PATH")
    return Path(folder).resolve() if folder else ROOT / ".cache" / "comfyui"


def front_end_path() -> Path | None:
    """Return the front end to test, if not the one that ComfyUI's environment has."""
    folder = os.environ.get("FRONT_END_PATH")
    return Path(folder).resolve() if folder else None
