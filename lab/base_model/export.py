"""Write a trained run as a diffusers pipeline folder.

`python -m onereward.lab.base_model.export RUN_FOLDER OUTPUT_FOLDER --record CARD_FOLDER`

`OUTPUT_FOLDER/recipe.json` holds the sampling settings:

    {
      "format": 1,
      "name": "bundled",
      "true_cfg": 2.0,
      "guidance": 3.5,
      "negative_prompt": "",
      "steps": 20,
      "target_size": 64,
      "max_upscale": 1.0,
      "max_sequence_length": 12,
      "demo_side": 64
    }

`CARD_FOLDER/training/NAME.json` records a run behind the model, on one line:

    {"run": "vae_finish", "order": 1, "steps": 1000, "seconds": 318.4,
     "metrics": [{"step": 100, "seconds": 29.1, "loss": 0.13, "dev_psnr_db": 33.5}],
     "config": {"format": 1, "run_folder": "runs/vae_finish", "seed": 2}}
"""

import argparse
import json
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from ...fill.io.files import write_text
from ...training.runs.directory import load_state
from ..world.canvas import SIZE
from .config import FillTrainConfig
from .models import GUIDANCE, FillComponents
from .sampling import build_scheduler
from .tokenizers import MAX_TOKENS
from .transformer import FillTrainer

log = logging.getLogger("onereward.training")

_STEPS, _TARGET_SIZE = 20, 64


def load_run(run_folder: Path) -> FillComponents:
    """Return a run's components with its averaged weights."""
    config = FillTrainConfig.load(run_folder / "config.json")
    trainer = FillTrainer(replace(config, device="cpu"))
    trainer.restore(load_state(run_folder / "checkpoint"))
    trainer.use_average()
    return trainer.components


def recipe_text(true_cfg: float) -> str:
    """Return `recipe.json`: how the model is sampled unless the user says otherwise."""
    recipe = {
        "format": 1,
        "name": "bundled",
        "true_cfg": true_cfg,
        "guidance": GUIDANCE,
        "negative_prompt": "",
        "steps": _STEPS,
        "target_size": _TARGET_SIZE,
        "max_upscale": 1.0,
        "max_sequence_length": MAX_TOKENS,
        "demo_side": SIZE,
    }
    return json.dumps(recipe, indent=2) + "\n"


def export_pipeline(components: FillComponents, output: Path, true_cfg: float = 1.0) -> None:
    """Write bf16 weights, tokenizers, scheduler and recipe; replaces `output` when complete."""
    from diffusers import FluxFillPipeline

    pipeline = FluxFillPipeline(
        scheduler=build_scheduler(),
        vae=components.vae,
        text_encoder=components.clip,
        tokenizer=components.clip_tokenizer,
        text_encoder_2=components.t5,
        tokenizer_2=components.t5_tokenizer,
        transformer=components.transformer,
    ).to(dtype=torch.bfloat16)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the old folder, which goes when the new one is complete.
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        fresh, old = Path(temporary) / "fresh", Path(temporary) / "old"
        pipeline.save_pretrained(fresh)
        write_text(fresh / "recipe.json", recipe_text(true_cfg))
        for config in fresh.rglob("config.json"):
            _remove_origin(config)
        for file in fresh.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        fresh.chmod(0o755)
        if output.exists():
            shutil.move(output, old)
        os.replace(fresh, output)


def _remove_origin(config: Path) -> None:
    """Drop the path a component was loaded from: it is a path of the machine that trained it."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    write_text(config, json.dumps(values, indent=2) + "\n")


def run_chain(run_folder: Path) -> list[Path]:
    """Return the runs that led to this one, first to last."""
    config = json.loads((run_folder / "config.json").read_text())
    chain = [run_folder]
    if config.get("init_from"):
        chain = run_chain(Path(config["init_from"]).parent) + chain
    if config.get("vae_folder"):
        earlier = [r for r in run_chain(Path(config["vae_folder"]).parent) if r not in chain]
        chain = earlier + chain
    return chain


def record_runs(run_folder: Path, output: Path) -> None:
    """Copy config and metrics of every run behind a model into `output`, one file per run."""
    output.mkdir(parents=True, exist_ok=True)
    for order, run in enumerate(run_chain(run_folder)):
        state = json.loads((run / "checkpoint" / "state.json").read_text())
        lines = (run / "metrics.jsonl").read_text().splitlines()
        record = {"run": run.name, "order": order, "steps": state["step"]}
        record |= {"seconds": state["seconds"], "metrics": [json.loads(line) for line in lines]}
        record |= {"config": json.loads((run / "config.json").read_text())}
        write_text(output / f"{run.name}.json", json.dumps(record) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--true-cfg", type=float, default=1.0)
    parser.add_argument("--record", type=Path, help="card folder for configs and metrics")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    export_pipeline(load_run(arguments.run_folder), arguments.output, arguments.true_cfg)
    if arguments.record:
        record_runs(arguments.run_folder, arguments.record / "training")
    log.info("wrote %s", arguments.output)


if __name__ == "__main__":
    main()
