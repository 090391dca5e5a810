"""The right result that is nearest to an image: what the image should have been.

A scene leaves things open: a shape may stand anywhere in the hole. Compared with one particular
truth, an image of them all at once, a blur, would be best.
"""

import torch
from torch import Tensor

from ..oracle import composite
from .conditions import TASKS, Conditions
from .shape_fit import fit_near, fit_shapes_where, matte_of

_FILL, _EXTEND = TASKS.index("fill"), TASKS.index("extend")


@torch.no_grad()
def nearest_truth(images: Tensor, conditions: Conditions) -> Tensor:
    """Return the asked shape where the image has one (fill, extend), else the true image.

    Args:
        images: float32 `[B, 3, 64, 64]` in 0..1, one per scene.
        conditions: The scenes.

    Returns:
        `[B, 3, 64, 64]`, 0..1; the true image too where no shape can be made out.
    """
    image, mask = composite(images, conditions), conditions.mask
    matte = matte_of(image, conditions.background, conditions.object_colour) * mask
    rows = torch.arange(len(conditions))
    is_fill = conditions.task == _FILL
    is_cut = (conditions.task == _EXTEND) & (conditions.shape >= 0)
    fit = fit_shapes_where(is_fill, matte, mask)
    coverage = fit.coverage[rows, conditions.shape.clamp(min=0)]  # [B, 64, 64]
    cut = is_cut.nonzero()[:, 0]
    coverage[cut], overlap = fit_near(
        conditions.shape[cut], conditions.placement[cut], matte[cut], mask[cut]
    )
    is_visible = is_fill & (coverage.sum((1, 2)) > 0)
    is_visible[cut] = overlap > 0
    object_colour = conditions.object_colour[:, :, None, None].expand_as(image)
    explained = torch.lerp(conditions.background, object_colour, coverage[:, None])
    return torch.where(is_visible[:, None, None, None], explained, conditions.target)
