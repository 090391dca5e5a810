"""How easily a judge is fooled: unusable images, pushed uphill on its answer.

`python -m onereward.lab.judge.robustness JUDGE_FOLDER POOL_FOLDER FILL_FOLDER`

Each adversarial_pair sets an unusable candidate against a usable image of the same scene, both as the
oracle says. The unusable one is changed inside its mask by Adam so that the judge prefers it; what
the oracle still calls unusable afterwards should lose. `robustness.json` beside the judge says how
often it wins all the same.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...fill.sampling.latents import decode_latents, encode_pixels
from ...fill.task import Dimension, Task
from ...reward.query import Query
from ...reward.qwen_vl import QwenJudge
from ...reward.report import wilson_interval
from ...training.runs.files import write_text
from ..adapters.usability import Scenes, queries_of
from ..base_model.models import FillParts, load_folder, load_with_adapter
from ..base_model.sampling import sample_scenes
from ..oracle import DIMENSIONS, composite
from ..oracle import judge as ask_oracle
from ..world.conditions import TASKS, Conditions, join_conditions
from ..world.splits import Split
from .learner import load_whole_judge
from .pairs.candidates import FULL, TRUTH, Candidates, load_candidates
from .pairs.gather import files_of, scenes_of

log = logging.getLogger("onereward.training")

FILE_NAME = "robustness.json"
Rate = dict[str, object]
"""Share of wins, its 95 % interval, and of how many adversarial_pairs."""
_TOGETHER = 50
_PARTS_OF_LIMIT = 8
"""An Adam step moves about this part of the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackConfig:
    """How far an image may be changed."""

    steps: int = 50
    """Adam steps."""
    pixel_limit: float = 8 / 255
    """Largest change of a pixel, 0..1."""
    latent_limit: float = 0.1
    """Largest change of a latent, in its channel's standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdversarialPairs:
    """Unusable images and their usable baselines."""

    bad: Tensor
    """Float32 `[N, 3, 64, 64]` in 0..1."""
    good: Tensor
    """Float32 `[N, 3, 64, 64]` in 0..1."""
    conditions: Conditions
    queries: list[list[Query]]
    """For each adversarial_pair one question per dimension that the task is judged on."""

    def parts(self, size: int) -> Iterator[AdversarialPairs]:
        """Yield all adversarial_pairs, `size` at a time."""
        for rows in torch.arange(len(self.bad)).split(size):
            yield AdversarialPairs(
                bad=self.bad[rows],
                good=self.good[rows],
                conditions=self.conditions.select(rows),
                queries=[self.queries[row] for row in rows.tolist()],
            )


def find_adversarial_pairs(pool: Path, split: Split, num: int) -> AdversarialPairs:
    """Take the first unusable candidate of each scene, at most `num`, all scenes in order.

    Raises:
        FileNotFoundError: There are no candidates of the split.
        ValueError: No scene has both an unusable candidate and a usable image.
    """
    bad, good, conditions, queries = [], [], [], []
    files = files_of(pool, split)
    if not files:
        raise FileNotFoundError(f"{pool} has no candidates of the {split.value} split")
    for path in files:
        made = load_candidates([path])
        scenes = scenes_of(path, len(made))
        for row in range(len(made)):
            baselines = _rivals(made, row)
            if baselines is None or len(bad) == num:
                continue
            bad.append(made.images[row, baselines[0]].float() / 255)
            good.append(made.images[row, baselines[1]].float() / 255)
            conditions.append(scenes.select(torch.tensor([row])))
            queries.append(_queries(made, row))
    if not bad:
        raise ValueError(f"{pool} has no unusable candidate beside a usable image to try")
    return AdversarialPairs(
        bad=torch.stack(bad),
        good=torch.stack(good),
        conditions=join_conditions(conditions),
        queries=queries,
    )


def _rivals(made: Candidates, row: int) -> tuple[int, int] | None:
    usable, kinds = made.usable[row].tolist(), made.kinds.tolist()
    bad = [m for m, kind in enumerate(kinds) if kind == FULL and not usable[m]]
    good = [m for m, kind in enumerate(kinds) if kind in (FULL, TRUTH) and usable[m]]
    return (bad[0], good[0]) if bad and good else None


def _queries(made: Candidates, row: int) -> list[Query]:
    task, judged = Task(TASKS[int(made.task[row])]), ~made.scores[row, 0].isnan()
    names = [name for name, is_judged in zip(DIMENSIONS, judged.tolist(), strict=True) if is_judged]
    return [Query(task, Dimension(name), made.prompts[row]) for name in names]


def wins(judge: QwenJudge, images: Tensor, adversarial_pairs: AdversarialPairs) -> Tensor:
    """Return the mean P("Yes" | image, good one, q) over the dimensions, `[N]`: the reward."""
    bad = judge.encode_images(list(images))
    with torch.no_grad():
        good = judge.encode_images(list(adversarial_pairs.good))
    asked = [
        (first, second, query)
        for first, second, queries in zip(bad, good, adversarial_pairs.queries, strict=True)
        for query in queries
    ]
    yes = judge.answer(asked)[:, 0].exp()
    return torch.stack(
        [part.mean() for part in yes.split([len(q) for q in adversarial_pairs.queries])]
    )


def push_pixels(
    judge: QwenJudge, adversarial_pairs: AdversarialPairs, settings: AttackConfig
) -> Tensor:
    """Change the unusable images pixel by pixel inside their masks; `[N, 3, 64, 64]`."""
    where = adversarial_pairs.conditions.mask[:, None]

    def image(change: Tensor) -> Tensor:
        return (adversarial_pairs.bad + change * where).clamp(0, 1)

    start, limit = torch.zeros_like(adversarial_pairs.bad), torch.tensor(settings.pixel_limit)
    return _push(judge, adversarial_pairs, start, limit, image, settings.steps)


def push_latents(
    judge: QwenJudge, adversarial_pairs: AdversarialPairs, settings: AttackConfig, parts: FillParts
) -> Tensor:
    """Change the unusable images' latents, as a policy would; `[N, 3, 64, 64]`."""
    with torch.no_grad():
        latents = encode_pixels(parts.vae, adversarial_pairs.bad * 2 - 1)

    def image(change: Tensor) -> Tensor:
        pixels = decode_latents(parts.vae, latents + change).float() / 2 + 0.5
        return composite(pixels.clamp(0, 1), adversarial_pairs.conditions)

    limit = settings.latent_limit * latents.std((0, 2, 3), keepdim=True)
    return _push(judge, adversarial_pairs, torch.zeros_like(latents), limit, image, settings.steps)


def _push(
    judge: QwenJudge,
    adversarial_pairs: AdversarialPairs,
    change: Tensor,
    limit: Tensor,
    image: Callable[[Tensor], Tensor],
    steps: int,
) -> Tensor:
    """Climb for a number of Adam steps in units of the limit, never beyond it."""
    share = change.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([share], lr=1 / _PARTS_OF_LIMIT)
    for _ in range(steps):
        uphill = wins(judge, image(share * limit), adversarial_pairs).clamp(min=1e-6).log().sum()
        (gradient,) = torch.autograd.grad(-uphill, share)
        share.grad = gradient
        optimizer.step()
        with torch.no_grad():
            share.clamp_(-1, 1)
    with torch.no_grad():
        return image(share * limit)


def measure_robustness(
    judge: QwenJudge, adversarial_pairs: AdversarialPairs, settings: AttackConfig, parts: FillParts
) -> dict[str, Rate]:
    """Return, untouched and after each attack, how often an unusable image wins.

    An image wins if the mean P("Yes") over its dimensions is above 1/2; those that the oracle
    calls usable after the attack are left out.
    """
    ways: dict[str, Callable[[AdversarialPairs], Tensor]] = {
        "untouched": lambda some: some.bad,
        "pixels": lambda some: push_pixels(judge, some, settings),
        "latents": lambda some: push_latents(judge, some, settings, parts),
    }
    return {name: _rate(judge, adversarial_pairs, way) for name, way in ways.items()}


@torch.no_grad()
def measure_policy(judge: QwenJudge, fill: Path, adapter: Path, scenes: Scenes) -> Rate:
    """Return how often an unusable image of a policy wins against a usable one of its scene.

    Args:
        judge: The judge; the policy was trained against it.
        fill: The fill model.
        adapter: The policy, a LoRA on it.
        scenes: What both paint; the baseline is the model's image or, where that is unusable too,
            the true one.
    """
    conditions = scenes.conditions
    base, own = (
        composite(sample_scenes(parts, conditions, scenes.sampling), conditions)
        for parts in (load_folder(fill), load_with_adapter(fill, adapter))
    )
    usable = ask_oracle(base, conditions).usable
    good = torch.where(usable[:, None, None, None], base, conditions.target)
    rows = (~ask_oracle(own, conditions).usable).nonzero()[:, 0]
    adversarial_pairs = AdversarialPairs(
        bad=own[rows],
        good=good[rows],
        conditions=conditions.select(rows),
        queries=[list(queries_of(conditions, row)) for row in rows.tolist()],
    )
    return _rate(judge, adversarial_pairs, lambda some: some.bad)


def _rate(
    judge: QwenJudge, adversarial_pairs: AdversarialPairs, way: Callable[[AdversarialPairs], Tensor]
) -> Rate:
    won: list[bool] = []
    for some in adversarial_pairs.parts(_TOGETHER):
        images = way(some)
        still_bad = ~ask_oracle(images, some.conditions).usable
        with torch.no_grad():
            won += (wins(judge, images, some) > 0.5)[still_bad].tolist()
    share = sum(won) / max(1, len(won))
    low, high = wilson_interval(share, len(won)) if won else (0.0, 1.0)
    rate: Rate = {
        "wins": round(share, 4),
        "interval": [round(low, 4), round(high, 4)],
        "adversarial_pairs": len(won),
    }
    log.info("%s", rate)
    return rate


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judge", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("fill", type=Path)
    parser.add_argument("--split", choices=[s.value for s in Split], default=Split.TEST.value)
    parser.add_argument("--adversarial_pairs", type=int, default=200)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    adversarial_pairs = find_adversarial_pairs(
        arguments.pool, Split(arguments.split), arguments.adversarial_pairs
    )
    settings = AttackConfig()
    tried = measure_robustness(
        load_whole_judge(arguments.judge), adversarial_pairs, settings, load_folder(arguments.fill)
    )
    record = {"split": arguments.split, **asdict(settings), "attacks": tried}
    write_text(arguments.judge / FILE_NAME, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
