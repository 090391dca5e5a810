"""Candidates of the bundled fill model for procedural scenes, scored by the oracle.

The judge is trained on what it will judge: finished images with randomised settings (sec. 4.2),
one-step predictions from every noise level (sec. 4.4, what the policy is rewarded for), the truth,
injected artifacts, and good images under a fine pattern. Each scene is one group of images; a pair
is any two of its images that differ clearly in a dimension.

A file of G groups of M images is one safetensors file with the fields of `Candidates`:

    images        uint8    [G, M, 3, 64, 64]
    scores        float16  [G, M, 5]
    usable        bool     [G, M]
    kinds         uint8    [M]
    pattern_base  int64    [G, M]
    task          int64    [G]
    masks         uint8    [G, 64, 64]

and in its metadata, under `prompts`, a JSON list of G texts: `["a red circle", "remove"]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ....training.data.generate import GenerateConfig
from ....training.runs.loop import step_generator
from ...base_model.attention import PlainAttention
from ...base_model.models import FillComponents
from ...base_model.report.evaluate import vae_round_trip
from ...base_model.sampling import SampleSettings, decode_packed, sample_packed
from ...oracle import composite, judge
from ...world.artifacts import ARTIFACTS, inject_artifact
from ...world.canvas import SIZE, pixel_grid
from ...world.conditions import TASKS, Conditions, sample_conditions
from ...world.splits import Split

KINDS = ("full", "one_step", "truth", "artifact", "pattern")
FULL, ONE_STEP, TRUTH, ARTIFACT, PATTERN = range(len(KINDS))
NUM_PATTERNS = 2
BATCH = 32
"""Scenes that are sampled together, with the same settings for each candidate."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Groups of images, one group per scene.

    Example: ``load_candidates(files_of(Path("runs/pool"), Split.DEV)).usable``  # [G, M]
    """

    images: Tensor
    """Uint8 `[G, M, 3, 64, 64]`: pasted into the source, as every result is."""
    scores: Tensor
    """Float16 `[G, M, D]`: the oracle's, in the order of its `DIMENSIONS`; NaN where none."""
    usable: Tensor
    """Bool `[G, M]`: the oracle's yes or no."""
    kinds: Tensor
    """Uint8 `[M]`, index into `KINDS`."""
    pattern_base: Tensor
    """Int64 `[G, M]`: which image of the group a pattern was laid over; -1 for other kinds."""
    task: Tensor
    """Int64 `[G]`, index into the world's `TASKS`."""
    masks: Tensor
    """Uint8 `[G, 64, 64]`, 1 = repainted."""
    prompts: list[str]
    """One per group."""

    def __len__(self) -> int:
        return len(self.prompts)


def sample_candidates(
    models: Sequence[FillComponents],
    split: Split,
    index: int,
    config: GenerateConfig,
    count: int = BATCH,
) -> Candidates:
    """Make batch `index` of a split, tasks in turn; the same arguments give the same images.

    The models make the candidates of every scene in turn; they share one autoencoder.
    """
    # Sampled images: finished, and one-step predictions.
    tasks = torch.arange(count) % len(TASKS)
    conditions = sample_conditions(split, index, tasks)
    generator = step_generator(config.seed, index, purpose=list(Split).index(split))
    finished, early = [], []
    for index in range(config.num_candidates):
        full, one_step = _sample(models[index % len(models)], conditions, config, generator)
        finished.append(full)
        early.append(one_step)
    groups = torch.stack(finished + early, 1)  # [G, M, 3, 64, 64]
    # The truth, a truth with an artifact, and patterns over two of the images so far.
    groups = torch.cat([groups, _truth_and_artifact(models[0], conditions, generator)], 1)
    base = torch.randint(groups.shape[1] - 1, (NUM_PATTERNS, count), generator=generator)
    patterned = [
        lay_pattern(groups[torch.arange(count), row], conditions.mask, generator) for row in base
    ]
    groups = torch.cat([groups, torch.stack(patterned, 1)], 1)
    num = config.num_candidates
    kinds = [FULL] * num + [ONE_STEP] * num + [TRUTH, ARTIFACT] + [PATTERN] * NUM_PATTERNS
    pattern_base = torch.full((count, len(kinds)), -1)
    pattern_base[:, -NUM_PATTERNS:] = base.T
    return _score(groups, conditions, torch.tensor(kinds, dtype=torch.uint8), pattern_base)


def _sample(
    components: FillComponents,
    conditions: Conditions,
    config: GenerateConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return finished images, and the one-step predictions of one random step of the sampling."""
    settings = randomize_settings(config, generator)
    predictions: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16), PlainAttention():
        latents = sample_packed(
            components, conditions, settings, generator, lambda _, x0: predictions.append(x0)
        )
        step = int(torch.randint(len(predictions), (), generator=generator))
        full = decode_packed(components, latents)
        early = decode_packed(components, predictions[step])
    return composite(full, conditions), composite(early, conditions)


def randomize_settings(config: GenerateConfig, generator: torch.Generator) -> SampleSettings:
    """Draw steps, guidance, denoise and negative prompt."""
    a, b, c = torch.rand(3, generator=generator).tolist()
    prompt = int(torch.randint(len(config.negative_prompts), (), generator=generator))
    return SampleSettings(
        steps=round(config.steps[0] + a * (config.steps[1] - config.steps[0])),
        true_cfg=config.true_cfg[0] + b * (config.true_cfg[1] - config.true_cfg[0]),
        denoise=config.denoise[0] + c * (config.denoise[1] - config.denoise[0]),
        negative_prompt=config.negative_prompts[prompt],
    )


def _truth_and_artifact(
    components: FillComponents, conditions: Conditions, generator: torch.Generator
) -> Tensor:
    """Return the truth and the truth with an artifact, autoencoded, `[B, 2, 3, 64, 64]`."""
    damaged = conditions.target.clone()
    order = torch.randperm(len(ARTIFACTS), generator=generator).tolist()
    is_open = torch.ones(len(conditions), dtype=torch.bool)
    # Each scene takes the first artifact that makes sense in it; a third of them at a time.
    for name in (list(ARTIFACTS)[k] for k in order):
        injected = inject_artifact(name, conditions, generator)
        luck = torch.rand(len(conditions), generator=generator) < 1 / 3
        rows = is_open & injected.applies & luck
        damaged[rows], is_open = injected.images[rows], is_open & ~rows
    results = [
        composite(vae_round_trip(components, images), conditions)
        for images in (conditions.target, damaged)
    ]
    return torch.stack(results, 1)


def lay_pattern(images: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """Lay a fine pattern over images inside their masks.

    Lattices, checkers, waves of any direction and period, grain, and tints: what a policy paints
    that exploits a weakness of its judge.

    Args:
        images: float32 `[B, 3, 64, 64]` in 0..1.
        masks: float32 `[B, 64, 64]`, 1 = repainted.
        generator: Decides kind, period, direction, colour and strength.
    """
    count = len(images)
    x, y = pixel_grid()  # [64, 64]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    # Every kind of pattern for every image, each `[B, 64, 64]`.
    angle, period = uniform(0, 6.3, 1, 1), uniform(2, 17, 1, 1)
    phase = uniform(0, 6.3, 1, 1)
    across = (x * angle.cos() + y * angle.sin()) * 2 * torch.pi / period + phase
    along = (y * angle.cos() - x * angle.sin()) * 2 * torch.pi / period
    step = uniform(2, 17, 1, 1).long()
    dots = ((x.long() % step == 0) & (y.long() % step == 0)).float() * 3
    checker = (((x.long() // step) + (y.long() // step)) % 2).float() * 2 - 1
    grain = torch.randn(count, SIZE, SIZE, generator=generator)
    plain = torch.ones(count, SIZE, SIZE)
    kinds = (across.sin(), across.sin() * along.sin(), dots, checker, grain, plain)
    # One kind, colour and strength per image.
    kind_of = (uniform(0, 1) * len(kinds)).long()[:, None, None, None]
    pattern = torch.zeros(count, 1, SIZE, SIZE)
    for index, values in enumerate(kinds):
        pattern = torch.where(kind_of == index, values[:, None], pattern)
    colour = torch.randn(count, 3, 1, 1, generator=generator)
    colour = torch.where(uniform(0, 1, 1, 1, 1) < 0.5, colour, colour.mean(1, keepdim=True).sign())
    strength = uniform(0.03, 0.2, 1, 1, 1)
    return (images + masks[:, None] * strength * colour * pattern).clamp(0, 1)


def _score(
    groups: Tensor, conditions: Conditions, kinds: Tensor, pattern_base: Tensor
) -> Candidates:
    oracle_scores = [judge(groups[:, m], conditions) for m in range(groups.shape[1])]
    scores = torch.stack([s.table for s in oracle_scores], 1)  # [G, M, D]
    return Candidates(
        images=(groups * 255).round().to(torch.uint8),
        scores=scores.half(),
        usable=torch.stack([s.usable for s in oracle_scores], 1),
        kinds=kinds,
        pattern_base=pattern_base,
        task=conditions.task,
        masks=conditions.mask.to(torch.uint8),
        prompts=conditions.prompts,
    )


def save_candidates(candidates: Candidates, path: Path) -> None:
    """Write groups to one safetensors file, at once."""
    tensors = {
        f.name: getattr(candidates, f.name).contiguous()
        for f in fields(Candidates)
        if f.name != "prompts"
    }
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={"prompts": json.dumps(candidates.prompts)})
    temporary.replace(path)


def load_candidates(paths: Sequence[Path]) -> Candidates:
    """Read groups written by :func:`save_candidates`; all files need the same kinds.

    Raises:
        FileNotFoundError: There is no file.
    """
    if not paths:
        raise FileNotFoundError(
            "there are no candidates; make some with lab.judge.pairs.candidate_pool"
        )
    groups: list[Candidates] = []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            prompts = json.loads(file.metadata()["prompts"])
        groups.append(Candidates(prompts=prompts, **tensors))
    names = [f.name for f in fields(Candidates) if f.name not in ("prompts", "kinds")]
    tensors = {}
    for name in names:
        tensors[name] = torch.cat([getattr(group, name) for group in groups])
    prompts = [prompt for group in groups for prompt in group.prompts]
    return Candidates(prompts=prompts, kinds=groups[0].kinds, **tensors)
