"""Judges with cards, on random models, against transformers' own forward and generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from unit.reward.vlm.test_qwen_vl import as_uint8, random_images

from onereward.fill.task import Dimension, Task
from onereward.reward.cards.card_format import JudgeCard
from onereward.reward.cards.card_judge import CardJudge, local_judge
from onereward.reward.judge import JudgeConfig, JudgeError, PairQuestion
from onereward.reward.query import Query, queries_for
from onereward.reward.score import judge_pair
from onereward.reward.vlm.qwen_vl import QwenJudge
from support.judge_families import make_family
from support.judges import make_judge

CPU = torch.device("cpu")
QUERY = Query(Task.FILL, Dimension.TEXT_ALIGNMENT, "a red circle")
HEADS = ("rm_heads.head_0", "rm_heads.head_1")
SIZE = (96, 96)


def card_of(
    reading: dict[str, Any], images: str, text: str = "{instruction} ?", **values: Any
) -> JudgeCard:
    question = {"text": text} | values.pop("question", {})
    return JudgeCard.from_values(
        {
            **{"name": "test", "evidence": "", "questions": {"default": question}},
            **{"reading": reading, "images": images},
            **values,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("qwen3") / "model", "qwen3_vl")


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL with two reward heads, laid out as EditReward's weights are."""
    folder = make_judge(tmp_path_factory.mktemp("headed") / "model")
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for head in HEADS:
        for layer, (rows, cols) in {"0": (32, 64), "3": (16, 32), "5": (2, 16)}.items():
            weight = torch.randn(rows, cols, generator=generator) / cols**0.5
            tensors[f"{head}.{layer}.weight"] = weight
            tensors[f"{head}.{layer}.bias"] = torch.randn(rows, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def judge_of(folder: Path, card: JudgeCard, poll: Any = lambda: None) -> CardJudge:
    return CardJudge(JudgeConfig(folder=str(folder), precision="fp32"), CPU, card, poll)


def ask(judge: CardJudge, images: Sequence[torch.Tensor], query: Query = QUERY) -> torch.Tensor:
    first, second, source = judge.encode_images(images)
    return judge.probabilities([PairQuestion(first, second, query, source)])


def inputs_of(
    judge: CardJudge, images: Sequence[torch.Tensor], text: str, end: str
) -> dict[str, Any]:
    """What transformers' own processor makes of a chat, whose template is spelled out here."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    processor: Any = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(judge.model.folder),
        tokenizer=judge.chat.tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
    )
    pictures = [Image.fromarray(as_uint8(i).permute(1, 2, 0).numpy()) for i in images]
    places = "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
    chat = f"<|im_start|>user\n{places}{text}<|im_end|>\n<|im_start|>assistant\n{end}"
    return processor(text=[chat], images=pictures, return_tensors="pt")


def logits_of(
    judge: CardJudge, images: Sequence[torch.Tensor], text: str, end: str = ""
) -> torch.Tensor:
    model: Any = judge.component.module
    with torch.no_grad():
        return model(**inputs_of(judge, images, text, end)).logits[0, -1].double()


def test_pair_after_a_prefix_equals_the_models_own_forward(folder: Path) -> None:
    reading = {"kind": "token_pair", "first": ["1"], "second": ["2"]}
    judge = judge_of(folder, card_of(reading, "source_pair", answer_start="Image "))
    first, second, source = images = random_images(SIZE, (64, 96), SIZE)
    text = f"{QUERY.instruction()} ?"
    logits = logits_of(judge, [source, first, second], text, "Image ")
    ids = judge.chat.tokenizer.convert_tokens_to_ids(["1", "2"])
    expected = logits[ids].softmax(0)[0]
    swapped = logits_of(judge, [source, second, first], text, "Image ")[ids].softmax(0)[0]
    assert abs(ask(judge, images).item() - expected) < 0.02 * abs(expected - swapped)
    assert judge.needs_source
    assert judge.is_differentiable


def test_expected_digits_of_single_images_become_a_preference(folder: Path) -> None:
    reading = {"kind": "digits", "low": 1, "high": 5, "temperature": 0.1}
    judge = judge_of(folder, card_of(reading, "source_single"))
    first, second, source = images = random_images(SIZE, SIZE, SIZE)
    ids = judge.chat.tokenizer.convert_tokens_to_ids(list("12345"))
    scores = []
    for image in (first, second):
        logits = logits_of(judge, [source, image], f"{QUERY.instruction()} ?")
        scores.append(float(logits[ids].softmax(0) @ torch.arange(1.0, 6.0).double()))
    expected = torch.tensor((scores[0] - scores[1]) / 0.1).sigmoid()
    assert 0.01 < expected < 0.99, "the two images must differ, and not saturate"
    assert ask(judge, images).item() == pytest.approx(expected.item(), abs=0.01)


def head_states(judge: CardJudge, images: Sequence[torch.Tensor], text: str) -> torch.Tensor:
    """The final state after a reward token in the middle of a chat, with positions of text."""
    model: Any = judge.component.module
    inputs = inputs_of(judge, images, f"{text}<|endoftext|> END", "")
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        features = torch.cat(list(getattr(features, "pooler_output", features)))
        embeds[inputs["input_ids"] == judge.model.image_token] = features
        length = embeds.shape[1]
        states = model.model.language_model(
            inputs_embeds=embeds, position_ids=torch.arange(length).expand(3, 1, length)
        ).last_hidden_state
    (place,) = (inputs["input_ids"][0] == judge.chat.tokenizer.vocab["<|endoftext|>"]).nonzero()
    return states[0, place]


def test_reward_heads_score_the_state_after_their_token(headed: Path) -> None:
    reading = {"kind": "head", "token": "<|endoftext|>", "outputs": 2}
    questions = {
        "default": {"text": "follow {instruction}: ", "head": HEADS[0]},
        "structure": {"text": "quality {instruction}: ", "head": HEADS[1]},
    }
    values = {"questions": questions, "image_positions": "text"}
    judge = judge_of(
        headed,
        JudgeCard.from_values(
            {
                "name": "test",
                "evidence": "",
                "images": "source_single",
                "reading": reading,
                **values,
            }
        ),
    )
    first, second, source = images = random_images(SIZE, SIZE, SIZE)
    tensors = load_file(headed / "model.safetensors")
    for query, head, word in (
        (QUERY, HEADS[0], "follow"),
        (Query(Task.FILL, Dimension.STRUCTURE, QUERY.prompt), HEADS[1], "quality"),
    ):
        modules = torch.nn.Sequential(
            torch.nn.Linear(64, 32),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(32, 16),
            torch.nn.ReLU(),
            torch.nn.Linear(16, 2),
        ).eval()
        weights = {k.removeprefix(f"{head}."): v for k, v in tensors.items() if k.startswith(head)}
        modules.load_state_dict(weights)
        text = f"{word} {query.instruction()}: "
        scores = [modules(head_states(judge, [source, i], text))[0, 0] for i in (first, second)]
        expected = (scores[0] - scores[1]).sigmoid().item()
        assert abs(expected - 0.5) > 1e-3
        assert ask(judge, images, query).item() == pytest.approx(expected, abs=2e-3)


READINGS: dict[str, dict[str, Any]] = {
    "token_pair": {"reading": {"kind": "token_pair"}, "images": "source_pair"},
    "single": {"reading": {"kind": "token_pair"}, "images": "source_single"},
    "whole": {"reading": {"kind": "token_pair", "whole_vocabulary": True}, "images": "pair"},
    "digits": {"reading": {"kind": "digits", "low": 0, "high": 9}, "images": "single"},
    "head": {
        "reading": {"kind": "head", "outputs": 2},
        "images": "source_single",
        "questions": {
            "default": {"text": "{instruction} ?", "head": HEADS[0]},
            "structure": {"text": "?", "head": HEADS[1]},
        },
    },
}


@pytest.mark.parametrize("name", READINGS)
def test_gradient_to_the_pixels_equals_a_difference(headed: Path, name: str) -> None:
    card = card_of(**READINGS[name])
    if name != "head":
        # A card that reads no head refuses the checkpoint, so the others get one without.
        config = JudgeConfig(folder=str(headed.parent / "plain"), precision="fp32")
        if not Path(config.folder).is_dir():
            make_judge(Path(config.folder))
    else:
        config = JudgeConfig(folder=str(headed), precision="fp32")
    judge = CardJudge(config, CPU, card)
    judge.component.module.double()
    judge.component.dtype = torch.float64
    first, second, source = (i.double() for i in random_images(SIZE, SIZE, SIZE))
    leaf = first.clone().requires_grad_()

    def score(image: torch.Tensor) -> torch.Tensor:
        return ask(judge, [image, second, source])[0]

    score(leaf).backward()
    assert leaf.grad is not None
    direction, step = leaf.grad.sign(), 1e-4
    with torch.no_grad():
        difference = (score(first + step * direction) - score(first - step * direction)) / (
            2 * step
        )
    assert (leaf.grad * direction).sum().item() == pytest.approx(difference.item(), rel=0.02)
    assert difference.abs() > 0


def test_swapping_single_images_swaps_the_answer(folder: Path) -> None:
    judge = judge_of(folder, card_of({"kind": "digits"}, "single"))
    with torch.no_grad():
        a, b = judge.encode_images(random_images(SIZE, SIZE))
        pairs = [PairQuestion(a, b, QUERY), PairQuestion(b, a, QUERY), PairQuestion(a, a, QUERY)]
        there, back, itself = judge.probabilities(pairs).tolist()
    assert there + back == pytest.approx(1.0, abs=1e-6)
    assert itself == pytest.approx(0.5, abs=1e-6)


def test_what_is_asked_twice_is_computed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(folder, card_of({"kind": "digits"}, "single"))
    rows: list[int] = []
    compute = judge.model.last_logits
    monkeypatch.setattr(judge.model, "last_logits", lambda r: (rows.append(len(r)), compute(r))[1])
    with torch.no_grad():
        a, b = judge.encode_images(random_images(SIZE, SIZE))
        judgement = judge_pair(judge, a, b, queries_for(Task.FILL, "a dog"))
    assert rows == [2, 2], "four dimensions, one question; once per order"
    assert len(set(judgement.probabilities.values())) == 1


def written_by_transformers(judge: CardJudge, image: torch.Tensor, num: int) -> str:
    model: Any = judge.component.module
    inputs = inputs_of(judge, [image], f"{QUERY.instruction()} ?", "")
    ids = model.generate(**inputs, max_new_tokens=num, do_sample=False, eos_token_id=[0, 2])
    return judge.chat.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])


def test_what_is_written_equals_the_models_own_generation(folder: Path) -> None:
    reading = {"kind": "generate", "max_new_tokens": 6}
    question = {"pattern": r"^([\s\S]*)$"}
    judge = judge_of(folder, card_of(reading, "single", question=question))
    image, second = random_images(SIZE, SIZE)
    expected = written_by_transformers(judge, image, 6)
    assert expected.strip(), "the random model must write something"
    with torch.no_grad(), pytest.raises(JudgeError, match="in the place of a score") as caught:
        ask(judge, [image, second, image])
    assert repr(expected[:40]) in str(caught.value)
    assert not judge.is_differentiable


def test_a_written_choice_is_read(folder: Path) -> None:
    reading = {"kind": "generate", "max_new_tokens": 4}
    question = {"pattern": r"^(Image \d)"}
    card = card_of(reading, "pair", question=question, answer_start="Image 2 is better. ")
    card = replace(card, reading=replace(card.reading, first=("Image 1",), second=("Image 2",)))
    with torch.no_grad():
        assert ask(judge_of(folder, card), random_images(SIZE, SIZE, SIZE)).tolist() == [0.0]


def test_an_answer_about_the_same_image_is_written_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = {"kind": "generate", "max_new_tokens": 4, "low": 0, "high": 9}
    card = card_of(reading, "single", question={"pattern": r"^(\d)"}, answer_start="7 ")
    judge = judge_of(folder, card)
    rows: list[Any] = []
    write = judge.model.generate
    monkeypatch.setattr(judge.model, "generate", lambda *a: (rows.append(a), write(*a))[1])
    images = random_images(SIZE, SIZE, SIZE)
    with torch.no_grad():
        a, b, c = judge.encode_images(images)
        for first, second in ((a, b), (b, a), (a, c)):
            assert judge_pair(judge, first, second, queries_for(Task.FILL, "a dog")).mean() == 0.5
        again = judge.encode_images(images)[0]
        judge_pair(judge, again, b, queries_for(Task.FILL, "a dog"))
    assert len(rows) == 3, "one per image"


def test_cancel_works_between_tokens(folder: Path) -> None:
    class Cancelled(Exception):  # noqa: N818
        pass

    polls: list[int] = []

    def poll() -> None:
        polls.append(1)
        if len(polls) == 3:
            raise Cancelled

    reading = {"kind": "generate", "max_new_tokens": 2000}
    judge = judge_of(folder, card_of(reading, "single", question={"pattern": "(x)"}), poll)
    with torch.no_grad(), pytest.raises(Cancelled):
        ask(judge, random_images(SIZE, SIZE, SIZE))
    assert len(polls) == 3


def test_images_are_resized_as_the_card_says(folder: Path) -> None:
    judge = judge_of(folder, card_of({"kind": "digits"}, "single", pixels=128 * 128))
    with torch.no_grad():
        small, large = judge.encode_images(random_images((64, 64), (512, 512)))
    assert (small.rows, small.cols) == (large.rows, large.cols) == (4, 4)


def test_a_head_that_no_card_reads_is_refused(headed: Path) -> None:
    config = JudgeConfig(folder=str(headed))
    for card in ("", "onereward"):
        with pytest.raises(JudgeError, match=r"rm_heads.*a head that this judge"):
            local_judge(replace(config, card=card), CPU)


@pytest.mark.parametrize(
    ("question", "reading", "message"),
    [
        ({"head": "score"}, {}, r"has no weights score\.\*"),
        (
            {"head": HEADS[0]},
            {"outputs": 1},
            r"head_0\.5\.weight of shape \[2, 16\], but \[1, 16\]",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused_at_load(
    headed: Path, question: dict[str, Any], reading: dict[str, Any], message: str
) -> None:
    # The second head is read by another question, so that only the first one is at fault.
    questions = {"default": {"text": "?"} | question, "structure": {"text": "?", "head": HEADS[1]}}
    card = JudgeCard.from_values(
        {
            **{"name": "test", "evidence": "", "images": "single", "questions": questions},
            "reading": {"kind": "head", "outputs": 2} | reading,
        }
    )
    if question["head"] == "score":
        card = replace(
            card,
            questions={
                **card.questions,
                "consistency": replace(card.questions["structure"], head=HEADS[0]),
            },
        )
    with pytest.raises(JudgeError, match=message) as caught:
        judge_of(headed, card)
    assert len(str(caught.value)) <= 300


def test_a_head_for_another_width_is_refused_at_load(headed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(headed, tmp_path / "EditReward-Qwen2.5-VL-7B")
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{HEADS[0]}.0.weight"] = torch.zeros(32, 48)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JudgeError, match=r"of shape \[32, 48\], but \[32, 64\] is expected"):
        local_judge(JudgeConfig(folder=str(folder)), CPU)


def test_a_reward_token_without_an_embedding_is_refused_at_load(
    headed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(headed, tmp_path / "EditReward")
    with pytest.raises(JudgeError, match=r"no embedding for <\|Reward\|>"):
        local_judge(JudgeConfig(folder=str(folder)), CPU)


def test_words_that_are_no_single_tokens_are_refused_at_load(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(card_of({"first": ["perfectly fine"]}, "pair").to_json())
    with pytest.raises(JudgeError, match="no single token"):
        local_judge(JudgeConfig(folder=str(folder), card=str(path)), CPU)


def test_a_question_about_the_source_needs_it(folder: Path) -> None:
    judge = judge_of(folder, card_of({"kind": "digits"}, "source_single"))
    with torch.no_grad():
        a, b = judge.encode_images(random_images(SIZE, SIZE))
        with pytest.raises(ValueError, match="needs the image before the edit"):
            judge.probabilities([PairQuestion(a, b, QUERY)])


def test_the_built_in_card_gives_the_built_in_judge(folder: Path, tmp_path: Path) -> None:
    config = JudgeConfig(folder=str(folder), precision="fp32")
    built_in = local_judge(config, CPU)
    assert type(built_in) is QwenJudge
    # The same question, asked and read through the card's own way.
    card = card_of({"whole_vocabulary": True}, "pair", "{question}")
    images = random_images(SIZE, SIZE)
    with torch.no_grad():
        a, b = built_in.encode_images(images)
        expected = built_in.probabilities([PairQuestion(a, b, QUERY)])
        actual = judge_of(folder, card).probabilities([PairQuestion(a, b, QUERY)])
    assert actual.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert json.loads(card.to_json())["questions"]["default"]["text"] == "{question}"


def test_more_memory_is_asked_for_than_by_the_built_in_question(folder: Path) -> None:
    config = JudgeConfig(folder=str(folder), precision="fp32")
    built_in, judge = (
        QwenJudge(config, CPU),
        judge_of(folder, card_of({"kind": "digits"}, "single")),
    )
    for pixels in (64 * 64, 512 * 512, 4096 * 4096):
        # Two rows per pair, and a text of some 1500 tokens more, which counts for small images.
        factor = judge.working_bytes(pixels) / built_in.working_bytes(pixels)
        assert 2 <= factor <= 10
    assert factor <= 4


def test_identity_changes_with_the_card_and_digest_does_not(folder: Path) -> None:
    first = judge_of(folder, card_of({"kind": "digits"}, "single"))
    second = judge_of(folder, card_of({"kind": "digits"}, "single", "{prompt} ?"))
    assert first.identity != second.identity
    assert first.digest == second.digest
