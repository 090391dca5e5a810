"""A person at the questions of one folder: what comes next, what a key does, what it shows.

Nothing is kept here that is not in the folder's files, so that any number of pages, people and
servers may come and go. All calls return plain JSON values.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...fill.io.json_text import label_of, quote, shorten
from ...fill.io.names import check_name
from .agreement import AgreementTable, LabelAnswer, verdicts
from .answer_store import HUMAN, AnswerStore, Cell
from .questions import BEST, WORST

STAGES = ("best", "worst")
TIE, REPEAT = "tie", "repeat"
"""Choices besides a candidate's index."""
IMAGES = ("source", "mask")
SHOWN_ENDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Of files that every browser shows and none runs."""


class LabelSession:
    """One folder for all its people; safe for several threads.

    Example: ``LabelSession(folder).view("Ada")["question"]["sentence"]``.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder; nothing is read yet."""
        self.folder = folder
        self._store = AnswerStore(folder)
        self._lock = threading.Lock()
        self._order: tuple[Any, list[str]] = (None, [])
        self._agreements: dict[str, _Tables] = {}

    def progress(self, name: str) -> dict[str, int]:
        """Return how many questions there are, and how many a person has answered."""
        with self._lock:
            self._store.refresh()
            return self._progress(name)

    def view(self, name: str, *, is_active: bool = True, place: str = "") -> dict[str, Any]:
        """Return the open question at a place (``group:dimension``), or else the next one.

        Args:
            name: The person's.
            is_active: Whether what a judge doubts most comes first.
            place: What the page showed last.

        Raises:
            ValueError: The name is no plain name, or a file is damaged.
        """
        check_name(name, "your name")
        with self._lock:
            self._store.refresh()
            return self._view(name, is_active, place)

    def answer(
        self, name: str, key: Mapping[str, Any], *, is_active: bool = True
    ) -> dict[str, Any]:
        """Write what a key says, and return the next view; its ``after`` shows what others say.

        A key for a question that has been answered meanwhile, in another tab, changes nothing.

        Args:
            name: The person's.
            key: ``group``, ``dimension``, ``stage`` ("best" or "worst") as the view had them, and
                ``choice``: a candidate's index, "tie", or "repeat" for the answer that the person
                has given to the same candidates in another dimension.
            is_active: As for :meth:`view`.

        Raises:
            ValueError: The name or the key is none.
            WriteError: It cannot be written.
        """
        with self._lock, self._store.change(name):
            cell = self._cell(key.get("group"), key.get("dimension"))
            stage = self._stage(name, cell)
            if stage is None or stage != key.get("stage"):
                view = self._view(name, is_active, _place(cell))
                return view | {"note": "this was answered in another tab"}
            answer = self._new_answer(name, cell, stage, key.get("choice"))
            self._store.add(name, cell, answer)
            view = self._view(name, is_active, _place(cell))
            return view | {"after": self._others(name, cell) if answer.is_complete else []}

    def undo(self, name: str, *, is_active: bool = True) -> dict[str, Any]:
        """Take back a person's last key, and return the view of that question."""
        with self._lock, self._store.change(name):
            cell = self._store.remove_last(name)
            view = self._view(name, is_active, _place(cell) if cell else "")
            return view if cell else view | {"note": "there is nothing to undo"}

    def image(self, group_id: str, image: str) -> Path:
        """Return the file of a candidate, by its index, or of ``source`` or ``mask``.

        Raises:
            ValueError: There is no such image, or it is outside the folder or no picture.
            FileNotFoundError: The file has been deleted.
        """
        with self._lock:
            if not self._store.dimensions:
                self._store.refresh()
            group = self._store.group(group_id)
        names = dict(zip(IMAGES, (group.source_file_name, group.mask_file_name), strict=True))
        names |= {str(index): name for index, name in enumerate(group.file_names)}
        return self._path(names.get(image, ""), image)

    # --- what comes next -------------------------------------------------------------------------

    def _view(self, name: str, is_active: bool, place: str) -> dict[str, Any]:
        cell, num_skipped = self._next_cell(name, is_active, place)
        note = ""
        if num_skipped:
            note = f"{num_skipped} groups are left out: images are missing or cannot be shown"
        return {
            "name": name,
            "folder": self.folder.name,
            "question": self._question(name, cell, is_active) if cell else None,
            "progress": self._progress(name),
            "agreement": self._agreement(name),
            "note": note,
        }

    def _progress(self, name: str) -> dict[str, int]:
        dimensions = self._store.dimensions
        return {
            "answered": len(self._store.complete[HUMAN + name]),
            "questions": sum(map(len, dimensions.values())),
            "groups": len(dimensions),
        }

    def _ordered(self, is_active: bool) -> list[str]:
        """Return the groups' ids, what a judge doubts most first, then those without its labels."""
        stamp = (self._store.version, is_active)
        if self._order[0] != stamp:
            ids = list(self._store.dimensions)
            if is_active:
                doubts = self._store.doubts()
                ids.sort(key=lambda group_id: -doubts.get(group_id, -1.0))
            self._order = (stamp, ids)
        return self._order[1]

    def _next_cell(self, name: str, is_active: bool, place: str) -> tuple[Cell | None, int]:
        """Return the next open question, and how many groups before it cannot be asked."""
        group_id, _, dimension = place.partition(":")
        here = self._store.dimensions.get(group_id, ())
        # The same question, then the same group's others, then groups in order.
        first = [d for d in here if d.value == dimension]
        if here and self._is_usable(group_id):
            for cell in ((group_id, d) for d in (*first, *here)):
                if self._stage(name, cell):
                    return cell, 0
        num_skipped = 0
        for cell in self._open_cells(name, is_active):
            if self._is_usable(cell[0]):
                return cell, num_skipped
            num_skipped += 1
        return None, num_skipped

    def _open_cells(self, name: str, is_active: bool) -> Iterator[Cell]:
        """Yield the first open question of every group that has one."""
        complete, dimensions = self._store.complete[HUMAN + name], self._store.dimensions
        for group_id in self._ordered(is_active):
            for dimension in dimensions[group_id]:
                if (group_id, dimension) not in complete:
                    yield group_id, dimension
                    break

    def _is_usable(self, group_id: str) -> bool:
        """Whether all candidates are there and can be shown."""
        try:
            group = self._store.group(group_id)
            return all(self._path(name, name) for name in group.file_names)
        except (ValueError, OSError):
            return False

    def _path(self, name: str, image: str) -> Path:
        path = self._store.data.image(name) if name else self.folder
        if not name or path.suffix.lower() not in SHOWN_ENDS:
            raise ValueError(f"there is no image {quote(image)} to show")
        if not path.is_file():
            raise FileNotFoundError(f"{label_of(path)} is missing")
        return path

    # --- one question ----------------------------------------------------------------------------

    def _question(self, name: str, cell: Cell, is_active: bool) -> dict[str, Any]:
        group_id, dimension = cell
        group, stage = self._store.group(group_id), self._stage(name, cell)
        so_far = self._store.answer(HUMAN + name, cell)
        later = (c[0] for c in self._open_cells(name, is_active) if c[0] != group_id)
        upcoming = next(later, "")
        sentence = (BEST if stage == STAGES[0] else WORST)[dimension]
        complete = self._store.complete[HUMAN + name]
        return {
            "group": group_id,
            "dimension": dimension.value,
            "stage": stage,
            "sentence": sentence,
            "task": group.task.value,
            "prompt": group.prompt,
            "candidates": _shuffled(name, group_id, len(group.file_names)),
            "best": so_far.best if so_far else None,
            "has_source": self._is_there(group.source_file_name),
            "has_mask": self._is_there(group.mask_file_name),
            "dimensions": [
                {"name": d.value, "answered": (group_id, d) in complete}
                for d in self._store.dimensions[group_id]
            ],
            "can_repeat": self._repeated(name, cell) is not None,
            "upcoming": {"group": upcoming, "candidates": self._store.num_candidates(upcoming)},
        }

    def _is_there(self, name: str) -> bool:
        try:
            return bool(self._path(name, name))
        except (ValueError, OSError):
            return False

    def _cell(self, group_id: Any, dimension: Any) -> Cell:
        """Return a question of the page's; ValueError if there is none."""
        dimensions = self._store.dimensions.get(group_id, ()) if isinstance(group_id, str) else ()
        for judged_dimension in dimensions:
            if judged_dimension.value == dimension:
                return str(group_id), judged_dimension
        raise ValueError(f"there is no question {quote(dimension)} about this group; reload")

    def _stage(self, name: str, cell: Cell) -> str | None:
        """Return what is asked next of a question; None: nothing."""
        answer = self._store.answer(HUMAN + name, cell)
        if answer is None:
            return STAGES[0]
        return None if answer.is_complete else STAGES[1]

    def _new_answer(self, name: str, cell: Cell, stage: str, choice: Any) -> LabelAnswer:
        num = self._store.num_candidates(cell[0])
        if choice == TIE:
            return LabelAnswer()
        if choice == REPEAT:
            repeated = self._repeated(name, cell)
            if repeated is None:
                raise ValueError("there is no answer to these candidates yet that can be repeated")
            return repeated
        if type(choice) is not int or not 0 <= choice < num:
            raise ValueError(shorten(f"choice is {quote(choice)}, but a candidate is expected"))
        if stage == STAGES[0]:
            return LabelAnswer(choice, 1 - choice if num == 2 else None)
        best = self._store.answer(HUMAN + name, cell)
        if best is None or best.best == choice:
            raise ValueError("the best candidate cannot be the worst one; choose another")
        return LabelAnswer(best.best, choice)

    def _repeated(self, name: str, cell: Cell) -> LabelAnswer | None:
        """Return the person's answer to the same candidates in the dimension before, if any."""
        dimensions = self._store.dimensions[cell[0]]
        index = dimensions.index(cell[1])
        for dimension in (*reversed(dimensions[:index]), *dimensions[index + 1 :]):
            answer = self._store.answer(HUMAN + name, (cell[0], dimension))
            if answer and answer.is_complete:
                return LabelAnswer(answer.best, answer.worst)
        return None

    # --- what others say -------------------------------------------------------------------------

    def _others(self, name: str, cell: Cell) -> list[dict[str, Any]]:
        """Return what all others say about a question that the person has answered."""
        own_answer = self._store.answer(HUMAN + name, cell)
        rows = []
        for labeller in sorted(self._store.complete):
            answer = self._store.answer(labeller, cell)
            if (
                labeller == HUMAN + name
                or own_answer is None
                or answer is None
                or not answer.is_complete
            ):
                continue
            says = verdicts(own_answer, answer, counts_ties=True)
            agrees = says[0] == says[1] if says else None
            row = {"labeller": labeller, "best": answer.best, "worst": answer.worst}
            rows.append(row | {"confidence": answer.confidence, "agrees": agrees})
        return rows

    def _agreement(self, name: str) -> list[dict[str, Any]]:
        """Return the agreement with every other labeller, in all and per dimension."""
        tables = self._agreements.setdefault(name, _Tables())
        labeller, changes = HUMAN + name, self._store.changes
        # Only what has changed since this person's last key is looked at.
        touched = {(who, cell) for who, cell in changes[tables.num_changes :] if who != labeller}
        own_cells = {cell for who, cell in changes[tables.num_changes :] if who == labeller}
        touched |= {
            (who, cell) for cell in own_cells for who in self._store.complete if who != labeller
        }
        tables.num_changes = len(changes)
        for who, cell in touched:
            tables.by_other[who].put(cell, self._item(labeller, who, cell))
        rows = []
        for who, table in sorted(tables.by_other.items()):
            total, dimensions = table.totals()
            if total:
                row = {"labeller": who, "all": asdict(total)}
                rows.append(
                    row | {"dimensions": {d.value: asdict(r) for d, r in dimensions.items()}}
                )
        return rows

    def _item(self, labeller: str, other_labeller: str, cell: Cell) -> tuple[int, int] | None:
        first, second = self._store.answer(labeller, cell), self._store.answer(other_labeller, cell)
        is_asked = cell[1] in self._store.dimensions.get(cell[0], ())
        if not (is_asked and first and second and first.is_complete and second.is_complete):
            return None
        return verdicts(first, second, counts_ties=other_labeller.startswith(HUMAN))


@dataclass(slots=True)
class _Tables:
    """A person's agreement with all others. Example: ``_Tables().by_other["judge:big"]``."""

    by_other: defaultdict[str, AgreementTable] = field(
        default_factory=lambda: defaultdict(AgreementTable)
    )
    num_changes: int = 0
    """Changes of the store that are counted in."""


def _place(cell: Cell) -> str:
    return f"{cell[0]}:{cell[1].value}"


def _shuffled(name: str, group_id: str, num: int) -> list[int]:
    """Return the candidates in an order of its own for each person and group, always the same."""

    def position(index: int) -> bytes:
        return hashlib.blake2b(f"{name}|{group_id}|{index}".encode(), digest_size=8).digest()

    return sorted(range(num), key=position)
