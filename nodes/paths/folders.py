"""Where models are: the bundled one, ComfyUI's ``diffusers`` folders and a folder of ours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

import folder_paths

from ...fill.checkpoint.adapters import ENDS
from ...fill.io.json_text import parse_object, quote, read_text
from ...fill.models import PIPELINES
from ...fill.recipe import FILE_NAME as RECIPE
from ...reward.judge import BUNDLED as BUNDLED_JUDGE
from ...reward.judge import judge_folder as judge_path
from ...reward.report import FILE_NAME as REPORT
from ...reward.vlm.adapter import CONFIG as ADAPTER_CONFIG
from ...reward.vlm.families import MODEL_TYPES
from . import model_files
from .folder_walk import file_stamps, walk_folders
from .model_files import FROM_MODEL

ASSETS = Path(__file__).resolve().parents[2] / "assets"
"""What comes with this pack."""
BUNDLED = "bundled (tiny)"
"""Label of the model, and of the judge, that come with this pack."""
NO_FOLDER = "none: every part from a file"
"""Label for no model folder."""
NO_ADAPTER = "none found: put LoRA files into models/loras"
NO_JUDGE_ADAPTER = "none"
"""Label for a judge as it is."""
JUDGE_RUNS = "judges"
"""Folder of judge training below output/onereward."""
OUR_FOLDER = "onereward"
_LANGUAGE_MODELS = "LLM"
"""Where other packs keep vision-language models, whether ComfyUI knows the folder or not."""
_CACHED = "models--"
"""Begins the name of a repository in a cache of the Hugging Face Hub."""
_INDEX_FILES = {"model_index.json", "config.json"}
_MAX_BYTES = 4 << 20
"""Of these files."""
_MAX_DEPTH = 3
"""Levels below a model folder that are searched: owner, repository, transformer."""


def register() -> None:
    """Make ``models/onereward`` a model folder, besides those of a user's yaml."""
    folder_paths.add_model_folder_path(
        OUR_FOLDER, os.path.join(folder_paths.models_dir, OUR_FOLDER)
    )
    paths, extensions = folder_paths.folder_names_and_paths[OUR_FOLDER]
    # An empty set of extensions would list every file.
    folder_paths.folder_names_and_paths[OUR_FOLDER] = (paths, set(extensions) | {".safetensors"})


def model_names() -> list[str]:
    """Return the fill models a user can choose: the bundled one, diffusers folders, no folder."""
    names = {name for name, folder in _folders() if _is_fill_pipeline(folder)}
    return [BUNDLED, *sorted(names), NO_FOLDER]


def transformer_names() -> list[str]:
    """Return the choices for a separate transformer, folders then files; the first one is none."""
    names = {name for name, folder in _folders() if _is_transformer(folder)}
    files = [*model_files.file_names("transformer"), *model_files.checkpoint_names()]
    return [FROM_MODEL, *sorted(names), *dict.fromkeys(files)]


def adapter_names() -> list[str]:
    """Return the files in ComfyUI's ``loras`` folders, then the bundled ones.

    If there is none at all, one line says where to put some.
    """
    files = folder_paths.get_filename_list("loras")
    names = [name for name in files if name.endswith(ENDS)]
    return [*names, *bundled_adapters()] or [NO_ADAPTER]


def bundled_adapters() -> dict[str, Path]:
    """Return the adapters that come with this pack, made for its own model, by their names."""
    files = sorted((ASSETS / "adapters").glob("*.safetensors"))
    return {f"{BUNDLED}/{file.stem}": file for file in files}


def judge_names() -> list[str]:
    """Return the judges a user can choose: the bundled one, models, and those trained here."""
    names = {name for name, folder in _folders(_judge_roots()) if _is_judge(folder)}
    return [BUNDLED, *sorted(names), *_trained("judge/config.json")]


def judge_adapter_names() -> list[str]:
    """Return the adapters for judges, none first: in the model folders, and those trained here."""
    names = [
        path.parent.relative_to(root).as_posix()
        for root in _judge_roots()
        for path in sorted(Path(root).glob("*/" + ADAPTER_CONFIG))
    ]
    return [NO_JUDGE_ADAPTER, *names, *_trained("adapter/" + ADAPTER_CONFIG)]


def judge_folder(name: str) -> Path:
    """Return the folder of a chosen judge; raise FileNotFoundError if there is none."""
    if name == BUNDLED:
        return judge_path(BUNDLED_JUDGE)
    roots = [*_judge_roots(), _trained_root()]
    return _find(name, "judge", "config.json", roots)


def judge_adapter_folder(name: str) -> Path | None:
    """Return the folder of a chosen adapter, None for none; raise FileNotFoundError."""
    if name == NO_JUDGE_ADAPTER:
        return None
    return _find(name, "adapter", ADAPTER_CONFIG, [*_judge_roots(), _trained_root()])


def _trained_root() -> str:
    return os.path.join(folder_paths.get_output_directory(), OUR_FOLDER, JUDGE_RUNS)


def _trained(file: str) -> list[str]:
    root = Path(_trained_root())
    return [path.parent.relative_to(root).as_posix() for path in sorted(root.glob("*/" + file))]


def model_folder(name: str) -> Path | None:
    """Return the folder of a chosen model, None for none; raise FileNotFoundError if it is gone."""
    if name == NO_FOLDER:
        return None
    return bundled_folder() if name == BUNDLED else _find(name, "model", "model_index.json")


def transformer_path(name: str) -> Path | None:
    """Return the folder or file of a chosen transformer, or None for the model's own."""
    if name == FROM_MODEL or model_files.is_file_name(name):
        return model_files.model_file("transformer", name)
    return _find(name, "transformer", "config.json")


def adapter_file(name: str) -> Path:
    """Return the file of a chosen adapter; raise FileNotFoundError or ValueError."""
    if bundled := bundled_adapters().get(name):
        return bundled
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise FileNotFoundError(
            f"adapter {quote(name)} is not in models/loras; choose one from the list"
        )
    if not path.endswith(ENDS):
        raise ValueError(f"adapter {quote(name)} is not a .safetensors file; convert it first")
    return Path(path)


def bundled_folder() -> Path:
    """Return the folder of the model that comes with this pack."""
    return ASSETS / "fill"


def download_folder(hub_id: str) -> Path:
    """Return where a repository of the Hub is put."""
    return Path(folder_paths.get_folder_paths(OUR_FOLDER)[0]) / hub_id.replace("/", "--")


def stamp(path: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Return name, size in bytes and time of change of a file, or of all files in a folder.

    The report on a judge is left out: it does not change the judge.
    """
    if path is None or not path.exists():
        return ()
    return tuple(entry for entry in file_stamps(path) if os.path.basename(entry[0]) != REPORT)


def stamps(find: Callable[[], Iterable[Path | None]]) -> Hashable:
    """Return a digest of what a node reads; nothing where it is gone, or linked and unknown."""
    try:
        entries = [stamp(path) for path in find()]
        return hashlib.sha256(repr(entries).encode()).hexdigest()  # ComfyUI walks through tuples
    except (ValueError, OSError, TypeError):
        return ()


def _roots() -> list[str]:
    names = ("diffusers", OUR_FOLDER)
    return [root for name in names for root in folder_paths.get_folder_paths(name)]


def _judge_roots() -> list[str]:
    roots = [
        *folder_paths.get_folder_paths(OUR_FOLDER),
        os.path.join(folder_paths.models_dir, _LANGUAGE_MODELS),
    ]
    if _LANGUAGE_MODELS in folder_paths.folder_names_and_paths:
        roots += folder_paths.get_folder_paths(_LANGUAGE_MODELS)
    return list(dict.fromkeys(roots))


def _find(name: str, what: str, file: str, roots: list[str] | None = None) -> Path:
    """Return the folder ``name`` in the first root that has it.

    Links inside a model folder are followed, since people keep large models elsewhere; a name
    itself must not lead out of the folder.
    """
    for root in roots or _roots():
        folder = Path(os.path.normpath(os.path.join(root, name)))
        if folder.is_relative_to(os.path.normpath(root)) and os.path.isfile(folder / file):
            return folder
    # Folders of a cache have other names than those in the list.
    folder = dict(reversed(list(_folders(roots)))).get(name)
    if folder is not None and (folder / file).is_file():
        return folder
    places = f"models/{OUR_FOLDER} or models/{_LANGUAGE_MODELS if roots else 'diffusers'}"
    raise FileNotFoundError(
        f"{what} {quote(name)} is not a folder with {file} in {places}; choose one from the list"
    )


def _folders(roots: list[str] | None = None) -> Iterator[tuple[str, Path]]:
    """Yield every model folder with its name, ``/`` between levels."""
    names: list[tuple[str, Path]] = []

    def visit(name: str, path: Path, entries: set[str]) -> bool:
        is_model = any((path / file).is_file() for file in entries & _INDEX_FILES)
        names.extend([(name, path)] if is_model else [])
        return not is_model

    for root in roots or _roots():
        walk_folders(Path(root), _MAX_DEPTH, visit, _without_cache)
    yield from names


def _without_cache(name: str, path: Path) -> tuple[str, Path]:
    """Return the name and content of a folder, which may be a repository in a cache."""
    if not path.name.startswith(_CACHED):
        return name, path
    repository = path.name.removeprefix(_CACHED).replace("--", "/")
    return name.removesuffix(path.name) + repository, _snapshot(path)


def _snapshot(repository: Path) -> Path:
    """Return the current state of a cached repository: that of its main branch, else the newest."""
    snapshots, main = repository / "snapshots", repository / "refs" / "main"
    try:
        current = read_text(main).strip()
    except (OSError, ValueError):
        current = ""
    folders = [folder for folder in snapshots.glob("*") if folder.is_dir()]
    newest = [(f.name == current, f.stat().st_mtime_ns, f) for f in folders]
    return max(newest)[-1] if newest else snapshots


def _is_fill_pipeline(folder: Path) -> bool:
    return _read(folder / "model_index.json").get("_class_name") in PIPELINES


def is_demo(folder: Path) -> bool:
    """Tell whether a model folder is a copy of the bundled one."""
    return bool(_read(folder / RECIPE).get("demo_side"))


def _is_transformer(folder: Path) -> bool:
    return _read(folder / "config.json").get("_class_name") == "FluxTransformer2DModel"


def _is_judge(folder: Path) -> bool:
    return _read(folder / "config.json").get("model_type") in MODEL_TYPES


def _read(path: Path) -> dict[str, object]:
    """Return a JSON object, empty if there is none: a broken folder is just not listed."""
    try:
        return parse_object(read_text(path, _MAX_BYTES))
    except (OSError, ValueError):
        return {}
