"""The metrics for TensorBoard, if the user wants it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class TensorBoard:
    """Writes metrics and images into ``<run folder>/tensorboard``.

    Example: ``TensorBoard(run, step=0).add({"step": 1, "fill.structure": 0.5})``.
    """

    def __init__(self, run: Path, step: int) -> None:
        """Open the log; what was written after ``step``, from which the run goes on, is dropped.

        Raises:
            ImportError: The package is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "tensorboard is on, which needs the package tensorboard; install it with: pip "
                "install tensorboard, or turn it off"
            ) from error
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def add(self, record: Mapping[str, float]) -> None:
        """Write one line of the metrics; ``fill.structure`` is shown in the group ``fill``."""
        step = int(record["step"])
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name.replace(".", "/", 1), value, step)
        self._writer.flush()

    def add_image(self, image: Tensor, step: int) -> None:
        """Write an image ``[H, W, 3]``, 0..1."""
        self._writer.add_image("dashboard", image, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """End the log."""
        self._writer.close()
