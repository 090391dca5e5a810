"""Names say what they hold: bare participles and pronouns are no names."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    *("found", "made", "told", "said", "known", "drawn", "asked", "wanted", "shown", "kept", "worn"),
    *("taken", "given", "seen", "meant", "done", "gone", "chosen", "held", "sent", "built", "tried"),
    *("moved", "listed", "named", "changed", "judged", "learned", "pooled", "spoiled", "planned"),
    *("own", "ours", "mine", "theirs", "yours", "one", "ones", "both", "each", "other", "others"),
    *("rest", "same", "such", "it", "this", "that", "these", "those", "them", "him"),
}


def forbidden_names(path: Path) -> list[str]:
    """Return ``file:line name`` for every variable or argument with a forbidden name."""
    hits = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        is_bound = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.arg if isinstance(node, ast.arg) else node.id if is_bound else ""
        if name in FORBIDDEN:
            hits.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    return hits


def test_no_name_is_a_bare_participle_or_pronoun() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / line for line in listed.stdout.split() if (ROOT / line).is_file()]
    assert paths
    assert [hit for path in paths for hit in forbidden_names(path)] == []
