"""Settings of the judge's first stage."""

from dataclasses import dataclass

from ..pretrain.config import RunConfig, require


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
    """Questions per step, each about one of two pictures."""
    learning_rate: float = 6e-4
    """AdamW's peak, for embeddings, norms and biases."""
    matrix_learning_rate: float = 1e-3
    """Muon's peak, for the matrices of both towers."""
    test_pictures: int = 512
    """Held-out pictures of the dev split that the accuracy is measured on."""
    test_every: int = 1000
    """Steps between two measurements."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        for name in ("width", "vision_width"):
            value = getattr(self, name)
            require(value >= 32 and value % 32 == 0, f"{name} {value} is no multiple of 32")
        for name in ("layers", "vision_layers", "pictures", "questions", "test_pictures"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        require(self.pictures >= 2, "pictures is 1; a question needs two")
        require(self.patch_size in (4, 8, 16), f"patch_size is {self.patch_size}; use 4, 8 or 16")
        require(self.steps >= self.decay_steps >= 0, "decay_steps is more than steps")
        require(self.test_every >= 1, f"test_every is {self.test_every}; use at least 1")
