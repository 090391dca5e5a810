"""Recipes: the settings a checkpoint was trained for, and what a user changed in them.

``recipe.json`` in a model folder::

    {"format": 1, "name": "bundled", "true_cfg": 2.0, "guidance": 3.5, "negative_prompt": "",
     "steps": 20, "target_size": 64, "max_upscale": 1.0, "max_sequence_length": 12,
     "demo_side": 64}
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .config import RECIPE, RECIPE_TEXT, FillConfig
from .io.json_text import label_of, quote, shorten
from .json_config import JsonConfig

FILE_NAME = "recipe.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(JsonConfig):
    """Sampling settings of a checkpoint. Example: ``find_recipe('auto', folder, None).steps``."""

    name: str
    true_cfg: float
    """Scale of true classifier-free guidance; 1 = off."""
    guidance: float
    """Value of the guidance embedding."""
    negative_prompt: str
    steps: int
    target_size: int
    """Side in pixels of a square with as many pixels as the model makes best."""
    max_upscale: float
    """How much a crop may be enlarged to reach that size."""
    max_sequence_length: int
    """Tokens of the T5 prompt."""
    demo_side: int = 0
    """Side in pixels of the toy scenes that a demo model was made for; 0 = this is none."""

    def __post_init__(self) -> None:
        """Refuse values no model can have."""
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            is_number = isinstance(value, int if isinstance(low, int) else (int, float))
            if not is_number or isinstance(value, bool) or not low <= value <= high:
                kind = "a whole number" if isinstance(low, int) else "a number"
                raise ValueError(
                    f"{name} is {quote(value)}, but {kind} from {low} to {high} is expected"
                )


_LIMITS = {
    **{"true_cfg": (0.0, 1000.0), "guidance": (0.0, 1000.0), "max_upscale": (0.0, 1000.0)},
    **{"steps": (1, 10_000), "target_size": (1, 1 << 14), "max_sequence_length": (1, 1 << 14)},
    "demo_side": (0, 1 << 14),
}


# Source of both: the model cards of the published checkpoints and onereward's inference script.
ONEREWARD = Recipe(
    name="OneReward",
    true_cfg=4.0,
    guidance=1.0,
    negative_prompt="nsfw",
    steps=50,
    target_size=1024,
    max_upscale=2.0,
    max_sequence_length=512,
)
FLUX_FILL = replace(ONEREWARD, name="FLUX.1 Fill", true_cfg=1.0, guidance=30.0, negative_prompt="")
_PUBLISHED = {recipe.name: recipe for recipe in (ONEREWARD, FLUX_FILL)}


def find_recipe(choice: str, folder: Path | None, transformer: Path | None) -> Recipe:
    """Return the recipe of a model.

    Args:
        choice: ``auto``, ``OneReward``, ``FLUX.1 Fill`` or ``bundled``.
        folder: The base model; ``recipe.json`` in it or in the transformer's folder decides first.
            None: there is none.
        transformer: Folder or file of a replaced transformer, if any.

    Raises:
        FileNotFoundError: ``bundled`` was chosen, but the folder has no ``recipe.json``.
        ValueError: The file is not a recipe.
    """
    paths = [path for path in (transformer, folder) if path is not None]
    files = [path / FILE_NAME for path in paths if (path / FILE_NAME).is_file()]
    stored = read_recipe(files[0]) if files else None
    if choice in _PUBLISHED:
        # A demo model stays one under any settings.
        return replace(_PUBLISHED[choice], demo_side=stored.demo_side if stored else 0)
    if stored is not None:
        return stored
    if choice == "bundled":
        raise FileNotFoundError(
            f"{label_of(paths[-1])} has no {FILE_NAME}; choose the recipe OneReward or FLUX.1 Fill "
            "for this model"
        )
    names = "/".join(path.name for path in paths).lower()
    return ONEREWARD if "onereward" in names else FLUX_FILL


def read_recipe(path: Path) -> Recipe:
    """Read ``recipe.json``; raise ValueError with the path and what is wrong in it."""
    try:
        return Recipe.load(path)
    except ValueError as error:
        raise ValueError(shorten(f"{FILE_NAME} is not a recipe: {error}")) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Recipe and overrides in one. Example: ``resolve_settings(FillConfig(), ONEREWARD).steps``."""

    steps: int
    true_cfg: float
    guidance: float
    negative_prompt: str
    target_size: int


def resolve_settings(config: FillConfig, recipe: Recipe) -> Settings:
    """Take every setting from the config, or from the recipe where the config says -1."""
    return Settings(**{name: _resolve(config, recipe, name) for name in _RECIPE_FIELDS})


def deviations(config: FillConfig, recipe: Recipe) -> tuple[str, ...]:
    """Name every setting that leaves the recipe, with both values, for the log and the node."""
    return tuple(
        f"{name} {_resolve(config, recipe, name)!r} instead of {getattr(recipe, name)!r}"
        for name in _RECIPE_FIELDS
        if _resolve(config, recipe, name) != getattr(recipe, name)
    )


_RECIPE_FIELDS = tuple(f.name for f in fields(Settings))


def _resolve(config: FillConfig, recipe: Recipe, name: str) -> Any:
    value = getattr(config, name)
    follows = value == (RECIPE_TEXT if name == "negative_prompt" else RECIPE)
    return getattr(recipe, name) if follows else value
