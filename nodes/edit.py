"""The four edits. Each node builds one validated request and runs it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..fill.config import MAX_SIDE, FillConfig
from ..fill.image.geometry import ANCHORS, Extension, check_aspect, extension_for_aspect
from ..fill.models import FillModels
from ..fill.pipeline import run_fill
from ..fill.request import MAX_SEED, FillRequest, full_prompt
from ..fill.task import Task
from .comfy_host import FILL_MODEL, ComfyHost, drop_copy
from .inputs import output, search_aliases, side_input, text_input
from .node import OneRewardNode, given, refusal
from .socket_types import FillModelSocket, SettingsSocket

SIDES = {"left": 128, "top": 0, "right": 128, "bottom": 0}
"""New pixels by default."""
_SIDE = "New pixels on the {}; not used when an aspect is chosen."
USE_PIXELS = "by_pixels"
ASPECTS = (USE_PIXELS, "1:1", "4:3", "3:2", "16:9", "21:9", "3:4", "2:3", "9:16")


class OneRewardFill(OneRewardNode):
    """Paints something new inside the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return _schema(
            "Fill",
            "Inpainting (generative fill): adds or changes something inside the mask, as the "
            "prompt says. Nothing else changes.",
            (
                *("inpaint", "inpainting", "generative fill", "add object", "replace object"),
                *("change object", "fill mask", "image edit", "FLUX Fill"),
                *("局部重绘", "生成式填充", "インペイント", "生成塗りつぶし"),
            ),
            [
                *_image_inputs(),
                text_input("prompt", "What to paint inside the mask, in English.", chooses=True),
                *_last_inputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool:
        """Refuse an empty prompt before the queue."""
        return refusal(lambda: prompt is None or full_prompt(Task.FILL, prompt))

    @classmethod
    def execute(
        cls, model: FillModels, image: torch.Tensor, mask: torch.Tensor, prompt: str, **common: Any
    ) -> io.NodeOutput:
        """Run the task fill."""
        return _run(cls, model, common, task=Task.FILL, image=image, mask=mask, prompt=prompt)


class OneRewardExtend(OneRewardNode):
    """Continues the image beyond its borders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return _schema(
            "Extend",
            "Outpainting: continues the image beyond its borders, by pixels per side or to an "
            "aspect ratio, with or without a prompt.",
            (
                *("outpaint", "outpainting", "uncrop", "generative expand", "pad image"),
                *("expand image", "extend image", "zoom out", "aspect ratio", "扩图", "外扩"),
                *("アウトペイント", "画像拡張"),
            ),
            [
                *_image_inputs()[:2],
                text_input(
                    "prompt",
                    "What the new area shows; empty: whatever continues the image.",
                    chooses=True,
                ),
                *(side_input(name, _SIDE.format(name), pixels) for name, pixels in SIDES.items()),
                io.Combo.Input(
                    "aspect",
                    options=list(ASPECTS),
                    default=USE_PIXELS,
                    tooltip="Width : height of the new image. Any choice but the first replaces "
                    "the four numbers of pixels; the image grows just enough and is never cropped.",
                ),
                io.Combo.Input(
                    "anchor",
                    options=list(ANCHORS),
                    default=ANCHORS[0],
                    tooltip="Where the source sits on the new image when an aspect is chosen; "
                    "`left` grows to the right.",
                ),
                *_last_inputs("the source image"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        aspect: str | None = None,
        anchor: str | None = None,
        left: int | None = None,
        top: int | None = None,
        right: int | None = None,
        bottom: int | None = None,
    ) -> bool:
        """Refuse before the queue what no image can be extended by; any W:H is an aspect."""
        sides = given({"left": left, "top": top, "right": right, "bottom": bottom})
        for side, pixels in sides.items():
            if not 0 <= pixels <= MAX_SIDE:
                raise ValueError(f"{side} is {pixels}, but 0 to {MAX_SIDE} pixels are expected")
        if aspect == USE_PIXELS and len(sides) == len(SIDES):
            Extension(**sides)
        elif aspect not in (None, USE_PIXELS):
            check_aspect(aspect, ANCHORS[0] if anchor is None else anchor)
        return True

    @classmethod
    def execute(
        cls,
        model: FillModels,
        image: torch.Tensor,
        prompt: str,
        aspect: str,
        anchor: str,
        **common: Any,
    ) -> io.NodeOutput:
        """Run the task extend."""
        sides = {side: common.pop(side) for side in SIDES}
        extension = _extension(image, sides, aspect, anchor)
        fields = {"image": image, "prompt": prompt, "extension": extension}
        return _run(cls, model, common, task=Task.EXTEND, **fields)


class OneRewardRemove(OneRewardNode):
    """Erases what is under the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return _schema(
            "Remove",
            "Object removal: erases what is under the mask and continues the background. Needs no "
            "prompt.",
            (
                *("object removal", "remove object", "object eraser", "erase", "eraser", "cleanup"),
                *("clean up", "delete object", "remove person", "inpaint", "移除物体", "消除"),
                *("擦除", "オブジェクト除去", "消しゴム"),
            ),
            [*_image_inputs(), *_last_inputs()],
        )

    @classmethod
    def execute(
        cls, model: FillModels, image: torch.Tensor, mask: torch.Tensor, **common: Any
    ) -> io.NodeOutput:
        """Run the task remove."""
        return _run(cls, model, common, task=Task.REMOVE, image=image, mask=mask)


class OneRewardText(OneRewardNode):
    """Writes text inside the mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return _schema(
            "Text",
            "Text rendering: writes the given text inside the mask, for example on a sign, a label "
            "or a logo.",
            (
                *("text rendering", "write text", "add text", "replace text", "lettering"),
                *("typography", "logo", "sign", "文字渲染", "写字", "文字入れ"),
            ),
            [
                *_image_inputs(),
                text_input("text", "The text to write, one line of the image per line."),
                text_input(
                    "text_style",
                    "How the letters look, for example: white neon letters. May be empty.",
                    multiline=False,
                    chooses=True,
                ),
                *_last_inputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool:
        """Refuse before the queue a text that no prompt can quote."""
        return refusal(lambda: text is None or full_prompt(Task.TEXT, "", text))

    @classmethod
    def execute(
        cls,
        model: FillModels,
        image: torch.Tensor,
        mask: torch.Tensor,
        text: str,
        text_style: str,
        **common: Any,
    ) -> io.NodeOutput:
        """Run the task text."""
        fields = {"image": image, "mask": mask, "text": text, "prompt": text_style}
        return _run(cls, model, common, task=Task.TEXT, **fields)


def _run(
    node: type[io.ComfyNode], models: FillModels, common: dict[str, Any], **fields: Any
) -> io.NodeOutput:
    """Edit by the fields of one task and the inputs that all four nodes share."""
    settings = common.pop("settings", None) or FillConfig()
    request = FillRequest(config=settings, **fields, **common)
    host = ComfyHost(node.hidden.unique_id)
    drop_copy(FILL_MODEL)
    context = get_executing_context()
    result = run_fill(request, models, host, 1 + ((context and context.list_index) or 0))
    for note in result.notes:
        host.notify(note)
    report = {"seeds": result.seeds, "notes": result.notes, "seconds": result.seconds}
    return io.NodeOutput(result.image, result.mask, ui={"onereward": [report]})


def _extension(image: torch.Tensor, sides: dict[str, int], aspect: str, anchor: str) -> Extension:
    if aspect == USE_PIXELS:
        return Extension(**sides)
    height, width = image.shape[1:3]
    return extension_for_aspect(width, height, aspect, anchor)


def _schema(
    task: str, description: str, aliases: tuple[str, ...], inputs: list[io.Input]
) -> io.Schema:
    # No `essentials_category`: front ends 1.49 and 1.58 would list these four among ComfyUI's own
    # nodes, apart from the rest of the pack, and show them on no tile.
    return io.Schema(
        node_id=f"OneReward{task}",
        display_name=f"OneReward {task}",
        category="OneReward/edit",
        description=description,
        **search_aliases(*aliases),
        inputs=inputs,
        outputs=[
            output(
                io.Image,
                "result",
                "The edited images, 0..1; candidates of one image next to each other.",
                "image",
            ),
            output(
                io.Mask,
                "result_mask",
                "How much of each pixel is new, 0..1; 0 = untouched.",
                "mask",
            ),
        ],
        hidden=[io.Hidden.unique_id],
    )


def _image_inputs() -> list[io.Input]:
    return [
        FillModelSocket.Input(
            "model", tooltip="From OneReward Load Model, OneReward Load Adapter or a training node."
        ),
        io.Image.Input("image", tooltip="RGB images of 16 to 16384 pixels per side."),
        io.Mask.Input(
            "mask",
            tooltip="1 = repaint, 0 = keep; as large as the image in pixels. One for all images "
            "or one for each. LoadImage gives it once you have painted in the mask editor.",
        ),
    ]


def _last_inputs(size: str = "the image") -> list[io.Input]:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="Seed of the noise; the same seed gives the same image. Further images and "
            "candidates take the next numbers.",
        ),
        SettingsSocket.Input(
            "settings",
            optional=True,
            tooltip="From OneReward Settings; without it everything follows the model's recipe.",
        ),
        io.Mask.Input(
            "stitch_mask",
            optional=True,
            tooltip="What is pasted back, if not what the model repaints; 1 = paste, as large as "
            f"{size} in pixels.",
        ),
        io.Mask.Input(
            "context_mask",
            optional=True,
            tooltip=f"What the crop must contain besides the mask; 1 = include, as large as {size} "
            "in pixels.",
        ),
    ]
