"""One result of an edit, with what it was made from: what judges are asked about."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .data.conditions import Condition


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedImage:
    """A condition and one image that was made of it; all tensors float32, of one height and width.

    Example: ``EditedImage(condition=condition, source=source, mask=mask, image=image)``.
    """

    condition: Condition
    source: Tensor
    """``[3, H, W]``, 0..1: the image before the edit."""
    mask: Tensor
    """``[H, W]``, 1 = repainted."""
    image: Tensor
    """``[3, H, W]``, 0..1, as the user gets it: pasted back into the source."""
    raw: Tensor | None = None
    """The same as it was sampled, before it was pasted back, where that is known."""

    @property
    def sampled(self) -> Tensor:
        """The image before it was pasted back, ``[3, H, W]``; as it is where that is not known."""
        return self.image if self.raw is None else self.raw


EditPair = tuple[EditedImage, EditedImage]
"""Two images of one condition: the first and the second that a judge is shown, or two noises'."""
