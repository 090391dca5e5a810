"""What a laboratory knows about its own images and real data never has: the right answer.

Nothing in the product has a ground truth. Who does (a procedural world, a data set with known
results) implements :class:`GroundTruth`, hands it to :func:`~.evaluation.run.evaluate` and labels
candidates by it.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..fill.task import Dimension


class GroundTruth(Protocol):
    """Scores candidates of conditions whose right result is known.

    Example:
        >>> truth.scores("world-train-fill-0", images)[Dimension.STRUCTURE]
        [0.93, 0.41]
    """

    @property
    def name(self) -> str:
        """What preferences name as their source, for example ``oracle``."""
        ...

    def knows(self, condition: str) -> bool:
        """Whether the right result of a condition (by its name) is known."""
        ...

    def scores(self, condition: str, images: Tensor) -> dict[Dimension, list[float]]:
        """Score candidates of a condition that is known.

        Args:
            condition: Its name.
            images: float32 ``[N, 3, H, W]``, 0..1.

        Returns:
            By dimension one score per candidate, 0..1, higher is better; dimensions that say
            nothing about the condition are left out.
        """
        ...

    def usable(self, condition: str, images: Tensor) -> list[bool]:
        """Return which candidates could be handed out as they are; arguments as :meth:`scores`."""
        ...
