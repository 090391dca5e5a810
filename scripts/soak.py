"""Edit for hours in one real server, and look for what grows or leaks from one job into another.

Jobs change size, mask, task, adapter and model at every turn; between them a judge compares images
and edits are cancelled. The server's memory, open files and threads must stay as they were after
the first jobs, and pictures must equal, bit for bit, those of a server that has done nothing else.
Every job follows from its number, so each can be made again alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.client import ComfyClient, Event  # noqa: E402 - found through the line above
from support.edits import BUNDLED, TASK_INPUTS, EditGraph  # noqa: E402
from support.graph import Link, output  # noqa: E402
from support.server import ComfyServer  # noqa: E402

OTHER_MODEL = "other-model"
"""The bundled model with other weights in its last layer."""
MODELS = (
    {"model": BUNDLED},
    {"model": OTHER_MODEL},
    {"model": BUNDLED, "precision": "fp8"},
    {"model": BUNDLED, "is_native": True},
)
ADAPTERS = (f"{BUNDLED}/fixed", f"{BUNDLED}/dynamic")
SIDES = range(48, 161, 16)
NUM_PICTURES = 12
"""They come again, so that caches of what was encoded are full after the first jobs."""
MAX_WORKERS = 32
"""At least as many as the server has threads for files, which it starts as they are needed."""
PROMPTS = ("a red circle", "a blue square", "green stripes")
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Lets glibc return what is freed. Else it keeps what other sizes do not fit into, and memory
drifts by 20 % over some hundred jobs while nothing more is in use."""
LONG = {"steps": 40}
"""Settings of an edit that is cancelled at its second message of progress."""
JOB_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the server used after a job. Example: ``soak.sample(3, seconds=0.5).rss_mb``."""

    job: int
    rss_mb: float
    files: int
    threads: int
    seconds: float


class Soak:
    """Runs numbered jobs in one server, each determined by its number.

    Example: ``with Soak(Path("/tmp/soak"), seed=0) as soak: soak.edit(7)``.
    """

    def __init__(self, base: Path, seed: int) -> None:
        self._server = ComfyServer(base)
        self._seed = seed
        self._base = base

    def __enter__(self) -> Soak:
        add_other_model(self._base / "models" / "onereward" / OTHER_MODEL)
        self._server.start()
        self._client = ComfyClient(self._server.url)
        # All threads for files.
        name = self._client.upload(draw(random.Random(0), 512, 512), "start.png")
        query = f"/view?filename={name}&type=input"
        with ThreadPoolExecutor(MAX_WORKERS) as pool:
            list(pool.map(self._client.request, [query] * 4 * MAX_WORKERS))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def edit(self, number: int) -> str:
        """Make the edit of a number; return a digest of its pictures."""
        g = EditGraph()
        node = g.show(self._add_edit(g, number))
        job = self._client.run(g.graph, JOB_TIMEOUT_S)
        if not job.succeeded:
            raise RuntimeError(f"edit {number} failed: {job.error}")
        digest = hashlib.blake2b(digest_size=16)
        for reference in job.images(node):
            digest.update(np.asarray(self._client.image(reference)).tobytes())
        self._forget()
        return digest.hexdigest()

    def judge(self, number: int) -> None:
        """Compare the edit of a number with its colours inverted."""
        g = EditGraph()
        edited = self._add_edit(g, number)
        judge = g.add("OneRewardLoadJudge", judge=BUNDLED)
        images = {"image_a": edited, "image_b": g.add("ImageInvert", image=edited)}
        score = g.add("OneRewardScore", judge=judge, task="fill", prompt="a circle", **images)
        g.add("PreviewAny", source=output(score, 2))
        job = self._client.run(g.graph, JOB_TIMEOUT_S)
        if not job.succeeded:
            raise RuntimeError(f"judging {number} failed: {job.error}")
        self._forget()

    def cancel(self, number: int) -> bool:
        """Cancel a long edit while it samples; return whether it had not ended before."""
        g = EditGraph()
        g.show(self._add_edit(g, number, LONG))
        with self._client.listen() as listener:
            prompt_id = self._client.queue(g.graph)
            listener.until(_is_sampling, JOB_TIMEOUT_S)
            self._client.interrupt()
            job = listener.finish(prompt_id, JOB_TIMEOUT_S)
        if not (job.succeeded or job.was_interrupted):
            raise RuntimeError(f"cancelled edit {number} failed: {job.error}")
        self._forget()
        return job.was_interrupted

    def sample(self, number: int, seconds: float) -> Usage:
        """Return what the server's process uses now."""
        assert self._server._process is not None, "the server was started"
        process = Path("/proc") / str(self._server._process.pid)
        lines = (process / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        return Usage(
            job=number,
            rss_mb=round(int(status["VmRSS"].split()[0]) / 1024, 1),
            files=len(list((process / "fd").iterdir())),
            threads=int(status["Threads"]),
            seconds=round(seconds, 2),
        )

    def _forget(self) -> None:
        """Empty ComfyUI's history, which grows by itself."""
        self._client.post("/history", {"clear": True})

    def _add_edit(self, g: EditGraph, number: int, settings: dict[str, Any] | None = None) -> Link:
        """Add the edit of a number: another size, mask, task, model and adapters each time."""
        dice = random.Random(f"{self._seed}/{number}")
        picture = random.Random(f"{self._seed}/{dice.randrange(NUM_PICTURES)}")
        width, height = picture.choice(SIDES), picture.choice(SIDES)
        name = self._client.upload(draw(picture, width, height), "soak.png")
        image = g.add("LoadImage", image=name)
        # Model and adapters.
        choice = dict(dice.choice(MODELS))
        is_native = choice.pop("is_native", False)
        model = g.add_model(**choice)
        if is_native:
            native = g.add("OneRewardToNative", fill_model=model)
            links = {"clip": output(native, 1), "vae": output(native, 2)}
            model = g.add("OneRewardFromNative", model=native, recipe="bundled", **links)
        for adapter in dice.sample(ADAPTERS, dice.randrange(len(ADAPTERS) + 1)):
            strength = dice.choice((-1.0, 0.5, 1.0, 2.0))
            inputs = {"model": model, "adapter": adapter, "strength": strength}
            model = g.add("OneRewardLoadAdapter", **inputs)
        # Task and settings.
        task = dice.choice([task for task in TASK_INPUTS if task != "Text"])
        values: dict[str, Any] = {"prompt": dice.choice(PROMPTS)} if task == "Fill" else {}
        settings = settings or {
            "num_candidates": dice.choice((1, 1, 2)),
            "true_cfg": dice.choice((-1.0, 1.0, 3.0)),
            "preserve_unmasked": dice.random() < 0.2,
        }
        seed = dice.randrange(2**32)
        return g.add_edit(task, image, model=model, settings=settings, seed=seed, **values)


def _is_sampling(event: Event) -> bool:
    if event.kind in ("execution_success", "execution_error"):
        return True
    return event.kind == "progress" and event.data["value"] >= 1


def draw(dice: random.Random, width: int, height: int) -> Image.Image:
    """Return a picture whose erased rectangles, one or two, are its mask."""
    values = np.random.default_rng(dice.randrange(2**32)).integers(0, 255, (4, 4, 3), np.uint8)
    image = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
    alpha = Image.new("L", image.size, 255)
    for _ in range(dice.choice((1, 1, 2))):
        left, top = dice.randrange(width - 16), dice.randrange(height - 16)
        right, bottom = dice.randint(left + 8, width - 4), dice.randint(top + 8, height - 4)
        alpha.paste(0, (left, top, right, bottom))
    image.putalpha(alpha)
    return image


def add_other_model(folder: Path) -> None:
    """Write the bundled model with a last layer of other weights."""
    shutil.copytree(ROOT / "assets" / "fill", folder)
    path = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["proj_out.weight"] = tensors["proj_out.weight"] * torch.tensor(0.9)
    save_file(tensors, path)


def run(soak: Soak, num_jobs: int, end: float) -> tuple[list[Usage], dict[int, str], int]:
    """Run jobs up to a number or a time; return samples, digests of edits, and cancelled jobs."""
    samples: list[Usage] = []
    digests: dict[int, str] = {}
    num_cancelled = 0
    for number in range(num_jobs):
        if time.monotonic() > end:
            break
        start = time.monotonic()
        digests[number] = soak.edit(number)
        if number % 4 == 1:
            soak.judge(number)
        if number % 4 == 3:
            num_cancelled += soak.cancel(number)
        samples.append(soak.sample(number, time.monotonic() - start))
        if (number + 1) % 50 == 0:
            sys.stdout.write(f"{samples[-1]}\n")
            sys.stdout.flush()
    return samples, digests, num_cancelled


def compare(samples: list[Usage], warm: int, window: int = 50) -> list[str]:
    """Return what has grown between the jobs after the first ``warm`` and the last ones.

    Memory is compared where it was lowest: above that is what Python has not yet collected.
    """
    first, last = samples[warm : warm + window], samples[-window:]
    if len(samples) < warm + 2 * window:
        return [f"only {len(samples)} jobs: too few to compare memory"]
    faults = []
    kinds = (("rss_mb", min, 1.01), ("files", max, 1.0), ("threads", max, 1.0))
    for name, typical, limit in kinds:
        before, after = (typical(getattr(s, name) for s in part) for part in (first, last))
        sys.stdout.write(f"{name}: {before} after {warm} jobs, {after} at the end\n")
        if after > before * limit:
            faults.append(f"{name} grew from {before} to {after}")
    return faults


def check_pictures(digests: dict[int, str], count: int, seed: int) -> list[str]:
    """Make evenly spread edits again in a fresh server, the last one first; return what differs."""
    numbers = sorted(digests, reverse=True)
    numbers = numbers[:: max(1, len(numbers) // max(count, 1))][:count]
    with tempfile.TemporaryDirectory() as base, Soak(Path(base), seed) as fresh:
        differing = [number for number in numbers if fresh.edit(number) != digests[number]]
    sys.stdout.write(f"pictures made again in a fresh server: {len(numbers)}\n")
    return [f"edit {number} is another picture in a fresh server" for number in differing]


def main() -> int:
    """Run the jobs, compare, and write a report; return 1 if anything grew or differed."""
    parser = argparse.ArgumentParser(description="Look for leaks over many jobs in one server.")
    parser.add_argument("--jobs", type=int, default=1000, help="edits, at most")
    parser.add_argument("--minutes", type=float, default=120.0, help="time, at most")
    parser.add_argument("--warm", type=int, default=100, help="jobs before memory is compared")
    parser.add_argument("--check", type=int, default=24, help="edits made again in a fresh server")
    parser.add_argument("--seed", type=int, default=0, help="of the jobs")
    parser.add_argument("--report", type=Path, default=ROOT / "runs" / "soak.json")
    arguments = parser.parse_args()
    os.environ.update(ALLOCATOR)
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as base, Soak(Path(base), arguments.seed) as soak:
        samples, digests, num_cancelled = run(soak, arguments.jobs, end)
    sys.stdout.write(f"{len(samples)} edits, {num_cancelled} more cancelled\n")
    faults = compare(samples, arguments.warm)
    faults += check_pictures(digests, arguments.check, arguments.seed)
    report = {"samples": [asdict(s) for s in samples], "digests": digests, "faults": faults}
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=1), encoding="utf-8")
    sys.stdout.write("".join(f"FAULT: {fault}\n" for fault in faults) or "no fault\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
