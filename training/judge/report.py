"""How good a judge is on held-out pairs: asked, written as files, drawn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor

from ...fill.host import Host
from ...fill.io.files import write_text
from ...fill.json_config import JsonConfig, setting
from ...fill.task import Dimension, Task
from ...reward.judge import Judge
from ...reward.judging import VIEWS
from ...reward.label_choice import (
    choose_labels,
    contradictions_setting,
    labels_by_setting,
)
from ...reward.preference import PreferenceSet, by_split
from ...reward.report import (
    Answer,
    CellReport,
    JudgeReport,
    make_report,
    report_cells,
    write_report,
)
from ..charts.plots import Series, plot, stack
from ..charts.tables import markdown_table, render_table
from ..data.conditions import save_image
from ..runs.distributed import Distributed
from .pair_answers import BATCH, answer_pairs
from .pairs import check_pairs, spread

log = logging.getLogger("onereward.training")

HELD_OUT = ("test", "dev", "test_and_dev")
LEAST_PAIRS = 20
"""Of a cell in the image; the accuracy of fewer may be chance."""
_FONT_SIZE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(JsonConfig):
    """Which pairs a judge is asked about. The order of the fields is a promise.

    Example: ``ReportConfig(split="test_and_dev", max_pairs=256)``.
    """

    split: str = setting(
        HELD_OUT[0],
        "Held-out pairs to ask about: test (never used before), dev (evaluated in training), or "
        "both.",
        options=HELD_OUT,
    )
    max_pairs: int = setting(
        0, "Pairs to ask about at most, spread over all; 0 = all.", min=0, max=1_000_000, step=1
    )
    view: str = setting(VIEWS[0], "How the images are shown to the judge.", options=VIEWS)
    labels_by: str = labels_by_setting()
    contradictions: str = contradictions_setting()


ANY_SIZE = 1 << 26
"""More pixels than any judge sees as one image."""


def report_on_judge(
    judge: Judge,
    data: PreferenceSet,
    config: ReportConfig,
    host: Host,
    processes: Distributed | None = None,
) -> JudgeReport:
    """Report on a judge's answers about held-out pairs; as :func:`ask_held_out`."""
    return make_report(ask_held_out(judge, data, config, host, processes))


def ask_held_out(
    judge: Judge,
    data: PreferenceSet,
    config: ReportConfig,
    host: Host,
    processes: Distributed | None = None,
) -> list[Answer]:
    """Ask a judge about held-out pairs, in both orders; several processes share them.

    Raises:
        ValueError: There are no pairs in these splits, or one cannot be asked about; names it.
    """
    processes = processes or Distributed()
    choice = choose_labels(data.pairs(), config.labels_by, config.contradictions)
    if note := choice.note():
        host.notify(note)
    splits = by_split(choice.pairs)
    pairs = [pair for name in config.split.split("_and_") for pair in splits[name]]
    if config.max_pairs:
        pairs = spread(pairs, config.max_pairs)
    if not pairs:
        raise ValueError(
            f"{data.folder} holds no pairs of its {config.split} split, which takes a tenth of all "
            "conditions; collect and label more, or choose another split"
        )
    judge.check()
    check_pairs(data, pairs, config.view)
    room = judge.working_bytes(ANY_SIZE, rows=2 * BATCH)  # in both orders
    share = pairs[processes.rank :: processes.count]

    def tick(count: int, total: int) -> None:
        host.check_cancelled()
        host.progress(count, total)

    with host.resident(*judge.components, activation_bytes=room):
        answers = answer_pairs(judge, data, share, tick, host.device, config.view)
    host.progress(len(share), len(share))
    return list(chain(*processes.gather(answers)))


def report_text(report: JudgeReport, label: str) -> str:
    """Return the whole report in Markdown."""
    consistency = [
        f"{t.value}, {d.value.replace('_', ' ')}: {cell.swap_consistency:.1%}" + _lean(cell)
        for (t, d), cell in report.cells.items()
    ]
    calibration = [["confidence", "pairs", "mean confidence", "right"]]
    for group in report.calibration:
        scores = f"{group.mean_score:.3f}", f"{group.accuracy:.3f}"
        calibration.append([f"{group.low:.2f}-{group.high:.2f}", str(group.num_pairs), *scores])
    return "\n".join(
        [
            f"# {label} on held-out pairs",
            "",
            "Right answers in % (95 % interval, number of pairs), both orders averaged.",
            "",
            markdown_table(report_cells(report)),
            "",
            "Swapping the images swaps the answer, and how far answers lean to the first image:",
            "",
            *(f"- {line}" for line in consistency),
            "",
            "Calibration: how sure, and how often right.",
            "",
            markdown_table(calibration),
            "",
        ]
    )


def _lean(cell: CellReport) -> str:
    return "" if cell.position_bias is None else f", {cell.position_bias:+.3f}"


def accuracy_table(report: JudgeReport) -> Tensor:
    """Draw right answers in %, interval and pairs, by dimension and task; ``[H, W, 3]``, 0..1.

    Cells of fewer than :data:`LEAST_PAIRS` pairs are grey and say so.
    """
    tasks = [task for task in Task if any(task is cell[0] for cell in report.cells)]
    dimensions = [d for d in Dimension if any(d is cell[1] for cell in report.cells)]
    faint: set[tuple[int, int]] = set()
    rows = [["right answers", *(task.value for task in tasks)]]
    for dimension in dimensions:
        row = [dimension.value.replace("_", " ")]
        for task in tasks:
            cell = report.cells.get((task, dimension))
            if cell is None:
                row.append("")
            elif cell.num_pairs < LEAST_PAIRS:
                faint.add((len(rows), len(row)))
                row.append(f"too few to tell\n({cell.num_pairs})")
            else:
                interval = f"{100 * cell.low:.0f}-{100 * cell.high:.0f}"
                row.append(f"{100 * cell.accuracy:.0f} %\n{interval} ({cell.num_pairs})")
        rows.append(row)
    return render_table(rows, faint, _FONT_SIZE)


def report_image(report: JudgeReport) -> Tensor:
    """Draw the table, swap consistency and the calibration plot; ``[1, H, W, 3]``, 0..1."""
    bins = report.calibration
    cells = report.cells.values()
    num = sum(cell.num_pairs for cell in cells)
    consistency = sum(cell.swap_consistency * cell.num_pairs for cell in cells) / num
    line = [[f"swapping the images swaps the answer: {consistency:.0%} of {num}"]]
    if all(cell.position_bias is not None for cell in cells):
        lean = sum((cell.position_bias or 0.0) * cell.num_pairs for cell in cells) / num
        line.append([f"answers lean to the first image by {lean:+.2f}"])
    chart = plot(
        "right answers by confidence (number of pairs)",
        [
            Series(name="ideal", points=[(0.5, 0.5), (1.0, 1.0)]),
            Series(
                name="judge",
                points=[(group.mean_score, group.accuracy) for group in bins],
                labels=[str(group.num_pairs) for group in bins],
            ),
        ],
        (0.5, 1.0),
        (0.0, 1.0),
        "confidence",
    )
    return stack([accuracy_table(report), render_table(line, font_size=_FONT_SIZE), chart])


def save_report(folder: Path, report: JudgeReport, label: str) -> Tensor:
    """Write report.json, report.md and report.png; return the image."""
    image = report_image(report)
    write_report(folder, report)
    write_text(folder / "report.md", report_text(report, label))
    save_image(folder / "report.png", image[0])
    return image
