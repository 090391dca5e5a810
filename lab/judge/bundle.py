"""Bundle a judge: weights in half the size, its report on held-out pairs, its card.

`python -m onereward.lab.judge.bundle RUN_FOLDER POOL_FOLDER FILL_FOLDER TARGET`

`RUN_FOLDER` is a finished run of `lab.judge.compare`. The test split of the pool is used here and
nowhere else. Everything is measured on the bundled weights; the same command writes the same
numbers again.

`evaluation.json` holds them, here with one entry of each kind:

    {
      "template_version": 1,
      "margins": {"structure": 0.03},
      "vqa_accuracy": {"colour": 1.0},
      "kinds_of_pairs": {"artifact": {"accuracy": 0.9447, "questions": 13116}},
      "clear_shares": {"fill.structure": 0.7847},
      "pairs": {"fill": {"all": 146144, "finished": 11888}},
      "attack": {"steps": 50, "pixel_limit": 0.03137, "latent_limit": 0.1},
      "robustness": {
        "pixels": {"wins": 0.6216, "interval": [0.461, 0.7594], "num_pairs": 37},
        "policy": {"wins": 0.1967, "interval": [0.1163, 0.3131], "num_pairs": 61},
        "policy_config": {"format": 1, "run_folder": "runs/attack_judge", "steps": 130}
      },
      "training": [
        {"steps": 1400, "hours": 0.92, "config": {"format": 1, "run_folder": "runs/vqa"}}
      ],
      "averaged": ["compare"],
      "without_adversarial_pairs": {
        "pixels": {"wins": 0.6923, "interval": [0.5358, 0.8143], "num_pairs": 39}
      }
    }
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...fill.io.files import write_text
from ...reward.query import TEMPLATE_VERSION
from ...reward.report import JudgeReport, report_cells, write_report
from ...training.charts.tables import markdown_table
from ...training.policy.config import PolicyTrainConfig
from ...training.policy.run import ADAPTER
from ..adapters.usability import random_scenes
from ..base_model.models import load_folder
from ..oracle import DIMENSIONS
from ..world.conditions import TASKS
from ..world.splits import Split
from .answers import report_on
from .average import average_judges
from .config import CompareConfig
from .judge_card import EVALUATION, write_card
from .learner import load_whole_judge
from .pairs.candidate_pool import files_of
from .pairs.candidates import FULL, Candidates, load_candidates
from .pairs.comparisons import best_and_worst, count_pairs, kinds_of_pairs
from .robustness import AttackConfig, find_adversarial_pairs, measure_policy, measure_robustness
from .vqa import vqa_accuracy

log = logging.getLogger("onereward.training")

_IMAGES = 512


def save_small(judge_folder: Path, target: Path) -> None:
    """Copy a judge with its weights in bfloat16."""
    from transformers import AutoModelForImageTextToText

    shutil.copytree(judge_folder, target)
    model = AutoModelForImageTextToText.from_pretrained(judge_folder, dtype=torch.bfloat16)
    model.save_pretrained(target)


def clear_shares(pool: Candidates, margins: Sequence[float]) -> dict[str, float]:
    """Return per task and dimension the share of scenes with a clear pair (best against worst)."""
    scores = pool.scores[:, pool.kinds == FULL].float()
    is_clear = scores.amax(1) - scores.amin(1) >= torch.tensor(margins)
    is_judged = ~scores.isnan().any(1)
    shares: dict[str, float] = {}
    for task, task_name in enumerate(TASKS):
        for column, name in enumerate(DIMENSIONS):
            rows = (pool.task == task) & is_judged[:, column]
            if rows.any():
                shares[f"{task_name}.{name}"] = round(
                    float(is_clear[rows, column].float().mean()), 4
                )
    return shares


def evaluate_judge(
    folder: Path, pool_folder: Path, margins: Sequence[float]
) -> tuple[JudgeReport, dict[str, Any]]:
    """Measure a judge on the pool's test split; returns the report and other numbers."""
    judge, pool = load_whole_judge(folder), load_candidates(files_of(pool_folder, Split.TEST))
    report = report_on(judge, pool, list(best_and_worst(pool, margins)))
    log.info("report\n%s", markdown_table(report_cells(report)))
    kinds = {
        name: _summary(report_on(judge, pool, pairs))
        for name, pairs in kinds_of_pairs(pool, margins).items()
        if pairs
    }
    return report, {
        "template_version": TEMPLATE_VERSION,
        "margins": dict(zip(DIMENSIONS, margins, strict=True)),
        "vqa_accuracy": vqa_accuracy(judge, Split.TEST, _IMAGES),
        "kinds_of_pairs": kinds,
        "clear_shares": clear_shares(pool, margins),
    }


def training_pairs(pool_folder: Path, margins: Sequence[float]) -> dict[str, dict[str, int]]:
    """Return per task the number of pairs of the pool's train split that differ clearly."""
    pool = load_candidates(files_of(pool_folder, Split.TRAIN))
    total, finished = count_pairs(pool, margins), count_pairs(pool, margins, (FULL,))
    return {task.value: {"all": total[task], "finished": finished[task]} for task in total}


def _summary(report: JudgeReport) -> dict[str, float]:
    cells = report.cells.values()
    total = sum(cell.num_pairs for cell in cells)
    right = sum(cell.accuracy * cell.num_pairs for cell in cells)
    return {"accuracy": round(right / total, 4), "questions": total}


def training_records(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return config, steps and hours of each run that made the judge, in order.

    A judge that began as a bundled one has that one's runs before its own.
    """
    bundled = runs[-1] / "judge" / EVALUATION
    records = json.loads(bundled.read_text())["training"] if bundled.is_file() else []
    for run in runs:
        config = json.loads((run / "config.json").read_text())
        state = json.loads((run / "checkpoint" / "state.json").read_text())
        hours = round(state["seconds"] / 3600, 2)
        records.append({"steps": state["step"], "hours": hours, "config": config})
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSettings:
    """What is bundled, and what it is measured on.

    Example: ``bundle(BundleSettings(run=run, pool=pool, fill=fill, target=target))``.
    """

    run: Path
    """Finished run of the last stage."""
    pool: Path
    """Candidates; the test split is used."""
    fill: Path
    """The fill model, for attacks on latents."""
    target: Path
    """Where the bundle goes."""
    before: tuple[Path, ...] = ()
    """Runs of earlier stages, in order, for the record."""
    averaged: tuple[Path, ...] = ()
    """Those of them whose judges are averaged with the last one."""
    baseline: Path | None = None
    """The last stage without adversarial pairs, for comparison of its robustness."""
    policy: Path | None = None
    """The run of a policy that was trained against this judge, to attack it."""
    baseline_policy: Path | None = None
    """The run of one that was trained against the baseline in the same way."""
    policy_scenes: int = 100
    """Test scenes per task that these policies edit."""
    adversarial_pairs: int = 200
    """Most pairs whose unusable image is attacked."""
    attack: AttackConfig = field(default_factory=AttackConfig)
    """Steps and limits of the attack."""


def bundle(settings: BundleSettings) -> None:
    """Write the bundle; the old one stays until the new one is whole."""
    config, target = CompareConfig.load(settings.run / "config.json"), settings.target
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    # The judge in half the size, and what it does on the test split.
    save_small(_full_precision(settings), fresh)
    report, numbers = evaluate_judge(fresh, settings.pool, config.margins)
    numbers["pairs"] = training_pairs(settings.pool, config.margins)
    numbers["attack"] = asdict(settings.attack)
    numbers["robustness"] = _robustness_of(fresh, settings, settings.policy)
    numbers["training"] = training_records([*settings.before, settings.run])
    numbers["averaged"] = [run.name for run in (*settings.averaged, settings.run)]
    # The baseline, measured in the same way.
    if settings.baseline is not None:
        temporary = target.with_name(target.name + ".baseline")
        shutil.rmtree(temporary, ignore_errors=True)
        save_small(settings.baseline / "judge", temporary)
        rates = _robustness_of(temporary, settings, settings.baseline_policy)
        numbers["without_adversarial_pairs"] = rates
        shutil.rmtree(temporary)
    # Report, numbers and card; then the new folder replaces the old one.
    write_report(fresh, report)
    write_text(fresh / EVALUATION, json.dumps(numbers, indent=2) + "\n")
    write_card(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _full_precision(settings: BundleSettings) -> Path:
    """Return the judge in full precision."""
    last = settings.run / "judge"
    if not settings.averaged:
        return last
    average_judges([last, *(run / "judge" for run in settings.averaged)], settings.run / "average")
    return settings.run / "average"


def _robustness_of(folder: Path, settings: BundleSettings, policy: Path | None) -> dict[str, Any]:
    pairs = find_adversarial_pairs(settings.pool, Split.TEST, settings.adversarial_pairs)
    judge, components = load_whole_judge(folder), load_folder(settings.fill)
    rates: dict[str, Any] = dict(measure_robustness(judge, pairs, settings.attack, components))
    if policy is not None:
        config = PolicyTrainConfig.load(policy / "config.json")
        steps, true_cfg = config.sampling_steps, config.true_cfg
        scenes = random_scenes(
            settings.fill, Split.TEST, settings.policy_scenes, steps=steps, true_cfg=true_cfg
        )
        adapter = policy / ADAPTER
        rates["policy"] = measure_policy(judge, settings.fill, adapter, scenes)
        rates["policy_config"] = json.loads(config.to_json())
    return rates


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "pool", "fill", "target"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--before", type=Path, nargs="*", default=[], help="earlier runs")
    parser.add_argument(
        "--average", type=Path, nargs="*", default=[], help="those of them to average with the last"
    )
    parser.add_argument("--baseline", type=Path, help="a run without adversarial pairs")
    parser.add_argument("--policy", type=Path, help="run of a policy that attacks this judge")
    parser.add_argument("--baseline-policy", type=Path, help="the same against the baseline")
    parser.add_argument("--adversarial-pairs", type=int, default=200, help="most pairs to attack")
    parser.add_argument("--threads", type=int, default=1, help="the same number, the same card")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    bundle(
        BundleSettings(
            run=arguments.run,
            pool=arguments.pool,
            fill=arguments.fill,
            target=arguments.target,
            before=tuple(arguments.before),
            averaged=tuple(arguments.average),
            baseline=arguments.baseline,
            policy=arguments.policy,
            baseline_policy=arguments.baseline_policy,
            adversarial_pairs=arguments.adversarial_pairs,
        )
    )


if __name__ == "__main__":
    main()
