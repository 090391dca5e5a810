"""``onereward edit TASK IMAGE``: an edit of an image, or of a folder of them, without ComfyUI.

An image's mask is ``<name>_mask.png`` beside it, ``masks/<name>.png``, or what is erased
(transparent) in it; ``<name>.txt`` beside it says what to paint where no option does. EXIF data and
colour profile are kept. The result of ``<name>.jpg`` is ``edited/<name>_<task>.jpg``. What is there
already is not made again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command_help import add_command
from .headless import STOPPED
from .version import PACKAGE_ROOT

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ..fill.config import FillConfig
    from ..fill.io.photo import Photo
    from ..fill.models import FillModels
    from ..fill.request import FillRequest

TASKS = ("fill", "extend", "remove", "text")
SIDES = ("left", "top", "right", "bottom")
BUNDLED = PACKAGE_ROOT / "assets" / "fill"
OUTPUT = "edited"
"""Folder beside the source, where none is named."""
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
MADE, THERE, FAILED = "made", "there already", "failed"
"""What became of an image."""
MAX_NAMES = 5
"""Of files that are no images, before the list is cut."""


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(subparsers, "edit", "edit an image, or a folder of them", *EXAMPLES)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("source", type=Path, help="image or folder of images")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"folder for the results, NAME_TASK.png; {OUTPUT}/ beside the source if absent",
    )
    parser.add_argument("--mask", type=Path, help="mask of a single image, white = repaint")
    parser.add_argument("--prompt", default="", help="what to paint, or how letters look")
    parser.add_argument("--text", default="", help="text: what to write; \\n between lines")
    for side in SIDES:
        parser.add_argument(
            f"--{side}", type=int, default=0, help="extend: new pixels on this side"
        )
    parser.add_argument("--aspect", default="", help="extend: W:H of the new image")
    parser.add_argument("--anchor", default="center", help="extend: where the source sits on it")
    parser.add_argument("--seed", type=int, default=0, help="of the first image; then counts up")
    parser.add_argument("--overwrite", action="store_true", help="make again what is there")
    parser.add_argument(
        "--format", default="", help="ending of the results, as png; else as before"
    )
    _add_model(parser)
    parser.set_defaults(run=run)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="folder in diffusers format; else the bundled")
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
    from ..fill.io.photo import list_photos
    from ..fill.local_host import LocalHost
    from ..fill.memory.plan import summary

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sources = list_photos(arguments.source)
    jobs = list(_jobs(arguments, sources))
    _say_skipped(arguments.source, sources)
    settings, loading = _settings(arguments.set)
    host = LocalHost(arguments.device or None)
    models = _load(arguments, loading, host.device)
    host.notify(summary(models, host))
    counts: Counter[str] = Counter()
    try:
        for job in jobs:
            counts[_edit(job, arguments, settings, models, host)] += 1
    except KeyboardInterrupt:
        sys.stderr.write("onereward: stopped; the same command goes on\n")
        return STOPPED
    sys.stderr.write(_summary(counts, len(jobs)))
    return 0 if counts[MADE] and not counts[FAILED] else 1


def _say_skipped(folder: Path, sources: list[Path]) -> None:
    """Name the files of a folder that are neither images nor belong to one."""
    from ..fill.io.photo import ENDS

    if not folder.is_dir():
        return
    notes = {source.with_suffix(".txt") for source in sources}
    strangers = sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() not in ENDS and file not in notes
    )
    if strangers:
        more = ", ..." if len(strangers) > MAX_NAMES else ""
        names = ", ".join(strangers[:MAX_NAMES]) + more
        sys.stderr.write(
            f"onereward: skipped {len(strangers)} files that are no images ({', '.join(ENDS)}): "
            f"{names}\n"
        )


def _summary(counts: Counter[str], total: int) -> str:
    """Return the last line: what was made, and what was not and why."""
    parts = ", ".join(f"{counts[name]} {name}" for name in (MADE, THERE, FAILED) if counts[name])
    hint = "; --overwrite makes again what is there" if counts[THERE] == total else ""
    return f"onereward: images: {parts}{hint}\n"


@dataclass(frozen=True, slots=True)
class _Job:
    """One image to edit."""

    source: Path
    target: Path
    seed: int


def _jobs(arguments: argparse.Namespace, sources: list[Path]) -> Iterator[_Job]:
    from ..fill.io.photo import ENDS

    if arguments.mask is not None and arguments.source.is_dir():
        raise ValueError("--mask is for a single image; a folder has one file for each")
    end = "." + arguments.format.lower().lstrip(".") if arguments.format else ""
    if end and end not in ENDS:
        raise ValueError(f"--format is {arguments.format}; choose one of: {', '.join(ENDS)}")
    folder = arguments.source if arguments.source.is_dir() else arguments.source.parent
    output = arguments.output or folder / OUTPUT
    if arguments.source.is_dir() and output.resolve() == folder.resolve():
        raise ValueError(
            f"{output} is the folder of the sources, whose results would be taken for sources; "
            "choose another --output"
        )
    sources_of: dict[Path, Path] = {}
    for index, source in enumerate(sources):
        target = output / f"{source.stem}_{arguments.task}{end or source.suffix}"
        if (first_source := sources_of.setdefault(target, source)) is not source:
            raise ValueError(
                f"{first_source.name} and {source.name} would both become {target.name}; leave "
                "--format out, or rename one of them"
            )
        yield _Job(source, target, arguments.seed + index)


def _edit(
    job: _Job, arguments: argparse.Namespace, settings: FillConfig, models: FillModels, host: Any
) -> str:
    """Make one image; return what became of it, with the reason on stderr if that failed."""
    from ..fill.io.photo import read_photo, save_photo
    from ..fill.pipeline import run_fill

    targets = _targets(job.target, settings.num_candidates)
    if not arguments.overwrite and all(target.is_file() for target in targets):
        sys.stderr.write(f"onereward: skipped {job.source.name}: {job.target} is there already\n")
        return THERE
    try:
        photo = read_photo(job.source, arguments.mask)
        result = run_fill(_request(photo, job.seed, arguments, settings), models, host)
        for pixels, target in zip(result.image, targets, strict=True):
            save_photo(photo, pixels, target)
            sys.stdout.write(f"{target}\n")
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        # RuntimeError: out of memory, or kernels that cannot run; the others may still succeed.
        sys.stderr.write(f"onereward: {job.source.name}: {error}\n")
        return FAILED
    return MADE


def _targets(target: Path, num_candidates: int) -> list[Path]:
    if num_candidates == 1:
        return [target]
    return [target.with_stem(f"{target.stem}-{index}") for index in range(num_candidates)]


def _request(
    photo: Photo, seed: int, arguments: argparse.Namespace, settings: FillConfig
) -> FillRequest:
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
    extension = None
    if task is Task.EXTEND:
        height, width = photo.pixels.shape[:2]
        sides = {side: getattr(arguments, side) for side in SIDES}
        extension = (
            extension_for_aspect(width, height, arguments.aspect, arguments.anchor)
            if arguments.aspect
            else Extension(**sides)
        )
    elif photo.mask is None:
        raise ValueError(
            f"it has no mask; save one as {photo.path.stem}_mask.png beside it, or erase the area"
        )
    return FillRequest(
        task=task,
        image=photo.pixels[None],
        mask=None if extension or photo.mask is None else photo.mask[None],
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
            names = ", ".join([*editing, *loading])
            raise ValueError(f"--set {item}: NAME=VALUE is expected, with NAME one of: {names}")
        values[name] = _parse(name, text, field.default)
    return (
        FillConfig(**{name: value for name, value in values.items() if name in editing}),
        {name: value for name, value in values.items() if name in loading},
    )


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--set {name}={text}: true or false is expected")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError as error:
        raise ValueError(f"--set {name}={text}: a number is expected") from error


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
