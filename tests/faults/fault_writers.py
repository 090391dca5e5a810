"""The writers whose every file operation is made to fail: short runs of what users start.

Each is a function of the folder that it may write to. What it reads lies in a folder beside, made
once. All of them go on where they were stopped when they are called again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from onereward import cli
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.local_host import LocalHost
from onereward.fill.task import Dimension, Task
from onereward.reward.exchange import export_pairs, import_pairs
from onereward.reward.judge import JudgeConfig
from onereward.reward.judging import View, rank_candidates
from onereward.reward.preference import Preference, PreferenceSet
from onereward.reward.query import queries_for
from onereward.reward.score import RankingConfig
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.data.edit_dataset import EditDatasetConfig, make_edit_dataset
from onereward.training.data.generate import GenerateConfig
from onereward.training.data.label import LabelConfig
from onereward.training.data.ranking import picked_group, save_ranking
from onereward.training.evaluation.config import EvalConfig
from onereward.training.evaluation.run import EvalModels
from onereward.training.jobs import EvaluateJob, GenerateJob, LabelJob, ReportJob
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.report import ReportConfig
from onereward.training.judge.train import train_judge
from onereward.training.labelling.label_session import LabelSession
from onereward.training.policy.merge_adapters import save_adapters
from onereward.training.policy.run import train_policy
from support.bundled_models import BUNDLED, bundled_models
from support.judges import make_judge
from support.machine import ROOT
from support.policy_runs import make_conditions, policy_config, run_models_for

HOST = LocalHost("cpu")
QUICK = GenerateConfig(num_candidates=2, steps=(1, 1), max_conditions=2)
MODEL = {"model": asdict(ModelConfig(folder=str(BUNDLED), precision="fp32"))}


class QuietHost(LocalHost):
    """Says nothing."""

    def notify(self, text: str) -> None:
        del text


@dataclass(frozen=True)
class Inputs:
    """What the writers read; made once per session."""

    folder: Path

    @cached_property
    def judge(self) -> Path:
        return make_judge(self.folder / "judge")

    @cached_property
    def conditions(self) -> Path:
        return make_conditions(self.folder / "conditions", per_task=3)

    @cached_property
    def preferences(self) -> Path:
        """Pairs of flat pictures, in every split."""
        data = PreferenceSet(self.folder / "preferences")
        for number in range(12):
            names = []
            for label, level in (("bright", 200 + number), ("dark", 30 + number)):
                names.append(f"{number}-{label}.png")
                flat = Image.new("RGB", (32, 32), (level, level, level))
                flat.save(data.folder / names[-1])
            pair = Preference(
                winner_file_name=names[0],
                loser_file_name=names[1],
                task=Task.REMOVE,
                dimension=Dimension.REMOVAL_QUALITY,
                condition=f"condition {number}",
                judged_by="human",
            )
            data.add(pair)
        return data.folder

    @cached_property
    def photos(self) -> Path:
        """Two photographs with their masks, and a list of pairs of them."""
        folder = self.folder / "photos"
        folder.mkdir()
        for number in range(2):
            Image.effect_noise((64, 64), 80 + number).convert("RGB").save(folder / f"{number}.png")
            mask = Image.new("L", (64, 64))
            mask.paste(255, (20, 20, 44, 44))
            mask.save(folder / f"{number}_mask.png")
        head = "winner,loser,task,dimension,condition\n"
        rows = "0.png,1.png,remove,removal_quality,a\n1.png,0.png,remove,removal_quality,b\n"
        (folder / "pairs.csv").write_text(head + rows)
        return folder

    @cached_property
    def loaded_judge(self) -> QwenJudge:
        return QwenJudge(JudgeConfig(folder=str(self.judge), precision="fp32"), torch.device("cpu"))

    @cached_property
    def adapter(self) -> Path:
        return ROOT / "assets" / "adapters" / "fixed.safetensors"


def _policy(inputs: Inputs, root: Path, **changes: Any) -> None:
    values = {
        **{"steps": 2, "batch_size": 1, "micro_batch_size": 1, "eval_every": 1},
        **{"eval_conditions": 1, "checkpoint_minutes": 0.0, "save_total_limit": 1},
        **{"sampling_steps": 1, "weight_fill": 0.0, "weight_extend": 0.0, "weight_text": 0.0},
    }
    config = policy_config(root / "run", inputs.conditions, inputs.judge, **values | changes)
    train_policy(config, QuietHost("cpu"), run_models_for(config))


def train(inputs: Inputs, root: Path) -> None:
    """An adapter, with references that are kept."""
    _policy(inputs, root, reference_pool=1)


def train_all_weights(inputs: Inputs, root: Path) -> None:
    """A transformer's folder; the average is trained against."""
    _policy(inputs, root, mode="full", steps=1)


def _judge(inputs: Inputs, root: Path, **changes: Any) -> None:
    values: dict[str, Any] = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "log_every": 1}
    config = JudgeTrainConfig(
        run_folder=str(root / "run"),
        judge_folder=str(inputs.judge),
        preferences_folder=str(inputs.preferences),
        **values | {"eval_every": 2, "checkpoint_minutes": 0.0} | changes,
    )
    train_judge(config, QuietHost("cpu"))


def train_judge_adapter(inputs: Inputs, root: Path) -> None:
    """A judge's adapter."""
    _judge(inputs, root)


def train_whole_judge(inputs: Inputs, root: Path) -> None:
    """All weights of a judge."""
    _judge(inputs, root, mode="full", steps=1)


def generate(inputs: Inputs, root: Path) -> None:
    """Candidates."""
    job = GenerateJob(
        model={k: str(v) for k, v in MODEL["model"].items() if k in ("folder", "precision")},
        dataset_folder=str(inputs.conditions),
        preferences_folder=str(root / "data"),
        settings=QUICK,
    )
    job.run(QuietHost("cpu"), models=bundled_models())


def label(inputs: Inputs, root: Path) -> None:
    """Scores and pairs of candidates that are there."""
    job = LabelJob(
        preferences_folder=str(root / "data"),
        judge={},
        settings=LabelConfig(labeller="metrics", margin=0.0),
    )
    job.run(QuietHost("cpu"))


def label_by_hand(inputs: Inputs, root: Path) -> None:
    """What a person presses, until everything is answered."""
    del inputs
    session = LabelSession(root / "data")
    while question := session.view("Ada")["question"]:
        choice = "tie" if question["dimension"] == "structure" else 0
        session.answer("Ada", question | {"choice": choice})


def _add_candidates(inputs: Inputs, root: Path) -> None:
    folder = inputs.folder / "candidates"
    if not folder.exists():
        generate(inputs, folder)
    shutil.copytree(folder, root, dirs_exist_ok=True)


def evaluate(inputs: Inputs, root: Path) -> None:
    """The images, rows and report of an evaluation."""
    judge = {"folder": str(inputs.judge), "precision": "fp32"}
    job = EvaluateJob(
        model=MODEL,
        dataset_folder=str(inputs.conditions),
        evaluation_folder=str(root / "evaluation"),
        judge=judge,
        settings=EvalConfig(split="all", num_conditions=2, num_seeds=1),
        sampling=FillConfig(steps=1),
    )
    job.run(QuietHost("cpu"), EvalModels(model=bundled_models(), judge=inputs.loaded_judge))


def report(inputs: Inputs, root: Path) -> None:
    """A judge's report, in a folder and beside the judge."""
    judge = inputs.loaded_judge
    job = ReportJob(
        preferences_folder=str(inputs.preferences),
        report_folder=str(root / "report"),
        settings=ReportConfig(max_pairs=2),
    )
    job.run(QuietHost("cpu"), judge=judge)


def edit(inputs: Inputs, root: Path) -> None:
    """A folder of photographs, by the command line."""
    output = io.StringIO()
    arguments = ["edit", "remove", str(inputs.photos), "--output", str(root / "edited")]
    settings = ["--set", "steps=1", "--set", "precision=fp32", "--device", "cpu"]
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
        cli.main([*arguments, *settings])
    lines = [line for line in output.getvalue().splitlines() if "Errno" in line or "cannot" in line]
    if lines:
        raise OSError(lines[0])


def save_adapter(inputs: Inputs, root: Path) -> None:
    """The sum of two adapters."""
    models = bundled_models().with_adapter(inputs.adapter, 1.0)
    save_adapters(root / "loras" / "a.safetensors", models, torch.float16)


def pick_best(inputs: Inputs, root: Path) -> None:
    """What the node Pick Best saves."""
    data = PreferenceSet(root / "data")
    generator = torch.Generator().manual_seed(0)
    candidates = torch.rand(3, 32, 32, 3, generator=generator)
    mask = torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    group = picked_group(data, Task.REMOVE, "", candidates, (candidates[0], mask))
    ranking = rank_candidates(
        inputs.loaded_judge,
        candidates,
        queries_for(Task.REMOVE, ""),
        QuietHost("cpu"),
        View(),
        RankingConfig(),
    )
    save_ranking(data, group, candidates, ranking, "judge:tiny")


def import_list(inputs: Inputs, root: Path) -> None:
    """Hand-made pairs."""
    import_pairs(inputs.photos / "pairs.csv", root / "data")


def export(inputs: Inputs, root: Path) -> None:
    """Image folders of pairs."""
    if not (root / "export").exists():
        export_pairs(inputs.preferences, root / "export")


def dataset(inputs: Inputs, root: Path) -> None:
    """Conditions of photographs."""
    config = EditDatasetConfig(task="remove")
    make_edit_dataset(root / "dataset", inputs.photos, config, QuietHost("cpu"))


def example_config(inputs: Inputs, root: Path) -> None:
    """A config to start from."""
    path = root / "train.json"
    if not path.exists():
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(["example-config", "train", str(path)]) == 0, "the command failed"


def example_inputs(inputs: Inputs, root: Path) -> None:
    """The pictures that the templates name."""
    del inputs
    pictures = _example_pictures()
    pictures.folder_paths.get_input_directory = lambda: str(root / "input")
    pictures.put()


@functools.cache
def _example_pictures() -> Any:
    """Import the module alone: all of the nodes would bring in ComfyUI, which takes seconds."""
    stubs = {name: types.ModuleType(name) for name in ("folder_paths", *_PACKAGES, _FOLDERS)}
    for name in _PACKAGES:
        stubs[name].__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
    stubs[_FOLDERS].ASSETS = ROOT / "assets"  # type: ignore[attr-defined]
    sys.modules.update(stubs)
    return importlib.import_module("onereward.nodes.paths.example_inputs")


_PACKAGES = ("onereward.nodes", "onereward.nodes.paths")
_FOLDERS = "onereward.nodes.paths.folders"


def do_nothing(*_: Any) -> None:
    """Leave the folder empty."""


def careless(inputs: Inputs, root: Path) -> None:
    """Write as nobody should: what the trials have to notice."""
    del inputs
    path = root / "settings.json"
    if not path.exists():
        path.write_text("x" * 100)
        folder = os.open(root, os.O_RDONLY)
        os.fsync(folder)  # the name is on the disk, what is in the file is not
        os.close(folder)
    temporary = root / "state.json.tmp"
    if not (root / "state.json").exists():
        temporary.write_text("y" * 100)
        os.rename(temporary, root / "state.json")


WRITERS: dict[str, Callable[[Inputs, Path], None]] = {
    function.__name__: function
    for function in (
        *(train, train_all_weights, train_judge_adapter, train_whole_judge, generate, label),
        *(evaluate, report, edit, save_adapter, pick_best, import_list, export, dataset),
        *(example_config, example_inputs, careless, label_by_hand),
    )
}

PREPARED: dict[str, Callable[[Inputs, Path], None]] = {
    "label": _add_candidates,
    "label_by_hand": _add_candidates,
}
"""What lies in the folder before a writer begins."""
