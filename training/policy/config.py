"""Every setting of policy training: what the node's inputs are made from, and the JSON of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...fill.config import LIMITS, PACKED_PRECISIONS, FillConfig, ModelConfig
from ...fill.json_config import SHARE, setting
from ...fill.recipe import Recipe, Settings, resolve_settings
from ...fill.task import Task
from ...reward.label_choice import contradictions_setting, labels_by_setting
from ...reward.load_judge import check_judge_values
from ..runs.config import BLOCKS, OFF, RunConfig, check_alpha_and_rate, require

FIXED, DYNAMIC = "fixed", "dynamic"
LORA, FULL = "lora", "full"
ADAM, ADAM_8BIT = "adamw", "adamw_8bit"
MEAN, WORST = "mean", "worst"
REWARD, SUPERVISED, DPO, NFT, BEST_OF_N = "reward", "supervised", "dpo", "nft", "best_of_n"
ATTENTION, LINEAR = "attention", "attention_mlp"
KEEP_ATTENTION = "blocks_keep_attention"
PAPER_RATE, LORA_RATE = 1e-5, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTrainConfig(RunConfig):
    """One run of alg. 1 or alg. 2, or of another objective on the same loop.

    Example: ``PolicyTrainConfig.load(Path("runs/policy/config.json")).peak_rate``.
    """

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        *("steps", "stop_step", "max_minutes", "checkpoint_minutes", "log_every", "threads"),
        *("save_total_limit", "tensorboard", "patience", "stop_on_drift"),
    )
    """What may differ when a run goes on: none of it changes a weight."""

    model: dict[str, Any]
    """The fill model: fields of :class:`~...fill.config.ModelConfig`, ``folder`` at least."""
    dataset_folder: str
    """What edits are made from; its train split is learned, its dev split evaluated."""
    adapters: tuple[str, ...] = ()
    """LoRA files that stay on the model, frozen: part of the start and of the reference."""
    strengths: tuple[float, ...] = ()
    """Their strengths."""
    judges: tuple[dict[str, Any], ...] = ()
    """The judges, each as fields of :class:`~...reward.judge.JudgeConfig`, ``folder`` at least;
    several are asked the same and make an ensemble."""
    eval_judge: dict[str, Any] = field(default_factory=dict)
    """A judge that no gradient ever reaches; it exposes reward hacking and picks the best step.
    Empty: none."""
    preferences_folder: str = ""
    """Preference data that objective dpo learns from; its conditions are those of the dataset."""
    external_reward: bool = False
    """The caller of ``train_policy`` hands in a reward that takes the place of the judges, as a
    laboratory's control experiment does; such a run cannot be started from its file alone."""
    log_every: int = 1
    """Steps between two lines of the log; the metrics have every step."""
    max_minutes: float = 1e6
    """Stops with a checkpoint after this time; the same command goes on from there."""

    steps: int = setting(
        8000, "Optimiser steps of the whole run; raise it to go on (paper: 8000).", min=1, max=10**6
    )
    algorithm: str = setting(
        FIXED,
        "What the policy is compared with: the fixed start (alg. 1) or, dynamic, its own moving "
        "average (alg. 2).",
        options=(FIXED, DYNAMIC),
    )
    mode: str = setting(
        LORA,
        "lora: a small adapter on a frozen model. full: all weights of the transformer.",
        options=(LORA, FULL),
    )
    rank: int = setting(16, "Rank of the LoRA.", min=1, max=512, step=1)
    alpha: float = setting(
        -1.0,
        "Scale of the LoRA times its rank; -1 = the rank, a scale of 1.",
        min=-1.0,
        max=1024.0,
        step=0.5,
    )
    layers: str = setting(
        LINEAR,
        "Which linear layers of the blocks the LoRA goes on.",
        options=(LINEAR, ATTENTION),
    )
    batch_size: int = setting(
        8, "Edits per step, over all processes together (paper: 8).", min=1, max=4096, step=1
    )
    micro_batch_size: int = setting(
        1, "Edits that go through the models at once: speed against memory.", min=1, max=256, step=1
    )
    learning_rate: float = setting(
        -1.0,
        "AdamW's, constant after the warm-up; -1 = 1e-4 for a LoRA, 1e-5 for all weights (the "
        "paper's).",
        min=-1.0,
        max=1.0,
        step=1e-7,
    )
    warmup_steps: int = setting(10, "Steps of linear warm-up.", min=0, max=10**5, step=1)
    max_grad_norm: float = setting(
        1.0,
        "Largest norm of a step's gradient; longer ones are clipped.",
        min=1e-6,
        max=1e6,
        step=0.01,
    )
    reward_cap: float = setting(
        0.9,
        "Lambda: no reward beyond this P(Yes), so that a judge that is sure already is not chased.",
        **SHARE,
    )
    ema_decay: float = setting(
        0.99, "Decay per step of the policy's moving average.", min=0.0, max=0.99999, step=0.0001
    )
    saved_weights: str = setting(
        "policy",
        "Which weights are saved: the policy, or its average, which did less harm in our trials "
        "and needs a run several times as long as 1 / (1 - ema_decay).",
        options=("policy", "ema"),
    )
    sampling_steps: int = setting(
        -1,
        "Steps of the schedule that images are sampled with; -1 = the model's recipe.",
        min=-1,
        max=200,
        step=1,
    )
    true_cfg: float = setting(
        -1.0,
        "True guidance while training; 1 = off, half the time; -1 = the model's recipe.",
        **LIMITS["true_cfg"],
    )
    guidance: float = setting(
        -1.0,
        "Guidance embedding while training; -1 = the model's recipe.",
        **LIMITS["guidance"],
    )
    target_size: int = setting(
        -1,
        "Side in pixels of a square of as many pixels as an edit is sampled at; -1 = the model's "
        "recipe. 512 takes a quarter of the time and memory of 1024.",
        **LIMITS["target_size"],
    )
    t1: float = setting(
        0.2,
        "The policy rolls out a random share of the schedule before its one step with gradient: "
        "the smallest share.",
        min=0.0,
        max=1.0,
        step=0.05,
    )
    t2: float = setting(0.95, "The largest share.", min=0.0, max=1.0, step=0.05)
    weight_fill: float = setting(
        0.25, "How often fill is drawn (paper: 50 % for fill and text).", **SHARE
    )
    weight_extend: float = setting(0.25, "How often extend is drawn (paper: 25 %).", **SHARE)
    weight_remove: float = setting(0.25, "How often remove is drawn (paper: 25 %).", **SHARE)
    weight_text: float = setting(0.25, "How often text is drawn.", **SHARE)
    min_judge_accuracy: float = setting(
        0.75,
        "Least accuracy of the judge on held-out pairs; a task and dimension below it is left out. "
        "0 = leave nothing out.",
        **SHARE,
    )
    ensemble: str = setting(
        MEAN,
        "How the answers of several judges are combined: the mean, or the worst one.",
        options=(MEAN, WORST),
    )
    paste_back: bool = setting(
        True, "Put the kept area of the source back before judging, as every node does at the end."
    )
    shift: int = setting(
        0, "Largest random shift of both judged images per axis, in pixels.", min=0, max=64, step=1
    )
    blur: float = setting(
        0.0, "Share of judged pairs that are blurred a little.", min=0.0, max=1.0, step=0.05
    )
    noise: float = setting(
        0.0, "Largest deviation of noise on both judged images.", min=0.0, max=0.5, step=0.01
    )
    kl_weight: float = setting(
        0.0,
        "Weight of the KL divergence from the reference, in velocity space: the mean squared "
        "difference of the two velocities.",
        min=0.0,
        max=1e4,
        step=0.001,
    )
    reference_pool: int = setting(
        0,
        "Alg. 1 only: keep this many reference images per condition and use them again, which "
        "saves half the time; 0 = a new one each time, as in the paper.",
        min=0,
        max=1024,
        step=1,
    )
    gradient_checkpointing: str = setting(
        BLOCKS,
        "Recompute activations in the backward pass: far less memory, up to a third more time; "
        "with the attention's outputs kept a little of both.",
        options=(OFF, BLOCKS, KEEP_ATTENTION),
    )
    optimizer: str = setting(
        ADAM,
        "8-bit needs the package bitsandbytes and a GPU, and saves memory for large ranks.",
        options=(ADAM, ADAM_8BIT),
    )
    eval_every: int = setting(
        100, "Steps between two evaluations on held-out edits; 0 = never.", min=0, max=10**5, step=1
    )
    eval_conditions: int = setting(8, "Held-out edits per evaluation.", min=1, max=512, step=1)
    patience: int = setting(
        0,
        "Stop after this many evaluations without a better one; 0 = go on.",
        min=0,
        max=1000,
        step=1,
    )
    stop_on_drift: bool = setting(
        True,
        "Stop when the images drift as those of a hacked reward do: lattices, colour casts, all "
        "alike.",
    )
    save_total_limit: int = setting(
        3, "How many of the last results are kept.", min=1, max=100, step=1
    )
    objective: str = setting(
        "reward",
        "reward: OneReward, the judge's gradient. supervised: what is under the mask in the "
        "images. dpo: stored preferences. nft, best_of_n: own candidates, which any judge compares "
        "(DiffusionNFT; the best of each group).",
        options=(REWARD, SUPERVISED, DPO, NFT, BEST_OF_N),
    )
    grow: int = setting(
        -1,
        "Pixels by which masks grow before they are repainted; -1 = as the task says, what users "
        "get.",
        **LIMITS["border"],
    )
    feather: int = setting(
        -1,
        "Pixels inside the grown mask over which the new image fades into the old; -1 = as the "
        "task says.",
        **LIMITS["border"],
    )
    tensorboard: bool = setting(
        False, "Also write the metrics for TensorBoard; needs the package tensorboard."
    )
    dpo_beta: float = setting(
        2000.0,
        "dpo: pull towards the reference; more learns less (Diffusion-DPO: 2000 to 5000).",
        min=1e-3,
        max=1e6,
        step=10.0,
    )
    nft_beta: float = setting(
        1.0, "nft: how strongly good and bad candidates act.", min=1e-3, max=100.0, step=0.05
    )
    group_size: int = setting(
        8,
        "nft, best_of_n: candidates per edit; batch_size is a multiple of it.",
        min=2,
        max=256,
        step=1,
    )
    num_rivals: int = setting(
        2,
        "nft, best_of_n: siblings that each candidate is set against; it meets twice as many.",
        min=1,
        max=255,
        step=1,
    )
    mask_loss: bool = setting(
        False, "All objectives but reward: count errors only where an edit repaints."
    )
    labels_by: str = labels_by_setting()
    contradictions: str = contradictions_setting()

    def __post_init__(self) -> None:
        """Refuse what is out of limits or does not fit together."""
        RunConfig.__post_init__(self)
        require(bool(self.dataset_folder), "dataset_folder is empty; name the conditions")
        require(
            0 < self.reward_cap <= 1,
            f"lambda (reward_cap) is {self.reward_cap}, but more than 0 and at most 1 is expected",
        )
        check_alpha_and_rate(self.alpha, self.learning_rate)
        require(self.t1 <= self.t2, f"t1 is {self.t1}, more than t2, {self.t2}; swap them")
        require(any(self.task_weights().values()), "all four task weights are 0; raise one")
        require(
            len(self.adapters) == len(self.strengths),
            f"{len(self.adapters)} adapters have {len(self.strengths)} strengths; give one each",
        )
        require(
            not self.needs_judge or bool(self.judges),
            "judges is empty; connect a judge, or name the folder of one",
        )
        require(
            self.objective == REWARD or not self.external_reward,
            f"external_reward is a gradient, but the objective is {self.objective}; set it to "
            "reward",
        )
        require(
            self.objective != DPO or bool(self.preferences_folder),
            "preferences_folder is empty, but objective dpo learns from preferences; connect them",
        )
        require(
            not self.has_groups or self.batch_size % self.group_size == 0,
            f"batch_size is {self.batch_size}, but objective {self.objective} needs a multiple of "
            f"group_size, {self.group_size}",
        )
        require(
            not (self.external_reward and self.judges),
            "external_reward takes the place of judges; leave judges empty",
        )
        require(
            not (self.reference_pool and self.algorithm == DYNAMIC),
            "reference_pool needs the fixed reference of alg. 1; set it to 0 or the algorithm to "
            "fixed",
        )
        precision = self.model_config().precision
        require(
            self.mode == LORA or precision not in PACKED_PRECISIONS,
            f"mode full trains all weights, but in precision {precision} they are packed and "
            "frozen; set mode to lora, or load the model in another precision",
        )
        for judge in (*self.judges, *([self.eval_judge] if self.eval_judge else [])):
            check_judge_values(judge)
        self.fill()

    @property
    def needs_reward(self) -> bool:
        """Whether images of the policy are compared at all."""
        return self.objective in (REWARD, NFT, BEST_OF_N)

    @property
    def needs_gradient(self) -> bool:
        """Whether the reward's own gradient is used."""
        return self.objective == REWARD

    @property
    def has_groups(self) -> bool:
        """Whether candidates of one edit are compared with each other."""
        return self.objective in (NFT, BEST_OF_N)

    @property
    def needs_judge(self) -> bool:
        """Whether a judge compares them."""
        return self.needs_reward and not self.external_reward

    def task_weights(self) -> dict[Task, float]:
        """Return how often each task is drawn, not normalised."""
        weights = (self.weight_fill, self.weight_extend, self.weight_remove, self.weight_text)
        return dict(zip(Task, weights, strict=True))

    def model_config(self) -> ModelConfig:
        """Return what to load."""
        return ModelConfig.from_values(self.model)

    def fill(self) -> FillConfig:
        """Return the sampling settings, -1 where the recipe decides."""
        return FillConfig(
            steps=self.sampling_steps,
            true_cfg=self.true_cfg,
            guidance=self.guidance,
            target_size=self.target_size,
            grow=self.grow,
            feather=self.feather,
        )

    def settings(self, recipe: Recipe) -> Settings:
        """Return the sampling settings for a model."""
        return resolve_settings(self.fill(), recipe)

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        if self.learning_rate >= 0:
            return self.learning_rate
        return LORA_RATE if self.mode == LORA else PAPER_RATE

    @property
    def lora_scale(self) -> float:
        """What the adapter's output is multiplied by: alpha / rank."""
        return 1.0 if self.alpha == -1 else self.alpha / self.rank

    def lora(self, targets: list[str]) -> dict[str, Any]:
        """Return the arguments of PEFT's ``LoraConfig``."""
        alpha = self.lora_scale * self.rank
        return {"r": self.rank, "lora_alpha": alpha, "target_modules": targets}
