"""``onereward edit TASK IMAGE``: an edit of an image, or of a folder of them, without ComfyUI.

An image's mask is ``<name>_mask.png`` beside it, ``masks/<name>.png``, or what is erased
(transparent) in it; ``<name>.txt`` beside it says what to paint where no option does. What a file
says of itself is kept: EXIF data, colour profile, comments. The result of ``<name>.jpg`` is
``edited/<name>_<task>.jpg``. What is there already is not made again, so a run that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import secrets
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command_help import add_command
from .edit_sources import OUTPUT, EditJob, list_jobs, name_others
from .headless import STOPPED
from .version import PACKAGE_ROOT

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import torch

    from ..fill.config import FillConfig
    from ..fill.io.photo import Photo
    from ..fill.models import FillModels
    from ..fill.request import FillRequest

TASKS = ("fill", "extend", "remove", "text")
SIDES = ("left", "top", "right", "bottom")
BUNDLED = PACKAGE_ROOT / "assets" / "fill"
PATHS = {
    "transformer": "folder or file of a transformer instead of the model's own",
    "vae": "VAE file instead of the model's own",
    "text_encoder": "CLIP-L file instead of the model's own",
    "text_encoder_2": "T5 file instead of the model's own",
    "tokenizer": "folder of CLIP's tokenizer, for files without a model folder",
    "tokenizer_2": "folder of T5's tokenizer, likewise",
}
EXAMPLES = (
    "edit remove PHOTO.jpg --mask MASK.png --model models/diffusers/OneReward",
    "edit remove FOLDER",
    'edit fill PHOTO.png --prompt "a silver fork" --seed 7 --set steps=28',
    "edit extend PHOTO.jpg --aspect 16:9 --format png",
    'edit text SIGN.png --text "OPEN" --prompt "white neon letters"',
)
MADE, UNCHANGED, THERE, FAILED = "made", "unchanged", "there already", "failed"
"""What became of an image."""
USED_BY = {
    "mask": ("fill", "remove", "text"),
    "prompt": ("fill", "extend", "text"),
    "text": ("text",),
    **dict.fromkeys((*SIDES, "aspect", "anchor"), ("extend",)),
}
"""Options that not every task has."""
DEFAULTS = {"mask": None, "anchor": "center", **dict.fromkeys(SIDES, 0)}
"""Theirs, where it is not an empty text."""


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(subparsers, "edit", "edit an image, or a folder of them", *EXAMPLES)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("source", type=_path, help="image or folder of images")
    parser.add_argument(
        "--output",
        type=_path,
        help=f"folder for the results, NAME_TASK.png; {OUTPUT}/ beside the source if absent",
    )
    parser.add_argument("--mask", type=_path, help="mask of a single image, white = repaint")
    parser.add_argument(
        "--prompt",
        default="",
        help="what to paint, or how letters look; {a|b} counts as plain text here",
    )
    parser.add_argument("--text", default="", help="text: what to write; \\n between lines")
    for side in SIDES:
        parser.add_argument(
            f"--{side}", type=int, default=DEFAULTS[side], help="extend: new pixels on this side"
        )
    parser.add_argument("--aspect", default="", help="extend: W:H of the new image")
    parser.add_argument(
        "--anchor", default=DEFAULTS["anchor"], help="extend: where the source sits on it"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first image; then counts up; -1: any, named"
    )
    parser.add_argument("--overwrite", action="store_true", help="make again what is there")
    parser.add_argument(
        "--format", default="", help="ending of the results, as png; else as before"
    )
    _add_model(parser)
    parser.set_defaults(run=run)


def _path(text: str) -> Path:
    """Refuse an empty text, which would be the current folder: a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file or folder")
    return Path(text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=_path, help="folder in diffusers format; else the bundled")
    for name, text in PATHS.items():
        parser.add_argument(f"--{name}", default="", help=text)
    parser.add_argument(
        "--adapter",
        nargs="+",
        action="append",
        default=[],
        metavar=("FILE", "STRENGTH"),
        help="LoRA, with its strength if not 1; can be given again",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting of OneReward Settings and of the loader, as steps=28 or offload=on",
    )
    parser.add_argument("--device", default="", help="cpu, cuda, ...; else a GPU if there is one")


def run(arguments: argparse.Namespace) -> int:
    """Edit; return 0, 1 if an image failed or none was made, 130 if the user stopped."""
    from ..fill.io.folder_lock import folder_lock
    from ..fill.local_host import LocalHost
    from ..fill.memory.plan import summary

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        # What can be wrong before a model is loaded.
        _check_options(arguments)
        settings, loading = _settings(arguments.set)
        counts = Counter({FAILED: name_others(arguments.source)})
        jobs = list_jobs(arguments)
        host = LocalHost(_device(arguments.device))
        # The model, and one image after the other.
        models = _load(arguments, loading, host.device)
        host.notify(summary(models, host))
        with folder_lock(jobs[0].target.parent):
            for job in jobs:
                counts[_edit(job, arguments, settings, models, host)] += 1
    except KeyboardInterrupt:
        sys.stderr.write("onereward: stopped; the same command goes on\n")
        return STOPPED
    sys.stderr.write(_summary(counts, len(jobs)))
    return 0 if counts[MADE] + counts[UNCHANGED] and not counts[FAILED] else 1


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse what no image can be edited by, and name options without effect."""
    from ..fill.image.geometry import Extension, check_aspect
    from ..fill.request import MAX_SEED

    if arguments.seed == -1:
        arguments.seed = secrets.randbelow(2**32)
        sys.stderr.write(f"onereward: --seed {arguments.seed} repeats this run\n")
    if not 0 <= arguments.seed <= MAX_SEED:
        raise ValueError(f"--seed is {arguments.seed}, but 0 to 2**64 - 1, or -1, is expected")
    options = vars(arguments)
    non_defaults = [name for name in USED_BY if options[name] != DEFAULTS.get(name, "")]
    unused = [name for name in non_defaults if arguments.task not in USED_BY[name]]
    if arguments.task == "extend":
        if arguments.aspect:
            check_aspect(arguments.aspect, arguments.anchor)
            unused += [side for side in SIDES if side in non_defaults]
        else:
            Extension(**{side: options[side] for side in SIDES})
    for encoder in ("text_encoder", "text_encoder_2"):
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        if options[tokenizer] and not options[encoder]:
            sys.stderr.write(f"onereward: --{tokenizer} has no effect without --{encoder}\n")
    for name in unused:
        beside = " beside --aspect" if name in SIDES and arguments.task == "extend" else ""
        sys.stderr.write(f"onereward: --{name} has no effect on {arguments.task}{beside}\n")


def _device(name: str) -> torch.device | None:
    """Return where to compute; ValueError if PyTorch cannot compute there."""
    import torch

    from .info import devices

    if not name:
        return None
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"--device is {name}, but PyTorch cannot compute there; choose one of: "
            f"{', '.join(devices())}"
        ) from error
    return device


def _summary(counts: Counter[str], total: int) -> str:
    """Return the last line: what was made, and what was not and why."""
    outcomes = (MADE, UNCHANGED, THERE, FAILED)
    parts = ", ".join(f"{counts[name]} {name}" for name in outcomes if counts[name])
    hint = "; --overwrite makes again what is there" if counts[THERE] == total else ""
    return f"onereward: images: {parts}{hint}\n"


def _edit(
    job: EditJob, arguments: argparse.Namespace, settings: FillConfig, models: FillModels, host: Any
) -> str:
    """Make one image; return what became of it, with the reason on stderr if that failed."""
    from ..fill.io.json_text import shorten
    from ..fill.io.photo import read_photo, save_photo
    from ..fill.pipeline import run_fill

    targets = _targets(job.target, settings.num_candidates)
    if not arguments.overwrite and all(target.is_file() for target in targets):
        sys.stderr.write(f"onereward: skipped {job.source.name}: {job.target} is there already\n")
        return THERE
    try:
        photo = read_photo(job.source, arguments.mask)
        request = _request(photo, job.seed, arguments, settings)
        result = run_fill(request, models, host, job.number)
        for pixels, target in zip(result.image, targets, strict=True):
            save_photo(photo, pixels, target)
            sys.stdout.write(f"{target}\n")
    except (ValueError, OSError, MemoryError, RuntimeError, ArithmeticError) as error:
        # RuntimeError: out of memory, or kernels that cannot run; the others may still succeed.
        sys.stderr.write(f"onereward: {shorten(f'{job.source.name}: {error}')}\n")
        return FAILED
    if not result.mask.any():
        sys.stderr.write(f"onereward: {job.source.name} has nothing painted and is unchanged\n")
        return UNCHANGED
    return MADE


def _targets(target: Path, num_candidates: int) -> list[Path]:
    if num_candidates == 1:
        return [target]
    return [target.with_stem(f"{target.stem}-{index}") for index in range(num_candidates)]


def _request(
    photo: Photo, seed: int, arguments: argparse.Namespace, settings: FillConfig
) -> FillRequest:
    import torch

    from ..fill.image.geometry import Extension, extension_for_aspect
    from ..fill.request import FillRequest
    from ..fill.task import Task

    # What to paint.
    task = Task(arguments.task)
    text, prompt = arguments.text.replace("\\n", "\n"), arguments.prompt
    if task is Task.TEXT:
        text = text or photo.text
    else:
        prompt = prompt or photo.text
    # Where to paint.
    extension, mask = None, photo.mask
    if task is Task.EXTEND:
        height, width = photo.pixels.shape[:2]
        sides = {side: getattr(arguments, side) for side in SIDES}
        extension = (
            extension_for_aspect(width, height, arguments.aspect, arguments.anchor)
            if arguments.aspect
            else Extension(**sides)
        )
    elif mask is None and settings.skip_empty_masks:
        mask = torch.zeros(photo.pixels.shape[:2])
    elif mask is None:
        raise ValueError(
            f"it has no mask; save one as {photo.path.stem}_mask.png beside it, or erase the area"
        )
    return FillRequest(
        task=task,
        image=photo.pixels[None],
        mask=None if extension or mask is None else mask[None],
        prompt=prompt,
        text=text,
        extension=extension,
        seed=seed,
        config=settings,
    )


def _settings(items: list[str]) -> tuple[FillConfig, dict[str, Any]]:
    """Return the settings of the edit, and those of loading."""
    from ..fill.config import FillConfig, ModelConfig

    editing = {f.name: f for f in fields(FillConfig)}
    loading = {f.name: f for f in fields(ModelConfig) if f.metadata}
    values: dict[str, Any] = {}
    for item in items:
        name, sign, text = item.partition("=")
        field = editing.get(name) or loading.get(name)
        if field is None or not sign:
            nearest = difflib.get_close_matches(name, [*editing, *loading], 5, 0.4) or ["steps"]
            raise ValueError(
                f"--set {item[:60]}: NAME=VALUE is expected, with NAME a setting of OneReward "
                f"Settings or of the loader, such as {', '.join(nearest)}"
            )
        values[name] = _parse(name, text, field.default)
    return (
        FillConfig(**{name: value for name, value in values.items() if name in editing}),
        {name: value for name, value in values.items() if name in loading},
    )


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--set {name}={text[:60]}: true or false is expected")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError as error:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"--set {name}={text[:60]}: {kind} is expected") from error


def _load(arguments: argparse.Namespace, loading: dict[str, Any], device: Any) -> FillModels:
    from ..fill.checkpoint.lora_file import left_out
    from ..fill.config import COMPONENTS, ModelConfig
    from ..fill.models import load_fill_models

    paths = {name: getattr(arguments, name) for name in PATHS}
    folder = arguments.model
    if folder is None and not all(paths[name] for name in COMPONENTS):
        folder = BUNDLED
    config = ModelConfig(folder=str(folder or ""), **paths, **loading)
    try:
        models = load_fill_models(config, device)
    except RuntimeError as error:  # a package that a file needs is missing
        raise ValueError(str(error)) from error
    for file, *strength in arguments.adapter:
        models = models.with_adapter(Path(file), _strength(strength))
        if note := left_out(models.adapters[-1].path):
            logging.getLogger("onereward.cli").warning("%s", note)
    return models


def _strength(values: list[str]) -> float:
    try:
        (value,) = map(float, values or ["1"])
    except ValueError as error:
        raise ValueError("--adapter takes a file and at most one number") from error
    return value
