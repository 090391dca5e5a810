"""How far images of quantised files are from those of the same weights in bf16.

Writes the transformer as a single file in every precision, edits one image with each, and
compares. ``bundled`` is the model of this repository with its own recipe; ``wide`` has the width of
the published one (3072, 24 heads of 128) with one double and one single block of random weights,
about 1 GB in bf16, and makes noise: there only the size of the differences means something::

    .venv/bin/python benchmarks/quantised_images.py bundled wide

Prints a Markdown table for each: the transformer's memory as a share of that in bf16, and the
difference of the latents, as a share of their norm, and of the finished image, of 255.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import conftest  # noqa: E402, F401  (makes the repository the package `onereward`)
from safetensors.torch import load_file  # noqa: E402

from onereward.fill import pipeline  # noqa: E402
from onereward.fill.config import FillConfig, ModelConfig  # noqa: E402
from onereward.fill.local_host import LocalHost  # noqa: E402
from onereward.fill.models import load_fill_models  # noqa: E402
from onereward.fill.request import FillRequest  # noqa: E402
from onereward.fill.task import Task  # noqa: E402
from support import checkpoints  # noqa: E402
from support.bundled_models import BUNDLED  # noqa: E402
from support.published import write_transformer  # noqa: E402

PRECISIONS = ("e4m3fn", "e5m2", "scaled e4m3fn", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
WIDE_STEPS = 4


def main() -> int:
    """Measure the models that were named."""
    parser = argparse.ArgumentParser(description="images of quantised files against bf16")
    parser.add_argument("models", nargs="+", choices=("bundled", "wide"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            rows = list(measure(name, Path(folder), torch.device(arguments.device)))
        sys.stdout.write(f"\n{name}\n\n| file | memory | latents | image, mean | largest |\n")
        sys.stdout.write("|---|---|---|---|---|\n" + "".join(rows))
    return 0


def measure(name: str, folder: Path, device: torch.device) -> Iterator[str]:
    """Yield a row for every precision."""
    source = BUNDLED
    if name == "wide":
        source = wide_model(folder / "model")
    tensors: dict[str, torch.Tensor] = {}
    for file in (source / "transformer").glob("*.safetensors"):
        tensors |= load_file(file)
    settings = FillConfig() if name == "bundled" else FillConfig(steps=WIDE_STEPS, true_cfg=1.0)
    truth: Any = None
    for precision in ("bf16", *PRECISIONS):
        path = write(folder / "file", tensors, precision)
        size, latents, image = edit(source, path, settings, device)
        path.unlink()
        if truth is None:
            truth = size, latents, image
            continue
        distance = float((latents - truth[1]).norm() / truth[1].norm())
        change = (image - truth[2]).abs() * 255
        yield (
            f"| {precision} | {size / truth[0]:.2f} | {distance:.4f} | {change.mean():.2f} "
            f"| {change.max():.0f} |\n"
        )


def wide_model(folder: Path) -> Path:
    """Return the bundled model with a transformer of the published width, latents as they are."""
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("transformer"))
    config = json.loads((BUNDLED / "transformer" / "config.json").read_text())
    names = ("in_channels", "out_channels", "joint_attention_dim", "pooled_projection_dim")
    write_transformer(folder / "transformer", **{key: config[key] for key in names})
    return folder


def write(path: Path, tensors: checkpoints.Tensors, precision: str) -> Path:
    """Write one file in diffusers layout."""
    if precision.startswith("Q"):
        path = path.with_suffix(".gguf")
        checkpoints.write_gguf(path, tensors, precision)
        return path
    path = path.with_suffix(".safetensors")
    if precision == "bf16":
        return checkpoints.save(path, {k: v.to(torch.bfloat16) for k, v in tensors.items()})
    if precision.startswith("scaled"):
        return checkpoints.save(path, checkpoints.as_scaled_fp8(tensors))
    return checkpoints.save(
        path, checkpoints.as_fp8(tensors, getattr(torch, f"float8_{precision}"))
    )


def edit(
    folder: Path, transformer: Path, settings: FillConfig, device: torch.device
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the transformer's bytes, the latents and the image."""
    config = ModelConfig(
        folder=str(folder), transformer=str(transformer), precision="bf16", recipe="bundled"
    )
    models = load_fill_models(config, device)
    final_latents: list[torch.Tensor] = []
    original = pipeline.decode_latent

    def keep(latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        final_latents.append(latents.clone())
        return original(latents, *arguments)

    pipeline.decode_latent = keep
    try:
        result = pipeline.run_fill(request(settings), models, LocalHost(device))
    finally:
        pipeline.decode_latent = original
    return models.transformer.num_bytes, final_latents[0], result.image


def request(settings: FillConfig) -> FillRequest:
    """Return one edit of a smooth image."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    return FillRequest(
        task=Task.FILL,
        image=image.permute(0, 2, 3, 1),
        mask=mask,
        prompt="a red circle",
        config=settings,
        seed=1,
    )


if __name__ == "__main__":
    sys.exit(main())
