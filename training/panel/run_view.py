"""A run's folder as the training panel shows it; only reads."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from ...fill.io.folder_lock import HOLDER
from ...fill.io.json_text import label_of, parse_object, read_json, read_lines
from ..policy.monitoring.samples_folder import BASE, EDITS, SAMPLES, sample_steps

CONFIG, METRICS = "config.json", "metrics.jsonl"
MAX_LINES = 1200
"""Lines of the metrics that are sent; those with an evaluation are always among them."""
TAIL_BYTES = 1 << 16
"""Of the metrics, in which the last line stands whole."""
SETTINGS = (
    *("objective", "algorithm", "mode", "rank", "batch_size", "learning_rate", "reward_cap"),
    *("group_size", "dpo_beta", "nft_beta", "eval_every", "seed"),
)
RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"


def run_summary(run: Path) -> dict[str, Any]:
    """Return status, step and steps of a run.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: A file is damaged; names it.
    """
    config, lines = _config(run), _last_metrics(run)
    last = lines[-1] if lines else {}
    step, steps = int(last.get("step", 0)), int(config.get("steps", 0))
    status = RUNNING if is_running(run) else (FINISHED if step >= steps else STOPPED)
    return {"status": status, "step": step, "steps": steps, "seconds": last.get("seconds", 0.0)}


def run_view(run: Path) -> dict[str, Any]:
    """Return all that the panel shows of a run, its images by name only.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: A file is damaged; names it.
    """
    config = _config(run)
    base = run / SAMPLES / BASE
    edits = json.loads((base / EDITS).read_text("utf-8")) if (base / EDITS).is_file() else []
    return {
        **run_summary(run),
        "settings": {name: config[name] for name in SETTINGS if name in config},
        "metrics": thinned(_metrics(run)),
        "edits": edits,
        "samples": sample_steps(run),
        "memory_gb": _memory_gb(run),
    }


def sample_file(run: Path, place: str, index: str) -> Path:
    """Return an image of a run: of a step (``120``), or the ``source``, ``mask`` or ``start``.

    Raises:
        FileNotFoundError: There is none.
    """
    number = index if index.isdecimal() and len(index) < 4 else "x"
    if place.isdecimal() and int(place) in sample_steps(run):
        path = run / SAMPLES / f"step-{int(place):06d}" / f"{number}.png"
    else:
        kind = place if place in ("source", "mask", "start") else "x"
        path = run / SAMPLES / BASE / f"{kind}-{number}.png"
    if not path.is_file():
        raise FileNotFoundError("there is no such image; it may have been replaced by a newer one")
    return path


def is_running(run: Path) -> bool:
    """Tell whether a process is writing to a run's folder now."""
    holder = _holder(run)
    if not holder:
        return False
    is_here = holder.get("computer") == socket.gethostname()
    return not is_here or psutil.pid_exists(int(holder.get("process", -1)))


def thinned(lines: Sequence[Mapping[str, float]]) -> list[dict[str, float | None]]:
    """Return at most about ``MAX_LINES``, evenly, with all evaluations; numbers that JSON has."""
    every = max(1, math.ceil(len(lines) / MAX_LINES))
    records = [
        line
        for index, line in enumerate(lines)
        if index % every == 0 or index == len(lines) - 1 or "eval" in line or "accuracy" in line
    ]
    return [{k: v if math.isfinite(v) else None for k, v in line.items()} for line in records]


def _config(run: Path) -> dict[str, Any]:
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(f"{label_of(run)} holds no run; start one by that name")
    return read_json(run / CONFIG)


def _metrics(run: Path) -> list[dict[str, float]]:
    return _numbers(line for _, line in read_lines(run / METRICS))


def _numbers(lines: Iterable[str]) -> list[dict[str, float]]:
    """Return the numbers of every whole line; one that is being written or cut is passed over."""
    records: list[dict[str, float]] = []
    for line in lines:
        try:
            values = parse_object(line, allows_nan=True)
        except ValueError:
            continue
        records.append({k: float(v) for k, v in values.items() if isinstance(v, (int, float))})
    return records


def _last_metrics(run: Path) -> list[dict[str, float]]:
    """Return the last lines alone: the list of runs asks for them again and again."""
    path = run / METRICS
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        tail = file.read().decode("utf-8", "replace")
    return _numbers(tail.splitlines())


def _holder(run: Path) -> dict[str, Any]:
    try:
        return read_json(run / HOLDER)
    except (OSError, ValueError):
        return {}


def _memory_gb(run: Path) -> float | None:
    """Return the host memory of the process that trains, if it runs on this computer."""
    holder = _holder(run)
    if holder.get("computer") != socket.gethostname() or not is_running(run):
        return None
    try:
        return psutil.Process(int(holder["process"])).memory_info().rss / 1e9
    except (psutil.Error, ValueError):
        return None
