"""Preference data: a folder of images with JSON lines, an image folder for ``datasets``.

``metadata.jsonl`` holds pairs, one per line (here broken; file names are relative to the folder)::

    {"winner_file_name": "images/kite/0.png", "loser_file_name": "images/kite/1.png",
     "task": "fill", "dimension": "text_alignment", "condition": "kite", "source_file_name":
     "images/kite/source.png", "mask_file_name": "images/kite/mask.png", "prompt": "a red kite",
     "judged_by": "human", "confidence": 1.0, "settings": {}}

``candidates.jsonl`` holds groups, labelled or not::

    {"file_names": ["images/kite/0.png", "images/kite/1.png"], "task": "fill", "condition": "kite",
     "source_file_name": "images/kite/source.png", "mask_file_name": "images/kite/mask.png",
     "prompt": "a red kite", "settings": [{"steps": 28, "seed": 1}, {"steps": 28, "seed": 2}],
     "made_by": "631bd16483d5b43a"}

Lines are appended and flushed one by one, so a crash loses at most the line being written; a torn
last line is dropped when the folder is opened. Source: OneReward, sec. 4.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..fill.io.folder_lock import FolderInUse, folder_lock
from ..fill.io.json_text import label_of, quote, read_records, read_text
from ..fill.io.names import check_file_name
from ..fill.io.writing import append_line, drop_torn_line, make_folder, torn_line, write_text
from ..fill.json_config import make_record
from ..fill.task import TASKS, Dimension, Task
from .pairs_lock import pairs_lock, remove_left_lock

PAIRS = "metadata.jsonl"
GROUPS = "candidates.jsonl"
SPLITS = ("train", "dev", "test")
T = TypeVar("T", bound="Preference | CandidateGroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One image is better than another in one dimension. Example: ``metadata.jsonl`` above."""

    winner_file_name: str
    loser_file_name: str
    task: Task
    dimension: Dimension
    condition: str
    """What the pair was made from; pairs of one condition never fall into different splits."""
    source_file_name: str = ""
    mask_file_name: str = ""
    prompt: str = ""
    judged_by: str = ""
    """``judge:<name>``, ``oracle``, ``metric:<name>`` or ``human``."""
    confidence: float = 1.0
    """How sure, 0.5..1."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How the two were made: ``{"winner": ..., "loser": ...}``."""

    def __post_init__(self) -> None:
        """Refuse what can't be a preference."""
        if self.winner_file_name == self.loser_file_name:
            raise ValueError(f"{quote(self.winner_file_name)} cannot be better than itself")
        if self.dimension not in TASKS[self.task].dimensions:
            raise ValueError(f"{self.task.value} is not judged on {self.dimension.value}")
        if not 0.5 <= self.confidence <= 1.0:
            raise ValueError(f"confidence is {self.confidence}, but 0.5 to 1 is expected")
        _check_names(self)

    @property
    def comparison(self) -> tuple[frozenset[str], Dimension, str]:
        """What was compared, in what, and who did, whoever won."""
        names = frozenset((self.winner_file_name, self.loser_file_name))
        return names, self.dimension, self.judged_by


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateGroup:
    """One model's candidates for one condition. Example: ``candidates.jsonl`` above."""

    file_names: tuple[str, ...]
    task: Task
    condition: str
    source_file_name: str = ""
    mask_file_name: str = ""
    prompt: str = ""
    settings: tuple[Mapping[str, Any], ...] = ()
    """How each was made, seed included; one per file."""
    made_by: str = ""
    """Fingerprint of the model that made them; empty: unknown."""

    def __post_init__(self) -> None:
        """Refuse settings that do not belong to the files."""
        if self.settings and len(self.settings) != len(self.file_names):
            raise ValueError(
                f"{len(self.settings)} settings for {len(self.file_names)} candidates; one each is "
                "expected"
            )
        _check_names(self)


class PreferenceSet:
    """A folder of preference data. Example: ``PreferenceSet(Path('preferences')).pairs()``."""

    def __init__(self, folder: Path) -> None:
        """Open or create the folder and repair what a crash left behind.

        A line that another process is just writing is none.
        """
        self.folder = folder
        make_folder(folder)
        remove_left_lock(folder)
        paths = [folder / name for name in (PAIRS, GROUPS) if torn_line(folder / name)]
        if paths:
            with suppress(FolderInUse), folder_lock(folder):
                for path in paths:
                    drop_torn_line(path)

    def add(self, preference: Preference) -> None:
        """Append a pair; it is on the disk when this returns."""
        with pairs_lock(self.folder):
            append_line(self.folder / PAIRS, to_line(preference))

    def add_group(self, group: CandidateGroup) -> None:
        """Append a candidate group; it is on the disk when this returns."""
        append_line(self.folder / GROUPS, to_line(group))

    def replace_pairs(self, pairs: Iterable[Preference]) -> None:
        """Replace all pairs by these, at once; the same ones change no file.

        Who has read them before holds the :func:`pairs_lock` from then on.
        """
        path, text = self.folder / PAIRS, "".join(to_line(p) + "\n" for p in pairs)
        if path.exists() and read_text(path) == text:
            return
        write_text(path, text)

    def pairs(self) -> list[Preference]:
        """Return all pairs.

        Raises:
            ValueError: A line is no preference; names file and line.
        """
        return read_records(self.folder / PAIRS, partial(_from_json, Preference))

    def groups(self) -> list[CandidateGroup]:
        """Return all candidate groups; ValueError as for :meth:`pairs`."""
        return read_records(self.folder / GROUPS, partial(_from_json, CandidateGroup))

    def image(self, name: str) -> Path:
        """Return the path of an image; ValueError if the name leaves the folder."""
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ValueError(
                f"{quote(name)} leaves the folder {label_of(self.folder)}; do not use this data"
            )
        return path


def split_of(condition: str, shares: tuple[float, float] = (0.1, 0.1)) -> str:
    """Return ``train``, ``dev`` or ``test`` for a condition: by its name, the same for ever.

    Args:
        condition: The condition's name.
        shares: Share of dev and of test.
    """
    digest = hashlib.blake2b(condition.encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    dev, test = shares
    if position < dev:
        return "dev"
    return "test" if position < dev + test else "train"


def by_split(pairs: Iterable[Preference]) -> dict[str, list[Preference]]:
    """Sort pairs into the three splits."""
    splits: dict[str, list[Preference]] = {name: [] for name in SPLITS}
    for pair in pairs:
        splits[split_of(pair.condition)].append(pair)
    return splits


def _check_names(record: Preference | CandidateGroup) -> None:
    if isinstance(record, Preference):
        names = [record.winner_file_name, record.loser_file_name]
    else:
        names = list(record.file_names)
    if not all(names):
        raise ValueError("an image has no file name")
    for name in [*names, record.source_file_name, record.mask_file_name]:
        if name:
            check_file_name(name, "an image's file")


def to_line(record: Preference | CandidateGroup) -> str:
    """Return a record as its line of JSON."""
    values = asdict(record)
    for name in ("source_file_name", "mask_file_name"):
        # ``datasets`` takes null for "no image", and "" for the folder itself.
        values[name] = values[name] or None
    values["task"] = record.task.value
    if isinstance(record, Preference):
        values["dimension"] = record.dimension.value
    return json.dumps(values, ensure_ascii=False)


def _from_json(cls: type[T], values: dict[str, Any]) -> T:
    """Make a record; what a later version knows beyond it is passed over."""
    for name in ("source_file_name", "mask_file_name"):
        values[name] = "" if values.get(name) is None else values[name]
    return make_record(cls, values, ignores_unknown=True)
