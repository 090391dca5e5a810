"""One fill through the API, end to end, beside the bare diffusers pipeline call.

Both run in turn (A B B A), so that they meet the same machine. Every API job has a new seed, the
way people work: it must reuse the loaded model, the encoded prompt and the encoded image. Run it
with nothing else on the machine::

    .venv/bin/python benchmarks/fill_overhead.py --rounds 20

Prints a Markdown table, and writes the same numbers as JSON where ``--json`` says.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.client import ComfyClient  # noqa: E402  (after the path is set)
from support.server import ComfyServer  # noqa: E402

MODEL = ROOT / "assets" / "fill"
SIDE = 64


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="one fill: API beside pipeline")
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each kind")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), spins=True) as server:
        api = make_api_call(ComfyClient(server.url))
        bare = make_pipeline_call()
        times = interleave({"api": api, "pipeline": bare}, args.rounds)
    report = summarise(times)
    sys.stdout.write(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    return 0


def interleave(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time the calls in the order A B B A, after a warm-up of two each."""
    for call in [*calls.values()] * 2:
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def make_api_call(client: ComfyClient) -> Callable[[], None]:
    """Return a call that queues the shipped fill workflow with a new seed and waits for its end."""
    client.upload(_source(), "example.png")
    template = json.loads((ROOT / "workflows" / "api" / "fill.json").read_text())
    (edit,) = [k for k, node in template.items() if node["class_type"] == "OneRewardFill"]
    # diffusers' pipeline has no true guidance, so both go without.
    template["settings"] = {"class_type": "OneRewardSettings", "inputs": {"true_cfg": 1.0}}
    template[edit]["inputs"]["settings"] = ["settings", 0]
    seeds = itertools.count(1)

    def call() -> None:
        graph = copy.deepcopy(template)
        graph[edit]["inputs"]["seed"] = next(seeds)
        job = client.run(graph)
        if not job.succeeded:
            raise RuntimeError(job.error)

    return call


def make_pipeline_call() -> Callable[[], None]:
    """Return diffusers' own pipeline on the same model, image, prompt and settings."""
    from diffusers import FluxFillPipeline

    recipe = json.loads((MODEL / "recipe.json").read_text())
    pipeline: Any = FluxFillPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    source = _source()
    seeds = itertools.count(1)

    def call() -> None:
        pipeline(
            prompt="a red circle",
            image=source.convert("RGB"),
            mask_image=Image.fromarray(255 - np.asarray(source)[..., 3]),
            height=SIDE,
            width=SIDE,
            num_inference_steps=recipe["steps"],
            guidance_scale=recipe["guidance"],
            generator=torch.Generator().manual_seed(next(seeds)),
            max_sequence_length=recipe["max_sequence_length"],
        )

    return call


def summarise(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, quartiles and the ratio, with what they were measured on."""
    rows = {
        name: dict(zip(("q1", "median", "q3"), statistics.quantiles(t, n=4), strict=True))
        for name, t in times.items()
    }
    return {
        "seconds": rows,
        "ratio": rows["api"]["median"] / rows["pipeline"]["median"],
        "rounds": len(times["api"]),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def as_table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [
        f"One {SIDE}x{SIDE} fill on {report['device']}, torch {report['torch']}, "
        f"{report['rounds']} rounds.",
        "",
        "| | first quartile, s | median, s | third quartile, s |",
        "|---|---|---|---|",
    ]
    for name, row in report["seconds"].items():
        lines.append(f"| {name} | {row['q1']:.3f} | {row['median']:.3f} | {row['q3']:.3f} |")
    lines += ["", f"API / pipeline: {report['ratio']:.3f}", ""]
    return "\n".join(lines)


def _source() -> Image.Image:
    """Return smooth colours with a square hole in the alpha channel: what is to be repainted."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    colours = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")[0]
    alpha = torch.ones(1, SIDE, SIDE)
    alpha[:, 20:44, 20:44] = 0
    pixels = torch.cat([colours, alpha]).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().to(torch.uint8).numpy(), "RGBA")


if __name__ == "__main__":
    sys.exit(main())
