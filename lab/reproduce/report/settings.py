"""The plan's values, as the report's text and its table of deviations name them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ....fill.task import Task
from ....reward.preference import split_of
from ....training.data.conditions import EditDataset
from ....training.data.generate import GenerateConfig
from ....training.evaluation.config import EvalConfig
from ....training.policy.config import LORA, PolicyTrainConfig
from ...judge.config import CompareConfig
from ...judge.pairs.candidates import BATCH
from ...oracle import DIMENSIONS
from ...world.canvas import SIZE
from ..config import ReproduceConfig
from ..judges import BUNDLED, judge_folder
from ..measure import FIRST, WINDOW
from ..stage import Context
from .cells import plain, table
from .models import ENDS
from .names import label
from .signs import CLEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was planned, in the words of the parts' own configs."""

    context: Context
    policy: PolicyTrainConfig
    hack: PolicyTrainConfig
    compare: CompareConfig
    """The judge's last stage."""

    @property
    def config(self) -> ReproduceConfig:
        """The plan."""
        return self.context.config

    def values(self) -> dict[str, str]:
        """Return everything that the report's text names."""
        return self._counts() | self._judge() | self._policies() | {"deviations": self.deviations()}

    def _counts(self) -> dict[str, str]:
        config = self.config
        splits = ("pool_train", "pool_dev", "pool_test")
        batches = config.gather_config(60.0).batches
        conditions = EditDataset(self.context.folder / "conditions").conditions
        found = Counter(split_of(one.name) for one in conditions)
        names = ("ablation_scenes", "hack_scenes", "test_scenes", "conditions", "best_of", "shown")
        counts = {name: str(getattr(config, name)) for name in names}
        scenes = {name: str(BATCH * n) for name, n in zip(splits, batches, strict=True)}
        return {
            **counts,
            **scenes,
            "size": str(SIZE),
            "num_tasks": str(len(Task)),
            "clear": f"{CLEAR:g}",
            "seed": str(config.seed),
            "learned": str(found["train"]),
            "watched": str(found["dev"]),
            "margin": f"{config.margin:g}",
            "few_steps": str(config.fewer_steps(config.ablation_share)["steps"]),
            "single_steps": str(config.fewer_steps(config.ablation_share / len(Task))["steps"]),
            "num_seeds": str(len(config.ablation_seeds)),
            "max_seam": f"{EvalConfig(seed=config.seed).max_seam:g}",
            "max_tone": f"{EvalConfig(seed=config.seed).max_tone:g}",
        }

    def _judge(self) -> dict[str, str]:
        config, last = self.config, self.compare
        gather = config.gather_config(60.0)
        collect = GenerateConfig(steps=gather.steps)
        margins = zip(DIMENSIONS, last.margins, strict=True)
        return {
            "candidates": str(collect.num_candidates),
            "steps_drawn": _span(collect.steps),
            "cfg_drawn": _span(collect.true_cfg),
            "strength_drawn": _span(collect.denoise),
            "margins": ", ".join(f"{plain(name)} {value:g}" for name, value in margins),
            "naive_changes": ", ".join(
                f"`{name}` {value} instead of {getattr(last, name)}"
                for name, value in config.naive.items()
            )
            or "nothing is different",
            "judge_origin": f"`{config.judge_start}`" if config.judge_start else "nothing",
            "pair_steps": str(config.per_dimension["steps"]),
            "max_pairs": str(config.max_pairs),
            "judge_parameters": millions(judge_folder(config, BUNDLED)),
            "base_parameters": millions(Path(config.fill_folder) / "transformer"),
        }

    def _policies(self) -> dict[str, str]:
        policy, hack = self.policy, self.hack
        recipe = json.loads((Path(self.config.fill_folder) / "recipe.json").read_text())
        return {
            "sampling": _sampling(policy),
            "recipe": f"{recipe['steps']} steps at true_cfg {recipe['true_cfg']:g}",
            "hack_settings": (
                f"rate {hack.learning_rate:g}, min_judge_accuracy {hack.min_judge_accuracy:g}, kl_weight {hack.kl_weight:g}, shift "
                f"{hack.shift}, blur {hack.blur:g}, noise {hack.noise:g}, {hack.steps} steps, a "
                f"look every {hack.eval_every}"
            ),
            "ends": str(ENDS),
            "window": str(WINDOW),
            "first": str(FIRST),
            "lambda": f"{policy.reward_cap:g}",
            "eval_conditions": str(policy.eval_conditions),
            "algorithm": label(self.config, policy.algorithm),
            "ema": f"{policy.ema_decay:g}",
        }

    def deviations(self) -> str:
        """Return what is not as in the paper, or not stated there."""
        policy = self.policy
        weights = ", ".join(f"{t.value} {w:g}" for t, w in policy.task_weights().items())
        trained = f"a LoRA of rank {policy.rank} on {policy.layers}"
        looks = f"every {policy.eval_every} steps" if policy.eval_every else "never"
        stops = f"stops when images drift, looked at {looks}" if policy.stop_on_drift else "none"
        weights_of_judge = f"{millions(judge_folder(self.config, BUNDLED))} weights, trained here"
        said = {
            "judge": ("Qwen2.5-VL-7B-Instruct", weights_of_judge),
            "what the judge learns": (
                "eq. 3 on people's preferences",
                "eq. 3 on the oracle's, its scores and maps of single images, to see",
            ),
            "weights that learn": ("all", trained if policy.mode == LORA else "all"),
            "learning rate": ("1e-5", f"{policy.learning_rate:g}"),
            "edits per step": ("8", str(policy.batch_size)),
            "steps": ("about 8000", str(policy.steps)),
            "tasks": ("fill with text 0.5, extend 0.25, remove 0.25", weights),
            "lambda": ("not stated", f"{policy.reward_cap:g}"),
            "t, as a share of the schedule": (
                "not stated",
                f"{policy.t1:g} to {policy.t2:g}",
            ),
            "decay of the moving average": ("not stated", f"{policy.ema_decay:g}"),
            "sampling while training": ("not stated", _sampling(policy)),
            "gate: least accuracy of the judge on dev pairs": (
                "none",
                f"{policy.min_judge_accuracy:g}",
            ),
            "kl_weight: weight of the squared distance to the reference's velocity": (
                "none",
                f"{policy.kl_weight:g}",
            ),
            "augmentation of both judged images": (
                "none",
                f"shift up to {policy.shift} pixels, {100 * policy.blur:g} % blurred, noise up to "
                f"{policy.noise:g}",
            ),
            "kept area pasted back before judging": (
                "not stated",
                "yes" if policy.paste_back else "no",
            ),
            "stop": ("not stated", stops),
        }
        return table(
            [["setting", "paper", "here"], *([name, *both] for name, both in said.items())]
        )


def settings_of(context: Context) -> Settings:
    """Return the settings of a plan."""
    config = context.config
    last = config.judge_config(len(config.judge) - 1, Path("run"), Path("before"), 60.0)
    assert isinstance(last, CompareConfig), "checked when the config was made"
    plan, judge = config.policy_config, Path("judge")
    hack: dict[str, Any] = {"stop_on_drift": False} | config.hack
    return Settings(
        context=context,
        policy=plan("any", judge, 60.0, {}),
        hack=plan("any", judge, 60.0, hack),
        compare=last,
    )


def millions(folder: Path) -> str:
    """Return how many weights the safetensors files of a folder hold, in millions."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return f"{total / 1e6:.1f} million"


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _sampling(policy: PolicyTrainConfig) -> str:
    steps = "the recipe's" if policy.sampling_steps < 0 else str(policy.sampling_steps)
    guidance = "the recipe's" if policy.true_cfg < 0 else f"{policy.true_cfg:g}"
    return f"{steps} steps at true_cfg {guidance}"
