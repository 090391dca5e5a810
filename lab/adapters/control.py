"""The oracle control: does the training loop raise quality when the reward is right?

`python -m onereward.lab.adapters.control RUN_FOLDER`

Trains the bundled model with the oracle's own scores as reward, the one place where the toy
world's truth drives a loss, and measures usability on the dev split before and after. Usability
has to rise: then a run whose reward rises and whose quality falls has a bad judge, not a broken
loop. Takes minutes; the exit code says whether it did.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...fill.host import Host
from ...fill.local_host import LocalHost
from ...training.data.edit_dataset import EditDatasetConfig
from ...training.policy.config import PolicyTrainConfig
from ...training.policy.run import PolicyResult, load, train_policy
from ...training.runs.hosts import TrainingHost
from ..base_model.models import load_folder, load_with_adapter
from ..ground_truth import OracleReward
from ..toy_dataset import make_from_world
from ..world.splits import Split
from .usability import random_scenes, table

SAMPLING_STEPS, TRUE_CFG = 4, 1.0
"""Sampling for training and measuring: a tenth of the recipe's cost, and about as good."""
BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "fill"


def control_config(
    run: Path, conditions: Path, steps: int, seed: int = 0, learning_rate: float = 2e-4
) -> PolicyTrainConfig:
    """Return the settings of the control."""
    return PolicyTrainConfig(
        run_folder=str(run),
        model={"folder": str(BUNDLED), "precision": "fp32"},
        dataset_folder=str(conditions),
        external_reward=True,
        steps=steps,
        batch_size=16,
        micro_batch_size=16,
        learning_rate=learning_rate,
        sampling_steps=SAMPLING_STEPS,
        true_cfg=TRUE_CFG,
        gradient_checkpointing="off",
        grow=0,
        feather=0,
        eval_every=0,
        seed=seed,
    )


def make_scenes(folder: Path, num: int, seed: int = 0) -> Path:
    """Write scenes of the train split as conditions."""
    if not folder.is_dir():
        config = EditDatasetConfig(num_conditions=num, seed=seed)
        make_from_world(folder, Split.TRAIN, config, LocalHost("cpu"))
    return folder


def train_by_oracle(config: PolicyTrainConfig, host: Host) -> PolicyResult:
    """Train a run with ``external_reward`` by the oracle's scores."""
    models = replace(load(config, host.device), reward=OracleReward)
    return train_policy(config, host, models)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--scenes", type=int, default=200, help="dev scenes per task")
    parser.add_argument("--conditions", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    scenes = make_scenes(arguments.run / "conditions", arguments.conditions)
    rate = arguments.learning_rate
    config = control_config(arguments.run / "run", scenes, arguments.steps, learning_rate=rate)
    result = train_by_oracle(config, TrainingHost("cpu"))
    dev = random_scenes(
        BUNDLED, Split.DEV, arguments.scenes, steps=SAMPLING_STEPS, true_cfg=TRUE_CFG
    )
    before = dev.usable(load_folder(BUNDLED))
    lines = dev.compare(before, dev.usable(load_with_adapter(BUNDLED, result.path)))
    sys.stdout.write(table(lines) + "\n")
    numbers = json.dumps([asdict(line) for line in lines], indent=2)
    (arguments.run / "control.json").write_text(numbers + "\n", encoding="utf-8")
    return 0 if lines[-1].after > lines[-1].before else 1


if __name__ == "__main__":
    sys.exit(main())
