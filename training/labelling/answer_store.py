"""What people and judges have said about the candidates of a folder, read and written by the line.

A finished comparison of a person is a pair in ``metadata.jsonl``, ``judged_by`` ``human:<name>``.
Every key that a person presses is a line of his own ``labels/<name>.jsonl``, in the format of
``labels.jsonl`` and with the group's id: 1 for the best candidate, 0 for the worst, null for what
is not said yet, the same number for all that hardly differ::

    {"condition": "kite", "made_by": "9f", "labeller": "human:Ada", "group": "5d0c...",
     "scores": {"structure": [null, 1.0, null]}}
    {"condition": "kite", "made_by": "9f", "labeller": "human:Ada", "group": "5d0c...",
     "scores": {"structure": [0.0, 1.0, 0.5]}}

Undo removes the last of these lines and the pair that came with it. Several processes may read and
write at once: what others append is read by the line, and a lock is held for every change.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...fill.io.json_text import label_of, parse_object, quote, shorten
from ...fill.io.names import check_name
from ...fill.io.writing import append_line, atomic_file, drop_torn_line, explained, make_folder
from ...fill.json_config import make_record
from ...fill.task import Dimension, Task, dimensions_for
from ...reward.pairs_lock import pairs_lock
from ...reward.preference import GROUPS, PAIRS, CandidateGroup, PreferenceSet
from ..data.label import LABELS, LabelLine
from ..data.ranking import make_pair
from .agreement import LabelAnswer, mean_doubt
from .growing_file import GrowingFile

HUMAN, JUDGE = "human:", "judge:"
"""Begin ``judged_by`` of people and of judges."""
PEOPLE = "labels"
"""The folder with a file per person."""
Cell = tuple[str, Dimension]
"""A question: the id of a group, and the dimension."""


class AnswerStore:
    """All groups of a folder and all answers to them. Not for several threads at once.

    Example: ``store = AnswerStore(folder); store.refresh(); store.answer("human:Ada", cell)``.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of preference data; what is in it is read by :meth:`refresh`."""
        self.data = PreferenceSet(folder)
        self.dimensions: dict[str, tuple[Dimension, ...]] = {}
        """Of every group that can be compared, in the file's order: what it is judged on."""
        self.complete: defaultdict[str, set[Cell]] = defaultdict(set)
        """By labeller: what he has answered in full."""
        self.version = 0
        """Grows whenever groups, or a judge's labels, have changed."""
        self.changes: list[tuple[str, Cell]] = []
        """By whom, and to what, every answer was that has come or gone so far."""
        self.pairs: defaultdict[str, dict[Cell, LabelAnswer]] = defaultdict(dict)
        """By labeller: answers with a best and a worst candidate."""
        self._groups: dict[str, dict[str, Any]] = {}
        self._ids: dict[tuple[str, str], str] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._keys: defaultdict[str, list[tuple[Cell, LabelAnswer]]] = defaultdict(list)
        self._by_cell: defaultdict[str, defaultdict[Cell, list[LabelAnswer]]]
        self._by_cell = defaultdict(partial(defaultdict, list))
        self._chances: dict[str, dict[Dimension, float]] = {}
        self._has_strangers = False
        """Whether there are pairs of images that are in no group, or not yet."""
        self._pair_chances: defaultdict[str, dict[Dimension, float]] = defaultdict(dict)
        self._files = {name: GrowingFile(folder / name) for name in (GROUPS, LABELS, PAIRS)}
        self._people: dict[str, GrowingFile] = {}

    # --- reading ---------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read what has been written since; ValueError for a damaged line, with file and number."""
        num_groups = len(self._groups)
        if self._read(GROUPS, self._clear_groups, self._take_group):  # what names groups, again
            for file in (self._files[LABELS], self._files[PAIRS], *self._people.values()):
                file.start_again()
        elif self._has_strangers and len(self._groups) > num_groups:
            self._files[PAIRS].start_again()
        self._read(LABELS, self._chances.clear, self._take_scores)
        # Those whose file has gone, too: their answers went with it.
        for labeller in sorted({HUMAN + name for name in self._list_people()} | set(self._people)):
            self._read_person(labeller)
        self._read(PAIRS, self._clear_pairs, self._take_pair)

    def answer(self, labeller: str, cell: Cell) -> LabelAnswer | None:
        """Return what somebody has said so far, if anything."""
        if pair := self.pairs[labeller].get(cell):
            return pair
        keys = self._by_cell[labeller].get(cell)
        # A finished answer whose pair has been removed since is none.
        return keys[-1] if keys and keys[-1].ends is None else None

    def group(self, group_id: str) -> CandidateGroup:
        """Return a group; ValueError if there is none of this id."""
        if group_id not in self._groups:
            raise ValueError(
                f"there is no group {quote(group_id)} in {label_of(self.data.folder)}; reload"
            )
        values = {k: v for k, v in self._groups[group_id].items() if v is not None}
        return make_record(CandidateGroup, values, ignores_unknown=True)

    def num_candidates(self, group_id: str) -> int:
        """Return how many candidates a group has; 0 if there is no such group."""
        return len(self._groups.get(group_id, {}).get("file_names", ()))

    def doubts(self) -> dict[str, float]:
        """Return the judge's doubt of each group that it has labelled, 0..1."""
        chances = {**self._pair_chances, **self._chances}
        return {name: mean_doubt(list(c.values())) for name, c in chances.items() if c}

    # --- writing ---------------------------------------------------------------------------------

    @contextmanager
    def change(self, name: str) -> Iterator[None]:
        """Keep all others from changing answers, and know all of them, before a person's key.

        Raises:
            ValueError: The name is no plain name.
        """
        check_name(name, "your name")
        with pairs_lock(self.data.folder):
            for path in (self.data.folder / PAIRS, self._path_of(name)):
                drop_torn_line(path)
            self.refresh()
            # A stop between key and pair leaves a key that answers nothing.
            labeller = HUMAN + name
            while self._keys[labeller] and self._is_void(labeller, *self._keys[labeller][-1]):
                self._remove_key(labeller)
            yield

    def _path_of(self, name: str) -> Path:
        return self.data.folder / PEOPLE / f"{name}.jsonl"

    def add(self, name: str, cell: Cell, answer: LabelAnswer) -> None:
        """Write what a person says, as one key; within :meth:`change`.

        Raises:
            WriteError: The disk is full, or the like; then nothing has been written.
        """
        labeller, group, path = HUMAN + name, self.group(cell[0]), self._path_of(name)
        values = {"condition": group.condition, "made_by": group.made_by, "labeller": labeller}
        scores = {cell[1].value: _to_scores(answer, len(group.file_names))}
        line = json.dumps(values | {"group": cell[0], "scores": scores}, ensure_ascii=False)
        make_folder(path.parent)
        append_line(path, line)
        self.refresh()
        try:
            if answer.ends:
                self.data.add(make_pair(group, cell[1], answer.ends, labeller))
        finally:
            self.refresh()
            if self._is_void(labeller, cell, answer):
                self._remove_key(labeller)

    def remove_last(self, name: str) -> Cell | None:
        """Take back a person's last key, and return which question it was for; within a change.

        Nothing is taken back where there is none: None.
        """
        labeller = HUMAN + name
        if not self._keys[labeller]:
            return None
        cell, answer = self._keys[labeller][-1]
        if answer.ends and self.pairs[labeller].get(cell) == answer:
            names = self.group(cell[0]).file_names
            best, worst = (names[index] for index in answer.ends)
            values = {"winner_file_name": best, "loser_file_name": worst}
            values |= {"dimension": cell[1].value, "judged_by": labeller}
            _remove_line(self._files[PAIRS], values)
            del self.pairs[labeller][cell]
        self._remove_key(labeller)
        self.refresh()
        return cell

    def _is_void(self, labeller: str, cell: Cell, answer: LabelAnswer) -> bool:
        """Whether an answer has lost its pair."""
        return bool(answer.ends) and cell not in self.pairs[labeller]

    def _remove_key(self, labeller: str) -> None:
        cell, _ = self._keys[labeller][-1]
        _remove_line(self._people[labeller], {"labeller": labeller, "group": cell[0]})
        self._keys[labeller].pop()
        self._by_cell[labeller][cell].pop()
        self._note(labeller, cell)

    # --- lines of the files ----------------------------------------------------------------------

    def _read(self, name: str, clear: Any, take: Any) -> bool:
        """Take in what is new in a file; return whether it was read from its start."""
        begins_anew, records = self._files[name].news()
        if begins_anew:
            clear()
        _take_all(self._files[name], records, take)
        if records and name != PAIRS:
            self.version += 1
        return begins_anew and bool(records)

    def _list_people(self) -> list[str]:
        folder = self.data.folder / PEOPLE
        try:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
        except OSError as error:
            raise OSError(f"{label_of(folder)} cannot be read ({error.strerror})") from error
        return [name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")]

    def _read_person(self, labeller: str) -> None:
        if labeller not in self._people:
            path = self.data.folder / PEOPLE / f"{labeller.removeprefix(HUMAN)}.jsonl"
            self._people[labeller] = GrowingFile(path)
        begins_anew, records = self._people[labeller].news()
        if begins_anew:
            touched = list(self._by_cell.pop(labeller, ()))
            self._keys.pop(labeller, None)
            for cell in touched:
                self._note(labeller, cell)
        _take_all(self._people[labeller], records, lambda values: self._take_key(values, labeller))

    def _clear_groups(self) -> None:
        for index in (self._groups, self._ids, self._places, self.dimensions):
            index.clear()

    def _clear_pairs(self) -> None:
        before = {labeller: list(cells) for labeller, cells in self.pairs.items()}
        self.pairs.clear()
        self._pair_chances.clear()
        for labeller, cells in before.items():
            for cell in cells:
                self._note(labeller, cell)

    def _take_group(self, values: dict[str, Any]) -> None:
        names, prompt = values.get("file_names"), values.get("prompt", "")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"file_names of a group are {quote(names)}, but texts are expected")
        group_id = _id_of(names)
        self._groups[group_id] = values
        key = (str(values.get("condition")), str(values.get("made_by", "")))
        self._ids.setdefault(key, group_id)
        if len(names) < 2:
            return
        self.dimensions[group_id] = dimensions_for(Task(values.get("task")), str(prompt))
        for index, name in enumerate(names):
            self._places[name] = (group_id, index)

    def _take_pair(self, values: dict[str, Any]) -> None:
        best = self._places.get(values.get("winner_file_name", ""))
        worst = self._places.get(values.get("loser_file_name", ""))
        if best is None or worst is None or best[0] != worst[0]:  # imported, or removed since
            self._has_strangers = True
            return
        labeller, confidence = str(values.get("judged_by", "")), values.get("confidence", 1.0)
        cell = (best[0], Dimension(values.get("dimension")))
        self.pairs[labeller][cell] = LabelAnswer(best[1], worst[1], confidence)
        if labeller.startswith(JUDGE):
            self._pair_chances[cell[0]][cell[1]] = float(confidence)
            self.version += 1
        self._note(labeller, cell)

    def _take_key(self, values: dict[str, Any], labeller: str) -> None:
        group_id, scores_of = values.get("group"), values.get("scores")
        if values.get("labeller") != labeller or group_id not in self._groups:
            return
        if not isinstance(scores_of, dict) or not all(
            isinstance(v, list) for v in scores_of.values()
        ):
            raise ValueError(f"scores are {quote(scores_of)}, but a list per dimension is expected")
        for name, scores in scores_of.items():
            cell, answer = (group_id, Dimension(name)), _from_scores(scores)
            self._keys[labeller].append((cell, answer))
            self._by_cell[labeller][cell].append(answer)
            self._note(labeller, cell)

    def _take_scores(self, values: dict[str, Any]) -> None:
        line = make_record(LabelLine, values, ignores_unknown=True)
        group_id = self._ids.get((line.condition, line.made_by))
        if group_id is None or line.labeller.startswith(("metrics|", HUMAN)):
            return
        candidate_scores = line.candidate_scores()
        for dimension, scores in candidate_scores.scores.items():
            if scores and math.isfinite(sum(scores)):
                best, worst = scores.index(max(scores)), scores.index(min(scores))
                chance = candidate_scores.wins.get((dimension, best, worst))
                if chance is None:
                    chance = 0.5 + (scores[best] - scores[worst]) / 2
                self._chances.setdefault(group_id, {})[dimension] = chance

    def _note(self, labeller: str, cell: Cell) -> None:
        answer = self.answer(labeller, cell)
        self.changes.append((labeller, cell))
        is_asked = cell[1] in self.dimensions.get(cell[0], ())
        if answer and answer.is_complete and is_asked:
            self.complete[labeller].add(cell)
        else:
            self.complete[labeller].discard(cell)


def _take_all(file: GrowingFile, records: list[dict[str, Any]], take: Any) -> None:
    """Take in records; a damaged one is an error (ValueError) at every reading."""
    try:
        for values in records:
            take(values)
    except (ValueError, TypeError) as error:
        file.start_again()
        label = label_of(file.path)
        raise ValueError(shorten(f"{label} holds a damaged line: {error}")) from error


def _id_of(names: Sequence[str]) -> str:
    """Return a group's id: by its candidates, so that it stays wherever its line stands."""
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


def _to_scores(answer: LabelAnswer, num: int) -> list[float | None]:
    if answer.ends is None and answer.is_complete:
        return [0.5] * num
    scores: list[float | None] = [0.5 if answer.is_complete else None] * num
    for index, score in ((answer.best, 1.0), (answer.worst, 0.0)):
        if index is not None:
            scores[index] = score
    return scores


def _from_scores(scores: Sequence[float | None]) -> LabelAnswer:
    """Read a line of a person's; ValueError for what no key writes."""
    if 1.0 not in scores:
        return LabelAnswer()
    best = scores.index(1.0)
    return LabelAnswer(best, None if None in scores else scores.index(0.0))


def _remove_line(file: GrowingFile, values: Mapping[str, str]) -> None:
    """Remove the last line of a file that holds these values, and nothing else."""
    data = file.path.read_bytes()
    end = len(data)
    while end > 0:
        start = data.rfind(b"\n", 0, end - 1) + 1
        line = data[start:end]
        if line.strip() and values.items() <= parse_object(line.decode("utf-8-sig")).items():
            break
        end = start
    else:
        raise ValueError(shorten(f"{label_of(file.path)} has been changed meanwhile; reload"))
    if end == len(data):  # at once: a file's length changes in one step
        with explained(file.path), file.path.open("r+b") as opened:
            opened.truncate(start)
            os.fsync(opened.fileno())
        file.cut(end - start)
        return
    with atomic_file(file.path) as temporary:
        temporary.write_bytes(data[:start] + data[end:])
