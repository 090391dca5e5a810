"""Evaluation: one model or two edit every condition; images are judged, measured and kept as files.

The folder of an evaluation holds ``images/<side>/`` with every candidate, ``report.json``,
``report.md``, ``sheet.png``, ``identity.json`` (what made the results) and ``results.jsonl``, one
line per edit (here broken into several)::

    {"key": "remove-cup-3f2a-0", "condition": "remove-cup-3f2a", "task": "remove",
     "images": {"model": "images/model/remove-cup-3f2a-0-0.png", "baseline": "images/..."},
     "measures": {"model": {"seam": 0.01, "tone": 0.03, "texture": 0.2}, "baseline": {...}},
     "usable": {"model": true, "baseline": false},
     "beside_source": {"model": {"removal_quality": 0.93}, "baseline": {...}},
     "beside_baseline": {"removal_quality": 0.71}}

Images are judged as they are in their files and lines are appended one by one, so an evaluation
that stopped and went on reports the same as one that did not stop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...fill.config import FillConfig
from ...fill.host import Host
from ...fill.io.folder_lock import folder_lock
from ...fill.io.json_text import read_json, read_records
from ...fill.io.writing import append_line, drop_torn_line, write_text
from ...fill.json_config import make_record
from ...fill.models import FillModels
from ...fill.pipeline import run_fill
from ...fill.task import Dimension
from ...fill.wrapped_host import WrappedHost
from ...reward.judge import Judge
from ...reward.judging import chosen_queries, rank_candidates
from ...reward.score import RankingConfig
from ..charts.strips import Strip
from ..data.conditions import Condition, EditDataset, read_image, save_image
from ..edited_image import EditedImage
from ..ground_truth import GroundTruth
from .config import BASELINE, MODEL, EvalConfig
from .report import MAX_IMAGES, Report, Row, save_report
from .votes import (
    choose_conditions,
    compare_with_baseline,
    compare_with_source,
    measure_edit,
    view_for,
)

RESULTS, IDENTITY = "results.jsonl", "identity.json"
_NEXT_CANDIDATE = 1_000_003
"""Between the seeds of two candidates of an edit; far from those of other edits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalModels:
    """The models of an evaluation.

    Example: ``EvalModels(model=load_fill_models(config), judge=judge)``.
    """

    model: FillModels
    baseline: FillModels | None = None
    judge: Judge | None = None
    truth: GroundTruth | None = None
    """A laboratory's; it says which images are usable."""

    def sides(self) -> dict[str, FillModels]:
        """Return the fill models by name."""
        return {MODEL: self.model} | ({BASELINE: self.baseline} if self.baseline else {})

    def identity(self) -> dict[str, Any]:
        """Return what images and judgements come from; adapters by what they hold."""
        identity: dict[str, Any] = {"judge": self.judge.identity if self.judge else ""}
        for side, models in self.sides().items():
            identity[side] = asdict(models.config) if models.config else {}
            adapters = [[_digest(adapter.path), adapter.strength] for adapter in models.adapters]
            identity[f"{side}'s adapters"] = adapters
        return identity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    """A condition and a seed."""

    condition: Condition
    seed: int

    @property
    def key(self) -> str:
        return f"{self.condition.name}-{self.seed}"

    def image(self, side: str, candidate: int) -> str:
        """Return the file of a candidate, relative to the evaluation's folder."""
        return f"images/{side}/{self.key}-{candidate}.png"


def evaluate(
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
        FolderInUse: Another process evaluates into this folder.
        JudgeError: The judge cannot answer Yes and No.
        ImportError: Words should be read without the package for it.
    """
    # Refuse what cannot work before hours of it.
    judge = eval_models.judge
    if config.best_of > 1 and judge is None:
        raise ValueError(
            f"best_of is {config.best_of}, but there is no judge to choose; connect one, or set it "
            "to 1"
        )
    if judge is not None:
        judge.check()
    subset = choose_conditions(conditions, config.split, config.num_conditions)
    conditions.check(subset)
    images = _ImageFolder(conditions, config, folder, fill or FillConfig())
    # Make the images, judge and measure them, write the report.
    seeds = range(config.seed, config.seed + config.num_seeds)
    edits = [_Edit(condition=condition, seed=seed) for condition in subset for seed in seeds]
    with folder_lock(folder):
        _check_identity(folder, eval_models.identity() | images.identity())
        images.make_images(eval_models.sides(), edits, host)
        rows = _Evaluator(eval_models, images).rows(edits, host)
        report = Report(config=config, rows=tuple(rows))
        save_report(folder, report, images.strips_of(rows[:MAX_IMAGES]))
    return report


class _ImageFolder:
    """Makes images and reads them again."""

    def __init__(
        self, conditions: EditDataset, config: EvalConfig, folder: Path, fill: FillConfig
    ) -> None:
        self.conditions, self.config, self.folder, self.fill = conditions, config, folder, fill

    def make_images(
        self, sides: Mapping[str, FillModels], edits: Sequence[_Edit], host: Host
    ) -> None:
        """Make what is missing, one model after the other, so that each is loaded once."""
        images = [
            (side, edit, candidate)
            for side in sides
            for edit in edits
            for candidate in range(self.num_candidates(side))
        ]
        for index, (side, edit, candidate) in enumerate(images):
            path = self.folder / edit.image(side, candidate)
            if path.exists():
                continue
            host.check_cancelled()
            seed = (edit.seed + _NEXT_CANDIDATE * candidate) % 2**31
            request = self.conditions.request(edit.condition, seed=seed, config=self.fill)
            step = WrappedHost(host, share=(index, len(images)))
            result = run_fill(request, sides[side], step)
            save_image(path, result.image[0])
        host.progress(1, 1)

    def num_candidates(self, side: str) -> int:
        """Return how many candidates a side makes per edit."""
        return self.config.best_of if side == MODEL else 1

    def edited_image(self, edit: _Edit, file: str) -> EditedImage:
        """Read an edit from its file."""
        sources, masks = self.conditions.images(edit.condition)
        return EditedImage(
            condition=edit.condition,
            source=sources[0].permute(2, 0, 1),  # [3, H, W]
            mask=masks[0],  # [H, W]
            image=read_image(self.folder / file).permute(2, 0, 1),  # [3, H, W]
        )

    def strips_of(self, rows: Sequence[Row]) -> list[Strip]:
        """Return source, model's and baseline's image of every row, to be drawn."""
        by_name = {condition.name: condition for condition in self.conditions.conditions}
        strips = []
        for row in rows:
            condition = by_name[row.condition]
            sources, masks = self.conditions.images(condition)
            results = [read_image(self.folder / name) for name in row.images.values()]
            strips.append(
                Strip(
                    task=condition.task.value,
                    prompt=condition.full_prompt,
                    images=(sources[0], *results),
                    mask=masks[0],
                )
            )
        return strips

    def identity(self) -> dict[str, Any]:
        """Return the settings that images and judgements depend on."""
        settings = {"best_of": self.config.best_of, "read_text": self.config.read_text}
        return settings | {"settings": asdict(self.fill)}


class _Evaluator:
    """Judges and measures finished images; a row per edit."""

    def __init__(self, eval_models: EvalModels, images: _ImageFolder) -> None:
        self._judge, self._truth, self._images = eval_models.judge, eval_models.truth, images
        self._sides = list(eval_models.sides())

    def rows(self, edits: Sequence[_Edit], host: Host) -> list[Row]:
        """Return a row per edit, in order; those of an earlier run are read."""
        path = self._images.folder / RESULTS
        drop_torn_line(path)
        stored = read_records(path, partial(make_record, Row), allows_nan=True)
        rows = {row.key: row for row in stored}
        for index, edit in enumerate(edits):
            if edit.key not in rows:
                host.progress(index, len(edits))
                rows[edit.key] = row = self._row(edit, host)
                append_line(path, json.dumps(asdict(row), ensure_ascii=False))
        return [rows[edit.key] for edit in edits]

    def _row(self, edit: _Edit, host: Host) -> Row:
        # Of several candidates only the best is evaluated.
        files = {side: self._best_file(edit, side, host) for side in self._sides}
        results = {side: self._images.edited_image(edit, file) for side, file in files.items()}
        # Compare with the source, and the model with its baseline.
        beside_source: dict[str, dict[str, float]] = {}
        beside_baseline: dict[str, float] = {}
        if self._judge is not None:
            for side, result in results.items():
                beside_source[side] = _by_name(compare_with_source(self._judge, result, host))
            if BASELINE in results:
                pair = results[MODEL], results[BASELINE]
                beside_baseline = _by_name(compare_with_baseline(self._judge, *pair, host))
        read_text = self._images.config.read_text
        return Row(
            key=edit.key,
            condition=edit.condition.name,
            task=edit.condition.task.value,
            images=files,
            measures={side: measure_edit(result, read_text) for side, result in results.items()},
            usable=self._usable(edit.condition, results),
            beside_source=beside_source,
            beside_baseline=beside_baseline,
        )

    def _usable(self, condition: Condition, results: Mapping[str, EditedImage]) -> dict[str, bool]:
        """Return which sides' images the ground truth accepts; empty where it knows nothing."""
        if self._truth is None or not self._truth.knows(condition.name):
            return {}
        images = torch.stack([result.image for result in results.values()])  # [N, 3, H, W]
        return dict(zip(results, self._truth.usable(condition.name, images), strict=True))

    def _best_file(self, edit: _Edit, side: str, host: Host) -> str:
        """Return the file of a side's image: of several candidates the one the judge prefers."""
        files = [edit.image(side, k) for k in range(self._images.num_candidates(side))]
        if len(files) == 1 or self._judge is None:
            return files[0]
        candidates = [read_image(self._images.folder / file) for file in files]
        ranking = rank_candidates(
            self._judge,
            torch.stack(candidates),  # [N, H, W, 3]
            chosen_queries(edit.condition.task, edit.condition.full_prompt),
            WrappedHost(host, quiet=True),
            view_for(self._judge, self._images.edited_image(edit, files[0])),
            RankingConfig(),
        )
        return files[ranking.order[0]]


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Note what results in a folder come from; ValueError if it has those of something else."""
    path = folder / IDENTITY
    if not path.exists():
        write_text(path, json.dumps(identity, indent=2) + "\n")
        return
    before = read_json(path, "choose another name, or delete the folder")
    keys = sorted(before.keys() | identity.keys())
    differences = [key for key in keys if before.get(key) != identity.get(key)]
    if differences:
        raise ValueError(
            f"{folder} holds results of another {', '.join(differences)}; choose another name, or "
            "delete the folder"
        )


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _by_name(chances: Mapping[Dimension, float]) -> dict[str, float]:
    return {dimension.value: chance for dimension, chance in chances.items()}
