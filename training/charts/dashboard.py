"""What a run looks like from outside: reward curves above sample images, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .contact_sheets import contact_sheet

WIDTH, HEIGHT = 668, 300
"""Of the curves, in pixels."""
MAX_ROWS = 6
_MARGIN, _LEGEND = 34, 190
_SMOOTH = 0.9
"""Weight of the past in the drawn curves; single steps are of few edits and jump."""
_COLOURS = (
    *("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"),
    *("#7f7f7f", "#bcbd22", "#393b79", "#637939", "#8c6d31", "#843c39"),
)
Record = Mapping[str, float]


def plot_dashboard(curve: Sequence[Record], rows: Sequence[tuple[Tensor, ...]] = ()) -> Tensor:
    """Return ``[H, W, 3]``, 0..1: rewards by step, and below source, start and policy images.

    Args:
        curve: Records with ``step`` and rewards by ``<task>.<dimension>``.
        rows: Images ``[H, W, 3]``, 0..1, that belong side by side.
    """
    chart = torch.from_numpy(np.asarray(_draw_curves(curve), dtype=np.float32) / 255)
    if not rows:
        return chart
    columns = 2 * len(rows[0]) if len(rows) > 1 else len(rows[0])
    sheet = contact_sheet([p for row in rows[:MAX_ROWS] for p in row], columns)[0]
    width = max(chart.shape[1], sheet.shape[1])
    return torch.cat([_widened(chart, width), _widened(sheet, width)])


def reward_lines(curve: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """Return (step, smoothed reward) by cell; a cell has no point where no edit was drawn.

    Where nothing is rewarded (supervised learning) the loss is the one line.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    whole = "reward" if any("reward" in record for record in curve) else "loss"
    for record in curve:
        for name, value in record.items():
            if name == whole or (name.count(".") == 1 and not name.startswith(_NO_REWARD)):
                line = lines.setdefault(name, [])
                past = line[-1][1] if line else value
                line.append((record["step"], _SMOOTH * past + (1 - _SMOOTH) * value))
    return lines


_NO_REWARD = ("look", "held_out", "drift")


def _draw_curves(curve: Sequence[Record]) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default()
    lines = reward_lines(curve)
    right, bottom = WIDTH - _LEGEND, HEIGHT - _MARGIN
    values = [value for line in lines.values() for _, value in line]
    low, high = _limits(values)
    last = max((record["step"] for record in curve), default=1)

    def place(step: float, value: float) -> tuple[float, float]:
        x = _MARGIN + (right - _MARGIN) * step / max(last, 1)
        return x, bottom - (bottom - _MARGIN) * (value - low) / (high - low)

    for value in (low, (low + high) / 2, high):
        y = place(0, value)[1]
        draw.line([(_MARGIN, y), (right, y)], fill="#dddddd")
        draw.text((2, y - 6), f"{value:.2f}", fill="black", font=font)
    draw.text((_MARGIN, bottom + 8), "step 0", fill="black", font=font)
    draw.text((right - 20, bottom + 8), f"{last:.0f}", fill="black", font=font)
    for number, (name, line) in enumerate(sorted(lines.items())):
        colour = "black" if name in ("reward", "loss") else _COLOURS[number % len(_COLOURS)]
        if len(line) > 1:
            draw.line([place(*point) for point in line], fill=colour, width=2)
        label = f"{name.replace('_', ' ')} {line[-1][1]:.2f}"
        draw.text((right + 8, _MARGIN / 2 + 16 * number), label, fill=colour, font=font)
    return image


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the axis: 0 to 1 for probabilities, else as far as the values go."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, max(high, low + 1e-6)


def _widened(image: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(image, (0, 0, 0, width - image.shape[1]), value=1.0)
