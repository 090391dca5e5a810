"""What was really spent: steps, edits, computing time, commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ....fill.task import Task
from ....reward.report import read_report
from ....training.policy.adapter_file import read_about
from ....training.policy.config import DYNAMIC, FIXED, PolicyTrainConfig
from ....training.policy.monitoring.drift import Drift
from ....training.policy.reward_cells import ALL_CELLS, RewardCells, select_reward_cells
from ...world.conditions import TASKS
from ..config import ReproduceConfig
from ..figures import curve_of
from ..judges import BUNDLED, NAIVE, judge_folder, judge_stages, run_name
from ..measure import BASE, BEST
from ..policies import AS_CONFIGURED, HACKED, ablation_name, adapter_of, supervised_runs
from ..stage import Context, commit
from .cells import NONE, table
from .names import JUDGES, label

Records = Mapping[str, Mapping[str, Any]]
_HEAD = [
    *("model", "learns from", "steps", "of", "handed out", "edits", "rate", "kl_weight"),
    *("core-minutes", "note"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a policy's training came to."""

    config: PolicyTrainConfig
    steps: int
    """Done; fewer than planned if it stopped itself."""
    handed_out: int | None
    """The step of the weights that were measured; None: the file does not say."""
    complaint: str
    """Why it stopped, if it did."""

    @property
    def edits(self) -> int:
        """Edits that it learned from."""
        return self.steps * self.config.batch_size


def spent_on(context: Context, name: str) -> Spent:
    """Read what a policy's run has done."""
    config = PolicyTrainConfig.load(context.folder / "policies" / name / "config.json")
    curve, path = curve_of(context, name), adapter_of(context.config, name)
    steps = int(curve[-1]["step"]) if curve else 0
    return Spent(
        config=config,
        steps=steps,
        handed_out=read_about(path).get("step") if path.is_file() else None,
        complaint=_complaint(curve[-1]) if curve and steps < config.steps else "",
    )


def models_table(context: Context, known: Records) -> str:
    """Return the budget of every model of the main comparison."""
    config = context.config
    rows = [_HEAD, [label(config, BASE), *[NONE] * 8, "sampled as it is"]]
    for name in (*supervised_runs(config), FIXED, DYNAMIC):
        rows.append(_spent_row(label(config, name), [spent_on(context, name)], [name], known))
    images, scenes = config.best_of, config.test_scenes
    note = (
        f"no training; for each of the {scenes} scenes per task {images} images and "
        f"{images - 1} comparisons by the judge, and again for every later edit"
    )
    minutes = _minutes(known, [f"test-{BEST}"])
    rows.append([label(config, BEST), *[NONE] * 7, minutes, note])
    return table(rows)


def others_table(context: Context, known: Records) -> str:
    """Return the budget of ablations, all seeds together, and of the runs to be hacked."""
    config, rows = context.config, [_HEAD]
    single = [f"only {task.value}" for task in Task]
    for name in (AS_CONFIGURED, *config.ablations, *single):
        stages = [ablation_name(name, seed) for seed in config.ablation_seeds]
        runs = [spent_on(context, stage) for stage in stages if stage in known]
        rows += [_spent_row(name, runs, stages, known)] if runs else []
    for name in HACKED.values():
        if name in known:
            rows.append(_spent_row(label(config, name), [spent_on(context, name)], [name], known))
    return table(rows)


def earlier_table(context: Context, known: Records) -> str:
    """Return what was spent before any policy."""
    config = context.config
    main, naive = (
        [*(run_name(config, name, k) for k in range(len(config.judge))), f"{name}-gate"]
        for name in (BUNDLED, NAIVE)
    )
    others = [s.name for s in judge_stages(config) if s.name not in {"pool", *main, *naive}]
    parts = {
        "scenes that policies learn from": ["conditions"],
        "candidates, made and scored": ["pool"],
        JUDGES[BUNDLED]: main,
        f"{JUDGES[NAIVE]}, beyond what both share": [one for one in naive if one not in main],
        "eq. 3 alone: one judge, and one per dimension": others,
        "the base's images of the test scenes": [f"test-{BASE}"],
    }
    rows = [[name, _minutes(known, stages)] for name, stages in parts.items()]
    return table([["part", "core-minutes"], *rows])


def overview(config: ReproduceConfig, known: Records) -> str:
    """Say what ran, at which commits, and how long it took."""
    lines = list(_commit_lines(known))
    if known:
        hours, cores = (
            sum(record[clock] for record in known.values()) / 3600
            for clock in ("seconds", "cpu_seconds")
        )
        longest = max(known, key=lambda name: known[name]["seconds"])
        lines += [
            f"- {len(known)} stages, each on one core: {cores:.2f} core-hours. Their times on the "
            f"clock add up to {hours:.2f} hours; {_side_by_side(config.workers)}. The longest, "
            f"`{longest}`, took {known[longest]['seconds'] / 60:.1f} minutes."
        ]
    return "\n".join(lines)


def gate_of_policies(context: Context) -> RewardCells | None:
    """Return what the gate lets in; None: nothing."""
    config = context.config
    plan = config.policy_config("any", Path("judge"), 60.0, {})
    try:
        return select_reward_cells(
            [read_report(judge_folder(config, BUNDLED))], plan.min_judge_accuracy
        )
    except ValueError:
        return None


def gate_text(cells: RewardCells | None, threshold: float) -> str:
    """Say what the gate lets in, and what it leaves out for which reason."""
    if cells is None:
        return f"The gate ({threshold:g}) lets nothing in."
    said = (
        f"The gate ({threshold:g}) lets {len(cells.cells)} of {len(ALL_CELLS)} pairs of task and "
        "dimension in."
    )
    missing = [t for t in TASKS if t not in {task.value for task, _ in cells.cells}]
    if missing:
        said += f" Nothing is learned of {', '.join(missing)}, whose scenes are never drawn."
    return "\n".join([said, "", *(f"- {note}." for note in cells.notes)]).strip()


def _commit_lines(known: Records) -> Iterator[str]:
    commits = Counter(str(record["commit"]) or "unknown" for record in known.values())
    named = [f"{name} ({count} stages)" for name, count in sorted(commits.items())]
    if named:
        yield f"- Commit of the stages: {', '.join(named)}."
    own = commit() or "unknown"
    if set(commits) != {own}:
        yield f"- This report was written at commit {own}."


def _side_by_side(workers: int) -> str:
    return f"up to {workers} ran side by side" if workers > 1 else "one ran after the other"


def _spent_row(
    name: str, runs: Sequence[Spent], stages: Sequence[str], known: Records
) -> list[str]:
    config = runs[0].config
    complaints = sorted({one.complaint for one in runs if one.complaint})
    notes = [f"{len(runs)} seeds together"] if len(runs) > 1 else []
    steps = [str(one.steps) for one in runs]
    handed = [NONE if one.handed_out is None else str(one.handed_out) for one in runs]
    return [
        *(name, _teacher(config), _alike(steps), str(config.steps), _alike(handed)),
        *(
            str(sum(one.edits for one in runs)),
            f"{config.learning_rate:g}",
            f"{config.kl_weight:g}",
        ),
        *(_minutes(known, stages), "; ".join(notes + complaints) or NONE),
    ]


def _teacher(config: PolicyTrainConfig) -> str:
    """Return what a policy learned from; a judge is known by its run's folder."""
    if not config.judges:
        return "true images"
    run = Path(config.judges[0]["folder"]).parent.name
    return JUDGES[NAIVE if run.startswith(f"{NAIVE}-") else BUNDLED]


def _alike(values: Sequence[str]) -> str:
    """Return one value where all are alike, else all of them."""
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _minutes(known: Records, stages: Sequence[str]) -> str:
    found = [known[name]["cpu_seconds"] for name in stages if name in known]
    return f"{sum(found) / 60:.1f}" if found else NONE


def _complaint(last: Mapping[str, float]) -> str:
    values = {f.name: last.get(f"drift.{f.name}") for f in fields(Drift)}
    if any(value is None for value in values.values()):
        return "stopped itself"
    return f"stopped itself: {Drift(**values).complaint() or 'no reason is kept'}"  # type: ignore[arg-type]
