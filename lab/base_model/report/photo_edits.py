"""Removal and extension on held-out photographs, beside two baselines.

The baselines are edge replication and biharmonic inpainting.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...world.canvas import SIZE, Draw, dilate
from ...world.conditions import EXTEND_PROMPT, REMOVE_PROMPT, TASKS, Conditions
from ...world.masks import border_masks, sample_borders, sample_rooms
from ...world.measure import measure_residual
from ..models import FillComponents
from ..photographs import find_photographs, sample_photo_crops
from ..sampling import SampleSettings, sample_scenes

METHODS = ("model", "edge replication", "biharmonic")
_REMOVE_SIZES = (8.0, 16.0)
_EXTEND_WIDTHS = (6, 13)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhotoResult:
    """Results of every method on the same crops.

    Example: ``edit_photos(components, conditions, settings).psnr_db("model")``  # [B]
    """

    conditions: Conditions
    images: dict[str, Tensor]
    """Method to float32 `[B, 3, 64, 64]`, composited."""

    def psnr_db(self, method: str) -> Tensor:
        """PSNR under the mask of every crop, `[B]`."""
        mask = self.conditions.mask
        error = (self.images[method] - self.conditions.target).square().mean(1)
        return -10 * torch.log10((error * mask).sum((1, 2)) / mask.sum((1, 2)) + 1e-8)

    def seam(self, method: str) -> Tensor:
        """Mean absolute error just inside the mask's border of every crop, `[B]`."""
        c = self.conditions
        empty = torch.zeros_like(c.mask)
        return measure_residual(self.images[method], c.target, c.mask, empty).seam


def photo_conditions(
    folders: tuple[str, ...], task: str, count: int, generator: torch.Generator
) -> Conditions:
    """Mask held-out crops; the photograph itself is the truth (a clean patch, its own border)."""
    crops = sample_photo_crops(find_photographs(folders, is_held_out=True), count, generator)
    photos, draw = crops.float() / 255, Draw(generator, count)
    if task == "remove":
        mask, prompt = sample_rooms(draw, *_REMOVE_SIZES).mask, REMOVE_PROMPT
    else:
        mask, prompt = border_masks(sample_borders(draw, *_EXTEND_WIDTHS)), EXTEND_PROMPT
    none = torch.full((count, 4), -1)
    return Conditions(
        task=torch.full((count,), TASKS.index(task)),
        source=photos,
        mask=mask,
        target=photos,
        background=photos,
        coverage=torch.zeros(count, SIZE, SIZE),
        object_colour=torch.zeros(count, 3),
        shape=none[:, 0],
        placement=torch.zeros(count, 3),
        letters=none,
        box=torch.zeros(count, 4, dtype=torch.long),
        prompts=[prompt] * count,
    )


def replicate_edges(image: Tensor, mask: Tensor) -> Tensor:
    """Fill `mask` `[H, W]` of `image` `[3, H, W]` with the nearest kept pixel."""
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(
        mask.numpy() > 0.5, return_distances=False, return_indices=True
    )
    rows, columns = torch.from_numpy(nearest)
    return image[:, rows.long(), columns.long()]


def fill_biharmonic(image: Tensor, mask: Tensor) -> Tensor:
    """Fill `mask` `[H, W]` of `image` `[3, H, W]` by scikit-image's biharmonic inpainting."""
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(image.permute(1, 2, 0).numpy(), mask.numpy() > 0.5, channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)


def edit_photos(
    components: FillComponents, conditions: Conditions, settings: SampleSettings
) -> PhotoResult:
    """Run the model and both baselines."""
    inside = conditions.mask[:, None] > 0.5
    pairs = list(zip(conditions.source, conditions.mask, strict=True))
    results = {
        "model": sample_scenes(components, conditions, settings),
        "edge replication": torch.stack([replicate_edges(i, m) for i, m in pairs]),
        "biharmonic": torch.stack([fill_biharmonic(i, m) for i, m in pairs]),
    }
    images = {name: torch.where(inside, x, conditions.source) for name, x in results.items()}
    return PhotoResult(conditions=conditions, images=images)


def outline(image: Tensor, mask: Tensor) -> Tensor:
    """Show an edit's source: grey where it is repainted, the border in red."""
    ring = (dilate(mask, 1) - mask)[:, None] > 0.5
    grey = torch.where(mask[:, None] > 0.5, torch.tensor(0.5), image)
    return torch.where(ring, torch.tensor([0.9, 0.2, 0.2])[:, None, None], grey)
