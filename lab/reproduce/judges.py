"""Candidates, the judge and its baselines: one without adversarial pairs, one per dimension."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...fill.task import Dimension
from ...reward.preference import Preference, PreferenceSet
from ...reward.report import JudgeReport, read_report, write_report
from ...training.data.conditions import save_image
from ...training.judge.config import JudgeTrainConfig
from ...training.judge.train import is_finished, train_judge
from ...training.judge.trainer import result_folder
from ...training.runs.directory import saved_step
from ..judge.answers import report_on
from ..judge.compare import train_to_compare
from ..judge.config import CompareConfig, VqaConfig
from ..judge.learner import load_whole_judge
from ..judge.pairs.candidates import Candidates, load_candidates
from ..judge.pairs.comparisons import Comparison, best_and_worst, kinds_of_pairs
from ..judge.pairs.gather import files_of, gather
from ..judge.vqa import train_to_see
from ..oracle import DIMENSIONS
from ..world.splits import Split
from .config import SEE, ReproduceConfig
from .stage import Context, Stage, Work

BUNDLED, NAIVE = "judge", "naive"
"""The judge with everything, and the one without adversarial pairs."""
ALL = "all"


def judge_stages(config: ReproduceConfig) -> list[Stage]:
    """Return everything up to finished judges with reports."""
    stages = [Stage(name="pool", work=_gather)]
    for name in (BUNDLED, NAIVE):
        before: tuple[str, ...] = ()
        for place, values in enumerate(config.judge):
            run = run_name(config, name, place)
            if run not in {stage.name for stage in stages}:
                needs = before if values["stage"] == SEE else ("pool", *before)
                stages.append(Stage(name=run, work=_learn(name, place), needs=needs))
            before = (run,)
        stages.append(Stage(name=f"{name}-gate", work=_gate(name), needs=before))
    seeing = _seeing_stage(config)
    stages.append(Stage(name="pairs", work=_write_pairs, needs=("pool", *seeing)))
    for name in (ALL, *DIMENSIONS):
        stages.append(Stage(name=f"judge-of-{name}", work=_learn_pairs(name), needs=("pairs",)))
    return stages


def judge_measurements() -> list[Stage]:
    """Return what looks at the test split's pairs, once per judge."""
    one_each = tuple(f"judge-of-{name}" for name in (ALL, *DIMENSIONS))
    return [
        *(
            Stage(
                name=f"measure-{name}",
                work=_measure(name),
                needs=(f"{name}-gate",),
                is_measurement=True,
            )
            for name in (BUNDLED, NAIVE)
        ),
        Stage(
            name="measure-dimensions", work=_measure_dimensions, needs=one_each, is_measurement=True
        ),
    ]


def judge_folder(config: ReproduceConfig, name: str) -> Path:
    """Return the finished judge's folder."""
    return config.folder / run_name(config, name, len(config.judge) - 1) / "judge"


def run_name(config: ReproduceConfig, name: str, place: int) -> str:
    """Return a stage's name, its run folder's too; both judges share what is the same for both."""
    is_shared = all(
        stage["stage"] == SEE or config.naive.items() <= stage.items()
        for stage in config.judge[: place + 1]
    )
    return f"{BUNDLED if is_shared else name}-{place}"


def _seeing_stage(config: ReproduceConfig) -> tuple[str, ...]:
    places = [k for k, stage in enumerate(config.judge) if stage["stage"] == SEE]
    return (run_name(config, BUNDLED, places[-1]),) if places else ()


def _gather(context: Context) -> bool:
    config = context.config.gather_config(context.minutes)
    gather(config)
    found = [len(files_of(Path(config.pool_folder), split)) for split in Split]
    return all(n >= wanted for n, wanted in zip(found, config.batches, strict=True))


def _learn(name: str, place: int) -> Work:
    def work(context: Context) -> bool:
        config, folder = context.config, context.folder
        run = folder / run_name(config, name, place)
        before = folder / run_name(config, name, place - 1) if place else None
        made = config.judge_config(place, run, before, context.minutes, name == NAIVE)
        if isinstance(made, VqaConfig):
            train_to_see(made)
        else:
            train_to_compare(made)
        return saved_step(run) >= (made.stop_step or made.steps)

    return work


def _gate(name: str) -> Work:
    """Put a report on the dev split beside the judge, where training a policy looks for it."""

    def work(context: Context) -> bool:
        folder = judge_folder(context.config, name)
        pool = load_candidates(files_of(context.folder / "pool", Split.DEV))
        pairs = list(best_and_worst(pool, _margins(context.config)))
        write_report(folder, report_on(load_whole_judge(folder), pool, pairs))
        return True

    return work


def _measure(name: str) -> Work:
    def work(context: Context) -> bool:
        folder = judge_folder(context.config, name)
        judge, margins = load_whole_judge(folder), _margins(context.config)
        pool = load_candidates(files_of(context.folder / "pool", Split.TEST))
        report = report_on(judge, pool, list(best_and_worst(pool, margins)))
        kinds = {
            kind: _accuracy(report_on(judge, pool, pairs))
            for kind, pairs in kinds_of_pairs(pool, margins).items()
            if pairs
        }
        context.write(name, {"report": report_values(report), "kinds_of_pairs": kinds})
        return True

    return work


def report_values(report: JudgeReport) -> dict[str, Any]:
    """Return a report as JSON values."""
    return {
        "cells": {f"{t.value}.{d.value}": asdict(cell) for (t, d), cell in report.cells.items()},
        "calibration": [asdict(one) for one in report.calibration],
    }


def reward_cells_of(context: Context, name: str) -> dict[str, Any]:
    """Return the dev split's report of a judge, as policies see it."""
    report = read_report(judge_folder(context.config, name))
    assert report is not None, "the stage before has written it"
    return report_values(report)


def _margins(config: ReproduceConfig) -> tuple[float, ...]:
    last = config.judge_config(len(config.judge) - 1, Path("run"), Path("before"), 60.0)
    assert isinstance(last, CompareConfig), "checked when the config was made"
    return last.margins


def _write_pairs(context: Context) -> bool:
    """Write the best against the worst finished candidate of every train scene and dimension."""
    config = context.config
    pool = load_candidates(files_of(context.folder / "pool", Split.TRAIN))
    found = list(best_and_worst(pool, _margins(config)))
    found = found[:: -(-len(found) // config.max_pairs)]
    for name in (ALL, *DIMENSIONS):
        folder = context.folder / "pairs" / name
        shutil.rmtree(folder, ignore_errors=True)
        data = PreferenceSet(folder)
        for pair in (p for p in found if name in (ALL, p.winners[0][0].value)):
            for preference in _preferences(data, pool, pair):
                data.add(preference)
    return True


def _preferences(data: PreferenceSet, pool: Candidates, pair: Comparison) -> Iterator[Preference]:
    names = [f"{pair.group}-{image}.png" for image in pair.images]
    for name, image in zip(names, pair.images, strict=True):
        if not data.image(name).exists():
            save_image(data.image(name), pool.images[pair.group, image].permute(1, 2, 0) / 255)
    for dimension, place in pair.winners:
        yield Preference(
            winner_file_name=names[place],
            loser_file_name=names[1 - place],
            task=pair.task,
            dimension=dimension,
            condition=f"scene-{pair.group}",
            prompt=pair.prompt,
            judged_by="oracle",
        )


def _learn_pairs(name: str) -> Work:
    """Train by eq. 3 alone, from the judge that can see; the steps are shared out by pairs."""

    def work(context: Context) -> bool:
        config = context.config
        seeing = _seeing_stage(config)
        start = context.folder / seeing[0] / "judge" if seeing else Path(config.judge_start)
        steps = int(config.per_dimension["steps"])
        if name != ALL:
            steps = max(round(steps * _count(context, name) / _count(context, ALL)), 1)
        run = context.folder / f"judge-of-{name}"
        made = config.pair_config(name, steps, run, start, context.minutes)
        train_judge(made, context.host)
        return is_finished(made)

    return work


def _count(context: Context, name: str) -> int:
    return max(len(PreferenceSet(context.folder / "pairs" / name).pairs()), 1)


def _measure_dimensions(context: Context) -> bool:
    """Compare the one judge with each dimension's own, on the same pairs of the test split."""
    config = context.config
    pool = load_candidates(files_of(context.folder / "pool", Split.TEST))
    pairs = list(best_and_worst(pool, _margins(config)))
    rows: dict[str, Any] = {}
    for dimension in DIMENSIONS:
        own = [pair for pair in pairs if pair.winners[0][0] is Dimension(dimension)]
        if own:
            rows[dimension] = {
                "pairs": len(own),
                "one judge": _trained_accuracy(context, ALL, pool, own),
                "own judge": _trained_accuracy(context, dimension, pool, own),
            }
    context.write("dimensions", rows)
    return True


def _accuracy(report: JudgeReport) -> dict[str, Any]:
    cells = report.cells.values()
    total = sum(cell.num_pairs for cell in cells)
    right = sum(cell.accuracy * cell.num_pairs for cell in cells)
    return {"accuracy": right / total, "questions": total}


def _trained_accuracy(
    context: Context, name: str, pool: Candidates, pairs: Sequence[Comparison]
) -> dict[str, Any]:
    run = JudgeTrainConfig.load(context.folder / f"judge-of-{name}" / "config.json")
    report = report_on(load_whole_judge(result_folder(run)), pool, pairs)
    return _accuracy(report) | {"steps": run.steps}
