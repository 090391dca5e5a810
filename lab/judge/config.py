"""Settings of the toy judge's two stages: VQA (visual question answering), then comparison.

A config file (`configs/vqa.json`; what is left out has its default):

    {
      "format": 1,
      "run_folder": "runs/vqa",
      "init_from": "runs/vqa_probe/checkpoint",
      "seed": 1,
      "steps": 1400,
      "decay_steps": 500,
      "warmup_steps": 100,
      "images": 48,
      "questions": 96,
      "matrix_learning_rate": 0.002,
      "learning_rate": 0.0008,
      "max_minutes": 60,
      "eval_every": 200,
      "log_every": 50
    }
"""

from __future__ import annotations

from dataclasses import dataclass

from ...training.runs.config import RunConfig, require
from ..oracle import DIMENSIONS
from .build import JudgeShape

_HEAD = 32
"""Width of an attention head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig(RunConfig):
    """Training all weights of a small judge: what both stages have.

    Example: ``LearnConfig(run_folder="runs/any", steps=3000)``.
    """

    steps: int = 8000
    """Steps of this run."""
    decay_steps: int = 3000
    """Steps at the end over which the learning rate falls linearly to zero."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    learning_rate: float = 6e-4
    """AdamW's peak, for embeddings, norms and biases."""
    matrix_learning_rate: float = 1e-3
    """Muon's peak, for the matrices of both towers."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        require(self.steps >= self.decay_steps >= 0, "decay_steps is more than steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaConfig(LearnConfig):
    """Stage 1, VQA: questions about procedural images, answered with one token.

    Example: ``VqaConfig(run_folder="runs/vqa", steps=3000, questions=96)``.
    """

    width: int = 160
    """Width of the language model, a multiple of 32."""
    layers: int = 3
    """Its layers."""
    vision_width: int = 192
    """Width of the vision tower, a multiple of 32."""
    vision_layers: int = 4
    """Its layers."""
    patch_size: int = 8
    """Side of a patch in pixels; two by two patches make one token."""
    images: int = 32
    """Images per step; each is encoded once."""
    questions: int = 96
    """Questions per step, each about one of two images; 0 trains the vision tower alone."""
    probe_weight: float = 1.0
    """Weight of the cell probe's loss beside that of the answers."""
    eval_images: int = 512
    """Held-out images of the dev split that the accuracy is measured on."""
    eval_every: int = 1000
    """Steps between two evaluations."""

    def shape(self) -> JudgeShape:
        """Return the sizes of the judge; every layer attends to the whole image."""
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
        LearnConfig.__post_init__(self)
        for name in ("width", "vision_width"):
            value = getattr(self, name)
            require(value >= 32 and value % 32 == 0, f"{name} {value} is no multiple of 32")
        for name in ("layers", "vision_layers", "images", "eval_images"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        require(self.images >= 2, "images is 1; a question needs two")
        for name in ("questions", "probe_weight"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; use 0 or more")
        require(
            self.questions + self.probe_weight > 0,
            "there is nothing to learn: questions and probe_weight are both 0",
        )
        require(self.patch_size in (4, 8, 16), f"patch_size is {self.patch_size}; use 4, 8 or 16")
        require(self.eval_every >= 1, f"eval_every is {self.eval_every}; use at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(LearnConfig):
    """Stage 2, comparison: eq. 3 on candidates that the oracle scored.

    Example: ``CompareConfig(run_folder="runs/c", judge_folder="runs/vqa/judge", pool_folder="p")``.
    """

    judge_folder: str
    """The judge to start from: the result of stage 1."""
    pool_folder: str
    """Candidates, as written by `lab.judge.pairs.candidate_pool`."""
    margins: tuple[float, ...] = (0.04, 0.12, 0.03, 0.05, 0.13)
    """Least difference of the oracle's scores (0..1) that makes a pair, in the order of its
    dimensions. Fixed before this stage was trained, so that 65 % of the train split's groups have
    a pair in each dimension; the scores of different dimensions spread differently."""
    pairs: int = 24
    """Pairs of images per step, each asked about every dimension in which it differs; 0 trains
    the vision tower alone."""
    quality_images: int = 24
    """Single images per step, besides the pairs, whose scores, ranks and artifacts an auxiliary
    head predicts (it is not exported); a multiple of 4."""
    dimensions: int = 0
    """Most dimensions that a pair is asked about, drawn at random; 0 asks about all in which its
    images differ."""
    compare_quality_images: bool = False
    """Whether the judge compares these images, too, two of a scene each."""
    blend_share: float = 0.5
    """Share of pairs that are synthesized in the step: blends of two candidates, or deformed
    truths."""
    deformed_share: float = 0.5
    """Share of these, and of the single images, that are deformed truths of scenes that occur only
    once; the others are blends of candidates."""
    quality_weight: float = 1.0
    """Weight of the quality head's loss."""
    vqa_questions: int = 24
    """Questions of stage 1 per step, against forgetting; 0 asks none."""
    vqa_images: int = 24
    """Images of stage 1 per step, against forgetting; 0 uses none."""
    shift: int = 2
    """Largest random shift of both images per axis, in pixels."""
    blur: float = 0.15
    """Share of pairs that are blurred, 0..1."""
    noise: float = 0.03
    """Largest standard deviation of noise added to both images, 0..1."""
    pattern_share: float = 0.2
    """Share of pairs that show an image against itself under a fine pattern."""
    attack_share: float = 0.25
    """Share of pairs whose images are attacked before the judge is trained on them."""
    attack_steps: int = 2
    """Ascent steps of such an attack."""
    adversarial_pairs: int = 0
    """Adversarial pairs per step, besides these: an unusable against a usable image of a scene.
    The unusable one is attacked from a random start so that it wins, and has to lose all the
    same."""
    adversarial_steps: int = 7
    """Ascent steps of that attack per visit."""
    adversarial_step_size: float = 0.3
    """Length of such a step, in `attack_size`."""
    adversarial_visits: int = 1
    """How often the same adversarial pairs are used; each visit continues the attack."""
    adversarial_every: int = 10
    """Steps between two of these visits."""
    attack_size: float = 8 / 255
    """Largest change of a pixel by an attack; smooth attacks may change three times as much."""
    eval_every: int = 200
    """Steps between two evaluations on the dev split."""

    def __post_init__(self) -> None:
        LearnConfig.__post_init__(self)
        require(bool(self.judge_folder), "judge_folder is empty; name the judge to start from")
        require(bool(self.pool_folder), "pool_folder is empty; name the folder of candidates")
        good = len(self.margins) == len(DIMENSIONS) and all(0 < m < 1 for m in self.margins)
        require(good, f"margins are {self.margins}; give {len(DIMENSIONS)} between 0 and 1")
        require(self.eval_every >= 1, f"eval_every is {self.eval_every}; use at least 1")
        require(
            self.pairs + self.adversarial_pairs + self.quality_images + self.vqa_questions > 0,
            "there is nothing to learn: pairs, adversarial_pairs, quality_images and "
            "vqa_questions are all 0",
        )
        for name in ("adversarial_visits", "adversarial_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        require(
            self.quality_images % 4 == 0,
            f"quality_images is {self.quality_images}, not a multiple of 4",
        )
        for name in (
            "pairs",
            "dimensions",
            "quality_images",
            "quality_weight",
            "vqa_questions",
            "shift",
            "noise",
            "attack_steps",
            "adversarial_pairs",
            "adversarial_steps",
            "adversarial_step_size",
            "attack_size",
        ):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; use 0 or more")
        least = 2 if self.vqa_questions else 0
        require(self.vqa_images >= least, f"vqa_images is {self.vqa_images}; questions need two")
        for name in ("blend_share", "deformed_share", "blur", "pattern_share", "attack_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; use 0 to 1")
