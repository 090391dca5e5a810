"""Scenes with a task: source, mask and prompt, and the truth that the oracle compares with."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .backgrounds import sample_backgrounds
from .canvas import SIZE, Draw, blend, dilate, spread
from .lettering import sample_fonts, sample_word_boxes, sample_words, word_coverage
from .masks import Room, border_masks, outline_masks, sample_borders, sample_rooms
from .shapes import COLOUR_NAMES, COLOUR_VALUES, SHAPE_NAMES, shape_coverage
from .splits import Split, SplitStyle, scene_generator, style_of

TASKS = ("fill", "extend", "remove", "text")
EXTEND_PROMPT = "high-definition, perfect composition"
REMOVE_PROMPT = "remove"

_MIN_CONTRAST = 0.5
_DISTRACTORS = (0.35, 0.2)
_PROMPTED_SHARE = 0.4
_OUTLINE_SHARE = 0.4
_REMOVED_WORD_SHARE = 0.2
_DARK, _LIGHT = 0.04, 0.98
"""Grey levels of words."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """A batch of scenes; every tensor has one row per scene.

    Example: ``sample_conditions(Split.DEV, 3, torch.tensor([0, 3])).prompts``.
    """

    task: Tensor
    """Int64 `[B]`, index into `TASKS`."""
    source: Tensor
    """Float32 `[B, 3, 64, 64]` in 0..1: the image given to the model."""
    mask: Tensor
    """Float32 `[B, 64, 64]`, 1 = repaint."""
    target: Tensor
    """Float32 `[B, 3, 64, 64]`: the true result."""
    background: Tensor
    """Float32 `[B, 3, 64, 64]`: the truth without the object or words that the prompt names."""
    coverage: Tensor
    """Float32 `[B, 64, 64]`: where that object or those words are in the target."""
    object_colour: Tensor
    """Float32 `[B, 3]`: the colour of that object or those words."""
    shape: Tensor
    """Int64 `[B]`, index into `SHAPE_NAMES`; -1 where the prompt names no shape."""
    placement: Tensor
    """Float32 `[B, 3]`, x, y and radius of that shape; zeros where there is none."""
    letters: Tensor
    """Int64 `[B, 4]`, the words' letters, -1 where there is none."""
    box: Tensor
    """Int64 `[B, 4]`, x0, y0, x1, y1 of the words; zeros for other tasks."""
    prompts: list[str]
    """One prompt per scene."""

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Tensor) -> "Conditions":
        """Return the scenes `rows` (int64 `[N]`) as a new batch."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        prompts = values.pop("prompts")
        picked = {name: tensor[rows] for name, tensor in values.items()}
        return Conditions(prompts=[prompts[k] for k in rows.tolist()], **picked)


def join_conditions(batches: list[Conditions]) -> Conditions:
    """Concatenate batches."""
    names = [f.name for f in fields(Conditions) if f.name != "prompts"]
    tensors = {}
    for name in names:
        tensors[name] = torch.cat([getattr(batch, name) for batch in batches])
    return Conditions(prompts=[p for batch in batches for p in batch.prompts], **tensors)


def sample_conditions(
    split: Split, index: int, tasks: Tensor, photos: Tensor | None = None
) -> Conditions:
    """Draw batch `index` of a split; the same arguments always give the same scenes.

    Args:
        split: Decides seeds, palettes, layouts and fonts.
        index: Number of the batch, 0..10^9 - 1.
        tasks: int64 `[B]`, index into `TASKS`.
        photos: float32 `[B, 3, 64, 64]` in 0..1, photographs to use as backgrounds; None paints
            backgrounds.

    Raises:
        ValueError: If a task does not exist, or there is not one photograph per scene.
    """
    if not ((tasks >= 0) & (tasks < len(TASKS))).all():
        raise ValueError(f"tasks are {tasks.unique().tolist()}; use 0 to {len(TASKS) - 1}")
    if photos is not None and photos.shape != (len(tasks), 3, SIZE, SIZE):
        raise ValueError(f"photos are {list(photos.shape)}; give one 3x{SIZE}x{SIZE} per scene")
    generator, style = scene_generator(split, index), style_of(split)
    batches, order = [], []
    for task, compose in enumerate(_COMPOSERS):
        rows = (tasks == task).nonzero()[:, 0]
        if len(rows):
            draw = Draw(generator, len(rows))
            plain = sample_backgrounds(draw, style) if photos is None else photos[rows]
            batches.append(compose(draw, style, plain))
            order.append(rows)
    # The composers worked task by task: back to the order of the arguments.
    return join_conditions(batches).select(torch.cat(order).argsort())


def _local_colour(image: Tensor, mask: Tensor) -> Tensor:
    weight = mask[:, None]
    return (image * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1)


def _draw_colours(draw: Draw, image: Tensor, mask: Tensor) -> Tensor:
    """Draw a colour index that stands out from the image under the mask."""
    return draw.pick(torch.cdist(_local_colour(image, mask), COLOUR_VALUES) > _MIN_CONTRAST)


def _readable_colour(image: Tensor, mask: Tensor) -> Tensor:
    is_light = _local_colour(image, mask).mean(1, keepdim=True) > 0.5
    return torch.where(is_light, _DARK, _LIGHT).expand(-1, 3)


def _paint_distractors(draw: Draw, image: Tensor, allowed: Callable[[Tensor], Tensor]) -> Tensor:
    """Paint up to two small shapes; `allowed` maps their coverage to bool `[B]`."""
    for probability in _DISTRACTORS:
        x, y = draw.uniform(4, SIZE - 4), draw.uniform(4, SIZE - 4)
        shape, colour = draw.integer(0, len(SHAPE_NAMES)), draw.integer(0, len(COLOUR_VALUES))
        coverage = shape_coverage(shape, x, y, draw.uniform(6, 11))
        is_painted = draw.chance(probability) & allowed(coverage)
        image = blend(image, coverage * spread(is_painted), COLOUR_VALUES[colour])
    return image


def _clear_of(mask: Tensor) -> Callable[[Tensor], Tensor]:
    near = dilate(mask, 2)
    return lambda coverage: (coverage * near).sum((1, 2)) == 0


def _mostly_in(keep: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda coverage: (coverage * keep).sum((1, 2)) > 0.5 * coverage.sum((1, 2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shapes:
    """One coloured shape per scene, before anything is painted."""

    coverage: Tensor
    object_colour: Tensor
    shape: Tensor
    placement: Tensor
    letters: Tensor
    names: list[str]


def _shape_in(draw: Draw, image: Tensor, room: Room) -> _Shapes:
    shape = draw.integer(0, len(SHAPE_NAMES))
    colour = _draw_colours(draw, image, room.mask)
    radius = room.radius * draw.uniform(0.82, 0.94)
    shake = room.radius - radius
    x = room.x + shake * draw.uniform(-0.7, 0.7)
    y = room.y + shake * draw.uniform(-0.7, 0.7)
    pairs = zip(colour.tolist(), shape.tolist(), strict=True)
    return _Shapes(
        coverage=shape_coverage(shape, x, y, radius),
        object_colour=COLOUR_VALUES[colour],
        shape=shape,
        placement=torch.stack([x, y, radius], 1),
        letters=torch.full((draw.count, 4), -1),
        names=[f"a {COLOUR_NAMES[c]} {SHAPE_NAMES[s]}" for c, s in pairs],
    )


def _compose_fill(draw: Draw, style: SplitStyle, plain: Tensor) -> Conditions:
    room = sample_rooms(draw, 28, 48)
    background = _paint_distractors(draw, plain, _clear_of(room.mask))
    shapes = _shape_in(draw, background, room)
    # Corners may reach beyond a blob; the mask then makes room for them.
    mask = torch.maximum(room.mask, dilate((shapes.coverage > 0).float(), 1))
    return Conditions(
        task=torch.full((draw.count,), TASKS.index("fill")),
        source=background,
        mask=mask,
        target=blend(background, shapes.coverage, shapes.object_colour),
        background=background,
        coverage=shapes.coverage,
        object_colour=shapes.object_colour,
        shape=shapes.shape,
        placement=shapes.placement,
        letters=shapes.letters,
        box=torch.zeros(draw.count, 4, dtype=torch.long),
        prompts=shapes.names,
    )


def _compose_text(draw: Draw, style: SplitStyle, plain: Tensor) -> Conditions:
    words, letters = sample_words(draw)
    box = sample_word_boxes(draw, letters)  # [B, 4]
    coverage = word_coverage(letters, box, sample_fonts(draw, style))
    x0, y0, x1, y1 = box.unbind(1)
    rows = torch.arange(SIZE)
    mask = ((rows >= x0[:, None]) & (rows < x1[:, None]))[:, None] & (
        (rows >= y0[:, None]) & (rows < y1[:, None])
    )[:, :, None]
    mask = mask.float()
    background = _paint_distractors(draw, plain, _clear_of(mask))
    object_colour = _readable_colour(background, mask)
    return Conditions(
        task=torch.full((draw.count,), TASKS.index("text")),
        source=background,
        mask=mask,
        target=blend(background, coverage, object_colour),
        background=background,
        coverage=coverage,
        object_colour=object_colour,
        shape=torch.full((draw.count,), -1),
        placement=torch.zeros(draw.count, 3),
        letters=letters,
        box=box,
        prompts=[f'the words "{word}"' for word in words],
    )


def _compose_remove(draw: Draw, style: SplitStyle, plain: Tensor) -> Conditions:
    # What is removed: a shape, in some scenes a word.
    room = sample_rooms(draw, 14, 42)
    shapes = _shape_in(draw, plain, room)
    outlined = draw.chance(_OUTLINE_SHARE)
    _, letters = sample_words(draw)
    box = sample_word_boxes(draw, letters)
    is_word = draw.chance(_REMOVED_WORD_SHARE)
    words = word_coverage(letters, box, sample_fonts(draw, style))
    coverage = torch.where(spread(is_word), words, shapes.coverage)
    # Its mask: the outline of the object, or a whole box or blob around it.
    whole = torch.maximum(room.mask, dilate((coverage > 0).float(), 1))
    mask = torch.where(spread(outlined | is_word), outline_masks(coverage), whole)
    background = _paint_distractors(draw, plain, _clear_of(mask))
    word_colour = _readable_colour(background, mask)
    return Conditions(
        task=torch.full((draw.count,), TASKS.index("remove")),
        source=blend(
            background, coverage, torch.where(is_word[:, None], word_colour, shapes.object_colour)
        ),
        mask=mask,
        target=background,
        background=background,
        coverage=torch.zeros_like(mask),
        object_colour=torch.zeros(draw.count, 3),
        shape=torch.full((draw.count,), -1),
        placement=torch.zeros(draw.count, 3),
        letters=torch.full((draw.count, 4), -1),
        box=torch.zeros(draw.count, 4, dtype=torch.long),
        prompts=[REMOVE_PROMPT] * draw.count,
    )


def _object_across(draw: Draw, borders: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and radius of an object that the widest border cuts, at least half of it visible."""
    side = borders.argmax(1)
    radius, depth = draw.uniform(10, 15), draw.uniform(0.0, 0.4)
    width = borders.gather(1, side[:, None])[:, 0] + depth * radius
    along = draw.uniform(borders[:, 1] + 10.0, SIZE - borders[:, 3] - 10.0)
    down = draw.uniform(borders[:, 0] + 10.0, SIZE - borders[:, 2] - 10.0)
    x = torch.where(side == 0, width, torch.where(side == 2, SIZE - width, down))
    y = torch.where(side == 1, width, torch.where(side == 3, SIZE - width, along))
    return x, y, radius


def _compose_extend(draw: Draw, style: SplitStyle, plain: Tensor) -> Conditions:
    # The new area, and an object across its border in some scenes.
    borders = sample_borders(draw, 6, 17)  # [B, 4]
    mask = border_masks(borders)
    background = _paint_distractors(draw, plain, _mostly_in(1 - mask))
    prompted = draw.chance(_PROMPTED_SHARE)
    shape = draw.integer(0, len(SHAPE_NAMES))
    x, y, radius = _object_across(draw, borders)
    coverage = shape_coverage(shape, x, y, radius) * spread(prompted)
    colour = _draw_colours(draw, background, coverage)
    target = blend(background, coverage, COLOUR_VALUES[colour])
    rows = zip(prompted.tolist(), colour.tolist(), shape.tolist(), strict=True)
    names = [f"a {COLOUR_NAMES[c]} {SHAPE_NAMES[s]}" if p else EXTEND_PROMPT for p, c, s in rows]
    return Conditions(
        task=torch.full((draw.count,), TASKS.index("extend")),
        source=target,
        mask=mask,
        target=target,
        background=background,
        coverage=coverage,
        object_colour=COLOUR_VALUES[colour] * prompted[:, None],
        shape=torch.where(prompted, shape, -1),
        placement=torch.stack([x, y, radius], 1) * prompted[:, None],
        letters=torch.full((draw.count, 4), -1),
        box=torch.zeros(draw.count, 4, dtype=torch.long),
        prompts=names,
    )


_COMPOSERS = (_compose_fill, _compose_extend, _compose_remove, _compose_text)
