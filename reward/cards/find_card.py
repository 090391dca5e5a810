"""Which card a checkpoint is asked by: its own, a bundled one that knows its name, the built-in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ...fill.io.json_text import label_of, quote, shorten
from ..judge import JudgeConfig, JudgeError
from ..vlm.adapter import NOTES
from .card_format import FILE_NAME, JudgeCard

BUILT_IN = "onereward"
"""The card of judges that are trained here, and of checkpoints that no card knows."""
FOLDER = Path(__file__).resolve().parent / "bundled"


@lru_cache(maxsize=1)
def bundled_cards() -> dict[str, JudgeCard]:
    """Return the cards that come with this package, by file name without its end."""
    return {path.stem: JudgeCard.load(path) for path in sorted(FOLDER.glob("*.json"))}


def find_card(config: JudgeConfig, folder: Path, family: str) -> JudgeCard:
    """Return the card of a checkpoint.

    Example: ``find_card(config, folder, 'qwen3_vl').reading.kind``.

    Args:
        config: Its ``card`` names one; empty: that beside the adapter or the checkpoint, else a
            bundled one that knows the name of their folders, else the built-in one.
        folder: Of the checkpoint.
        family: Its ``model_type``.

    Raises:
        FileNotFoundError: The card that is named is not there.
        ValueError: A card cannot be used.
        JudgeError: It is for other models.
    """
    folders = [Path(config.adapter), folder] if config.adapter else [folder]
    path = _named(config.card) or next(
        (f / FILE_NAME for f in folders if (f / FILE_NAME).exists()), None
    )
    card = JudgeCard.load(path) if path else _recognised(folders)
    if card.families and family not in card.families:
        raise JudgeError(
            shorten(
                f"card {quote(card.name)} is for {' or '.join(card.families)}, but "
                f"{label_of(folder)} is {family}; put a {FILE_NAME} for it into that folder"
            )
        )
    return card


def is_built_in(card: JudgeCard) -> bool:
    """Whether a card is that of the built-in question. Example: ``is_built_in(card)``."""
    return card == bundled_cards()[BUILT_IN]


def _named(name: str) -> Path | None:
    if not name:
        return None
    if name in bundled_cards():
        return FOLDER / f"{name}.json"
    if Path(name).suffix != ".json":
        raise FileNotFoundError(
            f"there is no card {quote(name)}; name a .json file, or one of: "
            + ", ".join(bundled_cards())
        )
    return Path(name)


def card_of(name: str, model_names: Sequence[str]) -> JudgeCard:
    """Return the card that is named, else a bundled one that knows a model's name.

    Example: ``card_of("", ["Org/EditScore-7B"]).name``; the built-in one if none does.

    Args:
        name: A bundled card's or a file's; may be empty.
        model_names: Of folders, or as a server has them.

    Raises:
        FileNotFoundError: The card that is named is not there.
        ValueError: It cannot be used.
    """
    if path := _named(name):
        return JudgeCard.load(path)
    names = [_plain(model_name) for model_name in model_names]
    for card in bundled_cards().values():
        if any(_plain(part) in model_name for part in card.names for model_name in names):
            return card
    return bundled_cards()[BUILT_IN]


def _recognised(folders: list[Path]) -> JudgeCard:
    # What was trained here answers the built-in question, whatever it was made of.
    if (folders[0] / NOTES).exists():
        return bundled_cards()[BUILT_IN]
    return card_of("", [_name_of(folder) for folder in folders])


def _name_of(folder: Path) -> str:
    """Return a folder's name; in the Hugging Face cache, that of the repository."""
    return folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
