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
from ..judge.compare import train_comparison
from ..judge.config import CompareConfig, VqaConfig
from ..judge.learner import load_whole_judge
from ..judge.pairs.candidate_pool import files_of, make_candidate_pool
from ..judge.pairs.candidates import Candidates, load_candidates
from ..judge.pairs.comparisons import Comparison, best_and_worst, kinds_of_pairs
from ..judge.vqa import train_vqa
from ..oracle import DIMENSIONS
from ..world.splits import Split
from .config import VQA, ReproduceConfig
from .stage import Context, Stage, Work

MAIN_JUDGE, NAIVE_JUDGE = "judge", "naive"
"""The judge with everything, and the one without adversarial pairs."""
ALL = "all"
ONE_JUDGE, SEPARATE_JUDGES = "one_judge", "separate_judges"
"""For all dimensions, and one per dimension."""


def judge_stages(config: ReproduceConfig) -> list[Stage]:
    """Return everything up to finished judges with reports."""
    stages = [Stage(name="pool", work=_make_pool)]
    for name in (MAIN_JUDGE, NAIVE_JUDGE):
        before: tuple[str, ...] = ()
        for index, values in enumerate(config.judge):
            run = run_name(config, name, index)
            if run not in {stage.name for stage in stages}:
                needs = before if values["stage"] == VQA else ("pool", *before)
                stages.append(Stage(name=run, work=_learn(name, index), needs=needs))
            before = (run,)
        stages.append(Stage(name=f"{name}-report", work=_report(name), needs=before))
    vqa = _last_vqa_stage(config)
    stages.append(Stage(name="pairs", work=_write_pairs, needs=("pool", *vqa)))
    for name in (ALL, *DIMENSIONS):
        stages.append(Stage(name=f"judge-of-{name}", work=_learn_pairs(name), needs=("pairs",)))
    return stages


def judge_measurements() -> list[Stage]:
    """Return the measurements on the test split's pairs, one per judge."""
    dimensions = tuple(f"judge-of-{name}" for name in (ALL, *DIMENSIONS))
    return [
        *(
            Stage(
                name=f"measure-{name}",
                work=_measure(name),
                needs=(f"{name}-report",),
                is_measurement=True,
            )
            for name in (MAIN_JUDGE, NAIVE_JUDGE)
        ),
        Stage(
            name="measure-dimensions",
            work=_measure_dimensions,
            needs=dimensions,
            is_measurement=True,
        ),
    ]


def judge_folder(config: ReproduceConfig, name: str) -> Path:
    """Return the finished judge's folder."""
    return config.folder / run_name(config, name, len(config.judge) - 1) / "judge"


def run_name(config: ReproduceConfig, name: str, index: int) -> str:
    """Return a stage's name, its run folder's too; both judges share what is the same for both."""
    is_shared = all(
        stage["stage"] == VQA or config.naive.items() <= stage.items()
        for stage in config.judge[: index + 1]
    )
    return f"{MAIN_JUDGE if is_shared else name}-{index}"


def _last_vqa_stage(config: ReproduceConfig) -> tuple[str, ...]:
    stages = [k for k, stage in enumerate(config.judge) if stage["stage"] == VQA]
    return (run_name(config, MAIN_JUDGE, stages[-1]),) if stages else ()


def _make_pool(context: Context) -> bool:
    config = context.config.pool_config(context.minutes)
    make_candidate_pool(config)
    counts = [len(files_of(Path(config.pool_folder), split)) for split in Split]
    return all(n >= target for n, target in zip(counts, config.batches, strict=True))


def _learn(name: str, index: int) -> Work:
    def work(context: Context) -> bool:
        config, folder = context.config, context.folder
        run = folder / run_name(config, name, index)
        before = folder / run_name(config, name, index - 1) if index else None
        train_config = config.judge_config(index, run, before, context.minutes, name == NAIVE_JUDGE)
        if isinstance(train_config, VqaConfig):
            train_vqa(train_config)
        else:
            train_comparison(train_config)
        return saved_step(run) >= (train_config.stop_step or train_config.steps)

    return work


def _report(name: str) -> Work:
    """Write a report on the dev split into the judge's folder, where policy training reads it."""

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
        "calibration": [asdict(row) for row in report.calibration],
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
    pairs = list(best_and_worst(pool, _margins(config)))
    pairs = pairs[:: -(-len(pairs) // config.max_pairs)]
    for name in (ALL, *DIMENSIONS):
        folder = context.folder / "pairs" / name
        shutil.rmtree(folder, ignore_errors=True)
        data = PreferenceSet(folder)
        for pair in (p for p in pairs if name in (ALL, p.winners[0][0].value)):
            for preference in _preferences(data, pool, pair):
                data.add(preference)
    return True


def _preferences(data: PreferenceSet, pool: Candidates, pair: Comparison) -> Iterator[Preference]:
    names = [f"{pair.group}-{image}.png" for image in pair.images]
    for name, image in zip(names, pair.images, strict=True):
        if not data.image(name).exists():
            save_image(data.image(name), pool.images[pair.group, image].permute(1, 2, 0) / 255)
    for dimension, winner in pair.winners:
        yield Preference(
            winner_file_name=names[winner],
            loser_file_name=names[1 - winner],
            task=pair.task,
            dimension=dimension,
            condition=f"scene-{pair.group}",
            prompt=pair.prompt,
            judged_by="oracle",
        )


def _learn_pairs(name: str) -> Work:
    """Train by eq. 3 alone, from the judge after VQA; the steps are divided by pairs."""

    def work(context: Context) -> bool:
        config = context.config
        vqa = _last_vqa_stage(config)
        start = context.folder / vqa[0] / "judge" if vqa else Path(config.judge_start)
        steps = int(config.per_dimension["steps"])
        if name != ALL:
            steps = max(round(steps * _count(context, name) / _count(context, ALL)), 1)
        run = context.folder / f"judge-of-{name}"
        train_config = config.pair_config(name, steps, run, start, context.minutes)
        train_judge(train_config, context.host)
        return is_finished(train_config)

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
        group = [pair for pair in pairs if pair.winners[0][0] is Dimension(dimension)]
        if group:
            rows[dimension] = {
                "pairs": len(group),
                ONE_JUDGE: _trained_accuracy(context, ALL, pool, group),
                SEPARATE_JUDGES: _trained_accuracy(context, dimension, pool, group),
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
