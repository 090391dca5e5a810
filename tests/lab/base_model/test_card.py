"""The card holds what was measured and nothing else."""

import json
from pathlib import Path

from onereward.lab.base_model.config import FillTrainConfig
from onereward.lab.base_model.export import export_pipeline, load_run, record_runs
from onereward.lab.base_model.report.card import write_card
from onereward.lab.base_model.report.evaluate import EvaluateSettings, evaluate
from onereward.lab.base_model.transformer import train_fill
from onereward.lab.world.splits import Split


def test_card_of_a_trained_run(fill_config: FillTrainConfig, tmp_path: Path):
    train_fill(fill_config)
    run, card = Path(fill_config.run_folder), tmp_path / "assets" / "card"
    export_pipeline(load_run(run), tmp_path / "model")
    numbers = evaluate(
        EvaluateSettings(model=tmp_path / "model", card=card, split=Split.DEV, scenes_per_task=4)
    )
    (card / "evaluation.json").write_text(json.dumps(numbers))
    (card / "training").mkdir()
    record = {"run": "fill", "order": 0, "steps": 6, "seconds": 90.0, "metrics": [{"loss": 0.5}]}
    (card / "training" / "fill.json").write_text(json.dumps(record))
    write_card(card)
    text = (card.parent / "model-card.md").read_text()
    tasks = numbers["tasks"]
    assert isinstance(tasks, dict)
    for task, row in tasks.items():
        assert f"| {task} | **{100 * row['usable']:.1f} %** |" in text
    assert "| fill | 6 | 2 | {'loss': 0.5} |" in text
    assert "dev split" in text
    assert (card / "scenes.png").stat().st_size > 0


def test_record_holds_every_run_behind_a_model(fill_config: FillTrainConfig, tmp_path: Path):
    vae_run = Path(fill_config.vae_folder).parent
    (vae_run / "checkpoint").mkdir(exist_ok=True)
    (vae_run / "checkpoint" / "state.json").write_text('{"step": 1, "seconds": 1.0}')
    (vae_run / "metrics.jsonl").write_text('{"step": 1}\n')
    (vae_run / "config.json").write_text("{}")
    train_fill(fill_config)
    record_runs(Path(fill_config.run_folder), tmp_path / "out")
    records = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")]
    assert {r["run"]: r["order"] for r in records} == {vae_run.name: 0, "fill": 1}
    fill = next(r for r in records if r["run"] == "fill")
    assert fill["config"]["width"] == fill_config.width
    assert fill["metrics"][-1]["step"] == fill_config.steps
