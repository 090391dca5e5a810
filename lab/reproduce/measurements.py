"""Measurements of every model's images by the oracle, on the same scenes and noises.

The test split is used once, for the finished models of the main comparison. Ablations and the
steps of hacked runs are measured on the dev split. Nothing here is read by anything that trains.

Files below ``evaluation/``, shortened::

    usability.json  {"base": {"fill": {"count": 200, "share": 0.81, "interval": [0.75, 0.858],
                     "won": 0, "lost": 0, "p": 1.0}}}
    votes.json      {"fixed": {"all": {"judge": {"good": 46, "same": 750, "bad": 4,
                     "interval": [0.812, 0.968], "p": 1e-09}}}}
    ablations.json  {"ablation-rank-4-seed-0": {"usable": [true, false], "tasks": {"all": {}}}}
    hack-naive.json {"points": [{"step": 15, "usable": 0.825, "won": 2, "lost": 0, "p": 0.5,
                     "reward": 0.454, "complaint": null, "evaluation": 0.512}], "parting": null}
    base.safetensors  images, uint8 [B, 3, 64, 64]; usable, bool [B]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...reward.report import sign_test, wilson_interval
from ...reward.score import judge_pair
from ...training.evaluation.report import votes_record
from ...training.evaluation.votes import count_votes, vote
from ...training.policy.config import DYNAMIC, FIXED, PolicyTrainConfig
from ...training.policy.monitoring.drift import Drift
from ...training.runs.directory import RunDirectory
from ..adapters.usability import Scenes, queries_of, random_scenes
from ..base_model.models import FillComponents, load_folder, load_with_adapter
from ..base_model.sampling import sample_scenes
from ..judge.learner import load_whole_judge
from ..oracle import composite, judge
from ..world.conditions import TASKS, Conditions
from ..world.splits import Split
from .config import ReproduceConfig
from .judge_stages import MAIN_JUDGE, judge_folder
from .policies import HACK_RUNS, SUPERVISED, ablation_runs, adapter_of, supervised_runs
from .stage import Context, Stage, Work

BASE, BEST = "base", "best-of-n"
VOTE_MODELS = (FIXED, DYNAMIC, SUPERVISED, BEST)
"""What the judge, too, compares with the base."""
WINDOW = 10
"""Steps that a reward is averaged over."""
FIRST = 5
"""At the start over these, which hardly differ from it."""


def measurement_stages(config: ReproduceConfig) -> list[Stage]:
    """Return everything that is measured by the oracle."""

    def stage(name: str, work: Work, *needs: str) -> Stage:
        return Stage(name=name, work=work, needs=needs, is_measurement=True)

    trained = [FIXED, DYNAMIC, *supervised_runs(config)]
    tests = [f"test-{name}" for name in trained]
    ablations = list(ablation_runs(config))
    return [
        stage("test-base", _test(BASE)),
        *(stage(f"test-{name}", _test(name), name, "test-base") for name in trained),
        stage(f"test-{BEST}", _test_best, f"{MAIN_JUDGE}-report", "test-base"),
        stage("votes", _vote, *(f"test-{n}" for n in (BASE, *VOTE_MODELS))),
        stage("usability", _summarise, "test-base", f"test-{BEST}", *tests),
        stage("ablations", _measure_ablations, *ablations),
        *(stage(f"measure-{name}", _measure_hacking(name), name) for name in HACK_RUNS.values()),
    ]


def tested_models(config: ReproduceConfig) -> list[str]:
    """Return the models of the main comparison, in the order of the table."""
    return [BASE, *supervised_runs(config), FIXED, DYNAMIC, BEST]


def test_scenes(config: ReproduceConfig) -> Scenes:
    """Return the scenes of the test split."""
    return _draw(config, Split.TEST, config.test_scenes)


def _draw(
    config: ReproduceConfig,
    split: Split,
    per_task: int,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Scenes:
    model = Path(config.fill_folder)
    return random_scenes(model, split, per_task, config.seed, **config.sampling(changes))


def read_images(context: Context, name: str) -> dict[str, Tensor]:
    """Return ``images`` (uint8 ``[B, 3, 64, 64]``) and ``usable`` (bool ``[B]``) of a model."""
    return load_file(context.result(name).with_suffix(".safetensors"))


def _load(config: ReproduceConfig, name: str) -> FillComponents:
    model = Path(config.fill_folder)
    return (
        load_folder(model) if name == BASE else load_with_adapter(model, adapter_of(config, name))
    )


def _test(name: str) -> Work:
    def work(context: Context) -> bool:
        scenes = test_scenes(context.config)
        images = sample_scenes(_load(context.config, name), scenes.conditions, scenes.sampling)
        _save(context, name, scenes.conditions, images)
        return True

    return work


def _save(context: Context, name: str, scenes: Conditions, images: Tensor) -> None:
    """Write images as users see them, and whether the oracle calls the 8-bit images usable."""
    pasted = (composite(images, scenes) * 255).round().to(torch.uint8)  # [B, 3, H, W]
    path = context.result(name).with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    usable = judge(pasted.float() / 255, scenes).usable
    save_file({"images": pasted.contiguous(), "usable": usable}, temporary)
    temporary.replace(path)


def _test_best(context: Context) -> bool:
    """Let the judge choose among several images of the base, the one of the base among them."""
    config = context.config
    scenes = test_scenes(config)
    candidates = scenes.candidates(_load(config, BASE), config.best_of)
    vlm = load_whole_judge(judge_folder(config, MAIN_JUDGE))
    _save(context, BEST, scenes.conditions, scenes.choose(candidates, vlm, context.host))
    return True


@torch.no_grad()
def _vote(context: Context) -> bool:
    """Good, same and bad beside the base, by the judge (of P(better)) and by the oracle."""
    config = context.config
    scenes = test_scenes(config).conditions
    vlm = load_whole_judge(judge_folder(config, MAIN_JUDGE))
    base = read_images(context, BASE)
    votes: dict[str, Any] = {}
    for name in VOTE_MODELS:
        model = read_images(context, name)
        chances = []
        for row in range(len(scenes)):
            pair = [side["images"][row].float() / 255 for side in (model, base)]
            first, second = vlm.encode_images(pair)
            chances.append(judge_pair(vlm, first, second, queries_of(scenes, row)).mean())
        by_judge = [vote(chance, config.margin) for chance in chances]
        gaps = (model["usable"].float() - base["usable"].float()) / 2
        by_oracle = [vote(0.5 + gap, 0.0) for gap in gaps.tolist()]
        votes[name] = {
            task: {
                "judge": votes_record(count_votes([by_judge[r] for r in rows])),
                "oracle": votes_record(count_votes([by_oracle[r] for r in rows])),
            }
            for task, rows in _rows(scenes).items()
        }
    context.write("votes", votes)
    return True


def _summarise(context: Context) -> bool:
    scenes = test_scenes(context.config).conditions
    base = read_images(context, BASE)["usable"]
    usability = {
        name: _usability(scenes, base, read_images(context, name)["usable"])
        for name in tested_models(context.config)
    }
    context.write("usability", usability)
    return True


def _usability(scenes: Conditions, base: Tensor, model: Tensor) -> dict[str, dict[str, Any]]:
    """Return share, interval and sign test against the base, per task and for all."""
    usability = {}
    for task, rows in _rows(scenes).items():
        before, after = base[rows], model[rows]
        share = float(after.float().mean())
        won, lost = int((after & ~before).sum()), int((before & ~after).sum())
        usability[task] = {
            "count": len(rows),
            "share": share,
            "interval": wilson_interval(share, len(rows)),
            "won": won,
            "lost": lost,
            "p": sign_test(won, lost),
        }
    return usability


def _rows(scenes: Conditions) -> dict[str, list[int]]:
    tasks = scenes.task.tolist()
    groups = {}
    for index, name in enumerate(TASKS):
        rows = [row for row, task in enumerate(tasks) if task == index]
        if rows:
            groups[name] = rows
    return groups | {"all": list(range(len(tasks)))}


def _measure_ablations(context: Context) -> bool:
    """Measure every ablation on the dev split; goes on with those that are missing.

    Each is sampled as it was trained, and so is the base that it is set against.
    """
    config = context.config
    measured = context.read("ablations") if context.result("ablations").exists() else {}
    for name, changes in ({BASE: {}} | ablation_runs(config)).items():
        base = sampled_base(config, changes)
        for key, model in ((base, BASE), (name, name)):
            if key not in measured:
                context.host.check_cancelled()
                scenes = _draw(config, Split.DEV, config.ablation_scenes, changes)
                usable = scenes.usable(_load(config, model))
                before = torch.tensor(measured[base]["usable"]) if key != base else usable
                tasks = _usability(scenes.conditions, before, usable)
                measured[key] = {"usable": usable.tolist(), "tasks": tasks}
                context.write("ablations", measured)
    return True


def sampled_base(config: ReproduceConfig, changes: Mapping[str, Any]) -> str:
    """Return the name of the base as it is sampled for a policy with other settings."""
    default = config.sampling()
    different = {k: v for k, v in config.sampling(changes).items() if v != default[k]}
    return ", ".join([BASE, *(f"{name} {value:g}" for name, value in different.items())])


def _measure_hacking(name: str) -> Work:
    """Measure a run on the dev split by the oracle, at every saved step."""

    def work(context: Context) -> bool:
        config = context.config
        model, run = Path(config.fill_folder), config.folder / "policies" / name
        scenes = _draw(config, Split.DEV, config.hack_scenes)
        metrics = RunDirectory(PolicyTrainConfig.load(run / "config.json")).read_metrics()
        before = scenes.usable(load_folder(model))
        first = {"reward": _mean_reward(metrics, 0, FIRST)}
        points = [_point(0, before, before, first)]
        for path in sorted((run / "results").glob("step-*.safetensors")):
            context.host.check_cancelled()
            step = int(path.stem.partition("-")[2])
            usable = scenes.usable(load_with_adapter(model, path))
            points.append(_point(step, before, usable, _near(metrics, step)))
        context.write(name, {"points": points, "parting": _parting(points)})
        return True

    return work


def _point(
    step: int, before: Tensor, usable: Tensor, near: Mapping[str, float | str | None]
) -> dict[str, Any]:
    won, lost = int((usable & ~before).sum()), int((before & ~usable).sum())
    share = float(usable.float().mean())
    tested = {"won": won, "lost": lost, "p": sign_test(won, lost)}
    return {"step": step, "usable": share, **tested, **near}


def _near(metrics: list[dict[str, float]], step: int) -> dict[str, float | str | None]:
    """Return the mean reward of the last steps before a step, and the monitors' report there."""
    near: dict[str, float | str | None] = {"reward": _mean_reward(metrics, step - WINDOW, step)}
    record = next((r for r in metrics if r["step"] == step), {})
    values = {f.name: record.get(f"drift.{f.name}") for f in fields(Drift)}
    if all(v is not None for v in values.values()):
        near["complaint"] = Drift(**values).complaint()  # type: ignore[arg-type]
        near["evaluation"] = record.get("eval")
    return near


def _mean_reward(metrics: list[dict[str, float]], after: int, until: int) -> float | None:
    rewards = [r["reward"] for r in metrics if after < r["step"] <= until and "reward" in r]
    return sum(rewards) / len(rewards) if rewards else None


def _parting(points: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first point where the reward has risen and usable images have become fewer.

    Fewer means that more scenes were lost than won, with a p under 0.05 shared by all points.
    """
    start, *later = points
    for point in later:
        rewards = (start["reward"], point["reward"])
        has_risen = None not in rewards and rewards[1] > rewards[0]
        if has_risen and point["lost"] > point["won"] and point["p"] < 0.05 / len(later):
            return point
    return None
