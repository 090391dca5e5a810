"""The runs below ComfyUI's output folder, and the panel's routes on its server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server import PromptServer

from ...fill.io.json_text import quote
from ...training.panel.panel_routes import add_panel
from ...training.panel.run_view import CONFIG
from ..paths.folders import JUDGE_RUNS
from ..paths.work_folders import work_folder

POLICY_RUNS = "policies"
KINDS = (POLICY_RUNS, JUDGE_RUNS)
MAX_RUNS = 200


@dataclass(frozen=True, slots=True)
class WorkRuns:
    """Runs of OneReward Train and Train Judge. Example: ``WorkRuns().find("policies/mine")``."""

    def names(self) -> list[str]:
        """Return kind and name of the last changed, those first."""
        dated_names: list[tuple[float, str]] = []
        for kind in KINDS:
            parent = work_folder(kind, "x").parent
            for path in parent.iterdir() if parent.is_dir() else ():
                if (config := path / CONFIG).is_file():
                    metrics = path / "metrics.jsonl"
                    newest = metrics if metrics.is_file() else config
                    dated_names.append((newest.stat().st_mtime, f"{kind}/{path.name}"))
        return [name for _, name in sorted(dated_names, reverse=True)[:MAX_RUNS]]

    def find(self, name: str) -> Path:
        """Return a run's folder; ValueError unless kind and name are plain."""
        kind, _, plain = name.partition("/")
        if kind not in KINDS:
            raise ValueError(f"run is {quote(name)}, but {' or '.join(KINDS)}/NAME is expected")
        return work_folder(kind, plain)


def add_panel_routes() -> None:
    """Add the panel, if there is a server; it takes routes until it starts to listen."""
    if server := getattr(PromptServer, "instance", None):
        add_panel(WorkRuns(), server.routes)
