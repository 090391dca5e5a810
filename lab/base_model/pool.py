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
from .models import FillParts, encode_packed, fill_condition, prompt_ids
from .photographs import find_photographs, sample_photo_crops

BLOCK = 64
IGNORED = -100
_PHOTO_CROPS = 8192
# On a photograph the world's shapes and words matter less than continuing its texture.
_PHOTO_TASK_WEIGHTS = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Encoded samples; one row each."""

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
    marks: Tensor
    """Int64 `[B, 3, N]`: what each token's cell has to show; -100 where no prompt says so."""
    places: Tensor
    """Int64 `[B, T]`: the place in the word of each of the T5's tokens; -100 for other tokens."""

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on a device."""
        return Samples(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class ScenePool:
    """Blocks of 64 encoded scenes in half precision."""

    def __init__(self, config: FillTrainConfig, parts: FillParts) -> None:
        """Prepare photographs; `fill_up` encodes the scenes."""
        self._config, self._parts = config, parts
        self._blocks: list[Samples] = []
        self._photos = torch.empty(0)
        if config.photo_share > 0:
            paths = find_photographs(config.photo_folders, is_held_out=False)
            generator = step_generator(config.seed, 0, purpose=1)
            self._photos = sample_photo_crops(paths, _PHOTO_CROPS, generator)
        self._empty = prompt_ids(parts, [""])
        self._quotes: list[int] = parts.t5_tokenizer.convert_tokens_to_ids(['▁"', '"'])  # type: ignore[assignment]

    def fill_up(self, renewals: int) -> None:
        """Encode what the pool holds after a number of renewals."""
        count = self._config.pool_blocks
        # Block j holds the newest number below count + renewals that leaves j when divided.
        newest = [j + count * ((renewals + count - 1 - j) // count) for j in range(count)]
        self._blocks = [self._encode(self._scenes(number)) for number in newest]

    def renew(self, renewals: int) -> None:
        """Replace the oldest block; `renewals` counts those before this one."""
        count = self._config.pool_blocks
        self._blocks[renewals % count] = self._encode(self._scenes(count + renewals))

    def _scenes(self, number: int) -> Conditions:
        generator = step_generator(self._config.seed, number, purpose=5)
        share = self._config.photo_share
        # Photographs come evenly: one block of 64 whenever their share adds up to another whole.
        is_photo = int((number + 1) * share) > int(number * share)
        weights = _PHOTO_TASK_WEIGHTS if is_photo else self._config.task_weights
        tasks = torch.multinomial(
            torch.tensor(weights), BLOCK, replacement=True, generator=generator
        )
        if not is_photo:
            return sample_conditions(Split.TRAIN, number, tasks)
        chosen = torch.randint(len(self._photos), (BLOCK,), generator=generator)
        return sample_conditions(Split.TRAIN, number, tasks, self._photos[chosen].float() / 255)

    def _encode(self, scenes: Conditions) -> Samples:
        vae, keep, device = self._parts.vae, self._config.keep_weight, self._parts.vae.device
        target, source, mask = (
            pixels.to(device) for pixels in (scenes.target, scenes.source, scenes.mask)
        )
        with torch.autocast(device.type, torch.bfloat16):
            latents = encode_packed(vae, target * 2 - 1).cpu()
            condition = fill_condition(vae, source * 2 - 1, mask).cpu()
        t5_ids, clip_ids = prompt_ids(self._parts, scenes.prompts)
        return Samples(
            latents=latents.half(),
            condition=condition.half(),
            weight=loss_weight(scenes.mask, latents, vae_factor(vae.config), keep).half(),
            t5_ids=t5_ids,
            clip_ids=clip_ids,
            marks=label_cells(scenes).flatten(2),
            places=letter_places(t5_ids, *self._quotes),
        )

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """Draw `count` samples, some with an empty prompt, in float32."""
        rows = torch.randint(len(self._blocks) * BLOCK, (count,), generator=generator).tolist()
        picked = [(self._blocks[row // BLOCK], row % BLOCK) for row in rows]
        is_dropped = torch.rand(count, generator=generator) < self._config.drop_prompt
        names = ("t5_ids", "clip_ids", "marks", "places")
        ids = {k: torch.stack([getattr(block, k)[row] for block, row in picked]) for k in names}
        empty_t5, empty_clip = self._empty
        return Samples(
            latents=torch.stack([block.latents[row] for block, row in picked]).float(),
            condition=torch.stack([block.condition[row] for block, row in picked]).float(),
            weight=torch.stack([block.weight[row] for block, row in picked]).float(),
            t5_ids=torch.where(is_dropped[:, None], empty_t5, ids["t5_ids"]),
            clip_ids=torch.where(is_dropped[:, None], empty_clip, ids["clip_ids"]),
            marks=ids["marks"].masked_fill(is_dropped[:, None, None], IGNORED),
            places=ids["places"].masked_fill(is_dropped[:, None], IGNORED),
        )


def letter_places(ids: Tensor, opening: int, closing: int) -> Tensor:
    """Return the place, from 0, of each token between the first quotes; -100 for other tokens.

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
