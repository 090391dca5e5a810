"""Questions about procedural images with one-token answers: what the judge learns to see with."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...world.artifacts import inject_artifact
from ...world.cell_labels import CELL, label_cells
from ...world.cell_labels import MARK_SIZES as CELL_LABEL_SIZES
from ...world.cell_labels import MARKS as CELL_LABEL_NAMES
from ...world.conditions import Conditions, sample_conditions
from ...world.lettering import LETTERS
from ...world.shapes import COLOUR_NAMES, COLOUR_VALUES, SHAPE_NAMES
from ...world.splits import Split

KINDS = ("colour", "shape", "letter", "clean")
_TEXTS = {
    "colour": "Which colour is the {which} image's object?",
    "shape": "Which shape is the {which} image's object?",
    "letter": "Which letter is number {number} in the {which} image?",
    "clean": "Is the {which} image clean? Answer Yes or No.",
}
_WHICH = ("first", "second")
_NUMBERS = "1234"
QUESTION_WORDS = sorted(
    {
        word
        for text in _TEXTS.values()
        for which in _WHICH
        for number in _NUMBERS
        for word in text.format(which=which, number=number).replace("?", " ?").split()
    }
)
_FAULTS = ("blur", "noise", "lattice", "seam", "tone_shift")
"""Faults that show without knowing the truth."""
_FAULT_SHARE = 0.5
_ROUND = ("colour", "shape", "letter", "clean", "letter", "clean")
"""Kinds of questions in turn; what is learned slowly is asked more often."""
_FILL, _TEXT = 0, 3
_SPOILED = 0.01
"""Mean difference from the truth from which a cell counts as faulty."""
MARKS = (*CELL_LABEL_NAMES, "artifact")
"""What a cell is marked with."""
MARK_SIZES = (*CELL_LABEL_SIZES, 1 + len(_FAULTS))
"""Number of values of each mark; 0 is none."""


@dataclass(frozen=True, slots=True)
class VqaQuestion:
    """One question about one of two images."""

    kind: str
    text: str
    first: int
    """Index of the first image."""
    second: int
    """Index of the second image."""
    answer: str
    """One token."""

    def question(self) -> str:
        """Return the text of the question."""
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VqaBatch:
    """Images and what is true about each."""

    images: Tensor
    """Float32 `[B, 3, 64, 64]`."""
    facts: list[dict[str, str]]
    """Per image: question kind (`letter1` .. `letter4` for letters) to answer."""
    marks: Tensor
    """Int64 `[B, 4, 8, 8]`: what each cell shows, see `MARK_SIZES`."""


def sample_vqa_batch(split: Split, index: int, num: int) -> VqaBatch:
    """Draw batch `index` of a split: two thirds shapes, one third words, some of them faulty."""
    tasks = torch.tensor([_FILL, _TEXT, _FILL]).repeat(num // 3 + 1)[:num]
    conditions = sample_conditions(split, index, tasks)
    generator = torch.Generator().manual_seed(index * 4 + list(Split).index(split))
    images, fault_of = conditions.target.clone(), torch.zeros(num, dtype=torch.long)
    wanted = torch.rand(num, generator=generator) < _FAULT_SHARE
    choice = torch.randint(len(_FAULTS), (num,), generator=generator)
    for number, name in enumerate(_FAULTS):
        faulty = inject_artifact(name, conditions, generator)
        rows = wanted & (choice == number) & faulty.applies
        images[rows], fault_of[rows] = faulty.images[rows], number + 1
    return VqaBatch(
        images=images,
        facts=_facts(conditions, fault_of > 0),
        marks=_marks(conditions, images, fault_of),
    )


def _marks(conditions: Conditions, images: Tensor, fault_of: Tensor) -> Tensor:
    """Mark every cell with what it shows."""
    spoiled = F.avg_pool2d((images - conditions.target).abs().mean(1), CELL) > _SPOILED
    artifact = torch.where(spoiled, fault_of[:, None, None], 0)
    return torch.cat([label_cells(conditions), artifact[:, None]], 1)


def _facts(conditions: Conditions, is_faulty: Tensor) -> list[dict[str, str]]:
    colours = torch.cdist(conditions.object_colour, COLOUR_VALUES).argmin(1).tolist()
    facts = []
    for row, shape in enumerate(conditions.shape.tolist()):
        known = {"clean": "No" if is_faulty[row] else "Yes"}
        if shape >= 0:
            known |= {"shape": SHAPE_NAMES[shape], "colour": COLOUR_NAMES[colours[row]]}
        for place, letter in enumerate(conditions.letters[row].tolist()):
            if letter >= 0:
                known[f"letter{place + 1}"] = LETTERS[letter]
        facts.append(known)
    return facts


def sample_questions(batch: VqaBatch, num: int, generator: torch.Generator) -> list[VqaQuestion]:
    """Draw questions of all kinds in turn; the asked image is first or second by chance."""
    total = len(batch.facts)
    by_kind = {
        kind: [row for row, known in enumerate(batch.facts) if _keys(known, kind)] for kind in KINDS
    }
    asked = []
    for n in range(num):
        kind = _ROUND[n % len(_ROUND)]
        rows = by_kind[kind]
        if not rows:
            continue
        row = rows[_below(len(rows), generator)]
        other = (row + 1 + _below(total - 1, generator)) % total
        keys = _keys(batch.facts[row], kind)
        asked.append(_ask(batch, kind, keys[_below(len(keys), generator)], (row, other), generator))
    return asked


def _ask(
    batch: VqaBatch, kind: str, key: str, rows: tuple[int, int], generator: torch.Generator
) -> VqaQuestion:
    place = _below(2, generator)
    text = _TEXTS[kind].format(which=_WHICH[place], number=key.removeprefix("letter"))
    first, second = rows if place == 0 else rows[::-1]
    return VqaQuestion(kind, text, first, second, batch.facts[rows[0]][key])


def _keys(known: dict[str, str], kind: str) -> list[str]:
    return [key for key in known if key.startswith(kind)]


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
