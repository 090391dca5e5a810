"""Nodes for tests only: what no node of ComfyUI makes, but some other pack may."""

# pyright: reportIncompatibleMethodOverride=false
# `execute` legitimately narrows the signature of its base class.

from __future__ import annotations

import logging

import comfy.model_management as mm
import torch
from comfy_api.latest import ComfyExtension, io

from .values import VALUES

_get_free_memory = mm.get_free_memory
# What is encoded and what comes from a cache is logged at this level only.
logging.getLogger("onereward").setLevel(logging.DEBUG)
for handler in logging.getLogger().handlers:
    if isinstance(handler, logging.StreamHandler):  # newer ComfyUI's own lets no such line through
        handler.setLevel(logging.NOTSET)


class TestImage(io.ComfyNode):
    """Makes a grey image with one thing wrong."""

    __test__ = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestImage",
            category="test",
            inputs=[io.String.Input("fault"), io.Int.Input("side", default=64)],
            outputs=[io.Image.Output("image")],
        )

    @classmethod
    def execute(cls, fault: str, side: int) -> io.NodeOutput:
        channels = {"one channel": 1, "two channels": 2}.get(fault, 3)
        image = torch.full((0 if fault == "empty batch" else 1, side, side, channels), 0.5)
        if fault == "nan":
            image[0, 3, 4, 0] = torch.nan
        if fault == "no batch":
            image = image[0]
        return io.NodeOutput(image)


class TestFreeMemory(io.ComfyNode):
    """Makes ComfyUI believe that so many bytes are free; -1 ends it. Passes the image on."""

    __test__ = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFreeMemory",
            category="test",
            inputs=[io.Image.Input("image"), io.Int.Input("free_bytes", min=-1, max=2**40)],
            outputs=[io.Image.Output("same_image")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, free_bytes: int) -> io.NodeOutput:
        def get_free_memory(
            dev: torch.device | None = None, torch_free_too: bool = False
        ) -> int | tuple[int, int]:
            del dev
            return (free_bytes, free_bytes) if torch_free_too else free_bytes

        mm.get_free_memory = _get_free_memory if free_bytes < 0 else get_free_memory
        return io.NodeOutput(image)


class TestClipOfAnotherKind(io.ComfyNode):
    """Makes a text encoder whose tokens are those of one CLIP alone, as SD 1.5 has it."""

    __test__ = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestClipOfAnotherKind",
            category="test",
            inputs=[],
            outputs=[io.Clip.Output("clip")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_OneClip())


class _OneClip:
    def clone(self) -> _OneClip:
        return self

    def set_tokenizer_option(self, name: str, value: int) -> None:
        pass

    def tokenize(self, text: str, **options: object) -> dict[str, object]:
        return {"l": [[(text, 1.0)]]}


class _AnyType(str):
    """A socket type that fits every other, as many packs define it."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, value: object) -> bool:
        return True

    def __ne__(self, value: object) -> bool:
        return False


class TestValue(io.ComfyNode):
    """Puts an object of any class on a socket of any type."""

    __test__ = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestValue",
            category="test",
            inputs=[io.String.Input("kind")],
            outputs=[io.Custom(_AnyType("*")).Output("value")],
        )

    @classmethod
    def execute(cls, kind: str) -> io.NodeOutput:
        return io.NodeOutput(VALUES[kind]())


class TestSink(io.ComfyNode):
    """Takes an object of any class, so that the node before it runs."""

    __test__ = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestSink",
            category="test",
            inputs=[io.Custom(_AnyType("*")).Input("value")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value: object) -> io.NodeOutput:
        return io.NodeOutput()


class TestExtension(ComfyExtension):
    """The nodes above."""

    __test__ = False

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestImage, TestFreeMemory, TestClipOfAnotherKind, TestValue, TestSink]


async def comfy_entrypoint() -> TestExtension:
    return TestExtension()
