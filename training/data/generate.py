"""Collect candidates: every condition is made several times with randomised settings.

Source: OneReward, sec. 4.2: number of steps, negative prompt, guidance scale and initial noise
denoise vary, so that candidates differ in every dimension.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...fill.config import FillConfig
from ...fill.fingerprint import fingerprint
from ...fill.host import Host
from ...fill.json_config import JsonConfig
from ...fill.models import FillModels
from ...fill.pipeline import run_fill
from ...fill.wrapped_host import WrappedHost
from ...reward.preference import CandidateGroup, PreferenceSet
from ..runs.distributed import Distributed
from .conditions import Condition, EditDataset, save_image

log = logging.getLogger("onereward.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(JsonConfig):
    """How candidates are varied."""

    num_candidates: int = 4
    """Images per condition (paper: 4)."""
    seed: int = 0
    """Decides settings and noise; the same seed makes the same candidates."""
    steps: tuple[int, int] = (8, 30)
    """Fewest and most sampling steps."""
    true_cfg: tuple[float, float] = (1.0, 5.0)
    """Least and most true guidance."""
    denoise: tuple[float, float] = (0.8, 1.0)
    """Least and most noise to start from."""
    negative_prompts: tuple[str, ...] = ("nsfw", "blurry", "low quality", "")
    """One is drawn for each candidate (the paper's four)."""
    guidance: tuple[float, float] = (-1.0, -1.0)
    """Least and most embedded guidance; -1 and -1: as the model's recipe says."""
    max_conditions: int = 0
    """Stop after this many conditions; 0: all."""

    def __post_init__(self) -> None:
        """Refuse empty ranges and values that sampling does not take."""
        JsonConfig.__post_init__(self)
        if not 1 <= self.num_candidates <= 64:
            raise ValueError(f"num_candidates is {self.num_candidates}, but 1 to 64 is expected")
        if self.max_conditions < 0:
            raise ValueError(f"max_conditions is {self.max_conditions}, but 0 or more is expected")
        for name in ("steps", "true_cfg", "denoise", "guidance"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from {low} to {high}; give the smaller value first")
        if not self.negative_prompts:
            raise ValueError("negative_prompts is empty; give at least one, which may be ''")
        for low_or_high in (0, 1):
            FillConfig(
                steps=self.steps[low_or_high],
                true_cfg=self.true_cfg[low_or_high],
                denoise=self.denoise[low_or_high],
                guidance=self.guidance[low_or_high],
            )


def collect(
    conditions: EditDataset,
    models: FillModels,
    data: PreferenceSet,
    config: GenerateConfig,
    host: Host,
    processes: Distributed | None = None,
) -> int:
    """Make the candidates of every condition that this model has none of yet; return how many.

    What other models made of a condition stays, so a policy adds its own to those of the model it
    was trained from; they fall into the same split.

    A group is listed only when all its images are written, so a run that stopped goes on with the
    first condition that is not whole. Several processes share the conditions out; the first writes
    the list, in the same order as one process would.

    Raises:
        ValueError: An image is missing or damaged, or a mask is empty; names it. Or the model was
            not loaded from files, or has made candidates with other settings here.
        OSError: The disk is full; what was listed is whole, and the same run goes on from there.
    """
    processes = processes or Distributed()
    maker = _Maker(models=models, config=config, name=fingerprint(models))
    groups = groups_of(data, models, maker.name)
    _check_settings(groups, config, data.folder)
    known = {group.condition for group in groups}
    wanted = conditions.conditions[: config.max_conditions or None]
    missing = [condition for condition in wanted if condition.name not in known]
    conditions.check(missing)
    processes.wait()
    for start in range(0, len(missing), processes.count):
        host.check_cancelled()
        mine = missing[start : start + processes.count][processes.rank :][:1]
        group = None
        for condition in mine:
            log.info("condition %d of %d: %s", start + 1, len(missing), condition.name)
            step = WrappedHost(host, share=(start, len(missing)))
            group = _make_group(conditions, condition, maker, data.folder, step)
        for made in processes.gather(group):
            if made is not None and processes.is_main:
                with _writing(data.folder):
                    data.add_group(made)
    return len(missing) * config.num_candidates


def groups_of(data: PreferenceSet, models: FillModels, maker: str) -> list[CandidateGroup]:
    """Return the groups that a fill model made; ``maker`` is its fingerprint.

    Data of the time before groups named their maker counts as made without an adapter: as round
    one of any model, and never as that of a policy.
    """
    worn = any(adapter.strength for adapter in models.adapters)
    names = {maker} if worn else {maker, ""}
    return [group for group in data.groups() if group.made_by in names]


def sample_settings(config: GenerateConfig, condition: str) -> Iterator[tuple[FillConfig, int]]:
    """Yield settings and seed of each candidate; they depend on seed and condition alone."""
    digest = hashlib.blake2b(f"{config.seed}|{condition}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    for _ in range(config.num_candidates):
        a, b, c = torch.rand(3, generator=generator).tolist()
        prompt = int(torch.randint(len(config.negative_prompts), (), generator=generator))
        seed = int(torch.randint(2**31, (), generator=generator))
        d = float(torch.rand((), generator=generator)) if config.guidance != (-1.0, -1.0) else 0.0
        yield (
            FillConfig(
                steps=round(_between(config.steps, a)),
                true_cfg=_between(config.true_cfg, b),
                denoise=_between(config.denoise, c),
                guidance=_between(config.guidance, d),
                negative_prompt=config.negative_prompts[prompt],
            ),
            seed,
        )


def _check_settings(groups: Sequence[CandidateGroup], config: GenerateConfig, folder: Path) -> None:
    """Refuse to go on with settings that what is there was not made with."""
    for group in groups:
        drawn = [
            asdict(fill) | {"seed": seed} for fill, seed in sample_settings(config, group.condition)
        ]
        both = list(zip(group.settings, drawn, strict=False))
        # Versions before and after this one may note more or less.
        is_same = len(group.settings) == len(drawn) and all(
            all(after[name] == value for name, value in before.items() if name in after)
            for before, after in both
        )
        if group.settings and not is_same:
            raise ValueError(
                f"the candidates of condition {group.condition} in {folder} were made with other "
                "settings; choose another name for the data, or restore them"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Maker:
    models: FillModels
    config: GenerateConfig
    name: str
    """The models' fingerprint."""


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror or error}); free some space and run again: "
            "it goes on with the first condition that is not whole"
        ) from error


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _make_group(
    conditions: EditDataset,
    condition: Condition,
    maker: _Maker,
    folder: Path,
    host: Host,
) -> CandidateGroup:
    image, mask = conditions.images(condition)
    config, inside = maker.config, f"images/{condition.name}/{maker.name}"
    place = folder / inside
    with _writing(folder):
        place.mkdir(parents=True, exist_ok=True)
        save_image(place / "source.png", image[0])
        save_image(place / "mask.png", mask[0])
    names, settings = [], []
    for number, (fill, seed) in enumerate(sample_settings(config, condition.name)):
        step = WrappedHost(host, share=(number, config.num_candidates))
        result = run_fill(conditions.request(condition, config=fill, seed=seed), maker.models, step)
        with _writing(folder):
            save_image(place / f"{number}.png", result.image[0])
        names.append(f"{inside}/{number}.png")
        settings.append(asdict(fill) | {"seed": seed})
    return CandidateGroup(
        file_names=tuple(names),
        task=condition.task,
        condition=condition.name,
        source_file_name=f"{inside}/source.png",
        mask_file_name=f"{inside}/mask.png",
        prompt=condition.full_prompt,
        settings=tuple(settings),
        made_by=maker.name,
    )
