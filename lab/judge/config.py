"""Settings of the toy judge's two stages: learning to see, learning to compare."""

from __future__ import annotations

from dataclasses import dataclass

from ...training.runs.config import RunConfig, require
from ..oracle import DIMENSIONS
from .build import JudgeShape

_HEAD = 32
"""Width of an attention head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig(RunConfig):
    """Learning all weights of a small judge."""

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
    """Learning to see: questions about procedural images, answered with one token."""

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
    """Weight of the probe's loss beside that of the answers."""
    eval_images: int = 512
    """Held-out images of the dev split that the accuracy is measured on."""
    eval_every: int = 1000
    """Steps between two measurements."""

    def shape(self) -> JudgeShape:
        """Return the sizes of the judge; every image is seen whole."""
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
    """Learning to compare: eq. 3 on candidates that the oracle scored."""

    judge_folder: str
    """The judge to start from: one that learned to see."""
    pool_folder: str
    """Candidates, as written by `training.judge.gather`."""
    margins: tuple[float, ...] = (0.04, 0.12, 0.03, 0.05, 0.13)
    """Least difference of the oracle's scores (0..1) that makes a pair, in the order of its
    dimensions; less is hardly any. Fixed before comparing was learned so that 65 % of the train
    split's groups keep a pair in each dimension; how widely a score spreads differs."""
    pairs: int = 24
    """Pairs of images per step, each asked about every dimension in which it differs; 0 trains
    the vision tower alone."""
    appraised: int = 24
    """Single images per step, besides the pairs, whose scores, ranks and artifacts a head has to
    say that is left behind; a multiple of 4."""
    dimensions: int = 0
    """Most dimensions that a pair is asked about, drawn at random; 0 asks about all in which its
    images differ."""
    ask_appraised: bool = False
    """Whether the judge is asked about these, too, two of a scene each: twice as many pairs for
    the images."""
    blend_share: float = 0.5
    """Share of pairs that are made on the spot: mixtures of two candidates, or deformed truths."""
    deformed_share: float = 0.5
    """Share of these, and of the single images, that are deformed truths of scenes that are never
    shown again; the others are mixtures of candidates."""
    score_weight: float = 1.0
    """Weight of the head's loss."""
    questions: int = 24
    """Questions of the first stage per step, so that the judge goes on answering; 0 asks none."""
    images: int = 24
    """Images of the first stage per step, so that the tower goes on seeing; 0 shows none."""
    shift: int = 2
    """Largest random shift of both images per axis, in pixels."""
    blur: float = 0.15
    """Share of pairs that are blurred, 0..1."""
    noise: float = 0.03
    """Largest standard deviation of noise added to both images, 0..1."""
    pattern_share: float = 0.2
    """Share of pairs that show an image against itself under a fine pattern."""
    attack_share: float = 0.25
    """Share of pairs whose images are changed against the judge before it learns them."""
    attack_steps: int = 2
    """Ascent steps of such an attack."""
    adversarial_pairs: int = 0
    """Pairs per step, besides these, of an unusable against a usable image of a scene; the
    unusable one is changed so that it wins, from a random start, and has to lose all the same."""
    adversarial_steps: int = 7
    """Ascent steps of that each time that they are shown."""
    adversarial_step_size: float = 0.3
    """Length of such a step, in `attack_size`."""
    adversarial_visits: int = 1
    """How often the same adversarial_pairs are shown, pushed on from where they were."""
    adversarial_every: int = 10
    """Steps between two of these visits."""
    attack_size: float = 8 / 255
    """Largest change of a pixel by it; smooth attacks may change three times as much."""
    eval_every: int = 200
    """Steps between two measurements on the dev split."""

    def __post_init__(self) -> None:
        LearnConfig.__post_init__(self)
        require(bool(self.judge_folder), "judge_folder is empty; name the judge to start from")
        require(bool(self.pool_folder), "pool_folder is empty; name the folder of candidates")
        good = len(self.margins) == len(DIMENSIONS) and all(0 < m < 1 for m in self.margins)
        require(good, f"margins are {self.margins}; give {len(DIMENSIONS)} between 0 and 1")
        require(self.eval_every >= 1, f"eval_every is {self.eval_every}; use at least 1")
        require(
            self.pairs + self.adversarial_pairs + self.appraised + self.questions > 0,
            "there is nothing to learn: pairs, adversarial_pairs, appraised and questions are all 0",
        )
        for name in ("adversarial_visits", "adversarial_every"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        require(self.appraised % 4 == 0, f"appraised is {self.appraised}, not a multiple of 4")
        for name in (
            "pairs",
            "dimensions",
            "appraised",
            "score_weight",
            "questions",
            "shift",
            "noise",
            "attack_steps",
            "adversarial_pairs",
            "adversarial_steps",
            "adversarial_step_size",
            "attack_size",
        ):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; use 0 or more")
        enough = 2 if self.questions else 0
        require(self.images >= enough, f"images is {self.images}; questions need two")
        for name in ("blend_share", "deformed_share", "blur", "pattern_share", "attack_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; use 0 to 1")
