"""A pool of encoded scenes to draw training samples from, renewed block by block.

Encoding costs as much as training, so samples are drawn several times before they are replaced.
What a block holds depends on the number of renewals alone: a run that stops and goes on refills
the pool exactly.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...fill.sampling.latents import pack_mask, vae_factor
from ...training.runs.loop import step_generator
from ..world.cell_labels import label_cells
from ..world.conditions import Conditions, sample_conditions
from ..world.splits import Split
from .config import FillTrainConfig
from .models import FillComponents, encode_packed, fill_condition, prompt_ids
from .photographs import find_photographs, sample_photo_crops

BLOCK = 64
IGNORED = -100
_PHOTO_CROPS = 8192
# On a photograph the world's shapes and words matter less than continuing its texture.
_PHOTO_TASK_WEIGHTS = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Encoded samples; one row each.

    Example: ``pool.draw(32, generator).to(torch.device("cuda"))``.
    """

    latents: Tensor
    """Packed latents of the target, `[B, N, 4C]`."""
    condition: Tensor
    """Packed condition, `[B, N, 4C + 4f²]`."""
    weight: Tensor
    """Loss weight of each token value, `[B, N, 4C]`."""
    t5_ids: Tensor
    """Int64 `[B, T]`."""
    clip_ids: Tensor
    """Int64 `[B, T]`."""
    cell_labels: Tensor
    """Int64 `[B, 3, N]`: what each token's cell has to show; -100 where no prompt says so."""
    letter_positions: Tensor
    """Int64 `[B, T]`: position in the word of each of the T5's tokens; -100 for other tokens."""

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on a device."""
        return Samples(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class ScenePool:
    """Blocks of 64 encoded scenes in half precision.

    Example: ``pool = ScenePool(config, components); pool.fill_up(0)``.
    """

    def __init__(self, config: FillTrainConfig, components: FillComponents) -> None:
        """Prepare photographs; `fill_up` encodes the scenes."""
        self._config, self._components = config, components
        self._blocks: list[Samples] = []
        self._photos = torch.empty(0)
        if config.photo_share > 0:
            paths = find_photographs(config.photo_folders, is_held_out=False)
            generator = step_generator(config.seed, 0, purpose=1)
            self._photos = sample_photo_crops(paths, _PHOTO_CROPS, generator)
        self._empty = prompt_ids(components, [""])
        self._quotes: list[int] = components.t5_tokenizer.convert_tokens_to_ids(['▁"', '"'])  # type: ignore[assignment]

    def fill_up(self, renewals: int) -> None:
        """Encode what the pool holds after a number of renewals."""
        count = self._config.pool_blocks
        # Block j holds the newest number below count + renewals that leaves j when divided.
        newest = [j + count * ((renewals + count - 1 - j) // count) for j in range(count)]
        self._blocks = [self._encode(self._scenes(index)) for index in newest]

    def renew(self, renewals: int) -> None:
        """Replace the oldest block; `renewals` counts those before this one."""
        count = self._config.pool_blocks
        self._blocks[renewals % count] = self._encode(self._scenes(count + renewals))

    def _scenes(self, index: int) -> Conditions:
        """Draw the scenes of one block; `index` counts all blocks of the run."""
        generator = step_generator(self._config.seed, index, purpose=5)
        share = self._config.photo_share
        # Photographs come evenly: one block of 64 whenever their share adds up to another whole.
        is_photo = int((index + 1) * share) > int(index * share)
        weights = _PHOTO_TASK_WEIGHTS if is_photo else self._config.task_weights
        tasks = torch.multinomial(
            torch.tensor(weights), BLOCK, replacement=True, generator=generator
        )
        if not is_photo:
            return sample_conditions(Split.TRAIN, index, tasks)
        rows = torch.randint(len(self._photos), (BLOCK,), generator=generator)
        return sample_conditions(Split.TRAIN, index, tasks, self._photos[rows].float() / 255)

    def _encode(self, scenes: Conditions) -> Samples:
        vae, keep = self._components.vae, self._config.keep_weight
        device = vae.device
        target, source, mask = (
            pixels.to(device) for pixels in (scenes.target, scenes.source, scenes.mask)
        )
        with torch.autocast(device.type, torch.bfloat16):
            latents = encode_packed(vae, target * 2 - 1).cpu()  # [64, N, 4C]
            condition = fill_condition(vae, source * 2 - 1, mask).cpu()  # [64, N, 4C + 4f²]
        t5_ids, clip_ids = prompt_ids(self._components, scenes.prompts)
        return Samples(
            latents=latents.half(),
            condition=condition.half(),
            weight=loss_weight(scenes.mask, latents, vae_factor(vae.config), keep).half(),
            t5_ids=t5_ids,
            clip_ids=clip_ids,
            cell_labels=label_cells(scenes).flatten(2),
            letter_positions=letter_positions(t5_ids, *self._quotes),
        )

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """Draw `count` samples, some with an empty prompt, in float32."""
        rows = torch.randint(len(self._blocks) * BLOCK, (count,), generator=generator).tolist()
        picks = [(self._blocks[row // BLOCK], row % BLOCK) for row in rows]
        is_dropped = torch.rand(count, generator=generator) < self._config.drop_prompt

        def rows_of(field: str) -> Tensor:
            return torch.stack([getattr(block, field)[row] for block, row in picks])

        empty_t5, empty_clip = self._empty
        without_prompt = is_dropped[:, None]  # [B, 1]
        return Samples(
            latents=rows_of("latents").float(),
            condition=rows_of("condition").float(),
            weight=rows_of("weight").float(),
            t5_ids=torch.where(without_prompt, empty_t5, rows_of("t5_ids")),
            clip_ids=torch.where(without_prompt, empty_clip, rows_of("clip_ids")),
            cell_labels=rows_of("cell_labels").masked_fill(without_prompt[:, None], IGNORED),
            letter_positions=rows_of("letter_positions").masked_fill(without_prompt, IGNORED),
        )


def letter_positions(ids: Tensor, opening: int, closing: int) -> Tensor:
    """Return the position, from 0, of each token between the first quotes; -100 for others.

    Args:
        ids: int64 `[B, T]`; one token per letter.
        opening: id of the opening quote.
        closing: id of the closing quote.
    """
    is_open = (ids == opening).cumsum(1) - (ids == opening).long()
    inside = (is_open > 0) & ((ids == closing).cumsum(1) == 0)
    return torch.where(inside, inside.cumsum(1) - 1, IGNORED)


def loss_weight(mask: Tensor, latents: Tensor, factor: int, keep: float) -> Tensor:
    """Weigh what is repainted 1 and the rest `keep`, scaled so that small masks count too.

    A plain mean would leave a letter's or a shape's few tokens to the large extensions; equal
    weight for every image would favour single letters over words. The square root lies between.

    Args:
        mask: `[B, H, W]`, 1 = repaint.
        latents: packed `[B, N, 4C]`, for the shape only.
        factor: pixels per latent.
        keep: weight outside the mask.

    Returns:
        `[B, N, 4C]`; the mean over a batch of tasks as trained is about 1.
    """
    cells = pack_mask(mask, factor)
    b, n, _ = cells.shape
    touched = cells.view(b, n, factor**2, 4).amax(2)
    weight = touched.clamp(min=keep)
    weight = weight.mean(1, keepdim=True).mean(2, keepdim=True).rsqrt() * weight * 2
    return weight.repeat(1, 1, latents.shape[2] // 4)
