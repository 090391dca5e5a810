"""A text encoder that ComfyUI has loaded, as a judge: no weight is copied, and ComfyUI moves it.

Its own modules compute: vision tower, language model and language head. What they are shown is cut
as for judges in folders, so a picture of any size is shrunk first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management as mm
import torch

from ...fill.io.file_digest import fingerprint_files
from ...fill.io.files import read_header
from ...fill.io.json_text import label_of
from ...fill.memory.components import Component
from ...reward.judge import JudgeError, PairQuestion, ResidentConfig
from ...reward.load_judge import RESIDENT
from ...reward.query import TEMPLATE_VERSION
from ...reward.vlm.chat import Chat, about_pair
from ...reward.vlm.memory import judged_pixels, towers
from ...reward.vlm.model import EncodedImage
from ...reward.vlm.preprocess import PatchConfig, to_patches

MIN_PIXELS = 256 * 256
"""Smaller images are enlarged, as the family's own processor does."""
_HALF = (0.5, 0.5, 0.5)
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
"""What the published template makes of a message with images."""
_GET = "load one with Load CLIP, such as qwen3vl_4b or qwen3vl_8b"
_SAMPLES = 64
"""Values of every weight that a digest is made of where the file is not known."""


class _Family(NamedTuple):
    name: str
    image_token: int
    tied: tuple[str, ...]
    """Sizes whose language head is their table of embeddings."""


_FAMILIES = {
    "Qwen3VL": _Family("Qwen3-VL", 151655, ("qwen3vl_4b",)),
}
"""By ComfyUI's class."""


class NativeJudge:
    """ComfyUI's Qwen3-VL text encoder, asked the built-in question.

    Example: ``NativeJudge(clip, 512 * 512).probabilities([PairQuestion(first, second, query)])``.

    Args:
        clip: CLIP of a vision-language text encoder.
        max_pixels: Largest image it sees, in pixels.

    Raises:
        JudgeError: Another text encoder, or one without vision tower or language head.
    """

    needs_source = False
    is_differentiable = False
    folder = None

    def __init__(self, clip: Any, max_pixels: int) -> None:
        self._clip = clip
        self._files = _files_of(clip)
        self._network, family = _checked(clip, self._files)
        self.patches = PatchConfig(
            patch_size=16,
            temporal_patch_size=2,
            merge_size=2,
            min_pixels=min(MIN_PIXELS, max_pixels),
            max_pixels=max_pixels,
            mean=_HALF,
            std=_HALF,
        )
        self.chat = _chat(clip, family)
        self._image_token = family.image_token
        self._name = self._files[0].stem if self._files else family.name
        # ComfyUI's own entry: whoever moves the module of this one moves nothing.
        self.component = Component("judge", torch.nn.Identity, 0, self._dtype)
        assert not list(self.component.module.parameters()), "reading it marks it as loaded"
        self.component.handle = clip.patcher
        self.component.num_bytes = clip.patcher.model_size()

    @property
    def label(self) -> str:
        """The file's name, else the family's."""
        return f"{self._name} (native)"

    @property
    def identity(self) -> str:
        """A digest that changes when weights, patches of other nodes, or sizes change."""
        patches = str(getattr(self._clip.patcher, "patches_uuid", ""))
        text = f"{self.digest}|{patches}|{self.patches.max_pixels}|{self._dtype}|{TEMPLATE_VERSION}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def digest(self) -> str:
        """A digest of the weights: of their file, else of some of their values."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        if self._files:
            return fingerprint_files(self._files)
        digest = hashlib.blake2b(digest_size=8)
        for name, weight in self._network.state_dict().items():
            values = weight.flatten()
            some = values[:: max(1, len(values) // _SAMPLES)].float().cpu()
            digest.update(f"{name}{some.tolist()}".encode())
        return digest.hexdigest()

    @property
    def notes(self) -> Mapping[str, Any]:
        """Nothing: it was not trained by us."""
        return {}

    @property
    def components(self) -> tuple[Component, ...]:
        """ComfyUI's own entry of the text encoder."""
        return (self.component,)

    def to_values(self) -> dict[str, Any]:
        """Return a record of it; only this graph has the judge itself."""
        config = ResidentConfig(
            label=self.label, digest=self.digest, max_pixels=self.patches.max_pixels
        )
        return {"kind": RESIDENT, **asdict(config)}

    def check(self) -> None:
        """Raise JudgeError if the tokenizer has no single Yes and No."""
        _ = self.chat.answer_ids

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return the activations of judging, in bytes; questions are asked one after the other."""
        config, visual = self._network.model.config, self._network.visual
        text = {key: getattr(config, key) for key in dir(config) if not key.startswith("_")}
        layer = visual.blocks[0]
        vision = {
            "hidden_size": visual.hidden_size,
            "intermediate_size": layer.mlp.linear_fc1.out_features,
            "depth": len(visual.blocks),
        }
        language, tower = towers(text, vision, self.patches, pixels)
        numbers = max(language.tokens * language.working, tower.tokens * tower.working)
        return int(2 * numbers * 4 + 2 * rows * judged_pixels(self.patches, pixels) * 64)

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Raise JudgeError: gradients do not pass ComfyUI's modules."""
        raise JudgeError(f"{self.label} has no gradient; connect a judge from OneReward Load Judge")

    @torch.no_grad()
    def encode_images(self, images: Sequence[torch.Tensor]) -> list[EncodedImage]:
        """Run the vision tower on images ``[3, H, W]``, 0..1, of any sizes."""
        device, merge, encoded = self._device, self.patches.merge_size, []
        for image in images:
            mm.throw_exception_if_processing_interrupted()
            patches, (rows, cols) = to_patches(image.to(device, torch.float32), self.patches)
            grid = torch.tensor([[1, rows, cols]], device=device)
            out = self._network.visual(patches, grid)
            tokens, deepstack = out if isinstance(out, tuple) else (out, ())
            encoded.append(
                EncodedImage(
                    tokens=tokens, rows=rows // merge, cols=cols // merge, deepstack=(*deepstack,)
                )
            )
        return encoded

    @torch.no_grad()
    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return P("Yes") per question, ``[len(questions)]``, float32, on the host's device."""
        yes, _ = self.chat.answer_ids
        answers = []
        for first, second, query, _ in questions:
            mm.throw_exception_if_processing_interrupted()
            ids = self.chat.ids(about_pair(query.question()))
            answers.append(self._logits(ids, [first, second]).softmax(dim=-1)[yes])
        return torch.stack(answers)

    def _logits(self, ids: Sequence[int], images: Sequence[EncodedImage]) -> torch.Tensor:
        """Return the logits of the next token, ``[vocabulary]``, float32."""
        table = self._network.get_input_embeddings()
        device, left = self._device, iter(images)
        parts, places, length, start = [], [], 0, 0
        for end, token in enumerate([*ids, self._image_token]):
            if token != self._image_token:
                continue
            # The text up to an image, or to the end.
            text = torch.tensor([ids[start:end]], device=device, dtype=torch.long)
            parts.append(table(text, out_dtype=torch.float32))  # [1, L, D]
            length, start = length + end - start, end + 1
            if (image := next(left, None)) is None:
                continue
            grid = torch.tensor([[1, image.rows * 2, image.cols * 2]], device=device)
            extra = {"grid": grid, "deepstack": list(image.deepstack)} if image.deepstack else grid
            size = len(image.tokens)
            places.append({"type": "image", "index": length, "size": size, "extra": extra})
            parts.append(image.tokens[None].float())
            length += size
        embeds = torch.cat(parts, dim=1).to(self._dtype)
        states = self._network(None, None, embeds=embeds, embeds_info=places, dtype=self._dtype)[0]
        return self._network.logits(states)[0, -1].float()

    @property
    def _device(self) -> torch.device:
        return self._clip.patcher.load_device

    @property
    def _dtype(self) -> torch.dtype:
        """What ComfyUI's own generation computes in."""
        return torch.bfloat16 if mm.should_use_bf16(self._device) else torch.float32


def _checked(clip: Any, files: Sequence[Path]) -> tuple[Any, _Family]:
    """Return ComfyUI's network and its family, or raise JudgeError with what to load instead."""
    stage = clip.cond_stage_model
    part = getattr(stage, getattr(stage, "clip", ""), None)
    network: Any = getattr(part, "transformer", None)
    names = [cls.__name__ for cls in type(network).__mro__]
    if "Qwen25_7BVLI" in names:
        raise JudgeError(
            "CLIP is Qwen2.5-VL, whose language head ComfyUI leaves out when it loads it; "
            f"{_GET}, or a Qwen2.5-VL folder with OneReward Load Judge"
        )
    family = next((_FAMILIES[name] for name in names if name in _FAMILIES), None)
    if family is None:
        kind = type(network or stage).__name__.strip("_")
        raise JudgeError(
            f"CLIP is {kind}, but a judge needs a Qwen3-VL text encoder with its vision tower; "
            f"{_GET}, with type stable_diffusion, in a ComfyUI that knows it"
        )
    label = label_of(files[0]) if files else f"this {family.name} text encoder"
    if network.model.norm is None:
        raise JudgeError(
            f"{label} was loaded without its last norm, as some image models use it, so it cannot "
            "answer; choose type stable_diffusion in Load CLIP, or the whole text encoder"
        )
    tensors = {name for file in files for name in read_header(file)[0]}
    head = getattr(network.model, "lm_head", None)
    is_tied = network.model_type in family.tied
    if not is_tied and not (head is not None and _has(head, "lm_head.", tensors)):
        raise JudgeError(
            f"{label} lacks its language head (lm_head), which a judge answers with; {_GET} from a "
            "file that has it"
        )
    if not _has(network.visual.patch_embed.proj, "visual.", tensors):
        raise JudgeError(f"{label} lacks its vision tower, which a judge sees with; {_GET}")
    return network, family


def _has(layer: Any, part: str, tensors: set[str]) -> bool:
    """Tell whether a layer's weights came from a file: ComfyUI only warns of missing ones."""
    if tensors:
        return any(part in f"{name}." for name in tensors)
    rows = layer.weight[:_SAMPLES].float()
    return bool(rows.isfinite().all() and (rows.flatten(1).std(dim=1) > 0).all())


def _files_of(clip: Any) -> list[Path]:
    """Return the files that newer ComfyUIs remember of a text encoder; empty if unknown."""
    reload = getattr(clip.patcher, "cached_patcher_init", None)
    paths = reload[1][0] if reload else ()
    paths = [paths] if isinstance(paths, str) else paths
    files = [Path(path) for path in paths]
    is_known = all(f.suffix == ".safetensors" and f.is_file() for f in files)
    return files if is_known else []


def _chat(clip: Any, family: _Family) -> Chat:
    chat = Chat(Path("the connected CLIP"), family.image_token)
    chat.tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip).tokenizer
    chat.template = _TEMPLATE
    return chat
