"""``onereward benchmark-judge``: how well a judge agrees with people on a public benchmark."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .command_help import add_command
from .headless import run_headless

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ..training.runs.distributed import Distributed
    from ..training.runs.hosts import TrainingHost


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(
        subparsers,
        "benchmark-judge",
        "compare a judge with people's choices on a public benchmark",
        "benchmark-judge models/onereward/FIRM-Edit-8B EditReward-Bench/2pair out/firm",
        "benchmark-judge Qwen3-VL-4B-Instruct FIRM-Bench-Edit out/editscore --adapter EditScore-4B",
    )
    parser.add_argument(
        "judge",
        help="folder of a vision-language model, bundled, or a .json file with a job's `judge` "
        "(a server's, calibrated, an ensemble), which needs none of the options for a folder",
    )
    parser.add_argument(
        "data",
        type=Path,
        help="file or folder: EditReward-Bench (of TIGER-Lab or EditScore), GenAI-Bench's image "
        "edition, or FIRM-Bench-Edit",
    )
    parser.add_argument("out", type=Path, help="folder of the answers; goes on where it stopped")
    parser.add_argument("--adapter", default="", help="folder of a LoRA adapter in PEFT format")
    parser.add_argument(
        "--card", default="", help="a card's file, or a bundled one's name (default: the judge's)"
    )
    parser.add_argument("--precision", default="auto", help="auto, bf16, fp16, fp32, fp8 or nf4")
    parser.add_argument("--max-pixels", type=int, default=512 * 512, help="of an image")
    parser.add_argument("--max-pairs", type=int, default=0, help="only the first so many; 0: all")
    parser.add_argument("--threads", type=int, default=4, help="CPU threads")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the judge; write the folder of the results, and the table."""
    from ..fill.io.json_text import read_json
    from ..reward.judge import JudgeConfig
    from ..reward.load_judge import check_judge_values, load_judge
    from ..training.charts.tables import markdown_table
    from ..training.judge.benchmark import run_benchmark

    if arguments.max_pairs < 0:
        raise ValueError(f"--max-pairs is {arguments.max_pairs}, but 0 or more is expected")
    if arguments.judge.endswith(".json"):
        values = read_json(Path(arguments.judge), "correct it")
        values = values.get("judge", values)
        check_judge_values(values)
    else:
        config = JudgeConfig(
            folder=arguments.judge,
            precision=arguments.precision,
            max_pixels=arguments.max_pixels,
            adapter=arguments.adapter,
            card=arguments.card,
        )
        values = asdict(config)

    def job(host: TrainingHost, _: Distributed) -> str:
        judge = load_judge(values, host.device, host.check_cancelled)
        result = run_benchmark(judge, arguments.data, arguments.out, host, arguments.max_pairs)
        lines = [
            markdown_table(result.cells()),
            f"{result.judge}: {result.seconds:.2f} s per pair, "
            f"{result.peak_bytes / 2**30:.2f} GiB at most; {arguments.out / 'result.json'}",
        ]
        return "\n".join(lines)

    return run_headless(arguments.threads, str(arguments.out), job)
