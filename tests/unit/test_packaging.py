"""The project's metadata, and the wheel for use outside ComfyUI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import tomllib
from PIL import Image

from support.fresh_environment import make_environment
from support.scripts import load_script
from support.workflows import SIZE, example_image

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
NOT_PACKAGES = {"benchmarks", "lab", "scripts", "tests"}
DATA_FOLDERS = {"assets", "locales", "subgraphs", "web", "workflows"}
FORBIDDEN_REQUIREMENTS = {"torch", "torchvision", "torchaudio", "numpy"}


def repository_files() -> list[Path]:
    """Return what a clone holds."""
    output = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [Path(line) for line in output.splitlines() if (ROOT / line).is_file()]


def source_packages() -> set[str]:
    folders = {path.parent for path in repository_files() if path.name == "__init__.py"}
    names = {".".join(("onereward", *folder.parts)) for folder in folders}
    return {name for name in names if name.split(".")[1:2] not in [[n] for n in NOT_PACKAGES]}


def test_every_package_is_listed():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == source_packages()


def test_requirements_txt_is_the_same_list():
    requirements = (ROOT / "requirements.txt").read_text("utf-8").split()
    assert requirements == PROJECT["project"]["dependencies"]


@pytest.mark.parametrize("requirement", PROJECT["project"]["dependencies"])
def test_requirements_cannot_break_other_packs(requirement: str):
    match = re.fullmatch(r"([A-Za-z0-9_.-]+)>=[\d.]+", requirement)
    assert match, f"{requirement}: only a lower bound is allowed"
    assert match[1] not in FORBIDDEN_REQUIREMENTS


def test_registry_metadata_is_complete():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,99}", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert project["urls"]["Repository"]
    assert comfy["PublisherId"]
    assert comfy["DisplayName"]
    assert comfy["requires-comfyui"] == ">=0.3.75"
    assert {"Bug Tracker", "Documentation"} <= project["urls"].keys()


ACCELERATORS = {
    *("GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "GPU :: Apple Metal"),
    "NPU :: Huawei Ascend",
}
"""What ComfyUI's registry knows (comfy-cli 1.23.0); another value voids all of them."""


def test_classifiers_are_those_the_registry_knows():
    classifiers = PROJECT["project"]["classifiers"]
    prefix = "Environment :: "
    accelerators = {c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)}
    assert "GPU :: NVIDIA CUDA" in accelerators
    assert accelerators <= ACCELERATORS
    assert classifiers == sorted(classifiers)
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    versions = [c.rpartition(" ")[2] for c in classifiers if ":: Python :: 3." in c]
    assert versions[0] == lowest


@pytest.mark.parametrize(("name", "ratio"), [("Icon", 1.0), ("Banner", 21 / 9)])
def test_pictures_have_the_form_that_the_registry_asks_for(name: str, ratio: float):
    urls, comfy = PROJECT["project"]["urls"], PROJECT["tool"]["comfy"]
    root = urls["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    path = comfy[name].removeprefix(root)
    with Image.open(ROOT / path) as picture:
        assert picture.width / picture.height == pytest.approx(ratio)
        assert picture.width <= (400 if name == "Icon" else 1500)


def test_version_has_a_changelog_entry():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {PROJECT['project']['version']}" in changelog


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves files in its source folder."""
    source = tmp_path_factory.mktemp("source")
    for path in repository_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    target = tmp_path_factory.mktemp("wheel")
    run_pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(target), str(source))
    (file,) = target.glob("*.whl")
    return file


def run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_wheel_holds_the_package_and_its_data_only(wheel: Path):
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    shipped = {name.split(".")[1] for name in source_packages() - {"onereward"}} | DATA_FOLDERS
    files = {path for path in repository_files() if path.parts[0] in shipped}
    missing = {f"onereward/{path.as_posix()}" for path in files} - names
    assert not missing
    assert {name.split("/")[1] for name in names if name.count("/") > 1} <= shipped
    assert {name.split("/")[0] for name in names} == {"onereward"}


IMPORT_EVERYTHING = """
import importlib, pathlib, sys
import onereward
assert "torch" not in sys.modules
root = pathlib.Path(onereward.__file__).parent
assert str(root).startswith(sys.argv[1]), root
for name in sys.argv[2:]:
    importlib.import_module(name)
for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None) or ""
    if path.startswith(str(root) + "/") and not name.startswith("onereward"):
        raise SystemExit(f"{path} was loaded as {name}")
    if path.startswith(str(root) + "/.."):
        raise SystemExit(path)
"""


def source_modules() -> list[str]:
    """Return every module but those of nodes/, which need ComfyUI."""
    prefixes = tuple(name + "." for name in source_packages())
    files = [path.with_suffix("") for path in repository_files() if path.suffix == ".py"]
    names = [".".join(("onereward", *path.parts)) for path in files]
    skipped = ("onereward.nodes.", "onereward.__main__")
    product = [
        n for n in names if n.startswith(prefixes) and n.rpartition(".")[0] + "." in prefixes
    ]
    return [n.removesuffix(".__init__") for n in product if not n.startswith(skipped)]


def import_everything(path: list[Path], expected_root: Path, cwd: Path) -> None:
    """Import every module in a new process with ``path`` in front of its own."""
    modules = source_modules()
    assert modules
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, str(expected_root), *modules],
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_wheel_installs_and_runs(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    run_pip("install", "--no-deps", "--no-compile", "--target", str(target), str(wheel))
    import_everything([target], target, tmp_path)
    process = subprocess.run(
        [sys.executable, "-m", "onereward", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert process.stdout.strip() == PROJECT["project"]["version"]
    assert (target / "bin" / "onereward").is_file()


@pytest.mark.slow
def test_wheel_runs_a_fill_without_the_checkout(wheel: Path, tmp_path: Path):
    python = make_environment(tmp_path / "environment")
    run_pip("--python", str(python), "install", "--no-deps", "--no-compile", str(wheel))
    example_image().save(tmp_path / "photo.png")
    command = [str(python.with_name("onereward")), "edit", "fill", str(tmp_path / "photo.png")]
    process = subprocess.run(
        [*command, "--prompt", "a red circle"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    (result,) = (tmp_path / "edited").glob("*.png")
    assert Image.open(result).size == (SIZE, SIZE)
    assert str(ROOT) not in process.stdout + process.stderr


def test_wheel_is_no_larger_than_the_published_package(wheel: Path):
    with ZipFile(wheel) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".py")]
        num_lines = sum(len(archive.read(name).splitlines()) for name in sources)
    assert num_lines <= load_script("release_check").MAX_LINES


def test_package_works_beside_distributions_named_like_its_folders(tmp_path: Path):
    """With the repository's root on the path, and ``kernels`` and ``nodes`` of someone else."""
    for name in ("kernels", "nodes", "world", "cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('someone else')\n")
    (tmp_path / "onereward").symlink_to(ROOT, target_is_directory=True)
    import_everything([tmp_path, ROOT], tmp_path, ROOT)
