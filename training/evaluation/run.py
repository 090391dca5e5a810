"""A benchmark: every condition edited by one model or two, judged, measured, and kept as files.

In its folder: ``images/<side>/`` with every candidate, ``results.jsonl`` with one line per edit,
``report.json``, ``report.md`` and ``sheet.png``. Images are judged as they are in their files and
lines are appended one by one, so a benchmark that stopped and went on says the same as one that did
not stop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...fill.config import FillConfig
from ...fill.host import Host
from ...fill.models import FillModels
from ...fill.pipeline import run_fill
from ...fill.task import Dimension
from ...fill.wrapped_host import WrappedHost
from ...reward.judging import chosen_queries, rank_candidates
from ...reward.preference import append_line, drop_torn_line
from ...reward.qwen_vl import QwenJudge
from ...reward.score import RankingConfig
from ..data.conditions import Condition, EditDataset, read_image, save_image
from ..ground_truth import GroundTruth
from ..runs.files import write_text
from .config import EvalConfig
from .report import MAX_SHOWN, Report, Row, save_report
from .votes import (
    Edit,
    ask,
    ask_beside_source,
    choose,
    measure_edit,
    view_for,
)

RESULTS, IDENTITY = "results.jsonl", "identity.json"
MODEL, BASELINE = "model", "baseline"
_NEXT_CANDIDATE = 1_000_003
"""Between the seeds of two candidates of an edit; far from those of other edits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalModels:
    """Who takes part."""

    model: FillModels
    baseline: FillModels | None = None
    judge: QwenJudge | None = None
    truth: GroundTruth | None = None
    """A laboratory's; it says which images are usable."""

    def sides(self) -> dict[str, FillModels]:
        """Return the fill models by name."""
        return {MODEL: self.model} | ({BASELINE: self.baseline} if self.baseline else {})

    def identity(self) -> dict[str, Any]:
        """Return what images and judgements come from; adapters by what they hold."""
        made: dict[str, Any] = {"judge": self.judge.identity if self.judge else ""}
        for side, models in self.sides().items():
            made[side] = asdict(models.config) if models.config else {}
            made[f"{side}'s adapters"] = [[_digest(a.path), a.strength] for a in models.adapters]
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """An edit to be made."""

    condition: Condition
    seed: int

    @property
    def key(self) -> str:
        return f"{self.condition.name}-{self.seed}"

    def image(self, side: str, candidate: int) -> str:
        """Return the file of a candidate, relative to the benchmark's folder."""
        return f"images/{side}/{self.key}-{candidate}.png"


def benchmark(
    eval_models: EvalModels,
    conditions: EditDataset,
    config: EvalConfig,
    folder: Path,
    host: Host,
    fill: FillConfig | None = None,
) -> Report:
    """Make what is missing, judge it, write the report.

    Args:
        eval_models: The model, its baseline if any, the judge if any.
        conditions: What edits are made from.
        config: Which conditions, how many edits.
        folder: Where everything goes; what is there already is not made again.
        host: Memory, progress, cancel.
        fill: Sampling settings of both models; None: as the recipes say.

    Raises:
        ValueError: No condition is left, one is damaged, several candidates without a judge, or
            the folder holds results of other files.
        JudgeError: The judge cannot answer Yes and No.
        ImportError: Words should be read without the package for it.
    """
    judge = eval_models.judge
    if config.best_of > 1 and judge is None:
        raise ValueError(
            f"best_of is {config.best_of}, but there is no judge to choose; connect one, or set it "
            "to 1"
        )
    if judge is not None:
        _ = judge.answer_ids
    chosen = choose(conditions, config.split, config.num_conditions)
    conditions.check(chosen)
    maker = _Maker(conditions, config, folder, fill or FillConfig())
    _claim(folder, eval_models.identity() | maker.identity())
    planned = [
        _Planned(condition=c, seed=config.seed + k) for c in chosen for k in range(config.num_seeds)
    ]
    maker.make_images(eval_models.sides(), planned, host)
    rows = _Appraiser(eval_models, maker).rows(planned, host)
    report = Report(config=config, rows=tuple(rows))
    save_report(folder, report, maker.images_of(rows[:MAX_SHOWN]))
    return report


class _Maker:
    """Makes images and finds them again."""

    def __init__(
        self, conditions: EditDataset, config: EvalConfig, folder: Path, fill: FillConfig
    ) -> None:
        self.conditions, self.config, self.folder, self.fill = conditions, config, folder, fill

    def make_images(
        self, sides: Mapping[str, FillModels], planned: Sequence[_Planned], host: Host
    ) -> None:
        """Make what is missing, one model after the other, so that each is loaded once."""
        wanted = [
            (side, models, edit, candidate)
            for side, models in sides.items()
            for edit in planned
            for candidate in range(self.num_candidates(side))
        ]
        for place, (side, models, edit, candidate) in enumerate(wanted):
            path = self.folder / edit.image(side, candidate)
            if path.exists():
                continue
            host.check_cancelled()
            request = self.conditions.request(
                edit.condition,
                seed=(edit.seed + _NEXT_CANDIDATE * candidate) % 2**31,
                config=self.fill,
            )
            step = WrappedHost(host, share=(place, len(wanted)))
            made = run_fill(request, models, step).image[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, made)
        host.progress(1, 1)

    def num_candidates(self, side: str) -> int:
        """Return how many candidates a side makes per edit."""
        return self.config.best_of if side == MODEL else 1

    def edit(self, planned: _Planned, file: str) -> Edit:
        """Read an edit from its file."""
        image, mask = self.conditions.images(planned.condition)
        output_image = read_image(self.folder / file)
        return Edit(condition=planned.condition, source=image[0], mask=mask[0], image=output_image)

    def images_of(self, rows: Sequence[Row]) -> list[list[Tensor]]:
        """Return source, model's and baseline's image of every row."""
        by_name = {c.name: c for c in self.conditions.conditions}
        return [
            [
                self.conditions.images(by_name[row.condition])[0][0],
                *(read_image(self.folder / name) for name in row.images.values()),
            ]
            for row in rows
        ]

    def identity(self) -> dict[str, Any]:
        """Return the settings that images and judgements depend on."""
        settings = {"best_of": self.config.best_of, "read_text": self.config.read_text}
        return settings | {"settings": asdict(self.fill)}


class _Appraiser:
    """Judges and measures finished images; a line per edit."""

    def __init__(self, eval_models: EvalModels, maker: _Maker) -> None:
        self._judge, self._maker, self._truth = eval_models.judge, maker, eval_models.truth
        self._sides = list(eval_models.sides())

    def rows(self, planned: Sequence[_Planned], host: Host) -> list[Row]:
        """Return a row per edit, in order; those of an earlier run are read."""
        path = self._maker.folder / RESULTS
        drop_torn_line(path)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        known = {row.key: row for row in (Row(**json.loads(line)) for line in lines)}
        for place, edit in enumerate(planned):
            if edit.key not in known:
                host.progress(place, len(planned))
                known[edit.key] = row = self._row(edit, host)
                append_line(path, json.dumps(asdict(row), ensure_ascii=False))
        return [known[edit.key] for edit in planned]

    def _row(self, planned: _Planned, host: Host) -> Row:
        config, judge = self._maker.config, self._judge
        files = {side: self._chosen(planned, side, host) for side in self._sides}
        edits = {side: self._maker.edit(planned, file) for side, file in files.items()}
        usable = self._usable(planned.condition, edits)
        beside: dict[str, dict[str, float]] = {}
        duel: dict[str, float] = {}
        if judge is not None:
            beside = {s: _by_name(ask_beside_source(judge, e, host)) for s, e in edits.items()}
            if BASELINE in edits:
                duel = _by_name(ask(judge, edits[MODEL], edits[BASELINE].image, host))
        return Row(
            key=planned.key,
            condition=planned.condition.name,
            task=planned.condition.task.value,
            images=files,
            measures={s: measure_edit(edit, config.read_text) for s, edit in edits.items()},
            usable=dict(zip(edits, usable, strict=True)) if usable else {},
            beside_source=beside,
            beside_baseline=duel,
        )

    def _usable(self, condition: Condition, edits: Mapping[str, Edit]) -> list[bool] | None:
        """Return which sides' images the ground truth takes; None where nothing is known."""
        if self._truth is None or not self._truth.knows(condition.name):
            return None
        images = torch.stack([edit.image for edit in edits.values()])  # [N, H, W, 3]
        return self._truth.usable(condition.name, images.permute(0, 3, 1, 2))

    def _chosen(self, planned: _Planned, side: str, host: Host) -> str:
        """Return the file of a side's image: of several candidates the one the judge prefers."""
        files = [planned.image(side, k) for k in range(self._maker.num_candidates(side))]
        if len(files) == 1 or self._judge is None:
            return files[0]
        first = self._maker.edit(planned, files[0])
        candidates = torch.stack([read_image(self._maker.folder / name) for name in files])
        ranking = rank_candidates(
            self._judge,
            candidates,
            chosen_queries(planned.condition.task, planned.condition.full_prompt),
            WrappedHost(host, quiet=True),
            view_for(self._judge, first.source, first.mask),
            RankingConfig(),
        )
        return files[ranking.order[0]]


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder with results of something else."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / IDENTITY
    if not path.exists():
        write_text(path, json.dumps(identity, indent=2) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(k for k in before.keys() | identity.keys() if before.get(k) != identity.get(k))
    if changed:
        raise ValueError(
            f"{folder} holds results of another {', '.join(changed)}; choose another name, or "
            "delete the folder"
        )


def _digest(path: Path) -> str:
    made = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            made.update(piece)
    return made.hexdigest()


def _by_name(chances: Mapping[Dimension, float]) -> dict[str, float]:
    return {dimension.value: chance for dimension, chance in chances.items()}
