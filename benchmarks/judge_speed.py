"""Choosing the best of N with four dimensions: one encoding per image against the naive way.

The naive way is what a script around ``transformers`` does: every comparison encodes both images
again, asks one question at a time and computes the logits of every position. Both give the same
probabilities, which is checked first. Run in turn (A B B A), with nothing else on the machine::

    .venv/bin/python benchmarks/judge_speed.py --candidates 8 --rounds 5

Uses the bundled judge unless ``--judge`` names a folder.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from onereward.fill.local_host import LocalHost
from onereward.fill.task import Task
from onereward.reward.judge import BUNDLED_FOLDER, JudgeConfig
from onereward.reward.judging import View, rank_candidates
from onereward.reward.query import Query, queries_for
from onereward.reward.score import RankingConfig
from onereward.reward.vlm.qwen_vl import QwenJudge

QUERIES = queries_for(Task.FILL, "a red circle")


def main() -> int:
    """Check, measure and report."""
    parser = argparse.ArgumentParser(description="best of N: encoded once against the naive way")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=64, help="pixels of the square images")
    parser.add_argument("--judge", type=Path, default=BUNDLED_FOLDER, help="folder of a judge")
    args = parser.parse_args()
    judge = QwenJudge(JudgeConfig(folder=str(args.judge)), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(args.candidates, args.side, args.side, 3, generator=generator)
    images = (images * 255).round() / 255
    calls = {
        "ours": lambda: encoded_once(judge, images),
        "naive": lambda: naive(judge, images),
    }
    difference = max(abs(a - b) for a, b in zip(calls["ours"](), calls["naive"](), strict=True))
    times = interleave(calls, args.rounds)
    sys.stdout.write(as_table(times, difference, args))
    return 0


def encoded_once(judge: QwenJudge, images: torch.Tensor) -> list[float]:
    """Return every probability of a knock-out, both orders averaged."""
    host = LocalHost("cpu")
    ranking = rank_candidates(judge, images, QUERIES, host, View(), RankingConfig())
    return [p for c in ranking.comparisons for p in c.judgement.probabilities.values()]


@torch.no_grad()
def naive(judge: QwenJudge, images: torch.Tensor) -> list[float]:
    """Return the same probabilities, every one by two whole forward passes."""
    probabilities: list[float] = []
    alive = list(range(len(images)))
    while len(alive) > 1:
        winners = [alive[-1]] if len(alive) % 2 else []
        for a, b in zip(alive[0::2], alive[1::2], strict=False):
            p = [a, b]
            values = [
                (_whole_pass(judge, images[p], q) + 1 - _whole_pass(judge, images[p[::-1]], q)) / 2
                for q in QUERIES
            ]
            probabilities += values
            winners.append(a if sum(values) / len(values) >= 0.5 else b)
        alive = sorted(winners)
    return probabilities


def _whole_pass(judge: QwenJudge, pair: torch.Tensor, query: Query) -> float:
    from onereward.reward.vlm.preprocess import to_patches

    patches, sizes = zip(
        *(to_patches(p.permute(2, 0, 1), judge.patches) for p in pair), strict=True
    )
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": query.question()}]
    text = judge.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    merge = judge.patches.merge_size**2
    parts = text.split("<|image_pad|>")
    counts = [rows * cols // merge for rows, cols in sizes]
    text = parts[0] + "".join(
        "<|image_pad|>" * n + p for n, p in zip(counts, parts[1:], strict=True)
    )
    ids = judge.tokenizer(text, return_tensors="pt").input_ids
    model: Any = judge.component.module
    logits = model(
        input_ids=ids,
        pixel_values=torch.cat(patches),
        image_grid_thw=torch.tensor([[1, *size] for size in sizes]),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    ).logits
    return float(logits.float()[0, -1].softmax(-1)[judge.answer_ids[0]])


def interleave(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time the calls in the order A B B A."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in calls if index % 2 == 0 else reversed(list(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def as_table(times: dict[str, list[float]], difference: float, args: argparse.Namespace) -> str:
    """Return the report as Markdown."""
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = "".join(f"| {name} | {median:.3f} |\n" for name, median in medians.items())
    return (
        f"Best of {args.candidates}, {len(QUERIES)} dimensions, {args.side} pixels, "
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{args.rounds} rounds.\n\n| | median, s |\n|---|---|\n{rows}\n"
        f"naive / ours: {medians['naive'] / medians['ours']:.2f}; "
        f"largest difference of a probability: {difference:.1e}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
