"""ComfyUI's start with this pack beside its start without, in turn (A B B A).

What a user waits for after starting ComfyUI, seen from outside: the time until the server answers.
Run it with nothing else on the machine::

    .venv/bin/python benchmarks/import_time.py --rounds 5

Prints a Markdown table, and writes the same numbers as JSON where ``--json`` says::

    {"seconds": {"with": [6.91, 6.87], "without": [6.69, 6.70]},
     "ratio": 1.029, "rounds": 2, "device": "x86_64 CPU"}
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.server import PACK_FOLDER, ComfyServer  # noqa: E402  (after the path is set)

PACKS = {"with": PACK_FOLDER, "without": None}


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="ComfyUI's start with and without this pack")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    report = summarise(measure(args.rounds))
    sys.stdout.write(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    return 0


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every start, after one of each that fills the disk's cache."""
    for name in PACKS:
        start_seconds(name)
    times: dict[str, list[float]] = {name: [] for name in PACKS}
    for index in range(rounds):
        for name in PACKS if index % 2 == 0 else reversed(PACKS):
            times[name].append(start_seconds(name))
    return times


def start_seconds(name: str) -> float:
    """Start ComfyUI once, with or without the pack; return the seconds until it answers."""
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(Path(folder), pack_folder=PACKS[name])
        start = time.perf_counter()
        with server:
            return time.perf_counter() - start


def summarise(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return the times and the ratio of their medians, with what they were measured on."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": times,
        "ratio": medians["with"] / medians["without"],
        "rounds": len(times["with"]),
        "device": f"{platform.machine()} CPU",
    }


def as_table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [
        f"ComfyUI's start on {report['device']}, {report['rounds']} rounds.",
        "",
        "| pack | least, s | median, s | most, s |",
        "|---|---|---|---|",
    ]
    for name, values in report["seconds"].items():
        row = (min(values), statistics.median(values), max(values))
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    lines += ["", f"with / without: {report['ratio']:.3f}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
