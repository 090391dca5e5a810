"""Charts and tables: points stand where they are, the same values give the same pixels."""

from __future__ import annotations

import sys

import pytest
import torch

from onereward.training.charts.dashboard import plot_dashboard, plot_judge_dashboard
from onereward.training.charts.plots import COLOURS, Series, plot, stack
from onereward.training.charts.tables import markdown_table, render_table

RED = torch.tensor([int(COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)]) / 255
"""Colour of the second line of a plot."""


def centre_of_dot(x: float, y: float) -> torch.Tensor:
    """Return row and column of a red point on a plot from 0 to 10 and from 0 to 1."""
    series = [Series(name="a", points=[(0.0, 0.5), (10.0, 0.5)]), Series(name="", points=[(x, y)])]
    image = plot("", series, (0, 10), (0, 1))
    return ((image - RED).abs().amax(-1) < 0.02).nonzero().float().mean(0)


def test_a_plot_draws_points_where_they_are() -> None:
    low, high = centre_of_dot(0, 0), centre_of_dot(10, 1)
    right, up = centre_of_dot(7, 0), centre_of_dot(0, 0.3)
    assert right[1] - low[1] == pytest.approx(0.7 * (high[1] - low[1]), abs=1)
    assert low[0] - up[0] == pytest.approx(0.3 * (low[0] - high[0]), abs=1)
    assert right[0] == pytest.approx(low[0], abs=1)
    assert high[1] - low[1] > 400
    assert low[0] - high[0] > 200


def test_a_plot_is_the_same_every_time_whatever_the_users_style() -> None:
    import matplotlib as mpl

    loaded = set(sys.modules)
    lines = [Series(name=f"line {i}", points=[(0, i), (1, 1)], labels=["", "end"]) for i in (0, 1)]
    first = plot("title", lines, (0, 1), (0, 1), "step")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert torch.equal(plot("title", lines, (0, 1), (0, 1), "step"), first)
        assert mpl.rcParams["font.size"] == 30
    assert first.dtype == torch.float32
    assert first.shape == (360, 640, 3)
    assert 0 <= first.min() < first.max() == 1
    assert "matplotlib.pyplot" not in set(sys.modules) - loaded, "it keeps state of its own"


def test_many_lines_have_their_legend_beside_the_plot() -> None:
    lines = [Series(name=f"a line {i}", points=[(0, 0), (1, 1)]) for i in range(6)]
    image = plot("", lines, (0, 1), (0, 1))
    right_edge = image[:, -20:].amin(-1)
    assert right_edge[180:].min() == 1, "the axis ends before the legend"


def test_dashboards_of_any_length_can_be_drawn() -> None:
    judge = [{"step": 5, "loss": 0.7}, {"step": 10, "loss": 0.6, "accuracy": 0.8}]
    policy = [{"step": 5, "reward": 0.2}, {"step": 10, "reward": -3.0, "fill.structure": 0.2}]
    for length in range(3):
        for image in (plot_judge_dashboard(judge[:length], 10), plot_dashboard(policy[:length])):
            assert image.shape[-1] == 3
            assert 0 <= image.min() < image.max() <= 1


def test_tables() -> None:
    rows = [["task", "edits"], ["fill", "12"]]
    assert markdown_table(rows) == "| task | edits |\n| --- | --- |\n| fill | 12 |"
    image = render_table(rows)
    height, width, _ = image.shape
    sheet = stack([image, torch.zeros(5, width + 3, 3)])
    assert sheet.shape == (1, height + 5, width + 3, 3)
    assert torch.equal(sheet[0, :height, :width], image)
    assert sheet[0, :height, width:].min() == 1
