"""The oracle: exact judgement of results in the procedural world.

An image is judged after compositing: what the mask keeps is the source's. The world knows the
truth, so every score compares with an *explained image*: the known background plus the best
fitting asked shape (fill), the letters that were read (text), the true image, with the asked
object completed in the best fitting way near the truth (extend), or the background alone (remove).
The residual against it gives `tone`, `worst`, `noise`, `seam` and
`blur` (see `measure`), all in units of the 0..1 pixel range except `blur`, a share.

Scores, float32 in 0..1, higher is better; NaN where a task is not judged on a dimension.

==================  ==========================================================================
text_alignment      fill: overlap of the matte (pixels on the way from background to the asked
                    colour) with the best fit of the asked shape, times exp(-(c/0.25)^2), c the
                    RMS colour error inside it; halved if another shape fits better.
                    extend (prompted only): overlap of the matte with the object's completion,
                    times the same factor of colour.
                    text: mean over the cells of the correlation with the requested letter, halved
                    in cells where another letter correlates better.
consistency         exp(-seam/0.1 - tone/0.2): colour and texture continue across the border.
structure           fill: overlap of all changed pixels with the best fit of any shape.
                    extend: 1 - min(1, gradient energy of the residual / (that of the truth +
                    0.0004)). text: mean correlation of the cells with their best letter.
aesthetics          (1 - blur) * exp(-noise/0.03): sharpness of edges, noise, lattices.
removal_quality     exp(-tone/0.1 - (worst/0.15)^2 - noise/0.05): gone, nothing new, clean.
==================  ==========================================================================

`usable` is yes when tone <= 0.09, worst <= 0.16, noise <= 0.035, seam <= 0.08, blur <= 0.5, and

* fill: the asked shape fits best, overlaps by 0.75, and has 0.4 to 2.5 times the true area;
* extend: with a prompt, and where at least 40 pixels of the object are hidden, its completion
  overlaps by 0.6 and is within 0.25 (RMS) of the asked colour;
* remove: nothing more;
* text: every letter is read right (correlation at least 0.6, at least half the contrast of
  the text's colour).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .world.conditions import TASKS, Conditions
from .world.measure import Residual, gradients, measure_residual, root
from .world.reading import Reading, read_words
from .world.shape_fit import ShapeFit, change_matte, fit_near, fit_shapes_where, matte_of

DIMENSIONS = ("text_alignment", "consistency", "structure", "aesthetics", "removal_quality")

_FILL, _EXTEND, _REMOVE, _TEXT = range(len(TASKS))
_MAX_TONE, _MAX_WORST, _MAX_NOISE, _MAX_SEAM, _MAX_BLUR = 0.09, 0.16, 0.035, 0.08, 0.5
_MIN_SHAPE_OVERLAP, _MIN_HIDDEN_OVERLAP, _MIN_HIDDEN_AREA = 0.75, 0.6, 40.0
_AREA_RATIO = (0.4, 2.5)
_MAX_COLOUR_ERROR = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OracleScores:
    """The oracle's judgement of a batch.

    Example: ``judge(images, scenes).usable``  # bool [B]
    """

    scores: dict[str, Tensor]
    """Dimension name to float32 `[B]`; NaN where the task is not judged on it."""
    usable: Tensor
    """Bool `[B]`."""
    residual: Residual
    """The measurements behind the scores."""
    shape_right: Tensor
    """Bool `[B]`: the asked shape fits best and well; true for tasks without a shape."""
    shape_overlap: Tensor
    """Float32 `[B, 6]`: overlap of the matte with the best fit of each shape; zeros but in fill."""
    letters_right: Tensor
    """Float32 `[B]`: share of letters read right; NaN without words."""

    @property
    def table(self) -> Tensor:
        """The scores, float32 `[B, D]`, in the order of `DIMENSIONS`."""
        return torch.stack([self.scores[name] for name in DIMENSIONS], 1)


def composite(images: Tensor, conditions: Conditions) -> Tensor:
    """Put the source back where the mask keeps it, and clip to 0..1."""
    inside = conditions.mask[:, None] > 0.5
    return torch.where(inside, images, conditions.source).clamp(0, 1)


@torch.no_grad()
def judge(images: Tensor, conditions: Conditions) -> OracleScores:
    """Judge results; the arguments and errors of :func:`judge_with_gradient`."""
    return judge_with_gradient(images, conditions)


def judge_with_gradient(images: Tensor, conditions: Conditions) -> OracleScores:
    """Judge results; the scores are differentiable where the image that explains them stays.

    Args:
        images: float32 `[B, 3, 64, 64]` in 0..1, one per scene.
        conditions: The scenes.

    Raises:
        ValueError: If the images do not fit the scenes.
    """
    if images.shape != conditions.source.shape:
        raise ValueError(
            f"images are {list(images.shape)} but the scenes need "
            f"{list(conditions.source.shape)}; judge one image per scene"
        )
    image, mask = composite(images, conditions), conditions.mask
    # What can be made out under the mask: words, shapes, completed objects.
    matte = matte_of(image, conditions.background, conditions.object_colour) * mask
    has_words = conditions.task == _TEXT
    reading = read_words(matte, conditions.letters, conditions.box)
    fit = fit_shapes_where(conditions.task == _FILL, matte, mask)
    completed, hidden = _complete_objects(conditions, matte)
    coverage = _explained_coverage(conditions, fit, reading, completed)
    # The explained image, `[B, 3, 64, 64]`: a faultless result with the same content.
    colour = conditions.object_colour[:, :, None, None].expand_as(image)
    explained = torch.lerp(conditions.background, colour, coverage[:, None])
    unprompted = (conditions.task == _EXTEND) & (conditions.shape < 0)
    explained = torch.where(unprompted[:, None, None, None], conditions.target, explained)
    # What explains the image is chosen, not changed, by following the gradient.
    residual = measure_residual(image, explained.detach(), mask, coverage.detach())
    colour_error = _colour_error(image, conditions, coverage.detach())
    evidence = _Evidence(fit, reading, residual, hidden, colour_error)
    # The conditions that `usable` consists of.
    shape_right = _shape_is_right(conditions, fit)
    right = (reading.letters == conditions.letters) & (conditions.letters >= 0)
    num_letters = (conditions.letters >= 0).sum(1)
    letters_right = torch.where(has_words, right.sum(1) / num_letters, torch.nan)
    return OracleScores(
        scores=_scores(image, conditions, evidence),
        usable=_is_clean(residual)
        & shape_right
        & ((letters_right == 1) | ~has_words)
        & _is_continued(conditions, evidence),
        residual=residual,
        shape_right=shape_right,
        shape_overlap=fit.overlap.detach(),
        letters_right=letters_right,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    fit: ShapeFit
    reading: Reading
    residual: Residual
    hidden: Tensor
    colour_error: Tensor


def _complete_objects(conditions: Conditions, matte: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the asked objects of extensions: coverage `[B, 64, 64]` and overlap `[B]`, else zeros."""
    rows = ((conditions.task == _EXTEND) & (conditions.shape >= 0)).nonzero()[:, 0]
    coverage, overlap = torch.zeros_like(matte), torch.zeros(len(matte))
    coverage[rows], overlap[rows] = fit_near(
        conditions.shape[rows], conditions.placement[rows], matte[rows], conditions.mask[rows]
    )
    return coverage, overlap


def _explained_coverage(
    conditions: Conditions, fit: ShapeFit, reading: Reading, completed: Tensor
) -> Tensor:
    rows = torch.arange(len(conditions))
    shape = fit.coverage[rows, conditions.shape.clamp(min=0)]
    task = conditions.task[:, None, None]
    coverage = torch.where(task == _FILL, shape, torch.zeros_like(shape))
    coverage = torch.where(task == _EXTEND, completed, coverage)
    return torch.where(task == _TEXT, reading.coverage, coverage)  # [B, 64, 64]


def _is_clean(residual: Residual) -> Tensor:
    return (
        (residual.tone <= _MAX_TONE)
        & (residual.worst <= _MAX_WORST)
        & (residual.noise <= _MAX_NOISE)
        & (residual.seam <= _MAX_SEAM)
        & (residual.blur <= _MAX_BLUR)
    )


def _shape_is_right(conditions: Conditions, fit: ShapeFit) -> Tensor:
    rows = torch.arange(len(conditions))
    shape = conditions.shape.clamp(min=0)
    ratio = fit.area / conditions.coverage.sum((1, 2)).clamp(min=1)
    right = fit.overlap.argmax(1) == shape
    right &= fit.overlap[rows, shape] >= _MIN_SHAPE_OVERLAP
    right &= (ratio >= _AREA_RATIO[0]) & (ratio <= _AREA_RATIO[1])
    return right | (conditions.task != _FILL)


def _is_continued(conditions: Conditions, evidence: _Evidence) -> Tensor:
    area = (conditions.coverage * conditions.mask).sum((1, 2))
    prompted = (conditions.task == _EXTEND) & (conditions.shape >= 0)
    matters = prompted & (area >= _MIN_HIDDEN_AREA)
    right = evidence.hidden >= _MIN_HIDDEN_OVERLAP
    return (right & (evidence.colour_error <= _MAX_COLOUR_ERROR)) | ~matters


def _scores(image: Tensor, conditions: Conditions, evidence: _Evidence) -> dict[str, Tensor]:
    residual, task = evidence.residual, conditions.task
    four = {
        "text_alignment": _text_alignment(conditions, evidence),
        "consistency": torch.exp(-residual.seam / 0.1 - residual.tone / 0.2),
        "structure": _structure(image, conditions, evidence),
        "aesthetics": (1 - residual.blur) * torch.exp(-residual.noise / 0.03),
    }
    removal = torch.exp(
        -residual.tone / 0.1 - (residual.worst / 0.15).square() - residual.noise / 0.05
    )
    scores = {name: torch.where(task == _REMOVE, torch.nan, s) for name, s in four.items()}
    return {**scores, "removal_quality": torch.where(task == _REMOVE, removal, torch.nan)}


def _colour_error(image: Tensor, conditions: Conditions, coverage: Tensor) -> Tensor:
    """RMS difference from the asked colour over what is drawn under the mask, `[B]`."""
    inside = coverage * conditions.mask
    error = (image - conditions.object_colour[:, :, None, None]).square().mean(1)
    return root((error * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1))


def _text_alignment(conditions: Conditions, evidence: _Evidence) -> Tensor:
    rows, fit, reading = torch.arange(len(conditions)), evidence.fit, evidence.reading
    kind = conditions.shape.clamp(min=0)
    likeness = torch.exp(-evidence.colour_error.square() / 0.25**2)
    shape = fit.overlap[rows, kind] * likeness
    shape = torch.where(fit.overlap.argmax(1) == kind, shape, shape / 2)
    right = (reading.letters == conditions.letters).float()
    cells = (conditions.letters >= 0).float()
    words = (reading.target_match * (0.5 + 0.5 * right) * cells).sum(1) / cells.sum(1).clamp(min=1)
    prompted = torch.where(conditions.shape >= 0, evidence.hidden * likeness, torch.nan)
    score = torch.where(conditions.task == _EXTEND, prompted, shape)
    return torch.where(conditions.task == _TEXT, words, score)


def _structure(image: Tensor, conditions: Conditions, evidence: _Evidence) -> Tensor:
    mask = conditions.mask
    matte = change_matte(image, conditions.background) * mask
    any_shape = fit_shapes_where(conditions.task == _FILL, matte, mask).overlap.amax(1)
    wrong = _gradient_energy(image - conditions.target, mask)  # [B]
    true = _gradient_energy(conditions.target, mask)
    continued = 1 - (wrong / (true + 0.0004)).clamp(max=1)
    cells = (conditions.letters >= 0).sum(1).clamp(min=1)
    legible = evidence.reading.match.sum(1) / cells
    score = torch.where(conditions.task == _EXTEND, continued, any_shape)
    return torch.where(conditions.task == _TEXT, legible, score)


def _gradient_energy(image: Tensor, mask: Tensor) -> Tensor:
    energy = gradients(image).square().mean(1)
    return (energy * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
