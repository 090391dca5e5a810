"""Training a policy in the real server: from conditions to a LoRA that every loader takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from onereward import cli
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.runs.directory import saved_step
from support.client import ComfyClient, ComfyJob, Event, Graph
from support.edits import EditGraph
from support.graph import Link, output
from support.judges import make_judge
from support.refusals import refused
from support.server import ComfyServer

JUDGE = "policy-judge"
SHORT = {
    **{"steps": 2, "batch_size": 2, "micro_batch_size": 2, "rank": 4},
    **{"learning_rate": 0.01, "min_judge_accuracy": 0.0},
}
QUICK = {"sampling_steps": 2, "warmup_steps": 0, "eval_every": 2, "eval_conditions": 1}
SEED = 5
# Of 255: the two sample in fp32, but not all arithmetic is in one order.
MAX_DIFFERENCE = 4


@pytest.fixture(scope="module", autouse=True)
def judge_folder(comfyui: ComfyServer) -> Iterator[Path]:
    folder = comfyui.base_directory / "models" / "onereward" / JUDGE
    folder.mkdir(parents=True)
    yield make_judge(folder)
    shutil.rmtree(folder)


class Loop(EditGraph):
    """A graph that trains."""

    def train(self, run: str, settings: dict[str, Any] | None = None, **inputs: Any) -> Link:
        values: dict[str, Any] = {"judge": self.add("OneRewardLoadJudge", judge=JUDGE)}
        values |= {"model": self.add_model(), "dataset": self.add_dataset(), "name": run}
        values["settings"] = self.add("OneRewardTrainSettings", **(QUICK | (settings or {})))
        values |= SHORT | inputs
        return self.add("OneRewardTrain", **{k: v for k, v in values.items() if v is not None})


def train_graph(run: str, settings: dict[str, Any] | None = None, **inputs: Any) -> Graph:
    g = Loop()
    g.show(output(g.train(run, settings, **inputs), 1))
    return g.graph


def run_folder(comfyui: ComfyServer, name: str) -> Path:
    return comfyui.base_directory / "output" / "onereward" / "policies" / name


def pixels(client: ComfyClient, job: ComfyJob, node: str) -> np.ndarray:
    assert job.succeeded, job.error
    return np.asarray(client.image(job.images(node)[0]).convert("RGB")).astype(int)


def native_fill(g: EditGraph, image: Link, lora: str) -> Link:
    """Add ComfyUI's own graph of the edit, with its own LoRA loader."""
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    model = g.add("LoraLoaderModelOnly", model=native, lora_name=lora, strength_model=1.0)
    edit = g.add(
        "OneRewardNativeInputs",
        clip=output(native, 1),
        vae=output(native, 2),
        image=image,
        mask=output(image, 1),
        model=model,
        recipe="bundled",
        task="fill",
        prompt="a red circle",
    )
    latent = g.add(
        "KSampler",
        model=output(edit, 4),
        positive=edit,
        negative=output(edit, 1),
        latent_image=output(edit, 2),
        steps=output(edit, 5),
        cfg=output(edit, 6),
        seed=SEED,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    decoded = g.add("VAEDecode", samples=latent, vae=output(native, 2))
    return g.add("OneRewardStitch", image=decoded, stitch=output(edit, 3))


def test_a_trained_adapter_works_in_our_nodes_and_in_comfyuis_loader(
    client: ComfyClient, comfyui: ComfyServer, example: str
):
    g = Loop()
    image = g.add("LoadImage", image=example)
    edit: dict[str, Any] = {"seed": SEED, "settings": {"steps": -1}}
    plain = g.show(g.add_edit("Fill", image, **edit))
    trained = g.train("whole", {"stop_on_drift": False}, learning_rate=0.03)
    g.show(output(trained, 1))
    adapted = g.show(g.add_edit("Fill", image, model=trained, **edit))
    g.add("OneRewardSaveAdapter", model=trained, name="mine", precision="fp32")
    job = client.run(g.graph)
    before, after = pixels(client, job, plain), pixels(client, job, adapted)
    assert np.abs(before - after).max() > 3 * MAX_DIFFERENCE
    lora = "onereward/mine.safetensors"
    file = comfyui.base_directory / "models" / "loras" / lora
    with safe_open(file, framework="pt") as opened:
        assert '"algorithm": "fixed"' in opened.metadata()["onereward"]
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    native = g.show(native_fill(g, image, lora))
    loaded = g.add("OneRewardLoadAdapter", model=g.add_model(), adapter=lora, strength=1.0)
    again = g.show(g.add_edit("Fill", image, model=loaded, **edit))
    job = client.run(g.graph)
    assert np.array_equal(pixels(client, job, again), after)
    assert np.abs(pixels(client, job, native) - after).max() <= MAX_DIFFERENCE
    assert "lora key not loaded" not in comfyui.log()


def test_cancel_keeps_the_work_and_the_cache_never_swallows_a_run(
    client: ComfyClient, comfyui: ComfyServer, example: str
):
    g = EditGraph()
    node = g.show(g.add_edit("Fill", g.add("LoadImage", image=example), seed=SEED))
    before = pixels(client, client.run(g.graph), node)
    run = run_folder(comfyui, "cancelled")

    def is_step(event: Event) -> bool:
        return event.kind == "progress" and event.data["max"] == 10_000 and event.data["value"] > 0

    with client.listen() as listener:
        prompt_id = client.queue(train_graph("cancelled", steps=10_000))
        listener.until(is_step)
        client.interrupt(prompt_id)
        job = listener.finish(prompt_id)
    assert job.was_interrupted
    assert job.error is None
    step = saved_step(run)
    assert 1 <= step < 10_000
    client.free(unload_models=False)  # forget what was made
    after = pixels(client, client.run(g.graph), node)
    assert np.array_equal(before, after)
    more = train_graph("cancelled", steps=step + 1)
    job = client.run(more)
    assert job.succeeded, job.error
    assert saved_step(run) == step + 1
    (trainer,) = [n for n, v in more.items() if v["class_type"] == "OneRewardTrain"]
    client.run(more)  # done already, and says so
    assert trainer in client.run(more).cached_nodes
    refusal = client.run(train_graph("cancelled", rank=8, steps=step + 2)).error
    assert "holds a run with other settings (rank: 4 -> 8)" in (refusal or "")


def test_the_command_line_does_exactly_what_the_node_does(
    client: ComfyClient, comfyui: ComfyServer, tmp_path: Path
):
    job = client.run(train_graph("headless", algorithm="dynamic"))
    assert job.succeeded, job.error
    run = run_folder(comfyui, "headless")
    config = PolicyTrainConfig.load(run / "config.json")
    text = config.to_json().replace(str(run), str(tmp_path / "again"))
    (tmp_path / "config.json").write_text(text)
    assert cli.main(["train", str(tmp_path / "config.json")]) == 0
    state = "checkpoint/state.safetensors"
    expected, again = load_file(run / state), load_file(tmp_path / "again" / state)
    for name, tensor in expected.items():
        # Another process may take another number of threads, which rounds sums differently.
        torch.testing.assert_close(tensor, again[name], rtol=1e-3, atol=1e-5, msg=name)


def test_two_models_are_compared(client: ComfyClient):
    """Before and after training, without a folder that keeps the images."""
    g = Loop()
    evaluation = g.add(
        "OneRewardEvaluate",
        model=g.train("compared", mode="full"),
        dataset=g.add_dataset(),
        baseline=g.add_model(),
        judge=g.add("OneRewardLoadJudge", judge=JUDGE),
        settings=g.add("OneRewardSettings", steps=2),
        split="all",
        num_conditions=4,
        margin=0.0,
    )
    g.show(evaluation)
    report = g.add("PreviewAny", source=output(evaluation, 2))[0]
    job = client.run(g.graph)
    assert job.succeeded, job.error
    votes = json.loads(job.outputs[report]["text"][0])["votes"]
    assert list(votes) == ["fill", "extend", "remove", "text", "all"]
    assert sum(votes["all"]["judge"][name] for name in ("good", "same", "bad")) == 4


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, {"judge": None}, "judges is empty; connect a judge"),
        ({}, {"reward_cap": 0.0}, "lambda (reward_cap) is 0.0"),
        ({"t1": 0.9, "t2": 0.1}, {}, "t1 is 0.9, more than t2, 0.1"),
        ({"alpha": 0.0}, {}, "alpha is 0.0"),
        (
            {f"weight_{task}": 0.0 for task in ("fill", "extend", "remove", "text")},
            {},
            "all four task weights are 0",
        ),
        ({"reference_pool": 1}, {"algorithm": "dynamic"}, "reference_pool needs the fixed"),
        ({}, {"name": "../x"}, "name is '../x', but up to 100 letters"),
    ],
    ids=["no judge", "lambda", "t1", "alpha", "weights", "pool", "name"],
)
def test_bad_input_gets_one_sentence(
    client: ComfyClient, settings: dict[str, Any], inputs: dict[str, Any], message: str
):
    refused(client, train_graph("bad", settings, **inputs), message)


def test_there_has_to_be_an_adapter_to_save(client: ComfyClient):
    g = EditGraph()
    g.add("OneRewardSaveAdapter", model=g.add_model(), name="none")
    assert "this model has no adapter to save" in (client.run(g.graph).error or "")
