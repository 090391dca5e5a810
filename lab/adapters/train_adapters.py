"""Train the adapters that are bundled, and measure them by the oracle on the dev split.

`python -m onereward.lab.adapters.train_adapters CONFIG... --seeds 0 1 2`; the configs are beside
this file.

Makes the conditions (scenes of the train split), trains each config with each seed, or goes on with
it, and writes the adapter and `usability.json` into its run folder (`..._seed1`). No training reads
the oracle; the test split is for `publish`, once, at the end.

`usability.json`, shortened: lines per task by result::

    {"adapter.safetensors": [
        {"task": "all", "count": 800, "before": 0.86, "after": 0.871, "interval": [0.846, 0.892],
         "became_usable": 14, "stopped_being_usable": 4, "p": 0.03}]}
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...training.policy.config import PolicyTrainConfig
from ...training.policy.run import train_policy
from ...training.runs.hosts import TrainingHost, stopped_by_signals
from ..base_model.models import load_folder, load_with_adapter
from ..world.splits import Split
from .control import make_scenes
from .usability import random_scenes, table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--conditions", type=int, default=4000, help="scenes to learn from")
    parser.add_argument("--scenes", type=int, default=200, help="dev scenes per task")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for path, seed in itertools.product(arguments.configs, arguments.seeds):
        config = with_seed(PolicyTrainConfig.load(path), seed)
        torch.set_num_threads(config.threads)
        make_scenes(Path(config.dataset_folder), arguments.conditions)
        host = TrainingHost("cpu")
        with stopped_by_signals(host.stop):
            train_policy(config, host)
        measure(config, arguments.scenes)


def with_seed(config: PolicyTrainConfig, seed: int) -> PolicyTrainConfig:
    """Return the same run with another seed, in a folder of its own."""
    return replace(config, seed=seed, run_folder=f"{config.run_folder}_seed{seed}")


def measure(config: PolicyTrainConfig, scenes: int) -> None:
    """Write the usability of every saved result of a run, and of its last state."""
    model, run = Path(config.model["folder"]), Path(config.run_folder)
    steps, true_cfg = config.sampling_steps, config.true_cfg
    dev = random_scenes(model, Split.DEV, scenes, steps=steps, true_cfg=true_cfg)
    before = dev.usable(load_folder(model))
    numbers = {}
    for adapter in [*sorted((run / "results").glob("*.safetensors")), run / "adapter.safetensors"]:
        lines = dev.compare(before, dev.usable(load_with_adapter(model, adapter)))
        numbers[adapter.name] = [asdict(line) for line in lines]
        sys.stdout.write(f"{adapter}\n{table(lines)}\n")
        sys.stdout.flush()
        (run / "usability.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
