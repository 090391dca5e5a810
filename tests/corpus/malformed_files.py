"""Small files as people and attackers make them, each with what reading it has to come to.

The contents are written here, not stored: a case is the format (``support/file_formats.py``), the
bytes of its file, and the expected value or a pattern of the expected sentence.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from onereward.reward.judge import BUNDLED_FOLDER
from support.bundled_models import BUNDLED
from support.file_formats import CONDITION, GROUP, LABEL, LISTED, PAIR, encoded_picture

FOLDER = None
"""Contents of a case where a folder stands in the place of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusCase:
    """One file. Example: ``CorpusCase(format='recipe.json', name='empty', contents=b'', ...)``."""

    format: str
    name: str
    contents: bytes | None
    refusal: str = ""
    """Pattern of the sentence; empty: the file is read."""
    value: Any = None
    """What reading returns, where that is known."""


def corpus() -> list[CorpusCase]:
    """Return all cases."""
    return [*_records(), *_settings(), *_configs(), *_weights(), *_pictures(), *_templates()]


def _line(values: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(values | changes).encode() + b"\n"


def _records() -> Iterator[CorpusCase]:
    damaged: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, str]]]] = {
        "conditions.jsonl": (
            CONDITION,
            {
                "null": ({"prompt": None}, "prompt is None, but text is expected"),
                "number": ({"image_file_name": 5}, "image_file_name is 5, but text"),
                "list": ({"task": ["fill"]}, "task is .'fill'.; choose one of: fill, extend"),
                "no task": ({"task": "paint"}, "task is 'paint'; choose one of"),
                "unknown key": ({"colour": 1}, r"unknown settings \['colour'\]"),
                "nul": ({"prompt": "a\0b"}, "holds 'a.x00b', which is no text"),
                "lone surrogate": ({"prompt": "\ud800"}, r"holds '\\ud800', which is no text"),
                "escape": ({"mask_file_name": "../../x.png"}, "leaves the folder"),
                "absolute": ({"image_file_name": "/etc/passwd"}, "leaves the folder"),
                "drive": ({"image_file_name": "C:\\x.png"}, "leaves the folder"),
                "long name": ({"name": "猫" * 100}, "in at most 200 bytes"),
                "long file": ({"image_file_name": "猫" * 100}, "too long"),
                "nested": ({"prompt": _nested(70)}, "nested deeper than 64 levels"),
                "huge number": ({"prompt": 10**60}, "a number of 61 digits"),
            },
        ),
        "metadata.jsonl": (
            PAIR,
            {
                "null": ({"winner_file_name": None}, "winner_file_name is None, but text"),
                "confidence": ({"confidence": "high"}, "confidence is 'high', but a number"),
                "not sure": ({"confidence": 0.1}, "confidence is 0.1, but 0.5 to 1"),
                "settings": ({"settings": [1]}, "settings is .1., but an object is expected"),
                "itself": ({"loser_file_name": "a.png"}, "cannot be better than itself"),
                "nul": ({"winner_file_name": "a\0"}, "which is no text"),
            },
        ),
        "candidates.jsonl": (
            GROUP,
            {
                "text": ({"file_names": "a.png"}, "file_names is 'a.png', but a list of entries"),
                "few": ({"settings": [{}]}, "1 settings for 2 candidates"),
                "mixed": ({"settings": [1, {}]}, "each an object"),
                "empty name": ({"file_names": ["", "b"]}, "an image has no file name"),
            },
        ),
        "labels.jsonl": (
            LABEL,
            {
                "scores": ({"scores": [1]}, "scores is .1., but an object with"),
                "text": ({"scores": {"structure": ["a"]}}, "a list of entries, each a number"),
                "wins": ({"wins": [["structure", 0, 1]]}, "a win is"),
                "dimension": ({"scores": {"beauty": [0.5]}}, "'beauty' is not a valid Dimension"),
            },
        ),
        "pairs.jsonl": (
            LISTED,
            {
                "list": ({"winner": ["a.png"]}, "winner is .'a.png'., but text is expected"),
                "gone": ({"winner": "x.png"}, "x.png cannot be read as an image .No such file"),
                "nul": ({"winner": "a\0.png"}, "which is no text"),
                "confidence": ({"confidence": {}}, "confidence is {}, but 0.5 to 1"),
            },
        ),
    }
    for file, (values, changes) in damaged.items():
        whole = _line(values)
        yield CorpusCase(format=file, name="byte order mark", contents=b"\xef\xbb\xbf" + whole)
        yield CorpusCase(format=file, name="line breaks", contents=b"\r\n" + whole + b"\r\n\r\n")
        for name, (change, sentence) in changes.items():
            contents, pattern = (
                whole + _line(values, **change),
                f"{file}, (line|row) 2: .*{sentence}",
            )
            yield CorpusCase(format=file, name=name, contents=contents, refusal=pattern)
        for name, contents, pattern in (
            ("another encoding", whole.decode().encode("utf-16"), "is text in UTF-16; save it as"),
            ("no mark", whole.decode().encode("utf-16-le"), "holds NUL characters"),
            ("latin", '"überblick"'.encode("latin-1") + b"\n", "is not text in UTF-8"),
            ("array", b"[1, 2]\n", "line 1: it is .1, 2., but a JSON object"),
            ("NaN", b'{"confidence": NaN}\n', "line 1: it holds NaN"),
            ("cut line", whole[:30] + b"\n" + whole, "line 1: it is (cut off|not valid JSON)"),
            ("deep", b"[" * 100_000 + b"\n", "line 1: it is nested deeper than 64 levels"),
            ("folder", FOLDER, "is no file, but a text file is expected"),
        ):
            yield CorpusCase(
                format=file, name=name, contents=contents, refusal=f"{file}.*{pattern}"
            )


def _nested(depth: int) -> Any:
    node: Any = "x"
    for _ in range(depth):
        node = [node]
    return node


def _settings() -> Iterator[CorpusCase]:
    files = {
        "recipe.json alone": "recipe.json",
        "run config.json": "config.json",
        "checkpoint/state.json": "state.json",
        "inputs.json": "inputs.json",
        "report.json": "report.json",
        "FillConfig settings.json": "settings.json",
        "adapter_config.json": "adapter_config.json",
        "onereward.json": "onereward.json",
    }
    for format, file in files.items():
        for name, contents, pattern in (
            ("empty", b"", "empty"),
            ("binary", bytes(range(128, 256)), "is not text in UTF-8"),
            ("zeros", bytes(100), "holds NUL characters"),
            ("another encoding", "{}".encode("utf-16"), "is text in UTF-16"),
            ("list", b"[1]", "an object|a JSON object"),
            ("number", b"7", "an object|a JSON object"),
            ("infinity", b'{"steps": 1e999}', "1e999.*too large"),
            ("deep", b'{"a":' * 99_999, "nested deeper"),
            ("cut", b'{"a": 1, "b', "cut off"),
            ("folder", FOLDER, "is no file"),
        ):
            yield CorpusCase(
                format=format, name=name, contents=contents, refusal=f"{file}.*({pattern})"
            )
    state, recipe = "checkpoint/state.json", "recipe.json alone"
    for name, text in (("text", '"a"'), ("fraction", "1.5"), ("negative", "-1"), ("null", "null")):
        contents = f'{{"step": {text}, "seconds": 1}}'.encode()
        yield CorpusCase(format=state, name=name, contents=contents, refusal=r"state\.json.*step")
    whole_recipe = {
        **{"format": 1, "name": "x", "true_cfg": 2.0, "guidance": 3.5, "negative_prompt": ""},
        **{"steps": 20, "target_size": 64, "max_upscale": 1.0, "max_sequence_length": 12},
    }
    for key, value, pattern in (
        ("steps", 10**9, "steps is 1000000000, but a whole number from 1 to 10000"),
        ("steps", True, "steps is True"),
        ("guidance", -1, "guidance is -1, but a number from 0.0"),
        ("target_size", 10**30, "target_size is 10+"),
        ("name", None, "name is None, but text"),
        ("format", 2, "format is 2, but this version reads 1"),
    ):
        contents = json.dumps(whole_recipe | {key: value}).encode()
        yield CorpusCase(format=recipe, name=f"{key} {value}", contents=contents, refusal=pattern)


def _configs() -> Iterator[CorpusCase]:
    """Configs of models whose numbers no model has, which would fill the memory or never end."""
    absurd: dict[str, dict[str, Any]] = {
        "transformer/config.json": {"num_layers": 10**9, "attention_head_dim": -1},
        "vae/config.json": {"layers_per_block": 10**7, "block_out_channels": [10**9] * 3},
        "text_encoder/config.json": {"num_hidden_layers": 10**8, "vocab_size": 10**12},
        "text_encoder_2/config.json": {"num_layers": 2**40, "d_ff": "wide"},
        "scheduler/scheduler_config.json": {"num_train_timesteps": 10**12, "shift": "x"},
        "judge config.json": {"image_token_id": "x", "vision_config": None},
        "judge preprocessor_config.json": {
            **{"patch_size": 0, "image_mean": [0.5], "image_std": [0, 0, 0]},
            **{"merge_size": 3, "max_pixels": "many"},
        },
    }
    for format, changes in absurd.items():
        source = (BUNDLED_FOLDER if format.startswith("judge") else BUNDLED) / format.split()[-1]
        for key, value in changes.items():
            yield CorpusCase(
                format=format,
                name=f"{key} {value}",
                contents=json.dumps(json.loads(source.read_text("utf-8")) | {key: value}).encode(),
                refusal=f"{key}|no vision model",
            )
    layers = json.loads((BUNDLED / "transformer" / "config.json").read_text()) | {"num_layers": 512}
    yield CorpusCase(
        format="transformer/config.json",
        name="more layers than weights",
        contents=json.dumps(layers).encode(),
        refusal="num_layers 512, but its weights have only",
    )


def _weights() -> Iterator[CorpusCase]:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    headers: dict[str, tuple[Any, str]] = {
        "whole": ({"a": entry}, ""),
        "overlap": ({"a": entry, "b": entry}, "'b' does not begin where another tensor ends"),
        "gap": ({"a": entry | {"data_offsets": [4, 8]}}, "bytes but its header promises"),
        "type": ({"a": entry | {"dtype": "F99"}}, "'a' has the unknown type 'F99'"),
        "list as type": ({"a": entry | {"dtype": ["F32"]}}, "unknown type"),
        "negative": ({"a": entry | {"shape": [-1, -1]}}, "as its shape"),
        "giant": ({"a": entry | {"shape": [2**62, 2**62]}}, "as its shape"),
        "many axes": ({"a": entry | {"shape": [1] * 99}}, "as its shape"),
        "backwards": ({"a": entry | {"data_offsets": [4, 0]}}, "cannot be -4 bytes"),
        "null": ({"a": None}, "'a' is None, which is no tensor"),
        "notes": ({"__metadata__": [], "a": entry}, "__metadata__ is"),
    }
    for name, (header, pattern) in headers.items():
        text = json.dumps(header).encode()
        contents = struct.pack("<Q", len(text)) + text + bytes(4)
        yield CorpusCase(
            format="notes.safetensors",
            name=name,
            contents=contents,
            refusal=pattern and rf"notes\.safetensors.*{pattern}",
        )
    for name, length in (("nothing", 0), ("huge", 2**63), ("most", 2**64 - 1), ("longer", 999)):
        yield CorpusCase(
            format="notes.safetensors",
            name=f"length {name}",
            contents=struct.pack("<Q", length) + b"{}",
            refusal="is no safetensors file or is cut off",
        )
    for name, file in (("up", "../../x.safetensors"), ("root", "/x.safetensors"), ("nul", "a\0")):
        yield CorpusCase(
            format="model.safetensors.index.json",
            name=name,
            contents=json.dumps({"weight_map": {"a": file}}).encode(),
            refusal="outside its folder|which is no text",
        )
    for name, contents in (
        ("cut", b"GGUF\x03\0\0\0"),
        ("tensors", b"GGUF\x03\0\0\0" + struct.pack("<QQ", 2**63, 0)),
        ("keys", b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 2**60)),
        ("long key", b"GGUF\x03\0\0\0" + struct.pack("<QQQ", 0, 1, 2**62)),
    ):
        yield CorpusCase(
            format="fill.gguf", name=name, contents=contents, refusal=r"fill\.gguf is damaged"
        )


def _pictures() -> Iterator[CorpusCase]:
    square = Image.new("RGB", (16, 16), (200, 10, 10))
    whole = encoded_picture(square, "PNG")
    large = encoded_picture(Image.new("1", (12_000, 12_000)), "PNG")  # some 20 kB
    moving = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 120, 240)]
    cases: list[tuple[str, bytes | None, str]] = [
        ("whole", whole, ""),
        ("another extension", encoded_picture(square, "JPEG"), ""),
        ("12,000 pixels", large, "has 12000x12000 pixels, but 1 to 100 million are read"),
        ("cut", whole[: len(whole) // 2], "cannot be read as an image"),
        ("empty", b"", "it is no image"),
        ("text", b"no image", "it is no image"),
        ("no width", whole[:16] + bytes(4) + whole[20:], "cannot be read as an image"),
        ("eps", encoded_picture(square, "EPS"), "it is a EPS file; save it as PNG"),
        ("frames", _animation(moving), "it holds 3 frames"),
        ("folder", FOLDER, "it is no file"),
    ]
    for mode in ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F", "I"):
        kind = "PNG" if mode in ("1", "L", "LA", "P", "RGBA", "I;16") else "TIFF"
        if mode != "PA":
            cases.append((f"mode {mode}", encoded_picture(_in_mode(square, mode), kind), ""))
    for name, contents, pattern in cases:
        yield CorpusCase(
            format="photo.png",
            name=name,
            contents=contents,
            refusal=pattern and rf"photo\.png.*{pattern}",
        )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.new("LAB", image.size, (100, 100, 100))
    return image.convert("L" if mode in ("I;16", "F", "I", "LA") else "RGB").convert(mode)


def _animation(frames: list[Image.Image]) -> bytes:
    import io

    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _templates() -> Iterator[CorpusCase]:
    loop = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    for format in ("template.jinja", "chat_template.jinja"):
        for name, source, pattern in (
            ("loops", loop, "does not end"),
            ("raises", "{{ raise_exception('no images here') }}", "no images here"),
            ("grows", "{{ 'a' * 10 ** 12 }}", "makes .* characters"),
            ("syntax", "{% for", "TemplateSyntaxError"),
            ("escape", "{{ ''.__class__.__mro__[1] }}", "unsafe"),
        ):
            yield CorpusCase(format=format, name=name, contents=source.encode(), refusal=pattern)
