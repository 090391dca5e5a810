"""Settings of training a judge on preferences: the fields of the node OneReward Train Judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...fill.config import PACKED_PRECISIONS
from ...fill.json_config import SHARE, setting
from ...reward.judge import BUNDLED, JudgeConfig
from ...reward.judging import VIEWS
from ...reward.label_choice import contradictions_setting, labels_by_setting
from ..runs.config import BLOCKS, OFF, RunConfig, check_alpha_and_rate, require

MODES = ("lora", "full")


PRECISIONS = ("auto", "bf16", "fp32", *PACKED_PRECISIONS)


PAPER_RATE, LORA_RATE = 1e-6, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTrainConfig(RunConfig):
    """Learning to compare: eq. 3 on preference pairs.

    Example: ``JudgeTrainConfig(run_folder="runs/judge", preferences_folder="data", rank=8)``.
    """

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        *("steps", "threads", "stop_step", "max_minutes", "checkpoint_minutes", "log_every"),
        *("eval_every", "eval_pairs", "micro_batch_size", "gradient_checkpointing"),
    )

    preferences_folder: str
    """Preference data; its train split is learned, its dev split evaluated."""
    judge_folder: str = BUNDLED
    """The judge to start from; ``bundled``, or a folder."""
    mode: str = setting(
        "lora",
        "lora = an adapter on the language model; full = all weights (takes 16 bytes each).",
        options=MODES,
    )
    rank: int = setting(16, "Rank of the adapter.", min=1, max=512, step=1)
    alpha: float = setting(
        -1.0,
        "Scale of the LoRA times its rank; -1 = the rank, a scale of 1.",
        min=-1.0,
        max=4096.0,
        step=0.5,
    )
    steps: int = setting(
        1000,
        "Steps of the whole run; a finished run goes on if you raise it.",
        min=1,
        max=10_000_000,
        step=1,
    )
    warmup_steps: int = setting(10, "Steps of linear warm-up.", min=0, max=1_000_000, step=1)
    batch_size: int = setting(
        16, "Pairs per step, over all processes together (paper: 16).", min=1, max=4096, step=1
    )
    learning_rate: float = setting(
        -1.0,
        "AdamW's, constant after the warm-up; -1 = 1e-4 for an adapter, 1e-6 for all weights (the "
        "paper's).",
        min=-1.0,
        max=1.0,
        step=1e-7,
    )
    weight_decay: float = setting(0.0, "Decoupled weight decay.", min=0.0, max=1.0, step=0.001)
    max_grad_norm: float = setting(
        1.0,
        "Largest norm of a step's gradient; longer ones are clipped.",
        min=1e-6,
        max=1e6,
        step=0.01,
    )
    max_pixels: int = 512 * 512
    """Largest image that is put to the judge, in pixels."""
    shift: int = setting(
        0, "Largest random shift of both images per axis, in pixels.", min=0, max=256, step=1
    )
    blur: float = setting(0.0, "Share of pairs that are blurred.", min=0.0, max=1.0, step=0.05)
    noise: float = setting(
        0.0,
        "Largest standard deviation of noise added to both images, in units of 0..1.",
        **SHARE,
    )
    eval_every: int = setting(
        100, "Steps between two evaluations on held-out pairs.", min=1, max=1_000_000, step=1
    )
    eval_pairs: int = setting(
        512, "Held-out pairs per evaluation at most.", min=1, max=1_000_000, step=1
    )
    view: str = setting(
        VIEWS[0],
        "How images are shown to the judge; ask the trained judge with the same view.",
        options=VIEWS,
    )
    precision: str = setting(
        "auto",
        "Data type of frozen weights and of the computation; what is trained is always fp32. auto "
        "= bf16 on a GPU, fp32 on a CPU. fp8, nf4 = as auto, but the language model's layers are "
        "packed into a half or a quarter of bf16; an adapter trains beside them.",
        options=PRECISIONS,
    )
    micro_batch_size: int = setting(
        4, "Pairs computed at once; fewer take less memory and more time.", min=1, max=4096, step=1
    )
    gradient_checkpointing: str = setting(
        BLOCKS,
        "Compute activations a second time instead of keeping them: much less memory, a third more "
        "time. A 7B judge needs it on 24 GB.",
        options=(OFF, BLOCKS),
    )
    judge_adapter: str = ""
    """Adapter that the judge has and training goes on with; of the same rank and alpha."""
    liger_kernel: bool = setting(
        False, "Fused kernels of the package liger-kernel; needs a CUDA GPU."
    )
    labels_by: str = labels_by_setting()
    contradictions: str = contradictions_setting()

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        require(bool(self.judge_folder), "judge_folder is empty; name the judge to start from")
        require(
            bool(self.preferences_folder), "preferences_folder is empty; name the preference data"
        )
        check_alpha_and_rate(self.alpha, self.learning_rate)
        require(
            self.mode == "lora" or not self.judge_adapter,
            "the judge has an adapter, so mode must be lora; or load the judge without it",
        )
        require(
            self.mode == "lora" or self.precision not in PACKED_PRECISIONS,
            f"mode full trains all weights, but in precision {self.precision} they are packed and "
            "frozen; set mode to lora, or another precision",
        )

    @property
    def lora_alpha(self) -> float:
        """PEFT's alpha."""
        return float(self.rank) if self.alpha == -1 else self.alpha

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        if self.learning_rate >= 0:
            return self.learning_rate
        return LORA_RATE if self.mode == "lora" else PAPER_RATE

    def judge(self) -> JudgeConfig:
        """Return which judge to load for training; the trainer attaches its adapter."""
        return JudgeConfig(
            folder=self.judge_folder,
            precision="fp32" if self.mode == "full" else self.precision,
            max_pixels=self.max_pixels,
            liger_kernel=self.liger_kernel,
        )

    def adapter(self) -> dict[str, Any]:
        """Return the arguments of PEFT's ``LoraConfig``."""
        return {"r": self.rank, "lora_alpha": self.lora_alpha, "target_modules": LORA_TARGETS}


LORA_TARGETS = (
    r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    r"|in_proj_qkv|in_proj_z|out_proj)"
)
"""Linear layers of the language model, those of linear attention on the second line; the vision
tower's feed-forward layers are named alike."""
