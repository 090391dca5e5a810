"""The judge against transformers' own processor and forward pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.lab.judge.build import JudgeShape
from onereward.reward.judge import JudgeConfig, JudgeError, PairQuestion
from onereward.reward.query import Query, queries_for
from onereward.reward.score import judge_pair
from onereward.reward.vlm.chat import about_pair
from onereward.reward.vlm.preprocess import judged_size, read_patch_config, to_patches
from onereward.reward.vlm.qwen_vl import QwenJudge
from support.judges import (
    BUNDLED_LIKE,
    REAL_LIKE,
    as_uint8,
    lay_out_as_published,
    make_judge,
    make_qwen2_vl,
    random_images,
)

QUERIES = queries_for(Task.FILL, "a red circle")
# The processor rounds to 8 bits after each of its two passes: two steps at most, half one on
# average, divided by the smallest deviation.
STEP = 1 / 255 / 0.26130258


@pytest.fixture(scope="module", params=[BUNDLED_LIKE, REAL_LIKE], ids=["patch-8", "patch-14"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape: JudgeShape = request.param
    return make_judge(tmp_path_factory.mktemp("judge"), shape)


@pytest.fixture(scope="module")
def judge(folder: Path) -> QwenJudge:
    return QwenJudge(JudgeConfig(folder=str(folder)), torch.device("cpu"))


def _processor(folder: Path) -> Any:
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    "size",
    [(64, 64), (40, 200), (333, 257), (20, 20), (1500, 1200)],
    ids=lambda s: f"{s[0]}x{s[1]}",
)
def test_patches_equal_the_processors(folder: Path, size: tuple[int, int]) -> None:
    (image,) = random_images(size)
    config = read_patch_config(json.loads((folder / "preprocessor_config.json").read_text()))
    patches, (rows, cols) = to_patches(image, config)
    expected = _processor(folder)(images=[as_uint8(image)], return_tensors="pt")
    assert expected["image_grid_thw"].tolist() == [[1, rows, cols]]
    difference = (patches - expected["pixel_values"]).abs()
    assert difference.max() < 2 * STEP
    assert difference.mean() < 0.5 * STEP


def test_judged_size_refuses_strips(folder: Path) -> None:
    config = read_patch_config(json.loads((folder / "preprocessor_config.json").read_text()))
    with pytest.raises(ValueError, match="aspect below 200:1"):
        judged_size(10, 3000, config)


@pytest.mark.parametrize("sizes", [((64, 64), (64, 64)), ((112, 56), (140, 224))])
def test_probability_equals_the_models_own_forward(
    judge: QwenJudge, folder: Path, sizes: tuple[tuple[int, int], ...]
) -> None:
    """Processor, chat template, position ids and the full logits, all by transformers."""
    first, second = random_images(*sizes)
    with torch.no_grad():
        answers = judge.ask(judge.encode(first), judge.encode(second), QUERIES)
        expected = [_by_transformers(judge, folder, (first, second), q) for q in QUERIES]
    assert torch.allclose(answers, torch.stack(expected), atol=2e-3)


def _by_transformers(
    judge: QwenJudge, folder: Path, images: tuple[torch.Tensor, ...], query: Query
) -> torch.Tensor:
    inputs = _processor(folder)(images=[as_uint8(i) for i in images], return_tensors="pt")
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": query.question()}]
    text = judge.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    for _, rows, cols in inputs["image_grid_thw"].tolist():
        text = text.replace("<|image_pad|>", "<placeholder>" * (rows * cols // 4), 1)
    text = text.replace("<placeholder>", "<|image_pad|>")
    ids = judge.tokenizer(text, return_tensors="pt").input_ids
    model: Any = judge.component.module
    is_image = (ids == model.config.image_token_id).int()
    logits = model(
        input_ids=ids,
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=is_image,
    ).logits
    yes = judge.tokenizer.convert_tokens_to_ids("Yes")
    return logits[0, -1].float().softmax(-1)[yes]


def test_all_queries_at_once_equal_one_by_one(judge: QwenJudge) -> None:
    first, second = (judge.encode(i) for i in random_images((64, 64), (64, 64)))
    with torch.no_grad():
        together = judge.ask(first, second, QUERIES)
        alone = torch.cat([judge.ask(first, second, [q]) for q in QUERIES])
    assert len(together) == 4
    assert torch.allclose(together, alone, atol=1e-6)


def test_mixed_sizes_in_one_pass_equal_one_by_one(judge: QwenJudge) -> None:
    images = random_images((64, 64), (112, 56), (140, 224))
    with torch.no_grad():
        a, b, c = judge.encode_images(images)
        triples = [(a, b, QUERIES[0]), (c, a, QUERIES[1]), (b, c, QUERIES[0])]
        questions = [PairQuestion(*question) for question in triples]
        together = judge.answer(questions)
        apart = [judge.encode(image) for image in images]
        alone = [(apart[0], apart[1]), (apart[2], apart[0]), (apart[1], apart[2])]
        expected = torch.cat(
            [
                judge.answer([PairQuestion(first, second, question.query)])
                for (first, second), question in zip(alone, questions, strict=True)
            ]
        )
    assert torch.allclose(together, expected, atol=1e-4)


def test_gradient_reaches_the_pixels_and_ascent_raises_the_answer(judge: QwenJudge) -> None:
    image, other_image = random_images((64, 64), (64, 64))
    second = judge.encode(other_image)
    before = None
    x = image.clone()
    for _ in range(4):
        x = x.detach().requires_grad_(True)
        p = judge.ask(judge.encode(x), second, QUERIES[:1])
        before = p.item() if before is None else before
        (gradient,) = torch.autograd.grad(p.log().sum(), x)
        assert (gradient.abs().amax(dim=0) > 0).float().mean() > 0.99, "every pixel counts"
        x = (x + 0.02 * gradient.sign()).clamp(0, 1)
    with torch.no_grad():
        after = judge.ask(judge.encode(x), second, QUERIES[:1]).item()
    assert before is not None
    assert after > before


def test_gradient_equals_finite_differences(folder: Path) -> None:
    judge = QwenJudge(JudgeConfig(folder=str(folder), precision="fp32"), torch.device("cpu"))
    judge.component.module.double()
    judge.component.dtype = torch.float64
    image, other_image = (i.double() for i in random_images((64, 64), (64, 64)))
    second = judge.encode(other_image)

    def value(x: torch.Tensor) -> torch.Tensor:
        return judge.answer_logits([PairQuestion(judge.encode(x), second, QUERIES[0])]).double()[
            0, 3
        ]

    x = image.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x), x)
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-3
    with torch.no_grad():
        rise = (value(image + step * direction) - value(image - step * direction)) / (2 * step)
    # answer_logits end in float32, which limits the difference quotient.
    assert abs(rise - (gradient * direction).sum()) < 2e-2 * abs(rise) + 1e-4


def test_identical_images_score_one_half(judge: QwenJudge) -> None:
    (image,) = random_images((64, 64))
    encoded = judge.encode(image)
    judgement = judge_pair(judge, encoded, encoded, QUERIES)
    assert all(abs(p - 0.5) < 1e-6 for p in judgement.probabilities.values())


def test_swapped_scores_add_to_one(judge: QwenJudge) -> None:
    first, second = (judge.encode(i) for i in random_images((64, 64), (64, 64)))
    forth = judge_pair(judge, first, second, QUERIES).probabilities
    back = judge_pair(judge, second, first, QUERIES).probabilities
    assert all(abs(forth[d] + back[d] - 1) < 1e-5 for d in forth)


def test_large_images_are_shrunk_to_the_cap(folder: Path) -> None:
    judge = QwenJudge(JudgeConfig(folder=str(folder), max_pixels=112 * 112), torch.device("cpu"))
    (image,) = random_images((600, 400))
    encoded = judge.encode(image)
    assert encoded.rows * encoded.cols * judge.patches.factor**2 <= 112 * 112


def test_a_folder_that_is_no_judge_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "judge"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(JudgeError, match="is a 'llama' model"):
        QwenJudge(JudgeConfig(folder=str(broken)), torch.device("cpu"))
    (broken / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        QwenJudge(JudgeConfig(folder=str(broken)), torch.device("cpu"))


def test_a_tokenizer_without_yes_and_no_is_refused(judge: QwenJudge, folder: Path) -> None:
    plain = QwenJudge(JudgeConfig(folder=str(folder)), torch.device("cpu"))

    class Splits:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [ord(c) for c in text]

    plain.chat.__dict__["tokenizer"] = Splits()
    with pytest.raises(JudgeError, match="no single tokens"):
        _ = plain.answer_ids
    assert len(set(judge.answer_ids)) == 2


def test_the_published_folders_template_is_found_where_they_have_it(
    judge: QwenJudge, folder: Path, tmp_path: Path
) -> None:
    """Their tokenizer has a template too, for text alone."""
    published = Path(shutil.copytree(folder, tmp_path / "judge"))
    lay_out_as_published(published)
    other_judge = QwenJudge(JudgeConfig(folder=str(published)), torch.device("cpu"))
    images = random_images((64, 64), (64, 64))
    with torch.no_grad():
        answers = [
            j.ask(j.encode(images[0]), j.encode(images[1]), QUERIES) for j in (judge, other_judge)
        ]
    assert torch.equal(*answers)
    (published / "chat_template.json").unlink()
    alone = QwenJudge(JudgeConfig(folder=str(published)), torch.device("cpu"))
    with pytest.raises(JudgeError, match=r"has no place for two images; download chat_template"):
        _ = alone.answer_ids


def test_words_of_a_prompt_are_no_control_tokens(judge: QwenJudge) -> None:
    plain = judge.chat.ids(about_pair("a circle"))
    for word in ("<|image_pad|>", "<|im_end|>", "<|im_start|>"):
        control = judge.tokenizer.convert_tokens_to_ids(word)
        assert judge.chat.ids(about_pair(f"a {word} circle")).count(control) == plain.count(control)


def test_the_older_family_is_asked_as_by_transformers(tmp_path: Path) -> None:
    older = make_qwen2_vl(tmp_path / "judge")
    judge = QwenJudge(JudgeConfig(folder=str(older)), torch.device("cpu"))
    images = random_images((64, 64), (96, 64))
    with torch.no_grad():
        first, second = judge.encode_images(images)
        answers = judge.ask(first, second, QUERIES)
        expected = [_by_transformers(judge, older, tuple(images), q) for q in QUERIES]
        swapped = judge.ask(second, first, QUERIES)
    difference = (answers / torch.stack(expected)).log().abs().max()
    assert difference < 0.2 * (answers / swapped).log().abs().max(), "else it could be any answer"


def test_queries_follow_table_1() -> None:
    assert {q.dimension for q in queries_for(Task.REMOVE, "")} == {Dimension.REMOVAL_QUALITY}
    assert Dimension.TEXT_ALIGNMENT not in {q.dimension for q in queries_for(Task.EXTEND, "")}
    with_prompt = Query(Task.FILL, Dimension.TEXT_ALIGNMENT, "a red circle").question()
    assert "a red circle" in with_prompt
    assert "a red circle" not in Query(Task.FILL, Dimension.STRUCTURE, "a red circle").question()
    with pytest.raises(ValueError, match="not judged on"):
        Query(Task.REMOVE, Dimension.STRUCTURE)
    with pytest.raises(ValueError, match="needs the prompt"):
        Query(Task.FILL, Dimension.TEXT_ALIGNMENT)
