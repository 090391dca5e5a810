"""One step of policy training: its time by stage, and its peak memory beside the forecast.

`python benchmarks/rl_step.py MODEL_FOLDER JUDGE_FOLDER CONDITIONS_FOLDER [--size 512 ...]`

On a GPU the peak is what torch's allocator held at most. On a CPU it is the activations alone: the
process's resident memory, read every 2 ms, over what it was after the first step; weights and
libraries are in memory by then. Times are medians over the steps after the first.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import conftest  # noqa: E402, F401 - makes the repository the package `onereward`

from onereward.training.host import TrainingHost  # noqa: E402
from onereward.training.policy.config import PolicyTrainConfig  # noqa: E402
from onereward.training.policy.run import PolicyRun, check, load  # noqa: E402
from onereward.training.processes import Processes  # noqa: E402


class Peak:
    """The most memory that was held since it was made."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._process = device, psutil.Process()
        self._start = self._now()
        self._most, self._ended = self._start, threading.Event()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            threading.Thread(target=self._watch, daemon=True).start()

    def _now(self) -> int:
        return self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self._most = max(self._most, self._now())

    def num_bytes(self) -> int:
        """Return it and stop watching."""
        self._ended.set()
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._most - self._start


class Stages:
    """Seconds per stage of a trainer, measured around its methods."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Measure a method of an object."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.measure(label):
                return inner(*arguments, **options)

        setattr(owner, name, timed)

    @contextmanager
    def measure(self, label: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[label].append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("judge", type=Path)
    parser.add_argument("conditions", type=Path)
    parser.add_argument("--size", type=int, default=-1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--checkpointing", default="off")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    host = TrainingHost()
    with tempfile.TemporaryDirectory() as folder:
        config = PolicyTrainConfig(
            run_folder=folder,
            model={"folder": str(arguments.model), "precision": arguments.precision},
            conditions_folder=str(arguments.conditions),
            judges=({"folder": str(arguments.judge), "precision": arguments.precision},),
            steps=arguments.steps,
            batch=arguments.batch,
            micro_batch=arguments.micro_batch,
            target_size=arguments.size,
            checkpointing=arguments.checkpointing,
            gate=0.0,
            test_every=0,
            threads=torch.get_num_threads(),
        )
        sys.stdout.write(json.dumps(measure(config, host), indent=2) + "\n")


def measure(config: PolicyTrainConfig, host: TrainingHost) -> dict[str, Any]:
    """Run some steps; return times, peak and forecast."""
    loaded = load(config, host.device)
    forecast = check(config, host, loaded)
    run = PolicyRun(config, host, loaded, Processes())
    trainer, stages = run.trainer, Stages(host.device)
    stages.wrap(trainer, "reference_of", "reference")
    stages.wrap(trainer, "walk", "walks, reference's too")
    stages.wrap(trainer.reward, "judge", "decode and judge, with gradient")
    stages.wrap(trainer, "update", "update")
    with torch.inference_mode(False), torch.enable_grad():
        try:
            trainer.train_step()
            stages.seconds.clear()
            peak = Peak(host.device)
            for _ in range(config.steps):
                with stages.measure("whole step"):
                    trainer.train_step()
            most = peak.num_bytes()
        finally:
            run.close()
    times = {
        label: sum(median(found[i::per_step]) for i in range(per_step))
        for label, found in stages.seconds.items()
        if (per_step := len(found) // config.steps)
    }
    is_gpu = host.device.type == "cuda"
    told = forecast.peak if is_gpu else max(stage.activations for stage in forecast.stages)
    return {
        "device": torch.cuda.get_device_name() if host.device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "batch": config.batch,
        "micro_batch": config.micro_batch,
        "checkpointing": config.checkpointing,
        "seconds": {label: round(value, 3) for label, value in times.items()},
        "peak_gb": round(most / 1e9, 3),
        "forecast_gb": round(told / 1e9, 3),
        "forecast_over_peak": round(told / most, 3),
    }


def _processor() -> str:
    return f"CPU {platform.processor() or platform.machine()}"


if __name__ == "__main__":
    main()
