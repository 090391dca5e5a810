"""Euler integration of any velocity field."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...kernels import cfg_euler_step

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x, sigma) to velocity, noise - image; shaped like x, float32. Or, where the caller mixes,
those of the negative and of the positive prompt, one batch after the other."""


def predict_x0(x: torch.Tensor, sigma: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """Return the image that a straight path from x would end at: ``x - sigma * velocity``.

    Source: OneReward, sec. 4.4 (rectified flow).
    """
    return x - sigma * velocity


def sample(
    velocity: Velocity,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
    true_cfg: float = 1.0,
    blend: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Integrate from ``sigmas[0]`` to ``sigmas[-1]`` in Euler steps.

    Args:
        velocity: The model, wrapped.
        x: Start, float32, any shape.
        sigmas: Strictly falling, float32; on the CPU, or else every step waits for the device.
        on_step: Called with the step's index and the current estimate of the image.
        true_cfg: Scale between the velocities of two prompts, if ``velocity`` returns two.
        blend: Keep, source and noise, see :func:`~..kernels.cfg_euler_step`: what is kept follows
            the source's straight path.
    """
    for i in range(len(sigmas) - 1):
        levels = (float(sigmas[i]), float(sigmas[i + 1]))
        x, x0 = cfg_euler_step(x, velocity(x, sigmas[i]), levels, true_cfg, blend)
        if on_step is not None:
            on_step(i, x0)
    return x


def add_noise(latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the point at ``sigma`` on the straight path from image to noise."""
    return (1 - sigma) * latents + sigma * noise
