"""What a step works on: tasks by their probability, conditions, noises, and the rollout's length.

Everything of a step depends on the run's seed and the step's number alone, so that a run that
stopped goes on with the same draws, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.image.canvas import Job, make_jobs
from ...fill.memory.plan import Plan
from ...fill.models import FillModels
from ...fill.sampling.denoise import sample_noise
from ...fill.sampling.encode import EncodedJob, encode_job
from ...fill.sampling.guidance import Conditioning, Prompt
from ...fill.sampling.latents import pack_latents, position_ids
from ...fill.sampling.schedule import make_sigmas
from ...fill.task import Task
from ...reward.preference import split_of
from ...reward.query import Query, queries_for
from ..data.conditions import Condition, EditDataset, read_image
from ..runs.loop import step_generator
from .config import DPO, PolicyTrainConfig
from .preference_pairs import learned_pairs
from .prompts import PromptStore, model_prompt
from .reward_cells import RewardCells

_PLAN = Plan(rows=1, batched_cfg=True, tiled_vae=False)
_MAX_SEED = 2**31
LEARNED = (Task.FILL, Task.TEXT)
"""What supervised learning learns from images alone: tasks whose conditions show the truth under
their masks. Any task is learned from conditions that name a result."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One edit of a step.

    Example: ``source.sample(condition, noise_seed=1, reference_seed=2)``.
    """

    condition: Condition
    queries: tuple[Query, ...]
    """What it is judged on; empty in the control experiment."""
    noise_seed: int
    """Of the policy's noise."""
    reference_seed: int
    """Of the reference's noise, another one."""
    group: int = 0
    """Which edits are candidates of one and the same edit, where candidates are compared."""
    pair: tuple[Path, Path] | None = None
    """Winner and loser, where preferences are learned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Edits of equal size that go through the models together.

    Example: ``batches, stop_index = source.draw(step)``.
    """

    samples: tuple[Sample, ...]
    jobs: tuple[Job, ...]
    conditioning: Conditioning
    noise: Tensor
    """Packed latents ``[B, S, 4C]``, float32, of the policy."""
    reference_noise: Tensor
    """The same of the reference."""
    sigmas: Tensor
    """``steps + 1`` noise levels, on the CPU."""
    size: tuple[int, int]
    """Height and width in latents."""
    generators: tuple[torch.Generator, ...]
    """A source of randomness per edit, for what happens to it later in the step."""
    truth: Tensor | None = None
    """Packed latents ``[B, S, 4C]``, float32, of what is learned: whole images, or the winners."""
    loser: Tensor | None = None
    """The same of the losers, where preferences are learned."""

    def rows(self, indices: Sequence[int]) -> Batch:
        """Return some of its edits, which have no truth of their own."""
        rows, prompt = list(indices), self.conditioning.positive
        positive = Prompt(sequence=prompt.sequence[rows], pooled_embeds=prompt.pooled_embeds[rows])
        packed = self.conditioning.packed[rows]
        return replace(
            self,
            samples=tuple(self.samples[i] for i in rows),
            jobs=tuple(self.jobs[i] for i in rows),
            conditioning=replace(self.conditioning, packed=packed, positive=positive),
            noise=self.noise[rows],
            reference_noise=self.reference_noise[rows],
            generators=tuple(self.generators[i] for i in rows),
        )


class SampleSource:
    """The conditions of a run, ready to be drawn from.

    Example: ``SampleSource(config, conditions, models, cells, host).draw(step=0)``.

    Attributes:
        train: Conditions to learn from, by task.
        held_out: Conditions of the dev split.
        settings: How images are sampled.
    """

    def __init__(
        self,
        config: PolicyTrainConfig,
        conditions: EditDataset,
        models: FillModels,
        cells: RewardCells,
        host: Host,
    ) -> None:
        """Check the conditions and encode their prompts.

        Raises:
            ValueError: A file is missing or damaged, or nothing is left to learn from.
        """
        self._config, self._conditions, self._models = config, conditions, models
        self._reward_cells, self._host = cells, host
        self.settings = config.settings(models.recipe)
        self._pairs = learned_pairs(config, models, host)
        # Conditions by split and task, without those that nothing can be learned from.
        self.train = self._by_task("train")
        self.held_out = list(chain(*self._by_task("dev").values()))
        self._weights = {t: w for t, w in config.task_weights().items() if w and self.train[t]}
        if not self._weights:
            raise ValueError(
                f"{conditions.folder} has no condition to learn from: each is of a task whose "
                "weight is 0, or is judged only where the judge is right too seldom "
                f"(min_judge_accuracy {config.min_judge_accuracy:g}), or is held out; add "
                "conditions or lower min_judge_accuracy"
            )
        for task in (t for t, w in config.task_weights().items() if w and t not in self._weights):
            host.notify(f"{task.value} is left out: no conditions to learn from")
        # Files and prompts, before hours of work depend on them.
        used = [*self.held_out, *chain(*(self.train[task] for task in self._weights))]
        conditions.check(used)
        self.prompts = PromptStore(Path(config.run_folder) / "prompts", models)
        texts = [model_prompt(c) for c in used]
        self.prompts.prepare([*texts, self.settings.negative_prompt], host)

    def draw(self, step: int, rank: int = 0, count: int = 1) -> tuple[list[Batch], int]:
        """Return this process's edits of a step, and how many Euler steps the policy rolls out.

        Source: OneReward, sec. 4.4: a task by its probability, a condition, two noises, one t.
        """
        generator = step_generator(self._config.seed, step)
        stop_index = self._sample_stop(generator)
        size = self._config.group_size if self._config.has_groups else 1
        groups = [
            self._sample_group(index, size, generator)
            for index in range(self._config.batch_size // size)
        ]
        numbered = list(enumerate(chain(*groups)))
        # Siblings stay together: one process compares them.
        share = [item for item in numbered if item[0] // size % count == rank]
        return list(self.batches(share, step)), stop_index

    def batches(self, samples: Iterable[tuple[int, Sample]], step: int) -> Iterable[Batch]:
        """Yield the edits in batches of equal size, at most ``micro_batch_size`` each."""
        items = []
        for index, sample in samples:
            job, encoded = self._encode(sample)
            items.append((encoded[0].size, index, sample, job, encoded))
        items.sort(key=lambda item: item[:2])
        for _, group in groupby(items, key=lambda item: item[0]):
            equal_size = list(group)
            for start in range(0, len(equal_size), self._config.micro_batch_size):
                yield self._batch(equal_size[start : start + self._config.micro_batch_size], step)

    def queries_of(self, condition: Condition) -> tuple[Query, ...]:
        """Return everything that edits of a condition are judged on."""
        return self._reward_cells.allowed(queries_for(condition.task, condition.full_prompt))

    def sample(self, condition: Condition, noise_seed: int, reference_seed: int) -> Sample:
        """Return an edit of a condition with everything it can be judged on."""
        return Sample(
            condition=condition,
            queries=self.queries_of(condition),
            noise_seed=noise_seed,
            reference_seed=reference_seed,
        )

    def _by_task(self, split: str) -> dict[Task, list[Condition]]:
        by_task: dict[Task, list[Condition]] = {task: [] for task in Task}
        for condition in self._conditions.conditions:
            is_judged = bool(self.queries_of(condition)) or not self._config.needs_judge
            shows_truth = condition.task in LEARNED or bool(condition.result_file_name)
            is_known = self._config.needs_reward or shows_truth
            if self._config.objective == DPO:
                is_known = split != "train" or condition.name in self._pairs
            if split_of(condition.name) == split and is_judged and is_known:
                by_task[condition.task].append(condition)
        return by_task

    def _sample_stop(self, generator: torch.Generator) -> int:
        steps = self.settings.steps
        last = min(round(self._config.t2 * steps), steps - 1)
        first = min(round(self._config.t1 * steps), last)
        return int(torch.randint(first, last + 1, (), generator=generator))

    def _sample_group(self, index: int, size: int, generator: torch.Generator) -> list[Sample]:
        """Return an edit, or several of one condition with noises of their own."""
        first = replace(self._sample_edit(generator), group=index)
        more = torch.randint(_MAX_SEED, (size - 1,), generator=generator).tolist()
        return [first, *(replace(first, noise_seed=seed) for seed in more)]

    def _sample_edit(self, generator: torch.Generator) -> Sample:
        tasks, weights = zip(*self._weights.items(), strict=True)
        task = tasks[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]
        conditions = self.train[task]
        condition = conditions[int(torch.randint(len(conditions), (), generator=generator))]
        seeds = torch.randint(_MAX_SEED, (2,), generator=generator).tolist()
        if pool := self._config.reference_pool:
            seeds[1] %= pool
        sample = self.sample(condition, *seeds)
        if pairs := self._pairs.get(condition.name):
            pair = pairs[int(torch.randint(len(pairs), (), generator=generator))]
            return replace(sample, pair=pair)
        return sample

    def _encode(self, sample: Sample) -> tuple[Job, tuple[EncodedJob, ...]]:
        """Return the edit, encoded with what is learned of it: nothing, a truth, or a pair."""
        condition = sample.condition
        request = self._conditions.request(condition, config=self._config.fill())
        images: list[Tensor] = []
        if sample.pair is not None:
            images = [read_image(path)[None] for path in sample.pair]
        elif not self._config.needs_reward:
            images = [self._conditions.result(condition)]
        requests = [replace(request, image=image) for image in images] or [request]
        jobs: list[Job] = []
        for job_request in requests:
            (job,) = make_jobs(job_request, self._models, self.settings)
            assert job is not None, "a request refuses an empty mask"
            jobs.append(job)
        encoded = (encode_job(j, self._models, self._host, _PLAN, bool(images)) for j in jobs)
        return jobs[0], tuple(encoded)

    def _batch(
        self,
        items: Sequence[tuple[tuple[int, int], int, Sample, Job, tuple[EncodedJob, ...]]],
        step: int,
    ) -> Batch:
        size, indices, samples, jobs, encodings = (list(v) for v in zip(*items, strict=True))
        height, width = size[0]
        encoded, *losers = zip(*encodings, strict=True)
        tokens = encoded[0].conditioning.shape[0]
        return Batch(
            samples=tuple(samples),
            jobs=tuple(jobs),
            conditioning=self._conditioning(samples, encoded),
            noise=self._noise([s.noise_seed for s in samples], size[0]),
            reference_noise=self._noise([s.reference_seed for s in samples], size[0]),
            sigmas=make_sigmas(self._models.scheduler_config, self.settings.steps, tokens),
            size=(height, width),
            generators=tuple(
                step_generator(self._config.seed + 1 + index, step, purpose=1) for index in indices
            ),
            truth=self._truth(encoded),
            loser=self._truth(losers[0]) if losers else None,
        )

    def _truth(self, encoded: Sequence[EncodedJob]) -> Tensor | None:
        latents = [e.source for e in encoded if e.source is not None]
        return pack_latents(torch.stack(latents)).to(self._host.device) if latents else None

    def _conditioning(
        self, samples: Sequence[Sample], encoded: Sequence[EncodedJob]
    ) -> Conditioning:
        device, dtype = self._host.device, self._models.transformer.dtype
        prompts = [self.prompts.get(model_prompt(s.condition)) for s in samples]
        positive = Prompt(
            sequence=torch.stack([p.sequence for p in prompts]),
            pooled_embeds=torch.stack([p.pooled_embeds for p in prompts]),
        )
        negative = None
        if self.settings.true_cfg != 1.0:
            negative = self.prompts.get(self.settings.negative_prompt).to(device, dtype)
        height, width = encoded[0].size
        return Conditioning(
            packed=torch.stack([e.conditioning for e in encoded]).to(device, dtype),
            image_ids=position_ids(height, width, device),
            positive=positive.to(device, dtype),
            negative=negative,
            true_cfg=self.settings.true_cfg,
            guidance=self.settings.guidance if self._models.has_guidance else None,
        )

    def _noise(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        channels = self._models.vae_config["latent_channels"]
        noise = torch.stack([sample_noise(channels, size, seed) for seed in seeds])
        return pack_latents(noise).to(self._host.device)
