"""The layout: which folder may import which, and how many files one holds."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FILL_LEAVES = {
    *("fill.task", "fill.host", "fill.image.mask", "fill.image.geometry"),
    *("fill.config", "fill.json_config", "fill.io.files", "fill.io.file_digest"),
    *("fill.io.json_text", "fill.io.names", "fill.io.writing", "fill.io.folder_lock"),
    *("fill.io.image_file", "fill.io.template", "fill.memory.components"),
    *(f"fill.checkpoint.{name}" for name in ("packing", "linear", "codec", "gguf", "modules")),
    "fill.checkpoint.config_limits",
}
"""Modules of the engine that import no other of its modules but these."""
ALLOWED = {
    "kernels": set(),
    "fill": {"kernels"},
    "reward": FILL_LEAVES,
    "training": {"fill", "kernels", "reward"},
    "nodes": {"fill", "kernels", "reward", "training"},
    "cli": {"fill", "kernels", "reward", "training"},
    "lab": {"fill", "kernels", "reward", "training"},
    "__init__": {"nodes"},
    "__main__": {"cli"},
}
"""Folder (or root file) to what it may import of ours, besides itself."""

DOCSTRING_ONLY = ("fill", "reward", "training", "lab")
HOST_MODULES = {
    *("comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras"),
    *("execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server"),
}
TEST_MODULES = {"tests", "support", "conftest", "scripts"}
TOOL_FOLDERS = ("benchmarks", "scripts")
"""Folders outside the package, which import it by its name."""
MAX_FILES = 15
"""Source files in one folder, besides its ``__init__.py``."""


@dataclass(frozen=True)
class Import:
    line: int
    level: int
    target: str
    """Absolute module name; for a relative import, the dotted path from the package's root."""
    at_run_time: bool
    """False inside functions and under TYPE_CHECKING: such an import cannot close a cycle."""


def source_files() -> list[Path]:
    files = [ROOT / f"{name}.py" for name in ALLOWED if (ROOT / f"{name}.py").is_file()]
    for folder in ALLOWED:
        files += sorted((ROOT / folder).rglob("*.py"))
    return files


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path) -> Iterator[Import]:
    yield from _imports_in(ast.parse(path.read_text("utf-8")), path, at_run_time=True)


def _imports_in(node: ast.AST, path: Path, *, at_run_time: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, 0, alias.name, at_run_time)
        elif isinstance(child, ast.ImportFrom):
            yield from _from_import(child, path, at_run_time=at_run_time)
        else:
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from _imports_in(child, path, at_run_time=at_run_time and not deferred)


def _from_import(node: ast.ImportFrom, path: Path, *, at_run_time: bool) -> Iterator[Import]:
    if not node.level:
        yield Import(node.lineno, 0, node.module or "", at_run_time)
        return
    folder = path.relative_to(ROOT).parent.parts
    up = node.level - 1
    assert up <= len(folder), f"{path}:{node.lineno} imports from outside the package"
    base = [*folder[: len(folder) - up], *(node.module or "").split(".")]
    for alias in node.names:
        target = [name for name in base if name]
        if (ROOT.joinpath(*target) / alias.name).is_dir() or ROOT.joinpath(
            *target, f"{alias.name}.py"
        ).is_file():
            target.append(alias.name)
        yield Import(node.lineno, node.level, ".".join(target) or "__init__", at_run_time)


def is_allowed(source: str, target: str) -> bool:
    layer = source.partition(".")[0]
    permitted = ALLOWED[layer] | {layer}
    return any(target == name or target.startswith(name + ".") for name in permitted)


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_keep_the_layers(path: Path):
    source = module_name(path)
    package_modules = {"onereward", *ALLOWED} - HOST_MODULES
    for statement in imports_of(path):
        where, target = f"{path.relative_to(ROOT)}:{statement.line}", statement.target
        top = target.partition(".")[0]
        if statement.level:
            assert is_allowed(source, target), f"{where}: {source} imports {target}"
        else:
            assert top not in package_modules, f"{where}: import {target} relatively"
            assert top not in TEST_MODULES, f"{where}: the package imports {target}"
            if not source.startswith("nodes"):
                assert top not in HOST_MODULES, f"{where}: only nodes/ may import {target}"


@pytest.mark.parametrize("folder", TOOL_FOLDERS)
def test_only_tests_import_the_laboratory(folder: str):
    """Besides the package itself, which the table above keeps from it."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for statement in imports_of(path):
            where = f"{path.relative_to(ROOT)}:{statement.line}"
            names = statement.target.split(".")
            assert "lab" not in names[:2], f"{where} imports {statement.target}"


@pytest.mark.parametrize("folder", [name for name in ALLOWED if not name.startswith("__")])
def test_folders_stay_small(folder: str):
    files = [path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
    sizes = Counter(str(path.parent.relative_to(ROOT)) for path in files)
    assert {name: size for name, size in sizes.items() if size > MAX_FILES} == {}


@pytest.mark.parametrize("leaf", sorted(FILL_LEAVES))
def test_leaves_of_fill_reach_only_leaves(leaf: str):
    path = ROOT.joinpath(*leaf.split(".")).with_suffix(".py")
    reached = {i.target for i in imports_of(path) if i.level and i.at_run_time}
    assert reached <= FILL_LEAVES, f"{leaf} imports {reached - FILL_LEAVES}"


@pytest.mark.parametrize("folder", DOCSTRING_ONLY)
def test_init_is_a_docstring_only(folder: str):
    path = ROOT / folder / "__init__.py"
    if not path.is_file():
        pytest.skip(f"there is no {folder}/ yet")
    (statement,) = ast.parse(path.read_text("utf-8")).body
    assert ast.unparse(statement).startswith(('"', "'")), f"importing a leaf runs {path}"


def test_no_import_cycles():
    graph = {
        module_name(path): {i.target for i in imports_of(path) if i.level and i.at_run_time}
        for path in source_files()
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "import cycle: " + " -> ".join([*trail, module])
        if module in finished:
            return
        for target in sorted(graph.get(module, set()) - {module}):
            visit(target, (*trail, module))
        finished.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("fill.pipeline", "training.loop"),
        ("fill.pipeline", "reward.judge"),
        ("reward.judge", "fill.pipeline"),
        ("kernels.norm", "fill.task"),
        ("training.policy.run", "lab.oracle"),
        ("lab.oracle", "nodes.inputs"),
        ("lab.reproduce.stage", "cli.train"),
        ("cli.info", "nodes.load"),
    ],
)
def test_rule_refuses_wrong_edges(source: str, target: str):
    assert not is_allowed(source, target)
