"""Make the pool of candidates that the bundled judge is trained on.

`python -m onereward.lab.judge.pairs.candidate_pool config.json`

The config (`configs/candidate_pool.json`; what is left out has its default):

    {
      "pool_folder": "runs/pool_wide",
      "fill_folder": "assets/fill",
      "batches": [160, 24, 150],
      "steps": [1, 10],
      "seed": 1,
      "threads": 1,
      "max_minutes": 60
    }

The pool is one file per batch of 32 scenes, `train-00000.safetensors`, `dev-...`, `test-...`;
`candidates` describes them.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ....fill.json_config import JsonConfig
from ....training.data.generate import GenerateConfig
from ....training.runs.config import require
from ...base_model.models import load_folder, load_with_adapter
from ...world.conditions import TASKS, Conditions, sample_conditions
from ...world.splits import Split
from .candidates import BATCH, sample_candidates, save_candidates

log = logging.getLogger("onereward.training")

FIRST_INDEX = 100_000_000
"""First scene batch of the pool: far from those of the fill model and of stage 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePoolConfig(JsonConfig):
    """Settings of a candidate pool.

    Example: ``CandidatePoolConfig(pool_folder="runs/pool", fill_folder="assets/fill")``.
    """

    pool_folder: str
    """Where the files go, one per batch of 32 scenes."""
    fill_folder: str
    """The fill model."""
    batches: tuple[int, int, int] = (80, 16, 40)
    """Batches of the train, dev and test split; tasks come in turn."""
    steps: tuple[int, int] = (4, 16)
    """Fewest and most sampling steps."""
    adapters: tuple[str, ...] = ()
    """LoRA files of policies: the model without and with each of them makes the candidates of a
    scene in turn, so that the judge is trained on what policies make, too."""
    first: int = 0
    """Index of the first batch; a pool can be extended."""
    seed: int = 0
    """Seed of sampling settings and noise."""
    threads: int = 1
    """CPU threads."""
    max_minutes: float = 60.0
    """Stops after this time; the same command goes on from there."""

    def __post_init__(self) -> None:
        require(bool(self.pool_folder), "pool_folder is empty; name a folder for the candidates")
        require(bool(self.fill_folder), "fill_folder is empty; name the fill model's folder")
        require(len(self.batches) == 3, f"batches are {self.batches}; give three numbers")
        require(min(self.batches) >= 0, f"batches are {self.batches}; use 0 or more")
        require(self.first >= 0, f"first is {self.first}; use 0 or more")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; use 0 to 2147483647")
        GenerateConfig(steps=self.steps)


def files_of(pool: Path, split: Split) -> list[Path]:
    """Return the files of a split, in order."""
    return sorted(pool.glob(f"{split.value}-*.safetensors"))


def scenes_of(path: Path, num: int) -> Conditions:
    """Draw the scenes again whose candidates a file holds."""
    split, _, index = path.stem.rpartition("-")
    return sample_conditions(Split(split), FIRST_INDEX + int(index), torch.arange(num) % len(TASKS))


def make_candidate_pool(config: CandidatePoolConfig) -> None:
    """Make what is missing; a file exists only once its batch is complete."""
    torch.set_num_threads(config.threads)
    pool, folder = Path(config.pool_folder), Path(config.fill_folder)
    models = [load_folder(folder), *(load_with_adapter(folder, Path(a)) for a in config.adapters)]
    pool.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * config.max_minutes
    for split, count in zip(Split, config.batches, strict=True):
        for index in range(config.first, config.first + count):
            path = pool / f"{split.value}-{index:05d}.safetensors"
            if path.exists() or time.monotonic() > end:
                continue
            settings = GenerateConfig(seed=config.seed, steps=config.steps)
            candidates = sample_candidates(models, split, FIRST_INDEX + index, settings)
            save_candidates(candidates, path)
            log.info("%s: %d groups", path.name, BATCH)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_candidate_pool(CandidatePoolConfig.load(arguments.config))


if __name__ == "__main__":
    main()
