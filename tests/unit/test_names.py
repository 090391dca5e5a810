"""Names say what they hold, and one name means one thing in the whole tree."""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    *("found", "made", "told", "said", "known", "drawn", "asked", "wanted", "shown", "kept"),
    *("worn", "taken", "given", "seen", "meant", "done", "gone", "chosen", "held", "sent", "built"),
    *("tried", "moved", "listed", "named", "changed", "judged", "learned", "pooled", "spoiled"),
    *("planned", "own", "ours", "mine", "theirs", "yours", "one", "ones", "both", "each", "other"),
    *("others", "rest", "same", "such", "it", "this", "that", "these", "those", "them", "him"),
}
IN_MANY_FOLDERS = {"__init__.py", "__main__.py", "config.py", "test_config.py", "conftest.py"}
"""File names that say what they are in any folder."""

# Names that still stand for two things. Rename one of them and take it out of its list: a name
# that is not repeated any more fails, and so does a new one.
REPEATED_CLASSES = {
    *("Adapter", "Blocks", "Comparison", "Host", "Reader", "ShortHost", "Stage"),
    *("_Shapes", "_Target"),
}
REPEATED_FILES = {
    *("attention.py", "canvas.py", "conditions.py", "evaluate.py", "files.py", "ground_truth.py"),
    *("judge.py", "loop.py", "memory.py", "models.py", "native.py", "report.py", "run.py"),
    *("shapes.py", "test_adapters.py", "test_attention.py", "test_report.py", "test_runs.py"),
}


def source_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / line for line in output.splitlines()]
    return [path for path in paths if path.is_file()]


def forbidden_names(path: Path) -> list[str]:
    """Return ``file:line name`` for every variable or argument with a forbidden name."""
    hits = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.arg):
            name, line = node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name, line = node.id, node.lineno
        else:
            continue
        if name in FORBIDDEN:
            hits.append(f"{path.relative_to(ROOT)}:{line} {name}")
    return hits


def test_no_name_is_a_bare_participle_or_pronoun() -> None:
    assert [hit for path in source_files() for hit in forbidden_names(path)] == []


def repeated(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: sorted(values) for name, values in places.items() if len(values) > 1}


def assert_only(names: dict[str, list[str]], exceptions: set[str]) -> None:
    assert {name: places for name, places in names.items() if name not in exceptions} == {}
    assert exceptions <= set(names), "take what is not repeated any more out of the exceptions"


def test_one_class_name_is_one_class() -> None:
    classes: dict[str, list[str]] = defaultdict(list)
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert_only(repeated(classes), REPEATED_CLASSES)


def test_one_file_name_is_one_file() -> None:
    """But a command's module is named after the command, and a test file after what it tests."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in source_files():
        relative = path.relative_to(ROOT)
        if path.name not in IN_MANY_FOLDERS and relative.parts[0] != "cli":
            files[path.name].append(str(relative))
    assert_only(repeated(files), REPEATED_FILES)
