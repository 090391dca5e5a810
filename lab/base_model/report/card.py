"""The model card: a page made of measured numbers alone.

It is written from `evaluation.json` (see `evaluate`) and the records of training (see `export`).
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ....fill.io.files import write_text
from ....training.charts.tables import markdown_table
from ...world.conditions import TASKS
from ..photographs import PHOTOGRAPHS

_TARGETS = {"fill": 0.55, "extend": 0.75, "remove": 0.80, "text": 0.60}
_ATLAS = Path(__file__).parents[2] / "world" / "data" / "glyphs.safetensors"

_HEAD = """# Bundled fill model

FLUX.1-Fill's architecture in the small, trained from scratch on the procedural world (`lab/world/`)
and on openly licensed photographs; a plain diffusers folder. It is a base for development, tests
and reinforcement learning, not for images beyond 64x64 scenes of its world.

This page is written by `python -m onereward.lab.base_model.report.evaluate` from
`card/evaluation.json` and the training records beside it."""


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _usability(numbers: dict[str, Any]) -> list[str]:
    rows = [["task", "usable", "interval", "scenes", "ceiling", "aim"]]
    for task in TASKS:
        row, ceiling = numbers["tasks"][task], numbers["vae_ceiling"][task]
        usable, (low, high) = f"**{_percent(row['usable'])}**", row["interval"]
        interval, count = f"{_percent(low)} to {_percent(high)}", str(row["count"])
        limits = (_percent(ceiling["usable"]), _percent(_TARGETS[task]))
        rows.append([task, usable, interval, count, *limits])
    details = [["detail", "rate"]]
    details += [[k.replace("_", " "), _percent(v)] for k, v in numbers["details"].items()]
    return [
        f"## Usability on the {numbers['split']} split",
        "Share of images the oracle (`lab/oracle.py`) calls usable, with 95 % intervals; the\n"
        "ceiling is the truth encoded and decoded by the autoencoder.",
        markdown_table(rows),
        markdown_table(details),
        "![mask, result, truth; failures have a red bar](card/scenes.png)",
    ]


def _scores(numbers: dict[str, Any]) -> list[str]:
    rows = [["task", "dimension", "model", "ceiling"]]
    for task in TASKS:
        ceiling = numbers["vae_ceiling"][task]["scores"]
        for dimension, score in numbers["tasks"][task]["scores"].items():
            rows.append([task, dimension, f"{score:.3f}", f"{ceiling[dimension]:.3f}"])
    return ["## Mean scores", markdown_table(rows)]


def _photos(numbers: dict[str, Any]) -> list[str]:
    if "photos" not in numbers:
        return ["## Photographs", "Not measured in this evaluation."]
    rows = [["task", "method", "PSNR under the mask", "error at the seam"]]
    for task in ("remove", "extend"):
        for method, row in numbers["photos"][task].items():
            rows.append([task, method, f"{row['psnr_db']:.2f} dB", f"{row['seam']:.4f}"])
    caption = "mask, model, edge replication, biharmonic, truth; remove, then extend"
    return [
        f"## Photographs: {numbers['photos']['crops']} held-out crops per task",
        markdown_table(rows),
        f"![{caption}](card/photos.png)",
    ]


def _cost(numbers: dict[str, Any]) -> list[str]:
    sampling = numbers["sampling"]
    return [
        "## Size and speed",
        f"{numbers['bytes'] / 1e6:.1f} MB in bf16. One 64x64 image with {sampling['steps']} "
        f"steps, true_cfg {sampling['true_cfg']}: {numbers['seconds_per_image']:.2f} s "
        f"({numbers['device']}).",
    ]


def _training(folder: Path) -> list[str]:
    rows = [["run", "steps", "minutes", "last record"]]
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    for record in sorted(records, key=lambda r: r["order"]):
        last = record["metrics"][-1]
        values = {k: round(v, 4) for k, v in last.items() if k in ("loss", "dev_psnr_db")}
        minutes = f"{record['seconds'] / 60:.0f}"
        rows.append([record["run"], str(record["steps"]), minutes, str(values)])
    return [
        "## Training",
        "Stages in the order they ran, each with its config and metrics in `card/training/`;\n"
        "times are on one thread of a 2-core CPU that other work shared.",
        markdown_table(rows),
    ]


def _sources() -> list[str]:
    with safe_open(_ATLAS, "pt") as atlas:
        fonts = atlas.metadata()["fonts"].split("; ")
    rows = [["photograph", "package", "licence", "used for"]]
    for photo in PHOTOGRAPHS:
        use = "evaluation" if photo.is_held_out else "training"
        rows.append([photo.file, photo.package, photo.licence, use])
    return [
        "## Sources and licences",
        "Letters (rendered into `lab/world/data/`):",
        "\n".join(f"- {font}" for font in fonts),
        markdown_table(rows),
    ]


def write_card(folder: Path) -> None:
    """Write `model-card.md` beside a card folder that holds `evaluation.json`."""
    numbers = json.loads((folder / "evaluation.json").read_text())
    sections = [
        _usability(numbers),
        _scores(numbers),
        _photos(numbers),
        _cost(numbers),
        _training(folder / "training"),
        _sources(),
    ]
    paragraphs = [_HEAD]
    for section in sections:
        paragraphs += section
    write_text(folder.parent / "model-card.md", "\n\n".join(paragraphs) + "\n")
