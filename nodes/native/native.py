"""Bridge to ComfyUI's own sampling: our crops, masks, recipes and stitching around a KSampler."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import node_helpers
import torch
from comfy_api.latest import io

from ...fill.config import FillConfig
from ...fill.image.geometry import Extension
from ...fill.models import FillModels
from ...fill.native import NativeEdit, prepare_native
from ...fill.recipe import FILE_NAME, FLUX_FILL, ONEREWARD, Recipe, read_recipe
from ...fill.request import FillRequest
from ...fill.task import Task
from ..comfy_host import FILL_MODEL, ComfyHost, held, hold
from ..inputs import output, parse_task, search_aliases, side_input, task_input, text_input
from ..node import OneRewardNode
from ..paths import folders
from ..socket_types import FillModelSocket, SettingsSocket, StitchSocket
from .from_native import NativeModels, native_sources, sampler_patches
from .native_model import native_clip, native_model, native_vae
from .native_text import encode_text

BUNDLED_RECIPE = "bundled"
RECIPES = (ONEREWARD.name, FLUX_FILL.name, BUNDLED_RECIPE)
SIDES = ("left", "top", "right", "bottom")
_SIDE = "extend only: new pixels on the {}; not used with a mask."
_CLIP = "FLUX's two text encoders: clip_l and t5xxl."
_VAE = "FLUX's VAE: ae.safetensors."


class OneRewardNativeInputs(OneRewardNode):
    """Prepares an edit for a KSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardNativeInputs",
            display_name="OneReward Native Inputs",
            category="OneReward/native",
            description="Prepares inpainting, outpainting, object removal or text rendering for "
            "ComfyUI's own samplers: the crop around the mask, the task's prompt and the recipe's "
            "guidance. Decode the sampled latent and connect it to OneReward Stitch.",
            **search_aliases("KSampler", "inpaint crop", "inpaint conditioning", "outpaint"),
            inputs=_native_inputs(),
            outputs=_native_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        vae: Any,
        image: torch.Tensor,
        task: str,
        prompt: str,
        recipe: str,
        text: str = "",
        model: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        """Cut out, encode and return what a sampler needs."""
        request = _request(parse_task(task), image, prompt, text, values)
        if model is not None:
            native_sources(model, vae)  # a model without Fill's channels would ignore the mask
        edit = prepare_native(request, _recipe(recipe), vae.spacial_compression_encode())
        pixels, mask = edit.model_input()
        hole = mask[:, None]
        conditioning = {
            "guidance": edit.settings.guidance,
            "concat_latent_image": _encode(vae, pixels * (1 - hole)),
            "concat_mask": hole,
        }
        positive, negative = (
            node_helpers.conditioning_set_values(encode_text(clip, text, edit.recipe), conditioning)
            for text in (request.full_prompt(), edit.settings.negative_prompt)
        )
        latent = {"samples": _encode(vae, pixels)}
        host = ComfyHost(cls.hidden.unique_id)
        for line in (_summary(edit), *edit.notes()):
            host.notify(line)
        shifted = None if model is None else _with_shift(model, edit.mu())
        steps, cfg = edit.settings.steps, float(edit.settings.true_cfg)
        return io.NodeOutput(positive, negative, latent, edit, shifted, steps, cfg, edit.sigmas())


class OneRewardStitch(OneRewardNode):
    """Puts a decoded image back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardStitch",
            display_name="OneReward Stitch",
            category="OneReward/native",
            description="Pastes the result of a native sampler back into the image, with its tone "
            "matched to the surroundings. Pixels that the mask does not reach do not change.",
            **search_aliases("inpaint stitch", "crop and stitch", "paste back", "uncrop"),
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The decoded latent of the same edit.",
                ),
                StitchSocket.Input("stitch", tooltip="From OneReward Native Inputs."),
            ],
            outputs=[
                output(io.Image, "result", "The whole image.", "image"),
                output(
                    io.Mask, "result_mask", "How much of each pixel is new; 0 = untouched.", "mask"
                ),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, stitch: NativeEdit) -> io.NodeOutput:
        """Return the whole image and its mask."""
        return io.NodeOutput(*stitch.stitch(image))


class OneRewardToNative(OneRewardNode):
    """Turns our loaded model into ComfyUI's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardToNative",
            display_name="OneReward To Native",
            category="OneReward/native",
            description="Converts a OneReward model with its adapters to MODEL, CLIP and VAE, "
            "without a second copy on disk.",
            **search_aliases("convert model", "diffusers to ComfyUI", "MODEL", "KSampler"),
            inputs=[
                FillModelSocket.Input(
                    "fill_model",
                    display_name="model",
                    tooltip="From OneReward Load Model, or from an adapter.",
                )
            ],
            outputs=[
                output(io.Model, "model", "For KSampler; takes LoRAs and patches.", "MODEL"),
                output(io.Clip, "clip", "The model's text encoders.", "CLIP"),
                output(io.Vae, "vae", "The model's VAE.", "VAE"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, fill_model: FillModels) -> io.NodeOutput:
        """Build the three."""
        if isinstance(fill_model, NativeModels):
            return io.NodeOutput(*fill_model.native)
        source, native = held(FILL_MODEL)
        if source is fill_model and native is not None:
            return io.NodeOutput(*native)
        host = ComfyHost(cls.hidden.unique_id)
        if fill_model.transformer_source.is_quantised:
            host.notify(
                "the weights are expanded here; to keep them small, load an fp8 or GGUF file "
                "with ComfyUI's own loader"
            )
        native = (
            native_model(fill_model),
            native_clip(fill_model, host),
            native_vae(fill_model, host),
        )
        hold(FILL_MODEL, fill_model, native)
        return io.NodeOutput(*native)


class OneRewardFromNative(OneRewardNode):
    """Turns ComfyUI's loaded model into ours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardFromNative",
            display_name="OneReward From Native",
            category="OneReward/native",
            description="Runs the OneReward edits on the MODEL, CLIP and VAE that ComfyUI has "
            "loaded, with their LoRAs and patches, without a second copy in memory or on disk.",
            **search_aliases("convert model", "UNETLoader", "CLIP", "VAE"),
            inputs=[
                io.Model.Input(
                    "model", display_name="MODEL", tooltip="FLUX.1 Fill, or a model made from it."
                ),
                io.Clip.Input("clip", display_name="CLIP", tooltip=_CLIP),
                io.Vae.Input("vae", display_name="VAE", tooltip=_VAE),
                _recipe_input(),
            ],
            outputs=[output(FillModelSocket, "fill_model", "For the edits and adapters.", "model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, recipe: str) -> io.NodeOutput:
        """Check that the three are those of FLUX.1 Fill and return the model."""
        host = ComfyHost(cls.hidden.unique_id)
        if patches := sampler_patches(model):
            host.notify(
                f"ComfyUI's own Euler sampler heeds what is on the MODEL: {', '.join(patches)}"
            )
        if model.model_options.get("denoise_mask_function"):
            host.notify("Differential Diffusion has no effect: the model gets a binary mask here")
        return io.NodeOutput(NativeModels(model, clip, vae, _recipe(recipe)))


def _recipe(name: str) -> Recipe:
    if name == BUNDLED_RECIPE:
        return read_recipe(folders.bundled_folder() / FILE_NAME)
    recipes = {recipe.name: recipe for recipe in (ONEREWARD, FLUX_FILL)}
    if name not in recipes:
        raise ValueError(f"recipe is {name!r}; choose one of: {', '.join(RECIPES)}")
    return recipes[name]


def _request(
    task: Task, image: torch.Tensor, prompt: str, text: str, values: dict[str, Any]
) -> FillRequest:
    sides = {side: values.pop(side, 0) for side in SIDES}
    extension = None
    if task is Task.EXTEND and values.get("mask") is None:
        extension = Extension(**sides)
    settings = values.pop("settings", None) or FillConfig()
    return FillRequest(
        task=task,
        image=image,
        prompt=prompt,
        text=text,
        extension=extension,
        config=settings,
        **values,
    )


def _encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Encode ``[B, 3, h, w]`` in -1..1 as ComfyUI's VAEs take images."""
    return vae.encode((pixels / 2 + 0.5).permute(0, 2, 3, 1))


def _with_shift(model: Any, mu: float) -> Any:
    """Return the model with the schedule's shift for this size; the original stays as it is."""

    class Sampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
        pass

    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(shift=mu)
    shifted = model.clone()
    shifted.add_object_patch("model_sampling", sampling)
    return shifted


def _summary(edit: NativeEdit) -> str:
    config = edit.settings
    return (
        f"{edit.recipe.name}: {config.steps} steps, cfg {config.true_cfg:g}, sampler euler, "
        "scheduler simple"
    )


def _native_inputs() -> list[io.Input]:
    return [
        io.Clip.Input("clip", tooltip=_CLIP),
        io.Vae.Input("vae", tooltip=_VAE),
        io.Image.Input("image", tooltip="The image to edit."),
        task_input("Which edit; it decides the prompt's wording and how the mask is widened."),
        text_input(
            "prompt",
            "fill and extend: what to paint; text: how the letters look; remove: not used.",
            chooses=True,
        ),
        _recipe_input(),
        text_input("text", "text only: the text to write, one line of the image per line.", True),
        *(side_input(name, _SIDE.format(name), optional=True) for name in SIDES),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Area to repaint; 1 = repaint. Only extend can do without, by pixels per side.",
        ),
        io.Model.Input(
            "model",
            optional=True,
            tooltip="MODEL that gets the schedule's shift for this size.",
        ),
        SettingsSocket.Input(
            "settings",
            optional=True,
            tooltip="From OneReward Settings; without it everything follows the recipe.",
        ),
        io.Mask.Input(
            "stitch_mask",
            optional=True,
            tooltip="What is pasted back, if not what is repainted; 1 = paste.",
        ),
        io.Mask.Input(
            "context_mask",
            optional=True,
            tooltip="What the crop must contain besides the mask; 1 = include.",
        ),
    ]


def _recipe_input() -> io.Input:
    return io.Combo.Input(
        "recipe",
        options=list(RECIPES),
        default=RECIPES[0],
        tooltip="The settings your checkpoint was trained for.",
    )


def _native_outputs() -> list[io.Output]:
    sigmas = "The recipe's noise levels, for SamplerCustom."
    return [
        output(io.Conditioning, "positive", "For KSampler."),
        output(io.Conditioning, "negative", "For KSampler."),
        output(io.Latent, "latent", "For KSampler, denoise 1."),
        output(StitchSocket, "stitch", "For OneReward Stitch."),
        output(io.Model, "shifted_model", "The MODEL with the shift; for KSampler.", "model"),
        output(io.Int, "steps", "The recipe's steps."),
        output(io.Float, "cfg", "The recipe's true_cfg."),
        output(io.Sigmas, "sigmas", sigmas),
    ]
