"""Training the judge: exact resume, no rate no change, and a case it has to learn."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from onereward.fill.memory.plan import NotEnoughMemory
from onereward.fill.task import Dimension, Task
from onereward.reward.judge import JudgeConfig, JudgeError
from onereward.reward.preference import Preference, PreferenceSet, split_of
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.judge import trainer
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.pair_answers import ask_both_ways
from onereward.training.judge.pairs import Augmentation, images_of, sample_batch, spread
from onereward.training.judge.report import ReportConfig, report_on_judge
from onereward.training.judge.train import train_judge
from onereward.training.judge.trainer import JudgeTrainer
from onereward.training.runs.directory import RunDirectory, saved_step
from onereward.training.runs.distributed import Distributed
from onereward.training.runs.loop import DivergedError, NonFiniteError
from support.judges import BUNDLED_LIKE, make_judge
from support.recording_host import CancelledError, RecordingHost


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def preferences_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright images are better than dark ones, in one dimension of one task."""
    folder = tmp_path_factory.mktemp("data")
    data = PreferenceSet(folder)
    for number in range(24):
        names = []
        for label, level in (("bright", 200 + number), ("dark", 30 + number)):
            name = f"{number}-{label}.png"
            Image.new("RGB", (32, 32), (level, level, level)).save(folder / name)
            names.append(name)
        data.add(
            Preference(
                winner_file_name=names[0],
                loser_file_name=names[1],
                task=Task.REMOVE,
                dimension=Dimension.REMOVAL_QUALITY,
                condition=f"condition {number}",
                judged_by="human",
            )
        )
    return folder


def config(run: Path, judge: Path, data: Path, **changes: Any) -> JudgeTrainConfig:
    values: dict[str, Any] = {
        "run_folder": str(run),
        "judge_folder": str(judge),
        "preferences_folder": str(data),
        "steps": 4,
        "batch_size": 4,
        "warmup_steps": 1,
        "learning_rate": 1e-3,
        "log_every": 2,
        "eval_every": 2,
        "shift": 1,
        "blur": 0.5,
        "noise": 0.02,
    }
    return JudgeTrainConfig(**values | changes)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_stop_and_resume_equals_no_stop(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path, mode: str
) -> None:
    whole = JudgeTrainer(config(tmp_path / "a", judge_folder, preferences_folder, mode=mode))
    losses = [whole.train_step() for _ in range(4)]
    first = JudgeTrainer(config(tmp_path / "b", judge_folder, preferences_folder, mode=mode))
    first.train_step()
    first.train_step()
    second = JudgeTrainer(config(tmp_path / "b", judge_folder, preferences_folder, mode=mode))
    second.restore(first.train_state(0.0))
    assert [second.train_step(), second.train_step()] == losses[2:]
    for name, parameter in second.parameters.items():
        assert torch.equal(parameter, whole.parameters[name]), name


def test_pieces_of_a_step_add_up_to_the_step(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    """Micro-batches and checkpointing change memory, not the update or the augmentation."""
    updates = []
    for changes in (
        {},
        {"micro_batch_size": 1},
        {"micro_batch_size": 3, "gradient_checkpointing": "blocks"},
    ):
        trainer = JudgeTrainer(config(tmp_path, judge_folder, preferences_folder, **changes))
        trainer.train_step()
        updates.append(torch.cat([p.detach().flatten() for p in trainer.parameters.values()]))
    assert torch.allclose(updates[0], updates[1], atol=1e-5)
    assert torch.allclose(updates[0], updates[2], atol=1e-5)


def test_an_adapter_goes_on_the_language_model_alone(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    trainer = JudgeTrainer(config(tmp_path, judge_folder, preferences_folder))
    assert trainer.parameters
    assert all(".language_model." in name for name in trainer.parameters)
    frozen = [p for n, p in trainer.judge.component.module.named_parameters() if "lora" not in n]
    assert not any(p.requires_grad for p in frozen)


def test_half_precision_weights_have_full_precision_adapters(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    trainer = JudgeTrainer(config(tmp_path, judge_folder, preferences_folder, precision="bf16"))
    assert math.isfinite(trainer.train_step())
    assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
    assert trainer.judge.component.dtype is torch.bfloat16


def test_a_cancelled_run_keeps_its_work_and_goes_on_exactly(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    whole = config(tmp_path / "whole", judge_folder, preferences_folder)
    (tmp_path / "whole").mkdir()  # where a run was killed before its first checkpoint
    (tmp_path / "whole" / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    train_judge(whole, RecordingHost())
    parts = config(tmp_path / "parts", judge_folder, preferences_folder)
    with pytest.raises(CancelledError):
        train_judge(parts, RecordingHost(cancel_at_call=4))
    assert (tmp_path / "parts" / "adapter" / "adapter_model.safetensors").is_file()
    train_judge(parts, RecordingHost())
    tensors, expected = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("parts", "whole")
    )
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("parts", "whole")]
    steps = [[json.loads(line)["step"] for line in text.splitlines()] for text in texts]
    assert steps[0] == steps[1] == [2, 4]


def test_a_finished_run_goes_on_with_more_steps_and_with_nothing_else(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    train_judge(
        config(tmp_path / "long", judge_folder, preferences_folder, steps=6), RecordingHost()
    )
    short = config(tmp_path / "short", judge_folder, preferences_folder, steps=3)
    train_judge(short, RecordingHost())
    train_judge(replace(short, steps=6), RecordingHost())
    tensors, expected = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("short", "long")
    )
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match=r"rank: 16 -> 4"):
        train_judge(replace(short, rank=4), RecordingHost())


def test_a_run_that_failed_before_its_first_step_frees_its_name(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    blind = config(tmp_path / "run", judge_folder, preferences_folder, view="image_with_source")
    with pytest.raises(ValueError, match="needs the source"):
        train_judge(blind, RecordingHost())
    train_judge(replace(blind, view="full_image"), RecordingHost())


def test_a_trained_adapter_loads_and_answers_as_it_did_when_trained(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path / "run", judge_folder, preferences_folder, learning_rate=1e-2)
    adapter = train_judge(settings, RecordingHost())
    trainer = JudgeTrainer(settings)
    state = RunDirectory(settings).load()
    assert state is not None
    trainer.restore(state)
    judge = QwenJudge(
        JudgeConfig(folder=str(judge_folder), adapter=str(adapter)), torch.device("cpu")
    )
    pair = trainer.data.pairs()[0]
    views = [images_of(trainer.data, pair)]
    with torch.no_grad():
        expected = ask_both_ways(trainer.judge, views, [pair])
        assert torch.equal(ask_both_ways(judge, views, [pair]), expected)
        plain = QwenJudge(JudgeConfig(folder=str(judge_folder)), torch.device("cpu"))
        assert not torch.allclose(ask_both_ways(plain, views, [pair]), expected)
        adapter_config = adapter / "adapter_config.json"
        adapter_config.write_text(
            json.dumps(json.loads(adapter_config.read_text()) | {"lora_dropout": 0.5})
        )
        again = QwenJudge(judge.config, torch.device("cpu"))
        assert torch.equal(ask_both_ways(again, views, [pair]), expected), "no answers by chance"
    assert judge.notes["view"] == "full_image"
    assert judge.label == f"{judge_folder.name}+run/adapter"
    assert judge.identity != plain.identity
    more = replace(settings, run_folder=str(tmp_path / "more"), judge_adapter=str(adapter))
    with torch.no_grad():
        assert torch.equal(ask_both_ways(JudgeTrainer(more).judge, views, [pair]), expected)
    with pytest.raises(ValueError, match="rank 16 and alpha 16, but 4 and 4 are set"):
        JudgeTrainer(replace(more, rank=4))


def test_adapters_that_do_not_fit_are_refused(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    adapter = train_judge(
        config(tmp_path / "run", judge_folder, preferences_folder), RecordingHost()
    )
    wide = make_judge(tmp_path / "wide", replace(BUNDLED_LIKE, width=128))
    judge_config = JudgeConfig(folder=str(wide), adapter=str(adapter))
    with pytest.raises(JudgeError, match="is for another model"):
        _ = QwenJudge(judge_config, torch.device("cpu")).component.module
    notes = json.loads((adapter / "onereward.json").read_text())
    (adapter / "onereward.json").write_text(json.dumps(notes | {"template_version": 0}))
    with pytest.raises(JudgeError, match="version 0 of the judge's question"):
        QwenJudge(replace(judge_config, folder=str(judge_folder)), torch.device("cpu"))
    (adapter / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ValueError, match="is a 'IA3' adapter"):
        QwenJudge(replace(judge_config, folder=str(judge_folder)), torch.device("cpu"))


def test_liger_kernel_says_what_it_lacks(judge_folder: Path) -> None:
    settings = JudgeConfig(folder=str(judge_folder), liger_kernel=True)
    with pytest.raises(JudgeError, match="needs a CUDA GPU"):
        QwenJudge(settings, torch.device("cpu"))
    if importlib.util.find_spec("liger_kernel") is None:
        with pytest.raises(JudgeError, match="pip install liger-kernel"):
            QwenJudge(settings, torch.device("cuda"))


def test_rate_zero_changes_nothing(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    trainer = JudgeTrainer(config(tmp_path, judge_folder, preferences_folder, learning_rate=0.0))
    before = {name: p.clone() for name, p in trainer.parameters.items()}
    trainer.train_step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_it_learns_that_bright_is_better(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    settings = config(
        tmp_path, judge_folder, preferences_folder, steps=40, mode="full", eval_every=40
    )
    train_judge(settings)
    trainer = JudgeTrainer(
        config(tmp_path / "again", tmp_path / "judge", preferences_folder, learning_rate=0.0)
    )
    cell = trainer.report("test").cells[Task.REMOVE, Dimension.REMOVAL_QUALITY]
    assert cell.accuracy == 1.0
    assert cell.swap_consistency == 1.0


def test_epochs_are_permutations_and_depend_on_the_step_alone(preferences_folder: Path) -> None:
    pairs = PreferenceSet(preferences_folder).pairs()
    names = [p.condition for step in range(6) for p in sample_batch(pairs, step, 4, seed=3)]
    assert sorted(names) == sorted(p.condition for p in pairs)
    assert sample_batch(pairs, 5, 4, seed=3) == sample_batch(pairs, 5, 4, seed=3)
    assert [p.condition for p in sample_batch(pairs, 0, 4, seed=4)] != names[:4]


def test_augmentation_moves_both_images_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 16, 16)
    for augmentation in (Augmentation(shift=3), Augmentation(blur=1.0), Augmentation(noise=0.2)):
        a, b = augmentation.apply((image, image), generator)
        assert torch.equal(a, b)
        assert not torch.equal(a, image)
    still, _ = Augmentation().apply((image, image), generator)
    assert torch.equal(still, image)


def test_splits_have_something_to_hold_out() -> None:
    names = [split_of(f"condition {number}") for number in range(24)]
    assert {"train", "test"} <= set(names), "the data of this file needs both"


def test_bad_data_is_named(judge_folder: Path, preferences_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pairs of its train split"):
        JudgeTrainer(config(tmp_path / "run", judge_folder, tmp_path / "empty"))
    data = PreferenceSet(preferences_folder)
    broken = data.pairs()[0]
    (tmp_path / "broken").mkdir()
    broken_data = PreferenceSet(tmp_path / "broken")
    (tmp_path / "broken" / broken.winner_file_name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        images_of(broken_data, broken)
    with pytest.raises(ValueError, match="choose one of: lora, full"):
        config(tmp_path, judge_folder, preferences_folder, mode="half")


def test_bad_data_is_named_before_the_first_step(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    """An image that step 1000 draws must not end the run there."""
    folder = tmp_path / "data"
    shutil.copytree(preferences_folder, folder)
    data, host = PreferenceSet(folder), RecordingHost()
    settings = config(tmp_path / "run", judge_folder, folder)
    whole = data.pairs()
    last = [p for p in whole if split_of(p.condition) == "train"][-1]
    blind = replace(last, task=Task.FILL, dimension=Dimension.TEXT_ALIGNMENT)
    data.replace_pairs([*whole, blind])
    with pytest.raises(
        ValueError, match=f"{last.condition} in .*: text alignment needs the prompt"
    ):
        train_judge(settings, host)
    data.replace_pairs(whole)
    path = folder / last.loser_file_name
    Image.new("RGB", (16, 32)).save(path)
    with pytest.raises(
        ValueError, match=r"is 32x32 pixels but .* is 16x32 pixels; make both as large"
    ):
        train_judge(settings, host)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} cannot be read as an image"):
        train_judge(settings, host)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_view_that_a_pair_cannot_be_seen_in_is_named_before_the_first_step(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(preferences_folder, folder)
    data = PreferenceSet(folder)
    Image.new("L", (32, 32), 255).save(folder / "mask.png")
    whole = [replace(pair, mask_file_name="mask.png") for pair in data.pairs()]
    index = next(n for n, p in enumerate(whole) if split_of(p.condition) == "train")
    settings = config(tmp_path / "run", judge_folder, folder, view="crop")
    report = ReportConfig(split="test_and_dev", view="crop")
    judge = QwenJudge(JudgeConfig(folder=str(judge_folder)), torch.device("cpu"))
    for size, level, message in (
        ((32, 16), 255, "make both as large"),
        ((32, 32), 0, "needs a mask that is not empty"),
    ):
        Image.new("L", size, level).save(folder / "bad.png")
        broken = list(whole)
        broken[index] = replace(whole[index], mask_file_name="bad.png")
        data.replace_pairs(broken)
        with pytest.raises(ValueError, match=message):
            train_judge(settings, RecordingHost())
        assert not (tmp_path / "run" / "checkpoint").exists()
        data.replace_pairs(replace(pair, mask_file_name="bad.png") for pair in whole)
        host = RecordingHost(cancel_at_call=1)
        with pytest.raises(ValueError, match=message):
            report_on_judge(judge, data, report, host)


def test_a_few_of_many_pairs_are_of_all_kinds() -> None:
    """Lists are often sorted by task."""
    pair = Preference(
        winner_file_name="a.png",
        loser_file_name="b.png",
        task=Task.REMOVE,
        dimension=Dimension.REMOVAL_QUALITY,
        condition="",
    )
    pairs = [replace(pair, condition=str(number)) for number in range(10)]
    assert [p.condition for p in spread(pairs, 4)] == ["0", "3", "6", "9"]
    assert spread(pairs, 10) == spread(pairs, 64) == pairs
    assert spread(pairs, 1) == pairs[:1]


def test_a_kill_before_the_result_is_written_does_not_pass_for_the_end(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "run", judge_folder, preferences_folder, steps=1, eval_every=9)
    train_judge(settings, RecordingHost())
    more, notes = replace(settings, steps=2), tmp_path / "run" / "adapter" / "onereward.json"

    def fill_up(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_adapter", fill_up)
        with pytest.raises(OSError, match=r"cannot write .*adapter .*No space left.* free some"):
            train_judge(more, RecordingHost())
    assert saved_step(tmp_path / "run") == 2
    assert json.loads(notes.read_text())["steps"] == 1
    train_judge(more, RecordingHost())
    assert json.loads(notes.read_text())["steps"] == 2


def test_weights_that_are_no_numbers_replace_no_checkpoint(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss may be finite and its gradient not; the next loss tells."""
    settings = config(tmp_path / "run", judge_folder, preferences_folder, steps=1, eval_every=9)
    train_judge(settings, RecordingHost())
    step = JudgeTrainer.train_step

    def spoil(self: JudgeTrainer) -> float:
        loss = step(self)
        with torch.no_grad():
            next(iter(self.parameters.values())).fill_(torch.nan)
        return loss

    monkeypatch.setattr(JudgeTrainer, "train_step", spoil)
    with pytest.raises(RuntimeError, match=r"is not finite; the last checkpoint .* is good"):
        train_judge(replace(settings, steps=3), RecordingHost())
    stored = load_file(tmp_path / "run" / "checkpoint" / "state.safetensors")
    assert saved_step(tmp_path / "run") == 1
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())


def test_a_gradient_that_is_no_number_changes_nothing(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = JudgeTrainer(config(tmp_path / "run", judge_folder, preferences_folder))
    before = {name: value.clone() for name, value in trainer.parameters.items()}
    plain_loss = JudgeTrainer.loss

    def steep(self: JudgeTrainer, batch: Any, indices: Any) -> torch.Tensor:
        loss = plain_loss(self, batch, indices)
        loss.register_hook(lambda gradient: gradient * torch.inf)  # the loss stays what it is
        return loss

    monkeypatch.setattr(JudgeTrainer, "loss", steep)
    with pytest.raises(NonFiniteError, match=r"the gradient of step 0 is not finite"):
        trainer.train_step()
    assert trainer.step == 0
    assert all(torch.equal(value, before[n]) for n, value in trainer.parameters.items())


def test_a_batch_that_processes_cannot_share_evenly_is_refused(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    settings = config(tmp_path / "run", judge_folder, preferences_folder)
    with pytest.raises(ValueError, match="batch_size is 4, but 3 processes share it; choose a"):
        JudgeTrainer(settings, RecordingHost(), Distributed())


def test_all_processes_stop_when_one_has_a_loss_that_is_no_number(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path
) -> None:
    """It must not leave the others waiting for its gradients."""

    class OneOfTwo(Distributed):
        def any(self, flag: bool) -> bool:
            assert not flag, "this one's loss is a number"
            return True

        def sum(self, tensors: Any) -> None:
            raise AssertionError("the other one is not there any more")

    settings = config(tmp_path / "run", judge_folder, preferences_folder)
    trainer = JudgeTrainer(settings, processes=OneOfTwo())
    before = {name: value.clone() for name, value in trainer.parameters.items()}
    with pytest.raises(NonFiniteError, match=r"the loss of step 0 is not finite"):
        trainer.train_step()
    assert all(torch.equal(value, before[n]) for n, value in trainer.parameters.items())


def test_too_little_memory_says_what_to_change(
    judge_folder: Path, preferences_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: JudgeTrainer) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(JudgeTrainer, "train_step", full)
    with pytest.raises(NotEnoughMemory, match=r"smaller micro_batch_size \(now 4\)"):
        train_judge(config(tmp_path / "run", judge_folder, preferences_folder), RecordingHost())


def test_a_run_that_diverges_stops_and_keeps_its_work(
    judge_folder: Path,
    preferences_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_step = JudgeTrainer.train_step

    def explode(trainer: JudgeTrainer) -> float:
        loss = take_step(trainer)
        return loss if trainer.step <= 5 else loss * 100

    monkeypatch.setattr(JudgeTrainer, "train_step", explode)
    settings = config(
        tmp_path / "run", judge_folder, preferences_folder, log_every=1, eval_every=99, steps=20
    )
    with pytest.raises(DivergedError, match="the loss has grown from"):
        train_judge(settings, RecordingHost())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert 8 <= len(lines) < 20
    assert saved_step(tmp_path / "run") == len(lines)
