"""Robustness of a judge: how often unusable images win against it after an attack.

`python -m onereward.lab.judge.robustness JUDGE_FOLDER POOL_FOLDER FILL_FOLDER`

Each adversarial pair has an unusable candidate and a usable image of the same scene, by the oracle.
The unusable one is attacked inside its mask by Adam so that the judge prefers it. What the oracle
still calls unusable afterwards should lose; `robustness.json` beside the judge holds how often it
wins all the same:

    {
      "split": "test",
      "steps": 50,
      "pixel_limit": 0.03137254901960784,
      "latent_limit": 0.1,
      "attacks": {
        "untouched": {"wins": 0.125, "interval": [0.0546, 0.2611], "num_pairs": 40},
        "pixels": {"wins": 0.6216, "interval": [0.461, 0.7594], "num_pairs": 37},
        "latents": {"wins": 0.4848, "interval": [0.325, 0.6478], "num_pairs": 33}
      }
    }
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

from ...fill.io.files import write_text
from ...fill.sampling.latents import decode_latents, encode_pixels
from ...fill.task import Dimension, Task
from ...reward.judge import PairQuestion
from ...reward.query import Query
from ...reward.report import wilson_interval
from ...reward.vlm.qwen_vl import QwenJudge
from ..adapters.usability import Scenes, queries_of
from ..base_model.models import FillComponents, load_folder, load_with_adapter
from ..base_model.sampling import sample_scenes
from ..oracle import DIMENSIONS, composite
from ..oracle import judge as ask_oracle
from ..world.conditions import TASKS, Conditions, join_conditions
from ..world.splits import Split
from .learner import load_whole_judge
from .pairs.candidate_pool import files_of, scenes_of
from .pairs.candidates import FULL, TRUTH, Candidates, load_candidates

log = logging.getLogger("onereward.training")

FILE_NAME = "robustness.json"
Rate = dict[str, object]
"""Share of wins, its 95 % interval, and the number of pairs."""
_BATCH = 50
_STEPS_TO_LIMIT = 8
"""An Adam step changes an image by about the limit divided by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackConfig:
    """Steps and limits of an attack.

    Example: ``AttackConfig(steps=50, pixel_limit=8 / 255)``.
    """

    steps: int = 50
    """Adam steps."""
    pixel_limit: float = 8 / 255
    """Largest change of a pixel, 0..1."""
    latent_limit: float = 0.1
    """Largest change of a latent, in its channel's standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdversarialPairs:
    """Unusable images and usable ones of the same scenes.

    Example: ``find_adversarial_pairs(Path("runs/pool"), Split.TEST, 200).bad``  # [N, 3, 64, 64]
    """

    bad: Tensor
    """Float32 `[N, 3, 64, 64]` in 0..1."""
    good: Tensor
    """Float32 `[N, 3, 64, 64]` in 0..1."""
    conditions: Conditions
    queries: list[list[Query]]
    """Per pair, one question for each dimension that its task is judged on."""

    def batches(self, size: int) -> Iterator[AdversarialPairs]:
        """Yield all pairs, `size` at a time."""
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
        candidates = load_candidates([path])
        scenes = scenes_of(path, len(candidates))
        for row in range(len(candidates)):
            members = _bad_and_good(candidates, row)
            if members is None or len(bad) == num:
                continue
            bad.append(candidates.images[row, members[0]].float() / 255)
            good.append(candidates.images[row, members[1]].float() / 255)
            conditions.append(scenes.select(torch.tensor([row])))
            queries.append(_queries(candidates, row))
    if not bad:
        raise ValueError(f"{pool} has no unusable candidate beside a usable image to try")
    return AdversarialPairs(
        bad=torch.stack(bad),
        good=torch.stack(good),
        conditions=join_conditions(conditions),
        queries=queries,
    )


def _bad_and_good(candidates: Candidates, row: int) -> tuple[int, int] | None:
    """Return the first unusable candidate and the first usable image of a scene, if it has both."""
    usable, kinds = candidates.usable[row].tolist(), candidates.kinds.tolist()
    bad = [m for m, kind in enumerate(kinds) if kind == FULL and not usable[m]]
    good = [m for m, kind in enumerate(kinds) if kind in (FULL, TRUTH) and usable[m]]
    return (bad[0], good[0]) if bad and good else None


def _queries(candidates: Candidates, row: int) -> list[Query]:
    task, is_scored = Task(TASKS[int(candidates.task[row])]), ~candidates.scores[row, 0].isnan()
    names = [DIMENSIONS[column] for column in is_scored.nonzero()[:, 0].tolist()]
    return [Query(task, Dimension(name), candidates.prompts[row]) for name in names]


def wins(judge: QwenJudge, images: Tensor, pairs: AdversarialPairs) -> Tensor:
    """Return the mean P("Yes" | image, good one, q) over the dimensions, `[N]`: the reward."""
    bad = judge.encode_images(list(images))
    with torch.no_grad():
        good = judge.encode_images(list(pairs.good))
    questions = [
        PairQuestion(first, second, query)
        for first, second, queries in zip(bad, good, pairs.queries, strict=True)
        for query in queries
    ]
    yes = judge.answer(questions)[:, 0].exp()
    lengths = [len(queries) for queries in pairs.queries]
    return torch.stack([answers.mean() for answers in yes.split(lengths)])


def attack_pixels(judge: QwenJudge, pairs: AdversarialPairs, settings: AttackConfig) -> Tensor:
    """Attack the unusable images pixel by pixel inside their masks; `[N, 3, 64, 64]`."""
    mask = pairs.conditions.mask[:, None]

    def image(change: Tensor) -> Tensor:
        return (pairs.bad + change * mask).clamp(0, 1)

    start, limit = torch.zeros_like(pairs.bad), torch.tensor(settings.pixel_limit)
    return _ascend(judge, pairs, start, limit, image, settings.steps)


def attack_latents(
    judge: QwenJudge,
    pairs: AdversarialPairs,
    settings: AttackConfig,
    components: FillComponents,
) -> Tensor:
    """Attack the latents of the unusable images, as a policy would; `[N, 3, 64, 64]`."""
    with torch.no_grad():
        latents = encode_pixels(components.vae, pairs.bad * 2 - 1)  # [N, C, H, W]

    def image(change: Tensor) -> Tensor:
        pixels = decode_latents(components.vae, latents + change).float() / 2 + 0.5
        return composite(pixels.clamp(0, 1), pairs.conditions)

    limit = settings.latent_limit * latents.std((0, 2, 3), keepdim=True)
    return _ascend(judge, pairs, torch.zeros_like(latents), limit, image, settings.steps)


def _ascend(
    judge: QwenJudge,
    pairs: AdversarialPairs,
    change: Tensor,
    limit: Tensor,
    image: Callable[[Tensor], Tensor],
    steps: int,
) -> Tensor:
    """Ascend for a number of Adam steps in units of the limit, never beyond it."""
    share = change.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([share], lr=1 / _STEPS_TO_LIMIT)
    for _ in range(steps):
        log_wins = wins(judge, image(share * limit), pairs).clamp(min=1e-6).log().sum()
        (gradient,) = torch.autograd.grad(-log_wins, share)
        share.grad = gradient
        optimizer.step()
        with torch.no_grad():
            share.clamp_(-1, 1)
    with torch.no_grad():
        return image(share * limit)


def measure_robustness(
    judge: QwenJudge,
    pairs: AdversarialPairs,
    settings: AttackConfig,
    components: FillComponents,
) -> dict[str, Rate]:
    """Return, untouched and after each attack, how often an unusable image wins.

    An image wins if the mean P("Yes") over its dimensions is above 1/2; those that the oracle
    calls usable after the attack are left out.
    """
    attacks: dict[str, Callable[[AdversarialPairs], Tensor]] = {
        "untouched": lambda batch: batch.bad,
        "pixels": lambda batch: attack_pixels(judge, batch, settings),
        "latents": lambda batch: attack_latents(judge, batch, settings, components),
    }
    return {name: _rate(judge, pairs, attack) for name, attack in attacks.items()}


@torch.no_grad()
def measure_policy(judge: QwenJudge, fill: Path, adapter: Path, scenes: Scenes) -> Rate:
    """Return how often an unusable image of a policy wins against a usable one of its scene.

    Args:
        judge: The judge; the policy was trained against it.
        fill: The fill model.
        adapter: The policy, a LoRA on it.
        scenes: Scenes of both. The usable image is the base model's or, where that is unusable
            too, the true one.
    """
    conditions = scenes.conditions
    base, policy = (
        composite(sample_scenes(components, conditions, scenes.sampling), conditions)
        for components in (load_folder(fill), load_with_adapter(fill, adapter))
    )
    usable = ask_oracle(base, conditions).usable
    good = torch.where(usable[:, None, None, None], base, conditions.target)
    rows = (~ask_oracle(policy, conditions).usable).nonzero()[:, 0]
    pairs = AdversarialPairs(
        bad=policy[rows],
        good=good[rows],
        conditions=conditions.select(rows),
        queries=[list(queries_of(conditions, row)) for row in rows.tolist()],
    )
    return _rate(judge, pairs, lambda batch: batch.bad)


def _rate(
    judge: QwenJudge, pairs: AdversarialPairs, attack: Callable[[AdversarialPairs], Tensor]
) -> Rate:
    won: list[bool] = []
    for batch in pairs.batches(_BATCH):
        images = attack(batch)
        still_bad = ~ask_oracle(images, batch.conditions).usable
        with torch.no_grad():
            won += (wins(judge, images, batch) > 0.5)[still_bad].tolist()
    share = sum(won) / max(1, len(won))
    low, high = wilson_interval(share, len(won)) if won else (0.0, 1.0)
    rate: Rate = {
        "wins": round(share, 4),
        "interval": [round(low, 4), round(high, 4)],
        "num_pairs": len(won),
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
    parser.add_argument("--adversarial-pairs", type=int, default=200, help="most pairs to use")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    pairs = find_adversarial_pairs(
        arguments.pool, Split(arguments.split), arguments.adversarial_pairs
    )
    settings = AttackConfig()
    rates = measure_robustness(
        load_whole_judge(arguments.judge), pairs, settings, load_folder(arguments.fill)
    )
    record = {"split": arguments.split, **asdict(settings), "attacks": rates}
    write_text(arguments.judge / FILE_NAME, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
