"""One step of policy training: its time by stage, and its peak memory beside the forecast.

`python benchmarks/rl_step.py MODEL_FOLDER JUDGE_FOLDER CONDITIONS_FOLDER [--size 512 ...]`

The peak is what torch's allocator held at most, on a GPU. On a CPU there is none: what a process
holds says little, because its allocator keeps what was freed. Times are medians over the steps
after the first.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import conftest  # noqa: E402, F401 - makes the repository the package `onereward`

from onereward.training.policy.config import PolicyTrainConfig  # noqa: E402
from onereward.training.policy.run import PolicyRun, check, load  # noqa: E402
from onereward.training.runs.distributed import Distributed  # noqa: E402
from onereward.training.runs.hosts import TrainingHost  # noqa: E402


class Stages:
    """Seconds per stage of a trainer, measured around its methods.

    Example: ``with stages.measure("update"): trainer.update(outputs)``.
    """

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
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--gradient-checkpointing", default="off")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    host = TrainingHost()
    with tempfile.TemporaryDirectory() as folder:
        config = PolicyTrainConfig(
            run_folder=folder,
            model={"folder": str(arguments.model), "precision": arguments.precision},
            dataset_folder=str(arguments.conditions),
            judges=({"folder": str(arguments.judge), "precision": arguments.precision},),
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            micro_batch_size=arguments.micro_batch_size,
            target_size=arguments.size,
            gradient_checkpointing=arguments.gradient_checkpointing,
            min_judge_accuracy=0.0,
            eval_every=0,
            threads=torch.get_num_threads(),
        )
        sys.stdout.write(json.dumps(measure(config, host), indent=2) + "\n")


def measure(config: PolicyTrainConfig, host: TrainingHost) -> dict[str, Any]:
    """Run some steps; return times, peak and forecast."""
    # The trainer, with a clock around each stage.
    run_models = load(config, host.device)
    forecast = check(config, host, run_models)
    run = PolicyRun(config, host, run_models, Distributed())
    trainer, stages = run.trainer, Stages(host.device)
    stages.wrap(trainer, "reference_of", "reference")
    stages.wrap(trainer, "rollout", "rolls out, reference's too")
    stages.wrap(trainer.reward, "judge", "decode and judge, with gradient")
    stages.wrap(trainer, "update", "update")
    # The first step warms up and is not counted.
    with torch.inference_mode(False), torch.enable_grad():
        try:
            trainer.train_step()
            stages.seconds.clear()
            for _ in range(config.steps):
                with stages.measure("whole step"):
                    trainer.train_step()
        finally:
            run.close()
    # A stage that runs several times in a step counts with the sum of its medians.
    times = {
        label: sum(median(seconds[i::per_step]) for i in range(per_step))
        for label, seconds in stages.seconds.items()
        if (per_step := len(seconds) // config.steps)
    }
    return {
        "device": torch.cuda.get_device_name() if host.device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "batch_size": config.batch_size,
        "micro_batch_size": config.micro_batch_size,
        "gradient_checkpointing": config.gradient_checkpointing,
        "seconds": {label: round(value, 3) for label, value in times.items()},
        "forecast_gb": round(forecast.peak / 1e9, 3),
        **_peak(host.device, forecast.peak),
    }


def _peak(device: torch.device, forecast: int) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    most = torch.cuda.max_memory_allocated(device)
    return {"peak_gb": round(most / 1e9, 3), "forecast_over_peak": round(forecast / most, 3)}


def _processor() -> str:
    return f"CPU {platform.processor() or platform.machine()}"


if __name__ == "__main__":
    main()
