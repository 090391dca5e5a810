"""The images of evaluations in a run's folder, for looking at them side by side.

::

    samples/base/edits.json          [{"task": "fill", "prompt": "a hat"}, ...]
    samples/base/source-0.png        the image before the edit; mask-0.png, start-0.png likewise
    samples/step-000100/0.png        the policy's image of the first edit after 100 steps
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ....fill.io.writing import atomic_folder, remove
from ...data.conditions import save_image
from ...edited_image import EditPair

SAMPLES, BASE, EDITS = "samples", "base", "edits.json"
MAX_SAMPLES = 8
"""Edits of an evaluation whose images are kept."""


def save_samples(run: Path, step: int, pairs: Sequence[EditPair], num_steps: int) -> None:
    """Write the images of an evaluation, and remove those of all but the last few.

    Args:
        run: The run's folder.
        step: Steps done.
        pairs: The start's image and the policy's of every edit.
        num_steps: How many evaluations are kept.
    """
    folder, edit_pairs = run / SAMPLES, pairs[:MAX_SAMPLES]
    if not (folder / BASE / EDITS).is_file():
        with atomic_folder(folder / BASE) as fresh:
            for index, (start, _) in enumerate(edit_pairs):
                save_image(fresh / f"source-{index}.png", _last(start.source))
                save_image(fresh / f"start-{index}.png", _last(start.image))
                save_image(fresh / f"mask-{index}.png", start.mask)
            edits = [
                {"task": start.condition.task.value, "prompt": start.condition.full_prompt}
                for start, _ in edit_pairs
            ]
            (fresh / EDITS).write_text(json.dumps(edits), encoding="utf-8")
    with atomic_folder(folder / f"step-{step:06d}") as fresh:
        for index, (_, now) in enumerate(edit_pairs):
            save_image(fresh / f"{index}.png", _last(now.image))
    for old in sample_steps(run)[:-num_steps]:
        remove(folder / f"step-{old:06d}")


def sample_steps(run: Path) -> list[int]:
    """Return the steps with images, in order."""
    names = (path.name.removeprefix("step-") for path in (run / SAMPLES).glob("step-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _last(image: Tensor) -> Tensor:
    """Return ``[3, H, W]`` as ``[H, W, 3]``."""
    return image.permute(1, 2, 0)
