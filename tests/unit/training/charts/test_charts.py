"""Charts and tables: points stand where they are, the same values give the same pixels."""

from __future__ import annotations

import sys

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.reward.report import Answer, JudgeReport, make_report
from onereward.training.charts.dashboard import MAIN_HEIGHT, plot_dashboard, plot_judge_dashboard
from onereward.training.charts.plots import COLOURS, Series, plot, stack
from onereward.training.charts.strips import Strip, draw_strips
from onereward.training.charts.tables import markdown_table, render_table
from onereward.training.evaluation.config import EvalConfig
from onereward.training.evaluation.report import LEAST_EDITS, Report, Row, report_image
from onereward.training.judge.report import LEAST_PAIRS, accuracy_table

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


def random_strip(prompt: str = "a red hat") -> Strip:
    grey = torch.full((64, 64, 3), 0.5)
    mask = torch.zeros(64, 64)
    mask[16:48, 8:40] = 1
    return Strip(task="fill", prompt=prompt, images=(grey, grey, grey), mask=mask)


def is_near(image: torch.Tensor, colour: str) -> torch.Tensor:
    value = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return (image - value).abs().amax(-1) < 0.02


def shrink(image: torch.Tensor, width: int) -> torch.Tensor:
    height = round(image.shape[0] * width / image.shape[1])
    planes = image.permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, (height, width), mode="area")
    return small[0].permute(1, 2, 0)


def test_only_the_outline_of_a_mask_is_drawn_on_the_source() -> None:
    sheet = draw_strips([random_strip()], ("source", "start", "now"), 640)
    yellow = is_near(sheet, "#ffd600").nonzero()
    (top, left), (bottom, right) = yellow.amin(0).tolist(), yellow.amax(0).tolist()
    # A cell has 150 pixels for 64, and the three cells with their gaps end at the right edge.
    assert bottom - top == pytest.approx(32 * 150 / 64, abs=2)
    assert right - left == pytest.approx(32 * 150 / 64, abs=2)
    assert left == pytest.approx(640 - 3 * 156 + 8 * 150 / 64, abs=2)
    middle = sheet[(top + bottom) // 2, (left + right) // 2]
    assert middle == pytest.approx(0.5, abs=0.01), "the area itself is not covered"


def test_a_mask_up_to_the_edge_is_closed_there() -> None:
    strip = random_strip()
    strip.mask[:] = 1
    yellow = is_near(draw_strips([strip], ("source", "start", "now"), 640), "#ffd600")
    sides = yellow.nonzero()
    assert (sides.amax(0) - sides.amin(0)).tolist() == [149, 149]


def test_a_long_prompt_stays_beside_the_images() -> None:
    short, long = (
        draw_strips([random_strip(prompt)], ("source", "start", "now"), 640)
        for prompt in ("a hat", "a very large hat " * 30)
    )
    assert torch.equal(short[:, 640 - 3 * 156 :], long[:, 640 - 3 * 156 :])
    assert not torch.equal(short, long)


def test_the_board_has_a_chart_for_each_task_and_names_what_it_shows() -> None:
    cells = {"fill.structure": 0.4, "fill.consistency": 0.6, "text.structure": 0.5}
    metrics = [{"step": s, "reward": 0.5, **cells} for s in range(1, 40)]
    board = plot_dashboard(metrics)
    structure, consistency = is_near(board, "#009e73"), is_near(board, "#e69f00")
    assert not is_near(board, "#cc79a7").any(), "nothing is judged by its aesthetics"
    # Structure has a line in the left and in the right half, consistency in the left one only.
    lines = slice(MAIN_HEIGHT, MAIN_HEIGHT + 150)
    assert structure[lines, :340].any()
    assert structure[lines, 340:].any()
    assert consistency[lines, :340].any()
    assert not consistency[lines, 340:].any()
    # Each is named once more below the charts, in its colour.
    assert structure[MAIN_HEIGHT + 150 :].any()
    assert consistency[MAIN_HEIGHT + 150 :].any()


def test_the_mean_is_one_thick_line() -> None:
    metrics = [{"step": s, "reward": 0.5, "fill.structure": 0.5} for s in range(1, 40)]
    board = plot_dashboard(metrics)
    column = is_near(board[50:200], "#1a1a1a")[:, 300]
    thin = is_near(board[MAIN_HEIGHT + 35 : MAIN_HEIGHT + 140], "#009e73")[:, 300]
    assert column.sum() >= 1.5 * thin.sum() > 0


def test_a_held_out_score_far_from_the_rewards_is_on_the_chart() -> None:
    metrics = [{"step": s, "reward": 0.5, "fill.structure": 0.5} for s in range(1, 40)]
    metrics[-1]["eval"] = 0.95
    dot = is_near(plot_dashboard(metrics), "#808080")[:, 600:620].nonzero()[:, 0]
    assert 42 <= dot.median() < MAIN_HEIGHT - 36, "between the chart's top and bottom"


def test_a_board_can_be_read_in_a_node() -> None:
    metrics = [{"step": s, "reward": 0.5, "fill.structure": 0.5} for s in range(1, 40)]
    small = shrink(plot_dashboard(metrics, [random_strip()]), 300)
    header = (small[:18, :200].amax(-1) < 0.5).any(-1).nonzero()
    assert header.numel() >= 8, "rows of pixels that a line of text takes"
    assert small.shape[0] < 2 * 300


def test_cells_of_few_pairs_are_grey() -> None:
    def report(num_pairs: int) -> JudgeReport:
        answers = [
            Answer(criterion=(Task.FILL, Dimension.STRUCTURE), winner_first=0.9, loser_first=0.1)
        ] * num_pairs
        return make_report(answers)

    enough, few = accuracy_table(report(LEAST_PAIRS)), accuracy_table(report(LEAST_PAIRS - 1))
    black = torch.tensor([20, 20, 20]) / 255
    body = slice(40, None)
    assert ((enough[body, 150:] - black).abs().amax(-1) < 0.02).any()
    assert not ((few[body, 150:] - black).abs().amax(-1) < 0.02).any()
    assert is_near(few[body, 150:], "#eeeeee").float().mean() > 0.5


def test_tables() -> None:
    rows = [["task", "edits"], ["fill", "12"]]
    assert markdown_table(rows) == "| task | edits |\n| --- | --- |\n| fill | 12 |"
    image = render_table(rows)
    height, width, _ = image.shape
    sheet = stack([image, torch.zeros(5, width + 3, 3)])
    assert sheet.shape == (1, height + 5, width + 3, 3)
    assert torch.equal(sheet[0, :height, :width], image)
    assert sheet[0, :height, width:].min() == 1


def test_shares_of_few_edits_are_grey_on_the_sheet() -> None:
    def sheet(num_edits: int) -> torch.Tensor:
        rows = [
            Row(
                key=f"a-{index}",
                condition="a",
                task="fill",
                images={"model": "a.png"},
                measures={"model": {"seam": 0.01}},
            )
            for index in range(num_edits)
        ]
        report = Report(config=EvalConfig(), rows=tuple(rows))
        strip = random_strip()
        two = Strip(task="fill", prompt="", images=strip.images[:2], mask=strip.mask)
        image = report_image(report, [two])[0]
        assert image.shape == (report_image(report, [])[0].shape[0] + 150 + 6 + 29, 640, 3)
        return report_image(report, [])[0]

    enough, few = sheet(LEAST_EDITS), sheet(LEAST_EDITS - 1)
    head = 40
    assert is_near(few[head:, 60:], "#eeeeee").float().mean() > 0.5
    assert is_near(enough[head:, 60:], "#eeeeee").float().mean() < 0.02
