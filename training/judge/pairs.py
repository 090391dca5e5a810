"""Preference pairs as batches: which ones a step takes, and the images behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reward.judging import VIEWS, View
from ...reward.preference import CandidateGroup, Preference, PreferenceSet
from ...reward.query import Query
from ..data.conditions import image_size, read_image

ViewPair = tuple[Tensor, Tensor]
"""The two images of a pair as a judge is shown them, ``[3, h, w]`` each, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Augments both images of a pair alike, so that the judge does not lean on single pixels.

    Example: ``Augmentation(shift=2, blur=0.5).apply(views, generator)``.
    """

    shift: int = 0
    """Largest shift per axis, in pixels."""
    blur: float = 0.0
    """Share of pairs that are blurred, 0..1."""
    noise: float = 0.0
    """Largest standard deviation of added noise, in units of the 0..1 range."""

    def apply(self, views: ViewPair, generator: torch.Generator) -> ViewPair:
        """Return the augmented pair, of the same size."""
        offsets = torch.randint(-self.shift, self.shift + 1, (2,), generator=generator)
        dy, dx = (int(offset) for offset in offsets)
        chance, level = torch.rand(2, generator=generator).tolist()
        grain = 0.0
        if level * self.noise > 0:  # drawn on the CPU: the same on every device
            grain = level * self.noise * torch.randn(views[0].shape, generator=generator)
            grain = grain.to(views[0])  # [3, h, w]
        first, second = (self._augment(x, (dy, dx), chance < self.blur, grain) for x in views)
        return first, second

    def _augment(
        self, image: Tensor, shift: tuple[int, int], is_blurred: bool, grain: Tensor | float
    ) -> Tensor:
        x = _shift(image, *shift) if any(shift) else image
        if is_blurred:
            x = F.avg_pool2d(F.pad(x[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
        return (x + grain).clamp(0, 1)


def _shift(image: Tensor, dy: int, dx: int) -> Tensor:
    """Shift by whole pixels; the border repeats."""
    reach = max(abs(dy), abs(dx))
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    height, width = image.shape[1:]
    top, left = reach + dy, reach + dx
    return padded[:, top : top + height, left : left + width]


def spread(pairs: Sequence[Preference], most: int) -> list[Preference]:
    """Return so many pairs at most, evenly from all: lists are often sorted by task."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[round(index * (len(pairs) - 1) / max(most - 1, 1))] for index in range(most)]


def sample_batch(pairs: Sequence[Preference], step: int, batch: int, seed: int) -> list[Preference]:
    """Return the pairs of one step: every epoch is a permutation of all pairs of its own.

    Depends on its arguments alone, so a run that stopped goes on with the same data.
    """
    start = step * batch
    sampled = []
    for position in range(start, start + batch):
        epoch, index = divmod(position, len(pairs))
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(pairs), generator=generator)
        sampled.append(pairs[int(order[index])])
    return sampled


def images_of(data: PreferenceSet, pair: Preference, view: str = VIEWS[0]) -> ViewPair:
    """Return winner and loser as the judge is shown them.

    Raises:
        ValueError: An image cannot be read, the two differ in size, or the view needs a source or
            a mask that the pair does not have.
    """
    names = (pair.winner_file_name, pair.loser_file_name)
    winner, loser = (read_image(data.image(name)) for name in names)
    if winner.shape != loser.shape:
        raise ValueError(
            f"{names[0]} is {winner.shape[1]}x{winner.shape[0]} pixels but {names[1]} is "
            f"{loser.shape[1]}x{loser.shape[0]} pixels; compare images of the same size"
        )
    pair_view = view_of(data, pair, view)
    return pair_view.show(winner), pair_view.show(loser)


def source_of(data: PreferenceSet, pair: Preference, view: str = VIEWS[0]) -> Tensor:
    """Return the image before the edit, cut as the view cuts, ``[3, h, w]``, 0..1.

    Raises:
        ValueError: The pair has no source, or one of another size.
    """
    winner = read_image(data.image(pair.winner_file_name))
    return view_of(data, pair, view).show_source(0, (winner.shape[0], winner.shape[1]))


def check_pairs(data: PreferenceSet, pairs: Iterable[Preference], view: str = VIEWS[0]) -> None:
    """Check questions and the headers of images, before hours of work depend on them.

    Raises:
        ValueError: An image is missing, damaged or of another size than the one it is compared
            with, text alignment is asked for without a text, or the view needs a source or a mask
            that is not there, not as large or empty; names it.
    """
    sizes: dict[str, tuple[int, int]] = {}
    checked: set[tuple[str, str]] = set()
    for pair in pairs:
        try:
            query_of(pair)
        except ValueError as error:
            raise ValueError(f"condition {pair.condition} in {data.folder}: {error}") from error
        names = [pair.winner_file_name, pair.loser_file_name]
        if view != VIEWS[0]:
            needed = (pair.source_file_name, pair.mask_file_name)
            if needed not in checked:
                view_of(data, pair, view)
                checked.add(needed)
            names += [name for name in needed if name]
        for name in names:
            if name not in sizes:
                sizes[name] = image_size(data.image(name))
        first = sizes[names[0]]
        for name in names[1:]:
            if sizes[name] != first:
                raise ValueError(
                    f"{names[0]} is {first[0]}x{first[1]} pixels but {name} is {sizes[name][0]}x"
                    f"{sizes[name][1]} pixels; make both as large, or remove the pair from "
                    f"{data.folder}"
                )


def view_of(data: PreferenceSet, record: Preference | CandidateGroup, kind: str) -> View:
    """Return a view with the source and the mask of a pair or a group."""
    mask = source = None
    if kind != VIEWS[0]:
        if record.mask_file_name:
            mask = read_image(data.image(record.mask_file_name), "L")[None]
        if record.source_file_name:
            source = read_image(data.image(record.source_file_name))[None]
    try:
        return View(kind=kind, mask=mask, source=source)
    except ValueError as error:
        raise ValueError(f"condition {record.condition}: {error}") from error


def query_of(pair: Preference) -> Query:
    """Return the question a pair answers."""
    return Query(pair.task, pair.dimension, pair.prompt)
