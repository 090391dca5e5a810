"""VQA data of stage 1: questions about procedural images with one-token answers."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...world.artifacts import inject_artifact
from ...world.cell_labels import CELL, label_cells
from ...world.cell_labels import LABEL_NAMES as WORLD_LABEL_NAMES
from ...world.cell_labels import LABEL_SIZES as WORLD_LABEL_SIZES
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
_ARTIFACTS = ("blur", "noise", "lattice", "seam", "tone_shift")
"""Artifacts that are visible without knowing the truth."""
_ARTIFACT_SHARE = 0.5
_ROUND = ("colour", "shape", "letter", "clean", "letter", "clean")
"""Kinds of questions in turn; what is learned slowly is asked more often."""
_FILL, _TEXT = 0, 3
_MIN_DAMAGE = 0.01
"""Mean difference from the truth from which a cell counts as damaged."""
LABEL_NAMES = (*WORLD_LABEL_NAMES, "artifact")
"""The labels of a cell."""
LABEL_SIZES = (*WORLD_LABEL_SIZES, 1 + len(_ARTIFACTS))
"""Number of classes of each label; class 0 is none."""


@dataclass(frozen=True, slots=True)
class VqaQuestion:
    """One question about one of two images.

    Example: ``sample_questions(batch, 8, generator)[0].answer``.
    """

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
    """Images and what is true about each.

    Example: ``sample_vqa_batch(Split.DEV, 0, 64).facts[0]``.
    """

    images: Tensor
    """Float32 `[B, 3, 64, 64]`."""
    facts: list[dict[str, str]]
    """Per image: question kind (`letter1` .. `letter4` for letters) to answer."""
    cell_labels: Tensor
    """Int64 `[B, 4, 8, 8]`: what each cell shows, see `LABEL_SIZES`."""


def sample_vqa_batch(split: Split, index: int, num: int) -> VqaBatch:
    """Draw batch `index` of a split: two thirds shapes, one third words, some with artifacts."""
    tasks = torch.tensor([_FILL, _TEXT, _FILL]).repeat(num // 3 + 1)[:num]
    conditions = sample_conditions(split, index, tasks)
    generator = torch.Generator().manual_seed(index * 4 + list(Split).index(split))
    images, artifacts = conditions.target.clone(), torch.zeros(num, dtype=torch.long)
    is_damaged = torch.rand(num, generator=generator) < _ARTIFACT_SHARE
    choice = torch.randint(len(_ARTIFACTS), (num,), generator=generator)
    for index_of_artifact, name in enumerate(_ARTIFACTS):
        results = inject_artifact(name, conditions, generator)
        rows = is_damaged & (choice == index_of_artifact) & results.applies
        images[rows], artifacts[rows] = results.images[rows], index_of_artifact + 1
    return VqaBatch(
        images=images,
        facts=_facts(conditions, artifacts > 0),
        cell_labels=_cell_labels(conditions, images, artifacts),
    )


def _cell_labels(conditions: Conditions, images: Tensor, artifacts: Tensor) -> Tensor:
    """Label every cell with what it shows."""
    is_damaged = F.avg_pool2d((images - conditions.target).abs().mean(1), CELL) > _MIN_DAMAGE
    artifact = torch.where(is_damaged, artifacts[:, None, None], 0)  # [B, 8, 8]
    return torch.cat([label_cells(conditions), artifact[:, None]], 1)


def _facts(conditions: Conditions, has_artifact: Tensor) -> list[dict[str, str]]:
    colours = torch.cdist(conditions.object_colour, COLOUR_VALUES).argmin(1).tolist()
    facts = []
    for row, shape in enumerate(conditions.shape.tolist()):
        answers = {"clean": "No" if has_artifact[row] else "Yes"}
        if shape >= 0:
            answers |= {"shape": SHAPE_NAMES[shape], "colour": COLOUR_NAMES[colours[row]]}
        for position, letter in enumerate(conditions.letters[row].tolist()):
            if letter >= 0:
                answers[f"letter{position + 1}"] = LETTERS[letter]
        facts.append(answers)
    return facts


def sample_questions(batch: VqaBatch, num: int, generator: torch.Generator) -> list[VqaQuestion]:
    """Draw questions of all kinds in turn; the image in question is first or second by chance."""
    total = len(batch.facts)
    rows_of = {kind: _rows_with(batch, kind) for kind in KINDS}
    questions = []
    for n in range(num):
        kind = _ROUND[n % len(_ROUND)]
        rows = rows_of[kind]
        if not rows:
            continue
        row = rows[_below(len(rows), generator)]
        distractor = (row + 1 + _below(total - 1, generator)) % total
        keys = _keys(batch.facts[row], kind)
        key = keys[_below(len(keys), generator)]
        questions.append(_make_question(batch, kind, key, (row, distractor), generator))
    return questions


def _make_question(
    batch: VqaBatch, kind: str, key: str, rows: tuple[int, int], generator: torch.Generator
) -> VqaQuestion:
    position = _below(2, generator)
    text = _TEXTS[kind].format(which=_WHICH[position], number=key.removeprefix("letter"))
    first, second = rows if position == 0 else rows[::-1]
    return VqaQuestion(kind, text, first, second, batch.facts[rows[0]][key])


def _rows_with(batch: VqaBatch, kind: str) -> list[int]:
    return [row for row, answers in enumerate(batch.facts) if _keys(answers, kind)]


def _keys(answers: dict[str, str], kind: str) -> list[str]:
    return [key for key in answers if key.startswith(kind)]


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
