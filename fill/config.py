"""Every setting of the engine; the settings node is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from .json_config import JsonConfig, setting

MAX_SIDE = 16384
"""Longest side of an image or canvas, in pixels."""
RECIPE = -1
"""Numeric settings with this value follow the recipe of the loaded model, or the task's default."""
RECIPE_TEXT = "-1"
"""The same for the negative prompt, where an empty text already means no negative prompt."""

CFG_MODES = ("auto", "batched", "sequential")
KERNEL_MODES = ("auto", "on", "off")
OFFLOAD_MODES = ("auto", "on", "off")
PACKED_PRECISIONS = ("fp8", "nf4")
"""Those under which frozen matrices stay packed and are expanded as they are used."""
PRECISIONS = ("auto", "bf16", "fp16", "fp32", *PACKED_PRECISIONS)
RECIPE_CHOICES = ("auto", "OneReward", "FLUX.1 Fill", "bundled")

LIMITS = {
    "true_cfg": {"min": -1.0, "max": 30.0, "step": 0.05},
    "guidance": {"min": -1.0, "max": 100.0, "step": 0.05},
    "target_size": {"min": -1, "max": 4096, "step": 1},
    "border": {"min": -1, "max": 512, "step": 1},
}
"""Of settings that follow the recipe or the task where they are -1."""

COMPONENTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
"""The separately loaded models of a fill model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillConfig(JsonConfig):
    """Sampling and stitching; the order is a promise. Example: ``FillConfig(steps=28)``."""

    steps: int = setting(
        RECIPE, "Sampling steps; -1 = as the model's recipe says.", min=-1, max=1000, step=1
    )
    true_cfg: float = setting(
        -1.0,
        "Scale between the negative and the positive velocity (true classifier-free guidance); "
        "1 = off, half the time; -1 = as the model's recipe says.",
        **LIMITS["true_cfg"],
    )
    guidance: float = setting(
        -1.0,
        "Value of the model's own guidance embedding; -1 = as the model's recipe says.",
        **LIMITS["guidance"],
    )
    negative_prompt: str = setting(
        RECIPE_TEXT,
        "What the image should not be, used when true_cfg is not 1; -1 = as the recipe says.",
    )
    num_candidates: int = setting(
        1,
        "Images made per input image; candidate n uses seed + n, so each can be made alone.",
        min=1,
        max=64,
        step=1,
    )
    denoise: float = setting(
        1.0,
        "Share of the schedule that is run: 1 starts from pure noise, less starts from the noised "
        "source image.",
        min=0.01,
        max=1.0,
        step=0.01,
    )
    shift: float = setting(
        -1.0,
        "Shift of the noise schedule towards noise; 1 = none; -1 = from the image size, as the "
        "model's scheduler does.",
        min=-1.0,
        max=20.0,
        step=0.05,
    )
    cfg_mode: str = setting(
        "auto",
        "Negative and positive prompt in one batched call (faster), one after the other (half the "
        "memory), or whichever fits.",
        options=CFG_MODES,
    )
    crop_to_context: bool = setting(
        True,
        "Sample a crop around the mask at the model's best size and stitch it back, so that a "
        "small mask in a large image gets full detail.",
    )
    context_factor: float = setting(
        2.0,
        "Side of that crop, in sides of the mask's bounding box.",
        min=1.0,
        max=20.0,
        step=0.05,
    )
    target_size: int = setting(
        RECIPE,
        "Side in pixels of a square of as many pixels as the crop is sampled at; -1 = the model's "
        "own.",
        **LIMITS["target_size"],
    )
    grow: int = setting(
        RECIPE,
        "Pixels by which the mask grows before it is repainted (extend: overlap with the source); "
        "-1 = as the task says.",
        **LIMITS["border"],
    )
    feather: int = setting(
        RECIPE,
        "Pixels inside the grown mask over which the new image fades into the old; -1 = as the "
        "task says.",
        **LIMITS["border"],
    )
    fill_holes: bool = setting(
        True, "Close holes that a brush left in the mask, up to a tenth of the painted area."
    )
    colour_correction: float = setting(
        1.0,
        "Share of the tone shift, as seen in a ring around the mask, that is taken back; 0 = off.",
        min=0.0,
        max=1.0,
        step=0.05,
    )
    preserve_unmasked: bool = setting(
        False,
        "While sampling, keep what is outside of the mask on the source's own way from noise to "
        "image. Off, as the models were trained: they paint it, too, and it is replaced in the "
        "end.",
    )
    merge_masks: bool = setting(
        False, "Several masks of one image: all of them in one result. Off: one result each."
    )
    same_seed: bool = setting(
        False,
        "The same noise for all images of a batch, for example frames of a video. Off: each image "
        "takes the next seeds.",
    )
    skip_empty_masks: bool = setting(
        False,
        "An image whose mask is empty comes out as it is, and a note says which. Off: an edit "
        "whose masks are all empty stops.",
    )

    def __post_init__(self) -> None:
        """Refuse what is out of limits."""
        JsonConfig.__post_init__(self)
        for name in ("true_cfg", "guidance", "shift"):
            if -1.0 < getattr(self, name) < 0.0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but -1 or at least 0 is expected"
                )
        if self.steps == 0:
            raise ValueError("steps is 0, but -1 (recipe) or at least 1 is expected")
        if self.shift == 0.0:
            raise ValueError("shift is 0, but -1 (from the image size) or more than 0 is expected")
        if 0 <= self.target_size < 16:
            raise ValueError(
                f"target_size is {self.target_size}, but -1 or at least 16 is expected"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(JsonConfig):
    """Which fill model to load and how. Example: ``ModelConfig(folder=path, precision='fp8')``."""

    folder: str = ""
    """Folder in diffusers format with ``model_index.json``; empty: a file for each component."""
    transformer: str = ""
    """Folder or file of a transformer that replaces the one in ``folder``; empty: none."""
    recipe: str = setting(
        "auto",
        "Settings the model was trained for; auto = by the model's folder. Choose one if the "
        "folder was renamed.",
        options=RECIPE_CHOICES,
    )
    precision: str = setting(
        "auto",
        "Data type of the weights; auto = bf16 on a GPU, fp32 on a CPU. fp8, nf4 = as auto, but "
        "the transformer's blocks are packed into a half or a quarter of bf16: a little off, "
        "slower, and adapters train beside them.",
        options=PRECISIONS,
    )
    kernels: str = setting(
        "auto",
        "Fused GPU kernels for the transformer: meant to be faster, equal to rounding. auto = "
        "where a supported NVIDIA GPU and Triton are found; on = or an error that says what is "
        "missing.",
        options=KERNEL_MODES,
    )

    vae: str = ""
    """File of a VAE that replaces the one in ``folder``; empty: none."""
    text_encoder: str = ""
    """File of a CLIP-L that replaces the one in ``folder``; empty: none."""
    text_encoder_2: str = ""
    """File of a T5 encoder that replaces the one in ``folder``; empty: none."""
    tokenizer: str = ""
    """Folder of CLIP's tokenizer, for a ``text_encoder`` that needs another than ``folder`` has."""
    tokenizer_2: str = ""
    """Folder of T5's tokenizer, likewise."""
    offload: str = setting(
        "auto",
        "Whether blocks of the transformer wait in the computer's memory and pass through the "
        "GPU as they are needed: slower, but a 24 GB model runs on a 12 GB card. auto = as many "
        "as do not fit; on = all.",
        options=OFFLOAD_MODES,
    )
    memory_limit: float = setting(
        0.0,
        "GB of GPU memory that an edit may use, weights included; 0 = all that is free.",
        min=0.0,
        max=1024.0,
        step=0.5,
    )

    def __post_init__(self) -> None:
        """Refuse what is out of limits."""
        JsonConfig.__post_init__(self)
        missing = [name for name in COMPONENTS if not getattr(self, name)]
        if not self.folder and missing:
            raise ValueError(
                f"no model folder given, and no file for {', '.join(missing)}; choose a model in "
                "the loader, or a file for each component"
            )
