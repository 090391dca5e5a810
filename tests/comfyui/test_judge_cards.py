"""Judges with cards in the real server, on small models with random weights."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from support.client import ComfyClient
from support.edits import TOY_PREFERENCES, EditGraph
from support.graph import Link, nodes_of, output
from support.judge_families import make_family
from support.judges import make_judge
from support.refusals import refused
from support.server import ComfyServer

CARD: dict[str, Any] = {
    "format": 1,
    "name": "Five-Points",
    "evidence": "Random weights.",
    "images": "source_single",
    "questions": {"default": {"text": "Source <image>, edit <image>: {instruction}. 1 to 5?"}},
    "reading": {"kind": "digits", "low": 1, "high": 5},
}
DIGITS, WRITES, HEADED, BROKEN = "cards-digits", "EditScore-tiny", "cards-headed", "cards-broken"
ENDLESS = "cards-endless"
LONG = {
    "questions": {"default": {"text": "{instruction}: think for hours.", "pattern": "(never)"}},
    "reading": {"kind": "generate", "max_new_tokens": 8192},
}


@pytest.fixture(scope="module", autouse=True)
def folders(comfyui: ComfyServer) -> Iterator[None]:
    root = comfyui.base_directory / "models" / "onereward"
    folder = make_family(root / DIGITS, "qwen3_vl")
    shutil.copytree(folder, root / WRITES)
    shutil.copytree(folder, root / BROKEN)
    shutil.copytree(folder, root / ENDLESS)
    (root / ENDLESS / "judge_card.json").write_text(json.dumps(CARD | LONG))
    (folder / "judge_card.json").write_text(json.dumps(CARD))
    (root / BROKEN / "judge_card.json").write_text(json.dumps(CARD | {"colour": "red"}))
    (root / HEADED).mkdir()
    weights = make_judge(root / HEADED) / "model.safetensors"
    tensors = load_file(weights)
    tensors["rm_head.weight"] = tensors["model.embed_tokens.weight"][:1].clone()
    save_file(tensors, weights, metadata={"format": "pt"})
    yield
    for name in (DIGITS, WRITES, HEADED, BROKEN, ENDLESS):
        shutil.rmtree(root / name)


@pytest.fixture
def images(client: ComfyClient) -> list[str]:
    colours = ("red", "blue", "grey")
    return [client.upload(Image.new("RGB", (64, 64), c), f"card-{c}.png") for c in colours]


class Cards(EditGraph):
    """A graph with a judge that has a card."""

    def judge(self, name: str) -> Link:
        return self.add("OneRewardLoadJudge", judge=name)

    def score(self, name: str, images: list[str], **inputs: Any) -> str:
        a, b, *source = (self.add("LoadImage", image=image) for image in images)
        values = {"task": "fill", "prompt": "a red circle", "judge": self.judge(name)} | inputs
        values |= {"source": source[0]} if source else {}
        result = self.add("OneRewardScore", image_a=a, image_b=b, **values)
        return self.add("PreviewAny", source=output(result, 2))[0]


def test_a_card_beside_a_checkpoint_asks_it(
    client: ComfyClient, comfyui: ComfyServer, images: list[str]
):
    scores = []
    for names in (images, [images[1], images[0], images[2]]):
        g = Cards()
        preview = g.score(DIGITS, names, swap=False)
        job = client.run(g.graph)
        assert job.succeeded, job.error
        scores.append(json.loads(job.outputs[preview]["text"][0])[0])
    there, back = scores
    assert set(there) == {"text_alignment", "consistency", "structure", "aesthetics"}
    # One image is scored at a time, so its place in the pair changes nothing.
    assert all(there[d] + back[d] == pytest.approx(1.0, abs=1e-5) for d in there)
    assert there["structure"] != pytest.approx(0.5, abs=1e-4)
    assert "asked as card Five-Points says (Random weights)" in comfyui.log()


def test_the_best_of_several_is_picked_by_a_card(client: ComfyClient, images: list[str]):
    g = Cards()
    loaded = [g.add("LoadImage", image=name) for name in images]
    batch = g.add("ImageBatch", image1=loaded[0], image2=loaded[1])
    values = {"task": "fill", "prompt": "a kite", "method": "round_robin", "source": loaded[2]}
    best = g.add("OneRewardPickBest", judge=g.judge(DIGITS), candidates=batch, **values)
    preview = g.add("PreviewAny", source=output(best, 3))[0]
    job = client.run(g.graph)
    assert job.succeeded, job.error
    report = json.loads(job.outputs[preview]["text"][0])
    assert sorted(report["order"]) == [0, 1]


@pytest.mark.parametrize(
    ("name", "num_images", "words"),
    [
        (DIGITS, 2, ("needs the image before the edit", "connect the source")),
        (WRITES, 3, ("the judge", "score")),
        (BROKEN, 3, ("judge_card.json", "unknown settings", "colour")),
        (HEADED, 3, ("rm_head.weight", "a head that this judge does not read")),
    ],
)
def test_what_cannot_be_asked_or_read_is_one_sentence(
    client: ComfyClient, images: list[str], name: str, num_images: int, words: tuple[str, ...]
):
    g = Cards()
    g.score(name, images[:num_images], task="remove", prompt="")
    refused(client, g.graph, *words)


def test_cancel_ends_an_answer_that_is_being_written(client: ComfyClient, images: list[str]):
    g = Cards()
    g.score(ENDLESS, images)
    (node,) = nodes_of(g.graph, "OneRewardScore")
    with client.listen() as listener:
        prompt = client.queue(g.graph)
        listener.until(lambda e: e.kind == "progress" and e.data["node"] == node)
        start = time.monotonic()
        client.interrupt(prompt)
        job = listener.finish(prompt)
    assert job.was_interrupted
    assert time.monotonic() - start < 5  # seconds; the answer would take minutes


def test_a_card_that_reads_digits_trains_a_model(client: ComfyClient):
    g = Cards()
    settings = {"sampling_steps": 2, "warmup_steps": 0, "eval_every": 1, "eval_conditions": 1}
    values = {"steps": 1, "batch_size": 1, "micro_batch_size": 1, "rank": 4, "name": "by-digits"}
    trained = g.add(
        "OneRewardTrain",
        judge=g.judge(DIGITS),
        model=g.add_model(),
        dataset=g.add_dataset(),
        settings=g.add("OneRewardTrainSettings", **settings),
        **values,
        min_judge_accuracy=0.0,
    )
    g.show(output(trained, 1))
    job = client.run(g.graph)
    assert job.succeeded, job.error


def test_a_card_that_writes_its_answer_trains_nothing(client: ComfyClient):
    g = Cards()
    values = {"steps": 1, "batch_size": 1, "micro_batch_size": 1, "name": "by-a-card"}
    trained = g.add(
        "OneRewardTrain",
        judge=g.judge(WRITES),
        model=g.add_model(),
        dataset=g.add_dataset(),
        **values,
    )
    g.show(output(trained, 1))
    refused(client, g.graph, WRITES, "no gradient reaches the images through it")


def test_a_judge_with_a_card_is_not_trained(client: ComfyClient):
    g = Cards()
    data = g.add("OneRewardLoadPreferences", folder=TOY_PREFERENCES)
    trained = g.add(
        "OneRewardTrainJudge", judge=g.judge(DIGITS), preferences=data, name="by-a-card", steps=1
    )
    g.add("PreviewImage", images=output(trained, 1))
    refused(client, g.graph, DIGITS, "cannot be trained: only the built-in question is")
