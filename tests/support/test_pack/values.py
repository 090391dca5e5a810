"""Objects that no node of ComfyUI puts on a socket, but some other pack may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

SIDE = 64


def _image(*shape: int, value: float = 0.5) -> torch.Tensor:
    return torch.full(shape or (1, SIDE, SIDE, 3), value)


def _mask(*shape: int) -> torch.Tensor:
    mask = torch.zeros(shape or (1, SIDE, SIDE))
    mask[..., mask.shape[-2] // 4 : mask.shape[-2] // 2, : mask.shape[-1] // 2] = 1.0
    return mask


def _spoiled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor.view(-1)[5] = value
    return tensor


VALUES: dict[str, Callable[[], Any]] = {
    "image": _image,
    "two images": lambda: _image(2, SIDE, SIDE, 3),
    "no images": lambda: _image(0, SIDE, SIDE, 3),
    "image of one channel": lambda: _image(1, SIDE, SIDE, 1),
    "image of two channels": lambda: _image(1, SIDE, SIDE, 2),
    "image of four channels": lambda: _image(1, SIDE, SIDE, 4),
    "image of no channel": lambda: _image(1, SIDE, SIDE, 0),
    "image without a batch axis": lambda: _image(SIDE, SIDE, 3),
    "image of five axes": lambda: _image(1, 1, SIDE, SIDE, 3),
    "image of no height": lambda: _image(1, 0, SIDE, 3),
    "image of one pixel": lambda: _image(1, 1, 1, 3),
    "image of another size": lambda: _image(1, 48, 80, 3),
    "very wide image": lambda: _image(1, 16, 20_000, 3),
    "image with NaN": lambda: _spoiled(_image(), torch.nan),
    "image with infinity": lambda: _spoiled(_image(), torch.inf),
    "image above 1": lambda: _image(value=255.0),
    "image below 0": lambda: _image(value=-3.0),
    "image of float64": lambda: _image().double(),
    "image of float16": lambda: _image().half(),
    "image of uint8": lambda: torch.full((1, SIDE, SIDE, 3), 128, dtype=torch.uint8),
    "image of bool": lambda: torch.ones(1, SIDE, SIDE, 3, dtype=torch.bool),
    "image of complex": lambda: _image().to(torch.complex64),
    "image with strides": lambda: _image(1, 3, SIDE, SIDE).movedim(1, -1),
    "mask": _mask,
    "three masks": lambda: _mask(3, SIDE, SIDE),
    "no masks": lambda: torch.zeros(0, SIDE, SIDE),
    "mask of zeros": lambda: torch.zeros(1, SIDE, SIDE),
    "mask of ones": lambda: torch.ones(1, SIDE, SIDE),
    "mask of another size": lambda: _mask(1, 48, 80),
    "mask of two axes": lambda: _mask(SIDE, SIDE),
    "mask of one axis": lambda: torch.ones(SIDE),
    "mask of four axes": lambda: _mask(1, 1, SIDE, SIDE),
    "mask of one pixel": lambda: torch.ones(1, 1, 1),
    "mask with NaN": lambda: _spoiled(_mask(), torch.nan),
    "mask of bool": lambda: _mask() > 0.5,
    "mask of uint8": lambda: (_mask() * 255).to(torch.uint8),
    "mask above 1": lambda: _mask() * 255,
    "a number as tensor": lambda: torch.tensor(1.0),
    "None": lambda: None,
    "true": lambda: True,
    "a number": lambda: 7,
    "NaN": lambda: float("nan"),
    "a giant number": lambda: 10**400,
    "text": lambda: "text",
    "a long text": lambda: "a" * 10_000,
    "a list": lambda: [1, 2, 3],
    "a dictionary": lambda: {"a": 1},
    "a latent": lambda: {"samples": torch.zeros(1, 16, 8, 8)},
    "an object": object,
    "a class": lambda: dict,
    "an error": lambda: ValueError("x"),
    "bytes": lambda: b"\xff\x00",
    "an array": lambda: np.zeros((1, SIDE, SIDE, 3), np.float32),
    "a module": lambda: torch.nn.Linear(2, 2),
    "a function": lambda: print,
}
"""What :class:`TestValue` puts on its output, by name."""
