"""What the oracle says of every model's images, on the same scenes and noises.

The test split is looked at once, by the finished models of the main comparison. Ablations and the
steps of hacked runs are measured on the dev split. Nothing here is read by anything that trains.
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
from ..base_model.models import FillParts, load_folder, load_with_adapter
from ..base_model.sampling import sample_scenes
from ..judge.learner import load_whole_judge
from ..oracle import composite, judge
from ..world.conditions import TASKS, Conditions
from ..world.splits import Split
from .config import ReproduceConfig
from .judges import BUNDLED, judge_folder
from .policies import HACKED, SUPERVISED, ablation_runs, adapter_of, supervised_runs
from .stage import Context, Stage, Work

BASE, BEST = "base", "best-of-n"
VOTED = (FIXED, DYNAMIC, SUPERVISED, BEST)
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
    others = [f"test-{name}" for name in trained]
    ablations = list(ablation_runs(config))
    return [
        stage("test-base", _test(BASE)),
        *(stage(f"test-{name}", _test(name), name, "test-base") for name in trained),
        stage(f"test-{BEST}", _test_best, f"{BUNDLED}-gate", "test-base"),
        stage("votes", _vote, *(f"test-{n}" for n in (BASE, *VOTED))),
        stage("usability", _summarise, "test-base", f"test-{BEST}", *others),
        stage("ablations", _measure_ablations, *ablations),
        *(stage(f"measure-{name}", _measure_hacking(name), name) for name in HACKED.values()),
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


def _parts(config: ReproduceConfig, name: str) -> FillParts:
    model = Path(config.fill_folder)
    return (
        load_folder(model) if name == BASE else load_with_adapter(model, adapter_of(config, name))
    )


def _test(name: str) -> Work:
    def work(context: Context) -> bool:
        scenes = test_scenes(context.config)
        made = sample_scenes(_parts(context.config, name), scenes.conditions, scenes.sampling)
        _keep(context, name, scenes.conditions, made)
        return True

    return work


def _keep(context: Context, name: str, scenes: Conditions, images: Tensor) -> None:
    """Write what is seen and what the oracle says of it, which is of the 8-bit image."""
    shown = (composite(images, scenes) * 255).round().to(torch.uint8)
    path = context.result(name).with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    usable = judge(shown.float() / 255, scenes).usable
    save_file({"images": shown.contiguous(), "usable": usable}, temporary)
    temporary.replace(path)


def _test_best(context: Context) -> bool:
    """Let the judge choose among several images of the base, the one of the base among them."""
    config = context.config
    scenes = test_scenes(config)
    candidates = scenes.candidates(_parts(config, BASE), config.best_of)
    asked = load_whole_judge(judge_folder(config, BUNDLED))
    _keep(context, BEST, scenes.conditions, scenes.chosen(candidates, asked, context.host))
    return True


@torch.no_grad()
def _vote(context: Context) -> bool:
    """Good, same and bad beside the base, by the judge (of P(better)) and by the oracle."""
    config = context.config
    scenes = test_scenes(config).conditions
    asked = load_whole_judge(judge_folder(config, BUNDLED))
    base = read_images(context, BASE)
    found: dict[str, Any] = {}
    for name in VOTED:
        own = read_images(context, name)
        chances = []
        for row in range(len(scenes)):
            pair = [one["images"][row].float() / 255 for one in (own, base)]
            first, second = asked.encode_images(pair)
            said = judge_pair(asked, first, second, queries_of(scenes, row))
            chances.append(said.mean())
        judged = [vote(chance, config.margin) for chance in chances]
        gaps = (own["usable"].float() - base["usable"].float()) / 2
        known = [vote(0.5 + gap, 0.0) for gap in gaps.tolist()]
        found[name] = {
            task: {
                "judge": votes_record(count_votes([judged[r] for r in rows])),
                "oracle": votes_record(count_votes([known[r] for r in rows])),
            }
            for task, rows in _rows(scenes).items()
        }
    context.write("votes", found)
    return True


def _summarise(context: Context) -> bool:
    scenes = test_scenes(context.config).conditions
    base = read_images(context, BASE)["usable"]
    found = {
        name: _usability(scenes, base, read_images(context, name)["usable"])
        for name in tested_models(context.config)
    }
    context.write("usability", found)
    return True


def _usability(scenes: Conditions, base: Tensor, own: Tensor) -> dict[str, dict[str, Any]]:
    """Return share, interval and sign test against the base, per task and for all."""
    found = {}
    for task, rows in _rows(scenes).items():
        before, after = base[rows], own[rows]
        share = float(after.float().mean())
        won, lost = int((after & ~before).sum()), int((before & ~after).sum())
        found[task] = {
            "count": len(rows),
            "share": share,
            "interval": wilson_interval(share, len(rows)),
            "won": won,
            "lost": lost,
            "p": sign_test(won, lost),
        }
    return found


def _rows(scenes: Conditions) -> dict[str, list[int]]:
    tasks = scenes.task.tolist()
    each = {name: [r for r, t in enumerate(tasks) if t == k] for k, name in enumerate(TASKS)}
    return {name: rows for name, rows in each.items() if rows} | {"all": list(range(len(tasks)))}


def _measure_ablations(context: Context) -> bool:
    """Measure every ablation on the dev split; goes on with those that are missing.

    Each is sampled as it was trained, and so is the base that it is set against.
    """
    config = context.config
    known = context.read("ablations") if context.result("ablations").exists() else {}
    for name, changes in ({BASE: {}} | ablation_runs(config)).items():
        base = sampled_base(config, changes)
        for one, model in ((base, BASE), (name, name)):
            if one not in known:
                context.host.check_cancelled()
                scenes = _draw(config, Split.DEV, config.ablation_scenes, changes)
                usable = scenes.usable(_parts(config, model))
                before = torch.tensor(known[base]["usable"]) if one != base else usable
                found = _usability(scenes.conditions, before, usable)
                known[one] = {"usable": usable.tolist(), "tasks": found}
                context.write("ablations", known)
    return True


def sampled_base(config: ReproduceConfig, changes: Mapping[str, Any]) -> str:
    """Return the name of the base as it is sampled for a policy with other settings."""
    usual = config.sampling()
    other = {k: v for k, v in config.sampling(changes).items() if v != usual[k]}
    return ", ".join([BASE, *(f"{name} {value:g}" for name, value in other.items())])


def _measure_hacking(name: str) -> Work:
    """Follow a run on the dev split: the oracle's oracle_scores at every kept step."""

    def work(context: Context) -> bool:
        config = context.config
        model, run = Path(config.fill_folder), config.folder / "policies" / name
        scenes = _draw(config, Split.DEV, config.hack_scenes)
        curve = RunDirectory(PolicyTrainConfig.load(run / "config.json")).read_metrics()
        before = scenes.usable(load_folder(model))
        first = {"reward": _mean_reward(curve, 0, FIRST)}
        points = [_point(0, before, before, first)]
        for path in sorted((run / "results").glob("step-*.safetensors")):
            context.host.check_cancelled()
            step = int(path.stem.partition("-")[2])
            usable = scenes.usable(load_with_adapter(model, path))
            points.append(_point(step, before, usable, _near(curve, step)))
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


def _near(curve: list[dict[str, float]], step: int) -> dict[str, float | str | None]:
    """Return the mean reward of the last steps before a step, and what the monitors said there."""
    found: dict[str, float | str | None] = {"reward": _mean_reward(curve, step - WINDOW, step)}
    looks = [r for r in curve if r["step"] == step]
    values = {f.name: looks[0].get(f"drift.{f.name}") for f in fields(Drift)} if looks else {}
    if values and all(v is not None for v in values.values()):
        found["complaint"] = Drift(**values).complaint()  # type: ignore[arg-type]
        found["look"] = looks[0].get("look")
    return found


def _mean_reward(curve: list[dict[str, float]], after: int, until: int) -> float | None:
    rewards = [r["reward"] for r in curve if after < r["step"] <= until and "reward" in r]
    return sum(rewards) / len(rewards) if rewards else None


def _parting(points: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first point where the reward is above the start's and the oracle's oracle_scores below.

    Below means that more scenes were lost than won, with a p under 0.05 shared by all points.
    """
    start, *others = points
    for point in others:
        rewards = (start["reward"], point["reward"])
        has_risen = None not in rewards and rewards[1] > rewards[0]
        if has_risen and point["lost"] > point["won"] and point["p"] < 0.05 / len(others):
            return point
    return None
