"""Generate candidates: every condition is edited several times with randomised settings.

Source: OneReward, sec. 4.2: number of steps, negative prompt, guidance scale and denoising strength
vary, so that candidates differ in every dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...fill.config import FillConfig
from ...fill.fingerprint import fingerprint
from ...fill.host import Host
from ...fill.json_config import JsonConfig, setting
from ...fill.models import FillModels
from ...fill.pipeline import run_fill
from ...fill.wrapped_host import WrappedHost
from ...reward.preference import CandidateGroup, PreferenceSet
from ..runs.distributed import Distributed
from .conditions import Condition, EditDataset, save_image
from .random_masks import keyed_generator

log = logging.getLogger("onereward.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(JsonConfig):
    """How candidates are varied.

    Example: ``GenerateConfig(num_candidates=8, steps=(20, 30))``.
    """

    num_candidates: int = setting(4, "Candidates per condition (paper: 4).", min=1, max=64)
    seed: int = setting(
        0, "Seed of the settings and the noise of all candidates.", min=0, max=2**31 - 1
    )
    steps: tuple[int, int] = (8, 30)
    """Fewest and most sampling steps."""
    true_cfg: tuple[float, float] = (1.0, 5.0)
    """Least and most true guidance."""
    denoise: tuple[float, float] = (0.8, 1.0)
    """Least and most of the schedule that is run; 1 starts from pure noise."""
    negative_prompts: tuple[str, ...] = ("nsfw", "blurry", "low quality", "")
    """One is drawn for each candidate (the paper's four)."""
    guidance: tuple[float, float] = (-1.0, -1.0)
    """Least and most embedded guidance; -1 and -1: as the model's recipe says."""
    max_conditions: int = setting(0, "Stop after this many conditions; 0 = all.", min=0, max=10**9)

    def __post_init__(self) -> None:
        """Refuse empty ranges and values that sampling does not take."""
        JsonConfig.__post_init__(self)
        for name in ("steps", "true_cfg", "denoise", "guidance"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from {low} to {high}; give the smaller value first")
        if self.guidance[0] == -1.0 < self.guidance[1]:
            raise ValueError(
                f"guidance goes from -1, the model's recipe, to {self.guidance[1]}; give -1 twice, "
                "or a smallest value of 0 or more"
            )
        if not self.negative_prompts:
            raise ValueError("negative_prompts is empty; give at least one, which may be ''")
        for low_or_high in (0, 1):
            FillConfig(
                steps=self.steps[low_or_high],
                true_cfg=self.true_cfg[low_or_high],
                denoise=self.denoise[low_or_high],
                guidance=self.guidance[low_or_high],
            )


def generate_candidates(
    conditions: EditDataset,
    models: FillModels,
    data: PreferenceSet,
    config: GenerateConfig,
    host: Host,
    processes: Distributed | None = None,
) -> int:
    """Generate candidates of every condition that this model has none of yet; return how many.

    Candidates by other models stay, so a policy adds its own to those of the model it was trained
    from; they fall into the same split.

    A group is listed only when all its images are written, so a run that stopped goes on with the
    first incomplete condition. Several processes share the conditions; the first one writes the
    list, in the same order as a single process would.

    Raises:
        ValueError: An image is missing or damaged, or a mask is empty; names it. Or the model was
            not loaded from files, or has made candidates with other settings here.
        WriteError: The disk is full; what was listed is whole, and the same run goes on from there.
    """
    processes = processes or Distributed()
    # What is missing.
    generator = _Generator(models=models, config=config, name=fingerprint(models))
    groups = groups_of(data, models, generator.name)
    _check_settings(groups, config, data.folder)
    finished = {group.condition for group in groups}
    subset = conditions.conditions[: config.max_conditions or None]
    missing = [condition for condition in subset if condition.name not in finished]
    conditions.check(missing)
    processes.wait()
    # One condition per process at a time.
    for start in range(0, len(missing), processes.count):
        host.check_cancelled()
        batch = missing[start : start + processes.count]
        group = None
        if processes.rank < len(batch):
            condition = batch[processes.rank]
            log.info("condition %d of %d: %s", start + 1, len(missing), condition.name)
            step = WrappedHost(host, share=(start, len(missing)))
            group = _make_group(conditions, condition, generator, data.folder, step)
        for result in processes.gather(group):
            if result is not None and processes.is_main:
                data.add_group(result)
    return len(missing) * config.num_candidates


def groups_of(data: PreferenceSet, models: FillModels, name: str) -> list[CandidateGroup]:
    """Return the groups that a fill model made; ``name`` is its fingerprint.

    Groups that name no model count as made without an adapter, by any model.
    """
    has_adapter = any(adapter.strength for adapter in models.adapters)
    names = {name} if has_adapter else {name, ""}
    return [group for group in data.groups() if group.made_by in names]


def sample_settings(config: GenerateConfig, condition: str) -> Iterator[tuple[FillConfig, int]]:
    """Yield settings and seed of each candidate; they depend on seed and condition alone."""
    generator = keyed_generator(f"{config.seed}|{condition}")
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
    """Refuse to go on with other settings than those of the candidates that are there."""
    for group in groups:
        settings = [
            asdict(fill) | {"seed": seed} for fill, seed in sample_settings(config, group.condition)
        ]
        is_equal = len(group.settings) == len(settings)
        for before, after in zip(group.settings, settings, strict=False):
            # Versions before and after this one may note more or fewer settings.
            shared = before.keys() & after.keys()
            is_equal = is_equal and all(before[name] == after[name] for name in shared)
        if group.settings and not is_equal:
            raise ValueError(
                f"the candidates of condition {group.condition} in {folder} were made with other "
                "settings; choose another name for the data, or restore them"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Generator:
    models: FillModels
    config: GenerateConfig
    name: str
    """The models' fingerprint."""


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _make_group(
    conditions: EditDataset,
    condition: Condition,
    generator: _Generator,
    folder: Path,
    host: Host,
) -> CandidateGroup:
    # Source and mask, so that the data stand alone.
    image, mask = conditions.images(condition)
    config, subfolder = generator.config, f"images/{condition.name}/{generator.name}"
    path = folder / subfolder
    save_image(path / "source.png", image[0])
    save_image(path / "mask.png", mask[0])
    # The candidates.
    names, settings = [], []
    for index, (fill, seed) in enumerate(sample_settings(config, condition.name)):
        step = WrappedHost(host, share=(index, config.num_candidates))
        request = conditions.request(condition, config=fill, seed=seed)
        result = run_fill(request, generator.models, step)
        save_image(path / f"{index}.png", result.image[0])
        names.append(f"{subfolder}/{index}.png")
        settings.append(asdict(fill) | {"seed": seed})
    return CandidateGroup(
        file_names=tuple(names),
        task=condition.task,
        condition=condition.name,
        source_file_name=f"{subfolder}/source.png",
        mask_file_name=f"{subfolder}/mask.png",
        prompt=condition.full_prompt,
        settings=tuple(settings),
        made_by=generator.name,
    )
