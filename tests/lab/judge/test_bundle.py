"""Bundling: half the size, numbers that can be asked for again, a card made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from onereward.lab.adapters.usability import random_scenes
from onereward.lab.base_model.models import FillComponents, load_folder
from onereward.lab.base_model.sampling import SampleSettings
from onereward.lab.judge import robustness
from onereward.lab.judge.build import JudgeShape
from onereward.lab.judge.bundle import BundleSettings, bundle, clear_shares, evaluate_judge
from onereward.lab.judge.compare import train_comparison
from onereward.lab.judge.config import CompareConfig
from onereward.lab.judge.learner import load_whole_judge
from onereward.lab.judge.pairs.candidate_pool import FIRST_INDEX
from onereward.lab.judge.pairs.candidates import load_candidates, sample_candidates, save_candidates
from onereward.lab.judge.robustness import AttackConfig
from onereward.lab.oracle import judge
from onereward.lab.world.conditions import Conditions
from onereward.lab.world.splits import Split
from onereward.reward.report import read_report
from onereward.training.data.generate import GenerateConfig
from support.judges import make_judge

ASSETS = Path(__file__).parents[3] / "assets" / "fill"
SHAPE = JudgeShape(
    width=32, layers=1, heads=1, vision_width=32, vision_layers=1, vision_heads=1, full_layers=(0,)
)
EARLIER = {"steps": 7, "hours": 0.5, "config": {"run_folder": "runs/earlier"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool and a run of two steps on it."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "pool").mkdir()
    model, quick = load_folder(ASSETS), GenerateConfig(num_candidates=2, steps=(2, 3))
    start = make_judge(folder / "start", SHAPE)
    for name in ("README.md", "report.json"):
        (start / name).write_text("{}")
    (start / "evaluation.json").write_text(json.dumps({"training": [EARLIER]}))
    for split in Split:
        candidates = sample_candidates([model], split, FIRST_INDEX, quick, 12)
        save_candidates(candidates, folder / "pool" / f"{split.value}-00000.safetensors")
    train_comparison(
        CompareConfig(
            run_folder=str(folder / "run"),
            judge_folder=str(start),
            pool_folder=str(folder / "pool"),
            steps=2,
            decay_steps=0,
            pairs=2,
            quality_images=4,
            vqa_questions=2,
            vqa_images=2,
            attack_share=0.0,
            eval_every=5,
        )
    )
    return folder


def test_a_bundle_holds_the_run_in_half_its_size_and_its_measurements(run: Path) -> None:
    settings = BundleSettings(
        run=run / "run",
        pool=run / "pool",
        fill=ASSETS,
        target=run / "bundle",
        adversarial_pairs=2,
        attack=AttackConfig(steps=2),
    )
    bundle(settings)
    bundled = load_file(run / "bundle" / "model.safetensors")
    for name, value in load_file(run / "run" / "judge" / "model.safetensors").items():
        assert torch.equal(bundled[name], value.to(torch.bfloat16)), name
    margins = CompareConfig.load(run / "run" / "config.json").margins
    report, numbers = evaluate_judge(run / "bundle", run / "pool", margins)
    stored = json.loads((run / "bundle" / "evaluation.json").read_text())
    assert read_report(run / "bundle") == report
    assert stored["kinds_of_pairs"] == numbers["kinds_of_pairs"]
    assert stored["training"][0] == EARLIER  # of the bundled judge that it began as
    assert [record["steps"] for record in stored["training"]] == [7, 2]
    card = (run / "bundle" / "README.md").read_text()
    for (task, _), cell in report.cells.items():
        assert task.value in card
        assert f"{100 * cell.accuracy:.1f}" in card
    for task, row in stored["pairs"].items():
        assert f"| {task} | {row['all']} | {row['finished']} |" in card
    assert not list(run.glob("bundle.*"))


def test_averaged_runs_are_bundled_as_their_mean(run: Path) -> None:
    second_run, target = run / "second", run / "mean"
    shutil.copytree(run / "run", second_run)
    weights = load_file(run / "run" / "judge" / "model.safetensors")
    shifted = {name: value + 1 for name, value in weights.items()}
    save_file(shifted, second_run / "judge" / "model.safetensors", metadata={"format": "pt"})
    settings = BundleSettings(
        run=run / "run",
        averaged=(second_run,),
        pool=run / "pool",
        fill=ASSETS,
        target=target,
        adversarial_pairs=1,
        attack=AttackConfig(steps=1),
    )
    bundle(settings)
    for name, value in load_file(target / "model.safetensors").items():
        mean = ((weights[name] + shifted[name]) / 2).to(torch.bfloat16)
        assert torch.allclose(value.float(), mean.float(), rtol=0.01), name
    assert "the mean of those after second, run" in (target / "README.md").read_text()


def test_measurements_of_the_start_are_not_copied_to_the_result(run: Path) -> None:
    names = {path.name for path in (run / "run" / "judge").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "evaluation.json"} <= names
    assert not {"README.md", "report.json"} & names


def test_a_policy_wins_as_often_as_the_judge_prefers_its_unusable_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that paints grey everywhere, and judges that answer Yes always and never."""

    def paint(model: FillComponents, conditions: Conditions, sampling: SampleSettings) -> Tensor:
        return torch.full_like(conditions.source, 0.5) if model == "policy" else conditions.target

    monkeypatch.setattr(robustness, "sample_scenes", paint)
    monkeypatch.setattr(robustness, "load_folder", lambda folder: "base")
    monkeypatch.setattr(robustness, "load_with_adapter", lambda folder, adapter: "policy")
    scenes = random_scenes(ASSETS, Split.DEV, 3)
    grey = torch.full_like(scenes.conditions.source, 0.5)
    unusable = int((~judge(grey, scenes.conditions).usable).sum())
    assert unusable > 8
    for answer in (0.9, 0.1):
        monkeypatch.setattr(
            robustness, "wins", lambda judge, images, c, p=answer: torch.full((len(images),), p)
        )
        rate = robustness.measure_policy(
            load_whole_judge(run / "run" / "judge"), ASSETS, tmp_path / "any", scenes
        )
        assert rate["wins"] == round(answer)
        assert rate["num_pairs"] == unusable


def test_clear_shares_count_the_scenes_that_differ(run: Path) -> None:
    """Counted again, scene by scene."""
    pool = load_candidates([run / "pool" / "test-00000.safetensors"])
    rows = [row for row in range(len(pool)) if pool.task[row] == 2]
    gaps = [float(abs(pool.scores[row, 0, 4] - pool.scores[row, 1, 4])) for row in rows]
    for margin in (0.0, 0.02, 0.9):
        share = clear_shares(pool, (margin,) * 5)["remove.removal_quality"]
        assert share == pytest.approx(sum(gap >= margin for gap in gaps) / len(gaps), abs=1e-4)
