"""Two models on the same conditions and seeds: good, same or bad, by a judge and by measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from ...fill.config import FillConfig, check_limits, setting
from ...fill.host import Host
from ...fill.models import FillModels
from ...fill.pipeline import run_fill
from ...fill.task import Dimension, Task
from ...reward.judging import VIEWS, View, score_pairs
from ...reward.metrics import seam_step
from ...reward.preference import split_of
from ...reward.query import queries_for
from ...reward.qwen_vl import QwenJudge
from ...reward.report import sign_test, wilson_interval
from ...world.conditions import TASKS, draw_conditions
from ..data import Condition, ConditionSet, spread
from ..make_conditions import scene_of
from ..progress import PartHost
from ..sheet import contact_sheet

ALL = "all"
GOOD, SAME, BAD = "good", "same", "bad"
MAX_ROWS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """What is compared. The order of the fields is a promise."""

    split: str = setting(
        "dev",
        "Which conditions: dev (watched in training), test (looked at by nobody before), train, or "
        "all.",
        options=("dev", "test", "train", ALL),
    )
    num_conditions: int = setting(
        16, "Conditions at most, the tasks in turn.", min=1, max=100_000, step=1
    )
    num_seeds: int = setting(1, "Pictures of each model per condition.", min=1, max=100, step=1)
    seed: int = setting(0, "Of the first picture of a condition.", min=0, max=2**31 - 1, step=1)
    margin: float = setting(
        0.05,
        "How far from one half the judge's P(first is better) has to be; nearer counts as same.",
        min=0.0,
        max=0.5,
        step=0.01,
    )

    def __post_init__(self) -> None:
        """Refuse what is out of limits."""
        check_limits(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedPair:
    """Both models' pictures of one condition and seed."""

    condition: Condition
    source: Tensor
    """``[H, W, 3]``, 0..1; likewise the pictures."""
    mask: Tensor
    """``[H, W]``."""
    first: Tensor
    second: Tensor
    chances: dict[Dimension, float] = field(default_factory=dict)
    """P(first is better) per dimension, both orders averaged; empty without a judge."""

    @property
    def chance(self) -> float | None:
        """Its mean over the dimensions."""
        return fmean(self.chances.values()) if self.chances else None

    def vote(self, margin: float) -> str | None:
        """Return what the first is beside the second; None without a judge."""
        if self.chance is None:
            return None
        if abs(self.chance - 0.5) <= margin:
            return SAME
        return GOOD if self.chance > 0.5 else BAD

    def seams(self) -> tuple[float, float]:
        """Return the visible step across the mask's border of both; 0 = none, NaN: no border."""
        both = torch.stack([self.first, self.second])
        steps = seam_step(both, self.mask.expand(2, -1, -1)).clamp(min=0).tolist()
        return steps[0], steps[1]

    def usable(self) -> tuple[bool, bool] | None:
        """Return what the toy world's oracle says of both; None if this is no scene of it."""
        scene = scene_of(self.condition.name)
        if scene is None:
            return None
        split, task, index = scene
        from ...world import oracle  # only a comparison in the toy world needs it

        drawn = draw_conditions(split, index, torch.tensor([TASKS.index(task.value)]))
        pictures = torch.stack([self.first, self.second]).permute(0, 3, 1, 2)
        said = oracle.judge(pictures, drawn.select(torch.zeros(2, dtype=torch.long))).usable
        return bool(said[0]), bool(said[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """All pairs, and what they come to."""

    pairs: tuple[ComparedPair, ...]
    margin: float

    def cells(self) -> list[list[str]]:
        """Return a table: a row per task and one for all; only columns that say something."""
        groups = {t.value: [p for p in self.pairs if p.condition.task is t] for t in Task}
        named = {name: found for name, found in groups.items() if found} | {ALL: self.pairs}
        rows = [
            {"task": name, "pairs": str(len(found))} | self._votes(found) | _measures(found)
            for name, found in named.items()
        ]
        head = list(rows[-1])
        return [head, *([row.get(column, "-") for column in head] for row in rows)]

    def text(self) -> str:
        """Return the table in Markdown."""
        cells = self.cells()
        lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def sheet(self) -> Tensor:
        """Return source, first and second of the first pairs, ``[1, H, W, 3]``, 0..1."""
        shown = self.pairs[:MAX_ROWS]
        pictures = [p for pair in shown for p in (pair.source, pair.first, pair.second)]
        return contact_sheet(pictures, columns=6 if len(shown) > 1 else 3)

    def _votes(self, pairs: Sequence[ComparedPair]) -> dict[str, str]:
        chances = [pair.chance for pair in pairs if pair.chance is not None]
        if not chances:
            return {}
        votes = [pair.vote(self.margin) for pair in pairs]
        good, bad = votes.count(GOOD), votes.count(BAD)
        told = {vote: str(votes.count(vote)) for vote in (GOOD, SAME, BAD)}
        told["P(first better)"] = f"{fmean(chances):.3f}"
        decided = "-", "-"
        if good + bad:
            low, high = wilson_interval(good / (good + bad), good + bad)
            decided = f"{low:.2f}-{high:.2f}", f"{sign_test(good, bad):.3f}"
        return told | dict(zip(("good of decided, 95 %", "p"), decided, strict=True))


def compare(
    models: tuple[FillModels, FillModels],
    conditions: ConditionSet,
    config: CompareConfig,
    host: Host,
    judge: QwenJudge | None = None,
    fill: FillConfig | None = None,
) -> Comparison:
    """Make every picture with both models, and let the judge compare them.

    Args:
        models: First and second.
        conditions: What edits are made from.
        config: Which conditions, how many.
        host: Memory, progress, cancel.
        judge: Asked in both orders, with the view it was trained with; None: measures only.
        fill: Sampling settings; None: as the recipes say.

    Raises:
        ValueError: No condition is left, or a file of one is damaged.
        JudgeError: The judge cannot answer Yes and No.
    """
    if judge is not None:
        _ = judge.answer_ids
    chosen = _chosen(conditions, config)
    conditions.check(chosen)
    edits = [(condition, seed) for condition in chosen for seed in range(config.num_seeds)]
    made: list[list[Tensor]] = []
    for number, model in enumerate(models):
        made.append([])
        for place, (condition, seed) in enumerate(edits):
            request = conditions.request(
                condition, seed=config.seed + seed, config=fill or FillConfig()
            )
            part = PartHost(host, number * len(edits) + place, 2 * len(edits))
            made[number].append(run_fill(request, model, part).image[0])
    pairs = []
    for (condition, _), first, second in zip(edits, *made, strict=True):
        image, mask = conditions.pictures(condition)
        pair = ComparedPair(
            condition=condition, source=image[0], mask=mask[0], first=first, second=second
        )
        pairs.append(pair if judge is None else _judged(pair, judge, host))
    return Comparison(pairs=tuple(pairs), margin=config.margin)


def _chosen(conditions: ConditionSet, config: CompareConfig) -> list[Condition]:
    found = [c for c in conditions.conditions if config.split in (ALL, split_of(c.name))]
    if not found:
        raise ValueError(
            f"{conditions.folder} has no conditions of its {config.split} split, which takes a "
            "tenth of all; make more, or choose another split"
        )
    return spread(found, config.num_conditions)


def _judged(pair: ComparedPair, judge: QwenJudge, host: Host) -> ComparedPair:
    queries = queries_for(pair.condition.task, pair.condition.full_prompt)
    view = View(
        kind=judge.notes.get("view", VIEWS[0]), mask=pair.mask[None], source=pair.source[None]
    )
    # Pictures are the long part and have moved the bar.
    (said,) = score_pairs(
        judge, (pair.first[None], pair.second[None]), queries, _Quiet(host, 0, 1), view
    )
    return ComparedPair(
        condition=pair.condition,
        source=pair.source,
        mask=pair.mask,
        first=pair.first,
        second=pair.second,
        chances=said.probabilities,
    )


class _Quiet(PartHost):
    """Moves no bar; cancel works."""

    def progress(self, done: int, total: int, preview: object = None) -> None:
        del done, total, preview
        self.check_cancelled()


def _measures(pairs: Sequence[ComparedPair]) -> dict[str, str]:
    seams = [both for pair in pairs if not any(map(math.isnan, both := pair.seams()))]
    usable = [both for pair in pairs if (both := pair.usable()) is not None]
    told: dict[str, str] = {}
    for name, values, form in (("seam", seams, ".3f"), ("usable", usable, ".1%")):
        for place, label in enumerate((name, f"{name} of second")):
            if values:
                told[label] = f"{fmean(float(both[place]) for both in values):{form}}"
    return told
