"""How well a judge agrees with people on a public benchmark, and what it takes.

Answers are kept in ``answers.jsonl`` as they come, so that a benchmark that was stopped goes on::

    {"key": "2pair.parquet:0", "group": "0a1b2c3d:Add a hat", "dimension": "overall", "better": 1.0,
     "forward": 0.71, "backward": 0.35, "seconds": 1.8}

``forward`` is P(the first image is better) with the first shown first, ``backward`` that the second
is better with the second shown first; null: the judge's answer could not be read.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch

from ...fill.host import Host
from ...fill.io.json_text import label_of, read_json, read_records
from ...fill.io.writing import append_line, drop_torn_line, make_folder, write_text
from ...fill.json_config import make_record
from ...fill.task import Dimension, Task, dimensions_for
from ...reward.judge import Judge, JudgeError, PairQuestion
from ...reward.query import Query
from ...reward.report import Answer, CalibrationBin, make_report
from .public_pairs import PublicPair, read_public_pairs
from .report import ANY_SIZE

log = logging.getLogger("onereward.benchmark")
ANSWERS, START, RESULT = "answers.jsonl", "benchmark.json", "result.json"
FORMAT = 1
_DIMENSIONS = {
    "prompt_following": (Dimension.TEXT_ALIGNMENT,),
    "execution": (Dimension.TEXT_ALIGNMENT,),
    "consistency": (Dimension.CONSISTENCY,),
}
"""What is asked for a published dimension; the mean of all four for any other, such as overall."""
_LOG_EVERY = 10


@dataclass(frozen=True, slots=True)
class InstructionQuery(Query):
    """A question about an edit whose prompt is the whole instruction.

    Example: ``InstructionQuery(Task.FILL, Dimension.CONSISTENCY, "Add a hat")``.
    """

    def instruction(self) -> str:
        """Return the prompt as it is."""
        return self.prompt.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicAnswer:
    """A judge's answers about one pair. Example: ``answer.forward > 0.5``; see the module."""

    key: str
    group: str
    dimension: str
    better: float
    forward: float | None
    backward: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionResult:
    """Agreement with people on one dimension. Example: ``result.accuracy``."""

    num_pairs: int
    """Those that people do not call a tie, and whose answer could be read."""
    num_ties: int
    """Left out."""
    num_unread: int
    """Left out: the judge's answer could not be read."""
    accuracy: float
    """Share of pairs where the mean of both orders prefers what people prefer."""
    low: float
    """Lower end of the 95 % interval (Wilson), by images where pairs share them."""
    high: float
    """Upper end."""
    swap_consistency: float
    """Share of pairs where swapping the images swaps the answer."""
    position_bias: float
    """Mean P(what is shown first is better) less one half; above 0: the first is favoured."""
    calibration_error: float
    """Expected calibration error: mean distance of confidence and accuracy over equal bins."""
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """A judge on a benchmark. Example: ``print(markdown_table(result.cells()))``."""

    judge: str
    dimensions: dict[str, DimensionResult]
    seconds: float
    """Median of a pair, asked in both orders."""
    peak_bytes: int
    """Most memory of the device, on a CPU of this process."""

    def cells(self) -> list[list[str]]:
        """Return a table of texts, the head first."""
        head = ["dimension", "pairs", "accuracy", "swap consistency", "position bias", "ECE"]
        rows = [
            [
                name.replace("_", " "),
                str(r.num_pairs),
                f"{100 * r.accuracy:.1f} ({100 * r.low:.0f}-{100 * r.high:.0f})",
                f"{100 * r.swap_consistency:.1f}",
                f"{r.position_bias:+.3f}",
                f"{r.calibration_error:.3f}",
            ]
            for name, r in self.dimensions.items()
        ]
        return [head, *rows]


def run_benchmark(
    judge: Judge, data: Path, folder: Path, host: Host, max_pairs: int = 0
) -> BenchmarkResult:
    """Ask a judge about a benchmark, or go on; write ``result.json``.

    Example: ``run_benchmark(judge, Path("EditReward-Bench"), Path("out"), host).cells()``.

    Args:
        judge: The judge.
        data: As for :func:`~.public_pairs.read_public_pairs`, which says what else is raised.
        folder: Of the answers.
        host: Memory, progress, cancel.
        max_pairs: Only so many, from the beginning; 0: all.

    Raises:
        ValueError: The folder holds another benchmark, or none of the pairs can be counted.
        JudgeError: The judge cannot be asked.
    """
    judge.check()
    make_folder(folder)
    _check_start(folder, {"judge": judge.identity, "data": str(data.resolve())})
    drop_torn_line(folder / ANSWERS)
    answers = read_records(folder / ANSWERS, lambda values: make_record(PublicAnswer, values))
    keys = {answer.key for answer in answers}
    room = judge.working_bytes(ANY_SIZE)
    with host.resident(*judge.components, activation_bytes=room), torch.no_grad():
        if host.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(host.device)
        for pair in islice(read_public_pairs(data), max_pairs or None):
            host.check_cancelled()
            if pair.key not in keys:
                answers.append(_ask(judge, pair, host.device))
                append_line(folder / ANSWERS, json.dumps(asdict(answers[-1])), is_durable=False)
                if len(answers) % _LOG_EVERY == 0:
                    log.info("%d pairs", len(answers))
        peak = _peak_bytes(host.device)
    result = summarise(answers, judge.label, peak)
    values = {"format": FORMAT, **asdict(result)}
    write_text(folder / RESULT, json.dumps(values, indent=2) + "\n")
    return result


def summarise(answers: Sequence[PublicAnswer], label: str, peak_bytes: int) -> BenchmarkResult:
    """Return what answers come to; ValueError if none of them counts."""
    groups: dict[str, list[PublicAnswer]] = defaultdict(list)
    for answer in answers:
        groups[answer.dimension].append(answer)
    results = {name: result for name in sorted(groups) if (result := _result(groups[name]))}
    if not results:
        raise ValueError(
            f"none of {len(answers)} pairs can be counted: people call them ties, or the judge's "
            "answers could not be read"
        )
    seconds = statistics.median(answer.seconds for answer in answers)
    return BenchmarkResult(judge=label, dimensions=results, seconds=seconds, peak_bytes=peak_bytes)


def _check_start(folder: Path, values: dict[str, str]) -> None:
    path = folder / START
    if not path.exists():
        write_text(path, json.dumps({"format": FORMAT, **values}, indent=2) + "\n")
        return
    stored = read_json(path)
    for name, value in values.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{label_of(folder)} holds answers of another {name}; choose a new folder"
            )


def _ask(judge: Judge, pair: PublicPair, device: torch.device) -> PublicAnswer:
    """Ask about a pair in both orders."""
    start = time.perf_counter()
    dimensions = _DIMENSIONS.get(pair.dimension, dimensions_for(Task.FILL, pair.instruction))
    queries = [InstructionQuery(Task.FILL, d, pair.instruction) for d in dimensions]
    files = [pair.first, pair.second, *([pair.source] if judge.needs_source else [])]
    first, second, *source = judge.encode_images([pair.image(f).to(device) for f in files])
    before: Any = source[0] if source else None
    shares: list[float | None] = []
    for a, b in ((first, second), (second, first)):
        try:
            p = judge.probabilities([PairQuestion(a, b, q, before) for q in queries])
            shares.append(float(p.mean()))
        except JudgeError as error:
            log.warning("pair %s: %s", pair.key, error)
            shares.append(None)
    return PublicAnswer(
        key=pair.key,
        group=pair.group,
        dimension=pair.dimension,
        better=pair.better,
        forward=shares[0],
        backward=shares[1],
        seconds=time.perf_counter() - start,
    )


def _result(answers: Sequence[PublicAnswer]) -> DimensionResult | None:
    """Return the agreement on one dimension; None if no answer counts."""
    pairs: list[Answer] = []
    firsts: list[float] = []
    num_ties = sum(answer.better == 0.5 for answer in answers)
    for answer in answers:
        if answer.better == 0.5 or answer.forward is None or answer.backward is None:
            continue
        shown_first = answer.forward, answer.backward
        firsts += shown_first
        won, lost = shown_first if answer.better == 1 else shown_first[::-1]
        pairs.append(
            Answer(
                criterion=(Task.FILL, Dimension.TEXT_ALIGNMENT),
                winner_first=won,
                loser_first=lost,
                condition=answer.group,
            )
        )
    if not pairs:
        return None
    report = make_report(pairs)
    (cell,) = report.cells.values()
    gaps = [b.num_pairs * abs(b.mean_score - b.accuracy) for b in report.calibration]
    return DimensionResult(
        num_pairs=len(pairs),
        num_ties=num_ties,
        num_unread=len(answers) - num_ties - len(pairs),
        accuracy=cell.accuracy,
        low=cell.low,
        high=cell.high,
        swap_consistency=cell.swap_consistency,
        position_bias=statistics.fmean(firsts) - 0.5,
        calibration_error=sum(gaps) / len(pairs),
        calibration=report.calibration,
    )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = getattr(psutil.Process().memory_info(), "peak_wset", 0)  # Windows alone knows it
    if not peak:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak
