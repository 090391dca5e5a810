from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from onereward.fill.task import Dimension, Task
from onereward.reward.report import (
    Answer,
    Cell,
    make_report,
    read_report,
    report_cells,
    wilson_interval,
    write_report,
)

STRUCTURE = (Task.FILL, Dimension.STRUCTURE)
REMOVAL = (Task.REMOVE, Dimension.REMOVAL_QUALITY)


def answer(forth: float, back: float, criterion: Cell = STRUCTURE) -> Answer:
    return Answer(criterion=criterion, winner_first=forth, loser_first=back)


def test_accuracy_counts_the_averaged_order() -> None:
    answers = [
        answer(0.9, 0.2),  # right both ways
        answer(0.9, 0.6),  # right on average, not consistent
        answer(0.4, 0.8),  # wrong both ways
        answer(0.6, 0.6),  # a tie
        answer(0.1, 0.9, REMOVAL),
    ]
    report = make_report(answers)
    cell = report.cells[STRUCTURE]
    assert cell.num_pairs == 4
    assert cell.accuracy == pytest.approx(2.5 / 4)
    assert cell.swap_consistency == pytest.approx(2 / 4)
    assert report.cells[REMOVAL].accuracy == 0
    assert report.passes(STRUCTURE, 0.6)
    assert not report.passes(STRUCTURE, 0.75)
    assert not report.passes((Task.TEXT, Dimension.STRUCTURE), 0.0)


def test_position_bias_is_the_lean_to_the_first_image_and_old_reports_have_none(
    tmp_path: Path,
) -> None:
    report = make_report([answer(0.9, 0.3), answer(0.5, 0.7), answer(0.1, 0.9, REMOVAL)])
    assert report.cells[STRUCTURE].position_bias == pytest.approx((0.2 + 0.2) / 2)
    assert report.cells[REMOVAL].position_bias == pytest.approx(0.0)
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    path = tmp_path / "report.json"
    values = json.loads(path.read_text())
    for cell in values["cells"].values():
        del cell["position_bias"]
    path.write_text(json.dumps(values))
    older = read_report(tmp_path)
    assert older is not None
    assert older.cells[STRUCTURE].position_bias is None


def test_interval_equals_published_values() -> None:
    """Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for right, num, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = wilson_interval(right / num, num)
        assert interval == pytest.approx((low, high), abs=1e-4)


def test_pairs_of_one_condition_count_as_often_as_they_differ() -> None:
    """Twenty conditions of seven pairs that go right or wrong together are twenty answers."""
    once = [answer(0.9, 0.1)] * 15 + [answer(0.1, 0.9)] * 5
    together = [replace(item, condition=str(n)) for n, item in enumerate(once) for _ in range(7)]
    apart = [replace(item, condition=str(n)) for n, item in enumerate(once)]
    cells = [make_report(answers).cells[STRUCTURE] for answers in (once, apart, together)]
    for cell in cells:
        assert (cell.low, cell.high) == pytest.approx(wilson_interval(0.75, 20))
    assert cells[2].num_pairs == 140
    mixed = [replace(item, condition=str(n % 5)) for n, item in enumerate(once[2:18])]
    cell = make_report(mixed).cells[STRUCTURE]
    assert (cell.low, cell.high) == pytest.approx(wilson_interval(cell.accuracy, 16)), "no less"
    right = [replace(once[0], condition=str(n // 7)) for n in range(21)]
    assert make_report(right).cells[STRUCTURE].low == pytest.approx(wilson_interval(1.0, 3)[0])


def test_calibration_bins_hold_every_pair_once() -> None:
    answers = [answer(i / 100, 0.5 - i / 250) for i in range(101)]
    report = make_report(answers)
    assert sum(b.num_pairs for b in report.calibration) == 101
    for group in report.calibration:
        assert group.low <= group.mean_score <= group.high + 1e-9


def test_table_has_the_form_of_table_1() -> None:
    answers = [answer(0.9, 0.1)] * 3 + [answer(0.9, 0.1, REMOVAL)]
    head, fill, remove = report_cells(make_report(answers))
    assert head == ["", "structure", "removal quality"]
    assert fill == ["fill", "100.0 (44-100, n 3)", ""]
    assert remove[:2] == ["remove", ""]
    assert remove[2].startswith("100.0 (")


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(ValueError, match="no held-out pairs"):
        make_report([])
