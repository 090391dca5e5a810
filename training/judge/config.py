"""Settings of the judge's two stages: learning to see, learning to compare."""

from dataclasses import dataclass
from typing import Any

from ..pretrain.config import RunConfig, require
from .build import JudgeShape

_HEAD = 32
"""Width of an attention head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeConfig(RunConfig):
    """Learning to see: questions about procedural pictures, answered with one token."""

    width: int = 160
    """Width of the language model, a multiple of 32."""
    layers: int = 3
    """Its layers."""
    vision_width: int = 192
    """Width of the vision tower, a multiple of 32."""
    vision_layers: int = 4
    """Its layers."""
    patch_size: int = 8
    """Side of a patch in px; two by two patches make one token."""
    steps: int = 8000
    """Steps of this run."""
    decay_steps: int = 3000
    """Steps at the end over which the learning rate falls linearly to zero."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    pictures: int = 32
    """Pictures per step; each is encoded once."""
    questions: int = 96
    """Questions per step, each about one of two pictures; 0 trains the vision tower alone."""
    probe_weight: float = 1.0
    """Weight of the probe's loss beside that of the answers."""
    learning_rate: float = 6e-4
    """AdamW's peak, for embeddings, norms and biases."""
    matrix_learning_rate: float = 1e-3
    """Muon's peak, for the matrices of both towers."""
    test_pictures: int = 512
    """Held-out pictures of the dev split that the accuracy is measured on."""
    test_every: int = 1000
    """Steps between two measurements."""

    def shape(self) -> JudgeShape:
        """Return the sizes of the judge; every picture is seen whole."""
        return JudgeShape(
            width=self.width,
            layers=self.layers,
            heads=self.width // _HEAD,
            vision_width=self.vision_width,
            vision_layers=self.vision_layers,
            vision_heads=self.vision_width // _HEAD,
            patch_size=self.patch_size,
            full_layers=tuple(range(self.vision_layers)),
        )

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        for name in ("width", "vision_width"):
            value = getattr(self, name)
            require(value >= 32 and value % 32 == 0, f"{name} {value} is no multiple of 32")
        for name in ("layers", "vision_layers", "pictures", "test_pictures"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        require(self.pictures >= 2, "pictures is 1; a question needs two")
        for name in ("questions", "probe_weight"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; use 0 or more")
        require(
            self.questions + self.probe_weight > 0,
            "there is nothing to learn: questions and probe_weight are both 0",
        )
        require(self.patch_size in (4, 8, 16), f"patch_size is {self.patch_size}; use 4, 8 or 16")
        require(self.steps >= self.decay_steps >= 0, "decay_steps is more than steps")
        require(self.test_every >= 1, f"test_every is {self.test_every}; use at least 1")


MODES = ("lora", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTrainConfig(RunConfig):
    """Learning to compare: eq. 3 on preference pairs."""

    judge_folder: str
    """The judge to start from."""
    data_folder: str
    """Preference data; its train split is learned, its dev split measured."""
    mode: str = "lora"
    """``lora``: an adapter on the language model; ``full``: all weights."""
    rank: int = 16
    """Rank of the adapter."""
    alpha: float = 16.0
    """Scale of the adapter times its rank."""
    steps: int = 1000
    """Steps of this run."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    batch: int = 16
    """Pairs per step (paper: 16)."""
    learning_rate: float = 1e-6
    """AdamW's, constant after the warm-up (paper: 1e-6 for all weights; adapters take 1e-4)."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; longer ones are shortened."""
    max_pixels: int = 512 * 512
    """Largest picture the judge sees, in px."""
    shift: int = 0
    """Largest random shift of both pictures per axis, in px."""
    blur: float = 0.0
    """Share of pairs that are blurred, 0..1."""
    noise: float = 0.0
    """Largest standard deviation of noise added to both pictures, 0..1."""
    test_every: int = 100
    """Steps between two measurements on the dev split."""
    test_pairs: int = 512
    """Dev pairs that are measured at most."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        require(bool(self.judge_folder), "judge_folder is empty; name the judge to start from")
        require(bool(self.data_folder), "data_folder is empty; name the preference data")
        require(self.mode in MODES, f"mode is {self.mode!r}; choose one of: {', '.join(MODES)}")
        for name in ("rank", "steps", "batch", "test_every", "test_pairs"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        for name in ("warmup_steps", "learning_rate", "weight_decay", "shift", "noise"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; use 0 or more")
        for name in ("alpha", "clip_norm"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; use more than 0")
        require(0 <= self.blur <= 1, f"blur is {self.blur}; use 0 to 1")

    def adapter(self) -> dict[str, Any]:
        """Return the arguments of PEFT's ``LoraConfig``."""
        return {"r": self.rank, "lora_alpha": self.alpha, "target_modules": list(LORA_TARGETS)}


LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of the language model; the vision tower names its own differently."""
