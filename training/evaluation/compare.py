"""Two models on the same conditions and seeds: good, same or bad, by a judge and by measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from torch import Tensor

from ...fill.config import FillConfig, check_limits, setting
from ...fill.host import Host
from ...fill.models import FillModels
from ...fill.pipeline import run_fill
from ...fill.task import Dimension, Task
from ...reward.metrics import seam_step
from ...reward.qwen_vl import QwenJudge
from ..charts.contact_sheets import contact_sheet
from ..data.conditions import Condition, EditDataset
from ..runs.wrapped_host import WrappedHost
from .votes import BAD, GOOD, SAME, Edit, ask, choose, count_votes, vote

ALL = "all"
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
    num_seeds: int = setting(1, "Images of each model per condition.", min=1, max=100, step=1)
    seed: int = setting(0, "Of the first image of a condition.", min=0, max=2**31 - 1, step=1)
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
    """Both models' images of one condition and seed."""

    condition: Condition
    source: Tensor
    """``[H, W, 3]``, 0..1; likewise the images."""
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

    def seams(self) -> tuple[float, float]:
        """Return the visible step across the mask's border of both; 0 = none, NaN: no border."""
        both = torch.stack([self.first, self.second])
        steps = seam_step(both, self.mask.expand(2, -1, -1)).clamp(min=0).tolist()
        return steps[0], steps[1]

    def usable(self) -> tuple[bool, bool] | None:
        """Return what the toy world's oracle says of both; None if this is no scene of it."""
        return None


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
        images = [p for pair in shown for p in (pair.source, pair.first, pair.second)]
        return contact_sheet(images, columns=6 if len(shown) > 1 else 3)

    def _votes(self, pairs: Sequence[ComparedPair]) -> dict[str, str]:
        chances = [pair.chance for pair in pairs if pair.chance is not None]
        if not chances:
            return {}
        votes = count_votes([vote(chance, self.margin) for chance in chances])
        told = {name: str(getattr(votes, name)) for name in (GOOD, SAME, BAD)}
        told["P(first better)"] = f"{fmean(chances):.3f}"
        decided = "-", "-"
        if votes.interval is not None:
            low, high = votes.interval
            decided = f"{low:.2f}-{high:.2f}", f"{votes.p:.3f}"
        return told | dict(zip(("good of decided, 95 %", "p"), decided, strict=True))


def compare(
    models: tuple[FillModels, FillModels],
    conditions: EditDataset,
    config: CompareConfig,
    host: Host,
    judge: QwenJudge | None = None,
    fill: FillConfig | None = None,
) -> Comparison:
    """Make every image with both models, and let the judge compare them.

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
    chosen = choose(conditions, config.split, config.num_conditions)
    conditions.check(chosen)
    edits = [(condition, seed) for condition in chosen for seed in range(config.num_seeds)]
    made: list[list[Tensor]] = []
    for number, model in enumerate(models):
        made.append([])
        for place, (condition, seed) in enumerate(edits):
            request = conditions.request(
                condition, seed=config.seed + seed, config=fill or FillConfig()
            )
            part = WrappedHost(host, number * len(edits) + place, 2 * len(edits))
            made[number].append(run_fill(request, model, part).image[0])
    pairs = []
    for (condition, _), first, second in zip(edits, *made, strict=True):
        image, mask = conditions.images(condition)
        pair = ComparedPair(
            condition=condition, source=image[0], mask=mask[0], first=first, second=second
        )
        pairs.append(pair if judge is None else _judged(pair, judge, host))
    return Comparison(pairs=tuple(pairs), margin=config.margin)


def _judged(pair: ComparedPair, judge: QwenJudge, host: Host) -> ComparedPair:
    edit = Edit(condition=pair.condition, source=pair.source, mask=pair.mask, image=pair.first)
    return replace(pair, chances=ask(judge, edit, pair.second, host))


def _measures(pairs: Sequence[ComparedPair]) -> dict[str, str]:
    seams = [both for pair in pairs if not any(map(math.isnan, both := pair.seams()))]
    usable = [both for pair in pairs if (both := pair.usable()) is not None]
    told: dict[str, str] = {}
    for name, values, form in (("seam", seams, ".3f"), ("usable", usable, ".1%")):
        for place, label in enumerate((name, f"{name} of second")):
            if values:
                told[label] = f"{fmean(float(both[place]) for both in values):{form}}"
    return told
