"""Whole jobs: batches of images in, judgements out, with the judge placed by a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..fill.host import Host
from ..fill.image.geometry import Box, context_box
from ..fill.image.mask import bounding_box
from ..fill.task import Dimension, Task
from .judge import Judge, Judgement
from .metrics import measure, text_correct
from .query import Query, cut_note, queries_for
from .score import Ranking, RankingConfig, judge_pair, pick_best

VIEWS = (
    "full_image",
    "crop",
    "image_with_source",
    "crop_with_source",
)
"""A judge that was trained with one of them should be asked with the same."""
MASK_COLOUR = (1.0, 0.3, 0.2)
"""Colour of the mask on a source that is shown; half of it."""
CROP_FACTOR = 1.5
"""Side of the crop around the mask, in sides of the mask's box."""


_NO_SOURCE = "this judge needs the image before the edit; connect the source"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """What the judge gets of images. Example: ``View(kind='crop', mask=mask).show(image)``."""

    kind: str = VIEWS[0]
    mask: torch.Tensor | None = None
    """``[1 or B, H, W]``, 1 = repainted; needed around the mask, drawn on a source."""
    source: torch.Tensor | None = None
    """``[1 or B, H, W, 3]``, 0..1: the image before the edit; needed beside the source."""

    def __post_init__(self) -> None:
        """Refuse an unknown view, or one without what it shows."""
        if self.kind not in VIEWS:
            raise ValueError(f"view is {self.kind!r}; choose one of: {'; '.join(VIEWS)}")
        if self.is_crop and (self.mask is None or not bool((self.mask > 0).any())):
            raise ValueError("the view around the mask needs a mask that is not empty")
        if self.is_beside and self.source is None:
            raise ValueError("the view beside the source needs the source; connect it")

    @property
    def is_crop(self) -> bool:
        """Whether only the surroundings of the mask are shown."""
        return self.kind in (VIEWS[1], VIEWS[3])

    @property
    def is_beside(self) -> bool:
        """Whether the source stands to the left."""
        return self.kind in VIEWS[2:]

    def pixels(self, images: torch.Tensor) -> int:
        """Return the most pixels that :meth:`show` makes of an image of ``[B, H, W, 3]``."""
        return images.shape[1] * images.shape[2] * (2 if self.is_beside else 1)

    def show(self, image: torch.Tensor, index: int = 0) -> torch.Tensor:
        """Return what the judge sees of image ``[H, W, 3]`` number ``index``: ``[3, h, w]``.

        Raises:
            ValueError: Mask or source is not as large as the image.
        """
        height, width, _ = image.shape
        box = self.box(index, height, width)
        images = [image]
        if self.is_beside:
            images.insert(0, self._marked_source(index, height, width).to(image))
        cut = [p[box.top : box.bottom, box.left : box.right].permute(2, 0, 1) for p in images]
        return torch.cat(cut, dim=2)

    def show_source(self, index: int, size: tuple[int, int]) -> torch.Tensor:
        """Return the image before edit number ``index``, cut like the others: ``[3, h, w]``.

        Args:
            index: The edit.
            size: Height and width of the edited image.

        Raises:
            ValueError: There is no source, or it is not as large as the image.
        """
        if self.source is None:
            raise ValueError(_NO_SOURCE)
        box = self.box(index, *size)
        source = self._unmarked_source(index, *size)
        return source[box.top : box.bottom, box.left : box.right].permute(2, 0, 1)

    def _unmarked_source(self, index: int, height: int, width: int) -> torch.Tensor:
        assert self.source is not None, "checked when the view was made"
        source = self.source[index % len(self.source)].cpu().float()
        if tuple(source.shape) != (height, width, 3):
            raise ValueError(
                f"source is {source.shape[1]}x{source.shape[0]} pixels but the images are "
                f"{width}x{height} pixels; give the source that they were made from"
            )
        return source

    def _marked_source(self, index: int, height: int, width: int) -> torch.Tensor:
        source = self._unmarked_source(index, height, width)
        if self.mask is None:
            return source
        mask = self._mask(index, height, width)[..., None].cpu().float()
        return source * (1 - mask / 2) + torch.tensor(MASK_COLOUR) * mask / 2

    def _mask(self, index: int, height: int, width: int) -> torch.Tensor:
        assert self.mask is not None, "asked for only where there is one"
        if tuple(self.mask.shape[-2:]) != (height, width):
            raise ValueError(
                f"mask is {self.mask.shape[-1]}x{self.mask.shape[-2]} pixels but the images are "
                f"{width}x{height} pixels; use the mask that they were made with"
            )
        masks = self.mask.reshape(-1, height, width)
        return masks[index % len(masks)]

    def box(self, index: int, height: int, width: int) -> Box:
        """Return what is shown of image ``index``."""
        whole = Box(0, 0, width, height)
        if not self.is_crop:
            return whole
        mask_box = bounding_box(self._mask(index, height, width).cpu())
        return (
            whole if mask_box is None else context_box(mask_box, (width, height), CROP_FACTOR, 16)
        )


def score_pairs(
    judge: Judge,
    images: tuple[torch.Tensor, torch.Tensor],
    queries: Sequence[Query],
    host: Host,
    view: View,
    swap: bool = True,
) -> list[Judgement]:
    """Judge the images of two batches pair by pair.

    Args:
        judge: The judge.
        images: First and second, ``[B, H, W, 3]``, 0..1; one of them may hold a single image.
        queries: The dimensions to judge.
        host: Memory, progress, cancel.
        view: What the judge sees.
        swap: Ask in both orders and average.

    Raises:
        ValueError: The batches do not fit together, or an image is no RGB image.
        JudgeError: The judge cannot answer Yes and No.
    """
    first, second = images  # [B, H, W, 3] each
    _check_pair(first, second)
    _check_questions(judge, queries, view, host)
    # One pair after the other; a single image stands for a whole batch.
    num = max(len(first), len(second))
    judgements: list[Judgement] = []
    room = judge.working_bytes(view.pixels(first))
    with host.resident(*judge.components, activation_bytes=room), torch.no_grad():
        for i in range(num):
            host.check_cancelled()
            host.progress(i, num)
            pair = [_render(p[i % len(p)], view, i, host) for p in images]
            sources = [_render_source(view, i, first, host)] if judge.needs_source else []
            a, b, *source = judge.encode_images([*pair, *sources])
            judgements.append(judge_pair(judge, a, b, queries, swap, next(iter(source), None)))
        host.progress(num, num)
    return judgements


def _check_questions(judge: Judge, queries: Sequence[Query], view: View, host: Host) -> None:
    """Refuse a judge without answers, and say what of a prompt it does not read."""
    judge.check()
    if judge.needs_source and view.source is None:
        raise ValueError(_NO_SOURCE)
    if note := cut_note(queries):
        host.notify(note)


def measure_views(
    batches: Mapping[str, torch.Tensor], view: View, words: str, host: Host
) -> dict[str, dict[str, list[float | None]]]:
    """Measure what needs no judge and notify the host, also of what cannot be measured here.

    Args:
        batches: Images ``[B, H, W, 3]``, 0..1, by name.
        view: Has mask and source; without a mask there is nothing to measure.
        words: What should be readable; empty: nothing is read.
        host: Takes the messages.

    Returns:
        For each batch the metrics by name, one number per image.
    """
    if view.mask is None or not bool(view.mask.any()):
        return {}
    mask = view.mask.reshape(-1, *view.mask.shape[-2:])
    measured: dict[str, dict[str, list[float | None]]] = {}
    for name, images in batches.items():
        try:
            measured[name] = measure(images, mask, view.source)
            if words:
                measured[name]["text_correct"] = list(text_correct(images, words))
        except (ValueError, ImportError) as reason:
            host.notify(f"not measured: {reason}")
    for name, metrics in measured.items():
        for metric, values in metrics.items():
            numbers = ", ".join("-" if v is None else f"{v:.3f}" for v in values)
            host.notify(f"{name}, {metric.replace('_', ' ')}: {numbers}")
    return measured


def rank_candidates(
    judge: Judge,
    candidates: torch.Tensor,
    queries: Sequence[Query],
    host: Host,
    view: View,
    ranking_config: RankingConfig,
) -> Ranking:
    """Rank candidates ``[B, H, W, 3]``, 0..1, of one condition; see :func:`pick_best`."""
    _check_images("candidates", candidates)
    _check_questions(judge, queries, view, host)
    total = ranking_config.num_comparisons(len(candidates))
    num_judged = 0

    def tick() -> None:
        nonlocal num_judged
        host.check_cancelled()
        host.progress(num_judged, max(total, 1))
        num_judged += 1

    room = judge.working_bytes(view.pixels(candidates))
    with host.resident(*judge.components, activation_bytes=room), torch.no_grad():
        encoded: list[Any] = []
        source = None
        for i, image in enumerate(candidates):
            host.check_cancelled()
            encoded += judge.encode_images([_render(image, view, i, host)])
        if judge.needs_source:
            (source,) = judge.encode_images([_render_source(view, 0, candidates, host)])
        return pick_best(judge, encoded, queries, ranking_config, tick, source)


def chosen_queries(
    task: Task, prompt: str, weights: dict[Dimension, float] | None = None
) -> tuple[Query, ...]:
    """Return a query for every dimension of the task whose weight is above 0.

    Raises:
        ValueError: No dimension is left, or a weight is negative.
    """
    weights = weights or {}
    negative = [d.value for d, w in weights.items() if w < 0]
    if negative:
        raise ValueError(f"the weight of {negative[0]} is negative; 0 leaves the dimension out")
    queries = tuple(q for q in queries_for(task, prompt) if weights.get(q.dimension, 1.0) > 0)
    if not queries:
        raise ValueError(
            f"all dimensions of {task.value} have weight 0; give at least one that is above 0"
        )
    return queries


def _render(image: torch.Tensor, view: View, index: int, host: Host) -> torch.Tensor:
    """Return what the judge sees, ``[3, h, w]``, on the host's device."""
    return view.show(image, index).to(host.device, torch.float32).clamp(0, 1)


def _render_source(view: View, index: int, images: torch.Tensor, host: Host) -> torch.Tensor:
    """Return the image before the edit as it is shown beside images ``[B, H, W, 3]``."""
    size = (images.shape[1], images.shape[2])
    return view.show_source(index, size).to(host.device, torch.float32).clamp(0, 1)


def _check_pair(first: torch.Tensor, second: torch.Tensor) -> None:
    _check_images("first", first)
    _check_images("second", second)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"first is {first.shape[2]}x{first.shape[1]} pixels but second is "
            f"{second.shape[2]}x{second.shape[1]} pixels; compare images of the same size"
        )
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise ValueError(
            f"first has {len(first)} images but second has {len(second)}; give as many, or one "
            "for all"
        )


def _check_images(name: str, images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(
            f"{name} has shape {list(images.shape)}, but RGB images [batch, height, width, 3] "
            "are expected"
        )
    if not torch.isfinite(images).all():
        raise ValueError(f"{name} contains NaN or infinite values; look at the node that made it")
