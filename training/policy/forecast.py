"""How much memory a run takes, forecast before anything is loaded.

The counts are of the published architectures: tensors that autograd keeps per block, counted with
saved-tensor hooks on diffusers' and transformers' own modules, with attention that keeps no scores
(flash, memory-efficient); `benchmarks/rl_step.py` puts the forecast beside measured peaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...fill.host import Host
from ...fill.memory.plan import sample_bytes, vae_bytes
from ...fill.models import FillModels
from ...fill.sampling.latents import vae_factor
from ...reward.judge import Judge
from ...reward.judging import VIEWS
from .config import (
    ADAM_8BIT,
    ATTENTION,
    BLOCKS,
    DPO,
    KEEP_ATTENTION,
    LORA,
    OFF,
    PolicyTrainConfig,
)
from .weights import target_pattern

HALF, SINGLE = 2, 4
"""Bytes of a number in half and in single precision."""
_KEPT = {
    (HALF, "attention"): (15.2, 14.2),
    (HALF, "linear"): (20.3, 19.2),
    (HALF, "full"): (28.1, 25.1),
    (SINGLE, "attention"): (13.2, 12.1),
    (SINGLE, "linear"): (18.2, 17.2),
    (SINGLE, "full"): (24.1, 21.1),
}
"""Tensors as large as the hidden states that a double and a single block keep for their backward
pass, by bytes per number and by what is trained. Half precision keeps some in float32."""
_BACKWARD = 12
"""Such tensors that a block's backward pass makes on the way."""
_VAE_KEPT, _VAE_BLOCK, _VAE_BORDERS = 44.5, 22.0, 6.4
"""Numbers per pixel and channel of the widest resolution that the decoder keeps with two layers
per block: all; those of its largest block; those between blocks, which checkpointing keeps."""
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is in memory together, in bytes.

    Example: ``Stage(name="policy", weights=24_000_000_000, activations=6_000_000_000).total``.
    """

    name: str
    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Memory of a run, in bytes; weights that a stage does not need may leave the device.

    Example: ``make_forecast(config, models, judges, host).fits``.
    """

    stages: tuple[Stage, ...]
    trained: int
    """What is trained: float32 copies, gradients, optimiser, average; in memory all the time."""
    free: int
    """What the device has to give."""
    remedy: str = ""
    """What to change if it does not fit."""

    @property
    def peak(self) -> int:
        """The largest stage and what is trained."""
        return self.trained + max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether the device can hold the peak."""
        return self.peak <= self.free

    def text(self) -> str:
        """Return one line for the user."""
        stages = ", ".join(f"{stage.name} {stage.total / _GB:.2f}" for stage in self.stages)
        line = (
            f"memory forecast: peak {self.peak / _GB:.2f} GB of {self.free / _GB:.1f} GB free "
            f"({stages}, training state {self.trained / _GB:.2f})"
        )
        return f"{line}: fits" if self.fits else f"{line}: does not fit; {self.remedy}"


def memory_advice(config: PolicyTrainConfig) -> str:
    """Return what to change when memory ran out all the same."""
    return (
        "not enough memory for a step of training; what was done is saved and goes on with the "
        f"same settings but, in a new run, a smaller target_size (now {config.target_size}), "
        f"micro_batch_size 1 (now {config.micro_batch_size}), gradient_checkpointing of "
        f"blocks (now {config.gradient_checkpointing}) or a lower rank (now {config.rank})"
    )


def make_forecast(
    config: PolicyTrainConfig,
    models: FillModels,
    judges: Sequence[Judge],
    host: Host,
    eval_judge: Judge | None = None,
) -> Forecast:
    """Forecast a run, and if it does not fit, look for settings under which it would.

    Args:
        config: The run's.
        models: The fill model.
        judges: Those that reward.
        host: Says how much memory is free.
        eval_judge: The one that only evaluates.
    """
    free = host.free_bytes()

    def forecast(settings: PolicyTrainConfig) -> Forecast:
        stages = _stages(settings, models, judges, eval_judge)
        trained = trained_bytes(settings, models)
        return Forecast(stages=stages, trained=trained, free=free)

    result = forecast(config)
    return result if result.fits else replace(result, remedy=_remedy(config, models, forecast))


def policy_bytes(config: PolicyTrainConfig, models: FillModels, shape: Sequence[int]) -> int:
    """Return the activations of the policy's step with gradient, in bytes.

    Args:
        config: What is trained, and whether activations are recomputed.
        models: The fill model.
        shape: Edits that go through it at once, and tokens of each.
    """
    architecture = models.transformer_config
    num_double, num_single = architecture["num_layers"], architecture["num_single_layers"]
    width = architecture["num_attention_heads"] * architecture["attention_head_dim"]
    is_guided = config.settings(models.recipe).true_cfg != 1.0
    is_double = (is_guided and config.needs_gradient) or config.objective == DPO  # winner, loser
    rows = shape[0] * (2 if is_double else 1)
    sampled_rows = shape[0] * (2 if is_guided and config.needs_reward else 1)
    itemsize = models.dtype.itemsize
    state = rows * (shape[1] + models.recipe.max_sequence_length) * width * itemsize
    kind = ("attention" if config.layers == ATTENTION else "linear") if _is_lora(config) else "full"
    double, single = _KEPT[SINGLE if itemsize >= SINGLE else HALF, kind]
    num_saved = num_double * double + num_single * single
    if config.gradient_checkpointing != OFF:
        per_block = 2 if config.gradient_checkpointing == KEEP_ATTENTION else 1
        num_saved = per_block * (num_double + num_single) + max(double, single)
    learning = math.ceil((num_saved + _BACKWARD) * state)
    return max(learning, sample_bytes(models, sampled_rows, shape[1])) + models.expansion_bytes


def reward_bytes(
    config: PolicyTrainConfig,
    models: FillModels,
    judges: Sequence[Judge],
    size: tuple[int, int],
    rows: int,
) -> int:
    """Return the activations of decoding and judging with gradient, in bytes.

    Args:
        config: Whether activations are recomputed.
        models: The fill model.
        judges: Those that are asked.
        size: Height and width in latents.
        rows: Edits that are judged at once.
    """
    pixels = size[0] * size[1] * vae_factor(models.vae_config) ** 2
    values = models.vae.dtype.itemsize * models.vae_config["block_out_channels"][0]
    decoder = rows * _VAE_KEPT * (models.vae_config.get("layers_per_block", 2) + 1) / 3
    if config.gradient_checkpointing != OFF:
        decoder = rows * _VAE_BORDERS + _VAE_BLOCK
    judging = sum(_judge_bytes(config, judge, pixels, rows) for judge in judges)
    return math.ceil(decoder * values * pixels) + judging


def shown_pixels(judge: Judge, pixels: int) -> int:
    """Return the pixels of what a judge is shown, in the view it was trained with, of an image."""
    return pixels * (2 if judge.notes.get("view", VIEWS[0]) in VIEWS[2:] else 1)


def trained_bytes(config: PolicyTrainConfig, models: FillModels) -> int:
    """Return the bytes of what is trained: copies, gradients, optimiser state and average."""
    itemsize = models.dtype.itemsize
    # In mode full the weights are counted as the transformer's.
    weight_bytes = itemsize if _is_lora(config) else 0
    adam = 2 if config.optimizer == ADAM_8BIT else 8
    return num_trained(config, models) * (weight_bytes + itemsize + 4 + 4 + adam + 4)


def num_trained(config: PolicyTrainConfig, models: FillModels) -> int:
    """Return how many numbers are trained, from the headers of the files."""
    tensors = models.transformer_tensors
    if not _is_lora(config):
        return sum(math.prod(info.shape) for info in tensors.values())
    pattern = target_pattern(config.layers)
    sides = [
        sum(info.shape)
        for name, info in tensors.items()
        if name.endswith(".weight") and pattern.fullmatch(name.removesuffix(".weight"))
    ]
    return config.rank * sum(sides)


def _stages(
    config: PolicyTrainConfig,
    models: FillModels,
    judges: Sequence[Judge],
    eval_judge: Judge | None,
) -> tuple[Stage, ...]:
    side = config.settings(models.recipe).target_size
    tokens, factor = side**2 // models.multiple**2, vae_factor(models.vae_config)
    rows = min(config.micro_batch_size, config.batch_size)
    texts = models.text_encoder.num_bytes + models.text_encoder_2.num_bytes
    stages = [
        Stage(name="prompts", weights=texts, activations=0),
        Stage(
            name="policy",
            weights=models.transformer.num_bytes,
            activations=policy_bytes(config, models, (rows, tokens)),
        ),
    ]
    if config.needs_reward:
        latents = (side // factor, side // factor)
        stages.append(
            Stage(
                name="decoding and judging",
                weights=models.vae.num_bytes + sum(_weight_bytes(judge) for judge in judges),
                activations=(
                    reward_bytes(config, models, judges, latents, rows)
                    if config.needs_gradient
                    else _comparing_bytes(config, models, judges, side**2)
                ),
            )
        )
    if eval_judge is not None and config.eval_every:
        stages.append(
            Stage(
                name="evaluation judge",
                weights=_weight_bytes(eval_judge),
                activations=eval_judge.working_bytes(shown_pixels(eval_judge, side**2), rows=2),
            )
        )
    return tuple(stages)


def _remedy(
    config: PolicyTrainConfig,
    models: FillModels,
    forecast: Callable[[PolicyTrainConfig], Forecast],
) -> str:
    remedies: list[str] = []
    for words, leaner in _leaner(config, models):
        remedies.append(words)
        leaner_forecast = forecast(leaner)
        if leaner_forecast.fits:
            return f"with {', '.join(remedies)} it would take {leaner_forecast.peak / _GB:.2f} GB"
    return (
        f"change all of: {', '.join(remedies) or 'nothing is left of the settings'}; and load the "
        "fill model and the judge in precision nf4 or fp8, or a smaller judge"
    )


def _leaner(
    config: PolicyTrainConfig, models: FillModels
) -> Iterator[tuple[str, PolicyTrainConfig]]:
    """Yield what saves memory, each on top of those before; what costs least comes first."""
    side = config.settings(models.recipe).target_size
    changes: list[tuple[bool, str, dict[str, Any]]] = [
        (config.micro_batch_size > 1, "micro_batch_size 1", {"micro_batch_size": 1}),
        (
            config.gradient_checkpointing != BLOCKS,
            "gradient_checkpointing of blocks",
            {"gradient_checkpointing": BLOCKS},
        ),
        (not _is_lora(config), "mode lora", {"mode": LORA}),
        (side > 512, "target_size 512", {"target_size": 512}),
        (config.optimizer != ADAM_8BIT, f"optimizer {ADAM_8BIT}", {"optimizer": ADAM_8BIT}),
    ]
    for is_open, words, change in changes:
        if is_open:
            config = replace(config, **change)
            yield words, config


def _comparing_bytes(
    config: PolicyTrainConfig, models: FillModels, judges: Sequence[Judge], pixels: int
) -> int:
    """Return the activations of decoding, or of judging, without gradient."""
    rows = 2 * config.micro_batch_size
    judging = [judge.working_bytes(shown_pixels(judge, pixels), rows) for judge in judges]
    return max(vae_bytes(models, pixels), *judging)


def _weight_bytes(judge: Judge) -> int:
    return sum(component.num_bytes for component in judge.components)


def _judge_bytes(config: PolicyTrainConfig, judge: Judge, pixels: int, rows: int) -> int:
    recompute = config.gradient_checkpointing != OFF
    return judge.training_bytes(shown_pixels(judge, pixels), rows, recompute)


def _is_lora(config: PolicyTrainConfig) -> bool:
    return config.mode == LORA
