"""Calibrate a judge on held-out pairs; as a node and as ``onereward calibrate calibrate.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...fill.host import Host
from ...fill.io.files import write_text
from ...fill.json_config import JsonConfig, setting
from ...reward.calibrated_judge import CalibratedJudge
from ...reward.calibration import (
    METHODS,
    Calibration,
    cell_name,
    fit_calibration,
    held_out_answers,
    log_loss,
)
from ...reward.judge import BUNDLED, Judge
from ...reward.judging import VIEWS
from ...reward.load_judge import load_judge
from ...reward.preference import PreferenceSet
from ...reward.report import Answer, JudgeReport, make_report
from ..charts.tables import markdown_table
from ..runs.distributed import Distributed
from .report import HELD_OUT, ReportConfig, ask_held_out, save_report

JOB = "calibrate.json"
"""In the folder of a calibration: what ``onereward calibrate`` does again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig(JsonConfig):
    """How a judge is calibrated, and on which pairs. The order of the fields is a promise.

    Example: ``CalibrateConfig(method="isotonic", min_pairs=200)``.
    """

    method: str = setting(
        METHODS[0],
        "temperature = one number per task and dimension, fit for training rewards; isotonic = "
        "any rising curve, which needs more pairs and passes no gradient.",
        options=METHODS,
    )
    min_pairs: int = setting(
        30,
        "Pairs that a task and dimension needs for a calibration of its own; with fewer it has the "
        "temperature of all pairs together.",
        min=5,
        max=1_000_000,
        step=1,
    )
    split: str = setting(
        HELD_OUT[1],
        "Held-out pairs to calibrate on: dev (evaluated in training), test (never used before), or "
        "both.",
        options=HELD_OUT,
    )
    max_pairs: int = setting(
        0, "Pairs to ask about at most, spread over all; 0 = all.", min=0, max=1_000_000, step=1
    )
    view: str = setting(VIEWS[0], "How the images are shown to the judge.", options=VIEWS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationResult:
    """A calibrated judge and what that changed. Example: ``result.judge.probabilities(q)``."""

    judge: CalibratedJudge
    report: JudgeReport
    """Of the calibrated judge, on conditions that each calibration did not know."""
    text: str
    """Loss before and after, and temperatures, in Markdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateJob(JsonConfig):
    """Calibrate a judge.

    Example: ``CalibrateJob(preferences_folder="data", report_folder="report").run(host)``.
    """

    preferences_folder: str
    """Preference data."""
    report_folder: str
    """Where calibration.json and a report of the calibrated judge go."""
    judge: dict[str, Any] = field(default_factory=lambda: {"folder": BUNDLED})
    """The judge, as for :func:`~...reward.load_judge.load_judge`."""
    settings: CalibrateConfig = field(default_factory=CalibrateConfig)
    """How, and which pairs."""
    threads: int = 1
    """CPU threads of the command line."""

    def run(
        self, host: Host, processes: Distributed | None = None, judge: Judge | None = None
    ) -> CalibrationResult:
        """Ask the judge, fit, and write the files.

        Args:
            host: Memory, progress, cancel.
            processes: Share the pairs; None: those of the environment.
            judge: What a node has loaded already; None: load as the job says.

        Raises:
            ValueError: There are no pairs in this split, or one cannot be asked about.
            JudgeError: The judge cannot be asked.
        """
        judge = judge or load_judge(self.judge, host.device, host.check_cancelled)
        settings, folder = self.settings, Path(self.report_folder)
        pairs = ReportConfig(split=settings.split, max_pairs=settings.max_pairs, view=settings.view)
        data = PreferenceSet(Path(self.preferences_folder))
        answers = ask_held_out(judge, data, pairs, host, processes)
        calibration = replace(
            fit_calibration(answers, judge.identity, settings.method, settings.min_pairs),
            view=settings.view,
        )
        held_out = held_out_answers(answers, settings.method, settings.min_pairs)
        report = make_report(held_out)
        if log_loss(held_out) > log_loss(answers):
            host.notify(
                f"on pairs that it did not know, the calibration of {len(answers)} pairs is worse "
                "than none; use more pairs"
            )
        if processes is None or processes.is_main:
            save_report(folder, report, f"{judge.label}+{settings.method}")
            write_text(folder / JOB, self.to_json())
            calibration.save(folder)
        if processes is not None:
            processes.wait()
        return CalibrationResult(
            judge=CalibratedJudge(judge, folder),
            report=report,
            text=_text(calibration, judge.label, answers, held_out),
        )


def _text(
    calibration: Calibration, label: str, before: Sequence[Answer], after: Sequence[Answer]
) -> str:
    rows = [["task and dimension", "pairs", "log-loss before", "after", "temperature"]]
    for cell in sorted({answer.criterion for answer in before}):
        name = cell_name(cell)
        parts = [[a for a in answers if a.criterion == cell] for answers in (before, after)]
        losses = [f"{log_loss(part):.3f}" for part in parts]
        temperature = f"{calibration.temperatures.get(name, calibration.temperature):.2f}"
        if name not in calibration.temperatures:
            temperature += " (of all)"
        method = "isotonic" if name in calibration.steps else temperature
        rows.append([name, str(len(parts[0])), *losses, method])
    losses = [f"{log_loss(answers):.3f}" for answers in (before, after)]
    rows.append(["all", str(len(before)), *losses, f"{calibration.temperature:.2f}"])
    return "\n".join(
        [
            f"# {label}, calibrated",
            "",
            "Log-loss of both orders: 0.693 knows nothing, lower is better; that after calibration "
            "is measured on conditions that were left out of it.",
            "",
            markdown_table(rows),
            "",
        ]
    )
