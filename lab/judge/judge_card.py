"""The judge's card, `README.md` in its folder: a page made of measured numbers alone.

It is written from `report.json` and `evaluation.json`; `bundle` describes the latter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...fill.io.files import write_text
from ...reward.judge import JudgeError
from ...reward.report import FILE_NAME as REPORT
from ...reward.report import JudgeReport, read_report, report_cells
from ...training.charts.tables import markdown_table
from ..oracle import DIMENSIONS

EVALUATION = "evaluation.json"
PUBLISHED: dict[str, dict[str, float]] = {
    "fill": {
        "text_alignment": 83.77,
        "consistency": 74.23,
        "structure": 74.63,
        "aesthetics": 72.10,
    },
    "extend": {
        "text_alignment": 80.36,
        "consistency": 72.50,
        "structure": 74.29,
        "aesthetics": 71.10,
    },
    "remove": {"removal_quality": 84.93},
}
"""Accuracy in % of the paper's judge (table 1), on people's preferences."""


def write_card(folder: Path) -> None:
    """Write the card of a folder that has a report and an evaluation.

    Raises:
        JudgeError: The folder has no report.
    """
    report = read_report(folder)
    if report is None:
        raise JudgeError(f"{folder} has no {REPORT}; bundle the judge first")
    numbers = json.loads((folder / EVALUATION).read_text())
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "README.md"]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    write_text(folder / "README.md", card_text(report, numbers, megabytes))


def card_text(report: JudgeReport, numbers: dict[str, Any], megabytes: float) -> str:
    """Return the card."""
    margins = ", ".join(f"{m} ({_words(name)})" for name, m in numbers["margins"].items())
    sections = [
        _HEAD.format(megabytes=megabytes),
        "## Accuracy on finished candidates of the test split",
        "In %, with the 95 % interval and the number of pairs (best against worst of four, one "
        "pair per scene); a pair counts as right by the mean over both orders.",
        markdown_table(report_cells(report)),
        "Published judge (7B, people's preferences), in %:",
        _published(),
        "## Other pairs and questions",
        _accuracies(numbers),
        "## Clear pairs",
        f"The scores of a pair differ by at least {margins}. Share of scenes that have such a "
        "pair, in %:",
        _clear_shares(numbers["clear_shares"]),
        "## Robustness",
        _robustness(numbers),
        "## Training",
        "Clear pairs of the train split, besides blends and deformed truths that are made during "
        "training:",
        _pairs(numbers["pairs"]),
        _training(numbers["training"]),
    ]
    if len(numbers["averaged"]) > 1:
        sections.append(
            f"The weights are the mean of those after {', '.join(numbers['averaged'])}."
        )
    sections.append(f"Configs: `{EVALUATION}`. Accuracy per cell: `{REPORT}`.")
    return "\n\n".join(sections) + "\n"


_HEAD = """# Bundled judge

Qwen2.5-VL's architecture in the small ({megabytes:.1f} MB, bfloat16), trained from scratch on the
procedural world (`lab/world/`): first by VQA (questions about images), then by comparing candidates
of the bundled fill model as the world's oracle does. It is for development, tests and for showing
that the loop works; it cannot judge images other than 64x64 scenes of its world.

This page is written by `python -m onereward.lab.judge.bundle`."""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _published() -> str:
    rows = [["", *(_words(name) for name in DIMENSIONS)]]
    for task, row in PUBLISHED.items():
        rows.append([task, *(f"{row[name]:.1f}" if name in row else "" for name in DIMENSIONS)])
    return markdown_table(rows)


def _accuracies(numbers: dict[str, Any]) -> str:
    rows = [["what", "right", "questions"]]
    names = {
        "one_step": "one-step prediction against a finished image",
        "artifact": "injected artifact against the truth",
        "pattern": "fine pattern against the image below it",
    }
    for key, name in names.items():
        row = numbers["kinds_of_pairs"].get(key)
        if row is not None:
            rows.append([name, f"{100 * row['accuracy']:.1f} %", str(row["questions"])])
    for kind, share in numbers["vqa_accuracy"].items():
        rows.append([f"VQA: {kind}", f"{100 * share:.1f} %", ""])
    return markdown_table(rows)


def _clear_shares(shares: dict[str, float]) -> str:
    rows = [["task", "dimension", "scenes"]]
    for cell, share in shares.items():
        task, _, dimension = cell.partition(".")
        rows.append([task, _words(dimension), f"{100 * share:.0f}"])
    return markdown_table(rows)


def _robustness(numbers: dict[str, Any]) -> str:
    attack, baseline = numbers["attack"], numbers.get("without_adversarial_pairs") or {}
    text = (
        "How often an image that the oracle calls unusable wins against a usable one of the same "
        f"scene, untouched and after {attack['steps']} Adam steps on P(Yes) inside the mask: at "
        f"most {255 * attack['pixel_limit']:.0f}/255 per pixel, or {attack['latent_limit']} of a "
        "latent's standard deviation. *policy*: unusable images of a LoRA that was trained against "
        "the judge itself."
    )
    rows = [["attack", "bundled judge", "last stage without adversarial pairs", "pairs"]]
    for name, row in numbers["robustness"].items():
        if "wins" in row:  # not a policy's config
            baseline_rate = _rate(baseline[name]) if name in baseline else "not measured"
            rows.append([name, _rate(row), baseline_rate, str(row["num_pairs"])])
    return f"{text}\n\n{markdown_table(rows)}"


def _rate(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{100 * row['wins']:.1f} % ({100 * low:.0f}-{100 * high:.0f})"


def _pairs(pairs: dict[str, dict[str, int]]) -> str:
    rows = [["task", "pairs", "of two finished candidates"]]
    rows += [[task, str(row["all"]), str(row["finished"])] for task, row in pairs.items()]
    return markdown_table(rows)


def _training(records: Sequence[dict[str, Any]]) -> str:
    rows = [["run", "steps", "core-hours on a CPU"]]
    for record in records:
        name = Path(record["config"]["run_folder"]).name
        hours = record["hours"] * record["config"].get("threads", 1)
        rows.append([name, str(record["steps"]), f"{hours:.2f}"])
    return markdown_table(rows)
