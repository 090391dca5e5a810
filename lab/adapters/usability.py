"""Share of usable images in the toy world, by its oracle, of a model and of adapters on it.

`python -m onereward.lab.adapters.usability MODEL_FOLDER ADAPTER... --split dev`
`python -m onereward.lab.adapters.usability MODEL_FOLDER --best-of 8 --judge JUDGE_FOLDER`

Every adapter gets the same scenes and noises as the model alone. Use the dev split while
developing, and the test split once, at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.local_host import LocalHost
from ...fill.task import Task
from ...reward.query import Query, queries_for
from ...reward.report import sign_test, wilson_interval
from ...reward.score import RankingConfig, pick_best
from ...reward.vlm.qwen_vl import QwenJudge
from ...training.charts.tables import markdown_table
from ..base_model.models import FillComponents, load_folder, load_with_adapter
from ..base_model.sampling import SampleSettings, sample_scenes
from ..judge.learner import load_whole_judge
from ..oracle import OracleScores, composite, judge
from ..world.conditions import EXTEND_PROMPT, REMOVE_PROMPT, TASKS, Conditions, sample_conditions
from ..world.splits import Split

_BATCH_INDEX = 2_000
"""Scenes that no other measurement uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUsability:
    """Share of usable images of one task, before and after.

    Example: ``scenes.compare(before, after)[-1].after`` is the share over all tasks.
    """

    task: str
    count: int
    before: float
    """Share of usable images of the model alone."""
    after: float
    """The same with the adapter."""
    interval: tuple[float, float]
    """95 % interval of ``after`` (Wilson)."""
    became_usable: int
    stopped_being_usable: int
    p: float
    """Two-sided sign test on the images that changed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenes:
    """Scenes with the noises they are sampled from.

    Example: ``random_scenes(Path("assets/fill"), Split.DEV, per_task=100).rows()["all"]``.
    """

    conditions: Conditions
    sampling: SampleSettings

    def judge(self, components: FillComponents) -> OracleScores:
        """Sample all scenes; return the oracle's scores."""
        return judge(sample_scenes(components, self.conditions, self.sampling), self.conditions)

    def usable(self, components: FillComponents) -> Tensor:
        """Sample all scenes; return which are usable, bool ``[B]``."""
        return self.judge(components).usable

    def candidates(self, components: FillComponents, num: int) -> Tensor:
        """Return several images per scene as users see them, ``[num, B, 3, 64, 64]``.

        The first is the one that :meth:`usable` judges.
        """
        seeds = range(self.sampling.seed, self.sampling.seed + num)
        candidates = []
        for seed in seeds:
            settings = replace(self.sampling, seed=seed)
            images = sample_scenes(components, self.conditions, settings)  # [B, 3, H, W]
            candidates.append(composite(images, self.conditions))
        return torch.stack(candidates)

    def best_of(self, candidates: Tensor) -> Tensor:
        """Return of which scenes at least one candidate is usable, bool ``[B]``.

        A perfect judge that chose among them would reach this share.
        """
        return torch.stack([judge(images, self.conditions).usable for images in candidates]).any(0)

    @torch.no_grad()
    def choose(self, candidates: Tensor, by: QwenJudge, host: Host) -> Tensor:
        """Return the candidate of each scene that a judge ranks first, ``[B, 3, 64, 64]``."""
        best = []
        for row in range(len(self.conditions)):
            host.check_cancelled()
            encoded = by.encode_images(list(candidates[:, row]))
            ranking = pick_best(by, encoded, queries_of(self.conditions, row), RankingConfig())
            best.append(candidates[ranking.order[0], row])
        return torch.stack(best)

    def rows(self) -> dict[str, Tensor]:
        """Return which scenes are of each task, bool ``[B]``, and of all."""
        task = self.conditions.task
        rows = {name: task == index for index, name in enumerate(TASKS)}
        return {n: r for n, r in rows.items() if r.any()} | {"all": torch.ones_like(task) > 0}

    def compare(self, before: Tensor, after: Tensor) -> list[TaskUsability]:
        """Return a line per task, and one for all."""
        return [_compare(name, before[r], after[r]) for name, r in self.rows().items()]


def queries_of(scenes: Conditions, row: int) -> tuple[Query, ...]:
    """Return the judge's questions about a scene; the tasks' fixed prompts are left out."""
    prompt = scenes.prompts[row]
    if prompt in (EXTEND_PROMPT, REMOVE_PROMPT):
        prompt = ""
    return queries_for(Task(TASKS[int(scenes.task[row])]), prompt)


def random_scenes(
    model: Path,
    split: Split,
    per_task: int,
    seed: int = 0,
    *,
    steps: int = -1,
    true_cfg: float = -1.0,
) -> Scenes:
    """Return scenes of a split, to be sampled as the model's recipe says where -1 is given."""
    recipe = json.loads((model / "recipe.json").read_text(encoding="utf-8"))
    tasks = torch.arange(len(TASKS)).repeat_interleave(per_task)
    return Scenes(
        conditions=sample_conditions(split, _BATCH_INDEX + seed, tasks),
        sampling=SampleSettings(
            steps=recipe["steps"] if steps < 0 else steps,
            true_cfg=recipe["true_cfg"] if true_cfg < 0 else true_cfg,
            negative_prompt=recipe["negative_prompt"],
            seed=seed,
        ),
    )


def table(lines: Sequence[TaskUsability]) -> str:
    """Return the lines as Markdown."""
    head = ["task", "before", "after", "95 %", "+ / -", "p"]
    body = [
        [
            line.task,
            f"{line.before:.3f}",
            f"{line.after:.3f}",
            f"{line.interval[0]:.3f}-{line.interval[1]:.3f}",
            f"+{line.became_usable} / -{line.stopped_being_usable}",
            f"{line.p:.3f}",
        ]
        for line in lines
    ]
    return markdown_table([head, *body])


def _compare(task: str, before: Tensor, after: Tensor) -> TaskUsability:
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    share = float(after.float().mean())
    return TaskUsability(
        task=task,
        count=len(after),
        before=float(before.float().mean()),
        after=share,
        interval=wilson_interval(share, len(after)),
        became_usable=won,
        stopped_being_usable=lost,
        p=sign_test(won, lost),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("adapters", type=Path, nargs="*")
    parser.add_argument("--best-of", type=int, help="the oracle chooses among so many images")
    parser.add_argument("--judge", type=Path, help="with --best-of: and so does this judge")
    parser.add_argument("--split", type=Split, default=Split.DEV)
    parser.add_argument("--scenes", type=int, default=100, help="scenes per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=-1, help="sampling; -1: the recipe's")
    parser.add_argument("--true-cfg", type=float, default=-1.0, help="sampling; -1: the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    if arguments.judge and not arguments.best_of:
        parser.error("--judge has nothing to choose among; give --best-of N, too")
    torch.set_num_threads(arguments.threads)
    # The model alone, then the choice among several images, then every adapter.
    scenes = random_scenes(
        arguments.model,
        arguments.split,
        arguments.scenes,
        arguments.seed,
        steps=arguments.steps,
        true_cfg=arguments.true_cfg,
    )
    base = load_folder(arguments.model)
    before, numbers = scenes.usable(base), {}
    if arguments.best_of:
        candidates = scenes.candidates(base, arguments.best_of)
        shares = {f"best of {arguments.best_of}": scenes.best_of(candidates)}
        if arguments.judge:
            vlm = load_whole_judge(arguments.judge)
            best = scenes.choose(candidates, vlm, LocalHost("cpu"))
            shares[f"chosen by {arguments.judge}"] = judge(best, scenes.conditions).usable
        for name, share in shares.items():
            lines = scenes.compare(before, share)
            numbers[name] = [asdict(line) for line in lines]
            sys.stdout.write(f"{name}\n{table(lines)}\n")
    for adapter in arguments.adapters:
        lines = scenes.compare(before, scenes.usable(load_with_adapter(arguments.model, adapter)))
        numbers[str(adapter)] = [asdict(line) for line in lines]
        sys.stdout.write(f"{adapter}\n{table(lines)}\n")
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
